"""From the specification of a data set to its images; only the cache folder is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np
import torch

from fairweather.data.cache import (
    CachedImages,
    CacheEntry,
    content_digests,
    read_or_decode,
    unreadable_error,
)
from fairweather.data.corrupted import list_cifar10_c, list_imagenet_c
from fairweather.data.groups import (
    TextArray,
    describe_shared_clusters,
    read_groups,
    read_own_groups,
)
from fairweather.data.image_folders import list_csv, list_folder, list_images
from fairweather.data.named_sets import (
    describe_verification,
    list_cifar10,
    list_fashion_mnist,
    list_mnist5k,
    list_oxford_pets,
)
from fairweather.data.npz import MEDMNIST, REFUSED_SETS, list_npz
from fairweather.data.parquet import has_parquet_files, list_parquet
from fairweather.data.pixel_scans import Copies, channel_statistics, digest, find_copies, image_name
from fairweather.data.pixels import Scale, Square
from fairweather.data.sources import (
    UNSPLIT,
    ImageSource,
    Listing,
    SourceRequest,
    check_no_empty_class,
    explain_read_errors,
)
from fairweather.data.splits import (
    Subset,
    add_label_noise,
    check_has_test,
    choose_imbalanced,
    fewer_labels,
    limit_subset,
    split_source,
    with_wrong_labels,
)
from fairweather.errors import (
    InputError,
    check_file_names,
    check_name,
    check_text,
    join_names,
    unknown_name,
)
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.types.measurement import MAX_SIDE, MIN_SIDE, Dataset, Groups, Images
from fairweather.types.options import (
    SPLITS,
    DataOptions,
    GroupColumns,
    LoadOptions,
    Preparation,
    check_limits,
    takes,
)

__all__ = [
    "SOURCES",
    "check_no_copies",
    "digest",
    "fewer_labels",
    "list_source",
    "load_data",
    "share_tested",
    "with_wrong_labels",
]

SOURCES: dict[str, Callable[[SourceRequest], ImageSource]] = {
    "cifar-10-c:PATH": list_cifar10_c,
    "cifar10": list_cifar10,
    "csv:PATH": list_csv,
    "fashion-mnist": list_fashion_mnist,
    "folder:PATH": list_folder,
    "imagenet-c:PATH": list_imagenet_c,
    "images:PATH": list_images,
    "mnist5k": list_mnist5k,
    "npz:PATH": list_npz,
    "oxford-iiit-pet": list_oxford_pets,
    "parquet:PATH": list_parquet,
    **MEDMNIST,
}
SKIPPED_NAMES_SHOWN = 20
TEST_FRACTION = DataOptions.test_fraction
_HINTS = get_type_hints(Preparation)


@shows_progress
@takes(LoadOptions)
def load_data(
    source: str,
    *,
    offline: bool = False,
    progress: Notify | bool | None = True,
    **options: Any,  # noqa: ANN401 - those of `LoadOptions`
) -> Dataset:
    """Load a data set: decode each image once, split a set without splits, measure mean and std.

    Images are uint8 `[N, 3, H, W]`, stored in the cache folder and memory-mapped. A second run
    decodes nothing, images may be larger than memory, and writing to them does not change the
    cache.

    If a source has train, val and test, they are used as they are. If it is one set,
    `test_fraction` of its images become test. If it has no val, `validation_fraction` of the
    training images become val. If it has only test images, there is neither train nor val. Both
    choices are random and stratified; they depend only on the labels, the fraction and the seed.
    Every split must have an image of every class. A fraction of 1 leaves no train: use it to
    evaluate a model on all images of a set.

    Args:
        source: an entry of `SOURCES`, such as `mnist5k`, `folder:PATH` or `pathmnist@64`.
        size: resize the shorter side to this and crop the center, in pixels; at least 8. By default
            images stay as they are and must all have the same height and width. Images of a
            published corrupted set always stay as they are.
        preparation: how images become squares, instead of `size`, which is `Preparation(size)`;
            a published corrupted set ignores it.
        limit: at most this many test images, each class in proportion and with at least one image.
            The images of a smaller limit are among those of a larger one. If the source has one
            file per image, only their files are read.
        parts: the splits to load: test, and perhaps train and val. The others are None, and their
            files are not decoded.
        root: the folder that a relative PATH starts from; for a named set, the folder with its
            files.
        seed: random seed of the splits, the limit, the label noise and the imbalance.
        validation_fraction: share of the images that are not test images; 0 for no val, 1 for no
            train.
        test_fraction: share of the images of a set without splits; 1 for neither train nor val.
        skip_unreadable: leave damaged files out, tell `progress` which, and count them in `notes`.
            No other image changes its key or its split.
        label_noise: probability that a training image gets a random label, uniform over all
            classes. Validation and test labels stay right.
        imbalance: share of its training images that the last class keeps. The classes before it
            keep exponentially more, the first class keeps all. Validation and test keep all images.
        verify: the files of a named set must have the published checksums; if false, their own
            checksums are recorded.
        groups: a table that says of each image which patient it shows, or to which subgroups it
            belongs. Images of one cluster then stay in one split: a set without splits is split by
            clusters, and one whose splits share clusters is refused unless `groups.allow_shared`.
        allow_duplicates: images with the same pixels in two splits are an error that names them,
            unless this is true or the set is a published one, named in `SOURCES`; then a line says
            so. A line also warns of images in two splits that look the same, and of equal images
            with different labels.
        scale: which gray values become black and white, of images with one channel: `LOW..HIGH`,
            or `percentile:LOW..HIGH` of each image. Colour images are an error then. By default,
            16-bit images are scaled over all 16 bits, and DICOM files by their window.
        offline: do not download missing files.
        progress: show how far it is, and lines for a person to read, such as whether the files of
            a named set were verified (`Event` says how).

    Raises:
        InputError: an option, a name, a file or a label is wrong; the message is one sentence.

    >>> dataset = load_data("mnist5k", size=8)
    >>> len(dataset.train), len(dataset.val), len(dataset.test), dataset.classes[:3]
    (3600, 400, 1000, ('0', '1', '2'))
    >>> dataset.test.images.shape, dataset.test.images.dtype
    (torch.Size([1000, 3, 8, 8]), torch.uint8)
    """
    try:
        asked = LoadOptions(**options)
    except TypeError as error:  # which names the class of the options
        raise TypeError(str(error).replace("LoadOptions.__init__", "load_data")) from None
    return load_with_options(source, asked, offline=offline, progress=to_notify(progress))


def load_with_options(
    source: str, asked: LoadOptions, *, offline: bool = False, progress: Notify | None = None
) -> Dataset:
    """Load a data set as `load_data` does."""
    tell = to_notify(progress)
    listed, square, divided, whole_test, shared, values = _plan_loading(
        source, asked, offline, tell
    )
    splits: dict[str, Images] = {}
    skipped: list[str] = []
    with explain_read_errors():
        contents = content_digests(divided)
    for name, part in divided.items():
        entry = CacheEntry(part, name, contents[name], square, values)
        cached = read_or_decode(entry, skip_unreadable=asked.skip_unreadable, progress=tell)
        if cached.skipped and not cached.readable.any():
            raise unreadable_error(cached.skipped[0], cached.reason)
        splits[name] = _make_images(cached, part, listed, name)
        skipped += cached.skipped
        if cached.skipped:
            tell(Event(f"decode {name}", 0, None, line=_describe_skipped(cached, part, name)))
    height, width = _common_size(splits)
    if listed.side is not None and (height, width) != (listed.side, listed.side):
        raise InputError(
            f"the images of {source} must be {listed.side} x {listed.side}, as published; found "
            f"{height} x {width}"
        )
    copies = find_copies(splits)
    allowed = asked.allow_duplicates or listed.name is not None
    _check_copies(
        copies, splits, allowed=allowed, wrong_labels=asked.label_noise > 0, progress=tell
    )
    test = splits["test"]
    mean, std = channel_statistics(splits.get("train", test))
    notes = {
        "source": source,
        "size": [height, width],
        "images": {name: len(images) for name, images in splits.items()},
        "skipped_files": len(skipped),
        "skipped_names": skipped[:SKIPPED_NAMES_SHOWN],
        "label_noise": asked.label_noise,
        "imbalance": asked.imbalance,
        **listed.notes,
    }
    if shared:
        notes["shared_clusters"] = shared
    if asked.scale is not None:
        notes["scale"] = asked.scale
    if asked.allow_duplicates and copies.same:
        notes["same_images"] = {f"{a} and {b}": len(places) for a, b, places in copies.same}
    if asked.preparation is not None and square is not None:
        notes["preparation"] = square._asdict()
    if len(divided["test"].keys) < len(whole_test.keys):
        notes |= {"limit": asked.limit, "limit_of": len(whole_test.keys)}
    name = _name_prepared(listed, source, square)
    return Dataset(
        name, splits.get("train"), splits.get("val"), test, mean, std, notes, listed.task
    )


def check_no_copies(
    own: Mapping[str, Images],
    others: Mapping[str, Images],
    *,
    allowed: bool,
    progress: Notify | None = None,
) -> None:
    """Refuse images of other sets that have the same pixels as one of a data set's own.

    Args:
        own: the splits of the data set, those that are trained on first.
        others: images of the same size from elsewhere, by name; not compared with each other.
        allowed: they are only told to `progress`, in a line.

    Raises:
        InputError: there are such images; the message counts and names them.
    """
    if not others:
        return
    splits = {**own, **others}
    between = [pairs for pairs in find_copies(splits).same if pairs.first in own]
    copies = Copies([pairs for pairs in between if pairs.second in others], [], {})
    _check_copies(copies, splits, allowed=allowed, wrong_labels=False, progress=progress)


class Survey(NamedTuple):
    """The facts of a data set before its images are decoded.

    Attributes:
        name: its specification, and its size if images are resized.
        classes: names in label order.
        images: how many each split has, unreadable files included.
        notes: the facts that the source gives for the provenance.
        decoded: whether all of these images are decoded in the cache, so that loading is quick.
    """

    name: str
    classes: tuple[str, ...]
    images: Mapping[str, int]
    notes: Mapping[str, object]
    decoded: bool


def survey_data(
    source: str, asked: LoadOptions, *, offline: bool = False, progress: Notify | None = None
) -> Survey:
    """Describe what `load` would load with the same arguments, without decoding.

    >>> survey_data("mnist5k", LoadOptions(size=8)).images
    {'train': 3600, 'val': 400, 'test': 1000}
    """
    listed, square, divided, *_, values = _plan_loading(source, asked, offline, progress)
    with explain_read_errors():
        contents = content_digests(divided)
    return Survey(
        _name_prepared(listed, source, square),
        listed.classes,
        {name: len(part.keys) for name, part in divided.items()},
        listed.notes,
        all(
            CacheEntry(part, name, contents[name], square, values).is_decoded
            for name, part in divided.items()
        ),
    )


class _LoadPlan(NamedTuple):
    """The images of a source in their splits, and how they become squares."""

    listed: ImageSource
    square: Square | None
    parts: dict[str, Subset]
    whole_test: Subset
    shared: list[str]
    scale: Scale | None


def _plan_loading(
    source: str, asked: LoadOptions, offline: bool, progress: Notify | None
) -> _LoadPlan:
    """List the images of a source and assign them to splits, without decoding."""
    square = _make_square(asked.size, asked.preparation)
    _check_options(asked)
    values = None if asked.scale is None else Scale.parse(asked.scale)
    listed = list_source(
        source, asked.root, offline=offline, verify=asked.verify, progress=progress
    )
    square = _choose_square(listed, source, asked.size, square)
    check_has_test(listed, source)
    if asked.groups is not None:
        listed, others, unknown = _read_source_groups(listed, asked.groups, asked.parts, source)
    every = split_source(listed, asked.seed, asked.validation_fraction, asked.test_fraction)
    parts = {name: part for name, part in every.items() if name in asked.parts}
    shared, why = [], ""
    if asked.groups is not None:
        # A part that is not asked for may have been read all the same: others are split off it.
        unasked = [name for name in every if name not in parts]
        others = {**others, **_clusters_by_part(every, unasked)}
        shared = _check_shared_clusters(parts, asked.groups, others)
        why = _why_not_compared(asked.groups, every, unknown)
    if progress is not None:
        lines = [f"warning        {line}" for line in shared]
        if why:
            lines.append(
                f"note           {why}; so nothing says whether a model was trained on images of "
                "the same clusters"
            )
        for line in lines:
            progress(Event("compare groups", 0, None, line=line))
    whole_test = parts["test"]
    if asked.limit is not None:
        parts["test"] = limit_subset(whole_test, listed, asked.limit, asked.seed)
    if "train" in parts:
        parts["train"] = _degrade_labels(
            parts["train"], len(listed.classes), asked.label_noise, asked.imbalance, asked.seed
        )
    return _LoadPlan(listed, square, parts, whole_test, shared, values)


def list_source(
    source: str,
    root: str | Path | None = None,
    *,
    offline: bool = False,
    verify: bool = True,
    progress: Notify | None = None,
) -> ImageSource:
    """List the images of a source, without decoding.

    Args:
        source: an entry of `SOURCES`: a name, a MedMNIST name with its resolution after an `@`, or
            a kind with a colon and a path, such as `folder:PATH`.
        root: the folder that a relative path starts from; for a named set, the folder with its
            files.
        offline, verify: see `Request`.
        progress: called during a download, and with a line that says whether the files of a named
            set were verified.

    Raises:
        InputError: there is no such source, or its files are missing or wrong.
    """
    name, colon, path = check_text(source, "the data source").partition(":")
    entry, at, resolution = (f"{name}:PATH", "", "") if colon else name.partition("@")
    if entry in REFUSED_SETS:
        raise InputError(f"{entry} cannot be used: {REFUSED_SETS[entry]}")
    if entry not in SOURCES:
        raise _unknown_source(source, entry, root)
    if colon and not path:
        raise InputError(f"the data source {source!r} needs a path: {entry}")
    if at and (entry not in MEDMNIST or not resolution.isdecimal()):
        raise InputError(
            f"only MedMNIST sets have a resolution (a number) after @: found {source!r}"
        )
    place = _resolve_path(root, path, source) if colon or root is not None else None
    if root and Path(path).expanduser().is_absolute():
        raise InputError(
            f"a root is where a relative path starts, and {source} has an absolute one: leave out "
            f"the root {str(root)!r}"
        )
    asked = int(resolution) if at else None
    with explain_read_errors():
        listed = SOURCES[entry](SourceRequest(place, asked, offline, verify, progress))
    for each in listed.classes:
        check_name(each, f"{source} has a class with a name that cannot be used:")
    for listing in listed.splits.values():
        check_file_names(listing.names or (), source)
    if twice := [name for name, count in Counter(listed.classes).items() if count > 1]:
        raise InputError(f"{source} has two classes with the name {twice[0]!r}: rename one of them")
    if progress is not None and (
        line := describe_verification(listed.name or source, listed.notes)
    ):
        progress(Event("verify", 1, 1, line=line))
    return listed


def share_tested(source: str) -> float:
    """The share of a set without splits that is tested: all of a PATH that somebody gives.

    A set by its name is divided as by `load_data`, so that it means the same images everywhere.

    >>> share_tested("folder:photos"), share_tested("mnist5k")
    (1.0, 0.2)
    """
    return 1.0 if ":" in source else TEST_FRACTION


def _resolve_path(root: str | Path | None, path: str, source: str) -> Path:
    try:
        return Path(root or "").expanduser() / Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"the data source {source!r} names a user without a home folder") from None


def _unknown_source(source: str, entry: str, root: str | Path | None) -> InputError:
    """Build the error for a source that is not in the table; it may be a path without its kind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(_unknown_source(folder, folder, None))
    unknown data source '...': it is a path; did you mean 'folder:...'?
    """
    place = _resolve_path(root, source, source)
    if place.is_dir():
        kind = "parquet" if has_parquet_files(place) else "folder"
    elif place.is_file():
        kind = place.suffix.lower().removeprefix(".")
    elif f"{source}:PATH" in SOURCES:
        return InputError(f"the data source {source!r} needs a path: {source}:PATH")
    else:
        return unknown_name("data source", entry, SOURCES)
    if f"{kind}:PATH" in SOURCES:
        return InputError(
            f"unknown data source {source!r}: it is a path; did you mean {f'{kind}:{source}'!r}?"
        )
    return InputError(
        f"unknown data source {source!r}: it is a file, but images are read from folder:PATH, "
        "csv:PATH, npz:PATH or parquet:PATH"
    )


def _degrade_labels(
    part: Subset, classes: int, label_noise: float, imbalance: float, seed: int
) -> Subset:
    """Make the classes imbalanced by their true labels, then make some labels wrong."""
    labels = part.listing.labels
    keys = part.keys[choose_imbalanced(labels[part.keys], classes, imbalance, seed)]
    noisy = add_label_noise(labels, classes, label_noise, seed)
    return Subset(part.listing._replace(labels=noisy), keys)


def _check_options(asked: LoadOptions) -> None:
    for part in asked.parts:
        if part not in SPLITS:
            raise unknown_name("split", part, SPLITS)
    if "test" not in asked.parts:
        raise InputError(f"parts must include test, found {', '.join(asked.parts) or 'none'}")
    if asked.seed < 0:
        raise InputError(f"seed must not be negative, found {asked.seed}")
    check_limits(asked)


def _make_images(cached: CachedImages, part: Subset, source: ImageSource, name: str) -> Images:
    keys = part.keys[cached.readable]
    labels = part.listing.labels[keys]
    check_no_empty_class(source.strata(labels), name)
    named, groups = part.listing.names, part.listing.groups
    return Images(
        cached.images,
        torch.from_numpy(labels),
        torch.from_numpy(keys),
        source.classes,
        None if named is None else np.array([named[key] for key in keys], dtype=np.object_),
        None if groups is None else groups[keys],
    )


class _GroupedSource(NamedTuple):
    """A source whose images are known to belong together.

    Attributes:
        listed: the source; the splits that are needed have their groups.
        others: the clusters of training and validation images that are not needed, by split.
        unknown: why these are not known, if they are not.
    """

    listed: ImageSource
    others: Mapping[str, TextArray]
    unknown: str


def _read_source_groups(
    listed: ImageSource, groups: GroupColumns, parts: Collection[str], source: str
) -> _GroupedSource:
    """Read what a table says of the images that are needed for some parts, and of the others.

    A model may have been trained or chosen on the others. A table need not have them.
    """
    needed = {
        UNSPLIT,
        *parts,
        *(["train"] if "val" in parts and "val" not in listed.splits else []),
    }
    splits = {name: listing for name, listing in listed.splits.items() if name in needed}
    others = {
        name: listed.splits[name]
        for name in ("train", "val")
        if groups.cluster is not None and name in listed.splits and name not in needed
        if groups.natural is None  # of other images, no model was trained on a part
    }

    def read(some: Mapping[str, Listing]) -> dict[str, Groups]:
        with explain_read_errors():
            if groups.metadata is None:
                return read_own_groups(some, groups, source)
            return read_groups(some, groups, Path(groups.metadata).expanduser())

    try:
        # Together: a row that could be about an image of either is no row of one of them.
        found, unknown = read({**splits, **others}), ""
    except InputError as error:
        if not others:
            raise
        found, unknown = read(splits), str(error)
    known = {name: listing._replace(groups=found[name]) for name, listing in splits.items()}
    clusters = {name: found[name].clusters for name in others if name in found}
    return _GroupedSource(
        listed._replace(splits={**listed.splits, **known}),
        {name: of for name, of in clusters.items() if of is not None},
        unknown,
    )


def _clusters_by_part(every: Mapping[str, Subset], names: Collection[str]) -> dict[str, TextArray]:
    """The clusters of the images of some parts, where they are known."""
    return {
        name: of[every[name].keys]
        for name in names
        if (of := every[name].listing.clusters) is not None
    }


def _check_shared_clusters(
    parts: Mapping[str, Subset], groups: GroupColumns, others: Mapping[str, TextArray]
) -> list[str]:
    """Say which splits share clusters, those that are not loaded included.

    Raises `InputError` if two that are loaded do, unless that is allowed.
    """
    if groups.cluster is None:
        return []
    clusters = _clusters_by_part(parts, parts)
    told = describe_shared_clusters(clusters, groups.cluster)
    if told and not groups.allow_shared:
        raise InputError(
            f"{'; '.join(told)}: such images do not show how a model does on new ones; to measure "
            "them nevertheless, allow it (allow_shared: true under groups: of a study, "
            "--allow-shared-clusters of other commands)"
        )
    for other, of in others.items():
        for name, ours in clusters.items():
            told += describe_shared_clusters({other: of, name: ours}, groups.cluster)
    return told


def _why_not_compared(groups: GroupColumns, every: Mapping[str, Subset], unknown: str) -> str:
    """Say why clusters were not compared with those of training images; "" if they were."""
    if groups.cluster is None or groups.natural is not None:
        return ""
    if "train" not in every:
        return "the source has no training images"
    return f"what the table says of the other splits cannot be used: {unknown}" if unknown else ""


def _describe_skipped(cached: CachedImages, part: Subset, name: str) -> str:
    """Say how many images of a split cannot be read, which are the first, and why the first."""
    count, names = len(cached.skipped), join_names(cached.skipped)
    why = f"{names} ({cached.reason})"
    return f"left out       {count} of {len(part.keys)} {name} images cannot be read: {why}"


def _check_copies(
    copies: Copies,
    splits: Mapping[str, Images],
    *,
    allowed: bool,
    wrong_labels: bool,
    progress: Notify | None,
) -> None:
    """Refuse images that stand in two splits, unless they are allowed; warn of look-alikes."""
    same = [pairs.line(splits, "have the same pixels as") for pairs in copies.same]
    if same and not allowed:
        raise InputError(
            f"{'; '.join(same)}; such images do not show how a model does on new ones: remove them "
            "from one of the two, or set allow_duplicates (--allow-duplicates)"
        )
    alike = [pairs.line(splits, "look like") for pairs in copies.alike]
    for name, places in copies.contrary.items():
        if name == "train" and wrong_labels:
            continue
        a, b = places[0].tolist()
        pair = f"{image_name(splits[name], b)} and {image_name(splits[name], a)}"
        alike.append(
            f"{len(places):,} {name} images have the same pixels as an earlier one with another "
            f"label, such as {pair}"
        )
    if progress is not None:
        for line in (*same, *alike):
            progress(Event("compare images", 0, None, line=f"warning        {line}"))


def _common_size(splits: dict[str, Images]) -> tuple[int, int]:
    sizes = {name: tuple(images.images.shape[-2:]) for name, images in splits.items()}
    height, width = sizes["test"]
    for name, (other_height, other_width) in sizes.items():
        if (other_height, other_width) != (height, width):
            raise InputError(
                f"images differ in height x width: test has {height} x {width} and {name} has "
                f"{other_height} x {other_width}; set size to resize and crop all of them"
            )
    return height, width


def _make_square(size: int | None, preparation: Preparation | None) -> Square | None:
    """Check a size or a preparation and fill in its defaults; None if images stay as they are.

    Raises:
        InputError: both are given, or a value is not allowed.

    >>> _make_square(224, None)
    Square(size=224, resize=224, interpolation='bilinear', fit='crop')
    """
    if preparation is None:
        preparation = None if size is None else Preparation(size)
    elif size is not None:
        raise InputError(
            f"size and preparation both say how large images become: give only one, found size "
            f"{size} and {preparation}"
        )
    if preparation is None:
        return None
    size, resize, interpolation, fit = preparation
    resize = size if resize is None else resize
    if size < MIN_SIDE:
        raise InputError(f"size must be at least {MIN_SIDE}, found {size}")
    if max(size, resize) > MAX_SIDE:
        raise InputError(f"size and resize must be at most {MAX_SIDE}, found {max(size, resize)}")
    if resize < size:
        raise InputError(f"resize must be at least the size of the crop, {size}, found {resize}")
    for name, value in (("interpolation", interpolation), ("fit", fit)):
        if value not in get_args(_HINTS[name]):
            raise unknown_name(name, value, get_args(_HINTS[name]))
    return Square(size, resize, interpolation, fit)


def _choose_square(
    listed: ImageSource, source: str, size: int | None, square: Square | None
) -> Square | None:
    """Leave the images of a published corrupted set as they are; refuse a `size` for them."""
    if listed.side is None:
        return square
    if size not in (None, listed.side):
        raise InputError(
            f"the images of {source} were corrupted at {listed.side} x {listed.side}, and resizing "
            f"would change the corruption: leave size out, found {size}"
        )
    return None


def _name_prepared(listed: ImageSource, source: str, square: Square | None) -> str:
    """Name a data set; images resized from another resolution get another name."""
    name = listed.name or source
    _, at, resolution = name.partition("@")
    if not listed.name or not at or square is None:
        return name
    if square.resize != square.size:
        return f"{name} resized to {square.resize} and cropped to {square.size}"
    return name if square.size == int(resolution) else f"{name} resized to {square.size}"

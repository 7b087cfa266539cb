"""From the specification of a data set to its images; only the cache folder is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from fairweather.data.corrupted import CORRUPTED_SOURCES, find_published_name
from fairweather.data.domains import list_domains
from fairweather.data.groups import read_source_groups
from fairweather.data.image_folders import list_csv, list_folder, list_images
from fairweather.data.named_sets import (
    describe_verification,
    list_cifar10,
    list_fashion_mnist,
    list_mnist5k,
    list_oxford_pets,
)
from fairweather.data.natural_sets import NATURAL_SOURCES, find_natural_set
from fairweather.data.npz import MEDMNIST, REFUSED_SETS, list_npz
from fairweather.data.parquet import has_parquet_files, list_parquet
from fairweather.data.pixel_scans import Copies, channel_statistics, find_copies, image_name
from fairweather.data.pixels import Scale, Square
from fairweather.data.sources import (
    Source,
    SourceRequest,
    check_no_empty_class,
    explain_read_errors,
)
from fairweather.data.splits import (
    Subset,
    add_label_noise,
    check_has_classes,
    check_has_test,
    choose_imbalanced,
    limit_subset,
    split_source,
)
from fairweather.errors import (
    InputError,
    check_file_names,
    check_text,
    check_type,
    join_names,
    quote_names,
    unknown_name,
)
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.tasks import find_task
from fairweather.types.measurement import (
    CLASSIFICATION,
    MAX_SIDE,
    MIN_SIDE,
    MULTILABEL,
    Choices,
    Dataset,
    Images,
    IntArray,
    TruthArray,
    check_classes,
)
from fairweather.types.options import (
    SPLITS,
    DataOptions,
    LoadOptions,
    Preparation,
    check_limits,
    read_options,
    takes,
)
from fairweather.types.positive import NOTE, PositiveClasses, parse_positive
from fairweather.types.record import ORDERED_CLASSES

DATA_SOURCES: dict[str, Callable[[SourceRequest], Source]] = {
    "cifar10": list_cifar10,
    "csv:PATH": list_csv,
    "domains:PATH": list_domains,
    "fashion-mnist": list_fashion_mnist,
    "folder:PATH": list_folder,
    "images:PATH": list_images,
    "mnist5k": list_mnist5k,
    "npz:PATH": list_npz,
    "oxford-iiit-pet": list_oxford_pets,
    "parquet:PATH": list_parquet,
    **CORRUPTED_SOURCES,
    **MEDMNIST,
    **NATURAL_SOURCES,
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
        source: an entry of `DATA_SOURCES`, such as `mnist5k`, `folder:PATH` or `pathmnist@64`.
        size: resize the shorter side to this and crop the center, in pixels; at least 8. By default
            images stay as they are and must all have the same height and width. Images of a
            published corrupted set always stay as they are.
        preparation: how images become squares, instead of `size`, which is `Preparation(size)`;
            a published corrupted set ignores it.
        limit: at most this many test images, each class in proportion and with at least one image.
            The images of a smaller limit are among those of a larger one. If the source has one
            file per image, only their files are read.
        parts: the splits to load: test, and perhaps train and val. Other splits stay None, and
            their files are not decoded.
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
            belongs. Images of one group then stay in one split. A set without splits is split by
            groups. One whose splits share groups is refused unless `groups.allow_shared`.
        allow_duplicates: images with the same pixels in two splits are an error that names them. If
            this is true, or the set is a published one named in `DATA_SOURCES`, a line says so
            instead. A line also warns of images in two splits that look the same, and of equal
            images with different labels.
        scale: which gray values become black and white, of images with one channel: `LOW..HIGH`,
            or `percentile:LOW..HIGH` of each image. Colour images are an error then. By default,
            16-bit images are scaled over all 16 bits, and DICOM files by their window.
        positive: makes findings of classes, as `parse_positive` reads it: labels become `[N, L]`
            of 0 and 1, and the classes the names of the findings. Splits stay those of the classes.
        offline: do not download missing files.
        progress: show how far it is, and lines for a person to read (`Event` says how). A line says
            whether the files of a named set were verified.

    Raises:
        InputError: an option, a name, a file or a label is wrong; the message is one sentence.

    >>> dataset = load_data("mnist5k", size=8)
    >>> len(dataset.train), len(dataset.val), len(dataset.test), dataset.classes[:3]
    (3600, 400, 1000, ('0', '1', '2'))
    >>> dataset.test.images.shape, dataset.test.images.dtype
    (torch.Size([1000, 3, 8, 8]), torch.uint8)
    """
    preparation = options.pop("preparation", None)  # its names are checked where it is used
    check_type(preparation, Preparation | None, "preparation must be a Preparation")
    asked = replace(read_options(LoadOptions, options), preparation=preparation)
    return load(source, asked, offline=offline, progress=to_notify(progress))


def load(
    source: str, options: LoadOptions, *, offline: bool = False, progress: Notify | None = None
) -> Dataset:
    """Load a data set as `load_data` does."""
    tell = to_notify(progress)
    plan = plan_loading(source, options, offline=offline, progress=tell)
    splits: dict[str, Images] = {}
    skipped: list[str] = []
    for name, entry in plan.entries.items():
        cached = read_or_decode(entry, skip_unreadable=options.skip_unreadable, progress=tell)
        if cached.skipped and not cached.readable.any():
            raise unreadable_error(cached.skipped[0], cached.reason)
        splits[name] = _make_images(cached, entry, plan.source)
        skipped += cached.skipped
        if cached.skipped:
            count = f"{len(cached.skipped)} of {len(entry.part.keys)} {name} images"
            names = f"{join_names(cached.skipped)} ({cached.reason})"
            line = f"left out       {count} cannot be read: {names}"
            tell(Event(f"decode {name}", 0, None, line=line))
    task = find_task(plan.source.task)
    for name, images in splits.items():
        for remark in task.remarks(images.labels.numpy(), images.classes):
            tell(Event(f"decode {name}", 0, None, line=f"note           {name}: {remark}"))
    height, width = _common_size(splits)
    side = plan.source.side
    if side is not None and (height, width) != (side, side):
        raise InputError(
            f"the images of {source} must be {side} x {side}, as published; found "
            f"{height} x {width}"
        )
    copies = find_copies(splits)
    allowed = options.allow_duplicates or plan.source.name is not None
    _check_copies(copies, splits, allowed, tell, wrong_labels=options.label_noise > 0)
    test = splits["test"]
    mean, std = channel_statistics(splits.get("train", test))
    notes = {
        "source": source,
        "size": [height, width],
        "images": {name: len(images) for name, images in splits.items()},
        "skipped_files": len(skipped),
        "skipped_names": skipped[:SKIPPED_NAMES_SHOWN],
        "label_noise": options.label_noise,
        "imbalance": options.imbalance,
        **plan.source.notes,
    }
    if plan.shared_groups:
        notes["shared_groups"] = plan.shared_groups
    if options.scale is not None:
        notes["scale"] = options.scale
    if options.allow_duplicates and copies.same:
        notes["same_images"] = {f"{a} and {b}": len(places) for a, b, places in copies.same}
    if options.preparation is not None and plan.square is not None:
        notes["preparation"] = plan.square._asdict()
    if len(plan.entries["test"].part.keys) < plan.test_images:
        notes |= {"limit": options.limit, "limit_of": plan.test_images}
    dataset = Dataset(
        plan.name, splits.get("train"), splits.get("val"), test, mean, std, notes, plan.source.task
    )
    return dataset if plan.positive is None else _mark_findings(dataset, plan.positive)


def mark_positive(dataset: Dataset, asked: str | Sequence[str]) -> Dataset:
    """Make findings of the classes of a data set that is loaded already.

    Args:
        dataset: images with one class each.
        asked: which classes are positive, as for `load_data`.

    Raises:
        InputError: the images have findings already, or a class is unknown.

    >>> digits = mark_positive(load_data("mnist5k", size=8), ">=8")
    >>> digits.classes, digits.test.labels.shape, int(digits.test.labels.sum())
    (('>=8',), torch.Size([1000, 1]), 200)
    """
    return _mark_findings(
        dataset, find_positive(asked, dataset.name, dataset.classes, dataset.task)
    )


def find_positive(
    asked: str | Sequence[str], name: str, classes: tuple[str, ...], task: str
) -> PositiveClasses:
    """Read which classes of a data set are positive.

    Raises `InputError` if it has findings already, and as `parse_positive` does.

    >>> find_positive("dog", "pets", ("cat", "dog"), CLASSIFICATION).findings
    ('dog',)
    """
    if task != CLASSIFICATION:
        raise InputError(
            f"positive is a class, and {name} has the findings {quote_names(classes)} already: "
            "leave it out"
        )
    return parse_positive(asked, classes)


def _mark_findings(dataset: Dataset, positive: PositiveClasses) -> Dataset:
    def mark(images: Images) -> Images:
        labels = torch.from_numpy(positive.mark(images.labels.numpy()))
        return replace(images, labels=labels, classes=positive.findings)

    return replace(
        dataset,
        train=None if dataset.train is None else mark(dataset.train),
        val=None if dataset.val is None else mark(dataset.val),
        test=mark(dataset.test),
        notes={
            **{name: note for name, note in dataset.notes.items() if name != ORDERED_CLASSES},
            NOTE: positive.note(),
        },
        task=MULTILABEL,
    )


def check_no_copies(
    own_splits: Mapping[str, Images],
    others: Mapping[str, Images],
    *,
    allowed: bool,
    progress: Notify | None = None,
) -> None:
    """Refuse images of other sets that have the same pixels as an image of the data set.

    Args:
        own: the splits of the data set, those that are trained on first.
        others: images of the same size from elsewhere, by name; not compared with each other.
        allowed: they are only told to `progress`, in a line.

    Raises:
        InputError: there are such images; the message counts and names them.
    """
    if not others:
        return
    splits = {**own_splits, **others}
    pairs = find_copies(splits).same
    same = [pair for pair in pairs if pair.first in own_splits and pair.second in others]
    _check_copies(Copies(same, [], {}), splits, allowed, to_notify(progress))


class LoadPlan(NamedTuple):
    """What is to be loaded, known before images are decoded."""

    source: Source
    """The images, their classes and the facts that the source gives for the provenance."""

    name: str
    """The specification of the data set, and its size if images are resized."""

    square: Square | None
    """How images become squares."""

    entries: dict[str, CacheEntry]
    """The images of each split in the cache, decoded or not."""

    test_images: int
    """How many there are without a limit."""

    shared_groups: list[str]
    """Sentences about groups in several splits."""

    positive: PositiveClasses | None = None
    """The classes that are made findings after loading; None to leave classes as they are."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes or findings of the loaded data set."""
        return self.source.classes if self.positive is None else self.positive.findings

    @property
    def task(self) -> str:
        """The task of the loaded data set."""
        return self.source.task if self.positive is None else MULTILABEL

    @property
    def choices(self) -> Choices | None:
        """The classes that a model chooses among, without rows; None for most data sets."""
        return _make_choices(self.source, self.entries["test"].part.listing.truth, slice(0))

    @property
    def images(self) -> dict[str, int]:
        """How many images each split has, unreadable files included."""
        return {name: len(entry.part.keys) for name, entry in self.entries.items()}


def plan_loading(
    source: str, options: LoadOptions, *, offline: bool = False, progress: Notify | None = None
) -> LoadPlan:
    """List the images that `load` would load, and assign them to splits, without decoding.

    >>> plan_loading("mnist5k", LoadOptions(size=8)).images
    {'train': 3600, 'val': 400, 'test': 1000}
    """
    tell = to_notify(progress)
    square = _make_square(options.size, options.preparation)
    _check_options(options)
    scale = None if options.scale is None else Scale.parse(options.scale)
    listed = list_source(
        source, options.root, offline=offline, verify=options.verify, progress=tell
    )
    if listed.side is not None:
        if options.size not in (None, listed.side):
            raise InputError(
                f"the images of {source} were corrupted at {listed.side} x {listed.side}, and "
                "resizing would change the corruption: leave size out, found "
                f"{options.size}"
            )
        square = None
    check_has_test(listed, source)
    positive = None
    if options.positive:
        positive = find_positive(options.positive, source, listed.classes, listed.task)
        line = f"positive       {positive.describe()}"
        tell(Event("list images", 1, 1, line=line))
    for remark in listed.remarks:
        tell(Event("list images", 1, 1, line=f"note           {remark}"))
    source_groups = None
    if options.groups is not None:
        listed, source_groups = read_source_groups(listed, options.groups, options.parts, source)
    every = split_source(listed, options.seed, options.validation_fraction, options.test_fraction)
    parts = {name: part for name, part in every.items() if name in options.parts}
    shared = []
    if source_groups is not None:
        shared = source_groups.compare(every, parts)
        lines = [f"note           {source_groups.remark}"] if source_groups.remark else []
        lines += [f"warning        {line}" for line in shared]
        if why := source_groups.explain_unknown(every):
            lines.append(
                f"note           {why}; so nothing says whether a model was trained on images of "
                "the same groups"
            )
        for line in lines:
            tell(Event("compare groups", 0, None, line=line))
    whole_test = parts["test"]
    if options.limit is not None:
        parts["test"] = limit_subset(whole_test, listed, options.limit, options.seed)
    if (groups := parts["test"].listing.groups) is not None:
        for remark in groups[parts["test"].keys].remarks():
            tell(Event("compare groups", 0, None, line=f"note           {remark}"))
    if "train" in parts:
        parts["train"] = _degrade_labels(parts["train"], len(listed.classes), options)
    with explain_read_errors():
        contents = content_digests(parts)
    entries = {
        name: CacheEntry(part, name, contents[name], square, scale) for name, part in parts.items()
    }
    name = _name_prepared(listed, source, square)
    return LoadPlan(listed, name, square, entries, len(whole_test.keys), shared, positive)


def list_source(
    source: str,
    root: str | Path | None = None,
    *,
    offline: bool = False,
    verify: bool = True,
    progress: Notify | None = None,
) -> Source:
    """List the images of a source, without decoding.

    Args:
        source: an entry of `DATA_SOURCES`: a name, a MedMNIST name with its resolution after an
            `@`, or a kind with a colon and a path, such as `folder:PATH`.
        root: the folder that a relative path starts from; for a named set, the folder with its
            files.
        offline, verify: see `SourceRequest`.
        progress: called during a download, and with a line that says whether the files of a named
            set were verified.

    Raises:
        InputError: there is no such source, or its files are missing or wrong.
    """
    check_type(source, str, "a data source is text, such as folder:PATH, or npz:PATH for arrays")
    name, colon, path = check_text(source, "the data source").partition(":")
    name = find_published_name(name)
    name = find_natural_set(name) or name
    entry, at, resolution = (f"{name}:PATH", "", "") if colon else name.partition("@")
    if entry in REFUSED_SETS:
        raise InputError(f"{entry} cannot be used: {REFUSED_SETS[entry]}")
    if entry not in DATA_SOURCES:
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
    request = SourceRequest(place, int(resolution) if at else None, offline, verify, progress)
    with explain_read_errors():
        listed = DATA_SOURCES[entry](request)
    check_classes(listed.classes, source)
    for listing in listed.splits.values():
        check_file_names(listing.names or (), source)
    if progress is not None and (
        line := describe_verification(listed.name or source, listed.notes)
    ):
        progress(Event("verify", 1, 1, line=line))
    return listed


def tested_share(source: str) -> float:
    """The tested share of a set without splits: all of it, if it is given as a PATH.

    A named set is divided as by `load_data`, so that its name means the same images everywhere.

    >>> tested_share("folder:photos"), tested_share("mnist5k")
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
    elif f"{source}:PATH" in DATA_SOURCES:
        return InputError(f"the data source {source!r} needs a path: {source}:PATH")
    elif ":" not in source and "/" in source:
        return InputError(f"unknown data source {source!r}: there is no such file or folder")
    else:
        return unknown_name("data source", entry, DATA_SOURCES)
    if f"{kind}:PATH" in DATA_SOURCES:
        return InputError(
            f"unknown data source {source!r}: it is a path; did you mean {f'{kind}:{source}'!r}?"
        )
    return InputError(
        f"unknown data source {source!r}: it is a file, but images are read from folder:PATH, "
        "csv:PATH, npz:PATH or parquet:PATH"
    )


def _degrade_labels(part: Subset, classes: int, options: LoadOptions) -> Subset:
    """Make the classes imbalanced by their true labels, then make some labels wrong."""
    labels, seed = part.listing.labels, options.seed
    for name in ("label_noise", "imbalance"):
        if getattr(options, name) != getattr(LoadOptions, name):
            check_has_classes(labels, name)
    if labels.ndim > 1:
        return part
    keys = part.keys[choose_imbalanced(labels[part.keys], classes, options.imbalance, seed)]
    noisy = add_label_noise(labels, classes, options.label_noise, seed)
    return Subset(part.listing._replace(labels=noisy), keys)


def _check_options(options: LoadOptions) -> None:
    for part in options.parts:
        if part not in SPLITS:
            raise unknown_name("split", part, SPLITS)
    if "test" not in options.parts:
        raise InputError(f"parts must include test, found {', '.join(options.parts) or 'none'}")
    if options.seed < 0:
        raise InputError(f"seed must not be negative, found {options.seed}")
    check_limits(options)


def _make_images(cached: CachedImages, entry: CacheEntry, source: Source) -> Images:
    listing, keys = entry.part.listing, entry.part.keys[cached.readable]
    labels = listing.labels[keys]
    check_no_empty_class(source.strata(labels), entry.name)
    names, groups = listing.names, listing.groups
    return Images(
        cached.images,
        torch.from_numpy(labels),
        torch.from_numpy(keys),
        source.classes,
        None if names is None else np.array([names[key] for key in keys], dtype=np.object_),
        None if groups is None else groups[keys],
        _make_choices(source, listing.truth, keys),
    )


def _make_choices(
    source: Source, truth: TruthArray | None, keys: IntArray | slice
) -> Choices | None:
    """The choices of a natural shift for some of its images; None for another data set."""
    return Choices(source.choices, truth)[keys] if source.choices else None


def _check_copies(
    copies: Copies,
    splits: Mapping[str, Images],
    allowed: bool,
    tell: Notify,
    wrong_labels: bool = False,
) -> None:
    """Refuse images that stand in two splits, unless they are allowed; warn of look-alikes."""
    same = [pairs.line(splits, "have the same pixels as") for pairs in copies.same]
    if same and not allowed:
        raise InputError(
            f"{'; '.join(same)}; such images do not show how a model does on new ones: remove them "
            "from one of the two, or set allow_duplicates (--allow-duplicates)"
        )
    similar = [pairs.line(splits, "look like") for pairs in copies.similar]
    for name, places in copies.contrary.items():
        if name == "train" and wrong_labels:
            continue
        first, second = (image_name(splits[name], place) for place in places[0].tolist())
        similar.append(
            f"{len(places):,} {name} images have the same pixels as an earlier one with another "
            f"label, such as {second} and {first}"
        )
    for line in (*same, *similar):
        tell(Event("compare images", 0, None, line=f"warning        {line}"))


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


def _name_prepared(source: Source, specification: str, square: Square | None) -> str:
    """Name a data set; images resized from another resolution get another name."""
    name = source.name or specification
    _, at, resolution = name.partition("@")
    if not source.name or not at or square is None:
        return name
    if square.resize != square.size:
        return f"{name} resized to {square.resize} and cropped to {square.size}"
    return name if square.size == int(resolution) else f"{name} resized to {square.size}"

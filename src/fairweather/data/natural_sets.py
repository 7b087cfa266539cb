"""Natural shifts that are known by name: what they are, where to get them, how they lie on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pydantic

from fairweather.data.corrupted import open_array
from fairweather.data.domains import list_camelyon17, list_domains, plain_name
from fairweather.data.image_folders import list_folder
from fairweather.data.named_sets import CIFAR_CLASSES, CIFAR_FOLDER, CIFAR_PLANES, list_cifar10
from fairweather.data.npz import list_archive
from fairweather.data.pixels import Framed
from fairweather.data.sources import (
    UNSPLIT,
    RawImage,
    Source,
    SourceRequest,
    check_exists,
    list_arrays,
    list_files,
    relative_names,
    require_path,
)
from fairweather.errors import InputError, join_names
from fairweather.files.download import file_digest
from fairweather.files.folders import read_facts
from fairweather.types.measurement import IntArray
from fairweather.types.record import FrozenRecord

IMAGENET_CLASSES = 1000
T = TypeVar("T")


class NaturalSet(FrozenRecord):
    """A published natural shift."""

    title: str
    layout: str
    """How its files lie in the folder: a name of `LAYOUTS`."""

    shows: str
    """What its images are, in a few words."""

    classes: int | tuple[int, ...]
    """How many classes it has. If they are some of ImageNet's, their places among the 1,000, in
    the order of WordNet numbers: the class mask."""

    images: int
    where: str
    """The address to get it from."""

    sha256: Mapping[str, str] = {}
    """Of the published files or archives, by name; empty where none is known."""

    checksum_from: str = ""
    """Who says so."""

    classes_from: str = ""
    """Where the class mask comes from."""

    licence: str
    parts: Mapping[str, int] = {}
    """How many images each domain or official split has; empty for a set without domains."""

    same_images: bool = False
    """Whether these are the images of the data, with other labels."""

    filtered: bool = False
    """Chosen for the errors of one network, so that no line through models fits."""

    also: tuple[str, ...] = ()
    """Other spellings of its name."""

    @property
    def class_count(self) -> int:
        """The number of its classes. ObjectNet's 113 are 125 of ImageNet's: its class mask."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def choices(self) -> tuple[str, ...]:
        """The WordNet numbers of its classes; empty where it has all classes of its data."""
        if isinstance(self.classes, int):
            return ()
        wnids = read_wnids()
        return tuple(wnids[place] for place in self.classes)


NATURAL_SETS = pydantic.TypeAdapter(dict[str, NaturalSet]).validate_python(
    read_facts("fairweather.data", "natural_sets")
)


def find_natural_set(name: str) -> str:
    """Give the usual name of a natural shift, whatever its spelling; "" for another one.

    >>> find_natural_set("ImageNet_V2"), find_natural_set("hospital_b")
    ('imagenetv2-matched-frequency', '')
    """
    return _spellings().get(plain_name(name), "")


def find_natural_facts(source: str) -> NaturalSet | None:
    """What is known of the natural shift that a data source names; None for another source.

    >>> find_natural_facts("imagenet-r:data/imagenet-r").class_count, find_natural_facts("cifar10")
    (200, None)
    """
    kind, colon, _ = source.partition(":")
    return NATURAL_SETS.get(find_natural_set(kind)) if colon else None


@cache
def _spellings() -> dict[str, str]:
    return {
        plain_name(spelling): usual
        for usual, facts in NATURAL_SETS.items()
        for spelling in (usual, *facts.also)
    }


@cache
def read_wnids() -> tuple[str, ...]:
    """The WordNet numbers of ImageNet's 1,000 classes, in the order of published models' outputs.

    >>> read_wnids()[0]
    'n01440764'
    """
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


# ---------------------------------------------------------------- folders of ImageNet's classes


def _list_class_folders(facts: NaturalSet, request: SourceRequest) -> Source:
    """A folder for each class, called by its WordNet number (`n01443537`)."""
    source = _list_unsplit(request)
    allowed = facts.choices or read_wnids()
    if wrong := [name for name in source.classes if name not in set(allowed)]:
        raise InputError(
            f"{str(request.path)!r} is not {facts.title}, whose {len(allowed):,} classes are "
            f"folders like {allowed[0]}: {join_names(wrong)} {'is' if len(wrong) == 1 else 'are'} "
            "not among them"
        )
    return source._replace(choices=facts.choices)


def _list_numbered_folders(facts: NaturalSet, request: SourceRequest) -> Source:
    """A folder for each class, called by its place among the 1,000: `0` to `999`."""
    source = _list_unsplit(request)
    numbers = [int(name) if re.fullmatch(r"\d{1,3}", name) else -1 for name in source.classes]
    wrong = [name for name, number in zip(source.classes, numbers, strict=True) if number < 0]
    if wrong or len(set(numbers)) < len(numbers):
        raise InputError(
            f"{str(request.path)!r} is not {facts.title}, whose classes are folders 0 to 999: "
            f"found {join_names(wrong or list(source.classes))}"
        )
    listing = source.splits[UNSPLIT]
    # Folders are listed as texts (10 before 2), and keys follow that order; classes follow numbers.
    order = np.argsort(numbers)
    labels = np.argsort(order)[listing.labels]
    wnids = read_wnids()
    classes = tuple(wnids[numbers[place]] for place in order)
    return source._replace(classes=classes, splits={UNSPLIT: listing._replace(labels=labels)})


def _list_unsplit(request: SourceRequest) -> Source:
    source = list_folder(request)
    if set(source.splits) != {UNSPLIT}:
        raise InputError(
            f"{str(request.path)!r} has the splits {join_names(list(source.splits))}: name the "
            "folder that has the folders of classes"
        )
    return source


# ---------------------------------------------------------------- several right classes

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg|png)")
REAL_FILE = "real.json"
REAL_LABELS = pydantic.TypeAdapter(
    list[list[Annotated[int, pydantic.Field(ge=0, lt=IMAGENET_CLASSES)]]]
)
NAMES_BY_NAME = pydantic.TypeAdapter(dict[str, str])
OBJECTNET_FILES = ("folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json")
OBJECTNET_BORDER = 2  # pixels; its own loader cuts the red frame off (abarbu/objectnet-template)


def _list_reassessed(facts: NaturalSet, request: SourceRequest) -> Source:
    """The validation images by their names, and all right classes of each from `real.json`.

    The file may lie in the folder; otherwise timm's copy is used. Images without a right class are
    left out.
    """
    root = require_path(request)
    paths = sorted(path for path in root.rglob("ILSVRC2012_val_*") if path.is_file())
    names = [VALIDATION_NAME.fullmatch(path.name) for path in paths]
    if not paths or None in names:
        wrong = [path.name for path, match in zip(paths, names, strict=True) if match is None]
        raise InputError(
            f"{str(root)!r} needs validation images like ILSVRC2012_val_00000001.JPEG, whose names "
            f"say which labels of {REAL_FILE} are theirs: found {join_names(wrong or ['none'])}"
        )
    right = _read_reassessed(root / REAL_FILE)
    place = {wnid: number for number, wnid in enumerate(read_wnids())}
    kept, labels, rows = list[Path](), list[int](), list[list[int]]()
    for path, match in zip(paths, names, strict=True):
        assert match is not None, "checked above"
        number = int(match[1])
        if not 1 <= number <= len(right):
            raise InputError(f"{path.name} has no labels: {REAL_FILE} has {len(right):,} images")
        if not (classes := right[number - 1]):
            continue
        folder = place.get(path.parent.name, -1)
        kept.append(path)
        labels.append(folder if folder in classes else classes[0])
        rows.append(classes)
    if not kept:
        raise InputError(f"no image of {str(root)!r} has a right class in {REAL_FILE}")
    source = _list_right_classes(root, tuple(kept), range(IMAGENET_CLASSES), labels, rows)
    return source._replace(remarks=_compare_checksums(facts, root / REAL_FILE))


def _read_reassessed(path: Path) -> list[list[int]]:
    if path.is_file():
        text, name = path.read_text(encoding="utf-8"), repr(str(path))
    else:
        from importlib import resources

        file = resources.files("timm") / "data" / "_info" / "imagenet_real_labels.json"
        text, name = file.read_text(encoding="utf-8"), "timm's copy of real.json"
    return _read_json(text, name, REAL_LABELS)


def _list_objectnet(facts: NaturalSet, request: SourceRequest) -> Source:
    """Folders `images` and `mappings` as published; classes that ImageNet lacks are left out.

    Several classes of ImageNet may be one of ObjectNet; each of them is right. A frame of 2 pixels
    is cut off each image, as the authors ask.
    """
    from timm.data.imagenet_info import ImageNetInfo

    root = require_path(request)
    mappings = root / "mappings"
    for name in OBJECTNET_FILES:
        check_exists(mappings / name)
    of_folder, of_object = (
        _read_json(path.read_text(encoding="utf-8"), repr(str(path)), NAMES_BY_NAME)
        for path in (mappings / name for name in OBJECTNET_FILES)
    )
    place = {name: at for at, name in enumerate(ImageNetInfo().label_descriptions())}
    numbers = {
        title: [place[name] for name in names.split("; ") if name in place]
        for title, names in of_object.items()
    }
    source = _list_unsplit(request._replace(path=root / "images"))
    listing = source.splits[UNSPLIT]
    right = [numbers.get(of_folder.get(name, ""), []) for name in source.classes]
    keys = [key for key, label in enumerate(listing.labels.tolist()) if right[label]]
    if not keys:
        raise InputError(f"{str(root / 'images')!r} has no folder of a class that ImageNet has")
    rows = [right[listing.labels[key]] for key in keys]
    files = tuple(listing.files[key] for key in keys)
    choices = sorted({number for row in numbers.values() for number in row})
    labels = [row[0] for row in rows]
    return _list_right_classes(root, files, choices, labels, rows, OBJECTNET_BORDER)


def _list_right_classes(
    root: Path,
    files: tuple[Path, ...],
    choices: Sequence[int],
    labels: Sequence[int],
    rows: Sequence[Sequence[int]],
    border: int = 0,
) -> Source:
    """Images with one or several right classes.

    Args:
        root: the folder of the files.
        files: one of each image.
        choices: the classes of ImageNet, by place, that models choose among.
        labels: of each image, the right class that it is counted for.
        rows: of each image, all right classes.
        border: pixels to cut off each side.
    """
    wnids, counted = read_wnids(), sorted(set(labels))
    column = {number: place for place, number in enumerate(choices)}
    truth = np.zeros((len(files), len(choices)), dtype=np.bool_)
    for image, row in enumerate(rows):
        truth[image, [column[number] for number in row]] = True
    numbers = np.searchsorted(counted, labels).astype(np.int64)
    listing = list_files(numbers, files, relative_names(root, files))._replace(truth=truth)
    if border:

        def read(keys: IntArray) -> Iterator[RawImage]:
            for key in keys:
                yield RawImage(str(files[key]), Framed(files[key], border))

        listing = listing._replace(read=read, stretch=f"border {border}")
    classes = tuple(wnids[number] for number in counted)
    return Source(classes, {UNSPLIT: listing}, choices=tuple(wnids[number] for number in choices))


def _read_json(text: str, name: str, kind: pydantic.TypeAdapter[T]) -> T:
    try:
        return kind.validate_json(text)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"{name} is not the published file: {problem['msg']}{f' at {place}' if place else ''}"
        ) from None


# ---------------------------------------------------------------- CIFAR-10 again

SOFT_LABELS = ("cifar10h-probs.npy", "cifar10h-counts.npy")


def _list_cifar10_1(facts: NaturalSet, request: SourceRequest) -> Source:
    """Two arrays as published: `cifar10.1_v6_data.npy`, uint8 `[N, 32, 32, 3]`, and its labels."""
    root = _find_file(facts, request, next(iter(facts.sha256))).parent
    paths = [root / name for name in facts.sha256]
    images, labels = (open_array(path) for path in paths)
    planes, *side = CIFAR_PLANES
    if images.dtype != np.uint8 or images.shape[1:] != (*side, planes):
        raise InputError(
            f"{str(paths[0])!r} is {images.dtype} {list(images.shape)}; {facts.title} has uint8 "
            "[N, 32, 32, 3]"
        )
    is_whole = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not is_whole or not 0 <= labels.min() <= labels.max() < len(CIFAR_CLASSES):
        raise InputError(
            f"{str(paths[1])!r} must have a whole number from 0 to 9 for each of {len(images):,} "
            f"images, found {labels.dtype} {list(labels.shape)}"
        )
    listing = list_arrays(np.asarray(labels), images, (paths[0],), f"{facts.title} image")
    return Source(CIFAR_CLASSES, {UNSPLIT: listing}, remarks=_compare_checksums(facts, *paths))


def _list_cifar10_2(facts: NaturalSet, request: SourceRequest) -> Source:
    """One archive as published: `cifar102_test.npz` with `images` and `labels`."""
    return list_archive(_find_file(facts, request, "cifar102_test.npz"), CIFAR_CLASSES)


def _list_soft_labels(facts: NaturalSet, request: SourceRequest) -> Source:
    """The test images of CIFAR-10, and the share of people who chose each class.

    The shares are `cifar10h-probs.npy`, float `[N, 10]` in the order of the test images, or the
    counts that they are made from. The images lie in the same folder, or are found like those of
    `cifar10`. An image counts for the class that most people chose; in a tie, for its own label if
    that is among them.
    """
    path = _find_file(facts, request, *SOFT_LABELS)
    at_hand = (path.parent / CIFAR_FOLDER).is_dir()
    source = list_cifar10(request._replace(path=path.parent if at_hand else None))
    listing = source.splits["test"]
    people = np.asarray(open_array(path), dtype=np.float64)
    shape = (len(listing.labels), len(CIFAR_CLASSES))
    if people.shape != shape:
        raise InputError(
            f"{str(path)!r} has the shape {list(people.shape)}; the test images of CIFAR-10 need "
            f"{list(shape)}"
        )
    total = people.sum(axis=1, keepdims=True)
    if not (people >= 0).all() or not (total > 0).all():
        raise InputError(f"{str(path)!r} must have counts or shares of people, at least 0")
    is_most = people == people.max(axis=1, keepdims=True)
    own = is_most[np.arange(len(people)), listing.labels]
    labels = np.where(own, listing.labels, is_most.argmax(axis=1))
    listing = listing._replace(labels=labels, truth=(people / total).astype(np.float32))
    return source._replace(
        splits={UNSPLIT: listing},
        choices=CIFAR_CLASSES,
        name=None,
        remarks=_compare_checksums(facts, path),
    )


def _find_file(facts: NaturalSet, request: SourceRequest, *names: str) -> Path:
    """The first of some files in the folder, or in a folder in it; the folder may be the file."""
    root = require_path(request)
    if root.is_file():
        return root
    places = (root / folder / name for name in names for folder in (".", "data", "datasets"))
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(
            f"{str(root)!r} is not {facts.title}: there is no {names[0]} in it; {facts.where} has "
            "it"
        )
    return path


def _compare_checksums(facts: NaturalSet, *paths: Path) -> tuple[str, ...]:
    """A sentence for each file that is not the published one."""
    return tuple(
        f"{path.name} is not the published file: its SHA-256 is another one"
        for path in paths
        if path.is_file()
        and path.name in facts.sha256
        and file_digest(path, "sha256") != facts.sha256[path.name]
    )


# ---------------------------------------------------------------- the table of layouts

LAYOUTS: Mapping[str, Callable[[NaturalSet, SourceRequest], Source]] = {
    "class folders": _list_class_folders,
    "numbered folders": _list_numbered_folders,
    "reassessed labels": _list_reassessed,
    "objectnet": _list_objectnet,
    "cifar-10.1": _list_cifar10_1,
    "cifar-10.2": _list_cifar10_2,
    "soft labels": _list_soft_labels,
    "domains": lambda facts, request: list_domains(request, facts.title, facts.parts),
    "wilds": lambda facts, request: list_camelyon17(request, facts.parts),
}


def _make_lister(name: str) -> Callable[[SourceRequest], Source]:
    facts = NATURAL_SETS[name]

    def load(request: SourceRequest) -> Source:
        return LAYOUTS[facts.layout](facts, request)

    load.__doc__ = f"{facts.title}: {facts.shows}; {facts.class_count:,} classes. {facts.where}"
    return load


NATURAL_SOURCES = {f"{name}:PATH": _make_lister(name) for name in NATURAL_SETS}

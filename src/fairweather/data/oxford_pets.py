"""The source `oxford-iiit-pet`: photographs of 37 breeds of cats and dogs (Parkhi et al. 2012)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairweather.data.known import (
    find_folder,
    md5,
    missing_file,
    obtain_unpacked,
    own_folder,
    read_file,
)
from fairweather.data.source import (
    Listing,
    Request,
    Source,
    check_same_classes,
    listing_of_files,
    names_below,
)
from fairweather.errors import InputError, first_names
from fairweather.facts import read_facts

NAME = "oxford-iiit-pet"
PLACES = (".", NAME)
URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
# MD5s: torchvision.datasets.OxfordIIITPet. Each archive has one folder that is called like it.
ARCHIVES: Mapping[str, str] = read_facts("fairweather.data", "known_sets")[NAME]["archives_md5"]
LISTS = {"train": "trainval", "test": "test"}
BREEDS = 37
SPECIES = 2
# Only plain file names, so that no file outside the folder of images is read.
LINE = re.compile(
    r"(?P<name>(?P<breed>\w[\w.-]*)_[0-9]+)\s+(?P<id>[0-9]{1,6})\s+(?P<species>[0-9]{1,6})\s+[0-9]+"
)


def list_oxford_pets(request: Request) -> Source:
    """3,680 training and 3,669 test photographs of 37 breeds of cats and dogs, in many sizes.

    With a path, they are read from there: the folder that has `images` and `annotations`, or the
    one around it. Without a path, they are read from the cache, and downloaded if they are missing.
    `trainval.txt` is train and `test.txt` is test. Some of the breeds are enough if their ids go
    from 1 without a gap. Files that are in no list are ignored. A .jpg may have any format that
    Pillow reads; a few of the published files are not JPEGs.

    Raises:
        InputError: a folder, list or image is missing, or a line is wrong.
    """
    folder, origin = _find(request)
    for part in ARCHIVES:
        if not (folder / part).is_dir():
            raise missing_file(NAME, f"the folder {part}", folder)
    present = {entry.name for entry in (folder / "images").iterdir()}
    classes, splits, digests = {}, {}, {}
    for split, file in LISTS.items():
        path = folder / "annotations" / f"{file}.txt"
        content = read_file(NAME, path.name, path.parent)
        digests[path.name] = md5(content)
        pets = _parse_list(content, path)
        _check_present(pets, present, path)
        classes[file] = _class_names(pets, path)
        splits[split] = _list_split(pets, folder / "images")
    names = check_same_classes(classes)
    _check_apart(splits["train"], splits["test"])
    notes = {
        "origin": origin,
        "verified": False,
        "verification": "checksums are published for the two archives, not for the files in them",
        "md5": digests,
    }
    return Source(names, splits, NAME, notes)


def _find(request: Request) -> tuple[Path, str]:
    if request.path is not None:
        return find_folder(NAME, request.path, PLACES, ("annotations", "images")), str(request.path)
    folder = own_folder(NAME)
    for part, checksum in ARCHIVES.items():
        archive = f"{part}.tar.gz"
        obtain_unpacked(request, f"{URL}{archive}", folder / archive, checksum, part)
    return folder, URL


class _Pet(NamedTuple):
    name: str  # of the image file, without .jpg
    label: int
    breed: str


def _parse_list(content: bytes, path: Path) -> list[_Pet]:
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not a text file: {error}") from error
    pets = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            pets.append(_parse_line(line.strip(), f"line {number} of {str(path)!r}"))
    if not pets:
        raise InputError(f"{str(path)!r} names no images")
    names = [pet.name for pet in pets]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{str(path)!r} names {twice!r} twice")
    return pets


def _parse_line(line: str, where: str) -> _Pet:
    match = LINE.fullmatch(line)
    if match is None:
        raise InputError(
            f"{where} is {line!r}; it must be the name of an image and the numbers of its class, "
            "species and breed, such as 'Abyssinian_100 1 1 1'"
        )
    number, species = int(match["id"]), int(match["species"])
    if not 1 <= number <= BREEDS:
        raise InputError(f"{where} has the class id {number}; known are 1 to {BREEDS}")
    if not 1 <= species <= SPECIES:
        raise InputError(f"{where} has the species {species}; known are 1 (cat) and 2 (dog)")
    # As torchvision does: american_bulldog becomes American Bulldog.
    return _Pet(match["name"], number - 1, match["breed"].replace("_", " ").title())


def _class_names(pets: list[_Pet], path: Path) -> tuple[str, ...]:
    breeds: dict[int, str] = {}
    for pet in pets:
        if breeds.setdefault(pet.label, pet.breed) != pet.breed:
            raise InputError(
                f"{str(path)!r} gives the class id {pet.label + 1} to {breeds[pet.label]} and to "
                f"{pet.breed}"
            )
    if missing := sorted(set(range(max(breeds) + 1)) - set(breeds)):
        raise InputError(f"{str(path)!r} has no image with the class id {missing[0] + 1}")
    names = tuple(breeds[label] for label in sorted(breeds))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{str(path)!r} lists {twice} with several class ids")
    return names


def _check_present(pets: list[_Pet], present: set[str], path: Path) -> None:
    missing = [f"{pet.name}.jpg" for pet in pets if f"{pet.name}.jpg" not in present]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(pets)} images in the list {str(path)!r} are missing from "
            f"the folder images: {first_names(missing)}"
        )


def _check_apart(train: Listing, test: Listing) -> None:
    if both := sorted(set(train.files) & set(test.files)):
        raise InputError(f"{both[0].stem!r} is in trainval.txt and in test.txt")


def _list_split(pets: list[_Pet], images: Path) -> Listing:
    paths = tuple(images / f"{pet.name}.jpg" for pet in pets)
    labels = np.array([pet.label for pet in pets], dtype=np.int64)
    return listing_of_files(labels, paths, names_below(images.parent, paths))

"""Images of the same classes from several domains: kinds of pictures, or hospitals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.data.groups import read_text_table
from fairweather.data.image_folders import list_folder, visible_folders
from fairweather.data.sources import (
    UNSPLIT,
    Listing,
    Source,
    SourceRequest,
    check_exists,
    check_same_classes,
    list_files,
    split_parts,
)
from fairweather.errors import InputError, join_names, unknown_name
from fairweather.types.measurement import BoolArray, IntArray, TextArray

DOMAIN, HOSPITAL = "domain", "hospital"  # the columns that say where an image is from
DOMAINS, TEST = "domains", "test"  # parts of a specification: which domains, and the one held out
SPLIT, VAL = "split", "val"  # more of Camelyon17: one official split, and the validation images
SEPARATOR = "|"
NO_FACTS: Mapping[str, int] = MappingProxyType({})

# Names that the folder of the domains may have inside the named one, and where the official lists
# of PACS may be: as published, and as usual copies have them.
INNER_FOLDERS = ("PACS", "kfold", "images", "OfficeHomeDataset_10072016", "office_home")
LIST_FOLDERS = ("", "splits", "pacs_label", "kfold", "PACS")
LISTS = {"train": "{}_train_kfold.txt", "val": "{}_crossval_kfold.txt"}

CAMELYON_FOLDER = "camelyon17_v1.0"
CAMELYON_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center", SPLIT)
CAMELYON_CLASSES = ("normal", "tumor")
# The hospitals of each official split (p-lambda/wilds, camelyon17_dataset.py).
HOSPITALS = {"train": "0, 3 and 4", "id_val": "0, 3 and 4", "val": "1", "test": "2"}


class DomainTable(NamedTuple):
    """All images of a set, with a row for each."""

    root: Path
    """The folder that the names of files start from."""

    classes: tuple[str, ...]
    labels: IntArray
    names: TextArray
    """The file of each image, below the root."""

    columns: pd.DataFrame
    """What is known of each image, as texts."""

    domain: str = DOMAIN
    """The column with the domain of each image."""

    @property
    def domains(self) -> TextArray:
        """The domain of each image."""
        return self.columns[self.domain].to_numpy(dtype=np.object_)

    def list_rows(self, chosen: BoolArray) -> Listing:
        """List some of the images."""
        rows = np.flatnonzero(chosen)
        names = tuple(self.names[rows])
        listing = list_files(self.labels[rows], tuple(self.root / name for name in names), names)
        return listing._replace(table=partial(self._select, rows))

    def find_domain(self, name: str) -> str:
        """The domain with a name, in any case; raises `InputError` without one."""
        known = {plain_name(domain): domain for domain in sorted(set(self.domains))}
        if plain_name(name) not in known:
            raise unknown_name(f"{self.domain} of {str(self.root)!r}", name, known.values())
        return known[plain_name(name)]

    def _select(self, rows: IntArray, names: list[str]) -> pd.DataFrame:
        for name in names:
            if name not in self.columns:
                raise unknown_name(
                    f"column of {str(self.root)!r}", name, list(map(str, self.columns))
                )
        return self.columns[names].iloc[rows]


# ---------------------------------------------------------------- folders of domains


def list_domains(
    request: SourceRequest, title: str = "domains", known: Mapping[str, int] = NO_FACTS
) -> Source:
    """A folder per domain, with one per class in each: PATH[,domains=A|B][,test=C].

    All domains are one set, or those that `domains` names. `test=C` holds one domain out: its
    images are the test images, and validation images are split off the others. The column `domain`
    says where each image is from. Files beside the folders are ignored.

    Of a published set, `test=` takes train and val images from the official lists of files, where
    these lie in the folder.

    Args:
        request: the folder, and which domains.
        title: of a published set, which is its name in another case.
        known: how many images each of its domains has as published, by name; empty for any set.

    Raises:
        InputError: a folder is missing, two domains have different classes, or there is no such
            domain.
    """
    kind = title.casefold()
    path, given = split_parts(request.path or Path(), kind, (DOMAINS, TEST))
    check_exists(path)
    table = _read_folders(path, title, known)
    source = _divide(table, given)
    if not known:
        return source
    if TEST in given:
        source = _use_official_lists(source, table, path)
    name, remarks = _name_selection(kind, given), _compare_counts(table, DOMAIN, known)
    return source._replace(name=name, remarks=remarks)


def _read_folders(path: Path, title: str, known: Mapping[str, int]) -> DomainTable:
    """List the images of a set whose domains are folders."""
    inner = INNER_FOLDERS if known else ()
    root = next((path / name for name in inner if (path / name).is_dir()), path)
    folders = {folder.name: folder for folder in visible_folders(root)}
    if known:
        by_name = {plain_name(name): folder for name, folder in folders.items()}
        if missing := [name for name in known if plain_name(name) not in by_name]:
            raise InputError(
                f"{str(root)!r} has no folder for the domain {missing[0]}: {title} has "
                f"{join_names(list(known))}; found {join_names(list(folders)) or 'none'}"
            )
        folders = {name: by_name[plain_name(name)] for name in known}
    if len(folders) < 2:
        raise InputError(
            f"{str(root)!r} must have a folder for each of several domains; found "
            f"{join_names(list(folders)) or 'none'}"
        )
    sources = {name: list_folder(SourceRequest(folder)) for name, folder in folders.items()}
    for name, source in sources.items():
        if set(source.splits) != {UNSPLIT}:
            raise InputError(
                f"the domain {name} of {str(root)!r} must have one folder per class; found the "
                f"splits {join_names(list(source.splits))}"
            )
    listings = {name: source.splits[UNSPLIT] for name, source in sources.items()}
    names = [
        f"{folders[domain].name}/{name}"
        for domain, listing in listings.items()
        for name in listing.names or ()
    ]
    counts = [len(listing.labels) for listing in listings.values()]
    return DomainTable(
        root,
        check_same_classes({name: source.classes for name, source in sources.items()}),
        np.concatenate([listing.labels for listing in listings.values()]),
        np.array(names, dtype=np.object_),
        pd.DataFrame({DOMAIN: np.repeat(list(listings), counts)}),
    )


def _use_official_lists(source: Source, table: DomainTable, path: Path) -> Source:
    """Take train and val images from the official lists, if they are there."""
    listing = source.splits["train"]
    assert listing.table is not None, "every part of a table has its columns"
    domains = sorted(set(listing.table([DOMAIN])[DOMAIN]))
    listed: dict[str, set[str]] = {split: set() for split in LISTS}
    for split, file in LISTS.items():
        for domain in domains:
            places = [path / folder / file.format(domain) for folder in LIST_FOLDERS]
            place = next((place for place in places if place.is_file()), None)
            if place is None:
                return source
            listed[split] |= _read_list(place, table)
    if both := sorted(listed["train"] & listed["val"]):
        raise InputError(f"the lists in {str(path)!r} name {both[0]!r} both for train and for val")
    parts = {
        split: table.list_rows(np.isin(table.names, list(names))) for split, names in listed.items()
    }
    return source._replace(splits={**parts, "test": source.splits["test"]})


def _read_list(place: Path, table: DomainTable) -> set[str]:
    """The files that an official list names, each with a number of its class, from 1 on."""
    lines = place.read_text(encoding="utf-8").splitlines()
    names = {line.rpartition(" ")[0].strip() for line in lines if line.strip()}
    if missing := sorted(names - set(table.names)):
        raise InputError(f"{str(place)!r} names {missing[0]!r}: no file of {str(table.root)!r}")
    return names


# ---------------------------------------------------------------- Camelyon17


def list_camelyon17(request: SourceRequest, known: Mapping[str, int]) -> Source:
    """Camelyon17-WILDS, lymph nodes of 5 hospitals: FOLDER[,val=id_val][,test=4].

    The folder has `metadata.csv` and `patches`, as WILDS stores them. Without more, the splits are
    the official ones: train from hospitals 0, 3 and 4, val from 1, test from 2. `val=id_val` takes
    the official validation images of the training hospitals instead. `split=id_val` is one official
    split as a set. `domains=0|3` are hospitals as one set, and `test=4` holds one hospital out.
    The columns are those of `metadata.csv`, and `hospital`. `known` says how many images each
    official split has as published.

    Raises:
        InputError: a file, a column or a value is wrong, or there is no such split or hospital.
    """
    path, given = split_parts(request.path or Path(), "camelyon17", (DOMAINS, TEST, SPLIT, VAL))
    check_exists(path)
    table = _read_camelyon17(path)
    splits = table.columns[SPLIT].to_numpy(dtype=np.object_)
    for part in (SPLIT, VAL):
        if part in given and given[part] not in HOSPITALS:
            raise unknown_name("split of camelyon17", given[part], HOSPITALS)
    if SPLIT in given:
        if len(given) > 1:
            raise InputError(f"camelyon17: {SPLIT}= is one set, so it stands alone")
        listings = {UNSPLIT: table.list_rows(splits == given[SPLIT])}
        source = Source(table.classes, listings)
    elif {DOMAINS, TEST} & given.keys():
        if VAL in given:
            raise InputError(f"camelyon17: {VAL}= chooses among official splits: leave it out")
        source = _divide(table, given)
    else:
        chosen = {"train": "train", "val": given.get(VAL, "val"), "test": "test"}
        listings = {name: table.list_rows(splits == split) for name, split in chosen.items()}
        train, val, test = (HOSPITALS[split] for split in chosen.values())
        origin = (
            f"Train images come from hospitals {train}, val images from {val} and test images "
            f"from {test}."
        )
        source = Source(table.classes, listings, notes={"natural_shift": origin})
    name, remarks = _name_selection("camelyon17", given), _compare_counts(table, SPLIT, known)
    return source._replace(name=name, remarks=remarks)


def _read_camelyon17(path: Path) -> DomainTable:
    """Read `metadata.csv` as WILDS does, with its official splits."""
    inner = path / CAMELYON_FOLDER
    root = inner if inner.is_dir() else path
    frame = read_text_table(root / "metadata.csv")
    place = repr(str(root / "metadata.csv"))
    for name in CAMELYON_COLUMNS:
        if name not in frame:
            raise unknown_name(f"column of {place}", name, list(frame.columns))
    for name, allowed in (("tumor", ["0", "1"]), (SPLIT, ["0", "1"])):
        if wrong := sorted(set(frame[name]) - set(allowed)):
            raise InputError(f"{place} has the {name} {wrong[0]!r}; allowed are 0 and 1")
    split = np.where(frame[SPLIT] == "0", "train", "id_val").astype(np.object_)
    for held_out in ("val", "test"):
        split[frame["center"] == HOSPITALS[held_out]] = held_out
    # As text, since a number would lose the zeros of a patient such as 004.
    node = "patient_" + frame["patient"] + "_node_" + frame["node"]
    file = (
        "patches/" + node + "/patch_" + node + "_x_" + frame["x_coord"] + "_y_" + frame["y_coord"]
    )
    return DomainTable(
        root,
        CAMELYON_CLASSES,
        frame["tumor"].to_numpy(dtype=np.int64),
        (file + ".png").to_numpy(dtype=np.object_),
        frame.drop(columns="", errors="ignore").assign(split=split, hospital=frame["center"]),
        HOSPITAL,
    )


# ---------------------------------------------------------------- shared


def _divide(table: DomainTable, given: Mapping[str, str]) -> Source:
    """Take the chosen domains as one set, or one of them as the test images of the others."""
    asked = [name for name in given.get(DOMAINS, "").split(SEPARATOR) if name]
    chosen = {table.find_domain(name) for name in asked} or set(table.domains)
    if TEST not in given:
        return Source(table.classes, {UNSPLIT: table.list_rows(np.isin(table.domains, [*chosen]))})
    held_out = table.find_domain(given[TEST])
    others = sorted(chosen - {held_out})
    if not others:
        raise InputError(f"{TEST}={held_out} leaves no other {table.domain} to train on")
    splits = {
        "train": table.list_rows(np.isin(table.domains, others)),
        "test": table.list_rows(table.domains == held_out),
    }
    origin = (
        f"Train and val images come from the {table.domain}s {join_names(others)} and test images "
        f"from {held_out}."
    )
    return Source(table.classes, splits, notes={"natural_shift": origin})


def _name_selection(kind: str, given: Mapping[str, str]) -> str:
    """Name the chosen part of a set.

    >>> _name_selection("pacs", {"domains": "art_painting|photo", "test": "sketch"})
    'pacs, domains art_painting and photo, test sketch'
    """
    return ", ".join(
        [kind, *(f"{part} {names.replace(SEPARATOR, ' and ')}" for part, names in given.items())]
    )


def _compare_counts(
    table: DomainTable, column: str, published: Mapping[str, int]
) -> tuple[str, ...]:
    """Say which domains or splits have another number of images than published."""
    counts = Counter(table.columns[column])
    return tuple(
        f"the {column} {name} has {counts[name]:,} images, and {number:,} were published"
        for name, number in published.items()
        if counts[name] != number
    )


def plain_name(name: str) -> str:
    """A name without case, blanks and marks: copies of a set write them in several ways.

    >>> plain_name("Real World"), plain_name("real_world")
    ('realworld', 'realworld')
    """
    return re.sub(r"[\W_]", "", name).casefold()

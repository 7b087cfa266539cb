"""One file per image: `folder:PATH`, `images:PATH`, `csv:PATH`, and folders of several domains."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.data.findings import (
    SEPARATOR,
    FindingColumns,
    FindingLabels,
    has_several_findings,
    list_finding_columns,
    read_finding_columns,
    split_findings,
)
from fairweather.data.groups import read_text_table
from fairweather.data.sources import (
    FILE_COLUMNS,
    SPLIT_NAMES,
    UNSPLIT,
    Listing,
    Source,
    SourceRequest,
    check_exists,
    check_same_classes,
    list_files,
    relative_names,
    require_path,
    split_parts,
)
from fairweather.errors import InputError, join_names, unknown_name
from fairweather.files.tables import find_text_format, read_csv_rows
from fairweather.types.measurement import CLASSIFICATION, MULTILABEL, BoolArray, IntArray, TextArray
from fairweather.types.options import SPLITS

# ---------------------------------------------------------------- folder:PATH and images:PATH

UNLABELLED = "unlabelled"  # the one class of images without labels


def list_folder(request: SourceRequest) -> Source:
    """Image files in split folders (`train/cat/1.jpg`) or in class folders alone (`cat/1.jpg`).

    Split folders are called train or training, val, valid or validation, test or testing, in upper
    or lower case; other folders beside them are ignored. Classes and files are sorted by name.
    Files in nested folders belong to their class. Hidden files are ignored. Every other file counts
    as an image, so that a file that is not an image is reported and not silently left out.

    A folder of images without class folders takes its labels from the one table in it, or beside it
    with its name, as `csv:` does.

    Raises:
        InputError: the folder is missing, or has no class folders, an empty class folder, two
            folders for one split, or splits with different classes.
    """
    path = require_path(request)
    if not path.is_dir():
        raise InputError(
            f"{str(path)!r} is a file; folder: needs a folder with one folder per class"
        )
    if (table := _find_table(path)) is not None:
        images = f",{IMAGES}={path.name}" if table.parent != path else ""
        listed = list_csv(request._replace(path=Path(f"{table}{images}")))
        remark = f"the labels are those of {table.name}"
        return listed._replace(remarks=(remark, *listed.remarks))
    roots = _split_folders(path)
    folders = {split: _class_folders(root) for split, root in roots.items()}
    classes = check_same_classes(
        {split: tuple(folder.name for folder in below) for split, below in folders.items()}
    )
    names = {split: root.name for split, root in roots.items() if split != UNSPLIT}
    splits = {split: _list_class_folders(folders[split], path) for split in folders}
    return Source(classes, splits, parts=names)


def list_images(request: SourceRequest) -> Source:
    """Image files without labels, in a folder and the folders in it: for `--ood`.

    Files are sorted by name. All images have the one class `unlabelled`, so that a model can be
    asked about them but not judged by them. Hidden files are ignored.

    Raises:
        InputError: the folder is missing or has no files.
    """
    path = require_path(request)
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is a file; images: needs a folder with image files")
    paths = tuple(_visible_files(path))
    if not paths:
        raise InputError(f"{str(path)!r} has no files")
    labels = np.zeros(len(paths), np.int64)
    return Source((UNLABELLED,), {UNSPLIT: _list_below(paths, labels, path)})


def _find_table(path: Path) -> Path | None:
    """The one table of a folder without class folders: in it, or beside it with its name."""
    folders = visible_folders(path)
    if len(folders) > 1 or any(map(visible_folders, folders)):
        return None
    tables = [file for file in _visible(path) if file.suffix.lower() in TABLE_SUFFIXES]
    if not folders:
        beside = (
            path.absolute().with_name(f"{path.absolute().name}{end}") for end in TABLE_SUFFIXES
        )
        tables += [file for file in beside if file.is_file()]
    return tables[0] if len(tables) == 1 else None


def _split_folders(path: Path) -> dict[str, Path]:
    folders = visible_folders(path)
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if len(named) < len(folders):
        # A class may be called "train". Beside class folders, a folder is a split only if it
        # contains folders.
        named = [folder for folder in named if visible_folders(folder)]
    splits: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            both = f"{splits[split].name} and {folder.name}"
            raise InputError(f"{str(path)!r} has two folders for {split}: {both}")
        splits[split] = folder
    return {split: splits[split] for split in SPLITS if split in splits} or {UNSPLIT: path}


def _class_folders(root: Path) -> list[Path]:
    folders = visible_folders(root)
    if not folders:
        raise InputError(
            f"{str(root)!r} has no class folders: it needs one folder per class; a table with the "
            "label of each file is csv:PATH, and images without labels are images:PATH"
        )
    return folders


def _list_class_folders(folders: list[Path], root: Path) -> Listing:
    paths: list[Path] = []
    counts: list[int] = []
    for folder in folders:
        before = len(paths)
        paths.extend(_visible_files(folder))
        counts.append(len(paths) - before)
        if not counts[-1]:
            raise InputError(f"class folder {str(folder)!r} is empty")
    return _list_below(tuple(paths), np.repeat(np.arange(len(folders)), counts), root)


def _list_below(paths: tuple[Path, ...], labels: IntArray, root: Path) -> Listing:
    return list_files(labels, paths, relative_names(root, paths))


def _visible(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entries, key=lambda entry: entry.name)


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name."""
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders in it, in the order of their names."""
    # No recursion: folders may be nested deeper than calls may.
    iterators = [iter(_visible(folder))]
    while iterators:
        entry = next(iterators[-1], None)
        if entry is None:
            iterators.pop()
        elif entry.is_dir():
            if entry.is_symlink() and entry.parent.resolve().is_relative_to(entry.resolve()):
                raise InputError(f"{str(entry)!r} is a link to a folder that contains it")
            iterators.append(iter(_visible(entry)))
        elif entry.is_file():
            yield entry
        else:
            raise InputError(f"{str(entry)!r} cannot be read: it is not a file")


# ---------------------------------------------------------------- csv:PATH

TABLE_SUFFIXES = (".csv", ".tsv")
# The accepted names of columns, in any case.
TABLE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": FILE_COLUMNS,
    "label": ("label", "class", "target", "diagnosis", "dx", "finding labels"),
    "split": ("split",),
}
IMAGES = "images"  # the folder of the files
FINDINGS, EMPTY = "findings", "empty"  # the columns of findings, and what their empty cells mean
CSV_PARTS = (*TABLE_COLUMNS, IMAGES, FINDINGS, EMPTY)


class LabelTable(NamedTuple):
    """The lines of a table, with the columns that say which image each is about."""

    place: str
    """The path of the table, for messages."""

    header: list[str]
    rows: list[list[str]]
    """The cells of each line below the header."""

    lines: list[int]
    """The number of each line."""

    columns: Mapping[str, int | None]
    """The places of the columns in `TABLE_COLUMNS`; None for one that the table lacks."""

    def name_row(self, row: int) -> str:
        """Say where a row stands, for messages."""
        return f"line {self.lines[row]} of {self.place}"

    def read(self, kind: str) -> list[str]:
        """The cells of a column; raises `InputError` for an empty one."""
        column = self.columns[kind]
        assert column is not None
        cells = [row[column] for row in self.rows]
        if "" in cells:
            raise InputError(f"{self.name_row(cells.index(''))} has no {kind}")
        return cells

    def splits(self) -> list[str]:
        """The split of each row."""
        if self.columns["split"] is None:
            return [UNSPLIT] * len(self.rows)
        for row, text in enumerate(cells := self.read("split")):
            if text.lower() not in SPLIT_NAMES:
                known = ", ".join(SPLIT_NAMES)
                raise InputError(f"{self.name_row(row)} has the split {text!r}; known are {known}")
        return [SPLIT_NAMES[text.lower()] for text in cells]

    def by_name(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The cells of some columns; raises `InputError` for one that is not there, or twice."""
        for name in names:
            if name not in self.header:
                raise unknown_name(f"column of {self.place}", name, self.header)
            if self.header.count(name) > 1:
                raise InputError(f"{self.place} has two columns with the name {name!r}")
        return {name: [row[self.header.index(name)] for row in self.rows] for name in names}

    def select(self, rows: IntArray, names: list[str]) -> pd.DataFrame:
        """Some rows of some columns; raises `InputError` for a column that is not there."""
        for name in names:
            if name not in self.header:
                unknown = unknown_name(f"column of {self.place}", name, self.header)
                raise InputError(f"{unknown}; metadata (--metadata) names another table")
        return pd.DataFrame(self.by_name(names)).iloc[rows]


def list_csv(request: SourceRequest) -> Source:
    """Image files named in a table with their labels: labels.csv[,label=COLUMN][,images=FOLDER].

    The table is CSV (with commas, semicolons or tabs) with a header. The columns of files, labels
    and splits are found by their names (`TABLE_COLUMNS`), or stated: `,file=NAME`, `,label=NAME`,
    `,split=NAME`. Files are below the folder of the table, below the only folder in it, or below
    `images=FOLDER`, which may be relative to it. A missing extension is found if only one file
    fits. Split names are those of `folder:`; without such a column, the table is one set. Classes
    are sorted by name, or by number if all are whole numbers. Keys count the rows of each split.

    Images may have several findings. Then a cell of the label is like `Effusion|Mass` or `No
    Finding`, or each finding has a column of 0, 1, -1 (unknown) and empty cells, which
    `,findings=Effusion|Mass` names. `,empty=absent` takes an empty cell for 0 instead of unknown.

    Raises:
        InputError: a column is missing, there are several, or a row names a file that is missing,
            is named twice or lies outside the folder, has no label, or an unknown split.
    """
    path, given = split_parts(request.path or Path(), "csv", CSV_PARTS, ending=r"\.[ct]sv")
    check_exists(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; csv: needs a table, such as labels.csv")
    asked, table = FindingColumns.read(given), _read_table(path, given)
    classes, labels, findings = _read_labels(table, asked)
    folder = path.parent / Path(given.get(IMAGES, "")).expanduser()
    check_exists(folder)
    if IMAGES not in given:
        folder = _only_folder(folder, table.read("file")[0])
    row_splits, files = np.array(table.splits()), _find_files(folder, table)
    splits = {}
    for split in (*SPLITS, UNSPLIT):
        rows = np.flatnonzero(row_splits == split)
        if len(rows):
            names = tuple(files[row] for row in rows)
            listing = list_files(labels[rows], tuple(folder / name for name in names), names)
            splits[split] = listing._replace(table=partial(table.select, rows))
    remark = find_text_format(path).remark(path.name)
    understood = "" if findings is None else f"findings: {findings.describe(asked.empty)}"
    return Source(
        classes,
        splits,
        task=CLASSIFICATION if findings is None else MULTILABEL,
        remarks=tuple(filter(None, (remark, understood))),
    )


def _read_labels(
    table: LabelTable, asked: FindingColumns
) -> tuple[tuple[str, ...], IntArray, FindingLabels | None]:
    """Classes, the labels of all rows, and what was read if these are findings."""
    column = table.columns["label"]
    if asked.names and (column is None or set(asked.names) & set(table.header)):
        cells_by_name = table.by_name(asked.names)
        findings = read_finding_columns(cells_by_name, asked.empty, table.name_row)
        return findings.names, findings.labels, findings
    cells = table.read("label")
    if asked.names or has_several_findings(cells):
        place = f"the column {table.header[column or 0]!r} of {table.place}"
        findings = split_findings(cells, asked.names, place)
        return findings.names, findings.labels, findings
    classes = _sort_classes(set(cells))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, np.array([numbers[cell] for cell in cells], dtype=np.int64), None


def _read_table(path: Path, given: Mapping[str, str]) -> LabelTable:
    lines = read_csv_rows(path)
    header = lines[0][1] if lines else []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            position = f"line {number} of {str(path)!r}"
            raise InputError(f"{position} has {len(cells)} cells, and the header has {len(header)}")
    rows = [cells for _, cells in lines[1:]]
    table = LabelTable(repr(str(path)), header, rows, [number for number, _ in lines[1:]], {})
    if not rows and header:
        raise InputError(f"{table.place} has no rows")
    return table._replace(
        columns={kind: _find_column(table, kind, given) for kind in TABLE_COLUMNS}
    )


def _find_column(table: LabelTable, kind: str, given: Mapping[str, str]) -> int | None:
    """The place of a column; None if there is no column of splits, or of labels and findings are
    named."""
    place, header = table.place, table.header
    if kind in given:
        if given[kind] not in header:
            raise unknown_name(f"column of {place}", given[kind], header)
        return header.index(given[kind])
    fitting = [at for at, name in enumerate(header) if name.lower() in TABLE_COLUMNS[kind]]
    if len(fitting) == 1:
        return fitting[0]
    if (not fitting and kind == "split") or (kind == "label" and FINDINGS in given):
        return None
    names = ", ".join(header) or "nothing"
    problem = f"several columns that could be the {kind}" if fitting else f"no {kind} column"
    if kind == "label" and not fitting:
        cells = {name: [row[at] for row in table.rows] for at, name in enumerate(header)}
        if likely := list_finding_columns(cells):
            raise InputError(
                f"{place} has {problem}, and {len(likely)} of its columns have only 0, 1, -1 and "
                f"empty cells: if these are findings, write csv:PATH,{FINDINGS}="
                f"{SEPARATOR.join(likely)}"
            )
    raise InputError(
        f"{place} has {problem}: its columns are {names}; it must have one of "
        f"{', '.join(TABLE_COLUMNS[kind])}, or say which with csv:PATH,{kind}=NAME"
    )


def _only_folder(folder: Path, first: str) -> Path:
    """The only folder in a folder, if the first file of a table is there and not in the folder."""
    names = {name for entry in _visible(folder) for name in (entry.name, entry.stem)}
    inner = visible_folders(folder)
    return inner[0] if len(inner) == 1 and not names & {*Path(first).parts[:1]} else folder


def _find_files(folder: Path, table: LabelTable) -> list[str]:
    """The path of each row's file below the folder."""

    @cache
    def names_in(place: Path) -> dict[str, list[str]]:
        """The files of a folder by their names without extension, read once."""
        by_stem: dict[str, list[str]] = {}
        for entry in place.iterdir() if place.is_dir() else ():
            by_stem.setdefault(entry.stem, []).append(entry.name)
        return by_stem

    lines: dict[str, str] = {}  # by file: the row that names it
    for row, name in enumerate(table.read("file")):
        path, position = Path(name), table.name_row(row)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{position} names {name!r}, and files must be named from a folder on: say "
                "which folder with csv:PATH,images=FOLDER"
            )
        place = folder / path
        fitting = [path.name]
        if not place.is_file():
            fitting = names_in(place.parent).get(path.name, [])
        if len(fitting) != 1:
            problem = f"several files ({', '.join(sorted(fitting))})" if fitting else "no file"
            raise InputError(f"{position} names {name!r}: {problem} of {str(folder)!r}")
        file = (path.parent / fitting[0]).as_posix()
        if file in lines:
            raise InputError(f"{position} names {file!r} again; it stands in {lines[file]}")
        lines[file] = position
    return list(lines)


def _sort_classes(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


# ---------------------------------------------------------------- kinds of pictures, or hospitals

DOMAIN, HOSPITAL = "domain", "hospital"  # the columns that say where an image is from
DOMAINS, TEST = "domains", "test"  # parts of a specification: which domains, and the one held out
SPLIT, VAL = "split", "val"  # more of Camelyon17: one official split, and the validation images
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

"""The sources `folder:PATH`, `images:PATH` and `csv:PATH`: one file per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
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
from fairweather.errors import InputError, unknown_name
from fairweather.files.tables import find_text_format, read_csv_rows
from fairweather.types.measurement import CLASSIFICATION, MULTILABEL, IntArray
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
            raise InputError(
                f"{position} names {name!r}: {problem} of {str(folder)!r}; if files are "
                "elsewhere, say where with csv:PATH,images=FOLDER"
            )
        file = (path.parent / fitting[0]).as_posix()
        if file in lines:
            raise InputError(f"{position} names {file!r} again; it stands in {lines[file]}")
        lines[file] = position
    return list(lines)


def _sort_classes(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))

"""The source `csv:PATH`: image files in a folder, and a table with the file and label of each."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairweather.data.source import (
    FILE_COLUMNS,
    SPLIT_NAMES,
    SPLITS,
    WHOLE,
    Request,
    Source,
    check_exists,
    listing_of_files,
)
from fairweather.errors import InputError, unknown_name

# The names of columns that are understood, in any case.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": FILE_COLUMNS,
    "label": ("label", "class", "target", "diagnosis", "dx"),
    "split": ("split",),
}
IMAGES = "images"  # the folder of the files
FORM = re.compile(r"(?P<path>.*?\.[ct]sv)(?P<given>(,[^,=]+=[^,]*)*)", re.IGNORECASE)


class Row(NamedTuple):
    """One line of the table: where it stands, and its file, label and split."""

    where: str
    file: str
    label: str
    split: str


def list_csv(request: Request) -> Source:
    """Image files named in a table with their labels: labels.csv[,label=COLUMN][,images=FOLDER].

    The table is CSV (with commas, semicolons or tabs) with a header. The columns of files, labels
    and splits are found by their names (`COLUMNS`), or stated: `,file=NAME`, `,label=NAME`,
    `,split=NAME`. Files are below the folder of the table, or below `images=FOLDER`, which may be
    relative to it. A missing extension is found if only one file fits. Split names are those of
    `folder:`; without such a column, the table is one set. Classes are sorted by name, or by number
    if all are whole numbers. Keys count the rows of each split.

    Raises:
        InputError: a column is missing, there are several, or a row names a file that is missing,
            is named twice or lies outside the folder, has no label, or an unknown split.
    """
    path, given = _read_form(request.path or Path())
    check_exists(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; csv: needs a table, such as labels.csv")
    rows = _read_rows(path, given)
    folder = path.parent / Path(given.get(IMAGES, "")).expanduser()
    check_exists(folder)
    files = _find_files(folder, rows)
    classes = _classes({row.label for row in rows})
    numbers = {name: number for number, name in enumerate(classes)}
    splits = {}
    for split in (*SPLITS, WHOLE):
        places = [place for place, row in enumerate(rows) if row.split == split]
        if places:
            labels = np.array([numbers[rows[place].label] for place in places], dtype=np.int64)
            names = tuple(files[place] for place in places)
            splits[split] = listing_of_files(labels, tuple(folder / each for each in names), names)
    return Source(classes, splits)


def _read_form(path: Path) -> tuple[Path, dict[str, str]]:
    """Take the stated columns and the folder off the end of a path.

    >>> _read_form(Path("skin/labels.csv,label=dx,images=photos"))[1]
    {'label': 'dx', 'images': 'photos'}
    """
    found = FORM.fullmatch(str(path))
    if found is None:
        return path, {}
    pairs = [each.partition("=") for each in found["given"].split(",")[1:]]
    for name, _, _ in pairs:
        if name not in (*COLUMNS, IMAGES):
            raise unknown_name("part of csv:", name, (*COLUMNS, IMAGES))
    return Path(found["path"]), {name: value for name, _, value in pairs}


def _read_rows(path: Path, given: Mapping[str, str]) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(lines, [])]
            columns = {kind: _column(path, header, kind, given) for kind in COLUMNS}
            for cells in lines:
                where = f"line {lines.line_num} of {str(path)!r}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{where} has {len(cells)} cells, and the header has {len(header)}"
                    )
                rows.append(_row(where, cells, columns))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{str(path)!r} cannot be read as CSV: {error}") from error
    if not rows:
        raise InputError(f"{str(path)!r} has no rows")
    return rows


def _column(path: Path, header: Sequence[str], kind: str, given: Mapping[str, str]) -> int | None:
    """The place of a column; None if there is no column of splits."""
    if kind in given:
        if given[kind] not in header:
            raise unknown_name(f"column of {str(path)!r}", given[kind], header)
        return header.index(given[kind])
    fitting = [place for place, name in enumerate(header) if name.lower() in COLUMNS[kind]]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and kind == "split":
        return None
    found = ", ".join(header) or "nothing"
    problem = f"several columns that could be the {kind}" if fitting else f"no {kind} column"
    raise InputError(
        f"{str(path)!r} has {problem}: its columns are {found}; it must have one of "
        f"{', '.join(COLUMNS[kind])}, or say which with csv:PATH,{kind}=NAME"
    )


def _row(where: str, cells: Sequence[str], columns: Mapping[str, int | None]) -> Row:
    said = {kind: cells[place].strip() for kind, place in columns.items() if place is not None}
    for kind, text in said.items():
        if not text:
            raise InputError(f"{where} has no {kind}")
    split = said.get("split")
    if split is None:
        return Row(where, said["file"], said["label"], WHOLE)
    if split.lower() not in SPLIT_NAMES:
        raise InputError(f"{where} has the split {split!r}; known are {', '.join(SPLIT_NAMES)}")
    return Row(where, said["file"], said["label"], SPLIT_NAMES[split.lower()])


def _find_files(folder: Path, rows: Sequence[Row]) -> list[str]:
    """The path of each row's file below the folder."""

    @cache
    def names_in(place: Path) -> dict[str, list[str]]:
        """The files of a folder by their names without extension, read once."""
        found: dict[str, list[str]] = {}
        for entry in place.iterdir() if place.is_dir() else ():
            found.setdefault(entry.stem, []).append(entry.name)
        return found

    files: list[str] = []
    lines: dict[str, str] = {}
    for row in rows:
        path = Path(row.file)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{row.where} names {row.file!r}, and files must be named from a folder on: say "
                "which folder with csv:PATH,images=FOLDER"
            )
        place = folder / path
        fitting = [path.name]
        if not place.is_file():
            fitting = names_in(place.parent).get(path.name, [])
        if len(fitting) != 1:
            problem = f"several files ({', '.join(sorted(fitting))})" if fitting else "no file"
            raise InputError(f"{row.where} names {row.file!r}: {problem} of {str(folder)!r}")
        file = (path.parent / fitting[0]).as_posix()
        if file in lines:
            raise InputError(f"{row.where} names {file!r} again; it stands in {lines[file]}")
        lines[file] = row.where
        files.append(file)
    return files


def _classes(labels: set[str]) -> tuple[str, ...]:
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))

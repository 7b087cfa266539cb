"""Read which findings an image has from cells of a table: a column of each, or one text of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, join_names, unknown_name
from fairweather.types.measurement import UNKNOWN, IntArray

SEPARATOR = "|"  # between the findings of an image in one cell, such as `Effusion|Mass`
NO_FINDING = "no finding"  # the cell of an image without any, in upper or lower case
# What an empty cell of a finding says: by default, no label is made up.
EMPTY_CHOICES: Mapping[str, int] = {"unknown": UNKNOWN, "absent": 0}
_COLUMNS_AT_END = re.compile(r"(?P<path>.*?)(?P<given>(,(findings|empty)=[^,]*)*)", re.DOTALL)
_EMPTY, _WRONG = 2, 3  # codes beside the labels
_CODES = {"": _EMPTY, "nan": _EMPTY, "<na>": _EMPTY, "none": _EMPTY, "true": 1, "false": 0}


class FindingColumns(NamedTuple):
    """What a specification says of the columns of findings."""

    names: tuple[str, ...] = ()
    """The findings; empty if none are named."""

    empty: str = "unknown"
    """The meaning of empty cells, one of `EMPTY_CHOICES`."""

    @classmethod
    def read(cls, given: Mapping[str, str]) -> FindingColumns:
        """Read `findings` and `empty`; raises `InputError` for an unknown meaning.

        >>> FindingColumns.read({"findings": "Mass|Edema", "empty": "absent"})
        FindingColumns(names=('Mass', 'Edema'), empty='absent')
        """
        names = given.get("findings", "")
        columns = cls(
            tuple(name.strip() for name in names.split(SEPARATOR)) if names else (),
            given.get("empty", cls._field_defaults["empty"]),
        )
        parse_empty(columns.empty)
        return columns


def split_specification(path: Path) -> tuple[Path, FindingColumns]:
    """Take `,findings=A|B` and `,empty=absent` off the end of a path.

    >>> split_specification(Path("a.parquet,findings=Mass|Edema"))[1].names
    ('Mass', 'Edema')
    """
    match = _COLUMNS_AT_END.fullmatch(str(path))
    assert match is not None  # every path fits
    given = dict(part.split("=", 1) for part in match["given"].split(",")[1:])
    return Path(match["path"]), FindingColumns.read(given)


class FindingLabels(NamedTuple):
    """What a table says of each image."""

    names: tuple[str, ...]
    """The findings."""

    labels: IntArray
    """int64 `[N, L]`: 1, 0 or `UNKNOWN`."""

    empty: int = 0
    """How many cells are empty."""

    def describe(self, meaning: str = "unknown", option: str = "empty=") -> str:
        """Say what was understood; `meaning` of empty cells is what `option` set.

        >>> FindingLabels(("Effusion", "Mass"), np.array([[1, -1]]), 1).describe("unknown")
        '2 an image: Effusion, Mass; 1 empty cell is unknown (with empty=absent it counts as 0)'
        """
        text = f"{len(self.names)} an image: {join_names(self.names)}"
        if not self.empty:
            return text
        other, label = ("unknown", "unknown") if meaning == "absent" else ("absent", "0")
        subject, pronoun = (
            ("cell is", "it counts") if self.empty == 1 else ("cells are", "they count")
        )
        return (
            f"{text}; {self.empty:,} empty {subject} {meaning} (with {option}{other} {pronoun} as "
            f"{label})"
        )


def parse_empty(text: str) -> int:
    """The label that empty cells have; raises `InputError` for a word that is no choice."""
    if text not in EMPTY_CHOICES:
        raise unknown_name("meaning of empty cells", text, EMPTY_CHOICES)
    return EMPTY_CHOICES[text]


def read_finding_columns(
    columns: Mapping[str, Sequence[object]], empty: str, name_row: Callable[[int], str]
) -> FindingLabels:
    """Read a column of each finding, with cells 0, 1, -1 (unknown) or nothing.

    Args:
        columns: the cells of each finding.
        empty: the meaning of empty cells, one of `EMPTY_CHOICES`.
        name_row: says where a row stands, for messages.

    Raises `InputError` for any other cell.

    >>> read_finding_columns({"Mass": ["1.0", "", "-1"]}, "absent", str).labels.tolist()
    [[1], [0], [-1]]
    """
    label = parse_empty(empty)
    codes = np.stack([_encode(cells) for cells in columns.values()], axis=1)
    if (wrong := codes == _WRONG).any():
        row, column = np.argwhere(wrong)[0]
        name = list(columns)[column]
        raise InputError(
            f"{name_row(int(row))} has {str(columns[name][row])!r:.40} in the column {name!r}, and "
            "a finding is 0, 1, -1 (unknown) or empty"
        )
    is_empty = codes == _EMPTY
    return FindingLabels(tuple(columns), np.where(is_empty, label, codes), int(is_empty.sum()))


def read_finding_matrix(values: npt.NDArray[Any], place: str) -> IntArray:
    """Check labels `[N, L]` of 0, 1, -1 and NaN (unknown), and return them as int64.

    Raises `InputError` for anything else.

    >>> read_finding_matrix(np.array([[1, np.nan]]), "the array").tolist()
    [[1, -1]]
    """
    if values.dtype.kind not in "iufb":
        raise InputError(
            f"{place} must have labels 0, 1 and {UNKNOWN} (unknown), found {values.dtype}"
        )
    unknown = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
    if (wrong := ~np.isin(values, (0, 1, UNKNOWN)) & ~unknown).any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{place} has the label {values[row, column]} in row {row}, column {column}; of "
            f"several findings, labels are 0, 1 and {UNKNOWN} (unknown)"
        )
    return np.where(unknown, UNKNOWN, values).astype(np.int64)


def note_one_hot(labels: npt.NDArray[Any]) -> str:
    """Say that labels `[N, L]` may be classes; "" unless each image has exactly one of several.

    >>> note_one_hot(np.array([[1, 0], [1, 1]]))
    ''
    """
    is_one_hot = labels.ndim > 1 and labels.shape[1] > 1 and (labels != UNKNOWN).all()
    if not is_one_hot or ((labels == 1).sum(axis=1) != 1).any():
        return ""
    return (
        "; each image has exactly one, so these may be classes: then give the number of each as "
        "labels [N]"
    )


def list_finding_columns(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Name the columns that may be findings: their cells are 0, 1, -1 or empty, with a 0 or 1.

    >>> list_finding_columns({"Age": ["61", "1"], "Mass": ["1", ""], "Edema": ["", ""]})
    ['Mass']
    """
    codes = {name: _encode(cells) for name, cells in columns.items()}
    return [
        name
        for name, column in codes.items()
        if (column != _WRONG).all() and np.isin(column, (0, 1)).any()
    ]


def has_several_findings(cells: Iterable[str]) -> bool:
    """Tell whether a cell names several findings, as `Effusion|Mass` does."""
    return any(SEPARATOR in cell for cell in cells)


def split_findings(cells: Sequence[str], names: Sequence[str], place: str) -> FindingLabels:
    """Read cells that name all findings of an image, such as `Effusion|Mass` or `No Finding`.

    Args:
        cells: of each image.
        names: the findings to read; empty for all, in the order of the alphabet.
        place: what messages call the cells.

    Raises `InputError` for a finding that no cell names, and where no cell names any.

    >>> split_findings(["Mass|Effusion", "No Finding", "Mass"], [], "the table")[:2]
    (('Effusion', 'Mass'), array([[1, 1],
           [0, 0],
           [0, 1]]))
    """
    parts = [{part.strip() for part in cell.split(SEPARATOR)} for cell in cells]
    every = sorted(part for part in set().union(*parts) if part.lower() not in ("", NO_FINDING))
    for name in names:
        if name not in every:
            raise unknown_name(f"finding of {place}", name, every)
    if not every:
        raise InputError(f"{place} names no finding: each of its cells is {cells[0]!r}")
    chosen = tuple(names or every)
    labels = np.array([[name in several for name in chosen] for several in parts], dtype=np.int64)
    return FindingLabels(chosen, labels)


def _encode(cells: Sequence[object]) -> IntArray:
    """The label that each cell says, or a code: `_EMPTY`, or `_WRONG` for anything else."""
    texts, places = np.unique([str(cell).strip().lower() for cell in cells], return_inverse=True)
    codes = []
    for text in texts.tolist():
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        known = int(number) if number in (0, 1, UNKNOWN) else _WRONG
        codes.append(_CODES.get(text, known))
    return np.array(codes, dtype=np.int64)[places.reshape(-1)]

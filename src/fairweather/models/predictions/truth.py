"""True labels that are not beside the predictions: a second table, a DataFrame or an array."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from fairweather.data.findings import list_finding_columns, read_finding_matrix
from fairweather.data.groups import group_rows
from fairweather.errors import InputError, quote_names, unknown_name
from fairweather.models.predictions.column_names import KEY_COLUMNS, LABEL_COLUMNS
from fairweather.models.predictions.matching import check_unique, list_short_names
from fairweather.models.predictions.tables import (
    Arrays,
    Column,
    NamedColumns,
    PredictionRows,
    RowOptions,
    find_name,
    label_findings,
    label_rows,
    name_frame,
    read_column,
    read_file,
)
from fairweather.types.measurement import Groups, IntArray
from fairweather.types.options import GroupColumns
from fairweather.types.positive import list_positive


@dataclass(frozen=True)
class Truth:
    """True labels, as they were read: an array, or the columns of a table."""

    place: str
    """What messages call them."""

    values: Column | None
    """`[N]`, whole numbers or text, or int64 `[N, L]`; None for a table."""

    frame: pd.DataFrame
    """The columns of a table besides its keys."""

    label: str | None
    """The column with the one label of each row; None if each finding has a column."""

    keys: Column | None
    """`[N]`, whole numbers or text; None if only the order identifies rows."""

    notes: tuple[str, ...] = ()
    """What was assumed, one sentence each."""

    key_name: str | None = None
    """The column of the keys; None without one."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns; none of an array."""
        key = [] if self.key_name is None else [self.key_name]
        return [*key, *map(str, self.frame.columns)]

    def __len__(self) -> int:
        return len(self.frame if self.values is None else self.values)


def read_truth(labels: object, options: RowOptions) -> Truth:
    """Read true labels: the path of a table, a DataFrame, or an array `[N]` or `[N, L]`.

    A table has the key of each row in the column that predictions have, or in one with a usual
    name. Its labels are in a column such as `label`, or each finding has a column.

    Raises `InputError` if it cannot be read, or has two columns with one name.

    >>> read_truth([0, 1, 1], RowOptions()).values
    array([0, 1, 1])
    """
    if isinstance(labels, str | Path):
        path = Path(labels).expanduser()
        content = read_file(path, path.name, options)
        if not isinstance(content, NamedColumns) and len(content) == 1:
            return _read_values(next(iter(content.values())), path.name)
        table = content if isinstance(content, NamedColumns) else _as_table(content, path.name)
        if not table.headed:
            raise InputError(f"{path.name} must be a table with the names of its columns")
        return _read_frame(table.frame, path.name, options, tuple(filter(None, [table.remark])))
    if isinstance(labels, pd.DataFrame) and not isinstance(labels.columns, pd.RangeIndex):
        return _read_frame(name_frame(labels, "labels"), "labels", options, ())
    return _read_values(labels, "labels")


def _as_table(arrays: Arrays, place: str) -> NamedColumns:
    """Arrays as the columns of a table; raises `InputError` unless all are `[N]`."""
    if any(array.ndim != 1 for array in arrays.values()) or len({*map(len, arrays.values())}) > 1:
        raise InputError(f"{place} must have arrays with one value for each image")
    return NamedColumns(pd.DataFrame(dict(arrays)))


def _read_values(labels: object, place: str) -> Truth:
    values = np.asarray(labels)
    several = values.ndim == 2 and values.shape[1] > 1
    column = read_finding_matrix(values, place) if several else read_column(labels, place)
    return Truth(place, column, pd.DataFrame(), None, None)


def add_truth(rows: PredictionRows, truth: Truth, options: RowOptions) -> PredictionRows:
    """Add true labels to predictions, by key or in their order.

    Raises `InputError` if the predictions have labels too, rows have no label, or no finding is in
    both.

    >>> rows = PredictionRows("the table", np.ones((2, 1)), ("Mass",), None, np.array(["b", "a"]))
    >>> frame = pd.DataFrame({"id": ["a", "b"], "Mass": [1, 0]})
    >>> add_truth(rows, read_truth(frame, RowOptions()), RowOptions()).labels.tolist()
    [[0], [1]]
    """
    if rows.labels is not None:
        raise InputError(
            f"{rows.place} has labels, and labels are given too: leave one of them, or name the "
            "column with predicted classes (--predicted-column)"
        )
    order, note = _match_keys(rows, truth)
    rows = replace(rows, notes=(*rows.notes, *truth.notes, *filter(None, [note])))
    if truth.values is not None:
        if truth.values.ndim > 1 and truth.values.shape[1] != rows.outputs.shape[1]:
            raise InputError(
                f"{rows.place} has {rows.outputs.shape[1]} columns of outputs, and {truth.place} "
                f"have {truth.values.shape[1]} columns"
            )
        return replace(rows, labels=truth.values[order])
    if truth.label is not None:
        return label_rows(rows, truth.frame[truth.label].iloc[order], options)
    chosen = _choose_findings(rows, truth, options)
    unused = [
        name
        for name in list_finding_columns(
            {str(name): cells.tolist() for name, cells in truth.frame.items()}
        )
        if name not in chosen
    ]
    lost = [
        name
        for name in rows.names or ()
        if not options.findings and not _is_among(name, chosen, rows.names or ())
    ]
    if unused and lost:
        raise InputError(
            f"{rows.place} has {quote_names(lost)}, and {truth.place} has {quote_names(unused)}: "
            "call findings alike in both, or name those that are in both with --findings"
        )
    if unused:
        rows = replace(
            rows, notes=(*rows.notes, f"not used of {truth.place}: {quote_names(unused)}")
        )
    columns = {name: truth.frame[name].iloc[order] for name in chosen}
    return label_findings(
        rows, columns, options, lambda row: f"{truth.place}, row {order[row] + 1},"
    )


def has_labels(truth: Truth, rows: PredictionRows) -> bool:
    """Say whether a table has a column of labels, or one with the name of an output.

    >>> rows = PredictionRows("the table", np.ones((2, 1)), ("prob_Mass",), None, None)
    >>> [
    ...     has_labels(read_truth(pd.DataFrame({name: [1, 0]}), RowOptions()), rows)
    ...     for name in ("label", "mass", "site")
    ... ]
    [True, True, False]
    """
    known = {name.lower() for name in truth.columns}
    written = (name.lower() for names in list_short_names(rows.names or ()) for name in names)
    return truth.label is not None or not known.isdisjoint(written)


def read_row_groups(rows: PredictionRows, table: Truth, columns: GroupColumns) -> Groups:
    """Read the groups and slices of predictions from a table, by key or in their order.

    Raises `InputError` if a row has no place in the table, or a column is missing or unusable.

    >>> rows = PredictionRows("the table", np.ones((2, 1)), ("Mass",), None, np.array(["b", "a"]))
    >>> frame = pd.DataFrame({"id": ["a", "b"], "patient": ["A", "B"]})
    >>> columns = GroupColumns(group="patient")
    >>> read_row_groups(rows, read_truth(frame, RowOptions()), columns).names.tolist()
    ['B', 'A']
    """
    order, _ = _match_keys(rows, table, "row")
    return group_rows(table.frame.iloc[order], columns, table.place)


def _read_frame(
    frame: pd.DataFrame, place: str, options: RowOptions, notes: tuple[str, ...]
) -> Truth:
    names = list(map(str, frame.columns))
    label = find_name(
        options.label_column, LABEL_COLUMNS, names, "column", "column of the labels", place
    )
    asked = options.key_column if options.key_column in names else None
    key = find_name(asked, KEY_COLUMNS, names, "column", "column of the keys", place)
    if label is None:
        label = next((name for name in list_positive(options.positive) if name in names), None)
    if key is None and "" in names:  # the index of a DataFrame
        key = ""
    if key is None and options.key_column is not None:  # else it may be that of the predictions
        raise unknown_name(f"column of {place}", options.key_column, names)
    keys = None if key is None else read_column(frame[key], f"{place}, column {key!r}")
    if keys is not None:
        check_unique(map(str, keys.tolist()), place)
    rest = frame if key is None else frame.drop(columns=key)
    return Truth(place, None, rest, label, keys, notes, key)


def _match_keys(rows: PredictionRows, truth: Truth, noun: str = "labels") -> tuple[IntArray, str]:
    """The row of the truth for each row of predictions, and a note on rows without predictions."""
    count = len(rows.outputs)
    if truth.keys is None:
        if len(truth) != count:
            raise InputError(
                f"{rows.place} has {count:,} rows, and there are {len(truth):,} labels"
                + ("" if truth.values is not None else ": name their keys with --key-column")
            )
        if truth.values is None and rows.keys is not None:
            raise _missing_keys_error(truth.place, rows.place)
        return np.arange(count), ""
    if rows.keys is None:
        raise _missing_keys_error(rows.place, truth.place)
    row_by_key = {str(key): row for row, key in enumerate(truth.keys.tolist())}
    keys = list(map(str, rows.keys.tolist()))
    first, notes = next(iter(row_by_key), ""), []
    if not row_by_key.keys() >= {*keys}:
        shorter = {_without_suffix(key): row for key, row in row_by_key.items()}
        short = list(map(_without_suffix, keys))
        if len(shorter) == len(row_by_key) and shorter.keys() >= {*short}:
            row_by_key, keys = shorter, short
            notes.append(f"keys of {truth.place} are matched without suffixes such as .png")
    if missing := [key for key in keys if key not in row_by_key]:
        raise InputError(
            f"{len(missing):,} of {count:,} keys of {rows.place} have no {noun} in {truth.place}: "
            f"{quote_names(missing)}; there, keys are such as {first!r}"
        )
    if extra := len(row_by_key) - len(set(keys)):
        notes.append(f"{extra:,} rows of {truth.place} have no predictions and are not used")
    return np.array([row_by_key[key] for key in keys], dtype=np.int64), "; ".join(notes)


def _missing_keys_error(place: str, other: str) -> InputError:
    return InputError(
        f"{place} lacks the keys that {other} has: name a column of both with --key-column"
    )


def _without_suffix(key: str) -> str:
    return str(PurePosixPath(key).with_suffix("")) if PurePosixPath(key).name else key


def _choose_findings(rows: PredictionRows, truth: Truth, options: RowOptions) -> list[str]:
    """The columns of the truth that are findings: those that have outputs, or that are named."""
    names = list(map(str, truth.frame.columns))
    for name in options.findings:
        if name not in names:
            raise unknown_name(f"finding of {truth.place}", name, names)
    outputs = options.classes or rows.names
    if outputs is None and rows.predicted is not None:
        raise InputError(
            f"{rows.place} was read as predicted classes, and {truth.place} has no column of "
            "labels (--label-column); of findings, give each one column of plain numbers"
        )
    if outputs is None:
        raise InputError(
            f"the outputs of {rows.place} have no names: name the finding of each with --classes"
        )
    known: set[str] = set()
    for written in list_short_names(outputs):
        known = {name.lower() for name in written} & {name.lower() for name in names}
        lacking = [name for name in written if name.lower() not in known]
        if known:
            break
    _check_spelling(lacking, [name for name in names if name.lower() not in known], rows, truth)
    if not known and not options.findings:
        raise InputError(
            f"{truth.place} has no column with the name of an output of {rows.place}: it has "
            f"{quote_names(names)}, and the outputs are {quote_names(outputs)}; if a column "
            "has the class of each image, name it with --label-column"
        )
    return list(options.findings) or [name for name in names if name.lower() in known]


def _is_among(name: str, findings: Sequence[str], names: Sequence[str]) -> bool:
    """Say whether an output is one of some findings, by its name or without an affix of all."""
    place, known = list(names).index(name), {finding.lower() for finding in findings}
    return any(short[place].lower() in known for short in list_short_names(names))


def _check_spelling(
    outputs: Sequence[str], names: Sequence[str], rows: PredictionRows, truth: Truth
) -> None:
    """Raise `InputError` for an output that is called almost as a finding."""
    for output in outputs:
        if closest := difflib.get_close_matches(output, names, n=1, cutoff=0.8):
            raise InputError(
                f"{rows.place} has outputs of {output!r}, which {truth.place} does not have; did "
                f"you mean {closest[0]!r}?"
            )

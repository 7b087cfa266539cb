"""Predictions in CSV, parquet and npz files, DataFrames and arrays: outputs, labels, keys."""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from fairweather.data.findings import (
    has_several_findings,
    read_finding_columns,
    read_finding_matrix,
    split_findings,
)
from fairweather.errors import UNREADABLE_ARRAYS, InputError, first_line, quote_names, unknown_name
from fairweather.files.tables import (
    GZIP,
    LISTS,
    MISSING_VALUES,
    TextFormat,
    find_decimal,
    find_delimiter,
    find_encoding,
    open_text,
    read_parquet_batches,
    read_parquet_schema,
    read_parquet_table,
)
from fairweather.models.predictions.column_names import (
    CLASS_ARRAYS,
    CONFIDENCE_COLUMNS,
    DERIVED_COLUMNS,
    FINDING_LABEL,
    INDEX_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    OUTPUT_ARRAYS,
    PLACE_COLUMNS,
    PREDICTED_COLUMNS,
    SEPARATORS,
)
from fairweather.models.predictions.json_files import read_json
from fairweather.types.measurement import FloatArray

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*CSV_SUFFIXES, ".parquet", ".npz", ".npy", *JSON_SUFFIXES)
SPACES = r"\s+"  # the separator of files without commas, semicolons and tabs
AFTER_LAST = "after the last column"  # empty cells, where each line ends with a separator
LINES_LOOKED_AT = 20  # lines that are checked for the separator and a header
Column = npt.NDArray[Any]
Content: TypeAlias = "Path | pd.DataFrame | npt.NDArray[Any]"
Arrays = Mapping[str, npt.NDArray[Any]]


class RowOptions(NamedTuple):
    """The options for files of predictions; the rest is detected."""

    outputs: str = "auto"
    """`auto`, `logits` or `probabilities`."""

    label_column: str | None = None
    key_column: str | None = None
    """`label_column`, `key_column`: names of columns; a column of a file without a header is called
    by its number, from 0."""

    predicted_columns: tuple[str, ...] = ()
    """The column with the predicted class, or one for each model; empty for a usual name."""

    confidence_column: str | None = None
    """The column with the confidence in the predicted class."""

    classes: tuple[str, ...] = ()
    """The class of each column of outputs."""

    findings: tuple[str, ...] = ()
    """The findings to judge; empty for all that have outputs and labels."""

    empty_labels: str = "unknown"
    """What an empty label of a finding means."""

    positive: str | tuple[str, ...] = ()
    """The classes that are findings, as for `load_data`."""


NOTHING_ASKED = RowOptions()  # everything is detected


class NamedColumns(NamedTuple):
    """The columns of a table."""

    frame: pd.DataFrame
    headed: bool = True
    """Whether the names of the columns mean anything; otherwise they are numbers."""

    remark: str = ""
    """What is unusual about the file; "" if nothing is."""


@dataclass(frozen=True)
class PredictionRows:
    """Predictions as they were read, one row per image."""

    place: str
    """What messages call them."""

    outputs: FloatArray
    """float64 `[N, C]`. With `predicted`, it is the confidence `[N, 1]`, or `[N, 0]` without."""

    names: tuple[str, ...] | None
    """The names of the columns of outputs, with `predicted` of the classes; None without names."""

    labels: Column | None
    """`[N]`, whole numbers or text, or int64 `[N, L]` of findings; None if they are not there."""

    keys: Column | None
    """`[N]`, whole numbers or text; None if only the order identifies rows."""

    notes: tuple[str, ...] = ()
    """What was assumed, one sentence each."""

    places: bool = False
    """Whether the column of keys is called `key`, so that its numbers are places."""

    findings: tuple[str, ...] | None = None
    """The findings that labels `[N, L]` are of; None if they have no names."""

    only_present: bool = False
    """Whether each row names the findings that are there, as `Effusion|Mass` does."""

    predicted: Column | None = None
    """`[N]`, the predicted classes, whole numbers or text; None if the outputs are of classes."""


def read_rows(
    content: Content,
    place: str,
    options: RowOptions,
    classes: int | None = None,
    elsewhere: Collection[str] = (),
) -> PredictionRows:
    """Read predictions from a file, a table or an array.

    Args:
        content: a .csv, .tsv, .txt, .parquet, .npz or .npy file, a DataFrame, or an array `[N, C]`
            or what can become one.
        place: what messages call it.
        options: what is known of it.
        classes: how many classes the data have, if that is known.
        elsewhere: columns of a second table, so that this one may lack those that are asked for.

    Raises:
        InputError: the file cannot be read, or it is unclear what is in it.

    >>> array = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> read_rows(array, "the array", RowOptions()).outputs.shape
    (2, 2)
    """
    if isinstance(content, pd.DataFrame):
        own = {*map(str, content.columns), *map(str, content.index.names)}
        options = _leave_out(options, {*elsewhere} - own)
        return _read_dataframe(content, place, options, classes)
    if isinstance(content, Path):
        table: NamedColumns | Arrays = read_file(content, place, options)
    else:
        try:
            table = {"": np.asarray(content)}
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"{place} must be one array [images, classes]: {error}") from error
    if not isinstance(table, NamedColumns) and (named := _as_frame(table)) is not None:
        table = NamedColumns(named)
    options = _leave_out(options, {*elsewhere} - {*_column_names(table)})
    if isinstance(table, NamedColumns):
        rows = read_frame(table.frame, place, options, headed=table.headed, classes=classes)
        return replace(rows, notes=(*rows.notes, table.remark)) if table.remark else rows
    return _read_arrays(table, place, options)


def _as_frame(arrays: Arrays) -> pd.DataFrame | None:
    """The table in an array with named columns; None for plain arrays."""
    array = next(iter(arrays.values()), None)
    if len(arrays) != 1 or array is None or array.dtype.names is None or array.ndim != 1:
        return None
    return pd.DataFrame({name: array[name].tolist() for name in array.dtype.names})


def _column_names(table: NamedColumns | Arrays) -> list[str]:
    return list(map(str, table.frame.columns if isinstance(table, NamedColumns) else table))


def _leave_out(options: RowOptions, names: Collection[str]) -> RowOptions:
    """The options without columns that only a second table has."""
    label, key = (
        None if name in names else name for name in (options.label_column, options.key_column)
    )
    return options._replace(label_column=label, key_column=key)


def split_suffix(path: Path) -> tuple[str, str]:
    """The name of a file of predictions without its suffix, and the suffix without `.gz`.

    >>> split_suffix(Path("a/resnet-fog,0.5.csv.gz")), split_suffix(Path("b.NPZ"))
    (('resnet-fog,0.5', '.csv'), ('b', '.npz'))
    """
    inner = Path(path.stem)
    if path.suffix.lower() == GZIP and inner.suffix.lower() in (*CSV_SUFFIXES, *JSON_SUFFIXES):
        path = inner
    return path.stem, path.suffix.lower()


def read_file(
    path: Path, place: str, options: RowOptions, rows: int | None = None
) -> NamedColumns | Arrays:
    """The columns of a file, or its arrays by name; of a table only the first rows, if asked."""
    _, suffix = split_suffix(path)
    if suffix not in SUFFIXES:
        raise unknown_name(f"kind of file of predictions, {place},", path.suffix, SUFFIXES)
    if not path.is_file():
        raise InputError(f"predictions: there is no file {str(path)!r}")
    if suffix in CSV_SUFFIXES:
        return _read_csv(path, place, options, rows)
    if suffix in JSON_SUFFIXES:
        content = read_json(path, place)
        if isinstance(content, dict):
            return content
        return NamedColumns(name_frame(content, place))
    return _read_parquet(path, place, rows) if suffix == ".parquet" else _read_npz(path, place)


def read_frame(
    frame: pd.DataFrame,
    place: str,
    options: RowOptions,
    *,
    headed: bool,
    classes: int | None = None,
) -> PredictionRows:
    """Find out which columns are outputs, labels and keys.

    Args:
        frame: columns with distinct names, as text; without a header these are their numbers.
        place: what messages call it.
        options: what is known of it.
        headed: whether the names of the columns mean anything.
        classes: how many classes the data have, if that is known.

    Raises:
        InputError: a column is missing, could be one of several, or does not have numbers.

    >>> frame = pd.DataFrame({"label": [0, 1], "cat": [0.9, 0.2], "dog": [0.1, 0.8]})
    >>> rows = read_frame(frame, "the table", RowOptions(), headed=True)
    >>> rows.names, rows.labels.tolist(), rows.keys is None
    (('cat', 'dog'), [0, 1], True)
    """
    if frame.empty:
        raise InputError(f"{place} has no rows")
    every, notes = [str(name) for name in frame.columns], list[str]()
    asked = _check_asked(options, every, place)
    names = [name for name in every if name not in asked]
    usual = (LABEL_COLUMNS, KEY_COLUMNS) if headed else ((), ())
    subject = "column of the labels: name it with --label-column"
    several = headed and options.label_column is None and not asked
    of_findings = list_label_columns(names) if several else {}
    usual_labels = () if of_findings else usual[0]
    label = find_name(options.label_column, usual_labels, names, "column", subject, place)
    subject = "column of the keys: name it with --key-column"
    key = find_name(options.key_column, usual[1], names, "column", subject, place)
    if label is not None and label == key:
        raise InputError(f"{place}: the column {label!r} cannot have both the labels and the keys")
    rest = [name for name in names if name not in (label, key, *of_findings)]
    keys = None if key is None else read_column(frame[key], f"{place}, column {key!r}")
    index = _find_index(frame, rest, classes or len(options.classes) or None, headed=headed)
    if index is not None:
        rest.remove(index)
        subject = f"the column {index!r}" if headed and index else "the first column"
        keys, note = _read_index(frame[index], keys, key, place, subject)
        notes.append(note)
    places = key is not None and key.lower() in PLACE_COLUMNS
    if predicted := _find_predicted(frame, rest, options, classes, place, headed=headed):
        rows = _read_predicted(frame, predicted, rest, place)
        rows = replace(rows, keys=keys, notes=(*notes, *rows.notes), places=places)
        return rows if label is None else label_rows(rows, frame[label], options)
    derived = [name for name in rest if headed and name.lower() in DERIVED_COLUMNS]
    if derived and len(derived) < len(rest):
        rest = [name for name in rest if name not in derived]
        notes.append(f"not used: {quote_names(derived)}")
    texts = [name for name in rest if is_text_column(frame[name])]
    rest = [name for name in rest if name not in texts]
    if keys is None and len(texts) == 1 and not headed and frame[texts[0]].is_unique:
        keys, texts = read_column(frame[texts[0]], place), []
        notes.append("the column of distinct texts is taken for the keys")
    for name in texts:
        _check_points(frame[name], f"{place}, column {name!r}")
    if texts:
        if keys is None or (label is None and not of_findings and classes is None):
            raise InputError(
                f"{place} has text in the column {quote_names(texts)}: name the column with the "
                "keys (file names) with --key-column, or that with the labels with --label-column, "
                "or leave it out"
            )
        notes.append(f"not used: {quote_names(texts)} (text)")
    if not rest:
        raise InputError(f"{place} has no column of numbers, and there must be one for each class")
    outputs = read_numbers(frame, rest, place)
    headings = tuple(rest) if headed else None
    rows = PredictionRows(place, outputs, headings, None, keys, tuple(notes), places)
    if of_findings:
        columns = {name: frame[column] for column, name in of_findings.items()}
        return label_findings(rows, columns, options, lambda row: f"{place}, row {row + 1},")
    return rows if label is None else label_rows(rows, frame[label], options)


class _Predicted(NamedTuple):
    """The columns with the predicted class of each image."""

    column: str
    confidence: str | None
    """The column with the confidence in it; None if there is none."""


def _check_asked(options: RowOptions, names: Sequence[str], place: str) -> tuple[str, ...]:
    """The columns that the options name for predicted classes and their confidence.

    Raises `InputError` if one is missing.
    """
    asked = (*options.predicted_columns, *filter(None, [options.confidence_column]))
    for name in asked:
        if name not in names:
            raise unknown_name(f"column of {place}", name, names)
    return asked


def _find_predicted(
    frame: pd.DataFrame,
    rest: Sequence[str],
    options: RowOptions,
    classes: int | None,
    place: str,
    *,
    headed: bool,
) -> _Predicted | None:
    """Find the predicted classes, if the other columns are not outputs of all classes.

    Args:
        frame: the table.
        rest: its columns without labels and keys.
        options, classes, place, headed: as in `read_frame`.

    Raises:
        InputError: several columns could be it.
    """
    if options.predicted_columns:
        return _Predicted(
            options.predicted_columns[0], _find_confidence(rest, options, place, headed=headed)
        )
    candidates = [name for name in rest if headed and name.lower() in PREDICTED_COLUMNS]
    numbers = [
        name
        for name in rest
        if name.lower() not in DERIVED_COLUMNS and not is_text_column(frame[name])
    ]
    if not candidates or (options.positive and numbers):
        return None
    outputs = [name for name in numbers if name.lower() not in CONFIDENCE_COLUMNS]
    if len(outputs) > 1 and (
        len(outputs) in (classes, len(options.classes)) or _are_outputs(frame, outputs, candidates)
    ):
        return None
    subject = "column of the predicted classes: name it with --predicted-column"
    column = find_name(None, PREDICTED_COLUMNS, candidates, "column", subject, place)
    assert column is not None, "there is a candidate"
    return _Predicted(column, _find_confidence(rest, options, place, headed=headed))


def _find_confidence(
    rest: Sequence[str], options: RowOptions, place: str, *, headed: bool
) -> str | None:
    usual = CONFIDENCE_COLUMNS if headed else ()
    others = [name for name in rest if name not in options.predicted_columns]
    subject = "column of the confidence: name it with --confidence-column"
    asked = options.confidence_column
    return asked or find_name(None, usual, others, "column", subject, place)


def _are_outputs(frame: pd.DataFrame, outputs: Sequence[str], candidates: Sequence[str]) -> bool:
    """Whether columns of numbers may be outputs, by the classes that are predicted beside them.

    They are if each of these is a number below the number of columns, or in the name of one.
    """
    words = {part.lower() for name in outputs for part in (name, *_split_name(name))}
    for name in candidates:
        values = set(frame[name].astype(str).str.strip().str.lower())
        if all(text in words or any(word.endswith(text) for word in words) for text in values):
            return True
        if all(text.isdecimal() and int(text) < len(outputs) for text in values):
            return True
    return False


def _split_name(name: str) -> list[str]:
    return re.split(f"[{re.escape(SEPARATORS)}]", name)


def _read_predicted(
    frame: pd.DataFrame, columns: _Predicted, rest: Sequence[str], place: str
) -> PredictionRows:
    """The predicted classes and their confidence, with a note on the other columns."""
    predicted = read_column(frame[columns.column], f"{place}, column {columns.column!r}")
    outputs = np.empty((len(frame), 0))
    if columns.confidence is not None:
        outputs = read_confidence(frame[columns.confidence], place)[:, None]
    unused = [name for name in rest if name not in columns]
    notes = (f"not used: {quote_names(unused)}",) if unused else ()
    return PredictionRows(place, outputs, None, None, None, notes, predicted=predicted)


def read_confidence(cells: pd.Series[Any], place: str) -> FloatArray:
    """Read confidences, exactly as they are written; raises `InputError` for what is none.

    >>> read_confidence(pd.Series(["0.5", "1"]), "the table")
    array([0.5, 1. ])
    """
    where = f"{place}, column {cells.name!r}" if cells.name is not None else place
    numbers = np.empty(len(cells))
    for row, cell in enumerate(cells.tolist()):
        try:
            numbers[row] = float(cell)
        except (TypeError, ValueError):
            raise InputError(
                f"{where} has {str(cell)!r:.40} in row {row + 1}, where a confidence must be"
            ) from None
    misfits = ~((numbers >= 0) & (numbers <= 1))
    if misfits.any():
        row = int(misfits.argmax())
        percent = numbers.min() >= 0 and numbers.max() <= 100
        advice = "divide percentages by 100" if percent else "leave the column out if it is another"
        raise InputError(
            f"{where} has {numbers[row]:.6g} in row {row + 1}, and a confidence is the probability "
            f"of the predicted class, in [0, 1]: {advice}"
        )
    return numbers


def label_rows(rows: PredictionRows, cells: pd.Series[Any], options: RowOptions) -> PredictionRows:
    """Add the label of each row: a class, or the names of its findings such as `Effusion|Mass`."""
    place = f"{rows.place}, column {cells.name!r}"
    labels = read_column(cells, place)
    if labels.dtype.kind != "U" or not has_several_findings(labels.tolist()):
        return replace(rows, labels=labels)
    return _split_labels(rows, labels, options.findings, place)


def _split_labels(
    rows: PredictionRows, labels: Column, names: Sequence[str], place: str
) -> PredictionRows:
    read = split_findings(labels.tolist(), names, place)
    notes = (*rows.notes, f"findings: {read.describe()}")
    return replace(rows, labels=read.labels, findings=read.names, notes=notes, only_present=True)


def arrange_findings(rows: PredictionRows, names: tuple[str, ...]) -> PredictionRows:
    """Bring labels of findings into the order of those of the test images.

    A finding that no row names is in none of the images. Raises `InputError` for a finding that has
    no column, or that the test images do not have.

    >>> labels = np.array(["Mass", "No Finding"])
    >>> rows = PredictionRows("the table", np.ones((2, 2)), None, labels, None)
    >>> arrange_findings(rows, ("Edema", "Mass")).labels.tolist()
    [[0, 1], [0, 0]]
    """
    if rows.labels is None:
        return rows
    if rows.labels.dtype.kind == "U":
        rows = _split_labels(rows, rows.labels, (), rows.place)
    assert rows.labels is not None
    if rows.labels.ndim == 1:
        raise InputError(
            f"{rows.place} has one label of each image, and the test images have several findings"
        )
    if rows.findings is None or rows.findings == names:
        return rows
    for name in rows.findings:
        if name not in names:
            raise InputError(
                f"{rows.place} has labels of {name!r}, and the test images have the findings "
                f"{quote_names(names)}"
            )
    columns = []
    for name in names:
        if name in rows.findings:
            columns.append(rows.labels[:, rows.findings.index(name)])
        elif rows.only_present:
            columns.append(np.zeros(len(rows.labels), dtype=np.int64))
        else:
            raise InputError(f"{rows.place} has no labels of {name!r}, which the test images have")
    return replace(rows, labels=np.stack(columns, axis=1), findings=names)


def label_findings(
    rows: PredictionRows,
    columns: Mapping[str, pd.Series[Any]],
    options: RowOptions,
    name_row: Callable[[int], str],
) -> PredictionRows:
    """Add the labels of findings, from the column of each; those that are asked for, if any are.

    `name_row` says where the label of a row stands, for messages.
    """
    for name in options.findings:
        if name not in columns:
            raise unknown_name(f"finding of {rows.place}", name, columns)
    chosen = {name: columns[name].tolist() for name in options.findings or columns}
    read = read_finding_columns(chosen, options.empty_labels, name_row)
    note = f"findings: {read.describe(options.empty_labels, '--empty-labels ')}"
    return replace(rows, labels=read.labels, findings=read.names, notes=(*rows.notes, note))


def list_label_columns(names: Sequence[str]) -> dict[str, str]:
    """The columns with labels of findings, and the finding of each.

    Such a column is called `label_Mass` or `Mass_label` and stands beside one that is called
    `Mass`, `prob_Mass` or `Mass_prob`.

    >>> list_label_columns(["id", "prob_Mass", "Mass_label", "label_id"])
    {'Mass_label': 'Mass'}
    """
    parts = {name: FINDING_LABEL.fullmatch(name) for name in names}
    others = [
        name.lower()
        for name, part in parts.items()
        if part is None and name.lower() not in (*LABEL_COLUMNS, *KEY_COLUMNS)
    ]
    labelled = {}
    for name, part in parts.items():
        if part is None or name.lower() in LABEL_COLUMNS:
            continue
        finding = part["after"] or part["before"]
        ends = [(f"{finding}{mark}".lower(), f"{mark}{finding}".lower()) for mark in SEPARATORS]
        if any(
            other == finding.lower()
            or any(other.startswith(a) or other.endswith(b) for a, b in ends)
            for other in others
        ):
            labelled[name] = finding
    return labelled


def read_column(values: object, place: str) -> Column:
    """Return labels or keys `[N]` as int64 where all are whole numbers, else as text.

    Text such as `007` stays text.

    >>> read_column(["7", "8"], "the file"), read_column(["007", "8"], "the file")
    (array([7, 8]), array(['007', '8'], dtype='<U3'))
    """
    column = np.asarray(values)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise InputError(f"{place} must have one value for each row, found {list(column.shape)}")
    if column.dtype.kind == "f":
        odd = ~np.isfinite(column) | (column != np.round(column))
        if odd.any():
            row = int(odd.argmax())
            raise InputError(
                f"{place} must have whole numbers or text, found {column[row]} in row {row + 1}"
            )
    if column.dtype.kind in "iubf":
        return column.astype(np.int64)
    texts = []
    for row, value in enumerate(column.tolist(), start=1):
        text = value
        if isinstance(value, bytes):
            with suppress(UnicodeDecodeError):  # names are always UTF-8
                text = value.decode()
        if isinstance(text, bool) or not isinstance(text, str | int) or text == "":
            raise InputError(
                f"{place} has {text!r:.60} in row {row}, which is neither a name nor a number"
            )
        texts.append(str(text))
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts):
        return np.array(texts, dtype=np.int64)
    return np.array(texts)


def read_numbers(frame: pd.DataFrame, names: Sequence[str], place: str) -> FloatArray:
    """Return columns as numbers, float64 `[N, C]`; raises `InputError` for anything else."""
    numbers = np.empty((len(frame), len(names)))
    for at, name in enumerate(names):
        column = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        if np.isnan(column).any():
            row = int(np.isnan(column).argmax())
            raise InputError(
                f"{place} has {str(frame[name].iloc[row])!r:.40} in row {row + 1} of the column "
                f"{name!r}, where a number must be"
            )
        numbers[:, at] = column
    return numbers


def find_name(
    asked: str | None,
    usual: Sequence[str],
    names: Collection[str],
    kind: str,
    subject: str,
    place: str,
) -> str | None:
    """Find the requested column or array, or the one with a usual name; None if none has one."""
    if asked is not None:
        if asked not in names:
            raise unknown_name(f"{kind} of {place}", asked, names)
        return asked
    candidates = [name for name in names if name.lower() in usual]
    if len(candidates) > 1:
        listed = quote_names(candidates)
        raise InputError(f"{place} has {listed}, each of which may be the {subject}")
    return candidates[0] if candidates else None


def _find_index(
    frame: pd.DataFrame, rest: Sequence[str], classes: int | None, *, headed: bool
) -> str | None:
    """The column that only numbers or names the rows, as pandas writes its index."""
    if headed:
        return next((name for name in rest if name.lower() in INDEX_COLUMNS), None)
    if classes is None or len(rest) != classes + 1:
        return None
    return rest[0] if _is_counter(frame[rest[0]]) else None


def _is_counter(values: pd.Series[Any]) -> bool:
    if _has_leading_zeros(values):
        return False
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return any(np.array_equal(numbers, np.arange(len(numbers)) + start) for start in (0, 1))


def _has_leading_zeros(values: pd.Series[Any]) -> bool:
    """Whether a value has leading zeros, such as 007, so that it is a name."""
    return bool(values.astype(str).str.match(r"0\d").any())


def _read_index(
    values: pd.Series[Any], keys: Column | None, key: str | None, place: str, subject: str
) -> tuple[Column | None, str]:
    """The keys, and a note on the index column, which numbers the rows or has their keys."""
    if _is_counter(values):
        return keys, f"{subject} counts the rows and is not used"
    if key is not None:
        return keys, f"not used: the index of the table ({subject})"
    plain = pd.to_numeric(values, errors="coerce")
    names = values if plain.isna().any() or _has_leading_zeros(values) else plain
    return read_column(names, f"{place}, {subject}"), f"{subject} is taken for the keys"


def is_text_column(values: pd.Series[Any]) -> bool:
    """Say whether most values are text; `read_numbers` reports a few or missing ones.

    >>> is_text_column(pd.Series(["cat", "1", "dog"])), is_text_column(pd.Series(["1", "nan"]))
    (True, False)
    """
    if values.dtype.kind in "iufb":
        return False
    present = values[~values.astype(str).str.strip().str.lower().isin(MISSING_VALUES)]
    return len(present) > 0 and bool(pd.to_numeric(present, errors="coerce").isna().mean() > 0.5)


def _check_points(values: pd.Series[Any], place: str) -> None:
    commas = values.astype(str).str.fullmatch(r"\s*[-+]?\d*,\d+\s*").to_numpy(bool)
    if commas.mean() > 0.5:
        text = str(values.iloc[int(commas.argmax())])
        raise InputError(f"{place} has {text!r:.40}: write numbers with a decimal point")


def read_header(path: Path) -> list[str]:
    """The cells of the first line of a CSV file; raises `InputError` if the file is not text."""
    lines, _ = _read_first_lines(path)
    return _split_cells(lines[:1], find_delimiter(lines, default=SPACES))[0] if lines else []


def _read_dataframe(
    frame: pd.DataFrame, place: str, options: RowOptions, classes: int | None
) -> PredictionRows:
    headed = not isinstance(frame.columns, pd.RangeIndex)
    plain = name_frame(frame, place)
    if not headed and plain.shape[1] > frame.shape[1]:  # the first column is the index
        rows = read_frame(plain, place, options, headed=True, classes=classes)
        return replace(rows, names=None)
    return read_frame(plain, place, options, headed=headed, classes=classes)


def name_frame(frame: pd.DataFrame, place: str) -> pd.DataFrame:
    """Return a table whose columns are named by texts, the first being its index if that has keys.

    Raises `InputError` for two columns with one name.

    >>> name_frame(pd.DataFrame({"a": [1]}, index=["x"]), "the table").to_dict("list")
    {'': ['x'], 'a': [1]}
    """
    names = [str(name) for name in frame.columns]
    _check_distinct(names, place)
    plain = frame.set_axis(names, axis="columns")
    if frame.index.equals(pd.RangeIndex(len(frame))):  # a sorted index has the order
        return plain
    if "" in names or isinstance(frame.index, pd.MultiIndex):
        raise InputError(f"{place} has an index besides: make it a column (reset_index)")
    plain = plain.reset_index(drop=True)
    index = frame.index.name
    if index is None or str(index) in names:
        index = ""
    plain.insert(0, str(index), pd.Series(frame.index.to_numpy()))
    return plain


def _read_csv(path: Path, place: str, options: RowOptions, rows: int | None = None) -> NamedColumns:
    lines, encoding = _read_first_lines(path)
    if not lines:
        raise InputError(f"{place} is empty")
    separator = find_delimiter(lines, default=SPACES)
    cells = _split_cells(lines, separator)
    decimal = find_decimal(itertools.chain(*cells)) if separator != "," else "."
    headed = _has_header([[cell.replace(decimal, ".") for cell in row] for row in cells])
    if headed:
        names = _name_columns([cell.strip() for cell in cells[0]], cells[1:], place)
    else:
        names = list(map(str, range(len(cells[0]))))
    _check_distinct(names, place)
    predicted = {*options.predicted_columns} or {*map(str.lower, names)} & {*PREDICTED_COLUMNS}
    # The last digit of a confidence counts, which pandas may change.
    texts = {options.label_column, options.key_column, *options.predicted_columns}
    texts |= {options.confidence_column}
    usual = {*LABEL_COLUMNS, *KEY_COLUMNS, *INDEX_COLUMNS} if headed else set()
    usual |= {*CONFIDENCE_COLUMNS} if headed and predicted else set()
    dtypes = {name: str for name in names if name in texts or name.lower() in usual}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells that have no name
            frame = pd.read_csv(
                path,
                sep=separator,
                decimal=decimal,
                header=None,
                names=names,
                skiprows=1 if headed else 0,
                dtype=dtypes,
                nrows=rows,
                index_col=False,
                keep_default_na=False,
                skipinitialspace=True,
                encoding=encoding,
                on_bad_lines="error",
            )
    except (ValueError, OSError, pd.errors.ParserWarning) as error:  # also errors of decoding
        raise InputError(f"{place} cannot be read: {first_line(error)}") from None
    for name in dtypes if decimal == "," else ():
        if name == options.confidence_column or name.lower() in CONFIDENCE_COLUMNS:
            frame[name] = frame[name].str.replace(",", ".")
    if AFTER_LAST in names:
        after = frame.pop(AFTER_LAST).fillna("").astype(str).str.strip()
        if (after != "").any():
            row = int((after != "").to_numpy().argmax())
            raise InputError(
                f"{place} has {after.iloc[row]!r:.40} in row {row + 1} after the last column that "
                "has a name"
            )
    return NamedColumns(frame, headed, TextFormat(encoding, separator, decimal).remark(place))


def _name_columns(header: list[str], rows: Sequence[Sequence[str]], place: str) -> list[str]:
    """The names of all columns; the header may omit the name of the index, as in R.

    >>> _name_columns(["a", "b"], [["1", ".5", ".5"]], ""), _name_columns(["a"], [["1", ""]], "")
    (['', 'a', 'b'], ['a', 'after the last column'])
    """
    ends = bool(rows) and all(len(row) > 1 and not row[-1].strip() for row in rows)
    if ends and header[-1] == "":
        return [*header[:-1], AFTER_LAST]
    for number, row in enumerate(rows, start=1):
        if len(row) > len(header) + 1:
            raise InputError(
                f"{place} has {len(row)} cells in row {number}, and the header has {len(header)}"
            )
    if rows and all(len(row) == len(header) + 1 for row in rows):
        return [*header, AFTER_LAST] if ends else ["", *header]
    return header


def _read_parquet(path: Path, place: str, rows: int | None = None) -> NamedColumns | Arrays:
    if rows is None:
        table = read_parquet_table(path)
    else:
        names = read_parquet_schema(path).names
        table = pa.Table.from_batches(itertools.islice(read_parquet_batches(path, names, rows), 1))
    lists = [field.name for field in table.schema if isinstance(field.type, LISTS)]
    if not lists:
        return NamedColumns(table.to_pandas(ignore_metadata=True))
    outputs = [name for name in lists if name.lower() not in LABEL_COLUMNS]
    if len(outputs) > 1:
        raise InputError(
            f"{place} has lists in {quote_names(outputs)}: leave one of them, the outputs"
        )
    arrays = {name: table[name].to_numpy() for name in table.column_names if name not in lists}
    read = {name: _read_lists(table[name], f"the lists in {name!r} of {place}") for name in lists}
    return {**arrays, **read}


def _read_lists(lists: pa.ChunkedArray, place: str) -> FloatArray:
    """The outputs in a column of lists, float64 `[N, C]`; NaN for missing ones."""
    kind = lists.type.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(f"{place} must have numbers, found {kind}")
    lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(lists)).to_pylist()
    if len(lengths) != 1 or lists.null_count or not lengths[0]:
        raise InputError(f"{place} must all have one length")
    # Part by part, because all parts together may exceed the size of one list.
    parts = [part.flatten().to_numpy(zero_copy_only=False) for part in lists.chunks]
    return np.concatenate(parts).astype(np.float64).reshape(-1, lengths[0])


def _read_npz(path: Path, place: str) -> Arrays:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {"": content} if isinstance(content, np.ndarray) else dict(content)
        for array in arrays.values():
            if isinstance(array, np.ndarray) and array.dtype.kind == "U":
                array.tolist()
    except UNREADABLE_ARRAYS as error:
        raise InputError(f"{place} cannot be read: {first_line(error)}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{place} cannot be read: {name} in it is not an array")
    return arrays


def _read_arrays(arrays: Arrays, place: str, options: RowOptions) -> PredictionRows:
    """Find the arrays with the outputs, the labels and the keys, by their names and shapes."""
    predicted = _find_predicted_array(arrays, options)
    used = [predicted] if predicted is not None else _find_outputs(arrays, options, place)
    outputs = np.empty((len(arrays[used[0]]), 0)) if predicted is not None else arrays[used[0]]
    if predicted is not None and (sure := _find_confidence_array(arrays, options, place)):
        used.append(sure)
        outputs = read_confidence(pd.Series(arrays[sure]), f"{place}, {sure!r}")
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    if outputs.dtype.kind not in "iuf":
        raise InputError(f"{place} must have real numbers, found {outputs.dtype}")
    if not len(outputs):
        raise InputError(f"{place} has no rows")

    def find(asked: str | None, usual: Sequence[str], content: str) -> tuple[str, Column | None]:
        others = [name for name in arrays if name not in used]
        name = find_name(asked, usual, others, "array", f"{content} array", place)
        if name is None:
            return "", None
        array, where = arrays[name], f"{place}, {name!r},"
        if content == "label" and array.ndim == 2 and array.shape[1] > 1:
            return name, read_finding_matrix(array, where)
        return name, read_column(array, where.removesuffix(","))

    _, names = find(None, CLASS_ARRAYS, "class")
    columns = None if names is None else tuple(map(str, names.tolist()))
    if columns is not None and predicted is None and len(columns) != outputs.shape[1]:
        raise InputError(
            f"{place} names {len(columns)} classes and has {outputs.shape[1]} columns of outputs"
        )
    _, labels = find(options.label_column, LABEL_COLUMNS, "label")
    key, keys = find(options.key_column, KEY_COLUMNS, "key")
    answers = None if predicted is None else read_column(arrays[predicted], place)
    for column, content in ((labels, "labels"), (keys, "keys"), (answers, "predicted classes")):
        if column is not None and len(column) != len(outputs):
            counts = f"{len(column):,} {content} for {len(outputs):,} predictions"
            raise InputError(f"{place} has {counts}")
    if not np.isfinite(plain := outputs.astype(np.float64)).all() and np.isnan(plain).any():
        row = int(np.isnan(plain).any(1).argmax())
        raise InputError(f"{place} has nan in row {row + 1}, where a number must be")
    what = "outputs" if predicted is None else "predicted classes"
    notes = () if len(arrays) == 1 else (f"the {what} are {used[0]!r}",)
    places = key.lower() in PLACE_COLUMNS
    rows = PredictionRows(place, plain, columns, labels, keys, notes, places)
    return replace(rows, predicted=answers)


def _find_outputs(arrays: Arrays, options: RowOptions, place: str) -> list[str]:
    """The array of outputs `[images, classes]`; raises `InputError` unless there is one."""
    wide = [name for name, array in arrays.items() if array.ndim == 2 and array.shape[1] > 1]
    if len(wide) > 1:  # labels of findings are wide too
        wide = [name for name in wide if name.lower() not in LABEL_COLUMNS]
    if len(wide) > 1:
        wide = [name for name in wide if name.lower() in OUTPUT_ARRAYS]
    if not wide:
        wide = _find_score_array(arrays, options)
    if len(wide) != 1:
        shapes = [f"{name or 'array'} {list(array.shape)}" for name, array in arrays.items()]
        raise InputError(
            f"{place} must have one array of predictions [images, classes], perhaps beside others "
            f"of other shapes, found {', '.join(shapes) or 'none'}; an array can be called "
            f"{' or '.join(OUTPUT_ARRAYS[:4])}"
        )
    return wide


def _find_predicted_array(arrays: Arrays, options: RowOptions) -> str | None:
    """The array of predicted classes, if no other has outputs; numbers with a fraction are none."""
    if options.predicted_columns:
        _check_asked(options, list(arrays), "the file")
        return options.predicted_columns[0]
    if options.positive or any(
        array.ndim == 2 and array.shape[1] > 1 and name.lower() not in LABEL_COLUMNS
        for name, array in arrays.items()
    ):
        return None
    usual = [name for name in arrays if name.lower() in PREDICTED_COLUMNS or len(arrays) == 1]
    plain = [name for name in usual if arrays[name].ndim == 1 and arrays[name].dtype.kind in "iuU"]
    return plain[0] if len(plain) == 1 else None


def _find_confidence_array(arrays: Arrays, options: RowOptions, place: str) -> str | None:
    subject = "array of the confidence: name it with --confidence-column"
    single = [name for name, array in arrays.items() if array.ndim == 1]
    return find_name(options.confidence_column, CONFIDENCE_COLUMNS, single, "array", subject, place)


def _find_score_array(arrays: Arrays, options: RowOptions) -> list[str]:
    """The array of one score for each image: the only one, or that with a usual name."""
    others = (*LABEL_COLUMNS, *KEY_COLUMNS, *CLASS_ARRAYS)
    named = (options.label_column, options.key_column)
    rest = [
        name
        for name, array in arrays.items()
        if array.ndim in (1, 2) and name not in named and name.lower() not in others
    ]
    return [name for name in rest if name.lower() in OUTPUT_ARRAYS] if len(rest) > 1 else rest


def _read_first_lines(path: Path) -> tuple[list[str], str]:
    """The first lines that are not empty, and the encoding of the file."""
    try:
        encoding = find_encoding(path)
        with open_text(path, encoding) as file:
            lines = [line for line in itertools.islice(file, LINES_LOOKED_AT) if line.strip()]
            return lines, encoding
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _split_cells(lines: Sequence[str], separator: str) -> list[list[str]]:
    if separator == SPACES:  # names may be in quotes
        lines, separator = [line.replace("\t", " ").strip() for line in lines], " "
    return list(csv.reader(lines, delimiter=separator, skipinitialspace=True))


def _has_header(cells: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns: with no numbers, or the numbers of the classes."""
    first, rest = cells[0], cells[1:]
    numeric = [place for place, cell in enumerate(first) if _is_number(cell)]
    if not numeric:
        return True
    whole = [first[place].strip() for place in numeric]
    counted = any(whole == [str(at + start) for at in range(len(whole))] for start in (0, 1))
    if counted and len(whole) > 1:
        below = [row[place] for row in rest for place in numeric if place < len(row)]
        return any(not cell.strip().lstrip("-").isdecimal() for cell in below)
    # A key is text in every line; a name stands above numbers.
    return any(
        place not in numeric and rest and place < len(rest[0]) and _is_number(rest[0][place])
        for place in range(len(first))
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_distinct(names: Sequence[str], place: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{place} has more than one column called {quote_names(twice)}")

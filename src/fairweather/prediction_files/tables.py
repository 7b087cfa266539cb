"""Read predictions from CSV, parquet and npz files, tables of pandas, and arrays."""

from __future__ import annotations

import csv
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from fairweather.errors import UNREADABLE_ARRAYS, InputError, show, unknown_name
from fairweather.parquet_files import read_table
from fairweather.prediction_files.rows import (
    INDEX,
    KEYS,
    LABELS,
    PLACES,
    Asked,
    Rows,
    one_column,
    plain_column,
    rows_of_frame,
)

Content: TypeAlias = "Path | pd.DataFrame | npt.NDArray[Any]"
SEPARATORS = (",", ";", "\t")
AFTER = "after the last column"  # empty cells, where each line ends with a separator
LOOKED_AT = 20  # lines that show the separator and whether there is a header
# Usual names of arrays in npz files.
OUTPUTS = (
    *("probabilities", "probs", "prob", "proba", "logits", "log_probs", "log_probabilities"),
    *("predictions", "preds", "scores", "outputs", "y_prob", "y_proba", "y_score", "y_pred"),
)
CLASSES = ("classes", "class_names", "label_names")


def read_rows(content: Content, place: str, asked: Asked, classes: int | None = None) -> Rows:
    """Read predictions from a file, a table or an array.

    Args:
        content: a .csv, .tsv, .txt, .parquet, .npz or .npy file, a DataFrame, or an array `[N, C]`
            or what can become one.
        place: what messages call it.
        asked: what the options say.
        classes: how many classes the data have, if that is known.

    Raises:
        InputError: the file cannot be read, or it is unclear what is in it.

    >>> read_rows(np.array([[0.9, 0.1], [0.2, 0.8]]), "the array", Asked()).outputs.shape
    (2, 2)
    """
    if isinstance(content, pd.DataFrame):
        return _of_frame(content, place, asked, classes)
    if not isinstance(content, Path):
        try:
            array = np.asarray(content)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"{place} must be one array [images, classes]: {error}") from error
        return _of_arrays({"": array}, place, asked)
    suffix = content.suffix.lower()
    if suffix not in READERS:
        raise unknown_name(f"kind of file of predictions, {place},", content.suffix, READERS)
    if not content.is_file():
        raise InputError(f"predictions: there is no file {str(content)!r}")
    return READERS[suffix](content, place, asked, classes)


def first_line(path: Path) -> list[str]:
    """The cells of the first line of a CSV file; raises `InputError` if it is no text."""
    lines = _first_lines(path)
    return _cells(lines[:1], _separator(lines))[0] if lines else []


def _of_frame(frame: pd.DataFrame, place: str, asked: Asked, classes: int | None) -> Rows:
    names = [str(name) for name in frame.columns]
    _check_distinct(names, place)
    headed = not isinstance(frame.columns, pd.RangeIndex)
    plain = frame.set_axis(names, axis="columns")
    if not frame.index.equals(pd.RangeIndex(len(frame))):  # that of a sorted table has the order
        if "" in names or isinstance(frame.index, pd.MultiIndex):
            raise InputError(f"{place} has an index besides: make it a column (reset_index)")
        plain = plain.reset_index(drop=True)
        index = frame.index.name
        if index is None or str(index) in names:
            index = ""
        plain.insert(0, str(index), pd.Series(frame.index.to_numpy()))
        if not headed:  # the first column is that index
            rows = rows_of_frame(plain, place, asked, headed=True, classes=classes)
            return replace(rows, names=None)
    return rows_of_frame(plain, place, asked, headed=headed, classes=classes)


def _of_csv(path: Path, place: str, asked: Asked, classes: int | None) -> Rows:
    lines = _first_lines(path)
    if not lines:
        raise InputError(f"{place} is empty")
    separator = _separator(lines)
    cells = _cells(lines, separator)
    headed = _has_header(cells)
    if headed:
        names = _column_names([cell.strip() for cell in cells[0]], cells[1:], place)
    else:
        names = list(map(str, range(len(cells[0]))))
    _check_distinct(names, place)
    texts = {asked.label_column, asked.key_column}
    usual = (*LABELS, *KEYS, *INDEX) if headed else ()
    kept = {name: str for name in names if name in texts or name.lower() in usual}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells that have no name
            frame = pd.read_csv(
                path,
                sep=separator,
                header=None,
                names=names,
                skiprows=1 if headed else 0,
                dtype=kept,
                index_col=False,
                keep_default_na=False,
                skipinitialspace=True,
                encoding="utf-8-sig",
                on_bad_lines="error",
            )
    except (ValueError, OSError, pd.errors.ParserWarning) as error:  # also those of the text
        raise _unreadable(place, error) from None
    if AFTER in names:
        after = frame.pop(AFTER).fillna("").astype(str).str.strip()
        if (after != "").any():
            row = int((after != "").to_numpy().argmax())
            raise InputError(
                f"{place} has {after.iloc[row]!r:.40} in row {row + 1} after the last column that "
                "has a name"
            )
    return rows_of_frame(frame, place, asked, headed=headed, classes=classes)


def _column_names(header: list[str], rows: Sequence[Sequence[str]], place: str) -> list[str]:
    """The names of all columns; the header may leave out that of an index, as R does.

    >>> _column_names(["a", "b"], [["1", ".5", ".5"]], ""), _column_names(["a"], [["1", ""]], "")
    (['', 'a', 'b'], ['a', 'after the last column'])
    """
    ends = bool(rows) and all(len(row) > 1 and not row[-1].strip() for row in rows)
    if ends and header[-1] == "":
        return [*header[:-1], AFTER]
    for number, row in enumerate(rows, start=1):
        if len(row) > len(header) + 1:
            raise InputError(
                f"{place} has {len(row)} cells in row {number}, and the header has {len(header)}"
            )
    if rows and all(len(row) == len(header) + 1 for row in rows):
        return [*header, AFTER] if ends else ["", *header]
    return header


def _unreadable(place: str, error: Exception) -> InputError:
    lines = str(error).splitlines() or [type(error).__name__]
    return InputError(f"{place} cannot be read: {lines[0]}")


def _of_parquet(path: Path, place: str, asked: Asked, classes: int | None) -> Rows:
    table = read_table(path)
    lists = [field.name for field in table.schema if _is_list(field.type)]
    if not lists:
        frame = table.to_pandas(ignore_metadata=True)
        return rows_of_frame(frame, place, asked, headed=True, classes=classes)
    if len(lists) > 1:
        raise InputError(f"{place} has lists in {show(lists)}: leave one of them, the outputs")
    arrays = {name: table[name].to_numpy() for name in table.column_names if name not in lists}
    arrays[lists[0]] = _of_lists(table[lists[0]], f"the lists in {lists[0]!r} of {place}")
    return _of_arrays(arrays, place, asked)


def _of_lists(lists: pa.ChunkedArray, place: str) -> npt.NDArray[np.float64]:
    """The outputs in a column of lists, float64 `[N, C]`; nan where there is none."""
    kind = lists.type.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(f"{place} must have numbers, found {kind}")
    lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(lists)).to_pylist()
    if len(lengths) != 1 or lists.null_count or not lengths[0]:
        raise InputError(f"{place} must all have one length")
    # Each part alone: all parts together may be more than one list can hold.
    parts = [part.flatten().to_numpy(zero_copy_only=False) for part in lists.chunks]
    return np.concatenate(parts).astype(np.float64).reshape(-1, lengths[0])


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _of_npz(path: Path, place: str, asked: Asked, classes: int | None) -> Rows:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            arrays = {"": found} if isinstance(found, np.ndarray) else dict(found)
        for each in arrays.values():
            if isinstance(each, np.ndarray) and each.dtype.kind == "U":
                each.tolist()
    except UNREADABLE_ARRAYS as error:
        raise _unreadable(place, error) from None
    for name, each in arrays.items():
        if not isinstance(each, np.ndarray):
            raise InputError(f"{place} cannot be read: {name} in it is no array")
    return _of_arrays(arrays, place, asked)


def _of_arrays(arrays: Mapping[str, npt.NDArray[Any]], place: str, asked: Asked) -> Rows:
    """Find out which array has the outputs, the labels and the keys, by their names and shapes."""
    wide = {name: each for name, each in arrays.items() if each.ndim == 2 and each.shape[1] > 1}
    if len(wide) > 1:
        wide = {name: each for name, each in wide.items() if name.lower() in OUTPUTS}
    if not wide and len(arrays) == 1 and next(iter(arrays.values())).ndim in (1, 2):
        raise one_column(place)
    if len(wide) != 1:
        shapes = [f"{name or 'array'} {list(each.shape)}" for name, each in arrays.items()]
        raise InputError(
            f"{place} must have one array of predictions [images, classes], perhaps beside others "
            f"of other shapes, found {', '.join(shapes) or 'none'}; an array can be called "
            f"{' or '.join(OUTPUTS[:4])}"
        )
    ((chosen, outputs),) = wide.items()
    if outputs.dtype.kind not in "iuf":
        raise InputError(f"{place} must have real numbers, found {outputs.dtype}")
    if not len(outputs):
        raise InputError(f"{place} has no rows")
    names = _array(arrays, None, CLASSES, "class", place)
    columns = None if names is None else tuple(str(each) for each in names.tolist())
    if columns is not None and len(columns) != outputs.shape[1]:
        raise InputError(
            f"{place} names {len(columns)} classes and has {outputs.shape[1]} columns of outputs"
        )
    labels = _array(arrays, asked.label_column, LABELS, "label", place)
    keys = _array(arrays, asked.key_column, KEYS, "key", place)
    for each, what in ((labels, "labels"), (keys, "keys")):
        if each is not None and len(each) != len(outputs):
            raise InputError(f"{place} has {len(each):,} {what} for {len(outputs):,} predictions")
    if not np.isfinite(plain := outputs.astype(np.float64)).all() and np.isnan(plain).any():
        row = int(np.isnan(plain).any(1).argmax())
        raise InputError(f"{place} has nan in row {row + 1}, where a number must be")
    notes = [] if len(arrays) == 1 else [f"the outputs are {chosen!r}"]
    key = asked.key_column or next((name for name in arrays if name.lower() in KEYS), "")
    return Rows(place, plain, columns, labels, keys, tuple(notes), key.lower() in PLACES)


def _array(
    arrays: Mapping[str, npt.NDArray[Any]],
    asked: str | None,
    usual: Sequence[str],
    what: str,
    place: str,
) -> npt.NDArray[Any] | None:
    if asked is not None and asked not in arrays:
        raise unknown_name(f"array of {place}", asked, arrays)
    found = [asked] if asked else [name for name in arrays if name.lower() in usual]
    if not found:
        return None
    if len(found) > 1:
        raise InputError(f"{place} has {show(found)}, each of which may be the {what} array")
    array = arrays[found[0]]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    return plain_column(array, f"{place}, {found[0]!r}")


def _first_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [line for line in itertools.islice(file, LOOKED_AT) if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is not a text file in UTF-8") from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _separator(lines: Sequence[str]) -> str:
    counts = {each: min(line.count(each) for line in lines) for each in SEPARATORS}
    best = max(SEPARATORS, key=lambda each: counts[each])
    return best if counts[best] else r"\s+"


def _cells(lines: Sequence[str], separator: str) -> list[list[str]]:
    if separator == r"\s+":  # names may be in quotes
        lines, separator = [line.replace("\t", " ").strip() for line in lines], " "
    return list(csv.reader(lines, delimiter=separator, skipinitialspace=True))


def _has_header(cells: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names the columns: a name is no number, or counts the classes."""
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
        raise InputError(f"{place} has more than one column called {show(twice)}")


READERS: Mapping[str, Callable[[Path, str, Asked, int | None], Rows]] = {
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".txt": _of_csv,
    ".parquet": _of_parquet,
    ".npz": _of_npz,
    ".npy": _of_npz,
}

"""The rows of predictions as a file, a table or an array has them: outputs, labels, keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.errors import InputError, show, unknown_name

# Usual names of columns, without regard to case.
LABELS = ("label", "labels", "target", "targets", "true_label", "truth", "ground_truth", "y_true")
KEYS = (
    *("key", "keys", "id", "ids", "image", "image_id", "img", "name"),
    *("file", "files", "filename", "file_name", "path", "image_path"),
)
PLACES = ("key", "keys")  # of these, numbers are places and never names of files
INDEX = ("", "index", "unnamed: 0", "__index_level_0__")  # what pandas writes for its index
# Of what a program says besides, nothing is needed: it follows from the outputs.
FOLLOWS = ("pred", "prediction", "predicted", "predicted_label", "predicted_class", "confidence")
MISSING = ("", "na", "n/a", "nan", "none", "null")

Column = npt.NDArray[Any]


class Asked(NamedTuple):
    """What the options say of files of predictions; what they leave open is found out.

    Attributes:
        outputs: `auto`, `logits` or `probabilities`.
        label_column, key_column: names of columns; a column of a file without a header is called by
            its number, from 0.
        classes: the class of each column of outputs.
    """

    outputs: str = "auto"
    label_column: str | None = None
    key_column: str | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Predictions as they were read, one row per image.

    Attributes:
        place: what messages call them.
        outputs: float64 `[N, C]`.
        names: what the columns of outputs are called; None if nothing names them.
        labels: `[N]`, whole numbers or text; None if they are not there.
        keys: `[N]`, whole numbers or text; None if the rows are only in some order.
        notes: what was assumed, one sentence each.
        places: whether the column of keys is called `key`, so that its numbers are places.
    """

    place: str
    outputs: npt.NDArray[np.float64]
    names: tuple[str, ...] | None
    labels: Column | None
    keys: Column | None
    notes: tuple[str, ...] = ()
    places: bool = False


def rows_of_frame(
    frame: pd.DataFrame, place: str, asked: Asked, *, headed: bool, classes: int | None = None
) -> Rows:
    """Find out which columns are outputs, labels and keys.

    Args:
        frame: columns with distinct names, as text; without a header these are their numbers.
        place: what messages call it.
        asked: what the options say.
        headed: whether the names of the columns mean anything.
        classes: how many classes the data have, if that is known.

    Raises:
        InputError: a column is missing, could be one of several, or is no column of numbers.

    >>> frame = pd.DataFrame({"label": [0, 1], "cat": [0.9, 0.2], "dog": [0.1, 0.8]})
    >>> rows = rows_of_frame(frame, "the table", Asked(), headed=True)
    >>> rows.names, rows.labels.tolist(), rows.keys is None
    (('cat', 'dog'), [0, 1], True)
    """
    if frame.empty:
        raise InputError(f"{place} has no rows")
    names, notes = [str(name) for name in frame.columns], list[str]()
    label = _column("label", asked.label_column, LABELS, names, place, headed=headed)
    key = _column("key", asked.key_column, KEYS, names, place, headed=headed)
    if label is not None and label == key:
        raise InputError(f"{place}: the column {label!r} cannot have both the labels and the keys")
    rest = [name for name in names if name not in (label, key)]
    keys = None if key is None else plain_column(frame[key], f"{place}, column {key!r}")
    index = _index(frame, rest, classes or len(asked.classes) or None, headed=headed)
    if index is not None:
        rest.remove(index)
        which = f"the column {index!r}" if headed and index else "the first column"
        keys, note = _indexed(frame[index], keys, key, place, which)
        notes.append(note)
    if follows := [name for name in rest if headed and name.lower() in FOLLOWS]:
        rest = [name for name in rest if name not in follows]
        notes.append(f"not used: {show(follows)}")
    texts = [name for name in rest if _is_text(frame[name])]
    rest = [name for name in rest if name not in texts]
    if keys is None and len(texts) == 1 and not headed and frame[texts[0]].is_unique:
        keys, texts = plain_column(frame[texts[0]], place), []
        notes.append("the column of distinct texts is taken for the keys")
    for name in texts:
        _check_points(frame[name], f"{place}, column {name!r}")
    if texts:
        if keys is None or (label is None and classes is None):
            raise InputError(
                f"{place} has text in the column {show(texts)}: name the column with the keys "
                "(file names) with --key-column, or that with the labels with --label-column, or "
                "leave it out"
            )
        notes.append(f"not used: {show(texts)} (text)")
    if not rest:
        raise InputError(f"{place} has no column of numbers, and there must be one for each class")
    outputs = numbers(frame, rest, place)
    labels = None if label is None else plain_column(frame[label], f"{place}, column {label!r}")
    places = key is not None and key.lower() in PLACES
    columns = tuple(rest) if headed else None
    return Rows(place, outputs, columns, labels, keys, tuple(notes), places)


def one_column(place: str) -> InputError:
    """The refusal of a single column of outputs."""
    return InputError(
        f"{place} has one column of outputs, and there must be one for each class: for two "
        "classes write 1 - p beside p"
    )


def plain_column(values: object, place: str) -> Column:
    """Return labels or keys `[N]` as int64 where all are whole numbers, else as text.

    Text such as `007` stays text.

    >>> plain_column(["7", "8"], "the file"), plain_column(["007", "8"], "the file")
    (array([7, 8]), array(['007', '8'], dtype='<U3'))
    """
    found = np.asarray(values)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise InputError(f"{place} must have one value for each row, found {list(found.shape)}")
    if found.dtype.kind in "iub":
        return found.astype(np.int64)
    if found.dtype.kind == "f":
        if not np.isfinite(found).all() or (found != np.round(found)).any():
            raise InputError(f"{place} must have whole numbers or text, found {_odd(found)}")
        return found.astype(np.int64)
    texts = [each.decode() if isinstance(each, bytes) else each for each in found.tolist()]
    for row, each in enumerate(texts):
        if isinstance(each, bool) or not isinstance(each, str | int) or each == "":
            raise InputError(
                f"{place} has {each!r:.60} in row {row + 1}, which is no name or number"
            )
    plain = [str(each) for each in texts]
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", each) for each in plain):
        return np.array(plain, dtype=np.int64)
    return np.array(plain)


def numbers(frame: pd.DataFrame, names: Sequence[str], place: str) -> npt.NDArray[np.float64]:
    """Return columns as numbers, float64 `[N, C]`; raises `InputError` for what is no number."""
    found = np.empty((len(frame), len(names)))
    for at, name in enumerate(names):
        column = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        if np.isnan(column).any():
            row = int(np.isnan(column).argmax())
            raise InputError(
                f"{place} has {str(frame[name].iloc[row])!r:.40} in row {row + 1} of the column "
                f"{name!r}, where a number must be"
            )
        found[:, at] = column
    return found


def _column(
    what: str,
    asked: str | None,
    usual: Sequence[str],
    names: Sequence[str],
    place: str,
    *,
    headed: bool,
) -> str | None:
    """The column with the labels or the keys: the one that is asked for, or one of a usual name."""
    if asked is not None:
        if asked not in names:
            raise unknown_name(f"column of {place}", asked, names)
        return asked
    found = [name for name in names if headed and name.lower() in usual]
    if len(found) > 1:
        raise InputError(
            f"{place} has {show(found)}, each of which may be the column of the {what}s: name it "
            f"with --{what}-column"
        )
    return found[0] if found else None


def _index(
    frame: pd.DataFrame, rest: Sequence[str], classes: int | None, *, headed: bool
) -> str | None:
    """The column that only numbers the rows or names them, as pandas writes its index."""
    named = [name for name in rest if headed and name.lower() in INDEX]
    if named:
        return named[0]
    if headed or classes is None or len(rest) != classes + 1:
        return None
    first = frame[rest[0]]
    return rest[0] if _counts(first) else None


def _counts(values: pd.Series[Any]) -> bool:
    if _has_zeros(values):
        return False
    found = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return any(np.array_equal(found, np.arange(len(found)) + start) for start in (0, 1))


def _has_zeros(values: pd.Series[Any]) -> bool:
    """Whether one is a name with leading zeros, such as 007."""
    return bool(values.astype(str).str.match(r"0\d").any())


def _indexed(
    values: pd.Series[Any], keys: Column | None, key: str | None, place: str, which: str
) -> tuple[Column | None, str]:
    """The keys, and what is said of the index column: it counts the rows, or it has their keys."""
    if _counts(values):
        return keys, f"{which} counts the rows and is not used"
    if key is not None:
        return keys, f"not used: {which}"
    plain = pd.to_numeric(values, errors="coerce")
    names = values if plain.isna().any() or _has_zeros(values) else plain
    return plain_column(names, f"{place}, {which}"), f"{which} is taken for the keys"


def _is_text(values: pd.Series[Any]) -> bool:
    """Whether most values are text; a few, and those that are missing, `numbers` names."""
    if values.dtype.kind in "iufb":
        return False
    present = values[~values.astype(str).str.strip().str.lower().isin(MISSING)]
    return len(present) > 0 and bool(pd.to_numeric(present, errors="coerce").isna().mean() > 0.5)


def _check_points(values: pd.Series[Any], place: str) -> None:
    commas = values.astype(str).str.fullmatch(r"\s*[-+]?\d*,\d+\s*").to_numpy(bool)
    if commas.mean() > 0.5:
        found = str(values.iloc[int(commas.argmax())])
        raise InputError(f"{place} has {found!r:.40}: write numbers with a decimal point")


def _odd(values: npt.NDArray[np.floating[Any]]) -> str:
    odd = ~np.isfinite(values) | (values != np.round(values))
    return f"{values[odd.argmax()]} in row {int(odd.argmax()) + 1}"

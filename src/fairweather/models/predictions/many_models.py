"""Tables with the predictions of several models: a row for each, or a column for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fairweather.errors import InputError, quote_names
from fairweather.files.tables import MISSING_VALUES
from fairweather.models.predictions.column_names import (
    CONFIDENCE_COLUMNS,
    INDEX_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    LEVEL_COLUMNS,
    MODEL_COLUMNS,
    PREDICTED_COLUMNS,
    SEED_COLUMNS,
    SEPARATORS,
    SHIFT_COLUMNS,
)
from fairweather.models.predictions.tables import (
    CSV_SUFFIXES,
    JSON_SUFFIXES,
    LINES_LOOKED_AT,
    Content,
    NamedColumns,
    RowOptions,
    is_text_column,
    name_frame,
    read_file,
    split_suffix,
)
from fairweather.types.record import CLEAN, VALIDATION

TABLES = (*CSV_SUFFIXES, *JSON_SUFFIXES, ".parquet")
ROW_COLUMNS = {
    "model": MODEL_COLUMNS,
    "seed": SEED_COLUMNS,
    "shift": SHIFT_COLUMNS,
    "level": LEVEL_COLUMNS,
}
_CLEAN = (CLEAN, "none", *MISSING_VALUES)  # what the shift of clean images may be called
_WORD = "|".join(sorted(PREDICTED_COLUMNS, key=len, reverse=True))
_MARK = f"[{re.escape(SEPARATORS)}]"
_MARKED = re.compile(
    rf"({_WORD}){_MARK}(?P<after>.+)|(?P<before>.+){_MARK}({_WORD})", re.IGNORECASE
)


class ModelPart(NamedTuple):
    """The rows or columns of one model in a table."""

    name: str
    """In the form `MODEL[-seedN][-SHIFT,LEVEL]`, for a model whose column says so."""

    entry: dict[str, Any]
    """What columns say of its rows: `model`, `seed`, `shift` and `level`, as far as they do."""

    frame: pd.DataFrame


def split_table(content: Content, place: str, options: RowOptions) -> list[ModelPart]:
    """Split a table by its models; empty if it is of one.

    A long table has a column `model`, and maybe `seed`, `shift` and `level`. A wide table has a
    column of predicted classes for each model, and maybe `MODEL_confidence`.

    Raises `InputError` if the table cannot be read.

    >>> frame = pd.DataFrame({"image": ["a", "a"], "model": ["m", "n"], "predicted": ["x", "y"]})
    >>> [part.entry for part in split_table(frame, "the table", RowOptions())]
    [{'model': 'm'}, {'model': 'n'}]
    >>> frame = pd.DataFrame({"image": ["a"], "pred_m": ["x"], "pred_n": ["y"]})
    >>> [part.name for part in split_table(frame, "the table", RowOptions())]
    ['m', 'n']
    """
    first = _read_table(content, place, options, LINES_LOOKED_AT)
    if first is None:
        return []
    taken = {options.label_column, options.key_column, options.confidence_column}
    taken |= {*options.predicted_columns}
    named = {
        kind: name
        for kind, usual in ROW_COLUMNS.items()
        for name in map(str, first.columns)
        if name.lower() in usual and name not in taken
    }
    if "model" in named or "shift" in named:
        frame = _read_table(content, place, options)
        return [] if frame is None else list(_split_rows(frame, named))
    columns = _find_model_columns(first, options)
    if not columns:
        return []
    frame = _read_table(content, place, options)
    if frame is None:
        return []
    return list(_split_columns(frame, _select_models(frame, columns, options)))


def _read_table(
    content: Content, place: str, options: RowOptions, rows: int | None = None
) -> pd.DataFrame | None:
    """The table, or its first rows; None for arrays and files without a header."""
    if isinstance(content, pd.DataFrame):
        headed = not isinstance(content.columns, pd.RangeIndex)
        return name_frame(content, place) if headed else None
    if not isinstance(content, Path) or split_suffix(content)[1] not in TABLES:
        return None
    table = read_file(content, place, options, rows)
    return table.frame if isinstance(table, NamedColumns) and table.headed else None


def _split_rows(frame: pd.DataFrame, named: dict[str, str]) -> Iterator[ModelPart]:
    columns = list(named.values())
    cells = frame[columns].astype(object)
    cells = cells.where(cells.notna(), None)
    texts = cells.fillna("").astype(str).apply(lambda column: column.str.strip())
    for _, alike in texts.groupby(columns, sort=False):  # in the order of the first of each
        rows = alike.index
        entry = {kind: cells[name].loc[rows[0]] for kind, name in named.items()}
        if "shift" in entry and str(entry["shift"]).strip().lower() in _CLEAN:
            entry |= {"shift": None}
        if entry.get("shift") in (None, VALIDATION):
            entry.pop("level", None)
        part = frame.loc[rows].drop(columns=columns).reset_index(drop=True)
        yield ModelPart("", {kind: _as_plain(value) for kind, value in entry.items()}, part)


def _as_plain(value: Any) -> Any:  # noqa: ANN401 - a cell
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def _find_model_columns(first: pd.DataFrame, options: RowOptions) -> dict[str, str]:
    """The name of each model, and the column of its predicted classes; empty for no such columns.

    The columns are those that are asked for, or marked as `pred_NAME`; or those with
    `NAME_confidence`, and all others that are text.
    """
    if len(options.predicted_columns) > 1:
        return _name_models(options.predicted_columns)
    if options.predicted_columns or options.positive:
        return {}
    asked = (options.label_column, options.key_column, options.confidence_column)
    usual = (*LABEL_COLUMNS, *KEY_COLUMNS, *INDEX_COLUMNS, *CONFIDENCE_COLUMNS)
    names = [
        name for name in map(str, first.columns) if name not in asked and name.lower() not in usual
    ]
    if any(name.lower() in PREDICTED_COLUMNS for name in names):
        return {}
    whole = [name for name in names if _are_classes(first[name])]
    texts = [name for name in whole if is_text_column(first[name])]
    paired = [name for name in whole if find_own_confidence(name, names)]
    marked = [name for name in whole if _MARKED.fullmatch(name)]
    sure = [name for name in marked if name in texts or name in paired]
    numbers = [name for name in names if name not in texts]
    either = [name for name in whole if name in paired or name in texts]
    return _name_models(sure or (either if paired or not numbers else []))


def _select_models(
    frame: pd.DataFrame, columns: dict[str, str], options: RowOptions
) -> dict[str, str]:
    """The models whose predicted classes are among the labels, or among what others predict.

    Others have columns that are asked for, marked or beside a confidence. Without labels and such
    columns, all are models.
    """
    names = list(map(str, frame.columns))
    sure = [
        name
        for name in columns.values()
        if name in options.predicted_columns
        or _MARKED.fullmatch(name)
        or find_own_confidence(name, names)
    ]
    labels = [
        name for name in names if name == options.label_column or name.lower() in LABEL_COLUMNS
    ]
    values = {
        name: {*frame[name].astype(str).str.strip().str.lower()}
        for name in dict.fromkeys((*labels, *columns.values()))
    }
    known = set[str]().union(*(values[name] for name in (*labels, *sure)))
    models = {
        model: name for model, name in columns.items() if name in sure or values[name] & known
    }
    return models or columns


def _are_classes(cells: pd.Series[Any]) -> bool:
    """Whether no cell is a number with a fraction, as probabilities are."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return bool((np.isnan(numbers) | (numbers == np.round(numbers))).all())


def _name_models(columns: Sequence[str]) -> dict[str, str]:
    named = {}
    for column in columns:
        parts = _MARKED.fullmatch(column)
        named[(parts["after"] or parts["before"]) if parts else column] = column
    if len(named) < len(columns):
        raise InputError(f"the columns {quote_names(columns)} name a model twice: rename one")
    return named


def find_own_confidence(column: str, names: Sequence[str]) -> str | None:
    """Find the column with the confidence of a model, such as `m_confidence` beside `m`.

    >>> find_own_confidence("pred_m", ["pred_m", "conf_m"]), find_own_confidence("m", ["m", "n"])
    ('conf_m', None)
    """
    parts = _MARKED.fullmatch(column)
    model = (parts["after"] or parts["before"]) if parts else column
    written = {
        text.lower()
        for word in CONFIDENCE_COLUMNS
        for own in dict.fromkeys((model, column))
        for mark in SEPARATORS
        for text in (f"{own}{mark}{word}", f"{word}{mark}{own}")
    }
    return next((name for name in names if name.lower() in written), None)


def _split_columns(frame: pd.DataFrame, columns: dict[str, str]) -> Iterator[ModelPart]:
    names = list(map(str, frame.columns))
    sure = {model: find_own_confidence(column, names) for model, column in columns.items()}
    owned = {*columns.values(), *filter(None, sure.values())}
    shared = [name for name in names if name not in owned]
    for model, column in columns.items():
        own = {column: PREDICTED_COLUMNS[0]}
        if (confidence := sure[model]) is not None:
            own[confidence] = CONFIDENCE_COLUMNS[0]
        yield ModelPart(model, {}, frame[[*shared, *own]].rename(columns=own))

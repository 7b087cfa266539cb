"""Predictions in JSON: objects in a list or one a line, and the other forms that programs write."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.errors import InputError, first_line
from fairweather.models.predictions.column_names import (
    CONFIDENCE_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    PREDICTED_COLUMNS,
)

FILE, PREDICTED = "file", "predicted"  # the columns of an object with a value or object a file


def read_json(path: Path, place: str) -> pd.DataFrame | dict[str, npt.NDArray[Any]]:
    """Read a table, or arrays by name.

    A table is an object for each image, in a list or one a line; an object whose names are images,
    with an object or the class of each; or what pandas writes, by columns or with `columns` and
    `data`. Arrays are a list of numbers, names or lists, and an object of these.

    Raises:
        InputError: it is not JSON, or none of these.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.jsonl"
    ...     _ = path.write_text('{"image": "a.png", "probs": [0.9, 0.1]}\\n')
    ...     {name: column.tolist() for name, column in read_json(path, "a.jsonl").items()}
    {'image': ['a.png'], 'probs': [[0.9, 0.1]]}
    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
        lined = {".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes}
        value = _parse_lines(text) if lined else _parse(text)
    except (ValueError, RecursionError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{place} cannot be read as JSON: {first_line(error)}") from None
    try:
        return _arrange(value, place)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{place} has rows of different forms: {first_line(error)}") from None


def _parse(text: str) -> Any:  # noqa: ANN401 - of JSON
    """One value, or a list of the values of all lines."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
    return _parse_lines(text)


def _parse_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _arrange(value: Any, place: str) -> pd.DataFrame | dict[str, npt.NDArray[Any]]:  # noqa: ANN401
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return _split_cells(pd.DataFrame.from_records(value))
    if isinstance(value, list):
        if (array := np.array(value)).dtype.kind not in "OV":
            return {"": array}
        raise InputError(f"{place} has rows of different forms")
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"{place} must have an object for each image, found {value!r:.60}")
    if {"columns", "data"} <= value.keys():
        return _split_cells(pd.DataFrame(value["data"], columns=value["columns"]))
    members = list(value.values())
    if all(isinstance(column, list) for column in members):
        return {str(name): np.array(column) for name, column in value.items()}
    if not all(isinstance(row, Mapping) for row in members):
        return pd.DataFrame({FILE: list(value), PREDICTED: members})
    known = (*PREDICTED_COLUMNS, *CONFIDENCE_COLUMNS, *LABEL_COLUMNS, *KEY_COLUMNS)
    if any(name.lower() in known for name in value):  # as pandas writes columns, each with its rows
        return pd.DataFrame(dict(value)).reset_index(drop=True)
    rows = pd.DataFrame.from_records(members)
    rows.insert(0, FILE, list(value))
    return _split_cells(rows)


def _split_cells(frame: pd.DataFrame) -> pd.DataFrame | dict[str, npt.NDArray[Any]]:
    """A table without lists and objects in cells: an object becomes a column for each of its names.

    Lists become an array beside the columns.
    """
    for name in [*frame.columns]:
        if all(isinstance(cell, Mapping) for cell in frame[name]):
            wide = pd.DataFrame.from_records(frame.pop(name).tolist())
            frame = frame.join(wide)
    if not any(isinstance(cell, list) for column in frame for cell in frame[column]):
        return frame
    return {str(name): np.array(frame[name].tolist()) for name in frame.columns}

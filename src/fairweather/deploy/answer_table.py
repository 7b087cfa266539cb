"""The answers of a guard as a table: CSV for people, parquet for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairweather.deploy.guard import Answers, FindingsAnswers
from fairweather.files.tables import escape_formula, rows_to_csv
from fairweather.runs.folder import to_parquet, write_atomically
from fairweather.types.measurement import Images

WARNING = "the images differ from the validation images: review every answer"


def write_answers(
    path: Path,
    images: Images,
    parts: Sequence[Answers] | Sequence[FindingsAnswers],
    *,
    unlike: bool = False,
    unit: str | None = None,
) -> None:
    """Write one row for each image: its file or key, class, confidence, answer or defer, and set.

    Of findings, each has a column with `present`, `absent` or `review`, and one with its
    probability.

    In CSV, a text that a spreadsheet would take for a formula begins with an apostrophe, and a set
    is a list in JSON. In parquet texts are as they are, and a set is a list.

    Args:
        path: ends with .csv or .parquet.
        images: their files or keys.
        parts: the answers to the images in order, batch by batch.
        unit: what a row is of, such as a patient, if not of an image; the names are theirs.
        unlike: whether the images differ from the validation images; each row then has a warning.
    """
    names = images.keys if images.names is None else images.names
    named = "key" if images.names is None else "file"
    columns = {unit or named: names.tolist()}
    if unlike:
        columns["warning"] = [WARNING] * len(names)
    for name in parts[0].columns():
        title = f"finding {name}" if name in columns else name
        columns[title] = [value for part in parts for value in part.columns()[name]]
    write_atomically(
        path, _to_csv(columns) if path.suffix.lower() == ".csv" else _to_parquet(columns)
    )


def _to_csv(columns: dict[str, list[Any]]) -> str:
    rows = ([_csv_value(value) for value in row] for row in zip(*columns.values(), strict=True))
    return rows_to_csv([columns, *rows])


def _csv_value(value: object) -> object:
    """Write a value for CSV.

    >>> _csv_value("=1+1"), _csv_value(["=a", "b"]), _csv_value(0.123456789)
    ("'=1+1", '["=a", "b"]', '0.123457')
    """
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape_formula(value)


def _to_parquet(columns: dict[str, list[Any]]) -> bytes:
    import pyarrow as pa

    lists = pa.list_(pa.string())
    arrays = {
        name: pa.array(values, type=lists if isinstance(values[0], list) else None)
        for name, values in columns.items()
    }
    return to_parquet(pa.table(arrays))

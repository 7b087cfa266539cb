"""Parquet files that other programs wrote: one place reads them, and says what is wrong.

pyarrow reads text that is not UTF-8 without a word, and complains where that becomes text of
Python's, in whatever code that is. So the names of columns and all text are checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fairweather.errors import InputError, check_has_end, one_line


def read_schema(path: Path) -> pa.Schema:
    """Read the names and types of the columns; raises `InputError` for a file that is damaged."""
    with _opened(path) as file:
        return file.schema_arrow


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns, or all; raises `InputError` for a file that is damaged."""
    with _opened(path) as file:
        table = file.read(columns=columns)
        table.validate(full=True)
        return table


def read_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Read some columns in batches of `rows`; raises `InputError` for a file that is damaged."""
    with _opened(path) as file:
        for batch in file.iter_batches(rows, columns=columns):
            batch.validate(full=True)
            yield batch


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    check_has_end(path)
    try:
        with pq.ParquetFile(path) as file:
            for at in range(len(file.schema)):
                file.schema.column(at).path  # noqa: B018 - the names, nested ones too, become text
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise InputError(f"{str(path)!r} cannot be read as a parquet file: {reason}") from error

"""Parquet files that other programs wrote: one place reads them, and says what is wrong.

pyarrow reads text that is not UTF-8 without a word, and complains where that becomes text of
Python's, in whatever code that is. So all text is checked here; names are when a file is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fairweather.errors import InputError, one_line


def read_schema(path: Path) -> pa.Schema:
    """Read the names and types of the columns; raises `InputError` for a file that is damaged."""
    with _opened(path) as file:
        return file.schema_arrow


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns, or all; raises `InputError` for a file that is damaged."""
    with _opened(path) as file:
        wanted = _chosen(file, columns, path)
        table = file.read(columns=wanted).select(wanted)
        table.validate(full=True)
        return table


def read_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Read some columns in batches of `rows`; raises `InputError` for a file that is damaged."""
    with _opened(path) as file:
        wanted = _chosen(file, columns, path)
        for batch in file.iter_batches(rows, columns=wanted):
            batch.validate(full=True)
            yield batch.select(wanted)


def _chosen(file: pq.ParquetFile, columns: Sequence[str] | None, path: Path) -> list[str]:
    """The names of the columns that are asked for, or of all, if each is the name of one.

    pyarrow takes a name for the beginning of a path: `label` brings all of a structure, and so does
    a column `label.fine`, so that the names must be selected once more.
    """
    # Counted once: predictions may have a column for each of 20,000 classes.
    known = Counter(file.schema_arrow.names)
    wanted = list(known if columns is None else columns)
    if twice := [name for name in wanted if known[name] > 1]:
        raise InputError(f"{str(path)!r} has two columns with the name {twice[0]!r}")
    return wanted


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise InputError(f"{str(path)!r} cannot be read as a parquet file: {reason}") from error

"""CSV files that people open in a spreadsheet, and parquet files that other programs wrote."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fairweather.errors import InputError, one_line

if TYPE_CHECKING:
    import pandas as pd


# ---------------------------------------------------------------- CSV

# A spreadsheet reads a text that begins with one of these as a formula, which can start programs.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

# Python quotes a cell only if it contains a character of the line ending. With this ending, it also
# quotes a cell with a carriage return, which readers would take for the end of a row.
_LINE_END = "\r\n"
_QUOTED_CELL = re.compile(r'(?<![^,;\t ])"(?:[^"]|"")*"')
GZIP = ".gz"  # the suffix of a packed file
UTF8, LATIN1 = "utf-8-sig", "cp1252"  # what Windows calls Latin-1 has more letters
MISSING_VALUES = ("", "na", "n/a", "nan", "none", "null")  # cells of programs, in lower case
_DECIMAL = re.compile(r"\s*[-+]?[0-9]*[.,][0-9]+([eE][-+]?[0-9]+)?\s*")
_NEVER_IN_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")


class TextFormat(NamedTuple):
    """How the text of a table is written."""

    encoding: str
    """`UTF8` or `LATIN1`."""

    delimiter: str
    """What stands between two cells."""

    decimal: str = "."
    """What stands before the decimals of a number."""

    def remark(self, name: str) -> str:
        """Say what is unusual about a table that is called so; "" for UTF-8 with commas or tabs.

        >>> TextFormat(LATIN1, ";").remark("a.csv"), TextFormat(UTF8, ",").remark("a.csv")
        ("a.csv is read as Latin-1 with ';' between cells", '')
        """
        unusual = ["as Latin-1"] if self.encoding == LATIN1 else []
        if self.delimiter == ";":
            unusual.append(f"with {self.delimiter!r} between cells")
        if self.decimal == ",":
            unusual.append("and decimal commas" if unusual else "with decimal commas")
        return f"{name} is read {' '.join(unusual)}" if unusual else ""


def escape_formula(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would treat as a formula.

    A text that is a number, such as a level of -0.1, is not a formula.

    >>> [escape_formula(value) for value in ("=1+1", "-a", "-0.1", "a=b", -1)]
    ["'=1+1", "'-a", '-0.1', 'a=b', -1]
    """
    if isinstance(value, str) and value.startswith(FORMULA_STARTS) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def rows_to_csv(rows: Iterable[Iterable[object]]) -> str:
    """Write rows as CSV. Lines end with a line feed, and each row reads back as one row.

    >>> rows_to_csv([["file", "class"], ["a\\r=1+1", "b,c"]])
    'file,class\\n"a\\r=1+1","b,c"\\n'
    """
    text = _LineFeedText()
    csv.writer(text, lineterminator=_LINE_END).writerows(rows)
    return text.getvalue()


def frame_to_csv(frame: pd.DataFrame, float_format: str | None = "%.8g") -> str:
    """Write a frame as CSV, as `rows_to_csv` does.

    Numbers have eight significant digits; with None, as many as they need to be read back.

    >>> import pandas as pd
    >>> frame_to_csv(pd.DataFrame({"class": ["a\\rb"], "value": [1 / 3]}))
    'class,value\\n"a\\rb",0.33333333\\n'
    """
    text = _LineFeedText()
    frame.to_csv(text, index=False, float_format=float_format, lineterminator=_LINE_END)
    return text.getvalue()


def read_csv_rows(path: Path, delimiter: str | None = None) -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV file with the numbers of their lines; empty lines are left out.

    Without a delimiter, the first line shows whether it is comma, semicolon or tab. Blanks around
    cells are cut.

    Raises `InputError` for a file that is not CSV.
    """
    form = find_text_format(path)
    try:
        with path.open(encoding=form.encoding, newline="") as file:
            rows = csv.reader(
                file, delimiter=delimiter or form.delimiter, skipinitialspace=True, strict=True
            )
            return [(rows.line_num, [cell.strip() for cell in row]) for row in rows if row]
    except csv.Error as error:
        raise InputError(f"{str(path)!r} cannot be read as CSV: {error}") from error


def find_text_format(path: Path) -> TextFormat:
    """Find the encoding of a table, and in its first line the delimiter.

    Raises `InputError` for a file that is not text.
    """
    encoding = find_encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        return TextFormat(encoding, find_delimiter([file.readline()]))


def find_encoding(path: Path) -> str:
    """Find whether a text file is in UTF-8 or, as older spreadsheets write it, in Latin-1.

    Raises `InputError` for a file that is neither.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _open_bytes(path) as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{str(path)!r} is not a whole gzip file") from None
    except UnicodeDecodeError:
        with _open_bytes(path) as file:
            content = file.read()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            content.decode(LATIN1)
        except UnicodeDecodeError:
            is_latin1 = False
        else:
            is_latin1 = not is_utf16 and not _NEVER_IN_TEXT.search(content)
        if not is_latin1:
            raise InputError(f"{str(path)!r} is not a text file in UTF-8 or Latin-1") from None
        return LATIN1
    return UTF8


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a text file, which may be packed with gzip; line endings stay as they are."""
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, newline="")


def _open_bytes(path: Path) -> IO[bytes]:
    if path.suffix.lower() == GZIP:
        return gzip.open(path)  # type: ignore[return-value] # a GzipFile reads like a file
    return path.open("rb")


def find_delimiter(lines: Iterable[str], default: str = ",") -> str:
    """Find which of comma, semicolon and tab every line has most often, outside quoted cells.

    It is no comma if all commas are decimal ones.

    >>> find_delimiter(["a;b,c;d", "1;2;3"]), find_delimiter(["a b"], "space")
    (';', 'space')
    >>> find_delimiter(["0,1;0,9", "0,2;0,8"])
    ';'
    >>> find_delimiter(['file,"grade (0: none; 1: mild; 2: severe)"'])
    ','
    """
    unquoted = [_QUOTED_CELL.sub("", line) for line in lines]
    counts = {mark: min(line.count(mark) for line in unquoted) for mark in ",;\t"}
    for mark in ";\t":
        cells = [cell for line in unquoted for cell in line.split(mark)]
        if counts[mark] and all("," not in cell or _DECIMAL.fullmatch(cell) for cell in cells):
            return mark
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else default


def find_decimal(cells: Iterable[str]) -> str:
    """Find whether numbers have decimal commas: some cells do, and none has a decimal point.

    >>> find_decimal(["a", "0,25", "1"]), find_decimal(["0,25", "0.5"])
    (',', '.')
    """
    numbers = [cell for cell in cells if _DECIMAL.fullmatch(cell)]
    return "," if numbers and all("," in number for number in numbers) else "."


class _LineFeedText(io.StringIO):
    """A text buffer that replaces the line ending of each row by a line feed."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix(_LINE_END) + "\n")


# ---------------------------------------------------------------- parquet

LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)  # types of columns of lists


def read_parquet_schema(path: Path) -> pa.Schema:
    """Read the names and types of the columns; raises `InputError` for a file that is damaged."""
    with _open_parquet(path) as file:
        return file.schema_arrow


def read_parquet_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns, or all; raises `InputError` for a file that is damaged."""
    with _open_parquet(path) as file:
        names = _check_columns(file, columns, path)
        table = file.read(columns=names).select(names)
        table.validate(full=True)
        return table


def read_parquet_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Read some columns in batches of `rows`; raises `InputError` for a file that is damaged."""
    with _open_parquet(path) as file:
        names = _check_columns(file, columns, path)
        for batch in file.iter_batches(rows, columns=names):
            batch.validate(full=True)
            yield batch.select(names)


def _check_columns(file: pq.ParquetFile, columns: Sequence[str] | None, path: Path) -> list[str]:
    """The names of the columns to read, or of all; raises `InputError` if two columns share one.

    pyarrow treats a name as the beginning of a path: `label` selects a whole structure, and also a
    column `label.fine`. So a caller selects the names once more from the columns it has read.
    """
    # A Counter is fast: predictions may have a column for each of 20,000 classes.
    counts = Counter(file.schema_arrow.names)
    names = list(counts if columns is None else columns)
    if repeated := [name for name in names if counts[name] > 1]:
        raise InputError(f"{str(path)!r} has two columns with the name {repeated[0]!r}")
    return names


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise InputError(f"{str(path)!r} cannot be read as a parquet file: {reason}") from error

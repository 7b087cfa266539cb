"""Text of CSV files, which people open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# A spreadsheet takes a text that begins like this for a formula, and a formula can start programs.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

# Python quotes a text with a letter of the end of its lines, and not with a carriage return that is
# none of them, though readers take it for the end of a row.
_QUOTED = "\r\n"


def no_formula(value: object) -> object:
    """Return a text as it is, with an apostrophe before what a spreadsheet takes for a formula.

    A number in a text, such as a level of -0.1, is no formula.

    >>> no_formula("=1+1"), no_formula("-a"), no_formula("-0.1"), no_formula("a=b"), no_formula(-1)
    ("'=1+1", "'-a", '-0.1', 'a=b', -1)
    """
    if isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def rows_to_csv(rows: Iterable[Iterable[object]]) -> str:
    """Write rows as CSV whose lines end with a line feed; each reads back as one row.

    >>> rows_to_csv([["file", "class"], ["a\\r=1+1", "b,c"]])
    'file,class\\n"a\\r=1+1","b,c"\\n'
    """
    lines = _Lines()
    csv.writer(lines, lineterminator=_QUOTED).writerows(rows)
    return lines.getvalue()


def frame_to_csv(frame: pd.DataFrame, float_format: str | None = "%.8g") -> str:
    """Write a frame as CSV likewise, its numbers with eight significant digits, or all with None.

    >>> import pandas as pd
    >>> frame_to_csv(pd.DataFrame({"class": ["a\\rb"], "value": [1 / 3]}))
    'class,value\\n"a\\rb",0.33333333\\n'
    """
    lines = _Lines()
    frame.to_csv(lines, index=False, float_format=float_format, lineterminator=_QUOTED)
    return lines.getvalue()


class _Lines(io.StringIO):
    """Text to which rows are written one by one, and that ends each with a line feed alone."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix(_QUOTED) + "\n")

"""Text for CSV files that people open in a spreadsheet."""

from __future__ import annotations

import re

# A spreadsheet takes a text that begins like this for a formula, and a formula can start programs.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def no_formula(value: object) -> object:
    """Return a text as it is, with an apostrophe before what a spreadsheet takes for a formula.

    A number in a text, such as a level of -0.1, is no formula.

    >>> no_formula("=1+1"), no_formula("-a"), no_formula("-0.1"), no_formula("a=b"), no_formula(-1)
    ("'=1+1", "'-a", '-0.1', 'a=b', -1)
    """
    if isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value

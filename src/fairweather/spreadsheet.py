"""Text for CSV files that people open in a spreadsheet."""

from __future__ import annotations

# A spreadsheet takes a text that begins like this for a formula, and a formula can start programs.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def no_formula(value: object) -> object:
    """Return a text as it is, with an apostrophe before what a spreadsheet takes for a formula.

    A number in a text, such as a level of -0.1, is none.

    >>> no_formula("=1+1"), no_formula("-a"), no_formula("-0.1"), no_formula("a=b"), no_formula(-1)
    ("'=1+1", "'-a", '-0.1', 'a=b', -1)
    """
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value

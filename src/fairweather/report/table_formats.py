"""Tables of text for terminals and in Markdown, CSV and LaTeX, whatever the text is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from fairweather.record import TABLES
from fairweather.spreadsheet import frame_to_csv, no_formula

Body = Sequence[Sequence[str]]
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "σ": r"$\sigma$",
    "ε": r"$\varepsilon$",
    "−": "$-$",
    "×": r"$\times$",
}


class Layout(NamedTuple):
    """The head of a table.

    Attributes:
        header: of every column.
        words: how many columns, from the left, hold words; the others hold numbers.
    """

    header: tuple[str, ...]
    words: int = 1


@dataclass(frozen=True)
class TextTable:
    """A table of text, and the same in numbers.

    Attributes:
        name: of its files, without folder and suffix.
        layout, body: the table as text.
        below: paragraphs that explain it.
        frame: the numbers, for the CSV.
        models: of each row, where the page is to show which model it is of.
        shown: the rows that a terminal shows; None for all.
    """

    name: str
    layout: Layout
    body: Body
    below: Sequence[str]
    frame: pd.DataFrame
    models: Sequence[str] = ()
    shown: Body | None = None

    def __str__(self) -> str:
        rows = self.body if self.shown is None else self.shown
        return aligned(self.layout, rows) if rows else ""

    def texts(self) -> dict[str, str]:
        """Write the table in Markdown, CSV and LaTeX, by the suffix of the file."""
        return {
            "md": markdown(self.layout, self.body, self.below),
            "csv": rows_as_csv(self.frame),
            "tex": latex(self.layout, self.body, self.name, " ".join(self.below)),
        }


def files_of(name: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Name the files of a table in a run folder, given its texts by suffix."""
    return {f"{TABLES}/{name}.{suffix}": text for suffix, text in texts.items()}


def p_value(p: float) -> str:
    """Write a p-value.

    >>> p_value(0.0004), p_value(0.0123)
    ('< 0.001', '0.012')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def aligned(layout: Layout, body: Body) -> str:
    """Write a table for a terminal: words to the left, numbers to the right.

    >>> print(aligned(Layout(("Model", "n")), [["basic", "7180"], ["small", "70"]]))
    Model     n
    basic  7180
    small    70
    """
    lines = [layout.header, *body]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < layout.words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def signed(number: float, percent: bool) -> str:
    """Write a difference as a table's numbers are written, with its sign.

    >>> signed(-0.0123, percent=True)
    '−1.2'
    """
    scale, digits = (100, 1) if percent else (1, 3)
    # `z` writes what rounds to zero without a sign.
    return f"{scale * number:+z.{digits}f}".replace("-", "−")


def markdown(layout: Layout, body: Body, below: Sequence[str]) -> str:
    """Write a table as GitHub's Markdown, with paragraphs below it.

    >>> print(markdown(Layout(("Model", "n")), [["a_b", "7"]], ["One model."]))
    | Model | n |
    | --- | ---: |
    | a\\_b | 7 |
    <BLANKLINE>
    One model.
    <BLANKLINE>
    """
    rule = ["---"] * layout.words + ["---:"] * (len(layout.header) - layout.words)
    head = [escape_markdown(text) for text in layout.header]
    rows = [
        [*map(escape_markdown, line[: layout.words]), *line[layout.words :]] for line in body
    ]  # of numbers, the brackets would be spoilt
    table = ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]
    paragraphs = [line for text in below for line in ("", escape_markdown(text))]
    return "\n".join([*table, *paragraphs, ""])


def latex(layout: Layout, body: Body, name: str, caption: str) -> str:
    """Write a table for LaTeX's booktabs package; its label is made of the name."""
    rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in body]
    columns = "l" * layout.words + "r" * (len(layout.header) - layout.words)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(caption)}}}",
        rf"  \label{{tab:{re.sub('[^a-z0-9]+', '-', name.lower())}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        "    " + " & ".join(map(escape_latex, layout.header)) + r" \\",
        r"    \midrule",
        *("    " + row for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def rows_as_csv(frame: pd.DataFrame) -> str:
    """Write a frame as CSV, its numbers as scores.csv writes them; no text in it is a formula.

    >>> rows_as_csv(pd.DataFrame([["=1+1", 0.5]], columns=["title", "value"]))
    "title,value\\n'=1+1,0.5\\n"
    """
    shown = frame.rename(columns=no_formula)
    for name in shown.select_dtypes(exclude="number"):
        shown[name] = shown[name].map(no_formula)
    return frame_to_csv(shown)


def escape_markdown(text: str) -> str:
    r"""Make text show as it is in a cell of a Markdown table.

    >>> print(escape_markdown("a|b <i> c_d"))
    a\|b &lt;i&gt; c\_d
    """
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SPECIAL.sub(r"\\\1", plain)


def escape_latex(text: str) -> str:
    r"""Make text show as it is in LaTeX.

    >>> print(escape_latex("50 % of a_b"))
    50 \% of a\_b
    """
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    # At the start of a row these would be read as an argument of the line break before it.
    return re.sub(r"^[\[*]", r"{\g<0>}", escaped)

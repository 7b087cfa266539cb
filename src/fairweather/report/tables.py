"""Tables for terminals, in Markdown, CSV and LaTeX: every score with its 95 % interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from fairweather.files.tables import escape_formula, frame_to_csv
from fairweather.metrics import METRICS
from fairweather.metrics.rows import find_row
from fairweather.report.contents import Contents
from fairweather.types.measurement import Score
from fairweather.types.record import NO_LEVEL, SUMMARY_LEVELS, TABLES

# ---------------------------------------------------------------- tables of text

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


class TableLayout(NamedTuple):
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
        values: of each row, what the page sorts the columns after the first by; none for no order.
    """

    name: str
    layout: TableLayout
    body: Body
    below: Sequence[str]
    frame: pd.DataFrame
    models: Sequence[str] = ()
    shown: Body | None = None
    values: Sequence[Sequence[float | str]] = ()

    def __str__(self) -> str:
        rows = self.body if self.shown is None else self.shown
        return align_table(self.layout, rows) if rows else ""

    def texts(self) -> dict[str, str]:
        """Write the table in Markdown, CSV and LaTeX, by the suffix of the file."""
        return {
            "md": write_markdown(self.layout, self.body, self.below),
            "csv": write_csv(self.frame),
            "tex": write_latex(self.layout, self.body, self.name, " ".join(self.below)),
        }


def name_table_files(name: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Name the files of a table in a run folder, given its texts by suffix."""
    return {f"{TABLES}/{name}.{suffix}": text for suffix, text in texts.items()}


def format_p_value(p: float) -> str:
    """Write a p-value.

    >>> format_p_value(0.0004), format_p_value(0.0123)
    ('< 0.001', '0.012')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def align_table(layout: TableLayout, body: Body) -> str:
    """Write a table for a terminal: words to the left, numbers to the right.

    >>> print(align_table(TableLayout(("Model", "n")), [["basic", "7180"], ["small", "70"]]))
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


def format_signed(number: float, percent: bool) -> str:
    """Write a difference as a table's numbers are written, with its sign.

    >>> format_signed(-0.0123, percent=True)
    '−1.2'
    """
    scale, digits = (100, 1) if percent else (1, 3)
    # `z` writes what rounds to zero without a sign.
    return f"{scale * number:+z.{digits}f}".replace("-", "−")


def write_markdown(layout: TableLayout, body: Body, below: Sequence[str]) -> str:
    """Write a table as GitHub's Markdown, with paragraphs below it.

    >>> print(write_markdown(TableLayout(("Model", "n")), [["a_b", "7"]], ["One model."]))
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


def write_latex(layout: TableLayout, body: Body, name: str, caption: str) -> str:
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


def write_csv(frame: pd.DataFrame) -> str:
    """Write a frame as CSV, its numbers as scores.csv writes them; no text in it is a formula.

    >>> write_csv(pd.DataFrame([["=1+1", 0.5]], columns=["title", "value"]))
    "title,value\\n'=1+1,0.5\\n"
    """
    shown = frame.rename(columns=escape_formula)
    for name in shown.select_dtypes(exclude="number"):
        shown[name] = shown[name].map(escape_formula)
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


# ---------------------------------------------------------------- tables of scores

# What the rows of a model draw on, by what is added to its title.
Views = Mapping[str, Contents]
ABSENT = "–"
TOO_FEW = "too few errors"
TOO_FEW_RIGHT = "too few right answers"
TOO_FEW_NOTE = (
    "Too few errors: the number depends on the wrong images, or on those of a bin or a rare class. "
    "Too few right answers: it depends on the right images. There are too few of them for a valid "
    "interval."
)
CORRECTED = "bias-corrected: noise in the bins inflates the value, so it is near the upper end"


class ScoreRow(NamedTuple):
    """A row of scores.

    Attributes:
        key: its name in scores.csv.
        title: its title beside the table's entries.
        entries: None where a score is absent.
        label: its title beside the numbers of scores.csv, where that is another one.
    """

    key: str
    title: str
    entries: Sequence[ScoreEntry | None]
    label: str = ""


def tabulate_scores(
    name: str,
    caption: str,
    head: Sequence[tuple[str, str]],
    rows: Sequence[ScoreRow],
    *,
    drop_empty: bool = False,
) -> TextTable:
    """Lay out scores with their intervals.

    Args:
        name: of the table.
        caption: what the numbers are and how they were made.
        head: of each column its title, and its key in the words of scores.csv; the first is that of
            the rows.
        rows: with an entry for each further column.
        drop_empty: whether columns without a number are left out.
    """
    kept = [at for at, _ in enumerate(head[1:])]
    if drop_empty:
        kept = [at for at in kept if any(row.entries[at] for row in rows)]
    (rows_title, rows_key), columns = head[0], [head[1 + at] for at in kept]
    body = [[row.entries[at] for at in kept] for row in rows]
    lines = [
        [
            row.key,
            row.label or row.title,
            *(n for entry in entries for n in entry_numbers(entry)),
        ]
        for row, entries in zip(rows, body, strict=True)
    ]
    # The numbers as scores.csv has them, three columns for each of the table's.
    names = [f"{key}{part}" for _, key in columns for part in ("", " low", " high")]
    marked = any(entry.score.too_few for entries in body for entry in entries if entry)
    return TextTable(
        name,
        TableLayout((rows_title, *(title for title, _ in columns))),
        [
            [row.title, *(str(entry or ABSENT) for entry in entries)]
            for row, entries in zip(rows, body, strict=True)
        ],
        [f"{caption} {TOO_FEW_NOTE}" if marked else caption],
        pd.DataFrame(lines, columns=[rows_key, "title", *names]),
        [row.key for row in rows] if rows_key == "model" else (),
        values=[[entry.score.value if entry else "" for entry in entries] for entries in body],
    )


@dataclass(frozen=True)
class ScoreEntry:
    """A score as a table shows it.

    >>> str(ScoreEntry(Score(0.8234, 0.801, 0.845, 200), percent=True))
    '82.3 [80.1, 84.5]'
    >>> str(ScoreEntry(Score(0.996, math.nan, math.nan, 200), percent=False))
    '0.996 [too few errors]'
    """

    score: Score
    percent: bool
    too_few: str = TOO_FEW
    """What stands in place of an interval, if there is none."""

    def __str__(self) -> str:
        return self._text(unit="")

    @property
    def in_words(self) -> str:
        """The score with its unit, for running text."""
        return self._text(unit="\N{NO-BREAK SPACE}%" if self.percent else "")

    def _text(self, unit: str) -> str:
        scale, digits = (100, 1) if self.percent else (1, 3)
        value, low, high = (f"{scale * number:.{digits}f}" for number in self.score[:3])
        interval = self.too_few if self.score.too_few else f"{low}, {high}"
        return f"{value}{unit} [{interval}]".replace("-", "−")


def find_entry(
    contents: Contents, metric: str, model: str, shift: str, level: str
) -> ScoreEntry | None:
    """Return a number as a table shows it, or None without one or if it is undefined.

    Undefined is, for example, the risk of no answers.
    """
    score = contents.score(metric, model, shift, level)
    if score is None or math.isnan(score.value):
        return None
    accuracy = contents.score("accuracy", model, shift, level)
    # The cells of a mean differ in what they have few of.
    counts_right = (
        level not in SUMMARY_LEVELS
        and metric in METRICS
        and METRICS[metric].carried_by in ("rarer", "rarer outcome")
        and accuracy is not None
        and accuracy.value < 0.5
    )
    return ScoreEntry(score, is_percent(metric), TOO_FEW_RIGHT if counts_right else TOO_FEW)


def format_difference(difference: Score, percent: bool, without_interval: str = TOO_FEW) -> str:
    """Write a difference with its sign and its interval.

    >>> format_difference(Score(-0.0123, -0.02, 0.001, 200), percent=True)
    '−1.2 [−2.0, +0.1]'
    """
    value, low, high = (format_signed(number, percent) for number in difference[:3])
    return f"{value} [{without_interval if difference.too_few else f'{low}, {high}'}]"


def is_percent(metric: str) -> bool:
    """Say whether a metric is read as a percentage: shares of the images that are right."""
    row = find_row(metric)
    return row is not None and row.unit == "%"


def describe_metric(name: str) -> str:
    """Say what a number is, down to bins and norm.

    >>> describe_metric("accuracy")
    'Accuracy (%)'
    >>> describe_metric("rms_calibration_error")
    'RMS calibration error (10 equal-width bins, L2 norm)'
    """
    return METRICS[name].title


def describe_interval(metric: str) -> str:
    """Say what a reader must know about a metric's intervals, to be added to their name."""
    return f", {CORRECTED}" if METRICS[metric].interval == "bias-corrected" else ""


class ScoreColumn(NamedTuple):
    """A column of a table with one row per model: a metric in one state of the test images.

    Its key is that of the state, unless it has another one.
    """

    title: str
    metric: str
    shift: str
    level: str
    key: str = ""


def make_column_key(shift: str, level: str) -> str:
    """Write a state as a program reads it: `clean`, `SHIFT mean` or `SHIFT LEVEL`."""
    return shift if level == NO_LEVEL else f"{shift} {level}"


def tabulate_models(
    name: str,
    caption: str,
    columns: Sequence[ScoreColumn],
    contents: Contents,
    views: Views | None = None,
    *,
    drop_empty: bool = False,
) -> TextTable | None:
    """Lay out the columns, one row per model and view; None where they have no number."""
    views = {"": contents} if views is None else views
    rows = [
        ScoreRow(
            model,
            title + added,
            [
                find_entry(view, column.metric, model, column.shift, column.level)
                for column in columns
            ],
        )
        for model, title in contents.titles.items()
        for added, view in views.items()
    ]
    if not any(any(row.entries) for row in rows):
        return None
    if len(views) > 1:  # another run's seed is not this model's
        rows = [row for row in rows if any(row.entries)]
    keys = [column.key or make_column_key(column.shift, column.level) for column in columns]
    head = [("Model", "model"), *zip([column.title for column in columns], keys, strict=True)]
    return tabulate_scores(name, caption, head, rows, drop_empty=drop_empty)


def caption_scores(contents: Contents, subject: str, note: str = "") -> str:
    """Caption numbers of the test images: the subject, their intervals, and how many there are."""
    return f"{subject}. In brackets: {contents.intervals}{note}. {contents.sample()}."


def entry_numbers(entry: ScoreEntry | Score | None) -> tuple[float, float, float]:
    """Value and interval, as a table for programs has them."""
    score = entry.score if isinstance(entry, ScoreEntry) else entry
    return score[:3] if score else (math.nan, math.nan, math.nan)

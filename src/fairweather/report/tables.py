"""Tables in Markdown, CSV and LaTeX: every number with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from fairweather.metrics import METRICS
from fairweather.metrics.rows import find_row
from fairweather.metrics.table import shown_metrics
from fairweather.record import CLEAN, MEAN, NO_LEVEL
from fairweather.report.contents import Contents
from fairweather.report.sweeps import Sweep
from fairweather.report.table_formats import Layout, latex, markdown, rows_as_csv
from fairweather.types import Score

ABSENT = "–"
TOO_FEW = "too few errors"
TOO_FEW_NOTE = (
    "Too few errors: the number depends on the wrong images, or on those of a single bin or a rare "
    "class, and there are so few of them that no interval would be valid."
)
CORRECTED = "bias-corrected: noise in the bins inflates the value, so it is near the upper end"


@dataclass(frozen=True)
class Table:
    """A table to be written in several formats.

    Attributes:
        name: of its files, without the suffix.
        caption: what the numbers are and how they were made.
        header: the first entry names the column of row titles.
        keys: the header for programs, in the words of scores.csv.
        rows: with an entry for each further column.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    keys: tuple[str, ...]
    rows: tuple[Row, ...]

    def texts(self) -> dict[str, str]:
        """Write the table out, by the suffix of the file."""
        return {"md": self.markdown(), "csv": self.csv(), "tex": self.latex()}

    def cells(self) -> list[list[str]]:
        """The body as plain text, ready to be escaped."""
        return [
            [row.title, *(str(entry) if entry else ABSENT for entry in row.entries)]
            for row in self.rows
        ]

    def csv(self) -> str:
        """Write the numbers as scores.csv has them, three columns for each of the table's."""
        first, *others = self.keys
        columns = [f"{key}{part}" for key in others for part in ("", " low", " high")]
        lines = [
            [row.key, row.label, *(number for entry in row.entries for number in _numbers(entry))]
            for row in self.rows
        ]
        return rows_as_csv(pd.DataFrame(lines, columns=[first, "title", *columns]))

    def markdown(self) -> str:
        """Write the table as GitHub's Markdown, with the caption as a paragraph below it."""
        return markdown(Layout(self.header), self.cells(), [self.full_caption])

    def latex(self) -> str:
        """Write the table for LaTeX's booktabs package."""
        return latex(Layout(self.header), self.cells(), self.name, self.full_caption)

    @property
    def full_caption(self) -> str:
        """The caption; where too few errors are marked, with what the mark means."""
        entries = (entry for row in self.rows for entry in row.entries if entry)
        marked = any(entry.score.too_few for entry in entries)
        return f"{self.caption} {TOO_FEW_NOTE}" if marked else self.caption


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        key: its name in scores.csv.
        label: its title beside the numbers of scores.csv, where shares are fractions.
        title: its title beside the table's entries.
        entries: None where a score is absent.
    """

    key: str
    label: str
    title: str
    entries: tuple[Entry | None, ...]


@dataclass(frozen=True)
class Entry:
    """A score as a table shows it.

    >>> str(Entry(Score(0.8234, 0.801, 0.845, 200), percent=True))
    '82.3 [80.1, 84.5]'
    >>> str(Entry(Score(0.996, math.nan, math.nan, 200), percent=False))
    '0.996 [too few errors]'
    """

    score: Score
    percent: bool

    def __str__(self) -> str:
        return self._text(unit="")

    @property
    def in_words(self) -> str:
        """The score with its unit, for running text."""
        return self._text(unit="\N{NO-BREAK SPACE}%" if self.percent else "")

    def _text(self, unit: str) -> str:
        scale, digits = (100, 1) if self.percent else (1, 3)
        value, low, high = (f"{scale * number:.{digits}f}" for number in self.score[:3])
        interval = TOO_FEW if self.score.too_few else f"{low}, {high}"
        return f"{value}{unit} [{interval}]".replace("-", "−")


def build_tables(contents: Contents) -> list[Table]:
    """Build the summaries, one table for each shift and metric, and all metrics on clean images."""
    summaries = [_summary(contents, metric) for metric in shown_metrics(2)]
    levels = [
        _by_level(contents, metric, sweep)
        for sweep in contents.sweeps
        for metric in shown_metrics(2)
    ]
    tables = [*summaries, *levels, _clean_metrics(contents)]
    return [table for table in tables if any(any(row.entries) for row in table.rows)]


def summary_rows(contents: Contents) -> pd.DataFrame:
    """Return the rows of scores.csv that the summary tables show."""
    columns = _summary_columns(contents)
    return contents.find(
        (metric, model, column.shift, column.level)
        for metric in shown_metrics(2)
        for model in contents.titles
        for column in columns
    )


def find_entry(contents: Contents, metric: str, model: str, shift: str, level: str) -> Entry | None:
    """Return a number as a table shows it, or None where there is none."""
    score = contents.score(metric, model, shift, level)
    return None if score is None else Entry(score, is_percent(metric))


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


def interval_note(metric: str) -> str:
    """Say what a reader must know about a metric's intervals, to be added to their name."""
    return f", {CORRECTED}" if METRICS[metric].interval == "bias-corrected" else ""


class Column(NamedTuple):
    """A column of a table with one row per model: one state of the test images."""

    title: str
    shift: str
    level: str

    @property
    def key(self) -> str:
        """The column as a program reads it: `clean`, `SHIFT mean` or `SHIFT LEVEL`."""
        return self.shift if self.level == NO_LEVEL else f"{self.shift} {self.level}"


def _summary_columns(contents: Contents) -> list[Column]:
    means = (Column(sweep.title, sweep.name, MEAN) for sweep in contents.sweeps)
    return [Column("Clean", CLEAN, NO_LEVEL), *means]


def _summary(contents: Contents, metric: str) -> Table:
    shifts = "; for each shift, the mean over its levels" if contents.sweeps else ""
    subject = f"{describe_metric(metric)} on the clean test images{shifts}"
    columns = _summary_columns(contents)
    return _by_model(contents, f"summary_{metric}", metric, columns, subject)


def _by_level(contents: Contents, metric: str, sweep: Sweep) -> Table:
    columns = [Column(sweep.heading(level), sweep.name, level) for level in sweep.cells]
    note = "".join(f". {each}" for each in sweep.notes)
    subject = f"{sweep.title}: {describe_metric(metric)} by {sweep.level_title}{note}"
    return _by_model(contents, f"{metric}_{sweep.file_name}", metric, columns, subject)


def _by_model(
    contents: Contents, name: str, metric: str, columns: Sequence[Column], subject: str
) -> Table:
    """Lay out a metric with one row per model."""
    return Table(
        name=name,
        caption=_caption(contents, subject, interval_note(metric)),
        header=("Model", *(column.title for column in columns)),
        keys=("model", *(column.key for column in columns)),
        rows=tuple(
            Row(
                model,
                title,
                title,
                tuple(find_entry(contents, metric, model, c.shift, c.level) for c in columns),
            )
            for model, title in contents.titles.items()
        ),
    )


def _clean_metrics(contents: Contents) -> Table:
    """Lay out every metric on clean images, one row per metric, without aliases."""
    found = set(contents.scores["metric"])
    names = [name for name, m in METRICS.items() if m.alias_of is None and name in found]
    note = (
        f"; those of binned calibration errors are {CORRECTED}; those of the maximum calibration "
        "error are indicative only"
    )
    return Table(
        name="clean_metrics",
        caption=_caption(contents, "Every metric on the clean test images", note),
        header=("Metric", *contents.titles.values()),
        keys=("metric", *contents.titles),
        rows=tuple(
            Row(
                name,
                METRICS[name].label,
                describe_metric(name),
                tuple(find_entry(contents, name, m, CLEAN, NO_LEVEL) for m in contents.titles),
            )
            for name in names
        ),
    )


def _caption(contents: Contents, subject: str, note: str) -> str:
    return f"{subject}. In brackets: {contents.intervals}{note}. {contents.sample()}."


def _numbers(entry: Entry | None) -> tuple[float, float, float]:
    return entry.score[:3] if entry else (math.nan, math.nan, math.nan)

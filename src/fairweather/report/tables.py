"""Tables in Markdown, CSV and LaTeX: every number with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from fairweather.metrics import METRICS
from fairweather.metrics.rows import find_row
from fairweather.record import NO_LEVEL
from fairweather.report.contents import Contents
from fairweather.report.table_formats import Layout, TextTable, signed
from fairweather.types import Score

# What the rows of a model draw on, by what is added to its title.
Views = Mapping[str, Contents]
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
        first, *others = self.keys
        columns = [f"{key}{part}" for key in others for part in ("", " low", " high")]
        lines = [
            [row.key, row.label, *(number for entry in row.entries for number in _numbers(entry))]
            for row in self.rows
        ]
        # The numbers as scores.csv has them, three columns for each of the table's.
        frame = pd.DataFrame(lines, columns=[first, "title", *columns])
        layout, below = Layout(self.header), [self.full_caption]
        return TextTable(self.name, layout, self.cells(), below, frame).texts()

    def cells(self) -> list[list[str]]:
        """The body as plain text, ready to be escaped."""
        return [
            [row.title, *(str(entry) if entry else ABSENT for entry in row.entries)]
            for row in self.rows
        ]

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


def find_entry(contents: Contents, metric: str, model: str, shift: str, level: str) -> Entry | None:
    """Return a number as a table shows it, or None where there is none."""
    score = contents.score(metric, model, shift, level)
    return None if score is None else Entry(score, is_percent(metric))


def find_defined(
    contents: Contents, metric: str, model: str, shift: str, level: str
) -> Entry | None:
    """Return a number likewise, or None where it is undefined, such as a risk of no answers."""
    entry = find_entry(contents, metric, model, shift, level)
    return None if entry is None or math.isnan(entry.score.value) else entry


def signed_entry(difference: Score, percent: bool, without_interval: str = TOO_FEW) -> str:
    """Write a difference with its sign and its interval.

    >>> signed_entry(Score(-0.0123, -0.02, 0.001, 200), percent=True)
    '−1.2 [−2.0, +0.1]'
    """
    value, low, high = (signed(each, percent) for each in difference[:3])
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


def interval_note(metric: str) -> str:
    """Say what a reader must know about a metric's intervals, to be added to their name."""
    return f", {CORRECTED}" if METRICS[metric].interval == "bias-corrected" else ""


class Column(NamedTuple):
    """A column of a table with one row per model: a metric in one state of the test images."""

    title: str
    key: str
    metric: str
    shift: str
    level: str


def column_key(shift: str, level: str) -> str:
    """Write a state as a program reads it: `clean`, `SHIFT mean` or `SHIFT LEVEL`."""
    return shift if level == NO_LEVEL else f"{shift} {level}"


def by_model(
    name: str,
    caption: str,
    columns: Sequence[Column],
    contents: Contents,
    views: Views | None = None,
) -> Table | None:
    """Lay out the columns, one row per model and view; None where they have no number."""
    rows = list(_lines(columns, {"": contents} if views is None else views, contents))
    if not any(any(row.entries) for row in rows):
        return None
    titles, keys = ([column[at] for column in columns] for at in (0, 1))
    return Table(name, caption, ("Model", *titles), ("model", *keys), tuple(rows))


def without_empty(table: Table | None) -> Table | None:
    """Leave out the columns without a number."""
    if table is None:
        return None
    columns = range(len(table.header) - 1)
    kept = [at for at in columns if any(row.entries[at] for row in table.rows)]
    return replace(
        table,
        header=(table.header[0], *(table.header[1 + at] for at in kept)),
        keys=(table.keys[0], *(table.keys[1 + at] for at in kept)),
        rows=tuple(
            row._replace(entries=tuple(row.entries[at] for at in kept)) for row in table.rows
        ),
    )


def told_of(contents: Contents, subject: str, note: str = "") -> str:
    """Caption numbers of the test images: the subject, their intervals, and how many there are."""
    return f"{subject}. In brackets: {contents.intervals}{note}. {contents.sample()}."


def _lines(columns: Sequence[Column], views: Views, contents: Contents) -> Iterator[Row]:
    for model, title in contents.titles.items():
        for added, view in views.items():
            entries = tuple(
                find_defined(view, column.metric, model, column.shift, column.level)
                for column in columns
            )
            if any(entries) or len(views) == 1:  # another run's seed is not this model's
                yield Row(model, title + added, title + added, entries)


def _numbers(entry: Entry | None) -> tuple[float, float, float]:
    return entry.score[:3] if entry else (math.nan, math.nan, math.nan)

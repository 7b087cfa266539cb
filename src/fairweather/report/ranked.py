"""A ranking as the report shows it and writes it out: places, numbers and p-values."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from fairweather.report.formats import Layout, latex, markdown, rows_as_csv
from fairweather.report.tables import ABSENT, Entry
from fairweather.types import Score


class Ranked(NamedTuple):
    """A model in its place.

    Attributes:
        model, title: its names.
        score: what it is ranked by: mean accuracy over shifts, or on clean images without shifts.
        clean: accuracy on clean images.
        best_rank: 1 + the number of models that the tests find better.
        worst_rank: the number of models − that of the models that the tests find worse.
        clean_best_rank, clean_worst_rank: the same on clean images.
        p_next: of the test against the next row, corrected for all pairs; NaN in the last row.
        p_next_at_most: whether it is known only that p is at most that.
    """

    model: str
    title: str
    score: Score
    clean: Score
    best_rank: int
    worst_rank: int
    clean_best_rank: int
    clean_worst_rank: int
    p_next: float
    p_next_at_most: bool

    @property
    def rank(self) -> str:
        """The places that it may have: `1` or `1–3`."""
        return _span(self.best_rank, self.worst_rank)

    @property
    def clean_rank(self) -> str:
        """The places that it may have on clean images."""
        return _span(self.clean_best_rank, self.clean_worst_rank)

    @property
    def p_in_words(self) -> str:
        """The p-value as the table shows it."""
        if math.isnan(self.p_next):
            return ABSENT
        if self.p_next < 0.001:
            return "< 0.001"
        # A bound is rounded up, so that it stays one.
        at_most = f"≤ {math.ceil(1000 * self.p_next) / 1000:.3f}"
        return at_most if self.p_next_at_most else f"{self.p_next:.3f}"


class Ranking(NamedTuple):
    """All models in their order, best first.

    Attributes:
        rows: one a model.
        shifted: whether they are ranked by the mean over shifts, not by clean images.
        verdict: who leads, in one sentence or two.
        caption: what is ranked, and what a shared place means.
        leaders: the rows of those that no model beats, one of those right on the same images.
    """

    rows: tuple[Ranked, ...]
    shifted: bool
    verdict: str
    caption: str
    leaders: tuple[int, ...]

    @property
    def header(self) -> tuple[str, ...]:
        """The titles of the columns of `cells`."""
        clean = ("Rank on clean images", "Clean (%)")
        if self.shifted:
            return ("Model", "Rank", "Mean over shifts (%)", "p to the next", *clean)
        return ("Model", *clean, "p to the next")

    def cells(self) -> list[list[str]]:
        """The body as plain text, ready to be escaped."""
        return [self._cells(row) for row in self.rows]

    def texts(self) -> dict[str, str]:
        """Write the ranking out, by the suffix of the file."""
        layout, body = Layout(self.header), self.cells()
        return {
            "md": markdown(layout, body, [self.caption]),
            "csv": self._csv(),
            "tex": latex(layout, body, "ranking", self.caption),
        }

    def _cells(self, row: Ranked) -> list[str]:
        score, clean = (str(Entry(each, percent=True)) for each in (row.score, row.clean))
        if self.shifted:
            return [row.title, row.rank, score, row.p_in_words, row.clean_rank, clean]
        return [row.title, row.clean_rank, clean, row.p_in_words]

    def _csv(self) -> str:
        parts = ("", " low", " high", " n")
        numbers = [f"{of}{part}" for of in ("score", "clean") for part in parts]
        columns = ["model", "title", *numbers, *Ranked._fields[4:]]
        lines = [(row.model, row.title, *row.score, *row.clean, *row[4:]) for row in self.rows]
        return rows_as_csv(pd.DataFrame(lines, columns=columns))


def _span(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"

"""The smallest level of each shift at which the accuracy of a model falls below a limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from fairweather.record import CLEAN, NO_LEVEL
from fairweather.report.contents import Contents
from fairweather.report.section import Part, Shown, Tables
from fairweather.report.sweeps import Sweep
from fairweather.report.table_formats import Layout, TextTable
from fairweather.types import Score

POINTS = 0.05  # below clean images: the limit of the first column
SHARES = (0.95, 0.9, 0.8, 0.7, 0.5)
NONE = "none"
OPEN = "*"  # marks a level whose interval still reaches the limit


class Limit(NamedTuple):
    """An accuracy that a model should not fall below.

    Attributes:
        title: for a column or a choice.
        share: the accuracy itself; None for so many points below the one on clean images.
    """

    title: str
    share: float | None

    def of(self, clean: float) -> float:
        """Return the accuracy that is meant, for a model with this one on clean images."""
        # Rounded, since 0.969 − 0.05 is a little more than 0.919 as a float.
        return round(clean - POINTS, 9) if self.share is None else self.share


LIMITS = (
    Limit("5 points below clean", None),
    *(Limit(f"{100 * share:.0f} %", share) for share in SHARES),
)


class Below(NamedTuple):
    """The level nearest to clean images, on one side, at which a model is below a limit.

    Attributes:
        level: as scores.csv writes it.
        accuracy: there.
        is_open: whether the interval still reaches the limit.
    """

    level: str
    accuracy: Score
    is_open: bool


class Smallest(NamedTuple):
    """What is found for one model and one shift.

    Attributes:
        model, title, sweep: of what.
        below: for each of `LIMITS`, the levels that were found; none on a side that stays above.
        unsure: for each, whether the interval at some level reaches below the limit.
    """

    model: str
    title: str
    sweep: Sweep
    below: tuple[tuple[Below, ...], ...]
    unsure: tuple[bool, ...]

    def texts(self) -> list[str]:
        """Write what is found for each limit: `σ = 1.2`, `f = 0.7 *; f = 1.3` or `none`."""
        return [
            "; ".join(
                f"{self.sweep.heading(each.level)}{f' {OPEN}' if each.is_open else ''}"
                for each in found
            )
            or f"{NONE}{f' {OPEN}' if unsure else ''}"
            for found, unsure in zip(self.below, self.unsure, strict=True)
        ]


def smallest_levels(contents: Contents) -> list[Smallest]:
    """Find for each model, shift and limit the smallest level with an accuracy below the limit.

    Only levels that were tested are looked at, and nothing is interpolated between them. A level is
    below a limit where the accuracy itself is, whatever its interval; it is marked where its
    interval still reaches the limit. The smallest level is the one nearest to what changes
    nothing; where levels lie on both sides of that, each side has its own.

    Returns:
        One for each model and shift.
    """
    rows = []
    for model, title in contents.titles.items():
        clean = contents.score("accuracy", model, CLEAN, NO_LEVEL)
        for sweep in contents.sweeps:
            scores = [
                (level, score)
                for level in sweep.cells
                if (score := contents.score("accuracy", model, sweep.name, level)) is not None
            ]
            if clean is not None and scores:
                limits = [limit.of(clean.value) for limit in LIMITS]
                found = tuple(tuple(_below(sweep, scores, limit)) for limit in limits)
                lowest = min((score.low for _, score in scores if not score.too_few), default=1.0)
                unsure = tuple(lowest < limit for limit in limits)
                rows.append(Smallest(model, title, sweep, found, unsure))
    return rows


def limits_table(rows: Sequence[Smallest]) -> TextTable | None:
    """Lay them out, one row each; None without any."""
    if not rows:
        return None
    lines = [
        (row.model, row.title, row.sweep.name, limit.title, each.level, *each.accuracy)
        for row in rows
        for limit, found in zip(LIMITS, row.below, strict=True)
        for each in found
    ]
    columns = ["model", "title", "shift", "limit", "level", *Score._fields]
    caption = (
        "The smallest level tested at which accuracy is below the limit; “none”: it is at or above "
        "the limit at all levels tested. The measured accuracy is compared with the limit, not its "
        "interval, and nothing is interpolated. "
        f"“{OPEN}”: the 95 % interval at that level still reaches the limit; beside “none”, one at "
        "some level reaches below it."
    )
    return TextTable(
        "smallest_levels",
        Layout(("Model", "Shift", *(limit.title for limit in LIMITS)), words=2),
        [[row.title, row.sweep.title, *row.texts()] for row in rows],
        [caption],
        pd.DataFrame(lines, columns=columns),
    )


def _below(sweep: Sweep, scores: Sequence[tuple[str, Score]], limit: float) -> Iterator[Below]:
    """The nearest level below the limit on each side of the neutral one, the lower side first."""
    for side in (-1, 1):
        away = {level: side * (float(level) - sweep.neutral) for level, _ in scores}
        lower = [(away[level], level, score) for level, score in scores if score.value < limit]
        nearest = min((each for each in lower if each[0] > 0), default=None)
        if nearest is not None:
            _, level, score = nearest
            yield Below(level, score, score.high >= limit)


def _shown(contents: Contents, tables: Tables) -> Shown | None:
    rows = contents.once(smallest_levels)
    if not rows:
        return None
    smallest = {(row.model, row.sweep.name): row.texts() for row in rows}
    facts = {"smallest": smallest, "choices": LIMITS}
    return Shown(tables=tables, template="limits.html.j2", facts=facts)


PART = Part(_shown, lambda contents: [limits_table(contents.once(smallest_levels))])

"""How a model performs on clean images and at its worst, and which numbers are found to differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import scipy.special  # scipy.stats takes half a second to import

from fairweather.metrics.columns import Z95
from fairweather.record import MEAN
from fairweather.report.contents import Contents
from fairweather.report.sweeps import Sweep
from fairweather.types import Score

LEVEL = 0.05  # of the tests
COVERAGE = "coverage_above_validation_threshold/0.05"
RISK = "risk_above_validation_threshold/0.05"
_COUNTS = dict(enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine"), 2))


class Performance(NamedTuple):
    """What the scores say of a model on one set of images; None where they say nothing.

    Attributes:
        accuracy: the share of right answers.
        gap: mean confidence − accuracy.
        rms: the RMS calibration error.
        coverage, risk: above the threshold for 5 % errors on validation images.
        auc: the mean over classes of the area under the ROC curve.
        seeds: how many trainings these are means over.
        clusters: whether images belong together in clusters.
    """

    accuracy: Score
    gap: Score | None = None
    rms: Score | None = None
    coverage: Score | None = None
    risk: Score | None = None
    auc: Score | None = None
    seeds: int = 1
    clusters: bool = False

    @property
    def evidence(self) -> str:
        """What the intervals rest on: the seeds, if there are several, else the images.

        >>> [Performance(Score(0.9, 0.8, 1.0, 99), seeds=seeds).evidence for seeds in (1, 3)]
        ['these images', 'three seeds']
        """
        if self.seeds > 1:
            return f"{_COUNTS.get(self.seeds, self.seeds)} seeds"
        return "these clusters of images" if self.clusters else "these images"


class WorstLevel(NamedTuple):
    """The level of a shift, or of an attack, at which a model's accuracy is lowest.

    Attributes:
        sweep, level: which.
        performance: there.
        mean: accuracy over all levels.
        levels: how many there are.
    """

    sweep: Sweep
    level: str
    performance: Performance
    mean: Score | None
    levels: int


class WorstLevels(NamedTuple):
    """A model's lowest accuracy under each shift and under each attack."""

    shifts: Sequence[WorstLevel]
    attacks: Sequence[WorstLevel]

    @property
    def focus(self) -> WorstLevel | None:
        """The lowest accuracy of all shifts, or of all attacks where there is no shift."""
        return lowest(self.shifts or self.attacks)

    @property
    def searched(self) -> int:
        """Count the sets of images among which the focus is the lowest."""
        return sum(low.levels for low in self.shifts or self.attacks)


def lowest(lows: Sequence[WorstLevel]) -> WorstLevel | None:
    """Return the level with the lowest accuracy of all, None where there is none."""
    return min(lows, key=lambda low: low.performance.accuracy.value, default=None)


def worst_levels(contents: Contents, model: str) -> WorstLevels:
    """Find the level of each shift and of each attack at which a model's accuracy is lowest."""
    lows: dict[str, list[WorstLevel]] = {"shift": [], "attack": []}
    for sweep in contents.sweeps:
        levels = [
            (level, performance)
            for level in sweep.cells
            if (performance := performance_at(contents, model, sweep.name, level))
        ]
        if levels:
            level, worst = min(levels, key=lambda each: each[1].accuracy.value)
            mean = contents.score("accuracy", model, sweep.name, MEAN)
            lows[sweep.kind].append(WorstLevel(sweep, level, worst, mean, len(levels)))
    return WorstLevels(lows["shift"], lows["attack"])


def performance_at(
    contents: Contents, model: str, shift: str, level: str, seed: str | None = None
) -> Performance | None:
    """Read what the scores say of a model at one level of a shift; None without an accuracy.

    They are those of the shown seed, unless another one is asked for.
    """
    accuracy = contents.score("accuracy", model, shift, level, seed)
    if accuracy is None:
        return None
    names = ("confidence_gap", "rms_calibration_error", COVERAGE, RISK, "macro_auc")
    gap, rms, coverage, risk, auc = (
        contents.score(name, model, shift, level, seed) for name in names
    )
    seeds = len(contents.seeds_of(model)) if seed is None else 1
    clustered = contents.clusters is not None
    return Performance(accuracy, gap, rms, coverage, risk, auc, seeds, clustered)


class PairedChange(NamedTuple):
    """From clean images to the lowest accuracy, on the same images; without fields, not known.

    Attributes:
        accuracy, gap: second minus first, of accuracy and of mean confidence − accuracy.
        p: of the test of equal accuracy, corrected for the number of sets that were looked at.
    """

    accuracy: Score | None = None
    gap: Score | None = None
    p: float = 1.0


class Outcome(NamedTuple):
    """What becomes of a model from clean images to its lowest accuracy.

    Attributes:
        title: of the model.
        clean: on clean images.
        there: where accuracy is lowest; None where no shift was tested.
        way: −1 where accuracy is found to fall, else 1 or 0.
        side: 1 where the model is found overconfident there, −1 where underconfident, else 0.
    """

    title: str
    clean: Performance
    there: Performance | None
    way: int
    side: int


def accuracy_direction(
    clean: Performance, there: Performance, change: PairedChange, searched: int
) -> int:
    """Say whether the lowest accuracy is higher (1), lower (−1), or not found to differ (0).

    Of one set of images the interval of the difference decides. The lowest of several is lower by
    luck alone: there the test, corrected for their number, must find a loss too.

    >>> clean = Performance(Score(0.9, 0.88, 0.92, 100))
    >>> there = Performance(Score(0.8, 0.78, 0.82, 100))
    >>> change = PairedChange(accuracy=Score(-0.1, -0.15, -0.05, 100), p=0.2)
    >>> [accuracy_direction(clean, there, change, searched) for searched in (1, 9)]
    [-1, 0]
    """
    way = direction(clean.accuracy, there.accuracy, change.accuracy)
    tested = searched > 1 and change.accuracy is not None
    return 0 if way < 0 and tested and change.p >= LEVEL else way


def widened(score: Score, searched: int) -> Score:
    """Widen an interval to that of one of several numbers, which all hold theirs in 95 %.

    By Bonferroni's correction: it becomes one of 100 − 5 / `searched` %, as the tails of a normal
    distribution have it on either side. That is near enough for means over many images, and needs
    no more resamples than the interval itself.

    >>> wide = widened(Score(0.1, 0.0, 0.2, 100), 20)
    >>> round(wide.low, 3), round(wide.high, 3)
    (-0.054, 0.254)
    """
    factor = float(scipy.special.ndtri(1 - LEVEL / 2 / searched)) / Z95
    value, low, high, n = score
    return Score(value, value - factor * (value - low), value + factor * (high - value), n)


def direction(first: Score, second: Score, difference: Score | None) -> int:
    """Say whether the second number is larger (1), smaller (−1), or not found to differ (0).

    By the interval of the paired difference where there is one, else by whether theirs overlap.

    >>> near, far = Score(0.9, 0.88, 0.92, 100), Score(0.8, 0.78, 0.82, 100)
    >>> direction(near, far, None), direction(near, far, Score(-0.1, -0.21, 0.01, 100))
    (-1, 0)
    """
    if difference is None:
        return int(second.low > first.high) - int(second.high < first.low)
    return sign(difference)


def sign(score: Score) -> int:
    """Say whether a number is above 0 (1), below (−1), or neither is found (0), by its interval.

    >>> sign(Score(0.1, 0.05, 0.2, 100)), sign(Score(0.1, -0.05, 0.2, 100))
    (1, 0)
    """
    return int(score.low > 0) - int(score.high < 0)

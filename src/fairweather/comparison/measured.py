"""A run's models on the images of a comparison: what they get right, and resampled metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.comparison.sides import Shared, Side
from fairweather.errors import InputError
from fairweather.metrics import Estimate, Resamples
from fairweather.metrics.paired import SeedSummary, seed_summary
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL
from fairweather.scores import Estimates, Key, estimate_metrics, with_means
from fairweather.types import Predictions

COMPARED = ("accuracy", "rms_calibration_error", "negative_log_likelihood")
ALL = "all"  # the shift of the mean over shifts, as scores.csv writes it
# Of a study that does not say how often its images are resampled.
RESAMPLES = 1000

Place = tuple[str, str]  # shift and level, in the words of scores.csv


class Resampled:
    """The images that both sides were predicted on, and how often each counts in each resample."""

    def __init__(self, first: Predictions, name: str, resamples: int) -> None:
        self.name, self.resamples = name, resamples
        self.keys, self.labels = first.keys, first.labels
        self.shared = Resamples.draw(first.labels, resamples)

    def check(self, predictions: Predictions, name: str) -> None:
        """Raise `InputError` unless these are predictions of the same images, in their order."""
        for what, ours, theirs in (
            ("images", self.keys, predictions.keys),
            ("labels", self.labels, predictions.labels),
        ):
            if not np.array_equal(ours, theirs):
                raise InputError(
                    f"{name} has {len(theirs):,} {what}, {self.name} has {len(ours):,}, and they "
                    "are not the same: models are compared on the same images in the same order"
                )


class Measured(NamedTuple):
    """A model's estimates by model, seed, shift and level, and which images it gets right.

    Where there are several seeds, `correct` is of the last: it is for tests of one seed alone.
    `answers` is a digest of the predicted classes, of every seed and cell.
    """

    model: str
    seeds: tuple[int | str, ...]
    table: Mapping[Key, Estimates]
    correct: Mapping[Place, npt.NDArray[np.bool_]]
    answers: str

    def shown(self, place: Place, metric: str) -> Estimate:
        """The estimate of the only seed, or of the mean over seeds."""
        seed = MEAN if len(self.seeds) > 1 else str(self.seeds[0])
        return self.table[self.model, seed, *place][metric]

    def summary(self, place: Place, metric: str) -> SeedSummary:
        """Mean and deviation over seeds."""
        cells = [self.table[self.model, str(seed), *place] for seed in self.seeds]
        return seed_summary([cell[metric].value for cell in cells])


def resample(a: Side, b: Side) -> Resampled:
    """Take the images of a's first model, as often as the study that resamples them more often."""
    resamples = max(side.study.get("bootstrap", RESAMPLES) for side in (a, b))
    model, seeds = next(iter(a.models.items()))
    return Resampled(a.read(model, seeds[0], CLEAN), a.name, resamples)


def cells_of(shared: Shared) -> dict[Place, str]:
    """Give the id of every shifted set of images that both sides have, clean first."""
    shifted = {
        (sweep.name, level): cell for sweep in shared.sweeps for level, cell in sweep.cells.items()
    }
    return {(CLEAN, NO_LEVEL): CLEAN, **shifted}


def mean_places(shared: Shared) -> list[Place]:
    """Give the means: over shifts, where there are several, and over the levels of each."""
    several = sum(not sweep.is_attack for sweep in shared.sweeps) > 1
    return [*[(ALL, MEAN)] * several, *((sweep.name, MEAN) for sweep in shared.sweeps)]


def measure(
    side: Side,
    model: str,
    shared: Shared,
    images: Resampled,
    metrics: Collection[str] = COMPARED,
) -> Measured:
    """Compute metrics of a model in every cell and their means, over levels, shifts and seeds."""
    correct, answers = {}, hashlib.sha256()

    def sets() -> Iterator[tuple[Key, Predictions, None]]:
        for seed in side.everyone[model]:
            for place, cell in cells_of(shared).items():
                predictions = side.read(model, seed, cell)
                images.check(predictions, side.name)
                correct[place] = predictions.correct
                answers.update(predictions.predicted.astype("<i8").tobytes())
                yield (model, str(seed), *place), predictions, None

    apart = [sweep.name for sweep in shared.sweeps if sweep.is_attack]
    table = with_means(estimate_metrics(sets(), images.shared, metrics), apart)
    return Measured(model, side.everyone[model], table, correct, answers.hexdigest())

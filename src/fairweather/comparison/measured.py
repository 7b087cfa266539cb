"""A run's models on the images of a comparison: what they get right, and resampled metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.comparison.sides import Shared, Side
from fairweather.errors import InputError
from fairweather.metrics import (
    METRICS,
    Estimate,
    accuracy,
    bootstrap_weights,
    negative_log_likelihood,
    rms_calibration_error,
)
from fairweather.metrics.paired import SeedSummary, seed_summary
from fairweather.metrics.weights import Result
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL
from fairweather.scores import Estimates, Key, with_means
from fairweather.types import Predictions

RESAMPLES = 1000
ALL = "all"  # the shift of the mean over shifts, as scores.csv writes it
# Weights held in float64 at once: 32 MB.
BLOCK = 2**22

Evaluate = Callable[[Predictions, npt.ArrayLike | None], Result]
COMPARED: Mapping[str, Evaluate] = {
    "accuracy": lambda p, weights: accuracy(p.correct, weights),
    "rms_calibration_error": lambda p, weights: rms_calibration_error(
        p.confidence, p.correct, weights
    ),
    "negative_log_likelihood": lambda p, weights: negative_log_likelihood(p.nll, weights),
}
_INTERVALS = {metric.name: metric.interval for metric in METRICS}

Place = tuple[str, str]  # shift and level, in the words of scores.csv


class Resampled:
    """The images that both sides were predicted on, and how often each counts in each resample."""

    def __init__(self, first: Predictions, name: str) -> None:
        self.name = name
        self.keys, self.labels = first.keys, first.labels
        self.weights = bootstrap_weights(len(first), RESAMPLES)

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

    def estimate(self, predictions: Predictions, metrics: Collection[str]) -> dict[str, Estimate]:
        """Compute metrics of `COMPARED` on the images as they are and on each resample."""
        n = len(self.keys)
        step = max(1, BLOCK // n)
        replicates: dict[str, list[Result]] = {name: [] for name in metrics}
        for start in range(0, RESAMPLES, step):
            block = self.weights[start : start + step].astype(np.float64)
            for name in metrics:
                replicates[name].append(COMPARED[name](predictions, block))
        return {
            name: Estimate(
                value=float(COMPARED[name](predictions, None)),
                replicates=np.concatenate(replicates[name]),
                n=n,
                interval=_INTERVALS[name],
            )
            for name in metrics
        }


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


def resample(side: Side) -> Resampled:
    """Take the images of a side's first model as those of the comparison."""
    model, seeds = next(iter(side.models.items()))
    return Resampled(side.read(model, seeds[0], CLEAN), side.name)


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
    metrics: Collection[str] = tuple(COMPARED),
) -> Measured:
    """Compute metrics of a model in every cell and their means, over levels, shifts and seeds."""
    estimated, correct, answers = [], {}, hashlib.sha256()
    for seed in side.everyone[model]:
        for place, cell in cells_of(shared).items():
            predictions = side.read(model, seed, cell)
            images.check(predictions, side.name)
            key = (model, str(seed), *place)
            estimated.append((key, images.estimate(predictions, metrics)))
            correct[place] = predictions.correct
            answers.update(predictions.predicted.astype("<i8").tobytes())
    apart = [sweep.name for sweep in shared.sweeps if sweep.is_attack]
    table = with_means(estimated, apart)
    return Measured(model, side.everyone[model], table, correct, answers.hexdigest())

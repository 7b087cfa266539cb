"""Do promises hold for patients, if each has 1 to 40 images that resemble each other?

    python benchmarks/patients.py    # about 5 minutes on an idle core; writes patients.csv
    python benchmarks/patients.py --trials 20    # a try, which writes nothing

A draw has 100 calibration patients and 100 test patients. The number of images of a patient is
uniform on the logarithmic scale from 1 to 40. 30 % of the patients have the finding: in all of
their images, or in some (each with 60 %, at least one). The logit of an image is 1.8 higher where
it has the finding, plus noise with a standard deviation of 1.5, of which a share is the same for
all images of a patient. Each draw has its own patients.

Sets of patients are conformal sets for 90 %, fitted on one row for each calibration patient. Sets
of images are fitted on the calibration images as if they were independent. A threshold for a
specificity of 90 % is chosen on calibration patients or on calibration images, and calls test
patients. Intervals need no simulation of their own: rows of patients are independent, and
`findings.py` has those.
"""

from __future__ import annotations

import argparse
import csv
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.special

from fairweather.metrics.aggregates import aggregate_finding_labels, aggregate_findings
from fairweather.metrics.conformal import conformal_quantile
from fairweather.metrics.grouping import Grouping
from fairweather.tasks import FindingsPredictions, mean_loss
from fairweather.types.measurement import UNKNOWN

STORED = Path(__file__).with_suffix(".csv")
TRIALS, PATIENTS, MOST_IMAGES = 2_000, 100, 40
SHARE, MARGIN, SPREAD, SOME = 0.3, 1.8, 1.5, 0.6
COVERAGE, SPECIFICITY = 0.9, 0.9
CORRELATIONS, PLACES = (0.2, 0.5, 0.8), ("all", "some")
NAMES = ("mean", "max", "noisy-or")
HOW = (*NAMES, "auto")
COLUMNS = (
    *("aggregate", "images_with_it", "correlation", "trials"),
    *("sets_of_patients", "set_error", "sets_of_images", "every_image_in_its_set"),
    *("specificity_by_patients", "specificity_by_images"),
)


class Drawn(NamedTuple):
    """Images of some patients."""

    grouping: Grouping
    logits: np.ndarray
    """float64 `[N, 1]`."""

    labels: np.ndarray
    """int64 `[N, 1]`."""

    def patients(self, name: str) -> FindingsPredictions:
        """One row for each patient."""
        logits = aggregate_findings(self.logits, self.grouping, name).astype(np.float32)
        labels = aggregate_finding_labels(self.labels, self.grouping, UNKNOWN).labels
        return FindingsPredictions(np.arange(len(labels)), labels, logits, ("finding",))


def draw(generator: np.random.Generator, count: int, place: str, correlation: float) -> Drawn:
    sizes = np.exp(generator.uniform(0, np.log(MOST_IMAGES + 1), count)).astype(np.int64)
    grouping = Grouping(np.repeat(np.arange(count), sizes))
    of, n = grouping.numbers, len(grouping.numbers)
    sick, present = generator.random(count) < SHARE, np.ones(n, dtype=bool)
    if place == "some":
        present = generator.random(n) < SOME
        first = np.cumsum(sizes) - sizes
        present[first] |= ~(grouping.sums(present[:, None].astype(np.float64))[:, 0] > 0)
    labels = (sick[of] & present).astype(np.int64)
    noise = np.sqrt(correlation) * generator.normal(size=count)[of]
    noise += np.sqrt(1 - correlation) * generator.normal(size=n)
    logits = MARGIN * labels - 1.2 + SPREAD * noise
    return Drawn(grouping, logits[:, None], labels[:, None])


def scores_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 minus the probability of each label."""
    signed = np.where(labels == 1, -1, 1) * logits
    return scipy.special.expit(signed.astype(np.float64))[:, 0]


def least_threshold(logits: np.ndarray, labels: np.ndarray) -> float:
    """The smallest threshold that keeps the specificity."""
    return float(np.quantile(logits[labels == 0], SPECIFICITY, method="inverted_cdf"))


def specificity(rows: FindingsPredictions, threshold: float) -> float:
    return float((rows.logits[rows.labels == 0] <= threshold).mean())


def measure_draw(calibration: Drawn, test: Drawn) -> np.ndarray:
    """What each of `HOW` keeps of one draw: float64 `[4, 5]`."""
    fitted = {name: calibration.patients(name) for name in NAMES}
    of_images = conformal_quantile(scores_of(calibration.logits, calibration.labels), COVERAGE)
    inside = scores_of(test.logits, test.labels) <= of_images
    whole = test.grouping.sums(inside[:, None].astype(np.float64))[:, 0] == test.grouping.sizes
    by_images = least_threshold(calibration.logits, calibration.labels)
    kept = []
    for name, own in fitted.items():
        rows = test.patients(name)
        scores = scores_of(rows.logits, rows.labels)
        of_patients = conformal_quantile(scores_of(own.logits, own.labels), COVERAGE)
        by_patients = least_threshold(own.logits, own.labels)
        kept.append(
            [
                (scores <= of_patients).mean(),
                (scores <= of_images).mean(),
                whole.mean(),
                specificity(rows, by_patients),
                specificity(rows, by_images),
            ]
        )
    losses = [mean_loss(own) for own in fitted.values()]
    return np.array([*kept, kept[int(np.argmin(losses))]])


def measure(place: str, correlation: float, trials: int) -> list[list[object]]:
    seed = PLACES.index(place), round(10 * correlation)
    measured = []
    for trial in range(trials):
        generator = np.random.default_rng([trial, *seed])
        calibration, test = (draw(generator, PATIENTS, place, correlation) for _ in range(2))
        measured.append(measure_draw(calibration, test))
    means, deviations = np.mean(measured, axis=0), np.std(measured, axis=0, ddof=1)
    return [
        [name, place, correlation, trials, mean[0], deviation[0] / np.sqrt(trials), *mean[1:]]
        for name, mean, deviation in zip(HOW, means, deviations, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=TRIALS)
    trials = parser.parse_args().trials
    rows = [
        [f"{value:.4f}" if isinstance(value, float) else value for value in row]
        for place, correlation in product(PLACES, CORRELATIONS)
        for row in measure(place, correlation, trials)
    ]
    csv.writer(sys.stdout, lineterminator="\n").writerows([COLUMNS, *rows])
    if trials == TRIALS:
        with STORED.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()

"""How often do the bands of ROC and precision-recall curves hold the true curve?

    python benchmarks/curves.py    # about a minute on an idle core; writes curves.csv
    python benchmarks/curves.py --trials 20    # a try, which writes nothing

Images have a rare finding, which the model ranks with an AUC of 0.92, or the logits are skewed.
They come alone, or with others of a patient: 1 to 6, of which most have the same finding and
similar logits. The truth is the curve of a population, from which images, or patients, are drawn
with replacement. A band is judged at the drawn point that is nearest to a specificity, or a
recall. What counts is each tail: how often the truth lies below the band, and how often above.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special

from fairweather.metrics.columns import BoolArray, FloatArray
from fairweather.metrics.curves import trace_curves
from fairweather.metrics.grouping import Grouping

STORED = Path(__file__).with_suffix(".csv")
TRIALS, POPULATION = 200, 400_000
# Images and those with the finding, on average.
SIZES = ((300, 15), (500, 50), (1500, 60), (400, 200))
DRAWN = (("images", "normal"), ("images", "skewed"), ("patients", "skewed"))
MARGIN, SAME = 2.0, 0.8
PATIENT_SIZES = np.arange(1, 7)
PLACES = {
    "roc": (0.02, 0.05, 0.1, 0.3),  # 1 − specificity
    "precision_recall": (0.2, 0.5, 0.8, 0.9),  # recall
}
COLUMNS = ("curve", "at", "images", "positives", "drawn", "logits", "trials", "below", "above")


class Population:
    """Probabilities and findings of many images, and the patient of each."""

    def __init__(self, share: float, *, patients: bool, skewed: bool) -> None:
        generator = np.random.default_rng([round(1e4 * share), patients, skewed])
        sizes = (
            generator.choice(PATIENT_SIZES, POPULATION // 3)
            if patients
            else np.ones(POPULATION, int)
        )
        self.sizes, of_patient = sizes, np.repeat(np.arange(len(sizes)), sizes)
        self.starts, n = np.cumsum(sizes) - sizes, len(of_patient)
        same = generator.random((2, n)) < (SAME if patients else 0)
        draws = generator.random((2, len(sizes)))[:, of_patient], generator.random((2, n))
        chance, place = np.where(same, *draws)
        self.positive: BoolArray = chance < share
        noise = scipy.special.ndtri(place)
        if skewed:  # a long tail of high logits, as of images that look like the finding
            noise = -np.log(-np.log(place)) / 1.28 - 0.45
        odds = np.log(share / (1 - share)) + MARGIN * (noise + MARGIN * (self.positive - 0.5))
        self.probability: FloatArray = scipy.special.expit(odds)
        ranked = self.positive[np.argsort(-self.probability)]
        self.right, self.false = ranked.cumsum(), (~ranked).cumsum()

    def truth(self, curve: str, at: float) -> float:
        """The true height of a curve."""
        right, false = self.right, self.false
        if curve == "roc":
            place = min(np.searchsorted(false, at * false[-1]), len(false) - 1)
            return float(right[place] / right[-1])
        place = np.searchsorted(right, at * right[-1])
        return float(right[place] / (place + 1))

    def draw(self, images: int, seed: int) -> tuple[FloatArray, BoolArray, Grouping | None]:
        """Draw patients until there are about so many images; the patients of these."""
        generator = np.random.default_rng([images, seed])
        count = round(images / self.sizes.mean())
        drawn = generator.integers(len(self.sizes), size=count)
        sizes = self.sizes[drawn]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(self.starts[drawn], sizes) + within
        grouping = Grouping(np.repeat(np.arange(count), sizes)) if self.sizes.max() > 1 else None
        return self.probability[places], self.positive[places], grouping


def count_misses(
    population: Population, images: int, trials: int
) -> Iterator[tuple[str, float, float, float]]:
    """How often the truth is below and above the band, by curve and place."""
    missed = {(curve, at): np.zeros(2) for curve, places in PLACES.items() for at in places}
    for trial in range(trials):
        probability, positive, grouping = population.draw(images, trial)
        if positive.any() and not positive.all():
            curves = trace_curves(probability, positive, grouping)._asdict()
            for (curve, at), counts in missed.items():
                own = curves[curve]
                # Of points with the same x, the last is the top of the curve there.
                point = len(own.x) - 1 - np.argmin(np.abs(own.x - at)[::-1])
                true = population.truth(curve, float(own.x[point]))
                counts += [true < own.low[point] - 1e-9, true > own.high[point] + 1e-9]
    for (curve, at), counts in missed.items():
        yield curve, at, *(counts / trials).tolist()


def simulate(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table, from so many draws of each."""
    for (images, positives), (of, logits) in product(SIZES, DRAWN):
        population = Population(
            positives / images, patients=of == "patients", skewed=logits == "skewed"
        )
        for curve, at, below, above in count_misses(population, images, trials):
            yield curve, at, images, positives, of, logits, trials, below, above
        print(images, positives, of, logits, file=sys.stderr, flush=True)


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: one row a curve and its place, the tails of all settings, in %."""
    heads = ("curve", "at", "images: below", "above", "patients: below", "above", "highest")
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for curve, at in dict.fromkeys((row["curve"], row["at"]) for row in rows):
        own = [row for row in rows if (row["curve"], row["at"]) == (curve, at)]
        tails = [
            np.mean([float(row[side]) for row in own if row["drawn"] == of])
            for of in ("images", "patients")
            for side in COLUMNS[-2:]
        ]
        highest = max(float(row[side]) for row in own for side in COLUMNS[-2:])
        cells = [f"`{curve}`", at, *(f"{100 * tail:.1f}" for tail in (*tails, highest))]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Simulate, store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, help="so many of each, and write nothing")
    tried = parser.parse_args().trials
    made = simulate(TRIALS if tried is None else tried)
    rows = [dict(zip(COLUMNS, map(str, row), strict=True)) for row in made]
    if tried is None:
        pd.DataFrame(rows).to_csv(STORED, index=False, lineterminator="\n")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()

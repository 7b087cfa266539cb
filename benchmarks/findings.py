"""How often do the 95 % intervals of findings hold the truth, with few positives and unknowns?

    python benchmarks/findings.py    # about 5 minutes on an idle core; writes findings.csv
    python benchmarks/findings.py --trials 20    # a try, which writes nothing

Each image has a rare finding and a common one (20 %), each unknown for a fifth of the images. The
model ranks the rare one with an AUC of 0.92, and is overconfident. Images come alone, or with
others of a patient: 1 to 6, of which most have the same findings and similar logits. The truth is
the number of a population; images, or patients, are drawn from it with replacement. What counts is
each tail: how often the truth lies below the interval, and how often above. Without an interval it
is in neither.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from fairweather.metrics import to_score
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.rows import require_row
from fairweather.metrics.table import metrics_of
from fairweather.runs.scores import estimate_units
from fairweather.tasks import FindingsPredictions, find_task
from fairweather.types.kinds import FINDING, FINDINGS
from fairweather.types.measurement import MULTILABEL, UNKNOWN

STORED = Path(__file__).with_suffix(".csv")
# How many draws of so many images.
TRIALS = {500: 200, 5000: 60}
POSITIVES = (20, 50, 200)  # of the rare finding, on average
RESAMPLES, POPULATION = 300, 200_000
COMMON, UNKNOWN_SHARE, MARGIN, SHARPNESS = 0.2, 0.2, 2.0, 1.3
SIZES, SAME = np.arange(1, 7), 0.8  # images of a patient; how alike they are
# Not those of a classifier too (every_metric.py), nor of sets of findings.
ROWS = [row for kind in (FINDING, FINDINGS) for row in metrics_of(kind) if not row.accepts.sets]
UNITS = ("finding=rare", "mean finding", "weighted mean finding", "image")
KEY = ("net", "0", "clean", "none")
COLUMNS = ("unit", "metric", "images", "positives", "drawn", "trials", "none", "below", "above")


class Population:
    """Predictions of many images, and the patient of each."""

    def __init__(self, share: float, *, patients: bool) -> None:
        generator = np.random.default_rng([round(1e4 * share), patients])
        sizes = generator.choice(SIZES, POPULATION // 3) if patients else np.ones(POPULATION, int)
        self.sizes, of = sizes, np.repeat(np.arange(len(sizes)), sizes)
        self.starts = np.cumsum(sizes) - sizes
        n, shares = len(of), np.array([share, COMMON])

        def mixed(of_patient: np.ndarray, of_image: np.ndarray) -> np.ndarray:
            kept = generator.random((n, 2)) < (SAME if patients else 0)
            return np.where(kept, of_patient[of], of_image)

        present = mixed(*(generator.random((k, 2)) < shares for k in (len(sizes), n)))
        noise = mixed(*(generator.normal(size=(k, 2)) for k in (len(sizes), n)))
        odds = np.log(shares / (1 - shares)) + MARGIN * (noise + MARGIN * (present - 0.5))
        labels = present.astype(np.int64)
        labels[generator.random((n, 2)) < UNKNOWN_SHARE] = UNKNOWN
        logits = (SHARPNESS * odds).astype(np.float32)
        self.all = FindingsPredictions(np.arange(n), labels, logits, ("rare", "common"))

    def draw(self, images: int, seed: int) -> tuple[FindingsPredictions, Grouping | None]:
        """Draw patients until there are about so many images; the patients of these."""
        generator = np.random.default_rng([images, seed])
        count = round(images / self.sizes.mean())
        drawn = generator.integers(len(self.sizes), size=count)
        sizes = self.sizes[drawn]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(self.starts[drawn], sizes) + within
        found = self.all.take(places)
        own = found.with_columns(keys=np.arange(len(places)))
        return own, Grouping(np.repeat(np.arange(count), sizes)) if self.sizes.max() > 1 else None


def numbers(
    predictions: FindingsPredictions, resamples: int, grouping: Grouping | None = None
) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Value and ends of each number, by unit and metric."""
    names = [row.name for row in ROWS]
    tables = estimate_units(find_task(MULTILABEL), [(KEY, predictions)], resamples, grouping, names)
    return {
        (unit, name): to_score(estimate, require_row(name).bounds)[:3]
        for unit in UNITS
        for name, estimate in tables[unit][KEY].items()
    }


def simulate(trials_of: Mapping[int, int]) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table, from so many draws of so many images."""
    for (images, trials), positives, patients in product(
        trials_of.items(), POSITIVES, (False, True)
    ):
        known = images * (1 - UNKNOWN_SHARE)
        population = Population(positives / known, patients=patients)
        truths = {key: value for key, (value, *_) in numbers(population.all, 1).items()}
        missed = {key: np.zeros(3) for key in truths}
        for trial in range(trials):
            drawn = population.draw(images, trial)
            for key, (_, low, high) in numbers(drawn[0], RESAMPLES, drawn[1]).items():
                slack = 1e-9 * max(1.0, abs(truths[key]))
                outside = low > truths[key] + slack, high < truths[key] - slack
                missed[key] += [np.isnan(low), *outside]
        of = "patients" if patients else "images"
        for key, counts in missed.items():
            yield (*key, images, positives, of, trials, *(counts / trials).tolist())
        print(images, positives, of, file=sys.stderr, flush=True)


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: one row a number, its tails by positives, in %."""
    header = ["of", "metric"]
    for positives in POSITIVES:
        header += [f"{positives} positives: none", "below", "above", "highest"]
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for unit, metric in dict.fromkeys((row["unit"], row["metric"]) for row in rows):
        cells = [unit.removeprefix("finding="), f"`{metric}`"]
        for positives in POSITIVES:
            own = [
                row
                for row in rows
                if (row["unit"], row["metric"], row["positives"]) == (unit, metric, str(positives))
            ]
            shares = np.array([[float(row[name]) for name in COLUMNS[-3:]] for row in own])
            trials = [int(row["trials"]) for row in own]
            means = [*np.average(shares, axis=0, weights=trials), shares[:, 1:].max()]
            cells += [f"{100 * means[0]:.0f}", *(f"{100 * mean:.1f}" for mean in means[1:])]
        yield "| " + " | ".join(cells) + " |"


def read_rows() -> list[dict[str, str]]:
    """Read the stored table."""
    return pd.read_csv(STORED, dtype=str, keep_default_na=False).to_dict("records")


def main() -> None:
    """Simulate, store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, help="so many of each, and write nothing")
    tried = parser.parse_args().trials
    trials = TRIALS if tried is None else dict.fromkeys(TRIALS, tried)
    rows = [dict(zip(COLUMNS, map(str, row), strict=True)) for row in simulate(trials)]
    if tried is None:
        pd.DataFrame(rows).to_csv(STORED, index=False, lineterminator="\n")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()

"""How often do the 95 % intervals of every metric hold the truth?

    python benchmarks/every_metric.py    # about 5 minutes on one core; writes every_metric.csv
    python benchmarks/every_metric.py --only accuracy    # about 20 seconds: replaces its rows

One row for each row of the table of metrics. The populations are simulated: three ways in which
classes may be frequent, and a good, a middling and a poor model. The truth is the metric of the
whole population; images are drawn from it with replacement. What counts is each tail: how often the
truth lies below the interval, and how often above. Without an interval it is in neither.

Thresholds, of prediction sets too, are fitted once and given; `conformal.py` draws other ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fairweather import metrics
from fairweather.metrics import (
    METRICS,
    FittedThresholds,
    Resamples,
    conformal,
    evaluate_resamples,
    fit_on,
    to_score,
)
from fairweather.metrics.conformal import FEWEST_IN_STRATUM
from fairweather.metrics.table import metrics_of
from fairweather.types.measurement import Predictions, Score

STORED = Path(__file__).with_suffix(".csv")
ROWS = [metric for metric in metrics_of(Predictions.kind) if metric.alias_of is None]
# Images, and how many draws of them.
TRIALS = {200: 400, 1000: 200, 5000: 100}
POPULATION, RESAMPLES = 100_000, 300
# Images of dermamnist's training set by class (Yang et al. 2023, MedMNIST v2), and other shares.
SHARES = {
    "even": np.full(7, 1 / 7),
    "dermamnist": np.array([228, 359, 769, 80, 779, 4693, 99]) / 7007,
    "halves": np.append(0.5 ** np.arange(1, 7), 0.5**6),
}
# How far the label's logit stands above the others before noise, and whether the model knows how
# frequent the classes are.
MODELS = {"good": (4.5, False), "middling": (2.5, True), "poor": (1.2, False)}
SHARPNESS = 1.5  # logits are multiplied by it: overconfident
# Metrics whose bins depend on n, and those of one of several parts.
PER_BIN = "rms_calibration_error/100-per-bin"
IN_WIDTH = "maximum_calibration_error/10-equal-width"
STRATA = "size_stratified_coverage/30-per-stratum"
# The rarest class of dermamnist is missed at 20, and a review costs 0.5.
COSTS = tuple(
    (*row, 0.5) for row in ((1 - np.eye(7)) * np.where(np.arange(7) == 3, 20, 1)[:, None]).tolist()
)
SETS = 0.9  # the probability that a prediction set adds up to


def population(classes: str, model: str) -> Predictions:
    """Simulate predictions of many images."""
    generator = np.random.default_rng([list(SHARES).index(classes), list(MODELS).index(model)])
    shares, (margin, knows) = SHARES[classes], MODELS[model]
    labels = generator.choice(len(shares), size=POPULATION, p=shares)
    noisy = margin * np.eye(len(shares))[labels] + generator.normal(size=(POPULATION, len(shares)))
    logits = (SHARPNESS * (margin * noisy + knows * np.log(shares))).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    sets = metrics.set_columns(metrics.softmax(logits), labels, SETS, "aps")
    names = tuple(map(str, range(len(shares))))
    return Predictions(
        np.arange(POPULATION), labels, *columns, logits, names, True, *sets, costs=COSTS
    )


def take(predictions: Predictions, rows: np.ndarray) -> Predictions:
    """The predictions of some images, some maybe several times."""
    columns = {
        name: column[rows]
        for name, column in vars(predictions).items()
        if isinstance(column, np.ndarray)
    }
    return dataclasses.replace(predictions, **columns)


def true_values(
    predictions: Predictions, fitted: FittedThresholds, n: int, names: Sequence[str]
) -> dict[str, float]:
    """What each metric of n images is an estimate of."""
    once = Resamples.from_weights(
        predictions.labels, np.ones((1, len(predictions)), dtype=np.uint8)
    )
    estimates = evaluate_resamples(predictions, once, fitted, names)
    # So many bins as n images make; the population would make more.
    bins = metrics.rms_calibration_error(
        predictions.confidence, predictions.correct, bins=n // 100, binning="equal-mass"
    )
    values = {name: estimate.value for name, estimate in estimates.items()}
    return values | {PER_BIN: float(bins)}


def parts(predictions: Predictions) -> dict[str, np.ndarray]:
    """The part of each image, of metrics that are the largest or lowest of several parts."""
    assert predictions.set_size is not None
    return {
        IN_WIDTH: np.ceil(10 * predictions.confidence).astype(int),
        STRATA: np.searchsorted(conformal.STRATA, predictions.set_size),
    }


def by_part(predictions: Predictions) -> dict[str, np.ndarray]:
    """The true value of each part."""
    of = parts(predictions)
    gap = np.abs(group_means(of[IN_WIDTH], predictions.confidence - predictions.correct))
    return {IN_WIDTH: gap, STRATA: group_means(of[STRATA], predictions.covered)}


def group_means(group: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The mean of each group; NaN for one without images."""
    with np.errstate(invalid="ignore"):
        return np.bincount(group, column) / np.bincount(group)


def draw(
    predictions: Predictions, fitted: FittedThresholds, n: int, trials: int, names: Sequence[str]
) -> Iterator[tuple[dict[str, Score], dict[str, float]]]:
    """Score so many draws of n images; with the true values of a largest or lowest part.

    That is of the parts that count in the draw.
    """
    true_parts = by_part(predictions)
    for trial in range(trials):
        drawn = np.random.default_rng([n, trial]).integers(len(predictions), size=n)
        sample = take(predictions, drawn)
        shared = Resamples.draw(sample.labels, RESAMPLES, seed=trial)
        estimates = evaluate_resamples(sample, shared, fitted, names)
        of = {name: np.bincount(part) for name, part in parts(sample).items()}
        bins, strata = (
            np.flatnonzero(of[IN_WIDTH]),
            np.flatnonzero(of[STRATA] >= FEWEST_IN_STRATUM),
        )
        yield (
            {name: to_score(estimates[name], METRICS[name].bounds) for name in names},
            {
                IN_WIDTH: float(true_parts[IN_WIDTH][bins].max()),
                STRATA: float(true_parts[STRATA][strata].min(initial=1)),
            },
        )


def tails(scores: list[Score], truths: list[float]) -> tuple[float, float, float]:
    """Shares of the trials: no interval, the truth below it, the truth above it."""
    low, high = np.array([[score.low, score.high] for score in scores]).T
    truth = np.array(truths)
    # What is equal but for rounding is inside.
    slack = 1e-9 * np.maximum(1.0, np.abs(truth))
    return (
        float(np.isnan(low).mean()),
        float((low > truth + slack).mean()),
        float((high < truth - slack).mean()),
    )


COLUMNS = ("metric", "classes", "model", "right", "n", "trials", "none", "below", "above")


def simulate(classes: str, names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table, for some metrics."""
    for model in MODELS:
        predictions = population(classes, model)
        fitted = fit_on(take(predictions, np.arange(2000)))
        right = f"{predictions.correct.mean():.3f}"
        for n, trials in TRIALS.items():
            truths = true_values(predictions, fitted, n, names)
            drawn = list(draw(predictions, fitted, n, trials, names))
            for name in names:
                missed = tails(
                    [scores[name] for scores, _ in drawn],
                    [(truths | truths_of_parts)[name] for _, truths_of_parts in drawn],
                )
                yield name, classes, model, right, n, trials, *missed
            print(classes, model, n, file=sys.stderr, flush=True)


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: one row a metric, its tails by number of images, in %."""
    header = ["metric"]
    for n in TRIALS:
        header += [f"n = {n}: none", "below", "above", "highest"]
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for metric in ROWS:
        cells = [f"`{metric.name}`"]
        for n in TRIALS:
            of = [row for row in rows if row["metric"] == metric.name and int(row["n"]) == n]
            trials = np.array([int(row["trials"]) for row in of])
            shares = np.array([[float(row[name]) for name in COLUMNS[-3:]] for row in of])
            none, below, above = np.average(shares, axis=0, weights=trials)
            place, side = np.unravel_index(shares[:, 1:].argmax(), (len(of), 2))
            highest = shares[place, 1 + side]
            cells += [f"{100 * none:.0f}"]
            cells += [with_error(share, trials.sum()) for share in (below, above)]
            cells += [with_error(highest, trials[place])]
        yield "| " + " | ".join(cells) + " |"


def with_error(share: float, trials: int) -> str:
    """A share and its standard error, in %."""
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / trials):.1f}"


def read_rows() -> list[dict[str, str]]:
    """Read the stored table."""
    return pd.read_csv(STORED, dtype=str, keep_default_na=False).to_dict("records")


def replace_rows(
    stored: Sequence[dict[str, str]], rows: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """Put rows in the place of those of the same metrics, in the order of a whole run."""
    new, names = {row["metric"] for row in rows}, [metric.name for metric in ROWS]
    return sorted(
        [row for row in stored if row["metric"] not in new and row["metric"] in names] + [*rows],
        key=lambda row: (
            list(SHARES).index(row["classes"]),
            list(MODELS).index(row["model"]),
            int(row["n"]),
            names.index(row["metric"]),
        ),
    )


def main() -> None:
    """Simulate, store and print the table, or the part of it that is about one metric."""
    names = [metric.name for metric in ROWS]
    parser = argparse.ArgumentParser(description="Measure how often intervals hold the truth.")
    parser.add_argument(
        "--only", metavar="NAME", choices=names, help="replace only the rows of this metric"
    )
    only = parser.parse_args().only
    rows = [
        dict(zip(COLUMNS, map(str, row), strict=True))
        for classes in SHARES
        for row in simulate(classes, names if only is None else [only])
    ]
    table = rows if only is None else replace_rows(read_rows(), rows)
    pd.DataFrame(table).to_csv(STORED, index=False, lineterminator="\n")
    lines = summary(table)
    print("\n".join(line for line in lines if only is None or f"`{only}`" in line))


if __name__ == "__main__":
    main()

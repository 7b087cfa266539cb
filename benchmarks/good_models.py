"""How often do the 95 % intervals of every metric hold the truth, on real predictions?

    python benchmarks/good_models.py    # about 6 minutes on one core; prints markdown tables

The populations are the stored predictions of tests/predictions. Images are drawn from them with
replacement; the truth is the metric of the whole population. What counts is each tail: how often
the truth lies below the interval, and how often above. A rule whose limit is the truth is passed by
mistake as often as the tail on its side says, since `fairweather check` judges on that end and
refuses to judge where there is no interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairweather import metrics
from fairweather.metrics import (
    FittedThresholds,
    Resamples,
    evaluate_resamples,
    fit_on,
    to_score,
)
from fairweather.metrics.table import metrics_of
from fairweather.types.measurement import Predictions, Score

STORED = Path(__file__).parents[1] / "tests" / "predictions"
POPULATIONS = ("tissue_89", "tissue_99")
TRIALS = {200: 800, 500: 500, 2000: 400}  # by the number of images
RESAMPLES = 400
ROWS = [
    metric
    for metric in metrics_of(Predictions.kind)
    if metric.alias_of is None and not (metric.accepts.sets or metric.accepts.costs)
]


def population(name: str) -> Predictions:
    """Read stored logits and labels."""
    with np.load(STORED / f"{name}.npz") as stored:
        logits, labels = stored["logits"].astype(np.float32), stored["labels"].astype(np.int64)
        classes = tuple(stored["classes"].tolist())
    columns = metrics.per_image(logits, labels)
    # They have no order; the quadratic kappa of their order in the file is a number like any other.
    return Predictions(np.arange(len(labels)), labels, *columns, logits, classes, ordered=True)


def take(predictions: Predictions, rows: np.ndarray) -> Predictions:
    """The predictions of some images, some maybe several times."""
    columns = {
        name: column[rows]
        for name, column in vars(predictions).items()
        if isinstance(column, np.ndarray)
    }
    return dataclasses.replace(predictions, **columns)


def fitted_on(predictions: Predictions) -> FittedThresholds:
    """Thresholds, from every fourth image: they are given, and only the images vary."""
    return fit_on(take(predictions, np.arange(0, len(predictions), 4)))


def true_values(predictions: Predictions, n: int) -> dict[str, float]:
    """What each metric of n images is an estimate of."""
    once = Resamples.from_weights(
        predictions.labels, np.ones((1, len(predictions)), dtype=np.uint8)
    )
    found = evaluate_resamples(predictions, once, fitted_on(predictions))
    values = {metric.name: found[metric.name].value for metric in ROWS}
    # So many bins as n images make; the population would make more.
    values["rms_calibration_error/100-per-bin"] = float(
        metrics.rms_calibration_error(
            predictions.confidence, predictions.correct, bins=n // 100, binning="equal-mass"
        )
    )
    # Drawn with replacement, the gaps of the population are true ones, and none of them is noise.
    for binning in ("equal-width", "equal-mass"):
        values[f"debiased_calibration_error/10-{binning}"] = float(
            metrics.rms_calibration_error(
                predictions.confidence, predictions.correct, binning=binning
            )
        )
    return values


def draw_scores(
    predictions: Predictions, n: int, trials: int, resamples: int
) -> Iterator[dict[str, Score]]:
    """Score so many draws of n images."""
    fitted, names = fitted_on(predictions), [metric.name for metric in ROWS]
    bounds = {metric.name: metric.bounds for metric in ROWS}
    for trial in range(trials):
        drawn = np.random.default_rng([n, trial]).integers(len(predictions), size=n)
        sample = take(predictions, drawn)
        shared = Resamples.draw(sample.labels, resamples, seed=trial)
        found = evaluate_resamples(sample, shared, fitted, names)
        yield {name: to_score(found[name], bounds[name]) for name in names}


def tails(scores: list[Score], truth: float) -> tuple[float, float, float]:
    """Shares of the trials: no interval, the truth below it, the truth above it."""
    low, high = np.array([[score.low, score.high] for score in scores]).T
    # What is equal but for rounding is inside.
    slack = 1e-9 * max(1.0, abs(truth))
    return (
        float(np.isnan(low).mean()),
        float((low > truth + slack).mean()),
        float((high < truth - slack).mean()),
    )


def rows_of(name: str) -> Iterator[list[str]]:
    """A row a metric: for each size, how often it has no interval, and both tails, in %."""
    predictions = population(name)
    found: dict[str, list[str]] = {metric.name: [] for metric in ROWS}
    for n, trials in TRIALS.items():
        truths = true_values(predictions, n)
        scores = list(draw_scores(predictions, n, trials, RESAMPLES))
        for metric_name, cells in found.items():
            shares = tails([score[metric_name] for score in scores], truths[metric_name])
            cells += [f"{100 * share:.1f}" for share in shares]
    for metric_name, cells in found.items():
        yield [f"`{metric_name}`", *cells]


def main() -> None:
    """Print a table for each population."""
    for name in POPULATIONS:
        predictions = population(name)
        right = 100 * predictions.correct.mean()
        print(f"{name}: {right:.1f} % of {len(predictions):,} right\n")
        header = ["metric"]
        for n in TRIALS:
            header += [f"n = {n}: none", "below", "above"]
        print("|", " | ".join(header), "|")
        print("|" + "---|" * len(header))
        for row in rows_of(name):
            print("|", " | ".join(row), "|", flush=True)
        print()


if __name__ == "__main__":
    main()

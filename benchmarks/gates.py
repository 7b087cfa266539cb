"""How close to the truth may the limit of a rule be, and how often is a rule passed by mistake?

    python benchmarks/gates.py    # about 5 minutes on one core; writes gates.csv
    python benchmarks/gates.py --only accuracy    # seconds to minutes: replaces its rows

Populations of 200,000 images with five classes, whose true values are known: two models that are
right in 98 and 90 % of the images, and one that is wrong in 2 % with large losses in 1 of 1,000.
Images come alone, or with others of a patient. Each draw is judged as `fairweather check` does: on
the worse end of the interval, or of the one for any number of errors where there is none. The gap
of a draw is the distance from the truth to the tightest limit that it passes. A draw with a gap
below 0 passes a limit at the truth by mistake.

The second part asks how often the number of images in a refusal has enough errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, product
from pathlib import Path

import numpy as np
import pandas as pd

from fairweather import metrics
from fairweather.judge.rule_values import count_enough_images, widen_to_exact
from fairweather.metrics import METRICS, Resamples, evaluate_resamples, to_score
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import Estimate, fewest_of_rules, to_bounded_score
from fairweather.types.measurement import Predictions
from fairweather.types.record import CLEAN, NO_LEVEL, ShiftLevel

STORED = Path(__file__).with_suffix(".csv")
TRIALS = {200: 1000, 500: 1000, 1000: 1000, 2000: 600, 5000: 300, 10_000: 200}
RESAMPLES, POPULATION, CLASSES = 200, 200_000, 5
# How far the label's logit stands above the others, what all logits are multiplied by (1 is
# calibrated), and the share of images with a label at random.
MODELS = {"98 %": (3.6, 1.5, 0.0), "90 %": (2.6, 1.3, 0.0), "heavy losses": (3.65, 4.0, 0.001)}
PER_PATIENT = 4
NAMES = (
    "accuracy",
    "brier_score",
    "confidence_gap",
    "negative_log_likelihood",
    "negative_log_likelihood/clipped-10",
    "area_under_risk_coverage",
    "confidence_auroc",
    "macro_auc",
    "macro_pr_auc",
    "expected_calibration_error/10-equal-width",
    "rms_calibration_error/10-equal-width",
    "debiased_calibration_error/10-equal-width",
    "debiased_calibration_error/10-equal-mass",
)
# What the manual shows: metrics, and numbers of images.
SHOWN = (
    "accuracy",
    "brier_score",
    "negative_log_likelihood/clipped-10",
    "confidence_auroc",
    "debiased_calibration_error/10-equal-mass",
)
SIZES = (200, 500, 1000, 5000)
COLUMNS = ("metric", "model", "drawn", "n", "trials", "truth", "judged", "wrong", "gap50", "gap80")
# What a refusal counts: true errors among so many images, and how many are needed.
RATES, IMAGES, FEWEST, REFUSED = (0.005, 0.01, 0.02, 0.05), (200, 500, 1000), (5, 20, 30), 4000


@cache
def population(model: str) -> Predictions:
    """Simulate predictions of many images, four after the other of one patient."""
    margin, sharpness, mislabelled = MODELS[model]
    rng = np.random.default_rng(list(MODELS).index(model))
    patients = POPULATION // PER_PATIENT
    labels = np.repeat(rng.integers(CLASSES, size=patients), PER_PATIENT)
    # Half of the variance of the noise is that of the patient.
    shared = np.repeat(rng.normal(size=(patients, CLASSES)), PER_PATIENT, axis=0)
    noise = (shared + rng.normal(size=(POPULATION, CLASSES))) / np.sqrt(2)
    logits = sharpness * margin * (margin * np.eye(CLASSES)[labels] + noise)
    at_random = rng.random(POPULATION) < mislabelled
    labels = np.where(at_random, rng.integers(CLASSES, size=POPULATION), labels)
    columns = metrics.per_image(logits.astype(np.float32), labels)
    names = tuple("abcde")
    return Predictions(
        np.arange(POPULATION), labels, *columns, logits.astype(np.float32), names, False
    )


@cache
def true_values(model: str) -> dict[str, float]:
    """The metrics of the whole population."""
    predictions = population(model)
    once = Resamples.from_weights(predictions.labels, np.ones((1, POPULATION), dtype=np.uint8))
    estimates = evaluate_resamples(predictions, once, None, NAMES)
    return {name: estimate.value for name, estimate in estimates.items()}


def judged_gap(estimate: Estimate, name: str, truth: float, *, few: bool) -> float:
    """The distance from the truth to the tightest limit that is passed; infinite if none is.

    Args:
        estimate, name: of the metric.
        truth: of the population.
        few: whether there are so few errors that the interval for any number is judged.
    """
    row = METRICS[name]
    score = to_score(estimate, row.bounds)
    if row.interval == "share":
        score = widen_to_exact(score, ShiftLevel(CLEAN, NO_LEVEL))
    if few or score.too_few:
        score = to_bounded_score(estimate, row.bounds) or score
    gap = truth - score.low if row.higher_is_better else score.high - truth
    return np.inf if np.isnan(gap) else gap


def draw_gaps(
    model: str, n: int, trials: int, *, patients: bool, names: Sequence[str] = NAMES
) -> dict[str, np.ndarray]:
    """The gaps of each metric in so many draws of n images."""
    known, truths = population(model), true_values(model)
    gaps = {name: np.empty(trials) for name in names}
    for trial in range(trials):
        rng, grouping = np.random.default_rng([n, trial, patients]), None
        if patients:
            # Some images of each patient are missing, so that patients have 1 to 4: 2.5 on average.
            patient = rng.integers(POPULATION // PER_PATIENT, size=2 * n // 5)
            sizes = rng.integers(1, PER_PATIENT + 1, size=len(patient))
            rows = np.concatenate(
                [PER_PATIENT * k + np.arange(size) for k, size in zip(patient, sizes, strict=True)]
            )
            grouping = Grouping(np.repeat(np.arange(len(patient)), sizes))
        else:
            rows = rng.integers(POPULATION, size=n)
        sample = known.take(rows)
        errors = min(np.count_nonzero(sample.correct), np.count_nonzero(~sample.correct))
        # Resamples have no part in the interval for any number of errors.
        for few, resamples in ((True, 1), (False, RESAMPLES)):
            own = [name for name in names if few == (errors < fewest_of_rules(METRICS[name]))]
            shared = Resamples.draw(sample.labels, resamples, trial, grouping)
            estimates = evaluate_resamples(sample, shared, None, own, losses=True)
            for name, estimate in estimates.items():
                gaps[name][trial] = judged_gap(estimate, name, truths[name], few=few)
    return gaps


def simulate(names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table, for some metrics."""
    for model, patients in product(MODELS, (False, True)):
        for n, count in TRIALS.items():
            if patients and n > 1000:
                continue
            gaps = draw_gaps(model, n, count, patients=patients, names=names)
            for name, own in gaps.items():
                slack = 1e-9 * max(1.0, abs(true_values(model)[name]))
                shares = float(np.isfinite(own).mean()), float((own < -slack).mean())
                ends = np.quantile(own, (0.5, 0.8), method="higher").tolist()
                drawn = "patients" if patients else "images"
                yield (name, model, drawn, n, count, true_values(model)[name], *shares, *ends)
            print(model, patients, n, file=sys.stderr, flush=True)


def suffices(rate: float, n: int, fewest: int, trials: int) -> float:
    """How often a refused sample is told a number of images that has enough errors; NaN of none.

    A sample without errors is told no such number, and counts as told right.
    """
    rng = np.random.default_rng([round(1e4 * rate), n, fewest])
    errors = rng.binomial(n, rate, size=trials)
    refused = errors[errors < fewest]
    if not len(refused):
        return np.nan
    told = {int(k): count_enough_images(int(k), n, fewest) for k in np.unique(refused) if k}
    right = [not k or rng.binomial(told[int(k)], rate) >= fewest for k in refused]
    return float(np.mean(right))


def simulate_refusals(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table, of what refusals say."""
    for rate, n, fewest in product(RATES, IMAGES, FEWEST):
        share = suffices(rate, n, fewest, trials)
        if not np.isnan(share):
            what = f"enough for {fewest} errors"
            yield (what, f"{100 * rate:g} % errors", "images", n, trials, rate, share, 1 - share)


def table(rows: list[dict[str, str]]) -> Iterator[str]:
    """The table of docs/check.md: the gap that a gate passes in 80 % of draws, by images."""
    yield "| metric | " + " | ".join(f"n={n:,}" for n in SIZES) + " |"
    yield "|---|" + "---|" * len(SIZES)
    for name in SHOWN:
        own = good_rows(rows, name)
        cells = [f"{float(own[n]['gap80']):.3f}" for n in SIZES]
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def good_rows(rows: list[dict[str, str]], name: str) -> dict[int, dict[str, str]]:
    """The rows of single images of the best model, by their number."""
    own = (row for row in rows if (row["metric"], row["model"]) == (name, "98 %"))
    return {int(row["n"]): row for row in own if row["drawn"] == "images"}


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: what a good model passes, and the setting with the most wrong passes."""
    gaps = " | ".join(f"gap, n = {n:,}" for n in SIZES)
    yield f"| metric | judged, n = 500, % | {gaps} | passed by mistake, at most, % | where |"
    yield "|---|" + "---|" * (len(SIZES) + 3)
    for name in NAMES:
        good = good_rows(rows, name)
        worst = max((row for row in rows if row["metric"] == name), key=lambda r: float(r["wrong"]))
        wrong, trials = float(worst["wrong"]), int(worst["trials"])
        error = 100 * np.sqrt(wrong * (1 - wrong) / trials)
        cells = [f"{float(good[n]['gap80']):.3f}" for n in SIZES]
        yield (
            f"| `{name}` | {100 * float(good[500]['judged']):.0f} | {' | '.join(cells)} | "
            f"{100 * wrong:.1f} ± {error:.1f} | {worst['model']}, {int(worst['n']):,} "
            f"{worst['drawn']} |"
        )


def read_rows() -> list[dict[str, str]]:
    """Read the stored table."""
    return pd.read_csv(STORED, dtype=str, keep_default_na=False).to_dict("records")


def main() -> None:
    """Simulate, store and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", choices=NAMES, help="replace rows of these metrics"
    )
    only = parser.parse_args().only
    rows = []
    simulated = simulate(only) if only else chain(simulate(NAMES), simulate_refusals(REFUSED))
    for row in simulated:
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        texts += [""] * (len(COLUMNS) - len(texts))
        rows.append(dict(zip(COLUMNS, texts, strict=True)))
    if only:
        new = {tuple(row.values())[:4]: row for row in rows}
        rows = [new.get(tuple(row.values())[:4], row) for row in read_rows()]
    pd.DataFrame(rows).to_csv(STORED, index=False, lineterminator="\n")
    print("\n".join([*table(rows), "", *summary(rows)]))
    for row in rows:
        if row["metric"] not in NAMES:
            print(*row.values())


if __name__ == "__main__":
    main()

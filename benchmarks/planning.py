"""How often does a planned test show what was claimed?

    nice python benchmarks/planning.py    # about 20 minutes on one core; writes planning.csv
    python benchmarks/planning.py --draws 50    # a try, which writes nothing

Each setting is a claim with a known truth. `plan-test` plans it for a power of 80 %. Studies of the
planned size, and of half of it, are drawn again and again, and judged by what `check` and `compare`
use: scores with their exact ends, McNemar's test, the interval of paired shares, crossed means over
groups and seeds, and columns of areas and losses. `stated` is the power of the plan, `shown` the
share of studies that reached the verdict.

Hits of patients are beta-binomial; trainings have normal accuracies; scores of an AUC are normal,
or have a heavy tail, which the plan does not know.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.special

from fairweather import metrics
from fairweather.judge.planning import plan_test
from fairweather.judge.rule_values import widen_to_exact
from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.paired import (
    EstimatedDifference,
    mcnemar_exact,
    paired_shares_interval,
    sparse_difference_interval,
)
from fairweather.metrics.power import Goal
from fairweather.metrics.seeds import crossed_difference
from fairweather.types.measurement import Predictions
from fairweather.types.record import CLEAN, NO_LEVEL, ShiftLevel

STORED = Path(__file__).with_suffix(".csv")
DRAWS, RESAMPLES = 2000, 1000
FEW_RESAMPLES = 2  # where columns give the interval
POPULATION = 10**6  # images from which a true variance is computed
CELL = ShiftLevel(CLEAN, NO_LEVEL)
COLUMNS = ("study", "claim", "truth", "images", "seeds", "draws", "stated", "shown", "error")
Generator = np.random.Generator
# From a generator, the number of images and the seeds: does the study show the claim?
Study = Callable[[Generator, int, int], bool]


@dataclass(frozen=True)
class Setting:
    """A claim, its truth, and how its studies are drawn."""

    name: str
    claim: str
    study: Study
    options: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- one model


def make_predictions(right: np.ndarray, labels: np.ndarray) -> Predictions:
    """Predictions of two classes that are right for some images."""
    logit = np.where(right == (labels == 1), 1.0, -1.0)
    return score_predictions(logit, labels)


def score_predictions(logit: np.ndarray, labels: np.ndarray) -> Predictions:
    """Predictions of two classes with these logits of the second."""
    logits = np.stack([np.zeros(len(labels)), logit], axis=1).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    return Predictions(np.arange(len(labels)), labels, *columns, logits, ("other", "rare"))


def judge(predictions: Predictions, name: str, groups: Grouping | None, seed: int) -> float:
    """The low end that `check` judges."""
    resamples = FEW_RESAMPLES if name.startswith("auc") else RESAMPLES
    shared = Resamples.draw(predictions.strata, resamples, seed, groups)
    estimate = evaluate_resamples(predictions, shared, None, [name])[name]
    score = to_score(estimate, (0.0, 1.0))
    return widen_to_exact(score, CELL).low if name == "accuracy" else score.low


def share_study(truth: float, limit: float, prevalence: float | None = None) -> Study:
    """An accuracy, or with a prevalence a sensitivity."""

    def study(rng: Generator, n: int, _: int) -> bool:
        name = "accuracy" if prevalence is None else "sensitivity/rare"
        positives = n if prevalence is None else int(rng.binomial(n, prevalence))
        if not positives:
            return False
        # Images of other classes play no part in a sensitivity, so as many are enough.
        labels = np.repeat([1, 0], [positives, 0 if prevalence is None else positives])
        right = rng.random(len(labels)) < truth
        low = judge(make_predictions(right, labels), name, None, int(rng.integers(2**31)))
        return low >= limit

    return study


def patient_study(
    truth: float, limit: float, per_patient: float, icc: float, prevalence: float | None = None
) -> Study:
    """An accuracy of images of patients, or with a prevalence a sensitivity."""
    name = "accuracy" if prevalence is None else "sensitivity/rare"
    a, b = truth * (1 - icc) / icc, (1 - truth) * (1 - icc) / icc

    def study(rng: Generator, n: int, _: int) -> bool:
        patients = round(n / per_patient)
        sizes = int(per_patient) + (rng.random(patients) < per_patient % 1)
        numbers = np.repeat(np.arange(patients), sizes)
        right = rng.random(len(numbers)) < rng.beta(a, b, patients)[numbers]
        labels = (rng.random(len(right)) < (prevalence or 0.0)).astype(np.int64)
        if prevalence is not None and not labels.any():
            return False
        predictions = make_predictions(right, labels)
        low = judge(predictions, name, Grouping(numbers), int(rng.integers(2**31)))
        return low >= limit

    return study


def area_study(truth: float, limit: float, prevalence: float, tail: float = np.inf) -> Study:
    """An AUC; with a tail, scores have Student's t distribution with so many degrees of freedom."""
    apart = separate(truth, tail)

    def study(rng: Generator, n: int, _: int) -> bool:
        labels = (rng.random(n) < prevalence).astype(np.int64)
        noise = rng.normal(size=n) if np.isinf(tail) else rng.standard_t(tail, n)
        predictions = score_predictions(apart * labels + noise, labels)
        return judge(predictions, "auc/rare", None, 0) >= limit

    return study


def separate(area: float, tail: float) -> float:
    """How far apart two distributions are with this area."""
    if np.isinf(tail):
        return float(np.sqrt(2) * scipy.special.ndtri(area))
    rng = np.random.default_rng(0)
    gaps = np.subtract(*rng.standard_t(tail, (2, POPULATION)))
    return float(np.quantile(gaps, area))


# ---------------------------------------------------------------- two models


def reaches(goal: Goal, low: float, high: float) -> bool:
    """Tell whether an interval lies inside a goal."""
    return bool(low > goal.low and high < goal.high)


def pair_study(difference: float, discordant: float, goal: Goal) -> Study:
    """The accuracies of two networks."""
    wins, losses = (discordant + difference) / 2, (discordant - difference) / 2

    def study(rng: Generator, n: int, _: int) -> bool:
        drawn = rng.random(n)
        new, old = drawn >= losses, (drawn < losses) | (drawn >= losses + wins)
        test = mcnemar_exact(old, new)
        if goal == Goal(low=0.0):
            return test.p < 0.05 and test.c > test.b
        return reaches(goal, *paired_shares_interval(test.b, test.c, n))

    return study


def judge_crossed(old: np.ndarray, new: np.ndarray, grouping: Grouping | None, goal: Goal) -> bool:
    """What `compare` says of a difference over groups or seeds, `[n, S]` on each side."""
    crossed = crossed_difference(old, new, grouping, (0.0, 1.0))
    if goal == Goal(low=0.0):
        return crossed.p < 0.05 and crossed.value > 0
    lows, highs = zip(
        crossed.interval,
        sparse_difference_interval(old, new, grouping) or crossed.interval,
        strict=True,
    )
    return reaches(goal, min(lows), max(highs))


def patient_pair_study(
    difference: float, discordant: float, goal: Goal, per_patient: int, icc: float
) -> Study:
    """The accuracies of two networks on images of patients."""
    shares = np.array(
        [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    )

    def study(rng: Generator, n: int, _: int) -> bool:
        patients = max(2, round(n / per_patient))
        own = rng.dirichlet(shares * (1 - icc) / icc, patients)
        drawn = rng.random((patients, per_patient))
        won = drawn < own[:, :1]
        lost = ~won & (drawn < own[:, :2].sum(axis=1, keepdims=True))
        new, old = (~column.ravel()[:, None] * 1.0 for column in (lost, won))
        grouping = Grouping(np.repeat(np.arange(patients), per_patient))
        return judge_crossed(old, new, grouping, goal)

    return study


def draw_seeds(
    rng: Generator, n: int, seeds: int, level: float, spread: float, own: float, hard: np.ndarray
) -> np.ndarray:
    """Which images the networks of a recipe get right, `[n, S]`; some images are hard for all."""
    levels = np.clip(level + spread * rng.normal(size=seeds), 0.001, 0.999)
    # Alike for every recipe, own to this one, and of each network: the squares sum to 1.
    ease = 0.8 * hard + own * rng.normal(size=n)
    noise = np.sqrt(1 - 0.8**2 - own**2) * rng.normal(size=(n, seeds))
    return (ease[:, None] + noise < scipy.special.ndtri(levels)) * 1.0


def seed_study(level: float, difference: float, spread: float, own: float, goal: Goal) -> Study:
    """Two recipes with several seeds each."""

    def study(rng: Generator, n: int, seeds: int) -> bool:
        hard = rng.normal(size=n)
        old, new = (
            draw_seeds(rng, n, seeds, mean, spread, own, hard)
            for mean in (level, level + difference)
        )
        return judge_crossed(old, new, None, goal)

    return study


def disagreements(level: float, difference: float, own: float) -> tuple[float, float]:
    """The share of images that only one of two networks gets right: of two recipes, and of one."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=POPULATION)
    old, new = (
        draw_seeds(rng, POPULATION, 2, mean, 0.0, own, hard) for mean in (level, level + difference)
    )
    within = [(side[:, 0] != side[:, 1]).mean() for side in (old, new)]
    return float((old[:, 0] != new[:, 0]).mean()), float(np.mean(within))


def loss_columns(rng: Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the logits of an old and of a better network."""
    labels = rng.integers(0, 2, n)
    sign, shared, own = 2 * labels - 1, rng.normal(size=n), rng.normal(size=(2, n))
    old, new = (sign * m + 1.2 * shared + 0.8 * e for m, e in zip((1.5, 1.7), own, strict=True))
    return labels, old, new


def loss_study(rng: Generator, n: int, _: int) -> bool:
    """The mean losses of two networks."""
    labels, *logits = loss_columns(rng, n)
    shared = Resamples.draw(labels, FEW_RESAMPLES)
    name = "negative_log_likelihood"
    old, new = (
        evaluate_resamples(
            score_predictions(logit, labels), shared, None, [name], contributions=True
        )[name]
        for logit in logits
    )
    difference = EstimatedDifference(old, new)
    return difference.p < 0.05 and difference.value < 0


def loss_truth() -> tuple[float, float]:
    """By how much the new network is better, and the standard deviation of the difference."""
    labels, *logits = loss_columns(np.random.default_rng(0), POPULATION)
    old, new = (np.logaddexp(0, -(2 * labels - 1) * logit) for logit in logits)
    return float((old - new).mean()), float((old - new).std())


# ---------------------------------------------------------------- settings


def settings() -> Iterator[Setting]:
    """Every setting, with the options of its plan."""
    for truth, limit in ((0.9, 0.8), (0.95, 0.9), (0.99, 0.95)):
        study = share_study(truth, limit)
        yield Setting("accuracy", f"accuracy >= {limit}", study, {"expect": truth})
    for truth, limit, prevalence in ((0.9, 0.8, 0.05), (0.95, 0.85, 0.01), (0.98, 0.9, 0.2)):
        study = share_study(truth, limit, prevalence)
        options = {"expect": truth, "prevalence": prevalence}
        yield Setting("sensitivity", f"sensitivity >= {limit}", study, options)
    patients = (
        (0.9, 0.85, 4, 0.4),
        (0.9, 0.8, 10, 0.3),
        (0.97, 0.93, 2.5, 0.5),
        (0.8, 0.6, 3, 0.7),
    )
    for truth, limit, size, icc in patients:
        study = patient_study(truth, limit, size, icc)
        options = {"expect": truth, "images_per_patient": size, "icc": icc}
        yield Setting("patients", f"accuracy >= {limit}", study, options)
    positives = ((0.9, 0.75, 0.3, 4, 0.4), (0.88, 0.8, 0.08, 5, 0.1))
    for truth, limit, prevalence, size, icc in positives:
        study = patient_study(truth, limit, size, icc, prevalence)
        options = {"expect": truth, "prevalence": prevalence}
        options |= {"images_per_patient": size, "icc": icc}
        yield Setting("patients, sensitivity", f"sensitivity >= {limit}", study, options)
    areas = ((0.9, 0.8, 0.05), (0.95, 0.9, 0.1), (0.8, 0.73, 0.5), (0.97, 0.93, 0.05))
    for truth, limit, prevalence in areas:
        study = area_study(truth, limit, prevalence)
        options = {"expect": truth, "prevalence": prevalence}
        yield Setting("area", f"auc >= {limit}", study, options)
    study, options = area_study(0.9, 0.85, 0.2, 4), {"expect": 0.9, "prevalence": 0.2}
    yield Setting("area, heavy tail", "auc >= 0.85", study, options)
    for difference, discordant in ((0.02, 0.06), (0.1, 0.2), (0.01, 0.012), (0.005, 0.03)):
        study = pair_study(difference, discordant, Goal(low=0.0))
        options = {"expect": difference, "discordant": discordant}
        yield Setting("pairs", "accuracy better", study, options)
    margins = ((0.0, 0.06, 0.02), (-0.005, 0.04, 0.02), (0.0, 0.01, 0.02), (0.01, 0.2, 0.03))
    for difference, discordant, margin in margins:
        study = pair_study(difference, discordant, Goal(low=-margin))
        options = {"expect": difference, "discordant": discordant}
        yield Setting("pairs", f"accuracy not worse by {margin}", study, options)
    study = pair_study(0.0, 0.05, Goal(-0.02, 0.02))
    options = {"expect": 0.0, "discordant": 0.05}
    yield Setting("pairs", "accuracy within 0.02", study, options)
    groups = (
        *((0.03, 0.08, 0.0, 4, 0.3), (0.05, 0.1, 0.0, 10, 0.3)),
        *((0.0, 0.06, 0.03, 3, 0.2), (0.0, 0.03, 0.04, 5, 0.4)),
    )
    for difference, discordant, margin, size, icc in groups:
        goal = Goal(low=-margin)
        study = patient_pair_study(difference, discordant, goal, size, icc)
        options = {"expect": difference, "discordant": discordant}
        options |= {"images_per_patient": size, "icc": icc}
        claim = f"accuracy not worse by {margin}" if margin else "accuracy better"
        yield Setting("patients, pairs", claim, study, options)
    for level, difference, spread, seeds in (
        *((0.9, 0.03, 0.005, 3), (0.9, 0.02, 0.005, 5), (0.7, 0.04, 0.015, 5)),
        *((0.95, 0.015, 0.004, 5), (0.8, 0.03, 0.002, 3), (0.9, 0.02, 0.01, 10)),
    ):
        own = 0.4
        study = seed_study(level, difference, spread, own, Goal(low=0.0))
        options = {"expect": difference, "seeds": seeds, "seed_sd": spread, "reference": level}
        between, within = disagreements(level, difference, own)
        options |= {"discordant": between, "seed_discordant": within}
        yield Setting("seeds", "accuracy better", study, options)
    gain, deviation = loss_truth()
    options = {"expect": gain, "sd": deviation}
    yield Setting("losses", "negative_log_likelihood better", loss_study, options)


def measure(setting: Setting, draws: int) -> Iterator[tuple[object, ...]]:
    """The stated power and the share of studies that show the claim, at two sizes."""
    plan = plan_test(setting.claim, **setting.options)
    assert plan.needed is not None, setting.name
    half = plan.curve[1]
    for size in (plan.needed, half):
        seed = np.random.SeedSequence([size.images, len(setting.claim), size.seeds])
        rng = np.random.default_rng(seed)
        shown = np.mean([setting.study(rng, size.images, size.seeds) for _ in range(draws)])
        error = np.sqrt(shown * (1 - shown) / draws)
        facts = (setting.name, setting.claim, round(setting.options["expect"], 4))
        numbers = (round(size.power, 4), round(float(shown), 4), round(float(error), 4))
        yield (*facts, size.images, size.seeds, draws, *numbers)


def read_rows() -> list[dict[str, str]]:
    """Read the stored table."""
    return pd.read_csv(STORED, dtype=str, keep_default_na=False).to_dict("records")


def summarize(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Write a line for each kind of study: how far the stated power is from the share shown."""
    for name in dict.fromkeys(row["study"] for row in rows):
        own = [row for row in rows if row["study"] == name]
        planned = [gap_of(row) for row in own[::2]]
        half = [gap_of(row) for row in own[1::2]]
        gaps = " | ".join(f"{min(part):+.1f} to {max(part):+.1f}" for part in (planned, half))
        yield f"| {name} | {len(planned)} | {gaps} |"


def gap_of(row: Mapping[str, str]) -> float:
    """The share of studies that showed the claim minus the stated power, in points."""
    return 100 * (float(row["shown"]) - float(row["stated"]))


def main() -> None:
    """Write the table, or print a try of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--only", default="", help="settings whose name begins so; writes nothing")
    asked = parser.parse_args()
    written, table = csv.writer(sys.stdout, lineterminator="\n"), []
    written.writerow(COLUMNS)
    for setting in settings():
        if setting.name.startswith(asked.only):
            for row in measure(setting, asked.draws):
                table.append(row)
                written.writerow(row)
                sys.stdout.flush()
    if asked.draws == DRAWS and not asked.only:
        with STORED.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()

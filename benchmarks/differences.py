"""How often are two models with the same metric called different, and different ones found?

    python benchmarks/differences.py    # an hour on a busy core; writes differences.csv
    python benchmarks/differences.py --trials 50    # a try, which writes nothing

Two different models have exactly the same value of a metric, on average over images (and seeds).
Their evidence for the class of an image is normal, with a correlation of 0.8 between models on one
image. A is calibrated; B is surer or less sure, has another threshold, or its scores of positives
are spread twice as widely. Its separation is solved for, so that the metric is equal. Images are
independent, or in groups of 10 that share 30 % of the variance. With seeds, each training has its
own separation. Calibration errors are those of the confidence: B is wrong in another direction, in
another place or at another confidence, and the mean square in the ten bins is equal.

Each line says how often p is below 5 % and below 0.5 %. Methods that are not used are there too:
Student's t with n - 1 degrees of freedom, and random swaps of both models on each image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
from scipy.optimize import brentq

from fairweather.metrics import (
    Estimate,
    Grouping,
    Resamples,
    evaluate_resamples,
    recipe_estimate,
)
from fairweather.metrics.areas import (
    auc_column,
    column_spread,
    disjoint_pairs,
    mean_column,
    precision_bias,
    precision_column,
    recall_column,
    unit_column,
    unseen_variance,
)
from fairweather.metrics.classification import placements
from fairweather.metrics.metric import FEWEST_OF_AREAS
from fairweather.metrics.paired import EstimatedDifference
from fairweather.metrics.table import FEWEST, FEWEST_OF_LOSSES
from fairweather.types.measurement import Predictions

STORED = Path(__file__).with_suffix(".csv")
TRIALS, FEWER_TRIALS, RESAMPLES, SWAPS = 2000, 500, 200, 99
LIKENESS = 0.8  # the correlation of the evidence of two models
GROUP, SHARED = 10, 0.3  # images of a group; what they share of the variance
# The deviations between trainings of the separation, and of the gap of a calibration.
OF_SEEDS, OF_GAPS = 0.05, 0.02
LEVELS = (0.05, 0.005)
OURS, STUDENT, SWAPPED = "ours", "t with n - 1", "random swaps"
CALIBRATION = "rms_calibration_error"
FEW_NODES, FEW_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
FEW_WEIGHTS = FEW_WEIGHTS / FEW_WEIGHTS.sum()


@dataclass(frozen=True)
class Model:
    """A model of two classes: what it sees of an image, and what it makes of it.

    Attributes:
        separation: of the mean evidence of both classes.
        spread: the deviation of the evidence of positives; that of negatives is 1.
        sureness: by which the logit is multiplied; 1 is calibrated, where the spread is 1.
        moved: added to the logit, which moves the threshold.
    """

    separation: float
    spread: float = 1.0
    sureness: float = 1.0
    moved: float = 0.0

    def logits(
        self, positive: np.ndarray, noise: np.ndarray, prevalence: float, separation: float
    ) -> np.ndarray:
        """The logit of the second class, from standard normal noise."""
        evidence = np.where(positive, separation + self.spread * noise, noise)
        calibrated = separation * evidence - separation**2 / 2 + scipy.special.logit(prevalence)
        return self.sureness * calibrated + self.moved


def log_loss(logits: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each image."""
    return np.logaddexp(0, np.where(positive, -logits, logits))


def squared_loss(logits: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The Brier score of each image, over both classes."""
    return 2 * (scipy.special.expit(logits) - positive) ** 2


def is_right(logits: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Whether the likelier class is the true one."""
    return (logits > 0) == positive


LOSSES: dict[str, tuple[Callable[..., np.ndarray], int]] = {
    "negative_log_likelihood": (log_loss, FEWEST_OF_LOSSES),
    "brier_score": (squared_loss, FEWEST),
}
AREAS = {"auc": auc_column, "pr_auc": precision_column}


def estimate(
    metric: str, logits: np.ndarray, positive: np.ndarray, grouping: Grouping | None
) -> Estimate:
    """A metric as fairweather estimates it for a comparison, from logits of images."""
    groups, count = (None, None) if grouping is None else (grouping.numbers, grouping.count)
    right, n = is_right(logits, positive), len(logits)
    known = {"replicates": np.zeros(1), "n": n, "groups": count}
    if metric in LOSSES:
        loss, fewest = LOSSES[metric]
        numbers = loss(logits, positive)
        errors = float((~right).sum())
        if grouping is not None:
            errors *= grouping.evenness(~right)
        return Estimate(
            float(numbers.mean()),
            interval="skewed",
            errors=errors,
            fewest=fewest,
            column=unit_column(mean_column(numbers, groups), groups),
            **known,
        )
    if metric == "balanced_accuracy":
        recalls = [right[positive].mean(), right[~positive].mean()]
        return Estimate(
            float(np.mean(recalls)),
            interval="classes",
            column=unit_column(recall_column(right, positive.astype(int), groups), groups),
            unseen=unseen_variance(positive.astype(int), groups),
            **known,
        )
    if metric == "auc":
        value, bias = placements(logits, positive)[positive].mean(), 0.0
    else:
        ranked = positive[np.argsort(-logits)]
        precision = ranked.cumsum() / np.arange(1, n + 1)
        value, bias = precision[ranked].mean(), precision_bias(logits, positive)
    return Estimate(
        float(value),
        interval="area",
        errors=float(disjoint_pairs(positive, groups)),
        fewest=FEWEST_OF_AREAS,
        column=unit_column(AREAS[metric](logits, positive, groups), groups),
        pairs=disjoint_pairs(positive, groups),
        bias=bias,
        **known,
    )


@cache
def truth(metric: str, model: Model, prevalence: float, *, seeds: bool) -> float:
    """The true value of a metric; with seeds, its mean over trainings."""
    if seeds:
        trained = [replace(model, separation=model.separation + OF_SEEDS * x) for x in FEW_NODES]
        values = [truth(metric, one, prevalence, seeds=False) for one in trained]
        return float(np.dot(FEW_WEIGHTS, values))
    if metric in LOSSES:
        fine = np.linspace(-8, 8, 4001)
        weights = scipy.stats.norm.pdf(fine)
        means = [
            np.dot(
                weights / weights.sum(),
                LOSSES[metric][0](
                    model.logits(np.full(fine.shape, side), fine, prevalence, model.separation),
                    np.full(fine.shape, side),
                ),
            )
            for side in (True, False)
        ]
        return float(prevalence * means[0] + (1 - prevalence) * means[1])
    if metric == "auc":
        return float(scipy.special.ndtr(model.separation / np.hypot(1, model.spread)))
    if metric == "balanced_accuracy":
        # The logit is linear in the noise: it is above 0 from some noise on.
        recalls = []
        for side in (True, False):
            start, end = model.logits(
                np.array([side] * 2), np.arange(2.0), prevalence, model.separation
            )
            above = scipy.special.ndtr(start / (end - start))
            recalls.append(above if side else 1 - above)
        return float(np.mean(recalls))
    levels = np.linspace(-9, model.separation + 9 * model.spread, 20_001)
    above = scipy.special.ndtr((model.separation - levels) / model.spread)
    false = scipy.special.ndtr(-levels)
    called = prevalence * above + (1 - prevalence) * false
    precision = prevalence * above / np.maximum(called, 1e-300)
    return float((-np.diff(above) * (precision[1:] + precision[:-1]) / 2).sum())


@cache
def equal_model(metric: str, first: Model, other: Model, prevalence: float, seeds: bool) -> Model:
    """The other model, with the separation at which the metric is that of the first."""
    goal = truth(metric, first, prevalence, seeds=seeds)

    def excess(separation: float) -> float:
        tried = replace(other, separation=separation)
        return truth(metric, tried, prevalence, seeds=seeds) - goal

    return replace(other, separation=float(brentq(excess, 0.3, 9.0, xtol=1e-10)))


@dataclass(frozen=True)
class Setting:
    """What is drawn.

    Attributes:
        metric, prevalence, n: the metric, the share of positives, and the number of images.
        name: how the models differ.
        first, second: the models, of which the second gets the separation with an equal metric.
        groups: whether images come in groups.
        seeds: trainings of each side.
        better: of the separation of the second; 0 for equal metrics.
    """

    metric: str
    name: str
    first: Model
    second: Model
    prevalence: float
    n: int
    groups: bool = False
    seeds: int = 1
    better: float = 0.0

    @property
    def pair(self) -> tuple[Model, Model]:
        """Both models."""
        equal = equal_model(self.metric, self.first, self.second, self.prevalence, self.seeds > 1)
        return self.first, replace(equal, separation=equal.separation + self.better)


MEDIUM, GOOD = Model(1.5), Model(2.5)
SURER, LESS_SURE = Model(0, sureness=3.0), Model(0, sureness=0.4)
WIDE, MOVED = Model(0, spread=2.0), Model(0, moved=-1.0)
PAIRS: dict[str, list[tuple[str, Model, Model]]] = {
    **{metric: [("surer", GOOD, SURER), ("less sure", GOOD, LESS_SURE)] for metric in LOSSES},
    "balanced_accuracy": [("another threshold", GOOD, MOVED)],
    "auc": [("wider", MEDIUM, WIDE), ("wider, good", GOOD, WIDE)],
    "pr_auc": [("wider", MEDIUM, WIDE), ("wider, good", GOOD, WIDE)],
}
SIZES = ((0.5, 200), (0.5, 2000), (0.1, 500), (0.1, 2000), (0.02, 500), (0.02, 2000))


def settings() -> Iterator[Setting]:
    """All that is drawn, but for calibration errors."""
    for metric, pairs in PAIRS.items():
        for pair in pairs:
            yield from (Setting(metric, *pair, *size) for size in SIZES)
        one = pairs[0]
        yield from (Setting(metric, *one, 0.3, n, groups=True) for n in (300, 2000))
        yield from (Setting(metric, *one, *size, seeds=3) for size in SIZES[2:4])
        yield Setting(metric, *one, 0.3, 2000, groups=True, seeds=3)
        yield from (Setting(metric, *one, 0.1, 2000, better=gain) for gain in (0.1, 0.2, 0.4))


def draw(setting: Setting, generator: np.random.Generator) -> list[list[Estimate]]:
    """Draw images, and estimate the metric of each training of both sides."""
    n, grouping = setting.n, None
    positive = generator.random(n) < setting.prevalence
    positive[:4] = [True, False, True, False]  # either class is there

    def noise(*shape: int) -> np.ndarray:
        own = generator.normal(size=(*shape, n))
        if grouping is None:
            return own
        of_groups = generator.normal(size=(*shape, grouping.count))[..., grouping.numbers]
        return np.sqrt(SHARED) * of_groups + np.sqrt(1 - SHARED) * own

    if setting.groups:
        grouping = Grouping(np.arange(n) // GROUP)
    common = noise()
    sides = []
    for model in setting.pair:
        seeds = []
        for _ in range(setting.seeds):
            seen = np.sqrt(LIKENESS) * common + np.sqrt(1 - LIKENESS) * noise()
            separation = model.separation
            if setting.seeds > 1:
                separation += OF_SEEDS * generator.normal()
            logits = model.logits(positive, seen, setting.prevalence, separation)
            seeds.append(estimate(setting.metric, logits, positive, grouping))
        sides.append(seeds)
    return sides


def bound_p(difference: EstimatedDifference) -> float:
    """The smallest of `LEVELS`, or 1, that p is at most; NaN without p.

    They are the levels of which the intervals exclude 0, which is quicker than to search for p.
    """
    bound = 1.0
    for level in LEVELS:
        low, high = difference.ends(LEVELS[0] / level)
        if np.isnan(low):
            return low
        if low > 0 or high < 0:
            bound = level
    return bound


def student_p(difference: EstimatedDifference) -> float:
    """Student's t with one degree of freedom less than images."""
    variance, _ = column_spread(difference.second.draws - difference.first.draws)
    if not variance or difference.score.too_few:
        return float("nan")
    freedom = difference.first.units - 1
    return float(2 * scipy.stats.t.sf(abs(difference.value) / variance**0.5, freedom))


class Row(NamedTuple):
    """A line of the table: what was drawn, and in how many draws p was below 5 % and 0.5 %."""

    metric: str
    kind: str
    setting: str
    prevalence: float
    n: int
    groups: int
    seeds: int
    method: str
    trials: int
    tested: int
    below_5: int
    below_half: int

    @property
    def error(self) -> float:
        """The share of the draws with a p-value in which it is below 5 %."""
        return self.below_5 / self.tested

    @property
    def standard_error(self) -> float:
        """Of a share of 5 % of these draws."""
        return (0.05 * 0.95 / self.tested) ** 0.5


def summarize(start: tuple[object, ...], p_values: dict[str, list[float]]) -> Iterator[Row]:
    """One row for each method, from the p-values of all draws."""
    for method, values in p_values.items():
        known = np.array([p for p in values if not np.isnan(p)])
        below = [int((known <= level).sum()) for level in LEVELS]
        yield Row(*start, method, len(values), len(known), *below)  # type: ignore[arg-type]


def simulate(setting: Setting, trials: int, seed: int = 0) -> list[Row]:
    """Draw images and trainings, and test the difference."""
    generator = np.random.default_rng([seed, setting.n, round(1000 * setting.prevalence)])
    p_values: dict[str, list[float]] = {OURS: [], STUDENT: []}
    for _ in range(trials):
        sides = draw(setting, generator)
        first, second = (side[0] if len(side) == 1 else recipe_estimate(side) for side in sides)
        difference = EstimatedDifference(first, second)
        p_values[OURS].append(bound_p(difference))
        if setting.seeds == 1:
            p_values[STUDENT].append(student_p(difference))
    if setting.seeds > 1:
        del p_values[STUDENT]
    kind, name = ("power" if setting.better else "null"), setting.name
    if setting.better:
        name += f", {setting.better:g} more separation"
    groups = setting.n // GROUP if setting.groups else 0
    start = (setting.metric, kind, name, setting.prevalence, setting.n, groups, setting.seeds)
    return list(summarize(start, p_values))


# ---------------------------------------------------------------- grades

# How much farther off the second model is, and in which share of images; 0 on average.
GRADES = {
    "one grade off more, or less": {1: 0.1, -1: 0.1},
    "two grades off more, or one less": {2: 0.02, -1: 0.04},
    "three grades off more, or one less": {3: 0.01, -1: 0.03},
}


def simulate_grades(name: str, n: int, trials: int, seed: int = 0) -> list[Row]:
    """Draw how far two models are off, and test the difference of the mean absolute errors."""
    generator, shares = np.random.default_rng([seed, n]), GRADES[name]
    p_values: dict[str, list[float]] = {OURS: [], STUDENT: []}
    unseen = unseen_variance(np.zeros(n, dtype=np.int64))
    for _ in range(trials):
        gaps = generator.choice(
            [*shares, 0], size=n, p=[*shares.values(), 1 - sum(shares.values())]
        )
        second, first = (
            Estimate(
                float(numbers.mean()),
                np.zeros(1),
                n,
                "skewed",
                column=unit_column(mean_column(numbers), None),
                unseen=unseen,
            )
            for numbers in (gaps.astype(float), np.zeros(n))
        )
        difference = EstimatedDifference(first, second)
        p_values[OURS].append(bound_p(difference))
        p_values[STUDENT].append(student_p(difference))
    start = ("mean_absolute_error", "null", name, np.nan, n, 0, 1)
    return list(summarize(start, p_values))


# ---------------------------------------------------------------- calibration errors


@dataclass(frozen=True)
class Sureness:
    """How sure a model is, and how much less often it is right.

    Attributes:
        mean, concentration: of the beta distribution of twice the confidence less 1.
        gap: by how much it is right less often than it is sure.
        above: only where it is at least so sure.
    """

    mean: float
    concentration: float
    gap: float = 0.0
    above: float = 0.0

    def confidence(self, noise: np.ndarray) -> np.ndarray:
        """The confidence from standard normal noise, as runs store it."""
        a, b = self.mean * self.concentration, (1 - self.mean) * self.concentration
        between = scipy.special.betaincinv(a, b, scipy.special.ndtr(noise))
        return (0.5 + 0.5 * between).astype(np.float32).astype(np.float64)

    def accuracy(self, confidence: np.ndarray) -> np.ndarray:
        """How often it is right at a confidence."""
        return np.clip(confidence - self.gap * (confidence >= self.above), 0, 1)

    @property
    def error(self) -> float:
        """The true RMS calibration error in ten bins."""
        confidence = self.confidence(scipy.special.ndtri((np.arange(20_000) + 0.5) / 20_000))
        gaps = self.accuracy(confidence) - confidence
        bins = np.minimum((10 * confidence).astype(int), 9)
        counts = np.maximum(np.bincount(bins, minlength=10), 1)
        means = np.bincount(bins, gaps, minlength=10) / counts
        return float(np.sqrt(np.dot(np.bincount(bins, minlength=10), means**2) / len(bins)))


SURE, UNSURE, MIDDLE = Sureness(0.95, 10), Sureness(0.3, 6), Sureness(0.7, 6)


def equal_sureness(first: Sureness, other: Sureness, least: float, most: float) -> Sureness:
    """The other model, with the gap between two at which the error is that of the first."""
    gap = brentq(lambda gap: replace(other, gap=gap).error - first.error, least, most)
    return replace(other, gap=float(gap))


def calibrations() -> Iterator[tuple[str, str, Sureness, Sureness]]:
    """Pairs of models: null or power, the name, and both."""
    yield "null", "calibrated, alike", MIDDLE, MIDDLE
    yield "null", "calibrated, one surer", SURE, UNSURE
    for gap in (0.05, 0.15):
        first, calm = replace(MIDDLE, gap=gap), Sureness(0.4, 6)
        other = equal_sureness(first, calm, -0.4, 0.0)
        yield "null", f"{gap} over, and under", first, other
        other = equal_sureness(first, replace(MIDDLE, above=0.9), 0.0, 0.9)
        yield "null", f"{gap} over, and where surest", first, other
        surest = equal_sureness(first, Sureness(0.97, 10), 0.0, 0.4)
        yield "null", f"{gap} over, and surer", first, surest
    for gap in (0.05, 0.1, 0.15):
        yield "power", f"calibrated, and {gap} over", MIDDLE, replace(MIDDLE, gap=gap)


def draw_sureness(model: Sureness, common: np.ndarray, rng: np.random.Generator) -> Predictions:
    """Predictions of a model; images are likely to be hard for both."""
    shared, hard = common
    own, luck = rng.normal(size=common.shape)
    confidence = model.confidence(np.sqrt(0.6) * shared + np.sqrt(0.4) * own)
    fate = scipy.special.ndtr(np.sqrt(0.7) * hard + np.sqrt(0.3) * luck)
    right = fate < model.accuracy(confidence)
    n = len(right)
    return Predictions(
        keys=np.arange(n),
        labels=np.zeros(n, dtype=np.int64),
        predicted=(~right).astype(np.int64),
        confidence=confidence,
        top5_correct=np.ones(n, dtype=bool),
        nll=np.ones(n),
        brier=np.ones(n),
        logits=None,
        classes=("a", "b"),
    )


def debiased_square(sums: np.ndarray, n: int) -> np.ndarray:
    """Kumar's debiased square of the error, from counts, confidences and hits of bins."""
    counts, sure, right = np.split(sums, 3, axis=-1)
    with np.errstate(all="ignore"):
        share = right / counts
        squares = (share - sure / counts) ** 2 - share * (1 - share) / (counts - 1)
    return np.where(counts > 1, counts / n * squares, 0).sum(axis=-1)


def swapped_p(first: Predictions, second: Predictions, rng: np.random.Generator) -> float:
    """A permutation test that swaps both models on each image; its statistic is unbiased."""
    n, columns = len(first), []
    for side in (first, second):
        places = np.minimum((10 * side.confidence).astype(int), 9)
        bins = np.eye(10)[places]
        parts = [bins, bins * side.confidence[:, None], bins * side.correct[:, None]]
        columns.append(np.concatenate(parts, axis=1))
    moved = (rng.random((SWAPS, n)) < 0.5).astype(float) @ (columns[1] - columns[0])
    before, after = (column.sum(axis=0) for column in columns)
    seen = debiased_square(after, n) - debiased_square(before, n)
    drawn = debiased_square(after - moved, n) - debiased_square(before + moved, n)
    return float((1 + (np.abs(drawn) >= abs(seen) - 1e-12).sum()) / (SWAPS + 1))


def simulate_calibration(
    pair: tuple[str, str, Sureness, Sureness], n: int, trials: int, seeds: int, *, swaps: bool
) -> list[Row]:
    """Draw images, and test the difference of the RMS calibration errors."""
    kind, name, *models = pair
    rng = np.random.default_rng([seeds, n])
    p_values: dict[str, list[float]] = {OURS: [], SWAPPED: []} if swaps else {OURS: []}
    for trial in range(trials):
        common = rng.normal(size=(2, n))
        sides = []
        for model in models:
            gaps = model.gap + OF_GAPS * rng.normal(size=seeds) if seeds > 1 else [model.gap]
            trained = [replace(model, gap=float(gap)) for gap in gaps]
            sides.append([draw_sureness(one, common, rng) for one in trained])
        shared = Resamples.draw(sides[0][0].labels, RESAMPLES, seed=trial)
        first, second = (
            recipe_estimate(
                [evaluate_resamples(one, shared, None, [CALIBRATION])[CALIBRATION] for one in side]
            )
            for side in sides
        )
        p_values[OURS].append(bound_p(EstimatedDifference(first, second)))
        if swaps:
            p_values[SWAPPED].append(swapped_p(sides[0][0], sides[1][0], rng))
    return list(summarize((CALIBRATION, kind, name, np.nan, n, 0, seeds), p_values))


# ---------------------------------------------------------------- the table


def read_rows() -> list[Row]:
    """Read the stored table."""
    return [
        Row(*line)
        for line in pd.read_csv(STORED, keep_default_na=False, na_values="nan").itertuples(
            index=False
        )
    ]


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """The table as Markdown: the worst setting of each metric, method and number of seeds."""
    yield "| metric | seeds | method | settings | worst: p < 5 % | draws | models, positives, n |"
    yield "|---|---|---|---|---|---|---|"
    null = [row for row in rows if row.kind == "null" and row.tested >= FEWER_TRIALS]
    for start in dict.fromkeys((row.metric, row.seeds, row.method) for row in null):
        same = [row for row in null if (row.metric, row.seeds, row.method) == start]
        worst = max(same, key=lambda row: row.error)
        drawn = [worst.setting, *([] if np.isnan(worst.prevalence) else [worst.prevalence])]
        drawn += [worst.n, *(["in groups"] if worst.groups else [])]
        cells = (*start, len(same), f"{100 * worst.error:.2f}", worst.tested)
        yield f"| {' | '.join(map(str, cells))} | {', '.join(map(str, drawn))} |"
    yield ""
    yield "| metric | models, n | method | power: p < 5 % |"
    yield "|---|---|---|---|"
    for row in rows:
        if row.kind == "power":
            cells = (row.metric, f"{row.setting}, {row.n}", row.method, f"{100 * row.error:.1f}")
            yield f"| {' | '.join(map(str, cells))} |"


def simulate_all(only: str, trials: int) -> Iterator[list[Row]]:
    """Simulate all settings of the metrics whose name begins so."""
    fewer = max(1, trials * FEWER_TRIALS // TRIALS)
    for setting in settings():
        if setting.metric.startswith(only):
            yield simulate(setting, trials)
    for name in GRADES if "mean_absolute_error".startswith(only) else ():
        for n in (200, 500, 2000):
            yield simulate_grades(name, n, trials)
    for pair in calibrations() if CALIBRATION.startswith(only) else ():
        few = fewer if pair[0] == "power" else 2 * fewer
        yield simulate_calibration(pair, 500, few, 1, swaps=pair[0] == "null")
        yield simulate_calibration(pair, 2000, fewer, 1, swaps=False)
        if pair[:2] == ("null", "0.15 over, and under"):
            yield simulate_calibration(pair, 500, fewer, 3, swaps=False)


def main() -> None:
    """Simulate, store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, help="so many of each, and write nothing")
    parser.add_argument("--only", default="", help="replace the metrics whose name begins so")
    asked = parser.parse_args()
    kept = read_rows() if asked.only and STORED.exists() else []
    rows = [row for row in kept if not row.metric.startswith(asked.only)]
    for more in simulate_all(asked.only, asked.trials or TRIALS):
        rows += more
        print(more, file=sys.stderr, flush=True)
        if asked.trials is None:
            pd.DataFrame(rows).to_csv(STORED, index=False, lineterminator="\n", na_rep="nan")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()

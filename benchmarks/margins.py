"""How often is a model called non-inferior whose loss is exactly the margin?

    python benchmarks/margins.py               # about an hour on one core; writes margins.csv
    python benchmarks/margins.py --draws 100   # a try, which writes nothing

Two models are compared by the code of `fairweather compare --margin`, on test images that are drawn
again and again. The true loss is the margin, so each of these verdicts is wrong: `non-inferior`
(with `equivalent` among them, since a loss at the edge is not inside), and `inferior`. Each may
happen in 2.5 % of draws.

One seed a side, of shares: the images that only one model gets right are counted, so these rows are
exact sums over all outcomes and not draws (`draws` is 0). Beside the interval in use are those of
Tango and of Bonett and Price alone; of groups, that of Student's t alone. `spare` is the share of
images that only the model with the loss gets right; it is 0 where one model is right wherever the
other is.

Groups: half of the images of a group share what both models make of them. Groups have ten images,
or one to thirty (five on average; `n` is that of ten). Seeds: the accuracy of trainings that are
right on 90 % varies with a standard deviation of two points, that of 98 % with a tenth of a point.
AUC: normal scores, a tenth of the images positive, correlated between the models. Likelihoods and
Brier scores: the logit of the label above the other is normal, widely spread where the models are
overconfident. Balanced accuracy: one of ten images is of the rare class, where the loss is.

Rare failures: both models say the same, but A fails on a few of the positives (AUC), or of all
images (the losses). A sample without these shows no difference at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import scipy.integrate
import scipy.special
import scipy.stats

from fairweather.judge.compared_runs import (
    ComparedRun,
    ModelPair,
    ResampledImages,
    RunPair,
    SharedShifts,
    mean_weights,
)
from fairweather.judge.differences import compare_cell, estimate_pair
from fairweather.judge.margins import (
    EQUIVALENT,
    INFERIOR,
    NON_INFERIOR,
    MarginRow,
)
from fairweather.judge.rules import NOT_WORSE, Rule
from fairweather.metrics import per_image
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import adjusted_wald_interval
from fairweather.metrics.paired import paired_shares_interval, tango_interval
from fairweather.metrics.sample import draw_counts
from fairweather.report.tables import TOO_FEW
from fairweather.tasks import find_task
from fairweather.types.measurement import Predictions
from fairweather.types.record import (
    CLEAN,
    MEAN,
    NO_LEVEL,
    CellRecord,
    ShiftLevel,
    SweepRecord,
)

STORED = Path(__file__).with_suffix(".csv")
DRAWS, RESAMPLES, HARDLY_ANY = 2000, 1000, 20  # only means over levels need resamples
COLUMNS = (
    *("images", "metric", "n", "groups", "seeds", "margin", "spare", "draws"),
    *("non_inferior", "equivalent", "inferior", "no_interval"),
    *("tango", "tango_inferior", "bonett_price", "bonett_price_inferior", "student"),
)
EXACT = tuple(product((50, 100, 200, 500, 1000), (0.01, 0.02, 0.05, 0.1), (0, 0.002, 0.01, 0.05)))
SOLE, TWO_LEVELS, TOGETHER, GROUP = "one seed", "mean of two levels", 0.5, 10
RAREST = 1e-10  # of outcomes that are summed
WITHIN, RARE_SPARE = 0.5, 0.02  # noise of one training; images of a class that only A gets right
LEVELS = ("fog,severity=1", "fog,severity=2")
FOG = SweepRecord(
    name="fog", kind="shift", title="Fog", level_title="severity", neutral=0.0,
    cells=tuple(CellRecord(id=name, level=at) for at, name in enumerate(LEVELS, start=1)),
)  # fmt: skip
FOG_LEVELS = ShiftLevel("fog", MEAN)
SIZES, SIZE_SHARES = np.array([1, 2, 5, 30]), np.array([0.5, 0.25, 0.15, 0.1])  # of unequal groups
POSITIVE, SHARED = 0.1, 0.7  # share of positives or of the rare class; correlation of both models
# The logit of a label for equal models, of areas and of losses, and where one of them fails.
SURE, UNSURE, FAILED = 2.0, 1.0, -8.0
LOSSES: dict[str, Callable[[float], Any]] = {
    "negative_log_likelihood": lambda logit: np.logaddexp(0, -logit),
    "brier_score": lambda logit: 2 * scipy.special.expit(-logit) ** 2,
}
NAMES = ("no", "yes")
CLEAN_CELL = ShiftLevel(CLEAN, NO_LEVEL)
# The predictions of each seed of A and of B, by shift if there are several, and the groups.
Side = Sequence[Predictions] | Sequence[dict[str, Predictions]]
Drawn = tuple[Side, Side, Grouping | None]


class Setting(NamedTuple):
    """Images of a true loss, which is the margin too."""

    images: str
    metric: str
    n: int
    groups: int
    seeds: int
    margin: float
    spare: float
    draw: Callable[[np.random.Generator], Drawn]


# ---------------------------------------------------------------- one comparison


def compare(setting: Setting, drawn: Drawn) -> MarginRow:
    """Compare both models as `fairweather compare --margin` does."""
    *sides, grouping = drawn
    task = find_task("classification")
    runs = RunPair(*(_in_memory(name, one) for name, one in zip("ab", sides, strict=True)))
    first = runs.a.read("a", 0, CLEAN)
    has_levels = setting.images == TWO_LEVELS
    resamples = RESAMPLES if has_levels else HARDLY_ANY
    counts = draw_counts(len(first), resamples, grouping=grouping)
    unit, *_ = task.every_unit(first)
    images = ResampledImages(first, "a", counts, grouping, unit, task.decision_metric, CLEAN)
    pair = ModelPair("a", "b")
    shared = SharedShifts((FOG,) if has_levels else ())
    condition = FOG_LEVELS if has_levels else CLEAN_CELL
    cells = mean_weights(shared).get(condition, {condition: 1.0})
    estimates = estimate_pair(runs, pair, shared, images, [setting.metric])
    row = compare_cell(estimates, condition, cells, setting.metric, images)
    number = f"{setting.margin:.17g}"
    return MarginRow(Rule(None, setting.metric, CLEAN, "", NOT_WORSE, number, reference="b"), row)


class _InMemory(ComparedRun):
    """A side of a comparison whose predictions are of no folder."""

    def read_streams(self, model: str, seed: int | str, shift: str) -> Predictions:
        of_seed = cast("Any", self.run).predictions[seed]
        return of_seed[shift] if isinstance(of_seed, dict) else of_seed


def _in_memory(name: str, predictions: Side) -> ComparedRun:
    folder = SimpleNamespace(
        task=find_task("classification"), path=Path(name), predictions=predictions
    )
    models = {name: tuple(range(len(predictions)))}
    return _InMemory(name, cast("Any", folder), models, models)


# ---------------------------------------------------------------- what is drawn


def _predict(labels: np.ndarray, margins: FloatArray) -> Predictions:
    """Predictions by how far the logit of the label is above the other."""
    sign = np.where(labels == 1, 0.5, -0.5)
    logits = np.stack([-sign * margins, sign * margins], axis=1).astype(np.float32)
    return Predictions(np.arange(len(labels)), labels, *per_image(logits, labels), logits, NAMES)


def _outcomes(margin: float, spare: float) -> FloatArray:
    """The chances that A alone is right, that B alone is, and that both are or neither is."""
    return np.array([spare, spare + margin, 1 - 2 * spare - margin])


def _right(labels: np.ndarray, outcome: np.ndarray) -> tuple[Predictions, Predictions]:
    a, b = (np.where(outcome == lost, -1.0, 1.0) for lost in (1, 0))
    return _predict(labels, a), _predict(labels, b)


def draw_groups(
    generator: np.random.Generator, n: int, margin: float, spare: float, *, unequal: bool
) -> Drawn:
    """Images of groups that share, half of the time, which model is right."""
    sizes = generator.choice(SIZES, n, p=SIZE_SHARES) if unequal else np.full(n, GROUP)
    groups = np.repeat(np.arange(n), sizes)
    chances = _outcomes(margin, spare)
    of_group, alone = (generator.choice(3, count, p=chances) for count in (n, len(groups)))
    shared = generator.random(len(groups)) < TOGETHER**0.5
    outcome = np.where(shared, of_group[groups], alone)
    a, b = _right(np.arange(len(groups)) % 2, outcome)
    return [a], [b], Grouping(groups)


def draw_seeds(
    generator: np.random.Generator, n: int, margin: float, seeds: int, *, share: float, sd: float
) -> Drawn:
    """Trainings of two recipes, B right on so many images, with a deviation between trainings."""
    hard, labels = generator.normal(0, 1, n), np.arange(n) % 2
    density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(share))
    spread = float(np.sqrt(1 + WITHIN**2) * sd / density)  # of the cut, not of the accuracy
    whole = float(np.sqrt(1 + WITHIN**2 + spread**2))
    sides = []
    for own in (share - margin, share):
        cut = scipy.stats.norm.ppf(own) * whole
        noise = generator.normal(0, WITHIN, (seeds, n)) + generator.normal(0, spread, (seeds, 1))
        sides.append([_predict(labels, cut - hard - each) for each in noise])
    return *sides, None


def draw_levels(generator: np.random.Generator, n: int, margin: float, spare: float) -> Drawn:
    """Two levels of a shift; half of the images have the same outcome at both."""
    chances, labels = _outcomes(margin, spare), np.arange(n) % 2
    first, second = (generator.choice(3, n, p=chances) for _ in LEVELS)
    second = np.where(generator.random(n) < TOGETHER, first, second)
    by_level = [_right(labels, outcome) for outcome in (first, second)]
    sides = [dict(zip(LEVELS, side, strict=True)) for side in zip(*by_level, strict=True)]
    return *([side | {CLEAN: side[LEVELS[0]]}] for side in sides), None


def draw_scores(generator: np.random.Generator, n: int, areas: Sequence[float]) -> Drawn:
    """Normal scores of a tenth that is positive, with these areas under the ROC curve."""
    labels = (np.arange(n) < round(POSITIVE * n)).astype(np.int64)
    same = generator.normal(0, SHARED**0.5, n)
    sides = []
    for area in areas:
        noise = same + generator.normal(0, (1 - SHARED) ** 0.5, n)
        score = noise + 2**0.5 * scipy.stats.norm.ppf(area) * labels
        sides.append([_predict(labels, np.where(labels == 1, 1, -1) * score)])
    return *sides, None


def draw_losses(
    generator: np.random.Generator, n: int, spread: float, means: Sequence[float]
) -> Drawn:
    """Logits of the label that are normal around these means, correlated between the models."""
    labels = np.arange(n) % 2
    same = generator.normal(0, SHARED**0.5, n)
    sides = [
        [_predict(labels, mean + spread * (same + generator.normal(0, (1 - SHARED) ** 0.5, n)))]
        for mean in means
    ]
    return *sides, None


def draw_rare_class(generator: np.random.Generator, n: int, margin: float, spare: float) -> Drawn:
    """A rare class, where A misses more: so many of its images that the mean loss is the margin."""
    labels = (np.arange(n) < round(POSITIVE * n)).astype(np.int64)
    rare = generator.choice(3, n, p=_outcomes(2 * margin, spare))
    common = generator.choice(3, n, p=_outcomes(0.0, spare))
    a, b = _right(labels, np.where(labels == 1, rare, common))
    return [a], [b], None


def draw_failing_positives(
    generator: np.random.Generator, n: int, positives: int, share: float
) -> Drawn:
    """Equal models, but A gives the lowest scores to a share of the positives."""
    labels = (np.arange(n) < positives).astype(np.int64)
    return _fail(
        labels, generator.normal(SURE, 1, n), (generator.random(n) < share) & (labels == 1)
    )


def draw_failing_images(generator: np.random.Generator, n: int, share: float) -> Drawn:
    """Equal models, but A is wrong and sure of it on a share of the images."""
    return _fail(np.arange(n) % 2, generator.normal(UNSURE, 1, n), generator.random(n) < share)


def _fail(labels: np.ndarray, margins: FloatArray, fails: np.ndarray) -> Drawn:
    a, b = (_predict(labels, own) for own in (np.where(fails, FAILED, margins), margins))
    return [a], [b], None


def failing_settings() -> Iterator[Setting]:
    """Equal models of which one fails on a few images."""
    for positives, negatives, share in (
        (40, 400, 0.02), (40, 400, 0.05), (100, 1000, 0.01), (30, 300, 0.1), (200, 200, 0.01)
    ):  # fmt: skip
        n, margin = positives + negatives, share * float(scipy.stats.norm.cdf(2**0.5 * SURE))
        draw = partial(draw_failing_positives, n=n, positives=positives, share=share)
        yield Setting(
            f"{positives} + {negatives}, rare failures", "auc/yes", n, 0, 1, margin, 0.0, draw
        )
    for kind, (n, share) in product(LOSSES, ((200, 0.01), (500, 0.005))):
        margin = share * (LOSSES[kind](FAILED) - mean_loss(kind, UNSURE, 1.0))
        draw = partial(draw_failing_images, n=n, share=share)
        yield Setting("rare failures", kind, n, 0, 1, float(margin), 0.0, draw)


def mean_loss(kind: str, mean: float, spread: float) -> float:
    """The mean of a loss whose logits are normal, by integration."""
    whole, _ = scipy.integrate.quad(
        lambda z: LOSSES[kind](mean + spread * z) * scipy.stats.norm.pdf(z), -12, 12, limit=500
    )
    return float(whole)


def settings() -> Iterator[Setting]:
    """All settings that are drawn."""
    for groups, (margin, spare), unequal in product(
        (20, 50), ((0.02, 0.01), (0.05, 0.05)), (False, True)
    ):
        name = f"{'unequal' if unequal else 'equal'} groups"
        draw = partial(draw_groups, n=groups, margin=margin, spare=spare, unequal=unequal)
        yield Setting(name, "accuracy", groups * GROUP, groups, 1, margin, spare, draw)
    for (share, sd, seeds), n in product(
        ((0.9, 0.02, 3), (0.9, 0.02, 5), (0.98, 0.001, 3)), (200, 1000)
    ):
        draw = partial(draw_seeds, n=n, margin=0.02, seeds=seeds, share=share, sd=sd)
        yield Setting(f"seeds, {share:.0%} right", "accuracy", n, 0, seeds, 0.02, 0.0, draw)
    for n, margin, spare in ((200, 0.02, 0.0), (200, 0.05, 0.05), (1000, 0.05, 0.05)):
        draw = partial(draw_levels, n=n, margin=margin, spare=spare)
        yield Setting(TWO_LEVELS, "accuracy", n, 0, 1, margin, spare, draw)
    for n, areas in product((500, 2000), ((0.78, 0.8), (0.96, 0.97))):
        draw, name = partial(draw_scores, n=n, areas=areas), f"normal scores, AUC {areas[1]:g}"
        yield Setting(name, "auc/yes", n, 0, 1, areas[1] - areas[0], 0.0, draw)
    for kind, n, (mean, spread), shift in product(
        ("negative_log_likelihood", "brier_score"), (200, 1000), ((1.5, 1.5), (3.0, 3.0)), (0.3,)
    ):
        means = (mean - shift, mean)
        first, second = (mean_loss(kind, one, spread) for one in means)
        draw = partial(draw_losses, n=n, spread=spread, means=means)
        yield Setting(f"logits {mean:g} ± {spread:g}", kind, n, 0, 1, first - second, 0.0, draw)
    for n, margin in product((200, 1000), (0.02, 0.05)):
        draw = partial(draw_rare_class, n=n, margin=margin, spare=RARE_SPARE)
        yield Setting("a rare class", "balanced_accuracy", n, 0, 1, margin, RARE_SPARE, draw)
    yield from failing_settings()


# ---------------------------------------------------------------- the table


def measure(setting: Setting, draws: int) -> tuple[object, ...]:
    """Count the wrong verdicts of a setting."""
    generator = np.random.default_rng([setting.n, round(1e6 * setting.margin), setting.seeds])
    rows = [compare(setting, setting.draw(generator)) for _ in range(draws)]
    verdicts = [row.verdict for row in rows]
    wrong = [EQUIVALENT, INFERIOR, TOO_FEW]
    equivalent, inferior, missing = (verdicts.count(verdict) / draws for verdict in wrong)
    non_inferior = equivalent + verdicts.count(NON_INFERIOR) / draws
    shares = [round(share, 5) for share in (non_inferior, equivalent, inferior, missing)]
    student = [_ends_below(row, setting.margin) for row in rows] if setting.groups else []
    alone = round(sum(student) / draws, 5) if student else ""
    return (*setting[:5], round(setting.margin, 6), setting.spare, draws, *shares, *[""] * 4, alone)


def _ends_below(row: MarginRow, margin: float) -> bool:
    """Whether the interval of Student's t over groups alone ends below the margin."""
    crossed = row.row.crossed
    return bool(crossed and crossed.errors and crossed.interval[1] < margin)


def sum_outcomes(n: int, margin: float, spare: float) -> tuple[object, ...]:
    """The chances of wrong verdicts about the accuracy of one seed a side, over all outcomes."""
    counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    chances = scipy.stats.multinomial.pmf(counts, n, _outcomes(margin, spare))
    found = np.zeros(7)
    for (only_a, only_b, _), chance in zip(
        counts[chances > RAREST], chances[chances > RAREST], strict=True
    ):
        low, high = paired_shares_interval(only_a, only_b, n)
        ends = [tango_interval(only_a, only_b, n)]
        ends += [adjusted_wald_interval((only_b - only_a) / n, only_a + only_b, n)]
        is_wrong = [high < margin, high < margin and low > -margin, low > margin]
        is_wrong += [side for low, high in ends for side in (high < margin, low > margin)]
        found += chance * np.array(is_wrong)
    shares = [round(float(share), 5) for share in found]
    return (SOLE, "accuracy", n, 0, 1, margin, spare, 0, *shares[:3], 0.0, *shares[3:], "")


def read_rows() -> list[dict[str, str]]:
    """The stored table."""
    return pd.read_csv(STORED, dtype=str, keep_default_na=False).to_dict("records")


def summary(rows: Sequence[dict[str, str]]) -> list[str]:
    """The lines of the notes: the largest share of each wrong verdict, by images and metric."""

    def worst(part: Sequence[dict[str, str]], column: str) -> str:
        shares = [100 * float(row[column]) for row in part if row[column]]
        return f"{max(shares):.2f}" if shares else "–"

    kinds = dict.fromkeys((row["images"], row["metric"]) for row in rows)
    lines = []
    for kind in kinds:
        part = [row for row in rows if (row["images"], row["metric"]) == kind]
        ends = [worst(part, name) for name in COLUMNS[8:]]
        lines.append(f"| {kind[0]} | {kind[1]} | {len(part)} | {' | '.join(ends)} |")
    return lines


def main() -> None:
    """Write the table, or print a try of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    draws = parser.parse_args().draws
    table = [*(sum_outcomes(*setting) for setting in EXACT if draws == DRAWS)]
    table += [measure(setting, draws) for setting in settings()]
    frame = pd.DataFrame(table, columns=COLUMNS, dtype=object)  # numbers are written as they are
    if draws == DRAWS:
        frame.to_csv(STORED, index=False, lineterminator="\n")
        print("\n".join(summary(read_rows())))
    else:
        frame.to_csv(sys.stdout, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()

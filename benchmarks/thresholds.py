"""How often is a target sensitivity or specificity broken by the threshold that is chosen for it?

    python benchmarks/thresholds.py    # some minutes on an idle core; writes thresholds.csv
    python benchmarks/thresholds.py --draws 50    # a try, which writes nothing

Validation images are drawn again and again, and the threshold is chosen on each draw
(`choose_threshold`). The promise is broken where the true rate at the threshold, an integral, is
below the target; that may happen in 5 % of draws. Beside it is the usual way: the threshold that
has the target on these images.

The scores of the images that a rate is about are even (a normal logit), skewed (most near 1, and a
long tail), or tied: ten values, of which one has an error rate just above what is allowed, the
hardest case. Groups of unequal size (half have one image, a tenth have 30) resemble each other
within; once all images of a group have the same score, and once large groups have lower scores. The
promise is then about groups that count alike. `broken for images` is how often the rate is below
the target where each image counts alike, which is not promised.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import scipy.special

from fairweather.metrics.columns import FloatArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.operating_points import choose_threshold, fewest_for_target
from fairweather.types.operating_points import RATES, TargetRate

STORED = Path(__file__).with_suffix(".csv")
DRAWS = 2000
UNITS = (30, 60, 100, 200, 500)  # images, or groups, that the rate is about
TARGETS = (0.8, 0.9, 0.95)
OTHERS = 300  # images that the other rate is about
SIZES, SHARES = np.array([1, 2, 5, 30]), np.array([0.5, 0.25, 0.15, 0.1])  # of groups
MEAN, BETWEEN = 1.5, 2.0  # of logits; the deviation within a group is 1
SKEW = (3.0, 0.4)  # of a Beta distribution
LOWER = 2.0  # logits of the largest groups, where these differ
STEP, HARDEST = 0.1, 5  # of ties; the fifth value has the error rate just above what is allowed
COLUMNS = ("scores", "rate", "units", "target", "draws", "broken", "broken_for_images", "usual")
Draw = Callable[[np.random.Generator, int, float], tuple[FloatArray, np.ndarray | None]]
# The true error rate at a threshold, given a target: of groups that count alike, and of images.
Truth = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Scores:
    """How scores are drawn, and their true error rates."""

    draw: Draw
    truth: Truth


def _same(share: float) -> tuple[float, float]:
    return share, share


def _even(generator: np.random.Generator, n: int, _: float) -> tuple[FloatArray, None]:
    return scipy.special.expit(generator.normal(MEAN, 1, n)), None


def _skewed(generator: np.random.Generator, n: int, _: float) -> tuple[FloatArray, None]:
    return generator.beta(*SKEW, n), None


def _tied(generator: np.random.Generator, n: int, target: float) -> tuple[FloatArray, None]:
    below = generator.random(n) < 1 - target + 1e-6
    low = generator.integers(1, HARDEST + 1, n)
    return STEP * np.where(below, low, low + HARDEST), None


def _tied_errors(threshold: float, target: float) -> tuple[float, float]:
    values, below = STEP * np.arange(1, 2 * HARDEST + 1), 1 - target + 1e-6
    shares = np.repeat([below / HARDEST, (1 - below) / HARDEST], HARDEST)
    return _same(float(shares[values < threshold].sum()))


def _of_groups(*, within: float, lower: float) -> Scores:
    """Scores of groups of unequal size."""
    means = np.where(SIZES.max() == SIZES, MEAN - lower, MEAN)

    def draw(generator: np.random.Generator, n: int, _: float) -> tuple[FloatArray, np.ndarray]:
        kinds = generator.choice(len(SIZES), n, p=SHARES)
        groups = np.repeat(np.arange(n), SIZES[kinds])
        logits = (means[kinds] + generator.normal(0, BETWEEN, n))[groups]
        return scipy.special.expit(logits + generator.normal(0, within, len(groups))), groups

    def truth(threshold: float, _: float) -> tuple[float, float]:
        spread = np.hypot(BETWEEN, within)
        errors = scipy.special.ndtr((_logit(threshold) - means) / spread)
        return float(SHARES @ errors), float((SHARES * SIZES) @ errors / (SHARES @ SIZES))

    return Scores(draw, truth)


def _logit(threshold: float) -> float:
    return float(scipy.special.logit(min(max(threshold, 0.0), 1.0)))


SCORES = {
    "even": Scores(_even, lambda t, _: _same(float(scipy.special.ndtr(_logit(t) - MEAN)))),
    "skewed": Scores(
        _skewed, lambda t, _: _same(float(scipy.special.betainc(*SKEW, min(max(t, 0.0), 1.0))))
    ),
    "tied": Scores(_tied, _tied_errors),
    "groups": _of_groups(within=1.0, lower=0.0),
    "groups, one score each": _of_groups(within=0.0, lower=0.0),
    "groups, the large ones lower": _of_groups(within=1.0, lower=LOWER),
}


def choose(
    scores: FloatArray,
    groups: np.ndarray | None,
    target: TargetRate,
    generator: np.random.Generator,
) -> float:
    """Choose the threshold for scores that are high where calls are right.

    A specificity is about the images without the finding, whose probability is 1 minus the score.
    """
    others = scipy.special.expit(generator.normal(-MEAN, 1, OTHERS))
    wanted = target.rate == "sensitivity"
    present = np.repeat([wanted, not wanted], [len(scores), OTHERS])
    every = np.concatenate([scores, others])
    grouping = None
    if groups is not None:
        grouping = Grouping(np.concatenate([groups, groups.max() + 1 + np.arange(OTHERS)]))
    threshold = choose_threshold(every if wanted else 1 - every, present, target, grouping)
    # Beside ties, a score is above 1 minus a threshold where it is at least that.
    return threshold if wanted else float(np.nextafter(1 - threshold, 2))


def measure(name: str, rate: str, units: int, target: float, draws: int) -> tuple[object, ...]:
    """Count how often the target is broken: by the choice, for images, and in the usual way."""
    scores, wanted = SCORES[name], TargetRate(next(r for r in RATES if r == rate), target)
    seed = [units, round(100 * target), list(SCORES).index(name), RATES.index(wanted.rate)]
    generator = np.random.default_rng(seed)
    broken = np.zeros(3)
    for _ in range(draws):
        drawn, groups = scores.draw(generator, units, target)
        own, of_images = scores.truth(choose(drawn, groups, wanted, generator), target)
        usual = np.sort(drawn)[int((1 - target) * len(drawn) + 1e-9)]
        allowed = 1 - target + 1e-12
        broken += [own > allowed, of_images > allowed, scores.truth(usual, target)[0] > allowed]
    return (name, rate, units, target, draws, *np.round(broken / draws, 5).tolist())


def rows(draws: int) -> Iterator[tuple[object, ...]]:
    """Measure every setting whose units could show the target."""
    for name, rate, units, target in product(SCORES, RATES, UNITS, TARGETS):
        if units >= fewest_for_target(TargetRate("sensitivity", target)):
            yield measure(name, rate, units, target, draws)


def main() -> None:
    """Write the table, or print a try of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    asked = parser.parse_args()
    table = list(rows(asked.draws))
    written = csv.writer(sys.stdout, lineterminator="\n")
    if asked.draws == DRAWS:
        with STORED.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table])
        table = sorted(table, key=lambda row: -float(str(row[5])))[:10]
    written.writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()

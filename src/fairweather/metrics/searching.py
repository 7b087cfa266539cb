"""The interval of the largest coverage that keeps a risk: a value that is found by a search.

The best threshold for some images is the one where chance made their risk small. So the coverage at
a measured risk is too large on average, and resamples of the images repeat that choice: they are no
evidence that the coverage can be kept. Tests of thresholds in a fixed order are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import TAIL, FloatArray, IntArray, check_columns
from fairweather.metrics.ordered import as_confidence
from fairweather.metrics.recipes import MANY

# Thresholds are tried at steps of this share of the images.
STEPS = 100
# Of the chance that an end misses the truth, what its two parts have: tests of the risk, and how
# many images are above a threshold.
OF_COVERAGE = 0.005
OF_RISK = TAIL - OF_COVERAGE
# Fewer answers than this, divided by the risk, show a risk hardly ever.
AT_A_START = 5
# Counts of images this near to 0 are rounding.
TINY = 1e-9


class Shares(NamedTuple):
    """Shares of images, and how much they say.

    Attributes:
        value: float64 `[k]`.
        worth: float64 `[k]`, of how many independent images they are worth.
        freedom: float64 `[k]`, degrees of freedom of that; infinite for independent images.
    """

    value: FloatArray
    worth: FloatArray
    freedom: FloatArray

    def chance_of_fewer(self, share: float) -> FloatArray:
        """How probable so few hits are, or fewer, if the true share were this one."""
        hits = self.value * self.worth
        missed = np.maximum(self.worth - hits, 0)
        binomial = scipy.special.betainc(np.maximum(missed, TINY), hits + 1, 1 - share)
        return self._of_student(np.where(missed > TINY, binomial, 1.0))

    def chance_of_more(self, share: float) -> FloatArray:
        """How probable so many hits are, or more, if the true share were this one."""
        hits = self.value * self.worth
        binomial = scipy.special.betainc(np.maximum(hits, TINY), self.worth - hits + 1, share)
        return self._of_student(np.where(hits > TINY, binomial, 1.0))

    def low(self, tail: float) -> FloatArray:
        """The lower ends of exact one-sided intervals, which miss the truth with this chance."""
        level = scipy.special.ndtr(scipy.special.stdtrit(self.freedom, tail))
        hits = self.value * self.worth
        found = scipy.special.betaincinv(np.maximum(hits, TINY), self.worth - hits + 1, level)
        return np.where(hits > TINY, found, 0.0)

    def _of_student(self, chance: FloatArray) -> FloatArray:
        """The chance with Student's t in the place of the normal distribution."""
        return np.asarray(scipy.special.stdtr(self.freedom, scipy.special.ndtri(chance)))


def coverage_interval(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    risk: float = 0.05,
    clusters: Clusters | None = None,
    weights: npt.ArrayLike | None = None,
) -> tuple[float, float]:
    """The 95 % interval of the largest coverage with a true risk of at most `risk`.

    The truth is about endless images: the coverage of the lowest threshold that keeps the risk
    among them, 0 if there is none. Each end misses it in at most 2.5 % of draws of the images.

    The lower end is shown by tests, as in `guaranteed_threshold`: were the risk of a threshold
    higher, would so few answers be wrong? Thresholds are tried from high to low, a hundredth of the
    images apart, beginning at all images, half of them, a quarter and so on: the order does not
    depend on which answers are wrong. The beginnings share 2 %, and each test that is passed leaves
    its part to the next. The lower end is too high only if the search passes a threshold whose risk
    is too high.
    The upper end needs no correction: the true threshold is one, and it is not among those of
    which so many wrong answers would be seen in at most 2 % of draws. The other 0.5 % are for how
    many images are above a threshold. Few images show little: with fewer than 200 at a risk of 5 %
    the lower end is 1 or 0, since all answers are tested together, or nothing is shown.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        risk: the largest share of wrong answers, in [0, 1].
        clusters: which images belong together. Images then count for as many as the variance
            between clusters says, and Student's t takes the place of the normal distribution.
        weights: how much each image counts, float `[n]`.

    Source: Wiens and Dmitrienko 2005, The Fallback Procedure for Evaluating a Single Family of
    Hypotheses; Angelopoulos et al. 2021, Learn then Test, section 2.3, for thresholds; Clopper and
    Pearson 1934 for the exact tests; Korn and Graubard 1998 for the worth of clusters.

    >>> confidence, correct = np.linspace(1, 0.5, 2000), np.arange(2000) % 40 != 39
    >>> coverage_interval(confidence, correct)
    (1.0, 1.0)
    >>> low, high = coverage_interval(confidence, correct & (confidence > 0.7))
    >>> round(low, 2), round(high, 2)
    (0.57, 0.66)
    """
    n = check_columns(confidence=confidence, correct=correct)
    order = np.argsort(-as_confidence(confidence), kind="stable")
    sure, wrong = as_confidence(confidence)[order], ~np.asarray(correct, dtype=bool)[order]
    units = None if clusters is None else clusters.of[order]
    counts = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    if weights is not None and units is None:
        units = np.arange(n)
    thresholds = np.append(np.flatnonzero(sure[1:] != sure[:-1]) + 1, n)
    steps = np.ceil(np.arange(1, STEPS + 1) * n / STEPS)
    ends = thresholds[np.unique(np.searchsorted(thresholds, steps))]
    risks = _shares_so_far(wrong, ends, units, counts)
    lowest = _passed(risks.chance_of_fewer(risk), ends, n, AT_A_START / max(risk, TINY))
    possible = np.flatnonzero(risks.chance_of_more(risk) > OF_RISK)
    # The true threshold may lie between two that were tried.
    following = ends[possible[-1] + 1 :] if len(possible) else ends
    below = thresholds[thresholds < following[0]] if len(following) else thresholds
    highest = below[-1] if len(below) else 0
    low, high = 0.0, 1.0
    if lowest:
        low = float(_shares(np.arange(n) < lowest, units, counts).low(OF_COVERAGE)[0])
    if highest < n:
        high = 1 - float(_shares(np.arange(n) >= highest, units, counts).low(OF_COVERAGE)[0])
    return (1.0 if lowest == n else low), high


def _passed(chances: FloatArray, ends: IntArray, n: int, fewest: float) -> int:
    """How many images the lowest threshold answers that passes its test; 0 if none does."""
    starts = [n / 2**k for k in range(int(np.log2(max(n / fewest, 1))) + 1)]
    shares = np.bincount(np.searchsorted(ends, starts), minlength=len(ends)) / len(starts)
    level, found = 0.0, 0
    for chance, share, end in zip(chances, OF_RISK * shares, ends, strict=True):
        level += share
        if chance <= level:
            found = int(end)
        else:
            level = 0.0
    return found


def _shares_so_far(
    hits: npt.NDArray[np.bool_], ends: IntArray, units: IntArray | None, counts: FloatArray
) -> Shares:
    """The shares of hits among the first images, for some numbers of them."""
    if units is None:
        images = ends.astype(np.float64)
        return Shares(np.cumsum(hits)[ends - 1] / images, images, np.full(len(ends), MANY))
    each = [_shares(hits[:end], units[:end], counts[:end]) for end in ends]
    return Shares(*(np.concatenate(parts) for parts in zip(*each, strict=True)))


def _shares(hits: npt.NDArray[np.bool_], units: IntArray | None, counts: FloatArray) -> Shares:
    """The share of hits of some images, which are independent or belong to units."""
    if units is None:
        return Shares(*np.array([[hits.mean()], [len(hits)], [MANY]]))
    own, squares = np.bincount(units, counts), np.bincount(units, np.square(counts))
    hit, hit_squares = (np.bincount(units, each * hits) for each in (counts, np.square(counts)))
    whole = own.sum()
    if not whole:
        return Shares(*np.array([[0.0], [0.0], [TINY]]))
    share = hit.sum() / whole
    # Of as many units of one size are these worth (Kish 1965, Survey Sampling, section 11.7).
    even = whole**2 / np.square(own).sum()
    present = np.count_nonzero(own)
    worth = even
    if 0 < share < 1 and present > 1:
        spread = share * (1 - share)
        excess = hit - share * own
        # The jackknife's variance, as of `share_interval`.
        moves = np.square(excess / np.maximum(whole - own, TINY)).sum() * (present - 1) / present
        # A few large units that are alike by chance make it too small. So a variance counts too in
        # which all units have one correlation within, the mean over images of what each unit shows.
        within = (1 - share) ** 2 * hit_squares + share**2 * (squares - hit_squares)
        pairs = np.square(own) - squares
        several = pairs > TINY
        shown = (np.square(excess) - within)[several] / pairs[several] * own[several]
        alike = max(shown.sum() / max(own[several].sum(), TINY) / spread, 0.0)
        common = whole**2 / (squares.sum() + alike * pairs.sum())
        worth = min(spread / max(moves, TINY**2), common, len(hits))
    return Shares(*np.array([[share], [worth], [max(even - 1, TINY)]]))

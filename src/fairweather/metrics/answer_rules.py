"""Rules of two thresholds that keep several limits at once, such as one for each class.

A rule answers an image if both scores of the image reach the thresholds of the rule. The limits are
on shares of wrong answers, each among its own images: all of them, or those of one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.columns import BoolArray, FloatArray, IntArray, as_numbers
from fairweather.metrics.grouping import Grouping, effective_sample
from fairweather.metrics.selective import STEPS, binomial_tail, check_promise

DIGITS = 9  # of logarithms of chances that are compared
CLEAR = 1e-6  # with such a p-value on one half, the other half refuses a rule hardly ever


class LimitedImages(NamedTuple):
    """Images of which only a limited share of the answers may be wrong."""

    limit: float
    """The largest share, in (0, 1)."""

    scores: FloatArray
    """float64 `[n, 2]`, the two scores of each image; larger ones are answered first."""

    wrong: BoolArray
    """Bool `[n]`, where an answer would be wrong."""

    grouping: Grouping | None = None
    """Which images belong together, if each image counts equally; see `guaranteed_threshold`."""


class ShownShare(NamedTuple):
    """What images show of the share of wrong answers that a rule gives."""

    answered: int
    wrong: int
    """`answered`, `wrong`: how many images it answers, and how many of these answers are wrong."""

    p: float
    """The chance of so few wrong answers if the true share were just above the limit; 1 if nothing
    is answered."""

    bound: float
    """The upper end of the exact one-sided interval of the true share; 1 if nothing is answered."""


class GuaranteedRule(NamedTuple):
    """A rule that keeps all limits together with a stated certainty; see `guaranteed_rule`."""

    thresholds: tuple[float, float]
    """The smallest scores that are answered; infinite if no rule is shown to keep the limits."""

    shown: tuple[ShownShare, ...]
    """What the images of each limit show of it."""


def guaranteed_rule(
    limited: Sequence[LimitedImages], candidates: ArrayLike, *, certainty: float = 0.95
) -> GuaranteedRule:
    """The last of some rules, in a fixed order, up to which all limits are shown to be kept.

    A rule keeps all limits or it does not. So the p-value of a rule is the largest of the p-values
    of its limits, and `1 - certainty` is not divided by their number. The first candidate whose
    p-value is too large ends the search, as in `guaranteed_threshold`. With that certainty, the
    rule keeps all limits, if candidates and their order do not depend on these images.

    Args:
        limited: the images of each limit, independent draws of what will be answered. Images of two
            limits may be the same.
        candidates: float `[k, 2]`, the thresholds of each rule; see `rules_to_try`.
        certainty: the share of draws in which all limits are kept, in (0, 1).

    Source: Berger 1982, Multiparameter Hypothesis Testing and Acceptance Sampling, for the largest
    p-value (an intersection-union test); Angelopoulos et al. 2021, Learn then Test, section 2.3,
    for the fixed order; Clopper and Pearson 1934 for each test.

    >>> scores = np.stack([np.linspace(1, 0.5, 100), np.ones(100)], axis=1)
    >>> cancers = LimitedImages(0.05, scores, np.arange(100) > 70)
    >>> rule = guaranteed_rule([cancers], [[0.7, 1.0], [0.6, 1.0]])
    >>> rule.thresholds, rule.shown[0].answered, round(rule.shown[0].bound, 3)
    ((0.7, 1.0), 60, 0.049)
    """
    for images in limited:
        check_promise(images.limit, certainty)
    rules = np.asarray(candidates, dtype=np.float64)
    if rules.ndim != 2 or rules.shape[1] != 2 or np.isnan(rules).any():
        raise InputError("candidates for a rule must be numbers [k, 2]")
    last = GuaranteedRule((np.inf, np.inf), tuple(ShownShare(0, 0, 1.0, 1.0) for _ in limited))
    for first, second in rules.tolist():
        shown = tuple(show_share(images, (first, second), certainty) for images in limited)
        if any(share.p > 1 - certainty for share in shown):
            break
        last = GuaranteedRule((first, second), shown)
    return last


def show_share(
    images: LimitedImages, thresholds: tuple[float, float], certainty: float = 0.95
) -> ShownShare:
    """Test one limit of one rule, and bound its share of wrong answers.

    >>> show_share(LimitedImages(0.01, np.ones((299, 2)), np.zeros(299, bool)), (1.0, 1.0)).p < 0.05
    True
    """
    places = np.flatnonzero((images.scores >= thresholds).all(axis=1))
    if not len(places):
        return ShownShare(0, 0, 1.0, 1.0)
    wrong = images.wrong[places]
    worth, hits = float(len(places)), float(wrong.sum())
    if images.grouping is not None:  # and then not whole numbers
        worth, hits = effective_sample(wrong, images.grouping.select(places))
    p = binomial_tail(np.array([hits]), np.array([worth]), images.limit)[0]
    bound = scipy.special.betaincinv(hits + 1, worth - hits, certainty) if hits < worth else 1.0
    return ShownShare(len(places), int(wrong.sum()), float(p), float(bound))


def rules_to_try(scores: ArrayLike, limited: Sequence[LimitedImages]) -> FloatArray:
    """Rules for `guaranteed_rule`, in the order in which other images may pass them.

    Of all pairs of thresholds, a hundredth of the images apart, those are tried that no other pair
    beats: with a smaller p-value on these images, or an equal one, and more answers. The order goes
    from the smallest p-value to the most answers. The first of them answers as much as is possible
    before the next error, and so seems safer than it is. So it comes after stricter pairs that
    show each limit as well, or clearly: those on the way from the strictest.

    Args:
        scores: float `[n, 2]`, of all images; no NaN. A score that is equal for all images leaves
            one threshold to choose.
        limited: the images of each limit. Their groups are ignored.

    Returns:
        Float64 `[k, 2]`.

    Source: Laufer-Goldshtein et al. 2023, Efficiently Controlling Multiple Risks with Pareto
    Testing, section 4.

    >>> scores = np.array([[0.9, 0.9], [0.8, 0.2], [0.7, 0.7], [0.6, 0.8]])
    >>> wrong = np.array([False, True, False, False])
    >>> rules_to_try(scores, [LimitedImages(0.3, scores, wrong)]).tolist()
    [[0.6, 0.7], [0.6, 0.2]]
    >>> certain = LimitedImages(0.3, scores[:1], wrong[:1])  # all rules show the same of it
    >>> rules_to_try(scores, [certain]).tolist()
    [[0.9, 0.9], [0.8, 0.8], [0.7, 0.7], [0.6, 0.2]]
    """
    columns = as_numbers(scores)
    if columns.ndim != 2 or columns.shape[1] != 2 or not len(columns) or np.isnan(columns).any():
        raise InputError("scores of images must be numbers [n, 2], at least one row")
    levels = [_place_levels(column) for column in columns.T]
    answered = _count_reached(columns, levels)
    chances = np.zeros((len(limited), *answered.shape))
    for place, images in enumerate(limited):
        check_promise(images.limit, 0.5)
        among = _count_reached(images.scores, levels)
        wrong = _count_reached(images.scores[images.wrong], levels)
        chances[place] = scipy.special.bdtr(wrong, among, images.limit)
    with np.errstate(divide="ignore"):
        logs = np.log(chances).round(DIGITS)  # whatever their last digits
    count = answered.ravel()
    order = np.lexsort((-count, logs.max(axis=0).ravel()))
    most_before = np.maximum.accumulate(np.append(0, count[order]))[:-1]
    places = np.unravel_index(order[count[order] > most_before], answered.shape)
    best = np.stack(places, axis=1)
    first, second = np.concatenate([_tighten(best[0], logs, answered), best]).T
    return np.stack([levels[0][first], levels[1][second]], axis=1)


def _tighten(place: IntArray, logs: FloatArray, answered: IntArray) -> IntArray:
    """The way to a pair of levels from the strictest one that shows each limit as well, `[k, 2]`.

    As well is a p-value that is no larger, or below `CLEAR`. Both levels are higher at its start,
    and fall in equal steps.

    Args:
        place: the pair.
        logs: the logarithms of the p-values of each limit at each pair of levels.
        answered: how many images each pair answers.
    """
    first, second = place
    enough = np.maximum(logs[:, first, second], np.log(CLEAR))
    is_safe = np.asarray((logs <= enough[:, None, None]).all(axis=0))
    higher = is_safe[first:, second:]
    fewest = np.where(higher, answered[first:, second:], answered.max() + 1)
    # Of pairs that answer equally few, the highest.
    strictest = np.flatnonzero(fewest.ravel() == fewest.min())[-1]
    above = np.array(np.unravel_index(strictest, fewest.shape))
    steps = np.arange(above.max(), 0, -1)
    way = place + np.ceil(np.outer(steps / max(above.max(), 1), above)).astype(np.int64)
    return np.asarray(way[is_safe[tuple(way.T)]])


def _place_levels(column: FloatArray) -> FloatArray:
    """Thresholds a hundredth of the images apart, ascending, from the lowest score on."""
    n = len(column)
    places = np.unique(np.ceil(np.arange(1, STEPS + 1) * n / STEPS).astype(np.int64)) - 1
    return np.unique(np.sort(column)[::-1][places])


def _count_reached(scores: FloatArray, levels: Sequence[FloatArray]) -> IntArray:
    """How many images reach each pair of levels, `[first levels, second levels]`."""
    shape = tuple(len(own) for own in levels)
    places = [
        np.searchsorted(own, column, side="right") - 1
        for own, column in zip(levels, scores.T, strict=True)
    ]
    inside = (places[0] >= 0) & (places[1] >= 0)
    pairs = places[0][inside] * shape[1] + places[1][inside]
    counts = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    return np.asarray(counts[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1])


def is_answered_within(
    confidence: ArrayLike,
    predicted: ArrayLike,
    probabilities: FloatArray | None,
    threshold: float,
    ceilings: ArrayLike,
) -> BoolArray:
    """Tell which images are answered, given ceilings for the probabilities of other classes.

    Args:
        confidence: float `[n]`.
        predicted: int `[n]`, the class of the answer.
        probabilities: float64 `[n, classes]`; None if no class has a ceiling.
        threshold: the smallest confidence that is answered.
        ceilings: float `[classes]`, the largest probability of each class where the answer is
            another class; 1 for a class without a ceiling.

    >>> p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> is_answered_within(p.max(axis=1), p.argmax(axis=1), p, 0.5, np.array([1, 0.3])).tolist()
    [True, False, True]
    """
    answered = as_numbers(confidence) >= threshold
    if probabilities is not None:
        within = probabilities <= np.asarray(ceilings, dtype=np.float64)
        within[np.arange(len(within)), np.asarray(predicted)] = True
        answered &= within.all(axis=1)
    return np.asarray(answered)

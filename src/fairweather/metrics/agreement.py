"""How often people and models say the same of the same images, and how much more than by chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    ROUNDING,
    FloatArray,
    IntArray,
    Result,
    Weights,
    as_result,
    as_rows,
    blocks,
    ratio,
)
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.metrics.intervals import (
    COUNTS_AT_ONCE,
    Estimate,
    exact_interval,
    to_score,
    widen_for_groups,
)
from fairweather.metrics.sample import draw_counts
from fairweather.types.measurement import UNKNOWN, Score

SIGNED = (-1.0, 1.0)


def agreement_kappa(first: IntArray, second: IntArray, weights: Weights = None) -> Result:
    """Cohen's kappa of two raters: agreement beyond that of independent ones, as a share.

    It is 1 − (share that differ) / (the share if the two were independent). If one call is rare,
    kappa is low even of raters who nearly always agree.

    Args:
        first, second: int `[n]`, the calls, each at least 0.
        weights: how often each image counts, `[n]` or `[B, n]`.

    Returns:
        A number, or `[B]`; NaN where both raters have called everything the same.

    Source: Cohen 1960, A Coefficient of Agreement for Nominal Scales.

    >>> agreement_kappa(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))
    0.5
    """
    return as_result(_beyond_chance(*_kappa_parts(first, second, weights)), weights)


def _kappa_parts(
    first: IntArray, second: IntArray, weights: Weights = None
) -> tuple[FloatArray, FloatArray]:
    """The share of images that two raters call differently, and the share by chance, `[B]` each."""
    rows = as_rows(weights, len(first))
    calls, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    sides = places.reshape(2, -1)[:, :, None] == np.arange(len(calls))
    total = rows.sum(axis=1)
    alike = ratio(((rows @ sides[0]) * (rows @ sides[1])).sum(axis=1), total**2)
    return ratio(rows @ (first != second), total), 1 - alike


def _beyond_chance(differing: FloatArray, by_chance: FloatArray) -> FloatArray:
    return 1 - ratio(differing, np.where(by_chance > ROUNDING, by_chance, np.nan))


def krippendorff_alpha(calls: IntArray, weights: Weights = None) -> Result:
    """Krippendorff's alpha of several raters, some of whose calls may be missing.

    It is 1 − (share of pairs of calls for one image that differ) / (the share among all calls).
    With no call missing it is Fleiss' kappa but for a term of one over the number of calls.

    Args:
        calls: int `[n, R]`, each at least 0, or `UNKNOWN`.
        weights: how often each image counts, `[n]` or `[B, n]`.

    Returns:
        A number, or `[B]`; NaN where no image has two calls, or all calls are the same.

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, for nominal data.

    >>> round(krippendorff_alpha(np.array([[0, 0], [1, 1], [0, 1], [1, UNKNOWN]])), 3)
    0.444
    """
    return as_result(_beyond_chance(*_alpha_parts(calls, weights)), weights)


def _alpha_parts(calls: IntArray, weights: Weights = None) -> tuple[FloatArray, FloatArray]:
    """The share of pairs of calls for an image that differ, and that of all pairs, `[B]` each."""
    rows = as_rows(weights, len(calls))
    names = np.unique(calls[calls != UNKNOWN])
    counts = (calls[:, :, None] == names).sum(axis=1).astype(np.float64)  # [n, calls]
    raters = counts.sum(axis=1)
    paired = raters >= 2
    counts, raters, rows = counts[paired], raters[paired], rows[:, paired]
    differing = (raters**2 - (counts**2).sum(axis=1)) / (raters - 1)
    totals, number = rows @ counts, rows @ raters
    by_chance = ratio(number**2 - (totals**2).sum(axis=1), number * (number - 1))
    return ratio(rows @ differing, number), by_chance


def score_agreement(
    first: IntArray,
    second: IntArray,
    resamples: int = 1000,
    grouping: Grouping | None = None,
    seed: int = 0,
) -> tuple[Score, Score]:
    """The share of images that two raters call the same, and Cohen's kappa, with 95 % intervals.

    Images that one of them has not called are left out.

    Args:
        first, second: int `[n]`, the calls, each at least 0, or `UNKNOWN`.
        resamples, grouping, seed: as in `draw_counts`.

    Raises `InputError` if no image is called by both.

    >>> share, kappa = score_agreement(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]), 100)
    >>> share.value, kappa.value, kappa.n
    (0.75, 0.5, 4)
    """
    both = (first != UNKNOWN) & (second != UNKNOWN)
    if not both.any():
        raise InputError("no image is called by both raters")
    a, b = first[both], second[both]
    own = grouping and grouping.select(np.flatnonzero(both))
    alike = a == b
    low, high = share_interval(alike, np.zeros(len(a), np.int64), 1, own)
    share = Score(float(alike.mean()), float(low[0]), float(high[0]), len(a))
    weights = draw_counts(len(first), resamples, seed, grouping)[:, both]
    drawn = np.concatenate([agreement_kappa(a, b, part) for part in _parts(weights)])
    return share, _score(_kappa_parts(a, b), drawn, len(a), own)


def score_alpha(
    calls: IntArray, resamples: int = 1000, grouping: Grouping | None = None, seed: int = 0
) -> Score:
    """Krippendorff's alpha with its 95 % interval over images.

    Args:
        calls: int `[n, R]`, as in `krippendorff_alpha`.
        resamples, grouping, seed: as in `draw_counts`.

    >>> round(score_alpha(np.array([[0, 0], [1, 1], [0, 1], [1, 1]]), 100).value, 3)
    0.533
    """
    paired = (calls != UNKNOWN).sum(axis=1) >= 2
    weights = draw_counts(len(calls), resamples, seed, grouping)
    drawn = np.concatenate([krippendorff_alpha(calls, part) for part in _parts(weights)])
    own = grouping and grouping.select(np.flatnonzero(paired))
    return _score(_alpha_parts(calls), drawn, int(paired.sum()), own)


def _parts(weights: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    return (weights[rows] for rows in blocks(len(weights), weights.shape[1], COUNTS_AT_ONCE))


def _score(
    parts: tuple[FloatArray, FloatArray], drawn: FloatArray, n: int, grouping: Grouping | None
) -> Score:
    value = float(_beyond_chance(*parts)[0])
    estimate = widen_for_groups(Estimate(value, drawn, n, "skewed"), grouping)
    if not value >= 1:
        return to_score(estimate, SIGNED)
    # Resamples of images that are called alike are called alike: the interval is that of a share.
    low, _ = exact_interval(1.0, estimate.units)
    return Score(value, max(1 - (1 - low) / float(parts[1][0]), -1.0), 1.0, n)

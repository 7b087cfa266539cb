"""Does the model's confidence separate images of its own data set from those of another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray, Result, as_rows, check_columns
from fairweather.metrics.intervals import BLOCK, Estimate, of_clusters, to_score
from fairweather.metrics.ordered import LevelSums, as_confidence, level_sums, rank_area
from fairweather.metrics.sample import draw_counts
from fairweather.types import Score

# More distinct confidences than this are binned before they are resampled; see `detection_score`.
BINS = 2000
RECALL = 0.95


def detection_auroc(
    confidence_in: npt.ArrayLike,
    confidence_out: npt.ArrayLike,
    weights_in: npt.ArrayLike | None = None,
    weights_out: npt.ArrayLike | None = None,
) -> Result:
    """Probability that the model is more confident on a known image than on one of another set.

    It is in [0, 1]; ties count half. It is 0.5 if the confidence does not separate the two sets.

    Args:
        confidence_in: float `[n]`, on images of the known data set; larger means more confident;
            no NaN.
        confidence_out: float `[m]`, on images of the other data set.
        weights_in: how often each known image counts, `[n]` or `[B, n]`.
        weights_out: the same for the other images, `[m]` or `[B, m]`. If either is 2-D, the result
            is `[B]`.

    Source: Hendrycks and Gimpel 2017, A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks, section 3.

    >>> detection_auroc([0.9, 0.8, 0.5], [0.6, 0.5])
    0.75
    """
    levels = _both(confidence_in, confidence_out, weights_in, weights_out)
    return _as_result(rank_area(levels), weights_in, weights_out)


def false_positive_rate_at(
    confidence_in: npt.ArrayLike,
    confidence_out: npt.ArrayLike,
    weights_in: npt.ArrayLike | None = None,
    weights_out: npt.ArrayLike | None = None,
    *,
    recall: float = RECALL,
) -> Result:
    """Share of the other images that are accepted when `recall` of the known ones are, in [0, 1].

    An image is accepted if its confidence is at or above a threshold. The threshold is the largest
    confidence that accepts at least the share `recall` of the known images. Lower is better; the
    value is about `recall` if the confidence does not separate the two sets.

    Args:
        confidence_in: float `[n]`, on images of the known data set; larger means more confident;
            no NaN.
        confidence_out: float `[m]`, on images of the other data set.
        weights_in: how often each known image counts, `[n]` or `[B, n]`. With whole numbers, the
            recall is compared exactly: 19 of 20 is a recall of at least 0.95.
        weights_out: the same for the other images, `[m]` or `[B, m]`. If either is 2-D, the result
            is `[B]`.
        recall: the share of the known images to accept, in (0, 1].

    Source: Liang et al. 2018, Enhancing the Reliability of Out-of-distribution Image Detection in
    Neural Networks, section 4.3.

    >>> false_positive_rate_at([0.9, 0.8, 0.5], [0.6, 0.5], recall=0.6)
    0.0
    >>> false_positive_rate_at([0.9, 0.8, 0.5], [0.6, 0.5], recall=0.95)
    1.0
    """
    levels = _both(confidence_in, confidence_out, weights_in, weights_out)
    return _as_result(_passing(levels, recall), weights_in, weights_out)


def detection_score(
    confidence_in: npt.ArrayLike,
    confidence_out: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> dict[str, Score]:
    """Compute both detection metrics, with 95 % bootstrap intervals over both sets of images.

    Both sets are resampled, independently of each other and of every other score. The values are
    exact. With more than 2,000 distinct confidences, the resamples use 2,000 bins with equal shares
    of the two sets. Pairs in one bin then count as ties: this changes a replicate's AUROC by less
    than 0.001, and raises its false positive rate by less than 0.003. If all resamples are the
    same, as at an AUROC of exactly 1, the interval of the AUROC has no width, and the interval of
    the rate is Clopper and Pearson's.

    Args:
        confidence_in: float `[n]`, on images of the known data set; larger means more confident;
            no NaN.
        confidence_out: float `[m]`, on images of the other data set.
        resamples: how many resamples, at least 1.
        seed: seed of the resampling.
        clusters: which of the known images belong together; these are resampled together.

    Returns:
        `detection_auroc` and `false_positive_rate_at_recall/0.95`; `n` of each is the number of
        images of both sets together.

    >>> scores = detection_score([0.9, 0.8, 0.7, 0.5], [0.6, 0.5])
    >>> scores["detection_auroc"].value, scores["detection_auroc"].n
    (0.8125, 6)
    """
    if resamples < 1:
        raise InputError(f"cannot resample {resamples} times: it must be at least 1")
    exact = _both(confidence_in, confidence_out)
    known, others = np.size(confidence_in), np.size(confidence_out)
    if clusters is None:
        drawn = _resampled(_binned(exact), resamples, seed)
        areas, rates = rank_area(drawn), _passing(drawn, RECALL)
    else:
        of = np.asarray(confidence_in), np.asarray(confidence_out)
        areas, rates = _of_resampled_clusters(*of, clusters, resamples, seed)
    # The rate is a share of the other images, so they are the n of its exact interval.
    estimates = {
        "detection_auroc": Estimate(
            float(rank_area(exact)[0]), areas, known + others, "percentile"
        ),
        f"false_positive_rate_at_recall/{RECALL}": Estimate(
            float(_passing(exact, RECALL)[0]), rates, others, "bounded"
        ),
    }
    if clusters is not None:
        estimates = {name: of_clusters(each, clusters) for name, each in estimates.items()}
        if clusters.count > 1:  # the rate is a share of the other images, which are independent
            rate = f"false_positive_rate_at_recall/{RECALL}"
            estimates[rate] = replace(estimates[rate], clusters=None)
    return {
        name: to_score(estimate, (0.0, 1.0))._replace(n=known + others)
        for name, estimate in estimates.items()
    }


def _both(
    confidence_in: npt.ArrayLike,
    confidence_out: npt.ArrayLike,
    weights_in: npt.ArrayLike | None = None,
    weights_out: npt.ArrayLike | None = None,
) -> LevelSums:
    """Count the known images as right and the others as wrong, at each distinct confidence."""
    n = check_columns(confidence_in=confidence_in)
    m = check_columns(confidence_out=confidence_out)
    rows_in, rows_out = as_rows(weights_in, n), as_rows(weights_out, m)
    resamples = max(len(rows_in), len(rows_out))
    if {len(rows_in), len(rows_out)} - {1, resamples}:
        raise InputError(
            "weights_in and weights_out must have the same number of rows, "
            f"found {len(rows_in)} and {len(rows_out)}"
        )
    rows = np.concatenate(
        [np.broadcast_to(rows_in, (resamples, n)), np.broadcast_to(rows_out, (resamples, m))],
        axis=1,
    )
    sure = [
        as_confidence(confidence_in, "confidence_in"),
        as_confidence(confidence_out, "confidence_out"),
    ]
    return level_sums(np.concatenate(sure), np.arange(n + m) < n, rows)


def _as_result(
    values: FloatArray, weights_in: npt.ArrayLike | None, weights_out: npt.ArrayLike | None
) -> Result:
    flat = np.ndim(weights_in) < 2 and np.ndim(weights_out) < 2  # type: ignore[arg-type]
    return float(values[0]) if flat else values


def _passing(levels: LevelSums, recall: float) -> FloatArray:
    """Share of the wrong images at or above a level, `[B]`.

    The level is the highest one at or above which at least `recall` of the right images are.
    """
    # NaN fails the comparison too.
    if not 0 < recall <= 1:
        raise InputError(f"recall must be a share of images in (0, 1], found {recall}")
    wrong = levels.wrong[:, -1:] - levels.wrong[:, :-1]
    right = levels.answered - wrong
    # All right images are at or above the lowest level, and never more at or above a higher one.
    highest = (right / right[:, :1] >= recall).sum(axis=1, keepdims=True) - 1
    return np.take_along_axis(wrong / wrong[:, :1], highest, axis=1)[:, 0]


def _counts(levels: LevelSums) -> tuple[FloatArray, FloatArray]:
    """The wrong and the right images of each level, the most confident first, `[levels]` each."""
    images, wrong = (np.diff(column[0])[::-1] for column in (levels.images, levels.wrong))
    return wrong, images - wrong


def _binned(levels: LevelSums) -> LevelSums:
    """Join neighbouring levels into `BINS` bins with equal shares; each set counts half."""
    wrong, right = _counts(levels)
    if len(wrong) <= BINS:
        return levels
    shares = wrong / wrong.sum() + right / right.sum()
    middle = (np.cumsum(shares) - shares / 2) / 2
    _, starts = np.unique(np.minimum((middle * BINS).astype(int), BINS - 1), return_index=True)
    edges = np.append(0, len(wrong) - starts[::-1])
    return LevelSums(levels.images[:, edges], levels.wrong[:, edges])


def _of_resampled_clusters(
    known: FloatArray, others: FloatArray, clusters: Clusters, resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Both metrics on resampled clusters of the known images and on resampled other images."""
    of_known = draw_counts(len(known), resamples, seed, clusters)
    of_others = draw_counts(len(others), resamples, seed + 1)
    step = max(1, BLOCK // (len(known) + len(others)))
    areas, rates = [], []
    for at in range(0, resamples, step):
        rows = slice(at, at + step)
        levels = _both(known, others, of_known[rows], of_others[rows])
        areas.append(rank_area(levels))
        rates.append(_passing(levels, RECALL))
    return np.concatenate(areas), np.concatenate(rates)


def _resampled(levels: LevelSums, resamples: int, seed: int) -> LevelSums:
    # Drawing the counts of each level is the same as drawing n images, and far cheaper.
    generator = np.random.default_rng(seed)
    wrong, right = (
        generator.multinomial(int(counts.sum()), counts / counts.sum(), resamples)[:, ::-1]
        for counts in _counts(levels)
    )
    below = (
        np.pad(np.cumsum(counts, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        for counts in (wrong + right, wrong)
    )
    return LevelSums(*below)

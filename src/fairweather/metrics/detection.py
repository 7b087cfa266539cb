"""Does the model's confidence separate images of its own data set from those of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray, Result, as_result, as_rows, check_columns
from fairweather.metrics.intervals import BLOCK, Estimate, of_clusters, to_score
from fairweather.metrics.metric import MetricRow, by_name
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
    return as_result(rank_area(levels), weights_in, weights_out)


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
    return as_result(_passing(levels, recall), weights_in, weights_out)


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
        drawn: Iterable[LevelSums] = [_resampled(_binned(exact), resamples, seed)]
    else:
        of = np.asarray(confidence_in), np.asarray(confidence_out)
        drawn = _resampled_clusters(*of, clusters, resamples, seed)
    rows = DETECTION.values()
    found = [[row.evaluate(levels) for row in rows] for levels in drawn]
    scores = {}
    for row, blocks in zip(rows, zip(*found, strict=True), strict=True):
        # A share of the other images, which are independent, has their number in its interval.
        n = others if row.of_others else known + others
        value, replicates = float(row.evaluate(exact)[0]), np.concatenate(blocks)
        estimate = Estimate(value, replicates, n, row.interval)
        if clusters is not None:
            estimate = of_clusters(estimate, clusters)
            if row.of_others and clusters.count > 1:
                estimate = replace(estimate, clusters=None)
        scores[row.name] = to_score(estimate, row.bounds)._replace(n=known + others)
    return scores


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
    known = as_confidence(confidence_in, "confidence_in")
    others = as_confidence(confidence_out, "confidence_out")
    return level_sums(np.concatenate([known, others]), np.arange(n + m) < n, rows)


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


def _resampled_clusters(
    known: FloatArray, others: FloatArray, clusters: Clusters, resamples: int, seed: int
) -> Iterator[LevelSums]:
    """The levels of resampled clusters of the known images and of resampled other images."""
    of_known = draw_counts(len(known), resamples, seed, clusters)
    of_others = draw_counts(len(others), resamples, seed + 1)
    step = max(1, BLOCK // (len(known) + len(others)))
    for at in range(0, resamples, step):
        rows = slice(at, at + step)
        yield _both(known, others, of_known[rows], of_others[rows])


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


@dataclass(frozen=True)
class Detection(MetricRow):
    """A metric of the confidence on known images and on those of another set.

    Attributes:
        evaluate: from the levels of confidence, on which known images count as right and the others
            as wrong, to `[B]`.
        what: its label where another score takes the place of the confidence.
        of_others: is it a share of the other images.
    """

    evaluate: Callable[[LevelSums], FloatArray]
    what: str
    of_others: bool = False


DETECTION: dict[str, Detection] = by_name(
    Detection(
        "detection_auroc",
        "AUROC of confidence for detecting another data set",
        "probability that a clean test image is more confident than one of the other data set; "
        "ties count half. Behind a slash, another score takes the place of the confidence",
        rank_area,
        "AUROC",
        higher_is_better=True,
    ),
    Detection(
        f"false_positive_rate_at_recall/{RECALL}",
        "False positive rate at 95 % recall, for another data set",
        "share of the other data set's images at or above the confidence that this share of the "
        "clean test images reaches. Behind a slash, another score takes its place",
        partial(_passing, recall=RECALL),
        "False positive rate at 95 % recall",
        of_others=True,
        higher_is_better=False,
        interval="bounded",
    ),
)

"""Scores that separate images of another data set from known ones, and how well they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    FloatArray,
    LevelSums,
    Result,
    Weights,
    as_numbers,
    as_result,
    as_rows,
    blocks,
    check_columns,
    check_rows,
    level_sums,
    rank_area,
    softmax,
)
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import COUNTS_AT_ONCE, Estimate, to_score, widen_for_groups
from fairweather.metrics.metric import MetricRow, index_by_name
from fairweather.metrics.sample import draw_counts
from fairweather.metrics.two_sample import euclidean_distances
from fairweather.types.measurement import Score

# The authors store as little as 1 % of the training images (for ImageNet), with k about a
# thousandth of their number.
NEIGHBOURS = 5
MOST_FEATURES = 5_000
DISTANCES_AT_ONCE = 2**24  # distances that are in memory at once


def max_logit(logits: ArrayLike) -> FloatArray:
    """The largest logit of each image, `[n]`; larger for known images.

    Adding a constant to all logits of an image changes it, though not the probabilities.

    Args:
        logits: float `[n, classes]`, finite.

    Source: Hendrycks et al. 2022, Scaling Out-of-Distribution Detection for Real-World Settings,
    section 3.

    >>> max_logit([[2.0, 0.0], [-1.0, -3.0]])
    array([ 2., -1.])
    """
    return np.asarray(check_rows(logits).max(axis=1))


def energy(logits: ArrayLike) -> FloatArray:
    """Minus the logarithm of the sum of the exponentials of the logits, `[n]`; smaller if known.

    Adding a constant to all logits of an image subtracts it here, though the probabilities stay. So
    it needs the network's own logits: for logarithms of probabilities it is 0.

    Args:
        logits: float `[n, classes]`, finite.

    Source: Liu et al. 2020, Energy-based Out-of-distribution Detection, equation 4, at a
    temperature of 1.

    >>> energy([[0.0, 0.0], [1000.0, 0.0]]).round(3).tolist()
    [-0.693, -1000.0]
    """
    return np.asarray(-scipy.special.logsumexp(check_rows(logits), axis=1))


def softmax_entropy(logits: ArrayLike) -> FloatArray:
    """Entropy of the probabilities of each image, in nats, `[n]`; smaller for known images.

    It is in [0, ln classes], and adding a constant to all logits of an image does not change it.

    Args:
        logits: float `[n, classes]`, finite.

    Source: Shannon 1948, A Mathematical Theory of Communication, section 6.

    >>> softmax_entropy([[0.0, 0.0], [1000.0, 0.0]]).round(3)
    array([0.693, 0.   ])
    """
    return np.asarray(scipy.special.entr(softmax(logits)).sum(axis=1))


def knn_distance(features: ArrayLike, known: ArrayLike, k: int = NEIGHBOURS) -> FloatArray:
    """Distance of each image to the k-th nearest known image in the space of features, `[n]`.

    Features are divided by their length, so that the distance is in [0, 2], and smaller for known
    images. A feature of length 0 stays 0, at a distance of 1 from all others.

    Args:
        features: float `[n, D]`, finite, the input of the network's last layer.
        known: float `[m, D]`, the same of known images, at least one.
        k: which neighbour; the farthest one if there are fewer.

    Source: Sun et al. 2022, Out-of-Distribution Detection with Deep Nearest Neighbors, section 3.

    >>> knn_distance([[2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], k=2).round(3)
    array([1.414])
    """
    ours, theirs = _normalise(features, "features"), _normalise(known, "known features")
    if ours.shape[1] != theirs.shape[1]:
        raise InputError(f"features have {ours.shape[1]} numbers, known ones {theirs.shape[1]}")
    if k < 1:
        raise InputError(f"the neighbour must be the first or a later one, found {k}")
    place = min(k, len(theirs)) - 1
    parts = (ours[rows] for rows in blocks(len(ours), len(theirs), DISTANCES_AT_ONCE))
    apart = (euclidean_distances(part, theirs) for part in parts)
    return np.concatenate([np.partition(part, place, axis=1)[:, place] for part in apart])


def _normalise(features: ArrayLike, name: str) -> FloatArray:
    rows = check_rows(features, name, "D", "numbers")
    largest = np.abs(rows).max(axis=1, keepdims=True)  # so that no square is too large or small
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


class OodInputs(NamedTuple):
    """The outputs of a network for some images, and its features of known ones."""

    logits: ArrayLike
    """Float `[n, classes]`."""

    features: ArrayLike | None = None
    """Float `[n, D]`, what its last layer sees; None if that is not linear."""

    known: ArrayLike | None = None
    """Float `[m, D]`, the same of known images; None if there are none."""


class OodScore(NamedTuple):
    """A row of `OOD_SCORES`."""

    label: str
    """What it is called in tables."""

    compute: Callable[[OodInputs], FloatArray | None]
    """Gives the score of each image; None where it needs features and there are none."""

    larger_if_known: bool
    """Whether it is larger for known images."""

    of_raw_logits: bool
    """Whether it says nothing of logits that are the logarithms of probabilities."""

    def as_confidence(self, score: ArrayLike) -> FloatArray:
        """The score with the sign that makes it larger for known images."""
        values = np.asarray(score, dtype=np.float64)
        return values if self.larger_if_known else -values


def _neighbour_distance(inputs: OodInputs) -> FloatArray | None:
    if inputs.features is None or inputs.known is None:
        return None
    return knn_distance(inputs.features, inputs.known)


OOD_SCORES: Mapping[str, OodScore] = {
    "max_logit": OodScore("largest logit", lambda inputs: max_logit(inputs.logits), True, True),
    "energy": OodScore("energy", lambda inputs: energy(inputs.logits), False, True),
    "entropy": OodScore("entropy", lambda inputs: softmax_entropy(inputs.logits), False, False),
    "knn": OodScore("k-NN distance", _neighbour_distance, False, False),
}


def compute_ood_scores(inputs: OodInputs) -> dict[str, NDArray[np.float32]]:
    """Compute the available scores of `OOD_SCORES`, float32 `[n]`, by name.

    >>> list(compute_ood_scores(OodInputs([[2.0, 0.0]])))
    ['max_logit', 'energy', 'entropy']
    """
    scores = {name: row.compute(inputs) for name, row in OOD_SCORES.items()}
    return {name: score.astype(np.float32) for name, score in scores.items() if score is not None}


# --- How well a score separates two sets of images ---

# More distinct confidences than this are binned before they are resampled; see `detection_score`.
MOST_LEVELS = 2000
RECALL = 0.95


def detection_auroc(
    confidence_in: ArrayLike,
    confidence_out: ArrayLike,
    weights_in: Weights = None,
    weights_out: Weights = None,
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
    levels = _joint_levels(confidence_in, confidence_out, weights_in, weights_out)
    return as_result(rank_area(levels), weights_in, weights_out)


def false_positive_rate_at(
    confidence_in: ArrayLike,
    confidence_out: ArrayLike,
    weights_in: Weights = None,
    weights_out: Weights = None,
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
    levels = _joint_levels(confidence_in, confidence_out, weights_in, weights_out)
    return as_result(_false_positive_rate(levels, recall), weights_in, weights_out)


def detection_score(
    confidence_in: ArrayLike,
    confidence_out: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    grouping: Grouping | None = None,
) -> dict[str, Score]:
    """Compute both detection metrics, with 95 % bootstrap intervals over both sets of images.

    Both sets are resampled, independently of each other and of every other score. The values are
    exact. With more than 2,000 distinct confidences, the resamples use 2,000 bins with equal shares
    of the two sets. Pairs in one bin then count as ties. This changes a replicate's AUROC by less
    than 0.001, and raises its false positive rate by less than 0.003. If all resamples are the
    same, as at an AUROC of exactly 1, the AUROC's interval has no width. The interval of the rate
    is then Clopper and Pearson's.

    Args:
        confidence_in: float `[n]`, on images of the known data set; larger means more confident;
            no NaN.
        confidence_out: float `[m]`, on images of the other data set.
        resamples: how many resamples, at least 1.
        seed: seed of the resampling.
        grouping: which of the known images belong together; these are resampled together.

    Returns:
        `detection_auroc` and `false_positive_rate_at_recall/0.95`; `n` of each is the number of
        images of both sets together.

    >>> scores = detection_score([0.9, 0.8, 0.7, 0.5], [0.6, 0.5])
    >>> scores["detection_auroc"].value, scores["detection_auroc"].n
    (0.8125, 6)
    """
    if resamples < 1:
        raise InputError(f"cannot resample {resamples} times: it must be at least 1")
    exact = _joint_levels(confidence_in, confidence_out)
    known, others = np.size(confidence_in), np.size(confidence_out)
    if grouping is None:
        drawn: Iterable[LevelSums] = [_resample_levels(_merge_levels(exact), resamples, seed)]
    else:
        sets = np.asarray(confidence_in), np.asarray(confidence_out)
        drawn = _resample_groups(*sets, grouping, resamples, seed)
    rows = DETECTION_METRICS.values()
    parts = [[row.evaluate(levels) for row in rows] for levels in drawn]
    scores = {}
    for row, drawn_values in zip(rows, zip(*parts, strict=True), strict=True):
        # The share of the other images, which are independent, uses their number in its interval.
        n = others if row.of_others else known + others
        value, replicates = float(row.evaluate(exact)[0]), np.concatenate(drawn_values)
        estimate = widen_for_groups(Estimate(value, replicates, n, row.interval), grouping)
        if grouping is not None and row.of_others and grouping.count > 1:
            estimate = replace(estimate, groups=None)
        scores[row.name] = to_score(estimate, row.bounds)._replace(n=known + others)
    return scores


def _joint_levels(
    confidence_in: ArrayLike,
    confidence_out: ArrayLike,
    weights_in: Weights = None,
    weights_out: Weights = None,
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
    sides = np.broadcast_to(rows_in, (resamples, n)), np.broadcast_to(rows_out, (resamples, m))
    rows = np.concatenate(sides, axis=1)
    known = as_numbers(confidence_in, "confidence_in")
    others = as_numbers(confidence_out, "confidence_out")
    return level_sums(np.concatenate([known, others]), np.arange(n + m) < n, rows)


def _false_positive_rate(levels: LevelSums, recall: float) -> FloatArray:
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


def _level_counts(levels: LevelSums) -> tuple[FloatArray, FloatArray]:
    """The wrong and the right images of each level, the most confident first, `[levels]` each."""
    images, wrong = (np.diff(column[0])[::-1] for column in (levels.images, levels.wrong))
    return wrong, images - wrong


def _merge_levels(levels: LevelSums) -> LevelSums:
    """Join neighbouring levels into `MOST_LEVELS` bins with equal shares; each set counts half."""
    wrong, right = _level_counts(levels)
    if len(wrong) <= MOST_LEVELS:
        return levels
    shares = wrong / wrong.sum() + right / right.sum()
    middle = (np.cumsum(shares) - shares / 2) / 2
    place = np.minimum((middle * MOST_LEVELS).astype(int), MOST_LEVELS - 1)
    _, starts = np.unique(place, return_index=True)
    edges = np.append(0, len(wrong) - starts[::-1])
    return LevelSums(levels.images[:, edges], levels.wrong[:, edges])


def _resample_groups(
    known: FloatArray, others: FloatArray, grouping: Grouping, resamples: int, seed: int
) -> Iterator[LevelSums]:
    """The levels of resampled groups of the known images and of resampled other images."""
    of_known = draw_counts(len(known), resamples, seed, grouping)
    of_others = draw_counts(len(others), resamples, seed + 1)
    for rows in blocks(resamples, len(known) + len(others), COUNTS_AT_ONCE):
        yield _joint_levels(known, others, of_known[rows], of_others[rows])


def _resample_levels(levels: LevelSums, resamples: int, seed: int) -> LevelSums:
    # Drawing the counts of each level is the same as drawing n images, and far cheaper.
    generator = np.random.default_rng(seed)
    wrong, right = (
        generator.multinomial(int(counts.sum()), counts / counts.sum(), resamples)[:, ::-1]
        for counts in _level_counts(levels)
    )
    below = (
        np.pad(np.cumsum(counts, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        for counts in (wrong + right, wrong)
    )
    return LevelSums(*below)


@dataclass(frozen=True)
class DetectionMetric(MetricRow):
    """A metric of the confidence on known images and on those of another set."""

    evaluate: Callable[[LevelSums], FloatArray]
    """From the levels of confidence, on which known images count as right and the others as wrong,
    to `[B]`."""

    short_label: str
    """Its label where another score takes the place of the confidence."""

    of_others: bool = False
    """Whether it is a share of the other images."""


DETECTION_METRICS: dict[str, DetectionMetric] = index_by_name(
    DetectionMetric(
        "detection_auroc",
        "AUROC of confidence for detecting another data set",
        "probability that a clean test image is more confident than one of the other data set; "
        "ties count half. Behind a slash, another score takes the place of the confidence",
        rank_area,
        "AUROC",
        higher_is_better=True,
    ),
    DetectionMetric(
        f"false_positive_rate_at_recall/{RECALL}",
        "False positive rate at 95 % recall, for another data set",
        "share of the other data set's images at or above the confidence that this share of the "
        "clean test images reaches. Behind a slash, another score takes its place",
        partial(_false_positive_rate, recall=RECALL),
        "False positive rate at 95 % recall",
        of_others=True,
        higher_is_better=False,
        interval="bounded",
    ),
)

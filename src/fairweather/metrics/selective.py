"""Thresholds of confidence: which images are answered, and how accurate is the model unseen.

Selective prediction answers the most confident images and hands the others to a person; the same
threshold, chosen otherwise, estimates an accuracy without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    FloatArray,
    Result,
    as_result,
    as_rows,
    check_columns,
    ratio,
    weighted_mean,
    wilson_interval,
)
from fairweather.metrics.ordered import LevelSums, as_confidence, level_sums, rank_area
from fairweather.types import Predictions, Score

# The share of wrong answers that a threshold is chosen to keep.
RISK = 0.05


class RiskCoverage(NamedTuple):
    """What is risked by answering so much, one point a distinct confidence, the largest first.

    Attributes:
        threshold: float64 `[points]`, the smallest confidence that is answered; falls.
        coverage: float64 `[points]`, the share of the images that is answered, in (0, 1]; rises
            to 1.
        risk: float64 `[points]`, the share of the answers that is wrong, in [0, 1].
    """

    threshold: FloatArray
    coverage: FloatArray
    risk: FloatArray


def risk_coverage_curve(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> RiskCoverage:
    """Say, for every confidence, what is risked by answering all images at least as confident.

    Images of equal confidence cannot be told apart by it, so they are answered together.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.

    Source: El-Yaniv and Wiener 2010, On the Foundations of Noise-free Selective Classification,
    section 2.

    >>> curve = risk_coverage_curve([0.9, 0.8, 0.8, 0.5], [True, True, False, False])
    >>> curve.threshold.tolist(), curve.coverage.tolist(), curve.risk.round(2).tolist()
    ([0.9, 0.8, 0.5], [0.25, 0.75, 1.0], [0.0, 0.33, 0.5])
    """
    levels = level_sums(confidence, correct)
    coverage, risk = levels.answered[0] / levels.images[0, -1], levels.risk[0]
    return RiskCoverage(np.unique(as_confidence(confidence))[::-1], coverage[::-1], risk[::-1])


def area_under_risk_coverage(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Result:
    """Mean over images of the risk among those at least as confident, in [0, 1]; lower is better.

    This is the area under the step function of `risk_coverage_curve`. Images of equal confidence
    are among each other's "at least as confident", so no order among them matters, and an image
    that counts twice is two images. A model that is as often wrong at every confidence has its
    error rate for an area; one that is surest where it is right has less.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Without ties it is the mean of the running error rates of Geifman, Uziel and El-Yaniv 2019,
    Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, section 2. Libraries that join
    the points by straight lines differ: by less than 1/(n - 1) without ties, and more with them.

    >>> area_under_risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, False])
    0.20833333333333331
    """
    return as_result(risk_area(level_sums(confidence, correct, weights)), weights)


def coverage_at_risk(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    risk: float = 0.05,
) -> Result:
    """Largest share of images that can be answered at a risk of at most `risk`, in [0, 1].

    It is 0 where even the surest images are wrong more often. The threshold is chosen on the very
    images that are judged: an upper bound of what a threshold chosen beforehand reaches, for which
    see `threshold_at_risk` and `coverage_above`.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`. Of whole
            numbers, the risk is compared exactly: 1 wrong of 20 is a risk of at most 0.05.
        risk: the largest share of wrong answers, in [0, 1].

    Source: Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks, section 2.

    >>> coverage_at_risk([0.9, 0.8, 0.7, 0.6], [True, True, False, False], risk=0.4)
    0.75
    """
    return as_result(largest_coverage(level_sums(confidence, correct, weights), risk), weights)


def confidence_auroc(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Result:
    """Probability that a right answer is more confident than a wrong one, in [0, 1]; ties half.

    It is 0.5 for a confidence that says nothing and NaN when all images, or none, are right. It
    says nothing of how many are: a better model is left with the wrong answers that are harder to
    tell.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Hendrycks and Gimpel 2017, A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks, section 2.

    >>> confidence_auroc([0.9, 0.8, 0.8, 0.5], [True, True, False, False])
    0.875
    """
    return as_result(rank_area(level_sums(confidence, correct, weights)), weights)


def threshold_at_risk(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, *, risk: float = 0.05
) -> float:
    """Smallest confidence such that answering all images at or above it risks at most `risk`.

    It is meant for clean validation images; `risk_above` and `coverage_above` then tell what it
    keeps elsewhere. On the images it was chosen on, the share answered is `coverage_at_risk`. It is
    infinite, so that nothing is answered, where even the surest images are wrong more often.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.
        risk: the largest share of wrong answers, in [0, 1]. It is kept on these images; on others
            of the same kind it is often exceeded a little. Geifman and El-Yaniv 2017, algorithm 1,
            give a bound that holds with a chosen probability instead.

    >>> threshold_at_risk([0.9, 0.8, 0.7, 0.6], [True, True, False, False], risk=0.4)
    0.7
    >>> threshold_at_risk([0.9, 0.8], [False, True], risk=0.4)
    inf
    """
    levels = level_sums(confidence, correct)
    kept = np.unique(as_confidence(confidence))[_keeps(levels, risk)[0]]
    return float(kept[0]) if len(kept) else np.inf


def risk_above(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    threshold: float,
    weights: npt.ArrayLike | None = None,
) -> Result:
    """Share of wrong answers among the images at or above the threshold, in [0, 1]; NaN if none is.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.
        threshold: the smallest confidence that is answered; may be infinite.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> risk_above([0.9, 0.8, 0.7], [True, False, False], 0.8)
    0.5
    """
    n = check_columns(confidence=confidence, correct=correct)
    answered = at_or_above(confidence, threshold)
    rows = as_rows(weights, n)
    wrong = answered & ~np.asarray(correct, dtype=bool)
    return as_result(ratio(rows @ wrong, rows @ answered), weights)


def coverage_above(
    confidence: npt.ArrayLike, threshold: float, weights: npt.ArrayLike | None = None
) -> Result:
    """Share of the images at or above the threshold, in [0, 1].

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        threshold: the smallest confidence that is answered; may be infinite.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> coverage_above([0.9, 0.8, 0.7, 0.6], 0.8)
    0.5
    """
    check_columns(confidence=confidence)
    return weighted_mean(at_or_above(confidence, threshold), weights)


def at_or_above(confidence: npt.ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Tell which images are answered, bool `[n]`.

    >>> at_or_above([0.9, 0.8, 0.7], 0.8).tolist()
    [True, True, False]
    """
    if np.isnan(threshold):
        raise InputError("a threshold must be a number, found nan")
    return as_confidence(confidence) >= threshold


def risk_area(levels: LevelSums) -> FloatArray:
    """`area_under_risk_coverage` of images that are answered level by level, `[B]`.

    >>> risk_area(level_sums([0.9, 0.8, 0.7, 0.6], [True, True, False, False])).round(3)
    array([0.208])
    """
    # Where a resample has answered nothing yet, its level holds no image either.
    risked = np.diff(levels.images) * np.nan_to_num(levels.risk)
    return np.asarray(risked.sum(axis=1) / levels.images[:, -1])


def largest_coverage(levels: LevelSums, risk: float) -> FloatArray:
    """`coverage_at_risk` of images that are answered level by level, `[B]`.

    >>> largest_coverage(level_sums([0.9, 0.8, 0.7, 0.6], [True, True, False, False]), 0.4)
    array([0.75])
    """
    # A level that counts no image in a resample repeats the coverage before it, so it may stay.
    share = levels.answered / levels.images[:, -1:]
    return np.asarray(np.where(_keeps(levels, risk), share, 0.0).max(axis=1))


def _keeps(levels: LevelSums, risk: float) -> npt.NDArray[np.bool_]:
    """At which levels is the risk at most so large, `[B, levels]`; never where none is answered."""
    # NaN fails the comparison too.
    if not 0 <= risk <= 1:
        raise InputError(f"risk must be a share of wrong answers in [0, 1], found {risk}")
    return levels.risk <= risk


def share_to_hand_over(curve: RiskCoverage, images: int, risks: Sequence[float]) -> list[Score]:
    """Smallest share of images to hand over, the least confident first, one score a risk.

    The value is 1 − `coverage_at_risk`: at most `risk` of the answers to the other images are
    wrong. Its interval holds every share at which that risk lies within the 95 % Wilson interval of
    the share of wrong answers: what these images cannot rule out as the share that is needed. It is
    1 where even the surest images are wrong more often.

    Args:
        curve: of `risk_coverage_curve`.
        images: how many it is of.
        risks: the largest shares of wrong answers, each in [0, 1].

    Source: Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks, section 2;
    of the interval, Wilson 1927, inverted at every threshold.

    >>> curve = risk_coverage_curve(np.linspace(1, 0, 200), np.arange(200) < 150)
    >>> [[round(number, 2) for number in score] for score in share_to_hand_over(curve, 200, [0.1])]
    [[0.17, 0.12, 0.21, 200]]
    """
    low, high = wilson_interval(curve.risk, curve.coverage * images)
    scores = []
    for asked in risks:
        if not 0 <= asked <= 1:  # NaN fails the comparison too
            raise InputError(f"risk must be a share of wrong answers in [0, 1], found {asked}")
        most, more, less = (
            float(np.where(bound <= asked, curve.coverage, 0.0).max())
            for bound in (curve.risk, low, high)
        )
        scores.append(Score(1 - most, 1 - more, 1 - less, images))
    return scores


def average_confidence(confidence: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Mean confidence, in [0, 1]: the accuracy of a model that is calibrated on these images.

    Its error as an estimate of the accuracy is `confidence_gap`.

    Args:
        confidence: float `[n]` in [0, 1].
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Garg et al. 2022, Leveraging Unlabeled Data to Predict Out-of-Distribution Performance,
    section 5, the baseline AC.

    >>> average_confidence([0.5, 0.75])
    0.625
    """
    check_columns(confidence=confidence)
    sure = as_confidence(confidence)
    outside = (sure < 0) | (sure > 1)
    if outside.any():
        raise InputError(f"confidence must be in [0, 1], found {sure[outside][0]}")
    return weighted_mean(sure, weights, name="confidence")


def atc_threshold(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Confidence below which lies as large a share of the validation images as is wrong.

    The threshold is one of these confidences: the (k + 1)-th smallest if k images are wrong, or
    infinite if all are. Equal confidences cannot be parted: then it is the one (or infinity) that
    parts the images most nearly so, and the smaller of two that are as near. So the estimate on
    these very images is their accuracy where the confidences differ, and off by at most half the
    share of the images that are tied there.

    Args:
        confidence: float `[n]`, of clean validation images; larger for a surer answer; no NaN.
        correct: bool `[n]`.

    Source: Garg et al. 2022, equation 1, with the maximum confidence as the score. The
    authors' code takes the image before, which makes its estimate larger by one image.

    >>> atc_threshold([0.6, 0.9, 0.7, 0.8], [True, True, False, True])
    0.7
    """
    check_columns(confidence=confidence, correct=correct)
    levels, images = np.unique(as_confidence(confidence), return_counts=True)
    below = np.concatenate([[0], np.cumsum(images)])
    wrong = np.count_nonzero(~np.asarray(correct, dtype=bool))
    nearest = np.abs(below - wrong).argmin()  # the first of equals
    return float(np.append(levels, np.inf)[nearest])


def atc_accuracy(
    confidence: npt.ArrayLike, threshold: float, weights: npt.ArrayLike | None = None
) -> Result:
    """Estimate the accuracy without labels: the share of images at or above the threshold.

    Args:
        confidence: float `[n]`, of images without labels; larger for a surer answer; no NaN.
        threshold: from `atc_threshold` on labelled validation images of the same model.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Garg et al. 2022, equation 2.

    >>> threshold = atc_threshold([0.6, 0.9, 0.7, 0.8], [True, True, False, True])
    >>> atc_accuracy([0.5, 0.6, 0.7, 0.9], threshold)
    0.5
    """
    return coverage_above(confidence, threshold, weights)


class Fitted(NamedTuple):
    """Thresholds of one model and seed; see `fit_on`.

    Attributes:
        threshold: the smallest confidence that is answered, so that at most 5 % of the answers on
            the validation images are wrong; infinite where none keeps that.
        atc_threshold: the confidence below which lies as large a share of the validation images as
            is wrong.
    """

    threshold: float
    atc_threshold: float


def fit_on(predictions: Predictions) -> Fitted:
    """Fit on the clean validation predictions of a model and seed.

    Raises `InputError` without predictions.

    >>> import numpy as np
    >>> from fairweather.metrics import per_image
    >>> logits, labels = np.float32([[0, 3], [2, 0], [0, 1]]), np.array([1, 0, 0])
    >>> columns = per_image(logits, labels)
    >>> names = ("cat", "dog")
    >>> fit_on(Predictions(np.arange(3), labels, *columns, logits, names)).threshold.__round__(3)
    0.881
    """
    if not len(predictions):
        raise InputError("there is nothing to fit on: the validation predictions are empty")
    confidence, correct = predictions.confidence, predictions.correct
    return Fitted(
        threshold_at_risk(confidence, correct, risk=RISK), atc_threshold(confidence, correct)
    )

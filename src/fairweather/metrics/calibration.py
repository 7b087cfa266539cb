"""Calibration errors over bins of confidence or of every probability, and the Brier score.

In the formulas, bin m holds n_m of the n images, with mean confidence conf_m and accuracy acc_m;
acc is the accuracy on all images, and sums are over bins.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import (
    NO_PLACES,
    ConfidenceOrder,
    FloatArray,
    IntArray,
    LabelArray,
    Result,
    Weights,
    as_result,
    as_rows,
    check_columns,
    check_labels,
    check_shares,
    equal_mass_cuts,
    equal_width_places,
    fixed_size_cuts,
    order_by_confidence,
    order_by_label,
    sum_by_label,
    sums_below,
    weighted_mean,
)
from fairweather.metrics.grouping import Grouping, share_interval

Binning = Literal["equal-width", "equal-mass"]


class BinSums(NamedTuple):
    """Sums over the images of each bin, float64 `[B, bins]`: count, confidence, correct answers.

    The functions below and the bootstrap of all metrics both use its formulas.
    """

    images: FloatArray
    confidence: FloatArray
    correct: FloatArray

    @staticmethod
    def from_sums_below(below: FloatArray) -> BinSums:
        """Make bins from sums below their edges, `[3, B, bins + 1]`: count, wrong, confidence.

        >>> BinSums.from_sums_below(np.array([[[0.0, 2.0]], [[0.0, 1.0]], [[0.0, 1.5]]])).correct
        array([[1.]])
        """
        images, wrong, confidence = np.diff(below)
        return BinSums(images, confidence, images - wrong)

    @property
    def accuracy(self) -> FloatArray:
        """Share of correct answers in each bin, `[B, bins]`; 0 for an empty bin."""
        return self.mean(self.correct)

    @property
    def gap(self) -> FloatArray:
        """Accuracy minus mean confidence of each bin, `[B, bins]`; 0 for an empty bin."""
        return self.mean(self.correct - self.confidence)

    @property
    def share(self) -> FloatArray:
        """Share of all images that are in each bin, `[B, bins]`."""
        return self.images / self.images.sum(axis=1, keepdims=True)

    @property
    def overall(self) -> FloatArray:
        """Share of correct answers among all images, `[B]`."""
        return np.asarray(self.correct.sum(axis=1) / self.images.sum(axis=1))

    @property
    def expected_error(self) -> FloatArray:
        """`expected_calibration_error` of these bins, `[B]`."""
        return self.over_bins(np.abs(self.gap))

    @property
    def maximum_error(self) -> FloatArray:
        """`maximum_calibration_error` of these bins, `[B]`."""
        return np.abs(self.gap).max(axis=1)

    @property
    def rms_error(self) -> FloatArray:
        """`rms_calibration_error` of these bins, `[B]`."""
        return np.sqrt(self.reliability)

    @property
    def debiased_error(self) -> FloatArray:
        """`debiased_calibration_error` of these bins, `[B]`."""
        # acc_m (1 - acc_m) / (n_m - 1)
        enough = self.images >= 2
        noise = np.divide(
            self.correct * (self.images - self.correct),
            self.images**2 * (self.images - 1),
            out=np.zeros_like(self.correct),
            where=enough,
        )
        squares = self.over_bins(np.where(enough, np.square(self.gap) - noise, 0))
        return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)))

    @property
    def reliability(self) -> FloatArray:
        """Mean over images of the squared gap of their bin, `[B]`; see `brier_decomposition`."""
        return self.over_bins(np.square(self.gap))

    @property
    def resolution(self) -> FloatArray:
        """Mean over images of their bin's squared distance from the overall accuracy, `[B]`."""
        return self.over_bins(np.square(self.accuracy - self.overall[:, None]))

    @property
    def uncertainty(self) -> FloatArray:
        """Variance of `correct` over all images, `[B]`."""
        return self.overall * (1 - self.overall)

    def mean(self, sums: FloatArray) -> FloatArray:
        """Divide sums `[B, bins]` by the number of images in each bin; 0 for an empty bin."""
        return np.divide(sums, self.images, out=np.zeros_like(sums), where=self.images > 0)

    def over_bins(self, values: FloatArray) -> FloatArray:
        """Mean over images of the value of their bin, `[B, bins]` to `[B]`."""
        return np.asarray((self.share * values).sum(axis=1))


class ReliabilityBins(NamedTuple):
    """A reliability diagram, one entry per bin, float64 `[bins]`; an empty bin's means are NaN."""

    lower: FloatArray
    upper: FloatArray
    """`lower`, `upper`: for equal-width bins, the edges of the bin (lower excluded, upper
    included). For equal-mass bins, the smallest and the largest confidence in the bin."""

    images: FloatArray
    """The number of images in the bin."""

    confidence: FloatArray
    """Their mean confidence."""

    accuracy: FloatArray
    """The share of them that is classified correctly."""

    accuracy_low: FloatArray
    accuracy_high: FloatArray
    """`accuracy_low`, `accuracy_high`: the exact 95 % interval of `accuracy`."""


class BrierDecomposition(NamedTuple):
    """The parts of the Brier score of (confidence, correct); each a float, or float64 `[B]`."""

    reliability: Result
    """Mean squared gap between a bin's accuracy and confidence, in [0, 1]; the square of
    `rms_calibration_error`. Lower is better."""

    resolution: Result
    """Mean squared distance of a bin's accuracy from the overall accuracy, in [0, 0.25]. Higher is
    better: confidence separates right answers from wrong ones."""

    uncertainty: Result
    """Variance of `correct`, accuracy times (1 - accuracy), in [0, 0.25]."""

    within_bin_variance: Result
    """Mean variance of confidence within the bins, in [0, 0.25]."""

    within_bin_covariance: Result
    """Twice the mean covariance of confidence and `correct` within the bins, in [-0.5, 0.5]."""

    @property
    def remainder(self) -> Result:
        """The part within bins; 0 if all images of each bin have the same confidence."""
        return self.within_bin_variance - self.within_bin_covariance

    @property
    def score(self) -> Result:
        """The mean squared distance of confidence to 1 if correct and to 0 if wrong."""
        return self.reliability - self.resolution + self.uncertainty + self.remainder


def confidence_gap(confidence: ArrayLike, correct: ArrayLike, weights: Weights = None) -> Result:
    """Mean confidence minus accuracy, in [-1, 1]: positive for an overconfident model.

    `mean confidence - acc`

    Args:
        confidence: float `[n]` in [0, 1].
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> confidence_gap([0.75, 0.75], [True, False])
    0.25
    """
    sure, right = check_confidence(confidence, correct)
    gap = np.subtract(weighted_mean(sure, weights), weighted_mean(right, weights))
    return as_result(np.atleast_1d(gap), weights)


def expected_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    weights: Weights = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """Expected calibration error (ECE): the mean gap between confidence and accuracy, in [0, 1].

    `Σ (n_m / n) |acc_m - conf_m|`

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        bins: how many bins, at least 1.
        binning: "equal-width": bin k is (k/bins, (k+1)/bins], and 0 is in the first bin.
            "equal-mass": the images in order of confidence are cut as by `numpy.array_split`.
            Images with equal confidence share their accuracy, so their order does not matter.

    The value is biased upwards by about the noise of the bins; fewer images give more bias.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.

    >>> round(expected_calibration_error([0.95, 0.95, 0.55, 0.55], [True, True, True, False]), 3)
    0.05
    """
    sums = sum_bins(confidence, correct, weights, bins, binning)
    return as_result(sums.expected_error, weights)


def maximum_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    weights: Weights = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """Maximum calibration error (MCE): the largest gap of a bin that has images, in [0, 1].

    `max |acc_m - conf_m|`

    Arguments as in `expected_calibration_error`. A bin with one image counts as much as any other,
    so the value is very noisy. Source: Guo et al. 2017, equation 5.

    >>> round(maximum_calibration_error([0.95, 0.95, 0.55, 0.65], [True, True, True, False]), 3)
    0.65
    """
    sums = sum_bins(confidence, correct, weights, bins, binning)
    return as_result(sums.maximum_error, weights)


def rms_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    weights: Weights = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """Root mean square calibration error: large gaps count more than in the ECE, in [0, 1].

    `√(Σ (n_m / n) (acc_m - conf_m)²)`

    Arguments as in `expected_calibration_error`; the value is never smaller than that error.
    Source: Hendrycks et al. 2019, Deep Anomaly Detection with Outlier Exposure, where each bin has
    100 images.

    >>> round(rms_calibration_error([0.95, 0.95, 0.55, 0.55], [True, True, True, False]), 3)
    0.05
    """
    sums = sum_bins(confidence, correct, weights, bins, binning)
    return as_result(sums.rms_error, weights)


def adaptive_rms_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, weights: Weights = None, *, per_bin: int = 100
) -> Result:
    """Root mean square calibration error over bins of equally many images, in [0, 1].

    `√(Σ (n_m / n) (acc_m - conf_m)²)`

    The images in order of confidence are cut after every `per_bin`-th image. The remaining, most
    confident images join the last bin, which then has `per_bin` to `2 * per_bin - 1` images. Fewer
    than `per_bin` images form one bin. Images with equal confidence share their accuracy, so their
    order does not matter.

    The cuts are those of the code published with the source. The loop in that code leaves out the
    last, most confident bin. So its values are too low (0 for n below 200), and it fails below 100
    images (natural-adv-examples pull request 16, open, fixes the loop). Here every bin counts, so
    the value differs from those in the tables of these papers.

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        per_bin: images per bin, at least 1.

    The value is biased upwards: a calibrated model gets about `sqrt(mean of p(1 - p) / per_bin)`
    for any number of images, because the bins do not grow with n. The number of bins depends on the
    number of images, so values at different n have different biases. Do not average them with
    errors over a fixed number of bins.
    Source: Hendrycks et al. 2019, Deep Anomaly Detection with Outlier Exposure, and `calib_err` in
    its repository.

    >>> round(adaptive_rms_calibration_error([0.6, 0.7, 0.9, 1.0], [0, 0, 1, 1], per_bin=2), 3)
    0.461
    """
    order, rows = _in_order(confidence, correct, weights)
    if per_bin < 1:
        raise InputError(f"per_bin must be at least 1, found {per_bin}")
    totals = rows.sum(axis=1)
    columns = (order.wrong, order.confidence)
    below = sums_below(order, rows, totals, columns, cuts=fixed_size_cuts(totals, per_bin))
    return as_result(BinSums.from_sums_below(below).rms_error, weights)


def debiased_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    weights: Weights = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """RMS calibration error minus its sampling noise, in [-0.5, 1]: near 0 if calibrated.

    `sign(s) √|s|` of `s = Σ (n_m / n) [(acc_m - conf_m)² - acc_m (1 - acc_m) / (n_m - 1)]`

    The second term is the sampling variance of a bin's accuracy; bins with fewer than two images
    count as 0. For any n, `s` is an unbiased estimate of the true squared error of the bins. Its
    root is not: it is too low on average (a gap of 0.05 everywhere gives 0.039 at n = 500, and
    0.048 at 2,000).

    A value below 0 means that the gaps are smaller than the noise of calibrated predictions would
    make them. For a calibrated model, half of the values are negative. Clipping them at 0, as the
    source's code does, would bring the bias back where it matters most. Compare the value with
    `rms_calibration_error` over the same bins, not with the ECE, which averages absolute gaps.

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`. The duplicates in a resample are not independent images, so bootstrap replicates
            contain the noise that is subtracted from this value.
        bins: how many bins, at least 1. The correction assumes that all images in a bin have the
            same probability of being right; in wide bins it is slightly too large.
        binning: as in `expected_calibration_error`; in Roelofs et al. 2022, Mitigating Bias in
            Calibration Error Estimation, equal-mass has the smaller error of the two.

    Source: Kumar et al. 2019, Verified Uncertainty Calibration, section 4 (the debiased estimator);
    the variance is that of Bröcker 2012 and of Ferro and Fricker 2012 for the reliability term.

    >>> round(debiased_calibration_error([0.8] * 10, [True] * 5 + [False] * 5), 3)
    0.249
    """
    sums = sum_bins(confidence, correct, weights, bins, binning)
    return as_result(sums.debiased_error, weights)


def brier_decomposition(
    confidence: ArrayLike,
    correct: ArrayLike,
    weights: Weights = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> BrierDecomposition:
    """Split the Brier score of (confidence, correct) into parts that add up to it exactly.

    `Σ (n_m / n) (acc_m - conf_m)² - Σ (n_m / n) (acc_m - acc)² + acc (1 - acc) + remainder`, which
    are reliability, resolution, uncertainty and what varies within the bins.

    This score uses only the predicted class and is in [0, 1]; `brier_score` uses all classes.
    Compared with very many images, reliability is too high, resolution mostly too high, and
    uncertainty too low, each by about the noise of the bins.

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            parts `[B]`.
        bins: how many bins, at least 1.
        binning: as in `expected_calibration_error`.

    Source: Murphy 1973, A New Vector Partition of the Probability Score; Stephenson et al. 2008,
    Two Extra Components in the Brier Score Decomposition, for the terms within bins; Ferro and
    Fricker 2012, A bias-corrected decomposition of the Brier score, for the biases.

    >>> parts = brier_decomposition([0.75, 0.75, 0.25, 0.25], [True, True, True, False])
    >>> parts.reliability, parts.resolution, parts.uncertainty, parts.remainder
    (0.0625, 0.0625, 0.1875, 0.0)
    >>> parts.score
    0.1875
    """
    order, rows = _in_order(confidence, correct, weights)
    totals, sure = rows.sum(axis=1), order.confidence
    edges = _bin_edges(order, totals, bins, binning)
    columns = (order.wrong, sure, np.square(sure), sure * ~order.wrong)
    below = sums_below(order, rows, totals, columns, *edges)
    sums = BinSums.from_sums_below(below[:3])
    squares, products = np.diff(below[3:])
    certainty = sums.mean(sums.confidence)
    variance = np.maximum(sums.mean(squares) - np.square(certainty), 0)
    covariance = sums.mean(products) - sums.accuracy * certainty
    between = sums.reliability, sums.resolution, sums.uncertainty
    within = sums.over_bins(variance), sums.over_bins(2 * covariance)
    return BrierDecomposition(*(as_result(part, weights) for part in (*between, *within)))


def reliability_bins(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
    grouping: Grouping | None = None,
) -> ReliabilityBins:
    """Accuracy against confidence, bin by bin, with the 95 % interval of each accuracy.

    Arguments as in `expected_calibration_error`. The intervals are those of `share_interval`;
    `grouping` says which images belong together.

    >>> diagram = reliability_bins([0.3, 0.9, 0.8], [False, True, True], bins=2)
    >>> diagram.images.tolist(), diagram.accuracy.tolist(), diagram.accuracy_high.round(3).tolist()
    ([1.0, 2.0], [0.0, 1.0], [0.975, 1.0])
    """
    sums = sum_bins(confidence, correct, None, bins, binning)
    images, sure, right = (column[0] for column in sums)
    hollow = np.where(images > 0, images, np.nan)
    if binning == "equal-width":
        edges = np.arange(bins + 1) / bins
        lower, upper = edges[:-1], edges[1:]
    else:
        ordered = np.sort(np.asarray(confidence, dtype=np.float64))
        ends = np.cumsum(images).astype(int)
        starts = np.minimum(ends - images.astype(int), len(ordered) - 1)
        lower, upper = (np.where(images > 0, ordered[at], np.nan) for at in (starts, ends - 1))
    places = np.empty(int(images.sum()), dtype=np.int64)
    ascending = np.argsort(np.asarray(confidence), kind="stable")
    places[ascending] = np.repeat(np.arange(bins), images.astype(np.int64))
    low, high = share_interval(correct, places, bins, grouping)
    return ReliabilityBins(lower, upper, images, sure / hollow, right / hollow, low, high)


def check_confidence(confidence: ArrayLike, correct: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both columns as float64, or raise `InputError` if a value is not allowed.

    >>> check_confidence([1], [True])
    (array([1.]), array([1.]))
    """
    check_columns(confidence=confidence, correct=correct)
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    check_shares(sure, "confidence")
    is_bool = (right == 0) | (right == 1)
    if not is_bool.all():
        raise InputError(f"correct must be true or false, found {right[~is_bool][0]}")
    return sure, right


def sum_bins(
    confidence: ArrayLike, correct: ArrayLike, weights: Weights, bins: int, binning: str
) -> BinSums:
    """Check the arguments as `expected_calibration_error` does, and add the images up by bin."""
    order, rows = _in_order(confidence, correct, weights)
    totals = rows.sum(axis=1)
    columns = (order.wrong, order.confidence)
    below = sums_below(order, rows, totals, columns, *_bin_edges(order, totals, bins, binning))
    return BinSums.from_sums_below(below)


def _in_order(
    confidence: ArrayLike, correct: ArrayLike, weights: Weights
) -> tuple[ConfidenceOrder, FloatArray]:
    sure, right = check_confidence(confidence, correct)
    return order_by_confidence(sure, right), as_rows(weights, len(sure))


def _bin_edges(
    order: ConfidenceOrder, totals: FloatArray, bins: int, binning: str
) -> tuple[IntArray, FloatArray | None]:
    """Return the edges of the bins for `sums_below`: places in the order, or cuts.

    Raises `InputError` for fewer than one bin and for an unknown binning.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    if binning not in get_args(Binning):
        raise unknown_name("binning", binning, get_args(Binning))
    if binning == "equal-width":
        return equal_width_places(order, bins), None
    return NO_PLACES, equal_mass_cuts(totals, bins)


# --- Calibration of the probabilities of all classes ---

# float16 probabilities of 1,000 classes still add up to 1 within this tolerance; logits do not.
SUM_TOLERANCE = 0.01


class ClassBins(NamedTuple):
    """The probabilities above the lowest bin of classes that are not the label."""

    images: IntArray
    """int64 `[entries]`, the image of each entry; entries are sorted by class and bin."""

    probability: NDArray[np.floating]
    """float64 `[entries]`, or float32 where that is precise enough."""

    starts: IntArray
    """int64 `[non-empty bins]`, where the entries of each bin begin."""

    bins: IntArray
    """int64 `[non-empty bins]`, the number of each bin: class * (bins - 1) + the bin's number,
    counted from the bin above the lowest."""


def classwise_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, weights: Weights = None, *, bins: int = 10
) -> Result:
    """Mean over classes of the expected calibration error of that class's probability, in [0, 1].

    `1 / C Σ_c Σ_m (n_cm / n) |share_cm - p_cm|`, where bin m of class c holds n_cm images with mean
    probability p_cm of the class, and share_cm of them are of the class.

    For each class, its probability is the confidence, and an image is right if this class is its
    label. All images count for each class, so with many classes nearly all are in the lowest bin
    and the value is small. It cannot be compared between data sets with different numbers of
    classes. Classes without images count too, as in the source.

    Args:
        probabilities: float `[n, classes]`, each in [0, 1]; each row adds up to 1 within 0.01.
        labels: int `[n]`, each in `[0, classes)`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        bins: how many bins of equal width, at least 1; lower edges excluded, upper included.

    Source: Kull et al. 2019, Beyond temperature scaling (classwise-ECE); Nixon et al. 2019,
    Measuring Calibration in Deep Learning, call it the static calibration error.

    >>> round(classwise_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1]), 3)
    0.25
    """
    n = check_columns(labels=labels)
    columns, truth = check_distributions(probabilities, labels, n)
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    order, bounds = order_by_label(truth)
    rows, columns, truth = as_rows(weights, n)[:, order], columns[order], truth[order]
    excess = excess_columns(columns, truth, bins)
    lowest, own = (sum_by_label(rows, column, bounds) for column in excess)
    present, totals = truth[bounds[:-1]], rows.sum(axis=1)
    error = mean_class_error(rows, class_bins(columns, truth, bins), totals, present, lowest, own)
    return as_result(error, weights)


def excess_columns(
    probabilities: FloatArray, labels: LabelArray, bins: int
) -> tuple[FloatArray, FloatArray]:
    """Return the columns that `mean_class_error` sums by label: probability minus 1 if right.

    A bin's share times its gap is the sum of these over its images, divided by all images. Most
    probabilities are in the lowest bin or belong to the label, and are columns here; `class_bins`
    has the few others.

    Returns:
        float64 `[n, classes]` for the probabilities in the lowest bin, and 0 for the others; and
        float64 `[n, bins - 1]` for the label's probability, by its bin above the lowest.

    >>> lowest, own = excess_columns(np.array([[0.75, 0.25]]), np.array([0]), bins=2)
    >>> lowest.tolist(), own.tolist()
    ([[0.0, 0.25]], [[-0.25]])
    """
    is_label = np.arange(probabilities.shape[1]) == labels[:, None]
    label_probability = probabilities[is_label]
    is_in = bins_above_lowest(label_probability, bins)[:, None] == np.arange(bins - 1)
    lowest = np.where(probabilities <= 1 / bins, probabilities - is_label, 0)
    return lowest, is_in * (label_probability - 1)[:, None]


def class_bins(probabilities: FloatArray, labels: LabelArray, bins: int) -> ClassBins:
    """Find the few probabilities that `excess_columns` does not contain.

    >>> class_bins(np.array([[0.25, 0.75]]), np.array([0]), bins=2).probability
    array([0.75])
    """
    is_label = np.arange(probabilities.shape[1]) == labels[:, None]
    images, label = np.nonzero((probabilities > 1 / bins) & ~is_label)
    probability = probabilities[images, label]
    place = label * (bins - 1) + bins_above_lowest(probability, bins)
    # A radix sort where 16 bits are enough.
    narrow = place.astype(np.min_scalar_type(probabilities.shape[1] * bins))
    order = np.argsort(narrow, kind="stable")
    filled, starts = np.unique(place[order], return_index=True)
    return ClassBins(images[order], probability[order], starts, filled)


def mean_class_error(
    weights: NDArray[Any],
    above: ClassBins,
    totals: FloatArray,
    present: LabelArray,
    lowest: FloatArray,
    own: FloatArray,
) -> FloatArray:
    """`classwise_calibration_error` from sums over the images, `[B]`.

    Args:
        weights: how often each image counts, `[B, n]`.
        above: from `class_bins`, with the images in the same order.
        totals: float64 `[B]`, the sums of the weights.
        present: int `[labels]`, the labels that have images, ascending.
        lowest, own: sums of `excess_columns` over the images of each of these labels, `[labels, B,
            columns]`.
    """
    classes = lowest.shape[2]
    by_class = np.zeros((len(weights), classes, own.shape[2]))
    by_class[:, present] = own.transpose(1, 0, 2)
    excess = by_class.reshape(len(by_class), -1)
    counts = np.empty(len(above.images), weights.dtype)
    product = np.empty_like(above.probability)
    for row, drawn in enumerate(weights):
        np.take(drawn.copy(), above.images, out=counts, mode="wrap")  # the fastest mode
        np.multiply(counts, above.probability, out=product, casting="same_kind")
        excess[row, above.bins] += np.add.reduceat(product, above.starts)
    in_lowest = np.abs(lowest.sum(axis=0)).sum(axis=1)
    return (in_lowest + np.abs(excess).sum(axis=1)) / totals / classes


def bins_above_lowest(probability: FloatArray, bins: int) -> IntArray:
    """Number the equal-width bins; with 10 bins, 0 is (0.1, 0.2] and -1 the lowest.

    >>> bins_above_lowest(np.array([0.0, 0.5, 0.6, 1.0]), 2)
    array([-1, -1,  0,  0])
    """
    edges = np.arange(1, bins + 1) / bins
    return np.searchsorted(edges, probability, side="left") - 1


def check_distributions(
    probabilities: ArrayLike, labels: ArrayLike, n: int
) -> tuple[FloatArray, LabelArray]:
    """Return probabilities `[n, classes]` and labels `[n]` as arrays.

    Raises `InputError` for values outside [0, 1], rows that do not add up to 1 within 0.01, and
    labels that are no classes.

    >>> check_distributions([[0, 1]], [1], 1)
    (array([[0., 1.]]), array([1]))
    """
    columns, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if columns.ndim != 2 or len(columns) != n or not columns.size:
        raise InputError(f"probabilities must be [{n}, classes], found {list(columns.shape)}")
    check_shares(columns, "probabilities")
    off = np.abs(columns.sum(axis=1) - 1)
    if off.max() > SUM_TOLERANCE:
        worst = int(off.argmax())
        raise InputError(
            f"the probabilities of an image must add up to 1, found {columns[worst].sum():.6g}"
            f" for image {worst}"
        )
    if not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be int [{n}], found {truth.dtype}")
    check_labels(truth, columns.shape[1])
    return columns, truth

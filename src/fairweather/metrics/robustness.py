"""Metrics over several shifts or levels: corruption errors, effective robustness, flip rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, Result, Weights, ratio, weighted_mean
from fairweather.metrics.metric import MetricRow, index_by_name

Errors = Mapping[str, ArrayLike]

# AlexNet's error on the published ImageNet-C at 224 pixels, the mean over severities 1 to 5.
# Source: `ALEXNET_ERR` in imagenet.py of google-research/augmix. They are the means of the 75
# numbers by the authors of ImageNet-C in hendrycks/robustness, issue 10.
ALEXNET: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }
)
# Its error on clean images: 1 − the top-1 accuracy of torchvision's weights, AlexNet_Weights.
ALEXNET_CLEAN = 0.43478
SEVERITIES = 5
FILES_MINUS_MEMORY = "accuracy_difference/files-memory"
# What adapting changes: metric, label, whether higher is better, the largest change, unit.
_CHANGED = (
    ("accuracy", "accuracy", True, 1.0, "%"),
    ("rms_calibration_error", "RMS calibration error", False, 1.0, ""),
    ("negative_log_likelihood", "negative log-likelihood", False, np.inf, ""),
    ("area_under_risk_coverage", "area under the risk-coverage curve", False, 1.0, ""),
)
# The name of the row of each change, by the metric.
ADAPTED = {name: f"{name}_change/adapted" for name, *_ in _CHANGED}
# Metrics of several cells together; scores.csv has them in the rows of level `mean`.
SHIFT_METRICS: dict[str, MetricRow] = index_by_name(
    MetricRow(
        "flip_rate",
        "Predictions that change from level to level",
        "share of the images whose most probable class changes from one level to the next, where "
        "clean counts as a level; mean over neighbouring levels",
        higher_is_better=False,
        interval="share",
    ),
    MetricRow(
        "mean_corruption_error",
        "Mean error over a family, not normalised",
        "mean over the corruptions of a family of the mean over levels of 1 − accuracy; over the "
        "15 of ImageNet-C where all are there; not normalised",
        higher_is_better=False,
    ),
    MetricRow(
        "mce_alexnet/in-memory",
        "mCE in units of AlexNet's errors",
        "mean over the 15 corruptions of ImageNet-C of Σ over levels of 1 − accuracy, divided "
        "by the same sum of AlexNet's published errors; corrupted in memory, not from files",
        higher_is_better=False,
        bounds=(0.0, np.inf),
    ),
    MetricRow(
        "mce_alexnet/files",
        "mCE",
        "mean over the 15 corruptions of ImageNet-C of Σ over levels of 1 − accuracy, divided "
        "by the same sum of AlexNet's published errors; on the published files",
        higher_is_better=False,
        bounds=(0.0, np.inf),
    ),
    MetricRow(
        "relative_mce_alexnet/files",
        "Relative mCE",
        "mean over the 15 corruptions of ImageNet-C of Σ over levels of clean accuracy − accuracy, "
        "divided by the same sum of AlexNet's published accuracies; on the published files",
        higher_is_better=False,
        bounds=(-np.inf, np.inf),
    ),
    MetricRow(
        FILES_MINUS_MEMORY,
        "Accuracy on files minus in memory",
        "accuracy on the published files minus the accuracy on the same images that are corrupted "
        "alike in memory",
        higher_is_better=None,
        bounds=(-1.0, 1.0),
        interval="difference",
    ),
    *(
        MetricRow(
            ADAPTED[name],
            f"Change of {label} by adapting",
            f"{label} of the network that adapts minus that of the same network as it is, on the "
            "same images",
            higher_is_better=is_better,
            bounds=(-largest, largest),
            unit=unit,
        )
        for name, label, is_better, largest, unit in _CHANGED
    ),
)


def select_benchmark(corruptions: Iterable[str]) -> list[str]:
    """Select the corruptions that a benchmark averages: the 15 of ImageNet-C where all are there.

    The four others were made for validation, and are in no benchmark's mean.

    >>> len(select_benchmark([*ALEXNET, "spatter"])), select_benchmark(["fog", "spatter"])
    (15, ['fog', 'spatter'])
    """
    names = list(corruptions)
    return list(ALEXNET) if ALEXNET.keys() <= set(names) else names


def mean_corruption_error(errors: Errors, reference: Errors | None = None) -> Result:
    """Mean error over corruptions, each divided by the error of a reference model if one is given.

    Args:
        errors: for each corruption, the share of wrong answers at each severity, `[severities]` in
            [0, 1]; `[severities, B]` for B resamples of the images returns `[B]`.
        reference: the same for the reference model, with the same corruptions and severities.

    Returns:
        Without a reference, the plain mean, over severities first and then over corruptions, in
        [0, 1]. With a reference, the mean over corruptions of the ratio of the two sums over
        severities: 1 means equal to the reference, smaller is better.

    Raises:
        InputError: nothing to average, an error outside [0, 1], corruptions or severities that only
            one of the two has, or a reference that makes no errors.

    Source: Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations, section 4.1. With AlexNet as the reference it is their mCE; see
    `mce_alexnet`. Papers also report an "mCE" for CIFAR-10-C, mostly without a reference.

    >>> ours = {"fog": [0.1, 0.3], "snow": [0.2, 0.4]}
    >>> theirs = {"fog": [0.4, 0.4], "snow": [0.5, 0.7]}
    >>> round(mean_corruption_error(ours), 3), round(mean_corruption_error(ours, theirs), 3)
    (0.25, 0.5)
    """
    means = _mean_errors(errors)
    if reference is None:
        return _mean_result(list(means.values()))
    scale = _mean_errors(reference)
    _check_same_corruptions(errors, reference)
    return _mean_result([_divide_errors(name, means[name], scale[name]) for name in means])


def relative_mean_corruption_error(
    errors: Errors, clean: ArrayLike, reference: Errors, reference_clean: ArrayLike
) -> Result:
    """Mean over corruptions of how much the error rises above clean, divided by a reference's rise.

    Args:
        errors, reference: as in `mean_corruption_error`.
        clean, reference_clean: the share of wrong answers on clean images, a number in [0, 1], or
            `[B]`.

    Returns:
        1 means equal to the reference. Below 1, the corruptions cost the model less accuracy than
        they cost the reference, whatever its clean accuracy. So a model that is bad on clean and
        on corrupted images can be below 1.

    Raises:
        InputError: as in `mean_corruption_error`, or a corruption does not raise the reference's
            error.

    Source: Hendrycks and Dietterich 2019, section 4.1, relative mCE.

    >>> relative_mean_corruption_error({"fog": [0.25, 0.5]}, 0.25, {"fog": [0.5, 0.5]}, 0.25)
    0.5
    """
    means, scale = _mean_errors(errors), _mean_errors(reference)
    _check_same_corruptions(errors, reference)
    shares = clean, reference_clean
    ours, theirs = (_check_share("an error", share, "for clean") for share in shares)
    return _mean_result([_divide_errors(k, means[k] - ours, scale[k] - theirs) for k in means])


def mce_alexnet(errors: Errors) -> Result:
    """The mCE of ImageNet-C: the mean corruption error divided by AlexNet's published errors.

    The value is comparable to papers only for 1,000-class ImageNet at 224 pixels. Corruptions
    computed in memory differ slightly from the published files, which are JPEG-compressed.

    Args:
        errors: of exactly the 15 corruptions in `ALEXNET`, under these names or with the prefix
            `imagenet_c/`; `[5]` each, or `[5, B]`. The other four of ImageNet-C (speckle_noise,
            gaussian_blur, spatter, saturate) are for validation and are not in the mCE.

    Returns:
        A fraction; papers print it times 100.

    Raises:
        InputError: a missing or an extra corruption, or a number of severities other than five.

    Source: Hendrycks and Dietterich 2019, section 4.1.

    >>> round(mce_alexnet({name: [error] * 5 for name, error in ALEXNET.items()}), 6)
    1.0
    """
    means = _mean_benchmark_errors(errors)
    return _mean_result([means[name] / error for name, error in ALEXNET.items()])


def relative_mce_alexnet(errors: Errors, clean: ArrayLike) -> Result:
    """The relative mCE of ImageNet-C: how much errors rise above clean, beside AlexNet's.

    Args:
        errors: as in `mce_alexnet`.
        clean: the share of wrong answers on clean images, a number or `[B]`.

    Returns:
        A fraction; papers print it times 100. See `relative_mean_corruption_error`.

    Raises:
        InputError: as in `mce_alexnet`.

    >>> errors = {name: [error] * 5 for name, error in ALEXNET.items()}
    >>> round(relative_mce_alexnet(errors, ALEXNET_CLEAN), 6)
    1.0
    """
    means, ours = _mean_benchmark_errors(errors), _check_share("an error", clean, "for clean")
    rises = [(means[name] - ours) / (error - ALEXNET_CLEAN) for name, error in ALEXNET.items()]
    return _mean_result(rises)


def _mean_benchmark_errors(errors: Errors) -> dict[str, FloatArray]:
    """Average over severities, of exactly the 15 corruptions of the mCE."""
    bare = [name.removeprefix("imagenet_c/") for name in errors]
    missing = [name for name in ALEXNET if name not in bare]
    extra = [name for name, short in zip(errors, bare, strict=True) if short not in ALEXNET]
    wrong = ""
    if missing or extra:
        wrong = f"missing: {_join_names(missing)}; not in the mCE: {_join_names(extra)}"
    elif len(set(bare)) < len(bare):
        wrong = "some are given twice, with and without imagenet_c/"
    if wrong:
        raise InputError(f"the mCE needs exactly the 15 corruptions of ImageNet-C; {wrong}")
    means = dict(zip(bare, _mean_errors(errors).values(), strict=True))
    for name, column in errors.items():
        if (count := np.shape(column)[0]) != SEVERITIES:
            raise InputError(f"the mCE needs {SEVERITIES} severities each, but {name} has {count}")
    return means


def _mean_errors(errors: Errors) -> dict[str, FloatArray]:
    """Average over severities: a number, or `[B]`, for each corruption."""
    if not errors:
        raise InputError("a mean corruption error needs at least one corruption")
    means = {}
    for name, column in errors.items():
        _check_axis(f"errors of {name}", column, "severities")
        means[name] = _check_share("an error", column, f"for {name}").mean(axis=0)
    return means


def _check_axis(name: str, column: ArrayLike, axis: str, fewest: int = 1) -> None:
    if np.ndim(column) not in (1, 2) or np.size(column) < fewest:
        raise InputError(f"{name} must be [{axis}] or [{axis}, B], found {list(np.shape(column))}")


def _join_names(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _check_share(name: str, share: ArrayLike, place: str) -> FloatArray:
    """Return all shares in float64, or raise `InputError` if one is not in [0, 1]."""
    values = np.asarray(share, dtype=np.float64)
    inside = (values >= 0) & (values <= 1)  # NaN fails the comparison too
    if not inside.all():
        raise InputError(f"{name} is a share in [0, 1], found {values[~inside][0]:g} {place}")
    return values


def _check_same_corruptions(errors: Errors, reference: Errors) -> None:
    if errors.keys() != reference.keys():
        missing = [name for name in errors if name not in reference]
        extra = [name for name in reference if name not in errors]
        raise InputError(
            "model and reference must have the same corruptions: only the model has "
            f"{_join_names(missing)}, only the reference {_join_names(extra)}"
        )
    for name in errors:
        ours, theirs = (np.shape(column)[0] for column in (errors[name], reference[name]))
        if ours != theirs:
            raise InputError(f"{name} has {ours} severities, but {theirs} in the reference")


def _divide_errors(name: str, value: FloatArray, unit: FloatArray) -> FloatArray:
    if not (unit > 0).all():
        raise InputError(
            f"{name} does not raise the error of the reference, so it cannot be divided by it"
        )
    return value / unit


def _mean_result(values: list[FloatArray]) -> Result:
    mean = np.mean(np.broadcast_arrays(*values), axis=0)
    return float(mean) if mean.ndim == 0 else mean


def effective_robustness(
    clean: ArrayLike,
    shifted: ArrayLike,
    reference_clean: ArrayLike,
    reference_shifted: ArrayLike,
    *,
    images: int | None = None,
    weights: ArrayLike = 1.0,
) -> Result:
    """Accuracy under shift minus the accuracy that reference models predict from clean accuracy.

    The prediction is a straight line through the reference models, fitted by least squares on the
    logit scale of both accuracies. A positive value means: more robust than the trend of the
    reference models.

    Args:
        clean, shifted: the model's accuracies, numbers in [0, 1]; `[B]` for B resamples of the
            images returns `[B]`.
        reference_clean, reference_shifted: accuracies of the reference models, `[models]` or
            `[models, B]`. At least two different clean accuracies are needed. With only two models,
            the line goes through both points, and nothing shows whether a line fits.
        images: how many images an accuracy was computed on. It is needed for accuracies of exactly
            0 and 1, which have no logit: they are moved inwards by half an image.
        weights: how often each reference model counts, `[models]`; or `[models, B]`, to resample
            the models, which returns `[B]`.

    Returns:
        A difference of accuracies in [-1, 1]. NaN for a resample in which all reference models have
        the same clean accuracy.

    Raises:
        InputError: an accuracy outside [0, 1], or exactly 0 or 1 without `images`; wrong weights;
            or fewer than two reference models with different clean accuracies.

    The line describes the reference models and does not explain them. Outside the range of their
    clean accuracies it is an extrapolation. Source: Taori et al. 2020, Measuring Robustness to
    Natural Distribution Shifts in Image Classification, effective robustness, on the logit axes of
    its figures.

    >>> round(effective_robustness(0.8, 0.6, [0.7, 0.9], [0.3, 0.5]), 3)
    0.225
    """
    # How many there must be is said below.
    _check_axis("reference_clean", reference_clean, "models", fewest=0)
    _check_axis("reference_shifted", reference_shifted, "models", fewest=0)
    x = _check_share("an accuracy", reference_clean, "in reference_clean")
    y = _check_share("an accuracy", reference_shifted, "in reference_shifted")
    if x.shape != y.shape or len(x) < 2:
        raise InputError(
            "effective robustness needs at least two reference models, each with a clean and a "
            f"shifted accuracy, found {list(x.shape)} and {list(y.shape)}"
        )
    x, y = _logit(x, images), _logit(y, images)
    if not np.ptp(x, axis=0).any():
        raise InputError(
            "effective robustness needs reference models with different clean accuracies, found "
            f"{len(x)} with the same"
        )
    counts = np.asarray(weights, dtype=np.float64)
    if (counts.ndim and len(counts) != len(x)) or not (counts >= 0).all():
        raise InputError(
            f"weights must be [models] or [models, B] for the {len(x)} reference models, and none "
            f"may be negative, found {list(counts.shape)}"
        )
    slope, intercept = _fit_line(x, y, counts)
    ours = _check_share("an accuracy", clean, "in clean")
    expected = scipy.special.expit(intercept + slope * _logit(ours, images))
    return _mean_result([_check_share("an accuracy", shifted, "in shifted") - expected])


def _logit(accuracy: FloatArray, images: int | None) -> FloatArray:
    if images is None and ((accuracy == 0) | (accuracy == 1)).any():
        raise InputError(
            "an accuracy of exactly 0 or 1 has no logit: give `images`, the number of test images"
        )
    edge = 0.0 if images is None else 0.5 / images
    return np.asarray(scipy.special.logit(np.clip(accuracy, edge, 1 - edge)))


def _fit_line(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope and intercept by least squares over the first axis; NaN where all x are the same."""
    if weights.ndim > x.ndim:
        x, y = x[:, None], y[:, None]
    x, y, weights = np.broadcast_arrays(x, y, weights)
    total = weights.sum(axis=0)
    mean_x, mean_y = (ratio((weights * column).sum(axis=0), total) for column in (x, y))
    spread = (weights * np.square(x - mean_x)).sum(axis=0)
    # If all x are equal, rounding can make the spread larger than 0, but never the range.
    counted = np.where(weights > 0, x, np.nan)
    varies = np.fmax.reduce(counted, axis=0) > np.fmin.reduce(counted, axis=0)
    slope = ratio((weights * (x - mean_x) * y).sum(axis=0), np.where(varies, spread, 0.0))
    return slope, mean_y - slope * mean_x


def flip_rate(predicted: ArrayLike, weights: Weights = None) -> Result:
    """Share of images whose predicted class changes from one level to the next, in [0, 1].

    It is the mean over the pairs of neighbouring levels.

    It needs no labels: a model that is wrong in the same way at every level has a rate of 0. The
    rate depends on the distance between levels, so it compares models, not shifts.

    Args:
        predicted: int `[levels, n]`, the predicted classes of the same images in the same order.
            The levels are in order. The clean images have their place where the level changes
            nothing: before the first severity, or between darker and brighter.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Raises:
        InputError: fewer than two levels, or no images.

    Source: Hendrycks and Dietterich 2019, section 4.2, the flip probability; there it is computed
    along the frames of ImageNet-P, here along levels.

    >>> flip_rate([[3, 5], [3, 4], [3, 5]])
    0.5
    """
    classes = np.asarray(predicted)
    if classes.ndim != 2 or len(classes) < 2:
        raise InputError(
            f"predicted must be [levels, n] with at least two levels, found {list(classes.shape)}"
        )
    flips = (classes[1:] != classes[:-1]).mean(axis=0)
    return weighted_mean(flips, weights, name="predicted")

"""One number for many corruptions: the mean corruption error, plain or relative to a reference."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.weights import FloatArray, Result

Errors = Mapping[str, npt.ArrayLike]

# AlexNet's error on the published ImageNet-C at 224 pixels, the mean over severities 1 to 5.
# Source: `ALEXNET_ERR` in imagenet.py of google-research/augmix; they are the means of the 75
# numbers that the authors of ImageNet-C give in hendrycks/robustness, issue 10.
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
SEVERITIES = 5


def mean_corruption_error(errors: Errors, reference: Errors | None = None) -> Result:
    """Mean over corruptions of the error, each in units of a reference model's where there is one.

    Args:
        errors: for each corruption the share of wrong answers at each severity, `[severities]` in
            [0, 1]; `[severities, B]` for B resamples of the images returns `[B]`.
        reference: the same of the reference model, with the same corruptions and severities.

    Returns:
        Without a reference the plain mean, over severities first and then over corruptions, in
        [0, 1]. With one, the mean of the ratios of the sums over severities: 1 is the reference,
        smaller is better.

    Raises:
        InputError: nothing to average, an error outside [0, 1], corruptions or severities that only
            one of the two has, or a reference that makes no errors.

    Source: Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations, section 4.1. With AlexNet as the reference it is their mCE, for
    which see `mce_alexnet`; the numbers that papers give for CIFAR-10-C under the same name mostly
    have no reference.

    >>> ours = {"fog": [0.1, 0.3], "snow": [0.2, 0.4]}
    >>> theirs = {"fog": [0.4, 0.4], "snow": [0.5, 0.7]}
    >>> round(mean_corruption_error(ours), 3), round(mean_corruption_error(ours, theirs), 3)
    (0.25, 0.5)
    """
    means = _mean_errors(errors)
    if reference is None:
        return _mean(list(means.values()))
    scale = _mean_errors(reference)
    _check_alike(errors, reference)
    return _mean([_ratio(name, means[name], scale[name]) for name in means])


def relative_mean_corruption_error(
    errors: Errors, clean: npt.ArrayLike, reference: Errors, reference_clean: npt.ArrayLike
) -> Result:
    """Mean over corruptions of the rise of the error above clean, in units of a reference's rise.

    Args:
        errors, reference: as in `mean_corruption_error`.
        clean, reference_clean: the share of wrong answers on clean images, a number in [0, 1], or
            `[B]`.

    Returns:
        1 is the reference; below 1 the model loses less to the corruptions than the reference does,
        however good it is on clean images. A model that is bad on both can be below 1.

    Raises:
        InputError: as in `mean_corruption_error`, or a reference that a corruption does not hurt.

    Source: Hendrycks and Dietterich 2019, section 4.1, relative mCE.

    >>> relative_mean_corruption_error({"fog": [0.25, 0.5]}, 0.25, {"fog": [0.5, 0.5]}, 0.25)
    0.5
    """
    means, scale = _mean_errors(errors), _mean_errors(reference)
    _check_alike(errors, reference)
    ours, theirs = (_check_range("clean", share) for share in (clean, reference_clean))
    return _mean([_ratio(name, means[name] - ours, scale[name] - theirs) for name in means])


def mce_alexnet(errors: Errors) -> Result:
    """The mCE of ImageNet-C: the mean corruption error in units of AlexNet's published errors.

    It means what it does in papers only for 1,000-class ImageNet at 224 pixels; corruptions made in
    memory are not to the bit those of the published files, whose JPEG compression is missing.

    Args:
        errors: of exactly the 15 corruptions in `ALEXNET`, by these names or with `imagenet_c/`
            before them; `[5]` each, or `[5, B]`. The other four of ImageNet-C (speckle_noise,
            gaussian_blur, spatter, saturate) are for validation and are not in the mCE.

    Returns:
        A fraction: papers print 100 times as much.

    Raises:
        InputError: a corruption too many or missing, or not five severities.

    Source: Hendrycks and Dietterich 2019, section 4.1.

    >>> round(mce_alexnet({name: [error] * 5 for name, error in ALEXNET.items()}), 6)
    1.0
    """
    bare = [name.removeprefix("imagenet_c/") for name in errors]
    missing = [name for name in ALEXNET if name not in bare]
    extra = [name for name, short in zip(errors, bare, strict=True) if short not in ALEXNET]
    if missing or extra or len(set(bare)) < len(bare):
        said = (
            f"missing {', '.join(missing) or 'none'}; too many {', '.join(extra) or 'none'}"
            if missing or extra
            else "some are there twice, with and without imagenet_c/"
        )
        raise InputError(f"the mCE is of exactly 15 corruptions of ImageNet-C: {said}")
    means = dict(zip(bare, _mean_errors(errors).values(), strict=True))
    for name, column in errors.items():
        if (found := np.shape(column)[0]) != SEVERITIES:
            raise InputError(f"the mCE is of {SEVERITIES} severities each, {name} has {found}")
    return _mean([means[name] / error for name, error in ALEXNET.items()])


def _mean_errors(errors: Errors) -> dict[str, FloatArray]:
    """Average over severities: a number, or `[B]`, for each corruption."""
    if not errors:
        raise InputError("a mean corruption error needs at least one corruption")
    return {name: _check_severities(name, column).mean(axis=0) for name, column in errors.items()}


def _check_severities(name: str, column: npt.ArrayLike) -> FloatArray:
    values = np.asarray(column, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise InputError(
            f"errors of {name} must be [severities] or [severities, B], found {list(values.shape)}"
        )
    return _check_range(name, values)


def _check_range(name: str, share: npt.ArrayLike) -> FloatArray:
    values = np.asarray(share, dtype=np.float64)
    inside = (values >= 0) & (values <= 1)  # NaN fails the comparison too
    if not inside.all():
        raise InputError(
            f"an error is a share in [0, 1], found {values[~inside].flat[0]:g} for {name}"
        )
    return values


def _check_alike(errors: Errors, reference: Errors) -> None:
    if errors.keys() != reference.keys():
        missing = [name for name in errors if name not in reference]
        extra = [name for name in reference if name not in errors]
        raise InputError(
            "model and reference must have the same corruptions: only the model has "
            f"{', '.join(missing) or 'none'}, only the reference {', '.join(extra) or 'none'}"
        )
    for name in errors:
        ours, theirs = (np.shape(column)[0] for column in (errors[name], reference[name]))
        if ours != theirs:
            raise InputError(f"{name} has {ours} severities, those of the reference are {theirs}")


def _ratio(name: str, value: FloatArray, unit: FloatArray) -> FloatArray:
    if not (unit > 0).all():
        raise InputError(
            f"the reference loses nothing under {name}, so nothing can be divided by it"
        )
    return value / unit


def _mean(values: list[FloatArray]) -> Result:
    mean = np.mean(np.broadcast_arrays(*values), axis=0)
    return float(mean) if mean.ndim == 0 else mean

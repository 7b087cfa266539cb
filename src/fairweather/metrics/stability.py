"""Does the answer hold still while the weather changes: predictions along a shift's levels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.weights import Result, weighted_mean


def flip_rate(predicted: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Share of images whose predicted class changes from one level to the next, in [0, 1].

    It is the mean over the pairs of neighbouring levels.

    No label is needed: a model that is wrong in the same way at every level has a rate of 0. The
    rate depends on how far the levels are apart, so it compares models, not shifts.

    Args:
        predicted: int `[levels, n]`, the predicted classes of the same images in the same order,
            the levels in theirs, with the clean images where the level changes nothing: before the
            first severity, or between darker and brighter.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Raises:
        InputError: fewer than two levels, or no images.

    Source: Hendrycks and Dietterich 2019, section 4.2, the flip probability, there along the frames
    of ImageNet-P and here along levels.

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

"""Functions that several corruptions of single images share."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# In uniform areas, sums of float32 weights can end slightly below the exact whole number. A
# thousandth of a grey level is added, so that dropping the fraction does not take a whole level.
_NUDGE = np.float32(1e-3)


def each(images: Pixels, change: Callable[[Floats], Floats]) -> Pixels:
    """Change images `[B, 3, H, W]` one by one, and quantise.

    Args:
        images: uint8.
        change: float32 `[H, W, 3]` in [0, 255] to the same; it may change its input.

    >>> each(np.full((1, 3, 1, 1), 100, np.uint8), lambda image: image * np.float32(1.258)).ravel()
    array([125, 125, 125], dtype=uint8)
    """
    result = np.empty_like(images)
    for planes, changed in zip(images, result, strict=True):
        image = cv2.merge(tuple(planes)).astype(np.float32)
        cv2.split(quantised(change(image)), tuple(changed))
    return result


def quantised(image: Floats) -> Pixels:
    """Drop the fraction of values >= 0, and clip them to 255.

    >>> quantised(np.array([0.7, 41.99999, 255.4], np.float32)).tolist()
    [0, 42, 255]
    """
    image = image + _NUDGE
    return np.minimum(image, 255, out=image).astype(np.uint8)


def gaussian_filter(image: Floats, sigma: float) -> Floats:
    """Convolve float32 `[H, W]` or `[H, W, C]` with a Gaussian, as `skimage.filters.gaussian` does.

    It is cut off at 4 sigma, so a sigma below 1/8 pixel changes nothing; edges are repeated.

    >>> line = np.array([[0, 0, 100, 0, 0]], np.float32)
    >>> gaussian_filter(line, 0.4).round(1)
    array([[ 0. ,  4. , 91.9,  4. ,  0. ]], dtype=float32)
    """
    size = 2 * int(4 * sigma + 0.5) + 1
    blurred = cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)

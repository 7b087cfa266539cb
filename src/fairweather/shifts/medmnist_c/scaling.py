"""Scale lengths that are meant for images of 224 pixels to other image sizes.

See the package's docstring for the rule. `CANVAS` is the size that medmnistc's lengths are for.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CANVAS = 224


def scale_of(height: int, width: int) -> float:
    """Return the length, in pixels of this image, of one pixel of a 224 px image.

    >>> scale_of(28, 40)
    0.125
    """
    return min(height, width) / CANVAS


def canvas_of(height: int, width: int) -> tuple[int, int]:
    """Return height and width of a canvas with the image's aspect ratio and a smaller side of 224.

    >>> canvas_of(28, 40)
    (224, 320)
    """
    scale = scale_of(height, width)
    return round(height / scale), round(width / scale)


def fitted(layer: Floats, height: int, width: int) -> Floats:
    """Resize a float32 canvas `[h, w]` or `[h, w, 3]` to an image's size; shrink by area means.

    >>> fitted(np.eye(2, dtype=np.float32), 1, 1)
    array([[0.5]], dtype=float32)
    """
    shrinks = height < layer.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(layer, (width, height), interpolation=how), np.float32)


def spread(taps: int, scale: float) -> Floats:
    """Return the matrix that scales an odd number of taps around a centre, `[odd, taps]`.

    A tap k pixels from the centre moves to k * scale, and its weight is shared linearly between the
    pixels there. With a scale above 1, pixels between taps are interpolated. The sum of the weights
    does not change.

    >>> spread(3, 1.0)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    >>> spread(3, 0.25)
    array([[0.25, 0.  , 0.  ],
           [0.75, 1.  , 0.75],
           [0.  , 0.  , 0.25]], dtype=float32)
    """
    reach = taps // 2
    wide = max(1.0, scale)
    far = int(np.ceil(reach * scale + wide)) - 1
    gaps = np.arange(-far, far + 1)[:, None] - np.arange(-reach, reach + 1) * scale
    shares = np.maximum(0, 1 - np.abs(gaps) / wide)
    return (shares / shares.sum(axis=0)).astype(np.float32)

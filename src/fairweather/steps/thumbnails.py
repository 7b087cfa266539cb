"""Small pictures of 8-bit images, encoded."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

LONGEST = 112  # pixels of the longer side
# Up to this side in pixels, single pixels can be seen, so none may change.
LOSSLESS = 32
# A thousand photographs of 112 pixels then take 2.6 MB, which fits into a page.
QUALITY = 75
# WebP's default: a twentieth of the time of the slowest setting, and files 1 % larger (PathMNIST).
_EFFORT = 4


def thumbnails(images: torch.Tensor) -> list[bytes]:
    """Encode images as small WebP pictures, lossless if the longer side is at most 32 pixels.

    If the longer side has more than 112 pixels, it becomes 112, and each pixel is the mean of the
    area that it covers. Nothing is enlarged. The same images give the same bytes.

    Args:
        images: uint8 `[N, 3, H, W]`.

    >>> picture = thumbnails(torch.zeros(1, 3, 224, 112, dtype=torch.uint8))[0]
    >>> Image.open(io.BytesIO(picture)).size
    (56, 112)
    """
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    height, width = (int(length) for length in images.shape[2:])
    shrink = LONGEST / max(height, width)
    if shrink >= 1:
        return [_webp(array) for array in arrays]
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    resized = (cv2.resize(array, size, interpolation=cv2.INTER_AREA) for array in arrays)
    return [_webp(np.asarray(array, np.uint8)) for array in resized]


def _webp(array: np.ndarray) -> bytes:
    how: dict[str, Any] = {"quality": QUALITY}
    if max(array.shape[:2]) <= LOSSLESS:
        how = {"lossless": True, "quality": 100}
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "WEBP", method=_EFFORT, **how)
    return buffer.getvalue()

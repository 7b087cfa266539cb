"""Random crops of whole batches, resized with an antialiased bicubic filter."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

RATIO = (3 / 4, 4 / 3)  # of width to height, as torchvision draws it
TRIES = 10  # boxes that are drawn for an image before it gets the largest in its middle
SHARPNESS = -0.5  # of the bicubic filter: that of Pillow, and of torch when it antialiases


class Boxes(NamedTuple):
    """What is cut out of each image: float64 `[n]` of whole pixels, and bool `[n]` flips."""

    top: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]


def draw_boxes(
    n: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    rng: np.random.Generator,
) -> Boxes:
    """Draw a box for each of `n` images of `size` (height, width), as `RandomResizedCrop` does.

    The area is uniform in `scale`, the logarithm of the aspect ratio in that of 3/4 to 4/3. An
    image for which none of ten boxes fits gets the largest of an allowed ratio, in its middle.

    >>> draw_boxes(3, (28, 28), (0.2, 1.0), 0.0, np.random.default_rng(0)).height.tolist()
    [22.0, 19.0, 15.0]
    """
    high, wide = size
    area = high * wide * rng.uniform(*scale, (TRIES, n))
    ratio = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), (TRIES, n)))
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width >= 1) & (width <= wide) & (height >= 1) & (height <= high)
    first = fits.argmax(0), np.arange(n)
    found = fits[first]
    width = np.where(found, width[first], min(wide, round(high * RATIO[1])))
    height = np.where(found, height[first], min(high, round(wide / RATIO[0])))
    down, right, mirror = rng.random((3, n))
    return Boxes(
        np.where(found, np.floor(down * (high - height + 1)), (high - height) // 2),
        np.where(found, np.floor(right * (wide - width + 1)), (wide - width) // 2),
        height,
        width,
        mirror < flip,
    )


def crop(images: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Cut a box out of each image, resize it to the size of the image, and flip some.

    Both directions are one product with a matrix for each image: whole batches at once, with the
    antialiased bicubic filter of Pillow. Results are clipped to [0, 1], as Pillow clips to 8 bits.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        boxes: one for each image, within it.

    >>> whole = Boxes(*np.array([[0.0], [0.0], [8.0], [8.0]]), np.array([False]))
    >>> images = torch.rand(1, 3, 8, 8)
    >>> bool(torch.allclose(crop(images, whole), images, atol=1e-6))
    True
    """
    height, width = images.shape[2:]
    top, left, high, wide = torch.from_numpy(np.stack(boxes[:4])).to(images)
    flip = torch.from_numpy(boxes.flip).to(images.device).reshape(-1, 1, 1)
    rows = _filters(top, high, height)
    columns = _filters(left, wide, width)
    columns = torch.where(flip, columns.flip(1), columns)
    return (rows[:, None] @ images @ columns.transpose(1, 2)[:, None]).clamp_(0, 1)


def _filters(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Give the matrices `[B, size, size]` that resize a stretch of a line to the whole line."""
    places = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    start, length = start.reshape(-1, 1, 1), length.reshape(-1, 1, 1)
    step = length / size
    centres = start + places[:, None] * step
    # A stretch that shrinks is smoothed over as many pixels as become one: no aliases.
    distance = (places - centres).abs() / step.clamp(min=1)
    weights = _bicubic(distance) * ((places > start) & (places < start + length))
    return weights / weights.sum(2, keepdim=True)


def _bicubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys 1981, equation 15, for distances >= 0 in pixels."""
    a, x = SHARPNESS, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

"""Rectangles in images, one an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]


class Boxes(NamedTuple):
    """Rows from `top` up to `bottom` and columns from `left` up to `right`, all int64 `[B]`.

    The ends are not in the box: one of equal ends is empty.
    """

    top: Integers
    bottom: Integers
    left: Integers
    right: Integers


def areas(boxes: Boxes) -> Integers:
    """Count the pixels of each box, `[B]`.

    >>> areas(Boxes(*np.array([[1], [3], [0], [4]]))).tolist()
    [8]
    """
    return (boxes.bottom - boxes.top) * (boxes.right - boxes.left)


def inside(boxes: Boxes, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Tell which pixels lie in the box of each image: bool `[B, 1, H, W]`.

    >>> inside(Boxes(*np.array([[1], [3], [0], [1]])), 3, 2, torch.device("cpu")).int().tolist()
    [[[[0, 0], [1, 0], [1, 0]]]]
    """
    ends = torch.from_numpy(np.stack(boxes)).to(device).reshape(4, -1, 1, 1, 1)
    top, bottom, left, right = ends.unbind(0)
    rows = torch.arange(height, device=device).reshape(height, 1)
    columns = torch.arange(width, device=device)
    return ((rows >= top) & (rows < bottom)) & ((columns >= left) & (columns < right))

"""Images one by one through Pillow, as the operations that are defined on its pictures need it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image


def on_pictures(images: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """Change uint8 `[B, 3, H, W]` picture by picture; sizes stay.

    >>> images = torch.zeros(2, 3, 8, 9, dtype=torch.uint8)
    >>> on_pictures(images, lambda picture: picture.point(lambda value: value + 3)).unique()
    tensor([3], dtype=torch.uint8)
    """
    rows = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
    changed = np.empty_like(rows)
    for row, out in zip(rows, changed, strict=True):
        out[:] = np.asarray(change(Image.fromarray(row)))
    return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(images.device)

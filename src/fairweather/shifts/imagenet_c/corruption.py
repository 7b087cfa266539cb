"""A corruption of a published benchmark, and what applies it to batches of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.errors import InputError
from fairweather.shifts.generators import image_generators
from fairweather.types import ShiftFunction, shortest

SMALLEST = 8  # side in pixels
Pixels = npt.NDArray[np.uint8]


class Corruption(NamedTuple):
    """A row of the table of corruptions.

    Attributes:
        function: see the docstring of `imagenet_c`.
        title: text for table heads.
        random: does it need random numbers.
    """

    function: Callable[..., Pixels]
    title: str
    random: bool


def check_severity(name: str, severity: float) -> int:
    """Return a severity; raises `InputError` unless it is 1, 2, 3, 4 or 5."""
    if severity not in (1, 2, 3, 4, 5):
        raise InputError(f"{name}: severity must be 1, 2, 3, 4 or 5, found {shortest(severity)}")
    return int(severity)


def applied(
    name: str,
    severity: int,
    row: Corruption,
    parameters_at: Callable[[int], Mapping[str, float]],
    finish: Callable[[Pixels], Pixels] = lambda pixels: pixels,
) -> ShiftFunction:
    """Make a shift of a corruption.

    Args:
        name: as in the table of shifts; with the severity, it names the stream of random numbers.
        severity: 1 to 5.
        row: the corruption.
        parameters_at: gives its parameters for the smaller side of the images.
        finish: changes the corrupted images once more.
    """
    stream = f"{name},severity={severity}"

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST:
            raise InputError(
                f"{name} needs images of at least {SMALLEST} pixels per side, "
                f"found {height}x{width}"
            )
        if len(images) == 0:
            return images.clone()
        # On the CPU, so that every device sees the same shifted images.
        pixels = np.ascontiguousarray(images.cpu().numpy())
        drawn = (image_generators(keys, seed, stream),) if row.random else ()
        changed = row.function(pixels, *drawn, **parameters_at(min(height, width)))
        return torch.from_numpy(finish(changed)).to(images.device)

    return apply


def try_out(shift: ShiftFunction) -> ShiftFunction:
    """Return a shift with constants of the user's: only the corruption knows which it allows."""
    trial = torch.zeros(1, 3, SMALLEST, SMALLEST, dtype=torch.uint8)
    shift(trial, torch.zeros(1, dtype=torch.int64), 0)
    return shift

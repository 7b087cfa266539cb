"""Glass blur: as if seen through frosted glass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.shifts.imagenet_c.imagewise import (
    Floats,
    check_positive,
    each,
    gaussian_filter,
    quantised,
)

Pixels = npt.NDArray[np.uint8]
Generators = Iterator[np.random.Generator]


def glass_blur(
    images: Pixels, generators: Generators, *, sigma: float, reach: float, passes: float
) -> Pixels:
    """Blur, let each pixel take the value of a near one, in place, and blur again.

    The benchmark means to swap two pixels, but its swap of two views of one array makes both equal
    to the second: kept, as its images were made that way. The offsets go from -reach to reach - 1,
    as there.

    Args:
        images: see the package.
        generators: see the package; each gives the offsets.
        sigma: of the Gaussian, pixels, > 0.
        reach: farthest pixel on each axis, a whole number, 1 to 15.
        passes: over the image, a whole number >= 1.
    """
    check_positive("glass_blur", "sigma", sigma)
    for parameter, value, most in (("reach", reach, 15), ("passes", passes, 100)):
        if value != int(value) or not 1 <= value <= most:
            raise InputError(
                f"glass_blur: {parameter} must be a whole number from 1 to {most}, found {value}"
            )
    height, width = images.shape[2:]

    def shatter(image: Floats) -> Floats:
        blurred = quantised(gaussian_filter(image, sigma)).reshape(height * width, 3)
        generator = next(generators)
        source = _origins(height, width, int(reach), generator)
        for _ in range(int(passes) - 1):
            source = source.take(_origins(height, width, int(reach), generator))
        shuffled = blurred.take(source, axis=0).reshape(height, width, 3)
        return gaussian_filter(shuffled.astype(np.float32), sigma)

    return each(images, shatter)


def _origins(
    height: int, width: int, reach: int, generator: np.random.Generator
) -> npt.NDArray[np.int_]:
    """Say for each pixel of `[H * W]` where its value comes from after one pass.

    The benchmark goes from the lower right to the upper left and overwrites each pixel with one at
    a random offset. If that one lies ahead, its value is as it was before the pass; if it lies
    behind, it has been overwritten already, so its origin is looked up, and so on: the chains are
    short, and all are followed at once.
    """
    places = np.arange(height * width)
    grid = places.reshape(height, width).copy()
    # The scan's limits are the benchmark's; images too small for it stay as they are.
    rows, columns = (slice(reach + 1, max(0, side - reach + 1)) for side in (height, width))
    scanned = grid[rows, columns]  # a view
    down, right = generator.integers(-reach, reach, size=(2, *scanned.shape), dtype=np.int8)
    scanned += down * np.int64(width) + right
    hop = grid.ravel()
    origin = hop.copy()
    pending = np.flatnonzero(hop > places)
    reached = hop.take(pending)
    while len(pending):
        # A pixel outside the scan is its own origin, which ends the chain.
        further = hop.take(reached)
        origin[pending] = further
        behind = further > reached
        pending, reached = pending[behind], further[behind]
    return origin

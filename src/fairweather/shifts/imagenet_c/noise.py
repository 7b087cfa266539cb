"""Noise of single values: Gaussian, shot, impulse and speckle.

Each noise maps an 8-bit value to an 8-bit value, depending only on that value and on chance. So 256
x 256 probabilities describe it. It needs only 16 random bits and one look-up per value, instead of
sampling, scaling, clipping and rounding. Each probability is exact to 2^-16: a chi-squared test
would need the pixels of thousands of images to detect the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from scipy import special

from fairweather.shifts.corruption import Generators, Pixels, take_pairs
from fairweather.shifts.ranges import Positive, Range

# Values per block: about as many as stay in a core's own cache.
_VALUES_AT_ONCE = 1 << 17
_SHARE = Range("in (0, 1]", lambda value: 0 < value <= 1)


def gaussian_noise(images: Pixels, generators: Generators, *, scale: Positive) -> Pixels:
    """Add normal noise with the standard deviation `scale` > 0 to values in [0, 1].

    >>> grey = np.full((1, 3, 64, 64), 127, np.uint8)
    >>> noisy = gaussian_noise(grey, iter([np.random.default_rng(0)]), scale=0.1)
    >>> round(float(noisy.std() / 255), 2)
    0.1
    """
    return _sample_noise(images, generators, _alias_table(_gaussian_below, scale))


def shot_noise(images: Pixels, generators: Generators, *, photons: Positive) -> Pixels:
    """Replace each value v by a Poisson count with mean `photons` * v, divided by `photons` > 0.

    >>> grey = np.full((1, 3, 64, 64), 127, np.uint8)
    >>> noisy = shot_noise(grey, iter([np.random.default_rng(0)]), photons=50)
    >>> round(float(noisy.std() / 255), 2)
    0.1
    """
    return _sample_noise(images, generators, _alias_table(_poisson_below, photons))


def impulse_noise(
    images: Pixels, generators: Generators, *, amount: Annotated[float, _SHARE]
) -> Pixels:
    """Set the share `amount`, in (0, 1], of the values to 0 or 255; channels are independent.

    >>> grey = np.full((1, 3, 64, 64), 127, np.uint8)
    >>> noisy = impulse_noise(grey, iter([np.random.default_rng(0)]), amount=0.25)
    >>> round(float((noisy == 255).mean()), 2)
    0.12
    """
    return _sample_noise(images, generators, _alias_table(_impulse_below, amount))


def speckle_noise(images: Pixels, generators: Generators, *, scale: Positive) -> Pixels:
    """Add normal noise with a standard deviation of `scale` > 0 times the value.

    >>> grey = np.full((1, 3, 64, 64), 127, np.uint8)
    >>> noisy = speckle_noise(grey, iter([np.random.default_rng(0)]), scale=0.2)
    >>> round(float(noisy.std() / 255), 2)
    0.1
    """
    return _sample_noise(images, generators, _alias_table(_speckle_below, scale))


# The functions below return the probability that a value v (row) becomes less than j = 1 to 255
# (column). `uint8(255 x)` drops the fraction, so an output is less than j exactly if 255 x is.
_VALUES = np.arange(256.0)[:, None]
_BOUNDS = np.arange(1.0, 256.0)[None, :]


def _gaussian_below(scale: float) -> npt.NDArray[np.float64]:
    return special.ndtr((_BOUNDS - _VALUES) / (255 * scale))


def _poisson_below(photons: float) -> npt.NDArray[np.float64]:
    counts = np.arange(np.ceil(photons) + 1)
    outputs = np.minimum(counts / photons, 1) * 255
    least = np.searchsorted(outputs, _BOUNDS[0])  # the smallest count whose output is j or more
    return np.asarray(special.pdtr(least[None, :] - 1, _VALUES / 255 * photons))


def _impulse_below(amount: float) -> npt.NDArray[np.float64]:
    return np.asarray(amount / 2 + (1 - amount) * (_VALUES < _BOUNDS), np.float64)


def _speckle_below(scale: float) -> npt.NDArray[np.float64]:
    # Black stays black: a tiny standard deviation instead of a division by zero.
    return special.ndtr((_BOUNDS - _VALUES) / np.maximum(scale * _VALUES, 1e-300))


@lru_cache(maxsize=64)
def _alias_table(
    below: Callable[[float], npt.NDArray[np.float64]], parameter: float
) -> npt.NDArray[np.uint16]:
    """The alias table of a noise, flat `[256 * 256]`: an entry is `threshold << 8 | alias`.

    A. J. Walker, "An efficient method for generating discrete random variables with general
    distributions" (1977). A row has 256 equal slots; slot k gives k if 8 random bits are below its
    threshold, else its alias. Each step fills up the emptiest slot from the fullest.
    """
    steps = np.rint(below(parameter) * 65536).astype(np.int64)
    counts = np.diff(steps, axis=1, prepend=0, append=65536)
    rows = np.arange(256)
    threshold = np.empty((256, 256), np.int64)
    alias = np.empty((256, 256), np.int64)
    done = np.zeros((256, 256), bool)
    for _ in range(256):
        least = np.where(done, 1 << 20, counts).argmin(axis=1)
        most = np.where(done, -1, counts).argmax(axis=1)
        threshold[rows, least] = counts[rows, least]
        alias[rows, least] = most
        counts[rows, most] -= 256 - counts[rows, least]
        done[rows, least] = True
    # The threshold of a full slot, 256, does not fit into 8 bits; such a slot is its own alias, so
    # 255 has the same effect.
    alias[threshold == 256] = np.nonzero(threshold == 256)[1]
    return (np.minimum(threshold, 255) << 8 | alias).astype(np.uint16).ravel()


def _sample_noise(images: Pixels, generators: Generators, table: npt.NDArray[np.uint16]) -> Pixels:
    n, values = len(images), images[0].size
    flat = images.reshape(n, -1)
    result = np.empty_like(flat)
    at_once = max(1, _VALUES_AT_ONCE // values)
    bits = np.empty((at_once, -(-values // 4)), np.uint64)
    for start in range(0, n, at_once):
        chunk = flat[start : start + at_once]
        for row in bits[: len(chunk)]:
            row[:] = next(generators).bit_generator.random_raw(bits.shape[1])
        random = bits.view(np.uint16)[: len(chunk), :values]
        result[start : start + at_once] = _look_up(chunk, random, table)
    return result.reshape(images.shape)


def _look_up(
    values: Pixels, random: npt.NDArray[np.uint16], table: npt.NDArray[np.uint16]
) -> Pixels:
    """Look up the noisy values for values `[n, m]`, with 16 random bits each.

    Masks instead of `numpy.where`, because the CPU mispredicts half of the branches on random data.
    """
    cell = (random >> 8).astype(np.uint8)
    entry = take_pairs(table, values, cell)
    beyond = cv2.compare(random.astype(np.uint8), (entry >> 8).astype(np.uint8), cv2.CMP_GE)
    # The mask selects the alias, the lower half of an entry.
    return np.asarray(cv2.copyTo(entry.astype(np.uint8), beyond, cell), np.uint8)

"""The interval of a share of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.metrics.weights import FloatArray

# 97.5 % quantile of the normal distribution, for two-sided 95 % intervals.
Z95 = 1.959963984540054


def wilson_interval(share: npt.ArrayLike, count: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Give the 95 % Wilson interval of shares of so many images each; NaN where there are none.

    Args:
        share: in [0, 1].
        count: images, of a shape that broadcasts with `share`.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.

    >>> low, high = wilson_interval(1.0, 12)
    >>> round(float(low), 3), float(high)
    (0.758, 1.0)
    """
    p, n = np.asarray(share, dtype=np.float64), np.asarray(count, dtype=np.float64)
    shrink = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    # At shares of 0 and 1 the ends are exactly 0 and 1; rounding would miss them by an ulp.
    return np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)

"""Gray values of any range to 8 bits: which value becomes black, and which white."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError

FORM = re.compile(r"(?P<share>percentile:)?(?P<low>[-+0-9.eE]*?[0-9.])\.\.(?P<high>[-+0-9.eE]+)")
FORMS = (
    "LOW..HIGH, such as 0..4095 or -1000..400, or percentile:LOW..HIGH, such as percentile:1..99"
)
# Of a 16-bit file: up to this value, its pixels have at most 14 bits, as cameras and scanners give.
MOST_OF_14_BITS = 2**14 - 1


class UnreadableImageError(InputError):
    """One image cannot be decoded; the message gives the reason, without the image's name."""


class Scale(NamedTuple):
    """Which gray values become 0 and 255; those between are linear, those outside are cut off.

    Attributes:
        low, high: values as they are stored, of a DICOM file after its rescale slope and intercept.
        percentile: low and high are percentiles of the values of each image by itself, in [0, 100].
    """

    low: float
    high: float
    percentile: bool = False

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Read a scale as it is written; raises `InputError` for anything else.

        >>> Scale.parse("0..4095"), Scale.parse("percentile:0.5..99.5")
        (Scale(low=0.0, high=4095.0, percentile=False),
         Scale(low=0.5, high=99.5, percentile=True))
        """
        found = FORM.fullmatch(text.strip())
        try:
            low, high = (float(found[name]) for name in ("low", "high")) if found else (1.0, 0.0)
        except ValueError:
            low, high = 1.0, 0.0
        share = bool(found and found["share"])
        if not -1e9 <= low < high <= 1e9 or (share and not 0 <= low < high <= 100):
            raise InputError(f"scale must be {FORMS}; found {text!r}")
        return cls(low, high, share)

    def apply(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """Scale the gray values of one image to 8 bits, in the shape that they have.

        >>> Scale(0, 4095).apply(np.array([-5, 0, 2048, 4095, 9000])).tolist()
        [0, 0, 128, 255, 255]
        """
        exact = np.asarray(values, dtype=np.float64)
        if not np.isfinite(exact).all():
            raise ValueError("some of its pixels are not finite")
        low, high = self.low, self.high
        if self.percentile:
            low, high = (float(each) for each in np.percentile(exact, [low, high]))
        if low == high:  # a flat image has no contrast to keep
            return np.zeros(exact.shape, dtype=np.uint8)
        share = (exact - low) / (high - low)
        return np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)


def whole_range(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Scale unsigned 16-bit gray values to 8 bits, over the whole 16-bit range.

    Raises `UnreadableImageError` for other values, such as signed ones, and for values of at most
    14 bits: over the whole range these are nearly black, and no file says that it has fewer bits.

    >>> whole_range(np.array([0, 25700, 65535])).tolist()
    [0, 100, 255]
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise UnreadableImageError(
            f"its pixels go from {low} to {high}, which is not a 16-bit range: say with scale "
            "which values become black and white, such as scale 0..4095"
        )
    if high <= MOST_OF_14_BITS:
        raise UnreadableImageError(
            f"its pixels have 16 bits, but go only from {low} to {high}, so that it would be "
            "nearly black: say with scale which values become black and white, such as 0..4095 "
            "for 12 bits, or 0..65535 if all 16 are meant"
        )
    return ((values + 128) // 257).astype(np.uint8)

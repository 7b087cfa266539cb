"""What shifts of different families have in common: the operation."""

from __future__ import annotations

# Families of shifts have different names for one operation: these become the same name.
_SAME = {
    "jpeg": "jpeg_compression",
    "brightness_factor": "brightness",
    **{f"{name}_{way}": name for name in ("brightness", "contrast") for way in ("up", "down")},
    **{f"gamma_corr_{way}": "gamma" for way in ("up", "down")},
}


def operation(shift: str) -> str:
    """Name the operation of a shift; the name is the same for all families of shifts.

    >>> operation("imagenet_c/brightness"), operation("brightness_factor")
    ('brightness', 'brightness')
    """
    last = shift.rpartition("/")[2]
    return _SAME.get(last, last)

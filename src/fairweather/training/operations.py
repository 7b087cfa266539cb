"""The operations that random policies draw from, by name: Pillow's, on whole batches of images.

Pillow is the reference of all of them, since the published policies were made with it; `affine` and
`tones` say how close each comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fairweather.training.affine import (
    Lookup,
    bilinear,
    nearest,
    rotate,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
from fairweather.training.tones import (
    autocontrast,
    brightness,
    colour,
    contrast,
    equalize,
    posterize,
    sharpness,
    solarize,
)

# Images uint8 `[B, 3, H, W]` and a magnitude for each `[B]` in, changed images out.
Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _table(lookup: Lookup) -> dict[str, Operation]:
    return {
        "autocontrast": lambda images, _: autocontrast(images),
        "equalize": lambda images, _: equalize(images),
        "posterize": posterize,
        "solarize": solarize,
        "rotate": partial(rotate, lookup=lookup),
        "shear_x": partial(shear_x, lookup=lookup),
        "shear_y": partial(shear_y, lookup=lookup),
        "translate_x": partial(translate_x, lookup=lookup),
        "translate_y": partial(translate_y, lookup=lookup),
        "colour": colour,
        "contrast": contrast,
        "brightness": brightness,
        "sharpness": sharpness,
    }


# With the nearest source pixel, as in RandAugment and TrivialAugment; and with linear
# interpolation, as in AugMix.
OPERATIONS: Mapping[str, Operation] = _table(nearest)
SMOOTH_OPERATIONS: Mapping[str, Operation] = _table(bilinear)

# Which tests do the same: the last parts of names in `fairweather.shifts.SHIFTS`.
TESTED_AS: Mapping[str, tuple[str, ...]] = {
    "rotate": ("rotation",),
    "translate_x": ("translate",),
    "translate_y": ("translate",),
    "colour": ("saturate",),
    "contrast": ("contrast", "contrast_up", "contrast_down"),
    "brightness": ("brightness", "brightness_factor", "brightness_up", "brightness_down"),
}


def apply_each(
    images: torch.Tensor,
    names: Sequence[str],
    chosen: npt.NDArray[np.int64],
    magnitudes: npt.NDArray[np.float64],
    operations: Mapping[str, Operation],
) -> torch.Tensor:
    """Do to every image the operation that was chosen for it; images of one operation together.

    Args:
        images: uint8 `[B, 3, H, W]`.
        names: what `chosen` counts; a name that is not in `operations` leaves an image as it is.
        chosen: `[B]`, places in `names`.
        magnitudes: `[B]`, in the units of each image's operation.
        operations: `OPERATIONS` or `SMOOTH_OPERATIONS`.

    >>> images = torch.full((2, 3, 1, 1), 100, dtype=torch.uint8)
    >>> names, chosen = ("none", "brightness"), np.array([0, 1])
    >>> apply_each(images, names, chosen, np.array([0.0, 1.5]), OPERATIONS)[:, 0].flatten().tolist()
    [100, 150]
    """
    changed = images.clone()
    for number, name in enumerate(names):
        places = np.flatnonzero(chosen == number)
        if name in operations and len(places):
            index = torch.from_numpy(places).to(images.device)
            magnitude = torch.from_numpy(magnitudes[places])
            changed[index] = operations[name](images[index], magnitude)
    return changed

"""The common corruptions of ImageNet-C, CIFAR-10-C and Tiny-ImageNet-C, of whole batches.

A corruption is a plain function in one of this package's modules, and a row of `CORRUPTIONS`. Its
keyword-only parameters are those of its row in constants.py. There are two forms, told apart by
the row's `random`:

    fixed:   `brightness(images, *, amount) -> images`
    random:  `fog(images, generators, *, amount, decay) -> images`

`images` are C-contiguous uint8 arrays `[B, 3, H, W]` of numpy, with H and W >= 8, square
or not; the result is a new array of the same kind (the input is never written to).
`generators` is an iterator of one `numpy.random.Generator` for each image, in order
(`draws.image_generators`): it must be asked for exactly one generator an image, and an image's
result must depend on its own pixels and generator alone, to the last bit, whatever the batch.
Parameters come as int or float; a function raises `InputError` for values that it cannot take
(NaN and infinity are sorted out before).

Values are quantised as the benchmark does, `uint8(clip(x, 0, 1) * 255)`: the fraction is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.shifts.imagenet_c.blur import defocus_blur, gaussian_blur, motion_blur, zoom_blur
from fairweather.shifts.imagenet_c.digital import (
    brightness,
    contrast,
    jpeg_compression,
    pixelate,
    saturate,
)
from fairweather.shifts.imagenet_c.elastic import elastic_transform
from fairweather.shifts.imagenet_c.glass import glass_blur
from fairweather.shifts.imagenet_c.liquid import spatter
from fairweather.shifts.imagenet_c.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from fairweather.shifts.imagenet_c.weather import fog, frost, snow


class Corruption(NamedTuple):
    """A row of the table of corruptions.

    Attributes:
        function: see this module's docstring.
        title: for table heads.
        random: does it draw.
    """

    function: Callable[..., npt.NDArray[np.uint8]]
    title: str
    random: bool


# The fifteen of the benchmark in its order, then the four that it keeps for validation.
CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, "Gaussian noise", random=True),
    "shot_noise": Corruption(shot_noise, "Shot noise", random=True),
    "impulse_noise": Corruption(impulse_noise, "Impulse noise", random=True),
    "defocus_blur": Corruption(defocus_blur, "Defocus blur", random=False),
    "glass_blur": Corruption(glass_blur, "Glass blur", random=True),
    "motion_blur": Corruption(motion_blur, "Motion blur", random=True),
    "zoom_blur": Corruption(zoom_blur, "Zoom blur", random=False),
    "snow": Corruption(snow, "Snow", random=True),
    "frost": Corruption(frost, "Frost", random=True),
    "fog": Corruption(fog, "Fog", random=True),
    "brightness": Corruption(brightness, "Brightness (HSV)", random=False),
    "contrast": Corruption(contrast, "Contrast", random=False),
    "elastic_transform": Corruption(elastic_transform, "Elastic transform", random=True),
    "pixelate": Corruption(pixelate, "Pixelate", random=False),
    "jpeg_compression": Corruption(jpeg_compression, "JPEG compression", random=False),
    "speckle_noise": Corruption(speckle_noise, "Speckle noise", random=True),
    "gaussian_blur": Corruption(gaussian_blur, "Gaussian blur (ImageNet-C)", random=False),
    "spatter": Corruption(spatter, "Spatter", random=True),
    "saturate": Corruption(saturate, "Saturate", random=False),
}

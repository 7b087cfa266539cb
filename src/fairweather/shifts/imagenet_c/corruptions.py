"""The common corruptions of ImageNet-C, CIFAR-10-C and Tiny-ImageNet-C, for whole batches.

A corruption is a plain function in one of the modules beside this one, and a row of `CORRUPTIONS`.
Its keyword-only parameters are those of its row in constants.json. There are two forms; the row's
`random` says which one a function has:

    fixed:   `brightness(images, *, amount) -> images`
    random:  `fog(images, generators, *, amount, decay) -> images`

`images` are C-contiguous numpy arrays, uint8 `[B, 3, H, W]`, with H and W >= 8, square or not. The
result is a new array of the same kind; the input is never changed. `generators` is an iterator of
one `numpy.random.Generator` per image, in order (`image_generators`). A function must take exactly
one generator per image. The result of an image must depend only on its own pixels and generator, to
the last bit, for any batch. Parameters are int or float. A function raises `InputError` for values
that are not allowed (NaN and infinity are refused before).

Values are quantised as in the benchmark, `uint8(clip(x, 0, 1) * 255)`: the fraction is dropped.

Source of the constants: D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations" (ICLR 2019), as in github.com/hendrycks/robustness,
ImageNet-C/create_c/make_cifar_c.py (CIFAR-10-C), make_tinyimagenet_c.py (Tiny-ImageNet-C) and
make_imagenet_c.py (ImageNet-C; the package imagenet-c 0.0.3 has the same). The names of the
parameters are this project's; constants.json says what each is.

The lengths of ImageNet-C's `elastic_transform` are shares of 224 px times 244, by a typing error in
the benchmark's code. The benchmark's images were made with it, so it stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fairweather.errors import InputError
from fairweather.files.folders import read_facts
from fairweather.shifts.corruption import (
    SMALLEST_SIDE,
    Corruption,
    check_severity,
    make_corruption_shift,
)
from fairweather.shifts.imagenet_c import blur, digital, noise, weather
from fairweather.types.measurement import Parameter, ShiftFunction, format_number

# The sets of constants, for images whose smaller side is below so many pixels: the bounds are
# roughly half-way between 32, 64 and 224.
_SETS = {"cifar10": 48, "tiny_imagenet": 128, "imagenet": math.inf}
_FACTS = read_facts("fairweather.shifts.imagenet_c", "constants")
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(facts["parameters"]) for name, facts in _FACTS.items()
}
LARGEST_FACTOR = 20  # a constant may differ from the published ones by this factor

# The fifteen corruptions of the benchmark in its order, then its four for validation.
CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian_noise, "Gaussian noise"),
    "shot_noise": Corruption(noise.shot_noise, "Shot noise"),
    "impulse_noise": Corruption(noise.impulse_noise, "Impulse noise"),
    "defocus_blur": Corruption(blur.defocus_blur, "Defocus blur"),
    "glass_blur": Corruption(blur.glass_blur, "Glass blur"),
    "motion_blur": Corruption(blur.motion_blur, "Motion blur"),
    "zoom_blur": Corruption(blur.zoom_blur, "Zoom blur"),
    "snow": Corruption(weather.snow, "Snow"),
    "frost": Corruption(weather.frost, "Frost"),
    "fog": Corruption(weather.fog, "Fog"),
    "brightness": Corruption(digital.brightness, "Brightness (HSV)"),
    "contrast": Corruption(digital.contrast, "Contrast"),
    "elastic_transform": Corruption(digital.elastic_transform, "Elastic transform"),
    "pixelate": Corruption(digital.pixelate, "Pixelate"),
    "jpeg_compression": Corruption(digital.jpeg_compression, "JPEG compression"),
    "speckle_noise": Corruption(noise.speckle_noise, "Speckle noise"),
    "gaussian_blur": Corruption(blur.gaussian_blur, "Gaussian blur (ImageNet-C)"),
    "spatter": Corruption(weather.spatter, "Spatter"),
    "saturate": Corruption(digital.saturate, "Saturate"),
}


def published_constants(name: str, severity: int, image_size: int) -> dict[str, float]:
    """Return the constants at a severity, 1 to 5, from the set for this side in pixels.

    >>> published_constants("defocus_blur", severity=2, image_size=28)
    {'radius': 0.4, 'alias_blur': 0.5}
    """
    published = next(name for name, below in _SETS.items() if image_size < below)
    return dict(zip(PARAMETERS[name], _FACTS[name][published][severity - 1], strict=True))


def corruption(
    name: str, *, severity: float, image_size: int | None = None, **constants: float
) -> ShiftFunction:
    """Make a corruption of `CORRUPTIONS` at a severity.

    The random numbers depend on name, severity, seed and the image's key, and not on `image_size`
    or the constants. So giving the image size explicitly does not change the random numbers, and
    neither does a sweep of a constant.

    Args:
        name: the name of the corruption, such as `fog`.
        severity: 1, 2, 3, 4 or 5.
        image_size: chooses the published set of constants; by default, the smaller side of the
            images.
        constants: values that replace the published ones.
    """
    level = check_severity(f"imagenet_c/{name}", severity)
    if image_size is not None and (image_size != int(image_size) or image_size < SMALLEST_SIDE):
        raise InputError(
            f"imagenet_c/{name}: image_size must be a whole number >= {SMALLEST_SIDE}, "
            f"found {format_number(image_size)}"
        )
    for key, value in constants.items():
        _check_constant(name, key, value)
    return make_corruption_shift(
        f"imagenet_c/{name}",
        level,
        CORRUPTIONS[name],
        lambda side: published_constants(name, level, image_size or side),
        constants,
    )


def _check_constant(name: str, key: str, value: float) -> None:
    """Refuse constants far from the published ones, which could take all memory, or hours."""
    sizes = (8, 64, 224)  # one for each published set
    published = [
        abs(published_constants(name, severity, size)[key])
        for severity in range(1, 6)
        for size in sizes
    ]
    most = LARGEST_FACTOR * max(published)
    least = min(filter(None, published), default=0.0) / LARGEST_FACTOR
    if abs(value) > most or 0 < abs(value) < least:
        raise InputError(
            f"imagenet_c/{name}: {key} must be between {least:g} and {most:g} (within a factor of "
            f"{LARGEST_FACTOR} of the published values), found {format_number(value)}"
        )


def severity_note(name: str, parameters: Mapping[str, Parameter]) -> str:
    """Return the constants of a corruption as text, if its `image_size` is given, else "".

    >>> severity_note("fog", {"severity": 2, "image_size": 32, "decay": 2.5})
    'amount 0.5, decay 2.5'
    """
    if "image_size" not in parameters:
        return ""
    severity, image_size = (int(parameters[key]) for key in ("severity", "image_size"))
    published = published_constants(name, severity, image_size)
    return ", ".join(
        f"{key} {format_number(parameters.get(key, published[key]))}" for key in published
    )

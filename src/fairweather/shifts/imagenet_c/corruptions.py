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

The lengths of ImageNet-C's `elastic_transform` are shares of 224 px times 244: a typing error in
the benchmark's code. Its images were made with it, so it stays.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fairweather.errors import InputError
from fairweather.files.folders import read_facts
from fairweather.shifts.corruption import (
    SMALLEST_SIDE,
    Corruption,
    check_by_trial,
    check_severity,
    make_corruption_shift,
)
from fairweather.shifts.imagenet_c.blur import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from fairweather.shifts.imagenet_c.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from fairweather.shifts.imagenet_c.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from fairweather.shifts.imagenet_c.weather import fog, frost, snow, spatter
from fairweather.shifts.ranges import check_arguments
from fairweather.types.measurement import Parameter, ShiftFunction, format_number

# ---------------------------------------------------------------- the table of the published consta

_Row = tuple[float, ...]


class SeverityConstants(NamedTuple):
    """A corruption's parameters at the five severities of each published set.

    Attributes:
        names: the names of the parameters, in the order of the rows.
        cifar10, tiny_imagenet, imagenet: five rows each, severity 1 first, for images of 32, 64 and
            224 pixels.
    """

    names: tuple[str, ...]
    cifar10: tuple[_Row, ...]
    tiny_imagenet: tuple[_Row, ...]
    imagenet: tuple[_Row, ...]

    def at(self, severity: int, image_size: int) -> dict[str, float]:
        """Return the parameters at a severity, 1 to 5, from the set for this side in pixels.

        >>> CONSTANTS["defocus_blur"].at(severity=2, image_size=28)
        {'radius': 0.4, 'alias_blur': 0.5}
        """
        rows = self.imagenet
        if image_size < TINY_IMAGENET_BELOW:
            rows = self.cifar10 if image_size < CIFAR10_BELOW else self.tiny_imagenet
        return dict(zip(self.names, rows[severity - 1], strict=True))


# Roughly half-way between 32, 64 and 224 pixels.
CIFAR10_BELOW = 48
TINY_IMAGENET_BELOW = 128


def _as_rows(rows: Sequence[Sequence[float]]) -> tuple[_Row, ...]:
    return tuple(tuple(row) for row in rows)


CONSTANTS: Mapping[str, SeverityConstants] = {
    name: SeverityConstants(
        tuple(facts["parameters"]),
        _as_rows(facts["cifar10"]),
        _as_rows(facts["tiny_imagenet"]),
        _as_rows(facts["imagenet"]),
    )
    for name, facts in read_facts("fairweather.shifts.imagenet_c", "constants").items()
}


# ---------------------------------------------------------------- the common corruptions of ImageNe

LARGEST_FACTOR = 20  # a constant may differ from the published ones by this factor
# The fifteen corruptions of the benchmark in its order, then its four for validation.
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
        image_size: chooses the published set of constants (`SeverityConstants.at`); by default, the
            smaller side of the images.
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
    function = CORRUPTIONS[name].function
    check_arguments(function.__name__, function, constants)

    def parameters_at(side: int) -> Mapping[str, float]:
        return CONSTANTS[name].at(level, image_size or side) | constants

    shift = make_corruption_shift(f"imagenet_c/{name}", level, CORRUPTIONS[name], parameters_at)
    return check_by_trial(shift) if constants else shift


def _check_constant(name: str, key: str, value: float) -> None:
    """Refuse constants far from the published ones, which could take all memory, or hours."""
    place = CONSTANTS[name].names.index(key)
    sizes = (8, 64, 224)  # one for each published set
    published = [
        abs(list(CONSTANTS[name].at(severity, size).values())[place])
        for severity in range(1, 6)
        for size in sizes
    ]
    most = LARGEST_FACTOR * max(published)
    least = min((each for each in published if each), default=0.0) / LARGEST_FACTOR
    if abs(value) > most or 0 < abs(value) < least:
        raise InputError(
            f"imagenet_c/{name}: {key} must be between {least:g} and {most:g} (within a factor of "
            f"{LARGEST_FACTOR} of the published values), found {format_number(value)}"
        )


def parameter_names(name: str) -> tuple[str, ...]:
    """Return the names of the keyword parameters of a corruption's shift, the level first.

    >>> parameter_names("fog")
    ('severity', 'image_size', 'amount', 'decay')
    """
    return ("severity", "image_size", *CONSTANTS[name].names)


def severity_note(name: str, parameters: Mapping[str, Parameter]) -> str:
    """Return the constants of a corruption as text, if its `image_size` is given, else "".

    >>> severity_note("fog", {"severity": 2, "image_size": 32, "decay": 2.5})
    'amount 0.5, decay 2.5'
    """
    if "image_size" not in parameters:
        return ""
    severity, image_size = (int(parameters[key]) for key in ("severity", "image_size"))
    published = CONSTANTS[name].at(severity, image_size)
    return ", ".join(
        f"{key} {format_number(parameters.get(key, published[key]))}" for key in published
    )

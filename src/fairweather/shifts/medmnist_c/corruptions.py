"""The corruptions of MedMNIST-C, one family per 2-D MedMNIST set (twelve), for whole batches.

The functions have the same two forms as in `shifts.imagenet_c`, with the same rules for images and
generators; if the operation is the same, the function is the same too. Names, parameters and their
five values per data set are in constants.json.

Size. The published constants are for images of 224 px. For other sizes, a corruption looks as on a
224 px image that is then resized: every length in pixels (kernels, bubbles, drawings of ink,
margins, letters) is multiplied by `min(H, W) / 224`. Lengths are not rounded to whole pixels: the
taps of a kernel are shared linearly between pixels, and layers over the image are resized by area.
So at 224 px it is exactly the published operation; no length is rounded to 0 or to another
severity's length; and images of 28 px change as if their 224 px originals had been corrupted and
then shrunk. Shares of the side (pixelate, zoom_blur, black_corner), factors, amplitudes of noise
and JPEG's quality contain no length and are used as published. The small side of pixelate is a
whole number, so its severities 4 and 5 for PathMNIST are the same at 8 px.

Grey sets. As in medmnistc, grey images are corrupted as RGB and the result is converted to grey:
the three channels are equal again, and the noise of three channels is averaged. Colour images
become grey too.

Kept as in medmnistc 0.1.0: the severity of stain_deposit chooses between drawings of 24 and 32 px,
and severities 3 and 4 for BloodMNIST are the same; severities 4 and 5 of black_corner are in the
wrong order.

Source of the constants: F. Di Salvo, S. Doerrich and C. Ledig, "MedMNIST-C: Comprehensive benchmark
and improved classifier robustness by simulating realistic image corruptions" (2024), as in the
package medmnistc 0.1.0, medmnistc/corruptions/registry.py: CORRUPTIONS_DS, in its order, and
DATASET_RGB. If it lists six values, its severities use the first five. The names of the parameters
are this project's; constants.json says what each is. Lengths are in pixels of 224 px images.

"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.files.folders import read_facts
from fairweather.shifts.corruption import (
    Corruption,
    check_by_trial,
    check_severity,
    make_corruption_shift,
)
from fairweather.shifts.imagenet_c.blur import zoom_blur
from fairweather.shifts.imagenet_c.digital import jpeg_compression, pixelate
from fairweather.shifts.imagenet_c.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from fairweather.shifts.medmnist_c.layers import black_corner, bubble, characters, stain_deposit
from fairweather.shifts.medmnist_c.operations import (
    brightness_factor,
    contrast,
    defocus_blur,
    gamma,
    gaussian_blur,
    motion_blur,
    saturate,
    to_grey,
)
from fairweather.shifts.ranges import check_arguments
from fairweather.types.measurement import Parameter, ShiftFunction, format_number

# ---------------------------------------------------------------- the table of the published consta

_Row = tuple[float, ...]


class DatasetCorruptions(NamedTuple):
    """The corruptions of a data set.

    Attributes:
        grey: are its images grey; then corrupted images are converted back to grey.
        rows: for each corruption, the parameters at severities 1 to 5.
    """

    grey: bool
    rows: Mapping[str, tuple[_Row, ...]]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names in the registry's order."""
        return tuple(self.rows)


_FACTS = read_facts("fairweather.shifts.medmnist_c", "constants")
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(meanings) for name, meanings in _FACTS["parameters"].items()
}
FAMILIES: Mapping[str, DatasetCorruptions] = {
    dataset: DatasetCorruptions(
        facts["grey"],
        {name: tuple(map(tuple, rows)) for name, rows in facts["corruptions"].items()},
    )
    for dataset, facts in _FACTS["datasets"].items()
}


def published_constants(name: str, dataset: str, severity: int) -> dict[str, float]:
    """Return a corruption's parameters for a data set at a severity, 1 to 5.

    Raises:
        InputError: the data set is not one of the twelve, or it does not have the corruption.

    >>> published_constants("bubble", "pathmnist", severity=1)
    {'max_radius': 7, 'max_bubbles': 15}
    """
    if dataset not in FAMILIES:
        raise unknown_name("data set of MedMNIST-C", dataset, FAMILIES)
    family = FAMILIES[dataset]
    if name not in family.rows:
        raise InputError(
            f"medmnist_c/{name}: {dataset} does not have this corruption; "
            f"it has {', '.join(family.corruptions)}"
        )
    return dict(zip(PARAMETERS[name], family.rows[name][severity - 1], strict=True))


# ---------------------------------------------------------------- the corruptions of MedMNIST-C, on

DEFAULT_DATASET = "pathmnist"  # the data set whose constants are used if none is named
CORRUPTIONS: Mapping[str, Corruption] = {
    "pixelate": Corruption(pixelate, "Pixelate", random=False),
    "jpeg_compression": Corruption(jpeg_compression, "JPEG compression", random=False),
    "gaussian_noise": Corruption(gaussian_noise, "Gaussian noise", random=True),
    "speckle_noise": Corruption(speckle_noise, "Speckle noise", random=True),
    "impulse_noise": Corruption(impulse_noise, "Impulse noise", random=True),
    "shot_noise": Corruption(shot_noise, "Shot noise", random=True),
    "gaussian_blur": Corruption(gaussian_blur, "Gaussian blur (MedMNIST-C)", random=False),
    "defocus_blur": Corruption(defocus_blur, "Defocus blur", random=False),
    "motion_blur": Corruption(motion_blur, "Motion blur", random=True),
    "zoom_blur": Corruption(zoom_blur, "Zoom blur", random=False),
    "brightness_up": Corruption(brightness_factor, "Brightness up", random=False),
    "brightness_down": Corruption(brightness_factor, "Brightness down", random=False),
    "contrast_up": Corruption(contrast, "Contrast up", random=False),
    "contrast_down": Corruption(contrast, "Contrast down", random=False),
    "saturate": Corruption(saturate, "Saturate (additive)", random=False),
    "stain_deposit": Corruption(stain_deposit, "Stain deposit", random=True),
    "bubble": Corruption(bubble, "Bubble", random=True),
    "gamma_corr_up": Corruption(gamma, "Gamma up", random=False),
    "gamma_corr_down": Corruption(gamma, "Gamma down", random=False),
    "black_corner": Corruption(black_corner, "Black corner", random=False),
    "characters": Corruption(characters, "Characters", random=True),
}


def corruption(
    name: str, *, severity: float, dataset: str = DEFAULT_DATASET, **constants: float
) -> ShiftFunction:
    """Make a corruption of `CORRUPTIONS` at a severity.

    The random numbers depend on name, severity, seed and the image's key, and not on the data set
    or the constants.

    Args:
        name: the name of the corruption, such as `bubble`.
        severity: 1, 2, 3, 4 or 5.
        dataset: the data set whose published constants are used, a key of `FAMILIES`.
        constants: values that replace the published ones.
    """
    level = check_severity(f"medmnist_c/{name}", severity)
    parameters = published_constants(name, dataset, level) | constants
    function = CORRUPTIONS[name].function
    check_arguments(function.__name__, function, constants)
    finish = (to_grey,) if FAMILIES[dataset].grey else ()
    shift = make_corruption_shift(
        f"medmnist_c/{name}", level, CORRUPTIONS[name], lambda side: parameters, *finish
    )
    return check_by_trial(shift) if constants else shift


def parameter_names(name: str) -> tuple[str, ...]:
    """Return the names of the keyword parameters of a corruption's shift, the level first.

    >>> parameter_names("bubble")
    ('severity', 'dataset', 'max_radius', 'max_bubbles')
    """
    return ("severity", "dataset", *PARAMETERS[name])


def severity_note(name: str, parameters: Mapping[str, Parameter]) -> str:
    """Return a corruption's data set and constants as text.

    >>> severity_note("bubble", {"severity": 2, "max_radius": 8})
    'pathmnist: max_radius 8, max_bubbles 15'
    """
    dataset = str(parameters.get("dataset", DEFAULT_DATASET))
    constants = published_constants(name, dataset, int(parameters["severity"]))
    values = ", ".join(
        f"{key} {format_number(parameters.get(key, constants[key]))}" for key in constants
    )
    return f"{dataset}: {values}"

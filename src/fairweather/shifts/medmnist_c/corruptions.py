"""The corruptions of MedMNIST-C, one family per 2-D MedMNIST set (twelve), for whole batches.

The functions have the same two forms as in `shifts.imagenet_c`, with the same rules for images and
generators. Equal operations share one function. Names, parameters and their five values per data
set are in constants.json.

Size. The published constants are for images of 224 px. For other sizes, a corruption looks as on a
224 px image that is then resized. Every length in pixels (kernels, bubbles, drawings of ink,
margins, letters) is multiplied by `min(H, W) / 224`. Lengths are not rounded to whole pixels: the
taps of a kernel are shared linearly between pixels, and layers over the image are resized by area.
So at 224 px it is exactly the published operation, and no length is rounded to 0 or to another
severity's length. Images of 28 px change as if their 224 px originals had been corrupted and then
shrunk. Shares of the side (pixelate, zoom_blur, black_corner), factors, amplitudes of noise and
JPEG's quality contain no length and are used as published. The small side of pixelate is a whole
number, so its severities 4 and 5 for PathMNIST are the same at 8 px.

Grey sets. As in medmnistc, grey images are corrupted as RGB and the result is converted to grey.
The three channels are equal again, and their noise is averaged. Colour images become grey too.

Kept as in medmnistc 0.1.0: the severity of stain_deposit chooses between drawings of 24 and 32 px.
Severities 3 and 4 for BloodMNIST are the same, and 4 and 5 of black_corner are in the wrong order.

Source of the constants: F. Di Salvo, S. Doerrich and C. Ledig, "MedMNIST-C: Comprehensive benchmark
and improved classifier robustness by simulating realistic image corruptions" (2024), as in the
package medmnistc 0.1.0, medmnistc/corruptions/registry.py: CORRUPTIONS_DS, in its order, and
DATASET_RGB. If it lists six values, its severities use the first five. The names of the parameters
are this project's; constants.json says what each is. Lengths are in pixels of 224 px images.
"""

from __future__ import annotations

from collections.abc import Mapping

from fairweather.errors import InputError, unknown_name
from fairweather.files.folders import read_facts
from fairweather.shifts.corruption import Corruption, check_severity, make_corruption_shift
from fairweather.shifts.imagenet_c import blur, digital, noise
from fairweather.shifts.medmnist_c import layers, operations
from fairweather.types.measurement import Parameter, ShiftFunction, format_number

_FACTS = read_facts("fairweather.shifts.medmnist_c", "constants")
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(meanings) for name, meanings in _FACTS["parameters"].items()
}
# The parameters at severities 1 to 5 of each corruption of each data set, in the registry's order.
FAMILIES: Mapping[str, Mapping[str, tuple[tuple[float, ...], ...]]] = {
    dataset: {name: tuple(map(tuple, rows)) for name, rows in facts["corruptions"].items()}
    for dataset, facts in _FACTS["datasets"].items()
}
# Corrupted images of these data sets are converted back to grey.
GREY_DATASETS = frozenset(name for name, facts in _FACTS["datasets"].items() if facts["grey"])
DEFAULT_DATASET = "pathmnist"  # the data set whose constants are used if none is named

CORRUPTIONS: Mapping[str, Corruption] = {
    "pixelate": Corruption(digital.pixelate, "Pixelate"),
    "jpeg_compression": Corruption(digital.jpeg_compression, "JPEG compression"),
    "gaussian_noise": Corruption(noise.gaussian_noise, "Gaussian noise"),
    "speckle_noise": Corruption(noise.speckle_noise, "Speckle noise"),
    "impulse_noise": Corruption(noise.impulse_noise, "Impulse noise"),
    "shot_noise": Corruption(noise.shot_noise, "Shot noise"),
    "gaussian_blur": Corruption(operations.gaussian_blur, "Gaussian blur (MedMNIST-C)"),
    "defocus_blur": Corruption(operations.defocus_blur, "Defocus blur"),
    "motion_blur": Corruption(operations.motion_blur, "Motion blur"),
    "zoom_blur": Corruption(blur.zoom_blur, "Zoom blur"),
    "brightness_up": Corruption(operations.brightness_factor, "Brightness up"),
    "brightness_down": Corruption(operations.brightness_factor, "Brightness down"),
    "contrast_up": Corruption(operations.contrast, "Contrast up"),
    "contrast_down": Corruption(operations.contrast, "Contrast down"),
    "saturate": Corruption(digital.saturate, "Saturate (additive)"),
    "stain_deposit": Corruption(layers.stain_deposit, "Stain deposit"),
    "bubble": Corruption(layers.bubble, "Bubble"),
    "gamma_corr_up": Corruption(operations.gamma, "Gamma up"),
    "gamma_corr_down": Corruption(operations.gamma, "Gamma down"),
    "black_corner": Corruption(layers.black_corner, "Black corner"),
    "characters": Corruption(layers.characters, "Characters"),
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
    if name not in family:
        raise InputError(
            f"medmnist_c/{name}: {dataset} does not have this corruption; "
            f"it has {', '.join(family)}"
        )
    return dict(zip(PARAMETERS[name], family[name][severity - 1], strict=True))


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
    published = published_constants(name, dataset, level)
    finish = (operations.to_grey,) if dataset in GREY_DATASETS else ()
    return make_corruption_shift(
        f"medmnist_c/{name}", level, CORRUPTIONS[name], lambda side: published, constants, *finish
    )


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

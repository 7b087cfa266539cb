"""Reading the goldens: README.md says what each file holds and how it was made."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent


@cache
def archive(name):
    with np.load(HERE / f"{name}.npz") as arrays:
        return dict(arrays)


@cache
def published(set_name):
    """A set of constants.json: source, size, corruptions with parameters and severities."""
    return json.loads((HERE / "constants.json").read_text())["sets"][set_name]


def parameters(set_name, corruption, severity):
    """{name: value} of a corruption at severity 1-5 of cifar10_c, tiny_imagenet_c, imagenet_c."""
    table = published(set_name)["corruptions"][corruption]
    return dict(zip(table["parameters"], table["severities"][severity - 1], strict=True))


def exact(corruption, severity, image="scene"):
    """What imagenet-c 0.0.3 put out, generator seeded with the severity: (windows, block means).

    8 bits [3, 40, 40, 3] and float32 [14, 14, 3]; `measure.windows` and `measure.block_means` cut
    another output [224, 224, 3] the same way.
    """
    kept = archive("imagenet_c_exact")
    name = f"{corruption}.{image}"
    return kept[f"{name}.windows"][severity - 1], kept[f"{name}.blocks"][severity - 1]


def draws(corruption, severity):
    """Means over 200 draws on `scene` and their standard errors: moments [2, 5, 3], spectrum [16].

    Keys moments, moments_error, spectrum, spectrum_error: `measure.region_moments`, `spectrum`.
    """
    return {
        name: rows[severity - 1] for name, rows in archive(f"imagenet_c_draws_{corruption}").items()
    }


def frost_photos(scale=1.0):
    """The six photographs in 8-bit RGB from the package imagecorruptions; None without it."""
    from tests.helpers.reference_corruptions import shrunk

    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "frost"
    files = [folder / f"frost{k}.{'png' if k < 4 else 'jpg'}" for k in range(1, 7)]
    photos = [np.array(Image.open(file).convert("RGB")) for file in files]
    return photos if scale == 1 else [shrunk(photo, scale) for photo in photos]

"""A corruption at a severity of a data set's family, as a shift."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fairweather.errors import InputError
from fairweather.shifts.draws import image_generators
from fairweather.shifts.imagenet_c.severities import SMALLEST
from fairweather.shifts.medmnist_c import CORRUPTIONS
from fairweather.shifts.medmnist_c.colour import grey
from fairweather.shifts.medmnist_c.constants import FAMILIES, PARAMETERS, published
from fairweather.types import Parameter, ShiftFunction, shortest

DEFAULT = "pathmnist"


def corruption(
    name: str, *, severity: float, dataset: str = DEFAULT, **constants: float
) -> ShiftFunction:
    """Make a corruption of `CORRUPTIONS` at a severity.

    The numbers that it draws depend on name, severity, seed and the image's key, and not on the
    data set or the constants.

    Args:
        name: of the corruption, such as `bubble`.
        severity: 1, 2, 3, 4 or 5.
        dataset: whose published constants, a key of `FAMILIES`.
        constants: instead of the published ones.
    """
    if severity not in (1, 2, 3, 4, 5):
        raise InputError(
            f"medmnist_c/{name}: severity must be 1, 2, 3, 4 or 5, found {shortest(severity)}"
        )
    level = int(severity)
    row, parameters = CORRUPTIONS[name], published(name, dataset, level) | constants
    stream = f"medmnist_c/{name},severity={level}"

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST:
            raise InputError(
                f"medmnist_c/{name} needs images of at least {SMALLEST} pixels a side, "
                f"found {height}x{width}"
            )
        if len(images) == 0:
            return images.clone()
        # On the CPU, so that every device sees the same shifted images.
        pixels = np.ascontiguousarray(images.cpu().numpy())
        drawn = (image_generators(keys, seed, stream),) if row.random else ()
        changed = row.function(pixels, *drawn, **parameters)
        if FAMILIES[dataset].grey:
            changed = grey(changed)
        return torch.from_numpy(changed).to(images.device)

    if constants:  # what they may be, the corruption itself knows
        trial = torch.zeros(1, 3, SMALLEST, SMALLEST, dtype=torch.uint8)
        apply(trial, torch.zeros(1, dtype=torch.int64), 0)
    return apply


def parameter_names(name: str) -> tuple[str, ...]:
    """Give the keyword parameters of a corruption's shift, the level first.

    >>> parameter_names("bubble")
    ('severity', 'dataset', 'max_radius', 'max_bubbles')
    """
    return ("severity", "dataset", *PARAMETERS[name])


def severity_note(name: str, parameters: Mapping[str, Parameter]) -> str:
    """Write out whose constants a corruption has, and what they are.

    >>> severity_note("bubble", {"severity": 2, "max_radius": 8})
    'pathmnist: max_radius 8, max_bubbles 15'
    """
    dataset = str(parameters.get("dataset", DEFAULT))
    constants = published(name, dataset, int(parameters["severity"]))
    values = ", ".join(
        f"{key} {shortest(parameters.get(key, constants[key]))}" for key in constants
    )
    return f"{dataset}: {values}"

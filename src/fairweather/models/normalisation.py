"""Find out whether a module normalises its images itself, so that they are not normalised twice."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.models.preprocessing import in_words

MEANS = re.compile(r"(^|_)(means?|mu)$")
DEVIATIONS = re.compile(r"(^|_)(stds?|sigma)$")
RUNNING = re.compile(r"running_")  # those of batch norm, which are not statistics of images
CALLED = re.compile(r"(^|[a-z_])Normali[sz](e|er|ation)|^normali[sz]", re.ASCII)


def held_normalisation(module: nn.Module) -> str | None:
    """Say where a module already normalises its images; None if nothing like that is found.

    Found are: any part with a mean and a std of three numbers that change something, as in
    torchvision, kornia and this package (or of one number, if its class is called Normalize); a
    first layer, or one directly below the top, whose class is called Normalize or similar; and a
    torchvision transform in an attribute. Arithmetic in a `forward` cannot be found.

    >>> held_normalisation(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) is None
    True
    """
    parts = list(module.named_modules())
    first = next((name for name, part in parts if not list(part.children())), "")
    for name, part in parts:
        place = f"{name or 'its top'} ({type(part).__name__})"
        mean, std = (_numbers(part, pattern) for pattern in (MEANS, DEVIATIONS))
        # Noise has a mean and a deviation too: one number each does not make a normalisation.
        of_channels = len(mean or ()) == 3 or len(std or ()) == 3 or _called_normalize(part)
        if mean and std and of_channels and (set(mean), set(std)) != ({0.0}, {1.0}):
            return f"{place} with mean {in_words(mean)} and std {in_words(std)}"
        near_the_top = name and (name == first or "." not in name)
        if near_the_top and not mean and _called_normalize(part):
            return place
        if name == "" and (kept := _kept_transform(part)):
            return f"the transform in its attribute {kept}"
    return None


def check_not_normalised_twice(module: nn.Module, what: str) -> None:
    """Raise `InputError` if a module that gets a mean and std already normalises by itself."""
    if seen := held_normalisation(module):
        raise InputError(
            f"{what} already contains its own normalisation: {seen}; leave mean and std out, or "
            "remove it from the model"
        )


def _numbers(part: nn.Module, pattern: re.Pattern[str]) -> tuple[float, ...] | None:
    for name, value in _attributes(part):
        if not pattern.search(name) or RUNNING.search(name):
            continue
        if isinstance(value, torch.Tensor):
            value = value.detach().flatten().tolist()
        numbers = value if isinstance(value, list | tuple) else [value]
        plain = tuple(float(v) for v in numbers if isinstance(v, float | int))
        if len(plain) == len(numbers) and len(numbers) in (1, 3):
            return plain
    return None


def _attributes(part: nn.Module) -> Iterator[tuple[str, object]]:
    yield from part.named_buffers(recurse=False)
    yield from part.named_parameters(recurse=False)
    for name, value in vars(part).items():
        if not isinstance(value, bool):
            yield name, value


def _called_normalize(part: nn.Module) -> bool:
    # A layer that scales features to length one is called so too, but has an exponent.
    return bool(CALLED.search(type(part).__name__)) and not hasattr(part, "p")


def _kept_transform(part: nn.Module) -> str | None:
    for name, value in vars(part).items():
        steps = getattr(value, "transforms", [])
        if isinstance(steps, list) and any(CALLED.search(type(step).__name__) for step in steps):
            return name
    return None

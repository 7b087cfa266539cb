"""A trial before anything is written: whatever is asked for is tried on one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.types import Attack, Images, Shift


def try_shifts(shifts: Sequence[Shift | Attack], image: Images, seed: int) -> None:
    """Shift one image every way; raises `InputError` for what cannot be."""
    for shift in shifts:
        if isinstance(shift, Shift):
            shift(image.images, image.keys, seed)


def try_attacks(attacks: Sequence[Attack], model: nn.Module, image: Images, seed: int) -> None:
    """Ask every attack for an image that is wrong anyway: it checks all, and searches nothing.

    Raises `InputError` for what cannot be; a model that gives no gradients says so.
    """
    if not attacks:
        return
    inputs = image.images.float() / 255
    with torch.inference_mode():
        wrong = (model(inputs).argmax(1) + 1) % len(image.classes)
    for attack in attacks:
        attack(model, inputs, wrong, image.keys, seed)
    if any(attack.name != "square" for attack in attacks):
        model(inputs.requires_grad_())


@contextmanager
def explained(place: str, backbone: str, images: Images) -> Iterator[None]:
    """Say of whatever goes wrong where in the study it is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    # What a network does with images that it was not made for is its own: an assertion of a
    # transformer, an empty feature map of a deep stack of poolings.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = images.images.shape[2:]
        raise InputError(
            f"{place}: {backbone} cannot take images of {height}x{width} "
            f"({str(error).splitlines()[0]}); set input_size"
        ) from None

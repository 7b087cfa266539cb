"""A trial before anything is written: every shift and attack on one image, and enough images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.metrics.clusters import clusters_of
from fairweather.types import Attack, Images, Shift
from fairweather.variants import Variant


def try_shifts(shifts: Sequence[Shift | Attack], image: Images, seed: int) -> None:
    """Apply every shift to one image; raises `InputError` for the first that does not work."""
    for shift in shifts:
        if isinstance(shift, Shift):
            shift(image.images, image.keys, seed)


def try_attacks(attacks: Sequence[Attack], model: nn.Module, image: Images, seed: int) -> None:
    """Attack an image that the model gets wrong: attacks check their settings and do not search.

    Raises `InputError` for an attack that does not work, also if the model gives no gradients.
    """
    if not attacks:
        return
    inputs = image.images.float() / 255
    with torch.no_grad():
        wrong = (model(inputs).argmax(1) + 1) % len(image.classes)
    for attack in attacks:
        attack(model, inputs, wrong, image.keys, seed)
    if any(attack.name != "square" for attack in attacks):
        model(inputs.requires_grad_())


def try_fitting(variants: Sequence[Variant], validation: Images | None) -> None:
    """Raise `InputError` if there are too few validation images for what is fitted on them."""
    if validation is None:
        return
    keys, labels, clusters = validation.keys, validation.labels, clusters_of(validation.groups)
    for variant in variants:
        variant.check_images(keys.numpy(), labels.numpy(), validation.classes, clusters)


@contextmanager
def explained(place: str, backbone: str, images: Images) -> Iterator[None]:
    """Put the place in the study before every error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    # Networks fail in different ways with images that they were not made for: transformers with an
    # assertion, many poolings with an empty feature map.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = images.images.shape[2:]
        said = str(error).partition("\n")[0]
        raise InputError(
            f"{place}: {backbone} cannot take images of {height}x{width} ({said}); set input_size"
        ) from None

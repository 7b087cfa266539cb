"""Random views of whole batches of images, with parameters drawn for each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.training.selfsupervised import colours
from fairweather.training.selfsupervised.crops import Boxes, crop, draw_boxes
from fairweather.training.selfsupervised.recipe import Views

Kind = Literal[0, 1]  # the first or the second view: they differ in blur and solarization
JITTERS: Mapping[str, colours.Change] = {
    "brightness": colours.brightness,
    "contrast": colours.contrast,
    "saturation": colours.saturation,
    "hue": colours.hue,
}


class View(NamedTuple):
    """What is done to each of `n` images; arrays on the CPU.

    Attributes:
        boxes: crop and flip.
        jittered, greyed, blurred, solarized: bool `[n]`.
        order: int64 `[n, 4]`, places in `JITTERS`, first to last.
        amounts: float64 `[4, n]`, the parameter of each of `JITTERS`.
        sigma: float64 `[n]`, of the blur, in pixels.
    """

    boxes: Boxes
    jittered: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.float64]
    greyed: npt.NDArray[np.bool_]
    blurred: npt.NDArray[np.bool_]
    sigma: npt.NDArray[np.float64]
    solarized: npt.NDArray[np.bool_]


def two_views(
    images: torch.Tensor, views: Views, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make two views of each image, the first kind and the second.

    Args:
        images: uint8 `[B, 3, H, W]`.
        views: ranges and probabilities.
        rng: source of everything random.

    Returns two float32 tensors `[B, 3, H, W]` in [0, 1], channels last in memory. Nothing is
    rounded to 8 bits on the way, as it is where every step is an image of Pillow.

    >>> images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> first, second = two_views(images, Views(), np.random.default_rng(0))
    >>> first.shape, bool((first == second).all())
    (torch.Size([4, 3, 16, 16]), False)
    """
    return one_view(images, views, 0, rng), one_view(images, views, 1, rng)


def one_view(
    images: torch.Tensor, views: Views, kind: Kind, rng: np.random.Generator
) -> torch.Tensor:
    """Make one view of each image, of the first kind (0) or the second (1); see `two_views`."""
    height, width = images.shape[2:]
    return apply_view(images, draw_view(len(images), (height, width), views, kind, rng))


def draw_view(
    n: int, size: tuple[int, int], views: Views, kind: Kind, rng: np.random.Generator
) -> View:
    """Draw what is done to each of `n` images of `size` (height, width).

    >>> draw_view(2, (28, 28), Views(), 0, np.random.default_rng(0)).blurred.tolist()
    [True, True]
    """
    boxes = draw_boxes(n, size, views.crop_scale, views.horizontal_flip, rng)
    jittered, greyed, blurred, solarized = rng.random((4, n))
    order = rng.permuted(np.tile(np.arange(len(JITTERS)), (n, 1)), axis=1)
    low, high = np.array([_range(name, views) for name in JITTERS]).T[..., None]
    amounts = rng.uniform(low, high, (len(JITTERS), n))
    return View(
        boxes,
        jittered < views.jitter_probability,
        order,
        amounts,
        greyed < views.grayscale,
        blurred < views.blur[kind],
        rng.uniform(*views.blur_sigma, n),
        solarized < views.solarize[kind],
    )


def _range(name: str, views: Views) -> tuple[float, float]:
    """Give the range of a factor, which is not below 0, or of the turn of the hue."""
    width = float(getattr(views, name))
    return (-width, width) if name == "hue" else (max(0.0, 1 - width), 1 + width)


def apply_view(images: torch.Tensor, view: View) -> torch.Tensor:
    """Crop, flip, change colours, turn grey, blur, and solarize: uint8 in, float32 out."""
    changed = crop(images.float().div_(255), view.boxes)
    for place in range(len(JITTERS)):
        for number, change in enumerate(JITTERS.values()):
            chosen = view.jittered & (view.order[:, place] == number)
            _change(changed, chosen, change, view.amounts[number])
    _change(changed, view.greyed, lambda batch, _: colours.grey(batch).expand_as(batch))
    _change(changed, view.blurred, colours.blur, view.sigma)
    _change(changed, view.solarized, lambda batch, _: colours.solarize(batch))
    return changed.contiguous(memory_format=torch.channels_last)


def _change(
    images: torch.Tensor,
    chosen: npt.NDArray[np.bool_],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    amounts: npt.NDArray[np.float64] | None = None,
) -> None:
    """Change the chosen images in place; which these are is known without asking the device."""
    places = np.flatnonzero(chosen)
    if len(places):
        index = torch.from_numpy(places).to(images.device)
        given = np.zeros(len(places)) if amounts is None else amounts[places]
        images[index] = change(images[index], torch.from_numpy(given).to(images))

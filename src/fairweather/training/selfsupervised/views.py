"""Random views of whole batches of images, with parameters drawn for each image.

A view is a crop, resized with an antialiased bicubic filter, and changes of colour and sharpness.
The functions take float images `[B, 3, H, W]` in [0, 1] and float parameters `[B]` on the same
device. They return images of the same shape in [0, 1], equal to torchvision's for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fairweather.devices import send
from fairweather.training.selfsupervised.pretraining_recipe import Views

ASPECT_RANGE = (3 / 4, 4 / 3)  # range of width to height, as in torchvision
BOX_TRIES = 10  # random boxes per image; if none fits, the largest central one is used
SHARPNESS = -0.5  # of the bicubic filter: the value of Pillow, and of torch when it antialiases
LUMA = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R BT.601
KERNEL_SHARE = 10  # a blur's kernel is about a tenth of the image (Chen et al. 2020, appendix A)
SOLARIZE_FROM = 0.5
ColourChange = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ViewKind = Literal[0, 1]  # the first or the second view: they differ in blur and solarization


class CropBoxes(NamedTuple):
    """The crop of each image in whole pixels, float64 `[n]`, and whether to flip it, bool `[n]`."""

    top: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]


def draw_boxes(n: int, size: tuple[int, int], views: Views, rng: np.random.Generator) -> CropBoxes:
    """Draw a box for each of `n` images of `size` (height, width), as `RandomResizedCrop` does.

    The area is uniform in `crop_scale`; the logarithm of the aspect ratio is uniform between those
    of 3/4 and 4/3. If none of ten boxes fits, an image gets the largest central box of an allowed
    ratio.

    >>> views = Views(crop_scale=(0.2, 1.0))
    >>> draw_boxes(3, (28, 28), views, np.random.default_rng(0)).height.tolist()
    [22.0, 19.0, 15.0]
    """
    high, wide = size
    area = high * wide * rng.uniform(*views.crop_scale, (BOX_TRIES, n))
    ratio = np.exp(
        rng.uniform(math.log(ASPECT_RANGE[0]), math.log(ASPECT_RANGE[1]), (BOX_TRIES, n))
    )
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width >= 1) & (width <= wide) & (height >= 1) & (height <= high)
    first = fits.argmax(0), np.arange(n)
    some_fit = fits[first]
    width = np.where(some_fit, width[first], min(wide, round(high * ASPECT_RANGE[1])))
    height = np.where(some_fit, height[first], min(high, round(wide / ASPECT_RANGE[0])))
    down, right, mirror = rng.random((3, n))
    return CropBoxes(
        np.where(some_fit, np.floor(down * (high - height + 1)), (high - height) // 2),
        np.where(some_fit, np.floor(right * (wide - width + 1)), (wide - width) // 2),
        height,
        width,
        mirror < views.horizontal_flip,
    )


def crop(images: torch.Tensor, boxes: CropBoxes) -> torch.Tensor:
    """Cut a box out of each image, resize it to the size of the image, and flip some.

    The resize is a product with one matrix per image and direction, which does whole batches at
    once. The filter is Pillow's antialiased bicubic one. Results are clipped to [0, 1], as Pillow
    clips to 8 bits.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        boxes: one box per image, inside the image.

    >>> whole = CropBoxes(*np.array([[0.0], [0.0], [8.0], [8.0]]), np.array([False]))
    >>> images = torch.rand(1, 3, 8, 8)
    >>> bool(torch.allclose(crop(images, whole), images, atol=1e-6))
    True
    """
    height, width = images.shape[2:]
    drawn = torch.from_numpy(np.stack(boxes)).to(images.dtype)
    top, left, high, wide, flip = send(drawn, images.device)
    rows = _resize_matrices(top, high, height)
    columns = _resize_matrices(left, wide, width)
    columns = torch.where(flip.bool().reshape(-1, 1, 1), columns.flip(1), columns)
    return (rows[:, None] @ images @ columns.transpose(1, 2)[:, None]).clamp_(0, 1)


def _resize_matrices(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Give the matrices `[B, size, size]` that resize a part of a line to the whole line."""
    places = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    start, length = start.reshape(-1, 1, 1), length.reshape(-1, 1, 1)
    step = length / size
    centres = start + places[:, None] * step
    # If a part shrinks, the filter is as wide as the pixels that become one, against aliasing.
    distance = (places - centres).abs() / step.clamp(min=1)
    weights = _bicubic(distance) * ((places > start) & (places < start + length))
    return weights / weights.sum(2, keepdim=True)


def _bicubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys 1981, equation 15, for distances >= 0 in pixels."""
    a, x = SHARPNESS, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply, and clip.

    >>> brightness(torch.full((1, 3, 8, 8), 0.5), torch.tensor([1.5])).max()
    tensor(0.7500)
    """
    return (images * _per_image(factor)).clamp_(0, 1)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move away from the mean grey value of the image by a factor, and clip."""
    return _blend_towards(images, grey(images).mean((2, 3), keepdim=True), factor)


def saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move away from the grey value of each pixel by a factor, and clip."""
    return _blend_towards(images, grey(images), factor)


def hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Turn the hue by a share of the whole circle; saturation and value of HSV stay the same.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    >>> hue(red, torch.tensor([1 / 3])).flatten().tolist()
    [0.0, 1.0, 0.0]
    """
    value, top = images.max(1)
    least = images.amin(1)
    chroma = value - least
    red, green, blue = images.unbind(1)
    across = torch.stack([green - blue, blue - red, red - green], 1).gather(1, top[:, None])[:, 0]
    sextant = across / chroma.clamp(min=torch.finfo(images.dtype).tiny) + 2 * top
    sextant = sextant + 6 * turn.reshape(-1, 1, 1)
    # In sextants of the circle: a channel is `value` up to one sextant from its own hue, `least`
    # from two sextants on, and linear between.
    offsets = torch.arange(0, 6, 2, device=images.device, dtype=images.dtype)
    away = ((sextant[:, None] - offsets.reshape(1, 3, 1, 1) + 3) % 6 - 3).abs()
    return (least[:, None] + chroma[:, None] * (2 - away).clamp_(0, 1)).clamp_(0, 1)


def grey(images: torch.Tensor) -> torch.Tensor:
    """Give the grey value of each pixel, `[B, 1, H, W]`."""
    weights = send(torch.tensor(LUMA, dtype=images.dtype), images.device)
    return (images * weights.reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur with a Gaussian of `sigma` pixels, cut off at a tenth of the image, at least 3 pixels.

    The kernel has an odd size, and borders are reflected.

    >>> blur(torch.ones(1, 3, 28, 28), torch.tensor([2.0])).mean().round(decimals=4)
    tensor(1.)
    """
    for dimension in (2, 3):
        images = _blur_along(images, dimension, sigma)
    return images.clamp(0, 1)


def blur_radius(size: int) -> int:
    """Give the number of pixels on each side of the middle of a blur's kernel.

    >>> [2 * blur_radius(size) + 1 for size in (28, 32, 224)]
    [3, 3, 23]
    """
    return max(1, size // KERNEL_SHARE // 2)


def solarize(images: torch.Tensor) -> torch.Tensor:
    """Invert values of 0.5 or more."""
    return torch.where(images >= SOLARIZE_FROM, 1 - images, images)


def _blur_along(images: torch.Tensor, dimension: int, sigma: torch.Tensor) -> torch.Tensor:
    size = images.shape[dimension]
    radius = blur_radius(size)
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = torch.softmax(-0.5 * (taps / sigma[:, None]).square(), 1)
    pad = (radius, radius, 0, 0) if dimension == 3 else (0, 0, radius, radius)
    padded = F.pad(images, pad, mode="reflect")
    # A sum over few taps is faster than a convolution with one kernel per image.
    parts = (
        padded.narrow(dimension, tap, size) * _per_image(weight)
        for tap, weight in enumerate(weights.T)
    )
    return torch.stack(list(parts)).sum(0)


def _blend_towards(
    images: torch.Tensor, towards: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    return torch.lerp(towards.expand_as(images), images, _per_image(factor)).clamp_(0, 1)


def _per_image(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.reshape(-1, 1, 1, 1)


JITTERS: Mapping[str, ColourChange] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}


class ViewDraws(NamedTuple):
    """The random changes of `n` images; arrays on the CPU."""

    boxes: CropBoxes
    """Crop and flip."""

    jittered: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]
    """int64 `[n, 4]`, indices into `JITTERS`, first to last."""

    amounts: npt.NDArray[np.float64]
    """float64 `[4, n]`, the parameter of each of `JITTERS`."""

    greyed: npt.NDArray[np.bool_]
    blurred: npt.NDArray[np.bool_]
    sigma: npt.NDArray[np.float64]
    """float64 `[n]`, standard deviation of the blur in pixels."""

    solarized: npt.NDArray[np.bool_]
    """`jittered`, `greyed`, `blurred`, `solarized`: bool `[n]`."""


def make_two_views(
    images: torch.Tensor, views: Views, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make two views of each image, the first kind and the second.

    Args:
        images: uint8 `[B, 3, H, W]`.
        views: ranges and probabilities.
        rng: the only random source.

    Returns two float32 tensors `[B, 3, H, W]` in [0, 1], channels last in memory. Unlike in Pillow,
    values are not rounded to 8 bits after each change.

    >>> images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    >>> first, second = make_two_views(images, Views(), np.random.default_rng(0))
    >>> first.shape, bool((first == second).all())
    (torch.Size([4, 3, 16, 16]), False)
    """
    return make_view(images, views, 0, rng), make_view(images, views, 1, rng)


def make_view(
    images: torch.Tensor, views: Views, kind: ViewKind, rng: np.random.Generator
) -> torch.Tensor:
    """Make one view of each image, of the first kind (0) or the second (1)."""
    height, width = images.shape[2:]
    return apply_view(images, draw_view(len(images), (height, width), views, kind, rng))


def draw_view(
    n: int, size: tuple[int, int], views: Views, kind: ViewKind, rng: np.random.Generator
) -> ViewDraws:
    """Draw the random changes of `n` images of `size` (height, width).

    >>> draw_view(2, (28, 28), Views(), 0, np.random.default_rng(0)).blurred.tolist()
    [True, True]
    """
    boxes = draw_boxes(n, size, views, rng)
    jittered, greyed, blurred, solarized = rng.random((4, n))
    order = rng.permuted(np.tile(np.arange(len(JITTERS)), (n, 1)), axis=1)
    low, high = np.array([_jitter_range(name, views) for name in JITTERS]).T[..., None]
    amounts = rng.uniform(low, high, (len(JITTERS), n))
    return ViewDraws(
        boxes,
        jittered < views.jitter_probability,
        order,
        amounts,
        greyed < views.grayscale,
        blurred < views.blur[kind],
        rng.uniform(*views.blur_sigma, n),
        solarized < views.solarize[kind],
    )


def _jitter_range(name: str, views: Views) -> tuple[float, float]:
    """Give the range of a factor, which is not below 0, or of the turn of the hue."""
    width = float(getattr(views, name))
    return (-width, width) if name == "hue" else (max(0.0, 1 - width), 1 + width)


def apply_view(images: torch.Tensor, view: ViewDraws) -> torch.Tensor:
    """Crop, flip, change colours, turn grey, blur, and solarize: uint8 in, float32 out."""
    changed = crop(images.float().div_(255), view.boxes)
    for place in range(len(JITTERS)):
        for number, change in enumerate(JITTERS.values()):
            chosen = view.jittered & (view.order[:, place] == number)
            _change_chosen(changed, chosen, change, view.amounts[number])
    _change_chosen(changed, view.greyed, lambda batch, _: grey(batch).expand_as(batch))
    _change_chosen(changed, view.blurred, blur, view.sigma)
    _change_chosen(changed, view.solarized, lambda batch, _: solarize(batch))
    return changed.contiguous(memory_format=torch.channels_last)


def _change_chosen(
    images: torch.Tensor,
    chosen: npt.NDArray[np.bool_],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    amounts: npt.NDArray[np.float64] | None = None,
) -> None:
    """Change the chosen images in place; `chosen` is on the CPU, so no wait for the device."""
    places = np.flatnonzero(chosen)
    if len(places):
        index = send(torch.from_numpy(places), images.device)
        given = torch.from_numpy(np.zeros(len(places)) if amounts is None else amounts[places])
        images[index] = change(images[index], send(given.to(images.dtype), images.device))

"""Pillow's image operations for random policies, by name, on whole batches of images.

Pillow is the reference for all of them, since the published policies were made with it. Images are
uint8 `[B, 3, H, W]`; magnitudes are `[B]`, of any real dtype and best on the CPU. Affine operations
take the nearest source pixel, or interpolate between pixels, with one matrix per image. Operations
on pixel values equal Pillow's to the last bit for each image. On devices without
float64, `autocontrast` may be off by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fairweather.devices import send, widest_float

Lookup = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Fraction bits of a source coordinate. Pillow has 16 for nearest neighbours. For linear
# interpolation it computes in float64, which not every device has.
_NEAREST_BITS, _LINEAR_BITS = 16, 32


def look_up_nearest(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Look up the nearest source pixel of every pixel, black outside the image.

    Equal to the last bit to `PIL.Image.transform(AFFINE, NEAREST)`.

    Args:
        images: uint8 `[B, 3, H, W]`.
        matrices: float64 `[B, 6]` on the CPU, Pillow's `(a, b, c, d, e, f)`. The pixel with centre
            (x, y) comes from (a x + b y + c, d x + e y + f), in pixels from the top left corner.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> one_to_the_right = torch.tensor([[1, 0, -1, 0, 1, 0]], dtype=torch.float64)
    >>> look_up_nearest(image, one_to_the_right)[0, 0].tolist()
    [[0, 0], [0, 2]]
    """
    height, width = images.shape[2:]
    column, row = _source_places(images, matrices, _NEAREST_BITS)
    column, row = column >> _NEAREST_BITS, row >> _NEAREST_BITS
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    picked = _pick_pixels(images, column.clamp_(0, width - 1), row.clamp_(0, height - 1))
    return picked * inside[:, None]


def interpolate_bilinear(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between source pixels and drop the fraction, black outside the image.

    Equal to `PIL.Image.transform(AFFINE, BILINEAR)`, except that values are interpolated in
    float32: about one value in 100,000 is off by one.

    Args:
        images: uint8 `[B, 3, H, W]`.
        matrices: as for `nearest`.

    >>> image = torch.tensor([0, 100, 200] * 3, dtype=torch.uint8).reshape(1, 3, 1, 3)
    >>> half_to_the_right = torch.tensor([[1, 0, -0.5, 0, 1, 0]], dtype=torch.float64)
    >>> interpolate_bilinear(image, half_to_the_right)[0, 0].tolist()
    [[0, 50, 150]]
    """
    height, width = images.shape[2:]
    pixel = 1 << _LINEAR_BITS
    column, row = _source_places(images, matrices, _LINEAR_BITS)
    inside = (column >= 0) & (column < width * pixel) & (row >= 0) & (row < height * pixel)
    left, right, across = _neighbours(column, width)
    upper, lower, down = _neighbours(row, height)
    values = images.float()
    top = _interpolate(
        _pick_pixels(values, left, upper), _pick_pixels(values, right, upper), across
    )
    bottom = _interpolate(
        _pick_pixels(values, left, lower), _pick_pixels(values, right, lower), across
    )
    return _interpolate(top, bottom, down).mul_(inside[:, None]).to(torch.uint8)


def rotate(
    images: torch.Tensor, degrees: torch.Tensor, lookup: Lookup = look_up_nearest
) -> torch.Tensor:
    """Rotate counter-clockwise about the centre; pixels from outside the image are black.

    Equal to `PIL.Image.rotate`.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> rotate(image, torch.tensor([90]))[0, 0].tolist()
    [[1, 3], [0, 2]]
    """
    height, width = images.shape[2:]
    angle = -degrees.cpu().double() * (math.pi / 180)
    # Rounded as Pillow does it, so that quarter turns are exact.
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    right = width / 2 - cos * (width / 2) - sin * (height / 2)
    down = height / 2 + sin * (width / 2) - cos * (height / 2)
    return lookup(images, torch.stack((cos, sin, right, -sin, cos, down), 1))


def move(
    images: torch.Tensor, amounts: torch.Tensor, place: int, lookup: Lookup = look_up_nearest
) -> torch.Tensor:
    """Shear or translate: each amount replaces one of the six numbers of the identity matrix.

    Equal to `PIL.Image.transform(AFFINE, (1, 0, 0, 0, 1, 0))` with that number. At place 1, every
    row moves left by the amount times its distance from the upper edge. At 3, every column moves up
    by the amount times its distance from the left edge. At 2 and 5, images move left and up by that
    many pixels. Pixels from outside the image are black.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> [move(image, torch.tensor([amount]), place)[0, 0].tolist() for amount, place in (
    ...     (0.5, 1), (0.5, 3), (1, 2), (-1, 5)
    ... )]
    [[[0, 1], [3, 0]], [[0, 3], [2, 0]], [[1, 0], [3, 0]], [[0, 0], [0, 1]]]
    """
    matrices = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(len(amounts), 1)
    matrices[:, place] = amounts.cpu().double()
    return lookup(images, matrices)


def _source_places(
    images: torch.Tensor, matrices: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each pixel comes from: columns and rows int64 `[B, H, W]` with `bits` fraction bits."""
    height, width = images.shape[2:]
    from_corner = matrices.clone()
    from_corner[:, 2::3] += 0.5 * (matrices[:, 0::3] + matrices[:, 1::3])
    fixed = send((from_corner * 2**bits + 0.5).floor().long(), images.device)
    a, b, c, d, e, f = fixed.reshape(-1, 6, 1, 1).unbind(1)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    return (a * x + c) + b * y, (d * x + f) + e * y


def _neighbours(place: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two pixels around a coordinate, and its distance from the first, in [0, 1]."""
    place = place - (1 << (_LINEAR_BITS - 1))
    first = place >> _LINEAR_BITS
    share = (place & ((1 << _LINEAR_BITS) - 1)).float().mul_(2.0**-_LINEAR_BITS)
    return first.clamp(0, size - 1), (first + 1).clamp_(0, size - 1), share[:, None]


def _pick_pixels(images: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    source = (row * images.shape[3] + column).flatten(1)[:, None]
    flat = images.flatten(2)
    return flat.gather(2, source.expand_as(flat)).reshape(images.shape)


def _interpolate(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    # Pillow's formula; `torch.lerp` rounds differently. In place, because memory access dominates.
    return second.sub_(first).mul_(share).add_(first)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch each channel until its darkest value is 0 and its brightest 255.

    Equal to `PIL.ImageOps.autocontrast`, which drops fractions: the brightest may become 254.

    >>> autocontrast(torch.tensor([10, 15, 20] * 3, dtype=torch.uint8).reshape(1, 3, 1, 3))[0, 0]
    tensor([[  0, 127, 255]], dtype=torch.uint8)
    """
    # As Pillow computes it: with fewer bits, or with a reciprocal, some results are one too low.
    exact = widest_float(images.device)
    low, high = (end.to(exact)[..., None] for end in images.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    values = torch.arange(256, device=images.device)
    stretched = (values * scale - low * scale).clamp_(0, 255)
    tables = torch.where(high > low, stretched, values).to(torch.uint8)
    return tables.gather(2, images.flatten(2).long()).reshape(images.shape)


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Make the values of each channel about equally frequent.

    Equal to `PIL.ImageOps.equalize`.

    >>> equalize(torch.tensor([7, 8] * 768, dtype=torch.uint8).reshape(1, 3, 16, 32)).unique()
    tensor([  0, 255], dtype=torch.uint8)
    """
    from torchvision.transforms.v2 import functional as F  # takes half a second to import

    equalized: torch.Tensor = F.equalize_image(images)
    return equalized


def posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the `bits` highest bits of each value, 1 to 8.

    Equal to `PIL.ImageOps.posterize`.

    >>> posterize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.tensor([4])).unique()
    tensor([240], dtype=torch.uint8)
    """
    mask = send((256 - 2 ** (8 - bits.long())).to(torch.uint8), images.device)
    return images & _per_image(mask)


def solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert the values that are not below a threshold: 256 changes nothing, 0 inverts everything.

    Equal to `PIL.ImageOps.solarize`.

    >>> image = torch.tensor([99, 100, 101], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> solarize(image, torch.tensor([100])).flatten().tolist()
    [99, 155, 154]
    """
    start = _per_image(send(threshold.float(), images.device))
    return torch.where(images < start, images, 255 - images)


def colour(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Change the saturation: 0 is grey, 1 the image itself, above 1 more colourful.

    Equal to `PIL.ImageEnhance.Color`.

    >>> image = torch.tensor([200, 100, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> colour(image, torch.tensor([0.5])).flatten().tolist()
    [159, 109, 59]
    """
    return _blend_from(_grey(images), images, factor)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Change the distance to the image's mean grey: 0 is grey, 1 the image itself.

    Equal to `PIL.ImageEnhance.Contrast`.

    >>> image = torch.tensor([0, 100] * 3, dtype=torch.uint8).reshape(1, 3, 1, 2)
    >>> contrast(image, torch.tensor([0.5]))[0, 0].tolist()
    [[25, 75]]
    """
    pixels = images.shape[2] * images.shape[3]
    total = _grey(images).sum((1, 2, 3), keepdim=True)
    return _blend_from((2 * total + pixels) // (2 * pixels), images, factor)


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply every value: 0 is black, 1 the image itself, above 1 brighter.

    Equal to `PIL.ImageEnhance.Brightness`.

    >>> image = torch.tensor([0, 101, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> brightness(image, torch.tensor([1.2])).flatten().tolist()
    [0, 121, 255]
    """
    return _blend_from(torch.zeros_like(images[:, :1, :1, :1]), images, factor)


def sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Change the distance to a smoothed image: 0 is smooth, 1 the image itself, above 1 sharper.

    Equal to `PIL.ImageEnhance.Sharpness`, which smooths with 3x3 weights of 1 (5 in the middle) and
    leaves the outermost pixels as they are.

    >>> image = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    >>> image[..., 1, 1] = 130
    >>> sharpness(image, torch.tensor([0.0]))[0, 0, 1].tolist()
    [0, 50, 0]
    """
    smooth = images.to(torch.int16)
    rows = smooth[..., :-2, :] + smooth[..., 1:-1, :] + smooth[..., 2:, :]
    inner = smooth[..., 1:-1, 1:-1]
    weighted = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    inner.copy_((2 * weighted + 13) // 26)
    return _blend_from(smooth, images, factor)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, 1, 1, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Luma as Pillow's `convert("L")`: ITU-R 601-2 in 16-bit fixed point; int32 `[B, 1, H, W]`."""
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16


def _blend_from(without: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend from `without` (factor 0) to the image (factor 1) or beyond, as `PIL.Image.blend`."""
    without = without.to(torch.int16)
    share = _per_image(send(factor.float(), images.device))
    return (share * (images - without)).add_(without).clamp_(0, 255).to(torch.uint8)


# From images, uint8 `[B, 3, H, W]`, and magnitudes, `[B]`, to the changed images.
Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _operation_table(lookup: Lookup) -> dict[str, Operation]:
    return {
        "autocontrast": lambda images, _: autocontrast(images),
        "equalize": lambda images, _: equalize(images),
        "posterize": posterize,
        "solarize": solarize,
        "rotate": partial(rotate, lookup=lookup),
        "shear_x": partial(move, place=1, lookup=lookup),
        "shear_y": partial(move, place=3, lookup=lookup),
        "translate_x": lambda images, pixels: move(images, -pixels, 2, lookup),
        "translate_y": lambda images, pixels: move(images, -pixels, 5, lookup),
        "colour": colour,
        "contrast": contrast,
        "brightness": brightness,
        "sharpness": sharpness,
    }


# First with the nearest source pixel, as in RandAugment and TrivialAugment, then with linear
# interpolation, as in AugMix.
OPERATIONS: Mapping[str, Operation] = _operation_table(look_up_nearest)
SMOOTH_OPERATIONS: Mapping[str, Operation] = _operation_table(interpolate_bilinear)

# The equivalent test shifts, by the last part of their names in `fairweather.shifts.table.SHIFTS`.
TESTED_AS: Mapping[str, tuple[str, ...]] = {
    "rotate": ("rotation",),
    "translate_x": ("translate",),
    "translate_y": ("translate",),
    "colour": ("saturate",),
    "contrast": ("contrast", "contrast_up", "contrast_down"),
    "brightness": ("brightness", "brightness_factor", "brightness_up", "brightness_down"),
}


def apply_chosen(
    images: torch.Tensor,
    names: Sequence[str],
    chosen: npt.NDArray[np.int64],
    magnitudes: npt.NDArray[np.float64],
    operations: Mapping[str, Operation],
) -> torch.Tensor:
    """Apply to each image its chosen operation, to all images of an operation together.

    Args:
        images: uint8 `[B, 3, H, W]`.
        names: the names that `chosen` indexes; names that are not in `operations` change nothing.
        chosen: `[B]`, indices into `names`.
        magnitudes: `[B]`, in the units of each image's operation.
        operations: `OPERATIONS` or `SMOOTH_OPERATIONS`.

    >>> images = torch.full((2, 3, 1, 1), 100, dtype=torch.uint8)
    >>> names, chosen = ("none", "brightness"), np.array([0, 1])
    >>> apply_chosen(images, names, chosen, np.array([0.0, 1.5]), OPERATIONS)[
    ...     :, 0
    ... ].flatten().tolist()
    [100, 150]
    """
    changed = images.clone()
    for number, name in enumerate(names):
        places = np.flatnonzero(chosen == number)
        if name in operations and len(places):
            index = send(torch.from_numpy(places), images.device)
            magnitude = torch.from_numpy(magnitudes[places])
            changed[index] = operations[name](images[index], magnitude)
    return changed

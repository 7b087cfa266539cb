"""Digital corruptions: brightness, contrast, saturation, pixelation and JPEG, none of them random.

Source of the formulae: hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.io import decode_jpeg, encode_jpeg

from fairweather.errors import InputError

Pixels = npt.NDArray[np.uint8]

# Pixels worked on at a time: float32 intermediates of this many stay in a core's cache.
_PIXELS_AT_ONCE = 1 << 15
# Twenty-fold what float32 loses on 255: a value that is a whole number in exact arithmetic, as
# most are when saturation is doubled, is not to be truncated to the next lower one.
_NUDGE = np.float32(1e-4)


def brightness(images: Pixels, *, amount: float) -> Pixels:
    """Add `amount` to V in HSV, clip V to [0, 1], and keep hue and saturation.

    With these kept, every channel grows by the same factor V'/V. Within 1/255 of the benchmark,
    whose way through hue rounds a few values to the other side of a whole number.

    Args:
        images: uint8 `[B, 3, H, W]`.
        amount: in [-1, 1].

    >>> images = np.array([0, 51, 102], dtype=np.uint8).reshape(1, 3, 1, 1)
    >>> brightness(images, amount=0.1).ravel().tolist()
    [0, 63, 127]
    """
    if not -1 <= amount <= 1:
        raise InputError(f"brightness: amount must be from -1 to 1, found {amount}")
    table = _brightened(amount)
    result = np.empty_like(images)
    for part, out in _blocks(images, result):
        row = part.max(axis=1, keepdims=True).astype(np.int32) * 256
        np.take(table, row + part, out=out, mode="wrap")
    return result


@lru_cache(maxsize=8)
def _brightened(amount: float) -> npt.NDArray[np.uint8]:
    """Tabulate a channel's new value by the pixel's largest channel and its own, `[256 * 256]`."""
    own = np.arange(256) / 255.0
    largest = own[:, None]
    value = np.clip(largest + amount, 0, 1)
    saturation = (largest - own) / np.maximum(largest, own[1])
    grown = np.where(largest == own, value, value * (1 - saturation))
    return (np.clip(grown, 0, 1) * 255).astype(np.uint8).ravel()


def saturate(images: Pixels, *, factor: float, offset: float) -> Pixels:
    """Multiply S in HSV by `factor`, add `offset`, clip S to [0, 1], and keep hue and value.

    With these kept, a channel's distance to the largest one grows by the factor S'/S. Grey has no
    hue and counts as red, as in the benchmark: an `offset` tints it. Within 1/255 of the benchmark.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: >= 0.
        offset: in [-1, 1].

    >>> images = np.array([200, 100, 150], dtype=np.uint8).reshape(1, 3, 1, 1)
    >>> saturate(images, factor=1.5, offset=0).ravel().tolist()
    [200, 50, 125]
    """
    if factor < 0:
        raise InputError(f"saturate: factor must be >= 0, found {factor}")
    if not -1 <= offset <= 1:
        raise InputError(f"saturate: offset must be from -1 to 1, found {offset}")
    result = np.empty_like(images)
    for part, out in _blocks(images, result):
        pixels = part.astype(np.float32)
        value = pixels.max(axis=1, keepdims=True)
        spread = value - pixels.min(axis=1, keepdims=True)
        scale = np.maximum(value, 1)
        saturation = spread / scale
        saturation *= np.float32(factor)
        saturation += np.float32(offset)
        np.clip(saturation, 0, 1, out=saturation)
        saturation *= scale
        growth = saturation / np.maximum(spread, 1)
        pixels -= value
        pixels *= growth
        pixels += value
        if offset > 0:
            pixels[:, 1:] -= saturation * ((spread == 0) & (value > 0))
        pixels += _NUDGE
        np.clip(pixels, 0, 255, out=pixels)
        np.copyto(out, pixels, casting="unsafe")
    return result


def contrast(images: Pixels, *, factor: float) -> Pixels:
    """Bring every channel `factor` times as far from its mean over the image.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: >= 0; 1 changes nothing but what the benchmark's arithmetic cuts off, the last bit.

    >>> images = np.repeat(np.array([0, 100], dtype=np.uint8), 3).reshape(2, 3).T[None, :, :, None]
    >>> contrast(np.ascontiguousarray(images), factor=0.5)[0, 0].ravel().tolist()
    [25, 75]
    """
    if factor < 0:
        raise InputError(f"contrast: factor must be >= 0, found {factor}")
    result = np.empty_like(images)
    values = np.arange(256) / 255.0
    for part, out in _blocks(images, result):
        # Sums of whole numbers: the same in any order and for any batch.
        sums = part.sum(axis=(2, 3), dtype=np.int64)[..., None]
        means = sums / (part.shape[2] * part.shape[3]) / 255.0
        tables = (np.clip((values - means) * factor + means, 0, 1) * 255).astype(np.uint8)
        for image, table, changed in zip(part, tables, out, strict=True):
            for channel in range(3):
                cv2.LUT(image[channel], table[channel], dst=changed[channel])
    return result


def jpeg_compression(images: Pixels, *, quality: float) -> Pixels:
    """Encode as JPEG and decode again.

    libjpeg-turbo through torchvision, equal to the last bit to Pillow's `save(quality=...)`: 4:2:0
    subsampling and the standard tables.

    Args:
        images: uint8 `[B, 3, H, W]`.
        quality: a whole number from 1 to 100.

    >>> images = np.full((1, 3, 8, 8), 128, dtype=np.uint8)
    >>> int(jpeg_compression(images, quality=10).max())
    128
    """
    if not 1 <= quality <= 100 or quality != int(quality):
        raise InputError(
            f"jpeg_compression: quality must be a whole number from 1 to 100, found {quality}"
        )
    if not len(images):
        return images.copy()
    encoded = encode_jpeg(list(torch.from_numpy(images)), quality=int(quality))
    return torch.stack(decode_jpeg(encoded)).numpy()


def pixelate(images: Pixels, *, factor: float) -> Pixels:
    """Shrink by `factor` with a box filter, and enlarge again: Pillow's `resize(BOX)` twice.

    Equal to Pillow to the last bit. The small side is `int(factor * side)`, at least 1.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: in (0, 1].

    >>> images = np.array([[0, 100], [100, 200]], dtype=np.uint8)[None, None].repeat(3, axis=1)
    >>> pixelate(images, factor=0.5)[0, 0].tolist()
    [[100, 100], [100, 100]]
    """
    if not 0 < factor <= 1:
        raise InputError(f"pixelate: factor must be > 0 and <= 1, found {factor}")
    batch, channels, height, width = images.shape
    low, narrow = max(1, int(factor * height)), max(1, int(factor * width))
    planes = batch * channels
    # Pillow filters rows, rounds to 8 bits, then columns. The planes of the batch are stacked for
    # the one and laid side by side for the other, so that each is a single call.
    small = _box(images.reshape(planes * height, width), narrow, planes * height)
    small = small.reshape(planes, height, narrow).transpose(1, 0, 2).reshape(height, -1)
    small = _box(small, planes * narrow, low).reshape(low, planes, narrow)
    # A box narrower than a pixel takes the nearest one.
    wide = small.transpose(1, 0, 2).take(_nearest(narrow, width), axis=2)
    return wide.take(_nearest(low, height), axis=1).reshape(images.shape)


def _box(plane: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BOX))


def _nearest(small: int, large: int) -> npt.NDArray[np.intp]:
    """Give the small pixel that holds the centre of each large one."""
    return ((np.arange(large) + 0.5) * (small / large)).astype(np.intp)


def _blocks(images: Pixels, result: Pixels) -> Iterator[tuple[Pixels, Pixels]]:
    """Walk through a batch and its result, `_PIXELS_AT_ONCE` pixels or one image at a time."""
    step = max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
    for start in range(0, len(images), step):
        yield images[start : start + step], result[start : start + step]

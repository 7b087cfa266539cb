"""Changes of the values of whole batches of 8-bit images, with a magnitude for each image.

Images are uint8 `[B, 3, H, W]`; magnitudes are `[B]`, of any real dtype and best on the CPU. Each
equals its operation of Pillow image by image to the last bit; `autocontrast` on MPS devices, which
have no float64, may be off by one.
"""

from __future__ import annotations

import torch


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch each channel until its darkest value is 0 and its brightest 255.

    Equal to `PIL.ImageOps.autocontrast`, which drops fractions, and so makes some of them 254.

    >>> autocontrast(torch.tensor([10, 15, 20] * 3, dtype=torch.uint8).reshape(1, 3, 1, 3))[0, 0]
    tensor([[  0, 127, 255]], dtype=torch.uint8)
    """
    # As Pillow computes it: with fewer bits, or times a reciprocal, other whole numbers come out
    # one too low.
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    low, high = (end.to(exact)[..., None] for end in images.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)
    values = torch.arange(256, device=images.device)
    stretched = (values * scale - low * scale).clamp_(0, 255)
    return _look_up(torch.where(high > low, stretched, values).to(torch.uint8), images)


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Make the values of each channel about equally frequent.

    Equal to `PIL.ImageOps.equalize`.

    >>> equalize(torch.tensor([7, 8] * 768, dtype=torch.uint8).reshape(1, 3, 16, 32)).unique()
    tensor([  0, 255], dtype=torch.uint8)
    """
    n, channels, height, width = images.shape
    flat = images.reshape(n * channels, height * width).long()
    counts = torch.zeros(len(flat), 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.int32))
    of_largest = counts.gather(1, flat.amax(1, keepdim=True))
    step = (height * width - of_largest) // 255
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return _look_up(table.to(torch.uint8).reshape(n, channels, 256), images)


def posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the highest `bits` of each value, 1 to 8.

    Equal to `PIL.ImageOps.posterize`.

    >>> posterize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.tensor([4])).unique()
    tensor([240], dtype=torch.uint8)
    """
    kept = (256 - 2 ** (8 - bits.long())).to(images.device, torch.uint8)
    return images & _per_image(kept)


def solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert the values that are not below a threshold: 256 changes nothing, 0 inverts everything.

    Equal to `PIL.ImageOps.solarize`.

    >>> image = torch.tensor([99, 100, 101], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> solarize(image, torch.tensor([100])).flatten().tolist()
    [99, 155, 154]
    """
    start = _per_image(threshold.to(images.device, torch.float32))
    return torch.where(images < start, images, 255 - images)


def colour(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Change the saturation: 0 is grey, 1 the image itself, above 1 more colourful.

    Equal to `PIL.ImageEnhance.Color`.

    >>> image = torch.tensor([200, 100, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> colour(image, torch.tensor([0.5])).flatten().tolist()
    [159, 109, 59]
    """
    return _enhance(_grey(images), images, factor)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Change the distance to the image's mean grey: 0 is grey, 1 the image itself.

    Equal to `PIL.ImageEnhance.Contrast`.

    >>> image = torch.tensor([0, 100] * 3, dtype=torch.uint8).reshape(1, 3, 1, 2)
    >>> contrast(image, torch.tensor([0.5]))[0, 0].tolist()
    [[25, 75]]
    """
    pixels = images.shape[2] * images.shape[3]
    total = _grey(images).sum((1, 2, 3), keepdim=True)
    return _enhance((2 * total + pixels) // (2 * pixels), images, factor)


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply every value: 0 is black, 1 the image itself, above 1 brighter.

    Equal to `PIL.ImageEnhance.Brightness`.

    >>> image = torch.tensor([0, 101, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> brightness(image, torch.tensor([1.2])).flatten().tolist()
    [0, 121, 255]
    """
    return _enhance(torch.zeros_like(images[:, :1, :1, :1]), images, factor)


def sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Change the distance to a smoothed image: 0 is smooth, 1 the image itself, above 1 sharper.

    Equal to `PIL.ImageEnhance.Sharpness`, which smooths with the 3x3 weights 1 and, in the middle,
    5, and leaves the outermost pixels as they are.

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
    return _enhance(smooth, images, factor)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, 1, 1, 1)


def _look_up(tables: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Give each channel the values of its own table, uint8 `[B, 3, 256]`."""
    return tables.gather(2, images.flatten(2).long()).reshape(images.shape)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Luma as Pillow's `convert("L")`: ITU-R 601-2 in 16-bit fixed point; int32 `[B, 1, H, W]`."""
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16


def _enhance(without: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Go from an image that lacks something to the image, and beyond it, as `PIL.Image.blend`."""
    without = without.to(torch.int16)
    share = _per_image(factor.to(images.device, torch.float32))
    return (share * (images - without)).add_(without).clamp_(0, 255).to(torch.uint8)

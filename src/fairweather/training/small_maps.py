"""Convolutions of maps so small that a kernel lies mostly outside of them, as one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# In smaller batches, writing the matrix takes longer than what it saves (benchmarks/notes/speed.md).
FEWEST_IMAGES = 64

Pair = tuple[int, int]


class SmallMaps(TorchFunctionMode):
    """Inside the `with` block, convolutions of small maps on a CPU multiply no padding.

    oneDNN multiplies the zeros around an image too. That is 8 of 9 products where a kernel of 3x3
    meets a map of 1x1, as in the last layers of a ResNet-18 at 28 pixels. If each output sees each
    input, the convolution is a matrix product. Results differ in their last digits.

    >>> images, weight = torch.randn(64, 8, 2, 2), torch.randn(4, 8, 3, 3)
    >>> with SmallMaps():
    ...     small = F.conv2d(images, weight, padding=1)
    >>> torch.allclose(small, F.conv2d(images, weight, padding=1), atol=1e-5)
    True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function of torch returns
        """Compute a function of torch; of convolutions, those of small maps in another way."""
        result = _multiply(*args, **(kwargs or {})) if func is torch.conv2d else None
        return func(*args, **(kwargs or {})) if result is None else result


def _multiply(
    input: torch.Tensor,  # noqa: A002 - as torch calls it
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """The convolution as a matrix product; None unless each output sees each input."""
    if input.ndim != 4 or len(input) < FEWEST_IMAGES or input.device.type != "cpu":
        return None
    if groups != 1 or isinstance(padding, str) or not any(_pair(padding)):
        return None
    batch, channels, *size = input.shape
    outputs, _, *kernel = weight.shape
    places = zip(size, kernel, *map(_pair, (stride, padding, dilation)), strict=True)
    down, across = (find_taps(*one) for one in places)
    if down is None or across is None:
        return None
    rows, columns = down.shape[0], across.shape[0]
    taps = (down[:, None, :, None] * kernel[1] + across[None, :, None, :]).flatten()
    chosen = weight.permute(2, 3, 0, 1).flatten(2).flatten(0, 1).index_select(0, taps)
    matrix = chosen.view(rows * columns, -1, outputs, channels).transpose(1, 2)
    pixels = input.permute(0, 2, 3, 1).reshape(batch, -1)
    summed = F.linear(pixels, matrix.reshape(rows * columns * outputs, -1))
    values = summed.view(batch, rows, columns, outputs)
    return (values if bias is None else values + bias).permute(0, 3, 1, 2)


def _pair(value: int | Sequence[int]) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


@cache
def find_taps(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> torch.Tensor | None:
    """Which tap of a kernel connects each output with each input along one axis.

    Args:
        size: of the map.
        kernel, stride, padding, dilation: of the convolution.

    Returns:
        int64 `[outputs, size]`; None if an output does not see an input.

    >>> find_taps(2, 3, 1, 1, 1)
    tensor([[1, 2],
            [0, 1]])
    """
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    inputs, outputs = torch.arange(size), torch.arange(count)[:, None]
    distance = inputs - (outputs * stride - padding)
    seen = (distance >= 0) & (distance <= dilation * (kernel - 1)) & (distance % dilation == 0)
    return distance // dilation if count > 0 and bool(seen.all()) else None

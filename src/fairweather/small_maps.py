"""Convolutions of maps so small that much of a kernel lies outside, as one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


class SmallMaps(TorchFunctionMode):
    """Inside the `with` block, convolutions of small maps on a CPU multiply no padding.

    oneDNN multiplies the zeros around an image too. That is 8 of 9 products where a kernel of 3x3
    meets a map of 1x1, as in the last layers of a ResNet-18 at 28 pixels. If each output sees each
    input, the convolution is a matrix product. Results differ in their last digits.

    With torch 2.13, in bfloat16 and on maps of 1x1, oneDNN reads memory that nobody wrote: weights
    that meet only padding may get any gradient. A matrix product gives them zero.

    >>> images, weight = torch.randn(16, 8, 2, 2), torch.randn(4, 8, 3, 3)
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
        # Types of tensors with functions of their own keep these, and a compiler sees one kernel.
        is_ours = func is torch.conv2d and not types and not torch.compiler.is_compiling()
        result = multiply(*args, **(kwargs or {})) if is_ours else None
        return func(*args, **(kwargs or {})) if result is None else result


def multiply_small_maps(device: torch.device) -> AbstractContextManager[object]:
    """`SmallMaps` on a CPU; elsewhere nothing, as a mode costs time in each call of torch."""
    return SmallMaps() if device.type == "cpu" else nullcontext()


def multiply(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """`torch.conv2d` as a matrix product; None where that is not possible, or not faster.

    It is faster if there is padding, each output sees each input, and the batch has as many images
    as an output channel has pairs of an input and an output pixel. The matrix has a number for
    each of these pairs: in smaller batches, writing it takes longer than what the product saves
    (benchmarks/notes/speed.md).

    >>> multiply(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 3), padding=1)
    tensor([[[[1.]]]])
    >>> multiply(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3), padding=1) is None
    True
    """
    if input.ndim != 4 or input.device.type != "cpu" or groups != 1:
        return None
    if isinstance(padding, str) or not any(_pair(padding)):
        return None
    batch, _, *size = input.shape
    outputs, _, *kernel = weight.shape
    places = zip(size, kernel, *map(_pair, (stride, padding, dilation)), strict=True)
    down, across = (find_taps(*one) for one in places)
    if down is None or across is None:
        return None
    taps = [
        row * kernel[1] + column
        for rows, columns in product(down, across)
        for row, column in product(rows, columns)
    ]
    if batch < len(taps):
        return None
    chosen = torch.tensor(taps, device="cpu")
    matrix = weight.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, chosen)
    results = len(down) * len(across)
    values = F.linear(
        input.permute(0, 2, 3, 1).reshape(batch, -1),
        matrix.view(outputs * results, -1),
        None if bias is None else bias.repeat_interleave(results),
    )
    maps = values.view(batch, outputs, len(down), len(across))
    return maps.contiguous(memory_format=torch.channels_last)


def _pair(value: int | Sequence[int]) -> Pair:
    # torch takes a sequence of one number too.
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


@cache
def find_taps(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> list[list[int]] | None:
    """Which tap of a kernel connects each output with each input along one axis.

    Args:
        size: of the map.
        kernel, stride, padding, dilation: of the convolution.

    Returns:
        For each output, the tap of each input; None if an output does not see an input.

    >>> find_taps(2, 3, 1, 1, 1)
    [[1, 2], [0, 1]]
    """
    reach = dilation * (kernel - 1) + 1
    starts = range(-padding, size + padding - reach + 1, stride)
    distances = [[place - start for place in range(size)] for start in starts]
    for distance in (one for row in distances for one in row):
        if not 0 <= distance < reach or distance % dilation:
            return None
    return [[distance // dilation for distance in row] for row in distances] or None

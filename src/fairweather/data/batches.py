"""Batches of images, shifted or gathered ahead of the network that reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from fairweather.devices import is_out_of_memory, lock_copy
from fairweather.types.measurement import Images, Index, Shift


class BatchShifter(Protocol):
    """Shifts batches in other processes while earlier ones are predicted."""

    @property
    def max_batches(self) -> int:
        """How many batches may be started and not yet collected; it may grow."""
        ...

    def start(self, images: Images, index: Index, shift: Shift, seed: int) -> Callable[[], Images]:
        """Begin to shift the images of an index. Returns a function that waits for the shifted
        batch; call these functions in the order in which their batches began."""
        ...


def batch_slices(images: int, batch_size: int) -> list[slice]:
    """Cut a number of images into consecutive batches.

    >>> batch_slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + batch_size, images)) for start in range(0, images, batch_size)]


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Turn 8-bit images `[B, 3, H, W]` into floats in [0, 1], with channels last in memory.

    >>> to_input(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)).flatten()
    tensor([0.0000, 0.2000, 1.0000])
    """
    # On a CPU, `to(memory_format=...)` is slower: it copies pixel by pixel.
    return torch.stack(images.unbind(1), -1).permute(0, 3, 1, 2).float().div_(255)


@dataclass(frozen=True)
class MixedImages:
    """The same images under several shifts, which are applied when a batch is taken.

    Image i under shift s has the place s * n + i, if there are n images.

    >>> pixels, column = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2)
    >>> clean = Shift("clean", None, {}, lambda pixels, keys, seed: pixels)
    >>> brighter = Shift("brighter", 1, {}, lambda pixels, keys, seed: pixels + 1)
    >>> mixed = MixedImages(Images(pixels, column, column, ("cat", "dog")), [clean, brighter])
    >>> batch = mixed[torch.tensor([3, 0])]
    >>> batch.keys.tolist(), batch.images[:, 0, 0, 0].tolist()
    ([1, 0], [1, 0])
    """

    images: Images
    """The clean images."""

    shifts: Sequence[Shift]
    seed: int = 0
    """The seed of random shifts."""

    shifters: BatchShifter | None = None
    """Shift the parts of a batch in parallel; None gives the same pixels."""

    def __len__(self) -> int:
        return len(self.images) * len(self.shifts)

    @property
    def labels(self) -> torch.Tensor:
        """int64 `[len(self)]` or `[len(self), L]`."""
        return torch.cat([self.images.labels] * len(self.shifts))

    def __getitem__(self, index: Index) -> Images:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        numbers, rows = np.divmod(np.asarray(index), len(self.images))
        pixels = torch.empty((len(rows), *self.images.images.shape[1:]), dtype=torch.uint8)
        present = np.unique(numbers)
        places = [np.flatnonzero(numbers == number) for number in present]
        parts = [
            (torch.from_numpy(rows[part]), self.shifts[number])
            for part, number in zip(places, present, strict=True)
        ]
        shifted = _shift_ahead(self.images, parts, self.seed, self.shifters)
        for part, (_, batch) in zip(places, shifted, strict=True):
            pixels[part] = batch.images
        return self.images.at(torch.from_numpy(rows), pixels)


def shifted_batches(
    images: Images | MixedImages,
    shift: Shift | None,
    seed: int,
    batches: Iterable[Index],
    *,
    shifters: BatchShifter | None = None,
    pinned: bool = False,
    out: torch.Tensor | None = None,
) -> Iterator[Images]:
    """Yield the shifted batches in order.

    An image gets the same pixels in any batch and from any process, since random shifts are keyed
    by image.

    Args:
        images: 8-bit images, which may be larger than memory.
        shift: None for clean images.
        seed: seed of random shifts.
        batches: index of each batch.
        shifters: shift batches ahead; None to shift a batch when it is asked for.
        pinned: put the pixels in page-locked memory, from which a GPU copies without waiting.
        out: uint8, like the pixels of `images`; it receives the shifted pixels.

    >>> pixels, column = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    >>> images = Images(pixels, column, column, tuple("abcd"))
    >>> [batch.keys.tolist() for batch in shifted_batches(images, None, 0, batch_slices(4, 3))]
    [[0, 1, 2], [3]]
    """
    parts = ((index, shift) for index in batches)
    for index, batch in _shift_ahead(images, parts, seed, shifters):
        if out is not None:
            out[index] = batch.images
        # It copies nothing that is page-locked already, such as what shifters have shifted.
        yield replace(batch, images=lock_copy(batch.images)) if pinned else batch


def copy_pixels(pixels: torch.Tensor, index: Index, out: torch.Tensor) -> None:
    """Copy the pixels of an index into other memory, once.

    >>> out = torch.empty(2)
    >>> copy_pixels(torch.tensor([3.0, 4.0, 5.0]), torch.tensor([2, 0]), out)
    >>> out
    tensor([5., 3.])
    """
    if isinstance(index, slice):
        out.copy_(pixels[index])
    else:
        torch.index_select(pixels, 0, torch.as_tensor(index), out=out)


def _shift_ahead(
    images: Images | MixedImages,
    parts: Iterable[tuple[Index, Shift | None]],
    seed: int,
    shifters: BatchShifter | None,
) -> Iterator[tuple[Index, Images]]:
    waiting: deque[tuple[Index, Callable[[], Images]]] = deque()
    try:
        for index, shift in parts:
            if (
                isinstance(images, MixedImages)  # it shifts the parts of a batch ahead
                or shift is None
                or shift.level is None
                or shifters is None
            ):
                batch = images[index]
                if shift is not None:
                    batch = replace(batch, images=shift_images(batch, shift, seed))
                yield index, batch
                continue
            if len(waiting) >= shifters.max_batches:
                first, result = waiting.popleft()
                yield first, result()
            waiting.append((index, shifters.start(images, index, shift, seed)))
        while waiting:
            first, result = waiting.popleft()
            yield first, result()
    finally:
        for _, result in waiting:  # frees the shifters for the next batches
            with suppress(Exception):
                result()


def shift_images(images: Images, shift: Shift, seed: int) -> torch.Tensor:
    """Shift 8-bit images; when memory runs out, in halves, down to one image.

    Args:
        images: to be shifted.
        shift: what to apply.
        seed: seed of random shifts.
    """
    try:
        return shift.change(images, seed)
    except Exception as error:  # libraries have only this in common: OpenCV has errors of its own
        if not is_out_of_memory(error) or len(images) == 1:
            raise
    middle = len(images) // 2  # go on outside `except`, where the error has freed its arrays
    halves = (slice(middle), slice(middle, None))
    return torch.cat([shift_images(images[half], shift, seed) for half in halves])


def gathered_batches(images: Images, indices: Sequence[torch.Tensor]) -> Iterator[Images]:
    """Yield batches in order, in page-locked memory; a thread gathers each one ahead."""

    def gather(index: torch.Tensor) -> Images:
        batch = images[index]
        return replace(batch, images=lock_copy(batch.images))

    with ThreadPoolExecutor(1, thread_name_prefix="gathered-batches") as pool:
        ahead = None
        for index in indices:
            ahead, ready = pool.submit(gather, index), ahead
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()

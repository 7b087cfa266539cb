"""Batches of shifted images, made by threads while a device predicts earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from fairweather.types import Images, Index, Shift


def slices(images: int, batch_size: int) -> list[slice]:
    """Cut a number of images into consecutive batches.

    >>> slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    starts = range(0, images, batch_size)
    return [slice(start, min(start + batch_size, images)) for start in starts]


def shifted_batches(
    images: Images,
    shift: Shift | None,
    seed: int,
    batches: Iterable[Index],
    *,
    workers: int = 0,
    pinned: bool = False,
    keep: torch.Tensor | None = None,
) -> Iterator[Images]:
    """Yield the shifted batches in order.

    An image gets the same pixels in any batch and from any number of workers, since random shifts
    are keyed by image. NumPy, OpenCV and torch release Python's lock while they work, so threads
    work side by side, and no pixels are copied between processes.

    Args:
        images: 8-bit images, which may be larger than memory.
        shift: None for clean images.
        seed: seed of random shifts.
        batches: index of each batch.
        workers: threads that make batches ahead; with 0, a batch is made when it is asked for. At
            most `workers + 2` batches exist at a time.
        pinned: put the pixels in page-locked memory, from which a GPU copies without waiting.
        keep: uint8, like the pixels of `images`; it receives the shifted pixels.

    >>> pixels, column = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    >>> images = Images(pixels, column, column, tuple("abcd"))
    >>> [batch.keys.tolist() for batch in shifted_batches(images, None, 0, slices(4, 3), workers=2)]
    [[0, 1, 2], [3]]
    """

    def make(index: Index) -> Images:
        batch = images[index]
        if shift is not None:
            batch = replace(batch, images=shift(batch.images, batch.keys, seed))
        if keep is not None:
            keep[index] = batch.images
        return replace(batch, images=batch.images.pin_memory()) if pinned else batch

    if workers == 0:
        yield from map(make, batches)
        return
    waiting: deque[Future[Images]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="shifted-batches")
    try:
        for index in batches:
            waiting.append(pool.submit(make, index))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

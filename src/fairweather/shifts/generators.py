"""Random numbers per image that do not depend on batch, order, worker, shard or device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def image_generators(keys: torch.Tensor, seed: int, stream: str) -> Iterator[np.random.Generator]:
    """Yield one generator per image, which depends only on its key, the seed and the stream.

    The global random state is neither used nor changed.

    Args:
        keys: int64 `[B]`.
        seed: the random seed of the shifts.
        stream: the name of the random sequence, such as a shift with its level.

    >>> first, second = image_generators(torch.tensor([7, 8]), 0, "gaussian_noise,severity=3")
    >>> again, = image_generators(torch.tensor([8]), 0, "gaussian_noise,severity=3")
    >>> bool(second.random() == again.random() != first.random())
    True
    """
    common = hashlib.blake2b(f"{seed}/{stream}/".encode(), digest_size=8)
    for key in keys.tolist():
        # The seed is 64 bits of a hash. With a million images and a thousand cells, two images
        # share a generator in one of forty runs. SFC64 is numpy's fastest generator.
        digest = common.copy()
        digest.update(key.to_bytes(8, "little", signed=True))
        yield np.random.Generator(np.random.SFC64(int.from_bytes(digest.digest(), "little")))

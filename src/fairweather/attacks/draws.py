"""Random numbers per image, for whole batches; they do not depend on batch, order or device.

A Square attack needs a few numbers per image five thousand times. One generator object per image
would take longer than the network. These are SplitMix64 sequences (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014), computed for all images at once. They use
integers, which overflow in the same way on every device.
"""

from __future__ import annotations

import hashlib
import math

import torch

_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
_FIRST = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_SECOND = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_BITS = 24  # the precision of a float32


def streams(keys: torch.Tensor, name: str) -> torch.Tensor:
    """Return, for each image, the state of a sequence that depends only on its key and the name.

    Args:
        keys: int64 `[B]`.
        name: the name of the sequence: seed, attack, its part, restart.

    >>> few, one = streams(torch.tensor([7, 8]), "0/pgd"), streams(torch.tensor([8]), "0/pgd")
    >>> bool(few[1] == one[0]), bool(few[0] == one[0])
    (True, False)
    """
    digest = hashlib.sha256(name.encode()).digest()
    return _mix(keys + int.from_bytes(digest[:8], "little", signed=True))


def fork(states: torch.Tensor, number: int) -> torch.Tensor:
    """Return the state of an independent sequence, the `number`-th child of each sequence."""
    place = torch.full((), number + 1, dtype=torch.int64, device=states.device)
    return _mix(_mix(states + place * _SECOND) + _FIRST)


def uniform(states: torch.Tensor, count: int, first: int = 0) -> torch.Tensor:
    """Draw numbers `first` to `first + count` of each sequence: float32 `[B, count]` in [0, 1).

    >>> states = streams(torch.arange(2), "0/pgd")
    >>> bool((uniform(states, 5)[:, 3:] == uniform(states, 2, first=3)).all())
    True
    """
    return _draw_bits(states, count, first).float() / 2**_BITS


def normal(states: torch.Tensor, count: int) -> torch.Tensor:
    """Draw `count` standard normal numbers of each sequence: float32 `[B, count]`."""
    # Odd numerators of at most 24 bits are exact in float32 and never reach -1 or 1.
    centred = (2 * _draw_bits(states, count, 0) + 1 - 2**_BITS).float() / 2**_BITS
    return torch.erfinv(centred) * math.sqrt(2)


def signs(numbers: torch.Tensor) -> torch.Tensor:
    """Turn uniform numbers into -1 or 1, float32."""
    return (numbers < 0.5).float() * 2 - 1


def whole(numbers: torch.Tensor, below: int) -> torch.Tensor:
    """Turn uniform numbers into whole numbers in `[0, below)`, int64."""
    return (numbers * below).long()


def _draw_bits(states: torch.Tensor, count: int, first: int) -> torch.Tensor:
    places = torch.arange(first + 1, first + count + 1, device=states.device)
    return _shift_right(_mix(states[:, None] + places * _GAMMA), 64 - _BITS)


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    numbers = (numbers ^ _shift_right(numbers, 30)) * _FIRST
    numbers = (numbers ^ _shift_right(numbers, 27)) * _SECOND
    return numbers ^ _shift_right(numbers, 31)


def _shift_right(numbers: torch.Tensor, places: int) -> torch.Tensor:
    # PyTorch fills with the sign bit from the left, SplitMix64 with zeros.
    return (numbers >> places) & ((1 << (64 - places)) - 1)

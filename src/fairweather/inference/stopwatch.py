"""How long a network takes, apart from what is done before and after it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Stopwatch:
    """The seconds that networks take in forward passes, with all that they do meanwhile.

    A network that adapts also computes gradients and changes its weights. Shifting images, bringing
    them to the device and storing predictions are left out.

    >>> clock, network = Stopwatch(), nn.Linear(2, 2)
    >>> with clock.watch(network, torch.device("cpu")):
    ...     _ = network(torch.zeros(1, 2))
    >>> clock.seconds > 0
    True
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def watch(self, network: nn.Module, device: torch.device) -> Iterator[None]:
        """Count each pass of a network inside the block; CUDA is waited for at its end alone."""
        marks: list[tuple[Mark, Mark]] = []
        began: Mark = 0.0

        def begin(*_: object) -> None:
            nonlocal began
            began = _mark(device)

        def end(*_: object) -> None:
            marks.append((began, _mark(device)))

        hooks = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.seconds += sum(itertools.starmap(_measure, marks))


Mark = float | torch.Event


def _mark(device: torch.device) -> Mark:
    """The time when a device has done what it was given; a GPU notes it while Python goes on."""
    if device.type == "cuda":
        event = torch.Event(device=device, enable_timing=True)
        event.record()
        return event
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _measure(began: Mark, ended: Mark) -> float:
    """The seconds between two marks."""
    if isinstance(began, float) or isinstance(ended, float):
        return ended - began  # type: ignore[operator]
    ended.synchronize()
    return began.elapsed_time(ended) / 1000

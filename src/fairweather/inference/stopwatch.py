"""How long a network takes, apart from what is done before and after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Stopwatch:
    """The seconds that networks take in forward passes, with all that they do meanwhile.

    A network that adapts also computes gradients and changes its weights. Shifting images, bringing
    them to the device and storing predictions are left out.

    >>> watch, network = Stopwatch(), nn.Linear(2, 2)
    >>> with watch.watch(network, torch.device("cpu")):
    ...     _ = network(torch.zeros(1, 2))
    >>> watch.seconds > 0
    True
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def watch(self, network: nn.Module, device: torch.device) -> Iterator[None]:
        """Count each pass of a network inside the block."""
        began = 0.0

        def begin(*_: object) -> None:
            nonlocal began
            _finish_queue(device)
            began = time.perf_counter()

        def end(*_: object) -> None:
            _finish_queue(device)
            self.seconds += time.perf_counter() - began

        hooks = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _finish_queue(device: torch.device) -> None:
    """Wait until a device has done what it was given: a GPU computes while Python goes on."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

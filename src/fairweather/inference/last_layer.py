"""What the last layer of a network sees: the features of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def last_input(model: nn.Module) -> Iterator[Callable[[], torch.Tensor | None]]:
    """Give a function that returns what the last layer with parameters saw in the last pass.

    That is a copy, since a network may reuse the memory. It returns None if that layer is not
    linear or its input is not `[B, D]`.
    """
    last: list[torch.Tensor | None] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], _: object) -> None:
        last[:] = [None]
        match arguments:
            case (torch.Tensor(ndim=2) as given, *_) if isinstance(module, nn.Linear):
                last[:] = [given.detach().clone()]

    # A network with children and parameters of its own, such as a transformer, is not a layer.
    leaves = [
        module
        for module in model.modules()
        if not any(True for _ in module.children()) and any(True for _ in module.parameters())
    ]
    hooks = [leaf.register_forward_hook(keep) for leaf in leaves]

    def seen() -> torch.Tensor | None:
        return last.pop() if last else None

    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

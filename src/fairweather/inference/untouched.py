"""Modules of the user's own, which a measurement leaves as they came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def untouched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give modules their tensors, devices, memory formats and modes back in the end.

    Their own tensors are kept meanwhile, so that nothing is converted back.

    >>> module = nn.Conv2d(3, 8, 3)
    >>> with untouched([module]):
    ...     _ = module.double().eval()
    >>> module.weight.dtype, module.training
    (torch.float32, True)
    """
    parts = {part: part.training for module in modules for part in module.modules()}
    buffers = [(part, name, each) for part in parts for name, each in part._buffers.items()]
    parameters = [each for part in parts for each in part.parameters(recurse=False)]
    # Bringing a module to a device replaces the data of parameters and gradients, and the buffers.
    tensors = [each for one in parameters for each in (one, one.grad) if each is not None]
    data = [each.data for each in tensors]
    try:
        yield
    finally:
        for tensor, own in zip(tensors, data, strict=True):
            tensor.data = own
        for part, name, buffer in buffers:
            part._buffers[name] = buffer
        for part, mode in parts.items():
            part.training = mode

"""Choose the device and the precision; no other module asks what hardware there is."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from fairweather.errors import InputError, unknown_name

PRECISIONS = ("auto", "fp32", "bf16")


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that this machine has.

    `auto` is the first CUDA device if there is one, else the CPU. Raises `InputError` for a device
    that this machine does not have.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_name("device", name, ["auto", "cpu", "cuda", "mps"]) from None
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= count.get(device.type, 0):
        there = ", ".join(kind for kind, n in count.items() if n)
        raise InputError(f"device {name!r} was asked for, but this machine has only: {there}")
    return device


def repeatable_kernels(*, tf32: bool = False) -> AbstractContextManager[None]:
    """Make cuDNN use the same kernels on every run inside the `with` block; no effect on CPUs.

    Without `tf32`, convolutions of float32 are computed in full float32, as on a CPU.

    >>> with repeatable_kernels():
    ...     torch.backends.cudnn.deterministic
    True
    """
    # `enabled` must be given: by default this function of torch switches cuDNN off.
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=False,
        deterministic=True,
        allow_tf32=tf32,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means out of memory, on a device or on the machine itself.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    # torch's CPU allocator and ONNX Runtime raise plain RuntimeErrors: only their text says it.
    words = ("not enough memory", "can't allocate memory", "failed to allocate memory", "bad_alloc")
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in text for w in words)


def training_precision(name: str, device: torch.device) -> str:
    """Choose `fp32` or `bf16` for training; `auto` is bf16 on CUDA devices that support it.

    On CPUs `auto` is fp32: with AVX512-BF16, a ResNet-18 trains no faster in bf16, and an
    EfficientNet-Lite0 trains at less than half the speed (benchmarks/README.md).

    >>> training_precision("auto", torch.device("cpu"))
    'fp32'
    """
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name != "auto":
        return name
    ampere = (8, 0)
    good = device.type == "cuda" and torch.cuda.get_device_capability(device) >= ampere
    return "bf16" if good else "fp32"

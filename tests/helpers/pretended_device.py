"""A device that only pretends to be one: its tensors are on the CPU and know that they are not.

It finds what a machine without a GPU never shows: tensors of two devices in one operation, arrays
made of what was not brought to the CPU, and float64, which MPS and some of Intel's do not have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric.accelerators.cuda import CUDAAccelerator
from lightning_fabric.accelerators.mps import MPSAccelerator
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fairweather.devices import copying_stream
from tests.helpers.pretended_streams import Streams

Tensor = torch.Tensor
_WIDE = (torch.float64, torch.complex128)
# These take tensors of several devices: copies, and views of one tensor as another's content.
_MIXING = {"copy_", "__set__", "_load_from_state_dict", "__deepcopy__", "set_"}
_MIXING |= {"_has_compatible_shallow_copy_type", "is_same_size"}
# The CPU needs their result before it can go on.
_READING = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__"}
_READING |= {"is_nonzero", "equal", "allclose", "nonzero", "argwhere", "masked_select", "unique"}
_MAKING = {"tensor", "as_tensor", "asarray", "new_tensor"}  # from numbers of the CPU

_group_tensors = torch._C._group_tensors_by_device_and_dtype


class PretendedDevice(TorchFunctionMode):
    """Inside the block, tensors can be moved to a device, and know where they are.

    Storages on it are marked, so that views are on it too. 0-dimensional tensors of the CPU may
    take part in its operations, as with real devices, and so may indices.

    Args:
        kind: `mps`, `cuda` or `xpu`.
        place: which of several.

    Attributes:
        waits: the operations after which a CPU goes on only when a real device has done all that it
            was given, as far as Python sees them.
    """

    def __init__(self, kind: str, place: int = 0) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.device = torch.device(kind, place)
        self.streams = Streams()

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor is on this device."""
        with torch._C.DisableTorchFunction():
            return hasattr(tensor.untyped_storage(), "pretended")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__name__", "") == "__get__":
            return self._read(func, *args)
        name = func.__name__
        if name in ("to", "cpu", "cuda", "mps", "pin_memory"):
            return self._moved(name, *args, **named)
        if name == "is_pinned":
            return self.streams.is_locked(*args)
        given = [each for each in tree_leaves((args, named)) if isinstance(each, Tensor)]
        here = [self.has(each) for each in given]
        if name in ("numpy", "__array__", "__dlpack__") and here[0]:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        if name not in _MIXING:
            self._check(name, given, here)
        wanted = named.get("device")
        if self._must_wait(name, args, named, given, here):
            self.waits.append(name)
        goes = any(here) if wanted is None else torch.device(wanted).type == self.device.type
        if goes and wanted is not None:
            named["device"] = torch.device("cpu")
        if name in _MIXING and not self.has(given[0]):
            goes = False
        found = func(*args, **named)
        return self._marked(found, given) if goes else found

    def _read(self, func: Any, tensor: Tensor, *rest: Any) -> Any:
        found = func(tensor, *rest)
        if not self.has(tensor):
            return found
        match func.__self__.__name__:
            case "device":
                return self.device
            case "is_mps" | "is_cuda" | "is_xpu" | "is_cpu" as name:
                return name == f"is_{self.device.type}"
        return self._marked(found, [tensor])

    def _check(self, name: str, given: list[Tensor], here: list[bool]) -> None:
        if name in ("__getitem__", "__setitem__"):  # indices may be on the CPU
            values = [given[0], *given[1:][-1:]] if name == "__setitem__" else given[:1]
            given, here = values, [self.has(each) for each in values]
        others = [each for each, on in zip(given, here, strict=True) if not on and each.ndim]
        for each in itertools.compress(given, here):
            self.streams.check_use(each)
        if any(here) and others:
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, found {self.device} and "
                f"cpu, {[tuple(each.shape) for each in given]}"
            )

    def _must_wait(
        self,
        name: str,
        args: tuple[Any, ...],
        named: dict[str, Any],
        given: list[Tensor],
        here: list[bool],
    ) -> bool:
        if name in _MAKING:
            on = torch.device(named.get("device") or "cpu")
            return any(here) or on.type == self.device.type
        if not any(here):
            return False
        if name == "copy_":
            return not all(here) and not named.get("non_blocking", False)
        if name in ("__getitem__", "__setitem__"):  # `x[mask] = 0` is a fill
            indices = [each for each in tree_leaves(args[1]) if isinstance(each, Tensor)]
            filled = name == "__setitem__" and not isinstance(args[2], Tensor)
            picks = any(each.dtype == torch.bool for each in indices) and not filled
            return picks or any(each.ndim and self.has(each) != here[0] for each in indices)
        return name in _READING or (name == "where" and len(given) == len(args) == 1)

    def group(self, *lists: Any) -> dict[tuple[torch.device, torch.dtype], Any]:
        """Torch's groups of tensors of one device and type, which it finds without asking them."""
        groups = _group_tensors(*lists).items()
        return {
            (self.device if self.has(found[0][0][0]) else on, dtype): found
            for (on, dtype), found in groups
        }

    def _moved(self, name: str, tensor: Tensor, *args: Any, **named: Any) -> Tensor:
        if name == "pin_memory" and self.streams.is_locked(tensor):
            return tensor
        before = self.has(tensor)
        if before:
            self.streams.check_use(tensor)
        after, dtype, memory = before, None, named.get("memory_format", torch.preserve_format)
        if name != "to":
            after = name == self.device.type or (name == "pin_memory" and before)
        for each in (*args, *(named[key] for key in ("device", "dtype") if key in named)):
            if isinstance(each, Tensor):
                after, dtype = self.has(each), each.dtype
            elif isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, str | torch.device):
                after = torch.device(each).type == self.device.type
        copy = named.get("copy", False) or after != before or name == "pin_memory"
        found = tensor.to(dtype=dtype or tensor.dtype, memory_format=memory, copy=copy)
        if name == "pin_memory":
            found.untyped_storage().locked = True
        waits = self.device.type != "cuda" or not named.get("non_blocking", False)
        if before != after and (waits or (after and not self.streams.is_locked(tensor))):
            self.waits.append(name)
        if before and not after:
            return self.streams.fetch(found, waits=waits)
        if after and not before:
            self.streams.send(tensor, found, waits=waits)
        return self._marked(found, []) if after else found

    def _marked(self, found: Any, given: list[Tensor]) -> Any:
        """Mark new storages as on the device; what shares one with an argument stays there."""
        with torch._C.DisableTorchFunction():
            old = {each.untyped_storage().data_ptr() for each in given}
            for each in tree_leaves(found):
                if not isinstance(each, Tensor):
                    continue
                storage = each.untyped_storage()
                if storage.data_ptr() not in old or not storage.data_ptr():
                    storage.pretended = True
                if each.dtype in _WIDE and self.device.type in ("mps", "xpu") and self.has(each):
                    raise TypeError(f"{self.device.type} has no float64: convert on the CPU")
        return found


class _Autocast(torch.autocast):
    """The CPU's autocast, also for the pretended device."""

    def __init__(self, device_type: str, *args: Any, **named: Any) -> None:
        super().__init__("cpu", *args, **named)


class _Generator(torch.Generator):
    """A generator of the CPU, also for the pretended device."""

    def __new__(cls, device: object = "cpu") -> _Generator:
        return super().__new__(cls)


PROPERTIES = SimpleNamespace(total_memory=2**33, has_fp64=False)


@contextmanager
def pretended(kind: str, place: int = 0) -> Iterator[torch.device]:
    """Pretend that this machine has a device, which is given to the block and known by its name."""
    with pretended_mode(kind, place) as mode:
        yield mode.device


@contextmanager
def pretended_mode(kind: str, place: int = 0) -> Iterator[PretendedDevice]:
    """The same, with what is known of its copies."""
    mode, module = PretendedDevice(kind, place), torch.get_device_module(kind)
    functions: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: place + 1,
        "device": lambda _: nullcontext(),
        "set_device": lambda _: None,
        "get_device_name": lambda _: f"pretended {kind}",
        "get_device_properties": lambda _: PROPERTIES,
        "get_device_capability": lambda _: (8, 0),
        "mem_get_info": lambda _: (2**32, 2**33),
        "manual_seed": lambda _: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
    }
    copying_stream.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "autocast", _Autocast)
        for name, function in functions.items():
            if hasattr(module, name):
                patch.setattr(module, name, function)
        patch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        patch.setattr(torch.accelerator, "synchronize", lambda _=None: None)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", mode.group)
        for name, pretends in mode.streams.patches().items() if kind == "cuda" else ():
            patch.setattr(torch.cuda, name, pretends)
        record = mode.streams.record
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, on: record(tensor, on))
        for accelerator, its in ((MPSAccelerator, "mps"), (CUDAAccelerator, "cuda")):
            patch.setattr(accelerator, "is_available", staticmethod(lambda its=its: kind == its))
        with mode:
            yield mode

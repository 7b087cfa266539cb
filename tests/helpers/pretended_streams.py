"""Streams, events and page-locked memory of a CUDA device that only pretends to be one.

Operations are done at once, but copies between a device and page-locked memory are not: a copy to
the CPU has wrong content until an event after it is waited for, and the source of a copy to the
device must stay as it is until then. What one stream has copied, another may use only after it has
waited for that stream, and with `record_stream`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

Tensor = torch.Tensor
WRONG = 0x7F  # each byte of what is not here yet: a large number, whatever its type


class Stream:
    """A queue of copies that are on their way."""

    def __init__(self, *_: object) -> None:
        self.given: list[Callable[[], None]] = []
        self.done = 0
        self.waited: dict[Stream, int] = {}

    def wait_stream(self, other: Stream) -> None:
        self.waited[other] = len(other.given)

    def finish(self, count: int | None = None) -> None:
        """Do what was given, up to a number of copies."""
        last = len(self.given) if count is None else count
        while self.done < last:
            self.done += 1
            self.given[self.done - 1]()

    synchronize = finish


class Streams:
    """All streams of a device, and the memory of the CPU that is page-locked for it.

    Attributes:
        copied: of each copy to the device, its bytes and whether they were page-locked.
        refuses: no memory can be locked in place, which the next kernel then reports.
    """

    def __init__(self) -> None:
        self.default = self.current = Stream()
        self.locked: dict[int, int] = {}  # bytes by address
        self.copied: list[tuple[int, bool]] = []
        self.refuses = self.remembers_error = False

    def patches(self) -> dict[str, Any]:
        """What takes the place of names in `torch.cuda`."""
        return {
            "Stream": Stream,
            "Event": self._event,
            "stream": self._use,
            "device": self._use,
            "current_stream": lambda _=None: self.current,
            "synchronize": lambda _=None: self.finish(),
            "cudart": lambda: self,
        }

    @contextmanager
    def _use(self, stream: object):
        before = self.current
        self.current = stream if isinstance(stream, Stream) else before
        try:
            yield
        finally:
            self.current = before

    def _event(self, **_: object) -> Event:
        return Event(self)

    def finish(self) -> None:
        """Wait for all that the current stream depends on."""
        for stream in (*self.current.waited, self.current):
            stream.finish()

    def cudaHostRegister(self, address: int, size: int, _: int) -> int:  # noqa: N802
        if self.refuses:
            self.remembers_error = True
            return 801  # cudaErrorNotSupported
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.locked[address]
        return 0

    def is_locked(self, tensor: Tensor) -> bool:
        return hasattr(tensor.untyped_storage(), "locked") or self._is_locked_in_place(tensor)

    def _is_locked_in_place(self, tensor: Tensor) -> bool:
        at = tensor.data_ptr()
        return any(start <= at < start + size for start, size in self.locked.items())

    def send(self, source: Tensor, copy: Tensor, *, waits: bool) -> None:
        """Note a copy to the device."""
        locked = self.is_locked(source)
        self.copied.append((source.nbytes, locked))
        if waits or not locked:
            return
        # Torch itself keeps what it has locked; of other memory only the address is known.
        at, size = source.data_ptr(), source.nbytes if self._is_locked_in_place(source) else 0
        as_it_was = ctypes.string_at(at, size)

        def check() -> None:
            now = ctypes.string_at(at, size)
            assert now == as_it_was, "changed while the device was reading it"

        self.current.given.append(check)
        copy.untyped_storage().stream = self.current, len(self.current.given), set()

    def fetch(self, copy: Tensor, *, waits: bool) -> Tensor:
        """A copy to the CPU, which comes later."""
        if waits:
            self.finish()
            return copy
        later = torch.empty_like(copy)
        later.untyped_storage().fill_(WRONG)
        later.untyped_storage().locked = True
        self.current.given.append(lambda: later.copy_(copy))
        return later

    def record(self, tensor: Tensor, stream: Stream) -> None:
        """Keep the memory of a tensor until a stream has used it."""
        with torch._C.DisableTorchFunction():  # this is no use of it
            _, _, users = getattr(tensor.untyped_storage(), "stream", (None, 0, set()))
        users.add(stream)

    def check_use(self, tensor: Tensor) -> None:
        """Raise an error if the current stream does not wait for what another one has copied."""
        if self.remembers_error:
            self.remembers_error = False
            raise RuntimeError("CUDA error: operation not supported")
        copied = getattr(tensor.untyped_storage(), "stream", None)
        if copied is None or copied[0] is self.current:
            return
        stream, place, users = copied
        assert self.current.waited.get(stream, 0) >= place, "used before it was copied"
        assert self.current in users, "its memory may be used again too early"


class Event:
    """A place in the queue of a stream."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def record(self, stream: Stream) -> None:
        self.stream, self.place = stream, len(stream.given)
        self.before = dict(stream.waited)

    def synchronize(self) -> None:
        for stream, place in {**self.before, self.stream: self.place}.items():
            stream.finish(place)

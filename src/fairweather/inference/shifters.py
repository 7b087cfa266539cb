"""Processes that shift batches of images ahead, and the code that starts them and sends orders.

A shifter reads lines of JSON and answers each with a line. It ends as soon as its input ends.
Pixels are copied once: into memory that all processes have mapped, where a shifter overwrites them
and from where they are predicted. Two threads would shift only 1.4 times as fast as one: many small
steps of NumPy hold Python's lock (benchmarks/notes/sharing.md).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import select
import sys
import tempfile
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fairweather.attacks.shift_lists import expand_shifts
from fairweather.data.batches import copy_pixels, shift_images
from fairweather.data.corrupted import read_stored
from fairweather.devices import available_memory, lock_pages, unlock_pages, wait_for
from fairweather.errors import InputError
from fairweather.inference.pace import Pace, count_needed, describe_pace
from fairweather.processes import (
    describe_exit,
    keep_freed_memory,
    send_line,
    start_module,
    take_stdout,
)
from fairweather.progress import Event, Notify, silent
from fairweather.types.measurement import Attack, Images, Index, Shift, StoredImage
from fairweather.types.record import FrozenRecord

SLOTS = 2  # batches of a shifter: one in progress, and one that waits
# Memory of its own that is kept for a shifter. Measured with eight corruptions at 224 pixels, in
# batches of 64 images: 205 to 232 MiB. Larger images need more while they are shifted.
PROCESS_BYTES = 2**29


class ShiftOrder(FrozenRecord):
    """A batch to be shifted."""

    offset: int
    """Where its pixels are in the shared memory, in bytes."""

    shape: tuple[int, int, int, int]
    """Of the pixels, `[B, 3, H, W]`."""

    keys: tuple[int, ...]
    """Key of each image."""

    shift: str
    """Id of the shift."""

    seed: int
    """Seed of random shifts."""

    stored: tuple[StoredImage, ...] = ()
    """The files that are read instead; empty for a shift that is computed."""

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return int(np.prod(self.shape))


class ShiftAnswer(FrozenRecord):
    """The answer to an order."""

    error: str = ""
    """Message or traceback; empty if the batch is shifted."""

    is_input_error: bool = False
    """Whether the user's input is at fault, not the program."""

    seconds: float = 0.0
    """How long it took."""


class Shifters:
    """Processes that shift batches: one at first, and then as many as keep up with the networks.

    Their number changes no pixel.

    Args:
        most: how many there are cores for; at least 1.
        device: that of the networks. A CUDA device copies the batches from page-locked memory.
        first: how many start with the first batch.
        jobs: how many jobs of this machine start such processes.

    Attributes:
        tell: called with a line that says how many there are, and why.
    """

    def __init__(
        self, most: int, device: torch.device | None = None, *, first: int = 1, jobs: int = 1
    ) -> None:
        self._device = device or torch.device("cpu")
        self.pace, self.first = Pace(most, partial(wait_for, self._device)), first
        self.tell: Notify = silent
        self._jobs = jobs
        self._memory: _SharedMemory | None = None
        self._processes: list[_ShifterProcess] = []
        self._joining: list[_ShifterProcess] = []  # they still load their modules
        self._begun = 0  # batches
        self._fitting = first  # processes, into what memory was available at the first batch
        self._has_told = False

    @property
    def max_batches(self) -> int:
        """How many batches may be started and not yet collected."""
        return SLOTS * max(len(self._processes), self.first)

    def start(self, images: Images, index: Index, shift: Shift, seed: int) -> Callable[[], Images]:
        """Begin to shift a batch; collect results in the order in which batches began.

        Pixels that are read from published files are not copied.
        """
        self.pace.asked()
        if self._memory is None:
            self._memory = _SharedMemory(self._device)
            # Half of the memory stays. Other jobs may start theirs at the same time.
            self._fitting = self.first + available_memory() // 2 // self._jobs // PROCESS_BYTES
            self._processes = [_ShifterProcess(self._memory.file) for _ in range(self.first)]
        while self._joining and self._joining[0].has_answered:
            self._processes.append(self._joining.pop(0))
        self._begun += 1
        # As batches are collected in order, the one that began first is done.
        process, begun = min(self._processes, key=lambda each: each.batches), self._begun
        process.batches = (*process.batches[1:], begun)
        process.read_answers(process.ordered - SLOTS + 1)  # this batch may follow an abandoned one
        keys = images.keys[index]
        offset, pixels = self._memory.take((len(keys), *images.images.shape[1:]))
        batch = images.at(index, torch.from_numpy(pixels))
        stored = () if shift.files is None else tuple(shift.files.locate(batch))
        if not stored:
            copy_pixels(images.images, index, batch.images)
        order = ShiftOrder(
            offset=offset,
            shape=pixels.shape,
            keys=tuple(keys.tolist()),
            shift=shift.id,
            seed=seed,
            stored=stored,
        )
        number = process.send(order, pixels)

        def wait_for_batch() -> Images:
            self.pace.asked()
            self.pace.shifted(len(batch), process.wait_for_order(number))
            self._grow()
            if self._begun > begun:  # else what follows is more than the work of the networks
                self.pace.given(len(batch))
            return batch

        return wait_for_batch

    def _grow(self) -> None:
        """Start as many more processes as the rates ask for, and say so."""
        count = len(self._processes)
        rates = None if self._joining else self.pace.rates(count)
        if rates is None or self._memory is None:
            return
        needed = max(count_needed(*rates, self.pace.most) - count, 0)
        more = min(needed, self._fitting - count)
        self._joining = [_ShifterProcess(self._memory.file) for _ in range(more)]
        if more or not self._has_told:
            self._has_told = True
            limit = "the memory allows" if more < needed else "the cores allow"
            line = f"{'shifts':14} {describe_pace(*rates, count + more, limit)}"
            self.tell(Event("shift", 0, None, line=line))

    def end(self) -> None:
        """End the processes, whatever they are doing."""
        processes = (*self._processes, *self._joining)
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        if self._memory is not None:
            self._memory.close()
        self._processes, self._joining, self._memory = [], [], None


class _Slot(NamedTuple):
    """A part of the shared memory that holds the pixels of one batch."""

    offset: int
    memory: mmap.mmap
    is_locked: bool


class _SharedMemory:
    """Slots in a file without a name, which is freed when all processes have ended.

    A slot is free again when nothing refers to its pixels. So a batch is valid as long as somebody
    has it, and there are as many slots as batches are in use at once.
    """

    def __init__(self, device: torch.device) -> None:
        # /dev/shm has only 64 MB in containers.
        if hasattr(os, "memfd_create"):
            self.file = os.memfd_create("fairweather-shifters")
        else:
            self.file = os.dup(tempfile.TemporaryFile().fileno())  # noqa: SIM115
        self._device = device
        self._slots: list[_Slot] = []
        self._free: list[_Slot] = []

    def take(self, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
        """Where the memory of uint8 pixels is in the file, and the pixels with any content."""
        size = math.prod(shape)
        slot = next((slot for slot in self._free if len(slot.memory) >= size), None)
        if slot is None:
            slot = self._add_slot(size)
        else:
            self._free.remove(slot)
        pixels = np.ndarray(shape, np.uint8, buffer=slot.memory)
        weakref.finalize(pixels, self._free.append, slot).atexit = False
        return slot.offset, pixels

    def _add_slot(self, size: int) -> _Slot:
        if len(self._free) == len(self._slots):  # all of them are too small, and nobody uses any
            self._remove_slots()
            os.ftruncate(self.file, 0)
        pages = mmap.ALLOCATIONGRANULARITY
        capacity = -(-size // pages) * pages
        offset = sum(len(slot.memory) for slot in self._slots)
        os.ftruncate(self.file, offset + capacity)
        memory = mmap.mmap(self.file, capacity, offset=offset)
        slot = _Slot(offset, memory, lock_pages(_as_tensor(memory), self._device))
        self._slots.append(slot)
        return slot

    def _remove_slots(self) -> None:
        for slot in self._slots:
            if slot.is_locked:
                unlock_pages(_as_tensor(slot.memory), self._device)
        self._slots.clear()
        self._free.clear()

    def close(self) -> None:
        """Forget the slots; pixels that somebody still has stay valid."""
        self._remove_slots()
        os.close(self.file)


def _as_tensor(memory: mmap.mmap) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8)


class _ShifterProcess:
    def __init__(self, file: int) -> None:
        self._process = start_module("fairweather.inference.shifters", str(file), pass_fds=[file])
        self._pixels: deque[np.ndarray] = deque()  # of orders without an answer: they are in use
        self.ordered = 0
        self._answered = -1  # its first line says that it is ready
        self.batches = (0,) * SLOTS  # numbers of its last batches, the oldest first

    @property
    def has_answered(self) -> bool:
        """Whether it has said that it is ready, or has ended."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def send(self, order: ShiftOrder, pixels: np.ndarray) -> int:
        """Order a shift of these pixels; the number of this order, counted from 1."""
        self._pixels.append(pixels)
        send_line(self._process, order.model_dump_json())
        self.ordered += 1
        return self.ordered

    def wait_for_order(self, number: int) -> float:
        """Wait for the answer to the order `number`, and skip the answers to earlier ones.

        Returns the seconds that the order took.
        """
        answer = self.read_answers(number)
        if answer.error:
            raise InputError(answer.error) if answer.is_input_error else RuntimeError(answer.error)
        return answer.seconds

    def read_answers(self, count: int) -> ShiftAnswer:
        """Read answers until `count` have come since the start; return the last one read now."""
        answer = ShiftAnswer()
        assert self._process.stdout is not None
        while self._answered < count:
            line = self._process.stdout.readline()
            if not line:
                status = describe_exit(self._process.wait())
                raise InputError(
                    f"a process that shifts images ended with {status}, perhaps because memory ran "
                    "out; the same command continues from what is finished"
                )
            answer = ShiftAnswer.model_validate_json(line)
            if self._answered >= 0:
                self._pixels.popleft()
            self._answered += 1
        return answer

    def kill(self) -> None:
        """Let it end at once: nobody wants what it shifts, or loads."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # it may not have read everything
                pipe.close()


# ---------------------------------------------------------------- in a shifter


def main() -> None:
    """Shift the batches that standard input orders, in the memory of the file descriptor given."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    output = take_stdout()
    file, memory = int(sys.argv[1]), None

    def answer(message: ShiftAnswer) -> None:
        output.write(message.model_dump_json() + "\n")
        output.flush()

    answer(ShiftAnswer())  # it is ready
    for line in sys.stdin:
        order = ShiftOrder.model_validate_json(line)
        if memory is None or len(memory) < order.offset + order.nbytes:
            memory = mmap.mmap(file, os.fstat(file).st_size)
        answer(_execute_order(order, memory))


def _execute_order(order: ShiftOrder, memory: mmap.mmap) -> ShiftAnswer:
    view = np.frombuffer(memory, np.uint8, order.nbytes, order.offset).reshape(order.shape)
    began = time.perf_counter()
    try:
        view[...] = (
            read_stored(order.stored, order.shape[1:]) if order.stored else _shift(order, view)
        )
    except InputError as error:
        return ShiftAnswer(error=str(error), is_input_error=True)
    except Exception:
        return ShiftAnswer(error=traceback.format_exc())
    return ShiftAnswer(seconds=time.perf_counter() - began)


def _shift(order: ShiftOrder, view: np.ndarray) -> np.ndarray:
    keys = torch.tensor(order.keys)
    images = Images(torch.from_numpy(view), torch.zeros_like(keys), keys, ("",))
    return shift_images(images, _parse_shift(order.shift), order.seed).numpy()


@cache
def _parse_shift(text: str) -> Shift:
    (shift,) = expand_shifts(text)
    assert not isinstance(shift, Attack)
    return shift


if __name__ == "__main__":
    main()

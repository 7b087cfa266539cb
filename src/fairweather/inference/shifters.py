"""Processes that shift batches of images ahead, and the code that starts them and sends orders.

A shifter reads lines of JSON and answers each with a line. It ends as soon as its input ends.
Pixels stay in memory that both processes have mapped, where the shifter overwrites them. Two
threads would shift only 1.4 times as fast as one: many small steps of NumPy hold Python's lock
(benchmarks/notes/sharing.md).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import torch

from fairweather.attacks.shift_lists import expand_shifts
from fairweather.data.batches import shift_images
from fairweather.data.corrupted import read_stored
from fairweather.errors import InputError
from fairweather.inference.pace import Pace, count_needed, describe_pace
from fairweather.processes import describe_exit, send_line, start_module, take_stdout
from fairweather.progress import Event, Notify, silent
from fairweather.types.measurement import Attack, Images, Shift, StoredImage
from fairweather.types.record import FrozenRecord

SLOTS = 2  # places for batches in a shifter's memory: one in progress, and one that waits


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
        first: how many start with the first batch.
        wait_for_device: returns when the device has done all that it was given.

    Attributes:
        tell: called with a line that says how many there are, and why.
    """

    def __init__(
        self, most: int, *, first: int = 1, wait_for_device: Callable[[], None] = lambda: None
    ) -> None:
        self.pace, self.first = Pace(most, wait_for_device), first
        self.tell: Notify = silent
        self._processes: list[_ShifterProcess] = []
        self._joining: list[_ShifterProcess] = []  # they still load their modules
        self._begun = 0  # batches
        self._has_told = False

    @property
    def max_batches(self) -> int:
        """How many batches may be started and not yet collected."""
        return SLOTS * max(len(self._processes), self.first)

    def start(self, batch: Images, shift: Shift, seed: int) -> Callable[[], Images]:
        """Begin to shift a batch; collect results in the order in which batches began."""
        self.pace.asked()
        if not self._processes:
            self._processes = [_ShifterProcess() for _ in range(self.first)]
        while self._joining and self._joining[0].has_answered:
            self._processes.append(self._joining.pop(0))
        self._begun += 1
        # As batches are collected in order, the oldest slot is free.
        process, number = min(self._processes, key=lambda each: each.batches), self._begun
        process.batches = (*process.batches[1:], number)
        order_number, view = process.order(batch, shift, seed)
        labels, keys, classes = batch.labels, batch.keys, batch.classes

        def wait_for_batch() -> Images:
            self.pace.asked()
            seconds = process.wait_for_order(order_number)
            shifted = Images(torch.from_numpy(view.copy()), labels, keys, classes)
            self.pace.shifted(len(batch), seconds)
            self._grow()
            if self._begun > number:  # else what follows is more than the work of the networks
                self.pace.given(len(batch))
            return shifted

        return wait_for_batch

    def _grow(self) -> None:
        """Start as many more processes as the rates ask for, and say so."""
        count = len(self._processes)
        rates = None if self._joining else self.pace.rates(count)
        if rates is None:
            return
        more = max(count_needed(*rates, self.pace.most) - count, 0)
        self._joining = [_ShifterProcess() for _ in range(more)]
        if more or not self._has_told:
            self._has_told = True
            line = f"{'shifts':14} {describe_pace(*rates, count + more)}"
            self.tell(Event("shift", 0, None, line=line))

    def end(self) -> None:
        """End the processes."""
        for process in (*self._processes, *self._joining):
            process.end()
        self._processes, self._joining = [], []


class _ShifterProcess:
    def __init__(self) -> None:
        # Memory without a file name is freed when both processes have ended. /dev/shm has only 64
        # MB in containers.
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("fairweather-shifter")
        else:
            self._file = os.dup(tempfile.TemporaryFile().fileno())  # noqa: SIM115
        self._process = start_module(
            "fairweather.inference.shifters", str(self._file), pass_fds=[self._file]
        )
        self._memory: mmap.mmap | None = None
        self._slot_bytes = self._order_count = 0
        self._answer_count = -1  # its first line says that it is ready
        self.batches = (0,) * SLOTS  # number of the last batch in each slot, the oldest first

    @property
    def has_answered(self) -> bool:
        """Whether it has said that it is ready, or has ended."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def order(self, batch: Images, shift: Shift, seed: int) -> tuple[int, np.ndarray]:
        """Copy the pixels of a batch into the next slot and order the shift.

        Pixels that will be read from published files are not copied.

        Returns the number of this order, counted from 1, and the pixels in the slot.
        """
        pixels = batch.images.numpy()
        stored = () if shift.files is None else tuple(shift.files.locate(batch))
        # The slot may belong to an abandoned order.
        self._read_answers(self._order_count - SLOTS + 1)
        memory = self._memory_with_slots(pixels.nbytes)
        offset = self._order_count % SLOTS * self._slot_bytes
        view = np.frombuffer(memory, np.uint8, pixels.nbytes, offset).reshape(pixels.shape)
        if not stored:
            view[...] = pixels
        order = ShiftOrder(
            offset=offset,
            shape=pixels.shape,
            keys=tuple(batch.keys.tolist()),
            shift=shift.id,
            seed=seed,
            stored=stored,
        )
        send_line(self._process, order.model_dump_json())
        self._order_count += 1
        return self._order_count, view

    def _memory_with_slots(self, size: int) -> mmap.mmap:
        """The memory, enlarged to slots of `size` bytes if needed; older views stay valid."""
        if self._memory is None or size > self._slot_bytes:
            self._read_answers(self._order_count)  # their slots are about to move
            self._slot_bytes = size
            os.ftruncate(self._file, SLOTS * size)
            self._memory = mmap.mmap(self._file, SLOTS * size)
        return self._memory

    def wait_for_order(self, number: int) -> float:
        """Wait for the answer to the order `number`, and skip the answers to earlier ones.

        Returns the seconds that the order took.
        """
        answer = self._read_answers(number)
        if answer.error:
            raise InputError(answer.error) if answer.is_input_error else RuntimeError(answer.error)
        return answer.seconds

    def _read_answers(self, count: int) -> ShiftAnswer:
        """Read answers until `count` have come since the start; return the last one read now."""
        answer = ShiftAnswer()
        assert self._process.stdout is not None
        while self._answer_count < count:
            line = self._process.stdout.readline()
            if not line:
                status = describe_exit(self._process.wait())
                raise InputError(
                    f"a process that shifts images ended with {status}, perhaps because memory ran "
                    "out; the same command continues from what is finished"
                )
            answer = ShiftAnswer.model_validate_json(line)
            self._answer_count += 1
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        os.close(self._file)


# ---------------------------------------------------------------- in a shifter


def main() -> None:
    """Shift the batches that standard input orders, in the memory of the file descriptor given."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
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
    pixels, keys = torch.from_numpy(view.copy()), torch.tensor(order.keys)
    images = Images(pixels, torch.zeros_like(keys), keys, ("",))
    return shift_images(images, _parse_shift(order.shift), order.seed).numpy()


@cache
def _parse_shift(text: str) -> Shift:
    (shift,) = expand_shifts(text)
    assert not isinstance(shift, Attack)
    return shift


if __name__ == "__main__":
    main()

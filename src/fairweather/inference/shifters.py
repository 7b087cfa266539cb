"""Processes that shift batches of images ahead, and the code that starts and asks them.

A shifter reads lines of JSON and answers each with a line. Pixels stay in memory that both
processes have mapped, where the shifter overwrites them. These are processes because two threads
shift only 1.4 times as fast as one: many small steps of NumPy hold Python's
lock (benchmarks/notes/sharing.md). A shifter ends as soon as its input ends.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import cache

import cv2
import numpy as np
import torch

from fairweather.attacks.shift_lists import expand_shifts
from fairweather.data.batches import shift_pixels
from fairweather.errors import InputError
from fairweather.processes import describe_exit, send_line, start_module, take_stdout
from fairweather.types.measurement import Attack, Images, Shift
from fairweather.types.record import FrozenRecord

SLOTS = 2  # batches of each shifter: one in progress, and one that waits


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

    @property
    def size(self) -> int:
        """Bytes of the pixels."""
        return int(np.prod(self.shape))


class ShiftAnswer(FrozenRecord):
    """The answer to an order: an error or nothing, and whether the input is at fault."""

    error: str = ""
    is_input: bool = False


class Shifters:
    """Several processes that shift batches, in turn; they start with the first batch.

    Args:
        number: of processes.
    """

    def __init__(self, number: int) -> None:
        self.number, self.most = number, SLOTS * number
        self._processes: list[_ShifterProcess] = []
        self._turns: Iterator[_ShifterProcess] = iter(())

    def start(self, batch: Images, shift: Shift, seed: int) -> Callable[[], Images]:
        """Begin to shift a batch; ask for results in the order in which batches began."""
        if not self._processes:
            self._processes = [_ShifterProcess() for _ in range(self.number)]
            self._turns = itertools.cycle(self._processes)
        process = next(self._turns)
        number, view = process.put(batch, shift.id, seed)
        labels, keys, classes = batch.labels, batch.keys, batch.classes

        def result() -> Images:
            process.wait(number)
            return Images(torch.from_numpy(view.copy()), labels, keys, classes)

        return result

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.end()
        self._processes = []


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
        self._slot = self._ordered = self._answered = 0

    def put(self, batch: Images, shift: str, seed: int) -> tuple[int, np.ndarray]:
        """Copy the pixels of a batch into the next slot and order the shift.

        Returns the number of orders so far, with this one, and the pixels in the slot.
        """
        pixels = batch.images.numpy()
        self._wait_until(self._ordered - SLOTS + 1)  # the slot may belong to an abandoned order
        memory = self._memory_for(pixels.nbytes)
        offset = self._ordered % SLOTS * self._slot
        view = np.frombuffer(memory, np.uint8, pixels.nbytes, offset).reshape(pixels.shape)
        view[...] = pixels
        order = ShiftOrder(
            offset=offset,
            shape=pixels.shape,
            keys=tuple(batch.keys.tolist()),
            shift=shift,
            seed=seed,
        )
        send_line(self._process, order.model_dump_json())
        self._ordered += 1
        return self._ordered, view

    def _memory_for(self, size: int) -> mmap.mmap:
        """The memory, large enough for two batches of this size; views of the former one last."""
        if self._memory is None or size > self._slot:
            self._wait_until(self._ordered)  # slots change their places
            self._slot = size
            os.ftruncate(self._file, SLOTS * size)
            self._memory = mmap.mmap(self._file, SLOTS * size)
        return self._memory

    def wait(self, number: int) -> None:
        """Wait for the answer to an order, and skip the answers to earlier ones."""
        answer = self._wait_until(number)
        if answer.error:
            raise InputError(answer.error) if answer.is_input else RuntimeError(answer.error)

    def _wait_until(self, answered: int) -> ShiftAnswer:
        """Read answers until this many have come; return the last one."""
        answer = ShiftAnswer()
        assert self._process.stdout is not None
        while self._answered < answered:
            line = self._process.stdout.readline()
            if not line:
                status = describe_exit(self._process.wait())
                raise InputError(
                    f"a process that shifts images ended with {status}, perhaps because memory ran "
                    "out; the same command continues from what is finished"
                )
            answer = ShiftAnswer.model_validate_json(line)
            self._answered += 1
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
    """Shift the batches that standard input orders, in the memory of an open file."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    output = take_stdout()
    file, memory = int(sys.argv[1]), None
    for line in sys.stdin:
        order = ShiftOrder.model_validate_json(line)
        if memory is None or len(memory) < order.offset + order.size:
            memory = mmap.mmap(file, os.fstat(file).st_size)
        output.write(_execute_order(order, memory).model_dump_json() + "\n")
        output.flush()


def _execute_order(order: ShiftOrder, memory: mmap.mmap) -> ShiftAnswer:
    view = np.frombuffer(memory, np.uint8, order.size, order.offset).reshape(order.shape)
    try:
        shift, keys = _parse_shift(order.shift), torch.tensor(order.keys)
        view[...] = shift_pixels(torch.from_numpy(view.copy()), keys, shift, order.seed).numpy()
    except InputError as error:
        return ShiftAnswer(error=str(error), is_input=True)
    except Exception:
        return ShiftAnswer(error=traceback.format_exc())
    return ShiftAnswer()


@cache
def _parse_shift(text: str) -> Shift:
    (shift,) = expand_shifts(text)
    assert not isinstance(shift, Attack)
    return shift


if __name__ == "__main__":
    main()

"""How many processes shift images as fast as the networks predict them, from measured rates."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

MEASURED = 3  # batches whose median counts: one that took long, such as the first, does not
ROUND = 64  # the networks are measured in the first batches of every round


def count_needed(shift: float, predict: float, most: int) -> int:
    """Count the processes that shift as many images a second as the networks predict.

    Args:
        shift: seconds in which one process shifts an image.
        predict: seconds in which all networks predict it.
        most: processes that there are cores for; at least 1.

    >>> count_needed(1 / 800, 1 / 8000, 15), count_needed(1 / 800, 1 / 100, 15)
    (10, 1)
    """
    # The comparison comes first: the ratio of two measured times may be too large for a float.
    return most if shift >= most * predict else max(math.ceil(shift / predict), 1)


class Pace:
    """Measures how long a process shifts an image, and how long the networks take for it.

    The networks have a batch from the time when they are given it until they ask for the next one.
    A device may then still compute, so it is waited for; this is done for a few batches of many.

    Args:
        most: processes that there are cores for; at least 1.
        wait_for_device: returns when the device has done all that it was given.
        clock: gives seconds.
    """

    def __init__(
        self,
        most: int,
        wait_for_device: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.most = most
        self._wait_for_device, self._clock = wait_for_device, clock
        self._shift, self._predict = deque[float](), deque[float](maxlen=MEASURED)
        self._given: tuple[int, float] | None = None  # images, and when
        self._count = 0

    def shifted(self, images: int, seconds: float) -> None:
        """A process has shifted so many images in this time."""
        self._shift.append(seconds / images)

    def given(self, images: int) -> None:
        """The networks are given a batch, and more are on their way."""
        if self._count % ROUND < MEASURED:
            self._given = images, self._clock()
        self._count += 1

    def asked(self) -> None:
        """The networks ask for the next batch."""
        if self._given is not None:
            self._wait_for_device()
            images, began = self._given
            self._predict.append((self._clock() - began) / images)
            self._given = None

    def rates(self, processes: int) -> tuple[float, float] | None:
        """Seconds of one process, and of all networks, for an image; None until both are known.

        Each of so many processes must have shifted a few batches: its first one of a shift is slow.
        """
        while len(self._shift) > MEASURED * processes:
            self._shift.popleft()
        if len(self._shift) < MEASURED * processes or len(self._predict) < MEASURED:
            return None
        return statistics.median(self._shift), statistics.median(self._predict)


def describe_pace(
    shift: float, predict: float, processes: int, limit: str = "the cores allow"
) -> str:
    """Say how many processes shift images, and why; `limit` is why they are no more.

    Where images are shifted before a network is there, more are asked for than it predicts.

    >>> print(describe_pace(1 / 800, 1 / 3000, 4))
    4 processes shift 800 images/s each, and 3,000 images/s are asked for
    >>> print(describe_pace(1 / 800, 1 / 3000, 1))
    1 process shifts 800 images/s, and 3,000 images/s are asked for; 4 would keep up, and the cores
    allow no more
    """
    needed = math.ceil(shift / predict)
    subject = "1 process shifts" if processes == 1 else f"{processes:,} processes shift"
    wish = f"; {needed:,} would keep up, and {limit} no more" if needed > processes else ""
    return (
        f"{subject} {1 / shift:,.0f} images/s{' each' * (processes > 1)}, and "
        f"{1 / predict:,.0f} images/s are asked for{wish}"
    )

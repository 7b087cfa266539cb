"""Processes that share the work of this one: started when they are needed, and ending with it.

This file imports nothing heavy, since each of these processes imports it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from loky import get_reusable_executor

from fairweather.children import safe_path
from fairweather.errors import InputError

LOOKS = 1.0  # seconds between two looks at whether the process that started this one is there

P = ParamSpec("P")
T = TypeVar("T")


def submit(
    most: int,
    environment: Mapping[str, str],
    work: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Future[T]:
    """Start work in one of at most so many other processes.

    The same processes serve the next work; idle ones end by themselves. Unlike processes of the
    standard library, they do not import the user's script, which may lack the guard for that. Nor
    do they, or the processes that loky starts beside them, import files of the current folder.

    >>> submit(1, {}, divmod, 7, 2).result()
    (3, 1)
    """
    # Processes that replace ended ones are started later, by a thread of loky: so in `env` too.
    env = {**environment, "PYTHONSAFEPATH": "1"}
    with safe_path():
        executor = get_reusable_executor(
            most, env=env, initializer=_end_with, initargs=(os.getpid(),)
        )
        try:
            future: Future[T] = executor.submit(work, *args, **kwargs)
        except BaseException:
            # Interrupted while the others are started, the executor may not notice that this
            # process ends, which would then wait for it without end.
            executor.shutdown(wait=False, kill_workers=True)
            raise
    return future


def result_of(future: Future[T], what: str, remedy: str) -> T:
    """Wait for the result; raises `InputError` if the process was killed.

    Args:
        future: from `submit`.
        what: what the process did, for the message.
        remedy: what to do about it, likewise.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"a process that {what} was killed, perhaps because memory ran out; {remedy}"
        ) from error


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it, however that one ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

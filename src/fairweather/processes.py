"""This process's memory, and helper processes, which end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess  # nosec B404 # for Python itself, without a shell
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import cache
from typing import ParamSpec, TextIO, TypeVar

from loky import get_reusable_executor

from fairweather.errors import InputError

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# How users choose what glibc keeps.
_CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Let this process keep freed memory for what it needs next, if its C library is glibc.

    By itself, glibc returns memory as soon as some megabytes are free, and the next batch gets it
    page by page: 12 % of the time of a ViT-Ti (benchmarks/notes/speed.md). Now up to a gigabyte
    stays at the end of its heap. Single pieces of more than 32 MiB, the most that glibc allows, are
    returned as ever. Where a variable of glibc says what to keep, that stays.
    """
    if platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in _CHOSEN_BY):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 1 << 25)
        library.mallopt(_TRIM_THRESHOLD, 1 << 30)


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep Python processes that a library starts from importing files of the current folder.

    With `-m` and `-c` Python looks there first, and a foreign data set may hold a `pickle.py`.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def start_module(
    module: str, *arguments: str, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[str]:
    """Start a module of this package that reads and writes lines of text in UTF-8.

    It finds the same packages as this process: Python's own `-m` would look in the current folder
    first, where a file of the user may have the name of a package (`-P`). It is in a process group
    of its own, so that Ctrl-C reaches only this process, which then ends the others.

    Args:
        module: name of the module.
        arguments: of its command line.
        pass_fds: open files that it inherits.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(  # nosec B603 # our own module
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        pass_fds=pass_fds,
        process_group=0,
    )


def send_line(process: subprocess.Popen[str], line: str) -> None:
    """Send a line to such a process. If it has ended, reading its answer will show that."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


def read_first_line() -> str:
    """In a helper process: read the first line of its input. When the input ends, the process
    ends."""
    line = sys.stdin.readline()

    def end() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    return line


def take_stdout() -> TextIO:
    """In a helper process: take its output; everything else that is printed goes to standard
    error."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def describe_exit(status: int) -> str:
    """Say by which signal or with which status a process ended.

    >>> describe_exit(-9), describe_exit(2)
    ('signal 9', 'status 2')
    """
    return f"signal {-status}" if status < 0 else f"status {status}"


LOOK_INTERVAL = 1.0  # seconds between two checks that the parent process exists

P = ParamSpec("P")
T = TypeVar("T")


def submit(
    most: int,
    environment: Mapping[str, str],
    work: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Future[T]:
    """Start work in one of several other processes.

    The same processes do the next work; idle ones end by themselves. Unlike those of the standard
    library, they do not import the user's script, which may lack a main guard. Neither they nor
    loky's own processes import files of the current folder.

    >>> submit(1, {}, divmod, 7, 2).result()
    (3, 1)
    """
    # A thread of loky later starts replacements for ended processes, so `env` has the setting too.
    env = {**environment, "PYTHONSAFEPATH": "1"}
    with safe_path():
        executor = get_reusable_executor(
            most, env=env, initializer=_end_with_parent, initargs=(os.getpid(),)
        )
        try:
            future: Future[T] = executor.submit(work, *args, **kwargs)
        except BrokenProcessPool as error:
            # A process was killed a moment ago: whoever waits for this result learns of it.
            future = Future()
            future.set_exception(error)
        except BaseException:
            # An executor that is interrupted during start-up may not notice that this process ends,
            # and this process would wait for it forever.
            executor.shutdown(wait=False, kill_workers=True)
            raise
    return future


def wait_for_result(future: Future[T], action: str, remedy: str) -> T:
    """Wait for the result; raises `InputError` if the process was killed.

    Args:
        future: from `submit`.
        action: what the process did, for the message.
        remedy: what to do about it, for the message.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"a process that {action} was killed, perhaps because memory ran out; {remedy}"
        ) from error


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent, however the parent ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

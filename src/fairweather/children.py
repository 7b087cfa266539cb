"""Processes of this package that do a part of the work of another one."""

from __future__ import annotations

import os
import subprocess  # nosec B404 # for Python itself, without a shell
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO


@contextmanager
def safe_path() -> Iterator[None]:
    """Let the Pythons that a library starts meanwhile import nothing from the current folder.

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
    """Send a line to such a process; if it has ended, this is seen where its answer is read."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


def first_line() -> str:
    """In such a process: the first line of its input. When the input ends, the process ends."""
    line = sys.stdin.readline()

    def end() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    return line


def answers() -> TextIO:
    """In such a process: its output; whatever else is printed goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def how_it_ended(status: int) -> str:
    """Say by which signal or with which status a process ended.

    >>> how_it_ended(-9), how_it_ended(2)
    ('signal 9', 'status 2')
    """
    return f"signal {-status}" if status < 0 else f"status {status}"

"""Programs that tests start: none outlives a test that fails."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def started(command: list[str], **options: object) -> Iterator[subprocess.Popen]:
    """Start a program, wait for its end, and kill it where the test fails: it may never end."""
    options = {"stdout": subprocess.PIPE, "text": True} | options
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise

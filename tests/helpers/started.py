"""Programs that tests start: none outlives a test that fails."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds for the processes that another one started to end after it. On an idle machine they take
# one or two: they look once a second. A machine on which much else runs may need many more.
GONE = 60


@contextmanager
def started(
    command: list[str], begin: type = subprocess.Popen, **options: object
) -> Iterator[subprocess.Popen]:
    """Start a program, wait for its end, and kill it where the test fails: it may never end."""
    options = {"stdout": subprocess.PIPE, "text": True} | options
    with begin(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise

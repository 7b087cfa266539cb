"""Freed memory stays in a process that asks for it, so that its next batch meets no page faults."""

import os
import platform
import subprocess
import sys

import pytest

# How often the system had to give a page, the fourth time that the same 160 MiB are needed.
COUNTS_FAULTS = """
import resource, sys
from fairweather.processes import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [b"x" * (1 << 23) for _ in range(20)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments, chosen=None):
    command = [sys.executable, "-c", COUNTS_FAULTS, *arguments]
    of_glibc = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(of_glibc)}
    environment |= chosen or {}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it sets what glibc keeps")
def test_memory_is_kept_for_what_needs_it_next():
    assert 10 * page_faults("keep") < page_faults()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it sets what glibc keeps")
def test_a_user_chooses_what_is_kept():
    chosen = {"MALLOC_TRIM_THRESHOLD_": str(1 << 17)}
    assert page_faults("keep", chosen=chosen) > 10 * page_faults("keep")

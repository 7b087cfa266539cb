"""What is no file and has no end: whoever opens it waits, and whoever reads it fills memory."""

import os

import pytest


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


needs_endless = pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
in_the_place_of_a_file = pytest.mark.parametrize("make", [pipe, endless])


def put(make, path):
    """Put it in the place of a file that may be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)

"""Tests and docstring examples, wherever they lie, never touch the user's own cache folder."""

import os
import shutil
import tempfile

import pytest

CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Give this test process, and those that it starts, a cache folder of their own."""
    config.stash[CACHE] = tempfile.mkdtemp(prefix="fairweather-cache-")
    os.environ["FAIRWEATHER_CACHE"] = config.stash[CACHE]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)

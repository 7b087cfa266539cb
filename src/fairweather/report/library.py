"""Vega's JavaScript for the page: put together once for each version of vl-convert, then stored."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fairweather.folders import cache_folder
from fairweather.runs import ABANDONED, remove_partial, write_atomically
from fairweather.vega import EXPOSED, begin, bundle

MOST = 2**25  # bytes that are read; the JavaScript has one million
SHARED = stat.S_IWGRP | stat.S_IWOTH


def begin_library(letters: int) -> Callable[[], str]:
    """Read the JavaScript from the cache folder, or begin to put it together: seconds of work.

    The page's policy allows this script to run, so it is read only from a file that the same user
    has written and nobody else can change.

    Args:
        letters: characters of the figures that are drawn meanwhile, as for `vega.begin`.

    Returns:
        A function that waits for the JavaScript.

    >>> "window.vegaEmbed" in begin_library(0)()
    True
    """
    try:
        place = _place()
    except RuntimeError:  # a user without a home folder
        return begin(letters, bundle)
    stored = _read(place)
    if stored is not None:
        return lambda: stored
    made = begin(letters, bundle)

    def finish() -> str:
        text = made()
        _store(place, text)
        return text

    return finish


def _place() -> Path:
    kind = _digest(EXPOSED)[:8]
    return cache_folder() / "vega" / f"{version('vl-convert-python')}-{kind}.js"


def _read(place: Path) -> str | None:
    """Read what was stored; None where there is nothing, or something else."""
    try:
        # A link would lead elsewhere, and what is no file may never end.
        number = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(number, "rb") as file:
            found = os.fstat(number)
            ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if not ours or found.st_mode & SHARED:
                return None
            digest, _, text = file.read(MOST).decode().partition("\n")
    except (OSError, ValueError):
        return None
    return text if digest == _digest(text) else None


def _store(place: Path, text: str) -> None:
    """Write the JavaScript behind its checksum; without a word where nothing can be stored."""
    with contextlib.suppress(OSError):
        remove_partial(place.parent, age=ABANDONED)
        write_atomically(place, f"{_digest(text)}\n{text}")
        place.chmod(place.stat().st_mode & ~SHARED)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Vega's JavaScript for the page: put together once for each version of vl-convert, then stored."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fairweather.folders import cache_folder
from fairweather.runs import ABANDONED, remove_partial, write_atomically
from fairweather.vega import EXPOSED, begin, bundle


def begin_library(letters: int) -> Callable[[], str]:
    """Read the JavaScript from the cache folder, or begin to put it together: seconds of work.

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
        digest, _, text = place.read_bytes().decode().partition("\n")
    except (OSError, ValueError):
        return None
    return text if digest == _digest(text) else None


def _store(place: Path, text: str) -> None:
    """Write the JavaScript behind its checksum; without a word where nothing can be stored."""
    with contextlib.suppress(OSError):
        remove_partial(place.parent, age=ABANDONED)
        write_atomically(place, f"{_digest(text)}\n{text}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

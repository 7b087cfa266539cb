"""Vega's JavaScript for the page: put together once for each version of vl-convert, then stored."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fairweather.folders import cache_folder
from fairweather.runs import write_atomically
from fairweather.vega import begin, bundle


def begin_library(letters: int) -> Callable[[], str]:
    """Read the JavaScript from the cache folder, or begin to put it together: seconds of work.

    Args:
        letters: characters of the figures that are drawn meanwhile, as for `vega.begin`.

    Returns:
        A function that waits for the JavaScript.

    >>> "window.vegaEmbed" in begin_library(0)()
    True
    """
    place = cache_folder() / "vega" / f"{version('vl-convert-python')}.js"
    stored = _read(place)
    if stored is not None:
        return lambda: stored
    made = begin(letters, bundle)

    def finish() -> str:
        text = made()
        # Where nothing can be stored, the next report puts it together again.
        with contextlib.suppress(OSError):
            write_atomically(place, f"{_digest(text)}\n{text}")
        return text

    return finish


def _read(place: Path) -> str | None:
    """Read what was stored; None where there is nothing, or something else."""
    try:
        digest, _, text = place.read_bytes().decode().partition("\n")
    except (OSError, ValueError):
        return None
    return text if digest == _digest(text) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

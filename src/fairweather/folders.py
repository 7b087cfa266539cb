"""Where fairweather keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$FAIRWEATHER_CACHE`, or `fairweather` in the user's cache folder; may not exist yet.

    Everything below it may be deleted at any time: it is decoded or downloaded again when needed.
    """
    if chosen := os.environ.get("FAIRWEATHER_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fairweather"

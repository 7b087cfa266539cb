"""The folders of fairweather itself: its cache, and the published facts beside its code."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from fairweather.errors import InputError

# ---------------------------------------------------------------- the cache


def cache_folder() -> Path:
    """`$FAIRWEATHER_CACHE`, or `fairweather` in the user's cache folder; it may not exist yet.

    Everything in it may be deleted at any time, and is made or downloaded again when needed.
    """
    if chosen := os.environ.get("FAIRWEATHER_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fairweather"


def cannot_store(content: str, folder: Path, error: OSError) -> InputError:
    """Build the error for files that cannot be stored in a folder, and say how to use another one.

    Args:
        content: what was to be stored there.
        folder: below the cache folder, or the folder that the user named for a data set.
        error: what the system said.

    >>> denied = PermissionError(13, "Permission denied")
    >>> print(cannot_store("pathmnist.npz", Path("/data"), denied))
    pathmnist.npz cannot be stored in '/data': Permission denied; --data-root (root in Python and in
    study files) names another folder
    >>> print(cannot_store("decoded images", cache_folder() / "images", denied))
    decoded images cannot be stored in '...images': Permission denied; the environment variable
    FAIRWEATHER_CACHE names another folder
    """
    another = "--data-root (root in Python and in study files)"
    if folder.is_relative_to(cache_folder()):
        another = "the environment variable FAIRWEATHER_CACHE"
    return InputError(
        f"{content} cannot be stored in {str(folder)!r}: {error.strerror or error}; "
        f"{another} names another folder"
    )


# ---------------------------------------------------------------- facts beside the code


def read_facts(package: str, name: str) -> Any:  # noqa: ANN401 - of the reader's types, once made
    """Read `NAME.json` of a package.

    >>> read_facts("fairweather.shifts.imagenet_c", "constants")["pixelate"]["parameters"]
    {'factor': 'factor on the side'}
    """
    return json.loads(resources.files(package).joinpath(f"{name}.json").read_text(encoding="utf-8"))

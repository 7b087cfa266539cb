"""Facts that others published, in JSON files beside the code that uses them."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def read_facts(package: str, name: str) -> Any:  # noqa: ANN401 - of the reader's types, once made
    """Read `NAME.json` of a package.

    >>> read_facts("fairweather.shifts.imagenet_c", "constants")["pixelate"]["parameters"]
    {'factor': 'factor on the side'}
    """
    return json.loads(resources.files(package).joinpath(f"{name}.json").read_text(encoding="utf-8"))

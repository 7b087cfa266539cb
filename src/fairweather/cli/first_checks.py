"""What is done before torch is imported, such as checks, so that a typo is reported at once."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from fairweather.errors import InputError, unknown_name


def check_study_name(study: str) -> None:
    """Raise `InputError` unless this is a packaged study or a file.

    >>> check_study_name("quickstrat")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown study 'quickstrat'; did you mean 'quickstart'? known: ...
    """
    if Path(study).is_file():
        return
    files = (resources.files("fairweather") / "studies").iterdir()
    packaged = [each.name.removesuffix(".yaml") for each in files if each.name.endswith(".yaml")]
    if study in packaged:
        return
    if Path(study).suffix in (".yaml", ".yml") or len(Path(study).parts) > 1:
        raise InputError(f"there is no study file {study}")
    raise unknown_name("study", study, packaged)


def go_offline(offline: bool) -> None:
    """Keep huggingface_hub off the network if asked to; it reads this when it is imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"

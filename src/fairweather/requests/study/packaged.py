"""The studies in this package, by name; without torch, so that a wrong name fails at once."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from fairweather.errors import InputError, unknown_name


def packaged_studies() -> dict[str, str]:
    """Give the texts of the studies in this package, by name."""
    folder = resources.files("fairweather") / "studies"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".yaml")
    }


def study_facts(text: str) -> dict[str, str]:
    """Read `time` and `hardware` from the header of a packaged study.

    >>> study_facts("# Digits.\\n#\\n# time       a minute\\n# hardware   2 cores\\nname: digits")
    {'time': 'a minute', 'hardware': '2 cores'}
    """
    return dict(re.findall(r"^# (time|hardware) +(.+)$", text, re.MULTILINE))


def check_study_name(study: str) -> None:
    """Raise `InputError` unless this is a packaged study or a file.

    >>> check_study_name("quickstrat")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown study 'quickstrat'; did you mean 'quickstart'? known: ...
    """
    path, packaged = Path(study), packaged_studies()
    if path.is_file() or study in packaged:
        return
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"there is no study file {study}")
    raise unknown_name("study", study, packaged)

"""Published files of corrupted images as shifts: `imagenet-c:FOLDER`, `imagenet-c-files/fog`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fairweather.data.corrupted import (
    FILES,
    PUBLISHED_SETS,
    PublishedCell,
    PublishedFiles,
    find_cells,
    find_published_name,
    find_published_set,
)
from fairweather.errors import InputError, unknown_name
from fairweather.shifts.corruption import check_severity
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS
from fairweather.shifts.medmnist_c.corruptions import CORRUPTIONS as OF_MEDMNIST
from fairweather.shifts.table import SHIFTS, ShiftKind
from fairweather.types.measurement import Parameter, Shift

SEVERITY = "severity"
_SOURCE = re.compile(r"(?P<name>[A-Za-z0-9_.-]+):(?P<path>\S.*)")
_ID = re.compile(rf"(?P<name>[^,]+),{SEVERITY}=(?P<severity>[1-5])")


def is_published(shift: str) -> bool:
    """Say whether the name of a shift is that of a corruption in published files.

    >>> is_published("imagenet-c-files/fog"), is_published("imagenet-c-files/frogs")
    (True, False)
    """
    facts = find_published_set(shift)
    return facts is not None and shift.partition("/")[2] in facts.corruptions


def find_shift_kind(name: str) -> ShiftKind | None:
    """The row of a shift in the table, or of a corruption in published files; None without one.

    >>> find_shift_kind("imagenet-c-files/fog").title
    'Fog (files)'
    """
    if not is_published(name):
        return SHIFTS.get(name)
    corruption = name.partition("/")[2]
    row = CORRUPTIONS.get(corruption) or OF_MEDMNIST.get(corruption)
    title = row.title if row else corruption.replace("_", " ").capitalize()
    return ShiftKind(_refuse, f"{title} (files)", SEVERITY, parameters=(SEVERITY,))


def name_published_shift(name: str, severity: float) -> Shift:
    """The shift of published files by its name, without the files.

    >>> name_published_shift("imagenet-c-files/fog", 3).id
    'imagenet-c-files/fog,severity=3'
    """
    return _make_shift(name, check_severity(name, severity), None)


def parse_published_shift(text: str) -> Shift | None:
    """The shift of published files with this id, without the files; None for another id.

    >>> parse_published_shift("imagenet-c-files/fog,severity=3").level
    3.0
    """
    match = _ID.fullmatch(text)
    if match is None or not is_published(match["name"]):
        return None
    return name_published_shift(match["name"], int(match["severity"]))


def expand_published(text: str) -> list[Shift] | None:
    """All corruptions and severities of a set in a folder; None for a text of another form.

    Args:
        text: such as `imagenet-c:FOLDER`, `imagenet-c:FOLDER/fog` or `imagenet-c:FOLDER/fog/3`.

    Raises:
        InputError: the folder has nothing of the set.
    """
    match = _SOURCE.fullmatch(text.strip())
    published = "" if match is None else find_published_name(match["name"])
    if match is None or published not in PUBLISHED_SETS:
        return None
    try:
        path = Path(match["path"]).expanduser().absolute()
    except RuntimeError:
        raise InputError(f"{text!r} names a user without a home folder") from None
    return [_read_shift(cell) for cell in find_cells(published, path)]


def refuse_source(text: str) -> None:
    """Raise `InputError` for a text like `imagenet-c:FOLDER` with the name of no set."""
    match = _SOURCE.fullmatch(text.strip())
    if match is not None:
        raise unknown_name("set of published files", match["name"], PUBLISHED_SETS)


def refuse_name(name: str) -> None:
    """Raise `InputError` for the name of a shift that needs the folder of its files."""
    if find_published_set(name) is not None:
        published, _, corruption = name.partition("/")
        source = f"{published.removesuffix(FILES)}:FOLDER/{corruption}"
        raise InputError(f"{name} is read from published files: name their folder, {source}")


def _read_shift(cell: PublishedCell) -> Shift:
    return _make_shift(cell.shift, cell.severity, PublishedFiles(cell))


def _make_shift(name: str, severity: int, files: PublishedFiles | None) -> Shift:
    parameters: dict[str, Parameter] = {SEVERITY: severity}
    return Shift(name, float(severity), parameters, _refuse, files)


def _refuse(*_: object, **__: object) -> Any:  # noqa: ANN401 - it never returns
    raise InputError("published files have images of their own: name the folder of the set")

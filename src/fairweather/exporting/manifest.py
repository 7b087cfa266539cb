"""The manifest of an export: what is finished, and of what; it is what the same command reads."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import filelock
import torch

from fairweather.errors import InputError
from fairweather.exporting.layouts import Written
from fairweather.record import Frozen
from fairweather.runs import LOCK, PARTIAL, inside, provenance, write_atomically

MANIFEST = "manifest.json"
# What a process leaves that is ended before it has written the first manifest; the second name is
# that of earlier versions.
BEGINNINGS = {LOCK, f".{MANIFEST}.partial"}


class ExportedClass(Frozen):
    """A class, and the folder that its images are in where there are folders."""

    label: int
    name: str
    folder: str


class ExportedData(Frozen):
    """What is exported: a part of a data set.

    Attributes:
        name: of the data set.
        part: `train`, `val` or `test`.
        digest: of its images, labels and keys.
        images: how many.
        size: height and width in pixels.
        classes: in label order.
    """

    name: str
    part: str
    digest: str
    images: int
    size: tuple[int, int]
    classes: tuple[ExportedClass, ...]


class ExportInputs(Frozen):
    """What all shifts of an export share."""

    kind: Literal["fairweather export"] = "fairweather export"
    version: Literal[1] = 1
    data: ExportedData
    format: str
    seed: int


class Made(Frozen):
    """When and with what a shift was written."""

    time: str
    command: str
    versions: dict[str, str]


class ShiftFacts(Frozen):
    """What a shift is, and in words the constants that it has at the size of the images."""

    name: str
    parameters: dict[str, float | int | str]
    constants: str


class ExportedShift(ShiftFacts, Written):
    """A shift that is written.

    Attributes:
        path: of its file or folder.
        made: when and with what.
    """

    path: str
    made: Made


class ExportRecord(ExportInputs):
    """What the manifest says: the shifts that are written, by id."""

    shifts: dict[str, ExportedShift]


class Manifest:
    """The folder of an export and its manifest; every change is written at once."""

    def __init__(self, folder: Path, record: ExportRecord) -> None:
        self._folder, self._record = folder, record
        self._shifts = dict(record.shifts)
        facts = provenance(torch.device("cpu"))
        self._made = Made(time=facts.time, command=facts.command, versions=facts.versions)
        self._write()

    def is_done(self, shift: str, intact: Callable[[Path, Written], bool]) -> bool:
        """Say whether this shift is finished, by the same versions, and its files intact."""
        found = self._shifts.get(shift)
        if found is None or found.made.versions != self._made.versions:
            return False
        return intact(inside(self._folder, found.path, MANIFEST), found)

    @contextmanager
    def replacing(self, shift: str, name: str) -> Iterator[Path]:
        """Give the path to write a shift's files to; they get their name when all went well."""
        path, partial = self._folder / name, self._folder / f".{secrets.token_hex(8)}.partial"
        try:
            yield partial
        except BaseException:
            _remove(partial)
            raise
        if self._shifts.pop(shift, None):
            self._write()
        _remove(path)
        partial.rename(path)

    def finish(self, shift: str, name: str, facts: ShiftFacts, written: Written) -> None:
        """Record a shift whose files have their names."""
        described = facts.model_dump() | written.model_dump()
        self._shifts[shift] = ExportedShift(**described, path=name, made=self._made)
        self._write()

    def _write(self) -> None:
        record = self._record.model_copy(update={"shifts": self._shifts})
        described = record.model_dump(mode="json", exclude_none=True)
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self._folder / MANIFEST, text)


@contextmanager
def open_export(folder: Path, inputs: ExportInputs) -> Iterator[Manifest]:
    """Open the folder of an export, new or begun, and keep other processes out.

    Args:
        folder: where it is or is to be.
        inputs: what all its shifts share.

    Raises:
        InputError: it holds something else, an export of other inputs, or is in use.
    """
    _read(folder, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = filelock.FileLock(inside(folder, LOCK), timeout=0).acquire()
    except filelock.Timeout:
        raise InputError(f"another process is exporting to {folder}") from None
    with held:
        record = _read(folder, inputs)
        for leftover in folder.glob(".*.partial"):
            _remove(leftover)
        yield Manifest(folder, record)


def _read(folder: Path, inputs: ExportInputs) -> ExportRecord:
    if not folder.exists() or (folder.is_dir() and all(map(_is_beginning, folder.iterdir()))):
        return ExportRecord(**dict(inputs), shifts={})
    found = _parse(folder / MANIFEST)
    if found is None:
        raise InputError(f"{folder} holds something else; name a new folder with --out")
    for what, had, asked in (
        ("part", found.data.part, inputs.data.part),
        ("format", found.format, inputs.format),
        ("seed", found.seed, inputs.seed),
        ("data, by their SHA-256", found.data.digest, inputs.data.digest),
    ):
        if had != asked:
            raise InputError(
                f"{folder} holds an export of another {what}: {had} and not {asked}; "
                "name a new folder with --out"
            )
    return found


def _is_beginning(path: Path) -> bool:
    return path.name in BEGINNINGS or PARTIAL.fullmatch(path.name) is not None


def _parse(path: Path) -> ExportRecord | None:
    """The manifest, or None where there is none of an export."""
    try:
        return ExportRecord.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

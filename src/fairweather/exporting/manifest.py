"""The manifest of an export: its data and its finished shifts, from which a second call goes on."""

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

from fairweather.errors import InputError, naming
from fairweather.exporting.layouts import Written
from fairweather.record import Frozen
from fairweather.runs import LOCK, PARTIAL, inside, provenance, write_atomically

MANIFEST = "manifest.json"
# The files of a process that was ended before it wrote the first manifest. Earlier versions used
# the second name.
BEGINNINGS = {LOCK, f".{MANIFEST}.partial"}


class ExportedClass(Frozen):
    """A class and, if there are folders, the folder of its images."""

    label: int
    name: str
    folder: str


class ExportedData(Frozen):
    """The exported split of a data set.

    Attributes:
        name: the name of the data set.
        part: the split: `train`, `val` or `test`.
        digest: digest of its images, labels and keys.
        images: the number of images.
        size: height and width in pixels.
        classes: the classes in label order.
        files: by key, the path of each image's file from the folder of the source on; None if
            images have no files of their own.
    """

    name: str
    part: str
    digest: str
    images: int
    size: tuple[int, int]
    classes: tuple[ExportedClass, ...]
    files: dict[int, str] | None = None


class ExportInputs(Frozen):
    """The settings that all shifts of an export share."""

    kind: Literal["fairweather export"] = "fairweather export"
    version: Literal[1] = 1
    data: ExportedData
    format: str
    seed: int


class Made(Frozen):
    """When a shift was written, and with which command and versions."""

    time: str
    command: str
    versions: dict[str, str]


class ShiftFacts(Frozen):
    """A shift's name and parameters, and as text its constants for this image size."""

    name: str
    parameters: dict[str, float | int | str]
    constants: str


class ExportedShift(ShiftFacts, Written):
    """A shift that has been written.

    Attributes:
        path: its file or folder.
        made: when and with which versions.
    """

    path: str
    made: Made


class ExportRecord(ExportInputs):
    """The content of the manifest: settings, and the shifts that have been written, by id."""

    shifts: dict[str, ExportedShift]


class Manifest:
    """The folder of an export and its manifest; every change is written immediately."""

    def __init__(self, folder: Path, record: ExportRecord) -> None:
        self._folder, self._record = folder, record
        self._shifts = dict(record.shifts)
        facts = provenance(torch.device("cpu"))
        self._made = Made(time=facts.time, command=facts.command, versions=facts.versions)
        self._write()

    def is_done(self, shift: str, checksum: Callable[[Path], str]) -> bool:
        """Tell whether this shift was finished with the same versions and its files are intact."""
        found = self._shifts.get(shift)
        if found is None or found.made.versions != self._made.versions:
            return False
        return checksum(inside(self._folder, found.path, MANIFEST)) == found.sha256

    @contextmanager
    def replacing(self, shift: str, name: str) -> Iterator[Path]:
        """Yield a temporary path for a shift's files; without an error they get their real name."""
        path, partial = self._folder / name, self._folder / f".{secrets.token_hex(8)}.partial"
        try:
            with naming(partial):
                yield partial
            if self._shifts.pop(shift, None):
                self._write()
            _remove(path)
            with naming(path):
                partial.rename(path)
        except BaseException:
            _remove(partial)
            raise

    def finish(self, shift: str, name: str, facts: ShiftFacts, written: Written) -> None:
        """Record a shift whose files have their final names."""
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
        folder: the folder of the export, which may not exist yet.
        inputs: the settings that all its shifts share.

    Raises:
        InputError: the folder contains something else or an export with other settings, or it is in
            use.
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
    found = _parse(inside(folder, MANIFEST))
    if found is None:
        raise InputError(
            f"{folder} contains files that are not an export; name a new folder with --out"
        )
    for what, had, asked in (
        ("split", found.data.part, inputs.data.part),
        ("format", found.format, inputs.format),
        ("seed", found.seed, inputs.seed),
        ("SHA-256 of the data", found.data.digest, inputs.data.digest),
    ):
        if had != asked:
            raise InputError(
                f"{folder} contains an export with another {what}: {had}, not {asked}; "
                "name a new folder with --out"
            )
    return found


def _is_beginning(path: Path) -> bool:
    return path.name in BEGINNINGS or PARTIAL.fullmatch(path.name) is not None


def _parse(path: Path) -> ExportRecord | None:
    """Read the manifest; return None if there is none, or if it is not of an export."""
    try:
        return ExportRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""The manifest of an export: what is finished, and of what; it is what the same command reads."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch

from fairweather.errors import InputError
from fairweather.runs import LOCK, PARTIAL, inside, provenance, write_atomically

MANIFEST = "manifest.json"
KIND = "fairweather export"
# What a process leaves that is ended before it has written the first manifest; the second name is
# that of earlier versions.
BEGINNINGS = {LOCK, f".{MANIFEST}.partial"}


class Manifest:
    """The folder of an export and its manifest; every change is written at once."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self._folder, self._content = folder, content
        facts = provenance(torch.device("cpu"))
        self._made = {"time": facts.time, "command": facts.command, "versions": facts.versions}
        self._write()

    def is_done(self, shift: str, intact: Callable[[Path, Mapping[str, Any]], bool]) -> bool:
        """Say whether this shift is finished, by the same versions, and its files intact."""
        entry = self._content["shifts"].get(shift)
        if entry is None or entry["made"]["versions"] != self._made["versions"]:
            return False
        return intact(inside(self._folder, entry["path"], MANIFEST), entry)

    @contextmanager
    def replacing(self, shift: str, name: str) -> Iterator[Path]:
        """Give the path to write a shift's files to; they get their name when all went well."""
        path, partial = self._folder / name, self._folder / f".{secrets.token_hex(8)}.partial"
        try:
            yield partial
        except BaseException:
            _remove(partial)
            raise
        if self._content["shifts"].pop(shift, None):
            self._write()
        _remove(path)
        partial.rename(path)

    def finish(self, shift: str, name: str, facts: Mapping[str, Any]) -> None:
        """Record a shift whose files have their names."""
        self._content["shifts"][shift] = {**facts, "path": name, "made": self._made}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self._content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self._folder / MANIFEST, text)


@contextmanager
def open_export(folder: Path, inputs: Mapping[str, Any]) -> Iterator[Manifest]:
    """Open the folder of an export, new or begun, and keep other processes out.

    Args:
        folder: where it is or is to be.
        inputs: `data`, `format` and `seed`, as the manifest says them; all its shifts share these.

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
        content = _read(folder, inputs)
        for leftover in folder.glob(".*.partial"):
            _remove(leftover)
        yield Manifest(folder, content)


def _read(folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    new = {"kind": KIND, "version": 1, **inputs, "shifts": {}}
    if not folder.exists() or (folder.is_dir() and all(map(_is_beginning, folder.iterdir()))):
        return new
    found = _parse(folder / MANIFEST)
    if found is None:
        raise InputError(f"{folder} holds something else; name a new folder with --out")
    for what, had, asked in (
        ("part", found["data"]["part"], inputs["data"]["part"]),
        ("format", found["format"], inputs["format"]),
        ("seed", found["seed"], inputs["seed"]),
        ("data, by their SHA-256", found["data"]["digest"], inputs["data"]["digest"]),
    ):
        if had != asked:
            raise InputError(
                f"{folder} holds an export of another {what}: {had} and not {asked}; "
                "name a new folder with --out"
            )
    return found


def _is_beginning(path: Path) -> bool:
    return path.name in BEGINNINGS or PARTIAL.fullmatch(path.name) is not None


def _parse(path: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none of an export."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or (content.get("kind"), content.get("version")) != (KIND, 1):
        return None
    return content


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

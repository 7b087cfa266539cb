"""The run folder: atomic writes, fingerprints that make it resumable, checksums, and a lock."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from fairweather.errors import InputError
from fairweather.types import Predictions

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
LOCK = ".lock"
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")  # a file that is being written
ABANDONED = 3600.0  # seconds after which nobody writes it any more
_COLUMNS = ("keys", "labels", "predicted", "confidence", "top5_correct", "nll", "brier")
_UNLABELLED = ("keys", "predicted", "confidence")
_VERSIONED = ("fairweather", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Condense the inputs of a step into 16 hexadecimal digits, whatever their order.

    >>> fingerprint({"seed": 0, "shift": "clean"}) == fingerprint({"shift": "clean", "seed": 0})
    True
    """
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inside(folder: Path, name: str, named_by: str = "") -> Path:
    """Give the path of a file inside a folder by its name, such as `tables/accuracy.csv`.

    Whatever opens, writes or removes a file by a name that stands in a file asks here first: a run
    folder may come from anybody. The folder itself may be a link, and links within it may lead to
    other places within it.

    Args:
        folder: it need not be there.
        name: relative, with `/` between its parts.
        named_by: the file of the folder in which the name stands; the error names it.

    Raises:
        InputError: the name is absolute, has empty parts, `.`, `..`, backslashes or NUL, or passes
            through a symbolic link that leads outside the folder.

    >>> inside(Path("runs/mine"), "tables/accuracy.csv").as_posix()
    'runs/mine/tables/accuracy.csv'
    >>> inside(Path("runs/mine"), "../thesis.tex", MANIFEST)
    Traceback (most recent call last):
    fairweather.errors.InputError: runs/mine/manifest.json names a file outside the run folder:
    '../thesis.tex'
    """
    path = folder / name
    plain = _is_plain(name)
    if plain and _leads_into(folder, path):
        return path
    if named_by:
        raise InputError(f"{folder / named_by} names a file outside the run folder: {name!r}")
    how = " through a symbolic link" if plain else ""
    raise InputError(f"{str(path)!r} leads outside the run folder{how}")


def _is_plain(name: str) -> bool:
    """Whether a name cannot leave the folder that it is looked up in, on any system."""
    beyond = PureWindowsPath(name).anchor or "\\" in name or "\0" in name
    return not beyond and not {"", ".", ".."} & set(name.split("/"))


def _leads_into(folder: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is there whole or not at all, even if the power fails.

    A link at `path` is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    # Made here or not at all (O_EXCL): what somebody put there, a link above all, is not opened.
    with partial.open("xb") as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON file; raises `InputError` where it holds something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "facts.json", '{"seed": 0}')
    ...     read_json(Path(folder) / "facts.json")
    {'seed': 0}
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a mapping, found {type(found).__name__}")
    return found


class RunFolder:
    """A folder with everything that a study produced, and the record of which steps are done.

    A step is done when its fingerprint stands in manifest.json and its files are there with the
    checksums that stand beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest: dict[str, Any] = {"version": 1, "steps": {}}
        if (path / MANIFEST).exists():
            self._manifest = _read_manifest(path / MANIFEST)

    def is_done(self, step: str, inputs: Mapping[str, Any]) -> bool:
        """Say whether this step stands in the folder, with these inputs and its files intact."""
        entry = self._manifest["steps"].get(step)
        if entry is None or entry["fingerprint"] != fingerprint(inputs):
            return False
        return all(
            (path := self._recorded(name)).is_file() and _checksum(path) == checksum
            for name, checksum in entry["files"].items()
        )

    def finish(self, step: str, inputs: Mapping[str, Any], files: Sequence[str]) -> None:
        """Record a step as done; its files, relative to the folder, must be there.

        Files that the step made of earlier inputs and does not make now are removed.
        """
        checksums = {name: self.checksum(name) for name in files}
        before = self._manifest["steps"].get(step, {"files": {}})["files"]
        for stale in [self._recorded(name) for name in before.keys() - checksums.keys()]:
            stale.unlink(missing_ok=True)
        self._manifest["steps"][step] = {"fingerprint": fingerprint(inputs), "files": checksums}
        self._write_manifest()

    def discard(self, *steps: str) -> None:
        """Forget steps and remove their files, because what they were made of is about to change.

        A folder that is interrupted then has no numbers rather than those of something else.
        """
        entries = self._manifest["steps"]
        found = [step for step in steps if step in entries]
        stale = [self._recorded(name) for step in found for name in entries[step]["files"]]
        for step in found:
            del entries[step]
        if found:
            self._write_manifest()
        for path in stale:
            path.unlink(missing_ok=True)

    def check_files(self, wanted: Callable[[str], bool]) -> list[str]:
        """Hold the wanted files of finished steps against their checksums; name the missing ones.

        Raises `InputError` where the content of a file is another than the one that was written.
        """
        recorded: dict[str, set[str]] = {}
        for entry in self._manifest["steps"].values():
            for name, checksum in entry["files"].items():
                recorded.setdefault(name, set()).add(checksum)
        return [
            name
            for name, checksums in recorded.items()
            if wanted(name) and not self._is_there(name, checksums)
        ]

    def holds(self, name: str) -> bool:
        """Say whether a file that is about to be read is there, and that it is what was written.

        A folder without a manifest, such as tables that were taken out of a run, has nothing to
        hold its files against.

        Raises `InputError` where a finished step left this file and it is missing or another one,
        and where it is there and no finished step left it.
        """
        path, entries = self.file(name), self._manifest["steps"].values()
        recorded = {entry["files"][name] for entry in entries if name in entry["files"]}
        if recorded and not self._is_there(name, recorded):
            raise InputError(
                f"{path} is missing, and {MANIFEST} says that it was there; the command that made "
                "the run makes the file again"
            )
        if path.is_file() and not recorded and (self.path / MANIFEST).is_file():
            raise InputError(
                f"{path} has no checksum in {MANIFEST}, so that it may be anybody's; the command "
                "that made the run makes the file again"
            )
        return path.is_file()

    def file(self, name: str) -> Path:
        """Give the path of a file by its name in the folder; see `inside`."""
        return inside(self.path, name)

    def checksum(self, name: str) -> str:
        """SHA-256 of a file of the folder, in hexadecimal."""
        return _checksum(self.file(name))

    @property
    def scores(self) -> pd.DataFrame:
        """The table of scores.csv: one row per model, seed, shift, level and metric."""
        # A model may be called NA, and a number must come back as the one that was written.
        names = dict.fromkeys(("model", "seed", "shift", "level", "metric"), str)
        numbers = dict.fromkeys(("value", "low", "high"), _number)
        path = self.file("scores.csv")
        return pd.read_csv(path, dtype=names, converters=numbers, keep_default_na=False)

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file of the folder atomically."""
        write_atomically(self.file(name), content)

    def write_unlabelled(self, name: str, predictions: Predictions) -> None:
        """Write what a model says of images whose labels mean nothing to it, as parquet."""
        columns = {each: pa.array(getattr(predictions, each)) for each in _UNLABELLED}
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(pa.table(columns), sink)
        self.write(name, sink.getvalue().to_pybytes())

    def read_column(self, name: str, column: str) -> npt.NDArray[Any]:
        """Read one column of a file of predictions, `[N]`."""
        table = pyarrow.parquet.read_table(self.file(name), columns=[column])
        return np.asarray(table[column].to_numpy())

    def read_columns(self, name: str, columns: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Read some columns of a file of predictions, `[N]` each."""
        table = pyarrow.parquet.read_table(self.file(name), columns=list(columns))
        return [np.asarray(table[column].to_numpy()) for column in columns]

    def write_predictions(self, name: str, predictions: Predictions) -> None:
        """Write the per-image columns of a cell as parquet, the class names in its metadata."""
        columns = {column: pa.array(getattr(predictions, column)) for column in _COLUMNS}
        if predictions.logits is not None:
            flat = pa.array(np.ascontiguousarray(predictions.logits).reshape(-1))
            columns["logits"] = pa.FixedSizeListArray.from_arrays(flat, len(predictions.classes))
        metadata = {"fairweather": json.dumps({"version": 1, "classes": predictions.classes})}
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(pa.table(columns, metadata=metadata), sink)
        self.write(name, sink.getvalue().to_pybytes())

    def read_predictions(self, name: str) -> Predictions:
        """Read the per-image columns of a cell."""
        table = pyarrow.parquet.read_table(self.file(name))
        described = json.loads(table.schema.metadata[b"fairweather"])
        logits = None
        if "logits" in table.column_names:
            lists = table["logits"].combine_chunks()
            logits = lists.flatten().to_numpy().reshape(len(table), -1)
        columns = {column: table[column].to_numpy() for column in _COLUMNS}
        return Predictions(**columns, logits=logits, classes=tuple(described["classes"]))

    def _recorded(self, name: str) -> Path:
        return inside(self.path, name, MANIFEST)

    def _is_there(self, name: str, recorded: set[str]) -> bool:
        """Whether a file is there; raises `InputError` where it has not all recorded checksums."""
        path = self._recorded(name)
        if path.is_file() and recorded != {_checksum(path)}:
            raise InputError(
                f"{path} is damaged or was changed: its checksum is not the one in {MANIFEST}; "
                "the command that made the run makes the file again"
            )
        return path.is_file()

    def _write_manifest(self) -> None:
        self.write(MANIFEST, json.dumps(self._manifest, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def open_run(path: Path) -> Iterator[RunFolder]:
    """Open a run folder for writing, made if it is not there, and keep other processes out.

    Raises `InputError` for a folder that holds something else, and for one that is in use.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a run folder")
    foreign = path.is_dir() and any(path.iterdir()) and not (path / LOCK).exists()
    if foreign and not (path / MANIFEST).exists():
        raise InputError(f"{path} is not empty and holds no run; name another folder with --out")
    if (path / MANIFEST).exists():
        _read_manifest(path / MANIFEST)
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(inside(path, LOCK), timeout=0)
    try:
        held = lock.acquire()
    except filelock.Timeout:
        raise InputError(f"another process is working in {path}") from None
    with held:
        _remove_abandoned(path)
        yield RunFolder(path)


def open_finished_run(path: Path) -> RunFolder:
    """Open a run folder for reading; raises `InputError` when there is none."""
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} holds no run: there is no {MANIFEST}")
    return RunFolder(path)


def provenance(device: torch.device) -> dict[str, Any]:
    """Say when, with what and on what something ran."""
    import torch  # reading a run needs none

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": {
            "working_folder": _git_revision(Path.cwd()),
            "fairweather": _git_revision(Path(__file__).parent),
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "hardware": {
            "device": _device_name(device),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        known = manifest["version"] == 1 and all(map(_is_step, manifest["steps"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise InputError(f"{path} is not the manifest of a fairweather run")
    for name in (name for entry in manifest["steps"].values() for name in entry["files"]):
        if not _is_plain(name):
            inside(path.parent, name, MANIFEST)
    return manifest


def _is_step(entry: Mapping[str, Any]) -> bool:
    texts = [entry["fingerprint"], *entry["files"].values()]
    return all(isinstance(text, str) for text in texts)


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote; who writes now keeps theirs."""
    for path in folder.rglob(".*.partial"):
        if PARTIAL.fullmatch(path.name) and time.time() - path.lstat().st_mtime > ABANDONED:
            path.unlink(missing_ok=True)


def _number(text: str) -> float:
    return float(text) if text else float("nan")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_revision(folder: Path) -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

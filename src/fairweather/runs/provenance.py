"""The command, versions and machine that a run was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess  # nosec B404 # for git, without a shell
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from fairweather.errors import hide_passwords
from fairweather.runs.folder import RunFolder
from fairweather.types.record import Machine, Provenance, is_part_of

if TYPE_CHECKING:
    import torch

_PACKAGES = ("fairweather", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
_GPUS = ("cuda", "xpu")  # devices with names of their own
_DRAWING = ("altair", "vl-convert-python", "pillow")


def current_provenance(device: torch.device) -> Provenance:
    """Describe this process: time, command, versions and machine."""
    import torch  # not needed to read a run

    return Provenance(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        git={"working_folder": _git_revision(Path.cwd()), "fairweather": _own_revision()},
        python=platform.python_version(),
        platform=platform.platform(),
        versions=package_versions(),
        drawing=drawing_versions(),
        hardware={
            "device": _device_name(device),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    )


def package_versions() -> dict[str, str]:
    """The versions of the packages whose code can change a result."""
    return {name: _version(name) for name in _PACKAGES}


def drawing_versions() -> dict[str, str]:
    """The versions of the packages that draw figures: they change pictures, and no number."""
    return {name: _version(name) for name in _DRAWING}


@cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)


def command_line() -> str:
    """The command that started this process, without the path of the program and passwords."""
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "fairweather"] if name == "__main__.py" else [name]
    return hide_passwords(shlex.join([*program, *sys.argv[1:]]))


def describe_machine(device: torch.device) -> Machine:
    """Describe the properties of this machine that can change a result."""
    import torch

    return Machine(
        device=device.type,
        model=_device_name(device) if device.type in _GPUS else _cpu_name(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
    )


def list_machines(run: RunFolder) -> list[Machine]:
    """List the machines that ran the steps of a run, each once.

    Steps that no longer belong to the run do not count, nor does the report.
    """
    steps = [step for step in run.steps() if step.kind != "report"]
    return list(dict.fromkeys(s.machine for s in steps if s.machine and is_part_of(run.record, s)))


@cache
def _own_revision() -> JsonValue:
    """The revision of the package's own clone when this process first asked; None outside one.

    An installed package may lie in somebody's repository, whose revision says nothing of it. In a
    new clone, git reads all files for each answer, because they are as new as its index.
    """
    package = Path(__file__).resolve().parents[1]
    clone = package.parents[1]
    is_own = (clone / ".git").exists() and package == clone / "src" / "fairweather"
    return _git_revision(clone) if is_own else None


def _git_revision(folder: Path) -> JsonValue:
    """Tell the revision of the repository of a folder, and whether files differ from it.

    The repository may come from anybody, and its settings can name programs: a file watcher, hooks
    (git runs one after writing its index), filters, and a fetcher of missing objects. None of them
    is started. Submodules have their own settings, so only their revisions are read.
    """
    filters: list[str] = []

    def ask(*words: str) -> str:
        off = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
        command = ["git", "--no-optional-locks", *off, "-C", str(folder), *words]
        closed = {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1"}
        # A filter may have a name that `-c NAME=VALUE` cannot express, so the environment is used,
        # where the user may have settings too.
        present = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
        closed["GIT_CONFIG_COUNT"] = str(present + len(filters))
        for number, key in enumerate(filters, start=present):
            closed |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": ""}
        done = subprocess.run(  # nosec B603 # no shell
            command, capture_output=True, check=True, env=os.environ | closed
        )
        return os.fsdecode(done.stdout).strip()

    try:
        names = ask("config", "--list", "--name-only", "-z").split("\0")
        filters = [name for name in names if name.startswith("filter.")]
        changed = ask("status", "--porcelain", "--no-renames", "--ignore-submodules=dirty")
        return {"revision": ask("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def _device_name(device: torch.device) -> str:
    import torch

    # The machine that plans may lack a GPU that the machines doing the steps have.
    module: Any = torch.get_device_module(device)
    present = device.type in _GPUS and module.is_available()
    return str(module.get_device_name(device)) if present else device.type


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Who does the steps of a run, and what jobs of a cluster ask for, checked before the work."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fairweather.errors import InputError, missing_extra, unknown_name
from fairweather.types.options import check_limits, option, read_options

LOCAL, SLURM, RAY = "local", "slurm", "ray"
PROGRAMS = ("sbatch", "squeue", "scancel", "srun")
LEAST_MINUTES = 5
DEFAULT_TIME = "4:00:00"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_COMMON_OPTIONS = frozenset({"executor", "jobs", "shift_processes", "models_in_memory"})
_SLURM_OPTIONS = frozenset({"partition", "gpus", "time", "setup"})


# The options that each executor accepts.
EXECUTORS: Mapping[str, frozenset[str]] = {
    LOCAL: _COMMON_OPTIONS | {"worker", "devices", "nodes"},
    SLURM: _COMMON_OPTIONS | _SLURM_OPTIONS,
    RAY: _COMMON_OPTIONS,
}


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who does the steps of a run: the options of Python and of the command line, as given.

    >>> Sharing(executor="ray://head:10001").kind
    'ray'
    """

    executor: str = option(LOCAL, "Where steps run: local, slurm, ray or ray://HOST:PORT.")
    worker: bool = option(
        False, "Share the work with all processes that give this command with the same --out."
    )
    jobs: int | None = option(
        None,
        "Number of parallel processes, which take the GPUs in turn (on a cluster: maximum "
        "concurrent jobs).",
        least=1,
        shown="1; SLURM at most 8; Ray all that fit",
    )
    shift_processes: int | None = option(
        None,
        "Maximum number of processes that prepare shifted images while the models predict.",
        least=0,
        shown="0 on a CPU; beside a GPU, as the cores allow",
    )
    models_in_memory: int | None = option(
        None, "Maximum number of models in memory at once.", least=1, shown="as many as fit"
    )
    devices: int = option(
        1,
        "Devices of each machine that train a network together, which changes results; for "
        "several GPUs and independent steps, use jobs.",
        least=1,
        shown="1, or processes of the study",
    )
    nodes: int = option(
        1, "Machines that train together; start the command with torchrun or srun.", least=1
    )
    partition: str | None = option(None, "Partition of SLURM jobs.", shown="SLURM's own")
    gpus: str | None = option(None, "GPU of each SLURM job: 1 or TYPE:1.", shown="none")
    time: str | None = option(
        None,
        "Time limit of a SLURM job; a new job goes on from there.",
        shown=DEFAULT_TIME,
    )
    setup: tuple[str, ...] = option(
        (),
        "Shell command at the start of each SLURM job, such as 'module load cuda'. Repeatable.",
        shown="none",
    )

    @classmethod
    def from_options(cls, options: object) -> Sharing:
        """Take the options that say who does the steps from others."""
        known = [option.name for option in fields(cls)]
        return cls(**{name: getattr(options, name) for name in known if hasattr(options, name)})

    @property
    def kind(self) -> str:
        """Its row in `EXECUTORS`."""
        return self.executor.partition("://")[0]

    @property
    def address(self) -> str | None:
        """Of a Ray cluster, such as `head:10001`; None for one on this machine."""
        return self.executor.partition("://")[2] or None

    @property
    def gpu(self) -> str:
        """The GPU of each job of SLURM, `1` or `TYPE:1`; empty for none."""
        return _parse_gpu(self.gpus or "0")

    @property
    def minutes(self) -> int:
        """Minutes after which a job of SLURM is ended and submitted again, to continue."""
        return parse_minutes(DEFAULT_TIME if self.time is None else self.time)

    @property
    def is_divided(self) -> bool:
        """Whether several processes divide the steps among themselves."""
        return self.worker or self.starts_others

    @property
    def starts_others(self) -> bool:
        """Whether other processes are started for steps; they open models and data by name."""
        return self.kind != LOCAL or (self.jobs or 1) > 1

    def check(self) -> None:
        """Raise `InputError` for options that contradict each other or that this machine cannot do.

        >>> Sharing(executor="slrum").check()
        Traceback (most recent call last):
        fairweather.errors.InputError: unknown executor 'slrum'; did you mean 'slurm'? known: ...
        >>> Sharing(partition="gpu").check()
        Traceback (most recent call last):
        fairweather.errors.InputError: partition is for the jobs of SLURM: it needs executor slurm
        """
        check_limits(self)
        if self.executor == "slurm-local":
            raise InputError(
                "executor slurm-local is gone: jobs (--jobs N) starts processes of this machine"
            )
        if self.kind not in EXECUTORS or (
            "://" in self.executor and not (self.kind == RAY and self.address)
        ):
            raise unknown_name("executor", self.executor, [*EXECUTORS, "ray://ADDRESS"])
        for name, default in ((field.name, field.default) for field in fields(self)):
            if getattr(self, name) == default or name in EXECUTORS[self.kind]:
                continue
            if name in _SLURM_OPTIONS:
                raise InputError(f"{name} is for the jobs of SLURM: it needs executor slurm")
            raise InputError(
                f"{name} and executor {self.executor} are different ways to share the work: "
                "choose one"
            )
        if self.kind == LOCAL and self.worker and (self.jobs or 1) > 1:
            raise InputError("worker and jobs are different ways to share the work: choose one")
        if self.kind == RAY and importlib.util.find_spec("ray") is None:
            raise missing_extra("ray", "ray", "runs on a Ray cluster")
        if self.kind == SLURM:
            self._check_jobs()

    def _check_jobs(self) -> None:
        """Raise `InputError` for options that SLURM would refuse, or if it or the extra is
        missing."""
        if self.partition is not None and not re.fullmatch(rf"{_NAME}(,{_NAME})*", self.partition):
            raise InputError(
                "partition must be a name, or several with commas, such as gpu, found "
                f"{self.partition!r}"
            )
        if self.gpus is not None:
            _parse_gpu(self.gpus)
        _ = self.minutes  # checks it
        for command in self.setup:
            if not command.strip() or "\n" in command or "\0" in command:
                raise InputError(f"setup must be one line, a shell command, found {command!r}")
        if importlib.util.find_spec("submitit") is None:
            raise missing_extra("submitit", "slurm", f"jobs of the executor {self.executor}")
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise InputError(
                f"this machine has no {missing[0]}: --executor slurm needs a machine from which "
                "SLURM jobs can be submitted; --jobs N starts processes of this one"
            )


def read_sharing(given: Mapping[str, Any]) -> Sharing:
    """Read the options of Python by name; raises `InputError` for the first wrong one.

    >>> read_sharing({"steps": "1/2"})
    Traceback (most recent call last):
    fairweather.errors.InputError: steps is gone: give worker=True in each process that shares ...
    >>> read_sharing({"jobs": "two"})
    Traceback (most recent call last):
    fairweather.errors.InputError: jobs: input should be a valid integer, unable to parse string ...
    """
    return read_options(Sharing, {name: v for name, v in given.items() if v is not None})


def parse_minutes(time: str) -> int:
    """Read a time limit in the form of sbatch, in minutes, rounded up.

    >>> parse_minutes("90"), parse_minutes("2:00:00"), parse_minutes("1-12"), parse_minutes(
    ...     "1-0:30"
    ... )
    (90, 120, 2160, 1470)
    >>> parse_minutes("2:00")
    Traceback (most recent call last):
    fairweather.errors.InputError: time must be at least 5 minutes, found '2:00', which is 2 minutes
    for SLURM; two hours are 2:00:00
    """
    match = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", time)
    if match is None:
        raise InputError(
            "time must be minutes, hours:minutes:seconds or days-hours, such as 90, 2:00:00 or "
            f"1-12, found {time!r}"
        )
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is not None or len(numbers) == 3:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    total = (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)
    if total < LEAST_MINUTES:
        raise InputError(
            f"time must be at least {LEAST_MINUTES} minutes, found {time!r}, which is {total} "
            "minutes for SLURM; two hours are 2:00:00"
        )
    return total


def _parse_gpu(text: str) -> str:
    match = re.fullmatch(rf"(?:({_NAME}):)?(\d{{1,4}})", text)
    if match is None:
        raise InputError(f"gpus must be 0, 1 or TYPE:1, such as a100:1, found {text!r}")
    kind, number = match.groups()
    if int(number) > 1:
        raise InputError(
            f"a job uses one GPU, found gpus {text!r}: ask for {number} concurrent jobs with "
            f"--jobs {number}, and for one GPU each with --gpus {kind + ':1' if kind else '1'}"
        )
    return text if int(number) else ""

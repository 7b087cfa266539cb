"""Which executor does the steps of a study, and what its jobs ask for, checked before the work."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairweather.errors import InputError, missing_extra, unknown_name

LOCAL, SLURM, SLURM_LOCAL, RAY = "local", "slurm", "slurm-local", "ray"
EXECUTORS: Mapping[str, str] = {
    LOCAL: "this machine",
    SLURM: "jobs of a SLURM cluster",
    SLURM_LOCAL: "the same jobs on this machine, to try them out",
    RAY: "a Ray cluster on this machine",
    f"{RAY}://ADDRESS": "the Ray cluster at this address",
}
PROGRAMS = ("sbatch", "squeue", "scancel", "srun")
LEAST_MINUTES = 5
DEFAULT_TIME = "4:00:00"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"


@dataclass(frozen=True)
class JobRequest:
    """What each job of a cluster asks for.

    Attributes:
        executor: `slurm` or `slurm-local`.
        partition: its partition, or several with commas; empty for the default one.
        gpu: its GPU as SLURM writes it, `1` or `TYPE:1`; empty for none.
        minutes: after so many minutes it is ended, submitted again, and goes on.
        setup: shell commands that come before it.
    """

    executor: str
    partition: str
    gpu: str
    minutes: int
    setup: tuple[str, ...]

    @property
    def is_here(self) -> bool:
        """Whether the jobs are processes of this machine."""
        return self.executor == SLURM_LOCAL


@dataclass(frozen=True)
class RayRequest:
    """A Ray cluster.

    Attributes:
        address: such as `head:10001`; None for one on this machine.
    """

    address: str | None


def check_executor(
    executor: str,
    *,
    partition: str | None = None,
    gpus: str | None = None,
    time: str | None = None,
    setup: Sequence[str] = (),
) -> JobRequest | RayRequest | None:
    """Check the name of an executor and what its jobs ask for; None for this machine.

    Raises `InputError` for values that SLURM would refuse, and where SLURM or the extra is missing.

    >>> check_executor("local") is None
    True
    >>> check_executor("slurm-local", gpus="1", time="1-12").minutes
    2160
    >>> check_executor("ray://head:10001")
    RayRequest(address='head:10001')
    >>> check_executor("slrum")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown executor 'slrum'; did you mean 'slurm'? known: local, ...
    """
    kind, colon, address = executor.partition("://")
    if kind not in EXECUTORS or (colon and (kind != RAY or not address)):
        raise unknown_name("executor", executor, EXECUTORS)
    if kind in (LOCAL, RAY):
        asked = {"partition": partition, "gpus": gpus, "time": time, "setup": setup or None}
        for name, value in asked.items():
            if value is not None:
                raise InputError(f"{name} is for the jobs of SLURM: it needs executor slurm")
        if kind == LOCAL:
            return None
        if importlib.util.find_spec("ray") is None:
            raise missing_extra("ray", "ray", "runs on a Ray cluster")
        return RayRequest(address or None)
    request = JobRequest(
        executor,
        "" if partition is None else _partition(partition),
        "" if gpus is None else _gpu(gpus),
        minutes_of(DEFAULT_TIME if time is None else time),
        tuple(map(_command, setup)),
    )
    if importlib.util.find_spec("submitit") is None:
        raise missing_extra("submitit", "slurm", f"jobs of the executor {executor}")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing and not request.is_here:
        raise InputError(
            f"this machine has no {missing[0]}: --executor slurm needs a machine from which SLURM "
            f"jobs can be submitted; --executor {SLURM_LOCAL} tries the same out on this one"
        )
    return request


def minutes_of(time: str) -> int:
    """Read a time limit as sbatch writes it; a minute that has begun counts.

    >>> minutes_of("90"), minutes_of("2:00:00"), minutes_of("1-12"), minutes_of("1-0:30")
    (90, 120, 2160, 1470)
    >>> minutes_of("2:00")
    Traceback (most recent call last):
    fairweather.errors.InputError: time must be at least 5 minutes, found '2:00', which is 2 minutes
    for SLURM; two hours are 2:00:00
    """
    found = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", time)
    if found is None:
        raise InputError(
            "time must be minutes, hours:minutes:seconds or days-hours, such as 90, 2:00:00 or "
            f"1-12, found {time!r}"
        )
    days, *rest = found.groups()
    numbers = [int(each) for each in rest if each is not None]
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


def _partition(text: str) -> str:
    if not re.fullmatch(rf"{_NAME}(,{_NAME})*", text):
        raise InputError(
            f"partition must be a name, or several with commas, such as gpu, found {text!r}"
        )
    return text


def _gpu(text: str) -> str:
    found = re.fullmatch(rf"(?:({_NAME}):)?(\d{{1,4}})", text)
    if found is None:
        raise InputError(f"gpus must be 0, 1 or TYPE:1, such as a100:1, found {text!r}")
    kind, number = found.groups()
    if int(number) > 1:
        raise InputError(
            f"a job uses one GPU, found gpus {text!r}: ask for {number} jobs at a time with "
            f"--jobs {number}, and for one GPU each with --gpus {kind + ':1' if kind else '1'}"
        )
    return text if int(number) else ""


def _command(text: str) -> str:
    if not text.strip() or "\n" in text or "\0" in text:
        raise InputError(f"setup must be one line, a shell command, found {text!r}")
    return text

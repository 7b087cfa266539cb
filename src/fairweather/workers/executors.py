"""Executors, which do the steps of a run in different ways."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch

from fairweather.devices import check_cores, choose_workers, resolve_device
from fairweather.errors import InputError
from fairweather.progress import Notify
from fairweather.runs.claims import open_run, share_run
from fairweather.workers.jobs import execute_by_jobs
from fairweather.workers.options import RAY, Sharing
from fairweather.workers.schedule import execute, execute_shared, make_worker_mark
from fairweather.workers.work import Work, WorkerSettings


def choose_device(
    sharing: Sharing, device: str, *, threads: int | None, precision: str, written: str
) -> torch.device:
    """Choose the device for the steps of a run.

    Args:
        sharing: who does them; already checked.
        device: `auto`, `cpu`, `cuda`, ...
        threads: of each step; None for one per core of this machine.
        precision: as it was asked for.
        written: how an option is written, such as `--set {name}={value}`.

    Raises `InputError` if this machine lacks the device or enough cores. It also does so if a
    machine of a cluster would choose for itself, and results depend on the choice.
    """
    if sharing.is_slurm:
        from fairweather.workers.slurm import choose_slurm_device

        return choose_slurm_device(sharing, device, threads, precision, written)
    if sharing.kind == RAY:
        from fairweather.workers.ray_cluster import check_address

        check_address(sharing.address)
        return resolve_device(device)
    target, several = resolve_device(device), sharing.devices > 1
    if several and (target.index is not None or target.type not in ("cpu", "cuda")):
        raise InputError(f"devices are all of cuda, or processes of cpu, found device {device}")
    named = "processes" if several else "jobs"
    check_cores(sharing.processes, threads or torch.get_num_threads(), named)
    if several and target.type == "cuda":
        resolve_device(f"cuda:{sharing.devices - 1}")  # this machine must have all of them
    return target


def carry_out(work: Work, sharing: Sharing, tell: Notify) -> None:
    """Begin or continue a run in its folder, and do all steps that are not done.

    Args:
        work: the run.
        sharing: who does the steps; already checked.
        tell: called for every step, with its id, and for events within long ones.

    Raises:
        InputError: the folder cannot be used, a step refuses its input, or a process that did steps
            was killed.
        JobFailedError: a step failed in another process.
        NeedsMissingError: jobs of a cluster were cancelled.
    """
    # SLURM and Ray need packages that only their extras install.
    if sharing.is_slurm:
        from fairweather.workers.slurm import execute_on_slurm

        execute_on_slurm(work, sharing, tell)
    elif sharing.kind == RAY:
        from fairweather.workers.ray_cluster import execute_on_ray

        execute_on_ray(work, sharing, tell)
    else:
        _execute_here(work, sharing, tell)


def _execute_here(work: Work, sharing: Sharing, tell: Notify) -> None:
    """Do the steps on this machine, alone or together with others."""
    number = sharing.processes
    workers = choose_workers(work.device, sharing.shift_processes, number)
    settings = work.settings(sharing, workers=workers, jobs=number)
    with closing(work.worker(settings, tell)) as worker:
        if any(step.is_shared for step in work.plan.steps):
            # Fabric, which connects them, takes a second to import.
            from fairweather.workers.rank_processes import execute_with_ranks

            execute_with_ranks(work, worker, sharing, tell)
        elif sharing.worker:
            mark = make_worker_mark(work.plan, work.device)
            with share_run(work.path, mark, work.prepare) as shared:
                execute_shared(work.plan, shared, worker, tell)
        else:
            with open_run(work.path) as folder:
                work.prepare(folder, others=False)
                if number == 1:
                    execute(work.plan, folder, worker, tell)
                else:
                    assignments = list(map(work.assign, _divide_devices(sharing, settings)))
                    execute_by_jobs(assignments, folder, worker, tell)


def _divide_devices(sharing: Sharing, settings: WorkerSettings) -> list[WorkerSettings]:
    """The settings of each process of this machine: one for each job, or for each device."""
    if sharing.devices > 1 and settings.device == "cuda":  # each has the memory of its own device
        places = range(sharing.devices)
        return [replace(settings, device=f"cuda:{place}", jobs=1) for place in places]
    return [settings] * sharing.processes

"""Executors, which do the steps of a run in different ways."""

from __future__ import annotations

import itertools
import math
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch

from fairweather.devices import check_cores, choose_workers, list_devices, resolve_device
from fairweather.progress import Notify
from fairweather.runs.claims import open_run, share_run
from fairweather.workers.jobs import execute_by_jobs
from fairweather.workers.options import RAY, SLURM, Sharing
from fairweather.workers.schedule import execute, execute_shared, make_worker_mark
from fairweather.workers.work import Assignment, Work


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
    if sharing.kind == SLURM:
        from fairweather.workers.slurm import choose_slurm_device

        return choose_slurm_device(sharing, device, threads, precision, written)
    if sharing.kind == RAY:
        from fairweather.workers.ray_cluster import check_address

        check_address(sharing.address)
        return resolve_device(device)
    target = resolve_device(device)
    # The threads of a process that uses another device hardly compute: a core for each is enough.
    threads = (threads or torch.get_num_threads()) if target.type == "cpu" else 1
    check_cores(sharing.jobs or 1, threads)
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
    if sharing.kind == SLURM:
        from fairweather.workers.slurm import execute_on_slurm

        execute_on_slurm(work, sharing, tell)
    elif sharing.kind == RAY:
        from fairweather.workers.ray_cluster import execute_on_ray

        execute_on_ray(work, sharing, tell)
    else:
        _execute_here(work, sharing, tell)


def _execute_here(work: Work, sharing: Sharing, tell: Notify) -> None:
    """Do the steps on this machine, alone or together with others."""
    assigned = assign_jobs(work, sharing, sharing.jobs or 1)
    with closing(work.worker(assigned[0].settings, tell)) as worker:
        if any(step.is_shared for step in work.plan.steps):
            # Fabric, which connects them, takes a second to import.
            from fairweather.workers.rank_processes import execute_with_ranks

            # Each rank is on one of the devices, and each job then is.
            kind = replace(work, device=torch.device(work.device.type))
            execute_with_ranks(work, worker, sharing, tell, partial(assign_jobs, kind, sharing))
        elif sharing.worker:
            mark = make_worker_mark(work.plan, work.device)
            with share_run(work.path, mark, work.prepare) as shared:
                execute_shared(work.plan, shared, worker, tell)
        else:
            with open_run(work.path) as folder:
                work.prepare(folder, others=False)
                if len(assigned) == 1:
                    execute(work.plan, folder, worker, tell)
                else:
                    execute_by_jobs(assigned, folder, worker, tell)


def assign_jobs(work: Work, sharing: Sharing, jobs: int) -> list[Assignment]:
    """What each job is told: jobs take the GPUs of this machine in turn, and share the cores."""
    workers = choose_workers(work.device, sharing.shift_processes, jobs)
    # One process stays on the device by its own name, which may be that of a rank.
    devices = list_devices(work.device) if jobs > 1 else [work.device]
    on_each = math.ceil(jobs / len(devices))
    settings = work.settings(sharing, workers=workers, jobs=jobs, on_device=on_each)
    named = map(str, itertools.islice(itertools.cycle(devices), jobs))
    return [work.assign(replace(settings, device=name)) for name in named]

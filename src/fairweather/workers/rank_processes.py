"""Execute a plan in which several processes train each network together.

Before each training the first process tells the others which one comes next; between trainings they
wait. Those that it has started then end, and jobs on the same devices divide the predictions. Where
torchrun or srun has started them, the first process does the rest alone.
"""

from __future__ import annotations

import os
import subprocess  # nosec B404 # for its types: processes.start_module starts them
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import cv2
import torch

from fairweather.devices import free_memory
from fairweather.errors import InputError
from fairweather.processes import describe_exit, read_first_line, send_line, start_module
from fairweather.progress import Notify, silent
from fairweather.runs.claims import open_run
from fairweather.runs.folder import RunFolder
from fairweather.steps.dispatch import perform
from fairweather.steps.plan import Plan, TrainingStep
from fairweather.steps.worker import Worker
from fairweather.training.fabric import LocalEnvironment, find_free_network_port, find_launcher
from fairweather.training.ranks import ALONE, Ranks, join_ranks
from fairweather.types.record import FrozenRecord
from fairweather.workers.jobs import execute_by_jobs
from fairweather.workers.options import Sharing
from fairweather.workers.schedule import Schedule, perform_locally
from fairweather.workers.work import Assignment, Work

END_TIMEOUT = 5.0  # seconds within which a process ends after it closed its connections


class RankSettings(FrozenRecord):
    """The settings of an additional process on this machine."""

    plan: Plan
    """The plan whose trainings it helps with."""

    folder: str
    """The run folder."""

    device: str
    """The type of its device."""

    offline: bool
    """As in `Worker`."""

    rank: int
    size: int
    port: int
    """`rank`, `size`, `port`: as in `fairweather.training.fabric.LocalEnvironment`."""


def execute_with_ranks(
    work: Work,
    worker: Worker,
    sharing: Sharing,
    tell: Notify,
    assign: Callable[[int], Sequence[Assignment]],
) -> None:
    """Do a run in this and other processes, which train together and then divide the rest.

    Args:
        work, tell: as in `executors.carry_out`.
        worker: of this process.
        sharing: says on how many machines torchrun or srun has started the others; if they were
            not started, they are started here.
        assign: gives what each of so many jobs is told.
    """
    plan, environment = work.plan, find_launcher()
    size = max(step.processes for step in plan.steps if isinstance(step, TrainingStep))
    if environment is None:
        with open_run(work.path) as opened:
            work.prepare(opened, others=False)
            with start_ranks(plan, opened, worker, size) as worker.ranks:
                execute_as_first(plan, opened, worker, tell, only=select_trainings(plan))
            worker.ranks = ALONE
            free_memory()  # what torch keeps for later would be missing for the jobs
            execute_by_jobs(assign(size), opened, worker, tell)
        return
    # They join first, so that the others learn if the folder cannot be opened.
    places, nodes = size // sharing.nodes, sharing.nodes
    with (
        join_ranks(environment, places, nodes, worker.device) as worker.ranks,
        ExitStack() as stack,
    ):
        with worker.ranks.agreeing():
            if worker.ranks.is_first:
                opened = stack.enter_context(open_run(work.path))
                work.prepare(opened, others=False)
        if worker.ranks.is_first:
            execute_as_first(plan, opened, worker, tell)
        else:
            assist_first(plan, RunFolder(work.path), worker)


def select_trainings(plan: Plan) -> set[str]:
    """The ids of the steps that all ranks do, and of all that these need."""
    selected = set[str]()
    for step in reversed(plan.steps):
        if step.is_shared or step.id in selected:
            selected |= {step.id, *step.needs}
    return selected


def execute_as_first(
    plan: Plan,
    run: RunFolder,
    worker: Worker,
    progress: Notify | None = None,
    *,
    only: Collection[str] | None = None,
) -> None:
    """Execute the steps of a plan as `execute` does; all ranks do its trainings.

    The others call `assist_first` meanwhile, in the same folder.

    Args:
        plan, run, progress: as in `execute`.
        worker: that of rank 0.
        only: as in `Schedule`.
    """
    tell, ranks = progress or silent, worker.ranks
    schedule = Schedule(plan, run, tell, only=only)
    _check_plans(plan, ranks)
    waiting = True  # for the others: they wait for the name of a step
    try:
        while steps := schedule.take(worker):
            if steps[0].is_shared:
                ranks.from_first(steps[0].id)
                waiting = False
            outcome = perform_locally(steps, worker, run, tell)
            waiting = True
            schedule.finish(steps, outcome)
        schedule.check_finished()
    except InputError:  # which all processes have raised
        waiting = True
        raise
    finally:
        if waiting:
            # A process that was killed since the last training no longer matters.
            with suppress(RuntimeError):
                ranks.from_first("")


def assist_first(plan: Plan, run: RunFolder, worker: Worker) -> None:
    """Help rank 0 with all trainings of a plan, until it ends.

    Args:
        plan: the same plan.
        run: the same folder; this process only reads it.
        worker: that of this process.
    """
    steps = {step.id: step for step in plan.steps}
    _check_plans(plan, worker.ranks)
    while name := worker.ranks.from_first(""):
        with suppress(InputError):  # rank 0 reports it
            perform(steps[name], worker, run, silent)


@contextmanager
def start_ranks(plan: Plan, run: RunFolder, worker: Worker, size: int) -> Iterator[Ranks]:
    """Start more processes on this machine, and return the ranks as seen by this one, rank 0.

    They end when this process ends, for whatever reason.

    Args:
        plan: its trainings are shared.
        run: the run folder.
        worker: its settings are those of all processes.
        size: how many processes there are with this one.
    """
    port = find_free_network_port()
    children = list[subprocess.Popen[str]]()
    try:
        for rank in range(1, size):
            settings = RankSettings(
                plan=plan,
                folder=str(run.path.resolve()),
                device=worker.device.type,
                offline=worker.offline,
                rank=rank,
                size=size,
                port=port,
            )
            child = start_module("fairweather.workers.rank_processes")
            children.append(child)
            send_line(child, settings.model_dump_json())
        for child in children:
            assert child.stdout is not None
            if not child.stdout.readline():  # rank 0 would wait for it
                raise RuntimeError("a process ended before it could join")
        with join_ranks(LocalEnvironment(0, size, port), size, 1, worker.device) as ranks:
            try:
                yield ranks
            finally:
                _end_processes(children)
    except RuntimeError as error:  # torch's, about a connection that another process closed
        for rank, child in enumerate(children, start=1):
            with suppress(subprocess.TimeoutExpired):
                exits = describe_exit(child.wait(END_TIMEOUT / len(children)))
                raise InputError(
                    f"process {rank} of {size}, which trained together, ended with {exits}; the "
                    "same command continues from what is finished"
                ) from error
        raise
    finally:
        _end_processes(children)


def _end_processes(children: Sequence[subprocess.Popen[str]]) -> None:
    """End processes by closing their input, whatever they are doing."""
    for child in children:
        with suppress(BrokenPipeError), child:
            pass


def _check_plans(plan: Plan, ranks: Ranks) -> None:
    """Raise `InputError` unless all processes have the same plan, such as of the same images."""
    # Through JSON, as some processes get it: a 0 that was given for a float comes back as 0.0.
    digests = ranks.gather(type(plan).model_validate_json(plan.model_dump_json()).digest)
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            raise InputError(
                f"process {rank} of {ranks.size} has another plan than the first: the command, "
                "the data and the versions of all packages must be the same for all"
            )


def main() -> None:
    """Read settings from standard input, and help until the first process ends."""
    settings = RankSettings.model_validate_json(read_first_line())
    print("ready", flush=True)
    os.dup2(2, 1)  # nobody reads its standard output after this
    cv2.setNumThreads(settings.plan.steps[0].threads)  # the processes share the cores
    numbered = f"{settings.device}:{settings.rank}" if settings.device == "cuda" else "cpu"
    environment = LocalEnvironment(settings.rank, settings.size, settings.port)
    with (
        suppress(InputError),
        _end_if_cut_off(),
        join_ranks(environment, settings.size, 1, torch.device(numbered)) as ranks,
    ):
        worker = Worker(settings.plan, device=numbered, offline=settings.offline, ranks=ranks)
        assist_first(settings.plan, RunFolder(Path(settings.folder)), worker)


@contextmanager
def _end_if_cut_off() -> Iterator[None]:
    """End quietly if rank 0 has ended, which reports why."""
    try:
        yield
    except RuntimeError as error:
        if "onnection" not in str(error):  # torch has no type of its own for this
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()

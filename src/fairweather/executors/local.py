"""Executes the steps of a plan on this machine, in the run folder itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fairweather.executors.jobs import Jobs, JobSettings
from fairweather.executors.schedule import Outcome, Schedule
from fairweather.progress import Notify, silent
from fairweather.runs import RunFolder, this_machine
from fairweather.steps import Plan, PredictStep, Step, Worker, perform, perform_together
from fairweather.steps.worker import using_threads


def execute(
    plan: Plan,
    run: RunFolder,
    worker: Worker,
    progress: Notify | None = None,
    *,
    until: str | None = None,
) -> None:
    """Execute the steps of a plan that are not done yet, one after the other, and record them.

    Predictions of the same shifted images are made together.

    Args:
        plan: a plan whose steps come after the steps that they need. A needed step that is not in
            the plan must be done, with its record in the folder.
        run: a folder that is open for writing and contains its record.
        worker: opens data and models.
        progress: called for every step, and for events within long ones.
        until: id of a step; only this and the steps that it needs are executed.
    """
    tell = progress or silent
    schedule = Schedule(plan, run, tell, until=until)
    while steps := schedule.take(worker):
        schedule.finish(steps, perform_here(steps, worker, run, tell))
    schedule.check_finished()


def execute_side_by_side(
    plan: Plan,
    run: RunFolder,
    worker: Worker,
    progress: Notify | None = None,
    *,
    jobs: int,
) -> None:
    """Execute the steps of a plan as `execute` does, in several processes of this machine.

    The results are the same to the byte. The processes open data and models by their names in the
    plan; they end when this process ends, whatever ended it.

    Args:
        plan, run, progress: as in `execute`.
        worker: its settings are those of every process.
        jobs: the number of processes.
    """
    tell = progress or silent
    schedule = Schedule(plan, run, tell, jobs=jobs)
    running = Jobs(
        JobSettings(
            plan=plan,
            folder=str(run.path.resolve()),
            device=str(worker.device),
            offline=worker.offline,
            workers=worker.workers,
            networks=worker.most_networks,
            jobs=jobs,
        )
    )
    try:
        while True:
            while not running.are_all_busy and (steps := schedule.take(worker)):
                if not running.busy and steps[0].disposable:
                    # Samples, scores and report are short, and need no process of their own.
                    schedule.finish(steps, perform_here(steps, worker, run, tell))
                else:
                    running.start(steps)
            if not running.busy:
                schedule.check_finished()
                return
            schedule.finish(*running.wait(tell))
    finally:
        running.end()


def perform_here(steps: Sequence[Step], worker: Worker, run: RunFolder, tell: Notify) -> Outcome:
    """Do steps that a schedule has handed out, in this process."""
    began = time.perf_counter()
    if len(steps) == 1:
        done = [perform(steps[0], worker, run, tell)]
    else:
        predictions = [step for step in steps if isinstance(step, PredictStep)]
        done = perform_together(predictions, worker, run, tell)
    with using_threads(steps[0].threads):
        machine = this_machine(worker.device)
    return Outcome(done, machine, time.perf_counter() - began)

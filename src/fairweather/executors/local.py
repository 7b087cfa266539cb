"""Executes the steps of a plan on this machine, in the run folder itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
    only = None if until is None else plan.needed_for(until)
    finish_here(Schedule(plan, run, progress or silent, only=only), worker)


def finish_here(schedule: Schedule, worker: Worker) -> None:
    """Do in this process what is left of a schedule."""
    while steps := schedule.take(worker):
        schedule.finish(steps, perform_here(steps, worker, schedule.run, schedule.tell))
    schedule.check_finished()


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

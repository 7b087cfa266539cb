"""Runs the steps of a plan one after the other, in the run folder itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from fairweather.progress import Event, Finished, Notify, silent
from fairweather.record import StepRecord
from fairweather.runs import RunFolder, this_machine
from fairweather.steps import Plan, Step, Worker, perform
from fairweather.steps.plan import Done
from fairweather.steps.progressing import Ledger, Speeds, State
from fairweather.steps.training import drop_resume
from fairweather.steps.worker import using_threads


def execute(
    plan: Plan,
    run: RunFolder,
    worker: Worker,
    progress: Notify | None = None,
    *,
    until: str | None = None,
) -> None:
    """Run the steps of a plan that are not done yet, and record them.

    Args:
        plan: a plan whose steps come after the steps that they need. A needed step that is not in
            the plan must be done, with its record in the folder.
        run: a folder that is open for writing and contains its record.
        worker: opens data and models.
        progress: called for every step, and for events within long ones.
        until: id of a step; only this and the steps that it needs are run.
    """
    tell = progress or silent
    ledger, own = Ledger(run), {step.id for step in plan.steps}
    states: dict[str, State] = {
        need: "done" for step in plan.steps for need in step.needs if need not in own
    }
    totals, counts = Counter(step.task for step in plan.steps), Counter[str]()
    dependants = _dependants(plan)
    wanted = plan.needed_for(until) if until else own
    remaining = ledger.remaining(plan)
    for step in plan.steps:
        if step.id not in wanted:
            continue
        standing = ledger.standing(step, states)
        counts[step.task] += 1
        note = "done before"
        if standing.state == "done":
            drop_resume(step, run)  # left if the run was killed just after the training
        else:
            # First remove samples, scores and report that need this step: if the run is then
            # interrupted, its folder has no numbers rather than wrong ones.
            for each in dependants[step.id]:
                if ledger.record(each) is not None:
                    ledger.forget(each)
            ledger.forget(step.id)
            _remove_unrecorded(step, run)
            note = _do(step, ledger, run, worker, tell).note
        states[step.id] = "done"
        remaining.pop(step.id, None)
        if standing.state == "done" or not step.tells_progress:
            tell(Event(step.task, counts[step.task], totals[step.task], note))
        if standing.state != "done":
            tell(_finished(step, plan, ledger, list(remaining.values())))


def _do(step: Step, ledger: Ledger, run: RunFolder, worker: Worker, tell: Notify) -> Done:
    began = time.perf_counter()
    done = perform(step, worker, run, tell)
    with using_threads(step.threads):
        machine = this_machine(worker.device)
    ledger.finish(
        StepRecord(
            id=step.id,
            kind=step.kind,
            fingerprint=ledger.fingerprint(step),
            depends=step.depends(),
            files={name: run.checksum(name) for name in left_by(step, done, run)},
            machine=machine,
            seconds=round(time.perf_counter() - began, 3),
            work=round(step.work * done.share),
        )
    )
    return done


def _finished(step: Step, plan: Plan, ledger: Ledger, remaining: Sequence[Step]) -> Event:
    """Make the event of a step that has just been done."""
    records = [record for each in plan.steps if (record := ledger.record(each.id)) is not None]
    own = ledger.record(step.id)
    assert own is not None, f"{step.id} is not recorded"
    finished = Finished(step.label, own.seconds, Speeds.of(records).seconds_for(remaining))
    steps = len(plan.steps)
    return Event("steps", steps - len(remaining), steps, finished=finished)


def _remove_unrecorded(step: Step, run: RunFolder) -> None:
    """Remove the files of a step that was stopped before it was recorded."""
    for name in (*step.leaves, *step.may_leave):
        if not name.endswith("/"):
            run.file(name).unlink(missing_ok=True)


def left_by(step: Step, done: Done, run: RunFolder) -> list[str]:
    """Name the files that a step wrote; raises `RuntimeError` if one is missing."""
    always = [name for name in step.leaves if not name.endswith("/")]
    some = [name for name in step.may_leave if run.file(name).is_file()]
    inside = [name for name in done.files if name.startswith(_folders(step))]
    for name in (*always, *inside):
        if not run.file(name).is_file():
            raise RuntimeError(f"{step.id} did not write {name}")
    return [*always, *some, *inside]


def _folders(step: Step) -> tuple[str, ...]:
    return tuple(name for name in step.leaves if name.endswith("/"))


def _dependants(plan: Plan) -> Mapping[str, list[str]]:
    """The disposable steps (scores, report, ...) that need a step, directly or not, by its id."""
    found: dict[str, list[str]] = {step.id: [] for step in plan.steps}
    for step in reversed(plan.steps):
        own = [*found[step.id], *([step.id] if step.disposable else [])]
        for need in step.needs:
            before = found.setdefault(need, [])
            before += [each for each in own if each not in before]
    return found

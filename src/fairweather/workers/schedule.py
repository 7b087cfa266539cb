"""Which steps of a plan come next, and doing them in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fairweather.progress import Event, Finished, Notify, silent
from fairweather.report.vega import explain_missing_addresses
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import describe_machine
from fairweather.steps.dispatch import perform, perform_together
from fairweather.steps.ledger import Ledger, Speeds, State, sum_work
from fairweather.steps.plan import (
    AnyNetwork,
    ForwardPass,
    Plan,
    PredictStep,
    ReportStep,
    Step,
    StepResult,
)
from fairweather.steps.predictions import pixels_key
from fairweather.steps.training import drop_state
from fairweather.steps.worker import Worker, using_threads
from fairweather.types.record import Machine, StepRecord

# ---------------------------------------------------------------- which steps of a plan come next:


@dataclass(frozen=True)
class StepsOutcome:
    """What came of steps that were done together.

    Attributes:
        done: the result of each.
        machine: where they were done.
        seconds: how long all of them took.
        where: name of the other computer that did them; empty for this one.
    """

    done: Sequence[StepResult]
    machine: Machine
    seconds: float
    where: str = ""


class Schedule:
    """Hands out the steps of a plan that are to be done now, and records them once they are.

    Args:
        plan: a plan whose steps come after the steps that they need. A needed step that is not in
            the plan must be done, with its record in the folder.
        run: a folder that is open for writing and contains its record.
        tell: called for every step.
        only: ids of the steps that are handed out, with those that they need; by default, all.
        jobs: how many steps are done side by side, for the remaining time.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        tell: Notify,
        *,
        only: Collection[str] | None = None,
        jobs: int = 1,
    ) -> None:
        self.jobs = jobs
        self.plan, self.run, self.tell = plan, run, tell
        self.ledger, own = Ledger(run), {step.id for step in plan.steps}
        self._states: dict[str, State] = {
            need: "done" for step in plan.steps for need in step.needs if need not in own
        }
        wanted = own if only is None else only
        self._waiting = {step.id: step for step in plan.steps if step.id in wanted}
        self._totals, self._counts = Counter(step.task for step in plan.steps), Counter[str]()
        self._dependants = _dependants(plan)
        self._remaining = self.ledger.remaining(plan)
        self._work = sum_work(self._remaining.values())
        records = (self.ledger.record(step.id) for step in plan.steps)
        self._speeds = Speeds.of(record for record in records if record is not None)
        self._alike = _group_by_pixels(self._waiting.values())
        drawn = any(isinstance(step, ReportStep) for step in self._remaining.values())
        if drawn and (lack := explain_missing_addresses()):
            line = f"{lack}; fairweather report draws them where the limit is higher"
            tell(Event("report", 0, None, line=line))

    def take(self, worker: Worker) -> list[Step] | None:
        """Give steps to be done together, or None if all others wait for steps on their way.

        Args:
            worker: tells how many networks fit into memory.
        """
        for step in list(self._waiting.values()):
            if not self._is_ready(step) or self._is_done(step) or not self.is_free(step):
                continue
            group = [step, *self._companions(step, worker)]
            for each in group:
                del self._waiting[each.id]
                self.clear(each)
            return group
        return None

    def is_free(self, step: Step) -> bool:
        """Say whether a ready step that is not done is to be done here."""
        return True

    @property
    def waiting(self) -> list[Step]:
        """The steps that are not done and were not handed out."""
        return list(self._waiting.values())

    def check_finished(self) -> None:
        """Raise `RuntimeError` if a step was never handed out: its plan is not in order."""
        if self._waiting:
            raise RuntimeError(f"{next(iter(self._waiting))} waits for a step that is never done")

    def finish(self, steps: Sequence[Step], outcome: StepsOutcome) -> None:
        """Record steps that were handed out, and tell of them."""
        work = sum(step.work for step in steps)
        for step, done in zip(steps, outcome.done, strict=True):
            share = step.work / work if work else 1 / len(steps)
            record = StepRecord(
                id=step.id,
                kind=step.kind,
                fingerprint=self.ledger.fingerprint(step),
                depends=step.depends(),
                files={
                    name: self.run.checksum(name) for name in list_written(step, done, self.run)
                },
                machine=outcome.machine,
                seconds=round(outcome.seconds * share, 3),
                work=round(step.work * done.share),
                halved_to=done.halved_to,
            )
            self.ledger.finish(record)
            self._speeds.add(record)
            note = "" if step.tells_progress else done.note
            self._pass(step, note)
            self.tell(self._finished(step, record, note, outcome.where))

    def _is_ready(self, step: Step) -> bool:
        return all(need in self._states for need in step.needs)

    def _is_done(self, step: Step) -> bool:
        """Say whether a ready step was done before; if so, pass over it."""
        if self.ledger.standing(step, self._states).state != "done":
            return False
        del self._waiting[step.id]
        drop_state(step, self.run)  # left if the run was killed just after the training
        self._find_done(step)
        return True

    def _find_done(self, step: Step) -> None:
        self._pass(step, "done before")

    def _companions(self, step: Step, worker: Worker) -> list[Step]:
        """Other steps that predict the same shifted images and can be done now.

        As many as their networks fit into memory; the others come later, together.
        """
        pixels = pixels_key(step)
        if pixels is None:
            return []
        group = [step]
        for each in self._alike[pixels]:
            other = each.id != step.id and each.id in self._waiting
            if other and self._is_ready(each) and not self._is_done(each):
                group.append(each)
        networks = list(dict.fromkeys(step_network(each) for each in group))
        fitting = set(networks[: worker.how_many_fit(networks, self.run)])
        return [each for each in group[1:] if step_network(each) in fitting and self.is_free(each)]

    def clear(self, step: Step) -> None:
        """Remove what a step left before, and what was made from it."""
        # First samples, scores and report that need this step: if the run is then interrupted,
        # its folder has no numbers rather than wrong ones.
        for each in self._dependants[step.id]:
            if self.ledger.record(each) is not None:
                self.ledger.forget(each)
        self.ledger.forget(step.id)
        for name in (*step.leaves, *step.may_leave):  # of a step stopped before it was recorded
            if not name.endswith("/"):
                self.run.file(name).unlink(missing_ok=True)

    def _pass(self, step: Step, note: str) -> None:
        self._states[step.id] = "done"
        if self._remaining.pop(step.id, None) is not None:
            self._work -= sum_work([step])
        self._counts[step.task] += 1
        if note or not step.tells_progress:
            count, total = self._counts[step.task], self._totals[step.task]
            self.tell(Event(step.task, count, total, note, step=step.id))

    def _finished(self, step: Step, record: StepRecord, note: str, where: str = "") -> Event:
        steps = len(self.plan.steps)
        left = self._speeds.seconds_of(self._work)
        label = f"{step.label} on {where}" if where else step.label
        finished = Finished(label, record.seconds, None if left is None else left / self.jobs)
        done = steps - len(self._remaining)
        return Event("steps", done, steps, note, finished=finished, step=step.id)


def list_written(step: Step, done: StepResult, run: RunFolder) -> list[str]:
    """Name the files that a step wrote; raises `RuntimeError` if one is missing."""
    always = [name for name in step.leaves if not name.endswith("/")]
    some = [name for name in step.may_leave if run.file(name).is_file()]
    inside = [name for name in done.files if name.startswith(_folders(step))]
    for name in (*always, *inside):
        if not run.file(name).is_file():
            raise RuntimeError(f"{step.id} did not write {name}")
    return [*always, *some, *inside]


def step_network(step: Step) -> AnyNetwork:
    """The network that a prediction is made with."""
    assert isinstance(step, PredictStep)
    assert isinstance(step.how, ForwardPass)
    return step.how.network


def _folders(step: Step) -> tuple[str, ...]:
    return tuple(name for name in step.leaves if name.endswith("/"))


def _group_by_pixels(steps: Iterable[Step]) -> Mapping[Hashable, list[Step]]:
    found: dict[Hashable, list[Step]] = {}
    for step in steps:
        if (pixels := pixels_key(step)) is not None:
            found.setdefault(pixels, []).append(step)
    return found


def _dependants(plan: Plan) -> Mapping[str, list[str]]:
    """The disposable steps (scores, report, ...) that need a step, directly or not, by its id."""
    found: dict[str, list[str]] = {step.id: [] for step in plan.steps}
    for step in reversed(plan.steps):
        own = [*found[step.id], *([step.id] if step.disposable else [])]
        for need in step.needs:
            before = found.setdefault(need, [])
            before += [each for each in own if each not in before]
    return found


# ---------------------------------------------------------------- executes the steps of a plan on t


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
    finish_locally(Schedule(plan, run, progress or silent, only=only), worker)


def finish_locally(schedule: Schedule, worker: Worker) -> None:
    """Do in this process what is left of a schedule."""
    while steps := schedule.take(worker):
        schedule.finish(steps, perform_locally(steps, worker, schedule.run, schedule.tell))
    schedule.check_finished()


def perform_locally(
    steps: Sequence[Step], worker: Worker, run: RunFolder, tell: Notify
) -> StepsOutcome:
    """Do steps that a schedule has handed out, in this process."""
    began = time.perf_counter()
    if len(steps) == 1:
        done = [perform(steps[0], worker, run, tell)]
    else:
        predictions = [step for step in steps if isinstance(step, PredictStep)]
        done = perform_together(predictions, worker, run, tell)
    with using_threads(steps[0].threads):
        machine = describe_machine(worker.device)
    return StepsOutcome(done, machine, time.perf_counter() - began)


# ---------------------------------------------------------------- what other processes do of a plan


class FollowedSchedule(Schedule):
    """The steps of a plan that other processes do.

    Args:
        plan, run, tell: as in `Schedule`.
        note: gives the note on a step that another process has done.
    """

    def __init__(
        self, plan: Plan, run: RunFolder, tell: Notify, note: Callable[[Step], str]
    ) -> None:
        super().__init__(plan, run, tell)
        self._note = note
        self._before = True  # steps that are done now were done before
        self.look(busy=1)
        self._before = False

    def look(self, busy: int) -> int:
        """Tell of the steps that were finished meanwhile, and return how many.

        Args:
            busy: how many processes do steps now, for the remaining time.
        """
        self.jobs = max(busy, 1)
        waiting = len(self._waiting)
        self.ledger.look_again(self._waiting, set(self.run.step_ids()))
        for step in self.waiting:  # in the order of the plan: what a step needs comes first
            if self._is_ready(step):
                self._is_done(step)
        return waiting - len(self._waiting)

    def free(self, claimed: Collection[str]) -> int:
        """How many processes could begin something now, if these steps are being done already.

        Steps that see the same shifted images are done by one process.
        """
        ready = [step for step in self.waiting if self._is_ready(step) and step.id not in claimed]
        return len({pixels_key(step) or step.id for step in ready})

    def label(self, step: str) -> str:
        """What a step does, in words."""
        found = self._waiting.get(step)
        return step if found is None else found.label

    def _find_done(self, step: Step) -> None:
        record = self.ledger.record(step.id)
        if self._before or record is None:
            super()._find_done(step)
            return
        note = self._note(step)
        self._pass(step, note)
        self._speeds.add(record)
        self.tell(self._finished(step, record, note))

"""Choose the next steps of a plan, and do them, alone or with other processes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from fairweather.errors import InputError
from fairweather.progress import Event, FinishedStep, Notify, silent
from fairweather.report.vega import explain_missing_addresses
from fairweather.runs.claims import PROCESSOR, Claims, SharedRun
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import describe_machine, package_versions
from fairweather.steps.dispatch import perform
from fairweather.steps.ledger import Ledger, State
from fairweather.steps.outlook import Speeds, sum_work
from fairweather.steps.plan import (
    AnyNetwork,
    ForwardPass,
    Plan,
    PredictStep,
    ReportStep,
    Step,
    StepResult,
    name_first,
)
from fairweather.steps.predictions import do_predictions, pixels_key
from fairweather.steps.training import drop_state
from fairweather.steps.worker import Worker, using_threads
from fairweather.types.record import RECORD, Machine, StepRecord, parse_record, step_file

LOOK_INTERVAL = 1.0  # seconds between two looks at what other processes have done
REMINDER_INTERVAL = 60.0  # seconds between two lines that say what is waited for
MAX_ATTEMPTS = 3  # how often in a row a file may be missing while another process replaces it


@dataclass(frozen=True)
class StepsOutcome:
    """The results of steps that were done together."""

    done: Sequence[StepResult]
    """The result of each step."""

    machine: Machine
    """Where they were done."""

    seconds: float
    """How long all of them took."""

    host: str = ""
    """Name of the other computer that did them; empty for this one."""


Perform = Callable[[Sequence[Step], Worker, RunFolder, Notify], StepsOutcome]


class Schedule:
    """Hands out the steps of a plan that can be done now, and records them when they are done.

    Args:
        plan: a plan whose steps come after the steps that they need. A needed step that is not in
            the plan must be done, with its record in the folder.
        run: a folder that is open for writing and contains its record.
        tell: called for every step.
        only: ids of the steps that are handed out, including what they need; by default, all.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        tell: Notify,
        *,
        only: Collection[str] | None = None,
    ) -> None:
        self.jobs = 1  # how many steps are done in parallel, for the remaining time
        self.plan, self.run, self.tell = plan, run, tell
        self.ledger, ids = Ledger(run), {step.id for step in plan.steps}
        self._states: dict[str, State] = {
            need: "done" for step in plan.steps for need in step.needs if need not in ids
        }
        wanted = ids if only is None else only
        self._waiting = {step.id: step for step in plan.steps if step.id in wanted}
        self._totals, self._counts = Counter(step.task for step in plan.steps), Counter[str]()
        self._dependants = _dependants(plan)
        self._remaining = self.ledger.remaining(plan)
        self._work = sum_work(self._remaining.values())
        records = (self.ledger.record(step.id) for step in plan.steps)
        self._speeds = Speeds.from_records(record for record in records if record is not None)
        self._by_pixels = defaultdict[Hashable, list[Step]](list)
        for step in self._waiting.values():
            self._by_pixels[pixels_key(step)].append(step)
        # The report comes last, so missing figures are reported before hours of other steps.
        draws_figures = any(isinstance(step, ReportStep) for step in self._remaining.values())
        if draws_figures and (problem := explain_missing_addresses()):
            line = f"{problem}; fairweather report draws them where the limit is higher"
            tell(Event("report", 0, None, line=line))

    def take(self, worker: Worker) -> list[Step] | None:
        """Hand out steps to do together; None if the rest must wait for steps in progress.

        Args:
            worker: knows how many networks fit into memory.
        """
        for step in list(self._waiting.values()):
            if not self._is_ready(step) or self._pass_if_done(step) or not self.claim(step):
                continue
            steps = [step, *self._companions(step, worker)]
            for first in steps:
                del self._waiting[first.id]
                self.clear(first)
            return steps
        return None

    def claim(self, step: Step) -> bool:
        """Whether a ready step may be done in this process; `SharedSchedule` claims it first."""
        return True

    @property
    def waiting(self) -> list[Step]:
        """The steps that are not done and were not handed out."""
        return list(self._waiting.values())

    def check_finished(self) -> None:
        """Raise `RuntimeError` if a step was never handed out because the plan is out of order."""
        if self._waiting:
            raise RuntimeError(f"{next(iter(self._waiting))} waits for a step that is never done")

    def finish(self, steps: Sequence[Step], outcome: StepsOutcome) -> None:
        """Record finished steps that were handed out, and report them."""
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
                network_seconds=done.network_seconds,
                adapts=done.adapts,
                halved_to=done.halved_to,
            )
            self.ledger.finish(record)
            note = "" if step.tells_progress else done.note
            self._tell_finished(step, record, note, outcome.host)

    def _is_ready(self, step: Step) -> bool:
        return all(need in self._states for need in step.needs)

    def _pass_if_done(self, step: Step) -> bool:
        """Say whether a ready step was done before; if so, it is counted and no longer waits."""
        if self.ledger.standing(step, self._states).state != "done":
            return False
        del self._waiting[step.id]
        drop_state(step, self.run)  # left behind if the run was killed just after the training
        self._tell_done_before(step)
        return True

    def _tell_done_before(self, step: Step) -> None:
        self._pass(step, "done before")

    def _companions(self, step: Step, worker: Worker) -> list[Step]:
        """Other steps that predict the same shifted images and can be done with this one.

        Only as many are taken as have networks that fit into memory together. The rest is handed
        out later.
        """
        pixels = pixels_key(step)
        if pixels is None:
            return []
        companions = [
            other
            for other in self._by_pixels[pixels]
            if other.id != step.id
            and other.id in self._waiting
            and self._is_ready(other)
            and not self._pass_if_done(other)
        ]
        networks = list(dict.fromkeys(map(_network, [step, *companions])))
        fitting = networks[: worker.count_fitting(networks, self.run)]
        return [other for other in companions if _network(other) in fitting and self.claim(other)]

    def clear(self, step: Step) -> None:
        """Remove earlier files of a step, and what was made from them."""
        # First samples, scores and report that need this step: if the run is then interrupted,
        # its folder has no numbers rather than wrong ones.
        self._forget_dependants(step)
        self.ledger.forget(step.id)
        # Files of a step that was stopped before it was recorded.
        for name in (*step.leaves, *step.may_leave):
            if not name.endswith("/"):
                self.run.file(name).unlink(missing_ok=True)

    def _forget_dependants(self, step: Step) -> None:
        for dependant in self._dependants[step.id]:
            if self.ledger.record(dependant) is not None:
                self.ledger.forget(dependant)

    def _pass(self, step: Step, note: str) -> None:
        self._states[step.id] = "done"
        if self._remaining.pop(step.id, None) is not None:
            self._work -= sum_work([step])
        self._counts[step.task] += 1
        if note or not step.tells_progress:
            count, total = self._counts[step.task], self._totals[step.task]
            self.tell(Event(step.task, count, total, note, step=step.id))

    def _tell_finished(self, step: Step, record: StepRecord, note: str, host: str = "") -> None:
        self._speeds.add(record)
        self._pass(step, note)
        left = self._speeds.estimate_seconds(self._work)
        label = f"{step.label} on {host}" if host else step.label
        finished = FinishedStep(label, record.seconds, None if left is None else left / self.jobs)
        total = len(self.plan.steps)
        done = total - len(self._remaining)
        self.tell(Event("steps", done, total, note, finished=finished, step=step.id))


def list_written(step: Step, done: StepResult, run: RunFolder) -> list[str]:
    """Name the files that a step wrote; raises `RuntimeError` if one is missing."""
    folders = tuple(name for name in step.leaves if name.endswith("/"))
    always = [name for name in step.leaves if name not in folders]
    some = [name for name in step.may_leave if run.file(name).is_file()]
    inside = [name for name in done.files if name.startswith(folders)]
    for name in (*always, *inside):
        if not run.file(name).is_file():
            raise RuntimeError(f"{step.id} did not write {name}")
    return [*always, *some, *inside]


def _network(step: Step) -> AnyNetwork:
    """The network that a prediction is made with."""
    assert isinstance(step, PredictStep)
    assert isinstance(step.how, ForwardPass)
    return step.how.network


def _dependants(plan: Plan) -> Mapping[str, list[str]]:
    """The disposable steps (scores, report, ...) that need a step, directly or not, by its id."""
    dependants: dict[str, list[str]] = {step.id: [] for step in plan.steps}
    for step in reversed(plan.steps):
        disposable = [*dependants[step.id], *([step.id] if step.disposable else [])]
        for need in step.needs:
            known = dependants.setdefault(need, [])
            known += [name for name in disposable if name not in known]
    return dependants


def execute(plan: Plan, run: RunFolder, worker: Worker, progress: Notify | None = None) -> None:
    """Execute the steps of a plan that are not done yet, one after the other, and record them.

    Predictions of the same shifted images are made together.

    Args:
        plan: a plan whose steps come after the steps that they need. A needed step that is not in
            the plan must be done, with its record in the folder.
        run: a folder that is open for writing and contains its record.
        worker: opens data and models.
        progress: called for every step, and for events within long ones.
    """
    finish_locally(Schedule(plan, run, progress or silent), worker)


def finish_locally(schedule: Schedule, worker: Worker) -> None:
    """Do the rest of a schedule in this process."""
    while steps := schedule.take(worker):
        schedule.finish(steps, perform_locally(steps, worker, schedule.run, schedule.tell))
    schedule.check_finished()


def perform_locally(
    steps: Sequence[Step], worker: Worker, run: RunFolder, tell: Notify
) -> StepsOutcome:
    """Do steps that a schedule has handed out, in this process."""
    began = time.perf_counter()
    with using_threads(steps[0].threads):
        if len(steps) == 1:
            done = [perform(steps[0], worker, run, tell)]
        else:
            predictions = [step for step in steps if isinstance(step, PredictStep)]
            done = do_predictions(predictions, worker, run, tell)
        machine = describe_machine(worker.device)
    return StepsOutcome(done, machine, time.perf_counter() - began)


class FollowedSchedule(Schedule):
    """Follows steps that other processes do, and hands out none.

    Args:
        plan, run, tell: as in `Schedule`.
        note: returns the note to report with a step that another process has done.
    """

    def __init__(
        self, plan: Plan, run: RunFolder, tell: Notify, note: Callable[[Step], str]
    ) -> None:
        super().__init__(plan, run, tell)
        self._note = note
        self._at_start = True  # steps found by the first check were done before this run began
        self.look(busy=1)
        self._at_start = False

    def look(self, busy: int) -> int:
        """Report the steps that were finished meanwhile, and return how many.

        Args:
            busy: how many processes do steps now, for the remaining time.
        """
        self.jobs = max(busy, 1)
        waiting = len(self._waiting)
        self.ledger.refresh(self._waiting, set(self.run.step_ids()))
        for step in self.waiting:  # in the order of the plan: what a step needs comes first
            if self._is_ready(step):
                self._pass_if_done(step)
        return waiting - len(self._waiting)

    def free(self, claimed: Collection[str]) -> int:
        """How many more processes would find work now, besides steps that are already claimed.

        Steps that see the same shifted images are work for one process.
        """
        ready = [step for step in self.waiting if self._is_ready(step) and step.id not in claimed]
        return len({pixels_key(step) or step.id for step in ready})

    def label(self, step: str) -> str:
        """What a waiting step does, in words; the id of any other."""
        return self._waiting[step].label if step in self._waiting else step

    def _tell_done_before(self, step: Step) -> None:
        record = self.ledger.record(step.id)
        if self._at_start or record is None:
            super()._tell_done_before(step)
        else:
            self._tell_finished(step, record, self._note(step))


class SharedSchedule(Schedule):
    """Hands out steps that this process can claim, and records those that it still holds.

    Args:
        plan, run, tell: as in `Schedule`.
        claims: the claims of this process.
        only: as in `Schedule`.
        looks: seconds between two looks at what other processes have done.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        tell: Notify,
        claims: Claims,
        *,
        only: Collection[str] | None,
        looks: float,
    ) -> None:
        super().__init__(plan, run, tell, only=only)
        self.claims, self.looks = claims, looks
        self._steps = {step.id: step for step in plan.steps}
        self._begun: dict[str, str] = {}  # the fingerprint of each step that was handed out
        self._looked = time.monotonic()
        self._record = run.file(RECORD).read_bytes()
        self.owners = claims.owners()

    def take(self, worker: Worker) -> list[Step] | None:
        """Hand out steps to do together; None if other processes are doing all that can be done."""
        self._check_record()
        if time.monotonic() - self._looked >= self.looks:
            self.ledger.refresh(self._waiting, set(self.run.step_ids()))
            self.owners = self.claims.owners()
            self._looked = time.monotonic()
        return super().take(worker)

    def claim(self, step: Step) -> bool:
        """Claim a ready step, unless another process is doing it."""
        if step.id in self.owners or not self.claims.take(step.id):
            return False
        # Another process may have done it just before. Listing a folder makes NFS ask its server.
        with suppress(FileNotFoundError):
            list(self.run.file(step_file(step.id)).parent.iterdir())
        self.ledger.refresh([step.id])
        if self._pass_if_done(step):
            self.claims.release(step.id)
            return False
        return True

    def clear(self, step: Step) -> None:
        """Remove what was made from a step.

        The step's own files are replaced one by one: a process that was believed dead, or that sees
        files late, may be reading them.
        """
        self.ledger.refresh(self._dependants[step.id])
        self._forget_dependants(step)
        for name in step.may_leave:  # nothing else replaces these
            self.run.file(name).unlink(missing_ok=True)
        self._begun[step.id] = self.ledger.fingerprint(step)

    def finish(self, steps: Sequence[Step], outcome: StepsOutcome) -> None:
        """Record steps, or let them wait again if other processes have taken them over."""
        if self._are_still_mine(steps):
            super().finish(steps, outcome)
        else:
            self.put_back(steps)
        for step in steps:
            self.claims.release(step.id)

    def put_back(self, steps: Sequence[Step]) -> None:
        """Let steps wait again, and those that they need and that are no longer done."""
        for step in steps:
            self.claims.release(step.id)
            self._waiting[step.id] = self._steps[step.id]
            self.ledger.refresh(step.needs)
            for need in step.needs:
                if self.ledger.record(need) is None and need in self._steps:
                    self._states.pop(need, None)
                    self._waiting[need] = self._steps[need]

    def _check_record(self) -> None:
        """Raise `InputError` if another run was begun in the folder.

        This can happen if this process was suspended for so long that it was believed dead.
        """
        now = self.run.file(RECORD).read_bytes()
        if now != self._record:
            before, after = (parse_record(text.decode(), RECORD) for text in (self._record, now))
            if before.lasting() != after.lasting():
                raise InputError(
                    f"the run in {self.run.path} was started again with other settings while this "
                    "worker was in it; give the command again to join"
                )
            self._record = now

    def _are_still_mine(self, steps: Sequence[Step]) -> bool:
        self._check_record()
        self.ledger.refresh({need for step in steps for need in step.needs})
        return all(
            # A lost claim that nobody else holds is taken again.
            (self.claims.holds(step.id) or self.claims.take(step.id))
            and all(self.ledger.record(need) is not None for need in step.needs)
            and self.ledger.fingerprint(step) == self._begun[step.id]
            for step in steps
        )


def make_worker_mark(plan: Plan, device: torch.device | None) -> dict[str, str]:
    """Facts that must be equal in all processes that work in one run folder, by name for people.

    Args:
        plan: the plan that they do.
        device: the device of this process, whose processor is added; None if it does no steps.
    """
    first = plan.steps[0]
    mark = {
        "device": first.device,
        "number of threads": str(first.threads),
        **{f"version of {name}": version for name, version in package_versions().items()},
        "study or settings": plan.digest,
    }
    if device is not None:
        machine = describe_machine(device)
        mark[PROCESSOR] = f"{machine.model}, {machine.instructions}"
    return mark


def execute_shared(
    plan: Plan,
    shared: SharedRun,
    worker: Worker,
    progress: Notify | None = None,
    *,
    perform: Perform = perform_locally,
    only: Collection[str] | None = None,
    patience: float | None = None,
    looks: float | None = None,
) -> None:
    """Execute the steps of a plan together with other processes that call this in the same folder.

    Returns when all steps are done, by whichever process. Ready steps are claimed first; a claim
    that nobody renews, because its process was killed, is given up after some minutes.

    Args:
        plan, worker, progress: as in `workers.schedule.execute`.
        shared: the folder, which contains its record, and the claims of this process.
        perform: does steps that were handed out.
        only: ids of the steps that are done; by default, all.
        patience: seconds to wait for others that do all that can be done now, before leaving them
            the rest; by default, until everything is done.
        looks: seconds between two checks of what the others have done; up to ten times longer while
            nothing changes.
    """
    tell, looks = progress or silent, looks or LOOK_INTERVAL
    run, claims, warnings = shared
    for words in warnings:
        tell(Event("wait", 0, None, line=f"{'warning':14} {words}"))
    schedule = SharedSchedule(plan, run, tell, claims, only=only, looks=looks)
    failed, wait, reminded, worked = 0, looks, float("-inf"), time.monotonic()
    while schedule.waiting:
        if steps := schedule.take(worker):
            try:
                schedule.finish(steps, perform(steps, worker, run, tell))
                failed = 0
            except FileNotFoundError:  # another process is replacing a file that was to be read
                schedule.put_back(steps)
                failed += 1
                if failed == MAX_ATTEMPTS:
                    raise
                time.sleep(looks)
            wait, worked = looks, time.monotonic()
            continue
        if patience is not None and schedule.owners and time.monotonic() - worked > patience:
            return
        if time.monotonic() - reminded > REMINDER_INTERVAL:
            tell(Event("wait", 0, None, line=_describe_wait(schedule)))
            reminded = time.monotonic()
        time.sleep(wait)
        wait = min(2 * wait, 10 * looks)


def _describe_wait(schedule: SharedSchedule) -> str:
    if not schedule.owners:
        return f"{'waiting':14} for a process that has ended: its claims expire in some minutes"
    claims = [f"{step}, by {owner}" for step, owner in schedule.owners.items()]
    return f"{'waiting':14} for {name_first(claims)}"

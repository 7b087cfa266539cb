"""Executes a plan in a run folder that other processes work in too."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import torch

from fairweather.errors import InputError
from fairweather.progress import Event, Notify, silent
from fairweather.runs.claims import PROCESSOR, Claims, SharedRun
from fairweather.runs.folder import RunFolder, fingerprint
from fairweather.runs.provenance import describe_machine, package_versions
from fairweather.steps.plan import Plan, Step
from fairweather.steps.worker import Worker
from fairweather.types.record import RECORD, parse_record, step_file
from fairweather.workers.schedule import Schedule, StepsOutcome, perform_locally

LOOKED_AGAIN = 1.0  # seconds between two looks at what other processes have done
REMINDER_INTERVAL = 60.0  # seconds between two lines that say what is waited for
MAX_ATTEMPTS = 3  # how often files that others replace may be missing, one time after the other

Perform = Callable[[Sequence[Step], Worker, RunFolder, Notify], StepsOutcome]


class SharedSchedule(Schedule):
    """Hands out steps that this process could claim, and records them if the claim is still its.

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
        """Give steps to be done together; None if others do all that could be done now."""
        self._check_record()
        if time.monotonic() - self._looked >= self.looks:
            self.ledger.look_again(self._waiting, set(self.run.step_ids()))
            self.owners = self.claims.owners()
            self._looked = time.monotonic()
        return super().take(worker)

    def is_free(self, step: Step) -> bool:
        """Claim a ready step, unless another process is doing it."""
        if step.id in self.owners or not self.claims.take(step.id):
            return False
        # Another process may have done it just before. Listing a folder makes NFS ask its server.
        with suppress(FileNotFoundError):
            list(self.run.file(step_file(step.id)).parent.iterdir())
        self.ledger.look_again([step.id])
        if self._is_done(step):
            self.claims.release(step.id)
            return False
        return True

    def clear(self, step: Step) -> None:
        """Remove what was made from a step.

        What it left itself is replaced file by file: a process that was believed dead, or one that
        sees files late, may read it just now.
        """
        self.ledger.look_again(self._dependants[step.id])
        for each in self._dependants[step.id]:
            if self.ledger.record(each) is not None:
                self.ledger.forget(each)
        for name in step.may_leave:  # nothing replaces it, unless it is left this time too
            self.run.file(name).unlink(missing_ok=True)
        self._begun[step.id] = self.ledger.fingerprint(step)

    def finish(self, steps: Sequence[Step], outcome: StepsOutcome) -> None:
        """Record steps, or wait for others to do so if they have taken them over meanwhile."""
        if self._are_still_mine(steps):
            super().finish(steps, outcome)
        else:
            self.put_back(steps)
        for step in steps:
            self.claims.release(step.id)

    def put_back(self, steps: Sequence[Step]) -> None:
        """Let steps wait again, and what they need, as far as it is not done any more."""
        for step in steps:
            self.claims.release(step.id)
            self._waiting[step.id] = self._steps[step.id]
            self.ledger.look_again(step.needs)
            for need in step.needs:
                if self.ledger.record(need) is None and need in self._steps:
                    self._states.pop(need, None)
                    self._waiting[need] = self._steps[need]

    def _check_record(self) -> None:
        """Raise `InputError` if the run is another one now.

        That can be where this process was stopped for so long that it was believed dead.
        """
        now = self.run.file(RECORD).read_bytes()
        if now != self._record:
            before, after = (parse_record(each.decode(), RECORD) for each in (self._record, now))
            if before.lasting() != after.lasting():
                raise InputError(
                    f"the run in {self.run.path} was begun anew with other settings while this "
                    "worker was in it; give the command again to join"
                )
            self._record = now

    def _are_still_mine(self, steps: Sequence[Step]) -> bool:
        self._check_record()
        self.ledger.look_again({need for step in steps for need in step.needs})
        return all(
            # A claim that is gone, and that nobody else has, is taken again.
            (self.claims.holds(step.id) or self.claims.take(step.id))
            and all(self.ledger.record(need) is not None for need in step.needs)
            and self.ledger.fingerprint(step) == self._begun[step.id]
            for step in steps
        )


def make_worker_mark(plan: Plan, device: torch.device | None) -> dict[str, str]:
    """What must be the same in all processes that work in one run folder, by its names.

    Args:
        plan: the plan that they do.
        device: the device of this process, whose kind should be the same; None if it does no steps.
    """
    first = plan.steps[0]
    mark = {
        "device": first.device,
        "number of threads": str(first.threads),
        **{f"version of {name}": each for name, each in package_versions().items()},
        "study or settings": fingerprint({step.id: step.depends() for step in plan.steps}),
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
        plan, worker, progress: as in `executors.local.execute`.
        shared: the folder, which contains its record, and the claims of this process.
        perform: does steps that were handed out.
        only: ids of the steps that are done; by default, all.
        patience: seconds after which to leave the rest to the others, if these do all that can be
            done now; by default, wait until all is done.
        looks: seconds between two looks at what the others have done; they become ten times longer
            while nothing changes.
    """
    tell, looks = progress or silent, looks or LOOKED_AGAIN
    run, claims, warnings = shared
    for words in warnings:
        tell(Event("wait", 0, None, line=f"{'warning':14} {words}"))
    schedule = SharedSchedule(plan, run, tell, claims, only=only, looks=looks)
    failed, wait, reminded, busy = 0, looks, float("-inf"), time.monotonic()
    while schedule.waiting:
        if steps := schedule.take(worker):
            try:
                schedule.finish(steps, perform(steps, worker, run, tell))
                failed = 0
            except FileNotFoundError:  # another process is replacing what was to be read
                schedule.put_back(steps)
                failed += 1
                if failed == MAX_ATTEMPTS:
                    raise
                time.sleep(looks)
            wait, busy = looks, time.monotonic()
            continue
        if patience is not None and schedule.owners and time.monotonic() - busy > patience:
            return
        if time.monotonic() - reminded > REMINDER_INTERVAL:
            tell(Event("wait", 0, None, line=_describe_wait(schedule)))
            reminded = time.monotonic()
        time.sleep(wait)
        wait = min(2 * wait, 10 * looks)


def _describe_wait(schedule: SharedSchedule) -> str:
    if not schedule.owners:
        return f"{'waiting':14} for a process that has ended: its claims expire in some minutes"
    step, owner = next(iter(schedule.owners.items()))
    more = f" and {len(schedule.owners) - 1} more" if len(schedule.owners) > 1 else ""
    return f"{'waiting':14} for {step}, by {owner}{more}"

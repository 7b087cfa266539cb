"""What other processes do of a plan, told as if it were done here."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fairweather.executors.schedule import Schedule
from fairweather.progress import Notify
from fairweather.runs import RunFolder
from fairweather.steps import Plan, Step, pixels_of


class Followed(Schedule):
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
        return len({pixels_of(step) or step.id for step in ready})

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

"""How far a plan is, and how long the rest takes, by the speeds of finished steps."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fairweather.progress import format_duration
from fairweather.runs.folder import RunFolder
from fairweather.steps.ledger import Standing, standings
from fairweather.steps.plan import Plan, Step
from fairweather.types.record import StepRecord


@dataclass
class Speeds:
    """Seconds and work of finished steps, summed over similar steps, and over all of a kind.

    >>> Speeds.from_records([]).estimate_seconds({}) is None
    True
    """

    seconds: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    work: dict[tuple[str, str], int] = field(default_factory=Counter)

    @classmethod
    def from_records(cls, records: Iterable[StepRecord]) -> Speeds:
        """Sum up finished steps."""
        speeds = cls()
        for record in records:
            speeds.add(record)
        return speeds

    def add(self, record: StepRecord) -> None:
        """Count one more finished step."""
        if record.work:
            for key in (_similarity_key(record.kind, record.id), (record.kind, "")):
                self.seconds[key] += record.seconds
                self.work[key] += record.work

    def estimate_seconds(self, work: Mapping[tuple[str, str], int]) -> float | None:
        """How long this work will take; None if for some of it no step of its kind was done yet."""
        total = 0.0
        for (kind, similar), amount in work.items():
            key = (kind, similar if (kind, similar) in self.work else "")
            if key not in self.work:
                return None
            total += amount * self.seconds[key] / self.work[key]
        return total if work else None


def sum_work(steps: Iterable[Step]) -> Counter[tuple[str, str]]:
    """The work of steps, summed over similar ones; steps without work are left out."""
    work = Counter[tuple[str, str]]()
    for step in steps:
        if step.work:
            work[_similarity_key(step.kind, step.id)] += step.work
    return work


def _similarity_key(kind: str, step: str) -> tuple[str, str]:
    """The kind of a step and what similar steps share: the shift of predictions, or the model."""
    name = step.rpartition("/")[2].partition(",")[0] if kind == "predict" else step.split("/")[1]
    return kind, name


# The words for each state in the lines of tasks, besides the number of done steps.
_STATE_WORDS = {"done": "", "missing": "", "stale": "done with other settings"}


@dataclass(frozen=True)
class Outlook:
    """A plan and how much of it is done, as `fairweather plan` shows it."""

    name: str
    """Name of the run."""

    path: Path
    """Its folder, which need not exist."""

    plan: Plan
    """All steps of the run."""

    standings: Sequence[Standing]
    """The state of each step."""

    seconds: float | None
    """Estimated time for the rest, by the speeds of finished steps; None if unknown."""

    @classmethod
    def from_plan(cls, name: str, path: Path, plan: Plan) -> Outlook:
        """Compare a plan with a run folder; nothing is written."""
        run = RunFolder(path)
        all_standings = list(standings(plan, run))
        rest = sum_work(step for step, state, _ in all_standings if state != "done")
        speeds = Speeds.from_records(record for *_, record in all_standings if record is not None)
        return cls(name, path, plan, all_standings, speeds.estimate_seconds(rest))

    @property
    def table(self) -> pd.DataFrame:
        """One row per step: id, kind, state, work (images times passes), needs."""
        rows = [
            (s.step.id, s.step.kind, self._state(s), s.step.work, s.step.needs)
            for s in self.standings
        ]
        return pd.DataFrame(rows, columns=["id", "kind", "state", "work", "needs"])

    def _state(self, standing: Standing) -> str:
        if standing.state == "done" or standing.step.is_known:
            return standing.state
        # As in `Step.is_known`: either weights (None) or decoded images are missing.
        fetched = getattr(standing.step, "weights", "") is not None
        return "unknown until decoded" if fetched else "unknown until fetched"

    def to_json(self) -> str:
        """The plan with all facts of its steps, for programs."""
        plan = self.plan.model_dump(mode="json")
        facts = {
            "name": self.name,
            "path": str(self.path),
            "seconds": self.seconds,
            "model": plan["models"][0] if len(plan["models"]) == 1 else None,
            **plan,
            "steps": [
                {**step, "depends": standing.step.depends(), "state": self._state(standing)}
                for step, standing in zip(plan["steps"], self.standings, strict=True)
            ],
        }
        return json.dumps(facts, indent=1)

    def __str__(self) -> str:
        """One line per task: how many steps are done, of how many, and the remaining work."""
        tasks: dict[str, list[Standing]] = {}
        for standing in self.standings:
            tasks.setdefault(standing.step.task, []).append(standing)
        width = max(len(task) for task in tasks)
        lines = [f"{'task':<{width}}  {'done':>9}  {'images x passes':>15}"]
        for task, members in tasks.items():
            done = sum(state == "done" for _, state, _ in members)
            left = sum(step.work for step, state, _ in members if state != "done")
            words = {_STATE_WORDS.get(state := self._state(s), state) for s in members} - {""}
            work = f"{left:,}" if left else ""
            line = f"{task:<{width}}  {done:>4}/{len(members):<4}  {work:>15}"
            lines.append(f"{line}  {', '.join(sorted(words))}".rstrip())
        done = sum(state == "done" for _, state, _ in self.standings)
        time = "" if self.seconds is None else f"; about {format_duration(self.seconds)} to go"
        lines.append(f"{done} of {len(self.standings)} steps done in {self.path}{time}")
        return "\n".join(lines)

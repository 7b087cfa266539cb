"""Which steps of a plan are done, and which finished work a new plan would replace."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import pydantic

from fairweather.errors import InputError, join_names
from fairweather.runs.folder import RunFolder, fingerprint
from fairweather.steps.plan import (
    ChooseStep,
    Plan,
    ReportStep,
    ScoredModel,
    ScoreStep,
    Step,
    step_fingerprint,
)
from fairweather.types.operating_points import list_points
from fairweather.types.record import (
    RECORD,
    RunRecord,
    StepRecord,
    StoredPoints,
    unseen_slice_label,
)

State = Literal["done", "stale", "missing"]


class Standing(NamedTuple):
    """A step, and how its record in the run folder compares with it."""

    step: Step
    """The step, as it is planned now."""

    state: State
    """`done`; `stale`: done with other settings, or from files that were made with other settings;
    or `missing`. A missing step was never done, or its files are gone or damaged, or the files that
    it read have changed since."""

    record: StepRecord | None
    """Its record, if it was ever done, with whatever settings."""


class Ledger:
    """The records of a run folder, read once, and compared with a plan step by step."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._records: dict[str, StepRecord | None] = {}

    def record(self, step: str) -> StepRecord | None:
        """The record of a step, or None."""
        if step not in self._records:
            self._records[step] = self.run.step(step)
        return self._records[step]

    def refresh(self, steps: Iterable[str], listed: Collection[str] | None = None) -> None:
        """Read the records of steps again, since other processes do steps too.

        Args:
            steps: ids of the steps.
            listed: ids of all steps with a record, if the folder was just listed. Other steps then
                have no record, which needs no check of the folder.
        """
        for step in steps:
            if listed is None or step in listed:
                self._records.pop(step, None)
            else:
                self._records[step] = None

    def finish(self, record: StepRecord) -> None:
        """Record a step as done."""
        self.run.finish(record)
        self._records[record.id] = record

    def forget(self, step: str) -> None:
        """Forget that a step is done, and remove its files."""
        self.run.forget(step)
        self._records[step] = None

    def fingerprint(self, step: Step) -> str:
        """The fingerprint of a step; the steps that it needs must be done."""
        needs = [record for need in step.needs if (record := self.record(need)) is not None]
        assert len(needs) == len(step.needs), f"{step.id} needs steps that are not done"
        checksums = {name: checksum for record in needs for name, checksum in record.files.items()}
        # The page shows the record of the run, the machines that it was made on, and times.
        if isinstance(step, ReportStep) and (self.run.path / RECORD).is_file():
            machines = [str(record.machine) for record in needs if record.machine]
            shown: dict[str, object] = {
                "record": self.run.checksum(RECORD),
                "machines": list(dict.fromkeys(machines)),
            }
            if times := {r.id: r.network_seconds for r in needs if r.network_seconds is not None}:
                shown["network_seconds"] = times
            if adapted := {r.id: r.adapts for r in needs if r.adapts is not None}:
                shown["adapts"] = adapted
            checksums[RECORD] = fingerprint(shown)
        return step_fingerprint(step, checksums)

    def remaining(self, plan: Plan) -> dict[str, Step]:
        """The steps of a plan that are not done according to the records, by id; checks no file."""
        remaining: dict[str, Step] = {}
        for step in plan.steps:
            record = self.record(step.id)
            changed = record is None or record.depends != step.depends()
            if changed or any(need in remaining for need in step.needs):
                remaining[step.id] = step
        return remaining

    def standing(self, step: Step, before: Mapping[str, State]) -> Standing:
        """The state of a step, given in `before` the states of the steps that it needs."""
        record = self.record(step.id)
        if record is None or not step.is_known:
            return Standing(step, "missing", record)
        changed = record.depends != step.depends()
        unfinished = {before[need] for need in step.needs} - {"done"}
        if unfinished:
            stale = changed or "stale" in unfinished
            return Standing(step, "stale" if stale else "missing", record)
        if record.fingerprint != self.fingerprint(step):
            # If the settings are the same, the files that it read differ: its result is outdated.
            return Standing(step, "stale" if changed else "missing", record)
        # A record with the right fingerprint and other settings is damaged.
        done = not changed and self.run.has_left(record)
        return Standing(step, "done" if done else "missing", record)


def standings(plan: Plan, run: RunFolder) -> Iterator[Standing]:
    """The state of every step of a plan in a run folder."""
    ledger, states = Ledger(run), dict[str, State]()
    for step in plan.steps:
        standing = ledger.standing(step, states)
        # A changed choice of the recipe may end with the same recipe. So the trainings that need
        # the choice are not called stale before it is made again.
        may_stay_the_same = isinstance(step, ChooseStep) and standing.state == "stale"
        states[step.id] = "missing" if may_stay_the_same else standing.state
        yield standing


def find_dropped(plan: Plan, run: RunFolder) -> list[str]:
    """Name the parts of a run's scores that a new plan would leave out."""
    scored = run.step("scores")
    new = [_ScoredParts.model_validate(s.depends()) for s in plan.steps if isinstance(s, ScoreStep)]
    if scored is None or not new:
        return []
    try:
        old = _ScoredParts.model_validate(scored.depends)
    except pydantic.ValidationError:  # damaged: the scores are made again
        return []
    now = new[0]
    models = {row.model for row in now.rows}
    shifts = {(row.model, row.seed): set(row.shifts) for row in now.rows}
    lost = [f"model {row.model}" for row in old.rows if row.model not in models]
    for row in old.rows:
        if row.model in models and (row.model, row.seed) not in shifts:
            lost.append(f"seed {row.seed} of {row.model}")
        kept = shifts.get((row.model, row.seed), set(row.shifts))
        lost += [f"shift {shift}" for shift in row.shifts if shift not in kept]
    lost += [f"ood {name}" for name in old.others if name not in now.others]
    lost += [name for name in old.natural if name not in now.natural]
    lost += [unseen_slice_label(name) for name in old.sites if name not in now.sites]
    for word, before, after in (
        ("priors", old.priors, now.priors),
        ("costs of", old.costs, now.costs),
    ):
        lost += [f"{word} {name}" for name in before if after.get(name) != before[name]]
    lost += [
        f"operating point {name}={point}"
        for name in old.operating_points
        for point in list_points(old.operating_points, name)
        if point not in list_points(now.operating_points, name)
    ]
    return list(dict.fromkeys(lost))


class _ScoredParts(pydantic.BaseModel):
    """The models, shifts and data that scores cover, read from the settings of their step."""

    rows: tuple[ScoredModel, ...]
    others: tuple[str, ...]
    natural: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    priors: dict[str, tuple[float, ...]]
    operating_points: StoredPoints = {}
    costs: dict[str, tuple[float, ...]] = {}


def check_replaced(plan: Plan, run: RunFolder) -> None:
    """Raise `InputError` if a plan would replace or drop finished work in a run folder."""
    stale = [s for s in standings(plan, run) if s.state == "stale" and not s.step.disposable]
    rescored = _find_rescored(stale)
    stale = [standing for standing in stale if standing.step.id not in rescored]
    differences = [f"{s.step.id} ({words})" for s in stale if (words := describe_difference(s))]
    if stale:
        rest = len(stale) - len(differences)
        derived = f", and {rest} step{'s' * (rest > 1)} made from them" if rest else ""
        raise InputError(
            f"{run.path} contains steps that were made with other settings: "
            f"{join_names(differences)}{derived}; replace them with --replace, or name another "
            "folder with --out"
        )
    if lost := find_dropped(plan, run):
        raise InputError(
            f"the scores in {run.path} contain more than you ask for now: {join_names(lost)}; ask "
            "for this too, drop it with --replace, or name another folder with --out"
        )


def _find_rescored(stale: Sequence[Standing]) -> set[str]:
    """The steps in which only `ood_scores` were added or removed, and those made from these steps.

    Fits and predictions of other units, such as patients, count too: they are made from stored
    predictions, which stay.

    Their predictions stay the same, so that nothing is lost when they are made again. Scores that
    would be lost are found by `find_dropped`.
    """
    rescored: set[str] = set()
    for step, _, record in stale:
        assert record is not None  # a stale step was done before
        before, now = dict(record.depends), step.depends()
        changed = False
        for name in ("ood_scores", "aggregation"):
            changed |= before.pop(name, None) != now.pop(name, None)
        if before == now and (changed or rescored & {*step.needs}):
            rescored.add(step.id)
    return rescored


def begin_run(plan: Plan, run: RunFolder, record: RunRecord, *, replace: bool) -> None:
    """Write the record of a run into its folder before its plan is executed.

    If the record changes, samples, scores and report are removed: if the run is then interrupted,
    its folder has no numbers rather than wrong ones.

    Raises:
        InputError: the folder contains a run of another name; or, unless `replace` is set, finished
            steps that the plan would replace, or scores that it would drop.
    """
    if (run.path / RECORD).is_file():
        if run.record.name != record.name:
            raise InputError(
                f"{run.path} contains the run {run.record.name!r}, not {record.name!r}; name "
                "another folder with --out"
            )
        if not replace:
            check_replaced(plan, run)
        if run.record.lasting() != record.lasting():
            for step in plan.steps:
                if step.disposable:
                    run.forget(step.id)
    known = {step.id for step in plan.steps}
    for damaged in run.damaged_steps():
        if damaged not in known:  # no step would write it again, and reading the run would fail
            run.forget(damaged)
    run.describe(record)


def describe_difference(standing: Standing) -> str:
    """Describe the first difference between the settings of a step and those it was done with.

    Empty if only the files that it reads differ.
    """
    record = standing.record
    assert record is not None
    difference = find_difference(record.depends, standing.step.depends())
    return f"{difference.key}: {difference.first}, now {difference.second}" if difference else ""


class Difference(NamedTuple):
    """The first key, dotted, at which two descriptions differ, and both values, shortened."""

    key: str
    first: str
    second: str


def find_difference(first: Mapping[str, object], second: Mapping[str, object]) -> Difference | None:
    """Find the first difference of two descriptions; None if they are equal.

    >>> find_difference({"recipe": {"epochs": 2}}, {"recipe": {"epochs": 3}})
    Difference(key='recipe.epochs', first='2', second='3')
    """
    firsts, seconds = dict(_flatten(first)), dict(_flatten(second))
    for key in {**firsts, **seconds}:
        if firsts.get(key) != seconds.get(key):
            return Difference(key, _shorten(firsts.get(key)), _shorten(seconds.get(key)))
    return None


def _flatten(facts: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(facts, Mapping):
        for name, value in facts.items():
            yield from _flatten(value, f"{key}.{name}" if key else str(name))
    elif isinstance(facts, list | tuple) and len(facts) == 1:
        yield from _flatten(facts[0], key)
    else:
        yield key, list(facts) if isinstance(facts, tuple) else facts


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."

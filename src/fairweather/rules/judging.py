"""Does a run keep the rules: a verdict for every rule, model and cell."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from fairweather.errors import InputError, unknown_name
from fairweather.metrics import METRICS
from fairweather.record import MEAN, Condition
from fairweather.report.contents import read_contents
from fairweather.rules.numbers import (
    Estimated,
    Rows,
    cell_of,
    change_at,
    conditions_of,
    errors_behind,
    estimate_again,
    known_conditions,
    least_carried,
    left_out_of,
    models_of,
    read_rows,
    score_at,
)
from fairweather.rules.parsing import Rule
from fairweather.runs import RunFolder
from fairweather.types import Score

On = Literal["interval", "value"]


@dataclass(frozen=True)
class Verdict:
    """What became of a rule for one model and one cell.

    Attributes:
        rule: as it was read.
        model, cell: what it was judged for.
        value, low, high, n: of the metric, or of its drop or rise, with the 95 % interval.
        on: which of these was held against the limit: the interval's bad end, or the value.
        left_out: cells of the rule that a variant has not, by variant; it was not judged there.
    """

    rule: Rule
    model: str
    cell: str
    value: float
    low: float
    high: float
    n: int
    on: On
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The rule for this model and cell alone, ready to be copied."""
        return str(replace(self.rule, model=self.model, cell=self.cell))

    @property
    def too_few(self) -> bool:
        """Say whether too few errors carry the number for an interval."""
        return Score(self.value, self.low, self.high, self.n).too_few

    @property
    def judged(self) -> float:
        """The number that was held against the limit: low for >= and >, high for <= and <."""
        if self.on == "value":
            return self.value
        return self.low if self.rule.operator.startswith(">") else self.high

    @property
    def passed(self) -> bool:
        """Say whether the rule is kept; a number that is none keeps no rule."""
        return self.rule.allows(self.judged)

    @property
    def margin(self) -> float:
        """How far the judged number is on the right side of the limit; negative on the wrong."""
        distance = self.judged - self.rule.limit
        return distance if self.rule.operator.startswith(">") else -distance


def judge(run: RunFolder, rules: Sequence[Rule], *, on: On = "interval") -> list[Verdict]:
    """Judge every rule for its models and cells, in the order of the rules.

    Numbers come from scores.csv. Drops and rises are computed from the stored predictions: clean
    and shifted images are resampled jointly, as often as the study says, so that the interval is
    that of the difference. A rule without a model is for every model and every variant; a variant
    is left out where it has no such images and another model has.

    Args:
        run: with scores.csv; for a drop or a rise also with the record and the predictions.
        rules: from `read_rules`.
        on: `interval` judges on the end of the 95 % interval that is worse for the rule, `value`
            on the value.

    Raises:
        InputError: a model, metric, shift or level that the run does not have, a number that is
            not a number, a limit that the metric can never cross, or no rule; scores or
            predictions that are not those that the run wrote; judged on the interval, a number that
            has none since too few errors carry it.
    """
    if on not in get_args(On):
        raise unknown_name("number to judge on", on, get_args(On))
    if not rules:
        raise InputError("there is no rule to check: a check of nothing would pass")
    models = read_rows(run)
    left_out = {rule: left_out_of(rule, models) for rule in rules}
    asked = [each for rule in rules for each in _resolve(rule, models, left_out[rule])]
    changes = _changes(run, asked)
    verdicts = []
    for rule, model, condition in asked:
        try:
            score = _score(rule, model, condition, models[model], changes.get(model, {}))
            if on == "interval" and score.too_few:
                _refuse_few(run, rule, model, condition, models[model])
            verdict = Verdict(rule, model, cell_of(condition), *score, on, left_out[rule])
            if math.isnan(verdict.judged):
                raise InputError(f"{rule.metric} of {model} is not a number for {verdict.cell}")
        except InputError as error:
            raise _in_rule(rule, error) from None
        verdicts.append(verdict)
    return verdicts


def _resolve(
    rule: Rule, models: Mapping[str, Rows], left_out: Collection[str]
) -> list[tuple[Rule, str, Condition]]:
    try:
        asked = [
            (rule, model, condition)
            for model in models_of(rule, models)
            for condition in (known_conditions if model in left_out else conditions_of)(
                rule, models[model]
            )
        ]
        for _, model, condition in asked:
            score_at(rule, model, condition, models[model])
        _check_limit(rule)
    except InputError as error:
        raise _in_rule(rule, error) from None
    return asked


def _check_limit(rule: Rule) -> None:
    """Refuse 5 where 5% was meant: a rule that nothing can break would always pass."""
    bounds = {metric.name: metric.bounds for metric in METRICS}
    low, high = bounds.get(rule.metric, (-math.inf, math.inf))
    if rule.change:
        low, high = low - high, high - low
    if not low <= rule.limit <= high:
        what = f"a {rule.change} of {rule.metric}" if rule.change else rule.metric
        hint = "; a share may be written as 5%" if rule.limit > high else ""
        raise InputError(
            f"{what} lies in [{low:g}, {high:g}], and the limit {rule.number} does not{hint}"
        )


def _changes(run: RunFolder, asked: Sequence[tuple[Rule, str, Condition]]) -> dict[str, Estimated]:
    wanted: dict[str, set[Condition]] = {}
    metrics = {rule.metric for rule, *_ in asked if rule.change}
    for rule, model, condition in asked:
        if rule.change:
            wanted.setdefault(model, set()).add(condition)
    if not wanted:
        return {}
    contents = read_contents(run)
    return {
        model: estimate_again(run, contents, model, conditions, metrics)
        for model, conditions in wanted.items()
    }


def _score(rule: Rule, model: str, condition: Condition, rows: Rows, estimated: Estimated) -> Score:
    if rule.change:
        return change_at(rule, model, condition, estimated)
    return score_at(rule, model, condition, rows)


def _refuse_few(run: RunFolder, rule: Rule, model: str, condition: Condition, rows: Rows) -> None:
    """Refuse a number that too few errors carry, and say how many images would do at their rate."""
    metric = next((each for each in METRICS if each.name == rule.metric), None)
    if metric is None or not metric.fewest:
        return
    what = f"a {rule.change} of {rule.metric}" if rule.change else rule.metric
    begin = f"{what} of {model} for {cell_of(condition)} cannot be judged on its interval"
    end = "or judge the value with --on value"
    several = MEAN in set(run.scores["seed"])
    found = None if several else errors_behind(rule, condition, rows)
    if found is not None:
        few = f"{found.images:.3g} {found.which} of {found.n:,} images"
        images, n = found.images, found.n
    else:
        least = least_carried(rule, condition, _estimated(run, rule, model, condition))
        if least is None:
            raise InputError(
                f"{begin}: it has too few errors, fewer than {metric.fewest}; take more images, "
                f"{end}"
            )
        images, n = least.errors, least.n
        few = f"{images:.3g} for each cell and seed, by their harmonic mean, of {n:,} images"
    # None of n says that about 3 are to be feared among so many, at the most.
    enough = math.ceil(metric.fewest * n / (images or 3.0))
    would_do = f"{'about' if images else 'at least'} {enough:,} such images would do, {end}"
    if metric.carried_by == "emptiest bin":
        raise InputError(
            f"{begin}: a bin has fewer than the {metric.fewest} images that its gap needs, "
            f"{images:.3g} of {n:,}; limit the RMS calibration error, or {would_do}"
        )
    raise InputError(
        f"{begin}: it has too few errors, {few} where {metric.fewest} are needed; {would_do}"
    )


def _estimated(run: RunFolder, rule: Rule, model: str, condition: Condition) -> Estimated:
    """Estimate a number again for what carries it; nothing where predictions are missing."""
    try:
        return estimate_again(run, read_contents(run), model, {condition}, {rule.metric})
    except InputError:
        return {}


def _in_rule(rule: Rule, error: InputError) -> InputError:
    return InputError(f"the rule '{rule}': {error}")

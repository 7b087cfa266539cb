"""Check the rules on a run: one verdict per rule, model and cell."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.class_metrics import of_classes
from fairweather.metrics.rows import find_row
from fairweather.metrics.table import METRICS
from fairweather.record import ABSENT_METRICS, MEAN, Condition
from fairweather.report.contents import read_contents
from fairweather.rules.numbers import (
    Asked,
    Estimated,
    Rows,
    change_at,
    clusters_behind,
    conditions_of,
    errors_behind,
    estimate_again,
    known_conditions,
    least_carried,
    left_out_of,
    models_of,
    rarest_behind,
    read_rows,
    read_slice_rows,
    score_at,
    why_undefined,
    with_exact_ends,
)
from fairweather.rules.parsing import Rule
from fairweather.runs import RunFolder, read_json
from fairweather.types import Score

On = Literal["interval", "value"]


@dataclass(frozen=True)
class Verdict:
    """The result of a rule for one model and one cell.

    Attributes:
        rule: the rule as it was read.
        model, cell: the model and the cell that the rule was checked for.
        value, low, high, n: the metric, or its drop or rise, with the 95 % interval and the number
            of images.
        on: what was compared with the limit: the worse end of the interval, or the value.
        left_out: by variant, the cells of the rule that the variant does not have; the rule was not
            checked there.
        clusters: where images belong together, how many clusters the images of the rule come in,
            by the name of the slice, or of the test set.
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
    clusters: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The rule for this model and cell only, as text that can be copied."""
        return str(replace(self.rule, model=self.model, cell=self.cell))

    @property
    def too_few(self) -> bool:
        """Tell whether there are too few errors for an interval."""
        return Score(self.value, self.low, self.high, self.n).too_few

    @property
    def judged(self) -> float:
        """The number that was compared with the limit: low for >= and >, high for <= and <."""
        if self.on == "value":
            return self.value
        return self.low if self.rule.operator.startswith(">") else self.high

    @property
    def passed(self) -> bool:
        """Tell whether the rule is satisfied; NaN satisfies no rule."""
        return self.rule.allows(self.judged)

    @property
    def margin(self) -> float:
        """Distance of the judged number to the limit; negative on the wrong side."""
        distance = self.judged - self.rule.limit
        return distance if self.rule.operator.startswith(">") else -distance


def judge(run: RunFolder, rules: Sequence[Rule], *, on: On = "interval") -> list[Verdict]:
    """Check every rule for its models and cells, in the order of the rules.

    Values come from scores.csv. Drops and rises are computed from the stored predictions: clean and
    shifted images are resampled jointly, with as many resamples as in the study, so the interval is
    that of the difference. The ends of a share, such as an accuracy, are at least as far out as
    those of Clopper and Pearson. A rule without a model applies to every model and every variant.
    If a variant does not have a cell that another model has, the variant is left out there.

    Args:
        run: a run with scores.csv; for a drop or a rise also with its record and predictions.
        rules: from `read_rules`.
        on: `interval` compares the end of the 95 % interval that is worse for the rule with the
            limit; `value` compares the value.

    Raises:
        InputError: the run does not have the model, metric, shift or level; the value is NaN; the
            limit is outside the metric's bounds; there is no rule; scores or predictions were
            changed after the run wrote them; or there are too few errors for an interval and `on`
            is `interval`.
    """
    if on not in get_args(On):
        raise unknown_name("value of on", on, get_args(On))
    if not rules:
        raise InputError("a check needs at least one rule, found none")
    tables = {"": read_rows(run)}
    for rule in rules:
        with _naming(rule):
            if rule.slice not in tables:
                tables[rule.slice] = read_slice_rows(run, rule.slice)
    clusters = {rule: clusters_behind(run, rule) for rule in rules}
    left_out = {rule: left_out_of(rule, tables[rule.slice]) for rule in rules}
    absent = read_json(run.file(ABSENT_METRICS)) if run.holds(ABSENT_METRICS) else {}
    asked: list[Asked] = []
    for rule in rules:
        with _naming(rule):
            asked += _resolve(run, rule, tables[rule.slice], left_out[rule], absent)
    changes = _changes(run, asked)
    verdicts = []
    for each in asked:
        with _naming(each.rule):
            score = _score(each, changes)
            if on == "interval" and score.too_few:
                _refuse_one_cluster(each, clusters[each.rule])
                _refuse_few(each)
            rest = (on, left_out[each.rule], clusters[each.rule])
            verdict = Verdict(each.rule, each.model, each.cell, *score, *rest)
            if math.isnan(verdict.judged):
                raise InputError(f"{each} is not a number{why_undefined(each.rule, score)}")
        verdicts.append(verdict)
    return verdicts


@contextmanager
def _naming(rule: Rule) -> Iterator[None]:
    """Name the rule in what is raised about it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"the rule '{rule}': {error}") from None


def _resolve(
    run: RunFolder,
    rule: Rule,
    models: Mapping[str, Rows],
    left_out: Collection[str],
    absent: Mapping[str, object],
) -> list[Asked]:
    """Find the models and conditions of a rule, and make sure that each has the number."""
    asked = [
        Asked(run, rule, model, condition, models[model])
        for model in models_of(rule, models)
        for condition in (known_conditions if model in left_out else conditions_of)(
            rule, models[model]
        )
    ]
    for each in asked:
        if rule.scored in absent and not each.has(rule.scored):
            raise InputError(f"{each.model} has no {rule.scored}: {absent[rule.scored]}")
        score_at(each)
    _check_limit(rule)
    return asked


def _check_limit(rule: Rule) -> None:
    """Refuse a limit outside the metric's bounds, such as 5 for 5%: no value could cross it."""
    row = find_row(rule.scored)
    low, high = row.bounds if row else (-math.inf, math.inf)
    if rule.change:
        low, high = low - high, high - low
    if not low <= rule.limit <= high:
        hint = "; a share may be written as 5%" if rule.limit > high else ""
        raise InputError(
            f"{rule.what} is always in [{low:g}, {high:g}], but the limit is {rule.number}{hint}"
        )


def _changes(run: RunFolder, asked: Sequence[Asked]) -> dict[tuple[str, str], Estimated]:
    """The estimates for drops and rises, by slice and model."""
    wanted: dict[tuple[str, str], set[Condition]] = {}
    changing = [each for each in asked if each.rule.change]
    for each in changing:
        wanted.setdefault((each.rule.slice, each.model), set()).add(each.condition)
    if not wanted:
        return {}
    metrics, contents = {each.rule.scored for each in changing}, read_contents(run)
    return {
        (of, model): estimate_again(run, contents, model, conditions, metrics, of)
        for (of, model), conditions in wanted.items()
    }


def _score(asked: Asked, changes: Mapping[tuple[str, str], Estimated]) -> Score:
    rule = asked.rule
    if rule.change:
        return change_at(asked, changes[rule.slice, asked.model])
    score, metric = score_at(asked), METRICS.get(rule.scored)
    is_share = metric is not None and metric.interval == "share"
    return with_exact_ends(score, asked.condition) if is_share else score


def _refuse_few(asked: Asked) -> None:
    """Refuse a value with too few errors, and estimate how many images would be enough."""
    rule = asked.rule
    if kind := of_classes(rule.scored):
        n = asked.rows[asked.condition][rule.scored].n
        raise InputError(
            f"{asked} cannot be judged on its interval: it needs at least {kind.fewest} images of "
            "the class and of the others (images of one cluster count for less), found "
            f"{n:,} of the class; take more images, or judge the value with --on value"
        )
    metric = METRICS.get(rule.scored)
    if metric is None or not metric.fewest:
        return
    begin = f"{rule.what} of {asked.model} for {asked.cell} cannot be judged on its interval"
    end = "or judge the value with --on value"
    rarest = None if metric.column is None else rarest_behind(asked)
    if rarest is not None and rarest[1].pairs < rarest[1].fewest:
        name, (_, pairs, fewest) = rarest
        raise InputError(
            f"{begin}: a mean over classes needs at least {fewest} images of each class (of one "
            f"cluster, one counts), found {pairs} of {name}; take more images, {end}"
        )
    several = MEAN in set(asked.run.scores["seed"])
    found = None if several else errors_behind(asked)
    if found is not None:
        few = f"{found.images:.3g} {found.which} of {found.n:,} images"
        images, n = found.images, found.n
    else:
        least = least_carried(asked)
        if least is None:
            raise InputError(
                f"{begin}: it has too few errors, fewer than {metric.fewest}; take more images, "
                f"{end}"
            )
        images, n = least.errors, least.n
        few = f"{images:.3g} errors per cell and seed (harmonic mean) of {n:,} images"
    # If 0 of n images are wrong, up to about 3 of n may be expected (the rule of three).
    enough = math.ceil(metric.fewest * n / (images or 3.0))
    needed = (
        f"about {enough:,} such images are enough"
        if images
        else f"at least {enough:,} such images are needed"
    )
    if metric.carried_by == "emptiest bin":
        raise InputError(
            f"{begin}: every bin needs at least {metric.fewest} images, found {images:.3g} of "
            f"{n:,} in one; use the RMS calibration error, or {needed}, {end}"
        )
    raise InputError(
        f"{begin}: there are too few errors, {few}, and at least {metric.fewest} are needed; "
        f"{needed}, {end}"
    )


def _refuse_one_cluster(asked: Asked, clusters: Mapping[str, int]) -> None:
    """Refuse a value of images that all belong together, which has no interval."""
    alone = next((name for name, count in clusters.items() if count < 2), None)
    if alone is not None:
        raise InputError(
            f"{asked} cannot be judged on its interval: all images of {alone} belong to one "
            "cluster, and nothing is known of others; take images of others, or judge the value "
            "with --on value"
        )

"""Non-inferiority and equivalence: is a model at most a margin worse than another?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from fairweather.errors import InputError, join_names, unknown_name
from fairweather.judge.compared_runs import (
    ModelPair,
    ResampledImages,
    RunPair,
    SharedShifts,
    check_same_data,
    find_shared_images,
    find_shared_shifts,
    mean_weights,
    open_compared_run,
    pair_clean_after,
    resample_images,
)
from fairweather.judge.differences import (
    ROUNDING,
    SIGNIFICANCE,
    ComparisonRow,
    PairEstimates,
    compare_cell,
    estimate_pair,
)
from fairweather.judge.rule_values import format_cell, select_conditions
from fairweather.judge.rules import CLASS, MEANS, UNSEEN_SLICE, WORST_SLICE, Rule, read_margin
from fairweather.metrics.metric import (
    CLASS_METRICS,
    MetricRow,
    find_class_metric,
    find_class_metric_row,
)
from fairweather.metrics.rows import find_row
from fairweather.metrics.table import METRICS
from fairweather.report.tables import TOO_FEW
from fairweather.runs.folder import RunFolder
from fairweather.types.kinds import CLASSES, FINDING
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import ALL, CLEAN_AFTER, MEAN, NATURAL, NO_LEVEL, WORST, ShiftLevel

NON_INFERIOR, EQUIVALENT, INFERIOR = "non-inferior", "equivalent", "inferior"
NOT_CONCLUSIVE = "not conclusive"
LEAST_POINTS = 1.0  # of a margin in per cent without its sign: 0.02 could mean two points


@dataclass(frozen=True)
class MarginRow:
    """A margin, and the difference that is held against it."""

    rule: Rule
    """The margin for this cell, as a rule about the reference."""

    row: ComparisonRow
    """The comparison in one cell."""

    @property
    def loss(self) -> Score:
        """How much worse A is than B, with its 95 % interval; negative where A is better."""
        value, low, high, n = self.row.difference
        if _find_directed_row(self.rule).higher_is_better:
            return Score(value, low, high, n)
        return Score(-value, -high, -low, n)

    @property
    def verdict(self) -> str:
        """What the interval says about the margin."""
        return judge_loss(self.loss, self.rule.limit)

    @property
    def direction(self) -> str:
        """Which side is shown to be better, whatever the margin; "" if neither is.

        The interval excludes 0, and so does the test where there is one.
        """
        if self.loss.too_few or (self.row.is_tested and not self.row.p_alone < SIGNIFICANCE):
            return ""
        if self.loss.high < -ROUNDING:
            return "A is better"
        return "A is worse" if self.loss.low > ROUNDING else ""

    @property
    def target(self) -> str:
        """The metric and the cell, as a rule writes them."""
        return replace(self.rule, model=None).target

    @property
    def words(self) -> str:
        """The verdict, and which side is better where the verdict does not say so."""
        direction = "" if self.verdict == INFERIOR else self.direction
        return "; ".join(filter(None, (self.verdict, direction)))


def judge_loss(loss: Score, margin: float) -> str:
    """Say whether a loss is shown to be below a margin, within it, or beyond it.

    >>> judge_loss(Score(0.002, -0.01, 0.015, 500), 0.02)
    'equivalent'
    >>> judge_loss(Score(-0.02, -0.05, 0.01, 500), 0.02)
    'non-inferior'
    >>> judge_loss(Score(0.04, 0.03, 0.05, 500), 0.02), judge_loss(Score(0, -1, 1, 9), 0.02)
    ('inferior', 'not conclusive')
    """
    if loss.too_few:
        return TOO_FEW
    if loss.high < margin:
        return EQUIVALENT if loss.low > -margin else NON_INFERIOR
    return INFERIOR if loss.low > margin else NOT_CONCLUSIVE


def is_share(metric: str) -> bool:
    """Tell whether a metric is read in per cent, those of one class included.

    >>> [is_share(name) for name in ("accuracy", "sensitivity/mole@0.3", "auc/mole")]
    [True, True, False]
    """
    row = find_row(metric)
    return row is not None and (row.unit == "%" or row.interval == "conditional")


# ---------------------------------------------------------------- what is asked


def read_margins(texts: str | Sequence[str], reference: str) -> list[Rule]:
    """Read margins METRIC[CELL|OF]=NUMBER, as `compare` takes them, as rules about a reference.

    What is read in per cent has a margin in percentage points: `2` and `2%` are both two points.

    Raises `InputError` for a text that is not a margin, and for a number that could mean two
    things.

    >>> for rule in read_margins(["accuracy=2", "auc[fog|class=mole]=0.01"], "runs/old"):
    ...     print(rule)
    accuracy[clean] not worse than runs/old by 2%
    auc[fog|class=mole] not worse than runs/old by 0.01
    """
    every = [texts] if isinstance(texts, str) else texts
    return list(dict.fromkeys(_read_margin(text, reference) for text in every))


def _read_margin(text: str, reference: str) -> Rule:
    rule = read_margin(text, reference)
    if is_share(rule.scored) and not rule.number.endswith("%"):
        points = rule.limit
        if 0 < points < LEAST_POINTS:
            raise InputError(
                f"the margin {text!r} could mean two things: write {100 * points:g}% for "
                f"{100 * points:g} percentage points, or {points:g}% for {points:g}"
            )
        rule = replace(rule, number=f"{rule.number}%")
    try:
        _find_directed_row(rule)
    except InputError as error:
        raise InputError(f"the margin {text!r}: {error}") from None
    return rule


def _find_directed_row(rule: Rule) -> MetricRow:
    """The metric of a margin; raises `InputError` unless a loss of it has a meaning and a size."""
    row = find_row(rule.scored)
    if row is None:
        raise unknown_name("metric", rule.scored, [*METRICS, *CLASS_METRICS])
    if row.higher_is_better is None:
        raise InputError(f"{rule.scored} has no better direction, so nothing is worse by a margin")
    low, high = row.bounds
    if rule.number.endswith("%") and not np.isfinite(high):
        raise InputError(
            f"a margin of {rule.scored} is in its unit and not in per cent, as in 0.05"
        )
    if not 0 < rule.limit < high - low:
        hint = "; a share may be written as 1%" if rule.limit > 0 else ""
        raise InputError(
            f"a margin of {rule.scored} is above 0 and below {high - low:g}, found {rule.number}"
            f"{hint}"
        )
    return row


# ---------------------------------------------------------------- the comparison


def compare_margins(
    runs: RunPair, pairs: Sequence[ModelPair], rules: Sequence[Rule]
) -> list[MarginRow]:
    """Compare pairs of models on every margin, in each of its cells.

    The differences are those of `compare_models`, with the same intervals and tests.

    Raises `InputError` for a cell, slice, finding, class or metric that the runs do not share.
    """
    rows = [row for rule in rules for row in _compare_rule(runs, _select(pairs, rule), rule)]
    return list({(row.rule, row.row.pair): row for row in rows}.values())


def compare_with_reference(run: RunFolder, rule: Rule) -> list[MarginRow]:
    """Compare the models of a run with those of the run that a rule names.

    Models are paired by name, or all with the one that the rule names; if each side has only one,
    these two.

    Raises `InputError` as `compare_margins` does, and for runs or models that cannot be compared.
    """
    own = f"{run.path}:{rule.model}" if rule.model else run.path
    runs = RunPair(open_compared_run(own), open_compared_run(rule.reference))
    check_same_data(runs)
    pairs = _pair_with_reference(runs, rule.reference)
    return list(_compare_rule(runs, pairs, rule))


def _select(pairs: Sequence[ModelPair], rule: Rule) -> list[ModelPair]:
    names = dict.fromkeys(pair.a for pair in pairs)
    if rule.model is not None and rule.model not in names:
        raise unknown_name("model", rule.model, names)
    return [pair for pair in pairs if rule.model in (None, pair.a)]


def _pair_with_reference(runs: RunPair, reference: str) -> list[ModelPair]:
    ours, theirs = runs.a.models, runs.b.models
    if theirs != runs.b.every_model or len(ours) == len(theirs) == 1:
        pairs = [ModelPair(model, next(iter(theirs))) for model in ours]
    elif missing := [model for model in ours if model not in theirs]:
        raise InputError(
            f"{reference} has no {join_names(missing)} to compare with: name a model of each, as "
            f"in {missing[0]}: ... {reference}:{next(iter(theirs))}"
        )
    else:
        pairs = [ModelPair(model, model) for model in ours]
    others = [pair for pair in pairs if not (runs.is_one_run and pair.a == pair.b)]
    if not others:
        raise InputError(f"{reference} is compared with itself: name another run or model")
    return others


def _compare_rule(runs: RunPair, pairs: Sequence[ModelPair], rule: Rule) -> Iterator[MarginRow]:
    metric = rule.scored
    row = _find_directed_row(rule)
    if not runs.have_same_costs and row.accepts.costs:
        raise InputError(f"{metric} cannot be compared: the runs have different costs of errors")
    conditions = _select_conditions(runs, pairs, rule)
    whole = _shared_part(runs, conditions)
    images = _select_images(runs, rule, whole.images)
    weights = mean_weights(whole)
    for pair in pairs:
        estimates = estimate_pair(runs, pair, whole, images, [metric])
        _check_known(runs, estimates, images, rule)
        for condition in conditions:
            cells = weights.get(condition, {condition: 1.0})
            compared = compare_cell(estimates, condition, cells, metric, images)
            cell = format_cell(condition)
            yield MarginRow(replace(rule, model=pair.a, cell=cell), compared)


def _select_conditions(runs: RunPair, pairs: Sequence[ModelPair], rule: Rule) -> list[ShiftLevel]:
    """Cells of a rule that both runs have; clean images after shifts, if all pairs have them."""
    same, other = find_shared_images(runs)
    if rule.cell in other:
        raise InputError(f"{rule.cell} has other images, or of another size, in the two runs")
    if rule.cell.endswith(f"@{WORST}"):
        raise InputError(
            f"the worst level may be another one in each run, so {rule.cell} is not compared: "
            "name a level, as SHIFT=LEVEL"
        )
    of_pairs = [pair_clean_after(runs, pair) for pair in pairs]
    after = [name for name in of_pairs[0] if all(known.get(name) for known in of_pairs)]
    shared = find_shared_shifts(runs)._replace(after=tuple(after))
    natural = [ShiftLevel(name, NO_LEVEL) for name in same]
    known: list[ShiftLevel] = [*shared.conditions, *shared.means, *natural]
    if any(sweep.kind == "shift" for sweep in shared.sweeps):
        known.append(ShiftLevel(ALL, MEAN))  # a rule may say so of a single shift too
    return select_conditions(rule, {condition: {} for condition in known})


def _shared_part(runs: RunPair, conditions: Sequence[ShiftLevel]) -> SharedShifts:
    """The shifts that some cells are of, so that no other predictions are read."""
    names = {condition.shift for condition in conditions}
    natural = next((name for name in names if name.startswith(NATURAL)), None)
    if natural is not None:
        return SharedShifts(images=natural)
    after = tuple(sorted(name for name in names if name.startswith(CLEAN_AFTER)))
    sweeps = find_shared_shifts(runs).sweeps
    if ALL not in names:
        sweeps = tuple(sweep for sweep in sweeps if sweep.name in names)
    return SharedShifts(sweeps, after=after)


def _select_images(runs: RunPair, rule: Rule, images: str) -> ResampledImages:
    """The images of a rule: all, those of a slice, or those where a finding is known."""
    whole, *findings = resample_images(runs, images)
    names = [finding.unit.name for finding in findings]
    unit, slice_ = _split_slice(rule.slice, names)
    if slice_.startswith((WORST_SLICE, UNSEEN_SLICE, *MEANS)):
        raise InputError(
            f"{slice_} may be of other images in each run, or is a mean: a difference between runs "
            "is of one subgroup or finding, so name one"
        )
    if findings and not unit and slice_.startswith(f"{findings[0].unit.column}="):
        raise unknown_name(findings[0].unit.column, slice_, names)
    if not unit:
        unit = names[0] if len(findings) == 1 else whole.unit.name
    if slice_ and images.startswith(NATURAL):
        raise InputError(f"slices are subgroups of the test images, and {images} has other images")
    units = resample_images(runs, images, slice_) if slice_ else [whole, *findings]
    of_unit = [one for one in units if one.unit.name == unit]
    if not of_unit:
        raise InputError(f"{unit} is unknown for every image of {slice_}")
    return of_unit[0]


def _split_slice(text: str, units: Sequence[str]) -> tuple[str, str]:
    """Split what is behind the bar, beside a class, into a unit and a slice of the images.

    >>> _split_slice("finding=Mass|site=B", ["finding=Mass"]), _split_slice("site=B", [])
    (('finding=Mass', 'site=B'), ('', 'site=B'))
    """
    # Names of findings and values of slices may contain a bar too.
    cuts = [len(text), *(at for at, sign in enumerate(text) if sign == "|")]
    pairs = ((text[:at].strip(), text[at + 1 :].strip()) for at in cuts)
    return next(((unit, rest) for unit, rest in pairs if unit in units), ("", text))


def _check_known(
    runs: RunPair, estimates: PairEstimates, images: ResampledImages, rule: Rule
) -> None:
    """Raise `InputError` unless both models have the metric of a rule."""
    clean, metric = ShiftLevel(images.part, NO_LEVEL), rule.scored
    for run, side in zip(runs, (estimates.first, estimates.second), strict=True):
        if side.has(clean, metric):
            continue
        if images.kind == CLASSES and rule.metric in CLASS_METRICS and metric == rule.metric:
            raise InputError(
                f"{rule.metric} is of a single class: name it, as in "
                f"{rule.metric}[{rule.cell}|{CLASS}NAME]"
            )
        of_class = find_class_metric(metric, images.classes)
        named = metric.partition("/")[2]
        if named and of_class is None and find_class_metric_row(metric):
            raise unknown_name("class", named, images.classes)
        known, reason = METRICS.get(metric) or of_class, None
        if known and images.kind == FINDING and images.kind not in known.accepts.kinds:
            of_findings = [name for name, row in METRICS.items() if FINDING in row.accepts.kinds]
            raise unknown_name("metric", metric, of_findings)
        if known and images.kind not in known.accepts.kinds:
            raise InputError(
                f"{metric} is of a single finding: name it, as in "
                f"{rule.metric}[{rule.cell}|finding=NAME]"
            )
        if known:
            predictions = images.unit.select(run.read(side.model, side.seeds[0], images.part))
            reason = known.accepts.explain_absence(cast("Predictions", predictions))
        reason = reason or "it cannot be computed from the predictions of one cell"
        raise InputError(f"{side.model} of {run.name} has no {metric}: {reason}")

"""Check rules on a run, and write the verdicts as a table or as JUnit XML."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET  # nosec B405 # written, never read
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Literal, NamedTuple, get_args

from fairweather.errors import InputError, join_names, unknown_name
from fairweather.judge.margins import compare_with_reference, is_share
from fairweather.judge.rule_values import (
    CellEstimates,
    ModelScores,
    RuleCase,
    check_predictions,
    compute_bounded,
    compute_change,
    count_enough_images,
    count_groups,
    explain_undefined,
    find_few_errors,
    find_left_out,
    find_part,
    find_score,
    find_slice_of_few,
    has_few_errors,
    read_absences,
    read_model_scores,
    read_rarest_class,
    read_slice_scores,
    reestimate,
    select_conditions,
    select_known_conditions,
    select_models,
    widen_to_exact,
)
from fairweather.judge.rules import WITHIN, Rule, read_rules
from fairweather.metrics.metric import find_class_metric_row
from fairweather.metrics.rows import find_row
from fairweather.metrics.table import METRICS
from fairweather.report.contents import read_contents
from fairweather.report.tables import TOO_FEW, TableLayout, align_table
from fairweather.runs.folder import RunFolder
from fairweather.types.kinds import FINDING
from fairweather.types.measurement import Score
from fairweather.types.record import ShiftLevel

# ---------------------------------------------------------------- checking the rules

Basis = Literal["interval", "value"]


@dataclass(frozen=True)
class Verdict:
    """The result of a rule for one model and one cell."""

    rule: Rule
    """The rule as it was read."""

    model: str
    cell: str
    """`model`, `cell`: the model and the cell that the rule was checked for."""

    value: float
    low: float
    high: float
    n: int
    """`value`, `low`, `high`, `n`: the metric, or its drop, rise or loss, with the 95 % interval
    and the number of images. A loss is how much worse the run is than the other run of the rule."""

    basis: Basis
    """What was compared with the limit: the worse end of the interval, or the value."""

    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By variant, the cells of the rule that the variant does not have; the rule was not checked
    there."""

    groups: Mapping[str, int] = field(default_factory=dict)
    """Where images belong together, how many groups the images of the rule come in, by the name of
    the slice, or of the test set."""

    bounded: bool = False
    """Whether the interval is one for any number of errors, which is not that of scores.csv."""

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
        """The number that was compared with the limit: low for >= and >, high for <= and <.

        It is high for `not worse than`, and the end farther from 0 for `within`.
        """
        if self.basis == "value":
            return self.value
        if self.rule.operator == WITHIN:
            return max(self.low, self.high, key=abs)
        return self.low if self.rule.operator.startswith(">") else self.high

    @property
    def passed(self) -> bool:
        """Tell whether the rule is satisfied; NaN satisfies no rule."""
        return self.rule.allows(self.judged)

    @property
    def most_favourable(self) -> float:
        """The number of the interval that is best for the rule: its other end, or nearest to 0."""
        if self.rule.operator == WITHIN:
            return min(max(self.low, 0.0), self.high)
        return self.high if self.rule.operator.startswith(">") else self.low

    @property
    def is_broken(self) -> bool:
        """Tell whether the whole interval fails the rule, so that the rule is shown to be broken.

        A rule that failed and is not broken is only not shown to be kept.
        """
        return not (self.too_few or self.rule.allows(self.most_favourable))

    @property
    def margin(self) -> float:
        """Distance of the judged number to the limit; negative on the wrong side."""
        judged = abs(self.judged) if self.rule.operator == WITHIN else self.judged
        distance = judged - self.rule.limit
        return distance if self.rule.operator.startswith(">") else -distance


@dataclass(frozen=True)
class UnjudgedRule:
    """A rule that cannot be judged."""

    rule: Rule
    problem: str
    """Why not, in one sentence that names the rule."""


class Judgement(NamedTuple):
    """What came of some rules."""

    verdicts: list[Verdict]
    unjudged: list[UnjudgedRule]

    @property
    def status(self) -> int:
        """The exit status: 2 if a rule cannot be judged, 1 if one failed, 0 otherwise."""
        return 2 if self.unjudged else int(not all(verdict.passed for verdict in self.verdicts))


def judge(run: RunFolder, rules: Sequence[Rule], *, on: Basis = "interval") -> list[Verdict]:
    """Check every rule for its models and cells, in the order of the rules.

    Values come from scores.csv. Drops and rises are computed from the stored predictions. Clean and
    shifted images are resampled jointly, as often as in the study, so the interval is that of the
    difference. A rule about another run has the interval of `compare_runs`. The ends of a share,
    such as an accuracy, are at least as far out as those of Clopper and Pearson. With few errors
    (`fewest_of_rules`), a mean of bounded losses or an AUC is judged on an interval for any number
    of errors (`to_bounded_score`). A rule without a model applies to every model and every variant.
    If a variant does not have a cell that another model has, the variant is left out there.

    Args:
        run: a run with scores.csv; for a drop or a rise also with its record and predictions.
        rules: from `read_rules`.
        on: `interval` compares the end of the 95 % interval that is worse for the rule with the
            limit; `value` compares the value.

    Raises:
        InputError: the run does not have the model, metric, shift or level; the value is NaN; the
            limit is outside the metric's bounds; there is no rule; scores or predictions were
            changed after the run wrote them; or there are too few errors for any interval and `on`
            is `interval`.
    """
    verdicts, unjudged = judge_rules(run, rules, on=on)
    if unjudged:
        raise InputError(unjudged[0].problem)
    return verdicts


def judge_rules(run: RunFolder, rules: Sequence[Rule], *, on: Basis = "interval") -> Judgement:
    """Check rules as `judge` does; a rule that cannot be judged does not hide the others.

    Raises `InputError` for a run that has no scores, and without a rule.
    """
    if on not in get_args(Basis):
        raise unknown_name("value of on", on, get_args(Basis))
    if not rules:
        raise InputError("a check needs at least one rule, found none")
    tables = {"": read_model_scores(run)}
    absent = read_absences(run)
    check = cache(partial(check_predictions, run))
    cases: dict[Rule, list[RuleCase]] = {}
    verdicts: dict[Rule, list[Verdict]] = {}
    unjudged: list[UnjudgedRule] = []
    for rule in rules:
        with _noting_errors(rule, unjudged):
            if rule.reference:
                verdicts[rule] = _judge_against_reference(run, rule, on)
                continue
            if rule.slice not in tables:
                tables[rule.slice] = read_slice_scores(run, rule.slice)
            resolved = _resolve_rule(run, rule, tables[rule.slice], absent)
            for model in dict.fromkeys(case.model for case in resolved):
                check(model)
            cases[rule] = resolved
    stored = _StoredEstimates(run, [case for own in cases.values() for case in own])
    for rule, own in cases.items():
        with _noting_errors(rule, unjudged):
            verdicts[rule] = [_judge_case(case, stored, on) for case in own]
    return Judgement([one for rule in rules for one in verdicts.get(rule, [])], unjudged)


def _judge_against_reference(run: RunFolder, rule: Rule, on: Basis) -> list[Verdict]:
    """Judge a rule about another run, on the difference that `fairweather compare` shows."""
    verdicts = []
    for compared in compare_with_reference(run, rule):
        model, cell, loss = compared.row.pair.a, compared.rule.cell, compared.loss
        what = f"the loss of {rule.scored} of {model} for {cell} against {rule.reference}"
        if math.isnan(loss.value):
            raise InputError(f"{what} is not a number")
        if loss.too_few and on == "interval":
            raise InputError(
                f"{what} cannot be judged on its interval: one of the two has too few errors, or "
                "all images belong to one group; take more images, or judge the value with --on "
                "value"
            )
        groups = count_groups(run, rule)
        verdicts.append(Verdict(rule, model, cell, *loss, on, groups=groups))
    return verdicts


def _judge_case(case: RuleCase, stored: _StoredEstimates, on: Basis) -> Verdict:
    score, bounded = _score_case(case, stored), False
    if on == "interval" and score.too_few:
        _refuse_one_group(case)
    if on == "interval" and has_few_errors(case):
        bound = _bound_score(case, stored)
        if bound is not None:
            score, bounded = bound, True
    if on == "interval" and score.too_few:
        _refuse_few(find_slice_of_few(case))
    judged = (case.rule, case.model, case.cell, *score)
    verdict = Verdict(*judged, on, case.left_out, case.groups, bounded)
    if math.isnan(verdict.judged):
        raise InputError(f"{case} is not a number{explain_undefined(case.rule, score)}")
    return verdict


@contextmanager
def _noting_errors(rule: Rule, unjudged: list[UnjudgedRule]) -> Iterator[None]:
    """Note an error about a rule, with its name."""
    try:
        yield
    except InputError as error:
        unjudged.append(UnjudgedRule(rule, f"the rule '{rule}': {error}"))


def _resolve_rule(
    run: RunFolder, rule: Rule, models: Mapping[str, ModelScores], absent: Mapping[str, object]
) -> list[RuleCase]:
    """Find the models and conditions of a rule, and make sure that each has the number."""
    left_out, groups = find_left_out(rule, models), count_groups(run, rule)
    cases = [
        RuleCase(run, rule, model, condition, models[model], left_out, groups)
        for model in select_models(rule, models)
        for condition in (select_known_conditions if model in left_out else select_conditions)(
            rule, models[model]
        )
    ]
    for case in cases:
        reason = absent.get(rule.scored)
        if not any(
            name.startswith(f"{rule.metric}/") for row in case.rows.values() for name in row
        ):
            reason = reason or absent.get(f"macro_{rule.metric}")  # the same for each class
        if reason and not case.has(rule.scored):
            raise InputError(f"{case.model} has no {rule.scored}: {reason}")
        find_score(case)
    _check_limit(rule)
    return cases


def _check_limit(rule: Rule) -> None:
    """Refuse a limit outside the metric's bounds, such as 5 for 5%: no value could cross it."""
    row = find_row(rule.scored)
    low, high = row.bounds if row else (-math.inf, math.inf)
    if rule.change:
        low, high = low - high, high - low
    if not low <= rule.limit <= high:
        hint = "; a share may be written as 5%" if rule.limit > high else ""
        raise InputError(
            f"{rule.measured} is always in [{low:g}, {high:g}], but the limit is {rule.number}"
            f"{hint}"
        )


def find_example(run: RunFolder) -> str | None:
    """Find a rule about clean images that can be judged; None if none of a few can."""
    task = run.task
    for text in (task.rule, f"{task.decision_metric}[clean] >= 80%"):
        try:
            judgement = judge_rules(run, read_rules([text]))
        except InputError:  # there are no scores
            return None
        if not judgement.unjudged:
            return text
    return None


class _StoredEstimates:
    """Estimates from stored predictions, of the conditions that all rules need together.

    Drops and rises need them, and numbers of too few errors for the interval in scores.csv.
    """

    def __init__(self, run: RunFolder, cases: Sequence[RuleCase]) -> None:
        self._run = run
        self._wanted: dict[tuple[str, str], set[ShiftLevel]] = {}
        needing = [case for case in cases if case.rule.change or has_few_errors(case)]
        for case in needing:
            key = case.rule.slice, case.model
            self._wanted.setdefault(key, set()).add(case.condition)
        self._metrics = {case.rule.scored for case in needing}
        self._estimates: dict[tuple[str, str], CellEstimates] = {}

    def of(self, case: RuleCase) -> CellEstimates:
        """The estimates of the model and slice of a case; raises as `reestimate` does."""
        key = slice_, model = case.rule.slice, case.model
        if key not in self._estimates:
            contents, conditions = read_contents(self._run), self._wanted[key]
            self._estimates[key] = reestimate(
                self._run, contents, model, conditions, self._metrics, slice_
            )
        return self._estimates[key]


def _score_case(case: RuleCase, stored: _StoredEstimates) -> Score:
    rule = case.rule
    if rule.change:
        return compute_change(case, stored.of(case))
    score, metric = find_score(case), METRICS.get(rule.scored)
    has_share = metric is not None and metric.interval == "share" and not rule.is_unseen
    return widen_to_exact(score, case.condition) if has_share else score


def _bound_score(case: RuleCase, stored: _StoredEstimates) -> Score | None:
    """The same number with an interval for any number of errors; None if there is no such."""
    try:
        estimates = stored.of(case)
    except InputError:  # there are no predictions
        return None
    return compute_bounded(case, estimates)


def _refuse_few(case: RuleCase) -> None:
    """Refuse a value with too few errors, and say how many images are enough, or what to use."""
    rule, row = case.rule, find_row(case.rule.scored)
    instead = f"use {row.instead}, " if row and row.instead else ""
    if kind := find_class_metric_row(rule.scored):
        n = case.rows[case.condition][rule.scored].n
        raise InputError(
            f"{case} cannot be judged on its interval: it needs at least {kind.fewest} images of "
            "the class and of the others (images of one group count for less), found "
            f"{n:,} of the class; {instead}take more images, or judge the value with --on value"
        )
    metric = METRICS.get(rule.scored)
    if metric is None or not metric.fewest:
        return
    where = ", ".join(filter(None, (case.cell, find_part(case.run, rule.slice).slice)))
    begin = f"{rule.measured} of {case.model} for {where} cannot be judged on its interval"
    end = "or judge the value with --on value"
    rarest = read_rarest_class(case) if metric.interval == "area" else None
    if rarest is not None and rarest[1].pairs < rarest[1].fewest:
        name, (_, pairs, fewest) = rarest
        needed = f"a mean over classes needs at least {fewest} images of each class"
        if metric.accepts.kind == FINDING:
            needed = f"it needs at least {fewest} images with the finding, and without it"
        groups = case.run.groups()
        noun = (groups and groups.group) or "group"
        raise InputError(
            f"{begin}: {needed} (of one {noun}, one counts), found {pairs} of {name}; "
            f"{instead}take more images, {end}"
        )
    few = find_few_errors(case)
    if few is None:
        raise InputError(
            f"{begin}: it has too few errors, fewer than {metric.fewest}; {instead}take more "
            f"images, {end}"
        )
    if metric.carried_by == "emptiest bin":
        raise InputError(
            f"{begin}: every bin needs at least {metric.fewest} images, found {few.errors:.3g} of "
            f"{few.n:,} in one; {instead}{end}"
        )
    if few.errors:
        enough = count_enough_images(few.errors, few.n, metric.fewest)
        needed = f"{enough:,} are enough in 9 of 10 samples"
    else:  # Up to about 3 of n images may be wrong (the rule of three).
        enough = math.ceil(metric.fewest * few.n / 3)
        needed = f"at least {enough:,} are needed"
    raise InputError(
        f"{begin}: there are too few errors, {few.text}, and at least {metric.fewest} are needed; "
        f"{instead}take more images ({needed}), {end}"
    )


def _refuse_one_group(case: RuleCase) -> None:
    """Refuse a value of images that all belong together, which has no interval."""
    alone = next((name for name, count in case.groups.items() if count < 2), None)
    if alone is not None:
        raise InputError(
            f"{case} cannot be judged on its interval: all images of {alone} belong to one "
            "group, and nothing is known of others; take images of others, or judge the value "
            "with --on value"
        )


# ---------------------------------------------------------------- verdicts as text

LAYOUT = TableLayout(("", "rule", "value", "low", "high", "n", "margin"), words=2)
# The text in the columns low and high if there are too few errors for an interval.
TOO_FEW_WORDS = TOO_FEW.rsplit(" ", 1)
NOT_SHOWN = "not shown to keep"
BASIS_TEXTS = {
    "interval": "judged on the end of the 95 % interval that is worse for the rule",
    "value": "judged on the value",
}


def format_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Write one line per verdict, failures first, and a summary.

    Every rule in the table can be copied. The margin is from the judged number to the limit.
    """
    return f"{align_table(LAYOUT, tabulate_verdicts(verdicts))}\n\n{summarize_verdicts(verdicts)}"


def tabulate_verdicts(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """Lay out one row per verdict, failures first."""
    return list(map(_format_row, sorted(verdicts, key=lambda verdict: verdict.passed)))


def summarize_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Write how many checks failed, which number was judged, and which variants were left out.

    Where images belong together, it also gives the number of groups.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    judged = "; ".join(dict.fromkeys(BASIS_TEXTS[verdict.basis] for verdict in verdicts))
    parts = _describe_bounded, _describe_left_out, _describe_groups, _describe_alternatives
    rest = "".join(describe(verdicts) for describe in parts)
    if any(verdict.rule.reference for verdict in verdicts):
        rest += "; of a rule about another run, the value is how much worse this run is"
    return f"{failed} of {len(verdicts)} checks failed, {judged}{rest}"


def describe_failure(verdict: Verdict) -> str:
    """Say that a rule is broken, or only not shown to be kept, with the end that says so.

    >>> rule = Rule("net", "accuracy", "clean", "", ">=", "95%")
    >>> for score in (0.9627, 0.949, 0.9735, 1000), (0.9, 0.88, 0.92, 1000):
    ...     print(describe_failure(Verdict(rule, "net", "clean", *score, "interval")))
    not shown to keep “net: accuracy[clean] >= 95%” (96.27%, low end 94.90%)
    it breaks “net: accuracy[clean] >= 95%” (90.00%, high end 92.00%)
    """
    broken = verdict.is_broken
    verb, end = ("it breaks", verdict.most_favourable) if broken else (NOT_SHOWN, verdict.judged)
    side = "low" if end == verdict.low else "high"
    value, end_text = (_format_number(verdict.rule, number) for number in (verdict.value, end))
    return f"{verb} “{verdict.name}” ({value}, {side} end {end_text})"


def format_junit(verdicts: Sequence[Verdict], unjudged: Sequence[UnjudgedRule] = ()) -> str:
    """Write one JUnit test case per verdict; the class is the model.

    A rule that cannot be judged is a test case with an error.

    The attributes are those that the schema of Jenkins requires. GitLab identifies test cases by
    class and name, and shows the text of a failure instead of its message, so both are the same.

    Source: junit-10.xsd of Jenkins' xunit plugin; GitLab, Unit test reports.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    tests = len(verdicts) + len(unjudged)
    counts = {"tests": str(tests), "failures": str(failed), "errors": str(len(unjudged))}
    root = ET.Element("testsuites", {"name": "fairweather", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "fairweather check", **counts})
    suite.set("skipped", "0")
    for verdict in verdicts:
        names = {"classname": f"fairweather.{verdict.model}", "name": verdict.name, "time": "0"}
        case = ET.SubElement(suite, "testcase", names)
        if not verdict.passed:
            message = _failure_message(verdict)
            ET.SubElement(case, "failure", {"type": "rule", "message": message}).text = message
    for rule, problem in ((own.rule, own.problem) for own in unjudged):
        model = f"fairweather.{rule.model}" if rule.model else "fairweather"
        names = {"classname": model, "name": str(rule), "time": "0"}
        case = ET.SubElement(suite, "testcase", names)
        ET.SubElement(case, "error", {"type": "rule", "message": problem}).text = problem
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _describe_bounded(verdicts: Sequence[Verdict]) -> str:
    names = list(dict.fromkeys(verdict.rule.measured for verdict in verdicts if verdict.bounded))
    if not names:
        return ""
    return (
        "; with few errors, not on the interval of scores.csv but on one for any number of errors: "
        f"{join_names(names)}"
    )


def _describe_alternatives(verdicts: Sequence[Verdict]) -> str:
    """Name what to use in place of binned errors, which few images make too large."""
    rows = [find_row(verdict.rule.scored) for verdict in verdicts if not verdict.passed]
    pairs = {row.name: row.instead for row in rows if row and row.interval == "bias-corrected"}
    some = [f"{name} (use {instead})" for name, instead in pairs.items() if instead]
    return f"; few images make binned errors too large: {join_names(some)}" if some else ""


def _describe_left_out(verdicts: Sequence[Verdict]) -> str:
    cells: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        for variant, names in verdict.left_out.items():
            cells.setdefault(variant, {}).update(dict.fromkeys(names))
    some = ", ".join(f"{variant} ({join_names(list(names))})" for variant, names in cells.items())
    return f"; left out because they do not have these images: {some}" if some else ""


def _describe_groups(verdicts: Sequence[Verdict]) -> str:
    counts = {name: count for verdict in verdicts for name, count in verdict.groups.items()}
    some = join_names([f"{count:,} in {name}" for name, count in counts.items()])
    return f"; images count equally, and belong to groups: {some}" if some else ""


def _format_row(verdict: Verdict) -> tuple[str, ...]:
    written = partial(_format_number, verdict.rule)
    return (
        "passed" if verdict.passed else "failed",
        verdict.name,
        written(verdict.value),
        *(TOO_FEW_WORDS if verdict.too_few else map(written, (verdict.low, verdict.high))),
        str(verdict.n),
        _describe_margin(verdict),
    )


def _describe_margin(verdict: Verdict) -> str:
    """Say how much a rule has to spare, or by how much it failed."""
    size = abs(verdict.margin)
    text = f"{100 * size:.2f} points" if is_share(verdict.rule.scored) else f"{size:.4f}"
    side = "low" if verdict.rule.operator.startswith(">") else "high"
    return f"{text} to spare" if verdict.passed else f"{text} too {side}"


def _failure_message(verdict: Verdict) -> str:
    written = partial(_format_number, verdict.rule)
    interval = TOO_FEW if verdict.too_few else f"{written(verdict.low)}, {written(verdict.high)}"
    return (
        f"{written(verdict.judged)} is not {verdict.rule.condition}: "
        f"{written(verdict.value)} [{interval}], n = {verdict.n}, "
        f"{BASIS_TEXTS[verdict.basis]}"
    )


def _format_number(rule: Rule, number: float) -> str:
    """Write a number of what the rule limits, a share in per cent; two digits show the margin."""
    return f"{100 * number:z.2f}%" if is_share(rule.scored) else f"{number:z.4f}"

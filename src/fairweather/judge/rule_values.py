"""Find the values for a rule: rows of scores.csv, and differences from clean images."""

from __future__ import annotations

import math
import shlex
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.data.corrupted import FILES, find_published_name
from fairweather.errors import MEANT, InputError, join_names, unknown_name
from fairweather.judge.rules import CLASS, SUBJECTS, UNSEEN_SLICE, WORST_SLICE, Rule, parse_level
from fairweather.metrics import METRICS, Estimate, FittedThresholds, Resamples, paired_change
from fairweather.metrics.columns import Z95, IntArray
from fairweather.metrics.intervals import (
    FEW_IMAGES,
    exact_interval,
    fewest_of_rules,
    to_bounded_score,
)
from fairweather.metrics.metric import (
    CLASS_METRICS,
    RarestClass,
    find_class_metric_row,
    find_rarest_class,
)
from fairweather.metrics.paired import bounded_change
from fairweather.metrics.robustness import ADAPTED
from fairweather.metrics.rows import find_row
from fairweather.metrics.unseen import FEWEST_ERRORS, FEWEST_SITES, describe_need
from fairweather.report.contents import Contents, ensembles_as_models, index_scores, read_contents
from fairweather.runs.folder import RunFolder, read_json
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    add_means,
    add_worst,
    estimate_metrics,
    estimate_units,
    fit_unit,
    read_grouping,
    read_validation,
)
from fairweather.types.kinds import CLASSES, FINDING
from fairweather.types.measurement import CLASSIFICATION, AnyPredictions, Predictions, Score
from fairweather.types.operating_points import POINT_SIGN
from fairweather.types.options import MISSING
from fairweather.types.record import (
    ABSENT_METRICS,
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE_SUFFIX,
    GROUPS,
    IMAGE,
    MEAN,
    NATURAL,
    NO_LEVEL,
    SCORES,
    SLICES,
    SPREAD,
    SUMMARY_LEVELS,
    TEST,
    VAL,
    VALIDATION,
    WORST,
    ShiftLevel,
    base_model,
    is_shifted,
    list_whole_units,
    slice_label,
)

CERTAINTY = 0.9  # that a new sample has as many errors as are needed
ALL_CELLS = "*"  # in a rule, each single cell of test images, shifted and clean
# The scores of one model: by condition (shift and level), then by metric.
ModelScores = Mapping[ShiftLevel, Mapping[str, Score]]
CellEstimates = Mapping[ShiftLevel, Mapping[str, Estimate]]
_CLEAN_CELL = ShiftLevel(CLEAN, NO_LEVEL)


@dataclass(frozen=True)
class RuleCase:
    """A rule applied to one model under one condition."""

    run: RunFolder
    rule: Rule
    model: str
    """`run`, `rule`, `model`: which run, rule and model."""

    condition: ShiftLevel
    """The shift and level."""

    rows: ModelScores
    """The scores of the model."""

    left_out: Mapping[str, Sequence[str]]
    """By variant, the cells of the rule that the variant does not have."""

    groups: Mapping[str, int]
    """The number of groups of the images of the rule, by the name of these images."""

    def __str__(self) -> str:
        return f"{self.rule.scored} of {self.model} for {self.cell}"

    @property
    def cell(self) -> str:
        """The condition as a rule writes it."""
        return format_cell(self.condition)

    def has(self, metric: str) -> bool:
        """Say whether the model has a metric under any condition, of all classes or of one."""
        return _has_metric(metric, self.rows)


def format_cell(condition: ShiftLevel) -> str:
    """Write a shift and level as a rule does.

    >>> [format_cell(ShiftLevel("snow", level)) for level in ("3", "mean", "worst")]
    ['snow=3', 'snow', 'snow@worst']
    """
    shift, level = condition
    if level in (NO_LEVEL, MEAN):
        return shift
    return f"{shift}@{level}" if level == WORST else f"{shift}={level}"


def read_model_scores(run: RunFolder) -> dict[str, ModelScores]:
    """Read scores.csv by model: with several seeds, the means over seeds; ensembles are models.

    Raises `InputError` if the run has no scores yet, or if they were changed after it wrote them.
    """
    if not run.holds(SCORES):
        raise InputError(f"{run.path} has no {SCORES}: it has not been scored yet")
    scores = ensembles_as_models(run.scores)
    if scores.empty:
        raise InputError(f"{run.path / SCORES} has no rows, so nothing can be checked")
    return _group_by_model(scores)


def check_predictions(run: RunFolder, model: str) -> None:
    """Compare the stored predictions behind a model's scores with their checksums.

    A packed run may have none. Raises `InputError` if a file was changed since the run wrote it.
    """
    folders = tuple(
        f"predictions/{name.removesuffix(ENSEMBLE_SUFFIX)}/" for name in {model, base_model(model)}
    )
    run.check_files(lambda name: name.startswith(folders) or name.startswith(f"{GROUPS}/"))


def read_absences(run: RunFolder) -> Mapping[str, str]:
    """Read why metrics, or findings, have no numbers or are in no mean, by name."""
    return read_json(run.file(ABSENT_METRICS)) if run.holds(ABSENT_METRICS) else {}


class Part(NamedTuple):
    """What the text behind the bar of a rule is about, beside a class."""

    unit: str = ""
    """A finding, or the mean or the worst of all, as in scores.csv; "" for whole images and all
    findings."""

    slice: str = ""
    """A subgroup of the images, as in slices.csv; "" for all of them."""


def find_part(run: RunFolder, text: str) -> Part:
    """Find what a rule is about in a run: `finding=Mass`, `site=B` or `finding=Mass|site=B`.

    Raises `InputError` with the closest name for an unknown finding.
    """
    scores = run.unit_scores if run.holds(SCORES) else pd.DataFrame()
    if not text or "unit" not in scores:
        return Part(slice=text)
    units = list(dict.fromkeys(scores["unit"]))
    # Names of findings and values of slices may contain a bar too.
    cuts = [len(text), *(at for at, sign in enumerate(text) if sign == "|")]
    for unit, rest in ((text[:at].strip(), text[at + 1 :].strip()) for at in cuts):
        if unit in units:
            return Part(unit, rest)
    slices = set(run.slice_scores["slice"]) if run.holds(SLICES) else ()
    if text in slices:
        return Part(slice=text)
    _refuse_unseen(run, text, [*slices])
    name, kind = text.partition("|")[0].strip(), units[-1].partition("=")[0].rpartition(" ")[2]
    if why := read_absences(run).get(name):
        raise InputError(f"{name} has no numbers: {why}")
    column, sign, _ = name.partition("=")
    raise unknown_name("slice" if sign and column != kind else kind, name, [*units, *slices])


def read_slice_scores(run: RunFolder, text: str) -> dict[str, ModelScores]:
    """Read the rows of a slice, of a finding, or of a finding in a slice, by model.

    With several seeds, they are means over seeds, as in `read_model_scores`. Raises `InputError`
    with the closest name if there is no such slice or finding.
    """
    unit, slice_ = find_part(run, text)
    if not slice_:
        return _group_by_model(_select_unit_rows(ensembles_as_models(run.unit_scores), unit))
    if not run.holds(SLICES):
        raise InputError(
            f"{run.path} has no scores of slices: measure it with a table of metadata, and name "
            "its column as a slice (--metadata FILE --slice COLUMN)"
        )
    scores = ensembles_as_models(run.slice_scores)
    known = list(dict.fromkeys(scores["slice"]))
    if slice_ not in known:
        _refuse_unseen(run, slice_, known)
        raise unknown_name("slice", slice_, known)
    rows = _select_unit_rows(scores[scores["slice"] == slice_], unit)
    if rows.empty:
        raise InputError(f"{unit} has no numbers of {slice_}: it is unknown for every image there")
    return _group_by_model(rows)


def _refuse_unseen(run: RunFolder, slice_: str, known: Sequence[str]) -> None:
    """Raise `InputError` for an unseen value of a known column, and say why it has no numbers."""
    column = slice_.removeprefix(UNSEEN_SLICE)
    values = [name for name in known if name.startswith(f"{column}=")]
    count = len({*values} - {slice_label(column, MISSING)})
    if not values or column == slice_:
        return
    if column in run.record.settings.sites:
        raise InputError(describe_need(column, count))
    raise InputError(
        f"an {slice_} is predicted only if the values of {column} are a sample, such as hospitals: "
        f"measure again with --sites {column}, which keeps all predictions"
    )


def _select_unit_rows(scores: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The rows of a unit; without a name, of whole images and of all units."""
    if "unit" not in scores:
        return scores
    return scores[scores["unit"].isin([unit] if unit else list_whole_units(scores["unit"]))]


def count_groups(run: RunFolder, rule: Rule) -> dict[str, int]:
    """The number of groups of the test images, or of the slices that a rule is about, by name.

    Empty if the run was not told which images belong together.
    """
    part, name = TEST, "the test set"
    if rule.cell == VALIDATION:
        part, name = VAL, "the validation set"
    elif rule.cell.startswith(NATURAL):
        part = name = rule.cell
    grouping = read_grouping(run, part)
    if grouping is None:
        return {}
    unit, slice_ = find_part(run, rule.slice)
    if not slice_:
        known = _rows_with_groups(run.unit_scores, unit)
        own = known[known["shift"] == (CLEAN if part == TEST else rule.cell)]
        return {name: grouping.count if own.empty else int(own["groups"].iloc[0])}
    rows = _rows_with_groups(run.slice_scores, unit)
    counts = dict(zip(rows["slice"], rows["groups"].astype(int), strict=True))
    column = slice_.removeprefix(WORST_SLICE).removeprefix(UNSEEN_SLICE)
    if column == slice_:
        return {slice_: counts[slice_]}
    return {name: count for name, count in counts.items() if name.startswith(f"{column}=")}


def _rows_with_groups(scores: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The rows of a unit that say how many groups its images are of; of the worst, of all images.

    A finding may be known for the images of some groups only.
    """
    rows = scores.dropna(subset="groups")
    own = _select_unit_rows(rows, unit)
    return _select_unit_rows(rows, "") if own.empty else own


def _group_by_model(scores: pd.DataFrame) -> dict[str, ModelScores]:
    """Group rows by model, condition and metric; of several seeds, only their means."""
    if MEAN in set(scores["seed"]):
        scores = scores[scores["seed"] == MEAN]
    models: dict[str, dict[ShiftLevel, dict[str, Score]]] = {}
    indexed = index_scores(scores, ("model", "shift", "level", "metric"))
    for (model, shift, level, metric), score in indexed.items():
        models.setdefault(model, {}).setdefault(ShiftLevel(shift, level), {})[metric] = score
    return dict(models)


def select_models(rule: Rule, models: Mapping[str, ModelScores]) -> list[str]:
    """Return the names of the models that a rule applies to, in the order of scores.csv.

    A rule about prediction sets, or about what adapting changes, applies without a model to those
    that have sets, or that adapt.
    """
    names = list(models)
    if rule.model is None:
        with_metric = [name for name, rows in models.items() if _has_metric(rule.metric, rows)]
        of_some = _is_set_metric(rule.metric) or rule.metric in ADAPTED.values()
        return (with_metric or names) if of_some else names
    if rule.model not in names:
        raise unknown_name("model", rule.model, names)
    return [rule.model]


def find_left_out(rule: Rule, models: Mapping[str, ModelScores]) -> dict[str, list[str]]:
    """Return, by variant, the cells of a rule for all models that the variant does not have.

    Variants may lack some shifts of their models; attacks, for example, are run on models and not
    on variants. If no model has the cell, nothing is left out, because the cell is probably a
    typing error.
    """
    if rule.model is not None:
        return {}
    known = {
        model: select_known_conditions(rule, models[model]) for model in select_models(rule, models)
    }
    everywhere = list(dict.fromkeys(cell for conditions in known.values() for cell in conditions))
    missing = {
        model: [format_cell(cell) for cell in everywhere if cell not in conditions]
        for model, conditions in known.items()
        if base_model(model) != model
    }
    return {model: cells for model, cells in missing.items() if cells}


def select_conditions(rule: Rule, rows: ModelScores) -> list[ShiftLevel]:
    """Find the conditions that a rule's cell names; for a drop or a rise, without clean images.

    Raises `InputError` with the closest name for a shift or a level that has no rows.
    """
    if rule.cell == ALL_CELLS:
        single = [condition for condition in rows if _is_single(condition)]
        if rule.change:
            single = [condition for condition in single if condition.shift != CLEAN]
        if not single:
            raise InputError(f"a {rule.change} needs shifted images, which the run does not have")
        return single
    shift, sign, level = _split_cell(rule.cell)
    known = list(dict.fromkeys(condition.shift for condition in rows))
    if rule.slice and shift.startswith(NATURAL) and shift not in known:
        raise InputError(f"slices are subgroups of the test images, and {shift} has other images")
    named, _, parameter = shift.rpartition(",")
    if shift not in known and named in known and parameter == "severity":
        shift = named  # the level of every corruption, as evaluate names it
    if shift not in known and named in known and sign == "=":
        right = f"{rule.metric}[{named}={level}]"
        raise InputError(f"a rule names only the level, not its parameter: write {right}")
    family, slash, corruption = (named or shift).partition("/")
    files = f"{find_published_name(family)}{FILES}{slash}{corruption}"
    if shift not in known and files in known:  # the name of the set, as it is asked for
        right = f"{files}{rule.cell.removeprefix(named or shift)}"
        raise InputError(f"unknown shift {named or shift!r}; did you mean {right!r}?")
    if shift.startswith(CLEAN_AFTER) and not any(name.startswith(CLEAN_AFTER) for name in known):
        raise InputError(
            f"{shift} is only of a variant that goes from shift to shift: name one, as in "
            f"'basic+tent-continual: {rule.metric}[{shift}] ...'"
        )
    if shift not in known:
        raise unknown_name("shift", named or shift, [*known, ALL_CELLS])
    levels = [condition.level for condition in rows if condition.shift == shift]
    if rule.change and shift.startswith(NATURAL):
        raise InputError(
            f"a {rule.change} compares the same images, and those of {shift} are others than the "
            f"clean ones: use a rule for the number itself, such as {rule.metric}[{shift}]"
        )
    if rule.change and (shift in (CLEAN, VALIDATION) or shift.startswith(CLEAN_AFTER)):
        raise InputError(
            f"a {rule.change} compares clean with shifted images, so the cell cannot be {shift}"
        )
    if not sign:
        return [ShiftLevel(shift, NO_LEVEL if NO_LEVEL in levels else MEAN)]
    return [ShiftLevel(shift, _match_level(shift, sign, level, levels))]


def find_score(case: RuleCase) -> Score:
    """Find the score that a rule is about.

    Raises `InputError` if it is missing, with the closest name or with the cells that have it.
    """
    rule, model, rows = case.rule, case.model, case.rows
    score = rows.get(case.condition, {}).get(rule.scored)
    if score is not None:
        return score
    available = [format_cell(cell) for cell, scores in rows.items() if rule.scored in scores]
    if _is_set_metric(rule.metric) and not _has_metric(rule.metric, rows):
        kind = "conformal" if METRICS[rule.metric].accepts.kind == CLASSES else "risk_control"
        raise InputError(
            f"{model} has no prediction sets, which {rule.metric} is about: measure a {kind} "
            f"variant (--variant {kind}, or variants: [{kind}] in a study)"
        )
    if not rule.slice and rule.metric in ADAPTED.values() and not _has_metric(rule.metric, rows):
        raise InputError(
            f"{model} has no {rule.metric}, which is of classifiers that adapt to test images: "
            "name or measure one, such as tent"
        )
    if not available:
        if rule.is_unseen and find_row(rule.scored) is not None:
            raise InputError(
                f"{model} has no {rule.scored} for the {rule.slice}: only shares, areas and other "
                f"metrics between two bounds are predicted, if known at {FEWEST_SITES} or more and "
                f"with {FEWEST_ERRORS} errors at each on average"
            )
        _check_unit(case)
        _check_point(case)
        _check_class(rule, rows)
        known = dict.fromkeys(name for scores in rows.values() for name in scores)
        if find_row(rule.scored) is None:
            raise unknown_name("metric", rule.scored, known)
        meant, words = MEANT.get(rule.scored, ("", ""))
        hint = f"; did you mean {meant!r}, {words}?" if meant in known else ""
        where = f"for {rule.slice}" if rule.slice else "in this run"
        raise InputError(f"{model} has no {rule.scored} {where}{hint}")
    few = ", ".join(available[:8]) + (", ..." if len(available) > 8 else "")
    raise InputError(f"{model} has no {rule.scored} for {case.cell}; it is available for {few}")


def _is_set_metric(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].accepts.sets


def _has_metric(metric: str, rows: ModelScores) -> bool:
    """Say whether any row has a metric, of all classes or of one."""
    return any(metric in scores for scores in rows.values())


def _check_unit(case: RuleCase) -> None:
    """Raise `InputError` for a class of a run that has units, or a metric of other units."""
    rule, scores = case.rule, case.run.unit_scores
    if "unit" not in scores:
        return
    units = list(dict.fromkeys(scores["unit"]))
    kind = units[-1].rpartition(" ")[2]
    if rule.subject.startswith(CLASS):
        raise InputError(f"the run has {kind}s, not classes: write {kind}=NAME for {CLASS}NAME")
    others = list(dict.fromkeys(scores["unit"][scores["metric"] == rule.scored]))
    part = find_part(case.run, rule.slice).unit
    if part and others:
        raise InputError(f"{part} has no {rule.scored}; it is a number of {join_names(others)}")


def _check_point(case: RuleCase) -> None:
    """Raise `InputError` for an operating point at which a class or finding was not measured."""
    name, sign, point = case.rule.scored.rpartition(POINT_SIGN)
    if not sign or find_row(case.rule.scored) is None or not case.has(name):
        return
    unit = find_part(case.run, case.rule.slice).unit
    of = name.partition("/")[2] or unit.partition("=")[2]
    known = (metric for scores in case.rows.values() for metric in scores)
    points = [
        metric.removeprefix(name + sign) for metric in known if metric.startswith(name + sign)
    ]
    what = f"operating point of {of}" if of else "operating point"
    option = f"--operating-point {shlex.quote(f'{of}={point}' if of else point)}"
    raise InputError(f"{unknown_name(what, point, points)}; measure it with {option}")


def _check_class(rule: Rule, rows: ModelScores) -> None:
    """Raise `InputError` for a class that the run lacks, or a metric that classes do not have."""
    named, of_class = rule.scored.removeprefix(f"{rule.metric}/"), rule.subject.startswith(CLASS)
    if not of_class and rule.metric in CLASS_METRICS and not _has_metric(rule.metric, rows):
        subject = f"{CLASS}NAME|{rule.slice}" if rule.slice else f"{CLASS}NAME"
        raise InputError(
            f"{rule.metric} is of a single class: name it, as in "
            f"{rule.metric}[{rule.cell}|{subject}], or use a metric over all classes, such as "
            "balanced_accuracy or macro_f1"
        )
    if not of_class:
        return
    if rule.metric not in CLASS_METRICS:
        raise unknown_name("metric of a class", rule.metric, CLASS_METRICS)
    known = dict.fromkeys(
        name.partition("/")[2]
        for scores in rows.values()
        for name in scores
        if name.startswith(f"{rule.metric}/")
    )
    name, bar, rest = named.partition("|")
    if bar and name in known:
        raise unknown_name(f"text behind {CLASS}{name}| in a rule", rest, SUBJECTS[1:3])
    raise unknown_name("class", named, known)


def explain_undefined(rule: Rule, score: Score) -> str:
    """Say why a number of a class is NaN, to be added to a message; "" for other numbers."""
    row = find_row(rule.scored)
    if row is not None and row.accepts.kind == FINDING:
        return ": no image is called so, none has the finding, or every image has it"
    if find_class_metric_row(rule.scored) is None:
        return ""
    if not score.n:
        return ": there is no image of the class"
    return ": the class is predicted for no image, or for every image"


def widen_to_exact(score: Score, condition: ShiftLevel) -> Score:
    """Widen the interval of a share, if needed, to that of Clopper and Pearson.

    Percentiles of resamples are a little too narrow: a rule whose limit is the true value would be
    passed by mistake in more than 2.5 % of cases. Scores of an earlier version may be narrower
    still. The number of images is computed from the width of the interval. In a single cell it is
    at most n, and it is n if few images are right or few are wrong. Means over cells with few are
    left as they are.

    >>> round(widen_to_exact(Score(0.9, 0.874, 0.926, 500), ShiftLevel("clean", "none")).low, 3)
    0.87
    """
    share, low, high, n = score
    variance = share * (1 - share)
    count = variance * (2 * Z95 / (high - low)) ** 2 if variance and high > low else 0.0
    few = count * min(share, 1 - share) < FEW_IMAGES
    if condition.level in SUMMARY_LEVELS:
        if few:
            return score
    elif few or count > n:
        count = n
    exact = exact_interval(share, count)
    return Score(share, min(low, exact[0]), max(high, exact[1]), n)


def count_enough_images(errors: float, n: int, fewest: int) -> int:
    """How many new images have `fewest` errors or more, in 90 % of samples.

    The error rate is uncertain too. It is taken from the beta distribution whose quantiles are
    Clopper and Pearson's lower bounds of it. So the number is right in 90 % of draws of both
    samples, or more.

    Args:
        errors: found among the images so far, above 0; not always whole.
        n: the images so far.
        fewest: the errors that are needed.

    >>> count_enough_images(10, 500, 20)
    1703
    """
    from scipy.stats import betabinom  # takes a while to import

    def is_enough(images: int) -> bool:
        return bool(betabinom.sf(fewest - 1, images, errors, n - errors + 1) >= CERTAINTY)

    most = 2 * fewest
    while not is_enough(most):
        most *= 2
    return bisect_left(range(most), True, lo=most // 2 + 1, key=is_enough)


class FewErrors(NamedTuple):
    """The errors behind a value, if they are too few: their number, the number of images, and a
    text."""

    errors: float
    n: int
    text: str


def find_few_errors(case: RuleCase) -> FewErrors | None:
    """Say why a value has no interval: too few images determine it.

    These are the wrong images, or the rarer of right and wrong ones; see `Metric.carried_by`. For a
    change, a mean or the worst of several levels, the cell with the fewest is used. With several
    seeds, or if the rows do not contain the count, it comes from the predictions; None if they are
    missing.
    """
    metric, rows, change = METRICS[case.rule.scored], case.rows, case.rule.change
    if metric.carried_by != "emptiest bin" and MEAN not in set(case.run.scores["seed"]):
        counts: list[tuple[float, str, int]] = []
        for condition in [
            *_single_conditions(case.condition, rows),
            *([_CLEAN_CELL] if change else []),
        ]:
            if "accuracy" in rows[condition]:
                share, _, _, n = rows[condition]["accuracy"]
                wrong = round((1 - share) * n, 3)  # the share has eight digits
                counts.append((wrong, "wrong", n))
                if metric.carried_by in ("rarer", "rarer outcome"):
                    counts.append((n - wrong, "right", n))
        least, kind, n = min(counts, default=(math.inf, "", 0))
        if least < metric.fewest:
            return FewErrors(least, n, f"{least:.3g} {kind} of {n:,} images")
    run, rule = case.run, case.rule
    try:
        contents, metrics = read_contents(run), {rule.scored}
        cells = reestimate(run, contents, case.model, {case.condition}, metrics, rule.slice)
    except InputError:
        return None
    sides = [_CLEAN_CELL, case.condition] if change else [case.condition]
    estimates = [cells.get(side, {}).get(rule.scored) for side in sides]
    few = [estimate for estimate in estimates if estimate is not None and estimate.too_few]
    if not few:
        return None
    fewest = min(few, key=lambda estimate: estimate.errors)
    text = f"{fewest.errors:.3g} errors per cell and seed (harmonic mean) of {fewest.n:,} images"
    return FewErrors(fewest.errors, fewest.n, text)


def find_slice_of_few(case: RuleCase) -> RuleCase:
    """Narrow a rule about the worst slice to the one without an interval that has fewest images.

    Other rules are returned as they are, and those whose slices all have an interval.
    """
    unit, slice_ = find_part(case.run, case.rule.slice)
    if not slice_.startswith(WORST_SLICE):
        return case
    start, cases = slice_label(slice_.removeprefix(WORST_SLICE), ""), []
    names = _select_unit_rows(case.run.slice_scores, unit)["slice"].unique()
    for name in (name for name in names if name.startswith(start)):
        rule = replace(case.rule, subject=case.rule.subject.removesuffix(slice_) + name)
        rows = read_slice_scores(case.run, rule.slice).get(case.model, {})
        score = rows.get(case.condition, {}).get(rule.scored)
        if score is not None and score.too_few:
            cases.append((score.n, name, replace(case, rule=rule, rows=rows)))
    return min(cases)[-1] if cases else case


def read_rarest_class(case: RuleCase) -> tuple[str, RarestClass] | None:
    """Find the rarest class of the images of a rule; None if their predictions are missing."""
    run, rule, shift = case.run, case.rule, case.condition.shift
    cell = shift if shift.startswith(NATURAL) else CLEAN
    part = VAL if shift == VALIDATION else TEST
    try:
        seed = next(seed for seed in read_contents(run).seeds_of(case.model) if seed != SPREAD)
        predictions = _read_predictions(run, run.predictions(case.model, seed, cell, part))
        grouping = read_grouping(run, part if cell == CLEAN else cell)
        unit, slice_ = find_part(run, rule.slice)
        if slice_:
            places = _slice_places(run, slice_)
            predictions = predictions.take(places)
            grouping = grouping.select(places) if grouping else None
    except InputError:
        return None
    for known in run.task.units(predictions):
        if known.name == unit and len(known.places):
            predictions = known.select(predictions)
            grouping = grouping and grouping.select(known.places)
    if not isinstance(predictions, Predictions):
        return None
    rarest = find_rarest_class(predictions, grouping)
    return predictions.classes[rarest.label], rarest


def _single_conditions(condition: ShiftLevel, rows: ModelScores) -> list[ShiftLevel]:
    """The single cells behind a condition: itself, or the levels of a mean or of the worst.

    For `all` there are none, because the rows do not say which shifts are attacks, and attacks are
    not part of `all`.
    """
    if condition.level not in SUMMARY_LEVELS:
        return [condition]
    return [cell for cell in rows if _is_single(cell) and cell.shift == condition.shift]


def select_known_conditions(rule: Rule, rows: ModelScores) -> list[ShiftLevel]:
    """Find the conditions that a rule's cell names and the model has; possibly none."""
    try:
        return [condition for condition in select_conditions(rule, rows) if condition in rows]
    except InputError:
        return []


def _is_single(condition: ShiftLevel) -> bool:
    """Say whether a condition is a single cell of the test images: no mean, no other data set."""
    shift, level = condition
    images = shift == CLEAN or (is_shifted(shift) and shift != ALL)
    return images and level not in SUMMARY_LEVELS


def _split_cell(cell: str) -> tuple[str, str, str]:
    for sign in "=@":
        if sign in cell:
            shift, _, level = cell.partition(sign)
            return shift.strip(), sign, level.strip()
    return cell.strip(), "", ""


def _match_level(shift: str, sign: str, level: str, levels: list[str]) -> str:
    if sign == "@":
        if level != WORST:
            raise unknown_name("summary of levels", level, [WORST])
        return WORST
    numbers = {name: number for name in levels if (number := parse_level(name)) is not None}
    wanted = parse_level(level)
    known = ", ".join(numbers) or "none"
    if wanted is None or not numbers:
        raise InputError(f"{shift} has no level {level!r}; its levels are {known}")
    nearest = min(numbers, key=lambda name: math.fabs(numbers[name] - wanted))
    if numbers[nearest] == wanted:
        return nearest
    raise InputError(
        f"{shift} has no level {level}; did you mean {nearest}? its levels are {known}"
    )


def reestimate(
    run: RunFolder,
    contents: Contents,
    model: str,
    wanted: Collection[ShiftLevel],
    metrics: Collection[str],
    text: str = "",
) -> CellEstimates:
    """Estimate the clean and the wanted conditions again, on the same resamples as scores.csv.

    If a slice is named, only its images are used; if a finding is named, its estimates. With
    several seeds, the results are means over seeds. Raises `InputError` if predictions are
    missing, were changed after the run wrote them, or are of other images.
    """
    seeds = [seed for seed in contents.seeds_of(model) if seed != SPREAD]
    clean_file = run.predictions(model, seeds[0], CLEAN)
    clean = _read_predictions(run, clean_file)

    def read_cells() -> Iterator[tuple[ScoreKey, AnyPredictions, FittedThresholds | None]]:
        for seed in seeds:
            validation = read_validation(run, model, seed)
            fitted = None
            if run.task.name == CLASSIFICATION and validation is not None:
                fitted = fit_unit(run.task, IMAGE, validation, metrics)
            for condition, shift in _shift_ids(contents, wanted).items():
                name = run.predictions(model, seed, shift)
                predictions = _read_streams(run, name)
                if not np.array_equal(clean.keys, predictions.streams[0].keys):
                    raise InputError(f"{name} is of other images than {clean_file}")
                yield (model, seed, *condition), predictions, fitted

    grouping, (unit, slice_) = read_grouping(run), find_part(run, text)
    cells: Iterable[tuple[ScoreKey, AnyPredictions, FittedThresholds | None]] = read_cells()
    strata = clean.strata
    if slice_:
        places = _slice_places(run, slice_)
        strata, grouping = strata[places], grouping.select(places) if grouping else None
        cells = ((key, images.take_images(places), fitted) for key, images, fitted in cells)
    if run.task.units(clean):
        drawn = ((key, predictions) for key, predictions, _ in cells)
        validation = {(model, seed): read_validation(run, model, seed) for seed in seeds}
        units = estimate_units(
            run.task,
            drawn,
            contents.bootstrap,
            grouping,
            metrics,
            fitted_on={key: images for key, images in validation.items() if images is not None},
            losses=True,
        )
        table = dict(_select_unit(units, unit))
    else:
        shared = Resamples.draw(strata, contents.bootstrap, grouping=grouping)
        table = dict(estimate_metrics(cells, shared, metrics, losses=True))
    # As in scores.csv, attacks are not part of the mean over shifts.
    attacks = [sweep.name for sweep in contents.sweeps if sweep.is_attack]
    table = add_worst(add_means(table.items(), attacks), attacks)
    shown = MEAN if len(seeds) > 1 else seeds[0]
    return {
        ShiftLevel(*cell): estimates
        for (_, seed, *cell), estimates in table.items()
        if seed == shown
    }


def _select_unit(
    units: Mapping[str, Mapping[ScoreKey, Estimates]], name: str
) -> Mapping[ScoreKey, Estimates]:
    """The estimates of one unit; without a name, those of whole images and of all units.

    Raises `InputError` for the worst unit, which may be a different one for each number.
    """
    if name and name not in units:
        kind = name.rpartition(" ")[2]
        raise InputError(
            f"a drop or a rise is of one {kind} or of a mean, and the {name} may be another one at "
            f"each level: name one, as {kind}=NAME, or mean {kind}"
        )
    if name:
        return units[name]
    whole = [units[unit] for unit in list_whole_units(units)]
    return {key: {**whole[0][key], **whole[-1][key]} for key in whole[0]}


def _slice_places(run: RunFolder, slice_: str) -> IntArray:
    """The places of the images of a slice `COLUMN=VALUE` among the test images.

    Raises `InputError` for the worst slice, which may be a different one for each number.
    """
    column, sign, value = slice_.partition("=")
    if not sign:
        raise InputError(
            f"a drop or a rise is of the same images, and the {slice_} has others under a shift "
            "than clean: name one slice"
        )
    groups = run.groups()
    assert groups is not None  # slices.csv was made from them
    return np.flatnonzero(groups.slices[column] == value)


def compute_change(case: RuleCase, estimated: CellEstimates) -> Score:
    """Compute a drop (clean minus shifted) or a rise (shifted minus clean), by image and seed."""
    rule = case.rule
    clean, shifted = (
        estimated.get(cell, {}).get(rule.scored) for cell in (_CLEAN_CELL, case.condition)
    )
    if clean is None or shifted is None:
        raise InputError(
            f"{rule.measured} for {case.cell} cannot be computed for {case.model}: it is not a "
            "metric of a single cell"
        )
    if rule.change == "drop":
        return paired_change(shifted, clean)
    return paired_change(clean, shifted)


def has_few_errors(case: RuleCase) -> bool:
    """Tell whether a rule needs an interval for few errors, if its number has one.

    That is where scores.csv has none, and where fewer than `fewest_of_rules` are wrong, or right.
    """
    rule, metric = case.rule, METRICS.get(case.rule.scored)
    if rule.is_unseen:  # its interval is about sites
        return False
    if find_score(case).too_few:
        return True
    if metric is None:
        return False
    conditions = [case.condition, *([_CLEAN_CELL] if rule.change else [])]
    known = [case.rows.get(condition, {}).get("accuracy") for condition in conditions]
    rarer = [min(row.value, 1 - row.value) * row.n for row in known if row is not None]
    return min(rarer, default=math.inf) < fewest_of_rules(metric)


def compute_bounded(case: RuleCase, estimated: CellEstimates) -> Score | None:
    """Compute the number of a rule with an interval for any number of errors; None without one."""
    rule, row = case.rule, find_row(case.rule.scored)
    clean, own = (
        estimated.get(cell, {}).get(rule.scored) for cell in (_CLEAN_CELL, case.condition)
    )
    if own is None or row is None:
        return None
    if not rule.change:
        return to_bounded_score(own, row.bounds)
    if clean is None:
        return None
    return bounded_change(own, clean) if rule.change == "drop" else bounded_change(clean, own)


def _read_predictions(run: RunFolder, name: str) -> AnyPredictions:
    return _read_streams(run, name).streams[0]


def _read_streams(run: RunFolder, name: str) -> AnyPredictions:
    if not run.holds(name):
        raise InputError(f"{run.path} has no {name}: finish the run first")
    return run.read_streams(name)


def _shift_ids(contents: Contents, wanted: Collection[ShiftLevel]) -> dict[ShiftLevel, str]:
    """The ids of the shifts behind the wanted conditions and means, clean first."""
    summarised = {condition.shift for condition in wanted if condition.level in SUMMARY_LEVELS}
    return {
        _CLEAN_CELL: CLEAN,
        **{
            condition: shift
            for sweep in contents.sweeps
            for level, shift in sweep.cells.items()
            if (condition := ShiftLevel(sweep.name, level)) in wanted
            or summarised & {sweep.name, ALL}
        },
    }

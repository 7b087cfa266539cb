"""From what a person asks of a measurement to its settings: one path for every kind of run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fairweather.attacks.shift_lists import expand_fit_shifts
from fairweather.devices import Arithmetic
from fairweather.errors import InputError, check_name, unknown_name
from fairweather.files.yamlfile import parse_yaml, read_yaml
from fairweather.metrics.aggregates import AGGREGATES, AUTO, MEAN, find_aggregate
from fairweather.metrics.columns import IntArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import list_onwards
from fairweather.requests.costs import read_costs
from fairweather.requests.evaluation_options import MeasurementOptions
from fairweather.steps.measurement import Settings
from fairweather.tasks import CLASSIFICATION_TASK, Task
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import UNKNOWN, Attack, Shift
from fairweather.types.operating_points import (
    EVERY,
    RATES,
    OperatingPoints,
    TargetRate,
    list_points,
    parse_operating_points,
    parse_point,
    store_points,
)
from fairweather.types.options import Aggregation, GroupColumns
from fairweather.types.positive import FROM


def make_settings(
    options: MeasurementOptions,
    shifts: Sequence[Shift | Attack],
    device: torch.device,
    sites: Sequence[str] = (),
) -> Settings:
    """The settings of a measurement, without those that `add_class_settings` adds.

    Raises `InputError` for a shift that is both fitted on and tested, and for a precision that the
    device lacks.
    """
    arithmetic = Arithmetic(options.precision, options.cudnn_benchmark, options.compile)
    arithmetic.check(device)
    names = options.aggregate
    return Settings(
        shifts=tuple(shifts),
        fit_on=expand_fit_shifts(options.fit_on, shifts),
        threads=options.threads or torch.get_num_threads(),
        device=device,
        variants=options.all_variants,
        shift_seed=options.shift_seed,
        batch_size=options.batch_size,
        arithmetic=arithmetic,
        bootstrap=options.bootstrap,
        operating_points=parse_operating_points(options.operating_points),
        ordered=options.ordered_classes,
        aggregation=read_aggregation(options.unit, (names,) if isinstance(names, str) else names),
        sites=tuple(sites),
    )


def add_class_settings(
    settings: Settings,
    options: MeasurementOptions,
    classes: tuple[str, ...],
    task: Task,
    *,
    ordered: bool,
) -> Settings:
    """Add the settings about classes and units, once the classes are known.

    Raises `InputError` for an unknown class, and for an aggregate that the labels do not allow.
    """
    settings = resolve_aggregates(settings, task, len(classes), ordered=ordered)
    points = check_operating_points(settings.operating_points, classes, task, ordered=ordered)
    costs = read_costs(options.costs, classes, findings=FINDINGS in task.kinds)
    return replace(settings, operating_points=points, costs=costs)


def describe_order(settings: Settings, classes: Sequence[str]) -> list[str]:
    """A line with the order of the classes, if they have one: nothing else would show a wrong one.

    >>> settings = make_settings(MeasurementOptions(ordered_classes=True), (), torch.device("cpu"))
    >>> describe_order(settings, ["none", "mild"])
    ['order          none < mild']
    """
    return [f"order          {' < '.join(classes)}"] if settings.ordered else []


# ---------------------------------------------------------------- units


def read_aggregation(unit: str | None, names: Sequence[str]) -> Aggregation | None:
    """What is judged in place of images; None for images.

    Raises `InputError` for an unknown aggregate, one that is given twice, or one without a unit.

    >>> read_aggregation("patient", ["max"])
    Aggregation(unit='patient', names=('max',))
    """
    if unit is None:
        if names:
            raise InputError(
                "aggregate says how the images of a unit become one decision: name the unit too, "
                "such as unit patient (--unit patient)"
            )
        return None
    for name in names:
        if name != AUTO:
            find_aggregate(name)
    if len(set(names)) < len(names) or (AUTO in names and len(names) > 1):
        raise InputError(f"aggregate must name each way once, or only {AUTO}, found {list(names)}")
    return Aggregation(unit, tuple(names) or (MEAN,))


def add_unit(columns: GroupColumns | None, unit: str | None) -> GroupColumns | None:
    """Let the unit say which images belong together, where only it does.

    Raises `InputError` if images belong together by another column.
    """
    if unit is None or columns is None:
        return columns
    if columns.group not in (None, unit):
        raise InputError(
            f"unit is {unit}, and the groups (--group) are by {columns.group}: they must be the "
            "same column, since each row of the results is one group"
        )
    return columns._replace(group=unit)


def resolve_aggregates(settings: Settings, task: Task, classes: int, *, ordered: bool) -> Settings:
    """Name the aggregates that `auto` tries, once the task is known.

    Raises `InputError` for an aggregate that the labels do not allow, and for too many classes to
    have their probabilities stored.
    """
    if settings.aggregation is None:
        return settings
    unit, names = settings.aggregation
    if not task.stores_logits(classes):
        raise InputError(
            f"unit {unit} needs stored probabilities, which runs of more than {task.most_stored} "
            f"classes do not have, found {classes:,} classes"
        )
    rules, one = task.aggregation_rules, Grouping(np.zeros(1, dtype=np.int64))
    if names == (AUTO,):
        # "any" is another name of "max".
        by_formula = {aggregate.combine: name for name, aggregate in reversed(AGGREGATES.items())}
        known = [name for name in AGGREGATES if name in by_formula.values()]
        is_simple = task is CLASSIFICATION_TASK and not ordered
        names = (MEAN,) if is_simple else tuple(known)
    for name in names:
        rules.logits(np.zeros((1, classes), dtype=np.float32), one, name, ordered)
    return replace(settings, aggregation=Aggregation(unit, names))


# ---------------------------------------------------------------- priors and operating points

WORST = "worst"  # in scores, the name of the row for the worst of a set of priors; reserved
STATED = "stated"  # the name of a single set of priors that has no other
PREVALENCE = "prevalence"  # stands for the only finding
# For the name of each set of priors, the probabilities of some or all classes.
PartialPriors = Mapping[str, Mapping[str, float]]


def read_priors(asked: Path | Mapping[str, object] | None) -> PartialPriors:
    """Read priors: for each name, the probabilities of some classes, or prevalences of findings.

    They are in a YAML file or a mapping; a single set without a name may also be a text such as
    `malignant: 0.01`, and gets the name `stated`.

    Raises `InputError` if the file is missing, or has another form.

    >>> read_priors({"malignant": 0.01})
    {'stated': {'malignant': 0.01}}
    """
    if not asked:
        return {}
    raw, place = asked, "priors"
    if isinstance(asked, Path):
        if asked.is_file():
            raw, place = read_yaml(asked), str(asked)
        elif ": " in str(asked):
            raw = parse_yaml(str(asked), place)
        else:
            raise InputError(f"priors: there is no file {asked}")
    if isinstance(raw, Mapping) and not any(isinstance(part, Mapping) for part in raw.values()):
        raw = {STATED: raw}
    return _check_priors(raw, place)


# Other numbers that people ask for as a target.
NO_TARGETS = ("recall", "precision", "ppv", "npv", "accuracy", "f1", "auc")


def check_operating_points(
    points: OperatingPoints,
    classes: Sequence[str],
    task: Task = CLASSIFICATION_TASK,
    *,
    ordered: bool = False,
) -> OperatingPoints:
    """Check operating points, and give each class those that are meant for all.

    Of grades, which are ordered classes, these are for each grade or more, such as `>=2`.

    Raises `InputError` for an unknown class, a point that is neither a probability nor a target, or
    too many classes to have their probabilities stored.

    >>> check_operating_points({"malignant": 0.3, "": "sensitivity=0.9"}, ["benign", "malignant"])
    {'benign': 'sensitivity=0.9', 'malignant': (0.3, 'sensitivity=0.9')}
    >>> check_operating_points({">=2": 0.3, "": 0.7}, ["0", "1", "2"], ordered=True)
    {'>=1': 0.7, '>=2': (0.3, 0.7)}
    """
    onwards = list_onwards(classes) if task is CLASSIFICATION_TASK and len(classes) > 2 else []
    known = [*classes, *onwards] if ordered else [*classes]
    if points and not task.stores_logits(len(classes)):
        raise InputError(
            f"operating points need stored probabilities, which runs of more than "
            f"{task.most_stored} classes do not have, found {len(classes):,} classes"
        )
    checked: dict[str, list[float | TargetRate]] = {}
    for written in points:
        name = _name_onwards(written, classes)
        if name in RATES and name not in classes:
            raise InputError(
                f"operating_points: {name} is not a class; write the target as a text, {name}=0.95"
            )
        if name and name in onwards and not ordered:
            raise InputError(
                f"an operating point of {name!r} needs classes in an order, such as grades: say so "
                "with ordered_classes (--ordered-classes)"
            )
        if name and name not in known:
            kind = "class" if task is CLASSIFICATION_TASK else "finding"
            if written.lower() in (*NO_TARGETS, *RATES):
                raise InputError(
                    f"a target is a sensitivity or a specificity, such as sensitivity=0.95, found "
                    f"{written!r}, which is not a {kind} either"
                )
            raise unknown_name(f"{kind} of an operating point", name, known)
        for text in list_points(points, written):
            if (point := parse_point(text)) is None:
                of_class = f" of {name!r}" if name else ""
                raise InputError(
                    f"operating_points: an operating point{of_class} is a probability between 0 "
                    f"and 1, or a target such as sensitivity=0.95, found {text}"
                )
            checked.setdefault(name, []).append(point)
    everywhere, of_grades = checked.get(EVERY, []), ordered and bool(onwards)
    return store_points(
        {
            name: own
            for name in known
            if (
                own := [
                    *(checked.get(name, []) if name else []),
                    *(everywhere if not of_grades or name in onwards else []),
                ]
            )
        }
    )


def _name_onwards(name: str, classes: Sequence[str]) -> str:
    """The name of a grade or more, if it is written with the place of the grade from 0 on.

    >>> _name_onwards(">=1", ["none", "mild"]), _name_onwards(">=mild", ["none", "mild"])
    ('>=mild', '>=mild')
    """
    first = name.removeprefix(FROM).strip()
    if not name.startswith(FROM) or first in classes or not first.isdecimal():
        return name
    return f"{FROM}{classes[int(first)]}" if int(first) < len(classes) else name


def _check_priors(raw: object, place: str) -> dict[str, dict[str, float]]:
    """Check the form of priors; raises `InputError` with the right form."""
    form = f"{place} must be like NAME: {{CLASS: 0.9}}"
    if not isinstance(raw, Mapping) or not raw:
        raise InputError(f"{form}, found {raw!r}")
    checked: dict[str, dict[str, float]] = {}
    for name, of_classes in raw.items():
        if not isinstance(of_classes, Mapping) or not of_classes:
            raise InputError(f"{form}, found {of_classes!r} for {name!r}")
        for class_name, prior in of_classes.items():
            if isinstance(prior, bool) or not isinstance(prior, int | float):
                value = "no number" if prior is None else repr(prior)
                raise InputError(
                    f"{form}, with decimal points, found {value} for {class_name!r} in {name!r}"
                )
        if str(name) == WORST:
            raise InputError(
                f"{place}: the name {WORST!r} is reserved for the worst of a set; choose another"
            )
        checked[check_name(str(name), f"{place}: the name")] = {
            str(class_name): float(prior) for class_name, prior in of_classes.items()
        }
    return checked


def complete_priors(
    asked: PartialPriors, labels: IntArray, classes: tuple[str, ...]
) -> dict[str, tuple[float, ...]]:
    """Give every class a probability; unnamed classes share the rest.

    They share it in proportion to their numbers of images.

    Args:
        asked: for the name of each set of priors, the probability of each class that it names.
        labels: of the images, at least one of every class.
        classes: their names in label order.

    Raises:
        InputError: an unknown class, a number that is not a probability, or probabilities of all
            classes that do not add up to 1.

    >>> complete_priors({"foxes": {"fox": 0.7}}, np.array([0, 0, 1, 2]), ("cat", "dog", "fox"))
    {'foxes': (0.2, 0.1, 0.7)}
    """
    counts, complete = np.bincount(labels, minlength=len(classes)), {}
    for name, of_classes in asked.items():
        for class_name in of_classes:
            if class_name not in classes:
                raise unknown_name(f"class in the priors {name!r}", class_name, classes)
        is_named = np.array([class_name in of_classes for class_name in classes])
        priors = np.array([of_classes.get(class_name, 0.0) for class_name in classes], np.float64)
        total = priors.sum()
        sums_to_one = np.isclose(total, 1)
        if not np.isfinite(priors).all() or (priors < 0).any() or (total > 1 and not sums_to_one):
            raise InputError(f"the priors {name!r} must be probabilities that add up to at most 1")
        if is_named.all() and not sums_to_one:
            raise InputError(f"the priors {name!r} name every class and add up to {total:g}, not 1")
        rest = np.where(is_named, 0, counts)
        if rest.any():
            priors += (1 - min(total, 1)) * rest / rest.sum()
        complete[name] = tuple(float(round(prior, 12)) for prior in priors)
    return complete


def complete_prevalences(
    asked: PartialPriors, labels: IntArray, findings: tuple[str, ...]
) -> dict[str, tuple[float, ...]]:
    """Give every finding a prevalence; one that is not named keeps that of its images.

    Args:
        asked: for the name of each set, the prevalence of each finding that it names; `prevalence`
            stands for the only finding.
        labels: of the images, int64 `[N, L]` of 0, 1 and `UNKNOWN`.
        findings: their names.

    Raises `InputError` for an unknown finding, and for a number that is not a probability.

    >>> labels = np.array([[1, 0], [0, 0], [0, 1], [0, -1]])
    >>> complete_prevalences({"ward": {"Mass": 0.01}}, labels, ("Effusion", "Mass"))
    {'ward': (0.25, 0.01)}
    """
    known, present = labels != UNKNOWN, labels == 1
    own = present.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    complete = {}
    for name, of_findings in asked.items():
        shares = dict(zip(findings, own.tolist(), strict=True))
        for finding, share in of_findings.items():
            only = len(findings) == 1 and finding == PREVALENCE
            if not only and finding not in findings:
                raise unknown_name(f"finding in the priors {name!r}", finding, findings)
            if not 0 <= share <= 1:
                raise InputError(
                    f"the prevalence of {finding!r} in the priors {name!r} must be between 0 and "
                    f"1, found {share:g}"
                )
            shares[findings[0] if only else finding] = share
        complete[name] = tuple(round(share, 12) for share in shares.values())
    return complete

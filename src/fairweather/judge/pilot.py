"""Read from a pilot run how a metric varies: over images, groups and seeds, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import numpy as np
import scipy.special

from fairweather.errors import InputError, unknown_name
from fairweather.judge.compared_runs import ComparedRun, open_compared_run
from fairweather.judge.rule_values import find_part, format_cell
from fairweather.judge.rules import Rule
from fairweather.metrics.areas import auc_column, column_spread
from fairweather.metrics.classification import merge_classes, placements
from fairweather.metrics.columns import TAIL, BoolArray, FloatArray, clopper_pearson, softmax
from fairweather.metrics.findings import find_point_metric
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import (
    CLASS_METRICS,
    ClassMetric,
    GradeMetric,
    Metric,
    find_class_metric,
)
from fairweather.metrics.power import GroupSizes, binormal_moments
from fairweather.metrics.seeds import SeedVariance, crossed_mean
from fairweather.metrics.table import METRICS
from fairweather.runs.scores import fit_unit, read_grouping, read_validation
from fairweather.tasks import Unit
from fairweather.types.kinds import CLASSES
from fairweather.types.measurement import AnyPredictions, Predictions
from fairweather.types.record import (
    CLEAN,
    NATURAL,
    TEST,
    ShiftLevel,
    cells_by_level,
    list_whole_units,
)

Counted = Literal["images", "of the class", "of other classes", "called so"]
HIGHEST_ICC = 0.99  # images of a group that are all alike leave no room for a distribution


class Planned(NamedTuple):
    """How a metric is planned."""

    kind: Literal["share", "area", "mean"]
    counted: Counted = "images"
    """Which images it is a share or a mean of."""


# What can be planned: shares of images, areas under curves, and means over images.
PLANNED: dict[str, Planned] = {
    "accuracy": Planned("share"),
    "top5_accuracy": Planned("share"),
    "decision_accuracy": Planned("share"),
    "exact_match": Planned("share"),
    "sensitivity": Planned("share", "of the class"),
    "specificity": Planned("share", "of other classes"),
    "ppv": Planned("share", "called so"),
    "npv": Planned("share", "called so"),
    "auc": Planned("area", "of the class"),
    "negative_log_likelihood": Planned("mean"),
    "brier_score": Planned("mean"),
    "nll": Planned("mean"),
    "brier": Planned("mean"),
}


@dataclass(frozen=True)
class Variances:
    """What a metric varies with; None where it is unknown or means nothing."""

    discordant: float | None = None
    """Of two networks and a share: the share of images that exactly one of them gets right."""

    image: float | None = None
    """The variance of one image's number, or of the difference of two networks."""

    residuals: tuple[float, float] = (0.0, 0.0)
    """Of each recipe, the part of that variance that differs from seed to seed."""

    trainings: tuple[float, float] | None = None
    """The variance between the trainings of each recipe."""

    icc: float = 0.0
    """The correlation between two images of a group."""

    scale: float = 1.0
    """The variance of an AUC divided by that of normal scores."""

    def of_networks(self, difference: float) -> float:
        """The variance of one image's difference between two networks."""
        if self.image is not None:
            return self.image
        assert self.discordant is not None, "it was asked for"
        return max(self.discordant - difference**2, 0.0)

    def of_recipes(self, difference: float) -> float:
        """The same without what differs from seed to seed."""
        return max(self.of_networks(difference) - sum(self.residuals), 0.0)


class Pilot(NamedTuple):
    """What a pilot run says of the variances of a metric."""

    estimate: Variances
    low: Variances
    high: Variances
    """`estimate`, `low`, `high`: the variances, and all at the ends of their 95 % intervals."""

    sizes: GroupSizes | None
    """Of all groups, in images that count; None if images are independent."""

    means: tuple[float, ...]
    """The values of both recipes of a comparison of shares."""

    images: int
    """How many images count in the pilot."""

    part: float
    """The share of its images that counts; for an area, that of the positives."""

    name: str
    """What was read, for readers."""


class Column(NamedTuple):
    """A number for each image that counts, whose mean is the metric, and each seed."""

    values: FloatArray
    """float64 `[n, S]`."""

    grouping: Grouping | None
    """Of the images that count."""

    sizes: GroupSizes | None
    """Of all groups, in images that count; None if images are independent."""

    images: int
    """All images of the cell."""

    part: float
    """The share that counts; for an area, that of the positives."""

    name: str
    """The run and its model, for readers."""

    @property
    def seeds(self) -> int:
        """Of the model."""
        return self.values.shape[1]


def read_pilot(names: Sequence[str], rule: Rule, *, compares: bool, part: float | None) -> Pilot:
    """Read the variances of the metric of a rule: of one model, or of the difference of two.

    Args:
        names: one or two of RUN or RUN:MODEL; a run with two models is enough for a comparison.
        rule: with the metric and the cell.
        compares: whether two models are compared.
        part: the share of positives that the test will have; None for that of the pilot. It matters
            for areas only.

    Raises:
        InputError: no run, model, metric or cell; a comparison without two models of the same
            images.
    """
    sides = _list_sides(names, compares=compares)
    columns = [read_column(side, rule, part) for side in sides]
    name = " and ".join(sides)
    if not compares:
        return _pilot_of_one(columns[0], PLANNED[base_name(rule)].kind, name)
    first, second = columns
    same = len(first.values) == len(second.values) and (
        first.grouping is None
        or second.grouping is None
        or np.array_equal(first.grouping.numbers, second.grouping.numbers)
    )
    if not same:
        raise InputError(f"the pilots {name} are not of the same images")
    is_share = PLANNED[base_name(rule)].kind == "share"
    return _pilot_of_two(first, second, name, is_share=is_share)


def _list_sides(names: Sequence[str], *, compares: bool) -> list[str]:
    """One RUN:MODEL, or two for a comparison."""
    sides = []
    for name in names:
        opened = open_compared_run(name)
        sides += [f"{opened.run.path}:{model}" for model in opened.models]
    wanted = 2 if compares else 1
    if len(sides) != wanted:
        models = ", ".join(sides)
        needs = "two models" if compares else "one model"
        raise InputError(
            f"the claim needs a pilot of {needs}, found {models}: name each as "
            f"--pilot RUN:MODEL{', twice' if compares else ''}"
        )
    return sides


# ---------------------------------------------------------------- columns


def base_name(rule: Rule) -> str:
    """The name of a metric without class and operating point."""
    return rule.scored.partition("/")[0].partition("@")[0]


def read_column(name: str, rule: Rule, part: float | None = None) -> Column:
    """Read the numbers of the images that count, of every seed of a model.

    Raises `InputError` if there is no such run, metric or cell.
    """
    run = open_compared_run(name)
    model, seeds = next(iter(run.models.items()))
    shift = _find_shift(run, rule.cell)
    every = run.read(model, seeds[0], shift)
    unit = _find_unit(run, rule, every)
    grouping = read_grouping(run.run, shift if shift.startswith(NATURAL) else TEST)
    if grouping is not None:
        grouping = grouping.select(unit.places)
    columns = []
    counted = np.ones(len(unit.places), dtype=bool)
    share = 1.0
    for seed in seeds:
        predictions = cast("Predictions", unit.select(run.read(model, seed, shift)))
        metric = _find_metric(run, rule, unit, model, seed, predictions)
        column, counted, share = _image_numbers(metric, base_name(rule), predictions, part)
        columns.append(column)
        if PLANNED[base_name(rule)].counted == "called so":  # other images for each seed
            break
    if not counted.any():
        raise InputError(f"{run.name} has no images that {rule.scored} is of")
    sizes = None
    if grouping is not None:
        sizes = _count_sizes(grouping, counted)
        grouping = grouping.select(np.flatnonzero(counted))
    side = f"{run.run.path}:{model}"
    return Column(np.stack(columns, axis=1), grouping, sizes, len(unit.places), share, side)


def _find_shift(run: ComparedRun, cell: str) -> str:
    """The id of the shift of a single cell, as a rule writes it."""
    cells = {name: name for name in (CLEAN, *(f"{NATURAL}{own}" for own in run.record.natural))}
    for sweep in run.record.sweeps:
        for level, shifted in cells_by_level(sweep).items():
            cells[format_cell(ShiftLevel(sweep.name, level))] = shifted.id
    if cell not in cells:
        raise unknown_name(f"single cell of {run.name}", cell, cells)
    return cells[cell]


def _find_unit(run: ComparedRun, rule: Rule, predictions: AnyPredictions) -> Unit:
    unit, slice_ = find_part(run.run, rule.slice)
    if slice_:
        raise InputError(
            f"a pilot says how all images vary, and the claim is about {slice_}: leave it out"
        )
    units = {known.name: known for known in run.run.task.every_unit(predictions)}
    if unit in units:
        return units[unit]
    metric = METRICS.get(base_name(rule))
    fitting = [
        name
        for name, known in units.items()
        if metric is None
        or not metric.accepts.explain_absence(cast("Predictions", known.select(predictions)))
    ]
    # As in rules: without a name, it is of whole images or of the only finding.
    chosen = [name for name in list_whole_units(units) if name in fitting]
    if fitting and not chosen:
        raise InputError(
            f"{run.name} has {len(fitting)} findings: name one, as in "
            f"'{base_name(rule)}[{rule.cell}|{fitting[0]}] ...'"
        )
    return units[chosen[0]] if chosen else next(iter(units.values()))


def _find_metric(
    run: ComparedRun, rule: Rule, unit: Unit, model: str, seed: int | str, predictions: Predictions
) -> Metric:
    """The metric of a rule; raises `InputError` where the pilot does not have it."""
    name = rule.scored
    validation = read_validation(run.run, model, seed) if "@" in name else None
    fitted = validation and fit_unit(run.run.task, unit.name, validation, [name])
    chosen = fitted.points if fitted else {}
    metric = (
        METRICS.get(name)
        or find_class_metric(name, predictions.classes, chosen)
        or find_point_metric(name, chosen)
    )
    if predictions.kind == CLASSES and base_name(rule) in CLASS_METRICS and "/" not in name:
        raise InputError(
            f"{run.name} has {len(predictions.classes)} classes: name one, as in "
            f"'{base_name(rule)}[{rule.cell}|class={predictions.classes[-1]}] ...'"
        )
    if metric is None:
        raise unknown_name(f"class of {run.name}", name.partition("/")[2], predictions.classes)
    if why := metric.accepts.explain_absence(predictions):
        raise InputError(f"{run.name} has no {name}: {why}")
    if not metric.applies(predictions):
        raise InputError(f"{run.name} has no {name}: no threshold was chosen for it")
    return metric


def _image_numbers(
    metric: Metric, base: str, predictions: Predictions, part: float | None
) -> tuple[FloatArray, BoolArray, float]:
    """A number for each image that counts, which images count, and the share that counts."""
    every = np.ones(len(predictions), dtype=bool)
    if not isinstance(metric, ClassMetric):
        columns = {
            "top5_accuracy": "top5_correct",
            "negative_log_likelihood": "nll",
            "brier_score": "brier",
        }
        column = np.asarray(getattr(predictions, columns.get(base, base), predictions.correct))
        halves = 2 if base == "brier" else 1  # the Brier score of a finding is of one class
        return column.astype(np.float64) / halves, every, 1.0
    present = metric.is_present(predictions.labels)
    if PLANNED[base].kind == "area":
        return *_area_numbers(metric, predictions, present, part), float(present.mean())
    counted = {"sensitivity": present, "specificity": ~present}.get(base)
    if counted is None:
        calls = metric.calls(predictions)
        counted = calls if base == "ppv" else ~calls
    right = metric.right_calls(predictions)[counted].astype(np.float64)
    return right, counted, float(counted.mean())


def _area_numbers(
    metric: ClassMetric, predictions: Predictions, present: BoolArray, part: float | None
) -> tuple[FloatArray, BoolArray]:
    """Numbers whose mean is the AUC, and whose variance is DeLong's times the number of images.

    If the test will have another share of positives, the numbers of both sides are scaled.
    """
    if not 0 < present.mean() < 1:
        raise InputError(f"{metric.name} needs images of the class and of others in the pilot")
    label = metric.class_label
    if isinstance(metric, GradeMetric):
        predictions = merge_classes(predictions, metric.first)
    assert predictions.logits is not None, "the metric applies"
    scores = softmax(predictions.logits)[:, label]
    column = auc_column(scores, present) * len(present)
    area = float(placements(scores, present)[present].mean())
    own = float(present.mean())
    wanted = own if part is None else part
    factors = np.where(present, own / wanted, (1 - own) / (1 - wanted))
    return area + column * np.sqrt(factors), np.ones(len(present), dtype=bool)


# ---------------------------------------------------------------- variances


def _pilot_of_one(column: Column, kind: str, name: str) -> Pilot:
    """The variances of one model, on average over its seeds."""
    values = column.values
    alone = [crossed_mean(values[:, [seed]]).images for seed in range(values.shape[1])]
    variance = float(np.mean(alone)) * len(values)
    estimate = Variances(image=variance)
    if kind == "area":
        area, part = float(values.mean()), column.part
        normal = binormal_moments(min(max(area, 0.01), 0.99)).variance * (1 / part + 1 / (1 - part))
        estimate = replace(estimate, scale=variance / normal)
    # All seeds have about the same spread, so the first says how uncertain it is.
    ends = _image_ends(estimate, values[:, [0]], column.grouping, column.sizes)
    return Pilot(*ends, column.sizes, (), len(values), column.part, name)


def _pilot_of_two(first: Column, second: Column, name: str, *, is_share: bool) -> Pilot:
    """The variances of the difference of two models."""
    sides, grouping = (first.values, second.values), first.grouping or second.grouping
    sizes = first.sizes or second.sizes
    n, networks = len(sides[0]), [side.shape[1] for side in sides]
    pairs = [a - b for a in sides[0].T for b in sides[1].T]
    differs = np.mean([np.square(pair) for pair in pairs], axis=0)[:, None]
    discordant = float(differs.mean()) if is_share else None
    image = float(np.mean([pair.var(ddof=1) for pair in pairs]))
    recipes = _known_recipes(sides, grouping)
    residuals = tuple(r.shared * r.seeds * n for r in _known_recipes(sides, None)) or (0.0, 0.0)
    estimate = Variances(discordant, image, cast("tuple[float, float]", residuals))
    gaps = (sides[1].mean(axis=1) - sides[0].mean(axis=1))[:, None]
    ends: Sequence[Variances] = _image_ends(estimate, gaps, grouping, sizes)
    if discordant is not None and (max(networks) == 1 or sizes is not None):
        exact = _share_ends(differs, grouping if sizes else None)
        ends = [
            replace(variances, discordant=share)
            for variances, share in zip(ends, (discordant, *exact), strict=True)
        ]
    if recipes:
        tails = (None, 1 - TAIL, TAIL)
        ends = [
            replace(variances, trainings=(_between(recipes[0], tail), _between(recipes[1], tail)))
            for variances, tail in zip(ends, tails, strict=True)
        ]
    means = tuple(float(side.mean()) for side in sides) if is_share else ()
    estimate, low, high = ends
    return Pilot(estimate, low, high, sizes, means, n, first.part, name)


def _known_recipes(
    sides: Sequence[FloatArray], grouping: Grouping | None
) -> tuple[SeedVariance, ...]:
    """How both recipes vary with the seed; one with a single seed is taken to vary as the other."""
    recipes = [crossed_mean(side, grouping).recipes for side in sides]
    known = [own[0] for own in recipes if own]
    return tuple(own[0] if own else known[0] for own in recipes) if known else ()


def _between(recipe: SeedVariance, tail: float | None) -> float:
    """The variance between true values of trainings; with a tail, an end of its 95 % interval."""
    freedom = recipe.seeds - 1
    ratio = 1.0 if tail is None else freedom / float(scipy.special.chdtri(freedom, 1 - tail))
    return recipe.seeds * max(ratio * recipe.between - recipe.shared, 0.0)


def _share_ends(column: FloatArray, grouping: Grouping | None) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share `[n, 1]`; of groups, for as many independent images
    as they are worth."""
    share, worth = float(column.mean()), float(len(column))
    if grouping is not None:
        variance = crossed_mean(column, grouping).images
        worth = share * (1 - share) / variance if variance else float(grouping.count)
    low, high = clopper_pearson(share, worth)
    return float(low), float(high)


def _image_ends(
    estimate: Variances, column: FloatArray, grouping: Grouping | None, sizes: GroupSizes | None
) -> tuple[Variances, Variances, Variances]:
    """The variances, and those at both ends of the 95 % interval of the variance over images."""
    units = column
    if grouping is not None and sizes is not None:
        units = grouping.influences(column)
    freedom = column_spread((units - units.mean())[:, 0]).freedom
    tails = scipy.special.chdtri(freedom, np.array([TAIL, 1 - TAIL])) if freedom else np.ones(2)
    ratios = (1.0, *(max(freedom, 1.0) / np.maximum(tails, 1e-9)).tolist())
    if sizes is None:
        _, low, high = (_scale_images(estimate, ratio) for ratio in ratios)
        return estimate, low, high
    # What is uncertain is the variance over groups, so all of it is laid on their correlation.
    alone = crossed_mean(column).images
    effect = crossed_mean(column, grouping).images / alone if alone else 1.0
    middle, low, high = (
        replace(
            estimate, icc=min(max((ratio * effect - 1) / (sizes.effective - 1), 0.0), HIGHEST_ICC)
        )
        for ratio in ratios
    )
    return middle, low, high


def _scale_images(variances: Variances, ratio: float) -> Variances:
    image, discordant = variances.image, variances.discordant
    return replace(
        variances,
        image=None if image is None else ratio * image,
        discordant=None if discordant is None else min(ratio * discordant, 1.0),
        residuals=(ratio * variances.residuals[0], ratio * variances.residuals[1]),
        scale=variances.scale * ratio,
    )


def _count_sizes(grouping: Grouping, counted: BoolArray) -> GroupSizes | None:
    """How many images that count each group has; None if none has two."""
    own = np.bincount(grouping.numbers[counted], minlength=grouping.count)
    if own.max() < 2:
        return None
    images, counts = np.unique(own, return_counts=True)
    return GroupSizes(images, counts / counts.sum())

"""Check that patients, or other units of several images, can be judged in place of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fairweather.errors import InputError
from fairweather.metrics.aggregates import AGGREGATES, AUTO, MEAN, find_aggregate
from fairweather.metrics.columns import IntArray
from fairweather.metrics.grouping import Grouping, number_groups
from fairweather.requests.inputs import check_targets
from fairweather.steps.measurement import OOD_DATA, Settings
from fairweather.steps.plan import DATA, NATURAL_DATA
from fairweather.tasks import CLASSIFICATION_TASK, Task, find_task
from fairweather.types.measurement import Dataset, Groups
from fairweather.types.options import Aggregation, GroupColumns
from fairweather.types.record import NATURAL, TEST, VAL, has_ordered_classes

CALLED = {VAL: "validation"}  # of those that messages call otherwise


class LabelledPart(NamedTuple):
    """The labels of a split, and which of its images belong together."""

    labels: IntArray
    groups: Groups | None


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


def label_units(settings: Settings, part: LabelledPart, task: Task, *, ordered: bool) -> IntArray:
    """The labels of what is judged: of images, or of units such as patients."""
    grouping = number_groups(part.groups)
    if settings.aggregation is None or grouping is None:
        return part.labels
    unit = settings.aggregation.unit
    return task.aggregation_rules.labels(part.labels, grouping, unit, ordered).labels


def check_units(settings: Settings, datasets: Mapping[str, Dataset]) -> list[str]:
    """Check the units of open data sets, by their names in a plan; see `check_parts`."""
    if settings.aggregation is None:
        return []
    dataset = datasets[DATA]
    images = {
        VAL: dataset.val,
        TEST: dataset.test,
        **{
            f"{NATURAL}{name.removeprefix(NATURAL_DATA)}": natural.test
            for name, natural in datasets.items()
            if name.startswith(NATURAL_DATA)
        },
    }
    parts = {
        name: LabelledPart(part.labels.numpy(), part.groups)
        for name, part in images.items()
        if part is not None
    }
    others = [name.removeprefix(OOD_DATA) for name in datasets if name.startswith(OOD_DATA)]
    return check_parts(
        settings,
        parts,
        find_task(dataset.task),
        dataset.classes,
        ordered=settings.ordered or has_ordered_classes(dataset.notes),
        others=others,
    )


def check_parts(
    settings: Settings,
    parts: Mapping[str, LabelledPart],
    task: Task,
    classes: tuple[str, ...],
    *,
    ordered: bool,
    others: Sequence[str] = (),
) -> list[str]:
    """Check that every unit, such as a patient, has one label and one value of each slice.

    Args:
        settings: with the names of aggregates.
        parts: the test images and, if there are some, the validation images, by name; also other
            images of the same classes.
        task: of the labels.
        classes: their names.
        ordered: whether the classes are in an order.
        others: the names of data sets without labels.

    Returns:
        Lines for people.

    Raises `InputError` if a part has no units, or if the images of a unit differ.
    """
    if settings.aggregation is None:
        return []
    aggregation = settings.aggregation
    if others:
        raise InputError(
            f"ood cannot be given with unit: nothing says which {aggregation.unit} an image of "
            f"{others[0]} is of; leave one of them out"
        )
    if len(aggregation.names) > 1 and VAL not in parts:
        raise InputError(
            "an aggregate is chosen on validation images, which these data do not have: name one, "
            f"such as aggregate {MEAN} (--aggregate {MEAN})"
        )
    return list(_check_each(aggregation, settings, parts, task, classes, ordered))


def _check_each(
    aggregation: Aggregation,
    settings: Settings,
    parts: Mapping[str, LabelledPart],
    task: Task,
    classes: tuple[str, ...],
    ordered: bool,
) -> Iterator[str]:
    unit = aggregation.unit
    for name, (labels, groups) in parts.items():
        called = f"{CALLED.get(name, name)} images"
        grouping = _find_units(groups, unit, called)
        assert groups is not None
        _check_slices(groups, grouping, aggregation)
        aggregated = task.aggregation_rules.labels(labels, grouping, unit, ordered)
        if name == VAL:
            check_targets(settings.operating_points, classes, aggregated.labels, None)
            for variant in settings.variants:
                keys = np.arange(grouping.count)
                variant.check_images(keys, aggregated.labels, classes, None)
        few, most = grouping.sizes.min(), grouping.sizes.max()
        sizes = f"{few:,}" if few == most else f"{few:,} to {most:,}"
        yield (
            f"unit           {unit}: {aggregation.count_units(grouping.count)} of {len(labels):,} "
            f"{called}, {sizes} each"
        )
        if aggregated.differing:
            rule = "the highest counts"
            if task is not CLASSIFICATION_TASK:
                rule = f"a {unit} has a finding if one of the images has it"
            yield (
                f"note           the labels of images differ in "
                f"{aggregation.count_units(aggregated.differing)}: {rule}"
            )
    names = aggregation.names
    chosen = f"the best of {', '.join(names)} by validation {aggregation.plural}"
    words = chosen if len(names) > 1 else f"{names[0]}: {find_aggregate(names[0]).description}"
    yield f"aggregate      {words}"


def _find_units(groups: Groups | None, unit: str, images: str) -> Grouping:
    grouping = number_groups(groups)
    if groups is None or grouping is None:
        raise InputError(
            f"unit {unit} needs the {unit} of every image, and nothing says it of the {images}: "
            "name a table with a row for each image as metadata (--metadata)"
        )
    if groups.group != unit:
        raise InputError(
            f"unit is {unit}, and the {images} belong together by {groups.group}: they must be the "
            "same column"
        )
    return grouping


def _check_slices(groups: Groups, grouping: Grouping, aggregation: Aggregation) -> None:
    for column, values in groups.slices.items():
        pairs = {(number, value) for number, value in zip(grouping.numbers, values, strict=True)}
        several = len(pairs) - grouping.count
        if several:
            count = sum(
                number > 1 for number in np.bincount([number for number, _ in pairs]).tolist()
            )
            raise InputError(
                f"the images of {count} of {grouping.count} {aggregation.plural} differ in "
                f"{column}, so no slice has these {aggregation.plural} whole: leave the slice "
                f"{column} out (--slice), or judge images (no --unit)"
            )

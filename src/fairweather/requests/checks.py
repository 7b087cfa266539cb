"""One check of a measurement, once classes and labels are known, for every kind of run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fairweather.errors import InputError
from fairweather.metrics.aggregates import MEAN, find_aggregate
from fairweather.metrics.columns import IntArray
from fairweather.metrics.grouping import Grouping, number_groups
from fairweather.metrics.metric import find_point
from fairweather.metrics.operating_points import count_sought, explain_few, fewest_for_target
from fairweather.steps.measurement import OOD_DATA, Settings
from fairweather.steps.plan import DATA, NATURAL_DATA
from fairweather.steps.worker import get_splits
from fairweather.tasks import CLASSIFICATION_TASK, Task
from fairweather.types.measurement import UNKNOWN, Dataset, Groups
from fairweather.types.operating_points import OperatingPoints, list_targets
from fairweather.types.options import Aggregation
from fairweather.types.record import NATURAL, TEST, VAL
from fairweather.variants.variant import VARIANTS, Variant, variant_class

CALLED = {VAL: "validation"}  # of parts that messages call otherwise


class LabelledPart(NamedTuple):
    """The labels of images, or of units such as patients, and which of them belong together."""

    keys: IntArray
    labels: IntArray
    groups: Groups | None = None


def list_parts(datasets: Mapping[str, Dataset]) -> dict[str, LabelledPart]:
    """The labelled images of open data sets that are predicted, by their names in the run."""
    images = {VAL: datasets[DATA].val, TEST: datasets[DATA].test}
    for name, natural in datasets.items():
        if name.startswith(NATURAL_DATA):
            images[f"{NATURAL}{name.removeprefix(NATURAL_DATA)}"] = natural.test
    return {
        name: LabelledPart(part.keys.numpy(), part.labels.numpy(), part.groups)
        for name, part in images.items()
        if part is not None
    }


def check_measurement(
    settings: Settings,
    parts: Mapping[str, LabelledPart],
    task: Task,
    classes: tuple[str, ...],
    *,
    name: str,
    ordered: bool,
    others: Iterable[str] = (),
) -> list[str]:
    """Check variants, targets and units against the labels; returns lines about the units.

    Args:
        settings: with the settings about classes.
        parts: the test images and, if there are some, the validation images, by name; also other
            images of the same classes.
        task: of the labels.
        classes: their names.
        name: of the data set.
        ordered: whether the classes are in an order.
        others: the names of data sets in the plan, of which some may have no labels.

    Raises `InputError` for a variant that does not accept the task, for validation images that
    cannot show a target or fit a variant, and for units that are missing, or whose images differ.
    """
    check_variants(settings.variants, task, name, ordered=ordered)
    lines, judged = list[str](), parts.get(VAL)
    grouping = None if judged is None else number_groups(judged.groups)
    if (aggregation := settings.aggregation) is not None:
        unlabelled = [other for other in others if other.startswith(OOD_DATA)]
        _check_chosen(aggregation, parts, unlabelled)
        for part in parts:
            units, said = _gather_units(aggregation, parts[part], part, task, ordered)
            lines += said
            if part == VAL:
                judged, grouping = units, None
        lines.append(_describe_aggregate(aggregation))
    if judged is not None:
        check_targets(settings.operating_points, classes, judged.labels, grouping)
        for variant in settings.variants:
            variant.check_images(judged.keys, judged.labels, classes, grouping)
    return lines


# ---------------------------------------------------------------- validation images

SPLIT_HINT = "set some aside with validation_fraction (--validation-fraction), such as 0.2"


def check_has_validation(settings: Settings, name: str, way_out: str = SPLIT_HINT) -> None:
    """Raise `InputError` if a variant or a target needs validation images, which data lack.

    `way_out` says how to get some.
    """
    for _, target in list_targets(settings.operating_points):
        raise InputError(
            f"the threshold for {target} is chosen on validation images, which {name} does not "
            f"have: {way_out}"
        )
    for variant in settings.variants:
        if variant.post_hoc:
            raise InputError(
                f"{variant.kind} is fitted on validation images, which {name} does not have: "
                f"{way_out}"
            )
        if variant.adapting is not None and variant.adapting.source_images:
            raise InputError(
                f"{variant.kind} learns from validation images, which {name} does not have: "
                f"{way_out}, or choose 'eata: {{fisher_weight: 0}}'"
            )


def check_targets(
    points: OperatingPoints, classes: Sequence[str], labels: IntArray, grouping: Grouping | None
) -> None:
    """Raise `InputError` if validation images could not show a target, even without any error.

    Args:
        points: of each class or finding.
        classes: their names.
        labels: of clean validation images, int64 `[N]`, or `[N, L]` of findings.
        grouping: which of them belong together.
    """
    for name, target in list_targets(points):
        known = np.arange(len(labels))
        if labels.ndim == 1:
            place = find_point(name, classes)
            assert place is not None, "the points are checked"
            present = labels >= place.label if place.onwards else labels == place.label
        else:
            column = list(classes).index(name)
            known = np.flatnonzero(labels[:, column] != UNKNOWN)
            present = labels[known, column] == 1
        own = grouping.select(known) if grouping is not None and len(known) else None
        units = count_sought(present, target, own)
        if units < fewest_for_target(target):
            raise InputError(explain_few(target, units, grouped=grouping is not None, name=name))


# ---------------------------------------------------------------- variants and units


def check_variants(
    variants: Iterable[Variant], task: Task, name: str, *, ordered: bool = False
) -> None:
    """Raise `InputError` unless all variants accept the task of the data set with this name.

    `ordered` says whether its classes are in an order.
    """
    for variant in variants:
        if variant.needs_order and not ordered:
            raise InputError(
                f"{variant.name} is for classes in an order, such as grades: say so with "
                "ordered_classes (--ordered-classes), or use another method"
            )
        if not set(variant.accepts) & set(task.kinds):
            every = {kind: variant_class(kind)() for kind in VARIANTS}
            allowed = [kind for kind, own in every.items() if set(own.accepts) & set(task.kinds)]
            raise InputError(
                f"{variant.kind} does not accept the {task.noun} of {name}: use one of "
                f"{', '.join(allowed)}"
            )


def check_labels(dataset: Dataset, task: Task) -> None:
    """Raise `InputError` for labels that do not fit the task of their data set."""
    for images in get_splits(dataset).values():
        task.check(images.labels.numpy(), images.classes)


def label_units(settings: Settings, part: LabelledPart, task: Task, *, ordered: bool) -> IntArray:
    """The labels of what is judged: of images, or of units such as patients."""
    grouping = number_groups(part.groups)
    if settings.aggregation is None or grouping is None:
        return part.labels
    unit = settings.aggregation.unit
    return task.aggregation_rules.labels(part.labels, grouping, unit, ordered).labels


def _check_chosen(
    aggregation: Aggregation, parts: Mapping[str, LabelledPart], unlabelled: Sequence[str]
) -> None:
    if unlabelled:
        raise InputError(
            f"ood cannot be given with unit: nothing says which {aggregation.unit} an image of "
            f"{unlabelled[0].removeprefix(OOD_DATA)} is of; leave one of them out"
        )
    if len(aggregation.names) > 1 and VAL not in parts:
        raise InputError(
            "an aggregate is chosen on validation images, which these data do not have: name one, "
            f"such as aggregate {MEAN} (--aggregate {MEAN})"
        )


def _gather_units(
    aggregation: Aggregation, part: LabelledPart, name: str, task: Task, ordered: bool
) -> tuple[LabelledPart, list[str]]:
    """The units of some images, each with one label and one value of each slice, and what to say
    of them."""
    unit, called = aggregation.unit, f"{CALLED.get(name, name)} images"
    grouping = _find_units(part.groups, unit, called)
    assert part.groups is not None
    _check_slices(part.groups, grouping, aggregation)
    aggregated = task.aggregation_rules.labels(part.labels, grouping, unit, ordered)
    few, most = grouping.sizes.min(), grouping.sizes.max()
    sizes = f"{few:,}" if few == most else f"{few:,} to {most:,}"
    said = [
        f"unit           {unit}: {aggregation.count_units(grouping.count)} of "
        f"{len(part.labels):,} {called}, {sizes} each"
    ]
    if aggregated.differing:
        rule = "the highest counts"
        if task is not CLASSIFICATION_TASK:
            rule = f"a {unit} has a finding if one of the images has it"
        said.append(
            f"note           the labels of images differ in "
            f"{aggregation.count_units(aggregated.differing)}: {rule}"
        )
    return LabelledPart(np.arange(grouping.count), aggregated.labels), said


def _describe_aggregate(aggregation: Aggregation) -> str:
    names = aggregation.names
    if len(names) == 1:
        return f"aggregate      {names[0]}: {find_aggregate(names[0]).description}"
    chosen = f"the best of {', '.join(names)} by validation {aggregation.plural}"
    return f"aggregate      {chosen}"


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

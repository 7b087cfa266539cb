"""From what a person asks of a measurement to its settings: one path for every kind of run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fairweather.attacks.shift_lists import expand_fit_shifts
from fairweather.devices import Arithmetic
from fairweather.requests.aggregation import read_aggregation, resolve_aggregates
from fairweather.requests.costs import read_costs
from fairweather.requests.evaluation_options import MeasurementOptions
from fairweather.requests.inputs import check_operating_points
from fairweather.steps.measurement import Settings
from fairweather.tasks import Task
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import Attack, Shift
from fairweather.types.operating_points import parse_operating_points


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

"""What the options of an evaluation mean: settings, titles, label mapping and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fairweather.attacks.shift_lists import expand_fit_shifts
from fairweather.devices import Arithmetic
from fairweather.errors import InputError, unknown_name
from fairweather.metrics.metric import parse_operating_points
from fairweather.models.labels import read_label_file
from fairweather.requests.evaluation_options import EvaluationOptions
from fairweather.requests.inputs import (
    PartialPriors,
    Settings,
    check_operating_points,
    complete_priors,
)
from fairweather.types.measurement import Attack, Shift
from fairweather.types.options import GroupColumns, slice_name


def model_titles(
    asked: str | Mapping[str, str] | tuple[str, ...] | None, names: Iterable[str]
) -> dict[str, str]:
    """The title of each model: the one that was asked for, or its name.

    Raises `InputError` for a title of a model that is not there, and for one title of several.

    >>> model_titles({"plain": "Plain training"}, ["plain", "mixup"])
    {'plain': 'Plain training', 'mixup': 'mixup'}
    """
    own = {name: name for name in names}
    if asked is None:
        return own
    if isinstance(asked, Mapping):
        pairs = dict(asked)
    else:
        texts = (asked,) if isinstance(asked, str) else asked
        parted = [text.partition("=") for text in texts]
        pairs = {name: title for name, _, title in parted}
        if len(own) == 1 == len(texts) and not pairs.keys() <= own.keys():
            return dict.fromkeys(own, texts[0])
        if not all(separator for _, separator, _ in parted):
            raise InputError(
                f"title names one model, and there are {len(own)}: give each its own, as "
                f"{next(iter(own))}=TITLE, or in Python a dict of titles by name"
            )
    for name in pairs:
        if name not in own:
            raise unknown_name("model in title:", name, own)
    titles = {**own, **pairs}
    named: dict[str, str] = {}
    for name, title in titles.items():
        if (first := named.setdefault(title, name)) != name:
            raise InputError(f"title: {first} and {name} are both called {title!r}")
    return titles


def make_settings(
    options: EvaluationOptions, shifts: tuple[Shift | Attack, ...], device: torch.device
) -> Settings:
    """How an evaluation measures; what is asked of the classes is added when these are known.

    Raises `InputError` for a shift that is fitted on and tested too, and for what the device cannot
    compute.
    """
    arithmetic = Arithmetic(options.precision, options.cudnn_benchmark)
    arithmetic.check(device)
    return Settings(
        shifts=shifts,
        fit_on=expand_fit_shifts(options.fit_on, shifts),
        threads=options.threads or torch.get_num_threads(),
        device=device,
        variants=options.all_variants,
        shift_seed=options.shift_seed,
        batch_size=options.batch_size,
        arithmetic=arithmetic,
        bootstrap=options.bootstrap,
    )


def add_class_settings(
    settings: Settings,
    options: EvaluationOptions,
    priors: PartialPriors,
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
) -> Settings:
    """Add what is asked of the classes, once these and the labels are known.

    Raises `InputError` for an unknown class, for a number that is no probability, and for what
    labels of another task have not.
    """
    if labels.ndim > 1:
        of_one = ("ordered_classes", "priors", "operating_points", "ood", "slices")
        if asked := [name for name in of_one if getattr(options, name)]:
            raise InputError(f"{asked[0]} is for classification, and these images have more labels")
        return settings
    points = parse_operating_points(options.operating_points)
    return replace(
        settings,
        ordered=options.ordered_classes,
        priors=complete_priors(priors, labels, classes),
        operating_points=check_operating_points(points, classes),
    )


def read_label_map(options: EvaluationOptions) -> Mapping[str, object] | None:
    """The label mapping that was given, read from its file if it is in one."""
    given = options.class_map
    return read_label_file(given) if isinstance(given, Path) else given


def group_columns(options: EvaluationOptions) -> GroupColumns | None:
    """Which columns say what belongs together; None if none are asked for."""
    given = (options.metadata, options.group, options.slices, options.allow_shared_groups)
    if not any(given):
        return None
    path = None if options.metadata is None else str(options.metadata)
    slices = tuple(map(slice_name, options.slices))
    return GroupColumns(path, options.group, slices, options.allow_shared_groups)


def check_loaded_dataset(options: EvaluationOptions) -> None:
    """Raise `InputError` for options that only a data set by name can have."""
    if group_columns(options) is not None:
        raise InputError(
            "metadata goes with the name of a data set; this one is loaded already: give load_data "
            "the table, as groups=GroupColumns(...)"
        )
    names = ["size", "root", "limit", "validation_fraction"]
    if not options.ood and not options.natural:  # whose files are still to be read
        names += ["skip_unreadable", "allow_duplicates", "scale"]
    if given := [name for name in names if getattr(options, name)]:
        raise InputError(
            f"{' and '.join(given)} cannot be given for a data set that is loaded already: give it "
            "to load_data, or name the data set here"
        )

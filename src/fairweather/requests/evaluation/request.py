"""The request for an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.attacks.shift_lists import expand_fit_shifts
from fairweather.devices import Arithmetic
from fairweather.errors import InputError, unknown_name
from fairweather.metrics.metric import parse_operating_points
from fairweather.models.labels import read_label_file
from fairweather.models.predictions.files import PredictionSource
from fairweather.models.predictions.tables import Column
from fairweather.requests.evaluation_options import EvaluationOptions
from fairweather.requests.inputs import (
    ClassSettings,
    PartialPriors,
    Settings,
    check_operating_points,
    complete_priors,
)
from fairweather.types.measurement import Attack, Dataset, Shift
from fairweather.types.options import GroupColumns, slice_name

UNKNOWN_SEED = 0  # of a model whose seed nobody names


class ModelName(NamedTuple):
    """What a model is called, and the seed that it was trained with."""

    model: str
    seed: int = UNKNOWN_SEED


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


@dataclass(frozen=True)
class ModelRequest:
    """A model, its data, the shifts and the options; see `evaluate`.

    Attributes:
        more: further models that are measured on the same images.
        names: of all of them, in their order; empty if each has the name that it was opened with.
    """

    model: str | nn.Module
    dataset: str | Dataset
    shifts: tuple[Shift | Attack, ...]
    options: EvaluationOptions
    more: tuple[str | nn.Module, ...] = ()
    names: tuple[ModelName, ...] = ()

    @property
    def is_by_name(self) -> bool:
        """Whether another process can open the models and the data."""
        models = (self.model, *self.more)
        return isinstance(self.dataset, str) and all(isinstance(each, str) for each in models)

    def each(self) -> list[ModelRequest]:
        """The same request for each model alone."""
        each = (self.model, *self.more)
        return [replace(self, model=model, more=(), names=()) for model in each]


@dataclass(frozen=True)
class PredictionsRequest:
    """Predictions that were made elsewhere, what they are of, and the options; see `evaluate`.

    Attributes:
        source: `predictions:PATH`, or that they are predictions of this process.
        name: the name for a run folder.
        predictions: of every model, seed and shift.
        dataset: the images that they are of; None if the labels are with the predictions.
        labels: the label of each row, whole numbers or text `[N]`; None if a file or the data set
            has them.
    """

    source: str
    name: str
    predictions: tuple[PredictionSource, ...]
    dataset: str | Dataset | None
    labels: Column | None
    options: EvaluationOptions


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


def make_class_settings(
    options: EvaluationOptions,
    priors: PartialPriors,
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
) -> ClassSettings:
    """What an evaluation asks of the classes, once these and the labels are known.

    Raises `InputError` for an unknown class, for a number that is no probability, and for what
    labels of another task have not.
    """
    if labels.ndim > 1:
        of_one = ("ordered_classes", "priors", "operating_points", "ood", "slices")
        if asked := [name for name in of_one if getattr(options, name)]:
            raise InputError(f"{asked[0]} is for classification, and these images have more labels")
        return ClassSettings()
    return ClassSettings(
        ordered=options.ordered_classes,
        priors=complete_priors(priors, labels, classes),
        operating_points=check_operating_points(
            parse_operating_points(options.operating_points), classes
        ),
    )


def read_label_map(options: EvaluationOptions) -> Mapping[str, object] | None:
    """The label mapping that was given, read from its file if it is in one."""
    given = options.labels
    return read_label_file(given) if isinstance(given, Path) else given


def group_columns(options: EvaluationOptions) -> GroupColumns | None:
    """Which columns say what belongs together; None if none are asked for."""
    given = (options.metadata, options.cluster, options.slices, options.allow_shared_clusters)
    if not any(given):
        return None
    path = None if options.metadata is None else str(options.metadata)
    slices = tuple(map(slice_name, options.slices))
    return GroupColumns(path, options.cluster, slices, options.allow_shared_clusters)


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

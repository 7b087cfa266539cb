"""Turn the options of an evaluation into its settings, titles, label mapping and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.grouping import number_groups
from fairweather.models.labels import read_label_file
from fairweather.models.predictions.matching import KnownImages
from fairweather.models.predictions.readers import ReaderTable, describe_readers, match_readers
from fairweather.requests.checks import LabelledPart, label_units
from fairweather.requests.evaluation_options import EvaluationOptions
from fairweather.requests.settings import (
    PartialPriors,
    add_unit,
    complete_prevalences,
    complete_priors,
)
from fairweather.steps.measurement import Settings
from fairweather.tasks import Task
from fairweather.types.measurement import CLASSIFICATION, MULTILABEL, Dataset, ReaderCalls
from fairweather.types.options import GroupColumns, normalize_slice
from fairweather.types.positive import PositiveClasses
from fairweather.types.record import TEST

# What to do in place of options that need classes.
INSTEAD_FOR_FINDINGS = {
    "ordered_classes": "leave it out; of grades, positive '>=GRADE' (--positive) makes findings "
    "without it",
    "ood": "name images with the same findings with natural (--natural)",
}


def model_titles(
    given: str | Mapping[str, str] | tuple[str, ...] | None, names: Iterable[str]
) -> dict[str, str]:
    """The title of each model: the given one, or its name.

    Raises `InputError` for a title of an unknown model, and for a title that several models share.

    >>> model_titles({"plain": "Plain training"}, ["plain", "mixup"])
    {'plain': 'Plain training', 'mixup': 'mixup'}
    """
    titles = {name: name for name in names}
    if given is None:
        return titles
    if isinstance(given, Mapping):
        title_by_name = dict(given)
    else:
        texts = (given,) if isinstance(given, str) else given
        parts = [text.partition("=") for text in texts]
        title_by_name = {name: title for name, _, title in parts}
        if len(titles) == 1 == len(texts) and not title_by_name.keys() <= titles.keys():
            return dict.fromkeys(titles, texts[0])  # the title of the only model, without NAME=
        if not all(equals_sign for _, equals_sign, _ in parts):
            raise InputError(
                f"title names one model, and there are {len(titles)}: give each its own, as "
                f"{next(iter(titles))}=TITLE, or in Python a dict of titles by name"
            )
    for name in title_by_name:
        if name not in titles:
            raise unknown_name("model in title:", name, titles)
    titles |= title_by_name
    name_by_title: dict[str, str] = {}
    for name, title in titles.items():
        if (first := name_by_title.setdefault(title, name)) != name:
            raise InputError(f"title: {first} and {name} are both called {title!r}")
    return titles


def add_priors(
    settings: Settings,
    options: EvaluationOptions,
    priors: PartialPriors,
    test: LabelledPart,
    classes: tuple[str, ...],
    task: Task,
    ordered: bool,
) -> Settings:
    """Add the priors, once classes and labels are known.

    Raises `InputError` for an unknown class, for a number that is not a probability, and for
    settings that are only for classification, if an image has several labels.
    """
    labels = label_units(settings, test, task, ordered=ordered)
    if labels.ndim > 1:
        refuse_class_options(options, MULTILABEL)
        return replace(settings, priors=complete_prevalences(priors, labels, classes))
    return replace(settings, priors=complete_priors(priors, labels, classes))


def refuse_class_options(options: EvaluationOptions, task: str) -> None:
    """Raise `InputError` for an option that images of a task have no use for."""
    of_classes = ("ordered_classes", "ood") if task != CLASSIFICATION else ()
    also_of_findings = ("priors", "costs") if task not in (CLASSIFICATION, MULTILABEL) else ()
    for name in (*of_classes, *also_of_findings):
        if getattr(options, name):
            instead = INSTEAD_FOR_FINDINGS.get(name, "leave it out")
            raise InputError(
                f"{name} is for classification, and these images have findings: {instead}"
            )


def read_label_map(options: EvaluationOptions) -> Mapping[str, object] | None:
    """The given label mapping, read from its file if it has one."""
    class_map = options.class_map
    return read_label_file(class_map) if isinstance(class_map, Path) else class_map


def group_columns(options: EvaluationOptions) -> GroupColumns | None:
    """The columns with the groups and slices of the images; None if no option is about them."""
    asked = (options.metadata, options.group, options.slices, options.allow_shared_groups)
    if not any((*asked, options.unit, options.sites)):
        return None
    path = None if options.metadata is None else str(options.metadata)
    slices = tuple(map(normalize_slice, options.slices))
    slices += tuple(site for site in map(normalize_slice, options.sites) if site not in slices)
    columns = GroupColumns(path, options.group, slices, options.allow_shared_groups)
    return add_unit(columns, options.unit)


def check_loaded_dataset(options: EvaluationOptions) -> None:
    """Raise `InputError` for options that a data set which is loaded already cannot follow."""
    if group_columns(replace(options, unit=None, sites=())) is not None:
        raise InputError(
            "metadata goes with the name of a data set; this one is loaded already: give load_data "
            "the table, as groups=GroupColumns(...)"
        )
    names = ["size", "root", "limit", "validation_fraction"]
    # The data sets of `ood` and `natural` are read later, with these options.
    if not options.ood and not options.natural:
        names += ["skip_unreadable", "allow_duplicates", "scale"]
    if given := [name for name in names if getattr(options, name)]:
        raise InputError(
            f"{' and '.join(given)} cannot be given for a data set that is loaded already: give it "
            "to load_data, or name the data set here"
        )


def list_known_images(dataset: Dataset, parts: Sequence[str]) -> dict[str, KnownImages]:
    """What is known of the images of some splits, for tables about them."""
    known = {}
    for part in parts:
        images = getattr(dataset, part)
        names = None if images.names is None else images.names.tolist()
        place = f"the {part} images of {dataset.name}"
        if part == TEST and (every := dataset.notes.get("limit_of")):
            kept = f"that limit keeps (of {every:,}: leave limit out for all)"
            place = f"the {len(images):,} test images of {dataset.name} {kept}"
        known[part] = KnownImages(
            images.labels.numpy(),
            images.keys.numpy(),
            names,
            place,
            are_files=names is not None,
            groups=images.groups,
        )
    return known


def read_calls(
    tables: Sequence[ReaderTable],
    images: Mapping[str, KnownImages],
    classes: tuple[str, ...],
    options: EvaluationOptions,
    settings: Settings,
    positive: PositiveClasses | None,
) -> tuple[ReaderCalls | None, list[str]]:
    """What people call each test image, and a line about it; None if there are no tables.

    Raises `InputError` for what `match_readers` refuses, and for different classes of one patient.
    """
    if not tables:
        return None, []
    known, unit = images[TEST], None if settings.aggregation is None else settings.aggregation.unit
    readers = match_readers(tables, known, classes, options.key_column, positive, unit)
    if unit is not None and (grouping := number_groups(known.groups)) is not None:
        mixed = known.labels.ndim > 1 or settings.ordered
        readers.join_images(grouping.numbers, unit, mixed=mixed)  # raises
    remarks = [table.remark for table in tables if table.remark]
    return readers, [f"readers        {describe_readers(readers, remarks)}"]

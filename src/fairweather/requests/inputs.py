"""The common form of all requests, a trial of it on one image, and its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from fairweather.attacks.problem import needs_classes_error
from fairweather.attacks.table import ATTACKS, select_labels
from fairweather.data.corrupted import BENCHMARK, find_published_set
from fairweather.errors import InputError, check_name, join_names, unknown_name
from fairweather.files.yamlfile import parse_yaml, read_yaml
from fairweather.metrics.columns import IntArray
from fairweather.metrics.grouping import Grouping, number_groups
from fairweather.metrics.metric import find_point, list_onwards
from fairweather.metrics.operating_points import count_sought, explain_few, fewest_for_target
from fairweather.metrics.robustness import ALEXNET, SEVERITIES
from fairweather.progress import Event, Notify, silent
from fairweather.runs.folder import StoredGroups
from fairweather.steps.measurement import (
    OOD_DATA,
    DataFacts,
    MeasuredModel,
    Measurement,
    Settings,
    plan_conclusion,
    plan_models,
)
from fairweather.steps.plan import (
    DATA,
    NATURAL_DATA,
    Plan,
    PlannedDataset,
    PlannedModel,
    Step,
    link_steps,
)
from fairweather.steps.sweeps import digest_published, pair_published
from fairweather.steps.worker import get_splits, open_data
from fairweather.tasks import CLASSIFICATION_TASK, Task, find_task
from fairweather.types.measurement import (
    UNKNOWN,
    AnyPredictions,
    Attack,
    Dataset,
    Images,
    ReaderCalls,
    Shift,
)
from fairweather.types.operating_points import (
    EVERY,
    RATES,
    OperatingPoints,
    TargetRate,
    list_points,
    list_targets,
    parse_point,
    store_points,
)
from fairweather.types.positive import FROM
from fairweather.types.record import NATURAL, ModelRecord, has_ordered_classes
from fairweather.variants.variant import VARIANTS, Variant, variant_class

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


# ---------------------------------------------------------------- inputs


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """The trainings of a study, before it measures."""

    steps: tuple[Step, ...] = ()
    """Pre-trainings and trainings, each after those that it needs."""

    reports: tuple[str, ...] = ()
    """The files of these steps that the report reads."""

    mixup: bool = False
    """Whether MixUp is used; then the samples show an example."""

    pretraining: Mapping[str, ModelRecord] = field(default_factory=dict)
    """The record of each pre-training."""

    seen_shifts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The test shifts that each model is trained with, and what makes them."""

    precision: str | None = None
    """Of the trainings, as given."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run measures: the form that studies, evaluations and joined seeds all become."""

    kind: Literal["study", "evaluation"]
    name: str
    title: str
    description: str = ""
    """`kind`, `name`, `title`, `description`: of the run."""

    sources: Mapping[str, PlannedDataset]
    """How each data set is loaded, by its name in the plan."""

    facts: Mapping[str, DataFacts]
    """What is known of each data set, by the same name. If predictions came with labels and without
    images, `data` has facts and no source."""

    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    """The data sets that are open; empty if the run is only planned."""

    models: Sequence[MeasuredModel]
    """In the order of the request; an ensemble comes after its members."""

    records: Mapping[str, ModelRecord]
    """The record of each model, by name."""

    seeds: tuple[int, ...]
    """Of all models."""

    settings: Settings
    """How everything is measured."""

    trainings: Trainings = field(default_factory=Trainings)
    """The trainings before the measurements."""

    networks: Sequence[tuple[PlannedModel, nn.Module]] = ()
    """For each model from elsewhere, how other processes open it, and its open network, which
    returns logits."""

    read_predictions: Callable[[str], AnyPredictions] | None = None
    """Reads predictions of other programs, by the name of the file in the run."""

    groups: Mapping[str, StoredGroups] = field(default_factory=dict)
    """What belongs together in such predictions without images, by split."""

    readers: ReaderCalls | None = None
    """What people call each test image; None if nobody was asked."""

    pictured: tuple[Shift, ...] | None = None
    """The shifts whose images the report shows; None for all."""

    lines: Sequence[str] = ()
    """Facts about the inputs for people, one per line."""

    advice: str = ""
    """What to check if a model is no better than chance. If it is empty, the accuracy on clean
    images is not reported."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Texts of further files of the run folder, by name."""


def make_measurement(inputs: Inputs) -> Measurement:
    """Combine the data and settings that all models are measured with."""
    facts, settings = inputs.facts, inputs.settings
    data = facts[DATA]
    return Measurement(
        **vars(settings),
        data=replace(data, ordered=data.ordered or settings.ordered),
        others=_select_facts(OOD_DATA, facts),
        natural=_select_facts(NATURAL_DATA, facts, NATURAL),
        reports=inputs.trainings.reports,
        mixup=inputs.trainings.mixup,
        pictured=inputs.pictured,
        readers=inputs.readers,
    )


def _select_facts(
    prefix: str, facts: Mapping[str, DataFacts], new_prefix: str = ""
) -> dict[str, DataFacts]:
    """The data sets whose names in the plan have a prefix, which is replaced."""
    selected = {name: fact for name, fact in facts.items() if name.startswith(prefix)}
    return {f"{new_prefix}{name.removeprefix(prefix)}": fact for name, fact in selected.items()}


def make_plan(inputs: Inputs) -> Plan:
    """Plan all steps of a run: trainings, predictions, scores and report."""
    measurement = make_measurement(inputs)
    sources = {
        name: replace(source, digests=dict(inputs.facts[name].digests))
        for name, source in inputs.sources.items()
    }
    steps = [
        *inputs.trainings.steps,
        *plan_models(measurement, inputs.models),
        *plan_conclusion(measurement, inputs.models),
    ]
    published = {
        shift.id: shift.files.source
        for shift in (*measurement.shifts, *measurement.fit_on)
        if isinstance(shift, Shift) and shift.files is not None
    }
    return link_steps(sources, [planned for planned, _ in inputs.networks], steps, published)


def model_label(title: str, seed: int, seeds: Sequence[int]) -> str:
    """The name of a model in messages: its title, with the seed if there are several."""
    return f"{title}, seed {seed}" if len(seeds) > 1 else title


def open_datasets(
    sources: Mapping[str, PlannedDataset], *, offline: bool, progress: Notify | None
) -> dict[str, Dataset]:
    """Load data sets, by their names in the plan."""
    return {
        name: open_data(source, offline=offline, progress=progress)
        for name, source in sources.items()
    }


# ---------------------------------------------------------------- checks and trial on one image

SPLIT_HINT = "set some aside with validation_fraction (--validation-fraction), such as 0.2"


def check_has_validation(settings: Settings, name: str, *, has_validation: bool) -> None:
    """Raise `InputError` if a variant or a target needs validation images and there are none."""
    if has_validation:
        return
    for _, target in list_targets(settings.operating_points):
        raise InputError(
            f"the threshold for {target} is chosen on validation images, which {name} does not "
            f"have: {SPLIT_HINT}"
        )
    for variant in settings.variants:
        if variant.post_hoc:
            raise InputError(
                f"{variant.kind} is fitted on validation images, which {name} does not have: "
                f"{SPLIT_HINT}"
            )
        if variant.adapting is not None and variant.adapting.source_images:
            raise InputError(
                f"{variant.kind} learns from validation images, which {name} does not have: "
                f"{SPLIT_HINT}, or choose 'eata: {{fisher_weight: 0}}'"
            )


def check_task(dataset: Dataset, settings: Settings) -> None:
    """Raise `InputError` for labels, attacks or variants that do not fit the task of the data."""
    task = find_task(dataset.task)
    for images in get_splits(dataset).values():
        task.check(images.labels.numpy(), images.classes)
    for attack in settings.shifts:
        if isinstance(attack, Attack):
            if not set(ATTACKS[attack.name].accepts) & set(task.kinds):
                raise needs_classes_error(attack.name)
            select_labels(attack, dataset.test[:1])  # raises for an unknown finding
    ordered = settings.ordered or has_ordered_classes(dataset.notes)
    check_variants(settings.variants, task, dataset.name, ordered=ordered)


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


def try_settings(dataset: Dataset, settings: Settings, purpose: str) -> None:
    """Raise `InputError` for classes, variants or shifts that would fail later with any model.

    Args:
        dataset: the data set that is measured on.
        settings: how it is measured.
        purpose: what needs two classes, for the message.
    """
    if len(dataset.classes) < find_task(dataset.task).least_classes:
        raise InputError(
            f"{dataset.name} has only the class {dataset.classes[0]!r}: {purpose} needs at least "
            "two"
        )
    check_task(dataset, settings)
    check_has_validation(settings, dataset.name, has_validation=dataset.val is not None)
    points = check_operating_points(
        settings.operating_points,
        dataset.classes,
        find_task(dataset.task),
        ordered=settings.ordered or has_ordered_classes(dataset.notes),
    )
    if (val := dataset.val) is not None and settings.aggregation is None:
        keys, labels = val.keys.numpy(), val.labels.numpy()
        grouping = number_groups(val.groups)
        check_targets(points, val.classes, labels, grouping)
        for variant in settings.variants:
            variant.check_images(keys, labels, val.classes, grouping)
    image = dataset.test[:1]
    try_shifts([*settings.shifts, *settings.fit_on], image, settings.shift_seed)


def try_shifts(shifts: Sequence[Shift | Attack], image: Images, seed: int) -> None:
    """Apply every shift to one image; raises `InputError` for the first that does not work.

    Published files have been tried by `pair_published_files`.
    """
    for shift in shifts:
        if isinstance(shift, Shift) and shift.files is None:
            shift(image.images, image.keys, seed)


def note_streams(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """Note what must be known of the streams of networks that adapt, one per line."""
    for variant in settings.variants:
        if variant.adapting is variant and (
            remark := variant.remark(len(dataset.test), settings.batch_size)
        ):
            yield f"note           {variant.title}: {remark}"


def describe_published_files(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """Say which published files are measured, and which are missing, one fact per line."""
    cells: dict[str, list[Shift]] = {}
    for shift in settings.shifts:
        if isinstance(shift, Shift) and shift.files is not None:
            cells.setdefault(shift.name.partition("/")[0], []).append(shift)
    for family, shifts in cells.items():
        facts = find_published_set(family)
        assert facts is not None, "its name is that of a set"
        levels: dict[str, set[float | None]] = {}
        for shift in shifts:
            levels.setdefault(shift.name.partition("/")[2], set()).add(shift.level)
        of_all = "" if facts.images is None else f" of {facts.images:,}"
        measured, kinds = (
            f"{number} {noun}{'s' * (number != 1)}"
            for number, noun in ((len(shifts), "cell"), (len(levels), "corruption"))
        )
        yield (
            f"published      {facts.title}: {measured} of {kinds}, "
            f"{len(dataset.test):,}{of_all} images each"
        )
        if partial := [name for name, present in levels.items() if len(present) < SEVERITIES]:
            names = join_names(partial)
            yield f"note           {facts.title}: not all severities of {names} are measured"
        if family == BENCHMARK and (
            missing := [name for name in ALEXNET if len(levels.get(name, ())) < SEVERITIES]
        ):
            yield f"note           no mCE: not all severities of {join_names(missing)} are measured"


def pair_published_files(settings: Settings, dataset: Dataset, tell: Notify = silent) -> Settings:
    """Pair the published files among the shifts with the clean images of a data set.

    Raises `InputError` if files are missing, or differ from the clean images in labels or size.
    """
    count = len(digest_published(settings.shifts))

    def report(done: int) -> None:
        tell(Event("pair published files", done, count))

    shifts = tuple(pair_published(settings.shifts, dataset.test, report))
    fit_on = settings.fit_on
    if dataset.val is not None:
        fit_on = tuple(pair_published(fit_on, dataset.val))
    return replace(settings, shifts=shifts, fit_on=fit_on)


def try_model(model: nn.Module, settings: Settings, dataset: Dataset) -> None:
    """Try the variants and attacks on a model; raises `InputError` for one that does not work.

    The labels for the attacks are those that the model does not predict: an attack on a wrong
    answer checks its settings and does not search.
    """
    image = dataset.test[:1]
    pixels = image.images.float() / 255
    for variant in settings.variants:
        variant.check_network(model, pixels)
        if (adapting := variant.adapting) is not None:
            if adapting.takes_steps and settings.arithmetic.precision == "fp16":
                raise InputError(
                    f"precision fp16 rounds gradients of {variant.kind} to 0: use bf16 or fp32"
                )
            for part in filter(None, (dataset.val, dataset.test)):
                adapting.count_batches(len(part), settings.batch_size, model)
    attacks = [shift for shift in settings.shifts if isinstance(shift, Attack)]
    if not attacks:
        return
    with torch.no_grad():
        logits = model(pixels)
    if image.labels.ndim == 1:
        wrong_labels = (logits.argmax(1) + 1) % len(image.classes)
    else:
        wrong_labels = (logits < 0).long()
    for attack in attacks:
        attack(model, pixels, wrong_labels, image.keys, settings.shift_seed)
    # All other attacks need gradients, and a model may refuse to give them.
    if any(attack.name != "square" for attack in attacks):
        model(pixels.requires_grad_())

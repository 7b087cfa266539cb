"""From the models of a run to the steps that predict, score, sample and report."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from fairweather.data.loading import plan_loading
from fairweather.data.pixel_scans import digest
from fairweather.devices import FP32, Arithmetic
from fairweather.errors import unknown_name
from fairweather.metrics.detection import MOST_FEATURES
from fairweather.progress import Notify
from fairweather.report.samples import ATTACKED, INDEX, PICTURES
from fairweather.runs.folder import encode_readers
from fairweather.steps import plan
from fairweather.steps.predictions import groups_digest
from fairweather.steps.samples import MIXUP
from fairweather.steps.score_rows import is_imagenet_at_224
from fairweather.steps.sweeps import digest_published, group_by_sweep, shift_kind
from fairweather.steps.worker import get_splits, open_data
from fairweather.tasks import find_task
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import (
    CLASSIFICATION,
    Attack,
    Choices,
    Dataset,
    ReaderCalls,
    Shift,
)
from fairweather.types.operating_points import OperatingPoints
from fairweather.types.options import Aggregation
from fairweather.types.positive import PositiveClasses, read_positive
from fairweather.types.record import (
    ABSENT_METRICS,
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE,
    ENSEMBLE_SUFFIX,
    FIGURES,
    NATURAL,
    PAGE,
    READERS,
    RECORD,
    SCORES,
    SLICES,
    SUMMARY,
    TABLES,
    TEST,
    TRAIN,
    VAL,
    WARNINGS,
    adapted_file,
    features_file,
    groups_file,
    has_ordered_classes,
    predictions_file,
    variant_name,
)
from fairweather.variants.variant import CONTINUAL, GRADUAL, MIXED, Adapting, Variant

OOD_DATA = "ood:"  # prefix of the names of other data sets in a plan


@dataclass(frozen=True)
class DataFacts:
    """The facts of a data set that a plan needs; the images may never have been decoded."""

    name: str
    """The specification, with the size."""

    classes: tuple[str, ...]
    """Names in label order."""

    images: Mapping[str, int]
    """Number of images in each split."""

    digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of each split, if known."""

    side: tuple[int, int] | None = None
    """Height and width in pixels, if known."""

    natural_shift: bool = False
    """Whether the test images have a different origin from the other images."""

    groups: Mapping[str, str | None] = field(default_factory=dict)
    """The splits with known groups or subgroups of images, and a digest of these if known."""

    slices: tuple[str, ...] = ()
    """The names of the columns of subgroups."""

    ordered: bool = False
    """Whether the classes are in an order."""

    task: str = CLASSIFICATION
    """What is told of each image."""

    positive: PositiveClasses | None = None
    """The classes that the findings are made of; None if they are not."""

    choices: Choices | None = None
    """Of a published natural shift, the classes that a model chooses among, without rows."""

    def count_bytes(self, part: str) -> int:
        """The size of a split's 8-bit images in bytes; 0 if `side` is not known."""
        height, width = self.side or (0, 0)
        return self.images.get(part, 0) * 3 * height * width

    def reference(self, part: str, data: str = plan.DATA) -> plan.ImagesReference:
        """The reference to a split for a step."""
        return plan.ImagesReference(data=data, part=part, digest=self.digests.get(part))


def collect_facts(dataset: Dataset, parts: Collection[str] = (TRAIN, VAL, TEST)) -> DataFacts:
    """The facts of an open data set that a plan needs, with those of its splits that are used."""
    used = {part: images for part, images in get_splits(dataset).items() if part in parts}
    height, width = dataset.test.images.shape[2:]
    groups = dataset.test.groups
    return DataFacts(
        name=dataset.name,
        classes=dataset.classes,
        images={name: len(images) for name, images in used.items()},
        digests={name: digest(images) for name, images in used.items()},
        side=(height, width),
        natural_shift="natural_shift" in dataset.notes,
        groups={
            name: groups_digest(images.groups)
            for name, images in used.items()
            if name != TRAIN and images.groups is not None
        },
        slices=() if groups is None else tuple(groups.slices),
        ordered=has_ordered_classes(dataset.notes),
        task=dataset.task,
        positive=read_positive(dataset.notes),
        choices=None if dataset.test.choices is None else dataset.test.choices[:0],
    )


def survey_sources(
    sources: Mapping[str, plan.PlannedDataset],
    *,
    offline: bool = False,
    progress: Notify | None = None,
) -> dict[str, DataFacts]:
    """The facts of data sets that a plan needs; images that were never decoded stay so."""
    facts = {}
    for name, source in sources.items():
        loading = plan_loading(source.source, source, offline=offline, progress=progress)
        if all(entry.is_decoded for entry in loading.entries.values()):
            dataset = open_data(source, offline=offline, progress=progress)
            facts[name] = collect_facts(dataset)
        else:
            asked = source.groups
            facts[name] = DataFacts(
                loading.name,
                loading.classes,
                loading.images,
                natural_shift="natural_shift" in loading.source.notes,
                groups={} if asked is None else dict.fromkeys({VAL, TEST} & {*loading.entries}),
                slices=() if asked is None else asked.slice_names,
                ordered=loading.positive is None and has_ordered_classes(loading.source.notes),
                task=loading.task,
                positive=loading.positive,
                choices=loading.choices,
            )
    return facts


@dataclass(frozen=True)
class MeasuredModel:
    """A model that is measured."""

    name: str
    """Its name in the run, also for folders."""

    seed: int | str
    """Random seed of its training; 0 for a model from elsewhere, `ensemble` for an ensemble."""

    title: str
    """Title of the model."""

    label: str
    """Its name in progress messages: the title, with the seed if there are several."""

    network: plan.AnyNetwork | None
    """The network that predicts; None if its predictions were made elsewhere."""

    members: tuple[MeasuredModel, ...] = ()
    """Members of an ensemble; they are measured before it."""

    given: Mapping[str, str] = field(default_factory=dict)
    """The digests of predictions that were made elsewhere, by the file for each."""

    def way(self, file: str) -> plan.ForwardPass | plan.GivenPredictions:
        """How the model's own predictions in a file are made."""
        if self.network is None:
            return plan.GivenPredictions(digest=self.given[file])
        return plan.ForwardPass(network=self.network)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the models of a run are measured."""

    shifts: tuple[Shift | Attack, ...]
    """Clean first, then every shift and attack at every level."""

    threads: int
    """Threads of every step."""

    device: torch.device
    variants: tuple[Variant, ...] = ()
    fit_on: tuple[Shift, ...] = ()
    """The shifts of the validation images that some variants are fitted on."""

    shift_seed: int = 0
    batch_size: int = 256
    arithmetic: Arithmetic = FP32
    """How networks are computed."""

    bootstrap: int = 1000
    ordered: bool = False
    """Whether the classes are in an order, even if the data set does not say so."""

    priors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """For the name of each set of priors, the probability of each class in label order."""

    operating_points: OperatingPoints = field(default_factory=dict)
    """For some classes or findings, the thresholds and targets from which on they are called."""

    aggregation: Aggregation | None = None
    """What is judged in place of images, such as patients."""

    costs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """For each class, the cost of each decision; for each finding, of missing it and of calling it
    wrongly. A last number is the price of a review. Empty without costs."""

    sites: tuple[str, ...] = ()
    """The columns of slices whose values are a sample, such as hospitals."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Settings):
    """The settings, and the data that all models of a run are measured on."""

    data: DataFacts
    """The run's own data set."""

    others: Mapping[str, DataFacts] = field(default_factory=dict)
    """Other data sets that confidence should separate from it, by their sources."""

    natural: Mapping[str, DataFacts] = field(default_factory=dict)
    """Other images of the same classes, by their value in the column `shift`."""

    reports: tuple[str, ...] = ()
    """Further files that the report reads, which trainings wrote."""

    mixup: bool = False
    """Whether MixUp was used; then the samples show an example."""

    pictured: tuple[Shift, ...] | None = None
    """The shifts whose images are shown; None for all, and none without images."""

    readers: ReaderCalls | None = None
    """What people call each test image; None if nobody was asked."""

    @property
    def kind(self) -> TaskKind:
        """What the predictions of labelled images are of."""
        return find_task(self.data.task).kinds[0]

    @property
    def stores_logits(self) -> bool:
        """Whether the logits of labelled images are stored."""
        return find_task(self.data.task).stores_logits(len(self.data.classes))

    def is_recomputed(self, part: str) -> bool:
        """Whether stored logits of a part give its other predictions.

        Those of other data sets are not stored. Those of a class mask have lost the classes outside
        it, which a calibration may need.
        """
        is_chosen = part in self.natural and self.natural[part].choices is not None
        return self.stores_logits and part not in self.others and not is_chosen

    def fitted_on(self, variant: Variant | None) -> tuple[str, ...]:
        """The shifts of the validation images that a variant, or a model's thresholds, fit on."""
        if variant is None or not variant.uses_fit_on:
            return (CLEAN,)
        return tuple(shift.id for shift in self.fit_on)

    def fits_under_shifts(self, variant: Variant) -> bool:
        """Whether the variant also predicts validation images under the shifts of `fit_on`."""
        return variant.uses_fit_on or any(
            other.uses_fit_on and other.adapting == variant for other in self.variants
        )

    def cells(self, *, fit_on: bool = False) -> Iterator[tuple[str, Shift | Attack]]:
        """Every cell to predict: a split, or another data set, and the shift or attack on it.

        Test images get every shift and attack; validation images and other data sets stay clean,
        and so do other images of the same classes. With `fit_on`, there are validation images under
        these shifts too.
        """
        clean = self.shifts[0]
        if VAL in self.data.images:
            yield VAL, clean
            for shifted in self.fit_on if fit_on else ():
                if shifted.id != clean.id:
                    yield VAL, shifted
        for shift in self.shifts:
            yield TEST, shift
        for other in (*self.others, *self.natural):
            yield other, clean

    @property
    def known_part(self) -> str | None:
        """The split that other data sets are compared with, if there are any."""
        parts = (TRAIN, VAL) if self.others else ()
        return next((part for part in parts if part in self.data.images), None)

    @property
    def groups(self) -> dict[str, str | None]:
        """The digests of known groups, by split or by other images of the classes."""
        natural = {part: facts.groups for part, facts in self.natural.items() if facts.groups}
        return {**self.data.groups, **{part: digests[TEST] for part, digests in natural.items()}}

    def rows_from(self, model: str, seed: int | str, *parts: str) -> tuple[str, ...]:
        """The files that patients are made from, besides the predictions of their images.

        They are the groups of these splits, and what an aggregate is chosen on.
        """
        if self.aggregation is None:
            return ()
        if len(self.aggregation.names) == 1:
            return tuple(map(groups_file, parts))
        choice = predictions_file(model, seed, CLEAN, VAL), groups_file(VAL)
        return tuple(dict.fromkeys([*map(groups_file, parts), *choice]))

    def images(self, part: str) -> plan.ImagesReference:
        """The reference to a split of the run's own data, or to another data set, for a step."""
        if part in self.others:
            return self.others[part].reference(TEST, f"{OOD_DATA}{part}")
        if part in self.natural:
            name = part.removeprefix(NATURAL)
            return self.natural[part].reference(TEST, f"{plan.NATURAL_DATA}{name}")
        return self.data.reference(part)


def plan_conclusion(measurement: Measurement, models: Sequence[MeasuredModel]) -> list[plan.Step]:
    """Plan the steps after the predictions of all models: samples, scores and report."""
    score = _plan_scores(measurement, models)
    fitted = [
        file
        for model in models
        for variant in measurement.variants
        if (file := variant.file(model.name, model.seed)) is not None
    ]
    samples = [_plan_samples(measurement, models)] if measurement.pictured != () else []
    pictures = [file for step in samples for file in (*step.leaves, *step.may_leave)]
    predictions = dict.fromkeys((*score.reads, *fitted))
    readers = () if measurement.readers is None else (READERS,)
    report = plan.ReportStep(
        id="report",
        task="report",
        reads=(RECORD, *score.leaves, *pictures, *predictions, *measurement.reports, *readers),
        leaves=(PAGE, SUMMARY, f"{TABLES}/", f"{FIGURES}/"),
        threads=measurement.threads,
    )
    return [*samples, score, report]


def plan_models(measurement: Measurement, models: Sequence[MeasuredModel]) -> list[plan.Step]:
    """Plan the groups of images, and the predictions of all models.

    Fits, and the predictions that they need, come first. Then models that see the same shifted
    images can predict them together.
    """
    steps = [step for model in models for step in plan_model(measurement, model)]
    fits = [step for step in steps if isinstance(step, plan.FitStep)]
    early = {fit.leaves for fit in fits}
    early |= {(file,) for fit in fits for file in (fit.validation, *fit.more)}
    first: list[plan.Step] = []
    if digests := measurement.groups:
        first = [
            plan.GroupStep(
                id="groups",
                task="group",
                leaves=tuple(map(groups_file, digests)),
                images=tuple(map(measurement.images, digests)),
                digests=tuple(digests.values()),
            )
        ]
    if measurement.readers is not None:
        first.append(_plan_reading(measurement.readers))
    first += [step for step in steps if step.leaves in early]
    return [*first, *(step for step in steps if step.leaves not in early)]


def _plan_reading(readers: ReaderCalls) -> plan.ReadStep:
    meaning = hashlib.sha256(repr((readers.readers, readers.calls.shape)).encode())
    meaning.update(readers.calls.astype("<i8").tobytes())
    return plan.ReadStep(
        id="readers",
        task="readers",
        leaves=(READERS,),
        content=base64.b64encode(encode_readers(readers)).decode(),
        digest=meaning.hexdigest(),
    )


def plan_model(measurement: Measurement, model: MeasuredModel) -> Iterator[plan.Step]:
    """Plan the predictions of a model, and then those of each of its variants."""
    yield from _plan_own_predictions(measurement, model)
    for variant in measurement.variants:
        yield from _plan_variant(measurement, model, variant)


def _plan_own_predictions(measurement: Measurement, model: MeasuredModel) -> Iterator[plan.Step]:
    """The model itself; an ensemble averages its members' probabilities if logits are stored."""
    yield from _plan_features(measurement, model)
    for part, shift in measurement.cells(fit_on=True):
        how: plan.ForwardPass | plan.GivenPredictions | plan.EnsembleAverage = model.way(
            predictions_file(model.name, model.seed, shift.id, part)
        )
        if model.members and measurement.is_recomputed(part) and not isinstance(shift, Attack):
            files = (predictions_file(m.name, m.seed, shift.id, part) for m in model.members)
            how = plan.EnsembleAverage(members=tuple(files))
        yield _plan_prediction(measurement, model, model.name, model.label, part, shift, how)


def _plan_features(measurement: Measurement, model: MeasuredModel) -> Iterator[plan.FeaturesStep]:
    """Keep features of known images, if there are other data sets to compare with them."""
    part, file = measurement.known_part, _features_file(measurement, model)
    if part is None or file is None or model.network is None:
        return
    yield plan.FeaturesStep(
        id=file.removesuffix(".safetensors"),
        task=f"features {model.label}",
        reads=tuple(plan.network_files(model.network)),
        leaves=(file,),
        network=model.network,
        images=measurement.data.reference(part),
        seed=measurement.shift_seed,
        batch_size=measurement.batch_size,
        arithmetic=measurement.arithmetic,
        threads=measurement.threads,
        device=measurement.device.type,
        work=min(MOST_FEATURES, measurement.data.images[part]),
        memory=measurement.data.count_bytes(part),
    )


def _features_file(measurement: Measurement, model: MeasuredModel) -> str | None:
    """The file with features of known images; an ensemble has no features of its own."""
    if measurement.known_part is None or model.network is None or model.members:
        return None
    return features_file(model.name, model.seed)


def _plan_variant(
    measurement: Measurement, model: MeasuredModel, variant: Variant
) -> Iterator[plan.Step]:
    """Plan the fit and the predictions of a variant.

    Predictions come from stored ones if the variant only changes these, else from the network.
    """
    name, file = variant_name(model.name, variant.name), variant.file(model.name, model.seed)
    source = model.name
    if variant.adapting is not None:
        source = variant_name(model.name, variant.adapting.name)
    images = measurement.data.images[TEST]
    label = f"{model.label} + {variant.phrase(images, measurement.batch_size, measurement.kind)}"
    if file is not None:
        yield _plan_fit(measurement, model, variant, source, label, file)
    before = chain_cells(measurement.shifts, variant.cell_order)
    mixed: list[plan.PredictStep] = []
    every = [
        *measurement.cells(fit_on=measurement.fits_under_shifts(variant)),
        *((TEST, replace(measurement.shifts[0], name=name)) for name in list_afterwards(before)),
    ]
    for part, shift in every:
        if variant.adapting is not None and isinstance(shift, Attack):
            continue
        how: plan.AnyPredictionWay = plan.AppliedVariant(
            of=predictions_file(source, model.seed, shift.id, part),
            variant=variant.text,
            fitted=file,
            # What nothing is fitted for has the same predictions of images.
            aggregation=None if file is None else measurement.aggregation,
            rows_from=() if file is None else measurement.rows_from(source, model.seed, part),
        )
        is_applied = file is None or measurement.is_recomputed(part)
        if variant.post_hoc is None or not is_applied:
            assert model.network is not None, "of given predictions, there is no network"
            how = plan.ForwardPass(
                network=model.network,
                variant=variant.text,
                fitted=file,
                stream_seed=0 if variant.adapting is None else number_seed(model.seed),
            )
        step = _plan_prediction(measurement, model, name, label, part, shift, how)
        if isinstance(how, plan.ForwardPass) and variant.adapting is not None:
            carried = before.get(shift.id) if part == TEST else None
            step = _plan_adaptation(measurement, step, variant.adapting, carried)
            if part == TEST and variant.cell_order == MIXED:
                mixed.append(step)
                continue
        yield step
    if mixed:
        yield _mix_cells(mixed)


def number_seed(seed: int | str) -> int:
    """A number for a seed, also for that of an ensemble.

    >>> number_seed(3), number_seed("3"), number_seed("ensemble")
    (3, 3, 2353742000)
    """
    return int(seed) if str(seed).isdecimal() else zlib.crc32(str(seed).encode())


def _plan_adaptation(
    measurement: Measurement, step: plan.PredictStep, adapting: Adapting, before: str | None
) -> plan.PredictStep:
    """Add what a method of adaptation reads and writes: source images, and changes of a network.

    `before` is the cell that the network comes from; None if it is a new copy that no cell goes on
    from, and "" for the first of a chain.
    """
    changes: dict[str, object] = {"work": step.work * adapting.orders * adapting.work}
    if adapting.source_images:
        changes["source"] = measurement.data.reference(VAL)
    if before:
        changes["goes_on"] = adapted_file(step.model, step.seed, before)
        changes["reads"] = (*step.reads, changes["goes_on"])
    if step.shift.startswith(CLEAN_AFTER):
        changes["shift"] = CLEAN
    elif before is not None:
        changes["hands_over"] = adapted_file(step.model, step.seed, step.shift)
        changes["leaves"] = (*step.leaves, changes["hands_over"])
    return step.model_copy(update=changes)


def _mix_cells(steps: Sequence[plan.PredictStep]) -> plan.PredictStep:
    """Join the predictions of several cells into one step, whose streams mix their images."""
    changes = {
        "mixed": tuple(step.shift for step in steps[1:]),
        "leaves": tuple(file for step in steps for file in step.leaves),
        "published": {text: digest for step in steps for text, digest in step.published.items()},
        "work": sum(step.work for step in steps),
    }
    return steps[0].model_copy(update=changes)


def chain_cells(shifts: Sequence[Shift | Attack], order: str) -> dict[str, str]:
    """For each cell that a network goes on to, by the id of its shift, the one before.

    A chain begins with a new copy of the network at its first shift, which has "", as in published
    continual protocols. It ends with the test images as they are. Before, these are seen by a new
    copy. There are no chains if each cell begins with a new copy.

    >>> from fairweather.shifts.table import make_shift
    >>> levels = [make_shift("gamma", exponent=x) for x in (2, 1.5)]
    >>> clean = make_shift("clean")
    >>> chain_cells([clean, *levels], "gradual")
    {'gamma,exponent=1.5': '', 'gamma,exponent=2': 'gamma,exponent=1.5',
    'clean_after/gamma': 'gamma,exponent=2'}
    >>> list(chain_cells([clean, *levels], "continual"))
    ['gamma,exponent=2', 'gamma,exponent=1.5', 'clean_after/all']
    """
    shifted = [s for s in shifts if isinstance(s, Shift) and s.level is not None]
    chains: dict[str, list[Shift]] = {}
    if order == CONTINUAL and shifted:
        chains[ALL] = shifted
    if order == GRADUAL:
        chains = {
            name: sorted(levels, key=_strength) for name, levels in group_by_sweep(shifted).items()
        }
    return {
        cell: before
        for name, chain in chains.items()
        for before, cell in pairwise(["", *(shift.id for shift in chain), CLEAN_AFTER + name])
    }


def _strength(shift: Shift) -> float:
    assert shift.level is not None, "clean images are in no chain"
    return abs(shift.level - shift_kind(shift.name).neutral)


def list_afterwards(cells: Iterable[str]) -> tuple[str, ...]:
    """Those of some cells that are the test images as they are, after shifts."""
    return tuple(cell for cell in cells if cell.startswith(CLEAN_AFTER))


def _plan_fit(
    measurement: Measurement,
    model: MeasuredModel,
    variant: Variant,
    source: str,
    label: str,
    file: str,
) -> plan.FitStep:
    """Plan to fit a variant on the validation images, as the model `source` predicts them."""
    shifts = measurement.fitted_on(variant)
    validation = [predictions_file(source, model.seed, text, VAL) for text in shifts]
    groups = groups_file(VAL) if variant.makes_sets and VAL in measurement.groups else None
    rows_from = measurement.rows_from(source, model.seed, VAL)
    reads = list(dict.fromkeys([*validation, *([groups] if groups else []), *rows_from]))
    val, adapting = measurement.data.reference(VAL), variant.adapting
    if model.network is not None and not measurement.stores_logits:
        reads += plan.network_files(model.network)
    return plan.FitStep(
        id=file.removesuffix(".json"),
        task=f"fit {label}",
        reads=tuple(reads),
        leaves=(file,),
        variant=variant.text,
        task_name=measurement.data.task,
        validation=validation[0],
        more=tuple(validation[1:]),
        shifts=shifts,
        shift_seed=measurement.shift_seed,
        network=model.network,
        val=val,
        published=digest_published(s for s in measurement.fit_on if s.id in shifts),
        stored=measurement.stores_logits,
        batch_size=measurement.batch_size,
        arithmetic=measurement.arithmetic,
        source=val if adapting is not None and adapting.source_images else None,
        stream_seed=0 if adapting is None else number_seed(model.seed),
        groups=groups,
        aggregation=measurement.aggregation,
        threads=measurement.threads,
        device=measurement.device.type,
        work=measurement.data.images.get(VAL, 0) * len(shifts),
    )


def _plan_prediction(
    measurement: Measurement,
    model: MeasuredModel,
    name: str,
    label: str,
    part: str,
    shift: Shift | Attack,
    how: plan.AnyPredictionWay,
) -> plan.PredictStep:
    file = predictions_file(name, model.seed, shift.id, part)
    # Other data sets are compared with clean test images.
    told_apart = part in measurement.others or (part, shift.id) == (TEST, CLEAN)
    scored = bool(measurement.others) and told_apart
    # Features of an adapted network depend on the batch, and cannot be compared.
    unadapted = isinstance(how, plan.ForwardPass) and how.adapting is None
    known = _features_file(measurement, model) if scored and unadapted else None
    elsewhere = {**measurement.others, **measurement.natural}
    facts, source_part = (elsewhere[part], TEST) if part in elsewhere else (measurement.data, part)
    images = facts.images[source_part]
    return plan.PredictStep(
        id=file.removesuffix(".parquet"),
        task=f"predict {label}",
        reads=(*how.reads, *([known] if known else [])),
        leaves=(file,),
        model=name,
        seed=model.seed,
        images=measurement.images(part),
        task_name=measurement.data.task,
        shift=shift.id,
        published=digest_published([shift]),
        shift_seed=measurement.shift_seed,
        labelled=part not in measurement.others,
        batch_size=measurement.batch_size,
        arithmetic=measurement.arithmetic,
        how=how,
        threads=measurement.threads,
        device=measurement.device.type,
        work=images * _count_passes(shift, how),
        memory=facts.count_bytes(source_part) if isinstance(how, plan.ForwardPass) else 0,
        ood_scores=scored,
        known=known,
    )


def _count_passes(shift: Shift | Attack, how: plan.AnyPredictionWay) -> int:
    """About how often each image goes through the network; 0 if logits are only read."""
    if not isinstance(how, plan.ForwardPass):
        return 0
    if not isinstance(shift, Attack):
        return 1
    counts = (int(shift.parameters.get(key, 1)) for key in ("steps", "restarts", "queries"))
    return 2 + 2 * math.prod(
        counts
    )  # forward and backward passes; the attacked images are predicted again


def _scored_models(
    measurement: Measurement, models: Sequence[MeasuredModel]
) -> Iterator[plan.ScoredModel]:
    shifts = tuple(shift.id for shift in measurement.shifts)
    unattacked = tuple(shift.id for shift in measurement.shifts if not isinstance(shift, Attack))
    for model in models:
        yield plan.ScoredModel(model=model.name, seed=model.seed, shifts=shifts)
        for variant in measurement.variants:
            adapts = variant.adapting is not None
            yield plan.ScoredModel(
                model=variant_name(model.name, variant.name),
                seed=model.seed,
                shifts=unattacked if adapts else shifts,
                afterwards=list_afterwards(chain_cells(measurement.shifts, variant.cell_order)),
                fitted_on=measurement.fitted_on(variant),
                adapts=adapts,
            )


def _plan_scores(measurement: Measurement, models: Sequence[MeasuredModel]) -> plan.ScoreStep:
    rows = tuple(_scored_models(measurement, models))
    data = measurement.data
    reads = [row.file(shift) for row in rows for shift in (*row.shifts, *row.afterwards)]
    validation = [VAL] if VAL in data.images else []
    for part in [*validation, *measurement.others, *measurement.natural]:
        reads += [row.file(CLEAN, part) for row in rows]
    reads += [row.file(shift, VAL) for row in rows for shift in row.fitted_on if shift != CLEAN]
    reads += [groups_file(part) for part in measurement.groups]
    sets = {
        predictions_file(variant_name(model.name, variant.name), model.seed, CLEAN, VAL): file
        for model in models
        for variant in measurement.variants
        if variant.makes_sets and (file := variant.file(model.name, model.seed)) is not None
    }
    reads += sets.values()
    leaves = (SCORES, WARNINGS, ABSENT_METRICS, *([SLICES] if data.slices else []))
    for column in measurement.sites:
        if column not in data.slices:
            raise unknown_name("column of sites", column, data.slices)
    return plan.ScoreStep(
        id="scores",
        task="score",
        reads=tuple(reads),
        leaves=leaves,
        rows=rows,
        titles={model.name: model.title for model in models},
        validation=VAL in data.images,
        natural_shift=data.natural_shift,
        ordered=data.ordered,
        task_name=data.task,
        others=tuple(measurement.others),
        natural=tuple(measurement.natural),
        priors=dict(measurement.priors),
        bootstrap=measurement.bootstrap,
        operating_points=dict(measurement.operating_points),
        costs=dict(measurement.costs),
        in_units_of_alexnet=is_imagenet_at_224(data.classes, data.side),
        slices=data.slices,
        sites=measurement.sites,
        aggregation=measurement.aggregation,
        sets=sets,
        threads=measurement.threads,
    )


def _plan_samples(measurement: Measurement, models: Sequence[MeasuredModel]) -> plan.SampleStep:
    """Pictures chosen by the predictions of a model's first seed, and of its ensemble."""
    shown: dict[str, tuple[str, int | str]] = {}
    for model in models:
        suffix = ENSEMBLE_SUFFIX if model.seed == ENSEMBLE else ""
        names = [model.name, *(variant_name(model.name, v.name) for v in measurement.variants)]
        for name in names:
            shown.setdefault(name + suffix, (name, model.seed))
    pictured = measurement.shifts if measurement.pictured is None else measurement.pictured
    shown_shifts = [shift for shift in pictured if isinstance(shift, Shift)]
    shifts = tuple(shift.id for shift in shown_shifts)
    attacks = [attack for attack in measurement.shifts if isinstance(attack, Attack)]
    networks = {
        name: model.network
        for name, predictions in shown.items()
        for model in models
        if attacks and model.network is not None and predictions == (model.name, model.seed)
    }
    files = (file for network in networks.values() for file in plan.network_files(network))
    return plan.SampleStep(
        id="samples",
        task="samples",
        reads=tuple(
            dict.fromkeys(
                [
                    *(predictions_file(*row, text) for row in shown.values() for text in shifts),
                    *files,
                    *(file for row in shown.values() for file in measurement.rows_from(*row, TEST)),
                ]
            )
        ),
        aggregation=measurement.aggregation,
        leaves=(INDEX, PICTURES),
        may_leave=(MIXUP, ATTACKED),
        attacks=tuple(attack.id for attack in attacks),
        networks=networks,
        device=measurement.device.type if attacks else "cpu",
        images=measurement.data.reference(TEST),
        train=measurement.data.reference("train") if measurement.mixup else None,
        models=shown,
        shifts=shifts,
        published=digest_published(shown_shifts),
        shift_seed=measurement.shift_seed,
        mixup=measurement.mixup,
        threads=measurement.threads,
    )

"""The two runs of a comparison: their models, seeds and shifts, and the estimates of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, check_path, unknown_name
from fairweather.metrics import Estimate, FittedThresholds
from fairweather.metrics.columns import BoolArray, FloatArray, IntArray
from fairweather.metrics.findings import find_point_metric
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import ClassMetric, find_class_metric
from fairweather.metrics.paired import SeedSummary, seed_summary
from fairweather.metrics.sample import draw_counts
from fairweather.metrics.seeds import stack_seeds
from fairweather.metrics.table import METRICS
from fairweather.runs.folder import RunFolder, open_finished_run
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    add_means,
    estimate_metrics,
    fit_unit,
    read_grouping,
    read_validation,
    select_resamples,
)
from fairweather.tasks import Unit, find_task
from fairweather.types.measurement import AnyPredictions, Predictions, join_streams
from fairweather.types.operating_points import POINT_SIGN
from fairweather.types.options import order_of_value
from fairweather.types.record import (
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE,
    ENSEMBLE_SUFFIX,
    MEAN,
    NATURAL,
    NO_IMAGES,
    NO_LEVEL,
    TEST,
    DataRecord,
    RunRecord,
    ShiftLevel,
    SweepRecord,
    base_model,
    cells_by_level,
    slice_label,
)


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs of a comparison, or some of its models."""

    name: str
    """The folder or FOLDER:MODEL, as the user wrote it."""

    run: RunFolder
    """The folder."""

    models: Mapping[str, tuple[int | str, ...]]
    """The ascending seeds of each compared model, in the order of the record. An ensemble is a
    model of its own, `NAME+ensemble`, with the one seed `ensemble`."""

    every_model: Mapping[str, tuple[int | str, ...]]
    """The same for all models of the run."""

    @property
    def record(self) -> RunRecord:
        """The description of the run."""
        return self.run.record

    def read(self, model: str, seed: int | str, shift: str) -> AnyPredictions:
        """Read the predictions of a model under the shift with this id.

        Of a model that adapts, they are those of its first stream. `natural/NAME` stands for other
        images of the same classes, which are clean too. After shifts, a model that goes on from
        none predicts clean images as ever. Raises `InputError` if they are missing or not those
        that the run wrote.
        """
        return self.read_streams(model, seed, shift).streams[0]

    def read_streams(self, model: str, seed: int | str, shift: str) -> AnyPredictions:
        """Read the same of all streams of a model that adapts, one after the other."""
        name = self.run.predictions(model, seed, shift)
        if shift.startswith(NATURAL):
            name = self.run.predictions(model, seed, CLEAN, shift)
        elif shift.startswith(CLEAN_AFTER) and not self.run.holds(name):
            name = self.run.predictions(model, seed, CLEAN)
        if not self.run.holds(name):
            raise InputError(
                f"{self.run.path} has no predictions of {model}, seed {seed}, under {shift}: "
                "let the run finish first"
            )
        return self.run.read_streams(name)


class ModelPair(NamedTuple):
    """A model of each side, which are compared."""

    a: str
    b: str

    @property
    def title(self) -> str:
        """The common name of both, or both names."""
        return self.a if self.a == self.b else f"{self.a} / {self.b}"


class RunPair(NamedTuple):
    """The two runs of a comparison, which may be one folder with models of each side."""

    a: ComparedRun
    b: ComparedRun

    @property
    def is_one_run(self) -> bool:
        """Whether both are in one run folder."""
        return self.a.run.path.resolve() == self.b.run.path.resolve()

    @property
    def have_same_costs(self) -> bool:
        """Whether errors cost the same in both, so that expected costs can be compared."""
        ours, theirs = (run.record.settings.costs for run in self)
        return ours == theirs

    @property
    def is_prepared_otherwise(self) -> bool:
        """Whether both have the same source, but images of another size or preprocessing.

        Each model of a comparison may have its own preprocessing. Keys and labels show that the
        images are the same.
        """
        ours, theirs = (run.record.data for run in self)
        if ours.digests.get(TEST) == theirs.digests.get(TEST):
            return False  # the pixels are the same, even if their descriptions differ
        one_source = ours.source is not None and ours.source == theirs.source
        prepared = [(data.side, data.notes.get("preparation")) for data in (ours, theirs)]
        return one_source and ours.classes == theirs.classes and prepared[0] != prepared[1]


class SharedShifts(NamedTuple):
    """The shifts that both runs have."""

    sweeps: tuple[SweepRecord, ...] = ()
    """Each shift and attack, at the levels that both have."""

    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    """`only_a`, `only_b`: ids of the cells (shifted test images) that only one run has."""

    images: str = CLEAN
    """`clean` for the test images; `natural/NAME` for other images, which have no shifts."""

    after: tuple[str, ...] = ()
    """The cells `clean_after/...` of a pair of models, as `pair_clean_after` finds them."""

    @property
    def conditions(self) -> dict[ShiftLevel, str]:
        """The id of the shift of every cell that both runs have, clean images first."""
        shifted = {
            ShiftLevel(sweep.name, level): cell.id
            for sweep in self.sweeps
            for level, cell in cells_by_level(sweep).items()
        }
        clean = {ShiftLevel(name, NO_LEVEL): name for name in (self.images, *self.after)}
        return clean | shifted

    @property
    def means(self) -> list[ShiftLevel]:
        """The mean over shifts, if there are several, and the means over the levels of each."""
        several = sum(sweep.kind == "shift" for sweep in self.sweeps) > 1
        of_each = [ShiftLevel(sweep.name, MEAN) for sweep in self.sweeps]
        return [ShiftLevel(ALL, MEAN), *of_each] if several else of_each

    @property
    def attacks(self) -> list[str]:
        """The names of the attacks, which do not count in the mean over shifts."""
        return [sweep.name for sweep in self.sweeps if sweep.kind == "attack"]


def split_run_and_model(name: str | os.PathLike[str]) -> tuple[str, str]:
    """Split FOLDER:MODEL; the model is empty for a folder, which may have a colon in its name.

    >>> split_run_and_model("runs/mine:basic"), split_run_and_model("runs/mine")
    (('runs/mine', 'basic'), ('runs/mine', ''))
    """
    whole = check_path(name, "a run")
    folder, colon, model = whole.rpartition(":")
    return (folder, model) if colon and not Path(whole).is_dir() else (whole, "")


def open_compared_run(name: str | os.PathLike[str]) -> ComparedRun:
    """Open a run folder, or one model of it as FOLDER:MODEL.

    Raises `InputError` if there is no run or no such model, if nothing is predicted yet, or if the
    clean predictions of a model are not those that the run wrote.
    """
    folder, model = split_run_and_model(name)
    run = open_finished_run(Path(folder))
    every_model = _predicted_models(run)
    if not every_model:
        raise InputError(f"{run.path} has no predictions of clean images: let the run finish first")
    if model and model not in every_model:
        raise unknown_name(f"model of {folder}", model, every_model)
    models = {model: every_model[model]} if model else every_model
    return ComparedRun(os.fspath(name), run, models, every_model)


def pair_models(runs: RunPair) -> list[ModelPair]:
    """Pair one model with one, or all by their names.

    Raises `InputError` if neither is possible, and for a model that is compared with itself.
    """
    a, b = runs
    if len(a.models) == len(b.models) == 1:
        pairs = [ModelPair(next(iter(a.models)), next(iter(b.models)))]
    elif set(a.models) == set(b.models):
        pairs = [ModelPair(model, model) for model in a.models]
    else:
        raise InputError(
            f"the models cannot be paired by name: {a.name} has {', '.join(a.models)}, {b.name} "
            f"has {', '.join(b.models)}; name one of each as FOLDER:MODEL"
        )
    if runs.is_one_run and any(pair.a == pair.b for pair in pairs):
        raise InputError(
            f"{a.name} and {b.name} are the same; two models of one run are compared as "
            "FOLDER:MODEL FOLDER:OTHER"
        )
    return pairs


def check_same_data(runs: RunPair) -> None:
    """Raise `InputError` unless both runs have the same test images, whatever their
    preprocessing."""
    a, b = runs
    judged = [run.run.aggregation.plural if run.run.aggregation else "images" for run in runs]
    if judged[0] != judged[1]:
        raise InputError(
            f"{a.name} judges {judged[0]} and {b.name} {judged[1]}: measure both with one unit "
            "(--unit)"
        )
    digests = [run.record.data.digests.get(TEST) for run in runs]
    if digests[0] == digests[1] or runs.is_prepared_otherwise:
        return
    data = [_describe_data(run.record.data) for run in runs]
    if data[0] != data[1]:
        differ = f"{a.name} is on {data[0]}, {b.name} on {data[1]}"
    else:
        short = [str(digest)[:12] for digest in digests]
        differ = f"both are on {data[0]}, but the digests of the test images differ, {short[0]} "
        differ += f"and {short[1]}: other files, another split, or other preprocessing"
    raise InputError(f"the runs are not on the same test images: {differ}{_compare_labels(runs)}")


def _compare_labels(runs: RunPair) -> str:
    """Say in how many images the labels differ, or that only keys may; "" of other images."""
    models = ((run, *next(iter(run.models.items()))) for run in runs)
    ours, theirs = (run.read(model, seeds[0], CLEAN) for run, model, seeds in models)
    if ours.classes != theirs.classes or not np.array_equal(ours.keys, theirs.keys):
        return ""
    differ = (ours.labels != theirs.labels).reshape(len(ours), -1).any(axis=1)
    if count := int(differ.sum()):
        return f"; if they are the same images, {count:,} of {len(ours):,} have other labels"
    if all(run.record.data.notes.get(NO_IMAGES) for run in runs):
        return "; all labels agree, so keys may be spelled in two ways, such as 7 and 7.png"
    return ""


def find_shared_shifts(runs: RunPair) -> SharedShifts:
    """Find the shifts that both runs have; they are compared by their ids with all parameters."""
    ours, theirs = ({cell.id for cell in run.record.cells()} for run in runs)
    sweeps = [
        sweep.model_copy(update={"cells": tuple(cell for cell in sweep.cells if cell.id in theirs)})
        for sweep in runs.a.record.sweeps
    ]
    return SharedShifts(
        sweeps=tuple(sweep for sweep in sweeps if sweep.cells),
        only_a=tuple(sorted(ours - theirs)),
        only_b=tuple(sorted(theirs - ours)),
    )


def pair_clean_after(runs: RunPair, pair: ModelPair) -> dict[str, bool]:
    """Find the cells `clean_after/...` that a pair has, and whether they can be compared.

    They can if both models have seen the same shifts in the same order. A model that goes on from
    no shift to the next one predicts clean images as ever, and is compared with each cell.
    """
    first, second = (_list_clean_after(run, model) for run, model in zip(runs, pair, strict=True))
    goes_on = bool(first and second)
    return {
        name: not goes_on or first.get(name) == second.get(name)
        for name in dict.fromkeys([*first, *second])
    }


def _list_clean_after(compared: ComparedRun, model: str) -> dict[str, list[str]]:
    """The ids of the shifts that a model has seen before each of its cells `clean_after/...`."""
    run, seed = compared.run, compared.every_model[model][0]
    sweeps = [sweep for sweep in compared.record.sweeps if sweep.kind == "shift"]
    seen = {sweep.name: [cell.id for cell in sweep.cells] for sweep in sweeps}
    seen[ALL] = [cell for cells in seen.values() for cell in cells]
    named = {f"{CLEAN_AFTER}{shift}": cells for shift, cells in seen.items()}
    return {
        name: cells
        for name, cells in named.items()
        if run.holds(run.predictions(model, seed, name))
    }


def find_shared_images(runs: RunPair) -> tuple[list[str], list[str]]:
    """Find the sets of other images that both runs name: those that are the same, and the others.

    They are named `natural/NAME`.
    """
    a, b = (run.record for run in runs)
    names = [f"{NATURAL}{name}" for name in a.natural if name in b.natural]
    same = [name for name in names if a.data.digests.get(name) == b.data.digests.get(name)]
    return same, [name for name in names if name not in same]


def _predicted_models(run: RunFolder) -> dict[str, tuple[int | str, ...]]:
    """Find the models with predictions of clean images, each followed by its variants."""
    record = run.record
    seeds_by_model: dict[str, tuple[int | str, ...]] = {}
    for name in [*record.models, *record.variants]:
        seeds = [seed for seed in sorted(record.seeds) if _is_predicted(run, name, seed)]
        if seeds:
            seeds_by_model[name] = tuple(seeds)
        if record.ensemble and _is_predicted(run, name, ENSEMBLE):
            seeds_by_model[name + ENSEMBLE_SUFFIX] = (ENSEMBLE,)
    order = {name: place for place, name in enumerate(record.models)}
    names = sorted(seeds_by_model, key=lambda name: (order.get(base_model(name), len(order)), name))
    return {name: seeds_by_model[name] for name in names}


def _is_predicted(run: RunFolder, model: str, seed: int | str) -> bool:
    """Say whether there are clean predictions; raises `InputError` if they are lost."""
    return run.holds(run.predictions(model, seed, CLEAN))


def _describe_data(data: DataRecord) -> str:
    pixels = f", {' x '.join(map(str, data.side))} pixels" if data.side else ""
    return f"{data.name} ({len(data.classes)} {find_task(data.task).noun}{pixels})"


class ResampledImages:
    """The test images of both runs, and how often each counts in each resample.

    If a run knows which images belong together, whole groups are resampled. For a task with units,
    whole images have one set of resamples, and each unit has its own for the images where it is
    known.
    """

    def __init__(
        self,
        first: AnyPredictions,
        name: str,
        counts: npt.NDArray[np.uint8],
        grouping: Grouping | None,
        unit: Unit,
        tested_metric: str,
        part: str,
    ) -> None:
        self.name, self.resamples, self.unit = name, len(counts), unit
        self.tested_metric, self.part = tested_metric, part
        self.grouping = grouping and grouping.select(unit.places)
        self.keys, self.labels, self.classes = first.keys, first.labels, first.classes
        self.kind = unit.select(first).kind
        self.shared = select_resamples(unit, first, counts, grouping)

    def check(self, predictions: AnyPredictions, name: str) -> None:
        """Raise `InputError` unless these predictions are of the same images in the same order."""
        for kind, ours, theirs in (
            ("images", self.keys, predictions.keys),
            ("labels", self.labels, predictions.labels),
        ):
            if not np.array_equal(ours, theirs):
                raise InputError(
                    f"{name} has {len(theirs):,} {kind}, {self.name} has {len(ours):,}, and they "
                    "are not the same: models can only be compared on the same images, in one order"
                )


class ModelEstimates(NamedTuple):
    """A model's estimates, and which images it classifies correctly."""

    model: str
    seeds: tuple[int | str, ...]
    table: Mapping[ScoreKey, Estimates]
    """Estimates by model, seed, shift and level."""

    correct: Mapping[ShiftLevel, FloatArray]
    """How often each image is right by condition, `[n, S]` in the order of `seeds`; of a single
    seed that adapts, in each of its streams (`stack_seeds`)."""

    classes: str
    """A digest of the predicted classes of every seed and condition."""

    confidences: str
    """Likewise, of the confidences and the losses."""

    right_calls: Mapping[tuple[ShiftLevel, str], FloatArray]
    """`[n, S]` by condition and metric: how often the call of its class or finding is right, at an
    operating point at the threshold of each seed."""

    def shown(self, condition: ShiftLevel, metric: str) -> Estimate:
        """The estimate of the only seed, or of the mean over seeds."""
        seed = MEAN if len(self.seeds) > 1 else str(self.seeds[0])
        return self.table[self.model, seed, *condition][metric]

    def has(self, condition: ShiftLevel, metric: str) -> bool:
        """Tell whether the metric could be computed from the predictions of every seed."""
        return all(metric in self.table[self.model, str(seed), *condition] for seed in self.seeds)

    def of_seed(self, seed: int | str, condition: ShiftLevel, metric: str) -> Estimate:
        """The estimate of one seed."""
        return self.table[self.model, str(seed), *condition][metric]

    def summary(self, condition: ShiftLevel, metric: str) -> SeedSummary:
        """Mean and deviation over seeds."""
        return seed_summary([self.of_seed(seed, condition, metric).value for seed in self.seeds])


def mean_weights(shared: SharedShifts) -> dict[ShiftLevel, dict[ShiftLevel, float]]:
    """The weight of each cell in the mean over the levels of its shift, and over all shifts."""
    levels = {
        sweep.name: [ShiftLevel(sweep.name, level) for level in cells_by_level(sweep)]
        for sweep in shared.sweeps
    }
    weights = {
        ShiftLevel(name, MEAN): dict.fromkeys(cells, 1 / len(cells))
        for name, cells in levels.items()
    }
    shifts = [levels[sweep.name] for sweep in shared.sweeps if sweep.kind == "shift"]
    weights[ShiftLevel(ALL, MEAN)] = {
        cell: 1 / (len(shifts) * len(cells)) for cells in shifts for cell in cells
    }
    return weights


def resample_images(runs: RunPair, images: str = CLEAN, slice_: str = "") -> list[ResampledImages]:
    """Resample the images of a's first model, with the larger number of resamples of both runs.

    The first is of whole images; others are of the units of a task. If a slice `COLUMN=VALUE` is
    named, each is of its images only.
    """
    a = runs.a
    resamples = max(run.record.settings.bootstrap for run in runs)
    model, seeds = next(iter(a.models.items()))
    grouping = _shared_grouping(runs, TEST if images == CLEAN else images)
    first, task = a.read(model, seeds[0], images), a.run.task
    counts = draw_counts(len(first), resamples, grouping=grouping)
    units = task.every_unit(first)
    if slice_:
        places = _slice_places(runs, slice_)
        units = tuple(_narrow(unit, places) for unit in units)
    return [
        ResampledImages(first, a.name, counts, grouping, unit, task.decision_metric, images)
        for unit in units
        if len(unit.places)
    ]


def list_slices(runs: RunPair) -> list[str]:
    """The slices of the test images that a run knows, `COLUMN=VALUE`.

    A column of which the runs say different things is left out.
    """
    tables = [groups.slices for run in runs if (groups := run.run.groups()) is not None]
    values = {
        column: [table[column] for table in tables if column in table]
        for column in dict.fromkeys(column for table in tables for column in table)
    }
    return [
        slice_label(column, value)
        for column, (first, *others) in values.items()
        if all(np.array_equal(first, other) for other in others)
        for value in sorted(set(first), key=order_of_value)
    ]


def _slice_places(runs: RunPair, slice_: str) -> IntArray:
    """The places of the images of a slice `COLUMN=VALUE` among the test images.

    Raises `InputError` if no run knows the slice, or if the runs say different things.
    """
    tables = [groups.slices for run in runs if (groups := run.run.groups()) is not None]
    named = [f"{column}={value}" for table in tables for column in table for value in table[column]]
    if not named:
        raise InputError(
            f"{runs.a.name} and {runs.b.name} know no slices: measure them with a table of "
            "metadata, and name its column as a slice (--metadata FILE --slice COLUMN)"
        )
    if slice_ not in named:
        raise unknown_name("slice", slice_, dict.fromkeys(named))
    column, _, value = slice_.partition("=")
    masks = [table[column] == value for table in tables if column in table]
    if not all(np.array_equal(masks[0], mask) for mask in masks):
        raise InputError(
            f"{runs.a.name} and {runs.b.name} say differently which images are {slice_}: measure "
            "both with the same table"
        )
    return np.flatnonzero(masks[0])


def _narrow(unit: Unit, places: IntArray) -> Unit:
    """A unit on those of its images that are at some places among all."""
    kept = np.flatnonzero(np.isin(unit.places, places))
    return unit._replace(
        places=unit.places[kept], select=lambda images: unit.select(images).take(kept)
    )


def _shared_grouping(runs: RunPair, part: str) -> Grouping | None:
    """Which images of a part belong together, as one of the runs says, or both.

    Raises `InputError` if they say different things, such as patients and visits.
    """
    ours, theirs = (read_grouping(run.run, part) for run in runs)
    if ours is not None and theirs is not None and not np.array_equal(ours.numbers, theirs.numbers):
        raise InputError(
            f"{runs.a.name} and {runs.b.name} say differently which images belong together "
            f"({ours.count:,} and {theirs.count:,} groups): measure both with the same table"
        )
    return ours or theirs


def _decisions(part: AnyPredictions) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    """The decision for each image, and the numbers behind it."""
    if isinstance(part, Predictions):
        known = (part.confidence, part.nll)
        return part.predicted, [column for column in known if column is not None]
    columns = (column for column in vars(part).values() if isinstance(column, np.ndarray))
    return part.correct, [column for column in columns if column.dtype.kind == "f"]


def estimate_model(
    compared: ComparedRun,
    model: str,
    shared: SharedShifts,
    images: ResampledImages,
    metrics: Collection[str],
) -> ModelEstimates:
    """Compute metrics of a model under every shift, with means over levels, shifts and seeds."""
    correct: dict[ShiftLevel, list[BoolArray]] = {}
    classes, confidences = hashlib.sha256(), hashlib.sha256()
    seeds = compared.every_model[model]

    calls: dict[tuple[ShiftLevel, str], list[BoolArray]] = {}
    needs_validation = any(
        POINT_SIGN in name or (name in METRICS and METRICS[name].accepts.fitted) for name in metrics
    )

    def sets() -> Iterator[tuple[ScoreKey, AnyPredictions, FittedThresholds | None]]:
        for seed in seeds:
            validation = read_validation(compared.run, model, seed) if needs_validation else None
            fitted = validation and fit_unit(
                compared.run.task, images.unit.name, validation, metrics
            )
            chosen = fitted.points if fitted else {}
            for condition, shift in shared.conditions.items():
                streams = compared.read_streams(model, seed, shift).streams
                for stream in streams:
                    images.check(stream, compared.name)
                units = list(map(images.unit.select, streams))
                part = join_streams(units)
                right = np.stack([unit.correct for unit in units])
                correct.setdefault(condition, []).append(right)
                decisions, sure = _decisions(part)
                classes.update(decisions.astype("<i8").tobytes())
                for column in sure:
                    confidences.update(column.astype("<f8").tobytes())
                for name in metrics:
                    metric = find_call_metric(name, part.classes, chosen)
                    if metric and isinstance(part, Predictions) and metric.applies(part):
                        right = metric.right_calls(part).reshape(len(units), -1)
                        calls.setdefault((condition, name), []).append(right)
                yield (model, str(seed), *condition), part, fitted

    cells = estimate_metrics(sets(), images.shared, metrics, losses=True, contributions=True)
    table = add_means(cells, shared.attacks)
    digests = classes.hexdigest(), confidences.hexdigest()
    return ModelEstimates(model, seeds, table, _stack(correct), *digests, _stack(calls))


def find_call_metric(
    name: str, classes: Sequence[str], chosen: Mapping[str, float] = MappingProxyType({})
) -> ClassMetric | None:
    """Find a metric of the calls of a class or of a finding; None if there is none.

    Args:
        name: in scores.csv.
        classes: of the predictions.
        chosen: thresholds that were chosen for targets, by what stands behind the sign.
    """
    metric = find_class_metric(name, classes, chosen) or find_point_metric(name, chosen)
    own = METRICS.get(name)
    return metric or (own if isinstance(own, ClassMetric) else None)


_K = TypeVar("_K")


def _stack(columns: Mapping[_K, Sequence[BoolArray]]) -> dict[_K, FloatArray]:
    return {key: stack_seeds(of_seeds) for key, of_seeds in columns.items()}

"""Predictions that were made elsewhere as the models of an evaluation: no network is opened."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue

from fairweather.data import list_source, share_tested
from fairweather.data.source import WHOLE
from fairweather.devices import Arithmetic, resolve_device
from fairweather.errors import InputError
from fairweather.evaluation.inputs import (
    asked_groups,
    check_loaded,
    check_task,
    in_words,
    read_labels,
)
from fairweather.evaluation.request import PredictionsRequest, titles_of
from fairweather.evaluation_options import EvaluationOptions
from fairweather.inference import from_logits
from fairweather.metrics.class_metrics import read_points
from fairweather.metrics.clusters import clusters_of
from fairweather.models.opened import folder_name
from fairweather.models.outputs import asked_for
from fairweather.prediction_files import (
    PREFIX,
    Asked,
    KnownImages,
    Matched,
    PredictionsOf,
    Rows,
    class_names_of,
    find_predictions,
    label_numbers,
    match,
    positions,
    read_rows,
    seed_notes,
)
from fairweather.prediction_files.kinds import kind_of_rows
from fairweather.prediction_files.rows import listed
from fairweather.progress import Notify
from fairweather.record import (
    CLEAN,
    NO_IMAGES,
    TEST,
    VAL,
    VALIDATION,
    DataRecord,
    ModelRecord,
    RunRecord,
    RunSettings,
    predictions_file,
)
from fairweather.runs import fingerprint, provenance
from fairweather.shift_lists import elsewhere
from fairweather.shifts import CLEAN as UNCHANGED
from fairweather.steps.describing import describe_shifts, variant_titles
from fairweather.steps.measuring import (
    DataFacts,
    Measured,
    Measurement,
    check_points,
    conclude,
    data_record,
    facts_of,
    predict_models,
)
from fairweather.steps.plan import DATA, DataSource, Plan, in_order
from fairweather.steps.worker import digests_of, open_data, predictions_digest
from fairweather.tasks import task_named
from fairweather.tasks.classification import MOST_STORED_CLASSES
from fairweather.types import CLASSIFICATION, AnyPredictions, Dataset, Shift

# The options that mean something for predictions, and those of them that need a data set.
USABLE = (
    *("outputs", "label_column", "key_column", "classes", "variants", "priors"),
    *("operating_points", "ordered_classes"),
    *("bootstrap", "threads", "title", "device", "offline"),
)
OF_DATA = (
    *("labels", "size", "root", "skip_unreadable", "allow_duplicates", "scale"),
    *("metadata", "cluster", "slices", "allow_shared_clusters"),
)
MOST_KEPT = 2**30  # bytes of logits that are not read again when they are stored


class GivenInputs(NamedTuple):
    """Predictions that were read, and what they are of.

    Attributes:
        name: of the run, and for its folder.
        cells: which predictions are stored in which file of the run.
        shifts: clean first.
        facts: of the images.
        data: the record of the images.
        sources, datasets: the data set, if there is one, as in a plan.
        labels: int64 `[n]` of the test images.
        digests: of the predictions, by the file of the run.
        found: what was found out of each, by the same, without its logits.
        read: reads the predictions for a file of the run.
    """

    name: str
    cells: Mapping[str, PredictionsOf]
    shifts: tuple[Shift, ...]
    facts: DataFacts
    data: DataRecord
    sources: Mapping[str, DataSource]
    datasets: Mapping[str, Dataset]
    labels: np.ndarray
    digests: Mapping[str, str]
    found: Mapping[str, Matched]
    read: Callable[[str], AnyPredictions]

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the files."""
        return tuple(dict.fromkeys(each.model for each in self.cells.values()))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all models."""
        return tuple(sorted({each.seed for each in self.cells.values()}))

    def lines(self, source: str) -> list[str]:
        """Describe what is evaluated and what was assumed, one fact per line."""
        n, classes = self.facts.images[TEST], len(self.facts.classes)
        where = "" if self.datasets else ", without images"
        lines = [
            f"model          {source}",
            f"data           {self.facts.name}: n = {n:,}{where}, {classes} classes",
        ]
        if self.datasets and (groups := in_words(self.datasets[DATA].test.groups)):
            lines.append(f"groups         {groups}")
        if len(self.cells) > 1:
            seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
            shifts = ", ".join(shift.id for shift in self.shifts)
            lines.append(f"found          models {', '.join(self.models)}; {seeds}; {shifts}")
            lines += self._unclear_models()
            lines += [f"note           {note}" for note in seed_notes(self.models)]
        for title, sentences in _ASSUMED.items():
            lines += [f"{title:<14} {text}" for text in self._told(sentences, list(self.found))]
        return lines

    def _unclear_models(self) -> list[str]:
        """Say which models may have been meant as another one under a shift, without its level."""
        pairs = itertools.permutations(self.models, 2)
        return [
            f"note           {other} is taken for a model of its own; if it is {model} under a "
            f"shift, write the level behind a comma: {other},3"
            for model, other in pairs
            if other.startswith(f"{model}-")
        ]

    def assumed(self, model: str) -> dict[str, str]:
        """What was assumed of the predictions of a model, by the same words as in `lines`."""
        own = [file for file, cell in self.cells.items() if cell.model == model]
        told = {title: self._told(sentences, own) for title, sentences in _ASSUMED.items()}
        return {f"read: {title}": "; ".join(each) for title, each in told.items() if each}

    def _told(self, of: Callable[[Matched], Sequence[str]], files: Sequence[str]) -> list[str]:
        """Sentences, each once; one that is not true of all files names the first of its files."""
        places: dict[str, list[str]] = {}
        for file in files:
            for text in of(self.found[file]):
                places.setdefault(text, []).append(self.cells[file].place)
        told = []
        for text, named in places.items():
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            told.append(text if len(named) == len(files) else f"{named[0]}{more}: {text}")
        return told


# What is found out of the predictions in a file, by the word before it.
_ASSUMED: Mapping[str, Callable[[Matched], Sequence[str]]] = {
    "outputs": lambda each: [str(each.kind)],
    "labels": lambda each: [each.classes],
    "rows": lambda each: [each.rows],
    "note": lambda each: list(each.notes),
}


def predictions_request(
    source: str, dataset: str | Dataset | None, options: EvaluationOptions
) -> PredictionsRequest:
    """The request for `predictions:PATH`; raises `InputError` if no predictions are found there."""
    if source == PREFIX:
        raise InputError(f"{PREFIX} needs a file or a folder, {PREFIX}PATH")
    path = Path(source.removeprefix(PREFIX)).expanduser()
    name = folder_name(path.name if path.is_dir() else path.stem)
    found = tuple(find_predictions(path))
    return PredictionsRequest(source, name, found, dataset, None, options)


def read_predictions(request: PredictionsRequest, progress: Notify | None = None) -> GivenInputs:
    """Read all predictions, and bring them into the order of their images and classes.

    Raises:
        InputError: an option is of no use for predictions, files are missing, or something in them
            is wrong or unclear; the message says what would settle it.
    """
    _check_options(request)
    cells, shifts = _cells(request)
    parts = [part for part in (VAL, TEST) if any(_part(each) == part for each in cells.values())]
    asked = _asked(request.options)
    reader = _Reader(request, asked, cells)
    if request.dataset is None:
        facts, images, how = _own_images(request, reader, cells, parts)
        data = _own_record(facts, ordered=request.options.ordered_classes)
        sources, datasets = {}, {}
    else:
        source, dataset = _open_dataset(request, parts, progress)
        check_task(dataset, request.options, ())
        how = ""
        digests = {part: each for part, each in digests_of(dataset).items() if part in parts}
        source = replace(source, digests=digests)
        sources, datasets = {DATA: source}, {DATA: dataset}
        facts = facts_of(dataset, digests)
        counts = {part: facts.images[part] for part in parts}
        natural = facts.natural_shift and VAL in parts
        facts = replace(facts, images=counts, natural_shift=natural)
        images = _images_of(dataset, parts)
        data = data_record(dataset, source, {}, ordered=request.options.ordered_classes)
    facts = replace(facts, ordered=facts.ordered or request.options.ordered_classes)
    reader.fit(facts, images)
    found: dict[str, Matched] = {}
    stored: dict[str, str] = {}
    for file in cells:
        stored[file] = predictions_digest(reader.predictions(file))
        matched = reader.matched(file)
        found[file] = matched._replace(
            logits=np.empty((0, 0), np.float32), classes=how or matched.classes
        )
    _check_variants(request.options, parts, facts)
    if VAL in parts:
        known, loaded = images[VAL], datasets[DATA].val if datasets else None
        clusters = None if loaded is None else clusters_of(loaded.groups)
        for variant in request.options.all_variants:
            variant.check_images(known.keys, known.labels, facts.classes, clusters)
    name = request.name if request.dataset is None else f"{request.name}-on-{_named(facts.name)}"
    return GivenInputs(
        name,
        cells,
        shifts,
        facts,
        data,
        sources,
        datasets,
        images[TEST].labels,
        stored,
        found,
        reader.predictions,
    )


def measure_given(
    request: PredictionsRequest, inputs: GivenInputs, priors: Mapping[str, tuple[float, ...]]
) -> tuple[Measurement, list[Measured]]:
    """What is measured, and the models with the digests of their predictions."""
    options = request.options
    measurement = Measurement(
        data=inputs.facts,
        shifts=inputs.shifts,
        threads=options.threads or torch.get_num_threads(),
        device=resolve_device(options.device).type,
        arithmetic=Arithmetic(options.precision, options.cudnn_benchmark),
        bootstrap=options.bootstrap,
        variants=options.all_variants,
        priors=priors,
        operating_points=check_points(read_points(options.operating_points), inputs.facts.classes),
        # How images look that were shifted elsewhere is not known.
        pictured=inputs.shifts[:1] if inputs.datasets else (),
    )
    titles = titles_of(options.title, inputs.models)
    models = []
    for name in inputs.models:
        for seed in inputs.seeds:
            label = f"{titles[name]}, seed {seed}" if len(inputs.seeds) > 1 else titles[name]
            models.append(Measured(name, seed, titles[name], label, None, given=inputs.digests))
    return measurement, models


def plan_given(inputs: GivenInputs, measurement: Measurement, models: Sequence[Measured]) -> Plan:
    """Plan to store the predictions and everything after them."""
    steps = [*predict_models(measurement, models), *conclude(measurement, models)]
    return in_order(inputs.sources, [], steps)


def describe_given(
    request: PredictionsRequest, inputs: GivenInputs, measurement: Measurement
) -> RunRecord:
    """Make the record of an evaluation of predictions."""
    options, titles = request.options, titles_of(request.options.title, inputs.models)
    asked = {
        name: value
        for name in ("outputs", "label_column", "key_column", "classes")
        if (value := getattr(options, name)) not in (None, (), "auto")
    }
    side = inputs.facts.side
    return RunRecord(
        kind="evaluation",
        name=inputs.name,
        title=f"{', '.join(titles.values())} on {inputs.facts.name}",
        data=inputs.data,
        models={
            name: ModelRecord(
                title=titles[name],
                settings=json.loads(
                    json.dumps({"source": _last_part(request), **asked, **inputs.assumed(name)})
                ),
                facts=_facts(inputs, name),
            )
            for name in inputs.models
        },
        seeds=inputs.seeds,
        sweeps=describe_shifts(inputs.shifts, None if side is None else min(side)),
        variants=variant_titles(
            titles, {}, options.all_variants, inputs.facts.images[TEST], measurement.batch_size
        ),
        priors=dict(measurement.priors),
        settings=RunSettings(
            bootstrap=options.bootstrap,
            variants=tuple(each.text for each in options.all_variants),
            threads=measurement.threads,
            operating_points=dict(measurement.operating_points),
        ),
        provenance=provenance(resolve_device(options.device)),
    )


class _Reader:
    """Reads the predictions of cells; logits are kept as long as they are small."""

    def __init__(
        self, request: PredictionsRequest, asked: Asked, cells: Mapping[str, PredictionsOf]
    ) -> None:
        self.request, self.asked, self.cells = request, asked, cells
        self.classes: tuple[str, ...] = ()
        self.images: Mapping[str, KnownImages] = {}
        self.task = task_named(CLASSIFICATION)
        self._kept: dict[str, Matched] = {}
        self._room = MOST_KEPT

    def fit(self, facts: DataFacts, images: Mapping[str, KnownImages]) -> None:
        """Say which images, classes and task the predictions must be of."""
        self.classes, self.images, self.task = facts.classes, images, task_named(facts.task)

    def rows(self, file: str) -> Rows:
        """The rows as they are, with the labels that were given for all of them."""
        cell = self.cells[file]
        count = len(self.classes) or None
        if self.request.labels is not None and count is None:
            count = 0  # the labels are known, whatever the columns are
        rows = read_rows(cell.content, cell.place, self.asked, count)
        given = self.request.labels
        if given is None or _part(cell) == VAL:
            return rows
        if rows.labels is not None:
            raise InputError(
                f"{cell.place} has labels, and labels are given too: leave one of them"
            )
        if len(given) != len(rows.outputs):
            raise InputError(
                f"{cell.place} has {len(rows.outputs):,} rows, and there are {len(given):,} labels"
            )
        return replace(rows, labels=given)

    def matched(self, file: str) -> Matched:
        """The predictions in the order of the images."""
        if file in self._kept:
            return self._kept[file]
        images = self.images[_part(self.cells[file])]
        rows, labels = self.rows(file), read_labels(self.request.options)
        found = match(rows, self.classes, images, self.asked, labels)
        if rows.labels is not None and self.request.dataset is not None:
            agree = f"the labels beside the predictions are those of {images.place}"
            found = found._replace(notes=(*found.notes, agree))
        if found.logits.nbytes <= self._room:
            self._room -= found.logits.nbytes
            self._kept[file] = found
        return found

    def predictions(self, file: str) -> AnyPredictions:
        """The predictions that are stored."""
        images = self.images[_part(self.cells[file])]
        logits = self.matched(file).logits
        columns = logits, images.labels, images.keys
        return from_logits(*columns, self.classes, task=self.task)


def _check_options(request: PredictionsRequest) -> None:
    options, allowed = request.options, (*USABLE, *OF_DATA)
    for option in fields(EvaluationOptions):
        if getattr(options, option.name) == option.default:
            continue
        if option.name not in allowed:
            raise InputError(
                f"{option.name} cannot be given for predictions: no model is computed, and all of "
                "them are used"
            )
        if option.name in OF_DATA and request.dataset is None:
            raise InputError(f"{option.name} goes with a data set, and none is named")
    asked_for(options.outputs)
    for variant in options.all_variants:
        if variant.adapting is not None:
            raise InputError(
                f"{variant.name} cannot be measured of predictions: it changes the network, which "
                "is not at hand"
            )


def _check_variants(options: EvaluationOptions, parts: Sequence[str], facts: DataFacts) -> None:
    for variant in options.all_variants:
        if not variant.is_fitted:
            continue
        if VAL not in parts:
            raise InputError(
                f"{variant.kind} is fitted on predictions of clean validation images: give these "
                f"too, as the shift {VALIDATION} (MODEL-{VALIDATION}.csv)"
            )
        if len(facts.classes) > MOST_STORED_CLASSES:
            raise InputError(
                f"{variant.kind} needs stored logits, and beyond {MOST_STORED_CLASSES} classes "
                f"they are not stored; there are {len(facts.classes):,}"
            )


def _cells(request: PredictionsRequest) -> tuple[dict[str, PredictionsOf], tuple[Shift, ...]]:
    """Which predictions are stored where; all models and seeds must have the same shifts."""
    shifts: dict[tuple[str, float | None], Shift] = {}
    cells: dict[str, PredictionsOf] = {}
    have: dict[tuple[str, int], set[str]] = {}
    for each in request.predictions:
        shift, name = UNCHANGED, each.shift
        if each.level is not None:
            level = int(each.level) if each.level.is_integer() else each.level
            try:
                shift = elsewhere(each.shift, level)
            except InputError as error:
                raise InputError(f"{each.place}: {error}") from None
            name = shift.id
        shifts.setdefault((shift.name, shift.level), shift)
        have.setdefault((each.model, each.seed), set()).add(name)
        file = predictions_file(each.model, each.seed, shift.id, _part(each))
        cells[file] = each
    every = set().union(*have.values(), {CLEAN})
    seeds = {seed for _, seed in have}
    for model in dict.fromkeys(model for model, _ in have):
        for seed in sorted(seeds):
            if missing := sorted(every - have.get((model, seed), set())):
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise InputError(
                    f"there are no predictions of the model {model}, seed {seed}, for {missing[0]}"
                    f"{more}: every model and seed needs clean predictions, and those of each "
                    "shift that another one has"
                )
    ordered = [UNCHANGED, *(shift for (_, level), shift in shifts.items() if level is not None)]
    return cells, tuple(ordered)


def _part(cell: PredictionsOf) -> str:
    return VAL if cell.shift == VALIDATION else TEST


def _asked(options: EvaluationOptions) -> Asked:
    return Asked(options.outputs, options.label_column, options.key_column, options.classes)


def _own_images(
    request: PredictionsRequest,
    reader: _Reader,
    cells: Mapping[str, PredictionsOf],
    parts: Sequence[str],
) -> tuple[DataFacts, dict[str, KnownImages], str]:
    """The images that the first predictions of each split are of, and what their labels are."""
    images, counts, digests, how, absent = {}, {}, {}, "", ""
    classes: tuple[str, ...] = ()
    for part in sorted(parts):  # test first: its columns name the classes
        own = [file for file, cell in cells.items() if _part(cell) == part]
        file = next((each for each in own if cells[each].shift in (CLEAN, VALIDATION)), own[0])
        rows = reader.rows(file)
        classes = classes or class_names_of(rows, reader.asked)
        labels, told = label_numbers(rows, classes)
        how = how or f"of its own, {told}; the columns are the classes {listed(classes)}"
        if part == TEST:
            absent = _absent(labels, classes, rows, reader.asked)
        keys, names = positions(rows.keys, len(labels))
        order = np.argsort(keys, kind="stable")
        ordered = None if names is None else [names[at] for at in order]
        images[part] = KnownImages(
            labels[order], keys[order], ordered, cells[file].place, in_order=rows.keys is None
        )
        counts[part] = len(labels)
        digests[part] = _digest(images[part], classes)
    if len(classes) < 2:
        raise InputError(f"{request.source} has one class: an evaluation needs at least two")
    how += absent
    return DataFacts(f"{request.name} (its own labels)", classes, counts, digests), images, how


def _absent(
    labels: npt.NDArray[np.int64], classes: tuple[str, ...], rows: Rows, asked: Asked
) -> str:
    """Say which classes no image is of; "" if there are none.

    Raises:
        InputError: their columns may be something else than outputs, such as ages, or labels that
            are numbers may begin at 1.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not absent:
        return ""
    shown = ", ".join(map(repr, absent[:5])) + " ..." * (len(absent) > 5)
    told = f"no row has the label of {len(absent)} of the {len(classes)} classes ({shown})"
    numbers = rows.labels is not None and all(str(each).isdecimal() for each in rows.labels)
    if numbers and not counts[0]:
        raise InputError(
            f"{told}, and labels that are numbers begin at 0: write the names of the classes "
            "instead, or leave out the columns of these classes"
        )
    # Only of all classes together do probabilities sum to one.
    if not asked.classes and kind_of_rows(rows.outputs, asked.outputs, rows.place).kind == "logits":
        raise InputError(
            f"{told}: leave out the columns of these classes, or name the classes with --classes"
        )
    return f"; {told}"


def _digest(images: KnownImages, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps([classes, images.names]).encode())
    for column in (images.keys, images.labels):
        digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()


def _own_record(facts: DataFacts, *, ordered: bool) -> DataRecord:
    notes = {"ordered_classes": True} if ordered else {}
    return DataRecord(
        name=facts.name,
        classes=facts.classes,
        digests=dict(facts.digests),
        notes={"images": dict(facts.images), NO_IMAGES: True, **notes},
    )


def _open_dataset(
    request: PredictionsRequest, parts: Sequence[str], progress: Notify | None
) -> tuple[DataSource, Dataset]:
    dataset, options = request.dataset, request.options
    groups = asked_groups(options)
    if isinstance(dataset, Dataset):
        check_loaded(options)
        source = DataSource(source=dataset.name, parts=tuple(parts))
    else:
        assert dataset is not None
        listed = list_source(dataset, options.root, offline=options.offline)
        source = DataSource(
            source=dataset,
            root=options.root,
            size=options.size,
            parts=tuple(parts),
            validation_fraction=0.0,
            skip_unreadable=options.skip_unreadable,
            allow_duplicates=options.allow_duplicates,
            scale=options.scale,
            groups=groups,
        )
        if WHOLE in listed.splits:
            source = replace(source, test_fraction=share_tested(dataset))
        dataset = open_data(source, offline=options.offline, progress=progress)
    if VAL in parts and dataset.val is None:
        raise InputError(
            f"there are predictions of validation images, but {dataset.name} has no such split"
        )
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only one class: an evaluation needs at least two")
    return source, dataset


def _images_of(dataset: Dataset, parts: Sequence[str]) -> dict[str, KnownImages]:
    found = {}
    for part in parts:
        images = getattr(dataset, part)
        names = None if images.names is None else images.names.tolist()
        place = f"the {part} images of {dataset.name}"
        found[part] = KnownImages(
            images.labels.numpy(),
            images.keys.numpy(),
            names,
            place,
            are_files=names is not None,
        )
    return found


def _facts(inputs: GivenInputs, model: str) -> dict[str, JsonValue]:
    """What is known of a model, and what was assumed of each of its files, as JSON."""
    own = {file: cell for file, cell in inputs.cells.items() if cell.model == model}
    places = Counter(cell.place for cell in own.values())
    files = {
        cell.place if places[cell.place] == 1 else f"{cell.place} ({file})": {
            "outputs": str(inputs.found[file].kind),
            "classes": inputs.found[file].classes,
            "rows": inputs.found[file].rows,
            "notes": list(inputs.found[file].notes),
        }
        for file, cell in own.items()
    }
    digest = fingerprint({file: inputs.digests[file] for file in own})
    first = inputs.found[next(iter(own))]
    facts = {"digest": digest, "labels": first.classes, "outputs_as": str(first.kind)}
    plain: dict[str, JsonValue] = json.loads(json.dumps({**facts, "files": files}))
    return plain


def _last_part(request: PredictionsRequest) -> str:
    """Where the predictions are from, without the folders of this machine."""
    if not request.source.startswith(PREFIX):
        return request.source
    return f"{PREFIX}{Path(request.source.removeprefix(PREFIX)).expanduser().resolve().name}"


def _named(text: str) -> str:
    return folder_name(Path(text).name)

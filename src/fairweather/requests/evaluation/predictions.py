"""Predictions that were made elsewhere as the models of an evaluation: no network is opened."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.attacks.shift_lists import make_external_shift
from fairweather.data.loading import list_source, tested_share
from fairweather.data.sources import UNSPLIT
from fairweather.errors import InputError, quote_names
from fairweather.inference.prediction import make_predictions
from fairweather.metrics.clusters import number_clusters
from fairweather.models.outputs import detect_prediction_kind, parse_outputs
from fairweather.models.predictions.files import (
    PREFIX,
    PredictionSource,
    find_predictions,
    note_seeds,
)
from fairweather.models.predictions.matching import (
    KnownImages,
    MatchedPredictions,
    match_predictions,
    name_classes,
    number_keys,
    number_labels,
)
from fairweather.models.predictions.tables import PredictionRows, RowOptions, read_rows
from fairweather.models.sources import folder_name
from fairweather.progress import Notify
from fairweather.requests.evaluation.request import (
    PredictionsRequest,
    check_loaded_dataset,
    group_columns,
    make_class_settings,
    make_settings,
    model_titles,
    read_label_map,
)
from fairweather.requests.evaluation_options import EvaluationOptions
from fairweather.requests.execution import describe_groups
from fairweather.requests.inputs import Inputs, check_task, model_label, read_priors
from fairweather.runs.folder import fingerprint
from fairweather.shifts.table import CLEAN as UNCHANGED
from fairweather.steps.measurement import DataFacts, MeasuredModel, collect_facts
from fairweather.steps.plan import DATA, PlannedDataset
from fairweather.steps.worker import open_data, predictions_digest
from fairweather.tasks.task import MOST_STORED_CLASSES, find_task
from fairweather.types.measurement import CLASSIFICATION, AnyPredictions, Dataset, Shift
from fairweather.types.record import CLEAN, TEST, VAL, VALIDATION, ModelRecord, predictions_file
from fairweather.variants.variant import Variant

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
# What is probably wrong if a model is no better than chance.
ADVICE = (
    "the order of the rows or of the classes is probably wrong; see --key-column, --classes and "
    "--labels"
)
MOST_CACHED_BYTES = 2**30  # bytes of logits that are not read again when they are stored


class _PredictionsSummary(NamedTuple):
    """What was found out of predictions, each file without its logits.

    Attributes:
        cells: which predictions are stored in which file of the run.
        matched: what was found out of each, by the same.
        digests: of their content, by the same.
    """

    cells: Mapping[str, PredictionSource]
    matched: Mapping[str, MatchedPredictions]
    digests: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the files."""
        return tuple(dict.fromkeys(each.model for each in self.cells.values()))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all models."""
        return tuple(sorted({each.seed for each in self.cells.values()}))

    def lines(self, shifts: Sequence[Shift]) -> Iterator[str]:
        """What was found and what was assumed, one fact per line."""
        if len(self.cells) > 1:
            seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
            ids = ", ".join(shift.id for shift in shifts)
            yield f"found          models {', '.join(self.models)}; {seeds}; {ids}"
            yield from self._unclear_models()
            yield from (f"note           {note}" for note in note_seeds(self.models))
        for title, sentences in _ASSUMPTIONS.items():
            yield from (f"{title:<14} {text}" for text in self._told(sentences, [*self.matched]))

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
        told = {title: self._told(sentences, own) for title, sentences in _ASSUMPTIONS.items()}
        return {f"read: {title}": "; ".join(each) for title, each in told.items() if each}

    def _told(
        self, of: Callable[[MatchedPredictions], Sequence[str]], files: Sequence[str]
    ) -> list[str]:
        """Sentences, each once; one that is not true of all files names the first of its files."""
        places: dict[str, list[str]] = {}
        for file in files:
            for text in of(self.matched[file]):
                places.setdefault(text, []).append(self.cells[file].place)
        told = []
        for text, named in places.items():
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            told.append(text if len(named) == len(files) else f"{named[0]}{more}: {text}")
        return told


# What is found out of the predictions in a file, by the word before it.
_ASSUMPTIONS: Mapping[str, Callable[[MatchedPredictions], Sequence[str]]] = {
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


def make_prediction_inputs(
    request: PredictionsRequest, device: torch.device, tell: Notify
) -> Inputs:
    """Read all predictions, and bring them into the order of their images and classes.

    Raises:
        InputError: an option is of no use for predictions, files are missing, or something in them
            is wrong or unclear; the message says what would settle it.
    """
    options = request.options
    priors = read_priors(options.priors)
    cells, shifts = _list_cells(request)
    parts = [part for part in (VAL, TEST) if any(_part(each) == part for each in cells.values())]
    reader = _PredictionReader(request, _reading_options(options), cells)
    sources, datasets, how, where = {}, {}, "", ", without images"
    if request.dataset is None:
        facts, images, how = _images_of_labels(request, reader, cells, parts)
    else:
        source, dataset = _open_dataset(request, parts, tell)
        facts, images, where = collect_facts(dataset, parts), _known_images(dataset, parts), ""
        facts = replace(facts, natural_shift=facts.natural_shift and VAL in parts)
        sources, datasets = {DATA: source}, {DATA: dataset}
    settings = make_settings(options, shifts, device)
    for each in datasets.values():
        check_task(each, settings)
    reader.fit(facts, images)
    found = _summarize(reader, cells, how)
    _check_variants(settings.variants, parts, facts)
    if (known := images.get(VAL)) is not None:
        loaded = datasets[DATA].val if datasets else None
        clusters = None if loaded is None else number_clusters(loaded.groups)
        for variant in settings.variants:
            variant.check_images(known.keys, known.labels, facts.classes, clusters)
    titles, seeds = model_titles(options.title, found.models), found.seeds
    n, groups = facts.images[TEST], describe_groups(datasets[DATA].test.groups) if datasets else ""
    classes = f"{len(facts.classes)} classes"
    return Inputs(
        kind="evaluation",
        name=f"{request.name}-on-{folder_name(Path(facts.name).name)}"
        if datasets
        else request.name,
        title=f"{', '.join(titles.values())} on {facts.name}",
        sources=sources,
        facts={DATA: facts},
        datasets=datasets,
        models=[
            MeasuredModel(
                name, seed, title, model_label(title, seed, seeds), None, given=found.digests
            )
            for name, title in titles.items()
            for seed in seeds
        ],
        described={name: _describe_model(request, found, name, titles[name]) for name in titles},
        seeds=seeds,
        settings=replace(
            settings,
            classes=make_class_settings(options, priors, images[TEST].labels, facts.classes),
        ),
        given=reader.predictions,
        # How images look that were shifted elsewhere is not known.
        pictured=shifts[:1] if datasets else (),
        lines=[
            f"model          {request.source}",
            f"data           {facts.name}: n = {n:,}{where}, {classes}",
            *([f"groups         {groups}"] if groups else []),
            *found.lines(shifts),
        ],
        advice=ADVICE,
    )


def _summarize(
    reader: _PredictionReader, cells: Mapping[str, PredictionSource], how: str
) -> _PredictionsSummary:
    """Read everything once, for digests and for what is to be told."""
    digests, matched = {}, {}
    for file in cells:
        digests[file] = predictions_digest(reader.predictions(file))
        each = reader.matched(file)
        matched[file] = each._replace(
            logits=np.empty((0, 0), np.float32), classes=how or each.classes
        )
    return _PredictionsSummary(cells, matched, digests)


def _describe_model(
    request: PredictionsRequest, found: _PredictionsSummary, name: str, title: str
) -> ModelRecord:
    """Describe a model: what was asked for, and what was assumed of each of its files."""
    asked = {
        name: value
        for name in ("outputs", "label_column", "key_column", "classes")
        if (value := getattr(request.options, name)) not in (None, (), "auto")
    }
    settings = {"source": _short_source(request), **asked, **found.assumed(name)}
    plain = json.loads(json.dumps({"settings": settings, "facts": _predictions_facts(found, name)}))
    return ModelRecord(title=title, **plain)


class _PredictionReader:
    """Reads the predictions of cells; logits are kept as long as they are small."""

    def __init__(
        self,
        request: PredictionsRequest,
        asked: RowOptions,
        cells: Mapping[str, PredictionSource],
    ) -> None:
        self.request, self.asked, self.cells = request, asked, cells
        self.classes: tuple[str, ...] = ()
        self.images: Mapping[str, KnownImages] = {}
        self.task = find_task(CLASSIFICATION)
        self._kept: dict[str, MatchedPredictions] = {}
        self._room = MOST_CACHED_BYTES

    def fit(self, facts: DataFacts, images: Mapping[str, KnownImages]) -> None:
        """Say which images, classes and task the predictions must be of."""
        self.classes, self.images, self.task = facts.classes, images, find_task(facts.task)

    def rows(self, file: str) -> PredictionRows:
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

    def matched(self, file: str) -> MatchedPredictions:
        """The predictions in the order of the images."""
        if file in self._kept:
            return self._kept[file]
        images = self.images[_part(self.cells[file])]
        rows, labels = self.rows(file), read_label_map(self.request.options)
        found = match_predictions(rows, self.classes, images, self.asked, labels)
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
        return make_predictions(*columns, self.classes, task=self.task)


def check_prediction_options(request: PredictionsRequest) -> None:
    """Raise `InputError` for options that mean nothing for predictions."""
    options, allowed = request.options, (*USABLE, *OF_DATA)
    for option in fields(EvaluationOptions):
        value = getattr(options, option.name)
        if value == option.default or (option.name, value) == ("jobs", 1):
            continue
        if option.name not in allowed:
            raise InputError(
                f"{option.name} cannot be given for predictions: no model is computed, and all of "
                "them are used"
            )
        if option.name in OF_DATA and request.dataset is None:
            raise InputError(f"{option.name} goes with a data set, and none is named")
    parse_outputs(options.outputs)
    for variant in options.all_variants:
        if variant.adapting is not None:
            raise InputError(
                f"{variant.name} cannot be measured of predictions: it changes the network, which "
                "is not at hand"
            )


def _check_variants(variants: Sequence[Variant], parts: Sequence[str], facts: DataFacts) -> None:
    for variant in variants:
        if variant.post_hoc is None:
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


def _list_cells(
    request: PredictionsRequest,
) -> tuple[dict[str, PredictionSource], tuple[Shift, ...]]:
    """Which predictions are stored where; all models and seeds must have the same shifts."""
    shifts: dict[tuple[str, float | None], Shift] = {}
    cells: dict[str, PredictionSource] = {}
    have: dict[tuple[str, int], set[str]] = {}
    for each in request.predictions:
        shift, name = UNCHANGED, each.shift
        if each.level is not None:
            level = int(each.level) if each.level.is_integer() else each.level
            try:
                shift = make_external_shift(each.shift, level)
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


def _part(cell: PredictionSource) -> str:
    return VAL if cell.shift == VALIDATION else TEST


def _reading_options(options: EvaluationOptions) -> RowOptions:
    return RowOptions(options.outputs, options.label_column, options.key_column, options.classes)


def _images_of_labels(
    request: PredictionsRequest,
    reader: _PredictionReader,
    cells: Mapping[str, PredictionSource],
    parts: Sequence[str],
) -> tuple[DataFacts, dict[str, KnownImages], str]:
    """The images that the first predictions of each split are of, and what their labels are."""
    images, counts, digests, how, absent = {}, {}, {}, "", ""
    classes: tuple[str, ...] = ()
    for part in sorted(parts):  # test first: its columns name the classes
        own = [file for file, cell in cells.items() if _part(cell) == part]
        file = next((each for each in own if cells[each].shift in (CLEAN, VALIDATION)), own[0])
        rows = reader.rows(file)
        classes = classes or name_classes(rows, reader.asked)
        labels, told = number_labels(rows, classes)
        how = how or f"of its own, {told}; the columns are the classes {quote_names(classes)}"
        if part == TEST:
            absent = _describe_absent_classes(labels, classes, rows, reader.asked)
        keys, names = number_keys(rows.keys, len(labels))
        order = np.argsort(keys, kind="stable")
        ordered = None if names is None else [names[at] for at in order]
        images[part] = KnownImages(
            labels[order], keys[order], ordered, cells[file].place, in_order=rows.keys is None
        )
        counts[part] = len(labels)
        digests[part] = _images_digest(images[part], classes)
    if len(classes) < 2:
        raise InputError(f"{request.source} has one class: an evaluation needs at least two")
    how += absent
    return DataFacts(f"{request.name} (its own labels)", classes, counts, digests), images, how


def _describe_absent_classes(
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    rows: PredictionRows,
    asked: RowOptions,
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
    if (
        not asked.classes
        and detect_prediction_kind(rows.outputs, asked.outputs, rows.place).kind == "logits"
    ):
        raise InputError(
            f"{told}: leave out the columns of these classes, or name the classes with --classes"
        )
    return f"; {told}"


def _images_digest(images: KnownImages, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps([classes, images.names]).encode())
    for column in (images.keys, images.labels):
        digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()


def _open_dataset(
    request: PredictionsRequest, parts: Sequence[str], progress: Notify
) -> tuple[PlannedDataset, Dataset]:
    dataset, options = request.dataset, request.options
    groups = group_columns(options)
    if isinstance(dataset, Dataset):
        check_loaded_dataset(options)
        source = PlannedDataset(source=dataset.name, parts=tuple(parts))
    else:
        assert dataset is not None
        listed = list_source(dataset, options.root, offline=options.offline)
        source = PlannedDataset(
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
        if UNSPLIT in listed.splits:
            source = replace(source, test_fraction=tested_share(dataset))
        dataset = open_data(source, offline=options.offline, progress=progress)
    if VAL in parts and dataset.val is None:
        raise InputError(
            f"there are predictions of validation images, but {dataset.name} has no such split"
        )
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only one class: an evaluation needs at least two")
    return source, dataset


def _known_images(dataset: Dataset, parts: Sequence[str]) -> dict[str, KnownImages]:
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


def _predictions_facts(found: _PredictionsSummary, model: str) -> dict[str, object]:
    """What is known of a model, and what was assumed of each of its files."""
    own = {file: cell for file, cell in found.cells.items() if cell.model == model}
    places = Counter(cell.place for cell in own.values())
    files = {
        cell.place if places[cell.place] == 1 else f"{cell.place} ({file})": {
            "outputs": str(found.matched[file].kind),
            "classes": found.matched[file].classes,
            "rows": found.matched[file].rows,
            "notes": list(found.matched[file].notes),
        }
        for file, cell in own.items()
    }
    digest = fingerprint({file: found.digests[file] for file in own})
    first = found.matched[next(iter(own))]
    return {
        "digest": digest,
        "labels": first.classes,
        "outputs_as": str(first.kind),
        "files": files,
    }


def _short_source(request: PredictionsRequest) -> str:
    """Where the predictions are from, without the folders of this machine."""
    if not request.source.startswith(PREFIX):
        return request.source
    return f"{PREFIX}{Path(request.source.removeprefix(PREFIX)).expanduser().resolve().name}"

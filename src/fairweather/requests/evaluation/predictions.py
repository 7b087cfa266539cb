"""Predictions from elsewhere, in place of models: no network is opened."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from fairweather.attacks.shift_lists import make_external_shift
from fairweather.data.findings import parse_empty
from fairweather.data.groups import check_shared_groups
from fairweather.data.loading import list_source, mark_positive, tested_share
from fairweather.data.sources import UNSPLIT
from fairweather.errors import InputError, join_names, quote_names
from fairweather.inference.prediction import make_predictions
from fairweather.metrics.columns import IntArray
from fairweather.models.outputs import PREDICTED, detect_prediction_kind, parse_outputs
from fairweather.models.predictions.files import (
    PREFIX,
    PredictionSource,
    find_predictions,
    list_in_memory,
    note_seeds,
)
from fairweather.models.predictions.matching import (
    KnownImages,
    MatchedPredictions,
    column_error,
    list_known_classes,
    mark_labels,
    match_predictions,
    name_classes,
    name_label_classes,
    note_unlabelled,
    number_keys,
    number_labels,
)
from fairweather.models.predictions.readers import ReaderTable
from fairweather.models.predictions.tables import (
    PredictionRows,
    RowOptions,
    arrange_findings,
    read_rows,
    split_suffix,
)
from fairweather.models.predictions.truth import (
    Truth,
    add_truth,
    has_labels,
    read_row_groups,
    read_truth,
)
from fairweather.models.sources import folder_name
from fairweather.progress import Notify
from fairweather.requests.checks import (
    LabelledPart,
    check_has_validation,
    check_labels,
    check_measurement,
    check_variants,
)
from fairweather.requests.evaluation.settings import (
    add_priors,
    check_loaded_dataset,
    group_columns,
    list_known_images,
    model_titles,
    read_calls,
    read_label_map,
)
from fairweather.requests.evaluation_options import EvaluationOptions, check_options
from fairweather.requests.execution import describe_groups
from fairweather.requests.inputs import Inputs, model_label
from fairweather.requests.settings import (
    add_class_settings,
    describe_order,
    make_settings,
    read_aggregation,
    read_priors,
)
from fairweather.runs.folder import StoredGroups, fingerprint
from fairweather.shifts.table import CLEAN as UNCHANGED
from fairweather.steps.measurement import DataFacts, MeasuredModel, Settings, collect_facts
from fairweather.steps.plan import DATA, PlannedDataset
from fairweather.steps.predictions import groups_digest, make_stored_groups
from fairweather.steps.worker import check_one_label, open_data, predictions_digest
from fairweather.tasks import MOST_STORED_CLASSES, find_task
from fairweather.types.measurement import (
    CLASSIFICATION,
    MULTILABEL,
    AnyPredictions,
    Dataset,
    Groups,
    Predictions,
    Shift,
)
from fairweather.types.positive import PositiveClasses, list_positive, parse_positive, read_positive
from fairweather.types.record import CLEAN, TEST, VAL, VALIDATION, ModelRecord, predictions_file

# The options that apply to predictions, and those of them that need a data set.
USABLE = (
    *("outputs", "label_column", "key_column", "classes", "findings", "empty_labels", "positive"),
    *("predicted_columns", "confidence_column"),
    *("variants", "priors"),
    *("operating_points", "costs", "ordered_classes"),
    *("bootstrap", "threads", "title", "device", "offline"),
    *("metadata", "group", "unit", "aggregate", "slices", "sites", "allow_shared_groups"),
)
OF_DATA = (*("class_map", "size", "root", "skip_unreadable", "allow_duplicates", "scale"),)
# What is probably wrong if a model is no better than chance.
ADVICE = (
    "the order of the rows or of the classes is probably wrong; see --key-column, --classes and "
    "--class-map"
)
MOST_CACHED_BYTES = 2**30  # bytes of logits to keep, instead of reading them again to store them


# The facts about a file of predictions, by the word before each.
_ASSUMPTIONS: Mapping[str, Callable[[MatchedPredictions], Sequence[str]]] = {
    "outputs": lambda matched: [str(matched.kind)],
    "labels": lambda matched: [matched.classes],
    "rows": lambda matched: [matched.rows],
    "note": lambda matched: list(matched.notes),
}


@dataclass(frozen=True)
class PredictionsRequest:
    """Predictions from elsewhere, their images, and the options; see `evaluate`."""

    source: str
    """`predictions:PATH`, or that they are predictions of this process."""

    name: str
    """The name for a run folder."""

    predictions: tuple[PredictionSource, ...]
    """Of every model, seed and shift."""

    dataset: str | Dataset | None
    """Their images; None if the labels are with the predictions."""

    labels: Truth | None
    """The labels of a second table or of this process; None if a file or the data set has them."""

    options: EvaluationOptions
    readers: tuple[ReaderTable, ...] = ()
    """The tables with what people call the test images."""

    modules: ClassVar[Sequence[nn.Module]] = ()  # of this process

    def check(self) -> None:
        """Raise `InputError` for options that do not apply to predictions."""
        options, allowed = self.options, (*USABLE, *OF_DATA)
        for option in fields(EvaluationOptions):
            value = getattr(options, option.name)
            if value == option.default or (option.name, value) == ("jobs", 1):
                continue
            if option.name not in allowed:
                raise InputError(
                    f"{option.name} cannot be given for predictions: no model is computed, and "
                    "all of them are used"
                )
            if option.name in OF_DATA and self.dataset is None:
                raise InputError(f"{option.name} goes with a data set, and none is named")
        read_aggregation(options.unit, options.aggregate)
        parse_outputs(options.outputs)
        parse_empty(options.empty_labels)
        for name in ("findings", "empty_labels"):
            if self.dataset is not None and getattr(options, name) != getattr(
                EvaluationOptions, name
            ):
                raise InputError(
                    f"{name} is about labels beside predictions, and a data set is named: name its "
                    "findings in it, as csv:PATH,findings=A|B,empty=absent"
                )
        for variant in options.all_variants:
            if variant.adapting is not None:
                raise InputError(
                    f"{variant.name} cannot be measured of predictions: it needs the network, "
                    "which is not at hand"
                )

    def make_inputs(self, device: torch.device, tell: Notify) -> Inputs:
        """Read all predictions, and bring them into the order of their images and classes.

        Raises:
            InputError: files are missing, or something in them is wrong or unclear; the message
                says what to do.
        """
        options = self.options
        priors = read_priors(options.priors)
        cells, shifts = _list_cells(self)
        parts = [
            part for part in (VAL, TEST) if any(_part(cell) == part for cell in cells.values())
        ]
        reader = _PredictionReader(_find_labels(self, cells.values()), cells)
        sources, datasets, labels, remark = {}, {}, "", ", without images"
        if self.dataset is None:
            facts, images, labels = _images_of_labels(reader, parts)
        else:
            source, dataset = _open_dataset(self, parts, tell)
            facts, images, remark = (
                collect_facts(dataset, parts),
                list_known_images(dataset, parts),
                "",
            )
            facts = replace(facts, natural_shift=facts.natural_shift and VAL in parts)
            sources, datasets = {DATA: source}, {DATA: dataset}
            reader.positive = read_positive(dataset.notes)
        settings = make_settings(options, shifts, device, options.sites)
        labelled = {
            part: LabelledPart(known.keys, known.labels, known.groups)
            for part, known in images.items()
        }
        ordered = settings.ordered or facts.ordered
        classes, task = facts.classes, find_task(facts.task)
        settings = add_class_settings(settings, options, classes, task, ordered=ordered)
        settings = add_priors(settings, options, priors, labelled[TEST], classes, task, ordered)
        for loaded in datasets.values():
            check_labels(loaded, task)
        check_variants(settings.variants, task, facts.name, ordered=ordered)
        reader.read_all(facts, images, labels)
        if reader.lacks_probabilities:
            _check_predicted(settings, self.source)
        _check_fitted(settings, parts, facts)
        units = check_measurement(
            settings, labelled, task, classes, name=facts.name, ordered=ordered
        )
        titles, seeds = model_titles(options.title, reader.models), reader.seeds
        n, groups = facts.images[TEST], images[TEST].groups
        count, noun = len(facts.classes), reader.task.noun
        counted = f"{count} {noun if count > 1 else noun.removesuffix('s')}"
        readers, read_lines = read_calls(
            self.readers, images, facts.classes, options, settings, reader.positive
        )
        return Inputs(
            kind="evaluation",
            name=f"{self.name}-on-{folder_name(Path(facts.name).name)}" if datasets else self.name,
            title=f"{', '.join(titles.values())} on {facts.name}",
            sources=sources,
            facts={DATA: facts},
            datasets=datasets,
            models=[
                MeasuredModel(
                    name, seed, title, model_label(title, seed, seeds), None, given=reader.digests
                )
                for name, title in titles.items()
                for seed in seeds
            ],
            records={name: reader.describe(name, title) for name, title in titles.items()},
            seeds=seeds,
            settings=settings,
            read_predictions=reader.predictions,
            groups={} if datasets else _store_groups(images),
            readers=readers,
            # Images that were shifted elsewhere are unknown here.
            pictured=shifts[:1] if datasets else (),
            lines=[
                f"model          {self.source}",
                f"data           {facts.name}: n = {n:,}{remark}, {counted}",
                *([f"groups         {describe_groups(groups)}"] if groups else []),
                *(f"note           {note}" for note in (groups.remarks() if groups else ())),
                *units,
                *describe_order(settings, facts.classes),
                *reader.lines(shifts),
                *read_lines,
            ],
            advice=ADVICE,
        )


def request_file(
    source: str,
    dataset: str | Dataset | None,
    options: EvaluationOptions,
    labels: object = None,
    readers: tuple[ReaderTable, ...] = (),
) -> PredictionsRequest:
    """The request for `predictions:PATH`; raises `InputError` if no predictions are found there."""
    if source == PREFIX:
        raise InputError(f"{PREFIX} needs a file or a folder, {PREFIX}PATH")
    path = Path(source.removeprefix(PREFIX)).expanduser()
    name = folder_name(path.name if path.is_dir() else split_suffix(path)[0])
    predictions = tuple(find_predictions(path, _row_options(options)))
    truth = None if labels is None else _read_truth(labels, options)
    return PredictionsRequest(source, name, predictions, dataset, truth, options, readers)


def request_predictions(
    predictions: object,
    labels: object,
    dataset: str | Dataset | None,
    options: Mapping[str, object],
    readers: tuple[ReaderTable, ...] = (),
) -> PredictionsRequest:
    """The request for predictions of this process; `labels` may be those of each row."""
    given = check_options(options)
    if isinstance(predictions, str | Path):
        return request_file(f"{PREFIX}{predictions}", dataset, given, labels, readers)
    tables = tuple(list_in_memory(predictions, _row_options(given)))
    truth = None if labels is None else _read_truth(labels, given)
    if truth is not None and truth.keys is None:
        _check_label_order(labels, tables)
    name, source = "predictions", "predictions of this process"
    return PredictionsRequest(source, name, tables, dataset, truth, given, readers)


def _read_truth(labels: object, options: EvaluationOptions) -> Truth:
    if isinstance(labels, Mapping):
        raise InputError("labels is the true label of each row; a mapping of classes is class_map")
    return read_truth(labels, _row_options(options))


def _row_options(options: EvaluationOptions) -> RowOptions:
    return RowOptions(**{name: getattr(options, name) for name in RowOptions._fields})


def _check_label_order(labels: object, predictions: Iterable[PredictionSource]) -> None:
    """Raise `InputError` if the index of the labels has another order than that of the table.

    A counting index implies no order, unless the table's index has the same numbers.
    """
    if not isinstance(labels, pd.Series | pd.DataFrame):
        return
    for table in predictions:
        if not isinstance(table.content, pd.DataFrame) or table.shift == VALIDATION:
            continue
        ours, theirs = labels.index, table.content.index
        counted = any(index.equals(pd.RangeIndex(len(index))) for index in (ours, theirs))
        alike = len(ours) == len(theirs) and ours.isin(theirs).all() and theirs.isin(ours).all()
        if not ours.equals(theirs) and (alike or not counted):
            raise InputError(
                f"labels have another index than {table.place}, and are taken in the order of the "
                "rows: give labels.loc[table.index], or labels.to_numpy() if the order is right"
            )


class _PredictionReader:
    """Reads the predictions of a request; logits are kept as long as they are small.

    Attributes:
        cells: the predictions for each file of the run.
        matched: the facts about each file, without its logits.
        digests: of the content of each file.
    """

    def __init__(self, request: PredictionsRequest, cells: Mapping[str, PredictionSource]) -> None:
        options = request.options
        self.request, self.cells = request, cells
        self.asked = _row_options(options)
        self.classes: tuple[str, ...] = ()
        self.images: Mapping[str, KnownImages] = {}
        self.positive: PositiveClasses | None = None
        self.task = find_task(CLASSIFICATION)
        self.findings: tuple[str, ...] = ()  # of the labels of test images, in their order
        self.matched: dict[str, MatchedPredictions] = {}
        self.digests: dict[str, str] = {}
        self._cached: dict[str, MatchedPredictions] = {}
        self._room = MOST_CACHED_BYTES

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the files."""
        return tuple(dict.fromkeys(cell.model for cell in self.cells.values()))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all models."""
        return tuple(sorted({cell.seed for cell in self.cells.values()}))

    def read_all(self, facts: DataFacts, images: Mapping[str, KnownImages], labels: str) -> None:
        """Read everything once; raise `InputError` for other images, classes or tasks.

        Args:
            facts: of the data.
            images: of each split.
            labels: a text about the labels; "" to use each file's own.
        """
        self.classes, self.images, self.task = facts.classes, images, find_task(facts.task)
        for file in self.cells:
            self.digests[file] = predictions_digest(self.predictions(file))
            matched = self._match(file)
            described = f"{labels}; {matched.classes}" if matched.predicted is not None else labels
            self.matched[file] = matched._replace(
                logits=np.empty((0, 0), np.float32),
                predicted=None,
                confidence=None,
                classes=described if labels else matched.classes,
            )
        self._check_alike()

    @property
    def lacks_probabilities(self) -> bool:
        """Whether only predicted classes are known, and perhaps their confidence."""
        return any(matched.kind.kind == PREDICTED for matched in self.matched.values())

    def _check_alike(self) -> None:
        """Raise `InputError` unless the same is known of the outputs of all files."""
        if not self.lacks_probabilities:
            return
        known = {matched.kind: file for file, matched in self.matched.items()}
        if len(known) > 1:
            (kind, file), (other, later) = list(known.items())[:2]
            raise InputError(
                f"{self.cells[file].place} has {kind.amount}, and {self.cells[later].place} has "
                f"{other.amount}: evaluate each in its own run, and compare the runs"
            )

    def rows(self, file: str) -> PredictionRows:
        """The rows as they are, with the labels that were given for all of them."""
        cell, given = self.cells[file], self.request.labels
        count = len(self.classes) or None
        if given is not None and count is None:
            count = 0  # the labels are known, whatever the columns are
        rows = read_rows(
            cell.content, cell.place, self.asked, count, () if given is None else given.columns
        )
        if rows.predicted is not None and (self.request.options.positive or self.positive):
            raise InputError(
                f"--positive needs the probability of its classes, and {cell.place} has predicted "
                "classes only"
            )
        # A second table can have the keys of validation images too; an array is of test images.
        if given is None or (
            _part(cell) == VAL and (given.keys is None or rows.labels is not None)
        ):
            if self.positive is not None:
                return mark_labels(rows, self.positive)
            return arrange_findings(rows, self.findings) if self.findings else rows
        rows = add_truth(rows, given, self.asked)
        return rows if self.positive is None else mark_labels(rows, self.positive)

    def _match(self, file: str) -> MatchedPredictions:
        """The predictions in the order of the images."""
        if file in self._cached:
            return self._cached[file]
        images = self.images[_part(self.cells[file])]
        rows, labels = self.rows(file), read_label_map(self.request.options)
        asked = self.asked._replace(outputs=self.cells[file].outputs or self.asked.outputs)
        matched = match_predictions(rows, self.classes, images, asked, labels, self.positive)
        if rows.labels is not None and self.request.dataset is not None:
            agree = f"the labels beside the predictions are those of {images.place}"
            matched = matched._replace(notes=(*matched.notes, agree))
        if self.request.dataset is None and not (asked.classes or rows.names):
            unlabelled = note_unlabelled(matched, self.images.values(), self.classes)
            matched = matched._replace(notes=(*matched.notes, *unlabelled))
        if matched.logits.nbytes <= self._room:
            self._room -= matched.logits.nbytes
            self._cached[file] = matched
        return matched

    def predictions(self, file: str) -> AnyPredictions:
        """The predictions to store."""
        images, matched = self.images[_part(self.cells[file])], self._match(file)
        if matched.predicted is None:
            return make_predictions(
                matched.logits, images.labels, images.keys, self.classes, task=self.task
            )
        return Predictions(
            keys=images.keys,
            labels=images.labels,
            predicted=matched.predicted,
            confidence=matched.confidence,
            top5_correct=None,
            nll=None,
            brier=None,
            logits=None,
            classes=self.classes,
        )

    def lines(self, shifts: Sequence[Shift]) -> Iterator[str]:
        """What was found and what was assumed, one fact per line."""
        if len(self.cells) > 1:
            seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
            ids = ", ".join(shift.id for shift in shifts)
            yield f"found          models {', '.join(self.models)}; {seeds}; {ids}"
            for model, longer in itertools.permutations(self.models, 2):
                if longer.startswith(f"{model}-"):
                    yield (
                        f"note           {longer} is taken for a model of its own; if it is "
                        f"{model} under a shift, write the level behind a comma: {longer},3"
                    )
            yield from (f"note           {note}" for note in note_seeds(self.models))
        for title, sentences in self._assumptions([*self.matched]).items():
            yield from (f"{title:<14} {text}" for text in sentences)

    def describe(self, model: str, title: str) -> ModelRecord:
        """Describe a model: the request, and the assumptions about each of its files."""
        files = [file for file, cell in self.cells.items() if cell.model == model]
        asked = {
            name: value
            for name in RowOptions._fields
            if (value := getattr(self.request.options, name)) != getattr(EvaluationOptions, name)
        }
        assumed = {
            f"read: {word}": "; ".join(sentences)
            for word, sentences in self._assumptions(files).items()
            if sentences
        }
        places = Counter(self.cells[file].place for file in files)
        first = self.matched[files[0]]
        facts = {
            "digest": fingerprint({file: self.digests[file] for file in files}),
            "labels": first.classes,
            "outputs_as": str(first.kind),
            "files": {
                place if places[place] == 1 else f"{place} ({file})": {
                    "outputs": str(matched.kind),
                    "classes": matched.classes,
                    "rows": matched.rows,
                    "notes": list(matched.notes),
                }
                for file in files
                for place, matched in [(self.cells[file].place, self.matched[file])]
            },
        }
        source = self.request.source
        if source.startswith(PREFIX):  # without the folders of this machine
            path = Path(source.removeprefix(PREFIX)).expanduser().resolve()
            source = f"{PREFIX}{path.name}"
        settings = {"source": source, **asked, **assumed}
        plain = json.loads(json.dumps({"settings": settings, "facts": facts}))
        return ModelRecord(title=title, **plain)

    def _assumptions(self, files: Sequence[str]) -> dict[str, list[str]]:
        """Sentences by the word before them; if files differ, a sentence names its first file."""
        places: dict[str, dict[str, list[str]]] = {word: {} for word in _ASSUMPTIONS}
        for word, read in _ASSUMPTIONS.items():
            for file in files:
                for text in read(self.matched[file]):
                    places[word].setdefault(text, []).append(self.cells[file].place)
        return {
            word: [
                text
                if len(named) == len(files)
                else f"{named[0]}{f' and {len(named) - 1} more' if len(named) > 1 else ''}: {text}"
                for text, named in texts.items()
            ]
            for word, texts in places.items()
        }


def _check_fitted(settings: Settings, parts: Sequence[str], facts: DataFacts) -> None:
    """Raise `InputError` if variants or targets lack validation images, or stored logits."""
    if VAL not in parts:
        check_has_validation(
            settings,
            "the evaluation",
            f"give these too, as the shift {VALIDATION} (MODEL-{VALIDATION}.csv)",
        )
    fitted = [variant for variant in settings.variants if variant.post_hoc is not None]
    for variant in fitted:
        if not find_task(facts.task).stores_logits(len(facts.classes)):
            raise InputError(
                f"{variant.kind} needs stored logits, and beyond {MOST_STORED_CLASSES} classes "
                f"they are not stored; there are {len(facts.classes):,}"
            )


def _check_predicted(settings: Settings, source: str) -> None:
    """Raise `InputError` for what needs the probability of every class."""
    asked = {
        "variant": [variant.kind for variant in settings.variants],
        "operating-point": list(settings.operating_points),
        "unit": [] if settings.aggregation is None else [settings.aggregation.unit],
    }
    for option, names in asked.items():
        if names:
            raise InputError(
                f"--{option} ({names[0]}) needs the probability of every class, and {source} has "
                "predicted classes only"
            )


def _list_cells(
    request: PredictionsRequest,
) -> tuple[dict[str, PredictionSource], tuple[Shift, ...]]:
    """Which predictions are stored where; all models and seeds must have the same shifts."""
    shifts: dict[tuple[str, float | None], Shift] = {}
    cells: dict[str, PredictionSource] = {}
    have: dict[tuple[str, int], set[str]] = {}
    for cell in request.predictions:
        shift, name = UNCHANGED, cell.shift
        if cell.level is not None:
            level = int(cell.level) if cell.level.is_integer() else cell.level
            try:
                shift = make_external_shift(cell.shift, level)
            except InputError as error:
                raise InputError(f"{cell.place}: {error}") from None
            name = shift.id
        shifts.setdefault((shift.name, shift.level), shift)
        have.setdefault((cell.model, cell.seed), set()).add(name)
        cells[predictions_file(cell.model, cell.seed, shift.id, _part(cell))] = cell
    every = set().union(*have.values(), {CLEAN})
    models, seeds = dict.fromkeys(model for model, _ in have), sorted({seed for _, seed in have})
    for model, seed in itertools.product(models, seeds):
        if missing := sorted(every - have.get((model, seed), set())):
            raise InputError(
                f"there are no predictions of the model {model}, seed {seed}, for "
                f"{join_names(missing)}: every model and seed needs clean predictions, and those "
                "of each shift that another one has"
            )
    ordered = [UNCHANGED, *(shift for (_, level), shift in shifts.items() if level is not None)]
    return cells, tuple(ordered)


def _find_labels(
    request: PredictionsRequest, cells: Iterable[PredictionSource]
) -> PredictionsRequest:
    """The request with the labels of the table of metadata, if nothing else has labels."""
    metadata = request.options.metadata
    if metadata is None or request.labels is not None or request.dataset is not None:
        return request
    asked = _row_options(request.options)
    table = read_truth(metadata, asked._replace(label_column=None))
    if asked.label_column in table.columns:
        table = replace(table, label=asked.label_column)
    cell = next(cell for cell in cells if _part(cell) == TEST)
    rows = read_rows(cell.content, cell.place, asked, 0, table.columns)
    if rows.labels is not None or not has_labels(table, rows):
        return request
    return replace(request, labels=table)


def _part(cell: PredictionSource) -> str:
    return VAL if cell.shift == VALIDATION else TEST


def _images_of_labels(
    reader: _PredictionReader, parts: Sequence[str]
) -> tuple[DataFacts, dict[str, KnownImages], str]:
    """Read the images and labels of each split from its first predictions."""
    request, cells = reader.request, reader.cells
    images, counts, digests, described, task = {}, {}, {}, "", CLASSIFICATION
    written = ""
    classes: tuple[str, ...] = ()
    is_table = request.labels is not None and request.labels.values is None
    owner = request.labels.place if request.labels is not None and is_table else "its own"
    for part in sorted(parts):  # test first: its columns name the classes
        files = [file for file, cell in cells.items() if _part(cell) == part]
        file = next((file for file in files if cells[file].shift in (CLEAN, VALIDATION)), files[0])
        rows = reader.rows(file)
        if request.options.positive and reader.positive is None:
            reader.positive = parse_positive(
                request.options.positive, name_label_classes(rows, reader.asked)
            )
            marked = mark_labels(rows, reader.positive)
            _, written = number_labels(rows, reader.positive.classes)
            rows = marked
        if not classes and rows.predicted is not None:
            classes = list_known_classes(list(map(reader.rows, cells)), reader.asked)
        classes = classes or name_classes(rows, reader.asked)
        task = _find_labelled_task(rows)
        if task == MULTILABEL:
            reader.findings = classes
        elif rows.outputs.shape[1] == 1 and rows.predicted is None:
            raise column_error(rows.place, name_label_classes(rows, reader.asked))
        labels, meaning = _read_labels(rows, classes, reader.asked, is_test=part == TEST)
        if reader.positive is not None:
            meaning = f"{written}; {reader.positive.describe()}"
        described = described or f"of {owner}, {meaning}"
        keys, names = number_keys(rows.keys, len(labels))
        order = np.argsort(keys, kind="stable")
        ordered = None if names is None else [names[at] for at in order]
        images[part] = KnownImages(
            labels[order],
            keys[order],
            ordered,
            cells[file].place,
            in_order=rows.keys is None,
            groups=_read_groups(rows, request, order),
        )
        counts[part] = len(labels)
        digests[part] = _images_digest(images[part], classes)
    if len(classes) < find_task(task).least_classes:
        raise InputError(f"{request.source} has one class: an evaluation needs at least two")
    name = f"{request.name} ({f'labels of {owner}' if is_table else 'its own labels'})"
    known = {part: own.groups for part, own in images.items() if own.groups is not None}
    patients = {part: groups.names for part, groups in known.items() if groups.names is not None}
    check_shared_groups(
        patients, str(request.options.group), allowed=request.options.allow_shared_groups
    )
    facts = DataFacts(
        name,
        classes,
        counts,
        digests,
        groups={part: groups_digest(groups) for part, groups in known.items()},
        slices=tuple(known[TEST].slices) if known else (),
        task=task,
        positive=reader.positive,
    )
    return facts, images, described


def _read_groups(
    rows: PredictionRows, request: PredictionsRequest, order: IntArray
) -> Groups | None:
    """What belongs together, from the table of metadata or of labels; None if nobody asks."""
    columns = group_columns(request.options)
    if columns is None:
        return None
    table = request.labels
    if columns.metadata is not None:
        table = read_truth(
            columns.metadata, _row_options(request.options)._replace(label_column=None)
        )
    if table is None or table.values is not None:
        raise InputError(
            "group and slice are columns of a table with a row for each image: name it as "
            "metadata (--metadata), or as labels (--labels)"
        )
    groups = read_row_groups(rows, table, columns)
    names = None if groups.names is None else groups.names[order]
    return Groups(
        groups.group, names, {name: cells[order] for name, cells in groups.slices.items()}
    )


def _store_groups(images: Mapping[str, KnownImages]) -> dict[str, StoredGroups]:
    return {
        part: make_stored_groups(known.groups, known.keys)
        for part, known in images.items()
        if known.groups is not None
    }


def _find_labelled_task(rows: PredictionRows) -> str:
    """The task that the labels of rows are of."""
    return CLASSIFICATION if rows.labels is None or rows.labels.ndim == 1 else MULTILABEL


def _read_labels(
    rows: PredictionRows, classes: tuple[str, ...], asked: RowOptions, *, is_test: bool
) -> tuple[IntArray, str]:
    """The labels of rows, and how they were read, with the classes that no test image has.

    Raises `InputError` for labels that do not fit the classes.
    """
    if rows.labels is None or rows.labels.ndim == 1:
        labels, meaning = number_labels(rows, classes)
        absent = _describe_absent_classes(labels, classes, rows, asked) if is_test else ""
        named = "the columns are the classes" if rows.predicted is None else "the classes are"
        return labels, f"{meaning}; {named} {quote_names(classes)}{absent}"
    task, labels = find_task(MULTILABEL), rows.labels.astype(np.int64)
    task.check(labels, classes)
    remarks = "".join(f"; {remark}" for remark in task.remarks(labels, classes))
    return labels, f"by the names of the findings{remarks}"


def _describe_absent_classes(
    labels: IntArray, classes: tuple[str, ...], rows: PredictionRows, asked: RowOptions
) -> str:
    """Name the classes without images; "" if there are none.

    Raises:
        InputError: their columns may not be outputs but, for example, ages; or numeric labels may
            begin at 1.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not absent or rows.predicted is not None:
        return ""
    shown = ", ".join(map(repr, absent[:5])) + " ..." * (len(absent) > 5)
    finding = f"no row has the label of {len(absent)} of the {len(classes)} classes ({shown})"
    numbers = rows.labels is not None and all(str(label).isdecimal() for label in rows.labels)
    if numbers and not counts[0]:
        raise InputError(
            f"{finding}, and labels that are numbers begin at 0: write the names of the classes "
            "instead, or leave out the columns of these classes"
        )
    # Probabilities sum to one only over all classes.
    if (
        not asked.classes
        and detect_prediction_kind(rows.outputs, asked.outputs, rows.place).kind == "logits"
    ):
        raise InputError(
            f"{finding}: leave out the columns of these classes, or name the classes with --classes"
        )
    return f"; {finding}"


def _images_digest(images: KnownImages, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps([classes, images.names]).encode())
    for column in (images.keys, images.labels):
        digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()


def _open_dataset(
    request: PredictionsRequest, parts: Sequence[str], progress: Notify
) -> tuple[PlannedDataset, Dataset]:
    dataset, options = request.dataset, request.options
    if isinstance(dataset, Dataset):
        check_loaded_dataset(options)
        source = PlannedDataset(source=dataset.name, parts=tuple(parts))
        if options.positive:
            dataset = mark_positive(dataset, options.positive)
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
            groups=group_columns(options),
            positive=list_positive(options.positive),
        )
        if UNSPLIT in listed.splits:
            source = replace(source, test_fraction=tested_share(dataset))
        dataset = open_data(source, offline=options.offline, progress=progress)
    check_one_label(dataset)
    if VAL in parts and dataset.val is None:
        raise InputError(
            f"there are predictions of validation images, but {dataset.name} has no such split"
        )
    if len(dataset.classes) < find_task(dataset.task).least_classes:
        raise InputError(f"{dataset.name} has only one class: an evaluation needs at least two")
    return source, dataset

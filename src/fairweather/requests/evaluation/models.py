"""Models from anywhere and their data, made to fit each other, as the inputs of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pydantic
import torch
from torch import nn

from fairweather.data.groups import natural_columns
from fairweather.data.image_folders import UNLABELLED
from fairweather.data.loading import (
    DATA_SOURCES,
    find_positive,
    list_source,
    mark_positive,
    tested_share,
)
from fairweather.data.named_sets import describe_verification
from fairweather.data.sources import UNSPLIT
from fairweather.devices import AUTOCAST
from fairweather.errors import InputError, one_line
from fairweather.inference.prediction import check_logits
from fairweather.models.labels import LabelMap, match_labels, relabel, rename_choices
from fairweather.models.onnx import OnnxNetwork
from fairweather.models.opening import (
    check_model,
    check_model_options,
    list_given_options,
    open_with_options,
)
from fairweather.models.outputs import (
    GIVEN,
    LOGITS,
    OF_FINDINGS,
    OutputKind,
    SingleOutputError,
    convert_outputs,
    detect_finding_kind,
    detect_kind,
    parse_outputs,
    sigmoid_error,
)
from fairweather.models.predictions.files import note_seeds
from fairweather.models.predictions.readers import ReaderTable
from fairweather.models.preprocessing import describe_preprocessing, prepare_at
from fairweather.models.run_models import check_learned, find_run_path, learned_task
from fairweather.models.sources import OpenedModel
from fairweather.models.user_modules import open_module, read_class_names
from fairweather.progress import Notify
from fairweather.requests.checks import (
    check_has_validation,
    check_labels,
    check_measurement,
    list_parts,
)
from fairweather.requests.evaluation.settings import (
    add_priors,
    check_loaded_dataset,
    group_columns,
    list_known_images,
    model_titles,
    read_calls,
    read_label_map,
    refuse_class_options,
)
from fairweather.requests.evaluation_options import EvaluationOptions, read_natural_sources
from fairweather.requests.execution import describe_groups
from fairweather.requests.inputs import (
    Inputs,
    describe_published_files,
    model_label,
    note_streams,
    open_datasets,
    pair_published_files,
    try_model,
    try_settings,
)
from fairweather.requests.settings import (
    add_class_settings,
    describe_order,
    make_settings,
    read_aggregation,
    read_priors,
)
from fairweather.runs.folder import fingerprint, open_finished_run
from fairweather.steps.measurement import OOD_DATA, MeasuredModel, Settings, collect_facts
from fairweather.steps.plan import DATA, NATURAL_DATA, OpenedNetwork, PlannedDataset, PlannedModel
from fairweather.steps.worker import as_logits, check_natural, model_digest, open_data
from fairweather.tasks import find_task
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import (
    CLASSIFICATION,
    MULTILABEL,
    Attack,
    Choices,
    Dataset,
    Images,
    Preparation,
    Shift,
)
from fairweather.types.positive import NOTE, list_positive, read_positive
from fairweather.types.record import TEST, VAL, ModelRecord, has_ordered_classes
from fairweather.variants.adaptation.networks import is_torchscript
from fairweather.workers.options import Sharing

# What is probably wrong if a model is no better than chance.
ADVICE = (
    "the preprocessing or the label mapping is probably wrong; see --size, --mean with --std, and "
    "--class-map"
)
MOST_SAMPLE_IMAGES = 64  # test images that show whether outputs are probabilities


# What is made of outputs that are not logits, by their kind.
TAKEN = {"probabilities": ": their logarithm is taken", OF_FINDINGS: ": the logit of each is taken"}
# What does for a model what an option does for predictions.
INSTEAD = {
    "classes": ": class_map says which of its outputs each class of the data is",
    "findings": ": name them with the images, as in csv:PATH,findings=A|B",
}
UNKNOWN_SEED = 0  # of a model with an unknown seed
DIVISIBLE = {UNSPLIT, "train"}  # splits of which a part can become the validation split


class ModelName(NamedTuple):
    """The name of a model, and the seed that it was trained with."""

    model: str
    seed: int = UNKNOWN_SEED


@dataclass(frozen=True)
class ModelRequest:
    """Models, their data, the shifts and the options; see `evaluate`."""

    models: tuple[str | nn.Module, ...]
    dataset: str | Dataset
    shifts: tuple[Shift | Attack, ...]
    options: EvaluationOptions
    names: tuple[ModelName, ...] = ()
    """Of the models, in order; empty if each keeps the name from its source."""

    readers: tuple[ReaderTable, ...] = ()
    """The tables with what people call the test images."""

    @property
    def modules(self) -> list[nn.Module]:
        """The models that only this process has."""
        return [model for model in self.models if isinstance(model, nn.Module)]

    def check(self) -> None:
        """Raise `InputError` if options contradict each other, or if a model or data set is
        missing."""
        sharing = Sharing.from_options(self.options)
        sharing.check()
        read_aggregation(self.options.unit, self.options.aggregate)
        if sharing.is_divided and (self.modules or isinstance(self.dataset, Dataset)):
            ways = {"worker": False, "executor": "local", "jobs": None}
            asked = next(name for name, alone in ways.items() if getattr(sharing, name) != alone)
            raise InputError(
                f"{asked}: other processes open the model and the data by name, not as objects"
            )

    def takes_validation_fraction(self) -> bool:
        """Say whether a part of the images can become the validation split."""
        run = read_training_data(self.models[0])
        if isinstance(self.dataset, Dataset) or _is_asked_for(self, run):
            return False
        listed = list_source(self.dataset, self.options.root, offline=True, verify=False)
        return not DIVISIBLE.isdisjoint(listed.splits)

    def make_inputs(self, device: torch.device, tell: Notify) -> Inputs:
        """Open the models, load the data with their preprocessing, and match their classes.

        Raises:
            InputError: something is wrong with a model, the data, or how they fit; the models need
                images of different sizes; or something that is asked for would fail later.
        """
        options = self.options
        settings = make_settings(options, self.shifts, device, options.sites)
        _check_names(self)
        runs = [read_training_data(model) for model in self.models]
        label_map = read_label_map(options)
        for name in (*options.ood, *read_natural_sources(options.natural).values()):
            if (
                name.partition("@")[0] not in DATA_SOURCES
            ):  # a path; a named set may be a long download
                list_source(name, offline=True)
        split = _split_data(self, runs[0], settings, tell)
        priors = read_priors(options.priors)
        refuse_class_options(options, split.task)
        openings = [_open_model(self, model, split) for model in self.models]
        opened = [opening.model for opening in openings]
        source = _common_source(self, opened, runs, split)
        dataset = self.dataset
        if isinstance(dataset, Dataset) and options.positive:
            dataset = mark_positive(dataset, options.positive)
        if isinstance(dataset, str):
            dataset = open_data(source, offline=options.offline, progress=_without_checksums(tell))
            note = _fitting_note(dataset, is_split_as_trained=_is_asked_for(self, runs[0]))
            dataset = replace(dataset, notes={**dataset.notes, **note})
        models = [
            _match_model(self, opening, dataset, name, label_map)
            for opening, name in zip(openings, self.names or _default_names(opened), strict=True)
        ]
        _check_distinct(models)
        others = _other_sources(self, runs[0], source, opened[0].preparation, dataset)
        datasets = {DATA: dataset, **open_datasets(others, offline=options.offline, progress=tell)}
        allowed = options.allow_duplicates or source.allow_duplicates
        check_natural(datasets, allow_duplicates=allowed, progress=tell)
        titles = model_titles(options.title, [model.name for model in models])
        settings = pair_published_files(settings, dataset, tell)
        parts, ordered = (
            list_parts(datasets),
            settings.ordered or has_ordered_classes(dataset.notes),
        )
        classes, task = dataset.classes, find_task(dataset.task)
        settings = add_class_settings(settings, options, classes, task, ordered=ordered)
        check_labels(dataset, task)
        units = check_measurement(
            settings, parts, task, classes, name=dataset.name, ordered=ordered, others=datasets
        )
        settings = add_priors(settings, options, priors, parts[TEST], classes, task, ordered)
        try_settings(dataset, settings, "an evaluation")
        for model in models:
            _try_model(model, settings, dataset)
        seeds = tuple(sorted({model.seed for model in models}))
        labels = [model_label(titles[model.name], model.seed, seeds) for model in models]
        readers, read_lines = read_calls(
            self.readers,
            list_known_images(dataset, (TEST,)),
            dataset.classes,
            options,
            settings,
            read_positive(dataset.notes),
        )
        return Inputs(
            kind="evaluation",
            name=_run_name(models, dataset),
            title=f"{', '.join(titles.values())} on {dataset.name}",
            sources={DATA: source, **others},
            facts={name: collect_facts(loaded, (VAL, TEST)) for name, loaded in datasets.items()},
            datasets=datasets,
            models=[
                MeasuredModel(
                    model.name,
                    model.seed,
                    titles[model.name],
                    label,
                    OpenedNetwork(digest=model.planned.digest),
                )
                for model, label in zip(models, labels, strict=True)
            ],
            records={
                name: _describe_model(
                    [model for model in models if model.name == name], title, options
                )
                for name, title in titles.items()
            },
            seeds=seeds,
            settings=settings,
            networks=[(model.planned, model.network) for model in models],
            readers=readers,
            lines=[
                *_describe_inputs(models, labels, datasets),
                *describe_order(settings, dataset.classes),
                *units,
                *describe_published_files(settings, dataset),
                *note_streams(settings, dataset),
                *read_lines,
            ],
            advice=ADVICE,
        )


class EvaluatedModel(NamedTuple):
    """A model whose outputs are those of the data's classes."""

    name: str
    """With the seed, no other model of the evaluation has it."""

    seed: int
    """That it was trained with; 0 if that is not known."""

    opened: OpenedModel
    """The model as it was opened."""

    outputs: OutputKind
    """Whether its outputs are logits or probabilities, and why."""

    labels: LabelMap
    """The label mapping, from the model's outputs to the data's classes."""

    network: nn.Module
    """Gives logits for the data's classes."""

    planned: PlannedModel
    """How another process opens it."""

    classes: tuple[str, ...]
    """The classes or findings of the data that its outputs are matched with."""

    @property
    def source(self) -> str:
        """The source of the model, for people and the record."""
        return self.planned.source

    def lines(self, label: str) -> list[str]:
        """Describe it, one fact per line, with the label as its name."""
        called = "" if self.name == self.opened.name else f"{label}: "
        lines = [f"model          {called}{self.source}"]
        notes = (self.opened.facts.get(fact) for fact in ("runs_code", "numbers", "gray"))
        lines += [f"note           {note}" for note in notes if note]
        lines.append(f"preprocessing  {describe_preprocessing(self.opened)}")
        kind, origin = self.outputs.kind, self.outputs.origin
        taken = TAKEN.get(kind, "")
        if taken or origin == GIVEN or self.planned.task_name == MULTILABEL:
            lines.append(f"outputs        {kind} ({origin}){taken}")
        return lines


def describe_odd_range(
    normalisation: object, mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Describe images that do not fit a normalisation; None if they fit.

    They do not fit if their mean differs by more than 3 standard deviations in every channel. More
    than 1.5 suffice if they also have less than half of the contrast, as nearly black images do.

    Args:
        normalisation: the facts of a model, with `mean` and `std`.
        mean, std: of the images, per channel, in [0, 1].

    >>> facts = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    >>> describe_odd_range(facts, (0.02,) * 3, (0.01,) * 3)[:39]
    'the images have the mean 0.02 0.02 0.02'
    """
    match normalisation:
        case {"mean": [*made_for], "std": [*spread]} if len(made_for) == len(spread) == 3:
            pass
        case _:
            return None
    away = min(abs(m - n) / s for m, n, s in zip(mean, made_for, spread, strict=True))
    contrast = max(spread_of_images / s for spread_of_images, s in zip(std, spread, strict=True))
    if away <= 1.5 or (contrast >= 0.5 and away <= 3):
        return None
    actual, meant = (" ".join(f"{value:.3g}" for value in some) for some in (mean, made_for))
    return (
        f"the images have the mean {actual} (in [0, 1]), and the model is made for {meant}: they "
        "may be nearly black or white because of their range of values; see --scale"
    )


def _describe_inputs(
    models: Sequence[EvaluatedModel], labels: Sequence[str], datasets: Mapping[str, Dataset]
) -> list[str]:
    """Describe an evaluation, one fact per line, with the labels as names of the models."""
    dataset = datasets[DATA]
    test, notes = dataset.test, dataset.notes
    height, width = test.images.shape[2:]
    some = f" of {notes['limit_of']:,}, a stratified subset" if "limit_of" in notes else ""
    labelled = list(zip(models, labels, strict=True))
    lines = [line for model, label in labelled for line in model.lines(label)]
    lines += [f"note           {note}" for note in note_seeds(model.name for model in models)]
    lines.append(
        f"data           {dataset.name}: n = {len(test):,}{some}, {width} x {height} pixels, "
        f"{_count_classes(dataset)}"
    )
    for model, label in labelled:
        prefix = f"{label}: " if len(models) > 1 else ""
        lines.append(f"labels         {prefix}{model.labels.describe(model.classes)}")
        normalised = model.opened.facts.get("normalisation")
        if odd := describe_odd_range(normalised, dataset.mean, dataset.std):
            lines.append(f"warning        {prefix}{odd}")
    if groups := describe_groups(test.groups):
        lines.append(f"groups         {groups}")
    for name, natural in datasets.items():
        if name.startswith(NATURAL_DATA):
            known = describe_groups(natural.test.groups)
            lines.append(
                f"natural        {name.removeprefix(NATURAL_DATA)}: {natural.name}, n = "
                f"{len(natural.test):,}, {_count_classes(natural, 'of these ')}"
                f"{_describe_mask(natural.test.choices, dataset.classes)}"
                f"{f', {known}' if known else ''}"
            )
    if verified := describe_verification(dataset.name, notes):
        lines.append(verified)
    if scale := notes.get("scale"):
        lines.append(f"scale          {scale} become black and white")
    if fitting := notes.get("fitting"):
        lines.append(f"fitting        {fitting}")
    return lines


def _count_classes(dataset: Dataset, which: str = "") -> str:
    count, several = len(dataset.classes), dataset.task == MULTILABEL
    noun = ("finding" if count == 1 else "findings") if several else "classes"
    return f"{count} {which}{noun}"


def _try_model(model: EvaluatedModel, settings: Settings, dataset: Dataset) -> None:
    """Raise `InputError` for anything that would make the evaluation of a model fail later."""
    is_graph = any(isinstance(module, OnnxNetwork) for module in model.network.modules())
    precision = settings.arithmetic.precision
    if is_graph and precision in AUTOCAST:
        raise InputError(
            f"precision {precision} is for PyTorch models; an ONNX file says itself which of its "
            "numbers have 16 bits"
        )
    if is_graph and settings.arithmetic.compile:
        raise InputError("compile is for PyTorch models; ONNX Runtime compiles an ONNX file itself")
    changing = (v.adapting for v in settings.variants if v.adapting and not v.adapting.alone)
    form = "an ONNX file" if is_graph else "TorchScript"
    lacks_layers = is_graph or is_torchscript(model.network)
    if lacks_layers and (adapting := next(changing, None)):
        raise InputError(
            f"{adapting.kind} works on layers of PyTorch, which {form} such as {model.source} "
            "lacks: of the methods that adapt, only views works there"
        )
    attacked = any(isinstance(shift, Attack) for shift in settings.shifts)
    tensors = (*model.network.parameters(), *model.network.buffers())
    if attacked and any(tensor.is_inference() for tensor in tensors):
        raise InputError(
            f"{model.source} was made in torch.inference_mode(), so that attacks find no "
            "gradients: make it outside of it"
        )
    try:
        try_model(model.network, settings, dataset)
    except InputError as error:
        raise InputError(f"{model.source}: {error}") from None


def _describe_model(
    members: Sequence[EvaluatedModel], title: str, options: EvaluationOptions
) -> ModelRecord:
    """Describe a model; with several seeds, each says its source, and the first everything else."""
    model, asked = members[0], list_given_options(options)
    if options.outputs == "auto":
        del asked["outputs"]
    preparations = dict.fromkeys(describe_preprocessing(member.opened) for member in members)
    settings = {
        "source": ", ".join(dict.fromkeys(member.source for member in members)),
        "preprocessing": "; ".join(preparations),
        **{key: value for key, value in asked.items() if value is not None},
    }
    facts = {
        **model.opened.facts,
        "digest": fingerprint({str(member.seed): member.opened.digest for member in members})
        if len(members) > 1
        else model.opened.digest,
        "outputs_as": {"kind": model.outputs.kind, "from": model.outputs.origin},
        "labels": model.labels.note,
    }
    if options.class_map is not None:
        facts["label_map"] = dict(zip(model.classes, model.labels.columns, strict=True))
    if model.labels.positive:
        facts[NOTE] = model.labels.positive
    plain = json.loads(json.dumps({"settings": settings, "facts": facts}))
    return ModelRecord(title=title, **plain)


def _run_name(models: Sequence[EvaluatedModel], dataset: Dataset) -> str:
    """`MODEL-on-DATA`, the name of the run folder; with several models, the first two."""
    names = list(dict.fromkeys(model.name for model in models))
    more = [f"{len(names) - 2}-more"] if len(names) > 2 else []
    data = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(dataset.name).name).strip("-.")
    return f"{'-and-'.join([*names[:2], *more])}-on-{data or 'data'}"


def _default_names(opened: Sequence[OpenedModel]) -> list[ModelName]:
    """The models' own names; a second of the same name is NAME-2."""
    taken = list[str]()
    for model in opened:
        taken.append(free_name(model.name, taken))
    return [ModelName(name) for name in taken]


def _match_model(
    request: ModelRequest,
    opening: Opening,
    dataset: Dataset,
    name: ModelName,
    label_map: Mapping[str, object] | None,
) -> EvaluatedModel:
    """Find out what a model's outputs are, and map them to the classes of the data."""
    options, positive = request.options, read_positive(dataset.notes)
    opened, predicts = opening.model, opening.predicts
    try:
        first = _compute_outputs(opened, dataset.test[:1], predicts)
    except SingleOutputError as error:
        if positive is None:
            raise SingleOutputError(error.subject, dataset.classes) from None
        return _match_model(
            request, _open_as(request, opening.source, FINDINGS), dataset, name, label_map
        )
    made = positive if predicts != FINDINGS else None
    classes = dataset.classes if made is None else made.classes
    outputs = opened.outputs or parse_outputs(options.outputs, predicts)
    if outputs is None and detect_kind(first) == "logits":  # one image shows it for most models
        outputs = LOGITS if predicts != FINDINGS else detect_finding_kind(first, opened.name)
    elif outputs is None:
        sample = dataset.test[: min(MOST_SAMPLE_IMAGES, options.batch_size)]
        outputs = _infer_outputs(opened, sample, predicts)
    labels = match_labels(opened.classes, first.shape[1], classes, label_map, predicts)
    if made is not None:
        labels = labels._replace(positive=made.places)
    if opened.outputs is None:
        convert_outputs(nn.Identity(), outputs.kind)(first)  # raises for numbers that are none
    planned = PlannedModel(
        **list_given_options(options),
        source=str(opened.facts.get("source", opened.name)),
        taken_for=outputs.kind,
        size=options.size,
        answers=labels.outputs,
        columns=labels.columns,
        positive=labels.positive,
        digest=model_digest(opened, outputs.kind, labels),
        task_name=dataset.task if made is None else CLASSIFICATION,
    )
    network = relabel(as_logits(opened, outputs.kind), labels)
    return EvaluatedModel(name.model, name.seed, opened, outputs, labels, network, planned, classes)


def free_name(name: str, taken: Sequence[str]) -> str:
    """Number a name until its folder is unique, even if case does not count.

    >>> free_name("net", []), free_name("Net", ["net"]), free_name("net", ["net", "Net-2"])
    ('net', 'Net-2', 'net-3')
    """
    lower = {known.lower() for known in taken}
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(candidate for candidate in names if candidate.lower() not in lower)


def _check_distinct(models: Sequence[EvaluatedModel]) -> None:
    several = len({model.seed for model in models}) > 1
    first: dict[str, str] = {}
    for model in models:
        seed = f"-seed{model.seed}" if several else ""
        called = f"{model.name}{seed} ({model.source})"
        if (twin := first.setdefault(model.planned.digest, called)) != called:
            raise InputError(f"{twin} and {called} are the same model")


def _common_source(
    request: ModelRequest,
    opened: Sequence[OpenedModel],
    runs: Sequence[PlannedDataset | None],
    split: DataSplit,
) -> PlannedDataset:
    """How the data are loaded for all models; they must take the same images."""
    first = make_data_source(request, opened[0], runs[0], split)
    for model, run in zip(opened[1:], runs[1:], strict=True):
        if make_data_source(request, model, run, split) != first:
            raise InputError(
                f"{opened[0].name} and {model.name} are measured on different images "
                f"({describe_preprocessing(opened[0])}; {describe_preprocessing(model)}), and the "
                "models of one evaluation see the same: give all of them images of one size with "
                "--size, or evaluate them one by one and compare the runs"
            )
    return first


def make_data_source(
    request: ModelRequest, opened: OpenedModel, run: PlannedDataset | None, split: DataSplit
) -> PlannedDataset:
    """How the data are loaded: split, and prepared as the model's configuration says."""
    options = request.options
    if isinstance(request.dataset, Dataset):
        return PlannedDataset(source=request.dataset.name, parts=("val", "test"))
    if run is not None and _is_asked_for(request, run):
        source = run
    else:
        source = PlannedDataset(
            source=request.dataset,
            root=options.root,
            size=options.size,
            preparation=opened.preparation if options.size is None else None,
            **split.fractions,  # type: ignore[arg-type]
        )
    return replace(
        source,
        positive=split.positive,
        groups=group_columns(options) or source.groups,
        parts=("val", "test"),
        limit=options.limit,
        skip_unreadable=options.skip_unreadable,
        allow_duplicates=options.allow_duplicates or source.allow_duplicates,
        scale=_choose_scale(options, run),
    )


def _choose_scale(options: EvaluationOptions, run: PlannedDataset | None) -> str | None:
    """The requested scale, or that of the training, which gives the same values."""
    return options.scale or (run.scale if run else None)


def _check_names(request: ModelRequest) -> None:
    """Check options and the names of models, which needs neither weights nor images."""
    options = request.options
    of_tables = ("label_column", "key_column", "predicted_columns", "confidence_column")
    for name in (*of_tables, "classes", "findings", "empty_labels"):
        if name == "key_column" and request.readers:
            continue
        if getattr(options, name) != getattr(EvaluationOptions, name):
            raise InputError(f"{name} goes with predictions:, not a model{INSTEAD.get(name, '')}")
    for model in request.models:
        if isinstance(model, str):
            check_model(model, options)
        else:
            check_model_options(_name_module(model), options)


class Opening(NamedTuple):
    """A model that was opened to predict something."""

    source: str | nn.Module
    """The model as it was given."""

    model: OpenedModel
    """The model as it was opened."""

    predicts: TaskKind
    """One class of each image, or findings."""


def _open_model(request: ModelRequest, model: str | nn.Module, split: DataSplit) -> Opening:
    """Open a model, for images of the requested size.

    Where findings are made of classes, several outputs are classes, and one is the finding.
    """
    is_finding = split.task == MULTILABEL
    if is_finding and split.is_made and learned_task(str(model)) != MULTILABEL:
        with suppress(SingleOutputError):
            return _open_as(request, model, CLASSES)
    try:
        return _open_as(request, model, FINDINGS if is_finding else CLASSES)
    except SingleOutputError as error:
        raise SingleOutputError(error.subject, split.classes) from None


def _open_as(request: ModelRequest, model: str | nn.Module, predicts: TaskKind) -> Opening:
    options = request.options
    if isinstance(model, str):
        check_learned(model, predicts)
        opened = open_with_options(model, options, offline=options.offline, predicts=predicts)
    else:
        source, side = _name_module(model), options.size
        if isinstance(request.dataset, Dataset):
            side = request.dataset.test.images.shape[-1]
        opened = open_module(
            model,
            type(model).__name__,
            options,
            source=source,
            subject=source,
            code=repr(model),
            side=side,
            classes=read_class_names(model),
            predicts=predicts,
        )
    if options.size is not None:
        opened = prepare_at(opened, options.size, keep=options.input_size is not None)
    return Opening(model, opened, predicts)


def _name_module(model: nn.Module) -> str:
    return f"a {type(model).__name__} of this process"


def _without_checksums(tell: Notify) -> Notify:
    """Leave out the notes about checksums, which have a line of their own."""
    return lambda event: None if event.task == "verify" else tell(event)


class DataSplit(NamedTuple):
    """How the data are split, and what is told of each image."""

    fractions: Mapping[str, float]
    """Nothing is trained, so the other images are for fitting. Empty for loaded data, and for the
    data of the run that trained the model, which keep their split."""

    task: str
    """The task of the data."""

    classes: tuple[str, ...]
    """The classes or findings of the data; where findings are made of classes, the classes."""

    positive: tuple[str, ...] = ()
    """The positive classes, if findings are to be made of classes."""

    is_made: bool = False
    """Whether the findings are made of classes."""


def _split_data(
    request: ModelRequest, run: PlannedDataset | None, settings: Settings, tell: Notify
) -> DataSplit:
    """Find out how the data are split.

    Raises `InputError` for data without labels, and if a variant needs a validation split, and
    there is none.
    """
    options, share = request.options, request.options.validation_fraction
    if isinstance(request.dataset, Dataset):
        check_loaded_dataset(options)
        if not request.dataset.val:
            check_has_validation(settings, request.dataset.name)
        dataset = request.dataset
        if options.positive:
            dataset = mark_positive(dataset, options.positive)
        made = read_positive(dataset.notes)
        classes = dataset.classes if made is None else made.classes
        return DataSplit({}, dataset.task, classes, is_made=made is not None)
    if run is not None and _is_asked_for(request, run):
        folder = find_run_path(str(request.models[0]))
        assert folder is not None
        data = open_finished_run(folder).record.data
        asked = list_positive(options.positive or run.positive)
        task = MULTILABEL if asked else data.task
        return DataSplit({}, task, data.classes, asked, is_made=bool(asked))
    name = request.dataset
    listed = list_source(
        name, options.root, offline=options.offline, progress=_without_checksums(tell)
    )
    if listed.classes == (UNLABELLED,):
        raise InputError(
            f"{name} has no labels, and a model cannot be judged without: it may stand after --ood"
        )
    by_name = UNSPLIT in listed.splits and tested_share(name) < 1
    if not (share or by_name or "val" in listed.splits):
        check_has_validation(settings, name)
    if share and DIVISIBLE.isdisjoint(listed.splits):
        raise InputError(f"{name} has only test images: leave validation_fraction out")
    if share and "val" in listed.splits:
        raise InputError(f"{name} has a validation split of its own: leave validation_fraction out")
    asked = list_positive(options.positive)
    if asked:
        find_positive(asked, name, listed.classes, listed.task)
    elif run is not None and listed.task == CLASSIFICATION:  # as the model was trained
        asked = list_positive(run.positive)
    fractions = {"test_fraction": 1 - share, "validation_fraction": 1.0 if share else 0.0}
    if by_name:  # as load_data splits it
        fractions = {"validation_fraction": share} if share else {}
    elif UNSPLIT not in listed.splits:
        fractions = {"validation_fraction": share}
    task = MULTILABEL if asked else listed.task
    return DataSplit(fractions, task, listed.classes, asked, is_made=bool(asked))


def read_training_data(model: str | nn.Module) -> PlannedDataset | None:
    """How the run that trained a model loaded its data; None for a model from elsewhere."""
    folder = find_run_path(str(model))
    if folder is None:
        return None
    try:
        return PlannedDataset(**open_finished_run(folder).record.data.arguments)  # type: ignore[arg-type]
    except (InputError, pydantic.ValidationError):
        return None


def _is_asked_for(request: ModelRequest, run: PlannedDataset | None) -> bool:
    """Whether the data are those of the run that trained the model.

    They are split as they were for the training, so that no training image is tested.
    """
    options = request.options
    if run is None or options.size is not None or run.source != request.dataset:
        return False
    return options.root is None or str(options.root) == run.root


def _fitting_note(dataset: Dataset, *, is_split_as_trained: bool) -> dict[str, str]:
    if is_split_as_trained:
        return {"fitting": "test and validation splits are those of the run that trained the model"}
    if dataset.val is None:
        return {}
    return {
        "fitting": "what is fitted on the validation images is valid only if the model was not "
        "trained on them"
    }


def _describe_mask(choices: Choices | None, classes: tuple[str, ...]) -> str:
    """Say among how many classes a model chooses; "" if among all.

    >>> _describe_mask(Choices(("dog",)), ("cat", "dog"))
    ', chosen among 1 of 2 (class mask)'
    """
    if choices is None:
        return ""
    count = len(rename_choices(choices, classes).names)
    among = f", chosen among {count:,} of {len(classes):,} (class mask)"
    return among if count < len(classes) else ""


def _other_sources(
    request: ModelRequest,
    run: PlannedDataset | None,
    own: PlannedDataset,
    preparation: Preparation | None,
    dataset: Dataset,
) -> dict[str, PlannedDataset]:
    """Other data sets at the same size; only of the same classes are their labels used."""
    options, natural = request.options, read_natural_sources(request.options.natural)
    if options.size is not None or preparation is None:
        size, preparation = dataset.test.images.shape[-1], None
    else:
        size = None
    groups = natural_columns(own.groups, natural)
    unlabelled = {f"{OOD_DATA}{source}": source for source in options.ood}
    labelled = {f"{NATURAL_DATA}{name}": source for name, source in natural.items()}
    return {
        name: PlannedDataset(
            source=source,
            parts=(TEST,),
            test_fraction=tested_share(source),
            limit=options.limit,
            skip_unreadable=options.skip_unreadable,
            scale=_choose_scale(options, run),
            size=size,
            preparation=preparation,
            labelled=name in labelled,
            groups=groups.get(name.removeprefix(NATURAL_DATA)) if name in labelled else None,
        )
        for name, source in {**unlabelled, **labelled}.items()
    }


def _infer_outputs(opened: OpenedModel, images: Images, predicts: TaskKind) -> OutputKind:
    """Find out what the outputs are from how they look."""
    outputs = _compute_outputs(opened, images, predicts)
    if predicts == FINDINGS:
        return detect_finding_kind(outputs, opened.name)
    kind = detect_kind(outputs)
    if kind == "logits":
        return LOGITS
    if kind == "sigmoids":
        raise sigmoid_error(f"{opened.name} gives numbers in [0, 1] that do not sum to one")
    return OutputKind(kind, f"for {len(images)} test images they are >= 0 and sum to one")


def _compute_outputs(opened: OpenedModel, test: Images, predicts: TaskKind) -> torch.Tensor:
    """A model's outputs `[B, outputs]`; an error in the model becomes one sentence."""
    height, width = test.images.shape[2:]
    try:
        with torch.no_grad():
            logits = opened.model.cpu()(test.images.float() / 255)
    except InputError:
        raise
    except Exception as error:  # the model may be anybody's code
        reason = one_line(str(error).partition("\n")[0])
        way_out = "; mend the model"
        if isinstance(error, TypeError) or "channels" in reason:
            way_out = "; it gets one argument, float images [B, 3, H, W]"
        elif isinstance(error, RuntimeError | AssertionError | ValueError):  # perhaps of the size
            way_out = "; set size or input_size"
        raise InputError(
            f"{opened.name} cannot take images of {height}x{width} "
            f"({type(error).__name__}: {reason}){way_out}"
        ) from error
    plain = isinstance(logits, torch.Tensor) and not logits.is_nested
    if plain and tuple(logits.shape) in ((len(test),), (len(test), 1)):
        if logits.dtype in (torch.int32, torch.int64):
            raise InputError(
                f"{opened.name} gives one whole number for each image, as argmax does; a "
                "classifier must return logits [B, classes]"
            )
        if predicts != FINDINGS:
            raise SingleOutputError(opened.name)
    try:
        check_logits(logits)
    except InputError as error:
        raise InputError(f"{opened.name}: {error}") from None
    if len(logits) != len(test):
        raise InputError(
            f"{opened.name} gave {len(logits)} rows for {len(test)} images: its output is "
            f"{list(logits.shape)}, and must be [B, classes] for any B"
        )
    if not torch.isfinite(logits).all():
        raise InputError(
            f"the logits of {opened.name} are not finite: {logits[0, :3].tolist()} ..."
        )
    return logits

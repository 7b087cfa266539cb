"""Models from anywhere and their data, made to fit each other, as the inputs of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pydantic
import torch
from torch import nn

from fairweather.data.groups import natural_columns
from fairweather.data.image_folders import UNLABELLED
from fairweather.data.loading import SOURCES, list_source, tested_share
from fairweather.data.named_sets import describe_verification
from fairweather.data.sources import UNSPLIT
from fairweather.errors import InputError, one_line
from fairweather.inference.prediction import check_logits
from fairweather.models.labels import LabelMap, match_labels, relabel
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
    OutputKind,
    detect_kind,
    log_probabilities,
    parse_outputs,
    sigmoid_error,
    single_output_error,
)
from fairweather.models.predictions.files import note_seeds
from fairweather.models.preprocessing import describe_preprocessing, prepare_at
from fairweather.models.run_models import find_run_path
from fairweather.models.sources import OpenedModel
from fairweather.models.user_modules import open_module
from fairweather.progress import Notify
from fairweather.requests.evaluation.request import (
    ModelName,
    ModelRequest,
    check_loaded_dataset,
    group_columns,
    make_class_settings,
    make_settings,
    model_titles,
    read_label_map,
)
from fairweather.requests.evaluation_options import read_natural_sources
from fairweather.requests.execution import describe_groups
from fairweather.requests.inputs import (
    Inputs,
    OpenModel,
    Settings,
    check_has_validation,
    model_label,
    open_datasets,
    read_priors,
    try_model,
    try_settings,
)
from fairweather.runs.folder import fingerprint, open_finished_run
from fairweather.steps.measurement import OOD_DATA, MeasuredModel, collect_facts
from fairweather.steps.plan import DATA, NATURAL_DATA, OpenedNetwork, PlannedDataset, PlannedModel
from fairweather.steps.worker import as_logits, check_natural, model_digest, open_data
from fairweather.types.measurement import Attack, Dataset, Images
from fairweather.types.record import TEST, VAL, ModelRecord

# What is probably wrong if a model is no better than chance.
ADVICE = (
    "the preprocessing or the label mapping is probably wrong; see --size, --mean with --std, and "
    "--labels"
)
MOST_SAMPLE_IMAGES = 64  # test images that show whether outputs are probabilities


class EvaluatedModel(NamedTuple):
    """A model whose outputs are those of the data's classes.

    Attributes:
        name: with the seed, no other model of the evaluation has it.
        opened: the model as it was opened.
        outputs: whether its outputs are logits or probabilities, and why.
        model: gives logits for the data's classes.
        labels: the label mapping, from the model's outputs to the data's classes.
        digest: of the weights and everything else that decides what the model gives.
        seed: that it was trained with; 0 if that is not known.
    """

    name: str
    opened: OpenedModel
    outputs: OutputKind
    model: nn.Module
    labels: LabelMap
    digest: str
    seed: int

    @property
    def source(self) -> str:
        """What was opened, for people and the record."""
        return str(self.opened.facts.get("source", self.opened.name))

    def lines(self, label: str) -> list[str]:
        """Describe it, one fact per line; the label is what it is called."""
        called = "" if self.name == self.opened.name else f"{label}: "
        lines = [f"model          {called}{self.source}"]
        notes = (self.opened.facts.get(fact) for fact in ("runs_code", "numbers", "gray"))
        lines += [f"note           {note}" for note in notes if note]
        lines.append(f"preprocessing  {describe_preprocessing(self.opened)}")
        if self.outputs.kind == "probabilities" or self.outputs.origin == GIVEN:
            taken = ": their logarithm is taken" if self.outputs.kind == "probabilities" else ""
            lines.append(f"outputs        {self.outputs.kind} ({self.outputs.origin}){taken}")
        return lines


def describe_odd_range(
    normalisation: object, mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Say that images are far from what a normalisation is made for; None if they are not.

    Images are far if their mean differs by more than 1.5 standard deviations in every channel and
    they have less than half of the contrast, as nearly black images do; or by more than 3.

    Args:
        normalisation: the facts of a model, with `mean` and `std`.
        mean, std: of the images, per channel, in [0, 1].

    >>> collect_facts = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    >>> describe_odd_range(collect_facts, (0.02,) * 3, (0.01,) * 3)[:39]
    'the images have the mean 0.02 0.02 0.02'
    """
    match normalisation:
        case {"mean": [*made_for], "std": [*spread]} if len(made_for) == len(spread) == 3:
            pass
        case _:
            return None
    away = min(abs(m - n) / s for m, n, s in zip(mean, made_for, spread, strict=True))
    contrast = max(found / s for found, s in zip(std, spread, strict=True))
    if away <= 1.5 or (contrast >= 0.5 and away <= 3):
        return None
    found, meant = (" ".join(f"{each:.3g}" for each in some) for some in (mean, made_for))
    return (
        f"the images have the mean {found} (in [0, 1]), and the model is made for {meant}: they "
        "may be nearly black or white because of their range of values; see --scale"
    )


def make_model_inputs(request: ModelRequest, device: torch.device, tell: Notify) -> Inputs:
    """Open the models, load the data with their preprocessing, and match their classes.

    Raises:
        InputError: something is wrong with a model, the data, or how they fit; the models need
            images of different sizes; or something that is asked for would fail later.
    """
    options = request.options
    settings = make_settings(options, request.shifts, device)
    fractions = check_request(request, settings, tell)
    priors = read_priors(options.priors)
    opened = [open_requested_model(each) for each in request.each()]
    source = _common_source(request, opened, fractions)
    dataset = request.dataset
    if isinstance(dataset, str):
        dataset = open_data(source, offline=options.offline, progress=_without_checksums(tell))
        dataset = replace(dataset, notes={**dataset.notes, **_fitting_note(dataset, request)})
    names = request.names or _default_names(opened)
    models = [
        _match_model(request, each, dataset, name) for each, name in zip(opened, names, strict=True)
    ]
    _check_distinct(models)
    others = _other_sources(request, source, opened[0], dataset)
    datasets = {DATA: dataset, **open_datasets(others, offline=options.offline, progress=tell)}
    allowed = options.allow_duplicates or source.allow_duplicates
    check_natural(datasets, allow_duplicates=allowed, progress=tell)
    titles = model_titles(options.title, [each.name for each in models])
    _try_models(models, dataset, settings)
    of = make_class_settings(options, priors, dataset.test.labels.numpy(), dataset.classes)
    seeds = tuple(sorted({each.seed for each in models}))
    labels = [model_label(titles[each.name], each.seed, seeds) for each in models]
    return Inputs(
        kind="evaluation",
        name=_run_name(models, dataset),
        title=f"{', '.join(titles.values())} on {dataset.name}",
        sources={DATA: source, **others},
        facts={name: collect_facts(each, (VAL, TEST)) for name, each in datasets.items()},
        datasets=datasets,
        models=[
            MeasuredModel(
                each.name, each.seed, titles[each.name], label, OpenedNetwork(digest=each.digest)
            )
            for each, label in zip(models, labels, strict=True)
        ],
        described={
            name: _describe_model(models, name, titles[name], request, dataset.classes)
            for name in titles
        },
        seeds=seeds,
        settings=replace(settings, classes=of),
        opened=[OpenModel(_model_source(request, each), each.model) for each in models],
        lines=_describe_inputs(models, labels, datasets),
        advice=ADVICE,
    )


def _describe_inputs(
    models: Sequence[EvaluatedModel], labels: Sequence[str], datasets: Mapping[str, Dataset]
) -> list[str]:
    """Describe what is evaluated, one fact per line; the labels are what models are called."""
    dataset = datasets[DATA]
    test, notes = dataset.test, dataset.notes
    height, width = test.images.shape[2:]
    some = f" of {notes['limit_of']:,}, a stratified subset" if "limit_of" in notes else ""
    labelled = list(zip(models, labels, strict=True))
    lines = [line for model, label in labelled for line in model.lines(label)]
    lines += [f"note           {note}" for note in note_seeds(model.name for model in models)]
    lines.append(
        f"data           {dataset.name}: n = {len(test):,}{some}, {width} x {height} pixels, "
        f"{len(test.classes)} classes"
    )
    for model, label in labelled:
        which = f"{label}: " if len(models) > 1 else ""
        lines.append(f"labels         {which}{model.labels.note}")
        normalised = model.opened.facts.get("normalisation")
        if odd := describe_odd_range(normalised, dataset.mean, dataset.std):
            lines.append(f"warning        {which}{odd}")
    if groups := describe_groups(test.groups):
        lines.append(f"groups         {groups}")
    for name, other in datasets.items():
        if name.startswith(NATURAL_DATA):
            known = describe_groups(other.test.groups)
            lines.append(
                f"natural        {name.removeprefix(NATURAL_DATA)}: {other.name}, n = "
                f"{len(other.test):,}, {len(other.classes)} of these classes"
                f"{f', {known}' if known else ''}"
            )
    if verified := describe_verification(dataset.name, notes):
        lines.append(verified)
    if scale := notes.get("scale"):
        lines.append(f"scale          {scale} become black and white")
    if fitting := notes.get("fitting"):
        lines.append(f"fitting        {fitting}")
    return lines


def _try_models(models: Sequence[EvaluatedModel], dataset: Dataset, settings: Settings) -> None:
    """Raise `InputError` for anything that would make the evaluation fail later."""
    try_settings(dataset, settings, "an evaluation")
    attacked = any(isinstance(each, Attack) for each in settings.shifts)
    for each in models:
        is_graph = any(isinstance(module, OnnxNetwork) for module in each.model.modules())
        if is_graph and settings.arithmetic.precision == "bf16":
            raise InputError(
                "precision bf16 is for PyTorch models; an ONNX file says itself which of its "
                "numbers have 16 bits"
            )
        tensors = (*each.model.parameters(), *each.model.buffers())
        if attacked and any(tensor.is_inference() for tensor in tensors):
            raise InputError(
                f"{each.source} was made in torch.inference_mode(), so that attacks find no "
                "gradients: make it outside of it"
            )
        try_model(each.model, settings, dataset.test[:1])


def _describe_model(
    models: Sequence[EvaluatedModel],
    name: str,
    title: str,
    request: ModelRequest,
    classes: Sequence[str],
) -> ModelRecord:
    """Describe a model; of several seeds, all say where they are from, and the first the rest."""
    members = [each for each in models if each.name == name]
    model, options = members[0], request.options
    asked = list_given_options(options)
    if options.outputs == "auto":
        del asked["outputs"]
    settings = {
        "source": ", ".join(dict.fromkeys(each.source for each in members)),
        "preprocessing": "; ".join(
            dict.fromkeys(describe_preprocessing(each.opened) for each in members)
        ),
        **{key: value for key, value in asked.items() if value is not None},
    }
    facts = {
        **model.opened.facts,
        "digest": fingerprint({str(each.seed): each.opened.digest for each in members})
        if len(members) > 1
        else model.opened.digest,
        "outputs_as": {"kind": model.outputs.kind, "from": model.outputs.origin},
        "labels": model.labels.note,
    }
    if options.labels is not None:
        facts["label_map"] = dict(zip(classes, model.labels.columns, strict=True))
    plain = json.loads(json.dumps({"settings": settings, "facts": facts}))
    return ModelRecord(title=title, **plain)


def _run_name(models: Sequence[EvaluatedModel], dataset: Dataset) -> str:
    """`MODEL-on-DATA`, as a name for a folder; of several models, it has the first two."""
    names = list(dict.fromkeys(each.name for each in models))
    more = [f"{len(names) - 2}-more"] if len(names) > 2 else []
    data = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(dataset.name).name).strip("-.")
    return f"{'-and-'.join([*names[:2], *more])}-on-{data or 'data'}"


def _default_names(opened: Sequence[OpenedModel]) -> list[ModelName]:
    """The models' own names; a second of the same name is NAME-2."""
    taken = list[str]()
    for each in opened:
        taken.append(free_name(each.name, taken))
    return [ModelName(name) for name in taken]


def _match_model(
    request: ModelRequest, opened: OpenedModel, dataset: Dataset, name: ModelName
) -> EvaluatedModel:
    """Find out what a model gives, and map it to the classes of the data."""
    options = request.options
    first = _compute_outputs(opened, dataset.test[:1])
    outputs = (
        opened.outputs
        or parse_outputs(options.outputs)
        or _infer_outputs(opened, first, request, dataset)
    )
    labels = match_labels(opened.classes, first.shape[1], dataset.classes, read_label_map(options))
    if opened.outputs is None and outputs.kind == "probabilities":
        log_probabilities(first)  # raises for negative numbers
    return EvaluatedModel(
        name.model,
        opened,
        outputs,
        relabel(as_logits(opened, outputs.kind), labels),
        labels,
        model_digest(opened, outputs.kind, labels.columns),
        name.seed,
    )


def free_name(name: str, taken: Sequence[str]) -> str:
    """Number a name until no other one is the same folder, also where case does not count.

    >>> free_name("net", []), free_name("Net", ["net"]), free_name("net", ["net", "Net-2"])
    ('net', 'Net-2', 'net-3')
    """
    lower = {each.lower() for each in taken}
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(each for each in names if each.lower() not in lower)


def _check_distinct(models: Sequence[EvaluatedModel]) -> None:
    several = len({each.seed for each in models}) > 1
    first: dict[str, str] = {}
    for model in models:
        seed = f"-seed{model.seed}" if several else ""
        called = f"{model.name}{seed} ({model.source})"
        if (other := first.setdefault(model.digest, called)) != called:
            raise InputError(f"{other} and {called} are the same model")


def _common_source(
    request: ModelRequest, opened: Sequence[OpenedModel], fractions: Mapping[str, float]
) -> PlannedDataset:
    """How the data are loaded for all models; they must take the same images."""
    every = request.each()
    sources = [
        make_data_source(each, model, fractions) for each, model in zip(every, opened, strict=True)
    ]
    for model, source in zip(opened[1:], sources[1:], strict=True):
        if source != sources[0]:
            first, other = opened[0], model
            raise InputError(
                f"{first.name} and {other.name} are measured on different images "
                f"({describe_preprocessing(first)}; {describe_preprocessing(other)}), and the "
                "models of one evaluation see the same: give all of them images of one size with "
                "--size, or evaluate them one by one and compare the runs"
            )
    return sources[0]


def check_request(request: ModelRequest, settings: Settings, progress: Notify) -> dict[str, float]:
    """Check everything that needs neither weights nor images, and give the fractions of the split.

    They are empty for data that are loaded already, and for the data of the run that trained the
    model, which are split as they were there.

    Raises:
        InputError: the model's name or file, a data source, or a file of options is wrong; or a
            variant needs a validation split, and there is none.
    """
    options = request.options
    for name in ("label_column", "key_column", "classes"):
        if getattr(options, name):
            raise InputError(f"{name} goes with predictions:, not with a model")
    for model in (request.model, *request.more):
        if isinstance(model, str):
            check_model(model, options)
        else:
            check_model_options(_module_source(model), options)
    read_label_map(options)
    for other in (*options.ood, *read_natural_sources(options.natural).values()):
        if other.partition("@")[0] not in SOURCES:  # a path; a named set may be a long download
            list_source(other, offline=True)
    if isinstance(request.dataset, Dataset):
        check_loaded_dataset(options)
        name, has_validation = request.dataset.name, bool(request.dataset.val)
        check_has_validation(settings.variants, name, has_validation=has_validation)
        return {}
    return {} if _training_data(request) else _split_fractions(request, settings, progress)


def open_requested_model(request: ModelRequest) -> OpenedModel:
    """Open the model, for images of the size that was asked for."""
    options = request.options
    if not isinstance(request.model, str):
        source = _module_source(request.model)
        opened = open_module(
            request.model,
            type(request.model).__name__,
            options,
            source=source,
            what=source,
            code=repr(request.model),
            side=_known_side(request),
        )
    else:
        opened = open_with_options(request.model, options, offline=options.offline)
    if options.size is None:
        return opened
    return prepare_at(opened, options.size, keep=options.input_size is not None)


def _module_source(model: nn.Module) -> str:
    return f"a {type(model).__name__} of this process"


def _known_side(request: ModelRequest) -> int | None:
    """The side of the images, if it is known before the data are loaded."""
    if isinstance(request.dataset, Dataset):
        return request.dataset.test.images.shape[-1]
    return request.options.size


def _model_source(request: ModelRequest, model: EvaluatedModel) -> PlannedModel:
    """A model, described for a plan."""
    options, labels = request.options, model.labels
    return PlannedModel(
        **list_given_options(options),
        source=model.source,
        taken_for=model.outputs.kind,
        size=options.size,
        answers=labels.outputs,
        columns=labels.columns,
        digest=model.digest,
    )


def make_data_source(
    request: ModelRequest, opened: OpenedModel, fractions: Mapping[str, float]
) -> PlannedDataset:
    """How the data are loaded: split, and prepared as the model's configuration says."""
    options = request.options
    if isinstance(request.dataset, Dataset):
        return PlannedDataset(source=request.dataset.name, parts=("val", "test"))
    source = _training_data(request)
    if source is None:
        source = PlannedDataset(
            source=request.dataset,
            root=options.root,
            size=options.size,
            preparation=opened.preparation if options.size is None else None,
        )
        source = replace(source, **fractions)  # type: ignore[arg-type]
    return replace(
        source,
        groups=group_columns(options) or source.groups,
        parts=("val", "test"),
        limit=options.limit,
        skip_unreadable=options.skip_unreadable,
        allow_duplicates=options.allow_duplicates or source.allow_duplicates,
        scale=options.scale or _scale_of_training_run(request),
    )


def _without_checksums(progress: Notify) -> Notify:
    """Leave out what loading says of checksums, since a line says it too."""
    return lambda event: None if event.task == "verify" else progress(event)


def _split_fractions(
    request: ModelRequest, settings: Settings, progress: Notify
) -> dict[str, float]:
    """How a set is split: nothing is trained, so what is not tested is for fitting."""
    options, share = request.options, request.options.validation_fraction
    name = str(request.dataset)
    listed = list_source(
        name, options.root, offline=options.offline, progress=_without_checksums(progress)
    )
    if listed.classes == (UNLABELLED,):
        raise InputError(
            f"{name} has no labels, and a model cannot be judged without: it may stand after --ood"
        )
    by_name = UNSPLIT in listed.splits and tested_share(name) < 1
    has_validation = bool(share) or by_name or "val" in listed.splits
    check_has_validation(settings.variants, name, has_validation=has_validation)
    if share and not {UNSPLIT, "train"} & listed.splits.keys():
        raise InputError(f"{name} has only test images: leave validation_fraction out")
    if share and "val" in listed.splits:
        raise InputError(f"{name} has a validation split of its own: leave validation_fraction out")
    if by_name:  # as load_data divides it
        return {"validation_fraction": share} if share else {}
    if UNSPLIT not in listed.splits:
        return {"validation_fraction": share}
    return {"test_fraction": 1 - share, "validation_fraction": 1.0 if share else 0.0}


def _training_data(request: ModelRequest) -> PlannedDataset | None:
    """The data of the run that trained the model, if these are asked for; else None.

    They are split as they were for the training, so that no training image is tested.
    """
    own, options = _data_of_training_run(request), request.options
    if own is None:
        return None
    same_root = options.root is None or str(options.root) == own.root
    if options.size is not None or own.source != request.dataset or not same_root:
        return None
    return own


def _data_of_training_run(request: ModelRequest) -> PlannedDataset | None:
    """How the run that trained the model loaded its data; None for a model from elsewhere."""
    folder = find_run_path(str(request.model))
    if folder is None:
        return None
    try:
        return PlannedDataset(**open_finished_run(folder).record.data.arguments)  # type: ignore[arg-type]
    except (InputError, pydantic.ValidationError):
        return None


def _scale_of_training_run(request: ModelRequest) -> str | None:
    """The scale that the model was trained with, so that it sees the same values again."""
    own = _data_of_training_run(request)
    return None if own is None else own.scale


def _fitting_note(dataset: Dataset, request: ModelRequest) -> dict[str, str]:
    if _training_data(request) is not None:
        return {"fitting": "test and validation splits are those of the run that trained the model"}
    if dataset.val is None:
        return {}
    return {
        "fitting": "what is fitted on the validation images is valid only if the model was not "
        "trained on them"
    }


def _other_sources(
    request: ModelRequest, own: PlannedDataset, opened: OpenedModel, dataset: Dataset
) -> dict[str, PlannedDataset]:
    """Other data sets at the same size; only of the same classes are their labels used."""
    options = request.options
    natural = read_natural_sources(options.natural)
    groups = natural_columns(own.groups, natural)
    unlabelled = {f"{OOD_DATA}{source}": source for source in options.ood}
    labelled = {f"{NATURAL_DATA}{name}": source for name, source in natural.items()}
    given = options.size is not None or opened.preparation is None
    return {
        name: PlannedDataset(
            source=source,
            parts=(TEST,),
            test_fraction=tested_share(source),
            limit=options.limit,
            skip_unreadable=options.skip_unreadable,
            scale=options.scale or _scale_of_training_run(request),
            size=dataset.test.images.shape[-1] if given else None,
            preparation=None if given else opened.preparation,
            labelled=name in labelled,
            groups=groups.get(name.removeprefix(NATURAL_DATA)) if name in labelled else None,
        )
        for name, source in {**unlabelled, **labelled}.items()
    }


def _infer_outputs(
    opened: OpenedModel, first: torch.Tensor, request: ModelRequest, dataset: Dataset
) -> OutputKind:
    """Find out what the outputs are from how they look; one image is enough to see most logits."""
    if detect_kind(first) == "logits":
        return LOGITS
    images = dataset.test[: min(MOST_SAMPLE_IMAGES, request.options.batch_size)]
    kind = detect_kind(_compute_outputs(opened, images))
    if kind == "logits":
        return LOGITS
    if kind == "sigmoids":
        raise sigmoid_error(f"{opened.name} gives numbers in [0, 1] that do not sum to one")
    return OutputKind(kind, f"for {len(images)} test images they are >= 0 and sum to one")


def _compute_outputs(opened: OpenedModel, test: Images) -> torch.Tensor:
    """A model's outputs `[B, outputs]`; an error in the model becomes one sentence."""
    height, width = test.images.shape[2:]
    try:
        with torch.no_grad():
            logits = opened.model.cpu()(test.images.float() / 255)
    except InputError:
        raise
    except Exception as error:  # the model may be anybody's code
        said = one_line(str(error).partition("\n")[0])
        # A network may raise any of these for images of another size than its own.
        of_size = isinstance(error, RuntimeError | AssertionError | ValueError | TypeError)
        way_out = "set size or input_size" if of_size else "mend the model"
        raise InputError(
            f"{opened.name} cannot take images of {height}x{width} "
            f"({type(error).__name__}: {said}); {way_out}"
        ) from error
    plain = isinstance(logits, torch.Tensor) and not logits.is_nested
    if plain and logits.shape[1:] in ((), (1,)):
        raise single_output_error(opened.name)
    try:
        check_logits(logits)
    except InputError as error:
        raise InputError(f"{opened.name}: {error}") from None
    if len(logits) != len(test):
        raise InputError(f"{opened.name} gave {len(logits)} rows for {len(test)} images")
    if not torch.isfinite(logits).all():
        raise InputError(
            f"the logits of {opened.name} are not finite: {logits[0, :3].tolist()} ..."
        )
    return logits

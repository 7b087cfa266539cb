"""Open the model and the data of an evaluation, and make them fit each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pydantic
import torch
from torch import nn

from fairweather.attacks import ATTACKS
from fairweather.data import SOURCES, list_source, share_tested
from fairweather.data.folder import UNLABELLED
from fairweather.data.known import verification
from fairweather.data.metadata import natural_groups
from fairweather.data.source import WHOLE
from fairweather.errors import InputError, one_line
from fairweather.evaluation.request import ModelName, Request
from fairweather.evaluation_options import EvaluationOptions, natural_sources
from fairweather.inference import check_logits
from fairweather.metrics.clusters import clusters_of
from fairweather.models import (
    Opened,
    check_model,
    check_module_options,
    describe_preprocessing,
    given_options,
    open_module,
    open_with,
    prepared_at,
    trained_in,
)
from fairweather.models.labels import LabelMap, match_labels, read_label_file, relabel
from fairweather.models.outputs import (
    GIVEN,
    LOGITS,
    Outputs,
    asked_for,
    kind_of,
    like_sigmoids,
    logarithms,
    single_output,
)
from fairweather.prediction_files import seed_notes
from fairweather.progress import Notify
from fairweather.runs import open_finished_run
from fairweather.steps.measuring import OOD_DATA
from fairweather.steps.plan import DATA, NATURAL_DATA, DataSource, ModelSource
from fairweather.steps.worker import as_logits, check_natural, model_digest, open_data, splits_of
from fairweather.tasks import task_named
from fairweather.types import (
    CLASSIFICATION,
    Attack,
    Dataset,
    GroupColumns,
    Groups,
    Images,
    Shift,
    slice_name,
)

NAMED_VALUES = 6  # of a column of slices, in a line
# Options that mean something for classes alone.
OF_CLASSES = ("ood", "priors", "operating_points", "ordered_classes", "slices")
LOOKED_AT = 64  # test images that show whether outputs are probabilities


def in_words(groups: Groups | None) -> str:
    """Say how many clusters and subgroups there are.

    >>> import numpy as np
    >>> in_words(Groups("patient", np.array(["a", "b", "a"], dtype=object)))
    '2 by patient, 1 to 2 images each'
    >>> in_words(Groups(None, None, {"site": np.array(["north", "south", "north"], dtype=object)}))
    '2 by site (north 2, south 1)'
    """
    if groups is None:
        return ""
    told = []
    if (clusters := clusters_of(groups)) is not None:
        few, most = clusters.sizes.min(), clusters.sizes.max()
        images = f"{few:,}" if few == most else f"{few:,} to {most:,}"
        told.append(f"{clusters.count:,} by {groups.cluster}, {images} images each")
    for name, values in groups.slices.items():
        sizes = Counter(values.tolist())
        counted = [f"{value} {count:,}" for value, count in sorted(sizes.items())]
        each = f" ({', '.join(counted)})" if len(counted) <= NAMED_VALUES else ""
        told.append(f"{len(sizes):,} by {name}{each}")
        if groups.clusters is not None:
            of = {(cluster, value) for cluster, value in zip(groups.clusters, values, strict=True)}
            several = sum(count > 1 for count in Counter(cluster for cluster, _ in of).values())
            if several:
                told.append(f"{several:,} {groups.cluster} in several values of {name}")
    return "; ".join(told)


class FittedModel(NamedTuple):
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
    opened: Opened
    outputs: Outputs
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
            lines.append(f"outputs        {self.outputs}")
        return lines


class EvaluationInputs(NamedTuple):
    """Models and data that fit each other.

    Attributes:
        models: at least one.
        sources: how each data set is loaded, by its name in a plan.
        datasets: the loaded data sets; the models are evaluated on the first.
    """

    models: tuple[FittedModel, ...]
    sources: Mapping[str, DataSource]
    datasets: Mapping[str, Dataset]

    @property
    def dataset(self) -> Dataset:
        """The data set that the models are evaluated on."""
        return self.datasets[DATA]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all models."""
        return tuple(sorted({each.seed for each in self.models}))

    def lines(self, labels: Sequence[str]) -> list[str]:
        """Describe what is evaluated, one fact per line; the labels are what models are called."""
        test, notes = self.dataset.test, self.dataset.notes
        height, width = test.images.shape[2:]
        some = f" of {notes['limit_of']:,}, a stratified subset" if "limit_of" in notes else ""
        labelled = list(zip(self.models, labels, strict=True))
        lines = [line for model, label in labelled for line in model.lines(label)]
        unclear = seed_notes(model.name for model in self.models)
        lines += [f"note           {note}" for note in unclear]
        lines.append(
            f"data           {self.dataset.name}: n = {len(test):,}{some}, {width} x {height} "
            f"pixels, {len(test.classes)} classes"
        )
        for model, label in labelled:
            which = f"{label}: " if len(self.models) > 1 else ""
            lines.append(f"labels         {which}{model.labels.note}")
            normalised = model.opened.facts.get("normalisation")
            if odd := unlike_training(normalised, self.dataset.mean, self.dataset.std):
                lines.append(f"warning        {which}{odd}")
        if groups := in_words(test.groups):
            lines.append(f"groups         {groups}")
        for name, other in self.datasets.items():
            if name.startswith(NATURAL_DATA):
                known = in_words(other.test.groups)
                lines.append(
                    f"natural        {name.removeprefix(NATURAL_DATA)}: {other.name}, n = "
                    f"{len(other.test):,}, {len(other.classes)} of these classes"
                    f"{f', {known}' if known else ''}"
                )
        if verified := verification(self.dataset.name, notes):
            lines.append(verified)
        if scale := notes.get("scale"):
            lines.append(f"scale          {scale} become black and white")
        if fitting := notes.get("fitting"):
            lines.append(f"fitting        {fitting}")
        return lines


def unlike_training(
    normalisation: object, mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Say that images are far from what a normalisation is made for; None if they are not.

    Images are far if their mean differs by more than 1.5 standard deviations in every channel and
    they have less than half of the contrast, as nearly black images do; or by more than 3.

    Args:
        normalisation: the facts of a model, with `mean` and `std`.
        mean, std: of the images, per channel, in [0, 1].

    >>> facts = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    >>> unlike_training(facts, (0.02,) * 3, (0.01,) * 3)[:39]
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


def bring_together(request: Request, progress: Notify | None = None) -> EvaluationInputs:
    """Open the models, load the data with their preprocessing, and match their classes.

    Raises:
        InputError: something is wrong with a model, the data, or how they fit; or the models need
            images of different sizes.
    """
    options = request.options
    fractions = check_first(request, progress)
    opened = [open_asked(each) for each in request.each()]
    source = _common_source(request, opened, fractions)
    dataset = request.dataset
    if isinstance(dataset, str):
        dataset = open_data(source, offline=options.offline, progress=_untold(progress))
        dataset = replace(dataset, notes={**dataset.notes, **_fitting_note(dataset, request)})
    names = request.names or _own_names(opened)
    models = [
        _fitted(request, each, dataset, name) for each, name in zip(opened, names, strict=True)
    ]
    _check_different(models)
    sources, datasets = {DATA: source}, {DATA: dataset}
    for other in options.ood:
        name = f"{OOD_DATA}{other}"
        sources[name] = _other_source(request, opened[0], dataset, other)
        datasets[name] = open_data(sources[name], offline=options.offline, progress=progress)
    natural = natural_sources(options.natural)
    groups = natural_groups(source.groups, natural)
    for given, other in natural.items():
        name = f"{NATURAL_DATA}{given}"
        source = _other_source(request, opened[0], dataset, other)
        sources[name] = replace(source, labelled=True, groups=groups.get(given))
        datasets[name] = open_data(sources[name], offline=options.offline, progress=progress)
    allowed = options.allow_duplicates or sources[DATA].allow_duplicates
    check_natural(datasets, allow_duplicates=allowed, progress=progress)
    return EvaluationInputs(tuple(models), sources, datasets)


def _own_names(opened: Sequence[Opened]) -> list[ModelName]:
    """The models' own names; a second of the same name is NAME-2."""
    taken = list[str]()
    for each in opened:
        taken.append(free_name(each.name, taken))
    return [ModelName(name) for name in taken]


def _fitted(request: Request, opened: Opened, dataset: Dataset, name: ModelName) -> FittedModel:
    """Find out what a model gives, and map it to the classes of the data."""
    options = request.options
    first = _outputs(opened, dataset.test[:1])
    outputs = opened.outputs or asked_for(options.outputs) or _seen(opened, first, request, dataset)
    labels = match_labels(opened.classes, first.shape[1], dataset.classes, read_labels(options))
    if opened.outputs is None and outputs.kind == "probabilities":
        logarithms(first)  # raises for negative numbers
    return FittedModel(
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


def _check_different(models: Sequence[FittedModel]) -> None:
    several = len({each.seed for each in models}) > 1
    first: dict[str, str] = {}
    for model in models:
        seed = f"-seed{model.seed}" if several else ""
        called = f"{model.name}{seed} ({model.source})"
        if (other := first.setdefault(model.digest, called)) != called:
            raise InputError(f"{other} and {called} are the same model")


def _common_source(
    request: Request, opened: Sequence[Opened], fractions: Mapping[str, float]
) -> DataSource:
    """How the data are loaded for all models; they must take the same images."""
    every = request.each()
    sources = [
        data_source(each, model, fractions) for each, model in zip(every, opened, strict=True)
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


def check_first(request: Request, progress: Notify | None = None) -> dict[str, float]:
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
            check_model(model, **given_options(options))
        else:
            check_module_options(_of_this_process(model), **given_options(options))
    read_labels(options)
    request.fit_on_shifts()
    for other in (*options.ood, *natural_sources(options.natural).values()):
        if other.partition("@")[0] not in SOURCES:  # a path; a named set may be a long download
            list_source(other, offline=True)
    if isinstance(request.dataset, Dataset):
        check_loaded(options)
        check_variants(options, request.dataset.name, has_validation=bool(request.dataset.val))
        return {}
    return {} if _own_data(request) else _fractions(request, progress)


def check_variants(options: EvaluationOptions, name: str, *, has_validation: bool) -> None:
    """Raise `InputError` if a variant needs validation images and the data set has none."""
    for variant in options.all_variants:
        if variant.is_fitted and not has_validation:
            raise InputError(
                f"{variant.kind} is fitted on validation images, and {name} has none: set some "
                "aside with validation_fraction (--validation-fraction), such as 0.2"
            )


def check_task(
    dataset: Dataset, options: EvaluationOptions, shifts: Sequence[Shift | Attack]
) -> None:
    """Raise `InputError` for labels that the task does not know, or what only classification has.

    A calibration and an attack's loss say themselves what they accept.
    """
    task = task_named(dataset.task)
    for images in splits_of(dataset).values():
        task.check(images.labels.numpy(), images.classes)
    if task.name == CLASSIFICATION:
        return
    asked = [name for name in OF_CLASSES if getattr(options, name)]
    declared = [(each.name, ATTACKS[each.name].accepts) for each in shifts if each.name in ATTACKS]
    declared += [(each.kind, each.accepts) for each in options.all_variants]
    asked += [name for name, accepts in declared if accepts not in task.kinds]
    if asked:
        raise InputError(
            f"{asked[0]} is for classification, and the task of {dataset.name} is {task.name}"
        )


def read_labels(options: EvaluationOptions) -> Mapping[str, object] | None:
    """The label mapping that was given, read from its file if it is in one."""
    given = options.labels
    return read_label_file(given) if isinstance(given, Path) else given


def open_asked(request: Request) -> Opened:
    """Open the model, for images of the size that was asked for."""
    options = request.options
    if not isinstance(request.model, str):
        source = _of_this_process(request.model)
        opened = open_module(
            request.model,
            type(request.model).__name__,
            source=source,
            what=source,
            code=repr(request.model),
            side=_known_side(request),
            mean=options.mean,
            std=options.std,
            input_size=options.input_size,
            outputs=options.outputs,
        )
    else:
        opened = open_with(request.model, options, offline=options.offline)
    if options.size is None:
        return opened
    return prepared_at(opened, options.size, keep=options.input_size is not None)


def _of_this_process(model: nn.Module) -> str:
    return f"a {type(model).__name__} of this process"


def _known_side(request: Request) -> int | None:
    """The side of the images, if it is known before the data are loaded."""
    if isinstance(request.dataset, Dataset):
        return request.dataset.test.images.shape[-1]
    return request.options.size


def model_source(request: Request, model: FittedModel) -> ModelSource:
    """A model, described for a plan."""
    options, labels = request.options, model.labels
    return ModelSource(
        **given_options(options),
        source=model.source,
        taken_for=model.outputs.kind,
        size=options.size,
        answers=labels.outputs,
        columns=labels.columns,
        digest=model.digest,
    )


def data_source(request: Request, opened: Opened, fractions: Mapping[str, float]) -> DataSource:
    """How the data are loaded: split, and prepared as the model's configuration says."""
    options = request.options
    if isinstance(request.dataset, Dataset):
        return DataSource(source=request.dataset.name, parts=("val", "test"))
    source = _own_data(request)
    if source is None:
        source = DataSource(
            source=request.dataset,
            root=options.root,
            size=options.size,
            preparation=opened.preparation if options.size is None else None,
        )
        source = replace(source, **fractions)  # type: ignore[arg-type]
    return replace(
        source,
        groups=asked_groups(options) or source.groups,
        parts=("val", "test"),
        limit=options.limit,
        skip_unreadable=options.skip_unreadable,
        allow_duplicates=options.allow_duplicates or source.allow_duplicates,
        scale=options.scale or _scale_of_run(request),
    )


def asked_groups(options: EvaluationOptions) -> GroupColumns | None:
    """Which columns say what belongs together; None if none are asked for."""
    given = (options.metadata, options.cluster, options.slices, options.allow_shared_clusters)
    if not any(given):
        return None
    path = None if options.metadata is None else str(options.metadata)
    slices = tuple(map(slice_name, options.slices))
    return GroupColumns(path, options.cluster, slices, options.allow_shared_clusters)


def loaded_already() -> InputError:
    """Build the error for metadata of a data set that is loaded already."""
    return InputError(
        "metadata goes with the name of a data set; this one is loaded already: give load_data the "
        "table, as groups=GroupColumns(...)"
    )


def check_loaded(options: EvaluationOptions) -> None:
    """Raise `InputError` for options that only a data set by name can have."""
    if asked_groups(options) is not None:
        raise loaded_already()
    names = ["size", "root", "limit", "validation_fraction"]
    if not options.ood and not options.natural:  # whose files are still to be read
        names += ["skip_unreadable", "allow_duplicates", "scale"]
    if given := [name for name in names if getattr(options, name)]:
        raise InputError(
            f"{' and '.join(given)} cannot be given for a data set that is loaded already: give it "
            "to load_data, or name the data set here"
        )


def _untold(progress: Notify | None) -> Notify | None:
    """Leave out what loading says of checksums, since `EvaluationInputs.lines` says it too."""
    if progress is None:
        return None
    return lambda event: None if event.task == "verify" else progress(event)


def _fractions(request: Request, progress: Notify | None) -> dict[str, float]:
    """How a set is split: nothing is trained, so what is not tested is for fitting."""
    options, share = request.options, request.options.validation_fraction
    name = str(request.dataset)
    listed = list_source(name, options.root, offline=options.offline, progress=_untold(progress))
    if listed.classes == (UNLABELLED,):
        raise InputError(
            f"{name} has no labels, and a model cannot be judged without: it may stand after --ood"
        )
    by_name = WHOLE in listed.splits and share_tested(name) < 1
    has_validation = bool(share) or by_name or "val" in listed.splits
    check_variants(options, name, has_validation=has_validation)
    if share and not {WHOLE, "train"} & listed.splits.keys():
        raise InputError(f"{name} has only test images: leave validation_fraction out")
    if share and "val" in listed.splits:
        raise InputError(f"{name} has a validation split of its own: leave validation_fraction out")
    if by_name:  # as load_data divides it
        return {"validation_fraction": share} if share else {}
    if WHOLE not in listed.splits:
        return {"validation_fraction": share}
    return {"test_fraction": 1 - share, "validation_fraction": 1.0 if share else 0.0}


def _own_data(request: Request) -> DataSource | None:
    """The data of the run that trained the model, if these are asked for; else None.

    They are split as they were for the training, so that no training image is tested.
    """
    own, options = _data_of_run(request), request.options
    if own is None:
        return None
    same_root = options.root is None or str(options.root) == own.root
    if options.size is not None or own.source != request.dataset or not same_root:
        return None
    return own


def _data_of_run(request: Request) -> DataSource | None:
    """How the run that trained the model loaded its data; None for a model from elsewhere."""
    folder = trained_in(str(request.model))
    if folder is None:
        return None
    try:
        return DataSource(**open_finished_run(folder).record.data.arguments)  # type: ignore[arg-type]
    except (InputError, pydantic.ValidationError):
        return None


def _scale_of_run(request: Request) -> str | None:
    """The scale that the model was trained with, so that it sees the same values again."""
    own = _data_of_run(request)
    return None if own is None else own.scale


def _fitting_note(dataset: Dataset, request: Request) -> dict[str, str]:
    if _own_data(request) is not None:
        return {"fitting": "test and validation splits are those of the run that trained the model"}
    if dataset.val is None:
        return {}
    return {
        "fitting": "what is fitted on the validation images is valid only if the model was not "
        "trained on them"
    }


def _other_source(request: Request, opened: Opened, dataset: Dataset, source: str) -> DataSource:
    """Another data set at the same size, whose labels are not used."""
    options = request.options
    given = options.size is not None or opened.preparation is None
    return DataSource(
        source=source,
        parts=("test",),
        test_fraction=share_tested(source),
        limit=options.limit,
        skip_unreadable=options.skip_unreadable,
        scale=options.scale or _scale_of_run(request),
        size=dataset.test.images.shape[-1] if given else None,
        preparation=None if given else opened.preparation,
        labelled=False,
    )


def _seen(opened: Opened, first: torch.Tensor, request: Request, dataset: Dataset) -> Outputs:
    """Find out what the outputs are from how they look; one image is enough to see most logits."""
    if kind_of(first) == "logits":
        return LOGITS
    images = dataset.test[: min(LOOKED_AT, request.options.batch_size)]
    kind = kind_of(_outputs(opened, images))
    if kind == "logits":
        return LOGITS
    if kind == "sigmoids":
        raise like_sigmoids(f"{opened.name} gives numbers in [0, 1] that do not sum to one")
    return Outputs(kind, f"for {len(images)} test images they are >= 0 and sum to one")


def _outputs(opened: Opened, test: Images) -> torch.Tensor:
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
        raise single_output(opened.name)
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

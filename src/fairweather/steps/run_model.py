"""A model of a finished run, opened again to predict other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import torch
from torch import nn

from fairweather.data.image_folders import UNLABELLED
from fairweather.data.loading import load, tested_share
from fairweather.data.pixel_scans import digest
from fairweather.errors import InputError, no_exit, unknown_name
from fairweather.models.building import load_checkpoint
from fairweather.models.labels import match_labels, relabel
from fairweather.models.opening import open_with_options
from fairweather.models.preprocessing import prepare_at
from fairweather.progress import Notify
from fairweather.runs.folder import RunFolder, open_finished_run
from fairweather.steps.plan import PlannedDataset
from fairweather.steps.worker import as_logits, drop_labels, open_data, relabel_by_name
from fairweather.tasks import find_task
from fairweather.types.kinds import CLASSES
from fairweather.types.measurement import Images, Predictions
from fairweather.types.options import (
    GroupColumns,
    ImageOptions,
    LoadOptions,
    ModelOptions,
    Preparation,
)
from fairweather.types.positive import NOTE, PositiveClasses, read_positive
from fairweather.types.record import (
    CLEAN,
    DESCRIPTION,
    ENSEMBLE,
    TEST,
    VAL,
    WEIGHTS,
    ModelRecord,
    RunRecord,
    model_folder,
    predictions_file,
)


@dataclass(frozen=True)
class RunModel:
    """A model of a finished run, ready to predict other images."""

    run: RunFolder
    """Its folder."""

    record: RunRecord
    """The record of the run."""

    name: str
    """The name of the model, as in scores.csv."""

    seed: int | str
    """The seed of its training; `ensemble` for the models of all seeds together."""

    networks: tuple[nn.Module, ...]
    """Float images `[B, 3, H, W]` in [0, 1] to logits of the run's classes, in evaluation mode;
    one, or all members of an ensemble."""

    @property
    def title(self) -> str:
        """The title of the model, for people."""
        return self.record.models[self.name].title

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.record.data.classes

    @property
    def preparation(self) -> Preparation | None:
        """How images become squares; None if the run's images are not square."""
        data = self.record.data
        if data.preparation is not None:
            return data.preparation
        if data.side is not None and data.side[0] == data.side[1]:
            return Preparation(data.side[0])
        return None

    @property
    def scale(self) -> str | None:
        """Which gray values become black and white, if the run knows."""
        scale = self.record.data.arguments.get("scale")
        return scale if isinstance(scale, str) else None

    def validation(self) -> Predictions:
        """The model's predictions of the run's clean validation images.

        Raises `InputError` if the run has none.
        """
        return self.run.read_predictions(self.validation_file())

    def validation_file(self) -> str:
        """The file with these predictions, of whatever task; raises as `validation` does."""
        file = predictions_file(self.name, self.seed, CLEAN, VAL)
        if not self.run.file(file).is_file():
            raise InputError(
                f"{self.run.path} has no predictions of validation images for {self.name}, on "
                "which thresholds are chosen; evaluate with --validation-fraction, or train with "
                "validation images"
            )
        self.run.holds(file)
        return file


@no_exit()
def open_run_model(text: str, *, offline: bool = False) -> RunModel:
    """Open the model `RUN[:MODEL[:SEED]]`; SEED is a number or `ensemble`.

    MODEL may be left out if the run has one model. SEED may be left out if the run has one seed; of
    several, the ensemble is opened if the run has it. With `offline`, nothing is downloaded.

    Raises:
        InputError: there is no such run, model or seed; its weights are gone or damaged; or the run
            is one of predictions that were made elsewhere, which has no model.
    """
    path, asked_model, asked_seed = split_model_name(text)
    run = open_finished_run(path)
    record = run.record
    several = f"{path} has several models: name one, as in {path}:"
    name = _choose_model(asked_model, list(record.models), several)
    chosen = _choose_seed(record, asked_seed, f"{path}:{name}")
    seeds = record.seeds if chosen == ENSEMBLE else (int(chosen),)
    if record.kind == "study":
        networks = tuple(_load_trained(run, name, seed) for seed in seeds)
    else:
        networks = (_open_evaluated(record, record.models[name], str(path), offline),)
    return RunModel(run, record, name, chosen, networks)


class NewImages(NamedTuple):
    """New images for a model."""

    name: str
    """What they were loaded from."""

    images: Images
    """At the model's size, with the classes of its run; `names` are their files, if any."""

    labelled: bool
    """Whether their labels are true; otherwise all are 0."""

    other_classes: tuple[str, ...] = ()
    """Their own classes, if these are not classes of the run."""


def open_images(
    source: str,
    classes: tuple[str, ...],
    preparation: Preparation | None,
    asked: ImageOptions | None = None,
    *,
    positive: PositiveClasses | None = None,
    groups: GroupColumns | None = None,
    offline: bool = False,
    progress: Notify | None = None,
) -> NewImages:
    """Load images for a model, prepared as its own; a set with splits gives its test images.

    Labels are kept if the model has every class by name, and each image one label.

    Args:
        source: the images, as for `load_data`.
        classes, preparation: of the model.
        positive: the classes that the model's findings are made of, if they are.
        asked, groups, offline, progress: as for `load_data`.
    """
    options = LoadOptions(
        **vars(asked or ImageOptions()),
        preparation=preparation,
        parts=("test",),
        test_fraction=tested_share(source),
        allow_duplicates=True,
        groups=groups,
    )
    dataset = load(source, options, offline=offline, progress=progress)
    labels = relabel_by_name(dataset.test, classes, positive)
    choices = dataset.test.choices
    has_more = choices is not None and choices.truth is not None  # than one label an image
    if labels is None or has_more:
        test = dataset.test
        unlabelled = replace(drop_labels(test, classes), names=test.names, groups=test.groups)
        are_known = labels is not None or dataset.classes == (UNLABELLED,)
        others = () if are_known else dataset.classes
        return NewImages(dataset.name, unlabelled, labelled=False, other_classes=others)
    images = replace(dataset.test, labels=labels, classes=classes)
    return NewImages(dataset.name, images, labelled=True)


def open_validation_images(
    model: RunModel,
    *,
    root: str | Path | None = None,
    offline: bool = False,
    progress: Notify | None = None,
) -> Images:
    """Load the validation images of a model's run again.

    Args:
        model: the model.
        root: the folder of the run's data, if it has moved.
        offline: do not download missing files.
        progress: as for `load_data`.

    Raises `InputError` if the run has none, or if they are missing or have changed.
    """
    data = model.record.data
    if VAL not in data.digests:
        raise InputError(f"{model.run.path} has no validation images")
    try:
        source = PlannedDataset(**data.arguments)  # type: ignore[arg-type]
    except pydantic.ValidationError:
        raise InputError(
            f"the record of {model.run.path} does not say how to load its data"
        ) from None
    source = replace(source, parts=(VAL, TEST), root=source.root if root is None else str(root))
    images = open_data(source, offline=offline, progress=progress).val
    if images is None or digest(images) != data.digests[VAL]:
        raise InputError(f"the validation images of {model.run.path} have changed")
    return images


def load_other_seeds(model: RunModel) -> dict[int, nn.Module]:
    """The networks of the other seeds of a trained model; of an ensemble, those of its members.

    Raises `InputError` if the weights of one are gone or damaged.
    """
    if model.record.kind != "study":
        return {}
    if model.seed == ENSEMBLE:
        return dict(zip(model.record.seeds, model.networks, strict=True))
    return {
        seed: _load_trained(model.run, model.name, seed)
        for seed in model.record.seeds
        if seed != model.seed
    }


def split_model_name(text: str) -> tuple[Path, str | None, str | None]:
    """Split `RUN[:MODEL[:SEED]]`; a path may contain colons itself."""
    parts = text.split(":")
    for end in range(len(parts), max(0, len(parts) - 3), -1):
        path = Path(":".join(parts[:end])).expanduser()
        if path.exists():
            model, seed, *_ = [*parts[end:], None, None]
            return path, model, seed
    return Path(parts[0]).expanduser(), None, None  # opening it reports that there is no run


def _choose_model(asked: str | None, names: list[str], several: str) -> str:
    if asked is None:
        if len(names) > 1:
            raise InputError(f"{several}{names[0]} ({', '.join(names)})")
        return names[0]
    if asked not in names:
        raise unknown_name("model", asked, names)
    return asked


def _choose_seed(record: RunRecord, asked: str | None, model: str) -> int | str:
    known = [*map(str, record.seeds), *([ENSEMBLE] if record.ensemble else [])]
    if asked is None:
        if len(known) > 1 and not record.ensemble:
            raise InputError(
                f"{model} was trained with several seeds: name one, as in {model}:{known[0]} "
                f"({', '.join(known)})"
            )
        asked = known[-1]
    if asked not in known:
        raise unknown_name("seed", asked, known)
    return ENSEMBLE if asked == ENSEMBLE else int(asked)


def _load_trained(run: RunFolder, name: str, seed: int) -> nn.Module:
    folder = model_folder(name, seed)
    for file in (WEIGHTS, DESCRIPTION):
        if not run.file(f"{folder}/{file}").is_file():
            raise InputError(
                f"{run.path} has no weights of {name} with seed {seed} ({folder}/{file} is "
                "missing): a packed or cleaned run can be read, but not asked about other images"
            )
        run.holds(f"{folder}/{file}")
    return load_checkpoint(run.file(folder))


def _open_evaluated(record: RunRecord, model: ModelRecord, place: str, offline: bool) -> nn.Module:
    """Open an evaluated model from its source again, with the settings of the run."""
    settings: Mapping[str, Any] = model.settings
    source, outputs_as = settings.get("source"), model.facts.get("outputs_as")
    if not isinstance(source, str) or not isinstance(outputs_as, dict) or "kind" not in outputs_as:
        raise InputError(
            f"{place} has no model, only predictions that were made elsewhere: "
            "evaluate the model itself, as in fairweather evaluate onnx:FILE DATA"
        )
    if source.endswith("of this process"):
        raise InputError(
            f"{place} measured {source}, which is gone: evaluate it from a file, such as "
            "python:FILE.py:FUNCTION"
        )
    names = {field.name for field in fields(ModelOptions)} & settings.keys()
    options = ModelOptions(**{name: settings[name] for name in names})
    positive = read_positive(record.data.notes) if NOTE in model.facts else None
    predicts = find_task(record.data.task).kinds[0] if positive is None else CLASSES
    classes = record.data.classes if positive is None else positive.classes
    opened = open_with_options(source, options, offline=offline, predicts=predicts)
    if opened.digest != model.facts.get("digest"):
        raise InputError(f"{source} has changed since {place} measured it")
    size = record.data.arguments.get("size")
    if isinstance(size, int):
        opened = prepare_at(opened, size, keep="input_size" in settings)
    network = as_logits(opened, str(outputs_as["kind"]))
    side = record.data.side or (32, 32)
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, *side)).shape[1]
    labels = match_labels(opened.classes, outputs, classes, predicts=predicts)
    if labels.note != model.facts.get("labels"):
        raise InputError(
            f"{place} matched classes with a class map, which its record does not hold"
        )
    return relabel(network, labels._replace(positive=() if positive is None else positive.places))

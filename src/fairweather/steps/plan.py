"""A plan: everything that has to be done for a run, as plain data.

A step says what it needs, what it depends on, what files it leaves and what it wants of a machine.
It holds no closure, so it can be written as JSON and done in another process. It reads only
`record.json`, and the files of the steps that it needs with their records, from a folder that may
hold nothing else, and records nothing: that is for whoever runs the plan.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import cv2
import pydantic
from pydantic import JsonValue

from fairweather.metrics import METRICS
from fairweather.models import ModelSpec, spec_facts
from fairweather.record import (
    CORRELATION,
    DESCRIPTION,
    HISTORY,
    PROBED,
    RECORD,
    TEST,
    WEIGHTS,
    Frozen,
)
from fairweather.runs import fingerprint
from fairweather.training import Recipe, recipe_facts
from fairweather.training.selfsupervised import Pretraining
from fairweather.types import Preparation

DATA = "data"  # the run's own data set; others are called `pretraining:NAME` and `ood:SOURCE`
PRECISION = "fp32"  # of predictions
# Raised when a step of the kind makes something else of the same inputs.
VERSIONS = {
    "pretrain": 1,
    "train": 1,
    "choose": 1,
    "fit": 1,
    "predict": 1,
    "score": 4,
    "sample": 3,
    "report": 6,
}
# Other versions of these make other shifted images of the same images.
LIBRARIES: dict[str, JsonValue] = {
    "opencv": cv2.__version__,  # whichever distribution brought it
    **{
        name: importlib.metadata.version(name)
        for name in ("numpy", "pillow", "torch", "torchvision")
    },
}

# ---------------------------------------------------------------- what steps are done on


class DataSource(Frozen):
    """A data set as a worker opens it: the arguments of `load_data`.

    Attributes:
        labelled: False for another data set, whose labels mean nothing to the models.
        digests: of each part, where it is known; whoever opens the data holds them against these.
    """

    source: str
    size: int | None = None
    preparation: Preparation | None = None
    limit: int | None = None
    parts: tuple[str, ...] = ("train", "val", "test")
    root: str | None = None
    seed: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    skip_unreadable: bool = False
    label_noise: float = 0.0
    imbalance: float = 1.0
    verify: bool = True
    labelled: bool = True
    digests: dict[str, str] = pydantic.Field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `load_data`, whose types differ (hence `Any`)."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        del given["labelled"], given["digests"]
        if self.preparation is None:
            del given["preparation"]
        return given


class ModelSource(Frozen):
    """A model from elsewhere as a worker opens it: the arguments of `open_model`, and more.

    Attributes:
        outputs: what they were said to be: `auto`, `logits` or `probabilities`.
        taken_for: what its outputs are taken for: `logits` or `probabilities`.
        size: what images are prepared at in place of the model's own configuration.
        answers: how many outputs it has.
        columns: for each class of the data, the outputs that mean it.
        digest: of everything that was decided about the model.
    """

    source: str
    architecture: str | None = None
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: int | None = None
    outputs: str = "auto"
    taken_for: str = "logits"
    size: int | None = None
    answers: int
    columns: tuple[tuple[int, ...], ...]
    digest: str


class ImagesReference(Frozen):
    """A part of a data set of the plan; the digest is None until its images were decoded."""

    data: str = DATA
    part: str = TEST
    digest: str | None = None


class Trained(Frozen):
    """A network that the run trained: a folder with its weights and description."""

    kind: Literal["trained"] = "trained"
    folder: str


class Interpolated(Frozen):
    """A network between its probed and its fine-tuned weights, `share` of the way."""

    kind: Literal["interpolated"] = "interpolated"
    folder: str
    share: float


class Together(Frozen):
    """Several networks whose probabilities are averaged."""

    kind: Literal["together"] = "together"
    members: tuple[Trained | Interpolated, ...]


class OpenedNetwork(Frozen):
    """The model from elsewhere that the plan names, known by its digest."""

    kind: Literal["opened"] = "opened"
    digest: str


Network = Annotated[
    Trained | Interpolated | Together | OpenedNetwork, pydantic.Field(discriminator="kind")
]


def network_files(network: Trained | Interpolated | Together | OpenedNetwork) -> list[str]:
    """The files of a run that a network is made of."""
    match network:
        case Trained(folder=folder):
            return [f"{folder}/{WEIGHTS}", f"{folder}/{DESCRIPTION}"]
        case Interpolated(folder=folder):
            return [f"{folder}/{name}" for name in (WEIGHTS, DESCRIPTION, PROBED)]
        case Together(members=members):
            return [file for member in members for file in network_files(member)]
        case OpenedNetwork():
            return []


# ---------------------------------------------------------------- steps


class Done(NamedTuple):
    """What a step has to say when it is done.

    Attributes:
        note: a word on how it went.
        files: that it left in a folder in which it chose the names.
        share: how much of its work was done now, the rest before it was interrupted.
    """

    note: str = ""
    files: Sequence[str] = ()
    share: float = 1.0


class Step(Frozen):
    """What every step has; the kinds add what they are made of.

    Attributes:
        id: its name, a relative path that tells it from every other.
        task: what progress calls it; steps of one task are counted together.
        needs: ids of the steps whose files it reads.
        reads: these files.
        leaves, may_leave: the files that it writes always, and only in some cases; a name that ends
            with a slash is a folder, in which it chooses the names.
        threads: of torch while it is done.
        device: the type of the device that it wants: `cpu`, `cuda`, ...
        work: images times passes, for telling how long it may take.
        memory: bytes of the 8-bit images that it reads, as far as these are known; networks and
            their batches come on top.
    """

    id: str
    task: str
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...]
    may_leave: tuple[str, ...] = ()
    threads: int = 1
    device: str = "cpu"
    work: int = 0
    memory: int = 0

    kind: str
    tells_progress: ClassVar[bool] = False  # while it is done; else it is one of several
    disposable: ClassVar[bool] = False  # made again in moments, and wrong once its needs change

    @property
    def label(self) -> str:
        """What it does, told apart from every other step of its plan."""
        return self.task

    def depends(self) -> dict[str, JsonValue]:
        """What it depends on besides the files that it reads; None for what is not known yet."""
        # As JSON has it: what a record says is compared with this.
        plain: dict[str, JsonValue] = json.loads(
            json.dumps({"version": VERSIONS[self.kind], **self.inputs()})
        )
        return plain

    def inputs(self) -> Mapping[str, object]:
        """The part of `depends` that each kind has of its own."""
        raise NotImplementedError

    @property
    def is_known(self) -> bool:
        """Is everything known that it depends on besides files: images decoded, weights fetched."""
        values = [getattr(self, name) for name in type(self).model_fields]
        decoded = all(v.digest is not None for v in values if isinstance(v, ImagesReference))
        return decoded and getattr(self, "weights", "") is not None

    def machine(self) -> dict[str, JsonValue]:
        """What it wants of a machine that can change its result."""
        return {"device": self.device, "threads": self.threads}


class PretrainStep(Step):
    """Train a backbone before it is given a task.

    Attributes:
        images: what it learns from.
        train, val: the run's own images, which tell how good the features are for them.
        spec: of the network, with its statistics as in `TrainStep`.
        weights: digest of what it starts from; None until that was fetched.
    """

    kind: Literal["pretrain"] = "pretrain"
    tells_progress: ClassVar[bool] = True
    folder: str
    title: str
    seed: int
    images: ImagesReference
    train: ImagesReference
    val: ImagesReference
    spec: ModelSpec
    own_statistics: bool
    weights: str | None
    recipe: Pretraining
    precision: str

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        return {
            "images": self.images.digest,
            "probe": [self.train.digest, self.val.digest],
            "spec": spec_facts(self.spec),
            "own_statistics": self.own_statistics,
            "weights": self.weights,
            "recipe": _plain(self.recipe),
            "seed": self.seed,
            "precision": self.precision,
            **self.machine(),
        }


class TrainStep(Step):
    """Train a classifier, or take over the try of a sweep that was trained with the same seed.

    Attributes:
        train, val: the images.
        spec: of the network; without its normalisation where this is that of the images.
        own_statistics: normalise by the statistics of the training images.
        start: the file of a pre-training of the run that it starts from; its statistics go along.
        weights: digest of other weights that it starts from; None until these were fetched.
        recipe: how it is trained; None where `choice` says that.
        choice: the file with the recipe that a sweep has chosen.
        tries: folders of the sweep's tries, of which the one with this recipe is taken over.
        train_shifts: ids of the shifts of the training images.
        label_seed: of the labels that are left out or wrong.
        may_diverge: leave a word in the place of a model, since there are other tries.
    """

    kind: Literal["train"] = "train"
    tells_progress: ClassVar[bool] = True
    folder: str
    seed: int
    train: ImagesReference
    val: ImagesReference
    spec: ModelSpec
    own_statistics: bool
    start: str | None = None
    weights: str | None
    recipe: Recipe | None
    choice: str | None = None
    tries: tuple[str, ...] = ()
    train_shifts: tuple[str, ...] = ()
    label_fraction: float = 1.0
    label_noise: float = 0.0
    label_seed: int = 0
    precision: str
    may_diverge: bool = False

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        changes_labels = self.label_fraction < 1 or self.label_noise > 0
        # A key of a recipe or of a network that came later stands here only where it does
        # something, so that what was finished before it came stays finished.
        return {
            "train": self.train.digest,
            "val": self.val.digest,
            "spec": spec_facts(self.spec),
            "own_statistics": self.own_statistics,
            "weights": self.weights,
            "recipe": self.recipe and recipe_facts(self.recipe),
            "train_shifts": list(self.train_shifts),
            "label_fraction": self.label_fraction,
            "label_noise": self.label_noise,
            "label_seed": self.label_seed if changes_labels else None,
            "seed": self.seed,
            "precision": self.precision,
            **self.machine(),
        }


class ChooseStep(Step):
    """Choose among the tries of a sweep, by validation; leaves their table and the chosen recipe.

    Attributes:
        title: of the model.
        values: of each try, what it varied.
        folders: of the tries.
        metric: that decides.
    """

    kind: Literal["choose"] = "choose"
    disposable: ClassVar[bool] = True
    title: str
    values: tuple[dict[str, JsonValue], ...]
    folders: tuple[str, ...]
    metric: Literal["accuracy", "nll"]

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        return {"values": list(self.values), "metric": self.metric}


class FitStep(Step):
    """Fit the temperature of a model on its predictions of clean validation images.

    Attributes:
        validation: the file of these predictions.
        network, val: predict the logits again, where they are not stored.
    """

    kind: Literal["fit"] = "fit"
    validation: str
    network: Network
    val: ImagesReference
    stored: bool
    batch_size: int

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        if self.stored:
            return {}
        return {
            "data": self.val.digest,
            "network": _network_facts(self.network),
            "batch_size": self.batch_size,
            "precision": PRECISION,
            **self.machine(),
        }


class Forward(Frozen):
    """Predict with a network; its logits are divided by the temperature in a file, if there is."""

    way: Literal["forward"] = "forward"
    network: Network
    temperature: str | None = None


class Adapted(Frozen):
    """Predict with a network whose batch norm takes its statistics from the test batch."""

    way: Literal["adapted"] = "adapted"
    network: Network


class Scaled(Frozen):
    """Divide stored logits by the temperature in a file."""

    way: Literal["scaled"] = "scaled"
    of: str
    temperature: str


class Averaged(Frozen):
    """Average the probabilities of stored logits."""

    way: Literal["averaged"] = "averaged"
    members: tuple[str, ...]


class PredictStep(Step):
    """Predict one part of the data under one shift or attack.

    Attributes:
        model, seed: whose predictions they are; a variant is a model of its own.
        images: which images.
        shift: id of the shift or attack.
        labelled: False for another data set: only answers and confidences are kept.
        how: with what.
    """

    kind: Literal["predict"] = "predict"
    model: str
    seed: int | str
    images: ImagesReference
    shift: str
    shift_seed: int
    labelled: bool = True
    batch_size: int
    how: Annotated[Forward | Adapted | Scaled | Averaged, pydantic.Field(discriminator="way")]

    @property
    def label(self) -> str:  # noqa: D102 - as its base says
        cell = self.id.removeprefix(f"predictions/{self.model}/seed-{self.seed}/")
        return f"{self.task}, {cell}"

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        if isinstance(self.how, Scaled | Averaged):
            return {"way": self.how.way}
        return {
            "data": self.images.digest,
            "way": self.how.way,
            "network": _network_facts(self.how.network),
            "shift": self.shift,
            "seed": self.shift_seed,
            "batch_size": self.batch_size,
            "precision": PRECISION,
            **({} if self.shift == "clean" else {"libraries": LIBRARIES}),
            **self.machine(),
        }


class Row(Frozen):
    """A model or variant with a seed, and the shifts and attacks that it was predicted under."""

    model: str
    seed: int | str
    shifts: tuple[str, ...]


class ScoreStep(Step):
    """Compute scores.csv from the predictions, without any model.

    Attributes:
        rows: whose scores, in the order of the table.
        titles: of the models, by name.
        validation: there are predictions of clean validation images, to fit thresholds on.
        natural_shift: these are scored too, since the test images differ by their origin.
        others: other data sets that confidence should tell from the test images.
        priors: class probabilities in label order, by name.
        in_units_of_alexnet: these are the images for which that is a published number.
    """

    kind: Literal["score"] = "score"
    tells_progress: ClassVar[bool] = True
    disposable: ClassVar[bool] = True
    rows: tuple[Row, ...]
    titles: dict[str, str]
    validation: bool
    natural_shift: bool
    others: tuple[str, ...] = ()
    priors: dict[str, tuple[float, ...]] = pydantic.Field(default_factory=dict)
    bootstrap: int
    in_units_of_alexnet: bool = False

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        return {
            "metrics": [metric.name for metric in METRICS],
            "rows": [_plain(row) for row in self.rows],
            "titles": dict(self.titles),
            "bootstrap": self.bootstrap,
            "natural_shift": self.natural_shift,
            "others": list(self.others),
            "priors": {name: list(values) for name, values in self.priors.items()},
            "in_units_of_alexnet": self.in_units_of_alexnet,
        }


class SampleStep(Step):
    """Store the few pictures that the report shows, so that it never needs the data again.

    Attributes:
        models: whose mistakes are shown, by the name in the report: model and seed.
        shifts: ids, clean first; no attacks, since what they do depends on the model.
        mixup: also store an example of MixUp, of the training images.
        attacks: ids of the attacks whose images are shown too.
        networks: that are attacked, by the model's name in the report.
    """

    kind: Literal["sample"] = "sample"
    disposable: ClassVar[bool] = True
    images: ImagesReference
    train: ImagesReference | None
    models: dict[str, tuple[str, int | str]]
    shifts: tuple[str, ...]
    shift_seed: int
    mixup: bool
    attacks: tuple[str, ...] = ()
    networks: dict[str, Network] = pydantic.Field(default_factory=dict)

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        # Only where there are attacks, so that the samples of other runs stay finished.
        attacked = {
            "attacks": list(self.attacks),
            "networks": {name: _network_facts(each) for name, each in self.networks.items()},
            **self.machine(),
        }
        return {
            **(attacked if self.attacks else {}),
            "data": self.images.digest,
            "train": self.train.digest if self.train else None,
            "models": {name: list(model) for name, model in self.models.items()},
            "shifts": list(self.shifts),
            "seed": self.shift_seed,
            "mixup": self.mixup,
            "libraries": LIBRARIES,
        }


class ReportStep(Step):
    """Build tables, figures and page from the scores, the predictions and the record."""

    kind: Literal["report"] = "report"
    disposable: ClassVar[bool] = True

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        return {}


AnyStep = Annotated[
    PretrainStep
    | TrainStep
    | ChooseStep
    | FitStep
    | PredictStep
    | ScoreStep
    | SampleStep
    | ReportStep,
    pydantic.Field(discriminator="kind"),
]


class Plan(Frozen):
    """Steps in an order in which each comes after those that it needs, and what they are done on.

    Attributes:
        data: the data sets, by the names that steps call them.
        model: the model from elsewhere, if there is one.
        steps: everything that has to be done for the run.
    """

    data: dict[str, DataSource]
    model: ModelSource | None = None
    steps: tuple[AnyStep, ...]

    def step(self, step: str) -> Step:
        """The step of an id; raises `KeyError` where there is none."""
        for each in self.steps:
            if each.id == step:
                return each
        raise KeyError(step)

    def needed_for(self, step: str) -> set[str]:
        """The ids of a step and of all that it needs, however far."""
        wanted = {step}
        for each in reversed(self.steps):
            if each.id in wanted:
                wanted.update(each.needs)
        return wanted


def in_order(
    data: Mapping[str, DataSource], model: ModelSource | None, steps: Sequence[Step]
) -> Plan:
    """Make a plan of steps that come after what they read; what they need is told by their files.

    Raises `ValueError` for an id or a file that two steps have, and for a file that no earlier step
    leaves: a mistake of whoever planned.
    """
    makers: dict[str, str] = {}
    linked = []
    for step in steps:
        try:
            # In the order of the files, each once.
            needs = tuple(dict.fromkeys(makers[file] for file in step.reads if file != RECORD))
        except KeyError as error:
            raise ValueError(f"no step before {step.id} leaves {error.args[0]}") from None
        linked.append(step.model_copy(update={"needs": needs}))
        for file in (*step.leaves, *step.may_leave):
            if file in makers:
                raise ValueError(f"{makers[file]} and {step.id} both leave {file}")
            makers[file] = step.id
    twice = [name for name, count in Counter(step.id for step in steps).items() if count > 1]
    if twice:
        raise ValueError(f"two steps are called {twice[0]}")
    return Plan.model_construct(data=dict(data), model=model, steps=tuple(linked))


def fingerprint_of(step: Step, checksums: Mapping[str, str]) -> str:
    """Condense everything that a step depends on: what it is, and the files that it reads.

    Args:
        step: whose digests are all known.
        checksums: SHA-256 of the files that it reads, by name; those that were not left are not
            there.
    """
    files = {name: checksums[name] for name in step.reads if name in checksums}
    return fingerprint({"kind": step.kind, "depends": step.depends(), "files": files})


def training_files(folder: str, *, probed: bool) -> list[str]:
    """What a training leaves in its folder."""
    names = [WEIGHTS, DESCRIPTION, HISTORY, *([PROBED] if probed else [])]
    return [f"{folder}/{name}" for name in names]


def pretraining_files(folder: str, recipe: Pretraining) -> list[str]:
    """What a pre-training leaves in its folder."""
    names = [WEIGHTS, DESCRIPTION, HISTORY]
    names += [CORRELATION] if recipe.method == "barlow_twins" else []
    return [f"{folder}/{name}" for name in names]


def _network_facts(network: Trained | Interpolated | Together | OpenedNetwork) -> JsonValue:
    """What a network is besides its files; which members there are, these tell."""
    return "together" if isinstance(network, Together) else _plain(network)


def _plain(value: object) -> JsonValue:
    """A typed description as JSON has it."""
    plain: JsonValue = pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")
    return plain

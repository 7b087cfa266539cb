"""A plan: all steps of a run, as plain data.

A step says what it needs, what it depends on, which files it writes and what it needs of a machine.
It contains no closure, so that it can be written as JSON and run in another process. It reads only
`record.json` and the files and records of the steps that it needs; its folder may contain nothing
else. It records nothing: the executor of the plan does this.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Annotated, ClassVar, Literal, NamedTuple

import cv2
import pydantic
import pydantic.dataclasses
from pydantic import JsonValue

from fairweather.devices import FP32, Arithmetic
from fairweather.metrics import METRICS
from fairweather.metrics.class_metrics import CLASS_METRICS
from fairweather.metrics.ood_scores import MOST_FEATURES, NEIGHBOURS, OOD_SCORES
from fairweather.models import ModelSpec, spec_facts
from fairweather.options import LoadOptions, ModelOptions
from fairweather.record import (
    CLEAN,
    CORRELATION,
    DESCRIPTION,
    HISTORY,
    PROBED,
    RECORD,
    TEST,
    WEIGHTS,
    Frozen,
    StepKind,
)
from fairweather.runs import fingerprint
from fairweather.tasks import task_named
from fairweather.training import Recipe, recipe_facts
from fairweather.training.selfsupervised import Pretraining
from fairweather.types import CLASSIFICATION
from fairweather.variants import read_variant
from fairweather.variants.variant import Adapting

DATA = "data"  # the run's own data set; others are called `pretraining:NAME` and `ood:SOURCE`
NATURAL_DATA = "natural:"  # prefix of other images of the same classes
# To be raised when a step of this kind gives another result for the same inputs.
VERSIONS = {
    "pretrain": 1,
    "train": 1,
    "choose": 1,
    "fit": 1,
    "features": 1,
    "predict": 1,
    "group": 1,
    "score": 7,
    "sample": 3,
    "report": 11,
}
# Arguments of `load_data` that were added later, with their defaults.
LATER: dict[str, JsonValue] = {"allow_duplicates": False, "scale": None, "groups": None}
# With other versions of these, shifts may change the same images differently.
LIBRARIES: dict[str, JsonValue] = {
    "opencv": cv2.__version__,  # of whichever distribution is installed
    **{
        name: importlib.metadata.version(name)
        for name in ("numpy", "pillow", "torch", "torchvision")
    },
}

# ---------------------------------------------------------------- data and networks of steps


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class DataSource(LoadOptions):
    """A data set as a worker opens it.

    Attributes:
        labelled: False for another data set, whose labels are not classes of the models.
        digests: digest of each split, if known; the data are compared with these when opened.
    """

    source: str
    labelled: bool = True
    digests: dict[str, str] = field(default_factory=dict)

    def recorded(self) -> dict[str, JsonValue]:
        """The arguments of `load_data` for the record of a run.

        Those that were added later are left out at their default, so that a record stays the same.
        """
        left_out = {"digests", "labelled"}
        left_out |= {name for name in LATER if getattr(self, name) == LATER[name]}
        adapter = pydantic.TypeAdapter(DataSource)
        found: dict[str, JsonValue] = adapter.dump_python(self, mode="json", exclude=left_out)
        if self.groups is not None:
            given = self.groups if self.groups.natural else self.groups[:-1]
            found["groups"] = json.loads(json.dumps(given))
        return found


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ModelSource(ModelOptions):
    """A model from elsewhere as a worker opens it.

    Attributes:
        taken_for: the kind that its outputs are used as: `logits` or `probabilities`.
        size: size that images are resized and cropped to, if not that of the model's configuration.
        answers: number of its outputs.
        columns: for each class of the data, the indices of its outputs.
        digest: digest of the weights and all settings of the model.
    """

    source: str
    taken_for: str = "logits"
    size: int | None = None
    answers: int
    columns: tuple[tuple[int, ...], ...]
    digest: str


class ImagesReference(Frozen):
    """A split of a data set of the plan; the digest is None until its images are decoded."""

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


AnyNetwork = Trained | Interpolated | Together | OpenedNetwork
Network = Annotated[AnyNetwork, pydantic.Field(discriminator="kind")]


def network_files(network: AnyNetwork) -> list[str]:
    """The files of a run that a network is loaded from."""
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
    """The result of a step, besides its files.

    Attributes:
        note: a short text on the result.
        files: files that it wrote into a folder of `leaves`, where it chooses the names.
        share: share of its work that was done now; the rest was done before an interruption.
        halved_to: the batch size at which it went on after memory ran out; None if it did not.
    """

    note: str = ""
    files: Sequence[str] = ()
    share: float = 1.0
    halved_to: int | None = None


class Step(Frozen):
    """The attributes of every step; each kind of step adds its own.

    Attributes:
        id: its unique name, a relative path.
        task: its name in progress messages; steps of one task are counted together.
        needs: ids of the steps whose files it reads.
        reads: these files.
        leaves, may_leave: the files that it always writes, and those that it writes in some cases
            only; a name that ends with a slash is a folder, in which it chooses the names.
        threads: threads of torch while it runs.
        device: the type of the device that it needs: `cpu`, `cuda`, ...
        work: images times passes, to estimate its duration.
        memory: bytes of the 8-bit images that it reads, as far as known, without networks and
            batches.
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

    kind: StepKind
    tells_progress: ClassVar[bool] = False  # it sends events while it runs
    disposable: ClassVar[bool] = False  # quick to make again, and wrong once its needs change

    @property
    def label(self) -> str:
        """What it does; no other step of its plan has the same label."""
        return self.task

    @property
    def data(self) -> list[str]:
        """The names of the data sets of the plan whose images it reads."""
        values = [getattr(self, name) for name in type(self).model_fields]
        named = dict.fromkeys(v.data for v in values if isinstance(v, ImagesReference))
        # Images of another data set get the classes of the run's own.
        return list(dict.fromkeys([*([DATA] if named else []), *named]))

    def depends(self) -> dict[str, JsonValue]:
        """What it depends on besides the files that it reads; None for values not known yet."""
        # Through JSON, since it is compared with the record, which is JSON.
        plain: dict[str, JsonValue] = json.loads(
            json.dumps({"version": VERSIONS[self.kind], **self.inputs()})
        )
        return plain

    def inputs(self) -> Mapping[str, object]:
        """The part of `depends` that is special to each kind of step."""
        raise NotImplementedError

    @property
    def is_known(self) -> bool:
        """Whether `depends` is fully known: all images are decoded and weights downloaded."""
        values = [getattr(self, name) for name in type(self).model_fields]
        decoded = all(v.digest is not None for v in values if isinstance(v, ImagesReference))
        return decoded and getattr(self, "weights", "") is not None

    def machine(self) -> dict[str, JsonValue]:
        """The properties of the machine that can change its result."""
        return {"device": self.device, "threads": self.threads}


class TrainingStep(Step):
    """What all steps that train have in common: several processes may do them together.

    Attributes:
        processes: how many processes train the network, each with its part of every batch.
        sync_batchnorm: whether batch norm has the statistics of the whole batch, not of each
            process's part.
    """

    processes: int = 1
    sync_batchnorm: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether several processes are needed."""
        return self.processes > 1

    def machine(self) -> dict[str, JsonValue]:  # noqa: D102 - as its base says
        several: dict[str, JsonValue] = {}
        if self.processes > 1:
            several = {"processes": self.processes, "sync_batchnorm": self.sync_batchnorm}
        return {**super().machine(), **several}


class PretrainStep(TrainingStep):
    """Pre-train a backbone.

    Attributes:
        images: the images that it is trained on.
        train, val: the run's own images, for the k-NN accuracy of the features.
        spec: specification of the network, with its statistics as in `TrainStep`.
        weights: digest of the weights that it starts from; None until these are downloaded.
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


class TrainStep(TrainingStep):
    """Train a classifier, or copy the try of a sweep that was trained with the same seed.

    Attributes:
        train, val: the images.
        spec: specification of the network; without normalisation if `own_statistics`.
        own_statistics: normalise by the statistics of the training images.
        start: weights file of a pre-training of the run that it starts from, with its statistics.
        weights: digest of other weights that it starts from; None until these are downloaded.
        recipe: how it is trained; None if `choice` is given.
        choice: the file with the recipe that a sweep has chosen.
        tries: folders of the sweep's tries; the one with this recipe is copied.
        train_shifts: ids of the shifts of the training images.
        label_seed: random seed of the labels that are left out or wrong.
        may_diverge: if the training diverges, write a note instead of a model, since there are
            other tries.
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

    @property
    def is_shared(self) -> bool:  # noqa: D102 - as its base says
        return super().is_shared and not self.tries  # the files of a try are only copied

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        changes_labels = self.label_fraction < 1 or self.label_noise > 0
        # Keys of recipes and networks that were added later are here only if not at their default,
        # so that trainings that were finished before stay finished.
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
    """Choose among the tries of a sweep by validation; writes their table and the chosen recipe.

    Attributes:
        title: title of the model.
        values: the swept values of each try.
        folders: folders of the tries.
        metric: the metric to choose by.
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
    """Fit a variant on a model's predictions of validation images.

    Attributes:
        variant: its written form.
        validation: the file of these predictions.
        more: further such files, of the same images under other shifts.
        shifts: ids of the shifts of all these files, in their order.
        shift_seed: random seed of these shifts.
        network, val, batch_size, arithmetic: used to predict the logits again if they are not
            stored; there is no network if the predictions are given.
        groups: the file that says which validation images belong together, if that is known.
    """

    kind: Literal["fit"] = "fit"
    variant: str
    validation: str
    more: tuple[str, ...] = ()
    shifts: tuple[str, ...] = (CLEAN,)
    shift_seed: int = 0
    network: Network | None
    val: ImagesReference
    stored: bool
    batch_size: int
    arithmetic: Arithmetic = FP32
    groups: str | None = None

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        if self.stored:
            return {"variant": self.variant}
        shifted = {"shifts": self.shifts, "seed": self.shift_seed, "libraries": LIBRARIES}
        return {
            "data": self.val.digest,
            "network": self.network and _network_facts(self.network),
            "batch_size": self.batch_size,
            **_arithmetic_facts(self.arithmetic),
            **self.machine(),
            **({} if self.shifts == (CLEAN,) else shifted),
            "variant": self.variant,
        }


class FeaturesStep(Step):
    """Keep what the last layer of a network sees of known images, to tell others from them.

    Attributes:
        network: the network.
        images: the known images: those that it was trained on, or validation images.
        most: how many of them are drawn at most.
        seed: by which they are drawn.
    """

    kind: Literal["features"] = "features"
    tells_progress: ClassVar[bool] = True
    network: Network
    images: ImagesReference
    most: int = MOST_FEATURES
    seed: int
    batch_size: int
    arithmetic: Arithmetic = FP32

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        return {
            "data": self.images.digest,
            "network": _network_facts(self.network),
            "most": self.most,
            "seed": self.seed,
            "batch_size": self.batch_size,
            **_arithmetic_facts(self.arithmetic),
            **self.machine(),
        }


class Way(Frozen):
    """How predictions are made."""

    way: str

    @property
    def reads(self) -> list[str]:
        """The files that it reads."""
        return []

    def facts(self) -> dict[str, JsonValue]:
        """What the predictions depend on, besides these files."""
        return {"way": self.way}


class Forward(Way):
    """Predict with a network.

    Attributes:
        variant: the written form of the variant that adapts the network, or changes its logits.
        fitted: the file with what is fitted for the variant, if anything is.
    """

    way: Literal["forward"] = "forward"
    network: Network
    variant: str | None = None
    fitted: str | None = None

    @property
    def reads(self) -> list[str]:  # noqa: D102 - as its base says
        return [*network_files(self.network), *([self.fitted] if self.fitted else [])]

    @property
    def adapting(self) -> Adapting | None:
        """What adapts the network to the images."""
        return None if self.variant is None else read_variant(self.variant).adapting

    def facts(self) -> dict[str, JsonValue]:  # noqa: D102 - as its base says
        adapted: dict[str, JsonValue] = {"adapted": self.adapting.text} if self.adapting else {}
        return {**super().facts(), "network": _network_facts(self.network), **adapted}


class Applied(Way):
    """Change stored predictions by what is fitted for a variant; keep them if nothing is."""

    way: Literal["applied"] = "applied"
    of: str
    variant: str
    fitted: str | None

    @property
    def reads(self) -> list[str]:  # noqa: D102 - as its base says
        return [self.of, *([self.fitted] if self.fitted else [])]

    def facts(self) -> dict[str, JsonValue]:  # noqa: D102 - as its base says
        return {**super().facts(), "variant": self.variant}


class Averaged(Way):
    """Average the probabilities of stored logits."""

    way: Literal["averaged"] = "averaged"
    members: tuple[str, ...]

    @property
    def reads(self) -> list[str]:  # noqa: D102 - as its base says
        return list(self.members)


class Given(Way):
    """Take predictions that were made elsewhere, known by the digest of their content."""

    way: Literal["given"] = "given"
    digest: str

    def facts(self) -> dict[str, JsonValue]:  # noqa: D102 - as its base says
        return {**super().facts(), "given": self.digest}


AnyWay = Forward | Applied | Averaged | Given


class PredictStep(Step):
    """Predict one split of the data under one shift or attack.

    Attributes:
        model, seed: the model that predicts; a variant counts as a model.
        images: which images.
        shift: id of the shift or attack.
        labelled: False for another data set: only predicted classes and confidences are kept.
        arithmetic: how the network is computed.
        how: the way to predict, with the network, the stored logits, or what is given.
        ood_scores: compute the scores of `OOD_SCORES` too.
        known: the file with features of known images, for the k-NN distance among these.
    """

    kind: Literal["predict"] = "predict"
    model: str
    seed: int | str
    images: ImagesReference
    shift: str
    shift_seed: int
    labelled: bool = True
    batch_size: int
    arithmetic: Arithmetic = FP32
    how: Annotated[AnyWay, pydantic.Field(discriminator="way")]
    ood_scores: bool = False
    known: str | None = None

    @property
    def label(self) -> str:  # noqa: D102 - as its base says
        cell = self.id.removeprefix(f"predictions/{self.model}/seed-{self.seed}/")
        return f"{self.task}, {cell}"

    @property
    def is_whole(self) -> bool:
        """Whether a batch depends on those before it, so that one worker must predict them all."""
        adapting = self.how.adapting if isinstance(self.how, Forward) else None
        return adapting is not None and adapting.begins_anew == "cell"

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        # Only where they are asked for, so that other predictions stay finished.
        scores = {"ood_scores": [*OOD_SCORES, NEIGHBOURS]} if self.ood_scores else {}
        if isinstance(self.how, Given):
            return {"data": self.images.digest, **self.how.facts()}
        if not isinstance(self.how, Forward):
            return {**self.how.facts(), **scores}
        return {
            "data": self.images.digest,
            **self.how.facts(),
            "shift": self.shift,
            "seed": self.shift_seed,
            "batch_size": self.batch_size,
            **_arithmetic_facts(self.arithmetic),
            **({} if self.shift == "clean" else {"libraries": LIBRARIES}),
            **self.machine(),
            **scores,
        }


class GroupStep(Step):
    """Write which images belong together, such as those of a patient, and their subgroups.

    Attributes:
        images: the splits, each with a file of `leaves`.
        digests: of the clusters and subgroups of each; None until the data are loaded.
    """

    kind: Literal["group"] = "group"
    disposable: ClassVar[bool] = True
    images: tuple[ImagesReference, ...]
    digests: tuple[str | None, ...]

    @property
    def data(self) -> list[str]:  # noqa: D102 - as its base says
        return [DATA]

    @property
    def is_known(self) -> bool:  # noqa: D102 - as its base says
        return None not in self.digests

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        return {"digests": list(self.digests), "images": [each.digest for each in self.images]}


class Row(Frozen):
    """A model or variant with a seed, and the shifts and attacks that it was predicted under.

    Attributes:
        fitted_on: the shifts of the validation images that its thresholds are fitted on.
        adapts: whether its network adapts to the images.
    """

    model: str
    seed: int | str
    shifts: tuple[str, ...]
    fitted_on: tuple[str, ...] = (CLEAN,)
    adapts: bool = False


class ScoreStep(Step):
    """Compute scores.csv from the predictions, without any model.

    Attributes:
        rows: models, variants and shifts to score, in the order of the table.
        titles: titles of the models, by name.
        validation: whether there are predictions of clean validation images, to fit thresholds on.
        natural_shift: whether these are scored too, since the test images have a different origin.
        ordered: whether the classes are in an order.
        task_name: what is told of each image.
        others: other data sets that confidence should separate from the test images.
        natural: other images of the same classes, which are scored by themselves.
        priors: class probabilities in label order, by name.
        operating_points: the probability from which on a class is called, by class.
        in_units_of_alexnet: whether the images are those of the published mCE.
        slices: subgroups of the test images that are scored alone, by the name of the column.
        sets: files with what prediction sets are made with, by the file of the predictions of clean
            validation images that have these sets.
    """

    kind: Literal["score"] = "score"
    tells_progress: ClassVar[bool] = True
    disposable: ClassVar[bool] = True
    rows: tuple[Row, ...]
    titles: dict[str, str]
    validation: bool
    natural_shift: bool
    ordered: bool = False
    task_name: str = CLASSIFICATION
    others: tuple[str, ...] = ()
    natural: tuple[str, ...] = ()
    priors: dict[str, tuple[float, ...]] = pydantic.Field(default_factory=dict)
    bootstrap: int
    operating_points: dict[str, float] = pydantic.Field(default_factory=dict)
    in_units_of_alexnet: bool = False
    slices: tuple[str, ...] = ()
    sets: dict[str, str] = pydantic.Field(default_factory=dict)

    def inputs(self) -> Mapping[str, object]:  # noqa: D102 - as its base says
        # Those of prediction sets only where there are some, so that other scores stay finished.
        kinds = task_named(self.task_name).kinds
        every = (*METRICS.values(), *CLASS_METRICS.values())
        rows = [row for row in every if row.accepts.kind in kinds]
        return {
            "metrics": [row.name for row in rows if self.sets or not row.accepts.sets],
            "rows": [row.model_dump(mode="json", exclude_defaults=True) for row in self.rows],
            "titles": dict(self.titles),
            "bootstrap": self.bootstrap,
            "natural_shift": self.natural_shift,
            "ordered": self.ordered,
            "others": list(self.others),
            "priors": {name: list(values) for name, values in self.priors.items()},
            "operating_points": dict(self.operating_points),
            "in_units_of_alexnet": self.in_units_of_alexnet,
            # Only where there are some, so that the scores of other runs stay finished.
            **({} if self.task_name == CLASSIFICATION else {"task": self.task_name}),
            **({"natural": list(self.natural)} if self.natural else {}),
            **({"slices": list(self.slices)} if self.slices else {}),
        }


class SampleStep(Step):
    """Store the pictures of the report, so that the report never needs the data.

    Attributes:
        models: model and seed whose mistakes are shown, by the name in the report.
        shifts: ids, clean first, without attacks, since their images depend on the model.
        mixup: also store an example of MixUp from the training images.
        attacks: ids of the attacks whose images are shown too.
        networks: the networks that are attacked, by the name in the report.
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
    | FeaturesStep
    | PredictStep
    | GroupStep
    | ScoreStep
    | SampleStep
    | ReportStep,
    pydantic.Field(discriminator="kind"),
]


class Plan(Frozen):
    """All steps of a run, each after those that it needs, and their data sets and models.

    Attributes:
        data: the data sets, by their names in the steps.
        models: the models from elsewhere; steps know them by their digests.
        steps: all steps of the run, in order.
    """

    data: dict[str, DataSource]
    models: tuple[ModelSource, ...] = ()
    steps: tuple[AnyStep, ...]

    def step(self, step: str) -> Step:
        """The step with this id; raises `KeyError` if there is none."""
        for each in self.steps:
            if each.id == step:
                return each
        raise KeyError(step)

    def needed_for(self, step: str) -> set[str]:
        """The ids of a step and of all steps that it needs, directly or not."""
        wanted = {step}
        for each in reversed(self.steps):
            if each.id in wanted:
                wanted.update(each.needs)
        return wanted

    def beginning_with(self, steps: Iterable[str]) -> Plan:
        """The same plan with these steps, and all that they need, before the others."""
        first = set[str]().union(*map(self.needed_for, steps))
        ordered = sorted(self.steps, key=lambda step: step.id not in first)
        return self.model_copy(update={"steps": tuple(ordered)})


def in_order(
    data: Mapping[str, DataSource], models: Sequence[ModelSource], steps: Sequence[Step]
) -> Plan:
    """Make a plan of steps in order; `needs` of each follows from the files that it reads.

    Raises `ValueError` if two steps have the same id or write the same file, and if no earlier step
    writes a file that is read: these are mistakes in the code that plans.
    """
    makers: dict[str, str] = {}
    linked = []
    for step in steps:
        try:
            # In the order of the files, each once.
            needs = tuple(dict.fromkeys(makers[file] for file in step.reads if file != RECORD))
        except KeyError as error:
            raise ValueError(f"no step before {step.id} writes {error.args[0]}") from None
        linked.append(step.model_copy(update={"needs": needs}))
        for file in (*step.leaves, *step.may_leave):
            if file in makers:
                raise ValueError(f"{makers[file]} and {step.id} both write {file}")
            makers[file] = step.id
    twice = [name for name, count in Counter(step.id for step in steps).items() if count > 1]
    if twice:
        raise ValueError(f"two steps have the id {twice[0]}")
    return Plan.model_construct(data=dict(data), models=tuple(models), steps=tuple(linked))


def fingerprint_of(step: Step, checksums: Mapping[str, str]) -> str:
    """Make the fingerprint of a step: of its kind, of `depends`, and of the files that it reads.

    Args:
        step: a step whose digests are all known.
        checksums: SHA-256 of the files that it reads, by name; files that were not written are
            left out.
    """
    files = {name: checksums[name] for name in step.reads if name in checksums}
    return fingerprint({"kind": step.kind, "depends": step.depends(), "files": files})


def training_files(folder: str, *, probed: bool) -> list[str]:
    """The files that a training writes into its folder."""
    names = [WEIGHTS, DESCRIPTION, HISTORY, *([PROBED] if probed else [])]
    return [f"{folder}/{name}" for name in names]


def pretraining_files(folder: str, recipe: Pretraining) -> list[str]:
    """The files that a pre-training writes into its folder."""
    names = [WEIGHTS, DESCRIPTION, HISTORY]
    names += [CORRELATION] if recipe.method == "barlow_twins" else []
    return [f"{folder}/{name}" for name in names]


def _network_facts(network: AnyNetwork) -> JsonValue:
    """The facts of a network besides its files; those tell the members of an ensemble."""
    return "together" if isinstance(network, Together) else _plain(network)


def _arithmetic_facts(arithmetic: Arithmetic) -> dict[str, JsonValue]:
    """The facts of the arithmetic; cuDNN's choice only if asked for, since it was added later."""
    chosen: dict[str, JsonValue] = {"cudnn_benchmark": True} if arithmetic.cudnn_benchmark else {}
    return {"precision": arithmetic.precision, **chosen}


def _plain(value: object) -> JsonValue:
    """A typed value as plain JSON values."""
    plain: JsonValue = pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")
    return plain

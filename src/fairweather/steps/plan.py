"""A plan: all steps of a run, as plain data.

A step says which steps it needs, what it depends on, which files it writes, and which resources it
needs. It contains no closure, so that it can be written as JSON and run in another process. It
reads only `record.json` and the files and records of the steps that it needs; its folder may
contain nothing else. It records nothing: the executor of the plan does this.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, NamedTuple

import cv2
import pydantic
import pydantic.dataclasses
from pydantic import JsonValue

from fairweather.devices import FP32, Arithmetic
from fairweather.metrics import METRICS
from fairweather.metrics.detection import MOST_FEATURES, NEIGHBOURS, OOD_SCORES
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.table import is_expected
from fairweather.models.building import ModelSpec
from fairweather.runs.fingerprints import (
    DEFAULTS_VERSION,
    Effect,
    Inline,
    NoEffect,
    effective_facts,
)
from fairweather.runs.folder import fingerprint
from fairweather.tasks import find_task
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.types.measurement import CLASSIFICATION
from fairweather.types.options import Aggregation, LoadOptions, ModelOptions
from fairweather.types.record import (
    CLEAN,
    CORRELATION,
    DESCRIPTION,
    HISTORY,
    PROBED,
    RECORD,
    TEST,
    WEIGHTS,
    FrozenRecord,
    StepKind,
    StoredPoints,
    predictions_file,
)
from fairweather.variants.variant import Adapting, read_variant

DATA = "data"  # the run's own data set; others are called `pretraining:NAME` and `ood:SOURCE`
NATURAL_DATA = "natural:"  # prefix of other images of the same classes
# Raise a version when a step of this kind gives another result for the same inputs.
VERSIONS = {
    "pretrain": 2,
    "train": 2,
    "choose": 1,
    "fit": 2,
    "features": 2,
    "predict": 2,
    "group": 1,
    "read": 1,
    "score": 13,
    "sample": 3,
    "report": 23,
}
# Raise this in place of `predict` if only the predictions of streams that mix cells change.
MIXED_VERSION = 2
# Fields that change results only if a step uses a network.
MACHINE_FIELDS = ("device", "threads")
# With other versions of these, shifts may change the same images differently.
LIBRARY_VERSIONS: dict[str, JsonValue] = {
    "opencv": cv2.__version__,  # of any installed distribution
    **{
        name: importlib.metadata.version(name)
        for name in ("numpy", "pillow", "torch", "torchvision")
    },
}
# Raise the version of a shift, from 1, if it changes the same images differently than before.
SHIFT_VERSIONS: Mapping[str, int] = {
    "imagenet_c/defocus_blur": 3,
    "imagenet_c/gaussian_blur": 2,
    "imagenet_c/glass_blur": 2,
    "imagenet_c/saturate": 2,
    "imagenet_c/zoom_blur": 2,
    "medmnist_c/defocus_blur": 2,
    "medmnist_c/gaussian_blur": 2,
    "medmnist_c/saturate": 2,
    "medmnist_c/zoom_blur": 2,
}


def _shifted_with(shifts: Iterable[str]) -> dict[str, JsonValue]:
    """What the shifted images depend on besides the ids of the shifts and the seed."""
    names = {shift.partition(",")[0] for shift in shifts}
    versions: dict[str, JsonValue] = {
        name: version for name, version in SHIFT_VERSIONS.items() if name in names
    }
    return {"libraries": LIBRARY_VERSIONS, **({"shift_versions": versions} if versions else {})}


def _adapted_with(variant: str) -> dict[str, JsonValue]:
    """The version of the method that adapts a network for a variant, from the second on."""
    adapting = read_variant(variant).adapting
    return {} if adapting is None or adapting.version == 1 else {"method_version": adapting.version}


# ---------------------------------------------------------------- data and networks of steps


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class PlannedDataset(LoadOptions):
    """A data set as a worker opens it."""

    source: str
    labelled: NoEffect[bool] = True
    """False for another data set, whose labels are not classes of the models."""

    digests: NoEffect[dict[str, str]] = field(default_factory=dict)
    """Digest of each split, if known; the data are compared with these when opened."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class PlannedModel(ModelOptions):
    """A model from elsewhere as a worker opens it."""

    source: str
    taken_for: str = "logits"
    """The kind that its outputs are used as: `logits` or `probabilities`."""

    size: int | None = None
    """Size that images are resized and cropped to, if not that of the model's configuration."""

    answers: int
    """Number of its outputs."""

    columns: tuple[tuple[int, ...], ...]
    """For each class of the data, the indices of its outputs."""

    positive: tuple[tuple[int, ...], ...] = ()
    """For each finding that is made of these classes, its positive ones; empty if none is."""

    digest: str
    """Digest of the weights and all settings of the model."""

    task_name: str = CLASSIFICATION
    """What it predicts."""


class ImagesReference(FrozenRecord):
    """A split of a data set of the plan; the digest is None until its images are decoded."""

    data: str = DATA
    part: str = TEST
    digest: str | None = None

    @property
    def fact(self) -> str | None:
        """The part that matters: the images themselves."""
        return self.digest


class TrainedNetwork(FrozenRecord):
    """A network that the run trained: a folder with its weights and description."""

    kind: Literal["trained"] = "trained"
    folder: str


class InterpolatedNetwork(FrozenRecord):
    """A network between its probed and its fine-tuned weights, `share` of the way."""

    kind: Literal["interpolated"] = "interpolated"
    folder: str
    share: float


class EnsembleNetwork(FrozenRecord):
    """Several networks whose probabilities are averaged."""

    kind: Literal["together"] = "together"
    members: tuple[TrainedNetwork | InterpolatedNetwork, ...]

    @property
    def fact(self) -> object:
        """Its kind, and how far each member is interpolated; its files show the rest."""
        shares = [getattr(member, "share", 1.0) for member in self.members]
        return self.kind if set(shares) <= {1.0} else (self.kind, shares)


class OpenedNetwork(FrozenRecord):
    """The model from elsewhere that the plan names, known by its digest."""

    kind: Literal["opened"] = "opened"
    digest: str


AnyNetwork = TrainedNetwork | InterpolatedNetwork | EnsembleNetwork | OpenedNetwork
Network = Annotated[AnyNetwork, pydantic.Field(discriminator="kind")]


def network_files(network: AnyNetwork) -> list[str]:
    """The files of a run that a network is loaded from."""
    match network:
        case TrainedNetwork(folder=folder):
            return [f"{folder}/{WEIGHTS}", f"{folder}/{DESCRIPTION}"]
        case InterpolatedNetwork(folder=folder):
            return [f"{folder}/{name}" for name in (WEIGHTS, DESCRIPTION, PROBED)]
        case EnsembleNetwork(members=members):
            return [file for member in members for file in network_files(member)]
        case OpenedNetwork():
            return []


# ---------------------------------------------------------------- steps


class StepResult(NamedTuple):
    """The result of a step, besides its files."""

    note: str = ""
    """A short text about the result."""

    files: Sequence[str] = ()
    """Files that it wrote into a folder of `leaves`, where it chooses the names."""

    share: float = 1.0
    """Share of its work that was done now; the rest was done before an interruption."""

    network_seconds: float | None = None
    """How long its network alone took; None if it has none."""

    adapts: str | None = None
    """What adapting changes of its network; None if it stays as it is."""

    halved_to: int | None = None
    """The batch size at which it went on after memory ran out; None if it did not."""


class Step(FrozenRecord):
    """The attributes of every step; each kind of step adds its own."""

    id: NoEffect[str]
    """Its unique name, a relative path."""

    task: NoEffect[str]
    """Its name in progress messages; steps of one task are counted together."""

    needs: NoEffect[tuple[str, ...]] = ()
    """Ids of the steps whose files it reads."""

    reads: NoEffect[tuple[str, ...]] = ()
    """These files."""

    leaves: NoEffect[tuple[str, ...]]
    may_leave: NoEffect[tuple[str, ...]] = ()
    """`leaves`, `may_leave`: the files that it always writes, and those that it writes only in some
    cases. A name that ends with a slash is a folder, in which it chooses the names."""

    threads: int = 1
    """Threads of torch while it runs."""

    device: str = "cpu"
    """The type of the device that it needs: `cpu`, `cuda`, ..."""

    work: NoEffect[int] = 0
    """Images times passes, to estimate its duration."""

    memory: NoEffect[int] = 0
    """Bytes of the 8-bit images that it reads, as far as known, without networks and batches."""

    kind: StepKind
    tells_progress: ClassVar[bool] = False  # it sends events while it runs
    disposable: ClassVar[bool] = False  # quick to make again, and wrong when its inputs change

    @property
    def is_shared(self) -> bool:
        """Whether several ranks do it together."""
        return False

    @property
    def label(self) -> str:
        """What it does; no other step of its plan has the same label."""
        return self.task

    @property
    def references(self) -> list[ImagesReference]:
        """The splits whose images it reads."""
        values = [getattr(self, name) for name in type(self).model_fields]
        tuples = [v if isinstance(v, tuple) else (v,) for v in values]
        return [v for several in tuples for v in several if isinstance(v, ImagesReference)]

    @property
    def data(self) -> list[str]:
        """The names of the data sets of the plan whose images it reads."""
        named = [reference.data for reference in self.references]
        # Images of another data set get the classes of the run's own.
        return list(dict.fromkeys([*([DATA] if named else []), *named]))

    def depends(self) -> dict[str, JsonValue]:
        """What it depends on besides the files that it reads; None for values not known yet."""
        changed: dict[str, JsonValue] = (
            {"defaults": DEFAULTS_VERSION} if DEFAULTS_VERSION > 1 else {}
        )
        return {"version": VERSIONS[self.kind], **changed, **self.inputs()}

    def inputs(self) -> dict[str, JsonValue]:
        """The part of `depends` that is special to each kind of step."""
        # The fingerprint itself has the kind.
        return {**effective_facts(self, ["kind", *self.idle()]), **self.made_with()}

    def idle(self) -> Collection[str]:
        """The fields that have no effect given the others."""
        return MACHINE_FIELDS

    def made_with(self) -> dict[str, JsonValue]:
        """What else its result depends on: metrics, and versions of libraries."""
        return {}

    @property
    def is_known(self) -> bool:
        """Whether `depends` is fully known: all images are decoded and weights downloaded."""
        decoded = all(reference.digest is not None for reference in self.references)
        paired = None not in getattr(self, "published", {}).values()
        return decoded and paired and getattr(self, "weights", "") is not None


class TrainingStep(Step):
    """The base of steps that train, which several processes may do together."""

    processes: int = 1
    """How many processes train the network, each with its part of every batch."""

    sync_batchnorm: bool = False
    """Whether batch norm has the statistics of the whole batch, not of each process's part."""

    @property
    def is_shared(self) -> bool:
        return self.processes > 1

    def idle(self) -> Collection[str]:
        return ("processes", "sync_batchnorm") if self.processes == 1 else ()


class PretrainStep(TrainingStep):
    """Pre-train a backbone."""

    kind: Literal["pretrain"] = "pretrain"
    tells_progress: ClassVar[bool] = True
    folder: NoEffect[str]
    title: NoEffect[str]
    seed: int
    images: ImagesReference
    """The images that it is trained on."""

    probe: tuple[ImagesReference, ImagesReference]
    """The run's own training and validation images, for the k-NN accuracy of the features."""

    spec: ModelSpec
    """Specification of the network, with its statistics as in `TrainStep`."""

    own_statistics: bool
    weights: str | None
    """Digest of the weights that it starts from; None until these are downloaded."""

    recipe: Pretraining
    precision: str


class TrainStep(TrainingStep):
    """Train a classifier, or copy the try of a sweep that was trained with the same seed."""

    kind: Literal["train"] = "train"
    tells_progress: ClassVar[bool] = True
    folder: NoEffect[str]
    seed: int
    train: ImagesReference
    val: ImagesReference
    """`train`, `val`: the images."""

    spec: ModelSpec
    """Specification of the network; without normalisation if `own_statistics`."""

    own_statistics: bool
    """Normalise by the statistics of the training images."""

    start: NoEffect[str | None] = None
    """Weights file of a pre-training of the run that it starts from, with its statistics."""

    weights: str | None
    """Digest of other weights that it starts from; None until these are downloaded."""

    recipe: Recipe | None
    """How it is trained; None if `choice` is given."""

    choice: NoEffect[str | None] = None
    """The file with the recipe that a sweep has chosen."""

    tries: NoEffect[tuple[str, ...]] = ()
    """Folders of the sweep's tries; the one with this recipe is copied."""

    train_shifts: tuple[str, ...] = ()
    """Ids of the shifts of the training images."""

    label_fraction: float = 1.0
    label_noise: float = 0.0
    label_seed: int | None = None
    """Random seed of the labels that are left out or wrong; None if none are."""

    precision: str
    may_diverge: NoEffect[bool] = False
    """If the training diverges, write a note instead of a model, since there are other tries."""

    @property
    def is_shared(self) -> bool:
        return super().is_shared and not self.tries  # the files of a try are only copied


class ChooseStep(Step):
    """Choose among the tries of a sweep by validation; writes their table and the chosen recipe."""

    kind: Literal["choose"] = "choose"
    disposable: ClassVar[bool] = True
    title: NoEffect[str]
    """Title of the model."""

    values: tuple[dict[str, JsonValue], ...]
    """The swept values of each try."""

    folders: NoEffect[tuple[str, ...]]
    """Folders of the tries."""

    metric: Literal["accuracy", "nll"]
    """The metric to choose by."""


class FitStep(Step):
    """Fit a variant on a model's predictions of validation images."""

    kind: Literal["fit"] = "fit"
    variant: str
    """Its written form."""

    task_name: str = CLASSIFICATION
    """What is told of each image."""

    validation: NoEffect[str]
    """The file of these predictions."""

    more: NoEffect[tuple[str, ...]] = ()
    """Further such files, of the same images under other shifts."""

    shifts: tuple[str, ...] = (CLEAN,)
    """Ids of the shifts of all these files, in their order."""

    published: dict[str, str | None] = pydantic.Field(default_factory=dict)
    """The digest of the published files of those shifts that are read from files."""

    shift_seed: Annotated[int, Effect("seed")] = 0
    """Random seed of these shifts, and of the images that a method of adaptation learns from."""

    network: Network | None
    val: Annotated[ImagesReference, Effect("data")]
    stored: bool
    batch_size: int
    arithmetic: Inline[Arithmetic] = FP32
    """`network`, `val`, `batch_size`, `arithmetic`: used to predict the logits again if they are
    not stored; there is no network if the predictions are given."""

    source: ImagesReference | None = None
    """As in `PredictStep`."""

    stream_seed: int = 0
    """As in `ForwardPass`: an adapting network sees the images in the same order again."""

    groups: NoEffect[str | None] = None
    """The file that says which validation images belong together, if that is known."""

    aggregation: Aggregation | None = None
    """What is judged in place of images; the fit is of its rows."""

    def idle(self) -> Collection[str]:
        if self.stored:
            of_networks = ("network", "val", "batch_size", "arithmetic", *MACHINE_FIELDS)
            of_streams = ("source", "stream_seed")
            return ("stored", "shifts", "shift_seed", "published", *of_networks, *of_streams)
        draws = self.shifts != (CLEAN,) or self.source is not None
        return ("stored", *(() if draws else ("shift_seed",)))

    def made_with(self) -> dict[str, JsonValue]:
        if self.stored:
            return {}
        shifted = {} if self.shifts == (CLEAN,) else _shifted_with(self.shifts)
        return shifted | _adapted_with(self.variant)


class FeaturesStep(Step):
    """Keep features of known images, the inputs of a network's last layer, to compare others with
    them.
    """

    kind: Literal["features"] = "features"
    tells_progress: ClassVar[bool] = True
    network: Network
    """The network."""

    images: Annotated[ImagesReference, Effect("data")]
    """The known images: those that it was trained on, or validation images."""

    most: int = MOST_FEATURES
    """The largest number of them that is drawn."""

    seed: int
    """The seed of the draw."""

    batch_size: int
    arithmetic: Inline[Arithmetic] = FP32

    def idle(self) -> Collection[str]:
        return ()


class PredictionWay(FrozenRecord):
    """How predictions are made."""

    way: str

    @property
    def reads(self) -> list[str]:
        """The files that it reads."""
        return []


class ForwardPass(PredictionWay):
    """Predict with a network."""

    way: Literal["forward"] = "forward"
    network: Network
    variant: str | None = None
    """The written form of the variant that adapts the network, or changes its logits."""

    fitted: NoEffect[str | None] = None
    """The file with what is fitted for the variant, if anything is."""

    stream_seed: int = 0
    """The number of the model's seed, so that no two seeds see their streams in the same orders; 0
    for a network that does not adapt."""

    @property
    def reads(self) -> list[str]:
        return [*network_files(self.network), *([self.fitted] if self.fitted else [])]

    @property
    def adapting(self) -> Adapting | None:
        """What adapts the network to the images."""
        return None if self.variant is None else read_variant(self.variant).adapting


class AppliedVariant(PredictionWay):
    """Change stored predictions by the fit of a variant, if it has one."""

    way: Literal["applied"] = "applied"
    of: NoEffect[str]
    variant: str
    fitted: NoEffect[str | None]
    aggregation: Aggregation | None = None
    """What is judged in place of images; its rows are changed and stored."""

    rows_from: NoEffect[tuple[str, ...]] = ()
    """The files that these rows are made from, besides the predictions of images."""

    @property
    def reads(self) -> list[str]:
        return [self.of, *([self.fitted] if self.fitted else []), *self.rows_from]


class EnsembleAverage(PredictionWay):
    """Average the probabilities of stored logits."""

    way: Literal["averaged"] = "averaged"
    members: NoEffect[tuple[str, ...]]

    @property
    def reads(self) -> list[str]:
        return list(self.members)


class GivenPredictions(PredictionWay):
    """Take predictions that were made elsewhere, known by the digest of their content."""

    way: Literal["given"] = "given"
    digest: Annotated[str, Effect("given")]


AnyPredictionWay = ForwardPass | AppliedVariant | EnsembleAverage | GivenPredictions


class PredictStep(Step):
    """Predict one split of the data under one shift or attack."""

    kind: Literal["predict"] = "predict"
    model: NoEffect[str]
    seed: NoEffect[int | str]
    """`model`, `seed`: the model that predicts; a variant counts as a model."""

    images: Annotated[ImagesReference, Effect("data")]
    """Which images."""

    task_name: str = CLASSIFICATION
    """What is told of each of them."""

    shift: str
    """Id of the shift or attack."""

    published: dict[str, str | None] = pydantic.Field(default_factory=dict)
    """The digest of its published files, if it is read from files; None until it is known."""

    shift_seed: Annotated[int, Effect("seed")]
    labelled: bool = True
    """False for another data set: only predicted classes and confidences are kept."""

    batch_size: int
    arithmetic: Inline[Arithmetic] = FP32
    """How the network is computed."""

    how: Annotated[AnyPredictionWay, pydantic.Field(discriminator="way"), Effect("")]
    """How to predict: with a network, stored logits, or given predictions."""

    ood_scores: bool = False
    """Compute the scores of `OOD_SCORES` too."""

    known: NoEffect[str | None] = None
    """The file with features of known images, for the k-NN distance among these."""

    source: ImagesReference | None = None
    """The clean images that a method of adaptation learns from, if it does."""

    mixed: tuple[str, ...] = ()
    """Ids of the other shifts whose images are mixed with these in each stream of a network that
    adapts. The files of these cells follow that of the first."""

    goes_on: NoEffect[str | None] = None
    """The file with what a network that adapts has changed in the cell before, if it goes on from
    there."""

    hands_over: NoEffect[str | None] = None
    """The file of `leaves` with what it has changed until the end, for the next cell."""

    @property
    def is_afterwards(self) -> bool:
        """Whether it sees the test images as they are, after a network has adapted to shifts."""
        return self.goes_on is not None and self.shift == CLEAN

    @property
    def label(self) -> str:
        cell = self.id.removeprefix(f"predictions/{self.model}/seed-{self.seed}/")
        return f"{self.task}, {name_first([cell, *self.mixed])}"

    def idle(self) -> Collection[str]:
        if isinstance(self.how, ForwardPass):
            return ()
        unseen = () if isinstance(self.how, GivenPredictions) else ("images",)
        cell = ("shift", "published", "shift_seed", "batch_size", "arithmetic")
        return (*MACHINE_FIELDS, *cell, *unseen)

    def made_with(self) -> dict[str, JsonValue]:
        facts: dict[str, JsonValue] = {}
        if self.ood_scores:
            facts["ood_scores"] = [*OOD_SCORES, NEIGHBOURS]
        if (self.mixed or self.shift != CLEAN) and isinstance(self.how, ForwardPass):
            facts |= _shifted_with((self.shift, *self.mixed))
        if self.mixed:
            facts["mixed_version"] = MIXED_VERSION
        if isinstance(self.how, ForwardPass) and self.how.variant is not None:
            facts |= _adapted_with(self.how.variant)
        return facts


class GroupStep(Step):
    """Write which images belong together, such as those of a patient, and their subgroups."""

    kind: Literal["group"] = "group"
    disposable: ClassVar[bool] = True
    images: tuple[ImagesReference, ...]
    """The splits, each with a file of `leaves`."""

    digests: tuple[str | None, ...]
    """Of the groups and subgroups of each; None until the data are loaded."""

    @property
    def is_known(self) -> bool:
        return None not in self.digests


class ReadStep(Step):
    """Write what people call each test image."""

    kind: Literal["read"] = "read"
    disposable: ClassVar[bool] = True
    content: NoEffect[str]
    """The file in base64, so that another process needs no table."""

    digest: str
    """Of the calls."""


class ScoredModel(FrozenRecord):
    """A model or variant with a seed, and the shifts and attacks that it was predicted under."""

    model: str
    seed: int | str
    shifts: tuple[str, ...]
    afterwards: tuple[str, ...] = ()
    """The cells `clean_after/...` of a network that goes from one cell to the next."""

    fitted_on: tuple[str, ...] = (CLEAN,)
    """The shifts of the validation images that its thresholds are fitted on."""

    adapts: bool = False
    """Whether its network adapts to the images."""

    def file(self, shift: str, part: str = TEST) -> str:
        """The file with its predictions of a split, or of another data set, under a shift."""
        return predictions_file(self.model, self.seed, shift, part)


class ScoreStep(Step):
    """Compute scores.csv from the predictions, without any model."""

    kind: Literal["score"] = "score"
    tells_progress: ClassVar[bool] = True
    disposable: ClassVar[bool] = True
    rows: tuple[ScoredModel, ...]
    """Models, variants and shifts to score, in the order of the table."""

    titles: dict[str, str]
    """Titles of the models, by name."""

    validation: NoEffect[bool]
    """Whether there are predictions of clean validation images, to fit thresholds on."""

    natural_shift: bool
    """Whether these are scored too, since the test images have a different origin."""

    ordered: bool = False
    """Whether the classes are in an order."""

    task_name: str = CLASSIFICATION
    """What is told of each image."""

    others: tuple[str, ...] = ()
    """Other data sets that confidence should separate from the test images."""

    natural: tuple[str, ...] = ()
    """Other images of the same classes, which are scored by themselves."""

    priors: dict[str, tuple[float, ...]] = pydantic.Field(default_factory=dict)
    """Class probabilities in label order, by name."""

    bootstrap: int
    operating_points: StoredPoints = pydantic.Field(default_factory=dict)
    """The operating points of each class or finding."""

    costs: dict[str, tuple[float, ...]] = pydantic.Field(default_factory=dict)
    """What decisions cost, by class or finding; see `RunSettings.costs`."""

    in_units_of_alexnet: bool = False
    """Whether the images are those of the published mCE."""

    slices: tuple[str, ...] = ()
    """Subgroups of the test images that are scored alone, by the name of the column."""

    sites: tuple[str, ...] = ()
    """Those of these columns whose values are a sample, so that an unseen one is predicted."""

    aggregation: Aggregation | None = None
    """What is judged in place of images."""

    sets: NoEffect[dict[str, str]] = pydantic.Field(default_factory=dict)
    """Files with the fits of prediction sets, by the file with the predictions of clean validation
    images."""

    def made_with(self) -> dict[str, JsonValue]:
        # Metrics of prediction sets, of costs and of grades count only if there are some, so that
        # other scores stay finished.
        kinds = set(find_task(self.task_name).kinds)
        metrics = (*METRICS.values(), *CLASS_METRICS.values())
        rows = [row for row in metrics if kinds.intersection(row.accepts.kinds)]
        given = {"sets": bool(self.sets), "costs": bool(self.costs), "ordered": self.ordered}
        return {"metrics": [row.name for row in rows if is_expected(row, **given)]}


class SampleStep(Step):
    """Store the pictures of the report, so that the report never needs the data."""

    kind: Literal["sample"] = "sample"
    disposable: ClassVar[bool] = True
    images: Annotated[ImagesReference, Effect("data")]
    train: ImagesReference | None
    models: dict[str, tuple[str, int | str]]
    """Model and seed whose mistakes are shown, by the name in the report."""

    shifts: tuple[str, ...]
    """Ids, clean first, without attacks, since their images depend on the model."""

    published: dict[str, str | None] = pydantic.Field(default_factory=dict)
    """The digest of the published files of those shifts that are read from files."""

    shift_seed: Annotated[int, Effect("seed")]
    aggregation: Aggregation | None = None
    """What is judged in place of images; one image of each is shown."""

    mixup: bool
    """Also store an example of MixUp from the training images."""

    attacks: tuple[str, ...] = ()
    """Ids of the attacks whose images are shown too."""

    networks: dict[str, Network] = pydantic.Field(default_factory=dict)
    """The networks that are attacked, by the name in the report."""

    def idle(self) -> Collection[str]:
        return () if self.attacks else MACHINE_FIELDS

    def made_with(self) -> dict[str, JsonValue]:
        return _shifted_with(self.shifts)


class ReportStep(Step):
    """Build tables, figures and page from the scores, the predictions and the record."""

    kind: Literal["report"] = "report"
    disposable: ClassVar[bool] = True


AnyStep = Annotated[
    PretrainStep
    | TrainStep
    | ChooseStep
    | FitStep
    | FeaturesStep
    | PredictStep
    | GroupStep
    | ReadStep
    | ScoreStep
    | SampleStep
    | ReportStep,
    pydantic.Field(discriminator="kind"),
]


class Plan(FrozenRecord):
    """All steps of a run, each after those that it needs, and their data sets and models."""

    data: dict[str, PlannedDataset]
    """The data sets, by their names in the steps."""

    models: tuple[PlannedModel, ...] = ()
    """The models from elsewhere; steps know them by their digests."""

    published: dict[str, str] = pydantic.Field(default_factory=dict)
    """Where the published files of a shift are, by its id: `imagenet-c:/data/imagenet-c/fog/3`."""

    steps: tuple[AnyStep, ...]
    """All steps of the run, in order."""

    @property
    def digest(self) -> str:
        """Equal for plans of the same steps, with the same data and settings."""
        return fingerprint({step.id: step.depends() for step in self.steps})

    def step(self, name: str) -> Step:
        """The step with this id; raises `KeyError` if there is none."""
        return {step.id: step for step in self.steps}[name]

    def needed_for(self, name: str) -> set[str]:
        """The ids of a step and of all steps that it needs, directly or not."""
        wanted = {name}
        for step in reversed(self.steps):
            if step.id in wanted:
                wanted.update(step.needs)
        return wanted

    def put_first(self, steps: Iterable[str]) -> Plan:
        """The same plan with these steps, and all that they need, before the others."""
        first = set[str]().union(*map(self.needed_for, steps))
        ordered = sorted(self.steps, key=lambda step: step.id not in first)
        return self.model_copy(update={"steps": tuple(ordered)})


def link_steps(
    data: Mapping[str, PlannedDataset],
    models: Sequence[PlannedModel],
    steps: Sequence[Step],
    published: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Make a plan of steps in order; `needs` of each follows from the files that it reads.

    Raises `ValueError` if two steps have the same id or write the same file, or if no earlier step
    writes a file that is read. These are mistakes in the planning code.
    """
    makers: dict[str, str] = {}
    linked = []
    for step in steps:
        try:
            # In the order of the files, without duplicates.
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
    return Plan.model_construct(
        data=dict(data), models=tuple(models), published=dict(published), steps=tuple(linked)
    )


def step_fingerprint(step: Step, checksums: Mapping[str, str]) -> str:
    """Make the fingerprint of a step: of its kind, of `depends`, and of the files that it reads.

    Args:
        step: a step whose digests are all known.
        checksums: SHA-256 of the files that it reads, by name; files that were not written are
            left out.
    """
    files = {name: checksums[name] for name in step.reads if name in checksums}
    return fingerprint({"kind": step.kind, "depends": step.depends(), "files": files})


def name_first(names: Sequence[str]) -> str:
    """Name the first, and say how many more there are.

    >>> name_first(["a"]), name_first(["a", "b", "c"])
    ('a', 'a and 2 more')
    """
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def training_files(folder: str, *, probed: bool) -> list[str]:
    """The files that a training writes into its folder."""
    names = [WEIGHTS, DESCRIPTION, HISTORY, *([PROBED] if probed else [])]
    return [f"{folder}/{name}" for name in names]


def pretraining_files(folder: str, recipe: Pretraining) -> list[str]:
    """The files that a pre-training writes into its folder."""
    names = [WEIGHTS, DESCRIPTION, HISTORY]
    names += [CORRELATION] if recipe.method == "barlow_twins" else []
    return [f"{folder}/{name}" for name in names]

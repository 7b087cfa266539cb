"""The record of a run, the special values in scores.csv, and the paths inside a run folder.

A run folder contains `record.json`, which is a `RunRecord`, and in `steps/` one `StepRecord` for
each finished step. All code that reads or writes a run uses these types and names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import pydantic
from pydantic import JsonValue

from fairweather.errors import InputError, check_text
from fairweather.types.measurement import CLASSIFICATION, format_number
from fairweather.types.options import Aggregation, Preparation

# The version of record.json and of the records of steps; 1 was never released, and 2 had the names
# of `FORMER_NAMES`.
VERSION: Literal[3] = 3
# Names in files of version 2 that are other names now.
FORMER_NAMES = {"cluster": "group", "clusters": "groups", "shared_clusters": "shared_groups"}

# ---------------------------------------------------------------- special values in scores.csv

COLUMNS = ["model", "seed", "shift", "level", "metric", "value", "low", "high", "n"]
SLICE_COLUMNS = [*COLUMNS[:4], "slice", *COLUMNS[4:]]  # of slices.csv
UNIT_COLUMNS = [*COLUMNS[:4], "unit", *COLUMNS[4:]]  # of scores.csv, where a run has units
# Of slices.csv, where a run has units.
UNIT_SLICE_COLUMNS = [*SLICE_COLUMNS[:5], "unit", *SLICE_COLUMNS[5:]]
IMAGE = "image"  # unit: whole images; others are parts of their labels, such as `finding=Effusion`
CLEAN = "clean"  # shift: the test images as they are
# Shift: the clean validation images, if the test images have a different origin from the other
# images. Like clean, they are in no mean over shifts.
VALIDATION = "validation"
ALL = "all"  # shift: the mean over all shifts
PRIORS, OOD = "priors/", "ood/"  # shift: prefixes of those that change no image
# Shift: prefix of other images of the same classes. They are not paired with the test images.
NATURAL = "natural/"
# Shift: prefix of the test images as they are, after a network that adapts has gone through all
# shifts (`clean_after/all`), or through the levels of one. Like clean, they are in no mean.
CLEAN_AFTER = "clean_after/"
WORST_PRIORS = f"{PRIORS}worst"
NO_LEVEL = "none"  # level: of a shift without levels
MEAN, WORST = "mean", "worst"  # level: over the levels of a shift
SPREAD = "sd"  # seed: the standard deviation over seeds; MEAN is their mean
ENSEMBLE = "ensemble"  # seed: the models of all seeds predict together
SUMMARY_SEEDS = (MEAN, SPREAD)
SUMMARY_LEVELS = (MEAN, WORST)
ENSEMBLE_SUFFIX = f"+{ENSEMBLE}"  # the ensemble as a model of its own, in tables and rules


class ShiftLevel(NamedTuple):
    """The test images of a row of scores.csv: a shift and its level."""

    shift: str
    level: str


def is_shifted(shift: str) -> bool:
    """Say whether a value of the column `shift` is a change of the test images.

    >>> [is_shifted(word) for word in ("gaussian_blur", "clean", "clean_after/all", "priors/foxes")]
    [True, False, False, False]
    """
    unshifted = (PRIORS, OOD, NATURAL, CLEAN_AFTER)
    return shift not in (CLEAN, VALIDATION) and not shift.startswith(unshifted)


def slice_label(column: str, value: str) -> str:
    """Name the images with a value in a column, as in slices.csv and in rules.

    >>> slice_label("site", "B")
    'site=B'
    """
    return f"{column}={value}"


def worst_slice_label(column: str) -> str:
    """Name the worst of all values of a column, as in slices.csv and in rules.

    >>> worst_slice_label("site")
    'worst site'
    """
    return f"worst {column}"


def unseen_slice_label(column: str) -> str:
    """Name a value of a column that no image has, as in slices.csv and in rules.

    >>> unseen_slice_label("site")
    'unseen site'
    """
    return f"unseen {column}"


def mean_unit_name(unit: str) -> str:
    """Name the mean over all units like this one, as in scores.csv.

    >>> mean_unit_name("finding=Effusion")
    'mean finding'
    """
    return f"{MEAN} {unit.partition('=')[0]}"


def weighted_mean_unit_name(unit: str) -> str:
    """Name the mean over all units in which frequent ones count more, as in scores.csv.

    >>> weighted_mean_unit_name("finding=Effusion")
    'weighted mean finding'
    """
    return f"weighted {mean_unit_name(unit)}"


def list_whole_units(units: Iterable[str]) -> list[str]:
    """List what numbers without the name of a unit are of: whole images, and all units.

    All units are their mean or, if an image has only one unit, this one.

    Args:
        units: the column `unit` of a table.

    >>> list_whole_units([IMAGE, "finding=Mass", "finding=Edema", "mean finding", "worst finding"])
    ['image', 'mean finding']
    >>> list_whole_units([IMAGE, "finding=Mass", "finding=Mass"])
    ['image', 'finding=Mass']
    """
    names = list(dict.fromkeys(units))
    whole = [name for name in names if name == IMAGE or name.startswith(f"{MEAN} ")]
    single = [name for name in names if "=" in name]
    return whole if len(single) != 1 or set(whole) - {IMAGE} else [*whole, *single]


def variant_name(model: str, variant: str) -> str:
    """Name a variant of a model, as in folders and scores.csv.

    >>> variant_name("basic", "temperature")
    'basic+temperature'
    """
    return f"{model}+{variant}"


def base_model(name: str) -> str:
    """Name the model of a variant; for a model, give its own name.

    >>> base_model("basic+temperature"), base_model("basic")
    ('basic', 'basic')
    """
    return name.partition("+")[0]


# ---------------------------------------------------------------- the paths inside a run folder

RECORD, STUDY, SCORES, SUMMARY = "record.json", "study.yaml", "scores.csv", "summary.csv"
SLICES = "slices.csv"  # scores of subgroups, only if they were asked for
WARNINGS, ABSENT_METRICS = "warnings.json", "absent_metrics.json"
PAGE, TABLES, FIGURES, SAMPLES = "report.html", "tables", "figures", "samples"
STEPS, GROUPS, ADAPTED = "steps", "groups", "adapted"
READERS = "readers.parquet"  # what people call each test image, only if a run was given it
JOINED = "joined.json"  # only in a folder that was joined from runs with different seeds
WEIGHTS, DESCRIPTION, HISTORY = "model.safetensors", "model.json", "history.csv"
PROBED = "probed.safetensors"  # weights where an interpolation begins
CORRELATION = "correlation.json"
DIVERGED = "diverged.json"  # instead of a model, if a try of a sweep diverged
TEST, VAL, TRAIN = "test", "val", "train"
ORDERED_CLASSES = "ordered_classes"  # note on data whose classes are in an order, such as grades
NO_IMAGES = "without_images"  # note on the data of a run of predictions that came with labels alone


def escape(text: str) -> str:
    """Write a shift as one component of a path.

    >>> escape("imagenet_c/fog,severity=3")
    'imagenet_c__fog,severity=3'
    """
    return text.replace("/", "__")


def part_folder(part: str) -> str:
    """Name the folder of a split; another data set is named by its source and a digest of it.

    >>> part_folder("test"), part_folder("folder:../digits")
    ('test', 'folder-..-digits-13d19f5b')
    """
    if part in (TEST, VAL, TRAIN):
        return part
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-.")
    mark = hashlib.sha256(part.encode()).hexdigest()[:8]  # two sources may give the same words
    return f"{words}-{mark}"


def model_folder(model: str, seed: int | str) -> str:
    """The folder for the training of a model with a seed.

    >>> model_folder("basic", 0)
    'models/basic/seed-0'
    """
    return f"models/{model}/seed-{seed}"


def try_folder(model: str, number: int) -> str:
    """The folder for a try of a model's sweep; tries are counted from 1."""
    return f"models/{model}/sweep/try-{number}"


def sweep_table(model: str) -> str:
    """The file with the table of a model's sweep."""
    return f"models/{model}/sweep.csv"


def chosen_recipe(model: str) -> str:
    """The file with the recipe that a model's sweep has chosen."""
    return f"models/{model}/chosen.json"


def pretraining_folder(name: str, seed: int) -> str:
    """The folder for a pre-training with a seed."""
    return f"pretraining/{name}/seed-{seed}"


def fitted_file(model: str, seed: int | str, variant: str) -> str:
    """The file with the fit of a variant, which is named as after `MODEL+`.

    >>> fitted_file("basic", 0, "isotonic")
    'variants/basic+isotonic/seed-0/isotonic.json'
    """
    return f"variants/{variant_name(model, variant)}/seed-{seed}/{variant}.json"


def sets_file(model: str, variant: str, seed: int | str) -> str:
    """The file with the fit of a variant's prediction sets.

    >>> sets_file("basic", "conformal-lac-0.9", 0)
    'variants/basic+conformal-lac-0.9/seed-0/sets.json'
    """
    return f"variants/{variant_name(model, variant)}/seed-{seed}/sets.json"


def predictions_file(model: str, seed: int | str, shift: str, part: str = TEST) -> str:
    """The file with the predictions of a model under a shift, given by its id.

    An ensemble may be named as in tables.

    >>> predictions_file("basic", 0, "imagenet_c/fog,severity=3")
    'predictions/basic/seed-0/test/imagenet_c__fog,severity=3.parquet'
    >>> predictions_file("basic+ensemble", "ensemble", "clean")
    'predictions/basic/seed-ensemble/test/clean.parquet'
    """
    folder = f"predictions/{model.removesuffix(ENSEMBLE_SUFFIX)}/seed-{seed}"
    return f"{folder}/{part_folder(part)}/{escape(shift)}.parquet"


def adapted_file(model: str, seed: int | str, shift: str) -> str:
    """The file with what a network that adapts has changed until the end of a cell.

    >>> adapted_file("basic+tent-continual", 0, "gamma,exponent=2")
    'adapted/basic+tent-continual/seed-0/gamma,exponent=2.safetensors'
    """
    return f"{ADAPTED}/{model}/seed-{seed}/{escape(shift)}.safetensors"


def groups_file(part: str) -> str:
    """The file with the groups and slices of the images of a part.

    >>> groups_file("test")
    'groups/test.parquet'
    """
    return f"{GROUPS}/{part_folder(part)}.parquet"


def features_file(model: str, seed: int | str) -> str:
    """The file with the features of known images, for a model's k-NN distances.

    >>> features_file("basic", 0)
    'features/basic/seed-0.safetensors'
    """
    return f"features/{model}/seed-{seed}.safetensors"


def image_list(part: str) -> str:
    """The file with the name of each image's file, if images have their own files.

    >>> image_list("test")
    'images/test.csv'
    """
    return f"images/{part_folder(part)}.csv"


def step_file(step: str) -> str:
    """The file with the record of a finished step.

    >>> step_file("models/basic/seed-0")
    'steps/models/basic/seed-0.json'
    """
    return f"{STEPS}/{step}.json"


class PredictionsPath(NamedTuple):
    """The model, seed, split and shift of a file of predictions, as in its path."""

    model: str
    seed: str
    part: str
    shift: str


def parse_predictions_path(file: str) -> PredictionsPath | None:
    """Read model, seed, split and shift from a path; None if it is no file of predictions.

    >>> parse_predictions_path("predictions/basic/seed-0/test/imagenet_c__fog,severity=3.parquet")
    PredictionsPath(model='basic', seed='0', part='test', shift='imagenet_c__fog,severity=3')
    """
    parts = PurePosixPath(file).parts
    if len(parts) != 5 or parts[0] != "predictions" or not file.endswith(".parquet"):
        return None
    return PredictionsPath(
        parts[1], parts[2].removeprefix("seed-"), parts[3], parts[4].removesuffix(".parquet")
    )


# ---------------------------------------------------------------- the record of a run


class FrozenRecord(pydantic.BaseModel):
    """A record: unknown keys are errors, and values cannot be changed."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Write the text of its file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


RecordType = TypeVar("RecordType", bound=FrozenRecord)
T = TypeVar("T")
# A text that is shown. A record may come from anybody, and control characters would abort the
# process that draws figures.
ShownText = Annotated[str, pydantic.AfterValidator(lambda text: check_text(text, "the text"))]
# `OperatingPoints` as they are stored.
StoredPoints = dict[ShownText, float | ShownText | tuple[float | ShownText, ...]]


def has_ordered_classes(notes: Mapping[str, object]) -> bool:
    """Say whether notes on data tell that the classes are in an order."""
    return notes.get(ORDERED_CLASSES) is True


# What an answer on a natural shift is compared with, in a sentence; "" for the label alone.
JUDGED = {
    "label": "",
    "several": "An image may have several right classes, and an answer is right if it is one of "
    "them. Negative log-likelihood and Brier score are those of their probabilities together.",
    "shares": "The label is what most people chose. Negative log-likelihood and Brier score "
    "compare the probabilities with the shares of people.",
}


class ChoicesRecord(FrozenRecord):
    """How a model answers on a published natural shift."""

    classes: int
    """How many of the run's classes it chooses among: the class mask."""

    judged: Literal["label", "several", "shares"] = "label"
    """What its answer is compared with, see `JUDGED`."""

    same_images: bool = False
    """Whether these are images of the run's own data, with other labels."""

    def sentences(self, name: str, classes: int) -> Iterator[str]:
        """What differs from the run's own images, for people.

        >>> list(ChoicesRecord(classes=200).sentences("imagenet-r", 1000))
        ['On imagenet-r, the model chooses among 200 of the 1,000 classes (class mask), which is
        easier than among all.']
        """
        if self.classes < classes:
            yield (
                f"On {name}, the model chooses among {self.classes:,} of the {classes:,} classes "
                "(class mask), which is easier than among all."
            )
        if self.judged != "label":
            yield f"{name}: {JUDGED[self.judged]}"
        if self.same_images:
            yield (
                f"The images of {name} are those of the data, so the interval of its difference "
                "is too wide."
            )


class DataRecord(FrozenRecord):
    """The data of a run."""

    name: ShownText
    """The specification it was loaded from, with the size."""

    classes: tuple[ShownText, ...]
    """Names in label order."""

    digests: dict[str, str] = {}
    """Digest of each split that is used and of each other data set, by name."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """`mean`, `std`: per-channel statistics of the training images in [0, 1]."""

    arguments: dict[str, JsonValue] = {}
    """Arguments of `load_data` that load it again; a small copy cuts absolute paths."""

    notes: dict[str, JsonValue] = {}
    """Further facts from the source, such as `source`, `size` and `skipped_files`; a new source may
    have other keys, so they are not listed here."""

    task: ShownText = CLASSIFICATION
    """The task; records of earlier versions name none."""

    @property
    def side(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels, if the notes have them."""
        match self.notes.get("size"):
            case [int(height), int(width)]:
                return height, width
        return None

    @property
    def preparation(self) -> Preparation | None:
        """How images were resized and cropped to squares, if the notes have it."""
        noted = self.notes.get("preparation")
        if noted is None:
            return None
        try:
            return pydantic.TypeAdapter(Preparation).validate_python(noted)
        except pydantic.ValidationError:
            raise InputError(f"the record has a wrong preparation of images: {noted}") from None

    @property
    def ordered(self) -> bool:
        """Whether the classes are in an order, such as grades of a disease."""
        return has_ordered_classes(self.notes)

    @property
    def source(self) -> str | None:
        """The specification of the source, if the notes have it."""
        source = self.notes.get("source")
        return source if isinstance(source, str) else None


class CellRecord(FrozenRecord):
    """A shift or an attack at one level."""

    id: ShownText
    """`name[,parameter=value...]`."""

    level: float
    """The number that the sweep varies."""

    constants: ShownText | None = None
    """The constants of the level, if they depend on the size of the images."""


class SweepRecord(FrozenRecord):
    """A shift or an attack and its levels."""

    name: ShownText
    """The entry in the table of shifts or attacks."""

    kind: Literal["shift", "attack"]
    """Which of the two."""

    title: ShownText
    level_title: ShownText
    """`title`, `level_title`: texts for figures."""

    neutral: float
    """The level that changes nothing."""

    note: ShownText = ""
    """Explanation of its levels for readers; mostly empty."""

    norm: ShownText | None = None
    """Norm of an attack's budget; None for shifts."""

    cells: tuple[CellRecord, ...]

    @property
    def level_words(self) -> str:
        """What pages and messages call a level: a severity of a corruption is a level too."""
        return "level" if self.level_title == "severity" else self.level_title

    """Every level, in the study's order."""


class ModelRecord(FrozenRecord):
    """A model of a run, or a pre-training."""

    title: ShownText
    """Its name in tables and figures."""

    settings: dict[str, JsonValue] = {}
    """Its settings, with the keys of the study file or of `evaluate`; the schema of a study has
    their types."""

    facts: dict[str, JsonValue] = {}
    """Facts of a model from elsewhere (`digest`, `labels`, `source`, `normalisation`, ...); empty
    for a model that the run trains."""


class RunSettings(FrozenRecord):
    """The settings of all measurements of a run."""

    shift_seed: int = 0
    """Random seed of stochastic shifts and attacks."""

    bootstrap: int = 1000
    """Number of resamples for every interval."""

    batch_size: int = 256
    """Images in a forward pass."""

    precision: str = "fp32"
    """Precision of predictions."""

    cudnn_benchmark: bool = False
    """Whether cuDNN chose its kernels by speed."""

    compile: bool = False
    """Whether the models of predictions were compiled."""

    training_precision: str | None = None
    """Precision of training as given; None if nothing is trained."""

    variants: tuple[str, ...] = ()
    """Variants that are measured for every model, as `variants.Variant.text` writes them:
    `temperature`, `batchnorm`, `conformal: {...}`."""

    adapting: tuple[str, ...] = ()
    """Those of them that adapt the network, with all parameters, also those at their defaults."""

    threads: int | None = None
    """Threads of every step; None where runs with different numbers were joined."""

    operating_points: StoredPoints = {}
    """The operating points of each class or finding: thresholds, and targets as
    `sensitivity=0.95`."""

    unit: ShownText = ""
    """The column of groups that are judged in place of images, such as `patient`."""

    aggregates: tuple[ShownText, ...] = ()
    """How its images become one decision; of several, one is chosen on validation images."""

    costs: dict[ShownText, tuple[float, ...]] = {}
    """For each true class, the cost of each decision in the order of the classes. For each finding,
    what it costs to miss it and to call it wrongly. A last number is the price of a review."""

    sites: tuple[ShownText, ...] = ()
    """Columns of slices whose values are a sample, such as hospitals, of which more exist."""

    fit_on: tuple[ShownText, ...] = ()
    """Ids of the shifts of the validation images that the variants `...-fit_on` were fitted on;
    empty without these variants."""

    @property
    def aggregation(self) -> Aggregation | None:
        """What is judged in place of images; None for images."""
        return Aggregation(self.unit, self.aggregates) if self.unit else None


class Machine(FrozenRecord):
    """The properties of a machine that can change a result."""

    device: str
    """`cpu`, `cuda`, ..."""

    model: str
    """Name of the processor or GPU."""

    instructions: str
    """The widest vector instructions that torch uses on the processor."""

    threads: int
    """Threads of torch."""

    def __str__(self) -> str:
        return f"{self.model} ({self.device}, {self.instructions}, {self.threads} threads)"


class Provenance(FrozenRecord):
    """The time, command, versions and machine with which a run was begun."""

    time: str
    """In UTC, ISO 8601."""

    command: str
    git: dict[str, JsonValue] = {}
    """Revision and dirty flag of the working folder and of fairweather, if they are in git."""

    python: str
    platform: str
    versions: dict[str, str] = {}
    drawing: dict[str, str] = {}
    """Versions of what draws figures; another one changes no number, so the record lasts."""

    hardware: dict[str, JsonValue] = {}
    """Device, cpu, cores, threads."""


class RunRecord(FrozenRecord):
    """The record of a run: models, data, shifts, settings, and how it was begun."""

    version: Literal[3] = VERSION
    kind: Literal["study", "evaluation"]
    """`study` (it trains its models) or `evaluation` (of a model from elsewhere)."""

    name: ShownText
    title: ShownText = ""
    description: ShownText = ""
    data: DataRecord
    models: dict[ShownText, ModelRecord]
    """Models by name, in the order of the study."""

    pretraining: dict[ShownText, ModelRecord] = {}
    """Pre-trainings by name."""

    seeds: tuple[int, ...] = (0,)
    """Random seeds that models are trained with; [0] for a model from elsewhere."""

    ensemble: bool = False
    """Whether the models of all seeds are also measured together."""

    sweeps: tuple[SweepRecord, ...] = ()
    """Every shift and attack at its levels; the clean images are always measured."""

    variants: dict[ShownText, ShownText] = {}
    """Titles of variants and interpolations, by name: `MODEL+...`."""

    seen_shifts: dict[ShownText, dict[ShownText, ShownText]] = {}
    """Test shifts that a model was trained with, and what made them, by model and shift."""

    priors: dict[ShownText, tuple[float, ...]] = {}
    """Class probabilities in label order, by the name of each changed set of priors."""

    ood: tuple[ShownText, ...] = ()
    """Other data sets that a model's confidence should separate from this one."""

    natural: dict[ShownText, ShownText] = {}
    """The sources of other images of the same classes, by name."""

    choices: dict[ShownText, ChoicesRecord] = {}
    """How models answer on those that are published natural shifts with a class mask or other
    labels, by name."""

    settings: RunSettings = RunSettings()
    provenance: Provenance

    def cells(self) -> Iterator[CellRecord]:
        """Every level of every shift and attack."""
        for sweep in self.sweeps:
            yield from sweep.cells

    def lasting(self) -> dict[str, Any]:
        """The record without what changes if the run continues, and changes no number.

        That is: time, command, git revisions, and versions of what draws figures.
        """
        circumstances = {"time", "command", "git", "drawing"}
        return self.model_dump(mode="json", exclude={"provenance": circumstances})


class JoinedRun(FrozenRecord):
    """One of the runs that a folder was joined from."""

    path: str
    """Path of its folder, as it was given; a small copy cuts absolute ones to the last part."""

    models: tuple[str, ...]
    seeds: tuple[int, ...]
    """`models`, `seeds`: the models and seeds from this run."""

    provenance: Provenance
    """The time, command, versions and machine with which it was begun."""


class JoinedRecord(FrozenRecord):
    """The runs that a folder was joined from. It is a file of its own for earlier versions."""

    version: Literal[1] = 1
    runs: tuple[JoinedRun, ...]
    """The runs in the order of joining; each model has one recipe in all of them."""


StepKind: TypeAlias = Literal[
    "pretrain",
    "train",
    "choose",
    "fit",
    "conform",  # fits prediction sets in folders of earlier versions
    "features",
    "predict",
    "group",
    "read",
    "score",
    "sample",
    "report",
]


class StepRecord(FrozenRecord):
    """The record of a finished step."""

    version: Literal[3] = VERSION
    id: str
    kind: StepKind
    """`id`, `kind`: id and kind of the step."""

    fingerprint: str
    """Fingerprint of everything that it depended on."""

    depends: dict[str, JsonValue]
    """The settings among these, so that messages can name a change."""

    files: dict[str, str]
    """The files that it wrote, with the SHA-256 of each."""

    machine: Machine | None = None
    """The machine that it ran on."""

    seconds: float = 0.0
    """Its duration."""

    work: int = 0
    """Images times passes, as planned; with `seconds` this gives its speed."""

    network_seconds: float | None = None
    """How long its network alone took to predict, and to adapt; None if it has none."""

    adapts: str | None = None
    """What adapting changes of its network, such as which layers; None if it stays as it is."""

    halved_to: int | None = None
    """The batch size at which it went on after memory ran out, which may change the last digits of
    its results; None if memory was sufficient."""


def is_part_of(record: RunRecord, step: StepRecord) -> bool:
    """Say whether a finished step still belongs to the run that the record describes."""
    if step.kind in ("group", "read", "score", "sample", "report"):
        return True
    _, name, seed, *rest = [*step.id.split("/"), "", ""]
    seed, seeds = seed.removeprefix("seed-"), {str(seed) for seed in record.seeds}
    if step.kind == "pretrain":
        if name not in record.pretraining:
            return False
        own_seed = record.pretraining[name].settings.get("seed")
        return seed in (seeds if own_seed is None else {str(own_seed)})
    if base_model(name) not in record.models:
        return False
    if step.kind in ("train", "choose"):
        if seed != "sweep":
            return seed in seeds
        tries = _count_tries(record.models[base_model(name)])
        return tries > 0 and rest[0] in {"", *(f"try-{number}" for number in range(1, tries + 1))}
    if record.ensemble:
        seeds.add(ENSEMBLE)
    if (name not in record.models and name not in record.variants) or seed not in seeds:
        return False
    place = parse_predictions_path(f"{step.id}.parquet")
    if place is None:
        return True
    others = (*record.ood, *(f"{NATURAL}{name}" for name in record.natural))
    data = {TEST, VAL, *(part_folder(source) for source in others)}
    shifts = {CLEAN, *(escape(cell.id) for cell in record.cells())}
    shifts |= {escape(CLEAN_AFTER + name) for name in (ALL, *(s.name for s in record.sweeps))}
    return place.part in data and place.shift in shifts


def _count_tries(model: ModelRecord) -> int:
    """The number of tries of a model's sweep; 0 without a sweep."""
    sweep = model.settings.get("sweep")
    if not isinstance(sweep, dict) or not sweep:
        return 0
    return math.prod(len(values) for values in sweep.values() if isinstance(values, list))


def parse_record(text: str | bytes, place: str) -> RunRecord:
    """Read the text of record.json; raises `InputError`, naming `place`, for anything else."""
    return _parse(RunRecord, text, place, "the record of a fairweather run")


def parse_step_record(text: str | bytes, place: str) -> StepRecord:
    """Read the text of a step's record; raises `InputError`, naming `place`, for anything else."""
    return _parse(StepRecord, text, place, "the record of a step of a fairweather run")


def _parse(kind: type[RecordType], text: str | bytes, place: str, description: str) -> RecordType:
    try:
        raw = json.loads(text)
        version = raw["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{place} is not {description}") from None
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"{place} was written by a newer fairweather (version {version})")
    if version == 2:
        raw = _rename_version_2(raw)
    try:
        # Not from the text: the notes on the data may contain file names that are no UTF-8, which
        # pydantic's JSON reader refuses.
        return kind.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{place} is not {description}: {field}: {first['msg']}") from None


def with_new_names(facts: Mapping[str, T]) -> dict[str, T]:
    """What a file of any version says, by the names of this version.

    >>> with_new_names({"n": 40, "clusters": 4})
    {'n': 40, 'groups': 4}
    """
    return {FORMER_NAMES.get(name, name): value for name, value in facts.items()}


def _rename_version_2(raw: dict[str, Any]) -> dict[str, Any]:
    renamed = {**raw, "version": VERSION}
    if isinstance(data := raw.get("data"), dict) and isinstance(notes := data.get("notes"), dict):
        renamed["data"] = {**data, "notes": with_new_names(notes)}
    return renamed


def cells_by_level(sweep: SweepRecord) -> dict[str, CellRecord]:
    """The cells of a sweep by level, ascending, written as in scores.csv."""
    cells = sorted(sweep.cells, key=lambda cell: cell.level)
    return {format_number(cell.level): cell for cell in cells}

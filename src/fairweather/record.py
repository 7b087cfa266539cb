"""What a run is: its description, the words of scores.csv, and the paths inside its folder.

A run folder holds `record.json`, which is a `RunRecord`, and below `steps/` one `StepRecord` for
each step that is done. Whoever reads or writes a run goes through these types and names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

import pydantic
from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.types import Preparation, shortest

VERSION: Literal[2] = (
    2  # of record.json and of the records of steps; 1 was study.yaml with provenance.json
)

# ---------------------------------------------------------------- the words of scores.csv

COLUMNS = ["model", "seed", "shift", "level", "metric", "value", "low", "high", "n"]
CLEAN = "clean"  # shift: the test images as they are
# Shift: where test images differ from all others by their origin, the clean validation images stand
# beside them; like clean, they count in no mean over shifts.
VALIDATION = "validation"
ALL = "all"  # shift: the mean over all shifts
PRIORS, OOD = "priors/", "ood/"  # what shifts begin with that change no image
WORST_PRIORS = f"{PRIORS}worst"
NO_LEVEL = "none"  # level: where nothing is swept
MEAN, WORST = "mean", "worst"  # level: over the levels of a shift
SPREAD = "sd"  # seed: the standard deviation over seeds; MEAN is their mean
ENSEMBLE = "ensemble"  # seed: the models of all seeds answer together
SUMMARY_SEEDS = (MEAN, SPREAD)
SUMMARY_LEVELS = (MEAN, WORST)
ENSEMBLE_SUFFIX = f"+{ENSEMBLE}"  # the ensemble as a model of its own, in tables and rules


class Condition(NamedTuple):
    """The images that a row of scores.csv is about: a shift, and its level."""

    shift: str
    level: str


def is_shifted(shift: str) -> bool:
    """Say whether a word of the column `shift` names a change of the test images.

    >>> [is_shifted(word) for word in ("gaussian_blur", "clean", "priors/foxes")]
    [True, False, False]
    """
    return shift not in (CLEAN, VALIDATION) and not shift.startswith((PRIORS, OOD))


def variant_name(model: str, variant: str) -> str:
    """Name a variant of a model, as folders and scores.csv do.

    >>> variant_name("basic", "temperature")
    'basic+temperature'
    """
    return f"{model}+{variant}"


def base_model(name: str) -> str:
    """Name the model that a variant is one of; a model is its own.

    >>> base_model("basic+temperature"), base_model("basic")
    ('basic', 'basic')
    """
    return name.partition("+")[0]


# ---------------------------------------------------------------- the paths inside a run folder

RECORD, STUDY, SCORES, SUMMARY = "record.json", "study.yaml", "scores.csv", "summary.csv"
WARNINGS, ABSENT_METRICS = "warnings.json", "absent_metrics.json"
PAGE, TABLES, FIGURES, SAMPLES = "report.html", "tables", "figures", "samples"
STEPS = "steps"
JOINED = "joined.json"  # only in a folder that was joined of runs with different seeds
WEIGHTS, DESCRIPTION, HISTORY = "model.safetensors", "model.json", "history.csv"
PROBED = "probed.safetensors"  # where an interpolation begins
CORRELATION = "correlation.json"
DIVERGED = "diverged.json"  # in the place of a model, where a try of a sweep found none
TEST, VAL, TRAIN = "test", "val", "train"


def escape(text: str) -> str:
    """Write a shift as one component of a path.

    >>> escape("imagenet_c/fog,severity=3")
    'imagenet_c__fog,severity=3'
    """
    return text.replace("/", "__")


def part_folder(part: str) -> str:
    """Name the folder of a part of the data; another data set is told by a digest of its source.

    >>> part_folder("test"), part_folder("folder:../digits")
    ('test', 'folder-..-digits-13d19f5b')
    """
    if part in (TEST, VAL, TRAIN):
        return part
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-.")
    mark = hashlib.sha256(part.encode()).hexdigest()[:8]  # two names may read the same
    return f"{words}-{mark}"


def model_folder(model: str, seed: int | str) -> str:
    """Where the training of a model with a seed leaves its files.

    >>> model_folder("basic", 0)
    'models/basic/seed-0'
    """
    return f"models/{model}/seed-{seed}"


def try_folder(model: str, number: int) -> str:
    """Where a try of a model's sweep leaves its files; tries count from 1."""
    return f"models/{model}/sweep/try-{number}"


def sweep_table(model: str) -> str:
    """Where the table of a model's sweep stands."""
    return f"models/{model}/sweep.csv"


def chosen_recipe(model: str) -> str:
    """Where the recipe stands that a model's sweep has chosen."""
    return f"models/{model}/chosen.json"


def pretraining_folder(name: str, seed: int) -> str:
    """Where a pre-training leaves its files."""
    return f"pretraining/{name}/seed-{seed}"


def temperature_file(model: str, seed: int | str) -> str:
    """Where the fitted temperature of a model stands."""
    return f"variants/{variant_name(model, 'temperature')}/seed-{seed}/temperature.json"


def predictions_file(model: str, seed: int | str, shift: str, part: str = TEST) -> str:
    """Where the predictions of a model under a shift, by its id, stand.

    An ensemble may be named as tables do.

    >>> predictions_file("basic", 0, "imagenet_c/fog,severity=3")
    'predictions/basic/seed-0/test/imagenet_c__fog,severity=3.parquet'
    >>> predictions_file("basic+ensemble", "ensemble", "clean")
    'predictions/basic/seed-ensemble/test/clean.parquet'
    """
    folder = f"predictions/{model.removesuffix(ENSEMBLE_SUFFIX)}/seed-{seed}"
    return f"{folder}/{part_folder(part)}/{escape(shift)}.parquet"


def first_predictions_file(model: str, seed: int | str, shift: str, part: str = TEST) -> str:
    """Where they stand in folders of version 1."""
    folder = f"predictions/{model.removesuffix(ENSEMBLE_SUFFIX)}/seed-{seed}"
    if part == TEST:
        return f"{folder}/{escape(shift)}.parquet"
    return f"{folder}/val.parquet" if part == VAL else f"{folder}/ood/{part_folder(part)}.parquet"


def step_file(step: str) -> str:
    """Where the record of a done step stands.

    >>> step_file("models/basic/seed-0")
    'steps/models/basic/seed-0.json'
    """
    return f"{STEPS}/{step}.json"


class PredictionsOf(NamedTuple):
    """What a file of predictions is of."""

    model: str
    seed: str
    part: str
    shift: str


def place_of(file: str) -> PredictionsOf | None:
    """Read a path back: what it is of as folders write it, or None for another file.

    >>> place_of("predictions/basic/seed-0/test/imagenet_c__fog,severity=3.parquet")
    PredictionsOf(model='basic', seed='0', part='test', shift='imagenet_c__fog,severity=3')
    """
    parts = PurePosixPath(file).parts
    if len(parts) != 5 or parts[0] != "predictions" or not file.endswith(".parquet"):
        return None
    return PredictionsOf(
        parts[1], parts[2].removeprefix("seed-"), parts[3], parts[4].removesuffix(".parquet")
    )


# ---------------------------------------------------------------- the description of a run


class Frozen(pydantic.BaseModel):
    """A description: unknown keys are errors, and nothing is changed once it is made."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Frozen)


class DataRecord(Frozen):
    """The data of a run.

    Attributes:
        name: the specification it was loaded from, and at which size.
        classes: names in label order.
        digests: of each part that is used and of each other data set, by name.
        mean, std: per-channel statistics of the training images in [0, 1].
        arguments: of `load_data`, which load them again.
        notes: what the source says of itself, such as `source`, `size` and `skipped_files`; a new
            source may say more, so its keys are not listed here.
    """

    name: str
    classes: tuple[str, ...]
    digests: dict[str, str] = {}
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    arguments: dict[str, JsonValue] = {}
    notes: dict[str, JsonValue] = {}

    @property
    def side(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels, where they were noted."""
        match self.notes.get("size"):
            case [int(height), int(width)]:
                return height, width
        return None

    @property
    def preparation(self) -> Preparation | None:
        """How images were made squares of one size, where they were and that was noted."""
        noted = self.notes.get("preparation")
        if noted is None:
            return None
        try:
            return pydantic.TypeAdapter(Preparation).validate_python(noted)
        except pydantic.ValidationError:
            raise InputError(f"the record states no preparation of images: {noted}") from None

    @property
    def source(self) -> str | None:
        """The specification of the source, where it was noted."""
        found = self.notes.get("source")
        return found if isinstance(found, str) else None


class CellRecord(Frozen):
    """A shift or an attack at one level.

    Attributes:
        id: `name[,parameter=value...]`.
        level: the number that the sweep varies.
        constants: what the level stands for at the size of these images, where it depends on that.
    """

    id: str
    level: float
    constants: str | None = None


class SweepRecord(Frozen):
    """A shift or an attack and its levels.

    Attributes:
        name: the entry in the table of shifts or attacks.
        kind: which of the two.
        title, level_title: as figures write them.
        neutral: the level that changes nothing.
        note: what a reader of its levels has to know; mostly nothing.
        norm: in which an attack's budget is measured; None for shifts.
        cells: every level, in the study's order.
    """

    name: str
    kind: Literal["shift", "attack"]
    title: str
    level_title: str
    neutral: float
    note: str = ""
    norm: str | None = None
    cells: tuple[CellRecord, ...]


class ModelRecord(Frozen):
    """A model of a run, or a pre-training.

    Attributes:
        title: as tables and figures write it.
        settings: what was chosen for it, in the words of the study file or of `evaluate`; the
            schema of a study types them.
        facts: what was found out about a model from elsewhere (`digest`, `labels`, `source`,
            `normalisation`, ...); nothing of one that the run trains.
    """

    title: str
    settings: dict[str, JsonValue] = {}
    facts: dict[str, JsonValue] = {}


class RunSettings(Frozen):
    """What all measurements of a run share.

    Attributes:
        shift_seed: of stochastic shifts and attacks.
        bootstrap: resamples behind every interval.
        batch_size: images in a forward pass.
        precision: of predictions.
        training_precision: as asked for; None where nothing is trained.
        variants: `temperature`, `batchnorm`: what is measured beside every model.
        threads: of every step; None in runs of version 1.
    """

    shift_seed: int = 0
    bootstrap: int = 1000
    batch_size: int = 256
    precision: str = "fp32"
    training_precision: str | None = None
    variants: tuple[str, ...] = ()
    threads: int | None = None


class Machine(Frozen):
    """What of a machine can change a result.

    Attributes:
        device: `cpu`, `cuda`, ...
        model: of the device: the processor's or the GPU's name.
        instructions: the widest vector instructions that torch uses on the processor.
        threads: of torch.
    """

    device: str
    model: str
    instructions: str
    threads: int

    def __str__(self) -> str:
        return f"{self.model} ({self.device}, {self.instructions}, {self.threads} threads)"


class Provenance(Frozen):
    """When, with what and on what a run was begun.

    Attributes:
        time: in UTC, ISO 8601.
        git: revision and dirty flag of the working folder and of fairweather, where there are.
        hardware: device, cpu, cores, threads.
    """

    time: str
    command: str
    git: dict[str, JsonValue] = {}
    python: str
    platform: str
    versions: dict[str, str] = {}
    hardware: dict[str, JsonValue] = {}


class RunRecord(Frozen):
    """The description of a run: what is measured, on what, how, and where it was begun.

    Attributes:
        kind: `study` (it trains what it measures) or `evaluation` (of a model from elsewhere).
        models: by name, in the study's order.
        pretraining: by name.
        seeds: that models are trained with; [0] for a model from elsewhere.
        ensemble: are the models of all seeds also measured together.
        sweeps: every shift and attack at its levels; the clean images are always measured.
        variants: titles of what is measured beside the models, by name: `MODEL+...`.
        seen_shifts: which tests a model has met before, and where, by model and shift.
        priors: class probabilities in label order, by the name of each changed set of priors.
        ood: other data sets that a model's confidence should tell from this one.
    """

    version: Literal[2] = VERSION
    kind: Literal["study", "evaluation"]
    name: str
    title: str = ""
    description: str = ""
    data: DataRecord
    models: dict[str, ModelRecord]
    pretraining: dict[str, ModelRecord] = {}
    seeds: tuple[int, ...] = (0,)
    ensemble: bool = False
    sweeps: tuple[SweepRecord, ...] = ()
    variants: dict[str, str] = {}
    seen_shifts: dict[str, dict[str, str]] = {}
    priors: dict[str, tuple[float, ...]] = {}
    ood: tuple[str, ...] = ()
    settings: RunSettings = RunSettings()
    provenance: Provenance

    def cells(self) -> Iterator[CellRecord]:
        """Every level of every shift and attack."""
        for sweep in self.sweeps:
            yield from sweep.cells

    def lasting(self) -> dict[str, Any]:
        """What stays when the same run is taken up on another day: all but the circumstances."""
        facts = self.model_dump(mode="json")
        circumstances = {"time", "command", "git"}
        facts["provenance"] = {
            key: fact for key, fact in facts["provenance"].items() if key not in circumstances
        }
        return facts

    def to_json(self) -> str:
        """Write the text of record.json."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


class JoinedRun(Frozen):
    """One of the runs that a folder was joined of.

    Attributes:
        path: of its folder, as it was named.
        models, seeds: what of the joined run it brought.
        provenance: when, with what and on what it was begun.
    """

    path: str
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    provenance: Provenance


class JoinedRecord(Frozen):
    """What a folder was joined of. It stands beside the record: earlier versions read that alone.

    Attributes:
        runs: with one recipe for each model and different seeds, in the order of joining.
    """

    version: Literal[1] = 1
    runs: tuple[JoinedRun, ...]

    def to_json(self) -> str:
        """Write the text of joined.json."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


class StepRecord(Frozen):
    """The record of a step that is done.

    Attributes:
        id, kind: of the step.
        fingerprint: of everything that it depended on.
        depends: what was known of that before it ran, so that a change can be named.
        files: what it left, with the SHA-256 of each.
        machine: what it ran on.
        seconds: how long it took.
        work: images times passes, as planned; with `seconds`, a speed.
    """

    version: Literal[2] = VERSION
    id: str
    kind: str
    fingerprint: str
    depends: dict[str, JsonValue]
    files: dict[str, str]
    machine: Machine | None = None
    seconds: float = 0.0
    work: int = 0

    def to_json(self) -> str:
        """Write the text of its file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def is_part_of(record: RunRecord, step: StepRecord) -> bool:
    """Say whether a done step still belongs to what the run is described as."""
    parts = step.id.split("/")
    if step.kind in ("score", "sample", "report"):
        return True
    if len(parts) < 3:
        return False
    if step.kind == "pretrain":
        own = record.pretraining.get(parts[1])
        return own is not None and _seed(parts[2]) in _pretraining_seeds(record, parts[1])
    if base_model(parts[1]) not in record.models:
        return False
    if step.kind in ("train", "choose"):
        if parts[2] == "sweep":
            tries = _tries(record.models[base_model(parts[1])])
            folders = {f"try-{number}" for number in range(1, tries + 1)}
            return tries > 0 and (len(parts) < 4 or parts[3] in folders)
        return _seed(parts[2]) in {str(seed) for seed in record.seeds}
    seeds = {str(seed) for seed in record.seeds} | ({ENSEMBLE} if record.ensemble else set())
    known = parts[1] in record.models or parts[1] in record.variants
    if not known or _seed(parts[2]) not in seeds:
        return False
    place = place_of(f"{step.id}.parquet")
    if place is None:
        return True
    data = {TEST, VAL, *(part_folder(other) for other in record.ood)}
    shifts = {CLEAN, *(escape(cell.id) for cell in record.cells())}
    return place.part in data and place.shift in shifts


def _pretraining_seeds(record: RunRecord, name: str) -> set[str]:
    own = record.pretraining[name].settings.get("seed")
    return {str(seed) for seed in record.seeds} if own is None else {str(own)}


def _tries(model: ModelRecord) -> int:
    """How many tries a model's sweep has; 0 without a sweep."""
    sweep = model.settings.get("sweep")
    if not isinstance(sweep, dict) or not sweep:
        return 0
    return math.prod(len(values) for values in sweep.values() if isinstance(values, list))


def _seed(folder: str) -> str:
    return folder.removeprefix("seed-")


def parse_record(text: str, place: str) -> RunRecord:
    """Read the text of record.json; raises `InputError`, naming `place`, for anything else."""
    return _parsed(RunRecord, text, place, "the record of a fairweather run")


def parse_step_record(text: str, place: str) -> StepRecord:
    """Read the text of a step's record; raises `InputError`, naming `place`, for anything else."""
    return _parsed(StepRecord, text, place, "the record of a step of a fairweather run")


def _parsed(kind: type[Kind], text: str, place: str, what: str) -> Kind:
    try:
        raw = json.loads(text)
        version = raw["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{place} is not {what}") from None
    if isinstance(version, int) and version > VERSION:
        raise InputError(f"{place} was written by a newer fairweather (version {version})")
    try:
        # Not from the text: pydantic refuses what JSON makes of a file name that is no UTF-8, and
        # such names stand among the notes on the data.
        return kind.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{place} is not {what}: {where}: {first['msg']}") from None


def from_first_version(study: Mapping[str, Any], provenance: Mapping[str, Any]) -> RunRecord:
    """Read what study.yaml and provenance.json said of a run before there was record.json.

    Such a run can be reported and compared, never taken up again. `[str, Any]`, since these files
    had no type. Raises `KeyError`, `TypeError`, `ValueError` where they are damaged.
    """
    models, starts = study["models"], study.get("pretraining") or {}
    facts = dict(provenance.get("model") or {})
    data = provenance["data"]
    return RunRecord(
        kind="evaluation" if facts else "study",
        name=study["name"],
        title=study.get("title") or "",
        description=study.get("description") or "",
        data=DataRecord(
            name=data["name"],
            classes=tuple(map(str, data["classes"])),
            digests=data.get("digests") or {},
            mean=tuple(data.get("mean") or ()),
            std=tuple(data.get("std") or ()),
            arguments=study.get("data") or {},
            notes=data.get("notes") or {},
        ),
        models={name: _first_model(name, entry, facts) for name, entry in models.items()},
        pretraining={name: _first_model(name, entry, {}) for name, entry in starts.items()},
        seeds=tuple(study.get("seeds") or (0,)),
        ensemble=bool(provenance.get("ensembles")),
        sweeps=tuple(_first_sweep(entry) for entry in provenance["shifts"]),
        variants=provenance.get("variants") or {},
        seen_shifts=provenance.get("seen_shifts") or {},
        priors=study.get("priors") or {},
        ood=tuple(study.get("ood") or ()),
        settings=RunSettings(
            shift_seed=study.get("shift_seed", 0),
            bootstrap=study["bootstrap"],
            batch_size=study.get("prediction_batch_size", 256),
            training_precision=study.get("precision"),
            variants=tuple(study.get("variants") or ()),
        ),
        provenance=Provenance(
            **{key: provenance[key] for key in Provenance.model_fields if key in provenance}
        ),
    )


def _first_model(name: str, entry: Mapping[str, Any], facts: Mapping[str, Any]) -> ModelRecord:
    settings = {key: value for key, value in entry.items() if key != "title"}
    return ModelRecord(title=str(entry.get("title") or name), settings=settings, facts=dict(facts))


def _first_sweep(entry: Mapping[str, Any]) -> SweepRecord:
    cells: Sequence[Mapping[str, Any]] = entry["cells"]
    # Then, only attacks had a budget.
    attack = all(",epsilon=" in cell["id"] for cell in cells)
    return SweepRecord(
        name=entry["name"],
        kind="attack" if attack else "shift",
        title=entry["title"],
        level_title=entry["level_title"],
        neutral=float(entry["neutral"]),
        note=entry.get("note") or "",
        cells=tuple(CellRecord(**cell) for cell in cells),
    )


def levels_of(sweep: SweepRecord) -> dict[str, CellRecord]:
    """The cells of a sweep by the level as scores.csv writes it, ascending."""
    cells = sorted(sweep.cells, key=lambda cell: cell.level)
    return {shortest(cell.level): cell for cell in cells}

"""The schema of a study, its consistency checks, and reading it from a file."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_type_hints

import pydantic
import pydantic.dataclasses
from pydantic import FiniteFloat

from fairweather.attacks.shift_lists import expand_fit_shifts, expand_shifts
from fairweather.errors import InputError, check_case_distinct, check_name, unknown_name
from fairweather.files.download import split_address
from fairweather.files.yamlfile import dump_yaml, parse_yaml, read_yaml
from fairweather.models.building import MOST_WIDTH
from fairweather.models.checkpoints import PUBLISHED_WEIGHTS
from fairweather.requests.evaluation_options import MeasurementOptions, read_natural_sources
from fairweather.requests.study.packaged import check_study_name, packaged_studies
from fairweather.shifts.table import CLEAN, operation_name
from fairweather.steps.sweeps import shift_kind
from fairweather.training.operations import OPERATIONS, TESTED_AS
from fairweather.training.policies import ALL_OPERATIONS as ALL_OPERATIONS
from fairweather.training.policies import PUBLISHED_OPERATIONS as PUBLISHED_OPERATIONS
from fairweather.training.recipe import RECIPE_KEYS, Recipe
from fairweather.training.selfsupervised.pretraining_recipe import NAMED_VIEWS, Pretraining
from fairweather.types.measurement import MAX_SIDE, Attack, Shift
from fairweather.types.operating_points import StoredPoint
from fairweather.types.options import (
    DataOptions,
    check_limits,
    describe_invalid,
    option,
    shared_option,
)

_Points = StoredPoint | tuple[StoredPoint, ...]

# ---------------------------------------------------------------- shifts that were trained on


def training_operations(shifts: Iterable[Shift], recipes: Iterable[Recipe]) -> Mapping[str, str]:
    """The operations of test shifts that a model is trained with, and what makes each of them.

    Flips do not count, since no test shift flips. All recipes that a sweep tries count.
    """
    operations = {operation_name(shift.name): shift.name for shift in shifts}
    for recipe in recipes:
        operations |= dict(_recipe_operations(recipe))
    return operations


def _recipe_operations(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.rotation:
        yield "rotation", "rotation (recipe.rotation)"
    if recipe.gaussian_noise:
        yield "gaussian_noise", "gaussian_noise (recipe.gaussian_noise)"
    for key in ("trivial_augment", "rand_augment"):
        if getattr(recipe, key):
            yield from ((name, f"{name} (recipe.{key})") for name in _tested_operations(OPERATIONS))
    if recipe.augmix:
        used = ALL_OPERATIONS if recipe.augmix.all_operations else PUBLISHED_OPERATIONS
        yield from ((name, f"{name} (recipe.augmix)") for name in _tested_operations(used))


def _tested_operations(operations: Iterable[str]) -> list[str]:
    """The names of test operations that do the same as these."""
    return [operation_name(shift) for name in operations for shift in TESTED_AS.get(name, ())]


def weights_operations(weights: str) -> Mapping[str, str]:
    """The operations of test shifts in the pre-training of published weights or of a run's file.

    None are known for supervised weights, nor for a file without a model.json of a run beside it.
    """
    if weights in PUBLISHED_WEIGHTS:
        return pretraining_operations(Pretraining("barlow_twins"))  # VICReg's views are the same
    described = Path(weights).expanduser().with_name("model.json")
    if weights.startswith(("http://", "https://")) or not described.is_file():
        return {}
    try:
        recipe = json.dumps(json.loads(described.read_text(encoding="utf-8"))["recipe"])
        return pretraining_operations(pydantic.TypeAdapter(Pretraining).validate_json(recipe))
    # It describes a classifier, or does not come from a run.
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def pretraining_operations(recipe: Pretraining) -> Mapping[str, str]:
    """The operations of test shifts that the views of a pre-training contain."""
    views = recipe.views
    if recipe.method == "rotation":
        return {"rotation": "the task"}
    jitter = views.jitter_probability > 0
    drawn = {
        "brightness": jitter and views.brightness > 0,
        "contrast": jitter and views.contrast > 0,
        "saturate": (jitter and views.saturation > 0) or views.grayscale > 0,
        "hue": jitter and views.hue > 0,
        "gaussian_blur": max(views.blur) > 0,
    }
    return {name: "the views" for name, names in drawn.items() if names}


# ---------------------------------------------------------------- schema

# Prefix of `weights:` for the weights of a pre-training of the same study.
PRETRAINING = "pretraining:"


def _name_natural(given: object) -> object:
    """A list of published natural shifts, which name themselves, as a mapping."""
    is_list = isinstance(given, list) and all(isinstance(text, str) for text in given)
    return read_natural_sources(given) if is_list else given  # type: ignore[arg-type]


class StrictEntry(pydantic.BaseModel):
    """Unknown keys are errors, and quoted text is not a number."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class GroupsEntry(StrictEntry):
    """A table with a row for each image, and which of its columns are used.

    `metadata` is its path; without it, the columns are those of the data set itself, if it is
    `parquet:PATH`. `group` is the column that says which images belong together, such as `patient`.
    `slices` are columns with subgroups, such as `site` or `site*sex`; a column of numbers is cut as
    `age:40,65`. `sites` are such columns whose values are a sample, such as hospitals: the numbers
    of an unseen one are predicted. `allow_shared` allows images of one group in several splits.
    """

    metadata: str | None = None
    group: str | None = None
    slices: list[str] = []
    sites: list[str] = []
    allow_shared: bool = False


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", strict=True)
)
class DataEntry(DataOptions):
    """The data of a study; the keys are those of `fairweather.load_data`.

    With the `size`, `fit: crop` cuts the longer side of an image. `fit: squash` resizes both sides,
    so that shapes do not reveal where an image comes from.
    """

    source: str = option(
        MISSING, "A data source, such as `folder:PATH` (see: fairweather list data)."
    )
    positive: str | list[str] | None = shared_option(  # type: ignore[assignment]
        DataOptions, "positive", default=None
    )  # a list, as YAML has it
    fit: Literal["crop", "squash"] = option("crop", "How an image of another shape becomes square.")
    groups: GroupsEntry | None = option(
        None, "A table that says of each image which patient it shows, or its subgroups."
    )


_Title = Annotated[str, pydantic.AfterValidator(lambda text: check_name(text, "the title"))]
_TitleOrNone = Annotated[
    str, pydantic.AfterValidator(lambda text: text and check_name(text, "the title"))
]
_Positive = Annotated[FiniteFloat, pydantic.Field(gt=0)]
# Text is the source of the data.
_Data = Annotated[
    DataEntry,
    pydantic.BeforeValidator(lambda data: {"source": data} if isinstance(data, str) else data),
]


class Try(NamedTuple):
    """One try of a sweep: the values that it varies and the whole recipe."""

    values: dict[str, Any]
    recipe: Recipe


class NetworkEntry(StrictEntry):
    """A network by name, its design, and the weights that it starts from.

    `mean` and `std` are for weights from a file that were trained with other statistics than the
    backbone's published weights. `weights_sha256` is the SHA-256 that this file must have.
    """

    title: _Title
    backbone: str
    weights: str = "none"
    weights_sha256: str | None = None
    stem: Literal["imagenet", "small"] = "imagenet"
    norm: Literal["batch", "group"] = "batch"
    pooling: Literal["average", "max", "average+max"] = "average"
    width: float = pydantic.Field(1.0, gt=0, le=MOST_WIDTH)
    input_size: int | None = pydantic.Field(None, ge=8, le=MAX_SIDE)
    mean: list[FiniteFloat] | None = pydantic.Field(None, min_length=3, max_length=3)
    std: list[_Positive] | None = pydantic.Field(None, min_length=3, max_length=3)

    @pydantic.field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: str) -> str:
        if "://" in weights:  # before a plan of the study shows it
            split_address(weights)
        return weights

    @pydantic.model_validator(mode="after")
    def _check_statistics(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std go together: give both or neither")
        return self


class PretrainingEntry(NetworkEntry):
    """A pre-training: a network, images, and its recipe; models refer to it by its name."""

    data: _Data | None = None
    """Data set whose training images are used; None means that of the study. Only `supervised` uses
    labels."""

    seed: int | None = pydantic.Field(None, ge=0, lt=2**63)
    """Random seed of one pre-training for the models of all seeds; None means that each seed has
    its own pre-training."""

    recipe: Pretraining
    """Its settings."""


class ModelEntry(NetworkEntry):
    """A model of a study: a network and its recipe.

    `weights: pretraining:NAME` starts from a pre-training of the study.

    `train_shifts`, written like a study's `shifts`, change the training images. Each image of a
    batch stays unchanged or gets one of them, all with the same probability.

    `label_fraction` is the share of the training images that is used, the same for each class. The
    images of a smaller share are a subset of those of a larger one. With probability `label_noise`,
    the label of an image is drawn again from all classes.

    `interpolations` are shares in (0, 1). For each, a model with interpolated weights is measured
    too: 0 would be the probed pre-trained network, 1 the fine-tuned one.

    `sweep` lists values of recipe keys. Every combination is tried with the first seed; the one
    with the best validation `sweep_metric` is trained with all seeds.
    """

    recipe: Recipe = Recipe()
    train_shifts: list[dict[str, Any]] = []
    label_fraction: float = pydantic.Field(1.0, gt=0, le=1)
    label_noise: float = pydantic.Field(0.0, ge=0, le=1)
    interpolations: list[float] = []
    sweep: dict[str, list[Any]] = {}
    sweep_metric: Literal["accuracy", "nll"] = "accuracy"

    @pydantic.model_validator(mode="after")
    def _check_entry(self) -> Self:
        for key, values in self.sweep.items():
            if key not in RECIPE_KEYS:
                raise unknown_name("recipe key in sweep", key, RECIPE_KEYS)
            if not values:
                raise InputError(f"sweep: {key} has no values")
        if self.pretraining is not None and self.weights_sha256 is not None:
            raise InputError(
                "weights_sha256 is for weights from a file, not for a pre-training of the study"
            )
        for attempt in self._checked_tries():
            self._check_interpolations(attempt.recipe)
        self.training_shifts()
        return self

    def _checked_tries(self) -> list[Try]:
        try:
            return self.tries()
        except pydantic.ValidationError as error:
            if not self.sweep:
                raise
            raise InputError(f"sweep: {describe_invalid(error.errors()[0])}") from None

    def _check_interpolations(self, recipe: Recipe) -> None:
        shares = self.interpolations
        if any(not 0 < share < 1 or shares.count(share) > 1 for share in shares):
            raise InputError(f"interpolations must be different and in (0, 1), found {shares}")
        if shares and not 0 < recipe.probe_epochs < recipe.epochs:
            raise InputError(
                "interpolations need a probed network and a fine-tuned one: set "
                f"recipe.probe_epochs between 1 and {recipe.epochs - 1}, found "
                f"{recipe.probe_epochs}"
            )

    @property
    def changes_labels(self) -> bool:
        """Whether labels of the training images are left out, or wrong."""
        return self.label_fraction < 1 or self.label_noise > 0

    @property
    def pretraining(self) -> str | None:
        """The name of the study's pre-training that it starts from, or None."""
        if not self.weights.startswith(PRETRAINING):
            return None
        return self.weights.removeprefix(PRETRAINING)

    def training_shifts(self) -> list[Shift]:
        """The shifts of the training images."""
        expanded = expand_shifts(self.train_shifts, "train_shifts")
        if attacks := [shift.name for shift in expanded if isinstance(shift, Attack)]:
            raise InputError(
                f"train_shifts: {attacks[0]} is an attack; give only shifts here, and an attack as "
                "recipe.adversarial"
            )
        if read := [shift for shift in expanded if isinstance(shift, Shift) and shift.files]:
            raise InputError(
                f"train_shifts: {read[0].name} is read from published files, which are of test "
                "images: give shifts that are made in memory"
            )
        return [shift for shift in expanded if isinstance(shift, Shift)]

    def trained_on(self) -> Mapping[str, str]:
        """The operations of test shifts that it is trained with, and what makes each of them."""
        return training_operations(
            self.training_shifts(), [attempt.recipe for attempt in self.tries()]
        )

    def tries(self) -> list[Try]:
        """Every combination of the swept values, as a recipe; one if nothing is swept."""
        return [
            Try(
                values := dict(zip(self.sweep, combination, strict=True)),
                _RECIPE.validate_json(json.dumps({**asdict(self.recipe), **values})),
            )
            for combination in itertools.product(*self.sweep.values())
        ]


_RECIPE = pydantic.TypeAdapter(Recipe)
# Names become parts of file names, which systems limit to 255 bytes.
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
_ALLOWED = "at most 100 letters, digits, '_', '-' and '.', and begin with a letter or digit"
# The largest number of seeds; a larger one was probably meant as a seed.
_MOST_SEEDS = 100
# The keys that a model and the pre-training that it starts from must have in common.
_DESIGN_KEYS = ("backbone", "stem", "norm", "pooling", "width", "input_size")


def _list_seeds(seeds: object) -> list[int]:
    """The list of seeds; a number N stands for 0 to N - 1."""
    if type(seeds) is int and 1 <= seeds <= _MOST_SEEDS:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds):
        return seeds
    raise InputError(
        f"must be the number of seeds, from 1 to {_MOST_SEEDS} (3 means [0, 1, 2]), or a list such "
        f"as [3, 4] (on the command line --seeds 3,4 or --seeds 3,), found {seeds!r}"
    )


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", strict=True)
)
class Study(MeasurementOptions):
    """A study: a data set, models with their recipes, shifts, seeds.

    How the models are measured is said with the keys of `fairweather.evaluate`.
    """

    name: str = option(MISSING, "Name of the study and of its run folder.")
    title: _TitleOrNone = option("", "Title of the page.")
    description: str = option("", "What the study is about, for the page.")
    data: _Data = option(MISSING, "The data set: a source, or a mapping of its keys.")
    seeds: Annotated[list[int], pydantic.BeforeValidator(_list_seeds)] = option(
        MISSING,
        "Random seeds that every model is trained with: a list, or a number (3 means [0, 1, 2]).",
        factory=lambda: [0, 1, 2],
    )
    shifts: list[dict[str, Any]] = option(
        MISSING, "Sweeps and suites of shifts, and attacks.", factory=list
    )
    natural: Annotated[dict[str, str], pydantic.BeforeValidator(_name_natural)] = option(
        MISSING,
        "Other images of the same classes, by name, such as those of another hospital; each is a "
        "source of data, and in tables `natural/NAME`. A list may have published natural shifts, "
        "which name themselves: `imagenet-r:FOLDER`.",
        factory=dict,
    )
    allow_seen_shifts: bool = option(
        False, "Allow models to be trained with shifts that test them; the report marks them."
    )
    pretraining: dict[str, PretrainingEntry] = option(
        MISSING,
        "Networks that are trained first and that models start from, by name.",
        factory=dict,
    )
    models: Annotated[dict[str, ModelEntry], pydantic.Field(min_length=1)] = option(
        MISSING, "The models, by name."
    )
    ensemble: bool = option(
        False, "Also measure the models of all seeds together, as seed `ensemble`."
    )
    training_precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Number format of training: `auto`, `fp32` or `bf16`."
    )
    processes: int = option(
        1,
        "Number of processes that train each network together, each with a part of every batch. "
        "Another number gives other networks: batch norm has the statistics of each part.",
        least=1,
        most=4096,
    )
    sync_batchnorm: bool = option(
        False, "Batch norm has the statistics of the whole batch instead; for GPUs only."
    )
    operating_points: _Points | dict[str, _Points] = shared_option(  # type: ignore[assignment]
        MeasurementOptions, "operating_points"
    )
    aggregate: str | tuple[str, ...] = shared_option(  # type: ignore[assignment]
        MeasurementOptions, "aggregate"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.match(self.name):
            raise InputError(f"the name {self.name!r} must consist of {_ALLOWED}")
        for kind, names in (("model", self.models), ("pre-training", self.pretraining)):
            for name in names:
                if not _NAME.match(name):
                    raise InputError(
                        f"the {kind} name {name!r} must consist of {_ALLOWED}, since it names a "
                        "folder; the title may be anything"
                    )
            check_case_distinct(names, f"the {kind}s")
        for name, source in read_natural_sources(self.natural).items():
            if source == self.data.source:
                raise InputError(
                    f"natural.{name}: its images are those of the study's data, which models are "
                    "trained on"
                )
        for seed in self.seeds:
            if not 0 <= seed < 2**63 or self.seeds.count(seed) > 1:
                raise InputError(f"seeds must be different and >= 0, found {self.seeds}")
        if self.ensemble and len(self.seeds) < 2:
            raise InputError("ensemble needs the models of at least two seeds")
        if self.processes > 1:
            self.check_together(self.processes)
        elif self.sync_batchnorm:
            raise InputError(
                "sync_batchnorm is for several processes, found processes 1: say in the study how "
                "many there are, such as processes: 2"
            )
        check_limits(self)
        self.fit_on_shifts()
        _ = self.all_variants  # checks them
        self._check_levels()
        self._check_starts()
        self._check_labels()
        self._check_seen()
        return self

    def check_together(self, processes: int) -> None:
        """Raise `InputError` if a recipe cannot be trained by several processes together."""
        for name, entry in self.models.items():
            if any(attempt.recipe.rotation_prediction for attempt in entry.tries()):
                raise InputError(
                    f"models.{name}: rotation_prediction trains in one process, found processes "
                    f"{processes}"
                )

    def _check_levels(self) -> None:
        shifts = self.all_shifts()
        levels = [(shift.name, shift.level_name) for shift in shifts]
        for shift, level in zip(shifts, levels, strict=True):
            if levels.count(level) > 1:
                raise InputError(f"shifts: {shift.name} at {shift.level_name} is given twice")
            others = [twin for twin in shifts if twin.name == shift.name]
            if len({tuple(_fixed_parameters(twin)) for twin in others}) > 1:
                raise InputError(f"shifts: {shift.name} is given twice with different parameters")

    def _check_starts(self) -> None:
        """Raise `InputError` unless models have the same design as their pre-trainings."""
        for name, entry in self.models.items():
            if entry.pretraining is None:
                continue
            if entry.pretraining not in self.pretraining:
                error = unknown_name("pre-training", entry.pretraining, self.pretraining)
                raise InputError(f"models.{name}: {error}")
            start = self.pretraining[entry.pretraining]
            for key in _DESIGN_KEYS:
                value, expected = getattr(entry, key), getattr(start, key)
                if value != expected:
                    raise InputError(
                        f"models.{name}: its {key} is {value}, but that of "
                        f"pretraining.{entry.pretraining} is {expected}"
                    )
        titles = [start.title for start in self.pretraining.values()]
        if twice := [title for title in titles if titles.count(title) > 1]:
            raise InputError(f"pretraining: two entries have the title {twice[0]!r}")
        for name, start in self.pretraining.items():
            if start.weights.startswith(PRETRAINING):
                raise InputError(f"pretraining.{name}: it cannot start from another pre-training")

    def _check_labels(self) -> None:
        for name, start in self.pretraining.items():
            ours, theirs = self.data, start.data
            if theirs is not None and (theirs.source, theirs.root) == (ours.source, ours.root):
                raise InputError(
                    f"pretraining.{name}: its data is that of the study, so it might train on test "
                    "images of the study; leave data out to use the study's training images"
                )
        for name, entry in self.models.items():
            if entry.changes_labels and entry.pretraining is not None:
                start = self.pretraining[entry.pretraining]
                if start.data is None and start.recipe.method == "supervised":
                    raise InputError(
                        f"models.{name}: it starts from pretraining.{entry.pretraining}, which "
                        "uses all labels of the study; then label_fraction must be 1 and "
                        "label_noise 0"
                    )
            if entry.label_noise and self.data.label_noise:
                raise InputError(
                    f"models.{name}: label_noise is set both here and in data; set only one"
                )

    def _check_seen(self) -> None:
        if self.allow_seen_shifts:
            return
        tested = {operation_name(shift.name): shift.name for shift in self.all_shifts()}
        for name, entry in self.models.items():
            for seen, how in entry.trained_on().items():
                if test := tested.get(seen):
                    same = "" if test == how else f" as {test}"
                    raise InputError(
                        f"models.{name}: it would be trained with {how} and also tested with "
                        f"it{same}; leave out one of the two, or set allow_seen_shifts: true, and "
                        "the report marks it"
                    )

    def fit_on_shifts(self) -> tuple[Shift, ...]:
        """The shifts of the validation images that are fitted on; often none."""
        return expand_fit_shifts(self.fit_on, self.all_shifts())

    def all_shifts(self) -> list[Shift | Attack]:
        """Clean first, then every level of every sweep, suite and attack, in the file's order."""
        return [CLEAN, *expand_shifts(self.shifts)]

    def seen_shifts(self) -> dict[str, dict[str, str]]:
        """The test shifts that each model was trained with, and what made them; often none.

        If a recipe is adversarial, all test attacks count as seen.
        """
        every = self.all_shifts()
        names = dict.fromkeys(shift.name for shift in every if isinstance(shift, Shift))
        attacks = dict.fromkeys(shift.name for shift in every if isinstance(shift, Attack))
        by_model = {}
        for model, entry in self.models.items():
            seen = dict(entry.trained_on())
            if entry.pretraining is not None:
                before = pretraining_operations(self.pretraining[entry.pretraining].recipe)
            else:
                before = weights_operations(entry.weights)
            seen = {name: f"{how} of its pre-training" for name, how in before.items()} | seen
            by_model[model] = {
                n: seen[operation_name(n)] for n in names if operation_name(n) in seen
            }
            if any(attempt.recipe.adversarial for attempt in entry.tries()):
                by_model[model] |= dict.fromkeys(attacks, "recipe.adversarial")
        return {model: shifts for model, shifts in by_model.items() if shifts}


def _fixed_parameters(shift: Shift | Attack) -> list[tuple[str, object]]:
    level = None if shift.level is None else shift_kind(shift.name).level
    return sorted(item for item in shift.parameters.items() if item[0] != level)


# ---------------------------------------------------------------- reading a study


_STUDY = pydantic.TypeAdapter(Study)
STUDY_KEYS = tuple(declared.name for declared in fields(Study))
_MEASURED = {declared.name for declared in fields(MeasurementOptions)}
# Pydantic's names for an unknown key, of a model and of a dataclass.
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
# A pre-training takes only the keys of its network from `defaults`, except these.
_UNSHARED_KEYS = ("title", "weights", "weights_sha256", "mean", "std")
_SHARED_KEYS = tuple(key for key in NetworkEntry.model_fields if key not in _UNSHARED_KEYS)


def load_study(
    study: str | Path, overrides: Sequence[str] = (), models: Sequence[str] = ()
) -> Study:
    """Read a study by path, or a packaged one by name, apply overrides, and check it.

    Args:
        study: such as `quickstart` or `my/study.yaml`.
        overrides: such as `recipe.epochs=2` (a key of every model), `models.basic.weights=none`
            or `data.size=32`.
        models: names of models to keep; all of them by default.
    """
    raw = _read_study(study)
    for override in overrides:
        raw = _apply_override(raw, override)
    raw = _merge_defaults(raw)
    declared, starts = raw.get("models"), raw.get("pretraining")
    if models and isinstance(declared, Mapping):
        for name in models:
            if name not in declared:
                raise unknown_name("model", name, declared)
        raw["models"] = {name: entry for name, entry in declared.items() if name in models}
        if isinstance(starts, Mapping):  # without pre-trainings that no model starts from
            entries = [entry for entry in raw["models"].values() if isinstance(entry, Mapping)]
            used = {str(entry.get("weights")) for entry in entries}
            used_starts = {
                name: start for name, start in starts.items() if f"{PRETRAINING}{name}" in used
            }
            raw["pretraining"] = used_starts
    return check_study(raw)


def write_study(study: Study) -> str:
    """Write a study as the text of its file, with all keys."""
    written = _STUDY.dump_python(study, mode="json")
    # What the study is about first, then how it is measured.
    return dump_yaml(dict(sorted(written.items(), key=lambda item: item[0] in _MEASURED)))


def check_study(raw: object) -> Study:
    """Check the content of a study file; raises `InputError` with the first mistake."""
    if not isinstance(raw, Mapping):
        raise InputError(f"a study must be a mapping of keys, found {type(raw).__name__}")
    try:
        # As JSON: strict mode then refuses text for a number, and still takes a mapping for a
        # recipe.
        return _STUDY.validate_json(json.dumps(raw))
    except (TypeError, RecursionError):
        raise InputError("a study may contain only text, numbers, lists and mappings") from None
    except pydantic.ValidationError as error:
        raise _explain_error(error) from None


def _read_study(study: str | Path) -> dict[str, Any]:
    check_study_name(str(study))
    path = Path(study)
    raw = (
        read_yaml(path)
        if path.is_file()
        else parse_yaml(packaged_studies()[str(study)], str(study))
    )
    if not isinstance(raw, dict):
        raise InputError(f"{study} must be a mapping of keys, found {type(raw).__name__}")
    return raw


def _merge_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in raw.items() if key != "defaults"}
    defaults = raw.get("defaults") or {}
    if not isinstance(defaults, Mapping):
        raise InputError(f"defaults must be a mapping of keys, found {defaults!r}")
    network = {key: value for key, value in defaults.items() if key in _SHARED_KEYS}
    for key, below in (("pretraining", network), ("models", defaults)):
        entries = merged.get(key)
        if isinstance(entries, Mapping):
            merged[key] = {
                str(name): _complete_entry(below, name, entry) for name, entry in entries.items()
            }
    return merged


def _complete_entry(below: Mapping[str, Any], name: object, entry: object) -> object:
    """Merge an entry with the defaults, which it overrides; its default title is its name.

    `recipe` is merged key by key, other keys are replaced.
    """
    if entry is not None and not isinstance(entry, Mapping):
        return entry
    merged = {**below, "title": str(name), **(entry or {})}
    lower, recipe = below.get("recipe"), merged.get("recipe")
    if isinstance(lower, Mapping) and isinstance(recipe, Mapping):
        recipe = merged["recipe"] = {**lower, **recipe}
    if isinstance(recipe, Mapping) and isinstance(views := recipe.get("views"), str):
        if views not in NAMED_VIEWS:
            raise unknown_name("views", views, NAMED_VIEWS)
        merged["recipe"] = {**recipe, "views": asdict(NAMED_VIEWS[views])}
    return merged


def _apply_override(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set takes KEY=VALUE, such as recipe.epochs=2, found {override!r}")
    changed = dict(raw)
    if keys[0] in ModelEntry.model_fields and keys[0] not in STUDY_KEYS:
        sections = ["models", *(["pretraining"] if keys[0] in _SHARED_KEYS else [])]
        places = [
            [section, name, *keys]
            for section in sections
            if isinstance(changed.get(section), Mapping)
            for name in changed[section]
        ]
    elif keys[0] in STUDY_KEYS:
        places = [keys]
    else:
        raise unknown_name("key", keys[0], [*STUDY_KEYS, *ModelEntry.model_fields])
    for section, kind in (("models", "model"), ("pretraining", "pre-training")):
        entries = changed.get(section)
        known = {str(name) for name in entries} if isinstance(entries, Mapping) else set()
        if keys[0] == section and len(keys) > 1 and keys[1] not in known:
            raise unknown_name(kind, keys[1], known)
    for place in places:
        node = changed
        for key in place[:-1]:
            below = node.get(key)
            if key == "data" and isinstance(below, str):
                below = {"source": below}
            node[key] = dict(below) if isinstance(below, Mapping) else {}
            node = node[key]
        node[place[-1]] = parse_yaml(text, override)
    return changed


def _explain_error(error: pydantic.ValidationError) -> InputError:
    """Report one error, preferably an unknown key, which may be why another key is missing."""
    errors = error.errors()
    unknown = [problem for problem in errors if problem["type"] in _UNKNOWN_KEY]
    first = (unknown or errors)[0]
    location = [str(part) for part in first["loc"]]
    place = ".".join(location)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return InputError(f"{place}: {inner}" if place else str(inner))
    if unknown:
        above = ".".join(location[:-1])
        sentence = str(unknown_name("key", location[-1], _allowed_keys(location)))
        return InputError(f"{above}: {sentence}" if above else sentence)
    if first["type"] == "json_invalid":  # JSON from Python fails only for this
        return InputError("a study may contain only text in UTF-8")
    return InputError(describe_invalid(first))


def _allowed_keys(location: Sequence[str]) -> list[str]:
    """The allowed keys at the place of an unknown one."""
    kind: Any = Study
    for key in location[:-1]:
        # Names of models, and the forms that a value may have, are no fields.
        kind = _find_class(get_type_hints(kind).get(key, kind))
    known = (
        [declared.name for declared in fields(kind)] if is_dataclass(kind) else kind.model_fields
    )
    return [*known, *(["defaults"] if kind is Study else [])]


def _find_class(hint: Any) -> Any:  # noqa: ANN401 - of types
    """The class of entries that a type stands for, such as `Rotation` for `float | Rotation`."""
    if is_dataclass(hint) or hasattr(hint, "model_fields"):
        return hint
    return next(filter(None, map(_find_class, get_args(hint))), None)

"""What a study may say: its keys, their types, and what must fit together."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, Self

import pydantic
from pydantic import PositiveFloat

from fairweather import attacks
from fairweather.attacks import ATTACKS
from fairweather.errors import InputError, unknown_name
from fairweather.measuring import kind_of
from fairweather.shifts import CLEAN, SHIFTS, suite, sweep
from fairweather.training import RECIPE_KEYS, Recipe
from fairweather.types import Attack, Shift
from fairweather.variants import check_names

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class DataEntry(_Strict):
    """The data of a study; the keys are those of `fairweather.load_data`."""

    source: str
    size: int | None = None
    root: str | None = None
    seed: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    skip_unreadable: bool = False
    label_noise: float = 0.0
    imbalance: float = 1.0
    verify: bool = True


class Try(NamedTuple):
    """One try of a sweep: the values that it varies and the whole recipe."""

    values: dict[str, Any]
    recipe: Recipe


class ModelEntry(_Strict):
    """A model of a study: a backbone, the weights that it starts from, and its recipe.

    `mean` and `std` are for weights from a file whose training statistics were not those of the
    backbone's published weights.

    `train_shifts`, written like a study's `shifts`, are changes of the training images: each image
    of a batch is left as it is or gets one of them, all with the same chance.

    `sweep` lists values of recipe keys; every combination is tried with the first seed, and the one
    with the best validation `sweep_metric` is trained with all seeds.
    """

    title: str
    backbone: str
    weights: str = "none"
    stem: Literal["imagenet", "small"] = "imagenet"
    input_size: int | None = pydantic.Field(None, ge=8, le=4096)
    mean: list[float] | None = pydantic.Field(None, min_length=3, max_length=3)
    std: list[PositiveFloat] | None = pydantic.Field(None, min_length=3, max_length=3)
    recipe: Recipe = Recipe()
    train_shifts: list[dict[str, Any]] = []
    sweep: dict[str, list[Any]] = {}
    sweep_metric: Literal["accuracy", "nll"] = "accuracy"

    @pydantic.model_validator(mode="after")
    def _check_entry(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std go together: give both or neither")
        for key, values in self.sweep.items():
            if key not in RECIPE_KEYS:
                raise unknown_name("recipe key in sweep", key, RECIPE_KEYS)
            if not values:
                raise InputError(f"sweep: {key} has no values")
        self.tries()
        self.weather()
        return self

    def weather(self) -> list[Shift]:
        """The shifts of the training images."""
        expanded = expand_shifts(self.train_shifts, "train_shifts")
        if found := [each.name for each in expanded if isinstance(each, Attack)]:
            raise InputError(f"train_shifts: {found[0]} is an attack; training takes shifts only")
        return [each for each in expanded if isinstance(each, Shift)]

    def tries(self) -> list[Try]:
        """Every combination of the swept values, as a recipe; one if nothing is swept."""
        adapter = pydantic.TypeAdapter(Recipe)
        return [
            Try(
                values := dict(zip(self.sweep, combination, strict=True)),
                adapter.validate_json(json.dumps({**asdict(self.recipe), **values})),
            )
            for combination in itertools.product(*self.sweep.values())
        ]


class Study(_Strict):
    """A study: a data set, models with their recipes, shifts, seeds.

    Attributes:
        shifts: sweeps and suites as written; `all_shifts` gives the shifts themselves.
        shift_seed: of stochastic shifts, shared by all models and seeds.
        prediction_batch_size: images in a forward pass of the evaluation.
        precision: of training: `auto`, `fp32` or `bf16`; predictions are fp32.
        bootstrap: resamples behind every interval.
        variants: each a row of its own beside every model: `temperature` scaling, fitted on the
            clean validation images, and `batchnorm` adapted to each batch of test images.
    """

    name: str
    title: str = ""
    description: str = ""
    data: DataEntry
    seeds: list[int] = pydantic.Field([0], min_length=1)
    shift_seed: int = 0
    shifts: list[dict[str, Any]] = []
    models: dict[str, ModelEntry] = pydantic.Field(min_length=1)
    prediction_batch_size: int = pydantic.Field(256, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    bootstrap: int = pydantic.Field(1000, ge=100, le=100_000)
    variants: list[str] = []

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.match(self.name):
            raise InputError(f"the name {self.name!r} must be letters, digits, '_', '-' and '.'")
        for name in self.models:
            if not _NAME.match(name):
                raise InputError(
                    f"the model name {name!r} must be letters, digits, '_', '-' and '.': "
                    "it names a folder; the title may be anything"
                )
        for seed in self.seeds:
            if not 0 <= seed < 2**63 or self.seeds.count(seed) > 1:
                raise InputError(f"seeds must be different and >= 0, found {self.seeds}")
        check_names(self.variants)
        shifts = self.all_shifts()
        levels = [(shift.name, shift.level_name) for shift in shifts]
        for shift, level in zip(shifts, levels, strict=True):
            if levels.count(level) > 1:
                raise InputError(f"shifts: {shift.name} at {shift.level_name} stands twice")
            others = [other for other in shifts if other.name == shift.name]
            if len({tuple(_fixed(other)) for other in others}) > 1:
                raise InputError(f"shifts: {shift.name} is swept twice with different parameters")
        tested = {_operation(shift.name): shift.name for shift in shifts}
        for name, entry in self.models.items():
            for shift in entry.weather():
                if test := tested.get(_operation(shift.name)):
                    same = "" if test == shift.name else f" as {test}"
                    raise InputError(
                        f"models.{name}: it would train on {shift.name}, which tests it too{same}; "
                        "a test shows how a model takes weather that it has not seen"
                    )
        return self

    def all_shifts(self) -> list[Shift | Attack]:
        """Clean first, then every level of every sweep, suite and attack, in the file's order."""
        return [CLEAN, *expand_shifts(self.shifts, "shifts")]


def _operation(name: str) -> str:
    """What a shift does, whichever family it is of."""
    last = name.rpartition("/")[2]
    return {"jpeg": "jpeg_compression", "brightness_factor": "brightness"}.get(last, last)


def expand_shifts(entries: list[dict[str, Any]], key: str) -> list[Shift | Attack]:
    """Give every level of sweeps, suites and attacks as a study writes them, in their order.

    `key` is what an error calls the list.
    """
    found: list[Shift | Attack] = []
    for entry in entries:
        if len(entry) != 1:
            raise InputError(f"{key}: each entry must be one NAME: LEVELS, found {entry}")
        ((name, levels),) = entry.items()
        if name == "suite" and not isinstance(levels, str):
            raise InputError(f"{key}: suite must be a name, found {levels!r}")
        if name in ATTACKS:
            found += attacks.sweep(name, levels)
        elif name == "suite" or name in SHIFTS:
            found += suite(levels) if name == "suite" else sweep(name, levels)
        else:
            raise unknown_name("shift or attack", name, ["suite", *SHIFTS, *ATTACKS])
    return found


def _fixed(shift: Shift | Attack) -> list[tuple[str, object]]:
    level = None if shift.level is None else kind_of(shift.name).level
    return sorted(item for item in shift.parameters.items() if item[0] != level)

"""What a study may say: its keys, their types, and what must fit together."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

import pydantic

from fairweather.errors import InputError, unknown_name
from fairweather.measuring import kind_of
from fairweather.shift_lists import expand
from fairweather.shifts import CLEAN
from fairweather.study.entries import (
    PRETRAINING,
    DataEntry,
    ModelEntry,
    PretrainingEntry,
    Strict,
)
from fairweather.study.seen import in_pretraining, in_training, in_weights, operation
from fairweather.types import Attack, Shift
from fairweather.variants import check_names

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
# What a model and the pre-training that it starts from must have in common.
_DESIGN = ("backbone", "stem", "norm", "pooling", "width", "input_size")


class Study(Strict):
    """A study: a data set, models with their recipes, shifts, seeds.

    Attributes:
        pretraining: networks that are trained first, for models to start from, by name.
        shifts: sweeps and suites as written; `all_shifts` gives the shifts themselves.
        allow_seen_shifts: let models train on what tests them; the report says which do.
        shift_seed: of stochastic shifts, shared by all models and seeds.
        ensemble: also measure the models of all seeds together, as seed `ensemble`.
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
    shifts: list[dict[str, Any]] = pydantic.Field([])
    allow_seen_shifts: bool = False
    pretraining: dict[str, PretrainingEntry] = pydantic.Field({})
    models: dict[str, ModelEntry] = pydantic.Field(min_length=1)
    ensemble: bool = False
    prediction_batch_size: int = pydantic.Field(256, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    bootstrap: int = pydantic.Field(1000, ge=100, le=100_000)
    variants: list[str] = pydantic.Field([])

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.match(self.name):
            raise InputError(f"the name {self.name!r} must be letters, digits, '_', '-' and '.'")
        for what, names in (("model", self.models), ("pre-training", self.pretraining)):
            for name in names:
                if not _NAME.match(name):
                    raise InputError(
                        f"the {what} name {name!r} must be letters, digits, '_', '-' and '.': "
                        "it names a folder; the title may be anything"
                    )
        for seed in self.seeds:
            if not 0 <= seed < 2**63 or self.seeds.count(seed) > 1:
                raise InputError(f"seeds must be different and >= 0, found {self.seeds}")
        if self.ensemble and len(self.seeds) < 2:
            raise InputError("ensemble needs the models of at least two seeds")
        check_names(self.variants)
        self._check_levels()
        self._check_starts()
        self._check_labels()
        self._check_seen()
        return self

    def _check_levels(self) -> None:
        shifts = self.all_shifts()
        levels = [(shift.name, shift.level_name) for shift in shifts]
        for shift, level in zip(shifts, levels, strict=True):
            if levels.count(level) > 1:
                raise InputError(f"shifts: {shift.name} at {shift.level_name} stands twice")
            others = [other for other in shifts if other.name == shift.name]
            if len({tuple(_fixed(other)) for other in others}) > 1:
                raise InputError(f"shifts: {shift.name} is swept twice with different parameters")

    def _check_starts(self) -> None:
        """A model that starts from a pre-training must be of the same design."""
        for name, entry in self.models.items():
            if entry.pretraining is None:
                continue
            if entry.pretraining not in self.pretraining:
                error = unknown_name("pre-training", entry.pretraining, self.pretraining)
                raise InputError(f"models.{name}: {error}")
            start = self.pretraining[entry.pretraining]
            for key in _DESIGN:
                own, other = getattr(entry, key), getattr(start, key)
                if own != other:
                    raise InputError(
                        f"models.{name}: its {key} is {own}, but that of "
                        f"pretraining.{entry.pretraining} is {other}"
                    )
        titles = [start.title for start in self.pretraining.values()]
        if twice := [title for title in titles if titles.count(title) > 1]:
            raise InputError(f"pretraining: two have the title {twice[0]!r}")
        for name, start in self.pretraining.items():
            if start.weights.startswith(PRETRAINING):
                raise InputError(f"pretraining.{name}: it cannot start from another pre-training")

    def _check_labels(self) -> None:
        for name, start in self.pretraining.items():
            if start.data is not None and _same_source(start.data, self.data):
                raise InputError(
                    f"pretraining.{name}: its data is that of the study, whose test images it "
                    "might take: leave data out for the study's own training images"
                )
        for name, entry in self.models.items():
            hidden = entry.label_fraction < 1 or entry.label_noise > 0
            if hidden and entry.pretraining is not None:
                start = self.pretraining[entry.pretraining]
                if start.data is None and start.recipe.method == "supervised":
                    raise InputError(
                        f"models.{name}: it starts from pretraining.{entry.pretraining}, which "
                        "learns from all labels of the study, so it cannot have fewer or wrong ones"
                    )
            if entry.label_noise and self.data.label_noise:
                raise InputError(f"models.{name}: label_noise is also set for the data: give one")

    def _check_seen(self) -> None:
        if self.allow_seen_shifts:
            return
        tested = {operation(shift.name): shift.name for shift in self.all_shifts()}
        for name, entry in self.models.items():
            for seen, how in in_training(entry).items():
                if test := tested.get(seen):
                    same = "" if test == how else f" as {test}"
                    raise InputError(
                        f"models.{name}: it would train on {how}, which tests it too{same}; a test "
                        "shows how a model takes weather that it has not seen: leave it out, or "
                        "set allow_seen_shifts: true to have it marked"
                    )

    def all_shifts(self) -> list[Shift | Attack]:
        """Clean first, then every level of every sweep, suite and attack, in the file's order."""
        return [CLEAN, *expand(self.shifts, "shifts")]

    def seen_shifts(self) -> dict[str, dict[str, str]]:
        """Which of the tests each model has met before, and where; often nothing.

        Attacks count where training makes any: they are all looked for with the same model.
        """
        every = self.all_shifts()
        names = dict.fromkeys(each.name for each in every if isinstance(each, Shift))
        attacks = dict.fromkeys(each.name for each in every if isinstance(each, Attack))
        found = {}
        for model, entry in self.models.items():
            met = dict(in_training(entry))
            if entry.pretraining is not None:
                before = in_pretraining(self.pretraining[entry.pretraining].recipe)
            else:
                before = in_weights(entry.weights)
            met = {name: f"{how} of its pre-training" for name, how in before.items()} | met
            found[model] = {n: met[operation(n)] for n in names if operation(n) in met}
            if any(each.recipe.adversarial for each in entry.tries()):
                found[model] |= dict.fromkeys(attacks, "recipe.adversarial")
        return {model: shifts for model, shifts in found.items() if shifts}


def _same_source(one: DataEntry, other: DataEntry) -> bool:
    return (one.source, one.root) == (other.source, other.root)


def _fixed(shift: Shift | Attack) -> list[tuple[str, object]]:
    level = None if shift.level is None else kind_of(shift.name).level
    return sorted(item for item in shift.parameters.items() if item[0] != level)

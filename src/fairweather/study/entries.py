"""What a study says of its data and its networks."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, Self

import pydantic
from pydantic import PositiveFloat

from fairweather.errors import InputError, unknown_name
from fairweather.shift_lists import expand
from fairweather.training import RECIPE_KEYS, Recipe
from fairweather.training.selfsupervised import Pretraining
from fairweather.types import Attack, Shift

# What `weights:` begins with where they are those of a pre-training of the same study.
PRETRAINING = "pretraining:"


class Strict(pydantic.BaseModel):
    """Unknown keys are errors, and quoted text is not a number."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class DataEntry(Strict):
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


class NetworkEntry(Strict):
    """A network by name, its design, and the weights that it starts from.

    `mean` and `std` are for weights from a file whose training statistics were not those of the
    backbone's published weights; `weights_sha256` is what that file must have.
    """

    title: str
    backbone: str
    weights: str = "none"
    weights_sha256: str | None = None
    stem: Literal["imagenet", "small"] = "imagenet"
    norm: Literal["batch", "group"] = "batch"
    pooling: Literal["average", "max", "average+max"] = "average"
    width: float = pydantic.Field(1.0, gt=0, allow_inf_nan=False)
    input_size: int | None = pydantic.Field(None, ge=8, le=4096)
    mean: list[float] | None = pydantic.Field(None, min_length=3, max_length=3)
    std: list[PositiveFloat] | None = pydantic.Field(None, min_length=3, max_length=3)

    @pydantic.model_validator(mode="after")
    def _check_statistics(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std go together: give both or neither")
        return self


class PretrainingEntry(NetworkEntry):
    """A pre-training: a network, images, and its recipe; models start from it by its name.

    Attributes:
        data: whose training images it takes; None: those of the study. Labels are used by
            `supervised` alone.
        seed: of this pre-training, for models of all seeds; None: each seed has its own.
        recipe: how it is done.
    """

    data: DataEntry | None = None
    seed: int | None = pydantic.Field(None, ge=0, lt=2**63)
    recipe: Pretraining


class ModelEntry(NetworkEntry):
    """A model of a study: a network and its recipe.

    `weights: pretraining:NAME` starts from what a pre-training of the study made.

    `train_shifts`, written like a study's `shifts`, are changes of the training images: each image
    of a batch is left as it is or gets one of them, all with the same chance.

    `label_fraction` of the training images are used, each class in proportion, those of a smaller
    share among those of a larger; the label of each is drawn anew with probability `label_noise`.

    `interpolations` are shares in (0, 1): for each, the model whose weights lie so far on the way
    from the probed pre-trained network to the fine-tuned one is measured too.

    `sweep` lists values of recipe keys; every combination is tried with the first seed, and the one
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
            raise InputError("weights_sha256 is that of a file, not of a pre-training of the study")
        for each in self._checked_tries():
            self._check_interpolations(each.recipe)
        self.weather()
        return self

    def _checked_tries(self) -> list[Try]:
        try:
            return self.tries()
        except pydantic.ValidationError as error:
            if not self.sweep:
                raise
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"][:1].lower() + first["msg"][1:]
            raise InputError(f"sweep: {place}: {message}, found {first['input']!r}") from None

    def _check_interpolations(self, recipe: Recipe) -> None:
        shares = self.interpolations
        if any(not 0 < share < 1 or shares.count(share) > 1 for share in shares):
            raise InputError(f"interpolations must be different and in (0, 1), found {shares}")
        if shares and not 0 < recipe.probe_epochs < recipe.epochs:
            raise InputError(
                "interpolations lead from a probed network to a fine-tuned one: set "
                f"recipe.probe_epochs between 1 and {recipe.epochs - 1}, found "
                f"{recipe.probe_epochs}"
            )

    @property
    def pretraining(self) -> str | None:
        """The name of the study's pre-training that it starts from, if it does."""
        if not self.weights.startswith(PRETRAINING):
            return None
        return self.weights.removeprefix(PRETRAINING)

    def weather(self) -> list[Shift]:
        """The shifts of the training images."""
        expanded = expand(self.train_shifts, "train_shifts")
        if found := [each.name for each in expanded if isinstance(each, Attack)]:
            raise InputError(
                f"train_shifts: {found[0]} is an attack; training takes shifts only here, and "
                "attacks as recipe.adversarial"
            )
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

"""Which of the shifts that test a model it has met before, in training or in pre-training.

A test shows how a model takes a shift that it has not seen; where it has, that must be said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pydantic

from fairweather.models import PUBLISHED_WEIGHTS
from fairweather.training import Recipe
from fairweather.training.augmix import ALL as ALL_OPERATIONS
from fairweather.training.augmix import PUBLISHED as PUBLISHED_OPERATIONS
from fairweather.training.operations import OPERATIONS, TESTED_AS
from fairweather.training.selfsupervised import Pretraining
from fairweather.types import Shift

# One operation under the names that families of shifts have for it.
_SAME = {
    "jpeg": "jpeg_compression",
    "brightness_factor": "brightness",
    **{f"{name}_{way}": name for name in ("brightness", "contrast") for way in ("up", "down")},
    **{f"gamma_corr_{way}": "gamma" for way in ("up", "down")},
}


def operation(shift: str) -> str:
    """Name what a shift does, whichever family it is of.

    >>> operation("imagenet_c/brightness"), operation("brightness_factor")
    ('brightness', 'brightness')
    """
    last = shift.rpartition("/")[2]
    return _SAME.get(last, last)


def in_training(shifts: Iterable[Shift], recipes: Iterable[Recipe]) -> Mapping[str, str]:
    """What a model is trained on of the operations that tests make, with what makes them.

    Flips are no test, and what a sweep tries counts.
    """
    found = {operation(shift.name): shift.name for shift in shifts}
    for recipe in recipes:
        found |= dict(_of_recipe(recipe))
    return found


def _of_recipe(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.rotation:
        yield "rotation", "rotation (recipe.rotation)"
    if recipe.gaussian_noise:
        yield "gaussian_noise", "gaussian_noise (recipe.gaussian_noise)"
    for key in ("trivial_augment", "rand_augment"):
        if getattr(recipe, key):
            yield from ((name, f"{name} (recipe.{key})") for name in _tested(OPERATIONS))
    if recipe.augmix:
        used = ALL_OPERATIONS if recipe.augmix.all_operations else PUBLISHED_OPERATIONS
        yield from ((name, f"{name} (recipe.augmix)") for name in _tested(used))


def _tested(operations: Iterable[str]) -> list[str]:
    """Name what some operations do as shifts do it."""
    return [operation(shift) for name in operations for shift in TESTED_AS.get(name, ())]


def in_weights(weights: str) -> Mapping[str, str]:
    """What the pre-training behind published weights, or behind a file of a run, made of the tests.

    Of a file without a run's model.json beside it nothing is known, and so of supervised weights.
    """
    if weights in PUBLISHED_WEIGHTS:
        return in_pretraining(Pretraining("barlow_twins"))  # VICReg's views are the same
    described = Path(weights).expanduser().with_name("model.json")
    if weights.startswith(("http://", "https://")) or not described.is_file():
        return {}
    try:
        recipe = json.dumps(json.loads(described.read_text())["recipe"])
        return in_pretraining(pydantic.TypeAdapter(Pretraining).validate_json(recipe))
    except (ValueError, KeyError, TypeError):  # a model's, or no file of ours
        return {}


def in_pretraining(recipe: Pretraining) -> Mapping[str, str]:
    """What a pre-training's views make of the operations that tests make."""
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
    return {name: "the views" for name, there in drawn.items() if there}

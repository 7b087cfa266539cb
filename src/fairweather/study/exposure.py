"""Which test shifts a model was already trained or pre-trained with.

A test shows how a model handles a shift that it has not seen. If it has seen the shift, the report
must say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pydantic

from fairweather.models import PUBLISHED_WEIGHTS
from fairweather.shifts.families import operation
from fairweather.training import Recipe
from fairweather.training.augmix import ALL as ALL_OPERATIONS
from fairweather.training.augmix import PUBLISHED as PUBLISHED_OPERATIONS
from fairweather.training.operations import OPERATIONS, TESTED_AS
from fairweather.training.selfsupervised import Pretraining
from fairweather.types import Shift


def in_training(shifts: Iterable[Shift], recipes: Iterable[Recipe]) -> Mapping[str, str]:
    """The operations of test shifts that a model is trained with, and what makes each of them.

    Flips do not count, since no test shift flips. All recipes that a sweep tries count.
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
    """The names of the test shifts' operations that do the same as these."""
    return [operation(shift) for name in operations for shift in TESTED_AS.get(name, ())]


def in_weights(weights: str) -> Mapping[str, str]:
    """The operations of test shifts in the pre-training of published weights or of a run's file.

    None are known for supervised weights, nor for a file without a run's model.json next to it.
    """
    if weights in PUBLISHED_WEIGHTS:
        return in_pretraining(Pretraining("barlow_twins"))  # VICReg's views are the same
    described = Path(weights).expanduser().with_name("model.json")
    if weights.startswith(("http://", "https://")) or not described.is_file():
        return {}
    try:
        recipe = json.dumps(json.loads(described.read_text(encoding="utf-8"))["recipe"])
        return in_pretraining(pydantic.TypeAdapter(Pretraining).validate_json(recipe))
    # It describes a classifier, or is no file of a run.
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def in_pretraining(recipe: Pretraining) -> Mapping[str, str]:
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
    return {name: "the views" for name, there in drawn.items() if there}

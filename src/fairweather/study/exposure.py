"""Which test shifts a model was already trained or pre-trained with.

A test shows how a model handles a shift that it has not seen. If it has seen the shift, the report
must say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pydantic

from fairweather.errors import InputError
from fairweather.models import PUBLISHED_WEIGHTS
from fairweather.shift_lists import ShiftLike, expand
from fairweather.shifts.families import operation
from fairweather.training import Recipe
from fairweather.training.augmix import ALL as ALL_OPERATIONS
from fairweather.training.augmix import PUBLISHED as PUBLISHED_OPERATIONS
from fairweather.training.operations import OPERATIONS, TESTED_AS
from fairweather.training.selfsupervised import Pretraining
from fairweather.types import Attack, Shift


def shifts_to_fit_on(
    asked: Iterable[ShiftLike], tested: Iterable[Shift | Attack]
) -> tuple[Shift, ...]:
    """The shifts of the validation images that thresholds and calibrations are fitted on.

    Args:
        asked: `clean`, and shifts and suites as in a study; nothing if nothing is fitted so.
        tested: what the models are tested under.

    Raises:
        InputError: as `expand`; or there is an attack, or `clean` alone, or a shift that is tested
            too, at any level or in another family of shifts.

    >>> [each.id for each in shifts_to_fit_on(["clean", {"gamma": [2]}], [])]
    ['clean', 'gamma,exponent=2']
    """
    distinct = list({each.id: each for each in expand(asked, "fit_on")}.values())
    found = [each for each in distinct if isinstance(each, Shift)]
    if attack := next((each for each in distinct if isinstance(each, Attack)), None):
        raise InputError(f"fit_on: {attack.name} is an attack; give only shifts here")
    if distinct and all(each.level is None for each in found):
        raise InputError(
            "fit_on: it lists only clean images, which everything is fitted on anyway: add shifts, "
            "or leave it out"
        )
    also = {operation(each.name): each.name for each in tested if each.level is not None}
    for each in found:
        if test := also.get(operation(each.name)):
            same = "" if test == each.name else f" as {test}"
            raise InputError(
                f"fit_on: {each.name} is also tested{same}: leave out one of the two, since a test "
                "under what was fitted on says nothing about other shifts"
            )
    return tuple(found)


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

"""A trial before anything is written: every shift and attack on one image, and enough images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from fairweather.attacks import ATTACKS
from fairweather.errors import InputError
from fairweather.metrics.clusters import clusters_of
from fairweather.running.inputs import Settings
from fairweather.steps.worker import splits_of
from fairweather.tasks import task_named
from fairweather.types import Attack, Dataset, Images, Shift
from fairweather.variants import Variant

ASIDE = "set some aside with validation_fraction (--validation-fraction), such as 0.2"


def check_fitted(variants: Iterable[Variant], name: str, *, has_validation: bool) -> None:
    """Raise `InputError` if a variant needs validation images and the data set has none."""
    for variant in variants:
        if variant.is_fitted and not has_validation:
            raise InputError(
                f"{variant.kind} is fitted on validation images, and {name} has none: {ASIDE}"
            )


def check_task(dataset: Dataset, settings: Settings) -> None:
    """Raise `InputError` for labels that the task refuses, and for what does not accept it."""
    task = task_named(dataset.task)
    for images in splits_of(dataset).values():
        task.check(images.labels.numpy(), images.classes)
    attacks = (each.name for each in settings.shifts if each.name in ATTACKS)
    declared = [(name, ATTACKS[name].accepts) for name in attacks]
    declared += [(each.kind, each.accepts) for each in settings.variants]
    for name, accepts in declared:
        if accepts not in task.kinds:
            raise InputError(f"{name} does not accept the task of {dataset.name}, {task.name}")


def try_out(dataset: Dataset, settings: Settings, purpose: str) -> None:
    """Raise `InputError` for what would fail later with any model: classes, variants, shifts.

    Args:
        dataset: the run's own.
        settings: how it is measured.
        purpose: what needs it, for the message.
    """
    if len(dataset.classes) < 2:
        raise InputError(
            f"{dataset.name} has only the class {dataset.classes[0]!r}: {purpose} needs at least "
            "two"
        )
    check_task(dataset, settings)
    check_fitted(settings.variants, dataset.name, has_validation=dataset.val is not None)
    if (known := dataset.val) is not None:
        keys, labels, clusters = known.keys.numpy(), known.labels.numpy(), clusters_of(known.groups)
        for variant in settings.variants:
            variant.check_images(keys, labels, known.classes, clusters)
    image = dataset.test[:1]
    try_shifts([*settings.shifts, *settings.fit_on], image, settings.shift_seed)


def try_shifts(shifts: Sequence[Shift | Attack], image: Images, seed: int) -> None:
    """Apply every shift to one image; raises `InputError` for the first that does not work."""
    for shift in shifts:
        if isinstance(shift, Shift):
            shift(image.images, image.keys, seed)


def try_model(model: nn.Module, settings: Settings, image: Images) -> None:
    """Adapt a model and attack an image that it gets wrong, if either is asked for.

    An attack then checks its settings and does not search. Raises `InputError` for one that does
    not work, also if the model gives no gradients.
    """
    for variant in settings.variants:
        variant.check_network(model)
    attacks = [each for each in settings.shifts if isinstance(each, Attack)]
    if not attacks:
        return
    inputs = image.images.float() / 255
    with torch.no_grad():
        wrong = (model(inputs).argmax(1) + 1) % len(image.classes)
    for attack in attacks:
        attack(model, inputs, wrong, image.keys, settings.shift_seed)
    if any(attack.name != "square" for attack in attacks):
        model(inputs.requires_grad_())

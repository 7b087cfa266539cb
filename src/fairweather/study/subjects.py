"""What of a study is measured: its trained models, ways between their weights, and ensembles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import safetensors.torch
from torch import nn

from fairweather import models
from fairweather.measuring import Subject
from fairweather.models import Ensemble
from fairweather.study.context import Context
from fairweather.study.training_plans import seed_title
from fairweather.study.training_steps import PROBED
from fairweather.types import ENSEMBLE, shortest


def subjects(context: Context, name: str) -> list[Subject]:
    """Everything that is measured of a model of the study that has been trained.

    For each seed the model itself, then each interpolation; then, of each of these, the ensemble of
    all seeds, if the study asks for it.
    """
    study = context.study
    shares = (None, *study.models[name].interpolations)
    found: list[Subject] = []
    for share in shares:
        each = [_trained(context, name, seed, share) for seed in study.seeds]
        found += each
        if study.ensemble:
            found.append(_together(each))
    return found


def extra_titles(context: Context) -> dict[str, str]:
    """Titles of what is measured beside the models of the study, by its name in the report."""
    return dict(_extra_titles(context))


def _extra_titles(context: Context) -> Iterator[tuple[str, str]]:
    for name, entry in context.study.models.items():
        for share in entry.interpolations:
            yield _name(name, share), _title(context, name, share)


def _name(name: str, share: float | None) -> str:
    """Name a model, or the one so far on its way from probed to fine-tuned weights."""
    return name if share is None else f"{name}+interpolated-{shortest(share)}"


def _title(context: Context, name: str, share: float | None) -> str:
    title = context.study.models[name].title
    return title if share is None else f"{title}, {_way(share)}"


def _way(share: float) -> str:
    return f"weights {100 * share:.6g}% of the way"


def _trained(context: Context, name: str, seed: int, share: float | None) -> Subject:
    folder = f"models/{name}/seed-{seed}"
    digest = context.run.checksum(f"{folder}/model.safetensors")
    load: Callable[[], nn.Module] = partial(models.load_checkpoint, context.run.path / folder)
    label = seed_title(context, name, seed)
    if share is not None:
        start = context.run.checksum(f"{folder}/{PROBED}")
        digest = _combined("interpolated", shortest(share), start, digest)
        load = partial(_interpolated, context, folder, share)
        label = f"{label}, {_way(share)}"
    return Subject(_name(name, share), seed, _title(context, name, share), label, digest, load)


def _interpolated(context: Context, folder: str, share: float) -> nn.Module:
    model = models.load_checkpoint(context.run.path / folder)
    start = safetensors.torch.load_file(context.run.path / folder / PROBED)
    model.load_state_dict(models.interpolate(start, model.state_dict(), share))
    return model


def _together(members: list[Subject]) -> Subject:
    first = members[0]
    return Subject(
        name=first.name,
        seed=ENSEMBLE,
        title=first.title,
        label=f"{first.title}, ensemble of {len(members)}",
        digest=_combined(ENSEMBLE, *(member.digest for member in members)),
        load=lambda: Ensemble([member.load() for member in members]).eval(),
        members=tuple(members),
    )


def _combined(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()

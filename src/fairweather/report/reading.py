"""What a run folder says, as plain records and tidy frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from fairweather.errors import InputError
from fairweather.report.contents import Contents
from fairweather.report.sweeps import Sweep
from fairweather.report.words import ENSEMBLE_SUFFIX, MEAN, base_model
from fairweather.runs import RunFolder, read_json
from fairweather.types import ENSEMBLE, shortest
from fairweather.yamlfile import read_yaml


def read_contents(run: RunFolder) -> Contents:
    """Read study, provenance and scores; raises `InputError` when one of them is not there."""
    for name in ("study.yaml", "provenance.json", "scores.csv"):
        if not run.file(name).is_file():
            raise InputError(f"{run.path} has no {name}: the study has not been scored yet")
    study = read_yaml(run.path / "study.yaml")
    provenance = read_json(run.path / "provenance.json")
    scores = ensembles_as_models(run.scores)
    if scores.empty:
        raise InputError(f"{run.path}/scores.csv has no rows: there is nothing to report")
    variants = _with_ensembles(study["models"], provenance)
    titles = _titles(study["models"], variants, set(scores["model"]))
    sweeps = _told_apart([_sweep(entry) for entry in provenance["shifts"]])
    return Contents(study, provenance, titles, sweeps, scores, {"": run})


def _titles(
    models: Mapping[str, Mapping[str, Any]], variants: Mapping[str, str], scored: set[str]
) -> dict[str, str]:
    """Title what was scored: the study's models in its order, each before its variants."""
    titles: dict[str, str] = {}
    for name, model in models.items():
        titles[name] = str(model.get("title") or name)
        titles |= {each: title for each, title in variants.items() if base_model(each) == name}
    titles = {name: title for name, title in titles.items() if name in scored}
    uses = Counter(titles.values())
    # Two models under one title would be drawn as one.
    return {
        name: title if uses[title] == 1 else f"{title} ({name})" for name, title in titles.items()
    }


def _with_ensembles(
    models: Mapping[str, Mapping[str, Any]], provenance: Mapping[str, Any]
) -> dict[str, str]:
    """Titles of what stands beside the models, with an ensemble of each where there are some."""
    variants = dict(provenance.get("variants", {}))
    if members := provenance.get("ensembles"):
        single = {name: str(model.get("title") or name) for name, model in models.items()}
        for name, title in {**single, **variants}.items():
            variants[name + ENSEMBLE_SUFFIX] = f"{title}, ensemble of {members}"
    return variants


def ensembles_as_models(scores: pd.DataFrame) -> pd.DataFrame:
    """Make a model of its own of the rows of seed `ensemble`; it stands beside the mean of seeds.

    >>> rows = pd.DataFrame({"model": ["a", "a"], "seed": ["mean", "ensemble"]})
    >>> ensembles_as_models(rows).to_numpy().tolist()
    [['a', 'mean'], ['a+ensemble', 'mean']]
    """
    together = scores["seed"] == ENSEMBLE
    models = scores["model"].where(~together, scores["model"] + ENSEMBLE_SUFFIX)
    return scores.assign(model=models, seed=scores["seed"].where(~together, MEAN))


def _told_apart(sweeps: Sequence[Sweep]) -> tuple[Sweep, ...]:
    """Add the name to titles that two shifts share, since they would be drawn as one."""
    uses = Counter(sweep.title for sweep in sweeps)
    return tuple(
        sweep if uses[sweep.title] == 1 else replace(sweep, title=f"{sweep.title} ({sweep.name})")
        for sweep in sweeps
    )


def _sweep(entry: Mapping[str, Any]) -> Sweep:
    cells = sorted(entry["cells"], key=lambda cell: float(cell["level"]))
    return Sweep(
        name=entry["name"],
        title=entry["title"],
        level_title=entry["level_title"],
        neutral=float(entry["neutral"]),
        note=entry.get("note") or "",
        cells={shortest(float(cell["level"])): cell["id"] for cell in cells},
        constants={
            shortest(float(cell["level"])): cell["constants"]
            for cell in cells
            if "constants" in cell
        },
    )

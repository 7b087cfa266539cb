"""What each model is and how it was trained, as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairweather.report.contents import Contents
from fairweather.report.tables import ABSENT
from fairweather.report.trained import read_recipes, read_starts
from fairweather.report.words import base_model
from fairweather.types import in_255ths


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys and plain text.

    >>> list(flatten({"git": {"dirty": False}, "seeds": [0, 1]}))
    [('git.dirty', 'no'), ('seeds', '0; 1')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _plain(value)


def _plain(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return in_255ths(value) or f"{value:g}"
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value)


def settings(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Name each setting that does something for some model, with its value for every model."""
    recipes, starts = read_recipes(contents), read_starts(contents)
    models = []
    for name in contents.titles:
        entry = dict(contents.study["models"][base_model(name)])
        recipe = _effective(recipes.get(base_model(name), {}))
        tuning = {key: entry.pop(key, None) for key in ("sweep", "sweep_metric")}
        start = {"started_from": starts.get(base_model(name), {})} if starts else {}
        described = entry | start | {"recipe": recipe} | (tuning if tuning["sweep"] else {})
        models.append(dict(flatten(described)))
    keys = dict.fromkeys(key for model in models for key in model if key != "title")
    # Where some models have parts of a setting, that others have none of it is told by these.
    parents = {key.rpartition(".")[0] for key in keys}
    for key in (key for key in keys if key not in parents):
        yield key, [model.get(key, ABSENT) for model in models]


def _effective(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the knobs that do nothing beside the others, and write rotation as one."""
    schedule = recipe.get("schedule")
    idle = {
        "momentum": recipe.get("optimizer") != "sgd",
        "schedule_gamma": schedule not in ("exponential", "step"),
        "schedule_step": schedule != "step",
    }
    kept = {key: value for key, value in recipe.items() if not idle.get(key)}
    if rotation := kept.get("rotation"):
        kept["rotation"] = f"{rotation['degrees']:g}°, p = {rotation['probability']:g}"
    return kept

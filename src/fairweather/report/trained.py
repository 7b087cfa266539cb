"""What the trainings of a run left: histories, recipes, what they started from, what was tried."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from fairweather.report.contents import Contents
from fairweather.runs import read_json

# Columns of history.csv: what each is, and of which images.
TRACED = {
    "train_accuracy": ("accuracy", "training"),
    "val_accuracy": ("accuracy", "validation"),
    "train_loss": ("loss", "training"),
    "val_loss": ("loss", "validation"),
    "learning_rate": ("learning rate", "training"),
}
STARTED_FROM = ("file", "sha256", "left_out", "head")  # what is told of weights


def read_histories(contents: Contents) -> pd.DataFrame:
    """Read what each epoch came to: title, seed, epoch, what, part and value, one number a row.

    `what` is accuracy, loss or learning rate, and `part` training or validation. It has no rows
    when nothing was trained.
    """
    frames = [pd.DataFrame(columns=["title", "seed", "epoch", "what", "part", "value"])]
    for name, title in contents.titles.items():
        for seed in contents.seeds_of(name):
            path = contents.training_file(name, f"seed-{seed}/history.csv")
            if path.is_file():
                frames.append(_history(path.read_text()).assign(title=title, seed=seed))
    # Concatenating typed frames with an empty, untyped one would untype them.
    return pd.concat(frames[1:], ignore_index=True) if len(frames) > 1 else frames[0]


class Time(NamedTuple):
    """How long a training took, as text."""

    title: str
    seed: str
    epochs: str
    speed: str
    time: str


def read_times(contents: Contents) -> list[Time]:
    """Read how long each training took; of trainings that did not write it down, only the speed."""
    found = []
    for name, title in contents.titles.items():
        for seed in contents.seeds_of(name):
            path = contents.training_file(name, f"seed-{seed}/history.csv")
            if path.is_file():
                history = pd.read_csv(io.StringIO(path.read_text()))
                speed = history.get("images_per_second", pd.Series(dtype=float)).median()
                seconds = history.get("seconds", pd.Series(dtype=float)).sum(min_count=1)
                found.append(
                    Time(title, seed, f"{len(history)}", _number(speed), in_time(float(seconds)))
                )
    return found


def in_time(seconds: float) -> str:
    """Write a duration.

    >>> in_time(75.4), in_time(3725.0), in_time(float("nan"))
    ('1:15 min', '1:02 h', '–')
    """
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def read_recipes(contents: Contents) -> dict[str, Mapping[str, Any]]:
    """Read the recipe that trained each model, by its name; a sweep may have changed the study's.

    The first seed stands for all; a model that was not trained is left out.
    """
    described = ((name, _described(contents, name)) for name in contents.titles)
    return {name: facts["recipe"] for name, facts in described if "recipe" in facts}


def read_starts(contents: Contents) -> dict[str, Mapping[str, Any]]:
    """Read what weights each model started from, by its name, where it did not start from none.

    The first seed stands for all.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name in contents.titles:
        facts = _described(contents, name).get("weights", {})
        if facts.get("weights", "none") != "none":
            found[name] = {key: facts[key] for key in STARTED_FROM if facts.get(key)}
    return found


def read_tries(contents: Contents) -> dict[str, pd.DataFrame]:
    """Read what each hyperparameter sweep of the study tried, as text, by the model's title."""
    paths = {
        title: contents.training_file(name, "sweep.csv")
        for name, title in contents.titles.items()
        if contents.study["models"].get(name, {}).get("sweep")
    }
    return {
        title: pd.read_csv(path, dtype=str, keep_default_na=False)
        for title, path in paths.items()
        if path.is_file()
    }


def read_warnings(contents: Contents) -> dict[str, str]:
    """Read what is wrong with a model's numbers under attack, by its title; often nothing."""
    found: dict[str, str] = {}
    for label, run in contents.runs.items():
        path = run.file("warnings.json")
        told = read_json(path) if path.is_file() else {}
        prefix = f"{label}: " if label else ""
        found |= {f"{prefix}{title}": words for title, words in told.items()}
    return found


def _described(contents: Contents, name: str) -> Mapping[str, Any]:
    """What model.json says of a model's first seed; nothing of what was not trained."""
    path = contents.training_file(name, f"seed-{contents.seeds_of(name)[0]}/model.json")
    return read_json(path) if path.is_file() else {}


def _history(text: str) -> pd.DataFrame:
    history = pd.read_csv(io.StringIO(text))
    kept = [column for column in TRACED if column in history]
    long = history.melt("epoch", kept, var_name="column").dropna(subset=["value"])
    what, part = (
        long["column"].map({name: row[at] for name, row in TRACED.items()}) for at in (0, 1)
    )
    return long.drop(columns="column").assign(what=what, part=part)

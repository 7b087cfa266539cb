"""What the trainings of a run stored: histories, recipes, starting weights, and tries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pydantic
from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.record import (
    CORRELATION,
    DESCRIPTION,
    HISTORY,
    WARNINGS,
    Frozen,
    pretraining_folder,
    sweep_table,
)
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
PRETRAINED = ("epoch", "knn_accuracy", "embedding_std")  # columns of a pre-training's history.csv
STARTED_FROM = ("file", "sha256", "left_out", "head")  # what is told of weights


class History(NamedTuple):
    """What one training wrote after each epoch, one column for each number."""

    title: str
    seed: str
    epochs: pd.DataFrame


def read_histories(contents: Contents) -> pd.DataFrame:
    """Read the numbers of each epoch: title, seed, epoch, what, part and value, one in each row.

    `what` is accuracy, loss or learning rate, and `part` training or validation. It has no rows
    when nothing was trained.
    """
    frames = [
        _long(each.epochs).assign(title=each.title, seed=each.seed)
        for each in _model_histories(contents)
    ]
    # Concatenating typed frames with an empty, untyped one would untype them.
    empty = pd.DataFrame(columns=["title", "seed", "epoch", "what", "part", "value"])
    return pd.concat(frames, ignore_index=True) if frames else empty


class Time(NamedTuple):
    """How long a training took, as text."""

    title: str
    seed: str
    epochs: str
    speed: str
    time: str


def read_times(contents: Contents) -> list[Time]:
    """Read how long each training took; where that was not stored, only the speed."""
    found = []
    for title, seed, epochs in _model_histories(contents):
        speed = epochs.get("images_per_second", pd.Series(dtype=float)).median()
        seconds = epochs.get("seconds", pd.Series(dtype=float)).sum(min_count=1)
        found.append(Time(title, seed, f"{len(epochs)}", _number(speed), in_time(float(seconds))))
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


def read_recipes(contents: Contents) -> dict[str, Mapping[str, JsonValue]]:
    """Read the recipe that trained each model, by its name; a sweep may have changed the study's.

    The first seed stands for all; a model that was not trained is left out.
    """
    described = ((name, _described(contents, name)) for name in contents.titles)
    return {
        name: recipe for name, facts in described if isinstance(recipe := facts.get("recipe"), dict)
    }


def read_starts(contents: Contents) -> dict[str, Mapping[str, JsonValue]]:
    """Read what weights each model started from, by its name; of random ones nothing is said.

    The first seed stands for all.
    """
    found: dict[str, Mapping[str, JsonValue]] = {}
    for name in contents.titles:
        facts = _described(contents, name).get("weights")
        if isinstance(facts, dict) and facts.get("weights", "none") != "none":
            found[name] = {key: facts[key] for key in STARTED_FROM if facts.get(key)}
    return found


def read_tries(contents: Contents) -> dict[str, pd.DataFrame]:
    """Read what each hyperparameter sweep of the study tried, as text, by the model's title."""
    paths = {
        contents.titles[name]: contents.home(name).run.file(sweep_table(contents.home(name).name))
        for name, model in contents.models.items()
        if name in contents.titles and model.settings.get("sweep")
    }
    return {
        title: _table(path, dtype=str, keep_default_na=False)
        for title, path in paths.items()
        if path.is_file()
    }


def read_warnings(contents: Contents) -> dict[str, str]:
    """Read the warnings about a model's numbers under attack, by its title; often there is none."""
    found: dict[str, str] = {}
    for label, run in contents.runs.items():
        path = run.file(WARNINGS)
        told = read_json(path) if path.is_file() else {}
        if not all(isinstance(words, str) for words in told.values()):
            raise InputError(f"{path} must hold a sentence for each model")
        prefix = f"{label}: " if label else ""
        found |= {f"{prefix}{title}": words for title, words in told.items()}
    return found


def read_pretraining_histories(contents: Contents) -> list[History]:
    """Read what each pre-training wrote down, of each of its seeds."""
    return [
        History(title, seed, _history(path, PRETRAINED))
        for title, seed, path in _pretraining_files(contents, HISTORY)
    ]


class Correlation(NamedTuple):
    """The cross-correlation of the embeddings of two views, by row, around a pre-training."""

    title: str
    before: list[list[float]]
    after: list[list[float]]


class _Matrices(Frozen):
    """The content of correlation.json."""

    before: list[list[float]]
    after: list[list[float]]


def read_correlations(contents: Contents) -> list[Correlation]:
    """Read the cross-correlation of each pre-training that has one.

    The first seed stands for all.
    """
    found: dict[str, Correlation] = {}
    for title, _, path in _pretraining_files(contents, CORRELATION):
        if title not in found:
            try:
                matrices = _Matrices.model_validate(read_json(path))
            except pydantic.ValidationError:
                raise InputError(f"{path} does not hold two matrices, before and after") from None
            found[title] = Correlation(title, matrices.before, matrices.after)
    return list(found.values())


def _pretraining_files(contents: Contents, file: str) -> Iterator[tuple[str, str, Path]]:
    """Title, seed and path of a file of each pre-training that has it."""
    for name, entry in contents.pretraining.items():
        run, inner = contents.home(name)
        own = entry.settings.get("seed")
        for seed in contents.seeds if own is None else (str(own),):
            path = run.file(f"{pretraining_folder(inner, int(seed))}/{file}")
            if path.is_file():
                yield entry.title, seed, path


def _model_histories(contents: Contents) -> Iterator[History]:
    for name, title in contents.titles.items():
        for seed in contents.seeds_of(name):
            path = contents.training_file(name, seed, HISTORY)
            if path.is_file():
                yield History(title, seed, _history(path, ("epoch",)))


def _history(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """Read the numbers of each epoch; raises `InputError` unless these columns are numbers."""
    table = _table(path)
    for name in needed:
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path} is not the table of a training: it has no numbers {name}")
    return table


def _table(path: Path, **how: Any) -> pd.DataFrame:  # noqa: ANN401 - of pandas
    try:
        return pd.read_csv(path, **how)
    except ValueError as error:  # also for what is no text, or empty
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not the table of a training: {reason}") from None


def _described(contents: Contents, name: str) -> Mapping[str, JsonValue]:
    """What model.json says of a model's first seed; nothing of what was not trained."""
    path = contents.training_file(name, contents.seeds_of(name)[0], DESCRIPTION)
    return read_json(path) if path.is_file() else {}


def _long(history: pd.DataFrame) -> pd.DataFrame:
    kept = [column for column in TRACED if column in history]
    long = history.melt("epoch", kept, var_name="column").dropna(subset=["value"])
    what, part = (
        long["column"].map({name: row[at] for name, row in TRACED.items()}) for at in (0, 1)
    )
    return long.drop(columns="column").assign(what=what, part=part)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"

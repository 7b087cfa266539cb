"""What a run folder says, as plain records and tidy frames: the only part that opens its files."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from fairweather.errors import InputError
from fairweather.runs import RunFolder
from fairweather.types import ENSEMBLE, Score, shortest
from fairweather.yamlfile import read_yaml

# The words of scores.csv.
CLEAN, VALIDATION, NO_LEVEL, MEAN = "clean", "validation", "none", "mean"
SUMMARIES = (MEAN, "sd")  # of seeds
SUMMARY_LEVELS = (MEAN, "worst")
STARTED_FROM = ("file", "sha256", "left_out", "head")  # what is told of weights
ENSEMBLE_SUFFIX = f"+{ENSEMBLE}"


@dataclass(frozen=True)
class Sweep:
    """One shift at its levels, as provenance.json describes it.

    Attributes:
        name: as scores.csv writes it.
        title, level_title: for table heads and axes.
        neutral: the level that changes nothing, where clean stands on the axis.
        note: what a reader has to know about the levels; maybe empty.
        cells: the id of each shifted test set by its level as scores.csv writes it, ascending.
    """

    name: str
    title: str
    level_title: str
    neutral: float
    note: str
    cells: Mapping[str, str]

    @property
    def file_name(self) -> str:
        """The name as part of a file's name."""
        return self.name.replace("/", "__")

    def heading(self, level: str) -> str:
        """Write a level the way a paper does: with the letter that the level's title ends in.

        At most four significant digits, unless two levels would then read the same.

        >>> Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}).heading("0.8")
        'f = 0.8'
        >>> Sweep("s", "Snow", "severity", 0.0, "", {}).heading("3")
        '3'
        >>> Sweep("p", "PGD", "budget ε", 0.0, "", {}).heading("0.00784313725490196")
        'ε = 0.007843'
        """
        short = _four_digits(level)
        if [_four_digits(other) for other in self.cells].count(short) > 1:
            short = level
        symbol = re.search(r"\s(\w)(?:\s*\(.*\))?$", self.level_title)
        return f"{symbol[1]} = {short}" if symbol else short


@dataclass(frozen=True)
class Contents:
    """Everything that tables and figures draw on.

    Attributes:
        study, provenance: study.yaml and provenance.json as they stand.
        titles: the title of each model and variant that has scores, in the study's order.
        sweeps: the shifts, in the study's order.
        scores: scores.csv, its level and seed as text.
    """

    study: Mapping[str, Any]
    provenance: Mapping[str, Any]
    titles: Mapping[str, str]
    sweeps: tuple[Sweep, ...]
    scores: pd.DataFrame

    @property
    def seeds(self) -> tuple[str, ...]:
        """The seeds that have scores, as scores.csv writes them."""
        return tuple(seed for seed in self.scores["seed"].unique() if seed not in SUMMARIES)

    def seeds_of(self, model: str) -> tuple[str, ...]:
        """The seeds that a model was trained with; an ensemble is one model of all of them."""
        return (ENSEMBLE,) if model.endswith(ENSEMBLE_SUFFIX) else self.seeds

    @property
    def shown_seed(self) -> str:
        """The seed whose scores are shown: the mean over seeds if there are several."""
        return MEAN if len(self.seeds) > 1 else self.seeds[0]

    def pick(self, metric: str, shift: str, seed: str | None = None) -> pd.DataFrame:
        """Return the rows of scores.csv for a metric and a shift, of the shown seed by default."""
        scores = self.scores
        wanted = (scores["metric"] == metric) & (scores["shift"] == shift)
        return scores[wanted & (scores["seed"] == (seed or self.shown_seed))]

    def find(self, metric: str, model: str, shift: str, level: str) -> pd.DataFrame:
        """Return the one row of scores.csv of the shown seed; no row where there is none."""
        rows = self.pick(metric, shift)
        return rows[(rows["model"] == model) & (rows["level"] == level)]

    def score(self, metric: str, model: str, shift: str, level: str) -> Score | None:
        """Return a number of the shown seed, or None where there is none."""
        rows = self.find(metric, model, shift, level)
        if rows.empty:
            return None
        value, low, high = (float(rows[column].iloc[0]) for column in ("value", "low", "high"))
        return Score(value, low, high, n=int(rows["n"].iloc[0]))

    def sample(self) -> str:
        """Say how many images, resamples and seeds are behind each number."""
        beside = self.scores["shift"].str.startswith(("priors/", "ood/", VALIDATION))
        counts = sorted(self.scores["n"][~beside].unique())
        images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        seeds = f"seed {self.seeds[0]}"
        if len(self.seeds) > 1:
            seeds = (
                f"mean of seeds {', '.join(self.seeds)}; the intervals are for this mean and do "
                "not include seed-to-seed variation"
            )
        if any(name.endswith(ENSEMBLE_SUFFIX) for name in self.titles):
            seeds += "; an ensemble is one model of all seeds"
        return f"n = {images} test images, {self.study['bootstrap']:,} resamples, {seeds}"


class Mixup(NamedTuple):
    """Two pictures with their labels, and their mixture with the weight of the first."""

    pictures: tuple[Image.Image, Image.Image, Image.Image]
    labels: tuple[str, str]
    weight: float


class Samples(NamedTuple):
    """The few pictures of a run: their class names, and what each shifted test set made of them."""

    labels: tuple[str, ...]
    strips: Mapping[str, tuple[Image.Image, ...]]
    mixup: Mixup | None


def read_contents(run: RunFolder) -> Contents:
    """Read study, provenance and scores; raises `InputError` when one of them is not there."""
    for name in ("study.yaml", "provenance.json", "scores.csv"):
        if not (run.path / name).is_file():
            raise InputError(f"{run.path} has no {name}: the study has not been scored yet")
    study = read_yaml(run.path / "study.yaml")
    provenance = json.loads((run.path / "provenance.json").read_text())
    scores = ensembles_as_models(run.scores)
    if scores.empty:
        raise InputError(f"{run.path}/scores.csv has no rows: there is nothing to report")
    variants = _with_ensembles(study["models"], provenance)
    titles = _titles(study["models"], variants, set(scores["model"]))
    sweeps = tuple(_sweep(entry) for entry in provenance["shifts"])
    return Contents(study, provenance, titles, sweeps, scores)


def read_histories(run: RunFolder, contents: Contents) -> pd.DataFrame:
    """Read the accuracy of each epoch: title, seed, epoch, part (training, validation), accuracy.

    It has no rows when nothing was trained.
    """
    frames = [pd.DataFrame(columns=["title", "seed", "epoch", "part", "accuracy"])]
    for name, title in contents.titles.items():
        for seed in contents.seeds:
            path = run.path / "models" / name / f"seed-{seed}" / "history.csv"
            if path.is_file():
                frames.append(_history(path.read_text()).assign(title=title, seed=seed))
    # Concatenating typed frames with an empty, untyped one would untype them.
    return pd.concat(frames[1:], ignore_index=True) if len(frames) > 1 else frames[0]


def read_recipes(run: RunFolder, contents: Contents) -> dict[str, Mapping[str, Any]]:
    """Read the recipe that trained each model, by its name; a sweep may have changed the study's.

    The first seed stands for all; a model that was not trained is left out.
    """
    paths = {
        name: run.path / "models" / name / f"seed-{contents.seeds[0]}" / "model.json"
        for name in contents.titles
    }
    return {
        name: json.loads(path.read_text())["recipe"]
        for name, path in paths.items()
        if path.is_file()
    }


def read_starts(run: RunFolder, contents: Contents) -> dict[str, Mapping[str, Any]]:
    """Read what weights each model started from, by its name, where it did not start from none.

    The first seed stands for all.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name in contents.titles:
        path = run.path / "models" / name / f"seed-{contents.seeds[0]}" / "model.json"
        facts = json.loads(path.read_text()).get("weights", {}) if path.is_file() else {}
        if facts.get("weights", "none") != "none":
            found[name] = {key: facts[key] for key in STARTED_FROM if facts.get(key)}
    return found


def read_tries(run: RunFolder, contents: Contents) -> dict[str, pd.DataFrame]:
    """Read what each hyperparameter sweep of the study tried, as text, by the model's title."""
    paths = {
        title: run.path / "models" / name / "sweep.csv"
        for name, title in contents.titles.items()
        if contents.study["models"].get(name, {}).get("sweep")
    }
    return {
        title: pd.read_csv(path, dtype=str, keep_default_na=False)
        for title, path in paths.items()
        if path.is_file()
    }


def read_warnings(run: RunFolder) -> dict[str, str]:
    """Read what is wrong with a model's numbers under attack, by its title; often nothing."""
    path = run.path / "warnings.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def read_samples(run: RunFolder) -> Samples | None:
    """Read the pictures, or None where the run has none."""
    index_path = run.path / "samples" / "index.json"
    if not index_path.is_file():
        return None
    index = json.loads(index_path.read_text())
    strips = {
        cell: _cut(_read_strip(run, name), index["width"]) for cell, name in index["strips"].items()
    }
    mixup = None
    if described := index.get("mixup"):
        strip = _read_strip(run, described["file"])
        first, second, mixture = _cut(strip, strip.width // 3)
        labels = (str(described["labels"][0]), str(described["labels"][1]))
        mixup = Mixup((first, second, mixture), labels, float(described["weight"]))
    return Samples(tuple(str(label) for label in index["labels"]), strips, mixup)


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


def predictions_folder(model: str, seed: str) -> str:
    """Where the predictions of a model lie inside a run folder.

    >>> predictions_folder("basic+ensemble", "ensemble")
    'predictions/basic/seed-ensemble'
    """
    return f"predictions/{model.removesuffix(ENSEMBLE_SUFFIX)}/seed-{seed}"


def base_model(name: str) -> str:
    """The model that a variant is one of; a model is its own.

    >>> base_model("basic+temperature"), base_model("basic")
    ('basic', 'basic')
    """
    return name.partition("+")[0]


def _four_digits(level: str) -> str:
    return shortest(float(f"{float(level):.4g}"))


def _sweep(entry: Mapping[str, Any]) -> Sweep:
    cells = sorted(entry["cells"], key=lambda cell: float(cell["level"]))
    return Sweep(
        name=entry["name"],
        title=entry["title"],
        level_title=entry["level_title"],
        neutral=float(entry["neutral"]),
        note=entry.get("note") or "",
        cells={shortest(float(cell["level"])): cell["id"] for cell in cells},
    )


def _history(text: str) -> pd.DataFrame:
    history = pd.read_csv(io.StringIO(text))
    parts = {"train_accuracy": "training", "val_accuracy": "validation"}
    long = history.melt("epoch", list(parts), var_name="part", value_name="accuracy")
    return long.assign(part=long["part"].map(parts)).dropna(subset=["accuracy"])


def _read_strip(run: RunFolder, name: str) -> Image.Image:
    """Read pictures that stand side by side in one file."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"samples/index.json names a file outside the run folder: {name}")
    with Image.open(run.path / name) as file:
        return file.convert("RGB")


def _cut(strip: Image.Image, width: int) -> tuple[Image.Image, ...]:
    lefts = range(0, strip.width, width)
    return tuple(strip.crop((left, 0, left + width, strip.height)) for left in lefts)

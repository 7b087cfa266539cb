"""The published numbers in this package that a run can be compared with."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

import pandas as pd
from pydantic import ConfigDict, JsonValue

from fairweather.errors import unknown_name
from fairweather.record import CLEAN, MEAN, Frozen
from fairweather.yamlfile import parse_yaml

# Each is a pair of files in `published/`: NAME.csv with the numbers, NAME.yaml with the facts.
REFERENCES = ("paper",)


class PublishedModel(Frozen):
    """A published model.

    Attributes:
        title: as published.
        run: its run file, without the suffix, if there is one.
        note: what a reader has to know about it; may be empty.
        training: the published settings, with the keys of a study's model and its recipe.
    """

    title: str
    run: str | None = None
    note: str = ""
    training: dict[str, JsonValue]


class StudyFacts(Frozen):
    """What NAME.yaml says about a study.

    Attributes:
        title: of the study.
        data: the data set's name, without resolution.
        classes: how many classes it has.
        size: height and width of the images; None if they were not published.
        test_images: their number; None if it was not published.
        note: what a reader has to know.
        training: the settings of every model.
        models: by their keys in this package's study.
    """

    title: str
    data: str
    classes: int
    size: tuple[int, int] | None
    test_images: int | None
    note: str
    training: dict[str, JsonValue]
    models: dict[str, PublishedModel]


class _Facts(Frozen):
    """The content of NAME.yaml."""

    title: str
    shifts: dict[str, str]
    studies: dict[str, StudyFacts]


class PublishedNumber(NamedTuple):
    """A published number; its first four fields are as in scores.csv."""

    model: str
    shift: str
    level: str
    metric: str
    value: float
    source: str


class PublishedStudy(StudyFacts):
    """What was published about one data set.

    Attributes:
        name: of the study.
        shifts: the title of each shift, clean first.
        numbers: model, shift, level, cell, metric, value, decimals, source; several rows for a
            number that is both in a run file and in a table.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    shifts: dict[str, str]
    numbers: pd.DataFrame

    def cells(self, shift: str) -> dict[str, str]:
        """Give the id of each shifted test set of a shift by its level, ascending."""
        rows = self.numbers[(self.numbers["shift"] == shift) & (self.numbers["level"] != MEAN)]
        pairs = dict(zip(rows["level"], rows["cell"], strict=True))
        return {level: pairs[level] for level in sorted(pairs, key=float)}


def read_published(reference: str) -> list[PublishedStudy]:
    """Read the published studies of a reference; raises `InputError` for an unknown name.

    >>> [study.name for study in read_published("paper")]
    ['pathmnist', 'oxford-pets']
    """
    if reference not in REFERENCES:
        raise unknown_name("reference", reference, REFERENCES)
    folder = resources.files("fairweather") / "published"
    text = (folder / f"{reference}.yaml").read_text(encoding="utf-8")
    facts = _Facts.model_validate(parse_yaml(text))
    text = (folder / f"{reference}.csv").read_text(encoding="utf-8")
    columns = pd.read_csv(io.StringIO(text), comment="#", dtype=str, keep_default_na=False)
    numbers = columns.astype({"value": float})
    return [_study(name, study, facts.shifts, numbers) for name, study in facts.studies.items()]


def best_numbers(study: PublishedStudy) -> list[PublishedNumber]:
    """Give each published number once and as precisely as it is known.

    A number of a run file replaces the printed one, and the mean of its levels the printed mean.

    >>> study, _ = read_published("paper")
    >>> best_numbers(study)[0]
    PublishedNumber(model='basic', shift='clean', level='none', metric='accuracy',
                    value=0.8231197771587744, source='basic_0.train.jsonl')
    """
    numbers = study.numbers
    exact, printed = numbers[numbers["decimals"] == ""], numbers[numbers["decimals"] != ""]
    everything = pd.concat([exact, _means(exact), printed], ignore_index=True)
    once = everything.drop_duplicates(list(PublishedNumber._fields[:4]))
    rows = once[list(PublishedNumber._fields)].itertuples(index=False)
    return [PublishedNumber(*row) for row in rows]


def _means(numbers: pd.DataFrame) -> pd.DataFrame:
    levels = numbers[numbers["shift"] != CLEAN]
    groups = levels.groupby(["model", "shift", "metric", "source"], sort=False)
    means = groups["value"].mean().reset_index()
    return means.assign(level=MEAN, source="mean of " + means["source"])


def _study(
    name: str, facts: StudyFacts, shifts: Mapping[str, str], numbers: pd.DataFrame
) -> PublishedStudy:
    models = {
        key: model.model_copy(update={"training": {**facts.training, **model.training}})
        for key, model in facts.models.items()
    }
    own = numbers[numbers["study"] == name].drop(columns="study")
    described = {**dict(facts), "models": models}
    return PublishedStudy(name=name, shifts=dict(shifts), numbers=own, **described)

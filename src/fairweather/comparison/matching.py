"""A run's numbers beside the published ones, matched by data set, model, shifted images, metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fairweather.comparison.published import PublishedNumber, PublishedStudy, best_numbers
from fairweather.errors import InputError
from fairweather.report.contents import Contents
from fairweather.report.tables import METRIC
from fairweather.report.words import CLEAN, MEAN
from fairweather.types import Score


@dataclass(frozen=True)
class Pair:
    """A published number and the run's.

    Attributes:
        published: the number, what it is of and where it stands.
        standard_error: binomial, of a published share of a known number of images; else NaN.
        measured: None where the run did not measure it.
    """

    published: PublishedNumber
    standard_error: float
    measured: Score | None

    @property
    def difference(self) -> float:
        """Measured − published; NaN where the run did not measure it."""
        return self.measured.value - self.published.value if self.measured else math.nan

    @property
    def inside(self) -> bool:
        """Say whether the published number lies in the run's interval, its ends included."""
        measured = self.measured
        return measured is not None and measured.low <= self.published.value <= measured.high


def match_study(contents: Contents, studies: Sequence[PublishedStudy]) -> PublishedStudy:
    """Find the published study on a run's data set that shares a model with the run.

    The data sets are the same if their names are, up to a resolution behind `@`, and they have as
    many classes. Raises `InputError` when there is no such study.
    """
    data = contents.provenance["data"]
    classes = len(data["classes"])
    for study in studies:
        if study.data == data["name"].partition("@")[0] and study.classes == classes:
            if not set(study.models) & set(contents.titles):
                raise InputError(
                    f"the run has the models {', '.join(contents.titles)}; on {study.title} the "
                    f"paper has {', '.join(study.models)}: there is nothing to compare"
                )
            return study
    known = " and ".join(f"{study.data} ({study.classes} classes)" for study in studies)
    raise InputError(
        f"the run is on {data['name']} ({classes} classes), the paper's numbers are on {known}"
    )


def match_numbers(contents: Contents, study: PublishedStudy) -> list[Pair]:
    """Put every published number beside the run's: clean and means first, then level by level."""
    numbers = [number for number in best_numbers(study) if number.metric in METRIC]
    return [
        Pair(
            number,
            _standard_error(number, study.test_images),
            _measured(contents, study, number),
        )
        for number in sorted(numbers, key=lambda number: _place(study, number))
    ]


def as_frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Write pairs as a tidy table; what the run did not measure is missing."""
    columns = {
        **{
            name: [getattr(pair.published, name) for pair in pairs]
            for name in ("model", "shift", "level", "metric")
        },
        "measured": [pair.measured.value if pair.measured else math.nan for pair in pairs],
        "low": [pair.measured.low if pair.measured else math.nan for pair in pairs],
        "high": [pair.measured.high if pair.measured else math.nan for pair in pairs],
        "n": pd.array([pair.measured.n if pair.measured else pd.NA for pair in pairs], "Int64"),
        "published": [pair.published.value for pair in pairs],
        "standard_error": [pair.standard_error for pair in pairs],
        "source": [pair.published.source for pair in pairs],
        "difference": [pair.difference for pair in pairs],
        "inside": pd.array([pair.inside if pair.measured else pd.NA for pair in pairs], "boolean"),
    }
    return pd.DataFrame(columns)


def same_images(contents: Contents, study: PublishedStudy, shift: str, level: str) -> bool:
    """Say whether the run changed its images as the published number's were changed.

    A mean is over the same images if all of its levels are, and no other.
    """
    if shift == CLEAN:
        return True
    theirs = study.cells(shift)
    ours = next((sweep.cells for sweep in contents.sweeps if sweep.name == shift), {})
    if level == MEAN:
        return set(ours.values()) == set(theirs.values())
    return ours.get(level) == theirs[level]


def _place(study: PublishedStudy, number: PublishedNumber) -> tuple[object, ...]:
    is_level = number.shift != CLEAN and number.level != MEAN
    return (
        is_level,
        list(METRIC).index(number.metric),
        list(study.shifts).index(number.shift),
        float(number.level) if is_level else 0.0,
        list(study.models).index(number.model),
    )


def _measured(contents: Contents, study: PublishedStudy, number: PublishedNumber) -> Score | None:
    if not same_images(contents, study, number.shift, number.level):
        return None
    return contents.score(number.metric, number.model, number.shift, number.level)


def _standard_error(number: PublishedNumber, n: int | None) -> float:
    """Binomial, for a share of n images; the levels of a mean share images, so it has none."""
    if number.metric != "accuracy" or number.level == MEAN or n is None:
        return math.nan
    return math.sqrt(number.value * (1 - number.value) / n)

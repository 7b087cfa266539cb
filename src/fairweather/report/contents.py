"""What tables, figures and page draw on: the scores of one run or of several, and the shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import pandas as pd

from fairweather.report.sweeps import Sweep
from fairweather.report.words import (
    CLEAN,
    ENSEMBLE_SUFFIX,
    MEAN,
    SUMMARIES,
    SUMMARY_LEVELS,
    VALIDATION,
    base_model,
    predictions_folder,
)
from fairweather.runs import RunFolder
from fairweather.types import ENSEMBLE, Predictions, Score


class Home(NamedTuple):
    """Where what belongs to a model, or to a pre-training, lies: the run, and its name there."""

    run: RunFolder
    name: str


@dataclass(frozen=True)
class Contents:
    """Everything that tables, figures and page draw on.

    Attributes:
        study, provenance: study.yaml and provenance.json as they stand.
        titles: the title of each model and variant that has scores, in the study's order.
        sweeps: the shifts, in the study's order.
        scores: scores.csv, its level and seed as text.
        runs: the folders, by what stands before the colon in the names of their models: of a single
            run that is nothing, and there is no colon.
        caution: what a reader of means has to know beside; mostly nothing.
    """

    study: Mapping[str, Any]
    provenance: Mapping[str, Any]
    titles: Mapping[str, str]
    sweeps: tuple[Sweep, ...]
    scores: pd.DataFrame
    runs: Mapping[str, RunFolder] = field(default_factory=dict)
    caution: str = ""

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The seeds that have scores, as scores.csv writes them."""
        return tuple(seed for seed in self.scores["seed"].unique() if seed not in SUMMARIES)

    def seeds_of(self, model: str) -> tuple[str, ...]:
        """The seeds that a model was trained with; an ensemble is one model of all of them."""
        if model.endswith(ENSEMBLE_SUFFIX):
            return (ENSEMBLE,)
        mine = self.scores["seed"][self.scores["model"] == model]
        return tuple(seed for seed in mine.unique() if seed not in SUMMARIES)

    def home(self, name: str) -> Home:
        """The run that a model or a pre-training belongs to, and what it is called there."""
        label, _, inside = name.rpartition(":")
        return Home(self.runs[label], inside)

    def training_file(self, model: str, name: str) -> Path:
        """Where the training of a model left a file, such as `seed-0/model.json`, if it did."""
        run, inner = self.home(model)
        return run.file(f"models/{inner}/{name}")

    @property
    def places(self) -> tuple[int, ...]:
        """The place of each title's model among the models: a variant has that of its model.

        Colours and shapes follow it, so that a variant looks like what it is one of.
        """
        models = list(dict.fromkeys(base_model(name) for name in self.titles))
        return tuple(models.index(base_model(name)) for name in self.titles)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return tuple(str(name) for name in self.data["classes"])

    @property
    def data(self) -> Mapping[str, Any]:
        """What provenance.json says of the data, of several runs that of the first."""
        found: Mapping[str, Any] = next(iter(self.each_provenance().values()))["data"]
        return found

    def each_provenance(self) -> dict[str, Mapping[str, Any]]:
        """The content of provenance.json by what stands before the colon, of one run nothing."""
        return dict(self.provenance) if len(self.runs) > 1 else {"": self.provenance}

    @property
    def hardware(self) -> str:
        """What trained and measured, in words."""
        found = [facts.get("hardware", {}) for facts in self.each_provenance().values()]
        words = (
            f"{each.get('device', 'unknown')} ({each.get('cores', '?')} cores of {each.get('cpu')})"
            for each in found
        )
        return "; ".join(dict.fromkeys(words))

    def shift_title(self, name: str) -> str:
        """The title of a shift of this name; the name itself where there is none."""
        return next((sweep.title for sweep in self.sweeps if sweep.name == name), name)

    @property
    def seen_shifts(self) -> dict[str, Mapping[str, str]]:
        """What a model has met before that tests it, by the model's title: shift to how."""
        return {
            self.titles[name]: {self.shift_title(shift): how for shift, how in shifts.items()}
            for label, facts in self.each_provenance().items()
            for model, shifts in facts.get("seen_shifts", {}).items()
            if (name := f"{label}:{model}" if label else model) in self.titles
        }

    def read_predictions(self, model: str, seed: str, cell: str) -> Predictions | None:
        """Read the predictions of a cell by the id of its shift; None where there are none."""
        run, file = self._file(model, seed, cell)
        return run.read_predictions(file) if run.file(file).is_file() else None

    def read_columns(
        self, model: str, seed: str, cell: str, columns: Sequence[str]
    ) -> list[npt.NDArray[Any]] | None:
        """Read some columns of them, `[N]` each; `cell` may be `val`, the validation images."""
        run, file = self._file(model, seed, cell)
        return run.read_columns(file, columns) if run.file(file).is_file() else None

    def _file(self, model: str, seed: str, cell: str) -> tuple[RunFolder, str]:
        run, name = self.home(model)
        return run, f"{predictions_folder(name, seed)}/{cell.replace('/', '__')}.parquet"

    @property
    def shown_seed(self) -> str:
        """The seed whose scores are shown: the mean over seeds if there are several."""
        return MEAN if len(self.seeds) > 1 else self.seeds[0]

    def pick(self, metric: str, shift: str, seed: str | None = None) -> pd.DataFrame:
        """Return the rows of scores.csv for a metric and a shift, of the shown seed by default."""
        at = self._places.get((metric, shift, seed or self.shown_seed), [])
        return self.scores.iloc[at]

    def find(self, metric: str, model: str, shift: str, level: str) -> pd.DataFrame:
        """Return the one row of scores.csv of the shown seed; no row where there is none."""
        rows = self.pick(metric, shift)
        return rows[(rows["model"] == model) & (rows["level"] == level)]

    def score(
        self, metric: str, model: str, shift: str, level: str, seed: str | None = None
    ) -> Score | None:
        """Return a number, of the shown seed by default, or None where there is none."""
        return self._scores.get((metric, model, shift, level, seed or self.shown_seed))

    def by_level(self, metric: str, sweep: Sweep) -> pd.DataFrame:
        """Return a metric under a shift: title, level as a number, value, low, high.

        The clean images stand at the neutral level. It has no rows where the shift has none.
        """
        shifted = self.pick(metric, sweep.name)
        shifted = shifted[~shifted["level"].isin(SUMMARY_LEVELS)]
        columns = ["title", "level", "value", "low", "high"]
        if shifted.empty:
            return pd.DataFrame(columns=columns)
        clean = self.pick(metric, CLEAN).assign(level=sweep.neutral)
        rows = pd.concat([shifted.assign(level=shifted["level"].astype(float)), clean])
        return rows.assign(title=rows["model"].map(self.titles))[columns]

    @cached_property
    def _places(self) -> Mapping[tuple[str, str, str], list[int]]:
        """Where the rows of each metric, shift and seed stand."""
        found: dict[tuple[str, str, str], list[int]] = {}
        columns = (self.scores[name].tolist() for name in ("metric", "shift", "seed"))
        for at, place in enumerate(zip(*columns, strict=True)):
            found.setdefault(place, []).append(at)
        return found

    @cached_property
    def _scores(self) -> Mapping[tuple[str, ...], Score]:
        """Every row by metric, model, shift, level and seed: tables ask for thousands of them."""
        keys, numbers = ["metric", "model", "shift", "level", "seed"], ["value", "low", "high", "n"]
        places = self.scores[keys].itertuples(index=False, name=None)
        rows = self.scores[numbers].to_numpy(dtype=float).tolist()
        return {
            place: Score(value, low, high, int(n))
            for place, (value, low, high, n) in zip(places, rows, strict=True)
        }

    @property
    def _unequal(self) -> bool:
        """Say whether models were trained with other seeds than others."""
        plain = [name for name in self.titles if not name.endswith(ENSEMBLE_SUFFIX)]
        return len({self.seeds_of(name) for name in plain}) > 1

    def sample(self) -> str:
        """Say how many images, resamples and seeds are behind each number."""
        beside = self.scores["shift"].str.startswith(("priors/", "ood/", VALIDATION))
        counts = sorted(self.scores["n"][~beside].unique())
        images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        seeds = f"seed {self.seeds[0]}"
        if len(self.seeds) > 1:
            each = "over the seeds of each model, of" if self._unequal else "of seeds"
            seeds = (
                f"mean {each} {', '.join(self.seeds)}; the intervals are for this mean and do "
                "not include seed-to-seed variation"
            )
        if any(name.endswith(ENSEMBLE_SUFFIX) for name in self.titles):
            seeds += "; an ensemble is one model of all seeds"
        if self.caution:
            seeds += f"; {self.caution}"
        return f"n = {images} test images, {self.study['bootstrap']:,} resamples, {seeds}"

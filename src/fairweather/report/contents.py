"""What tables, figures and page are made from: the scores of one run or several, and the shifts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy.typing as npt
import pandas as pd

from fairweather.errors import InputError
from fairweather.metrics.class_metrics import CLASS_METRICS
from fairweather.metrics.clusters import FEW_CLUSTERS, Clusters
from fairweather.record import (
    CLEAN,
    ENSEMBLE,
    ENSEMBLE_SUFFIX,
    MEAN,
    NATURAL,
    NO_IMAGES,
    NO_LEVEL,
    OOD,
    PRIORS,
    SCORES,
    SUMMARY_LEVELS,
    SUMMARY_SEEDS,
    TEST,
    VALIDATION,
    DataRecord,
    Machine,
    ModelRecord,
    RunRecord,
    base_model,
    model_folder,
)
from fairweather.report.samples import Samples
from fairweather.report.sweeps import Sweep, as_sweep
from fairweather.runs import RunFolder, machines_of
from fairweather.scores import read_clusters
from fairweather.tasks import task_named
from fairweather.types import Kind, Predictions, Score
from fairweather.variants import Variant, read_variants, variant_of

# The step that scores, and the first version of it whose means over seeds cover other seeds.
SCORED, WITH_SEEDS = "scores", 4
Found = TypeVar("Found")


class Home(NamedTuple):
    """Where the files of a model or of a pre-training are: the run, and its name in that run."""

    run: RunFolder
    name: str


@dataclass(frozen=True)
class Contents:
    """Everything that tables, figures and page are made from.

    Attributes:
        records: the description of each run, by what stands before the colon in the names of its
            models: of a single run that is nothing, and there is no colon.
        titles: the title of each model and variant that has scores, in the study's order.
        sweeps: the shifts and attacks, in the study's order.
        scores: scores.csv, its level and seed as text.
        runs: the folders, by the same.
        caution: what a reader of means must know besides; mostly nothing.
        samples: the pictures, where they were read and there are some.
    """

    records: Mapping[str, RunRecord]
    titles: Mapping[str, str]
    sweeps: tuple[Sweep, ...]
    scores: pd.DataFrame
    runs: Mapping[str, RunFolder] = field(default_factory=dict)
    caution: str = ""
    samples: Samples | None = None
    _found: dict[Callable[[Contents], object], object] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def once(self, find: Callable[[Contents], Found]) -> Found:
        """What a function finds here: it is called once, however many sections ask."""
        if find not in self._found:
            self._found[find] = find(self)
        return cast("Found", self._found[find])

    # ---- what the records say

    @property
    def name(self) -> str:
        """The name of the run, or of the runs."""
        return " and ".join(label or record.name for label, record in self.records.items())

    @property
    def title(self) -> str:
        """Its title, or the name where it has none."""
        return " and ".join(record.title or record.name for record in self.records.values())

    @property
    def description(self) -> str:
        """What it is about; of several runs, which they are."""
        if len(self.records) == 1:
            return self._first.description
        return f"The models of {len(self.records)} runs on the same test images: {self.name}."

    @property
    def data(self) -> DataRecord:
        """The data, of several runs those of the first."""
        return self._first.data

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What was predicted, as the parts of sections say what they accept."""
        return task_named(self.data.task).kinds

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.data.classes

    @property
    def has_images(self) -> bool:
        """Say whether there were images: predictions from elsewhere may come with labels alone."""
        return not any(record.data.notes.get(NO_IMAGES) for record in self.records.values())

    @property
    def models(self) -> Mapping[str, ModelRecord]:
        """The models by their names here."""
        return joined({label: record.models for label, record in self.records.items()})

    @property
    def pretraining(self) -> Mapping[str, ModelRecord]:
        """The pre-trainings by their names here."""
        return joined({label: record.pretraining for label, record in self.records.items()})

    @property
    def bootstrap(self) -> int:
        """How many resamples are behind each interval; of several runs, the fewest."""
        return min(record.settings.bootstrap for record in self.records.values())

    @cached_property
    def clusters(self) -> Clusters | None:
        """Which test images belong together; None if unknown. Runs are only joined where alike."""
        return next((read_clusters(run) for run in self.runs.values()), None)

    @property
    def shift_seed(self) -> int:
        """The seed of stochastic shifts; runs are only joined where it is the same."""
        return self._first.settings.shift_seed

    @property
    def seen_shifts(self) -> dict[str, dict[str, str]]:
        """Which of its test shifts a model was trained with, by its title: the shift, and how."""
        return {
            self.titles[name]: {self.shift_title(shift): how for shift, how in shifts.items()}
            for label, record in self.records.items()
            for model, shifts in record.seen_shifts.items()
            if (name := joined_name(label, model)) in self.titles
        }

    @cached_property
    def mixed_machines(self) -> dict[str, list[Machine]]:
        """The machines of each run whose steps were done on several, by the run's label."""
        found = {label: machines_of(run) for label, run in self.runs.items()}
        return {label: machines for label, machines in found.items() if len(machines) > 1}

    @property
    def hardware(self) -> str:
        """What trained and measured, in words."""
        begun = (_in_words(record.provenance.hardware) for record in self.records.values())
        return "; ".join([*dict.fromkeys(begun), *self.mixtures])

    @property
    def mixtures(self) -> list[str]:
        """Say of each run whose steps were done on several machines which these are."""
        return [
            f"{f'run {label}' if label else 'this run'} mixes {len(machines)} machines, and its "
            f"numbers may differ a little from those of one: {'; '.join(map(str, machines))}"
            for label, machines in self.mixed_machines.items()
        ]

    @property
    def _first(self) -> RunRecord:
        return next(iter(self.records.values()))

    # ---- files

    def home(self, name: str) -> Home:
        """The run that a model or a pre-training belongs to, and what it is called there."""
        label, _, inner = name.rpartition(":")
        return Home(self.runs[label], inner)

    def training_file(self, model: str, seed: str, name: str) -> Path:
        """Return the path of a file of a training; a model that was not trained has none."""
        run, inner = self.home(model)
        return run.file(f"{model_folder(inner, seed)}/{name}")

    def read_predictions(self, model: str, seed: str, cell: str) -> Predictions | None:
        """Read the predictions of a cell by the id of its shift; None where there are none."""
        run, file = self._file(model, seed, cell, TEST)
        return run.read_predictions(file) if run.file(file).is_file() else None

    def has(self, model: str, seed: str, cell: str) -> bool:
        """Say whether there are predictions of a cell, by the id of its shift."""
        run, file = self._file(model, seed, cell, TEST)
        return run.file(file).is_file()

    def read_columns(
        self, model: str, seed: str, cell: str, columns: Sequence[str], part: str = TEST
    ) -> list[npt.NDArray[Any]] | None:
        """Read some columns of them, `[N]` each, of whatever type each has."""
        run, file = self._file(model, seed, cell, part)
        try:
            return run.read_columns(file, columns)
        except FileNotFoundError:
            return None

    def _file(self, model: str, seed: str, cell: str, part: str) -> tuple[RunFolder, str]:
        run, name = self.home(model)
        return run, run.predictions(name, seed, cell, part)

    # ---- models and shifts

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The seeds that have scores, as scores.csv writes them."""
        return tuple(seed for seed in self.scores["seed"].unique() if seed not in SUMMARY_SEEDS)

    def fitted_on(self, model: str) -> tuple[str, ...]:
        """The shifts of the validation images that the thresholds of a model are fitted on."""
        variant = self.variant(model)
        if variant is None or not variant.uses_fit_on:
            return (CLEAN,)
        return self._record_of(model).settings.fit_on

    def variant(self, model: str) -> Variant | None:
        """The variant that a name here is of; None for a model itself."""
        written = self._record_of(model).settings.variants
        return variant_of(model.removesuffix(ENSEMBLE_SUFFIX), read_variants(written))

    def _record_of(self, model: str) -> RunRecord:
        label, _, _ = model.rpartition(":")
        return self.records[label]

    def seeds_of(self, model: str) -> tuple[str, ...]:
        """The seeds that a model was trained with; an ensemble is one model of all of them."""
        return (ENSEMBLE,) if model.endswith(ENSEMBLE_SUFFIX) else self._trained.get(model, ())

    @property
    def positions(self) -> tuple[int, ...]:
        """The position of each title's model among the models: a variant has that of its model.

        Colours and shapes follow it, so that a variant looks like what it is one of.
        """
        models = list(dict.fromkeys(base_model(name) for name in self.titles))
        return tuple(models.index(base_model(name)) for name in self.titles)

    @property
    def cells(self) -> dict[str, tuple[str, str]]:
        """The shift and the level of each set of test images by its id, the clean ones first."""
        return {CLEAN: (CLEAN, NO_LEVEL)} | {
            cell: (sweep.name, level)
            for sweep in self.sweeps
            for level, cell in sweep.cells.items()
        }

    @property
    def means(self) -> list[tuple[str, str, str]]:
        """Title, shift and level of the clean images, and of the mean over each shift's levels."""
        swept = [(sweep.title, sweep.name, MEAN) for sweep in self.sweeps]
        return [("Clean", CLEAN, NO_LEVEL), *swept]

    def shift_title(self, name: str) -> str:
        """The title of a shift of this name; the name itself where there is none."""
        return next((sweep.title for sweep in self.sweeps if sweep.name == name), name)

    # ---- scores

    @property
    def shown_seed(self) -> str:
        """The seed whose scores are shown: the mean over seeds if there are several."""
        return MEAN if len(self.seeds) > 1 else self.seeds[0]

    def pick(self, metric: str, shift: str, seed: str | None = None) -> pd.DataFrame:
        """Return the rows of scores.csv for a metric and a shift, of the shown seed by default."""
        at = self._rows.get((metric, shift, seed or self.shown_seed), [])
        return self.scores.iloc[at]

    def find(self, wanted: Iterable[tuple[str, str, str, str]]) -> pd.DataFrame:
        """Return the rows of scores.csv of the shown seed for metric, model, shift and level.

        They come in the order that is asked for; where there is none, it is left out.
        """
        numbers = (self._numbers.get((*key, self.shown_seed)) for key in wanted)
        return self.scores.iloc[[at for at in numbers if at is not None]].reset_index(drop=True)

    def score(
        self, metric: str, model: str, shift: str, level: str, seed: str | None = None
    ) -> Score | None:
        """Return a number, of the shown seed by default, or None where there is none."""
        at = self._numbers.get((metric, model, shift, level, seed or self.shown_seed))
        return None if at is None else self._scores[at]

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
    def _trained(self) -> Mapping[str, tuple[str, ...]]:
        """The seeds of each model, as scores.csv orders them."""
        rows = self.scores[~self.scores["seed"].isin(SUMMARY_SEEDS)]
        seeds = rows.groupby("model", sort=False)["seed"].unique()
        return {str(model): tuple(each) for model, each in seeds.items()}

    @cached_property
    def _rows(self) -> Mapping[Hashable, Any]:
        """The numbers of the rows of each metric, shift and seed."""
        return self.scores.groupby(["metric", "shift", "seed"], sort=False).indices

    @cached_property
    def _numbers(self) -> Mapping[tuple[str, ...], int]:
        """The number of each row, by metric, model, shift, level and seed."""
        names = ("metric", "model", "shift", "level", "seed")
        columns = (self.scores[name].tolist() for name in names)
        return {key: at for at, key in enumerate(zip(*columns, strict=True))}

    @cached_property
    def _scores(self) -> Sequence[Score]:
        """The score of every row: tables ask for thousands of them."""
        columns = (self.scores[name].tolist() for name in ("value", "low", "high", "n"))
        return [
            Score(value, low, high, int(n)) for value, low, high, n in zip(*columns, strict=True)
        ]

    @property
    def _unequal(self) -> bool:
        """Say whether models were trained with other seeds than others."""
        plain = [name for name in self.titles if not name.endswith(ENSEMBLE_SUFFIX)]
        return len({self.seeds_of(name) for name in plain}) > 1

    @cached_property
    def of_recipes(self) -> list[str]:
        """The models whose numbers are about recipes: means over seeds, with intervals for both."""
        before = {label for label, run in self.runs.items() if _leaves_seeds_out(run)}
        return [name for name in self._of_several_seeds if name.rpartition(":")[0] not in before]

    @cached_property
    def _of_several_seeds(self) -> list[str]:
        return [name for name in self.titles if len(self.seeds_of(name)) > 1]

    @property
    def intervals(self) -> str:
        """Name the 95 % intervals by what they cover."""
        units = "images" if self.clusters is None else "clusters of images"
        if not self.of_recipes:
            return f"95 % bootstrap intervals over {units}"
        if len(self.of_recipes) == len(self.titles):
            return f"95 % intervals over seeds and {units}"
        return f"95 % intervals, over seeds and {units} for means over seeds, else over {units}"

    @property
    def scope(self) -> str:
        """Say what the numbers are about: recipes, or the networks that were trained."""
        studies = [record for record in self.records.values() if record.kind == "study"]
        if not studies and not self._of_several_seeds:
            which = "this trained network" if len(self.models) == 1 else "these trained networks"
            return f"This is about {which}, on other images like these."
        if len(self.of_recipes) < len(self._of_several_seeds):
            return (
                "An earlier version of fairweather made these scores: their intervals cover other "
                "images and not other seeds. Run the same command again to compute them anew."
            )
        if not self.of_recipes:
            return (
                "Each recipe was trained once, so this is about these trained networks alone. With "
                "another seed, the same recipe may give other numbers; `seeds: 3` in the study "
                "shows by how much."
            )
        said = [
            "This is about the recipes: the intervals cover training again with other seeds on the "
            "same training images, and other test images like these."
        ]
        if any(record.ensemble for record in studies):
            said.append("The intervals of ensembles cover other images alone.")
        ensembles = [name for name in self.titles if name.endswith(ENSEMBLE_SUFFIX)]
        if len(self.of_recipes) + len(ensembles) < len(self.titles):
            said.append("The numbers of models with one seed are about that trained network alone.")
        if self.scores["shift"].str.startswith((PRIORS, OOD)).any():
            said.append("The intervals of class priors and of other data sets cover images alone.")
        fixed = [
            each.title
            for each in self.pretraining.values()
            if each.settings.get("seed") is not None
        ]
        if fixed:
            said.append(f"Pre-trained once, with one fixed seed: {', '.join(fixed)}.")
        weights = [model.settings.get("weights", "none") for model in self.models.values()]
        if any(each != "none" and not str(each).startswith("pretraining:") for each in weights):
            said.append("Pre-trained weights from elsewhere are the same for all seeds.")
        return " ".join(said)

    def sample(self) -> str:
        """Say how many images, resamples and seeds are behind each number."""
        of_classes = tuple(f"{name}/" for name in CLASS_METRICS)
        others = self.scores["shift"].str.startswith((PRIORS, OOD, NATURAL, VALIDATION))
        others |= self.scores["metric"].str.startswith(of_classes)
        counts = sorted(self.scores["n"][~others].unique())
        images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        seeds = [f"seed {self.seeds[0]}"]
        if len(self.seeds) > 1:
            seeds = [f"mean of {len(self.seeds)} seeds"]
            if self._unequal:
                seeds = ["mean over the seeds of each model"]
        elif all(record.kind == "evaluation" for record in self.records.values()):
            seeds = []  # nothing was trained here
        if any(name.endswith(ENSEMBLE_SUFFIX) for name in self.titles):
            seeds.append("an ensemble is one model of all seeds")
        if self.caution:
            seeds.append(self.caution)
        known = in_clusters(self.clusters)
        known += ", each image counting alike" if known else ""
        if self.clusters is not None and self.clusters.count < FEW_CLUSTERS:
            known += (
                f", fewer than {FEW_CLUSTERS}: these intervals hold the truth in 93 to 100 % of "
                "simulated cases instead of 95 %"
            )
        if isinstance(told := self.data.notes.get("shared_clusters"), list):
            known += f" (beware: {'; '.join(map(str, told))})"
        return "; ".join([f"n = {images} test images{known}, {self.bootstrap:,} resamples", *seeds])


def _leaves_seeds_out(run: RunFolder) -> bool:
    """Say whether a run was scored by a version whose intervals are over images alone."""
    scored = run.step(SCORED)
    version = scored.depends.get("version") if scored else None
    return isinstance(version, int) and version < WITH_SEEDS


def in_clusters(clusters: Clusters | None) -> str:
    """Say in how many clusters images come; "" if that is not known.

    >>> import numpy as np
    >>> in_clusters(Clusters(np.array([0, 0, 1])))
    ' in 2 clusters'
    """
    return "" if clusters is None else f" in {clusters.count:,} clusters"


def joined_name(label: str, name: str) -> str:
    """Name a model of a run as a report of several runs does.

    >>> joined_name("one", "basic"), joined_name("", "basic")
    ('one:basic', 'basic')
    """
    return f"{label}:{name}" if label else name


def joined(of_runs: Mapping[str, Mapping[str, Found]]) -> dict[str, Found]:
    """Put what is known of the models of each run together, each by its name here."""
    return {
        joined_name(label, name): each
        for label, known in of_runs.items()
        for name, each in known.items()
    }


def read_contents(run: RunFolder) -> Contents:
    """Read the record and the scores; raises `InputError` when one of them is not there."""
    record = run.record
    if not run.file(SCORES).is_file():
        raise InputError(f"{run.path} has no {SCORES}: the run has not been scored yet")
    scores = ensembles_as_models(run.scores)
    if scores.empty:
        raise InputError(f"{run.path / SCORES} has no rows: there is nothing to report")
    titles = _titles(record, set(scores["model"]))
    sweeps = _distinct(as_sweep(each) for each in record.sweeps)
    return Contents({"": record}, titles, sweeps, scores, {"": run})


def ensembles_as_models(scores: pd.DataFrame) -> pd.DataFrame:
    """Make the rows of seed `ensemble` a model of its own, beside the mean over seeds.

    >>> rows = pd.DataFrame({"model": ["a", "a"], "seed": ["mean", "ensemble"]})
    >>> ensembles_as_models(rows).to_numpy().tolist()
    [['a', 'mean'], ['a+ensemble', 'mean']]
    """
    together = scores["seed"] == ENSEMBLE
    models = scores["model"].where(~together, scores["model"] + ENSEMBLE_SUFFIX)
    return scores.assign(model=models, seed=scores["seed"].where(~together, MEAN))


def _titles(record: RunRecord, scored: set[str]) -> dict[str, str]:
    """Title what was scored: the record's models in its order, each before its variants."""
    variants = _with_ensembles(record)
    titles: dict[str, str] = {}
    for name, model in record.models.items():
        titles[name] = model.title
        titles |= {each: title for each, title in variants.items() if base_model(each) == name}
    titles = {name: title for name, title in titles.items() if name in scored}
    return told_apart(titles, {name: name for name in titles})


def told_apart(titles: Mapping[str, str], marks: Mapping[str, str]) -> dict[str, str]:
    """Add marks to titles that are there twice: two models under one title are drawn as one.

    >>> told_apart({"a": "A", "b": "A", "c": "C"}, {"a": "1", "b": "2", "c": "3"})
    {'a': 'A (1)', 'b': 'A (2)', 'c': 'C'}
    """
    uses = Counter(titles.values())
    return {
        name: title if uses[title] == 1 else f"{title} ({marks[name]})"
        for name, title in titles.items()
    }


def _with_ensembles(record: RunRecord) -> dict[str, str]:
    """Titles of what stands beside the models, with an ensemble of each where there are some."""
    variants = dict(record.variants)
    if record.ensemble:
        single = {name: model.title for name, model in record.models.items()}
        for name, title in {**single, **record.variants}.items():
            variants[name + ENSEMBLE_SUFFIX] = f"{title}, ensemble of {len(record.seeds)}"
    return variants


def _distinct(sweeps: Iterable[Sweep]) -> tuple[Sweep, ...]:
    """Add the name to a title that two shifts share."""
    every = {sweep.name: sweep for sweep in sweeps}
    titles = told_apart(
        {name: sweep.title for name, sweep in every.items()}, dict(zip(every, every, strict=True))
    )
    return tuple(replace(sweep, title=titles[name]) for name, sweep in every.items())


def _in_words(hardware: Mapping[str, object]) -> str:
    device, cores = hardware.get("device", "unknown"), hardware.get("cores", "?")
    return f"{device} ({cores} cores of {hardware.get('cpu')})"

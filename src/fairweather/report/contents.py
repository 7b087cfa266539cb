"""What tables, figures and page are made from: shifts at their levels, and the scores of runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy.typing as npt
import pandas as pd

from fairweather.errors import InputError
from fairweather.metrics.grouping import FEW_GROUPS, Grouping
from fairweather.metrics.metric import CLASS_METRICS, POINT_METRICS
from fairweather.report.samples import Samples
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import list_machines
from fairweather.runs.scores import read_grouping
from fairweather.tasks import find_task
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import (
    AnyPredictions,
    Passes,
    Predictions,
    Score,
    format_255ths,
    format_number,
)
from fairweather.types.operating_points import POINT_SIGN, RATES
from fairweather.types.options import Aggregation
from fairweather.types.record import (
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE,
    ENSEMBLE_SUFFIX,
    MEAN,
    NATURAL,
    NO_LEVEL,
    OOD,
    PRIORS,
    SCORES,
    SUMMARY_SEEDS,
    TEST,
    VALIDATION,
    DataRecord,
    Machine,
    ModelRecord,
    RunRecord,
    SweepRecord,
    base_model,
    cells_by_level,
    escape,
    model_folder,
)
from fairweather.variants.variant import Variant, find_variant, read_variants

# ---------------------------------------------------------------- a shift at its levels

# First words of shifts' titles that keep their capital inside a sentence.
PROPER_NOUNS = ("Gaussian",)
# How levels are read whose titles are more than a word and have no letter.
LEVEL_PHRASES = {
    "angle (degrees)": "{} degrees",
    "factor of the pixel size": "{} times the pixel size",
    "fraction of the width": "{} of the width",
    "turn of the colour circle": "{} of the colour circle",
}


@dataclass(frozen=True)
class Sweep:
    """One shift or attack with all its levels, as a report shows it, of one run or several joined.

    Attributes:
        name: as scores.csv writes it.
        title, level_title: for table heads and axes.
        neutral: the level that changes nothing; clean images are drawn there.
        note: what a reader must know about the levels; may be empty.
        cells: the id of each shifted test set, by its level as scores.csv writes it, ascending.
        constants: where a level is only a rank, such as 1 to 5: the numbers behind it.
        kind: shift or attack.
    """

    name: str
    title: str
    level_title: str
    neutral: float
    note: str
    cells: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["shift", "attack"] = "shift"

    @property
    def notes(self) -> list[str]:
        """The statements of the note, each with a capital, ready to be a sentence.

        >>> Sweep("", "", "", 0.0, "0.3: weak; not a blur", {}).notes
        ['0.3: weak', 'Not a blur']
        """
        parts = [part for part in self.note.split("; ") if part]
        return [f"{part[0].upper()}{part[1:]}" for part in parts]

    @property
    def file_name(self) -> str:
        """The name as part of a file's name."""
        return escape(self.name)

    @property
    def farthest(self) -> str:
        """The level that is farthest from the neutral one."""
        return max(self.cells, key=lambda level: abs(float(level) - self.neutral))

    @property
    def is_attack(self) -> bool:
        """Say whether a model is needed to change images; means over shifts leave attacks out."""
        return self.kind == "attack"

    @property
    def in_sentence(self) -> str:
        """The title as it stands inside a sentence; names and abbreviations keep their capitals.

        The titles of attacks are all proper names.

        >>> titles = ("Fog", "JPEG", "Gaussian blur")
        >>> [Sweep("", title, "", 0.0, "", {}).in_sentence for title in titles]
        ['fog', 'JPEG', 'Gaussian blur']
        """
        first = self.title.partition(" ")[0]
        keep = first in PROPER_NOUNS or any(map(str.isupper, first[1:])) or self.is_attack
        return self.title if keep else self.title[:1].lower() + self.title[1:]

    def at(self, level: str) -> str:
        """Name the shift at a level inside a sentence.

        >>> Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}).at("0.4")
        'brightness at f = 0.4'
        >>> Sweep("imagenet_c/jpeg", "JPEG compression", "level", 0.0, "", {}).at("5")
        'JPEG compression at level 5'
        >>> Sweep("hue", "Hue", "turn of the colour circle", 0.0, "", {}).at("0.5")
        'hue at 0.5 of the colour circle'
        >>> attack = Sweep("pgd", "PGD", "budget ε (in [0, 1])", 0.0, "", {}, kind="attack")
        >>> attack.at("0.03137254901960784")
        'PGD at ε = 8/255'
        """
        return f"{self.in_sentence} at {self.level_in_words(level)}"

    def heading(self, level: str) -> str:
        """Write a level the way a paper does: with the letter that the level's title ends in.

        At most four significant digits, unless two levels would then read the same; budgets of
        attacks in steps of 8-bit images.

        >>> Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}).heading("0.8")
        'f = 0.8'
        >>> Sweep("s", "Snow", "level", 0.0, "", {}).heading("3")
        '3'
        >>> attack = Sweep("p", "PGD", "budget ε", 0.0, "", {}, kind="attack")
        >>> attack.heading("0.00784313725490196")
        'ε = 2/255'
        """
        symbol = re.search(r"\s(\w)(?:\s*\(.*\))?$", self.level_title)
        return f"{symbol[1]} = {self.number(level)}" if symbol else self.number(level)

    def spelled(self, level: str) -> str:
        """Write a level so that it can stand alone.

        >>> Sweep("s", "Snow", "level", 0.0, "", {}).spelled("3")
        'level 3'
        """
        heading = self.heading(level)
        return heading if "=" in heading else f"{self.level_title} {heading}"

    def number(self, level: str) -> str:
        """Write a level as `heading` does, without its letter."""
        short = self._short(level)
        alike = [self._short(other_level) for other_level in self.cells].count(short) > 1
        return level if alike else short

    def _short(self, level: str) -> str:
        steps = format_255ths(level) if self.is_attack else ""
        return steps or format_number(float(f"{float(level):.4g}"))

    def level_in_words(self, level: str) -> str:
        """Write a level as it stands inside a sentence.

        >>> Sweep("r", "Rotation", "angle (degrees)", 0.0, "", {}).level_in_words("30")
        '30 degrees'
        """
        heading, title = self.heading(level), self.level_title
        if "=" in heading:
            return heading
        one_word = " " not in title
        form = LEVEL_PHRASES.get(title, f"{title} {{}}" if one_word else f"{{}} ({title})")
        return form.format(heading)


def make_sweep(record: SweepRecord) -> Sweep:
    """Make a sweep from the record of a shift or an attack."""
    levels = cells_by_level(record)
    return Sweep(
        name=record.name,
        title=record.title,
        level_title=record.level_words,
        neutral=record.neutral,
        note=record.note,
        cells={level: cell.id for level, cell in levels.items()},
        constants={level: cell.constants for level, cell in levels.items() if cell.constants},
        kind=record.kind,
    )


# ---------------------------------------------------------------- scores of runs

SCORING_STEP = "scores"  # the id of the step that scores
FIRST_OVER_SEEDS = 4  # from this version of the step on, intervals of means cover other seeds
T = TypeVar("T")
SCORE_KEYS = ["metric", "model", "shift", "level", "seed"]


class ModelHome(NamedTuple):
    """Where the files of a model or a pre-training are: the run, and its name in that run."""

    run: RunFolder
    name: str


@dataclass(frozen=True)
class Contents:
    """Everything that tables, figures and page are made from.

    Attributes:
        records: the description of each run, by its label. Model names here are `LABEL:MODEL`; a
            single run has an empty label, and its models keep their names.
        titles: the title of each model and variant that has scores, in the study's order.
        sweeps: the shifts and attacks, in the study's order.
        scores: scores.csv, its level and seed as text.
        runs: the folder of each run, by its label.
        caution: a warning for readers of means; usually empty.
        samples: pictures of shifted images; None if there are none, or they were not read.
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

    def once(self, find: Callable[[Contents], T]) -> T:
        """The result of a function of these contents, computed once for all sections that ask."""
        if find not in self._found:
            self._found[find] = find(self)
        return cast("T", self._found[find])

    # ---- what the records say

    @property
    def name(self) -> str:
        """The name of the run, or of the runs."""
        return " and ".join(label or record.name for label, record in self.records.items())

    @property
    def title(self) -> str:
        """The title of the run, or its name if it has no title; of several runs, all of them."""
        return " and ".join(record.title or record.name for record in self.records.values())

    @property
    def description(self) -> str:
        """What the run is about; of several runs, their names."""
        if len(self.records) == 1:
            return self._first.description
        return f"The models of {len(self.records)} runs on the same test images: {self.name}."

    @property
    def data(self) -> DataRecord:
        """The data of the run; of several runs, that of the first."""
        return self._first.data

    @property
    def kinds(self) -> tuple[TaskKind, ...]:
        """The kinds of the predictions, to be compared with what parts of sections accept."""
        return find_task(self.data.task).kinds

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.data.classes

    @property
    def models(self) -> Mapping[str, ModelRecord]:
        """The models by their names here."""
        return join_models({label: record.models for label, record in self.records.items()})

    @property
    def pretraining(self) -> Mapping[str, ModelRecord]:
        """The pre-trainings by their names here."""
        return join_models({label: record.pretraining for label, record in self.records.items()})

    @property
    def bootstrap(self) -> int:
        """How many resamples are behind each interval; of several runs, the fewest."""
        return min(record.settings.bootstrap for record in self.records.values())

    @cached_property
    def grouping(self) -> Grouping | None:
        """Which test images belong together; None if unknown. Joined runs have the same."""
        return next((read_grouping(run) for run in self.runs.values()), None)

    @property
    def aggregation(self) -> Aggregation | None:
        """What is judged in place of images; joined runs have the same."""
        return self._first.settings.aggregation

    @property
    def shift_seed(self) -> int:
        """The seed of stochastic shifts; joined runs have the same."""
        return self._first.settings.shift_seed

    @property
    def seen_shifts(self) -> dict[str, dict[str, str]]:
        """Which of its test shifts a model was trained with, by its title: the shift, and how."""
        return {
            self.titles[name]: {self.shift_title(shift): how for shift, how in shifts.items()}
            for label, record in self.records.items()
            for model, shifts in record.seen_shifts.items()
            if (name := join_name(label, model)) in self.titles
        }

    @cached_property
    def mixed_machines(self) -> dict[str, list[Machine]]:
        """The machines of each run that was done on several machines, by the label of the run."""
        by_run = {label: list_machines(run) for label, run in self.runs.items()}
        return {label: machines for label, machines in by_run.items() if len(machines) > 1}

    @property
    def hardware(self) -> str:
        """The hardware that trained and measured, in words."""
        used = (_describe_hardware(record.provenance.hardware) for record in self.records.values())
        return "; ".join([*dict.fromkeys(used), *self.mixtures])

    @property
    def mixtures(self) -> list[str]:
        """A warning for each run that was done on several machines, with their names."""
        return [
            f"{f'run {label}' if label else 'this run'} mixes {len(machines)} machines, and its "
            f"numbers may differ a little from those of one: {'; '.join(map(str, machines))}"
            for label, machines in self.mixed_machines.items()
        ]

    @property
    def _first(self) -> RunRecord:
        return next(iter(self.records.values()))

    # ---- files

    def home(self, name: str) -> ModelHome:
        """The run that a model or a pre-training belongs to, and what it is called there."""
        label, _, inner = name.rpartition(":")
        return ModelHome(self.runs[label], inner)

    def training_file(self, model: str, seed: str, name: str) -> Path:
        """Return the path of a file of a training; a model that was not trained has none."""
        run, inner = self.home(model)
        return run.file(f"{model_folder(inner, seed)}/{name}")

    def read_predictions(self, model: str, seed: str, cell: str) -> Predictions | None:
        """Read the predictions of a cell by the id of its shift; None where there are none."""
        run, file = self._file(model, seed, cell, TEST)
        return run.read_predictions(file) if run.file(file).is_file() else None

    def read_cell(
        self, model: str, seed: str, cell: str, part: str = TEST
    ) -> AnyPredictions | None:
        """Read the predictions of a cell of whatever task; None where there are none."""
        run, file = self._file(model, seed, cell, part)
        return run.read_cell(file) if run.file(file).is_file() else None

    def has(self, model: str, seed: str, cell: str) -> bool:
        """Say whether there are predictions of a cell, by the id of its shift."""
        run, file = self._file(model, seed, cell, TEST)
        return run.file(file).is_file()

    def read_columns(
        self, model: str, seed: str, cell: str, columns: Sequence[str], part: str = TEST
    ) -> list[npt.NDArray[Any]] | None:
        """Read some columns of the predictions of a cell, `[N]` each; None where there are none."""
        run, file = self._file(model, seed, cell, part)
        try:
            return run.read_columns(file, columns)
        except FileNotFoundError:
            return None

    def read_stream_columns(
        self, model: str, seed: str, cell: str, columns: Sequence[str]
    ) -> list[npt.NDArray[Any]] | None:
        """Read the same of each stream of a cell of the test images, `[streams, N]` each."""
        run, file = self._file(model, seed, cell, TEST)
        try:
            return run.read_stream_columns(file, columns)
        except FileNotFoundError:
            return None

    def read_passes(self, model: str, seed: str, cell: str) -> Passes | None:
        """What adapting to the images of a cell has cost; None where nothing says so."""
        run, file = self._file(model, seed, cell, TEST)
        return run.read_passes(file) if run.file(file).is_file() else None

    def read_adapts(self, model: str, seed: str, cell: str) -> str | None:
        """What adapting changes of the network of a cell; None where nothing says so."""
        run, file = self._file(model, seed, cell, TEST)
        return run.read_adapts(file)

    def read_seconds(self, model: str, seed: str, cell: str) -> float | None:
        """How long the network alone took for all images of a cell; None where nothing says so."""
        run, file = self._file(model, seed, cell, TEST)
        return run.read_seconds(file)

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
        """The variant in the name of a model, as in `MODEL+VARIANT`; None for a model itself."""
        written = self._record_of(model).settings.variants
        return find_variant(model.removesuffix(ENSEMBLE_SUFFIX), read_variants(written))

    def batch_size(self, model: str) -> int:
        """How many images at once the run of a model predicted."""
        return self._record_of(model).settings.batch_size

    def _record_of(self, model: str) -> RunRecord:
        label, _, _ = model.rpartition(":")
        return self.records[label]

    def seeds_of(self, model: str) -> tuple[str, ...]:
        """The seeds that a model was trained with; an ensemble is one model of all of them."""
        return (
            (ENSEMBLE,) if model.endswith(ENSEMBLE_SUFFIX) else self._seeds_by_model.get(model, ())
        )

    @property
    def first_seed(self) -> str:
        """Name the seed that stands for each model, such as `seed 0`; "" if there is only one."""
        first = {self.seeds_of(model)[0] for model in self.titles}
        if len(self.seeds) == 1:
            return ""
        return f"seed {first.pop()}" if len(first) == 1 else "the first seed"

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

    def clean_after(self, model: str) -> dict[str, str]:
        """The cells of clean images that a model saw after shifts, in words, by name."""
        words = {ALL: "all shifts"} | {sweep.name: sweep.in_sentence for sweep in self.sweeps}
        cells = {f"{CLEAN_AFTER}{shift}": f"clean images after {words[shift]}" for shift in words}
        own = set(self.scores["shift"][self.scores["model"] == model])
        return {cell: text for cell, text in cells.items() if cell in own}

    def shift_title(self, name: str) -> str:
        """The title of a shift of this name; the name itself where there is none."""
        return next((sweep.title for sweep in self.sweeps if sweep.name == name), name)

    # ---- scores

    @property
    def shown_seed(self) -> str:
        """The seed whose scores are shown: the mean over seeds if there are several."""
        return MEAN if len(self.seeds) > 1 else self.seeds[0]

    def score(
        self, metric: str, model: str, shift: str, level: str, seed: str | None = None
    ) -> Score | None:
        """The score of a cell, by default of the shown seed; None where there is none."""
        return self._scores.get((metric, model, shift, level, seed or self.shown_seed))

    @cached_property
    def _seeds_by_model(self) -> Mapping[str, tuple[str, ...]]:
        """The seeds of each model, as scores.csv orders them."""
        rows = self.scores[~self.scores["seed"].isin(SUMMARY_SEEDS)]
        seeds = rows.groupby("model", sort=False)["seed"].unique()
        return {str(model): tuple(own) for model, own in seeds.items()}

    @cached_property
    def _scores(self) -> Mapping[tuple[str, ...], Score]:
        """Each score by metric, model, shift, level and seed: tables ask for thousands of them."""
        return index_scores(self.scores, SCORE_KEYS)

    @cached_property
    def of_recipes(self) -> list[str]:
        """The models whose numbers are about recipes: intervals cover other seeds and images."""
        outdated = {label for label, run in self.runs.items() if _ignores_seeds(run)}
        return [name for name in self._of_several_seeds if name.rpartition(":")[0] not in outdated]

    @cached_property
    def _of_several_seeds(self) -> list[str]:
        return [name for name in self.titles if len(self.seeds_of(name)) > 1]

    @cached_property
    def _has_streams(self) -> bool:
        """Whether a network that adapts was measured in several streams."""
        adapting = [v.adapting for v in map(self.variant, self.titles) if v is not None]
        return any(own is not None and own.orders > 1 for own in adapting)

    @property
    def intervals(self) -> str:
        """Say in a phrase what the 95 % intervals cover."""
        units = "images" if self.grouping is None else "groups of images"
        if self._has_streams:
            units += " (and streams)"
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
            which = "this network" if len(self.models) == 1 else "these networks"
            return f"This is about {which}, on other images like these."
        if len(self.of_recipes) < len(self._of_several_seeds):
            return (
                "An earlier version of fairweather made these scores: their intervals cover other "
                "images and not other seeds. To compute new ones, run the same command again."
            )
        if not self.of_recipes:
            return (
                "Each recipe was trained once, so this is about these trained networks alone. With "
                "another seed, the same recipe may give other numbers; “seeds: 3” in the study "
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
            pretraining.title
            for pretraining in self.pretraining.values()
            if pretraining.settings.get("seed") is not None
        ]
        if fixed:
            said.append(f"Pre-trained once, with one fixed seed: {', '.join(fixed)}.")
        weights = [model.settings.get("weights", "none") for model in self.models.values()]
        if any(w != "none" and not str(w).startswith("pretraining:") for w in weights):
            said.append("Pre-trained weights from elsewhere are the same for all seeds.")
        return " ".join(said)

    def sample(self) -> str:
        """Say how many images, resamples and seeds are behind each number."""
        counts = self.once(_count_images)
        images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        seeds = [f"seed {self.seeds[0]}"]
        if len(self.seeds) > 1:
            seeds = [f"mean of {len(self.seeds)} seeds"]
            plain = [name for name in self.titles if not name.endswith(ENSEMBLE_SUFFIX)]
            if len({self.seeds_of(name) for name in plain}) > 1:  # each with seeds of its own
                seeds = ["mean over the seeds of each model"]
        elif all(record.kind == "evaluation" for record in self.records.values()):
            seeds = []  # nothing was trained here
        if any(name.endswith(ENSEMBLE_SUFFIX) for name in self.titles):
            seeds.append("an ensemble is one model of all seeds")
        if self.caution:
            seeds.append(self.caution)
        known = describe_group_count(self.grouping)
        known += ", each image counting alike" if known else ""
        if self.grouping is not None and self.grouping.count < FEW_GROUPS:
            known += (
                f", fewer than {FEW_GROUPS}: these intervals hold the truth in 93 to 100 % of "
                "simulated cases instead of 95 %"
            )
        if isinstance(shared := self.data.notes.get("shared_groups"), list):
            known += f" (beware: {'; '.join(map(str, shared))})"
        return "; ".join([f"n = {images} test images{known}, {self.bootstrap:,} resamples", *seeds])


def _count_images(contents: Contents) -> list[int]:
    """Count the images of the rows of whole test sets: the different numbers, in order."""
    kinds = (*CLASS_METRICS, *POINT_METRICS)
    of_classes = tuple(f"{name}{sign}" for name in kinds for sign in ("/", POINT_SIGN))
    scores = contents.scores
    others = scores["shift"].str.startswith((PRIORS, OOD, NATURAL, VALIDATION))
    others |= scores["metric"].str.startswith(of_classes)
    # Their images are those with a finding, or without it.
    others |= scores["metric"].isin((*RATES, "missed_findings"))
    return sorted(scores["n"][~others].unique())


def _ignores_seeds(run: RunFolder) -> bool:
    """Say whether a run was scored by an old version, whose intervals cover other images alone."""
    scored = run.step(SCORING_STEP)
    version = scored.depends.get("version") if scored else None
    return isinstance(version, int) and version < FIRST_OVER_SEEDS


def describe_group_count(grouping: Grouping | None) -> str:
    """Say in how many groups images come, to be added to their number; "" if that is unknown.

    >>> import numpy as np
    >>> describe_group_count(Grouping(np.array([0, 0, 1])))
    ' in 2 groups'
    """
    return "" if grouping is None else f" in {grouping.count:,} groups"


def join_name(label: str, name: str) -> str:
    """Name a model of a run as a report of several runs does.

    >>> join_name("one", "basic"), join_name("", "basic")
    ('one:basic', 'basic')
    """
    return f"{label}:{name}" if label else name


def join_models(of_runs: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """Join mappings by model name, one for each run by its label, into one by `LABEL:MODEL`."""
    return {
        join_name(label, name): value
        for label, known in of_runs.items()
        for name, value in known.items()
    }


def read_contents(run: RunFolder) -> Contents:
    """Read the record and the scores of a run; raises `InputError` if either is missing."""
    record = run.record
    if not run.file(SCORES).is_file():
        raise InputError(f"{run.path} has no {SCORES}: the run has not been scored yet")
    scores = ensembles_as_models(run.scores)
    if scores.empty:
        raise InputError(f"{run.path / SCORES} has no rows: there is nothing to report")
    titles = _title_models(record, set(scores["model"]))
    sweeps = _distinguish_sweeps(make_sweep(sweep) for sweep in record.sweeps)
    return Contents({"": record}, titles, sweeps, scores, {"": run})


def index_scores(rows: pd.DataFrame, names: Sequence[str]) -> dict[tuple[str, ...], Score]:
    """The score of each row of scores.csv or slices.csv, by what it has in some columns."""
    keys, numbers = (
        zip(*(rows[name].tolist() for name in columns), strict=True)
        for columns in (names, Score._fields)
    )
    return {
        key: Score(value, low, high, int(n))
        for key, (value, low, high, n) in zip(keys, numbers, strict=True)
    }


def ensembles_as_models(scores: pd.DataFrame) -> pd.DataFrame:
    """Make the rows of seed `ensemble` a model of its own, beside the mean over seeds.

    >>> rows = pd.DataFrame({"model": ["a", "a"], "seed": ["mean", "ensemble"]})
    >>> ensembles_as_models(rows).to_numpy().tolist()
    [['a', 'mean'], ['a+ensemble', 'mean']]
    """
    is_ensemble = scores["seed"] == ENSEMBLE
    models = scores["model"].where(~is_ensemble, scores["model"] + ENSEMBLE_SUFFIX)
    return scores.assign(model=models, seed=scores["seed"].where(~is_ensemble, MEAN))


def _title_models(record: RunRecord, scored: set[str]) -> dict[str, str]:
    """The title of each scored model, in the order of the record, and of its variants after it."""
    variants = _title_variants(record)
    titles: dict[str, str] = {}
    for name, model in record.models.items():
        titles[name] = model.title
        titles |= {
            variant: title for variant, title in variants.items() if base_model(variant) == name
        }
    titles = {name: title for name, title in titles.items() if name in scored}
    return distinguish_titles(titles, {name: name for name in titles})


def distinguish_titles(titles: Mapping[str, str], marks: Mapping[str, str]) -> dict[str, str]:
    """Add marks to titles that occur twice, because models with one title would be drawn as one.

    >>> distinguish_titles({"a": "A", "b": "A", "c": "C"}, {"a": "1", "b": "2", "c": "3"})
    {'a': 'A (1)', 'b': 'A (2)', 'c': 'C'}
    """
    uses = Counter(titles.values())
    return {
        name: title if uses[title] == 1 else f"{title} ({marks[name]})"
        for name, title in titles.items()
    }


def _title_variants(record: RunRecord) -> dict[str, str]:
    """The titles of variants, and of the ensembles of models and variants if the run has them."""
    variants = dict(record.variants)
    if record.ensemble:
        single = {name: model.title for name, model in record.models.items()}
        for name, title in {**single, **record.variants}.items():
            variants[name + ENSEMBLE_SUFFIX] = f"{title}, ensemble of {len(record.seeds)}"
    return variants


def _distinguish_sweeps(sweeps: Iterable[Sweep]) -> tuple[Sweep, ...]:
    """Add its name to a title that two shifts share."""
    by_name = {sweep.name: sweep for sweep in sweeps}
    titles = distinguish_titles(
        {name: sweep.title for name, sweep in by_name.items()}, {name: name for name in by_name}
    )
    return tuple(replace(sweep, title=titles[name]) for name, sweep in by_name.items())


def _describe_hardware(hardware: Mapping[str, object]) -> str:
    device, cores = hardware.get("device", "unknown"), hardware.get("cores", "?")
    return f"{device} ({cores} cores of {hardware.get('cpu')})"

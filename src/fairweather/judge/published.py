"""Compare a run with published numbers, by data set, model, shift and metric."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import ConfigDict, JsonValue

from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import parse_yaml
from fairweather.judge.atlas import READERS
from fairweather.judge.compared_runs import split_run_and_model
from fairweather.judge.comparison import REFERENCES, Comparison
from fairweather.judge.standing import read_standing
from fairweather.metrics.table import METRICS
from fairweather.report.contents import Contents, read_contents
from fairweather.report.tables import (
    ABSENT,
    CORRECTED,
    ScoreEntry,
    TableLayout,
    TextTable,
    describe_metric,
    format_signed,
    is_percent,
)
from fairweather.runs.folder import open_finished_run
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, MEAN, NO_LEVEL, SCORES, FrozenRecord


class PublishedModel(FrozenRecord):
    """A published model."""

    title: str
    """As published."""

    run: str | None = None
    """Its run file, without the suffix, if there is one."""

    note: str = ""
    """What a reader has to know about it; may be empty."""

    training: dict[str, JsonValue]
    """The published settings, with the keys of a study's model and its recipe."""


class PublishedFacts(FrozenRecord):
    """What NAME.yaml says about a study."""

    title: str
    """Of the study."""

    data: str
    """The data set's name, without resolution."""

    classes: int
    """How many classes it has."""

    size: tuple[int, int] | None
    """Height and width of the images; None if they were not published."""

    test_images: int | None
    """Their number; None if it was not published."""

    note: str
    """What a reader has to know."""

    training: dict[str, JsonValue]
    """The settings of every model."""

    models: dict[str, PublishedModel]
    """By their keys in this package's study."""


class _ReferenceFacts(FrozenRecord):
    """The content of NAME.yaml."""

    title: str
    shifts: dict[str, str]
    studies: dict[str, PublishedFacts]


class PublishedNumber(NamedTuple):
    """A published number; its first four fields are as in scores.csv."""

    model: str
    shift: str
    level: str
    metric: str
    value: float
    source: str


class PublishedStudy(PublishedFacts):
    """What was published about one data set."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    """Of the study."""

    shifts: dict[str, str]
    """The title of each shift, clean first."""

    numbers: pd.DataFrame
    """Model, shift, level, cell, metric, value, decimals, source; several rows for a number that is
    both in a run file and in a table."""

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
    if reference != "paper":
        raise unknown_name("reference", reference, REFERENCES)
    folder = resources.files("fairweather") / "judge"
    text = (folder / f"{reference}.yaml").read_text(encoding="utf-8")
    facts = _ReferenceFacts.model_validate(parse_yaml(text))
    text = (folder / f"{reference}.csv").read_text(encoding="utf-8")
    columns = pd.read_csv(io.StringIO(text), comment="#", dtype=str, keep_default_na=False)
    numbers = columns.astype({"value": float})
    return [
        _build_study(name, study, facts.shifts, numbers) for name, study in facts.studies.items()
    ]


def most_precise_numbers(study: PublishedStudy) -> list[PublishedNumber]:
    """Give each published number once and as precisely as it is known.

    A number of a run file replaces the printed one, and the mean of its levels the printed mean.

    >>> study, _ = read_published("paper")
    >>> most_precise_numbers(study)[0]
    PublishedNumber(model='basic', shift='clean', level='none', metric='accuracy',
                    value=0.8231197771587744, source='basic_0.train.jsonl')
    """
    numbers = study.numbers
    exact, printed = numbers[numbers["decimals"] == ""], numbers[numbers["decimals"] != ""]
    everything = pd.concat([exact, _level_means(exact), printed], ignore_index=True)
    once = everything.drop_duplicates(list(PublishedNumber._fields[:4]))
    rows = once[list(PublishedNumber._fields)].itertuples(index=False)
    return [PublishedNumber(*row) for row in rows]


def _level_means(numbers: pd.DataFrame) -> pd.DataFrame:
    levels = numbers[numbers["shift"] != CLEAN]
    of_shift = levels.groupby(["model", "shift", "metric", "source"], sort=False)
    means = of_shift["value"].mean().reset_index()
    return means.assign(level=MEAN, source="mean of " + means["source"])


def _build_study(
    name: str, facts: PublishedFacts, shifts: Mapping[str, str], numbers: pd.DataFrame
) -> PublishedStudy:
    models = {
        key: model.model_copy(update={"training": {**facts.training, **model.training}})
        for key, model in facts.models.items()
    }
    study_numbers = numbers[numbers["study"] == name].drop(columns="study")
    described = {**dict(facts), "models": models}
    return PublishedStudy(name=name, shifts=dict(shifts), numbers=study_numbers, **described)


# ---------------------------------------------------------------- a run beside published numbers

NOT_MEASURED = "not measured"
UNMEASURED = (math.nan, math.nan, math.nan, pd.NA)
LAYOUT = TableLayout(
    (
        *("Model", "Shift", "Level", "Metric"),
        *("Measured", "Published", "Difference", "In the interval"),
    ),
    words=4,
)
# Settings that no published run had, with the values at which they have no effect.
NO_EFFECT: tuple[object, ...] = (None, False, 0, [], {})
LATER_SETTINGS: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(
        ("train_shifts", "label_noise", "probe_epochs", "trivial_augment", "rand_augment"),
        NO_EFFECT,
    ),
    **dict.fromkeys(
        ("augmix", "gaussian_noise", "random_erasing", "cutmix", "adversarial"), NO_EFFECT
    ),
    **dict.fromkeys(("rotation_prediction", "ema_decay", "label_smoothing"), NO_EFFECT),
    "label_fraction": (None, 1),
    "width": (None, 1),
    "norm": (None, "batch"),
    "pooling": (None, "average"),
}


def compare_with_published(
    run: str | os.PathLike[str],
    reference: str = "paper",
    rows: Mapping[str, str] | None = None,
    *,
    offline: bool = False,
) -> pd.DataFrame:
    """Compare a run's numbers with those of a published report, or of many published models.

    With `paper`, models are matched by their keys in the study, and shifts by their ids with all
    parameters. Data sets are matched by name and number of classes. If the run has several seeds,
    the mean over them is compared.

    Args:
        run: a finished run, or its folder.
        reference: `paper`, the report "Evaluating the Robustness of Deep Learning Models". For a
            run on ImageNet's 1,000 classes: `timm`, `testbed`, `robustbench` or `openclip`. Their
            files are downloaded, or read from a copy: `timm:FOLDER`.
        rows: for models of the paper that have another name in the run: the run's name of each,
            such as `{"mixup_aug_pt": "lite0_mixup_aug_pt"}`.
        offline: never use the network.

    Returns:
        Of many models: one row for each model and cell of the run, with its rank among them.
        Of the paper: one row per published number, clean images and means over levels first.
        `model`, `shift`, `level` and `metric` are as in scores.csv. `published_model`, `published`
        and `source` are about the published number. `standard_error` is its binomial one, if it is
        a share of a known number of images. `measured`, `low`, `high` and `n` are missing if the
        run did not measure it. `difference` is measured − published. `inside` says whether the
        published number is in [low, high]. Accuracies are fractions.

    Raises:
        InputError: the reference is unknown, the run is not finished, or its scores are not those
            that it wrote. Or the run has nothing to compare, or rows with an unknown name.
    """
    return read_published_comparison(run, reference, rows, offline=offline).table


def read_published_comparison(
    run: str | os.PathLike[str],
    reference: str = "paper",
    rows: Mapping[str, str] | None = None,
    *,
    offline: bool = False,
) -> Comparison:
    """Compare a run as `compare_with_published` does, and add the text of the table and notes.

    Of many published models, the run may be one of its models as FOLDER:MODEL.
    """
    if reference.partition(":")[0] in READERS:
        if rows:
            raise InputError(f"--match is for paper: {reference} has no models to be matched")
        return read_standing(run, reference, offline=offline)
    studies = read_published(reference)
    folder = open_finished_run(Path(split_run_and_model(run)[0]))
    folder.holds(SCORES)  # raises if the run did not write them
    contents = read_contents(folder)
    study = match_study(contents, studies)
    matched = MatchedStudy(contents, study, match_models(contents, study, rows or {}))
    frame = pairs_to_frame(matched.pairs)
    main = TextTable(f"compare_{reference}", LAYOUT, table_body(matched), [caption(matched)], frame)
    return Comparison(main, notes(matched))


@dataclass(frozen=True)
class PublishedPair:
    """A published number and the number of the run."""

    published: PublishedNumber
    """The number, what was measured, and its source."""

    model: str
    """The run's name of the published model."""

    standard_error: float
    """Binomial, for a published share of a known number of images; else NaN."""

    measured: Score | None
    """None if the run did not measure it."""

    @property
    def difference(self) -> float:
        """Measured − published; NaN if the run did not measure it."""
        return self.measured.value - self.published.value if self.measured else math.nan

    @property
    def is_inside(self) -> bool:
        """Say whether the published number is in the run's interval, ends included."""
        measured = self.measured
        return measured is not None and measured.low <= self.published.value <= measured.high


@dataclass(frozen=True)
class MatchedStudy:
    """A run beside a published study."""

    contents: Contents
    study: PublishedStudy
    """`contents`, `study`: the two."""

    names: Mapping[str, str]
    """The run's name of each published model that it has."""

    @cached_property
    def pairs(self) -> list[PublishedPair]:
        """Every published number with that of the run: clean and means first, then each level."""
        numbers = [n for n in most_precise_numbers(self.study) if n.metric in METRICS]
        return [
            PublishedPair(
                number,
                self.names.get(number.model, number.model),
                _standard_error(number, self.study.test_images),
                self._measured_score(number),
            )
            for number in sorted(numbers, key=self._sort_key)
        ]

    @property
    def measured(self) -> list[PublishedPair]:
        """The numbers that the run has too."""
        return [pair for pair in self.pairs if pair.measured]

    def has_same_images(self, shift: str, level: str) -> bool:
        """Say whether the run has the same shift as the published number.

        A mean is the same if all of its levels are the same, and there is no other level.
        """
        if shift == CLEAN:
            return True
        theirs = self.study.cells(shift)
        ours = next((sweep.cells for sweep in self.contents.sweeps if sweep.name == shift), {})
        if level == MEAN:
            return set(ours.values()) == set(theirs.values())
        return ours.get(level) == theirs[level]

    def _measured_score(self, number: PublishedNumber) -> Score | None:
        model, shift, level, metric, *_ = number
        if model not in self.names or not self.has_same_images(shift, level):
            return None
        return self.contents.score(metric, self.names[model], shift, level)

    def _sort_key(self, number: PublishedNumber) -> tuple[object, ...]:
        is_level = number.shift != CLEAN and number.level != MEAN
        return (
            is_level,
            list(METRICS).index(number.metric),
            list(self.study.shifts).index(number.shift),
            float(number.level) if is_level else 0.0,
            list(self.study.models).index(number.model),
        )


def match_study(contents: Contents, studies: Sequence[PublishedStudy]) -> PublishedStudy:
    """Find the published study on a run's data set.

    Data sets are the same if they have the same name, without the resolution behind `@`, and the
    same number of classes. Raises `InputError` if there is no such study.
    """
    data = contents.data
    classes = len(data.classes)
    for study in studies:
        if study.data == data.name.partition("@")[0] and study.classes == classes:
            return study
    known = " and ".join(f"{study.data} ({study.classes} classes)" for study in studies)
    raise InputError(
        f"the run is on {data.name} ({classes} classes), the paper's numbers are on {known}"
    )


def match_models(
    contents: Contents, study: PublishedStudy, rows: Mapping[str, str]
) -> dict[str, str]:
    """Give the run's name of each published model that the run has; `rows` before equal names.

    Raises `InputError` for an unknown name, or if the run has no published model.
    """
    for published, ours in rows.items():
        if published not in study.models:
            raise unknown_name("published model", published, study.models)
        if ours not in contents.titles:
            raise unknown_name("model of the run", ours, contents.titles)
    names = {name: rows.get(name, name) for name in study.models}
    compared = {published: ours for published, ours in names.items() if ours in contents.titles}
    if not compared:
        published, ours = next(iter(study.models)), next(iter(contents.titles))
        raise InputError(
            f"the run has the models {', '.join(contents.titles)}; on {study.title} the paper has "
            f"{', '.join(study.models)}: name a pair to compare, such as --match {published}={ours}"
        )
    return compared


def pairs_to_frame(pairs: Sequence[PublishedPair]) -> pd.DataFrame:
    """Write pairs as a tidy table; numbers that the run did not measure are missing."""
    lines = [
        (
            *(pair.model, *pair.published[1:4], pair.published.model),
            *(pair.measured or UNMEASURED),
            *(pair.published.value, pair.standard_error, pair.published.source, pair.difference),
            pair.is_inside if pair.measured else pd.NA,
        )
        for pair in pairs
    ]
    columns = ["model", "shift", "level", "metric", "published_model", "measured", "low", "high"]
    columns += ["n", "published", "standard_error", "source", "difference", "inside"]
    return pd.DataFrame(lines, columns=columns).astype({"n": "Int64", "inside": "boolean"})


def _standard_error(number: PublishedNumber, n: int | None) -> float:
    """Binomial, for a share of n images; NaN for a mean, whose levels share their images."""
    if METRICS[number.metric].interval != "share" or number.level == MEAN or n is None:
        return math.nan
    return math.sqrt(number.value * (1 - number.value) / n)


def table_body(matched: MatchedStudy) -> list[list[str]]:
    """Write pairs as text, in the order of `LAYOUT`."""
    return [
        [
            matched.contents.titles.get(pair.model, matched.study.models[number.model].title),
            matched.study.shifts[number.shift],
            ABSENT if number.level == NO_LEVEL else number.level,
            METRICS[number.metric].label,
            *_format_numbers(pair),
        ]
        for pair in matched.pairs
        for number in (pair.published,)
    ]


def caption(matched: MatchedStudy) -> str:
    """Describe the numbers."""
    metrics = dict.fromkeys(describe_metric(pair.published.metric) for pair in matched.pairs)
    return (
        f"{matched.study.title}: measured and published numbers. {'; '.join(metrics)}. Mean: over "
        f"the levels of a shift. In brackets: the run's {matched.contents.intervals}. In the "
        "interval: whether the published number is in it. Difference: measured − published."
    )


def _format_numbers(pair: PublishedPair) -> list[str]:
    percent = is_percent(pair.published.metric)
    scale, digits = (100, 1) if percent else (1, 3)
    published = f"{scale * pair.published.value:.{digits}f}"
    if pair.measured is None:
        return [NOT_MEASURED, published, ABSENT, ABSENT]
    inside = "yes" if pair.is_inside else "no"
    difference = format_signed(pair.difference, percent)
    return [str(ScoreEntry(pair.measured, percent)), published, difference, inside]


def notes(matched: MatchedStudy) -> list[str]:
    """Say how many published numbers are in the run's intervals, and what that does not mean."""
    return [
        _count_inside(matched),
        _uncertainty(matched),
        f"The intervals of calibration errors are {CORRECTED}. The values themselves, measured and "
        "published, are not corrected. So a small published error is more often above the interval "
        "than below it, and a measured error may equal the end of its interval.",
        matched.study.note,
        *_model_notes(matched),
        *_other_labels(matched),
        *_other_images(matched),
        *_other_models(matched),
        *_other_shifts(matched),
    ]


def _count_inside(matched: MatchedStudy) -> str:
    measured, parts = matched.measured, []
    for metric in dict.fromkeys(pair.published.metric for pair in measured):
        inside = [pair.is_inside for pair in measured if pair.published.metric == metric]
        parts.append(f"{sum(inside)} of {len(inside)} for {describe_metric(metric)}")
    total, missing = sum(pair.is_inside for pair in measured), len(matched.pairs) - len(measured)
    return (
        f"{total} of the {len(measured)} published numbers that the run measured are in its 95 % "
        f"intervals: {', '.join(parts)}. {missing} were not measured."
    )


def _uncertainty(matched: MatchedStudy) -> str:
    errors = [
        100 * p.standard_error for p in matched.measured if p.standard_error == p.standard_error
    ]
    theirs = "The published numbers are uncertain too"
    if errors:
        theirs += (
            f": an accuracy at one level has a binomial standard error of {min(errors):.1f} to "
            f"{max(errors):.1f} percentage points (n = {matched.study.test_images:,})"
        )
    ours = "other seeds and other test images"
    if not matched.contents.of_recipes:
        ours = "other test images, but not other seeds"
    return (
        f"The intervals cover {ours} ({matched.contents.sample()}). {theirs}. How much other seeds "
        "would change them is not known, since each model was trained once. So a published number "
        "outside an interval does not prove that the method differs, and one inside does not prove "
        "that it is the same. All cells share the images and the model, so they are not "
        "independent trials."
    )


def _model_notes(matched: MatchedStudy) -> list[str]:
    """Other names, the notes on models, and how the run's training differed."""
    names, remarks, others, later = list[str](), list[str](), list[str](), list[str]()
    for key, name in matched.names.items():
        published, model = matched.study.models[key], matched.contents.models[name]
        if key != name:
            names.append(
                f"{matched.contents.titles[name]} ({name}) is compared with the published "
                f"{published.title} ({key}), as asked."
            )
        if published.note:
            remarks.append(published.note)
        recipe = model.settings.get("recipe")
        if not isinstance(recipe, dict):
            others.append(
                f"Other training: the run did not train {name}; its training is not known."
            )
            continue
        ours = {**model.settings, **recipe}
        if different := [
            f"{setting} {_format_setting(ours.get(setting))} instead of {_format_setting(theirs)}"
            for setting, theirs in published.training.items()
            if ours.get(setting) != theirs
        ]:
            others.append(f"Other training: {name} has {', '.join(different)}.")
        if new := [
            f"{setting} {_format_setting(ours[setting])}"
            for setting, without_effect in LATER_SETTINGS.items()
            if setting in ours.keys() - published.training.keys()
            and ours[setting] not in without_effect
        ]:
            later.append(
                f"Other training: {name} has {', '.join(new)}; the published runs did not."
            )
    return [*names, *remarks, *others, *later]


def _format_setting(value: object) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{key} {_format_setting(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _other_labels(matched: MatchedStudy) -> Iterator[str]:
    notes = matched.contents.data.notes
    noise, imbalance = notes.get("label_noise", 0), notes.get("imbalance", 1)
    if noise != 0 or imbalance != 1:
        yield (
            f"Other training labels: label_noise {_format_setting(noise)} and imbalance "
            f"{_format_setting(imbalance)}; the published runs had neither."
        )
    if notes.get("verified") is False:
        yield "The run's files were not verified against the published checksums."


def _other_images(matched: MatchedStudy) -> Iterator[str]:
    size = matched.contents.data.side
    if matched.study.size and size and size != matched.study.size:
        theirs, ours = (" x ".join(map(str, sides)) for sides in (matched.study.size, size))
        yield f"Other images: the published numbers are on {theirs} pixels, the run's on {ours}."
    _, at, made_from = matched.contents.data.name.partition("@")
    if matched.study.size and at and made_from != str(matched.study.size[0]):
        yield f"Other images: the run's were made from images of {made_from} pixels per side."
    counts = sorted({pair.measured.n for pair in matched.measured if pair.measured})
    if matched.study.test_images and counts != [matched.study.test_images]:
        ours = " or ".join(f"{count:,}" for count in counts)
        yield (
            "Other images: the published numbers are on "
            f"{matched.study.test_images:,} test images, the run's on {ours}."
        )


def _other_models(matched: MatchedStudy) -> Iterator[str]:
    if absent := [name for name in matched.study.models if name not in matched.names]:
        yield f"Published, not in the run: the models {', '.join(absent)}."
    if extra := [name for name in matched.contents.titles if name not in matched.names.values()]:
        yield f"In the run, not published: the models {', '.join(extra)}."


def _other_shifts(matched: MatchedStudy) -> Iterator[str]:
    sweeps = {sweep.name: sweep for sweep in matched.contents.sweeps}
    for shift, title in matched.study.shifts.items():
        if not matched.has_same_images(shift, MEAN):
            theirs = "; ".join(matched.study.cells(shift).values())
            ours = "; ".join(sweeps[shift].cells.values()) if shift in sweeps else "none"
            yield (
                f"{title}: published for {theirs}; the run has {ours}. Only equal levels are "
                "compared, and the mean only if all levels are equal."
            )
    if others := [
        sweep.title for sweep in matched.contents.sweeps if sweep.name not in matched.study.shifts
    ]:
        yield f"In the run, not published: the shifts {', '.join(others)}."

"""A run beside published numbers, matched by data set, model, shifted images and metric."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import JsonValue

from fairweather.comparison.published import (
    PublishedNumber,
    PublishedStudy,
    best_numbers,
    read_published,
)
from fairweather.errors import InputError
from fairweather.record import CLEAN, MEAN, NO_LEVEL, SCORES, ModelRecord
from fairweather.report.contents import Contents, read_contents
from fairweather.report.table_formats import Layout, aligned, signed, table_files
from fairweather.report.tables import (
    ABSENT,
    CORRECTED,
    METRIC,
    Entry,
    describe_metric,
    is_percent,
)
from fairweather.runs import open_finished_run
from fairweather.types import Score

NOT_MEASURED = "not measured"
LAYOUT = Layout(
    (
        *("Model", "Shift", "Level", "Metric"),
        *("Measured", "Published", "Difference", "In the interval"),
    ),
    words=4,
)
# Settings that no published run had, with the values at which they do nothing.
NOTHING: tuple[object, ...] = (None, False, 0, [], {})
LATER_KEYS: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(
        ("train_shifts", "label_noise", "probe_epochs", "trivial_augment", "rand_augment"), NOTHING
    ),
    **dict.fromkeys(
        ("augmix", "gaussian_noise", "random_erasing", "cutmix", "adversarial"), NOTHING
    ),
    **dict.fromkeys(("rotation_prediction", "ema_decay", "label_smoothing"), NOTHING),
    "label_fraction": (None, 1),
    "width": (None, 1),
    "norm": (None, "batch"),
    "pooling": (None, "average"),
}


@dataclass(frozen=True)
class Comparison:
    """A run beside a reference.

    Attributes:
        name: of its files, without the suffix.
        table: one row a published number; see `compare_with_published`.
        body: the table as text, in the order of `LAYOUT`.
        caption: what the numbers are.
        notes: how many agree, how far that goes, and what is missing; a sentence or two each.
    """

    name: str
    table: pd.DataFrame
    body: Sequence[Sequence[str]]
    caption: str
    notes: Sequence[str]

    def __str__(self) -> str:
        return "\n\n".join([aligned(LAYOUT, self.body), self.caption, *self.notes])

    def files(self) -> dict[str, str]:
        """Write the table in Markdown, CSV and LaTeX, by the names of the files in a run folder."""
        below = [self.caption, *self.notes]
        return table_files(self.name, LAYOUT, self.body, below, self.table)


def compare_with_published(run: str | os.PathLike[str], reference: str = "paper") -> pd.DataFrame:
    """Put a run's numbers beside those of a published report.

    Models are matched by the key in the study, shifted images by the shift with all of its
    parameters, and the run's data set by name and number of classes. With several seeds, the mean
    over seeds is compared.

    Args:
        run: a finished run, or its folder.
        reference: `paper`, the report "Evaluating the Robustness of Deep Learning Models".

    Returns:
        One row a published number, clean images and means over levels first: model, shift, level
        and metric as in scores.csv; measured with low, high and n, missing where the run did not
        measure it; published, its binomial standard_error where it is a share of a known number of
        images, and its source; difference, measured − published; and inside, whether the published
        number lies in [low, high]. Accuracies are fractions.

    Raises:
        InputError: an unknown reference, no finished run, scores that are not those that the run
            wrote, or a run with nothing to compare.
    """
    return read_comparison(run, reference).table


def read_comparison(run: str | os.PathLike[str], reference: str = "paper") -> Comparison:
    """Compare a run as `compare_with_published` does, with the tables' text and notes."""
    studies = read_published(reference)
    folder = open_finished_run(Path(run))
    folder.holds(SCORES)  # raises where they are others than the run wrote
    contents = read_contents(folder)
    study = match_study(contents, studies)
    pairs = match_numbers(contents, study)
    return Comparison(
        name=f"compare_{reference}",
        table=as_frame(pairs),
        body=table_body(pairs, contents, study),
        caption=caption(pairs, study, contents),
        notes=notes(pairs, contents, study),
    )


# ---------------------------------------------------------------- numbers


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
    data = contents.data
    classes = len(data.classes)
    for study in studies:
        if study.data == data.name.partition("@")[0] and study.classes == classes:
            if not set(study.models) & set(contents.titles):
                raise InputError(
                    f"the run has the models {', '.join(contents.titles)}; on {study.title} the "
                    f"paper has {', '.join(study.models)}: there is nothing to compare"
                )
            return study
    known = " and ".join(f"{study.data} ({study.classes} classes)" for study in studies)
    raise InputError(
        f"the run is on {data.name} ({classes} classes), the paper's numbers are on {known}"
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


# ---------------------------------------------------------------- the table as text


def table_body(pairs: Sequence[Pair], contents: Contents, study: PublishedStudy) -> list[list[str]]:
    """Write pairs as text, in the order of `LAYOUT`."""
    return [
        [
            contents.titles.get(number.model, study.models[number.model].title),
            study.shifts[number.shift],
            ABSENT if number.level == NO_LEVEL else number.level,
            METRIC[number.metric].label,
            *_numbers(pair),
        ]
        for pair in pairs
        for number in (pair.published,)
    ]


def caption(pairs: Sequence[Pair], study: PublishedStudy, contents: Contents) -> str:
    """Say what the numbers are."""
    metrics = dict.fromkeys(describe_metric(pair.published.metric) for pair in pairs)
    return (
        f"{study.title}: measured beside published. {'; '.join(metrics)}. Mean: over the levels of "
        f"a shift. In brackets: the run's {contents.intervals}. In the interval: "
        "does the published number lie in it. Difference: measured − published."
    )


def _numbers(pair: Pair) -> list[str]:
    percent = is_percent(pair.published.metric)
    scale, digits = (100, 1) if percent else (1, 3)
    published = f"{scale * pair.published.value:.{digits}f}"
    if pair.measured is None:
        return [NOT_MEASURED, published, ABSENT, ABSENT]
    inside = "yes" if pair.inside else "no"
    difference = signed(pair.difference, percent)
    return [str(Entry(pair.measured, percent)), published, difference, inside]


# ---------------------------------------------------------------- what it shows


def notes(pairs: Sequence[Pair], contents: Contents, study: PublishedStudy) -> list[str]:
    """Say how many published numbers lie in the run's intervals, and what that does not mean."""
    measured = [pair for pair in pairs if pair.measured]
    return [
        _count(measured, missing=len(pairs) - len(measured)),
        _uncertainty(measured, contents, study),
        f"The intervals of calibration errors are {CORRECTED}; the values themselves, "
        "measured and published, are not corrected, so a small published error lies above the "
        "interval more often than below it.",
        study.note,
        *_model_notes(contents, study),
        *_other_training(contents, study),
        *_own_training(contents, study),
        *_other_labels(contents),
        *_other_images(measured, contents, study),
        *_other_models(contents, study),
        *_other_shifts(contents, study),
    ]


def _count(measured: Sequence[Pair], missing: int) -> str:
    parts = []
    for metric in dict.fromkeys(pair.published.metric for pair in measured):
        inside = [pair.inside for pair in measured if pair.published.metric == metric]
        parts.append(f"{sum(inside)} of {len(inside)} for {describe_metric(metric)}")
    total = sum(pair.inside for pair in measured)
    return (
        f"{total} of the {len(measured)} published numbers that the run measured too lie in its "
        f"95 % intervals: {', '.join(parts)}; {missing} were not measured."
    )


def _uncertainty(measured: Sequence[Pair], contents: Contents, study: PublishedStudy) -> str:
    errors = [100 * p.standard_error for p in measured if p.standard_error == p.standard_error]
    theirs = "The published numbers have an uncertainty of their own"
    if errors:
        theirs += (
            f": the accuracies at one level a binomial standard error of {min(errors):.1f} to "
            f"{max(errors):.1f} percentage points (n = {study.test_images:,})"
        )
    ours = "other seeds and other test images would have done to the run's numbers"
    if not contents.of_recipes:
        ours = "other test images would have done to the run's numbers, not what other seeds would"
    return (
        f"The intervals say what {ours} ({contents.sample()}). {theirs}, and that of its one "
        "training is not known. So a "
        "published number outside an interval is no proof of another method, and one inside no "
        "proof of the same; and since all cells share images and a model, they are no independent "
        "trials."
    )


def _model_notes(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    for name, model in study.models.items():
        if model.note and name in contents.titles:
            yield model.note


def _other_training(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    for name, model in study.models.items():
        if name in contents.titles:
            ours = _training(contents.models[name])
            if ours is None:
                yield f"Other training: {name} came from elsewhere, and its training is unknown."
                continue
            others = [
                f"{key} {_plain(ours.get(key))} instead of {_plain(theirs)}"
                for key, theirs in model.training.items()
                if ours.get(key) != theirs
            ]
            if others:
                yield f"Other training: {name} has {', '.join(others)}."


def _own_training(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    """What of a model's training the published runs had no key for, where it does something."""
    for name, model in study.models.items():
        ours = _training(contents.models[name]) if name in contents.titles else None
        if ours is None:
            continue
        others = [
            f"{key} {_plain(ours[key])}"
            for key, nothing in LATER_KEYS.items()
            if key in ours and key not in model.training and ours[key] not in nothing
        ]
        if others:
            yield f"Other training: {name} has {', '.join(others)}; the published runs had not."


def _training(model: ModelRecord) -> dict[str, JsonValue] | None:
    """The settings of a model and of its recipe; None of a model that the run did not train."""
    recipe = model.settings.get("recipe")
    return {**model.settings, **recipe} if isinstance(recipe, dict) else None


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _other_labels(contents: Contents) -> Iterator[str]:
    notes = contents.data.notes
    noise, imbalance = notes.get("label_noise", 0), notes.get("imbalance", 1)
    if noise != 0 or imbalance != 1:
        yield (
            f"Other training labels: label_noise {_plain(noise)} and imbalance "
            f"{_plain(imbalance)}; the published runs had neither."
        )
    if notes.get("verified") is False:
        yield "The run's files were not verified against the published checksum."


def _other_images(
    measured: Sequence[Pair], contents: Contents, study: PublishedStudy
) -> Iterator[str]:
    size = contents.data.side
    if study.size and size and size != study.size:
        theirs, ours = (" x ".join(map(str, each)) for each in (study.size, size))
        yield f"Other images: the published numbers are on {theirs} pixels, the run's on {ours}."
    _, at, made_from = contents.data.name.partition("@")
    if study.size and at and made_from != str(study.size[0]):
        yield f"Other images: the run's were made from {made_from} pixels a side."
    counts = sorted({pair.measured.n for pair in measured if pair.measured})
    if study.test_images and counts != [study.test_images]:
        found = " or ".join(f"{count:,}" for count in counts)
        yield (
            f"Other images: the published numbers are on {study.test_images:,} test images, the "
            f"run's on {found}."
        )


def _other_models(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    if absent := [name for name in study.models if name not in contents.titles]:
        yield f"Published, not in the run: the models {', '.join(absent)}."
    if extra := [name for name in contents.titles if name not in study.models]:
        yield f"In the run, not published: the models {', '.join(extra)}."


def _other_shifts(contents: Contents, study: PublishedStudy) -> Iterator[str]:
    sweeps = {sweep.name: sweep for sweep in contents.sweeps}
    for shift, title in study.shifts.items():
        if not same_images(contents, study, shift, MEAN):
            theirs = "; ".join(study.cells(shift).values())
            ours = "; ".join(sweeps[shift].cells.values()) if shift in sweeps else "none"
            yield (
                f"{title}: published for {theirs}; the run has {ours}. Only the same are compared, "
                "and the mean only where all are the same."
            )
    if others := [sweep.title for sweep in contents.sweeps if sweep.name not in study.shifts]:
        yield f"In the run, not published: the shifts {', '.join(others)}."

"""Compare a run with published numbers, by data set, model, shift and metric."""

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
from fairweather.comparison.told import Comparison
from fairweather.errors import InputError, unknown_name
from fairweather.metrics.table import METRICS
from fairweather.record import CLEAN, MEAN, NO_LEVEL, SCORES, ModelRecord
from fairweather.report.contents import Contents, read_contents
from fairweather.report.table_formats import Layout, TextTable, signed
from fairweather.report.tables import (
    ABSENT,
    CORRECTED,
    Entry,
    describe_metric,
    is_percent,
)
from fairweather.runs import open_finished_run
from fairweather.types import Score

NOT_MEASURED = "not measured"
UNMEASURED = (math.nan, math.nan, math.nan, pd.NA)
LAYOUT = Layout(
    (
        *("Model", "Shift", "Level", "Metric"),
        *("Measured", "Published", "Difference", "In the interval"),
    ),
    words=4,
)
# Settings that no published run had, with the values at which they have no effect.
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


def compare_with_published(
    run: str | os.PathLike[str],
    reference: str = "paper",
    rows: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Compare a run's numbers with those of a published report.

    Models are matched by their keys in the study, shifts by their ids with all parameters, and data
    sets by name and number of classes. If the run has several seeds, the mean over them is
    compared.

    Args:
        run: a finished run, or its folder.
        reference: `paper`, the report "Evaluating the Robustness of Deep Learning Models".
        rows: for published models that have another name in the run: the run's name of each, such
            as `{"mixup_aug_pt": "lite0_mixup_aug_pt"}`.

    Returns:
        One row per published number, clean images and means over levels first. Columns: model,
        shift, level and metric as in scores.csv; published_model; measured with low, high and n,
        missing if the run did not measure it; published, its source, and its binomial
        standard_error if it is a share of a known number of images; difference, measured −
        published; and inside, whether the published number is in [low, high]. Accuracies are
        fractions.

    Raises:
        InputError: an unknown reference, no finished run, scores that are not those that the run
            wrote, a run with nothing to compare, or rows with an unknown name.
    """
    return read_comparison(run, reference, rows).table


def read_comparison(
    run: str | os.PathLike[str],
    reference: str = "paper",
    rows: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare a run as `compare_with_published` does, and add the text of the table and notes."""
    studies = read_published(reference)
    folder = open_finished_run(Path(run))
    folder.holds(SCORES)  # raises if they are not those that the run wrote
    contents = read_contents(folder)
    study = match_study(contents, studies)
    names = match_models(contents, study, rows or {})
    of = Matched(contents, study, names, match_numbers(contents, study, names))
    body, frame = table_body(of), as_frame(of.pairs)
    main = TextTable(f"compare_{reference}", LAYOUT, body, [caption(of)], frame)
    return Comparison(main, notes(of))


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Pair:
    """A published number and the number of the run.

    Attributes:
        published: the number, what was measured, and its source.
        model: the run's name of the published model.
        standard_error: binomial, for a published share of a known number of images; else NaN.
        measured: None if the run did not measure it.
    """

    published: PublishedNumber
    model: str
    standard_error: float
    measured: Score | None

    @property
    def difference(self) -> float:
        """Measured − published; NaN if the run did not measure it."""
        return self.measured.value - self.published.value if self.measured else math.nan

    @property
    def inside(self) -> bool:
        """Say whether the published number is in the run's interval, ends included."""
        measured = self.measured
        return measured is not None and measured.low <= self.published.value <= measured.high


@dataclass(frozen=True)
class Matched:
    """A run beside a published study.

    Attributes:
        contents, study: the two.
        names: the run's name of each published model that it has.
        pairs: every published number, with that of the run.
    """

    contents: Contents
    study: PublishedStudy
    names: Mapping[str, str]
    pairs: Sequence[Pair]

    @property
    def measured(self) -> list[Pair]:
        """The numbers that the run has too."""
        return [pair for pair in self.pairs if pair.measured]


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
    found = {published: ours for published, ours in names.items() if ours in contents.titles}
    if not found:
        published, ours = next(iter(study.models)), next(iter(contents.titles))
        raise InputError(
            f"the run has the models {', '.join(contents.titles)}; on {study.title} the paper has "
            f"{', '.join(study.models)}: name a pair to compare, such as --as {published}={ours}"
        )
    return found


def match_numbers(
    contents: Contents, study: PublishedStudy, names: Mapping[str, str]
) -> list[Pair]:
    """Pair every published number with the run's: clean and means first, then each level.

    `names` gives the run's name of each published model that it has.
    """
    numbers = [number for number in best_numbers(study) if number.metric in METRICS]
    return [
        Pair(
            number,
            names.get(number.model, number.model),
            _standard_error(number, study.test_images),
            _measured(contents, study, number, names),
        )
        for number in sorted(numbers, key=lambda number: _place(study, number))
    ]


def as_frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Write pairs as a tidy table; numbers that the run did not measure are missing."""
    lines = [
        (
            *(pair.model, *pair.published[1:4], pair.published.model),
            *(pair.measured or UNMEASURED),
            *(pair.published.value, pair.standard_error, pair.published.source, pair.difference),
            pair.inside if pair.measured else pd.NA,
        )
        for pair in pairs
    ]
    columns = ["model", "shift", "level", "metric", "published_model", "measured", "low", "high"]
    columns += ["n", "published", "standard_error", "source", "difference", "inside"]
    return pd.DataFrame(lines, columns=columns).astype({"n": "Int64", "inside": "boolean"})


def same_images(contents: Contents, study: PublishedStudy, shift: str, level: str) -> bool:
    """Say whether the run has the same shift as the published number.

    A mean is the same if all of its levels are the same, and there is no other level.
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
        list(METRICS).index(number.metric),
        list(study.shifts).index(number.shift),
        float(number.level) if is_level else 0.0,
        list(study.models).index(number.model),
    )


def _measured(
    contents: Contents, study: PublishedStudy, number: PublishedNumber, names: Mapping[str, str]
) -> Score | None:
    if number.model not in names:
        return None
    if not same_images(contents, study, number.shift, number.level):
        return None
    return contents.score(number.metric, names[number.model], number.shift, number.level)


def _standard_error(number: PublishedNumber, n: int | None) -> float:
    """Binomial, for a share of n images; NaN for a mean, whose levels share their images."""
    if METRICS[number.metric].interval != "share" or number.level == MEAN or n is None:
        return math.nan
    return math.sqrt(number.value * (1 - number.value) / n)


# ---------------------------------------------------------------- the table as text


def table_body(of: Matched) -> list[list[str]]:
    """Write pairs as text, in the order of `LAYOUT`."""
    return [
        [
            of.contents.titles.get(pair.model, of.study.models[number.model].title),
            of.study.shifts[number.shift],
            ABSENT if number.level == NO_LEVEL else number.level,
            METRICS[number.metric].label,
            *_numbers(pair),
        ]
        for pair in of.pairs
        for number in (pair.published,)
    ]


def caption(of: Matched) -> str:
    """Describe the numbers."""
    metrics = dict.fromkeys(describe_metric(pair.published.metric) for pair in of.pairs)
    return (
        f"{of.study.title}: measured and published numbers. {'; '.join(metrics)}. Mean: over the "
        f"levels of a shift. In brackets: the run's {of.contents.intervals}. In the interval: "
        "whether the published number is in it. Difference: measured − published."
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


def notes(of: Matched) -> list[str]:
    """Say how many published numbers are in the run's intervals, and what that does not mean."""
    return [
        _count(of),
        _uncertainty(of),
        f"The intervals of calibration errors are {CORRECTED}. The values themselves, measured and "
        "published, are not corrected. So a small published error is more often above the interval "
        "than below it, and a measured one may equal the end of its interval.",
        of.study.note,
        *_other_names(of),
        *_model_notes(of),
        *_other_training(of),
        *_own_training(of),
        *_other_labels(of),
        *_other_images(of),
        *_other_models(of),
        *_other_shifts(of),
    ]


def _count(of: Matched) -> str:
    measured, parts = of.measured, []
    for metric in dict.fromkeys(pair.published.metric for pair in measured):
        inside = [pair.inside for pair in measured if pair.published.metric == metric]
        parts.append(f"{sum(inside)} of {len(inside)} for {describe_metric(metric)}")
    total, missing = sum(pair.inside for pair in measured), len(of.pairs) - len(measured)
    return (
        f"{total} of the {len(measured)} published numbers that the run measured are in its 95 % "
        f"intervals: {', '.join(parts)}. {missing} were not measured."
    )


def _uncertainty(of: Matched) -> str:
    errors = [100 * p.standard_error for p in of.measured if p.standard_error == p.standard_error]
    theirs = "The published numbers are uncertain too"
    if errors:
        theirs += (
            f": an accuracy at one level has a binomial standard error of {min(errors):.1f} to "
            f"{max(errors):.1f} percentage points (n = {of.study.test_images:,})"
        )
    ours = "other seeds and other test images"
    if not of.contents.of_recipes:
        ours = "other test images, but not other seeds"
    return (
        f"The intervals cover {ours} ({of.contents.sample()}). {theirs}. How much other seeds "
        "would change them is not known, since each model was trained once. So a published number "
        "outside an interval does not prove that the method differs, and one inside does not prove "
        "that it is the same. All cells share the images and the model, so they are not "
        "independent trials."
    )


def _other_names(of: Matched) -> Iterator[str]:
    for published, name in of.names.items():
        if published != name:
            yield (
                f"{of.contents.titles[name]} ({name}) is compared with the published "
                f"{of.study.models[published].title} ({published}), as asked."
            )


def _model_notes(of: Matched) -> Iterator[str]:
    for published in of.names:
        if note := of.study.models[published].note:
            yield note


def _other_training(of: Matched) -> Iterator[str]:
    for published, name in of.names.items():
        ours = _training(of.contents.models[name])
        if ours is None:
            yield f"Other training: the run did not train {name}; its training is not known."
            continue
        others = [
            f"{key} {_plain(ours.get(key))} instead of {_plain(theirs)}"
            for key, theirs in of.study.models[published].training.items()
            if ours.get(key) != theirs
        ]
        if others:
            yield f"Other training: {name} has {', '.join(others)}."


def _own_training(of: Matched) -> Iterator[str]:
    """Settings of a model's training with an effect that the published runs did not have."""
    for published, name in of.names.items():
        model, ours = of.study.models[published], _training(of.contents.models[name])
        if ours is None:
            continue
        others = [
            f"{key} {_plain(ours[key])}"
            for key, nothing in LATER_KEYS.items()
            if key in ours and key not in model.training and ours[key] not in nothing
        ]
        if others:
            yield f"Other training: {name} has {', '.join(others)}; the published runs did not."


def _training(model: ModelRecord) -> dict[str, JsonValue] | None:
    """The settings of a model and of its recipe; None for a model that the run did not train."""
    recipe = model.settings.get("recipe")
    return {**model.settings, **recipe} if isinstance(recipe, dict) else None


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _other_labels(of: Matched) -> Iterator[str]:
    notes = of.contents.data.notes
    noise, imbalance = notes.get("label_noise", 0), notes.get("imbalance", 1)
    if noise != 0 or imbalance != 1:
        yield (
            f"Other training labels: label_noise {_plain(noise)} and imbalance "
            f"{_plain(imbalance)}; the published runs had neither."
        )
    if notes.get("verified") is False:
        yield "The run's files were not verified against the published checksums."


def _other_images(of: Matched) -> Iterator[str]:
    size = of.contents.data.side
    if of.study.size and size and size != of.study.size:
        theirs, ours = (" x ".join(map(str, each)) for each in (of.study.size, size))
        yield f"Other images: the published numbers are on {theirs} pixels, the run's on {ours}."
    _, at, made_from = of.contents.data.name.partition("@")
    if of.study.size and at and made_from != str(of.study.size[0]):
        yield f"Other images: the run's were made from images of {made_from} pixels per side."
    counts = sorted({pair.measured.n for pair in of.measured if pair.measured})
    if of.study.test_images and counts != [of.study.test_images]:
        found = " or ".join(f"{count:,}" for count in counts)
        yield (
            f"Other images: the published numbers are on {of.study.test_images:,} test images, the "
            f"run's on {found}."
        )


def _other_models(of: Matched) -> Iterator[str]:
    if absent := [name for name in of.study.models if name not in of.names]:
        yield f"Published, not in the run: the models {', '.join(absent)}."
    if extra := [name for name in of.contents.titles if name not in of.names.values()]:
        yield f"In the run, not published: the models {', '.join(extra)}."


def _other_shifts(of: Matched) -> Iterator[str]:
    sweeps = {sweep.name: sweep for sweep in of.contents.sweeps}
    for shift, title in of.study.shifts.items():
        if not same_images(of.contents, of.study, shift, MEAN):
            theirs = "; ".join(of.study.cells(shift).values())
            ours = "; ".join(sweeps[shift].cells.values()) if shift in sweeps else "none"
            yield (
                f"{title}: published for {theirs}; the run has {ours}. Only equal levels are "
                "compared, and the mean only if all levels are equal."
            )
    if others := [sweep.title for sweep in of.contents.sweeps if sweep.name not in of.study.shifts]:
        yield f"In the run, not published: the shifts {', '.join(others)}."

"""What is found about other images than the test images: sentences, and the tables behind them.

They are images of other data sets, which a model should be less sure of; other images of the same
classes; and the test images themselves, where they have another source than the validation images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from fairweather.metrics.detection import MOST_FEATURES, NEIGHBOURS, OOD_SCORES
from fairweather.metrics.table import shown_metrics
from fairweather.report.contents import Contents, index_scores
from fairweather.report.section import ReportPart, show_tables
from fairweather.report.sentences import format_percent
from fairweather.report.tables import (
    ScoreColumn,
    ScoreEntry,
    ScoreRow,
    TextTable,
    Views,
    describe_interval,
    describe_metric,
    find_entry,
    is_percent,
    tabulate_models,
    tabulate_scores,
)
from fairweather.runs.scores import read_grouping
from fairweather.types.measurement import Score
from fairweather.types.record import (
    CLEAN,
    ENSEMBLE,
    MEAN,
    NATURAL,
    NO_LEVEL,
    OOD,
    SPREAD,
    VAL,
    VALIDATION,
    base_model,
)

AUROC, FALSE_POSITIVES = "detection_auroc", "false_positive_rate_at_recall/0.95"
# MOVER takes both numbers as independent; networks that are good on both sets make them alike.
SAME_NETWORKS = (
    "Both numbers are of the same networks, which the intervals of differences do not use: they "
    "are rather too wide. "
)
INTERVALS = "In brackets: 95 % bootstrap intervals over images"
CHANCE_AUROC = 0.5  # the AUROC of a confidence that says nothing about where an image is from
# The kinds of findings, the worst first.
SURER_OF_OTHERS, LESS_RIGHT, NOT_SURER, SURER, AS_RIGHT = range(5)
Numbers = Mapping[tuple[str, ...], Score]  # by model, shift and metric


class OtherSetFinding(NamedTuple):
    """What is found about a set of images.

    Attributes:
        kind: which kind of finding; the smallest is the worst.
        number: within the kind, the smallest is the worst.
        sentence: in words.
    """

    kind: int
    number: float
    sentence: str


def describe_other_images(
    scores: pd.DataFrame, titles: Mapping[str, str], *, natural_shift: bool
) -> list[str]:
    """Say what is found about each set of other images, the worst first.

    Of several models, a sentence is about the one that does worst; variants are left out.

    Args:
        scores: rows as in scores.csv.
        titles: the titles of the models, by name.
        natural_shift: whether the test images have another source than the validation images.
    """
    numbers = _read_numbers(scores)
    models = {model: title for model, title in titles.items() if base_model(model) == model}
    sets = list(dict.fromkeys(shift for _, shift, _ in numbers))
    findings = []
    for shift in sets:
        if shift.startswith((OOD, NATURAL)) or (shift == VALIDATION and natural_shift):
            of_models = [
                finding
                for model, title in models.items()
                if (finding := _describe_set(numbers, model, title, shift)) is not None
            ]
            findings += [min(of_models)] if of_models else []
    worst = "At worst, " if len(models) > 1 else ""
    return [f"{worst}{of_models.sentence}" for of_models in sorted(findings)]


def _read_numbers(scores: pd.DataFrame) -> Numbers:
    """The accuracies and AUROCs of clean images: means over seeds, or those of an only seed."""
    rows = scores[(scores["level"] == NO_LEVEL) & ~scores["seed"].isin([SPREAD, ENSEMBLE])]
    rows = rows[(rows["metric"] == "accuracy") | rows["metric"].str.startswith(AUROC)]
    seeds = rows.groupby(["model", "shift", "metric"])["seed"].transform("count")
    rows = rows[(rows["seed"] == MEAN) | (seeds == 1)]
    return index_scores(rows, ("model", "shift", "metric"))


def _describe_set(numbers: Numbers, model: str, title: str, shift: str) -> OtherSetFinding | None:
    if shift.startswith(OOD):
        scores = {key[2]: score for key, score in numbers.items() if key[:2] == (model, shift)}
        name = shift.removeprefix(OOD)
        return _describe_separation(title, name, scores) if AUROC in scores else None
    there, clean = (numbers.get((model, at, "accuracy")) for at in (shift, CLEAN))
    if there is None or clean is None:
        return None
    if shift == VALIDATION:
        finding = _describe_accuracy(
            title, clean, there, "the test images", "the validation images"
        )
        end = ": " if finding.kind == LESS_RIGHT else ", though "
        return finding._replace(
            sentence=f"{finding.sentence}{end}the test images have another source."
        )
    name = f"the images of {shift.removeprefix(NATURAL)}"
    finding = _describe_accuracy(title, there, clean, name, "the test images")
    return finding._replace(sentence=f"{finding.sentence}.")


def _describe_separation(title: str, name: str, scores: Mapping[str, Score]) -> OtherSetFinding:
    """Say whether confidence tells the images of another data set, and what does so better.

    Args:
        title: of the model.
        name: of the other data set.
        scores: the AUROC of the confidence and of each score, by metric.
    """
    score = scores[AUROC]
    if score.high < CHANCE_AUROC:
        kind, said = SURER_OF_OTHERS, f"is more confident on the images of {name} than on its own"
    elif score.low > CHANCE_AUROC:
        kind, said = SURER, f"is more confident on its own images than on those of {name}"
    else:
        kind, said = (
            NOT_SURER,
            f"may be no more confident on its own images than on those of {name}",
        )
    wins = f"its own image has the higher confidence in {score.value:.2f} of the pairs"
    by = ""
    if kind == NOT_SURER and not score.too_few:
        by = f", which the interval [{score.low:.2f}, {score.high:.2f}] includes"
    if best := find_better_score(scores):
        by += f", and the {OOD_SCORES[best].label} gives {scores[f'{AUROC}/{best}'].value:.2f}"
    return OtherSetFinding(
        kind, score.value, f"“{title}” {said}: {wins}; {CHANCE_AUROC} is a coin{by}."
    )


def _describe_accuracy(
    title: str, there: Score, before: Score, which: str, than: str
) -> OtherSetFinding:
    """Say how much less accurate a model is there than before; without the full stop."""
    gap = subtract_scores(there, before)
    right = f"“{title}” is right in {format_percent(there)} of {which}"
    if gap.high < 0 or gap.low > 0:
        kind, way = (LESS_RIGHT, "less") if gap.high < 0 else (AS_RIGHT, "more")
        said = f"{right}, {100 * abs(gap.value):.1f} points {way} than of {than}"
    else:
        kind = AS_RIGHT
        said = f"{right} and in {format_percent(before)} of {than}, a difference that may be chance"
    return OtherSetFinding(kind, gap.value, said)


def list_other_images(contents: Contents) -> list[str]:
    """Say what is found about each set of other images of a run, the worst first."""
    natural = bool(contents.data.notes.get("natural_shift"))
    return describe_other_images(contents.scores, contents.titles, natural_shift=natural)


# ---------------------------------------------------------------- differences of two sets


def subtract_scores(first: Score, second: Score) -> Score:
    """Subtract two numbers of independent images, with a 95 % interval.

    The interval is made of the two intervals by MOVER (Zou and Donner 2008, "Construction of
    confidence limits about effect measures", equation 5), which keeps their asymmetry. `n` is the
    smaller one.

    >>> gap = subtract_scores(Score(0.9, 0.87, 0.92, 400), Score(0.8, 0.76, 0.83, 300))
    >>> [round(number, 3) for number in gap]
    [0.1, 0.058, 0.145, 300]
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Score(value, low, high, min(first.n, second.n))


def _natural_shift_tables(contents: Contents) -> Iterator[TextTable]:
    """Build one table per metric: validation, test, and their difference, one row per model.

    There is none for data whose test images come from the same source as the others.
    """
    if origin := contents.data.notes.get("natural_shift"):
        independence = _note_independence(contents, {"validation images": VAL})
        sets = [
            ("Validation", VALIDATION, "", ""),
            ("Test", CLEAN, "Test − validation", "difference"),
        ]
        for metric in shown_metrics(2):
            caption = (
                f"{describe_metric(metric)} on the validation and on the test images. {origin} The "
                "validation images chose the checkpoint, so their number is slightly too good. In "
                f"brackets: 95 % intervals{describe_interval(metric)}. {independence}A part of the "
                "difference may come from classes that are more frequent in one of the two sets."
            )
            yield _compare_sets(contents, f"natural_shift_{metric}", caption, metric, sets)


def _compare_sets(
    contents: Contents,
    name: str,
    caption: str,
    metric: str,
    sets: Sequence[tuple[str, str, str, str]],
) -> TextTable:
    """Lay out the number of a first set, and of each other one with its difference to it.

    `sets` are the title and the name of each, and then those of its difference.
    """
    rows = []
    for model, title in contents.titles.items():
        first, *others = (
            find_entry(contents, metric, model, set_, NO_LEVEL) for _, set_, *_ in sets
        )
        entries = [first]
        for other in others:
            gap = first and other and subtract_scores(other.score, first.score)
            entries += [other, gap and ScoreEntry(gap, is_percent(metric))]
        rows.append(ScoreRow(model, title, entries))
    columns = [part for set_ in sets for part in (set_[:2], set_[2:])]
    del columns[1]  # the first set differs from no other
    return tabulate_scores(name, caption, [("Model", "model"), *columns], rows)


def _note_independence(contents: Contents, parts: Mapping[str, str]) -> str:
    """Say of which images is not known which belong together; "" if it is known of all.

    `parts` are titles and names as in the run folder.
    """
    unknown = [
        title
        for title, part in parts.items()
        if any(read_grouping(run, part) is None for run in contents.runs.values())
    ]
    if not unknown:
        return ""
    which = "Images" if contents.grouping is None else f"Those of {', '.join(unknown)}"
    return (
        f"{which} are taken as independent: where several come from one patient, the intervals are "
        "too narrow. "
    )


def _natural_sets_tables(contents: Contents) -> Iterator[TextTable]:
    """Build one table per metric: the test images, each set of other images, and the differences.

    There is none without other images of the same classes.
    """
    named = {shift.removeprefix(NATURAL): shift for shift in find_shifts(contents, NATURAL)}
    if not named:
        return
    independence = _note_independence(contents, named)
    sets = [("Clean", CLEAN, "", "")]
    sets += [(name, key, f"{name} − clean", f"{key} difference") for name, key in named.items()]
    same = SAME_NETWORKS if len(contents.seeds) > 1 else ""
    sample = describe_sample(contents, NATURAL, "other images", {"": contents})
    choices = "".join(f"{sentence} " for sentence in describe_choices(contents, named))
    for metric in shown_metrics(2):
        caption = (
            f"{describe_metric(metric)} on the clean test images and on other images of the same "
            f"classes. In brackets: 95 % intervals{describe_interval(metric)}. The images are "
            "others, so the differences are not paired, and their intervals cover the images of "
            f"both sets. {choices}{independence}A part of a difference may come from classes that "
            f"are more frequent in one of the sets. {same}{sample}."
        )
        yield _compare_sets(contents, f"other_images_{metric}", caption, metric, sets)


def describe_choices(contents: Contents, names: Iterable[str]) -> Iterator[str]:
    """Say what is special about published natural shifts, a sentence each: class mask, labels."""
    records = contents.records.values()
    for name in names:
        known = [record.choices[name] for record in records if name in record.choices]
        for choices in known[:1]:
            yield from choices.sentences(name, len(contents.classes))


# ---------------------------------------------------------------- other data sets


def _tabulate_other_data(contents: Contents) -> TextTable | None:
    columns = [
        ScoreColumn(
            f"{shift.removeprefix(OOD)}: {label}", metric, shift, NO_LEVEL, f"{shift} {metric}"
        )
        for shift in find_shifts(contents, OOD)
        for metric, label in ((AUROC, "AUROC"), (FALSE_POSITIVES, "FPR at 95 % recall"))
    ]
    views = split_by_seed(contents, OOD)
    caption = (
        "How well confidence separates the clean test images from those of another data set. "
        "AUROC: the probability that a test image has a higher confidence than an image of the "
        "other data set; 0.5 is guessing, more is better. 95 % of the test images reach a "
        "certain confidence. FPR at 95 % recall: the share of the other data set's images that "
        f"reach it too; less is better. {INTERVALS} of both sets. "
        f"{describe_sample(contents, OOD, 'images of both sets together', views)}."
    )
    return tabulate_models("other_data", caption, columns, contents, views, drop_empty=True)


def _tabulate_other_scores(contents: Contents) -> TextTable | None:
    """Lay out what may tell another data set beside confidence, one row per model and data set."""
    kinds = {"": "confidence", **{f"/{name}": score.label for name, score in OOD_SCORES.items()}}
    head = [
        (f"{title}: {label}", f"{metric}{added}")
        for metric, title in ((AUROC, "AUROC"), (FALSE_POSITIVES, "FPR"))
        for added, label in kinds.items()
    ]
    rows, views = [], split_by_seed(contents, OOD)
    for (added, view), (model, title), shift in itertools.product(
        views.items(), contents.titles.items(), find_shifts(contents, OOD)
    ):
        entries = [find_entry(view, metric, model, shift, NO_LEVEL) for _, metric in head]
        pairs = zip(head, entries, strict=True)
        scores = {metric: entry.score for (_, metric), entry in pairs if entry}
        if len(scores) > len((AUROC, FALSE_POSITIVES)):
            better = find_better_score(scores)
            label = OOD_SCORES[better].label if better else "none is found better"
            line = f"{title}{added}, {shift.removeprefix(OOD)}"
            rows.append(ScoreRow(model, f"{line} ({label})", entries, line))
    if not rows:
        return None
    caption = (
        "Scores that may separate the images of another data set better than confidence does. "
        "Confidence is the largest softmax probability. Largest logit and energy: of the logits "
        "without softmax. Entropy: of all probabilities. k-NN distance: to the nearest known "
        f"images (k = {NEIGHBOURS}) in the space of features. At most {MOST_FEATURES:,} known "
        "images are drawn from the training images, or else from the validation images. "
        "AUROC: 0.5 is guessing, more is better. FPR: the share of the other images that pass "
        "where 95 % of the test images pass; less is better. In brackets behind the data set: the "
        "score with the largest AUROC, if its interval lies above that of confidence. "
        f"{INTERVALS} of both sets. "
        f"{describe_sample(contents, OOD, 'images of both sets together', views)}."
    )
    head = [("Model and data set", "model"), *head]
    return tabulate_scores("other_data_scores", caption, head, rows, drop_empty=True)


def find_better_score(measured: Mapping[str, Score]) -> str | None:
    """The score with the largest AUROC, if that is found to be larger than that of confidence.

    Two AUROCs differ where their intervals do not overlap, which is a strict test since both are of
    the same images.

    Args:
        measured: the AUROC of the confidence and of each score, by metric.

    >>> find_better_score({AUROC: Score(0.5, 0.4, 0.6, 99), f"{AUROC}/knn": Score(
    ...     0.9, 0.8, 1.0, 99
    ... )})
    'knn'
    """
    scores = {
        name: measured[f"{AUROC}/{name}"] for name in OOD_SCORES if f"{AUROC}/{name}" in measured
    }
    best = max(scores, key=lambda name: scores[name].value, default=None)
    return best if best is not None and scores[best].low > measured[AUROC].high else None


def find_shifts(contents: Contents, beginning: str) -> list[str]:
    """Name the shifts that begin so, in the order of scores.csv."""
    shifts = contents.scores["shift"].unique()
    return [shift for shift in shifts if shift.startswith(beginning)]


def split_by_seed(contents: Contents, beginning: str) -> Views:
    """The shown seed, or each seed on its own where scores.csv has no mean over seeds of these."""
    scores = contents.scores
    if contents.shown_seed in set(scores["seed"][scores["shift"].str.startswith(beginning)]):
        return {"": contents}
    return {
        f", seed {seed}": replace(contents, scores=scores[scores["seed"] == seed])
        for seed in contents.seeds
    }


def describe_sample(contents: Contents, beginning: str, images: str, views: Views) -> str:
    """Say how many images, resamples and seeds are behind numbers of other images or priors."""
    scores = contents.scores
    counts = sorted(scores["n"][scores["shift"].str.startswith(beginning)].unique())
    seen = " to ".join(f"{count:,}" for count in dict.fromkeys((*counts[:1], *counts[-1:])))
    resamples = f"{contents.bootstrap:,} resamples"
    if len(views) > 1:
        return f"n = {seen} {images}, {resamples}; each seed has its own row"
    seeds = contents.sample().partition(" resamples")[2]
    return f"n = {seen} {images}, {resamples}{seeds}"


NATURAL_SHIFT = ReportPart(
    show_tables("A natural shift: test images from another source"), _natural_shift_tables
)
NATURAL_SETS = ReportPart(show_tables("Other images of the same classes"), _natural_sets_tables)
OTHER_DATA = ReportPart(
    show_tables("On other data sets"),
    lambda contents: [_tabulate_other_data(contents), _tabulate_other_scores(contents)],
)

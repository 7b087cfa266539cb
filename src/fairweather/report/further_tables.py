"""Tables besides levels and means: worst levels, other images, class priors, deferral."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from fairweather.metrics.class_metrics import CLASS_METRICS
from fairweather.metrics.ood_scores import MOST_FEATURES, NEIGHBOURS, OOD_SCORES
from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.record import (
    ALL,
    CLEAN,
    MEAN,
    NATURAL,
    NO_LEVEL,
    OOD,
    PRIORS,
    VAL,
    VALIDATION,
    WORST,
    WORST_PRIORS,
)
from fairweather.report.contents import Contents
from fairweather.report.performance import COVERAGE, RISK
from fairweather.report.tables import (
    Entry,
    Row,
    Table,
    describe_metric,
    find_entry,
    interval_note,
)
from fairweather.scores import read_clusters
from fairweather.types import Score

AUROC, FALSE_POSITIVES = "detection_auroc", "false_positive_rate_at_recall/0.95"
# MOVER takes both numbers as independent; networks that are good on both sets make them alike.
SAME_NETWORKS = (
    "Both numbers are of the same networks, which the intervals of differences do not use: they "
    "are rather too wide. "
)
FLIPS, MEAN_ERROR, MCE = "flip_rate", "mean_corruption_error", "mce_alexnet/in-memory"
# By what stands in scores.csv; priors have no rows of aliases.
PRIOR_METRICS: Mapping[str, str] = {
    "accuracy": "accuracy (%)",
    "negative_log_likelihood": "NLL (nats)",
    METRICS["rms_calibration_error"].alias_of or "rms_calibration_error": "RMS",
}
INTERVALS = "In brackets: 95 % bootstrap intervals over images"


class _Column(NamedTuple):
    """A column of a table with one row per model: one metric under a shift at a level."""

    title: str
    key: str
    metric: str
    shift: str
    level: str


# What the rows of a model draw on, by what is added to its title.
_Views = Mapping[str, Contents]


def build_further_tables(contents: Contents) -> list[Table]:
    """Build the tables besides levels and means of a metric, each where the run has its numbers.

    They are: validation beside test where the test images come from another source, other images of
    the same classes beside the test images, the worst level of each shift (one table per metric),
    single classes, class priors, other data sets, stability along levels, and coverage and risk
    above the threshold of the validation images.
    """
    tables = [
        *_natural_shift(contents),
        *_natural_sets(contents),
        *(_worst(contents, metric) for metric in shown_metrics(2)),
        _classes(contents),
        _class_priors(contents),
        _other_data(contents),
        _scores_of_other_data(contents),
        _stability(contents),
        _hand_over(contents),
    ]
    return [table for table in tables if table is not None]


def difference(first: Score, second: Score) -> Score:
    """Subtract two numbers of independent images, with a 95 % interval.

    The interval is made of the two intervals by MOVER (Zou and Donner 2008, "Construction of
    confidence limits about effect measures", equation 5), which keeps their asymmetry. `n` is the
    smaller one.

    >>> gap = difference(Score(0.9, 0.87, 0.92, 400), Score(0.8, 0.76, 0.83, 300))
    >>> [round(number, 3) for number in gap]
    [0.1, 0.058, 0.145, 300]
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Score(value, low, high, min(first.n, second.n))


def _natural_shift(contents: Contents) -> list[Table]:
    """Build one table per metric: validation, test, and their difference, one row per model.

    There is none for data whose test images come from the same source as the others.
    """
    origin = contents.data.notes.get("natural_shift")
    return (
        [_natural_shift_table(contents, metric, str(origin)) for metric in shown_metrics(2)]
        if origin
        else []
    )


def _natural_shift_table(contents: Contents, metric: str, origin: str) -> Table:
    caption = (
        f"{describe_metric(metric)} on the validation and on the test images. {origin} The "
        "validation images chose the checkpoint, so their number is slightly too good. In "
        f"brackets: 95 % intervals{interval_note(metric)}. "
        f"{_independent(contents, {'validation images': VAL})}A part of the difference may come "
        "from classes that are more frequent in one of the two sets."
    )
    return Table(
        name=f"natural_shift_{metric}",
        caption=caption,
        header=("Model", "Validation", "Test", "Test − validation"),
        keys=("model", VALIDATION, CLEAN, "difference"),
        rows=tuple(
            Row(name, title, title, _validation_and_test(contents, metric, name))
            for name, title in contents.titles.items()
        ),
    )


def _independent(contents: Contents, parts: Mapping[str, str]) -> str:
    """Say of which images is not known which belong together; "" if it is known of all.

    `parts` are titles and names as in the run folder.
    """
    unknown = [
        title
        for title, part in parts.items()
        if any(read_clusters(run, part) is None for run in contents.runs.values())
    ]
    if not unknown:
        return ""
    which = "Images" if contents.clusters is None else f"Those of {', '.join(unknown)}"
    return (
        f"{which} are taken as independent: where several come from one patient, the intervals are "
        "too narrow. "
    )


def _validation_and_test(contents: Contents, metric: str, model: str) -> tuple[Entry | None, ...]:
    validation, test = (
        find_entry(contents, metric, model, shift, NO_LEVEL) for shift in (VALIDATION, CLEAN)
    )
    if validation is None or test is None:
        return validation, test, None
    gap = difference(test.score, validation.score)
    return validation, test, Entry(gap, test.percent)


def _natural_sets(contents: Contents) -> list[Table]:
    """Build one table per metric: the test images, each set of other images, and the differences.

    There is none without other images of the same classes.
    """
    sets = _shifts(contents, NATURAL)
    return (
        [_natural_sets_table(contents, metric, sets) for metric in shown_metrics(2)] if sets else []
    )


def _natural_sets_table(contents: Contents, metric: str, sets: Sequence[str]) -> Table:
    names = [each.removeprefix(NATURAL) for each in sets]
    caption = (
        f"{describe_metric(metric)} on the clean test images and on other images of the same "
        f"classes. In brackets: 95 % intervals{interval_note(metric)}. The images are others, so "
        "the differences are not paired, and their intervals cover the images of both sets. "
        f"{_independent(contents, {each.removeprefix(NATURAL): each for each in sets})}A part of a "
        "difference may come from classes that are more frequent in one of the sets. "
        f"{SAME_NETWORKS if len(contents.seeds) > 1 else ''}"
        f"{_sample(contents, NATURAL, 'other images', {'': contents})}."
    )
    return Table(
        name=f"other_images_{metric}",
        caption=caption,
        header=("Model", "Clean", *(part for n in names for part in (n, f"{n} − clean"))),
        keys=("model", CLEAN, *(part for s in sets for part in (s, f"{s} difference"))),
        rows=tuple(
            Row(name, title, title, _clean_and_others(contents, metric, name, sets))
            for name, title in contents.titles.items()
        ),
    )


def _clean_and_others(
    contents: Contents, metric: str, model: str, sets: Sequence[str]
) -> tuple[Entry | None, ...]:
    clean = find_entry(contents, metric, model, CLEAN, NO_LEVEL)
    entries = [clean]
    for each in sets:
        other = find_entry(contents, metric, model, each, NO_LEVEL)
        gap = None
        if clean is not None and other is not None:
            gap = Entry(difference(other.score, clean.score), clean.percent)
        entries += [other, gap]
    return tuple(entries)


def _worst(contents: Contents, metric: str) -> Table | None:
    titled = [(sweep.title, sweep.name) for sweep in contents.sweeps] + [("All shifts", ALL)]
    columns = [_Column(title, f"{s} {WORST}", metric, s, WORST) for title, s in titled]
    caption = (
        f"{describe_metric(metric)} at the worst level of each shift by this metric, and at the "
        "worst of all shifts without attacks. The worst level is chosen again in each resample"
        f"{' and for each seed' if len(contents.seeds) > 1 else ''}, so the intervals differ from "
        "those of one fixed level. The worst of several noisy values looks worse than the true "
        f"worst. In brackets: {contents.intervals}{interval_note(metric)}. {contents.sample()}."
    )
    return _table(f"worst_{metric}", caption, columns, {"": contents}, contents)


def _classes(contents: Contents) -> Table | None:
    """Build one table of all classes and operating points on clean images, or None."""
    beginning = f"{next(iter(CLASS_METRICS))}/"
    metrics = contents.scores["metric"][contents.scores["shift"] == CLEAN].unique()
    named = [each.removeprefix(beginning) for each in metrics if each.startswith(beginning)]
    if not named:
        return None
    caption = (
        "Each class against all others on the clean test images; n: the images of the class. "
        + " ".join(f"{kind.label}: {kind.formula}." for kind in CLASS_METRICS.values())
        + " A class is called where it is the most probable one; behind @, where its probability "
        f"is at least that. In brackets: {contents.intervals}, for as many images as the number is "
        f"a share of. {contents.sample()}."
    )
    return Table(
        name="classes",
        caption=caption,
        header=("Class", *(kind.label for kind in CLASS_METRICS.values())),
        keys=("class", *CLASS_METRICS),
        rows=tuple(
            _class_row(contents, model, title, name)
            for model, title in contents.titles.items()
            for name in named
        ),
    )


def _class_row(contents: Contents, model: str, title: str, name: str) -> Row:
    entries = [
        find_entry(contents, f"{kind}/{name}", model, CLEAN, NO_LEVEL) for kind in CLASS_METRICS
    ]
    whose = f"{title}: {name}" if len(contents.titles) > 1 else name
    images = next((each.score.n for each in entries if each), 0)
    # Undefined numbers, such as the PPV of a class that is never called, are absent from a table.
    shown = (None if each and math.isnan(each.score.value) else each for each in entries)
    return Row(f"{model}/{name}", whose, f"{whose} (n = {images:,})", tuple(shown))


def _class_priors(contents: Contents) -> Table | None:
    priors = _shifts(contents, PRIORS)
    if not priors:
        return None
    titled = [("Clean", CLEAN)]
    titled += [(shift.removeprefix(PRIORS), shift) for shift in priors if shift != WORST_PRIORS]
    titled += [("Worst of these priors", WORST_PRIORS)]
    columns = [
        _Column(f"{title}: {label}", f"{shift} {metric}", metric, shift, NO_LEVEL)
        for title, shift in titled
        for metric, label in PRIOR_METRICS.items()
    ]
    views = _views(contents, PRIORS)
    *_, rms = PRIOR_METRICS
    caption = (
        "Clean test images under other class priors, beside the frequencies of the test set. "
        "Priors give the images of each class another weight; the images themselves stay the same. "
        "Worst: the lowest accuracy under any of these priors. NLL: negative log-likelihood. RMS: "
        f"{describe_metric(rms)}. {INTERVALS}; those of RMS are "
        f"{interval_note(rms).removeprefix(', ')}. "
        f"{_sample(contents, PRIORS, 'test images', views)}."
    )
    return _table("class_priors", caption, columns, views, contents)


def _other_data(contents: Contents) -> Table | None:
    labels = {AUROC: "AUROC", FALSE_POSITIVES: "FPR at 95 % recall"}
    columns = [
        _Column(f"{shift.removeprefix(OOD)}: {label}", f"{shift} {metric}", metric, shift, NO_LEVEL)
        for shift in _shifts(contents, OOD)
        for metric, label in labels.items()
    ]
    views = _views(contents, OOD)
    caption = (
        "How well confidence separates the clean test images from those of another data set. "
        "AUROC: the probability that a test image has a higher confidence than an image of the "
        "other data set; 0.5 is guessing, more is better. FPR at 95 % recall: the share of the "
        "other data set's images with at least the confidence that 95 % of the test images reach; "
        f"less is better. {INTERVALS} of both sets. "
        f"{_sample(contents, OOD, 'images of both sets together', views)}."
    )
    return _table("other_data", caption, columns, views, contents)


def _scores_of_other_data(contents: Contents) -> Table | None:
    """Lay out what may tell another data set beside confidence, one row per model and data set."""
    shifts = _shifts(contents, OOD)
    kinds = {"": "confidence", **{f"/{name}": of.label for name, of in OOD_SCORES.items()}}
    columns = [
        (f"{head}: {label}", f"{metric}{added}")
        for metric, head in ((AUROC, "AUROC"), (FALSE_POSITIVES, "FPR"))
        for added, label in kinds.items()
    ]
    rows, views = [], _views(contents, OOD)
    for added, view in views.items():
        for model, title in contents.titles.items():
            for shift in shifts:
                found = {
                    metric: find_entry(view, metric, model, shift, NO_LEVEL)
                    for _, metric in columns
                }
                of = {metric: entry.score for metric, entry in found.items() if entry}
                if len(of) > len((AUROC, FALSE_POSITIVES)):
                    better = better_score(of)
                    label = OOD_SCORES[better].label if better else "none is found better"
                    line = f"{title}{added}, {shift.removeprefix(OOD)}"
                    rows.append(Row(model, line, f"{line} ({label})", tuple(found.values())))
    kept = [at for at in range(len(columns)) if any(row.entries[at] for row in rows)]
    if not kept:
        return None
    return Table(
        name="other_data_scores",
        caption=(
            "What may tell the images of another data set better than confidence, the largest "
            "softmax probability. Largest logit and energy: of the logits without softmax; "
            "entropy: of all probabilities. k-NN distance: in the space of features to the nearest "
            f"known images (k = {NEIGHBOURS}), of at most {MOST_FEATURES:,} that are drawn from "
            "the training images, or from the validation images where no others were opened. "
            "AUROC: 0.5 is guessing, more is better. FPR: the share of the other images that pass "
            "where 95 % of the test images pass; less is better. Behind the data set: the score "
            "with the largest AUROC, if its interval lies above that of confidence. "
            f"{INTERVALS} of both sets. "
            f"{_sample(contents, OOD, 'images of both sets together', views)}."
        ),
        header=("Model and data set", *(columns[at][0] for at in kept)),
        keys=("model", *(columns[at][1] for at in kept)),
        rows=tuple(row._replace(entries=tuple(row.entries[at] for at in kept)) for row in rows),
    )


def better_score(of: Mapping[str, Score]) -> str | None:
    """The score with the largest AUROC, if that is found to be larger than that of confidence.

    Two AUROCs differ where their intervals do not overlap, which is a strict test since both are of
    the same images.

    Args:
        of: the AUROC of the confidence and of each score, by metric.

    >>> better_score({AUROC: Score(0.5, 0.4, 0.6, 99), f"{AUROC}/knn": Score(0.9, 0.8, 1.0, 99)})
    'knn'
    """
    scores = {name: of[f"{AUROC}/{name}"] for name in OOD_SCORES if f"{AUROC}/{name}" in of}
    best = max(scores, key=lambda name: scores[name].value, default=None)
    return best if best is not None and scores[best].low > of[AUROC].high else None


def _stability(contents: Contents) -> Table | None:
    titled = [(sweep.title, sweep.name) for sweep in contents.sweeps] + [("All shifts", ALL)]
    columns = [
        _Column(f"{title}: flip rate", f"{shift} {FLIPS}", FLIPS, shift, MEAN)
        for title, shift in titled
    ]
    found = contents.scores
    parts = [
        "Flip rate: the share of the images whose predicted class changes from one level to the "
        "next, where clean counts as a level; the mean over neighbouring levels. It needs no "
        "labels. It grows with the distance of the levels, so compare models by it, not shifts. "
        "All shifts: their mean, without attacks"
    ]
    for metric, label, note in (
        (
            MEAN_ERROR,
            "mean corruption error",
            "Mean corruption error: the share of wrong answers, mean over the severities of each "
            "corruption of a family and then over corruptions. It is not normalised by the errors "
            "of another model",
        ),
        (
            MCE,
            "mCE",
            "mCE: the errors divided by the published errors of AlexNet; 1 means as many errors as "
            "AlexNet makes (papers print 100 times that). The corruptions are made in memory, and "
            "are not bit for bit those of the published files",
        ),
    ):
        families = found["shift"][found["metric"] == metric].unique()
        columns += [
            _Column(f"{family}: {label}", f"{family} {metric}", metric, family, MEAN)
            for family in families
        ]
        parts += [note] if len(families) else []
    caption = f"{'. '.join(parts)}. In brackets: {contents.intervals}. {contents.sample()}."
    return _table("stability", caption, columns, {"": contents}, contents)


def _hand_over(contents: Contents) -> Table | None:
    titled = [("Clean", CLEAN, NO_LEVEL)]
    titled += [(sweep.title, sweep.name, MEAN) for sweep in contents.sweeps]
    columns = [
        _Column(f"{title}: {label}", f"{_column_key(shift, level)} {metric}", metric, shift, level)
        for title, shift, level in titled
        for metric, label in ((COVERAGE, "coverage"), (RISK, "risk"))
    ]
    shifted = any(contents.fitted_on(model) != (CLEAN,) for model in contents.titles)
    of_others = "Where a model was fitted under shifts, it is that of all these images. "
    of_others = of_others if shifted else ""
    caption = (
        "The model answers confident images and defers the rest to a person. Coverage: the share "
        "of the images that it answers, those at or above a confidence threshold. Risk: the share "
        "of its answers that is wrong; there is none where it answers no image. The threshold was "
        "fitted on clean validation images, so that at most 5 % of the answers on them are wrong. "
        f"{of_others}All numbers of a model and seed have the same threshold. For each shift, the "
        "mean over "
        f"its levels. In brackets: {contents.intervals} for this fixed threshold. "
        f"{contents.sample()}."
    )
    return _table("hand_over", caption, columns, {"": contents}, contents)


def _table(
    name: str, caption: str, columns: Sequence[_Column], views: _Views, contents: Contents
) -> Table | None:
    """Lay out the columns that have a number, one row per model and view; None without any."""
    rows = list(_lines(columns, views, contents))
    kept = [at for at in range(len(columns)) if any(row.entries[at] for row in rows)]
    if not kept:
        return None
    return Table(
        name=name,
        caption=caption,
        header=("Model", *(columns[at].title for at in kept)),
        keys=("model", *(columns[at].key for at in kept)),
        rows=tuple(row._replace(entries=tuple(row.entries[at] for at in kept)) for row in rows),
    )


def _lines(columns: Sequence[_Column], views: _Views, contents: Contents) -> Iterator[Row]:
    for model, title in contents.titles.items():
        for added, view in views.items():
            entries = tuple(_find(view, model, column) for column in columns)
            if any(entries) or len(views) == 1:  # another run's seed is not this model's
                yield Row(model, title + added, title + added, entries)


def _find(contents: Contents, model: str, column: _Column) -> Entry | None:
    """A number of the table; a risk where nothing is answered is none."""
    entry = find_entry(contents, column.metric, model, column.shift, column.level)
    return None if entry is None or math.isnan(entry.score.value) else entry


def _column_key(shift: str, level: str) -> str:
    return shift if level == NO_LEVEL else f"{shift} {level}"


def _shifts(contents: Contents, beginning: str) -> list[str]:
    shifts = contents.scores["shift"].unique()
    return [shift for shift in shifts if shift.startswith(beginning)]


def _views(contents: Contents, beginning: str) -> _Views:
    """The shown seed, or each seed on its own where scores.csv has no mean over seeds of these."""
    scores = contents.scores
    if contents.shown_seed in set(scores["seed"][scores["shift"].str.startswith(beginning)]):
        return {"": contents}
    return {
        f", seed {seed}": replace(contents, scores=scores[scores["seed"] == seed])
        for seed in contents.seeds
    }


def _sample(contents: Contents, beginning: str, images: str, views: _Views) -> str:
    """Say how many images, resamples and seeds are behind numbers of other images or priors."""
    scores = contents.scores
    counts = sorted(scores["n"][scores["shift"].str.startswith(beginning)].unique())
    seen = " to ".join(f"{count:,}" for count in dict.fromkeys((*counts[:1], *counts[-1:])))
    resamples = f"{contents.bootstrap:,} resamples"
    if len(views) > 1:
        return f"n = {seen} {images}, {resamples}; each seed has its own row"
    seeds = contents.sample().partition(" resamples")[2]
    return f"n = {seen} {images}, {resamples}{seeds}"

"""Tables with a row for each model: summary, classes, units, worst levels, priors, deferral."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from fairweather.metrics import METRICS
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.table import shown_metrics
from fairweather.report.contents import SCORE_KEYS, Contents, ensembles_as_models
from fairweather.report.other_images import INTERVALS, describe_sample, find_shifts, split_by_seed
from fairweather.report.performance import COVERAGE, RISK
from fairweather.report.section import PartView, ReportPart, Tables, show_tables
from fairweather.report.tables import (
    CORRECTED,
    ScoreColumn,
    ScoreRow,
    TextTable,
    caption_scores,
    describe_interval,
    describe_metric,
    find_entry,
    make_column_key,
    tabulate_models,
    tabulate_scores,
)
from fairweather.report.training import draw_labels
from fairweather.types.positive import FROM
from fairweather.types.record import (
    ALL,
    CLEAN,
    MEAN,
    NO_LEVEL,
    PRIORS,
    WORST,
    WORST_PRIORS,
    list_whole_units,
)

# ---------------------------------------------------------------- the summary


def find_summary_rows(contents: Contents) -> pd.DataFrame:
    """Return the rows of scores.csv that the summary tables show."""
    places = [
        (metric, model, column.shift, column.level, contents.shown_seed)
        for metric in shown_metrics(2)
        for model in contents.titles
        for column in summary_columns(contents, metric)
    ]
    rows = contents.scores.set_index(SCORE_KEYS, drop=False)
    return rows.loc[[place for place in places if place in rows.index]].reset_index(drop=True)


def _summary_tables(contents: Contents) -> Iterator[TextTable | None]:
    shifts = "; for each shift, the mean over its levels" if contents.sweeps else ""
    for metric in shown_metrics(2):
        subject = f"{describe_metric(metric)} on the clean test images{shifts}"
        caption = caption_scores(contents, subject, describe_interval(metric))
        yield tabulate_models(
            f"summary_{metric}", caption, summary_columns(contents, metric), contents
        )


def summary_columns(contents: Contents, metric: str) -> list[ScoreColumn]:
    """The columns of a summary: clean images, and the mean over the levels of each shift."""
    return [ScoreColumn(title, metric, shift, level) for title, shift, level in contents.means]


def _show_summaries(_: Contents, tables: Tables) -> PartView:
    return PartView("Summary", tables, figures=["labels"])


SUMMARY = ReportPart(
    _show_summaries, _summary_tables, lambda contents: [draw_labels(contents)], accepts=None
)


# ---- single classes

# The table of calibration has the others.
CALLS_AND_RANKS = {
    name: kind for name, kind in CLASS_METRICS.items() if kind.interval != "influence"
}


def _class_tables(contents: Contents) -> Iterator[TextTable]:
    """Build one table of all classes and operating points on clean images, if there are some."""
    beginning = f"{next(iter(CLASS_METRICS))}/"
    metrics = contents.scores["metric"][contents.scores["shift"] == CLEAN].unique()
    named = [metric.removeprefix(beginning) for metric in metrics if metric.startswith(beginning)]
    if not named:
        return
    of_grades = (
        "Behind >=, it is this class and all after it; they are called from 0.5 on. "
        if any(name.startswith(FROM) for name in named)
        else ""
    )
    caption = (
        "Each class against all others on the clean test images; n: the images of the class. "
        + " ".join(f"{kind.label}: {kind.formula}." for kind in CALLS_AND_RANKS.values())
        + " A class is called where it is the most probable one; behind @, where its probability "
        f"is at least that. {of_grades}In brackets: {contents.intervals}, for as many images as "
        f"the number is a share of. {contents.sample()}."
    )
    head = [(kind.label, key) for key, kind in CALLS_AND_RANKS.items()]
    rows = [
        _make_class_row(contents, model, title, name)
        for model, title in contents.titles.items()
        for name in named
    ]
    yield tabulate_scores("classes", caption, [("Class", "class"), *head], rows)


def _make_class_row(contents: Contents, model: str, title: str, name: str) -> ScoreRow:
    of_class = [f"{kind}/{name}" for kind in CALLS_AND_RANKS]
    whose = f"{title}: {name}" if len(contents.titles) > 1 else name
    scores = [contents.score(metric, model, CLEAN, NO_LEVEL) for metric in of_class]
    images = next((score.n for score in scores if score), 0)
    entries = [find_entry(contents, metric, model, CLEAN, NO_LEVEL) for metric in of_class]
    return ScoreRow(f"{model}/{name}", f"{whose} (n = {images:,})", entries, whose)


GRADE_METRICS = ("mean_absolute_error", "off_by_two", "quadratic_kappa", "ranked_probability_score")


def _tabulate_grades(contents: Contents) -> TextTable | None:
    """How far off the answers are, of classes in an order: clean, and on average over shifts."""
    states = (("Clean", CLEAN, NO_LEVEL), ("Mean over shifts", ALL, MEAN))
    columns = [
        ScoreColumn(
            f"{title}: {METRICS[name].label.lower()}",
            name,
            shift,
            level,
            f"{make_column_key(shift, level)} {name}",
        )
        for title, shift, level in states
        for name in GRADE_METRICS
    ]
    formulas = " ".join(
        f"{METRICS[name].label}: {METRICS[name].formula}." for name in GRADE_METRICS
    )
    order = ", ".join(contents.classes)
    caption = caption_scores(contents, f"Grades in this order: {order}. {formulas} Test images")
    return tabulate_models("grades", caption, columns, contents, drop_empty=True)


GRADES = ReportPart(
    show_tables("Grades: how far off the answers are"),
    lambda contents: [_tabulate_grades(contents)] if contents.data.ordered else [],
)
CLASSES = ReportPart(show_tables("Each class against all others"), _class_tables)


# ---------------------------------------------------------------- units


def split_by_unit(contents: Contents) -> Mapping[str, Contents]:
    """The scores of each unit, by what is added to the title of a model; of a single run."""
    if len(contents.runs) != 1:
        return {}
    (run,) = contents.runs.values()
    rows = ensembles_as_models(run.unit_scores)
    if "unit" not in rows:
        return {}
    whole = list_whole_units(rows["unit"])
    return {
        f", {unit}": replace(contents, scores=own.drop(columns="unit").reset_index(drop=True))
        for unit, own in rows.groupby("unit", sort=False)
        if unit not in whole
    }


def _unit_tables(contents: Contents) -> Iterator[TextTable | None]:
    if views := split_by_unit(contents):
        for metric in shown_metrics(2):
            what = f"{describe_metric(metric)} of each by itself, where its label is known"
            caption = caption_scores(contents, what, describe_interval(metric))
            yield tabulate_models(
                f"units_{metric}", caption, summary_columns(contents, metric), contents, views
            )


UNITS = ReportPart(show_tables("Each finding by itself"), _unit_tables, accepts=None)


# ---------------------------------------------------------------- further tables

FLIPS, MEAN_ERROR, MCE = "flip_rate", "mean_corruption_error", "mce_alexnet/in-memory"
MCE_OF_FILES, RELATIVE_MCE = "mce_alexnet/files", "relative_mce_alexnet/files"
# By what stands in scores.csv; priors have no rows of aliases.
PRIOR_METRICS: Mapping[str, str] = {
    "accuracy": "accuracy (%)",
    "negative_log_likelihood": "NLL (nats)",
    METRICS["rms_calibration_error"].alias_of or "rms_calibration_error": "RMS",
}


def _tabulate_worst(contents: Contents, metric: str) -> TextTable | None:
    titled = [(sweep.title, sweep.name) for sweep in contents.sweeps] + [("All shifts", ALL)]
    columns = [ScoreColumn(title, metric, shift, WORST) for title, shift in titled]
    subject = (
        f"{describe_metric(metric)} at the worst level of each shift by this metric, and at the "
        "worst of all shifts without attacks. The worst level is chosen again in each resample"
        f"{' and for each seed' if len(contents.seeds) > 1 else ''}, so the intervals differ from "
        "those of one fixed level. The worst of several noisy values looks worse than the true "
        "worst"
    )
    caption = caption_scores(contents, subject, describe_interval(metric))
    return tabulate_models(f"worst_{metric}", caption, columns, contents, drop_empty=True)


def _tabulate_priors(contents: Contents) -> TextTable | None:
    priors = find_shifts(contents, PRIORS)
    if not priors:
        return None
    titled = [("Clean", CLEAN)]
    titled += [(shift.removeprefix(PRIORS), shift) for shift in priors if shift != WORST_PRIORS]
    titled += [("Worst of these priors", WORST_PRIORS)]
    columns = [
        ScoreColumn(f"{title}: {label}", metric, shift, NO_LEVEL, f"{shift} {metric}")
        for title, shift in titled
        for metric, label in PRIOR_METRICS.items()
    ]
    views = split_by_seed(contents, PRIORS)
    *_, rms = PRIOR_METRICS
    caption = (
        "Clean test images under other class priors, beside the frequencies of the test set. "
        "Priors give the images of each class another weight; the images themselves stay the same. "
        "Worst: the lowest accuracy under any of these priors. NLL: negative log-likelihood. RMS: "
        f"{describe_metric(rms)}. {INTERVALS}; those of RMS are "
        f"{describe_interval(rms).removeprefix(', ')}. "
        f"{describe_sample(contents, PRIORS, 'test images', views)}."
    )
    return tabulate_models("class_priors", caption, columns, contents, views, drop_empty=True)


def _tabulate_stability(contents: Contents) -> TextTable | None:
    titled = [(sweep.title, sweep.name) for sweep in contents.sweeps] + [("All shifts", ALL)]
    columns = [
        ScoreColumn(f"{title}: flip rate", FLIPS, shift, MEAN, f"{shift} {FLIPS}")
        for title, shift in titled
    ]
    scores = contents.scores
    parts = [
        "Flip rate: the share of the images whose predicted class changes from one level to the "
        "next. It is the mean over neighbouring levels; clean counts as a level. It needs no "
        "labels. It grows with the distance of the levels, so compare models by it, not shifts. "
        "All shifts: their mean, without attacks"
    ]
    for metric, label, note in (
        (
            MEAN_ERROR,
            "mean corruption error",
            "Mean corruption error: the share of wrong answers, mean over the levels of each "
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
        (
            MCE_OF_FILES,
            "mCE",
            "mCE on the published files: the errors divided by the published errors of AlexNet "
            "(papers print 100 times that)",
        ),
        (
            RELATIVE_MCE,
            "relative mCE",
            "Relative mCE: how much the errors rise above clean, divided by the rise of AlexNet's",
        ),
    ):
        families = scores["shift"][scores["metric"] == metric].unique()
        columns += [
            ScoreColumn(f"{family}: {label}", metric, family, MEAN, f"{family} {metric}")
            for family in families
        ]
        parts += [note] if len(families) else []
    caption = caption_scores(contents, ". ".join(parts))
    return tabulate_models("stability", caption, columns, contents, drop_empty=True)


def _tabulate_deferral(contents: Contents) -> TextTable | None:
    columns = [
        ScoreColumn(
            f"{title}: {label}", metric, shift, level, f"{make_column_key(shift, level)} {metric}"
        )
        for title, shift, level in contents.means
        for metric, label in ((COVERAGE, "coverage"), (RISK, "risk"))
    ]
    shifted = any(contents.fitted_on(model) != (CLEAN,) for model in contents.titles)
    of_others = "Where a model was fitted under shifts, it is that of all these images. "
    of_others = of_others if shifted else ""
    caption = (
        "The model answers confident images and defers the rest to a person. Coverage: the share "
        "of the images that it answers, those at or above a confidence threshold. Risk: the share "
        "of its answers that is wrong; missing where it answers no image. The threshold was "
        "fitted on clean validation images, so that at most 5 % of the answers on them are wrong. "
        f"{of_others}All numbers of a model and seed have the same threshold. For each shift, the "
        "mean over "
        f"its levels. In brackets: {contents.intervals} for this fixed threshold. "
        f"{contents.sample()}."
    )
    return tabulate_models("hand_over", caption, columns, contents, drop_empty=True)


def _tabulate_clean_metrics(contents: Contents) -> TextTable:
    """Lay out every metric on clean images, one row per metric, without aliases."""
    measured = set(contents.scores["metric"])
    names = [name for name, m in METRICS.items() if m.alias_of is None and name in measured]
    note = (
        f"; those of binned calibration errors are {CORRECTED}; those of the maximum calibration "
        "error are indicative only"
    )
    rows = [
        ScoreRow(
            name,
            describe_metric(name),
            [find_entry(contents, name, model, CLEAN, NO_LEVEL) for model in contents.titles],
            METRICS[name].label,
        )
        for name in names
    ]
    caption = caption_scores(contents, "Every metric on the clean test images", note)
    head = [("Metric", "metric"), *((title, model) for model, title in contents.titles.items())]
    return tabulate_scores("clean_metrics", caption, head, rows)


WORST_LEVELS = ReportPart(
    show_tables("At the worst level"),
    lambda contents: [_tabulate_worst(contents, metric) for metric in shown_metrics(2)],
    accepts=None,
)
STABILITY = ReportPart(
    show_tables("Answers that change from level to level"),
    lambda contents: [_tabulate_stability(contents)],
)
CLASS_PRIORS = ReportPart(
    show_tables("Under other class priors"), lambda contents: [_tabulate_priors(contents)]
)
DEFERRAL = ReportPart(
    show_tables("Coverage and risk at the threshold of the validation images"),
    lambda contents: [_tabulate_deferral(contents)],
)
CLEAN_METRICS = ReportPart(
    show_tables("All metrics on clean images"),
    lambda contents: [_tabulate_clean_metrics(contents)],
    accepts=None,
)

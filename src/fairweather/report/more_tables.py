"""Tables besides levels and means: worst levels, class priors, changing answers, deferral."""

from __future__ import annotations

from collections.abc import Mapping

from fairweather.metrics import METRICS
from fairweather.metrics.table import shown_metrics
from fairweather.record import ALL, CLEAN, MEAN, NO_LEVEL, PRIORS, WORST, WORST_PRIORS
from fairweather.report.contents import Contents
from fairweather.report.other_images import INTERVALS, shifts_of, told_sample, views_of
from fairweather.report.performance import COVERAGE, RISK
from fairweather.report.section import Part, headed
from fairweather.report.tables import (
    CORRECTED,
    Column,
    Row,
    Table,
    by_model,
    column_key,
    describe_metric,
    find_entry,
    interval_note,
    told_of,
    without_empty,
)

FLIPS, MEAN_ERROR, MCE = "flip_rate", "mean_corruption_error", "mce_alexnet/in-memory"
# By what stands in scores.csv; priors have no rows of aliases.
PRIOR_METRICS: Mapping[str, str] = {
    "accuracy": "accuracy (%)",
    "negative_log_likelihood": "NLL (nats)",
    METRICS["rms_calibration_error"].alias_of or "rms_calibration_error": "RMS",
}


def _worst(contents: Contents, metric: str) -> Table | None:
    titled = [(sweep.title, sweep.name) for sweep in contents.sweeps] + [("All shifts", ALL)]
    columns = [Column(title, f"{s} {WORST}", metric, s, WORST) for title, s in titled]
    caption = (
        f"{describe_metric(metric)} at the worst level of each shift by this metric, and at the "
        "worst of all shifts without attacks. The worst level is chosen again in each resample"
        f"{' and for each seed' if len(contents.seeds) > 1 else ''}, so the intervals differ from "
        "those of one fixed level. The worst of several noisy values looks worse than the true "
        f"worst. In brackets: {contents.intervals}{interval_note(metric)}. {contents.sample()}."
    )
    return without_empty(by_model(f"worst_{metric}", caption, columns, contents))


def _class_priors(contents: Contents) -> Table | None:
    priors = shifts_of(contents, PRIORS)
    if not priors:
        return None
    titled = [("Clean", CLEAN)]
    titled += [(shift.removeprefix(PRIORS), shift) for shift in priors if shift != WORST_PRIORS]
    titled += [("Worst of these priors", WORST_PRIORS)]
    columns = [
        Column(f"{title}: {label}", f"{shift} {metric}", metric, shift, NO_LEVEL)
        for title, shift in titled
        for metric, label in PRIOR_METRICS.items()
    ]
    views = views_of(contents, PRIORS)
    *_, rms = PRIOR_METRICS
    caption = (
        "Clean test images under other class priors, beside the frequencies of the test set. "
        "Priors give the images of each class another weight; the images themselves stay the same. "
        "Worst: the lowest accuracy under any of these priors. NLL: negative log-likelihood. RMS: "
        f"{describe_metric(rms)}. {INTERVALS}; those of RMS are "
        f"{interval_note(rms).removeprefix(', ')}. "
        f"{told_sample(contents, PRIORS, 'test images', views)}."
    )
    return without_empty(by_model("class_priors", caption, columns, contents, views))


def _stability(contents: Contents) -> Table | None:
    titled = [(sweep.title, sweep.name) for sweep in contents.sweeps] + [("All shifts", ALL)]
    columns = [
        Column(f"{title}: flip rate", f"{shift} {FLIPS}", FLIPS, shift, MEAN)
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
            Column(f"{family}: {label}", f"{family} {metric}", metric, family, MEAN)
            for family in families
        ]
        parts += [note] if len(families) else []
    caption = f"{'. '.join(parts)}. In brackets: {contents.intervals}. {contents.sample()}."
    return without_empty(by_model("stability", caption, columns, contents))


def _hand_over(contents: Contents) -> Table | None:
    columns = [
        Column(f"{title}: {label}", f"{column_key(shift, level)} {metric}", metric, shift, level)
        for title, shift, level in contents.means
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
    return without_empty(by_model("hand_over", caption, columns, contents))


def _clean_metrics(contents: Contents) -> Table:
    """Lay out every metric on clean images, one row per metric, without aliases."""
    found = set(contents.scores["metric"])
    names = [name for name, m in METRICS.items() if m.alias_of is None and name in found]
    note = (
        f"; those of binned calibration errors are {CORRECTED}; those of the maximum calibration "
        "error are indicative only"
    )
    return Table(
        name="clean_metrics",
        caption=told_of(contents, "Every metric on the clean test images", note),
        header=("Metric", *contents.titles.values()),
        keys=("metric", *contents.titles),
        rows=tuple(
            Row(
                name,
                METRICS[name].label,
                describe_metric(name),
                tuple(find_entry(contents, name, m, CLEAN, NO_LEVEL) for m in contents.titles),
            )
            for name in names
        ),
    )


WORST_LEVELS = Part(
    headed("At the worst level"),
    lambda contents: [_worst(contents, metric) for metric in shown_metrics(2)],
    accepts=None,
)
STABILITY = Part(
    headed("Answers that change from level to level"), lambda contents: [_stability(contents)]
)
CLASS_PRIORS = Part(headed("Under other class priors"), lambda contents: [_class_priors(contents)])
HAND_OVER = Part(
    headed("Coverage and risk at the threshold of the validation images"),
    lambda contents: [_hand_over(contents)],
)
CLEAN_METRICS = Part(
    headed("All metrics on clean images"),
    lambda contents: [_clean_metrics(contents)],
    accepts=None,
)

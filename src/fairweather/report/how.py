"""What the page says about how its numbers were made: settings, formulas, and citation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from fairweather.metrics.class_metrics import of_classes
from fairweather.metrics.ood_scores import OOD_SCORES
from fairweather.record import TEST, RunRecord
from fairweather.report.contents import Contents
from fairweather.report.more_tables import FLIPS, MCE, MEAN_ERROR
from fairweather.report.other_images import AUROC, FALSE_POSITIVES
from fairweather.report.section import Part, Shown, Tables
from fairweather.report.table_formats import escape_latex
from fairweather.report.tables import METRIC, describe_metric
from fairweather.runs import fingerprint
from fairweather.types import in_255ths

# Each metric by its name without the binning; the sums and means are over the test images, or over
# the bins m, which hold n_m of the n images with mean confidence conf_m and accuracy acc_m.
FORMULAS: Mapping[str, str] = {
    "accuracy": "share of the images whose most probable class is the label",
    "top5_accuracy": "share of the images whose label is among the five most probable classes",
    "balanced_accuracy": "mean over the classes of the accuracy on their images",
    "macro_auc": "mean over the classes of the one-vs-rest area under the ROC curve",
    "macro_pr_auc": (
        "mean over the classes of the average precision: the mean over the images of the class of "
        "the precision among all images with at least their probability"
    ),
    "macro_specificity": (
        "mean over the classes of the share of the images of other classes that are not called so"
    ),
    "weighted_specificity": "the same, each class counted as often as it has images",
    "macro_ppv": (
        "mean over the classes that are called of the share of these calls that is right (positive "
        "predictive value, precision)"
    ),
    "weighted_ppv": "the same, each class counted as often as it has images",
    "macro_npv": (
        "mean over the classes of the share of other classes among the images not called so "
        "(negative predictive value)"
    ),
    "weighted_npv": "the same, each class counted as often as it has images",
    "macro_f1": (
        "mean over the classes of 2 × right calls / (images of the class + images called so)"
    ),
    "weighted_f1": "the same, each class counted as often as it has images",
    "cohen_kappa": (
        "1 − share of wrong answers / the share if label and answer were independent, with the "
        "same classes as often"
    ),
    "quadratic_kappa": (
        "1 − mean (answer − label)² / the same if label and answer were independent; classes in "
        "their order are 0, 1, 2 and so on"
    ),
    "negative_log_likelihood": "mean of −ln p(label), in nats",
    "brier_score": "mean of Σ over classes (p − [class is the label])², between 0 and 2",
    "confidence_gap": "mean confidence − accuracy; positive for an overconfident model",
    "expected_calibration_error": "Σ over bins (n_m / n) |acc_m − conf_m|",
    "maximum_calibration_error": (
        "largest |acc_m − conf_m| of a bin that holds images; its interval is indicative only"
    ),
    "rms_calibration_error": "√ Σ over bins (n_m / n) (acc_m − conf_m)²",
    "classwise_calibration_error": (
        "mean over the classes of Σ over bins of p(class) (n_m / n) |share of the class − mean p|"
    ),
    "debiased_calibration_error": (
        "√ of Σ over bins (n_m / n) [(acc_m − conf_m)² − acc_m (1 − acc_m) / (n_m − 1)], with the "
        "sign of that sum: below 0 where the gaps are smaller than noise would make them"
    ),
    "brier_reliability": "Σ over bins (n_m / n) (acc_m − conf_m)²",
    "brier_resolution": "Σ over bins (n_m / n) (acc_m − accuracy)²",
    "brier_uncertainty": "accuracy (1 − accuracy)",
    "area_under_risk_coverage": (
        "mean over the images of the share of wrong answers among those at least as confident"
    ),
    "coverage_at_risk": (
        "largest share of the images, the most confident first, of which at most this share is "
        "wrong"
    ),
    "confidence_auroc": (
        "probability that a right answer is more confident than a wrong one; ties count half"
    ),
    "average_confidence": "mean confidence, an estimate of the accuracy that needs no labels",
    "risk_above_validation_threshold": (
        "share of wrong answers among the images at or above the confidence that keeps the risk on "
        "clean validation images"
    ),
    "coverage_above_validation_threshold": "share of the images at or above that confidence",
    "atc_accuracy": (
        "share of the images above a confidence threshold, chosen so that on validation images the "
        "share below it equals the error rate; needs no labels (Garg et al. 2022)"
    ),
    "atc_accuracy_error": "that estimate − accuracy",
    "conformal_coverage": "share of the images whose label is in their prediction set",
    "conformal_set_size": "mean number of classes in the prediction sets",
    "size_stratified_coverage": (
        "lowest share of covered labels among images with sets of 1, 2 to 3, 4 to 10, 11 to 100 or "
        "more classes, of those strata that have at least 30 images"
    ),
}
# The same for numbers that need more than one cell of predictions.
FORMULAS_OF_SEVERAL: Mapping[str, str] = {
    "flip_rate": (
        "share of the images whose most probable class changes from one level to the next, where "
        "clean counts as a level; mean over neighbouring levels"
    ),
    "mean_corruption_error": (
        "mean over the corruptions of a family of the mean over severities of 1 − accuracy; not "
        "normalised"
    ),
    "mce_alexnet": (
        "mean over the 15 corruptions of ImageNet-C of Σ over severities of 1 − accuracy, divided "
        "by the same sum of AlexNet's published errors; corrupted in memory, not from files"
    ),
    "detection_auroc": (
        "probability that a clean test image is more confident than one of the other data set; "
        "ties count half. Behind a slash, another score takes the place of the confidence"
    ),
    "false_positive_rate_at_recall": (
        "share of the other data set's images at or above the confidence that this share of the "
        "clean test images reaches. Behind a slash, another score takes its place"
    ),
}

# Of the metrics that METRICS has not, because a cell of predictions alone does not have them.
LABELS: Mapping[str, str] = {
    FLIPS: "Predictions that change from level to level",
    MEAN_ERROR: "Mean error over a family, not normalised",
    MCE: "mCE in units of AlexNet's errors",
    AUROC: "AUROC of confidence for detecting another data set",
    FALSE_POSITIVES: "False positive rate at 95 % recall, for another data set",
    **{
        f"{metric}/{name}": f"{what} of the {score.label} for another data set"
        for metric, what in (
            (AUROC, "AUROC"),
            (FALSE_POSITIVES, "False positive rate at 95 % recall"),
        )
        for name, score in OOD_SCORES.items()
    },
}


# ---- formulas


class Formula(NamedTuple):
    """A metric as the page defines it."""

    name: str
    label: str
    formula: str


def formulas(contents: Contents) -> Iterator[Formula]:
    """Give each metric that the run has numbers of, in the order of scores.csv."""
    shown = set()
    for name in contents.scores["metric"].unique():
        base = name.partition("/")[0]
        kind = of_classes(name)
        if kind is not None and base not in shown:
            shown.add(base)
            yield Formula(f"{base}/CLASS", f"{kind.label} of a class", kind.formula)
        if name in METRIC:
            yield Formula(name, describe_metric(name), FORMULAS[base])
        elif name in LABELS:
            yield Formula(name, LABELS[name], FORMULAS_OF_SEVERAL[base])


# ---- facts


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys and plain text.

    >>> list(flatten({"git": {"dirty": False}, "seeds": [0, 1]}))
    [('git.dirty', 'no'), ('seeds', '0; 1')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _plain(value)


def _plain(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return in_255ths(value) or f"{value:g}"
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value)


# ---- citation


def citation(contents: Contents) -> str:
    """Write a BibTeX entry of the software, and one of each run that the page shows."""
    first, *_ = contents.records.values()
    software = {
        "author": "The fairweather authors",
        "title": "fairweather: will this image classifier still work, and still know when it "
        "doesn't, once the weather changes?",
        "version": first.provenance.versions.get("fairweather", "unknown"),
    }
    runs = [
        _run(label, f"Run {label}" if label else contents.title, record)
        for label, record in contents.records.items()
    ]
    return "\n\n".join([_entry("software", "fairweather", software), *runs])


def _run(label: str, title: str, record: RunRecord) -> str:
    digest = record.data.digests.get(TEST, "unknown")[:16]
    note = [
        f"Made with: {record.provenance.command}",
        f"record {fingerprint(record.lasting())}",
        f"test images of {record.data.name} with SHA-256 {digest}...",
    ]
    match record.provenance.git.get("fairweather"):
        case {"revision": revision, "dirty": dirty}:
            changes = ", with uncommitted changes" if dirty else ""
            note.append(f"git revision {revision}{changes}")
    time = record.provenance.time
    fields = {"title": title, "year": time[:4], "date": time[:10], "note": ". ".join(note)}
    key = "-".join(part for part in ("run", label, record.name) if part)
    return _entry("misc", re.sub(r"[^A-Za-z0-9-]+", "-", key), fields)


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    # A second pair of braces, so that a group of authors is one author and capitals stay.
    lines = [f"  {name} = {{{{{_safe(value)}}}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _safe(text: str) -> str:
    """Write text as BibTeX takes it: no braces, and what means something to LaTeX escaped."""
    return escape_latex(text.replace("{", "(").replace("}", ")"))


def _by_run(
    contents: Contents, facts: Callable[[RunRecord], Mapping[str, object]]
) -> Mapping[str, object]:
    """What is said of each run, by its label; of a single run without one."""
    told = {label: facts(record) for label, record in contents.records.items()}
    return told.get("", told)


def _provenance(record: RunRecord) -> Mapping[str, object]:
    facts = record.model_dump(mode="json", include={"provenance", "data"})
    return {**facts["provenance"], "data": facts["data"]}


def _description(record: RunRecord) -> Mapping[str, object]:
    """Everything else in the record; the shifts have a list of their own."""
    return record.model_dump(mode="json", exclude={"version", "provenance", "data", "sweeps"})


def _shifts(contents: Contents, _: Tables) -> Shown | None:
    return Shown("Shifts", template="shifts.html.j2") if contents.sweeps else None


def _metrics(contents: Contents, _: Tables) -> Shown:
    facts = {"formulas": list(formulas(contents))}
    return Shown("Metrics", template="metrics.html.j2", facts=facts)


def _citation(contents: Contents, _: Tables) -> Shown:
    facts = {"citation": citation(contents)}
    return Shown("How to cite", template="citation.html.j2", facts=facts)


def _records(contents: Contents, _: Tables) -> Shown:
    facts = {
        "provenance": list(flatten(_by_run(contents, _provenance))),
        "described": list(flatten(_by_run(contents, _description))),
    }
    return Shown("Provenance", template="provenance.html.j2", facts=facts)


SHIFTS, METRICS, CITATION, RECORDS = map(Part, (_shifts, _metrics, _citation, _records))

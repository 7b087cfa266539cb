"""The one HTML page: plain, self-contained, and safe whatever the names in the run are."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from fairweather.report.beside import LABELS
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure
from fairweather.report.tables import (
    ABSENT,
    CORRECTED,
    METRIC,
    Entry,
    Table,
    describe_metric,
    find_entry,
)
from fairweather.report.trained import read_recipes, read_starts, read_tries, read_warnings
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL, base_model

# Each metric by its name without the binning; the sums and means are over the test images, or over
# the bins m, which hold n_m of the n images with mean confidence conf_m and accuracy acc_m.
FORMULAS: Mapping[str, str] = {
    "accuracy": "share of the images whose most probable class is the label",
    "top5_accuracy": "share of the images whose label is among the five most probable classes",
    "balanced_accuracy": "mean over the classes of the accuracy on their images",
    "macro_auc": "mean over the classes of the one-vs-rest area under the ROC curve",
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
        "largest share of the images, the most confident first, with at most this risk of a wrong "
        "answer"
    ),
    "confidence_auroc": "chance that a right answer is more confident than a wrong one; ties half",
    "average_confidence": "mean confidence, an estimate of the accuracy that needs no labels",
    "risk_above_validation_threshold": (
        "share of wrong answers among the images at or above the confidence that keeps the risk on "
        "clean validation images"
    ),
    "coverage_above_validation_threshold": "share of the images at or above that confidence",
    "atc_accuracy": (
        "share of the images above the confidence below which as many validation images lie as are "
        "wrong; needs no labels (Garg et al. 2022)"
    ),
    "atc_accuracy_error": "that estimate − accuracy",
}
# The same of what no single cell of predictions has.
FORMULAS_BESIDE: Mapping[str, str] = {
    "flip_rate": (
        "share of the images whose most probable class changes from one level to the next, clean "
        "in its place; mean over neighbouring levels"
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
        "chance that a clean test image is more confident than one of the other data set; ties half"
    ),
    "false_positive_rate_at_recall": (
        "share of the other data set's images at or above the largest confidence that this share "
        "of the clean test images reaches"
    ),
}


class Formula(NamedTuple):
    """A metric as the page defines it."""

    name: str
    label: str
    formula: str


class Answer(NamedTuple):
    """What the page says about one model; the parts are the shifts' titles with their scores."""

    title: str
    clean: Entry
    shifted: list[tuple[str, Entry]]
    clean_calibration: Entry | None
    shifted_calibration: list[tuple[str, Entry]]


def render_page(contents: Contents, tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    """Fill the template; everything from the run is escaped, figures are inlined."""
    source = importlib.resources.files("fairweather.report").joinpath("page.html.j2").read_text()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["flat"] = lambda value: list(flatten(value))
    return environment.from_string(source).render(
        study=contents.study,
        contents=contents,
        answers=list(_answers(contents)),
        tables={table.name: table for table in tables},
        figures={figure.name: figure for figure in figures},
        calibration=describe_metric("rms_calibration_error"),
        corrected=CORRECTED,
        settings=list(_settings(contents, read_recipes(contents), read_starts(contents))),
        tries=read_tries(contents),
        warnings=read_warnings(contents),
        seen={
            contents.titles[name]: shifts
            for name, shifts in contents.provenance.get("seen_shifts", {}).items()
            if name in contents.titles
        },
        provenance={key: value for key, value in contents.provenance.items() if key != "shifts"},
        formulas=list(_formulas(contents)),
    )


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
        return f"{value:g}"
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value)


def _settings(
    contents: Contents,
    recipes: Mapping[str, Mapping[str, Any]],
    starts: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, list[str]]]:
    """Name each setting that does something for some model, with its value for every model."""
    models = []
    for name in contents.titles:
        entry = dict(contents.study["models"][base_model(name)])
        recipe = _effective(recipes.get(base_model(name), {}))
        tuning = {key: entry.pop(key, None) for key in ("sweep", "sweep_metric")}
        start = {"started_from": starts.get(base_model(name), {})} if starts else {}
        described = entry | start | {"recipe": recipe} | (tuning if tuning["sweep"] else {})
        models.append(dict(flatten(described)))
    for key in dict.fromkeys(key for model in models for key in model if key != "title"):
        yield key, [model.get(key, ABSENT) for model in models]


def _effective(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the knobs that do nothing beside the others, and write rotation as one."""
    schedule = recipe.get("schedule")
    idle = {
        "momentum": recipe.get("optimizer") != "sgd",
        "schedule_gamma": schedule not in ("exponential", "step"),
        "schedule_step": schedule != "step",
    }
    kept = {key: value for key, value in recipe.items() if not idle.get(key)}
    if rotation := kept.get("rotation"):
        kept["rotation"] = f"{rotation['degrees']:g}°, p = {rotation['probability']:g}"
    return kept


def _answers(contents: Contents) -> Iterator[Answer]:
    for name, title in contents.titles.items():
        clean = find_entry(contents, "accuracy", name, CLEAN, NO_LEVEL)
        if clean is not None:
            yield Answer(
                title,
                clean,
                _shifted(contents, name, "accuracy"),
                find_entry(contents, "rms_calibration_error", name, CLEAN, NO_LEVEL),
                _shifted(contents, name, "rms_calibration_error"),
            )


def _shifted(contents: Contents, model: str, metric: str) -> list[tuple[str, Entry]]:
    return [
        (sweep.title, entry)
        for sweep in contents.sweeps
        if (entry := find_entry(contents, metric, model, sweep.name, MEAN)) is not None
    ]


def _formulas(contents: Contents) -> Iterator[Formula]:
    for name in contents.scores["metric"].unique():
        base = name.partition("/")[0]
        if name in METRIC:
            yield Formula(name, describe_metric(name), FORMULAS[base])
        elif name in LABELS:
            yield Formula(name, LABELS[name], FORMULAS_BESIDE[base])


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()

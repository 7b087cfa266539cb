"""Rows of scores.csv under other class priors, and at other prevalences of findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import pandas as pd

from fairweather.metrics import METRICS, FittedThresholds, under_priors, worst_prior
from fairweather.metrics.findings import find_point_metric, point_metric_names
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.label_shift import PREDICTIVE, predictive_values_under
from fairweather.metrics.metric import ClassMetric, class_metric_names, find_class_metric
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import Validation, fit_unit
from fairweather.steps.plan import ScoredModel, ScoreStep
from fairweather.steps.score_rows import concatenate_rows
from fairweather.types.measurement import Predictions, Score
from fairweather.types.operating_points import list_points
from fairweather.types.record import (
    CLEAN,
    COLUMNS,
    NO_LEVEL,
    PRIORS,
    UNIT_COLUMNS,
    WORST_PRIORS,
)

# The metric by which the worst priors are found: which priors are worst depends on the metric.
WORST_BY = "accuracy"


def prior_rows(
    step: ScoreStep,
    folder: RunFolder,
    grouping: Grouping | None,
    fitted: Mapping[tuple[str, int | str], FittedThresholds],
) -> pd.DataFrame:
    """The scores of the clean test images under each set of class priors, and under the worst.

    Args:
        step: with the priors.
        folder: with the predictions.
        grouping: of the test images.
        fitted: thresholds of operating points, by model and seed.
    """
    frames = [pd.DataFrame(columns=COLUMNS)]
    priors = {name: np.array(shares) for name, shares in step.priors.items()}
    for row in _without_adapting(step) if priors else ():
        predictions = folder.read_predictions(row.file(CLEAN))
        chosen = fitted[row.model, row.seed].points if (row.model, row.seed) in fitted else {}
        names = _predictive(
            class_metric_names(
                predictions.classes, step.operating_points, ordered=predictions.ordered
            )
        )
        metrics = [find_class_metric(name, predictions.classes, chosen) for name in names]
        for name, shares in priors.items():
            scores = _scores_under(step, predictions, shares, metrics, grouping)
            frames.append(_make_frame(row, f"{PRIORS}{name}", scores))
        _, worst = worst_prior(
            predictions, priors, WORST_BY, resamples=step.bootstrap, grouping=grouping
        )
        frames.append(_make_frame(row, WORST_PRIORS, {WORST_BY: worst}))
    return concatenate_rows(frames)


def prevalence_rows(
    step: ScoreStep,
    folder: RunFolder,
    grouping: Grouping | None,
    validations: Mapping[tuple[str, str], Validation],
) -> pd.DataFrame:
    """The scores of each finding on clean test images at each prevalence that is asked for.

    A finding that all images have, or none, has no rows.

    Args:
        step: with the prevalences.
        folder: with the predictions.
        grouping: of the test images.
        validations: validation images by model and seed, for thresholds of operating points.
    """
    frames = [pd.DataFrame(columns=UNIT_COLUMNS)]
    for row in _without_adapting(step):
        every = folder.read_cell(row.file(CLEAN))
        validation = validations.get((row.model, str(row.seed)))
        for place, unit in enumerate(folder.task.units(every)):
            if unit.left_out:
                continue
            names = _predictive(point_metric_names(list_points(step.operating_points, unit.value)))
            own = fit_unit(folder.task, unit.name, validation, names) if validation else None
            points = [find_point_metric(name, own.points if own else {}) for name in names]
            metrics = [*(cast("ClassMetric", METRICS[kind]) for kind in PREDICTIVE), *points]
            one = cast("Predictions", unit.select(every))
            within = None if grouping is None else grouping.select(unit.places)
            for name, prevalences in step.priors.items():
                shares = np.array([1 - prevalences[place], prevalences[place]])
                scores = _scores_under(step, one, shares, metrics, within)
                frame = _make_frame(row, f"{PRIORS}{name}", scores).assign(unit=unit.name)
                frames.append(frame if within is None else frame.assign(groups=within.count))
    return concatenate_rows(frames)


def _without_adapting(step: ScoreStep) -> list[ScoredModel]:
    """The models whose predictions of an image stay the same if other images are seen with it."""
    return [row for row in step.rows if not row.adapts]


def _predictive(names: Iterable[str]) -> list[str]:
    """The names of PPVs and NPVs, of classes or at operating points, among those of metrics."""
    return [
        name
        for name in names
        if name.startswith(tuple(f"{kind}{sign}" for kind in PREDICTIVE for sign in "/@"))
    ]


def _scores_under(
    step: ScoreStep,
    predictions: Predictions,
    priors: np.ndarray,
    metrics: Iterable[ClassMetric | None],
    grouping: Grouping | None,
) -> dict[str, Score]:
    scores = under_priors(predictions, priors, resamples=step.bootstrap, grouping=grouping)
    known = [metric for metric in metrics if metric and metric.applies(predictions)]
    return scores | predictive_values_under(predictions, priors, known, grouping)


def _make_frame(row: ScoredModel, shift: str, scores: Mapping[str, Score]) -> pd.DataFrame:
    lines = [
        (row.model, str(row.seed), shift, NO_LEVEL, metric, *score)
        for metric, score in scores.items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)

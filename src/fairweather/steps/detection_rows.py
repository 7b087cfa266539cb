"""The rows of scores.csv on other data sets: does a model know that these are not its own?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fairweather.metrics import detection_score
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.detection import DETECTION
from fairweather.metrics.ood_scores import OOD_SCORES
from fairweather.record import (
    CLEAN,
    COLUMNS,
    NO_LEVEL,
    OOD,
    TEST,
    predictions_file,
)
from fairweather.runs import RunFolder
from fairweather.steps.plan import Row, ScoreStep

# With energies nearer to 0 than this, for all images, logits are logarithms of probabilities.
NORMALISED = 1e-4
# What is larger for known images (first) than for others (second), by what it adds to the name of a
# metric: nothing for the confidence.
_Sides = Mapping[str, tuple[FloatArray, FloatArray]]


def detection_rows(step: ScoreStep, folder: RunFolder, clusters: Clusters | None) -> pd.DataFrame:
    """How well confidence and each score separate each other data set from clean test images."""
    lines = [
        (row.model, str(row.seed), f"{OOD}{other}", NO_LEVEL, f"{metric}{name}", *score)
        for row in step.rows
        for other in step.others
        for name, (known, unknown) in _sides(folder, row, other).items()
        for metric, score in detection_score(
            known, unknown, resamples=step.bootstrap, clusters=clusters
        ).items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def absent_ood_scores(step: ScoreStep, folder: RunFolder) -> dict[str, str]:
    """Why models have no number of a score, by the names of its metrics."""
    found: dict[str, str] = {}
    if not step.others:
        return found
    for name in OOD_SCORES:
        reasons: dict[str, list[str]] = {}
        for row in step.rows:
            scores = folder.ood_scores(predictions_file(row.model, row.seed, CLEAN))
            if (why := _why_absent(scores, name, row)) is not None:
                reasons.setdefault(why, []).append(row.model)
        told = [f"{why} ({', '.join(models)})" for why, models in reasons.items()]
        found |= {f"{metric}/{name}": "; ".join(told) for metric in DETECTION if told}
    return found


def _why_absent(scores: Mapping[str, np.ndarray], name: str, row: Row) -> str | None:
    if name in scores:
        raw = OOD_SCORES[name].of_raw_logits and _are_normalised(scores)
        return "the outputs are probabilities, of which it says nothing" if raw else None
    if row.adapts:
        return "adapted features depend on the batch, and cannot be compared with stored ones"
    return (
        "the last layer of the network is not linear, or there are neither training nor validation "
        "images"
    )


def _sides(folder: RunFolder, row: Row, other: str) -> _Sides:
    files = [predictions_file(row.model, row.seed, CLEAN, part) for part in (TEST, other)]
    known, unknown = (folder.read_column(file, "confidence") for file in files)
    of_known, of_unknown = (folder.ood_scores(file) for file in files)
    sides = {"": (known, unknown)}
    for name, kind in OOD_SCORES.items():
        there = name in of_known and name in of_unknown
        if there and not (kind.of_raw_logits and _are_normalised(of_known)):
            sides[f"/{name}"] = (
                kind.as_confidence(of_known[name]),
                kind.as_confidence(of_unknown[name]),
            )
    return sides


def _are_normalised(scores: Mapping[str, np.ndarray]) -> bool:
    return bool(np.abs(scores["energy"]).max() < NORMALISED)

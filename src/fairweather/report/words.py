"""The words of scores.csv, and how the names of models are made."""

from __future__ import annotations

from fairweather.types import ENSEMBLE

CLEAN, VALIDATION, NO_LEVEL, MEAN = "clean", "validation", "none", "mean"
SUMMARIES = (MEAN, "sd")  # of seeds
SUMMARY_LEVELS = (MEAN, "worst")
ENSEMBLE_SUFFIX = f"+{ENSEMBLE}"


def predictions_folder(model: str, seed: str) -> str:
    """Where the predictions of a model lie inside a run folder.

    >>> predictions_folder("basic+ensemble", "ensemble")
    'predictions/basic/seed-ensemble'
    """
    return f"predictions/{model.removesuffix(ENSEMBLE_SUFFIX)}/seed-{seed}"


def base_model(name: str) -> str:
    """The model that a variant is one of; a model is its own.

    >>> base_model("basic+temperature"), base_model("basic")
    ('basic', 'basic')
    """
    return name.partition("+")[0]

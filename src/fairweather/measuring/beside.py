"""Rows beside the shifts: other class priors, and other data sets that confidence should tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from fairweather.measuring.predicting import cell_file
from fairweather.measuring.setting import Setting
from fairweather.metrics import detection_score, under_priors, worst_prior
from fairweather.scores import COLUMNS
from fairweather.shifts import CLEAN
from fairweather.types import Cell, Score

# Accuracy stands for the others: which priors are worst depends on what one asks for.
WORST_BY = "accuracy"


def prior_rows(setting: Setting, rows: Sequence[tuple[str, int | str]]) -> pd.DataFrame:
    """The scores of the clean test images under each changed set of class priors, and the worst.

    `rows` are the models and variants with their seeds. The shift is called `priors/NAME`, and
    `priors/worst` for the accuracy under the worst of the set.
    """

    def scores(name: str, seed: int | str) -> Iterator[tuple[str, Mapping[str, Score]]]:
        if not setting.priors:
            return
        predictions = setting.run.read_predictions(str(Cell(name, seed, CLEAN).path))
        for called, priors in setting.priors.items():
            of = under_priors(predictions, priors, resamples=setting.bootstrap)
            yield f"priors/{called}", of
        arrays = {called: np.array(priors) for called, priors in setting.priors.items()}
        _, worst = worst_prior(predictions, arrays, WORST_BY, resamples=setting.bootstrap)
        yield "priors/worst", {WORST_BY: worst}

    return _as_frame(rows, scores)


def detection_rows(setting: Setting, rows: Sequence[tuple[str, int | str]]) -> pd.DataFrame:
    """How well confidence tells each other data set from the clean test images: `ood/NAME`."""

    def scores(name: str, seed: int | str) -> Iterator[tuple[str, Mapping[str, Score]]]:
        clean = Cell(name, seed, CLEAN)
        for other in setting.others:
            known, unknown = (
                setting.run.read_column(cell_file(part, clean), "confidence")
                for part in ("test", other)
            )
            yield f"ood/{other}", detection_score(known, unknown, resamples=setting.bootstrap)

    return _as_frame(rows, scores)


def _as_frame(
    rows: Sequence[tuple[str, int | str]],
    scores: Callable[[str, int | str], Iterator[tuple[str, Mapping[str, Score]]]],
) -> pd.DataFrame:
    lines = [
        (name, str(seed), shift, "none", metric, *score)
        for name, seed in rows
        for shift, of in scores(name, seed)
        for metric, score in of.items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)

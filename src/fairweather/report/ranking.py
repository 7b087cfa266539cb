"""Which model is ahead, and where the images are too few to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.metrics import Estimate, holm, to_score
from fairweather.report.contents import Contents
from fairweather.report.correctness import (
    FloatArray,
    Images,
    pair_p_values,
    read_correct,
    read_images,
    resample_means,
)
from fairweather.report.phrases import is_attack, listed
from fairweather.report.ranked import Ranked, Ranking
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL
from fairweather.types import Score

ALL = "all"
INTERVALS = "95 % bootstrap intervals over images"
LEVEL = 0.05  # of the tests, after Holm's correction
# Leaders beyond these are counted instead of named.
MOST_NAMED = 4


class _Order(NamedTuple):
    """What the tests say: the range of places of each model, and p for each two of them."""

    best: npt.NDArray[np.int64]
    worst: npt.NDArray[np.int64]
    p: FloatArray


def ranking(contents: Contents) -> Ranking | None:
    """Rank the models by mean accuracy over shifts, sharing places that the tests do not part.

    The mean is over the levels of each shift and then over shifts, attacks left out, of the cells
    that all models have; where there are none, it is the accuracy on clean images. Two models are
    told apart where the test of `pair_p_values` on the same images is below 5 % after Holm's
    correction over all pairs of models that do not answer alike. Of several seeds, each image's
    share of right answers is compared: that says something of these trainings on other images, and
    nothing of other trainings.

    Returns:
        None where there are fewer than two models, where predictions are missing, or where the
        models were not tested on the same images in the same order.
    """
    models = list(contents.titles)
    images = read_images(contents) if len(models) > 1 else None
    cells, complete = _shared_cells(contents)
    clean = _columns(contents, {CLEAN: 1.0}, images)
    shifted = _columns(contents, cells, images) if cells else clean
    if clean is None or shifted is None:
        return None
    cleans = _scores(contents, clean, CLEAN, NO_LEVEL)
    scores = cleans
    if cells:
        known = complete and _scores(contents, shifted, ALL, MEAN)
        scores = known or _means(contents, shifted)
    order, on_clean = _order(shifted), _order(clean)
    places = np.argsort(-shifted.mean(axis=0), kind="stable")
    rows = tuple(
        Ranked(
            model=models[at],
            title=contents.titles[models[at]],
            score=scores[at],
            clean=cleans[at],
            best_rank=int(order.best[at]),
            worst_rank=int(order.worst[at]),
            clean_best_rank=int(on_clean.best[at]),
            clean_worst_rank=int(on_clean.worst[at]),
            p_next=math.nan if after is None else float(order.p[at, after]),
        )
        for at, after in zip(places, [*places[1:], None], strict=True)
    )
    return Ranking(
        rows, bool(cells), _verdict(rows, bool(cells)), _caption(contents, len(cells), complete)
    )


def _columns(
    contents: Contents, cells: Mapping[str, float], images: Images | None
) -> FloatArray | None:
    """How often each image is right, `[n, models]`; None where predictions are missing."""
    found = [
        column
        for model in contents.titles
        if images is not None
        if (column := read_correct(contents, model, cells, images)) is not None
    ]
    return np.stack(found, axis=1) if len(found) == len(contents.titles) else None


def _shared_cells(contents: Contents) -> tuple[dict[str, float], bool]:
    """The shifted cells that all models have, with their weights, and whether those are all."""
    sweeps = [sweep for sweep in contents.sweeps if not is_attack(sweep)]
    shared = [
        [
            cell
            for level, cell in sweep.cells.items()
            if all(contents.score("accuracy", m, sweep.name, level) for m in contents.titles)
        ]
        for sweep in sweeps
    ]
    complete = sum(map(len, shared)) == sum(len(sweep.cells) for sweep in sweeps)
    kept = [cells for cells in shared if cells]
    return {cell: 1 / (len(kept) * len(cells)) for cells in kept for cell in cells}, complete


def _scores(contents: Contents, columns: FloatArray, shift: str, level: str) -> list[Score]:
    """The numbers of scores.csv, so that they read here as they do in the tables."""
    found = [contents.score("accuracy", model, shift, level) for model in contents.titles]
    computed = _means(contents, columns) if None in found else []
    return [each or computed[at] for at, each in enumerate(found)]


def _means(contents: Contents, columns: FloatArray) -> list[Score]:
    replicates = resample_means(columns, contents.study["bootstrap"])
    return [
        to_score(Estimate(float(column.mean()), each, len(column), "share"), (0.0, 1.0))
        for column, each in zip(columns.T, replicates.T, strict=True)
    ]


def _order(columns: FloatArray) -> _Order:
    """Test all pairs of models that do not answer alike, `[n, models]`."""
    distinct, which = np.unique(columns, axis=1, return_inverse=True)
    pairs = list(combinations(range(distinct.shape[1]), 2))
    adjusted = np.ones((distinct.shape[1],) * 2)
    if pairs:
        first, second = np.array(pairs).T
        p = holm(pair_p_values(distinct, pairs, len(pairs), np.random.default_rng(0)))
        adjusted[first, second] = adjusted[second, first] = p
    of_models = adjusted[np.ix_(which.ravel(), which.ravel())]
    means = columns.mean(axis=0)
    better = (of_models < LEVEL) & (means[:, None] > means)  # [better one, worse one]
    return _Order(1 + better.sum(axis=0), len(means) - better.sum(axis=1), of_models)


def _verdict(rows: Sequence[Ranked], shifted: bool) -> str:
    on_clean = [(row.title, row.clean_worst_rank) for row in rows if row.clean_best_rank == 1]
    leading = [(row.title, row.worst_rank) for row in rows if row.best_rank == 1]
    if not shifted:
        return f"On clean images, {_leaders(on_clean, len(rows))}."
    if leading == on_clean:
        return f"Under the shifts and on clean images alike, {_leaders(leading, len(rows))}."
    return (
        f"Under the shifts, {_leaders(leading, len(rows))}. "
        f"On clean images, {_leaders(on_clean, len(rows))}."
    )


def _leaders(leading: Sequence[tuple[str, int]], models: int) -> str:
    """Say who may be first, from the titles and the worst places of those that none beats."""
    titles = [f"“{title}”" for title, _ in leading]
    if len(leading) == models:
        return "the tests find no difference between the models"
    if len(leading) == 1:
        others = "than every other model" if leading[0][1] == 1 else "than some of the others"
        return f"{titles[0]} is right more often {others}"
    if len(leading) <= MOST_NAMED:
        return f"the first place is open between {listed(titles)}"
    return f"the first place is open between {len(leading)} of the {models} models"


def _caption(contents: Contents, cells: int, complete: bool) -> str:
    seeds = len(contents.seeds) > 1
    if not cells:
        what = "accuracy on clean images"
    elif complete:
        what = (
            "mean accuracy under the shifts, over the levels of each and then over shifts, "
            "without attacks"
        )
    else:
        what = (
            f"mean accuracy on the {cells} shifted sets of images that every model was tested on, "
            "which is not the mean of other tables"
        )
    exact, swaps = "McNemar's exact test", "random swaps of the two numbers of each image"
    single = f"{exact} on clean images, and {swaps} for means" if cells else exact
    test = swaps if seeds else single
    return (
        f"Models by {what}. In brackets: {INTERVALS} ({contents.sample()}). A range of ranks is "
        "all that the tests leave open: from 1 + the number of models found better to the number "
        "of models − that of those found worse. Two models are told apart where a test on the "
        f"same images has p < {LEVEL:g} after Holm's correction over all pairs: {test}. This is "
        "about these trained models on other images like these, not about other trainings of the "
        "same recipes."
    )

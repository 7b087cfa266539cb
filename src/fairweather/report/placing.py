"""Which model is ahead, and where the images are too few to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.metrics import estimate_means, holm, to_score
from fairweather.metrics.table import Interval
from fairweather.report.contents import Contents
from fairweather.report.correctness import (
    FloatArray,
    Images,
    compare_pairs,
    read_correct,
    read_images,
)
from fairweather.report.ranked import Ranked, Ranking
from fairweather.report.verdict import Leader, verdict
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL
from fairweather.types import Score

ALL = "all"
INTERVALS = "95 % bootstrap intervals over images"
LEVEL = 0.05  # of the tests, after Holm's correction
MCNEMAR = "McNemar's exact test"
SWAPS = "random swaps of the two numbers of each image"


class _Order(NamedTuple):
    """What the tests say: the range of places of each model, and p for each two of them.

    `bound` tells which p are only known to be at most that, `exact` which test it was, and models
    with the same number in `alike` are right on the same images.
    """

    best: npt.NDArray[np.int64]
    worst: npt.NDArray[np.int64]
    p: FloatArray
    bound: npt.NDArray[np.bool_]
    exact: bool
    alike: npt.NDArray[np.int64]


def ranking(contents: Contents) -> Ranking | None:
    """Rank the models by mean accuracy over shifts, sharing places that the tests do not part.

    The mean is over the levels of each shift and then over shifts, attacks left out, of the cells
    that all models have; where there are none, it is the accuracy on clean images. Two models are
    told apart where the test of `compare_pairs` on the same images is below 5 % after Holm's
    correction over all pairs of models that do not answer alike. Of several seeds, each image's
    share of right answers is compared: that says something of these trainings on other images, and
    nothing of other trainings.

    Returns:
        None where there are fewer than two models, where predictions are missing, or where the
        models were not tested on the same images in the same order.
    """
    models = list(contents.titles)
    images = read_images(contents) if len(models) > 1 else None
    cells, tested = _shared_cells(contents)
    clean = _columns(contents, {CLEAN: 1.0}, images)
    shifted = _columns(contents, cells, images) if cells else clean
    if clean is None or shifted is None:
        return None
    cleans = _scores(contents, clean, CLEAN, NO_LEVEL)
    scores = cleans
    if cells:
        known = len(cells) == tested and _scores(contents, shifted, ALL, MEAN)
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
            p_next_at_most=after is not None and bool(order.bound[at, after]),
        )
        for at, after in zip(places, [*places[1:], None], strict=True)
    )
    what = _what(len(cells), tested)
    tests = _tests(on_clean.exact, order.exact)
    if any(row.p_in_words.startswith("≤") for row in rows):
        tests += "; “≤” stands where no swap was as far"
    caption = _caption(contents, what, tests)
    titles = [contents.titles[models[at]] for at in places]
    leading, on_top = (_leaders(titles, each, places) for each in (order, on_clean))
    leaders = tuple(titles.index(each.titles[0]) for each in leading)
    words = verdict(leading if cells else None, on_top, len(models))
    return Ranking(rows, bool(cells), words, caption, leaders)


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


def _shared_cells(contents: Contents) -> tuple[dict[str, float], int]:
    """The shifted cells that all models have, with their weights, and how many any model has."""
    sweeps = [sweep for sweep in contents.sweeps if not sweep.is_attack]
    shared = [
        [
            cell
            for level, cell in sweep.cells.items()
            if all(contents.score("accuracy", m, sweep.name, level) for m in contents.titles)
        ]
        for sweep in sweeps
    ]
    kept = [cells for cells in shared if cells]
    weights = {cell: 1 / (len(kept) * len(cells)) for cells in kept for cell in cells}
    return weights, sum(len(sweep.cells) for sweep in sweeps)


def _scores(contents: Contents, columns: FloatArray, shift: str, level: str) -> list[Score]:
    """The numbers of scores.csv, so that they read here as they do in the tables."""
    found = [contents.score("accuracy", model, shift, level) for model in contents.titles]
    computed = _means(contents, columns) if None in found else []
    return [each or computed[at] for at, each in enumerate(found)]


def _means(contents: Contents, columns: FloatArray) -> list[Score]:
    shares: list[Interval] = ["share"] * columns.shape[1]
    found = estimate_means(columns, shares, contents.study["bootstrap"])
    return [to_score(estimate, (0.0, 1.0)) for estimate in found]


def _order(columns: FloatArray) -> _Order:
    """Test all pairs of models that do not answer alike, `[n, models]`."""
    distinct, which = np.unique(columns, axis=1, return_inverse=True)
    pairs = list(combinations(range(distinct.shape[1]), 2))
    adjusted = np.ones((distinct.shape[1],) * 2)
    bound = np.zeros(adjusted.shape, dtype=bool)
    tests = compare_pairs(distinct, pairs, len(pairs), np.random.default_rng(0))
    for at, p, is_bound in zip(pairs, holm(tests.p), tests.bound, strict=True):
        adjusted[at] = adjusted[at[::-1]] = p
        bound[at] = bound[at[::-1]] = is_bound
    models = np.ix_(which.ravel(), which.ravel())
    of_models = adjusted[models]
    means = columns.mean(axis=0)
    better = (of_models < LEVEL) & (means[:, None] > means)  # [better one, worse one]
    best, worst = 1 + better.sum(axis=0), len(means) - better.sum(axis=1)
    return _Order(best, worst, of_models, bound[models], tests.exact, which.ravel())


def _leaders(titles: Sequence[str], order: _Order, places: npt.NDArray[np.int64]) -> list[Leader]:
    """Name those that no model is found better than, in the order of the places."""
    groups: dict[int, list[str]] = {}
    worst = {}
    for title, at in zip(titles, places, strict=True):
        if order.best[at] == 1:
            groups.setdefault(int(order.alike[at]), []).append(title)
            worst[int(order.alike[at])] = order.worst[at]
    return [Leader(tuple(each), bool(worst[key] == len(each))) for key, each in groups.items()]


def _what(cells: int, tested: int) -> str:
    """Say what the models are ranked by, and what of their shifted sets is left out."""
    if not tested:
        return "accuracy on clean images"
    if not cells:
        return f"accuracy on clean images: none of the {tested} shifted sets was put to every model"
    if cells == tested:
        return (
            "mean accuracy under the shifts, over the levels of each and then over shifts, "
            "without attacks"
        )
    return (
        f"mean accuracy on the {cells} of {tested} shifted sets of images that every model was "
        "tested on, which is not the mean of other tables"
    )


def _tests(clean_exact: bool, exact: bool) -> str:
    """Name the test on clean images and the one of what the models are ranked by."""
    on_clean, of_means = (MCNEMAR if each else SWAPS for each in (clean_exact, exact))
    if clean_exact == exact:
        return of_means
    return f"{on_clean} on clean images, and {of_means} for means"


def _caption(contents: Contents, what: str, tests: str) -> str:
    return (
        f"Models by {what}. In brackets: {INTERVALS} ({contents.sample()}). A range of ranks is "
        "all that the tests leave open: from 1 + the number of models found better to the number "
        "of models − that of those found worse. Two models are told apart where a test on the "
        f"same images has p < {LEVEL:g} after Holm's correction over all pairs: {tests}. "
        "This is about these trained models on other images like these, not about other trainings "
        "of the same recipes."
    )

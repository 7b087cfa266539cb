"""Which images each model gets right, and whether two models differ by more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.metrics import Estimate, estimate_means, mcnemar_exact, recipe_estimate
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.metric import Interval
from fairweather.record import CLEAN
from fairweather.report.contents import Contents

FloatArray = npt.NDArray[np.float64]
# Random swaps behind a p-value: at least so many, and then more until so many were as far, which
# leaves a p-value an error of 5 %.
SWAPS, ENOUGH = 1_999, 400
# They end with so many, or earlier by the number of images that are swapped, but not before so many
# for each test that is corrected for, so that the smallest p-value stays far below 5 % after it.
MOST_SWAPS, MOST_IMAGES, SWAPS_A_TEST = 99_999, 10**8, 100
# Swaps of images that are drawn at once, and how many of them are in float64 at once: 1 MB, which
# stays in the processor's cache (a third of the time for 300 and for 2,000 images), but no fewer
# than some rows, since all columns are read again each time.
DRAWN, IN_CACHE, FEWEST_ROWS = 2**22, 2**17, 16
# What rounding may take off a sum of many shares; sums that differ do so by far more.
ROUNDING = 1e-9


class PairTests(NamedTuple):
    """What tests of pairs find.

    Attributes:
        p: a p-value a pair, in (0, 1].
        bound: bool, where no swap was as far, so that a larger number of them makes p smaller.
        exact: whether McNemar's test counted all swaps, instead of some at random.
    """

    p: FloatArray
    bound: npt.NDArray[np.bool_]
    exact: bool


class Images(NamedTuple):
    """What identifies test images: int64 `[n]` each, in the order of the predictions."""

    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def read_images(contents: Contents) -> Images | None:
    """Read which images all models were tested on, the same ones in the same order.

    Scoring has made sure that all cells of a run are of the same images; so only those of clean
    images are looked at. None where the models were tested on others than each other, or where
    predictions are missing.
    """
    first = None
    for model in contents.titles if contents.runs else ():
        seed = contents.seeds_of(model)[0]
        found = contents.read_columns(model, seed, CLEAN, ("keys", "labels"))
        first = first or (Images(*found) if found else None)
        if found is None or first is None or not all(map(np.array_equal, found, first)):
            return None
    return first


def read_by_seed(contents: Contents, model: str, cell: str, column: str) -> FloatArray | None:
    """Read a column of a cell, for each seed of the model: `[n, S]`; None where one is missing."""
    found = [
        contents.read_columns(model, seed, cell, (column,)) for seed in contents.seeds_of(model)
    ]
    columns = [columns[0] for columns in found if columns is not None]
    return np.stack(columns, axis=1) if columns and len(columns) == len(found) else None


def read_correct(
    contents: Contents, model: str, cells: Mapping[str, float], images: Images
) -> FloatArray | None:
    """Read how often each image is right over some cells, for each seed of the model: `[n, S]`.

    Args:
        contents: of the run.
        model: its name.
        cells: the ids of the shifts, with their weights in the mean; these sum to 1.
        images: from `read_images`.

    Returns:
        Shares in [0, 1], only 0 and 1 for one cell; None where predictions are missing.
    """
    right = np.zeros((len(images.labels), len(contents.seeds_of(model))))
    for cell, weight in cells.items():
        predicted = read_by_seed(contents, model, cell, "predicted")
        if predicted is None:
            return None
        right += (predicted == images.labels[:, None]) * weight
    return right


def shared_cells(contents: Contents, models: Iterable[str]) -> dict[str, float]:
    """The shifted cells that all of these models have, with their weights in the mean over shifts.

    The mean is over the levels of each shift and then over shifts, attacks left out.
    """
    names = list(models)
    shared = [
        [
            cell
            for level, cell in sweep.cells.items()
            if all(contents.score("accuracy", name, sweep.name, level) for name in names)
        ]
        for sweep in contents.sweeps
        if not sweep.is_attack
    ]
    kept = [cells for cells in shared if cells]
    return {cell: 1 / (len(kept) * len(cells)) for cells in kept for cell in cells}


def mean_estimates(
    columns: Sequence[FloatArray],
    resamples: int,
    clusters: Clusters | None,
    kinds: Iterable[Interval] = repeat("share"),
) -> list[Estimate]:
    """Estimate the mean of each of some columns, `[n, S]`, over images (or clusters) and seeds.

    All are estimated on the same resamples, so that they can be compared.
    """
    every = np.concatenate(columns, axis=1)
    of_each = zip(columns, kinds, strict=False)
    intervals = [kind for each, kind in of_each for _ in range(each.shape[1])]
    by_seed = iter(estimate_means(every, intervals, resamples, clusters=clusters))
    return [recipe_estimate(list(islice(by_seed, each.shape[1]))) for each in columns]


def answer_alike(contents: Contents, model: str, base: str) -> bool:
    """Say whether a model gives the answers of another to all images, as its scores suggest.

    False where the two have other seeds, other cells, or predictions that are missing.
    """
    seeds = contents.seeds_of(model)
    if not contents.runs or contents.seeds_of(base) != seeds:
        return False
    for cell, (shift, level) in contents.cells.items():
        mine, others = (contents.score("accuracy", name, shift, level) for name in (model, base))
        if mine != others:
            return False
        for seed in seeds if mine else ():
            one, other = (
                contents.read_columns(name, seed, cell, ("predicted",)) for name in (model, base)
            )
            if one is None or other is None or not np.array_equal(one[0], other[0]):
                return False
    return True


def compare_pairs(
    columns: FloatArray,
    pairs: Sequence[tuple[int, int]],
    tests: int,
    generator: np.random.Generator,
) -> PairTests:
    """Test for each pair of columns whether they are equally often right on the same images.

    If two columns differ by chance alone, each image's two numbers could as well have been
    swapped. Where every number is 0 or 1, how many swaps differ at least as much is counted
    exactly: that is McNemar's test. Otherwise (shares over cells or seeds) it is counted among
    random swaps, with the one that was found among them, so that p is never too small by chance of
    their number; the fewer are as far, the more are drawn. It is two-sided, and needs neither bins
    nor a normal distribution.

    Args:
        columns: float `[n, columns]` in [0, 1].
        pairs: numbers of two columns each.
        tests: for how many tests the p-values will be corrected.
        generator: of the random swaps.

    Source: Fisher 1935, The Design of Experiments, section 21, for the swaps; Phipson and Smyth
    2010, Permutation P-values Should Never Be Zero, for counting the one that was found; Besag and
    Clifford 1991, Sequential Monte Carlo p-values, for drawing until enough are as far.

    >>> columns = np.array([[1, 0]] * 6 + [[0, 1]] + [[0, 0]])
    >>> compare_pairs(columns, [(0, 1)], 1, np.random.default_rng(0)).p.tolist()
    [0.125]
    """
    if np.isin(columns, (0, 1)).all():
        p = [mcnemar_exact(columns[:, a] > 0, columns[:, b] > 0).p for a, b in pairs]
        return PairTests(np.array(p), np.zeros(len(pairs), dtype=bool), True)
    unlike = np.asarray(columns[np.ptp(columns, axis=1) > 0], dtype=np.float64)
    most = min(MOST_SWAPS, MOST_IMAGES // max(1, len(unlike)))
    return _compare_by_swaps(unlike, pairs, max(SWAPS, SWAPS_A_TEST * tests, most), generator)


def _compare_by_swaps(
    columns: FloatArray,
    pairs: Sequence[tuple[int, int]],
    most: int,
    generator: np.random.Generator,
) -> PairTests:
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    total = columns.sum(axis=0)
    found = np.abs(total[first] - total[second]) * (1 - ROUNDING) - ROUNDING
    as_far, drawn = np.zeros((2, len(pairs)))
    left, done = np.arange(len(pairs)), 0
    while len(left) and done < most:
        # No pair is done before a first round, which is as long however many images there are.
        ends = SWAPS if done < SWAPS else most
        count = min(max(1, DRAWN // max(1, len(columns))), ends - done)
        bits = generator.integers(256, size=(count, -(-len(columns) // 8)), dtype=np.uint8)
        # The swapped images count with one sign, the others with the other.
        sums = 2 * _sums_of_swapped(bits, columns) - total
        far = np.abs(sums[:, first[left]] - sums[:, second[left]]) >= found[left]
        done += count
        as_far[left] += far.sum(axis=0)
        drawn[left] = done
        left = left[as_far[left] < ENOUGH] if done >= SWAPS else left
    return PairTests((1 + as_far) / (1 + drawn), as_far == 0, False)


def _sums_of_swapped(bits: npt.NDArray[np.uint8], columns: FloatArray) -> FloatArray:
    """Sum each column over the images whose bit is set: `[count, n / 8]` to `[count, columns]`."""
    step = max(FEWEST_ROWS, IN_CACHE // max(1, len(columns)))
    return np.concatenate(
        [
            np.unpackbits(bits[at : at + step], axis=1, count=len(columns)).astype(np.float64)
            @ columns
            for at in range(0, len(bits), step)
        ]
    )

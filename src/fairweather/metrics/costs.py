"""What decisions cost, if errors do not all cost the same: as they are, and as they should be.

The costs are a matrix of true classes and decisions. A last column may be the price of a review by
a person, who then decides. A Bayes decision is the one with the least expected cost by the model's
probabilities, and it is best if these are calibrated.

Source: Ferrer 2022, Analysis and Comparison of Classification Metrics, for the normalised cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.classification import check_probabilities
from fairweather.metrics.columns import (
    ROUNDING,
    FloatArray,
    IntArray,
    LabelArray,
    Result,
    Weights,
    as_result,
    as_rows,
    check_columns,
    check_labels,
    ratio,
    sum_by_number,
)


class BayesDecisions(NamedTuple):
    """The decisions with the least expected cost, `[n]` each."""

    decision: IntArray
    """int64: the class, or the number of classes where a review is the best decision."""

    expected_cost: FloatArray
    """float64: what it costs on average, if the probabilities are right."""


def bayes_decisions(probabilities: ArrayLike, costs: ArrayLike) -> BayesDecisions:
    """Decide with the least expected cost, by the probabilities of the classes.

    Args:
        probabilities: float `[n, classes]`.
        costs: float `[classes, decisions]`: a row for each true class and a column for each
            decision. The decisions are the classes, in the same order, and then maybe a review.
            Of decisions that cost the same, it takes the first.

    >>> bayes_decisions([[0.9, 0.1], [0.99, 0.01]], [[0, 1], [20, 0]]).decision.tolist()
    [1, 0]
    >>> bayes_decisions([[0.9, 0.1]], [[0, 1, 0.5], [20, 0, 0.5]]).decision.tolist()
    [2]
    """
    scores = np.atleast_2d(np.asarray(probabilities, dtype=np.float64))
    expected = scores @ check_costs(costs, scores.shape[-1])
    least = expected.min(axis=1)
    # What differs only by rounding is a tie, so that every processor decides the same.
    decision = (expected <= least[:, None] * (1 + ROUNDING)).argmax(axis=1)
    return BayesDecisions(decision, least)


def expected_cost(
    decisions: ArrayLike,
    labels: ArrayLike,
    costs: ArrayLike,
    weights: Weights = None,
    *,
    normalised: bool = False,
) -> Result:
    """Mean cost of the decisions; or how many times the cost of the best constant decision.

    `1 / n Σ C[y, decision]`

    Args:
        decisions, labels: int `[n]`; a decision is the place of a column.
        costs: float `[classes, decisions]`, as in `bayes_decisions`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.
        normalised: divide by the cost of always making the same decision, the cheapest one for
            these images. Above 1, the model is worse than that; NaN where that costs nothing.

    >>> costs = [[0, 1], [20, 0]]
    >>> expected_cost([0, 1, 0, 0], [0, 0, 1, 0], costs)
    5.25
    >>> expected_cost([0, 1, 0, 0], [0, 0, 1, 0], costs, normalised=True)
    7.0
    """
    n = check_columns(decisions=decisions, labels=labels)
    matrix, truth = np.asarray(costs, dtype=np.float64), np.asarray(labels)
    matrix = check_costs(matrix, len(matrix))
    check_labels(truth, len(matrix))
    check_labels(np.asarray(decisions), matrix.shape[1], "decisions")
    rows = as_rows(weights, n)
    values = rows @ matrix[truth, np.asarray(decisions)] / rows.sum(axis=1)
    if normalised:
        images = sum_by_number(truth, np.ascontiguousarray(rows.T), len(matrix))
        values = ratio(values, best_constant(images, matrix))
    return as_result(values, weights)


def check_costs(costs: ArrayLike, classes: int) -> FloatArray:
    """Return costs as float64 `[classes, decisions]`, or raise `InputError`.

    >>> check_costs([[0, 1], [20, 0]], 2).shape
    (2, 2)
    """
    matrix = np.asarray(costs, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != classes or matrix.shape[1] - classes not in (0, 1):
        raise InputError(
            f"costs must be [{classes}, {classes}], a row for each true class and a column for "
            f"each decision, or one column more for a review; found {list(matrix.shape)}"
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise InputError("costs must be finite and not negative")
    return matrix


def finding_costs(missed: float, false: float, *review: float) -> tuple[tuple[float, ...], ...]:
    """The matrix of a finding that is there or not, from the costs of its two errors.

    >>> finding_costs(20, 1, 3)
    ((0.0, 1, 3), (20, 0.0, 3))
    """
    return (0.0, false, *review), (missed, 0.0, *review)


def cost_columns(
    predicted: IntArray, probabilities: FloatArray | None, labels: LabelArray, costs: ArrayLike
) -> Mapping[str, FloatArray]:
    """The costs of each image, `[n]`: of its decision, and of its Bayes decisions.

    Args:
        predicted, labels: int `[n]`.
        probabilities: float `[n, classes]`, or None if they are unknown.
        costs: as in `bayes_decisions`.

    >>> probabilities = np.array([[0.9, 0.1]])
    >>> columns = cost_columns(np.array([0]), probabilities, np.array([1]), [[0, 1], [20, 0]])
    >>> {name: column.tolist() for name, column in columns.items()}
    {'cost': [20.0], 'bayes_cost': [0.0]}
    """
    matrix = np.asarray(costs, dtype=np.float64)
    classes = len(matrix)
    columns = {"cost": matrix[labels, predicted]}
    if probabilities is None:
        return columns
    check_probabilities(probabilities, labels)
    decision = bayes_decisions(probabilities, matrix[:, :classes]).decision
    columns["bayes_cost"] = matrix[labels, decision]
    if matrix.shape[1] > classes:
        decision = bayes_decisions(probabilities, matrix).decision
        columns["cost_with_review"] = matrix[labels, decision]
        columns["reviewed"] = np.asarray(decision == classes, dtype=np.float64)
    return columns


def best_constant(images: FloatArray, costs: FloatArray) -> FloatArray:
    """The cost of the cheapest constant decision, `[B]`, from the images of each class `[k, B]`.

    >>> best_constant(np.array([[97.0], [3.0]]), np.array([[0.0, 1.0], [20.0, 0.0]]))
    array([0.6])
    """
    return np.asarray((images.T @ costs / images.sum(axis=0)[:, None]).min(axis=1))

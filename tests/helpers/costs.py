"""Costs of simulated classes, and the metrics of costs by pure functions and slow references."""

from functools import partial

import numpy as np

from fairweather import metrics
from fairweather.metrics.costs import bayes_decisions, expected_cost
from tests.helpers import reference


def priced(classes):
    """Costs of this many classes: the last is missed at 3, and a person reviews at 0.6."""
    matrix = 1.0 - np.eye(classes)
    matrix[-1] *= 3
    return tuple((*row, 0.6) for row in matrix.tolist())


def cost_functions():
    """The pure function of each metric of costs, from predictions and weights."""

    def evaluate(kind, p, w, *, normalised):
        matrix = np.array(p.costs)
        if kind != "cost_with_review":
            matrix = matrix[:, :-1]
        calls = p.predicted
        if kind != "expected_cost":
            calls = bayes_decisions(metrics.softmax(p.logits), matrix).decision
        return expected_cost(calls, p.labels, matrix, w, normalised=normalised)

    def reviewed(p, w):
        calls = bayes_decisions(metrics.softmax(p.logits), p.costs).decision
        return metrics.accuracy(calls == len(p.classes), w)

    found = {}
    for kind in ("expected_cost", "bayes_cost", "cost_with_review"):
        found[kind] = partial(evaluate, kind, normalised=False)
        found[f"{kind}/normalised"] = partial(evaluate, kind, normalised=True)
    return found | {"reviewed_share": reviewed}


def slow_costs(predictions):
    """Each metric of costs by its slow reference."""
    return reference.cost_numbers(
        predictions.predicted.tolist(),
        metrics.softmax(predictions.logits).tolist(),
        predictions.labels.tolist(),
        predictions.costs,
    )

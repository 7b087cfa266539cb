"""The metrics of costs, for a classifier and for each finding."""

from __future__ import annotations

from functools import partial

import numpy as np

from fairweather.metrics.columns import FloatArray, ratio
from fairweather.metrics.costs import best_constant
from fairweather.metrics.hidden_error import HiddenError, Observation, hidden_in_levels
from fairweather.metrics.metric import Accepts, Metric
from fairweather.metrics.sample import Sample
from fairweather.types.kinds import FINDING


def _matrix(s: Sample, *, review: bool) -> FloatArray:
    """The costs of the run, with the price of a review or without."""
    costs = s.predictions.costs
    assert costs is not None, "there are no costs; ask `Metric.applies`"
    return np.array(costs)[:, : None if review else len(costs)]


def _normaliser(s: Sample, *, review: bool) -> FloatArray:
    present = s.prepared.present
    return best_constant(s.by_label("images"), _matrix(s, review=review)[present])


def _hidden_cost(column: str, *, review: bool, seen: Observation) -> HiddenError:
    """What a mean cost hides of heavy errors that hardly any image has made."""
    levels = np.unique(_matrix(seen.sample, review=review))
    return hidden_in_levels(seen.sample.prepared.means.column(column), levels, seen)


def _hidden_ratio(column: str, *, review: bool, seen: Observation) -> HiddenError:
    """The same relative to the best constant decision, which may be dearer than it seems."""
    below, above = _hidden_cost(column, review=review, seen=seen)
    matrix, labels = _matrix(seen.sample, review=review), seen.sample.predictions.labels
    means = seen.sample.weights[0] @ matrix[labels] / seen.sample.weights[0].sum()
    best = int(means.argmin())
    dearer = hidden_in_levels(matrix[labels, best], np.unique(matrix[:, best]), seen).above
    if seen.worth < 1:  # the classes have stated priors, so that this cost is known
        dearer = 0.0
    part = float(np.sqrt(dearer) / (means[best] + np.sqrt(dearer)))
    return HiddenError(
        below / means[best] ** 2 + (seen.value * part) ** 2, above / means[best] ** 2
    )


def _cost_rows(
    name: str,
    column: str,
    label: str,
    formula: str,
    *,
    review: bool = False,
    of_classes: bool = False,
) -> tuple[Metric, Metric]:
    """The row of a mean cost, and of the same relative to the best constant decision."""
    row = partial(
        Metric,
        higher_is_better=False,
        bounds=(0.0, np.inf),
        interval="skewed",
        accepts=Accepts(
            also=(FINDING,),
            column="" if of_classes else "logits",
            costs=True,
            review=review,
            fractions=True,
        ),
    )
    return (
        row(
            name,
            label,
            formula,
            lambda s: s.mean(column),
            shown=1,
            hidden_error=lambda seen: _hidden_cost(column, review=review, seen=seen),
        ),
        row(
            f"{name}/normalised",
            f"{label}, normalised",
            f"that cost / the cost of the best constant decision{', maybe a review' * review}; "
            "above 1 it is worse than no model",
            lambda s: ratio(s.mean(column), _normaliser(s, review=review)),
            hidden_error=lambda seen: _hidden_ratio(column, review=review, seen=seen),
        ),
    )


COST_METRICS = (
    *_cost_rows(
        "expected_cost",
        "cost",
        "Expected cost",
        "mean cost of the decisions as they are: for the most probable class, or for a finding "
        "from a probability of 0.5 on",
        of_classes=True,
    ),
    *_cost_rows(
        "bayes_cost",
        "bayes_cost",
        "Expected cost of Bayes decisions",
        "mean cost of the decisions with the least expected cost by the probabilities",
    ),
    *_cost_rows(
        "cost_with_review",
        "cost_with_review",
        "Expected cost with reviews",
        "mean cost of Bayes decisions if a person reviews, at the price of a review, where every "
        "decision is expected to cost more",
        review=True,
    ),
    Metric(
        "reviewed_share",
        "Reviewed",
        "share of the images that are reviewed because every decision is expected to cost more",
        lambda s: s.mean("reviewed"),
        higher_is_better=False,
        unit="%",
        accepts=Accepts(also=(FINDING,), column="logits", costs=True, review=True, fractions=True),
        interval="share",
    ),
)

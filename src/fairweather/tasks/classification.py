"""Classification: one class of each image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from fairweather.metrics.aggregates import aggregate_class_labels, aggregate_classes
from fairweather.metrics.columns import IntArray, per_image
from fairweather.metrics.metric import MOST_CLASSES
from fairweather.tasks.task import AggregationRules, Logits, Strata, Task, widen_members
from fairweather.types.measurement import CLASSIFICATION, Predictions

MOST_STORED_CLASSES = MOST_CLASSES  # of which logits are stored


def mean_log_probability(logits: Iterable[Logits | None]) -> Logits:
    """Return the logarithm of the mean of the members' probabilities.

    Args:
        logits: float32 `[N, classes]` per member.

    Returns:
        float32 `[N, classes]`.

    Raises `ValueError` if the logits of a member are not stored.

    Source: Lakshminarayanan et al. 2017, section 2.4.

    >>> sure, unsure = np.float32([[9, 0]]), np.float32([[0, 0]])
    >>> np.exp(mean_log_probability([sure, unsure])).round(3).tolist()
    [[0.75, 0.25]]
    """
    logs = [scipy.special.log_softmax(member, axis=1) for member in widen_members(logits)]
    together = scipy.special.logsumexp(np.stack(logs), axis=0) - math.log(len(logs))
    return np.asarray(together, dtype=np.float32)


def _classification_columns(logits: Logits, labels: IntArray) -> Mapping[str, NDArray[Any]]:
    return per_image(logits, labels)._asdict()


CLASSIFICATION_TASK = Task(
    name=CLASSIFICATION,
    predictions=Predictions,
    columns=_classification_columns,
    strata=Strata,  # the images of each class
    name_labels=lambda labels, classes: [classes[label] for label in labels.tolist()],
    kinds=(Predictions.kind,),
    combine=mean_log_probability,
    decision_metric="accuracy",
    rule="accuracy[clean] >= 90%",
    aggregation=AggregationRules(
        logits=lambda logits, grouping, name, ordered: aggregate_classes(
            logits, grouping, name, ordered=ordered
        ),
        labels=lambda labels, grouping, unit, ordered: aggregate_class_labels(
            labels, grouping, unit, ordered=ordered
        ),
        loss=lambda predictions: float(predictions.nll.mean()),
    ),
    least_classes=2,
    most_stored=MOST_STORED_CLASSES,
)

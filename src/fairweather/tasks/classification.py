"""Classification: each image has one of several classes, which may be in an order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.metrics.columns import per_image
from fairweather.tasks.task import Labels, Logits, Strata, Task
from fairweather.types import CLASSIFICATION, Predictions

# With more classes than this, logits would need more space than everything else in a run folder.
MOST_STORED_CLASSES = 100


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
    logs = []
    for each in logits:
        if each is None:
            raise ValueError("an ensemble needs the logits of every member")
        logs.append(scipy.special.log_softmax(each.astype(np.float64), axis=1))
    together = scipy.special.logsumexp(np.stack(logs), axis=0) - math.log(len(logs))
    return np.asarray(together, dtype=np.float32)


def _columns(logits: Logits, labels: Labels) -> Mapping[str, npt.NDArray[Any]]:
    return per_image(logits, labels)._asdict()


TASK = Task(
    name=CLASSIFICATION,
    predictions=Predictions,
    columns=_columns,
    strata=Strata,  # the images of each class
    kinds=(Predictions.kind,),
    together=mean_log_probability,
    decided="accuracy",
    most_stored=MOST_STORED_CLASSES,
)

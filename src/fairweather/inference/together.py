"""Ensembles of models: the mean of their probabilities, from stored logits."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import scipy.special


def mean_log_probability(
    logits: Iterable[npt.NDArray[np.float32] | None],
) -> npt.NDArray[np.float32]:
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

"""Kinds of predictions. This module imports nothing, so that help does not load numpy."""

from __future__ import annotations

from typing import NamedTuple


class TaskKind(NamedTuple):
    """A kind of predictions; metrics, calibrations and sections say which kind they accept."""

    labels: str = "single"
    """What a label is: `single`, one class; `known`, 0 or 1; `masked`, 0, 1 or unknown."""

    outputs: str = "softmax"
    """What the logits become: `softmax`, probabilities that sum to one, or `sigmoid`, one each."""

    unit: str = "image"
    """What a prediction is of: `image`, or a part of its labels such as `finding`."""


CLASSES = TaskKind()  # one class of each image
FINDINGS = TaskKind("masked", "sigmoid", "image")  # several findings of an image
FINDING = TaskKind("known", "sigmoid", "finding")  # one of them, where it is known
OF_FINDING = "finding="  # before the name of one, where tables and rules name it

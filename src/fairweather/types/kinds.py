"""Kinds of predictions. This module imports nothing, so that help does not load numpy."""

from __future__ import annotations

from typing import NamedTuple


class TaskKind(NamedTuple):
    """A kind of predictions; metrics, calibrations and sections say which kind they accept.

    Attributes:
        labels: what a label is: `single`, one class of each image.
        outputs: what the logits become: `softmax`, probabilities that sum to one.
        unit: what a prediction is of: `image`, or a part of its labels such as `finding`.
    """

    labels: str = "single"
    outputs: str = "softmax"
    unit: str = "image"

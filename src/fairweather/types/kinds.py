"""Kinds of predictions. This module imports nothing, so that help does not load numpy."""

from __future__ import annotations

from typing import NamedTuple


class TaskKind(NamedTuple):
    """A kind of predictions; metrics, calibrations and sections say which kind they accept."""

    labels: str = "single"
    """What a label is: `single`, one class of each image."""

    outputs: str = "softmax"
    """What the logits become: `softmax`, probabilities that sum to one."""

    unit: str = "image"
    """What a prediction is of: `image`, or a part of its labels such as `finding`."""

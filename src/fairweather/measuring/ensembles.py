"""How the models of several seeds are predicted together: from stored logits where there are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.cells import MOST_STORED_CLASSES, from_logits
from fairweather.measuring.predicting import Model, Plan, cell_file, predict_part
from fairweather.measuring.setting import Setting, Subject
from fairweather.types import Attack, Cell, Predictions

# Raised when putting predictions together makes something else of the same inputs.
VERSION = 1


def ensemble_plan(setting: Setting, subject: Subject, model: Model) -> Plan:
    """The mean of the members' probabilities; an attack meets all of them at once.

    Source: Lakshminarayanan et al. 2017, section 2.4.
    """
    run = setting.run
    stored = len(setting.dataset.classes) <= MOST_STORED_CLASSES

    def files(part: str, cell: Cell) -> list[str]:
        members = (Cell(member.name, member.seed, cell.shift) for member in subject.members)
        return [cell_file(part, member) for member in members]

    def is_stored(part: str, cell: Cell) -> bool:
        return stored and part not in setting.others and not isinstance(cell.shift, Attack)

    def inputs(part: str, cell: Cell) -> Mapping[str, Any]:
        if is_stored(part, cell):
            checksums = [run.checksum(file) for file in files(part, cell)]
            return {"version": VERSION, "members": checksums}
        return setting.inputs(subject.digest, setting.digests[part], cell.shift)

    def stream(part: str, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Predictions]]:
        for cell in cells:
            if is_stored(part, cell):
                members = [run.read_predictions(file).logits for file in files(part, cell)]
                yield cell, from_logits(mean_log_probability(members), setting.images(part))
            else:
                yield from predict_part(setting, model(), part, [cell])

    return Plan(subject.name, subject.seed, subject.label, inputs, stream)


def mean_log_probability(
    logits: Iterable[npt.NDArray[np.float32] | None],
) -> npt.NDArray[np.float32]:
    """Give the logarithm of the mean of the members' probabilities.

    Args:
        logits: of each member, float32 `[N, classes]`.

    Returns:
        float32 `[N, classes]`.

    Raises `ValueError` where the logits of a member are not stored.

    >>> sure, torn = np.float32([[9, 0]]), np.float32([[0, 0]])
    >>> np.exp(mean_log_probability([sure, torn])).round(3).tolist()
    [[0.75, 0.25]]
    """
    logs = []
    for each in logits:
        if each is None:
            raise ValueError("an ensemble needs the logits of every member")
        logs.append(scipy.special.log_softmax(each.astype(np.float64), axis=1))
    together = scipy.special.logsumexp(np.stack(logs), axis=0) - math.log(len(logs))
    return np.asarray(together, dtype=np.float32)

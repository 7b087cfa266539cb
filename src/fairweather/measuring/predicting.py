"""The predictions of one model: validation images, every cell, and those of its variants."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from fairweather.cells import predict_cells
from fairweather.measuring.setting import PRECISION, Setting, Subject
from fairweather.progress import Event
from fairweather.runs import RunFolder
from fairweather.types import Attack, Cell, Predictions
from fairweather.variants import variant_name

Model = Callable[[], nn.Module]
# Images of which part, under the shifts of which cells.
Stream = Callable[[str, Sequence[Cell]], Iterable[tuple[Cell, Predictions]]]


def cells_of(setting: Setting, name: str, seed: int | str) -> list[Cell]:
    """Every cell of a model or of a variant of one.

    Batch-norm adaptation has none under attack: an attack looks at images one by one, and here what
    becomes of one depends on the others.
    """
    adapted = name.endswith(variant_name("", "batchnorm"))
    shifts = (s for s in setting.shifts if not (adapted and isinstance(s, Attack)))
    return [Cell(name, seed, shift) for shift in shifts]


def validation_file(name: str, seed: int | str) -> str:
    """Where the predictions of the clean validation images lie inside a run folder."""
    return f"predictions/{name}/seed-{seed}/val.parquet"


def cell_file(part: str, cell: Cell) -> str:
    """Where the predictions of a cell lie, by the part of the data that they are of."""
    if part == "test":
        return str(cell.path)
    if part == "val":
        return validation_file(cell.model, cell.seed)
    other = re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-.")
    mark = hashlib.sha256(part.encode()).hexdigest()[:8]  # two names may read the same
    return f"predictions/{cell.model}/seed-{cell.seed}/ood/{other}-{mark}.parquet"


class Plan(NamedTuple):
    """How one model or variant is predicted: what it depends on and who does it."""

    name: str
    seed: int | str
    label: str
    inputs: Callable[[str, Cell], Mapping[str, Any]]
    stream: Stream


def measure(setting: Setting, plan: Plan) -> Iterator[Event]:
    """Store what of a plan does not stand in the run folder yet, validation images first."""
    run, every = setting.run, cells_of(setting, plan.name, plan.seed)
    task, done = f"predict {plan.label}", 0
    yield Event(task, done, len(every))
    for part in setting.parts:
        cells = every if part == "test" else every[:1]  # the others as they are
        inputs = {cell: plan.inputs(part, cell) for cell in cells}
        missing = [cell for cell in cells if not _is_done(run, part, cell, inputs[cell])]
        if missing:
            run.discard("scores", "report")
        if part == "test":
            done = len(cells) - len(missing)
            yield Event(task, done, len(every))
        for cell, predictions in plan.stream(part, missing) if missing else ():
            _store(setting, part, cell, predictions, inputs[cell])
            if part == "test":
                done += 1
                note = f"{cell.shift.id}: accuracy {predictions.correct.mean():.1%}"
                yield Event(task, done, len(every), note)


def _step(part: str, cell: Cell) -> str:
    return cell_file(part, cell).removesuffix(".parquet")


def _is_done(run: RunFolder, part: str, cell: Cell, inputs: Mapping[str, Any]) -> bool:
    return run.is_done(_step(part, cell), inputs)


def _store(
    setting: Setting, part: str, cell: Cell, predictions: Predictions, inputs: Mapping[str, Any]
) -> None:
    run, name = setting.run, cell_file(part, cell)
    if part in setting.others:
        run.write_unlabelled(name, predictions)
    else:
        run.write_predictions(name, predictions)
    run.finish(_step(part, cell), inputs, [name])


def plain_plan(setting: Setting, subject: Subject, model: Model) -> Plan:
    """The model as it stands."""

    def inputs(part: str, cell: Cell) -> Mapping[str, Any]:
        return setting.inputs(subject.digest, setting.digests[part], cell.shift)

    def stream(part: str, cells: Sequence[Cell]) -> Iterable[tuple[Cell, Predictions]]:
        return predict_part(setting, model(), part, cells)

    return Plan(subject.name, subject.seed, subject.label, inputs, stream)


def predict_part(
    setting: Setting, model: nn.Module, part: str, cells: Sequence[Cell], temperature: float = 1.0
) -> Iterator[tuple[Cell, Predictions]]:
    """Predict the images of a part under the shift of each cell."""
    return predict_cells(
        model,
        setting.images(part),
        cells,
        batch_size=setting.batch_size,
        device=setting.device,
        precision=PRECISION,
        seed=setting.shift_seed,
        temperature=temperature,
        when_halved=setting.when_halved,
    )

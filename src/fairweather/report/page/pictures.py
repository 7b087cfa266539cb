"""The pictures that the page carries, and what each model says of them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from fairweather.report.page.cells import Columns, rounded
from fairweather.report.samples import CellImage, Samples
from fairweather.variants import keeps_network


class Picture(TypedDict):
    """A picture: what it shows, and each model's prediction and confidence, None without one."""

    image: str
    cell: str
    label: int | None
    predictions: list[tuple[int, float | None] | None]


class Gallery(TypedDict):
    """All pictures, and what they are shown for by their place in the list.

    Attributes:
        strip: by cell.
        lost: by shift; None where nobody looked.
        mistakes: by model, and then by shift.
        attacked: the strip as a model saw it, by model and then by cell.
    """

    pictures: list[Picture]
    strip: dict[str, list[int]]
    lost: dict[str, list[int]] | None
    mistakes: dict[str, dict[str, list[int]]]
    attacked: dict[str, dict[str, list[int]]]


class ShownPrediction(NamedTuple):
    """What a model says of a picture: the label it should have given, its own, how sure it is."""

    label: int
    predicted: int
    confidence: float | None


def predictions_at(
    columns: Columns, cell: str, keys: Iterable[int]
) -> dict[CellImage, ShownPrediction]:
    """Look up what was predicted of the images of these keys in a cell; others are left out."""
    rows = np.flatnonzero(np.isin(columns.keys, list(keys)))
    return {
        CellImage(int(columns.keys[row]), cell): ShownPrediction(
            int(columns.labels[row]),
            int(columns.predicted[row]),
            rounded([columns.confidence[row]])[0],
        )
        for row in rows
    }


def keys_by_cell(samples: Samples | None) -> dict[str, list[int]]:
    """List the images that there are pictures of, by the id of the shift."""
    found: dict[str, list[int]] = {}
    shown = (*samples.pictures, *(at[1:] for at in samples.attacked)) if samples else ()
    for cell, key in dict.fromkeys(shown):
        found.setdefault(cell, []).append(key)
    return found


def gallery(
    models: Sequence[str],
    samples: Samples | None,
    predictions: Mapping[CellImage, Mapping[str, ShownPrediction]],
) -> Gallery | None:
    """List the pictures, and what they are shown for by their place in the list.

    None where the run keeps none.
    """
    if samples is None or not samples.pictures:
        return None
    every = [CellImage(key, cell) for cell, key in samples.pictures]
    at = {shown: index for index, shown in enumerate(every)}

    def chosen(wanted: Iterable[CellImage]) -> list[int]:
        # In a joint report, another run may lack the cell.
        return [at[shown] for shown in wanted if shown in at]

    cells = dict.fromkeys(shown.cell for shown in every)
    strips = {cell: chosen(CellImage(key, cell) for key in samples.strip) for cell in cells}
    lost = samples.lost
    pictures = [
        _picture(cell, image, models, predictions.get(CellImage(key, cell), {}))
        for (cell, key), image in samples.pictures.items()
    ]
    attacked: dict[str, dict[str, list[int]]] = {}
    for (attacks_on, cell, key), image in samples.attacked.items():
        said = predictions.get(CellImage(key, cell), {})
        # Calibrations and prediction sets leave the network: they see the images of its attacks.
        seen_by = [each for each in models if attacked_as(each) == attacks_on and each in said]
        for model in seen_by:
            attacked.setdefault(model, {}).setdefault(cell, []).append(len(pictures))
        own = {model: said[model] for model in seen_by}
        pictures.append(_picture(cell, image, models, own))
    return Gallery(
        pictures=pictures,
        strip={cell: strip for cell, strip in strips.items() if strip},
        lost=None if lost is None else {shift: chosen(wanted) for shift, wanted in lost.items()},
        mistakes={
            model: {shift: chosen(wanted) for shift, wanted in shifts.items()}
            for model, shifts in samples.mistakes.items()
            if model in models
        },
        attacked=attacked,
    )


def attacked_as(name: str) -> str:
    """Name the model whose images a model is tested on under attack.

    >>> attacked_as("basic+temperature"), attacked_as("basic+ensemble")
    ('basic', 'basic+ensemble')
    """
    base, *added = name.split("+")
    return "+".join([base, *(each for each in added if not keeps_network(each))])


def _picture(
    cell: str, image: bytes, models: Sequence[str], predictions: Mapping[str, ShownPrediction]
) -> Picture:
    label = next((each.label for each in predictions.values()), None)
    said = [
        (predictions[model].predicted, predictions[model].confidence)
        if model in predictions
        else None
        for model in models
    ]
    uri = "data:image/webp;base64," + base64.b64encode(image).decode()
    return Picture(image=uri, cell=cell, label=label, predictions=said)

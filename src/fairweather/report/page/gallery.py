"""The pictures of the page, each with what every model says of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fairweather.report.page.cells import Columns, rounded
from fairweather.report.samples import Place, Samples

# Up to so many, every picture says what each of them sees; beyond, what the chosen one does.
MOST_MODELS = 6


def join_samples(samples: Mapping[str, Samples | None]) -> Samples | None:
    """Put the pictures of several runs together, by what stands before the colon of their models.

    Strip and mixture are those of the first run that has any. What all models of one run lose first
    is not what all models of several do: of several it is unknown.
    """
    found = {label: each for label, each in samples.items() if each is not None}
    if len(samples) == 1 or not found:
        return next(iter(found.values()), None)
    first = next((each for each in found.values() if each.strip), next(iter(found.values())))
    return first._replace(
        pictures={
            place: image for each in found.values() for place, image in each.pictures.items()
        },
        lost=None,
        mistakes={
            f"{label}:{model}": shifts
            for label, each in found.items()
            for model, shifts in each.mistakes.items()
        },
    )


class Answer(NamedTuple):
    """What a model says of a picture: the label it should have given, its own, how sure it is."""

    label: int
    predicted: int
    confidence: float | None


# By the place of a picture, and then by the model's name.
Answers = Mapping[Place, Mapping[str, Answer]]


def answers_at(columns: Columns, cell: str, keys: Iterable[int]) -> dict[Place, Answer]:
    """Look up what was predicted of the images of these keys in a cell; others are left out."""
    rows = np.flatnonzero(np.isin(columns.keys, list(keys)))
    return {
        Place(int(columns.keys[row]), cell): Answer(
            int(columns.labels[row]),
            int(columns.predicted[row]),
            rounded([columns.confidence[row]])[0],
        )
        for row in rows
    }


def keys_by_cell(samples: Samples | None) -> dict[str, list[int]]:
    """List the images that there are pictures of, by the id of the shift."""
    found: dict[str, list[int]] = {}
    for cell, key in samples.pictures if samples else ():
        found.setdefault(cell, []).append(key)
    return found


def gallery(
    models: Sequence[str], samples: Samples | None, answers: Answers
) -> dict[str, Any] | None:
    """List the pictures, and what they are shown for by their place in the list.

    None where the run keeps none, or keeps them as versions before this one did.
    """
    if samples is None or not samples.pictures:
        return None
    places = [Place(key, cell) for cell, key in samples.pictures]
    at = {place: index for index, place in enumerate(places)}

    def chosen(wanted: Iterable[Place]) -> list[int]:
        # In a joint report, another run may lack the cell.
        return [at[place] for place in wanted if place in at]

    cells = dict.fromkeys(place.cell for place in places)
    strips = {cell: chosen(Place(key, cell) for key in samples.strip) for cell in cells}
    return {
        "pictures": [
            {"image": _data_uri(samples.pictures[place.cell, place.key])}
            | _said(place, models, answers.get(place, {}))
            for place in places
        ],
        "strip": {cell: strip for cell, strip in strips.items() if strip},
        "lost": None
        if samples.lost is None
        else {shift: chosen(wanted) for shift, wanted in samples.lost.items()},
        "mistakes": {
            model: {shift: chosen(wanted) for shift, wanted in shifts.items()}
            for model, shifts in samples.mistakes.items()
            if model in models
        },
    }


def _said(place: Place, models: Sequence[str], answers: Mapping[str, Answer]) -> dict[str, Any]:
    """The label, and each model's prediction and confidence in their order; None without one."""
    label = next((answer.label for answer in answers.values()), None)
    said = [answers[model][1:] if model in answers else None for model in models]
    return {"cell": place.cell, "label": label, "answers": said}


def _data_uri(picture: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture).decode()

"""Pictures with what the models say of them, and which classes they confuse."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from fairweather.report.contents import Contents
from fairweather.report.front import order_lows, read_outcomes
from fairweather.report.pictures import draw_shifts
from fairweather.report.review import CellColumns, read_cell
from fairweather.report.samples import CellImage, Samples
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.types.record import CLEAN
from fairweather.variants.variant import keeps_network

# ---------------------------------------------------------------- pictures


class Picture(TypedDict):
    """A picture: what it shows, and each model's prediction and confidence, None for what lacks."""

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


def find_predictions(
    columns: CellColumns, cell: str, keys: Iterable[int]
) -> dict[CellImage, ShownPrediction]:
    """Look up what was predicted of the images of these keys in a cell; others are left out."""
    rows = np.flatnonzero(np.isin(columns.keys, list(keys)))
    return {
        CellImage(int(columns.keys[row]), cell): ShownPrediction(
            int(columns.labels[row]),
            int(columns.predicted[row]),
            round(float(columns.confidence[row]), 4) if columns.is_sure else None,
        )
        for row in rows
    }


def group_keys(samples: Samples | None) -> dict[str, list[int]]:
    """List the images that there are pictures of, by the id of the shift."""
    keys: dict[str, list[int]] = {}
    shown = (*samples.pictures, *(at[1:] for at in samples.attacked)) if samples else ()
    for cell, key in dict.fromkeys(shown):
        keys.setdefault(cell, []).append(key)
    return keys


def make_gallery(
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
        _make_picture(cell, image, models, predictions.get(CellImage(key, cell), {}))
        for (cell, key), image in samples.pictures.items()
    ]
    attacked: dict[str, dict[str, list[int]]] = {}
    for (attacks_on, cell, key), image in samples.attacked.items():
        said = predictions.get(CellImage(key, cell), {})
        # Calibrations and prediction sets leave the network: they see the images of its attacks.
        seen_by = [
            model for model in models if name_attacked(model) == attacks_on and model in said
        ]
        for model in seen_by:
            attacked.setdefault(model, {}).setdefault(cell, []).append(len(pictures))
        own = {model: said[model] for model in seen_by}
        pictures.append(_make_picture(cell, image, models, own))
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


def name_attacked(name: str) -> str:
    """Name the model whose images a model is tested on under attack.

    >>> name_attacked("basic+temperature"), name_attacked("basic+ensemble")
    ('basic', 'basic+ensemble')
    """
    base, *added = name.split("+")
    return "+".join([base, *(variant for variant in added if not keeps_network(variant))])


def _make_picture(
    cell: str, image: bytes, models: Sequence[str], predictions: Mapping[str, ShownPrediction]
) -> Picture:
    label = next((prediction.label for prediction in predictions.values()), None)
    said = [
        (predictions[model].predicted, predictions[model].confidence)
        if model in predictions
        else None
        for model in models
    ]
    uri = "data:image/webp;base64," + base64.b64encode(image).decode()
    return Picture(image=uri, cell=cell, label=label, predictions=said)


def _read_predictions(contents: Contents) -> dict[CellImage, dict[str, ShownPrediction]]:
    """What the first training of each model says of each picture."""
    predictions: dict[CellImage, dict[str, ShownPrediction]] = {}
    for cell, keys in group_keys(contents.samples).items():
        for model in contents.titles:
            columns = read_cell(contents, model, contents.seeds_of(model)[0], cell)
            for shown, own in find_predictions(columns, cell, keys).items() if columns else ():
                predictions.setdefault(shown, {})[model] = own
    return predictions


def _show_pictures(contents: Contents, _: Tables) -> PartView | None:
    """Show a few pictures under the shift that is chosen."""
    models = list(contents.titles)
    gallery = make_gallery(models, contents.samples, _read_predictions(contents))
    if gallery is None or not contents.once(read_outcomes):
        return None
    return PartView(
        template="sees.html.j2",
        facts={"seed": contents.first_seed},
        carried={"gallery": gallery, "models": models, "classes": contents.classes},
    )


PICTURES = ReportPart(
    _show_pictures,
    figures=lambda contents: [draw_shifts(contents, contents.samples)] if contents.samples else [],
)


def _show_mistakes(contents: Contents, _: Tables) -> PartView | None:
    """Make room for the pictures of mistakes, which the script puts in."""
    if contents.samples is None or not contents.samples.pictures:
        return None
    joint = contents.samples.lost is None
    return PartView("Pictures", template="mistakes.html.j2", facts={"joint": joint})


MISTAKES = ReportPart(_show_mistakes)

# ---------------------------------------------------------------- confusions

MOST_CLASSES = 20  # of a matrix that can be read; of more, the most frequent confusions are listed
CONFUSIONS = 12


def count_confusions(cells: Sequence[CellColumns], classes: int) -> list[list[float]]:
    """Label, prediction and the share of the label's images, mean over seeds; frequent ones first.

    Of many classes only the most frequent mistakes.
    """
    labels = np.concatenate([cell.labels for cell in cells])
    predicted = np.concatenate([cell.predicted for cell in cells])
    pairs, counts = np.unique(labels * classes + predicted, return_counts=True)
    of_label = np.bincount(labels, minlength=classes)[pairs // classes]
    order = np.argsort(-counts, kind="stable")
    if classes > MOST_CLASSES:
        order = order[pairs[order] // classes != pairs[order] % classes][:CONFUSIONS]
    return [
        [int(pairs[at] // classes), int(pairs[at] % classes), round(counts[at] / of_label[at], 4)]
        for at in order
    ]


def _show_confusions(contents: Contents, _: Tables) -> PartView | None:
    """Show what each model takes for what, clean and at the worst level of each shift."""
    classes = len(contents.classes)
    confusions: dict[str, dict[str, list[list[float]]]] = {}
    for model, outcome in contents.once(read_outcomes).items():
        cells = [CLEAN, *(low.sweep.cells[low.level] for low in order_lows(outcome))]
        for cell in cells:
            read = [read_cell(contents, model, seed, cell) for seed in contents.seeds_of(model)]
            known = [columns for columns in read if columns is not None]
            if known and len(known) == len(read):
                confusions.setdefault(model, {})[cell] = count_confusions(known, classes)
    if not confusions:
        return None
    return PartView(
        "Confusions",
        template="confusions.html.j2",
        facts={"matrix": classes <= MOST_CLASSES, "most": CONFUSIONS},
        carried={"confusions": confusions, "classes": contents.classes},
    )


CONFUSED = ReportPart(_show_confusions)

"""What the page carries beside its text: numbers and pictures for its script, and the script."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from fairweather.record import CLEAN, MEAN, NO_LEVEL
from fairweather.report.contents import Contents
from fairweather.report.figures import Spec
from fairweather.report.page.cells import (
    BINS,
    RISKS,
    CellNumbers,
    Columns,
    describe_cell,
    read_cells,
    rounded,
    thresholds_of,
)
from fairweather.report.page.drawing import CONFIG, Chart, looks
from fairweather.report.performance import performance_at
from fairweather.report.reliability import worst_conditions
from fairweather.report.samples import CellImage, Samples
from fairweather.report.sentences import RISK
from fairweather.report.tables import CORRECTED, Entry
from fairweather.variants import keeps_network

# Up to so many, every picture says what each of them sees; beyond, what the chosen one does.
MOST_MODELS = 6


class ShiftChoice(TypedDict, total=False):
    """A shift that can be chosen: its cells by id, and how far each is from clean images."""

    name: str
    title: str
    cells: list[dict[str, str]]
    distance: list[float]
    attack: bool


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


class Payload(TypedDict):
    """What the script of the page draws and copies, as `page.js` reads it."""

    config: Spec
    charts: dict[str, Spec]
    tables: Mapping[str, Mapping[str, str]]
    models: list[dict[str, object]]
    most_models: int
    start: dict[str, str]
    shifts: list[ShiftChoice]
    worst: list[list[str]]
    classes: Sequence[str]
    bins: int
    risks: Sequence[float]
    cells: dict[str, dict[str, CellNumbers]]
    summaries: dict[str, dict[str, str]]
    gallery: Gallery | None


class ShownPrediction(NamedTuple):
    """What a model says of a picture: the label it should have given, its own, how sure it is."""

    label: int
    predicted: int
    confidence: float | None


def payload(
    contents: Contents,
    charts: Iterable[Chart],
    texts: Mapping[str, Mapping[str, str]],
    samples: Samples | None,
    start: str,
) -> Payload:
    """Gather what the script of the page draws and copies.

    Args:
        contents: of the run or the runs.
        charts: every chart of the page.
        texts: of each table, by its name and then by format.
        samples: the pictures, if there are some.
        start: the name of the model that is chosen at first.
    """
    cells, predictions = _look(contents, keys_by_cell(samples))
    return Payload(
        config=CONFIG,
        charts={chart.name: chart.spec for chart in charts},
        tables=texts,
        models=[
            {"name": name, "title": title, **look._asdict()}
            for (name, title), look in zip(
                contents.titles.items(), looks(contents.positions), strict=True
            )
        ],
        most_models=MOST_MODELS,
        start={"model": start, "shift": _hardest_for(contents, start)},
        shifts=list(_shifts(contents)),
        worst=[[condition.title, condition.cell] for condition in worst_conditions(contents)],
        classes=contents.classes,
        bins=BINS,
        risks=RISKS,
        cells=cells,
        summaries=_summaries(contents, cells),
        gallery=gallery(list(contents.titles), samples, predictions),
    )


def _look(
    contents: Contents, pictures: Mapping[str, Iterable[int]]
) -> tuple[dict[str, dict[str, CellNumbers]], dict[CellImage, dict[str, ShownPrediction]]]:
    """Read each cell once: describe it if it is shown, and look up what it says of pictures."""
    thresholds, classes = thresholds_of(contents), len(contents.classes)
    levels = _levels(contents)
    cells: dict[str, dict[str, CellNumbers]] = {model: {} for model in contents.titles}
    predictions: dict[CellImage, dict[str, ShownPrediction]] = {}
    for model, cell, columns, shown_closer in read_cells(contents, pictures):
        if shown_closer:
            numbers = describe_cell(columns, classes, thresholds[model], contents.clusters)
            cells[model][cell] = _as_scored(contents, model, levels[cell], numbers)
        for shown, each in predictions_at(columns, cell, pictures.get(cell, ())).items():
            predictions.setdefault(shown, {})[model] = each
    return cells, predictions


def _shifts(contents: Contents) -> Iterator[ShiftChoice]:
    yield {"name": CLEAN, "title": "Clean images", "cells": [{"id": CLEAN, "heading": ""}]}
    for sweep in contents.sweeps:
        cells = [
            {"id": cell, "heading": sweep.spelled(level)} for level, cell in sweep.cells.items()
        ]
        distance = [abs(float(level) - sweep.neutral) for level in sweep.cells]
        yield {
            "name": sweep.name,
            "title": sweep.title,
            "cells": cells,
            "distance": distance,
            "attack": sweep.is_attack,
        }


def _hardest_for(contents: Contents, model: str) -> str:
    """The shift under which a model is least accurate on average over the levels."""
    means = {
        sweep.name: score.value
        for sweep in contents.sweeps
        if (score := contents.score("accuracy", model, sweep.name, MEAN)) is not None
    }
    return min(means, key=lambda name: means[name], default=CLEAN)


def _levels(contents: Contents) -> dict[str, tuple[str, str]]:
    """The shift and the level of each cell, by its id."""
    levels = {CLEAN: (CLEAN, NO_LEVEL)}
    for sweep in contents.sweeps:
        levels |= {cell: (sweep.name, level) for level, cell in sweep.cells.items()}
    return levels


def _seed(contents: Contents, model: str) -> str:
    """The seed that the charts of a cell show: the first one; an ensemble has the scores of all."""
    seed = contents.seeds_of(model)[0]
    return seed if seed in contents.seeds else contents.shown_seed


def _as_scored(
    contents: Contents, model: str, at: tuple[str, str], numbers: CellNumbers
) -> CellNumbers:
    """Give what scores.csv has too the interval that it has there: one number, one interval."""
    found = performance_at(contents, model, *at, _seed(contents, model))
    if not numbers["kept"] or found is None or found.coverage is None or found.risk is None:
        return numbers
    _, low, high, _ = found.coverage
    ends = rounded([1 - high, 1 - low, *found.risk[1:3]])
    kept = [*numbers["kept"]]
    over, _, _, risk, *_ = kept[RISKS.index(RISK)]
    kept[RISKS.index(RISK)] = [over, *ends[:2], risk, *ends[2:]]
    return {**numbers, "kept": kept}


def _summaries(
    contents: Contents, cells: Mapping[str, Mapping[str, CellNumbers]]
) -> dict[str, dict[str, str]]:
    """Accuracy and calibration of each cell in words, of the seed that its charts show."""
    levels = _levels(contents)
    return {
        model: {cell: _in_words(contents, model, *levels[cell]) for cell in described}
        for model, described in cells.items()
    }


def _in_words(contents: Contents, model: str, shift: str, level: str) -> str:
    shown = _seed(contents, model)
    accuracy, error = (
        contents.score(metric, model, shift, level, shown)
        for metric in ("accuracy", "rms_calibration_error")
    )
    parts = [f"Accuracy {Entry(accuracy, percent=True).in_words}"] if accuracy else []
    parts += [f"RMS calibration error {Entry(error, percent=False).in_words}"] if error else []
    seed = f" of seed {contents.seeds_of(model)[0]}" if len(contents.seeds) > 1 else ""
    n = [f"The charts below show {accuracy.n:,} images{seed}."] if accuracy else []
    note = [f"The interval of the error is {CORRECTED}."] if error and not error.too_few else []
    return " ".join([f"{'; '.join(parts)}.", *n, *note])


# ---- pictures


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

    None where the run keeps none, or keeps them as versions before this one did.
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


# ---- the script


def pack(content: Mapping[str, object]) -> str:
    """Write JSON, compressed, in letters that mean nothing to HTML; the same for the same content.

    >>> import json
    >>> json.loads(gzip.decompress(base64.b64decode(pack({"name": "</script>"}))))
    {'name': '</script>'}
    """
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def script(library: str) -> str:
    """Put the page's own script behind the library that draws its charts."""
    own = (
        importlib.resources.files("fairweather.report.page")
        .joinpath("page.js")
        .read_text(encoding="utf-8")
    )
    # The end of a script inside of a string of it would end the script.
    return (library + "\n" + own).replace("</script", r"<\/script")


def content_security_policy(scripts: Iterable[str]) -> str:
    """Allow these scripts and nothing else: no network, no evaluated text, no form, no frame."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {hashes}; base-uri 'none'; form-action 'none'"
    )

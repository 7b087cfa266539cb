"""The section that shows one model under one shift at one level, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypedDict

from fairweather.record import CLEAN, MEAN
from fairweather.report.contents import Contents
from fairweather.report.page.cell_charts import cell_charts
from fairweather.report.page.cells import (
    BINS,
    MOST_CLASSES,
    RISKS,
    CellNumbers,
    describe_cell,
    read_cells,
    rounded,
    shows_every_level,
    thresholds_of,
)
from fairweather.report.page.pictures import (
    ShownPrediction,
    gallery,
    keys_by_cell,
    predictions_at,
)
from fairweather.report.performance import performance_at
from fairweather.report.picture_figures import shifts_figure
from fairweather.report.ranking import ranking
from fairweather.report.reliability import reliability_figure, worst_conditions
from fairweather.report.samples import CellImage
from fairweather.report.section import Part, Shown, Tables
from fairweather.report.sentences import RISK
from fairweather.report.tables import CORRECTED, Entry

# Up to so many, every picture says what each of them sees; beyond, what the chosen one does.
MOST_MODELS = 6


class ShiftChoice(TypedDict, total=False):
    """A shift that can be chosen: its cells by id, and how far each is from clean images."""

    name: str
    title: str
    cells: list[dict[str, str]]
    distance: list[float]
    attack: bool


class _Looked(NamedTuple):
    """What is shown of each model and cell, and what each model says of each picture."""

    cells: Mapping[str, Mapping[str, CellNumbers]]
    predictions: Mapping[CellImage, Mapping[str, ShownPrediction]]


def _look(contents: Contents) -> _Looked:
    """Read each cell once: describe it if it is shown, and look up what it says of pictures."""
    pictures = keys_by_cell(contents.samples)
    thresholds, classes = thresholds_of(contents), len(contents.classes)
    levels = contents.cells
    cells: dict[str, dict[str, CellNumbers]] = {model: {} for model in contents.titles}
    predictions: dict[CellImage, dict[str, ShownPrediction]] = {}
    for model, cell, columns, shown_closer in read_cells(contents, pictures):
        if shown_closer:
            numbers = describe_cell(columns, classes, thresholds[model], contents.clusters)
            cells[model][cell] = _as_scored(contents, model, levels[cell], numbers)
        for shown, each in predictions_at(columns, cell, pictures.get(cell, ())).items():
            predictions.setdefault(shown, {})[model] = each
    return _Looked(cells, predictions)


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
    levels = contents.cells
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


def _closer(contents: Contents, _: Tables) -> Shown | None:
    """Show what can be looked at, with the numbers of every cell for the page's script."""
    cells, _predictions = contents.once(_look)
    if not any(cells.values()):
        return None
    conditions, classes = worst_conditions(contents), contents.classes
    ranks = contents.once(ranking)
    start = ranks.rows[0].model if ranks else next(iter(contents.titles))
    charts = cell_charts(classes, len(conditions))
    thresholds = any(cell["kept"] for model in cells.values() for cell in model.values())
    return Shown(
        charts=charts,
        template="closer.html.j2",
        facts={
            "closer": {chart.name: chart for chart in charts},
            "bins": BINS,
            "every_class": len(classes) <= MOST_CLASSES,
            "every_level": shows_every_level(contents),
            "thresholds": thresholds,
        },
        carried={
            "most_models": MOST_MODELS,
            "start": {"model": start, "shift": _hardest_for(contents, start)},
            "shifts": list(_shifts(contents)),
            "worst": [[condition.title, condition.cell] for condition in conditions],
            "classes": classes,
            "bins": BINS,
            "risks": RISKS,
            "cells": cells,
            "summaries": _summaries(contents, cells),
        },
    )


def _pictures(contents: Contents, _: Tables) -> Shown | None:
    """Show the pictures of what is chosen above, or say that there are none."""
    cells, predictions = contents.once(_look)
    if not any(cells.values()):
        return None
    found = gallery(list(contents.titles), contents.samples, predictions)
    return Shown(
        "Pictures",
        anchor="pictures" if found else "",
        template="pictures.html.j2",
        facts={"many_models": len(contents.titles) > MOST_MODELS},
        carried={"gallery": found},
    )


CLOSER = Part(_closer, figures=lambda contents: [reliability_figure(contents)])
PICTURES = Part(
    _pictures,
    figures=lambda contents: (
        [shifts_figure(contents, contents.samples)] if contents.samples else []
    ),
)

"""What the page carries beside its text: numbers and pictures for its script, and the script."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from typing import Any

from fairweather.report.contents import Contents
from fairweather.report.page.cells import BINS, RISKS, describe_cell, read_cells, thresholds_of
from fairweather.report.page.drawing import Chart
from fairweather.report.page.gallery import (
    MOST_MODELS,
    Answer,
    answers_at,
    gallery,
    keys_by_cell,
)
from fairweather.report.page.theme import CONFIG, looks
from fairweather.report.reliability import worst_conditions
from fairweather.report.samples import Place, Samples
from fairweather.report.tables import Entry
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL


def payload(
    contents: Contents,
    charts: Iterable[Chart],
    texts: Mapping[str, Mapping[str, str]],
    samples: Samples | None,
    start: str,
) -> dict[str, Any]:
    """Gather what the script of the page draws and copies.

    Args:
        contents: of the run or the runs.
        charts: every chart of the page.
        texts: of each table, by its name and then by format.
        samples: the pictures, if there are some.
        start: the name of the model that is chosen at first.
    """
    cells, answers = _look(contents, keys_by_cell(samples))
    return {
        "config": CONFIG,
        "charts": {chart.name: chart.spec for chart in charts},
        "tables": texts,
        "models": [
            {"name": name, "title": title, **look._asdict()}
            for (name, title), look in zip(
                contents.titles.items(), looks(contents.places), strict=True
            )
        ],
        "most_models": MOST_MODELS,
        "start": {"model": start, "shift": _hardest_for(contents, start)},
        "shifts": list(_shifts(contents)),
        "worst": [[condition.title, condition.cell] for condition in worst_conditions(contents)],
        "classes": contents.classes,
        "bins": BINS,
        "risks": RISKS,
        "cells": cells,
        "summaries": _summaries(contents, cells),
        "gallery": gallery(list(contents.titles), samples, answers),
    }


def _look(
    contents: Contents, pictures: Mapping[str, Iterable[int]]
) -> tuple[dict[str, dict[str, Any]], dict[Place, dict[str, Answer]]]:
    """Read each cell once: describe it, and look up what it says of the pictures."""
    thresholds, classes = thresholds_of(contents), len(contents.classes)
    cells: dict[str, dict[str, Any]] = {model: {} for model in contents.titles}
    answers: dict[Place, dict[str, Answer]] = {}
    for model, cell, columns in read_cells(contents):
        cells[model][cell] = describe_cell(columns, classes, thresholds[model])
        for place, answer in answers_at(columns, cell, pictures.get(cell, ())).items():
            answers.setdefault(place, {})[model] = answer
    return cells, answers


def pack(content: Mapping[str, Any]) -> str:
    """Write JSON, compressed, in letters that mean nothing to HTML; the same for the same content.

    >>> import json
    >>> json.loads(gzip.decompress(base64.b64decode(pack({"name": "</script>"}))))
    {'name': '</script>'}
    """
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def script(library: str) -> str:
    """Put the page's own script behind the library that draws its charts."""
    own = importlib.resources.files("fairweather.report.page").joinpath("page.js").read_text()
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


def _shifts(contents: Contents) -> Iterable[dict[str, Any]]:
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


def _summaries(
    contents: Contents, cells: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Accuracy and calibration of each cell in words, of the seed that its charts show."""
    places = {CLEAN: (CLEAN, NO_LEVEL)}
    for sweep in contents.sweeps:
        places |= {cell: (sweep.name, level) for level, cell in sweep.cells.items()}
    return {
        model: {cell: _in_words(contents, model, *places[cell]) for cell in described}
        for model, described in cells.items()
    }


def _in_words(contents: Contents, model: str, shift: str, level: str) -> str:
    seed = contents.seeds_of(model)[0]
    shown = contents.shown_seed if seed not in contents.seeds else seed
    accuracy, error = (
        contents.score(metric, model, shift, level, shown)
        for metric in ("accuracy", "rms_calibration_error")
    )
    parts = [f"accuracy {Entry(accuracy, percent=True).in_words}"] if accuracy else []
    parts += [f"RMS calibration error {Entry(error, percent=False).in_words}"] if error else []
    seeds = f", seed {seed}" if len(contents.seeds) > 1 else ""
    n = f"n = {accuracy.n:,}{seeds}" if accuracy else ""
    return ", ".join([*parts, n])

"""A finished run as rows for a tracker: parameters, epochs and scores.

Names and values have forms that trackers accept: dotted keys of plain characters, and text.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.metrics.table import shown_metrics
from fairweather.runs.folder import RunFolder, fingerprint, read_json
from fairweather.runs.provenance import list_machines
from fairweather.types.record import (
    ABSENT_METRICS,
    DESCRIPTION,
    FIGURES,
    HISTORY,
    IMAGE,
    JOINED,
    MEAN,
    NO_LEVEL,
    PAGE,
    RECORD,
    SCORES,
    SPREAD,
    STEPS,
    STUDY,
    SUMMARY,
    TABLES,
    WARNINGS,
    ModelRecord,
    RunRecord,
    list_whole_units,
    model_folder,
    pretraining_folder,
)

NEEDED = (PAGE, SCORES)
FILES = (PAGE, RECORD, JOINED, STUDY, SCORES, SUMMARY, WARNINGS, ABSENT_METRICS)
FOLDERS = (FIGURES, TABLES)
# The metrics that the report shows over levels. A tracker's table has one column per name, so it
# gets only the means over shifts of other metrics. scores.csv, which is sent too, has all of them.
_BOUNDS = ("low", "high")
# MLflow's rule for names (mlflow.utils.validation), without colons, which servers on Windows
# refuse, and without spaces, which only separate ` low`, ` high` and ` sd`.
_OTHERS = re.compile(r"[^\w.\-/]")
# MLflow allows 250 characters, which must include `fairweather.` before a name and digits after it.
_LONGEST = 250 - len("fairweather.") - len("-46d7eb")


class TrackedValue(NamedTuple):
    """A named number; the step is the epoch, or 0."""

    key: str
    value: float
    step: int


class TrackerRow(NamedTuple):
    """One row in a tracker."""

    name: str
    """`MODEL/seed-SEED`, `pretraining/NAME/seed-SEED`, or the name of the study."""

    parameters: Mapping[str, str]
    """Settings, as dotted keys and text."""

    tags: Mapping[str, str]
    """Further facts, as dotted keys and text."""

    metrics: tuple[TrackedValue, ...] = ()
    """Finite numbers, each key and step once; epochs first."""


class TrackedRun(NamedTuple):
    """A run folder: the study, and one row for each pre-training, model and seed."""

    id: str
    """16 hexadecimal digits of the parameters, data and shifts; they do not depend on folder, time,
    machine and versions."""

    description: str
    """That of the study."""

    started: int
    ended: int
    """`started`, `ended`: when it began and when its last step was done, in milliseconds since
    1970."""

    study: TrackerRow
    """Settings of all models, and the provenance as tags."""

    parts: tuple[TrackerRow, ...]
    """Pre-trainings, then models in the order of scores.csv."""

    files: tuple[str, ...]
    """Files to send, relative to the folder."""


def read_tracked_run(run: RunFolder) -> TrackedRun:
    """Read the rows for a tracker from a run folder; the same files give the same rows.

    Raises:
        InputError: the run is not finished, or one of its files is damaged.
    """
    for name in NEEDED:
        if not run.file(name).is_file():
            raise InputError(f"{run.path} has no {name}: only a finished run can be tracked")
    record = run.record
    study = TrackerRow(
        record.name, _to_texts(_common_settings(record)), _to_texts(_run_circumstances(run))
    )
    parts = (*_pretraining_rows(run), *_model_rows(run))
    return TrackedRun(
        id=_identity(record, [study, *parts]),
        description=record.description,
        started=int(datetime.fromisoformat(record.provenance.time).timestamp() * 1000),
        ended=_ended(run),
        study=study,
        parts=parts,
        files=_files_to_send(run),
    )


def _common_settings(record: RunRecord) -> dict[str, object]:
    """The settings of all models together, without the threads, which belong to the machine."""
    ids = {
        kind: [cell.id for sweep in record.sweeps if sweep.kind == kind for cell in sweep.cells]
        for kind in ("shift", "attack")
    }
    return {
        **record.model_dump(mode="json", include={"kind", "name", "title", "description"}),
        "data": {"name": record.data.name, **record.data.arguments},
        **record.model_dump(mode="json", include={"seeds", "ensemble", "priors", "ood"}),
        "shifts": ids["shift"],
        "attacks": ids["attack"],
        **record.settings.model_dump(mode="json", exclude={"threads"}),
    }


def _run_circumstances(run: RunFolder) -> dict[str, object]:
    """The time, versions, machines and images of the run."""
    record = run.record
    machines = "; ".join(map(str, list_machines(run)))
    return {
        "provenance": record.provenance.model_dump(mode="json"),
        "data": record.data.model_dump(mode="json", exclude={"name", "arguments"}),
        **({} if record.settings.threads is None else {"threads": record.settings.threads}),
        **({"machines": machines} if machines else {}),
    }


def _identity(record: RunRecord, rows: Sequence[TrackerRow]) -> str:
    """Make the fingerprint of settings, data and models, without titles of shifts.

    Titles may change between versions. All parameters count, since trackers never let them change.
    """
    return fingerprint(
        {
            "parameters": [[row.name, dict(row.parameters)] for row in rows],
            "data": record.data.model_dump(mode="json", include={"classes", "digests"}),
            "models": {name: model.facts.get("digest") for name, model in record.models.items()},
        }
    )


def _ended(run: RunFolder) -> int:
    """When the last step was done, in milliseconds since 1970."""
    written = run.file(STEPS).rglob("*.json")
    times = [path.stat().st_mtime_ns for path in written if path.is_file()]
    if not times:
        raise InputError(f"{run.path} has no finished step: only a finished run can be tracked")
    return max(times) // 10**6


def score_metrics(scores: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Name the scores for a tracker: model, seed, key and value, one row per number.

    A key is `METRIC/SHIFT`, with `/LEVEL` and `/UNIT` if there is one, such as a finding. With
    ` low` and ` high` after it, it is a bound of the 95 % interval; with ` sd`, the standard
    deviation over seeds, which has the seed `mean`. Single shifts have only the metrics that are
    shown most, and of units only the means over them. Numbers that are not finite are left out.

    Args:
        scores: the table of scores.csv.
        swept: the names of the shifts and attacks.

    >>> row = ("basic", "0", "fog", "0.5", "accuracy", 0.9, 0.8, 0.95, 100)
    >>> names = ["model", "seed", "shift", "level", "metric", "value", "low", "high", "n"]
    >>> score_metrics(pd.DataFrame([row], columns=names), ["fog"])[["key", "value"]].to_numpy()
    array([['accuracy/fog/0.5', 0.9],
           ['accuracy/fog/0.5 low', 0.8],
           ['accuracy/fog/0.5 high', 0.95]], dtype=object)
    """
    unit = scores["unit"] if "unit" in scores else pd.Series(IMAGE, index=scores.index)
    shown = scores["metric"].isin(shown_metrics(2)) & unit.isin(list_whole_units(unit))
    rows = scores[~scores["shift"].isin(swept) | shown]
    level = ("/" + rows["level"]).where(rows["level"] != NO_LEVEL, "")
    of_unit = ("/" + unit[rows.index]).where(unit[rows.index] != IMAGE, "")
    text = rows["metric"] + "/" + rows["shift"] + level + of_unit
    rows = rows.assign(key=text.map(allowed_names(text.unique())))
    spread = rows["seed"] == SPREAD
    of_seeds = rows[spread].assign(seed=MEAN, key=rows["key"] + " sd")
    parts = [
        rows[~spread],
        *(rows[~spread].assign(value=rows[end], key=rows["key"] + f" {end}") for end in _BOUNDS),
        of_seeds,
    ]
    # A stable sort by the rows' index puts a value next to its bounds.
    numbers = pd.concat(parts).sort_index(kind="stable")[["model", "seed", "key", "value"]]
    return numbers[np.isfinite(numbers["value"])]


def _model_rows(run: RunFolder) -> Iterator[TrackerRow]:
    record = run.record
    numbers = score_metrics(run.unit_scores, [sweep.name for sweep in record.sweeps])
    for row, rows in numbers.groupby(["model", "seed"], sort=False):
        model, seed = map(str, row)
        base, _, variant = model.partition("+")
        if base not in record.models:
            raise InputError(
                f"{run.path / SCORES} has rows of {model}, but {run.path} has no such model"
            )
        ids: dict[str, JsonValue] = {"model": model, "seed": seed}
        if variant:
            ids["variant"] = variant
        # The rows for all seeds together have the recipe of the first seed, as in the report.
        trained = model_folder(base, seed if seed.isdigit() else record.seeds[0])
        entry = _model_settings(record.models[base]) | _trained_recipe(run, trained) | ids
        epochs = () if variant else _epoch_values(run, model_folder(base, seed))
        scored = map(TrackedValue, rows["key"], rows["value"], [0] * len(rows))
        facts = record.models[base].facts
        tags = {**ids, "title": record.models[base].title, **({"facts": facts} if facts else {})}
        yield TrackerRow(
            f"{model}/seed-{seed}", _to_texts(entry), _to_texts(tags), (*epochs, *scored)
        )


def _pretraining_rows(run: RunFolder) -> Iterator[TrackerRow]:
    for name, entry in run.record.pretraining.items():
        fixed = entry.settings.get("seed")
        for seed in run.record.seeds if not isinstance(fixed, int) else [fixed]:
            place = pretraining_folder(name, seed)
            if epochs := _epoch_values(run, place):
                ids: dict[str, JsonValue] = {"pretraining": name, "seed": seed}
                tags = _to_texts({**ids, "title": entry.title})
                yield TrackerRow(place, _to_texts(_model_settings(entry) | ids), tags, epochs)


def _model_settings(model: ModelRecord) -> dict[str, JsonValue]:
    return {"title": model.title, **model.settings}


def _trained_recipe(run: RunFolder, folder: str) -> dict[str, JsonValue]:
    """The recipe that a model was trained with; with a sweep, it may differ from the study's."""
    path = run.file(f"{folder}/{DESCRIPTION}")
    described = read_json(path) if path.is_file() else {}
    return {"recipe": described["recipe"]} if "recipe" in described else {}


def _epoch_values(run: RunFolder, folder: str) -> tuple[TrackedValue, ...]:
    """The numbers of each epoch, named as in history.csv; none if nothing was trained."""
    path = run.file(f"{folder}/{HISTORY}")
    if not path.is_file():
        return ()
    history = pd.read_csv(path)
    names = allowed_names(map(str, history.columns.drop("epoch")))
    return tuple(
        TrackedValue(key, float(value), int(epoch))
        for column, key in names.items()
        for epoch, value in zip(history["epoch"], history[column], strict=True)
        if np.isfinite(value)
    )


def _to_texts(facts: Mapping[str, object]) -> dict[str, str]:
    flat = dict(flatten(facts))
    names = allowed_names(flat)
    return {names[key]: text for key, text in flat.items() if text}


def _files_to_send(run: RunFolder) -> tuple[str, ...]:
    drawn = [path for name in FOLDERS for path in sorted(run.file(name).glob("[!.]*"))]
    names = [*FILES, *(path.relative_to(run.path).as_posix() for path in drawn)]
    return tuple(name for name in names if run.file(name).is_file())


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys, with the text of each value as in YAML.

    >>> list(flatten({"recipe": {"epochs": 2, "mixup": None}, "seeds": [0, 1], "title": "Basic"}))
    [('recipe.epochs', '2'), ('recipe.mixup', 'null'), ('seeds', '[0, 1]'), ('title', 'Basic')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # A file name that is no UTF-8 cannot be sent as it is.
        yield prefix, text.encode(errors="replace").decode()


def allowed_names(names: Iterable[str]) -> dict[str, str]:
    """Write each name with letters, digits and `_ - . /` only.

    If two would become equal, the changed one gets six digits of its own.

    >>> allowed_names(["accuracy/clean", "accuracy/priors/a,b", "accuracy//clean"])
    {'accuracy/clean': 'accuracy/clean', 'accuracy/priors/a,b': 'accuracy/priors/a_b',
     'accuracy//clean': 'accuracy/clean-46d7eb'}
    """
    written = {name: _allowed_name(name) for name in names}
    uses = Counter(written.values())
    return {
        name: new if new == name or uses[new] == 1 else f"{new}-{_digits(name)}"
        for name, new in written.items()
    }


def _allowed_name(name: str) -> str:
    # A name is also a path below the run, and must be in its shortest form.
    return posixpath.normpath("/" + _OTHERS.sub("_", name)[:_LONGEST]).lstrip("/") or "_"


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:6]

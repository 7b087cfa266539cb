"""A finished run folder as records for a tracker: parameters, epochs and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fairweather.errors import InputError
from fairweather.runs import MANIFEST, RunFolder, fingerprint, read_json
from fairweather.tracking.names import allowed_names, flatten
from fairweather.yamlfile import read_yaml

NEEDED = ("report.html", "study.yaml", "provenance.json", "scores.csv")
FILES = (*NEEDED, "summary.csv", "warnings.json", "absent_metrics.json")
FOLDERS = ("figures", "tables")
# What `fairweather.runs.provenance` says: the same study has others on another day or machine.
_CIRCUMSTANCES = ("time", "command", "git", "python", "platform", "versions", "hardware")
# What the report follows over levels. Of all other metrics, a tracker's table gets what sums shifts
# up, since it shows every name that it has as a column: scores.csv goes along as a file.
FOLLOWED = ("accuracy", "rms_calibration_error")
_NO_LEVEL, _MEAN, _SPREAD = "none", "mean", "sd"
_BOUNDS = ("low", "high")


class Metric(NamedTuple):
    """A number under a name; the step is the epoch, or 0."""

    key: str
    value: float
    step: int


class Record(NamedTuple):
    """What a tracker shows as one row.

    Attributes:
        name: `MODEL/seed-SEED`, `pretraining/NAME/seed-SEED`, or that of the study.
        parameters: what was chosen, as dotted keys and text.
        tags: facts beside it.
        metrics: finite numbers, each key and step once; epochs first.
    """

    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: tuple[Metric, ...] = ()


class Records(NamedTuple):
    """A run folder: the study, and a row for each pre-training, model and seed.

    Attributes:
        id: 16 hexadecimal digits: the same for the same parameters, data and shifts, wherever the
            folder lies, and whenever, on what and with what versions it was made.
        description: the study's own.
        started, ended: when it began and when its last step was done, in milliseconds since 1970.
        study: settings of all models, and the provenance as tags.
        parts: pre-trainings, then models in the order of scores.csv.
        files: what goes along, relative to the folder.
    """

    id: str
    description: str
    started: int
    ended: int
    study: Record
    parts: tuple[Record, ...]
    files: tuple[str, ...]


def read_records(run: RunFolder) -> Records:
    """Read what a tracker gets of a run folder: the same records for the same files.

    Raises:
        InputError: the run is not finished, or a file of it is damaged.
    """
    for name in (*NEEDED, MANIFEST):
        if not run.file(name).is_file():
            raise InputError(f"{run.path} has no {name}: only a finished run can be tracked")
    study = read_yaml(run.path / "study.yaml")
    facts = read_json(run.path / "provenance.json")
    lasting = {key: fact for key, fact in facts.items() if key not in _CIRCUMSTANCES}
    models, starts = study.pop("models"), study.pop("pretraining", None) or {}
    described = Record(study["name"], _texts(study), _texts({"provenance": facts}))
    parts = (
        *_pretrainings(run, starts, study["seeds"]),
        *_models(run, models, study["seeds"], [shift["name"] for shift in facts["shifts"]]),
    )
    # Parameters cannot be changed once they are sent: others make another id.
    own = [lasting, *((part.name, part.parameters) for part in (described, *parts))]
    return Records(
        id=fingerprint({"records": own}),
        description=study.get("description") or "",
        started=int(datetime.fromisoformat(facts["time"]).timestamp() * 1000),
        ended=(run.path / MANIFEST).stat().st_mtime_ns // 10**6,
        study=described,
        parts=parts,
        files=_files(run),
    )


def score_metrics(scores: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Name the scores that a tracker gets: model, seed, key and value, one row a number.

    A key is `METRIC/SHIFT`, with `/LEVEL` where there is one; ` low` and ` high` behind it are the
    bounds of the 95 % interval, and ` sd` the standard deviation over seeds, which stands with the
    seed `mean`. Metrics that are not in `FOLLOWED` are left out for single shifts, and numbers that
    are not finite always.

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
    kept = scores[~scores["shift"].isin(swept) | scores["metric"].isin(FOLLOWED)]
    level = ("/" + kept["level"]).where(kept["level"] != _NO_LEVEL, "")
    text = kept["metric"] + "/" + kept["shift"] + level
    kept = kept.assign(key=text.map(allowed_names(text.unique())))
    spread = kept["seed"] == _SPREAD
    of_seeds = kept[spread].assign(seed=_MEAN, key=kept["key"] + " sd")
    parts = [
        kept[~spread],
        *(kept[~spread].assign(value=kept[end], key=kept["key"] + f" {end}") for end in _BOUNDS),
        of_seeds,
    ]
    # A stable sort by the rows' own numbers: what belongs together stands together.
    numbers = pd.concat(parts).sort_index(kind="stable")[["model", "seed", "key", "value"]]
    return numbers[np.isfinite(numbers["value"])]


def _models(
    run: RunFolder,
    models: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    swept: Sequence[str],
) -> Iterator[Record]:
    numbers = score_metrics(run.scores, swept)
    for row, rows in numbers.groupby(["model", "seed"], sort=False):
        model, seed = map(str, row)
        base, _, variant = model.partition("+")
        entry = dict(models[base])
        # All seeds together have the recipe of the first, as in the report.
        first = seed if seed.isdigit() else seeds[0]
        trained = run.file(f"models/{base}/seed-{first}/model.json")
        if trained.is_file():  # a sweep may have changed the study's recipe
            entry["recipe"] = read_json(trained)["recipe"]
        own = {"model": model, "seed": seed, **({"variant": variant} if variant else {})}
        epochs = () if variant else _epochs(run, f"models/{base}/seed-{seed}")
        scored = map(Metric, rows["key"], rows["value"], [0] * len(rows))
        tags = _texts({**own, "title": entry.get("title") or base})
        yield Record(f"{model}/seed-{seed}", _texts(entry | own), tags, (*epochs, *scored))


def _pretrainings(
    run: RunFolder, entries: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> Iterator[Record]:
    for name, entry in entries.items():
        for seed in seeds if entry.get("seed") is None else [entry["seed"]]:
            place = f"pretraining/{name}/seed-{seed}"
            if epochs := _epochs(run, place):
                own = {"pretraining": name, "seed": seed}
                tags = _texts({**own, "title": entry.get("title") or name})
                yield Record(place, _texts({**entry, **own}), tags, epochs)


def _epochs(run: RunFolder, folder: str) -> tuple[Metric, ...]:
    """The numbers of each epoch, as history.csv names them; none where nothing was trained."""
    path = run.file(f"{folder}/history.csv")
    if not path.is_file():
        return ()
    history = pd.read_csv(path)
    names = allowed_names(map(str, history.columns.drop("epoch")))
    return tuple(
        Metric(key, float(value), int(epoch))
        for column, key in names.items()
        for epoch, value in zip(history["epoch"], history[column], strict=True)
        if np.isfinite(value)
    )


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    flat = dict(flatten(facts))
    names = allowed_names(flat)
    return {names[key]: text for key, text in flat.items() if text}


def _files(run: RunFolder) -> tuple[str, ...]:
    drawn = [path for name in FOLDERS for path in sorted(run.file(name).glob("[!.]*"))]
    names = [*FILES, *(path.relative_to(run.path).as_posix() for path in drawn)]
    return tuple(name for name in names if run.file(name).is_file())

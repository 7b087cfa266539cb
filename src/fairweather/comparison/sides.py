"""The two sides of a comparison of runs: which models, which seeds, which shifted images."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.report.words import CLEAN, ENSEMBLE_SUFFIX, base_model, predictions_folder
from fairweather.runs import RunFolder, open_finished_run, read_json
from fairweather.types import ENSEMBLE, Predictions, shortest
from fairweather.yamlfile import read_yaml

_PLACE = re.compile(rf"^predictions/([^/]+)/seed-(\d+|{ENSEMBLE})/clean\.parquet$")


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: as it was asked for, the folder or FOLDER:MODEL.
        run: the folder.
        study, provenance: study.yaml and provenance.json as they stand.
        models: the seeds of each model that is compared, ascending, in the study's order; an
            ensemble is a model of its own, `NAME+ensemble`, with one seed of that name.
        everyone: the same of each model of the run.
    """

    name: str
    run: RunFolder
    study: Mapping[str, Any]
    provenance: Mapping[str, Any]
    models: Mapping[str, tuple[int | str, ...]]
    everyone: Mapping[str, tuple[int | str, ...]]

    def read(self, model: str, seed: int | str, cell: str) -> Predictions:
        """Read the predictions of a cell by the id of its shift.

        Raises `InputError` where they are missing or not those that the run wrote.
        """
        name = f"{predictions_folder(model, str(seed))}/{cell.replace('/', '__')}.parquet"
        if not self.run.holds(name):
            raise InputError(
                f"{self.run.path} has no predictions of {model}, seed {seed}, under {cell}: "
                "let the run finish first"
            )
        return self.run.read_predictions(name)


class Sweep(NamedTuple):
    """A shift at the levels that both sides have: the id of each by its level, ascending."""

    name: str
    title: str
    cells: Mapping[str, str]

    @property
    def is_attack(self) -> bool:
        """Say whether its images are made with each model: what an attack varies is epsilon."""
        return all(",epsilon=" in cell for cell in self.cells.values())


class Shared(NamedTuple):
    """The shifts of both sides, and the ids of the shifted images that only one of them has."""

    sweeps: tuple[Sweep, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def split_side(asked: str | Path) -> tuple[str, str]:
    """Split FOLDER:MODEL; the model is empty for a folder, which may have a colon in its name.

    >>> split_side("runs/mine:basic"), split_side("runs/mine")
    (('runs/mine', 'basic'), ('runs/mine', ''))
    """
    name = str(asked)
    folder, colon, model = name.rpartition(":")
    return (folder, model) if colon and not Path(name).is_dir() else (name, "")


def open_side(asked: str | Path) -> Side:
    """Open a run folder, or one model of it as FOLDER:MODEL.

    Raises `InputError` where there is no run, nothing is predicted yet, or no such model, and where
    clean predictions of a model are not those that the run wrote.
    """
    folder, model = split_side(asked)
    run = open_finished_run(Path(folder))
    if not run.file("provenance.json").is_file():
        raise InputError(f"{run.path} has no provenance.json: nothing has been predicted yet")
    provenance = read_json(run.file("provenance.json"))
    written = run.file("study.yaml")
    study = read_yaml(written) if written.is_file() else {}
    _check_clean_predictions(run, study.get("models") or {})
    everyone = _predicted_models(run.path, list(study.get("models") or {}))
    if not everyone:
        raise InputError(f"{run.path} has no predictions of clean images: let the run finish first")
    if model and model not in everyone:
        raise unknown_name(f"model of {folder}", model, everyone)
    models = {model: everyone[model]} if model else everyone
    return Side(str(asked), run, study, provenance, models, everyone)


def pair_models(a: Side, b: Side) -> list[tuple[str, str]]:
    """Pair one model with one, or all by their names.

    Raises `InputError` where neither is possible, and for a model beside itself.
    """
    if len(a.models) == len(b.models) == 1:
        pairs = [(next(iter(a.models)), next(iter(b.models)))]
    elif set(a.models) == set(b.models):
        pairs = [(model, model) for model in a.models]
    else:
        raise InputError(
            f"the models cannot be paired by name: {a.name} has {', '.join(a.models)}, {b.name} "
            f"has {', '.join(b.models)}; name one of each as FOLDER:MODEL"
        )
    if same_run(a, b) and any(first == second for first, second in pairs):
        raise InputError(
            f"{a.name} and {b.name} are the same; two models of one run are compared as "
            "FOLDER:MODEL FOLDER:OTHER"
        )
    return pairs


def same_run(a: Side, b: Side) -> bool:
    """Say whether both sides are of one run folder."""
    return a.run.path.resolve() == b.run.path.resolve()


def prepared_otherwise(a: Side, b: Side) -> bool:
    """Say whether both are of one source, and the pixels differ by their size or its making.

    Each model of a comparison may be fed as its own configuration says; that the images are the
    same ones their keys and labels tell.
    """
    ours, theirs = (side.provenance["data"] for side in (a, b))
    notes = [data.get("notes", {}) for data in (ours, theirs)]
    one_source = notes[0].get("source") is not None and notes[0]["source"] == notes[1].get("source")
    made = [(each.get("size"), each.get("preparation")) for each in notes]
    if _test_digest(a) == _test_digest(b):
        return False  # whatever is said of their making, the pixels are the same
    return one_source and ours["classes"] == theirs["classes"] and made[0] != made[1]


def _test_digest(side: Side) -> str | None:
    digest: str | None = side.provenance["data"].get("digests", {}).get("test")
    return digest


def check_same_data(a: Side, b: Side) -> None:
    """Raise `InputError` unless both runs are on the same test images, each fed in its own way."""
    ours, theirs = (side.provenance["data"] for side in (a, b))
    digests = [_test_digest(side) for side in (a, b)]
    if digests[0] == digests[1] or prepared_otherwise(a, b):
        return
    what = [_describe_data(data) for data in (ours, theirs)]
    if what[0] != what[1]:
        differ = f"{a.name} is on {what[0]}, {b.name} on {what[1]}"
    else:
        short = [str(digest)[:12] for digest in digests]
        differ = f"both are on {what[0]}, but the digests of the test images differ, {short[0]} "
        differ += f"and {short[1]}: other files, another part of them, or prepared otherwise"
    raise InputError(f"the runs are not on the same test images: {differ}")


def share_cells(a: Side, b: Side) -> Shared:
    """Find the shifted images of both sides, by the id of the shift with all its parameters."""
    ours, theirs = (
        {cell["id"] for entry in side.provenance["shifts"] for cell in entry["cells"]}
        for side in (a, b)
    )
    sweeps = [_sweep(entry, theirs) for entry in a.provenance["shifts"]]
    return Shared(
        sweeps=tuple(sweep for sweep in sweeps if sweep.cells),
        only_a=tuple(sorted(ours - theirs)),
        only_b=tuple(sorted(theirs - ours)),
    )


def _sweep(entry: Mapping[str, Any], shared: set[str]) -> Sweep:
    cells = sorted(entry["cells"], key=lambda cell: float(cell["level"]))
    levels = {shortest(float(cell["level"])): cell["id"] for cell in cells if cell["id"] in shared}
    return Sweep(entry["name"], entry["title"], levels)


def _check_clean_predictions(run: RunFolder, models: Collection[str]) -> None:
    """Keep a model or a seed from going unnoticed because its clean predictions are gone."""

    def ours(name: str) -> bool:
        place = _PLACE.match(name)
        return place is not None and base_model(place[1]) in models

    if missing := run.check_files(ours):
        raise InputError(f"{run.path / missing[0]} is missing: let the run finish first")


def _predicted_models(path: Path, order: list[str]) -> dict[str, tuple[int | str, ...]]:
    """Find the models with predictions of clean images, in the study's order, variants beside."""
    seeds: dict[str, list[int]] = {}
    together: list[str] = []
    for file in path.glob(f"predictions/*/seed-*/{CLEAN}.parquet"):
        place = _PLACE.match(file.relative_to(path).as_posix())
        if place and place[2] == ENSEMBLE:
            together.append(place[1] + ENSEMBLE_SUFFIX)
        elif place:
            seeds.setdefault(place[1], []).append(int(place[2]))
    places = {name: place for place, name in enumerate(order)}
    everyone = [*seeds, *together]
    names = sorted(everyone, key=lambda name: (places.get(base_model(name), len(order)), name))
    return {name: tuple(sorted(seeds[name])) if name in seeds else (ENSEMBLE,) for name in names}


def _describe_data(data: Mapping[str, Any]) -> str:
    size = data.get("notes", {}).get("size")
    pixels = f", {' x '.join(map(str, size))} pixels" if size else ""
    return f"{data['name']} ({len(data['classes'])} classes{pixels})"

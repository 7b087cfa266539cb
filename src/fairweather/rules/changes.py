"""How much a metric changes from clean to shifted images, with the paired interval."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics import Estimate, Fitted, Resamples, fit_on, paired_difference
from fairweather.report.contents import Contents
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL, predictions_folder
from fairweather.rules.parsing import Rule
from fairweather.rules.places import ALL, SUMMARIES, Place
from fairweather.runs import RunFolder
from fairweather.scores import SPREAD, Key, estimate_metrics, with_means, with_worst
from fairweather.types import Predictions, Score

Estimated = Mapping[Place, Mapping[str, Estimate]]
_CLEAN = Place(CLEAN, NO_LEVEL)


def estimate_places(
    run: RunFolder,
    contents: Contents,
    model: str,
    wanted: Collection[Place],
    metrics: Collection[str],
) -> Estimated:
    """Estimate clean images and the wanted places again, on the same resamples as scores.csv.

    Of several seeds, these are the means over seeds. Raises `InputError` where predictions are
    missing, are not those that the run wrote, or were made of other images.
    """
    seeds = [seed for seed in contents.seeds_of(model) if seed != SPREAD]
    clean = _read(run, model, seeds[0], CLEAN)
    shared = Resamples.draw(clean.labels, contents.study["bootstrap"])
    cells = estimate_metrics(
        _sets(run, contents, model, seeds, wanted, clean.keys), shared, metrics
    )
    # What an attack varies is epsilon; scores.csv keeps attacks apart from the mean over shifts.
    apart = [
        sweep.name for sweep in contents.sweeps if ",epsilon=" in "".join(sweep.cells.values())
    ]
    table = with_worst(with_means(cells, apart), apart)
    shown = MEAN if len(seeds) > 1 else seeds[0]
    return {Place(*place): found for (_, seed, *place), found in table.items() if seed == shown}


def change_at(rule: Rule, model: str, place: Place, estimated: Estimated) -> Score:
    """Subtract shifted from clean, or clean from shifted for a rise, image by image."""
    found = [estimated.get(each, {}).get(rule.metric) for each in (_CLEAN, place)]
    clean, shifted = found
    if clean is None or shifted is None:
        raise InputError(
            f"the predictions of {model} do not give a {rule.change} of {rule.metric} for "
            f"{place.cell}: it is not a metric of one set of predictions"
        )
    if rule.change == "drop":
        return paired_difference(shifted, clean)
    return paired_difference(clean, shifted)


def _sets(
    run: RunFolder,
    contents: Contents,
    model: str,
    seeds: Sequence[str],
    wanted: Collection[Place],
    keys: npt.NDArray[np.int64],
) -> Iterator[tuple[Key, Predictions, Fitted | None]]:
    for seed in seeds:
        fitted = _fitted(run, f"{predictions_folder(model, seed)}/val.parquet")
        for place, cell in _ids(contents, wanted).items():
            predictions = _read(run, model, seed, cell)
            if not np.array_equal(keys, predictions.keys):
                raise InputError(
                    f"{_file(model, seed, cell)} is of other images than "
                    f"{_file(model, seeds[0], CLEAN)}"
                )
            yield (model, seed, *place), predictions, fitted


def _read(run: RunFolder, model: str, seed: str, cell: str) -> Predictions:
    name = _file(model, seed, cell)
    if not run.holds(name):
        raise InputError(f"{run.path} has no {name}: let the run finish first")
    return run.read_predictions(name)


def _file(model: str, seed: str, cell: str) -> str:
    return f"{predictions_folder(model, seed)}/{cell.replace('/', '__')}.parquet"


def _fitted(run: RunFolder, name: str) -> Fitted | None:
    return fit_on(run.read_predictions(name)) if run.holds(name) else None


def _ids(contents: Contents, wanted: Collection[Place]) -> dict[Place, str]:
    """The cells behind the wanted places, clean first."""
    summed = {place.shift for place in wanted if place.level in SUMMARIES}
    return {
        _CLEAN: CLEAN,
        **{
            place: cell
            for sweep in contents.sweeps
            for level, cell in sweep.cells.items()
            if (place := Place(sweep.name, level)) in wanted or summed & {sweep.name, ALL}
        },
    }

"""How much a metric changes from clean to shifted images, with the paired interval."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from fairweather.errors import InputError
from fairweather.metrics import (
    Estimate,
    Fitted,
    Resamples,
    bootstrap_weights,
    evaluate_resamples,
    fit_on,
    paired_difference,
)
from fairweather.report.contents import Contents
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL, predictions_folder
from fairweather.rules.parsing import Rule
from fairweather.rules.places import ALL, SUMMARIES, Place
from fairweather.runs import RunFolder
from fairweather.scores import SPREAD, Estimates, Key, with_means, with_worst
from fairweather.types import Score

Estimated = Mapping[Place, Mapping[str, Estimate]]
_CLEAN = Place(CLEAN, NO_LEVEL)


def estimate_places(
    run: RunFolder, contents: Contents, model: str, wanted: Collection[Place]
) -> Estimated:
    """Estimate clean images and the wanted places again, on the same resamples as scores.csv.

    Of several seeds, these are the means over seeds. Raises `InputError` where predictions are
    missing, are not those that the run wrote, or were made of other images.
    """
    seeds = [seed for seed in contents.seeds_of(model) if seed != SPREAD]
    cells = [cell for seed in seeds for cell in _cells(run, contents, model, seed, wanted)]
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


def _cells(
    run: RunFolder, contents: Contents, model: str, seed: str, wanted: Collection[Place]
) -> Iterator[tuple[Key, Estimates]]:
    folder = predictions_folder(model, seed)
    fitted = _fitted(run, f"{folder}/val.parquet")
    keys = None
    for place, cell in _ids(contents, wanted).items():
        name = f"{folder}/{cell.replace('/', '__')}.parquet"
        if not run.holds(name):
            raise InputError(f"{run.path} has no {name}: let the run finish first")
        predictions = run.read_predictions(name)
        if keys is None:
            keys = predictions.keys
            weights = bootstrap_weights(len(keys), contents.study["bootstrap"])
            resamples = Resamples.of(predictions.labels, weights)
        if not np.array_equal(keys, predictions.keys):
            raise InputError(f"{name} is of other images than the clean predictions beside it")
        yield (model, seed, *place), evaluate_resamples(predictions, resamples, fitted)


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

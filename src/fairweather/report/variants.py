"""Variants of models beside the model that each of them is one of."""

from __future__ import annotations

from collections.abc import Mapping

from fairweather.metrics import paired_change, paired_difference
from fairweather.record import ALL, CLEAN, MEAN, NO_LEVEL, base_model
from fairweather.report.contents import Contents
from fairweather.report.correctness import (
    Images,
    mean_estimates,
    read_correct,
    read_images,
    shared_cells,
)
from fairweather.report.performance import COVERAGE, RISK
from fairweather.report.section import Part, headed
from fairweather.report.tables import Entry, Row, Table, find_entry
from fairweather.types import Score

_OF_THRESHOLDS = (
    "Risk: the share of wrong answers among those at or above the threshold that keeps it to 5 % "
    "on validation images, clean ones or those under the shifts that fit_on lists. Coverage: the "
    "share of the images that is answered so. "
)


def variants_table(contents: Contents) -> Table | None:
    """Compare each variant with its own model on the same images; None where there is none.

    A change is variant − model, paired by images, and by seeds where both have the same number of
    them. Under the shifts it is over the levels that both were tested on.
    """
    pairs = [
        (name, base_model(name))
        for name in contents.titles
        if base_model(name) != name and base_model(name) in contents.titles
    ]
    if not pairs:
        return None
    images = read_images(contents)
    shifted = any(not sweep.is_attack for sweep in contents.sweeps)
    thresholds = any(contents.fitted_on(name) != (CLEAN,) for name, _ in pairs)
    deferred = [RISK, COVERAGE] if thresholds else []
    places = [("mean over shifts", ALL, MEAN)] if shifted else []
    places.append(("clean", CLEAN, NO_LEVEL))
    rows = []
    for base in dict.fromkeys(base for _, base in pairs):
        for name in (base, *(name for name, own in pairs if own == base)):
            entries = [
                entry
                for place, shift, level in places
                for entry in (
                    *_entries(contents, name, base, (place, shift, level), images),
                    *(find_entry(contents, each, name, shift, level) for each in deferred),
                )
            ]
            rows.append(Row(name, contents.titles[name], contents.titles[name], tuple(entries)))
    heads = ["accuracy (%)", "change (points)", "RMS calibration error"]
    keys = ["accuracy", "change of accuracy", "rms_calibration_error"]
    heads += ["risk", "coverage"] if deferred else []
    keys += deferred
    return Table(
        name="variants",
        caption=(
            "Each model, and its variants below it. Change: of the accuracy, variant − model, on "
            f"the same images. {_OF_THRESHOLDS if thresholds else ''}In brackets: "
            f"{contents.intervals}. {contents.sample()}."
        ),
        header=("Model", *(f"{p[0].capitalize()}: {head}" for p in places for head in heads)),
        keys=("model", *(f"{p[0]} {key}" for p in places for key in keys)),
        rows=tuple(rows),
    )


def _entries(
    contents: Contents, name: str, base: str, place: tuple[str, str, str], images: Images | None
) -> list[Entry | None]:
    """Accuracy, its change to the model's own, and calibration error in one place."""
    _, shift, level = place
    cells = {CLEAN: 1.0} if shift == CLEAN else shared_cells(contents, (name, base))
    change = None
    if images and cells and name != base:
        change = _change(contents, name, base, cells, images)
    return [
        find_entry(contents, "accuracy", name, shift, level),
        None if change is None else Entry(change, percent=True),
        find_entry(contents, "rms_calibration_error", name, shift, level),
    ]


def _change(
    contents: Contents, name: str, base: str, cells: Mapping[str, float], images: Images
) -> Score | None:
    """How much more often the variant is right than its model; None without predictions."""
    columns = [read_correct(contents, model, cells, images) for model in (base, name)]
    known = [each for each in columns if each is not None]
    if len(known) < len(columns):
        return None
    first, second = mean_estimates(known, contents.bootstrap, contents.clusters)
    alike = len(first.of_seeds) == len(second.of_seeds)
    return (paired_change if alike else paired_difference)(first, second)


PART = Part(headed("Variants beside their own model"), lambda contents: [variants_table(contents)])

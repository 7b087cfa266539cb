"""The tables of details.md, from the numbers that are stored beside it.

    python -m results.pacs.details    # writes them in their places, from the root of a clone

A unit is a recipe and a seed. A column of a table has a title, a suffix of the model, and a shift
and a metric of scores.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from results import adapted, pages

HERE = Path(__file__).parent
SKETCH = "natural/sketch"
THRESHOLD = "above_validation_threshold/0.05"
RMS = "rms_calibration_error"


def accuracies(title: str, shift: str) -> tuple[tuple[str, ...], ...]:
    """Give the columns of a table of accuracies on known kinds and on a domain held out."""
    return (
        ("Known kinds: accuracy (%)", "", "clean", "accuracy"),
        (f"{title}: accuracy (%)", "", shift, "accuracy"),
        (f"{title}: confidence − accuracy (points)", "", shift, "confidence_gap"),
        (f"{title} above the validation threshold (%)", "", shift, f"coverage_{THRESHOLD}"),
        ("Wrong among these (%)", "", shift, f"risk_{THRESHOLD}"),
        ("ATC estimate (%)", "", shift, "atc_accuracy"),
    )


UNITS = accuracies("Sketches", SKETCH)
CARTOONS = accuracies("Cartoons", "natural/cartoon")
METRICS = (adapted.CHANGE, RMS, f"risk_{THRESHOLD}", adapted.COVERED)
GUARD = {
    "known_answered": "Known kinds: answered (%)",
    "known_wrong": "Wrong among these (%)",
    "held_out_answered": "Held out: answered (%)",
    "held_out_wrong": "Wrong among these (%)",
    "p": "They differ: p",
    "estimate": "Estimated accuracy (%)",
}


def numbers(columns: Sequence[tuple[str, ...]], folder: str) -> dict[str, list[pd.Series]]:
    """Read value, low and high of each column for each trained network, by its unit."""
    found = {}
    for path in sorted((HERE / folder).glob("*.scores.csv.gz")):
        unit = path.name.partition(".")[0]
        scores = pd.read_csv(path).set_index(["model", "shift", "level", "metric"])
        model = unit.partition("-")[0]
        found[unit] = [
            scores.loc[(model + variant, shift, "none", metric)]
            for _, variant, shift, metric in columns
        ]
    return found


def of_units(columns: Sequence[tuple[str, ...]], folder: str) -> str:
    """Write a line for each trained network; in brackets 95 % intervals over images."""
    lines = [["Unit", *(column[0] for column in columns)]]
    for unit, cells in numbers(columns, folder).items():
        ends = [[f"{100 * cell[end]:.1f}" for end in ("value", "low", "high")] for cell in cells]
        lines.append([unit, *(f"{value} [{low}, {high}]" for value, low, high in ends)])
    return adapted.markdown(lines)


def of_guards() -> str:
    """Write what `predict --risk 5%` and `estimate` said of each network; cartoons come last."""
    with (HERE / "guard.csv").open(encoding="utf-8", newline="") as file:
        stored = list(csv.DictReader(file))
    lines = [[row["unit"], *(row[key] for key in GUARD)] for row in stored]
    return adapted.markdown([["Unit", *GUARD.values()], *lines])


def of_means(networks: Sequence[pd.DataFrame], metrics: Sequence[str]) -> str:
    """Write means over networks, or the numbers of one, without what batch norm does alone."""
    rows = adapted.over_networks(networks) if len(networks) > 1 else networks[0]
    shown = adapted.leave_out_repeats(rows.assign(unit="all"))
    return "\n".join(adapted.tables(shown, metrics))


def blocks() -> dict[str, str]:
    """Give what stands between the lines of details.md that mark places."""
    stored = adapted.read_folder(HERE / "adapted")
    measured = {metric for rows in stored.values() for metric in rows["metric"]}
    alone = [name for name in (adapted.CHANGE, adapted.COVERED) if name in measured]
    cartoons = adapted.read(HERE / "cartoon" / "adapted.csv")
    return {
        "units": of_units(UNITS, "units"),
        "guards": of_guards(),
        "means": of_means(list(stored.values()), METRICS),
        "networks": "\n".join(adapted.by_network(stored, metric) for metric in alone),
        "cartoons": of_units(CARTOONS, "cartoon"),
        "adapted on cartoons": of_means([cartoons], (adapted.CHANGE,)),
    }


def main() -> None:
    """Put each table into its place on the page."""
    pages.write_blocks(HERE / "details.md", blocks())


if __name__ == "__main__":
    main()

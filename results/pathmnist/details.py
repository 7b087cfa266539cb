"""The tables of adapting in details.md, from the numbers that are stored beside it.

    python -m results.pathmnist.details    # writes them in their places, from the root of a clone

A unit is a recipe, the length of its training and a seed: `basic-80-s0`. Further units, measured by
results/adapted.py, are read by themselves.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from results import adapted, pages

HERE = Path(__file__).parent
RISK = "risk_above_validation_threshold/0.05"
CELLS = (adapted.CHANGE, adapted.RMS_CHANGE, RISK, adapted.COVERED)


def title(unit: str) -> str:
    """Write the recipe, the epochs and the seed of a unit."""
    model, *length, seed = unit.split("-")
    name, published = pages.RECIPES[model]
    return f"{name}, {published if length else 8} epochs, seed {seed.removeprefix('s')}"


def units() -> list[str]:
    """Name the trainings of both recipes, the longer ones first."""
    return [
        path.name
        for longer in (True, False)
        for model in pages.RECIPES
        for path in pages.find_units(model, longer=longer)
    ]


def batch_norm(unit: str) -> list[tuple[pd.Series, pd.Series]]:
    """Read each mean of `pages.MEANS` over all test images, as trained and with batch norm."""
    model = unit.partition("-")[0]
    scores = pd.read_csv(HERE / "units" / f"{unit}.scores.csv.gz", dtype={"level": str})
    scores = scores.set_index(["model", *pages.KEY])
    keys = [(column.shift, column.level, column.metric) for column in pages.MEANS]
    return [(scores.loc[(model, *key)], scores.loc[(f"{model}+batchnorm", *key)]) for key in keys]


def of_batch_norm() -> str:
    """Write what batch norm of the batch does to each training."""
    lines = [["As trained → adapted", *pages.HEADS]]
    for unit in units():
        pairs = zip(pages.MEANS, batch_norm(unit), strict=True)
        told = [
            " → ".join(column.write(column.scale * cell["value"]) for cell in pair)
            for column, pair in pairs
        ]
        lines.append([title(unit), *told])
    return adapted.markdown(lines)


def networks() -> dict[str, pd.DataFrame]:
    """Read the networks that were adapted by each method, all of published length."""
    stored = adapted.read_folder(HERE / "adapted")
    return {title(unit): rows for unit, rows in stored.items()}


def name_cell(shift: str, level: str) -> str:
    """Write the state of the images of a cell."""
    return f"{pages.LEVELS[shift][0]} = {level}" if shift in pages.LEVELS else "no further shift"


def of_shifts() -> str:
    """Write what each method does under the published shifts, for each network that met them."""
    written = []
    for name, rows in networks().items():
        is_shifted = rows["shift"] != "clean"
        if not is_shifted.any():
            continue
        tried = rows.loc[is_shifted, ["method", "protocol"]].drop_duplicates()
        shown = rows.merge(tried, on=["method", "protocol"]).assign(unit=name)
        (order,) = set(shown["protocol"]) - {""}
        shown["state"] = shown[["shift", "level"]].apply(lambda cell: name_cell(*cell), axis=1)
        written.append(f"{name}, {order}:\n")
        for metric in CELLS:
            own = adapted.leave_out_repeats(shown[shown["metric"] == metric])
            written.append(
                adapted.grid(adapted.METRICS[metric].title, own.assign(protocol=""), "state")
            )
    return "\n".join(written)


def blocks() -> dict[str, str]:
    """Give what stands between the lines of details.md that mark places."""
    return {
        "batch norm": of_batch_norm(),
        "accuracy": adapted.by_network(networks(), "accuracy"),
        "calibration": adapted.by_network(networks(), pages.RMS),
        "errors": adapted.by_network(networks(), RISK),
        "shifts": of_shifts(),
    }


def main() -> None:
    """Put each table into its place on the page."""
    pages.write_blocks(HERE / "details.md", blocks())


if __name__ == "__main__":
    main()

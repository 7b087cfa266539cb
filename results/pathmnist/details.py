"""The tables of adapting in details.md, from the numbers that are stored beside it.

    python -m results.pathmnist.details    # writes them in their places, from the root of a clone

A unit is a recipe, the length of its training and a seed: `basic-80-s0`. Further units, measured by
results/adapted.py, are read by themselves.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
from results import adapted, pages

HERE = Path(__file__).parent
COVERAGE, RISK = (f"{name}_above_validation_threshold/0.05" for name in ("coverage", "risk"))
HOSPITAL = ("accuracy", adapted.CHANGE, pages.RMS, COVERAGE, RISK)
CELLS = (adapted.CHANGE, adapted.RMS_CHANGE, RISK, adapted.COVERED, adapted.COLLAPSED)
ALONE = (adapted.COVERED, "conformal_set_size", adapted.COLLAPSED, "forward", "backward")


def title(unit: str) -> str:
    """Write the recipe, the epochs and the seed of a unit."""
    model, *length, seed = unit.split("-")
    name, published = pages.RECIPES[model]
    epochs = {"80": published}.get(length[0], length[0]) if length else 8
    return f"{name}, {epochs} epochs, seed {seed.removeprefix('s')}"


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


def name_cell(shift: str, level: str) -> str:
    """Write the state of the images of a cell."""
    if shift in pages.LEVELS:
        return f"{pages.LEVELS[shift][0]} = {level}"
    return "no further shift" if shift == "clean" else "no further shift, afterwards"


def grid(corner: str, rows: pd.DataFrame, names: pd.Series) -> str:
    """Write a line for each method and protocol, and a column for each name."""
    texts = {
        (cell["method"], cell["protocol"], name): adapted.write(cell)
        for name, (_, cell) in zip(names, rows.iterrows(), strict=True)
    }
    columns = list(dict.fromkeys(names))
    lines = [[corner, "Protocol", *columns]]
    for method, protocol in itertools.product(
        (adapted.PLAIN, *adapted.METHODS), ("", *adapted.PROTOCOLS)
    ):
        told = [texts.get((method, protocol, name), "") for name in columns]
        if any(told):
            lines.append([adapted.METHODS.get(method, method), protocol, *told])
    return adapted.markdown(lines)


def of_network(rows: pd.DataFrame) -> list[str]:
    """Write what is known of a network: each protocol, its sets and its cost, and each shift."""
    is_shifted = rows["shift"] != "clean"
    alone = rows[~is_shifted & ~rows["protocol"].str.startswith("continual")]
    written = adapted.tables(alone, HOSPITAL)
    costs = alone[alone["metric"].isin(ALONE)]
    if len(costs):
        titles = costs["metric"].map(lambda metric: adapted.METRICS[metric].title)
        written.append(grid("Without a further shift", costs, titles))
    tried = rows.loc[is_shifted, ["method", "protocol"]].drop_duplicates()
    shown = rows.merge(tried, on=["method", "protocol"])
    for metric in CELLS if len(tried) else ():
        own = shown[shown["metric"] == metric]
        names = own[["shift", "level"]].apply(lambda cell: name_cell(*cell), axis=1)
        written.append(grid(adapted.METRICS[metric].title, own, names))
    return written


def of_networks() -> str:
    """Write the tables of each network."""
    stored = adapted.read_folder(HERE / "adapted")
    parts = [[f"#### {title(unit)}\n", *of_network(rows)] for unit, rows in stored.items()]
    return "\n".join(text for part in parts for text in part)


def blocks() -> dict[str, str]:
    """Give what stands between the lines of details.md that mark places."""
    return {"adapted": of_networks(), "batch norm": of_batch_norm()}


def main() -> None:
    """Put each table into its place on the page."""
    pages.write_blocks(HERE / "details.md", blocks())


if __name__ == "__main__":
    main()

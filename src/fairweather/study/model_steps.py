"""The trainings of a model: a sweep, kept as a table, and then every seed."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import pandas as pd

from fairweather.errors import TrainingDivergedError
from fairweather.progress import Event
from fairweather.study.context import Context
from fairweather.study.entries import ModelEntry
from fairweather.study.training_plans import Training, planned, seed_title, training_inputs
from fairweather.study.training_steps import FILES, PROBED, SELECTED, train_step


def trainings(context: Context, name: str, entry: ModelEntry) -> Iterator[Event]:
    """Train a model of the study with every seed, its sweep first."""
    chosen = (yield from _sweep(context, name, entry)) if entry.sweep else None
    recipe = chosen.recipe if chosen else entry.recipe
    for seed in context.study.seeds:
        folder = f"models/{name}/seed-{seed}"
        title = seed_title(context, name, seed)
        training = planned(context, entry, folder, title, recipe, seed)
        if chosen and chosen.seed == seed:
            _adopt(context, chosen, training)
        yield from train_step(context, training)


def _sweep(context: Context, name: str, entry: ModelEntry) -> Generator[Event, None, Training]:
    """Train every try with the first seed; returns the one that validation chooses."""
    tries = [
        planned(
            context,
            entry,
            f"models/{name}/sweep/try-{number}",
            f"{entry.title}, try {number} of {len(entry.tries())}",
            recipe,
            context.study.seeds[0],
        )
        for number, (_, recipe) in enumerate(entry.tries(), start=1)
    ]
    rows: list[dict[str, Any]] = []
    for number, (training, (values, _)) in enumerate(zip(tries, entry.tries(), strict=True), 1):
        try:
            yield from train_step(context, training)
        except TrainingDivergedError as error:
            rows.append({"try": number, **values, "diverged": str(error)})
            continue
        facts = json.loads((context.run.path / training.folder / "model.json").read_text())
        rows.append({"try": number, **values, **{key: facts[key] for key in SELECTED}})
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))
    if "val_loss" not in table:
        raise TrainingDivergedError(f"every try of {entry.title} diverged; {rows[-1]['diverged']}")
    by_accuracy = entry.sweep_metric == "accuracy"
    ranked = table.assign(val_accuracy=-table["val_accuracy"]).dropna(subset=["val_loss"])
    order = ["val_accuracy", "val_loss"] if by_accuracy else ["val_loss"]
    chosen = int(ranked.sort_values(order, kind="stable").index[0])
    table["chosen"] = table.index == chosen
    context.run.write(f"models/{name}/sweep.csv", table.to_csv(index=False))
    return tries[chosen]


def _adopt(context: Context, source: Training, target: Training) -> None:
    """Take over what a try of a sweep has trained already with the same recipe and seed."""
    run, inputs = context.run, training_inputs(context, target)
    if not run.is_done(target.folder, inputs):
        probed = (run.path / source.folder / PROBED).is_file()
        names = [*FILES, *([PROBED] if probed else [])]
        for name in names:
            content = (run.path / source.folder / name).read_bytes()
            run.write(f"{target.folder}/{name}", content)
        run.finish(target.folder, inputs, [f"{target.folder}/{name}" for name in names])

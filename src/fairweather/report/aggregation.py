"""What the page says of how the images of a patient, or another unit, become one decision."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from fairweather.metrics.aggregates import find_aggregate
from fairweather.report.contents import Contents, join_name
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import TableLayout, TextTable
from fairweather.types.options import Aggregation
from fairweather.types.record import ENSEMBLE


def _list_choices(contents: Contents) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Title, seed, chosen aggregate and losses of each model, where several were tried."""
    for label, run in contents.runs.items():
        record = run.record
        for model, described in record.models.items():
            seeds: list[int | str] = [*record.seeds, *([ENSEMBLE] if record.ensemble else [])]
            for seed in seeds:
                chosen = run.choose_aggregate(model, seed)
                title = contents.titles.get(join_name(label, model), described.title)
                yield title, str(seed), chosen.name, dict(chosen.losses)


def _make_tables(contents: Contents) -> Iterator[TextTable]:
    """The table of choices; none if one aggregate was named."""
    aggregation = contents.aggregation
    if aggregation is None or len(aggregation.names) == 1:
        return
    choices = list(_list_choices(contents))
    body = [
        [title, seed, chosen, *(f"{losses[name]:.4f}" for name in aggregation.names)]
        for title, seed, chosen, losses in choices
    ]
    frame = pd.DataFrame(
        [[title, seed, chosen, *losses.values()] for title, seed, chosen, losses in choices],
        columns=["model", "seed", "aggregate", *(f"nll/{name}" for name in aggregation.names)],
    )
    layout = TableLayout(("Model", "Seed", "Aggregate", *aggregation.names), words=3)
    below = (
        "The aggregate with the smallest negative log-likelihood (nats) of clean validation "
        f"{aggregation.plural}. Test {aggregation.plural} have no part in the choice."
    )
    yield TextTable("aggregates", layout, body, [below], frame)


def _show(contents: Contents, tables: Tables) -> PartView | None:
    aggregation = contents.aggregation
    if aggregation is None:
        return None
    unit = aggregation.unit
    notes = describe_aggregation(aggregation)
    notes.append(f"A picture shows the image of a {unit} that decides most.")
    return PartView(f"One decision for each {unit}", tables, notes=notes)


def describe_aggregation(aggregation: Aggregation) -> list[str]:
    """Say how the images of a unit become one decision."""
    unit, names = aggregation
    said = [f"Each {unit} is judged once, by its images together, and counts once."]
    if len(names) == 1:
        said.append(f"The probability is {find_aggregate(names[0]).description} ({names[0]}).")
    return said


AGGREGATION = ReportPart(_show, _make_tables, accepts=None)

"""Each unit of a task by itself, such as each finding: its numbers beside those of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fairweather.metrics.table import shown_metrics
from fairweather.record import is_of_all_units
from fairweather.report.contents import Contents, ensembles_as_models
from fairweather.report.section import Part, headed
from fairweather.report.summary import states
from fairweather.report.tables import Table, by_model, describe_metric, interval_note, told_of


def unit_views(contents: Contents) -> Mapping[str, Contents]:
    """The scores of each unit, by what is added to the title of a model; of a single run."""
    if len(contents.runs) != 1:
        return {}
    (run,) = contents.runs.values()
    rows = ensembles_as_models(run.unit_scores)
    if "unit" not in rows:
        return {}
    return {
        f", {unit}": replace(contents, scores=own.drop(columns="unit").reset_index(drop=True))
        for unit, own in rows.groupby("unit", sort=False)
        if not is_of_all_units(str(unit))
    }


def _tables(contents: Contents) -> Iterator[Table | None]:
    if views := unit_views(contents):
        for metric in shown_metrics(2):
            what = f"{describe_metric(metric)} of each by itself, where its label is known"
            caption = told_of(contents, what, interval_note(metric))
            yield by_model(f"units_{metric}", caption, states(contents, metric), contents, views)


PART = Part(headed("Each unit by itself"), _tables, accepts=None)

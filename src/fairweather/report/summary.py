"""The summary: clean images and the mean of each shift, and each class against all others."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from fairweather.metrics.class_metrics import CLASS_METRICS
from fairweather.metrics.table import shown_metrics
from fairweather.record import CLEAN, MEAN, NO_LEVEL
from fairweather.report.contents import Contents
from fairweather.report.section import Part, Shown, Tables, headed
from fairweather.report.tables import (
    Column,
    Row,
    Table,
    by_model,
    column_key,
    describe_metric,
    find_defined,
    interval_note,
    told_of,
)
from fairweather.report.training_figures import labels_figure


def summary_rows(contents: Contents) -> pd.DataFrame:
    """Return the rows of scores.csv that the summary tables show."""
    return contents.find(
        (metric, model, column.shift, column.level)
        for metric in shown_metrics(2)
        for model in contents.titles
        for column in states(contents, metric)
    )


def _summaries(contents: Contents) -> Iterator[Table | None]:
    shifts = "; for each shift, the mean over its levels" if contents.sweeps else ""
    for metric in shown_metrics(2):
        subject = f"{describe_metric(metric)} on the clean test images{shifts}"
        caption = told_of(contents, subject, interval_note(metric))
        yield by_model(f"summary_{metric}", caption, states(contents, metric), contents)


def states(contents: Contents, metric: str) -> list[Column]:
    """The columns of a summary: clean images, and the mean over the levels of each shift."""
    every = [("Clean", CLEAN, NO_LEVEL)]
    every += [(sweep.title, sweep.name, MEAN) for sweep in contents.sweeps]
    return [
        Column(title, column_key(shift, level), metric, shift, level)
        for title, shift, level in every
    ]


def _shown(_: Contents, tables: Tables) -> Shown:
    return Shown(tables=tables, facts={"figures": ["labels"]})


SUMMARY = Part(_shown, _summaries, lambda contents: [labels_figure(contents)], accepts=None)


# ---- single classes


def _classes(contents: Contents) -> Iterator[Table]:
    """Build one table of all classes and operating points on clean images, if there are some."""
    beginning = f"{next(iter(CLASS_METRICS))}/"
    metrics = contents.scores["metric"][contents.scores["shift"] == CLEAN].unique()
    named = [each.removeprefix(beginning) for each in metrics if each.startswith(beginning)]
    if not named:
        return
    caption = (
        "Each class against all others on the clean test images; n: the images of the class. "
        + " ".join(f"{kind.label}: {kind.formula}." for kind in CLASS_METRICS.values())
        + " A class is called where it is the most probable one; behind @, where its probability "
        f"is at least that. In brackets: {contents.intervals}, for as many images as the number is "
        f"a share of. {contents.sample()}."
    )
    yield Table(
        name="classes",
        caption=caption,
        header=("Class", *(kind.label for kind in CLASS_METRICS.values())),
        keys=("class", *CLASS_METRICS),
        rows=tuple(
            _class_row(contents, model, title, name)
            for model, title in contents.titles.items()
            for name in named
        ),
    )


def _class_row(contents: Contents, model: str, title: str, name: str) -> Row:
    of_class = [f"{kind}/{name}" for kind in CLASS_METRICS]
    whose = f"{title}: {name}" if len(contents.titles) > 1 else name
    scores = [contents.score(metric, model, CLEAN, NO_LEVEL) for metric in of_class]
    images = next((each.n for each in scores if each), 0)
    shown = tuple(find_defined(contents, metric, model, CLEAN, NO_LEVEL) for metric in of_class)
    return Row(f"{model}/{name}", whose, f"{whose} (n = {images:,})", shown)


CLASSES = Part(headed("Each class against all others"), _classes)

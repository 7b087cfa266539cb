"""The training section: charts of the epochs, times, pre-trainings, recipes and sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import altair as alt
import pandas as pd
from pydantic import JsonValue

from fairweather.record import base_model
from fairweather.report.contents import Contents
from fairweather.report.figures import (
    DASHED,
    ROW_WIDTH,
    WHOLE,
    Figure,
    either,
    printed,
    render,
)
from fairweather.report.how import flatten
from fairweather.report.page.drawing import (
    FOCUS,
    LOUD,
    ROWS,
    model_color,
    records,
    spec_of,
    tooltip,
)
from fairweather.report.picture_figures import mixup_figure
from fairweather.report.section import Chart, Part, Shown, Tables
from fairweather.report.tables import ABSENT
from fairweather.report.training_figures import (
    correlation_figure,
    pretraining_figure,
)
from fairweather.report.training_files import (
    read_histories,
    read_recipes,
    read_starts,
    read_times,
    read_tries,
)

# The charts: the name, what is drawn, and the title and the format of its axis.
TRACED = (
    ("accuracy", "accuracy", "Accuracy", ".0%"),
    ("loss", "loss", "Loss", ".3~g"),
    ("rate", "learning rate", "Learning rate of the head", ".1~e"),
)


def training_charts(contents: Contents) -> dict[str, Chart]:
    """Draw accuracy, loss and learning rate of each epoch, by what is drawn."""
    history = read_histories(contents)
    known = set(history["what"])
    return {
        name: _training_chart(contents, history, what, title, form)
        for name, what, title, form in TRACED
        if what in known
    }


def _training_chart(
    contents: Contents, history: pd.DataFrame, what: str, title: str, form: str
) -> Chart:
    rows = history[history["what"] == what].drop(columns="what")
    rows = rows.assign(text=[_epoch_in_words(what, value) for value in rows["value"]])
    last = int(rows["epoch"].max())
    epochs = list(range(1, last + 1, max(1, last // 8)))
    log = what == "learning rate" and bool((rows["value"] > 0).all())
    axis = alt.Axis(format=form, tickCount=5)
    if what == "accuracy":
        axis.tickMinStep = 0.01
    scale = alt.Scale(type="log") if log else alt.Scale(zero=what == "learning rate")
    dash = WHOLE if what == "learning rate" else DASHED
    line = (
        alt.Chart(ROWS)
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=epochs, format="d")),
            y=alt.Y("value:Q", title=title, axis=axis, scale=scale),
            color=model_color(contents),
            strokeDash=alt.StrokeDash(
                "part:N",
                scale=alt.Scale(domain=["validation", "training"], range=[WHOLE, dash]),
                legend=None,
            ),
            detail=alt.Detail("seed:N"),
            opacity=either(alt.OpacityValue, LOUD, 1, 0.12),
            tooltip=tooltip(
                ("title", "Model"),
                ("seed", "Seed"),
                ("epoch", "Epoch"),
                ("part", "Split"),
                ("text", title),
            ),
        )
        .properties(width="container", height=230)
        .add_params(FOCUS)
    )
    seeds = "one line for each model, seed and split"
    return Chart(
        f"training-{what.replace(' ', '-')}",
        f"{title} against the epoch, {seeds}. models/*/history.csv holds the same numbers.",
        spec_of(line) | {"datasets": {"rows": records(rows)}},
    )


def training_figure(contents: Contents) -> Figure | None:
    """Draw training and validation accuracy of each epoch, one panel a model, one line a seed."""
    chart = training_charts(contents).get("accuracy")
    if chart is None:
        return None
    rows = chart.spec["datasets"]["rows"]
    trained, seeds = ({row[key] for row in rows} for key in ("title", "seed"))
    titles = [title for title in contents.titles.values() if title in trained]
    columns = min(len(titles), 4 if len(titles) != 4 else 2)
    width = (ROW_WIDTH - 30 * (columns - 1)) // columns
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=400)
    header = {"title": None, "labelLimit": ROW_WIDTH // columns, "labelAnchor": "start"}
    facet = {"field": "title", "type": "nominal", "sort": titles, "header": header}
    panel = printed(chart.spec, "part", legend, width=width, height=210)
    data = panel.pop("data")
    several = len(seeds) > 1
    note = f"one line for each of seeds {', '.join(contents.seeds)}" if several else "one run each"
    measured = "Training accuracy: on up to 10,000 clean training images, at the end of each epoch."
    return render(
        "training_curves",
        {"data": data, "facet": facet, "columns": columns, "spacing": 30, "spec": panel},
        alt.Title("Training and validation accuracy", subtitle=[f"By epoch; {note}.", measured]),
        "Training and validation accuracy against the epoch. "
        f"{measured} One panel for each of: {'; '.join(titles)}.",
    )


def _epoch_in_words(what: str, value: float) -> str:
    return f"{100 * value:.1f} %" if what == "accuracy" else f"{value:.4g}"


def settings(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Name each setting that has an effect for some model, with its value for every model."""
    recipes, starts = read_recipes(contents), read_starts(contents)
    models = []
    for name in contents.titles:
        base = base_model(name)
        entry: dict[str, object] = dict(contents.models[base].settings)
        recipe = _effective(recipes.get(base, {}))
        tuning = {key: entry.pop(key, None) for key in ("sweep", "sweep_metric")}
        start = {"started_from": starts.get(base, {})} if starts else {}
        described = entry | start | {"recipe": recipe} | (tuning if tuning["sweep"] else {})
        models.append(dict(flatten(described)))
    keys = dict.fromkeys(key for model in models for key in model)
    # Where some models have parts of a setting, these parts show that the others have none of it.
    parents = {key.rpartition(".")[0] for key in keys}
    for key in (key for key in keys if key not in parents):
        yield key, [model.get(key, ABSENT) for model in models]


def _effective(recipe: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Leave out settings that have no effect beside the others, and write rotation as one."""
    schedule = recipe.get("schedule")
    idle = {
        "momentum": recipe.get("optimizer") != "sgd",
        "schedule_gamma": schedule not in ("exponential", "step"),
        "schedule_step": schedule != "step",
    }
    kept = {key: value for key, value in recipe.items() if not idle.get(key)}
    match kept.get("rotation"):
        case {"degrees": degrees, "probability": probability}:
            kept["rotation"] = f"{degrees:g}°, p = {probability:g}"
    return kept


def _figures(contents: Contents) -> Iterator[Figure | None]:
    yield training_figure(contents)
    yield mixup_figure(contents.samples) if contents.samples else None
    yield pretraining_figure(contents)
    yield correlation_figure(contents)


def _shown(contents: Contents, _: Tables) -> Shown:
    charts, times = training_charts(contents), read_times(contents)
    facts = {
        "training": charts,
        "times": times,
        "trained": {each.title for each in times},
        "timed": any(each.time != ABSENT for each in times),
        "settings": list(settings(contents)),
        "tries": read_tries(contents),
    }
    return Shown(charts=list(charts.values()), template="training.html.j2", facts=facts)


PART = Part(_shown, figures=_figures)

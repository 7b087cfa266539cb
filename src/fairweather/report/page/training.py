"""Charts of how models were trained."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fairweather.report import figures
from fairweather.report.contents import Contents
from fairweather.report.page.drawing import (
    FOCUS,
    LOUD,
    Chart,
    model_color,
    records,
    spec_of,
    tooltip,
)
from fairweather.report.trained import read_histories


def training_charts(contents: Contents) -> dict[str, Chart]:
    """Draw accuracy, loss and learning rate of each epoch, by what is drawn."""
    history = read_histories(contents)
    if history.empty:
        return {}
    return {
        "accuracy": _training(contents, history, "accuracy", "Accuracy", ".0%"),
        "loss": _training(contents, history, "loss", "Loss", ".3~g"),
        "rate": _training(contents, history, "learning rate", "Learning rate of the head", ".0e"),
    }


def _training(contents: Contents, history: pd.DataFrame, what: str, title: str, form: str) -> Chart:
    rows = history[history["what"] == what].drop(columns="what")
    rows = rows.assign(text=[_in_words(what, value) for value in rows["value"]])
    last = int(rows["epoch"].max())
    epochs = list(range(1, last + 1, max(1, last // 8)))
    log = what == "learning rate" and bool((rows["value"] > 0).all())
    scale = alt.Scale(type="log") if log else alt.Scale(zero=what == "learning rate")
    dash = figures.WHOLE if what == "learning rate" else figures.DASHED
    line = (
        alt.Chart(alt.Data(values=records(rows)))
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=epochs, format="d")),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(format=form, tickCount=5), scale=scale),
            color=model_color(contents),
            strokeDash=alt.StrokeDash(
                "part:N",
                scale=alt.Scale(domain=["validation", "training"], range=[figures.WHOLE, dash]),
                legend=None,
            ),
            detail="seed:N",
            opacity=alt.condition(LOUD, alt.value(1), alt.value(0.12)),
            tooltip=tooltip(
                ("title", "Model"),
                ("seed", "Seed"),
                ("epoch", "Epoch"),
                ("part", "Part"),
                ("text", title),
            ),
        )
        .properties(width="container", height=230)
        .add_params(FOCUS)
    )
    seeds = "one line a model, seed and part"
    return Chart(
        f"training-{what.replace(' ', '-')}",
        f"{title} against the epoch, {seeds}. models/*/history.csv holds the same numbers.",
        spec_of(line),
    )


def _in_words(what: str, value: float) -> str:
    return f"{100 * value:.1f} %" if what == "accuracy" else f"{value:.4g}"

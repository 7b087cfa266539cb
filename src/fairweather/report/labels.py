"""A figure of how far the labels go: accuracy by how many there are, by what models start from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from fairweather.report.contents import Contents
from fairweather.report.figures import Figure, model_color, model_shape, render
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL

PANEL_WIDTH, PANEL_HEIGHT = 240, 220
COLUMNS = 3
SUBTITLE = 130  # characters of a line


def labels_figure(contents: Contents) -> Figure | None:
    """Draw accuracy against the labels that models had, a panel for clean images and each shift.

    None where all models have the same labels, and where two models with the same labels start from
    the same: there, other things differ that this figure does not show. Variants are left out.
    """
    models = dict(contents.study["models"])
    settings = {name: _setting(entry) for name, entry in models.items()}
    order = sorted(set(settings.values()), key=_order)
    if len(order) < 2:
        return None
    starts = {name: _start(contents, entry) for name, entry in models.items()}
    if len({(settings[name], starts[name]) for name in models}) < len(models):
        return None
    titles = list(dict.fromkeys(starts.values()))
    columns = [("Clean", CLEAN, NO_LEVEL)]
    columns += [(sweep.title, sweep.name, MEAN) for sweep in contents.sweeps]
    panels = []
    for title, shift, level in columns:
        rows = contents.pick("accuracy", shift)
        rows = rows[(rows["level"] == level) & rows["model"].isin(models)]
        frame = rows.assign(
            labels=rows["model"].map({name: _words(each) for name, each in settings.items()}),
            title=rows["model"].map(starts),
        )
        if len(frame):
            shown = frame[["labels", "title", "value", "low", "high"]]
            panels.append(_panel(shown, [_words(each) for each in order], titles, title))
    return render(
        "labels",
        alt.concat(*panels, columns=COLUMNS, spacing=26),
        alt.Title(
            "How far the labels go",
            subtitle=textwrap.wrap(
                "Accuracy by the labels that the models had, and by the weights that they started "
                "from; for each shift the mean over its levels. Bars: 95 % intervals over images; "
                f"{contents.sample()}.",
                SUBTITLE,
                break_on_hyphens=False,
            ),
        ),
        "Accuracy against the labels at hand, on clean images and under each shift. Started from: "
        f"{'; '.join(titles)}. The summary table holds the same numbers.",
    )


def _setting(entry: Mapping[str, Any]) -> tuple[float, float]:
    return float(entry.get("label_fraction", 1)), float(entry.get("label_noise", 0))


def _order(setting: tuple[float, float]) -> tuple[float, float]:
    fraction, noise = setting
    return noise, fraction


def _words(setting: tuple[float, float]) -> str:
    fraction, noise = setting
    words = "all" if fraction == 1 else f"{100 * fraction:.3g} %"
    return f"{words}, {100 * noise:.2g} % redrawn" if noise else words


def _start(contents: Contents, entry: Mapping[str, Any]) -> str:
    weights = str(entry.get("weights", "none"))
    name = weights.removeprefix("pretraining:")
    starts = contents.study.get("pretraining") or {}
    if name != weights and name in starts:
        return str(starts[name]["title"])
    return "No pre-training" if weights == "none" else weights


def _panel(frame: pd.DataFrame, words: list[str], titles: list[str], title: str) -> alt.LayerChart:
    legend = alt.Legend(title=None, orient="top", columns=2)
    shift = alt.XOffset("title:N", scale=alt.Scale(domain=titles, paddingInner=0.5))
    # A line for how many labels there are, one for how many of them are wrong.
    axis = alt.Axis(labelAngle=0, labelLimit=90, labelExpr="split(datum.label, ', ')")
    base = alt.Chart(frame).encode(
        x=alt.X("labels:O", sort=words, title="labels", axis=axis),
        xOffset=shift,
        color=model_color(titles, legend),
    )
    shares = alt.Axis(format=".0%", tickCount=6)
    value = alt.Y("value:Q", title="Accuracy", axis=shares).scale(zero=False)
    bars = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title="Accuracy", axis=shares).scale(zero=False), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=value, shape=model_shape(titles, legend)
    )
    return alt.LayerChart(
        layer=[bars, points],
        width=PANEL_WIDTH,
        height=PANEL_HEIGHT,
        title=alt.Title(title, fontSize=13),
    )

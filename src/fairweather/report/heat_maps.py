"""Heat maps: the mean over the levels of every shift, for every model at once."""

from __future__ import annotations

import altair as alt

from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.report.contents import Contents
from fairweather.report.figures import either
from fairweather.report.page.drawing import PAPER, ROWS, in_words, spec_of, tooltip
from fairweather.report.section import Chart, Part, Shown, Tables
from fairweather.report.tables import is_percent

# Shifts from which on the page draws a heat map: fewer are read off the small charts.
MANY_SHIFTS = 5
LONGEST = 200  # pixels of a model's title above a heat map


def heat_map(contents: Contents, metric: str) -> Chart | None:
    """Draw the mean over levels of every shift (row) and model (column), where there are many."""
    if len(contents.sweeps) < MANY_SHIFTS:
        return None
    shifts = contents.means
    scored = [
        (title, name, score)
        for title, shift, level in shifts
        for model, name in contents.titles.items()
        if (score := contents.score(metric, model, shift, level)) is not None
    ]
    if not scored:
        return None
    rows = [
        {"shift": title, "model": name, "value": score.value, "text": in_words(metric, score)}
        for title, name, score in scored
    ]
    share = is_percent(metric)
    values = [score.value for _, _, score in scored]
    # cividis: even steps of lightness, for every kind of colour vision (Nuñez et al. 2018).
    scale = alt.Scale(scheme="cividis", reverse=not share, domain=[min(values), max(values)])
    middle = (min(values) + max(values)) / 2
    base = alt.Chart(ROWS).encode(
        x=alt.X(
            "model:N",
            sort=list(contents.titles.values()),
            title=None,
            axis=alt.Axis(
                orient="top", labelAngle=-50, labelLimit=LONGEST, domain=False, ticks=False
            ),
        ),
        y=alt.Y(
            "shift:N",
            sort=[title for title, _, _ in shifts],
            title=None,
            axis=alt.Axis(labelLimit=150, domain=False, ticks=False),
        ),
        tooltip=tooltip(("model", "Model"), ("shift", "Shift"), ("text", METRICS[metric].label)),
    )
    cells = base.mark_rect(stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    bright = f"datum.value > {middle}" if share else f"datum.value < {middle}"
    words = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".0%" if share else ".2f"),
        color=either(alt.ColorValue, bright, "#000000", "#ffffff"),
    )
    chart = alt.layer(cells, words).properties(width="container", height=25 * len(shifts))
    spec = spec_of(chart) | {"datasets": {"rows": rows}}
    # The last of the slanted titles reaches beyond its column: 6 pixels a letter, at 50 degrees.
    beyond = 0.64 * min(6 * max(map(len, contents.titles.values())), LONGEST)
    spec |= {"padding": {"left": 2, "top": 2, "right": 8 + round(beyond), "bottom": 2}}
    words_of = (
        f"{METRICS[metric].label}, mean over the levels, of every shift (rows) and model (columns)"
    )
    return Chart(f"heat-{metric}", f"Heat map. {words_of}. The tables hold the same numbers.", spec)


def _shown(contents: Contents, _: Tables) -> Shown | None:
    drawn = {METRICS[metric].label: heat_map(contents, metric) for metric in shown_metrics(2)}
    maps = {heading: chart for heading, chart in drawn.items() if chart is not None}
    if not maps:
        return None
    return Shown(charts=list(maps.values()), template="heat_maps.html.j2", facts={"maps": maps})


PART = Part(_shown, accepts=None)

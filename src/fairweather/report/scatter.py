"""The scatter of accuracy against calibration, over all models, shifts and levels."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
from pydantic import JsonValue

from fairweather.record import CLEAN
from fairweather.report.contents import Contents
from fairweather.report.figures import either
from fairweather.report.page.drawing import (
    FOCUS,
    INK,
    LOUD,
    ROWS,
    drawn_order,
    in_words,
    model_paint,
    model_shape,
    spec_of,
    tooltip,
)
from fairweather.report.section import Chart, Part, Shown, Tables


def scatter(contents: Contents) -> Chart | None:
    """Draw accuracy against calibration error, one point for each model, shift and level."""
    rows = list(_points(contents))
    if not rows:
        return None
    base = alt.Chart(ROWS).encode(
        x=alt.X(
            "accuracy:Q",
            title="Accuracy",
            axis=alt.Axis(format=".0%", tickCount=6, tickMinStep=0.01),
        ).scale(zero=False),
        y=alt.Y("error:Q", title="RMS calibration error", axis=alt.Axis(tickCount=6)),
        tooltip=tooltip(
            ("title", "Model"),
            ("at", "Images"),
            ("accuracy_text", "Accuracy"),
            ("error_text", "RMS calibration error"),
        ),
    )
    points = base.mark_point(size=46, strokeWidth=1).encode(
        **model_paint(contents),
        shape=model_shape(contents),
        opacity=either(alt.OpacityValue, LOUD, 0.8, 0.08),
    )
    clean = base.transform_filter("datum.at === 'clean'").mark_point(
        size=190, shape="circle", stroke=INK, strokeWidth=1.2, fillOpacity=0
    )
    chart = alt.layer(points, clean).properties(width="container", height=330)
    return Chart(
        "scatter",
        "Scatter of accuracy against RMS calibration error, one point for each model, shift and "
        "level; clean images are circled. The tables hold the same numbers.",
        spec_of(chart.add_params(FOCUS)) | {"datasets": {"rows": rows}},
    )


def _points(contents: Contents) -> Iterator[dict[str, JsonValue]]:
    words = {sweep.name: sweep for sweep in contents.sweeps}
    order = drawn_order(contents)
    for model, title in sorted(contents.titles.items(), key=lambda each: order.index(each[1])):
        for shift, level in contents.cells.values():
            accuracy, error = (
                contents.score(metric, model, shift, level)
                for metric in ("accuracy", "rms_calibration_error")
            )
            if accuracy is not None and error is not None:
                yield {
                    "title": title,
                    "at": "clean" if shift == CLEAN else words[shift].at(level),
                    "accuracy": accuracy.value,
                    "error": error.value,
                    "accuracy_text": in_words("accuracy", accuracy),
                    "error_text": in_words("rms_calibration_error", error),
                }


def _shown(contents: Contents, _: Tables) -> Shown | None:
    chart = scatter(contents)
    if chart is None:
        return None
    note = (
        "One point for each model, shift and level; clean images are circled. Bottom right is good."
    )
    return Shown(
        "Accuracy against calibration",
        charts=[chart],
        notes=[note],
        facts={"follow": "Follow one model through the scatter"},
    )


PART = Part(_shown)

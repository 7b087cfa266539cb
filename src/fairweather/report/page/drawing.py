"""What the charts of the page have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from fairweather.report.figures import SHAPES
from fairweather.report.page.theme import model_colors
from fairweather.report.tables import Entry, is_percent
from fairweather.types import Score

Spec = dict[str, Any]
SHORT = {"accuracy": "Accuracy", "rms_calibration_error": "RMS calibration error"}
# The chart of a model is loud, and the others quiet, while the pointer or a button asks for it.
FOCUS = alt.Parameter(name="focus", param=alt.VariableParameter("focus", value=""))
LOUD = "focus === '' || datum.title === focus"


class Chart(NamedTuple):
    """A chart of the page.

    Attributes:
        name: its place in the page.
        alt: what somebody who does not see it has to know.
        spec: Vega-Lite, without data that a chooser brings.
    """

    name: str
    alt: str
    spec: Spec


def in_words(metric: str, score: Score) -> str:
    """Write a number with its interval, as a tooltip shows it."""
    return Entry(score, is_percent(metric)).in_words


def model_color(titles: Sequence[str]) -> alt.Color:
    """The page has one legend, as buttons, for all charts."""
    scale = alt.Scale(domain=list(titles), range=model_colors(len(titles)))
    return alt.Color("title:N", scale=scale, legend=None)


def model_shape(titles: Sequence[str]) -> alt.Shape:
    """Shape by the field `title`, for those who cannot tell the colours apart."""
    shapes = [SHAPES[index % len(SHAPES)] for index in range(len(titles))]
    return alt.Shape("title:N", scale=alt.Scale(domain=list(titles), range=shapes), legend=None)


def tooltip(*fields: tuple[str, str]) -> list[alt.Tooltip]:
    """Name the fields that a tooltip shows, as they stand."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a frame into plain rows; what is no number becomes None."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=10))
    return found


def spec_of(chart: alt.TopLevelMixin) -> Spec:
    """Turn a chart into Vega-Lite; its look is the page's, not the chart's."""
    spec = chart.to_dict(validate=False)
    for key in ("$schema", "config"):
        spec.pop(key, None)
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}}

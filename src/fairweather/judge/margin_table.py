"""Margins as a table: the verdicts, and each interval drawn beside its margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from fairweather.judge.differences import rows_to_frame
from fairweather.judge.margins import MarginRow, is_share
from fairweather.report.charts import (
    COLORS,
    DASHED,
    INK,
    RULE,
    SLACK,
    SOLID,
    Figure,
    look_up,
    render_figure,
)
from fairweather.report.tables import (
    TOO_FEW,
    Body,
    TableLayout,
    TextTable,
    write_latex,
    write_markdown,
)
from fairweather.report.vega import explain_missing_addresses
from fairweather.types.measurement import Score

HALF = 12  # characters on each side of 0 in the drawing of a terminal
AXIS = f"{'better':<{HALF}}0{'worse':>{HALF}}"
FEWEST_MARGINS, MOST_MARGINS = 1.5, 4.0  # how far a drawing reaches, in margins
EMPTY, ZERO, MARGIN, LINE, CROSSED, VALUE, BEYOND = *"·│┊─┼●", "‹›"
MARKS = {-1: MARGIN, 0: ZERO, 1: MARGIN}  # in margins
LAYOUT = TableLayout(("Model", "Metric", "Margin", "B − A", "Verdict"), words=2)
DRAWN = "A better ← 0 → A worse"
DRAWING_NOTE = (
    f"In the drawing, {VALUE} is the difference, {ZERO} is 0, and {MARGIN} are the margins. "
    "Right of 0, A is worse."
)
ROW_HEIGHT, WIDTH = 34, 420  # pixels of the chart


@dataclass(frozen=True)
class MarginTable(TextTable):
    """The verdicts on margins, with a drawing of each as its last column."""

    figure: Figure | None = None
    """The same drawing as a chart; None where charts cannot be drawn."""

    def texts(self) -> dict[str, str]:
        """Write the table in Markdown, CSV and LaTeX; LaTeX has the chart instead of drawings."""
        layout = self.layout._replace(header=(*self.layout.header[:-1], DRAWN))
        body = [[*line[:-1], f"`{line[-1]}`"] for line in self.body]
        plain = [line[:-1] for line in self.body]
        return super().texts() | {
            "md": write_markdown(layout, body, self.below),
            "tex": write_latex(LAYOUT, plain, self.name, self.below[0]),
        }


def margin_table(
    rows: Sequence[MarginRow], name: str, sides: tuple[str, str]
) -> MarginTable | None:
    """Lay out the verdicts on margins; None without rows.

    Args:
        rows: from `compare_margins`.
        name: of the files of the comparison.
        sides: the names of A and B.
    """
    if not rows:
        return None
    reach = _choose_reach(rows)
    body = [
        [
            row.row.pair.title,
            row.target,
            _format_size(row.rule.limit, row.rule.scored),
            _format_difference(row.row.difference, row.rule.scored),
            row.words,
            draw_line(_in_margins(row), reach),
        ]
        for row in rows
    ]
    frame = rows_to_frame([row.row for row in rows])
    frame = frame.drop(columns=["p", "p_holm", "verdict"])
    frame.insert(0, "number", [row.target for row in rows])
    frame["margin"] = [row.rule.limit for row in rows]
    frame["verdict"] = [row.verdict for row in rows]
    frame["direction"] = [row.direction for row in rows]
    layout = LAYOUT._replace(header=(*LAYOUT.header, AXIS))
    name, below, figure = f"{name}_margins", [_write_caption(rows), DRAWING_NOTE], None
    if not explain_missing_addresses():
        figure = _draw_figure(rows, body, name, sides, reach)
    return MarginTable(name, layout, body, below, frame, figure=figure)


def _write_caption(rows: Sequence[MarginRow]) -> str:
    sentences = [
        "Margins: how much worse A may be than B. In brackets: the 95 % interval of B − A, as in "
        "the table above.",
        "A is non-inferior where the end of this interval on the side of a loss is below the "
        "margin.",
        "It is equivalent where both ends are within the margin, and inferior where the whole "
        "interval is beyond it.",
        "A verdict that is wrong by chance has a probability of 2.5 % a side.",
    ]
    if any(row.direction for row in rows):
        sentences.append("“Better” and “worse” are not corrected for the number of lines.")
    if len(rows) > 1:
        sentences += [
            "The claim that A keeps all these margins needs no correction.",
            "A claim about one of them, picked afterwards, does.",
        ]
    return " ".join(sentences)


def _format_size(margin: float, metric: str) -> str:
    if not is_share(metric):
        return f"{margin:g}"
    points = float(f"{100 * margin:.10g}")
    return f"{points:g} {'point' if points == 1 else 'points'}"


def _format_difference(difference: Score, metric: str) -> str:
    """Write a difference with two digits more than a margin usually has."""
    scale, digits = (100, 2) if is_share(metric) else (1, 4)
    value, low, high = (
        f"{scale * number:+z.{digits}f}".replace("-", "−") for number in difference[:3]
    )
    return f"{value} [{TOO_FEW if difference.too_few else f'{low}, {high}'}]"


# ---------------------------------------------------------------- drawings


def _in_margins(row: MarginRow) -> tuple[float, float, float]:
    """The loss and its interval, in margins."""
    value, low, high, _ = row.loss
    return value / row.rule.limit, low / row.rule.limit, high / row.rule.limit


def _choose_reach(rows: Sequence[MarginRow]) -> float:
    """How many margins a drawing of all rows shows on each side of 0."""
    ends = [abs(end) for row in rows for end in _in_margins(row) if not math.isnan(end)]
    return min(max([FEWEST_MARGINS, *(1.1 * end for end in ends)]), MOST_MARGINS)


def draw_line(loss: tuple[float, float, float], reach: float) -> str:
    """Draw a loss and its interval, in margins, as one line of characters.

    An end is drawn on the same side of 0 and of both margins as its number.

    >>> draw_line((0.2, -0.4, 0.95), 2.0)
    '······┊···──┼●────┊······'
    """
    value, low, high = loss
    line = [EMPTY] * (2 * HALF + 1)
    for mark, sign in MARKS.items():
        line[_place(mark, reach)] = sign
    if not math.isnan(low):
        for column in range(_place(low, reach), _place(high, reach) + 1):
            line[column] = LINE if line[column] == EMPTY else CROSSED
        line[0] = BEYOND[0] if low < -reach else line[0]
        line[-1] = BEYOND[1] if high > reach else line[-1]
    if not math.isnan(value):
        line[_place(value, reach)] = VALUE
    return "".join(line)


def _place(loss: float, reach: float) -> int:
    """The column of a number of margins, never across a mark by rounding."""
    column = _column(loss, reach)
    for mark in MARKS:
        if loss < mark:
            column = min(column, _column(mark, reach) - 1)
        elif loss > mark:
            column = max(column, _column(mark, reach) + 1)
    return min(max(column, 0), 2 * HALF)


def _column(loss: float, reach: float) -> int:
    return round(HALF + HALF * min(max(loss / reach, -1.0), 1.0))


def _draw_figure(
    rows: Sequence[MarginRow], body: Body, name: str, sides: tuple[str, str], reach: float
) -> Figure:
    """Draw every interval beside its margin, in margins, so that all lines share an axis."""
    lines: list[dict[str, Any]] = []
    for at, (row, cells) in enumerate(zip(rows, body, strict=True)):
        ends = (None if math.isnan(x) else min(max(x, -reach), reach) for x in _in_margins(row))
        model, metric, size, difference, verdict, _ = cells
        lines.append(
            {"row": at, "name": f"{model}: {metric}, margin {size}"}
            | dict(zip(("value", "low", "high"), ends, strict=True))
            | {"text": f"{difference}  {verdict}"}
        )
    labels = [line["name"] for line in lines]
    axis = alt.Axis(values=list(range(len(rows))), labelExpr=look_up(labels), labelLimit=420)
    y = alt.Y(
        "row:Q",
        title=None,
        axis=axis,
        scale=alt.Scale(domain=[-0.6, len(rows) - 0.4], reverse=True),
    )
    x = alt.X(
        "low:Q", title="How much worse A is, in margins", scale=alt.Scale(domain=[-reach, reach])
    )
    base = alt.Chart(alt.Data(values=lines))
    marks = alt.Chart(alt.Data(values=[{"at": mark} for mark in MARKS]))
    chart = alt.layer(
        marks.mark_rule(color=RULE).encode(
            x="at:Q", strokeDash=alt.condition("datum.at == 0", alt.value(SOLID), alt.value(DASHED))
        ),
        base.mark_rule(color=COLORS[0], strokeWidth=2.5).encode(x=x, x2="high:Q", y=y),
        base.mark_point(color=COLORS[0], filled=True, size=70, opacity=1).encode(x="value:Q", y=y),
        base.mark_text(color=INK, align="left", dx=12, fontSize=12).encode(
            x=alt.value(WIDTH), y=y, text="text:N"
        ),
    )
    first, second = sides
    return render_figure(
        name,
        chart.properties(width=WIDTH, height=ROW_HEIGHT * len(rows), padding=SLACK),
        "Is A at most a margin worse than B?",
        [
            f"A is {first}, B is {second}. Right of 0, A is worse; dashed lines are the margins.",
            "Lines are 95 % intervals. Beside them: B − A, and the verdict.",
        ],
        f"How much worse {first} is than {second}, with 95 % intervals beside the margins. "
        + " ".join(f"{line['name']}: {line['text']}." for line in lines),
        letters=110,
    )

"""A comparison in words and tables: on the terminal, in Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fairweather.comparison.matching import Pair
from fairweather.comparison.published import PublishedStudy
from fairweather.report.contents import Contents
from fairweather.report.formats import Body, Layout, latex, markdown, rows_as_csv
from fairweather.report.tables import (
    ABSENT,
    METRIC,
    Entry,
    describe_metric,
    is_percent,
)
from fairweather.report.words import NO_LEVEL

NOT_MEASURED = "not measured"

PUBLISHED = Layout(
    (
        *("Model", "Shift", "Level", "Metric"),
        *("Measured", "Published", "Difference", "In the interval"),
    ),
    words=4,
)


def table_body(pairs: Sequence[Pair], contents: Contents, study: PublishedStudy) -> list[list[str]]:
    """Write pairs as text, in the order of `PUBLISHED`."""
    return [
        [
            contents.titles.get(number.model, study.models[number.model].title),
            study.shifts[number.shift],
            ABSENT if number.level == NO_LEVEL else number.level,
            METRIC[number.metric].label,
            *_numbers(pair),
        ]
        for pair in pairs
        for number in (pair.published,)
    ]


def caption(pairs: Sequence[Pair], study: PublishedStudy) -> str:
    """Say what the numbers are."""
    metrics = dict.fromkeys(describe_metric(pair.published.metric) for pair in pairs)
    return (
        f"{study.title}: measured beside published. {'; '.join(metrics)}. Mean: over the levels of "
        "a shift. In brackets: the run's 95 % bootstrap intervals over images. In the interval: "
        "does the published number lie in it. Difference: measured − published."
    )


def aligned(layout: Layout, body: Body) -> str:
    """Write the table for a terminal."""
    lines = [layout.header, *body]
    widths = [max(len(line[place]) for line in lines) for place in range(len(layout.header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < layout.words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table_files(
    name: str, layout: Layout, body: Body, below: Sequence[str], frame: pd.DataFrame
) -> dict[str, str]:
    """Write a table in Markdown, CSV and LaTeX, by the names of the files in a run folder."""
    return {
        f"tables/{name}.md": markdown(layout, body, below),
        f"tables/{name}.csv": rows_as_csv(frame),
        f"tables/{name}.tex": latex(layout, body, name, " ".join(below)),
    }


def signed(number: float, percent: bool) -> str:
    """Write a difference as the table's numbers are written, with its sign.

    >>> signed(-0.0123, percent=True)
    '−1.2'
    """
    scale, digits = (100, 1) if percent else (1, 3)
    # `z` writes what rounds to zero without a sign.
    return f"{scale * number:+z.{digits}f}".replace("-", "−")


def _numbers(pair: Pair) -> list[str]:
    percent = is_percent(pair.published.metric)
    scale, digits = (100, 1) if percent else (1, 3)
    published = f"{scale * pair.published.value:.{digits}f}"
    if pair.measured is None:
        return [NOT_MEASURED, published, ABSENT, ABSENT]
    inside = "yes" if pair.inside else "no"
    difference = signed(pair.difference, percent)
    return [str(Entry(pair.measured, percent)), published, difference, inside]

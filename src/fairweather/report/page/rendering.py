"""The one HTML page: it loads nothing, runs its own script alone, and shows names as text."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from fairweather.report.charts import Figure, choose_looks
from fairweather.report.contents import Contents
from fairweather.report.page.shell import (
    make_environment,
    pack_json,
    read_own_file,
    read_script,
    write_policy,
)
from fairweather.report.section import ReportPart, Section
from fairweather.report.tables import TextTable
from fairweather.types.unit_words import name_all_units, name_units


def render_page(
    contents: Contents,
    sections: Sequence[Section],
    tables: Mapping[ReportPart, Sequence[TextTable]],
    figures: Sequence[Figure],
) -> str:
    """Fill the template; everything from the run is escaped, and figures are inlined.

    Args:
        contents: of the run.
        sections: in their order.
        tables: of each of their parts.
        figures: those that were drawn.
    """
    named = {figure.name: figure for figure in figures}
    shown = (
        (section, [part.shown(contents, tables[part]) for part in section.parts])
        for section in sections
    )
    kept = [
        (section, [view for view in views if view and not view.is_empty(named)])
        for section, views in shown
    ]
    drawn = [(section, views) for section, views in kept if views]
    looks = dict(zip(contents.titles, choose_looks(contents.positions), strict=True))
    carried: dict[str, object] = {
        "tables": {table.name: table.texts() for of_part in tables.values() for table in of_part}
    }
    for _, views in drawn:
        for view in views:
            carried |= view.carried
    aggregation = contents.aggregation
    script = name_units(read_script("page.js"), aggregation)
    payload = pack_json(name_all_units(carried, aggregation))
    return name_units(
        _make_page_environment()
        .get_template("page.html.j2")
        .render(
            contents=contents,
            front=[pair for pair in drawn if pair[0].front],
            details=[pair for pair in drawn if not pair[0].front],
            figures=named,
            looks=looks,
            policy=write_policy([script]),
            style=Markup(read_own_file("style.css")),  # nosec B704 # a file of this package
            payload=Markup(payload),  # nosec B704 # letters and digits: base64
            script=Markup(script),  # nosec B704 # a file of this package
        ),
        aggregation,
    )


@functools.cache
def _make_page_environment() -> jinja2.Environment:
    environment = make_environment()
    environment.filters["data_uri"] = _make_data_uri
    return environment


def _make_data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()

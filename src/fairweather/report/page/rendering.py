"""The one HTML page: it loads nothing, runs its own script alone, and shows names as text."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence

import jinja2
from markupsafe import Markup

from fairweather.report.charts import Figure, choose_looks
from fairweather.report.contents import Contents
from fairweather.report.section import ReportPart, Section
from fairweather.report.tables import TextTable


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
    script = _read_own_file("page.js")
    return (
        _make_environment()
        .get_template("page.html.j2")
        .render(
            contents=contents,
            front=[pair for pair in drawn if pair[0].front],
            details=[pair for pair in drawn if not pair[0].front],
            figures=named,
            looks=looks,
            policy=write_policy([script]),
            style=Markup(_read_own_file("style.css")),  # nosec B704 # a file of this package
            payload=Markup(pack_json(carried)),  # nosec B704 # letters and digits: base64
            script=Markup(script),  # nosec B704 # a file of this package
        )
    )


def pack_json(content: Mapping[str, object]) -> str:
    """Write JSON, compressed, in letters that mean nothing to HTML; the same for the same content.

    >>> import json
    >>> json.loads(gzip.decompress(base64.b64decode(pack_json({"name": "</script>"}))))
    {'name': '</script>'}
    """
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def write_policy(scripts: Iterable[str]) -> str:
    """Allow these scripts and nothing else: no network, no evaluated text, no form, no frame."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {hashes}; base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _make_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read_own_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _make_data_uri
    return environment


def _read_own_file(name: str) -> str:
    """Read a file that lies beside this one."""
    return (
        importlib.resources.files("fairweather.report.page")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )


def _make_data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()

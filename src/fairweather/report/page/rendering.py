"""The one HTML page: it loads nothing, runs only its own script, and shows every name as text."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from fairweather.metrics.table import METRICS
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure
from fairweather.report.page.drawing import CONFIG, looks
from fairweather.report.section import FileTable, Part, Section, Shown
from fairweather.report.tables import ABSENT, CORRECTED, describe_metric


class _Drawn(NamedTuple):
    """A section as the page shows it."""

    anchor: str
    title: str
    parts: Sequence[Shown]


def render_page(
    contents: Contents,
    sections: Sequence[Section],
    tables: Mapping[Part, Sequence[FileTable]],
    figures: Sequence[Figure],
    library: Callable[[], str],
) -> str:
    """Fill the template; everything from the run is escaped, and figures are inlined.

    Args:
        contents: of the run.
        sections: in their order.
        tables: of each of their parts.
        figures: those that were drawn.
        library: returns the JavaScript that draws charts; it is asked last, since it may take long.
    """
    drawn = [
        _Drawn(
            section.anchor,
            section.title,
            [shown for part in section.parts if (shown := part.shown(contents, tables[part]))],
        )
        for section in sections
    ]
    drawn = [section for section in drawn if section.parts]
    models = dict(zip(contents.titles, looks(contents.positions), strict=True))
    carried: dict[str, object] = {
        "config": CONFIG,
        "charts": {
            chart.name: chart.spec
            for section in drawn
            for part in section.parts
            for chart in part.charts
        },
        "tables": {table.name: table.texts() for of in tables.values() for table in of},
        "models": [
            {"name": name, "title": contents.titles[name], **look._asdict()}
            for name, look in models.items()
        ],
    }
    for part in (part for section in drawn for part in section.parts):
        carried |= part.carried
    scripts = script(library())
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            contents=contents,
            sections=drawn,
            figures={figure.name: figure for figure in figures},
            calibration=describe_metric("rms_calibration_error"),
            corrected=CORRECTED,
            absent=ABSENT,
            metrics=METRICS,
            looks=models,
            variants=len(set(contents.positions)) < len(contents.positions),
            policy=content_security_policy([scripts]),
            style=Markup(_own("style.css")),  # nosec B704 # a file of this package
            payload=Markup(pack(carried)),  # nosec B704 # letters and digits: base64
            script=Markup(scripts),  # nosec B704 # files of packages
        )
    )


def pack(content: Mapping[str, object]) -> str:
    """Write JSON, compressed, in letters that mean nothing to HTML; the same for the same content.

    >>> import json
    >>> json.loads(gzip.decompress(base64.b64decode(pack({"name": "</script>"}))))
    {'name': '</script>'}
    """
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def script(library: str) -> str:
    """Put the page's own script behind the library that draws its charts."""
    # The end of a script inside of a string of it would end the script.
    return (library + "\n" + _own("page.js")).replace("</script", r"<\/script")


def content_security_policy(scripts: Iterable[str]) -> str:
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
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment


def _own(name: str) -> str:
    """Read a file that lies beside this one."""
    return (
        importlib.resources.files("fairweather.report.page")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()

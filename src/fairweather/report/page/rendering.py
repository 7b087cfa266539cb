"""The one HTML page and the JavaScript it carries: it loads nothing and shows names as text."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2
from markupsafe import Markup

from fairweather.files.folders import cache_folder
from fairweather.metrics.table import METRICS
from fairweather.report.charts import PAGE_CONFIG, Figure, choose_looks
from fairweather.report.contents import Contents
from fairweather.report.page.shell import (
    make_environment,
    pack_json,
    read_own_file,
    write_policy,
)
from fairweather.report.section import ReportPart, Section
from fairweather.report.tables import CORRECTED, TextTable, describe_metric
from fairweather.report.vega import EXPOSED_API, begin_work, bundle_javascript
from fairweather.runs.folder import ABANDONED_AFTER, remove_partial, write_atomically

# ---------------------------------------------------------------- the page's JavaScript

MOST_BYTES = 2**25  # bytes that are read; the JavaScript has one million
SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH


def begin_library(letters: int) -> Callable[[], str]:
    """Read the JavaScript from the cache folder, or begin to put it together: seconds of work.

    The page's policy allows this script to run, so it is read only from a file that the same user
    has written and nobody else can change.

    Args:
        letters: characters of the figures that are drawn meanwhile, as for `begin_work`.

    Returns:
        A function that waits for the JavaScript.

    >>> "window.vegaEmbed" in begin_library(0)()
    True
    """
    try:
        place = _locate_library()
    except RuntimeError:  # a user without a home folder
        return begin_work(letters, bundle_javascript)
    stored = _read_library(place)
    if stored is not None:
        return lambda: stored
    made = begin_work(letters, bundle_javascript)

    def finish() -> str:
        text = made()
        _store_library(place, text)
        return text

    return finish


def _locate_library() -> Path:
    kind = _digest(EXPOSED_API)[:8]
    return cache_folder() / "vega" / f"{version('vl-convert-python')}-{kind}.js"


def _read_library(place: Path) -> str | None:
    """Read what was stored; None where there is nothing, or something else."""
    try:
        # A link would lead elsewhere, and what is no file may never end.
        number = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(number, "rb") as file:
            status = os.fstat(number)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if not ours or status.st_mode & SHARED_WRITE:
                return None
            digest, _, text = file.read(MOST_BYTES).decode().partition("\n")
    except (OSError, ValueError):
        return None
    return text if digest == _digest(text) else None


def _store_library(place: Path, text: str) -> None:
    """Write the JavaScript behind its checksum; without a word where nothing can be stored."""
    with contextlib.suppress(OSError):
        remove_partial(place.parent, age=ABANDONED_AFTER)
        write_atomically(place, f"{_digest(text)}\n{text}")
        place.chmod(place.stat().st_mode & ~SHARED_WRITE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- the page


def render_page(
    contents: Contents,
    sections: Sequence[Section],
    tables: Mapping[ReportPart, Sequence[TextTable]],
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
    shown = [
        (section, [view for part in section.parts if (view := part.shown(contents, tables[part]))])
        for section in sections
    ]
    drawn = [
        {"anchor": section.anchor, "title": section.title, "parts": views}
        for section, views in shown
        if views
    ]
    views = [view for _, of_section in shown for view in of_section]
    models = dict(zip(contents.titles, choose_looks(contents.positions), strict=True))
    carried: dict[str, object] = {
        "config": PAGE_CONFIG,
        "charts": {chart.name: chart.spec for view in views for chart in view.charts},
        "tables": {table.name: table.texts() for of_part in tables.values() for table in of_part},
        "models": [
            {"name": name, "title": contents.titles[name], **look._asdict()}
            for name, look in models.items()
        ],
    }
    for view in views:
        carried |= view.carried
    scripts = join_scripts(library())
    return (
        _make_page_environment()
        .get_template("page.html.j2")
        .render(
            contents=contents,
            sections=drawn,
            figures={figure.name: figure for figure in figures},
            calibration=describe_metric("rms_calibration_error"),
            corrected=CORRECTED,
            metrics=METRICS,
            looks=models,
            variants=len(set(contents.positions)) < len(contents.positions),
            policy=write_policy([scripts]),
            style=Markup(read_own_file("style.css")),  # nosec B704 # a file of this package
            payload=Markup(pack_json(carried)),  # nosec B704 # letters and digits: base64
            script=Markup(scripts),  # nosec B704 # files of packages
        )
    )


def join_scripts(library: str) -> str:
    """Put the page's own script behind the library that draws its charts."""
    # The end of a script inside of a string of it would end the script.
    return (library + "\n" + read_own_file("page.js")).replace("</script", r"<\/script")


@functools.cache
def _make_page_environment() -> jinja2.Environment:
    environment = make_environment()
    environment.filters["data_uri"] = _make_data_uri
    return environment


def _make_data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()

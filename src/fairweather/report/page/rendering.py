"""The one HTML page: it loads nothing, runs its own script alone, and takes every name as text."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from fairweather.report.answers import Answer, answers
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure
from fairweather.report.page.cells import BINS, MOST_CLASSES
from fairweather.report.page.charts import heat_map, level_charts, scatter
from fairweather.report.page.citing import citation
from fairweather.report.page.closer import closer_charts
from fairweather.report.page.drawing import SHORT, Chart
from fairweather.report.page.formulas import formulas
from fairweather.report.page.gallery import MOST_MODELS
from fairweather.report.page.payload import content_security_policy, pack, payload, script
from fairweather.report.page.settings import flatten, settings
from fairweather.report.page.theme import looks
from fairweather.report.page.training import training_charts
from fairweather.report.ranked import Ranking
from fairweather.report.reliability import worst_conditions
from fairweather.report.samples import Samples
from fairweather.report.tables import ABSENT, CORRECTED, TABULATED, Table, describe_metric
from fairweather.report.trained import read_times, read_tries, read_warnings
from fairweather.report.verdict import how_low

SECTIONS = (
    ("answer", "The answer"),
    ("summary", "Summary"),
    ("shifts", "Under each shift"),
    ("closer", "Look closer"),
    ("pictures", "Pictures"),
    ("training", "Training"),
    ("more", "More tables"),
    ("how", "How these numbers were made"),
)


class HeatMap(NamedTuple):
    """A heat map and what stands above it."""

    heading: str
    chart: Chart


class PageParts(NamedTuple):
    """What a page is made of."""

    contents: Contents
    tables: Sequence[Table]
    ranks: Ranking | None
    figures: Sequence[Figure]
    samples: Samples | None


def render_page(parts: PageParts, library: Callable[[], str]) -> str:
    """Fill the template; everything from the run is escaped, and figures are inlined.

    `library` gives the JavaScript that draws charts, which may take its time.
    """
    contents, tables, ranks, figures, samples = parts
    drawn = _charts(contents)
    texts = {table.name: table.texts() for table in tables}
    texts |= {"ranking": ranks.texts()} if ranks else {}
    first = ranks.rows[0].model if ranks else next(iter(contents.titles))
    carried = payload(contents, _listed(drawn), texts, samples, first)
    if not any(carried["cells"].values()):
        for name in drawn.pop("closer"):
            del carried["charts"][name]
        drawn["closer"] = {}
    scripts = script(library())
    pictures = carried["gallery"] is not None and bool(drawn["closer"])
    there = {"shifts": bool(drawn["levels"]), "closer": bool(drawn["closer"]), "pictures": pictures}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **drawn,
            **_facts(contents),
            ranking=ranks,
            how_low=how_low(contents, [ranks.rows[at] for at in ranks.leaders]) if ranks else "",
            answers=_ordered(answers(contents), ranks),
            tables=tables,
            named={table.name: table for table in tables},
            figures={figure.name: figure for figure in figures},
            pictures=pictures,
            sections=[(id, heading) for id, heading in SECTIONS if there.get(id, True)],
            thresholds=any(
                cell["kept"] for model in carried["cells"].values() for cell in model.values()
            ),
            policy=content_security_policy([scripts]),
            style=Markup(_own("style.css")),
            payload=Markup(pack(carried)),
            script=Markup(scripts),
        )
    )


def _ordered(told: Sequence[Answer], ranks: Ranking | None) -> list[Answer]:
    """Put what is told of the models in the order of the ranking, where there is one."""
    order = [row.model for row in ranks.rows] if ranks else [each.model for each in told]
    return sorted(told, key=lambda each: order.index(each.model))


def _charts(contents: Contents) -> dict[str, Any]:
    maps = ((SHORT[metric], heat_map(contents, metric)) for metric in TABULATED)
    return {
        "levels": level_charts(contents),
        "heat_maps": [HeatMap(heading, chart) for heading, chart in maps if chart is not None],
        "scatter": scatter(contents) if contents.sweeps else None,
        "training": training_charts(contents),
        "closer": {
            chart.name: chart
            for chart in closer_charts(contents.classes, len(worst_conditions(contents)))
        },
    }


def _listed(drawn: Mapping[str, Any]) -> list[Chart]:
    """Every chart of the page."""
    return [
        *(chart for metrics in drawn["levels"].values() for chart in metrics.values()),
        *(each.chart for each in drawn["heat_maps"]),
        *([drawn["scatter"]] if drawn["scatter"] else []),
        *drawn["training"].values(),
        *drawn["closer"].values(),
    ]


def _facts(contents: Contents) -> dict[str, Any]:
    """What the template tells in words."""
    return {
        "study": contents.study,
        "contents": contents,
        "calibration": describe_metric("rms_calibration_error"),
        "corrected": CORRECTED,
        "absent": ABSENT,
        "short": SHORT,
        "looks": dict(zip(contents.titles, looks(contents.places), strict=True)),
        "variants": len(set(contents.places)) < len(contents.places),
        "bins": BINS,
        "every_class": len(contents.classes) <= MOST_CLASSES,
        "many_models": len(contents.titles) > MOST_MODELS,
        "settings": list(settings(contents)),
        "tries": read_tries(contents),
        "times": (times := read_times(contents)),
        "trained": {each.title for each in times},
        "timed": any(each.time != ABSENT for each in times),
        "warnings": read_warnings(contents),
        "seen": contents.seen_shifts,
        "hardware": contents.hardware,
        "formulas": list(formulas(contents)),
        "citation": citation(contents),
        "provenance": _provenance(contents),
    }


def _provenance(contents: Contents) -> Mapping[str, Any]:
    """What is told of each run; its shifts stand in a list of their own."""
    told = {
        label: {key: value for key, value in facts.items() if key != "shifts"}
        for label, facts in contents.each_provenance().items()
    }
    return told.get("", told)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["flat"] = lambda value: list(flatten(value))
    return environment


def _own(name: str) -> str:
    """Read a file that lies beside this one."""
    return importlib.resources.files("fairweather.report.page").joinpath(name).read_text()


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()

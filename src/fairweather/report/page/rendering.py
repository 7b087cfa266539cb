"""The one HTML page: it loads nothing, runs its own script alone, and takes every name as text."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from fairweather.record import RunRecord
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure
from fairweather.report.findings import ModelFindings, model_findings
from fairweather.report.page.cell_charts import cell_charts
from fairweather.report.page.cells import BINS, MOST_CLASSES
from fairweather.report.page.charts import heat_map, level_charts, scatter, training_charts
from fairweather.report.page.drawing import SHORT, Chart, looks
from fairweather.report.page.explanations import citation, flatten, formulas, settings
from fairweather.report.page.payload import (
    MOST_MODELS,
    content_security_policy,
    pack,
    payload,
    script,
)
from fairweather.report.ranking import Ranking, how_low
from fairweather.report.reliability import worst_conditions
from fairweather.report.samples import Samples
from fairweather.report.tables import ABSENT, CORRECTED, TABULATED, Table, describe_metric
from fairweather.report.training_files import read_times, read_tries, read_warnings

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


class _Charts(NamedTuple):
    """The charts of a page, by the names that the template has for them."""

    levels: Mapping[str, Mapping[str, Chart]]
    heat_maps: Sequence[HeatMap]
    scatter: Chart | None
    training: Mapping[str, Chart]
    closer: Mapping[str, Chart]

    def every(self) -> list[Chart]:
        """All of them."""
        return [
            *(chart for metrics in self.levels.values() for chart in metrics.values()),
            *(each.chart for each in self.heat_maps),
            *([self.scatter] if self.scatter else []),
            *self.training.values(),
            *self.closer.values(),
        ]


def render_page(parts: PageParts, library: Callable[[], str]) -> str:
    """Fill the template; everything from the run is escaped, and figures are inlined.

    `library` gives the JavaScript that draws charts, which may take its time.
    """
    contents, tables, ranks, figures, samples = parts
    drawn = _charts(contents)
    texts = {table.name: table.texts() for table in tables}
    texts |= {"ranking": ranks.texts()} if ranks else {}
    first = ranks.rows[0].model if ranks else next(iter(contents.titles))
    carried = payload(contents, drawn.every(), texts, samples, first)
    if not any(carried["cells"].values()):
        for name in drawn.closer:
            del carried["charts"][name]
        drawn = drawn._replace(closer={})
    scripts = script(library())
    pictures = carried["gallery"] is not None and bool(drawn.closer)
    there = {"shifts": bool(drawn.levels), "closer": bool(drawn.closer), "pictures": pictures}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **drawn._asdict(),
            **_facts(contents),
            ranking=ranks,
            how_low=how_low(contents, [ranks.rows[at] for at in ranks.leaders]) if ranks else "",
            findings=_ordered(model_findings(contents), ranks),
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


def _ordered(findings: Sequence[ModelFindings], ranks: Ranking | None) -> list[ModelFindings]:
    """Put what is found of the models in the order of the ranking, where there is one."""
    order = [row.model for row in ranks.rows] if ranks else [each.model for each in findings]
    return sorted(findings, key=lambda each: order.index(each.model))


def _charts(contents: Contents) -> _Charts:
    maps = ((SHORT[metric], heat_map(contents, metric)) for metric in TABULATED)
    conditions = len(worst_conditions(contents))
    return _Charts(
        levels=level_charts(contents),
        heat_maps=[HeatMap(heading, chart) for heading, chart in maps if chart is not None],
        scatter=scatter(contents) if contents.sweeps else None,
        training=training_charts(contents),
        closer={chart.name: chart for chart in cell_charts(contents.classes, conditions)},
    )


def _facts(contents: Contents) -> dict[str, object]:
    """What the template tells in words."""
    return {
        "contents": contents,
        "calibration": describe_metric("rms_calibration_error"),
        "corrected": CORRECTED,
        "absent": ABSENT,
        "short": SHORT,
        "looks": dict(zip(contents.titles, looks(contents.positions), strict=True)),
        "variants": len(set(contents.positions)) < len(contents.positions),
        "bins": BINS,
        "every_class": len(contents.classes) <= MOST_CLASSES,
        "many_models": len(contents.titles) > MOST_MODELS,
        "settings": list(settings(contents)),
        "tries": read_tries(contents),
        "times": (times := read_times(contents)),
        "trained": {each.title for each in times},
        "timed": any(each.time != ABSENT for each in times),
        "warnings": read_warnings(contents),
        "seen_shifts": contents.seen_shifts,
        "formulas": list(formulas(contents)),
        "citation": citation(contents),
        "provenance": _by_run(contents, _provenance),
        "described": _by_run(contents, _description),
    }


def _by_run(
    contents: Contents, facts: Callable[[RunRecord], Mapping[str, object]]
) -> Mapping[str, object]:
    """What is told of each run, by its label; of a single run without one."""
    told = {label: facts(record) for label, record in contents.records.items()}
    return told.get("", told)


def _provenance(record: RunRecord) -> Mapping[str, object]:
    facts = record.model_dump(mode="json", include={"provenance", "data"})
    return {**facts["provenance"], "data": facts["data"]}


def _description(record: RunRecord) -> Mapping[str, object]:
    """All that the record says besides; the shifts stand in a list of their own."""
    return record.model_dump(mode="json", exclude={"version", "provenance", "data", "sweeps"})


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

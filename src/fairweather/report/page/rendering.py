"""The one HTML page: it loads nothing, runs only its own script, and shows every name as text."""

from __future__ import annotations

import base64
import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.record import RunRecord
from fairweather.report.conformal import Promises
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure
from fairweather.report.findings import answer, model_findings
from fairweather.report.limits import LIMITS, Limits
from fairweather.report.other_images import other_images
from fairweather.report.overview import STATES, Measure, readings
from fairweather.report.page.cell_charts import cell_charts
from fairweather.report.page.cells import BINS, MOST_CLASSES, shows_every_level
from fairweather.report.page.charts import (
    heat_map,
    level_charts,
    overview_charts,
    scatter,
    set_charts,
    training_charts,
)
from fairweather.report.page.drawing import Chart, looks
from fairweather.report.page.explanations import citation, flatten, formulas, settings
from fairweather.report.page.payload import (
    MOST_MODELS,
    content_security_policy,
    pack,
    payload,
    script,
)
from fairweather.report.ranking import Ranking
from fairweather.report.reliability import worst_conditions
from fairweather.report.samples import Samples
from fairweather.report.slices import SliceTable
from fairweather.report.tables import ABSENT, CORRECTED, Table, describe_metric
from fairweather.report.training_files import read_times, read_tries, read_warnings

SECTIONS = (
    ("answer", "The answer"),
    ("shifts", "Under each shift"),
    ("sets", "Prediction sets"),
    ("summary", "Summary tables"),
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
    """What a page is made of.

    Attributes:
        order: of the models in the first chart.
        texts: of each table, by its name and then by format.
    """

    contents: Contents
    order: Sequence[str]
    tables: Sequence[Table]
    ranks: Ranking | None
    limits: Limits | None
    promises: Promises | None
    slices: Sequence[SliceTable]
    texts: Mapping[str, Mapping[str, str]]
    figures: Sequence[Figure]
    samples: Samples | None


class _Charts(NamedTuple):
    """The charts of a page, by the names that the template has for them."""

    overview: Mapping[Measure, Chart]
    levels: Mapping[str, Mapping[str, Chart]]
    sets: Mapping[str, Mapping[str, Chart]]
    heat_maps: Sequence[HeatMap]
    scatter: Chart | None
    training: Mapping[str, Chart]
    closer: Mapping[str, Chart]

    def every(self) -> list[Chart]:
        """All of them."""
        return [
            *self.overview.values(),
            *(chart for metrics in self.levels.values() for chart in metrics.values()),
            *(chart for metrics in self.sets.values() for chart in metrics.values()),
            *(each.chart for each in self.heat_maps),
            *([self.scatter] if self.scatter else []),
            *self.training.values(),
            *self.closer.values(),
        ]


def render_page(parts: PageParts, library: Callable[[], str]) -> str:
    """Fill the template; everything from the run is escaped, and figures are inlined.

    `library` returns the JavaScript that draws charts; it is asked last, since it may take long.
    """
    contents, order, tables, ranks, limits, sets, slices, texts, figures, samples = parts
    drawn = _charts(contents, order)
    first = ranks.rows[0].model if ranks else next(iter(contents.titles))
    findings = model_findings(contents)
    seen = {each.state for model in order for each in readings(contents, model)}
    carried = payload(contents, drawn.every(), texts, samples, first)
    if not any(carried["cells"].values()):
        for name in drawn.closer:
            del carried["charts"][name]
        drawn = drawn._replace(closer={})
    scripts = script(library())
    pictures = carried["gallery"] is not None and bool(drawn.closer)
    there = {"shifts": bool(drawn.levels), "closer": bool(drawn.closer), "pictures": pictures}
    there["sets"] = sets is not None
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **drawn._asdict(),
            **_facts(contents),
            ranking=ranks,
            answer=answer(findings, ranks),
            others=other_images(
                contents.scores,
                contents.titles,
                natural_shift=bool(contents.data.notes.get("natural_shift")),
            ),
            states=[(glyph, state) for state, (_, glyph) in STATES.items() if state in seen],
            findings=sorted(findings, key=lambda each: order.index(each.model)),
            limits=limits,
            promises=sets,
            slices=slices,
            choices=LIMITS,
            tables=tables,
            named={table.name: table for table in tables},
            figures={figure.name: figure for figure in figures},
            pictures=pictures,
            has_images=contents.has_images,
            sections=[(id, heading) for id, heading in SECTIONS if there.get(id, True)],
            thresholds=any(
                cell["kept"] for model in carried["cells"].values() for cell in model.values()
            ),
            policy=content_security_policy([scripts]),
            style=Markup(_own("style.css")),  # nosec B704 # a file of this package
            payload=Markup(pack(carried)),  # nosec B704 # letters and digits: base64
            script=Markup(scripts),  # nosec B704 # files of packages
        )
    )


def _charts(contents: Contents, order: Sequence[str]) -> _Charts:
    maps = ((METRICS[metric].label, heat_map(contents, metric)) for metric in shown_metrics(2))
    conditions = len(worst_conditions(contents))
    return _Charts(
        overview=overview_charts(contents, order),
        levels=level_charts(contents, shown_metrics(2)),
        sets=set_charts(contents),
        heat_maps=[HeatMap(heading, chart) for heading, chart in maps if chart is not None],
        scatter=scatter(contents) if contents.sweeps else None,
        training=training_charts(contents),
        closer={chart.name: chart for chart in cell_charts(contents.classes, conditions)},
    )


def _facts(contents: Contents) -> dict[str, object]:
    """What the template says in words."""
    return {
        "contents": contents,
        "calibration": describe_metric("rms_calibration_error"),
        "corrected": CORRECTED,
        "absent": ABSENT,
        "metrics": METRICS,
        "looks": dict(zip(contents.titles, looks(contents.positions), strict=True)),
        "variants": len(set(contents.positions)) < len(contents.positions),
        "bins": BINS,
        "every_class": len(contents.classes) <= MOST_CLASSES,
        "every_level": shows_every_level(contents),
        "many_models": len(contents.titles) > MOST_MODELS,
        "settings": list(settings(contents)),
        "tries": read_tries(contents),
        "times": (times := read_times(contents)),
        "trained": {each.title for each in times},
        "timed": any(each.time != ABSENT for each in times),
        "warnings": read_warnings(contents),
        "seen_shifts": contents.seen_shifts,
        "formulas": formulas(contents),
        "citation": citation(contents),
        "provenance": _by_run(contents, _provenance),
        "described": _by_run(contents, _description),
    }


def _by_run(
    contents: Contents, facts: Callable[[RunRecord], Mapping[str, object]]
) -> Mapping[str, object]:
    """What is said of each run, by its label; of a single run without one."""
    told = {label: facts(record) for label, record in contents.records.items()}
    return told.get("", told)


def _provenance(record: RunRecord) -> Mapping[str, object]:
    facts = record.model_dump(mode="json", include={"provenance", "data"})
    return {**facts["provenance"], "data": facts["data"]}


def _description(record: RunRecord) -> Mapping[str, object]:
    """Everything else in the record; the shifts have a list of their own."""
    return record.model_dump(mode="json", exclude={"version", "provenance", "data", "sweeps"})


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
    environment.filters["flat"] = lambda value: list(flatten(value))
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

"""The section that shows one model under one shift at one level: its charts and its pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import altair as alt
import numpy as np

from fairweather.report.charts import (
    FAINT,
    INK,
    PAPER,
    ROWS,
    RULE,
    Chart,
    choose_value,
    look_up,
    make_chart,
    make_tooltip,
)
from fairweather.report.contents import Contents
from fairweather.report.page.cells import (
    BINS,
    HISTOGRAM_BARS,
    MOST_CLASSES,
    RISKS,
    WORST_CLASSES,
    CellColumns,
    CellNumbers,
    describe_cell,
    draw_reliability,
    find_worst_conditions,
    fit_thresholds,
    read_cells,
    round_numbers,
    shows_every_level,
)
from fairweather.report.performance import read_performance
from fairweather.report.pictures import draw_shifts
from fairweather.report.ranking import rank_models
from fairweather.report.samples import CellImage, Samples
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.sentences import RISK
from fairweather.report.tables import CORRECTED, ScoreEntry
from fairweather.types.record import CLEAN, MEAN
from fairweather.variants.variant import keeps_network

# ---------------------------------------------------------------- charts of a cell

# Right and wrong, apart by lightness too.
RIGHT, WRONG = "var(--right)", "var(--wrong)"
# Where cividis begins: a pair of classes that is not among the rows has no image.
EMPTY_CELL = "#002051"
MOST_COUNTED = 12  # classes of a matrix whose cells have room for a count
SIDE = 230
FEW_IMAGES = 10  # images of a bin that says little
UNIT_SCALE = alt.Scale(domain=[0, 1])
DASHES = [[1, 0], [4, 3]]  # of the chosen images, and of the clean ones
EXTENT = 40  # of vertical axes that stand above each other


def draw_cell_charts(classes: Sequence[str], conditions: int) -> list[Chart]:
    """Build the charts of a cell; the confusion matrix only where it is small enough to be read.

    Args:
        classes: their names.
        conditions: rows of the chart of what is deferred: clean images, and one for each shift.
    """
    bars = min(len(classes), MOST_CLASSES if len(classes) <= MOST_CLASSES else WORST_CLASSES)
    charts = [
        _draw_reliability(),
        _draw_counts(),
        _draw_confidence(),
        _draw_risk_coverage(),
        _draw_deferral(conditions),
        _draw_classes(classes, bars),
    ]
    return [*charts, _draw_confusion(classes)] if len(classes) <= MOST_CLASSES else charts


def _draw_reliability() -> Chart:
    x = alt.X("confidence:Q", title=None, axis=_make_share_axis(), scale=UNIT_SCALE)
    axis = _make_share_axis()
    axis.minExtent = axis.maxExtent = EXTENT
    y = alt.Y("accuracy:Q", title="Accuracy", axis=axis, scale=UNIT_SCALE)
    diagonal = (
        alt.Chart(alt.Data(values=[{"at": 0}, {"at": 1}]))
        .mark_line(color=RULE, strokeDash=[4, 3], strokeWidth=1.5)
        .encode(x=alt.X("at:Q", title=None, scale=UNIT_SCALE), y=alt.Y("at:Q", title="Accuracy"))
    )
    tooltip = make_tooltip(
        ("confidence_text", "Mean confidence"), ("accuracy_text", "Accuracy"), ("images", "Images")
    )
    base = alt.Chart(ROWS).encode(x=x, tooltip=tooltip)
    few = f"datum.images < {FEW_IMAGES}"
    faint = choose_value(alt.OpacityValue, few, 0.2, 1)
    gap = base.mark_rule(strokeWidth=9).encode(
        y=y,
        y2=alt.Y2("confidence:Q"),
        color=choose_value(alt.ColorValue, "datum.accuracy < datum.confidence", WRONG, RIGHT),
        opacity=choose_value(alt.OpacityValue, few, 0.12, 0.45),
    )
    bars = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        y=alt.Y("low:Q", title="Accuracy", scale=UNIT_SCALE), y2=alt.Y2("high:Q"), opacity=faint
    )
    points = base.mark_point(filled=True, size=60, color=INK, stroke=PAPER)
    return make_chart(
        "reliability",
        "Reliability diagram: accuracy against confidence in 10 equal-width bins with 95 % "
        "intervals. On the diagonal, confidence equals accuracy.",
        alt.layer(diagonal, gap, bars, points.encode(y=y, opacity=faint)),
        SIDE,
    )


def _draw_counts() -> Chart:
    axis = alt.Axis(tickCount=3, tickMinStep=1, minExtent=EXTENT, maxExtent=EXTENT)
    bars = _draw_histogram().encode(
        y=alt.Y("images:Q", title="Images", axis=axis),
        y2=alt.Y2Datum(0),
        tooltip=make_tooltip(("bin", "Confidence"), ("images", "Images")),
    )
    words = "Images in each bin of the reliability diagram."
    return make_chart("counts", words, bars.mark_bar(color=FAINT), 70)


def _draw_confidence() -> Chart:
    axis = alt.Axis(format=",d", tickMinStep=1, labelExpr="replace(datum.label, '−', '')")
    answers = alt.Scale(domain=["right", "wrong"], range=[RIGHT, WRONG])
    bars = _draw_histogram().encode(
        y=alt.Y("from:Q", title="Images: right above, wrong below", axis=axis),
        y2=alt.Y2("to:Q"),
        color=alt.Color("answer:N", scale=answers, legend=alt.Legend(title=None, orient="top")),
        tooltip=make_tooltip(("bin", "Confidence"), ("answer", "Answers"), ("images", "Images")),
    )
    return make_chart(
        "confidence",
        f"Histogram of the confidence in {HISTOGRAM_BARS} bins, of right answers upwards and of "
        f"wrong ones "
        "downwards.",
        bars,
        SIDE + 70,
    )


def _draw_histogram() -> alt.Chart:
    """A histogram of confidence."""
    x = alt.X("lower:Q", title="Confidence", axis=_make_share_axis(), scale=UNIT_SCALE)
    return alt.Chart(ROWS).mark_bar().encode(x=x, x2=alt.X2("upper:Q"))


def _draw_risk_coverage() -> Chart:
    shares = alt.Axis(format=".0%", tickCount=5)
    title = "Share answered, the most confident first"
    x = alt.X("coverage:Q", title=title, axis=shares, scale=UNIT_SCALE)
    wrong = "Share of the answers that is wrong"
    y = alt.Y("risk:Q", title=wrong, axis=alt.Axis(format=".0%", tickCount=5, tickMinStep=0.01))
    which = ["chosen images", "clean images"]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    inks, dashes = (alt.Scale(domain=which, range=values) for values in ([INK, FAINT], DASHES))
    color = alt.Color("which:N", scale=inks, legend=legend)
    dash = alt.StrokeDash("which:N", scale=dashes, legend=legend)
    said = make_tooltip(("which", "Images"), ("coverage_text", "Coverage"), ("risk_text", "Risk"))
    base = alt.Chart(ROWS).encode(x=x)
    band = (
        base.mark_area(interpolate="step-before", opacity=0.16)
        .transform_filter("!datum.kept")
        .encode(y=alt.Y("low:Q", title=wrong), y2=alt.Y2("high:Q"), color=color)
    )
    line = base.mark_line(interpolate="step-before", strokeWidth=2)
    line = line.encode(y=y, color=color, strokeDash=dash, tooltip=said)
    kept = base.mark_point(shape="diamond", filled=True, color=WRONG, stroke=PAPER, opacity=1)
    size = choose_value(alt.SizeValue, "datum.kept", 90, 0)
    return make_chart(
        "risk-coverage",
        "Risk-coverage curve: the share of wrong answers among the most confident images, against "
        "the share that is answered, with its 95 % interval, on the chosen and on clean "
        "images.",
        alt.layer(band, line, kept.encode(y=y, tooltip=said, size=size)),
        SIDE + 45,
    )


def _draw_deferral(conditions: int) -> Chart:
    axis = alt.Axis(labelLimit=150, ticks=False, domain=False)
    # A little beyond, so that marks at the ends are whole.
    scale = alt.Scale(domain=[-0.03, 1.05], nice=False)
    title = "Share deferred to a person"
    tooltip = make_tooltip(
        ("place", "Images"),
        ("needed_text", "To keep the risk"),
        ("over_text", "Deferred at the threshold"),
        ("risk_text", "Wrong among the answers"),
    )
    y = alt.Y("place:N", sort=None, title=None, axis=axis)
    base = alt.Chart(ROWS).encode(y=y, tooltip=tooltip)
    x = alt.X("needed:Q", title=title, axis=_make_share_axis(), scale=scale)
    bars = base.mark_bar(height=14, color=FAINT, opacity=0.55).encode(x=x)
    ends = base.mark_rule(strokeWidth=2, color=INK).encode(
        x=alt.X("low:Q", title=title, scale=scale), x2=alt.X2("high:Q")
    )
    kept = (
        base.transform_filter("isValid(datum.over)")
        .mark_point(shape="diamond", size=90, filled=True, color=WRONG, stroke=PAPER, opacity=1)
        .encode(x=alt.X("over:Q", title=title, scale=scale))
    )
    return make_chart(
        "hand-over",
        "For clean images and the worst level of each shift: the share of the images that must be "
        "deferred to a person to keep the chosen risk, with its 95 % interval, and the share that "
        "a threshold fitted on clean validation images defers. The table below has the numbers.",
        alt.layer(bars, ends, kept),
        26 * conditions,
    )


def _draw_classes(classes: Sequence[str], shown: int) -> Chart:
    """Draw the accuracy of as many of these classes as are shown, one bar each."""
    axis = alt.Axis(labelLimit=130, ticks=False, domain=False, labelExpr=look_up(classes))
    y = alt.Y("at:O", sort=None, title=None, axis=axis)
    tooltip = make_tooltip(("name", "Class"), ("accuracy_text", "Accuracy"), ("images", "Images"))
    base = alt.Chart(ROWS).encode(y=y, tooltip=tooltip)
    shares = alt.Axis(format=".0%", tickCount=5)
    bars = base.mark_bar(height={"band": 0.7}, color=RIGHT, opacity=0.75).encode(
        x=alt.X("accuracy:Q", title="Accuracy", axis=shares, scale=UNIT_SCALE)
    )
    ends = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        x=alt.X("low:Q", title="Accuracy", scale=UNIT_SCALE), x2=alt.X2("high:Q")
    )
    words = "Accuracy of each class with its 95 % interval."
    return make_chart("classes", words, alt.layer(bars, ends), 18 * shown)


def _draw_confusion(classes: Sequence[str]) -> Chart:
    """Draw the confusion matrix of classes of these names."""
    scale = alt.Scale(domain=list(range(len(classes))), padding=0)
    axis = alt.Axis(labelLimit=90, ticks=False, domain=False, labelExpr=look_up(classes))
    turned = axis.copy()
    turned.labelAngle = 0 if max(map(len, classes)) <= 2 else -60
    tooltip = make_tooltip(
        ("label", "Label"),
        ("predicted", "Predicted"),
        ("images", "Images"),
        ("share_text", "Of the label's images"),
    )
    base = alt.Chart(ROWS).encode(
        x=alt.X("predicted_at:O", title="Predicted", axis=turned, scale=scale),
        y=alt.Y("label_at:O", title="Label", axis=axis, scale=scale),
        tooltip=tooltip,
    )
    title = "Share of the label's images"
    legend = alt.Legend(title=title, format=".0%", orient="top", gradientLength=160)
    colors = alt.Scale(scheme="cividis", domain=[0, 1])
    cells = base.mark_rect(stroke=PAPER, strokeWidth=1).encode(
        color=alt.Color("share:Q", scale=colors, legend=legend)
    )
    dark = choose_value(alt.ColorValue, "datum.share > 0.5", "#000000", "#ffffff")
    counts = base.mark_text(fontSize=10).encode(text=alt.Text("images:N"), color=dark)
    layers = [cells, counts] if len(classes) <= MOST_COUNTED else [cells]
    return make_chart(
        "confusion",
        "Confusion matrix: of the images of each label (rows), the share predicted as each class "
        "(columns).",
        alt.layer(*layers, view=alt.ViewBackground(fill=EMPTY_CELL)),
        22 * len(classes),
    )


def _make_share_axis() -> alt.Axis:
    return alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])


# ---------------------------------------------------------------- pictures


class Picture(TypedDict):
    """A picture: what it shows, and each model's prediction and confidence, None without one."""

    image: str
    cell: str
    label: int | None
    predictions: list[tuple[int, float | None] | None]


class Gallery(TypedDict):
    """All pictures, and what they are shown for by their place in the list.

    Attributes:
        strip: by cell.
        lost: by shift; None where nobody looked.
        mistakes: by model, and then by shift.
        attacked: the strip as a model saw it, by model and then by cell.
    """

    pictures: list[Picture]
    strip: dict[str, list[int]]
    lost: dict[str, list[int]] | None
    mistakes: dict[str, dict[str, list[int]]]
    attacked: dict[str, dict[str, list[int]]]


class ShownPrediction(NamedTuple):
    """What a model says of a picture: the label it should have given, its own, how sure it is."""

    label: int
    predicted: int
    confidence: float | None


def find_predictions(
    columns: CellColumns, cell: str, keys: Iterable[int]
) -> dict[CellImage, ShownPrediction]:
    """Look up what was predicted of the images of these keys in a cell; others are left out."""
    rows = np.flatnonzero(np.isin(columns.keys, list(keys)))
    return {
        CellImage(int(columns.keys[row]), cell): ShownPrediction(
            int(columns.labels[row]),
            int(columns.predicted[row]),
            round_numbers([columns.confidence[row]])[0],
        )
        for row in rows
    }


def group_keys(samples: Samples | None) -> dict[str, list[int]]:
    """List the images that there are pictures of, by the id of the shift."""
    keys: dict[str, list[int]] = {}
    shown = (*samples.pictures, *(at[1:] for at in samples.attacked)) if samples else ()
    for cell, key in dict.fromkeys(shown):
        keys.setdefault(cell, []).append(key)
    return keys


def make_gallery(
    models: Sequence[str],
    samples: Samples | None,
    predictions: Mapping[CellImage, Mapping[str, ShownPrediction]],
) -> Gallery | None:
    """List the pictures, and what they are shown for by their place in the list.

    None where the run keeps none.
    """
    if samples is None or not samples.pictures:
        return None
    every = [CellImage(key, cell) for cell, key in samples.pictures]
    at = {shown: index for index, shown in enumerate(every)}

    def chosen(wanted: Iterable[CellImage]) -> list[int]:
        # In a joint report, another run may lack the cell.
        return [at[shown] for shown in wanted if shown in at]

    cells = dict.fromkeys(shown.cell for shown in every)
    strips = {cell: chosen(CellImage(key, cell) for key in samples.strip) for cell in cells}
    lost = samples.lost
    pictures = [
        _make_picture(cell, image, models, predictions.get(CellImage(key, cell), {}))
        for (cell, key), image in samples.pictures.items()
    ]
    attacked: dict[str, dict[str, list[int]]] = {}
    for (attacks_on, cell, key), image in samples.attacked.items():
        said = predictions.get(CellImage(key, cell), {})
        # Calibrations and prediction sets leave the network: they see the images of its attacks.
        seen_by = [
            model for model in models if name_attacked(model) == attacks_on and model in said
        ]
        for model in seen_by:
            attacked.setdefault(model, {}).setdefault(cell, []).append(len(pictures))
        own = {model: said[model] for model in seen_by}
        pictures.append(_make_picture(cell, image, models, own))
    return Gallery(
        pictures=pictures,
        strip={cell: strip for cell, strip in strips.items() if strip},
        lost=None if lost is None else {shift: chosen(wanted) for shift, wanted in lost.items()},
        mistakes={
            model: {shift: chosen(wanted) for shift, wanted in shifts.items()}
            for model, shifts in samples.mistakes.items()
            if model in models
        },
        attacked=attacked,
    )


def name_attacked(name: str) -> str:
    """Name the model whose images a model is tested on under attack.

    >>> name_attacked("basic+temperature"), name_attacked("basic+ensemble")
    ('basic', 'basic+ensemble')
    """
    base, *added = name.split("+")
    return "+".join([base, *(variant for variant in added if not keeps_network(variant))])


def _make_picture(
    cell: str, image: bytes, models: Sequence[str], predictions: Mapping[str, ShownPrediction]
) -> Picture:
    label = next((prediction.label for prediction in predictions.values()), None)
    said = [
        (predictions[model].predicted, predictions[model].confidence)
        if model in predictions
        else None
        for model in models
    ]
    uri = "data:image/webp;base64," + base64.b64encode(image).decode()
    return Picture(image=uri, cell=cell, label=label, predictions=said)


# ---------------------------------------------------------------- the section

# Up to so many, every picture says what each of them sees; beyond, what the chosen one does.
MOST_MODELS = 6


class _CloserLook(NamedTuple):
    """What is shown of each model and cell, and what each model says of each picture."""

    cells: Mapping[str, Mapping[str, CellNumbers]]
    predictions: Mapping[CellImage, Mapping[str, ShownPrediction]]


def _look_closer(contents: Contents) -> _CloserLook:
    """Read each cell once: describe it if it is shown, and look up what it says of pictures."""
    pictures = group_keys(contents.samples)
    thresholds, classes = fit_thresholds(contents), len(contents.classes)
    levels = contents.cells
    cells: dict[str, dict[str, CellNumbers]] = {model: {} for model in contents.titles}
    predictions: dict[CellImage, dict[str, ShownPrediction]] = {}
    for model, cell, columns, shown_closer in read_cells(contents, pictures):
        if shown_closer:
            numbers = describe_cell(columns, classes, thresholds[model], contents.grouping)
            cells[model][cell] = _use_stored_intervals(contents, model, levels[cell], numbers)
        for shown, prediction in find_predictions(columns, cell, pictures.get(cell, ())).items():
            predictions.setdefault(shown, {})[model] = prediction
    return _CloserLook(cells, predictions)


def _list_shifts(contents: Contents) -> Iterator[Mapping[str, object]]:
    """The shifts that can be chosen: their cells by id, and how far each is from clean images."""
    yield {"name": CLEAN, "title": "Clean images", "cells": [{"id": CLEAN, "heading": ""}]}
    for sweep in contents.sweeps:
        levels = sweep.cells.items()
        yield {
            "name": sweep.name,
            "title": sweep.title,
            "cells": [{"id": cell, "heading": sweep.spelled(level)} for level, cell in levels],
            "distance": [abs(float(level) - sweep.neutral) for level in sweep.cells],
            "attack": sweep.is_attack,
        }


def _find_hardest(contents: Contents, model: str) -> str:
    """The shift under which a model is least accurate on average over the levels."""
    means = {
        sweep.name: score.value
        for sweep in contents.sweeps
        if (score := contents.score("accuracy", model, sweep.name, MEAN)) is not None
    }
    return min(means, key=lambda name: means[name], default=CLEAN)


def _choose_seed(contents: Contents, model: str) -> str:
    """The seed that the charts of a cell show: the first one; an ensemble has the scores of all."""
    seed = contents.seeds_of(model)[0]
    return seed if seed in contents.seeds else contents.shown_seed


def _use_stored_intervals(
    contents: Contents, model: str, at: tuple[str, str], numbers: CellNumbers
) -> CellNumbers:
    """Give what scores.csv has too the interval that it has there: one number, one interval."""
    stored = read_performance(contents, model, *at, _choose_seed(contents, model))
    if not numbers["kept"] or stored is None or stored.coverage is None or stored.risk is None:
        return numbers
    _, low, high, _ = stored.coverage
    ends = round_numbers([1 - high, 1 - low, *stored.risk[1:3]])
    kept = [*numbers["kept"]]
    over, _, _, risk, *_ = kept[RISKS.index(RISK)]
    kept[RISKS.index(RISK)] = [over, *ends[:2], risk, *ends[2:]]
    return {**numbers, "kept": kept}


def _describe_cell(contents: Contents, model: str, shift: str, level: str) -> str:
    shown = _choose_seed(contents, model)
    accuracy, error = (
        contents.score(metric, model, shift, level, shown)
        for metric in ("accuracy", "rms_calibration_error")
    )
    parts = [f"Accuracy {ScoreEntry(accuracy, percent=True).in_words}"] if accuracy else []
    parts += [f"RMS calibration error {ScoreEntry(error, percent=False).in_words}"] if error else []
    seed = f" of seed {contents.seeds_of(model)[0]}" if len(contents.seeds) > 1 else ""
    n = [f"The charts below show {accuracy.n:,} images{seed}."] if accuracy else []
    note = [f"The interval of the error is {CORRECTED}."] if error and not error.too_few else []
    return " ".join([f"{'; '.join(parts)}.", *n, *note])


def _show_closer(contents: Contents, _: Tables) -> PartView | None:
    """Show what can be looked at, with the numbers of every cell for the page's script."""
    cells, _predictions = contents.once(_look_closer)
    if not any(cells.values()):
        return None
    conditions, classes = find_worst_conditions(contents), contents.classes
    places, ranks = contents.cells, contents.once(rank_models)
    start = ranks.rows[0].model if ranks else next(iter(contents.titles))
    charts = draw_cell_charts(classes, len(conditions))
    thresholds = any(cell["kept"] for model in cells.values() for cell in model.values())
    return PartView(
        charts=charts,
        template="closer.html.j2",
        facts={
            "closer": {chart.name: chart for chart in charts},
            "bins": BINS,
            "every_class": len(classes) <= MOST_CLASSES,
            "every_level": shows_every_level(contents),
            "thresholds": thresholds,
        },
        carried={
            "most_models": MOST_MODELS,
            "start": {"model": start, "shift": _find_hardest(contents, start)},
            "shifts": list(_list_shifts(contents)),
            "worst": [[condition.title, condition.cell] for condition in conditions],
            "classes": classes,
            "bins": BINS,
            "risks": RISKS,
            "cells": cells,
            "summaries": {
                model: {cell: _describe_cell(contents, model, *places[cell]) for cell in shown}
                for model, shown in cells.items()
            },
        },
    )


def _show_pictures(contents: Contents, _: Tables) -> PartView | None:
    """Show the pictures of what is chosen above, or say that there are none."""
    cells, predictions = contents.once(_look_closer)
    if not any(cells.values()):
        return None
    gallery = make_gallery(list(contents.titles), contents.samples, predictions)
    return PartView(
        "Pictures",
        anchor="pictures" if gallery else "",
        template="pictures.html.j2",
        facts={"many_models": len(contents.titles) > MOST_MODELS},
        carried={"gallery": gallery},
    )


CLOSER = ReportPart(_show_closer, figures=lambda contents: [draw_reliability(contents)])
PICTURES = ReportPart(
    _show_pictures,
    figures=lambda contents: [draw_shifts(contents, contents.samples)] if contents.samples else [],
)

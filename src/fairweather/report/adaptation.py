"""Networks that adapt at test time: beside the plain network, along the stream, and collapsed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from fairweather.metrics.collapse import (
    Collapse,
    average_windows,
    find_collapse,
    is_certainty_wrong,
    is_examined,
)
from fairweather.metrics.columns import FloatArray, IntArray, clopper_pearson
from fairweather.metrics.robustness import ADAPTED
from fairweather.report.charts import COLORS, FAINT, RULE, SOLID, Figure, render_figure
from fairweather.report.contents import Contents
from fairweather.report.section import PartView, ReportPart, Section, Tables, show_tables
from fairweather.report.tables import (
    ABSENT,
    TableLayout,
    TextTable,
    entry_numbers,
    find_entry,
    format_difference,
)
from fairweather.types.measurement import Passes
from fairweather.types.record import (
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE_SUFFIX,
    MEAN,
    NO_LEVEL,
    base_model,
)
from fairweather.variants.variant import SHUFFLED

# A window of the running accuracy is a tenth of the stream, within these limits.
SMALLEST_WINDOW, LARGEST_WINDOW = 20, 200
LARGE_FALL = 0.2  # of accuracy, from which on a stream without a collapse is explained
UNEXAMINED = "not examined"  # a stream that is too short to find a collapse in it
FEW_STEPS = 0.5  # of the batches
MOST_PANELS, POINTS = 4, 120  # of the figure
CALIBRATION, RISK = ADAPTED["rms_calibration_error"], ADAPTED["area_under_risk_coverage"]
ACCURACY = ADAPTED["accuracy"]


class Streams(NamedTuple):
    """The streams of a network that adapts, in one cell; each in its own order."""

    model: str
    cell: str
    right: FloatArray
    """`[streams, n]`, whether the network that adapts is right."""

    plain: FloatArray
    """`[streams, n]`, whether the plain network is right on the same images."""

    collapses: Sequence[Collapse | None] | None
    """Of each stream; certainty counts where it is wrong. None where no earlier batch changes an
    answer, so that no stream can collapse."""

    remark: str
    """What must be known of the streams; "" for nothing."""

    passes: Passes | None
    """What adapting has cost, in images of all streams."""

    seconds: float | None = None
    """How long the network that adapts took for all streams; None if it is not known."""

    plain_seconds: float | None = None
    """How long the plain network took for the same images, once; None if it is not known."""

    @property
    def accuracies(self) -> FloatArray:
        """The accuracy of each stream."""
        return np.asarray(self.right.mean(axis=1))

    @property
    def is_examined(self) -> bool:
        """Whether the streams can collapse, and are long enough to find it."""
        return self.collapses is not None and is_examined(self.right.shape[1])

    @property
    def collapsed(self) -> dict[int, Collapse]:
        """The streams that collapsed, by number."""
        return {at: sign for at, sign in enumerate(self.collapses or ()) if sign is not None}


def list_adapting(contents: Contents) -> dict[str, str]:
    """The networks that adapt, and the same networks as they are; nothing fitted on them."""
    return {
        name: base_model(name)
        for name in contents.titles
        if not name.endswith(ENSEMBLE_SUFFIX)
        and base_model(name) in contents.titles
        and (variant := contents.variant(name)) is not None
        and variant.adapting is not None
        and variant.post_hoc is None
    }


def read_streams(contents: Contents) -> list[Streams]:
    """Read all streams of the first seed; none where patients are judged, who have no place."""
    if contents.aggregation is not None:
        return []
    return [
        streams
        for model, base in list_adapting(contents).items()
        for cell in (*contents.cells, *contents.clean_after(model))
        if (streams := _read_cell(contents, model, base, cell)) is not None
    ]


def _read_cell(contents: Contents, model: str, base: str, cell: str) -> Streams | None:
    seed, variant = contents.seeds_of(model)[0], contents.variant(model)
    unadapted = CLEAN if cell.startswith(CLEAN_AFTER) else cell
    names = ("labels", "predicted", "confidence", "place")
    read = contents.read_stream_columns(model, seed, cell, names)
    plain = contents.read_columns(base, seed, unadapted, ("predicted", "confidence"))
    clean = contents.read_columns(base, seed, CLEAN, ("predicted",))
    if read is None or plain is None or clean is None or variant is None:
        return None
    assert variant.adapting is not None, "it adapts"
    adapting, order = variant.adapting, np.argsort(read[3], axis=1)
    labels, predicted, confidence = (np.take_along_axis(c, order, axis=1) for c in read[:3])
    plain_predicted, plain_confidence, clean_predicted = (c[order] for c in (*plain, *clean))
    right, plain_right = (
        (answers == labels).astype(np.float64) for answers in (predicted, plain_predicted)
    )
    collapses: list[Collapse | None] = []
    for at in range(len(order)):
        collapse = find_collapse(
            predicted[at],
            confidence[at],
            [plain_predicted[at], clean_predicted[at]],
            plain_confidence[at],
            is_sorted=adapting.order != SHUFFLED,
        )
        if collapse is not None and collapse.kind == "certain":
            rest = slice(collapse.place, None)
            columns = right[at, rest], plain_right[at, rest], confidence[at, rest]
            if not is_certainty_wrong(*columns):
                collapse = None
        collapses.append(collapse)
    remark = adapting.remark(labels.shape[1], contents.batch_size(model))
    can_collapse = adapting.remembers and not remark
    return Streams(
        model,
        cell,
        right,
        plain_right,
        collapses if can_collapse else None,
        remark,
        contents.read_passes(model, seed, cell),
        contents.read_seconds(model, seed, cell),
        contents.read_seconds(base, seed, unadapted),
    )


# ---------------------------------------------------------------- tables

_BESIDE_HEAD = TableLayout(
    (
        *("Model", "Images", "Plain (%)", "Adapted (%)", "Change (points)"),
        *("Change of calibration error", "Change of AURC"),
    ),
    words=2,
)
_STREAM_HEAD = TableLayout(
    ("Model", "Images", "Streams", "Lowest (%)", "Highest (%)", "Collapsed", "First sign"),
    words=2,
)
_COST_HEAD = TableLayout(
    (
        *("Model", "Forward", "Backward", "Batches", "Steps", "Resets"),
        *("Images/s", "Plain images/s", "Times plain"),
    )
)


def tabulate_beside(contents: Contents) -> TextTable | None:
    """Accuracy of each network that adapts beside the plain one, with changes and intervals."""
    body, lines, models = [], [], []
    for model, base in list_adapting(contents).items():
        for place, shift, level in _list_places(contents, model):
            changes = [
                contents.score(name, model, shift, level) for name in (ACCURACY, CALIBRATION, RISK)
            ]
            plain = CLEAN if shift.startswith(CLEAN_AFTER) else shift
            scores = [
                find_entry(contents, "accuracy", base, plain, level),
                find_entry(contents, "accuracy", model, shift, level),
            ]
            if changes[0] is None:
                continue
            shown = zip(changes, (True, False, False), strict=True)
            body.append(
                [
                    contents.titles[model],
                    place,
                    *(str(score or ABSENT) for score in scores),
                    *(format_difference(c, percent) if c else ABSENT for c, percent in shown),
                ]
            )
            numbers = (number for entry in (*scores, *changes) for number in entry_numbers(entry))
            lines.append([model, contents.titles[model], shift, level, *numbers])
            models.append(model)
    if not body:
        return None
    names = ("plain", "adapted", "accuracy change", "calibration change", "aurc change")
    columns = [f"{name}{part}" for name in names for part in ("", " low", " high")]
    caption = (
        "Each network that adapts beside the same network as it is, on the same images. Change: "
        "adapted − plain. Calibration error: RMS, 10 equal-width bins. AURC: area under the "
        "risk-coverage curve; smaller is better. In brackets: 95 % intervals over streams and "
        f"images. {contents.sample()}."
    )
    frame = pd.DataFrame(lines, columns=["model", "title", "shift", "level", *columns])
    return TextTable("adaptation", _BESIDE_HEAD, body, [caption], frame, models)


def tabulate_streams(contents: Contents) -> TextTable | None:
    """How the streams of each cell differ, and which of them collapsed."""
    body, lines, models = [], [], []
    for streams in contents.once(read_streams):
        shift, level = contents.cells.get(streams.cell, (streams.cell, NO_LEVEL))
        collapsed, accuracies = streams.collapsed, streams.accuracies
        number, first = next(iter(collapsed.items()), (0, None))
        sign = "" if first is None else f"stream {number + 1}, image {first.place + 1:,}"
        title, share = contents.titles[streams.model], len(collapsed) / len(accuracies)
        low, high = (float(end) for end in clopper_pearson(share, len(accuracies)))
        unknown = ABSENT if streams.collapses is None else UNEXAMINED
        ends = accuracies.min(), accuracies.max()
        body.append(
            [
                *(title, _name_cell(contents, streams), str(len(accuracies))),
                *(f"{100 * accuracy:.1f}" for accuracy in ends),
                f"{len(collapsed)} of {len(accuracies)}" if streams.is_examined else unknown,
                sign or ABSENT,
            ]
        )
        kind, label = ("", "") if first is None else (first.kind, contents.classes[first.label])
        place = math.nan if first is None else first.place + 1
        shares = (len(collapsed), low, high) if streams.is_examined else (math.nan,) * 3
        counts = len(accuracies), *ends, *shares, place, kind, label
        lines.append([streams.model, title, shift, level, *counts])
        models.append(streams.model)
    if not body:
        return None
    caption = (
        "Streams of the first seed: the same images, each time in another order. Collapsed: over "
        "100 images, the network gives one class where the plain network gives several. Certainty "
        "with fewer right answers counts too. First sign: the first of those images."
    )
    columns = ["model", "title", "shift", "level", "streams", "lowest", "highest", "collapsed"]
    columns += ["share low", "share high", "first image", "kind", "class"]
    frame = pd.DataFrame(lines, columns=columns)
    return TextTable("adaptation_streams", _STREAM_HEAD, body, [caption], frame, models)


COSTS = ("forward", "backward", "batches", "steps", "resets", "speed", "plain speed", "times plain")


def sum_costs(cells: Sequence[Streams]) -> tuple[float, ...] | None:
    """Sum what adapting has cost in several cells of a network; None where nothing says so.

    Returns:
        The numbers of `COSTS`. Passes are of an image; speeds are images a second, and NaN where no
        times are known.
    """
    known = [(streams, streams.passes) for streams in cells if streams.passes is not None]
    if not known:
        return None
    passes = np.sum([own for _, own in known], axis=0)
    images = sum(streams.right.size for streams, _ in known)
    times: list[tuple[float, ...]] = [
        (streams.right.size, streams.seconds, streams.right.shape[1], streams.plain_seconds)
        for streams, _ in known
        if streams.seconds and streams.plain_seconds
    ]
    seen, seconds, plain_seen, plain_seconds = np.sum(times or [(math.nan,) * 4], axis=0)
    speed, plain_speed = float(seen / seconds), float(plain_seen / plain_seconds)
    return (*(passes[:2] / images), *passes[2:], speed, plain_speed, plain_speed / speed)


def tabulate_costs(contents: Contents) -> TextTable | None:
    """What adapting costs: passes, steps, resets, and images a second beside the plain network."""
    body, lines, models = [], [], []
    forms = (*[".1f"] * 2, *[",.0f"] * 5, ".1f")
    for model, cells in _list_by_model(contents.once(read_streams)).items():
        if (costs := sum_costs(cells)) is None:
            continue
        texts = [format(cost, form) for cost, form in zip(costs, forms, strict=True)]
        title = contents.titles[model]
        body.append([title, *(ABSENT if text == "nan" else text for text in texts)])
        lines.append([model, title, *costs])
        models.append(model)
    if not body:
        return None
    caption = (
        "Cost over all cells of the first seed. Forward, backward: passes through the network for "
        "each image, without those of validation images. Batches, steps, resets: those of all "
        "streams. A reset brings the model back. Images/s: of the network alone with its steps, "
        "measured once, beside any other work of the machine. Times plain: seconds for an image, "
        "divided by those of the plain network in its own batches."
    )
    frame = pd.DataFrame(lines, columns=["model", "title", *COSTS])
    return TextTable("adaptation_costs", _COST_HEAD, body, [caption], frame, models)


def _list_places(contents: Contents, model: str) -> Iterator[tuple[str, str, str]]:
    yield from contents.means
    if sum(not sweep.is_attack for sweep in contents.sweeps) > 1:
        yield "All shifts", ALL, MEAN
    for shift, words in contents.clean_after(model).items():
        yield f"{words[:1].upper()}{words[1:]}", shift, NO_LEVEL


def _name_cell(contents: Contents, streams: Streams) -> str:
    if streams.cell not in contents.cells:
        words = contents.clean_after(streams.model)[streams.cell]
        return f"{words[:1].upper()}{words[1:]}"
    shift, level = contents.cells[streams.cell]
    sweep = next((sweep for sweep in contents.sweeps if sweep.name == shift), None)
    return "Clean" if sweep is None else sweep.at(level)


# ---------------------------------------------------------------- sentences


def describe_adaptation(contents: Contents) -> list[str]:
    """Say where adapting helps and harms most, what remains of it on clean images, what failed."""
    every = contents.once(read_streams)
    return [
        *summarise_adaptation(contents),
        *_describe_afterwards(contents),
        *_describe_steps(every, contents),
        *_describe_collapses(every, contents),
    ]


def summarise_adaptation(contents: Contents) -> list[str]:
    """Say where adapting gains and where it loses most accuracy, if intervals exclude 0."""
    words = {sweep.name: f"under {sweep.in_sentence}" for sweep in contents.sweeps}
    words |= {CLEAN: "on clean images", ALL: "under all shifts"}
    changes = [
        (change, model, base, shift, level)
        for model, base in list_adapting(contents).items()
        for _, shift, level in _list_places(contents, model)
        if shift in words
        if (change := contents.score(ACCURACY, model, shift, level)) is not None
    ]
    gains = [entry for entry in changes if entry[0].low > 0]
    losses = [entry for entry in changes if entry[0].high < 0]
    sentences = []
    for verb, choose, some in (("lifts", max, gains), ("lowers", min, losses)):
        if some:
            _, model, base, shift, level = choose(some, key=lambda entry: entry[0].value)
            scores = (contents.score("accuracy", name, shift, level) for name in (base, model))
            plain, adapted = (f"{100 * score.value:.0f}" for score in scores if score is not None)
            sentences.append(
                f"{contents.titles[model]} {verb} accuracy {words[shift]} most: "
                f"from {plain} to {adapted} %."
            )
    return sentences


def _describe_afterwards(contents: Contents) -> Iterator[str]:
    """Say whether a network that went from shift to shift still knows clean images."""
    for model, base in list_adapting(contents).items():
        known = [
            (change, words, shift)
            for shift, words in contents.clean_after(model).items()
            if (change := contents.score(ACCURACY, model, shift, NO_LEVEL)) is not None
        ]
        if not known:
            continue
        change, words, shift = min(known)
        adapted = contents.score("accuracy", model, shift, NO_LEVEL)
        plain = contents.score("accuracy", base, CLEAN, NO_LEVEL)
        title = contents.titles[model]
        if adapted is None or plain is None:
            continue
        if change.high < 0:
            values = f"{100 * adapted.value:.0f} % of {words}, the plain network on"
            yield f"{title} is right on {values} {100 * plain.value:.0f} %."
        else:
            yield f"{title}: no loss on {words} was shown."


def _list_by_model(every: Iterable[Streams]) -> dict[str, list[Streams]]:
    by_model: dict[str, list[Streams]] = {}
    for streams in every:
        by_model.setdefault(streams.model, []).append(streams)
    return by_model


def _describe_steps(every: Sequence[Streams], contents: Contents) -> Iterator[str]:
    """Say where a method of gradient steps hardly took any, or came back to the model."""
    for model, cells in _list_by_model(every).items():
        variant, title = contents.variant(model), contents.titles[model]
        counted = [(s, s.passes) for s in cells if s.passes is not None and s.passes.batches]
        if variant is None or variant.adapting is None or not counted:
            continue
        if variant.adapting.takes_steps:
            streams, least = min(counted, key=lambda entry: entry[1].steps / entry[1].batches)
            if least.steps < least.batches * FEW_STEPS:
                count = f"{least.steps:,}" if least.steps else "none"
                yield (
                    f"{title} learned from {count} of its {least.batches:,} batches "
                    f"{_name_place(contents, streams)}."
                )
        streams, most = max(counted, key=lambda entry: entry[1].resets / entry[1].batches)
        if most.resets:
            yield (
                f"{title} went back to the model after {most.resets:,} of {most.batches:,} batches "
                f"{_name_place(contents, streams)}."
            )


def _name_place(contents: Contents, streams: Streams) -> str:
    if streams.cell == CLEAN:
        return "on clean images"
    if streams.cell in contents.cells:
        return f"under {_name_cell(contents, streams)}"
    return f"on {contents.clean_after(streams.model)[streams.cell]}"


def _describe_collapses(every: Sequence[Streams], contents: Contents) -> Iterator[str]:
    healthy: dict[int, list[str]] = {}
    for model, cells in _list_by_model(every).items():
        title, count = contents.titles[model], len(cells[0].accuracies)
        worst = max(cells, key=lambda streams: len(streams.collapsed))
        fall = max(cells, key=lambda streams: float(streams.plain.mean() - streams.right.mean()))
        if worst.remark:
            yield f"{title}: {worst.remark}"
        if not worst.is_examined:
            continue
        if worst.collapsed:
            number, collapse = next(iter(worst.collapsed.items()))
            some = f"{len(worst.collapsed)} of {count} streams collapse"
            answers = "is sure of wrong answers"
            if collapse.kind == "one class":
                answers = f"answers “{contents.classes[collapse.label]}”"
            yield (
                f"{title}: {'its stream collapses' if count == 1 else some} "
                f"{_name_place(contents, worst)}. "
                f"From image {collapse.place + 1:,} on, stream {number + 1} {answers}."
            )
        elif (lost := fall.plain.mean() - fall.right.mean()) >= LARGE_FALL:
            yield (
                f"{title} loses {100 * lost:.0f} points {_name_place(contents, fall)}. "
                "No stream collapsed to one class there."
            )
        elif count > 1:
            healthy.setdefault(count, []).append(title)
    for count, titles in healthy.items():
        which = titles[0] if len(titles) == 1 else f"{len(titles)} networks"
        most = 100 * float(clopper_pearson(0.0, count)[1])
        yield (
            f"No stream of {which} collapsed in any cell. "
            f"With {count} streams, up to {most:.0f} % of others still may."
        )


# ---------------------------------------------------------------- accuracy along the stream


def draw_streams(contents: Contents) -> Figure | None:
    """Draw the running accuracy of each network that adapts, where the plain one is worst."""
    chosen = list(_choose_panels(contents.once(read_streams)))
    if not chosen:
        return None
    panels = [_draw_panel(contents, streams) for streams in chosen]
    window = _choose_window(chosen[0])
    return render_figure(
        "adaptation",
        alt.concat(*panels, columns=2, spacing=32),
        "Accuracy along the stream",
        [
            f"Running accuracy over {window} images, mean over the streams. Thin lines: each "
            "stream. Grey: the plain network on the same images. Shown is the cell where it is "
            "least accurate."
        ],
        f"Running accuracy over {window} images along the stream, of each network that adapts and "
        "of the plain network. The tables of this section hold the accuracies.",
        letters=110,
    )


def _choose_panels(every: Iterable[Streams]) -> Iterator[Streams]:
    """The cell with the lowest plain accuracy of each of the first models."""
    hardest: dict[str, Streams] = {}
    for streams in every:
        known = hardest.get(streams.model)
        if known is None or streams.plain.mean() < known.plain.mean():
            hardest[streams.model] = streams
    yield from list(hardest.values())[:MOST_PANELS]


def _choose_window(streams: Streams) -> int:
    images = streams.right.shape[1]
    return min(max(SMALLEST_WINDOW, min(LARGEST_WINDOW, images // 10)), images)


def _draw_panel(contents: Contents, streams: Streams) -> alt.LayerChart | alt.FacetChart:
    window = _choose_window(streams)
    own, plain = (average_windows(c, window) for c in (streams.right, streams.plain))
    places: IntArray = np.unique(np.linspace(0, own.shape[1] - 1, POINTS).astype(np.int64))
    thin = [_make_rows(f"stream {at + 1}", line, places, window) for at, line in enumerate(own)]
    lines = [
        ([row for rows in thin for row in rows], COLORS[0], 0.7, 0.35),
        (_make_rows("plain", plain.mean(axis=0), places, window), RULE, 2.0, 1.0),
        (_make_rows("adapted", own.mean(axis=0), places, window), COLORS[0], 2.2, 1.0),
    ]
    layers = [
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=width, color=color, opacity=opacity, strokeDash=SOLID)
        .encode(
            x=alt.X("image:Q", title="image of the stream").scale(zero=False, nice=False),
            y=alt.Y("value:Q", title="accuracy", axis=alt.Axis(format=".0%", tickCount=5)).scale(
                domain=(0, 1)
            ),
            detail="line:N",
        )
        for rows, color, width, opacity in lines
    ]
    subtitle = _name_cell(contents, streams)
    title = alt.Title(
        contents.titles[streams.model], subtitle=subtitle, fontSize=13, subtitleColor=FAINT
    )
    return alt.layer(*layers).properties(width=330, height=200, title=title)


def _make_rows(
    name: str, line: FloatArray, places: IntArray, window: int
) -> list[Mapping[str, Any]]:
    return [
        {"line": name, "image": int(place) + window, "value": round(float(line[place]), 6)}
        for place in places
    ]


def _show_streams(contents: Contents, tables: Tables) -> PartView | None:
    if not tables:
        return None
    return PartView(tables=tables, figures=["adaptation"], notes=describe_adaptation(contents))


BESIDE = ReportPart(show_tables(""), lambda contents: [tabulate_beside(contents)])
STREAMS = ReportPart(
    _show_streams,
    lambda contents: [tabulate_streams(contents), tabulate_costs(contents)],
    lambda contents: [draw_streams(contents)],
)
SECTION = Section("adaptation", "Adapting at test time", (BESIDE, STREAMS))

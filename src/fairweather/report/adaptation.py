"""Networks that adapt at test time: beside the plain network, along the stream, and collapsed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from fairweather.metrics.collapse import (
    WINDOW,
    Collapse,
    average_windows,
    choose_window,
    find_collapse,
    is_certainty_wrong,
    is_examined,
)
from fairweather.metrics.columns import FloatArray, IntArray, clopper_pearson
from fairweather.metrics.robustness import ADAPTED
from fairweather.report.charts import COLORS, FAINT, RULE, SOLID, Figure, render_figure
from fairweather.report.contents import Contents
from fairweather.report.performance import COVERAGE, RISK
from fairweather.report.section import PartView, ReportPart, Section, Tables
from fairweather.report.tables import (
    ABSENT,
    TableLayout,
    TextTable,
    entry_numbers,
    find_entry,
    format_difference,
)
from fairweather.types.measurement import Passes, Score
from fairweather.types.record import (
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE_SUFFIX,
    MEAN,
    NO_LEVEL,
    base_model,
)
from fairweather.variants.adaptation.gradients import AdaptingByGradients
from fairweather.variants.variant import CONTINUAL, EPISODIC, GRADUAL, MIXED, SHUFFLED, Adapting

# A window of the running accuracy is a tenth of the stream, within these limits.
SMALLEST_WINDOW, LARGEST_WINDOW = 20, 200
LARGE_FALL = 0.2  # of accuracy, from which on a stream without a collapse is explained
UNEXAMINED = "not examined"  # a stream that is too short to find a collapse in it
FEW_STEPS = 0.5  # of the batches
MOST_PANELS, POINTS = 4, 120  # of the figure
PANEL, PANEL_LETTERS = (330, 200), 46  # its width and height, and letters in a line of its title
MOST_NAMED = 3  # networks in a sentence
CHANGED = ("accuracy", "rms_calibration_error", "area_under_risk_coverage")  # of the first table
LIMIT = 0.05  # of errors among the answers above a threshold, in the names of `RISK` and `COVERAGE`


class Streams(NamedTuple):
    """The streams of a network that adapts, in one cell; each in its own order."""

    model: str
    cell: str
    """`MIXED` where a stream has the images of all cells."""

    right: FloatArray
    """`[streams, n]`, whether the network that adapts is right."""

    plain: FloatArray
    """`[streams, n]`, whether the plain network is right on the same images."""

    collapses: Sequence[Collapse | None] | None
    """Of each stream; certainty counts where it is wrong. None where no earlier batch changes an
    answer, and no batch alone gives one class."""

    remark: str
    """What must be known of the streams; "" for nothing."""

    passes: Passes | None
    """What adapting has cost, in images of all streams."""

    adapts: str | None = None
    """What adapting changes of the network; None if it is not known."""

    seconds: float | None = None
    """How long the network that adapts took for all streams; None if it is not known."""

    plain_seconds: float | None = None
    """How long the plain network took for the same images, once; None if it is not known, or if
    another cell says it. Of mixed streams, as if each cell took the median of all."""

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


def title_adapting(contents: Contents) -> dict[str, str]:
    """The title of each network that adapts; its method alone where all adapt the same network."""
    adapting = list_adapting(contents)
    starts = {base: f"{contents.titles[base]} + " for base in adapting.values()}
    if len(starts) > 1:
        return {model: contents.titles[model] for model in adapting}
    return {
        model: _capitalise(contents.titles[model].removeprefix(starts[base]))
        for model, base in adapting.items()
    }


def _name_bases(contents: Contents) -> str:
    bases = list(dict.fromkeys(list_adapting(contents).values()))
    return f"{contents.titles[bases[0]]}, adapted," if len(bases) == 1 else "Each adapted network"


def read_streams(contents: Contents) -> list[Streams]:
    """Read all streams of the first seed; none where patients are judged, who have no place."""
    if contents.aggregation is not None:
        return []
    every = []
    for model, base in list_adapting(contents).items():
        adapting = _find_adapting(contents, model)
        cells = (*contents.cells, *contents.clean_after(model))
        parts = [cells] if adapting.cells == MIXED else [[cell] for cell in cells]
        read = (_read_streams(contents, adapting, model, base, part) for part in parts)
        every += _leave_out_impossible(adapting, [own for own in read if own is not None])
    return every


def _find_adapting(contents: Contents, model: str) -> Adapting:
    variant = contents.variant(model)
    assert variant is not None, "it adapts"
    assert variant.adapting is not None, "it adapts"
    return variant.adapting


def _leave_out_impossible(adapting: Adapting, cells: Sequence[Streams]) -> list[Streams]:
    """Leave out collapses where no earlier batch changes an answer, and no batch gives one class.

    What collapses in one cell can do so in all.
    """
    can_collapse = not adapting.alone and any(streams.collapsed for streams in cells)
    return [
        streams
        if can_collapse or (adapting.remembers and not streams.remark)
        else streams._replace(collapses=None)
        for streams in cells
    ]


class _Columns(NamedTuple):
    """Columns `[streams, n]` of a network that adapts, and `[n]` of the plain one."""

    labels: IntArray
    predicted: IntArray
    confidence: FloatArray
    place: IntArray
    plain_predicted: IntArray
    plain_confidence: FloatArray
    clean_predicted: IntArray


def _read_columns(contents: Contents, model: str, base: str, cell: str) -> _Columns | None:
    seed = contents.seeds_of(model)[0]
    unadapted = CLEAN if cell.startswith(CLEAN_AFTER) else cell
    read = contents.read_stream_columns(model, seed, cell, _Columns._fields[:4])
    plain = contents.read_columns(base, seed, unadapted, ("predicted", "confidence"))
    clean = contents.read_columns(base, seed, CLEAN, ("predicted",))
    if read is None or plain is None or clean is None:
        return None
    return _Columns(*read, *plain, *clean)


def _read_streams(
    contents: Contents, adapting: Adapting, model: str, base: str, cells: Sequence[str]
) -> Streams | None:
    """Read the streams of a cell, or of all cells that they mix."""
    known = [(cell, c) for cell in cells if (c := _read_columns(contents, model, base, cell))]
    if not known:
        return None
    cells = [cell for cell, _ in known]
    joined = _Columns(
        *(np.concatenate(c, axis=-1) for c in zip(*(c for _, c in known), strict=True))
    )
    if joined.place.max() >= joined.place.shape[1]:
        return None  # cells of a mixed stream are missing, and their places with them
    seed, order = contents.seeds_of(model)[0], np.argsort(joined.place, axis=1)
    labels, predicted = (np.take_along_axis(c, order, axis=1) for c in joined[:2])
    confidence = np.take_along_axis(joined.confidence, order, axis=1)
    plain_predicted, clean_predicted = joined.plain_predicted[order], joined.clean_predicted[order]
    plain_confidence = joined.plain_confidence[order]
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
    passes = [costs for cell in cells if (costs := contents.read_passes(model, seed, cell))]
    seconds = [own for cell in cells if (own := contents.read_seconds(model, seed, cell))]
    unadapted = [cell for cell in cells if not cell.startswith(CLEAN_AFTER)]
    plain_seconds = [own for cell in unadapted if (own := contents.read_seconds(base, seed, cell))]
    return Streams(
        model,
        cells[0] if len(cells) == 1 else MIXED,
        right,
        plain_right,
        collapses,
        adapting.remark(labels.shape[1], contents.batch_size(model)),
        Passes(*map(sum, zip(*passes, strict=True))) if passes else None,
        contents.read_adapts(model, seed, cells[0]),
        len(cells) * median(seconds) if seconds else None,  # the first cell's record has it
        len(cells) * median(plain_seconds) if plain_seconds else None,
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
        *("Model", "Adapts", "Forward", "Backward", "Steps / batches", "Images/s"),
        "Times plain",
    ),
    words=2,
)


def tabulate_beside(contents: Contents) -> TextTable | None:
    """Accuracy of each network that adapts beside the plain one, with changes and intervals."""
    body, lines, models = [], [], []
    for place in _list_places(contents):
        changes = [place.score(contents, ADAPTED[name]) for name in CHANGED]
        if changes[0] is None:
            continue
        scores = [find_entry(contents, "accuracy", *cell) for cell in (place.plain, place.adapted)]
        shown = zip(changes, (True, False, False), strict=True)
        body.append(
            [
                contents.once(title_adapting)[place.model],
                place.title,
                *(str(score or ABSENT) for score in scores),
                *(format_difference(c, percent) if c else ABSENT for c, percent in shown),
            ]
        )
        numbers = (number for entry in (*scores, *changes) for number in entry_numbers(entry))
        model, shift, level = place.adapted
        written = _find_adapting(contents, model).full_text
        lines.append([model, contents.titles[model], shift, level, *numbers, written])
        models.append(model)
    if not body:
        return None
    names = ("plain", "adapted", "accuracy change", "calibration change", "aurc change")
    columns = [f"{name}{part}" for name in names for part in ("", " low", " high")]
    caption = (
        f"{_name_bases(contents)} beside the same network as it is, on the same images. Change: "
        "adapted − plain. Calibration error: RMS, 10 equal-width bins. AURC: area under the "
        "risk-coverage curve; smaller is better. In brackets: 95 % intervals over images, and over "
        f"streams where a network has several. {contents.sample()}. Intervals of changes are too "
        "narrow where each image steers the network. All parameters of each method, also those at "
        "their defaults: tables/adaptation.csv."
    )
    frame = pd.DataFrame(lines, columns=["model", "title", "shift", "level", *columns, "variant"])
    return TextTable("adaptation", _BESIDE_HEAD, body, [caption], frame, models)


def tabulate_streams(contents: Contents) -> TextTable | None:
    """How the streams of each network differ, and which of them collapsed.

    The text has a row for each cell with a collapse, and one for all others of a network; the
    numbers have all cells.
    """
    body, models, every = [], [], contents.once(read_streams)
    for model, cells in _list_by_model(every).items():
        calm = [streams for streams in cells if not streams.collapsed]
        shown = [(streams, "") for streams in cells if streams.collapsed]
        if calm:
            widest = max(calm, key=lambda streams: float(np.ptp(streams.accuracies)))
            has_several = len(widest.accuracies) > 1
            others, less = f", and {_count(len(calm) - 1, 'other set')} of images", ""
            if has_several:
                less = " that varies less" if len(calm) == 2 else " that vary less"
            others = f"{others}{less}" if len(calm) > 1 else ""
            if has_several or widest.collapses is not None:
                shown.append((widest, others))
        for streams, others in shown:
            collapsed, accuracies = streams.collapsed, streams.accuracies
            number, first = next(iter(collapsed.items()), (0, None))
            sign = ABSENT if first is None else f"stream {number + 1}, image {first.place + 1:,}"
            unknown = ABSENT if streams.collapses is None else UNEXAMINED
            share = f"{len(collapsed)} of {len(accuracies)}"
            body.append(
                [
                    contents.once(title_adapting)[model],
                    f"{_capitalise(_name_cell(contents, streams))}{others}",
                    str(len(accuracies)),
                    *(f"{100 * end:.1f}" for end in (accuracies.min(), accuracies.max())),
                    share if streams.is_examined else unknown,
                    sign,
                ]
            )
            models.append(model)
    if not body:
        return None
    windows = {choose_window(streams.right.shape[1]) for streams in every if streams.is_examined}
    over = " or ".join(map(str, sorted(windows or {WINDOW})))
    caption = (
        "Streams of the first seed: the same images, each time in another order. Collapsed: over "
        f"{over} images, the network gives one class where the plain network gives several. "
        "Certainty with fewer right answers counts too. First sign: the first of those images. "
        "A dash under Collapsed: no earlier batch changes an answer."
    )
    columns = ["model", "title", "shift", "level", "streams", "lowest", "highest", "collapsed"]
    columns += ["share low", "share high", "first image", "kind", "class"]
    frame = pd.DataFrame([_list_numbers(contents, one) for one in every], columns=columns)
    return TextTable("adaptation_streams", _STREAM_HEAD, body, [caption], frame, models)


def _list_numbers(contents: Contents, streams: Streams) -> list[object]:
    accuracies, collapsed = streams.accuracies, streams.collapsed
    shift, level = contents.cells.get(streams.cell, (streams.cell, NO_LEVEL))
    count = len(collapsed)
    ends = clopper_pearson(count / len(accuracies), len(accuracies))
    shares = (count, *map(float, ends)) if streams.is_examined else (math.nan,) * 3
    first = next(iter(collapsed.values()), None)
    sign = (math.nan, "", "")
    if first is not None:
        sign = first.place + 1, first.kind, contents.classes[first.label]
    numbers = len(accuracies), accuracies.min(), accuracies.max(), *shares, *sign
    return [streams.model, contents.titles[streams.model], shift, level, *numbers]


COSTS = ("forward", "backward", "batches", "steps", "resets", "speed", "plain speed", "times plain")


def sum_costs(cells: Sequence[Streams]) -> tuple[float, ...] | None:
    """Sum what adapting has cost in several cells of a network; None where nothing says so.

    Returns:
        The numbers of `COSTS`. Passes are of an image. Speeds are images a second, the median over
        the cells, and NaN where no times are known.
    """
    known = [(streams, streams.passes) for streams in cells if streams.passes is not None]
    if not known:
        return None
    passes = np.sum([own for _, own in known], axis=0)
    images = sum(streams.right.size for streams, _ in known)
    # The first cell of a process is slower: kernels are chosen, and models may be compiled.
    speeds = [streams.right.size / streams.seconds for streams, _ in known if streams.seconds]
    plain_speeds = [
        streams.right.shape[1] / streams.plain_seconds
        for streams, _ in known
        if streams.plain_seconds
    ]
    speed, plain_speed = (median(own or [math.nan]) for own in (speeds, plain_speeds))
    return (*(passes[:2] / images), *passes[2:], speed, plain_speed, plain_speed / speed)


def tabulate_costs(contents: Contents) -> TextTable | None:
    """What adapts, and what it costs: passes, steps, and images a second beside the plain one."""
    body, lines, models = [], [], []
    for model, cells in _list_by_model(contents.once(read_streams)).items():
        if (costs := sum_costs(cells)) is None:
            continue
        forward, backward, batches, steps, _, speed, _, times = costs
        texts = (
            *(f"{forward:.1f}", f"{backward:.1f}", f"{steps:,.0f} / {batches:,.0f}"),
            *(f"{speed:,.0f}", f"{times:.1f}"),
        )
        title = contents.once(title_adapting)[model]
        adapts = next((streams.adapts for streams in cells if streams.adapts), "")
        numbers = (ABSENT if text == "nan" else text for text in texts)
        body.append([title, _capitalise(adapts) or ABSENT, *numbers])
        lines.append([model, contents.titles[model], *costs, adapts])
        models.append(model)
    if not body:
        return None
    caption = (
        "Adapts: what adapting changes of the network. Methods that take steps also use each "
        "batch's statistics in batch norm. Costs of the first seed, over all shifts and levels. "
        "Forward, backward: passes through the network for each image, without those of validation "
        "images. Steps, batches: those of all streams. Images/s: of the network alone with its "
        "steps; the median over shifts and levels, beside "
        "any other work of the machine. A plain network on a CPU may share it with processes that "
        "shift images. Times plain: seconds for an image, divided by those of the plain network in "
        "its own batches. Resets, and the plain network's images/s: tables/adaptation_costs.csv."
    )
    frame = pd.DataFrame(lines, columns=["model", "title", *COSTS, "adapts"])
    return TextTable("adaptation_costs", _COST_HEAD, body, [caption], frame, models)


class AdaptedPlace(NamedTuple):
    """Images that a network that adapts has seen, beside the plain network."""

    model: str
    base: str
    title: str
    """Of the images, in a table."""

    words: str
    """Where something happens, in a sentence."""

    shift: str
    level: str
    """`shift`, `level`: as in scores.csv."""

    @property
    def adapted(self) -> tuple[str, str, str]:
        """Model, shift and level of the adapted network's scores."""
        return self.model, self.shift, self.level

    @property
    def plain(self) -> tuple[str, str, str]:
        """The same of the plain network, to which clean images are the same at all times."""
        return self.base, CLEAN if self.is_afterwards else self.shift, self.level

    @property
    def is_afterwards(self) -> bool:
        """Whether these are clean images after shifts."""
        return self.shift.startswith(CLEAN_AFTER)

    def score(self, contents: Contents, metric: str) -> Score | None:
        """A score of the adapted network; None where there is none."""
        return contents.score(metric, *self.adapted)


def _list_places(contents: Contents) -> Iterator[AdaptedPlace]:
    for model, base in list_adapting(contents).items():
        yield AdaptedPlace(model, base, "Clean", "on clean images", CLEAN, NO_LEVEL)
        for sweep in contents.sweeps:
            where = f"under {sweep.in_sentence}"
            yield AdaptedPlace(model, base, sweep.title, where, sweep.name, MEAN)
        if sum(not sweep.is_attack for sweep in contents.sweeps) > 1:
            yield AdaptedPlace(model, base, "All shifts", "under all shifts", ALL, MEAN)
        for shift, words in contents.clean_after(model).items():
            title = _capitalise(words.replace("images ", ""))
            yield AdaptedPlace(model, base, title, f"on {words}", shift, NO_LEVEL)


def _count(number: int, noun: str, several: str = "s") -> str:
    return f"{number:,} {noun}{several if number != 1 else ''}"


def _name_cell(contents: Contents, streams: Streams) -> str:
    if streams.cell == MIXED:
        return "clean and shifted images"
    if streams.cell not in contents.cells:
        return contents.clean_after(streams.model)[streams.cell]
    shift, level = contents.cells[streams.cell]
    sweep = next((sweep for sweep in contents.sweeps if sweep.name == shift), None)
    return "clean images" if sweep is None else sweep.at(level)


def _capitalise(words: str) -> str:
    return words[:1].upper() + words[1:]


# ---------------------------------------------------------------- sentences


def describe_adaptation(contents: Contents) -> list[str]:
    """Say where adapting helps and harms most, what fails, and what confidence is then worth."""
    every = contents.once(read_streams)
    return [
        *_describe_extremes(contents, *_ACCURACY),
        *_describe_afterwards(contents),
        *_describe_earlier_shifts(contents),
        *_describe_extremes(contents, "rms_calibration_error", "the calibration error", 1, ".3f"),
        *_describe_deferral(contents),
        *_describe_steps(every, contents),
        *_describe_collapses(every, contents),
    ]


def summarise_adaptation(contents: Contents) -> list[str]:
    """Say where adapting gains and where it loses most accuracy, if intervals exclude 0.

    A last sentence names a collapse.
    """
    collapse = _summarise_collapses(contents.once(read_streams), contents)
    return [*_describe_extremes(contents, *_ACCURACY), *collapse]


_ACCURACY = ("accuracy", "accuracy", 100, ".0f", " %")


def _describe_extremes(
    contents: Contents, metric: str, noun: str, scale: float, form: str, unit: str = ""
) -> Iterator[str]:
    """Say where adapting raises a metric most, and where it lowers it most, beyond intervals."""
    changes = [
        (change, place)
        for place in _list_places(contents)
        if (change := place.score(contents, ADAPTED[metric])) and not place.is_afterwards
    ]
    gains = [entry for entry in changes if entry[0].low > 0]
    losses = [entry for entry in changes if entry[0].high < 0]
    for verb, choose, some in (("raises", max, gains), ("lowers", min, losses)):
        if some:
            _, place = choose(some, key=lambda entry: entry[0].value)
            scores = (contents.score(metric, *cell) for cell in (place.plain, place.adapted))
            plain, adapted = (format(scale * score.value, form) for score in scores if score)
            title = contents.once(title_adapting)[place.model]
            yield f"{title} {verb} {noun} {place.words} most: from {plain} to {adapted}{unit}."


def _describe_afterwards(contents: Contents) -> Iterator[str]:
    """Say whether a network that went from shift to shift still knows clean images."""
    changes = [
        (change, place)
        for place in _list_places(contents)
        if place.is_afterwards and (change := place.score(contents, ADAPTED["accuracy"]))
    ]
    for model, own in groupby(changes, key=lambda entry: entry[1].model):
        change, place = min(own)
        scores = (contents.score("accuracy", *cell) for cell in (place.adapted, place.plain))
        adapted, plain = (100 * score.value for score in scores if score)
        title = contents.once(title_adapting)[model]
        yield (
            f"{title} is {adapted:.0f} % right {place.words}, the plain network {plain:.0f} %."
            f"{' The interval of the change includes 0.' * (change.low <= 0 <= change.high)}"
        )


def _describe_earlier_shifts(contents: Contents) -> Iterator[str]:
    """Say where what a network saw before matters most, beside new copies of the network.

    Of images that come after others, where the intervals of the two accuracies do not overlap.
    """
    bases, alike = list_adapting(contents), []
    for model, base in bases.items():
        adapting, title = _find_adapting(contents, model), contents.once(title_adapting)[model]
        anew = (
            other
            for other, its_base in bases.items()
            if its_base == base
            and other != model
            and _find_adapting(contents, other) == replace(adapting, cells=EPISODIC)
        )
        if not adapting.remembers or (other := next(anew, None)) is None:
            continue
        pairs = [
            (own, new, place)
            for shift, level, place in _list_later(contents, adapting.cells)
            if (own := contents.score("accuracy", model, shift, level))
            and (new := contents.score("accuracy", other, shift, level))
        ]
        apart = [(o, n, place) for o, n, place in pairs if o.high < n.low or n.high < o.low]
        if apart:
            own, new, place = max(apart, key=lambda pair: abs(pair[0].value - pair[1].value))
            what = "shifts" if adapting.cells == CONTINUAL else "levels"
            shares = f"{100 * own.value:.0f} % right there, and new copies {100 * new.value:.0f} %"
            yield f"{title}: earlier {what} matter most under {place}. It is {shares}."
        elif pairs:
            alike.append(title)
    if alike:
        which = _name_few(alike, len(bases))
        begin = f"No effect of earlier images on the accuracy of {which} is shown"
        yield f"{begin}: the intervals overlap those of new copies."


def _list_later(contents: Contents, cells: str) -> Iterator[tuple[str, str, str]]:
    """Shift, level and words of what a network sees after other shifted images."""
    shifts = [sweep for sweep in contents.sweeps if not sweep.is_attack]
    if cells == CONTINUAL:
        for sweep in shifts[1:]:
            yield sweep.name, MEAN, sweep.in_sentence
    if cells == GRADUAL:
        for sweep in shifts:
            strength = {level: abs(float(level) - sweep.neutral) for level in sweep.cells}
            for level, own in strength.items():
                if own > min(strength.values()):  # others as mild may be the first
                    yield sweep.name, level, sweep.at(level)


def _name_few(titles: Sequence[str], of: int) -> str:
    return (
        " or of ".join(titles)
        if len(titles) <= MOST_NAMED
        else f"{len(titles)} of the {of} networks"
    )


def _describe_deferral(contents: Contents) -> Iterator[str]:
    """Say where thresholds of validation images let most wrong answers of adapted networks pass."""
    broken = [
        (risk, place)
        for place in _list_places(contents)
        if (risk := place.score(contents, RISK)) and risk.low > LIMIT
    ]
    if not broken:
        return
    _, place = max(broken)
    limit = f"a limit of {100 * LIMIT:.0f} % errors, set on validation images,"
    said = [f"{contents.once(title_adapting)[place.model]} exceeds {limit} most {place.words}."]
    for name, cell in (("It", place.adapted), ("The plain network", place.plain)):
        answered, wrong = (contents.score(metric, *cell) for metric in (COVERAGE, RISK))
        if answered and wrong and not math.isnan(wrong.value):
            shares = 100 * answered.value, 100 * wrong.value
            said.append("{} answers {:.0f} %, {:.0f} % of these wrongly.".format(name, *shares))
    yield " ".join(said)


def _list_by_model(every: Iterable[Streams]) -> dict[str, list[Streams]]:
    by_model: dict[str, list[Streams]] = {}
    for streams in every:
        by_model.setdefault(streams.model, []).append(streams)
    return by_model


def _describe_steps(every: Sequence[Streams], contents: Contents) -> Iterator[str]:
    """Say where a method of gradient steps hardly took any, or came back to the model."""
    for model, cells in _list_by_model(every).items():
        title = contents.once(title_adapting)[model]
        counted = [(s, s.passes) for s in cells if s.passes is not None and s.passes.batches]
        if not counted:
            continue
        adapting = _find_adapting(contents, model)
        if isinstance(adapting, AdaptingByGradients):
            streams, least = min(counted, key=lambda entry: entry[1].steps / entry[1].batches)
            possible = least.batches * adapting.steps
            if least.steps < possible * FEW_STEPS:
                count = f"{least.steps:,}" if least.steps else "none"
                yield (
                    f"{title} took {count} of its {possible:,} steps "
                    f"{_name_place(contents, streams)}."
                )
        streams, most = max(counted, key=lambda entry: entry[1].resets / entry[1].batches)
        if most.resets:
            yield (
                f"{title} went back to the model {_count(most.resets, 'time')} in "
                f"{_count(most.batches, 'batch', 'es')} {_name_place(contents, streams)}."
            )


def _name_place(contents: Contents, streams: Streams) -> str:
    is_shifted = streams.cell in contents.cells and streams.cell != CLEAN
    preposition = "under" if is_shifted else "on"
    return f"{preposition} {_name_cell(contents, streams)}{_name_seed(contents)}"


def _name_seed(contents: Contents) -> str:
    return f" ({contents.first_seed})" if contents.first_seed else ""


def _choose_worst(cells: Iterable[Streams]) -> Streams:
    return max(cells, key=lambda streams: len(streams.collapsed))


def _count_collapsed(contents: Contents, streams: Streams) -> str:
    collapsed, count = len(streams.collapsed), len(streams.accuracies)
    verb = "collapses" if collapsed == 1 else "collapse"
    which = "its stream" if count == 1 else f"{collapsed} of {count} streams"
    title = contents.once(title_adapting)[streams.model]
    return f"{title}: {which} {verb} {_name_place(contents, streams)}"


def _summarise_collapses(every: Sequence[Streams], contents: Contents) -> Iterator[str]:
    """Name the network with the largest share of collapsed streams, and count the others."""
    worst = [_choose_worst(cells) for cells in _list_by_model(every).values()]
    collapsed = [streams for streams in worst if streams.collapsed]
    if collapsed:
        most = max(collapsed, key=lambda streams: len(streams.collapsed) / len(streams.accuracies))
        others = f" Streams of {_count(len(collapsed) - 1, 'other network')} collapse too."
        yield f"{_count_collapsed(contents, most)}.{others * (len(collapsed) > 1)}"


def _describe_collapses(every: Sequence[Streams], contents: Contents) -> Iterator[str]:
    healthy: dict[int, list[str]] = {}
    falls: list[tuple[float, str, str, bool]] = []
    by_model = _list_by_model(every)
    for model, cells in by_model.items():
        title, count = contents.once(title_adapting)[model], len(cells[0].accuracies)
        worst = _choose_worst(cells)
        fall = max(cells, key=lambda streams: float(streams.plain.mean() - streams.right.mean()))
        if worst.remark:
            yield f"{title}: {worst.remark}"
        if worst.collapsed:
            number, collapse = next(iter(worst.collapsed.items()))
            answers = "is sure of wrong answers"
            if collapse.kind == "one class":
                answers = f"answers “{contents.classes[collapse.label]}”"
            yield (
                f"{_count_collapsed(contents, worst)}. "
                f"From image {collapse.place + 1:,} on, stream {number + 1} {answers}."
            )
        elif (lost := fall.plain.mean() - fall.right.mean()) >= LARGE_FALL:
            falls.append((lost, title, _name_place(contents, fall), fall.is_examined))
        elif count > 1 and worst.is_examined:
            healthy.setdefault(count, []).append(title)
    if falls:
        lost, title, place, is_examined_there = max(falls)
        others = f"{len(falls)} networks lose {100 * LARGE_FALL:.0f} points or more. "
        yield (
            f"{others if len(falls) > 1 else ''}{title} loses {100 * lost:.0f} points {place}."
            f"{' No stream collapsed to one class there.' * is_examined_there}"
        )
    for count, titles in healthy.items():
        which = _name_few(titles, len(by_model))
        most = 100 * float(clopper_pearson(0.0, count)[1])
        yield (
            f"No stream of {which} collapsed{_name_seed(contents)}. "
            f"With {count} streams, up to {most:.0f} % of others still may."
        )


# ---------------------------------------------------------------- accuracy along the stream


def draw_streams(contents: Contents) -> Figure | None:
    """Draw the running accuracy of networks that adapt, where adapting changes accuracy most."""
    chosen = _choose_panels(contents.once(read_streams))
    if not chosen:
        return None
    panels = [_draw_panel(contents, streams) for streams in chosen]
    windows = sorted({_choose_window(streams) for streams in chosen})
    over = f"over {' or '.join(map(str, windows))} images"
    return render_figure(
        "adaptation",
        alt.concat(*panels, columns=2, spacing=32),
        "Accuracy along the stream",
        [
            f"Running accuracy {over}, mean over the streams. Thin lines: each "
            "stream. Grey: the plain network on the same images. Shown is where adapting changes "
            "most."
        ],
        f"Running accuracy {over} along the stream, of each network that adapts and "
        "of the plain network. The tables of this section hold the accuracies.",
        letters=110,
    )


def _choose_panels(every: Iterable[Streams]) -> list[Streams]:
    """The cell with the largest change of accuracy, of each of the models that change most."""
    most = [max(cells, key=_measure_change) for cells in _list_by_model(every).values()]
    return sorted(most, key=_measure_change, reverse=True)[:MOST_PANELS]


def _measure_change(streams: Streams) -> float:
    return abs(float(streams.right.mean() - streams.plain.mean()))


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
        textwrap.wrap(contents.once(title_adapting)[streams.model], PANEL_LETTERS),
        subtitle=subtitle,
        fontSize=13,
        subtitleColor=FAINT,
    )
    return alt.layer(*layers).properties(width=PANEL[0], height=PANEL[1], title=title)


def _make_rows(
    name: str, line: FloatArray, places: IntArray, window: int
) -> list[Mapping[str, Any]]:
    return [
        {"line": name, "image": int(place) + window, "value": round(float(line[place]), 6)}
        for place in places
    ]


def _show(contents: Contents, tables: Tables) -> PartView | None:
    if not tables:
        return None
    return PartView(tables=tables, figures=["adaptation"], notes=describe_adaptation(contents))


TABLES = (tabulate_beside, tabulate_streams, tabulate_costs)
PART = ReportPart(
    _show,
    lambda contents: [tabulate(contents) for tabulate in TABLES],
    lambda contents: [draw_streams(contents)],
)
SECTION = Section("adaptation", "Adapting at test time", (PART,))

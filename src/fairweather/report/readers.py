"""The models beside people who have called the same test images, such as radiologists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special

from fairweather.metrics.agreement import score_agreement, score_alpha
from fairweather.metrics.columns import BoolArray, Ends, FloatArray, IntArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.readers import (
    FEWEST_READERS,
    ModelBesideReaders,
    RandomReaders,
    ReaderComparison,
    ReaderPoint,
    compare_with_readers,
    reader_points,
)
from fairweather.report.contents import Contents
from fairweather.report.section import Brief, ReportPart, Section, show_tables
from fairweather.report.tables import (
    ABSENT,
    ScoreEntry,
    TableLayout,
    TextTable,
    entry_numbers,
    format_difference,
)
from fairweather.tasks import FindingsPredictions
from fairweather.types.kinds import OF_FINDING
from fairweather.types.measurement import UNKNOWN, Predictions, ReaderCalls, Score
from fairweather.types.record import CLEAN

MEAN_READER = "mean reader"
THESE, OTHERS = "average, these readers", "average, other readers too"
TRUTH, ALL_CLASSES, EVERYBODY = "truth", "all classes", "all readers"
OF_CLASS = "class="
MOST_SENTENCES, MOST_ROWS = 5, 20  # in a terminal
UNCORRECTED = "The intervals are not corrected for their number."
HEAD = ("Model", "Finding or class", "Reader", "Sensitivity (%)", "Specificity (%)")
COMPARED = ("Model's sensitivity there", "Model's specificity there")
NUMBERS = (
    *("positives", "sensitivity", "sensitivity low", "sensitivity high"),
    *("negatives", "specificity", "specificity low", "specificity high"),
    *("threshold", "model sensitivity"),
    *("more sensitive", "more sensitive low", "more sensitive high"),
    *("model specificity", "more specific", "more specific low", "more specific high"),
)


class ReadUnit(NamedTuple):
    """A finding, or one class against the others, of the images where it is known."""

    name: str
    """As in slices and rules: `finding=Edema` or `class=cat`."""

    positive: BoolArray
    """`[n]`."""

    calls: IntArray
    """`[n, R]`, 1 or 0; `UNKNOWN` where a reader did not call."""

    scores: FloatArray | None
    """`[n]`, of the model: a logit; None where no logits are stored."""

    grouping: Grouping | None

    @property
    def title(self) -> str:
        """The name of the finding or class."""
        return self.name.partition("=")[2]


class BesideReaders(NamedTuple):
    """A model beside the readers, for one finding or class."""

    model: str
    unit: ReadUnit
    points: list[ReaderPoint]
    compared: ModelBesideReaders | None


def has_readers(contents: Contents) -> bool:
    """Say whether a run knows what people call its test images."""
    return find_readers(contents) is not None


def find_readers(contents: Contents) -> ReaderCalls | None:
    """What people call the test images; of several runs, those of the first that has some."""
    every = (run.readers for run in contents.runs.values())
    return next((readers for readers in every if readers is not None), None)


def read_units(contents: Contents, model: str) -> list[ReadUnit]:
    """The findings or classes of a model's clean images, from its first seed, with all calls."""
    readers, seed = contents.once(find_readers), contents.seeds_of(model)[0]
    cell = contents.read_cell(model, seed, CLEAN)
    if readers is None or cell is None:
        return []
    calls = _align(readers, cell.keys)
    units = []
    for at, name in enumerate(cell.classes):
        scores: FloatArray | None = None
        if isinstance(cell, FindingsPredictions):
            known, prefix = cell.labels[:, at] != UNKNOWN, OF_FINDING
            positive, own = cell.labels[:, at] == 1, calls[:, :, at]
            scores = cell.logits[:, at].astype(np.float64)
        else:
            known, prefix = np.ones(len(cell), np.bool_), OF_CLASS
            positive = cell.labels == at
            own = np.where(calls[:, :, 0] == UNKNOWN, UNKNOWN, calls[:, :, 0] == at)
            if cell.logits is not None:
                scores = _odds(cell.logits.astype(np.float64), at)
        grouping = contents.grouping and contents.grouping.select(np.flatnonzero(known))
        units.append(
            ReadUnit(
                f"{prefix}{name}",
                positive[known],
                own[known],
                None if scores is None else scores[known],
                grouping,
            )
        )
    return units


def _align(readers: ReaderCalls, keys: IntArray) -> IntArray:
    """The calls of the images with these keys, `[n, R, L]`."""
    place = {key: at for at, key in enumerate(readers.keys.tolist())}
    places = np.array([place.get(key, -1) for key in keys.tolist()], dtype=np.int64)
    calls = readers.calls[places]
    calls[places < 0] = UNKNOWN
    return calls


def _odds(logits: FloatArray, label: int) -> FloatArray:
    """The logit of the probability of one class against all others."""
    others = np.delete(logits, label, axis=1)
    return np.asarray(logits[:, label] - scipy.special.logsumexp(others, axis=1))


def compare_models(contents: Contents) -> list[BesideReaders]:
    """Every model beside the readers, for each finding or class that they have called."""
    beside = []
    for model in contents.titles:
        for unit in read_units(contents, model):
            if (unit.calls == UNKNOWN).all():
                continue
            compared = None
            if unit.scores is not None:
                compared = compare_with_readers(
                    unit.scores, unit.positive, unit.calls, contents.bootstrap, unit.grouping
                )
            points = reader_points(unit.positive, unit.calls, unit.grouping)
            beside.append(BesideReaders(model, unit, points, compared))
    return beside


class ReaderMark(NamedTuple):
    """Where a reader is beside the ROC curve of a finding, on clean images."""

    name: str
    false: float
    """1 − specificity."""

    sensitivity: float
    false_ends: Ends
    sensitivity_ends: Ends
    """`false_ends`, `sensitivity_ends`: the 95 % intervals."""


def mark_readers(contents: Contents, model: str) -> dict[str, list[ReaderMark]]:
    """Find where the readers are beside the ROC curve of each finding; none without readers."""
    readers = contents.once(find_readers)
    if readers is None:
        return {}
    return {
        unit.title: [
            ReaderMark(
                name,
                1 - point.specificity.value,
                point.sensitivity.value,
                (1 - point.specificity.high, 1 - point.specificity.low),
                point.sensitivity[1:3],
            )
            for name, point in zip(
                readers.readers,
                reader_points(unit.positive, unit.calls, unit.grouping),
                strict=True,
            )
            if point.sensitivity.n and point.specificity.n
        ]
        for unit in read_units(contents, model)
    }


class _Row(NamedTuple):
    words: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[float, ...]


def _reader_rows(beside: BesideReaders, readers: Sequence[str]) -> Iterator[_Row]:
    compared = beside.compared
    known = compared.readers if compared else (None,) * len(readers)
    for reader, point, own in zip(readers, beside.points, known, strict=True):
        if not all(score.n == 0 for score in point):
            yield _row(reader, point, own)
    if compared is None:
        return
    if len(readers) > 1:
        yield _row(MEAN_READER, compared.mean.reader, compared.mean)
        for name, differences in (
            (THESE, [average.fixed for average in compared.averages]),
            (OTHERS, [_as_score(average.random) for average in compared.averages]),
        ):
            if name == THESE or len(readers) >= FEWEST_READERS:
                yield _average_row(name, differences)


def _row(reader: str, point: ReaderPoint, compared: ReaderComparison | None) -> _Row:
    texts = [_write(score) for score in point]
    numbers = [value for score in point for value in (score.n, *entry_numbers(score))]
    if compared is None:
        return _Row((reader,), (*texts, ABSENT, ABSENT), (*numbers, *[math.nan] * 9))
    more = (
        (compared.sensitivity, compared.more_sensitive),
        (compared.specificity, compared.more_specific),
    )
    for value, difference in more:
        texts.append(f"{100 * value:.1f}: {format_difference(difference, percent=True)}")
    threshold = float(scipy.special.expit(compared.threshold))
    rest = [number for value, score in more for number in (value, *entry_numbers(score))]
    return _Row((reader,), tuple(texts), (*numbers, threshold, *rest))


def _average_row(name: str, differences: Sequence[Score]) -> _Row:
    texts = [ABSENT, ABSENT]
    numbers = [math.nan] * 9
    for score in differences:
        texts.append(format_difference(score, percent=True))
        numbers += [math.nan, *entry_numbers(score)]
    return _Row((name,), tuple(texts), tuple(numbers))


def _as_score(mean: RandomReaders | None) -> Score:
    return Score(math.nan, math.nan, math.nan, 0) if mean is None else Score(*mean[:3], 0)


def _write(score: Score) -> str:
    return f"{ScoreEntry(score, percent=True)}, n = {score.n:,}" if score.n else ABSENT


def _tabulate_readers(contents: Contents) -> Iterator[TextTable]:
    readers = contents.once(find_readers)
    if readers is None:
        return
    lines, body, models = [], [], []
    for beside in contents.once(compare_models):
        title = contents.titles[beside.model]
        for row in _reader_rows(beside, readers.readers):
            models.append(beside.model)
            body.append([title, beside.unit.title, *row.words, *row.texts])
            lines.append([beside.model, title, beside.unit.name, *row.words, *row.numbers])
    if not body:
        return
    seed = f" Models: {contents.first_seed}." if contents.first_seed else ""
    below = [
        "There: the model's sensitivity at the reader's specificity, its specificity at the "
        "reader's sensitivity, and the differences in points. In brackets: 95 % intervals over "
        f"test images; those of differences cover the uncertainty of the model's threshold.{seed}",
        f"The {MEAN_READER} has the mean sensitivity and the mean specificity of all. That point "
        "lies below the curve that readers share, which favours the model. The averages do not: "
        "each reader is compared at the reader's own point.",
    ]
    if len({beside.unit.name for beside in contents.once(compare_models)}) > 1:
        below.append(UNCORRECTED)
    few = len(readers.readers)
    if few < FEWEST_READERS:
        below.append(
            f"{few} reader{'s are' if few > 1 else ' is'} too few to speak of other readers; "
            f"{FEWEST_READERS} suffice."
        )
    columns = ["model", "title", "unit", "reader", *NUMBERS]
    layout = TableLayout((*HEAD, *COMPARED), words=3)
    yield TextTable("readers", layout, body, below, pd.DataFrame(lines, columns=columns), models)


class RatedUnit(NamedTuple):
    """What is called of each image: one finding, or its class."""

    title: str
    name: str
    """Of a finding, as in slices and rules; else `ALL_CLASSES`."""

    calls: Mapping[str, IntArray]
    """By the name of the reader, or `TRUTH`, or the title of the model: `[n]`."""

    readers: IntArray
    """`[n, R]`, of the readers alone."""

    grouping: Grouping | None


def _list_rated(contents: Contents) -> Iterator[RatedUnit]:
    """Everything that readers and models call, for each model."""
    readers = contents.once(find_readers)
    assert readers is not None
    for beside in contents.once(compare_models):
        unit = beside.unit
        if unit.name.startswith(OF_CLASS):
            continue
        calls = dict(zip(readers.readers, unit.calls.T, strict=True))
        if beside.compared is not None and unit.scores is not None:
            called = unit.scores >= beside.compared.mean.threshold
            calls[contents.titles[beside.model]] = called.astype(np.int64)
        calls[TRUTH] = unit.positive.astype(np.int64)
        yield RatedUnit(unit.title, unit.name, calls, unit.calls, unit.grouping)
    for model, title in contents.titles.items():
        cell = contents.read_cell(model, contents.seeds_of(model)[0], CLEAN)
        if isinstance(cell, Predictions):
            own = _align(readers, cell.keys)[:, :, 0]
            calls = dict(zip(readers.readers, own.T, strict=True))
            calls |= {title: cell.predicted, TRUTH: cell.labels}
            yield RatedUnit(ALL_CLASSES, ALL_CLASSES, calls, own, contents.grouping)


def _tabulate_agreement(contents: Contents) -> Iterator[TextTable]:
    if contents.once(find_readers) is None:
        return
    body, lines = [], []
    done: set[tuple[str, ...]] = set()
    for unit in _list_rated(contents):
        for pair in itertools.combinations(unit.calls, 2):
            first, second = (unit.calls[name] for name in pair)
            both = (first != UNKNOWN) & (second != UNKNOWN)
            if (unit.name, *pair) in done or not both.any():
                continue
            done.add((unit.name, *pair))
            share, kappa = score_agreement(first, second, contents.bootstrap, unit.grouping)
            lines.append([unit.name, *pair, share.n, *share[:3], *kappa[:3]])
            agreed = str(ScoreEntry(share, percent=True))
            body.append([unit.title, *pair, f"{share.n:,}", agreed, _chance(kappa)])
        if (unit.name,) in done or unit.readers.shape[1] < 2:
            continue
        done.add((unit.name,))
        alpha = score_alpha(unit.readers, contents.bootstrap, unit.grouping)
        if not math.isnan(alpha.value):
            lines.append([unit.name, EVERYBODY, "", alpha.n, *[math.nan] * 3, *alpha[:3]])
            body.append([unit.title, EVERYBODY, "", f"{alpha.n:,}", ABSENT, _chance(alpha)])
    if not body:
        return
    head = ("Finding or class", "First", "Second", "Images", "Agreement (%)", "Beyond chance")
    numbers = ["n", "agreement", "agreement low", "agreement high", "kappa", "kappa low"]
    frame = pd.DataFrame(lines, columns=["unit", "first", "second", *numbers, "kappa high"])
    below = [
        "Beyond chance: Cohen's kappa of two, Krippendorff's alpha of all readers. 1 is perfect, 0 "
        "is chance. In brackets: 95 % intervals over test images.",
        f"A model calls findings at the specificity of the {MEAN_READER}. Where a finding is rare, "
        "kappa is low even if nearly all calls agree.",
    ]
    yield TextTable("agreement", TableLayout(head, words=3), body, below, frame)


def _chance(score: Score) -> str:
    return ABSENT if math.isnan(score.value) else str(ScoreEntry(score, percent=False))


def _summarize_readers(contents: Contents) -> Brief:
    """What is said in a terminal: the average difference for each finding or class."""
    body, sentences = [], []
    for beside in contents.once(compare_models):
        if beside.compared is None:
            continue
        title, name = contents.titles[beside.model], beside.unit.title
        average = beside.compared.averages[0]
        difference = average.fixed if average.random is None else _as_score(average.random)
        written = format_difference(difference, percent=True)
        mean = beside.compared.mean.reader
        points = [f"{100 * score.value:.1f}" for score in mean]
        body.append([title, name, *points, written])
        if difference.low > 0 or difference.high < 0:
            more = f"{abs(100 * difference.value):.1f} points "
            more += "more" if difference.value > 0 else "less"
            count = sum(reader is not None for reader in beside.compared.readers)
            whom = "the readers" if average.random else f"these {count} readers"
            sentences.append(
                f"At equal specificity, {title} is {more} sensitive to {name} than {whom}."
            )
            if average.random is None:
                sentences.append(f"{count} readers are too few to speak of others.")
    head = ("model", "finding or class", "readers' sensitivity", "specificity", "model finds more")
    sentences = sentences[:MOST_SENTENCES]
    if sentences and len(body) > 1:
        sentences.append(UNCORRECTED)
    if len(body) > MOST_ROWS:
        sentences.append(f"The first {MOST_ROWS} of {len(body)} rows; tables/readers.csv has all.")
    return Brief(sentences, TableLayout(head, words=2), body[:MOST_ROWS])


READERS, AGREEMENT = (
    ReportPart(show_tables(heading), tables, accepts=None)
    for heading, tables in (
        ("Models beside readers", _tabulate_readers),
        ("Agreement", _tabulate_agreement),
    )
)
SECTION = Section(
    "readers", "Readers", (READERS, AGREEMENT), accepts=has_readers, brief=_summarize_readers
)

"""Subgroups of the test images, such as the sites that they come from, each alone and compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics import holm, to_score
from fairweather.metrics.clusters import FEW_CLUSTERS, membership_p, zou_donner_interval
from fairweather.report.contents import Contents, ensembles_as_models, join_name
from fairweather.report.performance import (
    FloatArray,
    ImageKeys,
    estimate_seed_means,
    read_correct,
    read_image_keys,
)
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import (
    ABSENT,
    TOO_FEW,
    TOO_FEW_NOTE,
    ScoreEntry,
    TableLayout,
    TextTable,
    format_difference,
    format_p_value,
    format_signed,
    is_percent,
)
from fairweather.runs.folder import StoredGroups
from fairweather.types.measurement import Score
from fairweather.types.record import (
    ALL,
    CLEAN,
    MEAN,
    NO_LEVEL,
    SLICES,
    slice_label,
    worst_slice_label,
)

SIGNIFICANCE = 0.05
FEW_MARK = "*"
ONE_CLUSTER = "one cluster"  # which says nothing of others
VALUE_MARK = "="  # in the name of a slice, and not in that of the worst of a column
# What a table of slices shows: the metric, and of which images.
SLICE_PLACES = (
    ("accuracy", CLEAN, NO_LEVEL, "Clean: accuracy (%)"),
    ("rms_calibration_error", CLEAN, NO_LEVEL, "Clean: RMS calibration error"),
    ("accuracy", ALL, MEAN, "Mean over shifts: accuracy (%)"),
)
COLUMNS = ["model", "shift", "level", "slice", "metric", *Score._fields]
Key = tuple[str, str, str, str, str]  # model, shift, level, slice, metric


class _Contrast(NamedTuple):
    """A difference between a slice and all other images, and its p-value if it was tested."""

    gap: Score
    p: float | None


class SliceRow(NamedTuple):
    """One model on one slice.

    Attributes:
        model, title: its name and title.
        slice: such as `site=B`, or `worst site`.
        n: the number of images.
        clusters: the number of clusters; None if that is not known.
        scores: one for each of the table's places; None where there is none.
        difference: clean accuracy minus that of all other images of the column; None if it was not
            tested.
        p: of the hypothesis that there is none, after Holm's correction over the table.
    """

    model: str
    title: str
    slice: str
    n: int
    clusters: int | None
    scores: tuple[Score | None, ...]
    difference: Score | None
    p: float

    @property
    def numbers(self) -> list[Score]:
        """The scores and the difference, NaN where there is none."""
        return [each or NO_SCORE for each in (*self.scores, self.difference)]


class SliceTable(NamedTuple):
    """The slices of one column.

    Attributes:
        name: of its files, without the suffix.
        column: such as `site`.
        places: which numbers it shows, as in `PLACES`.
        rows: of each model, its slices, the worst of them last.
        found: what the table shows, in a sentence or two.
        caption: what the numbers are.
        cluster: what clusters are, such as `patient`; None if that is not known.
    """

    name: str
    column: str
    places: tuple[tuple[str, str, str, str], ...]
    rows: tuple[SliceRow, ...]
    found: str
    caption: str
    cluster: str | None

    @property
    def table(self) -> TextTable:
        """The table as it is written to files."""
        shown = [title for *_, title in self.places]
        counts = ["Images", *([f"Clusters ({self.cluster})"] if self._has_clusters else [])]
        names = [f"{shift} {metric}" for metric, shift, *_ in self.places]
        columns = ["model", "title", "slice", "n", "clusters"]
        columns += [f"{name}{part}" for name in [*names, "difference"] for part in INTERVAL_PARTS]
        lines = [
            [*row[:4], row.clusters, *(each for score in row.numbers for each in score[:3]), row.p]
            for row in self.rows
        ]
        return TextTable(
            self.name,
            TableLayout(
                (
                    *("Model", "Images with", *counts, *shown),
                    *("Against the others (points)", "p (Holm)"),
                ),
                words=2,
            ),
            [self._cells(row) for row in self.rows],
            [self.found, self.caption],
            pd.DataFrame(lines, columns=[*columns, "p_holm"]).astype({"clusters": "Int64"}),
            [row.model for row in self.rows],
        )

    @property
    def _has_clusters(self) -> bool:
        return any(row.clusters is not None for row in self.rows)

    def _cells(self, row: SliceRow) -> list[str]:
        counts = [f"{row.n:,}"]
        if self._has_clusters:
            few = row.clusters is not None and row.clusters < FEW_CLUSTERS
            known = ABSENT if row.clusters is None else f"{row.clusters:,}"
            counts.append(f"{known}{FEW_MARK if few else ''}")
        alone = ONE_CLUSTER if row.clusters == 1 else TOO_FEW
        shown = [
            ABSENT
            if score is None
            else str(ScoreEntry(score, is_percent(metric))).replace(TOO_FEW, alone)
            for (metric, *_), score in zip(self.places, row.scores, strict=True)
        ]
        p = ABSENT if math.isnan(row.p) else format_p_value(row.p)
        gap = ABSENT if row.difference is None else format_difference(row.difference, True, alone)
        return [row.title, row.slice, *counts, *shown, gap, p]


INTERVAL_PARTS = ("", " low", " high")
NO_SCORE = Score(math.nan, math.nan, math.nan, 0)


def tabulate_slices(contents: Contents) -> list[SliceTable]:
    """Build one table for each column of slices that was asked for; none if there are none.

    With several runs, only the slices of the first one that has some are shown.
    """
    for label, run in contents.runs.items():
        groups = run.groups()
        if groups is not None and groups.slices and run.holds(SLICES):
            scores, images = _read_slices(run.slice_scores, label), read_image_keys(contents)
            return [
                _tabulate_column(contents, column, groups, scores, images)
                for column in groups.slices
            ]
    return []


class _StoredSlices(NamedTuple):
    """The scores of slices.csv by what they are of, and the number of clusters of each slice."""

    scores: Mapping[Key, Score]
    clusters: Mapping[str, int | None]


def _read_slices(frame: pd.DataFrame, label: str) -> _StoredSlices:
    rows = ensembles_as_models(frame)
    if MEAN in set(rows["seed"]):
        rows = rows[rows["seed"] == MEAN]
    scores = {
        (join_name(label, model), shift, level, name, metric): Score(value, low, high, int(n))
        for model, shift, level, name, metric, value, low, high, n in rows[COLUMNS].itertuples(
            index=False
        )
    }
    clusters: dict[str, int | None] = dict.fromkeys(rows["slice"])
    if "clusters" in rows:
        known = rows.dropna(subset="clusters")
        clusters |= dict(zip(known["slice"], known["clusters"].astype(int), strict=True))
    return _StoredSlices(scores, clusters)


def _tabulate_column(
    contents: Contents,
    column: str,
    groups: StoredGroups,
    read: _StoredSlices,
    images: ImageKeys | None,
) -> SliceTable:
    values = groups.slices[column]
    names = [slice_label(column, value) for value in sorted(set(values))]
    shifted = any(key[1] == ALL for key in read.scores)
    places = SLICE_PLACES if shifted else SLICE_PLACES[:2]
    first = (CLEAN, NO_LEVEL, names[0], "accuracy")
    models = [model for model in contents.titles if (model, *first) in read.scores]
    contrasts: dict[tuple[str, str], _Contrast | None] = {}
    for model in models:
        scores = [read.scores[model, CLEAN, NO_LEVEL, name, "accuracy"] for name in names]
        found = zip(names, _test_contrasts(contents, model, values, scores, images), strict=True)
        contrasts |= {(model, name): each for name, each in found}
    # Of two slices, both are the same test.
    told = {name: names[0] if len(names) == 2 else name for name in names}
    alone = {
        at: each.p
        for at, each in contrasts.items()
        if each is not None and each.p is not None and told[at[1]] == at[1]
    }
    adjusted = dict(zip(alone, holm(list(alone.values())).tolist(), strict=True)) if alone else {}
    rows = []
    for model in models:
        for name in names:
            each, p = contrasts[model, name], adjusted.get((model, told[name]), math.nan)
            rows.append(_make_row(contents, model, name, places, read, each and each.gap, p))
        worst = worst_slice_label(column)
        if (model, CLEAN, NO_LEVEL, worst, "accuracy") in read.scores:
            rows.append(_make_row(contents, model, worst, places, read, None, math.nan))
    return SliceTable(
        f"slices_{column.replace('*', '_and_')}",
        column,
        places,
        tuple(rows),
        _describe_differences(rows),
        _caption_slices(contents, column, len(alone), rows),
        groups.cluster,
    )


def _make_row(
    contents: Contents,
    model: str,
    name: str,
    places: Sequence[tuple[str, str, str, str]],
    read: _StoredSlices,
    difference: Score | None,
    p: float,
) -> SliceRow:
    scores = tuple(
        read.scores.get((model, shift, level, name, metric)) for metric, shift, level, _ in places
    )
    first = scores[0]
    assert first is not None
    clusters = read.clusters[name]
    return SliceRow(model, contents.titles[model], name, first.n, clusters, scores, difference, p)


def _test_contrasts(
    contents: Contents,
    model: str,
    values: npt.NDArray[np.object_],
    scores: Sequence[Score],
    images: ImageKeys | None,
) -> Iterator[_Contrast | None]:
    """For each slice, clean accuracy against that of all other images; None if not tested.

    `scores` are the clean accuracies of the slices.
    """
    right = None if images is None else read_correct(contents, model, {CLEAN: 1.0}, images)
    for value, score in zip(sorted(set(values)), scores, strict=True):
        inside = values == value
        if right is None or inside.all() or len(right) != len(inside):
            yield None
            continue
        others = _estimate_accuracy(contents, right, np.flatnonzero(~inside))
        ends = zou_donner_interval(score, others)
        gap = Score(score.value - others.value, *ends, score.n)
        clusters = contents.clusters
        if clusters is not None and set(clusters.of[inside]) & set(clusters.of[~inside]):
            yield _Contrast(gap, None)  # a cluster with images on both sides
        else:
            p = membership_p(right, inside, clusters, np.random.default_rng(0))
            yield _Contrast(gap, p)


def _estimate_accuracy(
    contents: Contents, right: FloatArray, places: npt.NDArray[np.integer]
) -> Score:
    """The accuracy on some images, over seeds and over images or clusters."""
    known = contents.clusters
    clusters = None if known is None else known.select(places)
    [found] = estimate_seed_means([right[places]], contents.bootstrap, clusters)
    return to_score(found, (0.0, 1.0))


def _describe_differences(rows: Sequence[SliceRow]) -> str:
    """Say which slices differ from the others, and where no test says so, which differs most."""
    models = len({row.model for row in rows})
    tested = [
        (row.p, gap, f"{row.title + ' on ' if models > 1 else ''}{row.slice}")
        for row in rows
        if not math.isnan(row.p) and (gap := row.difference and row.difference.value) is not None
    ]
    if differ := [f"{name} ({_format_points(gap)})" for p, gap, name in tested if p < SIGNIFICANCE]:
        return f"Clean accuracy differs from that of the other images: {', '.join(differ)}."
    told = ""
    # Of two slices, both are as far away.
    several = len({row.slice for row in rows if VALUE_MARK in row.slice}) > 2
    if far := [each for each in tested if several and round(abs(each[1]), 3)]:
        _, gap, name = max(far, key=lambda each: (round(abs(each[1]), 9), -each[1]))
        told = f"{name} differs most ({_format_points(gap)}), and the tests cannot confirm that."
    alone = list(dict.fromkeys(row.slice for row in rows if row.clusters == 1))
    unknown = f" Nothing is known of {', '.join(alone)}, of one cluster each." if alone else ""
    low = min((row for row in rows if _lower_end(row) < math.inf), key=_lower_end, default=None)
    if low is None:
        return f"{told}{unknown}".strip()
    size = f"{low.n:,} images" if low.clusters is None else f"{low.clusters:,} clusters"
    of = f" of {low.title}" if models > 1 else ""
    lowest = f"{low.slice} may be as low as {100 * _lower_end(low):.1f} %"
    return f"{told} With {size}, clean accuracy{of} on {lowest}.{unknown}".strip()


def _format_points(gap: float) -> str:
    return f"{format_signed(gap, percent=True)} points"


def _lower_end(row: SliceRow) -> float:
    """The lower end of the clean accuracy on a single slice; infinite if there is none."""
    score, single = row.scores[0], VALUE_MARK in row.slice
    return math.inf if score is None or score.too_few or not single else score.low


def _caption_slices(contents: Contents, column: str, tests: int, rows: Sequence[SliceRow]) -> str:
    of = "test" if tests == 1 else "tests"
    units = "" if contents.clusters is None else ", over clusters"
    chosen = "images" if contents.clusters is None else "clusters"
    words = [
        f"The test images by {column}. In brackets: {contents.intervals}. Against the others: "
        f"clean accuracy minus that of all other images, with its 95 % interval{units}; p after "
        f"Holm's correction over the {tests} {of} of this table: how often another choice of as "
        f"many {chosen} differs as much, for these networks. The worst of "
        "several noisy numbers looks worse than the worst of the true ones: the interval beside "
        "it covers the worst true value.",
    ]
    if any(row.clusters is not None and row.clusters < FEW_CLUSTERS for row in rows):
        words.append(
            f"{FEW_MARK} Fewer than {FEW_CLUSTERS} clusters: the interval is less reliable."
        )
    several = [row for row in rows if row.clusters != 1 and VALUE_MARK in row.slice]
    if any(score is not None and score.too_few for row in several for score in row.scores):
        words.append(TOO_FEW_NOTE)
    return " ".join(words)


def _show_slices(contents: Contents, _: Tables) -> PartView | None:
    slices = contents.once(tabulate_slices)
    return PartView(template="slices.html.j2", facts={"slices": slices}) if slices else None


SUBGROUPS = ReportPart(
    _show_slices, lambda contents: [each.table for each in contents.once(tabulate_slices)]
)

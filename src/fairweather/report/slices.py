"""Subgroups of the test images, such as the sites that they come from, each alone and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics import holm, to_score
from fairweather.metrics.grouping import FEW_GROUPS, membership_p, zou_donner_interval
from fairweather.metrics.unseen import describe_need
from fairweather.report.contents import Contents, ensembles_as_models, index_scores, join_name
from fairweather.report.performance import (
    FloatArray,
    ImageKeys,
    estimate_seed_means,
    read_correct,
    read_image_keys,
)
from fairweather.report.section import ReportPart, show_tables
from fairweather.report.tables import (
    ABSENT,
    TOO_FEW,
    TOO_FEW_NOTE,
    ScoreEntry,
    TableLayout,
    TextTable,
    entry_numbers,
    format_difference,
    format_p_value,
    format_signed,
    is_percent,
)
from fairweather.runs.folder import StoredGroups
from fairweather.types.measurement import Score, TextArray, explain_small_slices
from fairweather.types.options import MISSING, Aggregation, order_of_value
from fairweather.types.record import (
    ALL,
    CLEAN,
    MEAN,
    NO_LEVEL,
    SLICES,
    slice_label,
    unseen_slice_label,
    worst_slice_label,
)

SIGNIFICANCE = 0.05
FEW_MARK = "*"
ONE_GROUP = "one group"  # which says nothing of others
VALUE_MARK = "="  # in the name of a slice, and not in that of the worst of a column
# What a table of slices shows: the metric, and of which images.
SLICE_PLACES = (
    ("accuracy", CLEAN, NO_LEVEL, "Clean: accuracy (%)"),
    ("rms_calibration_error", CLEAN, NO_LEVEL, "Clean: RMS calibration error"),
    ("accuracy", ALL, MEAN, "Mean over shifts: accuracy (%)"),
)
KEYS = ("model", "shift", "level", "slice", "metric")


class SliceRow(NamedTuple):
    """One model on one slice.

    Attributes:
        model, title: its name and title.
        slice: such as `site=B`, or `worst site`.
        n: the number of images.
        groups: the number of groups; None if that is not known.
        scores: one for each of the table's places; None where there is none.
        difference: clean accuracy minus that of all other images of the column; None if it was not
            tested.
        p: of the hypothesis that there is none, after Holm's correction over the table.
    """

    model: str
    title: str
    slice: str
    n: int
    groups: int | None
    scores: tuple[Score | None, ...]
    difference: Score | None
    p: float

    @property
    def is_single(self) -> bool:
        """Whether this is a slice, and not the worst of a column."""
        return VALUE_MARK in self.slice

    @property
    def lower_end(self) -> float:
        """The lower end of the clean accuracy on a single slice; infinite if there is none."""
        score = self.scores[0]
        return math.inf if score is None or score.too_few or not self.is_single else score.low


def tabulate_slices(contents: Contents) -> dict[str, TextTable]:
    """Build the table of each column of slices that was asked for.

    Below each stands what it shows, and then what the numbers are. With several runs, only the
    slices of the first one that has some are shown.
    """
    for label, run in contents.runs.items():
        groups = run.groups()
        if groups is not None and groups.slices and run.holds(SLICES):
            stored, images = _read_slices(run.slice_scores, label), read_image_keys(contents)
            sites = run.record.settings.sites
            return {
                column: _tabulate_column(
                    contents, column, groups, stored, images, sites=column in sites
                )
                for column in groups.slices
            }
    return {}


class _StoredSlices(NamedTuple):
    """The scores of slices.csv by what they are of, and the number of groups of each slice."""

    scores: Mapping[tuple[str, ...], Score]
    """By `KEYS`."""

    groups: Mapping[str, int | None]


def _read_slices(frame: pd.DataFrame, label: str) -> _StoredSlices:
    rows = ensembles_as_models(frame)
    if MEAN in set(rows["seed"]):
        rows = rows[rows["seed"] == MEAN]
    indexed = index_scores(rows, KEYS)
    scores = {(join_name(label, model), *key): own for (model, *key), own in indexed.items()}
    groups: dict[str, int | None] = dict.fromkeys(rows["slice"])
    if "groups" in rows:
        known = rows.dropna(subset="groups")
        groups |= dict(zip(known["slice"], known["groups"].astype(int), strict=True))
    return _StoredSlices(scores, groups)


def _tabulate_column(
    contents: Contents,
    column: str,
    groups: StoredGroups,
    stored: _StoredSlices,
    images: ImageKeys | None,
    *,
    sites: bool,
) -> TextTable:
    values = groups.slices[column]
    slices = {
        slice_label(column, value): values == value
        for value in sorted(set(values), key=order_of_value)
    }
    first, *_ = slices
    shifted = any(key[1] == ALL for key in stored.scores)
    places = SLICE_PLACES if shifted else SLICE_PLACES[:2]
    rows = []
    for model, title in contents.titles.items():
        if (model, CLEAN, NO_LEVEL, first, "accuracy") not in stored.scores:
            continue
        right = read_correct(contents, model, {CLEAN: 1.0}, images) if images else None
        for name in (*slices, worst_slice_label(column)):
            scores = tuple(
                stored.scores.get((model, shift, level, name, metric))
                for metric, shift, level, _ in places
            )
            gap, p = None, math.nan
            if (clean := scores[0]) and name in slices and right is not None:
                gap, p = _test_contrast(contents, right, slices[name], clean)
            if clean:
                count = stored.groups[name]
                rows.append(SliceRow(model, title, name, clean.n, count, scores, gap, p))
    # Of two slices, both are the same test.
    same = {name: first if len(slices) == 2 else name for name in slices}
    tested = [row for row in rows if same.get(row.slice) == row.slice and not math.isnan(row.p)]
    p_values = holm([row.p for row in tested]).tolist() if tested else []
    adjusted = {(row.model, row.slice): p for row, p in zip(tested, p_values, strict=True)}
    rows = [
        row._replace(p=adjusted.get((row.model, same.get(row.slice, "")), math.nan)) for row in rows
    ]
    unseen = {
        title: stored.scores.get((model, CLEAN, NO_LEVEL, unseen_slice_label(column), "accuracy"))
        for model, title in contents.titles.items()
        if (model, CLEAN, NO_LEVEL, first, "accuracy") in stored.scores
    }
    below = [
        *([describe_unseen(column, count_known(values), unseen)] if sites else []),
        _describe_differences(rows),
        _caption_slices(contents, column, len(tested), rows),
        *([f"{remark}."] if (remark := explain_small_slices(column, values)) else []),
    ]
    return _make_table(column, groups.group, places, rows, below)


def count_known(values: TextArray) -> int:
    """How many values a column has, missing ones aside."""
    return len({*values} - {MISSING})


def describe_unseen(
    column: str,
    count: int,
    scores: Mapping[str, Score | None],
    measured: str = "accuracy",
    *,
    percent: bool = True,
) -> str:
    """Say how good a model may be at an unseen site; of several models, the one that may be worst.

    Args:
        column: of the sites.
        count: how many sites there are.
        scores: what is predicted of each model, by its title; None where it is not.
        measured: the metric in words; higher values are better.
        percent: whether the values are in per cent.

    >>> print(describe_unseen("site", 8, {"A network": Score(0.89, 0.712, 0.961, 8)}))
    At an unseen site, accuracy on clean images lies between 71 % and 96 %
    (95 % prediction interval from 8 sites).
    >>> describe_unseen("site", 3, {"A network": None})
    'A prediction interval for an unseen site needs at least 5 values of site, found 3.'
    """
    known = [(score.low, title, score) for title, score in scores.items() if score is not None]
    if not known:
        return f"A{describe_need(column, count)[1:]}."
    _, title, score = min(known)
    of_model = f" of {title}" if len(known) > 1 else ""
    ends = score.low, score.high
    low, high = (f"{100 * end:.0f} %" if percent else f"{end:.2f}" for end in ends)
    return (
        f"At an unseen {column}, {measured}{of_model} on clean images lies between {low} and "
        f"{high} (95 % prediction interval from {score.n} {Aggregation(column).plural})."
    )


def _make_table(
    column: str,
    group: str | None,
    places: Sequence[tuple[str, str, str, str]],
    rows: Sequence[SliceRow],
    below: Sequence[str],
) -> TextTable:
    grouped = any(row.groups is not None for row in rows)

    def cells(row: SliceRow) -> list[str]:
        few = row.groups is not None and row.groups < FEW_GROUPS
        known = ABSENT if row.groups is None else f"{row.groups:,}"
        alone = ONE_GROUP if row.groups == 1 else TOO_FEW
        gap = row.difference
        return [
            *(row.title, row.slice, f"{row.n:,}"),
            *([f"{known}{FEW_MARK if few else ''}"] if grouped else []),
            *(
                str(ScoreEntry(score, is_percent(metric)) if score else ABSENT).replace(
                    TOO_FEW, alone
                )
                for (metric, *_), score in zip(places, row.scores, strict=True)
            ),
            ABSENT if gap is None else format_difference(gap, True, alone),
            ABSENT if math.isnan(row.p) else format_p_value(row.p),
        ]

    header = (
        *("Model", "Images with", "Images", *([f"Groups ({group})"] if grouped else [])),
        *(title for *_, title in places),
        *("Against the others (points)", "p (Holm)"),
    )
    names = [*(f"{shift} {metric}" for metric, shift, *_ in places), "difference"]
    columns = [f"{name}{part}" for name in names for part in ("", " low", " high")]
    columns = ["model", "title", "slice", "n", "groups", *columns, "p_holm"]
    lines = [
        [
            *row[:5],
            *(n for score in (*row.scores, row.difference) for n in entry_numbers(score)),
            row.p,
        ]
        for row in rows
    ]
    return TextTable(
        f"slices_{column.replace('*', '_and_')}",
        TableLayout(header, words=2),
        [cells(row) for row in rows],
        below,
        pd.DataFrame(lines, columns=columns).astype({"groups": "Int64"}),
        [row.model for row in rows],
    )


def _test_contrast(
    contents: Contents, right: FloatArray, inside: npt.NDArray[np.bool_], score: Score
) -> tuple[Score | None, float]:
    """Clean accuracy of a slice against that of all other images, with p; NaN if not tested.

    `right` is how often each image is right, and `score` the clean accuracy of the slice.
    """
    if inside.all() or len(right) != len(inside):
        return None, math.nan
    grouping, outside = contents.grouping, np.flatnonzero(~inside)
    of_others = None if grouping is None else grouping.select(outside)
    [estimate] = estimate_seed_means([right[outside]], contents.bootstrap, of_others)
    others = to_score(estimate, (0.0, 1.0))
    ends = zou_donner_interval(score, others)
    gap = Score(score.value - others.value, *ends, score.n)
    if grouping is not None and set(grouping.numbers[inside]) & set(grouping.numbers[~inside]):
        return gap, math.nan  # a group with images on both sides
    return gap, membership_p(right, inside, grouping, np.random.default_rng(0))


def _describe_differences(rows: Sequence[SliceRow]) -> str:
    """Say which slices differ from the others, and where no test says so, which differs most."""
    models = len({row.model for row in rows})
    tested = [
        (row.p, gap, f"{row.title + ' on ' if models > 1 else ''}{row.slice}")
        for row in rows
        if not math.isnan(row.p) and (gap := row.difference and row.difference.value) is not None
    ]
    if differ := [f"{name} ({_format_gap(gap)})" for p, gap, name in tested if p < SIGNIFICANCE]:
        return f"Clean accuracy differs from that of the other images: {', '.join(differ)}."
    farthest = ""
    # Of two slices, both are as far away.
    several = len({row.slice for row in rows if row.is_single}) > 2
    if far := [test for test in tested if several and round(abs(test[1]), 3)]:
        _, gap, name = max(far, key=lambda test: (round(abs(test[1]), 9), -test[1]))
        farthest = f"{name} differs most ({_format_gap(gap)}), and the tests cannot confirm that."
    alone = list(dict.fromkeys(row.slice for row in rows if row.groups == 1))
    unknown = f" Nothing is known of {', '.join(alone)}, of one group each." if alone else ""
    low = min(
        (row for row in rows if row.lower_end < math.inf),
        key=lambda row: row.lower_end,
        default=None,
    )
    if low is None:
        return f"{farthest}{unknown}".strip()
    size = f"{low.n:,} images" if low.groups is None else f"{low.groups:,} groups"
    of_model = f" of {low.title}" if models > 1 else ""
    lowest = f"{low.slice} may be as low as {100 * low.lower_end:.1f} %"
    return f"{farthest} With {size}, clean accuracy{of_model} on {lowest}.{unknown}".strip()


def _format_gap(gap: float) -> str:
    return f"{format_signed(gap, percent=True)} points"


def _caption_slices(contents: Contents, column: str, tests: int, rows: Sequence[SliceRow]) -> str:
    noun = "test" if tests == 1 else "tests"
    units = "" if contents.grouping is None else ", over groups"
    chosen = "images" if contents.grouping is None else "groups"
    words = [
        f"The test images by {column}. In brackets: {contents.intervals}. Against the others: "
        f"clean accuracy minus that of all other images, with its 95 % interval{units}. The p "
        f"value is how often another choice of as many {chosen} differs as much, for these "
        f"networks. It has Holm's correction over the {tests} {noun} of this table. The worst of "
        "several noisy numbers looks worse than the worst of the true ones: the interval beside "
        "it covers the worst true value.",
    ]
    if any(row.groups is not None and row.groups < FEW_GROUPS for row in rows):
        words.append(f"{FEW_MARK} Fewer than {FEW_GROUPS} groups: the interval is less reliable.")
    several = [row for row in rows if row.groups != 1 and row.is_single]
    if any(score is not None and score.too_few for row in several for score in row.scores):
        words.append(TOO_FEW_NOTE)
    return " ".join(words)


SUBGROUPS = ReportPart(
    show_tables("Subgroups"), lambda contents: contents.once(tabulate_slices).values()
)

"""Models beside each other: the ranking, and each variant beside its own model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics import holm, paired_change, paired_difference, to_score
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.seeds import crossed_difference
from fairweather.report import sentences as words
from fairweather.report.contents import Contents
from fairweather.report.front import Row, round_ends
from fairweather.report.performance import (
    COVERAGE,
    RISK,
    FloatArray,
    ImageKeys,
    compare_pairs,
    estimate_seed_means,
    find_shared_cells,
    read_correct,
    read_image_keys,
    read_performance,
)
from fairweather.report.section import PartView, ReportPart, Tables, show_tables
from fairweather.report.sentences import warn_of_far_seed
from fairweather.report.tables import (
    ABSENT,
    ScoreEntry,
    ScoreRow,
    TableLayout,
    TextTable,
    find_entry,
    format_p_value,
    format_signed,
    tabulate_scores,
)
from fairweather.types.measurement import Score
from fairweather.types.record import ALL, CLEAN, MEAN, NO_LEVEL, base_model

# ---------------------------------------------------------------- the ranking

SHARE = (0.0, 1.0)  # bounds of accuracy
SIGNIFICANCE = 0.05  # of the tests, after Holm's correction
MCNEMAR = "McNemar's exact test"
SWAPS = "random swaps of the two numbers of each image"
RECIPES = "Student's t over seeds and images"
OVER_GROUPS = "Student's t over groups of images"
NORMAL_SEEDS = "Intervals and tests over seeds assume that seeds are about normal."


class RankedModel(NamedTuple):
    """A model at its rank.

    Attributes:
        model, title: its names.
        score: what it is ranked by: mean accuracy over shifts, or on clean images without shifts.
        clean: accuracy on clean images.
        best_rank: 1 + the number of models that the tests find better.
        worst_rank: the number of models − that of the models that the tests find worse.
        clean_best_rank, clean_worst_rank: the same on clean images.
        p_next: of the test against the next row, corrected for all pairs; NaN in the last row.
        p_next_at_most: whether it is known only that p is at most that.
    """

    model: str
    title: str
    score: Score
    clean: Score
    best_rank: int
    worst_rank: int
    clean_best_rank: int
    clean_worst_rank: int
    p_next: float
    p_next_at_most: bool

    @property
    def rank(self) -> str:
        """The ranks that it may have: `1` or `1–3`."""
        return _format_range(self.best_rank, self.worst_rank)

    @property
    def clean_rank(self) -> str:
        """The ranks that it may have on clean images."""
        return _format_range(self.clean_best_rank, self.clean_worst_rank)

    @property
    def p_in_words(self) -> str:
        """The p-value as the table shows it."""
        if math.isnan(self.p_next):
            return ABSENT
        if self.p_next_at_most and self.p_next >= 0.001:
            # A bound is rounded up, so that it stays one.
            return f"≤ {math.ceil(1000 * self.p_next) / 1000:.3f}"
        return format_p_value(self.p_next)


class TestedDifference(NamedTuple):
    """A difference of two models' accuracy with its interval, and p after Holm's correction."""

    score: Score
    p: float


class Ranking(NamedTuple):
    """All models in their order, best first.

    Attributes:
        rows: one a model.
        shifted: whether they are ranked by the mean over shifts, not by clean images.
        caption: what is ranked, and what a range of ranks means.
        notes: of recipes with a seed that is far from the others, a sentence each.
        differences: to the most accurate model on clean images: of each other model by its name,
            on clean images and on average over the shifts, each with its corrected p.
        evidence: what the tests rest on.
    """

    rows: tuple[RankedModel, ...]
    shifted: bool
    caption: str
    notes: tuple[str, ...]
    differences: Mapping[str, tuple[TestedDifference, TestedDifference]]
    evidence: str

    @property
    def table(self) -> TextTable:
        """The ranking as it is written to files."""
        clean = ("Rank on clean images", "Clean (%)")
        header: tuple[str, ...] = ("Model", *clean, "p against the next")
        if self.shifted:
            header = ("Model", "Rank", "Mean over shifts (%)", "p against the next", *clean)
        parts = ("", " low", " high", " n")
        numbers = [f"{name}{part}" for name in ("score", "clean") for part in parts]
        columns = ["model", "title", *numbers, *RankedModel._fields[4:]]
        lines = [(row.model, row.title, *row.score, *row.clean, *row[4:]) for row in self.rows]
        return TextTable(
            "ranking",
            TableLayout(header),
            [self._cells(row) for row in self.rows],
            [self.caption, *self.notes],
            pd.DataFrame(lines, columns=columns),
            [row.model for row in self.rows],
        )

    def _cells(self, row: RankedModel) -> list[str]:
        score, clean = (str(ScoreEntry(number, percent=True)) for number in (row.score, row.clean))
        if self.shifted:
            return [row.title, row.rank, score, row.p_in_words, row.clean_rank, clean]
        return [row.title, row.clean_rank, clean, row.p_in_words]


class _RankRanges(NamedTuple):
    """What the tests say: the range of ranks of each model, and p for each two of them.

    `bound` says which p are only known to be at most that, and `tests` names the tests.
    """

    best: npt.NDArray[np.int64]
    worst: npt.NDArray[np.int64]
    p: FloatArray
    bound: npt.NDArray[np.bool_]
    tests: str


def drop_variants(models: Iterable[str]) -> list[str]:
    """Leave out the variants of models that are there themselves.

    >>> drop_variants(["basic", "basic+temperature", "other+ensemble"])
    ['basic', 'other+ensemble']
    """
    every = list(models)
    return [model for model in every if base_model(model) not in set(every) - {model}]


def rank_models(contents: Contents) -> Ranking | None:
    """Rank the models by mean accuracy over shifts; those not found to differ share their ranks.

    Variants are left out: a model is no rival of itself, so they stand in a table of their own.

    The mean is over the levels of each shift and then over shifts, attacks left out, of the cells
    that all models have; where there are none, it is the accuracy on clean images. Two models are
    found to differ where a test on the same images is below 5 % after Holm's correction over all
    pairs of models that do not give the same answers. Where one of the two has several seeds it is
    the t-test of `crossed_difference`, which is about the recipes. Else it is the test of
    `compare_pairs`, which is about these trained networks.

    Returns:
        None where there are fewer than two models, where predictions are missing, or where the
        models were not tested on the same images in the same order.
    """
    models = drop_variants(contents.titles)
    if len(models) < len(contents.titles):
        contents = replace(contents, titles={model: contents.titles[model] for model in models})
    images = read_image_keys(contents) if len(models) > 1 else None
    cells = find_shared_cells(contents, contents.titles)
    tested = sum(len(sweep.cells) for sweep in contents.sweeps if not sweep.is_attack)
    clean = _read_columns(contents, {CLEAN: 1.0}, images)
    shifted = _read_columns(contents, cells, images) if cells else clean
    if clean is None or shifted is None:
        return None
    cleans = _read_scores(contents, clean, CLEAN, NO_LEVEL)
    scores = cleans
    if cells:
        known = len(cells) == tested and _read_scores(contents, shifted, ALL, MEAN)
        scores = known or _estimate_scores(contents, shifted)
    order, on_clean = (_order_models(columns, contents.grouping) for columns in (shifted, clean))
    in_order = np.argsort([-columns.mean() for columns in shifted], kind="stable")
    first = max(range(len(models)), key=lambda at: cleans[at].value)
    columns_by_place = ((clean, on_clean), (shifted, order))
    apart = [
        _compare_with(columns, first, ranges, contents) for columns, ranges in columns_by_place
    ]
    differences = {
        model: (apart[0][at], apart[1][at]) for at, model in enumerate(models) if at != first
    }
    rows = tuple(
        RankedModel(
            model=models[at],
            title=contents.titles[models[at]],
            score=scores[at],
            clean=cleans[at],
            best_rank=int(order.best[at]),
            worst_rank=int(order.worst[at]),
            clean_best_rank=int(on_clean.best[at]),
            clean_worst_rank=int(on_clean.worst[at]),
            p_next=math.nan if after is None else float(order.p[at, after]),
            p_next_at_most=after is not None and bool(order.bound[at, after]),
        )
        for at, after in zip(in_order, [*in_order[1:], None], strict=True)
    )
    tests = order.tests
    if on_clean.tests != tests:
        tests = f"{on_clean.tests} on clean images, and {tests} for means"
    if any(row.p_in_words.startswith("≤") for row in rows):
        tests += ". “≤”: no random swap gave as large a difference"
    normal = f"{NORMAL_SEEDS} " if RECIPES in tests else ""
    caption = (
        f"Models by {_describe_criterion(len(cells), tested)}. In brackets: {contents.intervals}. "
        f"{contents.sample()}. {normal}A range of ranks lists every rank that the tests do not "
        "rule out. Two models differ where a test on the same images has p < "
        f"{SIGNIFICANCE:g} after Holm's correction over all pairs: {tests}."
    )
    notes: list[str] = []
    for model, *columns in zip(models, shifted, clean, strict=True):
        title, seeds = contents.titles[model], contents.seeds_of(model)
        warned = (warn_of_far_seed(title, seeds, right, contents.grouping) for right in columns)
        notes += list(filter(None, warned))[:1]
    evidence = read_performance(contents, models[first], CLEAN, NO_LEVEL)
    assert evidence is not None
    return Ranking(rows, bool(cells), caption, tuple(notes), differences, evidence.evidence)


def _compare_with(
    columns: Sequence[FloatArray], first: int, ranges: _RankRanges, contents: Contents
) -> list[TestedDifference]:
    """Subtract the accuracy of one model from that of each, on the same images."""
    estimates = estimate_seed_means(columns, contents.bootstrap, contents.grouping)
    return [
        TestedDifference(paired_difference(estimates[first], estimate), float(ranges.p[first, at]))
        for at, estimate in enumerate(estimates)
    ]


def _read_columns(
    contents: Contents, cells: Mapping[str, float], images: ImageKeys | None
) -> list[FloatArray] | None:
    """How often each image is right, `[n, S]` a model; None where predictions are missing."""
    if images is None:
        return None
    columns = [read_correct(contents, model, cells, images) for model in contents.titles]
    known = [right for right in columns if right is not None]
    return known if len(known) == len(columns) else None


def _read_scores(
    contents: Contents, columns: Sequence[FloatArray], shift: str, level: str
) -> list[Score]:
    """The numbers of scores.csv, so that they read here as they do in the tables."""
    stored = [contents.score("accuracy", model, shift, level) for model in contents.titles]
    computed = _estimate_scores(contents, columns) if None in stored else []
    return [score or computed[at] for at, score in enumerate(stored)]


def _estimate_scores(contents: Contents, columns: Sequence[FloatArray]) -> list[Score]:
    estimates = estimate_seed_means(columns, contents.bootstrap, contents.grouping)
    return [to_score(estimate, SHARE) for estimate in estimates]


def _order_models(columns: Sequence[FloatArray], grouping: Grouping | None) -> _RankRanges:
    """Test all pairs of models that do not answer alike, `[n, S]` each."""
    shares = np.stack([right.mean(axis=1) for right in columns], axis=1)
    _, first, which = np.unique(shares, axis=1, return_index=True, return_inverse=True)
    pairs = list(combinations(range(len(first)), 2))
    tried = [(first[a], first[b]) for a, b in pairs]
    p, is_bound, tests = _test_pairs(columns, tried, grouping)
    adjusted = np.ones((len(first),) * 2)
    bound = np.zeros(adjusted.shape, dtype=bool)
    for at, corrected, only_bound in zip(pairs, holm(p), is_bound, strict=True):
        adjusted[at] = adjusted[at[::-1]] = corrected
        bound[at] = bound[at[::-1]] = only_bound
    every = np.ix_(which.ravel(), which.ravel())
    of_models = adjusted[every]
    means = shares.mean(axis=0)
    better = (of_models < SIGNIFICANCE) & (means[:, None] > means)  # [better one, worse one]
    best, worst = 1 + better.sum(axis=0), len(means) - better.sum(axis=1)
    return _RankRanges(best, worst, of_models, bound[every], tests)


def _test_pairs(
    columns: Sequence[FloatArray], pairs: Sequence[tuple[int, int]], grouping: Grouping | None
) -> tuple[FloatArray, npt.NDArray[np.bool_], str]:
    """Test pairs of models: p, whether it is only a bound, and the names of the tests."""
    of_recipes, otherwise = (RECIPES, MCNEMAR) if grouping is None else (OVER_GROUPS, OVER_GROUPS)
    p, bound = np.ones(len(pairs)), np.zeros(len(pairs), dtype=bool)
    single = [
        grouping is None and max(columns[a].shape[1], columns[b].shape[1]) == 1 for a, b in pairs
    ]
    names = []
    if any(single):
        trained = sorted({at for pair in compress(pairs, single) for at in pair})
        places = [tuple(map(trained.index, pair)) for pair in compress(pairs, single)]
        shares = np.concatenate([columns[at] for at in trained], axis=1)
        tested = compare_pairs(
            shares, [(a, b) for a, b in places], len(pairs), np.random.default_rng(0)
        )
        p[single], bound[single] = tested.p, tested.bound
        names.append(MCNEMAR if tested.exact else SWAPS)
    for at, pair in enumerate(pairs):
        if not single[at]:
            first, second = (columns[which] for which in pair)
            p[at] = crossed_difference(second, first, grouping, SHARE).p
    if not all(single):
        names.append(of_recipes)
    return p, bound, " or ".join(names) or otherwise


def _describe_criterion(cells: int, tested: int) -> str:
    """Say what the models are ranked by, and what of their shifted sets is left out."""
    if not tested:
        return "accuracy on clean images"
    if not cells:
        return (
            f"accuracy on clean images: none of the {tested} shifted sets was tested on every model"
        )
    if cells == tested:
        return (
            "mean accuracy under the shifts, over the levels of each and then over shifts, "
            "without attacks"
        )
    return (
        f"mean accuracy on the {cells} of {tested} shifted sets that every model was tested on. "
        "This mean can differ from those in other tables"
    )


def _format_range(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"


def _ranking_tables(contents: Contents) -> Iterator[TextTable]:
    if (ranks := contents.once(rank_models)) is not None:
        yield ranks.table


def describe_comparison(contents: Contents, ranks: Ranking) -> tuple[str, str]:
    """Say what is confirmed to differ, or else how accurate all are; and in a note what is not."""
    where, place = ("over the shifts", 1) if ranks.shifted else ("on clean images", 0)
    apart = {
        model: own[place] for model, own in ranks.differences.items() if own[place].p < SIGNIFICANCE
    }
    if not apart:
        values = [row.score.value for row in ranks.rows]
        images = "images over the shifts" if ranks.shifted else "clean images"
        said = words.describe_range(min(values), max(values), images)
        return said, words.describe_tie(ranks.evidence)
    model = max(apart, key=lambda name: abs(apart[name].score.value))
    points, titles = apart[model].score.value, contents.titles
    [first] = [row.model for row in ranks.rows if row.model not in ranks.differences]
    better, worse = (model, first) if points > 0 else (first, model)
    said = words.describe_difference(titles[better], titles[worse], points, where)
    others = len(ranks.differences) - len(apart)
    return said, words.describe_tie_with(ranks.evidence, titles[first], others) if others else ""


def _list_differences(contents: Contents, ranks: Ranking) -> list[Row]:
    """A row for each other model, the most accurate over the shifts first."""
    kinds = ("clean", "mean") if ranks.shifted else ("clean",)
    return [
        Row(
            row.title,
            "",
            [
                (kind, *round_ends(own.score), format_signed(own.score.value, percent=True))
                for kind, own in zip(kinds, ranks.differences[row.model], strict=False)
            ],
        )
        for row in ranks.rows
        if row.model in ranks.differences
    ]


def _show_comparison(contents: Contents, _: Tables) -> PartView | None:
    ranks = contents.once(rank_models)
    if ranks is None:
        return None
    said, note = describe_comparison(contents, ranks)
    [first] = [row.title for row in ranks.rows if row.model not in ranks.differences]
    facts = {
        "said": said,
        "note": note,
        "first": first,
        "notes": ranks.notes,
    }
    carried = {"compare": _list_differences(contents, ranks)}
    return PartView(template="compare.html.j2", facts=facts, carried=carried)


COMPARISON = ReportPart(_show_comparison)
RANKING = ReportPart(show_tables("Ranking"), _ranking_tables)


# ---------------------------------------------------------------- variants beside their model

_THRESHOLD_NOTE = (
    "Risk: the share of wrong answers among those at or above a confidence threshold. The "
    "threshold keeps it at 5 % on validation images, clean or under the shifts of fit_on. "
    "Coverage: the share of the images that is answered. "
)


def tabulate_variants(contents: Contents) -> TextTable | None:
    """Compare each variant with its own model on the same images; None where there is none.

    A change is variant − model, paired by images, and by seeds where both have the same number of
    them. Under the shifts it is over the levels that both were tested on.
    """
    pairs = [
        (name, base_model(name))
        for name in contents.titles
        if base_model(name) != name and base_model(name) in contents.titles
    ]
    if not pairs:
        return None
    images = read_image_keys(contents)
    shifted = any(not sweep.is_attack for sweep in contents.sweeps)
    thresholds = any(contents.fitted_on(name) != (CLEAN,) for name, _ in pairs)
    deferred = [RISK, COVERAGE] if thresholds else []
    places = [("mean over shifts", ALL, MEAN)] if shifted else []
    places.append(("clean", CLEAN, NO_LEVEL))
    rows = []
    for base in dict.fromkeys(base for _, base in pairs):
        for name in (base, *(name for name, own in pairs if own == base)):
            entries = [
                entry
                for place, shift, level in places
                for entry in (
                    *_variant_entries(contents, name, base, (place, shift, level), images),
                    *(find_entry(contents, metric, name, shift, level) for metric in deferred),
                )
            ]
            rows.append(ScoreRow(name, contents.titles[name], entries))
    heads = [
        ("accuracy (%)", "accuracy"),
        ("change (points)", "change of accuracy"),
        ("RMS calibration error", "rms_calibration_error"),
        *((("risk", RISK), ("coverage", COVERAGE)) if deferred else ()),
    ]
    caption = (
        "Each model, and its variants below it. Change: of the accuracy, variant − model, on "
        f"the same images. {_THRESHOLD_NOTE if thresholds else ''}In brackets: "
        f"{contents.intervals}. {contents.sample()}."
    )
    columns = [
        (f"{place.capitalize()}: {title}", f"{place} {key}")
        for place, *_ in places
        for title, key in heads
    ]
    return tabulate_scores("variants", caption, [("Model", "model"), *columns], rows)


def _variant_entries(
    contents: Contents, name: str, base: str, place: tuple[str, str, str], images: ImageKeys | None
) -> list[ScoreEntry | None]:
    """Accuracy, its change to the model's own, and calibration error in one place."""
    _, shift, level = place
    cells = {CLEAN: 1.0} if shift == CLEAN else find_shared_cells(contents, (name, base))
    change = None
    if images and cells and name != base:
        change = _estimate_change(contents, name, base, cells, images)
    return [
        find_entry(contents, "accuracy", name, shift, level),
        None if change is None else ScoreEntry(change, percent=True),
        find_entry(contents, "rms_calibration_error", name, shift, level),
    ]


def _estimate_change(
    contents: Contents, name: str, base: str, cells: Mapping[str, float], images: ImageKeys
) -> Score | None:
    """How much more often the variant is right than its model; None without predictions."""
    pair = replace(contents, titles={model: contents.titles[model] for model in (base, name)})
    known = _read_columns(pair, cells, images)
    if known is None:
        return None
    first, second = estimate_seed_means(known, contents.bootstrap, contents.grouping)
    alike = len(first.of_seeds) == len(second.of_seeds)
    return (paired_change if alike else paired_difference)(first, second)


VARIANT_RANKING = ReportPart(
    show_tables("Variants beside their own model"), lambda contents: [tabulate_variants(contents)]
)

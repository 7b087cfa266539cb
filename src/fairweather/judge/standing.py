"""Where the models of a run stand among published ones: rank, and effective robustness."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import logit

from fairweather.data.natural_sets import (
    IMAGENET_CLASSES,
    NATURAL_SETS,
    find_natural_facts,
    find_natural_set,
)
from fairweather.errors import InputError, join_names
from fairweather.judge.atlas import (
    CORRUPTIONS,
    CORRUPTIONS_3D,
    FILES,
    MEMORY,
    UNSHIFTED,
    Accuracies,
    Atlas,
    AtlasCell,
    open_atlas,
)
from fairweather.judge.compared_runs import (
    ComparedRun,
    RunPair,
    SharedShifts,
    estimate_model,
    find_shared_shifts,
    open_compared_run,
    resample_images,
)
from fairweather.judge.comparison import Comparison
from fairweather.metrics import Estimate, recipe_estimate, to_score
from fairweather.metrics.columns import FloatArray, Result
from fairweather.metrics.intervals import mean_estimate
from fairweather.metrics.robustness import ALEXNET, SEVERITIES, effective_robustness
from fairweather.models.class_names import find_class_wnids
from fairweather.progress import Notify
from fairweather.report.charts import COLORS, INK, RULE, Figure, render_figure
from fairweather.report.tables import ABSENT, ScoreEntry, TableLayout, TextTable, format_difference
from fairweather.types.measurement import Score
from fairweather.types.record import (
    CLEAN,
    MEAN,
    NATURAL,
    NO_LEVEL,
    RunRecord,
    ShiftLevel,
    SweepRecord,
    cells_by_level,
)

NEAREST = 3  # published models that are named for their clean accuracy
FEWEST_STANDARD, FEWEST_FAMILIES = 10, 3  # models of a line
SIDE = 224  # pixels of the published corruptions
VALIDATION_IMAGES = 50_000
IMAGENET_C = "imagenet_c"  # stands for the mean over all its corruptions too
# The published tables' name of each family, and how it was made; files of predictions may be named
# by the first two.
FAMILIES = {
    IMAGENET_C: (CORRUPTIONS, MEMORY),
    "imagenet_3dcc": (CORRUPTIONS_3D, FILES),
    "imagenet-c-files": (CORRUPTIONS, FILES),
    "3dcc-files": (CORRUPTIONS_3D, FILES),
}
LAYOUT = TableLayout(
    ("Model", "Shift", "Level", "Accuracy", "Rank", "Best", "Nearest models"), words=3
)
ROBUSTNESS_LAYOUT = TableLayout(
    ("Model", "Shift", "Clean", "Shifted", "Expected", "Effective robustness", "Above"), words=2
)
MODELS_LAYOUT = TableLayout(("Standard model", "Clean"), words=1)


class RankRow(NamedTuple):
    """The accuracy of a model in one cell, beside published ones."""

    model: str
    cell: AtlasCell
    accuracy: Score
    published: Accuracies
    """Of the models that were measured there."""

    nearest: Accuracies
    """Of the models whose clean accuracy is nearest, the nearest first."""

    @property
    def ranks(self) -> list[int]:
        """The rank, and those of the better and the worse end of the interval; 1 is the best."""
        ends = (self.accuracy.value, self.accuracy.high, self.accuracy.low)
        return [1 + int((self.published > end).sum()) for end in ends]


class Line(NamedTuple):
    """The standard models of one cell, through which a line is fitted on the logit scale."""

    clean: FloatArray
    shifted: FloatArray
    """`clean`, `shifted`: accuracies, `[models]`."""

    families: tuple[str, ...]
    """The family of each: related networks err alike, so they are resampled together."""

    def effective(self, clean: Estimate, shifted: Estimate) -> Estimate:
        """Effective robustness; its replicates resample images, and families of models.

        Few large families tell less about the line than their number of models: what they add is
        widened as Student's t is, by the number of equal families that they are worth.
        """
        images = min(clean.n, shifted.n)
        codes, names = pd.factorize(np.asarray(self.families))
        draws = np.random.default_rng(0).multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=len(clean.replicates)
        )
        ours = np.clip(clean.replicates, 0, 1), np.clip(shifted.replicates, 0, 1)
        value = self._residual(clean.value, shifted.value, images)
        over_images = self._residual(*ours, images)
        over_models = self._residual(clean.value, shifted.value, images, draws.T[codes])
        sizes = np.bincount(codes)
        worth = sizes.sum() ** 2 / np.square(sizes).sum()
        widening = stats.t.ppf(0.975, worth - 1) / stats.norm.ppf(0.975)
        widening *= np.sqrt(worth / (worth - 1))
        replicates = over_images + widening * (over_models - value)
        return Estimate(float(value), np.asarray(replicates), shifted.n, groups=shifted.groups)

    def _residual(
        self, clean: ArrayLike, shifted: ArrayLike, images: int, weights: ArrayLike = 1.0
    ) -> Result:
        return effective_robustness(
            clean, shifted, self.clean, self.shifted, images=images, weights=weights
        )

    def count_below(self, value: float) -> int:
        """How many of the models lie less far above their line than `value`."""
        residuals = self._residual(self.clean, self.shifted, VALIDATION_IMAGES)
        return int((np.asarray(residuals) < value).sum())


class EffectiveRow(NamedTuple):
    """How far a model lies above the line of standard models in one cell."""

    model: str
    cell: AtlasCell
    clean: float
    shifted: float
    effective: Score
    """Shifted minus expected; the interval covers the run's images and the choice of models."""

    line: Line

    @property
    def expected(self) -> float:
        """The accuracy that the line predicts."""
        return self.shifted - self.effective.value

    @property
    def is_extrapolated(self) -> bool:
        """Whether the clean accuracy is outside the range of the standard models."""
        return not self.line.clean.min() <= self.clean <= self.line.clean.max()


@dataclass(frozen=True)
class RunCells:
    """The cells of a run that published models were measured in."""

    comparable: Mapping[AtlasCell, ShiftLevel]
    """Each with its condition in the run, clean first."""

    others: Sequence[str]
    """For what is not comparable, a sentence each."""


def read_standing(
    run: str | os.PathLike[str],
    reference: str,
    *,
    offline: bool = False,
    progress: Notify | None = None,
) -> Comparison:
    """Compare a run on ImageNet's 1,000 classes with published models at the cells that both have.

    Args:
        run: a finished run, or one model of it as FOLDER:MODEL.
        reference, offline, progress: as in `open_atlas`.

    Raises:
        InputError: the run is not finished, is not on the 1,000 classes of ImageNet, or has no
            cell of the published tables; or as in `open_atlas`.
    """
    compared = open_compared_run(run)
    check_classes(compared.record)
    atlas = open_atlas(reference, offline=offline, progress=progress)
    standing = RankedRun(compared, atlas, find_cells(compared.record, atlas))
    return Comparison(
        standing_table(standing),
        list(_notes(standing)),
        robustness=robustness_table(standing),
        models=models_table(standing),
        figures=draw_scatter(standing),
    )


def check_classes(record: RunRecord) -> None:
    """Raise `InputError` unless the classes are the 1,000 of ImageNet, by number or by name."""
    classes = record.data.classes
    meanings = find_class_wnids(classes) if len(classes) == IMAGENET_CLASSES else []
    named = [meaning for meaning in meanings if len(meaning) == 1]
    if len(set(named)) < IMAGENET_CLASSES:
        raise InputError(
            f"the run is on {record.data.name} ({len(classes):,} classes), the published models on "
            "the 1,000 classes of ImageNet, which are known by their names or WordNet numbers"
        )


def find_cells(record: RunRecord, atlas: Atlas) -> RunCells:
    """Find the cells of a run that published models were measured in."""
    comparable = {UNSHIFTED: ShiftLevel(CLEAN, NO_LEVEL)}
    unknown, unpublished = list[str](), list[str]()
    side, others = record.data.side, list[str]()
    owned = {
        name: find_natural_facts(source) is not None for name, source in record.natural.items()
    }
    for name in sorted(owned, key=lambda name: not owned[name]):
        kind = record.natural[name].partition(":")[0]
        usual = find_natural_set(kind) if owned[name] else _find_by_full_name(name)
        cell = AtlasCell(f"{NATURAL}{usual}")
        if cell in comparable:
            others.append(
                f"{_title(cell)} is in the run twice: {comparable[cell].shift} is compared, and "
                f"{NATURAL}{name} is not."
            )
        elif cell in atlas.cells:
            comparable[cell] = ShiftLevel(f"{NATURAL}{name}", NO_LEVEL)
        else:
            (unpublished if usual else unknown).append(f"{NATURAL}{name}")
    other_size = side not in (None, (SIDE, SIDE))
    for sweep in record.sweeps:
        levels = cells_by_level(sweep)
        known = find_published(sweep, record)
        if known is None:
            unknown.append(sweep.name)
            continue
        cells = {known._replace(level=level): level for level in levels}
        if other_size or not all(cell in atlas.cells for cell in cells):
            how = "files" if known.made == FILES else "in memory"
            unpublished.append(f"{known.shift} ({how})")
        else:
            comparable |= {cell: ShiftLevel(sweep.name, level) for cell, level in cells.items()}
            if len(levels) == SEVERITIES:
                comparable[known._replace(level=MEAN)] = ShiftLevel(sweep.name, MEAN)
    if unknown:
        others.append(f"Not in published tables, by their names: {join_names(unknown)}.")
    if unpublished and other_size:
        size = " x ".join(map(str, side or ()))
        others.append(
            f"Not comparable: {join_names(unpublished)}. The published corruptions are of "
            f"{SIDE} x {SIDE} pixels, the run's images of {size}."
        )
    elif unpublished:
        others.append(f"No numbers in {atlas.facts.title} for {join_names(unpublished)}.")
    return RunCells(comparable, others)


def _find_by_full_name(name: str) -> str:
    """The set that images of another source are by their name, such as `imagenet-sketch`; or "".

    A word such as `sketch` may mean others, and labels such as ReaL's come with their own source.
    """
    usual = find_natural_set(name)
    is_full = re.sub(r"[-_.\s]", "", name).casefold().startswith(usual.partition("-")[0])
    return usual if usual and is_full and not NATURAL_SETS[usual].same_images else ""


def find_published(sweep: SweepRecord, record: RunRecord) -> AtlasCell | None:
    """The shift that published tables have of a sweep, and how it was made; None for another one.

    The corruptions of predictions are taken for the published files.
    """
    family, _, corruption = sweep.name.partition("/")
    if sweep.kind == "attack" or family not in FAMILIES or not corruption:
        return None
    prefix, made = FAMILIES[family]
    return AtlasCell(f"{prefix}{corruption}", made=FILES if _has_predictions(record) else made)


def _has_predictions(record: RunRecord) -> bool:
    sources = (str(model.settings.get("source", "")) for model in record.models.values())
    return all(source.startswith("predictions") for source in sources)


@dataclass(frozen=True)
class RankedRun:
    """A run beside published models."""

    run: ComparedRun
    atlas: Atlas
    cells: RunCells

    @property
    def name(self) -> str:
        """Of the files."""
        return f"compare_{self.atlas.name}"

    @cached_property
    def estimates(self) -> dict[str, dict[AtlasCell, list[Estimate]]]:
        """The accuracy of each model in each cell, by seed."""
        pair = RunPair(self.run, self.run)
        natural = [
            name for name in self.cells.comparable.values() if name.shift.startswith(NATURAL)
        ]
        sets = [find_shared_shifts(pair), *(SharedShifts(images=name.shift) for name in natural)]
        return {model: self._estimate(model, pair, sets) for model in self.run.models}

    def _estimate(
        self, model: str, pair: RunPair, sets: Sequence[SharedShifts]
    ) -> dict[AtlasCell, list[Estimate]]:
        measured: dict[ShiftLevel, list[Estimate]] = {}
        for shifts in sets:
            images = resample_images(pair, shifts.images)[0]
            estimates = estimate_model(self.run, model, shifts, images, ["accuracy"])
            for condition in (*shifts.conditions, *(shifts.means if shifts.sweeps else ())):
                measured[condition] = [
                    estimates.of_seed(seed, condition, "accuracy") for seed in estimates.seeds
                ]
        cells = {cell: measured[name] for cell, name in self.cells.comparable.items()}
        for made in (MEMORY, FILES):
            if all(cell in cells for cell in list_corruptions(made)):
                seeds = zip(*(cells[cell] for cell in list_corruptions(made)), strict=True)
                means = [mean_estimate(of_seed) for of_seed in seeds]
                cells[AtlasCell(IMAGENET_C, MEAN, made)] = means
        return cells

    def is_bound(self, cell: AtlasCell) -> bool:
        """Whether published models chose among fewer classes than the run, which had no mask."""
        name = self.cells.comparable[cell].shift if cell in self.cells.comparable else ""
        return has_fewer(cell) and name.removeprefix(NATURAL) not in self.run.record.choices

    def published(self, cell: AtlasCell) -> Accuracies:
        """The published accuracies in a cell; a mean is of the models that have all of it."""
        if cell.shift == IMAGENET_C:
            means = map(self.published, list_corruptions(cell.made))
            every: Accuracies = pd.concat(means, axis=1).mean(axis=1, skipna=False).dropna()
            return every
        if cell.level == MEAN:
            mean = self.atlas.mean(cell.shift, cell.made)
            assert mean is not None, "find_cells has looked for all levels"
            return mean
        return self.atlas.cells[cell]

    @cached_property
    def rows(self) -> list[RankRow]:
        """Each model in each cell: clean images, natural shifts, means over levels, levels."""
        rows = []
        for model, cells in self.estimates.items():
            for cell in sorted(cells, key=_sort_key):
                published = self.published(cell)
                if not len(published):
                    continue
                score = to_score(recipe_estimate(cells[cell]), (0.0, 1.0))
                clean = recipe_estimate(cells[UNSHIFTED]).value
                apart = (self.atlas.cells[UNSHIFTED].reindex(published.index) - clean).abs()
                nearest = published[apart.nsmallest(NEAREST).index]
                rows.append(RankRow(model, cell, score, published, nearest))
        return rows

    @cached_property
    def effective_rows(self) -> list[EffectiveRow]:
        """Each model in each cell with a line: natural shifts, and means over levels."""
        rows = []
        for model, cells in self.estimates.items():
            for cell in sorted(cells, key=_sort_key):
                line = self.line(cell)
                if line is None:
                    continue
                clean = [_reverse(estimate) for estimate in cells[UNSHIFTED]]
                if not cell.shift.startswith(NATURAL):
                    clean = cells[UNSHIFTED]  # the same images, resampled together
                by_seed = [
                    line.effective(before, after)
                    for before, after in zip(clean, cells[cell], strict=True)
                ]
                score = to_score(recipe_estimate(by_seed), (-1.0, 1.0))
                before, after = (recipe_estimate(seeds).value for seeds in (clean, cells[cell]))
                rows.append(EffectiveRow(model, cell, before, after, score, line))
        return rows

    def line(self, cell: AtlasCell) -> Line | None:
        """The standard models of a cell; None where a line has no meaning, or too few models."""
        natural = NATURAL_SETS.get(cell.shift.removeprefix(NATURAL))
        if cell == UNSHIFTED or (natural is None and cell.level != MEAN):
            return None
        if natural is not None and natural.filtered:
            return None
        shifted = self.published(cell)
        models = [model for model in self.atlas.standard if model in shifted.index]
        families = tuple(map(name_family, models))
        if len(models) < FEWEST_STANDARD or len(set(families)) < FEWEST_FAMILIES:
            return None
        clean = self.atlas.cells[UNSHIFTED]
        return Line(
            np.asarray(clean[models], dtype=np.float64),
            np.asarray(shifted[models], dtype=np.float64),
            families,
        )


def list_corruptions(made: str) -> list[AtlasCell]:
    """The means over levels of the 15 corruptions of ImageNet-C."""
    return [AtlasCell(f"{CORRUPTIONS}{name}", MEAN, made) for name in ALEXNET]


def has_fewer(cell: AtlasCell) -> bool:
    """Say whether published models chose among fewer classes than 1,000 there."""
    natural = NATURAL_SETS.get(cell.shift.removeprefix(NATURAL))
    return natural is not None and natural.class_count < IMAGENET_CLASSES


def name_family(model: str) -> str:
    """Name the family of a published model, by the first letters of its architecture.

    >>> name_family("tf_efficientnet_b0.in1k"), name_family("resnet50d.ra2_in1k")
    ('efficientnet', 'resnet')
    """
    name = re.sub(r"^(?:tf|legacy|hf)_", "", model.casefold())
    match = re.match(r"[a-z]+", name)
    return match[0] if match else name


def _reverse(estimate: Estimate) -> Estimate:
    """Reverse the resamples: those of other images are drawn by themselves, and must not pair."""
    return replace(estimate, replicates=estimate.replicates[::-1])


def _sort_key(cell: AtlasCell) -> tuple[int, str, str]:
    is_natural, is_mean = cell.shift.startswith(NATURAL), cell.level == MEAN
    places = [cell == UNSHIFTED, is_natural, cell.shift == IMAGENET_C, is_mean, True]
    return places.index(True), f"{cell.shift} {cell.made}", cell.level


# ---------------------------------------------------------------- tables and words


def _title(cell: AtlasCell) -> str:
    if cell == UNSHIFTED:
        return "Clean"
    if cell.shift == IMAGENET_C:
        return f"ImageNet-C, {len(ALEXNET)} corruptions{_how_made(cell)}"
    natural = NATURAL_SETS.get(cell.shift.removeprefix(NATURAL))
    return natural.title if natural else f"{cell.shift}{_how_made(cell)}"


def _how_made(cell: AtlasCell) -> str:
    return " (files)" if cell.made == FILES else ""


def _level(cell: AtlasCell) -> str:
    return ABSENT if cell.level == NO_LEVEL else cell.level


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def standing_table(standing: RankedRun) -> TextTable:
    """The rank of each model in each cell; a terminal shows no single severities."""
    lines, shown, numbers = [], [], []
    for row in standing.rows:
        rank, first, last = row.ranks
        best = row.published.idxmax()
        is_bound = standing.is_bound(row.cell)
        lines.append(
            [
                row.model,
                _title(row.cell),
                _level(row.cell),
                f"{'≥ ' * is_bound}{ScoreEntry(row.accuracy, percent=True)}",
                f"{rank:,} [{first:,}, {last:,}] of {len(row.published):,}",
                _percent(row.published.max()),
                ", ".join(map(_percent, row.nearest)),
            ]
        )
        if row.cell.level in (NO_LEVEL, MEAN):
            shown.append(lines[-1])
        numbers.append(
            (
                *(row.model, *row.cell, *row.accuracy, is_bound),
                *(rank, first, last, len(row.published), best, row.published.max()),
                "; ".join(f"{model} {share:.5f}" for model, share in row.nearest.items()),
            )
        )
    columns = ["model", "shift", "level", "made", "accuracy", "low", "high", "n", "is_lower_bound"]
    columns += ["rank", "rank_high", "rank_low", "published", "best", "best_accuracy", "nearest"]
    caption = (
        f"Accuracy (%) beside {standing.atlas.facts.title}. In brackets: 95 % intervals over "
        "images, and over seeds where there are several; rank 1 is the most accurate published "
        f"model. Nearest models: the {NEAREST} whose clean accuracy is nearest, the nearest first."
    )
    frame = pd.DataFrame(numbers, columns=columns)
    return TextTable(standing.name, LAYOUT, lines, [caption], frame, shown=shown)


def robustness_table(standing: RankedRun) -> TextTable | None:
    """Effective robustness relative to standard models; None where no cell has a line."""
    rows = standing.effective_rows
    if not rows:
        return None
    lines, numbers = [], []
    for row in rows:
        clean, is_bound = row.line.clean, standing.is_bound(row.cell)
        below, bound = row.line.count_below(row.effective.value), "≥ " * is_bound
        lines.append(
            [
                row.model,
                _title(row.cell),
                f"{_percent(row.clean)}{'*' * row.is_extrapolated}",
                f"{bound}{_percent(row.shifted)}",
                _percent(row.expected),
                f"{bound}{format_difference(row.effective, percent=True)}",
                f"{below} of {len(clean)}",
            ]
        )
        numbers.append(
            (
                *(row.model, *row.cell, row.clean, row.shifted, row.expected, *row.effective),
                *(is_bound, below, len(clean), clean.min(), clean.max(), row.is_extrapolated),
            )
        )
    columns = ["model", "shift", "level", "made", "clean", "shifted", "expected"]
    columns += ["effective_robustness", "low", "high", "n", "is_lower_bound", "standard_below"]
    columns += ["standard", "lowest_clean", "highest_clean", "is_extrapolated"]
    caption = (
        "Effective robustness (Taori et al. 2020), in percentage points: the accuracy under the "
        "shift minus the one that a line predicts from the clean accuracy. The line is fitted to "
        "standard models on the logit scale of both. In brackets: 95 % intervals, which cover the "
        "run's images and the choice of standard models, resampled by family. Above: the standard "
        "models that lie less far above the line."
    )
    if any(row.is_extrapolated for row in rows):
        caption += " *: outside the clean accuracies of the standard models, the line is a guess."
    name, frame = f"{standing.name}_effective_robustness", pd.DataFrame(numbers, columns=columns)
    return TextTable(name, ROBUSTNESS_LAYOUT, lines, [caption], frame)


def models_table(standing: RankedRun) -> TextTable | None:
    """The standard models; the file has every published model, with its compared accuracies."""
    if not standing.effective_rows:
        return None
    clean, standard = standing.atlas.cells[UNSHIFTED], set(standing.atlas.standard)
    cells = [row.cell for row in standing.effective_rows]
    frame = pd.DataFrame(
        {
            "model": clean.index,
            "family": [name_family(model) for model in clean.index],
            "standard": [model in standard for model in clean.index],
            "clean": clean.to_numpy(),
        }
        | {
            cell.shift: standing.published(cell).reindex(clean.index).to_numpy()
            for cell in dict.fromkeys(cells)
        }
    )
    lines = [[model, _percent(clean[model])] for model in standing.atlas.standard]
    caption = (
        f"The {len(lines)} standard models and their clean accuracy (%). "
        f"{standing.atlas.facts.standard}. The CSV file has every published model."
    )
    return TextTable(f"{standing.name}_models", MODELS_LAYOUT, lines, [caption], frame, shown=[])


# ---------------------------------------------------------------- the figure

PANEL = 230  # pixels of a side
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
PIXEL = 0.02  # of a logit; models that coincide are drawn once
KINDS = ("Other published models", "Standard models", "This run")
KIND_COLORS = (RULE, COLORS[0], COLORS[1])


def draw_scatter(standing: RankedRun) -> list[Figure]:
    """Draw accuracy under shift against clean accuracy, on logit axes, with the line; none without.

    There is a panel for each natural shift with a line, and one for all corruptions.
    """
    cells = dict.fromkeys(
        row.cell
        for row in standing.effective_rows
        if row.cell.shift == IMAGENET_C or row.cell.shift.startswith(NATURAL)
    )
    if not cells:
        return []
    panels = alt.hconcat(*(_draw_panel(standing, cell) for cell in cells))
    titles = ", ".join(map(_title, cells))
    return [
        render_figure(
            standing.name,
            panels,
            "Accuracy under shift against clean accuracy",
            [f"Published: {standing.atlas.facts.title}.", "Logit axes. Line: standard models."],
            f"Scatter of published models and of the run, with a line, for {titles}.",
            letters=90,
        )
    ]


def _logit_axis() -> alt.Axis:
    label = "format(100 / (1 + exp(-datum.value)), '.3~r')"
    return alt.Axis(values=[float(logit(share)) for share in TICKS], labelExpr=label)


def _draw_panel(standing: RankedRun, cell: AtlasCell) -> alt.LayerChart | alt.FacetChart:
    clean, shifted = standing.atlas.cells[UNSHIFTED], standing.published(cell)
    standard, line = set(standing.atlas.standard), standing.line(cell)
    assert line is not None, "only cells with a line are drawn"
    points = {
        (kind, *(PIXEL * round(float(logit(share)) / PIXEL) for share in shares))
        for model in shifted.index
        if model in clean.index
        and 0 < min(shares := (clean[model], shifted[model])) <= max(shares) < 1
        for kind in [KINDS[model in standard]]
    }
    ours = [
        (KINDS[2], float(logit(row.clean)), float(logit(row.shifted)))
        for row in standing.effective_rows
        if row.cell == cell and 0 < min(row.clean, row.shifted) <= max(row.clean, row.shifted) < 1
    ]
    columns = ["kind", "x", "y"]
    ends = logit([line.clean.min(), line.clean.max()])
    slope, intercept = np.polyfit(logit(line.clean), logit(line.shifted), 1)
    fitted = pd.DataFrame({"x": ends, "y": intercept + slope * ends})
    x = alt.X("x:Q", title="Clean (%)", axis=_logit_axis(), scale=alt.Scale(zero=False))
    y_title = f"{_title(cell)} (%)"
    y = alt.Y("y:Q", title=y_title, axis=_logit_axis(), scale=alt.Scale(zero=False))
    color = alt.Color("kind:N", title=None, scale=alt.Scale(domain=KINDS, range=KIND_COLORS))
    drawn = [
        alt.Chart(pd.DataFrame(sorted(points), columns=columns)).mark_circle(size=14),
        alt.Chart(pd.DataFrame(ours, columns=columns)).mark_circle(size=90),
    ]
    return alt.layer(
        *(chart.encode(x=x, y=y, color=color) for chart in drawn),
        alt.Chart(fitted).mark_line(color=INK, strokeWidth=1.5).encode(x=x, y=y),
    ).properties(width=PANEL, height=PANEL)


# ---------------------------------------------------------------- notes


def _notes(standing: RankedRun) -> Iterator[str]:
    """What the numbers are of, and what they do not show."""
    facts, cells = standing.atlas.facts, [row.cell for row in standing.rows]
    yield f"Published numbers: {facts.address}. {facts.note}".strip()
    if standing.atlas.changed:
        yield f"Other files than those of that commit: {', '.join(standing.atlas.changed)}."
    clean = {
        row.model: ", ".join(f"{name} ({_percent(share)})" for name, share in row.nearest.items())
        for row in standing.rows
        if row.cell == UNSHIFTED
    }
    yield from (f"Nearest to {model} in clean accuracy: {names}." for model, names in clean.items())
    fewer = [cell for cell in dict.fromkeys(cells) if has_fewer(cell)]
    if bounds := [_title(cell) for cell in fewer if standing.is_bound(cell)]:
        yield (
            f"{', '.join(bounds)}: the published models choose among the classes of the set, this "
            "run among all 1,000. Fewer classes can only raise an accuracy, so the run's is a "
            "lower bound (≥)."
        )
    if masked := [_title(cell) for cell in fewer if not standing.is_bound(cell)]:
        yield (
            f"{', '.join(masked)}: the published models and this run choose among the classes of "
            "the set."
        )
    if lined := [_title(cell) for cell in fewer if standing.line(cell)]:
        yield (
            f"Effective robustness on {' and '.join(lined)} is at the clean accuracy over all "
            "1,000 classes. The testbed's plots take the clean accuracy over the classes of the "
            "set, so their numbers differ a little."
        )
    if any(cell.shift.startswith(NATURAL) and not standing.line(cell) for cell in cells) and (
        standing.atlas.standard
    ):
        yield (
            "ImageNet-A has no effective robustness: its images were chosen because a ResNet-50 "
            "errs on them, so no line through models fits."
        )
    if not standing.atlas.standard:
        yield (
            f"No effective robustness: there are fewer than {FEWEST_STANDARD} standard models in "
            f"{facts.title}, too few for a line."
        )
    n = next(row.accuracy.n for row in standing.rows if row.cell == UNSHIFTED)
    theirs = facts.images or VALIDATION_IMAGES
    if n != theirs:
        yield (
            f"The run has {n:,} clean images, the published numbers are of {theirs:,} validation "
            "images of ImageNet. Intervals cover the difference only if both are drawn alike."
        )
    if any(cell.made == FILES for cell in cells) and _has_predictions(standing.run.record):
        yield (
            "The corruptions of predictions are taken for the published files; those made in "
            "memory differ a little."
        )
    yield from standing.cells.others

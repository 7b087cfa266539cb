"""Where corrupted images come from, and how published files differ from the same made in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import pandas as pd

from fairweather.data.corrupted import BENCHMARK, TWINS, find_published_set, find_twin
from fairweather.errors import join_names
from fairweather.metrics.robustness import (
    ALEXNET,
    FILES_MINUS_MEMORY,
    SEVERITIES,
    select_benchmark,
)
from fairweather.report.contents import Contents
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.summary import MCE_OF_FILES
from fairweather.report.tables import (
    ABSENT,
    ScoreEntry,
    TableLayout,
    TextTable,
    format_difference,
    format_signed,
)
from fairweather.types.measurement import Score
from fairweather.types.record import MEAN

LAYOUT = TableLayout(
    ("Model", "Corruption", "Level", "In memory", "Files", "Files − memory"), words=3
)


class ComparedCell(NamedTuple):
    """A corruption at a level, from published files and made in memory."""

    model: str
    shift: str
    level: str
    memory: Score
    files: Score
    difference: Score


def describe_families(contents: Contents) -> list[str]:
    """Say of each family of corruptions whether it is published files, at which size, and of how
    many images."""
    families: dict[str, dict[str, int]] = {}
    for sweep in contents.sweeps:
        family, slash, corruption = sweep.name.partition("/")
        if slash and not sweep.is_attack:
            families.setdefault(family, {})[corruption] = len(sweep.cells)
    height, width = contents.data.side or (0, 0)
    size = f", at {width} x {height} pixels" if width else ""
    sentences = []
    for family, levels in families.items():
        facts = find_published_set(family)
        if facts is not None:
            sentences.append(f"{facts.title} is read from the published files{size}.")
            sentences.append(_count_images(contents, family, facts.images))
            sentences.append(_count_averaged(levels))
        elif family in TWINS.values():
            sentences.append(f"The corruptions of {family} are made in memory{size}.")
        if family == BENCHMARK:
            sentences.append(_describe_mce(contents, levels))
    return sentences


def _count_images(contents: Contents, family: str, published: int | None) -> str:
    images = _images(contents, family)
    if published is None:
        return f"It has {images:,} images at each level."
    if images == published:
        return f"All {images:,} images of a level are measured."
    return f"Of the {published:,} images of a level, {images:,} are measured."


def _count_averaged(corruptions: Collection[str]) -> str:
    count = len(select_benchmark(corruptions))
    mean = f"Its mean error is over {count} corruption{'s' * (count > 1)}"
    if count < len(corruptions):
        return f"{mean}; the {len(corruptions) - count} for validation do not count."
    return f"{mean}."


def _images(contents: Contents, family: str) -> int:
    return int(contents.scores["n"][contents.scores["shift"].str.startswith(f"{family}/")].max())


def _describe_mce(contents: Contents, levels: dict[str, int]) -> str:
    missing = [name for name in ALEXNET if levels.get(name, 0) < SEVERITIES]
    if missing:
        return f"It has no mCE, because it lacks {join_names(missing)}."
    if not (contents.scores["metric"] == MCE_OF_FILES).any():
        return "It has no mCE: that needs the 1,000 classes of ImageNet at 224 pixels."
    facts, images = find_published_set(BENCHMARK), _images(contents, BENCHMARK)
    if facts is not None and images == facts.images:
        return "Its mCE is comparable with published ones."
    return "Its mCE is not comparable with published ones, which are of all images."


def compare_cells(contents: Contents) -> Iterator[ComparedCell]:
    """Yield each cell that a run has from published files and in memory, and means over levels."""
    for model in contents.titles:
        for sweep in contents.sweeps:
            twin = find_twin(sweep.name)
            for level in (*sweep.cells, MEAN) if twin else ():
                memory = contents.score("accuracy", model, twin, level)
                files = contents.score("accuracy", model, sweep.name, level)
                difference = contents.score(FILES_MINUS_MEMORY, model, sweep.name, level)
                if memory and files and difference:
                    yield ComparedCell(model, sweep.name, level, memory, files, difference)


def _tabulate(contents: Contents) -> list[TextTable]:
    cells = list(compare_cells(contents))
    if not cells:
        return []
    body = [
        [
            contents.titles[cell.model],
            cell.shift.partition("/")[2],
            cell.level,
            str(ScoreEntry(cell.memory, percent=True)),
            str(ScoreEntry(cell.files, percent=True)),
            format_difference(cell.difference, percent=True, without_interval=ABSENT),
        ]
        for cell in cells
    ]
    ends = ("", " low", " high")
    columns = [f"{name}{end}" for name in ("memory", "files", "difference") for end in ends]
    numbers = [
        (*cell[:3], *cell.memory[:3], *cell.files[:3], *cell.difference[:3], cell.difference.n)
        for cell in cells
    ]
    frame = pd.DataFrame(numbers, columns=["model", "shift", "level", *columns, "n"])
    caption = (
        "Accuracy (%) under corruptions that are made in memory, and on the published files of the "
        "same corruptions. Files − memory: the difference in percentage points, paired by image; "
        f"its intervals are not corrected for their number. In brackets: {contents.intervals}."
    )
    models = [cell.model for cell in cells]
    return [TextTable("files_and_memory", LAYOUT, body, [caption], frame, models)]


def _describe_differences(contents: Contents) -> Iterator[str]:
    single = [cell for cell in compare_cells(contents) if cell.level != MEAN]
    if not single:
        return
    widest = max(single, key=lambda cell: abs(cell.difference.value))
    sweep = next(sweep for sweep in contents.sweeps if sweep.name == find_twin(widest.shift))
    points = format_signed(widest.difference.value, percent=True)
    apart = sum(not cell.difference.low <= 0 <= cell.difference.high for cell in single)
    yield (
        f"Files and memory differ most under {sweep.at(widest.level)}: by {points} points for "
        f"{contents.titles[widest.model]}."
    )
    yield f"The interval of the difference excludes 0 in {apart} of {len(single):,} cells."


def _show(contents: Contents, tables: Tables) -> PartView | None:
    notes = [*describe_families(contents), *_describe_differences(contents)]
    return PartView("Where the corrupted images come from", tables, notes=notes) if notes else None


ORIGINS = ReportPart(_show, _tabulate, accepts=None)

"""The classes, and the subgroups that were asked for, with the lowest accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from fairweather.metrics import to_score
from fairweather.report import sentences as words
from fairweather.report.contents import Contents
from fairweather.report.front import Row, make_mark, read_outcomes
from fairweather.report.performance import (
    FloatArray,
    ImageKeys,
    estimate_seed_means,
    find_shared_cells,
    read_correct,
    read_image_keys,
)
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN

MOST_PARTS = 5
FEWEST_IMAGES = 10  # of a part that is shown, unless at most one has so many
BOUNDS = (0.0, 1.0)  # of accuracy


class Division(NamedTuple):
    """A way to divide the images: the noun of a part, each part's name, and each image's part."""

    noun: str
    names: tuple[str, ...]
    parts: npt.NDArray[np.int64]


def list_divisions(contents: Contents, images: ImageKeys) -> Iterator[Division]:
    """Divide the images by class, and by each column of subgroups that was asked for."""
    if len(contents.classes) > 1:
        yield Division("class", contents.classes, images.labels)
    groups = next((own for run in contents.runs.values() if (own := run.groups())), None)
    for column, values in groups.slices.items() if groups else ():
        if len(values) == len(images.labels):
            names, parts = np.unique(values, return_inverse=True)
            yield Division(column, tuple(map(str, names)), parts.ravel())


def find_hurt(
    contents: Contents, division: Division, clean: FloatArray, shifted: FloatArray | None
) -> tuple[list[Row], list[str]] | None:
    """Find the parts of the images with the lowest accuracy; None of a single part.

    Args:
        contents: of the run.
        division: of its test images.
        clean: how often each clean image is right, by seed: `[n, S]`.
        shifted: the same on average over the shifts; None without shifts.
    """
    right = clean if shifted is None else shifted
    counts = np.bincount(division.parts, minlength=len(division.names))
    sums = np.bincount(division.parts, right.mean(axis=1), minlength=len(division.names))
    kept = np.flatnonzero(counts >= FEWEST_IMAGES)
    kept = kept if len(kept) > 1 else np.flatnonzero(counts)
    if len(kept) < 2:
        return None
    worst = kept[np.argsort(sums[kept] / counts[kept], kind="stable")][:MOST_PARTS]
    parts = []
    for at in worst.tolist():
        scores = [_estimate(contents, columns, division.parts == at) for columns in (clean, right)]
        parts.append((f"{division.noun} {division.names[at]}", int(counts[at]), scores))
    rows = [
        Row(
            name[:1].upper() + name[1:],
            f"{n:,} images",
            [
                make_mark("clean", scores[0]),
                None if shifted is None else make_mark("mean", scores[1]),
            ],
        )
        for name, n, scores in parts
    ]
    everyone = _estimate(contents, right, np.ones(len(right), dtype=bool))
    _, _, (before, there) = parts[0]
    said = words.describe_hurt(
        rows[0].title, there, before if shifted is not None else None, everyone
    )
    return rows, [*said]


def _estimate(contents: Contents, right: FloatArray, inside: npt.NDArray[np.bool_]) -> Score:
    grouping, kept = contents.grouping, np.flatnonzero(inside)
    own = None if grouping is None else grouping.select(kept)
    [estimate] = estimate_seed_means([right[kept]], contents.bootstrap, own)
    return to_score(estimate, BOUNDS)


class WorstParts(TypedDict):
    """The parts of a division with the lowest accuracy as rows of a chart, and what they say."""

    rows: list[Row]
    said: list[str]


def find_worst_parts(contents: Contents, model: str) -> Mapping[str, WorstParts]:
    """Find the worst parts of each division for a model, by the noun of a part."""
    images = contents.once(read_image_keys)
    if images is None:
        return {}
    clean = read_correct(contents, model, {CLEAN: 1.0}, images)
    cells = find_shared_cells(contents, [model])
    shifted = read_correct(contents, model, cells, images) if cells else None
    if clean is None or (cells and shifted is None):
        return {}
    hurt = (
        (division.noun, find_hurt(contents, division, clean, shifted))
        for division in list_divisions(contents, images)
    )
    return {noun: WorstParts(rows=parts[0], said=parts[1]) for noun, parts in hurt if parts}


def _show_hurt(contents: Contents, _: Tables) -> PartView | None:
    hurt = {
        model: own
        for model in contents.once(read_outcomes)
        if (own := find_worst_parts(contents, model))
    }
    if not hurt:
        return None
    nouns = list(dict.fromkeys(noun for own in hurt.values() for noun in own))
    facts = {"nouns": nouns, "shifted": any(find_shared_cells(contents, [own]) for own in hurt)}
    return PartView(template="hurt.html.j2", facts=facts, carried={"hurt": hurt})


HURT = ReportPart(_show_hurt)

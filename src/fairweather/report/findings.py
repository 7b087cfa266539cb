"""What is found of each model, in a few sentences as strong as the intervals of their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from fairweather.metrics import (
    estimate_means,
    mcnemar_exact,
    paired_change,
    recipe_estimate,
)
from fairweather.metrics.recipes import cross
from fairweather.metrics.table import Interval
from fairweather.record import ALL, CLEAN, MEAN, NO_LEVEL, base_model
from fairweather.report import sentences
from fairweather.report.contents import Contents
from fairweather.report.correctness import (
    FloatArray,
    Images,
    answer_alike,
    read_by_seed,
    read_correct,
    read_images,
)
from fairweather.report.further_tables import COVERAGE, RISK
from fairweather.report.performance import PairedChange, Performance, WorstLevel

# Of more models than that, no more than so many sentences are said of each.
MANY_MODELS, FEW_SENTENCES = 6, 3


class ModelFindings(NamedTuple):
    """What the report says first about a model.

    Attributes:
        model, title: its names.
        sentences: plain text, to be escaped: of accuracy, then of confidence, then of the rest.
    """

    model: str
    title: str
    sentences: tuple[str, ...]


class _WorstLevels(NamedTuple):
    """A model's lowest accuracy under each shift and each attack, and which of these to tell of."""

    shifts: Sequence[WorstLevel]
    attacks: Sequence[WorstLevel]

    @property
    def focus(self) -> WorstLevel | None:
        """The lowest accuracy of all shifts, or of all attacks where there is no shift."""
        lows = self.shifts or self.attacks
        return min(lows, key=lambda low: low.performance.accuracy.value, default=None)

    @property
    def searched(self) -> int:
        """How many sets of images the focus is the lowest of."""
        return sum(low.levels for low in self.shifts or self.attacks)


def model_findings(contents: Contents) -> list[ModelFindings]:
    """Say of each model what is left of its accuracy and of its confidence when images change.

    Accuracy "falls" only where the 95 % interval of the paired difference to clean images excludes
    0, and where that is not to be expected of the worst of so many shifted sets (Bonferroni's
    correction of McNemar's test, or of that of `cross` where there are several seeds). Confidence
    is called too high where the interval of mean confidence − accuracy is above 0, widened by the
    same correction. Where there are no predictions
    to pair, two numbers differ where their intervals do not overlap. Of a variant that answers as
    its base model only the confidence is told, and of more than six models three sentences each.

    Returns:
        One a model that was tested on clean images, in the study's order.
    """
    found = {
        model: _worst_levels(contents, model)
        for model in contents.titles
        if contents.score("accuracy", model, CLEAN, NO_LEVEL)
    }
    images = read_images(contents)
    changes = _changes(contents, found, images) if images else {}
    chance = np.bincount(images.labels).max() / len(images.labels) if images else None
    most = FEW_SENTENCES if len(found) > MANY_MODELS else None
    told = []
    for model, of in found.items():
        change, base = changes.get(model, PairedChange()), base_model(model)
        if base in found and base != model and answer_alike(contents, model, base):
            each = _sentences_of_variant(contents, model, base, of, change)
        else:
            each = _sentences(contents, model, of, change, chance)
        told.append(ModelFindings(model, contents.titles[model], tuple(islice(each, most))))
    return told


def _worst_levels(contents: Contents, model: str) -> _WorstLevels:
    lows: dict[str, list[WorstLevel]] = {"shift": [], "attack": []}
    for sweep in contents.sweeps:
        levels = [
            (level, performance)
            for level in sweep.cells
            if (performance := _performance(contents, model, sweep.name, level))
        ]
        if levels:
            level, worst = min(levels, key=lambda each: each[1].accuracy.value)
            mean = contents.score("accuracy", model, sweep.name, MEAN)
            lows[sweep.kind].append(WorstLevel(sweep, level, worst, mean, len(levels)))
    return _WorstLevels(lows["shift"], lows["attack"])


def _performance(contents: Contents, model: str, shift: str, level: str) -> Performance | None:
    accuracy = contents.score("accuracy", model, shift, level)
    if accuracy is None:
        return None
    names = ("confidence_gap", "rms_calibration_error", COVERAGE, RISK)
    return Performance(accuracy, *(contents.score(name, model, shift, level) for name in names))


def _sentences(
    contents: Contents, model: str, found: _WorstLevels, change: PairedChange, chance: float | None
) -> Iterator[str]:
    clean = _performance(contents, model, CLEAN, NO_LEVEL)
    assert clean is not None
    lows = found.shifts or found.attacks
    if lows:
        yield sentences.accuracy(clean, lows, found.searched, change, chance)
    else:
        yield sentences.unshifted(clean, chance)
    yield from _on_confidence(clean, found, change)
    if found.shifts:
        yield from sentences.overview(found.shifts, contents.score("accuracy", model, ALL, MEAN))
        yield from sentences.attacked(found.attacks)


def _sentences_of_variant(
    contents: Contents, model: str, base: str, found: _WorstLevels, change: PairedChange
) -> Iterator[str]:
    clean = _performance(contents, model, CLEAN, NO_LEVEL)
    assert clean is not None
    yield sentences.alike(contents.titles[base], found.focus)
    yield from _on_confidence(clean, found, change)


def _on_confidence(clean: Performance, found: _WorstLevels, change: PairedChange) -> Iterator[str]:
    there = found.focus.performance if found.focus else None
    yield from sentences.confidence(clean, there, change, found.searched)
    yield from sentences.hand_over(clean, there)


def _changes(
    contents: Contents, found: Mapping[str, _WorstLevels], images: Images
) -> dict[str, PairedChange]:
    """What the same images tell of the change from clean to the lowest accuracy of each model."""
    read: dict[str, list[FloatArray]] = {}
    for model, of in found.items():
        if of.focus is not None:
            cells = (CLEAN, of.focus.sweep.cells[of.focus.level])
            both = [_columns(contents, model, cell, images) for cell in cells]
            if both[0] is not None and both[1] is not None:
                read[model] = [*both[0], *both[1]]
    if not read:
        return {}
    # One call, since all share the resamples: of each model and seed four columns.
    kinds: Sequence[Interval] = ("share", "percentile", "share", "percentile")
    every = [(kind, each) for of in read.values() for kind, each in zip(kinds, of, strict=True)]
    intervals = [kind for kind, each in every for _ in range(each.shape[1])]
    columns = np.concatenate([each for _, each in every], axis=1)
    by_seed = iter(estimate_means(columns, intervals, contents.bootstrap))
    estimated = iter([recipe_estimate(list(islice(by_seed, each.shape[1]))) for _, each in every])
    changes = {}
    for model, (right, _, right_there, _) in read.items():
        of_right, of_gap, of_right_there, of_gap_there = islice(estimated, 4)
        changes[model] = PairedChange(
            paired_change(of_right, of_right_there),
            paired_change(of_gap, of_gap_there),
            min(1.0, _p_of_change(right, right_there) * found[model].searched),
        )
    return changes


def _p_of_change(clean: FloatArray, there: FloatArray) -> float:
    """Test whether the same trained networks are as often right here and there, `[n, S]` each."""
    if clean.shape[1] > 1:
        return cross(there - clean).p
    return mcnemar_exact(clean[:, 0] > 0, there[:, 0] > 0).p


def _columns(
    contents: Contents, model: str, cell: str, images: Images
) -> tuple[FloatArray, FloatArray] | None:
    """How often each image is right, and how much surer than that the model is: `[n, S]` each."""
    right = read_correct(contents, model, {cell: 1.0}, images)
    sure = read_by_seed(contents, model, cell, "confidence")
    return None if right is None or sure is None else (right, sure - right)

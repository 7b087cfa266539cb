"""What is found of each model, in a few sentences that say no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from fairweather.metrics import mcnemar_exact, paired_change
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.metric import Interval
from fairweather.metrics.recipes import cross
from fairweather.record import ALL, CLEAN, MEAN, NO_LEVEL, base_model
from fairweather.report import sentences as words
from fairweather.report.class_shares import class_off
from fairweather.report.contents import Contents
from fairweather.report.correctness import (
    FloatArray,
    Images,
    answer_alike,
    mean_estimates,
    read_by_seed,
    read_correct,
    read_images,
)
from fairweather.report.overview import ranked_order
from fairweather.report.performance import (
    Outcome,
    PairedChange,
    WorstLevels,
    accuracy_direction,
    performance_at,
    sign,
    widened,
    worst_levels,
)
from fairweather.report.ranking import Ranking, ranked_models, ranking
from fairweather.report.section import Part, Shown, Tables
from fairweather.variants import Variant


class ModelFindings(NamedTuple):
    """What the report says of a model in words, as plain text that is to be escaped.

    Attributes:
        model, title: its names.
        sentences: at most three: of accuracy, of confidence, and of what is deferred to a person.
        more: what a reader may want to know besides.
        outcome: the numbers behind the sentences.
    """

    model: str
    title: str
    sentences: tuple[str, ...]
    more: tuple[str, ...]
    outcome: Outcome


def model_findings(contents: Contents) -> list[ModelFindings]:
    """Say of each model how far its accuracy falls and whether its confidence falls with it.

    Accuracy "falls" only where the 95 % interval of the paired difference to clean images excludes
    0, and where that is not to be expected of the worst of so many shifted sets (Bonferroni's
    correction of McNemar's test, or of that of `cross` where there are several seeds). A model is
    called overconfident where the interval of mean confidence − accuracy is above 0, widened by the
    same correction. Where it is not, a class comes first whose mean probability differs from its
    share of the images. Where there are no predictions to pair, two numbers differ where their
    intervals do not overlap. Of a variant that gives the answers of its base model only the
    confidence is told.

    Returns:
        One for each model that was tested on clean images, in the study's order.
    """
    found = {
        model: worst_levels(contents, model)
        for model in contents.titles
        if contents.score("accuracy", model, CLEAN, NO_LEVEL)
    }
    images = read_images(contents)
    changes = _changes(contents, found, images) if images else {}
    chance = np.bincount(images.labels).max() / len(images.labels) if images else None
    told = []
    for model, of in found.items():
        change, base = changes.get(model, PairedChange()), base_model(model)
        title = contents.titles[model]
        on_clean = contents.fitted_on(model) == (CLEAN,)
        detail: Iterator[str]
        if base in found and base != model and answer_alike(contents, model, base):
            first, detail = _alike(contents, model, base, of), iter(())
        else:
            first, detail = _accuracy(contents, model, of, change, chance)
        clean = performance_at(contents, model, CLEAN, NO_LEVEL)
        assert clean is not None
        there = of.focus.performance if of.focus else None
        gap = widened(there.gap, of.searched) if there and there.gap else clean.gap
        cell = of.focus.sweep.cells[of.focus.level] if of.focus else CLEAN
        off = class_off(contents, model, cell, max(1, of.searched))
        by_class = [words.class_share(off, shifted=there is not None)] if off else []
        confidence = [*words.confidence(clean, there, change, of.searched)]
        if by_class and gap and not sign(gap):
            # The largest probabilities may be right on average, and those of a class not.
            by_class, confidence = confidence, by_class
        sentences = (first, *confidence, *words.deferral(clean, there, on_clean=on_clean))
        more = (
            *detail,
            *by_class,
            *words.confidence_in_detail(clean, there, change, of.searched),
            *words.deferral_in_detail(clean, there),
        )
        way = accuracy_direction(clean, there, change, of.searched) if there else 0
        outcome = Outcome(title, clean, there, way, sign(gap) if gap else 0)
        told.append(ModelFindings(model, title, sentences, more, outcome))
    return told


def answer(found: Sequence[ModelFindings], ranks: Ranking | None) -> str:
    """Say in one sentence which model is best, how far it falls, and if confidence falls too.

    Where several share the first place it is about all of these; without ranks it is about the
    models, not about their variants. Empty where no model was tested on clean images.
    """
    models = (
        [row.model for row in ranks.rows] if ranks else ranked_models(each.model for each in found)
    )
    leaders = [models[at] for at in ranks.leaders] if ranks else models
    outcomes = {each.model: each.outcome for each in found}
    told = [outcomes[model] for model in leaders if model in outcomes]
    ranked: words.Ranked = None if ranks is None else "shifts" if ranks.shifted else "clean"
    return words.answer(told, len(models), ranked) if told else ""


def _alike(contents: Contents, model: str, base: str, found: WorstLevels) -> str:
    variant = contents.variant(model)
    differs = Variant.differs if variant is None else variant.differs
    return words.alike(contents.titles[base], found.focus, differs)


def _accuracy(
    contents: Contents, model: str, found: WorstLevels, change: PairedChange, chance: float | None
) -> tuple[str, Iterator[str]]:
    """The sentence on the accuracy of a model, and those behind it."""
    clean = performance_at(contents, model, CLEAN, NO_LEVEL)
    assert clean is not None
    lows = found.shifts or found.attacks
    if not lows:
        return words.unshifted(clean, chance), iter(())
    of = (clean, lows, found.searched, change, chance)
    more = [*words.accuracy_in_detail(*of)]
    if found.shifts:
        more += words.overview(found.shifts, contents.score("accuracy", model, ALL, MEAN))
        more += words.attacked(found.attacks)
    return words.accuracy(*of), iter(more)


def _changes(
    contents: Contents, found: Mapping[str, WorstLevels], images: Images
) -> dict[str, PairedChange]:
    """The change from clean to the lowest accuracy of each model, on the same images."""
    read: dict[str, list[FloatArray]] = {}
    for model, of in found.items():
        if of.focus is not None:
            cells = (CLEAN, of.focus.sweep.cells[of.focus.level])
            both = [_columns(contents, model, cell, images) for cell in cells]
            if both[0] is not None and both[1] is not None:
                read[model] = [*both[0], *both[1]]
    if not read:
        return {}
    # One call, since all share the resamples: of each model four columns.
    kinds: Sequence[Interval] = ("share", "percentile", "share", "percentile")
    every = [each for of in read.values() for each in of]
    clusters = contents.clusters
    estimated = iter(mean_estimates(every, contents.bootstrap, clusters, cycle(kinds)))
    changes = {}
    for model, (right, _, right_there, _) in read.items():
        of_right, of_gap, of_right_there, of_gap_there = islice(estimated, 4)
        changes[model] = PairedChange(
            paired_change(of_right, of_right_there),
            paired_change(of_gap, of_gap_there),
            min(1.0, _p_of_change(right, right_there, clusters) * found[model].searched),
        )
    return changes


def _p_of_change(clean: FloatArray, there: FloatArray, clusters: Clusters | None) -> float:
    """Test whether the same trained networks are as often right here and there, `[n, S]` each."""
    if clean.shape[1] > 1 or clusters is not None:
        return cross(there - clean, clusters).p
    return mcnemar_exact(clean[:, 0] > 0, there[:, 0] > 0).p


def _columns(
    contents: Contents, model: str, cell: str, images: Images
) -> tuple[FloatArray, FloatArray] | None:
    """How often each image is right, and confidence − that: `[n, S]` each."""
    right = read_correct(contents, model, {cell: 1.0}, images)
    sure = read_by_seed(contents, model, cell, "confidence")
    return None if right is None or sure is None else (right, sure - right)


def _verdict(contents: Contents, _: Tables) -> Shown | None:
    told = answer(contents.once(model_findings), contents.once(ranking))
    return Shown(template="verdict.html.j2", facts={"told": told}) if told else None


def _in_words(contents: Contents, _: Tables) -> Shown:
    order = ranked_order(contents)
    findings = sorted(contents.once(model_findings), key=lambda each: order.index(each.model))
    return Shown("Each model in words", template="findings.html.j2", facts={"findings": findings})


VERDICT, IN_WORDS = Part(_verdict), Part(_in_words)

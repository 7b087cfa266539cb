"""What is found about other images than the test images, in sentences: the worst comes first.

They are images of other data sets, which a model should be less sure of; other images of the same
classes; and the test images themselves, where they have another source than the validation images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from fairweather.metrics.ood_scores import OOD_SCORES
from fairweather.record import (
    CLEAN,
    ENSEMBLE,
    MEAN,
    NATURAL,
    NO_LEVEL,
    OOD,
    SPREAD,
    VALIDATION,
    base_model,
)
from fairweather.report.further_tables import AUROC, better_score, difference
from fairweather.report.sentences import percent
from fairweather.types import Score

COIN = 0.5  # the AUROC of a confidence that says nothing about where an image is from
# The kinds of findings, the worst first.
SURER_OF_OTHERS, LESS_RIGHT, NOT_SURER, SURER, AS_RIGHT = range(5)
Numbers = Mapping[tuple[str, str, str], Score]  # by model, shift and metric


class Found(NamedTuple):
    """What is found about a set of images.

    Attributes:
        kind: which kind of finding; the smallest is the worst.
        number: within the kind, the smallest is the worst.
        sentence: in words.
    """

    kind: int
    number: float
    sentence: str


def other_images(
    scores: pd.DataFrame, titles: Mapping[str, str], *, natural_shift: bool
) -> list[str]:
    """Say what is found about each set of other images, the worst first.

    Of several models, a sentence is about the one that does worst; variants are left out.

    Args:
        scores: rows as in scores.csv.
        titles: the titles of the models, by name.
        natural_shift: whether the test images have another source than the validation images.
    """
    numbers = _numbers(scores)
    models = {model: title for model, title in titles.items() if base_model(model) == model}
    sets = list(dict.fromkeys(shift for _, shift, _ in numbers))
    found = []
    for shift in sets:
        if shift.startswith((OOD, NATURAL)) or (shift == VALIDATION and natural_shift):
            each = [
                one
                for model, title in models.items()
                if (one := _found(numbers, model, title, shift)) is not None
            ]
            found += [min(each)] if each else []
    worst = "At worst, " if len(models) > 1 else ""
    return [f"{worst}{each.sentence}" for each in sorted(found)]


def _numbers(scores: pd.DataFrame) -> Numbers:
    """The accuracies and AUROCs of clean images: means over seeds, or those of an only seed."""
    rows = scores[(scores["level"] == NO_LEVEL) & ~scores["seed"].isin([SPREAD, ENSEMBLE])]
    rows = rows[(rows["metric"] == "accuracy") | rows["metric"].str.startswith(AUROC)]
    seeds = rows.groupby(["model", "shift", "metric"])["seed"].transform("count")
    rows = rows[(rows["seed"] == MEAN) | (seeds == 1)]
    names = ("model", "shift", "metric", "value", "low", "high", "n")
    return {
        (model, shift, metric): Score(value, low, high, int(n))
        for model, shift, metric, value, low, high, n in zip(
            *(rows[name].tolist() for name in names), strict=True
        )
    }


def _found(numbers: Numbers, model: str, title: str, shift: str) -> Found | None:
    if shift.startswith(OOD):
        of = {name: each for (of, at, name), each in numbers.items() if (of, at) == (model, shift)}
        return _told_apart(title, shift.removeprefix(OOD), of) if AUROC in of else None
    there, clean = (numbers.get((model, at, "accuracy")) for at in (shift, CLEAN))
    if there is None or clean is None:
        return None
    if shift == VALIDATION:
        found = _right(title, clean, there, "the test images", "the validation images")
        end = ": " if found.kind == LESS_RIGHT else ", though "
        return found._replace(sentence=f"{found.sentence}{end}the test images have another source.")
    name = f"the images of {shift.removeprefix(NATURAL)}"
    found = _right(title, there, clean, name, "the test images")
    return found._replace(sentence=f"{found.sentence}.")


def _told_apart(title: str, name: str, of: Mapping[str, Score]) -> Found:
    """Say whether confidence tells the images of another data set, and what does so better.

    Args:
        title: of the model.
        name: of the other data set.
        of: the AUROC of the confidence and of each score, by metric.
    """
    score = of[AUROC]
    if score.high < COIN:
        kind, said = SURER_OF_OTHERS, f"is more sure of the images of {name} than of its own"
    elif score.low > COIN:
        kind, said = SURER, f"is surer of its own images than of those of {name}"
    else:
        kind, said = NOT_SURER, f"may be no surer of its own images than of those of {name}"
    wins = f"its own image has the higher confidence in {score.value:.2f} of the pairs"
    by = ""
    if kind == NOT_SURER and not score.too_few:
        by = f", which the interval [{score.low:.2f}, {score.high:.2f}] includes"
    if best := better_score(of):
        by += f", and the {OOD_SCORES[best].label} gives {of[f'{AUROC}/{best}'].value:.2f}"
    return Found(kind, score.value, f"“{title}” {said}: {wins}; {COIN} is a coin{by}.")


def _right(title: str, there: Score, before: Score, which: str, than: str) -> Found:
    """Say how much less accurate a model is there than before; without the full stop."""
    gap = difference(there, before)
    right = f"“{title}” is right in {percent(there)} of {which}"
    if gap.high < 0 or gap.low > 0:
        kind, way = (LESS_RIGHT, "less") if gap.high < 0 else (AS_RIGHT, "more")
        said = f"{right}, {100 * abs(gap.value):.1f} points {way} than of {than}"
    else:
        kind = AS_RIGHT
        said = f"{right} and in {percent(before)} of {than}, a difference that may be chance"
    return Found(kind, gap.value, said)

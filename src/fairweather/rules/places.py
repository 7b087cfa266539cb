"""Which rows of scores.csv a rule speaks of, and what is said of those that are not there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.report.reading import ensembles_as_models
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL, VALIDATION, base_model
from fairweather.rules.parsing import Rule, level_number
from fairweather.runs import RunFolder
from fairweather.scores import UNCOUNTED, WORST
from fairweather.types import Score

ALL, EVERY = "all", "*"
SUMMARIES = (MEAN, WORST)


class Place(NamedTuple):
    """Shift and level as scores.csv writes them."""

    shift: str
    level: str

    @property
    def cell(self) -> str:
        """The place as a rule writes it.

        >>> Place("snow", "3").cell, Place("snow", "mean").cell, Place("snow", "worst").cell
        ('snow=3', 'snow', 'snow@worst')
        """
        if self.level in (NO_LEVEL, MEAN):
            return self.shift
        return f"{self.shift}@{self.level}" if self.level == WORST else f"{self.shift}={self.level}"


# The scores of one model: by place, then by metric.
Rows = Mapping[Place, Mapping[str, Score]]


def read_rows(run: RunFolder) -> dict[str, Rows]:
    """Read scores.csv by model; of several seeds, the means over seeds, and ensembles beside.

    Raises `InputError` when the run has no scores yet, or others than it wrote.
    """
    if not run.holds("scores.csv"):
        raise InputError(f"{run.path} has no scores.csv: it has not been scored yet")
    scores = ensembles_as_models(run.scores)
    if scores.empty:
        raise InputError(f"{run.path}/scores.csv has no rows: there is nothing to check")
    if MEAN in set(scores["seed"]):
        scores = scores[scores["seed"] == MEAN]
    models: dict[str, dict[Place, dict[str, Score]]] = {}
    names = ("model", "shift", "level", "metric", "value", "low", "high", "n")
    for model, shift, level, metric, *numbers in zip(
        *(scores[name] for name in names), strict=True
    ):
        value, low, high, n = numbers
        place = models.setdefault(model, {}).setdefault(Place(shift, level), {})
        place[metric] = Score(float(value), float(low), float(high), int(n))
    return dict(models)


def models_of(rule: Rule, models: Iterable[str]) -> list[str]:
    """Name the models that a rule is for, in the order of scores.csv."""
    names = list(models)
    if rule.model is None:
        return names
    if rule.model not in names:
        raise unknown_name("model", rule.model, names)
    return [rule.model]


def places_left_out(rule: Rule, models: Mapping[str, Rows]) -> dict[str, list[str]]:
    """Name the cells that a rule for all models speaks of and a variant has not, by variant.

    Variants need not have every shift of their models: what is attacked is a model, not what is
    made of it. Where no model has the cell, nothing is left out, for it is probably misspelt.
    """
    if rule.model is not None:
        return {}
    known = {model: known_places(rule, rows) for model, rows in models.items()}
    everywhere = list(dict.fromkeys(place for places in known.values() for place in places))
    missing = {
        model: [place.cell for place in everywhere if place not in places]
        for model, places in known.items()
        if base_model(model) != model
    }
    return {model: cells for model, cells in missing.items() if cells}


def places_of(rule: Rule, rows: Rows) -> list[Place]:
    """Find the places that a rule's cell names; a change has no place on clean images.

    Raises `InputError` with the near name for a shift or a level that has no rows.
    """
    if rule.cell == EVERY:
        places = [place for place in rows if _is_single(place)]
        if rule.change:
            places = [place for place in places if place.shift != CLEAN]
        if not places:
            raise InputError(f"there are no shifted images to measure a {rule.change} on")
        return places
    shift, sign, level = _split(rule.cell)
    known = list(dict.fromkeys(place.shift for place in rows))
    if shift not in known:
        raise unknown_name("shift", shift, [*known, EVERY])
    levels = [place.level for place in rows if place.shift == shift]
    if rule.change and shift in (CLEAN, VALIDATION):
        raise InputError(
            f"a {rule.change} is measured from clean to shifted images, not on {shift}"
        )
    if not sign:
        return [Place(shift, NO_LEVEL if NO_LEVEL in levels else MEAN)]
    return [Place(shift, _level(shift, sign, level, levels))]


def score_at(rule: Rule, model: str, place: Place, rows: Rows) -> Score:
    """Find the row that a rule speaks of.

    Raises `InputError`, with the near name or with the places that do have one, when it is missing.
    """
    found = rows.get(place, {}).get(rule.metric)
    if found is not None:
        return found
    having = [each.cell for each, scores in rows.items() if rule.metric in scores]
    if not having:
        known = dict.fromkeys(name for scores in rows.values() for name in scores)
        raise unknown_name("metric", rule.metric, known)
    few = ", ".join(having[:8]) + (", ..." if len(having) > 8 else "")
    raise InputError(f"{model} has no {rule.metric} for {place.cell}; it is there for {few}")


def known_places(rule: Rule, rows: Rows) -> list[Place]:
    """Find those places that a rule's cell names and the model has; maybe none."""
    try:
        return [place for place in places_of(rule, rows) if place in rows]
    except InputError:
        return []


def _is_single(place: Place) -> bool:
    """Say whether this is one state of the test images: no mean, other images or other priors."""
    beside = place.shift in (ALL, VALIDATION) or place.shift.startswith(UNCOUNTED)
    return not beside and place.level not in SUMMARIES


def _split(cell: str) -> tuple[str, str, str]:
    for sign in "=@":
        if sign in cell:
            shift, _, level = cell.partition(sign)
            return shift.strip(), sign, level.strip()
    return cell.strip(), "", ""


def _level(shift: str, sign: str, level: str, levels: list[str]) -> str:
    if sign == "@":
        if level != WORST:
            raise unknown_name("summary of levels", level, [WORST])
        return WORST
    numbers = {each: number for each in levels if (number := level_number(each)) is not None}
    asked = level_number(level)
    for each, number in numbers.items():
        if asked is not None and number == asked:
            return each
    known = ", ".join(numbers) or "none"
    if asked is None or not numbers:
        raise InputError(f"{shift} has no level {level!r}; its levels are {known}")
    near = min(numbers, key=lambda each: math.fabs(numbers[each] - asked))
    raise InputError(f"{shift} has no level {level}; did you mean {near}? its levels are {known}")

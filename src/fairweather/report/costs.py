"""What decisions cost: as they are, by the probabilities and with reviews, clean and shifted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from fairweather.report import findings, front
from fairweather.report import sentences as words
from fairweather.report.calls import known
from fairweather.report.contents import Contents
from fairweather.report.front import Row, round_ends
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.types.kinds import FINDINGS
from fairweather.types.record import CLEAN, NO_LEVEL

COSTS: Mapping[str, str] = {
    "expected_cost": "As it decides",
    "bayes_cost": "Bayes decisions",
    "cost_with_review": "With reviews",
}
REVIEWED = "reviewed_share"
MARKS = ("clean", "worst")
AXIS_ENDS = (1, 2, 3, 4, 6, 8, 10)


class CostPlace(NamedTuple):
    """Images that a cost is about."""

    sentence: str
    shift: str
    level: str


def list_places(contents: Contents) -> dict[str, list[CostPlace]]:
    """Clean images and those of the worst shift, which the whole page shows, of each model."""
    if FINDINGS in contents.kinds:
        return {
            model: [
                CostPlace(place.sentence, place.shift, place.level_name)
                for place in outcome.places[:2]
            ]
            for model, outcome in contents.once(findings.read_findings).items()
        }
    places = {}
    for model, outcome in contents.once(front.read_outcomes).items():
        places[model] = [CostPlace("on clean images", CLEAN, NO_LEVEL)]
        if low := outcome.worst.focus:
            where = f"under {low.sweep.at(low.level)}"
            places[model].append(CostPlace(where, low.sweep.name, low.level))
    return places


def describe_costs_of(contents: Contents, model: str, places: list[CostPlace]) -> list[str]:
    """Say what decisions cost, whether probabilities make them cheaper, and a constant one."""
    costs = [
        [known(contents.score(name, model, place.shift, place.level)) for place in places]
        for name in COSTS
    ]
    own = [score for score in costs[0] if score]
    if len(own) < len(places):
        return []
    said = [words.describe_costs([score.value for score in own], places[-1].sentence)]
    if bayes := costs[1][0]:
        said.append(words.compare_costs(own[0], bayes))
    relative = known(
        contents.score("expected_cost/normalised", model, places[-1].shift, places[-1].level)
    )
    if relative and (doubt := words.doubt_costs(relative, places[-1].sentence)):
        said.append(doubt)
    return said


def _show_costs(contents: Contents, _: Tables) -> PartView | None:
    shown = {}
    for model, places in list_places(contents).items():
        rows = []
        for name, title in COSTS.items():
            scores = [
                known(contents.score(name, model, place.shift, place.level)) for place in places
            ]
            if any(scores):
                marks = [
                    score and (kind, *round_ends(score), f"{score.value:.2f}")
                    for kind, score in zip(MARKS, scores, strict=False)
                ]
                rows.append(Row(title, _describe_row(contents, name, model, places), marks))
        if rows:
            ends = [
                end
                for row in rows
                for mark in row.marks
                if mark
                for end in mark[1:4]
                if isinstance(end, float)
            ]
            said = describe_costs_of(contents, model, places)
            shown[model] = {"said": said, "rows": rows, "top": _round_up(max(ends))}
    if not shown:
        return None
    return PartView("What decisions cost", template="costs.html.j2", carried={"costs": shown})


def _describe_row(contents: Contents, name: str, model: str, places: list[CostPlace]) -> str:
    """What stands beside the title of a cost."""
    if name == "expected_cost":
        return "called from 0.5 on" if FINDINGS in contents.kinds else "the most probable class"
    if name != "cost_with_review":
        return ""
    shares = [
        words.format_share(score.value)
        for place in places
        if (score := known(contents.score(REVIEWED, model, place.shift, place.level)))
    ]
    return f"reviewed: {words.join_words(shares)}" if shares else ""


def _round_up(number: float) -> float:
    """The next number that an axis may end at.

    >>> _round_up(0.72), _round_up(1.31)
    (0.8, 2.0)
    """
    if number <= 0:
        return 1.0
    size = math.floor(math.log10(number))
    return next(
        float(f"{digit}e{size}") for digit in AXIS_ENDS if float(f"{digit}e{size}") >= number
    )


COSTS_OF_DECISIONS = ReportPart(_show_costs, accepts=None)

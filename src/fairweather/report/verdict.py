"""The first sentence of the report: who leads, and between whom it is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fairweather.report.beside import ALL, WORST
from fairweather.report.contents import Contents
from fairweather.report.phrases import listed, share
from fairweather.report.ranked import Ranked

# Leaders beyond these are counted instead of named.
MOST_NAMED = 4


class Leader(NamedTuple):
    """A model that none is found better than.

    Attributes:
        titles: its own, and those of the models that are right on the same images.
        alone: whether it is found better than all others.

    >>> str(Leader(("Basic", "Basic + temperature scaling"), True))
    '“Basic” (and, right on the same images, “Basic + temperature scaling”)'
    """

    titles: tuple[str, ...]
    alone: bool

    def __str__(self) -> str:
        first, *others = (f"“{title}”" for title in self.titles)
        return f"{first} (and, right on the same images, {listed(others)})" if others else first


def verdict(leading: Sequence[Leader] | None, on_clean: Sequence[Leader], models: int) -> str:
    """Say who leads under the shifts, where there are any, and on clean images.

    Args:
        leading: those in the first place under the shifts; None without shifts.
        on_clean: those on clean images.
        models: how many there are in all.

    >>> verdict(None, [Leader(("Old",), alone=True)], 3)
    'On clean images, “Old” is right more often than every other model.'
    """
    clean = _who_leads(on_clean, models)
    if leading is None:
        return f"On clean images, {clean}."
    if leading == on_clean:
        return f"Under the shifts and on clean images alike, {clean}."
    return f"Under the shifts, {_who_leads(leading, models)}. On clean images, {clean}."


def how_low(contents: Contents, leaders: Sequence[Ranked]) -> str:
    """Say how far one may rely on those in the first place, which being first does not tell.

    Nothing where there are too many, no shift, or not the same ones for all.
    """
    if contents.caution:
        return ""
    worst = [contents.score("accuracy", row.model, ALL, WORST) for row in leaders]
    known = [share(score) for score in worst if score is not None]
    if len(known) < len(leaders) or not 0 < len(leaders) <= MOST_NAMED:
        return ""
    told = [f"“{row.title}” in {words}" for row, words in zip(leaders, known, strict=True)]
    told[0] = f"“{leaders[0].title}” is right in {known[0]}"
    apart = " but attacks" if any(sweep.is_attack for sweep in contents.sweeps) else ""
    return f"At the worst level of any shift{apart}, {listed(told)} of the images."


def _who_leads(leading: Sequence[Leader], models: int) -> str:
    count = sum(len(each.titles) for each in leading)
    if count == models:
        return "the tests find no difference between the models"
    if len(leading) == 1:
        others = "than every other model" if leading[0].alone else "than some of the others"
        return f"{leading[0]} is right more often {others}"
    if len(leading) <= MOST_NAMED:
        return f"the first place is open between {listed([str(each) for each in leading])}"
    return f"the first place is open between {count} of the {models} models"

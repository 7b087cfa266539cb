"""Attacks that failed where they should not have: robust accuracies that are not to be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from fairweather.attacks import masking_warning
from fairweather.scores import MEAN, SPREAD
from fairweather.types import ENSEMBLE, Attack, Shift


def attack_warnings(
    scores: pd.DataFrame, titles: Mapping[str, str], shifts: Sequence[Shift | Attack], chance: float
) -> dict[str, str]:
    """Give the warning about gradient masking for each model that deserves one, by its title.

    Of several seeds, the mean of their accuracies is looked at; an ensemble is looked at by itself.

    Args:
        scores: the table of scores.csv.
        titles: of the models, by name.
        shifts: whose attacks in the maximum norm are looked at.
        chance: the share of the most frequent class among the test images.
    """
    attacks = [
        shift
        for shift in shifts
        if isinstance(shift, Attack) and shift.parameters.get("norm", "linf") == "linf"
    ]
    accuracy = scores[scores["metric"] == "accuracy"]
    single = ~accuracy["seed"].isin([MEAN, SPREAD, ENSEMBLE])
    judged = [(name, title, single) for name, title in titles.items()]
    if (together := accuracy["seed"] == ENSEMBLE).any():
        judged += [(name, f"{title}, ensemble", together) for name, title in titles.items()]
    found = {}
    for name, title, seeds in judged:
        rows = accuracy[(accuracy["model"] == name) & seeds]
        table: dict[str, dict[float, float]] = {}
        for attack in attacks:
            at = (rows["shift"] == attack.name) & (rows["level"] == attack.level_name)
            table.setdefault(attack.name, {})[attack.level] = float(rows[at]["value"].mean())
        if warning := masking_warning(table, chance):
            found[title] = warning
    return found

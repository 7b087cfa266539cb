"""Attacks that failed where they should not have: robust accuracies that are not to be believed."""

from __future__ import annotations

import pandas as pd

from fairweather.attacks import masking_warning
from fairweather.study.schema import Study
from fairweather.types import Attack


def attack_warnings(scores: pd.DataFrame, study: Study, chance: float) -> dict[str, str]:
    """Give the warning about gradient masking for each model that deserves one, by its title.

    Args:
        scores: the table of scores.csv.
        study: whose attacks in the maximum norm are looked at.
        chance: the share of the most frequent class among the test images.
    """
    attacks = [
        shift
        for shift in study.all_shifts()
        if isinstance(shift, Attack) and shift.parameters.get("norm", "linf") == "linf"
    ]
    accuracy = scores[scores["metric"] == "accuracy"]
    found = {}
    for name, entry in study.models.items():
        rows = accuracy[accuracy["model"] == name]
        table: dict[str, dict[float, float]] = {}
        for attack in attacks:
            at = (rows["shift"] == attack.name) & (rows["level"] == attack.level_name)
            table.setdefault(attack.name, {})[attack.level] = float(rows[at]["value"].mean())
        if warning := masking_warning(table, chance):
            found[entry.title] = warning
    return found

"""Stated power is the share of studies that show the claim: stored, and in a few draws."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import planning as simulated

from fairweather.judge.planning import plan_test
from tests.helpers.chance import fewest, most

NOTES = Path(simulated.__file__).with_name("notes") / "planning.md"
# The plan does not know how heavy the tails of scores and losses are.
UNKNOWN = {"area, heavy tail", "losses"}
CLOSE, HALF = 0.03, 0.065  # at the planned size, and at half of it


def test_stated_power_is_within_three_points_of_what_studies_show():
    rows = simulated.read_rows()
    names = [(setting.name, setting.claim) for setting in simulated.settings()]
    assert [(row["study"], row["claim"]) for row in rows[::2]] == names
    for place, row in enumerate(rows):
        draws, stated = int(row["draws"]), float(row["stated"])
        assert draws == simulated.DRAWS
        hits = round(float(row["shown"]) * draws)
        if row["study"] not in UNKNOWN:
            apart = HALF if place % 2 else CLOSE
            lowest, highest = max(stated - apart, 0.0), min(stated + apart, 1.0)
            assert fewest(draws, lowest) <= hits <= most(draws, highest), row


def test_the_notes_are_those_of_the_table():
    page = NOTES.read_text(encoding="utf-8")
    for line in simulated.summarize(simulated.read_rows()):
        assert line in page


@pytest.mark.parametrize("name", ["accuracy", "sensitivity", "pairs", "patients, pairs", "seeds"])
def test_a_few_studies_show_the_claim_as_often_as_the_plan_says(name):
    draws = 100
    setting = next(setting for setting in simulated.settings() if setting.name == name)
    needed = plan_test(setting.claim, **setting.options).needed
    rng = np.random.default_rng(0)
    hits = sum(setting.study(rng, needed.images, needed.seeds) for _ in range(draws))
    assert fewest(draws, needed.power - CLOSE) <= hits <= most(draws, needed.power + CLOSE)

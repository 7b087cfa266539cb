"""The stored coverage of costs and calls is that of the script, and no side misses much."""

from pathlib import Path

import numpy as np
from benchmarks import costs as simulated

from tests.helpers.chance import most

NOTES = Path(simulated.__file__).with_name("notes") / "costs.md"
SETTINGS = len(simulated.IMAGES) * 2


def test_the_stored_table_has_every_setting_and_no_side_misses_more_than_its_level():
    rows = simulated.read_rows()
    costs = [row for row in rows if row["number"] == "cost"]
    assert len(costs) == SETTINGS * len(simulated.HEAVY) * len(simulated.PRICES)
    numbers = 3 + 2 * len(simulated.STATED)
    calls = SETTINGS * len(simulated.PREVALENCES) * len(simulated.THRESHOLDS) * numbers
    assert len(rows) - len(costs) == calls
    for row in rows:
        trials = int(row["trials"])
        assert trials == simulated.TRIALS
        for side in ("below", "above"):
            assert round(float(row[side]) * trials) <= most(trials, 0.03), row


def test_the_notes_are_those_of_the_table():
    page = NOTES.read_text(encoding="utf-8")
    for line in simulated.summary(simulated.read_rows()):
        assert line in page


def test_a_few_draws_miss_as_rarely_as_the_table_says():
    trials = 150
    for patients in (False, True):
        grouping = simulated.patients_of(500, patients=patients)
        ends, truth = simulated.cost_ends(500, 5, 20, grouping, trials)
        _, below, above, width = simulated.count_tails(ends, truth)
        assert max(below, above) * trials <= most(trials, 0.03)
        assert np.isfinite(width)


def test_the_exact_rates_are_those_of_many_draws():
    rng = np.random.default_rng(0)
    n, share, threshold = 400_000, 0.2, 0.2
    present = rng.random(n) < share
    noise = rng.normal(size=n) + simulated.SEPARATION * (present - 0.5)
    logit = np.log(share / (1 - share)) + simulated.SEPARATION * noise
    called = logit >= np.log(threshold / (1 - threshold))
    for side, rate in zip((True, False), simulated.true_rates(share, threshold), strict=True):
        of_side = called[present == side]
        error = np.sqrt(rate * (1 - rate) / len(of_side))
        assert abs(of_side.mean() - rate) < 4 * error

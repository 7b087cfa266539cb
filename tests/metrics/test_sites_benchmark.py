"""The stored coverage of unseen and worst sites is that of the script, and no more misses."""

from pathlib import Path

import pytest
from benchmarks import sites as simulated

from tests.helpers.chance import most

NOTES = Path(simulated.__file__).with_name("notes") / "sites.md"


@pytest.fixture(scope="module")
def rows():
    return simulated.read_rows()


def count_given(row):
    return round(int(row["trials"]) * (1 - float(row["none"])))


def test_the_stored_table_has_every_setting(rows):
    unseen = (
        len(simulated.SITES)
        * len(simulated.DESIGNS)
        * len(simulated.SHARES)
        * len(simulated.SPREADS)
    ) + len(simulated.SMALL) * len(simulated.SPREADS)
    worst = len(simulated.WORST_SITES) * 2 * 2 * len(simulated.TRUTHS)
    estimates = len(simulated.SITES) * len(simulated.SPREADS)
    assert len(rows) == 3 * unseen + 4 * worst + 2 * estimates
    assert {int(row["trials"]) for row in rows} == {simulated.TRIALS}


def test_the_lower_end_of_an_unseen_site_and_of_the_worst_one_misses_rarely(rows):
    for row in rows:
        given = count_given(row)
        if row["number"] in ("unseen", "worst") and given:
            assert round(float(row["below"]) * given) <= most(given, 0.05), row


def test_the_notes_are_those_of_the_table(rows):
    page = NOTES.read_text(encoding="utf-8")
    for line in simulated.summary(rows):
        assert line in page

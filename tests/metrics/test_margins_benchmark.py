"""The stored shares of wrong verdicts on margins are those of the script, and none is frequent."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from benchmarks import margins as simulated

from fairweather.judge.margins import INFERIOR
from tests.helpers.chance import most

NOTES = Path(simulated.__file__).with_name("notes") / "margins.md"
VERDICTS = ("non_inferior", "equivalent", "inferior")
MOST_EXACT = 0.0251  # of one seed a side, where shares are sums over all outcomes


def test_the_stored_table_has_every_setting_and_hardly_any_wrong_verdict():
    rows = simulated.read_rows()
    settings = list(simulated.settings())
    assert len(rows) == len(simulated.EXACT) + len(settings)
    drawn = [row for row in rows if int(row["draws"])]
    for row, setting in zip(drawn, settings, strict=True):
        assert (row["images"], row["metric"], int(row["n"])) == setting[:3]
        draws = int(row["draws"])
        assert draws == simulated.DRAWS
        for verdict in VERDICTS:
            assert round(float(row[verdict]) * draws) <= most(draws, 0.025), row
    for row in (row for row in rows if not int(row["draws"])):
        assert max(float(row[verdict]) for verdict in VERDICTS) <= MOST_EXACT


def test_the_notes_are_those_of_the_table():
    page = NOTES.read_text(encoding="utf-8")
    for line in simulated.summary(simulated.read_rows()):
        assert line in page


def test_a_sum_over_outcomes_is_that_of_the_table():
    wanted = next(one for one in simulated.EXACT if one[0] == 50)
    rows = [row for row in simulated.read_rows() if not int(row["draws"])]
    stored = rows[simulated.EXACT.index(wanted)]
    again = simulated.sum_outcomes(*wanted)
    found = [float(stored[name]) for name in simulated.COLUMNS[8:-1]]
    assert found == pytest.approx(again[8:-1])


def test_a_few_draws_are_wrong_as_rarely_as_the_table_says():
    chosen = [one for one in simulated.settings() if one.n <= 200 and one.seeds == 1]
    assert len(chosen) >= 6
    for setting in chosen:
        draws = 40
        *_, non_inferior, _, inferior, _ = simulated.measure(setting, draws)[:12]
        assert max(non_inferior, inferior) * draws <= most(draws, 0.035), setting


def test_the_true_losses_are_those_of_many_draws():
    rng = np.random.default_rng(0)
    for kind in ("negative_log_likelihood", "brier_score"):
        logits = rng.normal(3, 3, 400_000)
        probability = 1 / (1 + np.exp(-logits))
        losses = -np.log(probability) if kind.startswith("neg") else 2 * (1 - probability) ** 2
        error = losses.std() / len(losses) ** 0.5
        assert abs(losses.mean() - simulated.mean_loss(kind, 3, 3)) < 4 * error
    a, b, _ = simulated.draw_scores(rng, 20_000, (0.78, 0.8))
    for side, area in ((a, 0.78), (b, 0.8)):
        positive = side[0].labels == 1
        scores = side[0].logits[:, 1] - side[0].logits[:, 0]
        found = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
        assert abs(found / positive.sum() / (~positive).sum() - area) < 0.03


def test_a_setting_is_compared_as_compare_does_and_a_large_loss_is_inferior():
    setting = next(one for one in simulated.settings() if one.images == simulated.TWO_LEVELS)
    drawn = setting.draw(np.random.default_rng(0))
    found = simulated.compare(setting._replace(margin=1e-6), drawn)
    assert found.row.level == "mean"
    large = simulated.draw_levels(np.random.default_rng(0), n=500, margin=0.3, spare=0.0)
    assert simulated.compare(setting._replace(margin=0.05), large).verdict == INFERIOR

"""Every metric stands in the table of coverage, and means over rare classes have fair intervals."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import every_metric

from fairweather import metrics
from fairweather.metrics import METRICS, to_score
from fairweather.metrics.table import metrics_of
from fairweather.types.measurement import Predictions
from tests.helpers.chance import most

NOTES = Path(every_metric.__file__).with_name("notes") / "every_metric.md"
MEANS = [metric for metric in METRICS.values() if metric.interval == "classes"]


def test_every_metric_has_its_rows_in_the_table_of_coverage():
    stored = every_metric.read_rows()
    settings = len(every_metric.SHARES) * len(every_metric.MODELS) * len(every_metric.TRIALS)
    page = NOTES.read_text(encoding="utf-8")
    for metric in metrics_of(Predictions.kind):
        if metric.alias_of is None:
            rows = [row for row in stored if row["metric"] == metric.name]
            assert len(rows) == settings, metric.name
            assert f"\n| `{metric.name}` |" in page, metric.name
    for line in every_metric.summary(stored):
        assert line in page


def test_rows_of_one_metric_take_the_place_of_its_old_rows():
    stored = every_metric.read_rows()
    rows = [row for row in stored if row["metric"] == "macro_auc"]
    assert every_metric.replace_rows(stored, rows) == stored
    changed = [row | {"below": "0.5"} for row in rows]
    replaced = every_metric.replace_rows(stored, changed)
    assert [row for row in replaced if row["metric"] == "macro_auc"] == changed
    assert [row for row in replaced if row not in changed] == [r for r in stored if r not in rows]


def test_means_over_classes_have_one_kind_of_interval():
    means = ("macro_", "weighted_", "balanced_")
    assert len(MEANS) == 9
    assert all(metric.name.startswith(means) for metric in MEANS)


@pytest.mark.parametrize(
    ("classes", "model", "n"), [("dermamnist", "good", 500), ("halves", "middling", 200)]
)
def test_means_over_rare_classes_miss_the_truth_in_at_most_five_percent_a_side(classes, model, n):
    """Shares of a class with a handful of images hardly vary among resamples."""
    trials, resamples = 80, 150
    predictions = every_metric.population(classes, model)
    names = [metric.name for metric in MEANS]
    once = metrics.Resamples.from_weights(
        predictions.labels, np.ones((1, len(predictions)), np.uint8)
    )
    truth = metrics.evaluate_resamples(predictions, once, None, names)
    missed = {name: np.zeros(2) for name in names}
    for trial in range(trials):
        drawn = np.random.default_rng([n, trial]).integers(len(predictions), size=n)
        sample = every_metric.take(predictions, drawn)
        shared = metrics.Resamples.draw(sample.labels, resamples, seed=trial)
        for name, found in metrics.evaluate_resamples(sample, shared, None, names).items():
            _, low, high, _ = to_score(found, (0.0, 1.0))
            missed[name] += [low > truth[name].value, high < truth[name].value]
    for name, tails in missed.items():
        assert max(tails) <= most(trials, 0.05), (name, tails)

"""Validation and test: the interval of their difference, and what is not in the means."""

import numpy as np
import pytest
from scipy import stats

from fairweather.metrics.columns import wilson_interval
from fairweather.metrics.intervals import Estimate
from fairweather.report.other_images import subtract_scores
from fairweather.runs.scores import add_means
from fairweather.types.measurement import Score


def share(right, n):
    return Score(right / n, *wilson_interval(right / n, n), n)


def test_the_published_example_of_a_difference_of_shares():
    # Newcombe 1998, "Interval estimation for the difference between independent proportions",
    # table II, contrast (a), method 10: 56/70 - 48/80.
    found = subtract_scores(share(56, 70), share(48, 80))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )
    assert found.n == 70


def test_the_difference_turns_with_its_arguments():
    first, second = share(30, 40), share(90, 100)
    there, back = subtract_scores(first, second), subtract_scores(second, first)
    assert (there.value, there.low, there.high) == (-back.value, -back.high, -back.low)


def test_normal_intervals_give_the_textbook_interval():
    z = stats.norm.ppf(0.975)
    first, second = Score(5, 5 - z * 3, 5 + z * 3, 10), Score(1, 1 - z * 4, 1 + z * 4, 20)
    found = subtract_scores(first, second)
    assert (found.low, found.high) == (pytest.approx(4 - z * 5), pytest.approx(4 + z * 5))


def test_validation_counts_in_no_mean_over_shifts():
    def estimate(value):
        return {"accuracy": Estimate(value, np.full(3, value), 10)}

    cells = [
        (("a", seed, shift, level), estimate(value))
        for seed, extra in (("0", 0.0), ("1", 0.2))
        for shift, level, value in (
            ("clean", "none", 0.9),
            ("validation", "none", 0.8 + extra),
            ("fog", "1", 0.3),
            ("fog", "2", 0.5),
        )
    ]
    table = add_means(cells)
    assert table["a", "0", "all", "mean"]["accuracy"].value == pytest.approx(0.4)
    assert table["a", "mean", "validation", "none"]["accuracy"].value == pytest.approx(0.9)
    assert ("a", "0", "validation", "mean") not in table

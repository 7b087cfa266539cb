"""How often do the 95 % intervals of costs, net benefits and predictive values hold the truth?

    python benchmarks/costs.py    # minutes on an idle core; writes costs.csv
    python benchmarks/costs.py --trials 50    # a try, which writes nothing

Costs: a tenth of the images have an error that costs 1, and very few one that costs 20 or 100; 0.5
to 50 such errors are expected. Calls: a finding is there in 5 or 20 % of the images, and a model
ranks it with an AUC of 0.92. Images come alone, or with others of a patient: 1 to 6, of which most
have the same errors, findings and noise. The truth is exact. What counts is each tail: how often
the truth lies below the interval, and how often above. Without an interval it is in neither.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special

from fairweather.metrics import decision_curve, per_image, predictive_values, to_score
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.hidden_error import Observation, hidden_in_levels
from fairweather.metrics.intervals import Estimate, widen_for_groups
from fairweather.metrics.sample import Resamples, Sample, draw_counts
from fairweather.metrics.table import METRICS
from fairweather.types.measurement import Predictions

STORED = Path(__file__).with_suffix(".csv")
TRIALS, RESAMPLES = 2000, 300
SIZES, SAME = np.arange(1, 7), 0.8  # images of a patient; how alike they are
IMAGES = (500, 2000)
LIGHT, HEAVY, PRICES = 0.1, (0.5, 2, 5, 10, 50), (20, 100)  # share; expected number; its cost
PREVALENCES, THRESHOLDS, STATED = (0.05, 0.2), (0.05, 0.2, 0.5), (0.01, 0.3)
SEPARATION = 2.0  # of the logits of both sides, in their deviations
COLUMNS = ("number", "images", "drawn", "setting", "trials", "none", "below", "above", "width")
Ends = tuple[float, float]


def patients_of(images: int, *, patients: bool) -> Grouping | None:
    """The patient of each image, whose sizes take turns."""
    if not patients:
        return None
    sizes = np.resize(SIZES, images)
    return Grouping(np.repeat(np.arange(images), sizes)[:images])


def draw_numbers(
    rng: np.random.Generator, n: int, grouping: Grouping | None, draw: str
) -> np.ndarray:
    """Random numbers `[n]`, uniform or normal; of patients, most images have the same."""
    own = np.asarray(getattr(rng, draw)(size=n))
    if grouping is None:
        return own
    shared = getattr(rng, draw)(size=grouping.count)[grouping.numbers]
    return np.where(rng.random(n) < SAME, shared, own)


def count_tails(ends: list[Ends], truth: float) -> tuple[float, float, float, float]:
    """Shares of trials: no interval, the truth below it, above it; and the mean width."""
    low, high = np.array(ends).T
    slack = 1e-9 * max(1.0, abs(truth))
    return (
        float(np.isnan(low).mean()),
        float((low > truth + slack).mean()),
        float((high < truth - slack).mean()),
        float(np.nanmean(high - low)),
    )


def cost_ends(
    n: int, heavy: float, price: int, grouping: Grouping | None, trials: int
) -> tuple[list[Ends], float]:
    """The interval of an expected cost in each trial, and the truth."""
    rng = np.random.default_rng([n, round(10 * heavy), price, grouping is not None])
    levels, shares = np.array([0.0, 1.0, price]), np.array([heavy / n, LIGHT])
    counts = draw_counts(n, RESAMPLES, grouping=grouping).astype(np.float64)
    labels = np.zeros(n, dtype=np.int64)
    cell = Predictions(labels, labels, *per_image(np.eye(2)[labels], labels), None, ("a", "b"))
    prepared = Resamples.from_weights(labels, np.ones((1, n), np.uint8)).prepare(cell)
    seen = Observation(Sample(prepared, None, np.ones((1, n))), 0.0, grouping=grouping)
    ends = []
    for _ in range(trials):
        uniform = draw_numbers(rng, n, grouping, "random")
        column = np.where(uniform < shares[0], price, 1.0 * (uniform < shares.sum()))
        estimate = Estimate(
            float(column.mean()),
            counts @ column / counts.sum(axis=1),
            n,
            METRICS["expected_cost"].interval,
            hidden=hidden_in_levels(column, levels, seen),
        )
        score = to_score(widen_for_groups(estimate, grouping), METRICS["expected_cost"].bounds)
        ends.append((score.low, score.high))
    return ends, float(price * shares[0] + shares[1])


def simulate_costs(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of expected costs."""
    for n, heavy, price, patients in product(IMAGES, HEAVY, PRICES, (False, True)):
        ends, truth = cost_ends(n, heavy, price, patients_of(n, patients=patients), trials)
        setting = f"{heavy:g} errors at {price}"
        yield (
            "cost",
            n,
            "patients" if patients else "images",
            setting,
            trials,
            *count_tails(ends, truth),
        )
        print("cost", n, setting, patients, file=sys.stderr, flush=True)


def true_rates(share: float, threshold: float) -> tuple[float, float]:
    """Sensitivity, and the share of the other images that are called."""
    logit = np.log(share / (1 - share))
    cut = (np.log(threshold / (1 - threshold)) - logit) / SEPARATION
    return tuple(
        float(scipy.special.ndtr(side - cut)) for side in (SEPARATION / 2, -SEPARATION / 2)
    )


def simulate_calls(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of net benefits, and of predictive values at stated prevalences."""
    for n, share, patients in product(IMAGES, PREVALENCES, (False, True)):
        grouping = patients_of(n, patients=patients)
        rng = np.random.default_rng([n, round(100 * share), patients])
        ends: dict[tuple[str, str], list[Ends]] = {}
        truths: dict[tuple[str, str], float] = {}
        for threshold in THRESHOLDS:
            hit, false = true_rates(share, threshold)
            odds, at = threshold / (1 - threshold), f"{100 * share:g} %, from {threshold:g} on"
            for name, prevalence in (("net benefit", share), ("net benefit at 1 %", 0.01)):
                benefit = prevalence * hit - (1 - prevalence) * false * odds
                truths[name, at] = benefit
                if name == "net benefit":
                    truths["gain over all", at] = benefit - (share - (1 - share) * odds)
            for stated in STATED:
                called = stated * hit + (1 - stated) * false
                truths[f"ppv at {100 * stated:g} %", at] = stated * hit / called
                kept = (1 - stated) * (1 - false) / (1 - called)
                truths[f"npv at {100 * stated:g} %", at] = kept
        for _ in range(trials):
            present = draw_numbers(rng, n, grouping, "random") < share
            noise = draw_numbers(rng, n, grouping, "standard_normal") + SEPARATION * (present - 0.5)
            logit = np.log(share / (1 - share))
            p = scipy.special.expit(logit + SEPARATION * noise)
            own = decision_curve(p, present, THRESHOLDS, grouping=grouping)
            rare = decision_curve(p, present, THRESHOLDS, prevalence=0.01, grouping=grouping)
            for k, threshold in enumerate(THRESHOLDS):
                at = f"{100 * share:g} %, from {threshold:g} on"
                drawn = {
                    "net benefit": (own.low[k], own.high[k]),
                    "gain over all": (own.gain_low[k], own.gain_high[k]),
                    "net benefit at 1 %": (rare.low[k], rare.high[k]),
                }
                for stated in STATED:
                    values = predictive_values(p >= threshold, present, stated, grouping=grouping)
                    for kind, score in values._asdict().items():
                        drawn[f"{kind} at {100 * stated:g} %"] = (score.low, score.high)
                for name, pair in drawn.items():
                    ends.setdefault((name, at), []).append(pair)
        for (name, at), pairs in ends.items():
            of = "patients" if patients else "images"
            yield (name, n, of, at, trials, *count_tails(pairs, truths[name, at]))
        print("calls", n, share, patients, file=sys.stderr, flush=True)


def simulate(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table."""
    yield from simulate_costs(trials)
    yield from simulate_calls(trials)


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: for each number, how often its interval is missing and misses, in %."""
    yield "| number | drawn | no interval | below | above | highest side |"
    yield "|---|---|---|---|---|---|"
    for number, of in dict.fromkeys((row["number"], row["drawn"]) for row in rows):
        own = [row for row in rows if (row["number"], row["drawn"]) == (number, of)]
        none, below, above = (
            np.array([100 * float(row[name]) for row in own]) for name in COLUMNS[5:8]
        )
        highest = max(below.max(), above.max())
        yield (
            f"| {number} | {of} | {none.mean():.1f} | {below.mean():.1f} | {above.mean():.1f} | "
            f"{highest:.1f} |"
        )


def read_rows() -> list[dict[str, str]]:
    """Read the stored table."""
    return pd.read_csv(STORED, dtype=str, keep_default_na=False).to_dict("records")


def main() -> None:
    """Simulate, store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, help="so many of each, and write nothing")
    tried = parser.parse_args().trials
    rows = []
    for row in simulate(tried or TRIALS):
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        rows.append(dict(zip(COLUMNS, texts, strict=True)))
    if tried is None:
        pd.DataFrame(rows).to_csv(STORED, index=False, lineterminator="\n")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()

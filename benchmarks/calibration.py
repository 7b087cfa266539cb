"""How often do the intervals of slope, intercepts, O:E and ICI hold the truth, and the bands?

    python benchmarks/calibration.py    # about 10 minutes on an idle core; writes calibration.csv
    python benchmarks/calibration.py --trials 20    # a try, which writes nothing

Images have an event, such as a finding or a right answer, and a probability of it. The probability
is right, too extreme, too high, or wrong in a curve. Its log-odds are normal, or skewed as those of
confident networks. Images come alone, or with others of a patient: 1 to 6, of which most share
their event and have similar log-odds. The truth is the number of a population, from which images,
or patients, are drawn with replacement. What counts is each tail: of the intervals that are given,
how often the truth lies below, and how often above. `none` is how many of all draws have too few
events for an interval. `band` is the curve, judged at five places at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special

from fairweather.metrics.areas import influence_interval, unit_column
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import FEWEST_OUTCOMES
from fairweather.metrics.recalibration import CALIBRATION_NUMBERS, Outcomes

STORED = Path(__file__).with_suffix(".csv")
TRIALS, POPULATION = 2000, 200_000
# Images, and those with the event, on average.
SIZES = ((1000, 20), (200, 30), (500, 50), (2000, 100), (1000, 500))
DRAWN = (("images", "normal"), ("images", "skewed"), ("patients", "normal"))
# From the model's log-odds to the true ones.
TRUTHS = {
    "right": lambda odds: odds,
    "extreme": lambda odds: 0.6 * odds,
    "too high": lambda odds: odds - 0.7,
    "curved": lambda odds: 0.7 * odds + 0.8 * np.sin(odds),
}
# Of patients, 20 events are worth fewer, and hardly any draw has an interval.
SETTINGS = tuple(
    (model, size, way)
    for model, size, way in product(TRUTHS, SIZES, DRAWN)
    if size[1] > FEWEST_OUTCOMES or way[0] == "images"
)
SAME, PATIENT_SIZES = 0.8, np.arange(1, 7)
PLACES = (0.05, 0.25, 0.5, 0.75, 0.95)  # shares of the images below each place
SETTING = ("number", "model", "images", "events", "drawn", "odds", "trials")
COLUMNS = (*SETTING, "none", "below", "above")


class Population:
    """Probabilities and events of many images, and the patient of each."""

    def __init__(self, model: str, share: float, *, patients: bool, skewed: bool) -> None:
        seed = [list(TRUTHS).index(model), round(1e4 * share), patients, skewed]
        generator = np.random.default_rng(seed)
        self.sizes = (
            generator.choice(PATIENT_SIZES, POPULATION // 3)
            if patients
            else np.ones(POPULATION, dtype=np.int64)
        )
        of_patient = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self.starts, n = np.cumsum(self.sizes) - self.sizes, len(of_patient)
        same = generator.random((2, n)) < (SAME if patients else 0)
        shared = generator.random((2, len(self.sizes)))[:, of_patient]
        place, chance = np.where(same, shared, generator.random((2, n)))
        spread = (
            scipy.special.gammaincinv(2.0, place) * 1.5
            if skewed
            else 1.7 * scipy.special.ndtri(place)
        )
        truth = TRUTHS[model]

        def excess(shift: float) -> float:
            return float(scipy.special.expit(truth(spread + shift)).mean()) - share

        odds = spread + scipy.optimize.brentq(excess, -30, 30)
        self.happened = chance < scipy.special.expit(truth(odds))
        self.probability = scipy.special.expit(odds)
        self.truth, self.odds = truth, odds

    def draw(self, images: int, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """The places of drawn images, and the number of the group of each."""
        drawn = generator.integers(len(self.sizes), size=round(images / self.sizes.mean()))
        sizes = self.sizes[drawn]
        group = np.repeat(np.arange(len(drawn)), sizes)
        within = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.starts[drawn][group] + within, group


def simulate(
    model: str, images: int, events: int, drawn: str, odds: str, trials: int
) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table, for one setting."""
    patients = drawn == "patients"
    population = Population(model, events / images, patients=patients, skewed=odds == "skewed")
    whole = Outcomes(population.probability, population.happened)
    truths = {kind.name: kind.number(whole).value for kind in CALIBRATION_NUMBERS}
    at = np.quantile(population.probability, PLACES)
    true_curve = curve_at(whole, at)[0]
    missed = {name: np.zeros(3) for name in (*truths, "band")}
    for trial in range(trials):
        places, group = population.draw(images, np.random.default_rng([images, trial]))
        sample = Outcomes(
            population.probability[places],
            population.happened[places],
            group if patients else None,
        )
        errors = count_rarer(sample)
        for kind in CALIBRATION_NUMBERS:
            value, column, bias = kind.number(sample)
            if errors < FEWEST_OUTCOMES or np.isnan(value):
                missed[kind.name][0] += 1
                continue
            low, high = influence_interval(value, unit_column(column, sample.groups), bias)
            low, high = min(max(low, kind.bounds[0]), value), max(high, value)
            missed[kind.name][1:] += truths[kind.name] < low, truths[kind.name] > high
        if errors < FEWEST_OUTCOMES:
            missed["band"][0] += 1
            continue
        _, low_band, high_band = curve_at(sample, at)
        missed["band"][1:] += (true_curve < low_band).mean(), (true_curve > high_band).mean()
    for name, counts in missed.items():
        none = counts[0]
        shares = (none / trials, *counts[1:] / max(trials - none, 1))
        texts = (f"{share:.5f}".rstrip("0").rstrip(".") for share in shares)
        yield name, model, images, events, drawn, odds, trials, *texts


def count_rarer(sample: Outcomes) -> float:
    """The images with the event or without it, whichever are fewer; see `Metric.errors`."""
    rarer = (
        sample.happened if 2 * sample.happened.sum() <= len(sample.happened) else ~sample.happened
    )
    evenness = 1.0 if sample.groups is None else Grouping(sample.groups).evenness(rarer)
    return float(rarer.sum()) * evenness


def curve_at(outcomes: Outcomes, probability: FloatArray) -> tuple[FloatArray, ...]:
    """The curve at some probabilities, and its band."""
    return outcomes.curve_at(probability)[1:]


def summarize(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: one row a number and a way to draw images, its tails in %."""
    yield "| number | drawn | none | below | highest | above | highest |"
    yield "|" + "---|" * 7
    for name, (drawn, odds) in product(dict.fromkeys(row["number"] for row in rows), DRAWN):
        own = [r for r in rows if (r["number"], r["drawn"], r["odds"]) == (name, drawn, odds)]
        none, below, above = (
            100 * np.array([float(row[side]) for row in own]) for side in COLUMNS[-3:]
        )
        sides = " | ".join(f"{side.mean():.1f} | {side.max():.1f}" for side in (below, above))
        yield f"| `{name}` | {drawn}, {odds} | {none.mean():.0f} | {sides} |"


def main() -> None:
    """Simulate, store and print the table."""
    parser = argparse.ArgumentParser(description="Measure how often intervals hold the truth.")
    parser.add_argument("--trials", type=int, default=TRIALS)
    trials = parser.parse_args().trials
    rows = []
    for model, (images, events), (drawn, odds) in SETTINGS:
        made = simulate(model, images, events, drawn, odds, trials)
        rows += [dict(zip(COLUMNS, map(str, row), strict=True)) for row in made]
        print(model, images, events, drawn, odds, file=sys.stderr, flush=True)
    if trials == TRIALS:
        pd.DataFrame(rows).to_csv(STORED, index=False, lineterminator="\n")
    print("\n".join(summarize(rows)))


if __name__ == "__main__":
    main()

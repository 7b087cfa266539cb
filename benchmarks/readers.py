"""How often do the intervals of a model beside readers hold the truth, and those of agreement?

    python benchmarks/readers.py    # about 5 minutes on an idle core; writes readers.csv
    python benchmarks/readers.py --trials 50    # a try, which writes nothing

Model and readers rate each image; ratings of a positive image are higher, and part of each rating
is how hard the image is, which all share (40 % of the variance). A reader calls from a threshold
on. Skill and threshold are drawn for each reader, so that readers differ, and specificities vary
from 60 to 97 %. The model is as skilled as the average reader: the mean difference over all readers
is known to be 0 but for the bend of the curve, which a large sample of readers gives. With groups,
four images of a patient share their truth and their hardness. With missing calls, a reader has
called two thirds of the images.

What counts is each tail: how often the truth lies below the interval, and how often above. For
other readers, the two together are the error of the first kind of a test on the 5 % level.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from fairweather.metrics.agreement import (
    agreement_kappa,
    krippendorff_alpha,
    score_agreement,
    score_alpha,
)
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.readers import compare_with_readers
from fairweather.types.measurement import UNKNOWN

STORED = Path(__file__).with_suffix(".csv")
TRIALS, RESAMPLES, MANY = 2000, 200, 200_000
SHARED, SKILL, CUT, SPREAD_OF_CUTS = 0.4, 1.8, 1.0, 0.4
PER_PATIENT, CALLED = 4, 2 / 3
COLUMNS = (
    *("what", "positives", "negatives", "readers", "spread", "drawn", "trials"),
    *("below", "above", "none", "width"),
)


class Scene(NamedTuple):
    """What is simulated."""

    positives: int
    negatives: int
    readers: int
    spread: float
    """The standard deviation of the readers' skill."""

    drawn: str = "images"
    """`images`, `patients`, or `missing` for images with missing calls."""


SCENES = (
    Scene(30, 170, 3, 0.3),
    Scene(30, 470, 5, 0.3),
    Scene(100, 100, 3, 0.3),
    Scene(100, 100, 3, 0.0),
    Scene(100, 100, 10, 0.3),
    Scene(60, 140, 5, 0.6),
    Scene(120, 280, 5, 0.3, "patients"),
    Scene(60, 140, 5, 0.3, "missing"),
)


class Drawn(NamedTuple):
    """One trial."""

    scores: np.ndarray
    positive: np.ndarray
    calls: np.ndarray
    grouping: Grouping | None
    skills: np.ndarray
    cuts: np.ndarray


def draw(rng: np.random.Generator, scene: Scene) -> Drawn:
    """Draw readers, images and all ratings."""
    n = scene.positives + scene.negatives
    positive = np.arange(n) < scene.positives
    numbers = np.arange(n) // (PER_PATIENT if scene.drawn == "patients" else 1)
    hard = np.sqrt(SHARED) * rng.normal(size=numbers[-1] + 1)[numbers]
    skills = SKILL + scene.spread * rng.normal(size=scene.readers)
    cuts = CUT + SPREAD_OF_CUTS * rng.normal(size=scene.readers)
    own = np.sqrt(1 - SHARED) * rng.normal(size=(n, scene.readers + 1))
    ratings = positive[:, None] * np.append(skills, SKILL) + hard[:, None] + own
    calls = (ratings[:, :-1] > cuts).astype(np.int64)
    if scene.drawn == "missing":
        calls[rng.random(calls.shape) >= CALLED] = UNKNOWN
    grouping = Grouping(numbers) if scene.drawn == "patients" else None
    return Drawn(ratings[:, -1], positive, calls, grouping, skills, cuts)


def differences(skills: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The model's sensitivity minus the reader's at its specificity, and the reverse `[2, R]`."""
    return np.stack(
        [ndtr(SKILL - cuts) - ndtr(skills - cuts), ndtr(SKILL - skills + cuts) - ndtr(cuts)]
    )


def beside_readers(scene: Scene, trials: int) -> Iterator[tuple[object, ...]]:
    """The tails of all intervals of a comparison."""
    rng = np.random.default_rng(0)
    many = rng.normal(size=(2, 10 * MANY))
    means = differences(SKILL + scene.spread * many[0], CUT + SPREAD_OF_CUTS * many[1]).mean(axis=1)
    tails: dict[str, list[tuple[bool, bool, bool, float]]] = {}

    def judge(what: str, truth: float, low: float, high: float) -> None:
        row = low > truth + 1e-9, high < truth - 1e-9, bool(np.isnan(low)), high - low
        tails.setdefault(what, []).append(row)

    for trial in range(trials):
        drawn = draw(rng, scene)
        compared = compare_with_readers(
            drawn.scores, drawn.positive, drawn.calls, RESAMPLES, drawn.grouping, seed=trial
        )
        if compared is None:
            continue
        truths = differences(drawn.skills, drawn.cuts)
        for reader, own in enumerate(compared.readers):
            if own is not None:
                judge("reader, sensitivity", truths[0, reader], *own.more_sensitive[1:3])
                judge("reader, specificity", truths[1, reader], *own.more_specific[1:3])
        rates = ndtr(drawn.skills - drawn.cuts).mean(), ndtr(drawn.cuts).mean()
        at_mean = ndtr(SKILL - ndtri(rates[1])), ndtr(SKILL - ndtri(rates[0]))
        mean = compared.mean
        judge("mean reader, sensitivity", at_mean[0] - rates[0], *mean.more_sensitive[1:3])
        judge("mean reader, specificity", at_mean[1] - rates[1], *mean.more_specific[1:3])
        for at, name in enumerate(("sensitivity", "specificity")):
            fixed, random = compared.averages[at]
            judge(f"these readers, {name}", truths[at].mean(), *fixed[1:3])
            if random is not None:
                judge(f"other readers, {name}", means[at], random.low, random.high)
    yield from summarize(tails, scene)


def agreement(scene: Scene, trials: int) -> Iterator[tuple[object, ...]]:
    """The tails of kappa and alpha of some fixed readers, whose truth is that of many images."""
    cuts, skills = np.linspace(0.5, 1.5, scene.readers), np.full(scene.readers, SKILL)
    share = scene.positives / (scene.positives + scene.negatives)

    def call(rng: np.random.Generator, n: int, per: int) -> tuple[np.ndarray, Grouping | None]:
        numbers = np.arange(n) // per
        positive = (rng.random(numbers[-1] + 1) < share)[numbers]
        hard = np.sqrt(SHARED) * rng.normal(size=numbers[-1] + 1)[numbers]
        own = np.sqrt(1 - SHARED) * rng.normal(size=(n, scene.readers))
        ratings = positive[:, None] * skills + hard[:, None] + own
        calls = (ratings > cuts).astype(np.int64)
        if scene.drawn == "missing":
            calls[rng.random(calls.shape) >= CALLED] = UNKNOWN
        return calls, Grouping(numbers) if per > 1 else None

    rng = np.random.default_rng(1)
    per = PER_PATIENT if scene.drawn == "patients" else 1
    every, _ = call(rng, 10 * MANY, 1)
    both = (every[:, :2] != UNKNOWN).all(axis=1)
    truths = agreement_kappa(every[both, 0], every[both, 1]), krippendorff_alpha(every)
    tails: dict[str, list[tuple[bool, bool, bool, float]]] = {}
    for trial in range(trials):
        calls, grouping = call(rng, scene.positives + scene.negatives, per)
        _, kappa = score_agreement(calls[:, 0], calls[:, 1], RESAMPLES, grouping, seed=trial)
        alpha = score_alpha(calls, RESAMPLES, grouping, seed=trial)
        for what, truth, score in zip(("kappa", "alpha"), truths, (kappa, alpha), strict=True):
            low, high = score[1:3]
            row = low > truth, high < truth, bool(np.isnan(low)), high - low
            tails.setdefault(what, []).append(row)
    yield from summarize(tails, scene)


def summarize(
    tails: dict[str, list[tuple[bool, bool, bool, float]]], scene: Scene
) -> Iterator[tuple[object, ...]]:
    """One row for each interval."""
    for what, rows in tails.items():
        below, above, none, width = np.nanmean(np.array(rows, dtype=np.float64), axis=0)
        shares = (round(float(value), 4) for value in (below, above, none, width))
        yield (what, *scene, len(rows), *shares)


def main() -> None:
    """Simulate, store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, help="so many of each, and write nothing")
    tried = parser.parse_args().trials
    rows: list[tuple[object, ...]] = []
    for scene in SCENES:
        rows += beside_readers(scene, tried or TRIALS)
        if scene.spread == 0.3:
            rows += agreement(scene, tried or TRIALS)
        print(scene, file=sys.stderr, flush=True)
    if tried is None:
        with STORED.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, *rows])
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for row in rows:
        shares = [f"{100 * float(str(value)):.1f}" for value in row[-4:-1]]
        print("| " + " | ".join([*map(str, row[:-4]), *shares, f"{row[-1]}"]) + " |")


if __name__ == "__main__":
    main()

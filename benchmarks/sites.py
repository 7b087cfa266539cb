"""Do the numbers for an unseen site, the worst site and an estimate at a new site hold?

    python benchmarks/sites.py    # five minutes on an idle core; writes sites.csv
    python benchmarks/sites.py --trials 20    # a try, which writes nothing

Unseen site: the logits of the accuracies of 5, 8, 20 or 40 sites, and of one more, are normal. The
interval is that of slices.csv; "none" is how many draws have too few errors for one. "Any errors"
is the same interval where it is given anyway. The usual one has the variance of the largest
restricted likelihood, Student's t with one degree of freedom less than sites, and each site's own
standard error.

Worst site: all sites are equally good; one is worse by two or four standard errors; or they are
spread evenly over four. The interval is that of slices.csv. Three others have another lower end:
simultaneous (max-t, studentised on the logit scale), the minimum's bias taken off (resampled), or
the random effects of an unseen site, given what each site shows (shrunk).

Estimate: the accuracy at a new site is estimated from confidences. At each site, and under each of
four shifts at two levels, more or fewer answers are right than the confidences say. The range comes
from the errors under shifts alone, or also from those at sites, each left out.

Sites have 200 images each, or from 40 to 800. Images are independent, or of patients with 10 images
each and an intra-class correlation of 0.2. "below" is how often the truth lies below an interval
that is given.
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

from fairweather.metrics import Estimate, atc_threshold, confidence_gap
from fairweather.metrics.accuracy_estimation import PastErrors, SiteErrors
from fairweather.metrics.columns import FloatArray, IntArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import widen_for_groups
from fairweather.metrics.unseen import (
    CONTINUITY,
    FEWEST_ERRORS,
    RandomEffects,
    as_share,
    count_rarer,
    predict_unseen,
)
from fairweather.runs.scores import worst_slices

STORED = Path(__file__).with_suffix(".csv")
COLUMNS = (
    "number",
    "sites",
    "sizes",
    "images",
    "share",
    "truth",
    "trials",
    "none",
    "below",
    "above",
    "width",
)
TRIALS, RESAMPLES = 500, 200
MANY = 100  # intervals of a setting, from which its shares are summarized
SITES, SHARES = (5, 8, 20), (0.8, 0.95, 0.99)
SIZES = {"equal": (200, 200), "unequal": (40, 800), "50": (50, 50), "100": (100, 100)}
DESIGNS = (("equal", "images"), ("unequal", "images"), ("unequal", "patients"))
# From one error a site to three: sites, sizes, share.
SMALL = (
    *((20, "50", 0.98), (40, "50", 0.98), (20, "100", 0.99)),
    *((20, "100", 0.98), (40, "100", 0.98)),
)
PATIENT, CORRELATION = 10, 0.2
SPREADS = (0.0, 0.25, 0.5, 1.0)  # of the logits of sites
WORST_SITES, TRUTHS = (3, 8, 20), ("ties", "one by 2", "one by 4", "spread over 4")
DRAWS = 300  # from the distribution of true values
SHIFTS, LEVELS, TESTED, NEW = 4, 2, 150, 300
KEY = ("m", "0", "clean", "none")


def site_sizes(count: int, kind: str) -> IntArray:
    """Numbers of images, in whole patients."""
    return np.round(np.geomspace(*SIZES[kind], count) / PATIENT).astype(np.int64) * PATIENT


def draw_site(rng: np.random.Generator, share: float, images: int, kind: str) -> Estimate:
    """The accuracy at a site, with resamples, as scores.csv has it."""
    if kind == "images":
        right = rng.binomial(images, share) / images
        return Estimate(right, rng.binomial(images, right, RESAMPLES) / images, images, "share")
    patients, both = images // PATIENT, 1 / CORRELATION - 1
    chance = rng.beta(max(share * both, 1e-9), max((1 - share) * both, 1e-9), patients)
    of_patient = rng.binomial(PATIENT, chance) / PATIENT
    counts = rng.multinomial(patients, np.full(patients, 1 / patients), RESAMPLES)
    drawn = Estimate(float(of_patient.mean()), counts @ of_patient / patients, images, "share")
    return widen_for_groups(drawn, Grouping(np.arange(patients)))


def plug_in(estimates: list[Estimate]) -> tuple[float, float]:
    """The usual prediction interval, on the logit scale and back."""
    share, n = np.transpose([(each.value, each.n) for each in estimates])
    spread = np.array([each.replicates.var() for each in estimates])
    worth = np.where(spread > 0, share * (1 - share) / np.where(spread > 0, spread, 1), n)
    right, wrong = share * worth + CONTINUITY, (1 - share) * worth + CONTINUITY
    model = RandomEffects.fit(np.log(right / wrong), 1 / right + 1 / wrong)
    best = int(model.likelihood.argmax())
    reach = scipy.special.stdtrit(len(share) - 1, 0.975)
    reach *= np.sqrt(model.between[best] + model.errors[best])
    low, high = scipy.special.expit([model.means[best] - reach, model.means[best] + reach])
    return float(low), float(high)


def summarize(ends: object, truth: FloatArray) -> tuple[float, ...]:
    """How many draws have no interval, how often the truth lies below and above, the mean width."""
    low, high = np.transpose(ends)
    given = np.isfinite(low)
    if not given.any():
        return 1.0, *[np.nan] * 3
    low, high, truth = low[given], high[given], truth[given]
    sides = (truth < low).mean(), (truth > high).mean(), (high - low).mean()
    return 1 - float(given.mean()), *map(float, sides)


def simulate_unseen(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of an unseen site."""
    designs = list(product(SITES, DESIGNS, SHARES))
    designs += [(count, (sizes, "images"), share) for count, sizes, share in SMALL]
    for (count, (sizes, kind), share), spread in product(designs, SPREADS):
        rng = np.random.default_rng(
            [count, len(sizes), len(kind), round(100 * share), round(100 * spread)]
        )
        logits = rng.normal(scipy.special.logit(share), spread, (trials, count + 1))
        truth = scipy.special.expit(logits)
        names = ("unseen", "unseen, any errors", "unseen, plug-in")
        ends: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for row in truth:
            sites = [
                draw_site(rng, each, images, kind)
                for each, images in zip(row, site_sizes(count, sizes), strict=False)
            ]
            known = [as_share(site, (0.0, 1.0)) for site in sites]
            low, _, high = predict_unseen(known)
            refused = count_rarer(known) < FEWEST_ERRORS * count
            ends["unseen"].append((np.nan, np.nan) if refused else (low, high))
            ends["unseen, any errors"].append((low, high))
            ends["unseen, plug-in"].append(plug_in(sites))
        for name, pairs in ends.items():
            yield (name, count, sizes, kind, share, spread, trials, *summarize(pairs, truth[:, -1]))


def true_shares(count: int, share: float, truth: str, errors: FloatArray) -> FloatArray:
    """The true share of each site, on the logit scale some standard errors apart."""
    away = np.zeros(count)
    if truth.startswith("one"):
        away[0] = -float(truth.split()[-1])
    elif truth.startswith("spread"):
        away = -np.linspace(0, float(truth.split()[-1]), count)
    return scipy.special.expit(scipy.special.logit(share) + away * errors)


def other_lower_ends(rng: np.random.Generator, estimates: list[Estimate]) -> dict[str, float]:
    """Other lower ends of the worst site."""
    n = np.array([each.n for each in estimates], dtype=np.float64)[:, None]
    values = np.array([[each.value] for each in estimates])
    drawn = np.stack([each.replicates for each in estimates])

    def logit(share: FloatArray) -> FloatArray:
        return np.log(
            (np.clip(share, 0, 1) * n + CONTINUITY) / ((1 - np.clip(share, 0, 1)) * n + CONTINUITY)
        )

    centre, replicates = logit(values), logit(drawn)
    errors = np.maximum(replicates.std(axis=1, keepdims=True), 1 / np.sqrt(n))
    most = np.quantile(((replicates - centre) / errors).max(axis=0), 0.975)
    model = RandomEffects.fit(centre[:, 0], errors[:, 0] ** 2)
    at = rng.choice(len(model.weights), DRAWS, p=model.weights)
    between, mean = model.between[at, None], model.means[at, None]
    mean = mean + np.sqrt(model.errors[at, None]) * rng.normal(size=(DRAWS, 1))
    kept = between / (between + errors[:, 0] ** 2)
    noise = np.sqrt(kept) * errors[:, 0] * rng.normal(size=kept.shape)
    shrunk = (mean + kept * (centre[:, 0] - mean) + noise).min(axis=1)
    lowest = float(values.min())
    return {
        "max-t": float(scipy.special.expit((centre - most * errors).min())),
        "resampled": 2 * lowest - float(np.quantile(drawn.min(axis=0), 0.975)),
        "shrunk": float(scipy.special.expit(np.quantile(shrunk, 0.025))),
    }


def simulate_worst(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of the worst site."""
    for count, (sizes, kind), share, truth in product(
        WORST_SITES, (DESIGNS[0], DESIGNS[2]), SHARES[:2], TRUTHS
    ):
        rng = np.random.default_rng([count, len(sizes), len(kind), round(100 * share), len(truth)])
        images = site_sizes(count, sizes)
        inflation = 1 + (PATIENT - 1) * CORRELATION if kind == "patients" else 1.0
        errors = np.sqrt(inflation / (images * share * (1 - share)))
        shares = true_shares(count, share, truth, errors)
        ends: dict[str, list[tuple[float, float]]] = {}
        for _ in range(trials):
            sites = [draw_site(rng, *pair, kind) for pair in zip(shares, images, strict=True)]
            named = {f"site={at}": {KEY: {"accuracy": site}} for at, site in enumerate(sites)}
            [row] = worst_slices(named, "site")[["low", "high"]].to_numpy().tolist()
            ends.setdefault("worst", []).append(tuple(row))
            for name, low in other_lower_ends(rng, sites).items():
                ends.setdefault(f"worst, {name}", []).append((low, row[1]))
        for name, pairs in ends.items():
            found = summarize(pairs, np.full(trials, shares.min()))
            yield (name, count, sizes, kind, share, truth, trials, *found)


class Draw:
    """Confidences and right answers of some images, and what each method says of each."""

    def __init__(self, rng: np.random.Generator, images: int, darker: float, better: float) -> None:
        logit = rng.normal(2 - darker, 1.5, images)
        self.confidence = scipy.special.expit(logit)
        self.correct = rng.random(images) < scipy.special.expit(logit + better)

    def excess(self, fitted: Draw) -> FloatArray:
        """How much each method adds to its error at each image, `[n, 3]`."""
        threshold = atc_threshold(fitted.confidence, fitted.correct)
        gap = float(confidence_gap(fitted.confidence, fitted.correct))
        says = [self.confidence, self.confidence >= threshold, self.confidence - gap]
        return np.stack(says, axis=1).astype(np.float64) - self.correct[:, None]


def join(draws: list[Draw]) -> Draw:
    """All images together."""
    joined = object.__new__(Draw)
    joined.confidence = np.concatenate([draw.confidence for draw in draws])
    joined.correct = np.concatenate([draw.correct for draw in draws])
    return joined


def simulate_estimates(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of the estimate at a new site."""
    for count, spread in product(SITES, SPREADS):
        rng = np.random.default_rng([count, round(100 * spread)])
        ends: dict[str, list[tuple[float, float]]] = {"estimate, shifts": [], "estimate": []}
        truths = []
        for _ in range(trials):
            better = rng.normal(0, spread, count + 1)
            validation, tested = (
                [Draw(rng, TESTED, 0, each) for each in better[:-1]] for _ in range(2)
            )
            fitted, new = join(validation), Draw(rng, NEW, 0, float(better[-1]))
            cells = [join(tested)]
            for _, level in product(range(SHIFTS), range(1, LEVELS + 1)):
                change = rng.normal(0, 0.3)
                cells.append(
                    join(
                        [Draw(rng, TESTED, level / 2, float(each) + change) for each in better[:-1]]
                    )
                )
            excess = [cell.excess(fitted) for cell in cells]
            shift = np.array([-1, *np.repeat(np.arange(SHIFTS), LEVELS)])
            far = np.array(
                [abs(cell.confidence.mean() - fitted.confidence.mean()) for cell in cells]
            )
            nowhere = np.zeros((len(cells), len(cells)))
            at_sites = [
                site.excess(join(validation[:at] + validation[at + 1 :]))
                for at, site in enumerate(tested)
            ]
            sites = SiteErrors(
                np.stack([each.mean(axis=0) for each in at_sites]),
                np.stack([each.var(axis=0, ddof=1) / len(each) for each in at_sites]),
            )
            truths.append(new.correct.mean())
            said = new.excess(fitted).mean(axis=0) + truths[-1]
            distance = float(abs(new.confidence.mean() - fitted.confidence.mean()))
            for name, known in (("estimate, shifts", None), ("estimate", sites)):
                past = PastErrors(
                    shift,
                    np.stack([each.mean(axis=0) for each in excess]),
                    np.stack([each.std(axis=0) for each in excess]),
                    *(far, np.zeros(len(cells)), nowhere, nowhere),
                    sites=known,
                )
                bounds = past.range(said, NEW, distance)
                assert bounds.high is not None
                ends[name].append((bounds.low, bounds.high))
        for name, pairs in ends.items():
            found = summarize(pairs, np.array(truths))
            yield (name, count, "equal", "images", "", spread, trials, *found)


def simulate(trials: int) -> Iterator[tuple[object, ...]]:
    """Rows of the stored table."""
    for part in (simulate_unseen, simulate_worst, simulate_estimates):
        yield from part(trials)
        print(part.__name__, file=sys.stderr, flush=True)


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """A markdown table: how often each side misses, in %, over numbers and sizes of sites."""
    yield "| number | share | truth | none | below, mean | most | above, mean | most | width |"
    yield "|---|---|---|---|---|---|---|---|---|"
    names = ("number", "share", "truth")
    kinds = {tuple(row[name] for name in names): None for row in rows}
    for kind in kinds:
        own = [row for row in rows if tuple(row[name] for name in names) == kind]
        none, below, above, width = (
            np.array([float(row[name]) for row in own]) for name in COLUMNS[-4:]
        )
        many = np.array([int(row["trials"]) for row in own]) * (1 - none) >= MANY
        if not many.any():
            yield f"| {' | '.join(kind)} | {100 * none.mean():.0f} | | | | | |"
            continue
        sides = (
            f"{100 * number:.1f}"
            for side in (below[many], above[many])
            for number in (side.mean(), side.max())
        )
        refused = f"{100 * none.mean():.0f}"
        yield f"| {' | '.join((*kind, refused, *sides))} | {width[many].mean():.2f} |"


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

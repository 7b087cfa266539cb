"""How often does a threshold with a guarantee break its promise, and what does it cost?

    python benchmarks/guarantee.py    # some minutes on one core; prints markdown

Simulated validation images: half of them propose thresholds, the others test these in a fixed
order (`guaranteed_threshold`). The promise is a risk of at most 5 % with a certainty of 95 %; it is
broken where the true risk of the threshold, an integral, is above 5 %. Beside it are binary search
with a union bound (algorithm 1 of Geifman and El-Yaniv 2017) on the same half, and the largest
coverage whose measured risk is at most 5 %, on all images (`threshold_at_risk`), which promises
nothing.

The models: confidences follow a Beta distribution, and an image is right with its confidence
(calibrated), less often (overconfident: the error is twice as large), always equally often
(uninformative, with a risk just above 5 %: the hardest case, where every answer breaks the
promise), or less often where the confidence is above 0.99 (sure and wrong). Ties: the confidence is
rounded to twentieths. Images that come in groups are ten of each, alike within: once all are
tested as if they were independent, and once one image of each group. Patients of different sizes:
half have one image, and half have 40, on which errors are 2.6 times as frequent as the confidence
says; the promise is about patients that count alike, or about images that do.

The last tables are about the interval of `coverage_at_risk`: how often each end misses the coverage
that endless images would give, beside the percentiles of resamples. "41 % right" and so on are
calibrated. The four levels of a mean have the confidences of "80 % right", and are right less often
by up to 15 points; the difference is that of the first two. Three seeds are of the first.
"""

import dataclasses

import numpy as np
import scipy.special
from coverage import print_table  # the script beside this one

from fairweather import metrics
from fairweather.metrics import (
    Grouping,
    guaranteed_threshold,
    one_of_each,
    threshold_at_risk,
    thresholds_to_try,
)
from fairweather.metrics.selective import coverage_interval

RISK, CERTAINTY = 0.05, 0.95
TRIALS = 4000
GRID = 200_000  # quantiles of the confidence, for the integral
IN_GROUP, CORRELATION = 10, 0.5
IMAGES = (200, 500, 2000, 10_000)
LARGE, MORE = 40, 2.6
TRIALS_OF_PATIENTS = 400


def calibrated(confidence):
    return confidence


def overconfident(confidence):
    return np.maximum(0, 1 - 2 * (1 - confidence))


def uninformative(confidence):
    return np.full_like(confidence, 1 - RISK - 1e-6)


def sure_and_wrong(confidence):
    return np.where(confidence > 0.99, 0.9, confidence)


# By name: the Beta distribution of the confidence, how often it is right, the steps of ties.
MODELS = {
    "calibrated, poor": ((2, 1), calibrated, None),
    "calibrated, good": ((6, 1), calibrated, None),
    "calibrated, very good": ((20, 0.5), calibrated, None),
    "overconfident": ((20, 0.5), overconfident, None),
    "uninformative": ((6, 1), uninformative, None),
    "sure and wrong": ((6, 0.5), sure_and_wrong, None),
    "with ties": ((6, 1), calibrated, 20),
}

# The same of the interval of `coverage_at_risk`.
SEARCHED = {
    "41 % right": ((2, 2.88), calibrated, None),
    "80 % right": ((4, 1), calibrated, None),
    "95 % right": ((19, 1), calibrated, None),
    "uninformative": MODELS["uninformative"],
    "sure and wrong": MODELS["sure and wrong"],
    "with ties": MODELS["with ties"],
}
SEARCHED_IMAGES = (200, 1000, 5000)
# Trials of the interval of one cell, of its percentiles and of groups, and of several cells.
MANY_TRIALS, FEWER_TRIALS, FEWEST_TRIALS, RESAMPLES = 2000, 400, 200, 200
GAPS = (0.0, 0.01, 0.03, 0.15)


class Truth:
    """The true risk and coverage of every threshold of a model."""

    def __init__(self, model):
        self.shape, self.right, self.steps = model
        quantiles = (np.arange(GRID) + 0.5) / GRID
        drawn = np.sort(scipy.special.betaincinv(*self.shape, quantiles))
        self.accuracy = float(self.right(drawn).mean())
        self.sure = self.rounded(drawn)
        wrong = (1 - self.right(drawn))[::-1].cumsum()[::-1]
        self.above = wrong / np.arange(GRID, 0, -1)
        first = np.append(True, self.sure[1:] > self.sure[:-1])  # of equal confidences
        self.best = 1 - np.append(np.flatnonzero(first & (self.above <= RISK)), GRID)[0] / GRID

    def rounded(self, confidence):
        steps = self.steps
        return confidence if steps is None else np.ceil(confidence * steps) / steps

    def draw(self, generator, n):
        drawn = generator.beta(*self.shape, n)
        return self.rounded(drawn), generator.random(n) < self.right(drawn)

    def keeps(self, threshold):
        place = np.searchsorted(self.sure, threshold)
        return place >= GRID or self.above[place] <= RISK

    def coverage(self, threshold):
        return 1 - np.searchsorted(self.sure, threshold) / GRID


def in_fixed_order(first, second):
    tried = thresholds_to_try(*first, risk=RISK)
    return guaranteed_threshold(*second, tried, risk=RISK, certainty=CERTAINTY).threshold


def by_binary_search(confidence, correct):
    """Algorithm 1 of Geifman and El-Yaniv, with the exact bound in place of their solver."""
    order = np.argsort(confidence)
    sure, wrong = confidence[order], (~correct[order])[::-1].cumsum()[::-1]
    n, low, high, found = len(sure), 0, len(sure) - 1, np.inf
    tests = int(np.ceil(np.log2(n)))
    for _ in range(tests):
        middle = (low + high + 1) // 2
        place = np.searchsorted(sure, sure[middle])
        errors, answered = wrong[place], n - place
        certain = 1 - (1 - CERTAINTY) / tests
        bound = scipy.special.betaincinv(errors + 1, max(answered - errors, 1e-12), certain)
        if bound <= RISK:
            found, high = min(found, sure[middle]), middle
        else:
            low = middle
    return found


def row(name, n):
    truth = Truth(MODELS[name])
    broken, covered = {}, {}
    for trial in range(TRIALS):
        generator = np.random.default_rng([n, trial])
        confidence, correct = truth.draw(generator, n)
        first, second = ((confidence[at::2], correct[at::2]) for at in (0, 1))
        thresholds = {
            "fixed order": in_fixed_order(first, second),
            "binary search": by_binary_search(*second),
            "measured": threshold_at_risk(confidence, correct, risk=RISK),
        }
        for method, threshold in thresholds.items():
            broken.setdefault(method, []).append(not truth.keeps(threshold))
            covered.setdefault(method, []).append(truth.coverage(threshold))
    cells = [name, f"{100 * truth.accuracy:.1f}", f"{n:,}", f"{100 * truth.best:.1f}"]
    for method in broken:
        cells += [with_error(broken[method]), f"{100 * np.mean(covered[method]):.1f}"]
    return cells


def draw_alike(generator, truth, own):
    """Confidences and right answers of images that share some of what decides these.

    `own` is float `[2, n]`, of confidence and of being right: normal numbers of the groups.
    """
    alike, apart = np.sqrt(CORRELATION), np.sqrt(1 - CORRELATION)
    quantiles, chances = (
        scipy.special.ndtr(alike * each + apart * generator.normal(size=len(each))) for each in own
    )
    confidence = scipy.special.betaincinv(*truth.shape, quantiles)
    return truth.rounded(confidence), chances < truth.right(confidence)


def in_groups(count):
    """Images of one patient have one latent confidence in common, and so do their errors."""
    truth = Truth(MODELS["calibrated, good"])
    broken = {"all images": [], "one image of each": []}
    for trial in range(TRIALS):
        generator = np.random.default_rng([count, trial, 1])
        own = np.repeat(generator.normal(size=(2, count)), IN_GROUP, axis=1)
        drawn = draw_alike(generator, truth, own)
        confidence, correct = (each.reshape(count, IN_GROUP) for each in drawn)
        for name, images in (("all images", slice(None)), ("one image of each", 0)):
            first, second = (
                (confidence[at::2, images].ravel(), correct[at::2, images].ravel()) for at in (0, 1)
            )
            broken[name].append(not truth.keeps(in_fixed_order(first, second)))
    return [f"{count:,}", *map(with_error, broken.values())]


def in_patients(count):
    """The promise weighs patients or images, and the true risk does: all four."""
    shape, quantiles = (20, 0.5), (np.arange(GRID) + 0.5) / GRID
    drawn = np.sort(scipy.special.betaincinv(*shape, quantiles))
    above = np.arange(GRID, 0, -1)
    # Wrong answers in a million of small patients, and of large ones.
    small, large = (
        (np.minimum(1, factor * (1 - drawn)))[::-1].cumsum()[::-1] / above for factor in (1, MORE)
    )
    risks = {
        "patients": (small + large) / 2,
        "images": (small + LARGE * large) / (1 + LARGE),
    }
    broken = {(weighed, of): [] for weighed in risks for of in risks}
    for trial in range(TRIALS_OF_PATIENTS):
        generator = np.random.default_rng([count, trial, 2])
        halves = []
        for _ in range(2):
            sizes = np.where(np.arange(count // 2) % 2, LARGE, 1)
            grouping = Grouping(np.repeat(np.arange(len(sizes)), sizes))
            shares = []
            for _ in range(2):
                own = generator.normal(size=len(sizes))[grouping.numbers]
                apart = np.sqrt(1 - CORRELATION) * generator.normal(size=len(own))
                shares.append(scipy.special.ndtr(np.sqrt(CORRELATION) * own + apart))
            confidence = scipy.special.betaincinv(*shape, shares[0])
            factor = np.where(sizes == 1, 1, MORE)[grouping.numbers]
            halves.append((confidence, shares[1] > factor * (1 - confidence), grouping))
        (sure, right, _), (confidence, correct, grouping) = halves
        tried = thresholds_to_try(sure, right, risk=RISK)
        places = one_of_each(grouping)
        found = {
            "patients": guaranteed_threshold(confidence[places], correct[places], tried),
            "images": guaranteed_threshold(confidence, correct, tried, grouping=grouping),
        }
        for (weighed, of), cases in broken.items():
            place = np.searchsorted(drawn, found[weighed].threshold)
            cases.append(place < GRID and risks[of][place] > RISK)
    return [f"{count:,}", *map(with_error, broken.values())]


def misses(ends, truth):
    """How often the lower end is above the truth, and the upper end below it."""
    low, high = np.transpose(ends)
    return with_error(low > truth), with_error(high < truth)


def by_percentiles(estimate):
    """The interval of resamples of the images, as of other metrics."""
    return metrics.to_score(dataclasses.replace(estimate, interval="percentile"), (0, 1))[1:3]


def estimate_of(confidence, correct, weights):
    value, replicates = (
        metrics.coverage_at_risk(confidence, correct, each) for each in (None, weights)
    )
    ends = coverage_interval(confidence, correct)
    return metrics.Estimate(value, replicates, len(correct), "searched", ends=ends)


def one_cell(name, n):
    truth = Truth(SEARCHED[name])
    weights = metrics.bootstrap_weights(n, RESAMPLES).astype(float)
    drawn = [truth.draw(np.random.default_rng([n, trial, 2]), n) for trial in range(MANY_TRIALS)]
    ends = [coverage_interval(*each) for each in drawn]
    before = [by_percentiles(estimate_of(*each, weights)) for each in drawn[:FEWER_TRIALS]]
    means = [f"{100 * mean:.1f}" for mean in np.mean(ends, axis=0)]
    found = misses(ends, truth.best), misses(before, truth.best)
    return [name, f"{n:,}", f"{100 * truth.best:.1f}", *means, *found[0], *found[1]]


def several_cells(n):
    """A mean over levels, a difference and a mean over seeds, on the same images."""
    shape, _, steps = SEARCHED["80 % right"]
    less = [lambda confidence, gap=gap: np.maximum(confidence - gap, 0) for gap in GAPS]
    truths = [Truth((shape, each, steps)) for each in less]
    best = [each.best for each in truths]
    expected = {"mean": np.mean(best), "difference": best[1] - best[0], "seeds": best[0]}
    weights = metrics.bootstrap_weights(n, RESAMPLES).astype(float)
    found = {name: ([], []) for name in expected}
    for trial in range(FEWEST_TRIALS):
        generator = np.random.default_rng([n, trial, 3])
        own = generator.normal(size=(2, n))
        cells = [
            estimate_of(*draw_alike(generator, truth, own), weights)
            for truth in [*truths, truths[0], truths[0]]
        ]
        seeds = metrics.recipe_estimate([cells[0], *cells[4:]])
        for place, kind in enumerate(("searched", "percentile")):
            of_kind = [dataclasses.replace(each, interval=kind) for each in cells]
            for name, score in (
                ("mean", metrics.to_score(metrics.mean_estimate(of_kind[:4]), (0, 1))),
                ("difference", metrics.paired_difference(*of_kind[:2])),
                ("seeds", metrics.to_score(dataclasses.replace(seeds, interval=kind), (0, 1))),
            ):
                found[name][place].append(score[1:3])
    for name, truth in expected.items():
        ends = [each for kind in found[name] for each in misses(kind, truth)]
        yield [name, f"{n:,}", f"{100 * truth:.1f}", *ends]


def searched_in_groups(name, count, sizes):
    """Whole groups are drawn, of one size or of very different ones."""
    truth = Truth(SEARCHED[name])
    ends = []
    for trial in range(FEWER_TRIALS):
        generator = np.random.default_rng([count, trial, 4])
        drawn = np.full(count, IN_GROUP)
        if sizes == "skewed":
            drawn = np.ceil(4 * generator.pareto(1.5, count) + 1).astype(int)
        of = np.repeat(np.arange(count), drawn)
        columns = draw_alike(generator, truth, generator.normal(size=(2, count))[:, of])
        ends.append(coverage_interval(*columns, grouping=Grouping(of)))
    means = [f"{100 * mean:.1f}" for mean in np.mean(ends, axis=0)]
    return [name, sizes, f"{count:,}", f"{100 * truth.best:.1f}", *means, *misses(ends, truth.best)]


def with_error(broken):
    share = np.mean(broken)
    return f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / len(broken)):.1f}"


def main():
    methods = ["fixed order", "binary search", "measured"]
    head = ["model", "accuracy %", "images", "best coverage %"]
    head += [f"{name}: {what} %" for name in methods for what in ("broken", "coverage")]
    print_table(head, (row(name, n) for name in MODELS for n in IMAGES))
    head = ["groups of 10", "all images: broken %", "one image of each: broken %"]
    print_table(head, (in_groups(count) for count in (200, 500, 2000)))
    head = ["patients"]
    for weighed in ("patients", "images"):
        head += [f"weighs {weighed}: risk of {of} broken %" for of in ("patients", "images")]
    print_table(head, (in_patients(count) for count in (400, 1000, 2000)))
    print_searched()


def print_searched():
    truth, missed = ["truth %"], ["low above truth %", "high below truth %"]
    percentiles = [f"percentiles: {each}" for each in missed]
    head = ["model", "images", *truth, "mean low %", "mean high %", *missed, *percentiles]
    print_table(head, (one_cell(name, n) for name in SEARCHED for n in SEARCHED_IMAGES))
    head = ["of several cells", "images", *truth, *missed, *percentiles]
    print_table(head, (row for n in SEARCHED_IMAGES for row in several_cells(n)))
    head = ["model", "sizes", "groups", *truth, "mean low %", "mean high %", *missed]
    print_table(
        head,
        (
            searched_in_groups(name, count, sizes)
            for name in SEARCHED
            for sizes in ("equal", "skewed")
            for count in (20, 100, 500)
        ),
    )


if __name__ == "__main__":
    main()

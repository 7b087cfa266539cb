"""How often do the 95 % intervals of AUC and PR-AUC of one class hold the truth?

    python benchmarks/areas.py    # about 13 minutes on one core; prints markdown tables

Scores are normal with one mean for the negatives and another for the positives, whose standard
deviation is the same ("equal") or twice as large ("wide"); or a share of the images is mislabelled
by the model at random, with the score of the other class ("outliers": 2 %, at most what two thirds
of 1 - AUC allow); or only such positives are not above all negatives ("few": hardly one image
decides). The truths are integrals. How many images are positive is random. Each entry says
how often the truth lies below the interval and how often above it, in percent.

Groups have 10 images on average, all the same or gamma-distributed, which are positive with a
probability of 0.3, or all images of a group are. The scores of a group share a part of their
variance (the intra-class correlation). Differences are of two models on the same images, whose
scores have a correlation of 0.8 within each class. Means are over classes that are all as frequent,
or each half as frequent as the one before; their logits are normal, that of the label `MARGIN`
higher, and the truth is that of 100,000 images. In brackets: how often there is no interval.

The tables near 1 compare the intervals of AUC without and with Chernoff's bound: both tails, the
median width and the largest one. Other intervals are DeLong's (pROC's default), the same on the
logit scale, percentiles of 500 resamples of either class (pROC's bootstrap), and the score interval
of Newcombe 2006, method 5.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from fairweather.metrics import (
    Estimate,
    Grouping,
    Resamples,
    evaluate_resamples,
    paired_difference,
    per_image,
    to_score,
)
from fairweather.metrics.areas import (
    auc_column,
    disjoint_pairs,
    least_pairs,
    precision_bias,
    precision_column,
    unit_column,
)
from fairweather.metrics.classification import placements
from fairweather.types.measurement import Predictions

# Positive images, and how many times fewer trials: of many images a trial takes longer.
POSITIVES = {20: 1, 30: 1, 50: 1, 200: 4, 2000: 10}
AREAS, PREVALENCES = (0.7, 0.9, 0.97, 0.99), (0.02, 0.1, 0.5)
NEAR_ONE = (0.9, 0.99, 0.996, 0.999, 0.9999)
OUTLIERS = 0.02
OTHERS = ("DeLong", "DeLong, logit", "bootstrap", "Newcombe")
FAR = 40.0  # deviations between positives and negatives that are never confused
MEAN_SIZE, OF_GROUPS = 10, 0.3  # images of a group; the share of positives among them
CORRELATION = 0.8  # of the scores of two models
MARGIN = 1.5
MEANS = ("macro_auc", "macro_pr_auc")
COLUMNS = {"AUC": auc_column, "PR-AUC": precision_column}


class Model:
    """A model with a known AUC: how it scores, and its true areas.

    Attributes:
        mean, deviation: of the scores of positives; negatives have 0 and 1.
        swapped: the shares of positives and of negatives that are scored as the other class.
    """

    def __init__(self, kind: str, area: float) -> None:
        self.deviation = 2.0 if kind == "wide" else 1.0
        if kind == "few":
            self.swapped, self.mean = (2 * (1 - area), 0.0), FAR
            return
        q = min(OUTLIERS, (1 - area) / 1.5) if kind == "outliers" else 0.0
        self.swapped = (q, q)
        # A pair is of two swapped images, of one, or of none.
        clean = (area - q * (1 - q) - q**2) / (1 - 2 * q)
        self.mean = float(ndtri(clean)) * float(np.hypot(1, self.deviation))

    def draw(self, positive: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw the score of each image."""
        noise = generator.normal(size=positive.shape)
        swapped = np.where(positive, *self.swapped)
        as_positive = positive ^ (generator.random(positive.shape) < swapped)
        return self.scores(as_positive, noise)

    def scores(self, positive: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Scores of images with this standard normal noise."""
        return np.where(positive, self.mean + self.deviation * noise, noise)

    def truths(self, prevalence: float) -> list[float]:
        """The true AUC and average precision."""
        levels = np.linspace(-9, self.mean + 9 * self.deviation, 200_001)
        of_positive = ndtr((self.mean - levels) / self.deviation)
        of_negative = ndtr(-levels)
        q, r = self.swapped
        above = (1 - q) * of_positive + q * of_negative
        false = (1 - r) * of_negative + r * of_positive
        share = -np.diff(above)
        called = prevalence * above + (1 - prevalence) * false
        precision = prevalence * above / np.maximum(called, 1e-300)
        middle = [(each[1:] + each[:-1]) / 2 for each in (1 - false, precision)]
        return [float((share * each).sum()) for each in middle]


def estimates(
    scores: np.ndarray, positive: np.ndarray, grouping: Grouping | None = None
) -> list[Estimate]:
    """The AUC and the average precision of scores without ties."""
    ranked = positive[np.argsort(-scores)]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    values = placements(scores, positive)[positive].mean(), precision[ranked].mean()
    of, count = (None, None) if grouping is None else (grouping.numbers, grouping.count)
    pairs = disjoint_pairs(positive, of)
    least, biases = (least_pairs(positive, of), 0.0), (0.0, precision_bias(scores, positive))
    return [
        Estimate(
            float(value),
            np.empty(0),
            len(scores),
            "area",
            groups=count,
            column=unit_column(column(scores, positive, of), of),
            pairs=pairs,
            least_pairs=worth,
            bias=bias,
        )
        for value, column, worth, bias in zip(values, COLUMNS.values(), least, biases, strict=True)
    ]


def draw_labels(n: int, prevalence: float, generator: np.random.Generator) -> np.ndarray:
    """Draw labels, at least two of either side."""
    while True:
        positive = generator.random(n) < prevalence
        if 2 <= positive.sum() <= n - 2:
            return positive


def entry(missed: list[tuple[bool, bool]]) -> str:
    """The two tails, in percent."""
    return " / ".join(f"{100 * share:.1f}" for share in np.mean(missed, axis=0))


def tails(scored: Iterator[list], truths: list[float]) -> list[str]:
    """An entry for each area."""
    missed = np.array(
        [
            [
                (score.low > truth, score.high < truth)
                for score, truth in zip(each, truths, strict=True)
            ]
            for each in scored
        ]
    )
    return [entry(of_area) for of_area in missed.transpose(1, 0, 2)]


def near_one(drawn: Iterable[Estimate], truth: float) -> list[str]:
    """Of an AUC without the bound and with it: both tails, the median and the largest width."""
    pairs = [
        [
            to_score(dataclasses.replace(each, least_pairs=least), (0.0, 1.0))
            for least in (0.0, each.least_pairs)
        ]
        for each in drawn
    ]
    entries = []
    for scores in zip(*pairs, strict=True):
        widths = [score.high - score.low for score in scores]
        missed = entry([(score.low > truth, score.high < truth) for score in scores])
        entries.append((missed, f"{np.median(widths):.3f}", f"{max(widths):.3f}"))
    return [f"{before} → {after}" for before, after in zip(*entries, strict=True)]


def draw_single(
    kind: str, positives: int, area: float, prevalence: float, trials: int
) -> Iterator[list[Estimate]]:
    """Both areas of independent images."""
    model, n = Model(kind, area), round(positives / prevalence)
    for trial in range(trials):
        generator = np.random.default_rng([n, positives, round(100 * area), trial])
        positive = draw_labels(n, prevalence, generator)
        yield estimates(model.draw(positive, generator), positive)


def single(kind: str, positives: int, area: float, prevalence: float, trials: int) -> list[str]:
    """Tails of both areas of independent images."""
    drawn = draw_single(kind, positives, area, prevalence, trials)
    scored = ([to_score(each, (0.0, 1.0)) for each in both] for both in drawn)
    return tails(scored, Model(kind, area).truths(prevalence))


def draw_grouped(
    count: int, sizes: str, pure: bool, correlation: float, area: float, trials: int
) -> Iterator[list[Estimate]]:
    """Both areas of images that come in groups, and AUC over images."""
    model = Model("equal", area)
    for trial in range(trials):
        generator = np.random.default_rng([count, round(10 * correlation), trial, pure])
        images = np.full(count, MEAN_SIZE)
        if sizes == "unequal":
            shape = 1.5
            drawn = generator.poisson(generator.gamma(shape, MEAN_SIZE / shape, count))
            images = np.maximum(1, drawn)
        grouping = Grouping(np.repeat(np.arange(count), images))
        if pure:
            positive = draw_labels(count, OF_GROUPS, generator)[grouping.numbers]
        else:
            positive = draw_labels(len(grouping.numbers), OF_GROUPS, generator)
        shared = generator.normal(size=count)[grouping.numbers]
        own = generator.normal(size=len(positive))
        noise = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
        scores = model.scores(positive, noise)
        yield [*estimates(scores, positive, grouping), estimates(scores, positive)[0]]


def grouped(
    count: int, sizes: str, pure: bool, correlation: float, area: float, trials: int
) -> list[str]:
    """Tails of both areas of images that come in groups, and of AUC over images."""
    truths = Model("equal", area).truths(OF_GROUPS)
    drawn = draw_grouped(count, sizes, pure, correlation, area, trials)
    scored = ([to_score(each, (0.0, 1.0)) for each in every] for every in drawn)
    return tails(scored, [*truths, truths[0]])


def difference(positives: int, areas: tuple[float, float], trials: int) -> list[str]:
    """Tails of the differences of both areas of two models on the same images."""
    prevalence = 0.1
    models = [Model("equal", area) for area in areas]
    before, after = (model.truths(prevalence) for model in models)

    def scored() -> Iterator[list]:
        for trial in range(trials):
            generator = np.random.default_rng([positives, round(100 * areas[1]), trial])
            positive = draw_labels(round(positives / prevalence), prevalence, generator)
            common, *own = generator.normal(size=(3, len(positive)))
            noise = [np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * z for z in own]
            first, second = (
                estimates(model.scores(positive, each), positive)
                for model, each in zip(models, noise, strict=True)
            )
            yield [paired_difference(*both) for both in zip(first, second, strict=True)]

    return tails(scored(), [b - a for a, b in zip(before, after, strict=True)])


def draw_classes(
    n: int, classes: int, ratio: float, seed: int, margin: float = MARGIN
) -> Predictions:
    """Draw predictions of classes, each `ratio` times as frequent as the one before."""
    generator = np.random.default_rng([n, classes, seed])
    shares = ratio ** np.arange(classes)
    labels = generator.choice(classes, size=n, p=shares / shares.sum())
    logits = generator.normal(size=(n, classes)) + margin * np.eye(classes)[labels]
    logits = (logits + np.log(shares) / 2).astype(np.float32)
    names = tuple(map(str, range(classes)))
    return Predictions(np.arange(n), labels, *per_image(logits, labels), logits, names)


def estimate_means(predictions: Predictions) -> list[Estimate]:
    """Both means over classes."""
    found = evaluate_resamples(predictions, Resamples.draw(predictions.labels, 1), names=MEANS)
    return [found[name] for name in MEANS]


def means(n: int, classes: int, ratio: float, trials: int) -> list[str]:
    """Tails of both means over classes, and how often there is no interval."""
    whole = estimate_means(draw_classes(100_000, classes, ratio, trials))
    every = [
        [
            to_score(each, (0.0, 1.0))
            for each in estimate_means(draw_classes(n, classes, ratio, seed))
        ]
        for seed in range(trials)
    ]
    none = 100 * np.mean([score.too_few for score, _ in every])
    return [f"{each} ({none:.0f})" for each in tails(iter(every), [each.value for each in whole])]


def other_intervals(
    scores: np.ndarray, positive: np.ndarray, generator: np.random.Generator
) -> list[tuple[float, float]]:
    """What other programs print: the ends of each of `OTHERS`."""
    ours, theirs = scores[positive], scores[~positive]
    right = (ours[:, None] > theirs).astype(float)
    sides, z = np.array([len(ours), len(theirs)]), float(ndtri(0.975))
    value = float(right.mean())
    deviation = z * float(np.sqrt(np.square(auc_column(scores, positive)).sum()))
    drawn = [generator.multinomial(n, np.full(n, 1 / n), size=500) for n in sides]
    resampled = (drawn[0] @ right * drawn[1]).sum(axis=1) / sides.prod()
    truths, middle = np.linspace(0, 1, 10_001), sides.sum() / 2 - 1
    variance = (1 - truths) / (2 - truths) + truths / (1 + truths)
    variance = truths * (1 - truths) * (1 + middle * variance) / sides.prod()
    inside = truths[np.square(truths - value) <= z**2 * variance]
    reach = deviation / (value * (1 - value)) if deviation else 0.0
    return [
        (value - deviation, value + deviation),
        tuple(expit(logit(value) + reach * np.array([-1, 1]))),
        tuple(np.quantile(resampled, (0.025, 0.975))),
        (inside.min(initial=value), inside.max(initial=value)),
    ]


def beside_others(kind: str, positives: int, area: float, trials: int) -> list[str]:
    """Both tails and the median width of each interval, with as many negatives."""
    model, found = Model(kind, area), []
    for trial in range(trials):
        generator = np.random.default_rng([positives, round(1000 * area), trial])
        positive = np.arange(2 * positives) < positives
        scores = model.draw(positive, generator)
        ours = to_score(estimates(scores, positive)[0], (0.0, 1.0))
        found.append([(ours.low, ours.high), *other_intervals(scores, positive, generator)])
    ends = np.clip(found, 0, 1)
    missed = np.stack([ends[..., 0] > area, ends[..., 1] < area], axis=-1)
    widths = np.median(ends[..., 1] - ends[..., 0], axis=0)
    return [
        f"{entry(each)} ({width:.3f})"
        for each, width in zip(missed.transpose(1, 0, 2), widths, strict=True)
    ]


def means_near_one(n: int, classes: int, ratio: float, margin: float, trials: int) -> list[str]:
    """The macro AUC, and its row of the table near 1 without the rule on few errors."""
    truth = estimate_means(draw_classes(100_000, classes, ratio, trials, margin))[0].value
    drawn = (
        dataclasses.replace(
            estimate_means(draw_classes(n, classes, ratio, seed, margin))[0], fewest=0
        )
        for seed in range(trials)
    )
    return [f"{truth:.4f}", *near_one(drawn, truth)]


def rows_of_single(
    kind: str, trials: int, numbers: Iterable[int] = POSITIVES
) -> Iterator[list[object]]:
    """A row for each number of positives and area: both tails by prevalence."""
    for positives in numbers:
        some = trials // POSITIVES[positives]
        for area in AREAS:
            cells = [single(kind, positives, area, each, some) for each in PREVALENCES]
            flat = [cell[at] for at in range(len(COLUMNS)) for cell in cells]
            yield [positives, area, some, *flat]


def print_near_one(trials: int) -> None:
    """Print the tables of what the bound changes."""
    from coverage import print_table  # the script beside this one, if this one is run

    shown = ["missed", "median width", "largest width"]
    print(f"Near 1, without the bound → with it, {trials} trials\n")
    print_table(
        [
            "scores",
            "positives",
            "AUC",
            *(f"{each}, 10 %" for each in shown),
            *(f"{each}, 50 %" for each in shown),
        ],
        (
            [
                kind,
                positives,
                area,
                *(
                    found
                    for prevalence in (0.1, 0.5)
                    for found in near_one(
                        (
                            both[0]
                            for both in draw_single(kind, positives, area, prevalence, trials)
                        ),
                        area,
                    )
                ),
            ]
            for kind in ("equal", "wide", "outliers", "few")
            for positives in (20, 50, 100, 200)
            for area in NEAR_ONE
        ),
    )
    print(f"Beside other intervals: missed (median width), 50 % positive, {trials // 2} trials\n")
    print_table(
        ["scores", "positives", "AUC", "ours", *OTHERS],
        (
            [kind, 100, area, *beside_others(kind, 100, area, trials // 2)]
            for kind in ("equal", "outliers", "few")
            for area in (0.9, 0.99, 0.996, 0.999)
        ),
    )
    print(f"Groups near 1, correlation 0.3, {trials} trials\n")
    print_table(
        ["groups", "sizes", "labels", "AUC", *shown],
        (
            [
                count,
                sizes,
                "of groups" if pure else "of images",
                area,
                *near_one(
                    (every[0] for every in draw_grouped(count, sizes, pure, 0.3, area, trials)),
                    area,
                ),
            ]
            for count in (20, 50, 200)
            for sizes, pure in (
                ("equal", False),
                ("unequal", False),
                ("equal", True),
                ("unequal", True),
            )
            for area in (0.99, 0.999)
        ),
    )
    print(f"Means over classes near 1, {trials} trials\n")
    print_table(
        ["classes", "each as frequent as the one before", "images", "macro AUC", *shown],
        (
            [classes, f"{ratio:g} times", n, *means_near_one(n, classes, ratio, margin, trials)]
            for classes, ratio, n in ((3, 1.0, 60), (10, 1.0, 100), (10, 1.0, 300), (7, 0.5, 1000))
            for margin in (3.0, 4.0, 5.0)
        ),
    )


def main() -> None:
    """Print the tables."""
    from coverage import print_table  # the script beside this one, if this one is run

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    header = ["positives", "AUC", "trials"]
    header += [f"{name}, {100 * each:g} %" for name in COLUMNS for each in PREVALENCES]
    print("Scores: equal\n")
    print_table(header, rows_of_single("equal", trials))
    for kind in ("wide", "outliers"):
        print(f"Scores: {kind}\n")
        print_table(header, rows_of_single(kind, trials // 4, (30, 50, 200)))
    print(f"Groups, {trials // 4} trials\n")
    print_table(
        ["groups", "sizes", "labels", "correlation", "AUC", "of AUC", "of PR-AUC", "as images"],
        (
            [count, sizes, "of groups" if pure else "of images", rho, area, *found]
            for count in (20, 50, 200)
            for sizes, pure in (("equal", False), ("unequal", False), ("equal", True))
            for rho in (0.0, 0.3)
            for area in (0.8, 0.95)
            for found in [grouped(count, sizes, pure, rho, area, trials // 4)]
        ),
    )
    print(f"Means over classes, {trials // 4} trials\n")
    print_table(
        ["classes", "each as frequent as the one before", "images", "macro AUC", "macro PR-AUC"],
        (
            [classes, f"{ratio:g} times", n, *means(n, classes, ratio, trials // 4)]
            for classes, ratio in ((10, 1.0), (40, 1.0), (7, 0.5))
            for n in (200, 1000)
        ),
    )
    print(f"Paired differences, 10 % positive, {trials // 2} trials\n")
    print_table(
        ["positives", "first AUC", "second AUC", "of AUC", "of PR-AUC"],
        (
            [positives, *areas, *difference(positives, areas, trials // 2)]
            for positives in (20, 50, 200)
            for areas in ((0.8, 0.8), (0.9, 0.95), (0.97, 0.97), (0.97, 0.99))
        ),
    )
    print_near_one(trials // 4)


if __name__ == "__main__":
    main()

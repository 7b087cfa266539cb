"""How often do the 95 % intervals for recipes, over seeds and images, hold the truth?

    python benchmarks/recipes.py               # about half an hour on one core; prints markdown
    python benchmarks/recipes.py RUN ...       # how far seeds vary in runs with several

Simulated: the logit of image i in training s is l = m + d_i + a_s + e_is, with standard normal d,
e of 0.5, and a as large as the ratio says: that of the standard deviation over seeds to the
standard error over 2,000 images, of accuracy. It is right where l > 0; the probability of the label
is 1 / (1 + exp(-1.5 l)). The second recipe has the same d and its own a and e, and is a little
worse. The truth is the mean over all seeds and images, an integral over l.
"""

import sys
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.special
from coverage import print_table  # the script beside this one

from fairweather import metrics
from fairweather.metrics import Estimate, paired_difference, recipe_estimate, to_score
from fairweather.metrics.seeds import crossed_difference, crossed_mean
from fairweather.report.contents import read_contents
from fairweather.report.performance import read_correct, read_image_keys
from fairweather.runs.folder import open_finished_run
from fairweather.types.record import CLEAN

TRIALS, RESAMPLES = 1000, 500
SEEDS, SIZES, RATIOS = (3, 5, 10), (500, 2000, 10_000), (0, 1, 3, 10)
MARGINS, OF_BOTH, SHARPNESS = (1.5, 1.4), 0.5, 1.5
ROW = metrics.METRICS
MEANS = ("accuracy", "negative_log_likelihood", "brier_score")
NULL_TRIALS = 4000
CURVED_TRIALS, CURVED_RESAMPLES = 300, 300
CURVED = {
    "ECE": (metrics.expected_calibration_error, "expected_calibration_error"),
    "RMS": (metrics.rms_calibration_error, "rms_calibration_error"),
    "debiased": (metrics.debiased_calibration_error, "debiased_calibration_error/10-equal-width"),
    "AUROC": (metrics.confidence_auroc, "confidence_auroc"),
    "AURC": (metrics.area_under_risk_coverage, "area_under_risk_coverage"),
}
CURVED_SEEDS, CURVED_SIZES, CURVED_RATIOS = (3,), (500, 2000), (0, 3)


# Mean accuracy and the standard deviations over seeds of two recipes that do not differ.
UNEQUAL = (
    (0.95, (0, 0.035)),
    (0.95, (0.01, 0.035)),
    (0.95, (0.035, 0.035)),
    (0.9, (0, 0.07)),
    (0.98, (0, 0.02)),
    (0.7, (0, 0.035)),
)


def columns_of(logits):
    """Right, NLL and Brier score of each, `[..., 3]`."""
    wrong = scipy.special.expit(-SHARPNESS * logits)
    nll = np.logaddexp(0, -SHARPNESS * logits)
    return np.stack([logits > 0, nll, 2 * wrong**2], axis=-1)


def confidence_and_right(logits):
    return scipy.special.expit(SHARPNESS * np.abs(logits)), logits > 0


def normal_points(count):
    return scipy.special.ndtri((np.arange(count) + 0.5) / count)


def spread_of_seeds(ratio, margin):
    """The deviation of a with which seeds spread accuracy `ratio` times its standard error."""
    if ratio == 0:
        return 0.0
    alone = np.hypot(1, OF_BOTH)
    right = scipy.special.ndtr(margin / alone)
    wanted = ratio * np.sqrt(right * (1 - right) / 2000)
    density = np.exp(-((margin / alone) ** 2) / 2) / np.sqrt(2 * np.pi) / alone
    return wanted / density  # to first order, which the printed ratio is then measured from


def truth_of_means(margin, of_seeds):
    logits = margin + np.sqrt(1 + OF_BOTH**2 + of_seeds**2) * normal_points(400_000)
    return columns_of(logits).mean(axis=0)


def truths_of_curves(margin, of_seeds):
    """The mean over seeds of each metric on all images."""
    found = []
    for seed in of_seeds * normal_points(41 if of_seeds else 1):
        logits = margin + seed + np.hypot(1, OF_BOTH) * normal_points(40_000)
        cell = confidence_and_right(logits)
        found.append([metric(*cell) for metric, _ in CURVED.values()])
    return np.mean(found, axis=0)


def draw(generator, n, seeds, of_seeds):
    """Logits of two recipes on the same images, `[2, n, S]`."""
    images = generator.normal(size=(n, 1))
    both = OF_BOTH * generator.normal(size=(2, n, seeds))
    own = of_seeds * generator.normal(size=(2, 1, seeds))
    return np.array(MARGINS)[:, None, None] + images + own + both


def recipe(values, replicates, n, name):
    kind = ROW[name].interval
    return recipe_estimate(
        [Estimate(v, r, n, kind) for v, r in zip(values, replicates, strict=True)]
    )


def coverage_of_means(n, seeds, ratio):
    """Share held of each of `MEANS`, and of the differences."""
    of_seeds = spread_of_seeds(ratio, MARGINS[0])
    truth = [truth_of_means(margin, of_seeds) for margin in MARGINS]
    held = np.zeros((TRIALS, 6), dtype=bool)
    for trial in range(TRIALS):
        if trial % 50 == 0:
            weights = metrics.bootstrap_weights(n, RESAMPLES, seed=trial).astype(np.float32)
        generator = np.random.default_rng([n, seeds, trial])
        columns = columns_of(draw(generator, n, seeds, of_seeds))  # [2, n, S, 3]
        flat = columns.transpose(1, 0, 2, 3).reshape(n, -1)
        values = flat.mean(axis=0).reshape(2, seeds, 3)
        centred = (flat - flat.mean(axis=0)).astype(np.float32)
        moved = (weights @ centred / n).astype(np.float64).reshape(RESAMPLES, 2, seeds, 3)
        replicates = values[None] + moved
        for at, name in enumerate(MEANS):
            both = [
                recipe(values[side, :, at], replicates[:, side, :, at].T, n, name)
                for side in (0, 1)
            ]
            score = to_score(both[0], ROW[name].bounds)
            gap = paired_difference(*both)
            held[trial, at] = score.low <= truth[0][at] <= score.high
            held[trial, 3 + at] = gap.low <= truth[1][at] - truth[0][at] <= gap.high
    return held.mean(axis=0)


def coverage_of_curves(n, seeds, ratio):
    """Share held of each of `CURVED`."""
    of_seeds = spread_of_seeds(ratio, MARGINS[0])
    truth = truths_of_curves(MARGINS[0], of_seeds)
    held = np.zeros((CURVED_TRIALS, len(CURVED)), dtype=bool)
    for trial in range(CURVED_TRIALS):
        weights = metrics.bootstrap_weights(n, CURVED_RESAMPLES, seed=trial)
        logits = draw(np.random.default_rng([n, seeds, trial, 1]), n, seeds, of_seeds)[0]
        cells = [confidence_and_right(column) for column in logits.T]
        for at, (metric, name) in enumerate(CURVED.values()):
            values = [metric(*cell) for cell in cells]
            replicates = [metric(*cell, weights) for cell in cells]
            score = to_score(recipe(values, replicates, n, name), ROW[name].bounds)
            held[trial, at] = score.low <= truth[at] <= score.high
    return held.mean(axis=0)


def skewed(mean, spread):
    """Draw accuracies of seeds whose probits are normal, with this mean and standard deviation."""
    if not spread:
        return lambda generator, seeds: np.full(seeds, mean)
    points = normal_points(20_000)

    def off(numbers):
        shares = scipy.special.ndtr(numbers[0] + np.exp(numbers[1]) * points)
        return 10 * (shares.mean() - mean), 100 * (shares.std() - spread)

    centre, log_width = scipy.optimize.fsolve(off, [1.3 * scipy.special.ndtri(mean), -0.5])
    width = np.exp(log_width)
    return lambda generator, seeds: scipy.special.ndtr(
        centre + width * generator.normal(size=seeds)
    )


def size_of_test(mean, spreads, n, seeds):
    """How often the test finds that two recipes of equal mean accuracy differ."""
    draws = [skewed(mean, spread) for spread in spreads]
    rejected = []
    for trial in range(NULL_TRIALS):
        generator = np.random.default_rng([n, seeds, trial])
        shares = [draw(generator, seeds) for draw in draws]
        right = [generator.random((n, seeds), dtype=np.float32) < each for each in shares]
        sides = (each.astype(np.float64) for each in right)
        rejected.append(crossed_difference(*sides, bounds=(0.0, 1.0)).p < 0.05)
    return np.mean(rejected)


def percents(shares):
    return [f"{100 * share:.1f}" for share in shares]


def rows_of_runs(paths):
    """How far the accuracy of seeds spreads, in standard errors over 2,000 images."""
    for path in paths:
        contents = read_contents(open_finished_run(Path(path)))
        images = read_image_keys(contents)
        shifted = {
            sweep.heading(level): cell
            for sweep in contents.sweeps
            for level, cell in sweep.cells.items()
        }
        for model in contents.of_recipes:
            for title, cell in {"clean": CLEAN, **shifted}.items():
                found = crossed_mean(read_correct(contents, model, {cell: 1.0}, images))
                (part,) = found.recipes
                seed = max(part.between - part.shared, 0) * part.seeds
                image = found.images * found.n / 2000
                ratio = np.sqrt(seed / image)
                yield [
                    contents.name,
                    contents.titles[model],
                    title,
                    part.seeds,
                    f"{found.n:,}",
                    f"{100 * found.value:.1f}",
                    f"{100 * np.sqrt(seed):.2f}",
                    f"{ratio:.1f}",
                ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_table(
            [
                "run",
                "model",
                "images",
                "seeds",
                "n",
                "accuracy, %",
                "sd over seeds, points",
                "ratio",
            ],
            rows_of_runs(sys.argv[1:]),
        )
        sys.exit()
    print_table(
        ["accuracy, %", "sd of A, points", "sd of B", "n", "3 seeds", "5 seeds"],
        (
            [
                *(f"{100 * number:g}" for number in (mean, *spreads)),
                n,
                *percents(size_of_test(mean, spreads, n, seeds) for seeds in (3, 5)),
            ]
            for mean, spreads in UNEQUAL
            for n in (500, 2000)
        ),
    )
    print_table(
        [
            "ratio",
            "seeds",
            "n",
            "accuracy",
            "NLL",
            "Brier",
            *(f"{m}, difference" for m in ("accuracy", "NLL", "Brier")),
        ],
        (
            [ratio, seeds, n, *percents(coverage_of_means(n, seeds, ratio))]
            for ratio in RATIOS
            for seeds in SEEDS
            for n in SIZES
        ),
    )
    print_table(
        ["ratio", "seeds", "n", *CURVED],
        (
            [ratio, seeds, n, *percents(coverage_of_curves(n, seeds, ratio))]
            for ratio in CURVED_RATIOS
            for seeds in CURVED_SEEDS
            for n in CURVED_SIZES
        ),
    )

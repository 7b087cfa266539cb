"""How often do the 95 % intervals hold the truth?

    python benchmarks/coverage.py    # about 20 minutes on one core; prints markdown tables

Means and differences: two models on the same images, drawn with replacement from a simulated
population of logits, so that the truth is the population's own mean. Both models see the same
noise of an image, its difficulty, beside some of their own.

Uniform gap: confidences 0.1 + 0.9 Beta(5, 1.5), right with a probability that lies below the
confidence by the gap, the same everywhere: the true binned error is exactly the gap, whatever the
bins.

Models: the same confidences, right with a probability that is known for each model (`MODELS`); the
true binned error is found from two million images. "cells" is how many cells, jointly resampled
and correlated through their shared images, are averaged.
"""

import functools

import numpy as np
import scipy.special

from fairweather import metrics

RESAMPLES = 1000
SIZES = (500, 2000, 10_000)
INTERVAL = {metric.name: (metric.interval, metric.bounds) for metric in metrics.METRICS.values()}

# Means and differences: trials, how many share their weights, images that are drawn from, and how
# far the label's logit of the two models stands above the others' before noise.
TRIALS, TOGETHER, POPULATION, CLASSES = 2_000, 50, 200_000, 10
MARGINS = ((2.2, 2.0), (3.1, 2.9), (4.3, 4.1), (3.6, 1.6))
SHARED = 0.8  # of the noise's variance
SHARPNESS = 1.5  # logits are multiplied by it: overconfident
COLUMNS = ("accuracy", "negative_log_likelihood", "brier_score")

# Binned errors.
BINNED_TRIALS, BINNED_RESAMPLES = 600, 500
MODEL_TRIALS, MODEL_RESAMPLES = 300, 400
ERRORS = {
    "ECE": (metrics.expected_calibration_error, "expected_calibration_error"),
    "RMS": (metrics.rms_calibration_error, "rms_calibration_error"),
    "MCE": (metrics.maximum_calibration_error, "maximum_calibration_error"),
}
UNIFORM = {
    "ECE": ERRORS["ECE"],
    "RMS": ERRORS["RMS"],
    "debiased": (metrics.debiased_calibration_error, "debiased_calibration_error/10-equal-width"),
}
GAPS = (0.0, 0.02, 0.05, 0.05)  # of four cells with the same images
PAIRS = ((0, 2), (1, 2), (3, 2))  # of places in it
MODELS = {
    "calibrated": lambda confidence: confidence,
    "overconfident": lambda confidence: confidence - 0.3 * confidence * (1 - confidence),
    "30 points over": lambda confidence: np.maximum(confidence - 0.3, 0),
}
INTERVALS = ("percentile", "bias-corrected")
MODEL_SIZES = {"equal-width": (300, 1000, 7000), "equal-mass": (300, 1000)}


def holds(value, replicates, n, kind, bounds, truth):
    score = metrics.to_score(metrics.Estimate(value, replicates, n, kind), bounds)
    return score.low <= truth <= score.high


def percent(hits):
    return f"{100 * np.mean(hits):.1f}"


def print_table(header, rows):
    print("|", " | ".join(header), "|")
    print("|" + "---|" * len(header))
    for row in rows:
        print("|", " | ".join(map(str, row)), "|", flush=True)
    print()


def population(margins):
    """Columns of two models on the same images: float64 `[images, model and column]`."""
    generator = np.random.default_rng(9)
    labels = generator.integers(CLASSES, size=POPULATION)
    difficulty = generator.normal(size=(POPULATION, CLASSES))
    columns = []
    for margin in margins:
        own = generator.normal(size=(POPULATION, CLASSES))
        noise = np.sqrt(SHARED) * difficulty + np.sqrt(1 - SHARED) * own
        logits = SHARPNESS * (margin * np.eye(CLASSES)[labels] + noise)
        found = metrics.per_image(logits, labels)
        columns += [found.predicted == labels, found.nll, found.brier]
    return np.stack(columns, axis=1).astype(np.float64)


def coverage_of_means(images, n):
    """Hits `[trials]` by name, for the first model and for the second less the first."""
    half = len(COLUMNS)
    truth = images.mean(axis=0)
    hits = [[] for _ in range(2 * half)]
    for batch in range(TRIALS // TOGETHER):
        drawn = np.random.default_rng([n, batch]).integers(len(images), size=(n, TOGETHER))
        sample = images[drawn]  # [n, trials, models and columns]
        weights = metrics.bootstrap_weights(n, RESAMPLES, seed=batch).astype(np.float64)
        replicates = np.tensordot(weights, sample, axes=1) / n
        values = sample.mean(axis=0)
        for trial in range(TOGETHER):
            for column, name in enumerate(COLUMNS):
                kind, bounds = INTERVAL[name]
                first, second = (
                    metrics.Estimate(values[trial, at], replicates[:, trial, at], n, kind)
                    for at in (column, half + column)
                )
                alone = metrics.to_score(first, bounds)
                gap = metrics.paired_difference(first, second)
                hits[column].append(alone.low <= truth[column] <= alone.high)
                difference = truth[half + column] - truth[column]
                hits[half + column].append(gap.low <= difference <= gap.high)
    return hits


def rows_of_means():
    for margins in MARGINS:
        images = population(margins)
        first, second = (f"{100 * images[:, at].mean():.1f} %" for at in (0, len(COLUMNS)))
        for n in SIZES:
            yield [first, second, n, *map(percent, coverage_of_means(images, n))]


def draw_confidence(generator, n):
    return 0.1 + 0.9 * generator.beta(5, 1.5, size=n)


def simulate_cell(generator, difficulty, probability_of):
    """One cell's columns; half of what decides an outcome is the image's own difficulty."""
    n = len(difficulty)
    confidence = draw_confidence(generator, n)
    luck = scipy.special.ndtr((difficulty + generator.normal(size=n)) / np.sqrt(2))
    return confidence, luck < probability_of(confidence)


def estimate_gaps(n, trial, weights):
    """Estimates of every uniform error in each cell of `GAPS`."""
    generator = np.random.default_rng([n, trial])
    difficulty = generator.normal(size=n)
    estimates = []
    for gap in GAPS:
        cell = simulate_cell(generator, difficulty, lambda confidence, gap=gap: confidence - gap)
        estimates.append(
            {
                name: metrics.Estimate(error(*cell), error(*cell, weights), n, INTERVAL[row][0])
                for name, (error, row) in UNIFORM.items()
            }
        )
    return estimates


def coverage_of_gaps(n):
    """Hits and values `[trials]` by place in `GAPS`, or pair of them, and error."""
    hits, values = {}, {}
    for trial in range(BINNED_TRIALS):
        if trial % TOGETHER == 0:
            weights = metrics.bootstrap_weights(n, BINNED_RESAMPLES, seed=trial).astype(np.float64)
        estimates = estimate_gaps(n, trial, weights)
        for name, (_, row) in UNIFORM.items():
            for cell, gap in enumerate(GAPS):
                score = metrics.to_score(estimates[cell][name], INTERVAL[row][1])
                hits.setdefault((cell, name), []).append(score.low <= gap <= score.high)
                values.setdefault((cell, name), []).append(score.value)
            for pair in PAIRS:
                score = metrics.paired_difference(*(estimates[cell][name] for cell in pair))
                inside = score.low <= GAPS[pair[1]] - GAPS[pair[0]] <= score.high
                hits.setdefault((pair, name), []).append(inside)
    return hits, values


def tables_of_gaps():
    """Rows of single cells, and of differences between two."""
    single, paired = [], []
    for n in SIZES:
        hits, values = coverage_of_gaps(n)
        for cell, gap in enumerate(GAPS[:3]):
            found = [percent(hits[cell, name]) for name in UNIFORM]
            means = [f"{np.mean(values[cell, name]):.3f}" for name in UNIFORM]
            single.append([f"{gap:g}", n, *found, *means])
        for pair in PAIRS:
            found = [percent(hits[pair, name]) for name in UNIFORM]
            paired.append([*(f"{GAPS[cell]:g}" for cell in pair), n, *found])
    return sorted(single), sorted(paired)


@functools.cache
def true_errors(model, binning):
    confidence = draw_confidence(np.random.default_rng(9), 2_000_000)
    # Each image counts as right and as wrong, with its probabilities as weights: the bins have no
    # noise of outcomes.
    right = MODELS[model](confidence)
    weights = np.stack([right, 1 - right], axis=1).ravel()
    columns = np.repeat(confidence, 2), np.tile([True, False], len(confidence))
    return {
        name: float(error(*columns, weights, binning=binning))
        for name, (error, _) in ERRORS.items()
    }


def coverage_of_model(model, binning, cells, n):
    """Share of trials whose interval holds the truth, by error and kind of interval."""
    truth = true_errors(model, binning)
    hits = dict.fromkeys([(name, kind) for name in ERRORS for kind in INTERVALS], 0)
    for trial in range(MODEL_TRIALS):
        generator = np.random.default_rng([n, cells, trial])
        weights = metrics.bootstrap_weights(n, MODEL_RESAMPLES, seed=trial).astype(np.float64)
        difficulty = generator.normal(size=n)
        columns = [simulate_cell(generator, difficulty, MODELS[model]) for _ in range(cells)]
        for name, (error, _) in ERRORS.items():
            values = [error(*cell, binning=binning) for cell in columns]
            replicates = [error(*cell, weights, binning=binning) for cell in columns]
            value, of_value = np.mean(values), np.mean(replicates, axis=0)
            for kind in INTERVALS:
                hits[name, kind] += holds(value, of_value, n, kind, (0.0, 1.0), truth[name])
    return {key: count / MODEL_TRIALS for key, count in hits.items()}


def rows_of_models():
    for binning, sizes in MODEL_SIZES.items():
        for model in MODELS:
            for cells in (1, 4):
                for n in sizes:
                    found = coverage_of_model(model, binning, cells, n)
                    shown = [
                        " → ".join(f"{100 * found[name, kind]:.0f}" for kind in INTERVALS)
                        for name in ERRORS
                    ]
                    yield [binning, model, cells, n, *shown]


def main():
    print(f"Means and paired differences, coverage in %; {TRIALS} trials, {RESAMPLES} resamples\n")
    names = ["accuracy", "NLL", "Brier"]
    header = ["first", "second", "n", *names, *(f"{name}, difference" for name in names)]
    print_table(header, rows_of_means())
    single, paired = tables_of_gaps()
    print(
        f"Uniform gap, 10 equal-width bins; {BINNED_TRIALS} trials, {BINNED_RESAMPLES} resamples\n"
    )
    print_table(["gap", "n", *UNIFORM, *(f"mean {name}" for name in UNIFORM)], single)
    print("Differences between two such cells on the same images\n")
    print_table(["first gap", "second gap", "n", *UNIFORM], paired)
    print(f"Models, percentile → bias-corrected; {MODEL_TRIALS} trials, {MODEL_RESAMPLES}\n")
    print_table(["binning", "model", "cells", "n", *ERRORS], rows_of_models())


if __name__ == "__main__":
    main()

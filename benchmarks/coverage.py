"""How often do the 95 % intervals of the calibration errors hold the truth?

    python benchmarks/coverage.py        # about 12 minutes on one core; prints a markdown table

Images are simulated: a confidence from 0.1 + 0.9 Beta(5, 1.5), right with a probability that is
known for each model (`MODELS`), so that the true binned error is known too (from two million
images). "cells" is how many cells, jointly resampled and correlated through their shared images,
are averaged.
"""

import numpy as np
import scipy.special

from fairweather import metrics

TRIALS = 300
RESAMPLES = 400
ERRORS = {
    "ECE": metrics.expected_calibration_error,
    "RMS": metrics.rms_calibration_error,
    "MCE": metrics.maximum_calibration_error,
}
MODELS = {
    "calibrated": lambda confidence: confidence,
    "overconfident": lambda confidence: confidence - 0.3 * confidence * (1 - confidence),
    "30 points over": lambda confidence: np.maximum(confidence - 0.3, 0),
}
INTERVALS = ("percentile", "bias-corrected")
SIZES = {"equal-width": (300, 1000, 7000), "equal-mass": (300, 1000)}


def draw_confidence(generator, n):
    return 0.1 + 0.9 * generator.beta(5, 1.5, size=n)


def true_errors(model, binning):
    confidence = draw_confidence(np.random.default_rng(9), 2_000_000)
    # With the probability of being right in place of the outcome, the bins have no noise.
    return {
        name: error(confidence, MODELS[model](confidence), binning=binning)
        for name, error in ERRORS.items()
    }


def simulate_cell(generator, model, difficulty):
    """One cell's columns; half of what decides an outcome is the image's own difficulty."""
    n = len(difficulty)
    confidence = draw_confidence(generator, n)
    luck = scipy.special.ndtr((difficulty + generator.normal(size=n)) / np.sqrt(2))
    return confidence, luck < MODELS[model](confidence)


def coverage(model, binning, cells, n):
    """Share of trials whose interval holds the truth, by error and kind of interval."""
    truth = true_errors(model, binning)
    hits = dict.fromkeys([(name, kind) for name in ERRORS for kind in INTERVALS], 0)
    for trial in range(TRIALS):
        generator = np.random.default_rng([n, cells, trial])
        weights = metrics.bootstrap_weights(n, RESAMPLES, seed=trial).astype(np.float64)
        difficulty = generator.normal(size=n)
        columns = [simulate_cell(generator, model, difficulty) for _ in range(cells)]
        for name, error in ERRORS.items():
            values = [error(*cell, binning=binning) for cell in columns]
            replicates = [error(*cell, weights, binning=binning) for cell in columns]
            for kind in INTERVALS:
                estimates = [
                    metrics.Estimate(value, of_value, n, kind)
                    for value, of_value in zip(values, replicates, strict=True)
                ]
                score = metrics.to_score(metrics.mean_estimate(estimates), (0.0, 1.0))
                hits[name, kind] += score.low <= truth[name] <= score.high
    return {key: count / TRIALS for key, count in hits.items()}


def main():
    print(f"Coverage in %, nominal 95: percentile -> bias-corrected; {TRIALS} trials\n")
    print("| binning | model | cells | n |", " | ".join(ERRORS), "|")
    print("|---|---|---|---|" + "---|" * len(ERRORS))
    for binning, sizes in SIZES.items():
        for model in MODELS:
            for cells in (1, 4):
                for n in sizes:
                    found = coverage(model, binning, cells, n)
                    shown = [
                        " -> ".join(f"{100 * found[name, kind]:.0f}" for kind in INTERVALS)
                        for name in ERRORS
                    ]
                    row = [binning, model, cells, n, *shown]
                    print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()

"""How often do prediction sets of grades hold the grade, and how many sets have gaps?

    python benchmarks/grades.py    # about two minutes on one core; writes grades.csv

Simulated grades of five levels: a latent severity, and a model that sees it with noise and is too
sure. Either the grades are equally frequent or, as in screening, most are of the lowest. Validation
images fit temperature and threshold (`Conformal.fit`), and 200 new images are judged: the mean over
2,000 draws of the share of images whose grade is in their set, with its standard error. Also the
mean number of grades in a set, and the share of sets that leave out a grade between two others.
"""

import csv
from pathlib import Path

import numpy as np

from fairweather.inference.prediction import make_predictions
from fairweather.metrics import prediction_sets, softmax
from fairweather.variants.prediction_sets import Conformal

STORED = Path(__file__).with_suffix(".csv")
DRAWS, NEW, COVERAGE = 2000, 200, 0.9
IMAGES = (40, 200, 1000)
SHARES = {"even": np.full(5, 0.2), "screening": np.array([0.70, 0.10, 0.12, 0.05, 0.03])}
# The noise of the severity that a model sees, and that of each logit.
MODELS = {"good": (0.4, 0.5), "poor": (1.0, 0.5), "uneven": (1.0, 2.0)}
METHODS = ("ordinal", "aps")
COLUMNS = ("method", "grades", "model", "images", "draws", "coverage", "error", "size", "gaps")
NAMES = tuple(map(str, range(5)))


def drawn(n, shares, model, rng, classes=5):
    """Logits and labels of n images: the model sees the grade, more or less well."""
    noise, uneven = MODELS[model]
    labels = rng.choice(classes, size=n, p=shares)
    seen = labels + rng.normal(0, noise, n)
    logits = -np.square(np.arange(classes) - seen[:, None]) / noise**2
    return (logits + rng.normal(0, uneven, logits.shape)).astype(np.float32), labels


def columns(logits, labels):
    keys = np.arange(len(labels))
    return make_predictions(logits, labels.astype(np.int64), keys, NAMES)


def has_gap(sets):
    """Tell which sets leave out a grade between two others, bool `[n]`."""
    low, high = sets.argmax(axis=1), sets.shape[1] - 1 - sets[:, ::-1].argmax(axis=1)
    return sets.sum(axis=1) < high - low + 1


def judged(variant, n, shares, model, rng):
    """Coverage, size and share of sets with gaps, of one draw."""
    fitted = variant.fit(columns(*drawn(n, shares, model, rng)))
    logits, labels = drawn(NEW, shares, model, rng)
    probabilities = softmax(fitted.change(logits))
    sets = prediction_sets(probabilities, fitted.thresholds, variant.method)
    return sets[np.arange(NEW), labels].mean(), sets.sum(axis=1).mean(), has_gap(sets).mean()


def simulate(draws=DRAWS):
    """Rows of the stored table."""
    for grades, shares in SHARES.items():
        for model in MODELS:
            for n in IMAGES:
                for method in METHODS:
                    variant = Conformal(method, COVERAGE)
                    found = np.array(
                        [
                            judged(variant, n, shares, model, np.random.default_rng(seed))
                            for seed in range(draws)
                        ]
                    )
                    mean, error = found.mean(axis=0), found[:, 0].std() / np.sqrt(draws)
                    numbers = (mean[0], error, mean[1], mean[2])
                    yield method, grades, model, n, draws, *(f"{x:.4f}" for x in numbers)


def main():
    """Simulate, store and print the table."""
    with STORED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in simulate():
            writer.writerow(row)
            file.flush()
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()

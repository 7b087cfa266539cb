"""How often do prediction sets hold the class, on images like those of validation?

    python benchmarks/conformal.py    # some minutes on one core; prints markdown

Simulated logits of ten classes: normal numbers, and labels that are drawn from their softmax. The
model is the logits times three, so that a temperature is needed. Validation images fit temperature
and thresholds (`Conformal.fit`), and 1,000 new images are judged: the mean over draws of the share
of images whose class is in their set, with its standard error, and the mean number of classes in a
set. And how often the interval of `conformal_coverage`, which covers other calibration images,
holds the mean coverage.

Patients: half of them have one image, half have 40. Either the large or the small ones are hard: a
share between 20 and 60 % of the images, the same for all images of a patient, has a random label.
The new images are one of each of 500 new patients.
Once all images of a patient are in one half and one of each counts, as `Conformal.fit` does; and
once all images are taken as independent.
"""

import numpy as np
from coverage import print_table  # the script beside this one

from fairweather.inference.prediction import make_predictions
from fairweather.metrics import (
    FittedThresholds,
    Grouping,
    Resamples,
    evaluate_resamples,
    softmax,
    to_score,
)
from fairweather.metrics.conformal import METHODS, ORDINAL
from fairweather.variants.prediction_sets import Conformal

COVERAGE, DRAWS, NEW = 0.9, 400, 1000
IMAGES = (60, 200, 1000)
PATIENTS = (40, 100, 400)
FEWEST = 100
LARGE = 40


def drawn(n, rng, classes=10):
    logits = 2 * rng.normal(size=(n, classes))
    chances = softmax(logits).cumsum(axis=1)
    labels = (chances > rng.random((n, 1))).argmax(axis=1)
    return (3 * logits).astype(np.float32), labels


def of_patients(count, hard, rng, classes=10):
    large = rng.random(count) < 0.5
    are_hard = large if hard == "large" else ~large
    grouping = np.repeat(np.arange(count), np.where(large, LARGE, 1))
    logits, labels = drawn(len(grouping), rng, classes)
    wrong = rng.random(len(grouping)) < (are_hard * rng.uniform(0.2, 0.6, count))[grouping]
    labels = np.where(wrong, rng.integers(0, classes, len(grouping)), labels)
    return logits, labels, Grouping(grouping)


def columns(logits, labels):
    names = tuple(f"class {k}" for k in range(logits.shape[1]))
    return make_predictions(logits, labels.astype(np.int64), np.arange(len(labels)), names)


def judged(variant, validation, new, grouping=None):
    """The new images with their sets, and what these were made with."""
    fitted = variant.fit(columns(*validation), grouping)
    return fitted.apply(columns(*new)), fitted


def interval(found, fitted, seed):
    shared = Resamples.draw(found.labels, 200, seed)
    thresholds = FittedThresholds(0.5, 0.5, fitted.draws)
    scores = evaluate_resamples(found, shared, thresholds, {"conformal_coverage"})
    return to_score(scores["conformal_coverage"], (0.0, 1.0))


def row(variant, n):
    shares, sizes, ends = [], [], []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        found, fitted = judged(variant, drawn(n, rng), drawn(NEW, rng))
        shares.append(found.covered.mean())
        sizes.append(found.set_size.mean())
        score = interval(found, fitted, seed)
        ends.append((score.low, score.high))
    mean = np.mean(shares)
    held = np.mean([low <= mean <= high for low, high in ends])
    name = f"{variant.method}{', each class' if variant.classwise else ''}"
    return [name, f"{n:,}", with_error(shares), f"{np.mean(sizes):.2f}", f"{100 * held:.1f}"]


def row_of_patients(count, hard):
    shares = {"one image of each": [], "all images": [], "of images": [], "weigh: images": []}
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        logits, labels, grouping = of_patients(count, hard, rng)
        others, truth, of = of_patients(500, hard, rng)
        _, first = np.unique(of.numbers, return_index=True)
        new = others[first], truth[first]
        for name, known in (("one image of each", grouping), ("all images", None)):
            found, _ = judged(Conformal(coverage=COVERAGE), (logits, labels), new, known)
            shares[name].append(found.covered.mean())
        for name, weigh in (("of images", "groups"), ("weigh: images", "images")):
            if count < FEWEST and weigh == "images":
                continue  # the effective number of patients is too small
            variant = Conformal(coverage=COVERAGE, weigh=weigh)
            found, _ = judged(variant, (logits, labels), (others, truth), grouping)
            shares[name].append(found.covered.mean())
    return [f"{count:,}", hard, *map(with_error, shares.values())]


def with_error(shares):
    if not shares:
        return "too few"
    return f"{100 * np.mean(shares):.2f} ± {100 * np.std(shares) / np.sqrt(len(shares)):.2f}"


def main():
    head = [
        "method",
        "validation images",
        "coverage %",
        "classes in a set",
        "intervals that hold %",
    ]
    # `grades.py` is about ordinal sets.
    variants = [Conformal(method, COVERAGE) for method in METHODS if method != ORDINAL]
    rows = [row(variant, n) for variant in variants for n in IMAGES]
    rows.append(row(Conformal("lac", COVERAGE, classwise=True), IMAGES[-1]))
    print_table(head, rows)
    head = ["patients", "hard ones", "one image of each: coverage %", "all images: coverage %"]
    head += ["one image of each: coverage of images %", "weigh: images: coverage of images %"]
    print_table(head, (row_of_patients(n, hard) for hard in ("large", "small") for n in PATIENTS))


if __name__ == "__main__":
    main()

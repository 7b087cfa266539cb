"""How often do the tests for unlike images give a false alarm, and what do they see?

    python benchmarks/two_sample.py    # about 10 minutes on one core; prints two markdown tables

Probabilities are the softmax of a linear layer of normal features, so that their columns depend on
each other as those of a model do. Without a difference, an alarm is a p-value of at most 5 %.
"""

from __future__ import annotations

import argparse

import numpy as np

from fairweather.metrics import differ_p, features_differ_p, outputs_differ_p, softmax

LEVEL = 0.05
CLASSES = (2, 9, 100)
SIZES = ((300, 10), (300, 50), (300, 300))
FEATURES = 32


def draw(n, head, generator, moved=0.0, sharper=1.0):
    """Features of n images, `[n, FEATURES]`, and the probabilities that a model gives them."""
    features = sharper * generator.normal(size=(n, FEATURES))
    features[:, : FEATURES // 8] += moved
    return features, softmax(features @ head)


def p_values(n, m, classes, trial, confidence, **change):
    """The p-values of outputs, of features, and of both together."""
    generator = np.random.default_rng([n, m, classes, trial])
    head = generator.normal(scale=confidence, size=(FEATURES, classes)) / np.sqrt(FEATURES)
    known, others = draw(n, head, generator), draw(m, head, generator, **change)
    outputs = outputs_differ_p(known[1], others[1])
    features = features_differ_p(known[0], others[0], seed=trial)
    return outputs, features, differ_p(outputs, features)


def row(trials, n, m, classes, confidence, **change):
    """How often each test gives an alarm, in percent."""
    found = np.array([p_values(n, m, classes, k, confidence, **change) for k in range(trials)])
    shares = 100 * (found <= LEVEL).mean(axis=0)
    return [f"{share:.1f}" for share in shares]


def print_table(header, rows):
    """Print a markdown table."""
    for each in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(str, each)) + " |", flush=True)


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    tests = ["outputs", "features", "together"]
    print_table(
        ["reference", "batch", "classes", "logits", *tests],
        (
            [n, m, classes, kind, *row(trials, n, m, classes, confidence)]
            for n, m in SIZES
            for classes in CLASSES
            for kind, confidence in (("plain", 3.0), ("saturated", 100.0))
        ),
    )
    print()
    changes = {
        "an eighth of the features 0.5 sd higher": {"moved": 0.5},
        "all features 20 % wider": {"sharper": 1.2},
    }
    print_table(
        ["what differs", "reference", "batch", "classes", *tests],
        (
            [name, n, m, classes, *row(trials // 5, n, m, classes, 3.0, **change)]
            for name, change in changes.items()
            for n, m in SIZES
            for classes in (9, 100)
        ),
    )


if __name__ == "__main__":
    main()

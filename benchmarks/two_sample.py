"""How often do the tests for unlike images give a false alarm, and what do they see?

    python benchmarks/two_sample.py    # about 2 minutes on one core; prints a markdown table

Probabilities are the softmax of a linear layer of normal features, so that their columns depend on
each other as those of a model do. Without a difference, an alarm is a p-value of at most 5 %.
"""

from __future__ import annotations

import argparse

import numpy as np

from fairweather.metrics import differ_p, features_differ_p, outputs_differ_p, softmax

LEVEL = 0.05
SIZES = ((300, 10), (300, 50))
FEATURES = 32
# The classes, and how far the logits spread: 100 saturates the probabilities.
HEADS = {
    "2 classes": (2, 3.0),
    "9 classes": (9, 3.0),
    "9 classes, saturated": (9, 100.0),
    "100 classes": (100, 3.0),
    "100 classes, saturated": (100, 100.0),
}
CHANGES = {
    "nothing": {},
    "an eighth of the features, by 0.5 sd": {"moved": 0.5},
    "all features, 20 % wider": {"wider": 1.2},
}


def draw(generator, n, moved=0.0, wider=1.0):
    """Features of n images, `[n, FEATURES]`."""
    features = wider * generator.normal(size=(n, FEATURES))
    features[:, : FEATURES // 8] += moved
    return features


def p_values(n, m, trial, change):
    """The p-value of the features; and for each head that of outputs, and of both together."""
    generator = np.random.default_rng([n, m, trial])
    known, others = draw(generator, n), draw(generator, m, **change)
    of_features = features_differ_p(known, others, seed=trial)
    found = [of_features]
    for classes, spread in HEADS.values():
        layer = generator.normal(scale=spread / np.sqrt(FEATURES), size=(FEATURES, classes))
        of_outputs = outputs_differ_p(softmax(known @ layer), softmax(others @ layer))
        found += [of_outputs, differ_p(of_outputs, of_features)]
    return found


def main():
    """Print a table with a row for each change and size: alarms in percent."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    header = ["what differs", "reference", "batch", "features", *HEADS]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    for name, change in CHANGES.items():
        for n, m in SIZES:
            rounds = trials if not change else trials // 5
            found = np.array([p_values(n, m, trial, change) for trial in range(rounds)])
            first, *shares = 100 * (found <= LEVEL).mean(axis=0)
            pairs = zip(shares[::2], shares[1::2], strict=True)
            cells = [f"{outputs:.1f} / {both:.1f}" for outputs, both in pairs]
            row = [name, n, m, f"{first:.1f}", *cells]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()

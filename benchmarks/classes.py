"""How often do the 95 % intervals of the metrics of a rare class hold the truth?

    python benchmarks/classes.py    # about 2 minutes on one core; prints a markdown table

The logit of the class is normal, with one mean for its images and another for all others, so that
every true value is known or an integral. A draw has `IMAGES` images; how many of them are of the
class is random, and so is how many are called so. Each entry says how often the truth lies below
the interval, and how often above, in percent; in brackets, how often there is no interval.
"""

from __future__ import annotations

import argparse

import numpy as np
import scipy.integrate
import scipy.stats

from fairweather import metrics
from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.types.measurement import Predictions

IMAGES, RESAMPLES = 1000, 400
OF_CLASS = (10, 30, 100)  # images of the class, on average
SENSITIVITIES = (0.5, 0.9, 0.99)
SPECIFICITY = 0.95
# Of models: prediction sets are of variants. Calibration has a script of its own.
KINDS = {
    name: kind
    for name, kind in CLASS_METRICS.items()
    if not (kind.accepts.sets or kind.interval == "influence")
}
NAMES = tuple(f"{name}/rare" for name in KINDS)


def draw(images: int, sensitivity: float, seed: int) -> Predictions:
    """Draw predictions with so many images of the rare class on average."""
    generator = np.random.default_rng([images, round(100 * sensitivity), seed])
    labels = (generator.random(IMAGES) < images / IMAGES).astype(np.int64)
    centre = np.where(labels == 1, *scipy.stats.norm.ppf([sensitivity, 1 - SPECIFICITY]))
    logit = generator.normal(centre)
    logits = np.stack([np.zeros(IMAGES), logit], axis=1).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    return Predictions(np.arange(IMAGES), labels, *columns, logits, ("other", "rare"))


def truths(images: int, sensitivity: float) -> dict[str, float]:
    """The true value of each metric, in the order of `NAMES`."""
    prevalence = images / IMAGES
    rest = 1 - prevalence
    called = prevalence * sensitivity + rest * (1 - SPECIFICITY)
    above, below = scipy.stats.norm.ppf([sensitivity, 1 - SPECIFICITY])

    def precision(logit: float) -> float:
        right = prevalence * scipy.stats.norm.sf(logit - above)
        return right / (right + rest * scipy.stats.norm.sf(logit - below))

    def density(logit: float) -> float:
        return float(precision(logit) * scipy.stats.norm.pdf(logit - above))

    values = (
        sensitivity,
        SPECIFICITY,
        prevalence * sensitivity / called,
        rest * SPECIFICITY / (1 - called),
        2 * prevalence * sensitivity / (prevalence + called),
        prevalence * (sensitivity - called) / np.sqrt(prevalence * rest * called * (1 - called)),
        scipy.stats.norm.cdf((above - below) / np.sqrt(2)),
        scipy.integrate.quad(density, above - 8, above + 8)[0],
    )
    return dict(zip(NAMES, map(float, values), strict=True))


def tails(images: int, sensitivity: float, trials: int) -> dict[str, np.ndarray]:
    """By metric, the shares of the trials: truth below, truth above, no interval."""
    truth = truths(images, sensitivity)
    found = {name: np.zeros(3) for name in NAMES}
    for trial in range(trials):
        predictions = draw(images, sensitivity, trial)
        shared = Resamples.draw(predictions.labels, RESAMPLES, seed=trial)
        for name, estimate in evaluate_resamples(predictions, shared, None, NAMES).items():
            _, low, high, _ = to_score(estimate, KINDS[name.partition("/")[0]].bounds)
            found[name] += [low > truth[name], high < truth[name], np.isnan(low)]
    return {name: counts / trials for name, counts in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    kinds = [kind.label for kind in KINDS.values()]
    print("| images of the class | sensitivity |", " | ".join(kinds), "|")
    print("|" + "---|" * (2 + len(kinds)))
    for images in OF_CLASS:
        for sensitivity in SENSITIVITIES:
            cells = []
            for below, above, none in tails(images, sensitivity, trials).values():
                missing = f" ({100 * none:.0f})" if none else ""
                cells.append(f"{100 * below:.1f} / {100 * above:.1f}{missing}")
            print(f"| {images} | {sensitivity:g} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

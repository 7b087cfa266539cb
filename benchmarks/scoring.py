"""How long does it take to score a large run, in how much memory, and how exact are its intervals?

    python benchmarks/scoring.py                     # 100 cells of 100,000 images, 10 classes
    python benchmarks/scoring.py --images 20000 --cells 5

Prints two markdown tables. The first is time (wall and CPU, without the making of the cells) and
peak memory of the process, for every metric with 1,000 resamples and the means. The second is
what the shortcuts for many images do to the ends of the 95 % intervals: beside the exact
replicates of the same resamples, the largest difference over cells of an easy, a middling and a
hard test set, as it is and in percent of the interval's width. All other metrics are exact.
"""

import argparse
import os
import platform
import resource
import time

import numpy as np
import torch

from fairweather import metrics
from fairweather.metrics import METRICS, intervals, to_score
from fairweather.runs.scores import add_means, add_worst, estimate_cells, scores_frame
from fairweather.shifts.table import sweep
from fairweather.types.measurement import Cell, Predictions

CLASSES = 10
# How far apart the classes are: an accuracy of about 97, 73 and 33 %.
DISTANCES = (4.0, 2.0, 0.7)
APPROXIMATE = (
    "classwise_calibration_error/10-equal-width",
    "area_under_risk_coverage",
    "confidence_auroc",
)


def simulate(images, distance, seed):
    labels = np.random.default_rng(0).integers(CLASSES, size=images)
    noise = np.random.default_rng([1, seed]).normal(size=(images, CLASSES))
    logits = (1.3 * (noise + distance * np.eye(CLASSES)[labels])).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    names = tuple(map(str, range(CLASSES)))
    return Predictions(np.arange(images), labels, *columns, logits, names)


def measure_speed(images, number, resamples):
    """Rows, wall and CPU seconds, and peak memory in GiB."""
    shifts = sweep("brightness_factor", np.linspace(0.5, 1.5, number + 1)[:-1].tolist())
    cells = [Cell("model", 0, shift) for shift in shifts]
    made = [simulate(images, distance, seed) for seed, distance in enumerate(DISTANCES)]
    fitted = metrics.fit_on(made[0])
    which = {cell: made[i % len(made)] for i, cell in enumerate(cells)}
    wall, cpu = time.perf_counter(), time.process_time()
    found = estimate_cells(cells, which.__getitem__, resamples, fitted=lambda _: fitted)
    frame = scores_frame(add_worst(add_means(found)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return len(frame), wall, cpu, peak


def measure_error(images, resamples):
    """The largest difference of an interval's end, and in shares of the width, by metric."""
    weights = metrics.bootstrap_weights(images, resamples)
    bounds = {metric.name: metric.bounds for metric in METRICS.values()}
    worst = dict.fromkeys(APPROXIMATE, (0.0, 0.0))
    for seed, distance in enumerate(DISTANCES):
        predictions = simulate(images, distance, seed)
        quick = metrics.evaluate_metrics(predictions, weights)
        exact = exact_estimates(predictions, weights)
        for name in APPROXIMATE:
            found, truth = (to_score(each[name], bounds[name]) for each in (quick, exact))
            off = max(abs(found.low - truth.low), abs(found.high - truth.high))
            width = truth.high - truth.low
            worst[name] = max(worst[name], (off, off / width if width else 0.0))
    return worst


def exact_estimates(predictions, weights):
    shortcuts = (
        (intervals, "MOST_LEVELS"),
        (intervals, "MOST_IMAGES_OF_FLOAT64"),
    )
    kept = [getattr(module, name) for module, name in shortcuts]
    try:
        for module, name in shortcuts:
            setattr(module, name, len(predictions))
        return metrics.evaluate_metrics(predictions, weights)
    finally:
        for (module, name), most in zip(shortcuts, kept, strict=True):
            setattr(module, name, most)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--exact-images", type=int, default=20_000)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"numpy {np.__version__}; load before: {os.getloadavg()[0]:.1f}\n"
    )
    rows, wall, cpu, peak = measure_speed(options.images, options.cells, options.resamples)
    print("| cells | images | resamples | rows | wall, s | CPU, s | peak memory, GiB |")
    print("|---|---|---|---|---|---|---|")
    sizes = f"{options.cells} | {options.images:,} | {options.resamples:,} | {rows:,}"
    print(f"| {sizes} | {wall:.1f} | {cpu:.1f} | {peak:.2f} |\n")
    print(f"| metric, n = {options.exact_images:,} | largest difference | of the width |")
    print("|---|---|---|")
    for name, (off, share) in measure_error(options.exact_images, options.resamples).items():
        print(f"| {name} | {off:.1e} | {share:.2%} |")


if __name__ == "__main__":
    main()

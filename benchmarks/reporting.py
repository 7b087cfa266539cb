"""How long does the report of a large study take, and how large is its page?

    python benchmarks/reporting.py                 # 5 models x 80 cells of 10,000 images
    python benchmarks/reporting.py --models 2 --images 1000 --side 64
    python benchmarks/reporting.py --models 200 --images 100 --cells 50

The run is simulated: predictions of images that never were, scored and pictured by the product's
own code. Prints a markdown table: seconds of `fairweather report RUN` from start to end, by the
clock and of all processes (medians of three), and the size of the page.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import altair
import numpy as np
import torch

from fairweather import metrics
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import current_provenance
from fairweather.runs.scores import (
    add_means,
    add_worst,
    estimate_cells,
    scores_frame,
    scores_to_csv,
)
from fairweather.shifts.table import make_shift, suite, sweep
from fairweather.steps.samples import choose_pictures, write_samples
from fairweather.steps.sweeps import describe_shifts
from fairweather.types.measurement import Cell, Dataset, Images, Predictions
from fairweather.types.record import SCORES, DataRecord, ModelRecord, RunRecord, RunSettings

CLASSES = tuple(map(str, range(10)))
RESAMPLES = 200
LEVELS = (0.2, 0.4, 0.6, 1.4)


def make_images(images, side, rng):
    """Coloured clouds with grain, which compress about as badly as photographs."""
    clouds = torch.from_numpy(rng.random((images, 3, 8, 8), dtype=np.float32))
    clouds = torch.nn.functional.interpolate(clouds, size=(side, side), mode="bicubic")
    grain = torch.from_numpy(rng.normal(0, 6, clouds.shape).astype(np.float32))
    pixels = (255 * clouds + grain).clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(rng.integers(len(CLASSES), size=images))
    return Images(pixels, labels, torch.arange(images), CLASSES)


def file_of(run, cell):
    return run.predictions(cell.model, cell.seed, cell.shift.id)


def predict(run, cell, test, skill, rng):
    labels = test.labels.numpy()
    logits = rng.normal(size=(len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), labels] += skill
    logits = (1.8 * logits).astype(np.float32)
    columns = metrics.per_image(logits, labels)._asdict()
    predictions = Predictions(
        keys=test.keys.numpy(), labels=labels, **columns, logits=logits, classes=CLASSES
    )
    run.write_predictions(file_of(run, cell), predictions)


def simulate(folder, models, images, side, cells):
    """Make a run as a study would have left it, without its trainings."""
    rng, run = np.random.default_rng(0), RunFolder(folder)
    test = make_images(images, side, rng)
    corruptions = suite("imagenet_c", image_size=side)
    shifts = [make_shift("clean"), *sweep("brightness_factor", LEVELS), *corruptions][:cells]
    names = [f"model_{index}" for index in range(models)]
    cells = [Cell(name, 0, shift) for name in names for shift in shifts]
    run.describe(
        RunRecord(
            kind="study",
            name="large",
            data=DataRecord(name="clouds", classes=CLASSES, digests={"test": "none"}),
            models={name: ModelRecord(title=name.replace("_", " ")) for name in names},
            sweeps=describe_shifts(shifts),
            settings=RunSettings(bootstrap=RESAMPLES),
            provenance=current_provenance(torch.device("cpu")),
        )
    )
    for cell in cells:
        harm = 0.0 if cell.shift.level is None else min(cell.shift.level, 5) / 2
        predict(run, cell, test, 3.4 + names.index(cell.model) / 3 - harm, rng)
    found = estimate_cells(cells, lambda cell: run.read_predictions(file_of(run, cell)), RESAMPLES)
    run.write(SCORES, scores_to_csv(scores_frame(add_worst(add_means(found)))))
    dataset = Dataset("clouds", None, None, test, (0.5,) * 3, (0.3,) * 3)
    choice = choose_pictures(run, test, shifts, {name: (name, 0) for name in names})
    write_samples(run, dataset, shifts, 0, choice, mixup=False)
    return len(shifts)


def measure(folder):
    """Seconds by the clock and of the processor, and megabytes of the page."""
    command = [str(Path(sys.executable).parent / "fairweather"), "report", str(folder)]
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent, (folder / "report.html").stat().st_size / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--cells", type=int, default=80, help="of each model, at most 80")
    parser.add_argument("--side", type=int, default=32, help="pixels of an image")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, altair {altair.__version__}; "
        f"load before: {os.getloadavg()[0]:.1f}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        cells = simulate(run, options.models, options.images, options.side, options.cells)
        tries = [measure(run) for _ in range(3)]
    wall, cpu, size = (sorted(each)[1] for each in zip(*tries, strict=True))
    print("| models | cells each | images | pixels | wall, s | CPU, s | page, MB |")
    print("|---|---|---|---|---|---|---|")
    shape = f"{options.models} | {cells} | {options.images:,} | {options.side}"
    print(f"| {shape} | {wall:.1f} | {cpu:.1f} | {size:.1f} |")


if __name__ == "__main__":
    main()

"""What to run when a GPU is at hand: each part adds its table to benchmarks/notes/gpu.md at once.

    python benchmarks/gpu.py                   # all parts, in this order
    python benchmarks/gpu.py training --backbone torchvision:resnet18 --side 28 --images 102400
    python benchmarks/gpu.py large --precision bf16 --cells 20
    python benchmarks/gpu.py pathmnist --data-root FOLDER --model basic --set 'seeds=[0]' \\
        --run runs/basic-80-s0
    python benchmarks/gpu.py large --device cpu --backbone timm:test_resnet --side 32 --images 64

- tests: those of devices and of predictions, on this machine.
- training, evaluation: fairweather's loops over bare ones of the same network and kernels, on the
  wall, as speed.py and bare_loops.py measure them on a CPU.
- large: a ResNet-50 predicts 50,000 images of 224 px, clean and under 94 corruptions; where time
  is short, --cells takes fewer, evenly from these.
- pathmnist: results/pathmnist/published.yaml; a second call goes on in the same --run.
- repeated: whether a training and its predictions have the same bytes when they are run again.

Weights and pixels are random, but those of PathMNIST: they say how fast it is, not how accurate.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import bare_loops  # the scripts beside this one
import large
import numpy as np
import sharing
import speed

import fairweather as fw
from fairweather.devices import count_cores, list_devices, resolve_device
from fairweather.errors import InputError
from fairweather.runs.provenance import current_provenance

ROOT = Path(__file__).parents[1]
TESTS = (
    "test_devices.py inference test_sharing.py test_pretended_device.py shifts/test_imagenet_c.py"
)


def table(*columns):
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def run_tests(options):
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--show-capture=no"]
    command += [f"tests/{name}" for name in options.tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    *lines, last = done.stdout.splitlines() or [done.stderr]
    yield table("tests", "outcome")
    yield f"| {' '.join(options.tests)} | {last.strip('= ')} |"
    yield from (f"- {line}" for line in lines if line.startswith(("FAILED", "ERROR")))


def compare_training(options):
    yield table("what", "ratio (median)", "range", "bar", "absolute")
    size, steps = (options.backbone, options.side, options.batch), options.images // options.batch
    for bf16 in (False, True):
        rates = speed.measure_training(*size, steps, bf16=bf16, device=options.device)
        what = f"training loop over bare steps, {options.title}, {'bf16' if bf16 else 'fp32'}"
        yield speed.rates_row(what, *rates, ">= 1.0")


def compare_evaluation(options):
    name, threads = options.backbone.partition(":")[2], count_cores()
    with bare_loops.elsewhere(threads) as (folder, ask):
        root = folder / "photographs"
        bare_loops.draw_photographs(root, bare_loops.PHOTOGRAPHS[0][0], options.images)
        yield f"{bare_loops.HEADER}\n|---|---|---|---|"
        asked = (ask, name, options.side, root, threads, options.batch, options.device)
        yield from bare_loops.compare_evaluation(*asked)


def evaluate_large(options):
    every = large.some_shifts(95, options.side)
    spread = [every[round(at)] for at in np.linspace(0, len(every) - 1, options.cells - 1)]
    network = fw.load_model(options.backbone, classes=10, weights="none")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        pixels = large.one_file(Path(name) / "images.npy", options.images, options.side)
        data = fw.Dataset("random", None, None, large.mapped(pixels), (0.5,) * 3, (0.3,) * 3)
        settings = {"precision": options.precision, "batch_size": options.batch}
        settings |= {"device": str(options.device), "out": Path(name) / "run"}
        run, whole = large.seconds(fw.evaluate, network, data, spread, **settings)
        steps = [step for step in run.folder.steps() if step.kind == "predict"]
    taken, busy = (sum(step.seconds for step in steps), sum(s.network_seconds for s in steps))
    columns = ("network", "images", "cells", "precision", "whole, s", "predictions, s")
    yield table(*columns, "of these the network, s", "images/s of predictions")
    yield (
        f"| {options.title} | {options.images} | {len(steps)} | {options.precision} | {whole:.1f} "
        f"| {taken:.1f} | {busy:.1f} | {options.images * len(steps) / taken:.0f} |"
    )


def run_pathmnist(options):
    study = ROOT / "results/pathmnist/published.yaml"
    root = [] if options.data_root is None else [f"data.root={json.dumps(options.data_root)}"]
    settings = {"models": options.model, "device": str(options.device), "out": options.run}
    run, whole = large.seconds(fw.run, study, overrides=[*root, *options.set], **settings)
    trained = sum(step.seconds for step in run.folder.steps() if step.kind == "train")
    yield f"{whole:.0f} s in this call; trainings took {trained:.0f} s in all.\n"
    yield table("model", "accuracy on clean images")
    scores = run.scores[(run.scores["shift"] == "clean") & (run.scores["metric"] == "accuracy")]
    yield from (f"| {row.model} | {row.value:.4f} |" for row in scores.itertuples())


def repeat(options):
    counts = dict.fromkeys(("train", "val", "test"), options.images)
    settings = {"side": options.side, "backbone": options.backbone, "models": 1, **counts}
    with tempfile.TemporaryDirectory() as name:
        study = sharing.study_file(Path(name), shifts=sharing.CORRUPTIONS[:3], **settings)
        folders = [Path(name) / each for each in ("first", "second")]
        for folder in folders:
            fw.run(study, out=folder, device=str(options.device))
        first, second = map(large.written_by, folders)
    yield table("network", "files of tables, predictions and networks", "of these, differ")
    differing = [path for path in first if first[path] != second.get(path)]
    yield f"| {options.title} | {len(first)} | {len(differing)} |"
    yield from (f"- {path} differs" for path in differing)


def measured(part, options):
    try:
        yield from part(options)
    except Exception as error:  # of any kind: time is lent, and the next part can be measured
        yield f"Not measured: {type(error).__name__}: {error}"


# Each part, with its usual number of images.
PARTS = {
    "tests": (run_tests, 0),
    "training": (compare_training, 12_800),
    "evaluation": (compare_evaluation, 4096),
    "large": (evaluate_large, 50_000),
    "pathmnist": (run_pathmnist, 0),
    "repeated": (repeat, 1000),
}


def heading(part, device):
    facts, driver = current_provenance(device), "not known"
    with suppress(OSError, subprocess.CalledProcessError, IndexError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    return (
        f"\n## {part}: {facts.hardware['device']}\n\nMeasured on {datetime.now(UTC):%Y-%m-%d}, "
        f"driver {driver}, torch {facts.versions['torch']}, {facts.hardware['cores']} cores of "
        f"{facts.hardware['cpu']}: `{facts.command}`.\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    words = {"device": "cuda", "backbone": "torchvision:resnet50", "precision": "fp32"}
    for name, usual in {**words, "data-root": None, "run": "runs/pathmnist-published"}.items():
        parser.add_argument(f"--{name}", default=usual)
    for name, number in {"side": 224, "batch": 256, "images": None, "cells": 95}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--tests", nargs="+", default=TESTS.split())
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--set", action="append", default=["ensemble=false"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/notes/gpu.md")
    options = parser.parse_args()
    try:
        options.device = list_devices(resolve_device(options.device))[0]
    except InputError as error:
        parser.error(str(error))
    options.title = f"{options.backbone}, {options.side} px, batches of {options.batch}"
    asked = options.images
    for name in options.parts or PARTS:
        part, usual = PARTS[name]
        options.images = asked or usual
        with options.out.open("a", encoding="utf-8") as file:
            for line in itertools.chain([heading(name, options.device)], measured(part, options)):
                print(line, flush=True)
                print(line, file=file, flush=True)


if __name__ == "__main__":
    main()

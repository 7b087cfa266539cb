"""Does it stay usable when it is large? Times of long plans, and memory of large sets of images.

    python benchmarks/large.py                   # all parts
    python benchmarks/large.py --only plan       # one part: plan, memory, jobs or published
    python benchmarks/large.py --cells 10        # fewer than the 96 of ImageNet-C: clean and 95

- plan: a study of 200 models under 75 cells on images of 1,000 classes: to read and check the file,
  to plan it, to list it with the command `fairweather plan` (which takes some seconds to start), to
  prepare the schedule, and to hand out and record every step, without the work of the steps.
- memory: 5,000 photographs in a folder are decoded, trained on and evaluated at 224 pixels, and
  50,000 images of 224 pixels that lie in one file (7.5 GB, in a temporary folder below the current
  one) are trained on and evaluated, each in a process of its own. Of these, three cells stand for
  all, since each takes the memory of the one before. The peak is counted every tenth of a second
  over this process and those that it starts: its own pages and shared ones, without files that are
  mapped, since the system can drop these at any time.
- jobs: 50,000 images of 32 pixels under 94 corruptions and clean, by one process and by two jobs of
  one thread. All files of both runs are compared. The peak is that of each process.
- published: 50,000 JPEG files of 224 pixels in 1,000 folders, evaluated clean and from published
  files of three corruptions and severities, in the layout of ImageNet-C. Its row of
  `published_files.csv` is written again.

Prints markdown tables.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

import fairweather as fw
from fairweather.data.batches import batch_slices
from fairweather.models.class_names import read_imagenet
from fairweather.progress import silent
from fairweather.requests.execution import describe_run
from fairweather.requests.study.run import open_study, plan
from fairweather.requests.study.schema import load_study
from fairweather.runs.claims import open_run
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import describe_machine
from fairweather.shifts.table import suite
from fairweather.steps.ledger import begin_run
from fairweather.steps.plan import StepResult
from fairweather.steps.worker import Worker
from fairweather.training.recipe import Recipe
from fairweather.training.supervised import fit
from fairweather.types.measurement import Dataset, Images
from fairweather.workers.schedule import Schedule, StepsOutcome

CPU = torch.device("cpu")
MODELS, CLASSES = 200, 1000
WNIDS = read_imagenet().wnids
PHOTOGRAPHS, MAPPED, SIDE = 5000, 50_000, 224


def seconds(function, *arguments, **settings):
    began = time.perf_counter()
    result = function(*arguments, **settings)
    return result, time.perf_counter() - began


# ---------------------------------------------------------------- plan


def bench_plan(_):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = long_study(folder)
        loaded, checked = seconds(load_study, study)
        planned, planning = seconds(plan, study, out=folder / "run", device="cpu")
        command = [str(Path(sys.executable).parent / "fairweather"), "plan", str(study)]
        listing = seconds(
            subprocess.run, [*command, "--out", name + "/none"], check=True, capture_output=True
        )[1]
        steps = len(planned.plan.steps)
        scheduling, doing = hand_out(loaded, planned.plan, folder / "run")
    print("| models | classes | steps | check, s | plan, s | list, s | schedule, s | a step, ms |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {len(loaded.models)} | {CLASSES:,} | {steps:,} | {checked:.1f} | {planning:.1f} | "
        f"{listing:.1f} | {scheduling:.1f} | {1000 * doing / steps:.1f} |"
    )


def long_study(folder):
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (CLASSES, 32, 32, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(CLASSES)
    np.savez(folder / "data.npz", **arrays)
    path = folder / "study.yaml"
    models = ", ".join(f"m{number}: {{title: M{number}}}" for number in range(MODELS))
    path.write_text(
        f"name: long\ndata: {{source: 'npz:{folder / 'data.npz'}'}}\nseeds: [0]\nthreads: 1\n"
        "shifts: [{suite: imagenet_c}]\n"
        "defaults: {backbone: 'timm:test_resnet', recipe: {epochs: 1}}\n"
        f"models: {{{models}}}\n"
    )
    return path


def hand_out(study, planned, folder):
    """Seconds to prepare the schedule, and to hand out and record every step."""
    machine, worker = describe_machine(CPU), Worker(planned, device="cpu")
    inputs = open_study(study, CPU, offline=True, tell=silent)
    with open_run(folder) as run:
        begin_run(planned, run, describe_run(inputs), replace=False)
        schedule, begun = seconds(Schedule, planned, run, silent)
        began = time.perf_counter()
        while steps := schedule.take(worker):
            for name in (name for step in steps for name in step.leaves):
                run.write(name if not name.endswith("/") else f"{name}nothing", b"x")
            schedule.finish(steps, StepsOutcome([StepResult()] * len(steps), machine, 0.1))
        schedule.check_finished()
        return begun, time.perf_counter() - began


# ---------------------------------------------------------------- memory


def bench_memory(cells):
    print("| set | images | what is done | cells | peak, GiB | with mapped files, GiB | wall, s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        photographs(folder / "photographs")
        file = one_file(folder / "images.npy")
        for title, images, what, count, work in (
            ("folder", PHOTOGRAPHS, "decode, and evaluate clean", 1, evaluate_folder),
            ("folder", PHOTOGRAPHS, "evaluate", cells, evaluate_folder),
            ("folder", PHOTOGRAPHS * 72 // 100, "train 1 epoch", 1, train_folder),
            ("one file", MAPPED, "evaluate", 3, evaluate_file),
            ("one file", MAPPED, "train 1 epoch", 1, train_on_file),
        ):
            place = folder / "photographs" if title == "folder" else file
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measured, work, place, folder, count).result()
            own, mapped, wall = found.own, found.mapped, found.wall
            print(
                f"| {title} | {images:,} | {what} | {count} | {own:.2f} | {mapped:.2f} | "
                f"{wall:.0f} |",
                flush=True,
            )


def photographs(folder):
    """Write JPEG files of 320 x 256 pixels in folders of ten classes."""
    rng = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        coarse = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC))
        grain = rng.integers(-8, 9, smooth.shape)
        path = folder / f"class-{number % 10}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=90)


def one_file(path, count=MAPPED, side=SIDE):
    rng = np.random.default_rng(0)
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, side, side))
    for part in batch_slices(count, 500):
        pixels[part] = rng.integers(0, 256, pixels[part].shape, dtype=np.uint8)
    pixels.flush()
    return path


def small_network():
    """Cheap, so that the time goes into shifts: the memory of a network is its own."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 10))


def some_shifts(cells, side=SIDE):
    family = [*suite("imagenet_c", image_size=side), *suite("imagenet_c_extra", image_size=side)]
    return family[: cells - 1] if cells > 1 else []


def evaluate_folder(place, folder, cells):
    fw.evaluate(
        small_network(),
        f"folder:{place}",
        some_shifts(cells),
        out=folder / f"evaluated-{cells}",
        device="cpu",
        size=SIDE,
    )


def train_folder(place, folder, _):
    path = folder / "train.yaml"
    path.write_text(
        f"name: train\ndata: {{source: 'folder:{place}', size: {SIDE}}}\nseeds: [0]\nthreads: 1\n"
        "shifts: []\ndefaults:\n  backbone: timm:test_resnet\n"
        "  recipe: {epochs: 1, batch_size: 64, horizontal_flip: 0.5, mixup: 0.3}\n"
        "models: {basic: {title: Basic}}\n"
    )
    fw.run(path, out=folder / "trained", device="cpu")


def evaluate_file(place, folder, cells):
    dataset = Dataset("large", None, None, mapped(place), (0.5,) * 3, (0.3,) * 3)
    out = folder / "evaluated-file"
    fw.evaluate(small_network(), dataset, some_shifts(cells), out=out, device="cpu")


def train_on_file(place, *_):
    images = mapped(place)
    recipe = Recipe(epochs=1, batch_size=256, horizontal_flip=0.5, mixup=0.3)
    for _epoch in fit(small_network(), images, images[:1000], recipe):
        pass


def mapped(place):
    pixels = torch.from_numpy(np.load(place, mmap_mode="c"))
    names, keys = tuple(f"class-{number}" for number in range(10)), torch.arange(len(pixels))
    return Images(pixels, keys % 10, keys, names)


# ---------------------------------------------------------------- one model, several jobs


def bench_jobs(cells):
    print(
        "| processes | wall, s | of all processors, s | predictions, s | scores, s | peaks, GiB |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (MAPPED, 4, 4, 3), dtype=np.uint8)
        pictures = coarse.repeat(8, 1).repeat(8, 2) // 2 + rng.integers(
            0, 128, (MAPPED, 32, 32, 3), dtype=np.uint8
        )
        labels = np.arange(MAPPED) % 10
        np.savez(folder / "data.npz", test_images=pictures, test_labels=labels)
        (folder / "small.py").write_text(SMALL)
        written = {}
        for jobs in (1, 2):
            out = folder / f"by-{jobs}"
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                asked = folder / "data.npz", folder, cells, jobs
                found = pool.submit(measured, evaluate_in_jobs, *asked).result()
            seconds_of = dict.fromkeys(("predict", "score"), 0.0)
            for step in RunFolder(out).steps():
                seconds_of[step.kind] = seconds_of.get(step.kind, 0.0) + step.seconds
            peaks = ", ".join(f"{peak:.2f}" for peak in found.each if peak > LEAST)
            print(
                f"| {jobs} | {found.wall:.0f} | {found.processor:.0f} | "
                f"{seconds_of['predict']:.0f} | {seconds_of['score']:.0f} | {peaks} |",
                flush=True,
            )
            written[jobs] = written_by(out)
        print(f"\n{len(written[1])} files, equal to the byte: {written[1] == written[2]}")


def written_by(out):
    """The bytes of tables, predictions and networks of a run."""
    paths = [*out.glob("*.csv"), *out.rglob("*.parquet"), *out.rglob("*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


LEAST = 0.05  # GiB of a process that is named
SMALL = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 10)).eval()
"""


def evaluate_in_jobs(place, folder, cells, jobs):
    family = [*suite("imagenet_c", image_size=32), *suite("imagenet_c_extra", image_size=32)]
    shared = {"device": "cpu", "threads": 1, "jobs": jobs, "progress": False}
    model, out = f"python:{folder / 'small.py'}:make", folder / f"by-{jobs}"
    fw.evaluate(model, f"npz:{place}", family[: cells - 1], out=out, **shared)


# ---------------------------------------------------------------- published files

PUBLISHED = ("fog/1", "fog/3", "snow/5")


def bench_published(_):
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        made = seconds(imagenet_c, folder / "published")[1]
        print(f"the files were made in {made:.0f} s", flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            place, cells = folder / "published", 1 + len(PUBLISHED)
            found = pool.submit(measured, evaluate_published, place, folder, cells).result()
        cached = sum(path.stat().st_size for path in (folder / "cache").rglob("*.pixels"))
    own, mapped, wall = found.own, found.mapped, found.wall
    row = (MAPPED, cells, f"{own:.2f}", f"{mapped:.2f}", f"{cached / 2**30:.2f}", f"{wall:.0f}")
    head = ("images", "cells", "peak_gib", "peak_with_mapped_gib", "cache_gib", "seconds")
    lines = [(*head, "machine", "torch"), (*row, platform.machine(), torch.__version__)]
    text = "".join(",".join(map(str, line)) + "\n" for line in lines)
    Path(__file__).with_name("published_files.csv").write_text(text, encoding="utf-8")
    print(text)


def imagenet_c(folder):
    """Write clean images and corrupted ones; all corruptions have the same bytes."""
    rng = np.random.default_rng(0)
    for number in range(MAPPED):
        name = f"{WNIDS[number % CLASSES]}/ILSVRC2012_val_{number:08d}.JPEG"
        path = folder / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=85)
        for cell in PUBLISHED:
            linked = folder / "ImageNet-C" / cell / name
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.hardlink_to(path)


def evaluate_published(place, folder, _):
    fw.evaluate(
        nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, CLASSES)),
        f"folder:{place / 'val'}",
        f"imagenet-c:{place / 'ImageNet-C'}",
        out=folder / "evaluated-published",
        device="cpu",
    )


class Measured(NamedTuple):
    """GiB of own and of all resident pages at the peak, and seconds."""

    own: float
    mapped: float
    each: list[float]  # own pages of each process at its own peak
    wall: float
    processor: float


def measured(work, place, folder, *given):
    torch.set_num_threads(1)
    os.environ["FAIRWEATHER_CACHE"] = str(folder / "cache")
    peak, each, done = [0, 0], Counter(), threading.Event()

    def watch():
        while not done.wait(0.1):
            found = memory()
            own, mapped = map(sum, zip(*found.values(), strict=True))
            peak[:] = max(peak[0], own), max(peak[1], own + mapped)
            for process, (own, _) in found.items():
                each[process] = max(each[process], own)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wall = seconds(work, place, folder, *given)[1]
    finally:
        done.set()
        watcher.join()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(one.ru_utime + one.ru_stime for one in used)
    sizes = sorted((size / 2**20 for size in each.values()), reverse=True)
    return Measured(peak[0] / 2**20, peak[1] / 2**20, sizes, wall, processor)


def memory():
    """KiB of pages of their own, and of mapped files, of this process and of each below it."""
    found = {}
    for process in family_of("self"):
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue  # it has ended
        sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
        own = int(sizes.get("RssAnon", 0)) + int(sizes.get("RssShmem", 0))
        found[process] = own, int(sizes.get("RssFile", 0))
    return found


def family_of(process):
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from family_of(child)


PARTS = {
    "plan": bench_plan,
    "memory": bench_memory,
    "jobs": bench_jobs,
    "published": bench_published,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--cells", type=int, default=96, help="of the folder, and of the jobs")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    for name in options.only or PARTS:
        print(f"\n## {name}\n", flush=True)
        PARTS[name](options.cells)


if __name__ == "__main__":
    main()

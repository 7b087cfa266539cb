"""Decoding and evaluation beside bare loops of Pillow, torch and timm: ratios of pairs.

    python benchmarks/bare_loops.py                 # drawn photographs; part of `make bench`
    python benchmarks/bare_loops.py FOLDER          # those of a folder

Prints the tables of benchmarks/notes/bare_loops.md. Above 1, fairweather is faster. Times are of
all processes, so start, digests and writes of the cache count. The bare loops have a process of
their own, since fairweather sets in its own how much freed memory stays there; the two take turns.

- decoding: an empty cache, beside a pool of processes that decode, resize and crop with Pillow.
- evaluation: `predict` beside passes on float tensors that are ready; `load_data` and `predict`,
  with and without decoded images in the cache, beside the loop of timm's validate.py.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from loky import get_reusable_executor
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.utils import AverageMeter, accuracy

import fairweather as fw
from fairweather.devices import repeatable_kernels, wait_for
from fairweather.runs.provenance import current_provenance
from fairweather.types.options import Preparation

CLASSES, BATCH, PAIRS = 8, 32, 3
CPU = torch.device("cpu")
# Network, pixels and images.
NETWORKS = (
    ("resnet18", 224, 32),
    ("mobilenetv3_small_100", 224, 128),
    ("vit_tiny_patch16_224", 224, 32),
    ("resnet18", 32, 256),
)
# Width and height of photographs in pixels, and how many.
PHOTOGRAPHS = (((500, 375), 1024), ((1500, 1125), 128))
GRAIN = 4  # in gray values, so that files take as many bytes as those of a camera
HEADER = "| what | processor time: ratio | on the wall: ratio | images/s of processor time |"


def draw_photographs(folder, size, count):
    """Smooth pictures with grain, since the cost of JPEG depends on the image."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels += rng.normal(0, GRAIN, (*pixels.shape[:2], 1)).astype(np.float32)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        put(picture.save, folder, number, quality=90)


def put(write, folder, number, **options):
    place = folder / f"class{number % CLASSES}" / f"{number:04}.jpg"
    place.parent.mkdir(parents=True, exist_ok=True)
    write(place, **options)


def fork_from_here():
    """A spawned process would spawn its own too, such as those of timm's loader."""
    multiprocessing.set_start_method("fork", force=True)


def processor_seconds():
    """Of this process and of those that it started, which have ended."""
    parts = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure(function):
    """Seconds of the processors, and on the wall."""
    start, busy = time.perf_counter(), processor_seconds()
    function()
    return processor_seconds() - busy, time.perf_counter() - start


def row(ask, what, images, theirs, ours):
    """Compare a function, computed by `ask`, with another in turn."""
    ask(theirs), ours()
    seconds = np.array([[ask(measure, theirs), measure(ours)] for _ in range(PAIRS)])
    ratios = (seconds[:, 0] / seconds[:, 1]).T
    cells = [f"{np.median(each):.2f} ({each.min():.2f} to {each.max():.2f})" for each in ratios]
    rates = [images / statistics.median(seconds[:, at, 0]) for at in (1, 0)]
    return f"| {what} | {cells[0]} | {cells[1]} | {rates[0]:.0f} of {rates[1]:.0f} |"


def decode_barely(path):
    """Decode, resize to 256 and crop to 224 pixels as torchvision does, and forget the image."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    width, height = (256 * side // min(rgb.size) for side in rgb.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    resized = rgb.resize((width, height), Image.Resampling.BILINEAR)
    np.asarray(resized.crop((left, top, left + 224, top + 224)))


def decode_in_pool(paths, threads):
    with multiprocessing.get_context("fork").Pool(threads) as pool:
        pool.map(decode_barely, paths, chunksize=8)
        pool.close()
        pool.join()


def load(root, preparation):
    return fw.load_data(f"folder:{root}", test_fraction=1, preparation=preparation, progress=None)


def load_first(root, preparation):
    shutil.rmtree(os.environ["FAIRWEATHER_CACHE"], ignore_errors=True)
    loaded = load(root, preparation)
    get_reusable_executor(reuse=True).shutdown()  # only processes that have ended are counted
    return loaded


@functools.cache
def open_network(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES).eval()


@functools.cache
def load_floats(root, side, batch, device):
    parts = load(root, Preparation(side)).test.images.split(batch)
    return [(part.float() / 255).to(device) for part in parts]


def pass_barely(name, root, side, batch=BATCH, device=CPU):
    network, batches = open_network(name).to(device), load_floats(root, side, batch, device)
    with torch.inference_mode(), repeatable_kernels():  # of a GPU, those of fairweather
        for images in batches:
            network(images)
        wait_for(device)


def validate(name, root, side, threads, batch=BATCH, device=CPU):
    """The loop of timm's validate.py: its loader, its loss and its accuracies."""
    network = open_network(name).to(device)
    loader = create_loader(
        create_dataset("", root=str(root)),
        input_size=(3, side, side),
        batch_size=batch,
        num_workers=threads,
        crop_pct=1.0,
        device=device,
    )
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    with torch.inference_mode(), repeatable_kernels():
        for inputs, target in loader:
            outputs = network(inputs)
            losses.update(F.cross_entropy(outputs, target).item(), len(target))
            acc1, acc5 = accuracy(outputs, target, topk=(1, 5))
            top1.update(acc1.item(), len(target))
            top5.update(acc5.item(), len(target))


def compare_evaluation(ask, name, side, root, threads, batch=BATCH, device=CPU):
    """Rows of one network."""
    network, images = open_network(name).to(device), load(root, Preparation(side)).test

    def predict(images):
        fw.predict(network, images, batch_size=batch, device=device, progress=None)

    bare = functools.partial(pass_barely, name, root, side, batch, device)
    timms = functools.partial(validate, name, root, side, threads, batch, device)
    for against, theirs, ours in (
        ("bare passes", bare, lambda: predict(images)),
        ("timm's loop", timms, lambda: predict(load(root, Preparation(side)).test)),
        ("timm's, empty cache", timms, lambda: predict(load_first(root, Preparation(side)).test)),
    ):
        yield row(ask, f"{name} at {side}, {against}", len(images), theirs, ours)


def report(ask, folder, given, threads):
    yield f"\nThreads: {threads}\n\n{HEADER}\n|---|---|---|---|"
    for (width, height), count in PHOTOGRAPHS:
        photographs = folder / f"{width}"
        if not photographs.exists():
            if given is None or width > 500:
                draw_photographs(photographs, (width, height), count)
            else:
                for number, path in enumerate(itertools.islice(given.glob("*.jpg"), count)):
                    put(functools.partial(shutil.copy, path), photographs, number)
        paths = sorted(photographs.glob("*/*.jpg"))
        pool = functools.partial(decode_in_pool, paths, threads)
        cache = functools.partial(load_first, photographs, Preparation(224, 256))
        yield row(ask, f"decoding {len(paths)} files of {width} px", len(paths), pool, cache)
    for name, side, count in NETWORKS:
        root = folder / f"first-{count}"
        for number, path in enumerate(sorted((folder / "500").glob("*/*.jpg"))[:count]):
            put(functools.partial(shutil.copy, path), root, number)
        yield from compare_evaluation(ask, name, side, root, threads)


@contextmanager
def elsewhere(threads):
    """Gives a temporary folder, and a function that computes in another process and waits."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ |= {
            "FAIRWEATHER_CACHE": f"{temporary}/cache",
            "LOKY_MAX_CPU_COUNT": str(threads),
        }
        with ProcessPoolExecutor(1, spawn, fork_from_here) as pool:
            yield Path(temporary), lambda *asked: pool.submit(*asked).result()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    given, threads = parser.parse_args().folder, torch.get_num_threads()
    facts = current_provenance(torch.device("cpu"))
    versions = ", ".join(f"{name} {facts.versions[name]}" for name in ("torch", "timm"))
    print(f"{facts.hardware['cpu']}; Python {facts.python}, {versions}; batches of {BATCH}")
    with elsewhere(threads) as (folder, ask):
        for line in report(ask, folder, given, threads):
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""Decoding and evaluation beside bare loops of Pillow, torch and timm: ratios, each in one process.

    python benchmarks/bare_loops.py FOLDER             # both parts
    python benchmarks/bare_loops.py FOLDER --only decoding

FOLDER has photographs, such as those of Oxford-IIIT Pet. Prints tables of markdown. A ratio above 1
means that fairweather is faster. Ratios of processor time hold on a busy machine too.

- decoding: the files into an empty cache, beside a pool of as many processes that decode, resize
  and crop the same files with Pillow, and keep nothing. Process start, digests and writes count.
- evaluation: `predict` beside forward passes on float tensors that are ready; and `load_data` with
  `predict` beside a loop as in timm's validate.py, which decodes in each run, once with decoded
  images in the cache and once without.
"""

import argparse
import functools
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from loky import cpu_count, get_reusable_executor
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.utils import AverageMeter, accuracy

import fairweather as fw
from fairweather.data.cache import CacheEntry, content_digests, read_or_decode
from fairweather.data.pixels import Square
from fairweather.data.sources import list_files
from fairweather.data.splits import Subset
from fairweather.runs.provenance import current_provenance
from fairweather.types.options import Preparation

CLASSES = 8
NETWORKS = (
    ("resnet18", 224),
    ("mobilenetv3_small_100", 224),
    ("vit_tiny_patch16_224", 224),
    ("resnet18", 32),
)
BATCH = 32
LARGE = 1500  # the longer side of large photographs, in pixels
NOISE = 4  # their grain, in gray values, so that they take as many bytes as those of a camera


# ---------------------------------------------------------------- measuring


def processor_seconds():
    """Of this process and of those that it started, which have ended."""
    parts = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure(function):
    """Seconds by the clock, and of the processor."""
    start, busy = time.perf_counter(), processor_seconds()
    function()
    return time.perf_counter() - start, processor_seconds() - busy


def compare(theirs, ours, pairs):
    """The seconds of two functions in turn: `[pairs, 2 functions, clock and processor]`."""
    return np.array([[measure(theirs), measure(ours)] for _ in range(pairs)])


def row(what, seconds, count):
    ratios = seconds[:, 0] / seconds[:, 1]
    cells = [f"{np.median(each):.2f} ({each.min():.2f} to {each.max():.2f})" for each in ratios.T]
    theirs, ours = (count / statistics.median(seconds[:, at, 1]) for at in (0, 1))
    return f"| {what} | {cells[0]} | {cells[1]} | {ours:.0f} of {theirs:.0f} |"


HEADER = (
    "| what | ratio by the clock | ratio of processor time | images/s of processor time |\n"
    "|---|---|---|---|"
)


# ---------------------------------------------------------------- decoding


def decode_barely(path, square):
    """Decode, resize and crop as torchvision does, and forget the image."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    short = min(rgb.size)
    size = [square.resize if side == short else square.resize * side // short for side in rgb.size]
    if rgb.size != tuple(size):
        rgb = rgb.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - square.size) / 2) for side in size)
    np.asarray(rgb.crop((left, top, left + square.size, top + square.size)))


def write_large(paths, folder):
    """Enlarge photographs and add grain."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        scale = LARGE / max(image.size)
        size = [round(scale * side) for side in image.size]
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = pixels + rng.normal(0, NOISE, (*pixels.shape[:2], 1)).astype(np.float32)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"{number:04}.jpg", quality=90
        )
    return sorted(folder.iterdir())


def decode_into_cache(paths, square):
    """Decode as `load_data` does, into an empty cache, with processes that must start."""
    shutil.rmtree(os.environ["FAIRWEATHER_CACHE"], ignore_errors=True)
    listing = list_files(np.zeros(len(paths), np.int64), tuple(paths), tuple(map(str, paths)))
    part = Subset(listing, np.arange(len(paths)))
    digest = content_digests({"test": part})["test"]
    read_or_decode(CacheEntry(part, "test", digest, square), skip_unreadable=False)
    get_reusable_executor(reuse=True).shutdown(wait=True)


def compare_decoding(what, paths, square, pairs):
    def bare():
        with multiprocessing.get_context("fork").Pool(cpu_count()) as pool:
            pool.map(functools.partial(decode_barely, square=square), paths, chunksize=8)
            pool.close()
            pool.join()

    seconds = compare(bare, lambda: decode_into_cache(paths, square), pairs)
    return row(what, seconds, len(paths))


def report_decoding(paths, folder, pairs):
    print(HEADER)
    print(compare_decoding("photographs, resized to 256", paths, Square(224, 256), pairs))
    print(compare_decoding("photographs, not resized", paths, Square(224, 224), pairs))
    (folder / "large").mkdir()
    large = write_large(paths[::12], folder / "large")
    print(compare_decoding(f"of {LARGE} px, resized to 256", large, Square(224, 256), pairs))


# ---------------------------------------------------------------- evaluation


def write_classes(paths, folder, count):
    for number, path in enumerate(paths[:count]):
        place = folder / f"class{number % CLASSES}" / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def validate(network, root, side):
    """The loop of timm's validate.py, for a CPU: its loader, its loss and its accuracies."""
    data = create_dataset("", root=str(root))
    loader = create_loader(
        data,
        input_size=(3, side, side),
        batch_size=BATCH,
        use_prefetcher=True,
        num_workers=torch.get_num_threads(),
        crop_pct=1.0,
        device=torch.device("cpu"),
    )
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for inputs, target in loader:
            outputs = network(inputs)
            losses.update(F.cross_entropy(outputs, target).item(), len(target))
            acc1, acc5 = accuracy(outputs, target, topk=(1, 5))
            top1.update(acc1.item(), len(target))
            top5.update(acc5.item(), len(target))


def compare_evaluation(name, side, root, pairs):
    network = timm.create_model(name, num_classes=CLASSES).eval()
    load = functools.partial(
        fw.load_data, f"folder:{root}", test_fraction=1, progress=None,
        preparation=Preparation(side),
    )  # fmt: skip
    images = load().test
    batches = [part.float() / 255 for part in images.images.split(BATCH)]

    def bare():
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    def predict(images, shift=None):
        fw.predict(network, images, shift, batch_size=BATCH, device="cpu", progress=None)

    def first_run():
        shutil.rmtree(os.environ["FAIRWEATHER_CACHE"], ignore_errors=True)
        predict(load().test)

    brighter = fw.make_shift("brightness_factor", factor=1.2)
    what = f"{name} at {side}"
    for against, theirs, ours in (
        ("bare passes", bare, lambda: predict(images)),
        ("bare passes, one shift", bare, lambda: predict(images, brighter)),
        ("timm's loop", lambda: validate(network, root, side), lambda: predict(load().test)),
        ("timm's loop, first run", lambda: validate(network, root, side), first_run),
    ):
        theirs(), ours()
        print(row(f"{what}: {against}", compare(theirs, ours, pairs), len(images)), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("decoding", "evaluation"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=256, help="of the evaluation")
    parser.add_argument("--threads", type=int, default=1, help="of the evaluation")
    args = parser.parse_args()
    paths = sorted(args.folder.glob("*.jpg"))
    facts = current_provenance(torch.device("cpu"))
    versions = ", ".join(f"{name} {facts.versions[name]}" for name in ("torch", "timm"))
    print(f"{facts.hardware['cpu']}; Python {facts.python}, {versions}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["FAIRWEATHER_CACHE"] = str(folder / "cache")
        if args.only != "evaluation":
            report_decoding(paths, folder, args.pairs)
        if args.only != "decoding":
            torch.set_num_threads(args.threads)
            print(f"\n{args.threads} threads\n\n{HEADER}")
            write_classes(paths, folder / "classes", args.images)
            for name, side in NETWORKS:
                compare_evaluation(name, side, folder / "classes", args.pairs)


if __name__ == "__main__":
    main()

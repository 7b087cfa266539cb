"""How fast the corruptions are beside the package imagecorruptions, what they cost, and memory.

Run with `make bench`; prints the tables, and with --write puts them into benchmarks/corruptions.md.

What differs between the two:

- At 32 px the published constants are those of CIFAR-10-C here; imagecorruptions has only those of
  ImageNet-C. The columns "constants of 224 px" take these here too, so that both do the same work.
- imagecorruptions has other algorithms for elastic_transform (no affine part), motion_blur and
  snow, and reads a photograph from disk for every image of frost. It takes one image a call, of
  32 px or more, and makes nothing in parallel.
- ResNet-18 has the stem of ImageNet, the cheapest at 32 px and so the hardest case.

Memory must not grow with the number of cells.
"""

import argparse
import importlib.metadata
import itertools
import multiprocessing
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from imagecorruptions_today import load_imagecorruptions
from threadpoolctl import threadpool_limits

from fairweather.inference.prediction import predict
from fairweather.models.opening import load_model
from fairweather.runs.provenance import current_provenance
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS
from fairweather.shifts.medmnist_c.corruptions import FAMILIES
from fairweather.shifts.table import SHIFTS, make_shift, suite
from fairweather.types.measurement import Images

PAIRS = 7
SECONDS = 0.2  # a measurement lasts at least so long
SEVERITIES = (1, 2, 3, 4, 5)
CLASSES, MODEL_IMAGES, MODEL_BATCH, MODEL_PAIRS = 100, 512, 256, 3
CELLS = (5, 15, 40, 75, 150)
PACKAGES = ("imagecorruptions", "numpy", "pillow", "scikit-image", "scipy", "torch", "torchvision")
TABLE = Path(__file__).with_suffix(".md")


class Case(NamedTuple):
    """Images of `side` pixels in batches, and the size whose constants are used here."""

    title: str
    side: int
    batch: int
    constants: int
    bar: float | None


CASES = (
    Case("32 px", 32, 256, 32, 8),
    Case("32 px, constants of 224 px", 32, 256, 224, None),
    Case("224 px", 224, 32, 224, 12),
)
# Images in a batch of each size.
SIZES = {32: 256, 96: 64, 224: 32, 384: 8}


def use_threads(threads):
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    threadpool_limits(threads)  # OpenMP and BLAS, wherever they are loaded


def generated_images(n, side):
    """Smooth pictures with a little noise, since the cost of JPEG and HSV depends on the image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, side // 8, side // 8, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic") * 255
    noisy = smooth + 4 * torch.randn(n, 3, side, side, generator=generator)
    return noisy.clamp(0, 255).to(torch.uint8)


def rate(work, images):
    """Images/s of calls that make `images` corrupted images each."""
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        work()
        calls += 1
    return calls * images / elapsed


def measure_corruption(name, case, corrupt):
    """Interleaved images/s here and there, all five severities in every call."""
    pixels = generated_images(case.batch, case.side)
    keys, seeds = torch.arange(case.batch), itertools.count()
    pictures = itertools.cycle(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()))
    shifts = [
        make_shift(f"imagenet_c/{name}", severity=severity, image_size=case.constants)
        for severity in SEVERITIES
    ]

    def here():
        seed = next(seeds)
        for shift in shifts:
            shift(pixels, keys, seed)

    def there():
        picture = next(pictures)
        for severity in SEVERITIES:
            corrupt(picture, severity=severity, corruption_name=name)

    np.random.seed(0)  # noqa: NPY002  where imagecorruptions draws from
    here()
    there()
    each = len(SEVERITIES)
    rates = [(rate(here, each * case.batch), rate(there, each)) for _ in range(PAIRS)]
    return list(zip(*rates, strict=True))


def sizes_table():
    """Rows of images/s of each published corruption here, all five severities in every call."""
    yield "| corruption | " + " | ".join(f"{side} px" for side in SIZES) + " |"
    yield "|---|" + "---|" * len(SIZES)
    for name in filter(lambda name: "/" in name, SHIFTS):
        print(f"sizes, {name}", file=sys.stderr)
        # MedMNIST-C has some corruptions for some data sets only.
        of_sets = (kind for kind, family in FAMILIES.items() if name.split("/")[1] in family)
        options = {"dataset": next(of_sets)} if name.startswith("medmnist_c/") else {}
        shifts = [make_shift(name, severity=severity, **options) for severity in SEVERITIES]
        cells = []
        for side, batch in SIZES.items():
            pixels, keys = generated_images(batch, side), torch.arange(batch)
            seeds = itertools.count()

            def work(pixels=pixels, keys=keys, seeds=seeds, shifts=shifts):
                seed = next(seeds)
                for shift in shifts:
                    shift(pixels, keys, seed)

            work()
            cells.append(f"{rate(work, len(SEVERITIES) * batch):.0f}")
        yield f"| {name} | " + " | ".join(cells) + " |"


def ready_model():
    model = load_model(
        "torchvision:resnet18", classes=CLASSES, mean=[0.5] * 3, std=[0.3] * 3, weights="none"
    )
    return model.eval().to(memory_format=torch.channels_last)


def labelled_images():
    labels, keys = torch.arange(MODEL_IMAGES) % CLASSES, torch.arange(MODEL_IMAGES)
    return Images(generated_images(MODEL_IMAGES, 32), labels, keys, tuple(map(str, range(CLASSES))))


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_model():
    """Seconds of bare ResNet-18 passes, as many as cells, and of predicting under imagenet_c.

    The first of the latter is apart: it also fills the tables that later ones find ready.
    """
    images, model, shifts = labelled_images(), ready_model(), suite("imagenet_c")
    batches = [
        (part.float() / 255).contiguous(memory_format=torch.channels_last)
        for part in images.images.split(MODEL_BATCH)
    ]

    def bare():
        with torch.inference_mode():
            for _ in shifts:
                for batch in batches:
                    model(batch)

    def shifted():
        for shift in shifts:
            predict(model, images, shift, batch_size=MODEL_BATCH, device="cpu")

    bare()
    first = seconds(shifted)
    pairs = [(seconds(bare), seconds(shifted)) for _ in range(MODEL_PAIRS)]
    return first, *zip(*pairs, strict=True)


def peak_memory():
    """MiB, as Linux counts them; the peak of `getrusage` would be inherited from the parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def peaks():
    """Peak memory in MiB after so many cells: of imagenet_c by severity, then with another seed."""
    use_threads(1)
    images, model = labelled_images(), ready_model()
    shifts = sorted(suite("imagenet_c"), key=lambda shift: shift.level)
    found = {}
    for count, (seed, shift) in enumerate(itertools.product(range(2), shifts), 1):
        predict(model, images, shift, batch_size=MODEL_BATCH, device="cpu", seed=seed)
        if count in CELLS:
            found[count] = peak_memory()
    return found


def in_new_process(function):
    """Call where no peak of this process counts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


def ratios(numerators, denominators):
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def shown(values, digits=1):
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rates_table(results):
    """Rows of ratios and of images/s, from `results[case title][corruption] = (here, there)`."""
    yield "| corruption | " + " | ".join(f"{title}, ratio | images/s" for title in results) + " |"
    yield "|---|" + "---|---|" * len(results)
    for name in CORRUPTIONS:
        cells = [
            f"{shown(ratios(here, there))} | {statistics.median(here):.0f} "
            f"of {statistics.median(there):.0f}"
            for here, there in (of[name] for of in results.values())
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"


def summary(case, of_names):
    """A row of geometric mean and lowest ratio over the corruptions."""
    by_name = {name: ratios(*rates) for name, rates in of_names.items()}
    means = [statistics.geometric_mean(pair) for pair in zip(*by_name.values(), strict=True)]
    worst = min(by_name, key=lambda name: statistics.median(by_name[name]))
    bar = f">= {case.bar}, >= 1" if case.bar else ""
    return f"| {case.title} | {shown(means)} | {shown(by_name[worst], 2)}: {worst} | {bar} |"


def threads_report(threads, corrupt):
    use_threads(threads)
    results = {}
    for case in CASES:
        results[case.title] = {}
        for name in CORRUPTIONS:
            print(f"threads: {threads}, {case.title}, {name}", file=sys.stderr)
            results[case.title][name] = measure_corruption(name, case, corrupt)
    first, bare, shifted = measure_model()
    yield f"\n## {'One thread' if threads == 1 else f'{threads} threads'}\n"
    yield "| images/s here over imagecorruptions | geometric mean | lowest | bars |"
    yield "|---|---|---|---|"
    yield from (summary(case, results[case.title]) for case in CASES)
    yield (
        f"\nResNet-18 at 32 px, {len(suite('imagenet_c'))} cells of {MODEL_IMAGES} images, over as "
        f"many bare forward passes, time: {shown(ratios(shifted, bare), 2)}, bar <= 1.5; "
        f"{statistics.median(shifted):.1f} s over {statistics.median(bare):.1f} s, and {first:.1f} "
        "s the first time.\n"
    )
    yield from rates_table(results)


def conditions():
    facts = current_provenance(torch.device("cpu"))
    commit = facts.git["fairweather"] or {"revision": "unknown", "dirty": False}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{facts.hardware['cpu']}; Python {facts.python}, {versions}, OpenCV "
        f"{cv2.__version__}; commit {commit['revision'][:10]}{' with changes' * commit['dirty']}, "
        f"{facts.time[:10]}. Medians and ranges of {PAIRS} interleaved pairs in one process "
        f"({MODEL_PAIRS} for ResNet-18), severities 1 to 5 each, on the same generated images: "
        "here in batches of "
        + " and ".join(sorted({f"{case.batch} at {case.side} px" for case in CASES}))
        + ", in imagecorruptions one by one, as it asks for them."
    )


def report(corrupt):
    threads = torch.get_num_threads()
    yield "# Speed of the corruptions\n"
    yield conditions()
    for count in sorted({1, threads}):
        yield from threads_report(count, corrupt)
    use_threads(1)
    yield "\n## Images/s by size, one thread\n"
    yield from sizes_table()
    found = in_new_process(peaks)
    yield "\n## Memory\n"
    yield f"ResNet-18 at 32 px, one thread, {MODEL_IMAGES} images; 15 cells are one of each.\n"
    yield "| cells predicted | " + " | ".join(map(str, found)) + " |"
    yield "|---|" + "---|" * len(found)
    yield "| peak memory, MiB | " + " | ".join(f"{peak:.0f}" for peak in found.values()) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"into {TABLE.name} as well")
    options = parser.parse_args()
    lines = []
    for line in report(load_imagecorruptions()):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""How busy the training loop and the evaluation keep the model: ratios of interleaved pairs.

Run with `make bench`; prints the tables of benchmarks/notes/speed.md. `python benchmarks/speed.py
training` prints one of its parts: training, layouts, predictions, blur, bf16, compiled, processes
or openmp. The last two need both cores of an idle machine.

Bare steps and bare passes have a process of their own, since fairweather sets in its own how much
freed memory stays there. The two take turns.
"""

import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import gaussian_blur

from fairweather.devices import repeatable_kernels, wait_for
from fairweather.inference.prediction import predict
from fairweather.models.opening import load_model
from fairweather.runs.provenance import current_provenance
from fairweather.shifts.table import make_shift, sweep
from fairweather.small_maps import SmallMaps
from fairweather.training.loop_parts import build_optimizer
from fairweather.training.recipe import Recipe, Rotation
from fairweather.training.supervised import fit
from fairweather.types.measurement import Images

SIDE, CLASSES, BATCH = 28, 9, 256
PAIRS = 3
CPU = torch.device("cpu")
JOB_BATCH = 64  # of jobs that train beside each other
COMPILED_APART = 1e-4  # the most that logits may differ, as a share of the largest
# Network, pixels, images a batch, measured steps: small maps are multiplied only in the first.
TRAININGS = (
    ("torchvision:resnet18", SIDE, BATCH, 8),
    ("torchvision:resnet18", 64, 64, 8),
    ("timm:tf_efficientnet_lite0", 64, 64, 8),
)
# Network, pixels, images a batch.
COMPILED = (
    ("torchvision:resnet18", 64, 64),
    ("timm:tf_efficientnet_lite0", 64, 64),
    ("timm:vit_tiny_patch16_224", 224, 16),
)
# Network, pixels, measured steps of a job.
JOBS = (
    ("torchvision:resnet18", SIDE, 24),
    ("torchvision:resnet18", 64, 6),
    ("timm:tf_efficientnet_lite0", 64, 8),
)
NOTHING_SET = dict[str, str]()
# What may be set for OpenMP; torch has GNU's, which does not read the variables of Intel's (KMP_*).
OPENMP = (
    NOTHING_SET,
    {"OMP_WAIT_POLICY": "PASSIVE"},
    {"OMP_PROC_BIND": "true"},
)
RECIPE = Recipe(
    epochs=1,
    batch_size=BATCH,
    learning_rate=5e-4,
    weight_decay=1e-6,
    horizontal_flip=0.4,
    vertical_flip=0.4,
    rotation=Rotation(20, 0.4),
    mixup=0.3,
)
LEVELS = {"brightness_factor": [0.8, 0.9, 1.1, 1.2], "gaussian_blur": [0.3, 0.5, 0.7, 0.9]}


def random_images(n, side=SIDE):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, n))
    return Images(pixels, labels, torch.arange(n), tuple(map(str, range(CLASSES))))


def new_model(backbone="torchvision:resnet18", layout=torch.channels_last):
    statistics_of_noise = {"mean": [0.5] * 3, "std": [0.3] * 3}
    model = load_model(backbone, classes=CLASSES, weights="none", **statistics_of_noise)
    return model.to(memory_format=layout)


def clock(device=CPU):
    """Seconds of one thread, which hardly depend on what else the machine does; of another device
    on the wall, once it has done all that it was given."""
    wait_for(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def seconds(function, device=CPU):
    start = clock(device)
    function()
    return clock(device) - start


def ready_batch(side, batch, layout=torch.channels_last, device=CPU):
    torch.manual_seed(0)
    inputs = torch.rand(batch, 3, side, side).contiguous(memory_format=layout)
    return inputs.to(device), torch.randint(CLASSES, (batch,)).to(device)


def bare_training_rate(
    steps,
    backbone,
    side=SIDE,
    batch=BATCH,
    *,
    bf16=False,
    mode=nullcontext,
    layout=torch.channels_last,
    device=CPU,
):
    """Images/s of forward, backward and step alone, on one tensor that is ready."""
    model = new_model(backbone, layout).to(device).train()
    inputs, labels = ready_batch(side, batch, layout, device)
    optimizer = build_optimizer(model, None, RECIPE)

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with mode(), repeatable_kernels():  # of a GPU, those of the training loop
        step()
        return steps * batch / seconds(lambda: [step() for _ in range(steps)], device)


def loop_rate(images, val, backbone, batch, *, bf16=False, device=CPU):
    """Images/s of the training loop, from after its first step to after its last but one."""
    times, recipe = [], replace(RECIPE, batch_size=batch)
    ends = (0, len(images) // batch - 2)  # a GPU is not waited for in between

    def after_step(_):
        times.append(clock(device) if len(times) in ends else None)

    precision = "bf16" if bf16 else "fp32"
    settings = {"device": device, "precision": precision, "after_step": after_step}
    list(fit(new_model(backbone), images, val, recipe, **settings))
    return (len(times) - 1) * batch / (times[-1] - times[0])


@contextmanager
def elsewhere():
    """Gives a function that computes in another process, of one thread, and waits."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (1,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def measure_training(backbone, side, batch, steps, *, bf16=False, device=CPU):
    """Images/s of bare steps, and of the training loop; of both, the first step is left out."""
    images, val = random_images((steps + 2) * batch, side), random_images(batch, side)
    settings = {"bf16": bf16, "device": device}
    loop = partial(loop_rate, val=val, backbone=backbone, batch=batch, **settings)
    loop(images[: 3 * batch])
    with elsewhere() as ask:
        bare = partial(bare_training_rate, backbone=backbone, side=side, batch=batch, **settings)
        ask(bare, 2)
        return measure_pairs(lambda: ask(bare, steps), lambda: loop(images))


def measure_small_maps(batch):
    """Images/s of bare steps of a ResNet-18, as torch convolves, and with small maps multiplied."""
    step = partial(bare_training_rate, 2 * BATCH // batch, "torchvision:resnet18", batch=batch)
    return measure_pairs(step, partial(step, mode=SmallMaps))


def measure_layouts(backbone, side, batch, steps):
    """Images/s of bare steps as fairweather takes them, in torch's memory format and in ours."""
    step = partial(bare_training_rate, steps, backbone, side, batch, mode=SmallMaps)
    return measure_pairs(partial(step, layout=torch.contiguous_format), step)


def measure_pairs(one, other):
    pairs = [(one(), other()) for _ in range(PAIRS)]
    return list(zip(*pairs, strict=True))


def bare_passes(count):
    """Seconds of so many bare forward passes over the images of `measure_shifts`."""
    images, model = random_images(2 * BATCH), new_model().eval()
    batches = [
        (part.float() / 255).contiguous(memory_format=torch.channels_last)
        for part in images.images.split(BATCH)
    ]

    def bare():
        with torch.inference_mode():
            for _ in range(count):
                for batch in batches:
                    model(batch)

    return seconds(bare)


def measure_shifts():
    """Seconds of bare forward passes, and of predicting under four levels each of both shifts."""
    images, model = random_images(2 * BATCH), new_model().eval()
    shifts = [shift for name, levels in LEVELS.items() for shift in sweep(name, levels)]

    def shifted():
        for shift in shifts:
            predict(model, images, shift, batch_size=BATCH, device="cpu")

    shifted()
    with elsewhere() as ask:
        ask(bare_passes, 1)
        return measure_pairs(lambda: ask(bare_passes, len(shifts)), lambda: seconds(shifted))


def measure_blur(side, batch):
    """Seconds of torchvision's blur and of ours on the same batch, kernel 5."""
    pixels = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    ours = make_shift("gaussian_blur", sigma=0.9, kernel_size=5)
    keys = torch.arange(batch)
    functions = (lambda: gaussian_blur(pixels, [5, 5], [0.9, 0.9]), lambda: ours(pixels, keys))
    for function in functions:
        function()
    return list(zip(*[[seconds(f) for f in functions] for _ in range(PAIRS)], strict=True))


def measure_bf16(backbone):
    """Images/s of bare training steps in fp32 and in bf16."""
    rates = [
        [bare_training_rate(6, backbone, bf16=bf16) for bf16 in (False, True)] for _ in range(3)
    ]
    return list(zip(*rates, strict=True))


def measure_compiled(backbone, side, batch):
    """Images/s of predictions as they are and compiled, and how far the logits are apart."""
    model, images = new_model(backbone).eval(), random_images(4 * batch, side)
    ask = partial(predict, model, images, batch_size=batch, device="cpu")
    start = time.perf_counter()
    compiled = ask(compile=True).logits
    first = time.perf_counter() - start
    plain = ask().logits
    apart = float(np.abs(compiled - plain).max() / np.abs(plain).max())
    if apart > COMPILED_APART:
        raise SystemExit(f"{backbone}: compiled logits are {apart:.1e} of the largest apart")
    pairs = [
        [len(images) / seconds(partial(ask, compile=c)) for c in (False, True)]
        for _ in range(PAIRS)
    ]
    return *zip(*pairs, strict=True), first, apart


def job_rate(threads, backbone, side, steps):
    """Images/s on the wall of a training, from after its first step to after its last but one."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)  # as a job does
    times, recipe = [], replace(RECIPE, batch_size=JOB_BATCH)
    images, val = random_images((steps + 2) * JOB_BATCH, side), random_images(JOB_BATCH, side)
    training = fit(
        new_model(backbone),
        images,
        val,
        recipe,
        after_step=lambda _: times.append(time.perf_counter()),
    )
    list(training)
    return (len(times) - 1) * JOB_BATCH / (times[-1] - times[0])


def measure_jobs(backbone, side, steps, environment=NOTHING_SET):
    """Images/s of one job of two threads, and of two jobs of one, in processes of their own."""
    spawn = multiprocessing.get_context("spawn")
    with (
        patch.dict(os.environ, environment),
        ProcessPoolExecutor(2, mp_context=spawn) as pool,
    ):

        def rate(threads, steps):
            jobs = [
                pool.submit(job_rate, threads, backbone, side, steps) for _ in range(2 // threads)
            ]
            return sum(job.result() for job in jobs)

        rate(1, 1)  # both start, and import
        return rate(2, steps), rate(1, steps)


def row(what, ratios, bar, absolute):
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return f"| {what} | {statistics.median(ratios):.3f} | {spread} | {bar} | {absolute} |"


def rates_row(what, before, after, bar, note=""):
    rates = f"{statistics.median(after):.0f} of {statistics.median(before):.0f} images/s{note}"
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return row(f"{what}, images/s", ratios, bar, rates)


def training_rows():
    for backbone, side, batch, steps in TRAININGS:
        bare, loop = measure_training(backbone, side, batch, steps)
        yield rates_row(
            f"training loop over bare steps, {backbone}, {side} px", bare, loop, ">= 1.0"
        )
    for batch in (32, 256):
        plain, products = measure_small_maps(batch)
        what = f"small maps multiplied over torch's steps, 28 px, batch {batch}"
        yield rates_row(what, plain, products, ">= 1.0")


def layout_rows():
    for backbone, side, batch, steps in TRAININGS:
        what = f"channels last over torch's memory format, steps, {backbone}, {side} px"
        yield rates_row(what, *measure_layouts(backbone, side, batch, steps), ">= 1.0")


def prediction_rows():
    forward, shifted = measure_shifts()
    times = f"{statistics.median(shifted):.2f} s over {statistics.median(forward):.2f} s"
    ratios = [b / a for a, b in zip(forward, shifted, strict=True)]
    yield row("8 shifted cells over 8 bare forward passes, time", ratios, "<= 1.15", times)


def blur_rows():
    for side, batch in ((28, 256), (224, 16)):
        theirs, ours = measure_blur(side, batch)
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        each = f"{min(ours) / batch * 1e6:.0f} of {min(theirs) / batch * 1e6:.0f} µs an image"
        yield row(f"blur over torchvision's at {side} px, time", ratios, "", each)


def bf16_rows():
    for backbone in ("torchvision:resnet18", "timm:tf_efficientnet_lite0"):
        fp32, bf16 = measure_bf16(backbone)
        yield rates_row(f"bf16 over fp32 steps, {backbone}", fp32, bf16, "")


def compiled_rows():
    for backbone, side, batch in COMPILED:
        plain, compiled, first, apart = measure_compiled(backbone, side, batch)
        what = f"compiled over plain predictions, {backbone}, {side} px"
        note = f"; first call {first:.0f} s, logits {apart:.0e} of the largest apart"
        yield rates_row(what, plain, compiled, "", note)


def processes_rows():
    for backbone, side, steps in JOBS:
        rates = [measure_jobs(backbone, side, steps) for _ in range(PAIRS)]
        what = f"two jobs of one thread over one of two, wall, {backbone}, {side} px"
        yield rates_row(what, *zip(*rates, strict=True), "")


def openmp_rows():
    backbone, side, steps = JOBS[0]
    rounds = [
        [measure_jobs(backbone, side, steps, environment) for environment in OPENMP]
        for _ in range(PAIRS)
    ]
    for number, environment in enumerate(OPENMP[1:], 1):
        (setting,) = (f"{name}={value}" for name, value in environment.items())
        for jobs in (0, 1):
            before, after = ([rates[place][jobs] for rates in rounds] for place in (0, number))
            what = f"{setting}, {('one job of two threads', 'two jobs of one thread')[jobs]}, wall"
            yield rates_row(what, before, after, "")


PARTS = {
    "training": training_rows,
    "layouts": layout_rows,
    "predictions": prediction_rows,
    "blur": blur_rows,
    "bf16": bf16_rows,
    "compiled": compiled_rows,
    "processes": processes_rows,
    "openmp": openmp_rows,
}
# The other two take long: compiling takes minutes, and OpenMP's settings need an idle machine.
USUAL = [part for part in PARTS if part not in ("compiled", "openmp")]


def main():
    torch.set_num_threads(1)
    facts = current_provenance(torch.device("cpu"))
    versions = ", ".join(f"{name} {facts.versions[name]}" for name in ("torch", "torchvision"))
    print(
        f"{facts.hardware['cpu']}, {torch.backends.cpu.get_cpu_capability()}; Python "
        f"{facts.python}, {versions}; fp32, channels last.\n"
    )
    print("| what | ratio (median) | range | bar | absolute |")
    print("|---|---|---|---|---|", flush=True)
    for part in sys.argv[1:] or USUAL:
        for line in PARTS[part]():
            print(line, flush=True)


if __name__ == "__main__":
    main()

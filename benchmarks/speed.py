"""How busy the training loop and the evaluation keep the model: ratios, measured in one process.

Run with `make bench`; prints the table of benchmarks/notes/speed.md.
"""

import statistics
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import gaussian_blur

from fairweather.inference.prediction import predict
from fairweather.models.opening import load_model
from fairweather.runs.provenance import current_provenance
from fairweather.shifts.table import make_shift, sweep
from fairweather.training.loop_parts import build_optimizer
from fairweather.training.recipe import Recipe, Rotation
from fairweather.training.small_maps import SmallMaps
from fairweather.training.supervised import fit
from fairweather.types.measurement import Images

SIDE, CLASSES, BATCH = 28, 9, 256
PAIRS = 5
# Network, pixels, images a batch, batches: small maps are multiplied only in the first.
TRAININGS = (
    ("torchvision:resnet18", SIDE, BATCH, 8),
    ("torchvision:resnet18", 64, 64, 6),
    ("timm:tf_efficientnet_lite0", 64, 64, 6),
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


def new_model(backbone="torchvision:resnet18"):
    statistics_of_noise = {"mean": [0.5] * 3, "std": [0.3] * 3}
    model = load_model(backbone, classes=CLASSES, weights="none", **statistics_of_noise)
    return model.to(memory_format=torch.channels_last)


# Of one thread; unlike the time on the wall, it hardly depends on what else the machine does.
clock = time.process_time


def seconds(function):
    start = clock()
    function()
    return clock() - start


def ready_batch(side, batch):
    torch.manual_seed(0)
    inputs = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    return inputs, torch.randint(CLASSES, (batch,))


def bare_training_rate(steps, backbone, side=SIDE, batch=BATCH, bf16=False, mode=nullcontext):
    """Images/s of forward, backward and step alone, on one tensor that is ready."""
    model, (inputs, labels) = new_model(backbone).train(), ready_batch(side, batch)
    optimizer = build_optimizer(model, None, RECIPE)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with mode():
        step()
        return steps * batch / seconds(lambda: [step() for _ in range(steps)])


def loop_rate(images, val, backbone, batch):
    """Images/s of the training loop, from after its first step to after its last but one."""
    times = []
    recipe = replace(RECIPE, batch_size=batch)
    list(fit(new_model(backbone), images, val, recipe, after_step=lambda _: times.append(clock())))
    return (len(times) - 1) * batch / (times[-1] - times[0])


def measure_training(backbone, side, batch, steps):
    """Images/s of bare steps, and of the training loop."""
    images, val = random_images(steps * batch, side), random_images(batch, side)
    loop_rate(images[: 3 * batch], val, backbone, batch)
    return measure_pairs(
        lambda: bare_training_rate(steps, backbone, side, batch),
        lambda: loop_rate(images, val, backbone, batch),
    )


def measure_small_maps(batch):
    """Images/s of bare steps of a ResNet-18, as torch convolves, and with small maps multiplied."""
    step = partial(bare_training_rate, 2 * BATCH // batch, "torchvision:resnet18", batch=batch)
    return measure_pairs(step, partial(step, mode=SmallMaps))


def measure_pairs(one, other):
    pairs = [(one(), other()) for _ in range(PAIRS)]
    return list(zip(*pairs, strict=True))


def measure_shifts():
    """Seconds of bare forward passes, and of predicting under four levels each of both shifts."""
    images, model = random_images(16 * BATCH), new_model().eval()
    shifts = [shift for name, levels in LEVELS.items() for shift in sweep(name, levels)]
    batches = [
        (part.float() / 255).contiguous(memory_format=torch.channels_last)
        for part in images.images.split(BATCH)
    ]

    def bare():
        with torch.inference_mode():
            for _ in shifts:
                for batch in batches:
                    model(batch)

    def shifted():
        for shift in shifts:
            predict(model, images, shift, batch_size=BATCH, device="cpu")

    bare()
    shifted()
    pairs = [(seconds(bare), seconds(shifted)) for _ in range(PAIRS)]
    return [b for b, _ in pairs], [s for _, s in pairs]


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


def row(what, ratios, bar, absolute):
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return f"| {what} | {statistics.median(ratios):.3f} | {spread} | {bar} | {absolute} |"


def rates_row(what, before, after, bar):
    rates = f"{statistics.median(after):.0f} of {statistics.median(before):.0f} images/s"
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return row(f"{what}, images/s", ratios, bar, rates)


def main():
    torch.set_num_threads(1)
    forward, shifted = measure_shifts()
    facts = current_provenance(torch.device("cpu"))
    machine = f"{facts.hardware['cpu']}, {facts.hardware['threads']} threads"
    versions = ", ".join(f"{name} {facts.versions[name]}" for name in ("torch", "torchvision"))
    print(f"{machine}; Python {facts.python}, {versions}; fp32, channels last.\n")
    print("| what | ratio (median) | range | bar | absolute |")
    print("|---|---|---|---|---|")
    for backbone, side, batch, steps in TRAININGS:
        bare, loop = measure_training(backbone, side, batch, steps)
        what = f"training loop over bare steps, {backbone}, {side} px"
        print(rates_row(what, bare, loop, ">= 1.0"), flush=True)
    for batch in (32, 256):
        plain, products = measure_small_maps(batch)
        what = f"small maps multiplied over torch's steps, 28 px, batch {batch}"
        print(rates_row(what, plain, products, ">= 1.0"), flush=True)
    times = f"{statistics.median(shifted):.2f} s over {statistics.median(forward):.2f} s"
    ratios = [b / a for a, b in zip(forward, shifted, strict=True)]
    print(row("8 shifted cells over 8 bare forward passes, time", ratios, "<= 1.15", times))
    for side, batch in ((28, 256), (224, 16)):
        theirs, ours = measure_blur(side, batch)
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        each = f"{min(ours) / batch * 1e6:.0f} of {min(theirs) / batch * 1e6:.0f} µs an image"
        print(row(f"blur over torchvision's at {side} px, time", ratios, "", each))
    for backbone in ("torchvision:resnet18", "timm:tf_efficientnet_lite0"):
        fp32, bf16 = measure_bf16(backbone)
        print(rates_row(f"bf16 over fp32 steps, {backbone}", fp32, bf16, ""))


if __name__ == "__main__":
    main()

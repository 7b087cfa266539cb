"""How busy the training loop and the evaluation keep the model: ratios, measured in one process.

Run with `make bench`; prints the table of benchmarks/notes/speed.md.
"""

import statistics
import time

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
from fairweather.training.supervised import fit
from fairweather.types.measurement import Images

SIDE, CLASSES, BATCH = 28, 9, 256
PAIRS = 7
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


def random_images(n):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (n, 3, SIDE, SIDE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, n))
    return Images(pixels, labels, torch.arange(n), tuple(map(str, range(CLASSES))))


def new_model(backbone="torchvision:resnet18"):
    statistics_of_noise = {"mean": [0.5] * 3, "std": [0.3] * 3}
    model = load_model(backbone, classes=CLASSES, weights="none", **statistics_of_noise)
    return model.to(memory_format=torch.channels_last)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ready_batch():
    torch.manual_seed(0)
    inputs = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    return inputs, torch.randint(CLASSES, (BATCH,))


def bare_training_rate(steps, backbone="torchvision:resnet18", bf16=False):
    """Images/s of forward, backward and step alone, on one tensor that is ready."""
    model, (inputs, labels) = new_model(backbone).train(), ready_batch()
    optimizer = build_optimizer(model, None, RECIPE)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    return steps * BATCH / seconds(lambda: [step() for _ in range(steps)])


def loop_rate(images, val):
    """Images/s of the training loop, as its history records it (evaluation not counted)."""
    (epoch,) = fit(new_model(), images, val, RECIPE)
    return epoch.history[-1]["images_per_second"]


def measure_training():
    images, val = random_images(16 * BATCH), random_images(BATCH)
    loop_rate(images[: 2 * BATCH], val)
    bare_training_rate(2)
    pairs = [(bare_training_rate(16), loop_rate(images, val)) for _ in range(PAIRS)]
    return [bare for bare, _ in pairs], [loop for _, loop in pairs]


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
    rates = [[bare_training_rate(6, backbone, bf16) for bf16 in (False, True)] for _ in range(3)]
    return list(zip(*rates, strict=True))


def row(what, ratios, bar, absolute):
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return f"| {what} | {statistics.median(ratios):.3f} | {spread} | {bar} | {absolute} |"


def main():
    bare, loop = measure_training()
    forward, shifted = measure_shifts()
    facts = current_provenance(torch.device("cpu"))
    machine = f"{facts.hardware['cpu']}, {facts.hardware['threads']} threads"
    versions = ", ".join(f"{name} {facts.versions[name]}" for name in ("torch", "torchvision"))
    print(f"{machine}; Python {facts.python}, {versions}; fp32, channels last.\n")
    print("| what | ratio (median) | range | bar | absolute |")
    print("|---|---|---|---|---|")
    rates = f"{statistics.median(loop):.0f} of {statistics.median(bare):.0f} images/s"
    ratios = [b / a for a, b in zip(bare, loop, strict=True)]
    print(row("training loop over bare steps, images/s", ratios, ">= 0.85", rates))
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
        rates = f"{statistics.median(bf16):.0f} of {statistics.median(fp32):.0f} images/s"
        ratios = [b / a for a, b in zip(fp32, bf16, strict=True)]
        print(row(f"bf16 over fp32 steps, {backbone}, images/s", ratios, "", rates))


if __name__ == "__main__":
    main()

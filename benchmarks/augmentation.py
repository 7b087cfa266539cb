"""What augmentation costs beside the training step that it feeds: ratios, measured in one process.

Run with `python benchmarks/augmentation.py`; prints the table of benchmarks/notes/augmentation.md.
Both are done as in a training, which multiplies small maps and keeps freed memory.
"""

import statistics
import time

import cv2
import numpy as np
import torch

from fairweather.models.opening import load_model
from fairweather.processes import keep_freed_memory
from fairweather.runs.provenance import current_provenance
from fairweather.training.augmentation import make_batch
from fairweather.training.loop_parts import build_optimizer, training
from fairweather.training.recipe import AugMix, GaussianNoise, RandAugment, RandomErasing, Recipe
from fairweather.training.supervised import supervised_loss
from fairweather.types.measurement import Images

SIDE, CLASSES, BATCH = 32, 10, 128
PAIRS = 7
RECIPES = {
    "three views of AugMix": Recipe(augmix=AugMix()),
    "one view of AugMix": Recipe(augmix=AugMix(consistency=0.0)),
    "TrivialAugment": Recipe(trivial_augment=True),
    "RandAugment": Recipe(rand_augment=RandAugment()),
    "CutMix": Recipe(cutmix=1.0),
    "MixUp": Recipe(mixup=0.3),
    "Gaussian noise": Recipe(gaussian_noise=GaussianNoise(0.1)),
    "random erasing": Recipe(random_erasing=RandomErasing()),
    "nothing": Recipe(),
}


def smooth_images(n):
    """Blobs of colour with noise on them: a mixture of flat and busy places, as photographs are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    noisy = smooth + 0.05 * torch.randn(n, 3, SIDE, SIDE, generator=generator)
    pixels = (255 * noisy.clamp(0, 1)).to(torch.uint8)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return Images(pixels, labels, torch.arange(n), tuple(map(str, range(CLASSES))))


# Of one thread; unlike the time on the wall, it hardly depends on what else the machine does.
clock = time.process_time


def seconds(function):
    start = clock()
    result = function()
    return clock() - start, result


def new_step(recipe):
    """Forward, backward and the optimiser's step on a batch that is ready."""
    model = load_model("torchvision:resnet18", classes=CLASSES, weights="none").train()
    model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, None, recipe)

    def step(batch):
        loss = supervised_loss(model, batch, recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(recipe):
    """Seconds of making a batch, and of the step on it, in turn."""
    images, rng, device = smooth_images(BATCH), np.random.default_rng(0), torch.device("cpu")
    step = new_step(recipe)
    found = []
    with training(0, device):
        for _ in range(PAIRS + 1):
            making, batch = seconds(lambda: make_batch(images, recipe, rng, device))
            found.append((making, seconds(lambda batch=batch: step(batch))[0]))
    return found[1:]  # the first pair warms up


def row(what, pairs, bar):
    shares = [making / (making + taking) for making, taking in pairs]
    spread = f"{min(shares):.3f} to {max(shares):.3f}"
    made, trained = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    absolute = f"{made:.1f} ms before {trained:.0f} ms"
    return f"| {what} | {statistics.median(shares):.3f} | {spread} | {bar} | {absolute} |"


def main():
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    facts = current_provenance(torch.device("cpu"))
    machine = f"{facts.hardware['cpu']}, {torch.backends.cpu.get_cpu_capability()}, one thread"
    versions = ", ".join(f"{name} {facts.versions[name]}" for name in ("torch", "torchvision"))
    print(f"{machine}; Python {facts.python}, {versions}; fp32, channels last; ResNet-18,")
    print(f"{SIDE}x{SIDE} images, batch {BATCH}.\n")
    print("| a batch with | share of the step (median) | range | bar | absolute |")
    print("|---|---|---|---|---|")
    for what, recipe in RECIPES.items():
        bar = "<= 0.35" if recipe.augmix and recipe.augmix.consistency else ""
        print(row(what, measure(recipe), bar), flush=True)


if __name__ == "__main__":
    main()

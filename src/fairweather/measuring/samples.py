"""The few pictures that the report shows, stored so that it never needs the data again."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from fairweather.measuring.setting import Setting
from fairweather.runs import RunFolder
from fairweather.types import Dataset, Images, Shift

# Raised when the pictures become others of the same inputs.
VERSION = 1
MOST_PICTURES = 6
MIXUP_WEIGHT = 0.5


def samples_step(setting: Setting, *, mixup: bool) -> None:
    """Store the pictures of a run, with a MixUp example if that was asked for."""
    run = setting.run
    # What an attack does depends on the model, and shows nothing.
    shifts = [shift for shift in setting.shifts if isinstance(shift, Shift)]
    inputs = {
        "version": VERSION,
        "data": dict(setting.digests),
        "shifts": [shift.id for shift in shifts],
        "seed": setting.shift_seed,
        "mixup": mixup,
    }
    if not run.is_done("samples", inputs):
        files = write_samples(run, setting.dataset, shifts, setting.shift_seed, mixup)
        run.finish("samples", inputs, files)


def write_samples(
    run: RunFolder, dataset: Dataset, shifts: Sequence[Shift], shift_seed: int, mixup: bool
) -> list[str]:
    """Store a strip of test pictures under every shift, and a MixUp example if it is used.

    Each strip is a PNG of up to six pictures side by side. Returns the names of the files.
    """
    picked = pick_pictures(dataset.test, MOST_PICTURES)
    strips = {}
    for shift in shifts:
        strips[shift.id] = f"samples/{shift.id.replace('/', '__')}.png"
        run.write(strips[shift.id], _png(shift(picked.images, picked.keys, shift_seed)))
    index = {"labels": _names(picked), "width": picked.images.shape[3], "strips": strips}
    files = ["samples/index.json", *strips.values()]
    if mixup and dataset.train is not None:
        pair, name = pick_pictures(dataset.train, 2), "samples/mixup.png"
        run.write(name, _png(_with_mixture(pair.images)))
        index["mixup"] = {"file": name, "labels": _names(pair), "weight": MIXUP_WEIGHT}
        files.append(name)
    run.write("samples/index.json", json.dumps(index, indent=1) + "\n")
    return files


def pick_pictures(images: Images, most: int, seed: int = 0) -> Images:
    """Pick pictures of as many different classes as there are, seeded, in the order of classes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    labels = images.labels.numpy()[order]
    first_of_class = np.unique(labels, return_index=True)[1]
    chosen = np.sort(rng.permutation(first_of_class)[:most])
    by_class = chosen[np.argsort(labels[chosen])]
    return images[torch.from_numpy(order[by_class])]


def _names(images: Images) -> list[str]:
    return [images.classes[label] for label in images.labels.tolist()]


def _with_mixture(pair: torch.Tensor) -> torch.Tensor:
    first, second = pair.float()
    mixture = torch.lerp(second, first, MIXUP_WEIGHT).round().to(torch.uint8)
    return torch.cat([pair, mixture[None]])


def _png(images: torch.Tensor) -> bytes:
    strip = images.permute(2, 0, 3, 1).flatten(1, 2).contiguous()  # [H, N * W, 3]
    buffer = io.BytesIO()
    Image.fromarray(strip.numpy()).save(buffer, "png")
    return buffer.getvalue()

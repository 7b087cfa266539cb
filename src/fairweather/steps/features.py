"""The step that keeps features of known images, for the k-NN distance of others to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from fairweather.errors import InputError
from fairweather.inference import outputs_of
from fairweather.metrics.ood_scores import NEIGHBOURS
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder
from fairweather.steps.plan import Done, FeaturesStep
from fairweather.steps.worker import Worker

FloatArray = npt.NDArray[np.float32]
KEYS, FEATURES = "keys", "features"


def do_features(step: FeaturesStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Keep the features of a random sample of images; of a network without features only the keys.

    The last layer of such a network is not linear.
    """
    images = worker.images(step.images)
    chosen = sample(len(images), step.most, step.seed)
    network = worker.network(step.network, folder)
    parts: list[FloatArray] = []
    size = step.batch_size
    for at in range(0, len(chosen), size):  # a batch at a time: images may be larger than memory
        found = outputs_of(
            network,
            images[chosen[at : at + size]],
            batch_size=worker.batch_size(size),
            device=worker.device,
            arithmetic=step.arithmetic,
            when_halved=worker.halve,
        )
        if found.features is None:
            break
        parts.append(found.features)
        progress(Event(step.task, min(at + size, len(chosen)), len(chosen)))
    stored: dict[str, npt.NDArray[np.generic]] = {KEYS: images.keys.numpy()[chosen]}
    if parts:
        stored[FEATURES] = np.concatenate(parts)
    folder.write(step.leaves[0], safetensors.numpy.save(stored))
    used = worker.batch_size(size)
    return Done(_note(step, parts, len(chosen)), halved_to=used if used < size else None)


def _note(step: FeaturesStep, parts: list[FloatArray], images: int) -> str:
    if not parts:
        return "no features: the last layer of the network is not linear"
    width = parts[0].shape[1]
    which = f"{min(NEIGHBOURS, images)}-NN of {images:,} {step.images.part} images"
    return f"{which}, {width:,} features"


def sample(images: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw at most so many images, in their order.

    >>> sample(3, 5, seed=0)
    array([0, 1, 2])
    """
    drawn = np.random.default_rng(seed).permutation(images)[:most]
    return np.sort(drawn)


def read_features(folder: RunFolder, file: str) -> FloatArray | None:
    """Read the features that were kept, float32 `[M, D]`; None of a network that has none.

    Raises `InputError` for a file of something else.
    """
    path = folder.file(file)
    try:
        stored = safetensors.numpy.load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a file of features: {error}") from None
    return stored.get(FEATURES)

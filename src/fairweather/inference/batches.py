"""The loop over batches, in which models predict shifted or attacked images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.devices import (
    FP32,
    Arithmetic,
    free_memory,
    in_own_numbers,
    is_out_of_memory,
    resolve_device,
)
from fairweather.display import shows_progress, teller
from fairweather.errors import InputError, no_exit
from fairweather.inference.last_layer import last_input
from fairweather.inference.untouched import untouched
from fairweather.metrics.ood_scores import Seen, ood_scores
from fairweather.progress import Event, Notify
from fairweather.streams import Makers, shifted_batches, slices
from fairweather.tasks.classification import TASK
from fairweather.tasks.task import Task
from fairweather.types import (
    AnyPredictions,
    Attack,
    Images,
    Index,
    P,
    Predictions,
    Shift,
    join_columns,
    special_kind,
)
from fairweather.variants.fitted import UNCHANGED, Divided, Fitted

SLOW = 1.0  # seconds; a prediction that takes longer tells how far it is
T = TypeVar("T")
WhenHalved = Callable[[int], None]
Features = Callable[[], torch.Tensor | None]  # gives those of the last batch


class Known(NamedTuple):
    """What images are compared with to tell whether they are like known ones.

    Attributes:
        features: float32 `[M, D]` of known images; None if there are none to compare with.
    """

    features: npt.NDArray[np.float32] | None = None


class Reader(NamedTuple):
    """A model that predicts, and what is done with its logits.

    Attributes:
        model: float images in [0, 1] to logits.
        fitted: how its logits are changed.
        known: if given, the scores of `OOD_SCORES` are computed too, from the changed logits.
        adapts: whether it adapts to the images, so that it has an order and batches of its own.
        keeps_logits: keep the logits of any number of classes.
        task: what is stored of the changed logits.
    """

    model: nn.Module
    fitted: Fitted = UNCHANGED
    known: Known | None = None
    adapts: bool = False
    keeps_logits: bool = False
    task: Task = TASK


@shows_progress
def predict(
    model: nn.Module,
    images: Images,
    shift: Shift | Attack | None = None,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    cudnn_benchmark: bool = False,
    seed: int = 0,
    temperature: float = 1.0,
    when_halved: WhenHalved | None = None,
    progress: Notify | bool | None = True,
) -> Predictions:
    """Predict all images, clean, under a shift or under an attack.

    Shifts are applied to the 8-bit images, attacks to the float tensors. The model is in evaluation
    mode during the call; afterwards it has its mode, device and memory format again. When memory
    runs out, the batch size is halved, down to one image.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`; float32, or of the
            type of its parameters.
        images: labelled 8-bit images with as many classes as the model has logits. They may be
            larger than memory; with more than 100 classes, logits are not stored.
        shift: a shift or an attack; None for clean images. An attack uses the model and the labels,
            and its images are not rounded.
        batch_size: images per forward pass.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `fp32`; `tf32`, faster products on CUDA devices; or `bf16` (autocast).
        cudnn_benchmark: let cuDNN choose its kernels by speed, which may differ between calls.
        seed: seed of random shifts and attacks; use the same for all models.
        temperature: the logits are divided by it; attacks use the model without it.
        when_halved: called with the new batch size when memory has run out.
        progress: show how far it is (`Event` says how).

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> images = Images(pixels, labels, torch.arange(4), ("cat", "dog"))
    >>> len(predict(model, images, device="cpu"))
    4
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be >= 1, found {batch_size}")
    with untouched([model]):
        (predictions,) = predict_each(
            [Reader(in_own_numbers(model), Divided(value=temperature))],
            images,
            shift,
            batches=slices(len(images), batch_size),
            device=device,
            arithmetic=Arithmetic(precision, cudnn_benchmark),
            seed=seed,
            when_halved=when_halved,
            tell=tells_images(f"predict {shift.id if shift else 'clean'}", len(images), progress),
        )
    assert isinstance(predictions, Predictions)
    return predictions


def tells_images(task: str, total: int, progress: Notify | bool | None) -> Callable[[float], None]:
    """Make what tells how many images of a task are done, also parts of them, if it takes long."""
    tell, began = teller(progress), time.monotonic()

    def told(done: float) -> None:
        if time.monotonic() - began >= SLOW:
            tell(Event(task, int(done), total, part=done % 1))

    return told


def predict_each(
    readers: Sequence[Reader],
    images: Images,
    shift: Shift | Attack | None = None,
    *,
    batches: Sequence[Index],
    device: str | torch.device = "auto",
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    makers: Makers | None = None,
    keep: torch.Tensor | None = None,
    when_halved: WhenHalved | None = None,
    tell: Callable[[float], None] | None = None,
) -> list[AnyPredictions]:
    """Predict with several models, each as `predict` does; every batch is shifted once for all.

    Under attack, every model sees the images that were made for it.

    Args:
        readers: the models.
        images, shift, device, seed, when_halved: as in `predict`.
        arithmetic: how the logits are computed.
        batches: index of each batch.
        makers: shift batches ahead, while the models predict earlier ones; the result does not
            depend on them.
        keep: uint8, like the pixels of `images`; it receives the shifted pixels.
        tell: called with how many images are predicted so far, also between the runs of an attack.

    Returns:
        The predictions of each model, in the order of the batches.
    """
    if len(images) == 0:
        raise InputError("prediction needs at least one image, found none")
    device = resolve_device(device) if isinstance(device, str) else device
    arithmetic.check(device)
    attack = shift if isinstance(shift, Attack) else None

    done = 0

    def columns(reader: Reader, seen: Features, part: Images) -> AnyPredictions:
        def within(share: float) -> None:
            if tell is not None:
                tell((done + share * len(part)) / len(readers))

        nonlocal done
        logits = logits_of(reader.model, part, attack, device, arithmetic, seed, within).numpy()
        within(1.0)
        done += len(part)
        changed, labels, keys = reader.fitted.change(logits), part.labels.numpy(), part.keys.numpy()
        predicted = from_logits(changed, labels, keys, part.classes, reader.fitted, reader.task)
        if reader.keeps_logits:
            predicted = predicted.with_columns(logits=changed)
        if reader.known is None:
            return predicted
        scores = ood_scores(Seen(changed, _on_cpu(seen()), reader.known.features))
        return predicted.with_columns(ood_scores=scores)

    whole = Fitting(len(images), when_halved)
    found: list[list[AnyPredictions]] = [[] for _ in readers]
    with ExitStack() as modes:
        watched: list[Features] = []
        for reader in readers:
            modes.enter_context(evaluating(reader.model, device))
            compared = reader.known is not None and reader.known.features is not None
            watching = last_input(reader.model) if compared else nullcontext(_nothing)
            watched.append(modes.enter_context(watching))
        for batch in shifted_batches(
            images,
            None if isinstance(shift, Attack) else shift,
            seed,
            batches,
            makers=makers,
            pinned=device.type == "cuda",
            keep=keep,
        ):
            for reader, seen, parts in zip(readers, watched, found, strict=True):
                parts.extend(whole.parts(batch, partial(columns, reader, seen)))
    return [join(parts) for parts in found]


def _nothing() -> None:
    return None


def _on_cpu(features: torch.Tensor | None) -> npt.NDArray[np.float32] | None:
    return None if features is None else features.float().cpu().numpy()


def from_logits(
    logits: np.ndarray,
    labels: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    fitted: Fitted = UNCHANGED,
    task: Task = TASK,
) -> AnyPredictions:
    """Make the per-image columns of a cell from float32 logits `[N, classes]`.

    `labels` and `keys` are int64 `[N]`, `classes` the names in label order; `fitted` is what has
    changed the logits, and `task` says what is stored of them: of classification, `Predictions`.
    """
    if logits.shape[1] != len(classes):
        raise InputError(
            f"the model has {logits.shape[1]} outputs, but the data have {len(classes)} classes"
        )
    found: AnyPredictions = task.predictions(
        keys=keys,
        labels=labels,
        **fitted.columns(logits, labels, task),
        logits=logits if len(classes) <= task.most_stored else None,
        classes=classes,
    )
    return found


def join(parts: Sequence[P]) -> P:
    """Join the predictions of a model on consecutive groups of images."""
    return join_columns(parts, np.concatenate)


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Bring a model to a device and into evaluation mode; `untouched` brings a user's model back.

    Raises `InputError` inside if the model calls `sys.exit`.
    """
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with no_exit():
        yield


class Fitting:
    """Cuts images into parts that fit into memory: at most `size` images, halved when it runs out.

    Args:
        size: images in a part as long as memory is sufficient.
        when_halved: called with the new size when memory has run out.
    """

    def __init__(self, size: int, when_halved: WhenHalved | None = None) -> None:
        self.size, self.when_halved = size, when_halved

    def parts(self, images: Images, compute: Callable[[Images], T]) -> Iterator[T]:
        """Compute something of every part, in order.

        Raises `InputError` if a single image does not fit.
        """
        start = 0
        while start < len(images):
            part: T | None
            try:
                part = compute(images[start : start + self.size])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                part = None  # go on outside `except`, where the error has freed its tensors
            if part is None:
                self._halve(min(self.size, len(images) - start))
            else:
                yield part
                start += self.size

    def _halve(self, tried: int) -> None:
        if tried == 1:
            raise InputError("a single image does not fit into memory: use a smaller model")
        self.size = tried // 2
        free_memory()
        if self.when_halved is not None:
            self.when_halved(self.size)


@torch.no_grad()  # not inference mode: what a model keeps of this must serve attacks too
def logits_of(
    model: nn.Module,
    part: Images,
    attack: Attack | None,
    device: torch.device,
    arithmetic: Arithmetic,
    seed: int,
    tell: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """Return the logits of one batch of 8-bit images, float32 `[B, classes]` on the CPU.

    An attack changes the images after they became a float tensor, on the device. Images and logits
    are copies: a model may change its input, and reuse the memory of its output.
    """
    # Without waiting only from page-locked memory, which is that of the batches for CUDA devices.
    images = part.images.to(device, non_blocking=device.type == "cuda")
    inputs = images.to(memory_format=torch.channels_last).float().div_(255)
    if attack is not None:
        labels, keys = part.labels.to(device), part.keys.to(device)
        inputs = attack(model, inputs, labels, keys, seed, tell)
    with arithmetic.on(device):
        logits = model(inputs)
    check_logits(logits)
    return logits.float().to("cpu", copy=True)


def check_logits(logits: object) -> None:
    """Raise `InputError` unless these are plain real numbers `[B, classes]`.

    >>> check_logits(torch.zeros(2, 3, dtype=torch.bool))
    Traceback (most recent call last):
    fairweather.errors.InputError: a classifier must return logits as real numbers [B, classes],
    found a tensor of torch.bool
    """
    must = "a classifier must return logits as real numbers [B, classes], found"
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{must} a {type(logits).__name__}")
    if kind := special_kind(logits):
        raise InputError(f"{must} a {kind} tensor")
    if logits.dtype == torch.bool:
        raise InputError(f"{must} a tensor of {logits.dtype}")
    if logits.ndim != 2:
        raise InputError(f"{must} a tensor {list(logits.shape)}")

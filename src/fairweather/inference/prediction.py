"""Predictions of models from shifted or attacked images, batch by batch, and features."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.attacks.table import select_labels
from fairweather.data.batches import (
    BatchShifter,
    MixedImages,
    batch_slices,
    shifted_batches,
    to_input,
)
from fairweather.devices import (
    FP32,
    Arithmetic,
    Lane,
    adapt_precision,
    free_memory,
    is_out_of_memory,
    place_network,
    resolve_device,
)
from fairweather.errors import InputError, check_type, first_line, no_exit, quote_names
from fairweather.inference.choices import choose_classes, judge_by_truth
from fairweather.inference.stopwatch import Stopwatch
from fairweather.metrics.detection import OodInputs, compute_ood_scores
from fairweather.processes import keep_freed_memory
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.tasks import CLASSIFICATION_TASK, MULTILABEL_TASK, Task
from fairweather.types.measurement import (
    AnyPredictions,
    Attack,
    Choices,
    Images,
    Index,
    P,
    Passes,
    Shift,
    join_columns,
    special_kind,
)
from fairweather.variants.adaptation.networks import Tensors, list_layers
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.fitted import NOTHING_FITTED, FittedParameters
from fairweather.variants.variant import Adapting

SLOW_SECONDS = 1.0  # longer predictions show their progress
T = TypeVar("T")
WhenHalved = Callable[[int], None]
FeatureGetter = Callable[[], torch.Tensor | None]  # gives those of the last pass, on the device

# ---------------------------------------------------------------- networks while they predict


@contextmanager
def restore_modules(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the tensors, devices, memory formats and modes of modules after the block.

    The original tensors are kept during the block, so that nothing is converted back.

    >>> module = nn.Conv2d(3, 8, 3)
    >>> with restore_modules([module]):
    ...     _ = module.double().eval()
    >>> module.weight.dtype, module.training
    (torch.float32, True)
    """
    every = [module for top in modules for module in top.modules()]
    # Frozen TorchScript has no mode.
    modes = {module: module.training for module in every if hasattr(module, "training")}
    buffers = [(module, *item) for module in every for item in module._buffers.items()]
    parameters = [item for module in every for item in module.parameters(recurse=False)]
    # Bringing a module to a device replaces the data of parameters and gradients, and the buffers.
    tensors = [*parameters, *(item.grad for item in parameters if item.grad is not None)]
    data = [tensor.data for tensor in tensors]
    try:
        yield
    finally:
        for tensor, original in zip(tensors, data, strict=True):
            tensor.data = original
        for module, name, buffer in buffers:
            module._buffers[name] = buffer
        for module, training in modes.items():
            module.training = training


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a model to a device, in evaluation mode; `restore_modules` undoes both.

    Raises `InputError` inside if the model calls `sys.exit`.
    """
    place_network(model.eval(), device)
    with no_exit():
        yield


@contextmanager
def watch_last_layer(model: nn.Module) -> Iterator[FeatureGetter]:
    """Return a function that gives the features of the last pass: the input of the last layer.

    Only layers with parameters count. The function gives None if the last one is not linear or its
    input is not `[B, D]`.
    """
    features: list[torch.Tensor] = []

    def store_input(module: nn.Module, arguments: tuple[Any, ...], _: object) -> None:
        features.clear()
        match arguments:
            case (torch.Tensor(ndim=2) as inputs, *_) if isinstance(module, nn.Linear):
                features.append(inputs.detach().clone())  # the network may reuse its memory

    hooks = [layer.register_forward_hook(store_input) for layer in list_layers(model)]
    try:
        yield lambda: features.pop().float() if features else None
    finally:
        for hook in hooks:
            hook.remove()


class Batcher:
    """Cuts images into parts that fit into memory: `size` images, halved when memory runs out.

    Args:
        size: images in a part as long as memory is sufficient.
        when_halved: called with the new size when memory has run out.
    """

    def __init__(self, size: int, when_halved: WhenHalved | None = None) -> None:
        self.size, self.when_halved = size, when_halved

    def parts(self, images: Images, compute: Callable[[Images], T]) -> Iterator[T]:
        """Apply a function to every part, in order.

        Raises `InputError` if a single image does not fit.
        """
        start = 0
        while start < len(images):
            result: T | None
            try:
                result = compute(images[start : start + self.size])
            except Exception as error:  # libraries have only this in common
                if not is_out_of_memory(error):
                    raise
                if min(self.size, len(images) - start) == 1:
                    raise InputError(
                        f"a single image does not fit into memory ({first_line(error)}): use a "
                        "smaller model"
                    ) from None
                result = None  # go on outside `except`, where the error has freed its tensors
            if result is None:
                self._halve(min(self.size, len(images) - start))
            else:
                yield result
                start += self.size

    def _halve(self, tried: int) -> None:
        self.size = tried // 2
        free_memory()
        if self.when_halved is not None:
            self.when_halved(self.size)


@torch.no_grad()  # not inference mode: attacks need the tensors that a model keeps
def compute_logits(
    model: nn.Module,
    batch: Images,
    attack: Attack | None,
    lane: Lane,
    arithmetic: Arithmetic,
    seed: int,
    tell: Callable[[float], None] | None = None,
) -> Callable[[], torch.Tensor]:
    """Compute the logits of 8-bit images; returns a function that gives them when they are here.

    They are float32 `[B, classes]` on the CPU. An attack changes the images as a float tensor on
    the device, and calls `tell` with the share of its work that is done. Images and logits are
    copies: a model may change its input, and reuse the memory of its output.
    """
    inputs = to_input(lane.bring(batch.images))
    if attack is not None:
        labels = select_labels(attack, batch).to(lane.device)
        inputs = attack(model, inputs, labels, batch.keys.to(lane.device), seed, tell)
    with arithmetic.on(lane.device):
        logits = model(inputs)
    check_logits(logits)
    return lane.fetch(logits.float())


def check_logits(logits: object) -> None:
    """Raise `InputError` unless the logits are a dense tensor of real numbers `[B, classes]`.

    >>> check_logits(torch.zeros(2, 3, dtype=torch.bool))
    Traceback (most recent call last):
    fairweather.errors.InputError: a classifier must return logits as real numbers [B, classes],
    found a tensor of torch.bool
    """
    expected = "a classifier must return logits as real numbers [B, classes], found"
    if isinstance(logits, Mapping | tuple) and logits:
        names = list(logits) if isinstance(logits, Mapping) else list(range(len(logits)))
        likely = "logits" if "logits" in names else names[0]
        raise InputError(
            f"{expected} a {type(logits).__name__} with {quote_names(names)}: wrap the model in a "
            f"module that returns the logits, such as output[{likely!r}]"
        )
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{expected} a {type(logits).__name__}")
    if kind := special_kind(logits):
        raise InputError(f"{expected} a {kind} tensor")
    if logits.dtype == torch.bool:
        raise InputError(f"{expected} a tensor of {logits.dtype}")
    if logits.ndim != 2:
        raise InputError(f"{expected} a tensor {list(logits.shape)}")


class NetworkOutputs(NamedTuple):
    """The logits and features of a network for some images."""

    logits: npt.NDArray[np.float32]
    """float32 `[N, classes]`."""

    features: npt.NDArray[np.float32] | None
    """float32 `[N, D]`, what its last layer sees; None if that is not a linear layer, as in a
    network that ends with a convolution, or in an ONNX graph."""


class WatchedNetwork(NamedTuple):
    """A network in evaluation mode on its device."""

    model: nn.Module
    features: FeatureGetter | None = None
    """From `watch_last_layer`; None if its features are not wanted."""


class _Waiting(NamedTuple):
    """A part of a batch whose outputs are on their way to the CPU."""

    number: int
    images: Images
    """The device may still read them."""

    logits: Callable[[], torch.Tensor]
    features: Callable[[], torch.Tensor] | None

    def wait(self, arithmetic: Arithmetic) -> tuple[int, Images, NetworkOutputs]:
        features = None if self.features is None else self.features().numpy()
        logits = self.logits().numpy()
        arithmetic.check_range(logits)
        return self.number, self.images, NetworkOutputs(logits, features)


def compute_ahead(
    networks: Sequence[WatchedNetwork],
    batches: Iterable[Images],
    lane: Lane,
    arithmetic: Arithmetic,
    *,
    batcher: Batcher,
    attack: Attack | None = None,
    seed: int = 0,
    tell: Callable[[float], None] | None = None,
) -> Iterator[tuple[int, Images, NetworkOutputs]]:
    """Compute the outputs of several networks for the same batches.

    A CUDA device computes the next part while the outputs of one are used.

    Args:
        networks: they are on the device.
        batches: their pixels stay as they are while somebody has them.
        lane: of the device.
        arithmetic, attack, seed: as in `compute_logits`.
        batcher: divides batches when memory runs out.
        tell: as in `predict_batches`.

    Yields:
        The place of a network, a part of a batch, and the outputs; each network's in order.
    """
    done = 0

    def begin(number: int, part: Images) -> _Waiting:
        def tell_share(share: float) -> None:
            if tell is not None:
                tell((done + share * len(part)) / len(networks))

        nonlocal done
        model, last_features = networks[number]
        logits = compute_logits(model, part, attack, lane, arithmetic, seed, tell_share)
        features = None if last_features is None else last_features()
        tell_share(1.0)
        done += len(part)
        return _Waiting(number, part, logits, None if features is None else lane.fetch(features))

    keep_freed_memory()
    waiting: deque[_Waiting] = deque()
    for batch in batches:
        for number in range(len(networks)):
            for begun in batcher.parts(batch, partial(begin, number)):
                waiting.append(begun)
                if len(waiting) > lane.ahead:
                    yield waiting.popleft().wait(arithmetic)
    while waiting:
        yield waiting.popleft().wait(arithmetic)


def _check_and_resolve(
    images: Images | MixedImages, device: str | torch.device, arithmetic: Arithmetic
) -> torch.device:
    """The device by its name, if the images and the precision can be used on it."""
    if len(images) == 0:
        raise InputError("prediction needs at least one image, found none")
    device = resolve_device(device) if isinstance(device, str) else device
    arithmetic.check(device)
    return device


# ---------------------------------------------------------------- predictions


class KnownFeatures(NamedTuple):
    """The features of known images, which out-of-distribution scores compare new images with."""

    features: npt.NDArray[np.float32] | None = None
    """float32 `[M, D]`; None leaves only the scores that use logits."""


class Predictor(NamedTuple):
    """A model, and what is stored of its logits."""

    model: nn.Module
    """Float images in [0, 1] to logits."""

    fitted: FittedParameters = NOTHING_FITTED
    """How its logits are changed."""

    known: KnownFeatures | None = None
    """None to compute no out-of-distribution scores; else they come from the changed logits."""

    adapting: Adapting | None = None
    """What adapts copies of the model to the images they see, in streams of their own."""

    seed: int = 0
    """The number of the model's seed; each has orders and random numbers of its own."""

    learned: Mapping[str, torch.Tensor] = MappingProxyType({})
    """What `learn_from_source` gave for the method; every stream begins with it."""

    carried: list[Tensors] | None = None
    """What each stream has changed in the cell before; what it has changed until the end of this
    cell takes its place. None if each cell begins with new copies."""

    clock: Stopwatch | None = None
    """Counts the seconds of the network itself; None if nobody asks for them."""

    keeps_logits: bool = False
    """Keep the logits of any number of classes."""

    task: Task = CLASSIFICATION_TASK
    """Which columns are stored of the changed logits."""

    def finish(
        self, images: Images, outputs: np.ndarray, features: npt.NDArray[np.float32] | None
    ) -> AnyPredictions:
        """The predictions to store, from the model's logits for images."""
        logits = self.fitted.change(outputs)
        labels, keys = images.labels.numpy(), images.keys.numpy()
        predictions = make_predictions(
            logits, labels, keys, images.classes, self.fitted, self.task, images.choices
        )
        if self.keeps_logits:
            predictions = predictions.with_columns(logits=logits)
        if self.known is None:
            return predictions
        scores = compute_ood_scores(OodInputs(logits, features, self.known.features))
        return predictions.with_columns(ood_scores=scores)


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
    compile: bool = False,
    seed: int = 0,
    temperature: float = 1.0,
    when_halved: WhenHalved | None = None,
    progress: Notify | bool | None = True,
) -> AnyPredictions:
    """Predict all images, clean, under a shift or under an attack.

    Shifts are applied to the 8-bit images, attacks to the float tensors. The model is in evaluation
    mode during the call; afterwards it has its mode, device and memory format again. When memory
    runs out, the batch size is halved, down to one image.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`; float32, or of the
            type of its parameters.
        images: labelled 8-bit images with as many classes, or findings, as the model has logits.
            They may be larger than memory; with more than 100 classes, logits are not stored.
        shift: a shift or an attack; None for clean images. An attack uses the model and the labels,
            and its images are not rounded.
        batch_size: images per forward pass.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `fp32`; `tf32`, faster products on CUDA devices; or `bf16` or `fp16` (autocast).
        cudnn_benchmark: let cuDNN choose its kernels by speed, which may differ between calls.
        compile: compile the model by `torch.compile`; not under attack. Short batches are filled
            up, so no image's logits may depend on other images.
        seed: seed of random shifts and attacks; use the same for all models.
        temperature: the logits are divided by it; attacks use the model without it.
        when_halved: called with the new batch size when memory has run out.
        progress: show how far it is (`Event` says how).

    Returns:
        `Predictions` of classes; of labels `[N, L]`, the `FindingsPredictions`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> images = Images(pixels, labels, torch.arange(4), ("cat", "dog"))
    >>> len(predict(model, images, device="cpu"))
    4
    """
    check_type(model, nn.Module, "a model is a torch.nn.Module, such as load_model(SOURCE)")
    check_type(images, Images, "images must be Images, such as load_data(SOURCE).test")
    check_type(shift, Shift | Attack | None, "a shift is made by make_shift or make_attack")
    check_type(batch_size, Integral, "batch_size must be a whole number")
    check_type(temperature, Real, "temperature must be a number")
    if batch_size < 1:
        raise InputError(f"batch_size must be >= 1, found {batch_size}")
    if not 0 < temperature < np.inf:  # nor NaN
        raise InputError(f"temperature must be above 0 and finite, found {temperature}")
    task = MULTILABEL_TASK if images.labels.ndim > 1 else CLASSIFICATION_TASK
    task.check(images.labels.numpy(), images.classes)
    with restore_modules([model]):
        (predictions,) = predict_batches(
            [Predictor(adapt_precision(model), LogitDivisor(value=temperature), task=task)],
            images,
            shift,
            batches=batch_slices(len(images), batch_size),
            device=device,
            arithmetic=Arithmetic(precision, cudnn_benchmark, compile),
            seed=seed,
            when_halved=when_halved,
            tell=make_image_notifier(
                f"predict {shift.id if shift else 'clean'}", len(images), progress
            ),
        )
    return predictions


def make_image_notifier(
    task: str, total: int, progress: Notify | bool | None
) -> Callable[[float], None]:
    """Make a callback that shows how many images of a task are done, once it has taken long."""
    notify, start = to_notify(progress), time.monotonic()

    def tell(done: float) -> None:
        if time.monotonic() - start >= SLOW_SECONDS:
            notify(Event(task, int(done), total, part=done % 1))

    return tell


def predict_batches(
    predictors: Sequence[Predictor],
    images: Images | MixedImages,
    shift: Shift | Attack | None = None,
    *,
    batches: Sequence[Index],
    device: str | torch.device = "auto",
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    shifters: BatchShifter | None = None,
    out: torch.Tensor | None = None,
    when_halved: WhenHalved | None = None,
    tell: Callable[[float], None] | None = None,
) -> list[AnyPredictions]:
    """Predict with several models as `predict` does, but shift every batch only once.

    Under attack, every model sees its own attacked images.

    Args:
        predictors: the models.
        images, shift, device, seed, when_halved: as in `predict`.
        arithmetic: how the logits are computed.
        batches: index of each batch.
        shifters: shift batches ahead, while the models predict earlier ones; None gives the same
            result.
        out: uint8, like the pixels of `images`; it receives the shifted pixels.
        tell: called with the mean number of images that each model has predicted so far, also
            between the runs of an attack.

    Returns:
        The predictions of each model, in the order of the batches.
    """
    device = _check_and_resolve(images, device, arithmetic)
    attack, shift = (shift, None) if isinstance(shift, Attack) else (None, shift)
    parts: list[list[AnyPredictions]] = [[] for _ in predictors]
    with ExitStack() as modes:
        networks = []
        for predictor in predictors:
            network: nn.Module = predictor.model
            features: FeatureGetter | None = None
            modes.enter_context(evaluation_mode(network, device))
            if predictor.known is not None and predictor.known.features is not None:
                features = modes.enter_context(watch_last_layer(network))
            elif attack is None and predictor.adapting is None:
                network = arithmetic.compiled(network)
            if predictor.clock is not None:
                network = nn.Sequential(network)  # other predictors may have the same network
                modes.enter_context(predictor.clock.watch(network, device))
            networks.append(WatchedNetwork(network, features))
        pinned = device.type == "cuda"
        for number, part, outputs in compute_ahead(
            networks,
            shifted_batches(
                images, shift, seed, batches, shifters=shifters, pinned=pinned, out=out
            ),
            Lane(device),
            arithmetic,
            attack=attack,
            seed=seed,
            batcher=Batcher(len(images), when_halved),
            tell=tell,
        ):
            made = predictors[number].finish(part, outputs.logits, outputs.features)
            parts[number].append(made)
    return [join_predictions(model_parts) for model_parts in parts]


def make_predictions(
    logits: np.ndarray,
    labels: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    fitted: FittedParameters = NOTHING_FITTED,
    task: Task = CLASSIFICATION_TASK,
    choices: Choices | None = None,
) -> AnyPredictions:
    """Make the per-image columns of a cell from float32 logits `[N, classes]`.

    `labels` and `keys` are int64 `[N]`, `classes` the names in label order. `fitted` is what has
    changed the logits. `task` says which columns are made of them: for classification,
    `Predictions`. `choices` are the classes that count, and what is right of each image.
    """
    if logits.shape[1] != len(classes):
        raise InputError(
            f"the model has {logits.shape[1]} outputs, but the data have {len(classes)} classes"
        )
    # Areas and errors of single classes mean nothing where several are right.
    is_stored = choices is None or choices.judged != "several"
    if choices is None:
        columns = fitted.columns(logits, labels, task)
    else:
        logits, right = choose_classes(logits, classes, choices)
        columns = judge_by_truth(logits, labels, right, partial(fitted.columns, task=task))
    predictions: AnyPredictions = task.predictions(
        keys=keys,
        labels=labels,
        **columns,
        logits=logits if is_stored and task.stores_logits(len(classes)) else None,
        classes=classes,
    )
    return predictions


def join_predictions(parts: Sequence[P]) -> P:
    """Join the predictions of a model on consecutive images, part by part."""
    return join_columns(parts, np.concatenate)


def compute_outputs(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    arithmetic: Arithmetic = FP32,
    when_halved: WhenHalved | None = None,
    tell: Callable[[int], None] | None = None,
) -> NetworkOutputs:
    """Predict clean images, and keep the features too; labels are not used.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.
        images: 8-bit images; they may be larger than memory.
        batch_size: images per forward pass; halved when memory runs out.
        device: `auto`, `cpu`, `cuda`, ...
        arithmetic: how the logits are computed.
        when_halved: called with the new batch size when memory has run out.
        tell: called after each batch with the number of images predicted so far.

    Raises:
        InputError: there are no images, or the model returns something else than logits.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long()
    >>> outputs = compute_outputs(model, Images(pixels, labels, torch.arange(4), ("cat", "dog")))
    >>> outputs.logits.shape, outputs.features.shape
    ((4, 2), (4, 5))
    """
    device = _check_and_resolve(images, device, arithmetic)
    logits: list[npt.NDArray[np.float32]] = []
    features: list[npt.NDArray[np.float32]] = []
    slices = batch_slices(len(images), batch_size)
    with evaluation_mode(model, device), watch_last_layer(model) as last_features:
        for _, _, outputs in compute_ahead(
            [WatchedNetwork(model, last_features)],
            shifted_batches(images, None, 0, slices, pinned=device.type == "cuda"),
            Lane(device),
            arithmetic,
            batcher=Batcher(batch_size, when_halved),
            tell=None if tell is None else lambda done: tell(round(done)),
        ):
            logits.append(outputs.logits)
            if outputs.features is not None:
                features.append(outputs.features)
    joined = np.concatenate(features) if len(features) == len(logits) else None
    return NetworkOutputs(np.concatenate(logits), joined)


# ---------------------------------------------------------------- plain and adapted models together

# Plain and adapted models need different batches of the same shifted images. The shifted images are
# kept for all if they are not larger than this; otherwise, the shift is applied again.
MOST_KEPT_BYTES = 2**29


def predict_shared(
    predictors: Sequence[Predictor],
    images: Images,
    shift: Shift | Attack,
    *,
    batch_size: int,
    safe_batch_size: int | None = None,
    device: torch.device,
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    shifters: BatchShifter | None = None,
    when_halved: WhenHalved | None = None,
    tell: Callable[[float], None] | None = None,
) -> list[AnyPredictions]:
    """Predict with several models as if one by one; models that adapt have streams of their own.

    Args:
        predictors: the models.
        images, shift, device, arithmetic, seed, shifters: as in `predict_batches`.
        batch_size: images per forward pass; models that adapt may have a batch size of their own.
        safe_batch_size: a smaller batch size that is known to fit into memory. It is only for
            models that do not adapt: for the others it would change the result.
        when_halved: as in `predict_batches`, of models that do not adapt.
        tell: as in `predict_batches`, with the mean over models and streams.

    Returns:
        The predictions of each model, in the order of the images; of a model that adapts, stream
        after stream (`AnyPredictions.stream`).

    Raises:
        InputError: a batch would be too small for a model that adapts; or memory runs out for it,
            because smaller batches would change its results.
    """
    plain = [model for model in predictors if model.adapting is None]
    shifted = images
    is_reused = len(plain) < len(predictors) and shift.level is not None
    if is_reused and images.images.nbytes <= MOST_KEPT_BYTES:
        shifted = replace(images, images=torch.empty_like(images.images))
    kept = None if shifted is images else shifted.images

    def tell_share(before: int, models: int, done: float) -> None:
        """Tell how many images are done, of `models` after those `before` them."""
        if tell is not None:
            tell((before * len(images) + models * done) / len(predictors))

    in_order: Iterator[AnyPredictions] = iter(())
    batches = batch_slices(len(images), safe_batch_size or batch_size)
    predict_group = partial(predict_batches, device=device, arithmetic=arithmetic, seed=seed)
    if plain:
        in_order = iter(
            predict_group(
                plain,
                images,
                shift,
                batches=batches,
                shifters=shifters,
                out=kept,
                when_halved=when_halved,
                tell=partial(tell_share, 0, len(plain)),
            )
        )
    elif kept is not None and isinstance(shift, Shift):
        for _ in shifted_batches(images, shift, seed, batches, shifters=shifters, out=kept):
            pass
    in_streams = partial(
        predict_streams,
        images=shifted,
        shift=shift if kept is None else None,
        batch_size=batch_size,
        device=device,
        arithmetic=arithmetic,
        seed=seed,
        shifters=shifters,
    )
    predictions, done = [], len(plain)
    for model in predictors:
        if model.adapting is None:
            predictions.append(next(in_order))
        else:
            own = partial(tell_share, done, 1)
            predictions.append(in_streams(model, model.adapting, tell=own))
            done += 1
    return predictions


def predict_streams(
    predictor: Predictor,
    adapting: Adapting,
    *,
    images: Images | MixedImages,
    shift: Shift | Attack | None = None,
    batch_size: int,
    device: torch.device,
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    shifters: BatchShifter | None = None,
    tell: Callable[[float], None] | None = None,
) -> AnyPredictions:
    """Predict every stream of a model that adapts, each with a copy of its own.

    Args:
        predictor: the model as it is.
        adapting: what adapts copies of it.
        images: all images; mixed ones are shifted already.
        batch_size: that of the evaluation.
        shift, device, arithmetic, seed, shifters: as in `predict_batches`.
        tell: called with the mean number of images that each stream has seen so far.

    Returns:
        The rows of one stream after those of another, each in the order of the images.

    Raises `InputError` if a batch would be too small, or memory runs out.
    """
    count = adapting.count_batches(len(images), batch_size, predictor.model)
    parts, carried, passes = [], [], Passes(0, 0)

    def tell_mean(number: int, done: float) -> None:
        if tell is not None:
            tell((number * len(images) + done) / adapting.orders)

    for number, places in enumerate(adapting.draw_streams(images.labels.numpy(), predictor.seed)):
        adapted = adapting.adapt(predictor.model, number + (predictor.seed % 2**16 << 16))
        adapted.memory |= predictor.learned
        first = {} if predictor.carried is None else adapted.carry()
        if predictor.carried:
            adapted.resume(predictor.carried[number])
        (seen,) = predict_batches(
            [predictor._replace(model=adapted)],
            images,
            shift,
            batches=[torch.from_numpy(part) for part in np.array_split(places, count)],
            device=device,
            arithmetic=arithmetic,
            seed=seed,
            shifters=shifters,
            when_halved=_refuse_smaller,
            tell=partial(tell_mean, number),
        )
        stream = np.full(len(places), number, dtype=np.int64)
        rows = seen.with_columns(stream=stream, place=np.arange(len(places)))
        parts.append(rows.take(np.argsort(places)))
        passes = Passes(*map(sum, zip(passes, adapted.passes, strict=True)))
        if predictor.carried is not None:
            carried.append(_select_changed(adapted.carry(), first))
        del adapted  # before the next one is made
    if predictor.carried is not None:
        predictor.carried[:] = carried
    return join_predictions(parts).with_columns(passes=passes)


def learn_from_source(
    model: nn.Module,
    adapting: Adapting,
    source: Images,
    *,
    batch_size: int,
    device: torch.device,
    arithmetic: Arithmetic = FP32,
) -> Tensors:
    """What all copies of a model remember of clean validation images.

    Args:
        model: as in `predict`.
        adapting: a method with `source_images`.
        source: the images.
        batch_size: that of the evaluation.
        device, arithmetic: as in `predict_batches`.

    Raises `InputError` if a batch would be too small, or memory runs out.
    """
    adapted = adapting.adapt(model)
    count = adapting.count_batches(len(source), batch_size, model)

    def batches() -> Iterator[torch.Tensor]:
        for places in np.array_split(np.arange(len(source)), count):
            yield to_input(source[places].images.to(device))

    try:
        with evaluation_mode(adapted, device), arithmetic.on(device), torch.enable_grad():
            learned = adapting.learn(adapted, batches())
    except Exception as error:  # libraries have only this in common
        if not is_out_of_memory(error):
            raise
        _refuse_smaller(0)
    return {name: tensor.detach() for name, tensor in learned.items()}


def _select_changed(last: Tensors, first: Tensors) -> Tensors:
    return {
        name: tensor
        for name, tensor in last.items()
        if name not in first or not torch.equal(first[name], tensor)
    }


def _refuse_smaller(_: int) -> NoReturn:
    raise InputError(
        "memory ran out, and smaller batches would change the result of a model that adapts: "
        "choose a smaller batch size"
    )

"""Steps that predict a split of the data under a shift, and the step that fits a temperature."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from torch import nn

from fairweather.errors import InputError
from fairweather.inference import (
    Known,
    Reader,
    adapt_batchnorm,
    fit_temperature,
    from_logits,
    join,
    join_adapted,
    mean_log_probability,
    predict_each,
    predict_logits,
    predict_shared,
    scale,
)
from fairweather.metrics.ood_scores import Seen, ood_scores
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder, read_json
from fairweather.shift_lists import expand, read_elsewhere
from fairweather.steps.features import read_features
from fairweather.steps.plan import (
    Adapted,
    Averaged,
    Done,
    FitStep,
    Forward,
    Given,
    PredictStep,
    Scaled,
    Step,
)
from fairweather.steps.worker import Worker
from fairweather.streams import WHOLE, Shard
from fairweather.types import Attack, Predictions, Shift, is_finite


def do_fit(step: FitStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Fit a temperature, and store it with its effect."""
    stored = folder.read_predictions(step.validation)
    logits, halved = stored.logits, None
    if logits is None:
        assert step.network is not None, "what is given has its logits"
        logits = predict_logits(
            worker.network(step.network, folder),
            worker.images(step.val),
            batch_size=worker.batch_size(step.batch_size),
            device=worker.device,
            arithmetic=step.arithmetic,
            when_halved=_halve(worker, progress),
        )
        halved = _halved_to(step, worker)
    fitted = fit_temperature(logits, stored.labels)
    folder.write(step.leaves[0], json.dumps(fitted._asdict(), indent=1) + "\n")
    return Done(f"temperature {fitted.value:.3g}", halved_to=halved)


def pixels_of(step: Step) -> tuple[Hashable, ...] | None:
    """Tell which shifted images a step predicts with a network; None if it does nothing like this.

    Steps with the same answer can be done together, so that each image is shifted once. The images
    of an attack are made for one network, so they are shared with none.
    """
    if not isinstance(step, PredictStep) or isinstance(step.how, Scaled | Averaged | Given):
        return None
    if _is_attack(step.shift):
        return None
    of = (step.images, step.shift, step.shift_seed, step.batch_size, step.ood_scores)
    return (*of, step.arithmetic, step.device, step.threads)


def do_predict(step: PredictStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Predict one split of the data under one shift or attack."""
    match step.how:
        case Averaged(members=files):
            members = [folder.read_predictions(file) for file in files]
            logits = mean_log_probability(each.logits for each in members)
            first = members[0]
            found = from_logits(logits, first.labels, first.keys, first.classes)
            return _store(step, found, folder)
        case Scaled(of=of, temperature=temperature):
            found = scale(folder.read_predictions(of), read_temperature(folder, temperature))
            return _store(step, found, folder)
        case Given(digest=digest):
            return _store(step, worker.given(step.leaves[0], digest), folder)
    (done,) = do_predictions([step], worker, folder, progress)
    return done


def do_predictions(
    steps: Sequence[PredictStep], worker: Worker, folder: RunFolder, progress: Notify
) -> list[Done]:
    """Predict the same shifted images with several networks; `pixels_of` all steps is the same."""
    found = predict_shard(steps, worker, folder, progress, WHOLE)
    return [store_shards(step, [part], folder) for step, part in zip(steps, found, strict=True)]


class Predicted(NamedTuple):
    """The predictions of a step on one shard of its batches.

    Attributes:
        predictions: as `predict_shared` gives them.
        halved_to: the batch size that was used, if memory has run out; else None.
    """

    predictions: Predictions
    halved_to: int | None


def predict_shard(
    steps: Sequence[PredictStep],
    worker: Worker,
    folder: RunFolder,
    progress: Notify,
    shard: Shard,
) -> list[Predicted]:
    """Predict a shard of the batches: with several networks, or those of one attack.

    A batch has the same images as without shards, so that its predictions are the same.
    """
    first, shift = steps[0], shift_of(steps[0].shift)
    if isinstance(shift, Attack):
        (step,) = steps
        assert isinstance(step.how, Forward)
        images, fitting = worker.images(step.images), worker.batch_size(step.batch_size)
        attacked = predict_each(
            [Reader(worker.network(step.how.network, folder), _temperature(step.how, folder))],
            images,
            shift,
            batches=shard.slices(len(images), step.batch_size, fitting),
            device=worker.device,
            arithmetic=step.arithmetic,
            seed=step.shift_seed,
            when_halved=_halve(worker, progress),
        )
        return [Predicted(attacked[0], _halved_to(step, worker))]
    plain: list[tuple[PredictStep, Reader]] = []
    adapted: list[tuple[PredictStep, nn.Module]] = []
    for step in steps:
        assert isinstance(step.how, Forward | Adapted)
        network = worker.network(step.how.network, folder)
        if isinstance(step.how, Forward):
            temperature = _temperature(step.how, folder)
            plain.append((step, Reader(network, temperature, _known(step, folder))))
        else:
            adapted.append((step, adapt_batchnorm(network)))
    found = predict_shared(
        [reader for _, reader in plain],
        [model for _, model in adapted],
        worker.images(first.images),
        shift,
        batch_size=worker.batch_size(first.batch_size),
        adapted_batch_size=first.batch_size,
        device=worker.device,
        arithmetic=first.arithmetic,
        seed=first.shift_seed,
        makers=worker.shifters,
        when_halved=_halve(worker, progress),
        shard=shard,
        scored=first.ood_scores,
    )
    predicted = {
        step.id: predictions
        for members, predicted in ((plain, found.plain), (adapted, found.adapted))
        for (step, _), predictions in zip(members, predicted, strict=True)
    }
    return [
        # Batches of adapted networks are never halved.
        Predicted(
            predicted[step.id],
            None if isinstance(step.how, Adapted) else _halved_to(step, worker),
        )
        for step in steps
    ]


def store_shards(step: PredictStep, shards: Sequence[Predicted], folder: RunFolder) -> Done:
    """Join the predictions of all shards of a step, in their order, and store them."""
    parts = [each.predictions for each in shards]
    in_batches = isinstance(step.how, Adapted) and len(parts) > 1
    sizes = [each.halved_to for each in shards if each.halved_to is not None]
    joined = join_adapted(parts) if in_batches else join(parts)
    return _store(step, joined, folder, min(sizes, default=None))


def _store(
    step: PredictStep, predictions: Predictions, folder: RunFolder, halved: int | None = None
) -> Done:
    """Write predictions; `halved` is the batch size that was used, if memory has run out."""
    if step.ood_scores and isinstance(step.how, Scaled | Averaged):
        assert predictions.logits is not None, "both are made of stored logits"
        # Those of the new logits; a k-NN distance of the same features stays.
        found = ood_scores(Seen(predictions.logits))
        predictions = replace(predictions, ood_scores={**predictions.ood_scores, **found})
    if step.labelled:
        folder.write_predictions(step.leaves[0], predictions)
        note = f"{step.shift}: accuracy {np.mean(predictions.correct):.1%}"
    else:
        folder.write_unlabelled(step.leaves[0], predictions)
        note = f"{step.images.data}: confidence {np.mean(predictions.confidence):.1%}"
    return Done(note, halved_to=halved)


def _halved_to(step: PredictStep | FitStep, worker: Worker) -> int | None:
    """The batch size that was used, if memory has run out before or during the step."""
    used = worker.batch_size(step.batch_size)
    return used if used < step.batch_size else None


def _known(step: PredictStep, folder: RunFolder) -> Known | None:
    if not step.ood_scores:
        return None
    return Known(read_features(folder, step.known) if step.known is not None else None)


def _temperature(how: Forward, folder: RunFolder) -> float:
    return 1.0 if how.temperature is None else read_temperature(folder, how.temperature)


def _halve(worker: Worker, progress: Notify) -> Callable[[int], None]:
    def halved(size: int) -> None:
        worker.halve(size)
        words = f"memory ran out: batches of {size}"
        progress(Event(words, 1, 1, line=f"note           {words}"))

    return halved


def read_temperature(folder: RunFolder, file: str) -> float:
    """Read the temperature that a step fitted; raises `InputError` for another file."""
    value = read_json(folder.file(file)).get("value")
    if not isinstance(value, int | float) or not is_finite(value) or value <= 0:
        raise InputError(f"{folder.file(file)} does not hold a temperature")
    return float(value)


def shift_of(text: str) -> Shift | Attack:
    """The shift or attack with this id.

    >>> shift_of("gaussian_blur,sigma=0.7").level
    0.7
    """
    if (found := read_elsewhere(text)) is not None:
        return found
    (one,) = expand(text)
    return one


@cache
def _is_attack(text: str) -> bool:
    return isinstance(shift_of(text), Attack)

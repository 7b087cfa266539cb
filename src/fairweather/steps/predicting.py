"""Steps that predict a split of the data under a shift, and the step that fits a temperature."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from functools import cache

import numpy as np
from torch import nn

from fairweather.inference import (
    Reader,
    adapt_batchnorm,
    fit_temperature,
    from_logits,
    mean_log_probability,
    predict,
    predict_logits,
    predict_shared,
    scale,
)
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder
from fairweather.shift_lists import expand
from fairweather.steps.plan import (
    Adapted,
    Averaged,
    Done,
    FitStep,
    Forward,
    PredictStep,
    Scaled,
    Step,
)
from fairweather.steps.worker import Worker
from fairweather.types import Attack, Predictions, Shift


def do_fit(step: FitStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Fit a temperature, and store it with its effect."""
    stored = folder.read_predictions(step.validation)
    logits, halved = stored.logits, None
    if logits is None:
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
    if not isinstance(step, PredictStep) or isinstance(step.how, Scaled | Averaged):
        return None
    if _is_attack(step.shift):
        return None
    of = (step.images, step.shift, step.shift_seed, step.batch_size)
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
        case Forward(network=network) if _is_attack(step.shift):
            found = predict(
                worker.network(network, folder),
                worker.images(step.images),
                shift_of(step.shift),
                batch_size=worker.batch_size(step.batch_size),
                device=worker.device,
                precision=step.arithmetic.precision,
                cudnn_benchmark=step.arithmetic.cudnn_benchmark,
                seed=step.shift_seed,
                temperature=_temperature(step.how, folder),
                when_halved=_halve(worker, progress),
            )
            return _store(step, found, folder, worker)
    (done,) = do_predictions([step], worker, folder, progress)
    return done


def do_predictions(
    steps: Sequence[PredictStep], worker: Worker, folder: RunFolder, progress: Notify
) -> list[Done]:
    """Predict the same shifted images with several networks; `pixels_of` all steps is the same."""
    first, shift = steps[0], shift_of(steps[0].shift)
    assert isinstance(shift, Shift)
    plain: list[tuple[PredictStep, Reader]] = []
    adapted: list[tuple[PredictStep, nn.Module]] = []
    for step in steps:
        assert isinstance(step.how, Forward | Adapted)
        network = worker.network(step.how.network, folder)
        if isinstance(step.how, Forward):
            plain.append((step, Reader(network, _temperature(step.how, folder))))
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
    )
    predicted = {
        step.id: predictions
        for members, predicted in ((plain, found.plain), (adapted, found.adapted))
        for (step, _), predictions in zip(members, predicted, strict=True)
    }
    return [_store(step, predicted[step.id], folder, worker) for step in steps]


def _store(
    step: PredictStep, predictions: Predictions, folder: RunFolder, worker: Worker | None = None
) -> Done:
    """Write predictions; `worker` made them with a network, so memory may have run out."""
    made = worker is not None and not isinstance(step.how, Adapted)
    halved = _halved_to(step, worker) if made else None
    if step.labelled:
        folder.write_predictions(step.leaves[0], predictions)
        note = f"{step.shift}: accuracy {np.mean(predictions.correct):.1%}"
    else:
        folder.write_unlabelled(step.leaves[0], predictions)
        note = f"{step.images.data}: confidence {np.mean(predictions.confidence):.1%}"
    return Done(note, halved_to=halved)


def _halved_to(step: PredictStep | FitStep, worker: Worker | None) -> int | None:
    """The batch size that was used, if memory has run out before or during the step."""
    used = step.batch_size if worker is None else worker.batch_size(step.batch_size)
    return used if used < step.batch_size else None


def _temperature(how: Forward, folder: RunFolder) -> float:
    return 1.0 if how.temperature is None else read_temperature(folder, how.temperature)


def _halve(worker: Worker, progress: Notify) -> Callable[[int], None]:
    def halved(size: int) -> None:
        worker.halve(size)
        words = f"memory ran out: batches of {size}"
        progress(Event(words, 1, 1, line=f"note           {words}"))

    return halved


def read_temperature(folder: RunFolder, file: str) -> float:
    """Read the temperature that a step fitted."""
    return float(json.loads(folder.file(file).read_text())["value"])


def shift_of(text: str) -> Shift | Attack:
    """The shift or attack with this id.

    >>> shift_of("gaussian_blur,sigma=0.7").level
    0.7
    """
    (found,) = expand(text)
    return found


@cache
def _is_attack(text: str) -> bool:
    return isinstance(shift_of(text), Attack)

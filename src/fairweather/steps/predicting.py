"""Steps that predict a split of the data under a shift, and the step that fits a temperature."""

from __future__ import annotations

import json

import numpy as np
from torch import nn

from fairweather.inference import (
    adapt_batchnorm,
    fit_temperature,
    from_logits,
    mean_log_probability,
    predict,
    predict_adapted,
    predict_logits,
    scale,
)
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder
from fairweather.shift_lists import expand
from fairweather.steps.plan import (
    PRECISION,
    Adapted,
    Averaged,
    Done,
    FitStep,
    Forward,
    PredictStep,
    Scaled,
)
from fairweather.steps.worker import Worker
from fairweather.types import Attack, Predictions, Shift


def do_fit(step: FitStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Fit a temperature, and store it with its effect."""
    stored = folder.read_predictions(step.validation)
    logits = stored.logits
    if logits is None:
        logits = predict_logits(
            worker.network(step.network, folder),
            worker.images(step.val),
            batch_size=worker.batch_size(step.batch_size),
            device=worker.device,
            precision=PRECISION,
        )
    fitted = fit_temperature(logits, stored.labels)
    folder.write(step.leaves[0], json.dumps(fitted._asdict(), indent=1) + "\n")
    return Done(f"temperature {fitted.value:.3g}")


def do_predict(step: PredictStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Predict one split of the data under one shift or attack."""
    predictions = _predictions(step, worker, folder, progress)
    if step.labelled:
        folder.write_predictions(step.leaves[0], predictions)
        return Done(f"{step.shift}: accuracy {np.mean(predictions.correct):.1%}")
    folder.write_unlabelled(step.leaves[0], predictions)
    return Done(f"{step.images.data}: confidence {np.mean(predictions.confidence):.1%}")


def _predictions(
    step: PredictStep, worker: Worker, folder: RunFolder, progress: Notify
) -> Predictions:
    match step.how:
        case Averaged(members=files):
            members = [folder.read_predictions(file) for file in files]
            logits = mean_log_probability(each.logits for each in members)
            first = members[0]
            return from_logits(logits, first.labels, first.keys, first.classes)
        case Scaled(of=of, temperature=temperature):
            return scale(folder.read_predictions(of), read_temperature(folder, temperature))
        case Forward(network=network, temperature=fitted):
            model = worker.network(network, folder)
            value = 1.0 if fitted is None else read_temperature(folder, fitted)
            return _forward(step, model, value, worker, progress)
        case Adapted(network=network):
            shift = shift_of(step.shift)
            assert isinstance(shift, Shift)
            return predict_adapted(
                adapt_batchnorm(worker.network(network, folder)),
                worker.images(step.images),
                shift,
                batch_size=step.batch_size,
                device=worker.device,
                precision=PRECISION,
                seed=step.shift_seed,
            )


def _forward(
    step: PredictStep, model: nn.Module, temperature: float, worker: Worker, progress: Notify
) -> Predictions:
    def halved(size: int) -> None:
        worker.halve(size)
        words = f"memory ran out: batches of {size}"
        progress(Event(words, 1, 1, line=f"note           {words}"))

    return predict(
        model,
        worker.images(step.images),
        shift_of(step.shift),
        batch_size=worker.batch_size(step.batch_size),
        device=worker.device,
        precision=PRECISION,
        seed=step.shift_seed,
        temperature=temperature,
        when_halved=halved,
    )


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

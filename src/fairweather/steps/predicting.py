"""Steps that predict a split of the data under a shift, and the step that fits a calibration."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic
from torch import nn

from fairweather.errors import InputError
from fairweather.inference import (
    Change,
    FittedSets,
    Known,
    Reader,
    adapt_batchnorm,
    calibrators,
    divide_by,
    fit_sets,
    fit_temperature,
    join,
    join_adapted,
    predict_each,
    predict_logits,
    predict_shared,
    read_sets,
    recalibrate,
    tells_images,
    with_sets,
)
from fairweather.metrics.ood_scores import Seen, ood_scores
from fairweather.progress import Event, Notify
from fairweather.record import VAL
from fairweather.runs import RunFolder, read_json
from fairweather.scores import read_clusters
from fairweather.shift_lists import expand, read_elsewhere
from fairweather.steps.features import read_features
from fairweather.steps.plan import (
    READING,
    Adapted,
    Averaged,
    ConformStep,
    Done,
    FitStep,
    FittingStep,
    Forward,
    Given,
    InSets,
    Kept,
    PredictStep,
    Scaled,
    Step,
)
from fairweather.steps.worker import Worker
from fairweather.streams import WHOLE, Shard
from fairweather.types import AnyPredictions, Attack, Predictions, Shift, is_finite
from fairweather.variants import (
    Conformal,
    Isotonic,
    TopVersusAll,
    Variant,
    VectorScaling,
    read_variant,
)


class Validation(NamedTuple):
    """What a step fits on: the model's predictions of validation images.

    Attributes:
        predictions: the stored columns.
        logits: float32 `[N, classes]`, stored or predicted again.
        halved_to: the batch size that was used, if memory has run out; else None.
    """

    predictions: AnyPredictions
    logits: npt.NDArray[np.float32]
    halved_to: int | None


def read_validation(
    step: FittingStep, worker: Worker, folder: RunFolder, progress: Notify
) -> Validation:
    """Read what a step fits on, and predict the logits again if they are not stored."""
    stored = join([folder.read_cell(file) for file in (step.validation, *step.more)])
    if stored.logits is not None:
        return Validation(stored, stored.logits, None)
    assert step.network is not None, "what is given has its logits"
    found = []
    for text in step.shifts:
        shift = shift_of(text)
        assert isinstance(shift, Shift)
        logits = predict_logits(
            worker.network(step.network, folder),
            worker.images(step.val),
            shift,
            batch_size=worker.batch_size(step.batch_size),
            device=worker.device,
            arithmetic=step.arithmetic,
            seed=step.shift_seed,
            when_halved=_halve(worker, progress),
        )
        found.append(logits)
    return Validation(stored, np.concatenate(found), _halved_to(step, worker))


def do_fit(step: FitStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Fit a calibration, and store it with its effect."""
    found = read_validation(step, worker, folder, progress)
    content, note = _fit(read_variant(step.variant), found.logits, found.predictions.labels)
    folder.write(step.leaves[0], content + "\n")
    return Done(note, halved_to=found.halved_to)


def _fit(
    variant: Variant, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[str, str]:
    """Fit a calibration; returns it as JSON, and a note on what was found."""
    fitted: calibrators.AnyCalibrator
    match variant:
        case VectorScaling():
            fitted = calibrators.fit_vector_scaling(logits, labels)
        case Isotonic():
            fitted = calibrators.fit_isotonic(logits, labels)
        case TopVersusAll(method=method):
            fitted = calibrators.fit_top_versus_all(logits, labels, method)
        case _:
            temperature = fit_temperature(logits, labels)
            note = f"temperature {temperature.value:.3g}"
            return json.dumps(temperature._asdict(), indent=1), note
    note = f"{variant.kind}: NLL {fitted.nll_before:.3g}, then {fitted.nll_after:.3g}"
    return fitted.model_dump_json(indent=1), note


def do_conform(step: ConformStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Fit temperature and thresholds of prediction sets, and store them."""
    found = read_validation(step, worker, folder, progress)
    variant = Conformal(step.method, step.coverage, step.classwise, step.weigh)
    assert isinstance(found.predictions, Predictions), "only classifiers have sets of classes"
    clusters = None if step.groups is None else read_clusters(folder, VAL)
    fitted = fit_sets(variant, found.logits, found.predictions, clusters)
    folder.write(step.leaves[0], json.dumps(fitted._asdict(), indent=1) + "\n")
    return Done(f"sets from {sum(fitted.images):,} images", halved_to=found.halved_to)


def pixels_of(step: Step) -> tuple[Hashable, ...] | None:
    """Tell which shifted images a step predicts with a network; None if it does nothing like this.

    Steps with the same answer can be done together, so that each image is shifted once. The images
    of an attack are made for one network, so they are shared with none.
    """
    if not isinstance(step, PredictStep) or isinstance(step.how, READING):
        return None
    if _is_attack(step.shift):
        return None
    of = (step.images, step.shift, step.shift_seed, step.batch_size, step.ood_scores)
    return (*of, step.arithmetic, step.device, step.threads)


def do_predict(step: PredictStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Predict one split of the data under one shift or attack."""
    match step.how:
        case Averaged(members=files):
            members = [folder.read_cell(file) for file in files]
            logits = folder.task.together(each.logits for each in members)
            first = members[0]
            found = folder.task.predict(logits, first.labels, first.keys, first.classes)
            return _store(step, found, folder)
        case Scaled(of=of, fitted=fitted):
            change = read_change(folder, fitted)
            found = recalibrate(folder.read_cell(of), change, folder.task)
            return _store(step, found, folder)
        case InSets(of=of, sets=file):
            sets = read_fitted(folder, file)
            given = recalibrate(folder.read_predictions(of), divide_by(sets.temperature))
            assert given.logits is not None  # else there would be nothing to change
            return _store(step, with_sets(given, given.logits, sets), folder)
        case Kept(of=of):
            folder.write(step.leaves[0], folder.file(of).read_bytes())
            return Done(f"{step.shift}: as {of}")
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

    predictions: AnyPredictions
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
        batches = shard.slices(len(images), step.batch_size, fitting)
        attacked = predict_each(
            [_reader(step, worker, folder)],
            images,
            shift,
            batches=batches,
            device=worker.device,
            arithmetic=step.arithmetic,
            seed=step.shift_seed,
            when_halved=_halve(worker, progress),
            tell=tells_images(step.label, sum(len(images.keys[at]) for at in batches), progress),
        )
        return [Predicted(attacked[0], _halved_to(step, worker))]
    plain: list[tuple[PredictStep, Reader]] = []
    adapted: list[tuple[PredictStep, nn.Module]] = []
    for step in steps:
        assert isinstance(step.how, Forward | Adapted)
        if isinstance(step.how, Forward):
            plain.append((step, _reader(step, worker, folder)))
        else:
            adapted.append((step, adapt_batchnorm(worker.network(step.how.network, folder))))
    task = first.label if len(steps) == 1 else f"{first.label} and {len(steps) - 1} more"
    images = worker.images(first.images)
    batches = shard.slices(len(images), first.batch_size)
    found = predict_shared(
        [reader for _, reader in plain],
        [model for _, model in adapted],
        images,
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
        tell=tells_images(task, sum(len(images.keys[at]) for at in batches), progress),
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
    step: PredictStep, predictions: AnyPredictions, folder: RunFolder, halved: int | None = None
) -> Done:
    """Write predictions; `halved` is the batch size that was used, if memory has run out."""
    if step.ood_scores and isinstance(step.how, Scaled | InSets | Averaged):
        assert isinstance(predictions, Predictions), "only classifiers have these scores"
        assert predictions.logits is not None, "all are made of stored logits"
        # Those of the new logits; a k-NN distance of the same features stays.
        found = ood_scores(Seen(predictions.logits))
        predictions = replace(predictions, ood_scores={**predictions.ood_scores, **found})
    if step.labelled:
        folder.write_predictions(step.leaves[0], predictions)
        note = f"{step.shift}: accuracy {np.mean(predictions.correct):.1%}"
    else:
        assert isinstance(predictions, Predictions), "only classifiers are told from other data"
        folder.write_unlabelled(step.leaves[0], predictions)
        note = f"{step.images.data}: confidence {np.mean(predictions.confidence):.1%}"
    return Done(note, halved_to=halved)


def are_changed(predictions: AnyPredictions) -> bool:
    """Say whether stored logits are not those that the classes were predicted from.

    Earlier versions stored what a model gave, and not a copy. It may have written there since.
    """
    logits = predictions.logits
    if logits is None or not isinstance(predictions, Predictions):
        return False
    return bool((logits.argmax(axis=1) != predictions.predicted).any())


def _halved_to(step: PredictStep | FittingStep, worker: Worker) -> int | None:
    """The batch size that was used, if memory has run out before or during the step."""
    used = worker.batch_size(step.batch_size)
    return used if used < step.batch_size else None


def _reader(step: PredictStep, worker: Worker, folder: RunFolder) -> Reader:
    assert isinstance(step.how, Forward)
    network, change, sets = worker.network(step.how.network, folder), None, None
    if step.how.sets is not None:
        sets = read_fitted(folder, step.how.sets)
        change = divide_by(sets.temperature)
    elif step.how.fitted is not None:
        change = read_change(folder, step.how.fitted)
    return Reader(network, change, sets, _known(step, folder), folder.task)


def _known(step: PredictStep, folder: RunFolder) -> Known | None:
    if not step.ood_scores:
        return None
    return Known(read_features(folder, step.known) if step.known is not None else None)


def _halve(worker: Worker, progress: Notify) -> Callable[[int], None]:
    def halved(size: int) -> None:
        worker.halve(size)
        words = f"memory ran out: batches of {size}"
        progress(Event(words, 1, 1, line=f"note           {words}"))

    return halved


def read_change(folder: RunFolder, file: str) -> Change:
    """Read how a calibration changes logits; raises `InputError` for a file that holds none."""
    content = read_json(folder.file(file))
    if "kind" not in content:
        return divide_by(read_temperature(folder, file))
    try:
        return calibrators.CALIBRATOR.validate_python(content).apply
    except pydantic.ValidationError:
        raise InputError(f"{folder.file(file)} does not hold a calibration") from None


def read_temperature(folder: RunFolder, file: str) -> float:
    """Read the temperature that a step fitted; raises `InputError` for another file."""
    value = read_json(folder.file(file)).get("value")
    if not isinstance(value, int | float) or not is_finite(value) or value <= 0:
        raise InputError(f"{folder.file(file)} does not hold a temperature")
    return float(value)


def read_fitted(folder: RunFolder, file: str) -> FittedSets:
    """Read what prediction sets are made with; raises `InputError` for another file."""
    return read_sets(read_json(folder.file(file)), str(folder.file(file)))


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

"""Steps that predict a split of the data under a shift, and the step that fits a variant."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from fairweather.inference import (
    Known,
    Reader,
    from_logits,
    join,
    predict_shared,
    tells_images,
)
from fairweather.metrics.ood_scores import Seen, ood_scores
from fairweather.progress import Event, Notify
from fairweather.record import VAL
from fairweather.runs import RunFolder, read_json
from fairweather.scores import read_clusters
from fairweather.shift_lists import expand, read_elsewhere
from fairweather.steps.features import read_features
from fairweather.steps.plan import (
    AnyNetwork,
    Applied,
    Averaged,
    Done,
    FitStep,
    Forward,
    Given,
    PredictStep,
    Step,
)
from fairweather.steps.worker import Worker
from fairweather.types import AnyPredictions, Attack, Predictions, Shift
from fairweather.variants import read_variant
from fairweather.variants.fitted import UNCHANGED, Fitted


def do_fit(step: FitStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Fit a variant on predictions of validation images, and store what was fitted."""
    fit = read_variant(step.variant).post_hoc
    assert fit is not None
    files = (step.validation, *step.more)
    if step.stored:
        predictions = join([folder.read_cell(file) for file in files])
    else:
        predictions = join(_predicted_again(step, worker, folder, progress))
    clusters = None if step.groups is None else read_clusters(folder, VAL)
    fitted = fit.fit(predictions, clusters)
    folder.write(step.leaves[0], fitted.model_dump_json(indent=1) + "\n")
    return Done(fitted.note, halved_to=None if step.stored else _halved_to(step, worker))


def _predicted_again(
    step: FitStep, worker: Worker, folder: RunFolder, progress: Notify
) -> list[AnyPredictions]:
    """What is not stored: the predictions of validation images with their logits."""
    assert step.network is not None, "what is given has its logits"
    found: list[AnyPredictions] = []
    for text in step.shifts:  # each begins with a new copy of a network that adapts
        reader = _network(step.network, step.variant, worker, folder)._replace(keeps_logits=True)
        found += predict_shared(
            [reader],
            worker.images(step.val),
            shift_of(text),
            batch_size=step.batch_size,
            fitting=worker.batch_size(step.batch_size),
            device=worker.device,
            arithmetic=step.arithmetic,
            seed=step.shift_seed,
            when_halved=_halve(worker, progress),
        )
    return found


def pixels_of(step: Step) -> tuple[Hashable, ...] | None:
    """Tell which shifted images a step predicts with a network; None if it does nothing like this.

    Steps with the same answer can be done together, so that each image is shifted once. The images
    of an attack are made for one network, so they are shared with none.
    """
    if not isinstance(step, PredictStep) or not isinstance(step.how, Forward):
        return None
    if _is_attack(step.shift):
        return None
    of = (step.images, step.shift, step.shift_seed, step.batch_size, step.ood_scores)
    return (*of, step.arithmetic, step.device, step.threads)


def do_predict(step: PredictStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Predict one split of the data under one shift or attack."""
    match step.how:
        case Forward():
            (done,) = do_predictions([step], worker, folder, progress)
            return done
        case Given(digest=digest):
            return _store(step, worker.given(step.leaves[0], digest), folder)
        case Applied(of=of, fitted=None):
            folder.write(step.leaves[0], folder.file(of).read_bytes())
            return Done(f"{step.shift}: as {of}")
        case Applied(of=of, variant=variant, fitted=str(file)):
            fitted = read_fitted(folder, variant, file)
            found = fitted.apply(folder.read_cell(of), folder.task)
        case Averaged(members=files):
            members = [folder.read_cell(file) for file in files]
            logits = folder.task.together(each.logits for each in members)
            first = members[0]
            columns = logits, first.labels, first.keys
            found = from_logits(*columns, first.classes, task=folder.task)
    if step.ood_scores:
        assert isinstance(found, Predictions), "only classifiers have these scores"
        assert found.logits is not None, "all are made of stored logits"
        # Those of the new logits; a k-NN distance of the same features stays.
        scores = {**found.ood_scores, **ood_scores(Seen(found.logits))}
        found = replace(found, ood_scores=scores)
    return _store(step, found, folder)


def do_predictions(
    steps: Sequence[PredictStep], worker: Worker, folder: RunFolder, progress: Notify
) -> list[Done]:
    """Predict the same shifted images with several networks; `pixels_of` all steps is the same."""
    first = steps[0]
    readers = [_reader(step, worker, folder) for step in steps]
    task = first.label if len(steps) == 1 else f"{first.label} and {len(steps) - 1} more"
    images = worker.images(first.images)
    found = predict_shared(
        readers,
        images,
        shift_of(first.shift),
        batch_size=first.batch_size,
        fitting=worker.batch_size(first.batch_size),
        device=worker.device,
        arithmetic=first.arithmetic,
        seed=first.shift_seed,
        makers=worker.shifters,
        when_halved=_halve(worker, progress),
        tell=tells_images(task, len(images), progress),
    )
    return [
        # Batches of adapted networks are never halved.
        _store(step, predictions, folder, None if reader.adapts else _halved_to(step, worker))
        for step, reader, predictions in zip(steps, readers, found, strict=True)
    ]


def _store(
    step: PredictStep, predictions: AnyPredictions, folder: RunFolder, halved: int | None = None
) -> Done:
    """Write predictions; `halved` is the batch size that was used, if memory has run out."""
    if step.labelled:
        folder.write_predictions(step.leaves[0], predictions)
        note = f"{step.shift}: accuracy {np.mean(predictions.correct):.1%}"
    else:
        assert isinstance(predictions, Predictions), "only classifiers are told from other data"
        folder.write_unlabelled(step.leaves[0], predictions)
        note = f"{step.images.data}: confidence {np.mean(predictions.confidence):.1%}"
    return Done(note, halved_to=halved)


def are_changed(predictions: Predictions) -> bool:
    """Say whether stored logits are not those that the classes were predicted from.

    Earlier versions stored what a model gave, and not a copy. It may have written there since.
    """
    logits = predictions.logits
    return logits is not None and bool((logits.argmax(axis=1) != predictions.predicted).any())


def _halved_to(step: PredictStep | FitStep, worker: Worker) -> int | None:
    """The batch size that was used, if memory has run out before or during the step."""
    used = worker.batch_size(step.batch_size)
    return used if used < step.batch_size else None


def _reader(step: PredictStep, worker: Worker, folder: RunFolder) -> Reader:
    assert isinstance(step.how, Forward)
    reader = _network(step.how.network, step.how.variant, worker, folder)
    fitted, known = UNCHANGED, None
    if step.how.variant is not None and step.how.fitted is not None:
        fitted = read_fitted(folder, step.how.variant, step.how.fitted)
    if step.ood_scores:
        known = Known(read_features(folder, step.known) if step.known is not None else None)
    return reader._replace(fitted=fitted, known=known)


def _network(network: AnyNetwork, variant: str | None, worker: Worker, folder: RunFolder) -> Reader:
    """A network, or its copy that adapts to the images."""
    adapting = None if variant is None else read_variant(variant).adapting
    model = worker.network(network, folder)
    own = model if adapting is None else adapting.adapt(model)
    return Reader(own, adapts=adapting is not None, task=folder.task)


def _halve(worker: Worker, progress: Notify) -> Callable[[int], None]:
    def halved(size: int) -> None:
        worker.halve(size)
        words = f"memory ran out: batches of {size}"
        progress(Event(words, 1, 1, line=f"note           {words}"))

    return halved


def read_fitted(folder: RunFolder, variant: str, file: str) -> Fitted:
    """Read what was fitted for a variant; raises `InputError` for another file."""
    fitted = read_variant(variant).fitted
    assert fitted is not None
    return fitted.read(read_json(folder.file(file)), str(folder.file(file)))


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

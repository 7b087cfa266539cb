"""Steps that store facts about each image: its group, its features, its predictions."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError

from fairweather.data.batches import MixedImages, to_input
from fairweather.errors import InputError
from fairweather.inference.prediction import (
    KnownFeatures,
    Predictor,
    compute_outputs,
    evaluation_mode,
    join_predictions,
    learn_from_source,
    make_image_notifier,
    make_predictions,
    predict_shared,
    predict_streams,
)
from fairweather.inference.stopwatch import Stopwatch
from fairweather.metrics.detection import NEIGHBOURS, OodInputs, compute_ood_scores
from fairweather.metrics.grouping import Grouping, number_groups
from fairweather.progress import Event, Notify
from fairweather.runs.folder import RunFolder, StoredGroups, read_json
from fairweather.runs.scores import read_grouping
from fairweather.steps import plan
from fairweather.steps.sweeps import parse_shift
from fairweather.steps.worker import Worker
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import (
    AnyPredictions,
    Attack,
    Groups,
    Images,
    Passes,
    Predictions,
    Shift,
)
from fairweather.types.record import CLEAN, TEST, VAL
from fairweather.variants.adaptation.networks import Tensors
from fairweather.variants.fitted import NOTHING_FITTED, FittedParameters
from fairweather.variants.variant import read_variant


def do_group(
    step: plan.GroupStep, worker: Worker, folder: RunFolder, progress: Notify
) -> plan.StepResult:
    """Write the number of each image's group, and the values of its slices.

    The name of a group, such as the key of a patient, is not written.
    """
    notes = []
    for name, reference in zip(step.leaves, step.images, strict=True):
        stored = worker.groups.get(reference.part) or _find_groups(
            worker.images(reference), reference
        )
        folder.write_groups(name, stored)
        if stored.numbers is not None:
            count = Grouping(stored.numbers).count
            notes.append(
                f"{len(stored.keys):,} {reference.part} images of {count:,} {stored.group}s"
            )
    return plan.StepResult(", ".join(notes))


def _find_groups(images: Images, reference: plan.ImagesReference) -> StoredGroups:
    if images.groups is None:
        raise InputError(f"nothing is known of groups of the {reference.part} images")
    return make_stored_groups(images.groups, images.keys.numpy())


def make_stored_groups(groups: Groups, keys: npt.NDArray[np.int64]) -> StoredGroups:
    """Number the groups in the order of the images."""
    grouping = number_groups(groups)
    numbers = None if grouping is None else grouping.numbers
    return StoredGroups(keys, groups.group, numbers, dict(groups.slices))


def groups_digest(groups: Groups) -> str:
    """A digest of which images belong together, whatever the names, and of all slices."""
    digest = hashlib.sha256(repr((groups.group, list(groups.slices))).encode())
    if (grouping := number_groups(groups)) is not None:
        digest.update(grouping.numbers.astype("<i8").tobytes())
    for values in groups.slices.values():
        digest.update("\0".join(values).encode())
    return digest.hexdigest()


def do_read(
    step: plan.ReadStep, worker: Worker, folder: RunFolder, progress: Notify
) -> plan.StepResult:
    """Write what people call each test image."""
    folder.write(step.leaves[0], base64.b64decode(step.content))
    return plan.StepResult()


FloatArray = npt.NDArray[np.float32]
KEYS, FEATURES = "keys", "features"


def do_features(
    step: plan.FeaturesStep, worker: Worker, folder: RunFolder, progress: Notify
) -> plan.StepResult:
    """Keep the features of a random sample of images, or only the keys for a network without
    features.

    The last layer of such a network is not linear.
    """
    images = worker.images(step.images)
    chosen = draw_sample(len(images), step.most, step.seed)
    network = worker.network(step.network, folder)
    parts: list[FloatArray] = []
    size = step.batch_size
    for at in range(0, len(chosen), size):  # a batch at a time: images may be larger than memory
        outputs = compute_outputs(
            network,
            images[chosen[at : at + size]],
            batch_size=worker.batch_size(size),
            device=worker.device,
            arithmetic=step.arithmetic,
            when_halved=worker.halve,
        )
        if outputs.features is None:
            break
        parts.append(outputs.features)
        progress(Event(step.task, min(at + size, len(chosen)), len(chosen)))
    stored: dict[str, npt.NDArray[np.generic]] = {KEYS: images.keys.numpy()[chosen]}
    if parts:
        stored[FEATURES] = np.concatenate(parts)
    folder.write(step.leaves[0], safetensors.numpy.save(stored))
    return plan.StepResult(_features_note(step, parts, len(chosen)), halved_to=worker.halved(size))


def _features_note(step: plan.FeaturesStep, parts: list[FloatArray], images: int) -> str:
    if not parts:
        return "no features: the last layer of the network is not linear"
    width = parts[0].shape[1]
    setting = f"{min(NEIGHBOURS, images)}-NN of {images:,} {step.images.part} images"
    return f"{setting}, {width:,} features"


def draw_sample(images: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw at most `most` images, in their order.

    >>> draw_sample(3, 5, seed=0)
    array([0, 1, 2])
    """
    drawn = np.random.default_rng(seed).permutation(images)[:most]
    return np.sort(drawn)


def read_features(folder: RunFolder, file: str) -> FloatArray | None:
    """Read the stored features, float32 `[M, D]`; None for a network without features.

    Raises `InputError` for another kind of file.
    """
    path = folder.file(file)
    try:
        stored = safetensors.numpy.load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a file of features: {error}") from None
    return stored.get(FEATURES)


def do_fit(
    step: plan.FitStep, worker: Worker, folder: RunFolder, progress: Notify
) -> plan.StepResult:
    """Fit a variant on predictions of validation images, and store what was fitted."""
    fit = read_variant(step.variant).post_hoc
    assert fit is not None
    files = (step.validation, *step.more)
    if step.stored:
        predictions = join_predictions([folder.read_cell(file) for file in files])
    else:
        predictions = join_predictions(_predict_again(step, worker, folder, progress))
    grouping = None if step.groups is None else read_grouping(folder, VAL)
    fitted = fit.fit(predictions, grouping)
    folder.write(step.leaves[0], fitted.model_dump_json(indent=1) + "\n")
    return plan.StepResult(
        fitted.note, halved_to=None if step.stored else worker.halved(step.batch_size)
    )


def _predict_again(
    step: plan.FitStep, worker: Worker, folder: RunFolder, progress: Notify
) -> list[AnyPredictions]:
    """Predict the validation images again, if their logits are not stored."""
    assert step.network is not None, "what is given has its logits"
    predictions: list[AnyPredictions] = []
    for text in step.shifts:  # each begins with a new copy of an adapting network
        predictor = _load_predictor(step, step.network, step.variant, worker, folder, once=True)
        predictor = predictor._replace(keeps_logits=True, seed=step.stream_seed)
        predictions += predict_shared(
            [predictor],
            worker.images(step.val),
            worker.shift(text, worker.images(step.val), step.published),
            batch_size=step.batch_size,
            safe_batch_size=worker.batch_size(step.batch_size),
            device=worker.device,
            arithmetic=step.arithmetic,
            seed=step.shift_seed,
            when_halved=_make_halver(worker, progress),
        )
    return predictions


def pixels_key(step: plan.Step) -> tuple[Hashable, ...] | None:
    """Identify the shifted images that a step predicts with a network; None for other steps.

    Steps with the same answer can be done together, so that each image is shifted once. Images of
    an attack are made for one network, and never shared; nor are mixed streams.
    """
    if not isinstance(step, plan.PredictStep) or not isinstance(step.how, plan.ForwardPass):
        return None
    if step.mixed or _is_attack(step.shift):
        return None
    images = (step.images, step.shift, *step.published.values(), step.shift_seed, step.ood_scores)
    return (*images, step.batch_size, step.arithmetic, step.device, step.threads)


def do_predict(
    step: plan.PredictStep, worker: Worker, folder: RunFolder, progress: Notify
) -> plan.StepResult:
    """Predict one split of the data under one shift or attack."""
    match step.how:
        case plan.ForwardPass() if step.mixed:
            return _predict_mixed(step, worker, folder, progress)
        case plan.ForwardPass():
            (done,) = do_predictions([step], worker, folder, progress)
            return done
        case plan.GivenPredictions(digest=digest):
            return _store_predictions(step, worker.given(step.leaves[0], digest), folder)
        case plan.AppliedVariant(of=of, fitted=None):
            folder.write(step.leaves[0], folder.file(of).read_bytes())
            return plan.StepResult(f"{step.shift}: as {of}")
        case plan.AppliedVariant(of=of, variant=variant, fitted=str(file)):
            fitted = read_fitted(folder, variant, file)
            predictions = fitted.apply(folder.read_streams(of), folder.task)
        case plan.EnsembleAverage(members=files):
            members = [folder.read_image_streams(file) for file in files]
            logits = folder.task.combine(member.logits for member in members)
            first = members[0]
            columns = logits, first.labels, first.keys
            predictions = make_predictions(*columns, first.classes, task=folder.task)
            predictions = predictions.with_columns(stream=first.stream, place=first.place)
    if step.ood_scores:
        assert isinstance(predictions, Predictions), "only classifiers have these scores"
        assert predictions.logits is not None, "all are made of stored logits"
        # Scores of the new logits; a k-NN distance of the same features stays.
        scores = {**predictions.ood_scores, **compute_ood_scores(OodInputs(predictions.logits))}
        predictions = replace(predictions, ood_scores=scores)
    return _store_predictions(step, predictions, folder)


def do_predictions(
    steps: Sequence[plan.PredictStep], worker: Worker, folder: RunFolder, progress: Notify
) -> list[plan.StepResult]:
    """Predict the same shifted images with several networks; `pixels_key` is equal in all steps."""
    first = steps[0]
    predictors = [_make_predictor(step, worker, folder) for step in steps]
    task = plan.name_first([step.label for step in steps])
    images = worker.images(first.images)
    all_predictions = predict_shared(
        predictors,
        images,
        worker.shift(first.shift, images, first.published),
        batch_size=first.batch_size,
        safe_batch_size=worker.batch_size(first.batch_size),
        device=worker.device,
        arithmetic=first.arithmetic,
        seed=first.shift_seed,
        shifters=worker.shifters_of(progress),
        when_halved=_make_halver(worker, progress),
        tell=make_image_notifier(task, len(images), progress),
    )
    for step, predictor in zip(steps, predictors, strict=True):
        if predictor.carried is not None and step.hands_over is not None:
            folder.write(step.hands_over, _encode_states(predictor.carried))
    return [
        _add_network(
            step, _store_predictions(step, predictions, folder), predictor, worker, progress
        )
        for step, predictor, predictions in zip(steps, predictors, all_predictions, strict=True)
    ]


def _predict_mixed(
    step: plan.PredictStep, worker: Worker, folder: RunFolder, progress: Notify
) -> plan.StepResult:
    """Predict streams that mix the images of several cells, and store each cell by itself."""
    predictor, images = _make_predictor(step, worker, folder), worker.images(step.images)
    assert predictor.adapting is not None, "only what adapts depends on other cells"
    texts = (step.shift, *step.mixed)
    every = (worker.shift(text, images, step.published) for text in texts)
    shifts = [shift for shift in every if isinstance(shift, Shift)]  # no attack is planned
    mixed = MixedImages(images, shifts, step.shift_seed, worker.shifters_of(progress))
    predictions = predict_streams(
        predictor,
        predictor.adapting,
        images=mixed,
        batch_size=step.batch_size,
        device=worker.device,
        arithmetic=step.arithmetic,
        tell=make_image_notifier(step.label, len(mixed), progress),
    )
    assert predictions.passes is not None, "all streams count them"
    rows = np.arange(len(predictions)).reshape(-1, len(texts), len(images))
    notes = []
    for number, (text, file) in enumerate(zip(texts, step.leaves, strict=True)):
        passes = _take_share(predictions.passes, number, len(texts))
        cell = predictions.take(rows[:, number].ravel()).with_columns(passes=passes)
        if number and isinstance(cell, Predictions):
            cell = replace(cell, ood_scores={})  # as in every other cell but the first
        one = step.model_copy(update={"shift": text, "leaves": (file,)})
        notes.append(_store_predictions(one, cell, folder).note)
    return _add_network(step, plan.StepResult("; ".join(notes)), predictor, worker, progress)


def _take_share(passes: Passes, number: int, cells: int) -> Passes:
    """The nearly equal share of a cell in what mixed streams cost; all shares sum to the whole.

    >>> [_take_share(Passes(300, 0, 10), number, 3).batches for number in range(3)]
    [3, 3, 4]
    """
    ends = ([count * end // cells for count in passes] for end in (number, number + 1))
    return Passes(*(last - first for first, last in zip(*ends, strict=True)))


def _store_predictions(
    step: plan.PredictStep, predictions: AnyPredictions, folder: RunFolder
) -> plan.StepResult:
    """Write predictions."""
    if step.labelled:
        aggregated = isinstance(step.how, plan.AppliedVariant) and step.how.aggregation is not None
        folder.write_predictions(step.leaves[0], predictions, aggregated=aggregated)
        called = "exact match" if predictions.kind == FINDINGS else "accuracy"
        right = predictions.correct[folder.task.judged(predictions)]
        cell = "clean afterwards" if step.is_afterwards else step.shift
        note = f"{cell}: {called} {np.mean(right):.1%}"
    else:
        assert isinstance(predictions, Predictions), "only classifiers are scored on other data"
        folder.write_unlabelled(step.leaves[0], predictions)
        note = f"{step.images.data}: confidence {np.mean(predictions.known_confidence):.1%}"
    return plan.StepResult(note)


def _add_network(
    step: plan.PredictStep,
    done: plan.StepResult,
    predictor: Predictor,
    worker: Worker,
    progress: Notify,
) -> plan.StepResult:
    """Add how long the network took; where clean images come first, also what adapts of it."""
    clock, adapting, adapts = predictor.clock, predictor.adapting, None
    is_first = (step.shift, step.images.part) == (CLEAN, TEST) and not step.is_afterwards
    if adapting is not None and is_first:
        with evaluation_mode(predictor.model, worker.device):
            inputs = to_input(worker.images(step.images).images[:1].to(worker.device))
            adapts = adapting.describe_adapted(predictor.model, inputs) or None
    if adapts is not None and predictor.seed == 0:
        progress(Event("adapts", 1, 1, line=f"adapts         {step.model}: {adapts}"))
    return done._replace(
        network_seconds=None if clock is None else round(clock.seconds, 6),
        adapts=adapts,
        # Batches of adapted networks are never halved.
        halved_to=worker.halved(step.batch_size) if adapting is None else None,
    )


def has_changed_logits(predictions: Predictions) -> bool:
    """Say whether stored logits are not those that the classes were predicted from.

    The first release stored the model's output without a copy, and a model may have overwritten it.
    """
    logits = predictions.logits
    return logits is not None and bool((logits.argmax(axis=1) != predictions.predicted).any())


def _make_predictor(step: plan.PredictStep, worker: Worker, folder: RunFolder) -> Predictor:
    assert isinstance(step.how, plan.ForwardPass)
    drawn = step.labelled and step.images.part == TEST
    how = step.how
    predictor = _load_predictor(step, how.network, how.variant, worker, folder, once=not drawn)
    if step.goes_on is not None or step.hands_over is not None:
        states = [] if step.goes_on is None else _read_states(folder, step.goes_on)
        predictor = predictor._replace(carried=states)
    fitted, known = NOTHING_FITTED, None
    if step.how.variant is not None and step.how.fitted is not None:
        fitted = read_fitted(folder, step.how.variant, step.how.fitted)
    if step.ood_scores:
        known = KnownFeatures(read_features(folder, step.known) if step.known is not None else None)
    # An attack passes through the network as often as it likes, and a compiler takes its own time.
    is_timed = not _is_attack(step.shift) and not step.arithmetic.compile
    clock = Stopwatch() if is_timed else None
    return predictor._replace(fitted=fitted, known=known, seed=step.how.stream_seed, clock=clock)


def _load_predictor(
    step: plan.FitStep | plan.PredictStep,
    network: plan.AnyNetwork,
    variant: str | None,
    worker: Worker,
    folder: RunFolder,
    *,
    once: bool,
) -> Predictor:
    """A network of a step, what adapts it, and the images that this learns from.

    `once` is for images that no stream draws anew.
    """
    predictor = Predictor(worker.network(network, folder), task=folder.task)
    adapting = None if variant is None else read_variant(variant).adapting
    if adapting is None:
        return predictor
    if step.source is not None:
        every, method = worker.learned.setdefault(predictor.model, {}), adapting.once()
        key = (method, step.source, step.shift_seed, step.batch_size, step.arithmetic)
        if key not in every:
            clean = worker.images(step.source)
            chosen = draw_sample(len(clean), method.source_images, step.shift_seed)
            every[key] = learn_from_source(
                predictor.model,
                method,
                clean[chosen],
                batch_size=step.batch_size,
                device=worker.device,
                arithmetic=step.arithmetic,
            )
        predictor = predictor._replace(learned=every[key])
    return predictor._replace(adapting=adapting.once() if once else adapting)


def _encode_states(states: Sequence[Tensors]) -> bytes:
    """The bytes of the file with what each stream has changed of a network."""
    return safetensors.torch.save(
        {
            f"{number}/{name}": tensor.contiguous()
            for number, tensors in enumerate(states)
            for name, tensor in tensors.items()
        }
    )


def _read_states(folder: RunFolder, file: str) -> list[Tensors]:
    """Read what each stream has changed of a network; raises `InputError` for another file."""
    path = folder.file(file)
    try:
        stored = safetensors.torch.load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a file of an adapted network: {error}") from None
    states: dict[int, Tensors] = {}
    for key, tensor in stored.items():
        number, _, name = key.partition("/")
        states.setdefault(int(number), {})[name] = tensor
    return [states[number] for number in sorted(states)]


def _make_halver(worker: Worker, progress: Notify) -> Callable[[int], None]:
    def halved(size: int) -> None:
        worker.halve(size)
        words = f"memory ran out: batches of {size}"
        progress(Event(words, 1, 1, line=f"note           {words}"))

    return halved


def read_fitted(folder: RunFolder, variant: str, file: str) -> FittedParameters:
    """Read the fit of a variant; raises `InputError` for another file."""
    fitted = read_variant(variant).fitted_types[folder.task.predictions.kind]
    return fitted.read(read_json(folder.file(file)), str(folder.file(file)))


@cache
def _is_attack(text: str) -> bool:
    return isinstance(parse_shift(text), Attack)

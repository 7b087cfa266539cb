"""How accurate will a model of a finished run be on images that nobody has labelled?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fairweather.errors import InputError, check_path, check_type, quote_names
from fairweather.inference.prediction import NetworkOutputs, compute_outputs
from fairweather.judge.accuracy_estimate import AccuracyEstimate, MethodEstimate, NearestCell
from fairweather.judge.known_cells import (
    FEWEST_IMAGES,
    METHOD_TITLES,
    KnownCell,
    UnlabelledPredictions,
    apply_methods,
    compute_past_errors,
    fit_methods,
    is_among,
    read_known_cells,
    read_site_errors,
)
from fairweather.metrics import differ_p, features_differ_p, one_of_each, outputs_differ_p, softmax
from fairweather.metrics.accuracy_estimation import FEWEST_SHIFTS, PastErrors
from fairweather.metrics.columns import FloatArray, IntArray, clopper_pearson
from fairweather.metrics.two_sample import (
    MOST_IMAGES,
    Cloud,
    EnergyDistance,
    energy_distance,
    is_nearest,
)
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.runs.scores import read_grouping
from fairweather.steps.run_model import (
    NewImages,
    RunModel,
    load_other_seeds,
    open_images,
    open_run_model,
    open_validation_images,
)
from fairweather.tasks import MOST_STORED_CLASSES, mean_log_probability
from fairweather.types.measurement import Images, Predictions, Score
from fairweather.types.options import ImageOptions, read_options, takes
from fairweather.types.record import CLEAN, ENSEMBLE, NATURAL, VAL

Look = Callable[..., NetworkOutputs]  # `outputs_of` with the batch size and the device of the model
OWN_TEST = (
    "Most of these images are test images of the run itself: its clean cell was left out, and its "
    "shifts change these same images."
)
OWN_VALIDATION = (
    "Most of these images are validation images of the run itself, on which the methods were "
    "fitted. On other images, estimates are less accurate."
)
OWN_OTHER = "Most of these images are other images that the run knows: {} was left out."


@shows_progress
@takes(ImageOptions)
def estimate(
    run: str | os.PathLike[str],
    data: str,
    *,
    with_labels: bool = False,
    device: str = "auto",
    offline: bool = False,
    progress: Notify | bool | None = True,
    **options: Any,  # noqa: ANN401 - those of `ImageOptions`
) -> AccuracyEstimate:
    """Estimate how accurate a model of a finished run is on images, without using their labels.

    The run needs validation images, and test images under at least three shifts. The errors of each
    method there decide the method and the range.

    Args:
        run: `RUN[:MODEL[:SEED]]`, a run folder and which of its models; or a `Run`.
        data: a source of images, as for `load_data`; a set with splits gives its test images.
        root: the folder with the files of a named set, or from which a relative path starts. The
            run's own images are looked for there too if they are of the same source.
        limit: at most this many images.
        skip_unreadable: leave damaged files out.
        scale: which gray values become black and white; by default as for the run.
        with_labels: also count how many are right, if their labels are the run's classes.
        device: `auto`, `cpu`, `cuda`, ...
        offline: do not download missing files.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: there is no such run, model or seed; images cannot be read; or labels are
            requested and missing.
    """
    tell = to_notify(progress)
    check_type(data, str, "the images are text, such as images:PATH, or npz:PATH for arrays")
    model = open_run_model(check_path(run, "the run"), offline=offline)
    if (aggregation := model.run.aggregation) is not None:
        raise InputError(
            f"{model.run.path} judges {aggregation.plural}, and estimate is about images: evaluate "
            "the model without unit (--unit) in another folder"
        )
    if Predictions.kind not in model.run.task.kinds:
        raise InputError(
            f"estimate is about one class of each image, and {model.run.path} is about "
            f"{model.run.task.noun}: label about 100 of the images, and evaluate the model on them"
        )
    # If the images have an absolute path, the root is only for the run's own images.
    image_options = read_options(ImageOptions, options)
    place = None if Path(data.partition(":")[2]).is_absolute() else image_options.root
    loading = replace(image_options, root=place, scale=image_options.scale or model.scale)
    new = open_images(
        data, model.classes, model.preparation, loading, offline=offline, progress=tell
    )
    if with_labels and not new.labelled:
        raise InputError(f"{new.name} has no labels that are each a class of the run by name")
    notes: list[str] = []
    look = partial(compute_outputs, batch_size=model.record.settings.batch_size, device=device)
    seeds, others = _open_other_seeds(model, notes)
    images, outputs = _predict_unlabelled(model, others, new.images, look, tell)
    validation = _read_validation(model)
    methods = fit_methods(validation, seeds=images.others is not None)
    known, own, unchanged = read_known_cells(model, methods, seeds, new_images=images, tell=tell)
    notes += [OWN_TEST if shift == CLEAN else OWN_OTHER.format(shift) for shift in own]
    answers, features, around = np.nan, np.nan, None
    if validation is not None:
        if is_among(images, validation):
            notes.append(OWN_VALIDATION)
        # Of each patient one image.
        grouping = read_grouping(model.run, VAL)
        independent = np.arange(len(validation)) if grouping is None else one_of_each(grouping)
        reference = UnlabelledPredictions.from_predictions(validation).rows[independent]
        around = Cloud.from_rows(reference) if len(reference) > 1 else None
        answers = outputs_differ_p(reference, images.rows)
        # The root is for the new images; the run's own may be there too.
        is_own = data == model.record.data.source
        roots = [place] if is_own else list(dict.fromkeys([None, image_options.root]))
        features = _compare_features(model, outputs, independent, roots, look, offline, notes, tell)
    unlike = differ_p(answers, features)
    sites = None
    if validation is not None and CLEAN not in own:
        sites = read_site_errors(model, validation, seeds)
    past = compute_past_errors(known, around, tell, sites) if known else None
    estimates = apply_methods(methods, images).mean(axis=0)
    estimate = AccuracyEstimate(
        model=model.name,
        seed=model.seed,
        data=new.name,
        images=len(images),
        sites=0 if past is None or past.sites is None else len(past.sites.errors),
        natural=sum(cell.shift.startswith(NATURAL) for cell in known),
        unlike_p=unlike,
        outputs_p=answers,
        features_p=features,
        methods=_estimate_by_method(list(methods), estimates, past),
        truth=_true_accuracy(images, new) if with_labels else None,
        notes=tuple(notes),
    )
    reason = _reason_against(new, around, known, past, unchanged)
    if around is None or past is None or len(images) < FEWEST_IMAGES:
        return replace(estimate, reason=reason)
    batch = Cloud.from_rows(images.rows)
    distances = [energy_distance(batch, cloud) for cloud in (around, *(c.cloud for c in known))]
    like = _find_nearest_cell(batch, around, known, past, distances)
    estimate = replace(estimate, like=like, reason=reason)
    return estimate if reason else _with_range(estimate, estimates, past, known, distances)


def _reason_against(
    new: NewImages,
    around: Cloud | None,
    known: Sequence[KnownCell],
    past: PastErrors | None,
    unchanged: Sequence[str],
) -> str:
    """Why the accuracy cannot be estimated, before anything is computed; "" if it can be."""
    if new.other_classes:
        return (
            f"the model does not have all classes of the images by name "
            f"({quote_names(new.other_classes)})"
        )
    if around is None:
        return "the run has no predictions of validation images, or of one patient only"
    shifts = 0 if past is None else len(past.shifts)
    if shifts < FEWEST_SHIFTS:
        needed = f"an estimate needs {FEWEST_SHIFTS} tested shifts to show how wrong it may be"
        return ". ".join([f"{needed}, found {shifts}", *_shifts_left_out(known, past, unchanged)])
    if len(new.images) < FEWEST_IMAGES:
        return f"there are {len(new.images)} images, and {FEWEST_IMAGES} are needed"
    return ""


def _shifts_left_out(
    known: Sequence[KnownCell], past: PastErrors | None, unchanged: Sequence[str]
) -> Iterator[str]:
    """Name the shifts that do not count, and those that count as one."""
    if unchanged:
        yield f"Shifts that change no answer do not count: {quote_names(unchanged)}"
    numbers = [] if past is None else past.shift.tolist()
    for number in dict.fromkeys(numbers):
        alike = [cell.shift for cell, own in zip(known, numbers, strict=True) if own == number]
        if len(names := list(dict.fromkeys(alike))) > 1:
            yield f"{quote_names(names)} count as one: they share an operation or answers"


def _with_range(
    estimate: AccuracyEstimate,
    estimates: FloatArray,
    past: PastErrors,
    known: Sequence[KnownCell],
    distances: Sequence[EnergyDistance],
) -> AccuracyEstimate:
    """Add the range, or why there is none.

    Args:
        estimate: without a range; where its images are unlike the validation images, the range is
            one-sided.
        estimates: float64 `[methods]`.
        past: the errors of the methods in each known cell.
        known: the cells.
        distances: of the images to the validation images, then to each cell.
    """
    one_sided = estimate.unlike
    accuracy = np.array([cell.accuracy for cell in known])
    distance, *apart = distances
    bounds = past.judge(
        estimates, estimate.images, distance, apart, accuracy if one_sided else None
    )
    if bounds is None:
        return replace(
            estimate,
            reason="the model's answers resemble neither those for validation images nor those "
            "under any tested shift",
        )
    if bounds.is_too_wide:
        lowest = f"{100 * bounds.low:.0f}"
        span = f"as low as {lowest} %"
        if bounds.high is not None:
            span = f"anywhere from {lowest} to {100 * bounds.high:.0f} %"
        reason = f"the accuracy could be {span}, by what was seen under tested shifts"
        return replace(estimate, reason=reason)
    held = past.held(
        np.stack([cell.estimates for cell in known]),
        accuracy,
        np.array([cell.images for cell in known]),
        one_sided=one_sided,
    )
    return replace(
        estimate,
        value=bounds.value,
        low=bounds.low,
        high=bounds.high,
        method=estimate.methods[bounds.method].name,
        shifts=bounds.shifts,
        cells=bounds.cells,
        held=held,
    )


def _open_other_seeds(model: RunModel, notes: list[str]) -> tuple[list[int], list[nn.Module]]:
    """Load the networks of the other seeds; none if one cannot be opened."""
    try:
        networks = load_other_seeds(model)
    except InputError as error:
        notes.append(f"The other seeds of the model were not asked: {error}.")
        return [], []
    return list(networks), list(networks.values())


def _predict_unlabelled(
    model: RunModel, others: Sequence[nn.Module], images: Images, look: Look, tell: Notify
) -> tuple[UnlabelledPredictions, NetworkOutputs]:
    """The model's predictions for the images, and the outputs of its first network."""
    networks = [*model.networks, *(network for network in others if network not in model.networks)]
    total, outputs = len(images) * len(networks), []
    for place, network in enumerate(networks):

        def tell_count(count: int, before: int = place * len(images)) -> None:
            tell(Event("look at the images", before + count, total))

        outputs.append(look(network, images, tell=tell_count))
    own_logits = [output.logits for output in outputs[: len(model.networks)]]
    logits = own_logits[0] if len(own_logits) == 1 else mean_log_probability(own_logits)
    of_others = outputs if model.seed == ENSEMBLE else outputs[1:]
    classes = np.stack([o.logits.argmax(axis=1) for o in of_others]) if others else None
    stored = logits if logits.shape[1] <= MOST_STORED_CLASSES else None
    confidence = softmax(logits).max(axis=1)
    return UnlabelledPredictions(logits.argmax(axis=1), confidence, stored, classes), outputs[0]


def _read_validation(model: RunModel) -> Predictions | None:
    """The stored predictions of validation images; None if the run has none."""
    file = model.run.predictions(model.name, model.seed, CLEAN, VAL)
    return model.validation() if model.run.file(file).is_file() else None


def _compare_features(
    model: RunModel,
    outputs: NetworkOutputs,
    independent: IntArray,
    roots: Sequence[str | Path | None],
    look: Look,
    offline: bool,
    notes: list[str],
    tell: Notify,
) -> float:
    """The p-value of the features; NaN, and a note that says why, if they cannot be compared."""
    if outputs.features is None:
        notes.append("Features were not compared: the network does not end with a linear layer.")
        return np.nan
    images, errors = None, []
    for root in roots:
        try:
            images = open_validation_images(model, root=root, offline=offline, progress=tell)
            break
        except InputError as error:
            errors.append(error)
    if images is None:
        notes.append(f"Features were not compared: {errors[0]}.")
        return np.nan
    drawn = np.random.default_rng(0).permutation(independent)[:MOST_IMAGES]
    images = images[np.sort(drawn)]

    def tell_count(count: int) -> None:
        tell(Event("look at validation images", count, len(images)))

    known = look(model.networks[0], images, tell=tell_count).features
    return np.nan if known is None else features_differ_p(known, outputs.features)


def _find_nearest_cell(
    batch: Cloud,
    around: Cloud,
    known: Sequence[KnownCell],
    past: PastErrors,
    distances: Sequence[EnergyDistance],
) -> NearestCell | None:
    """The known images that are nearest, if they are nearer than validation and clean ones."""
    if past.is_unknown(distances):
        return None
    nearest = known[int(np.argmin([distance.value for distance in distances[1:]]))]
    clean = [cell.cloud for cell in known if cell.shift == CLEAN and cell is not nearest]
    if not is_nearest(batch, nearest.cloud, [around, *clean], len(known)):
        return None
    return NearestCell(nearest.shift, nearest.level, nearest.title, nearest.accuracy)


def _estimate_by_method(
    names: Sequence[str], estimates: FloatArray, past: PastErrors | None
) -> tuple[MethodEstimate, ...]:
    """The estimate of each method, and its past errors."""
    mean = least = largest = np.full(len(names), np.nan)
    if past is not None:
        mean, least, largest = (
            past.mean_absolute(),
            past.errors.min(axis=0),
            past.errors.max(axis=0),
        )
    columns = zip(names, estimates, mean, least, largest, strict=True)
    return tuple(
        MethodEstimate(name, METHOD_TITLES[name], *map(float, numbers))
        for name, *numbers in columns
    )


def _true_accuracy(predictions: UnlabelledPredictions, new: NewImages) -> Score:
    """The true accuracy, with its exact interval."""
    right = float((predictions.predicted == new.images.labels.numpy()).mean())
    low, high = clopper_pearson(right, len(predictions))
    return Score(right, float(low), float(high), len(predictions))

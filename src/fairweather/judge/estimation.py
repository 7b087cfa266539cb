"""How accurate will a model of a finished run be on images that nobody has labelled?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from fairweather.errors import InputError, quote_names
from fairweather.inference.prediction import NetworkOutputs, compute_outputs
from fairweather.judge.accuracy_estimate import ALARM_LEVEL
from fairweather.judge.accuracy_estimate import AccuracyEstimate as AccuracyEstimate
from fairweather.judge.accuracy_estimate import MethodEstimate as MethodEstimate
from fairweather.judge.accuracy_estimate import NearestCell as NearestCell
from fairweather.judge.known_cells import (
    METHOD_TITLES,
    EstimationMethods,
    KnownCell,
    UnlabelledPredictions,
    compute_past_errors,
    is_among,
    read_known_cells,
)
from fairweather.metrics import differ_p, features_differ_p, one_of_each, outputs_differ_p, softmax
from fairweather.metrics.accuracy_estimation import FEWEST_SHIFTS, Held, PastErrors
from fairweather.metrics.columns import FloatArray, IntArray, clopper_pearson
from fairweather.metrics.two_sample import (
    MOST_IMAGES,
    Cloud,
    EnergyDistance,
    energy_distance,
    is_nearest,
)
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.runs.scores import read_clusters
from fairweather.steps.run_model import (
    NewImages,
    RunModel,
    load_other_seeds,
    open_images,
    open_run_model,
    open_validation_images,
)
from fairweather.tasks.task import MOST_STORED_CLASSES, mean_log_probability
from fairweather.types.measurement import Images, Predictions, Score
from fairweather.types.options import ImageOptions, takes
from fairweather.types.record import CLEAN, ENSEMBLE, NATURAL, VAL

# The accuracy of fewer images is mostly chance: of 20, each is 5 points.
FEWEST_IMAGES = 20
OWN_TEST = (
    "They are test images of the run itself: its clean cell was left out, and its shifts are "
    "changes of these same images."
)
OWN_VALIDATION = (
    "They are validation images of the run itself, on which the methods were fitted: on other "
    "images they are off by more."
)
OWN_OTHER = "They are other images that the run knows: {} was left out."


@shows_progress
@takes(ImageOptions)
def estimate(
    run: str | Path,
    data: str,
    *,
    with_labels: bool = False,
    device: str = "auto",
    offline: bool = False,
    progress: Notify | bool | None = True,
    **options: Any,  # noqa: ANN401 - those of `ImageOptions`
) -> AccuracyEstimate:
    """Estimate how accurate a model of a finished run is on images, without using their labels.

    The run needs validation images, and test images under at least three shifts: from what each
    method was off by there, the method and the range are chosen.

    Args:
        run: `RUN[:MODEL[:SEED]]`, a run folder and which of its models.
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
        InputError: there is no such run, model or seed, or images cannot be read, or labels are
            asked for that there are not.
    """
    tell = to_notify(progress)
    of = open_run_model(str(run), offline=offline)
    # With an absolute path of the images, a root is that of the run's own alone.
    asked = ImageOptions(**options)
    place = None if Path(data.partition(":")[2]).is_absolute() else asked.root
    own = replace(asked, root=place, scale=asked.scale or of.scale)
    new = open_images(data, of.classes, of.preparation, own, offline=offline, progress=tell)
    if with_labels and not new.labelled:
        raise InputError(f"{new.name} has no labels that are each a class of the run by name")
    notes: list[str] = []
    seeds, others = _open_other_seeds(of, notes)
    seen, outputs = _predict_unlabelled(of, others, new.images, device, tell)
    validation = _read_validation(of)
    methods = EstimationMethods.fit(validation, seeds=seen.others is not None)
    known, left_out = read_known_cells(of, methods, seeds, own=seen, tell=tell)
    notes += [OWN_TEST if each == CLEAN else OWN_OTHER.format(each) for each in left_out]
    if validation is not None and is_among(seen, validation):
        notes.append(OWN_VALIDATION)
    independent = _independent_places(of, validation)
    reference = (
        None if validation is None else UnlabelledPredictions.of(validation).rows[independent]
    )
    around = None if reference is None or len(reference) < 2 else Cloud.of(reference)
    batch = Cloud.of(seen.rows) if len(seen) > 1 else None
    past = compute_past_errors(known, around, tell) if known else None
    estimates = methods.columns(seen).mean(axis=0)
    answers = features = np.nan
    if reference is not None:
        answers = outputs_differ_p(reference, seen.rows)
        # A root is that of the new images; the run's own may lie there too.
        roots = (
            [place] if data == of.record.data.source else list(dict.fromkeys([None, asked.root]))
        )
        features = _compare_features(of, outputs, independent, roots, device, offline, notes, tell)
    unlike = differ_p(answers, features)
    one_sided = bool(unlike < ALARM_LEVEL)
    told = _estimate_range(new, known, past, methods, estimates, batch, around, one_sided=one_sided)
    return AccuracyEstimate(
        model=of.name,
        seed=of.seed,
        data=new.name,
        images=len(seen),
        **told._asdict(),
        natural=sum(each.shift.startswith(NATURAL) for each in known),
        unlike_p=unlike,
        outputs_p=answers,
        features_p=features,
        like=_find_nearest_cell(batch, around, known, past),
        methods=_estimate_by_method(methods, estimates, past),
        truth=_true_accuracy(seen, new) if with_labels else None,
        notes=tuple(notes),
    )


class _RangeEstimate(NamedTuple):
    """The estimate with its range, or why it cannot be told; see `AccuracyEstimate`."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    method: str = ""
    shifts: int = 0
    cells: int = 0
    held: Held | None = None


def _estimate_range(
    new: NewImages,
    known: Sequence[KnownCell],
    past: PastErrors | None,
    methods: EstimationMethods,
    estimates: FloatArray,
    batch: Cloud | None,
    around: Cloud | None,
    *,
    one_sided: bool,
) -> _RangeEstimate:
    shifts = 0 if past is None else len(past.shifts)
    if new.other_classes:
        return _RangeEstimate(
            reason=f"the classes of the images ({quote_names(new.other_classes)}) are not "
            f"each one of the "
            "model's by name"
        )
    if around is None:
        return _RangeEstimate(
            reason="the run has no predictions of validation images, or of one patient only"
        )
    if past is None or shifts < FEWEST_SHIFTS:
        return _RangeEstimate(
            reason=f"the run knows {shifts} shifts, and {FEWEST_SHIFTS} are needed to see how "
            "wrong an estimate may be"
        )
    if batch is None or len(new.images) < FEWEST_IMAGES:
        return _RangeEstimate(
            reason=f"there are {len(new.images)} images, and {FEWEST_IMAGES} are needed"
        )
    distance, apart = energy_distance(batch, around), _distances(batch, known)
    accuracy = np.array([each.accuracy for each in known])
    found = past.judge(estimates, len(new.images), distance, apart, accuracy if one_sided else None)
    if found is None:
        return _RangeEstimate(
            reason="the model's answers are like none that it gave for validation images or under "
            "a shift that it was tested under"
        )
    if found.is_too_wide:
        lowest = f"{100 * found.low:.0f}"
        which = (
            f"down to {lowest}"
            if found.high is None
            else f"from {lowest} to {100 * found.high:.0f}"
        )
        return _RangeEstimate(
            reason=f"anything {which} % would fit what was seen under known shifts"
        )
    held = past.held(
        np.stack([each.estimates for each in known]),
        accuracy,
        np.array([each.images for each in known]),
        one_sided=one_sided,
    )
    name = methods.names[found.method]
    return _RangeEstimate(
        found.value, found.low, found.high, "", name, found.shifts, found.cells, held
    )


def _open_other_seeds(of: RunModel, notes: list[str]) -> tuple[list[int], list[nn.Module]]:
    """The other seeds of the model, with their networks; none if one cannot be opened."""
    try:
        found = load_other_seeds(of)
    except InputError as error:
        notes.append(f"The other seeds of the model were not asked: {error}.")
        return [], []
    return list(found), list(found.values())


def _predict_unlabelled(
    of: RunModel, others: Sequence[nn.Module], images: Images, device: str, tell: Notify
) -> tuple[UnlabelledPredictions, NetworkOutputs]:
    """What the model says of images, and the outputs of its first network."""
    networks = [*of.networks, *(each for each in others if each not in of.networks)]
    total, found = len(images) * len(networks), []
    for place, network in enumerate(networks):

        def done(count: int, before: int = place * len(images)) -> None:
            tell(Event("look at the images", before + count, total))

        found.append(_run_network(of, network, images, device, done))
    own = [each.logits for each in found[: len(of.networks)]]
    logits = own[0] if len(own) == 1 else mean_log_probability(own)
    of_others = found if of.seed == ENSEMBLE else found[1:]
    said = np.stack([each.logits.argmax(axis=1) for each in of_others]) if others else None
    kept = logits if logits.shape[1] <= MOST_STORED_CLASSES else None
    confidence = softmax(logits).max(axis=1)
    return UnlabelledPredictions(logits.argmax(axis=1), confidence, kept, said), found[0]


def _run_network(
    of: RunModel, network: nn.Module, images: Images, device: str, done: Callable[[int], None]
) -> NetworkOutputs:
    batch_size = of.record.settings.batch_size
    return compute_outputs(network, images, batch_size=batch_size, device=device, done=done)


def _read_validation(of: RunModel) -> Predictions | None:
    """The stored predictions of validation images; None if the run has none."""
    file = of.run.predictions(of.name, of.seed, CLEAN, VAL)
    return of.validation() if of.run.file(file).is_file() else None


def _independent_places(of: RunModel, validation: Predictions | None) -> IntArray:
    """The places of validation images that new ones are compared with: one of each patient."""
    clusters = read_clusters(of.run, VAL)
    if validation is None or clusters is None:
        return np.arange(0 if validation is None else len(validation))
    return one_of_each(clusters)


def _compare_features(
    of: RunModel,
    outputs: NetworkOutputs,
    independent: IntArray,
    roots: Sequence[str | Path | None],
    device: str,
    offline: bool,
    notes: list[str],
    tell: Notify,
) -> float:
    """The p-value of the features; NaN, and a note that says why, if they cannot be compared."""
    if outputs.features is None:
        notes.append("Features were not compared: the network does not end with a linear layer.")
        return np.nan
    images, said = None, []
    for root in roots:
        try:
            images = open_validation_images(of, root=root, offline=offline, progress=tell)
            break
        except InputError as error:
            said.append(str(error))
    if images is None:
        notes.append(f"Features were not compared: {said[0]}.")
        return np.nan
    drawn = np.random.default_rng(0).permutation(independent)[:MOST_IMAGES]
    images = images[np.sort(drawn)]

    def done(count: int) -> None:
        tell(Event("look at validation images", count, len(images)))

    known = _run_network(of, of.networks[0], images, device, done).features
    return np.nan if known is None else features_differ_p(known, outputs.features)


def _distances(batch: Cloud, known: Sequence[KnownCell]) -> list[EnergyDistance]:
    """How far images are from all known ones."""
    return [energy_distance(batch, each.cloud) for each in known]


def _find_nearest_cell(
    batch: Cloud | None, around: Cloud | None, known: Sequence[KnownCell], past: PastErrors | None
) -> NearestCell | None:
    """The known images that are nearest, if they are nearer than validation and clean ones."""
    if batch is None or around is None or past is None or len(batch.rows) < FEWEST_IMAGES:
        return None
    apart = _distances(batch, known)
    if past.is_unknown([energy_distance(batch, around), *apart]):
        return None
    found = known[int(np.argmin([each.value for each in apart]))]
    clean = [each.cloud for each in known if each.shift == CLEAN and each is not found]
    if not is_nearest(batch, found.cloud, [around, *clean], len(known)):
        return None
    return NearestCell(found.shift, found.level, found.title, found.accuracy)


def _estimate_by_method(
    methods: EstimationMethods, estimates: FloatArray, past: PastErrors | None
) -> tuple[MethodEstimate, ...]:
    """What each method says, and how wrong it was before."""
    found = []
    for place, name in enumerate(methods.names):
        errors = (np.nan, np.nan, np.nan)
        if past is not None:
            column = past.errors[:, place]
            errors = (float(past.mean_absolute()[place]), float(column.min()), float(column.max()))
        found.append(MethodEstimate(name, METHOD_TITLES[name], float(estimates[place]), *errors))
    return tuple(found)


def _true_accuracy(seen: UnlabelledPredictions, new: NewImages) -> Score:
    """The true accuracy, with its exact interval."""
    right = float((seen.predicted == new.images.labels.numpy()).mean())
    low, high = clopper_pearson(right, len(seen))
    return Score(right, float(low), float(high), len(seen))

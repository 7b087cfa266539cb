"""Make a guard: fit its promise on validation images, measure what test images keep, save it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.deploy.guard import Guard, GuardOutputs, encode_guard
from fairweather.deploy.promise import (
    VALIDATION,
    Fit,
    GuardRecord,
    ImageKind,
    Promise,
    PromiseCheck,
    ShareInterval,
    ValidationChoice,
    format_percent,
)
from fairweather.deploy.tracing import export_onnx, trace
from fairweather.errors import InputError, check_writable
from fairweather.inference.prediction import compute_outputs
from fairweather.metrics import (
    Grouping,
    fewest_for_risk,
    guaranteed_threshold,
    one_of_each,
    softmax,
    thresholds_to_try,
)
from fairweather.metrics.conformal import conformal_quantile, fewest_images, set_columns
from fairweather.metrics.grouping import Weigh, share_interval
from fairweather.metrics.two_sample import MOST_IMAGES
from fairweather.runs.folder import write_atomically
from fairweather.runs.provenance import package_versions
from fairweather.runs.scores import read_grouping
from fairweather.steps.run_model import RunModel, open_validation_images
from fairweather.tasks.classification import mean_log_probability
from fairweather.types.measurement import Images, Predictions
from fairweather.types.record import CLEAN, NATURAL, TEST, VAL, ModelRecord, predictions_file
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.prediction_sets import split_halves
from fairweather.variants.scaling import fit_temperature


class FittedPromise(NamedTuple):
    """A fitted promise, and the validation predictions that chose its threshold, not yet scaled."""

    fit: Fit
    """The promise."""

    chosen_on: Predictions
    """The predictions."""

    grouping: Grouping | None
    """Of these, if several images of one group are among them."""


def check_weighing(model: RunModel, weigh: str | None) -> None:
    """Raise `InputError` for `weigh` if the run does not know which images belong together."""
    if weigh is not None and read_grouping(model.run, VAL) is None:
        raise InputError(
            f"weigh: {model.run.path} does not know which validation images belong together, so "
            "that each counts equally: leave it out"
        )


def fit_promise(model: RunModel, promise: Promise) -> FittedPromise:
    """Fit temperature, threshold and quantile on the validation images of a run.

    Half of the images fit the temperature and propose thresholds. The other half, which is
    independent of the first, chooses among these and gives the quantile. All images of a group
    are in one half. If the promise weighs groups, one image of each chooses: then images are
    independent, as the bounds ask, and the promise is about an image of a new patient. If it weighs
    images, all of them choose, and count as fewer, independent images (`effective_sample`).

    Raises:
        InputError: there are no validation images, too few, or no threshold that keeps the risk.
    """
    every = model.validation()
    grouping, groups = read_grouping(model.run, VAL), model.run.groups(VAL)
    group = None if grouping is None or groups is None else groups.group
    parts = split_halves(every.keys, grouping)
    chosen = parts.thresholds
    units, of_chosen = "validation images", None
    if grouping is not None and len(chosen):
        of_chosen = grouping.select(chosen)
        units = f"{group}s with validation images"
        if promise.weigh == "groups":
            chosen, of_chosen = chosen[one_of_each(of_chosen)], None
        else:
            units += ", which count as so many of equal size,"
    worth = len(chosen) if of_chosen is None else int(of_chosen.effective)
    _check_enough(worth, promise, units, model)
    proposing, judging = every.take(parts.temperature), every.take(chosen)
    if not len(proposing):
        raise InputError(f"{model.run.path} has too few {units} to divide them")
    temperature = 1.0
    if proposing.logits is not None:
        temperature = fit_temperature(proposing.logits, proposing.labels).value
    tried = apply_temperature(proposing, temperature)
    scaled = apply_temperature(judging, temperature)
    threshold = guaranteed_threshold(
        scaled.confidence,
        scaled.correct,
        thresholds_to_try(tried.confidence, tried.correct, risk=promise.risk),
        risk=promise.risk,
        certainty=promise.certainty,
        grouping=of_chosen,
    )
    if not threshold.answered:
        errors = np.count_nonzero(~scaled.correct)
        raise InputError(
            f"no threshold is shown to keep a risk of {format_percent(promise.risk)} by "
            f"{threshold.images:,} {units}, of which {model.title} has "
            f"{format_percent(errors / threshold.images)} wrong: allow more risk, or evaluate with "
            "more validation images"
        )
    fit = Fit(
        temperature=temperature,
        others=len(proposing),
        quantile=conformal_quantile(_label_scores(scaled), promise.coverage, worth),
        group=group,
        chose=_find_choice(model),
        **threshold._asdict(),
    )
    return FittedPromise(fit, judging, of_chosen)


def _find_choice(model: RunModel) -> ValidationChoice:
    """Say what the validation images had already chosen: the epoch, and in a sweep the recipe."""
    settings = model.record.models[model.name].settings
    if model.record.kind != "study":
        return "perhaps" if str(settings.get("source")).startswith("run:") else "unknown"
    recipe = settings.get("recipe")
    last = isinstance(recipe, dict) and recipe.get("select") == "last"
    if settings.get("sweep"):
        return "recipe" if last else "recipe and epoch"
    return "nothing" if last else "epoch"


def _check_enough(n: int, promise: Promise, units: str, model: RunModel) -> None:
    least = max(fewest_for_risk(promise.risk, promise.certainty), fewest_images(promise.coverage))
    if n < least:
        raise InputError(
            f"half of the {units} of {model.run.path} are {n:,}, too few to promise a risk of "
            f"{format_percent(promise.risk)} with {format_percent(promise.certainty)} confidence "
            f"and sets of {format_percent(promise.coverage)}: that takes at least {least:,}, and "
            "more if any answer is wrong"
        )


def apply_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Divide logits by the temperature; predictions without logits stay as they are."""
    if predictions.logits is None:
        return predictions
    return LogitDivisor(value=temperature).apply(predictions)


def measure_run(model: RunModel, fitted: FittedPromise, weigh: Weigh) -> Iterator[PromiseCheck]:
    """Measure how the promise holds on the images of the run, from its stored predictions.

    Args:
        model: the model.
        fitted: from `fit_promise`.
        weigh: as in the promise.
    """
    fit = fitted.fit
    scaled = apply_temperature(fitted.chosen_on, fit.temperature)
    yield measure_images(VALIDATION, "clean", scaled, fit, fitted.grouping, weigh)
    places: list[tuple[str, ImageKind, str, str]] = [(CLEAN, "clean", TEST, CLEAN)]
    for sweep in model.record.sweeps:
        places += [(cell.id, sweep.kind, TEST, cell.id) for cell in sweep.cells]
    for name in model.record.natural:
        places.append((f"{NATURAL}{name}", "clean", f"{NATURAL}{name}", CLEAN))
    for images, kind, part, shift in places:
        file = predictions_file(model.name, model.seed, shift, part)
        if model.run.file(file).is_file() and model.run.holds(file):
            predictions = apply_temperature(model.run.read_predictions(file), fit.temperature)
            yield measure_images(
                images, kind, predictions, fit, read_grouping(model.run, part), weigh
            )


def measure_images(
    images: str,
    kind: ImageKind,
    predictions: Predictions,
    fit: Fit,
    grouping: Grouping | None,
    weigh: Weigh = "groups",
) -> PromiseCheck:
    """Measure how the promise holds on some images, with intervals over images or groups.

    Args:
        images, kind: as in `PromiseCheck`.
        predictions: after temperature scaling.
        fit: threshold and quantile.
        grouping: which images belong together.
        weigh: what counts alike, as in the promise.
    """
    weights = np.ones(len(predictions))
    if grouping is not None and weigh == "groups":
        weights = grouping.equal_weights
    answered = predictions.confidence >= fit.threshold
    if predictions.logits is None:
        # The most probable class is always in its set, even if its score is too large. Of several
        # equally probable classes, the first counts as that.
        size, covered = None, (_label_scores(predictions) <= fit.quantile) | predictions.correct
    else:
        sets = set_columns(softmax(predictions.logits), predictions.labels, fit.quantile)
        size, covered = float((weights * sets.set_size).mean()), sets.covered
    everywhere = np.ones(len(predictions), dtype=bool)
    return PromiseCheck(
        images=images,
        kind=kind,
        n=len(predictions),
        answered=min(float((weights * answered).mean()), 1.0),
        risk=_measure_share(~predictions.correct, answered, grouping, weights),
        covered=_measure_share(covered, everywhere, grouping, weights),
        set_size=size,
    )


def _label_scores(predictions: Predictions) -> npt.NDArray[np.float64]:
    """1 minus the probability of each label; labels with smaller scores enter the set first."""
    return 1 - np.exp(-predictions.nll)


def _measure_share(
    hits: npt.NDArray[np.bool_],
    among: npt.NDArray[np.bool_],
    grouping: Grouping | None,
    weights: npt.NDArray[np.float64],
) -> ShareInterval:
    if not among.any():
        return ShareInterval(value=None, low=None, high=None)
    [low], [high] = share_interval(hits, np.where(among, 0, -1), 1, grouping, weights)
    value = float(np.average(hits[among], weights=weights[among]))
    return ShareInterval(value=value, low=float(low), high=float(high))


UNKNOWN = "unknown"


def make_guard(
    model: RunModel,
    promise: Promise,
    *,
    device: str = "auto",
    root: str | Path | None = None,
    offline: bool = False,
) -> Guard:
    """Make a guard of a model: fit the promise, measure what the run keeps of it.

    Args:
        model: the model.
        promise: what is promised.
        device: where the networks run.
        root: the folder with the files of the run's data set, if it is not where it was.
        offline: never use the network.

    Raises:
        InputError: the validation images do not support the promise.
    """
    fitted = fit_promise(model, promise)
    size = model.record.data.side
    if size is None:
        raise InputError(f"{model.run.path} does not say how large its images are")
    recorded = model.record.models[model.name]
    record = GuardRecord(
        model=model.name,
        title=model.title,
        run=model.record.name,
        seed=model.seed,
        architecture=_name_architecture(recorded),
        classes=model.classes,
        size=size,
        preparation=model.preparation,
        scale=model.scale,
        promise=promise,
        fit=fitted.fit,
        kept=tuple(measure_run(model, fitted, promise.weigh)),
        versions=package_versions(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )

    def see(images: torch.Tensor) -> GuardOutputs:
        nothing = torch.zeros(len(images), dtype=torch.int64)
        whole = Images(images, nothing, torch.arange(len(images)), model.classes)
        outputs = [compute_outputs(network, whole, device=device) for network in model.networks]
        if len(outputs) == 1:
            return GuardOutputs(*outputs[0])
        return GuardOutputs(mean_log_probability(output.logits for output in outputs), None)

    try:
        images = open_validation_images(model, root=root, offline=offline)
    except (InputError, OSError):
        images = None  # then features are not compared, as `Likeness` says
    return Guard(record, see, _reference(fitted.chosen_on, images, see, model))


def _name_architecture(model: ModelRecord) -> str:
    named = model.settings.get("backbone") or model.facts.get("architecture")
    return named if isinstance(named, str) else UNKNOWN


def _reference(
    predictions: Predictions,
    images: Images | None,
    see: Callable[[torch.Tensor], GuardOutputs],
    model: RunModel,
) -> GuardOutputs:
    """The network's outputs for the validation images that chose the threshold.

    Logits come from the run if it stored them. Otherwise, and for features, the network predicts at
    most `MOST_IMAGES` of the images again.
    """
    again = None
    if images is not None:
        generator = np.random.default_rng(0)
        drawn = np.sort(generator.permutation(len(predictions))[:MOST_IMAGES])
        place = {key: at for at, key in enumerate(images.keys.tolist())}
        wanted = [place[key] for key in predictions.keys[drawn].tolist() if key in place]
        if wanted:
            again = see(images.images[np.array(wanted)])
    if predictions.logits is not None:
        return GuardOutputs(predictions.logits, None if again is None else again.features)
    if again is None:
        raise InputError(
            f"{model.run.path} stores no logits, and its validation images are not where they "
            "were: name the folder with the files of its data set with --data-root"
        )
    return again


def save_guard(guard: Guard, model: RunModel, folder: Path, *, replace: bool = False) -> None:
    """Save a guard as a folder of JSON and safetensors, which `open_guard` opens.

    Raises:
        InputError: the folder holds something already, or the network cannot be traced.
    """
    check_new_folder(folder, replace=replace)
    traced = trace(model.networks, guard.record.size)
    files = encode_guard(guard.record, traced.graph, traced.weights, guard.reference)
    for name, content in files.items():  # checksums last: nothing opens without them
        write_atomically(folder / name, content)


def check_new_folder(folder: Path, *, replace: bool = False) -> None:
    """Raise `InputError` unless a guard can be saved in a folder."""
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not replace:
        raise InputError(f"{folder} is not empty: name another folder, or replace it (--replace)")


def save_onnx(guard: Guard, model: RunModel, path: Path) -> None:
    """Save the model of a guard, with preprocessing and temperature, as one ONNX graph.

    Raises:
        InputError: packages are missing, or the network cannot be exported.
    """
    write_atomically(path, export_onnx(model.networks, guard.record))

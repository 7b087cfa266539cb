"""Make a guard: fit its promise on validation images, measure what test images keep, save it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fairweather.deploy.guard import (
    AnyRecord,
    FindingsGuard,
    Guard,
    GuardOutputs,
    encode_guard,
    guard_of,
)
from fairweather.deploy.promise import (
    VALIDATION,
    FindingCheck,
    FindingFit,
    FindingsFit,
    FindingsGuardRecord,
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
from fairweather.metrics.selective import GuaranteedThreshold
from fairweather.metrics.two_sample import MOST_IMAGES
from fairweather.runs.folder import write_atomically
from fairweather.runs.provenance import package_versions
from fairweather.runs.scores import read_grouping
from fairweather.steps.run_model import RunModel, open_validation_images
from fairweather.tasks.multilabel import FindingsPredictions, select_finding
from fairweather.types.kinds import FINDING
from fairweather.types.measurement import (
    CLASSIFICATION,
    MULTILABEL,
    AnyPredictions,
    Images,
    Predictions,
)
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


def check_asked(model: RunModel, weigh: str | None, coverage: float | None) -> None:
    """Raise `InputError` for what the run has no use for.

    That is `weigh` if it does not know which images belong together, and `coverage` for findings.
    """
    if weigh is not None and read_grouping(model.run, VAL) is None:
        raise InputError(
            f"weigh: {model.run.path} does not know which validation images belong together, so "
            "that each counts equally: leave it out"
        )
    if coverage is not None and model.run.task.name == MULTILABEL:
        raise InputError(
            f"coverage is that of sets of classes, and {model.run.path} is about findings: leave "
            "it out, or evaluate with the variant risk_control"
        )


class DividedImages(NamedTuple):
    """Validation images, divided into those that propose thresholds and those that choose."""

    proposing: Predictions
    judging: Predictions
    grouping: Grouping | None
    """Of the images that choose, if several images of one group are among them."""

    worth: int
    """How many independent images these are worth."""

    units: str
    """What messages call the images or groups."""


def _divide(
    every: Predictions, grouping: Grouping | None, group: str | None, weigh: Weigh
) -> DividedImages:
    """Divide validation images; see `fit_promise`."""
    parts = split_halves(every.keys, grouping)
    chosen = parts.thresholds
    units, of_chosen = "validation images", None
    if grouping is not None and len(chosen):
        of_chosen = grouping.select(chosen)
        units = f"{group}s with validation images"
        if weigh == "groups":
            chosen, of_chosen = chosen[one_of_each(of_chosen)], None
        else:
            units += ", which count as so many of equal size,"
    worth = len(chosen) if of_chosen is None else int(of_chosen.effective)
    return DividedImages(every.take(parts.temperature), every.take(chosen), of_chosen, worth, units)


class ChosenThreshold(NamedTuple):
    """A threshold, and the temperature of the predictions that it was chosen on."""

    temperature: float
    scaled: Predictions
    threshold: GuaranteedThreshold


def _choose_threshold(images: DividedImages, risk: float, certainty: float) -> ChosenThreshold:
    """Fit the temperature and propose thresholds on one half, and choose on the other."""
    temperature, proposing = 1.0, images.proposing
    if proposing.logits is not None:
        temperature = fit_temperature(proposing.logits, proposing.labels).value
    tried = apply_temperature(proposing, temperature)
    scaled = apply_temperature(images.judging, temperature)
    threshold = guaranteed_threshold(
        scaled.confidence,
        scaled.correct,
        thresholds_to_try(tried.confidence, tried.correct, risk=risk),
        risk=risk,
        certainty=certainty,
        grouping=images.grouping,
    )
    return ChosenThreshold(temperature, scaled, threshold)


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
    assert promise.coverage is not None
    group = _find_group(model)
    images = _divide(model.validation(), read_grouping(model.run, VAL), group, promise.weigh)
    _check_enough(images.worth, promise, images.units, model)
    if not len(images.proposing):
        raise InputError(f"{model.run.path} has too few {images.units} to divide them")
    temperature, scaled, threshold = _choose_threshold(images, promise.risk, promise.certainty)
    if not threshold.answered:
        raise InputError(
            f"no threshold is shown to keep a risk of {format_percent(promise.risk)} by "
            f"{threshold.images:,} {images.units}, of which {model.title} has "
            f"{_wrong_share(scaled)} wrong: allow more risk, or evaluate with more validation "
            "images"
        )
    fit = Fit(
        temperature=temperature,
        others=len(images.proposing),
        quantile=conformal_quantile(_label_scores(scaled), promise.coverage, images.worth),
        group=group,
        chose=_find_choice(model),
        **threshold._asdict(),
    )
    return FittedPromise(fit, images.judging, images.grouping)


def _find_group(model: RunModel) -> str | None:
    """What validation images that belong together share; None if that is not known."""
    groups = model.run.groups(VAL)
    return None if groups is None or groups.numbers is None else groups.group


def _wrong_share(predictions: Predictions) -> str:
    return format_percent(np.count_nonzero(~predictions.correct) / len(predictions))


def fit_findings(model: RunModel, promise: Promise) -> FindingsFit:
    """Fit temperature and threshold of each finding on the validation images where it is known.

    Images are divided as in `fit_promise`. The promise about each finding has more certainty than
    asked for, so that all hold together (Bonferroni). A finding that cannot be promised is left to
    a person.

    Raises:
        InputError: there are no validation images, or no finding can be promised.
    """
    every, grouping = _read_validation(model), read_grouping(model.run, VAL)
    certainty = 1 - (1 - promise.certainty) / len(every.classes)
    group = _find_group(model)

    def fit_one(column: int, name: str) -> FindingFit:
        known, temperature, threshold = np.flatnonzero(every.known[:, column]), 1.0, NO_THRESHOLD
        proposing, reason = 0, "no validation image is known to have it or to lack it"
        if len(known):
            own = None if grouping is None else grouping.select(known)
            images = _divide(select_finding(every, column), own, group, promise.weigh)
            proposing = len(images.proposing)
            reason = f"{images.worth:,} {images.units} are too few"
            if proposing and images.worth >= fewest_for_risk(promise.risk, certainty):
                temperature, scaled, threshold = _choose_threshold(images, promise.risk, certainty)
                reason = f"{_wrong_share(scaled)} of {threshold.images:,} {images.units} are wrong"
        answers = bool(threshold.answered)
        return FindingFit(
            finding=name,
            temperature=temperature,
            others=proposing,
            threshold=threshold.threshold if answers else None,
            images=threshold.images,
            answered=threshold.answered,
            wrong=threshold.wrong,
            bound=threshold.bound if answers else None,
            reason="" if answers else reason,
        )

    findings = tuple(fit_one(column, name) for column, name in enumerate(every.classes))
    if all(finding.threshold is None for finding in findings):
        first = findings[0]
        raise InputError(
            f"no finding is shown to keep a risk of {format_percent(promise.risk)} by the "
            f"validation images of {model.run.path}, such as {first.finding} ({first.reason}): "
            "allow more risk, or evaluate with more validation images"
        )
    return FindingsFit(
        findings=findings, certainty=certainty, group=group, chose=_find_choice(model)
    )


NO_THRESHOLD = GuaranteedThreshold(np.inf, 0, 0, 0, np.nan)


def _read_validation(model: RunModel) -> FindingsPredictions:
    predictions = model.run.read_cell(model.validation_file())
    assert isinstance(predictions, FindingsPredictions)
    return predictions


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
    assert promise.coverage is not None
    least = max(fewest_for_risk(promise.risk, promise.certainty), fewest_images(promise.coverage))
    if n < least:
        raise InputError(
            f"half of the {units} of {model.run.path} are {n:,}, too few to promise a risk of "
            f"{format_percent(promise.risk)} with {format_percent(promise.certainty)} confidence "
            f"and sets of {format_percent(promise.coverage)}: that takes at least {least:,}, and "
            "more if any answer is wrong"
        )


P = TypeVar("P", bound=Predictions)


def apply_temperature(predictions: P, temperature: float) -> P:
    """Divide logits by the temperature; predictions without logits stay as they are."""
    if predictions.logits is None:
        return predictions
    scaled = LogitDivisor(value=temperature).apply(predictions)
    if predictions.kind == FINDING:  # with a probability of 0.5 it is still there
        return scaled.with_columns(predicted=predictions.predicted)
    return scaled


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
    for place in _list_places(model):
        predictions = apply_temperature(model.run.read_predictions(place.file), fit.temperature)
        grouping = read_grouping(model.run, place.part)
        yield measure_images(place.images, place.kind, predictions, fit, grouping, weigh)


class _Place(NamedTuple):
    """Images of the run with stored predictions."""

    images: str
    kind: ImageKind
    part: str
    file: str


def _list_places(model: RunModel) -> Iterator[_Place]:
    """All images of the run with stored predictions, but validation images."""
    places: list[tuple[str, ImageKind, str, str]] = [(CLEAN, "clean", TEST, CLEAN)]
    for sweep in model.record.sweeps:
        places += [(cell.id, sweep.kind, TEST, cell.id) for cell in sweep.cells]
    for name in model.record.natural:
        places.append((f"{NATURAL}{name}", "clean", f"{NATURAL}{name}", CLEAN))
    for images, kind, part, shift in places:
        file = predictions_file(model.name, model.seed, shift, part)
        if model.run.file(file).is_file() and model.run.holds(file):
            yield _Place(images, kind, part, file)


def measure_findings(model: RunModel, fit: FindingsFit, weigh: Weigh) -> Iterator[FindingCheck]:
    """Measure how the promise about each finding holds on the test images of the run.

    Args:
        model: the model.
        fit: from `fit_findings`.
        weigh: as in the promise.
    """
    for place in _list_places(model):
        every, grouping = model.run.read_cell(place.file), read_grouping(model.run, place.part)
        assert isinstance(every, FindingsPredictions)
        for column, fitted in enumerate(fit.findings):
            known = np.flatnonzero(every.known[:, column])
            if fitted.threshold is None or not len(known):
                continue
            predictions = apply_temperature(select_finding(every, column), fitted.temperature)
            own = None if grouping is None else grouping.select(known)
            answered, risk = _measure_answers(
                predictions, fitted.threshold, own, _weights(predictions, own, weigh)
            )
            yield FindingCheck(
                images=place.images,
                kind=place.kind,
                n=len(predictions),
                answered=answered,
                risk=risk,
                finding=fitted.finding,
            )


def _weights(
    predictions: Predictions, grouping: Grouping | None, weigh: Weigh
) -> npt.NDArray[np.float64]:
    if grouping is not None and weigh == "groups":
        return grouping.equal_weights
    return np.ones(len(predictions))


def _measure_answers(
    predictions: Predictions,
    threshold: float,
    grouping: Grouping | None,
    weights: npt.NDArray[np.float64],
) -> tuple[float, ShareInterval]:
    """The share that is answered, and the share of the answers that is wrong."""
    answered = predictions.confidence >= threshold
    risk = _measure_share(~predictions.correct, answered, grouping, weights)
    return min(float((weights * answered).mean()), 1.0), risk


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
    weights = _weights(predictions, grouping, weigh)
    answered, risk = _measure_answers(predictions, fit.threshold, grouping, weights)
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
        answered=answered,
        risk=risk,
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
) -> Guard | FindingsGuard:
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
    record, chosen_on = MAKERS[model.run.task.name](model, promise)

    def see(images: torch.Tensor) -> GuardOutputs:
        nothing = torch.zeros(len(images), dtype=torch.int64)
        whole = Images(images, nothing, torch.arange(len(images)), model.classes)
        outputs = [compute_outputs(network, whole, device=device) for network in model.networks]
        if len(outputs) == 1:
            return GuardOutputs(*outputs[0])
        return GuardOutputs(model.run.task.combine(output.logits for output in outputs), None)

    try:
        images = open_validation_images(model, root=root, offline=offline)
    except (InputError, OSError):
        images = None  # then features are not compared, as `Likeness` says
    return guard_of(record, see, _reference(chosen_on, images, see, model))


def _record_classes(model: RunModel, promise: Promise) -> tuple[AnyRecord, AnyPredictions]:
    """The record of a guard of a classifier, and the predictions that chose its threshold."""
    fitted = fit_promise(model, promise)
    kept = tuple(measure_run(model, fitted, promise.weigh))
    facts = _facts(model)
    return GuardRecord(promise=promise, fit=fitted.fit, kept=kept, **facts), fitted.chosen_on


def _record_findings(model: RunModel, promise: Promise) -> tuple[AnyRecord, AnyPredictions]:
    """The record of a guard of findings, and predictions of independent validation images."""
    promise = promise.model_copy(update={"coverage": None})
    fit = fit_findings(model, promise)
    kept = tuple(measure_findings(model, fit, promise.weigh))
    grouping, every = read_grouping(model.run, VAL), _read_validation(model)
    independent = np.arange(len(every)) if grouping is None else one_of_each(grouping)
    record = FindingsGuardRecord(promise=promise, fit=fit, kept=kept, **_facts(model))
    return record, every.take(independent)


MAKERS = {CLASSIFICATION: _record_classes, MULTILABEL: _record_findings}


def _facts(model: RunModel) -> dict[str, Any]:
    """What every guard says of its model."""
    size = model.record.data.side
    if size is None:
        raise InputError(f"{model.run.path} does not say how large its images are")
    return {
        "model": model.name,
        "title": model.title,
        "run": model.record.name,
        "seed": model.seed,
        "architecture": _name_architecture(model.record.models[model.name]),
        "classes": model.classes,
        "size": size,
        "preparation": model.preparation,
        "scale": model.scale,
        "versions": package_versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _name_architecture(model: ModelRecord) -> str:
    named = model.settings.get("backbone") or model.facts.get("architecture")
    return named if isinstance(named, str) else UNKNOWN


def _reference(
    predictions: AnyPredictions,
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


def save_guard(
    guard: Guard | FindingsGuard, model: RunModel, folder: Path, *, replace: bool = False
) -> None:
    """Save a guard as a folder of JSON and safetensors, which `open_guard` opens.

    Raises:
        InputError: the folder holds something already, or the network cannot be traced.
    """
    check_new_folder(folder, replace=replace)
    traced = trace(model.networks, guard.record.size, model.run.task.kinds[0])
    files = encode_guard(guard.record, traced.graph, traced.weights, guard.reference)
    for name, content in files.items():  # checksums last: nothing opens without them
        write_atomically(folder / name, content)


def check_new_folder(folder: Path, *, replace: bool = False) -> None:
    """Raise `InputError` unless a guard can be saved in a folder."""
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not replace:
        raise InputError(f"{folder} is not empty: name another folder, or replace it (--replace)")


def save_onnx(guard: Guard | FindingsGuard, model: RunModel, path: Path) -> None:
    """Save the model of a guard, with preprocessing and temperature, as one ONNX graph.

    Raises:
        InputError: packages are missing, or the network cannot be exported.
    """
    write_atomically(path, export_onnx(model.networks, guard.record))

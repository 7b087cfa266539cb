"""A promise fitted on validation images, and what each set of test images keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.guard import VALIDATION, Fit, Kept, Kind, Measured, Promise, in_set, percent
from fairweather.inference import divide_by, fit_temperature, recalibrate
from fairweather.metrics import (
    Clusters,
    fewest_for_risk,
    guaranteed_threshold,
    one_of_each,
    softmax,
    thresholds_to_try,
)
from fairweather.metrics.clusters import share_interval
from fairweather.record import CLEAN, NATURAL, TEST, VAL, predictions_file
from fairweather.reopened import Reopened
from fairweather.scores import read_clusters
from fairweather.types import Predictions

ROUNDING = 1e-9  # so that 0.9 of 100 images are 90


class Fitted(NamedTuple):
    """A fitted promise, and the validation predictions that chose its threshold, not scaled yet."""

    fit: Fit
    chosen_on: Predictions


def fit_promise(of: Reopened, promise: Promise) -> Fitted:
    """Fit temperature, threshold and quantile on the validation images of a run.

    Half of the images are for the temperature, and propose thresholds. The other half, of which the
    first says nothing, chooses among these and gives the quantile. All images of a cluster are in
    one half, and of each cluster one image chooses: then images are independent, as the bounds ask,
    and the promise is about an image of a new patient.

    Raises:
        InputError: there are no validation images, too few, or no threshold that keeps the risk.
    """
    every = of.validation()
    groups = of.run.groups(VAL)
    known = groups is not None and groups.clusters is not None
    clusters = Clusters(groups.clusters) if known else None  # type: ignore[union-attr, arg-type]
    first = in_first_half(every.keys if clusters is None else clusters.of)
    chosen = np.flatnonzero(~first)
    what = "validation images"
    if clusters is not None:
        chosen = chosen[one_of_each(clusters.select(chosen))] if len(chosen) else chosen
        what = f"{groups.cluster}s with validation images"  # type: ignore[union-attr]
    _check_enough(len(chosen), promise, what, of)
    proposing, judging = every.take(np.flatnonzero(first)), every.take(chosen)
    if not len(proposing):
        raise InputError(f"{of.run.path} has too few {what} to divide them")
    temperature = 1.0
    if proposing.logits is not None:
        temperature = fit_temperature(proposing.logits, proposing.labels).value
    tried = tempered(proposing, temperature)
    scaled = tempered(judging, temperature)
    found = guaranteed_threshold(
        scaled.confidence,
        scaled.correct,
        thresholds_to_try(tried.confidence, tried.correct, risk=promise.risk),
        risk=promise.risk,
        certainty=promise.certainty,
    )
    if not found.answered:
        errors = np.count_nonzero(~scaled.correct)
        raise InputError(
            f"no threshold is shown to keep a risk of {percent(promise.risk)} by {found.images:,} "
            f"{what}, of which {of.title} has {percent(errors / found.images)} wrong: allow more "
            "risk, or evaluate with more validation images"
        )
    fit = Fit(
        temperature=temperature,
        others=len(proposing),
        threshold=found.threshold,
        quantile=label_quantile(1 - np.exp(-scaled.nll), promise.coverage),
        images=found.images,
        answered=found.answered,
        wrong=found.wrong,
        bound=found.bound,
        cluster=groups.cluster if known else None,  # type: ignore[union-attr]
        chose_checkpoint=_chose_checkpoint(of),
    )
    return Fitted(fit, judging)


def _chose_checkpoint(of: Reopened) -> bool:
    """Say whether validation images chose the epoch of the model, or its recipe in a sweep."""
    settings = of.record.models[of.name].settings
    recipe = settings.get("recipe")
    last = isinstance(recipe, dict) and recipe.get("select") == "last"
    return of.record.kind == "study" and not (last and not settings.get("sweep"))


def _check_enough(n: int, promise: Promise, what: str, of: Reopened) -> None:
    least = max(fewest_for_risk(promise.risk, promise.certainty), fewest_for_sets(promise.coverage))
    if n < least:
        raise InputError(
            f"half of the {what} of {of.run.path} are {n:,}, too few to promise a risk of "
            f"{percent(promise.risk)} with {percent(promise.certainty)} confidence and sets of "
            f"{percent(promise.coverage)}: that takes at least {least:,}, and more if any answer "
            "is wrong"
        )


def in_first_half(units: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Divide images by what they are known by, bool `[n]`: always the same, and as if by chance.

    >>> in_first_half(np.array([0, 1, 2, 3, 2])).tolist()
    [True, True, False, False, False]
    """
    distinct, which = np.unique(units, return_inverse=True)
    digests = (hashlib.sha256(str(unit).encode()).digest()[0] for unit in distinct.tolist())
    return np.array([each % 2 == 1 for each in digests], dtype=bool)[which.ravel()]


def fewest_for_sets(coverage: float) -> int:
    """The fewest images with which a set need not hold all classes.

    >>> fewest_for_sets(0.9)
    9
    """
    return int(np.ceil(coverage / (1 - coverage) - ROUNDING))


def label_quantile(scores: npt.NDArray[np.float64], coverage: float) -> float:
    """The score that at least this share of new images stays at or below, over all draws.

    It is the ceil((n + 1) coverage)-th smallest of n scores: of n + 1 exchangeable images, any one
    is as likely as any other to be the new one.

    Args:
        scores: float `[n]`, one minus the probability of the right class.
        coverage: in (0, 1), at most n / (n + 1).

    Source: Sadinle, Lei and Wasserman 2019, Least Ambiguous Set-Valued Classifiers with Bounded
    Error Levels; Vovk, Gammerman and Shafer 2005 for the finite number of images.

    >>> label_quantile(np.arange(1, 10) / 10, 0.8)
    0.8
    """
    place = int(np.ceil((len(scores) + 1) * coverage - ROUNDING))
    return float(np.sort(scores)[place - 1])


def tempered(predictions: Predictions, temperature: float) -> Predictions:
    """Divide logits by the temperature; predictions without logits stay as they are."""
    if predictions.logits is None:
        return predictions
    return recalibrate(predictions, divide_by(temperature))


def measure(of: Reopened, fitted: Fitted) -> Iterator[Kept]:
    """What is kept of the promise on the images of the run, from its stored predictions."""
    fit = fitted.fit
    yield kept(VALIDATION, "clean", tempered(fitted.chosen_on, fit.temperature), fit, None)
    places: list[tuple[str, Kind, str, str]] = [(CLEAN, "clean", TEST, CLEAN)]
    for sweep in of.record.sweeps:
        places += [(cell.id, sweep.kind, TEST, cell.id) for cell in sweep.cells]
    for name in of.record.natural:
        places.append((f"{NATURAL}{name}", "clean", f"{NATURAL}{name}", CLEAN))
    for images, kind, part, shift in places:
        file = predictions_file(of.name, of.seed, shift, part)
        if of.run.file(file).is_file() and of.run.holds(file):
            predictions = tempered(of.run.read_predictions(file), fit.temperature)
            yield kept(images, kind, predictions, fit, read_clusters(of.run, part))


def kept(
    images: str, kind: Kind, predictions: Predictions, fit: Fit, clusters: Clusters | None
) -> Kept:
    """What is kept of the promise on some images, with intervals over images or clusters.

    Args:
        images, kind: as in `Kept`.
        predictions: after temperature scaling.
        fit: threshold and quantile.
        clusters: which images belong together.
    """
    answered = predictions.confidence >= fit.threshold
    covered = 1 - np.exp(-predictions.nll) <= fit.quantile
    size = None
    if predictions.logits is not None:
        sets = in_set(softmax(predictions.logits), fit.quantile)
        size = float(sets.sum(axis=1).mean())
    everywhere = np.ones(len(predictions), dtype=bool)
    return Kept(
        images=images,
        kind=kind,
        n=len(predictions),
        answered=float(answered.mean()),
        risk=_share(~predictions.correct, answered, clusters),
        covered=_share(covered, everywhere, clusters),
        set_size=size,
    )


def _share(
    hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], clusters: Clusters | None
) -> Measured:
    if not among.any():
        return Measured(value=None, low=None, high=None)
    [low], [high] = share_interval(hits, np.where(among, 0, -1), 1, clusters)
    return Measured(value=float(hits[among].mean()), low=float(low), high=float(high))

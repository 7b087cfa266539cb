"""A promise fitted on validation images, and what each set of test images keeps of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.guard import (
    VALIDATION,
    Chosen,
    Fit,
    Kept,
    Kind,
    Measured,
    Promise,
    percent,
)
from fairweather.metrics import (
    Clusters,
    fewest_for_risk,
    guaranteed_threshold,
    one_of_each,
    softmax,
    thresholds_to_try,
)
from fairweather.metrics.clusters import Weigh, share_interval
from fairweather.metrics.conformal import conformal_quantile, fewest_images, set_columns
from fairweather.record import CLEAN, NATURAL, TEST, VAL, predictions_file
from fairweather.reopened import Reopened
from fairweather.scores import read_clusters
from fairweather.types import Predictions
from fairweather.variants.conformal import halves
from fairweather.variants.fitted import Divided
from fairweather.variants.temperature import fit_temperature


class Fitted(NamedTuple):
    """A fitted promise, and the validation predictions that chose its threshold, not scaled yet.

    Attributes:
        fit: the promise.
        chosen_on: the predictions.
        clusters: of these, if several images of one cluster are among them.
    """

    fit: Fit
    chosen_on: Predictions
    clusters: Clusters | None


def check_known(of: Reopened, weigh: str | None) -> None:
    """Raise `InputError` if it is asked what counts alike, and no images belong together."""
    if weigh is not None and read_clusters(of.run, VAL) is None:
        raise InputError(
            f"weigh: {of.run.path} does not know which validation images belong together, so that "
            "each counts alike: leave it out"
        )


def fit_promise(of: Reopened, promise: Promise) -> Fitted:
    """Fit temperature, threshold and quantile on the validation images of a run.

    Half of the images are for the temperature, and propose thresholds. The other half, of which the
    first says nothing, chooses among these and gives the quantile. All images of a cluster are in
    one half. If the promise weighs clusters, one image of each chooses: then images are
    independent, as the bounds ask, and the promise is about an image of a new patient. If it weighs
    images, all of them choose, and count as the independent images that they are worth.

    Raises:
        InputError: there are no validation images, too few, or no threshold that keeps the risk.
    """
    every = of.validation()
    clusters, groups = read_clusters(of.run, VAL), of.run.groups(VAL)
    cluster = None if clusters is None or groups is None else groups.cluster
    parts = halves(every.keys, clusters)
    chosen = parts.thresholds
    what, of_chosen = "validation images", None
    if clusters is not None and len(chosen):
        of_chosen = clusters.select(chosen)
        what = f"{cluster}s with validation images"
        if promise.weigh == "clusters":
            chosen, of_chosen = chosen[one_of_each(of_chosen)], None
        else:
            what += ", which count as so many of equal size,"
    worth = len(chosen) if of_chosen is None else int(of_chosen.effective)
    _check_enough(worth, promise, what, of)
    proposing, judging = every.take(parts.temperature), every.take(chosen)
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
        clusters=of_chosen,
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
        quantile=conformal_quantile(_scores(scaled), promise.coverage, worth),
        images=found.images,
        answered=found.answered,
        wrong=found.wrong,
        bound=found.bound,
        cluster=cluster,
        chose=_chosen(of),
    )
    return Fitted(fit, judging, of_chosen)


def _chosen(of: Reopened) -> Chosen:
    """Say what validation images chose of the model: its epoch, and its recipe in a sweep."""
    settings = of.record.models[of.name].settings
    if of.record.kind != "study":
        return "perhaps" if str(settings.get("source")).startswith("run:") else "unknown"
    recipe = settings.get("recipe")
    last = isinstance(recipe, dict) and recipe.get("select") == "last"
    if settings.get("sweep"):
        return "recipe" if last else "recipe and epoch"
    return "nothing" if last else "epoch"


def _check_enough(n: int, promise: Promise, what: str, of: Reopened) -> None:
    least = max(fewest_for_risk(promise.risk, promise.certainty), fewest_images(promise.coverage))
    if n < least:
        raise InputError(
            f"half of the {what} of {of.run.path} are {n:,}, too few to promise a risk of "
            f"{percent(promise.risk)} with {percent(promise.certainty)} confidence and sets of "
            f"{percent(promise.coverage)}: that takes at least {least:,}, and more if any answer "
            "is wrong"
        )


def tempered(predictions: Predictions, temperature: float) -> Predictions:
    """Divide logits by the temperature; predictions without logits stay as they are."""
    if predictions.logits is None:
        return predictions
    return Divided(value=temperature).apply(predictions)


def measure(of: Reopened, fitted: Fitted, weigh: Weigh) -> Iterator[Kept]:
    """What is kept of the promise on the images of the run, from its stored predictions.

    Args:
        of: the model.
        fitted: from `fit_promise`.
        weigh: as in the promise.
    """
    fit = fitted.fit
    scaled = tempered(fitted.chosen_on, fit.temperature)
    yield kept(VALIDATION, "clean", scaled, fit, fitted.clusters, weigh)
    places: list[tuple[str, Kind, str, str]] = [(CLEAN, "clean", TEST, CLEAN)]
    for sweep in of.record.sweeps:
        places += [(cell.id, sweep.kind, TEST, cell.id) for cell in sweep.cells]
    for name in of.record.natural:
        places.append((f"{NATURAL}{name}", "clean", f"{NATURAL}{name}", CLEAN))
    for images, kind, part, shift in places:
        file = predictions_file(of.name, of.seed, shift, part)
        if of.run.file(file).is_file() and of.run.holds(file):
            predictions = tempered(of.run.read_predictions(file), fit.temperature)
            yield kept(images, kind, predictions, fit, read_clusters(of.run, part), weigh)


def kept(
    images: str,
    kind: Kind,
    predictions: Predictions,
    fit: Fit,
    clusters: Clusters | None,
    weigh: Weigh = "clusters",
) -> Kept:
    """What is kept of the promise on some images, with intervals over images or clusters.

    Args:
        images, kind: as in `Kept`.
        predictions: after temperature scaling.
        fit: threshold and quantile.
        clusters: which images belong together.
        weigh: what counts alike, as in the promise.
    """
    alike = np.ones(len(predictions))
    if clusters is not None and weigh == "clusters":
        alike = clusters.alike
    answered = predictions.confidence >= fit.threshold
    if predictions.logits is None:
        # A label whose score is too large is in a set only where that would be empty, and so is the
        # most probable class. Of several that are equally probable, the first counts as that.
        size, covered = None, (_scores(predictions) <= fit.quantile) | predictions.correct
    else:
        sets = set_columns(softmax(predictions.logits), predictions.labels, fit.quantile)
        size, covered = float((alike * sets.set_size).mean()), sets.covered
    everywhere = np.ones(len(predictions), dtype=bool)
    return Kept(
        images=images,
        kind=kind,
        n=len(predictions),
        answered=min(float((alike * answered).mean()), 1.0),
        risk=_share(~predictions.correct, answered, clusters, alike),
        covered=_share(covered, everywhere, clusters, alike),
        set_size=size,
    )


def _scores(predictions: Predictions) -> npt.NDArray[np.float64]:
    """Of each label, 1 minus its probability; the smaller, the sooner it is in the set."""
    return 1 - np.exp(-predictions.nll)


def _share(
    hits: npt.NDArray[np.bool_],
    among: npt.NDArray[np.bool_],
    clusters: Clusters | None,
    alike: npt.NDArray[np.float64],
) -> Measured:
    if not among.any():
        return Measured(value=None, low=None, high=None)
    [low], [high] = share_interval(hits, np.where(among, 0, -1), 1, clusters, alike)
    value = float(np.average(hits[among], weights=alike[among]))
    return Measured(value=value, low=float(low), high=float(high))

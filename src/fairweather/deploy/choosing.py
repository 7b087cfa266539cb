"""Choose what a guard answers: thresholds from validation images, of which half propose them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from fairweather.deploy.promise import AMONG, LimitFit, LimitKind, describe_limit
from fairweather.metrics import (
    Grouping,
    fewest_for_risk,
    guaranteed_threshold,
    one_of_each,
    softmax,
    thresholds_to_try,
)
from fairweather.metrics.answer_rules import LimitedImages, guaranteed_rule, rules_to_try
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.grouping import Weigh
from fairweather.metrics.selective import GuaranteedThreshold
from fairweather.types.kinds import FINDING
from fairweather.types.measurement import Predictions
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.prediction_sets import split_halves
from fairweather.variants.scaling import fit_temperature


class Units(NamedTuple):
    """Validation images that test a promise."""

    images: Predictions
    """Of each group one, if groups count equally."""

    grouping: Grouping | None
    """Of these, if several images of one group are among them."""

    @property
    def worth(self) -> int:
        """How many independent images these are worth."""
        return len(self.images) if self.grouping is None else int(self.grouping.effective)


class DividedImages(NamedTuple):
    """Validation images, divided into those that propose thresholds and those that choose."""

    proposing: Predictions
    second: Units
    """All images of the half that chooses."""

    group: str | None
    weigh: Weigh
    """`group`, `weigh`: what belongs together, and what counts equally."""

    def choosing(self, label: int | None = None) -> Units:
        """The images that choose, of one label if it is given."""
        images, grouping = self.second
        if label is not None:
            places = np.flatnonzero(images.labels == label)
            images = images.take(places)
            if grouping is not None:
                grouping = grouping.select(places) if len(places) else None
        if grouping is not None and self.weigh == "groups":
            return Units(images.take(one_of_each(grouping)), None)
        return Units(images, grouping)

    def scaled(self, temperature: float) -> DividedImages:
        """The same, with logits divided by a temperature."""
        images, grouping = self.second
        return self._replace(
            proposing=apply_temperature(self.proposing, temperature),
            second=Units(apply_temperature(images, temperature), grouping),
        )

    @property
    def units(self) -> str:
        """What messages call the images or groups."""
        if self.second.grouping is None:
            return "validation images"
        counted = "" if self.weigh == "groups" else ", which count as so many of equal size,"
        return f"{self.group}s with validation images{counted}"


def divide_images(
    every: Predictions, grouping: Grouping | None, group: str | None, weigh: Weigh
) -> DividedImages:
    """Divide validation images; see `fit_promise`."""
    parts = split_halves(every.keys, grouping)
    later = parts.thresholds
    own = None if grouping is None or not len(later) else grouping.select(later)
    second = Units(every.take(later), own)
    return DividedImages(every.take(parts.temperature), second, group, weigh)


class ClassLimit(NamedTuple):
    """A limit of a promise, and the label of the images that count (see `LimitKind`)."""

    kind: LimitKind
    name: str
    label: int
    share: float

    def lacking(self, images: DividedImages, certainty: float) -> str:
        """Say that too few images choose to show the limit; empty if they are enough."""
        worth, fewest = images.choosing(self.label).worth, fewest_for_risk(self.share, certainty)
        if worth >= fewest:
            return ""
        promised = describe_limit(self.kind, self.name, self.share)
        return (
            f"{promised} takes at least {fewest:,} answered ones and no error, and half of the "
            f"{images.units} {AMONG[self.kind]} {self.name} are {worth:,}"
        )


class ChosenRule(NamedTuple):
    """A threshold, or two, of the images that are answered, and what they were chosen on."""

    temperature: float
    thresholds: tuple[float, float]
    """Of both scores of an image. Without limits, both are that of the confidence."""

    counts: GuaranteedThreshold
    """How many images are answered and wrong; its bound is NaN without a risk."""

    limits: tuple[LimitFit, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether there is a rule that is shown to keep the promise."""
        return bool(np.isfinite(self.thresholds).all())

    @property
    def bound(self) -> float | None:
        """The upper end of the interval of the risk, if that has a limit."""
        return None if np.isnan(self.counts.bound) else self.counts.bound


# A ceiling is a hair above a probability, so that no rounding decides.
SLACK = 1e-9


def choose_for_classes(
    images: DividedImages, limits: Sequence[ClassLimit], risk: float | None, certainty: float
) -> ChosenRule:
    """Fit the temperature and propose thresholds on one half, and choose on the other.

    Args:
        images: both halves.
        limits: on missed images; all, and the risk, are kept together.
        risk: of all answers; None only with limits.
        certainty: with which they are kept.
    """
    if not limits and risk is not None:
        return _choose_threshold(images, risk, certainty)
    weights = weigh_classes(images.proposing, limits)

    def score(predictions: Predictions) -> FloatArray:
        return score_classes(predictions, weights, confident=risk is not None)

    chosen = _choose_rule(images, score, limits, risk, certainty)
    if images.proposing.logits is None or not chosen.answers:
        return chosen
    doubt = -chosen.thresholds[1] * (1 + SLACK)
    tops = (min(doubt * float(weights[own.label]), 1.0) for own in limits)
    fits = (
        fitted.model_copy(update={"ceiling": top})
        for fitted, top in zip(chosen.limits, tops, strict=True)
    )
    return chosen._replace(limits=tuple(fits))


def choose_for_finding(
    images: DividedImages, limits: Sequence[ClassLimit], risk: float | None, certainty: float
) -> ChosenRule:
    """As `choose_for_classes`, of a finding: a threshold for present, and one for absent."""
    if not limits and risk is not None:
        return _choose_threshold(images, risk, certainty)
    kinds = [limit.kind for limit in limits]

    def score(predictions: Predictions) -> FloatArray:
        return score_finding(predictions, kinds, confident=risk is not None)

    return _choose_rule(images, score, limits, risk, certainty)


def _choose_threshold(images: DividedImages, risk: float, certainty: float) -> ChosenRule:
    temperature = _fit_temperature(images.proposing)
    every = images.scaled(temperature)
    first, judging = every.proposing, every.choosing()
    threshold = guaranteed_threshold(
        judging.images.known_confidence,
        judging.images.correct,
        thresholds_to_try(first.known_confidence, first.correct, risk=risk),
        risk=risk,
        certainty=certainty,
        grouping=judging.grouping,
    )
    return ChosenRule(temperature, (threshold.threshold,) * 2, threshold)


def _choose_rule(
    images: DividedImages,
    score: Callable[[Predictions], FloatArray],
    limits: Sequence[ClassLimit],
    risk: float | None,
    certainty: float,
) -> ChosenRule:
    temperature = _fit_temperature(images.proposing)
    every = images.scaled(temperature)
    first, judging = every.proposing, every.choosing()

    def limited(units: Units, share: float) -> LimitedImages:
        return LimitedImages(share, score(units.images), ~units.images.correct, units.grouping)

    shares = [(own.share, own.label) for own in limits]
    proposals = [
        limited(Units(first.take(np.flatnonzero(first.labels == label)), None), share)
        for share, label in shares
    ]
    judged = [limited(every.choosing(label), share) for share, label in shares]
    if risk is not None:
        proposals.append(limited(Units(first, None), risk))
        judged.append(limited(judging, risk))
    rule = guaranteed_rule(judged, rules_to_try(score(first), proposals), certainty=certainty)
    scaled = judging.images
    answered = (score(scaled) >= rule.thresholds).all(axis=1)
    counts = GuaranteedThreshold(
        rule.thresholds[0],
        len(scaled),
        int(answered.sum()),
        int((answered & ~scaled.correct).sum()),
        np.nan if risk is None else rule.shown[-1].bound,
    )
    shown = tuple(
        LimitFit(
            kind=own.kind,
            name=own.name,
            limit=own.share,
            fewest=fewest_for_risk(own.share, certainty),
            images=len(tested.wrong),
            answered=share.answered,
            wrong=share.wrong,
            bound=share.bound if share.answered else None,
        )
        for own, tested, share in zip(limits, judged, rule.shown, strict=False)  # not the risk
    )
    return ChosenRule(temperature, rule.thresholds, counts, shown)


def _fit_temperature(proposing: Predictions) -> float:
    if proposing.logits is None:
        return 1.0
    return fit_temperature(proposing.logits, proposing.labels).value


def weigh_classes(proposing: Predictions, limits: Sequence[ClassLimit]) -> FloatArray:
    """How probable each class may be where another one is answered, in proportion, `[classes]`.

    It is the limit times the share of the class, as if the probabilities were right: then the share
    of missed images is at most the limit. It is infinite without a limit.
    """
    weights = np.full(len(proposing.classes), np.inf)
    for own in limits:
        count = np.count_nonzero(proposing.labels == own.label)
        weights[own.label] = own.share * max(int(count), 1) / len(proposing)
    return weights


def score_classes(
    predictions: Predictions, weights: FloatArray, *, confident: bool = True
) -> FloatArray:
    """Two scores of each image, `[n, 2]`: the confidence, and minus the largest doubt.

    The doubt is the probability of a class that is not the answer, divided by its weight.

    Args:
        predictions: after temperature scaling; without logits, there is no doubt.
        weights: from `weigh_classes`.
        confident: whether the confidence matters; otherwise it is 0.
    """
    scores = np.zeros((len(predictions), 2))
    if confident:
        scores[:, 0] = predictions.confidence
    if predictions.logits is not None:
        doubt = softmax(predictions.logits) / weights
        doubt[np.arange(len(doubt)), predictions.predicted] = 0
        scores[:, 1] = -doubt.max(axis=1)
    return scores


def score_finding(
    predictions: Predictions, kinds: Collection[LimitKind], *, confident: bool
) -> FloatArray:
    """The confidence in present and in absent, `[n, 2]`; 1 in the one that is not the answer.

    Args:
        predictions: of one finding, after temperature scaling.
        kinds: the limits of the finding.
        confident: whether the risk has a limit too. Without it and without a limit on its errors,
            an answer needs no confidence, and its column is 0.
    """
    assert predictions.logits is not None
    scores, chances = np.zeros((len(predictions), 2)), softmax(predictions.logits)
    for place, (answer, kind) in enumerate(((1, "false_alarms"), (0, "missed"))):
        if confident or kind in kinds:
            scores[:, place] = np.where(predictions.predicted == answer, chances[:, answer], 1)
    return scores


P = TypeVar("P", bound=Predictions)


def apply_temperature(predictions: P, temperature: float) -> P:
    """Divide logits by the temperature; predictions without logits stay as they are."""
    if predictions.logits is None:
        return predictions
    scaled = LogitDivisor(value=temperature).apply(predictions)
    if predictions.kind == FINDING:  # with a probability of 0.5 it is still there
        return scaled.with_columns(predicted=predictions.predicted)
    return scaled

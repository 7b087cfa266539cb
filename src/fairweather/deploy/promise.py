"""The record of a guard, `guard.json`: its promise, its basis, and where the promise is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, Literal, TypeVar

import pydantic

from fairweather.errors import check_name
from fairweather.metrics.grouping import Weigh
from fairweather.types.measurement import MAX_SIDE
from fairweather.types.options import Preparation
from fairweather.types.record import CLEAN, FrozenRecord, ShownText

VERSION: Literal[2] = 2  # of the format of guard.json; 1 had the names of `FORMER_NAMES`
VALIDATION = "validation"
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
OpenShare = Annotated[float, pydantic.Field(gt=0, lt=1)]
ImageKind = Literal["clean", "shift", "attack"]
Count = Annotated[int, pydantic.Field(ge=0)]
Side = Annotated[int, pydantic.Field(ge=1, le=MAX_SIDE)]
# What the validation images had already chosen before the promise was fitted on them, and the
# caveat that follows. It is unknown for a model from elsewhere. A model that another run trained
# may have been chosen on the same images.
ValidationChoice = Literal["nothing", "epoch", "recipe", "recipe and epoch", "perhaps", "unknown"]
CHOICE_TEXTS: Mapping[ValidationChoice, str] = {
    "nothing": "",
    "epoch": ". They also chose the epoch of the model",
    "recipe": ". They also chose the recipe of the model",
    "recipe and epoch": ". They also chose the recipe and the epoch of the model",
    "perhaps": ". Valid only if the model was neither trained nor tuned on these images",
    "unknown": ". Valid only if the model was not trained on these images",
}
ClassName = Annotated[str, pydantic.AfterValidator(lambda text: check_name(text, "the class"))]


class Promise(FrozenRecord):
    """What is promised for images from the same distribution as the validation images."""

    risk: OpenShare
    """The largest error rate: the share of the answers that may be wrong."""

    certainty: OpenShare
    """The share of draws of validation images in which the risk is kept."""

    coverage: OpenShare | None
    """The smallest share of images whose prediction set contains the right class, on average over
    draws of validation images; None for findings, which have no sets."""

    weigh: Weigh = "groups"
    """What has equal weight where images belong together: `groups`, such as patients, or `images`,
    so that a patient with many images has more weight."""


class Fit(FrozenRecord):
    """What was fitted on validation images."""

    temperature: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    """Logits are divided by it; 1 if the run stores no logits to fit it on."""

    others: Count
    """The number of images on which the temperature was fitted and from which candidates for the
    threshold came; none of them is among `images`."""

    threshold: Share
    """The smallest confidence that is answered; below it, the guard abstains."""

    quantile: Share
    """A class is in the prediction set if its probability is at least 1 minus this. If no class is,
    the set is the most probable one."""

    images: Count
    """The number of images on which threshold and quantile were chosen."""

    answered: Count
    wrong: Count
    """`answered`, `wrong`: how many of these are answered, and how many of the answers are wrong.
    """

    bound: Share
    """The upper end of the one-sided interval of the risk. It is exact, except if groups are known
    and the promise weighs images."""

    group: ShownText | None
    """The column that says which images belong together, such as `patient`. Then one image of each
    group counts, or all if the promise weighs images."""

    chose: ValidationChoice
    """What the validation images had already chosen of the model."""


class ShareInterval(FrozenRecord):
    """A share with its 95 % interval; without images, all three values are missing (None)."""

    value: Share | None
    low: Share | None
    high: Share | None


class FindingFit(FrozenRecord):
    """What was fitted for one finding, on the validation images where it is known."""

    finding: ClassName
    """Its name."""

    temperature: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    others: Count
    """`temperature`, `others`: as in `Fit`."""

    threshold: Share | None
    """The smallest confidence in the decision that is answered; None if a person reviews all."""

    images: Count
    answered: Count
    wrong: Count
    """`images`, `answered`, `wrong`: as in `Fit`."""

    bound: Share | None
    """The upper end of the one-sided interval of the risk; None if a person reviews all."""

    reason: str
    """Why a person reviews all; empty otherwise."""

    def __str__(self) -> str:
        if self.threshold is None:
            return f"all for review: {self.reason}"
        return (
            f"answered from a confidence of {self.threshold:.4g} on, where {self.wrong:,} of "
            f"{self.answered:,} answers to validation images are wrong"
        )


class FindingsFit(FrozenRecord):
    """What was fitted on validation images for several findings of an image."""

    findings: tuple[FindingFit, ...]
    """In the order of the logits."""

    certainty: OpenShare
    """That of the promise about each finding. All of them hold together with the certainty of the
    promise, by Bonferroni's correction."""

    group: ShownText | None
    chose: ValidationChoice
    """`group`, `chose`: as in `Fit`."""


class AnswerCheck(FrozenRecord):
    """How many answers were wrong on some images of the run."""

    images: ShownText
    """Which ones: `validation` (those that the threshold was chosen on), `clean` (test images), the
    id of a shift or an attack, or `natural/NAME`."""

    kind: ImageKind
    """What was done to the images: `shift`, `attack`, or nothing (`clean`)."""

    n: Count
    """The number of images."""

    answered: Share
    """The share of the images that is answered; all shares are weighed as in the promise."""

    risk: ShareInterval
    """The error rate: the share of the answers that is wrong."""

    def __str__(self) -> str:
        value, low, high = self.risk.value, self.risk.low, self.risk.high
        if value is None or low is None or high is None:
            return "nothing is answered"
        return (
            f"{format_percent(value)} [{format_percent(low)}, {format_percent(high)}] of the "
            f"answers are wrong, {format_percent(self.answered)} are answered"
        )


class PromiseCheck(AnswerCheck):
    """How well the promise held on some images of the run."""

    covered: ShareInterval
    """The share of the images whose prediction set contains the right class."""

    set_size: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None
    """Mean number of classes in a set; None if the run stores no logits."""


class FindingCheck(AnswerCheck):
    """How well the promise about one finding held on some images of the run."""

    finding: ClassName


F = TypeVar("F", Fit, FindingsFit)
K = TypeVar("K", PromiseCheck, FindingCheck)


class GuardFacts(FrozenRecord, Generic[F, K]):
    """The facts of a guard, of whatever task."""

    version: Literal[2] = VERSION
    model: ShownText
    title: ShownText
    """`model`, `title`: name and title of the model in its run."""

    run: ShownText
    """Name of the run."""

    seed: int | ShownText
    """Seed of the training, or `ensemble`."""

    architecture: ShownText
    """The network as the run names it, for people."""

    classes: tuple[ClassName, ...]
    """Names of classes or findings, in the order of the logits."""

    size: tuple[Side, Side]
    """Height and width of the images in pixels."""

    preparation: Preparation | None
    """How images from elsewhere become squares of this size; None if unknown."""

    scale: ShownText | None
    """Which gray values become black and white; None if the run does not say."""

    promise: Promise
    fit: F
    """`promise`, `fit`: the promise and its basis."""

    kept: tuple[K, ...]
    """What was kept on validation and test images, clean and shifted."""

    versions: dict[ShownText, ShownText]
    """Of the packages that made it."""

    time: ShownText
    """In UTC, ISO 8601."""

    @pydantic.field_validator("preparation")
    @classmethod
    def _check_preparation(
        cls, preparation: Preparation | None, info: pydantic.ValidationInfo
    ) -> Preparation | None:
        if preparation is None or "size" not in info.data:  # a wrong size is an error of its own
            return preparation
        if (preparation.size, preparation.size) != info.data["size"]:
            raise ValueError(f"it makes images of {preparation.size} pixels, which is another size")
        resize = preparation.size if preparation.resize is None else preparation.resize
        if not preparation.size <= resize <= MAX_SIDE:
            raise ValueError(
                f"resize must be from {preparation.size} to {MAX_SIDE}, found {resize}"
            )
        return preparation

    def lines(self) -> dict[str, str]:
        """The promise, its basis, and what test images kept of it, for people."""
        raise NotImplementedError


class GuardRecord(GuardFacts[Fit, PromiseCheck]):
    """The facts of a guard of a classifier."""

    def lines(self) -> dict[str, str]:
        """The promise, its basis, and what test images kept of it, for people."""
        promise, fit = self.promise, self.fit
        assert promise.coverage is not None
        chosen_on, weighed = "validation images", ""
        if fit.group:
            counted = fit.group if promise.weigh == "groups" else "image"
            weighed = f", each {counted} counting equally"
            chosen_on += f", one of each {fit.group}," if promise.weigh == "groups" else ""
        lines = {
            "promised": f"at most {_format_exact(promise.risk)} of the answers are wrong, with "
            f"{_format_exact(promise.certainty)} confidence, for images like the validation "
            f"images{weighed}: {fit.images:,} {chosen_on} chose the threshold "
            f"{fit.threshold:.4g}, and {fit.wrong:,} of their {fit.answered:,} answers are "
            f"wrong{CHOICE_TEXTS[fit.chose]}",
            "sets": f"the set of an image contains its class for {_format_exact(promise.coverage)} "
            "of such images, on average over draws of validation images",
        }
        return lines | _kept_lines(self.kept, promise.risk)


class FindingsGuardRecord(GuardFacts[FindingsFit, FindingCheck]):
    """The facts of a guard of several findings."""

    task: Literal["multilabel"] = "multilabel"
    """What is predicted; guards of a classifier do not say it."""

    def lines(self) -> dict[str, str]:
        """The promise, and for each finding its basis and what test images kept of it."""
        promise, fit = self.promise, self.fit
        weighed = ""
        if fit.group:
            counted = fit.group if promise.weigh == "groups" else "image"
            weighed = f", each {counted} counting equally"
        lines = {
            "promised": f"at most {_format_exact(promise.risk)} of the answers about each finding "
            f"are wrong, with {_format_exact(promise.certainty)} confidence for all "
            f"{len(fit.findings)} findings together, for images like the validation "
            f"images{weighed}{CHOICE_TEXTS[fit.chose]}"
        }
        for number, finding in enumerate(fit.findings, start=1):
            own = [check for check in self.kept if check.finding == finding.finding]
            kept = [] if finding.threshold is None else _kept_lines(own, promise.risk).values()
            lines[f"finding {number}"] = "; ".join([f"{finding.finding}: {finding}", *kept])
        return lines


def _kept_lines(kept: Sequence[AnswerCheck], risk: float) -> dict[str, str]:
    """What clean test images and shifted ones kept of a promise."""
    lines = {}
    clean = [images for images in kept if images.images == CLEAN]
    if clean:
        lines["tested"] = f"test images of the run: {clean[0]}"
    shifted = [images for images in kept if images.kind == "shift"]
    if shifted:
        lines["shifted"] = _under_shifts(shifted, risk)
    return lines


def _under_shifts(levels: Sequence[AnswerCheck], promised: float) -> str:
    """Say where the risk is too high; the worst level is the one with the highest lower end."""
    risks = [
        (low, value, level)
        for level in levels
        if (value := level.risk.value) is not None and (low := level.risk.low) is not None
    ]
    above = sum(value > promised for _, value, _ in risks)
    risk = _format_exact(promised)
    text = f"error rate above {risk} at {above} of {len(levels)} shifted levels"
    if silent := len(levels) - len(risks):
        text += f", no answer at {silent} of them"
    if not risks:
        return text
    _, _, worst = max(risks, key=lambda risk_at: risk_at[:2])
    return f"{text}; worst, {worst.images}: {worst}"


def _format_exact(share: float) -> str:
    """Write a share exactly: 99.99 % is not 100 %."""
    return f"{100 * share:.10g} %"


def format_percent(share: float) -> str:
    """Write a share in per cent.

    >>> format_percent(0.05), format_percent(0.0312), format_percent(1)
    ('5 %', '3.1 %', '100 %')
    """
    return f"{100 * share:.3g} %" if share >= 0.1 else f"{100 * share:.2g} %"

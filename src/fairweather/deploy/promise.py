"""The record of a guard, `guard.json`: its promise, its basis, and where the promise is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Generic, Literal, TypeVar

import pydantic

from fairweather.errors import check_name
from fairweather.metrics.grouping import Weigh
from fairweather.types.measurement import MAX_SIDE
from fairweather.types.options import Aggregation, Preparation
from fairweather.types.positive import PositiveClasses
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
# Which images have a limit of their own: those of a class, or with a finding, that may be missed;
# or those without a finding, of which an answer that it is present is a false alarm.
LimitKind = Literal["missed", "false_alarms"]
LIMIT_WORDS: Mapping[LimitKind, str] = {"missed": "missed", "false_alarms": "false alarms"}
AMONG: Mapping[LimitKind, str] = {"missed": "of", "false_alarms": "without"}


class Promise(FrozenRecord):
    """What is promised for images from the same distribution as the validation images."""

    risk: OpenShare | None
    """The largest error rate: the share of the answers that may be wrong; None if only classes or
    findings have limits."""

    certainty: OpenShare
    """The share of draws of validation images in which the risk and all limits are kept."""

    coverage: OpenShare | None
    """The smallest share of images whose prediction set contains the right class, on average over
    draws of validation images; None for findings, which have no sets."""

    weigh: Weigh = "groups"
    """What has equal weight where images belong together: `groups`, such as patients, or `images`,
    so that a patient with many images has more weight."""

    missed: Mapping[ClassName, OpenShare] = {}
    """For a class: of its answered images, the largest share that may be answered as another class.
    For a finding: of the answered images that have it, the largest share of `absent`."""

    false_alarms: Mapping[ClassName, OpenShare] = {}
    """For a finding: of the answered images without it, the largest share of `present`."""

    @property
    def limits(self) -> dict[LimitKind, Mapping[str, float]]:
        """Those of classes or findings, by their kind."""
        return {"missed": self.missed, "false_alarms": self.false_alarms}

    def describe(self) -> str:
        """Name all that is limited."""
        texts = [] if self.risk is None else [f"a risk of {_format_exact(self.risk)}"]
        texts += [
            describe_limit(kind, ", ".join(own for own in limits if limits[own] == limit), limit)
            for kind, limits in self.limits.items()
            for limit in dict.fromkeys(limits.values())
        ]
        return " and ".join(texts)


class LimitFit(FrozenRecord):
    """What validation images show of a limit on missed images or false alarms."""

    kind: LimitKind
    """`missed` or `false_alarms`."""

    name: ClassName
    """The class, or the finding."""

    limit: OpenShare
    """The largest share of wrong answers."""

    fewest: Count
    """So many answered images are needed to show it, if no answer is wrong."""

    images: Count
    """The number of images of the class, or with the finding, on which the rule was tested; of
    false alarms, without it. If groups are known and count equally, one of each group."""

    answered: Count
    wrong: Count
    """`answered`, `wrong`: how many of these are answered, and how many of the answers are wrong.
    """

    bound: Share | None
    """The upper end of the one-sided interval of the true share; None if a person reviews all."""

    ceiling: Share | None = None
    """Another class is answered only where the probability of this class is at most so large; None
    for findings, which have thresholds for present and absent."""

    def __str__(self) -> str:
        said = (
            f"{describe_limit(self.kind, self.name, self.limit)}: {self.wrong:,} of "
            f"{self.answered:,} answered validation images are {LIMIT_WORDS[self.kind]} "
            f"({self.fewest:,} are needed if none is)"
        )
        if self.ceiling is None:
            return said
        return (
            f"{said}; another class is answered where {self.name} has a probability of at most "
            f"{self.ceiling:.3g}"
        )


class Fit(FrozenRecord):
    """What was fitted on validation images."""

    temperature: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    """Logits are divided by it; 1 if the run stores no logits to fit it on."""

    others: Count
    """The number of images on which the temperature was fitted and from which candidates for the
    threshold came; none of them is among `images`."""

    threshold: Share
    """The smallest confidence that is answered; below it, the guard abstains. 0 without a risk."""

    quantile: Share
    """A class is in the prediction set if its probability is at least 1 minus this. If no class is,
    the set is the most probable one."""

    images: Count
    """The number of images on which threshold and quantile were chosen."""

    answered: Count
    wrong: Count
    """`answered`, `wrong`: how many of these are answered, and how many of the answers are wrong.
    """

    bound: Share | None
    """The upper end of the one-sided interval of the risk. It is exact, except if groups are known
    and the promise weighs images. None without a risk."""

    group: ShownText | None
    """The column that says which images belong together, such as `patient`. Then one image of each
    group counts, or all if the promise weighs images."""

    chose: ValidationChoice
    """What the validation images had already chosen of the model."""

    limits: tuple[LimitFit, ...] = ()
    """Of the classes that have one."""

    def ceilings(self, classes: Sequence[str]) -> tuple[float, ...]:
        """The largest probability of each class where another is answered; 1 without a limit."""
        own = {fitted.name: fitted.ceiling for fitted in self.limits}
        return tuple(1.0 if (top := own.get(name)) is None else top for name in classes)


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

    present: Share | None = None
    """The smallest confidence in `present` that is answered, if `threshold` is about `absent` only:
    with limits on missed images or false alarms, there are two."""

    images: Count
    answered: Count
    wrong: Count
    """`images`, `answered`, `wrong`: as in `Fit`."""

    bound: Share | None
    """The upper end of the one-sided interval of the risk; None if a person reviews all."""

    reason: str
    """Why a person reviews all; empty otherwise."""

    @property
    def least(self) -> tuple[float, float]:
        """The smallest confidence in absent, and in present, that is answered; or infinite."""
        absent = math.inf if self.threshold is None else self.threshold
        return absent, absent if self.present is None else self.present

    def __str__(self) -> str:
        if self.threshold is None:
            return f"all for review: {self.reason}"
        start = f"answered from a confidence of {self.threshold:.4g} on"
        if self.present is not None:
            start = (
                f"absent up to a probability of {1 - max(self.threshold, 0.5):.4g}, present from "
                f"{max(self.present, 0.5):.4g} on, the others for review"
            )
        return (
            f"{start}, where {self.wrong:,} of {self.answered:,} answers to validation images are "
            "wrong"
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

    limits: tuple[LimitFit, ...] = ()
    """Of the findings that have one."""


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
        return self._describe("of the answers are wrong")

    def _describe(self, share: str) -> str:
        value, low, high = self.risk.value, self.risk.low, self.risk.high
        if value is None or low is None or high is None:
            return "nothing is answered"
        return (
            f"{format_percent(value)} [{format_percent(low)}, {format_percent(high)}] {share}, "
            f"{format_percent(self.answered)} are answered"
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


class LimitCheck(AnswerCheck):
    """How well a limit on missed images or false alarms was kept on some images of the run.

    Only images of the class count, or those with the finding; of false alarms, those without it.
    """

    limit: LimitKind
    name: ClassName
    """`limit`, `name`: `kind` and `name` of the limit."""

    def __str__(self) -> str:
        return self._describe(f"of them are {LIMIT_WORDS[self.limit]}")


class JudgedUnit(FrozenRecord):
    """What a guard answers in place of images."""

    unit: ShownText
    """What a group of images is, such as `patient`."""

    aggregate: ShownText
    """How its images become one decision, such as `mean`."""

    ordered: bool = False
    """Whether the classes are in an order."""

    @property
    def aggregation(self) -> Aggregation:
        """The same as in the settings of a run."""
        return Aggregation(self.unit, (self.aggregate,))


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

    judged: JudgedUnit | None = None
    """What is answered in place of images; None for images."""

    promise: Promise
    fit: F
    """`promise`, `fit`: the promise and its basis."""

    kept: tuple[K, ...]
    """What was kept on validation and test images, clean and shifted."""

    kept_limits: tuple[LimitCheck, ...] = ()
    """What was kept of each limit on the same images."""

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

    @pydantic.field_validator("fit")
    @classmethod
    def _check_limits(cls, fit: F, info: pydantic.ValidationInfo) -> F:
        for fitted in fit.limits:
            if fitted.name not in info.data.get("classes", (fitted.name,)):
                raise ValueError(f"it limits {fitted.name!r}, which is not one of its classes")
        return fit

    def lines(self) -> dict[str, str]:
        """The promise, its basis, and what test images kept of it, for people."""
        raise NotImplementedError


class GuardRecord(GuardFacts[Fit, PromiseCheck]):
    """The facts of a guard of a classifier."""

    def lines(self) -> dict[str, str]:
        """The promise, its basis, and what test images kept of it, for people."""
        promise, fit = self.promise, self.fit
        assert promise.coverage is not None
        together = " for all limits together" if fit.limits else ""
        sure = f"with {_format_exact(promise.certainty)} confidence{together}, for images like the "
        sure += f"validation images{_weighed(promise, fit.group)}"
        if promise.risk is None:
            promised = f"{promise.describe()}, {sure}"
        else:
            one = f", one of each {fit.group}," if fit.group and promise.weigh == "groups" else ""
            promised = (
                f"at most {_format_exact(promise.risk)} of the answers are wrong, {sure}: "
                f"{fit.images:,} validation images{one} chose the threshold {fit.threshold:.4g}, "
                f"and {fit.wrong:,} of their {fit.answered:,} answers are wrong"
            )
        lines = {
            "promised": f"{promised}{CHOICE_TEXTS[fit.chose]}",
            "sets": f"the set of an image contains its class for {_format_exact(promise.coverage)} "
            "of such images, on average over draws of validation images",
        }
        lines |= _limit_lines(fit.limits, self.kept_limits)
        return lines | _kept_lines(self.kept, promise.risk)


class FindingsGuardRecord(GuardFacts[FindingsFit, FindingCheck]):
    """The facts of a guard of several findings."""

    task: Literal["multilabel"] = "multilabel"
    """What is predicted; guards of a classifier do not say it."""

    positive: PositiveClasses | None = None
    """The classes that the findings are made of; None if they are not."""

    def lines(self) -> dict[str, str]:
        """The promise, and for each finding its basis and what test images kept of it."""
        promise, fit = self.promise, self.fit
        about, every = "each finding", [f"{len(fit.findings)} findings"]
        if len(fit.findings) == 1:
            about, every = fit.findings[0].finding, []
        every += ["limits"] if fit.limits else []
        together = f" for all {' and '.join(every)} together" if every else ""
        promised = promise.describe()
        if promise.risk is not None:
            risk = _format_exact(promise.risk)
            promised = f"at most {risk} of the answers about {about} are wrong"
        lines = {
            "promised": f"{promised}, with {_format_exact(promise.certainty)} confidence"
            f"{together}, for images like the validation images{_weighed(promise, fit.group)}"
            f"{CHOICE_TEXTS[fit.chose]}"
        }
        for number, finding in enumerate(fit.findings, start=1):
            own = [check for check in self.kept if check.finding == finding.finding]
            kept = [] if finding.threshold is None else _kept_lines(own, promise.risk).values()
            lines[f"finding {number}"] = "; ".join([f"{finding.finding}: {finding}", *kept])
        return lines | _limit_lines(fit.limits, self.kept_limits)


def _weighed(promise: Promise, group: str | None) -> str:
    counted = group if promise.weigh == "groups" else "image"
    return f", each {counted} counting equally" if group else ""


def describe_limit(kind: LimitKind, names: str, limit: float) -> str:
    """Say what is limited.

    >>> describe_limit("missed", "melanoma", 0.01)
    'at most 1 % missed among answered images of melanoma'
    """
    among = f"{AMONG[kind]} {names}"
    return f"at most {_format_exact(limit)} {LIMIT_WORDS[kind]} among answered images {among}"


def _limit_lines(limits: Sequence[LimitFit], kept: Sequence[LimitCheck]) -> dict[str, str]:
    """The basis of each limit, and what test images kept of it."""
    lines = {}
    for number, fitted in enumerate((own for own in limits if own.bound is not None), start=1):
        own = [check for check in kept if (check.limit, check.name) == (fitted.kind, fitted.name)]
        word = LIMIT_WORDS[fitted.kind]
        texts = [str(fitted), *_kept_lines(own, fitted.limit, word).values()]
        lines[f"limit {number}"] = "; ".join(texts)
    return lines


def _kept_lines(
    kept: Sequence[AnswerCheck], limit: float | None, share: str = "error rate"
) -> dict[str, str]:
    """What clean test images and shifted ones kept of a limit on a share."""
    lines = {}
    clean = [images for images in kept if images.images == CLEAN]
    if clean:
        lines["tested"] = f"test images of the run: {clean[0]}"
    shifted = [images for images in kept if images.kind == "shift"]
    if shifted and limit is not None:
        lines["shifted"] = _under_shifts(shifted, limit, share)
    return lines


def _under_shifts(levels: Sequence[AnswerCheck], promised: float, share: str) -> str:
    """Say where the share is too high; the worst level is the one with the highest lower end."""
    risks = [
        (low, value, level)
        for level in levels
        if (value := level.risk.value) is not None and (low := level.risk.low) is not None
    ]
    above = sum(value > promised for _, value, _ in risks)
    text = f"{share} above {_format_exact(promised)} at {above} of {len(levels)} shifted levels"
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

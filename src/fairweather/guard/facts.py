"""What a guard promises, what that rests on, and what it keeps under each shift: `guard.json`."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from fairweather.errors import check_name
from fairweather.record import Frozen, Shown
from fairweather.types import LARGEST_SIDE, Preparation

VERSION: Literal[1] = 1
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Inner = Annotated[float, pydantic.Field(gt=0, lt=1)]
Count = Annotated[int, pydantic.Field(ge=0)]
Side = Annotated[int, pydantic.Field(ge=1, le=LARGEST_SIDE)]
Name = Annotated[str, pydantic.AfterValidator(lambda text: check_name(text, "the class"))]


class Promise(Frozen):
    """What is promised for images like the validation images.

    Attributes:
        risk: the largest share of wrong answers.
        certainty: the share of draws of validation images in which the risk is kept.
        coverage: the least share of images whose set holds the right class, on average over draws.
    """

    risk: Inner
    certainty: Inner
    coverage: Inner


class Fit(Frozen):
    """What was fitted on validation images.

    Attributes:
        temperature: logits are divided by it.
        temperature_images: the images that it was fitted on, which also proposed thresholds; 0 if
            there are no stored logits to fit it on.
        threshold: the smallest confidence that is answered.
        quantile: a class is in the set where its probability is at least 1 minus this.
        images: the other images, on which threshold and quantile were chosen.
        answered, wrong: how many of these are answered, and how many of the answers are wrong.
        bound: the upper end of the exact interval of the risk.
        cluster: what images belong together by, such as `patient`; then one image of each counts.
        chose_checkpoint: whether the same images had chosen the epoch of the model.
    """

    temperature: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    temperature_images: Count
    threshold: Share
    quantile: Share
    images: Count
    answered: Count
    wrong: Count
    bound: Share
    cluster: Shown | None
    chose_checkpoint: bool


class Measured(Frozen):
    """A share with its 95 % interval; None where there is nothing that it would be a share of."""

    value: Share | None
    low: Share | None
    high: Share | None


class Kept(Frozen):
    """What was kept of the promise on some images of the run.

    Attributes:
        images: `validation` (those that the threshold was chosen on), `clean` (test images), the id
            of a shift or an attack, or `natural/NAME`.
        n: how many images.
        answered: the share of them that is answered.
        risk: the share of the answers that is wrong.
        covered: the share of the images whose set holds the right class.
        set_size: mean number of classes in a set; None if the run stores no logits.
    """

    images: Shown
    n: Count
    answered: Share
    risk: Measured
    covered: Measured
    set_size: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None


class GuardRecord(Frozen):
    """The facts of a guard.

    Attributes:
        model, title: name and title of the model in its run.
        run: name of the run.
        seed: seed of the training, or `ensemble`.
        architecture: the network as the run names it, for people.
        classes: names in the order of the logits.
        size: height and width of the images in pixels.
        preparation: how other images become squares of that size; None if that is not known.
        scale: which gray values become black and white, if that was said.
        promise, fit: what is promised, and what it rests on.
        kept: what was kept on validation and test images, clean and shifted.
        versions: of the packages that made it.
        time: in UTC, ISO 8601.
    """

    version: Literal[1] = VERSION
    model: Shown
    title: Shown
    run: Shown
    seed: int | Shown
    architecture: Shown
    classes: tuple[Name, ...]
    size: tuple[Side, Side]
    preparation: Preparation | None
    scale: Shown | None
    promise: Promise
    fit: Fit
    kept: tuple[Kept, ...]
    versions: dict[Shown, Shown]
    time: Shown

    def lines(self) -> list[str]:
        """The promise, and what it rests on, in sentences."""
        promise, fit = self.promise, self.fit
        of = f"validation images, one of each {fit.cluster}," if fit.cluster else "validation images"
        chose = "; they also chose the epoch of the model" if fit.chose_checkpoint else ""
        return [
            f"risk <= {percent(promise.risk)} with {percent(promise.certainty)} certainty, for "
            f"images like those of validation: {fit.images:,} {of} chose the threshold "
            f"{fit.threshold:.4g}, {fit.wrong:,} of their {fit.answered:,} answers are wrong (risk "
            f"<= {percent(fit.bound)}){chose}",
            f"the set of an image holds its class for {percent(promise.coverage)} of such images",
        ]

    def worst(self) -> Kept | None:
        """The shift of the run under which the largest share of answers is wrong."""
        shifted = [each for each in self.kept if each.risk.value is not None]
        return max(shifted, key=lambda each: each.risk.value or 0.0, default=None)


def percent(share: float) -> str:
    """Write a share in per cent.

    >>> percent(0.05), percent(0.0312), percent(1)
    ('5 %', '3.1 %', '100 %')
    """
    return f"{100 * share:.3g} %" if share >= 0.1 else f"{100 * share:.2g} %"

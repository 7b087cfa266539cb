"""The variants of a model: what may be fitted or changed at test time, and how it is written.

A variant is a model plus something that is fitted or changed when it is tested. It has its own
predictions but no checkpoint, and its name is `MODEL+VARIANT`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, get_args

from fairweather.errors import InputError, unknown_name
from fairweather.types import Kind
from fairweather.yamlfile import parse_yaml

FORM = "KIND, or KIND: {PARAMETER: VALUE}"
Curve = Literal["isotonic", "logistic"]
Weigh = Literal["clusters", "images"]  # what counts alike where images belong together
WEIGH: tuple[Weigh, ...] = get_args(Weigh)
CURVES: tuple[Curve, ...] = get_args(Curve)
FITTED_UNDER_SHIFTS = "fitted under shifts"
FIT_ON = "-fit_on"  # suffix of the names of variants that are fitted on what `fit_on` lists


@dataclass(frozen=True)
class Variant:
    """A variant; each kind is a class with its parameters as fields, which it checks.

    Attributes:
        kind: how studies and the command line call it.
        is_fitted: whether it is fitted on validation images.
        accepts: the kind of predictions that it changes.
    """

    accepts: ClassVar[Kind] = Kind()
    kind: ClassVar[str]
    is_fitted: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What stands behind `MODEL+`, also in the names of folders."""
        return self.kind

    @property
    def title(self) -> str:
        """What reports add to the title of the model."""
        raise NotImplementedError

    @property
    def uses_fit_on(self) -> bool:
        """Whether it is fitted on the images that `fit_on` lists, not on clean ones alone."""
        return False

    @property
    def text(self) -> str:
        """How the record of a run writes it; `read_variant` reads it back.

        Parameters at their defaults are left out, so that the text of a kind stays the same where
        it gets a new parameter.

        >>> Temperature().text, Conformal(method="aps").text
        ('temperature', 'conformal: {"method": "aps"}')
        """
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        given = {name: value for name, (value, default) in values.items() if value != default}
        return f"{self.kind}: {json.dumps(given)}" if given else self.kind


@dataclass(frozen=True)
class Calibration(Variant):
    """The logits are changed by numbers that are fitted on validation images.

    Attributes:
        fit_on: whether these are the images that `fit_on` lists, not clean ones alone.
    """

    described: ClassVar[str]
    fit_on: bool = False

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if not isinstance(self.fit_on, bool):
            raise InputError(
                f"variants: fit_on of {self.kind} must be true or false, found {self.fit_on!r}"
            )

    @property
    def name(self) -> str:  # noqa: D102 - as its base says
        return f"{self._own_name}{FIT_ON}" if self.fit_on else self._own_name

    @property
    def _own_name(self) -> str:
        return self.kind

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        return f"{self.described} {FITTED_UNDER_SHIFTS}" if self.fit_on else self.described

    @property
    def uses_fit_on(self) -> bool:  # noqa: D102 - as its base says
        return self.fit_on


@dataclass(frozen=True)
class Temperature(Calibration):
    """The logits are divided by one number."""

    kind: ClassVar[str] = "temperature"
    described: ClassVar[str] = "temperature scaling"


@dataclass(frozen=True)
class VectorScaling(Calibration):
    """The logits are multiplied by a scale of each class, and get a bias of each class."""

    kind: ClassVar[str] = "vector_scaling"
    described: ClassVar[str] = "vector scaling"


@dataclass(frozen=True)
class Isotonic(Calibration):
    """The probability of each class goes through a step function; then all are normalised."""

    kind: ClassVar[str] = "isotonic"
    described: ClassVar[str] = "isotonic regression"


@dataclass(frozen=True)
class TopVersusAll(Calibration):
    """The confidence becomes the chance that the prediction is right; the prediction stays.

    Attributes:
        method: how this chance is fitted: `isotonic` or `logistic`.
    """

    kind: ClassVar[str] = "top_versus_all"
    described: ClassVar[str] = "top-versus-all"
    method: Curve = "isotonic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in CURVES:
            raise unknown_name("method of top_versus_all", str(self.method), CURVES)

    @property
    def _own_name(self) -> str:
        return self.kind if self.method == CURVES[0] else f"{self.kind}-{self.method}"

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        shifted = f" {FITTED_UNDER_SHIFTS}" if self.fit_on else ""
        return f"{self.described} ({self.method}){shifted}"


@dataclass(frozen=True)
class Thresholds(Variant):
    """The model as it is, with the thresholds of deferral and ATC from what `fit_on` lists."""

    kind: ClassVar[str] = f"thresholds{FIT_ON}"

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        return f"thresholds {FITTED_UNDER_SHIFTS}"

    @property
    def uses_fit_on(self) -> bool:  # noqa: D102 - as its base says
        return True


@dataclass(frozen=True)
class BatchNorm(Variant):
    """Batch norm has the statistics of the batch of test images."""

    kind: ClassVar[str] = "batchnorm"
    is_fitted: ClassVar[bool] = False

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        return "batch norm of the test batch"


METHODS = ("lac", "aps", "raps")


@dataclass(frozen=True)
class Conformal(Variant):
    """A set of classes for each image, which contains the label as often as promised.

    Attributes:
        method: the score of a class: `lac`, `aps` or `raps`; see `fairweather.metrics.conformal`.
        coverage: the promised share of images whose label is in the set.
        classwise: keep the promise for the images of each class, with a threshold for each.
        weigh: what counts alike where images belong together: `clusters`, such as patients, of
            which one image each is used; or `images`, so that the coverage is a share of all.

    >>> Conformal(coverage=0.95, classwise=True).name
    'conformal-lac-0.95-classwise'
    """

    kind: ClassVar[str] = "conformal"
    method: str = "lac"
    coverage: float = 0.9
    classwise: bool = False
    weigh: Weigh = "clusters"

    def __post_init__(self) -> None:
        check_weigh(self.weigh)
        if self.method not in METHODS:
            raise unknown_name("method of prediction sets", str(self.method), METHODS)
        from fairweather.types import is_finite  # with numpy, which `--help` should not wait for

        if not is_finite(self.coverage) or not 0 < self.coverage < 1:
            raise InputError(
                "the coverage of prediction sets must be a share between 0 and 1, such as 0.9, "
                f"found {self.coverage!r}"
            )
        if not isinstance(self.classwise, bool):
            raise InputError(
                f"classwise of prediction sets must be true or false, found {self.classwise!r}"
            )

    @property
    def name(self) -> str:  # noqa: D102 - as its base says
        from fairweather.types import shortest  # likewise

        each = "-classwise" if self.classwise else ""
        weighed = "-images" if self.weigh == "images" else ""
        return f"{self.kind}-{self.method}-{shortest(self.coverage)}{each}{weighed}"

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        each = " in each class" if self.classwise else ""
        weighed = " of images" if self.weigh == "images" else ""
        return f"{self.method.upper()} sets for {100 * self.coverage:.6g} %{weighed}{each}"


def check_weigh(weigh: object) -> Weigh:
    """Check what is to count alike where images belong together: `clusters` or `images`."""
    for known in WEIGH:
        if weigh == known:
            return known
    raise unknown_name("value of weigh", str(weigh), WEIGH)


VARIANTS: Mapping[str, type[Variant]] = {
    each.kind: each
    for each in (
        Temperature,
        BatchNorm,
        VectorScaling,
        Isotonic,
        TopVersusAll,
        Thresholds,
        Conformal,
    )
}


def read_variant(asked: object) -> Variant:
    """Make a variant of its written form.

    Args:
        asked: a kind such as `temperature`; a kind with its parameters, as a mapping or as text
            (`conformal: {method: aps, coverage: 0.95}`); or a `Variant`.

    Raises:
        InputError: the kind or a parameter is unknown, or a value is not allowed.

    >>> read_variant("conformal: {method: raps, coverage: 0.8}").title
    'RAPS sets for 80 %'
    """
    if isinstance(asked, Variant):
        return asked
    if isinstance(asked, str) and ":" in asked:
        asked = parse_yaml(asked, f"variants: {asked!r}")
    if isinstance(asked, str):
        asked = {asked: {}}
    if not isinstance(asked, Mapping) or len(asked) != 1:
        raise InputError(f"variants: each must be {FORM}, found {asked!r}")
    ((kind, given),) = asked.items()
    if kind not in VARIANTS:
        raise unknown_name("variant", str(kind), VARIANTS)
    if not isinstance(given, Mapping):
        raise InputError(f"variants: each must be {FORM}, found {asked!r}")
    known = [each.name for each in fields(VARIANTS[kind])]
    for name in given:
        if name not in known and known:
            raise unknown_name(f"parameter of {kind}", str(name), known)
        if name not in known:
            raise InputError(f"variants: {kind} has no parameters, found {name!r}")
    return VARIANTS[kind](**given)


def read_variants(asked: Iterable[object]) -> tuple[Variant, ...]:
    """Make variants of their written forms; see `read_variant`.

    Raises:
        InputError: as `read_variant`, and if one is listed twice.

    >>> [each.name for each in read_variants(["temperature", {"conformal": {"method": "aps"}}])]
    ['temperature', 'conformal-aps-0.9']
    """
    found = tuple(read_variant(each) for each in asked)
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"variants: {name} is listed twice")
    return found


def keeps_network(added: str) -> bool:
    """Say whether what stands behind `MODEL+` is a variant that an attack sees as the model itself.

    >>> [keeps_network(each) for each in ("isotonic-fit_on", "batchnorm", "interpolated-0.5")]
    [True, False, False]
    """
    kinds = [name for name in VARIANTS if added == name or added.startswith(f"{name}-")]
    return bool(kinds) and BatchNorm.kind not in kinds


def with_fit_on(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Add what is fitted on the images that `fit_on` lists, beside what is fitted on clean ones.

    >>> [each.name for each in with_fit_on(read_variants(["temperature"]))]
    ['temperature', 'temperature-fit_on', 'thresholds-fit_on']
    """
    found: list[Variant] = []
    for each in variants:
        found += [each, replace(each, fit_on=True)] if isinstance(each, Calibration) else [each]
    return tuple(dict.fromkeys([*found, Thresholds()]))


def check_fit_on(variants: Iterable[Variant]) -> None:
    """Raise `InputError` for a variant that needs `fit_on` where nothing is listed there."""
    for each in variants:
        if each.uses_fit_on:
            raise InputError(
                f"variants: {each.name} is fitted on the images that fit_on lists, and there is no "
                "fit_on"
            )

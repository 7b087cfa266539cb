"""The variants of a model: what may be fitted or changed at test time, and how it is written.

A variant is a model plus something that is fitted or changed when it is tested. It has its own
predictions but no checkpoint, and its name is `MODEL+VARIANT`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from fairweather.errors import InputError, unknown_name
from fairweather.yamlfile import parse_yaml

FORM = "KIND, or KIND: {PARAMETER: VALUE}"


@dataclass(frozen=True)
class Variant:
    """A variant; each kind is a class with its parameters as fields, which it checks.

    Attributes:
        kind: how studies and the command line call it.
        is_fitted: whether it is fitted on clean validation images.
    """

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
    def text(self) -> str:
        """How the record of a run writes it; `read_variant` reads it back.

        Parameters at their defaults are left out, so that the text of a kind stays the same where
        it gets a new parameter.

        >>> Temperature().text
        'temperature'
        """
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        given = {name: value for name, (value, default) in values.items() if value != default}
        return f"{self.kind}: {json.dumps(given)}" if given else self.kind


@dataclass(frozen=True)
class Temperature(Variant):
    """The logits are divided by one number."""

    kind: ClassVar[str] = "temperature"

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        return "temperature scaling"


@dataclass(frozen=True)
class BatchNorm(Variant):
    """Batch norm has the statistics of the batch of test images."""

    kind: ClassVar[str] = "batchnorm"
    is_fitted: ClassVar[bool] = False

    @property
    def title(self) -> str:  # noqa: D102 - as its base says
        return "batch norm of the test batch"


VARIANTS: Mapping[str, type[Variant]] = {each.kind: each for each in (Temperature, BatchNorm)}


def read_variant(asked: object) -> Variant:
    """Make a variant of its written form.

    Args:
        asked: a kind such as `temperature`; a kind with its parameters, as a mapping or as text
            (`KIND: {PARAMETER: VALUE}`); or a `Variant`.

    Raises:
        InputError: the kind or a parameter is unknown, or a value is not allowed.

    >>> read_variant("temperature").title
    'temperature scaling'
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

    >>> [each.name for each in read_variants(["temperature", {"batchnorm": {}}])]
    ['temperature', 'batchnorm']
    """
    found = tuple(read_variant(each) for each in asked)
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"variants: {name} is listed twice")
    return found

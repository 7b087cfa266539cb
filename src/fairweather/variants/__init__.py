"""The variants of a model: what may be fitted or changed at test time, and how it is written.

A variant is a model plus something that is fitted or changed when it is tested. It has its own
predictions but no checkpoint, and its name is `MODEL+VARIANT`. Each is one object in a file of its
own, of one of two kinds: `PostHoc` changes stored predictions, `Adapting` changes the network.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import fields

from fairweather.errors import InputError, unknown_name
from fairweather.variants.variant import Variant as Variant
from fairweather.yamlfile import parse_yaml

FORM = "KIND, or KIND: {PARAMETER: VALUE}"
# Each kind, and the class that it is. It is imported when one is asked for: they need SciPy, which
# `--help` should not wait for.
VARIANTS = {
    "temperature": "fairweather.variants.temperature:Temperature",
    "batchnorm": "fairweather.variants.batchnorm:BatchNorm",
    "vector_scaling": "fairweather.variants.vector_scaling:VectorScaling",
    "isotonic": "fairweather.variants.isotonic:Isotonic",
    "top_versus_all": "fairweather.variants.top_versus_all:TopVersusAll",
    "thresholds-fit_on": "fairweather.variants.thresholds:Thresholds",
    "conformal": "fairweather.variants.conformal:Conformal",
}


def class_of(kind: str) -> type[Variant]:
    """The class of a kind of variant.

    >>> class_of("temperature")().title
    'temperature scaling'
    """
    found: type[Variant] = pkgutil.resolve_name(VARIANTS[kind])
    return found


def read_variant(asked: object) -> Variant:
    """Make a variant of its written form.

    Args:
        asked: a kind such as `temperature`; a kind with its parameters, as a mapping or as text
            (`conformal: {method: aps, coverage: 0.95}`); or a `Variant`. What is fitted on
            predictions takes `of`, a variant that adapts the network (`temperature: {of:
            batchnorm}`).

    Raises:
        InputError: the kind or a parameter is unknown, or a value is not allowed.

    >>> read_variant("conformal: {method: raps, coverage: 0.8}").title
    'RAPS sets for 80 %'
    >>> read_variant("temperature: {of: batchnorm}").name
    'batchnorm+temperature'
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
    found = class_of(kind)
    known = sorted(each.name for each in fields(found))
    for name in given:
        if name not in known and known:
            raise unknown_name(f"parameter of {kind}", str(name), known)
        if name not in known:
            raise InputError(f"variants: {kind} has no parameters, found {name!r}")
    of = {"of": read_variant(given["of"])} if "of" in given else {}
    return found(**{**given, **of})


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


def all_variants(asked: Iterable[object], *, fit_on: bool) -> tuple[Variant, ...]:
    """Make variants of their written forms, with those that they need, and that `fit_on` adds.

    What is fitted on an adapted network stands after this. What is fitted on the images that
    `fit_on` lists stands beside what is fitted on clean ones.

    Args:
        asked: as in `read_variants`.
        fit_on: whether images are listed there.

    Raises:
        InputError: as `read_variants`, and if a variant needs `fit_on` and nothing is listed there.

    >>> [each.name for each in all_variants(["temperature"], fit_on=True)]
    ['temperature', 'temperature-fit_on', 'thresholds-fit_on']
    >>> [each.name for each in all_variants(["temperature: {of: batchnorm}"], fit_on=False)]
    ['batchnorm', 'batchnorm+temperature']
    """
    found: list[Variant] = []
    for each in read_variants(asked):
        if each.uses_fit_on and not fit_on:
            raise InputError(
                f"variants: {each.name} is fitted on the images that fit_on lists, and there is no "
                "fit_on"
            )
        found += [] if each.adapting is None else [each.adapting]
        found += each.with_fit_on() if fit_on else [each]
    found += [read_variant("thresholds-fit_on")] if fit_on else []
    every = tuple(dict.fromkeys(found))
    names = [each.name for each in every]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"variants: {twice[0]} is asked for with different parameters")
    return every


def variant_of(name: str, variants: Iterable[Variant]) -> Variant | None:
    """The variant whose name stands behind `MODEL+`; None for a model itself.

    >>> listed = read_variants(["temperature", "temperature: {of: batchnorm}"])
    >>> variant_of("basic+batchnorm+temperature", listed).text
    'temperature: {"of": "batchnorm"}'
    """
    fitting = [each for each in variants if name.endswith(f"+{each.name}")]
    return max(fitting, key=lambda each: len(each.name), default=None)


def keeps_network(added: str) -> bool:
    """Say whether what stands behind `MODEL+` is a variant that an attack sees as the model itself.

    >>> [keeps_network(each) for each in ("isotonic-fit_on", "batchnorm", "interpolated-0.5")]
    [True, False, False]
    """
    kinds = [kind for kind in VARIANTS if added == kind or added.startswith(f"{kind}-")]
    return bool(kinds) and class_of(kinds[0]).is_fitted

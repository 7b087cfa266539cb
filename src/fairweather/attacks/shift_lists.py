"""Read lists of shifts and attacks: from a study, from a line of text, or from objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from fairweather.attacks import table as attacks
from fairweather.attacks.table import ATTACKS
from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import parse_yaml
from fairweather.shifts.published import (
    expand_published,
    is_published,
    name_published_shift,
    refuse_name,
    refuse_source,
)
from fairweather.shifts.table import CLEAN, SHIFTS, SUITES, make_shift, operation_name, suite, sweep
from fairweather.types.measurement import Attack, Parameter, Shift, is_finite
from fairweather.types.record import ALL, CLEAN_AFTER, NATURAL, OOD, PRIORS, VALIDATION

Entry = Mapping[str, object]
ShiftLike = Shift | Attack | Entry | str

SEVERITIES = (1, 2, 3, 4, 5)
SHIFT_FORM = "NAME[,parameter=value...]"
# Rows of scores.csv that change no image begin so.
RESERVED_PREFIXES = (PRIORS, OOD, NATURAL, CLEAN_AFTER)
EXTERNAL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*")


def expand_shifts(
    asked: ShiftLike | Iterable[ShiftLike], key: str = "shifts"
) -> list[Shift | Attack]:
    """Return all shifts and attacks that are asked for, one per level, in order.

    Args:
        asked: one or several of:
            a shift or an attack;
            an entry as in a study, with one name and its levels or parameters
            (`{"gamma": [0.5, 2]}`, `{"suite": "quick"}`, `{"pgd": {"epsilon": 0.1, "steps": 5}}`);
            the same entry as text (`gamma: [0.5, 2]`);
            a folder of published files (`imagenet-c:FOLDER`), for all that lies in it;
            names separated by commas: suites (`quick`), or shifts and attacks with their parameters
            (`gaussian_blur,sigma=0.7`, `pgd,epsilon=8/255`). A shift that has severities and is
            named without one stands for all five.
        key: the name of the list in error messages.

    Raises:
        InputError: a name or a parameter is unknown, or a value is not allowed.

    >>> [shift.id for shift in expand_shifts([{"gamma": [0.5, 2]}, "pgd,epsilon=0.1,steps=5"])]
    ['gamma,exponent=0.5', 'gamma,exponent=2', 'pgd,epsilon=0.1,steps=5']
    >>> len(expand_shifts("quick,imagenet_c/snow,hue,turn=0.25"))
    21
    """
    if not isinstance(asked, Iterable) or isinstance(asked, Shift | Attack | Mapping | str):
        asked = [asked]
    return [shift for entry in asked for shift in _expand_entry(entry, key)]


def expand_with_clean(asked: ShiftLike | Iterable[ShiftLike]) -> tuple[Shift | Attack, ...]:
    """Return `clean`, then all that `expand_shifts` returns, without duplicates.

    Raises:
        InputError: as `expand_shifts`; or two have the same name and level but differ in other
            parameters.

    >>> [shift.id for shift in expand_with_clean(["gamma: [0.5]", "gamma,exponent=0.5"])]
    ['clean', 'gamma,exponent=0.5']
    """
    distinct = _drop_duplicates([CLEAN, *expand_shifts(asked)])
    levels = [(shift.name, shift.level_name) for shift in distinct]
    for name, level in levels:
        if levels.count((name, level)) > 1:
            raise InputError(
                f"shifts: {name} at {level} is listed twice, with different other parameters"
            )
    return tuple(distinct)


def expand_fit_shifts(
    asked: Iterable[ShiftLike], tested: Iterable[Shift | Attack]
) -> tuple[Shift, ...]:
    """The shifts of the validation images that thresholds and calibrations are fitted on.

    Args:
        asked: `clean`, and shifts and suites as in a study; nothing if no variant needs them.
        tested: what the models are tested under.

    Raises:
        InputError: as `expand_shifts`; or there is an attack, or `clean` alone, or a shift that is
            tested too, at any level or in another family of shifts.

    >>> [shift.id for shift in expand_fit_shifts(["clean", {"gamma": [2]}], [])]
    ['clean', 'gamma,exponent=2']
    """
    distinct = _drop_duplicates(expand_shifts(asked, "fit_on"))
    shifts = tuple(shift for shift in distinct if isinstance(shift, Shift))
    if attack := next((shift for shift in distinct if isinstance(shift, Attack)), None):
        raise InputError(f"fit_on: {attack.name} is an attack; give only shifts here")
    if distinct and all(shift.level is None for shift in shifts):
        raise InputError(
            "fit_on: it lists only clean images, which everything is fitted on anyway: add shifts, "
            "or leave it out"
        )
    also = {operation_name(shift.name): shift.name for shift in tested if shift.level is not None}
    for shift in shifts:
        if test := also.get(operation_name(shift.name)):
            same = "" if test == shift.name else f" as {test}"
            raise InputError(
                f"fit_on: {shift.name} is also tested{same}: leave out one of the two, since a "
                "test under what was fitted on says nothing about other shifts"
            )
    return shifts


def expand_only_shifts(asked: ShiftLike | Iterable[ShiftLike]) -> list[Shift]:
    """Return the requested shifts, without duplicates, for use without a model.

    Arguments as in `expand_shifts`.

    Raises:
        InputError: as `expand_shifts`; or one of them is an attack.

    >>> [shift.id for shift in expand_only_shifts(["gamma,exponent=0.5", "clean", "gamma: 0.5"])]
    ['gamma,exponent=0.5', 'clean']
    """
    distinct = _drop_duplicates(expand_shifts(asked))
    if attacked := [shift.name for shift in distinct if isinstance(shift, Attack)]:
        raise InputError(
            f"{attacked[0]} is an attack and needs a model; only shifts are allowed here"
        )
    return [shift for shift in distinct if isinstance(shift, Shift)]


def make_external_shift(name: str, level: float) -> Shift:
    """Return a shift that was applied elsewhere: it has a name, but cannot be applied here.

    A name in the table of shifts, such as `imagenet_c/fog`, is that shift at that level. Any other
    name is a shift of its own, with the parameter `level`, where 0 would be the clean images.

    Raises:
        InputError: a name or level that cannot be one.

    >>> make_external_shift("imagenet_c/fog", 3).id, make_external_shift("scanner_b", 1).id
    ('imagenet_c/fog,severity=3', 'scanner_b,level=1')
    """
    if name in SHIFTS:
        (known,) = sweep(name, [level])
        return known
    if is_published(name):
        return name_published_shift(name, level)
    reserved = name in (CLEAN.name, VALIDATION, ALL) or name.startswith(RESERVED_PREFIXES)
    if not EXTERNAL_NAME.fullmatch(name) or reserved:
        raise InputError(
            f"a shift cannot be called {name!r}: a name has letters, digits, and _ . / + - after "
            f"the first letter, and is not {CLEAN.name}, {VALIDATION}, {ALL} or that of a row that "
            f"begins with {', '.join(RESERVED_PREFIXES)}"
        )
    if name in (*ATTACKS, *SUITES):
        kind = "an attack" if name in ATTACKS else "a suite"
        raise InputError(
            f"{name} is {kind} of fairweather, and it is not known how these images were made: "
            f"give the shift another name, such as my_{name}"
        )
    if not is_finite(level) or level == 0:
        raise InputError(
            f"the level of {name} must be a number other than 0, which is that of the clean "
            f"images, found {level!r}"
        )
    return Shift(name, float(level), {"level": float(level)}, refuse_external_images)


def parse_external_shift(text: str) -> Shift | None:
    """Return the shift that `elsewhere` made, by its id; None for the id of any other shift.

    >>> parse_external_shift("scanner_b,level=1").level, parse_external_shift("gamma,exponent=2")
    (1.0, None)
    """
    name, _, level = text.partition(",level=")
    return make_external_shift(name, float(level)) if level and name not in SHIFTS else None


def refuse_external_images(*_: object, **__: object) -> Any:  # noqa: ANN401 - it never returns
    """Raise `AssertionError`: nothing can shift images as it was done elsewhere."""
    raise AssertionError("images that were shifted elsewhere are not at hand")


def _drop_duplicates(shifts: Iterable[Shift | Attack]) -> list[Shift | Attack]:
    return list({shift.id: shift for shift in shifts}.values())


def _expand_entry(entry: ShiftLike, key: str) -> list[Shift | Attack]:
    if isinstance(entry, Shift | Attack):
        if isinstance(entry, Shift) and entry.files is not None:
            return [entry]
        if entry.name not in (
            "clean",
            *SHIFTS,
            *ATTACKS,
        ):  # a plan stores only names, and makes the shifts again from them
            raise unknown_name("shift or attack", entry.name, [*SHIFTS, *ATTACKS])
        return [entry]
    if isinstance(entry, Mapping):
        return _expand_mapping(entry, key)
    if not isinstance(entry, str):
        raise InputError(
            f"{key}: must be text, NAME: LEVELS, a shift or an attack, found {entry!r}"
        )
    if (published := expand_published(entry)) is not None:
        return [*published]
    if ":" not in entry:
        return [shift for words in _split_names(entry) for shift in _expand_words(words, entry)]
    parsed = parse_yaml(entry, f"{key}: {entry!r}")
    if not isinstance(parsed, Mapping):
        if entry.partition(":")[0] not in ("suite", *SHIFTS, *ATTACKS):
            refuse_source(entry)
        raise InputError(f"{key}: {entry!r} is not NAME: LEVELS")
    return _expand_mapping(parsed, key)


def _expand_mapping(entry: Entry, key: str) -> list[Shift | Attack]:
    if len(entry) != 1:
        raise InputError(f"{key}: each entry must be one NAME: LEVELS, found {dict(entry)}")
    ((name, levels),) = entry.items()
    if name == "suite":
        if not isinstance(levels, str):
            raise InputError(f"{key}: suite must be a name, found {levels!r}")
        return list(suite(levels))
    if isinstance(levels, str) and (published := expand_published(f"{name}:{levels}")) is not None:
        return [*published]
    swept = cast("Mapping[str, object]", levels)  # or a list, or a number: `sweep` checks it
    if name in ATTACKS:
        return list(attacks.sweep(name, swept))
    if name in SHIFTS:
        return list(sweep(name, swept))
    raise unknown_name("shift or attack", name, ["suite", *SHIFTS, *ATTACKS])


def _split_names(text: str) -> list[list[str]]:
    """Split at commas: each name, which must be known, with the parameters after it."""
    if "[" in text or "{" in text:  # commas inside brackets separate levels, not names
        raise InputError(f"several levels are written 'NAME: [LEVEL, LEVEL]', found {text!r}")
    items: list[list[str]] = []
    for part in (part.strip() for part in text.split(",")):
        if "=" not in part:
            _check_name(part, text)
            items.append([part])
        elif items:
            items[-1].append(part)
        else:
            raise InputError(f"shifts are written {SHIFT_FORM}, found {text!r}")
    return items


def _check_name(name: str, text: str) -> None:
    known = ["clean", *SUITES, *SHIFTS, *ATTACKS]
    if name in known:
        return
    refuse_name(name)
    if not name or _is_number(name):  # a level without the name of its parameter
        raise InputError(f"shifts are written {SHIFT_FORM}, found {text!r}")
    raise unknown_name("suite, shift or attack", name, known)


def _expand_words(words: list[str], text: str) -> list[Shift | Attack]:
    name, *pairs = words
    if name in SUITES or name == "clean":
        if pairs:
            kind = "the suite" if name in SUITES else "the shift"
            raise InputError(f"{kind} {name} takes no parameters, found {text!r}")
        return list(suite(name)) if name in SUITES else [CLEAN]
    parameters = _parse_parameters(pairs, text)
    if name in ATTACKS:
        return [attacks.make_attack(name, **parameters)]
    if SHIFTS[name].level == "severity" and "severity" not in parameters:
        return list(sweep(name, {"severity": SEVERITIES, **parameters}))
    return [make_shift(name, **parameters)]


def _parse_parameters(pairs: list[str], text: str) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    for pair in pairs:
        key, _, value = (part.strip() for part in pair.partition("="))
        if not key:
            raise InputError(f"shifts are written {SHIFT_FORM}, found {text!r}")
        if key in parameters:
            raise InputError(f"{text!r} names {key} twice")
        parameters[key] = _parse_value(value, text)
    return parameters


def _parse_value(value: str, text: str) -> Parameter:
    """Return a number if the text is one, else the text; the shift checks what it allows."""
    parsed = parse_yaml(value, repr(text))  # it reads 8/255 as a number
    return parsed if isinstance(parsed, int | float) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

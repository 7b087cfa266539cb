"""Label mapping: which outputs of a model are the classes of the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from fairweather.errors import InputError, show, unknown_name
from fairweather.models.label_file import check_labels
from fairweather.models.label_file import read_label_file as read_label_file
from fairweather.models.output_names import OutputNames
from fairweather.models.relabelled import Relabelled
from fairweather.models.wnids import CLASSES, class_wnids, imagenet, wnids_of

__all__ = [
    "LabelMap",
    "Relabelled",
    "match_labels",
    "places_by_name",
    "read_label_file",
    "relabel",
]

Columns = tuple[tuple[int, ...], ...]


class LabelMap(NamedTuple):
    """Which of a model's outputs belong to each class of a data set.

    Attributes:
        columns: for each data class, in label order, its outputs; the probabilities of several
            outputs are added.
        note: one sentence for people.
        outputs: the number of outputs.
    """

    columns: Columns
    note: str
    outputs: int


def match_labels(
    model_classes: Sequence[str] | None,
    outputs: int,
    data_classes: Sequence[str],
    given: Mapping[str, object] | None = None,
) -> LabelMap:
    """Find the outputs of a model for each class of the data.

    A class is found by its exact name; by its name without regard to case, underscores and
    hyphens; by one of several names, as in `tench, Tinca tinca`; or by its WordNet number (wnid) or
    a name that ImageNet has for it. So a folder `n01440764` fits an output called `tench`. The data
    may have only some of the model's classes. If one side has no names but only numbers, classes
    are matched by number or by order, and the note says so.

    Args:
        model_classes: names in the order of the outputs; None if the model has no names.
        outputs: the number of outputs.
        data_classes: names in label order.
        given: for each data class a class name, wnid, synonym or output number, or a list of these
            (`read_label_file`). Then no class is matched automatically.

    Raises:
        InputError: a class has no output, could be one of several, or shares one with another
            class; or `given` is wrong.

    >>> match_labels(["dog", "cat"], 2, ["Cat", "Dog"])
    LabelMap(columns=((1,), (0,)), note="the model's 2 classes, matched by name", outputs=2)
    >>> match_labels(None, 3, ["a", "b"], {"a": [0, 2], "b": 1}).columns
    ((0, 2), (1,))
    """
    if model_classes is not None and len(model_classes) != outputs:
        raise InputError(
            f"the model names {len(model_classes):,} classes but has {outputs:,} outputs"
        )
    if given is not None:
        names = None if model_classes is None else OutputNames(model_classes)
        return _map_given(names, outputs, data_classes, given)
    if model_classes is None:
        return _in_order(outputs, data_classes)
    if tuple(data_classes) == tuple(model_classes):
        return _described([(place,) for place in range(outputs)], outputs, ["name"])
    return _by_name(OutputNames(model_classes), data_classes)


def places_by_name(classes: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Find each class among others by what it is called, never by its number or its place.

    A class is called the same as for `match_labels`: by its name, a synonym or its wnid. None if
    one has no partner, may have several, or shares one.

    >>> places_by_name(["Cat"], ["dog", "cat"]), places_by_name(["cat"], ["0"])
    ([1], None)
    """
    names = OutputNames(among)
    try:
        found = [names.find(*pair) for pair in zip(classes, class_wnids(classes), strict=True)]
    except InputError:  # it may be one of several
        return None
    places = [hit.output for hit in found if hit is not None]
    return places if len(set(places)) == len(classes) else None


def relabel(model: nn.Module, labels: LabelMap) -> nn.Module:
    """Map a model's outputs to the data's classes; a model that has them is returned as it is."""
    if labels.columns == tuple((place,) for place in range(labels.outputs)):
        return model
    return Relabelled(model, labels.columns)


def _by_name(names: OutputNames, data_classes: Sequence[str]) -> LabelMap:
    outputs = len(names.names)
    wnids = class_wnids(data_classes)
    found = [names.find(*pair) for pair in zip(data_classes, wnids, strict=True)]
    if not any(found):
        if _are_numbers(names.names):
            return _in_order(outputs, data_classes)
        numbers = _numbers(data_classes)
        if numbers is not None and sorted(numbers) == list(range(outputs)):
            note = "the data's class names are numbers, used as the numbers of the model's outputs"
            return LabelMap(tuple((number,) for number in numbers), note, outputs)
    if None in found:
        missing = [name for name, hit in zip(data_classes, found, strict=True) if hit is None]
        raise _no_partner(missing, data_classes, names)
    hits = [hit for hit in found if hit is not None]
    columns = [(hit.output,) for hit in hits]
    _check_apart(columns, data_classes)
    return _described(columns, outputs, [hit.by for hit in hits])


def _described(columns: Sequence[tuple[int, ...]], outputs: int, by: Sequence[str]) -> LabelMap:
    some = "the" if len(columns) == outputs else f"{len(columns):,} of the"
    how = " and ".join(dict.fromkeys(by))
    return LabelMap(
        tuple(columns), f"{some} model's {outputs:,} classes, matched by {how}", outputs
    )


def _in_order(outputs: int, data_classes: Sequence[str]) -> LabelMap:
    if outputs == CLASSES and set(data_classes) <= set(imagenet().wnids):
        place = {wnid: output for output, wnid in enumerate(imagenet().wnids)}
        note = "the model names no classes: its 1,000 outputs are taken to be ImageNet's, by wnid"
        return LabelMap(tuple((place[name],) for name in data_classes), note, outputs)
    if len(data_classes) != outputs:
        raise InputError(
            f"the model names no classes and has {outputs:,} outputs, but the data has "
            f"{len(data_classes):,} classes ({show(data_classes)}): say which output each one is "
            "with --labels FILE"
        )
    numbers = _numbers(data_classes)
    order = list(range(outputs)) if numbers is None else numbers
    rank = {number: place for place, number in enumerate(sorted(order))}
    note = "in order: the model names no classes"
    for one, other in zip(range(outputs), range(1, outputs), strict=False):
        if order[one] > order[other]:
            note = (
                "by number: the model names no classes, and the data's are numbers in the order of "
                f"text, {data_classes[one]!r} before {data_classes[other]!r}"
            )
            break
    return LabelMap(tuple((rank[number],) for number in order), note, outputs)


def _map_given(
    names: OutputNames | None,
    outputs: int,
    data_classes: Sequence[str],
    given: Mapping[str, object],
) -> LabelMap:
    labels = check_labels(given, "the labels")
    for name in labels:
        if name not in data_classes:
            raise unknown_name("class of the data in the labels,", name, data_classes)
    missing = [name for name in data_classes if name not in labels]
    if missing:
        raise InputError(
            f"the labels must have all {len(data_classes):,} classes of the data; without one are "
            f"{show(missing)}"
        )
    columns: list[tuple[int, ...]] = []
    for name in data_classes:
        value: Any = labels[name]
        values = value if isinstance(value, list) else [value]
        columns.append(tuple(_resolve(wanted, names, outputs) for wanted in values))
    _check_apart(columns, data_classes)
    used = sum(map(len, columns))
    classes = "class" if len(columns) == 1 else "classes"
    note = f"{len(columns):,} {classes} on {used:,} of the model's {outputs:,} outputs, as given"
    return LabelMap(tuple(columns), note, outputs)


def _resolve(wanted: str | int, names: OutputNames | None, outputs: int) -> int:
    if isinstance(wanted, str):
        found = names and names.find(wanted, wnids_of(wanted))
        if found:
            return found.output
        if not wanted.strip().isdecimal():  # a CSV has only text
            if names is None:
                raise InputError(
                    f"the model names no classes: the labels must give a number from 0 to "
                    f"{outputs - 1:,} in place of {wanted!r}"
                )
            raise unknown_name("class of the model in the labels,", wanted, names.known())
    number = int(wanted)
    if not 0 <= number < outputs:
        raise InputError(
            f"the labels name output {number:,}, but the model's are 0 to {outputs - 1:,}"
        )
    return number


def _check_apart(columns: Sequence[tuple[int, ...]], data_classes: Sequence[str]) -> None:
    owner: dict[int, str] = {}
    for name, outputs in zip(data_classes, columns, strict=True):
        for output in outputs:
            if output in owner:
                both = f"{owner[output]!r} and {name!r}"
                twice = f"twice for {name!r}" if owner[output] == name else f"for {both}"
                raise InputError(f"output {output:,} of the model is used {twice}")
            owner[output] = name


def _no_partner(
    missing: Sequence[str], data_classes: Sequence[str], names: OutputNames
) -> InputError:
    known = names.known()
    near = difflib.get_close_matches(missing[0], known, n=1, cutoff=0.7)
    hint = f" (closest to {missing[0]!r} is {near[0]!r})" if near else ""
    return InputError(
        f"the model has no class for {len(missing):,} of the data's {len(data_classes):,}: "
        f"{show(missing)}{hint}; the data has {show(data_classes)}, and the model has "
        f"{show(names.names)}; map them with --labels FILE"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    """Say whether names are only numbers, such as the default names of transformers."""
    return any(
        all(name == f"{prefix}{place}" for place, name in enumerate(names))
        for prefix in ("", "LABEL_")
    )


def _numbers(names: Sequence[str]) -> list[int] | None:
    if not all(name.isdecimal() for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) else None

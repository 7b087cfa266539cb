"""Label mapping: which outputs of a model belong to the classes of the data."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fairweather.data.natural_sets import IMAGENET_CLASSES
from fairweather.errors import InputError, quote_names, unknown_name
from fairweather.files.tables import read_csv_rows
from fairweather.files.yamlfile import parse_yaml
from fairweather.models.class_names import OutputNames, find_wnids, read_imagenet
from fairweather.models.wrappers import LabelMapper, PositiveLogits
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import Choices

LABEL_HEADER = ("data", "model")  # of a CSV that has one
IN_ORDER = "in order: the model names no "  # stored in records, with classes or findings


def read_label_file(path: Path) -> dict[str, object]:
    """Read a label mapping from a YAML, JSON or CSV file: data classes to classes of the model.

    A YAML or JSON file is one mapping from data classes to a class name, a wnid, an output number,
    or a list of these. A CSV file has two columns, with or without the header `data,model`. Loading
    never executes code.

    Raises:
        InputError: the file is missing, has another form, or has a class twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels.yaml"
    ...     _ = path.write_text("cat: [tabby, tiger cat]\\ndog: 207\\n")
    ...     read_label_file(path)
    {'cat': ['tabby', 'tiger cat'], 'dog': 207}
    """
    name, suffix = f"the label file {str(path)!r}", path.suffix.lower()
    readers = {".yaml": parse_yaml, ".yml": parse_yaml, ".json": _parse_json}
    if suffix not in (*readers, ".csv"):
        raise unknown_name("kind of label file", path.suffix, (*readers, ".csv"))
    try:
        if suffix == ".csv":
            return check_labels(_read_csv(path, name), str(path))
        text = path.read_text(encoding="utf-8-sig")
        return check_labels(readers[suffix](text, name), str(path))
    except UnicodeDecodeError:
        raise InputError(f"{name} is not a text file") from None
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{name} is nested too deeply") from None


def check_labels(labels: object, name: str) -> dict[str, object]:
    """Check a label mapping; a data class that is a whole number becomes text.

    Raises:
        InputError: it is not a mapping; the message names the class.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise InputError(
            f"{name} must map each class of the data to a class of the model, found {labels!r:.60}"
        )
    checked: dict[str, object] = {}
    for key, value in labels.items():
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise InputError(f"{name} has {key!r} for a class, which is not text: put it in quotes")
        if str(key) in checked:
            raise InputError(f"{name} has the class {str(key)!r} twice")
        values = value if isinstance(value, list) else [value]
        if not values or not all(map(_is_label, values)):
            raise InputError(
                f"{name} has {value!r:.60} for the class {str(key)!r}; allowed are a class name, a "
                "wnid, an output number, or a list of these"
            )
        checked[str(key)] = value
    return checked


def _is_label(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _parse_json(text: str, name: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique_mapping(pairs, name))
    except InputError:
        raise
    except ValueError as error:  # also for numbers with more digits than Python reads
        raise InputError(f"{name} is not JSON: {error}") from None


def _unique_mapping(pairs: Iterable[tuple[str, object]], name: str) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key, value in pairs:
        if key in mapping:
            raise InputError(f"{name} has the class {key!r} twice")
        mapping[key] = value
    return mapping


def _read_csv(path: Path, name: str) -> dict[str, object]:
    labels: list[tuple[str, object]] = []
    rows = read_csv_rows(path, delimiter=",")
    if all(len(cells) == 1 for _, cells in rows):
        rows = read_csv_rows(path)  # with semicolons or tabs
    for line, cells in rows:
        if not any(cells) or (line == 1 and tuple(cells) == LABEL_HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"row {line} of {name} must have two cells, a class of the data and one of the "
                f"model, found {cells}"
            )
        labels.append((cells[0], cells[1]))
    return _unique_mapping(labels, name)


# ---------------------------------------------------------------- matching

Columns = tuple[tuple[int, ...], ...]


class _Noun(NamedTuple):
    """What messages call an output: one of them, and several."""

    one: str
    many: str


CLASS_NOUN, FINDING_NOUN = _Noun("class", "classes"), _Noun("finding", "findings")


class LabelMap(NamedTuple):
    """Which of a model's outputs belong to each class of a data set."""

    columns: Columns
    """For each data class, in label order, its outputs; the probabilities of several outputs are
    added."""

    note: str
    """One sentence for people."""

    outputs: int
    """The number of outputs."""

    positive: Columns = ()
    """For each finding that is made of these classes, the places of its positive ones; empty if
    none is."""

    def describe(self, classes: Sequence[str]) -> str:
        """Say how classes were matched; where their order is assumed, which output each one is.

        >>> LabelMap(((0,), (1,)), IN_ORDER + "classes", 2).describe(["cat", "dog"])
        "in order: the model names no classes, so output 0 is taken to be 'cat', 1 'dog'; else give
        --class-map"
        """
        if not self.note.startswith(IN_ORDER):
            return self.note
        first, *order = (f"{output} {name!r}" for output, name in enumerate(classes))
        first = first.replace(" ", " is taken to be ", 1)
        named = ", ".join([first, *(order if len(order) < 3 else [order[0], "...", order[-1]])])
        return f"{self.note}, so output {named}; else give --class-map"


def match_labels(
    model_classes: Sequence[str] | None,
    outputs: int,
    data_classes: Sequence[str],
    given: Mapping[str, object] | None = None,
    predicts: TaskKind = CLASSES,
) -> LabelMap:
    """Find the outputs of a model for each class of the data.

    A class is found by its exact name, or ignoring case, underscores and hyphens. Then one of
    several names counts, as in `tench, Tinca tinca`, and then its WordNet number (wnid) or
    ImageNet's names for it. So a folder `n01440764` fits an output called `tench`. The data may
    have only some of the model's classes. If one side only has numbers, classes are matched by
    number or by order, and the note says so.

    Args:
        model_classes: names in the order of the outputs; None if the model has no names.
        outputs: the number of outputs.
        data_classes: names in label order.
        given: for each data class a class name, wnid, synonym or output number, or a list of these
            (`read_label_file`). Then no class is matched automatically.
        predicts: what the model predicts; a finding has one output.

    Raises:
        InputError: a class has no output, could be one of several, or shares one with another
            class; or `given` is wrong.

    >>> match_labels(["dog", "cat"], 2, ["Cat", "Dog"])[:2]
    (((1,), (0,)), "the model's 2 classes, matched by name")
    >>> match_labels(None, 3, ["a", "b"], {"a": [0, 2], "b": 1}).columns
    ((0, 2), (1,))
    """
    noun = FINDING_NOUN if predicts == FINDINGS else CLASS_NOUN
    if model_classes is not None and len(model_classes) != outputs:
        if given is None:
            raise InputError(
                f"the model names {len(model_classes):,} {noun.many} but has {outputs:,} outputs: "
                "correct the names, or say with --class-map which output each one is"
            )
        model_classes = None  # numbers of outputs alone can be given
    if given is not None:
        names = None if model_classes is None else OutputNames(model_classes)
        return _match_given(names, outputs, data_classes, given, noun)
    if model_classes is None:
        return _match_in_order(outputs, data_classes, noun)
    if tuple(data_classes) == tuple(model_classes):
        own = tuple((place,) for place in range(outputs))
        return _describe_match(own, outputs, ["name"], noun)
    return _match_names(OutputNames(model_classes), data_classes, noun)


def places_by_name(classes: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Find each class among others by its name, never by its number or its place.

    Names match as in `match_labels`: by name, synonym or wnid. None if a class has no partner,
    several, or shares one.

    >>> places_by_name(["Cat"], ["dog", "cat"]), places_by_name(["cat"], ["0"])
    ([1], None)
    """
    names = OutputNames(among)
    try:
        matches = names.find_all(classes)
    except InputError:  # it may be one of several
        return None
    places = [match.output for match in matches if match is not None]
    return places if len(set(places)) == len(classes) else None


def rename_choices(choices: Choices, classes: Sequence[str]) -> Choices:
    """Call the classes that a model chooses among as the run does.

    Names match as in `places_by_name`; classes that the run lacks are left out.

    >>> rename_choices(Choices(("n01440764", "n01443537")), ["tench", "cat"]).names
    ('tench',)
    """
    matches = OutputNames(classes).find_all(choices.names)
    return choices.rename([None if match is None else classes[match.output] for match in matches])


def relabel(model: nn.Module, labels: LabelMap) -> nn.Module:
    """Map a model's outputs to the data's classes, and these to the findings that are made of them.

    A model of the data's own classes or findings is returned unchanged.
    """
    if labels.columns != tuple((place,) for place in range(labels.outputs)):
        model = LabelMapper(model, labels.columns)
    return PositiveLogits(model, labels.positive) if labels.positive else model


def _match_names(names: OutputNames, data_classes: Sequence[str], noun: _Noun) -> LabelMap:
    outputs, matches = len(names.names), names.find_all(data_classes)
    if not any(matches):
        if _are_numbers(names.names):
            return _match_in_order(outputs, data_classes, noun)
        numbers = _parse_numbers(data_classes)
        if numbers is not None and sorted(numbers) == list(range(outputs)):
            names_of_data = f"the data's {noun.one} names"
            note = f"{names_of_data} are numbers, used as the numbers of the model's outputs"
            return LabelMap(tuple((number,) for number in numbers), note, outputs)
    pairs = list(zip(data_classes, matches, strict=True))
    if missing := [name for name, match in pairs if match is None]:
        raise _unmatched_error(missing, data_classes, names, noun)
    matched = [match for match in matches if match is not None]
    columns = tuple((match.output,) for match in matched)
    _check_disjoint(columns, data_classes)
    return _describe_match(columns, outputs, [match.matched_by for match in matched], noun)


def _describe_match(columns: Columns, outputs: int, by: Sequence[str], noun: _Noun) -> LabelMap:
    some = "the" if len(columns) == outputs else f"{len(columns):,} of the"
    manner = " and ".join(dict.fromkeys(by))
    called = noun.one if outputs == 1 else noun.many
    return LabelMap(columns, f"{some} model's {outputs:,} {called}, matched by {manner}", outputs)


def _match_in_order(outputs: int, data_classes: Sequence[str], noun: _Noun) -> LabelMap:
    if outputs == IMAGENET_CLASSES and set(data_classes) <= set(read_imagenet().wnids):
        place = {wnid: output for output, wnid in enumerate(read_imagenet().wnids)}
        note = "the model names no classes: its 1,000 outputs are taken to be ImageNet's, by wnid"
        return LabelMap(tuple((place[name],) for name in data_classes), note, outputs)
    if len(data_classes) != outputs:
        raise InputError(
            f"the model names no {noun.many} and has {outputs:,} outputs, but the data has "
            f"{len(data_classes):,} {noun.many} ({quote_names(data_classes)}): say which output "
            f"each one is with --class-map FILE.csv, in lines such as '{data_classes[0]},0'"
        )
    numbers = _parse_numbers(data_classes)
    order = list(range(outputs)) if numbers is None else numbers
    rank = {number: place for place, number in enumerate(sorted(order))}
    note = IN_ORDER + noun.many
    for (number, name), (following, other) in itertools.pairwise(
        zip(order, data_classes, strict=True)
    ):
        if number > following:
            note = (
                f"by number: the model names no {noun.many}, and the data's are numbers in the "
                f"order of text, {name!r} before {other!r}"
            )
            break
    return LabelMap(tuple((rank[number],) for number in order), note, outputs)


def _match_given(
    names: OutputNames | None,
    outputs: int,
    data_classes: Sequence[str],
    chosen: Mapping[str, object],
    noun: _Noun,
) -> LabelMap:
    labels = check_labels(chosen, "the labels")
    for name in labels:
        if name not in data_classes:
            raise unknown_name(f"{noun.one} of the data in class_map,", name, data_classes)
    missing = [name for name in data_classes if name not in labels]
    if missing:
        raise InputError(
            f"the labels must have all {len(data_classes):,} {noun.many} of the data; without one "
            "are "
            f"{quote_names(missing)}"
        )
    columns: list[tuple[int, ...]] = []
    for name in data_classes:
        value: Any = labels[name]
        values = value if isinstance(value, list) else [value]
        columns.append(tuple(_find_output(wanted, names, outputs) for wanted in values))
        if noun is FINDING_NOUN and len(values) > 1:
            raise InputError(
                f"the labels give {len(values)} outputs for {name!r}: a finding has one, because "
                "the probabilities of several findings cannot be added"
            )
    _check_disjoint(columns, data_classes)
    used = sum(map(len, columns))
    called = noun.one if len(columns) == 1 else noun.many
    note = f"{len(columns):,} {called} on {used:,} of the model's {outputs:,} outputs, as given"
    return LabelMap(tuple(columns), note, outputs)


def _find_output(wanted: str | int, names: OutputNames | None, outputs: int) -> int:
    if isinstance(wanted, str):
        if names and (match := names.find(wanted, find_wnids(wanted))):
            return match.output
        if not wanted.strip().isdecimal():  # a CSV has only text
            if names is None:
                raise InputError(
                    f"the model names no classes: the labels must give a number from 0 to "
                    f"{outputs - 1:,} in place of {wanted!r}"
                )
            raise unknown_name("class of the model in class_map,", wanted, names.known())
    number = int(wanted)
    if not 0 <= number < outputs:
        raise InputError(
            f"the labels name output {number:,}, but the model's are 0 to {outputs - 1:,}"
        )
    return number


def _check_disjoint(columns: Sequence[tuple[int, ...]], data_classes: Sequence[str]) -> None:
    owner: dict[int, str] = {}
    for name, outputs in zip(data_classes, columns, strict=True):
        for output in outputs:
            if output in owner:
                both = f"{owner[output]!r} and {name!r}"
                twice = f"twice for {name!r}" if owner[output] == name else f"for {both}"
                raise InputError(f"output {output:,} of the model is used {twice}")
            owner[output] = name


def _unmatched_error(
    missing: Sequence[str], data_classes: Sequence[str], names: OutputNames, noun: _Noun
) -> InputError:
    known = names.known()
    near = difflib.get_close_matches(missing[0], known, n=1, cutoff=0.7)
    hint = f" (closest to {missing[0]!r} is {near[0]!r})" if near else ""
    return InputError(
        f"the model has no {noun.one} for {len(missing):,} of the data's {len(data_classes):,}: "
        f"{quote_names(missing)}{hint}; the data has {quote_names(data_classes)}, and the model "
        f"has {quote_names(names.names)}; map them with --class-map FILE"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    """Say whether names are only numbers, such as the default names of transformers."""
    return any(
        all(name == f"{prefix}{place}" for place, name in enumerate(names))
        for prefix in ("", "LABEL_")
    )


def _parse_numbers(names: Sequence[str]) -> list[int] | None:
    if not all(name.isdecimal() for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) else None

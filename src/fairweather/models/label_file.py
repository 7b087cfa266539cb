"""The file for `--labels`: for each class of the data, the model's name for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairweather.errors import InputError, unknown_name
from fairweather.yamlfile import parse_yaml

HEADER = ("data", "model")  # of a CSV that has one


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
    readers = {".yaml": parse_yaml, ".yml": parse_yaml, ".json": _parse_json, ".csv": _parse_csv}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise unknown_name("kind of label file", path.suffix, readers)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"the label file {str(path)!r} is not a text file") from None
    except OSError as error:
        raise InputError(f"the label file {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        return check_labels(readers[suffix](text, f"the label file {str(path)!r}"), str(path))
    except RecursionError:
        raise InputError(f"the label file {str(path)!r} is nested too deeply") from None


def check_labels(labels: object, name: str) -> dict[str, object]:
    """Check a label mapping; a data class that is a whole number becomes text.

    Raises:
        InputError: it is not one; the message names the class.
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
        return json.loads(text, object_pairs_hook=lambda pairs: _each_once(pairs, name))
    except InputError:
        raise
    except ValueError as error:  # also for a number of more digits than Python reads
        raise InputError(f"{name} is not JSON: {error}") from None


def _each_once(pairs: Iterable[tuple[str, object]], name: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{name} has the class {key!r} twice")
        found[key] = value
    return found


def _parse_csv(text: str, name: str) -> dict[str, object]:
    labels: list[tuple[str, object]] = []
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"{name} is not CSV: {error}") from None
    for line, row in enumerate(rows, start=1):
        cells = tuple(cell.strip() for cell in row)
        if not any(cells) or (line == 1 and cells == HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(
                f"row {line} of {name} must have two cells, a class of the data and one of the "
                f"model, found {list(cells)}"
            )
        labels.append((cells[0], cells[1]))
    return _each_once(labels, name)

"""Read what errors cost: lines such as `missed melanoma: 20`, or a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairweather.errors import InputError, quote_names, unknown_name
from fairweather.files.tables import read_csv_rows
from fairweather.metrics.columns import FloatArray

MISSED, FALSE, REVIEW = "missed", "false", "review"
KINDS = (MISSED, FALSE, REVIEW)
FORM = "'missed NAME: 20', 'false NAME: 2', 'review: 3' or a file costs.csv"
# For each class, the cost of each decision; for each finding, those of its two errors. A last
# number is the price of a review.
NamedCosts = dict[str, tuple[float, ...]]
AskedCosts = Mapping[str, object] | Sequence[str] | Path


class _Line(NamedTuple):
    """One line of costs."""

    kind: str
    name: str
    """The class or finding; "" for all, or for the only one."""

    cost: float
    text: str


def read_costs(asked: AskedCosts, names: Sequence[str], *, findings: bool) -> NamedCosts:
    """Read costs from lines, or from a table; an error without a line costs 1, a right answer 0.

    Args:
        asked: lines, a mapping of the same, or the path of a table; empty without costs.
        names: of the classes, or of the findings.
        findings: whether these are findings.

    Raises `InputError` for an unknown name, for what is not a cost, and if a right answer costs
    more than an error.

    >>> read_costs(["missed b: 20", "review: 3"], ["a", "b"], findings=False)
    {'a': (0.0, 1.0, 3.0), 'b': (20.0, 0.0, 3.0)}
    >>> read_costs({"missed Mass": 20}, ["Mass", "Edema"], findings=True)
    {'Mass': (20.0, 1.0), 'Edema': (1.0, 1.0)}
    """
    if not asked:
        return {}
    if isinstance(asked, str | Path):
        asked = [str(asked)]
    texts = asked if isinstance(asked, Mapping) else [text.strip() for text in asked]
    tables = [text for text in texts if text.lower().endswith(".csv")]
    if tables and len(texts) > 1:
        raise InputError(f"costs: give one table or lines, found {quote_names(list(texts))}")
    if tables:
        costs = _read_table(Path(tables[0]), names, findings=findings)
    else:
        lines = _parse_lines(texts, names, findings=findings)
        costs = (_finding_rows if findings else _class_rows)(lines, names)
    for name in () if findings else names:
        _check_class(name, costs[name], names)
    if not any(cost > 0 for name in names for cost in costs[name][: 2 if findings else len(names)]):
        raise InputError("costs: every error costs 0, so there is nothing to measure")
    return costs


def _parse_lines(
    texts: Mapping[str, object] | Sequence[str], names: Sequence[str], *, findings: bool
) -> list[_Line]:
    parted = (
        [(text, text, cost) for text, cost in texts.items()]
        if isinstance(texts, Mapping)
        else [(text, *text.rpartition(":")[::2]) for text in texts]
    )
    noun, lines = "finding" if findings else "class", list[_Line]()
    for text, subject, number in parted:
        kind, _, name = subject.strip().partition(" ")
        name = name.strip()
        if kind not in KINDS:
            raise InputError(f"costs: a line must be like {FORM}, found {text!r}")
        if name and name not in names:
            raise unknown_name(f"{noun} of a cost", name, names)
        if kind == REVIEW and name and not findings:
            raise InputError(
                f"costs: the price of a review is the same for all classes, found {text!r}; a "
                "table with a column review can tell them apart"
            )
        if kind != REVIEW and not name and len(names) > 1:
            raise InputError(
                f"costs: name the {noun}, as in '{kind} {names[0]}: 20', found {text!r}"
            )
        lines.append(_Line(kind, name, _parse_cost(number, text), text))
    for k, line in enumerate(lines):
        if any(line[:2] == other[:2] for other in lines[:k]):
            raise InputError(f"costs: {' '.join(line[:2]).strip()} is given twice")
    return lines


def _parse_cost(number: object, place: str) -> float:
    try:
        cost = math.nan if isinstance(number, bool) else float(number)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        cost = math.nan
    if not 0 <= cost < math.inf:
        raise InputError(
            f"costs: a cost must be a number that is not negative, found {number!r} in {place!r}"
        )
    return cost


def _class_rows(lines: Sequence[_Line], names: Sequence[str]) -> NamedCosts:
    """A row of the matrix for each class."""
    matrix: FloatArray = 1 - np.eye(len(names))
    setters: dict[tuple[int, int], _Line] = {}
    places = {name: place for place, name in enumerate(names)}
    for line in lines:
        if line.kind == REVIEW:
            continue
        own = places[line.name]
        for other in set(range(len(names))) - {own}:
            cell = (own, other) if line.kind == MISSED else (other, own)
            first = setters.setdefault(cell, line)
            if first.cost != line.cost:
                truth, call = (names[place] for place in cell)
                raise InputError(
                    f"costs: {first.text!r} and {line.text!r} give {truth!r} called {call!r} two "
                    "costs; give a table instead, such as costs.csv"
                )
            matrix[cell] = line.cost
    reviews = [line.cost for line in lines if line.kind == REVIEW]
    return {name: (*row, *reviews) for name, row in zip(names, matrix.tolist(), strict=True)}


def _finding_rows(lines: Sequence[_Line], names: Sequence[str]) -> NamedCosts:
    """The costs of the two errors of each finding, and maybe the price of a review."""
    costs: NamedCosts = {}
    for name in names:
        nearest_last = sorted(lines, key=lambda line: line.name == name)
        own = {line.kind: line.cost for line in nearest_last if line.name in ("", name)}
        costs[name] = (
            own.get(MISSED, 1.0),
            own.get(FALSE, 1.0),
            *([own[REVIEW]] if REVIEW in own else []),
        )
    without = [name for name in names if len(costs[name]) == len(KINDS) - 1]
    if 0 < len(without) < len(names):
        raise InputError(
            f"costs: {quote_names(without)} has no price of a review; give one for all findings, "
            "such as 'review: 3'"
        )
    return costs


def _read_table(path: Path, names: Sequence[str], *, findings: bool) -> NamedCosts:
    """Read a table: a row for each class or finding, and a column for each decision or error."""
    if not path.is_file():
        raise InputError(f"costs: there is no file {path}")
    (_, header), *rows = read_csv_rows(path) or [(1, [])]
    noun, columns = "finding" if findings else "class", header[1:]
    needed = [MISSED, FALSE] if findings else list(names)
    for column in columns:
        if column not in (*needed, REVIEW):
            raise unknown_name(f"column in {path}", column, (*needed, REVIEW))
    for kind, given, wanted in (
        ("column", columns, needed),
        ("row", [cells[0] for _, cells in rows], list(names)),
    ):
        twice = [name for name in given if given.count(name) > 1]
        missing = [name for name in wanted if name not in given]
        if twice or missing:
            problem = f"two {kind}s" if twice else f"no {kind}"
            raise InputError(
                f"{path} has {problem} for {quote_names(list(dict.fromkeys(twice)) or missing)}"
            )
    costs: NamedCosts = {}
    order = [*needed, *([REVIEW] if REVIEW in columns else [])]
    for line, (name, *cells) in rows:
        if name not in names:
            raise unknown_name(f"{noun} in line {line} of {path}", name, names)
        if len(cells) != len(columns):
            raise InputError(
                f"line {line} of {path} has {len(cells)} costs, and the header {len(columns)}"
            )
        by_column = dict(zip(columns, cells, strict=True))
        costs[name] = tuple(_parse_cost(by_column[key], f"line {line} of {path}") for key in order)
    return {name: costs[name] for name in names}


def _check_class(name: str, row: Sequence[float], names: Sequence[str]) -> None:
    """Raise `InputError` if it costs more to call a class right than wrong."""
    right = row[list(names).index(name)]
    for other, cost in zip(names, row, strict=False):
        if cost < right:
            raise InputError(
                f"costs: {name!r} called right costs {right:g}, more than called {other!r} at "
                f"{cost:g}; a right answer must not cost more than an error"
            )

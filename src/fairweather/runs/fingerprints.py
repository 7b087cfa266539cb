"""What a result depends on: the options that have an effect and differ from their stored defaults.

One rule holds for steps, networks and recipes. A field counts unless its type says `NoEffect`, and
it is left out if it has the default of `defaults.json`. So a new option, with its default in that
table, leaves finished work valid. A changed default raises the version of the table, which is among
the facts of every step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from fairweather.files.folders import read_facts

if TYPE_CHECKING:
    from pydantic import JsonValue

T = TypeVar("T")


@dataclass(frozen=True)
class Effect:
    """How a field appears among the facts."""

    name: str | None
    """Its name there; "" if its own fields appear there; None if it has no effect."""


# It never changes the result, or the files that are read show it.
NoEffect = Annotated[T, Effect(None)]
# Its own fields appear among those of the whole.
Inline = Annotated[T, Effect("")]

_STORED = read_facts("fairweather.runs", "defaults")
DEFAULTS_VERSION: int = _STORED["version"]
DEFAULTS: Mapping[str, Mapping[str, JsonValue]] = _STORED["defaults"]


def effective_facts(value: Any, idle: Collection[str] = ()) -> dict[str, JsonValue]:  # noqa: ANN401 - fields
    """The fields of a value that have an effect and are not at their stored default, as JSON.

    Args:
        value: of a class of pydantic's, a dataclass or a `NamedTuple`.
        idle: names of fields that have no effect given the other fields.
    """
    result: dict[str, JsonValue] = {}
    kind: type = type(value)
    stored = stored_defaults(kind)
    for field, name in effective_fields(kind).items():
        field_value = getattr(value, field)
        if field in idle or (field in stored and to_fact(field_value) == stored[field]):
            continue
        result |= {name: to_fact(field_value)} if name else effective_facts(field_value)
    return result


def to_fact(value: Any) -> JsonValue:  # noqa: ANN401 - of any field
    """A value as JSON; its own `fact` if it has one."""
    if hasattr(value, "fact"):
        return to_fact(value.fact)
    if isinstance(value, Mapping):
        return {str(key): to_fact(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [to_fact(item) for item in value]
        if stored := stored_defaults(type(value)):  # the last fields of a `NamedTuple`
            names = type(value)._fields  # type: ignore[union-attr]
            while items and items[-1] == stored.get(names[len(items) - 1], ...):
                items.pop()
        return items
    has_fields = hasattr(type(value), "model_fields") or is_dataclass(value)
    plain: JsonValue = effective_facts(value) if has_fields else value
    return plain


@cache
def effective_fields(kind: type) -> dict[str, str]:
    """The fields of a class that have an effect, with their names among the facts."""
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
    else:
        names = list(getattr(kind, "model_fields", None) or kind._fields)  # type: ignore[attr-defined]
    hints = get_type_hints(kind, include_extras=True)
    effects = {}
    for name in names:
        marks = getattr(hints[name], "__metadata__", ())
        effects[name] = next((mark.name for mark in marks if type(mark) is Effect), name)
    return {name: fact_name for name, fact_name in effects.items() if fact_name is not None}


@cache
def stored_defaults(kind: type) -> Mapping[str, JsonValue]:
    """The stored defaults of the fields of a class, those of its bases included."""
    return {
        name: value
        for base in reversed(kind.__mro__)
        for name, value in DEFAULTS.get(base.__name__, {}).items()
    }

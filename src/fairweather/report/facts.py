"""Nested settings as lines that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fairweather.types.measurement import format_255ths


def flatten_facts(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys and plain text.

    >>> list(flatten_facts({"git": {"dirty": False}, "seeds": [0, 1]}))
    [('git.dirty', 'no'), ('seeds', '0; 1')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten_facts(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _format_fact(value)


def _format_fact(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_255ths(value) or f"{value:g}"
    if isinstance(value, list):
        return "; ".join(map(_format_fact, value))
    return str(value)

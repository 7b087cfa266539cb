"""YAML in which `1e-3` and `8/255` are numbers, and quoted text is text."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from fairweather.errors import InputError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_FLOAT = re.compile(rf"^(?:[-+]?(?:\d+\.\d*|\.\d+)|{_NUMBER}[eE][-+]?\d+|[-+]?\.inf|\.nan)$")
_FRACTION = re.compile(rf"^{_NUMBER}/\d+$")
_FRACTION_TAG = "tag:fairweather,2026:fraction"


class _Loader(yaml.SafeLoader):
    """A safe loader for the scalars of YAML 1.2 and fractions; a key given twice is an error."""

    # YAML 1.1 reads `no` as false, `1:30` as 90, `2024-01-01` as a date and `1e-3` as text.
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own protocol

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; raises `InputError` if it has a key twice."""
        own = [self.construct_object(key, deep=True) for key, _ in node.value if not _is_merge(key)]
        for key in own:
            if own.count(key) > 1:
                raise InputError(f"the key {key!r} is given twice{_place(node.start_mark)}")
        return super().construct_mapping(node, deep)

    def construct_fraction(self, node: yaml.ScalarNode) -> float:
        """Read `8/255`."""
        above, below = node.value.split("/")
        if int(below) == 0:
            raise InputError(f"{node.value} divides by zero{_place(node.start_mark)}")
        return float(above) / int(below)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        """Read `1e-3` as well as `0.001`."""
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor(_FRACTION_TAG, _Loader.construct_fraction)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9]\d*)$"), list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789")),
    (_FRACTION_TAG, _FRACTION, list("-+.0123456789")),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"]),
):
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


def parse_yaml(text: str, name: str = "the study") -> Any:  # noqa: ANN401 - any YAML value
    """Parse YAML text safely; raises `InputError` with line and column if it is not YAML.

    >>> parse_yaml("{rate: 1e-3, epsilon: 8/255, quoted: '8/255', answer: no}")
    {'rate': 0.001, 'epsilon': 0.03137254901960784, 'quoted': '8/255', 'answer': 'no'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise InputError(
            f"{name} is not YAML: {error.problem}{_place(error.problem_mark)}"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not YAML: {str(error).splitlines()[0]}") from None


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - any YAML value
    """Parse a YAML file safely."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file") from None


def dump_yaml(value: object) -> str:
    """Write plain values as YAML; `parse_yaml` reads the same values back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes text which the loader above would not read as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _is_merge(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:merge"


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"

"""YAML in which `1e-3` and `8/255` are numbers, and quoted text is text."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fairweather.errors import InputError, check_text, one_line

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_FLOAT = re.compile(rf"^(?:[-+]?(?:\d+\.\d*|\.\d+)|{_NUMBER}[eE][-+]?\d+|[-+]?\.inf|\.nan)$")
_TAGS = "tag:yaml.org,2002:"
_FRACTION_TAG, _MERGE_TAG = "tag:fairweather,2026:fraction", f"{_TAGS}merge"
# What plain text may mean, by tag: a pattern, and the first letters that it may have.
_SCALARS: Mapping[str, tuple[re.Pattern[str], list[str]]] = {
    f"{_TAGS}null": (re.compile(r"^(?:~|null|)$"), ["~", "n", ""]),
    f"{_TAGS}bool": (re.compile(r"^(?:true|false)$"), list("tf")),
    f"{_TAGS}int": (re.compile(r"^[-+]?(?:0|[1-9]\d*)$"), list("-+0123456789")),
    f"{_TAGS}float": (_FLOAT, list("-+.0123456789")),
    _FRACTION_TAG: (re.compile(rf"^{_NUMBER}/\d+$"), list("-+.0123456789")),
    _MERGE_TAG: (re.compile(r"^<<$"), ["<"]),
}
# The allowed tags. A file can name any tag, so others are refused.
_KNOWN = {None, *_SCALARS, *(f"{_TAGS}{kind}" for kind in ("str", "seq", "map"))}
MAX_LETTERS = 200  # of the name of a text in a message
MAX_VALUES = 1_000_000  # a few lines of anchors can stand for billions
MAX_INTEGER = 2**63  # of whole numbers, which become 64-bit numbers


class _Loader(yaml.SafeLoader):
    """A safe loader for the scalars of YAML 1.2 and fractions; a key given twice is an error."""

    # YAML 1.1 reads `no` as false, `1:30` as 90, `2024-01-01` as a date and `1e-3` as text.
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own protocol

    yaml_constructors = {  # noqa: RUF012 - likewise
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in _KNOWN
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[int] = set()  # ids of the mappings that are flattened

    def construct_document(self, node: yaml.Node) -> object:
        """Construct the whole document at once, so that PyYAML refuses a value that contains
        itself."""
        _count_values(node, {})
        return self.construct_object(node, deep=True)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Construct a value; one that does not fit its tag is an error at its place."""
        try:
            return super().construct_object(node, deep)
        except InputError:
            raise
        except (KeyError, ValueError):
            problem = f"the value does not fit its tag {node.tag.replace(_TAGS, '!!')}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """Give the text of a scalar; raises `InputError` if it cannot be shown."""
        return check_text(super().construct_scalar(node), f"the text{_position(node.start_mark)}")

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert the mappings that `<<` merges; raises `InputError` if a key is written twice.

        It is called several times for a mapping that others merge.
        """
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        self._check_written_once(node)
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            # Later keys win, so the order is reversed: of several mappings the first wins, and own
            # keys over all.
            for mapping in reversed(_merged_mappings(value)) if key.tag == _MERGE_TAG else ():
                self.flatten_mapping(mapping)
                merged += mapping.value
        node.value = [*merged, *(pair for pair in node.value if pair[0].tag != _MERGE_TAG)]

    def _check_written_once(self, node: yaml.MappingNode) -> None:
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # others are refused below
                if key in keys:
                    raise InputError(f"the key {key!r} is given twice{_position(node.start_mark)}")
                keys.add(key)

    def construct_fraction(self, node: yaml.ScalarNode) -> float:
        """Read `8/255`."""
        above, below = map(float, self.construct_scalar(node).split("/"))
        if math.inf in (above, below):
            raise _too_large(node)
        if below == 0:
            raise InputError(f"{node.value} divides by zero{_position(node.start_mark)}")
        return _check_finite(above / below, node)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """Read `12`."""
        text = self.construct_scalar(node)
        if len(text) > len(str(-MAX_INTEGER)) or not -MAX_INTEGER <= int(text) < MAX_INTEGER:
            raise _too_large(node)
        return int(text)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        """Read `1e-3` as well as `0.001`."""
        text = self.construct_scalar(node).lower()
        if text.endswith((".inf", ".nan")):
            return float(text.replace(".", ""))
        return _check_finite(float(text), node)


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Count the values that a node stands for; an alias counts as everything that it repeats."""
    if id(node) not in counted:
        counted[id(node)] = 0  # a value that contains itself is refused later
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        children = (child for item in inner for child in (item if type(item) is tuple else [item]))
        counted[id(node)] = 1 + sum(_count_values(child, counted) for child in children)
        if counted[id(node)] > MAX_VALUES:
            raise InputError(f"it has more than {MAX_VALUES:,} values{_position(node.start_mark)}")
    return counted[id(node)]


_Loader.add_constructor(_FRACTION_TAG, _Loader.construct_fraction)
_Loader.add_constructor(f"{_TAGS}int", _Loader.construct_int)
_Loader.add_constructor(f"{_TAGS}float", _Loader.construct_float)
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


def parse_yaml(text: str, name: str = "the study") -> Any:  # noqa: ANN401 - any YAML value
    """Parse YAML text safely; raises `InputError` with line and column if it is not YAML.

    >>> parse_yaml("{rate: 1e-3, epsilon: 8/255, quoted: '8/255', answer: no}")
    {'rate': 0.001, 'epsilon': 0.03137254901960784, 'quoted': '8/255', 'answer': 'no'}
    """
    name = name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 3]}..."
    try:
        return yaml.load(text, Loader=_Loader)  # nosec B506 # a SafeLoader, stricter still
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise InputError(
            f"{name} is not YAML: {error.problem}{_position(error.problem_mark)}"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not YAML: {one_line(str(error))}") from None
    except RecursionError:
        raise InputError(f"{name} is nested too deeply") from None
    except (OverflowError, ValueError):  # from PyYAML's `chr`
        raise InputError(f"{name} is not YAML: it names a character that does not exist") from None


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - any YAML value
    """Parse a YAML file safely."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it in UTF-8") from None


def dump_yaml(value: object) -> str:
    """Write plain values as YAML; `parse_yaml` reads the same values back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes text which the loader above would not read as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _merged_mappings(node: yaml.Node) -> list[yaml.MappingNode]:
    """The mappings that stand behind `<<`: one, or a list of them."""
    mappings: list[yaml.MappingNode] = []
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(item, yaml.MappingNode):
            problem = "<< merges a mapping or a list of mappings"
            raise yaml.constructor.ConstructorError(None, None, problem, item.start_mark)
        mappings.append(item)
    return mappings


def _check_finite(value: float, node: yaml.ScalarNode) -> float:
    if math.isinf(value):
        raise _too_large(node)
    return value


def _too_large(node: yaml.ScalarNode) -> InputError:
    text = node.value if len(node.value) <= 20 else f"{node.value[:20]}..."
    return InputError(f"the number {text} is too large{_position(node.start_mark)}")


def _position(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"

"""YAML in which `1e-3` and `8/255` are numbers, and quoted text is text."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fairweather.errors import InputError, check_has_end, check_text, one_line

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_FLOAT = re.compile(rf"^(?:[-+]?(?:\d+\.\d*|\.\d+)|{_NUMBER}[eE][-+]?\d+|[-+]?\.inf|\.nan)$")
_TAGS = "tag:yaml.org,2002:"
_FRACTION_TAG, _MERGE_TAG = "tag:fairweather,2026:fraction", f"{_TAGS}merge"
# What is data: the scalars that plain text may be, by their tags, and with these their first
# letters; then text, and what contains others. A file can name any tag; another one is refused.
_SCALARS: Mapping[str, tuple[re.Pattern[str], list[str]]] = {
    f"{_TAGS}null": (re.compile(r"^(?:~|null|)$"), ["~", "n", ""]),
    f"{_TAGS}bool": (re.compile(r"^(?:true|false)$"), list("tf")),
    f"{_TAGS}int": (re.compile(r"^[-+]?(?:0|[1-9]\d*)$"), list("-+0123456789")),
    f"{_TAGS}float": (_FLOAT, list("-+.0123456789")),
    _FRACTION_TAG: (re.compile(rf"^{_NUMBER}/\d+$"), list("-+.0123456789")),
    _MERGE_TAG: (re.compile(r"^<<$"), ["<"]),
}
_KINDS: Mapping[str, type[yaml.Node]] = {
    f"{_TAGS}str": yaml.ScalarNode,
    f"{_TAGS}seq": yaml.SequenceNode,
    f"{_TAGS}map": yaml.MappingNode,
}
# A few lines of anchors can stand for billions of values, and a thousand brackets for more calls
# than Python makes.
MOST_VALUES, DEEPEST = 1_000_000, 50
MOST_DIGITS = 400  # of a fraction's numbers; Python refuses to read 4,300
MOST_LETTERS = 200  # of the name of a text in a message
LARGEST = 2**63  # of whole numbers, which become those of 64 bits


class _Loader(yaml.SafeLoader):
    """A safe loader for the scalars of YAML 1.2 and fractions; a key given twice is an error."""

    # YAML 1.1 reads `no` as false, `1:30` as 90, `2024-01-01` as a date and `1e-3` as text.
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own protocol

    def get_single_node(self) -> yaml.Node | None:
        """Compose the one document, and refuse what is more than plain data."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[int] = set()  # the mappings that have been here

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Bring in what a mapping merges; raises `InputError` if a key is written twice in it.

        A mapping that others merge comes here several times.
        """
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        self._check_written_once(node)
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            # What comes later wins: of several merged mappings the first, then the keys themselves.
            for each in reversed(_merged_by(value)) if key.tag == _MERGE_TAG else ():
                self.flatten_mapping(each)
                merged += each.value
        node.value = [*merged, *(pair for pair in node.value if pair[0].tag != _MERGE_TAG)]

    def _check_written_once(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # another one is refused below
                if key in seen:
                    raise InputError(f"the key {key!r} is given twice{_place(node.start_mark)}")
                seen.add(key)

    def construct_fraction(self, node: yaml.ScalarNode) -> float:
        """Read `8/255`."""
        above, below = node.value.split("/")
        if max(len(above), len(below)) > MOST_DIGITS:
            raise _too_large(node)
        if int(below) == 0:
            raise InputError(f"{node.value} divides by zero{_place(node.start_mark)}")
        try:
            return _finite(float(above) / int(below), node)
        except OverflowError:
            raise _too_large(node) from None

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """Read `12`."""
        if len(node.value) > MOST_DIGITS or not -LARGEST <= int(node.value) < LARGEST:
            raise _too_large(node)
        return int(node.value)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        """Read `1e-3` as well as `0.001`."""
        text = node.value.lower()
        if text.endswith((".inf", ".nan")):
            return float(text.replace(".", ""))
        return _finite(float(text), node)


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
    name = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
    try:
        return yaml.load(text, Loader=_Loader)  # nosec B506 # a SafeLoader, stricter still
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise InputError(
            f"{name} is not YAML: {error.problem}{_place(error.problem_mark)}"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not YAML: {one_line(str(error))}") from None
    except RecursionError:
        raise InputError(f"{name} is nested too deeply") from None


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - any YAML value
    """Parse a YAML file safely."""
    check_has_end(path)
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


class _Size(NamedTuple):
    """How many values a node stands for, and how deep they are nested."""

    values: int
    height: int


_BEGUN = _Size(0, 0)  # a node that is being counted


def _count(node: yaml.Node, counted: dict[int, _Size], depth: int = 1) -> _Size:
    """Count the values that a node stands for, each alias as all that it repeats.

    Raises `InputError` for anything but plain data: too many values, values too deep, one that
    contains itself, or a tag of another kind.
    """
    if depth > DEEPEST:
        raise InputError(f"it is nested too deeply{_place(node.start_mark)}")
    _check_tag(node)
    if isinstance(node, yaml.ScalarNode):
        check_text(node.value, f"the text{_place(node.start_mark)}")
        return _Size(1, 1)
    if id(node) in counted:
        if counted[id(node)] is _BEGUN:
            raise InputError(f"a value contains itself{_place(node.start_mark)}")
        return counted[id(node)]
    counted[id(node)] = _BEGUN
    pairs = isinstance(node, yaml.MappingNode)
    inner = [each for pair in node.value for each in pair] if pairs else node.value
    sizes = [_count(each, counted, depth + 1) for each in inner]
    size = _Size(
        1 + sum(each.values for each in sizes), 1 + max((s.height for s in sizes), default=0)
    )
    if size.values > MOST_VALUES:
        raise InputError(f"it has more than {MOST_VALUES:,} values{_place(node.start_mark)}")
    if size.height > DEEPEST:  # aliases bring their own height
        raise InputError(f"it is nested too deeply{_place(node.start_mark)}")
    counted[id(node)] = size
    return size


def _merged_by(node: yaml.Node) -> list[yaml.MappingNode]:
    """The mappings that stand behind `<<`: one, or a list of them."""
    found: list[yaml.MappingNode] = []
    for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(each, yaml.MappingNode):
            problem = "<< merges a mapping or a list of mappings"
            raise yaml.constructor.ConstructorError(None, None, problem, each.start_mark)
        found.append(each)
    return found


def _check_tag(node: yaml.Node) -> None:
    tag = node.tag
    if tag in _KINDS:
        fits = isinstance(node, _KINDS[tag])
    elif tag in _SCALARS:
        pattern, _ = _SCALARS[tag]
        whole, _ = _SCALARS[f"{_TAGS}int"]
        fits = isinstance(node, yaml.ScalarNode) and bool(
            pattern.match(node.value) or (tag == f"{_TAGS}float" and whole.match(node.value))
        )
    else:
        fits = False
    if not fits:
        shown = tag.replace(_TAGS, "!!") if tag.startswith(_TAGS) else tag
        known = tag in _KINDS or tag in _SCALARS
        problem = f"a value {'does not fit' if known else 'has'} the tag {shown}"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _finite(value: float, node: yaml.ScalarNode) -> float:
    if math.isinf(value):
        raise _too_large(node)
    return value


def _too_large(node: yaml.ScalarNode) -> InputError:
    text = node.value if len(node.value) <= 20 else f"{node.value[:20]}..."
    return InputError(f"the number {text} is too large{_place(node.start_mark)}")


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"

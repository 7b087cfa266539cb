"""Read rules from text: `[MODEL:] METRIC[CELL|OF] [drop|rise] OPERATOR NUMBER`.

A rule about another run is `[MODEL:] METRIC[CELL|OF] not worse than RUN[:MODEL] by NUMBER`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import read_yaml
from fairweather.types.kinds import OF_FINDING
from fairweather.types.operating_points import POINT_SIGN, parse_point
from fairweather.types.positive import FROM

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
# Of a rule about another run: what its loss, or the larger end of the interval of it, must be.
NOT_WORSE, WITHIN = "not worse than", "within"
MARGINS: Mapping[str, Callable[[float, float], bool]] = {
    NOT_WORSE: operator.lt,
    WITHIN: lambda loss, margin: abs(loss) < margin,
}
CHANGES = ("drop", "rise")
# What may follow the bar of METRIC[CELL|OF]: a class, a slice, the worst slice, an unseen one, a
# class in a slice, or the same of a finding, which also has means.
CLASS, WORST_SLICE, UNSEEN_SLICE = "class=", "worst ", "unseen "
_CLEAN_CELL = "clean"  # of a margin that names no cell
_CLASS_WORD = CLASS.removesuffix("=")
_ONWARDS = _CLASS_WORD + FROM  # before a grade or more
MEANS = ("mean ", "weighted mean ")
SUBJECTS = (
    "class=NAME",
    "COLUMN=VALUE",
    "worst COLUMN",
    "unseen COLUMN",
    "class=NAME|COLUMN=VALUE",
    "class=NAME|worst COLUMN",
    "finding=NAME",
    "finding=NAME|COLUMN=VALUE",
    "worst finding",
    "class>=NAME",
    "weighted mean finding",
)
TARGET_FORM = "[MODEL:] METRIC[CELL|OF]"
FORM = f"{TARGET_FORM} [drop|rise] OPERATOR NUMBER"
MARGIN_FORM = f"{NOT_WORSE} RUN by NUMBER"
EXAMPLE = "accuracy[brightness_factor] drop <= 5%"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LEVEL = re.compile(rf"({_NUMBER})(?:/(\d+))?")
_LIMIT = re.compile(rf"({_NUMBER})\s*(%?)")
# The words between the closing bracket and the number are checked later, so that errors name them.
# The name of a class may contain brackets; no text after the last bracket may.
_TARGET = (
    r"(?:(?P<model>[^\s:\[\]]+)\s*:\s*)?(?P<metric>[^\s:\[\]]+)\s*\[(?P<cell>[^\[\]|]+)"
    r"(?:\|(?P<subject>.+))?\]\s*"
)
_ENDINGS = (
    rf"(?P<operator>{NOT_WORSE})\s+(?P<reference>\S.*?)\s+by\s+(?P<number>\S+(?:\s*%)?)",
    rf"(?P<operator>{WITHIN})\s+(?P<number>\S+(?:\s*%)?)\s+of\s+(?P<reference>\S.*)",
    r"(?P<change>[a-z]*)\s*(?P<operator>[<>=!≤≥]+)\s*(?P<number>.+)",
)
_RULES = [re.compile(_TARGET + ending) for ending in _ENDINGS]


@dataclass(frozen=True)
class Rule:
    """One rule. `str(rule)` can be read again by `read_rules`.

    >>> print(Rule(None, "accuracy", "brightness_factor", "drop", "<=", "5%"))
    accuracy[brightness_factor] drop <= 5%
    >>> print(Rule("basic", "sensitivity", "clean", "", ">=", "0.9", "class=malignant"))
    basic: sensitivity[clean|class=malignant] >= 0.9
    >>> print(Rule(None, "auc", "clean", "", ">=", "0.9", "class=>=2"))
    auc[clean|class>=2] >= 0.9
    >>> print(Rule(None, "accuracy", "clean", "", NOT_WORSE, "1%", reference="runs/old"))
    accuracy[clean] not worse than runs/old by 1%
    """

    model: str | None
    """The model; None for every model of a run."""

    metric: str
    """The metric's name in scores.csv."""

    cell: str
    """The images: `clean`, a shift, `SHIFT=LEVEL`, `SHIFT@worst`, `all` or `*`."""

    change: str
    """`drop` is clean minus shifted, `rise` is shifted minus clean, "" is the value."""

    operator: str
    """One of `OPERATORS` or, of a rule about another run, of `MARGINS`."""

    number: str
    """The limit or the margin as it was written, possibly with a percent sign."""

    subject: str = ""
    """What the metric is of, such as `class=malignant`, `site=B`, `worst site` or
    `class=malignant|site=B`; "" for all that the cell has."""

    reference: str = ""
    """The other run, or one model of it as FOLDER:MODEL; "" for a rule about one run."""

    def __str__(self) -> str:
        change = f"{self.change} " if self.change else ""
        if self.operator == NOT_WORSE:
            return f"{self.target} {NOT_WORSE} {self.reference} by {self.number}"
        if self.operator == WITHIN:
            return f"{self.target} {WITHIN} {self.number} of {self.reference}"
        return f"{self.target} {change}{self.operator} {self.number}"

    @property
    def condition(self) -> str:
        """What the number must be, in words.

        >>> rules = "auc[clean] >= 0.9", "auc[clean] within 0.01 of a", "auc[fog] drop < 5%"
        >>> [rule.condition for rule in read_rules(rules)]
        ['>= 0.9', 'within ± 0.01', '< 5%']
        """
        sign = {NOT_WORSE: "<", WITHIN: f"{WITHIN} ±"}.get(self.operator, self.operator)
        return f"{sign} {self.number}"

    @property
    def target(self) -> str:
        """What is limited, as `[MODEL:] METRIC[CELL|OF]`."""
        model = f"{self.model}: " if self.model else ""
        subject = self.subject
        if subject.startswith(CLASS + FROM):
            subject = _CLASS_WORD + subject.removeprefix(CLASS)
        cell = f"{self.cell}|{subject}" if subject else self.cell
        return f"{model}{self.metric}[{cell}]"

    @property
    def scored(self) -> str:
        """The name of the metric in scores.csv, with the class or the operating point in it.

        >>> Rule(None, "ppv", "clean", "", ">=", "0.9", "class=malignant@0.3").scored
        'ppv/malignant@0.3'
        >>> Rule(None, "ppv", "clean", "", ">=", "0.9", "finding=Mass@0.3").scored
        'ppv@0.3'
        >>> Rule(None, "ppv@sensitivity=0.9", "clean", "", ">=", "0.9", "class=malignant").scored
        'ppv/malignant@sensitivity=0.9'
        """
        named, _ = self._class_and_slice
        _, point = self._part_and_point
        metric, sign, at = self.metric.partition(POINT_SIGN)
        return f"{metric}/{named}{sign}{at}" if named else f"{self.metric}{point}"

    @property
    def measured(self) -> str:
        """What is limited, in words."""
        return f"a {self.change} of {self.scored}" if self.change else self.scored

    @property
    def slice(self) -> str:
        """The finding, and the subgroup of the images as in slices.csv; "" for all of them.

        >>> Rule(None, "accuracy", "clean", "", ">=", "0.8", "worst site").slice
        'worst site'
        >>> Rule(None, "f1", "clean", "", ">=", "0.8", "class=malignant|site=B").slice
        'site=B'
        >>> Rule(None, "f1", "clean", "", ">=", "0.8", "finding=Mass@0.3|site=B").slice
        'finding=Mass|site=B'
        """
        part, _ = self._part_and_point
        return part

    @property
    def is_unseen(self) -> bool:
        """Whether it is about an unseen site, whose interval is a prediction.

        >>> Rule(None, "auc", "clean", "", ">=", "0.8", "finding=Mass|unseen site").is_unseen
        True
        """
        return self.slice.rpartition("|")[2].startswith(UNSEEN_SLICE)

    @property
    def _part_and_point(self) -> tuple[str, str]:
        """The finding and the slice, and the operating point of the finding with its sign."""
        _, part = self._class_and_slice
        finding, bar, slice_ = part.partition("|")
        name, _, at = finding.rpartition(POINT_SIGN)
        if not part.startswith(OF_FINDING) or parse_point(at) is None:
            return part, ""
        return f"{name}{bar}{slice_}", f"{POINT_SIGN}{at}"

    @property
    def _class_and_slice(self) -> tuple[str, str]:
        if not self.subject.startswith(CLASS):
            return "", self.subject
        whole = self.subject.removeprefix(CLASS)
        # Names of classes and values of slices may contain a bar too.
        bars = (at for at, sign in enumerate(whole) if sign == "|")
        pairs = ((whole[:at].strip(), whole[at + 1 :].strip()) for at in bars)
        return next(((name, rest) for name, rest in pairs if name and _is_slice(rest)), (whole, ""))

    @property
    def limit(self) -> float:
        """The limit as a number: 0.05 for 5%."""
        match = _LIMIT.fullmatch(self.number)
        if match is None:
            raise InputError(f"the limit {self.number!r} is not a number such as 0.05 or 5%")
        return float(match[1]) / (100 if match[2] else 1)

    def allows(self, number: float) -> bool:
        """Tell whether a number satisfies the rule."""
        return {**OPERATORS, **MARGINS}[self.operator](number, self.limit)


def read_rules(texts: str | Sequence[str]) -> list[Rule]:
    """Read rules; each text is a rule or the path of a YAML file with rules.

    The file contains a list of texts, or a mapping with such a list under `rules`. Duplicate rules
    are read once.

    Raises:
        InputError: a text is neither a rule nor a file, or there is no rule.

    >>> [str(rule) for rule in read_rules(["basic:accuracy[clean]>=85 %"])]
    ['basic: accuracy[clean] >= 85 %']
    """
    every = [texts] if isinstance(texts, str) else texts
    rules = [rule for text in every for rule in _read_rules(text)]
    if not rules:
        raise InputError(f"a check needs at least one rule, such as {EXAMPLE}")
    return list(dict.fromkeys(rules))


def parse_level(text: str) -> float | None:
    """Read a level, also as a fraction; return None for text that is not a number.

    >>> parse_level("0.50"), parse_level("8/255") == 8 / 255, parse_level("worst")
    (0.5, True, None)
    """
    match = _LEVEL.fullmatch(text)
    if match is None or (match[2] and int(match[2]) == 0):
        return None
    return float(match[1]) / int(match[2] or 1)


def read_margin(text: str, reference: str) -> Rule:
    """Read a margin METRIC[CELL|OF]=NUMBER as a rule about a reference; clean without a cell.

    >>> print(read_margin("accuracy=2%", "runs/old"))
    accuracy[clean] not worse than runs/old by 2%
    """
    target, sign, number = (part.strip() for part in text.rpartition("="))
    form = "it must have the form METRIC=NUMBER or METRIC[CELL|OF]=NUMBER, such as accuracy=2"
    if not (sign and target) or _LIMIT.fullmatch(number) is None:
        raise InputError(f"the margin {text!r}: {form}")
    target = target if target.endswith("]") else f"{target}[{_CLEAN_CELL}]"
    try:
        return _parse_rule(f"{target} {NOT_WORSE} {reference} by {number}")
    except InputError as error:
        problem = str(error).partition("': ")[2] or form
        raise InputError(f"the margin {text!r}: {problem}") from None


def _read_rules(text: str) -> Iterator[Rule]:
    if any(sign in text for sign in "[<>≤≥"):  # paths rarely contain these
        yield _parse_rule(text)
    elif Path(text).is_file():
        yield from map(_parse_rule, _read_rule_file(Path(text)))
    else:
        raise InputError(f"{text!r} is neither a rule, such as {EXAMPLE}, nor a file of rules")


def _read_rule_file(path: Path) -> list[str]:
    content = read_yaml(path)
    if isinstance(content, dict):
        for key in content:
            if key != "rules":
                raise unknown_name(f"key in {path}", key, ["rules"])
        content = content.get("rules")
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} must contain a list of rules, such as - {EXAMPLE}")
    return [_rule_text(entry, path) for entry in content]


def _rule_text(entry: object, path: Path) -> str:
    if isinstance(entry, str):
        return entry
    # YAML reads `- basic: accuracy[clean] >= 0.85` as a mapping.
    if isinstance(entry, dict) and len(entry) == 1:
        ((model, rule),) = entry.items()
        if isinstance(rule, str):
            return f"{model}: {rule}"
    raise InputError(f"{path}: a rule must be a text such as {EXAMPLE}, found {entry!r}")


def _parse_rule(text: str) -> Rule:
    matches = (form.fullmatch(text.strip()) for form in _RULES)
    match = next(filter(None, matches), None)
    if match is None:
        raise InputError(
            f"the rule {text!r} must have the form {FORM}, such as {EXAMPLE}; or it ends with "
            f"{MARGIN_FORM}"
        )
    parts = match.groupdict(default="")
    change, sign = parts.get("change", ""), parts["operator"]
    if change not in ("", *CHANGES):
        raise _error_in_rule(text, unknown_name("change", change, CHANGES))
    if sign not in (*OPERATORS, *MARGINS):
        raise _error_in_rule(text, unknown_name("operator", sign, OPERATORS))
    cell, number = parts["cell"].strip(), parts["number"].strip()
    subject, reference = parts["subject"].strip(), parts.get("reference", "")
    if subject.startswith(_ONWARDS):
        subject = CLASS + subject.removeprefix(_CLASS_WORD)
    rule = Rule(match["model"], match["metric"], cell, change, sign, number, subject, reference)
    try:
        _check_subject(rule)
        _ = rule.limit
    except InputError as error:
        raise _error_in_rule(text, error) from None
    return rule


def _check_subject(rule: Rule) -> None:
    """Refuse a text behind the bar that is of no known kind, or has no name or value."""
    if rule.subject.startswith(CLASS):
        is_known = bool(rule.subject.removeprefix(CLASS).partition("|")[0].strip())
    else:
        is_known = not rule.subject or _is_slice(rule.subject)
    if not is_known:
        raise unknown_name("text behind | in a rule", rule.subject, SUBJECTS)
    slice_, _, named = rule.slice.partition(f"|{CLASS}")
    if named:
        right = f"{rule.metric}[{rule.cell}|{CLASS}{named}|{slice_}]"
        raise InputError(f"the class comes before the slice, as in {right}")
    if rule.slice.startswith(CLASS):
        raise InputError(f"a number is of one class, and {rule.subject!r} names two")


def _is_slice(text: str) -> bool:
    """Tell whether a text is COLUMN=VALUE, or `worst`, `unseen` or `mean` and a COLUMN."""
    if text.startswith((WORST_SLICE, UNSEEN_SLICE, *MEANS)):
        return True
    name, _, value = text.partition("=")
    return bool(name.strip() and value.strip() and "|" not in name)


def _error_in_rule(text: str, error: InputError) -> InputError:
    return InputError(f"the rule {text!r}: {error}")

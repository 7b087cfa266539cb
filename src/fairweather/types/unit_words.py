"""The noun of what is counted: images, or patients where patients are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from fairweather.types.options import Aggregation

# Words before "images" where rows are counted. Images that are clean, shifted, seen or trained on
# stay images: a patient is not.
_BEFORE = "|".join(
    (
        r"\d[\d,.]*(?: to \d[\d,.]*)?(?: (?:test|other|wrong|known))*",
        r"[Oo]ver(?: the)?|seeds and|(?<!sees )other(?: calibration)?|[Aa]mong(?: the| all)?",
        r"on the same",
        r"(?:[Tt]oo few|[Ff]ewest|[Ff]ewer|[Aa]ll|[Tt]hese|[Ss]uch|as many|so many|most|more|new)",
        r"(?:confident|uncertain|wrong|independent|answered|deferred|calibration|[Vv]alidation)",
        r"(?:[Ss]hares?|[Nn]umbers?|part|%|half|fraction) of(?: the| these| its)?",
        r"(?<!change )[Oo]f the|of its|label's|label’s",
        r"[Nn]o|[Ee]very|[Ee]ach|[Oo]ne|[Aa]n|per",
    )
)
_AFTER = (
    "with the finding|with it|of the class|called so|not called so|at or above|with at least"
    "|are exchangeable"
)
_IMAGES = re.compile(
    rf"(?<![\w-])(?P<before>{_BEFORE})(?P<space>\s)image(?P<several>s?)(?![\w-])"
    rf"|(?<![\w-])image(?P<plural>s)(?= (?:{_AFTER})\b)"
)
Words = TypeVar("Words")


def name_units(text: str, aggregation: Aggregation | None) -> str:
    """Count what is judged in place of images.

    >>> name_units("n = 150 test images; 95 % intervals over images", Aggregation("patient"))
    'n = 150 test patients; 95 % intervals over patients'
    >>> name_units("An image with the finding, on clean images", Aggregation("study"))
    'A study with the finding, on clean images'
    """
    if aggregation is None:
        return text
    article = "an" if aggregation.unit[0] in "aeiou" else "a"

    def name(match: re.Match[str]) -> str:
        if match["plural"]:
            return aggregation.plural
        before = str(match["before"])
        if before in ("an", "An"):
            before = before[0] + article[1:]
        noun = aggregation.plural if match["several"] else aggregation.unit
        return f"{before}{match['space']}{noun}"

    return _IMAGES.sub(name, text)


def name_all_units(words: Words, aggregation: Aggregation | None) -> Words:
    """Do so in all texts of lists and mappings, but not in the keys.

    >>> name_all_units({"over images": ["no image", 3]}, Aggregation("patient"))
    {'over images': ['no patient', 3]}
    """
    if aggregation is None:
        return words
    changed: Any = words
    if isinstance(words, str):
        changed = name_units(words, aggregation)
    elif isinstance(words, Mapping):
        changed = {key: name_all_units(value, aggregation) for key, value in words.items()}
    elif isinstance(words, list | tuple):  # JSON has no other kind of list
        changed = [name_all_units(word, aggregation) for word in words]
    return changed

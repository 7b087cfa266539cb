"""One shift at its levels, and how a level is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairweather.types import shortest

# What the table of attacks calls the level of each of them, and of no shift.
BUDGET = "budget ε"


@dataclass(frozen=True)
class Sweep:
    """One shift at its levels, as provenance.json describes it.

    Attributes:
        name: as scores.csv writes it.
        title, level_title: for table heads and axes.
        neutral: the level that changes nothing, where clean stands on the axis.
        note: what a reader has to know about the levels; maybe empty.
        cells: the id of each shifted test set by its level as scores.csv writes it, ascending.
        meaning: what happens to an image, in a sentence; runs of early versions do not say.
        constants: what a level stands for in numbers, where it is a mere rank.
    """

    name: str
    title: str
    level_title: str
    neutral: float
    note: str
    cells: Mapping[str, str]
    meaning: str = ""
    constants: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The name as part of a file's name."""
        return self.name.replace("/", "__")

    @property
    def farthest(self) -> str:
        """The level that is farthest from the neutral one."""
        return max(self.cells, key=lambda level: abs(float(level) - self.neutral))

    @property
    def is_attack(self) -> bool:
        """Say whether images are changed with the model at hand; no mean over shifts has attacks.

        >>> Sweep("pgd", "PGD", "budget ε (pixels in [0, 1])", 0.0, "", {}).is_attack
        True
        """
        return self.level_title.startswith(BUDGET)

    @property
    def in_pixel_steps(self) -> bool:
        """Say whether the levels are budgets that papers write as n/255."""
        return self.is_attack and all(_pixel_steps(level) for level in self.cells)

    def heading(self, level: str) -> str:
        """Write a level the way a paper does: with the letter that the level's title ends in.

        At most four significant digits, unless two levels would then read the same; budgets of
        attacks in steps of 8-bit images.

        >>> Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}).heading("0.8")
        'f = 0.8'
        >>> Sweep("s", "Snow", "severity", 0.0, "", {}).heading("3")
        '3'
        >>> Sweep("p", "PGD", "budget ε", 0.0, "", {}).heading("0.00784313725490196")
        'ε = 2/255'
        """
        short = self._short(level)
        if [self._short(other) for other in self.cells].count(short) > 1:
            short = level
        symbol = re.search(r"\s(\w)(?:\s*\(.*\))?$", self.level_title)
        return f"{symbol[1]} = {short}" if symbol else short

    def _short(self, level: str) -> str:
        steps = _pixel_steps(level) if self.is_attack else ""
        return steps or shortest(float(f"{float(level):.4g}"))


def _pixel_steps(level: str) -> str:
    """Write n/255 for a level that is so much and has no short form; nothing for others.

    >>> _pixel_steps("0.03137254901960784"), _pixel_steps("0.1"), _pixel_steps("0.2")
    ('8/255', '', '')
    """
    steps = round(float(level) * 255, 9)
    return f"{steps:.0f}/255" if len(level) > len("0.0000") and steps.is_integer() else ""

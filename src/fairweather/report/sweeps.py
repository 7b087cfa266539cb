"""One shift at its levels, and how a level is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairweather.types import in_255ths, shortest

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
        constants: what a level stands for in numbers, where it is a mere rank.
    """

    name: str
    title: str
    level_title: str
    neutral: float
    note: str
    cells: Mapping[str, str]
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
        symbol = re.search(r"\s(\w)(?:\s*\(.*\))?$", self.level_title)
        return f"{symbol[1]} = {self.number(level)}" if symbol else self.number(level)

    def spelled(self, level: str) -> str:
        """Write a level so that it can stand alone.

        >>> Sweep("s", "Snow", "severity", 0.0, "", {}).spelled("3")
        'severity 3'
        """
        heading = self.heading(level)
        return heading if "=" in heading else f"{self.level_title} {heading}"

    def number(self, level: str) -> str:
        """Write a level as `heading` does, without its letter."""
        short = self._short(level)
        alike = [self._short(other) for other in self.cells].count(short) > 1
        return level if alike else short

    def _short(self, level: str) -> str:
        steps = in_255ths(level) if self.is_attack else ""
        return steps or shortest(float(f"{float(level):.4g}"))

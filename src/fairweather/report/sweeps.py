"""One shift or attack at its levels, and how levels are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fairweather.record import SweepRecord, escape, levels_of
from fairweather.types import in_255ths, shortest

# First words of shifts' titles that keep their capital inside a sentence.
PROPER = ("Gaussian",)
# How levels are read whose titles are more than a word and have no letter.
READINGS = {
    "angle (degrees)": "{} degrees",
    "factor of the pixel size": "{} times the pixel size",
    "fraction of the width": "{} of the width",
    "turn of the colour circle": "{} of the colour circle",
}


@dataclass(frozen=True)
class Sweep:
    """One shift or attack at its levels, as a report shows it; of several runs, put together.

    Attributes:
        name: as scores.csv writes it.
        title, level_title: for table heads and axes.
        neutral: the level that changes nothing; clean images are drawn there.
        note: what a reader must know about the levels; may be empty.
        cells: the id of each shifted test set by its level as scores.csv writes it, ascending.
        constants: what a level stands for in numbers, where it is a mere rank.
        kind: shift or attack.
    """

    name: str
    title: str
    level_title: str
    neutral: float
    note: str
    cells: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["shift", "attack"] = "shift"

    @property
    def notes(self) -> list[str]:
        """The note, one statement after the other, each ready to be a sentence.

        >>> Sweep("", "", "", 0.0, "0.3: weak; not a blur", {}).notes
        ['0.3: weak', 'Not a blur']
        """
        parts = [part for part in self.note.split("; ") if part]
        return [f"{part[0].upper()}{part[1:]}" for part in parts]

    @property
    def file_name(self) -> str:
        """The name as part of a file's name."""
        return escape(self.name)

    @property
    def farthest(self) -> str:
        """The level that is farthest from the neutral one."""
        return max(self.cells, key=lambda level: abs(float(level) - self.neutral))

    @property
    def is_attack(self) -> bool:
        """Say whether a model is needed to change images; means over shifts leave attacks out."""
        return self.kind == "attack"

    @property
    def in_sentence(self) -> str:
        """The title as inside a sentence: names and abbreviations keep their capitals.

        Attacks are all named by names.

        >>> titles = ("Fog", "JPEG", "Gaussian blur")
        >>> [Sweep("", title, "", 0.0, "", {}).in_sentence for title in titles]
        ['fog', 'JPEG', 'Gaussian blur']
        """
        first = self.title.partition(" ")[0]
        keep = first in PROPER or any(map(str.isupper, first[1:])) or self.is_attack
        return self.title if keep else self.title[:1].lower() + self.title[1:]

    def at(self, level: str) -> str:
        """Name the shift at a level inside a sentence.

        >>> Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}).at("0.4")
        'brightness at f = 0.4'
        >>> Sweep("imagenet_c/jpeg", "JPEG compression", "severity", 0.0, "", {}).at("5")
        'JPEG compression at severity 5'
        >>> Sweep("hue", "Hue", "turn of the colour circle", 0.0, "", {}).at("0.5")
        'hue at 0.5 of the colour circle'
        >>> attack = Sweep("pgd", "PGD", "budget ε (in [0, 1])", 0.0, "", {}, kind="attack")
        >>> attack.at("0.03137254901960784")
        'PGD at ε = 8/255'
        """
        return f"{self.in_sentence} at {self._read(level)}"

    def heading(self, level: str) -> str:
        """Write a level the way a paper does: with the letter that the level's title ends in.

        At most four significant digits, unless two levels would then read the same; budgets of
        attacks in steps of 8-bit images.

        >>> Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}).heading("0.8")
        'f = 0.8'
        >>> Sweep("s", "Snow", "severity", 0.0, "", {}).heading("3")
        '3'
        >>> attack = Sweep("p", "PGD", "budget ε", 0.0, "", {}, kind="attack")
        >>> attack.heading("0.00784313725490196")
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

    def _read(self, level: str) -> str:
        heading, title = self.heading(level), self.level_title
        if "=" in heading:
            return heading
        one_word = " " not in title
        form = READINGS.get(title, f"{title} {{}}" if one_word else f"{{}} ({title})")
        return form.format(heading)


def as_sweep(record: SweepRecord) -> Sweep:
    """Make it from the record of a shift or an attack."""
    levels = levels_of(record)
    return Sweep(
        name=record.name,
        title=record.title,
        level_title=record.level_title,
        neutral=record.neutral,
        note=record.note,
        cells={level: cell.id for level, cell in levels.items()},
        constants={level: cell.constants for level, cell in levels.items() if cell.constants},
        kind=record.kind,
    )

"""The pieces of the report's sentences: numbers with intervals, shifts and levels in words."""

from __future__ import annotations

from collections.abc import Sequence

from fairweather.report.sweeps import Sweep
from fairweather.types import Score

PERCENT = "\N{NO-BREAK SPACE}%"
# First words of shifts' titles that keep their capital inside a sentence.
PROPER = ("Gaussian",)
# How levels are read whose titles are more than a word and have no letter.
READINGS = {
    "angle (degrees)": "{} degrees",
    "factor of the pixel size": "{} times the pixel size",
    "fraction of the width": "{} of the width",
    "turn of the colour circle": "{} of the colour circle",
}


def place(sweep: Sweep, level: str) -> str:
    """Name a shift at a level inside a sentence.

    >>> place(Sweep("b", "Brightness", "brightness factor f", 1.0, "", {}), "0.4")
    'brightness at f = 0.4'
    >>> place(Sweep("imagenet_c/jpeg", "JPEG compression", "severity", 0.0, "", {}), "5")
    'JPEG compression at severity 5'
    >>> place(Sweep("hue", "Hue", "turn of the colour circle", 0.0, "", {}), "0.5")
    'hue at 0.5 of the colour circle'
    >>> place(Sweep("pgd", "PGD", "budget ε (in [0, 1])", 0.0, "", {}), "0.03137254901960784")
    'PGD at ε = 8/255'
    """
    return f"{name(sweep)} at {_level(sweep, level)}"


def _level(sweep: Sweep, level: str) -> str:
    heading, title = sweep.heading(level), sweep.level_title
    if "=" in heading:
        return heading
    one_word = " " not in title
    return READINGS.get(title, f"{title} {{}}" if one_word else f"{{}} ({title})").format(heading)


def name(sweep: Sweep) -> str:
    """Write the title of a shift as inside a sentence: names and abbreviations stay capital.

    Attacks are all named by names.

    >>> [name(Sweep("", title, "", 0.0, "", {})) for title in ("Fog", "JPEG", "Gaussian blur")]
    ['fog', 'JPEG', 'Gaussian blur']
    """
    title = sweep.title
    first = title.partition(" ")[0]
    keep = first in PROPER or any(map(str.isupper, first[1:])) or sweep.is_attack
    return title if keep else title[:1].lower() + title[1:]


def listed(words: Sequence[str], joint: str = "and") -> str:
    """Write a list inside a sentence.

    >>> listed(["a", "b", "c"]), listed(["a", "b"], "or")
    ('a, b and c', 'a or b')
    """
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def share(score: Score) -> str:
    """Write a share of the images with its interval.

    >>> share(Score(0.8234, 0.801, 0.845, 200)).replace(PERCENT, " %")
    '82.3 % [80.1, 84.5]'
    """
    value, low, high = (f"{100 * number:.1f}" for number in score[:3])
    return f"{value}{PERCENT} [{low}, {high}]"


def points(score: Score) -> str:
    """Write a difference of two shares in percentage points, with its sign.

    >>> points(Score(-0.004, -0.011, 0.003, 200))
    '−0.4 points [−1.1, 0.3]'
    """
    value, low, high = (_number(100 * number, 1) for number in score[:3])
    return f"{value} points [{low}, {high}]"


def error(score: Score) -> str:
    """Write a calibration error with its interval.

    >>> error(Score(0.2345, 0.2, 0.25, 200))
    '0.23 [0.20, 0.25]'
    """
    value, low, high = (_number(number, 2) for number in score[:3])
    return f"{value} [{low}, {high}]"


def by_luck(searched: int) -> str:
    """Say of a difference that so many sets of images were looked at to find it.

    >>> by_luck(20)
    ', no more than the worst of 20 may show by chance'
    """
    return f", no more than the worst of {searched} may show by chance"


def opposite(score: Score) -> Score:
    """Turn the sign of a number, or exchange a share for that of the other images.

    >>> opposite(Score(0.25, 0.125, 0.5, 200))
    Score(value=-0.25, low=-0.5, high=-0.125, n=200)
    """
    return Score(-score.value, -score.high, -score.low, score.n)


def _number(value: float, digits: int) -> str:
    # Adding 0 makes of "-0.0" the "0.0" that it is.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")

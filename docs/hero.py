"""Run the demo, draw the first picture of the README, and write what the docs print of it.

`python docs/hero.py` writes hero.png, demo.json and the printed output in demo.md. All numbers are
those of that run. The digits are the first test images of five classes.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from fairweather.data.loading import load_data
from fairweather.report.finished_run import Run
from fairweather.report.vega import draw_png
from fairweather.requests.demonstration import (
    DATA,
    DEFAULT_OUT,
    FOG,
    MODEL,
    VALIDATION_FRACTION,
    Finding,
    read_finding,
    read_score,
)
from fairweather.runs.folder import RunFolder
from fairweather.shifts.table import make_shift
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import CLEAN, NO_LEVEL, TEST, predictions_file

HERE = Path(__file__).parent
LEVELS = (1, 3, 5)
DIGITS = (0, 2, 4, 6, 8)
TITLES = (("Clean", ""), ("Fog", "level 1"), ("Fog", "level 3"), ("Fog", "level 5"))

# ---------------------------------------------------------------- the numbers

# By how much a logit may differ on another processor. Between kernels with and without AVX-512 the
# largest difference was 5e-6.
ROUNDING = 1e-4


class Ends(NamedTuple):
    """Between which values a share lies on any machine."""

    least: float
    most: float


def bound_accuracy(predictions: Predictions) -> Ends:
    """Bound the accuracy: an answer may change if two logits are closer than twice the rounding."""
    first, second = -np.sort(-predictions.logits, axis=1)[:, :2].T
    unstable, right = first - second < 2 * ROUNDING, predictions.correct
    return Ends(float((right & ~unstable).mean()), float((right | unstable).mean()))


def bound_confidence(predictions: Predictions) -> Ends:
    """Bound the mean confidence: a softmax changes by at most half as much as its logits."""
    mean = float(predictions.confidence.mean())
    return Ends(round(mean - ROUNDING / 2, 6), round(mean + ROUNDING / 2, 6))


def read_fog(run: RunFolder) -> dict[str, Predictions]:
    """Read the predictions of clean images and of each level of fog, by their name for people."""
    cells = {"clean": CLEAN, **{f"fog {level}": f"{FOG},severity={level}" for level in LEVELS}}
    return {
        name: run.read_predictions(predictions_file(MODEL, 0, cell, TEST))
        for name, cell in cells.items()
    }


def collect_facts(run: Run) -> dict[str, object]:
    """Collect what README and docs say of the demo, as ends between which any machine lies."""
    cells = read_fog(run.folder)
    return {
        "headline": str(read_finding(run)),
        "accuracy": {name: bound_accuracy(cell) for name, cell in cells.items()},
        "confidence": {name: bound_confidence(cell) for name, cell in cells.items()},
    }


# ---------------------------------------------------------------- the picture

WIDTH, HEIGHT, LEFT = 1200, 548, 40
INK, GREY, GRID = "#1d232b", "#5b6470", "#e6e9ed"
RIGHT, SURE, GAP = "#0b62b0", "#c2410c", "#fbe3d6"
GOOD, BAD = "#1a7333", "#b3142d"  # of an answer
SIDE, ACROSS, DOWN, TOP = 78, 92, 105, 116
FIRST = LEFT + 86  # where the digits begin
CIRCLE, DIAMOND = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z", "M0 -6.5L6.5 0L0 6.5L-6.5 0Z"
AXIS, END, FLOOR, CEILING = 680, 1000, 480, 140


def _text(
    x: float, y: float, words: str, size: int = 15, colour: str = INK, **attributes: object
) -> str:
    said = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" {said}>{words}</text>'


def _mark(x: float, y: float, *, is_right: bool) -> str:
    """A tick or a cross, so that colour is not alone in saying what is wrong."""
    path = "M0 5 l3.5 4 l6.5 -9" if is_right else "M1 0 l8 9 m0 -9 l-8 9"
    colour = GOOD if is_right else BAD
    return (
        f'<path d="{path}" transform="translate({x} {y})" fill="none" stroke="{colour}" '
        'stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round"/>'
    )


def _digit(pixels: np.ndarray, x: float, y: float) -> str:
    """A picture of gray pixels, each drawn as a square."""
    buffer, squares = io.BytesIO(), Image.Resampling.NEAREST
    Image.fromarray(pixels).resize((SIDE * 2, SIDE * 2), squares).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    place = f'x="{x}" y="{y}" width="{SIDE}" height="{SIDE}"'
    return (
        f'<clipPath id="c{x}-{y}"><rect {place} rx="6"/></clipPath>'
        f'<image {place} clip-path="url(#c{x}-{y})" href="data:image/png;base64,{encoded}"/>'
    )


def _draw_digits(run: Run) -> Iterator[str]:
    """Rows of digits, clean and in more and more fog, each with the answer and its confidence."""
    test = load_data(DATA, validation_fraction=VALIDATION_FRACTION).test
    first = [test.labels.tolist().index(digit) for digit in DIGITS]
    shown = test[np.array(first)]
    for row, (name, cell) in enumerate(read_fog(run.folder).items()):
        y = TOP + DOWN * row
        pixels = shown.images
        if name != "clean":
            pixels = make_shift(FOG, severity=LEVELS[row - 1]).apply(pixels, shown.keys, 0)
        title, below = TITLES[row]
        yield _text(LEFT, y + SIDE / 2 + 1, title, 15, font_weight=700)
        yield _text(LEFT, y + SIDE / 2 + 19, below, 13, GREY)
        place = {key: at for at, key in enumerate(cell.keys.tolist())}
        for column, key in enumerate(shown.keys.tolist()):
            x, at = FIRST + ACROSS * column, place[key]
            is_right = bool(cell.correct[at])
            colour = GOOD if is_right else BAD
            yield _digit(pixels[column, 0].numpy(), x, y)
            yield _mark(x + 3, y + SIDE + 7, is_right=is_right)
            sure = f"{100 * cell.confidence[at]:.0f} %"
            said = f'“{cell.predicted[at]}” <tspan font-weight="700">{sure}</tspan>'
            yield _text(x + 18, y + SIDE + 17, said, 13, colour)


def _draw_lines(run: Run) -> Iterator[str]:
    """Accuracy and confidence, with 95 % intervals, and the gap between them."""
    cells = [(CLEAN, NO_LEVEL), *((FOG, str(level)) for level in LEVELS)]
    across = np.linspace(AXIS + 30, END, len(cells)).round(1)

    def height(share: float) -> float:
        return round(FLOOR - (FLOOR - CEILING) * share, 1)

    def read(metric: str) -> list[Score]:
        return [read_score(run, shift, level, metric) for shift, level in cells]

    def points(scores: Sequence[Score]) -> list[str]:
        return [f"{x} {height(score.value)}" for x, score in zip(across, scores, strict=True)]

    for percent in (0, 25, 50, 75, 100):
        y = height(percent / 100)
        yield f'<path d="M{AXIS} {y} H{END + 20}" stroke="{GRID}"/>'
        yield _text(AXIS - 10, y + 4.5, f"{percent} %", 13, GREY, text_anchor="end")
    right, sure = read("accuracy"), read("average_confidence")
    yield f'<path d="M{" L".join([*points(sure), *points(right)[::-1]])} Z" fill="{GAP}"/>'
    for scores, colour, words in ((sure, SURE, "sure"), (right, RIGHT, "right")):
        stroke = f'stroke="{colour}" stroke-width'
        yield f'<path d="M{" L".join(points(scores))}" fill="none" {stroke}="3"/>'
        for x, (value, low, high, _) in zip(across, scores, strict=True):
            yield f'<path d="M{x} {height(low)} V{height(high)}" {stroke}="2"/>'
            shape = DIAMOND if words == "sure" else CIRCLE
            yield (
                f'<path d="{shape}" transform="translate({x} {height(value)})" fill="{colour}" '
                'stroke="#fff" stroke-width="1.5"/>'
            )
        said = f"{100 * scores[-1].value:.0f} % {words}"
        yield _text(END + 30, height(scores[-1].value) + 6, said, 19, colour, font_weight=700)
    middle = height((right[-2].value + sure[-2].value) / 2)
    yield _text(across[2] + 40, middle + 5, "overconfident", 15, SURE, text_anchor="middle")
    for x, name in zip(across, ("clean", "fog 1", "fog 3", "fog 5"), strict=True):
        yield _text(x, FLOOR + 26, name, 14, GREY, text_anchor="middle")
    words = "Mean over 1,000 test digits, with 95 % intervals"
    yield _text(AXIS - 46, CEILING - 22, words, 14, GREY)


def _headline(finding: Finding) -> str:
    fog, sure = (f"{100 * score.value:.0f} %" for score in (finding.fog, finding.confidence))
    coloured = str(finding)
    for words, colour in ((f"{fog} right", RIGHT), (f"{sure} sure", SURE)):
        coloured = coloured.replace(words, f'<tspan fill="{colour}">{words}</tspan>')
    return _text(LEFT, 54, coloured, 33, font_weight=700)


def draw(run: Run) -> str:
    """Draw the picture as SVG."""
    parts = [_headline(read_finding(run))]
    words = "A small network, trained on clean digits. Below each: its answer, and how sure it is."
    parts += [_text(LEFT, 84, words, 16, GREY), *_draw_digits(run), *_draw_lines(run)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="Liberation Sans, Arial, sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


# ---------------------------------------------------------------- what is written

# A command in demo.md, and what it prints.
PRINTED = re.compile(
    r"(```sh\n(fairweather [^\n]+)\n```\n\n```text\n)(.*?)(?=```$)", re.DOTALL | re.MULTILINE
)


def print_command(command: str, folder: Path) -> str:
    """What a command prints in a folder, on stdout."""
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip("\n") + "\n"


def main() -> None:
    """Write the picture, with its numbers in it as text, the numbers alone, and the output."""
    page = HERE / "demo.md"
    with tempfile.TemporaryDirectory() as folder:
        text = PRINTED.sub(
            lambda match: match[1] + print_command(match[2], Path(folder)),
            page.read_text(encoding="utf-8"),
        )
        run = Run(Path(folder) / DEFAULT_OUT)
        facts, picture = json.dumps(collect_facts(run), indent=1) + "\n", draw_png(draw(run))
    page.write_text(text, encoding="utf-8")
    (HERE / "demo.json").write_text(facts, encoding="utf-8")
    noted = PngImagePlugin.PngInfo()
    noted.add_text("demo.json", facts)
    with Image.open(io.BytesIO(picture)) as image:
        image.quantize(256).save(HERE / "hero.png", pnginfo=noted, optimize=True)


if __name__ == "__main__":
    main()

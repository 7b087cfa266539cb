"""The figure and the table of each page in results, from the numbers that are stored beside it.

    python results/pages.py    # writes finding.svg, and the table into README.md, of each page

A row is a model, or a published row of the paper. A column is a state of the test images and a
metric. The first three columns of a page are its figure: dots with 95 % intervals.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert as vlc

HERE = Path(__file__).parent
COLOURS = ("#1f2328", "#c2410c", "#0969a8")  # told apart without colours by their shapes
SHAPES = ("circle", "square", "triangle-up")
FONT = "Helvetica, Arial, sans-serif"
PADDING = {
    "left": 48,
    "right": 16,
    "top": 12,
    "bottom": 12,
}  # for fonts wider than the measured one
TITLE_LENGTH = 64  # characters of a line that fits in a browser's widest fonts


@dataclass(frozen=True)
class Column:
    """A state of the test images: a shift and a level of scores.csv, and a metric."""

    title: str
    shift: str = "clean"
    level: str = "mean"
    metric: str = "accuracy"

    @property
    def scale(self) -> float:
        """Accuracies are shown in per cent."""
        return 100 if self.metric == "accuracy" else 1

    def write(self, value: float) -> str:
        """Write a number as the tables of results do."""
        return f"{value:.1f}" if self.metric == "accuracy" else f"{value:.3f}"


@dataclass(frozen=True)
class Row:
    """A model, or one for each column; its numbers, or those that the paper published for it."""

    title: str
    models: str | tuple[str, ...]
    file: str = "summary.csv"
    published: bool = False


@dataclass(frozen=True)
class Page:
    """What a page shows; the figure has the rows from `first` on, six at most."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    axis: str = "Accuracy (%)"
    figure_rows: tuple[int, ...] | None = None
    words: str = ""  # what the abbreviations in the rows stand for
    beside: str = ""  # what the published rows are, and how the measured ones differ


CLEAN = Column("Clean", level="none")
PAPER = (CLEAN, Column("Brightness", "brightness_factor"), Column("Gaussian blur", "gaussian_blur"))
RMS = "rms_calibration_error"
SIX = "compare_paper.csv"
ROBUST = "compare_paper_robust.csv"


def errors(title: str, shift: str = "clean", level: str = "mean") -> Column:
    """Give the column of a calibration error."""
    return Column(title, shift, level, RMS)


def labels(title: str, suffix: str) -> tuple[str, ...]:
    """Give the four models of a kind of pre-training."""
    return tuple(f"{title}_{share}" for share in suffix.split())


SHARES = "1 10 100 noisy"
DARK = "brightness_factor"
SKETCH = "natural/sketch"

AUG = "Basic: no augmentation. Aug: flips and rotation."
PT = "PT: pre-trained on ImageNet."
PUBLISHED = "Published: “Evaluating the Robustness of Deep Learning Models”"

PAGES: dict[str, Page] = {
    "pathmnist": Page(
        (
            Row("Basic", "basic", SIX),
            Row("Basic, published", "basic", SIX, published=True),
            Row("MixUp + Aug", "mixup_aug", SIX),
            Row("MixUp + Aug, published", "mixup_aug", SIX, published=True),
            Row("AugMix, ImageNet weights", "augmix", ROBUST),
            Row("MixUp + Aug + PT, published", "mixup_aug_pt", SIX, published=True),
        ),
        (*PAPER, errors("Calibration error, clean", level="none")),
        words=f"{AUG} {PT}",
        beside=f"{PUBLISHED}, 60 and 80 epochs. Measured: 8 epochs.",
    ),
    "pacs": Page(
        (
            Row("Flips", "flips"),
            Row("AugMix and flips", "augmix"),
        ),
        (
            Column("Pictures of known kinds", level="none"),
            Column("Sketches", SKETCH, "none"),
            Column("Gaussian noise", "imagenet_c/gaussian_noise"),
            errors("Calibration error, known kinds", level="none"),
            errors("Calibration error, sketches", SKETCH, "none"),
        ),
    ),
    "oxford-pets": Page(
        (
            Row("ImageNet weights", "supervised", SIX),
            Row("ImageNet weights, published", "supervised", SIX, published=True),
            Row("No pre-training", "scratch", SIX),
            Row("No pre-training, published", "scratch", SIX, published=True),
            Row("Barlow Twins", "barlow_twins", SIX),
            Row("Barlow Twins, published", "barlow_twins", SIX, published=True),
        ),
        (*PAPER, errors("Calibration error, clean", level="none")),
    ),
    "fashion-mnist": Page(
        (
            Row("ResNet-18, Basic", "basic"),
            Row("ResNet-18, MixUp + Aug", "mixup_aug"),
            Row("Lite0, Basic", "lite0_basic"),
            Row("Lite0, MixUp + Aug", "lite0_mixup_aug"),
            Row("Lite0, MixUp + Aug + PT", "lite0_mixup_aug_pt"),
            Row("Lite0, MixUp + Aug + PT, one rate", "lite0_mixup_aug_pt_whole"),
        ),
        (*PAPER, errors("Calibration error, clean", level="none")),
        words=f"{AUG} {PT} One rate: of learning, for all layers.",
    ),
    "augmentations": Page(
        (
            Row("Basic (flips)", "basic"),
            Row("MixUp", "mixup"),
            Row("CutMix", "cutmix"),
            Row("AugMix", "augmix"),
            Row("Adversarial", "adversarial"),
        ),
        (
            CLEAN,
            Column("Contrast", "imagenet_c/contrast"),
            Column("PGD, ε = 2/255", "pgd"),
            Column("Gaussian noise", "imagenet_c/gaussian_noise"),
            Column("Motion blur", "imagenet_c/motion_blur"),
            Column("Fog", "imagenet_c/fog"),
        ),
    ),
    "design-choices": Page(
        (
            Row("ResNet-18, half width", "middle"),
            Row("The same, temperature scaled", "middle+temperature"),
            Row("ResNet-34", "deeper"),
            Row("Quarter width", "thinner"),
            Row("Eighth width", "thinnest"),
            Row("Group norm", "group_norm"),
            Row("Small stem, eighth width", "small_stem"),
            Row("Small stem, eighth width, max pooling", "max_pooling"),
        ),
        (
            errors("Clean", level="none"),
            errors("Gaussian noise", "imagenet_c/gaussian_noise"),
            errors("Contrast", "imagenet_c/contrast"),
            errors("Motion blur", "imagenet_c/motion_blur"),
            errors("Fog", "imagenet_c/fog"),
            Column("Accuracy, clean (%)", level="none"),
        ),
        axis="RMS calibration error",
        figure_rows=(0, 1, 2, 4, 5, 6),
    ),
    "ssl-vs-supervised": Page(
        (
            Row("No pre-training", labels("none", SHARES)),
            Row("Supervised, on CIFAR-10", labels("supervised", SHARES)),
            Row("Barlow Twins, on CIFAR-10", labels("barlow", SHARES)),
            Row("Barlow Twins, on Fashion-MNIST", labels("own", SHARES)),
        ),
        (
            Column("1 % of labels", level="none"),
            Column("10 %", level="none"),
            Column("all", level="none"),
            Column("all, a fifth wrong", level="none"),
        ),
    ),
}


def numbers(folder: Path, page: Page) -> pd.DataFrame:
    """Give value, low and high of each row and column; published numbers have no interval."""
    stored = {
        file: pd.read_csv(folder / file).set_index(["model", "shift", "level", "metric"])
        for file in {row.file for row in page.rows}
    }
    cells = []
    for row in page.rows:
        names = row.models if isinstance(row.models, tuple) else (row.models,) * len(page.columns)
        for column, model in zip(page.columns, names, strict=True):
            found = stored[row.file].loc[(model, column.shift, column.level, column.metric)]
            value = found.get("measured", found.get("value"))
            low, high = found["low"], found["high"]
            if row.published:
                value, low, high = found["published"], float("nan"), float("nan")
            value, low, high = (column.scale * number for number in (value, low, high))
            cells.append((row.title, row.published, column.title, value, low, high))
    return pd.DataFrame(cells, columns=["row", "published", "column", "value", "low", "high"])


def table(folder: Path, page: Page) -> str:
    """Write the table of a page in Markdown; in brackets 95 % intervals."""
    cells = numbers(folder, page).set_index(["row", "column"])
    titles = [column.title for column in page.columns]
    lines = ["| | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(titles)]
    for row in page.rows:
        told = []
        for column in page.columns:
            cell = cells.loc[(row.title, column.title)]
            ends = f" [{column.write(cell.low)}, {column.write(cell.high)}]"
            told.append(column.write(cell.value) + ("" if row.published else ends))
        lines.append(f"| {row.title} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def figure_title(folder: Path) -> str:
    """Read what the figure shows from the text that stands for it on the page."""
    return re.search(r"!\[(.+)\.\]", (folder / "README.md").read_text(encoding="utf-8"))[1]


def figure(folder: Path, page: Page) -> alt.LayerChart:
    """Draw the first three columns: a dot with its interval for each row, hollow if published."""
    shown = page.figure_rows or tuple(range(len(page.rows)))
    rows = [page.rows[place].title for place in shown]
    states = [column.title for column in page.columns[:3]]
    data = numbers(folder, page)
    data = data[data["row"].isin(rows) & data["column"].isin(states)]
    y = alt.Y(
        "row:N", sort=rows, title=None, axis=alt.Axis(labelLimit=300, domain=False, ticks=False)
    )
    offset = alt.YOffset("column:N", sort=states)
    colour = alt.Color(
        "column:N",
        sort=states,
        scale=alt.Scale(domain=states, range=COLOURS),
        legend=alt.Legend(title=None, orient="top", symbolOpacity=1),
    )
    shape = alt.Shape("column:N", sort=states, scale=alt.Scale(domain=states, range=SHAPES))
    base = alt.Chart(data)
    title = f"{page.axis}; lines are 95 % intervals"
    if data["published"].any():
        title += ", hollow marks are published"
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8))
    measured = "!datum.published"
    lines = base.transform_filter(measured).mark_rule(strokeWidth=2.5, opacity=0.55)
    dots = base.transform_filter(measured).mark_point(size=75, filled=True, opacity=1)
    hollow = base.transform_filter("datum.published").mark_point(
        size=65, filled=False, strokeWidth=1.8
    )
    layers = [
        lines.encode(x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=offset, color=colour),
        dots.encode(x=x, y=y, yOffset=offset, color=colour, shape=shape),
    ]
    if data["published"].any():
        layers.append(hollow.encode(x=x, y=y, yOffset=offset, color=colour, shape=shape))
    return (
        alt.layer(*layers)
        .properties(
            width=560,
            height=alt.Step(16),
            background="white",
            padding=PADDING,
            title=alt.Title(
                textwrap.wrap(figure_title(folder), TITLE_LENGTH),
                subtitle=textwrap.wrap(" ".join([page.words, page.beside]), TITLE_LENGTH) or "",
                anchor="start",
                frame="bounds",
                offset=10,
            ),
        )
        .configure(font=FONT)
        .configure_axis(
            labelFontSize=13, titleFontSize=12, titleFontWeight="normal", gridColor="#e4e7eb"
        )
        .configure_title(fontSize=14, subtitleFontSize=13, subtitlePadding=6)
        .configure_legend(labelFontSize=13, symbolSize=90, columnPadding=28)
        .configure_view(stroke=None)
    )


def main() -> None:
    """Write each figure, and each table between the lines that mark its place."""
    for name, page in PAGES.items():
        folder = HERE / name
        spec = figure(folder, page).to_dict()
        (folder / "finding.svg").write_text(vlc.vegalite_to_svg(spec), encoding="utf-8")
        path = folder / "README.md"
        before, _, after = re.split(r"(?m)^((?:\|.*\n)+)", path.read_text(encoding="utf-8"))
        path.write_text(f"{before}{table(folder, page)}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

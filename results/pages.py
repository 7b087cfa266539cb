"""The figure and the table of each page in results, from the numbers that are stored beside it.

    python results/pages.py    # writes finding.svg, and the table into README.md, of each page

A row is a model, or a published row of the paper. A column is a state of the test images and a
metric. The table has means over seeds. The first three columns of a page are its figure, which
shows each training: the units in the folder, those added later too.

PathMNIST has trainings of 8 epochs, and of the published 80 and 60. The tables and the figure that
show both are written too.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
import vl_convert as vlc

import fairweather as fw

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
    def key(self) -> tuple[str, str, str]:
        """Where its number is in a table."""
        return self.shift, self.level, self.metric

    @property
    def name(self) -> str:
        """Write its metric, and the unit."""
        return "Accuracy (%)" if self.metric == "accuracy" else "RMS calibration error"

    @property
    def scale(self) -> float:
        """Accuracies are shown in per cent."""
        return 100 if self.metric == "accuracy" else 1

    def write(self, value: float) -> str:
        """Write a number as the tables of results do."""
        return f"{value:.1f}" if self.metric == "accuracy" else f"{value:.3f}"


@dataclass(frozen=True)
class Row:
    """A model: its numbers, or those that the paper published for it."""

    title: str
    model: str
    file: str = "summary.csv"
    published: bool = False
    length: str = ""  # what stands between the model and the seed of its units

    def find_units(self, folder: Path) -> list[Path]:
        """Find the packed runs of the model, one a seed."""
        return sorted((folder / "units").glob(f"{self.model}{self.length}-s?"))


@dataclass(frozen=True)
class Page:
    """What a page shows, in six rows at most."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    words: str = ""  # what the abbreviations in the rows stand for
    beside: str = ""  # what the published rows are, and how the measured ones differ


CLEAN = Column("Clean", level="none")
PAPER = (CLEAN, Column("Brightness", "brightness_factor"), Column("Gaussian blur", "gaussian_blur"))
KEY = ["shift", "level", "metric"]
RMS = "rms_calibration_error"
SIX = "compare_paper.csv"
LONGER = "compare_paper_longer.csv"
ROBUST = "compare_paper_robust.csv"


def errors(title: str, shift: str = "clean", level: str = "mean") -> Column:
    """Give the column of a calibration error."""
    return Column(title, shift, level, RMS)


SKETCH = "natural/sketch"

AUG = "Basic: no augmentation. Aug: flips and rotation."
PT = "PT: pre-trained on ImageNet."
PUBLISHED = "Published: “Evaluating the Robustness of Deep Learning Models”"

PAGES: dict[str, Page] = {
    "pathmnist": Page(
        (
            Row("Basic, 80 epochs", "basic", LONGER, length="-80"),
            Row("Basic, published", "basic", SIX, published=True),
            Row("MixUp + Aug, 60 epochs", "mixup_aug", LONGER, length="-80"),
            Row("MixUp + Aug, published", "mixup_aug", SIX, published=True),
            Row("AugMix, ImageNet weights, 8 epochs", "augmix", ROBUST),
            Row("MixUp + Aug + PT, published", "mixup_aug_pt", SIX, published=True),
        ),
        (*PAPER, errors("Calibration error, clean", level="none")),
        words=f"{AUG} {PT}",
        beside=f"{PUBLISHED}, 80 and 60 epochs.",
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
}


def read_row(folder: Path, row: Row) -> pd.DataFrame:
    """Read the means of a row over its seeds; published numbers have no interval."""
    rows = pd.read_csv(folder / row.file, dtype={"level": str})
    rows = rows[rows["model"] == row.model].set_index(KEY)
    if row.published:
        return rows.assign(value=rows["published"], low=float("nan"), high=float("nan"))
    return rows.rename(columns={"measured": "value"})


def read_unit(unit: Path) -> pd.DataFrame:
    """Read the scores of a packed run of one model and seed."""
    return pd.read_csv(unit / "scores.csv", dtype={"level": str}).set_index(KEY)


def gather(tables: Iterable[tuple[Row, pd.DataFrame]], columns: Sequence[Column]) -> pd.DataFrame:
    """Give value, low and high of each table of a row, in each column."""
    cells = []
    for (row, stored), column in itertools.product(tables, columns):
        ends = (column.scale * stored.loc[column.key, name] for name in ("value", "low", "high"))
        cells.append((row.title, row.published, column.title, *ends))
    return pd.DataFrame(cells, columns=["row", "published", "column", "value", "low", "high"])


def numbers(folder: Path, page: Page) -> pd.DataFrame:
    """Give what the table of a page shows: each row is a mean over seeds."""
    return gather([(row, read_row(folder, row)) for row in page.rows], page.columns)


def trainings(folder: Path, rows: Sequence[Row], columns: Sequence[Column]) -> pd.DataFrame:
    """Give what a figure shows: each training of each row alone, and the published values."""
    tables = []
    for row in rows:
        units = map(read_unit, row.find_units(folder))
        tables += [(row, one) for one in ([read_row(folder, row)] if row.published else units)]
    return gather(tables, columns)


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


def draw_dots(data: pd.DataFrame, axis: str) -> alt.LayerChart:
    """Draw a dot with its interval for each row and column, hollow if published."""
    rows, states = (data[name].drop_duplicates().tolist() for name in ("row", "column"))
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
    title = f"{axis}; a mark is a training, its line a 95 % interval over images"
    if data["published"].any():
        title += "; hollow: published"
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
    return alt.layer(*layers).properties(width=560, height=alt.Step(16))


def write_figure(
    path: Path, chart: alt.LayerChart | alt.VConcatChart, title: str, words: str
) -> None:
    """Write a figure with its title, and the words that explain it below the title."""
    told = alt.Title(
        textwrap.wrap(title, TITLE_LENGTH),
        subtitle=textwrap.wrap(words, TITLE_LENGTH) or "",
        anchor="start",
        frame="bounds",
        offset=10,
    )
    drawn = (
        chart.properties(background="white", padding=PADDING, title=told)
        .configure(font=FONT)
        .configure_axis(
            labelFontSize=13, titleFontSize=12, titleFontWeight="normal", gridColor="#e4e7eb"
        )
        .configure_title(fontSize=14, subtitleFontSize=13, subtitlePadding=6)
        .configure_legend(labelFontSize=13, symbolSize=90, columnPadding=28)
        .configure_view(stroke=None)
    )
    path.write_text(vlc.vegalite_to_svg(drawn.to_dict()), encoding="utf-8")


def write_page(name: str, page: Page) -> None:
    """Write the figure, and the table between the lines that mark its place."""
    folder = HERE / name
    shown = trainings(folder, page.rows, page.columns[:3])
    words = " ".join([page.words, page.beside])
    write_figure(
        folder / "finding.svg", draw_dots(shown, "Accuracy (%)"), figure_title(folder), words
    )
    path = folder / "README.md"
    before, _, after = re.split(r"(?m)^((?:\|.*\n)+)", path.read_text(encoding="utf-8"))
    path.write_text(f"{before}{table(folder, page)}\n{after}", encoding="utf-8")


# ---------------------------------------------------------------- PathMNIST, trained longer

PATHMNIST = HERE / "pathmnist"
RECIPES = {"basic": ("Basic", 80), "mixup_aug": ("MixUp + Aug", 60)}  # epochs of published.yaml
COUNTS = {1: "one seed", 2: "two seeds", 3: "three seeds"}
MEANS = tuple(
    Column(name, column.shift, column.level, metric)
    for metric in ("accuracy", RMS)
    for name, column in zip(("clean", "brightness", "blur"), PAPER, strict=True)
)
HEADS = [
    f"{'Accuracy' if column.metric == 'accuracy' else 'Calibration error'}, {column.title}"
    for column in MEANS
]
LEVELS = {
    "brightness_factor": ("f", (0.8, 0.9, 1.1, 1.2)),
    "gaussian_blur": ("σ", (0.3, 0.5, 0.7, 0.9)),
}


def find_units(model: str, *, longer: bool) -> list[Path]:
    """Find the packed runs of a recipe, one a seed."""
    return Row("", model, length="-80" if longer else "").find_units(PATHMNIST)


def compare_longer() -> pd.DataFrame:
    """Compare the trainings of published length with the paper; seeds of a recipe are joined."""
    tables = []
    for model in RECIPES:
        units = find_units(model, longer=True)
        with tempfile.TemporaryDirectory() as place:
            run = units[0]
            if len(units) > 1:
                run = fw.join_seeds(units, out=Path(place, "joined"), progress=False).path
            compared = fw.compare_with_published(run)
        tables.append(compared[compared["model"] == model])
    return pd.concat(tables)


def read_compared(model: str, *, longer: bool) -> pd.DataFrame:
    """Read the rows of a recipe beside the paper."""
    return read_row(PATHMNIST, Row("", model, LONGER if longer else SIX))


def tell_seeds() -> str:
    """Say how many trainings there are."""
    told = []
    for model, (title, epochs) in RECIPES.items():
        counts = [COUNTS[len(find_units(model, longer=longer))] for longer in (False, True)]
        told.append(f"{title}: 8 epochs, {counts[0]}; {epochs} epochs, {counts[1]}.")
    return " ".join(told)


def told_cell(row: pd.Series, column: Column) -> str:
    """Write a measured number with its interval."""
    value, low, high = (column.write(column.scale * row[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def told_change(row: pd.Series, column: Column) -> str:
    """Write a change with its interval, both with their signs."""
    value, low, high = (
        ("+" if number > 0 else "") + column.write(number).replace("-", "−")
        for number in row[["value", "low", "high"]]
    )
    return f"{value} [{low}, {high}]"


def tell_miss(rows: Sequence[pd.Series], column: Column) -> str:
    """Say that a published value lies outside, with digits that show it beside an equal end."""
    for row in rows:
        published, low, high = (column.scale * row[name] for name in ("published", "low", "high"))
        for sign, end in (("<", low), (">", high)):
            if column.write(published) == column.write(end):
                return f"no ({published:.4g} {sign} {end:.4g})"
    return "no"


def tabulate_means() -> str:
    """Write Tables 1 and 2 of the paper beside 8 epochs, and beside the published number."""
    lines = [
        "| | | 8 epochs | 80 and 60 epochs | Published | Inside the interval |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for column in MEANS:
        head = f"{column.name}, {column.title} "
        for model, (title, epochs) in RECIPES.items():
            rows = [read_compared(model, longer=longer).loc[column.key] for longer in (False, True)]
            inside = [
                str(number) for number, row in zip((8, epochs), rows, strict=True) if row["inside"]
            ]
            cells = [told_cell(row, column) for row in rows]
            cells += [column.write(column.scale * rows[0]["published"])]
            cells += [f"{' and '.join(inside)} epochs" if inside else tell_miss(rows, column)]
            lines.append(f"| {head}| {title} | {' | '.join(cells)} |")
            head = ""
    return "\n".join(lines)


def tabulate_levels(shift: str) -> str:
    """Write the accuracies of Table 3 or 4 of the paper beside both lengths of training."""
    sign, levels = LEVELS[shift]
    columns = [Column("", shift, str(level)) for level in levels]
    lines = [
        "| | | " + " | ".join(f"{sign} = {level}" for level in levels) + " |",
        "| --- | --- |" + " ---: |" * len(levels),
    ]
    for model, (title, epochs) in RECIPES.items():
        for longer in (False, True):
            compared = read_compared(model, longer=longer)
            rows = [compared.loc[column.key] for column in columns]
            cells = [told_cell(row, column) for row, column in zip(rows, columns, strict=True)]
            head = f"| | {epochs} epochs" if longer else f"| {title} | 8 epochs"
            lines.append(f"{head} | {' | '.join(cells)} |")
        cells = [f"{100 * row['published']:.1f}" for row in rows]
        lines.append(f"| | published | {' | '.join(cells)} |")
    return "\n".join(lines)


def tell_distance() -> str:
    """Say how near the published values are: how many are inside, and the largest difference."""
    told = []
    for longer, length in ((False, "8"), (True, "80 and 60")):
        rows = pd.concat([read_compared(model, longer=longer) for model in RECIPES])
        is_mean = rows.index.get_level_values("level").isin(["none", "mean"])
        is_accuracy = rows.index.get_level_values("metric") == "accuracy"
        means, levels = rows[is_mean], rows[~is_mean & is_accuracy]
        largest = 100 * rows.loc[is_mean & is_accuracy, "difference"].abs().max()
        told.append(
            f"- After {length} epochs, the published value is inside the interval of "
            f"{means['inside'].sum()} of {len(means)} means and {levels['inside'].sum()} of "
            f"{len(levels)} levels. The mean accuracies differ from it by at most "
            f"{largest:.1f} points."
        )
    return "\n".join(told)


def expect_training(values: Sequence[float]) -> tuple[float, float]:
    """Give where 95 % of further trainings lie, by those of other seeds: Student's interval."""
    n = len(values)
    reach = scipy.special.stdtrit(n - 1, 0.975) * np.std(values, ddof=1) * (1 + 1 / n) ** 0.5
    return np.mean(values) - reach, np.mean(values) + reach


def tell_expected() -> str:
    """Say which published values a further training would be expected to give."""
    columns = dict(zip(HEADS, MEANS, strict=True))
    for shift, (sign, levels) in LEVELS.items():
        columns |= {f"{sign} = {level}": Column("", shift, str(level)) for level in levels}
    told = []
    for (model, (title, epochs)), longer in itertools.product(RECIPES.items(), (False, True)):
        head = f"- {title}, {epochs if longer else 8} epochs"
        units = [read_unit(unit)["value"] for unit in find_units(model, longer=longer)]
        if len(units) == 1:
            told.append(f"{head}: one seed, so no interval.")
            continue
        published = read_compared(model, longer=longer)["published"]
        outside = []
        for name, column in columns.items():
            low, high = expect_training([unit[column.key] for unit in units])
            outside += [] if low <= published[column.key] <= high else [name]
        missed = f", not {' and '.join(outside)}" if outside else ""
        told.append(f"{head}: {len(columns) - len(outside)} of {len(columns)}{missed}.")
    return "\n".join(told)


def measure_changes() -> pd.DataFrame:
    """Give what the longer training adds to each mean: a row for each seed that has both."""
    changes = {}
    for model, (title, epochs) in RECIPES.items():
        for unit in find_units(model, longer=True):
            long, short = map(read_unit, (unit, unit.with_name(unit.name.replace("-80-", "-"))))
            seed = unit.name.rpartition("-s")[2]
            changes[f"{title}, {epochs} minus 8 epochs, seed {seed}"] = {
                head: column.scale * (long["value"] - short["value"])[column.key]
                for head, column in zip(HEADS, MEANS, strict=True)
            }
    return pd.DataFrame(changes).T


def tabulate_changes() -> str:
    """Write what the longer training adds."""
    lines = ["| | " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * len(MEANS)]
    for title, row in measure_changes().iterrows():
        cells = [
            ("+" if change > 0 else "") + column.write(change).replace("-", "−")
            for change, column in zip(row, MEANS, strict=True)
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare_batch_weights() -> pd.DataFrame:
    """Give what one MixUp weight a batch changes beside one an image, after 8 epochs.

    Three seeds each, and Student's 95 % intervals.
    """
    stored = pd.read_csv(PATHMNIST / "mixup_per_batch.csv", dtype={"level": str}).set_index(KEY)
    units = [read_unit(unit)["value"] for unit in find_units("mixup_aug", longer=False)]
    columns = dict(zip(HEADS, MEANS, strict=True))
    columns["Accuracy, σ = 0.5"] = Column("", "gaussian_blur", "0.5")
    changes = {}
    for head, column in columns.items():
        own = column.scale * stored.sort_index().loc[column.key, "value"]
        other = [column.scale * unit[column.key] for unit in units]
        ends = scipy.stats.ttest_ind(own, other).confidence_interval()
        changes[head] = own.mean() - np.mean(other), *ends, column
    return pd.DataFrame(changes, index=["value", "low", "high", "column"]).T


def tabulate_batch_weights() -> str:
    """Write what one MixUp weight a batch changes."""
    lines = ["| | One weight a batch minus one an image |", "| --- | ---: |"]
    for head, row in compare_batch_weights().iterrows():
        lines.append(f"| {head} | {told_change(row, row['column'])} |")
    return "\n".join(lines)


def of_both_lengths() -> list[Row]:
    """Give each recipe with 8 epochs, with the published number, and as published."""
    rows = []
    for model, (title, epochs) in RECIPES.items():
        rows += [
            Row(f"{title}, 8 epochs", model, SIX),
            Row(f"{title}, {epochs} epochs", model, LONGER, length="-80"),
            Row(f"{title}, published", model, SIX, published=True),
        ]
    return rows


# ---------------------------------------------------------------- Oxford-IIIT Pet, three starts

PETS = HERE / "oxford-pets"
GROUPS = {
    "": "All, balanced over the 37 breeds",
    "breeds=complete": "The seven complete breeds",
    "breeds*squeezed=incomplete*yes": "The thirty others, squeezed images",
    "breeds*squeezed=incomplete*no": "The thirty others, images as they were",
}
BASE = "scratch"  # what other starts are compared with


def compare_pets() -> None:
    """Join the trainings of all starts, and store what the page says of them together.

    These are the comparisons with the paper, the accuracies of groups of images, and the
    differences between starts, over seeds and images.
    """
    with tempfile.TemporaryDirectory() as place:
        units = sorted((PETS / "units").glob("*-s?"))
        run = fw.join_seeds(units, out=Path(place, "joined"), progress=False)
        starts = {"no_pretraining": BASE, "self_supervised": "barlow_twins"}
        compared = fw.compare_with_published(run, rows=starts)
        differences = [
            fw.compare_runs(f"{run.path}:{BASE}", f"{run.path}:{row.model}")
            for row in measured_pets()
            if row.model != BASE
        ]
        tables = [pd.read_csv(run.path / name) for name in ("scores.csv", "slices.csv")]
    groups = pd.concat(tables).fillna({"slice": ""})
    whole = groups["slice"] == ""
    shown = groups["metric"] == np.where(whole, "balanced_accuracy", "accuracy")
    shown &= groups["slice"].isin(GROUPS) & (groups["seed"] == "mean")
    shown &= groups.set_index(["shift", "level"]).index.isin([column.key[:2] for column in PAPER])
    for name, stored in (
        (SIX, compared),
        ("slices.csv", groups[shown].drop(columns="seed")),
        ("differences.csv", pd.concat(differences)),
    ):
        stored.to_csv(PETS / name, index=False, float_format="%.8g")


def measured_pets() -> list[Row]:
    """Give the three starts that were trained here."""
    return [row for row in PAGES["oxford-pets"].rows if not row.published]


def tabulate_pets() -> str:
    """Write Tables 5 and 6 of the paper beside the measured means."""
    lines = ["| | | Measured | Published |", "| --- | --- | ---: | ---: |"]
    rows = measured_pets()
    tables = [read_row(PETS, row) for row in rows]
    for column in MEANS:
        head = f"{column.name}, {column.title} "
        for row, stored in zip(rows, tables, strict=True):
            cell = stored.loc[column.key]
            published = column.write(column.scale * cell["published"])
            lines.append(f"| {head}| {row.title} | {told_cell(cell, column)} | {published} |")
            head = ""
    return "\n".join(lines)


def tabulate_groups() -> str:
    """Write the accuracies of groups of the images."""
    first, *others = measured_pets()
    shown = [(first, column) for column in PAPER] + [(row, CLEAN) for row in others]
    heads = [f"{row.title}, {column.title.lower()}" for row, column in shown]
    lines = ["| | Images | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (1 + len(heads))]
    stored = pd.read_csv(PETS / "slices.csv", keep_default_na=False, dtype={"level": str})
    stored = stored.set_index(["slice", "model", "shift", "level"])
    for name, title in GROUPS.items():
        rows = [stored.loc[(name, row.model, *column.key[:2])] for row, column in shown]
        cells = [told_cell(cell, column) for cell, (_, column) in zip(rows, shown, strict=True)]
        lines.append(f"| {title} | {rows[0]['n']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tabulate_differences() -> str:
    """Write what the other starts add to random weights, on the same images."""
    stored = pd.read_csv(PETS / "differences.csv", dtype={"level": str})
    stored = stored.rename(columns={"difference": "value"}).set_index(["model_b", *KEY])
    stored = stored[["value", "low", "high"]]
    rows = [row for row in measured_pets() if row.model != BASE]
    titles = " | ".join(f"{row.title} minus no pre-training" for row in rows)
    lines = [f"| | {titles} |", "| --- |" + " ---: |" * len(rows)]
    for head, column in zip(HEADS, MEANS, strict=True):
        changes = (column.scale * stored.loc[(row.model, *column.key)] for row in rows)
        lines.append(f"| {head} | {' | '.join(told_change(each, column) for each in changes)} |")
    return "\n".join(lines)


def write_pets() -> None:
    """Write what is stored of the pets, and the tables of their details."""
    compare_pets()
    tables = {
        "means": tabulate_pets(),
        "groups": tabulate_groups(),
        "differences": tabulate_differences(),
    }
    write_blocks(PETS / "details.md", tables)


def longer_blocks() -> dict[str, str]:
    """Give what stands between the lines of details.md that mark places."""
    return {
        "seeds": tell_seeds(),
        "means": tabulate_means(),
        "brightness": tabulate_levels("brightness_factor"),
        "blur": tabulate_levels("gaussian_blur"),
        "distance": tell_distance(),
        "expected": tell_expected(),
        "changes": tabulate_changes(),
        "weights": tabulate_batch_weights(),
    }


def write_blocks(path: Path, blocks: Mapping[str, str]) -> None:
    """Write each text of a page between the lines that mark its place."""
    text = path.read_text(encoding="utf-8")
    for name, written in blocks.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(first)
        _, after = rest.split(last)
        text = f"{before}{first}{written}\n{last}{after}"
    path.write_text(text, encoding="utf-8")


def write_longer() -> None:
    """Write the comparison, the figure, and the tables between the lines that mark their places."""
    compare_longer().to_csv(PATHMNIST / LONGER, index=False, float_format="%.8g")
    rows, half = of_both_lengths(), len(MEANS) // 2
    panels = (
        draw_dots(trainings(PATHMNIST, rows, MEANS[:half]), "Accuracy (%)"),
        draw_dots(trainings(PATHMNIST, rows, MEANS[half:]), "RMS calibration error"),
    )
    write_figure(
        PATHMNIST / "figures/longer.svg",
        alt.vconcat(*panels),
        "Each training of published length is more accurate than with 8 epochs and the same "
        "seed; calibration is not shown to improve",
        tell_seeds(),
    )
    write_blocks(PATHMNIST / "details.md", longer_blocks())


def main() -> None:
    """Write each page, and the comparison of lengths of training."""
    write_pets()
    for name, page in PAGES.items():
        write_page(name, page)
    write_longer()


if __name__ == "__main__":
    main()

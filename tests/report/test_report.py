"""The report of a synthetic run: its numbers, its files, and names that want to break out."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import html.parser
import io
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fairweather.errors import InputError
from fairweather.metrics import METRICS, per_image
from fairweather.metrics.table import metrics_of
from fairweather.report.building import build_report, make_tables
from fairweather.report.charts import (
    COLORS,
    PAPER,
    Figure,
    color_models,
    order_drawing,
    paint_models,
    render_figure,
    shape_models,
)
from fairweather.report.contents import Contents, Sweep, read_contents
from fairweather.report.facts import flatten_facts
from fairweather.report.joint_runs import read_runs
from fairweather.report.levels import LIMITS, find_smallest_levels, tabulate_limits
from fairweather.report.overview import order_models, read_states
from fairweather.report.pictures import draw_mixup, draw_shifts
from fairweather.report.reliability import (
    NOT_MEASURED,
    _make_layers,
    draw_reliability,
    find_worst_conditions,
    keep_most_accurate,
    tabulate_panels,
)
from fairweather.report.samples import read_samples
from fairweather.report.summary import find_summary_rows
from fairweather.report.tables import escape_latex, find_entry, write_csv
from fairweather.report.training import TRACES, draw_training, read_trace
from fairweather.report.vega import draw_png
from fairweather.requests.study.schema import Study, check_study
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import add_means, estimate_cells, scores_frame
from fairweather.steps.samples import choose_pictures, write_samples
from fairweather.steps.sweeps import describe_shifts
from fairweather.types.measurement import Cell, Dataset, Images, Predictions, Shift
from fairweather.types.record import (
    ALL,
    COLUMNS,
    DESCRIPTION,
    HISTORY,
    MEAN,
    ModelRecord,
    RunRecord,
    RunSettings,
    model_folder,
    sweep_table,
)
from tests.conftest import pngs_left_out
from tests.helpers.run_folders import (
    MACHINE,
    change_record,
    copy_run,
    finish,
    run_record,
    write_run,
    write_scores,
)

ROOT = Path(__file__).parents[2]
OTHER_MACHINE = MACHINE.model_copy(update={"instructions": "AVX512"})
HOSTILE = "<script>alert(1)</script> & 50% of a_b | \\input{x}"
HOSTILE_CLASS = "<b>0</b>|\"'"
MODELS = {"basic": "Basic", "mixup_aug": HOSTILE, "pretrained": "MixUp + Aug, PT"}
CHANGES = {
    "basic": {"sweep": {"learning_rate": [0.001, 0.01]}},
    "mixup_aug": {"recipe": {"mixup": 0.3, "rotation": {"degrees": 20, "probability": 0.4}}},
}
SHIFTS = [
    {"brightness_factor": [0.7, 0.9, 1.2]},
    {"gaussian_blur": {"sigma": [0.3, 0.9], "kernel_size": 5}},
]
SHIFT_NAMES = ("brightness_factor", "gaussian_blur")


def make_run(
    path: Path,
    *,
    models: dict[str, str] = MODELS,
    seeds: Sequence[int] = (0,),
    shifts: list[dict] = SHIFTS,
    n: int = 200,
    classes: int = 10,
    size: tuple[int, int] | None = (28, 28),
    logits: bool = True,
) -> RunFolder:
    names = (HOSTILE_CLASS, *map(str, range(1, classes)))
    described = {
        name: {"title": title, "backbone": "timm:resnet18", **CHANGES.get(name, {})}
        for name, title in models.items()
    }
    entries = {
        "name": "synthetic",
        "title": "A synthetic study",
        "description": "What does the report make of numbers that were made up?",
        "data": {"source": "mnist5k"},
        "seeds": list(seeds),
        "shifts": shifts,
        "bootstrap": 100,
        "models": described,
    }
    study = check_study(entries)
    run = write_run(path, make_record(study, names, n))
    make_scores(run, study, names, n, logits)
    for offset, (name, entry) in enumerate(study.models.items()):
        for seed in seeds:
            folder = model_folder(name, seed)
            run.write(f"{folder}/{HISTORY}", make_history(offset, seed))
            # As if the last try of a sweep had won.
            recipe = entry.tries()[-1].recipe
            run.write(f"{folder}/{DESCRIPTION}", json.dumps({"recipe": asdict(recipe)}))
            finish(run, folder, [f"{folder}/{HISTORY}", f"{folder}/{DESCRIPTION}"])
    tried = "learning_rate,val_accuracy\n0.001,0.81\n0.01,<i>NaN</i>\n"
    run.write(sweep_table("basic"), tried)
    if size:
        dataset = make_dataset(names, n, *size)
        clean_first = [shift for shift in study.all_shifts() if isinstance(shift, Shift)]
        firsts = {name: (name, seeds[0]) for name in models}
        choice = choose_pictures(run, dataset.test, clean_first, firsts)
        files = write_samples(run, dataset, clean_first, shift_seed=0, choice=choice, mixup=True)
        finish(run, "samples", files, kind="sample")
    return run


def make_record(study: Study, classes: Sequence[str], n: int) -> RunRecord:
    """What the record says of such a study."""
    models = {
        name: ModelRecord(
            title=entry.title, settings=entry.model_dump(mode="json", exclude={"title"})
        )
        for name, entry in study.models.items()
    }
    return run_record(
        models,
        describe_shifts(study.all_shifts()),
        classes=classes,
        notes={"images": {"test": n}, "skipped_names": ["<broken>.jpg", "no-utf8-\udcff.jpg"]},
        name=study.name,
        title=study.title,
        description=study.description,
        seeds=tuple(study.seeds),
        settings=RunSettings(shift_seed=study.shift_seed, bootstrap=study.bootstrap),
    )


def make_predictions(
    rng: np.random.Generator, labels: np.ndarray, names: Sequence[str], skill: float, logits: bool
) -> Predictions:
    drawn = rng.normal(size=(len(labels), len(names)))
    drawn[np.arange(len(labels)), labels] += skill
    values = (drawn * 1.8).astype(np.float32)
    columns = per_image(values, labels)._asdict()
    return Predictions(
        keys=np.arange(len(labels)),
        labels=labels,
        **columns,
        logits=values if logits else None,
        classes=tuple(names),
    )


def draw_labels(rng: np.random.Generator, names: Sequence[str], n: int) -> np.ndarray:
    return rng.integers(len(names), size=n)


def make_scores(run: RunFolder, study: Study, names: Sequence[str], n: int, logits: bool) -> None:
    """Predict worse the further from the clean images, and score with the product's own code."""
    rng = np.random.default_rng(0)
    labels = draw_labels(rng, names, n)
    sweeps = {sweep.name: sweep for sweep in run.record.sweeps}
    cells = []

    def file(cell: Cell) -> str:
        return run.predictions(cell.model, cell.seed, cell.shift.id)

    for offset, model in enumerate(study.models):
        for seed in study.seeds:
            for shift in study.all_shifts():
                harm = 0.0
                if shift.level is not None:
                    sweep = sweeps[shift.name]
                    span = max(abs(cell.level - sweep.neutral) for cell in sweep.cells)
                    harm = abs(shift.level - sweep.neutral) / span
                cells.append(Cell(model, seed, shift))
                skill = 3.4 + 0.3 * offset - (2.6 - 0.4 * offset) * harm**1.3
                predictions = make_predictions(rng, labels, names, skill, logits)
                run.write_predictions(file(cells[-1]), predictions)
                finish(run, cells[-1].id, [file(cells[-1])], kind="predict")
    estimates = estimate_cells(
        cells, lambda cell: run.read_predictions(file(cell)), study.bootstrap
    )
    write_scores(run, scores_frame(add_means(estimates)))


def make_history(offset: int, seed: int) -> str:
    rng = np.random.default_rng([offset, seed])
    epochs = np.arange(1, 13)
    reached = 1 - 0.8 * np.exp(-epochs / (4 - offset % 3))
    columns = {
        "epoch": epochs,
        "train_loss": 2 * (1 - reached),
        "train_accuracy": 0.98 * reached,
        "val_loss": 2.2 * (1 - reached),
        "val_accuracy": 0.9 * reached + rng.normal(0, 0.02, len(epochs)),
        "learning_rate": 1e-3,
        "backbone_learning_rate": 1e-3,
        "images_per_second": 1000.0,
    }
    return pd.DataFrame(columns).to_csv(index=False)


def make_dataset(classes: Sequence[str], n: int, width: int, height: int) -> Dataset:
    """The test images that `make_scores` predicts, a pattern a class, and two training images."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = np.stack(
        [np.sin(9 * (x * (k + 1) / 3 + y)) * np.cos(4 * (y - x * k / 4)) for k in range(10)]
    )
    gray = torch.from_numpy((128 + 100 * waves).astype(np.uint8))
    pictures = gray[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(draw_labels(np.random.default_rng(0), classes, n))
    test = Images(pictures[labels], labels, torch.arange(n), tuple(classes))
    train = Images(pictures[:2], torch.arange(2), torch.arange(2), tuple(classes))
    return Dataset("digits", train, train, test, (0.5,) * 3, (0.3,) * 3)


class Page(html.parser.HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("report") / "one")


@pytest.fixture(scope="module")
def names(run) -> list[str]:
    return build_report(run)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> RunFolder:
    """Two seeds, three classes, no pictures, no logits, and one model that was not trained."""
    path = tmp_path_factory.mktemp("report") / "bare"
    made = make_run(path, seeds=(0, 1), classes=3, n=60, size=None, logits=False)
    shutil.rmtree(path / "models" / "pretrained")
    with pngs_left_out():
        build_report(made)
    return made


@pytest.fixture(scope="module")
def changed(run, tmp_path_factory) -> RunFolder:
    """The first run with a long class name, another recipe, a sweep that the study has not, levels
    that stand for something, and a step that another machine did.
    """
    copy = copy_run(run, tmp_path_factory.mktemp("report") / "changed")
    index = json.loads((copy.path / "samples/index.json").read_text())
    index["labels"][0] = "american_bulldog"
    copy.write("samples/index.json", json.dumps(index))
    path = "models/basic/seed-0/model.json"
    recipe = json.loads((copy.path / path).read_text())["recipe"]
    recipe |= {"optimizer": "sgd", "schedule": "exponential"}
    copy.write(path, json.dumps({"recipe": recipe}))
    copy.write("models/pretrained/sweep.csv", "mixup,val_accuracy\nstale,0.5\n")

    def state(facts: dict) -> None:
        for rank, cell in enumerate(facts["sweeps"][1]["cells"]):
            cell["constants"] = f"for images of 28 pixels: amount {rank}"

    copy = change_record(copy, state)
    finish(copy, "models/basic/seed-0", [], machine=OTHER_MACHINE)
    with pngs_left_out():
        build_report(copy)
    return copy


@pytest.fixture(scope="module")
def page(run, names) -> Page:
    return Page((run.path / "report.html").read_text())


def read_scores(run: RunFolder, name: str = "scores.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((run.path / name).read_text().splitlines()))


def expected(run: RunFolder, seed: str = "0", **place: str) -> str:
    """What a table has to show for one row of scores.csv, worked out from its text."""
    wanted = {"seed": seed, **place}
    [row] = [row for row in read_scores(run) if wanted.items() <= row.items()]
    if not row["low"]:
        assert row["high"] == ""
        return f"{float(row['value']):.3f} [too few errors]"
    numbers = [float(row[column]) for column in ("value", "low", "high")]
    if place["metric"].endswith("accuracy"):
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * number for number in numbers))
    return "{:.3f} [{:.3f}, {:.3f}]".format(*numbers)


def every_table(contents: Contents) -> list[Any]:
    return [table for of in make_tables(contents).values() for table in of]


def markdown_cells(run: RunFolder, name: str) -> list[list[str]]:
    lines = (run.path / "tables" / f"{name}.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]


def test_every_file_that_is_named_is_there_and_no_other(run, names):
    tables = {path.stem for path in (run.path / "tables").iterdir()}
    per_shift = {
        f"{metric}_{shift}"
        for metric in ("accuracy", "rms_calibration_error")
        for shift in SHIFT_NAMES
    }
    summaries = {"summary_accuracy", "summary_rms_calibration_error"}
    others = {"clean_metrics", "ranking", "overview", "smallest_levels"}
    others |= {"calibration", "calibration_curves"}
    assert tables == per_shift | summaries | others
    figures = {path.stem for path in (run.path / "figures").iterdir()}
    assert figures == {
        "training_loss",
        "accuracy",
        "rms_calibration_error",
        "reliability",
        "calibration",
        "training_curves",
        "shifts",
        "mixup",
    }
    built = {f"tables/{table}.{suffix}" for table in tables for suffix in ("md", "csv", "tex")}
    built |= {f"figures/{figure}.{suffix}" for figure in figures for suffix in ("svg", "png")}
    assert sorted(names) == sorted(built | {"summary.csv", "report.html"})
    assert all((run.path / name).is_file() for name in names)


@pytest.mark.parametrize("metric", ["accuracy", "rms_calibration_error"])
def test_summary_shows_clean_and_the_mean_of_each_shift(run, names, metric):
    header, _, *rows = markdown_cells(run, f"summary_{metric}")
    assert [cell.strip() for cell in header] == ["Model", "Clean", "Brightness", "Gaussian blur"]
    places = [
        ("clean", "none"),
        ("brightness_factor", "mean"),
        ("gaussian_blur", "mean"),
    ]
    for row, model in zip(rows, MODELS, strict=True):
        for cell, (shift, level) in zip(row[1:], places, strict=True):
            place = {"model": model, "shift": shift, "level": level, "metric": metric}
            assert cell.strip() == expected(run, **place)


@pytest.mark.parametrize("metric", ["accuracy", "rms_calibration_error"])
def test_shift_table_has_a_column_a_level(run, names, metric):
    header, _, *rows = markdown_cells(run, f"{metric}_brightness_factor")
    assert [cell.strip() for cell in header] == ["Model", "f = 0.7", "f = 0.9", "f = 1.2"]
    for row, model in zip(rows, MODELS, strict=True):
        for cell, level in zip(row[1:], ("0.7", "0.9", "1.2"), strict=True):
            place = {"shift": "brightness_factor", "level": level, "metric": metric}
            assert cell.strip() == expected(run, model=model, **place)


def test_clean_metrics_has_a_row_a_metric_without_aliases(run, names):
    header, _, *rows = markdown_cells(run, "clean_metrics")
    metrics = [
        m
        for m in metrics_of(Predictions.kind)
        if m.alias_of is None
        and not (m.accepts.ordered or m.accepts.costs)
        and not (m.accepts.fitted or m.accepts.sets)
    ]
    assert len(header) == 1 + len(MODELS)
    for row, metric in zip(rows, metrics, strict=True):
        assert metric.label.partition(" (")[0] in row[0]
        place = {"shift": "clean", "level": "none", "metric": metric.name}
        assert row[1].strip() == expected(run, model="basic", **place).replace("-", "−")


def test_a_mark_is_explained_where_it_stands(run, names, page):
    scored = [row for row in read_scores(run) if row["value"] and not row["low"]]
    clean = {row["metric"] for row in scored if row["shift"] == "clean"}
    assert "maximum_calibration_error/10-equal-width" in clean
    for suffix in ("md", "tex"):
        text = (run.path / f"tables/clean_metrics.{suffix}").read_text()
        assert "[too few errors]" in text
        assert "Too few errors: the number depends on the wrong images" in text
        other = (run.path / f"tables/summary_accuracy.{suffix}").read_text()
        assert "too few errors" not in other.lower()
    assert "[too few errors]" in page.text
    assert "Too few errors: the number depends on the wrong images" in page.text


@pytest.mark.parametrize(
    ("right", "mark"), [(4, "[too few right answers]"), (36, "[too few errors]")]
)
def test_a_mark_names_what_there_are_too_few_of(right, mark):
    labels, rng = np.arange(40) % 2, np.random.default_rng(0)
    answers = np.where(np.arange(40) < right, labels, 1 - labels)
    logits = np.float32(np.eye(2)[answers] * rng.uniform(0.5, 2, size=(40, 1)))
    made = Predictions(np.arange(40), labels, *per_image(logits, labels), logits, ("x", "y"))
    cell = Cell("a", 0, Shift("clean", None, {}, None))
    frame = scores_frame(dict(estimate_cells([cell], {cell: made}.get, 50)))
    contents = Contents({}, {"a": "A"}, (), frame)
    entry = str(find_entry(contents, "area_under_risk_coverage", "a", "clean", "none"))
    assert entry.partition(" ")[2] == mark


def test_summary_rows_are_rows_of_scores(run, names):
    scores = [tuple(row.values()) for row in read_scores(run)]
    summary = [tuple(row.values()) for row in read_scores(run, "summary.csv")]
    assert len(summary) == 2 * len(MODELS) * (1 + len(SHIFTS))
    assert len(set(summary)) == len(summary)
    assert set(summary) <= set(scores)
    shown = {row["metric"] for row in read_scores(run, "summary.csv")}
    assert shown == {"accuracy", "rms_calibration_error"}


@pytest.mark.parametrize(
    ("name", "metric", "places"),
    [
        (
            "summary_accuracy",
            "accuracy",
            {
                "clean": ("clean", "none"),
                "brightness_factor mean": ("brightness_factor", "mean"),
                "gaussian_blur mean": ("gaussian_blur", "mean"),
            },
        ),
        (
            "rms_calibration_error_gaussian_blur",
            "rms_calibration_error",
            {f"gaussian_blur {level}": ("gaussian_blur", level) for level in ("0.3", "0.9")},
        ),
    ],
)
def test_csv_has_a_row_a_model_and_the_numbers_of_scores(run, names, name, metric, places):
    rows = read_scores(run, f"tables/{name}.csv")
    parts = {"": "value", " low": "low", " high": "high"}
    columns = [f"{key}{part}" for key in places for part in parts]
    assert list(rows[0]) == ["model", "title", *columns]
    assert {row["model"]: row["title"] for row in rows} == MODELS
    scores = read_scores(run)
    for row in rows:
        for key, (shift, level) in places.items():
            place = {"model": row["model"], "shift": shift, "level": level, "metric": metric}
            [score] = [score for score in scores if place.items() <= score.items()]
            assert [row[key + part] for part in parts] == [score[c] for c in parts.values()]


def test_csv_of_all_metrics_has_a_row_a_metric_like_the_table(run, names):
    rows = read_scores(run, "tables/clean_metrics.csv")
    assert [row["metric"] for row in rows] == [
        m.name
        for m in metrics_of(Predictions.kind)
        if m.alias_of is None
        and not (m.accepts.ordered or m.accepts.costs)
        and not (m.accepts.fitted or m.accepts.sets)
    ]
    assert list(rows[0])[:6] == ["metric", "title", "basic", "basic low", "basic high", "mixup_aug"]
    # A fraction must not stand beside a per cent sign.
    assert rows[0]["title"] == "Accuracy"
    assert 0 < float(rows[0]["basic"]) < 1


def test_caption_says_bins_norm_images_resamples_and_seeds(run, bare, names):
    caption = (run.path / "tables/rms_calibration_error_gaussian_blur.md").read_text()
    for words in (
        "10 equal-width bins, L2 norm",
        "standard deviation σ (pixels)",
        "0.9: with a 5x5 kernel, the effective σ is 0.88",
        "95 % bootstrap intervals over images, bias-corrected: noise in the bins inflates",
        "n = 200 test images, 100 resamples; seed 0",
    ):
        assert words in caption
    accuracy = (bare.path / "tables/summary_accuracy.md").read_text()
    assert "95 % intervals over seeds and images. n = 60 test images" in accuracy
    assert "100 resamples; mean of 2 seeds." in accuracy
    assert "bias-corrected" not in accuracy


def test_maximum_calibration_error_is_called_indicative(run, names, page):
    caption = (run.path / "tables/clean_metrics.md").read_text()
    assert "those of the maximum calibration error are indicative only" in caption
    assert "its interval is indicative only" in page.text


def test_several_seeds_show_their_mean(bare):
    _, _, *rows = markdown_cells(bare, "summary_accuracy")
    place = {"model": "basic", "shift": "clean", "level": "none", "metric": "accuracy"}
    assert rows[0][1].strip() == expected(bare, seed="mean", **place)


def test_absent_metrics_and_pictures_are_left_out(bare):
    clean = (bare.path / "tables/clean_metrics.md").read_text()
    assert "Accuracy" in clean
    assert "AUC" not in clean
    assert "Top-5" not in clean
    assert not (bare.path / "figures/shifts.svg").exists()
    assert not (bare.path / "figures/mixup.svg").exists()
    curves = (bare.path / "figures/training_curves.svg").read_text()
    assert "Basic" in curves
    assert MODELS["pretrained"] not in curves
    assert "up to 10,000 clean training images, at the end of each epoch" in curves
    page = Page((bare.path / "report.html").read_text())
    assert 'id="sees"' not in (bare.path / "report.html").read_text()
    assert "gallery" not in carried(bare)
    assert "macro_auc" not in page.text


def test_a_score_that_is_absent_is_a_dash_in_every_format(run, tmp_path):
    copy = copy_run(run, tmp_path / "partial")
    lines = (copy.path / "scores.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("basic,0,gaussian_blur,0.9,")]
    copy.write("scores.csv", "".join(kept))
    every = every_table(read_contents(copy))
    [table] = [t for t in every if t.name == "accuracy_gaussian_blur"]
    assert table.body[0][2] == "–"
    assert table.body[1][2] != "–"


def test_latex_has_a_column_for_each_number_and_escapes_names(run, names):
    text = (run.path / "tables/accuracy_gaussian_blur.tex").read_text()
    assert r"\begin{tabular}{lrr}" in text
    assert r"Model & $\sigma$ = 0.3 & $\sigma$ = 0.9 \\" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [2, 2, 2]
    assert (
        r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} \& 50\% of a\_b "
        r"\textbar{} \textbackslash{}input\{x\}" in body[1]
    )


@pytest.mark.parametrize("title", ["[a]", "* b"])
def test_latex_does_not_take_a_title_for_an_argument(title):
    assert escape_latex(title) == f"{{{title[0]}}}{title[1:]}"


def test_markdown_escapes_names(run, names):
    text = (run.path / "tables/accuracy_gaussian_blur.md").read_text()
    assert "<" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; &amp; 50% of a\_b \| \\input{x}" in text


def test_figures_are_xml_and_pictures_of_the_same_shape(run, names):
    for path in (run.path / "figures").glob("*.svg"):
        root = ET.fromstring(path.read_text())
        assert "var(--" not in path.read_text()  # a name of the page's style sheet, and no colour
        width, height = (float(root.attrib[side]) for side in ("width", "height"))
        with Image.open(path.with_suffix(".png")) as picture:
            picture.load()
            assert picture.size == pytest.approx((2 * width, 2 * height), abs=2)
            assert 300 < width < 1000
            assert 200 < height < 1400
            colors = picture.convert("L").getcolors()
            assert picture.getpixel((0, 0)) == (255, 255, 255)
            assert len(colors) > 20


def test_a_figure_is_the_same_whatever_was_drawn_before_it():
    """Vega counts clip paths and gradients from the start of the process."""
    rows = pd.DataFrame({"x": [1, 2], "y": [0.1, 0.9]})
    squares = alt.Chart(rows).mark_rect().encode(x="x:O", color="y:Q")
    chart = alt.vconcat(squares, alt.Chart(rows).mark_line(clip=True).encode(x="x:Q", y="y:Q"))
    first, again = (render_figure("both", chart, "Both", [], "").svg for _ in range(2))
    assert first == again
    named = re.findall(r'id="([^"]+)"', first)
    assert len(named) == len(set(named))
    assert {name.rstrip("0123456789") for name in named} == {"clip", "gradient_"}
    assert set(re.findall(r"url\(#([^)]+)\)", first)) == set(named)


def svg_texts(run: RunFolder, name: str) -> list[str]:
    root = ET.fromstring((run.path / "figures" / f"{name}.svg").read_text())
    return [
        " ".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_level_figures_name_shifts_models_units_and_intervals(run, names):
    for name, label in (("accuracy", "Accuracy"), ("rms_calibration_error", "RMS calibration")):
        texts = svg_texts(run, name)
        for words in ("Brightness", "Gaussian blur", "brightness factor f", "clean", HOSTILE):
            assert words in texts
        assert any(text.startswith(label) for text in texts)
        whole = " ".join(texts)
        assert "95 % bootstrap intervals over images at each level, joined" in whole
        assert "n = 200 test images" in whole
    assert "RMS calibration error (10 equal-width bins, L2 norm). Bands" in whole
    assert "bias-corrected" in whole


def test_accuracy_starts_at_zero(run, names):
    assert svg_texts(run, "accuracy").count("0%") == len(SHIFTS)


def test_42_models_differ_in_colour_or_shape():
    titles = [f"model {number}" for number in range(42)]
    colors, shapes = (
        encode(titles).to_dict()["scale"]["range"] for encode in (color_models, shape_models)
    )
    assert len(set(zip(colors, shapes, strict=True))) == 42


def test_contact_sheet_names_every_level_and_class(run, names):
    texts = svg_texts(run, "shifts")
    for words in ("Clean", "f = 0.7", "f = 1.2", "σ = 0.3", "σ = 0.9", "1", "5"):
        assert words in texts
    assert any(text.startswith("<b>") for text in texts)
    svg = (run.path / "figures/shifts.svg").read_text()
    assert svg.count("<image") == 6 * (1 + 3 + 2)


def test_pictures_are_enlarged_pixel_by_pixel(run, names):
    svg = (run.path / "figures/mixup.svg").read_text()
    uris = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    assert len(uris) == 3
    with Image.open(io.BytesIO(base64.b64decode(uris[0]))) as picture:
        pixels = np.asarray(picture)
    factor = len(pixels) // 28
    assert len(pixels) == 28 * factor > 28
    small = pixels[::factor, ::factor]
    assert np.array_equal(pixels, small.repeat(factor, axis=0).repeat(factor, axis=1))
    assert {"0.50 × " + HOSTILE_CLASS, "+ 0.50 × 1"} <= set(svg_texts(run, "mixup"))


@pytest.mark.parametrize("size", [(48, 20), (20, 48), (150, 100)], ids=["wide", "tall", "large"])
def test_rectangular_pictures_keep_their_shape(tmp_path, size):
    made = make_run(tmp_path / "run", models={"basic": "Basic"}, n=20, size=size)
    samples = read_samples(made)
    figures = {
        draw_shifts(read_contents(made), samples): 6 * (1 + 3 + 2),
        draw_mixup(samples): 3,
    }
    # The contact sheet shows thumbnails, the figure of MixUp the training pictures themselves.
    for (figure, count), pictures in zip(
        figures.items(), (samples.strips["clean"], samples.mixup.pictures), strict=True
    ):
        uris = re.findall(r'href="data:image/png;base64,([^"]+)"', figure.svg)
        assert len(uris) == count
        for one, uri in zip(pictures[:2], uris[:2], strict=True):
            with Image.open(io.BytesIO(base64.b64decode(uri))) as picture:
                factor = picture.width / size[0]
                assert picture.height == pytest.approx(size[1] * factor, abs=1)
                method = Image.Resampling.NEAREST if max(size) < 64 else Image.Resampling.LANCZOS
                assert picture.tobytes() == one.resize(picture.size, method).tobytes()


def test_long_class_names_stand_in_two_lines(changed):
    assert {"american_", "bulldog", "1"} <= set(svg_texts(changed, "shifts"))


def test_reliability_shows_the_least_accurate_level_of_each_shift(run, names):
    conditions = find_worst_conditions(read_contents(run))
    assert [(c.shift, c.level) for c in conditions] == [
        ("clean", "none"),
        ("brightness_factor", "0.7"),
        ("gaussian_blur", "0.9"),
    ]
    texts = svg_texts(run, "reliability")
    for condition in conditions:
        assert condition.title in texts
        for model in MODELS:
            place = {"shift": condition.shift, "level": condition.level, "model": model}
            value = expected(run, metric="accuracy", **place).partition(" ")[0]
            error = expected(run, metric="rms_calibration_error", **place).partition(" ")[0]
            assert f"accuracy {value}%, RMS {error}" in texts


LONG = "Basic + batch norm of the datum.value batch (150 images)"
MISSING = {("basic", "clean"), ("mixup_aug", "brightness_factor"), ("pretrained", "gaussian_blur")}


def svg_places(figure: Figure) -> list[tuple[ET.Element, float, float]]:
    """The texts and paths of a figure with where they stand, whatever groups they are in."""
    places = []

    def walk(element: ET.Element, x: float, y: float) -> None:
        number = r"(-?[\d.e-]+)"
        moved = re.match(rf"translate\({number},{number}\)", element.get("transform", ""))
        if moved:
            x, y = x + float(moved[1]), y + float(moved[2])
        places.append((element, x, y))
        for child in element:
            walk(child, x, y)

    walk(ET.fromstring(figure.svg), 0.0, 0.0)
    return [place for place in places if place[0].tag.endswith(("}text", "}path"))]


@pytest.fixture(scope="module")
def partial(run, tmp_path_factory) -> RunFolder:
    """The first run with one state of the images missing for each model, and a long title."""
    copy = copy_run(run, tmp_path_factory.mktemp("report") / "partial")
    copy = change_record(copy, lambda facts: facts["models"]["basic"].update(title=LONG))
    for model, shift in MISSING:
        [*files] = (copy.path / "predictions" / model / "seed-0/test").glob(f"{shift}*")
        assert files
        for file in files:
            file.unlink()
    lines = (copy.path / "scores.csv").read_text().splitlines(keepends=True)
    absent = tuple(f"{model},0,{shift}," for model, shift in MISSING)
    copy.write("scores.csv", "".join(line for line in lines if not line.startswith(absent)))
    return copy


def test_reliability_has_a_panel_for_what_was_not_measured(partial):
    contents = read_contents(partial)
    conditions = find_worst_conditions(contents)
    bins = tabulate_panels(contents, conditions, list(contents.titles))
    for row, model in enumerate(MODELS):
        for column, condition in enumerate(conditions):
            mine = bins[(bins["row"] == row) & (bins["column"] == column)]
            missing = (model, condition.shift) in MISSING
            assert (list(mine["note"]) == [NOT_MEASURED]) == missing
            assert mine["confidence"].isna().all() == missing
            assert mine["confidence"].isna().any() == missing


def test_reliability_draws_each_pair_under_its_own_titles(partial):
    contents = read_contents(partial)
    conditions = find_worst_conditions(contents)
    figure = draw_reliability(contents)
    places = svg_places(figure)
    # Without spaces: a line that is too long breaks inside a word.
    texts = {re.sub(r"\s", "", "".join(e.itertext())): (x, y) for e, x, y in places}
    middles = [texts[re.sub(r"\s", "", condition.title)][0] for condition in conditions]
    heights = [texts[re.sub(r"\s", "", title)][1] for title in contents.titles.values()]
    assert middles == sorted(middles)
    assert heights == sorted(heights)

    def panel(x: float, y: float) -> tuple[str, str]:
        column = np.argmin(np.abs(np.array(middles) - x))
        row = np.argmin(np.abs(np.array(heights) - y))
        return list(MODELS)[row], conditions[column].shift

    notes = {
        panel(x, y): element.text
        for element, x, y in places
        if (element.text or "").startswith(("accuracy ", NOT_MEASURED))
    }
    points = [
        (panel(x, y), element.get("fill"))
        for element, x, y in places
        if element.get("fill") in COLORS
    ]
    colors = dict(zip(MODELS, COLORS, strict=False))
    bins = tabulate_panels(contents, conditions, list(contents.titles))
    for row, model in enumerate(MODELS):
        for column, condition in enumerate(conditions):
            pair = (model, condition.shift)
            drawn = [fill for place, fill in points if place == pair]
            if pair in MISSING:
                assert notes[pair] == NOT_MEASURED
                assert not drawn
                continue
            place = {"model": model, "shift": condition.shift, "level": condition.level}
            value = expected(partial, metric="accuracy", **place).partition(" ")[0]
            assert notes[pair].startswith(f"accuracy {value}%")
            count = ((bins["row"] == row) & (bins["column"] == column)).sum()
            assert drawn == [colors[model]] * count


def test_reliability_wraps_long_titles(partial):
    figure = draw_reliability(read_contents(partial))
    lines = [[part.text for part in element] for element, _, _ in svg_places(figure)]
    assert ["Basic + batch norm of the", "datum.value batch (150", "images)"] in lines
    assert "…" not in figure.svg


def test_of_many_models_reliability_draws_the_most_accurate(run, tmp_path, monkeypatch):
    most = 4
    monkeypatch.setattr("fairweather.report.reliability.MOST_MODELS", most)
    models = {f"m{number}": f"Model {number}" for number in range(most + 2)}
    shifts = [{"brightness_factor": [0.7]}]
    many = make_run(tmp_path / "many", models=models, shifts=shifts, n=40, size=None)
    contents = read_contents(many)
    accuracy = {name: contents.score("accuracy", name, ALL, MEAN).value for name in models}
    lowest = sorted(accuracy.values())[-most]
    kept = keep_most_accurate(contents)
    assert len(kept) == most
    assert all(accuracy[name] >= lowest for name in kept)
    assert kept == [name for name in models if name in kept]
    words = f"The {most} models of {most + 2} with the highest mean accuracy"
    looks = []
    monkeypatch.setattr(
        "fairweather.report.reliability._make_layers",
        lambda titles, positions, bins: (
            looks.extend(positions) or _make_layers(titles, positions, bins)
        ),
    )
    assert words in draw_reliability(contents).svg
    assert looks == [list(models).index(name) for name in kept]  # each keeps its colour
    few = read_contents(run)
    assert keep_most_accurate(few) == list(few.titles)
    assert "with the highest mean accuracy" not in draw_reliability(few).svg


def test_nothing_measured_draws_no_reliability(partial, tmp_path):
    assert draw_reliability(replace(read_contents(partial), runs={"": RunFolder(tmp_path)})) is None


@pytest.mark.parametrize(
    ("levels", "headings"),
    [
        (("0.00784313725490196", "0.03137254901960784"), ["ε = 2/255", "ε = 8/255"]),
        (("1.125", "12", "1000"), ["ε = 1.125", "ε = 12", "ε = 1000"]),
        # Rounded, the first two would be one.
        (("0.33331", "0.33332", "0.66667"), ["ε = 0.33331", "ε = 0.33332", "ε = 0.6667"]),
    ],
)
def test_headings_are_as_in_papers_unless_levels_would_be_the_same(levels, headings):
    cells = dict.fromkeys(levels, "cell")
    sweep = Sweep("pgd", "PGD", "budget ε (pixels)", 0.0, "", cells, kind="attack")
    assert [sweep.heading(level) for level in levels] == headings


def test_budgets_read_as_in_papers_wherever_they_stand(tmp_path, no_pngs):
    epsilons = [2 / 255, 8 / 255, 0.1, 1.0]
    shifts = [{"pgd": {"epsilon": epsilons, "steps": 2}}]
    run = make_run(tmp_path / "run", models={"basic": "Basic"}, shifts=shifts, n=40, size=None)
    build_report(run)
    [line, *_] = (run.path / "tables/accuracy_pgd.md").read_text().splitlines()
    assert line == "| Model | ε = 2/255 | ε = 8/255 | ε = 0.1 | ε = 1 |"
    labels = set(re.findall(r">([^<>]+)</text>", (run.path / "figures/accuracy.svg").read_text()))
    assert {"8/255", "0.1", "1"} <= labels
    assert not {label for label in labels if label.startswith("0.03")}
    pages = carried(run)["knows"]["basic"]["pgd"]
    budgets = ("2/255", "8/255", "0.1", "1")
    assert [level["title"] for level in pages["levels"]] == ["clean", *budgets]
    assert pages["headings"][-1] == f"ε = {budgets[-1]}" or pages["worst"].endswith("epsilon=0.1")


@pytest.mark.parametrize(
    "trace",
    [trace for trace in TRACES if trace.name != "training_auc"],  # of several findings
    ids=lambda trace: trace.name,
)
def test_only_the_training_part_is_dashed(run, names, trace):
    svg = (run.path / f"figures/{trace.name}.svg").read_text()
    lines = re.findall(r'<path [^>]*stroke-width="1.6" stroke-dasharray="([^"]+)"', svg)
    assert {line: lines.count(line) for line in lines} == dict.fromkeys(("1,0", "5,3"), len(MODELS))


def test_an_epoch_whose_number_is_infinite_is_a_gap_in_its_line(run, tmp_path):
    copy = copy_run(run, tmp_path / "copy")
    path = copy.path / "models/basic/seed-0/history.csv"
    history = pd.read_csv(path)
    history.loc[2, "val_loss"] = math.inf
    history.to_csv(path, index=False)
    [loss] = [trace for trace in TRACES if trace.name == "training_loss"]
    gaps = [row for row in read_trace(read_contents(copy), loss) if row["value"] is None]
    assert [(row["epoch"], row["part"]) for row in gaps] == [(3, "validation")]
    assert draw_training(read_contents(copy), loss) is not None


def test_a_model_that_was_not_trained_has_no_panel(partial, tmp_path):
    copy = copy_run(partial, tmp_path / "copy")
    (copy.path / "models/pretrained/seed-0/history.csv").unlink()
    contents = read_contents(copy)
    figure = draw_training(contents, TRACES[0])
    assert contents.titles["pretrained"] not in figure.alt
    assert contents.titles["basic"] in figure.alt


def test_a_second_build_gives_the_same_bytes(run, names, tmp_path, no_pngs):
    copy = copy_run(run, tmp_path / "again")
    assert build_report(copy) == names
    for name in names:
        if not name.endswith(".png"):
            assert (copy.path / name).read_bytes() == (run.path / name).read_bytes(), name
    # PNGs are made of the SVGs alone, all in one way.
    figure = copy.path / "figures/accuracy.svg"
    assert draw_png(figure.read_text()) == (run.path / "figures/accuracy.png").read_bytes()


def scripts(text: str) -> list[str]:
    return re.findall(r'<script type="module">(.*?)</script>', text, flags=re.DOTALL)


def carried(run: RunFolder) -> dict:
    """What the page carries for its script."""
    text = (run.path / "report.html").read_text()
    [packed] = re.findall(r'<script type="text/plain" id="payload">(.*?)</script>', text)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_page_loads_nothing_and_runs_its_own_script_alone(run, page):
    text = (run.path / "report.html").read_text()
    tags = [tag for tag, _ in page.tags]
    assert not set(tags) & {"link", "iframe", "object", "b"}
    assert tags.count("script") == 2
    [script] = scripts(text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [attrs for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert [attrs["content"] for attrs in policies] == [policy]
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    beside = text.replace(script, "")
    assert "http:" not in beside
    assert "https:" not in beside


def test_page_is_small(run):
    assert (run.path / "report.html").stat().st_size < 700_000


def test_page_shows_hostile_names_as_text(page):
    assert HOSTILE in page.text
    assert HOSTILE_CLASS in page.text
    assert "<broken>.jpg" in page.text
    assert r"no-utf8-\udcff.jpg" in page.text
    assert "<i>NaN</i>" in page.text


def test_page_describes_every_figure(run, page):
    images = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    drawn = {path.stem for path in (run.path / "figures").glob("*.svg")}
    assert len(images) == len(drawn - {"shifts"})  # its pictures are at the front
    assert all(len(words) > 40 for words in images)


def test_figures_separate_titles_by_more_than_commas(run):
    figure = draw_reliability(read_contents(run))
    assert f"Models: {'; '.join(MODELS.values())}." in figure.alt
    assert "accuracy is lowest: Brightness; Gaussian blur." in figure.alt
    assert "the level of each shift at which the models' mean accuracy is lowest" in figure.alt


def test_page_answers_first_and_says_how(run, page):
    text = " ".join(page.text.split())
    parts = [
        "A synthetic study",
        "right on clean images",
        "where it is worst",
        "sure there on average",
        "What it sees",
        "Where it breaks",
        "Does it know?",
        "What to do",
        "Worst classes and groups",
        "Compare models",
        "Details Each recipe was trained once",
        "Ranking Model",
        "Models by mean accuracy",
        "Every level of every shift",
        "settings that differ",
        "Glossary",
    ]
    places = [text.index(part, text.index("Details")) for part in parts[:1]]
    for part in parts[1:]:
        places.append(text.index(part, places[-1]))
    assert "RMS calibration error (10 equal-width bins, L2 norm) on the clean" in text
    for words in ("fairweather run synthetic", "0123abc", "feed", "hardware.cpu", "σ is 0.88"):
        assert words in text


def test_details_are_closed_and_hold_every_table(run, names):
    text = (run.path / "report.html").read_text()
    front, _, details = text.partition('<section id="details">')
    assert "<table" not in front
    assert details.count("<details") == details.count("</details>")
    assert "<details open" not in text
    tables = {path.stem for path in (run.path / "tables").glob("*.csv")}
    tables.remove("calibration_curves")  # the points of a figure, which the page shows
    assert {name for name in tables if details.count(f'data-copy="{name}"') == 3} == tables


def test_page_says_what_levels_stand_for(changed):
    text = " ".join(Page((changed.path / "report.html").read_text()).text.split())
    for rank, cell in enumerate(changed.record.sweeps[1].cells):
        assert re.search(rf"= {cell.level:g}\s*for images of 28 pixels: amount {rank}", text)


def test_the_front_has_the_numbers_of_the_scores(run, names):
    data = carried(run)
    keys = {"clean": ("clean", "none"), "mean": (None, "mean"), "worst": (None, None)}
    assert set(data["breaks"]) == set(MODELS)
    for model, own in data["breaks"].items():
        lowest = [row[2][2][1] for row in own["rows"]]
        assert lowest == sorted(lowest)  # worst first
        assert {row[3] for row in own["rows"]} == set(SHIFT_NAMES)
        for _, _, marks, shift in own["rows"]:
            for kind, value, low, high, text in marks:
                where, level = keys[kind]
                scores = [
                    tuple(float(row[column]) for column in ("value", "low", "high"))
                    for row in read_scores(run)
                    if (row["model"], row["metric"]) == (model, "accuracy")
                    and row["shift"] == (where or shift)
                    and (level is None or row["level"] == level)
                    and not (kind == "worst" and row["level"] in ("mean", "worst"))
                ]
                wanted = min(scores)
                assert (value, low, high) == pytest.approx(wanted, abs=1e-5)
                assert abs(float(text.split("\N{NO-BREAK SPACE}")[0]) - 100 * value) <= 0.501


def test_the_worst_level_of_the_overview_is_that_of_the_lowest_accuracy(run):
    contents = read_contents(run)
    for model in MODELS:
        lows = [
            contents.score("accuracy", model, sweep.name, level).value
            for sweep in contents.sweeps
            for level in sweep.cells
        ]
        assert read_states(contents, model)["Worst level"].accuracy.value == min(lows)


def test_variants_stand_below_their_own_model_in_the_order_of_the_ranking():
    titles = dict.fromkeys(("a", "a+temperature", "b", "b+temperature", "c"), "")
    contents = Contents({}, titles, (), pd.DataFrame())
    assert order_models(contents, ["b", "c", "a"]) == [
        "b",
        "b+temperature",
        "c",
        "a",
        "a+temperature",
    ]
    assert order_models(contents, []) == list(titles)


LEVELS = {"0.5": 0.6, "0.8": 0.85, "1.2": 0.89, "1.5": 0.7, "2": 0.95}


def made_of_levels(levels, clean=0.9, half=0.02, neutral=1.0):
    sweep = Sweep("b", "B", "factor f", neutral, "", {level: level for level in levels})
    rows = [("clean", "none", clean), *(("b", level, value) for level, value in levels.items())]
    scores = pd.DataFrame(
        [
            ("a", "0", *at, "accuracy", value, value - half, value + half, 100)
            for *at, value in rows
        ],
        columns=COLUMNS,
    )
    return Contents({}, {"a": "A"}, (sweep,), scores)


def test_the_smallest_level_is_the_nearest_on_each_side_that_is_below_the_limit():
    found = tabulate_limits(find_smallest_levels(made_of_levels(LEVELS)))
    # At 1.5 the model is below 80 %, and at 2, farther away, it is not any more.
    assert dict(zip(found.layout.header[2:], found.body[0][2:], strict=True)) == {
        "5 points below clean": "f = 0.5; f = 1.5",
        "95 %": "f = 0.8; f = 1.2",
        "90 %": "f = 0.8; f = 1.2 *",
        "80 %": "f = 0.5; f = 1.5",
        "70 %": "f = 0.5",
        "50 %": "none",
    }


def test_a_level_is_marked_where_its_interval_reaches_the_limit():
    for half, mark in ((0.04, ""), (0.06, " *")):
        found = tabulate_limits(find_smallest_levels(made_of_levels({"2": 0.65}, half=half)))
        assert found.body[0][6] == f"f = 2{mark}"
    for half, mark in ((0.04, ""), (0.06, " *")):
        found = tabulate_limits(find_smallest_levels(made_of_levels({"2": 0.75}, half=half)))
        assert found.body[0][6] == f"none{mark}"


def test_exactly_five_points_below_clean_is_not_below_the_limit():
    for accuracy, words in ((0.919, "none *"), (0.918, "f = 2 *")):
        found = find_smallest_levels(made_of_levels({"2": accuracy}, clean=0.969))
        assert tabulate_limits(found).body[0][2] == words


def test_smallest_levels_are_written_for_programs(run, names):
    rows = read_scores(run, "tables/smallest_levels.csv")
    contents = read_contents(run)
    limits = {"80 %": 0.8, "50 %": 0.5}
    assert {row["limit"] for row in rows} <= {limit.title for limit in LIMITS}
    for row in rows:
        score = contents.score("accuracy", row["model"], row["shift"], row["level"])
        assert float(row["value"]) == pytest.approx(score.value, abs=1e-7)
        assert score.value < limits.get(row["limit"], 1)


def test_a_run_without_shifts_has_no_smallest_levels():
    assert tabulate_limits(find_smallest_levels(replace(made_of_levels({}), sweeps=()))) is None


# A number, with its interval where it has one.
NUMBER = re.compile(r"(?<![\w.,])\d[\d.,]*")
INTERVAL = re.compile(r"\[[^\]]*\]")
IN_SENTENCES = {"span", "bdi", "strong", "i", "a"}
NO_TEXT = {"script", "style", "code", "pre", "td", "option"}


class Sentences(html.parser.HTMLParser):
    """Every sentence of a page, those of its alternative texts too."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._current, self._skipped = "", 0
        self.feed(text)
        self._end()

    def _end(self) -> None:
        self.found += split_sentences(self._current)
        self._current = ""

    def handle_starttag(self, tag, attrs) -> None:
        self._skipped += tag in NO_TEXT
        if tag not in IN_SENTENCES:
            self._end()
        for name, words in attrs:
            if name in ("aria-label", "alt"):
                self.found += split_sentences(words or "")

    def handle_endtag(self, tag) -> None:
        self._skipped -= tag in NO_TEXT
        if tag not in IN_SENTENCES:
            self._end()

    def handle_data(self, data) -> None:
        self._current += "" if self._skipped else data


def split_sentences(text: str) -> list[str]:
    words = " ".join(text.split())
    return [each for each in re.split(r"(?<=[.!?])\s+(?=[A-Zn“\d])", words) if each]


def crowded(sentences: Sequence[str]) -> list[str]:
    """The sentences with more than three numbers, where an interval is a part of its number."""
    return [each for each in sentences if len(NUMBER.findall(INTERVAL.sub("", each))) > 3]


def test_a_crowded_sentence_is_found():
    fine = "It falls from 90.1 % [89, 91] to 20 % [1, 2] at f = 0.2. L2 norm."
    assert crowded(Sentences(f"<p>{fine}</p><td>1 2 3 4</td>").found) == []
    assert crowded(Sentences("<p>One. n = 1, 2, 3 and 4.</p>").found) == ["n = 1, 2, 3 and 4."]


def test_no_sentence_of_a_page_has_more_than_three_numbers(run, bare, names, tmp_path, no_figures):
    others = [{"gamma": [0.5]}, {"rotation": [20]}, {"jpeg": [30]}]
    shifts = [*SHIFTS, *others, {"pgd": {"epsilon": [2 / 255, 8 / 255], "steps": 2}}]
    titles = {f"model{letter}": f"Model {letter}" for letter in "ABCDEFG"}
    many = make_run(tmp_path / "many", models=titles, shifts=shifts, n=40, size=None)
    for model in titles:
        clean = many.read_predictions(many.predictions(model, 0, "clean"))
        many.write_predictions(many.predictions(model, 0, "clean", "val"), clean)
    build_report(many)
    for made in (run, bare, many):
        found = Sentences((made.path / "report.html").read_text()).found
        assert len(found) > 100
        # A name has as many digits as its owner likes.
        assert crowded([each.replace(HOSTILE, "“…”") for each in found]) == []


def test_page_says_how_to_cite_and_shows_the_whole_record(run, page):
    assert "@software{fairweather," in page.text
    assert "Made with: fairweather run synthetic" in page.text
    assert "git revision 0123abc, with uncommitted changes" in page.text
    for key in ("models.basic.settings.sweep.learning_rate", "settings.bootstrap", "data.name"):
        assert key in page.text


def test_settings_and_provenance_are_written_for_readers():
    told = dict(flatten_facts({"adversarial": {"epsilon": 8 / 255}, "rate": 1e-3, "bias": False}))
    assert told == {"adversarial.epsilon": "8/255", "rate": "0.001", "bias": "no"}


def test_variants_are_hollow_as_in_the_legend_and_lie_under_their_models(tmp_path):
    models = {"basic": "Basic", "other": "Other"}
    shifts = [{"brightness_factor": [0.7]}]
    run = make_run(tmp_path / "run", models=models, shifts=shifts, n=40, size=None)
    plain = read_contents(run)
    warm = plain.scores[plain.scores["model"] == "basic"].assign(model="basic+temperature")
    contents = replace(
        plain,
        titles={"basic": "Basic", "basic+temperature": "Warm", "other": "Other"},
        scores=pd.concat([plain.scores, warm]),
    )
    assert order_drawing(contents) == ["Warm", "Basic", "Other"]
    found = paint_models(contents)
    fill, stroke = (found[key].to_dict()["scale"] for key in ("fill", "stroke"))
    assert fill["domain"] == stroke["domain"] == ["Basic", "Warm", "Other"]
    assert fill["range"] == [COLORS[0], PAPER, COLORS[1]]
    assert stroke["range"] == [COLORS[0], COLORS[0], COLORS[1]]


def settings(run: RunFolder) -> dict[str, list[str]]:
    """The settings that differ between the models, as the page shows them."""
    text = (run.path / "report.html").read_text()
    rows = re.findall(r'<tr><th scope="row">([\w.]+)</th>((?:<td data-label.*?</td>)+)</tr>', text)
    return {key: re.findall("<td data-label=[^>]*>(.*?)</td>", cells) for key, cells in rows}


def test_page_shows_the_recipe_that_a_sweep_chose(run, names):
    assert run.record.models["basic"].settings["recipe"]["learning_rate"] == 0.001
    shown = settings(run)
    assert shown["recipe.learning_rate"] == ["0.01", "0.001", "0.001"]
    assert shown["sweep.learning_rate"] == ["0.001; 0.01", "–", "–"]
    assert shown["recipe.rotation"] == ["none", "20°, p = 0.4", "none"]


def test_settings_that_all_models_share_are_left_out(run, names, changed):
    for made in (run, changed):
        shown = settings(made)
        assert shown
        assert [key for key, values in shown.items() if len(set(values)) == 1] == []


def test_page_leaves_out_the_knobs_that_do_nothing(run, names, changed):
    idle = {"recipe.momentum", "recipe.schedule_gamma", "recipe.schedule_step"}
    assert not idle & settings(run).keys()
    shown = settings(changed)
    assert shown["recipe.momentum"] == ["0.9", "–", "–"]
    assert shown["recipe.schedule_gamma"] == ["0.1", "–", "–"]
    assert "recipe.schedule_step" not in shown


def test_a_sweep_that_the_study_no_longer_has_is_not_shown(changed):
    text = (changed.path / "report.html").read_text()
    assert "hyperparameter sweep of Basic" in text
    assert "stale" not in text


def test_titles_tell_metrics_apart():
    titles = {metric.title for metric in METRICS.values() if metric.alias_of is None}
    assert len(titles) == len(METRICS) - 3


def test_models_of_one_title_stay_apart(run, tmp_path):
    twins = {name: ModelRecord(title="Twin") for name in MODELS}
    record = run.record.model_copy(update={"models": twins})
    copy = write_run(tmp_path / "twins", record, run.scores)
    assert list(read_contents(copy).titles.values()) == [f"Twin ({name})" for name in MODELS]


def test_where_figures_cannot_be_drawn_tables_and_page_are_written(tmp_path, monkeypatch):
    few = make_run(tmp_path / "run", seeds=(0,), n=40, classes=3)
    monkeypatch.setattr(
        "fairweather.report.building.explain_missing_addresses", lambda: "figures cannot be drawn"
    )
    names = build_report(few)
    assert not any(name.startswith("figures/") for name in names)
    assert "summary.csv" in names
    assert (few.path / "report.html").is_file()


def test_a_study_without_shifts_is_reported(tmp_path, no_pngs):
    run = make_run(tmp_path / "clean", models={"basic": "Basic"}, shifts=[], n=50, size=None)
    names = build_report(run)
    assert "figures/accuracy.svg" not in names
    assert "figures/reliability.svg" in names
    assert "on clean images" in Page((run.path / "report.html").read_text()).text


def test_a_run_without_scores_is_refused(run, tmp_path):
    empty = RunFolder(tmp_path / "empty")
    with pytest.raises(InputError, match=r"holds no run: there is no such folder"):
        build_report(empty)
    empty.describe(run.record)
    with pytest.raises(InputError, match=r"has no scores\.csv"):
        build_report(empty)
    assert [path.name for path in empty.path.iterdir()] == ["record.json"]


def test_samples_outside_the_run_are_refused(run, tmp_path):
    copy = copy_run(run, tmp_path / "escape")
    index = json.loads((copy.path / "samples/index.json").read_text())
    index["mixup"]["file"] = "../../x.png"
    copy.write("samples/index.json", json.dumps(index))
    with pytest.raises(InputError, match="outside the run folder"):
        build_report(copy)


STORED = ROOT / "tests/runs/run_of_0.1.0"


def test_an_old_run_has_the_numbers_of_the_tables_that_it_was_stored_with():
    contents = read_contents(RunFolder(STORED))
    tables = every_table(contents)
    stored = {path.stem: path.read_text() for path in (STORED / "tables").glob("*.csv")}
    made = {table.name: table.texts()["csv"] for table in tables}
    assert len(stored) == 7
    assert stored.items() <= made.items()
    assert made.keys() - stored.keys() <= {"overview", "variants", "smallest_levels"}
    assert write_csv(find_summary_rows(contents)) == (STORED / "summary.csv").read_text()


def test_an_old_run_is_reported(tmp_path, no_pngs):
    copy = copy_run(RunFolder(STORED), tmp_path / "copy")
    names = build_report(copy)
    assert {"report.html", "figures/accuracy.svg", "tables/summary_accuracy.md"} <= set(names)
    page = Page((copy.path / "report.html").read_text())
    assert copy.record.title in page.text
    assert "fairweather run fashion-mnist" in page.text


def test_a_run_that_mixes_machines_says_so(run, page, changed):
    assert "mixes" not in page.text
    told = "this run mixes 2 machines"
    contents = read_contents(changed)
    assert told in contents.hardware
    assert str(MACHINE) in contents.hardware
    assert str(OTHER_MACHINE) in contents.hardware
    text = Page((changed.path / "report.html").read_text()).text
    assert f"Beware: {told}" in text
    assert f"Hardware: {contents.hardware}." in text
    joint = read_runs([run, changed])
    assert list(joint.mixed_machines) == ["changed"]
    assert "run changed mixes 2 machines" in joint.hardware

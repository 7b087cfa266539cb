"""The report of a synthetic run: its numbers, its files, and names that want to break out."""

from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from fairweather.errors import InputError
from fairweather.metrics import (
    METRICS,
    bootstrap_weights,
    evaluate_metrics,
    mean_estimate,
    per_image,
    to_score,
)
from fairweather.report import build_report
from fairweather.report.page import FORMULAS
from fairweather.report.reading import read_contents
from fairweather.report.reliability import worst_conditions
from fairweather.report.tables import build_tables, describe_metric
from fairweather.runs import RunFolder
from fairweather.types import Predictions

HOSTILE = "<script>alert(1)</script> & 50% of a_b | \\input{x}"
HOSTILE_CLASS = "<b>0</b>|\"'"
MODELS = {"basic": "Basic", "mixup_aug": HOSTILE, "pretrained": "MixUp + Aug + PT"}
BOUNDS = {metric.name: metric.bounds for metric in METRICS}
SWEEPS = [
    {
        "name": "brightness_factor",
        "title": "Brightness",
        "level_title": "brightness factor f",
        "neutral": 1.0,
        "note": "",
        "cells": [
            {"id": f"brightness_factor,factor={level}", "level": level} for level in (0.7, 0.9, 1.2)
        ],
    },
    {
        "name": "gaussian_blur",
        "title": "Gaussian blur",
        "level_title": "standard deviation σ (pixels)",
        "neutral": 0.0,
        "note": "kernel 5x5: effective sigma 0.88 at 0.9",
        "cells": [
            {"id": f"gaussian_blur,sigma={level},kernel_size=5", "level": level}
            for level in (0.3, 0.9)
        ],
    },
]


def make_run(
    path: Path,
    *,
    models: dict[str, str] = MODELS,
    seeds: Sequence[int] = (0,),
    sweeps: list[dict] = SWEEPS,
    n: int = 200,
    classes: int = 10,
    samples: bool = True,
    logits: bool = True,
) -> RunFolder:
    run = RunFolder(path)
    names = [HOSTILE_CLASS, *map(str, range(1, classes))]
    described = {
        name: {
            "title": title,
            "backbone": "timm:resnet18",
            "weights": "none",
            "stem": "small",
            "input_size": None,
            "recipe": {"epochs": 12, "learning_rate": 1e-3, "rotation": {"degrees": 20}},
        }
        for name, title in models.items()
    }
    study = {
        "name": "synthetic",
        "title": "A synthetic study",
        "description": "What does the report make of numbers that were made up?",
        "seeds": list(seeds),
        "bootstrap": 40,
        "models": described,
    }
    run.write("study.yaml", yaml.safe_dump(study, sort_keys=False))
    run.write("provenance.json", json.dumps(make_provenance(names, sweeps, n)))
    write_scores(run, models, seeds, sweeps, names, n, logits)
    for offset, name in enumerate(models):
        for seed in seeds:
            run.write(f"models/{name}/seed-{seed}/history.csv", make_history(offset, seed))
    run.write("models/basic/sweep.csv", "learning_rate,val_accuracy\n0.001,0.81\n0.01,<i>NaN</i>\n")
    if samples:
        write_samples(run, sweeps, names)
    return run


def make_provenance(classes: list[str], sweeps: list[dict], n: int) -> dict:
    return {
        "time": "2026-01-02T03:04:05+00:00",
        "command": "fairweather run synthetic",
        "git": {"revision": "0123abc", "dirty": True},
        "python": "3.12.0",
        "platform": "Linux",
        "versions": {"torch": "2.9.0"},
        "hardware": {"device": "cpu", "cpu": "A CPU", "cores": 2, "threads": 1},
        "data": {
            "name": "digits",
            "classes": classes,
            "counts": {"train": 900, "val": 100, "test": n},
            "digests": {"test": "feed"},
            "mean": [0.13, 0.13, 0.13],
            "std": [0.3, 0.3, 0.3],
            "notes": {"skipped": ["<broken>.jpg"]},
        },
        "shifts": sweeps,
    }


def make_predictions(
    rng: np.random.Generator, labels: np.ndarray, names: list[str], skill: float, logits: bool
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


def write_scores(run, models, seeds, sweeps, names, n, logits) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(len(names), size=n)
    weights = bootstrap_weights(n, resamples=40)
    estimates = {}
    for offset, model in enumerate(models):
        for seed in seeds:
            cells = [("clean", "none", "clean", 0.0)]
            for sweep in sweeps:
                span = max(abs(cell["level"] - sweep["neutral"]) for cell in sweep["cells"])
                for cell in sweep["cells"]:
                    harm = abs(cell["level"] - sweep["neutral"]) / span
                    cells.append((sweep["name"], f"{cell['level']:g}", cell["id"], harm))
            for shift, level, cell_id, harm in cells:
                skill = 3.4 + 0.3 * offset - (2.6 - 0.4 * offset) * harm**1.3
                predictions = make_predictions(rng, labels, names, skill, logits)
                file = f"predictions/{model}/seed-{seed}/{cell_id.replace('/', '__')}.parquet"
                run.write_predictions(file, predictions)
                estimates[model, str(seed), shift, level] = evaluate_metrics(predictions, weights)
    rows = [
        (*place, metric, *to_score(estimate, BOUNDS[metric]))
        for place, by_metric in add_means(estimates).items()
        for metric, estimate in by_metric.items()
    ]
    header = ["model", "seed", "shift", "level", "metric", "value", "low", "high", "n"]
    run.write("scores.csv", pd.DataFrame(rows, columns=header).to_csv(index=False))


def add_means(estimates: dict) -> dict:
    """Means over the levels of a shift, over the shifts, and over the seeds."""

    def mean(keys):
        return {m: mean_estimate([estimates[k][m] for k in keys]) for m in estimates[keys[0]]}

    runs = list(dict.fromkeys(key[:2] for key in estimates))
    for model, seed in runs:
        mine = [key for key in estimates if key[:2] == (model, seed) and key[2] != "clean"]
        shifts = list(dict.fromkeys(key[2] for key in mine))
        for shift in shifts:
            keys = [key for key in mine if key[2] == shift]
            estimates[model, seed, shift, "mean"] = mean(keys)
        if shifts:
            keys = [(model, seed, shift, "mean") for shift in shifts]
            estimates[model, seed, "all", "mean"] = mean(keys)
    if len({seed for _, seed in runs}) > 1:
        for model, shift, level in dict.fromkeys((k[0], k[2], k[3]) for k in list(estimates)):
            keys = [k for k in estimates if (k[0], k[2], k[3]) == (model, shift, level)]
            estimates[model, "mean", shift, level] = mean(keys)
    return estimates


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


def write_samples(run: RunFolder, sweeps: list[dict], names: list[str], side: int = 28) -> None:
    shown = [HOSTILE_CLASS, *names[1:6]]
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(9 * (x * (k + 1) / 3 + y)) * np.cos(4 * (y - x * k / 4)) for k in range(6)]
    strip = np.stack([128 + 100 * np.concatenate(waves, axis=1)] * 3, axis=-1)
    strips = {"clean": "samples/clean.png"}
    strips |= {cell["id"]: f"samples/{cell['id']}.png" for s in sweeps for cell in s["cells"]}
    for number, name in enumerate(strips.values()):
        run.write(name, encode(np.clip(strip * (1 - 0.06 * number), 0, 255)))
    mixed = np.concatenate([strip[:, :side], strip[:, side : 2 * side]] * 2, axis=1)[:, : 3 * side]
    run.write("samples/mixup.png", encode(mixed))
    mixup = {"file": "samples/mixup.png", "labels": shown[:2], "weight": 0.3}
    index = {"labels": shown, "strips": strips, "mixup": mixup}
    run.write("samples/index.json", json.dumps(index))


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


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
    made = make_run(path, seeds=(0, 1), classes=3, n=60, samples=False, logits=False)
    shutil.rmtree(path / "models" / "pretrained")
    build_report(made)
    return made


@pytest.fixture(scope="module")
def page(run, names) -> Page:
    return Page((run.path / "report.html").read_text())


def read_scores(run: RunFolder, name: str = "scores.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((run.path / name).read_text().splitlines()))


def expected(run: RunFolder, seed: str = "0", **place: str) -> str:
    """What a table has to show for one row of scores.csv, worked out from its text."""
    wanted = {"seed": seed, **place}
    [row] = [row for row in read_scores(run) if wanted.items() <= row.items()]
    numbers = [float(row[column]) for column in ("value", "low", "high")]
    if place["metric"].endswith("accuracy"):
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * number for number in numbers))
    return "{:.3f} [{:.3f}, {:.3f}]".format(*numbers)


def markdown_cells(run: RunFolder, name: str) -> list[list[str]]:
    lines = (run.path / "tables" / f"{name}.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]


def test_every_file_that_is_named_is_there_and_no_other(run, names):
    tables = {path.stem for path in (run.path / "tables").iterdir()}
    per_shift = {
        f"{metric}_{sweep['name']}"
        for metric in ("accuracy", "rms_calibration_error")
        for sweep in SWEEPS
    }
    summaries = {"summary_accuracy", "summary_rms_calibration_error"}
    assert tables == per_shift | summaries | {"clean_metrics"}
    figures = {path.stem for path in (run.path / "figures").iterdir()}
    assert figures == {
        "accuracy",
        "rms_calibration_error",
        "reliability",
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
    metrics = [metric for metric in METRICS if metric.alias_of is None]
    assert len(header) == 1 + len(MODELS)
    for row, metric in zip(rows, metrics, strict=True):
        assert metric.label.partition(" (")[0] in row[0]
        place = {"shift": "clean", "level": "none", "metric": metric.name}
        assert row[1].strip() == expected(run, model="basic", **place).replace("-", "−")


def test_summary_and_table_rows_are_rows_of_scores(run, names):
    scores = [tuple(row.values()) for row in read_scores(run)]
    summary = [tuple(row.values()) for row in read_scores(run, "summary.csv")]
    assert len(summary) == 2 * len(MODELS) * (1 + len(SWEEPS))
    assert len(set(summary)) == len(summary)
    for table in (run.path / "tables").glob("*.csv"):
        assert {tuple(row.values()) for row in read_scores(run, f"tables/{table.name}")} <= set(
            scores
        )
    assert set(summary) <= set(scores)
    shown = {row["metric"] for row in read_scores(run, "summary.csv")}
    assert shown == {"accuracy", "rms_calibration_error"}


def test_caption_says_bins_norm_images_resamples_and_seeds(run, bare, names):
    caption = (run.path / "tables/rms_calibration_error_gaussian_blur.md").read_text()
    for words in (
        "10 equal-width bins, L2 norm",
        "standard deviation σ (pixels)",
        "effective sigma 0.88 at 0.9",
        "95 % bootstrap intervals",
        "n = 200 test images, 40 resamples, seed 0",
    ):
        assert words in caption
    assert "mean of seeds 0, 1" in (bare.path / "tables/summary_accuracy.md").read_text()


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
    assert "MixUp + Aug + PT" not in curves
    page = Page((bare.path / "report.html").read_text())
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 4
    assert "macro_auc" not in page.text


def test_a_score_that_is_absent_is_a_dash_in_every_format(run, tmp_path):
    copy = RunFolder(tmp_path / "partial")
    shutil.copytree(run.path, copy.path)
    lines = (copy.path / "scores.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("basic,0,gaussian_blur,0.9,")]
    copy.write("scores.csv", "".join(kept))
    [table] = [t for t in build_tables(read_contents(copy)) if t.name == "accuracy_gaussian_blur"]
    assert table.cells()[0][2] == "–"
    assert table.cells()[1][2] != "–"


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


def test_markdown_escapes_names(run, names):
    text = (run.path / "tables/accuracy_gaussian_blur.md").read_text()
    assert "<" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; &amp; 50% of a\_b \| \\input{x}" in text


def test_figures_are_xml_and_pictures_of_the_same_shape(run, names):
    for path in (run.path / "figures").glob("*.svg"):
        root = ET.fromstring(path.read_text())
        width, height = (float(root.attrib[side]) for side in ("width", "height"))
        with Image.open(path.with_suffix(".png")) as picture:
            picture.load()
            assert picture.size == pytest.approx((2 * width, 2 * height), abs=2)
            assert 300 < width < 1000
            assert 200 < height < 1400
            colors = picture.convert("L").getcolors()
            assert picture.getpixel((0, 0)) == (255, 255, 255)
            assert len(colors) > 20


def svg_texts(run: RunFolder, name: str) -> list[str]:
    root = ET.fromstring((run.path / "figures" / f"{name}.svg").read_text())
    return [
        "".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_level_figures_name_shifts_models_units_and_intervals(run, names):
    for name, label in (("accuracy", "Accuracy"), ("rms_calibration_error", "RMS calibration")):
        texts = svg_texts(run, name)
        for words in ("Brightness", "Gaussian blur", "brightness factor f", "clean", HOSTILE):
            assert words in texts
        assert any(text.startswith(label) for text in texts)
        assert any("95 % intervals; n = 200 test images" in text for text in texts)


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
    assert {"0.30 × " + HOSTILE_CLASS, "+ 0.70 × 1"} <= set(svg_texts(run, "mixup"))


def test_reliability_shows_the_least_accurate_level_of_each_shift(run, names):
    conditions = worst_conditions(read_contents(run))
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


def test_a_second_build_gives_the_same_bytes(run, names, tmp_path):
    copy = RunFolder(tmp_path / "again")
    shutil.copytree(run.path, copy.path)
    assert build_report(copy) == names
    for name in names:
        assert (copy.path / name).read_bytes() == (run.path / name).read_bytes(), name


def test_page_loads_nothing_and_runs_nothing(run, page):
    text = (run.path / "report.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "b"}
    policies = [attrs for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert [attrs["content"] for attrs in policies] == [policy]
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")


def test_page_shows_hostile_names_as_text(page):
    assert HOSTILE in page.text
    assert HOSTILE_CLASS in page.text
    assert "<broken>.jpg" in page.text
    assert "<i>NaN</i>" in page.text


def test_page_describes_every_figure(page, names):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len([name for name in names if name.endswith(".svg")])
    assert all(len(image["alt"] or "") > 40 for image in images)


def test_page_answers_first_and_says_how(run, page):
    text = " ".join(page.text.split())
    assert text.index("A synthetic study") < text.index("Basic is right on") < text.index("Summary")
    place = {"model": "basic", "metric": "rms_calibration_error"}
    clean = expected(run, shift="clean", level="none", **place)
    blurred = expected(run, shift="gaussian_blur", level="mean", **place)
    assert f"Its RMS calibration error is {clean} clean" in text
    assert f"{blurred} under Gaussian blur." in text
    for words in ("fairweather run synthetic", "0123abc", "feed", "A CPU", "effective sigma 0.88"):
        assert words in text


def test_every_metric_has_a_formula():
    assert {metric.name.partition("/")[0] for metric in METRICS} == set(FORMULAS)
    assert len({describe_metric(m.name) for m in METRICS if m.alias_of is None}) == len(METRICS) - 3


def test_models_of_one_title_stay_apart(run, tmp_path):
    copy = RunFolder(tmp_path / "twins")
    copy.write("provenance.json", (run.path / "provenance.json").read_text())
    copy.write("scores.csv", (run.path / "scores.csv").read_text())
    study = yaml.safe_load((run.path / "study.yaml").read_text())
    for model in study["models"].values():
        model["title"] = "Twin"
    copy.write("study.yaml", yaml.safe_dump(study, sort_keys=False))
    assert list(read_contents(copy).titles.values()) == [f"Twin ({name})" for name in MODELS]


def test_a_study_without_shifts_is_reported(tmp_path):
    run = make_run(tmp_path / "clean", models={"basic": "Basic"}, sweeps=[], n=50, samples=False)
    names = build_report(run)
    assert "figures/accuracy.svg" not in names
    assert "figures/reliability.svg" in names
    assert "Basic is right on" in Page((run.path / "report.html").read_text()).text


def test_a_run_without_scores_is_refused(run, tmp_path):
    empty = RunFolder(tmp_path / "empty")
    with pytest.raises(InputError, match=r"has no study\.yaml"):
        build_report(empty)
    for name in ("study.yaml", "provenance.json"):
        empty.write(name, (run.path / name).read_text())
    with pytest.raises(InputError, match=r"has no scores\.csv"):
        build_report(empty)
    assert sorted(path.name for path in empty.path.iterdir()) == ["provenance.json", "study.yaml"]


def test_samples_outside_the_run_are_refused(run, tmp_path):
    copy = RunFolder(tmp_path / "escape")
    shutil.copytree(run.path, copy.path)
    copy.write(
        "samples/index.json", json.dumps({"labels": ["1"], "strips": {"clean": "../../x.png"}})
    )
    with pytest.raises(InputError, match="outside the run folder"):
        build_report(copy)

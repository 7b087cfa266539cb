"""The published numbers against the report's tables, and runs built from them against them."""

import csv
import re
import sys
from importlib import resources

import numpy as np
import pandas as pd
import pytest

import fairweather as fw
from fairweather.cli.app import main
from fairweather.errors import InputError
from fairweather.judge.published import (
    PublishedNumber,
    PublishedPair,
    most_precise_numbers,
    read_published,
    read_published_comparison,
)
from fairweather.runs.scores import add_means, estimate_cells, scores_frame
from fairweather.shifts.table import CLEAN, suite
from fairweather.steps.sweeps import describe_shifts
from fairweather.types.measurement import Cell, Score
from fairweather.types.record import DataRecord, ModelRecord, RunSettings
from tests.helpers.commands import fairweather
from tests.helpers.run_folders import (
    change_record,
    copy_run,
    outcomes,
    run_record,
    write_run,
    write_scores,
)

N = 7180
REPORTED = ("basic", "mixup_aug", "mixup_aug_pt")
UNREPORTED = ("basic_1", "pt_0", "pt_1", "pt_2", "pt_3", "pt_4")
PLACES = (("clean", "none"), ("brightness_factor", "mean"), ("gaussian_blur", "mean"))
SHIFTS = suite("paper_pathmnist")
BRIGHTNESS = tuple(shift for shift in SHIFTS if shift.name == "brightness_factor")
# Tables 1 and 2 of the report, copied from its text: clean, brightness, blur.
TABLE_1 = {
    "basic": ("82.3", "36.4", "67.5"),
    "mixup_aug": ("85.9", "48.8", "68.1"),
    "mixup_aug_pt": ("87.6", "50.3", "74.3"),
}
TABLE_2 = {
    "basic": ("0.145", "0.603", "0.278"),
    "mixup_aug": ("0.040", "0.302", "0.168"),
    "mixup_aug_pt": ("0.033", "0.299", "0.111"),
}


def read_rows():
    """The package data, read without the package's own reader."""
    text = (resources.files("fairweather") / "judge" / "paper.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


ROWS = read_rows()


def find(study, model, shift, level, metric, source):
    """The value, as written, of the one row whose source matches."""
    wanted = (study, model, shift, level, metric)
    keys = ("study", "model", "shift", "level", "metric")
    found = [
        row["value"]
        for row in ROWS
        if tuple(row[key] for key in keys) == wanted and re.fullmatch(source, row["source"])
    ]
    assert len(found) == 1, (wanted, source, found)
    return found[0]


def in_run_file(model, shift, level, metric):
    return float(find("pathmnist", model, shift, level, metric, r".*\.jsonl"))


def levels_of(study, shift):
    rows = (row for row in ROWS if row["study"] == study and row["shift"] == shift)
    return list(dict.fromkeys(row["level"] for row in rows if row["level"] != "mean"))


def as_printed(value, metric):
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.3f}"


@pytest.mark.parametrize(
    ("metric", "table", "printed"),
    [("accuracy", "table 1", TABLE_1), ("rms_calibration_error", "table 2", TABLE_2)],
)
@pytest.mark.parametrize("model", REPORTED)
def test_means_over_levels_are_the_printed_tables_to_the_last_digit(model, metric, table, printed):
    for (shift, level), expected in zip(PLACES, printed[model], strict=True):
        levels = levels_of("pathmnist", shift)
        mean = np.mean([in_run_file(model, shift, each, metric) for each in levels])
        assert len(levels) == (1 if shift == "clean" else 4)
        assert as_printed(mean, metric) == expected
        shipped = float(find("pathmnist", model, shift, level, metric, table))
        assert as_printed(shipped, metric) == expected


def test_printed_levels_are_the_run_files_rounded_but_for_one():
    different = []
    for shift, table in (("brightness_factor", "table 3"), ("gaussian_blur", "table 4")):
        for model in REPORTED:
            for level in levels_of("pathmnist", shift):
                printed = find("pathmnist", model, shift, level, "accuracy", table)
                exact = in_run_file(model, shift, level, "accuracy")
                if f"{exact:.3f}" != printed:
                    different.append((model, shift, level, printed, f"{exact:.5f}"))
    assert different == [("mixup_aug_pt", "brightness_factor", "0.9", "0.721", "0.72173")]


@pytest.mark.parametrize(
    ("shift", "table"), [("brightness_factor", "table 7"), ("gaussian_blur", "table 8")]
)
@pytest.mark.parametrize("model", ["no_pretraining", "supervised", "self_supervised"])
def test_printed_levels_average_to_the_printed_mean_within_rounding(model, shift, table):
    levels = levels_of("oxford-pets", shift)
    assert len(levels) == 4
    values = [float(find("oxford-pets", model, shift, each, "accuracy", table)) for each in levels]
    mean = float(find("oxford-pets", model, shift, "mean", "accuracy", "table 5"))
    assert abs(np.mean(values) - mean) < 0.001


def test_the_data_are_complete_and_say_where_they_are_from():
    assert len({tuple(row.values()) for row in ROWS}) == len(ROWS) == 153
    sources = [row["source"] for row in ROWS]
    assert [sources.count(f"table {i}") for i in range(1, 9)] == [9, 9, 12, 12, 9, 9, 12, 12]
    assert all(bool(row["decimals"]) == row["source"].startswith("table") for row in ROWS)
    for row in ROWS:
        if row["decimals"]:
            assert len(row["value"].partition(".")[2]) == int(row["decimals"])
        elif row["metric"] == "accuracy":
            assert float(row["value"]) * N == pytest.approx(round(float(row["value"]) * N))


@pytest.mark.parametrize(
    ("study", "name"), [("pathmnist", "paper_pathmnist"), ("oxford-pets", "paper_pets")]
)
def test_the_published_cells_are_the_suites_of_the_package(study, name):
    cells = {
        row["cell"]
        for row in ROWS
        if row["study"] == study and row["shift"] != "clean" and row["level"] != "mean"
    }
    assert cells == {shift.id for shift in suite(name)}
    for shift in suite(name):
        levels = {row["level"] for row in ROWS if row["cell"] == shift.id and row["study"] == study}
        assert levels == {shift.level_name}


def test_a_number_of_a_run_file_stands_for_the_printed_one():
    pathmnist, pets = read_published("paper")
    for number in most_precise_numbers(pathmnist):
        assert number.source.removeprefix("mean of ").endswith(".jsonl")
    assert {number.source for number in most_precise_numbers(pets)} == {
        f"table {i}" for i in range(5, 9)
    }


def predictions(accuracy, error, n, classes):
    """Every confidence is accuracy + error, in one bin: the RMS calibration error is the error."""
    right = np.random.default_rng(0).permutation(n) < round(accuracy * n)
    return outcomes(right, confidence=accuracy + error, classes=tuple(map(str, range(classes))))


def make_run(path, numbers, *, data, size, shifts, n, classes, models, seeds=(0,), settings=None):
    """A run whose predictions have these numbers: (model, seed, shift) -> (accuracy, error)."""
    entry = {"backbone": "timm:resnet18", "weights": "none", "recipe": {"epochs": 5}}
    entry |= settings or {}
    record = run_record(
        {name: ModelRecord(title=title, settings=entry) for name, title in models.items()},
        describe_shifts(shifts),
        data=DataRecord(
            name=data, classes=tuple(map(str, range(classes))), notes={"size": list(size)}
        ),
        seeds=seeds,
        settings=RunSettings(bootstrap=100),
    )
    cells = [
        Cell(model, seed, shift) for model in models for seed in seeds for shift in (CLEAN, *shifts)
    ]

    def read(cell):
        return predictions(*numbers(cell.model, cell.seed, cell.shift), n, classes)

    estimates = estimate_cells(cells, read, record.settings.bootstrap)
    return write_run(path, record, scores_frame(add_means(estimates)))


def published_numbers(model, seed, shift):
    place = (model, shift.name, shift.level_name)
    return in_run_file(*place, "accuracy"), in_run_file(*place, "rms_calibration_error")


PATHMNIST = {
    "data": "pathmnist@28",
    "size": [28, 28],
    "shifts": SHIFTS,
    "n": N,
    "classes": 9,
    "models": {name: name for name in REPORTED},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "paper", published_numbers, **PATHMNIST)


@pytest.fixture
def copy(run, tmp_path):
    return copy_run(run, tmp_path / "copy")


def row(table, *key):
    wanted = (table[["model", "shift", "level", "metric"]] == list(key)).all(axis=1)
    assert wanted.sum() == 1, key
    return table[wanted].iloc[0]


def test_a_run_of_the_published_numbers_differs_by_nothing(run):
    table = fw.compare_with_published(run)
    measured = table[table["model"].isin(REPORTED)]
    assert len(measured) == 3 * 2 * (1 + 2 + 8)
    assert measured["difference"].abs().max() < 1e-8  # scores.csv has eight digits
    assert measured["inside"].all()
    assert (measured["n"] == N).all()
    assert (measured["low"] < measured["high"]).all()
    for metric, printed in (("accuracy", TABLE_1), ("rms_calibration_error", TABLE_2)):
        for model in REPORTED:
            values = [row(table, model, *place, metric)["measured"] for place in PLACES]
            assert [as_printed(value, metric) for value in values] == list(printed[model])


def test_what_was_published_and_not_measured_is_there_and_empty(run):
    table = fw.compare_with_published(run.path)
    missing = table[~table["model"].isin(REPORTED)]
    assert tuple(missing["model"]) == UNREPORTED
    assert (missing["metric"] == "accuracy").all()
    assert missing[["measured", "low", "high", "n", "difference", "inside"]].isna().all(axis=None)
    assert missing["published"].notna().all()
    text = str(read_published_comparison(run))
    assert f"Published, not in the run: the models {', '.join(UNREPORTED)}." in text
    assert "66 of the 66 published numbers" in text
    assert "6 were not measured" in text
    assert text.count("not measured") == 6 + 1


def test_clean_and_means_come_first_and_models_stand_together(run):
    table = fw.compare_with_published(run)
    summary = (table["shift"] == "clean") | (table["level"] == "mean")
    first = table[: summary.sum()]
    assert summary[: len(first)].all()
    assert list(first["metric"].unique()) == ["accuracy", "rms_calibration_error"]
    assert tuple(first["model"][:3]) == REPORTED
    blur = table[~summary & (table["shift"] == "gaussian_blur") & (table["model"] == "basic")]
    assert list(blur["level"][:4]) == ["0.3", "0.5", "0.7", "0.9"]


def test_the_standard_error_is_binomial_and_only_where_it_is_known(run):
    table = fw.compare_with_published(run)
    clean = row(table, "basic", "clean", "none", "accuracy")
    assert clean["standard_error"] == pytest.approx(np.std([1] * 5910 + [0] * 1270) / np.sqrt(N))
    known = table["standard_error"].notna()
    assert (known == ((table["metric"] == "accuracy") & (table["level"] != "mean"))).all()
    assert "a binomial standard error of 0.4 to 0.6 percentage points (n = 7,180)" in str(
        read_published_comparison(run)
    )


def test_a_number_that_moved_is_outside_and_no_other(tmp_path):
    def moved(model, seed, shift):
        accuracy, error = published_numbers(model, seed, shift)
        if model == "basic" and shift.id == "brightness_factor,factor=0.9":
            return accuracy - 360 / N, error
        return accuracy, error

    small = PATHMNIST | {"models": {"basic": "Basic"}, "shifts": BRIGHTNESS}
    comparison = read_published_comparison(make_run(tmp_path / "run", moved, **small))
    table = comparison.table
    outside = table[~table["inside"].fillna(True)]
    assert list(zip(outside["level"], outside["metric"], strict=True)) == [
        ("mean", "accuracy"),
        ("0.9", "accuracy"),
    ]
    np.testing.assert_allclose(outside["difference"], [-90 / N, -360 / N], atol=1e-8)
    assert "10 of the 12 published numbers" in comparison.notes[0]
    assert "4 of 6 for Accuracy (%), 6 of 6 for RMS calibration error" in comparison.notes[0]
    (shown,) = (line for line in comparison.main.body if line[2] == "0.9" and line[-1] == "no")
    assert shown[:4] == ["Basic", "Brightness", "0.9", "Accuracy"]
    assert shown[4].startswith("53.8 [")
    assert shown[5:] == ["58.8", "−5.0", "no"]


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [(0.4, 0.5, True), (0.5, 0.6, True), (0.4, 0.49, False), (0.51, 0.6, False)],
)
def test_an_interval_holds_its_ends(low, high, inside):
    number = PublishedNumber("basic", "clean", "none", "accuracy", 0.5, "table 1")
    pair = PublishedPair(number, "basic", 0.01, Score(0.55, low, high, 100))
    assert pair.is_inside is inside
    assert pair.difference == pytest.approx(0.05)


def test_a_mean_over_other_levels_is_not_compared(copy):
    def drop(facts):
        facts["sweeps"][1]["cells"].pop()

    copy = change_record(copy, drop)
    table = fw.compare_with_published(copy)
    empty = table[table["measured"].isna() & table["model"].isin(REPORTED)]
    assert set(zip(empty["shift"], empty["level"], strict=True)) == {
        ("gaussian_blur", "0.9"),
        ("gaussian_blur", "mean"),
    }
    assert len(empty) == 3 * 2 * 2
    assert "the run has gaussian_blur,sigma=0.3,kernel_size=5; " in str(
        read_published_comparison(copy)
    )


def test_a_mean_over_more_levels_is_not_compared(copy):
    def add(facts):
        facts["sweeps"][0]["cells"].append({"id": "brightness_factor,factor=2", "level": 2.0})

    copy = change_record(copy, add)
    table = fw.compare_with_published(copy)
    empty = table[table["measured"].isna() & table["model"].isin(REPORTED)]
    assert set(empty["level"]) == {"mean"}
    assert set(empty["shift"]) == {"brightness_factor"}


def test_another_kernel_is_another_shift(copy):
    def widen(facts):
        for cell in facts["sweeps"][1]["cells"]:
            cell["id"] = cell["id"].replace("kernel_size=5", "kernel_size=7")

    copy = change_record(copy, widen)
    table = fw.compare_with_published(copy)
    assert table[table["shift"] == "gaussian_blur"]["measured"].isna().all()
    assert table[table["shift"] == "brightness_factor"]["measured"].notna().all()


def test_a_shift_that_was_not_run_is_named(copy):
    text = str(read_published_comparison(change_record(copy, lambda facts: facts["sweeps"].pop())))
    assert "Gaussian blur: published for gaussian_blur,sigma=0.3,kernel_size=5; " in text
    assert "the run has none." in text


def test_with_several_seeds_their_mean_is_compared(tmp_path):
    def spread(model, seed, shift):
        accuracy, error = published_numbers(model, seed, shift)
        return accuracy + (72 if seed else -72) / N, error

    small = PATHMNIST | {"models": {"basic": "Basic"}, "shifts": BRIGHTNESS}
    run = make_run(tmp_path / "run", spread, **small, seeds=(0, 1))
    table = fw.compare_with_published(run).dropna(subset="measured")
    assert len(table) == 12
    assert table["difference"].abs().max() < 1e-8
    assert "mean of 2 seeds" in str(read_published_comparison(run))


def test_the_pets_are_compared_with_the_printed_tables(tmp_path):
    def printed(model, seed, shift):
        place = (model, shift.name, shift.level_name)
        accuracy = float(find("oxford-pets", *place, "accuracy", "table .*"))
        level = "none" if shift.level is None else "mean"
        where = (model, shift.name, level, "rms_calibration_error", "table 6")
        return accuracy, -float(find("oxford-pets", *where))

    pets = {
        "data": "oxford-iiit-pet",
        "size": [64, 64],
        "shifts": suite("paper_pets"),
        "n": 1000,
        "classes": 37,
        "models": {"supervised": "Supervised", "mine": "Mine"},
    }

    def with_mine(model, seed, shift):
        return printed("supervised", seed, shift)

    comparison = read_published_comparison(make_run(tmp_path / "run", with_mine, **pets))
    table = comparison.table.dropna(subset="measured")
    assert len(table) == 3 * 2 + 8
    assert table["difference"].abs().max() < 1e-3  # the printed mean is of unrounded levels
    assert table[table["level"] != "mean"]["difference"].abs().max() < 1e-8
    assert table["standard_error"].isna().all()
    assert set(table["source"]) == {"table 5", "table 6", "table 7", "table 8"}
    text = str(comparison)
    assert "In the run, not published: the models mine." in text
    assert "Published, not in the run: the models no_pretraining, self_supervised." in text
    assert "Other images" not in text
    assert "binomial" not in text


def test_a_published_row_is_compared_with_a_model_of_another_name(run):
    plain = fw.compare_with_published(run)
    comparison = read_published_comparison(run, rows={"mixup_aug_pt": "basic"})
    table = comparison.table
    assert (plain["published_model"] == plain["model"]).all()
    assert list(table["published_model"]) == list(plain["model"])
    mine = table[table["published_model"] == "mixup_aug_pt"].reset_index(drop=True)
    basic = plain[plain["model"] == "basic"].reset_index(drop=True)
    theirs = plain[plain["model"] == "mixup_aug_pt"].reset_index(drop=True)
    assert (mine["model"] == "basic").all()
    assert (mine[["shift", "level", "metric"]] == basic[["shift", "level", "metric"]]).all(
        axis=None
    )
    np.testing.assert_array_equal(mine["measured"], basic["measured"])
    np.testing.assert_array_equal(mine["published"], theirs["published"])
    text = str(comparison)
    assert "(basic) is compared with the published MixUp + Aug + PT (mixup_aug_pt), as" in text
    assert "In the run, not published: the models mixup_aug_pt." in text
    assert "Published, not in the run: the models basic_1, " in text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"mixup_aug_ptt": "basic"}, "mixup_aug_ptt.*mixup_aug_pt"),
        ({"mixup_aug_pt": "basics"}, "basics.*basic"),
    ],
)
def test_unknown_names_of_rows_are_refused_with_the_closest(run, rows, words):
    with pytest.raises(InputError, match=words):
        fw.compare_with_published(run, rows=rows)


def end_of(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fairweather", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["mixup_aug_pt"], "--match takes PUBLISHED=MODEL, found mixup_aug_pt"),
        (["mixup_aug_pt="], "--match takes PUBLISHED=MODEL, found mixup_aug_pt="),
        (["basic=a", "basic=b"], "--match basic=... is given twice"),
    ],
)
def test_other_forms_of_as_are_refused(run, asked, words, monkeypatch, capsys):
    options = [part for each in asked for part in ("--match", each)]
    assert end_of(monkeypatch, run.path, "paper", *options) == 2
    assert capsys.readouterr().err.strip().endswith(words)


def test_as_is_for_published_numbers_only(run, monkeypatch, capsys):
    assert end_of(monkeypatch, run.path, run.path, "--match", "basic=basic") == 2
    assert "is a run" in capsys.readouterr().err


def test_the_command_compares_rows_of_other_names(copy, monkeypatch, capsys):
    assert end_of(monkeypatch, copy.path, "paper", "--match", "mixup_aug_pt=basic") in (0, None)
    assert "as asked" in capsys.readouterr().out


def test_what_a_reader_has_to_know_is_said(run, copy):
    text = str(read_published_comparison(run))
    assert "does not prove" in text
    assert "not other seeds" in text
    assert "bias-corrected" in text
    assert "mixup_aug_pt: the report calls its batch norm frozen" in text
    assert "Other images" not in text
    copy = change_record(copy, lambda facts: facts["data"]["notes"].update(size=[64, 64]))
    write_scores(copy, copy.scores.assign(n=100))
    text = str(read_published_comparison(copy))
    assert "on 28 x 28 pixels, the run's on 64 x 64" in text
    assert "on 7,180 test images, the run's on 100" in text


@pytest.mark.parametrize(
    ("name", "classes", "words"),
    [
        ("mnist5k", 9, "the run is on mnist5k (9 classes), the paper's numbers are on pathmnist"),
        ("pathmnist", 3, "the run is on pathmnist (3 classes)"),
        ("folder:pathmnist", 9, "the run is on folder:pathmnist"),
    ],
)
def test_other_data_are_refused_in_one_sentence(copy, name, classes, words):
    other = {"name": name, "classes": list("abcdefghi"[:classes])}
    copy = change_record(copy, lambda facts: facts["data"].update(other))
    with pytest.raises(InputError, match=re.escape(words)):
        fw.compare_with_published(copy)


@pytest.mark.parametrize("name", ["pathmnist", "pathmnist@28", "pathmnist@64"])
def test_a_resolution_does_not_make_other_data(copy, name):
    copy = change_record(copy, lambda facts: facts["data"].update(name=name))
    assert fw.compare_with_published(copy)["inside"].sum() == 66


def test_other_models_are_refused_in_one_sentence(copy):
    def rename(facts):
        facts["models"] = {f"my_{name}": model for name, model in facts["models"].items()}

    copy = change_record(copy, rename)
    write_scores(copy, copy.scores.assign(model="my_" + copy.scores["model"]))
    words = "the run has the models my_basic, my_mixup_aug, my_mixup_aug_pt; on PathMNIST the paper"
    with pytest.raises(InputError, match=f"{words} has basic, mixup_aug, mixup_aug_pt, basic_1"):
        fw.compare_with_published(copy)


def test_names_cannot_break_out_of_the_tables(copy):
    title = "a|b & <i> 5% $x_y"
    copy = change_record(copy, lambda facts: facts["models"]["basic"].update(title=title))
    files = read_published_comparison(copy).files()
    markdown = files["tables/compare_paper.md"].splitlines()
    rows = [line for line in markdown if line.startswith("|")]
    assert len(rows) == 2 + 72
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {9}
    assert not any("<i>" in line for line in markdown)
    latex = [line for line in files["tables/compare_paper.tex"].splitlines() if "a|b" in line]
    assert latex == []
    assert (
        r"a\textbar{}b \& \textless{}i\textgreater{} 5\% \$x\_y & Clean"
        in (files["tables/compare_paper.tex"])
    )
    body = files["tables/compare_paper.tex"].split(r"\midrule")[1].split(r"\bottomrule")[0]
    lines = body.strip().splitlines()
    assert len(lines) == 72
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {7}


def test_the_command_prints_the_table_and_writes_it_into_the_run(copy, tmp_path):
    done = fairweather("compare", "copy", "paper", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "next    open copy/tables/compare_paper.md\n")
    first = done.stdout.splitlines()[1]
    assert re.fullmatch(
        r"basic +Clean +– +Accuracy +82\.3 \[8\d\.\d, 8\d\.\d\] +82\.3 +\+0\.0 +yes", first
    )
    assert "66 of the 66" in done.stdout
    assert "table   copy/tables/compare_paper.md" in done.stdout
    written = {path.name for path in (copy.path / "tables").iterdir()}
    assert written == {"compare_paper.md", "compare_paper.csv", "compare_paper.tex"}
    table = pd.read_csv(copy.path / "tables/compare_paper.csv", dtype={"level": str})
    expected = fw.compare_with_published(copy)
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_allclose(table["published"], expected["published"], rtol=1e-7)
    np.testing.assert_allclose(table["measured"], expected["measured"], rtol=1e-7)
    assert table["inside"].dropna().astype(bool).sum() == 66


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["copy", "papre"], "unknown run folder or reference 'papre'; did you mean 'paper'? known"),
        (["copy", "paper"], "the run is on mnist5k (9 classes)"),
        (["nowhere", "paper"], "nowhere holds no run"),
        (["copy"], "Missing argument"),
    ],
)
def test_mistakes_end_with_status_2_and_one_sentence(
    copy, tmp_path, monkeypatch, capsys, arguments, words
):
    change_record(copy, lambda facts: facts["data"].update(name="mnist5k"))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fairweather", "compare", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_another_training_is_said(tmp_path):
    small = PATHMNIST | {"models": {"basic": "Basic"}, "shifts": BRIGHTNESS}
    settings = {"width": 0.5, "recipe": {"epochs": 5, "augmix": {"width": 3}, "ema_decay": None}}
    run = make_run(tmp_path / "run", published_numbers, **small, settings=settings)
    notes = read_published_comparison(run).notes
    assert any("Other training: basic has backbone timm:resnet18 instead of" in n for n in notes)
    own = "Other training: basic has augmix width 3, width 0.5; the published runs did not."
    assert own in notes
    change_record(run, lambda facts: facts["models"]["basic"]["settings"].pop("recipe"))
    notes = read_published_comparison(run.path).notes
    assert any("did not train basic" in note for note in notes)
    assert own not in notes


def test_other_training_labels_are_said(copy):
    noisy = {"label_noise": 0.25, "imbalance": 0.5, "verified": False}
    copy = change_record(copy, lambda facts: facts["data"]["notes"].update(noisy))
    notes = read_published_comparison(copy).notes
    assert (
        "Other training labels: label_noise 0.25 and imbalance 0.5; the published runs had neither."
    ) in notes
    assert any("not verified" in note for note in notes)
    plain = {"label_noise": 0.0, "imbalance": 1.0, "verified": True}
    copy = change_record(copy, lambda facts: facts["data"]["notes"].update(plain))
    assert "label_noise" not in str(read_published_comparison(copy))

"""The result of `run` and `evaluate`: a folder, its scores, its report, and an overview."""

import math
import re
import shutil

import pytest

import fairweather as fw
from fairweather.errors import InputError
from fairweather.runs.claims import lock_run
from fairweather.types.measurement import Scores, format_number
from tests.helpers.commands import fairweather
from tests.helpers.run_folders import run_record, sweep_record, write_run

SWEEPS = (
    sweep_record("fog", {1: "fog,severity=1", 2: "fog,severity=2"}),
    sweep_record("pgd", {0.1: "pgd,epsilon=0.1"}, kind="attack"),
)


def rows(model, seed, clean, fog, pgd):
    cells = {
        ("clean", "none"): clean,
        ("fog", "1"): fog + 0.1,
        ("fog", "2"): fog - 0.1,
        ("fog", "mean"): fog,
        ("fog", "worst"): fog - 0.1,
        ("pgd", "0.1"): pgd,
        ("pgd", "mean"): pgd,
        ("all", "mean"): fog,
        ("validation", "none"): 0.99,
        ("priors/even", "none"): 0.5,
    }
    for (shift, level), value in cells.items():
        ends = (math.nan, math.nan) if shift == "pgd" else (value - 0.01, value + 0.01)
        yield model, seed, shift, level, "accuracy", value, *ends, 100
        yield model, seed, shift, level, "brier_score", 0.123, 0.1, 0.2, 100
    yield model, seed, "clean", "none", "confidence_gap", 0.05, 0.04, 0.06, 100
    yield model, seed, "fog", "mean", "confidence_gap", -0.01, -0.02, 0, 100


def run_of(path, *scores, **facts):
    models = {"basic": "Basic <b>", "mixup": "MixUp"}
    write_run(path, run_record(models, SWEEPS, **facts), [row for each in scores for row in each])
    return fw.Run(path)


def shown(run):
    """The cells of the overview's lines, the header first."""
    return [re.split(r"\s{2,}", line.strip()) for line in run.overview().splitlines()]


def test_no_page_is_made_while_another_process_writes_scores(tmp_path):
    run = run_of(tmp_path, rows("basic", "0", 0.9, 0.6, 0.1))
    with lock_run(tmp_path), pytest.raises(InputError, match="another process is working in"):
        run.report()
    with lock_run(tmp_path):
        done = fairweather("report", tmp_path)
    assert done.returncode == 2
    assert "another process is working in" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_the_overview_is_of_clean_images_and_of_means_over_levels(tmp_path):
    run = run_of(
        tmp_path, rows("basic", "0", 0.9, 0.6, 0.1), rows("mixup", "0", 0.85, 0.7123456, 0.2)
    )
    first = f"Run({str(tmp_path)!r}): synthetic; models: basic, mixup"
    assert repr(run).splitlines() == [first, *run.overview().splitlines()]
    assert shown(run) == [
        ["model", "images", "accuracy (%)", "confidence − accuracy"],
        ["basic", "clean", "90.0 [89.0, 91.0]", "+5.0 [+4.0, +6.0]"],
        ["fog", "60.0 [59.0, 61.0]", "−1.0 [−2.0, +0.0]"],
        ["pgd", "10.0 (too few errors)", "–"],
        ["all", "60.0 [59.0, 61.0]", "–"],
        ["mixup", "clean", "85.0 [84.0, 86.0]", "+5.0 [+4.0, +6.0]"],
        ["fog", "71.2 [70.2, 72.2]", "−1.0 [−2.0, +0.0]"],
        ["pgd", "20.0 (too few errors)", "–"],
        ["all", "71.2 [70.2, 72.2]", "–"],
    ]


def test_a_long_overview_leaves_out_the_single_shifts(tmp_path):
    models = [f"m{number}" for number in range(11)]  # of four lines each: 44
    run = run_of(tmp_path, *(rows(model, "0", 0.9, 0.6, 0.1) for model in models))
    lines = shown(run)[1:]
    assert [line[-3] for line in lines] == ["clean", "all"] * 11


def test_of_several_seeds_their_mean_is_shown(tmp_path):
    seeds = {"0": 0.5, "1": 0.7, "mean": 0.6, "sd": 0.14, "ensemble": 0.8}
    run = run_of(
        tmp_path,
        *(rows("basic", seed, value, value, value) for seed, value in seeds.items()),
        seeds=(0, 1),
        ensemble=True,
        title="Two seeds",
    )
    assert ": Two seeds; models: basic, mixup" in repr(run)
    assert [line[-2][:4] for line in shown(run)[1:]] == ["60.0"] * 4


def test_a_number_that_is_none_is_shown_as_missing(tmp_path):
    ends = (math.nan,) * 3
    run = run_of(tmp_path, [("basic", "0", "clean", "none", "accuracy", *ends, 9)])
    assert shown(run)[1] == ["basic", "clean", "–", "–"]


def test_a_damaged_run_has_a_name_too(tmp_path):
    run = run_of(tmp_path, rows("basic", "0", 0.9, 0.6, 0.1))
    (tmp_path / "record.json").write_text("half a rec")
    assert repr(run) == f"Run({str(tmp_path)!r})"


def test_an_overview_of_scores_without_accuracy_has_no_lines(tmp_path):
    run = run_of(tmp_path, [("basic", "0", "clean", "none", "brier_score", 0.1, 0.1, 0.2, 9)])
    assert len(shown(run)) == 1


def test_a_notebook_gets_a_table_in_which_names_are_text(tmp_path):
    run = run_of(tmp_path, rows("<b>", "0", 0.9, 0.6, 0.1), title="<i> digits")
    html = run._repr_html_()
    assert "<table" in html
    assert "<td>90.0 [89.0, 91.0]</td>" in html
    assert str(tmp_path) in html
    assert html.count("&lt;b&gt;") == html.count("&lt;i&gt; digits") == 1
    assert "<b>" not in html
    assert "<i>" not in html


def test_a_notebook_shows_scores_and_says_where_there_is_no_interval():
    scores = Scores(accuracy=fw.Score(0.98765, 0.9, 1.0, 40), macro_auc=few(0.9))
    assert few(0.9).too_few
    assert scores == {"accuracy": fw.Score(0.98765, 0.9, 1.0, 40), "macro_auc": scores["macro_auc"]}
    rows = re.findall("<tr>(.*?)</tr>", scores._repr_html_())
    cells = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["metric", "value", "low", "high", "n"],
        ["accuracy", "0.9877", "0.9", "1", "40"],
        ["macro_auc", "0.9", "too few", "errors", "40"],
    ]


def few(value):
    return fw.Score(value, math.nan, math.nan, 40)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (fw.make_shift("gaussian_blur", sigma=2.0, kernel_size=5), "shift"),
        (fw.make_attack("pgd", epsilon=8 / 255, steps=5), "attack"),
    ],
)
def test_a_notebook_shows_shifts_and_attacks_with_their_parameters(change, kind):
    html = change._repr_html_()
    assert f"<th>{kind}</th><th>{change.name}</th>" in html
    for name, value in change.parameters.items():
        assert f"<td>{name}</td><td>{format_number(value)}</td>" in html


def test_what_a_shift_shows_is_text():
    strange = fw.Shift("<b>", 1.0, {"<i>": "<u>"}, lambda images, keys, seed: images)
    html = strange._repr_html_()
    assert not re.search("<[biu]>", html)
    assert "&lt;u&gt;" in html


def test_a_run_without_scores_says_what_it_is(tmp_path):
    write_run(tmp_path, run_record({"basic": "Basic"}))
    run = fw.Run(tmp_path)
    assert repr(run) == f"Run({str(tmp_path)!r}): synthetic; models: basic"
    assert "synthetic" in run._repr_html_()
    assert "<table" not in run._repr_html_()


def test_a_folder_that_holds_no_run_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"no run: .*record\.json"):
        _ = fw.Run(tmp_path).record


def test_the_scores_and_the_record_are_those_of_the_folder_and_the_report_is_made_again(tmp_path):
    folder = write_run(tmp_path, run_record({"basic": "Basic"}), rows("basic", "0", 0.9, 0.6, 0.1))
    run = fw.Run(str(tmp_path))
    assert run.record == folder.record
    assert run.scores.equals(folder.scores)
    assert run.folder.path == run.path == tmp_path
    page = run.report()
    assert page == tmp_path / "report.html"
    content = page.read_bytes()
    page.unlink()
    shutil.rmtree(tmp_path / "tables")
    assert run.report().read_bytes() == content
    assert (tmp_path / "tables").is_dir()

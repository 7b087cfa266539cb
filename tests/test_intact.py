"""Damaged runs: `check` and `compare` read only files that the run wrote and nobody changed."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli import app as cli
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.runs.folder import RunFolder
from fairweather.types.record import predictions_file, step_file
from tests.helpers.commands import fairweather
from tests.helpers.forking import Program
from tests.helpers.run_folders import copy_run
from tests.helpers.started import started
from tests.judge.test_compare_runs import BLUR, CELLS, FOG, make_model, make_run, predictions, right
from tests.judge.test_comparison import BRIGHTNESS, PATHMNIST, published_numbers
from tests.judge.test_comparison import make_run as make_published_run
from tests.judge.test_rules import SNOW, write_run

pytestmark = pytest.mark.usefixtures("undrawn")

SHIFTED = predictions_file("basic", 0, f"{SNOW},severity=1")
CLEAN = predictions_file("basic", 0, "clean")
VALIDATION = predictions_file("basic", 0, "clean", "val")
RULE, DROP = "basic: accuracy[clean] >= 0.99", f"basic: accuracy[{SNOW}=1] drop <= 1%"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return write_run(folder / "run", validation=write_run(folder / "other").read_predictions(CLEAN))


@pytest.fixture
def run(whole, tmp_path):
    return copy_run(whole, tmp_path / "run")


def improve(path):
    """Edit scores.csv by hand until it passes."""
    head, *rows = path.read_text().splitlines()
    better = [
        ",".join([*row.split(",")[:5], "1", "1", "1", row.split(",")[8]])
        if ",accuracy," in row
        else row
        for row in rows
    ]
    assert better != rows
    path.write_text("\n".join([head, *better, ""]))


def cut_at_a_row(path):
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[: len(rows) // 2]))


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def other_predictions(path):
    run = RunFolder(path.parents[4])
    found = run.read_predictions(CLEAN)
    run.write_predictions(path.relative_to(run.path).as_posix(), found)


def unlink(path):
    path.unlink()


def refused(do, path, words):
    with pytest.raises(InputError) as caught:
        do()
    sentence = str(caught.value)
    assert str(path) in sentence
    assert words in sentence
    assert "\n" not in sentence
    return sentence


DAMAGED, MISSING = "is damaged or was changed", "is missing"


@pytest.mark.parametrize(
    ("rule", "name", "damage", "words"),
    [
        (RULE, "scores.csv", improve, DAMAGED),
        (RULE, "scores.csv", cut_at_a_row, DAMAGED),
        (RULE, "scores.csv", cut, DAMAGED),
        (RULE, "scores.csv", unlink, MISSING),
        (DROP, SHIFTED, other_predictions, DAMAGED),
        (DROP, SHIFTED, cut, DAMAGED),
        (DROP, SHIFTED, unlink, MISSING),
        (DROP, VALIDATION, cut, DAMAGED),
        (DROP, VALIDATION, unlink, MISSING),
    ],
)
def test_a_check_reads_only_what_the_run_wrote(run, rule, name, damage, words):
    assert not judge(run, read_rules([rule]))[0].passed
    damage(run.path / name)
    refused(lambda: judge(run, read_rules([rule])), run.path / name, words)
    again = RunFolder(run.path)
    refused(lambda: judge(again, read_rules([rule])), run.path / name, words)


def test_what_a_check_does_not_read_may_be_gone(run):
    (run.path / SHIFTED).unlink()
    assert judge(run, read_rules(["basic: accuracy[clean] >= 0.5"]))[0].passed


def test_what_no_step_wrote_is_not_read(run):
    (run.path / step_file("scores")).unlink()
    words = "by any step of the run"
    refused(lambda: judge(run, read_rules([RULE])), run.path / "scores.csv", words)


def test_check_ends_with_2_on_damage_and_1_on_a_broken_rule(run, tmp_path):
    report = tmp_path / "check.xml"
    broken = fairweather("check", run.path, RULE)
    assert (broken.returncode, broken.stderr) == (1, f"next    fairweather report {run.path}\n")
    improve(run.path / "scores.csv")
    damaged = fairweather("check", run.path, RULE, "--junit", report)
    assert (damaged.returncode, damaged.stdout) == (2, "")
    assert damaged.stderr.startswith(f"fairweather: {run.path / 'scores.csv'} {DAMAGED}")
    assert len(damaged.stderr.splitlines()) == 1
    assert not report.exists()


def test_a_fault_of_the_program_is_no_broken_rule(run, monkeypatch, capsys):
    def fail(*_, **__):
        raise KeyError("a fault")

    monkeypatch.setattr("fairweather.judge.verdicts.judge_rules", fail)
    monkeypatch.setattr(sys, "argv", ["fairweather", "check", str(run.path), RULE])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.INTERNAL_ERROR == 70
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" in told.err
    assert "KeyError: 'a fault'" in told.err


def test_a_reader_that_stops_early_changes_no_verdict(run):
    kept = "basic: accuracy[clean] >= 0.5"
    for rule, status, begin in ((RULE, 1, subprocess.Popen), (kept, 0, Program)):
        command = [sys.executable, "-m", "fairweather", "check", str(run.path), rule]
        with started(command, begin, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            said = process.stderr.read().splitlines()
            looks = [line for line in said if line.startswith("note")]
            assert said == [*looks, f"next    fairweather report {run.path}"]
        assert process.returncode == status


def test_the_help_says_what_the_status_means():
    done = CliRunner().invoke(cli.app, ["check", "--help"], env={"COLUMNS": "200"})
    for words in ("status 1", "Status 2", "70"):
        assert words in done.output


@pytest.fixture(scope="module")
def two_whole(tmp_path_factory):
    """Two runs that can be compared."""
    folder = tmp_path_factory.mktemp("two")
    shares = dict(zip(CELLS, (0.9, 0.7, 0.5, 0.6), strict=True))
    a = make_run(folder / "a", {"net": {0: make_model(shares)}}, shifts=(FOG, BLUR))
    b = make_run(folder / "b", {"net": {0: make_model(shares, seed=1)}}, shifts=(FOG, BLUR))
    assert len(fw.compare_runs(a, b))
    return a, b


@pytest.fixture
def two(two_whole, tmp_path):
    """Copies of them, to be damaged."""
    return [shutil.copytree(each, tmp_path / each.name) for each in two_whole]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("cell", ["clean", "fog,severity=2"])
@pytest.mark.parametrize("damage", ["edited", "cut", "missing"])
def test_a_comparison_reads_only_what_the_runs_wrote(two, side, cell, damage):
    name = predictions_file("net", 0, cell)
    path = two[side] / name
    if damage == "edited":
        RunFolder(two[side]).write_predictions(name, predictions(right(1.0)))
    elif damage == "cut":
        cut(path)
    else:
        path.unlink()
    words = MISSING if damage == "missing" else DAMAGED
    refused(lambda: fw.compare_runs(*two), path, words)


def test_a_model_whose_clean_predictions_are_gone_is_not_left_out(tmp_path):
    shares = dict.fromkeys(CELLS, 0.7)
    models = {"one": {0: make_model(shares)}, "two": {0: make_model(shares, seed=1)}}
    a, b = make_run(tmp_path / "a", models), make_run(tmp_path / "b", models)
    gone = predictions_file("two", 0, "clean")
    for run in (a, b):
        (run / gone).unlink()
    refused(lambda: fw.compare_runs(a, b), a / gone, "is missing")


@pytest.mark.parametrize(("damage", "words"), [(improve, DAMAGED), (cut_at_a_row, DAMAGED)])
def test_a_comparison_with_the_paper_reads_only_what_the_run_wrote(tmp_path, damage, words):
    small = PATHMNIST | {"models": {"basic": "Basic"}, "shifts": BRIGHTNESS}
    run = make_published_run(tmp_path / "run", published_numbers, **small)
    assert len(fw.compare_with_published(run))
    damage(run.path / "scores.csv")
    for given in (run, run.path, str(run.path)):
        refused(lambda given=given: fw.compare_with_published(given), run.path, words)
    (run.path / "scores.csv").unlink()
    refused(lambda: fw.compare_with_published(run.path), run.path / "scores.csv", "is missing")


def test_compare_ends_with_2_on_damage_and_writes_nothing(two):
    name = predictions_file("net", 0, "clean")
    RunFolder(two[1]).write_predictions(name, predictions(np.ones(200, bool)))
    done = fairweather("compare", *two)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fairweather: {two[1] / name} {DAMAGED}")
    assert len(done.stderr.splitlines()) == 1
    assert not (two[0] / "tables").exists()


@pytest.mark.parametrize("name", ["scores.csv", SHIFTED])
def test_a_report_in_python_reads_only_what_the_run_wrote(run, name):
    (improve if name == "scores.csv" else other_predictions)(run.path / name)
    refused(fw.Run(run.path).report, run.path / name, DAMAGED)
    assert not (run.path / "report.html").exists()


def test_a_description_that_is_cut_off_is_one_sentence(two):
    path = two[0] / "record.json"
    path.write_text(path.read_text()[:-20])
    refused(lambda: fw.compare_runs(*two), path, "is not the record of a fairweather run")

"""Looks at one test set are counted beside the runs; the count never changes a verdict."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest

import fairweather as fw
from fairweather.judge.looks import LEDGER, count_looks, describe_looks
from fairweather.judge.pytest_plugin import check_run
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.runs.folder import RunFolder
from tests.helpers.commands import fairweather
from tests.helpers.prediction_runs import TEST, draw_classes, evaluate_classes, evaluate_findings

RULE, OTHER = "accuracy[clean] >= 50%", "accuracy[clean] >= 60%"
WHAT = "one model judged by one set of rules is a look"


def evaluate_models(folder):
    tables = {
        f"net{number}": draw_classes(("a", "b", "c"), 3.0, number, TEST, "test")
        for number in (1, 2, 3)
    }
    fw.evaluate(
        predictions=tables, key_column="file", bootstrap=100, progress=False, out=folder / "run"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairweather.report.building.explain_missing_addresses", lambda: "left out")
        folder = tmp_path_factory.mktemp("looks")
        evaluate_classes(folder)
        (folder / "other").mkdir()
        evaluate_findings(folder / "other")
        (folder / "better").mkdir()
        evaluate_classes(folder / "better", seeds=2)
        (folder / "several").mkdir()
        evaluate_models(folder / "several")
        return folder


@pytest.fixture
def runs(made, tmp_path):
    """Runs in one folder: two of the same test images, and one of others."""
    for name, place in {
        "one": "run",
        "two": "better/run",
        "findings": "other/run",
        "three": "several/run",
    }.items():
        shutil.copytree(made / place, tmp_path / name)
    return tmp_path


def check(runs, name, *rules):
    ended = fairweather("check", name, *rules, cwd=runs)
    assert ended.returncode == 0, ended.stderr
    notes = [line for line in ended.stderr.splitlines() if line.startswith("note ")]
    return [line.removeprefix("note").strip() for line in notes]


def test_a_first_look_says_nothing_and_a_repeated_one_is_no_new_look(runs):
    assert check(runs, "one", RULE) == []
    assert check(runs, "one", RULE) == []
    assert len((runs / LEDGER).read_text().splitlines()) == 1


def test_other_rules_and_other_predictions_are_new_looks_at_the_same_images(runs):
    check(runs, "one", RULE)
    assert check(runs, "one", OTHER) == [
        f"2 looks at these 160 test images; {WHAT}",
        "to keep 2.5 % over 2 looks, judge each at 1.25 %",
    ]
    told = [
        f"3 looks at these 160 test images; {WHAT}",
        "to keep 2.5 % over 3 looks, judge each at 0.833 %",
    ]
    assert check(runs, "two", RULE) == told
    assert check(runs, "one", RULE) == told


def test_each_model_of_a_run_is_a_look_whether_judged_alone_or_with_others(runs):
    assert check(runs, "three", RULE) == [
        f"3 looks at these 160 test images; {WHAT}",
        "to keep 2.5 % over 3 looks, judge each at 0.833 %",
    ]
    assert check(runs, "three", f"net1: {RULE}")[0].startswith("3 looks ")
    assert check(runs, "three", f"net1: {RULE}", f"net2: {RULE}")[0].startswith("3 looks ")
    assert check(runs, "three", f"net1: {OTHER}")[0].startswith("4 looks ")
    assert check(runs, "three", OTHER)[0].startswith("6 looks ")
    assert len((runs / LEDGER).read_text().splitlines()) == 6


def test_one_check_of_many_rules_is_one_look_in_any_order(runs):
    rules = [RULE, "accuracy[clean] >= 40%", "accuracy[fog] >= 10%"]
    check(runs, "one", *rules)
    assert check(runs, "one", *reversed(rules)) == []


def test_other_test_images_have_looks_of_their_own(runs):
    check(runs, "one", RULE)
    assert check(runs, "findings", "auc[clean] >= 50%") == []
    assert len((runs / LEDGER).read_text().splitlines()) == 2


def test_what_cannot_be_judged_is_no_look(runs):
    assert fairweather("check", "one", "accuracy[snow] >= 50%", cwd=runs).returncode == 2
    assert not (runs / LEDGER).exists()


def test_the_fixture_of_pytest_counts_nothing(runs):
    check_run(runs / "one", RULE)
    assert not (runs / LEDGER).exists()


def test_damaged_lines_are_kept_and_named(runs):
    torn = '{"time": "2026", "test_'
    (runs / LEDGER).write_text(f"[1, 2]\n\x00\xff{torn}", encoding="latin-1")
    assert check(runs, "one", RULE) == [f"not counted: 2 damaged lines of {LEDGER}"]
    first, second, third = (runs / LEDGER).read_text(errors="replace").splitlines()
    assert first == "[1, 2]"
    assert second.endswith(torn)
    assert set(json.loads(third)) == {"time", "run", "test_set", "judged"}


def test_a_folder_that_cannot_be_written_is_a_note(runs, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(runs / LEDGER))

    monkeypatch.setattr("fairweather.judge.looks.write_atomically", refuse)
    [note] = check(runs, "one", RULE)
    assert note.startswith("looks are not counted: ")
    assert "ermission denied" in note


def test_a_ledger_that_leads_elsewhere_is_not_followed(runs, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    elsewhere.write_text("mine")
    (runs / LEDGER).symlink_to(elsewhere)
    [note] = check(runs, "one", RULE)
    assert note.startswith("looks are not counted: ")
    assert elsewhere.read_text() == "mine"


def test_looks_at_once_are_all_counted(runs):
    run = RunFolder(runs / "one")
    judged = [
        judge(run, read_rules([f"accuracy[clean] >= {share}%"]), on="value") for share in range(8)
    ]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda own: count_looks(run, own), judged))
    assert len((runs / LEDGER).read_text().splitlines()) == 8
    assert sorted(int(notes[0].split()[0]) for notes in said if notes) == [*range(2, 9)]


def test_levels_add_up_to_at_most_one_look():
    for looks in (2, 7, 24, 25, 26, 1000, 30_001):
        level = Fraction(describe_looks(looks, 9)[1].split()[-2])
        assert 0.99 * 2.5 < level * looks <= 2.5  # three digits, rounded down

"""What an earlier version wrote about groups, by their former names, is read and continued."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import fairweather as fw
from fairweather.files.yamlfile import read_yaml
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge, summarize_verdicts
from fairweather.metrics import intervals
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.table import METRICS
from fairweather.report.joint_runs import read_runs
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import read_grouping
from fairweather.steps import plan
from fairweather.types.record import RECORD, parse_record
from tests.helpers.run_folders import copy_run
from tests.version_2.patients import write_patients

pytestmark = pytest.mark.usefixtures("undrawn")

SETS = "variants/small+conformal-lac-0.8-images/seed-0/sets.json"
FORMER = Path(__file__).parent.parent / "version_2"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A folder with the images, the table and the run of an earlier version."""
    folder = tmp_path_factory.mktemp("clinic")
    write_patients(folder)
    copy_run(RunFolder(FORMER / "run"), folder / "run")
    return folder


@pytest.fixture(scope="module")
def continued(clinic):
    """The same study, run by the same command with the new name, and what was there before."""
    return run_again(clinic, RunFolder(clinic / "run"))


def run_again(clinic, run):
    """Run the study in a folder of a former run."""
    versions, records = plan.VERSIONS, read_steps(run.path)
    libraries = next(
        record["depends"]["libraries"]
        for record in records.values()
        if "libraries" in record["depends"]
    )
    stored = {record["kind"]: record["depends"]["version"] for record in records.values()}
    metrics = next(
        record["depends"]["metrics"]
        for record in records.values()
        if "metrics" in record["depends"]
    )
    of_classes = {name.partition("/")[0] for name in run.scores["metric"] if "/" in name}
    with (
        pytest.MonkeyPatch.context() as patch,
        keep_alone(METRICS, metrics),
        keep_alone(CLASS_METRICS, of_classes),
    ):
        patch.chdir(clinic)
        # Other libraries, metrics and versions of steps are other work; here only names differ.
        patch.setattr(plan, "LIBRARY_VERSIONS", libraries)
        patch.setattr(plan, "VERSIONS", versions | stored)
        # So are intervals of fewer resamples than usual.
        patch.setattr(intervals, "RESAMPLES", 1)
        study = check_study(read_yaml(FORMER / "study.yaml"))
        fw.run(study, out=run.path, device="cpu")
    return run


@contextmanager
def keep_alone(table, names):
    """Take the other rows out of a table, and put all back in their order."""
    rows = dict(table)
    for name in rows.keys() - set(names):
        del table[name]
    try:
        yield
    finally:
        table.clear()
        table.update(rows)


def read_steps(run):
    """The record of each step but the report, by its path."""
    steps = {
        path.relative_to(run): json.loads(path.read_text())
        for path in (run / "steps").rglob("*.json")
    }
    return {path: record for path, record in steps.items() if record["kind"] != "report"}


def list_repeatable(before, now):
    """The steps with the same files for every version of SciPy, by their paths.

    Another version may end its search for a temperature elsewhere, within its tolerance. Then the
    fit is nearly the same, and all that rests on it has other bytes.
    """
    fits = [path for path, record in before.items() if record["kind"] == "fit"]
    assert fits
    if all(now[path]["files"] == before[path]["files"] for path in fits):
        return set(before)
    return {path for path in before if "+" not in str(path)}


def test_the_stored_files_have_the_former_names():
    """Otherwise nothing here tests what it says."""
    assert "cluster" in pq.read_schema(FORMER / "run/groups/test.parquet").names
    for table in ("scores.csv", "slices.csv"):
        assert "clusters" in pd.read_csv(FORMER / "run" / table, nrows=0).columns
    guard = json.loads((FORMER / "guard/guard.json").read_text())
    assert (guard["version"], guard["promise"]["weigh"]) == (1, "clusters")
    assert guard["fit"]["cluster"] == "patient"
    assert json.loads((FORMER / "run" / RECORD).read_text())["version"] == 2


def test_groups_scores_and_slices_are_read_by_the_new_names():
    run = RunFolder(FORMER / "run")
    groups = run.groups()
    assert (groups.group, list(groups.slices)) == ("patient", ["site"])
    assert np.bincount(groups.numbers).tolist() == [3] * 20
    assert read_grouping(run).count == 20
    assert set(run.scores["groups"]) == {20}
    assert set(run.slice_scores["groups"].dropna()) == {10}
    assert "clusters" not in {*run.scores, *run.slice_scores}


def test_every_step_of_a_former_study_is_finished(continued):
    """Quick steps are done again if the machine is another one, and are the same steps."""
    before, now = read_steps(FORMER / "run"), read_steps(continued.path)
    assert len(before) == 11
    assert before.keys() == now.keys()
    repeatable = list_repeatable(before, now)
    for path, record in before.items():
        assert now[path]["depends"] == record["depends"]
        if path in repeatable and record["kind"] in ("train", "predict"):
            assert now[path] == record
    fitted, again = (
        json.loads((run / SETS).read_text()) for run in (FORMER / "run", continued.path)
    )
    assert again.keys() == fitted.keys()
    for name in ("temperature", "thresholds"):
        assert again.pop(name) == pytest.approx(fitted.pop(name), rel=1e-6)
    assert again == fitted


def test_a_run_continues_after_its_groups_alone_were_written_by_the_new_names(clinic, tmp_path):
    """As an interruption leaves it: other bytes of the same groups, and fits made from the old."""
    run = RunFolder(tmp_path / "run")
    copy_run(RunFolder(FORMER / "run"), run.path)
    step = run.step("groups")
    for name in step.files:
        run.write_groups(name, run.groups(Path(name).stem))
    checksums = {name: run.checksum(name) for name in step.files}
    assert not checksums.items() & step.files.items()
    run.finish(step.model_copy(update={"files": checksums}))
    before = read_steps(run.path)
    run_again(clinic, run)  # without `replace`
    now = read_steps(run.path)
    repeatable = list_repeatable(before, now)
    for path in repeatable:
        record = before[path]
        assert now[path]["files"] == record["files"] or record["kind"] in ("score", "sample")
        if record["kind"] in ("train", "predict"):
            assert now[path] == record


@pytest.mark.parametrize("table", ["scores", "slice_scores"])
def test_scores_that_are_made_again_differ_in_their_header_alone(continued, table):
    before, now = getattr(RunFolder(FORMER / "run"), table), getattr(continued, table)
    pd.testing.assert_frame_equal(now, before, rtol=1e-6)


def test_a_former_run_is_reported(continued):
    table = (continued.path / "tables/slices_site.md").read_text()
    assert "Groups (patient)" in table
    assert "site=A" in table


def test_notes_on_shared_groups_have_the_new_name():
    raw = json.loads((FORMER / "run" / RECORD).read_text())
    raw["data"]["notes"]["shared_clusters"] = ["2 of 9 values of patient"]
    notes = parse_record(json.dumps(raw), RECORD).data.notes
    assert notes["shared_groups"] == ["2 of 9 values of patient"]
    assert "shared_clusters" not in notes


def test_a_former_run_is_judged_over_groups():
    rules = read_rules(["accuracy[clean] >= 0.5", "accuracy[clean|worst site] >= 0.5"])
    verdicts = judge(RunFolder(FORMER / "run"), rules)
    assert {"20 in the test set", "10 in site=A"} <= {
        f"{count} in {name}" for verdict in verdicts for name, count in verdict.groups.items()
    }
    assert "belong to groups" in summarize_verdicts(verdicts)


def test_a_former_run_is_compared_and_read_beside_others(continued):
    former = FORMER / "run"
    table = fw.compare_runs(former, continued.path)
    assert len(table)
    assert (table["difference"].abs() <= 1e-12).all()  # sums, perhaps in another order
    assert read_runs([RunFolder(former), continued])


def test_a_former_guard_answers_as_before(clinic):
    guard = fw.load_guard(FORMER / "guard", device="cpu")
    assert guard.record.promise.weigh == "groups"
    assert guard.record.fit.group == "patient"
    images = fw.load_data(f"folder:{clinic / 'clinic'}").test.images
    answers = guard(images)
    clean = next(kept for kept in guard.record.kept if kept.images == "clean")
    assert answers.answered.mean() == pytest.approx(clean.answered)


def test_a_guard_is_made_of_a_former_run(clinic, continued, monkeypatch):
    monkeypatch.chdir(clinic)
    made = fw.load_guard(continued.path, risk=0.4, coverage=0.8, device="cpu")
    stored = fw.load_guard(FORMER / "guard", device="cpu")
    fits = [guard.record.fit.model_dump(exclude={"limits"}) for guard in (made, stored)]
    assert fits[0] == pytest.approx(fits[1])
    assert made.record.fit.limits == stored.record.fit.limits == ()

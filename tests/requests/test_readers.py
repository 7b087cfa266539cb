"""Runs with readers: of predictions and of models, of findings and of classes."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.metrics.readers import compare_with_readers
from fairweather.types.measurement import UNKNOWN
from tests.helpers.commands import fairweather
from tests.helpers.finding_models import NAMES, Stripes, draw_dataset

pytestmark = pytest.mark.usefixtures("undrawn")

N = 150
QUIET = {"bootstrap": 100, "progress": False}


def draw(classes=2, readers=("ann", "bob", "eve"), seed=0):
    """Predictions with labels, and what readers call the images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=N)
    logits = rng.normal(size=(N, classes)) + 2 * np.eye(classes)[labels]
    names = [f"{'abc'[at]}" for at in range(classes)]
    table = pd.DataFrame(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), columns=names)
    keys = [f"p{at:03d}.png" for at in range(N)]
    table.insert(0, "label", [names[label] for label in labels])
    table.insert(0, "file", keys)
    calls = pd.DataFrame({"file": keys})
    for reader in readers:
        called = np.where(rng.random(N) < 0.25, rng.integers(classes, size=N), labels)
        calls[reader] = [names[call] for call in called]
    return table, calls


@pytest.fixture(scope="module")
def classes_run(tmp_path_factory):
    table, calls = draw(3)
    calls.loc[:9, "ann"] = ""
    out = tmp_path_factory.mktemp("readers") / "run"
    return table, calls, fw.evaluate(predictions=table, readers=calls, out=out, **QUIET)


def test_readers_of_classes_have_the_rates_of_the_confusion_matrix(classes_run):
    table, calls, run = classes_run
    rows = pd.read_csv(run.path / "tables/readers.csv").set_index(["unit", "reader"])
    for reader in ("ann", "bob", "eve"):
        read = calls[reader] != ""
        matrix = confusion_matrix(table["label"][read], calls[reader][read], labels=list("abc"))
        for at, name in enumerate("abc"):
            row = rows.loc[(f"class={name}", reader)]
            others = np.delete(np.arange(3), at)
            assert row["sensitivity"] == pytest.approx(matrix[at, at] / matrix[at].sum())
            expected = matrix[np.ix_(others, others)].sum() / matrix[others].sum()
            others_right = 1 - matrix[others, at].sum() / matrix[others].sum()
            assert row["specificity"] == pytest.approx(others_right)
            assert expected <= others_right
            assert row["positives"] == matrix[at].sum()


def test_agreement_of_classes_with_the_truth_is_accuracy(classes_run):
    table, calls, run = classes_run
    rows = pd.read_csv(run.path / "tables/agreement.csv").set_index(["unit", "first", "second"])
    read = calls["ann"] != ""
    accuracy = accuracy_score(table["label"][read], calls["ann"][read])
    row = rows.loc[("all classes", "ann", "truth")]
    assert row["agreement"] == pytest.approx(accuracy)
    assert row["n"] == read.sum()
    assert ("all classes", "all readers") in {place[:2] for place in rows.index}


def test_the_calls_are_stored_and_never_read_again(classes_run):
    _, calls, run = classes_run
    stored = run.folder.readers
    assert stored.readers == ("ann", "bob", "eve")
    assert (stored.calls[:10, 0] == UNKNOWN).all()
    assert stored.calls[10:, 0, 0].tolist() == ["abc".index(call) for call in calls["ann"][10:]]
    before = (run.path / "tables/readers.csv").read_bytes()
    run.report()
    assert (run.path / "tables/readers.csv").read_bytes() == before
    assert "readers' sensitivity" in run.overview()


def test_a_damaged_file_of_calls_is_noticed(tmp_path):
    table, calls = draw()
    run = fw.evaluate(predictions=table, readers=calls, out=tmp_path / "run", **QUIET)
    file = run.path / "readers.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged or was changed"):
        run.report()


def test_other_calls_are_another_run_and_the_same_calls_are_the_same(tmp_path):
    table, calls = draw()
    fw.evaluate(predictions=table, readers=calls, out=tmp_path / "run", **QUIET)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    fw.evaluate(predictions=table, readers=calls[::-1], out=tmp_path / "run", **QUIET)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert after["readers.parquet"] == before["readers.parquet"]
    assert after["report.html"] == before["report.html"]
    other = calls.assign(ann=calls["ann"].where(calls.index > 0, "a"))
    other.loc[0, "ann"] = "b" if calls["ann"][0] == "a" else "a"
    fw.evaluate(predictions=table, readers=other, out=tmp_path / "run", **QUIET)
    assert (tmp_path / "run/readers.parquet").stat().st_mtime_ns != before["readers.parquet"]
    assert (tmp_path / "run/scores.csv").stat().st_mtime_ns == before["scores.csv"]


def test_without_readers_a_run_has_no_trace_of_them(tmp_path):
    table, _ = draw()
    run = fw.evaluate(predictions=table, out=tmp_path / "run", **QUIET)
    assert run.folder.readers is None
    assert not list(run.path.rglob("*reader*"))
    assert "readers" not in run.overview()


def test_a_model_of_findings_beside_readers(tmp_path):
    data = draw_dataset()
    labels = data.test.labels.numpy()
    rng = np.random.default_rng(0)
    keys = data.test.keys.numpy()
    tables = {}
    for name in ("ann", "bob", "eve"):
        called = np.where(rng.random(labels.shape) < 0.2, 1 - (labels == 1), labels == 1)
        tables[name] = pd.DataFrame({"key": keys, **dict(zip(NAMES, called.T, strict=True))})
    run = fw.evaluate(
        {"m": Stripes()},
        data,
        [],
        readers=tables,
        outputs="logits",
        device="cpu",
        out=tmp_path / "run",
        **QUIET,
    )
    rows = pd.read_csv(run.path / "tables/readers.csv").set_index(["unit", "reader"])
    cell = run.folder.read_cell("predictions/m/seed-0/test/clean.parquet")
    for at, name in enumerate(NAMES):
        known = cell.labels[:, at] != UNKNOWN
        calls = np.stack([table[name].to_numpy() for table in tables.values()], axis=1)
        expected = compare_with_readers(
            cell.logits[known, at].astype(float), cell.labels[known, at] == 1, calls[known], 100
        )
        row = rows.loc[(f"finding={name}", "bob")]
        difference = expected.readers[1].more_sensitive
        assert row["more sensitive"] == pytest.approx(difference.value)
        assert row["more sensitive low"] == pytest.approx(difference.low)
        average = rows.loc[(f"finding={name}", "average, other readers too")]
        assert average["more sensitive high"] == pytest.approx(expected.averages[0].random.high)


def test_groups_widen_the_intervals(tmp_path):
    table, calls = draw()
    patients = pd.DataFrame({"file": table["file"], "patient": np.arange(N) // 5})
    widths = []
    for options in ({}, {"metadata": tmp_path / "patients.csv", "group": "patient"}):
        patients.to_csv(tmp_path / "patients.csv", index=False)
        run = fw.evaluate(predictions=table, readers=calls, **options, **QUIET)
        rows = pd.read_csv(run.path / "tables/readers.csv").set_index(["unit", "reader"])
        row = rows.loc[("class=b", "ann")]
        widths.append(row["sensitivity high"] - row["sensitivity low"])
    assert widths[0] != widths[1]


def test_two_readers_are_too_few_for_others_and_the_table_says_so(tmp_path):
    table, calls = draw(readers=("ann", "bob"))
    run = fw.evaluate(predictions=table, readers=calls, out=tmp_path / "run", **QUIET)
    rows = pd.read_csv(run.path / "tables/readers.csv")
    assert "average, these readers" in set(rows["reader"])
    assert "average, other readers too" not in set(rows["reader"])
    text = (run.path / "tables/readers.md").read_text(encoding="utf-8")
    assert "2 readers are too few to speak of other readers" in text


def test_the_command_line_takes_tables_and_refuses_other_images(tmp_path):
    table, calls = draw()
    table.to_csv(tmp_path / "model.csv", index=False)
    calls.to_csv(tmp_path / "calls.csv", index=False, sep=";")
    command = ["evaluate", f"predictions:{tmp_path / 'model.csv'}", "--bootstrap", "100"]
    readers = ["--readers", str(tmp_path / "calls.csv")]
    done = fairweather(*command, *readers, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "readers        3 readers of 150 images: ann 150, bob 150, eve 150" in done.stdout
    assert "model finds more" in done.stdout
    calls.assign(file=calls["file"] + "x").to_csv(tmp_path / "calls.csv", index=False)
    refused = fairweather(*command, *readers, "--out", str(tmp_path / "other"))
    assert refused.returncode == 2
    assert "150 of 150 keys of calls.csv are not of" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_keys_that_a_limit_leaves_out_are_said_to_be_of_it(colour_folder):
    module, data = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), f"folder:{colour_folder}"
    names = fw.load_data(data).test.names.tolist()
    calls = pd.DataFrame({"file": names, "ann": [name.split("/")[0] for name in names]})
    words = (
        rf"keys of readers are not of the 6 test images of .* \(of {len(names)}: leave limit out"
    )
    with pytest.raises(InputError, match=words):
        fw.evaluate(
            module, data, "clean", readers=calls, limit=6, outputs="logits", device="cpu", **QUIET
        )


def test_numbers_are_calls_of_classes_from_0(classes_run, tmp_path):
    table, calls, run = classes_run
    numbers = calls.replace({"a": "0", "b": "1", "c": "2"})
    again = fw.evaluate(predictions=table, readers=numbers, out=tmp_path / "run", **QUIET)
    pd.testing.assert_frame_equal(
        *(pd.read_csv(r.path / "tables/readers.csv") for r in (run, again))
    )


def test_a_positive_class_is_a_finding_of_readers_who_name_classes(tmp_path):
    table, calls = draw()
    run = fw.evaluate(predictions=table, readers=calls, positive="b", out=tmp_path / "run", **QUIET)
    rows = pd.read_csv(run.path / "tables/readers.csv").set_index(["unit", "reader"])
    truth, called = table["label"] == "b", calls["ann"] == "b"
    assert rows.loc[("finding=b", "ann"), "sensitivity"] == pytest.approx(called[truth].mean())
    assert rows.loc[("finding=b", "ann"), "specificity"] == pytest.approx((~called[~truth]).mean())
    classes = fw.evaluate(predictions=table, readers=calls, **QUIET)
    same = pd.read_csv(classes.path / "tables/readers.csv").set_index(["unit", "reader"])
    for name in ("sensitivity", "specificity", "model sensitivity", "more sensitive low"):
        assert rows.loc[("finding=b", "eve"), name] == pytest.approx(
            same.loc[("class=b", "eve"), name]
        )


def test_readers_of_patients(tmp_path):
    table, calls = draw()
    patient = np.arange(N) % (N // 3)
    mean = pd.get_dummies(table["label"])["b"].groupby(patient).transform("max")
    table["label"] = np.where(mean, "b", "a")
    pd.DataFrame({"file": table["file"], "patient": patient}).to_csv(
        tmp_path / "patients.csv", index=False
    )
    options = {"metadata": tmp_path / "patients.csv", "group": "patient", "unit": "patient"}
    options |= {"aggregate": ("mean",), "positive": "b"}
    run = fw.evaluate(predictions=table, readers=calls, out=tmp_path / "a", **options, **QUIET)
    rows = pd.read_csv(run.path / "tables/readers.csv").set_index(["unit", "reader"])
    called = (calls["ann"] == "b").groupby(patient).max()
    truth = (table["label"] == "b").groupby(patient).max()
    row = rows.loc[("finding=b", "ann")]
    assert row["positives"] == truth.sum()
    assert row["sensitivity"] == pytest.approx(called[truth].mean())
    # One call for each patient is the same.
    by_patient = pd.DataFrame({"patient": called.index, "ann": np.where(called, "b", "a")})
    run = fw.evaluate(predictions=table, readers=by_patient, out=tmp_path / "b", **options, **QUIET)
    again = pd.read_csv(run.path / "tables/readers.csv").set_index(["unit", "reader"])
    assert again.loc[("finding=b", "ann")].tolist() == pytest.approx(row.tolist())

"""Compare by any metric, in cells and in slices: which have a test, and what is corrected."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.metrics import Grouping, holm, per_image
from fairweather.metrics.areas import auc_column
from fairweather.runs.folder import StoredGroups
from fairweather.tasks import find_task
from fairweather.types.measurement import Predictions
from fairweather.types.record import DataRecord, RunSettings, groups_file
from tests.helpers import reference
from tests.helpers.run_folders import finish, run_record, sweep_record, write_run

pytestmark = pytest.mark.usefixtures("undrawn")

N, NAMES = 300, ("mole", "nevus", "scar")
FOG = sweep_record("fog", {1: "fog,severity=1"})
CELLS = {"clean": 1.5, "fog,severity=1": 0.8}
LABELS = np.arange(N) % 3
SITES = np.array(["A", "B", "C"], dtype=object)[np.arange(N) // 100]
ASKED = ["brier_score", "balanced_accuracy", "macro_auc", "macro_pr_auc", "auc/mole", "cohen_kappa"]
DEFAULT = ["accuracy", "rms_calibration_error", "negative_log_likelihood"]


def predictions(strength, seed):
    """Images are hard for all models alike."""
    noise = np.random.default_rng(0).normal(size=(N, 3))
    noise += 0.4 * np.random.default_rng([1, seed]).normal(size=(N, 3))
    logits = (noise + strength * np.eye(3)[LABELS]).astype("f4")
    return Predictions(np.arange(N), LABELS, *per_image(logits, LABELS), logits, NAMES)


def make_run(path, models, seeds=(0,), *, sites=None, patients=None):
    """A run folder; each model by how much better it is."""
    record = run_record(
        {name: name.title() for name in models if "+" not in name},
        [FOG],
        data=DataRecord(name="toys", classes=NAMES, digests={"test": "d" * 64}),
        seeds=seeds,
        variants={name: name for name in models if "+" in name},
        settings=RunSettings(bootstrap=200),
    )
    stored = {
        (model, seed, cell): predictions(strength + better, seed + 10 * at)
        for at, (model, better) in enumerate(models.items())
        for seed in seeds
        for cell, strength in CELLS.items()
    }
    run = write_run(path, record, predictions=stored)
    if sites is not None or patients is not None:
        columns = {} if sites is None else {"site": sites}
        named = None if patients is None else "patient"
        groups = StoredGroups(np.arange(N), named, patients, columns)
        run.write_groups(groups_file("test"), groups)
        finish(run, "group", [groups_file("test")], kind="group")
    return run.path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared-metrics")
    a = make_run(root / "a", {"net": 0.0}, sites=SITES)
    b = make_run(root / "b", {"net": 0.6}, seeds=(4,), sites=SITES)
    return a, b


@pytest.fixture(scope="module")
def compared(pair):
    return read_run_comparison(*pair, metrics=ASKED)


def test_metrics_that_are_asked_for_follow_those_that_are_shown(pair, compared):
    table = compared.table
    assert list(table["metric"].unique()) == [*DEFAULT, *ASKED]
    assert list(fw.compare_runs(*pair)["metric"].unique()) == DEFAULT
    text = fw.compare_runs(*pair, metrics="brier_score")  # one name, as on the command line
    assert list(text["metric"].unique()) == [*DEFAULT, "brier_score"]
    again = fw.compare_runs(*pair, metrics=["accuracy", "brier_score", "brier_score"])
    assert list(again["metric"].unique()) == [*DEFAULT, "brier_score"]
    assert re.search(r"Clean +– +AUC of mole +0\.\d{3}", str(compared))


def test_single_cells_have_p_where_there_is_a_test(compared):
    table = compared.table
    single = table[table["level"] != "mean"]
    without = single[single["p"].isna()]
    assert set(without["metric"]) == {"cohen_kappa"}
    assert set(table[table["level"] == "mean"]["p"].isna()) == {True}
    for _, row in single.dropna(subset="p").iterrows():
        if row["metric"] != "accuracy":
            assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
    for _, rows in single.dropna(subset="p").groupby("metric"):
        np.testing.assert_allclose(rows["p_holm"], holm(rows["p"]))
    assert "Nothing is corrected for the number of metrics." in compared.caption


def test_p_of_the_auc_is_delongs_with_students_t(compared):
    first, second = predictions(1.5, 0), predictions(2.1, 4)
    positive = LABELS == 0
    scores = [
        np.exp(side.logits[:, 0] - np.logaddexp.reduce(side.logits, 1)) for side in (first, second)
    ]
    variances = [
        reference.auc_covariance(*sides, positive, np.arange(N))
        for sides in ((scores[0],) * 2, (scores[1],) * 2, scores)
    ]
    variance = variances[0] + variances[1] - 2 * variances[2]
    areas = [scipy.stats.mannwhitneyu(s[positive], s[~positive]).statistic / 20_000 for s in scores]
    column = auc_column(scores[1], positive) - auc_column(scores[0], positive)
    row = compared.table.query("metric == 'auc/mole' and shift == 'clean'").iloc[0]
    assert row["difference"] == pytest.approx(areas[1] - areas[0])
    assert np.square(column).sum() == pytest.approx(variance)
    assert row["p"] == pytest.approx(reference.student_p(column, row["difference"]), rel=1e-3)


def test_each_slice_is_compared_like_a_test_set_of_its_own(pair, compared):
    frame = compared.slices.frame
    assert list(frame["slice"].unique()) == ["site=A", "site=B", "site=C"]
    assert list(frame["metric"].unique()) == [*DEFAULT, *ASKED]
    first, second = predictions(1.5, 0), predictions(2.1, 4)
    for site in "ABC":
        part = site == SITES
        row = frame.query(f"slice == 'site={site}' and metric == 'brier_score'").iloc[0]
        gaps = (second.brier - first.brier)[part]
        assert row["n"] == part.sum()
        assert row["difference"] == pytest.approx(gaps.mean())
        column = (gaps - gaps.mean()) / len(gaps) * np.sqrt(len(gaps) / (len(gaps) - 1))
        assert row["p"] == pytest.approx(reference.student_p(column, gaps.mean()), rel=1e-3)
        right = frame.query(f"slice == 'site={site}' and metric == 'accuracy'").iloc[0]
        counts = [int((first.correct & ~second.correct)[part].sum())]
        counts.append(int((second.correct & ~first.correct)[part].sum()))
        assert [right["only_a_right"], right["only_b_right"]] == counts
        expected = scipy.stats.binomtest(counts[0], sum(counts)).pvalue
        assert right["p"] == pytest.approx(expected)
    for _, rows in frame.dropna(subset="p").groupby("metric"):
        np.testing.assert_allclose(rows["p_holm"], holm(rows["p"]))
    # A terminal shows what differs, and the file has every slice.
    shown = [line for line in str(compared.slices).splitlines() if "site=" in line]
    assert len(shown) == (frame["verdict"] == "real").sum() > 0
    files = compared.files()
    assert files["tables/compare_b_slices.csv"].count("site=A") == 9
    assert str(compared.slices) in str(compared)


def test_one_run_with_slices_is_enough_and_runs_that_differ_have_none(pair, tmp_path):
    a, _ = pair
    without = make_run(tmp_path / "without", {"net": 0.3})
    assert len(read_run_comparison(a, without).slices.frame) == 3 * 3
    assert len(read_run_comparison(without, a).slices.frame) == 3 * 3
    other = make_run(tmp_path / "other", {"net": 0.3}, sites=SITES[::-1])
    assert read_run_comparison(a, other).slices is None

    one = make_run(tmp_path / "one", {"net": 0.0, "wide": 0.3})
    assert read_run_comparison(f"{one}:net", f"{one}:wide").slices is None


def test_slices_of_patients_are_tested_over_patients(tmp_path):
    patients = np.arange(N) // 5
    runs = [
        make_run(tmp_path / name, {"net": better}, sites=SITES, patients=patients)
        for name, better in (("a", 0.0), ("b", 0.1))
    ]
    comparison = read_run_comparison(*runs, metrics=["brier_score"])
    frame = comparison.slices.frame
    assert frame["only_a_right"].isna().all()
    first, second = predictions(1.5, 0), predictions(1.6, 0)
    part = SITES == "B"
    gaps, grouping = (second.brier - first.brier)[part], Grouping(np.arange(100) // 5)
    sums = grouping.sums((gaps - gaps.mean())[:, None])[:, 0] / 100 * np.sqrt(20 / 19)
    row = frame.query("slice == 'site=B' and metric == 'brier_score'").iloc[0]
    assert row["p"] == pytest.approx(reference.student_p(sums, gaps.mean()), rel=1e-3)


def test_several_seeds_make_it_a_test_of_recipes(tmp_path):
    a = make_run(tmp_path / "a", {"net": 0.0}, seeds=(0, 1, 2))
    b = make_run(tmp_path / "b", {"net": 0.6}, seeds=(3, 4, 5))
    table = read_run_comparison(a, b, metrics=ASKED).table
    of_recipes = table[table["level"] != "mean"].set_index(["metric", "shift"])["p"]
    first = make_run(tmp_path / "first", {"net": 0.0}, seeds=(0,))
    other = make_run(tmp_path / "other", {"net": 0.6}, seeds=(3,))
    alone = read_run_comparison(first, other, metrics=ASKED).table
    of_networks = alone[alone["level"] != "mean"].set_index(["metric", "shift"])["p"]
    known = of_recipes.dropna().index
    assert len(known) == 2 * (len(ASKED) + 2)
    assert (of_recipes[known] < 1).all()
    assert set(of_networks.dropna().index) == set(known)


def test_a_variant_is_paired_with_its_model_by_seed(tmp_path):
    run = make_run(tmp_path / "run", {"net": 0.0, "net+colder": 0.3}, seeds=(0, 1, 2))
    paired = read_run_comparison(f"{run}:net", f"{run}:net+colder", metrics=["brier_score"])
    row = paired.table.query("metric == 'brier_score' and shift == 'clean'").iloc[0]
    gaps = [
        predictions(1.8, seed + 10).brier.mean() - predictions(1.5, seed).brier.mean()
        for seed in range(3)
    ]
    assert row["difference"] == pytest.approx(np.mean(gaps))
    # By seed, the interval is at least Student's t of the three gaps.
    reach = scipy.stats.t.ppf(0.975, 2) * np.std(gaps, ddof=1) / np.sqrt(3)
    assert row["high"] - row["low"] >= 2 * reach * (1 - 1e-6)
    assert (row["p"] < 0.05) == (row["high"] < 0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("acuracy", "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("auc/mol", "unknown metric 'auc/mol'; did you mean 'auc/mole'?"),
        ("quadratic_kappa", "quadratic_kappa cannot be compared: it needs classes in an order"),
        ("conformal_coverage", "conformal_coverage cannot be compared: it needs prediction sets"),
        ("auc", "auc cannot be compared: it needs predictions of"),
        ("expected_cost", "expected_cost cannot be compared: it needs what errors cost"),
        ("atc_accuracy", "atc_accuracy cannot be compared: it needs clean validation images"),
    ],
)
def test_a_metric_that_cannot_be_compared_is_refused(pair, name, told):
    with pytest.raises(InputError, match=re.escape(told)):
        read_run_comparison(*pair, metrics=["brier_score", name])


def write_findings(root, names, sites=None):
    """Two runs of the same findings."""
    generator, shape = np.random.default_rng(7), (N, len(names))
    labels = (generator.random(shape) < 0.4).astype(np.int64)
    hard = generator.normal(size=shape)
    task = find_task("multilabel")

    def stored(strength, seed):
        own = np.random.default_rng([2, seed]).normal(size=shape)
        logits = (strength * (labels - 0.5) + hard + 0.4 * own).astype("f4")
        columns = task.columns(logits, labels)
        return task.predictions(
            keys=np.arange(N), labels=labels, logits=logits, classes=names, **columns
        )

    runs, every = [], []
    for at, (name, strength) in enumerate((("a", 1.5), ("b", 2.5))):
        record = run_record(
            {"net": "Net"},
            [],
            data=DataRecord(
                name="chests", classes=names, task="multilabel", digests={"test": "d" * 64}
            ),
            settings=RunSettings(bootstrap=200),
        )
        cells = {("net", 0, "clean"): stored(strength, at)}
        every.append(cells)
        run = write_run(root / name, record, predictions=cells)
        if sites is not None:
            groups = StoredGroups(np.arange(N), None, None, {"site": sites})
            run.write_groups(groups_file("test"), groups)
            finish(run, "group", [groups_file("test")], kind="group")
        runs.append(run.path)
    return runs, [cells["net", 0, "clean"] for cells in every]


@pytest.mark.parametrize("metric", ["sensitivity", "specificity", "sensitivity@0.3"])
def test_calls_of_a_finding_have_mcnemars_test(metric, tmp_path):
    runs, sides = write_findings(tmp_path, ("Mass",))
    table = fw.compare_runs(*runs, metrics=[metric])
    (row,) = table[table["metric"] == metric].itertuples()
    threshold = 0.3 if "@" in metric else 0.5
    sick = sides[0].labels[:, 0] == 1
    sought = ~sick if metric == "specificity" else sick
    right = [((own.probability[:, 0] >= threshold) == sick)[sought] for own in sides]
    only = [int((right[at] & ~right[1 - at]).sum()) for at in (0, 1)]
    assert (row.only_a_right, row.only_b_right) == (only[0], only[1])
    assert sum(only) > 5
    assert row.p == pytest.approx(scipy.stats.binomtest(only[0], sum(only)).pvalue)
    assert row.verdict in ("real", "cannot tell")


def test_a_table_of_slices_says_how_many_tests_are_corrected(tmp_path):
    sites = np.array(["A", "B", "C"], dtype=object)[np.minimum(np.arange(N) // 145, 2)]
    runs, _ = write_findings(tmp_path, ("Mass",), sites)
    compared = read_run_comparison(*runs)
    frame, caption = compared.slices.frame, compared.slices.below[0]
    tests = frame.dropna(subset="p").groupby("metric").size()
    assert (tests["auc"], tests["decision_accuracy"]) == (2, 3)
    assert "AUC over 2 tests" in caption
    assert "Right decisions over 3 tests" in caption
    assert "has all 3 slices" in caption


def test_findings_have_tests_of_areas_losses_and_calibration(tmp_path):
    runs, _ = write_findings(tmp_path, ("Edema", "Mass"))
    table = fw.compare_runs(*runs, metrics=["nll", "rms_ece/10-equal-width"])
    units = {"finding=Edema", "finding=Mass"}
    tested = {"auc", "pr_auc", "brier", "nll", "rms_ece/10-equal-width", "decision_accuracy"}
    assert set(table.dropna(subset="p")["metric"]) == tested
    for metric in tested:
        rows = table[(table["metric"] == metric) & table["unit"].isin(units)]
        assert len(rows) == 2
        assert rows["p"].notna().all()
        np.testing.assert_allclose(rows["p_holm"], holm(rows["p"]))
    assert pd.isna(table[table["metric"] == "probability_gap"]["p"]).all()

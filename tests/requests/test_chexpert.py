"""The study of public predictions for CheXpert, on a small folder in the same format."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

RESULTS = Path(__file__).parents[2] / "results/chexpert"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("measure_chexpert", RESULTS / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, keys, columns, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(table, columns=columns)
    frame.insert(0, "Study", keys)
    frame.to_csv(path, index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, study):
    root, rng = tmp_path_factory.mktemp("chexpert"), np.random.default_rng(0)
    n, columns = 120, list(study.FINDINGS)
    keys = np.array([f"test/patient{number}/study1" for number in range(n)])
    truth = (rng.random((n, 5)) < 0.4).astype(int)
    write(root / "groundtruth.csv", keys, columns, truth)
    for name, noise, scale in (("good", 0.4, 1), ("poor", 1.5, 1), ("sums", 0.4, 3)):
        scores = scale / (1 + np.exp(-(truth - 0.5 + rng.normal(0, noise, truth.shape)) * 2))
        order = rng.permutation(n)  # other orders of rows and columns, as in the public files
        file = root / f"example_models/predictions/standard/{name}_predictions.csv"
        write(file, keys[order], columns[::-1], scores[order][:, ::-1])
    for name in ("bc4", "bc6"):
        called = np.where(rng.random(truth.shape) < 0.15, 1 - truth, truth)
        write(root / f"radiologists/benchmark_radiologists/{name}.csv", keys, columns, called)
    return root


def test_the_study_runs_and_finds_the_better_model(study, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESAMPLES", 50)
    study.main(folder, tmp_path, tmp_path / "work")
    scores = pd.read_csv(tmp_path / "numbers.csv").set_index(["model", "unit", "metric"])
    truth = pd.read_csv(folder / "groundtruth.csv").set_index("Study")
    models = study.read_tables(folder, "example_models/predictions/standard/*.csv", truth.index)
    for name, table in models.items():
        for finding in study.FINDINGS:
            area = roc_auc_score(truth[finding], table[finding])
            assert scores.loc[(name, f"finding={finding}", "auc"), "value"] == pytest.approx(
                area, abs=1e-5
            )
    pairs = pd.read_csv(tmp_path / "pairs.csv").set_index(["finding", "first", "second"])
    assert pairs.loc[("mean", "good", "poor"), "p_holm"] < 0.001
    page = (tmp_path / "README.md").read_text()
    assert "| good | " in page
    assert "| sums | " not in page  # its scores are no probabilities
    readers = pd.read_csv(tmp_path / "radiologists.csv")
    assert len(readers) == 5 * 2
    assert (
        readers["sensitivity"]
        .between(readers["sensitivity low"], readers["sensitivity high"])
        .all()
    )
    assert (tmp_path / "finding.svg").read_text().startswith("<svg")


def test_a_difference_in_area_is_tested_as_delong_does(study, folder):
    truth = pd.read_csv(folder / "groundtruth.csv").set_index("Study")
    models = study.read_tables(folder, "example_models/predictions/standard/*.csv", truth.index)
    pairs = study.compare(models, truth).set_index(["finding", "first", "second"])
    finding = study.FINDINGS[0]
    y = truth[finding].to_numpy() == 1

    def placements(scores):
        wins = np.array([[(a > b) + (a == b) / 2 for b in scores[~y]] for a in scores[y]])
        return wins.mean(axis=1), wins.mean(axis=0)

    (a1, a0), (b1, b0) = (placements(models[name][finding].to_numpy()) for name in ("good", "poor"))
    variance = np.var(a1 - b1, ddof=1) / y.sum() + np.var(a0 - b0, ddof=1) / (~y).sum()
    row = pairs.loc[(finding, "good", "poor")]
    assert row["difference"] == pytest.approx(a1.mean() - b1.mean())
    # The width is Student's, with at most n - 1 degrees of freedom.
    reach = (row["high"] - row["low"]) / 2
    least, most = (scipy.stats.t.ppf(0.975, df) for df in (len(y) - 1, 10))
    assert least * np.sqrt(variance) * (1 - 1e-9) <= reach <= most * np.sqrt(variance)


def test_the_figure_shows_each_model_with_its_stored_intervals(study):
    stored = pd.read_csv(RESULTS / "numbers.csv").set_index(["model", "unit", "metric"])
    drawn = (RESULTS / "finding.svg").read_text(encoding="utf-8")
    mean = stored.xs("mean finding", level="unit")
    for metric, scale, title, count in (
        ("auc", 1, "Mean AUC of five findings", 10),
        ("probability_gap", 100, "Mean probability − prevalence (points)", 8),
    ):
        rows = mean.xs(metric, level="metric")
        rows = rows[rows["probabilities"] | (metric == "auc")]
        shown = re.findall(rf'"{re.escape(title)}: ([\d.]+); model: (\w+); high: ([\d.]+)"', drawn)
        assert len(shown) == count
        for low, name, high in shown:
            expected = [scale * rows.loc[name, end] for end in ("low", "high")]
            assert [float(low), float(high)] == pytest.approx(expected)
        marks = re.findall(r'"value: ([\d.]+); model: (\w+)"', drawn)
        values = {(name, float(value)) for value, name in marks}
        for name, row in rows.iterrows():
            assert any(
                who == name and value == pytest.approx(scale * row["value"])
                for who, value in values
            )
    assert study.draw(stored).count("aria-label") == drawn.count("aria-label")


def test_the_page_has_the_numbers_that_are_stored(study):
    stored = pd.read_csv(RESULTS / "numbers.csv").set_index(["model", "unit", "metric"])
    page = (RESULTS / "README.md").read_text()
    assert study.write_table(stored) in page
    pairs = pd.read_csv(RESULTS / "pairs.csv")
    of_mean = pairs["finding"] == "mean"
    assert (of_mean.sum(), (~of_mean).sum()) == (45, 225)
    assert (pairs["p_holm"] >= 0.05).all()
    readers = pd.read_csv(RESULTS / "radiologists.csv")
    assert (readers["model missed"] < readers["missed"]).sum() == 13
    apart = readers[readers["low"] > 0]
    assert (len(readers), len(apart), apart["radiologist"].unique().tolist()) == (15, 3, ["bc6"])
    gaps = stored[stored["probabilities"]].xs("mean finding", level="unit")
    gaps = gaps.xs("probability_gap", level="metric")
    assert (gaps["value"].min(), gaps["value"].max()) == pytest.approx((0.024, 0.244), abs=6e-4)
    assert (gaps["low"] > 0).all()
    areas = stored.xs(("mean finding", "auc"), level=("unit", "metric"))["value"]
    assert len(areas) == 10
    assert areas.mean() == pytest.approx(0.924, abs=1e-3)

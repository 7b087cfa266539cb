"""An unseen site: told as a sample, scored from stored predictions, on the page and in rules."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics.unseen import SiteShare, predict_unseen
from fairweather.requests.study.run import data_sources, make_study_settings
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import Dataset, Groups
from tests.data.test_groups import Brightness, patients_dataset

pytestmark = pytest.mark.usefixtures("undrawn")

OPTIONS = {"bootstrap": 200, "device": "cpu", "threads": 1}


def clinic(sites, *, unknown=0):
    """Images of patients of some sites, the first of which have no site; and a sex."""
    data = patients_dataset(patients=240)
    patient = np.arange(len(data.test.labels)) // 5
    site = np.array([f"S{number}" for number in patient % sites], dtype=object)
    site[:unknown] = "missing"
    sex = np.array(["F", "M"], dtype=object)[patient % 2]
    groups = Groups("patient", data.test.groups.names, {"site": site, "sex": sex})
    test = dataclasses.replace(data.test, groups=groups)
    return Dataset("clinic", None, None, test, data.mean, data.std)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("sites") / "run"
    shifts = "brightness_factor: [0.8]"
    fw.evaluate(Brightness(), clinic(7), shifts, out=out, **OPTIONS)
    predicted = {file: file.stat().st_mtime_ns for file in out.glob("predictions/**/*.parquet")}
    told = fw.evaluate(Brightness(), clinic(7), shifts, out=out, sites=["site"], **OPTIONS)
    assert predicted == {file: file.stat().st_mtime_ns for file in predicted}
    return told


def judged(run, text):
    return judge(RunFolder(run.path), read_rules([text]))[0]


def test_only_the_column_that_is_told_is_predicted_and_nothing_is_measured_again(run):
    table = RunFolder(run.path).slice_scores
    assert {name for name in table["slice"] if "unseen" in name} == {"unseen site"}
    rows = table[table["slice"] == "unseen site"]
    assert (rows[rows["metric"] == "accuracy"]["n"] == 7).all()
    assert rows["n"].between(5, 7).all()  # some numbers need an error, and a site has none
    assert (rows["low"] < rows["value"]).all()
    assert (rows["value"] < rows["high"]).all()
    assert set(rows["shift"]) == {"clean", "brightness_factor", "all"}
    of_class = rows[rows["metric"] == "sensitivity/malignant"]
    assert set(of_class["shift"]) == {"clean"}
    with pytest.raises(InputError, match="a sample, such as hospitals: measure again with --sites"):
        judged(run, "accuracy[clean|unseen sex] >= 0.5")


def test_the_interval_is_that_of_the_shares_of_patients_at_each_site(run):
    folder = RunFolder(run.path)
    clean = folder.read_predictions(folder.predictions("Brightness", 0, "clean"))
    groups = folder.groups()
    shares = []
    for site in sorted(set(groups.slices["site"])):
        inside = groups.slices["site"] == site
        right = pd.Series(clean.correct[inside]).groupby(groups.numbers[inside]).mean()
        # Of equally many images each; the bootstrap's own noise is allowed for below.
        variance = right.var(ddof=1) / len(right)
        shares.append(SiteShare(right.mean(), right.mean() * (1 - right.mean()) / variance))
    table = folder.slice_scores
    row = table[(table["slice"] == "unseen site") & (table["metric"] == "accuracy")]
    found = row[row["shift"] == "clean"].squeeze()
    low, middle, high = predict_unseen(shares)
    assert found["value"] == pytest.approx(middle, abs=0.02)
    assert found["low"] == pytest.approx(low, abs=0.1)
    assert found["high"] == pytest.approx(high, abs=0.02)


def test_a_rule_is_judged_on_the_end_of_the_prediction_and_not_widened_as_a_share_of_sites(run):
    table = RunFolder(run.path).slice_scores
    row = table[(table["slice"] == "unseen site") & (table["metric"] == "accuracy")].iloc[0]
    verdict = judged(run, "accuracy[clean|unseen site] >= 0.01")
    assert (verdict.low, verdict.high, verdict.n) == (row["low"], row["high"], 7)
    assert verdict.passed
    assert not judged(run, f"accuracy[clean|unseen site] >= {row['value']}").passed
    assert judged(run, "sensitivity[clean|class=malignant|unseen site] >= 0.01").passed
    with pytest.raises(InputError, match="only shares, areas and other metrics between two bounds"):
        judged(run, "negative_log_likelihood[clean|unseen site] <= 1")
    with pytest.raises(InputError, match="the unseen site has others under a shift than clean"):
        judged(run, "accuracy[brightness_factor|unseen site] drop <= 5%")
    with pytest.raises(InputError, match="did you mean 'unseen site'"):
        judged(run, "accuracy[clean|unseen sites] >= 0.5")


def test_the_page_says_it_in_one_sentence(run, draw):
    draw(run, figures=False)
    table = RunFolder(run.path).slice_scores
    row = table[(table["slice"] == "unseen site") & (table["metric"] == "accuracy")].iloc[0]
    ends = f"{100 * row['low']:.0f} % and {100 * row['high']:.0f} %"
    said = (
        f"At an unseen site, accuracy on clean images lies between {ends} "
        "(95 % prediction interval from 7 sites)."
    )
    for page in ("report.html", "tables/slices_site.md"):
        text = (run.path / page).read_text(encoding="utf-8")
        assert text.count(said) == 1
        assert "unseen sex" not in text


def test_images_without_a_site_are_not_one_and_four_sites_are_refused(tmp_path, draw, capsys):
    options = {"out": tmp_path / "r", "sites": ["site"], **OPTIONS}
    few = fw.evaluate(Brightness(), clinic(4, unknown=40), "clean", **options)
    note = "note           a prediction interval for an unseen site needs at least 5 values of "
    assert f"{note}site, found 4\n" in capsys.readouterr().err
    table = RunFolder(few.path).slice_scores
    assert "site=missing" in set(table["slice"])
    assert "unseen site" not in set(table["slice"])
    reason = "needs at least 5 values of site, found 4"
    with pytest.raises(InputError, match=reason):
        judged(few, "accuracy[clean|unseen site] >= 0.5")
    draw(few, figures=False)
    text = (few.path / "tables" / "slices_site.md").read_text(encoding="utf-8")
    assert "an unseen site needs at least 5 values of site, found 4." in text


def test_an_unknown_column_of_sites_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="unknown column of sites 'sit'; did you mean 'site'"):
        fw.evaluate(Brightness(), clinic(7), "clean", out=tmp_path / "r", sites=["sit"], **OPTIONS)
    assert not list(tmp_path.glob("r/predictions"))


def test_sites_are_slices_too_in_a_study():
    groups = {"metadata": "m.csv", "slices": ["sex"], "sites": ["site"]}
    study = check_study(
        {
            "name": "s",
            "title": "S",
            "data": {"source": "folder:x", "groups": groups},
            "seeds": [0],
            "shifts": [{"gaussian_blur": [1]}],
            "models": {"a": {"title": "A", "backbone": "timm:resnet10t"}},
        }
    )
    asked = data_sources(study)["data"].groups
    assert asked.slices == ("sex", "site")
    assert make_study_settings(study, torch.device("cpu")).sites == ("site",)


@pytest.mark.parametrize("sites", [6, 3])
def test_a_run_of_one_finding_says_it_of_the_auc(sites, tmp_path, draw):
    generator, n = np.random.default_rng(0), 480
    sick = generator.integers(2, size=n)
    odds = np.exp(2.5 * (sick - 0.5) + generator.normal(size=n))
    table = pd.DataFrame({"image": [f"{at}.png" for at in range(n)], "tumour": odds / (1 + odds)})
    table.to_csv(tmp_path / "a.csv", index=False)
    known = table[["image"]].assign(
        label=np.where(sick, "tumour", "clear"), site=[f"S{at % sites}" for at in range(n)]
    )
    known.to_csv(tmp_path / "truth.csv", index=False)
    run = fw.evaluate(
        predictions={"a": tmp_path / "a.csv"},
        labels=tmp_path / "truth.csv",
        positive="tumour",
        metadata=tmp_path / "truth.csv",
        sites=["site"],
        out=tmp_path / "run",
        bootstrap=200,
        progress=False,
    )
    draw(run, figures=False)
    rule = "auc[clean|unseen site] >= 0.01"
    said = "A prediction interval for an unseen site needs at least 5 values of site, found 3."
    if sites < 5:
        with pytest.raises(InputError, match="needs at least 5 values of site, found 3"):
            judged(run, rule)
    else:
        verdict = judged(run, rule)
        assert verdict.passed
        said = (
            "At an unseen site, the AUC for tumour on clean images lies between "
            f"{verdict.low:.2f} and {verdict.high:.2f} (95 % prediction interval from 6 sites)."
        )
    assert (run.path / "report.html").read_text(encoding="utf-8").count(said) == 1

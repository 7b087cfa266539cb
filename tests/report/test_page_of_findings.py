"""The page of several findings: its numbers against scores.csv, and what a reader can do."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import fairweather as fw
from fairweather.report.building import build_joint_report
from fairweather.report.calibration import CONFIDENCE, OF_FINDINGS
from fairweather.report.contents import read_contents
from fairweather.report.finding_curves import trace_calibration
from fairweather.report.findings import (
    CLEAN_IMAGES,
    find_largest_gap,
    list_places,
    measure_worklist,
    read_finding,
    threshold_for,
)
from fairweather.report.sentences import tile_gap
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import UNKNOWN, Dataset, Groups, Images, Score
from tests.conftest import figures_left_out
from tests.helpers.browser import browser, missing, opened
from tests.helpers.prediction_runs import TEST, draw_findings, label_findings
from tests.report.test_report import carried, crowded, split_sentences

NAMES = ("Effusion", "Mass <b>", "Nodule")
SHIFTS = ["brightness_factor: [0.7, 1.3]", "gaussian_blur: [0.8]"]
in_browser = pytest.mark.skipif(bool(missing()), reason=missing())


def images_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, 3, generator=generator) < torch.tensor([0.4, 0.2, 0.1])
    pixels = torch.full((count, 3, 9, 9), 90.0)
    for row in range(3):
        pixels[:, :, 3 * row : 3 * row + 3] += 60 * truth[:, row, None, None, None]
    noise = torch.randn(count, 1, 3, 1, generator=generator).repeat_interleave(3, 2)
    labels = truth.long()
    labels[torch.rand(count, 3, generator=generator) < 0.15] = UNKNOWN
    pixels = (pixels + 25 * noise).clamp(0, 255).to(torch.uint8)
    return Images(pixels, labels, torch.arange(count), NAMES)


class Thirds(nn.Module):
    """The brightness of each third of an image as the logit of a finding."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return self.scale * (images.unflatten(2, (3, -1)).mean(dim=(1, 3, 4)) - 0.47)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = Dataset(
        "toys", None, images_of(120, 1), images_of(300, 2), (0.4,) * 3, (0.2,) * 3, {}, "multilabel"
    )
    with figures_left_out():
        made = fw.evaluate(
            {"sharp": Thirds(20.0), "flat": Thirds(2.0)},
            data,
            SHIFTS,
            outputs="logits",
            bootstrap=100,
            out=tmp_path_factory.mktemp("findings") / "run",
            device="cpu",
            progress=False,
        )
    return RunFolder(made.path)


@pytest.fixture(scope="module")
def scores(run):
    frame = pd.read_csv(run.path / "scores.csv", dtype={"level": str, "seed": str})
    return frame.set_index(["model", "unit", "shift", "level", "metric"])


def test_the_map_has_the_numbers_of_scores_and_the_worst_level_of_each_shift(run, scores):
    for model, own in carried(run)["map"].items():
        levels = {"clean": "none"}
        for shift, known in (("brightness_factor", ("0.7", "1.3")), ("gaussian_blur", ("0.8",))):
            areas = {at: scores.loc[model, "mean finding", shift, at, "auc"].value for at in known}
            levels[shift] = min(areas, key=areas.get)
        assert own["columns"][0][2] == "clean"
        assert {shift for _, _, shift in own["columns"]} == set(levels)
        assert [name for name, *_ in own["rows"]] == list(NAMES)
        for name, *cells in own["rows"]:
            for (_, _, shift), pair in zip(own["columns"], cells, strict=True):
                for metric, (value, low, high) in zip(
                    ("auc", "probability_gap"), pair, strict=True
                ):
                    row = scores.loc[model, f"finding={name}", shift, levels[shift], metric]
                    ends = (None, None) if math.isnan(row.low) else (row.low, row.high)
                    assert (value, low, high) == pytest.approx((row.value, *ends), abs=1e-5)


def test_the_tiles_say_the_mean_area_and_the_largest_gap(run, scores):
    data = carried(run)
    assert data["start"] == "sharp"  # the first of two that tie in the order of the study
    for model, (clean, low, gap) in data["tiles"].items():
        assert clean[0] == f"{scores.loc[model, 'mean finding', 'clean', 'none', 'auc'].value:.2f}"
        assert "on clean images" in clean[1]
        means = scores.xs((model, "mean finding", "auc"), level=("model", "unit", "metric"))
        shifted = means[means.index.get_level_values("level").str.fullmatch(r"[0-9.]+")]
        assert low[0] == f"{shifted['value'].min():.2f}"
        gaps = scores.xs((model, "probability_gap"), level=("model", "metric"))["value"]
        gaps = gaps[gaps.index.get_level_values("level").str.fullmatch(r"none|[0-9.]+")]
        gaps = gaps[gaps.index.get_level_values("unit").str.startswith("finding=")]
        assert len(gaps) == 3 * 4
        unit, _, level = gaps.abs().idxmax()
        value = gaps.loc[gaps.abs().idxmax()]
        assert gap[0] == f"{100 * abs(value):.1f} points"
        assert f"too {'high' if value > 0 else 'low'}" in gap[1]
        assert f"“{unit.removeprefix('finding=')}”" in gap[1]
        assert f"{level}, the largest confirmed gap" in gap[1]


def test_a_confirmed_gap_comes_before_a_larger_one_that_may_be_chance():
    class View:
        def __init__(self, gap):
            self.scores = {"probability_gap": gap, "prevalence": Score(0.2, 0.1, 0.3, 50)}

        def score(self, metric, *_):
            return self.scores[metric]

    sure, rare = View(Score(0.3, 0.25, 0.35, 500)), View(Score(0.5, -0.1, 0.9, 500))
    few = View(Score(0.6, math.nan, math.nan, 12))
    views = {"Rare": rare, "Few": few, "Sure": sure}
    name, gap, _, place, searched = find_largest_gap(views, "net", [CLEAN_IMAGES])
    assert (name, gap, place, searched) == ("Sure", sure.scores["probability_gap"], CLEAN_IMAGES, 3)
    assert find_largest_gap({"Rare": rare, "Few": few}, "net", [CLEAN_IMAGES]).name == "Few"


def test_gaps_are_looked_for_in_natural_shifts_too_and_not_under_attacks():
    attack = SimpleNamespace(is_attack=True, cells={"8": "pgd,epsilon=8"})
    shifts = pd.DataFrame({"shift": ["clean", "natural/north", "ood/digits"]})
    places = list_places(SimpleNamespace(sweeps=[attack], scores=shifts))
    assert [place.sentence for place in places] == ["on clean images", "on the images of north"]


def test_a_gap_that_no_area_shows_is_named_by_page_and_card(tmp_path):
    """Noise raises every probability, and their order stays; fog ruins their order alone."""
    names = ["Effusion", "Mass"]
    clean, foggy = (draw_findings(tuple(names), by, 0, TEST, "test") for by in (3.0, 0.3))
    noisy = clean.copy()
    noisy[names] = scipy.special.expit(scipy.special.logit(clean[names]).add([2.0, 3.0]))
    truth = pd.DataFrame(label_findings(tuple(names), TEST).astype(int), columns=names)
    truth.insert(0, "file", clean["file"])
    truth.to_csv(tmp_path / "truth.csv", index=False)
    made = fw.evaluate(
        predictions={"net": clean, "net-fog,1": foggy, "net-noise,1": noisy},
        labels=tmp_path / "truth.csv",
        key_column="file",
        bootstrap=100,
        out=tmp_path / "run",
        progress=False,
    )
    gap = (noisy["Mass"] - truth["Mass"]).mean()
    points = f"{100 * gap:.1f} points"
    _, low, largest = carried(RunFolder(made.path))["tiles"]["net"]
    assert "under fog" in low[1]
    assert largest[0] == points
    assert largest[1].startswith("too high a mean probability of “Mass” under noise")
    trust = fw.write_card(made.path).markdown.read_text().partition("Can you trust")[2]
    trust = trust.partition("##")[0]
    assert "“Mass” has an AUC of 0.9" in trust
    assert f"{points} too high." in trust
    assert "under noise" in trust
    assert "on clean images" in trust
    assert "under fog" not in trust


@pytest.mark.parametrize(("searched", "is_claim"), [(1, True), (100, False)])
def test_the_largest_of_many_gaps_is_no_claim_where_one_of_so_many_may_be_noise(searched, is_claim):
    gap, prevalence = Score(0.05, 0.01, 0.09, 300), Score(0.2, 0.15, 0.25, 300)
    said = " ".join(tile_gap("Mass", gap, prevalence, "under fog", searched))
    assert ("too high" in said) == is_claim
    assert ("the largest of 100 gaps, so this may be noise" in said) != is_claim
    assert "1.0 to 9.0 points" in said


def test_the_curves_of_a_finding_have_its_area_and_its_share(run):
    contents = read_contents(run)
    for model, own in carried(run)["findings"].items():
        for column, name in enumerate(NAMES):
            finding = read_finding(contents, model, "0", "clean")[column]
            roc, _, _, _, calibration, prevalence = own[name]["curves"]["clean"]
            probability = scipy.special.expit(finding.logits[:, 1].astype(float))
            x, y, low, high = np.array(roc).T
            exact = roc_auc_score(finding.labels, probability)
            # The drawn curve has at most 100 points: its area misses steps of at most that width.
            assert np.trapezoid(y, x) == pytest.approx(exact, abs=2 / 99)
            assert np.trapezoid(low, x) < exact < np.trapezoid(high, x)
            assert prevalence == pytest.approx(finding.labels.mean(), abs=1e-4)
            at, shares, lows, highs = np.array(calibration).T
            assert (lows <= shares).all()
            assert (shares <= highs).all()
            assert (np.diff(at) >= 0).all()
            # The fit has as many events as there are. Its ends leave out 2 % of the images, and its
            # points are rounded.
            fitted = np.interp(probability, at, shares).mean()
            assert fitted == pytest.approx(finding.labels.mean(), abs=0.02 + 1e-3)


def test_a_calibration_curve_of_two_probabilities_has_their_shares():
    positive = np.repeat([True, False, True, False], [1, 3, 3, 1])
    first, *_, last = trace_calibration(positive, np.repeat([0.3, 0.6], 4))
    assert [first[:2], last[:2]] == [[0.3, 0.25], [0.6, 0.75]]


def test_findings_have_a_table_too_and_the_page_shows_it(run):
    contents = read_contents(run)
    table, curves = OF_FINDINGS.tables(contents)
    assert any("Effusion" in key for key in table.frame["of"])
    assert not any(CONFIDENCE in key for key in table.frame["of"])
    assert {"Effusion", "Nodule"} >= set(curves.frame["of"]) - {"Mass <b>"}
    page = (run.path / "report.html").read_text()
    assert "Calibration: slope, intercept and curves" in page
    assert (run.path / "tables/calibration.csv").is_file()


@pytest.mark.parametrize("missed", [0.0, 0.05, 0.2, 1 / 3])
def test_the_worklist_is_the_smallest_share_that_misses_few_enough(run, missed):
    contents = read_contents(run)
    for finding in read_finding(contents, "sharp", "0", "clean"):
        probability = scipy.special.expit(finding.logits[:, 1].astype(float))
        positive = probability[finding.labels == 1]
        enough = [at for at in probability if (positive < at).mean() <= missed + 1e-12]
        shares = [(probability >= at).mean() for at in enough]
        threshold = threshold_for(finding.labels, probability, missed)
        measured = measure_worklist(finding, missed, threshold)
        assert measured.needed == pytest.approx(min(shares))
        assert measured.missed == pytest.approx((positive < threshold).mean())
        assert measured.missed <= missed + 1e-12
        assert measured.positives == len(positive)


def test_the_sentences_are_short_and_the_review_names_its_numbers(run):
    data = carried(run)
    said = [text for tiles in data["tiles"].values() for tile in tiles for text in tile[1:]]
    said += [text for own in data["map"].values() for text in own["said"]]
    for findings in data["findings"].values():
        said += [
            text for own in findings.values() for texts in own["said"].values() for text in texts
        ]
    for stops in data["review"].values():
        for stop in stops:
            said += stop["said"]
            name = stop["rows"][0][0]
            assert f"“{name}”" in stop["said"][0]
            assert stop["rows"][0][2][-1][4] in stop["said"][0]
            needed = [row[2][-1][1] for row in stop["rows"]]
            assert needed == sorted(needed, reverse=True)
    sentences = [sentence for text in said for sentence in split_sentences(text)]
    assert crowded(sentences) == []
    assert [sentence for sentence in sentences if len(sentence.split()) > 25] == []


def test_pictures_have_the_most_probable_findings_and_whether_they_are_there(run):
    data, contents = carried(run), read_contents(run)
    gallery = data["gallery"]
    assert set(gallery["strip"]) == {
        "clean",
        *(cell.id for sweep in run.record.sweeps for cell in sweep.cells),
    }
    clean = contents.read_cell("sharp", "0", "clean")
    samples = json.loads((run.path / "samples/index.json").read_text())
    for at, key in zip(gallery["strip"]["clean"], sorted(samples["strip"]), strict=True):
        picture = gallery["pictures"][at]
        named = picture["predictions"][data["models"].index("sharp")]
        row = int(np.flatnonzero(clean.keys == key)[0])
        by_name = {finding: (p, label) for finding, p, label in named}
        for finding, (p, label) in by_name.items():
            assert p == pytest.approx(clean.probability[row, finding], abs=5e-4)
            assert label == clean.labels[row, finding]
        present = [name for name, label in zip(NAMES, clean.labels[row], strict=True) if label == 1]
        assert picture["label"] == (", ".join(present) or "none")


def test_a_finding_without_positives_is_left_out_of_sentences(tmp_path):
    images = images_of(100, 3)
    images.labels[:, 2] = 0
    data = Dataset("toys", None, None, images, (0.4,) * 3, (0.2,) * 3, {}, "multilabel")
    with figures_left_out():
        made = fw.evaluate(
            {"net": Thirds(20.0)},
            data,
            ["gaussian_blur: [0.8]"],
            outputs="logits",
            bootstrap=100,
            out=tmp_path / "run",
            device="cpu",
            progress=False,
        )
    page = carried(RunFolder(made.path))
    rows = {name: cells for name, *cells in page["map"]["net"]["rows"]}
    assert all(pair[0] is None for pair in rows["Nodule"])
    assert "has no AUC" in page["findings"]["net"]["Nodule"]["said"]["clean"][0]
    assert all(math.isfinite(float(tile[0])) for tile in page["tiles"]["net"][:2])


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@in_browser
def test_a_finding_and_a_shift_are_opened_by_their_names(chromium, run):
    with opened(chromium, run.path / "report.html") as page:
        buttons = page.tab.locator("#map tbody button")
        assert buttons.all_inner_texts() == list(NAMES)
        before = page.tab.locator("#curves").inner_html()
        buttons.nth(1).click()
        assert page.all("document.getElementById('finding').value") == NAMES[1]
        assert page.all("document.activeElement.id") == "finding"
        assert NAMES[1] in page.tab.locator("#finding-said p").first.inner_text()
        assert page.tab.locator("#curves").inner_html() != before
        assert page.tab.locator("#curves .lines").count() == 5
        shift = page.tab.locator("#map thead button").nth(1)
        title = shift.inner_text()
        shift.click()
        assert page.all("document.getElementById('shift').selectedOptions[0].textContent") == title
        assert all(title in head for head in page.tab.locator("#strip h3").all_inner_texts()[1:])
        areas = page.tab.locator("#map tbody td").all_inner_texts()
        page.tab.locator("#shown").select_option("1")
        gaps = page.tab.locator("#map tbody td").all_inner_texts()
        assert all(float(area) <= 1 for area in areas)
        assert gaps != areas
        assert page.all("document.querySelectorAll('main b').length") == 0  # a name is text
        assert (page.said, page.asked) == ([], [])


@in_browser
@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_findings_is_accessible_and_nothing_is_cut_off(chromium, run, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(chromium, run.path / "report.html", width=width, color_scheme=scheme) as page:
        assert page.all("document.documentElement.scrollWidth") <= width
        assert page.all("document.documentElement.scrollHeight") <= 8000
        found = axe.Axe().run(page.tab).response["violations"]
        assert [violation["id"] for violation in found] == []


def evaluate_toys(out, models, images, **options):
    data = Dataset("toys", None, None, images, (0.4,) * 3, (0.2,) * 3, {}, "multilabel")
    asked = {"outputs": "logits", "bootstrap": 100, "device": "cpu", "progress": False, **options}
    with figures_left_out():
        made = fw.evaluate(models, data, ["gaussian_blur: [0.8]"], out=out, **asked)
    return RunFolder(made.path)


def test_a_page_of_several_runs_shows_the_findings_of_all(tmp_path):
    images = images_of(200, 4)
    runs = [
        evaluate_toys(tmp_path / "one", {"net": Thirds(20.0)}, images),
        evaluate_toys(
            tmp_path / "two", {"net-seed0": Thirds(5.0), "net-seed1": Thirds(3.0)}, images
        ),
    ]
    with figures_left_out():
        build_joint_report(runs, tmp_path / "both")
    data = carried(RunFolder(tmp_path / "both"))
    assert set(data["tiles"]) == {"one:net", "two:net"}
    for label, run, seed in (("one", runs[0], "0"), ("two", runs[1], "mean")):
        stored = pd.read_csv(run.path / "scores.csv", dtype=str)
        stored = stored[(stored["shift"] == "clean") & (stored["metric"] == "auc")]
        stored = stored[stored["seed"] == seed].set_index("unit")["value"].astype(float)
        for name, (area, _), *_ in data["map"][f"{label}:net"]["rows"]:
            assert area[0] == pytest.approx(stored[f"finding={name}"], abs=1e-5)
        assert set(data["findings"][f"{label}:net"]) == set(NAMES)


def test_the_details_have_the_findings_of_each_slice(tmp_path):
    images = images_of(300, 5)
    images.labels[1::2, 2] = 0  # none in the south
    sites = np.array(["north", "south"] * 150, dtype=object)
    images = replace(images, groups=Groups(slices={"site": sites}))
    run = evaluate_toys(tmp_path / "run", {"net": Thirds(20.0)}, images)
    table = pd.read_csv(run.path / "tables/findings_slices.csv")
    stored = pd.read_csv(run.path / "slices.csv")
    stored = stored[(stored["shift"] == "clean") & (stored["metric"] == "auc")]
    assert "Findings in slices" in (run.path / "report.html").read_text()
    wanted = stored[stored["slice"] == "site=north"].set_index("unit")["value"]
    assert len(table) >= len(NAMES)
    assert "nan" not in (run.path / "tables/findings_slices.md").read_text()
    [column] = [name for name in table if name.startswith("site=north") and "low" not in name][:1]
    values = dict(zip(table["title"], table[column], strict=True))
    for name in NAMES:
        assert values[f"net, {name}"] == pytest.approx(wanted[f"finding={name}"], rel=1e-6)


def test_the_list_of_runs_has_the_mean_area_of_findings(run, scores):
    page = (fw.view(run.path.parent, run.path.parent / "list.html")).read_text()
    assert "It has no accuracy" not in page
    for model in ("sharp", "flat"):
        own = scores.loc[(model, "mean finding", "clean", "none", "auc")]
        assert f"{100 * own['value']:.1f}" in page
    assert "mean AUC in place of accuracy" in page


def test_the_page_names_the_seed_of_curves_only_where_all_models_share_it(tmp_path):
    images = images_of(100, 6)
    one = evaluate_toys(
        tmp_path / "one", {"net-seed3": Thirds(9.0), "net-seed4": Thirds(5.0)}, images
    )
    assert "The curves of seed 3" in (one.path / "report.html").read_text()
    two = evaluate_toys(
        tmp_path / "two", {"net-seed0": Thirds(9.0), "net-seed1": Thirds(5.0)}, images
    )
    with figures_left_out():
        build_joint_report([one, two], tmp_path / "both")
    page = (tmp_path / "both/report.html").read_text()
    assert "The curves of the first seed" in page

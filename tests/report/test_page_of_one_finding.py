"""The page of one finding: its numbers against scores.csv and predictions, and what it says."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.metrics import confidence_gap
from fairweather.metrics.decisions import net_benefit
from fairweather.metrics.grouping import Grouping, equal_means_p
from fairweather.report.calls import describe_slices
from fairweather.report.contents import read_contents
from fairweather.report.findings import read_finding
from fairweather.report.operating_points import RateRow
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import UNKNOWN, Dataset, Groups, Images, Score
from tests.conftest import figures_left_out
from tests.helpers.browser import browser, missing, opened
from tests.report.test_report import carried, crowded, split_sentences

NAME = "malignant <b>"
SHIFTS = ["brightness_factor: [0.7, 0.9, 1.3]", "gaussian_blur: [0.6]"]
in_browser = pytest.mark.skipif(bool(missing()), reason=missing())


class Brightness(nn.Module):
    """The brightness of an image as its probability, moved on the scale of logits."""

    def __init__(self, scale=1.0, offset=0.0):
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.tensor(scale)), offset

    def forward(self, images):
        shares = images.mean(dim=(1, 2, 3)).clamp(0.004, 0.996)
        return (self.scale * (torch.logit(shares) - self.offset))[:, None]


def draw(probability, labels, groups=None):
    """Images that are as bright as a probability."""
    pixels = torch.tensor(np.round(255 * np.asarray(probability)), dtype=torch.uint8)
    images = pixels[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    made = Images(images, torch.tensor(labels)[:, None], torch.arange(len(labels)), (NAME,))
    return made if groups is None else replace(made, groups=groups)


def evaluate(out, images, models=None, shifts=SHIFTS, **options):
    data = Dataset("skin", None, None, images, (0.4,) * 3, (0.2,) * 3, {}, "multilabel")
    asked = {"outputs": "logits", "bootstrap": 100, "device": "cpu", "progress": False, **options}
    with figures_left_out():
        made = fw.evaluate(models or {"net": Brightness()}, data, shifts, out=out, **asked)
    return RunFolder(made.path)


def draw_sites(count=600, seed=0):
    """Patients with two images each, of three sites; one of them is hard."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.25).astype(np.int64)
    sites = np.repeat(rng.choice(["east", "north", "west"], count // 2, p=[0.6, 0.3, 0.1]), 2)
    strength = np.where(sites == "north", 0.8, 2.4)
    logits = rng.normal(strength * (labels - 0.5), 1)
    labels[rng.random(count) < 0.1] = UNKNOWN
    patients = np.array([f"p{number}" for number in np.arange(count) // 2], dtype=object)
    groups = Groups("patient", patients, {"site": sites.astype(object)})
    return draw(1 / (1 + np.exp(-logits)), labels, groups)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    models = {"net": Brightness(), "sure": Brightness(4.0, 0.3)}
    out = tmp_path_factory.mktemp("one") / "run"
    return evaluate(out, draw_sites(), models, operating_points=[f"{NAME}=0.3"])


@pytest.fixture(scope="module")
def scores(run):
    frame = pd.read_csv(run.path / "scores.csv", dtype={"level": str, "seed": str})
    frame = frame[frame["unit"] == f"finding={NAME}"]
    return frame.set_index(["model", "shift", "level", "metric"])


def worst_level(scores, model, shift, levels):
    """The level with the lowest mean of sensitivity and specificity at 0.3."""
    means = {
        level: sum(
            scores.loc[model, shift, level, f"{kind}@0.3"].value
            for kind in ("sensitivity", "specificity")
        )
        for level in levels
    }
    return min(means, key=means.get)


def test_the_rates_are_those_of_scores_at_the_worst_level_of_each_shift(run, scores):
    for model, (at_point, at_half, area) in carried(run)["rates"].items():
        levels = {
            "Clean": ("clean", "none"),
            "Brightness": (
                "brightness_factor",
                worst_level(scores, model, "brightness_factor", ("0.7", "0.9", "1.3")),
            ),
            "Gaussian blur": ("gaussian_blur", "0.6"),
        }
        for own, metrics in (
            (at_point, ("sensitivity@0.3", "specificity@0.3")),
            (at_half, ("sensitivity", "specificity")),
            (area, ("auc",)),
        ):
            assert {row[0] for row in own["rows"]} == set(levels)
            for title, _, marks, _ in own["rows"]:
                for (_, value, low, high, _), metric in zip(marks, metrics, strict=True):
                    row = scores.loc[(model, *levels[title], metric)]
                    ends = [None if math.isnan(end) else end for end in (row.low, row.high)]
                    assert (value, low, high) == pytest.approx((row.value, *ends), abs=1e-5)


def test_the_tiles_have_both_rates_clean_and_at_their_worst_and_the_gap(run, scores):
    data = carried(run)
    for model, (clean, worst, gap) in data["tiles"].items():
        rows = data["rates"][model][0]["rows"]
        for tile, (_, _, marks, _) in zip((clean, worst), rows, strict=False):
            assert tile[0] == f"{marks[0][4].split(chr(160))[0]} and {marks[1][4]}"
            assert tile[1].startswith("sensitivity and specificity at 0.3 ")
        assert "where their mean is lowest" in worst[1]
        gaps = scores.xs((model, "probability_gap"), level=("model", "metric"))["value"]
        gaps = gaps[gaps.index.get_level_values("level").str.fullmatch(r"none|[0-9.]+")]
        assert len(gaps) == 5
        _, level = gaps.abs().idxmax()
        assert gap[0] == f"{100 * gaps.abs().max():.1f} points"
        assert ("on clean images" if level == "none" else level) in gap[1]


def test_the_sentences_are_short_and_numbers_do_not_crowd(run):
    data = carried(run)
    said = [text for tiles in data["tiles"].values() for tile in tiles for text in tile[1:]]
    said += [text for own in data["rates"].values() for shown in own for text in shown["said"]]
    said += [
        text for own in data["hurt"].values() for shown in own.values() for text in shown["said"]
    ]
    for findings in data["findings"].values():
        said += [text for texts in findings[NAME]["said"].values() for text in texts]
    sentences = [sentence for text in said for sentence in split_sentences(text)]
    assert len(sentences) > 30
    assert crowded(sentences) == []
    assert [sentence for sentence in sentences if len(sentence.split()) > 20] == []


def test_operating_points_are_on_the_curves_and_net_benefits_are_exact(run, scores):
    contents = read_contents(run)
    for model, findings in carried(run)["findings"].items():
        own = findings[NAME]
        assert set(own["curves"]) == {"clean", "brightness_factor", "gaussian_blur"}
        finding = read_finding(contents, model, "0", "clean")[0]
        odds = finding.logits[:, 1].astype(float)
        probability, present = 1 / (1 + np.exp(-odds)), finding.labels == 1
        roc, precision_recall, benefit, treat_all, _, prevalence = own["curves"]["clean"]
        for threshold, value, low, high in benefit:
            exact = net_benefit(probability, present, threshold)
            assert value == pytest.approx(max(exact, -prevalence / 4), abs=1e-4)
            assert low <= value <= high
        for threshold, value in treat_all[:-1]:
            assert value == pytest.approx(
                net_benefit(np.ones(len(present)), present, threshold), abs=1e-4
            )
        points = own["points"]["clean"]
        assert [(title, at) for title, *_, at in points] == [("0.3", 0.3), ("0.5", 0.5)]
        for title, false, right, ppv, _ in points:
            suffix = "" if title == "0.5" else "@0.3"
            row = scores.sort_index().loc[(model, "clean", "none"), "value"]
            assert right == pytest.approx(row[f"sensitivity{suffix}"], abs=1e-4)
            assert false == pytest.approx(1 - row[f"specificity{suffix}"], abs=1e-4)
            assert ppv == pytest.approx(row[f"ppv{suffix}"], abs=1e-4)
            # A step of a thinned curve is 2 / 99 at most.
            near = [math.hypot(x - false, y - right) for x, y, *_ in roc]
            assert min(near) <= 2 / 99 + 1 / present.sum()
            near = [math.hypot(x - right, y - ppv) for x, y, *_ in precision_recall]
            assert min(near) < 0.1


def test_each_site_has_its_own_images_and_the_gap_its_test(run):
    contents, groups = read_contents(run), run.groups()
    table = pd.read_csv(run.path / "tables/rates_site.csv")
    table = table[table["point"] == 0.3].set_index(["model", "rate", "slice"]).sort_index()
    p_values = {}
    for model, own in carried(run)["hurt"].items():
        rows = {row[0]: row for row in own["site"]["rows"]}
        assert list(rows) == ["east", "north", "west"]
        images = contents.read_cell(model, "0", "clean")
        labels, called = images.labels[:, 0], images.probability[:, 0] >= 0.3
        for place, (kind, side) in enumerate((("sensitivity", 1), ("specificity", 0))):
            chosen = np.flatnonzero(labels == side)
            right = (called == side)[chosen].astype(float)
            sites = groups.slices["site"][chosen]
            for site, (_, note, marks, _) in rows.items():
                inside = sites == site
                side_of_it = ("without", "with")[side]
                assert f"{inside.sum():,} {side_of_it} it" in note
                assert marks[place][1] == pytest.approx(right[inside].mean(), abs=1e-5)
                row = table.loc[(model, kind, f"site={site}")]
                assert (row["n"], row["value"]) == (
                    inside.sum(),
                    pytest.approx(marks[place][1], abs=1e-5),
                )
            patients = Grouping(groups.numbers).select(chosen)
            _, parts = np.unique(sites, return_inverse=True)
            raw = equal_means_p(right[:, None], parts, patients, np.random.default_rng(0))
            p = table.loc[(model, kind, "site=east"), "p_holm"]
            assert p >= raw
            p_values[model, kind] = p
            said = " ".join(own["site"]["said"])
            confirmed = f"The test confirms that the {kind} differs by site" in said
            assert confirmed == (p < 0.05)
            assert confirmed != (f"cannot confirm that the {kind} differs" in said)
    assert min(p_values.values()) < 0.05 < max(p_values.values())


@pytest.mark.parametrize("sensitivities", [(1.0, 1.0), (0.9996, 1.0), (0.912, 0.914), (0.6, 0.9)])
def test_sites_whose_rates_round_alike_have_no_lowest_one(sensitivities):
    rows = [
        RateRow("net", "Net", NAME, "", kind, f"site={site}", Score(value, 0.5, 1, 90), 90, 0.2)
        for kind, values in (("sensitivity", sensitivities), ("specificity", (0.7, 0.8)))
        for site, value in zip(("north", "south"), values, strict=True)
    ]
    said = [sentence.replace("\xa0", " ") for sentence in describe_slices("site", rows)]
    assert said[-2] == "Specificity is lowest in “north”, 70 %, and highest in “south”, 80 %."
    sensitive = [sentence for sentence in said if "ensitivity" in sentence]
    if sensitivities == (0.6, 0.9):
        first = "Sensitivity is lowest in “north”, 60 %, and highest in “south”, 90 %."
        test = "The test cannot confirm that the sensitivity differs by site (p = 0.200)."
        assert sensitive == [first, test]
    else:
        assert sensitive == []


def test_a_mean_probability_far_above_the_prevalence_is_told_though_confidence_is_right(tmp_path):
    rng = np.random.default_rng(1)
    labels = (np.arange(1000) < 208).astype(np.int64)
    high = rng.random(1000) < 0.3
    probability = np.where(labels == 1, 0.85, np.where(high, 0.65, 0.28))
    run = evaluate(tmp_path / "run", draw(probability, labels), shifts=["gaussian_blur: [0.3]"])
    contents = read_contents(run)
    finding = read_finding(contents, "net", "0", "clean")[0]
    # Of two classes, both are off by as much: the most probable one is as sure as it is right.
    assert abs(confidence_gap(finding.confidence, finding.correct)) < 0.05
    gap = carried(run)["tiles"]["net"][2]
    mean = (1 / (1 + np.exp(-finding.logits[:, 1].astype(float)))).mean()
    assert mean == pytest.approx(0.485, abs=0.02)
    assert gap[0] == f"{100 * (mean - 0.208):.1f} points"
    assert (
        gap[1]
        == f"too high a mean probability of “{NAME}” on clean images, the largest confirmed gap"
    )
    assert gap[2].replace("\u00a0", " ") == (
        f"Its mean probability is {mean:.3f}, but 20.8 % of the images have it: {gap[0]} too high."
    )
    assert gap[3].startswith("95")


def test_a_gap_that_may_be_noise_is_no_claim(tmp_path):
    rng = np.random.default_rng(2)
    probability = rng.beta(1, 3, 300)
    labels = (rng.random(300) < probability).astype(np.int64)
    run = evaluate(tmp_path / "run", draw(probability, labels), shifts=["gaussian_blur: [0.3]"])
    tiles = carried(run)["tiles"]["net"]
    said = " ".join(tiles[2])
    assert "includes 0" in said
    assert re.search("too (high|low)|as sure", said) is None
    assert re.search("between the mean probability of .* and its share of the images", said)


@pytest.fixture(scope="module")
def read_run(tmp_path_factory):
    """A run without shifts, whose images two people have called."""
    rng = np.random.default_rng(3)
    labels = (rng.random(200) < 0.4).astype(np.int64)
    probability = np.clip(0.2 + 0.5 * labels + rng.normal(0, 0.15, 200), 0.01, 0.99)
    calls = {
        name: pd.DataFrame(
            {"key": np.arange(200), NAME: np.where(rng.random(200) < wrong, 1 - labels, labels)}
        )
        for name, wrong in (("ann", 0.1), ("bob", 0.3))
    }
    out = tmp_path_factory.mktemp("read") / "run"
    return evaluate(out, draw(probability, labels), shifts=[], readers=calls), labels, calls


def test_readers_are_points_beside_the_roc_curve(read_run):
    run, labels, calls = read_run
    own = carried(run)["findings"]["net"][NAME]
    assert set(own["curves"]) == {"clean"}
    assert [name for name, *_ in own["readers"]] == ["ann", "bob"]
    for name, false, right, *_ in own["readers"]:
        called = calls[name][NAME].to_numpy()
        assert right == pytest.approx(called[labels == 1].mean(), abs=1e-4)
        assert false == pytest.approx(called[labels == 0].mean(), abs=1e-4)
    assert "readers" in (run.path / "report.html").read_text().split('class="key"')[1][:400]


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@in_browser
def test_a_shift_and_an_operating_point_are_chosen_with_the_keyboard(chromium, run):
    with opened(chromium, run.path / "report.html") as page:
        assert page.tab.locator("#map").count() == 0
        assert page.tab.locator("#finding").count() == 0
        assert page.tab.locator("#curves .lines").count() == 5
        rows = page.tab.locator("#rates-rows tbody tr")
        assert rows.count() == 3
        before = rows.all_inner_texts()
        page.tab.locator("#shown").focus()
        page.tab.keyboard.press("ArrowDown")
        assert rows.all_inner_texts() != before
        page.tab.locator("#rates-rows button").last.focus()
        page.tab.keyboard.press("Enter")
        chosen = "document.getElementById('shift').selectedOptions[0].textContent"
        assert page.all(chosen) == page.tab.locator("#rates-rows button").last.inner_text()
        assert page.all("document.activeElement.id") == "shift"
        # A mark on the clean curve and one on the shifted one, at each operating point.
        roc = page.tab.locator("#curves .lines").first
        assert roc.locator(".at-right").count() == roc.locator(".at-worst").count() == 2
        labels = roc.locator("text.number").all_text_contents()  # of the clean curve alone
        assert len(labels) == len({*labels}) == 2
        assert roc.locator(".band").count() == 2
        spoken = roc.locator("[role=img]").get_attribute("aria-label")
        assert spoken.count("operating point") == 4
        assert page.all("document.querySelectorAll('main b').length") == 0  # a name is text
        assert (page.said, page.asked) == ([], [])


@in_browser
def test_a_page_without_shifts_draws_clean_curves_and_readers(chromium, read_run):
    with opened(chromium, read_run[0].path / "report.html") as page:
        roc = page.tab.locator("#curves .lines").first
        assert page.tab.locator("#curves .lines").count() == 4
        assert roc.locator(".mark.reader").count() == 2
        assert "Reader ann: " in roc.locator("[role=img]").get_attribute("aria-label")
        assert page.tab.locator("#rates-rows tbody tr").count() == 1
        assert page.tab.locator("#tiles li").count() == 2
        assert (page.said, page.asked) == ([], [])


@in_browser
@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_one_finding_is_accessible_and_nothing_is_cut_off(chromium, run, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(chromium, run.path / "report.html", width=width, color_scheme=scheme) as page:
        assert page.all("document.documentElement.scrollWidth") <= width
        violations = axe.Axe().run(page.tab).response["violations"]
        assert [violation["id"] for violation in violations] == []
        page.tab.emulate_media(media="print")
        assert page.all("document.documentElement.scrollWidth") <= width


def test_the_decision_curve_is_at_the_stated_prevalence(tmp_path):
    rng = np.random.default_rng(2)
    labels = (np.arange(400) < 100).astype(np.int64)
    probability = np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0.01, 0.99)
    run = evaluate(tmp_path / "run", draw(probability, labels), priors={"clinic": {NAME: 0.02}})
    curves = carried(run)["findings"]["net"][NAME]["curves"]["clean"]
    assert curves[5] == 0.02
    threshold, benefit = curves[2][0][:2]
    images = read_contents(run).read_cell("net", "0", "clean").probability[:, 0]
    expected = net_benefit(images, labels == 1, threshold, prevalence=0.02)
    assert benefit == pytest.approx(max(expected, -0.25 * 0.02), abs=1e-4)
    assert expected > -0.25 * 0.02
    page = " ".join((run.path / "report.html").read_text(encoding="utf-8").split())
    assert "Net benefit is at a prevalence of 2 %." in page

"""What the page says of costs: the numbers of scores.csv, clean and under the worst shift."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.report.sentences import compare_costs, doubt_costs
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import Dataset, Images, Score
from tests.conftest import figures_left_out
from tests.helpers.browser import browser, missing, opened
from tests.report.test_page_of_one_finding import draw, draw_sites, evaluate
from tests.report.test_report import carried, crowded, split_sentences

METRICS = ("expected_cost", "bayes_cost", "cost_with_review")
COSTS = ["missed malignant <b>: 10", "review: 0.4"]
in_browser = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def of_finding(tmp_path_factory):
    return evaluate(tmp_path_factory.mktemp("costs") / "run", draw_sites(), costs=COSTS)


class Means(nn.Module):
    """The mean of each channel as the logit of a class."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(6.0))

    def forward(self, images):
        return self.scale * images.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    pixels = (
        110 + 40 * nn.functional.one_hot(labels, 3) + 30 * torch.randn(300, 3, generator=generator)
    )
    images = pixels.clamp(0, 255).to(torch.uint8)[:, :, None, None].expand(-1, -1, 8, 8)
    test = Images(images.contiguous(), labels, torch.arange(300), ("a", "b", "c"))
    data = Dataset("three", None, None, test, (0.4,) * 3, (0.2,) * 3, {})
    out = tmp_path_factory.mktemp("costs") / "run"
    with figures_left_out():
        made = fw.evaluate(
            {"net": Means()},
            data,
            ["brightness_factor: [0.3, 0.8]"],
            outputs="logits",
            costs=["missed b: 5", "review: 0.5"],
            bootstrap=100,
            out=out,
            device="cpu",
            progress=False,
        )
    return RunFolder(made.path)


@pytest.mark.parametrize("task", ["of_finding", "of_classes"])
def test_costs_are_those_of_scores_on_clean_images_and_under_the_worst_shift(task, request):
    run = request.getfixturevalue(task)
    data = carried(run)
    own = data["costs"]["net"]
    frame = pd.read_csv(run.path / "scores.csv", dtype={"level": str})
    if task == "of_finding":
        frame = frame[frame["unit"].str.startswith("finding=")]
        rates = frame[frame["metric"].isin(["sensitivity", "specificity"])]
        quality = rates.groupby(["shift", "level"])["value"].mean()
    else:
        quality = frame[frame["metric"] == "accuracy"].set_index(["shift", "level"])["value"]
    shifted = quality[[level[:1].isdigit() for _, level in quality.index]]
    scores = frame.set_index(["shift", "level", "metric"]).sort_index()
    places = (("clean", "none"), shifted.idxmin())
    assert len(own["rows"]) == len(METRICS)
    for metric, (_, _, marks, _) in zip(METRICS, own["rows"], strict=True):
        for place, (_, value, low, high, written) in zip(places, marks, strict=True):
            row = scores.loc[(*place, metric)]
            assert (value, low, high) == pytest.approx(
                (row["value"], row["low"], row["high"]), abs=1e-5
            )
            assert written == f"{row['value']:.2f}"
            assert high <= own["top"]
            assert (
                written in " ".join(own["said"])
                or metric == "cost_with_review"
                or place != places[0]
            )
    sentences = [sentence for text in own["said"] for sentence in split_sentences(text)]
    assert crowded(sentences) == []
    assert all(len(sentence.split()) <= 20 for sentence in sentences)


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.4])
def test_bayes_decisions_are_compared_as_far_as_intervals_tell(shift):
    own, bayes = (Score(at, at - 0.1, at + 0.1, 99) for at in (1.0, 1.0 + shift))
    said = compare_costs(own, bayes)
    assert ("cost more" in said, "cost less" in said) == (shift > 0, shift < 0)
    assert ("the intervals overlap" in said) == (shift == 0)
    doubt = doubt_costs(bayes, "under fog")
    assert ("costs less" in doubt, "may" in doubt) == (shift > 0, shift == 0)
    assert (doubt == "") == (shift < 0)


def test_a_run_without_costs_says_nothing_of_them(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random(100) < 0.3).astype(np.int64)
    run = evaluate(tmp_path / "run", draw(rng.random(100), labels), shifts=["gaussian_blur: [0.3]"])
    assert "costs" not in carried(run)
    assert "What decisions cost" not in (run.path / "report.html").read_text()


@in_browser
@pytest.mark.parametrize("task", ["of_finding", "of_classes"])
def test_the_chart_of_costs_is_drawn_and_accessible(task, request):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    run = request.getfixturevalue(task)
    with browser() as chromium, opened(chromium, run.path / "report.html", width=375) as page:
        assert page.tab.locator("#costs-rows tbody tr").count() == 3
        assert page.all("document.documentElement.scrollWidth") <= 375
        violations = axe.Axe().run(page.tab).response["violations"]
        assert [violation["id"] for violation in violations] == []
        assert (page.said, page.asked) == ([], [])

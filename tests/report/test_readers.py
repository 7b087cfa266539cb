"""The page of a run with readers: their section, and their marks beside the ROC curve."""

import re

import numpy as np
import pandas as pd
import pytest

from fairweather.metrics.readers import reader_points
from tests.helpers.browser import browser, missing, opened
from tests.report.test_page_of_one_finding import NAME, draw, evaluate
from tests.report.test_report import carried, split_sentences

in_browser = pytest.mark.skipif(bool(missing()), reason=missing())
READERS = ("ann", "<u>bob", "eve")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    labels = (np.arange(200) % 3 == 0).astype(int)
    probability = 1 / (1 + np.exp(-(2.5 * labels - 1.2 + rng.normal(size=200))))
    calls = {name: np.where(rng.random(200) < 0.2, 1 - labels, labels) for name in READERS}
    table = pd.DataFrame({"key": range(200), **calls})
    out = tmp_path_factory.mktemp("readers") / "run"
    return calls, labels, evaluate(out, draw(probability, labels), readers=table)


@pytest.fixture(scope="module")
def chromium():
    with browser() as shown:
        yield shown


def test_the_page_has_a_section_with_both_tables_and_no_markup_of_a_name(run):
    _, _, folder = run
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert re.search(r'id="readers".*Models beside readers.*Agreement', page, re.DOTALL)
    assert "<u>bob" not in page
    assert "&lt;u&gt;bob" in page


def test_readers_are_marked_at_their_own_points(run):
    calls, labels, folder = run
    marks = carried(folder)["findings"]["net"][NAME]["readers"]
    points = reader_points(labels == 1, np.stack(list(calls.values()), axis=1))
    assert [name for name, *_ in marks] == list(READERS)
    for (_, x, y, across, up), point in zip(marks, points, strict=True):
        assert (1 - x, y) == pytest.approx((point.specificity.value, point.sensitivity.value))
        assert up == pytest.approx(point.sensitivity[1:3])
        assert across == pytest.approx([1 - point.specificity.high, 1 - point.specificity.low])


def test_sentences_are_short(run):
    _, _, folder = run
    for name in ("readers", "agreement"):
        text = (folder.path / f"tables/{name}.md").read_text(encoding="utf-8")
        for sentence in split_sentences(text.split("\n\n", 1)[1]):
            assert len(sentence.split()) <= 20, sentence


@in_browser
def test_the_roc_curve_shows_the_readers(chromium, run):
    _, _, folder = run
    with opened(chromium, folder.path / "report.html") as page:
        charts = page.tab.locator("#curves .lines")
        assert charts.first.locator(".mark.reader").count() == len(READERS)
        assert page.tab.locator(".mark.reader").count() == len(READERS)
        spoken = charts.first.locator("[role=img]").get_attribute("aria-label")
        assert [spoken.count(f"Reader {name}:") for name in READERS] == [1, 1, 1]
        assert page.all("document.querySelectorAll('main u').length") == 0
        assert (page.said, page.asked) == ([], [])

"""The sections of the report: one list that page, contents, files and overview read."""

import dataclasses

import pandas as pd
import pytest

import fairweather as fw
from fairweather.report.building import SECTIONS, build_report
from fairweather.report.section import Brief, PartView, ReportPart, Section
from fairweather.report.tables import TableLayout, TextTable
from tests.helpers.run_folders import run_record, write_run
from tests.report.test_report import carried

SCORE = ("a", "0", "clean", "none", "accuracy", 0.8, 0.7, 0.9, 100)


@pytest.fixture
def run(tmp_path, no_figures):
    return write_run(tmp_path / "run", run_record({"a": "A <b>model</b>"}), [SCORE])


def halves(contents):
    """A table of half of each accuracy."""
    rows = [
        (model, contents.score("accuracy", model, "clean", "none").value / 2)
        for model in contents.titles
    ]
    frame = pd.DataFrame(rows, columns=["model", "half"])
    body = [[model, f"{half:.2f}"] for model, half in rows]
    yield TextTable("halves", TableLayout(("Model", "Half")), body, ["Half of <each>."], frame)


def shown(contents, tables):
    return PartView("Half of each", tables, notes=["Half is not much."], carried={"half": 0.5})


MINE = Section(
    "halves",
    "Halves",
    (ReportPart(shown, halves),),
    brief=lambda contents: Brief(
        ["Halves are told."], TableLayout(("Model",)), [[*contents.titles]]
    ),
)


def added(monkeypatch, section):
    sections = (SECTIONS[0], section, *SECTIONS[1:])
    # Before the list that it is imported from.
    monkeypatch.setattr("fairweather.report.finished_run.SECTIONS", sections)
    monkeypatch.setattr("fairweather.report.building.SECTIONS", sections)


def test_a_section_that_is_one_object_is_on_the_page_in_the_contents_and_a_file(run, monkeypatch):
    added(monkeypatch, MINE)
    names = build_report(run)
    assert {f"tables/halves.{suffix}" for suffix in ("md", "csv", "tex")} <= set(names)
    assert (run.path / "tables" / "halves.csv").read_text() == "model,half\na,0.4\n"
    page = (run.path / "report.html").read_text()
    assert page.index('id="details"') < page.index('id="halves"') < page.index('id="how"')
    section = page.partition('<details id="halves">')[2].partition("</details>")[0]
    for words in (
        "<h3>Halves</h3>",
        "<h4>Half of each</h4>",
        "Half is not much.",
        '<td data-label="Half">0.40</td>',
        "<caption>Half of &lt;each&gt;.</caption>",
        'data-copy="halves"',
    ):
        assert words in section
    assert carried(run)["half"] == 0.5
    assert "Halves are told.\n\nModel\na" in fw.Run(run.path).overview()


def test_a_section_of_the_front_is_open_and_in_the_list_of_contents(run, monkeypatch):
    added(monkeypatch, dataclasses.replace(MINE, front=True))
    build_report(run)
    page = (run.path / "report.html").read_text()
    assert page.index('href="#halves"') < page.index('<section id="halves">')
    assert page.index('<section id="halves">') < page.index('id="details"')


def test_a_section_is_left_out_where_a_run_is_not_of_its_kind(run, monkeypatch):
    added(monkeypatch, dataclasses.replace(MINE, accepts=lambda contents: not contents.titles))
    names = build_report(run)
    assert not any("halves" in name for name in names)
    assert "halves" not in (run.path / "report.html").read_text()


def test_a_section_that_shows_nothing_is_not_in_the_contents(run, monkeypatch):
    added(monkeypatch, Section("empty", "Nothing", (ReportPart(lambda *_: None),)))
    build_report(run)
    assert "empty" not in (run.path / "report.html").read_text()


def test_anchors_are_all_different():
    anchors = [section.anchor for section in SECTIONS]
    assert len(set(anchors)) == len(anchors)

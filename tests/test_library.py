"""Vega's JavaScript is put together once, and never taken from a file that is not as it was."""

from importlib.metadata import version

import pytest

from fairweather import vega
from fairweather.report.library import begin_library


@pytest.fixture
def made(monkeypatch, tmp_path):
    """How often JavaScript is put together, each time another one, with an empty cache folder."""
    texts = []

    def put_together():
        texts.append(f"script {len(texts)};\r\nö\n")
        return texts[-1]

    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    monkeypatch.setattr("fairweather.report.library.bundle", put_together)
    return texts


def test_it_is_put_together_once(made, tmp_path):
    assert begin_library(0)() == begin_library(0)() == made[0]
    assert len(made) == 1
    assert [path.name for path in tmp_path.rglob("*.js")] == [f"{version('vl-convert-python')}.js"]


def test_each_version_of_vl_convert_has_its_own(made, monkeypatch):
    first = begin_library(0)()
    monkeypatch.setattr("fairweather.report.library.version", lambda _: "99")
    assert begin_library(0)() != first
    assert len(made) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-2],
        lambda content: content[:70],
        lambda content: content[:-1] + b"\xff",
        lambda content: content.replace(b"script", b"Script"),
        lambda content: b"",
    ],
)
def test_a_damaged_file_is_made_again(made, tmp_path, damage):
    whole = begin_library(0)()
    (file,) = tmp_path.rglob("*.js")
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert begin_library(0)() == made[1] != whole
    assert begin_library(0)() == made[1]


def test_nothing_can_be_stored_and_the_page_has_it_all_the_same(made, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "file"))
    assert [begin_library(0)() for _ in range(2)] == made
    assert len(made) == 2


def test_what_is_stored_is_what_vl_convert_makes(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    first, again = begin_library(0)(), begin_library(0)()
    assert first == again == vega.bundle()
    assert "window.vegaEmbed" in again

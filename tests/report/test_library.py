"""Vega's JavaScript is put together once, and never taken from a file that is not as it was."""

import os
import time
from contextlib import nullcontext
from importlib.metadata import version

import pytest

from fairweather.report import vega
from fairweather.report.page.rendering import begin_library


@pytest.fixture
def made(monkeypatch, tmp_path):
    """How often JavaScript is put together, each time another one, with an empty cache folder."""
    texts = []

    def put_together():
        texts.append(f"script {len(texts)};\r\nö\n")
        return texts[-1]

    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    monkeypatch.setattr("fairweather.report.page.rendering.bundle_javascript", put_together)
    return texts


def test_it_is_put_together_once(made, tmp_path):
    assert begin_library(0)() == begin_library(0)() == made[0]
    assert len(made) == 1
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.name.startswith(version("vl-convert-python"))
    assert not file.stat().st_mode & 0o022


@pytest.mark.parametrize(
    ("name", "value"), [("version", lambda _: "99"), ("EXPOSED_API", "other()")]
)
def test_each_version_of_vl_convert_and_of_what_is_exposed_has_its_own(
    made, monkeypatch, name, value
):
    first = begin_library(0)()
    monkeypatch.setattr(f"fairweather.report.page.rendering.{name}", value)
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


def as_link(file, tmp_path):
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")


def as_fifo(file, _):
    file.unlink()
    os.mkfifo(file)


def as_fifo_that_tells_the_same(file, tmp_path):
    content = file.read_bytes()
    as_fifo(file, tmp_path)
    other = os.fdopen(os.open(file, os.O_RDWR), "r+b", buffering=0)
    other.write(content)
    return other


@pytest.mark.parametrize(
    "change",
    [
        as_link,
        as_fifo,
        as_fifo_that_tells_the_same,
        lambda file, _: file.chmod(0o664),
        lambda file, _: file.chmod(0o646),
        lambda file, _: os.truncate(file, 2**33),
    ],
    ids=["link", "fifo", "fifo with content", "group", "others", "endless"],
)
def test_what_others_can_change_is_not_read(made, tmp_path, change):
    begin_library(0)()
    (file,) = tmp_path.rglob("*.js")
    with change(file, tmp_path) or nullcontext():
        assert begin_library(0)() == made[1]
    assert begin_library(0)() == made[1]
    assert file.is_file()
    assert not file.is_symlink()


def test_the_file_of_another_user_is_not_read(made, monkeypatch):
    begin_library(0)()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert begin_library(0)() == made[1]


def no_folder(path, _):
    path.write_text("no folder")


def a_folder_in_the_place_of_the_file(path, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(path))
    begin_library(0)()
    (file,) = path.rglob("*.js")
    file.unlink()
    file.mkdir()


def a_full_disk(_, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def no_home(_, monkeypatch):
    def lost():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("fairweather.report.page.rendering.cache_folder", lost)


@pytest.mark.parametrize(
    "state", [no_folder, a_folder_in_the_place_of_the_file, a_full_disk, no_home]
)
def test_nothing_can_be_stored_and_the_page_has_it_all_the_same(made, monkeypatch, tmp_path, state):
    monkeypatch.setattr("fairweather.runs.folder.os.fsync", lambda _: None)
    state(tmp_path / "cache", monkeypatch)
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    before = len(made)
    assert [begin_library(0)() for _ in range(2)] == made[before:]
    assert len(made) == before + 2
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_killed_process_left_is_removed(made, tmp_path):
    left = tmp_path / "vega" / ".0123456789abcdef.partial"
    left.parent.mkdir()
    left.write_text("half a scri")
    os.utime(left, (0, time.time() - 3601))
    begin_library(0)()
    assert not left.exists()


def test_what_is_stored_is_what_vl_convert_makes(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    first, again = begin_library(0)(), begin_library(0)()
    assert first == again == vega.bundle_javascript()
    assert "window.vegaEmbed" in again

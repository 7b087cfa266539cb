"""Names in files of a run: nothing outside the folder is read, written or removed."""

import json
import os
import re
import stat

import pytest

from fairweather.errors import InputError
from fairweather.report.building import build_joint_report, build_report
from fairweather.report.levels import draw_levels
from fairweather.runs.claims import open_run, share_run
from fairweather.runs.folder import RunFolder, resolve_inside, write_atomically
from fairweather.share import tracker_rows as records
from fairweather.share.export import (
    MANIFEST,
    ExportedData,
    ExportInputs,
    ShiftFacts,
    WrittenFiles,
    open_export,
)
from fairweather.types.record import step_file
from tests.helpers.run_folders import copy_run, finish, run_record
from tests.report.test_report import make_run

OUTSIDE = ["../victim.txt", "a/../../victim.txt", "/tmp/victim.txt", "..", ".", "", "a//b", "a/./b"]
OUTSIDE += ["a\0b", "..\\victim.txt", "C:\\victim.txt", "C:victim.txt", "//host/share/victim.txt"]


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim.txt"
    path.write_text("mine")
    return path


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.describe(run_record({"basic": "Basic"}))
    folder.write("a/result.txt", "42")
    finish(folder, "step", ["a/result.txt"])
    return folder


def name_in_record(run, name):
    path = run.path / step_file("step")
    described = json.loads(path.read_text())
    described["files"][name] = "0" * 64
    path.write_text(json.dumps(described))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_none_inside_the_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="outside the run folder"):
        resolve_inside(tmp_path, name)
    said = f"{re.escape(str(tmp_path / 'steps/a.json'))} .*outside .*{re.escape(repr(name))}"
    with pytest.raises(InputError, match=said):
        resolve_inside(tmp_path, name, "steps/a.json")


@pytest.mark.parametrize(
    "name", ["a.txt", "a/b.txt", "..a/b..", "models/m:1/a b,c=0.5.csv", ".lock"]
)
def test_a_name_inside_the_folder_is_its_path(tmp_path, name):
    assert resolve_inside(tmp_path, name) == tmp_path / name
    (tmp_path / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    assert resolve_inside(tmp_path / "linked", name) == tmp_path / "linked" / name


def test_links_may_not_lead_outside(tmp_path, victim):
    run = tmp_path / "run"
    (run / "tables").mkdir(parents=True)
    (run / "file.txt").symlink_to(victim)
    (run / "folder").symlink_to(tmp_path)
    (run / "nowhere").symlink_to(tmp_path / "not there yet")
    (run / "circle").symlink_to(run / "circle")
    (run / "within").symlink_to(run / "tables")
    (run / "tables" / "deep").symlink_to(tmp_path)
    names = ("file.txt", "folder/victim.txt", "nowhere", "nowhere/a.txt", "circle/a.txt")
    for name in (*names, "tables/deep/victim.txt"):
        with pytest.raises(InputError, match=r"outside .*symbolic link"):
            resolve_inside(run, name)
    assert resolve_inside(run, "within/a.txt") == run / "within/a.txt"


@pytest.mark.parametrize("kind", ["relative", "absolute", "link"])
def test_no_step_reads_or_removes_what_its_record_names_outside(tmp_path, run, victim, kind):
    if kind == "link":
        (run.path / "figures").symlink_to(tmp_path)
    name = {
        "relative": "../victim.txt",
        "absolute": str(victim),
        "link": "figures/victim.txt",
    }[kind]
    name_in_record(run, name)
    said = f"{re.escape(str(run.path / step_file('step')))} .*outside the run folder"

    def use(do):
        with pytest.raises(InputError, match=said) as caught, open_run(run.path) as opened:
            do(opened)
        assert "\n" not in str(caught.value)

    use(lambda opened: opened.forget("step"))
    use(lambda opened: opened.has_left(opened.step("step")))
    use(lambda opened: opened.check_files(lambda _: True))
    with pytest.raises(InputError, match="outside"), open_run(run.path) as opened:
        opened.holds(name)
    assert victim.read_text() == "mine"
    assert (run.path / "a/result.txt").is_file()  # and nothing was removed before the error
    assert "victim" in (run.path / step_file("step")).read_text()


@pytest.mark.parametrize("content", ["[]", "{", b"\xff\xfe", {"files": {"a": 1}}, {"id": "step"}])
def test_a_damaged_record_of_a_step_is_one_sentence(run, content):
    path = run.path / step_file("step")
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content | {"kind": None})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = f"{re.escape(str(path))} .*record of a step"
    with pytest.raises(InputError, match=said):
        RunFolder(run.path).check_files(lambda _: True)


def test_a_folder_of_the_run_that_leads_outside_is_not_written_or_read(tmp_path, run):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.parquet").write_text("not ours")
    (run.path / "tables").symlink_to(tmp_path / "elsewhere")
    for use in (
        lambda: run.write("tables/b.md", "text"),
        lambda: run.read_column("tables/a.parquet", "keys"),
        lambda: run.read_columns("tables/a.parquet", ["keys"]),
        lambda: run.read_predictions("tables/a.parquet"),
        lambda: run.checksum("tables/a.parquet"),
        lambda: finish(run, "tables", ["tables/a.parquet"]),
    ):
        with pytest.raises(InputError, match=r"outside .*symbolic link"):
            use()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["a.parquet"]


def test_a_temporary_file_is_never_one_that_is_there(tmp_path, victim):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".a.txt.partial").symlink_to(victim)
    write_atomically(folder / "a.txt", "new")
    assert (folder / "a.txt").read_text() == "new"
    assert victim.read_text() == "mine"
    assert (folder / ".a.txt.partial").is_symlink()


def test_a_temporary_name_that_was_guessed_is_not_followed(tmp_path, victim, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr("secrets.token_hex", lambda size: "ab" * size)
    (folder / f".{'ab' * 8}.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(folder / "a.txt", "new")
    assert victim.read_text() == "mine"
    assert (folder / f".{'ab' * 8}.partial").is_symlink()


def test_a_file_that_is_a_link_is_replaced_and_not_followed(tmp_path, victim):
    (tmp_path / "a.txt").symlink_to(victim)
    write_atomically(tmp_path / "a.txt", "new")
    assert (victim.read_text(), (tmp_path / "a.txt").read_text()) == ("mine", "new")


def test_a_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_of_the_user_decides_who_may_read(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


@pytest.fixture
def left(run):
    """Files without their end, one of them old, and one with a name that is not ours."""
    names = (f".{'0' * 16}.partial", f".{'1' * 16}.partial", ".notes.partial")
    paths = [run.path / "a" / name for name in names]
    for path in paths:
        path.write_text("half")
    for path in (paths[0], paths[2]):
        os.utime(path, (0, 0))
    return paths


def test_what_a_killed_process_left_is_removed(run, victim, left):
    (run.path / "linked").symlink_to(victim.parent)
    kept = victim.with_name(left[0].name)
    kept.write_text("half")
    os.utime(kept, (0, 0))
    with open_run(run.path):
        assert [path.exists() for path in left] == [False, False, True]
    assert kept.exists()


def test_what_another_worker_may_be_writing_stays(run, left):
    def nothing(*_):
        pass

    with share_run(run.path, {}, nothing):
        assert not left[1].exists()  # this worker was alone
        left[0].touch()
        left[1].touch()
        os.utime(left[0], (0, 0))
        with share_run(run.path, {}, nothing):
            assert [path.exists() for path in left] == [False, True, True]


def test_a_file_whose_partial_file_was_removed_is_written_all_the_same(run, monkeypatch):
    flush = os.fsync

    def removed(descriptor):
        monkeypatch.setattr(os, "fsync", flush)
        with open_run(run.path):  # as a command does that begins just now
            pass

    monkeypatch.setattr(os, "fsync", removed)
    run.write("tables/a.csv", "new")
    assert (run.path / "tables/a.csv").read_text() == "new"
    assert [path.name for path in (run.path / "tables").iterdir()] == ["a.csv"]


def test_a_lock_that_is_a_link_is_refused(run, victim):
    (run.path / ".lock").unlink(missing_ok=True)
    (run.path / ".lock").symlink_to(victim)
    with pytest.raises(InputError, match=r"lock. leads outside the run folder"), open_run(run.path):
        pass
    assert victim.read_text() == "mine"


# The parts that read and write run folders.


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("names") / "run", models={"basic": "Basic"}, n=60)


@pytest.fixture
def copy(reported, tmp_path):
    return copy_run(reported, tmp_path / "copy")


@pytest.fixture
def one_figure(monkeypatch):
    """Reports with one figure, which is written and listed as any other."""
    monkeypatch.setattr(
        "fairweather.report.building._draw_figures", lambda of, *_: [draw_levels(of, "accuracy")]
    )


@pytest.mark.parametrize("name", ["tables", "figures"])
def test_a_report_is_not_written_through_a_link(copy, tmp_path, name, one_figure, no_page):
    (tmp_path / "elsewhere").mkdir()
    (copy.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"outside .*symbolic link"):
        build_report(copy)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (copy.path / "report.html").exists()  # and no part of a report was written


def test_pictures_are_not_read_through_a_link(copy, tmp_path):
    (copy.path / "samples").rename(tmp_path / "elsewhere")
    (copy.path / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the run folder"):
        build_report(copy)


@pytest.mark.parametrize("file", ["history.csv", "model.json"])
def test_a_model_name_leads_no_reader_outside(copy, tmp_path, file, no_figures):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / file).write_text("epoch,val_loss\n1,2\n")
    for place in (copy.path / "models/basic").glob("seed-*"):
        (place / file).unlink(missing_ok=True)
        (place / file).symlink_to(tmp_path / "elsewhere" / file)
    with pytest.raises(InputError, match="outside the run folder"):
        build_report(copy)


@pytest.mark.parametrize("file", ["scores.csv", "record.json", "warnings.json"])
def test_a_file_of_a_run_is_not_read_through_a_link(copy, tmp_path, file, no_figures):
    if (copy.path / file).exists():
        (copy.path / file).rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").write_text("{}")
    (copy.path / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the run folder"):
        build_report(RunFolder(copy.path))


def test_a_joint_report_removes_nothing_through_a_link(copy, tmp_path, victim, no_figures, no_page):
    out = tmp_path / "joint"
    build_joint_report([copy], out)
    for path in (out / "tables").iterdir():
        path.unlink()
    (out / "tables").rmdir()
    (out / "tables").symlink_to(tmp_path)
    listed = json.loads((out / "runs.json").read_text())
    listed["files"].append("tables/victim.txt")
    (out / "runs.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"runs\.json .*outside the run folder"):
        build_joint_report([copy], out)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"files": 1}', b'{"files": [1]}', b"\xff"])
def test_a_damaged_list_of_a_joint_report_is_named_and_nothing_removed(copy, tmp_path, content):
    out = tmp_path / "joint"
    (out / "tables").mkdir(parents=True)
    (out / "tables/mine.csv").write_text("mine")
    (out / "runs.json").write_bytes(content)
    with pytest.raises(InputError, match=r"runs\.json") as caught:
        build_joint_report([copy], out)
    assert "\n" not in str(caught.value)
    assert (out / "tables/mine.csv").read_text() == "mine"
    assert (out / "runs.json").read_bytes() == content


def test_a_tracker_gets_nothing_through_a_link(copy, tmp_path, one_figure, no_page):
    build_report(copy)
    finish(copy, "report", ["report.html"], kind="report")
    (copy.path / "figures").rename(tmp_path / "elsewhere")
    (copy.path / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the run folder"):
        records.read_tracked_run(copy)


EXPORTED = ExportInputs(
    data=ExportedData(name="noise", part="test", digest="0", images=0, size=(8, 8), classes=()),
    format="npz",
    seed=0,
)


def test_an_export_reads_no_file_that_its_manifest_names_outside(tmp_path, victim):
    out = tmp_path / "out"
    with open_export(out, EXPORTED) as manifest, manifest.replacing("clean", "clean.npz") as path:
        path.write_text("pixels")
    with open_export(out, EXPORTED) as manifest:
        shift = ShiftFacts(name="clean", parameters={}, constants="")
        written = WrittenFiles(images=0, bytes=0, pixels_sha256="0")
        manifest.finish("clean", "clean.npz", shift, written)
    stored = json.loads((out / MANIFEST).read_text())
    stored["shifts"]["clean"]["path"] = "../victim.txt"
    (out / MANIFEST).write_text(json.dumps(stored))
    seen = []
    with (
        pytest.raises(InputError, match=r"manifest\.json .*outside"),
        open_export(out, EXPORTED) as manifest,
    ):
        manifest.is_done("clean", lambda path, facts: seen.append(path) or True)
    assert seen == []


def test_a_manifest_is_not_read_through_a_link(tmp_path):
    for name in ("whole", "foreign"):
        with open_export(tmp_path / name, EXPORTED):
            pass
    manifest = tmp_path / "foreign" / MANIFEST
    manifest.unlink()
    manifest.symlink_to(tmp_path / "whole" / MANIFEST)
    with (
        pytest.raises(InputError, match="outside"),
        open_export(tmp_path / "foreign", EXPORTED),
    ):
        pass


def test_an_export_writes_and_removes_nothing_through_a_link(tmp_path, victim):
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").write_text("not ours")
    with open_export(out, EXPORTED) as manifest:
        (out / "fog").symlink_to(tmp_path / "elsewhere")
        (out / ".fog.partial").symlink_to(victim)
        with manifest.replacing("fog", "fog") as path:
            path.mkdir()
            (path / "b.png").write_text("ours")
    assert [path.name for path in (out / "fog").iterdir()] == ["b.png"]
    assert not (out / "fog").is_symlink()
    assert (tmp_path / "elsewhere/a.png").read_text() == "not ours"
    with open_export(out, EXPORTED):  # links are removed, but not their targets
        assert not (out / ".fog.partial").is_symlink()
    assert victim.read_text() == "mine"


def test_a_temporary_file_alone_is_the_beginning_of_an_export(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / f".{'0' * 16}.partial").write_text("{")
    with open_export(tmp_path, EXPORTED):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", MANIFEST]

"""Claims avoid that two processes do the same step; they expire when nobody renews them."""

import os
import threading
import time
from pathlib import Path

import pytest

from fairweather.errors import InputError
from fairweather.runs import claims
from fairweather.runs.claims import (
    Claims,
    _create,
    is_claims_folder,
    list_workers,
    lock_run,
    open_claims,
    share_run,
)
from fairweather.runs.folder import RunFolder
from tests.helpers.run_folders import run_record, write_run

MARK = {"device": "cpu"}
STEP = "predictions/basic/seed-0/test/gaussian_blur,sigma=1"


@pytest.fixture
def claim(tmp_path):
    """Processes that never renew their claims within a test."""
    made = []

    def of(expires=100.0, renewed=1000.0):
        made.append(Claims(tmp_path.joinpath, "", renewed=renewed, expires=expires))
        return made[-1]

    yield of
    for each in made:
        each.end()


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def age(folder, seconds):
    """Let all files be older than they are."""
    for path in files(folder):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_a_step_is_claimed_once_until_it_is_given_back(claim):
    one, other = claim(), claim()
    assert one.take(STEP)
    assert not other.take(STEP)
    assert other.take("models/basic/seed-0")
    one.release(STEP)
    assert other.take(STEP)
    assert not one.take(STEP)


def test_claims_that_another_process_gives_back_meanwhile_are_claims(tmp_path):
    assert is_claims_folder(tmp_path / "claims")  # it was listed, and is gone now


def test_a_claim_from_the_future_is_taken_over(claim, tmp_path):
    killed, other = claim(), claim()
    assert killed.take(STEP)
    age(tmp_path / "claims", -1000.0)
    assert other.owners() == {}
    assert list(list_workers(tmp_path.joinpath)) == [other.name]
    assert other.take(STEP)


def test_a_claim_that_nobody_renews_is_taken_over_by_one(claim, tmp_path):
    killed = claim()
    assert killed.take(STEP)
    others = [claim() for _ in range(3)]
    age(tmp_path / "claims" / "steps", 99)
    assert not any(each.take(STEP) for each in others)
    age(tmp_path / "claims" / "steps", 2)
    assert [each.take(STEP) for each in others] == [True, False, False]
    # The one that was believed dead goes on: it must not give back what is now another's.
    killed.release(STEP)
    assert not killed.take(STEP)


def test_claims_are_renewed_until_they_are_given_back(claim, tmp_path):
    keeping = claim(renewed=0.01)
    assert keeping.take(STEP)
    assert len(files(tmp_path)) == 2  # the claim, and the process
    before = [path.stat().st_mtime for path in files(tmp_path)]
    age(tmp_path, 1000)
    until = time.monotonic() + 60
    while any(path.stat().st_mtime < min(before) for path in files(tmp_path)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_clock_of_the_files_decides_and_not_that_of_the_process(claim, monkeypatch):
    one, other = claim(), claim()
    assert one.take(STEP)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    assert not other.take(STEP)


def test_nothing_is_left_when_all_have_ended(tmp_path):
    file = tmp_path.joinpath
    with open_claims(file, "mine") as one:
        with open_claims(file, "other") as other:
            assert one.take(STEP)
            assert other.take("scores")
            assert list_workers(file) == {one.name: "mine", other.name: "other"}
            assert one.owners() == {"scores": other.name}
            assert other.owners() == {STEP: one.name}
        assert list_workers(file) == {one.name: "mine"}
        assert one.owners() == {}
        assert one.take("scores")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_removed_between_is_made_again(claim, tmp_path, monkeypatch):
    one, mkdir = claim(), Path.mkdir
    removed = []

    def and_removed(self, *args, **settings):
        mkdir(self, *args, **settings)
        if not removed and self.name == "seed-0":
            removed.append(self)
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", and_removed)
    assert one.take("models/basic/seed-0/x")
    assert removed


def test_a_folder_is_shared_or_locked_but_not_both(tmp_path):
    folder = tmp_path / "run"
    prepared = []

    def prepare(run, others):
        prepared.append((run.path, others))

    with share_run(folder, MARK, prepare), share_run(folder, MARK, prepare):
        assert prepared == [(folder, False), (folder, True)]
        with (
            pytest.raises(InputError, match=r"2 workers are working in .*run"),
            lock_run(folder),
        ):
            pass
    with lock_run(folder) as run:
        assert run.path == folder


def test_workers_wait_for_the_one_that_prepares_and_not_for_another_command(tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.runs.claims.PREPARATION_TIMEOUT", 0.1)
    with (
        lock_run(tmp_path / "run"),
        pytest.raises(InputError, match="another process is working"),
        share_run(tmp_path / "run", MARK, nothing),
    ):
        pass


def test_a_process_that_died_long_ago_does_not_lock_the_folder(tmp_path):
    folder = tmp_path / "run"
    with share_run(folder, MARK, nothing):
        assert len(list_workers(folder.joinpath)) == 1
        age(folder / "claims", claims.EXPIRY + 1)
        assert list_workers(folder.joinpath) == {}
        # The next worker that ends tidies up, and so does a command that works alone.
        with open_claims(folder.joinpath, "") as last:
            assert len(files(folder / "claims")) == 2
        assert last.name not in list_workers(folder.joinpath)
        assert files(folder / "claims") == []
        with open_claims(folder.joinpath, ""):
            age(folder / "claims", claims.EXPIRY + 1)
            with lock_run(folder):
                assert not (folder / "claims").exists()


def test_a_claim_that_was_given_up_does_not_count_as_held(claim, tmp_path):
    late, other = claim(), claim()
    assert late.take(STEP)
    assert late.holds(STEP)
    age(tmp_path / "claims" / "steps", 101)
    assert other.owners() == {}
    assert other.take(STEP)
    assert not late.holds(STEP)
    assert other.holds(STEP)
    assert late.owners() == {STEP: other.name}


def test_workers_that_end_do_not_stop_others_from_claiming(claim, tmp_path):
    staying, ended = claim(), threading.Event()

    def come_and_go():
        while not ended.is_set():
            with open_claims(tmp_path.joinpath, "") as one:
                one.take("models/other/seed-0")

    going = threading.Thread(target=come_and_go)
    going.start()
    try:
        for turn in range(300):
            assert staying.take(f"models/basic/seed-{turn}")
            staying.owners()
            staying.release(f"models/basic/seed-{turn}")
    finally:
        ended.set()
        going.join()


def test_what_was_taken_over_is_not_kept_alive_by_the_one_that_lost_it(claim, tmp_path):
    late, other = claim(renewed=0.01), claim()
    path = tmp_path / "claims" / "steps" / f"{STEP}.claim"
    assert late.take(STEP)
    path.write_text(other.name)  # as taking over leaves it
    age(tmp_path / "claims" / "steps", 50)
    before = path.stat().st_mtime
    beacon = tmp_path / "claims" / "workers" / late.name
    renewed = beacon.stat().st_mtime
    until = time.monotonic() + 60
    for _ in range(2):  # whole rounds of the renewer
        while beacon.stat().st_mtime == renewed:
            assert time.monotonic() < until
            time.sleep(0.005)
        renewed = beacon.stat().st_mtime
    assert path.stat().st_mtime == before


def test_only_workers_count_as_present(tmp_path):
    with open_claims(tmp_path.joinpath, "mine") as one:
        (tmp_path / "claims" / "workers" / ".deadbeef").touch()  # another process looks too
        assert list_workers(tmp_path.joinpath) == {one.name: "mine"}
        (tmp_path / "claims" / "workers" / ".deadbeef").unlink()


def test_of_two_that_take_over_at_once_one_gets_the_claim(claim, tmp_path, monkeypatch):
    killed, quick, slow = claim(), claim(), claim()
    assert killed.take(STEP)
    age(tmp_path / "claims" / "steps", 101)
    rename, got = Path.rename, []

    def after_the_other(self, target):
        if not got:  # the quick one is between the slow one's look and its renaming
            got.append(None)
            got.append(quick.take(STEP))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", after_the_other)
    assert not slow.take(STEP)
    assert got == [None, True]
    assert quick.holds(STEP)
    assert not slow.holds(STEP)
    assert [path.name for path in (tmp_path / "claims" / "steps").rglob("*claim*")] == [
        f"{STEP.rpartition('/')[2]}.claim"
    ]


def test_workers_that_would_write_other_bytes_are_refused(tmp_path):
    folder = tmp_path / "run"
    with share_run(folder, {"threads": "1", "version of torch": "2.9"}, nothing) as one:
        for other, what in (
            ({"threads": "2", "version of torch": "2.9"}, "threads than this one: 1, here 2"),
            ({"threads": "1", "version of torch": "2.8"}, "version of torch .* 2.9, here 2.8"),
        ):
            with (
                pytest.raises(InputError, match=f"{one.claims.name} in .* has another {what}"),
                share_run(folder, other, nothing),
            ):
                pass
        assert list(list_workers(one.run.file)) == [one.claims.name]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "claims").symlink_to(outside)
    with pytest.raises(InputError, match="leads outside"):
        Claims(RunFolder(folder).file, "", renewed=1.0, expires=1.0)
    with pytest.raises(InputError, match="leads outside"), lock_run(folder):
        pass
    assert list(outside.iterdir()) == []


def put(make, path):
    """Put it in the place of a file of a worker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def leads_outside(path):
    path.symlink_to(outside := path.parents[path.parts[::-1].index("claims")] / "outside.txt")
    outside.write_text('{"device": "mine"}')


def leads_to_a_folder(path):
    path.symlink_to(path.parent)


def leads_nowhere(path):
    path.symlink_to("nowhere")


def no_text(path):
    path.write_bytes(b"\xff\xfe")


NO_CLAIMS = [leads_outside, leads_to_a_folder, leads_nowhere, no_text]
no_claim = pytest.mark.parametrize("make", NO_CLAIMS)


@no_claim
def test_what_is_no_file_of_a_worker_is_no_worker(tmp_path, make):
    write_run(tmp_path, run_record({"m": "M"}))
    put(make, tmp_path / "claims" / "workers" / "x")
    assert list_workers(tmp_path.joinpath) == {}
    with lock_run(tmp_path):
        assert not (tmp_path / "claims").exists()
    put(make, tmp_path / "claims" / "workers" / "x")
    with share_run(tmp_path, MARK, nothing) as shared:
        assert list(list_workers(tmp_path.joinpath)) == [shared.claims.name]
    if make is leads_outside:
        assert (tmp_path / "outside.txt").read_text() == '{"device": "mine"}'


@no_claim
def test_what_is_no_claim_keeps_nobody_from_a_step(claim, tmp_path, make):
    put(make, tmp_path / "claims" / "steps" / f"{STEP}.claim")
    one, other = claim(), claim()
    assert one.owners() == {}
    assert one.take(STEP)
    assert not other.take(STEP)
    assert other.owners() == {STEP: one.name}
    one.release(STEP)
    if make is leads_outside:
        assert (tmp_path / "outside.txt").read_text() == '{"device": "mine"}'


@no_claim
def test_what_is_no_claim_is_gone_when_all_have_ended(tmp_path, make):
    for name in ("claims/x", "claims/workers/x", "claims/steps/a/b.claim"):
        put(make, tmp_path / name)
    with open_claims(tmp_path.joinpath, ""):
        pass
    left = {path.name for path in tmp_path.rglob("*") if path.name != "outside.txt"}
    assert left <= {"claims", "workers", "steps", "a", "x", "b.claim"}
    assert (left == set()) is (make is not leads_to_a_folder)  # which is not looked into


def test_what_lies_in_the_place_of_a_folder_is_named(claim, tmp_path):
    one = claim()
    put(no_text, tmp_path / "claims" / "steps" / "models")
    with pytest.raises(OSError, match="models"):
        one.take("models/basic")
    (tmp_path / "claims" / "steps" / "models").unlink()


def test_a_folder_in_the_place_of_a_claim_is_named(claim, tmp_path):
    one = claim()
    (tmp_path / "claims" / "steps" / f"{STEP}.claim" / "x").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="sigma"):
        one.take(STEP)


def nothing(run, others):
    """Prepare nothing."""


def test_a_link_that_leads_nowhere_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "claims").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="claims"):
        _create(tmp_path / "claims/workers/one", "text", within=tmp_path)

"""Downloads from servers that cut off, ignore ranges, lie, change their files and fail."""

import errno
import hashlib
import http.server
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fairweather.errors import InputError
from fairweather.files import download
from fairweather.files.download import fetch, file_digest
from fairweather.progress import Event

OLD = bytes(range(256)) * 40
NEW = OLD[::-1]
HALF = 5_000
MD5 = hashlib.md5(OLD).hexdigest()
SHA256 = hashlib.sha256(OLD).hexdigest()
RANGE = re.compile(r"bytes=(\d+)-")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file as the `plan` says: one function a request, the last one for ever."""

    def do_GET(self):
        state = self.server.state
        state.requests.append(dict(self.headers))
        plan = state.plan.pop(0) if len(state.plan) > 1 else state.plan[0]
        plan(self)

    def log_message(self, *_):
        pass

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        if length != "unknown":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def serve(content=OLD, *, cut=None, tag='"1"', ranges=True, obeys_if_range=True, shift=0):
    """Make a plan: a well-behaved server of this content, or one with one of these faults."""

    def plan(request):
        asked = RANGE.fullmatch(request.headers.get("Range", ""))
        same = request.headers.get("If-Range") in (None, tag) or not obeys_if_range
        if asked and ranges and same:
            start = int(asked[1]) + shift
            if start >= len(content):
                request.answer(416, b"", Content_Range=f"bytes */{len(content)}")
                return
            body, status = content[start:], 206
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        else:
            body, status, span = content, 200, None
        sent = body if cut is None else body[:cut]
        request.answer(status, sent, len(body), ETag=tag, Content_Range=span)

    return plan


def fail(status, **headers):
    return lambda request: request.answer(status, b"no", **headers)


def hang_up(request):
    request.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state = running.state = SimpleNamespace(plan=[serve()], requests=[])
        state.url = f"http://127.0.0.1:{running.server_port}/digits.npz"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "digits.npz"


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir() if entry.name[0] != ".")


def leave_part(path, url, content=OLD[:HALF], tag='"1"'):
    path.parent.mkdir(parents=True)
    part = path.with_name("digits.npz.part")
    part.write_bytes(content)
    part.with_name("digits.npz.part.json").write_text(json.dumps({"url": url, "validator": tag}))
    return part


def test_a_file_is_downloaded_once_and_nothing_else_stays(server, path, monkeypatch):
    monkeypatch.setattr(download, "MEGABYTE", 1)
    seen = []
    assert fetch(server.url, path, md5=MD5, sha256=SHA256, progress=seen.append)
    assert path.read_bytes() == OLD
    assert names(path) == ["digits.npz"]
    assert seen[-1] == Event("download digits.npz, MB", len(OLD), len(OLD))
    assert fetch(server.url, path, md5=MD5.upper()) == path
    assert len(server.requests) == 1
    assert "Range" not in server.requests[0]
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_a_file_that_is_there_needs_no_server_and_is_never_overwritten(path):
    path.parent.mkdir()
    path.write_bytes(NEW)
    url = "http://127.0.0.1:9/digits.npz"
    assert fetch(url, path) == fetch(url, path, offline=True) == path
    other = hashlib.md5(NEW).hexdigest()
    with pytest.raises(InputError, match=f"{other} .*{MD5}.*remove"):
        fetch(url, path, md5=MD5)
    assert path.read_bytes() == NEW


def test_a_dropped_connection_is_taken_up_where_it_ended(server, path, monkeypatch):
    monkeypatch.setattr(download, "MEGABYTE", 1)
    server.plan = [serve(cut=HALF), serve(cut=100), hang_up, serve()]
    seen = []
    fetch(server.url, path, sha256=SHA256, progress=seen.append)
    assert path.read_bytes() == OLD
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 100}-", f"bytes={HALF + 100}-"]
    assert {request.get("If-Range") for request in server.requests[1:]} == {'"1"'}
    assert {event.total for event in seen} == {len(OLD)}
    assert [event.done for event in seen] == sorted({event.done for event in seen})


def test_progress_is_told_in_megabytes(server, path):
    server.plan = [serve(bytes(2_700_000))]
    seen = []
    fetch(server.url, path, progress=seen.append)
    assert {event.done for event in seen} == {0, 1, 2}
    assert {(event.task, event.total) for event in seen} == {("download digits.npz, MB", 2)}


def test_a_later_call_takes_up_the_part_of_an_earlier_one(server, path):
    server.plan = [serve(cut=HALF), hang_up]
    with pytest.raises(InputError, match=r"digits.npz' yourself"):
        fetch(server.url, path)
    assert names(path) == ["digits.npz.part", "digits.npz.part.json"]
    assert len(server.requests) == 1 + download.ATTEMPTS
    server.plan = [serve()]
    fetch(server.url, path)
    assert path.read_bytes() == OLD
    assert server.requests[-1]["Range"] == f"bytes={HALF}-"
    assert names(path) == ["digits.npz"]


def test_a_server_without_ranges_sends_the_whole_file_again(server, path):
    server.plan = [serve(cut=HALF, ranges=False), serve(ranges=False)]
    fetch(server.url, path)
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("obeys_if_range", [True, False])
def test_two_files_are_never_mixed_when_the_content_changes(server, path, obeys_if_range):
    server.plan = [serve(cut=HALF), serve(NEW, tag='"2"', obeys_if_range=obeys_if_range)]
    fetch(server.url, path)
    assert path.read_bytes() == NEW


def test_a_range_that_starts_elsewhere_is_not_appended(server, path):
    server.plan = [serve(cut=HALF), serve(shift=7), serve()]
    fetch(server.url, path)
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("tag", [None, 'W/"1"'])
def test_without_a_strong_validator_only_a_checksum_lets_a_part_be_taken_up(server, path, tag):
    server.plan = [serve(cut=HALF, tag=tag), serve(NEW, tag=tag)]
    fetch(server.url, path)
    assert path.read_bytes() == NEW
    path.unlink()
    server.plan = [serve(cut=HALF, tag=tag), serve(tag=tag)]
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == OLD
    assert server.requests[-1]["Range"] == f"bytes={HALF}-"
    assert "If-Range" not in server.requests[-1]


def test_a_date_is_a_validator_and_may_be_left_out_of_the_rest(server, path):
    date = "Thu, 23 Feb 2023 14:47:38 GMT"

    def first(request):
        request.answer(200, OLD[:HALF], len(OLD), Last_Modified=date)

    def rest(request):
        span = f"bytes {HALF}-{len(OLD) - 1}/{len(OLD)}"
        request.answer(206, OLD[HALF:], Content_Range=span)

    server.plan = [first, rest, hang_up]
    fetch(server.url, path)
    assert path.read_bytes() == OLD
    assert server.requests[1]["If-Range"] == date


def test_a_part_that_is_whole_is_only_checked_and_renamed(server, path):
    leave_part(path, server.url, OLD)
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == OLD
    assert len(server.requests) == 1


@pytest.mark.parametrize("left", [OLD + b"more", NEW + OLD])
def test_a_part_that_is_too_long_starts_again(server, path, left):
    leave_part(path, server.url, left)
    fetch(server.url, path)
    assert path.read_bytes() == OLD


def test_a_part_of_another_address_or_without_its_mark_starts_again(server, path):
    part = leave_part(path, "http://example.org/other.npz", NEW[:HALF])
    fetch(server.url, path, md5=MD5)
    path.unlink()
    part.write_bytes(NEW[:HALF])
    fetch(server.url, path, md5=MD5)
    path.unlink()
    part.write_bytes(NEW[:HALF])
    part.with_name("digits.npz.part.json").write_text("{")
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == OLD
    assert not [request for request in server.requests if "Range" in request]


@pytest.mark.parametrize("wanted", [{"md5": MD5}, {"sha256": SHA256}])
def test_a_wrong_checksum_removes_the_download_and_says_both_digests(server, path, wanted):
    server.plan = [serve(NEW)]
    ((algorithm, expected),) = wanted.items()
    found = hashlib.new(algorithm, NEW).hexdigest()
    with pytest.raises(InputError, match=f"{algorithm.upper()} {found} .*{expected}"):
        fetch(server.url, path, **wanted)
    assert names(path) == []


def test_a_body_without_its_length_is_taken_to_its_end(server, path, monkeypatch):
    monkeypatch.setattr(download, "MEGABYTE", 1)
    server.plan = [lambda request: request.answer(200, OLD, "unknown")]
    seen = []
    fetch(server.url, path, progress=seen.append)
    assert path.read_bytes() == OLD
    assert seen[-1][1:3] == (len(OLD), None)


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, path):
    server.plan = [fail(503), fail(429), serve()]
    fetch(server.url, path)
    assert path.read_bytes() == OLD
    path.unlink()
    server.requests.clear()
    server.plan = [fail(404)]
    with pytest.raises(InputError, match="404 Not Found"):
        fetch(server.url, path)
    assert len(server.requests) == 1


def test_attempts_that_bring_nothing_new_come_to_an_end(server, path):
    server.plan = [serve(cut=HALF, ranges=False)]
    with pytest.raises(InputError, match=f"{HALF} of {len(OLD)} bytes"):
        fetch(server.url, path)
    assert len(server.requests) == 1 + download.ATTEMPTS


def test_a_redirect_keeps_the_range(server, path):
    leave_part(path, server.url)
    server.plan = [fail(302, Location=server.url + "?again"), serve()]
    fetch(server.url, path)
    assert path.read_bytes() == OLD
    assert server.requests[-1]["Range"] == f"bytes={HALF}-"


@pytest.mark.parametrize(
    ("address", "words", "checked"),
    [
        ("ftp://127.0.0.1:9/digits.npz", "not an http or https address", False),
        ("ftp://127.0.0.1:9/digits.npz", "not an http or https address", True),
        ("file:///etc/passwd", "not allowed", True),
        ("https://me:secret@127.0.0.1:9/digits.npz", "password", True),
        ("http://example.org/digits.npz", "plain http", False),
    ],
)
def test_a_redirect_leads_only_to_what_could_have_been_given(server, path, address, words, checked):
    server.plan = [fail(302, Location=address)]
    with pytest.raises(InputError, match=words) as caught:
        fetch(server.url, path, sha256=SHA256 if checked else None)
    assert "secret" not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/digits.npz",
        "http://192.0.2.1/digits.npz",
        "http://localhost.example.org/digits.npz",
    ],
)
def test_plain_http_without_a_checksum_is_refused(path, url):
    with pytest.raises(InputError, match=r"plain http.*checksum"):
        fetch(url, path)
    with pytest.raises(InputError, match="downloads are off"):
        fetch(url, path, sha256=SHA256, offline=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_in_an_address_is_refused_and_not_repeated(path, scheme):
    for user in ("me:secret", ":secret", "secret"):
        with pytest.raises(InputError, match="password") as caught:
            fetch(f"{scheme}://{user}@127.0.0.1/digits.npz", path, sha256=SHA256)
        assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="not well formed") as caught:
        fetch(f"{scheme}://me:sec/ret@127.0.0.1/digits.npz", path, sha256=SHA256)
    assert "ret" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_the_part_stays(server, path, monkeypatch, code):
    def full(_):
        raise OSError(code, "no room")

    leave_part(path, server.url)
    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", full)
        with pytest.raises(InputError, match=f"disk is full .*{len(OLD)} of {len(OLD)}"):
            fetch(server.url, path)
    assert names(path) == ["digits.npz.part", "digits.npz.part.json"]
    fetch(server.url, path, md5=MD5)
    assert path.read_bytes() == OLD


def test_another_error_of_the_system_is_not_called_a_full_disk(server, path, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(download.os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        fetch(server.url, path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", sorted(download.CANNOT_WRITE))
def test_a_folder_that_cannot_be_written_is_named_with_another(server, path, monkeypatch, code):
    def denied(*arguments, **options):
        raise OSError(code, os.strerror(code))

    for patched in ("filelock.FileLock", "Path.mkdir", "Path.open"):
        with monkeypatch.context() as patch:
            patch.setattr(f"fairweather.files.download.{patched}", denied)
            with pytest.raises(InputError, match="--data-root") as raised:
                fetch(server.url, path)
        assert f"digits.npz cannot be stored in {str(path.parent)!r}" in str(raised.value)
        assert os.strerror(code) in str(raised.value)
    fetch(server.url, path, md5=MD5)


def test_a_cache_that_cannot_be_written_is_named_with_the_variable(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("a file")
    for folder in (tmp_path / "cache", tmp_path / "cache" / "data"):
        with pytest.raises(InputError, match="FAIRWEATHER_CACHE") as raised:
            fetch(server.url, folder / "digits.npz")
        assert repr(str(folder)) in str(raised.value)
    assert not server.requests


def test_of_two_at_once_one_downloads(server, path):
    inside = threading.Barrier(2)

    def slow(request):
        inside.wait(timeout=60)
        serve()(request)

    server.plan = [slow]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, server.url, path, md5=MD5) for _ in range(2)]
        inside.wait(timeout=60)
        assert [future.result(timeout=60) for future in both] == [path, path]
    assert len(server.requests) == 1
    assert path.read_bytes() == OLD


def test_offline_names_the_file_the_place_and_the_address(server, path):
    with pytest.raises(InputError) as raised:
        fetch(server.url, path, offline=True)
    assert str(path) in str(raised.value)
    assert server.url in str(raised.value)
    assert not server.requests
    assert not path.parent.exists()


@pytest.mark.parametrize("url", ["ftp://example.org/x", "file:///etc/passwd", "digits.npz"])
def test_only_web_addresses_are_downloaded(url, path):
    with pytest.raises(InputError, match="http or https"):
        fetch(url, path)
    assert not path.parent.exists()


def test_no_server_is_one_sentence(path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with pytest.raises(InputError, match=r"127.0.0.1:9/digits.npz .*refused"):
        fetch("http://127.0.0.1:9/digits.npz", path)


def test_a_digest_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(OLD * 60)  # more than one chunk
    assert file_digest(path, "md5") == hashlib.md5(OLD * 60).hexdigest()
    assert file_digest(path, "sha256") == hashlib.sha256(OLD * 60).hexdigest()


def test_a_part_that_is_a_link_is_not_followed(server, path, tmp_path):
    path.parent.mkdir(parents=True)
    victims = [tmp_path / "victim.bin", tmp_path / "victim.json"]
    part = path.with_name("digits.npz.part")
    for victim, link in zip(victims, (part, part.with_name(f"{part.name}.json")), strict=True):
        victim.write_bytes(OLD[:HALF])
        link.symlink_to(victim)
    fetch(server.url, path, sha256=SHA256)
    assert path.read_bytes() == OLD
    assert not path.is_symlink()
    assert [victim.read_bytes() for victim in victims] == [OLD[:HALF]] * 2

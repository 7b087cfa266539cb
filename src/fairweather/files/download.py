"""Download a file once: an interrupted download resumes, and the file appears only when complete.

Its checksum is verified before the file gets its name.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import http.client
import ipaddress
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import SplitResult, urlsplit

import filelock

from fairweather.errors import DISK_FULL, InputError
from fairweather.files.folders import cannot_store
from fairweather.progress import Event, Notify

CHUNK = 1 << 18  # bytes that are read at once
MEGABYTE = 10**6  # bytes; the unit of progress
TIMEOUT = 60.0  # seconds without a byte, after which a connection counts as dropped
ATTEMPTS = 4  # attempts in a row without a new byte, after which a download fails
PAUSE = 1.0  # seconds before the next attempt, doubled after each attempt without a new byte
# Worth another attempt.
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, *DISK_FULL}
CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)")


class _DroppedError(Exception):
    """An attempt ended early; another may succeed."""


class _PartialMark(NamedTuple):
    """The small file beside a partial download, which says where its bytes came from."""

    url: str
    validator: str  # the server's strong ETag or date of the file; empty if it sent neither


def fetch(
    url: str,
    path: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    offline: bool = False,
    progress: Notify | None = None,
) -> Path:
    """Return `path`, downloaded from `url` unless the file exists already.

    Bytes are written to `NAME.part` beside it. This partial file is renamed to `path` once it is
    complete and its checksums are right. An interrupted download resumes at its end by a range
    request. If the file has changed, the server sends all of it (RFC 9110, 13.1.5: If-Range). A
    dropped connection is tried again, until several attempts in a row bring no new byte. Then the
    partial file stays for the next call. If two processes want the same file, the second one waits
    for the first and uses its file.

    Args:
        url: https; or http, if there is a checksum or the server is this machine.
        path: where the file is stored; its folder is created.
        md5, sha256: checksums of the file, as hexadecimal digits. Without them, an existing file is
            not checked.
        offline: raise an error instead of downloading.
        progress: called with the megabytes so far, and with their total if the server sends it.

    Raises:
        InputError: the URL, or one that it leads to, is of another kind, has a password, or is
            plain http and there is no checksum; a checksum is wrong (a new download is removed, an
            existing file is not), the server does not send the file, the folder cannot be written,
            or the disk is full.

    >>> fetch("https://example.org/digits.npz", Path("digits.npz"), offline=True)
    Traceback (most recent call last):
    fairweather.errors.InputError: 'digits.npz' does not exist and downloads are off: put the file
    from https://example.org/digits.npz there, or allow downloads
    """
    checksums = {"md5": md5, "sha256": sha256}
    # An existing file is not downloaded, so plain http does no harm.
    _check_address(url, allow_http=any(checksums.values()) or path.is_file())
    try:
        return _fetch(url, path, checksums, offline, progress)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise cannot_store(path.name, path.parent, error) from error


def split_address(url: str) -> SplitResult:
    """Return the parts of an address; raise `InputError` if it holds a user name or a password."""
    try:
        address = urlsplit(url)
        host = address.hostname or ""
        _ = address.port  # raises ValueError if a password with a slash stands in its place
    except ValueError:
        # The message leaves the address out: it may have a password in it.
        raise InputError("an address cannot be downloaded: it is not well formed") from None
    if address.username is not None or address.password is not None:
        raise InputError(
            f"an address at {host} has a user name or a password in it, which would be stored with "
            "the results: download the file yourself, and give its path"
        )
    return address


def _check_address(url: str, *, allow_http: bool) -> None:
    """Raise `InputError` for an address that cannot be trusted, or that contains a password."""
    address = split_address(url)
    host = address.hostname or ""
    if address.scheme not in ("http", "https"):
        raise InputError(f"{url!r} cannot be downloaded: it is not an http or https address")
    if not host:
        raise InputError(f"{url!r} cannot be downloaded: it names no host")
    if address.scheme == "http" and not allow_http and not _is_this_machine(host):
        raise InputError(
            f"{url!r} cannot be downloaded: over plain http anybody on the way can change the "
            "file; give an https address, or the checksum of the file (weights_sha256)"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that a caller could have given."""

    def __init__(self, allow_http: bool) -> None:
        self.allow_http = allow_http

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            _check_address(newurl, allow_http=self.allow_http)
        except InputError as error:
            fp.close()
            raise InputError(f"{req.full_url} leads to another address: {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(
    url: str,
    path: Path,
    checksums: Mapping[str, str | None],
    offline: bool,
    progress: Notify | None,
) -> Path:
    if path.exists():
        return _check_existing(path, checksums)
    if offline:
        raise InputError(
            f"{str(path)!r} does not exist and downloads are off: put the file from {url} there, "
            "or allow downloads"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock file stays: removing it would let a third process lock another file of that name.
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return _check_existing(path, checksums)
        part = path.with_name(f"{path.name}.part")
        if part.is_symlink() or _mark_path(part).is_symlink():
            _discard(part)  # remove the links: the files that they point to are not ours to write
        _download(url, part, any(checksums.values()), progress)
        if mismatch := _describe_mismatch(part, checksums):
            _discard(part)
            raise InputError(f"the file from {url} has {mismatch}; it was removed")
        part.replace(path)
        _discard(part)
    return path


def file_digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file of any size, read in chunks, as hexadecimal digits.

    >>> import os
    >>> file_digest(Path(os.devnull), "md5")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    # Some systems forbid MD5 for security; here it only finds damaged downloads.
    new_hash = functools.partial(hashlib.new, algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_hash).hexdigest()


def combined_digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and contents of several files."""
    lines = "".join(f"{file_digest(path, 'sha256')}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_existing(path: Path, checksums: Mapping[str, str | None]) -> Path:
    if mismatch := _describe_mismatch(path, checksums):
        raise InputError(f"{str(path)!r} has {mismatch}; remove it to download it again")
    return path


def _describe_mismatch(path: Path, checksums: Mapping[str, str | None]) -> str | None:
    """Name the checksum that a file should have and the one that it has; None if they agree."""
    for algorithm, expected in checksums.items():
        if expected and (digest := file_digest(path, algorithm)) != expected.lower():
            return f"the {algorithm.upper()} {digest} and not {expected}"
    return None


def _download(url: str, part: Path, has_checksum: bool, progress: Notify | None) -> None:
    """Attempt the download until it is complete, or several attempts bring no new byte."""
    largest, failures = _size(part), 0
    while True:
        try:
            return _attempt(url, part, has_checksum, progress)
        except _DroppedError as error:
            failures = 0 if _size(part) > largest else failures + 1
            largest = max(largest, _size(part))
            if failures == ATTEMPTS:
                raise InputError(
                    f"{url} cannot be downloaded now ({error}): try again later, or put the file "
                    f"at {str(part.with_suffix(''))!r} yourself"
                ) from error
        time.sleep(PAUSE * 2**failures)


def _attempt(url: str, part: Path, has_checksum: bool, progress: Notify | None) -> None:
    """Complete the partial file in one request; raises `_DroppedError` if another may succeed."""
    mark = _read_partial_mark(part)
    # Without a validator, only a checksum shows that two pieces belong to different files.
    can_resume = mark.url == url and (mark.validator or has_checksum)
    done = _size(part) if can_resume else 0
    try:
        response = _open(url, done, mark.validator, has_checksum)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and done and _content_range(error.headers)[1] == done:
                return  # the partial file is complete: the server has no bytes after its end
        if error.code == 416 and done:
            _discard(part)
        elif error.code not in TEMPORARY_STATUSES:
            raise InputError(
                f"{url} cannot be downloaded: the server says {error.code} {error.reason}"
            ) from error
        raise _DroppedError(f"the server says {error.code} {error.reason}") from error
    with response:
        new_mark = _PartialMark(url, _validator(response.headers))
        if response.status == http.client.PARTIAL_CONTENT:
            start, total = _content_range(response.headers)
            # An answer to If-Range may leave out the date (RFC 9110, 15.3.7).
            if start != done or new_mark.validator not in ("", mark.validator):
                _discard(part)
                raise _DroppedError("the file changed during the download")
        else:
            length = response.headers["Content-Length"]
            done, total = 0, int(length) if length and length.isdecimal() else None
            part.write_bytes(b"")  # before the new mark: it must never describe old bytes
            _mark_path(part).write_text(json.dumps(new_mark._asdict()), encoding="utf-8")
        _append(part, _chunks(response, done, total), done, total, progress)
    if total is not None and _size(part) != total:
        raise _DroppedError(f"the connection ended after {_size(part)} of {total} bytes")


def _open(url: str, done: int, validator: str, has_checksum: bool) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "fairweather"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if validator:
            headers["If-Range"] = validator
    # A new opener: urlopen reads the proxies once and keeps them for the whole process.
    opener = urllib.request.build_opener(_Redirects(has_checksum))
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise InputError(f"{url} cannot be downloaded: {reason}") from error
        raise _DroppedError(str(reason) or type(reason).__name__) from error


def _chunks(response: http.client.HTTPResponse, done: int, total: int | None) -> Iterator[bytes]:
    while total is None or done < total:
        try:
            chunk = response.read1(CHUNK)  # returns what has arrived, even if the rest fails
        except (OSError, http.client.HTTPException) as error:
            raise _DroppedError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        done += len(chunk)
        yield chunk


def _append(
    part: Path, chunks: Iterator[bytes], done: int, total: int | None, progress: Notify | None
) -> None:
    task = f"download {part.stem}, MB"  # the name of the file, without .part
    try:
        with part.open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    megabytes = None if total is None else total // MEGABYTE
                    progress(Event(task, done // MEGABYTE, megabytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        size = f" of {total}" if total else ""
        raise InputError(
            f"the disk is full after {done}{size} bytes: make room in {str(part.parent)!r} and try "
            "again; the download resumes there"
        ) from error


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """The first byte and the total of a partial answer; None for what it does not say."""
    match = CONTENT_RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if not match:
        return None, None
    start, total = match["start"], match["total"]
    return int(start) if start else None, int(total) if total != "*" else None


def _validator(headers: Message) -> str:
    """The header by which a server tells versions of a file apart; empty if it sent none."""
    tag = headers.get("ETag") or ""
    if tag and not tag.startswith("W/"):  # a weak tag does not promise the same bytes
        return tag
    return headers.get("Last-Modified") or ""


def _mark_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_partial_mark(part: Path) -> _PartialMark:
    try:
        return _PartialMark(**json.loads(_mark_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _PartialMark("", "")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _mark_path(part).unlink(missing_ok=True)

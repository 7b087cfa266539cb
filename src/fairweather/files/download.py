"""Download a file once: an interrupted download resumes, and the file appears only when complete.

The file gets its name only after its checksum is verified.
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

CHUNK = 1 << 18  # bytes
MEGABYTE = 10**6  # bytes; the unit of progress
TIMEOUT = 60.0  # seconds without a byte, after which a connection counts as dropped
ATTEMPTS = 4  # attempts in a row without a new byte, after which a download fails
PAUSE = 1.0  # seconds before the next attempt, doubled after each attempt without a new byte
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # status codes that are worth another attempt
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, *DISK_FULL}
CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+|\*)")


class _DroppedError(Exception):
    """An attempt ended early; another may succeed."""


class _PartialMark(NamedTuple):
    """The content of the small file beside a partial download: where its bytes came from."""

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
    request. If the file has changed, the server sends all of it (RFC 9110, 13.1.5: If-Range). After
    a dropped connection, the download is tried again, until several attempts in a row bring no new
    byte. The partial file stays for the next call. If two processes want the same file, the second
    one waits for the first and uses its file.

    Args:
        url: https; or http, if there is a checksum or the server is this machine.
        path: of the file; its folder is created.
        md5: of the file, as hexadecimal digits. Without md5 and sha256, an existing file is not
            checked.
        sha256: likewise.
        offline: raise an error instead of downloading.
        progress: called with the megabytes so far, and with their total if the server sends it.

    Raises:
        InputError: the URL, or one that it redirects to, is of another kind, has a password, or is
            plain http without a checksum; a checksum is wrong (a new download is removed, an
            existing file is not), the server does not send the file, the folder cannot be written,
            or the disk is full.

    >>> fetch("https://example.org/digits.npz", Path("digits.npz"), offline=True)
    Traceback (most recent call last):
    fairweather.errors.InputError: 'digits.npz' does not exist and downloads are off: put the file
    from https://example.org/digits.npz there, or allow downloads
    """
    checksums = {"md5": md5, "sha256": sha256}
    # An existing file is not downloaded, so plain http cannot change it.
    _check_address(url, has_checksum=any(checksums.values()) or path.is_file())
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
        _ = address.port  # raises ValueError if a password contains a slash
    except ValueError:
        # The message leaves the address out, because it may have a password in it.
        raise InputError("an address cannot be downloaded: it is not well formed") from None
    if address.username is not None or address.password is not None:
        raise InputError(
            f"an address at {host} has a user name or a password in it, which would be stored with "
            "the results: download the file yourself, and give its path"
        )
    return address


def _check_address(url: str, *, has_checksum: bool) -> None:
    """Raise `InputError` for an address that cannot be trusted, or that contains a password."""
    address = split_address(url)
    host = address.hostname or ""
    if address.scheme not in ("http", "https"):
        raise InputError(f"{url!r} cannot be downloaded: it is not an http or https address")
    if not host:
        raise InputError(f"{url!r} cannot be downloaded: it names no host")
    if address.scheme == "http" and not has_checksum and not _is_this_machine(host):
        raise InputError(
            f"{url!r} cannot be downloaded: over plain http anybody on the way can change the "
            "file; give an https address, or the checksum of the file (weights_sha256)"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that `fetch` would accept from its caller."""

    def __init__(self, has_checksum: bool) -> None:
        self.has_checksum = has_checksum

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
            _check_address(newurl, has_checksum=self.has_checksum)
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
            _remove_partial(part)  # only the links, not the files that they point to
        _download(url, part, any(checksums.values()), progress)
        if wrong := _describe_wrong_digest(part, checksums):
            _remove_partial(part)
            raise InputError(f"the file from {url} has {wrong}; it was removed")
        part.replace(path)
        _remove_partial(part)
    return path


def file_digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file of any size, read in chunks, as hexadecimal digits.

    >>> import os
    >>> file_digest(Path(os.devnull), "md5")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    # Some systems forbid MD5 for security; here it only finds damaged downloads.
    new = functools.partial(hashlib.new, algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, new).hexdigest()


def combined_digest(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and contents of several files."""
    lines = "".join(f"{file_digest(path, 'sha256')}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_existing(path: Path, checksums: Mapping[str, str | None]) -> Path:
    if wrong := _describe_wrong_digest(path, checksums):
        raise InputError(f"{str(path)!r} has {wrong}; remove it to download it again")
    return path


def _describe_wrong_digest(path: Path, checksums: Mapping[str, str | None]) -> str | None:
    for algorithm, expected in checksums.items():
        if expected and (digest := file_digest(path, algorithm)) != expected.lower():
            return f"the {algorithm.upper()} {digest} and not {expected}"
    return None


def _download(url: str, part: Path, has_checksum: bool, progress: Notify | None) -> None:
    furthest, failures = _count_bytes(part), 0
    while True:
        try:
            return _try_download(url, part, has_checksum, progress)
        except _DroppedError as dropped:
            failures = 0 if _count_bytes(part) > furthest else failures + 1
            furthest = max(furthest, _count_bytes(part))
            if failures == ATTEMPTS:
                raise InputError(
                    f"{url} cannot be downloaded now ({dropped}): try again later, or put the file "
                    f"at {str(part.with_suffix(''))!r} yourself"
                ) from dropped
        time.sleep(PAUSE * 2**failures)


def _try_download(url: str, part: Path, has_checksum: bool, progress: Notify | None) -> None:
    mark = _read_partial_mark(part)
    # Without a validator, only a checksum shows whether two pieces belong to the same file.
    can_resume = mark.url == url and (mark.validator or has_checksum)
    done = _count_bytes(part) if can_resume else 0
    try:
        response = _open_response(url, done, mark.validator, has_checksum)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and done and _parse_content_range(error.headers)[1] == done:
                return  # the partial file is complete: the server has no bytes after its end
        if error.code == 416 and done:
            _remove_partial(part)
        elif error.code not in TEMPORARY:
            raise InputError(
                f"{url} cannot be downloaded: the server says {error.code} {error.reason}"
            ) from error
        raise _DroppedError(f"the server says {error.code} {error.reason}") from error
    with response:
        new_mark = _PartialMark(url, _read_validator(response.headers))
        if response.status == http.client.PARTIAL_CONTENT:
            start, total = _parse_content_range(response.headers)
            # An answer to If-Range may leave out the date (RFC 9110, 15.3.7).
            if start != done or new_mark.validator not in ("", mark.validator):
                _remove_partial(part)
                raise _DroppedError("the file changed during the download")
        else:
            length = response.headers["Content-Length"]
            done, total = 0, int(length) if length and length.isdecimal() else None
            part.write_bytes(b"")  # before the new mark, which must never describe old bytes
            _mark_path(part).write_text(json.dumps(new_mark._asdict()), encoding="utf-8")
        _append_chunks(part, _read_chunks(response, done, total), done, total, progress)
    if total is not None and _count_bytes(part) != total:
        raise _DroppedError(f"the connection ended after {_count_bytes(part)} of {total} bytes")


def _open_response(
    url: str, done: int, validator: str, has_checksum: bool
) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "fairweather"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if validator:
            headers["If-Range"] = validator
    # A new opener: urlopen reads the proxies once and keeps them for the whole process.
    opener = urllib.request.build_opener(_CheckedRedirects(has_checksum))
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise InputError(f"{url} cannot be downloaded: {reason}") from error
        raise _DroppedError(str(reason) or type(reason).__name__) from error


def _read_chunks(
    response: http.client.HTTPResponse, done: int, total: int | None
) -> Iterator[bytes]:
    while total is None or done < total:
        try:
            chunk = response.read1(CHUNK)  # returns what has arrived, even if the rest fails
        except (OSError, http.client.HTTPException) as error:
            raise _DroppedError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        done += len(chunk)
        yield chunk


def _append_chunks(
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


def _parse_content_range(headers: Message) -> tuple[int | None, int | None]:
    match = CONTENT_RANGE.fullmatch((headers.get("Content-Range") or "").strip())
    if not match:
        return None, None
    start, total = match["start"], match["total"]
    return int(start) if start else None, int(total) if total != "*" else None


def _read_validator(headers: Message) -> str:
    tag = headers.get("ETag") or ""
    if tag and not tag.startswith("W/"):  # a weak one does not promise the same bytes
        return tag
    return headers.get("Last-Modified") or ""


def _mark_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_partial_mark(part: Path) -> _PartialMark:
    try:
        return _PartialMark(**json.loads(_mark_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _PartialMark("", "")


def _count_bytes(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _remove_partial(part: Path) -> None:
    part.unlink(missing_ok=True)
    _mark_path(part).unlink(missing_ok=True)

"""What the named data sets share: finding, verifying and unpacking their files."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from fairweather.data.source import Request, check_exists
from fairweather.download import fetch
from fairweather.errors import InputError, first_names
from fairweather.folders import cache_folder, cannot_store

# The errors of a gzip stream that is cut off or altered, besides those of the tar format.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def own_folder(name: str) -> Path:
    """The folder that the files of a named set are downloaded to; it may not exist yet."""
    return cache_folder() / "data" / name


def find_folder(name: str, root: Path, places: Sequence[str], marks: Sequence[str]) -> Path:
    """Return the first folder among `places` in `root` that has any of the files `marks`.

    Args:
        name: of the set, for the message.
        root: the folder that the user named.
        places: folders relative to the root, `.` for the root itself.
        marks: names of files or folders.

    Raises:
        InputError: the root does not exist, or none of the places has any of the files.
    """
    check_exists(root)
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is a file; root is the folder that has {name}")
    for place in places:
        if any((root / place / mark).exists() for mark in marks):
            return root / place
    below = ", ".join(place for place in places if place != ".")
    raise InputError(
        f"{str(root)!r} does not have {name}: there is no {marks[0]} in it or in its folders "
        f"({below}); {describe_contents(root)}"
    )


def read_file(name: str, file: str, folder: Path) -> bytes:
    """Read a file of a set; raises `InputError` if there is none."""
    path = folder / file
    if not path.is_file():
        raise missing_file(name, file, folder)
    return path.read_bytes()


def missing_file(name: str, file: str, folder: Path) -> InputError:
    """Build the error for a set of which a file is missing."""
    return InputError(
        f"{name} needs {file}, which is not in {str(folder)!r}; {describe_contents(folder)}"
    )


def describe_contents(folder: Path) -> str:
    """Say which files a folder has, for the end of an error message."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"it has {first_names(names)}" if names else "it is empty"


def md5(content: bytes) -> str:
    """Return the MD5 as 32 hexadecimal digits; these sets are published with it.

    It finds damaged and mixed-up files. It does not protect from an attacker, so loading never
    executes code, whatever the MD5.

    >>> md5(b"")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check_md5(path: Path, found: str, published: str, verify: bool) -> None:
    """Raise `InputError` with both digests if they differ and `verify` is true."""
    if verify and found != published:
        raise InputError(
            f"{str(path)!r} is not the published file: its MD5 is {found} instead of {published}; "
            "verify: false (verify=False in Python) uses it all the same"
        )


def verification(name: str, notes: Mapping[str, object]) -> str | None:
    """Say whether the files of a named set were verified; None if the notes do not tell.

    Args:
        name: of the set.
        notes: of its `Source`, where `verified` says whether the files have the published
            checksums, and `verification`, if it is there, why that is not known.

    >>> verification("pathmnist@28", {"verified": True, "md5": "a8b06965200029087d5bd730944a56c1"})
    'verified       pathmnist@28 has the published MD5, a8b06965200029087d5bd730944a56c1'
    >>> verification("cifar10", {"verified": True, "md5": {"data_batch_1": "c99", "...": "d4b"}})
    'verified       the 2 files of cifar10 have the published MD5s'
    >>> verification("cifar10", {"verified": False})
    'not verified   cifar10: its files may differ from the published ones'
    """
    if "verified" not in notes:
        return None
    if not notes["verified"]:
        reason = notes.get("verification", "its files may differ from the published ones")
        return f"not verified   {name}: {reason}"
    digests = notes.get("md5")
    if isinstance(digests, Mapping):
        return f"verified       the {len(digests)} files of {name} have the published MD5s"
    return f"verified       {name} has the published MD5, {digests}"


def obtain(request: Request, url: str, path: Path, published: str) -> Path:
    """Download a file unless it is there; it must have the published MD5 if the request says so."""
    expected = published if request.verify else None
    return fetch(url, path, md5=expected, offline=request.offline, progress=request.progress)


def obtain_unpacked(request: Request, url: str, archive: Path, published: str, top: str) -> None:
    """Download an archive and unpack its folder `top` beside it, unless that folder is there."""
    if not archive.with_name(top).exists():
        unpack(obtain(request, url, archive, published), top)


def unpack(archive: Path, top: str) -> None:
    """Unpack the folder `top` of a tar.gz beside the archive, completely or not at all.

    A call removes what an interrupted call before it has unpacked. Devices and members that would
    be written outside the folder are refused (the `data` filter of PEP 706).

    Raises:
        InputError: the archive is damaged, unsafe, or has no such folder; or its folder cannot be
            written.
    """
    try:
        _unpack(archive, top)
    except OSError as error:
        raise cannot_store(f"the content of {archive.name}", archive.parent, error) from error


def _unpack(archive: Path, top: str) -> None:
    target = archive.with_name(top)
    part = archive.with_name(f".{top}.part")
    with FileLock(archive.with_name(f".{top}.lock")):
        if target.exists():
            return
        if part.is_symlink():
            part.unlink()
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(part, filter="data")
            if not (part / top).is_dir():
                raise InputError(f"the archive {str(archive)!r} has no folder {top!r}")
            (part / top).rename(target)
        except tarfile.FilterError as error:
            raise InputError(f"the archive {str(archive)!r} is unsafe: {error}") from error
        except (tarfile.TarError, *DAMAGED) as error:
            raise InputError(
                f"the archive {str(archive)!r} is damaged ({error}): delete it to download it again"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

"""What the named sets share: where their files are, what they should be, how they are unpacked."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from fairweather.data.source import check_exists
from fairweather.errors import InputError
from fairweather.folders import cache_folder

MOST_NAMES = 5
# What a gzip stream that is cut off or altered raises, beside the tar format's own errors.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def own_folder(name: str) -> Path:
    """Where the files of a named set are downloaded to; may not exist yet."""
    return cache_folder() / "data" / name


def find_folder(name: str, root: Path, places: Sequence[str], marks: Sequence[str]) -> Path:
    """Return the first of the places in `root` that holds any of the files `marks`.

    Args:
        name: of the set, for the message.
        root: what the user named.
        places: relative to the root, `.` for itself.
        marks: names of files or folders.

    Raises:
        InputError: there is no such folder, or none of the places has a mark.
    """
    check_exists(root)
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is a file; root names the folder that has {name}")
    for place in places:
        if any((root / place / mark).exists() for mark in marks):
            return root / place
    below = [place for place in places if place != "."]
    raise InputError(
        f"{str(root)!r} does not have {name}: looked for {marks[0]} in it and in its "
        f"{' and '.join(below)}; {describe_contents(root)}"
    )


def missing_file(name: str, file: str, folder: Path) -> InputError:
    """Build the error for a set that is not complete."""
    return InputError(
        f"{name} needs {file}, which is not in {str(folder)!r}; {describe_contents(folder)}"
    )


def describe_contents(folder: Path) -> str:
    """Say what is in a folder, for the end of an error message."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"it has {first_names(names)}" if names else "it is empty"


def first_names(names: Sequence[str]) -> str:
    """Join names for a message, the first five of them if there are more.

    >>> first_names("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def md5(content: bytes) -> str:
    """Return the MD5, the digest that these sets are published with, as 32 hexadecimal digits.

    It finds damage and mix-ups. It is no protection from somebody who means harm, so nothing that
    it approves of is ever executed.

    >>> md5(b"")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check_md5(path: Path, found: str, published: str, verify: bool) -> None:
    """Raise `InputError` with both digests if they differ, unless nothing is to be verified."""
    if verify and found != published:
        raise InputError(
            f"{str(path)!r} holds other bytes than were published: their MD5 is {found} instead "
            f"of {published}; verify: false takes them as they are"
        )


def unpack(archive: Path, top: str) -> None:
    """Unpack the folder `top` of a tar.gz to beside the archive, whole or not at all.

    What an interrupted call left is thrown away by the next one. Members that would be written
    outside the folder, and devices, are refused (the `data` filter of PEP 706).

    Raises:
        InputError: the archive is damaged, unsafe, or has no such folder.
    """
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

"""Who works in a run folder: one process with its lock, or several with claims on its steps.

Claims are not locks: two processes may both believe that a claim is theirs, for example where a
file system shows changes late. Claims only save time: a step that is done twice writes the same
bytes on equal machines. A process records a step only if its claim is still its own.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import filelock

from fairweather.errors import InputError
from fairweather.runs.folder import (
    ABANDONED_AFTER,
    LOCK,
    PARTIAL,
    RunFolder,
    remove_partial,
    resolve_inside,
)
from fairweather.types.record import RECORD

CLAIMS = "claims"  # folder in the run folder
# A file for each process, and for each step.
WORKERS, CLAIMED_STEPS = f"{CLAIMS}/workers", f"{CLAIMS}/steps"
# Seconds. NFS may show the time of a file a minute late, so only older claims are given up.
RENEWAL, EXPIRY = 20.0, 180.0

ResolveFile = Callable[[str], Path]  # refuses links that lead out of the run folder


class Claims:
    """The claims of this process in a run folder, renewed by a thread until they are released.

    Args:
        file: gives the path of a file of the run folder by its name.
        mark: what all processes in the folder must have in common, for the others to read. None if
            this process holds the lock of the folder, so that there are no others.
        renewed: seconds between renewals.
        expires: seconds without a renewal after which a claim is given up: its process has ended,
            or cannot reach the folder.
    """

    def __init__(
        self, file: ResolveFile, mark: str | None, *, renewed: float, expires: float
    ) -> None:
        self.file, self.renewed, self.expires = file, renewed, expires
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._mine: dict[str, Path] = {}
        self._ended = threading.Event()
        self.mark = mark or ""
        hidden = "." if mark is None else ""
        self._beacon = file(f"{WORKERS}/{hidden}{self.name}")
        _create(self._beacon, self.mark, within=self._root)
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()

    def take(self, step: str) -> bool:
        """Claim a step; False if another process is doing it."""
        path = self.file(f"{CLAIMED_STEPS}/{step}.claim")
        if not _create(path, self.name, within=self._root) and not self._take_over(path):
            return False
        self._mine[step] = path
        return True

    def holds(self, step: str) -> bool:
        """Say whether this process still holds a claim, which others may have taken over."""
        return step in self._mine and _read_state(self._mine[step]).text == self.name

    def release(self, step: str) -> None:
        """Give a claim back."""
        if self.holds(step):
            self._mine[step].unlink(missing_ok=True)
        self._mine.pop(step, None)

    def owners(self) -> dict[str, str]:
        """The steps that other processes are doing, by owner; expired claims do not count."""
        folder, now = self.file(CLAIMED_STEPS), self._now()
        owners = {}
        for path in _walk_files(folder):
            if path.suffix != ".claim":
                continue
            claim = _read_state(path)
            if claim.text not in ("", self.name) and claim.is_alive(now, self.expires):
                step = path.relative_to(folder).as_posix().removesuffix(".claim")
                owners[step] = claim.text
        return owners

    def end(self) -> None:
        """Give all claims back, and remove expired ones."""
        self._ended.set()
        self._renewer.join()
        # The folder may be gone or out of reach; then the claims expire.
        with suppress(OSError):
            for step in list(self._mine):
                self.release(step)
        with suppress(OSError):
            self._remove_expired()
        with suppress(OSError):
            self._beacon.unlink(missing_ok=True)
            remove_empty_folders(self.file(CLAIMS))

    @property
    def _root(self) -> Path:
        return self.file(CLAIMS).parent

    def _remove_expired(self) -> None:
        now = self._now()
        for path in _walk_files(self.file(CLAIMS)):
            state = _read_state(path)
            if state != _GONE and not state.is_alive(now, self.expires):
                _remove(path, state)

    def _take_over(self, path: Path) -> bool:
        """Take over an expired claim."""
        state = _read_state(path)
        if state.is_alive(self._now(), self.expires):
            return False
        return _remove(path, state) and _create(path, self.name, within=self._root)

    def _now(self) -> float:
        """The time on the clock of the file system, which sets the times of files."""
        while True:
            if not self._beacon.is_file():  # another process believed this one dead
                _create(self._beacon, self.mark, within=self._root)
            with suppress(FileNotFoundError):  # and did so just now
                os.utime(self._beacon)
                return self._beacon.stat().st_mtime

    def _renew(self) -> None:
        while not self._ended.wait(self.renewed):
            # The folder may be gone or out of reach; a step may then be done twice.
            with suppress(OSError):
                self._now()
            for path in list(self._mine.values()):
                with suppress(OSError):
                    if _read_state(path).text == self.name:  # not if another process has taken it
                        os.utime(path)


@contextmanager
def open_claims(file: ResolveFile, mark: str | None) -> Iterator[Claims]:
    """Claim steps inside the `with` block; all claims are given back at its end."""
    claims = Claims(file, mark, renewed=RENEWAL, expires=EXPIRY)
    try:
        yield claims
    finally:
        claims.end()


def list_workers(file: ResolveFile) -> Mapping[str, str]:
    """The marks of the processes in a run folder, by name; without those that ended long ago.

    >>> list_workers(Path("runs/nobody").joinpath)
    {}
    """
    place = file(WORKERS)
    clock = place / f".{secrets.token_hex(4)}"
    try:
        clock.touch()
    except FileNotFoundError:  # there is no such folder
        return {}
    try:
        now = _read_state(clock).time
        beacons = [path for path in sorted(_walk_files(place)) if not path.name.startswith(".")]
        states = {path.name: _read_state(path) for path in beacons}
        return {name: state.text for name, state in states.items() if state.is_alive(now, EXPIRY)}
    finally:
        clock.unlink(missing_ok=True)


def parse_host(owner: str) -> str:
    """The machine of a process that claims steps, by its name.

    >>> parse_host("node-3-4711-0f0f0f0f")
    'node-3'
    """
    return owner.rsplit("-", 2)[0]


def is_claims_folder(folder: Path) -> bool:
    """Tell whether a folder can be a folder of claims: it contains nothing else.

    >>> is_claims_folder(Path("thesis"))
    False
    """
    if folder.name != CLAIMS:
        return False
    names = {Path(name).name for name in (WORKERS, CLAIMED_STEPS)}
    try:
        return all(entry.name in names for entry in folder.iterdir())
    except FileNotFoundError:  # another process has just given its last claim back
        return True


def remove_empty_folders(folder: Path) -> None:
    """Remove folders without files."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            Path(path).rmdir()


class _FileState(NamedTuple):
    """The content of a file and its time."""

    text: str
    time: float

    def is_alive(self, now: float, expires: float) -> bool:
        """Tell whether it was renewed recently; a time far in the future does not count."""
        return abs(now - self.time) <= expires


_GONE = _FileState("", float("inf"))
_NO_CLAIM = _FileState("", float("-inf"))


def _walk_files(folder: Path) -> list[Path]:
    """All files below a folder, while others may remove folders in it."""
    return [Path(root, name) for root, _, names in os.walk(folder) for name in names]


def _read_state(path: Path) -> _FileState:
    if path.is_symlink():  # no worker made it
        return _NO_CLAIM
    try:
        # Opening a file makes NFS ask its server; asking for its time alone may give an old one.
        with path.open(encoding="utf-8") as file:
            return _FileState(file.read(), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return _GONE
    except PermissionError:  # another user's
        return _FileState("?", path.lstat().st_mtime)
    except (OSError, UnicodeDecodeError):
        return _NO_CLAIM


def _remove(path: Path, state: _FileState) -> bool:
    """Remove a file, unless it has changed since it was read.

    If several processes remove and re-create a file at once, all but one see that it is a new file,
    and put it back.
    """
    old = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.rename(old)
    except FileNotFoundError:
        return False
    is_old = _read_state(old) == state
    if not is_old:
        # Linking fails if there is a newer file; some file systems have no links.
        with suppress(OSError):
            os.link(old, path)
    old.unlink(missing_ok=True)
    return is_old


def _create(path: Path, text: str, *, within: Path) -> bool:
    """Create a file below a folder that exists, unless the file exists."""
    while True:
        if not within.is_dir():
            raise FileNotFoundError(f"{within} is gone")
        # Another process may remove the empty folders at any moment.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError):
            links = any(parent.is_symlink() for parent in (path.parent, path.parent.parent))
            if links or (path.parent.exists() and not path.parent.is_dir()):
                raise
            continue
        try:
            file = path.open("x", encoding="utf-8")
        except FileExistsError:
            if path.is_dir() and not path.is_symlink():
                raise
            return False
        except FileNotFoundError:
            continue
        with file:
            try:
                file.write(text)
                file.flush()
            except BaseException:  # such as a full disk; a claim without an owner is useless
                path.unlink(missing_ok=True)
                raise
        return True


# ---------------------------------------------------------------- locks

PROCESSOR = "kind of processor"  # may differ between workers; then their bytes may differ too
PREPARATION_TIMEOUT = 60.0  # seconds that a process may take to prepare a shared folder


class SharedRun(NamedTuple):
    """A run folder that several processes write to, and the claims of this one."""

    run: RunFolder
    claims: Claims
    """`run`, `claims`: the folder and the claims."""

    warnings: tuple[str, ...] = ()
    """Sentences about the other processes."""


@contextmanager
def open_run(path: Path) -> Iterator[RunFolder]:
    """Open a run folder to begin or continue a run, and create it if needed; see `lock_run`.

    Raises `InputError` for a folder that contains something else, a run of version 1 or a joined
    one, and for one that is in use.
    """
    check_run_path(path)
    with lock_run(path) as run:
        yield run


@contextmanager
def lock_run(path: Path) -> Iterator[RunFolder]:
    """Open a folder for writing, create it if needed, and lock it for other processes.

    Raises `InputError` if another process has locked it, or workers share it.
    """
    with lock_folder(path):
        run = RunFolder(path)
        if workers := list(list_workers(run.file)):
            are = "1 worker is" if len(workers) == 1 else f"{len(workers)} workers are"
            raise InputError(
                f"{are} working in {path}, such as {workers[0]}, or were killed less than three "
                "minutes ago; wait until they end, or join them with --worker"
            )
        remove_partial(path)
        if (claims := run.file(CLAIMS)).is_dir():  # of workers that were killed
            shutil.rmtree(claims, ignore_errors=True)
        yield run


@contextmanager
def share_run(
    path: Path, mark: Mapping[str, str], prepare: Callable[[RunFolder, bool], None]
) -> Iterator[SharedRun]:
    """Open a run folder that other processes work in too, each with claims on its steps.

    Args:
        path: the folder; it is created if needed.
        mark: what must be the same in all these processes, by name for people. A different
            `PROCESSOR` is only a warning, because its results are as valid.
        prepare: called with the folder and whether other processes work in it; only one process
            prepares at a time.

    Raises `InputError` as `open_run` does, if a process that does not share is working in it, and
    if the others have a different mark.
    """
    check_run_path(path)
    path.mkdir(parents=True, exist_ok=True)
    run = RunFolder(path)
    with open_claims(run.file, json.dumps(mark)) as claims:
        with lock_folder(path, timeout=PREPARATION_TIMEOUT, needed=False):
            others = dict(list_workers(run.file))
            others.pop(claims.name, None)
            warnings = [_check_mark(mark, text, name, path) for name, text in others.items()]
            prepare(run, bool(others))
            remove_partial(path, age=ABANDONED_AFTER if others else 0)
        yield SharedRun(run, claims, tuple(filter(None, warnings)))


def _check_mark(ours: Mapping[str, str], mark: str, name: str, path: Path) -> str:
    """Compare the mark of another process; returns a warning, or nothing."""
    try:
        theirs = dict(json.loads(mark))
    except (ValueError, TypeError):
        return ""  # being written or removed right now
    for fact in ours:
        if fact != PROCESSOR and ours[fact] != theirs.get(fact):
            raise InputError(
                f"the worker {name} in {path} has another {fact} than this one: "
                f"{theirs.get(fact)}, here {ours[fact]}; all workers in a folder must have the "
                "same, or name another folder with --out"
            )
    here, another = ours.get(PROCESSOR), theirs.get(PROCESSOR)
    if here is None or another is None or here == another:
        return ""
    return (
        f"the worker {name} has another {PROCESSOR} ({another}) than this one ({here}): "
        "results may differ in their last digits from those of one machine"
    )


@contextmanager
def lock_folder(
    path: Path, timeout: float = 0, *, needed: bool = True, name: str = LOCK
) -> Iterator[None]:
    """Lock a file of a folder; unless `needed`, go on if the file system has no locks."""
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(resolve_inside(path, name), timeout=timeout)
    try:
        context: AbstractContextManager[object] = lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"another process is working in {path}; try again when it has ended"
        ) from None
    except (OSError, NotImplementedError) as error:
        known = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
        if needed or (isinstance(error, OSError) and error.errno not in known):
            raise
        context = nullcontext()
    with context:
        yield


def check_run_path(path: Path) -> None:
    """Raise `InputError` unless a run can begin or continue in a folder with this path."""
    run = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a run folder")
    if not path.is_dir():
        return
    if run.is_joined:
        raise InputError(
            f"{path} was joined from several runs and cannot train; run another seed in a folder "
            "of its own, and join again with fairweather report --join-seeds"
        )
    # A lock or folders with these names may belong to another program.
    known = (path / RECORD).exists() or any(run.step(step) for step in run.step_ids())
    if not known and not all(
        step.name == LOCK or PARTIAL.fullmatch(step.name) or is_claims_folder(step)
        for step in path.iterdir()
    ):
        raise InputError(f"{path} is not empty and holds no run; name another folder with --out")
    if (path / RECORD).exists():
        try:
            _ = run.record
        except InputError as error:
            raise InputError(
                f"{error}; if it was damaged, remove it, and the same command writes it again"
            ) from None

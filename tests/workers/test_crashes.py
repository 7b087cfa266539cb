"""The disk fails or the process dies at any one operation: the same command ends the same.

A layer under Python's file functions counts what changes the disk: files that are created, `write`
calls of the system, truncations, fsync, renamings, removals, folders. At the N-th of them it fails.
A process that dies is an exception after which nothing reaches the disk any more, whatever still
runs on the way out: for the disk that is a SIGKILL, and it costs no process. (Real signals are in
`test_ending.py`.) After each fault the same command must leave the same files as a command that was
never stopped, and no other: no partial file, no claim.
"""

import builtins
import errno
import io
import os
import random
import re
import shutil
import threading
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import fairweather as fw
from fairweather.errors import InputError, describe_os_error
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.quick_steps import quick_steps

STUDY = """
name: small
data: {{source: "folder:{folder}", size: 16}}
seeds: [0]
threads: 1
variants: [temperature]
shifts: [{{gaussian_blur: [1]}}]
bootstrap: 100
models:
  a: {{title: A, backbone: "{backbone}", recipe: {{epochs: 2, batch_size: 8}}}}
"""
KILLED = "killed"
FAULTS = {"full": errno.ENOSPC, "broken": errno.EIO, "killed": KILLED}
NEED_ROOM = {"create", "write", "mkdir", "fsync"}
SAMPLE = 4  # operations that fail in the usual tests, for each kind of fault and of work
PAGE = Path(__file__).parents[2] / "docs/reliability.md"


class KilledError(BaseException):
    """The process is dead; no code may catch this."""


class Disk:
    """Counts the operations that change files below some folders, and fails at one of them.

    A full disk stays full for what needs room. One that gives EIO does so once.
    """

    def __init__(self, root, fault=None, at=None):
        self.root, self.fault, self.at = str(root), fault, at
        self.operations, self.files, self.dead, self.is_full = [], [], False, False
        self._turn = threading.Lock()

    def watches(self, path):
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root)

    def about_to(self, operation, path=None):
        """Count an operation; raises if it fails. The system names the file of some of them."""
        with self._turn:
            if not self.dead:
                self.operations.append(operation)
                if len(self.operations) == self.at:
                    self.dead, self.is_full = self.fault == KILLED, self.fault == errno.ENOSPC
                elif not (self.is_full and operation in NEED_ROOM):
                    return
        if self.dead:
            raise KilledError
        raise OSError(self.fault, os.strerror(self.fault), path and os.fspath(path))


class CountedFile(io.FileIO):
    """An open file whose system calls are counted; a write that fails has written a half."""

    def __init__(self, path, mode, disk):
        super().__init__(path, mode)
        self.disk = disk
        disk.files.append(self)

    def write(self, content):
        try:
            self.disk.about_to("write")
        except OSError:
            super().write(memoryview(content)[: len(content) // 2])
            raise
        return super().write(content)

    def truncate(self, size=None):
        self.disk.about_to("truncate")
        return super().truncate(size)


@contextmanager
def watching(disk):
    """Put the layer under Python's file functions."""
    real = {name: getattr(os, name) for name in ("mkdir", "unlink", "rmdir", "rename", "replace")}
    open_file, open_number, allocate = io.open, os.open, os.posix_fallocate

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more):
        if not disk.watches(file) or not set(mode) & set("wxa+"):
            return open_file(file, mode, buffering, encoding, errors, newline, *more)
        if set(mode) & set("wxa"):
            disk.about_to("create", file)
        raw = CountedFile(file, mode.replace("b", "").replace("t", ""), disk)
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def number_of(path, flags, *mode, **where):
        if disk.watches(path) and flags & os.O_CREAT and not os.path.lexists(path):
            disk.about_to("create", path)
        return open_number(path, flags, *mode, **where)

    def changes(name):
        def change(path, *others, **where):
            inside = where.get("dir_fd") is not None  # as shutil removes folders
            there = inside or os.path.lexists(path)
            if (inside or disk.watches(path)) and there != (name == "mkdir"):
                disk.about_to("rename" if name == "replace" else name, path)
            return real[name](path, *others, **where)

        return change

    def flush(number):
        # Not done in fact: what is tested is the death of a process, not of a machine.
        disk.about_to("fsync")

    def reserve(*place):
        disk.about_to("write")
        return allocate(*place)

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(os, name, changes(name))
        patch.setattr(os, "open", number_of)
        patch.setattr(os, "fsync", flush)
        patch.setattr(os, "posix_fallocate", reserve)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        try:
            yield
        finally:
            for file in disk.files:  # of a process that dies, the system closes them
                file.close()


class Work(NamedTuple):
    """A command, what it leaves if nothing goes wrong, and how many operations that takes."""

    do: Callable[[Path], object]
    whole: dict[str, bytes]
    operations: list[str]


def left_in(folder):
    """All files, and the content of those that have no times in them."""
    return {
        path.relative_to(folder).as_posix(): b"" if has_times(path) else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def has_times(path):
    return path.name in ("record.json", "manifest.json") or "steps" in path.parts


def carry_out(do, folder, disk):
    with watching(disk), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRWEATHER_CACHE", str(folder / "cache"))
        do(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), train=6, test=4)


@pytest.fixture(scope="module")
def quick():
    with quick_steps():
        yield


@pytest.fixture(scope="module")
def works(pictures, quick, tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("works")
    study = root / "study.yaml"
    study.write_text(STUDY.format(folder=pictures, backbone=TINY_RESNET))
    model = root / "study/run/models/a/seed-0"
    options = {"device": "cpu", "threads": 1, "bootstrap": 100, "variants": ("batchnorm",)}

    def run(folder):
        fw.run(study, out=folder / "run", device="cpu")

    def evaluate(folder):
        data, shifts = f"folder:{pictures}", "gaussian_blur: [1]"
        fw.evaluate(f"run:{model}", data, shifts, out=folder / "run", size=16, **options)

    def export(folder):
        data = fw.load_data(f"folder:{pictures}", size=16)
        shifts = [fw.make_shift("brightness_factor", factor=factor) for factor in (0.5, 2)]
        for form in ("png", "npz"):
            fw.export(data, shifts, folder / form, format=form)

    found = {}
    for do in (run, evaluate, export):
        name = "study" if do is run else do.__name__
        disk = Disk(root / name)
        carry_out(do, root / name, disk)
        found[name] = Work(do, left_in(root / name), disk.operations)
    return found


def fails_once(work, folder, fault, at):
    """Let one operation fail, and carry the same command out once more."""
    disk = Disk(folder, fault, at)
    try:
        carry_out(work.do, folder, disk)
    except KilledError:
        assert fault == KILLED
    except (InputError, OSError) as error:
        told = str(error) if isinstance(error, InputError) else describe_os_error(error)
        assert str(folder) in told
        assert len(told.splitlines()) == 1
        # A process that lives removes the half that it has written, if the disk lets it.
        half_written = [name for name in left_in(folder) if ".partial" in name]
        assert half_written == [] or disk.operations[at - 1] in ("unlink", "rmdir")
    carry_out(work.do, folder, Disk(folder))
    left = left_in(folder)
    assert left.keys() == work.whole.keys()
    assert [name for name in left if left[name] != work.whole[name]] == []


def fails_at_each(work, tmp_path, fault, places):
    failed = {}
    for at in places:
        folder = tmp_path / str(at)
        try:
            fails_once(work, folder, fault, at)
        except Exception:
            failed[at, work.operations[at - 1]] = traceback.format_exc()
        shutil.rmtree(folder)
    assert not failed, f"{len(failed)} of {len(places)} failed: {failed}"


def test_the_table_of_the_attack_says_about_how_many_operations_there_are(works):
    """Other versions of packages make a few more or less."""
    text = PAGE.read_text()
    (each,) = re.findall(r"A study has about (\d+) .*?, an evaluation (\d+), an export (\d+)", text)
    counts = [len(works[name].operations) for name in ("study", "evaluate", "export")]
    assert [int(number) for number in each] == pytest.approx(counts, rel=0.1)
    for row, faults in (("kills", 1), ("write faults", len(FAULTS) - 1)):
        (cells,) = re.findall(rf"^\| {row} \|.*\| about ([\d,]+) \| all \| (\d+) \|", text, re.M)
        about, by_day = (int(number.replace(",", "")) for number in cells)
        assert about == pytest.approx(faults * sum(counts), rel=0.1)
        assert by_day == faults * len(counts) * SAMPLE


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["study", "evaluate", "export"])
def test_an_operation_that_fails_changes_nothing_in_the_end(works, tmp_path, name, fault):
    work = works[name]
    count = len(work.operations)
    places = sorted(random.Random(f"{name} {fault}").sample(range(1, count + 1), SAMPLE))
    fails_at_each(work, tmp_path, FAULTS[fault], places)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["study", "evaluate", "export"])
def test_every_operation_that_fails_changes_nothing_in_the_end(works, tmp_path, name, fault):
    work = works[name]
    fails_at_each(work, tmp_path, FAULTS[fault], range(1, len(work.operations) + 1))

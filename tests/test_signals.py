"""Signals at random moments while a run decodes, trains and draws, and two runs in one folder.

No process stays, nothing half-written stays, and the same command ends with the same bytes. One
program imports everything once and starts each command by a fork.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import TINY_RESNET
from .same_bytes import files, same
from .started import GONE, started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STUDY = """
name: small
data: {{source: "folder:{folder}", size: 16}}
seeds: [0]
threads: 1
shifts: [{{gaussian_blur: [1]}}]
bootstrap: 100
models:
  a: {{title: A, backbone: "{backbone}", recipe: {{epochs: 4, batch_size: 8}}}}
"""
# Other processes decode and draw from the first image and figure on. One figure is drawn, so that a
# signal soon meets those processes; the others and the page have their own tests.
COMMANDS = """
import gc, json, os, signal, sys
import torch
from fairweather import cli, report, study, vega
from fairweather.__main__ import main
from fairweather.data import cache, decode
from fairweather.report.curves import level_figure
from fairweather.steps import training

decode.SECONDS_ALONE, vega.MANY_LETTERS = 0.0, 0
news, log = os.dup(1), os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)

def tell(word):
    os.write(news, f"{word}\\n".encode())

def told(word, do):
    def then(*given, **options):
        tell(word)
        return do(*given, **options)
    return then

cache.decode_images = told("decoding", cache.decode_images)
training.fit = told("training", training.fit)
report._build_figures = told("drawing", lambda of, *_: [level_figure(of, "accuracy")])
report.render_page, report.bundle = lambda *_: "a page", str
torch.set_num_threads(1)
gc.freeze()  # or each command copies all memory when it ends
for order in sys.stdin:
    asked, begun = json.loads(order), []
    for _ in range(asked["processes"]):
        if not (number := os.fork()):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1), os.dup2(log, 2)
            os.environ["FAIRWEATHER_CACHE"] = asked["cache"]
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["fairweather", *asked["command"]]
            main()
        begun.append(number)
    tell(json.dumps(begun))
    for number in begun:
        tell(f"ended {os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])}")
"""
PHASES = ("decoding", "training", "drawing")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
BY_DAY = (
    (signal.SIGKILL, "decoding"),
    (signal.SIGKILL, "drawing"),
    (signal.SIGTERM, "training"),
    (signal.SIGTERM, "decoding"),
    (signal.SIGINT, "drawing"),
)
AT_NIGHT = 25  # of each signal
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
# The longest wait after a phase begins: they take a few tenths of a second on an idle core.
LONGEST = 0.4
TRIES = 6  # for one signal: the command may end before it comes, and then the next waits less


class Commands:
    """Starts commands, and tells what they are doing."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    def begin(self, command, cache, processes=1):
        asked = {"command": command, "cache": str(cache), "processes": processes}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("["):
            assert line, self.said()
        return json.loads(line)

    def follow(self, *words):
        """Read on until one of these words begins a line, or a command has ended."""
        for line in self.process.stdout:
            if line.startswith((*words, "ended")):
                return line.strip()
        raise AssertionError(self.said())

    def end(self):
        return int(self.follow("ended").split()[1])

    def said(self):
        return self.log.read_text()


@pytest.fixture(scope="module")
def study(tmp_path_factory, colour_folder):
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    log = tmp_path_factory.mktemp("commands") / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMANDS, str(log)]
    with started(command, stdin=-1, env=environment) as process:
        yield Commands(process, log)
        process.stdin.close()


def run(study, folder):
    return ["run", str(study), "--out", str(folder / "run"), "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(commands, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    commands.begin(run(study, folder), folder / "cache")
    assert commands.end() == 0, commands.said()
    return folder


def prepare(folder, whole, phase):
    """Leave what a run has before it comes to a phase."""
    folder.mkdir()
    if phase != "decoding":
        shutil.copytree(whole / "cache", folder / "cache")
    if phase == "drawing":
        shutil.copytree(whole / "run", folder / "run")
        (folder / "run/steps/report.json").unlink()


def processes_of(folder):
    """The processes that were started by commands with this cache folder, such as decoders."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            started_by = f"FAIRWEATHER_CACHE={folder / 'cache'}\0".encode()
            if started_by in (each / "environ").read_bytes():
                found.append(int(each.name))
    return found


def interrupted(commands, study, whole, folder, number, phase, wait):
    """Send a signal to a run, and see that nothing of it stays and that the same command ends."""
    before = len(commands.said())
    for place in range(TRIES):
        prepare(folder, whole, phase)
        status = status_of_signalled(commands, study, folder, number, phase, wait / 4**place)
        if status:
            break
        shutil.rmtree(folder)  # the command had ended
    assert status == STATUS[number], commands.said()[before:]
    assert "Traceback" not in commands.said()[before:], commands.said()[before:]
    deadline = time.monotonic() + GONE
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    commands.begin(run(study, folder), folder / "cache")
    assert commands.end() == 0, commands.said()[before:]
    same(folder / "run", whole / "run")
    assert all_names(folder) == all_names(whole)
    shutil.rmtree(folder)


def status_of_signalled(commands, study, folder, number, phase, wait):
    """The status of a run that gets a signal so many seconds after a phase has begun."""
    (process,) = commands.begin(run(study, folder), folder / "cache")
    reached = commands.follow(phase)
    assert reached == phase, f"it ended before it came to {phase}: {commands.said()}"
    time.sleep(wait)
    with suppress(ProcessLookupError):  # it has ended just now
        os.kill(process, number)
    return commands.end()


def all_names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def moments(seed, count):
    """A seeded list of phases and of seconds to wait in them."""
    rng = random.Random(seed)
    return [(PHASES[place % 3], rng.uniform(0, LONGEST)) for place in range(count)]


@pytest.mark.parametrize(("number", "phase"), BY_DAY)
def test_a_signal_leaves_no_process_and_the_same_command_ends(
    commands, study, whole, tmp_path, number, phase
):
    wait = random.Random(f"{number} {phase}").uniform(0, LONGEST)
    interrupted(commands, study, whole, tmp_path / "0", number, phase, wait)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", SIGNALS)
def test_many_signals_leave_no_process_and_the_same_command_ends(
    commands, study, whole, tmp_path, number
):
    for place, (phase, wait) in enumerate(moments(int(number), AT_NIGHT)):
        interrupted(commands, study, whole, tmp_path / str(place), number, phase, wait)


def test_of_two_commands_in_one_folder_one_works_and_the_other_says_so(
    commands, study, whole, tmp_path
):
    before = len(commands.said())
    commands.begin(run(study, tmp_path), tmp_path / "cache", processes=2)
    statuses = sorted([commands.end(), commands.end()])
    said = commands.said()[before:]
    assert statuses in ([0, 2], [0, 0]), said  # the second may begin when the first has ended
    if statuses[1]:
        assert said.count("another process is working in") == 1
    assert "Traceback" not in said
    same(tmp_path / "run", whole / "run")
    assert files(tmp_path / "run")

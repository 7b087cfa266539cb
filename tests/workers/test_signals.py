"""Signals at random moments while a run decodes, trains and draws, and two runs in one folder.

No process stays, nothing half-written stays, and the same command ends with the same bytes.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import TINY_RESNET
from tests.helpers.forking import Program
from tests.helpers.same_bytes import files, same
from tests.helpers.started import GONE, started

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
COMMAND = """
import os, signal
from fairweather.report import building as report
from fairweather.report import vega
from fairweather.__main__ import main
from fairweather.data import cache
from fairweather.data import cache as decode
from fairweather.report.levels import draw_levels
from fairweather.steps import training

decode.SECONDS_ALONE, vega.MANY_LETTERS = 0.0, 0
news = os.dup(1)
os.dup2(2, 1)  # what it says is in a file

def told(word, do):
    def then(*given, **options):
        os.write(news, f"{word}\\n".encode())
        return do(*given, **options)
    return then

cache.decode_images = told("decoding", cache.decode_images)
training.fit = told("training", training.fit)
report._draw_figures = told("drawing", lambda of, *_: [draw_levels(of, "accuracy")])
report.render_page = lambda *_: "a page"
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
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
    """Starts commands, and tells what they say."""

    def __init__(self, log):
        self.log = log

    @contextmanager
    def begun(self, study, folder):
        environment = {"OMP_NUM_THREADS": "1", "FAIRWEATHER_CACHE": str(folder / "cache")}
        words = ["run", str(study), "--out", str(folder / "run"), "--device", "cpu"]
        with (
            self.log.open("a") as log,
            started(
                [sys.executable, "-c", COMMAND, *words],
                Program,
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=os.environ | environment,
            ) as command,
        ):
            yield command

    def status(self, study, folder):
        with self.begun(study, folder) as command:
            command.communicate()
        return command.returncode

    def said(self):
        return self.log.read_text()


@pytest.fixture(scope="module")
def study(tmp_path_factory, colour_folder):
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("commands") / "log")
    commands.log.touch()
    return commands


@pytest.fixture(scope="module")
def whole(commands, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert commands.status(study, folder) == 0, commands.said()
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
    assert commands.status(study, folder) == 0, commands.said()[before:]
    same(folder / "run", whole / "run")
    assert all_names(folder) == all_names(whole)
    shutil.rmtree(folder)


def status_of_signalled(commands, study, folder, number, phase, wait):
    """The status of a run that gets a signal so many seconds after a phase has begun."""
    with commands.begun(study, folder) as command:
        reached = next((line for line in command.stdout if line.startswith(phase)), None)
        assert reached, f"it ended before it came to {phase}: {commands.said()}"
        time.sleep(wait)
        command.send_signal(number)  # unless it has ended just now
        command.communicate()
    return command.returncode


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
    with commands.begun(study, tmp_path) as one, commands.begun(study, tmp_path) as other:
        one.communicate()
        other.communicate()
    statuses = sorted([one.returncode, other.returncode])
    said = commands.said()[before:]
    assert statuses in ([0, 2], [0, 0]), said  # the second may begin when the first has ended
    if statuses[1]:
        assert said.count("another process is working in") == 1
    assert "Traceback" not in said
    same(tmp_path / "run", whole / "run")
    assert files(tmp_path / "run")

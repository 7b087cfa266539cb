"""How processes end: interrupted, killed, or with the process that started them."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairweather.cli import app as cli
from fairweather.errors import InputError
from fairweather.processes import submit, wait_for_result
from fairweather.report.vega import begin_work
from tests.helpers.started import GONE, started

INTERRUPTED_WHILE_LOADING = """
import sys

class Finder:
    def find_spec(self, name, *_):
        if name == "typer":  # one of the first modules of the command line
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
sys.argv = ["fairweather", "list"]
from fairweather.__main__ import main
main()
"""
# It prints the number of the process that works for it, which would sleep for ten minutes.
STARTS_A_WORKER = """
import os, time
from fairweather.processes import submit
print(submit(1, {}, os.getpid).result(), flush=True)
submit(1, {}, time.sleep, 600)
time.sleep(600)
"""
# It is interrupted while it starts the thread that tells other processes what to do.
INTERRUPTED_WHILE_STARTING = """
import threading
from fairweather.processes import submit

start = threading.Thread.start

def interrupted(thread):
    threading.Thread.start = start
    start(thread)
    raise KeyboardInterrupt

threading.Thread.start = interrupted
submit(1, {}, divmod, 7, 2)
"""


def test_an_interruption_while_the_program_is_loaded_is_one_line():
    command = [sys.executable, "-c", INTERRUPTED_WHILE_LOADING]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_interruption_while_other_processes_are_started_ends_the_program():
    command = [sys.executable, "-c", INTERRUPTED_WHILE_STARTING]
    with started(command, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_an_interruption_of_a_command_is_no_broken_rule(monkeypatch, capsys, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fairweather.judge.rules.read_rules", interrupt)
    monkeypatch.setattr("fairweather.runs.folder.open_finished_run", lambda path: path)
    monkeypatch.setattr(sys, "argv", ["fairweather", "check", str(tmp_path), "accuracy >= 0.5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def fill_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/scores.csv")


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (fill_disk, "full disk"),
        (lambda: begin_work(10**9, os._exit, 1)(), "killed process"),
    ],
    ids=["full", "killed"],
)
def test_what_the_machine_is_to_blame_for_ends_as_the_manual_says(
    monkeypatch, capsys, tmp_path, fail, words
):
    monkeypatch.setattr("fairweather.judge.rules.read_rules", lambda *_, **__: fail())
    monkeypatch.setattr("fairweather.runs.folder.open_finished_run", lambda path: path)
    monkeypatch.setattr(sys, "argv", ["fairweather", "check", str(tmp_path), "accuracy >= 0.5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("fairweather: ")
    manual = (Path(__file__).parents[1] / "docs/command-line.md").read_text(encoding="utf-8")
    (row,) = [line for line in manual.splitlines() if line.startswith(f"| {ended.value.code} |")]
    assert words in row


def test_a_figure_whose_process_was_killed_is_told():
    with pytest.raises(InputError, match="drew figures was killed"):
        begin_work(10**9, os._exit, 1)()
    assert begin_work(10**9, divmod, 7, 2)() == (3, 1)  # the next one works


def test_what_a_process_raises_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        wait_for_result(submit(1, {}, divmod, 1, 0), "divided", "")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_ends_soon_after_the_process_that_started_it_was_killed():
    command = [sys.executable, "-c", STARTS_A_WORKER]
    with started(command) as parent:
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + GONE
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(number):
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

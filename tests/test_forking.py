"""A program that was forked is, for tests, what Python would have started."""

import os
import signal
import subprocess
import sys

import pytest

from .forking import Program

WAYS = (Program, subprocess.Popen)
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
KILLED = "import os, signal; print('begun', flush=True); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("begin", WAYS)
@pytest.mark.parametrize(
    ("code", "status", "printed", "told"),
    [
        ("print('done')", 0, "done\n", ""),
        ("import atexit; atexit.register(print, 'last'); raise SystemExit(3)", 3, "last\n", ""),
        ("raise SystemExit('a sentence')", 1, "", "a sentence\n"),
        ("1 / 0", 1, "", "ZeroDivisionError: division by zero\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "", "KeyboardInterrupt\n"),
        (KILLED, -signal.SIGKILL, "begun\n", ""),
    ],
)
def test_a_program_ends_as_python_ends_it(begin, code, status, printed, told):
    with begin([sys.executable, "-c", code], text=True, **PIPES) as process:
        said, errors = process.communicate()
    assert (process.wait(), process.returncode, said) == (status, status, printed)
    assert errors.endswith(told)
    assert bool(errors) == bool(told)


@pytest.mark.parametrize("begin", WAYS)
def test_a_program_has_what_it_was_given(begin, tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['MINE'], input(), end='')"
    code += "; os.write(int(sys.argv[2]), b'handed over'); print(os.getpgid(0) == os.getpid())"
    reading, writing = os.pipe()
    command = [sys.executable, "-W", "error", "-c", code, "ä", str(writing)]
    given = {"cwd": tmp_path, "env": os.environ | {"MINE": "x"}, "pass_fds": [writing]}
    with begin(command, text=True, encoding="utf-8", process_group=0, **given, **PIPES) as process:
        os.close(writing)
        process.stdin.write("line\n")
        process.stdin.flush()
        assert process.stdout.read() == f"{tmp_path} ['ä', '{writing}'] x lineTrue\n"
    assert os.read(reading, 99) == b"handed over"
    os.close(reading)


@pytest.mark.parametrize("begin", WAYS)
def test_a_program_is_waited_for_and_ended(begin):
    command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
    with begin(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        process.terminate()
    assert process.poll() == -signal.SIGTERM


def test_a_program_that_was_forked_forks_and_has_the_package_imported():
    code = "import subprocess, sys; from tests.forking import Program; "
    code += "inner = [sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)']; "
    code += "print(Program(inner, stdout=subprocess.PIPE, text=True).communicate()[0], end='')"
    with Program([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()
    assert said == ("True\n" if sys.platform == "linux" else "False\n")

"""A program that was forked is, for tests, what Python would have started."""

import os
import select
import signal
import subprocess
import sys

import pytest

from tests.helpers.forking import Program

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
        ("import sys; print(sys.warnoptions)", 0, "['error']\n", ""),
    ],
)
def test_a_program_ends_as_python_ends_it(begin, code, status, printed, told):
    command = [sys.executable, "-W", "error", "-c", code]
    with begin(command, text=True, **PIPES) as process:
        said, errors = process.communicate()
    assert (process.wait(), process.returncode, said) == (status, status, printed)
    # Of builds of torch for GPUs, triton adds what it leaves in memory.
    assert errors.partition("nanobind: leaked")[0].endswith(told)
    assert bool(errors) == bool(told)


@pytest.mark.parametrize("begin", WAYS)
def test_a_module_is_a_program_too(begin):
    with begin([sys.executable, "-m", "this"], text=True, **PIPES) as process:
        said, errors = process.communicate()
    assert said.startswith("The Zen of Python")
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("begin", WAYS)
def test_what_a_killed_program_has_said_is_read(begin):
    command = [sys.executable, "-c", "print('a', flush=True); import time; time.sleep(600)"]
    with begin(command, text=True, **PIPES) as process:
        select.select([process.stdout], [], [])  # until it has said something
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.1)
        process.kill()
        assert process.communicate() == ("a\n", "")
        process.kill()  # of a program that has ended, nothing
    command = [sys.executable, "-c", "import os; os.write(1, b'\\xff')"]
    with (
        begin(command, text=True, encoding="utf-8", **PIPES) as process,
        pytest.raises(UnicodeDecodeError),
    ):
        process.communicate()


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


@pytest.mark.nightly
def test_a_program_that_is_left_does_not_hold_up_the_end():
    code = "import subprocess, sys; from tests.helpers.forking import Program; "
    code += "left = [sys.executable, '-c', 'import time; time.sleep(600)']; "
    code += "process = Program(left, stdin=subprocess.PIPE); print(process.pid)"
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=os.environ | paths, stdout=subprocess.PIPE) as process:
        left = int(process.stdout.readline())
        assert process.wait(timeout=120) == 0
    os.kill(left, signal.SIGKILL)


def test_a_program_that_was_forked_forks_and_has_the_package_imported():
    code = "import subprocess, sys; from tests.helpers.forking import Program; "
    code += "inner = [sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)']; "
    code += "print(Program(inner, stdout=subprocess.PIPE, text=True).communicate()[0], end='')"
    with Program([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate()
    assert said == ("True\n" if sys.platform == "linux" else "False\n")

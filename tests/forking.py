"""Programs in Python that begin with the package imported: one process imports it, and forks.

A process that imports the package needs five seconds of a processor before it does anything.
`Program` is like `subprocess.Popen` for `[sys.executable, "-m", MODULE]` and for "-c" and code,
perhaps after "-W error", as far as the tests use it. What it starts is a process of its own, with
its own pipes, folder and environment, but it has imported the package before it began. So tests of
how processes start, and of what they import, start them for real, and each module that forks starts
at least one for real.
"""

import atexit
import gc
import importlib
import json
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

# What programs of the tests import while they work, with all that these import.
IMPORTED = (
    "fairweather.__main__",
    "fairweather.cli.evaluating",
    "fairweather.cli.running",
    "fairweather.evaluation",
    "fairweather.executors.job",
    "fairweather.executors.rank",
    "fairweather.shifting.shifter",
    "fairweather.study",
)
LIMIT = 1 << 17  # bytes of a request; an environment has a few thousand
ABOVE = 256  # the first number of files that are on their way to the numbers that a program expects
ASKED = "FAIRWEATHER_TESTS_FORK"  # which file of a program is the socket to the process that forks


# ---------------------------------------------------------------- the side of the tests


@cache
def _server() -> socket.socket:
    """Start the process that forks; it ends with this one. What was forked asks the same."""
    if ASKED in os.environ:
        return socket.socket(fileno=int(os.environ[ASKED]))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.forking", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        pass_fds=[theirs.fileno()],
        process_group=0,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


class Forked:
    """A program that was forked, seen as `subprocess.Popen` shows one."""

    def __init__(
        self,
        command,
        *,
        stdin=None,
        stdout=None,
        stderr=None,
        text=False,
        encoding=None,
        env=None,
        cwd=None,
        pass_fds=(),
        process_group=None,
    ):
        python, *arguments = [str(each) for each in command if each != "-P"]
        assert python == sys.executable
        self.args, self.returncode = command, None
        self.stdin = self.stdout = self.stderr = None
        mode, theirs = "" if text else "b", []
        for number, (name, given) in enumerate(
            (("stdin", stdin), ("stdout", stdout), ("stderr", stderr))
        ):
            if given == subprocess.PIPE:
                ends = os.pipe() if number else os.pipe()[::-1]
                way = ("r" if number else "w") + mode
                setattr(self, name, os.fdopen(ends[0], way, encoding=encoding))
                theirs.append(ends[1])
            elif given == subprocess.DEVNULL:
                theirs.append(os.open(os.devnull, os.O_RDWR))
            elif given == subprocess.STDOUT:
                theirs.append(os.dup(theirs[1]))
            else:
                own = number if given is None else given
                theirs.append(os.dup(own if isinstance(own, int) else own.fileno()))
        self._news, told = os.pipe()
        server = _server()
        pass_fds = (*pass_fds, server.fileno())
        asked = {
            "arguments": arguments,
            "env": {**(os.environ if env is None else env), ASKED: str(server.fileno())},
            "cwd": str(cwd or Path.cwd()),
            "files": [0, 1, 2, *pass_fds],
            "own_group": process_group is not None,
        }
        try:
            message = json.dumps(asked).encode()
            socket.send_fds(server, [message], [told, *theirs, *pass_fds])
        finally:
            for each in (told, *theirs):
                os.close(each)
        self.pid = self._read()

    def _read(self) -> int:
        found = b""
        while not found.endswith(b"\n"):
            more = os.read(self._news, 1)
            assert more, "the process that forks has ended"
            found += more
        return int(found)

    def poll(self):
        """The status, if it has ended."""
        if self.returncode is None and select.select([self._news], [], [], 0)[0]:
            self.returncode = self._read()
            os.close(self._news)
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end."""
        if self.returncode is None and not select.select([self._news], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def send_signal(self, number):
        """Send a signal to it, if it is there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout=None):
        """Close its input, read what it says, and wait for its end."""
        found = {}

        def read(file):
            found[file] = file.read()
            file.close()

        if self.stdin and not self.stdin.closed:
            self.stdin.close()
        files = [file for file in (self.stdout, self.stderr) if file and not file.closed]
        threads = [threading.Thread(target=read, args=(file,), daemon=True) for file in files]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return found.get(self.stdout, ""), found.get(self.stderr, "")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in (self.stdin, self.stdout, self.stderr):
            if file:
                file.close()
        self.wait()


# It hands over files and forks, which not every system can do with these packages.
Program = Forked if sys.platform == "linux" else subprocess.Popen


def side_by_side(work, *arguments):
    """Call a function of a module of tests in two processes, with the number of each and these."""
    code = f"from {work.__module__} import {work.__name__} as work\nimport pickle, sys\n"
    code += "work(*pickle.loads(bytes.fromhex(sys.argv[1])))"
    processes = []
    try:
        for number in range(2):
            packed = pickle.dumps((number, *arguments)).hex()
            processes.append(Program([sys.executable, "-c", code, packed]))
        for process in processes:
            assert process.wait() == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def modules_forked():
    """Modules that the package starts as processes are forked too."""
    with pytest.MonkeyPatch.context() as patch:
        instead = SimpleNamespace(Popen=Program, PIPE=subprocess.PIPE)
        patch.setattr("fairweather.children.subprocess", instead)
        yield


# ---------------------------------------------------------------- the process that forks


def serve(asks: socket.socket) -> list[str] | None:
    """Fork for each request; give the arguments in a process that was forked, None at the end."""
    running, poll = {}, select.poll()
    poll.register(asks, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != asks.fileno():  # a program has ended
                number, news = running.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                _tell(news, os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
                os.close(news)
                continue
            message, files, *_ = socket.recv_fds(asks, LIMIT, 64)
            if not message:
                return None
            news, *files = files
            if not (number := os.fork()):
                for each in (
                    news,
                    asks.fileno(),
                    *running,
                    *(told for _, told in running.values()),
                ):
                    os.close(each)
                asks.detach()
                return _become(json.loads(message), files)
            _tell(news, number)
            for each in files:
                os.close(each)
            running[ended := os.pidfd_open(number)] = number, news
            poll.register(ended, select.POLLIN)


def _tell(news: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know
        os.write(news, f"{number}\n".encode())


def _become(asked: dict, files: list[int]) -> list[str]:
    """Take the folder, environment and files of a program."""
    if asked["own_group"]:
        os.setpgid(0, 0)
    import fcntl  # not every system has it

    above = [fcntl.fcntl(each, fcntl.F_DUPFD, ABOVE) for each in files]
    for each in files:
        os.close(each)
    for each, number in zip(above, asked["files"], strict=True):
        os.dup2(each, number)
        os.close(each)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    return asked["arguments"]


def run(how: str, what: str, *arguments: str) -> None:
    """Run code or a module as Python would, and end without freeing all memory."""
    if how == "-W":
        warnings.simplefilter(what)
        how, what, *arguments = arguments
    assert how in ("-c", "-m")
    sys.argv, status = [how, *arguments], 0
    try:
        if how == "-m":
            # It is imported once more, as the main program.
            is_package = hasattr(sys.modules.get(what), "__path__")
            sys.modules.pop(f"{what}.__main__" if is_package else what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        status = end.code
    threading._shutdown()  # waits for them
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each program copies all memory when it ends
    if (program := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        run(*program)

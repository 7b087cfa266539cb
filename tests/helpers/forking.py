"""Programs in Python that begin with the package imported: one process imports it, and forks.

A process that imports the package needs five seconds of a processor before it does anything.
`Program` is like `subprocess.Popen` for `[sys.executable, "-m", MODULE]` and for "-c" and code,
perhaps after "-W error", as far as the tests use it. What it starts is a process of its own, with
its own pipes, folder and environment, but it has imported the package before it began, has the
seeds of all others (of hashes, and of NumPy), and ends without freeing its objects. So tests of how
processes start, of what they import and of how they end start them for real, some of them only at
night, and so does one test by day of the command line and of each kind of process that the package
starts.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

# What programs of the tests import while they work, with all that these import.
IMPORTED = (
    "fairweather.__main__",
    "fairweather.cli.runs",
    "fairweather.cli.runs",
    "fairweather.requests.evaluation.run",
    "fairweather.workers.jobs",
    "fairweather.workers.rank_processes",
    "fairweather.inference.shifters",
    "fairweather.requests.study.run",
    "timm",
    "torchvision.transforms.v2",
)
LIMIT = 1 << 17  # bytes of a request; an environment has a few thousand
ASKED = "FAIRWEATHER_TESTS_FORK"  # which file of a program is the socket to the process that forks
# A process that forks must have one thread, and the memory of Arrow would have another.
ALONE = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


# ---------------------------------------------------------------- the side of the tests


@cache
def _server() -> socket.socket:
    """Start the process that forks; it ends with this one. What was forked asks the same."""
    if ASKED in os.environ:
        return socket.socket(fileno=int(os.environ[ASKED]))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.helpers.forking", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **ALONE, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.kill()  # a program that a failed test left has its socket too
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
        self._readers, self._read_on = ThreadPoolExecutor(2), {}  # what the program says
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
            assert len(message) <= LIMIT
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
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout=None):
        """Close its input, read what it says, and wait for its end."""
        if self.stdin:
            self.stdin.close()
        for file in (self.stdout, self.stderr):
            if file and not file.closed and file not in self._read_on:
                self._read_on[file] = self._readers.submit(_read_and_close, file)
        self.wait(timeout)
        return tuple(
            self._read_on[file].result(timeout) if file in self._read_on else None
            for file in (self.stdout, self.stderr)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._readers.shutdown(wait=False)
        try:
            for file in (self.stdin, self.stdout, self.stderr):
                if file:
                    file.close()
        finally:
            self.wait()


def _read_and_close(file):
    with file:
        return file.read()


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
def modules_forked(real: int = 0):
    """Modules that the package starts as processes are forked too, all but the first `real`."""
    begin = chain(repeat(subprocess.Popen, real), repeat(Program))
    with pytest.MonkeyPatch.context() as patch:
        instead = SimpleNamespace(
            Popen=lambda *command, **options: next(begin)(*command, **options),
            PIPE=subprocess.PIPE,
        )
        patch.setattr("fairweather.processes.subprocess", instead)
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

    above = [fcntl.fcntl(each, fcntl.F_DUPFD, max(asked["files"]) + 1) for each in files]
    for each in files:
        os.close(each)
    for each, number in zip(above, asked["files"], strict=True):
        os.dup2(each, number)
        os.close(each)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return asked["arguments"]


def run(how: str, what: str, *arguments: str) -> None:
    """Run code or a module as Python would, and end without freeing all memory."""
    if how == "-W":
        warnings.simplefilter(what)
        sys.warnoptions.append(what)
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.collect()
    gc.freeze()  # or each program copies all memory when it ends
    if (program := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        run(*program)

"""The command line, in the process of a test: a program of its own takes seconds to start."""

import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from fairweather.cli.app import main


class Ended(NamedTuple):
    """How a command ended, named as in `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def fairweather(*words: object, cwd: Path | None = None, env: Mapping[str, str] = {}) -> Ended:
    """Give a command, in a folder, and with further variables of the environment."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["fairweather", *map(str, words)])
        for name, value in env.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())

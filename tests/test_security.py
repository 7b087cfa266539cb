"""What SECURITY.md promises: each promise names the test that holds it, and a few are held here."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fairweather.runs import provenance

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
NAMED = re.findall(r"`tests/(test_\w+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
# Modules that listen on a port, and ways to start a program through a shell.
SERVERS = {"socketserver", "http.server", "xmlrpc", "wsgiref", "asyncio", "socket", "aiohttp"}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
# These only ask for the name of this machine, by which people know who works in a folder, and
# ray_cluster also whether an address answers.
NO_SERVERS = {"claims.py", "ray_cluster.py", "slurm.py", "submitted.py"}


def test_each_promise_names_a_test():
    assert len(NAMED) >= 15


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_promise_names_a_test_that_there_is(file, name):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_listens_on_a_port_and_nothing_goes_through_a_shell(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            found = {
                name for name in names for each in SERVERS if f"{name}.".startswith(f"{each}.")
            }
            assert not found or path.name in NO_SERVERS
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in SHELLS
            assert called not in ("bind", "listen", "serve_forever")
            assert not [key for key in node.keywords if key.arg == "shell"]


def test_code_of_others_is_executed_in_one_place():
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("exec", "eval"):
                found.add(path.name)
    assert found == {"python_file.py"}


def git(folder, *words):
    who = (
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "protocol.file.allow=always",
    )
    command = ["git", *who, "-C", folder, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(folder):
    git(folder.parent, "init", "--quiet", folder.name)
    for name in ("a.one", "b.two"):
        (folder / name).write_text("content")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")


def set_traps(folder, program):
    """Name a program wherever git looks for one when it is asked what has changed."""
    for setting in ("core.fsmonitor", "filter.a=b.clean", "filter.c.process"):
        git(folder, "config", setting, str(program))
    git(folder, "config", "filter.c.required", "true")
    place = folder / git(folder, "rev-parse", "--git-dir")
    for name, text in (("info/attributes", "*.one filter=a=b\n*.two filter=c\n"), ("hooks/x", "")):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    for hook in ("post-index-change", "pre-commit"):
        shutil.copy(program, place / "hooks" / hook)
    for name in ("a.one", "b.two"):
        (folder / name).write_text("changed")  # as long as before, so that git must look inside


@pytest.mark.parametrize("where", [".", "part"])
def test_git_starts_no_program_that_the_folder_names(tmp_path, monkeypatch, where):
    """The folder in which somebody starts fairweather may come from anybody."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\ncat\n")
    program.chmod(0o755)
    for name in ("other", "folder"):
        (tmp_path / name).mkdir()
        make_repository(tmp_path / name)
    folder = tmp_path / "folder"
    git(folder, "submodule", "add", str(tmp_path / "other"), "part")
    set_traps(folder / where, program)
    monkeypatch.chdir(folder)
    # A user's own settings stay, such as those that a container needs to read the folder at all.
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", "*")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    found = provenance(torch.device("cpu")).git["working_folder"]
    assert found == {"revision": git(folder, "rev-parse", "HEAD"), "dirty": True}
    assert not (tmp_path / "started").exists()
    subprocess.run(["git", "-C", folder, "status"], check=False, capture_output=True)
    assert (tmp_path / "started").exists()  # the traps are such that git, asked plainly, starts one

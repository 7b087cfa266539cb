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


def test_git_starts_no_program_that_the_folder_names(tmp_path, monkeypatch):
    """The folder in which somebody starts fairweather may come from anybody."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "file").write_text("content")
    watcher = tmp_path / "watcher"
    watcher.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    watcher.chmod(0o755)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("add", "file"), (*who, "commit", "--quiet", "-m", "one")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    settings = ["git", "-C", tmp_path, "config", "core.fsmonitor", str(watcher)]
    subprocess.run(settings, check=True)
    for hook in ("post-index-change", "pre-commit"):
        shutil.copy(watcher, tmp_path / ".git" / "hooks" / hook)
    (tmp_path / "file").touch()  # so that git would like to write its index
    monkeypatch.chdir(tmp_path)
    found = provenance(torch.device("cpu")).git["working_folder"]
    assert found["dirty"]  # it was asked
    assert not (tmp_path / "started").exists()

"""What SECURITY.md promises: each promise names the test that holds it, and a few are held here."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fairweather.runs.provenance import current_provenance

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
NAMED = re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
# Modules that listen on a port, and ways to start a program through a shell.
SERVERS = {"socketserver", "http.server", "xmlrpc", "wsgiref", "asyncio", "socket", "aiohttp"}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
# These only ask for the name of this machine, by which people know who works in a folder, and
# ray_cluster also whether an address answers.
NO_SERVERS = {"claims.py", "ray_cluster.py", "slurm.py", "slurm_jobs.py"}


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
    assert found == {"user_modules.py"}


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


FSMONITOR, HOOK, ONE, TWO, FETCH = "watcher", "hook", "filter.one", "filter.two", "fetcher"


def set_traps(folder, programs):
    """Name a program wherever git looks for one when it is asked what has changed."""
    place = folder / git(folder, "rev-parse", "--git-dir")
    for name, text in (("info/attributes", "*.one filter=a=b\n*.two filter=c\n"), ("hooks/x", "")):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    shutil.copy(programs[HOOK], place / "hooks" / "post-index-change")
    for setting, program in (
        ("core.fsmonitor", FSMONITOR),
        ("filter.a=b.clean", ONE),
        ("filter.c.process", TWO),
    ):
        git(folder, "config", setting, str(programs[program]))
    git(folder, "config", "filter.c.required", "true")
    for name in ("a.one", "b.two"):
        (folder / name).write_text("changed")  # as long as before, so that git must look inside


def git_is_older_than(*version):
    told = subprocess.run(["git", "version"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", told)[:2])) < version


@pytest.fixture
def programs(tmp_path):
    """A program for each trap: it leaves a file of its name when it is started."""
    made = {name: tmp_path / name for name in (FSMONITOR, HOOK, ONE, TWO, FETCH)}
    (tmp_path / "started").mkdir()
    for name, program in made.items():
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started/{name}\n")
        program.chmod(0o755)
    return made


def started(folder):
    return {path.name for path in (folder / "started").iterdir()}


def revision_of(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return current_provenance(torch.device("cpu")).git["working_folder"]


@pytest.mark.skipif(git_is_older_than(2, 31), reason="this git takes no settings from outside")
@pytest.mark.parametrize("where", [".", "part"])
def test_git_starts_no_program_that_the_folder_names(tmp_path, monkeypatch, programs, where):
    """The folder in which somebody starts fairweather may come from anybody."""
    for name in ("other", "folder"):
        (tmp_path / name).mkdir()
        make_repository(tmp_path / name)
    folder = tmp_path / "folder"
    git(folder, "submodule", "add", str(tmp_path / "other"), "part")
    git(folder, "commit", "--quiet", "-m", "two")
    set_traps(folder / where, programs)
    # A user's own settings stay, such as those that a container needs to read the folder at all.
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", "*")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    found = revision_of(folder, monkeypatch)
    # What has changed in a submodule is not looked at.
    assert found == {"revision": git(folder, "rev-parse", "HEAD"), "dirty": where == "."}
    assert started(tmp_path) == set()
    # The traps are such that git starts these programs when it is asked plainly.
    plainly = ["git", "-C", folder, "status"]
    subprocess.run(plainly, check=False, capture_output=True)
    assert {FSMONITOR, ONE, TWO} <= started(tmp_path)
    git(folder / where, "config", "--remove-section", "filter.c")  # after which it goes on
    subprocess.run(plainly, check=False, capture_output=True)
    assert HOOK in started(tmp_path)


def test_git_fetches_nothing_that_a_repository_lacks(tmp_path, monkeypatch, programs):
    """A repository can name the program that fetches its missing objects."""
    folder = tmp_path / "folder"
    folder.mkdir()
    make_repository(folder)
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    (folder / ".git/objects" / tree[:2] / tree[2:]).unlink()
    for setting, value in (
        ("core.repositoryformatversion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", str(folder / ".git")),
        ("remote.origin.uploadpack", f"{programs[FETCH]}; false #"),
    ):
        git(folder, "config", setting, value)
    assert revision_of(folder, monkeypatch) is None
    assert started(tmp_path) == set()
    subprocess.run(["git", "-C", folder, "status"], check=False, capture_output=True)
    assert started(tmp_path) == {FETCH}

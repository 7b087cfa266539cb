"""Nothing in the current folder is imported, by no process: a foreign data set may lie there."""

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import fairweather
from fairweather.devices import count_cores
from fairweather.processes import safe_path
from tests.conftest import TINY_RESNET, write_pictures
from tests.requests.test_evaluate import write_model

SOURCES = sorted(Path(fairweather.__file__).parent.rglob("*.py"))
NAMES = {each for each in sys.stdlib_module_names if not each.startswith("_")}
PACKAGES = {
    "cloudpickle", "cv2", "fairweather", "loky", "numpy", "pandas", "PIL", "pyarrow", "pydantic",
    "scipy", "sitecustomize", "timm", "torch", "torchvision", "typer", "usercustomize", "yaml",
}  # fmt: skip
needs_two_cores = pytest.mark.skipif(count_cores() < 2, reason="two jobs need two cores")


@pytest.fixture
def trap(tmp_path):
    """A folder whose files have the names of modules and packages, and tell of being imported."""
    folder = tmp_path / "data set"
    folder.mkdir()
    for name in NAMES | PACKAGES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / f'ran {name}')!r}, 'w')\n")
    return folder


def run_in(folder, *words):
    """Run Python in a folder as from a script elsewhere; gives what it says and what ran."""
    env = {name: each for name, each in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done, sorted(path.name for path in folder.parent.glob("ran *"))


def script(folder, text):
    (folder.parent / "elsewhere").mkdir()
    path = folder.parent / "elsewhere" / "script.py"
    path.write_text(text)
    return path


def test_processes_that_decode_and_draw_import_nothing_from_the_current_folder(trap):
    text = "from fairweather.processes import submit\nprint(submit(1, {}, divmod, 7, 2).result())\n"
    done, ran = run_in(trap, script(trap, text))
    assert (done.stdout, ran) == ("(3, 1)\n", [])


def test_modules_of_the_package_import_nothing_from_the_current_folder(trap):
    text = (
        "from fairweather.processes import start_module\n"
        "print(start_module('fairweather.errors').wait())\n"
    )
    done, ran = run_in(trap, script(trap, text))
    assert (done.stdout, ran) == ("0\n", [])


def test_the_command_line_imports_nothing_from_the_current_folder(trap):
    (trap.parent / "probe.py").write_text("import sys\nprint(*sys.modules)\n")
    for name in run_in(trap.parent, "-m", "probe")[0].stdout.split():
        (trap / f"{name}.py").unlink(missing_ok=True)  # what Python itself imports for `-m`
    (trap / "fairweather.py").unlink()  # what `-m` would then mean
    assert (trap / "typing.py").exists()
    assert (trap / "json.py").exists()
    done, ran = run_in(trap, "-m", "fairweather", "--version")
    assert (done.returncode, done.stderr, ran) == (0, "", [])


def command(trap, *words):
    """Run the command `fairweather` in the folder of the data set."""
    text = "from fairweather.__main__ import main\nmain()\n"
    return run_in(trap, script(trap, text), *words, "--out", trap.parent / "run", "--device", "cpu")


# Each starts a dozen Pythons, one after another, which takes half a minute on a busy machine.
@pytest.mark.nightly
@needs_two_cores
def test_an_evaluation_in_several_processes_imports_nothing_from_the_current_folder(trap):
    write_pictures(trap, test=4)
    words = ("--jobs", 2, "--threads", 1, "--shift-processes", 2)
    words += ("--shift", "gamma,exponent=2", "--bootstrap", 100)
    done, ran = command(trap, "evaluate", write_model(trap.parent), "folder:.", *words)
    assert (done.returncode, ran) == (0, []), done.stderr
    assert (trap.parent / "run" / "report.html").exists()


@pytest.mark.nightly
@needs_two_cores
def test_a_training_in_several_processes_imports_nothing_from_the_current_folder(trap):
    write_pictures(trap, train=8, test=4)
    recipe = {"epochs": 1, "batch_size": 8}
    study = {
        "name": "small",
        "data": {"source": "folder:."},
        "seeds": 2,
        "threads": 1,
        "bootstrap": 100,
        "shifts": [{"gamma": {"exponent": [2]}}],
        "models": {"basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": recipe}},
    }
    (trap.parent / "study.yaml").write_text(json.dumps(study))
    done, ran = command(trap, "run", trap.parent / "study.yaml", "--jobs", 2)
    assert (done.returncode, ran) == (0, []), done.stderr
    assert (trap.parent / "run" / "report.html").exists()


def imported(path):
    """The packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_processes_are_started_in_these_ways_only():
    """The two above; git and SLURM's programs, which are no Pythons; submitit and Ray."""
    found = defaultdict(set)
    for path in SOURCES:
        for name in imported(path):
            found[name].add(path.name)
    assert found["subprocess"] == {
        "provenance.py",
        "processes.py",
        "rank_processes.py",
        "slurm_jobs.py",
    }
    assert found["loky"] == {
        "processes.py",
        "cache.py",
        "devices.py",
    }  # these count
    assert found["submitit"] == {"slurm.py"}
    assert found["ray"] == {"ray_cluster.py"}
    assert not {"multiprocessing", "joblib"} & found.keys()


def test_the_environment_is_as_before(monkeypatch):
    for before in (None, "", "1"):
        monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
        if before is not None:
            monkeypatch.setenv("PYTHONSAFEPATH", before)
        with safe_path():
            assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ.get("PYTHONSAFEPATH") == before

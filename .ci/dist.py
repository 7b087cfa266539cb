"""Build the wheel and the sdist, and try them as a user does: in new environments, outside of here.

    python .ci/dist.py                        every environment whose Python is here
    python .ci/dist.py 3.11:lowest 3.13:newest
    python .ci/dist.py --no-build 3.12:newest try what is in dist/ already

It needs uv and twine beside its own Python, as `make dist` installs them.
"""

from __future__ import annotations

import argparse
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
ENVIRONMENTS = [
    f"{python}:{versions}"
    for python in ("3.11", "3.12", "3.13")
    for versions in ("lowest", "newest")
]
QUIETLY = ("--quiet", "--system-certs")
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
EXTRAS = ("demo", "dicom", "hf", "onnx", "ray", "slurm", "ssl", "track")
TEST_TOOLS = ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "scikit-learn")
# Of the Makefile: pictures and second opinions; what these packages pin is not installed.
REFERENCES = os.environ.get("REFERENCES", "").split()
# What shows, in minutes, that the installed package works.
FIRST_MINUTE = "fairweather demo"
# Slow tests, those of MLflow's server, which is of one version with its client, and those of the
# files of the repository rather than of the package.
LEFT_OUT = re.compile(
    "test_(attack.*|autom.*|bad_.*|browser|claims|grouping|compare_runs|coverage|crashes"
    "|damaged_files|evaluate|fuzzed_files|good_models|guard|hostile_.*|intervals|jobs|page|ray"
    "|report|resumption|runs_page|seed_intervals|selfsupervised_processes|sharing|signals|slurm"
    "|studies|study|tracking|workers|architecture|docs|readme|release|security)[.]py"
)


def main() -> None:
    """Build, check, and try in every environment that was asked for and can be had."""
    parser = argparse.ArgumentParser(description="Build and try the distribution.")
    parser.add_argument("environments", nargs="*", help=f"such as {ENVIRONMENTS[0]}")
    parser.add_argument("--no-build", action="store_true", help="try what is in dist/ already")
    parser.add_argument("--no-try", action="store_true", help="build and check only")
    parser.add_argument("--version", action="version", version=read_version())
    asked = parser.parse_args()
    if not asked.no_build:
        shutil.rmtree(DIST, ignore_errors=True)
        run(tool("uv"), "build", "--quiet", "--system-certs", "--out-dir", DIST, timeout=600)
    [wheel], [sdist] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    run(tool("twine"), "check", "--strict", wheel, sdist)
    if asked.no_try:
        return
    wanted = asked.environments or ENVIRONMENTS
    tried = [one for one in wanted if try_out(wheel, sdist, *one.split(":"))]
    print(f"tried: {', '.join(tried) or 'nothing'}, of {', '.join(wanted)}")
    if not tried or (asked.environments and tried != wanted):
        sys.exit("not every environment that was asked for could be tried")


def tool(name: str) -> Path:
    """A program that is installed beside this Python."""
    return Path(sys.executable).parent / name


def run(*command: object, **options: object) -> None:
    """Run a program, and end where it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


# ---------------------------------------------------------------- what was built


def list_tracked(folder: str) -> set[str]:
    """The files of a folder that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", folder], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def read_version() -> str:
    """The version as the package has it."""
    text = (ROOT / "src/fairweather/__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)[0]


def check_wheel(wheel: Path) -> None:
    """The wheel has every file of the package, its licence, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"fairweather-{read_version()}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    package = {name.removeprefix("src/") for name in list_tracked("src/fairweather")}
    fail_unless_same({name for name in names if not name.startswith(f"{info}/")}, package, wheel)
    assert f"{info}/licenses/LICENSE" in names, "the wheel has no licence"
    assert metadata["Version"] == read_version()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "fairweather" in metadata.get_payload(), "the metadata have no README"


def check_sdist(sdist: Path) -> None:
    """The sdist has the package, its tests and what builds both, and no results or shared data."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()} - {"", "PKG-INFO"}
    tracked = {name for name in list_tracked(".") if not name.startswith("results/")}
    fail_unless_same(names, tracked | {".gitignore"}, sdist)


def fail_unless_same(names: set[str], expected: set[str], what: Path) -> None:
    """End with the names that are missing or too much."""
    missing, extra = sorted(expected - names), sorted(names - expected)
    if missing or extra:
        sys.exit(f"{what.name}: missing {missing[:9]}, not expected {extra[:9]}")


# ---------------------------------------------------------------- what a user does with it


def try_out(wheel: Path, sdist: Path, python: str, versions: str) -> bool:
    """Install the wheel with the oldest or newest versions, and use it; False: no such Python."""
    found = find_python(python)
    if found is None:
        print(f"left out: there is no Python {python} here")
        return False
    with tempfile.TemporaryDirectory(prefix="fairweather-dist-") as name:
        place = Path(name)
        run(
            tool("uv"),
            "venv",
            "--quiet",
            "--seed",
            "--system-certs",
            "--python",
            found,
            place / "env",
        )
        own = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        own |= {"PATH": f"{place / 'env/bin'}:{own['PATH']}", "OMP_NUM_THREADS": "1"}
        own |= {"VIRTUAL_ENV": str(place / "env"), "FAIRWEATHER_CACHE": str(place / "cache")}
        install(place, wheel, ["demo"], versions)
        (place / "empty").mkdir()
        for script in (f"set -x\n{read_first_block(wheel)}", f"set -x\n{FIRST_MINUTE}"):
            run("bash", "-euo", "pipefail", "-c", script, cwd=place / "empty", env=own)
        install(place, wheel, EXTRAS, versions)
        python_of = ("--python", place / "env/bin/python")
        run(tool("uv"), "pip", "install", *QUIETLY, *python_of, *TEST_TOOLS)
        if REFERENCES:
            run(tool("uv"), "pip", "install", *QUIETLY, *python_of, "--no-deps", *REFERENCES)
        run_tests(place, sdist, own)
    return True


def find_python(version: str) -> Path | None:
    """An interpreter on the PATH, or of pyenv, whose stand-ins on the PATH may start none."""
    pyenv = Path.home() / ".pyenv/versions"
    folders = [*os.environ["PATH"].split(os.pathsep), *sorted(pyenv.glob(f"{version}.*/bin"))]
    for python in (Path(folder, f"python{version}") for folder in folders):
        if python.exists():
            asked = [python, "-c", "import sys; print(sys.executable)"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return Path(done.stdout.strip())
    return None


def install(place: Path, wheel: Path, extras: Sequence[str], versions: str) -> None:
    """Install the wheel; what pyproject.toml names is of the oldest or newest versions.

    Of wheels alone: the oldest versions of some packages no longer build.
    """
    python = place / "env/bin/python"
    how = (*QUIETLY, "--only-binary", ":all:", "--python", python)
    how += ("--resolution", RESOLUTIONS[versions], "--requirements", ROOT / "pyproject.toml")
    named = [part for extra in extras for part in ("--extra", extra)]
    run(tool("uv"), "pip", "install", *how, *named, f"{wheel}[{','.join(extras)}]")
    if versions == "lowest":
        code = "from importlib.metadata import version; print(version('torch'), version('typer'))"
        shown = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        oldest = [re.findall(rf'"{name}>=([\d.]+)"', text)[0] for name in ("torch", "typer")]
        found = shown.stdout.split()
        assert all(map(str.startswith, found, oldest)), f"found {found} in place of {oldest}"


def read_first_block(wheel: Path) -> str:
    """The first shell commands of the README, which install the wheel in place of a release.

    They stand in an empty folder, and nothing else may be needed.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)[0]
    named = r"(?<=install )(['\"]?)(?:fairweather|\.)(\[[\w,-]+\])?\1(?=\s|$)"
    text, installs = re.subn(named, lambda found: f"'{wheel}{found[2] or ''}'", block)
    assert installs == 1, f"the README's first commands install fairweather {installs} times"
    # The rule is not kept, and the command says so by its status.
    return re.sub(r"^(fairweather check .*)$", r"\1 || test $? = 1", text, flags=re.MULTILINE)


def run_tests(place: Path, sdist: Path, own: Mapping[str, str]) -> None:
    """Run the faster half of the tests from the sdist, which lies where no source of ours is."""
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    [tests] = (place / "unpacked").iterdir()
    shutil.rmtree(tests / "src")
    files = [path for path in (tests / "tests").rglob("test_*.py") if not LEFT_OUT.match(path.name)]
    where = "import fairweather, sys; assert fairweather.__file__.startswith(sys.prefix)"
    run(place / "env/bin/python", "-c", where, cwd=tests, env=own)
    # Warnings of one version about another are none of ours.
    how = (
        "--numprocesses=auto",
        "--dist=loadscope",
        "--max-worker-restart=0",
        "-q",
        "-W",
        "default",
    )
    run(place / "env/bin/python", "-m", "pytest", *how, *sorted(files), cwd=tests, env=own)


if __name__ == "__main__":
    main()

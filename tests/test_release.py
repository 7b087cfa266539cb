"""What a release is made of: one version, a workflow that publishes what was tried, old formats."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml

import fairweather as fw
from fairweather.deploy import promise
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.share.export import ExportRecord
from fairweather.types import record
from fairweather.types.record import JoinedRecord

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RELEASE = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
OLD_RUN = Path(__file__).parent / "runs/run_of_0.1.0"


def load_script(name):
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dist = load_script(".ci/dist.py")

# ---------------------------------------------------------------- one version


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    assert dist.read_version() == fw.__version__
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[0].split()[0] == fw.__version__
    own = re.compile(rf"(?<![\d.]){re.escape(fw.__version__)}(?![\d.])")
    for path in (ROOT / "src").rglob("*.py"):
        if path.name != "__init__.py":
            assert not own.search(path.read_text()), f"{path} has the version too"


# ---------------------------------------------------------------- the workflow


def test_every_action_is_pinned_to_a_commit():
    uses = [
        step["uses"] for job in RELEASE["jobs"].values() for step in job["steps"] if "uses" in step
    ]
    assert len(uses) == 9
    for used in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used)


def test_only_the_job_that_publishes_may_and_it_builds_nothing():
    jobs = RELEASE["jobs"]
    assert RELEASE["permissions"] == {}
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]
    publish = jobs["publish"]
    assert publish["environment"] == "pypi"
    assert set(publish["needs"]) == {"build", "try"}
    assert not [step for step in publish["steps"] if "run" in step]
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert "secrets." not in text
    assert "password" not in text.partition("\nname:")[2]


@pytest.mark.parametrize(
    ("tag", "right"), [("v{}", True), ("{}", False), ("v{}.1", False), ("", False)]
)
def test_a_tag_must_be_the_version(tag, right):
    [step] = [step for step in RELEASE["jobs"]["build"]["steps"] if step.get("name")]
    env = {**os.environ, "TAG": tag.format(fw.__version__)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=ROOT, env=env)
    assert (done.returncode == 0) == right


def test_the_workflow_tries_what_make_dist_tries():
    matrix = RELEASE["jobs"]["try"]["strategy"]["matrix"]
    every = [
        f"{python}:{versions}" for python in matrix["python"] for versions in matrix["versions"]
    ]
    assert every == dist.ENVIRONMENTS
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert pythons == matrix["python"]


# ---------------------------------------------------------------- make dist


def test_the_first_commands_of_the_readme_install_the_wheel():
    script = dist.read_first_block(Path("/some where/fairweather.whl"))
    assert len(re.findall(r"install '/some where/fairweather.whl(\[\w+\])?'", script)) == 1
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_a_file_too_much_or_too_few_is_named():
    dist.fail_unless_same({"a"}, {"a"}, Path("a.whl"))
    with pytest.raises(SystemExit, match=r"a.whl: missing \['b'\], not expected \['tests/c'\]"):
        dist.fail_unless_same({"a", "tests/c"}, {"a", "b"}, Path("a.whl"))


def test_a_python_that_is_not_here_is_left_out(monkeypatch, tmp_path, capsys):
    for name, status in (("stand-in", 127), ("real", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python3.99").write_text(f"#!/bin/sh\necho $0\nexit {status}\n")
        (tmp_path / name / "python3.99").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/stand-in")
    assert not dist.try_out(Path("a.whl"), Path("a.tar.gz"), "3.99", "newest")
    assert "no Python 3.99" in capsys.readouterr().out
    monkeypatch.setenv("PATH", f"{tmp_path}/stand-in:{tmp_path}/real")
    assert dist.find_python("3.99") == tmp_path / "real/python3.99"


def test_released_links_lead_to_the_files_of_the_tag(monkeypatch):
    """With the hook's own base class, since only builds install hatchling."""
    base = types.ModuleType("hatchling.metadata.plugin.interface")
    base.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, base.__name__, base)
    hook = load_script("hatch_build.py")
    text = (ROOT / "README.md").read_text()
    pointed = hook.point_links(text, "https://host/it", "v9")
    links = re.findall(r"\]\(([^)#\s]+)\)", pointed)
    assert len(links) > 10
    for link in links:
        assert re.match("https?://", link)
        if name := re.fullmatch("https://host/it/(?:raw|blob)/v9/(.+)", link):
            assert (ROOT / name[1]).exists()


# ---------------------------------------------------------------- old formats


def test_the_policy_names_the_versions_of_the_formats():
    rows = re.findall(
        r"^\| (`.+?) \| (\d+) \|$", (ROOT / "docs/policy.md").read_text(), re.MULTILINE
    )
    shown = {re.findall("`(.+?)`", what)[0]: int(version) for what, version in rows}
    assert shown == {
        "record.json": record.VERSION,
        "joined.json": JoinedRecord.model_fields["version"].default,
        "guard.json": promise.VERSION,
        "manifest.json": ExportRecord.model_fields["version"].default,
    }


def test_a_run_of_an_earlier_release_is_read(tmp_path):
    """Release 0.1.0 wrote this run; whoever changes the format keeps it readable."""
    path = Path(shutil.copytree(OLD_RUN, tmp_path / "runs/old"))
    before = (path / "scores.csv").read_bytes()
    run = fw.Run(path)
    assert run.record.provenance.versions["fairweather"] == "0.1.0"
    clean = run.scores.query("shift == 'clean' and metric == 'accuracy' and model == 'basic'")
    value = clean["value"].item()  # it has one seed
    assert "basic" in run.overview()
    rules = read_rules([f"basic: accuracy[clean] {sign} {value}" for sign in (">=", "<")])
    assert [verdict.passed for verdict in judge(run.folder, rules, on="value")] == [True, False]
    assert f"{100 * value:.1f}" in fw.view(tmp_path / "runs").read_text()
    assert (path / "scores.csv").read_bytes() == before


def test_a_newer_run_is_refused_in_one_sentence(tmp_path):
    path = Path(shutil.copytree(OLD_RUN, tmp_path / "new"))
    facts = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(facts | {"version": record.VERSION + 1}))
    with pytest.raises(fw.InputError, match="written by a newer fairweather"):
        _ = fw.Run(path).record

"""Gates in pipelines: the GitHub action and the pytest fixture judge real runs."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fairweather
from fairweather.errors import InputError
from fairweather.judge import pytest_plugin
from tests.helpers.run_folders import run_record, write_run

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
KEPT, BROKEN = "accuracy[clean] >= 0.8", "accuracy[clean] >= 0.95"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one model that is right on 90 % of the clean images."""
    path = tmp_path_factory.mktemp("runs") / "with a blank"
    row = ("basic", "0", "clean", "none", "accuracy", 0.9, 0.86, 0.94, 400)
    write_run(path, run_record({"basic": "Basic"}), [row])
    return path


# ---- the action


def check_step(run, rules, tmp_path, **inputs):
    """Run the script of the action's second step, with its inputs filled in as GitHub does."""
    step = ACTION["runs"]["steps"][1]
    given = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
    given |= {"run": str(run), "rules": rules, **inputs}
    filled = {
        key: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], value)
        for key, value in step["env"].items()
    }
    environment = {
        **os.environ,
        **filled,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)


def test_the_action_lets_a_job_pass_whose_run_keeps_the_rules(run, tmp_path):
    done = check_step(run, f"\n  {KEPT}  \n\n  basic: {KEPT}\n", tmp_path, junit="check.xml")
    assert done.returncode == 0, done.stderr
    assert "0 of 2 checks failed" in done.stdout
    assert "0 of 2 checks failed" in (tmp_path / "summary.md").read_text()
    assert 'tests="2" failures="0"' in (tmp_path / "check.xml").read_text()


def test_the_action_fails_a_job_whose_run_breaks_a_rule(run, tmp_path):
    done = check_step(run, f"{KEPT}\n{BROKEN}", tmp_path)
    assert done.returncode == 1
    assert "1 of 2 checks failed" in done.stdout
    assert f"failed  basic: {BROKEN}" in (tmp_path / "summary.md").read_text()


def test_the_action_takes_a_file_of_rules_and_judges_the_value_if_asked(run, tmp_path):
    (tmp_path / "rules.yaml").write_text("rules:\n  - accuracy[clean] >= 0.89\n")
    assert check_step(run, "rules.yaml", tmp_path).returncode == 1
    judged = check_step(run, "rules.yaml", tmp_path, **{"judge-on": "value"})
    assert judged.returncode == 0


def test_the_action_never_runs_what_an_input_says(run, tmp_path):
    done = check_step(run, f'{KEPT}"; touch planted; $(touch planted)', tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "planted").exists()


def test_every_input_of_the_action_is_used_and_no_script_contains_one():
    text = (ROOT / "action.yml").read_text()
    for name in ACTION["inputs"]:
        assert re.search(rf"inputs\.{name}\b", text)
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]


# ---- the fixture

TEST_FILE = """
def test_the_{name}(fairweather_check):
    verdicts = fairweather_check({run!r}, {rules})
    assert [verdict.passed for verdict in verdicts] == [True]
"""


@pytest.fixture
def installed(tmp_path):
    """A folder that makes pytest find the plugin as an installed fairweather does."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    facts = tmp_path / "installed" / "fairweather_plugin-0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: fairweather-plugin\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in points["pytest11"].items()]
    (facts / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return facts.parent


def run_pytest(run, rules, installed, tmp_path):
    """Run a test for each name in its rules."""
    for name, rule in rules.items():
        text = TEST_FILE.format(name=name, run=str(run), rules=repr(rule))
        (tmp_path / f"test_{name}.py").write_text(text)
    source = str(Path(fairweather.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": f"{source}:{installed}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


def test_the_fixture_passes_a_run_that_keeps_its_rules_and_fails_another_with_the_table(
    run, installed, tmp_path
):
    done = run_pytest(run, {"good": KEPT, "bad": BROKEN}, installed, tmp_path)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "FAILED test_bad.py::test_the_bad" in done.stdout
    assert re.search(rf"failed  basic: {re.escape(BROKEN)} +90\.00%  86\.00%", done.stdout)
    assert "1 of 1 checks failed" in done.stdout
    assert "pytest_plugin.py" not in done.stdout  # no traceback through our code


def test_the_fixture_takes_paths_and_judges_the_value_if_asked(run, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("- accuracy[clean] >= 0.89\n")
    (verdict,) = pytest_plugin.check_run(run, rules, on="value")
    assert verdict.passed
    with pytest.raises(pytest.fail.Exception, match=r"accuracy\[clean\] >= 0.89"):
        pytest_plugin.check_run(run, rules)


def test_a_check_of_nothing_never_passes(run):
    with pytest.raises(InputError, match="rule"):
        pytest_plugin.check_run(run)


def test_pytest_loads_no_part_of_the_package_for_projects_that_use_none_of_it():
    code = (
        "import sys, fairweather.judge.pytest_plugin\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_entry_point_names_a_module_that_is_there():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {importlib.import_module(name) for name in points["pytest11"].values()} == {
        pytest_plugin
    }


# ---- the files for people and for their tools


def test_the_citation_has_what_the_format_asks_for_and_the_version_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert all("name" in author for author in cited["authors"])
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["version"] == fairweather.__version__
    assert cited["license"] == built["license"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_the_issue_forms_are_what_github_takes(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert set(form) == {"blank_issues_enabled"}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]

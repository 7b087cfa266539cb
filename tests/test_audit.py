"""Whether what is installed has vulnerabilities that are known: pip-audit asks PyPI.

It pins what is installed here, without the part of a version that names a build (`+cpu`), which
PyPI does not know.
"""

import importlib.metadata
import json
import re
import subprocess
import sys

import pytest

# What a finding means for us where it cannot be mended: (package, identifier) -> reason.
EXPLAINED = {}


def installed():
    found = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
    del found["fairweather"]
    return found


def audit(pins, folder, *options):
    """The vulnerabilities of pinned packages, and the packages that the service does not know.

    Skips where the service cannot be reached. A mirror of PyPI serves packages and not what is
    known of them, and then knows none: pip-audit calls that a success.
    """
    file = folder / "pins.txt"
    file.write_text("".join(f"{name}=={version.split('+')[0]}\n" for name, version in pins.items()))
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    command += ["--no-deps", "--disable-pip", f"--requirement={file}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    if not done.stdout.strip():
        assert re.search("connect|timed out", told, re.IGNORECASE), done.stderr
        pytest.skip(f"NOT AUDITED: the service of vulnerabilities cannot be reached: {told}")
    packages = json.loads(done.stdout)["dependencies"]
    unknown = {each["name"]: each["skip_reason"] for each in packages if "skip_reason" in each}
    assert len(packages) == len(pins)
    if len(unknown) == len(packages):
        reason = next(iter(unknown.values()))
        pytest.skip(f"NOT AUDITED: the service does not answer for any package: {reason}")
    return judged(packages), unknown


def judged(packages):
    """The vulnerabilities in an answer of pip-audit, by package and identifier."""
    return {
        (each["name"], vulnerability["id"]): f"{each['name']} {each['version']}, mended in "
        f"{vulnerability['fix_versions']}: {vulnerability['description'][:200]}"
        for each in packages
        for vulnerability in each.get("vulns", ())
    }


@pytest.mark.nightly
def test_no_dependency_has_a_vulnerability_that_is_not_explained(tmp_path):
    found, unknown = audit(installed(), tmp_path)
    assert {which: told for which, told in found.items() if which not in EXPLAINED} == {}
    assert EXPLAINED.keys() <= found.keys(), "mended in the meantime"
    assert not unknown


def test_a_vulnerability_in_an_answer_is_found():
    """The answer is written as pip-audit 2 writes it."""
    hole = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": [], "description": "It leaks."}
    packages = [
        {"name": "leaky", "version": "1.0", "vulns": [hole]},
        {"name": "other", "version": "2.0", "vulns": [hole]},
        {"name": "sound", "version": "3.0", "vulns": []},
        {"name": "unknown", "skip_reason": "not on PyPI"},
    ]
    found = judged(packages)
    assert found.keys() == {("leaky", "PYSEC-1"), ("other", "PYSEC-1")}
    assert found["leaky", "PYSEC-1"] == "leaky 1.0, mended in ['1.1']: It leaks."

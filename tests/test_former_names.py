"""Names of options, arguments, keys and classes that changed are answered with the new ones."""

import pytest

import fairweather as fw
from fairweather import metrics
from fairweather.errors import RENAMED, InputError
from fairweather.requests.study.schema import check_study
from tests.helpers.commands import fairweather

STUDY = {
    "name": "clinic",
    "data": {"source": "mnist5k"},
    "shifts": [{"gamma": {"exponent": [2.0]}}],
    "models": {"small": {"title": "Small", "backbone": "timm:test_resnet"}},
}


@pytest.mark.parametrize("old", [name for name in RENAMED if name.startswith("--")])
def test_an_old_option_of_a_command_is_answered_with_the_new_one(old):
    command = {"--as": ("compare", "a", "b"), "--as-seeds": ("report", "a")}.get(
        old, ("evaluate", "onnx:a.onnx", "folder:b")
    )
    ended = fairweather(*command, old)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"{old} is now called {RENAMED[old]}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("old", ["cluster", "allow_shared_clusters"])
def test_an_old_argument_of_python_is_answered_with_the_new_one(old):
    with pytest.raises(InputError, match=f"'{old}' is now called '{RENAMED[old]}'"):
        fw.evaluate("onnx:a.onnx", "folder:b", **{old: "patient"})


def test_an_old_key_of_a_study_is_answered_with_the_new_one():
    data = {**STUDY["data"], "groups": {"metadata": "a.csv", "cluster": "patient"}}
    with pytest.raises(InputError, match="'cluster' is now called 'group'"):
        check_study({**STUDY, "data": data})


def test_an_old_value_is_answered_with_the_new_one(tmp_path):
    said = "'clusters' is now called 'groups'"
    with pytest.raises(InputError, match=said):
        fw.load_guard(tmp_path, risk=0.1, weigh="clusters")
    with pytest.raises(InputError, match=said):
        check_study({**STUDY, "variants": [{"conformal": {"weigh": "clusters"}}]})


@pytest.mark.parametrize("old", ["Clusters", "Fitted", "Guaranteed"])
def test_an_old_class_is_answered_with_the_new_one(old):
    with pytest.raises(AttributeError, match=f"{old!r}; it is now called {RENAMED[old]}"):
        getattr(metrics, old)
    assert hasattr(metrics, RENAMED[old])


def test_a_name_that_never_was_is_answered_as_python_does():
    with pytest.raises(AttributeError, match=r"no attribute 'Nothing'$"):
        metrics.Nothing  # noqa: B018

"""Runs with different seeds are joined into one, as if one run had had all seeds."""

import shutil
from pathlib import Path

import pytest

import fairweather as fw
from fairweather.runs import RunFolder
from fairweather.study import load_study, run

from .conftest import TINY_RESNET

STUDY = """
name: tiny
data: {{source: "folder:{folder}", size: 16}}
threads: 1
shifts:
  - brightness_factor: [0.3]
  - imagenet_c/gaussian_noise: [1]
  - fgsm: [8/255]
variants: [temperature, batchnorm]
bootstrap: 100
pretraining:
  views: {{recipe: {{method: barlow_twins, epochs: 1, batch_size: 16}}}}
defaults:
  backbone: {backbone}
  recipe: {{epochs: 2, batch_size: 16, learning_rate: 1e-2}}
models:
  started:
    title: Started
    weights: pretraining:views
    recipe: {{probe_epochs: 1}}
    interpolations: [0.5]
  plain: {{title: Plain}}
"""
ONE = ["seeds=[0]"]
OTHER = ["seeds=[1]"]


@pytest.fixture(scope="module")
def make(colour_folder, tmp_path_factory):
    """Runs of the study, changed: made once each."""
    root = tmp_path_factory.mktemp("runs")
    file = root / "tiny.yaml"
    file.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    made = {}

    def of(name, overrides, only=()):
        if name not in made:
            study = load_study(file, overrides, only)
            made[name] = run(study, out=root / name, device="cpu").path
        return made[name]

    return of


@pytest.fixture(scope="module")
def whole(make):
    return make("whole", ["seeds=[0, 1]"])


@pytest.fixture(scope="module")
def halves(make):
    return [make("zero", ONE), make("one", OTHER)]


def without_weights(path, out):
    """A run as it is put aside: the small files alone."""
    ignored = shutil.ignore_patterns("*.safetensors", "resume", "tables", "figures", ".lock")
    return Path(shutil.copytree(path, out, ignore=ignored))


def small(run):
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for folder in ("predictions", "variants", "samples")
        for path in (run / folder).rglob("*")
        if path.is_file()
    }


def test_two_runs_of_a_seed_each_are_one_run_of_two_seeds(whole, halves, tmp_path):
    folders = [without_weights(path, tmp_path / path.name) for path in halves]
    joined = fw.join_seeds(folders[::-1], out=tmp_path / "joined").path
    for name in ("scores.csv", "warnings.json", "absent_metrics.json", "summary.csv"):
        assert (joined / name).read_bytes() == (whole / name).read_bytes(), name
    assert small(joined) == small(whole)
    assert not list(joined.rglob("*.safetensors"))
    one, two = RunFolder(joined), RunFolder(whole)
    assert one.step("scores").fingerprint == two.step("scores").fingerprint
    changed = {"provenance"}
    assert one.record.model_dump(exclude=changed) == two.record.model_dump(exclude=changed)
    assert load_study(joined / "study.yaml") == load_study(whole / "study.yaml")

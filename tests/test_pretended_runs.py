"""Whole runs on a device that only pretends to be one: the same bytes as on the CPU."""

import numpy as np
import pytest

import fairweather as fw
from fairweather.requests.study.schema import check_study
from tests.conftest import TINY_RESNET
from tests.helpers.finding_models import Stripes, draw_dataset
from tests.helpers.memory_habits import Plain
from tests.helpers.pretended_device import pretended
from tests.helpers.same_bytes import same as same_bytes

pytestmark = pytest.mark.usefixtures("undrawn")

DEVICES = ("mps", "cuda", "xpu")


def evaluate(on, out, images):
    """Networks of two kinds of numbers, with all that a run makes of them."""
    half = len(images) // 2
    others = fw.Dataset("toys", None, images[:half], images[half:], (0.5,) * 3, (0.2,) * 3)
    return fw.evaluate(
        {"whole": Plain(), "short": Plain().bfloat16()},
        others,
        ["gamma: [2]", "fgsm: [0.02]", "imagenet_c/gaussian_noise: [3]"],
        out=out,
        device=on,
        variants=["temperature", "conformal", "tent: {cells: continual, batch_size: 20}"],
        fit_on=["brightness_factor: [0.8]"],
        batch_size=20,
        bootstrap=100,
        threads=1,
        progress=False,
    )


def test_an_evaluation_has_the_bytes_of_the_cpu(toy_images, tmp_path):
    expected = evaluate("cpu", tmp_path / "cpu", toy_images)
    for kind in DEVICES:
        with pretended(kind):
            found = evaluate(kind, tmp_path / kind, toy_images)
        same_bytes(expected.path, found.path)


def test_findings_have_the_bytes_of_the_cpu(tmp_path):
    def judge(on):
        return fw.evaluate(
            Stripes(), draw_dataset(), ["gamma: [2]", "fgsm: [0.02]"], out=tmp_path / on, device=on,
            variants=["temperature"], bootstrap=100, threads=1, progress=False,
        )  # fmt: skip

    expected = judge("cpu")
    for kind in DEVICES:
        with pretended(kind):
            same_bytes(expected.path, judge(kind).path)


STUDY = {
    "name": "pretended",
    "shifts": [{"brightness_factor": [0.6]}, {"gamma": [1.5, 2]}, {"fgsm": [0.02]}],
    "variants": ["temperature", {"eata": {"batch_size": 20}}],
    "pretraining": {
        "encoder": {
            "title": "Encoder", "backbone": TINY_RESNET,
            "recipe": {"method": "barlow_twins", "epochs": 1, "projector": [16, 16]},
        }
    },
    "seeds": [0, 1],
    "ensemble": True,
    "threads": 1,
    "bootstrap": 100,
    "models": {
        "own": {
            "title": "Own", "weights": "pretraining:encoder", "backbone": TINY_RESNET,
            "recipe": {"epochs": 1, "mixup": 0.2, "random_erasing": {}},
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def study(colour_folder):
    return check_study(STUDY | {"data": {"source": f"folder:{colour_folder}", "size": 8}})


@pytest.fixture(scope="module")
def trained(study, tmp_path_factory):
    return fw.run(study, out=tmp_path_factory.mktemp("cpu") / "run", device="cpu", progress=False)


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_a_study_has_the_bytes_of_the_cpu(kind, study, trained, tmp_path):
    with pretended(kind):
        found = fw.run(study, out=tmp_path / "run", device=kind, progress=False)
    same_bytes(trained.path, found.path)


@pytest.mark.parametrize("kind", DEVICES)
def test_guards_and_estimates_of_a_run_are_those_of_the_cpu(kind, trained, colour_folder):
    images = fw.load_data(f"folder:{colour_folder}", size=8, progress=False).test.images

    def ask(on):
        guard = fw.load_guard(trained.path, risk=0.5, device=on)
        told = fw.estimate(trained.path, f"folder:{colour_folder}", device=on, progress=False)
        return guard(images), guard.check(images), told

    expected = ask("cpu")
    with pretended(kind):
        found = ask(kind)
    assert str(found[1:]) == str(expected[1:])
    for name, column in vars(expected[0]).items():
        assert np.array_equal(vars(found[0])[name], column), name

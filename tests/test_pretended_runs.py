"""Whole runs on a device that only pretends to be one: the same bytes as on the CPU."""

import numpy as np
import pytest

import fairweather as fw
from fairweather import small_maps
from fairweather.deploy.making import make_guard, save_guard
from fairweather.deploy.promise import Promise
from fairweather.requests.study.schema import check_study
from fairweather.steps.run_model import open_run_model
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.finding_models import Stripes, draw_dataset
from tests.helpers.memory_habits import Plain
from tests.helpers.pretended_device import pretended
from tests.helpers.same_bytes import same as same_bytes

pytestmark = pytest.mark.usefixtures("undrawn")

DEVICES = ("mps", "cuda", "xpu")
PROMISE = Promise(risk=0.9, certainty=0.5, coverage=0.5)


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


# Self-supervised pre-training, training, attacks, a natural shift and what is fitted.
RECIPE = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-2}
VIEWS = RECIPE | {"method": "barlow_twins", "projector": [8, 8]}
STUDY = {
    "name": "small",
    "seeds": 1,
    "threads": 1,
    "bootstrap": 100,
    "precision": "fp32",
    "shifts": [{"brightness_factor": [0.5]}, {"fgsm": [0.02]}],
    "variants": ["temperature"],
    "pretraining": {"views": {"title": "Views", "backbone": TINY_RESNET, "recipe": VIEWS}},
    "models": {
        "basic": {
            "title": "Basic",
            "backbone": TINY_RESNET,
            "weights": "pretraining:views",
            "recipe": RECIPE,
        }
    },
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), train=12, val=12, test=6)


@pytest.fixture
def unmultiplied(monkeypatch):
    """Small maps are matrix products on a CPU alone, and have other last digits there."""
    monkeypatch.setattr(small_maps, "multiply", lambda *tensors, **settings: None)


@pytest.mark.parametrize("kind", ["mps", "cuda"])  # no network trains on xpu
def test_a_study_and_its_guard_are_those_of_the_cpu(kind, pictures, tmp_path, unmultiplied):
    data = {"source": f"folder:{pictures}", "size": 16}
    study = check_study(STUDY | {"data": data, "natural": {"others": f"folder:{pictures}/val"}})
    expected = fw.run(study, out=tmp_path / "cpu", device="cpu").path
    model, batch = open_run_model(f"{expected}:basic:0"), np.zeros((2, 3, 16, 16), dtype=np.uint8)
    answers = make_guard(model, PROMISE, device="cpu")(batch).probabilities
    with pretended(kind):
        found = fw.run(study, out=tmp_path / kind, device=kind).path
        guard = make_guard(open_run_model(f"{found}:basic:0"), PROMISE, device=kind)
        assert np.array_equal(guard(batch).probabilities, answers)
        save_guard(guard, tmp_path / "guard")
        loaded = fw.load_guard(tmp_path / "guard", device=kind)
        assert np.array_equal(loaded(batch).probabilities, answers)
    same_bytes(expected, found)


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_other_images_are_detected_as_on_the_cpu(kind, pictures, tmp_path, unmultiplied):
    def judge(on):
        return fw.evaluate(
            TINY_RESNET, f"folder:{pictures}", out=tmp_path / on, device=on, size=16,
            ood=[f"folder:{pictures}/val"], bootstrap=100, threads=1, progress=False,
        )  # fmt: skip

    expected = judge("cpu")
    with pretended(kind):
        found = judge(kind)
    same_bytes(expected.path, found.path)

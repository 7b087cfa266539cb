"""Whole runs on a device that only pretends to be one: the same bytes as on the CPU."""

import numpy as np
import pytest
import torch

import fairweather as fw
from fairweather.deploy.making import make_guard, save_guard
from fairweather.deploy.promise import Promise
from fairweather.errors import InputError
from fairweather.requests.study.schema import check_study
from fairweather.steps import dispatch
from fairweather.steps.run_model import open_run_model
from fairweather.training import loop_parts
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.finding_models import Stripes, draw_dataset
from tests.helpers.memory_habits import Plain
from tests.helpers.pretended_device import pretended
from tests.helpers.quick_steps import computed_once
from tests.helpers.same_bytes import same as same_bytes

pytestmark = pytest.mark.usefixtures("undrawn")

DEVICES = ("cuda", "mps", "xpu")
PROMISE = Promise(risk=0.9, certainty=0.5, coverage=0.5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures, and one of others of the same classes."""
    counts = {"data/train": 12, "data/val": 12, "data/test": 6, "others": 6}
    root = write_pictures(tmp_path_factory.mktemp("pictures"), **counts)
    return root / "data", root / "others"


def evaluate(on, out, images, pictures):
    """Networks of two kinds of numbers, with all that a run makes of them."""
    half = len(images) // 2
    toys = fw.Dataset("toys", None, images[:half], images[half:], (0.5,) * 3, (0.2,) * 3)
    return fw.evaluate(
        {"whole": Plain(), "short": Plain().bfloat16()},
        toys,
        ["gamma: [2]", "fgsm: [0.02]", "imagenet_c/gaussian_noise: [3]"],
        out=out,
        device=on,
        variants=["temperature", "conformal", "tent: {cells: continual, batch_size: 20}"],
        natural={"others": f"folder:{pictures}"},
        ood=[f"images:{pictures}/red"],
        fit_on=["brightness_factor: [0.8]"],
        batch_size=20,
        bootstrap=100,
        threads=1,
        progress=False,
    )


@pytest.fixture
def compare(monkeypatch):
    """Compare what is measured on each device with what the CPU gives, to the byte.

    The scores of the same predictions are computed for the first device only.
    """

    def compare_all(measure):
        expected = measure("cpu")
        score = computed_once(dispatch.STEP_FUNCTIONS["score"])
        monkeypatch.setitem(dispatch.STEP_FUNCTIONS, "score", score)
        for kind in DEVICES:
            with pretended(kind):
                same_bytes(expected.path, measure(kind).path)

    return compare_all


def test_an_evaluation_has_the_bytes_of_the_cpu(toy_images, pictures, tmp_path, compare):
    compare(lambda on: evaluate(on, tmp_path / on, toy_images, pictures[1]))


def test_findings_have_the_bytes_of_the_cpu(tmp_path, compare):
    def judge(on):
        return fw.evaluate(
            Stripes(), draw_dataset(), ["gamma: [2]", "fgsm: [0.02]"], out=tmp_path / on, device=on,
            variants=["temperature"], bootstrap=100, threads=1, progress=False,
        )  # fmt: skip

    compare(judge)


# Self-supervised pre-training, training, an attack, a natural shift and what is fitted. No map is
# so small that a CPU multiplies it in a way of its own (`SmallMaps`), with other last digits.
RECIPE = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-2}
VIEWS = RECIPE | {"method": "barlow_twins", "projector": [8, 8]}
NETWORK = {"backbone": TINY_RESNET, "stem": "small"}
STUDY = {
    "name": "small",
    "seeds": 1,
    "threads": 1,
    "bootstrap": 100,
    "shifts": [{"brightness_factor": [0.5]}, {"fgsm": [0.02]}],
    "variants": ["temperature"],
    "pretraining": {"views": NETWORK | {"title": "Views", "recipe": VIEWS}},
    "models": {
        "basic": NETWORK | {"title": "Basic", "weights": "pretraining:views", "recipe": RECIPE}
    },
}


# No network trains on xpu.
@pytest.mark.parametrize(("kind", "precision"), [("mps", "fp32"), ("cuda", "bf16")])
def test_a_study_and_its_guard_are_those_of_the_cpu(kind, precision, pictures, tmp_path, caplog):
    folder, others = pictures
    data = {"source": f"folder:{folder}", "size": 32}
    natural = {"others": f"folder:{others}"}
    images = np.zeros((2, 3, 32, 32), dtype=np.uint8)

    def answer(on, precision):
        study = check_study(
            STUDY | {"data": data, "natural": natural, "training_precision": precision}
        )
        run = fw.run(study, out=tmp_path / on, device=on).path
        model = open_run_model(f"{run}:basic:0")
        guard = make_guard(model, PROMISE, device=on)
        save_guard(guard, model, tmp_path / f"guard-{on}")
        loaded = fw.load_guard(tmp_path / f"guard-{on}", device=on)
        return run, guard(images).probabilities, loaded(images).probabilities

    expected = answer("cpu", precision)
    with pretended(kind):
        found = answer(kind, "auto")
    same_bytes(expected[0], found[0])
    assert np.array_equal(expected[1:], found[1:])
    assert "lightning" not in {record.name.partition("_")[0] for record in caplog.records}


@pytest.mark.parametrize("step", ["pre-training", "training"])
def test_memory_that_runs_out_in_training_is_one_sentence(step, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_parts, "take_step", lambda *_: torch.empty(2**60))
    study = STUDY | {"data": {"source": f"folder:{pictures[0]}", "size": 32}}
    if step == "training":
        network = study["models"]["basic"] | {"weights": "none"}
        study |= {"pretraining": {}, "models": {"basic": network}}
    with pytest.raises(InputError, match=r"memory ran out .* with batches of 12 \(.*alloc"):
        fw.run(check_study(study), out=tmp_path / "run", device="cpu")

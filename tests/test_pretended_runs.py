"""Whole runs on a device that only pretends to be one: the same bytes as on the CPU."""

import pytest

import fairweather as fw
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

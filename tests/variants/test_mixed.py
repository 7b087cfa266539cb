"""Streams that mix the images of all shifts and levels: `cells: mixed`.

`Remembering` is a method of the tests' own, whose answers show every image that it has seen.
"""

import os
import signal
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch

import fairweather as fw
from fairweather.data.batches import MixedImages
from fairweather.requests.study.schema import check_study
from fairweather.shifts.table import make_shift
from fairweather.types.record import predictions_file
from fairweather.variants.adaptation.networks import AdaptedNetwork
from fairweather.variants.variant import VARIANTS, Adapting, read_variant
from tests.conftest import TINY_RESNET
from tests.helpers.forking import Program
from tests.helpers.own_variant import OwnVariant
from tests.helpers.same_bytes import same

pytestmark = pytest.mark.usefixtures("undrawn")

OWN = OwnVariant("remember", "tests.variants.test_mixed:Remembering")


@dataclass(frozen=True)
class Remembering(Adapting):
    """Answers with the brightness of an image, of its batch, and of all batches before."""

    kind: ClassVar[str] = "remember"
    kind_title: ClassVar[str] = "memory"
    orders: int = field(default=2, kw_only=True)

    def adapt(self, network, seed=0):
        return AdaptedNetwork(network, self.predict, seed=seed)

    def predict(self, adapted, images):
        adapted.pass_forward(images, torch.nn.Identity())
        before = adapted.memory.setdefault("before", torch.zeros(()))
        own = images.mean((1, 2, 3))
        adapted.memory["before"] = before / 2 + own.mean()
        return torch.stack([own, own.mean().expand(len(own)), before.expand(len(own))], 1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    OWN.register(monkeypatch)


BY_CLASS = {"cells": "mixed", "order": "by_class", "batch_size": 40, "order_seed": 3}
STUDY = {
    "name": "mixed",
    "shifts": [
        {"brightness_factor": [0.6, 1.4]},
        {"imagenet_c/gaussian_noise": [3]},
        {"fgsm": [0.02]},
    ],
    "variants": [
        {"remember": {"cells": "mixed", "batch_size": 32}},
        {"remember": BY_CLASS},
        {"temperature": {"of": {"remember": {"cells": "mixed", "batch_size": 32}}}},
    ],
    "seeds": [0],
    "threads": 1,
    "bootstrap": 100,
    "batch_size": 25,
    "models": {
        "basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}},
    },
}
SHIFTS = [
    make_shift("clean"),
    make_shift("brightness_factor", factor=0.6),
    make_shift("brightness_factor", factor=1.4),
    make_shift("imagenet_c/gaussian_noise", severity=3),
]
IMAGES = 60
MIXED = "basic+remember-batch_size32-mixed"


def study_of(folder):
    data = {"source": f"folder:{folder}", "size": 8}
    return check_study(STUDY | {"data": data})


@pytest.fixture(scope="module")
def run(colour_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        OWN.register(patch)
        out = tmp_path_factory.mktemp("mixed") / "run"
        return fw.run(study_of(colour_folder), out=out, device="cpu")


def read(run, model, shift, part="test"):
    return run.folder.read_streams(predictions_file(model, 0, shift, part))


@pytest.mark.parametrize("number", [0, 1])
def test_a_stream_is_all_images_of_all_cells_in_one_random_order(run, colour_folder, number):
    """The slow reference: each image by itself, in the order of one permutation of all."""
    images = fw.load_data(f"folder:{colour_folder}", size=8).test
    pixels = [shift.change(images, 0).numpy() / 255 for shift in SHIFTS]
    order = np.random.default_rng((0, number)).permutation(len(SHIFTS) * IMAGES)
    expected, before, place = {}, 0.0, 0
    for batch in np.array_split(order, 8):  # 240 images, at most 32 in a batch
        cells = [(int(at) // IMAGES, int(at) % IMAGES) for at in batch]
        assert len({cell for cell, _ in cells}) == len(SHIFTS)
        own = [float(pixels[cell][image].mean()) for cell, image in cells]
        for (cell, image), brightness in zip(cells, own, strict=True):
            expected[cell, image] = (place, brightness, sum(own) / len(own), before)
            place += 1
        before = before / 2 + sum(own) / len(own)
    for cell, shift in enumerate(SHIFTS):
        rows = read(run, MIXED, shift.id).streams[number]
        np.testing.assert_array_equal(rows.keys, images.keys)
        np.testing.assert_array_equal(rows.labels, images.labels)
        places, *logits = zip(*(expected[cell, image] for image in range(IMAGES)), strict=True)
        np.testing.assert_array_equal(rows.place, places)
        np.testing.assert_allclose(rows.logits, np.transpose(logits), rtol=1e-5)
        assert rows.passes[:2] == (2 * IMAGES, 0)


def test_the_order_of_classes_is_that_of_the_whole_stream(run):
    (model,) = set(run.scores["model"]) - {"basic", MIXED, f"{MIXED}+temperature"}
    cells = [read(run, model, shift.id) for shift in SHIFTS]
    for number in range(2):
        rows = [cell.streams[number] for cell in cells]
        places = np.concatenate([cell.place for cell in rows])
        labels = np.concatenate([cell.labels for cell in rows])
        assert sorted(places) == list(range(240))
        assert np.count_nonzero(np.diff(labels[np.argsort(places)])) == 2
        shift = np.repeat(np.arange(4), IMAGES)[np.argsort(places)]
        assert np.count_nonzero(np.diff(shift)) > 120  # shifts are mixed inside a class


def test_every_row_of_the_scores_is_there_and_what_is_fitted_has_the_same_streams(run):
    cells = {
        name: set(zip(rows["shift"], rows["level"], strict=True))
        for name, rows in run.scores[run.scores["metric"] == "accuracy"].groupby("model")
    }
    adapted = {name: own for name, own in cells.items() if name != "basic"}
    assert len(adapted) == 3
    assert all(own == {c for c in cells["basic"] if c[0] != "fgsm"} for own in adapted.values())
    for shift in SHIFTS:
        one, other = (read(run, name, shift.id) for name in (MIXED, f"{MIXED}+temperature"))
        for column in ("keys", "stream", "place", "predicted"):
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def test_validation_images_are_one_stream_from_a_new_copy(run):
    rows = read(run, MIXED, "clean", "val")
    assert set(rows.stream) == {0}
    assert sorted(rows.place) == list(range(len(rows)))
    assert np.all(rows.logits[rows.place < 2, 2] == 0)  # nothing came before the first batch


def test_the_title_says_it():
    variant = read_variant("tent: {cells: mixed, batch_size: 16}")
    assert variant.phrase(60, 25) == "TENT, mixed (batches of at most 16)"


def test_two_jobs_write_the_same_bytes(run, colour_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 2)
    OWN.tell_jobs(monkeypatch)
    again = fw.run(study_of(colour_folder), out=tmp_path / "run", device="cpu", jobs=2)
    same(run.path, again.path)


def killed(folder, out):
    """Run the study in a process that is killed in the second mixed stream."""
    VARIANTS.update([OWN])
    predict = Remembering.predict

    def dying(self, adapted, images):
        if (adapted.seed, adapted.batches) == (1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return predict(self, adapted, images)

    Remembering.predict = dying
    fw.run(study_of(folder), out=out, device="cpu", progress=False)


@pytest.mark.usefixtures("forking")
def test_killed_in_a_mixed_stream_it_begins_all_cells_again(run, colour_folder, tmp_path):
    out = tmp_path / "run"
    call = f"killed({str(colour_folder)!r}, {str(out)!r})"
    code = f"from tests.variants.test_mixed import killed; {call}"
    assert Program([sys.executable, "-c", code]).wait() == -signal.SIGKILL
    assert not list(out.glob(f"predictions/{MIXED}/seed-0/clean.parquet"))
    again = fw.run(study_of(colour_folder), out=out, device="cpu")
    same(run.path, again.path)


def test_a_batch_is_shifted_image_by_image_with_and_without_other_processes(toy_images):
    from fairweather.inference.shifters import Shifters

    shifted = torch.cat([shift.change(toy_images, 5) for shift in SHIFTS])
    order = torch.randperm(len(shifted), generator=torch.Generator().manual_seed(0))
    processes = Shifters(2, first=2)
    try:
        for shifters in (None, processes):
            mixed = MixedImages(toy_images, SHIFTS, 5, shifters)
            assert len(mixed) == len(shifted)
            for index in (order[:50], order[50:51].numpy(), slice(90, 200, 3)):
                batch = mixed[index]
                assert torch.equal(batch.images, shifted[index])
                assert torch.equal(batch.labels, mixed.labels[index])
                assert torch.equal(batch.keys, toy_images.keys.repeat(len(SHIFTS))[index])
    finally:
        processes.end()

"""A model of a finished run is opened again, and looks at other images as it did at its own."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.inference.prediction import compute_outputs
from fairweather.models.opening import load_model
from fairweather.requests.study.schema import check_study
from fairweather.steps import run_model as reopened
from fairweather.steps.run_model import load_other_seeds, open_images, open_run_model
from fairweather.types.record import ENSEMBLE, predictions_file
from tests.conftest import TINY_EFFICIENTNET, TINY_RESNET, write_pictures
from tests.requests.test_evaluate import write_model

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), train=12, val=6, test=5)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A study of two models and two seeds with an ensemble."""
    recipe = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    study = {
        "name": "small",
        "data": {"source": f"folder:{pictures}"},
        "seeds": 2,
        "ensemble": True,
        "bootstrap": 100,
        "shifts": [{"brightness_factor": {"factor": [0.5]}}],
        "models": {
            name: {"title": name, "backbone": TINY_RESNET, "recipe": recipe}
            for name in ("basic", "other")
        },
    }
    out = tmp_path_factory.mktemp("runs") / "small"
    return fw.run(check_study(study), out=out, device="cpu").path


def opened(model, source):
    return open_images(source, model.classes, model.preparation)


def predicted(model, images):
    """The logits of the networks as stored for these images."""
    return [compute_outputs(each, images, device="cpu").logits for each in model.networks]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_model_says_of_its_own_images_what_the_run_stored(trained, pictures, seed):
    model = open_run_model(f"{trained}:basic:{seed}")
    assert (model.name, model.seed, model.classes) == ("basic", seed, ("blue", "green", "red"))
    images = opened(model, f"folder:{pictures}/test")
    assert images.labelled
    assert len(images.images) == 15
    stored = model.run.read_predictions(predictions_file("basic", seed, "clean"))
    (found,) = predicted(model, images.images)
    np.testing.assert_allclose(found, stored.logits, rtol=1e-4, atol=1e-4)
    assert len(model.validation()) == 18


def test_of_several_seeds_the_ensemble_is_opened(trained):
    model = open_run_model(f"{trained}:other")
    assert model.seed == ENSEMBLE
    assert len(model.networks) == 2
    # Its seeds are its members, which are not loaded and asked twice.
    assert load_other_seeds(model) == dict(zip((0, 1), model.networks, strict=True))
    assert list(load_other_seeds(open_run_model(f"{trained}:other:1"))) == [0]


def test_offline_a_model_from_elsewhere_is_not_downloaded(pictures, tmp_path, monkeypatch):
    run = fw.evaluate(
        write_model(tmp_path), f"folder:{pictures}", "clean",
        out=tmp_path / "run", bootstrap=100, device="cpu",
    )  # fmt: skip
    asked, real = [], reopened.open_with_options

    def noted(source, given, **options):
        asked.append(options["offline"])
        return real(source, given, **options)

    monkeypatch.setattr(reopened, "open_with_options", noted)
    open_run_model(str(run.path))
    open_run_model(str(run.path), offline=True)
    assert asked == [False, True]


def test_what_is_not_in_the_run_is_named(trained, tmp_path):
    with pytest.raises(InputError, match=r"several models: name one.*basic, other"):
        open_run_model(str(trained))
    with pytest.raises(InputError, match=r"basc.*basic"):
        open_run_model(f"{trained}:basc")
    with pytest.raises(InputError, match="7"):
        open_run_model(f"{trained}:basic:7")
    with pytest.raises(InputError, match="holds no run"):
        open_run_model(str(tmp_path / "nothing"))
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "models/basic/seed-0/model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights of basic with seed 0"):
        open_run_model(f"{copy}:basic:0")


def test_damaged_weights_are_refused(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    file = copy / "models/basic/seed-0/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged or was changed"):
        open_run_model(f"{copy}:basic:0")


def test_an_evaluated_model_is_opened_from_its_source(pictures, tmp_path):
    source = write_model(tmp_path)
    run = fw.evaluate(
        source, f"folder:{pictures}", "brightness_factor: [0.5]",
        out=tmp_path / "run", bootstrap=100, device="cpu",
    )  # fmt: skip
    model = open_run_model(str(run.path))
    images = opened(model, f"folder:{pictures}")
    stored = model.run.read_predictions(predictions_file(model.name, 0, "clean"))
    test = images.images[[int(key) for key in range(len(images.images))]]
    found = np.concatenate(predicted(model, test))
    near = [np.abs(found - row).max(axis=1).min() for row in stored.logits]
    assert max(near) < 1e-4  # each of the run's test images is among all images of the folder


def test_images_without_labels_have_none(trained, pictures):
    images = opened(open_run_model(f"{trained}:basic:0"), f"images:{pictures}/test")
    assert not images.labelled
    assert set(images.images.labels.tolist()) == {0}
    assert images.images.names is not None
    assert len(images.images) == 15


@pytest.mark.parametrize("backbone", [TINY_RESNET, TINY_EFFICIENTNET, "timm:test_vit"])
def test_features_are_what_the_head_sees(backbone):
    model = load_model(backbone, classes=3, weights="none", input_size=160).eval()
    images = fw.Images(
        torch.randint(0, 256, (5, 3, 160, 160), dtype=torch.uint8),
        torch.zeros(5, dtype=torch.int64), torch.arange(5), ("a", "b", "c"),
    )  # fmt: skip
    found = compute_outputs(model, images, batch_size=2, device="cpu")
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    again = head(torch.from_numpy(found.features)).detach().numpy()
    np.testing.assert_allclose(again, found.logits, rtol=1e-4, atol=1e-5)


def test_a_network_that_ends_otherwise_has_no_features():
    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(4, 4)
            self.head = nn.Conv2d(3, 2, 1)

        def forward(self, images):
            self.inside(images.mean(1).flatten(1)[:, :4])
            return self.head(images).mean((2, 3))

    images = fw.Images(
        torch.zeros(3, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(3, dtype=torch.int64), torch.arange(3), ("a", "b"),
    )  # fmt: skip
    found = compute_outputs(Convolution(), images, device="cpu")
    assert found.features is None
    assert found.logits.shape == (3, 2)

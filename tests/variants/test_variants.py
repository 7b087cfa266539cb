"""Variants, which are fitted or adapted at test time, and their rows in a run."""

import json
from dataclasses import fields

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.inference.prediction import Predictor, learn_from_source, predict, predict_shared
from fairweather.metrics import per_image
from fairweather.models.opening import load_model
from fairweather.requests.study.schema import check_study
from fairweather.shifts.table import CLEAN, make_shift
from fairweather.types.record import fitted_file, predictions_file
from fairweather.variants.batchnorm import BatchNorm
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.scaling import fit_temperature
from fairweather.variants.variant import VARIANTS, Adapting, read_variant, variant_class
from tests.conftest import TINY_RESNET
from tests.helpers.chance import FALSE_ALARM, mean_p

pytestmark = pytest.mark.usefixtures("undrawn")


def overconfident(n=3000, factor=3.0, classes=4, seed=0):
    """Logits that are calibrated by construction, and then multiplied."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    chances = scipy.special.softmax(logits, axis=1)
    labels = (chances.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits * factor, labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_factor_by_which_logits_are_too_large_is_found(factor):
    fitted = [fit_temperature(*overconfident(factor=factor, seed=seed)) for seed in range(20)]
    assert mean_p([each.value for each in fitted], factor) > FALSE_ALARM
    assert fitted[0].images == 3000


@pytest.mark.parametrize("seed", range(5))
def test_no_temperature_of_a_grid_is_better_and_the_fit_never_makes_it_worse(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(40, 5)) * 4, rng.integers(0, 5, 40)
    fitted = fit_temperature(logits, labels)

    def loss(temperature):
        return per_image(logits / temperature, labels).nll.mean()

    assert fitted.nll_after == pytest.approx(loss(fitted.value))
    assert fitted.nll_after <= fitted.nll_before == loss(1)
    assert fitted.nll_after <= min(map(loss, np.geomspace(1 / 32, 32, 400))) + 1e-7


def test_the_fit_ends_where_nothing_is_left_to_gain():
    right = fit_temperature(np.eye(3) * 10, [0, 1, 2])
    assert 1 / 32 <= right.value < 0.2
    assert right.nll_after == 0
    wrong = fit_temperature(np.eye(3) * 10, [1, 2, 0])
    assert wrong.value > 20
    assert fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]).value == 1


def test_a_scaled_cell_is_what_the_model_predicts_at_that_temperature(toy_images):
    model = load_model(TINY_RESNET, classes=3, weights="none")
    scaled = LogitDivisor(value=2.5).apply(predict(model, toy_images, device="cpu"))
    again = predict(model, toy_images, device="cpu", temperature=2.5)
    for column in ("predicted", "confidence", "nll", "brier", "logits"):
        assert (getattr(scaled, column) == getattr(again, column)).all(), column


class Shifted(nn.Module):
    """Batch norm that was trained on darker images than the test images."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            linear = nn.Linear(12, 3)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear)
        self.norm.running_mean.fill_(0.1)

    def forward(self, images):
        return self.head(self.norm(images))


def adapted_of(model, images, shift=CLEAN, batch_size=256):
    """Predict with adapted batch norm."""
    reader, cpu = Predictor(model, adapting=BatchNorm()), torch.device("cpu")
    [found] = predict_shared([reader], images, shift, batch_size=batch_size, device=cpu)
    return found


def test_adapted_batch_norm_uses_the_batch_and_leaves_the_model_alone(toy_images):
    model = Shifted().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = BatchNorm().adapt(model)
    images = toy_images.images.float() / 255
    mean, var = images.mean((0, 2, 3)), images.var((0, 2, 3), unbiased=False)
    expected = (images - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(adapted.network.norm(images), expected, atol=1e-5)
        assert not torch.allclose(model.norm(images), expected, atol=1e-2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert isinstance(adapted.network.norm, nn.BatchNorm2d)


def test_timms_batch_norm_is_adapted_too(toy_images):
    model = load_model(TINY_RESNET, classes=3, weights="none")
    plain = predict(model, toy_images, device="cpu").logits
    adapted = adapted_of(model, toy_images).logits
    assert np.abs(plain - adapted).max() > 1e-3


def test_rows_come_back_in_order_and_no_batch_is_of_one_class(toy_images):
    seen, brightest = [], []

    class Watching(Shifted):
        def forward(self, images):
            seen.append(len(images))
            brightest.append(images.mean((2, 3)).argmax(1))
            return super().forward(images)

    order = torch.argsort(toy_images.labels, stable=True)
    by_class = toy_images[order]
    predictions = adapted_of(Watching().eval(), by_class, batch_size=40)
    assert seen == [32, 32, 32]
    # The classes are blue, green and red.
    assert [channels.unique().tolist() for channels in brightest] == [[0, 1, 2]] * 3
    assert (predictions.keys == by_class.keys.numpy()).all()
    assert (predictions.labels == by_class.labels.numpy()).all()
    # Brighter by a constant factor: batch norm removes it, in any order of images.
    model = Shifted().eval()
    dim = make_shift("brightness_factor", factor=0.5)
    a, b = (adapted_of(model, by_class, *shift, batch_size=96) for shift in ((), (dim,)))
    # Dimmed pixels are cut to 8 bits: by less than 1 / 255, where batch norm then divides by half
    # the deviation, and the weights of a logit add up.
    deviation = (by_class.images.double() / 255).std((0, 2, 3)).min() / 2
    cut = 1 / 255 / float(deviation) * float(model.head[2].weight.detach().abs().sum(1).max())
    assert np.abs(a.logits - b.logits).max() < cut
    plain = [predict(model, by_class, *shift, device="cpu").logits for shift in ((), (dim,))]
    assert np.abs(plain[0] - plain[1]).max() > cut


def test_smaller_batches_would_be_another_model(toy_images):
    class Full(Shifted):
        def forward(self, images):
            raise MemoryError

    with pytest.raises(InputError, match="choose a smaller batch size"):
        adapted_of(Full().eval(), toy_images)
    eata, device = read_variant("eata"), torch.device("cpu")
    with pytest.raises(InputError, match="choose a smaller batch size"):
        learn_from_source(Full().eval(), eata, toy_images, batch_size=24, device=device)


def test_a_model_without_batch_norm_is_one_sentence():
    with pytest.raises(InputError, match="needs batch norm"):
        BatchNorm().adapt(nn.Linear(2, 2))


STUDY = {
    "name": "variants",
    "shifts": [{"brightness_factor": [0.6]}, {"fgsm": [0.02]}],
    "variants": ["temperature", "batchnorm"],
    "seeds": [0],
    "bootstrap": 100,
    "batch_size": 40,
    "models": {
        "basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}},
    },
}


@pytest.fixture(scope="module")
def with_variants(colour_folder, tmp_path_factory):
    data = {"source": f"folder:{colour_folder}", "size": 16}
    study = check_study(STUDY | {"data": data})
    return fw.run(study, out=tmp_path_factory.mktemp("variants") / "run", device="cpu")


def test_each_variant_is_a_row_beside_its_model(with_variants, draw):
    scores = with_variants.scores
    assert list(scores["model"].unique()) == ["basic", "basic+temperature", "basic+batchnorm"]
    accuracy = scores[scores["metric"] == "accuracy"].set_index(["model", "shift", "level"])[
        "value"
    ]
    for cell in [("clean", "none"), ("brightness_factor", "0.6"), ("fgsm", "0.02")]:
        assert accuracy[("basic+temperature", *cell)] == accuracy[("basic", *cell)]
    assert ("basic+batchnorm", "fgsm", "0.02") not in accuracy.index
    draw(with_variants)
    page = (with_variants.path / "report.html").read_text()
    assert "Basic + temperature scaling" in page
    assert "Basic + batch norm of the test batch (batches of 30)" in page


def test_the_temperature_was_fitted_on_validation_images_alone(with_variants):
    folder = with_variants.folder
    fitted = json.loads((folder.path / fitted_file("basic", 0, "temperature")).read_text())
    val = folder.read_predictions(predictions_file("basic", 0, "clean", "val"))
    assert fitted["value"] == fit_temperature(val.logits, val.labels).value
    clean = folder.read_predictions(predictions_file("basic", 0, "clean"))
    assert fitted["value"] != fit_temperature(clean.logits, clean.labels).value
    scaled = folder.read_predictions(predictions_file("basic+temperature", 0, "clean"))
    np.testing.assert_array_equal(scaled.logits, clean.logits / np.float32(fitted["value"]))


def test_validation_images_are_adapted_and_scaled_like_the_test_images(with_variants):
    folder = with_variants.folder
    plain, scaled, adapted = (
        folder.read_predictions(predictions_file(f"basic{variant}", 0, "clean", "val"))
        for variant in ("", "+temperature", "+batchnorm")
    )
    assert (plain.keys == scaled.keys).all()
    assert (plain.keys == adapted.keys).all()
    assert not np.array_equal(plain.logits, adapted.logits)
    fitted = json.loads((folder.path / fitted_file("basic", 0, "temperature")).read_text())
    np.testing.assert_array_equal(scaled.logits, plain.logits / np.float32(fitted["value"]))


def test_a_finished_run_makes_no_variant_again(with_variants, monkeypatch):
    before = (with_variants.path / "scores.csv").read_bytes()
    for name in ("read_variant", "read_fitted", "predict_shared"):
        monkeypatch.setattr(f"fairweather.steps.predictions.{name}", None)
    source = with_variants.record.data.source
    study = check_study(STUDY | {"data": {"source": source, "size": 16}})
    again = fw.run(study, out=with_variants.path, device="cpu")
    assert (again.path / "scores.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        (["temprature"], "'temprature'; did you mean 'temperature'"),
        (["temperature", "temperature"], "variants: temperature"),
        (["temperature", {"temperature": {}}], "variants: temperature is listed twice"),
        ([{"top_versus_all": {"method": ["isotonic"]}}], "method of top_versus_all"),
        ([{"temperature": {"value": 2}}], "parameter of temperature 'value'; known: fit_on"),
        ([{"batchnorm": {"value": 2}}], "parameter of batchnorm 'value'; known: batch_size"),
        ([{"temperature": {"fit_on": 1}}], "fit_on of temperature must be true or false, found 1"),
        ([{"temperature": {"fit_on": True}}], "temperature-fit_on is fitted on .* no fit_on"),
        (["thresholds-fit_on"], "thresholds-fit_on is fitted on .* no fit_on"),
        ([{"top_versus_all": {"method": "isotonik"}}], "did you mean 'isotonic'"),
        ([{"temperature": 2}], "each must be KIND"),
        ([{"temperature": {}, "batchnorm": {}}], "each must be KIND"),
    ],
)
def test_bad_variants_are_one_sentence(variants, words):
    with pytest.raises(InputError, match=words):
        check_study(STUDY | {"data": {"source": "mnist5k"}, "variants": variants})


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_written_form_of_a_variant_is_read_alike(kind):
    plain = variant_class(kind)()
    for form in (kind, {kind: {}}, f"{kind}: {{}}", plain, plain.text):
        assert read_variant(form) == plain
    assert plain.text == kind
    if isinstance(plain, Adapting):
        assert read_variant(plain.full_text) == plain
        assert all(f'"{parameter.name}": ' in plain.full_text for parameter in fields(plain))


@pytest.mark.parametrize("form", [["temperature"], "temperature: [1", 3, None, {1: {}}, "", ":"])
def test_what_is_no_variant_is_one_sentence(form):
    with pytest.raises(InputError) as raised:
        read_variant(form)
    assert "\n" not in str(raised.value)

"""Studies with attacks, and with training under shifts that are not tested."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.attacks.table import make_attack
from fairweather.errors import InputError
from fairweather.inference.prediction import predict
from fairweather.models.opening import load_model
from fairweather.report.samples import read_samples
from fairweather.requests.study.schema import check_study
from fairweather.shifts.table import make_shift
from fairweather.steps.plan import ImagesReference, SampleStep
from fairweather.steps.scoring import attack_warnings
from fairweather.training.augmentation import apply_train_shifts
from fairweather.types.record import predictions_file
from tests.conftest import TINY_RESNET
from tests.helpers.attack_models import OneByOne
from tests.helpers.chance import FALSE_ALARM, counts_p

pytestmark = pytest.mark.usefixtures("undrawn")

PGD = {"pgd": {"epsilon": [0.02, 0.1], "steps": 3}}
BRIGHTNESS = {"brightness_factor": [0.5]}


def study(folder, shifts, *, epochs=1, **model):
    entry = {
        "title": "Basic",
        "backbone": TINY_RESNET,
        "recipe": {"epochs": epochs, "batch_size": 16, "learning_rate": 0.01},
    }
    return check_study(
        {
            "name": "attacked",
            "data": {"source": f"folder:{folder}", "size": 16},
            "shifts": shifts,
            "seeds": [0],
            "bootstrap": 100,
            "models": {"basic": entry | model},
        }
    )


def attacked_study(folder):
    """Of a network that has learned something, and so has something to lose under attack."""
    return study(folder, [BRIGHTNESS, PGD, {"fgsm": [0.1]}], epochs=4)


@pytest.fixture(scope="module")
def attacked(colour_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("attacked") / "run"
    torch.set_num_threads(1)
    return fw.run(attacked_study(colour_folder), out=path)


def rows(run, shift, level, metric="accuracy"):
    scores = run.scores
    wanted = (scores["shift"] == shift) & (scores["level"] == level)
    return scores[wanted & (scores["metric"] == metric)]


def test_attacks_are_cells_with_scores_intervals_and_tables(attacked, draw):
    clean = rows(attacked, "clean", "none")["value"].item()
    small, large = (rows(attacked, "pgd", level)["value"].item() for level in ("0.02", "0.1"))
    assert clean >= small >= large
    assert large < clean
    assert rows(attacked, "pgd", "0.02", "rms_calibration_error")["n"].item() == 60
    table = pd.read_csv(attacked.path / "tables" / "accuracy_pgd.csv")
    assert table["pgd 0.1"].item() == pytest.approx(large)
    draw(attacked, figures=False)
    assert "PGD" in (attacked.path / "report.html").read_text()


def test_the_mean_over_shifts_leaves_attacks_out(attacked):
    mean = rows(attacked, "brightness_factor", "mean")["value"].item()
    assert rows(attacked, "all", "mean")["value"].item() == mean
    assert len(rows(attacked, "pgd", "mean")) == 1


def test_the_stored_predictions_are_those_of_the_attacked_images(attacked, colour_folder):
    model = load_model(f"run:{attacked.path}/models/basic/seed-0")
    images = fw.load_data(f"folder:{colour_folder}", size=16).test
    attack = make_attack("pgd", epsilon=0.1, steps=3)
    stored = attacked.folder.read_predictions(predictions_file("basic", 0, attack.id))
    # In the memory layout of predictions: other kernels round differently, and the attack uses the
    # sign of gradients, which may then differ near zero.
    layout = torch.channels_last
    inputs = images.images.to(memory_format=layout).float() / 255
    model.to(memory_format=layout)
    adversarial = attack(model, inputs, images.labels, images.keys, seed=0)
    with torch.inference_mode():
        logits = model(adversarial)
    assert np.array_equal(stored.logits, logits.numpy())
    assert (adversarial - inputs).abs().max() <= 0.1 + 1e-6


def test_the_pictures_under_attack_are_what_each_model_saw(attacked, colour_folder):
    model = load_model(f"run:{attacked.path}/models/basic/seed-0")
    images = fw.load_data(f"folder:{colour_folder}", size=16).test
    samples = read_samples(attacked.folder)
    keys = images.keys.tolist()
    for attack in (
        make_attack("pgd", epsilon=0.02, steps=3),
        make_attack("pgd", epsilon=0.1, steps=3),
        make_attack("fgsm", epsilon=0.1),
    ):
        inputs = images.images.float() / 255
        seen = attack(model, inputs, images.labels, images.keys).mul(255).round()
        for key in samples.strip:
            stored = samples.attacked["basic", attack.id, key]
            with Image.open(io.BytesIO(stored)) as picture:
                shown = np.asarray(picture.convert("RGB")).astype(int).transpose(2, 0, 1)
            at = keys.index(key)
            # Rounding in a batch of another size may move a pixel by one step.
            assert np.abs(shown - seen[at].numpy()).max() <= 1
            assert np.abs(shown - images.images[at].numpy().astype(int)).max() <= 255 * 0.1 + 1
    assert len(samples.attacked) == 3 * len(samples.strip)


def test_a_run_without_attacks_has_no_pictures_of_them(attacked):
    samples = SampleStep(
        id="samples",
        task="samples",
        leaves=(),
        images=ImagesReference(digest="d"),
        train=None,
        models={},
        shifts=("clean",),
        shift_seed=0,
        mixup=False,
    )
    assert "attacks" not in samples.inputs()
    hit = samples.model_copy(update={"attacks": ("pgd,epsilon=0.1",)})
    assert hit.inputs()["attacks"] == ["pgd,epsilon=0.1"]
    recorded = json.loads((attacked.path / "steps/samples.json").read_text())
    assert len(recorded["depends"]["attacks"]) == 3


def test_a_finished_run_is_not_attacked_again(attacked, colour_folder, monkeypatch):
    before = (attacked.path / "scores.csv").read_bytes()
    monkeypatch.setattr("fairweather.steps.predictions.predict_shared", None)
    again = fw.run(attacked_study(colour_folder), out=attacked.path)
    assert (again.path / "scores.csv").read_bytes() == before


def test_an_attack_that_cannot_be_is_said_before_anything_is_written(colour_folder, tmp_path):
    with pytest.raises(InputError, match=r"models\.basic: .*auto_ensemble_without_dlr"):
        fw.run(study(colour_folder, [{"autoattack": [0.03]}]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("shifts", "words"),
    [
        ([{"pdg": [0.1]}], "'pdg'.*'pgd'"),
        ([{"pgd": [-0.1]}], "epsilon"),
        ([{"pgd": [0.1, 0.1]}], "pgd.*twice"),
        ([{"pgd": [0.1]}, {"pgd": {"epsilon": [0.2], "steps": 5}}], "pgd .*different parameters"),
    ],
)
def test_bad_entries_are_one_sentence(shifts, words):
    with pytest.raises(InputError, match=words):
        study("x", shifts)


def test_gradient_masking_is_reported(attacked):
    assert json.loads((attacked.path / "warnings.json").read_text()) == {}
    checked = study("x", [{"pgd": [0.1, 1.0]}])
    values = {"0.1": 0.2, "1": 0.9}
    frame = pd.DataFrame(
        [("basic", "0", "pgd", level, "accuracy", value) for level, value in values.items()],
        columns=["model", "seed", "shift", "level", "metric", "value"],
    )
    warnings = attack_warnings(frame, {"basic": "Basic"}, checked.all_shifts(), chance=1 / 3)
    assert "above chance" in warnings["Basic"]


def test_prediction_under_attack_leaves_the_model_as_it_was(toy_images):
    model = OneByOne(load_model(TINY_RESNET, classes=3, weights="none")).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    whole = predict(model, toy_images, make_attack("fgsm", epsilon=0.1), device="cpu")
    assert model.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    parts = predict(model, toy_images, make_attack("fgsm", epsilon=0.1), device="cpu", batch_size=7)
    assert np.array_equal(whole.logits, parts.logits)


def test_training_shifts_change_training_and_nothing_else(colour_folder, tmp_path):
    shifts = [{"gaussian_blur": [1.0]}, {"gamma": [0.5]}]
    plain = fw.run(study(colour_folder, []), out=tmp_path / "plain")
    under = fw.run(study(colour_folder, [], train_shifts=shifts), out=tmp_path / "under")
    again = fw.run(study(colour_folder, [], train_shifts=shifts), out=tmp_path / "again")
    folder = "models/basic/seed-0/model.safetensors"
    assert plain.folder.checksum(folder) != under.folder.checksum(folder)
    assert under.folder.checksum(folder) == again.folder.checksum(folder)


def test_each_image_gets_one_of_the_shifts_or_none(toy_images):
    dark, bright = (make_shift("brightness_factor", factor=factor) for factor in (0.5, 2.0))
    counts = np.zeros(3)
    for draw in range(80):
        rng = np.random.default_rng(draw)
        changed = apply_train_shifts(toy_images, [dark, bright], rng)
        assert torch.equal(changed.keys, toy_images.keys)
        options = [
            toy_images.images,
            *(s(toy_images.images, toy_images.keys) for s in (dark, bright)),
        ]
        equal = torch.stack([(changed.images == each).flatten(1).all(1) for each in options])
        assert equal.any(0).all()
        counts += equal.double().sum(1).numpy()
    assert counts_p(counts) > FALSE_ALARM


def test_training_on_what_is_tested_is_refused(colour_folder):
    with pytest.raises(InputError, match=r"models\.basic: .*brightness_factor .*allow_seen_shifts"):
        study(colour_folder, [BRIGHTNESS], train_shifts=[{"brightness_factor": [0.9]}])
    with pytest.raises(
        InputError, match=r"jpeg .*imagenet_c/jpeg_compression; .*allow_seen_shifts"
    ):
        study(colour_folder, [{"imagenet_c/jpeg_compression": [1]}], train_shifts=[{"jpeg": [50]}])
    with pytest.raises(InputError, match=r"train_shifts: pgd .*recipe\.adversarial"):
        study(colour_folder, [], train_shifts=[{"pgd": [0.1]}])


def test_a_suite_of_corruptions_runs_and_is_reported(colour_folder, tmp_path, draw):
    run = fw.run(study(colour_folder, [{"suite": "quick"}]), out=tmp_path / "run")
    fog = rows(run, "imagenet_c/fog", "mean")["value"].item()
    assert 0 <= fog <= 1
    draw(run, figures=False)
    page = (run.path / "report.html").read_text()
    assert "Fog" in page
    fogs = next(sweep.cells for sweep in run.record.sweeps if sweep.name == "imagenet_c/fog")
    assert fogs[0].constants == "for images of 16 pixels: amount 0.2, decay 3"
    assert (run.path / "tables" / "accuracy_imagenet_c__fog.csv").is_file()
    assert (run.path / predictions_file("basic", 0, "imagenet_c/fog,severity=3")).is_file()


def test_only_shifts_are_drawn_and_written(toy_images, tmp_path):
    attack = make_attack("fgsm", epsilon=0.1)
    with pytest.raises(InputError, match="shifts"):
        fw.preview(toy_images[:1], [attack])
    with pytest.raises(InputError, match="only shifts"):
        fw.export(fw.load_data("mnist5k", size=8), [attack], tmp_path / "out")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_shift("imagenet_c/fog", severity=None), "severity .*found None"),
        (
            lambda: make_shift("imagenet_c/motion_blur", severity=1, radius=1e9),
            "radius .*found 1000000000",
        ),
        (lambda: make_shift("imagenet_c/zoom_blur", severity=1, step=1e-9), "step .*found 1e-09"),
        (
            lambda: make_shift("imagenet_c/gaussian_blur", severity=1, sigma=1e9),
            "sigma .*found 1000000000",
        ),
        (lambda: make_shift("gaussian_blur", sigma=1e30), "<= 1000"),
        (lambda: make_shift("fog", severity=1), "did you mean 'imagenet_c/fog'"),
        (lambda: make_attack("pgd", epsilon=0.1, norm=["l2"]), r"norm of pgd \[\'l2\'\].*linf"),
    ],
)
def test_odd_values_are_one_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.parametrize("shift", [("rotation", {"degrees": 9}), ("hue", {"turn": 0.2})])
def test_too_small_images_are_refused_by_every_shift(shift, toy_images):
    name, parameters = shift
    small = toy_images.images[:, :, :7]
    with pytest.raises(InputError, match=f"{name} .* 8 pixels .*found 7x8"):
        make_shift(name, **parameters)(small, toy_images.keys)


def test_keys_and_logits_must_be_tensors(toy_images):
    with pytest.raises(InputError, match=r"keys .*found None"):
        make_shift("gamma", exponent=2)(toy_images.images, None)
    inputs = toy_images.images.float() / 255
    with pytest.raises(InputError, match=r"tensor, found .*ndarray"):
        make_attack("square", epsilon=0.1)(_Numpy(), inputs, toy_images.labels, toy_images.keys)


class _Numpy(torch.nn.Module):
    def forward(self, images):
        return np.zeros((len(images), 3))


def test_every_step_of_a_run_is_told(colour_folder, tmp_path):
    events = []
    fw.run(study(colour_folder, []), out=tmp_path / "run", progress=events.append)
    steps = {"train Basic", "predict Basic", "samples", "score", "report"}
    assert {event.task for event in events} >= {"load data", *steps}

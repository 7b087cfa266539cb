"""What works on a device is tried on one that only pretends to be one, with the CPU's results."""

from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fairweather.attacks.problem import NORMS
from fairweather.attacks.table import ATTACKS, make_attack, make_training_attack
from fairweather.data import batches
from fairweather.data.batches import batch_slices
from fairweather.deploy.graph import GraphNetwork
from fairweather.deploy.tracing import trace
from fairweather.devices import send
from fairweather.inference.prediction import (
    KnownFeatures,
    Predictor,
    compute_outputs,
    predict,
    predict_batches,
    predict_shared,
)
from fairweather.models.opening import load_model
from fairweather.models.outputs import ConvertedOutputs, log_probabilities
from fairweather.models.wrappers import Classifier, Ensemble, GrayInput, LabelMapper
from fairweather.runs.folder import RunFolder
from fairweather.shifts.medmnist_c.corruptions import FAMILIES
from fairweather.shifts.table import SHIFTS, make_shift
from fairweather.steps.training import Resumption
from fairweather.training.losses import ONE_CLASS, SEVERAL_FINDINGS
from fairweather.training.recipe import (
    Adversarial,
    AsymmetricLoss,
    AugMix,
    GaussianNoise,
    RandAugment,
    RandomErasing,
    Recipe,
    Rotation,
)
from fairweather.training.selfsupervised.pretraining import NeighbourProbe, pretrain
from fairweather.training.selfsupervised.pretraining_recipe import PUBLISHED
from fairweather.training.supervised import fit
from fairweather.variants.batchnorm import BatchNorm
from tests.conftest import keep_lines
from tests.helpers.memory_habits import Plain
from tests.helpers.pretended_device import pretended, pretended_mode
from tests.inference.test_memory_habits import same
from tests.training.test_selfsupervised import small_encoder, tiny

CPU = torch.device("cpu")


@pytest.fixture(params=["mps", "cuda"])
def device(request):
    with pretended(request.param) as found:
        yield found


@pytest.fixture
def mps():
    with pretended("mps") as found:
        yield found


def test_it_knows_where_tensors_are(device):
    there = torch.ones(2, 3).to(device)
    assert there.device == there[0].t().device == (there + torch.tensor(1.0)).device == device
    assert torch.zeros(2, device=there.device).device == device
    assert np.array_equal(there.cpu().numpy(), np.ones((2, 3)))
    cpu = torch.zeros(2, 3)
    assert cpu.copy_(there).device == there.cpu().device == there.to("cpu").device == CPU
    with pytest.raises(RuntimeError, match="same device"):
        there + cpu
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    if device.type == "mps":
        with pytest.raises(TypeError, match="float64"):
            there.double()
    layer = nn.Linear(3, 1).to(device)
    layer(there).sum().backward()
    assert layer.weight.device == layer.weight.grad.device == device


def network(inside=Plain):
    """A network with all that is put around one: its resizing, classes and kind of outputs."""
    resized = Classifier(inside(), (0.5,) * 3, (0.3,) * 3, input_size=8)
    network = nn.Sequential(resized, nn.Softmax(1))
    return LabelMapper(ConvertedOutputs(network, log_probabilities), [(0,), (1,), (2,)])


@pytest.fixture
def large(toy_images):
    """Eight of the images, four times as large, which every shift takes."""
    pixels = toy_images.images[:8].repeat_interleave(4, 2).repeat_interleave(4, 3)
    return replace(toy_images[:8], images=pixels)


def test_models_predict_under_every_shift(mps, large):
    for name, kind in SHIFTS.items():
        level = 0.25 if name in ("translate", "hue") else 1
        given = {kind.level: level}
        if name.startswith("medmnist_c/"):
            corruption = name.partition("/")[2]
            given["dataset"] = next(of for of, family in FAMILIES.items() if corruption in family)
        shift = make_shift(name, **given)
        found, expected = (predict(network(), large, shift, device=on) for on in (mps, CPU))
        same(found, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_models_are_attacked(name, norm, mps, large):
    if name in ("apgd_t", "autoattack"):
        classes = [(0,), (1,), (2,), (0, 1)]  # these need four classes

        def make():
            return LabelMapper(network(), classes)

        large = replace(large, classes=("a", "b", "c", "d"))
    else:
        make = network
    known = {"steps": 2, "queries": 4, "targets": 1}
    taken = {
        "fgsm": (),
        "pgd": ("steps",),
        "apgd_ce": ("steps",),
        "apgd_t": ("steps", "targets"),
        "fab_t": ("steps", "targets"),
        "square": ("queries",),
    }.get(name, tuple(known))
    attack = make_attack(name, epsilon=0.05, norm=norm, **{each: known[each] for each in taken})
    # Only right images are attacked.
    large = replace(large, labels=torch.from_numpy(predict(make(), large, device=CPU).predicted))
    assert predict(make(), large, device=CPU).correct.all()
    same(*(predict(make(), large, attack, device=on) for on in (mps, CPU)))


def test_models_adapt_average_and_give_their_features(device, toy_images):
    found, expected = (everything_of(on, toy_images) for on in (device, CPU))
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    seen, known = (compute_outputs(Plain(), toy_images, device=on) for on in (device, CPU))
    assert np.array_equal(seen.features, known.features)


def everything_of(on, images):
    """Predict as a run does: together, adapted, compared with known features, and averaged."""
    shift, model = make_shift("gamma", exponent=2), Plain()
    features = np.eye(8, dtype=np.float32)
    together = predict_shared(
        [
            Predictor(model, known=KnownFeatures()),
            Predictor(network()),
            Predictor(model, adapting=BatchNorm()),
        ],
        images,
        shift,
        batch_size=30,
        device=on,
    )
    reader = Predictor(model, known=KnownFeatures(features))
    scored = predict_batches([reader], images, batches=batch_slices(len(images), 40), device=on)
    averaged = predict(Ensemble([Plain(), Plain()]), images, device=on)
    return [*together, *scored, averaged]


def test_a_gray_network_predicts(device, toy_images):
    def gray():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return GrayInput(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))

    same(*(predict(gray(), toy_images, device=on) for on in (device, CPU)))


@pytest.mark.parametrize("kind", ["mps", "cuda"])
def test_a_guard_looks_at_images(kind, toy_images):
    graph, weights = trace([Plain()], (8, 8))  # always on a CPU
    images = toy_images.images.float() / 255
    expected, known = GraphNetwork(graph, weights)(images)
    with pretended(kind) as device:
        found, features = GraphNetwork(graph, weights, device)(images)
        assert found.device == device
        assert torch.equal(found.cpu(), expected)
        assert torch.equal(features.cpu(), known)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # the exporter's
def test_an_onnx_file_is_made_and_predicts(toy_images, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, expected = tmp_path / "plain.onnx", None
    for kind in ("cpu", "mps", "cuda", "xpu"):
        with pretended(kind) if kind != "cpu" else nullcontext(CPU) as device:
            torch.onnx.export(
                Plain(), (torch.zeros(2, 3, 8, 8),), path, dynamo=True,
                dynamic_shapes=({0: "batch"},), verbose=False,
            )  # fmt: skip
            model = load_model(f"onnx:{path}")
            if expected is None:
                expected = predict(model, toy_images, device=device)
                continue
            with pytest.warns(UserWarning, match="runs on the CPU, not on"):
                found = predict(model, toy_images, device=device)
        same(found, expected)


AUGMENTED = {"horizontal_flip": 0.5, "rotation": Rotation(20), "gaussian_noise": GaussianNoise(0.1)}
RECIPES = {
    "mixed": {**AUGMENTED, "mixup": 0.4, "cutmix": 1.0, "random_erasing": RandomErasing()},
    "trivial": {"trivial_augment": True, "clip_gradient_norm": 1.0, "ema_decay": 0.9},
    "random": {"rand_augment": RandAugment(), "rotation_prediction": 0.5, "probe_epochs": 1},
    "augmix": {"augmix": AugMix(all_operations=True), "freeze_batchnorm": True},
    "adversarial": {"adversarial": Adversarial(0.05, steps=2), "optimizer": "sgd"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_networks_are_trained(name, mps, toy_images):
    recipe = Recipe(epochs=2, batch_size=32, **RECIPES[name])
    attack = None
    if recipe.adversarial is not None:
        attack = make_training_attack("pgd", epsilon=0.05, steps=2)
    ends = []
    for on in (mps, CPU):
        model = Plain()
        train, val = toy_images[:64], toy_images[64:]
        *_, last = fit(model, train, val, recipe, head=model.head, device=on, attack=attack)
        ends.append(last)
    found, expected = ends
    assert len(found.history) == len(expected.history) == recipe.epochs
    if name in ("mixed", "adversarial"):  # autocontrast of the others needs float64 to be the same
        assert found.history[-1]["train_loss"] == expected.history[-1]["train_loss"]
        for key, tensor in expected.state["best"].items():
            assert torch.equal(found.state["best"][key], tensor)


def test_a_training_and_a_pre_training_go_on(mps, toy_images, tmp_path):
    run, resume, lines = RunFolder(tmp_path), Resumption("models/a/seed-0", "a" * 16), []

    def stored(state):
        resume.write(run, state)
        return resume.read(run, "train", keep_lines(lines))

    recipe, (train, val) = Recipe(epochs=2, ema_decay=0.9), (toy_images[:64], toy_images[64:])
    *_, last = fit(Plain(), train, val, recipe, device=mps)
    first = next(fit(Plain(), train, val, recipe, device=mps))
    (again,) = fit(Plain(), train, val, recipe, device=mps, state=stored(first.state))
    for key, tensor in last.state["best"].items():
        assert torch.equal(again.state["best"][key], tensor)
    options = {"recipe": tiny("barlow_twins", epochs=2), "features": 32, "device": mps}
    *_, last = pretrain(small_encoder(), toy_images, **options)
    first = next(pretrain(small_encoder(), toy_images, **options))
    (again,) = pretrain(small_encoder(), toy_images, **options, state=stored(first.state))
    assert again.history[-1]["train_loss"] == last.history[-1]["train_loss"]
    assert not lines


@pytest.mark.parametrize("method", PUBLISHED)
def test_encoders_are_pre_trained(method, mps, toy_images):
    if method in ("simclr", "vicreg", "simsiam"):
        pytest.importorskip("lightly")
    probe = NeighbourProbe(toy_images[:48], toy_images[48:])
    recipe = tiny(method, epochs=1)
    found, expected = (
        list(pretrain(small_encoder(), toy_images, recipe, features=32, probe=probe, device=on))[-1]
        for on in (mps, CPU)
    )
    for row, other in zip(found.history, expected.history, strict=True):
        for name in set(row) - {"images_per_second"}:
            assert row[name] == other[name], name
    for one, other in zip(found[2:], expected[2:], strict=True):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)


def with_findings(images):
    """Each class is a finding."""
    return replace(images, labels=(images.labels[:, None] == torch.arange(3)).long())


def test_findings_are_learned_without_float64(mps, toy_images):
    images = with_findings(toy_images)
    probe = NeighbourProbe(images[:48], images[48:], SEVERAL_FINDINGS)
    ends = []
    for on in (mps, CPU):
        options = {"device": on, "loss": SEVERAL_FINDINGS}
        recipe = Recipe(epochs=1, batch_size=32)
        (trained,) = fit(Plain(), images[:64], images[64:], recipe, **options)
        recipe = tiny("rotation", epochs=1)
        (pretrained,) = pretrain(
            small_encoder(), images, recipe, features=32, probe=probe, **options
        )
        ends.append((trained.history[0]["val_auc"], pretrained.history[0]["knn_auc"]))
    assert ends[0] == ends[1]


@pytest.fixture
def gpu():
    with pretended_mode("cuda") as mode:
        yield mode


def test_it_knows_which_operations_wait(gpu):
    there, cpu = torch.ones(2, 3).to(gpu.device), torch.tensor([1, 0])
    mask = there > 0
    assert gpu.waits == ["to"]
    for operation in (
        lambda: float(there.sum()),
        lambda: there.tolist(),
        lambda: bool(mask.all()),
        lambda: mask.nonzero(),
        lambda: torch.where(mask),
        lambda: there[mask],
        lambda: there[cpu],
        lambda: there.copy_(torch.zeros(2, 3)),
        lambda: there.to("cpu"),
        lambda: cpu.to(gpu.device, non_blocking=True),
        lambda: cpu.pin_memory().to(gpu.device),
        lambda: torch.tensor([1.0], device=gpu.device),
    ):
        gpu.waits.clear()
        operation()
        assert len(gpu.waits) == 1
    gpu.waits.clear()
    index = cpu.pin_memory().to(gpu.device, non_blocking=True)
    there[mask], there[index] = 2, there[index]
    torch.where(mask, there, 0).add_(torch.tensor(1.0)).to("cpu", non_blocking=True)
    torch.full((2,), 0.5, device=gpu.device)
    assert gpu.waits == []


def test_what_cannot_be_page_locked_is_sent_nevertheless(gpu, monkeypatch):
    numbers = torch.arange(3)
    assert gpu.has(send(numbers, gpu.device))
    assert gpu.waits == []

    def fail(_):
        raise RuntimeError(message)

    monkeypatch.setattr(torch.Tensor, "pin_memory", fail)
    message = "CUDA error: out of memory"
    assert send(numbers, gpu.device).cpu().tolist() == [0, 1, 2]
    message = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal"):
        send(numbers, gpu.device)


class AtOnce:
    """In place of a thread, which would not know the pretended device."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


@pytest.fixture(params=["on the GPU", "gathered"])
def waits_of_a_step(request, gpu, monkeypatch):
    """The operations that wait in the steps between the first and the last of a training."""
    if request.param == "gathered":
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
        monkeypatch.setattr(batches, "ThreadPoolExecutor", AtOnce)

    def count(train, *args, **options):
        ends = []
        options |= {"device": gpu.device, "after_step": lambda _: ends.append(len(gpu.waits))}
        list(train(*args, **options))
        assert len(ends) == 3
        return gpu.waits[ends[0] : ends[-1]]

    return count


STEPS = {
    "plain": {},
    "flip": {"horizontal_flip": 0.5},
    "mixup": {"vertical_flip": 0.5, "rotation": Rotation(20), "mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "disturbed": {"gaussian_noise": GaussianNoise(0.1), "random_erasing": RandomErasing()},
    "trivial": RECIPES["trivial"],
    "random": {"rand_augment": RandAugment()},
    "augmix": RECIPES["augmix"],
    "turned": {"rotation_prediction": 0.5, "optimizer": "sgd"},
    "findings": {"asymmetric_loss": AsymmetricLoss(), "mixup": 0.4},
}


@pytest.mark.parametrize("name", STEPS)
def test_no_step_of_a_training_waits_for_a_gpu(name, waits_of_a_step, toy_images):
    recipe, model, loss = Recipe(epochs=1, batch_size=16, **STEPS[name]), Plain(), ONE_CLASS
    if name == "findings":
        toy_images, loss = with_findings(toy_images), SEVERAL_FINDINGS
    train, val = toy_images[:64], toy_images[64:]
    assert waits_of_a_step(fit, model, train, val, recipe, head=model.head, loss=loss) == []


@pytest.mark.parametrize("method", PUBLISHED)
def test_no_step_of_a_pre_training_waits_for_a_gpu(method, waits_of_a_step, toy_images):
    if method in ("simclr", "vicreg", "simsiam"):
        pytest.importorskip("lightly")
    recipe = tiny(method, epochs=1, batch_size=16)
    found = waits_of_a_step(pretrain, small_encoder(), toy_images[:64], recipe, features=32)
    # Two losses of lightly pick numbers by a mask, which no code of ours can change.
    assert set(found) == ({"__getitem__"} if method in ("simclr", "vicreg") else set())


def test_a_gpu_evaluates_all_batches_before_a_loss_is_read(gpu, toy_images):
    seen = []

    class Told(Plain):
        def forward(self, images):
            if not self.training:
                seen.append(len(gpu.waits))
            return super().forward(images)

    train, val = toy_images[:32], toy_images[32:]
    list(fit(Told(), train, val, Recipe(epochs=1, batch_size=8), device=gpu.device))
    assert len(seen) == 2 + 4
    assert len(set(seen[:2])) == len(set(seen[2:])) == 1

"""Published natural shifts in a whole run: class mask, several right classes, soft labels."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch
from PIL import Image
from scipy.special import log_softmax

import fairweather as fw
from fairweather.data.natural_sets import CIFAR_CLASSES, NATURAL_SETS, read_wnids
from fairweather.errors import InputError
from fairweather.judge.known_cells import _iter_cells
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.judge.verification import verify
from fairweather.metrics import per_image
from fairweather.models.building import load_checkpoint
from fairweather.requests.study.schema import check_study
from fairweather.steps.predictions import read_fitted
from fairweather.steps.run_model import open_images, open_run_model
from fairweather.types.options import Preparation
from fairweather.types.record import ChoicesRecord, predictions_file
from tests.conftest import TINY_RESNET
from tests.data.test_named_sets import publish_cifar, write_cifar
from tests.data.test_natural_sets import write_objectnet
from tests.helpers.commands import fairweather

pytestmark = pytest.mark.usefixtures("undrawn")

WNIDS = read_wnids()
IN_R = NATURAL_SETS["imagenet-r"].choices
# Twelve classes of ImageNet, five of them in ImageNet-R; 409, 530 and 671 are in ObjectNet.
NUMBERS = (0, 1, 2, 4, 65, 230, 231, 409, 530, 671, 879, 980)
CLASSES = tuple(WNIDS[number] for number in NUMBERS)
CALIBRATIONS = ["temperature", "vector_scaling", "isotonic"]
MODEL = """
import torch

class Projected(torch.nn.Module):
    classes = {classes}

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("weights", torch.randn(48, len(self.classes), generator=generator))

    def forward(self, images):
        small = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) - 0.5
        return 2 * small @ self.weights

def make():
    return Projected()
"""


def write_network(folder, classes=CLASSES):
    (folder / "net.py").write_text(MODEL.format(classes=list(classes)))
    return f"python:{folder / 'net.py'}:make"


def write_noise(path, rng, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((side // 4, side // 4, 1)))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Validation images in folders of WordNet numbers, renditions, and a model of 12 classes."""
    root, rng = tmp_path_factory.mktemp("natural"), np.random.default_rng(0)
    for number in range(72):
        write_noise(root / f"val/{CLASSES[number % 12]}/ILSVRC2012_val_{number + 1:08d}.png", rng)
    for wnid in [name for name in CLASSES if name in IN_R][:4]:
        for number in range(8):
            write_noise(root / f"r/{wnid}/{number}.png", rng)
    return root


def network_logits(model, images):
    with torch.no_grad():
        return fw.load_model(model)(images.images.float() / 255).numpy()


def stored(run, name, model=None):
    (own,) = run.record.models
    return run.folder.read_predictions(
        predictions_file(model or own, 0, "clean", f"natural/{name}")
    )


def test_a_class_mask_in_a_run(folder, tmp_path, draw, capsys):
    model, data = write_network(tmp_path), f"folder:{folder / 'val'}"
    run = fw.evaluate(
        model,
        data,
        "clean",
        natural=(f"imagenet-r:{folder / 'r'}", f"plain=folder:{folder / 'r'}"),
        variants=CALIBRATIONS,
        validation_fraction=0.5,
        bootstrap=100,
        out=tmp_path / "run",
    )
    images = fw.load_data(f"folder:{folder / 'r'}", test_fraction=1.0).test
    logits = network_logits(model, images)
    places = [CLASSES.index(name) for name in CLASSES if name in IN_R]
    assert len(places) == 5
    own = np.array([CLASSES.index(images.classes[label]) for label in images.labels])
    expected = np.array(places)[logits[:, places].argmax(axis=1)] == own
    masked, plain = stored(run, "imagenet-r"), stored(run, "plain")
    assert np.array_equal(masked.correct, expected)
    assert np.array_equal(plain.correct, logits.argmax(axis=1) == own)
    nll = -log_softmax(logits[:, places].astype(float), axis=1)
    assert np.allclose(
        masked.nll, nll[np.arange(len(own)), np.searchsorted(places, own)], atol=1e-5
    )
    assert run.record.choices == {"imagenet-r": ChoicesRecord(classes=5)}
    (name,) = run.record.models
    for variant in CALIBRATIONS:
        file = f"variants/{name}+{variant}/seed-0/{variant}.json"
        changed = read_fitted(run.folder, variant, file).change(logits)[:, places].astype(float)
        scaled = stored(run, "imagenet-r", f"{name}+{variant}")
        assert np.array_equal(scaled.correct, np.array(places)[changed.argmax(axis=1)] == own)
        losses = -log_softmax(changed, axis=1)[np.arange(len(own)), np.searchsorted(places, own)]
        assert np.allclose(scaled.nll, losses, atol=1e-4), variant
    passed, *_ = judge(run.folder, read_rules(["accuracy[natural/imagenet-r] >= 0.01"]))
    assert passed.value == pytest.approx(expected.mean(), abs=1e-7)
    draw(run, figures=False)
    page = (run.path / "report.html").read_text()
    assert "chosen among 5 of 12 (class mask)" in capsys.readouterr().err
    sentence = "On imagenet-r, the model chooses among 5 of the 12 classes (class mask), which is"
    assert sentence in page
    assert "On plain" not in page
    # A guard and an estimate have no mask, so they do not know this set; they know the other.
    cells = [cell[0] for cell in _iter_cells(open_run_model(str(run.path)))]
    assert "natural/plain" in cells
    assert "natural/imagenet-r" not in cells


def test_a_study_its_ensemble_its_seeds_and_its_checks(folder, tmp_path):
    """Every seed, the ensemble and a variant that adapts choose among the classes of the set."""
    study = {
        "name": "natural",
        "data": {"source": f"folder:{folder / 'val'}", "size": 16},
        "natural": [f"imagenet-r:{folder / 'r'}"],
        "seeds": [0, 1],
        "ensemble": True,
        "variants": ["temperature", "batchnorm"],
        "bootstrap": 100,
        "models": {
            "m": {"title": "M", "backbone": TINY_RESNET, "stem": "small", "recipe": {"epochs": 1}}
        },
    }
    run = fw.run(check_study(study), out=tmp_path / "run", device="cpu")
    chosen = {CLASSES.index(name) for name in CLASSES if name in IN_R}
    for model in ("m", "m+temperature", "m+batchnorm"):
        for seed in (0, 1, "ensemble"):
            if (model, seed) == ("m+batchnorm", "ensemble"):
                continue
            file = predictions_file(model, seed, "clean", "natural/imagenet-r")
            stored_cell = run.folder.read_predictions(file)
            assert set(stored_cell.predicted.tolist()) <= chosen, file
            shares = scipy.special.softmax(stored_cell.logits.astype(float), axis=1)
            assert np.allclose(shares.max(axis=1), stored_cell.confidence)
            assert np.allclose(shares[:, sorted(chosen)].sum(axis=1), 1)
    # The ensemble averages all its members' probabilities; then the mask divides by their sum.
    networks = [load_checkpoint(run.path / f"models/m/seed-{seed}") for seed in (0, 1)]
    images = fw.load_data(f"imagenet-r:{folder / 'r'}", size=16, test_fraction=1.0).test
    pixels = images.images.float() / 255
    with torch.no_grad():
        each = [scipy.special.softmax(net.eval()(pixels).numpy(), axis=1) for net in networks]
    mean = np.mean(each, axis=0)[:, sorted(chosen)]
    together = run.folder.read_predictions(
        predictions_file("m", "ensemble", "clean", "natural/imagenet-r")
    )
    expected = mean.max(axis=1) / mean.sum(axis=1)
    assert np.allclose(together.confidence, expected, atol=1e-5)
    assert verify(run.path).is_confirmed
    packed = fw.pack_run(run.path, tmp_path / "packed")
    assert packed.record.choices == run.record.choices == {"imagenet-r": ChoicesRecord(classes=5)}


def test_the_command_names_the_set_itself(folder, tmp_path):
    done = fairweather(
        *("evaluate", write_network(tmp_path), f"folder:{folder / 'val'}", "--shift", "clean"),
        *("--natural", f"ImageNet_R:{folder / 'r'}", "--out", tmp_path / "run"),
        *("--bootstrap", "100"),
    )
    assert done.returncode == 0, done.stderr
    assert "imagenet-r" in done.stderr + done.stdout
    assert list(open_run_model(str(tmp_path / "run")).record.natural) == ["imagenet-r"]


def test_reassessed_labels_of_the_same_images(folder, tmp_path, draw):
    model = write_network(tmp_path)
    shutil.copytree(folder / "val", tmp_path / "val")
    # Image 1 has no right class, image 2 its own and another, image 3 only another.
    right = [[NUMBERS[number % 12]] for number in range(72)]
    right[0], right[1], right[2] = [], [NUMBERS[5], NUMBERS[1]], [NUMBERS[5]]
    for number in range(12, 72, 5):
        right[number] = [*right[number], NUMBERS[(number + 3) % 12], NUMBERS[(number + 6) % 12]]
    (tmp_path / "val" / "real.json").write_text(json.dumps(right))
    given = {"imagenet-real": f"imagenet-real:{tmp_path / 'val'}"}
    data = f"folder:{folder / 'val'}"
    run = fw.evaluate(model, data, "clean", natural=given, bootstrap=100, out=tmp_path / "run")
    found = stored(run, "imagenet-real")
    assert len(found) == 71
    images = fw.load_data(f"imagenet-real:{tmp_path / 'val'}", test_fraction=1.0).test
    logits = network_logits(model, images)
    number = [int(name[-12:-4]) - 1 for name in images.names]
    sets = [{NUMBERS.index(place) for place in right[image]} for image in number]
    answers = logits.argmax(axis=1)
    expected = [answer in allowed for answer, allowed in zip(answers, sets, strict=True)]
    assert found.correct.tolist() == expected
    logs = log_softmax(logits.astype(float), axis=1)
    sums = [np.exp(row[list(allowed)]).sum() for row, allowed in zip(logs, sets, strict=True)]
    assert np.allclose(found.nll, -np.log(sums), atol=1e-5)
    assert run.record.choices["imagenet-real"] == ChoicesRecord(
        classes=12, judged="several", same_images=True
    )
    draw(run, figures=False)
    page = (run.path / "report.html").read_text()
    assert "an answer is right if it is one of them" in page
    assert "The images of imagenet-real are those of the data" in page
    # The same pixels under another name stay an error.
    with pytest.raises(InputError, match="same pixels"):
        fw.evaluate(model, data, "clean", natural={"b": data}, out=tmp_path / "again")
    with pytest.raises(InputError, match=r"with --natural imagenet-real:"):
        fw.evaluate(model, given["imagenet-real"], "clean", out=tmp_path / "own")


def test_objectnet_in_a_run(folder, tmp_path):
    """Both clocks are right for an alarm clock; only the five classes of ObjectNet count."""
    model = write_network(tmp_path)
    root = write_objectnet(tmp_path / "objectnet")
    run = fw.evaluate(
        *(model, f"folder:{folder / 'val'}", "clean"),
        natural=(f"objectnet:{root}",),
        bootstrap=100,
        out=tmp_path / "run",
    )
    found = stored(run, "objectnet")
    images = fw.load_data(f"objectnet:{root}", size=16, test_fraction=1.0).test
    logits = network_logits(model, images)
    chosen = [NUMBERS.index(number) for number in (409, 530, 671, 879)]  # 444 is no class here
    answers = np.array(chosen)[logits[:, chosen].argmax(axis=1)]
    clocks, bicycles = [chosen[0], chosen[1]], [chosen[2]]
    expected = [answer in clocks for answer in answers[:2]]
    expected += [answer in bicycles for answer in answers[2:]]
    assert found.correct.tolist() == expected
    assert found.labels.tolist() == [chosen[0]] * 2 + [chosen[2]] * 2
    assert run.record.choices["objectnet"] == ChoicesRecord(classes=4, judged="several")


def test_given_predictions_choose_among_the_classes_of_the_set(folder, tmp_path):
    """Columns of other classes are left out, so a table of 12 classes needs no mask."""
    images = fw.load_data(f"imagenet-r:{folder / 'r'}", test_fraction=1.0).test
    logits = np.random.default_rng(2).normal(0, 2, (len(images), 12)).astype(np.float32)
    table = pd.DataFrame(logits, columns=[f"logit_{name}" for name in CLASSES])
    table.assign(file=images.names).to_csv(tmp_path / "mine.csv", index=False)
    data = f"imagenet-r:{folder / 'r'}"
    run = fw.evaluate(predictions=tmp_path / "mine.csv", dataset=data, out=tmp_path / "run")
    found = run.folder.read_predictions(predictions_file("mine", 0, "clean"))
    places = [CLASSES.index(name) for name in images.classes]
    expected = per_image(logits[:, places], images.labels.numpy())
    assert np.array_equal(found.predicted, expected.predicted)
    assert np.allclose(found.nll, expected.nll, atol=1e-5)
    root = write_objectnet(tmp_path / "objectnet")
    with pytest.raises(InputError, match=r"other labels than one class.*--natural objectnet:"):
        fw.evaluate(
            predictions=tmp_path / "mine.csv", dataset=f"objectnet:{root}", out=tmp_path / "b"
        )


def test_findings_have_no_class_mask(folder, tmp_path):
    with pytest.raises(InputError, match="has a class mask or other labels, and these data have"):
        fw.evaluate(
            *(write_network(tmp_path), f"folder:{folder / 'val'}", "clean"),
            natural=[f"imagenet-r:{folder / 'r'}"],
            positive=CLASSES[0],
            out=tmp_path / "run",
        )


def test_new_images_with_several_right_classes_count_as_unlabelled(folder, tmp_path):
    """An estimate compares with one label an image; elsewhere it would say too little."""
    root, size = write_objectnet(tmp_path / "objectnet"), Preparation(16)
    new = open_images(f"objectnet:{root}", CLASSES, size)
    assert (new.labelled, new.other_classes) == (False, ())
    assert open_images(f"imagenet-r:{folder / 'r'}", CLASSES, size).labelled
    other = open_images(f"imagenet-r:{folder / 'r'}", ("cat", "dog"), size)
    assert (other.labelled, len(other.other_classes)) == (False, 4)


def test_soft_labels_beside_the_plain_ones(tmp_path, monkeypatch, draw):
    folder = write_cifar(tmp_path / "cifar" / "cifar-10-batches-py")
    publish_cifar(monkeypatch, folder)
    model = write_network(tmp_path, CIFAR_CLASSES)
    test = fw.load_data("cifar10", root=tmp_path / "cifar").test
    rng = np.random.default_rng(1)
    counts = rng.multinomial(10, np.full(10, 0.1), len(test))
    counts[np.arange(len(test)), test.labels.numpy()] += 40
    np.save(tmp_path / "cifar" / "cifar10h-probs.npy", counts / counts.sum(axis=1, keepdims=True))
    run = fw.evaluate(
        *(model, "cifar10", "clean"),
        root=tmp_path / "cifar",
        natural=(f"cifar-10h:{tmp_path / 'cifar'}",),
        variants=["temperature"],
        validation_fraction=0.3,
        bootstrap=100,
        out=tmp_path / "run",
    )
    logits = network_logits(model, test).astype(float)
    shares = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32).astype(float)
    found = stored(run, "cifar-10h")
    logs = log_softmax(logits, axis=1)
    assert np.allclose(found.nll, -(shares * logs).sum(axis=1), atol=1e-5)
    assert np.allclose(found.brier, np.square(np.exp(logs) - shares).sum(axis=1), atol=1e-5)
    (name,) = run.record.models
    clean = run.folder.read_predictions(predictions_file(name, 0, "clean"))
    assert np.array_equal(clean.correct, found.correct)
    assert np.allclose(clean.nll, -logs[np.arange(len(test)), test.labels.numpy()], atol=1e-5)
    fit = json.loads(
        (run.path / f"variants/{name}+temperature/seed-0/temperature.json").read_text()
    )
    scaled = log_softmax(logits / fit["value"], axis=1)
    calibrated = stored(run, "cifar-10h", f"{name}+temperature")
    assert np.allclose(calibrated.nll, -(shares * scaled).sum(axis=1), atol=1e-5)
    draw(run, figures=False)
    assert (
        "compare the probabilities with the shares of people"
        in (run.path / "report.html").read_text()
    )

"""A guard keeps its promise, is the same as a folder, and loads as data alone."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import fairweather as fw
from fairweather.deploy import making as fitting
from fairweather.deploy.answer_table import write_answers
from fairweather.deploy.graph import ARITHMETIC, OPERATIONS, Graph, GraphNetwork
from fairweather.deploy.guard import Guard, GuardOutputs, Likeness
from fairweather.deploy.loading import make_promise
from fairweather.deploy.making import make_guard, save_guard, save_onnx
from fairweather.deploy.promise import Fit, GuardRecord, Promise, PromiseCheck, ShareInterval
from fairweather.deploy.tracing import export_onnx, trace
from fairweather.errors import InputError
from fairweather.metrics import Grouping, per_image, set_columns, softmax
from fairweather.metrics.columns import clopper_pearson
from fairweather.models.opening import load_model
from fairweather.models.wrappers import GrayInput
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import StoredGroups
from fairweather.steps.run_model import open_run_model
from fairweather.types.measurement import Images, Predictions
from fairweather.types.options import read_share
from fairweather.types.record import CLEAN, VAL, ModelRecord, predictions_file
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.prediction_sets import split_halves
from fairweather.variants.scaling import fit_temperature
from tests.conftest import TINY_EFFICIENTNET, TINY_RESNET, write_pictures
from tests.helpers.chance import most
from tests.helpers.commands import fairweather
from tests.helpers.run_folders import finish, outcomes, run_record, write_run
from tests.requests.test_evaluate import write_model

pytestmark = pytest.mark.usefixtures("undrawn")

PROMISE = Promise(risk=0.3, certainty=0.8, coverage=0.8)
ASKED = ("--risk", "30%", "--confidence", "80%", "--coverage", "80%")
SIDE = 16


# ---------------------------------------------------------------- a run with a model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), train=40, val=24, test=8)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A study of two seeds with an ensemble, whose colours are easy to tell apart."""
    recipe = {"epochs": 6, "batch_size": 16, "learning_rate": 1e-2}
    study = {
        "name": "small",
        "data": {"source": f"folder:{pictures}"},
        "seeds": 2,
        "ensemble": True,
        "bootstrap": 100,
        "shifts": [{"brightness_factor": {"factor": [0.5]}}],
        "models": {"basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": recipe}},
    }
    out = tmp_path_factory.mktemp("runs") / "small"
    return fw.run(check_study(study), out=out, device="cpu").path


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """A guard of one seed, made and saved by the command line."""
    folder = tmp_path_factory.mktemp("guards") / "guard"
    done = fairweather("guard", f"{trained}:basic:0", folder, *ASKED, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "at most 30 % of the answers are wrong, with 80 % confidence" in done.stdout
    assert done.stderr == f"next    fairweather predict {folder} images:FOLDER\n"
    return folder


@pytest.fixture(scope="module")
def batch(trained, pictures):
    """The run's test images."""
    from fairweather.steps.run_model import open_images

    model = open_run_model(f"{trained}:basic:0")
    return open_images(f"folder:{pictures}/test", model.classes, model.preparation).images


def made(trained, seed):
    return make_guard(open_run_model(f"{trained}:basic:{seed}"), PROMISE, device="cpu")


def assert_same(one, other):
    assert one.classes == other.classes
    assert one.answered.tolist() == other.answered.tolist()
    assert one.sets == other.sets
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def test_a_saved_guard_says_what_the_guard_of_the_run_says(trained, saved, batch):
    loaded, of_run = fw.load_guard(saved, device="cpu"), made(trained, 0)
    assert loaded.record.promise == PROMISE
    assert loaded.record.fit == of_run.record.fit
    assert loaded.record.kept == of_run.record.kept
    assert_same(loaded(batch.images), of_run(batch.images))
    stored = open_run_model(f"{trained}:basic:0").run.read_predictions(
        predictions_file("basic", 0, CLEAN)
    )
    expected = softmax(stored.logits / np.float32(loaded.record.fit.temperature))
    np.testing.assert_allclose(loaded(batch.images).probabilities, expected, atol=1e-4)
    np.testing.assert_allclose(loaded.reference.features, of_run.reference.features, atol=1e-3)


def test_an_ensemble_is_one_graph(trained, batch, tmp_path):
    of = open_run_model(f"{trained}:basic")
    of_run = made(trained, "ensemble")
    save_guard(of_run, of, tmp_path / "guard")
    assert_same(fw.load_guard(tmp_path / "guard", device="cpu")(batch.images), of_run(batch.images))


def test_answers_are_what_the_record_says(saved, batch):
    guard = fw.load_guard(saved, device="cpu")
    answers, fit = guard(batch.images), guard.record.fit
    for row, name, sure, answered, names in zip(
        answers.probabilities, answers.classes, answers.confidence, answers.answered, answers.sets,
        strict=True,
    ):  # fmt: skip
        assert name == guard.record.classes[int(row.argmax())]
        assert sure == row.max()
        assert answered == (sure >= fit.threshold)
        by_chance = sorted(zip(row, guard.record.classes, strict=True), reverse=True)
        assert list(names) == ([each for p, each in by_chance if 1 - p <= fit.quantile] or [name])


def test_no_set_is_empty():
    """An accurate model needs no class to be more probable than it is to keep the coverage."""
    logits = np.array([[9, 0, 0], [2, 1, 0], [0, 2, 1]], np.float32)
    guard = guard_of(GuardOutputs(logits, None), quantile=0.1)
    answers = guard.answers(GuardOutputs(logits, None))
    assert answers.confidence.round(2).tolist() == [1, 0.67, 0.67]
    assert answers.answered.all()
    assert answers.sets == (("a",), ("a",), ("b",))


def test_every_form_of_a_batch_gives_the_same_answers(saved, batch, pictures):
    guard = fw.load_guard(saved, device="cpu")
    answers = guard(batch.images)
    assert_same(guard(batch.images.numpy()), answers)
    opened = [Image.open(pictures / "test" / name) for name in batch.names]
    assert_same(guard(opened), answers)
    assert_same(guard(batch.images[:1]), type(answers)(*(each[:1] for each in answers)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"takes images \[B, 3"),
        (np.zeros((0, 3, 16, 16), np.uint8), "at least one image, found none"),
        (Image.new("RGB", (16, 16)), "put the one image into a list"),
        (np.zeros((2, 3, 16, 16), np.float32), "uint8"),
        (np.zeros((2, 16, 16, 3), np.uint8), "uint8"),
        ([], "list of PIL images"),
        (None, "list of PIL images"),
        (["a.png"], "list of PIL images"),
    ],
)
def test_what_is_no_batch_is_named(saved, wrong, words):
    with pytest.raises(InputError, match=words):
        fw.load_guard(saved, device="cpu")(wrong)


def test_a_guard_says_what_it_is(saved, trained):
    guard = fw.load_guard(saved)
    assert repr(guard) == "Guard('Basic', risk <= 30 %)"
    lines = guard.record.lines()
    assert list(lines) == ["promised", "sets", "tested", "shifted"]
    assert "They also chose the epoch" in lines["promised"]
    assert lines["sets"].endswith("on average over draws of validation images")
    assert [each.images for each in guard.record.kept] == [
        "validation", "clean", "brightness_factor,factor=0.5",
    ]  # fmt: skip
    with pytest.raises(InputError, match="promises already"):
        fw.load_guard(saved, risk=0.1)
    with pytest.raises(InputError, match="the risk is missing"):
        fw.load_guard(trained)
    with pytest.raises(InputError, match="no file or folder 'nothing'"):
        fw.load_guard("nothing")


def test_a_model_from_elsewhere_is_guarded_too(pictures, tmp_path):
    """Of a data set with three splits, its own validation images choose."""
    run = fw.evaluate(
        write_model(tmp_path), f"folder:{pictures}", "brightness_factor: [0.5]",
        out=tmp_path / "run", variants=["temperature"], bootstrap=100, device="cpu",
    )  # fmt: skip
    guard = fw.load_guard(run.path, risk=0.3, confidence=0.8, coverage=0.8, device="cpu")
    assert guard.record.fit.chose == "unknown"
    promised = guard.record.lines()["promised"]
    assert "epoch" not in promised
    assert promised.endswith("Valid only if the model was not trained on these images")
    opened = [Image.open(path) for path in sorted((pictures / "test").rglob("*.png"))]
    assert len(guard(opened).classes) == 24


# ---------------------------------------------------------------- a service


REFUSED = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "pyarrow", "torchvision", "timm", "transformers"):
            raise ImportError(f"{name} is not installed here")
        rooms = ("data", "deploy", "devices", "errors", "metrics", "small_maps", "tasks", "types")
        makers = ("deploy.making", "deploy.tracing")
        ours, _, inside = name.partition(".")
        is_other = inside.split(".")[0] not in rooms or inside in makers
        if inside.startswith("data.") and inside != "data.pixels":
            is_other = True
        if ours == "fairweather" and inside and is_other:
            raise ImportError(f"{name} is not for a service")

sys.meta_path.insert(0, Refused())
import numpy as np
import fairweather as fw

guard = fw.load_guard(sys.argv[1], device="cpu")
images = np.load(sys.argv[2])
answers = guard(images)
guard.check(images)
assert "pandas" not in sys.modules
print(",".join(answers.classes))
"""


def test_a_service_loads_a_guard_without_the_code_that_trains(saved, batch, tmp_path):
    np.save(tmp_path / "batch.npy", batch.images.numpy())
    command = [sys.executable, "-c", REFUSED, saved, tmp_path / "batch.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = fw.load_guard(saved, device="cpu")(batch.images).classes
    assert done.stdout.strip() == ",".join(expected)


# ---------------------------------------------------------------- foreign folders


def rewritten(saved, folder, changes):
    """A copy of a guard with files changed, and their checksums made right again."""
    copy = shutil.copytree(saved, folder)
    for name, change in changes.items():
        path = copy / name
        path.write_bytes(change(path.read_bytes()))
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in copy.iterdir() if path.name != "checksums.json"
    }  # fmt: skip
    (copy / "checksums.json").write_text(json.dumps(sums))
    return copy


def json_with(change):
    def changed(content):
        read = json.loads(content)
        change(read)
        return json.dumps(read).encode()

    return changed


def first(kind, *arguments):
    """Put an operation before all others, whose result is what the network gives."""

    def change(graph):
        graph["operations"].insert(0, ["bad", kind, list(arguments), {}])
        graph["logits"], graph["features"] = "bad", None

    return json_with(change)


def beside(kind, *arguments):
    """Put an operation before all others, whose result nobody uses."""
    return json_with(
        lambda graph: graph["operations"].insert(0, ["beside", kind, list(arguments), {}])
    )


def squares(steps):
    """Square a number again and again, which has no end for numbers of Python."""
    return json_with(
        lambda graph: graph["operations"].extend(
            [f"square{at + 1}", "mul", [{"of": f"square{at}"} if at else 3] * 2, {}]
            for at in range(steps)
        )
    )


def of_record(*path, to):
    def change(record):
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to

    return json_with(change)


IMAGES = {"of": "images"}
HOSTILE = {
    "an operation that reads a file": ("graph.json", first("from_file.default", "/etc/passwd")),
    "no operation": ("graph.json", first("__class__", IMAGES)),
    "a function of Python": ("graph.json", first("system", "true")),
    "a later result": ("graph.json", first("relu.default", {"of": "later"})),
    "no weight": ("graph.json", first("relu.default", {"weight": "none"})),
    "the wrong shape": ("graph.json", first("relu.default", IMAGES)),
    "a number": ("graph.json", first("sym_size.int", IMAGES, 0)),
    "wrong arguments": ("graph.json", first("relu.default", IMAGES, 3, 4)),
    "too large": ("graph.json", first("zeros.default", [2**40, 2**20])),
    "an item of nothing": ("graph.json", first("getitem", IMAGES, 99)),
    "a division by zero": ("graph.json", first("floordiv", 1, 0)),
    "a long text": ("graph.json", first("mul", "a", 10**12)),
    "a long list": ("graph.json", first("mul", [0], 10**9)),
    "a long range": ("graph.json", first("arange.default", 2**70)),
    "a number without end": ("graph.json", squares(60)),
    "an item of a text": ("graph.json", first("getitem", "text", 0)),
    "an item of no place": ("graph.json", first("getitem", IMAGES, [0])),
    "no graph": ("graph.json", lambda _: b"[]"),
    "no JSON": ("graph.json", lambda _: b"\xff"),
    "deep JSON": ("graph.json", lambda _: b'{"a":' * 10**5),
    "another version": ("graph.json", json_with(lambda graph: graph.update(version=2))),
    "no tensors": ("weights.safetensors", lambda _: b"text"),
    "a cut file": ("weights.safetensors", lambda content: content[:200]),
    "a pickle": ("weights.safetensors", lambda _: b"\x80\x04cos\nsystem\n."),
    "no reference": (
        "reference.safetensors", lambda _: safetensors.torch.save({"x": torch.zeros(1)}),
    ),
    "other classes": ("guard.json", of_record("classes", to=["a", "b"])),
    "a class of two lines": ("guard.json", of_record("classes", to=["a\nb", "b", "c"])),
    "a size": ("guard.json", of_record("size", to=[10**6, 10**6])),
    "a threshold": ("guard.json", of_record("fit", "threshold", to="inf")),
    "a temperature": ("guard.json", of_record("fit", "temperature", to=0)),
    "a filter": (
        "guard.json",
        of_record("preparation", to=[SIDE, None, "__import__", "crop"]),
    ),
    "a preparation of another size": (
        "guard.json", of_record("preparation", to=[8, None, "bilinear", "crop"]),
    ),
    "a large preparation": (
        "guard.json", of_record("preparation", to=[SIDE, 10**9, "bilinear", "squash"]),
    ),
    "a small preparation": (
        "guard.json", of_record("preparation", to=[SIDE, 0, "bilinear", "crop"]),
    ),
    "a key": ("guard.json", of_record("more", to=1)),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_foreign_folder_is_refused_with_a_sentence(case, saved, tmp_path):
    name, change = HOSTILE[case]
    folder = rewritten(saved, tmp_path / "guard", {name: change})
    with pytest.raises(InputError) as refused:
        fw.load_guard(folder, device="cpu")
    assert str(folder) in str(refused.value)


SHORT, ONES = {"weight": "short"}, {"weight": "ones"}  # two numbers, and one for each channel
KEYS = {"weight": "keys"}  # two for each channel
IMPURE = {
    "batch norm of other channels": (
        "_native_batch_norm_legit_no_training.default", IMAGES, *[SHORT] * 4, 0.1, 1e-5,
    ),
    "batch norm that learns": (
        "batch_norm.default", IMAGES, None, None, ONES, ONES, True, 0.1, 1e-5, False,
    ),
    "instance norm that learns": (
        "instance_norm.default", IMAGES, None, None, ONES, ONES, True, 0.1, 1e-5, False,
    ),
    "in place": ("add_.Tensor", ONES, 1),
    "dropout that draws": ("dropout.default", IMAGES, 0.5, True),
    "dropout that may draw": ("dropout.default", IMAGES, 0.5, 1),
    "a type that is none": ("softmax.int", IMAGES, 1, -2),
    "a layout that is none": ("to.dtype", IMAGES, {"dtype": "float32"}, False, False, 99),
    "attention to more values than keys": (
        "scaled_dot_product_attention.default", IMAGES, KEYS, IMAGES,
    ),
    "attention that draws": ("scaled_dot_product_attention.default", *[IMAGES] * 3, None, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPURE)
def test_a_network_that_draws_learns_or_reads_beyond_its_weights_is_refused(case, saved, tmp_path):
    def more(content):
        tensors = {
            "short": torch.ones(2), "ones": torch.ones(3), "keys": torch.ones(1, 3, 2, SIDE),
        }  # fmt: skip
        return safetensors.torch.save(safetensors.torch.load(content) | tensors)

    changes = {"graph.json": beside(*IMPURE[case]), "weights.safetensors": more}
    said = r"graph\.json asks for|should contain 3 elements not 2|2 keys and 16 values"
    with pytest.raises(InputError, match=said):
        fw.load_guard(rewritten(saved, tmp_path / "guard", changes), device="cpu")


ALTERED = """
import copy, hashlib, json, pathlib, random, sys
import safetensors.torch, torch
from fairweather.errors import InputError
from fairweather.deploy.graph import OPERATIONS
from fairweather.deploy.guard import open_guard

folder = pathlib.Path(sys.argv[1])
sums = json.loads((folder / "checksums.json").read_bytes())

def write(name, content):
    (folder / name).write_bytes(content)
    sums[name] = hashlib.sha256(content).hexdigest()

graph = json.loads((folder / "graph.json").read_bytes())
weights = safetensors.torch.load((folder / "weights.safetensors").read_bytes())
kinds, names = sorted(OPERATIONS), list(weights)
batch = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
changes = (lambda x: x[:1], lambda x: x.double(), lambda x: x.flatten(), lambda x: x[:0])
opened = 0
for seed in range(60):
    draw = random.Random(seed)
    new, tensors = copy.deepcopy(graph), dict(weights)
    place = draw.randrange(len(new["operations"]))
    operation = new["operations"][place]
    if seed % 4 == 0:
        operation[1] = draw.choice(kinds)
    elif seed % 4 == 1:
        name = draw.choice(names)
        tensors[name] = draw.choice(changes)(torch.atleast_1d(tensors[name])).contiguous()
    else:
        earlier = ["images", *(each[0] for each in new["operations"][:place])]
        given = (0, -1, 2, 1e30, True, None, [], [0, 2], {"weight": draw.choice(names)})
        arguments = operation[2]
        argument = draw.choice([*given, {"of": draw.choice(earlier)}])
        arguments[draw.randrange(len(arguments))] = argument
    write("graph.json", json.dumps(new).encode())
    write("weights.safetensors", safetensors.torch.save(tensors))
    (folder / "checksums.json").write_text(json.dumps(sums))
    try:
        guard = open_guard(folder, device="cpu")
        one, two = guard(batch), guard(batch)
    except InputError:
        continue
    assert (one.probabilities == two.probabilities).all(), seed
    opened += 1
print(opened)
"""


def test_an_altered_guard_is_refused_or_answers_alike_each_time(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "guard")
    command = [sys.executable, "-c", ALTERED, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # a signal would have ended the interpreter
    assert 0 < int(done.stdout) < 60


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("mul", (2**40, 2**40)),
        ("add", (2**62, 1)),
        ("sub", (-(2**62), 1)),
        ("add", (2**63, -(2**63))),
        ("mul", ([0], 2)),
        ("add", ([0], [0])),
        ("mul", (True, 2)),
        ("floordiv", (1.0, 2)),
        ("sub", (torch.ones(2), 1)),
        ("getitem", ("text", 0)),
        ("getitem", ({0: 1}, 0)),
        ("getitem", ([1], [0])),
        ("getitem", (torch.ones(2), slice(1))),
        ("getitem", ([1], 1)),
    ],
)
def test_a_graph_calculates_with_sizes_only(kind, arguments):
    with pytest.raises((ValueError, TypeError, IndexError)):
        ARITHMETIC[kind](*arguments)
    assert ARITHMETIC["floordiv"](2**62, 3) == 2**62 // 3
    assert ARITHMETIC["getitem"]((torch.ones(2), 7), 1) == 7


@pytest.mark.parametrize("name", ["guard.json", "graph.json", "weights.safetensors"])
def test_damage_is_found(name, saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "guard")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is damaged or was changed"):
        fw.load_guard(copy, device="cpu")


def test_a_folder_that_changes_later_changes_no_answer(saved, batch, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "guard")
    guard = fw.load_guard(folder, device="cpu")
    expected = guard(batch.images).probabilities
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(-400, os.SEEK_END)
        file.write(bytes(400))
    np.testing.assert_array_equal(guard(batch.images).probabilities, expected)


@pytest.mark.parametrize(
    "name", ["checksums.json", "graph.json", "weights.safetensors", "reference.safetensors"]
)
def test_a_file_that_is_missing_or_a_link_is_named(name, saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "guard")
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        fw.load_guard(copy, device="cpu")
    (copy / name).symlink_to(saved / name)
    with pytest.raises(InputError, match=f"{name} is a link"):
        fw.load_guard(copy, device="cpu")
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(InputError, match=f"{name} is no file"):
        fw.load_guard(copy, device="cpu")


def test_operations_compute_and_do_nothing_else():
    doing = ("file", "save", "load", "print", "set_", "resize", "record", "storage", "rand")
    for each in OPERATIONS:
        name, _, overload = each.partition(".")
        operation = getattr(getattr(torch.ops.aten, name), overload, None)
        assert operation is not None, each
        assert not any(word in name for word in doing), each
        assert not operation._schema.is_mutable, each
        draws = torch.Tag.nondeterministic_seeded in operation.tags
        assert not draws or {"train", "dropout_p"} & {a.name for a in operation._schema.arguments}


# ---------------------------------------------------------------- graphs


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        pytest.param(
            TINY_RESNET, {}, marks=pytest.mark.nightly
        ),  # other tests of this file trace it
        (TINY_RESNET, {"norm": "group", "pooling": "average+max", "stem": "small"}),
        (TINY_EFFICIENTNET, {}),
        ("timm:test_vit", {"input_size": 160}),
        ("timm:test_convnext", {}),
        ("torchvision:squeezenet1_1", {}),
        pytest.param("torchvision:swin_t", {}, marks=pytest.mark.nightly),  # assigns to slices
    ],
)
def test_a_graph_gives_the_numbers_of_its_network(backbone, options):
    network = load_model(backbone, classes=3, weights="none", **options)
    graph, weights = trace([network], (64, 64))
    read = Graph.from_json(json.loads(json.dumps(graph.as_json())), weights, "graph.json")
    assert read == graph
    again = GraphNetwork(read, weights)
    for count in (1, 5):
        images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            expected = network(images)
        logits, features = again(images)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        if backbone == "torchvision:squeezenet1_1":
            assert features is None  # it ends in a convolution
        else:
            assert features.ndim == 2


def test_a_network_with_one_channel_and_steps_in_place_becomes_a_graph():
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 14 * 14, 3)]
    network = GrayInput(nn.Sequential(*layers)).eval()
    graph, weights = trace([network], (SIDE, SIDE))
    read = Graph.from_json(json.loads(json.dumps(graph.as_json())), weights, "graph.json")
    again = GraphNetwork(read, weights)
    images = torch.rand(5, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = network(images)
    for _ in range(2):
        torch.testing.assert_close(again(images)[0], expected, rtol=1e-4, atol=1e-4)


def capped(x):
    x[:, :2].clamp_(max=1.5)  # no image between 0 and 1 reaches it in a network that is not trained


def erased(x):
    x[:, 0] = 0


def copied(x):
    x[:, 0::2] = x[:, 1::2]


def emptied(x):
    x[0].zero_()


def squared_off(x):
    mask = x.new_zeros(x.shape[-2:])
    mask[1:3, 1:3] = 1
    x *= mask


@pytest.mark.parametrize("change", [capped, erased, copied, emptied, squared_off])
def test_what_is_changed_through_a_view_is_changed_in_the_graph(change):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, images):
            found = self.first(images)
            change(found)
            return self.head(found.mean((2, 3)))

    network = Changing().eval()
    graph = GraphNetwork(*trace([network], (8, 8)))
    bright = 50 * torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(graph(bright)[0], network(bright), rtol=1e-4, atol=1e-4)


def test_images_that_a_network_changes_become_a_graph():
    class Centring(nn.Module):
        def forward(self, images):
            images.sub_(0.5)
            return images.mean((2, 3))

    images = torch.rand(4, 3, 8, 8)
    graph = GraphNetwork(*trace([Centring()], (8, 8)))
    torch.testing.assert_close(graph(images)[0], (images - 0.5).mean((2, 3)))


def test_a_guard_of_a_version_that_stored_steps_in_place_is_to_be_made_again():
    read = {"version": 1, "operations": [["a", "relu_.default", [IMAGES], {}]], "logits": "a"}
    with pytest.raises(InputError, match=r"'relu_\.default', so this guard was made by an earlier"):
        Graph.from_json(read, {}, "graph.json")
    read["operations"][0][1] = "__class__"
    with pytest.raises(InputError, match="'__class__', which no network needs"):
        Graph.from_json(read, {}, "graph.json")


def test_an_invalid_memory_format_is_called_so():
    cloned = ["a", "clone.default", [IMAGES], {"memory_format": IMAGES}]
    with pytest.raises(InputError, match=r"clone\.default with an invalid memory_format"):
        Graph.from_json({"version": 1, "operations": [cloned], "logits": "a"}, {}, "graph.json")


def test_what_no_graph_can_say_is_refused():
    class Branching(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) * (1 if images.sum() > 0 else 2)

    class Drawing(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) + torch.rand(3)

    class Learning(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(3))

        def forward(self, images):
            return images.mean((2, 3)) + self.calls.add_(1)

    for network in (Branching(), Drawing(), Learning()):
        with pytest.raises(InputError, match="cannot be stored as a list of operations"):
            trace([network], (SIDE, SIDE))


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.nightly), "ensemble"])
def test_an_onnx_graph_says_what_torch_says(seed, trained, batch, tmp_path):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    of, guard = open_run_model(f"{trained}:basic:{seed}"), made(trained, seed)
    path = tmp_path / f"{seed}.onnx"
    save_onnx(guard, of, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, len(batch)):
        images = batch.images[:count].numpy()
        logits, probabilities, confidence = session.run(None, {"images": images})
        answers = guard(images)
        np.testing.assert_allclose(probabilities, answers.probabilities, atol=1e-4)
        np.testing.assert_allclose(confidence, answers.confidence, atol=1e-4)
        np.testing.assert_allclose(softmax(logits), answers.probabilities, atol=1e-4)
    stored = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(stored["names"]) == list(guard.record.classes)
    assert float(stored["threshold"]) == guard.record.fit.threshold
    assert float(stored["quantile"]) == guard.record.fit.quantile
    assert json.loads(stored["ceilings"]) == [1, 1, 1]
    assert json.loads(stored["promise"])["risk"] == PROMISE.risk


# ---------------------------------------------------------------- the promise


def simulated(n, generator, classes=4):
    """Predictions that are right as often as they say."""
    logits = generator.normal(size=(n, classes)).astype(np.float32) * 2
    chances = softmax(logits).cumsum(axis=1)
    labels = (generator.random((n, 1)) > chances[:, :-1]).sum(axis=1)
    names = tuple("wxyz"[:classes])
    keys = generator.permutation(10 * n)[:n]
    return Predictions(keys, labels, *per_image(logits, labels), logits, names)


def reopened(folder, predictions, grouping=None):
    """A model of a run that has only validation predictions."""
    from fairweather.steps.run_model import RunModel

    run = write_run(folder, run_record({"a": "Model A"}), None, {("a", 0, CLEAN, VAL): predictions})
    if grouping is not None:
        run.write_groups(
            "groups/val.parquet", StoredGroups(predictions.keys, "patient", grouping, {})
        )
        finish(run, "groups/val", ["groups/val.parquet"], kind="group")
    return RunModel(run, run.record, "a", 0, ())


def first_half(keys, grouping=None):
    return np.isin(np.arange(len(keys)), split_halves(keys, grouping).temperature)


def test_what_is_fitted_on_which_half(tmp_path):
    predictions = simulated(400, np.random.default_rng(0))
    fit, chosen_on, _ = fitting.fit_promise(reopened(tmp_path, predictions), PROMISE)
    first = first_half(predictions.keys)
    assert fit.others == first.sum()
    assert fit.images == len(chosen_on) == (~first).sum()
    temperature = fit_temperature(predictions.logits[first], predictions.labels[first]).value
    assert fit.temperature == temperature
    judging = LogitDivisor(value=temperature).apply(predictions.take(np.flatnonzero(~first)))
    scores = sorted((1 - np.exp(-judging.nll)).tolist())
    assert fit.quantile == scores[int(np.ceil((len(scores) + 1) * 0.8)) - 1]
    answered = judging.confidence >= fit.threshold
    assert (fit.answered, fit.wrong) == (answered.sum(), (answered & ~judging.correct).sum())
    row = fitting.measure_images("x", CLEAN, judging, fit, None)
    low, high = clopper_pearson(fit.wrong / fit.answered, fit.answered)
    assert row.risk == ShareInterval(
        value=fit.wrong / fit.answered, low=float(low), high=float(high)
    )
    sets = set_columns(softmax(judging.logits), judging.labels, fit.quantile)
    assert row.covered.value == sets.covered.mean()
    assert row.set_size == sets.set_size.mean()


@pytest.mark.parametrize(
    ("settings", "chose"),
    [
        ({}, "epoch"),
        ({"recipe": {"select": "accuracy"}}, "epoch"),
        ({"recipe": {"select": "last"}}, "nothing"),
        ({"recipe": {"select": "last"}, "sweep": {"learning_rate": [1, 2]}}, "recipe"),
        ({"sweep": {"learning_rate": [1, 2]}}, "recipe and epoch"),
    ],
)
def test_whether_the_same_images_chose_the_model_is_known(settings, chose, tmp_path):
    of = reopened(tmp_path, simulated(300, np.random.default_rng(0)))
    models = {"a": ModelRecord(title="A", settings=settings)}
    of = replace(of, record=of.record.model_copy(update={"models": models}))
    assert fitting.fit_promise(of, PROMISE).fit.chose == chose


def test_a_model_that_another_run_trained_may_have_had_the_same_images(trained, pictures, tmp_path):
    """`evaluate` takes the splits of that run, whose validation images chose its epoch."""
    run = fw.evaluate(
        f"run:{trained}/models/basic/seed-0", f"folder:{pictures}",
        out=tmp_path / "run", variants=["temperature"], bootstrap=100, device="cpu",
    )  # fmt: skip
    guard = fw.load_guard(run.path, risk=0.3, confidence=0.8, coverage=0.8, device="cpu")
    assert guard.record.fit.chose == "perhaps"
    assert "neither trained nor tuned on these images" in guard.record.lines()["promised"]


def test_levels_of_shifts_are_counted_and_those_without_an_answer_told():
    def level(name, answered, value, low):
        risk = ShareInterval(value=value, low=low, high=None if low is None else 1.0)
        return PromiseCheck(
            images=name, kind="shift", n=9, answered=answered, risk=risk,
            covered=ShareInterval(value=1.0, low=0.5, high=1.0), set_size=None,
        )  # fmt: skip

    few, many = level("few", 0.1, 0.9, 0.2), level("many", 0.9, 0.8, 0.7)
    good, none = level("good", 0.9, 0.0, 0.0), level("none", 0.0, None, None)
    record = guard_of(GuardOutputs(np.zeros((1, 3), np.float32), None)).record

    def shifted(*kept):
        return record.model_copy(update={"kept": kept}).lines()["shifted"]

    assert shifted(few, many, good) == (
        "error rate above 30 % at 2 of 3 shifted levels; worst, many: 80 % [70 %, 100 %] of the "
        "answers are wrong, 90 % are answered"
    )
    assert "at 1 of 3 shifted levels, no answer at 1 of them; worst, few" in shifted(
        good, few, none
    )
    assert shifted(none, none) == (
        "error rate above 30 % at 0 of 2 shifted levels, no answer at 2 of them"
    )


@pytest.mark.parametrize("trials", [50, pytest.param(100, marks=pytest.mark.nightly)])
def test_the_promise_is_kept_through_all_steps(tmp_path, trials):
    """Temperature, threshold and quantile together, on new validation and new test images."""
    broken, covered = 0, []
    generator = np.random.default_rng(0)
    test = simulated(20_000, generator)
    for trial in range(trials):
        of = reopened(tmp_path / str(trial), simulated(600, generator))  # fewer may be refused
        fit = fitting.fit_promise(of, PROMISE).fit
        kept = fitting.measure_images(
            "test", CLEAN, fitting.apply_temperature(test, fit.temperature), fit, None
        )
        broken += kept.risk.value > PROMISE.risk
        covered.append(kept.covered.value)
    # The measured risk of 20,000 images is off by a third of a point; few draws are so near.
    assert broken <= most(trials, 0.2)
    # Beta(k, n + 1 - k): the deviation of one draw is below 0.04, that of their mean 0.006.
    assert 0.8 - 4 * 0.006 <= np.mean(covered) <= 0.8 + 1 / 100 + 4 * 0.006


def test_of_each_patient_one_image_counts(tmp_path):
    generator = np.random.default_rng(0)
    predictions, grouping = simulated(900, generator), np.repeat(np.arange(300), 3)
    fit, chosen_on, _ = fitting.fit_promise(reopened(tmp_path, predictions, grouping), PROMISE)
    first = first_half(predictions.keys, Grouping(grouping))
    assert fit.group == "patient"
    assert fit.others == first.sum()
    assert fit.images == len(np.unique(grouping[~first])) == len(chosen_on)
    of = dict(zip(predictions.keys.tolist(), grouping.tolist(), strict=True))
    assert len({of[key] for key in chosen_on.keys.tolist()}) == len(chosen_on)


def hard_patients(count, generator, largest=40):
    """Half of the patients have one image and no error; the others have 40, of which 8 % wrong."""
    sizes = np.where(np.arange(count) % 2, largest, 1)
    grouping = Grouping(np.repeat(np.arange(count), sizes))
    wrong = (sizes[grouping.numbers] > 1) & (generator.random(len(grouping.numbers)) < 0.08)
    return grouping, wrong


@pytest.mark.parametrize(("weigh", "risk"), [("groups", 0.04), ("images", 0.08)])
def test_each_patient_or_each_image_counts_alike_in_what_is_kept(weigh, risk):
    grouping, wrong = hard_patients(400, np.random.default_rng(0))
    fit = guard_of(None).record.fit
    found = fitting.measure_images("x", CLEAN, outcomes(~wrong), fit, grouping, weigh).risk
    # By patients, the mean of each one's share: 200 shares of 40 images, with 0 for the others.
    shares = np.bincount(grouping.numbers, wrong) / grouping.sizes
    by_hand = shares.mean() if weigh == "groups" else wrong.mean()
    assert found.value == pytest.approx(by_hand)
    assert found.low < risk < found.high


def test_a_promise_about_images_is_kept_for_images(tmp_path):
    """Where large patients are hard, one image of each promises for patients, not for images."""
    grouping, wrong = hard_patients(2400, np.random.default_rng(1))
    run = reopened(tmp_path, outcomes(~wrong), grouping.numbers)
    promise = Promise(risk=0.07, certainty=0.95, coverage=0.9)
    assert promise.weigh == "groups"
    of_patients = fitting.fit_promise(run, promise)
    # All confidences are equal: everything is answered, although 8 % of the images are wrong.
    assert of_patients.fit.answered == of_patients.fit.images == 1200
    images = promise.model_copy(update={"weigh": "images"})
    with pytest.raises(InputError, match="no threshold is shown to keep a risk of 7 %"):
        fitting.fit_promise(run, images)
    found = fitting.fit_promise(run, images.model_copy(update={"risk": 0.1}))
    assert found.fit.images == len(found.chosen_on) == len(found.grouping.numbers) > 20_000
    assert wrong.mean() < found.fit.bound <= 0.1


def test_the_output_says_what_counts_alike():
    record = guard_of(GuardOutputs(np.zeros((10, 3)), None)).record
    of_patients = record.fit.model_copy(update={"group": "patient"})
    for weigh, words in (
        ("groups", "each patient counting equally: 1 validation images, one of each patient, "),
        ("images", "each image counting equally: 1 validation images chose "),
    ):
        promise = record.promise.model_copy(update={"weigh": weigh})
        told = record.model_copy(update={"promise": promise, "fit": of_patients}).lines()
        assert words in told["promised"]
    assert "equally" not in record.lines()["promised"]


@pytest.mark.parametrize("weigh", ["groups", "images"])
def test_what_counts_alike_is_not_asked_where_no_images_belong_together(tmp_path, weigh):
    of = reopened(tmp_path, outcomes(np.ones(100)))
    fitting.check_asked(of, None, None)
    with pytest.raises(InputError, match="does not know which validation images belong together"):
        fitting.check_asked(of, weigh, None)


def test_what_counts_alike_is_one_of_two():
    with pytest.raises(InputError, match=r"weigh .*'patients'"):
        make_promise(0.05, weigh="patients")


@pytest.mark.parametrize(
    ("n", "right", "count", "words"),
    [
        (20, 1.0, None, r"half of the validation images .* too few to promise .* at least 59"),
        (400, 1.0, 4, "half of the patients with validation images .* too few"),
        (400, 0.5, None, "no threshold is shown to keep a risk of 5 %"),
    ],
)
def test_what_images_cannot_support_is_refused(n, right, count, words, tmp_path):
    predictions = outcomes(np.random.default_rng(0).random(n) < right)
    groups = None if count is None else np.arange(n) % count
    promise = Promise(risk=0.05, certainty=0.95, coverage=0.9)
    with pytest.raises(InputError, match=words):
        fitting.fit_promise(reopened(tmp_path, predictions, groups), promise)


def test_without_logits_the_temperature_is_one(tmp_path):
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 400)
    right = generator.random(400) < confidence
    nll = -np.log(np.where(right, confidence, (1 - confidence) / 3))
    predictions = outcomes(right, confidence=confidence, nll=nll)
    fit = fitting.fit_promise(reopened(tmp_path, predictions), PROMISE).fit
    assert fit.temperature == 1
    assert fitting.measure_images("x", CLEAN, predictions, fit, None).set_size is None


@pytest.mark.parametrize("quantile", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
def test_the_sets_of_answers_cover_what_is_said(quantile):
    """Also where a run stores no logits, and where no class is probable enough."""
    predictions = simulated(500, np.random.default_rng(0))
    fit = Fit(
        temperature=1, others=1, threshold=0.5, quantile=quantile, images=1, answered=1, wrong=0,
        bound=0.1, group=None, chose="nothing",
    )  # fmt: skip
    guard = guard_of(GuardOutputs(predictions.logits, None))
    record = guard.record.model_copy(update={"fit": fit, "classes": predictions.classes})
    sets = replace(guard, record=record).answers(GuardOutputs(predictions.logits, None)).sets
    held = [
        predictions.classes[label] in names
        for label, names in zip(predictions.labels.tolist(), sets, strict=True)
    ]
    row = fitting.measure_images("x", CLEAN, predictions, fit, None)
    without = fitting.measure_images("x", CLEAN, replace(predictions, logits=None), fit, None)
    assert row.covered == without.covered
    assert row.covered.value == np.mean(held) >= predictions.correct.mean()
    assert row.set_size == np.mean([len(names) for names in sets])


def test_intervals_of_what_is_kept_know_groups():
    predictions = simulated(300, np.random.default_rng(0))
    fit = Fit(
        temperature=1, others=1, threshold=0.5, quantile=0.8, images=1, answered=1, wrong=0,
        bound=0.1, group=None, chose="nothing",
    )  # fmt: skip
    alone, together = (
        fitting.measure_images("x", CLEAN, predictions, fit, grouping)
        for grouping in (None, Grouping(np.arange(300) // 150))
    )
    assert alone.risk.value == together.risk.value
    assert together.risk.high - together.risk.low > alone.risk.high - alone.risk.low
    nothing = fitting.measure_images(
        "x", CLEAN, predictions, fit.model_copy(update={"threshold": 1.0}), None
    )
    assert nothing.risk == ShareInterval(value=None, low=None, high=None)
    assert str(nothing) == "nothing is answered"


# ---------------------------------------------------------------- unlike images


def guard_of(reference, quantile=0.8):
    """A guard whose network says of images what it is told."""
    fit = Fit(
        temperature=1, others=1, threshold=0.5, quantile=quantile, images=1, answered=1, wrong=0,
        bound=0.1, group=None, chose="nothing",
    )  # fmt: skip
    record = GuardRecord(
        model="a", title="A", run="r", seed=0, architecture="x", classes=("a", "b", "c"),
        size=(8, 8), preparation=None, scale=None, promise=PROMISE, fit=fit, kept=(),
        versions={}, time="",
    )  # fmt: skip
    return Guard(record, lambda _: reference, reference)


def drawn(generator, n, moved=0.0):
    features = generator.normal(size=(n, 6)).astype(np.float32) + np.float32(moved)
    return GuardOutputs(features[:, :3] * 2, features)


@pytest.mark.parametrize("trials", [100, pytest.param(200, marks=pytest.mark.nightly)])
def test_alarms_of_images_like_the_validation_images_are_rare(trials):
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(trials):
        guard = guard_of(drawn(generator, 120))
        alarms += guard.likeness(drawn(generator, 40)).unlike
    assert alarms <= most(trials, 0.05)


def test_unlike_images_are_warned_of():
    generator = np.random.default_rng(0)
    guard = guard_of(drawn(generator, 300))
    moved = guard.likeness(drawn(generator, 100, moved=1.0))
    assert moved.unlike
    assert "differ from the validation images (probabilities and features, p" in str(moved)
    few = guard.likeness(drawn(generator, 5))
    assert not few.unlike
    assert "5 images are too few" in str(few)
    assert "1 image is too few" in str(guard.likeness(drawn(generator, 1)))
    none = "no significant difference from the validation images (probabilities, p = 0.3)"
    assert str(Likeness(500, 0.3, features=False)) == none
    caveat = ". Fewer than 100 images show only large differences"
    assert str(Likeness(99, 0.3, features=False)) == none + caveat
    only = guard.likeness(drawn(generator, 100)._replace(features=None))
    assert not only.features


def test_numbers_that_are_not_finite_are_refused():
    guard = guard_of(drawn(np.random.default_rng(0), 20))
    with pytest.raises(InputError, match="not finite"):
        guard.answers(GuardOutputs(np.full((1, 3), np.nan, np.float32), None))


# ---------------------------------------------------------------- the command


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predict_writes_a_row_for_each_image(trained, saved, pictures, tmp_path):
    data = f"folder:{pictures}/test"
    done = fairweather(
        "predict", f"{trained}:basic:0", data, *ASKED, "--device", "cpu", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("next    open predictions.csv: the rows with defer need a person\n")
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words[0] == "images"
    assert set(words) >= {"promised", "sets", "labels", "table"}
    rows = rows_of(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["file", "class", "confidence", "answer", "set"]
    assert len(rows) == 24
    answered = sum(row["answer"] == "answer" for row in rows)
    assert f"24 of folder:{pictures}/test" in done.stdout
    assert f"{answered} answered, {24 - answered} deferred" in done.stdout
    for row in rows:
        assert (pictures / "test" / row["file"]).is_file()
        assert set(json.loads(row["set"])) <= {"blue", "green", "red"}
    again = fairweather("predict", saved, data, cwd=tmp_path)
    assert again.returncode == 2
    assert "predictions.csv exists" in again.stderr
    again = fairweather("predict", saved, data, "--out", "b.parquet", "--quiet", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    table = pq.read_table(tmp_path / "b.parquet").to_pylist()
    assert [row["class"] for row in table] == [row["class"] for row in rows]
    assert [row["set"] for row in table] == [json.loads(row["set"]) for row in rows]
    assert [row["answer"] for row in table] == [row["answer"] for row in rows]
    other = fairweather("predict", saved, data, "--replace", "--limit", "9", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert len(rows_of(tmp_path / "predictions.csv")) == 9


def test_a_guard_with_a_limit_is_made_and_predicts(trained, pictures, tmp_path):
    model, folder = f"{trained}:basic:0", tmp_path / "guard"
    asked = ("--missed", "red: 50%", *ASKED[2:], "--device", "cpu")
    done = fairweather("guard", model, folder, *asked)
    assert done.returncode == 0, done.stderr
    lines = {line[:11].strip(): line[11:] for line in done.stdout.splitlines()}
    assert lines["promised"].startswith("at most 50 % missed among answered images of red, with 80")
    assert (
        "answered validation images are missed (3 are needed if none is); another"
        in lines["limit 1"]
    )
    assert "of them are missed" in lines["limit 1"]
    guard = fw.load_guard(folder, device="cpu")
    again = fw.load_guard(model, missed={"red": 0.5}, confidence=0.8, coverage=0.8, device="cpu")
    assert guard.record.fit == again.record.fit
    assert guard.record.kept_limits == again.record.kept_limits
    assert [check.images for check in guard.record.kept_limits] == [
        "validation", "clean", "brightness_factor,factor=0.5",
    ]  # fmt: skip
    data = f"folder:{pictures}/test"
    done = fairweather("predict", folder, data, "--out", tmp_path / "a.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "a.csv")
    answered = [row for row in rows if row["answer"] == "answer" and row["file"].startswith("red")]
    missed = sum(row["class"] != "red" for row in answered)
    said = f"labels     by the labels {missed} of {len(answered)} answered images of red are missed"
    assert said in done.stdout
    direct = fairweather("predict", model, data, *asked, "--out", tmp_path / "b.csv")
    assert direct.returncode == 0, direct.stderr
    assert [row["answer"] for row in rows_of(tmp_path / "b.csv")] == [row["answer"] for row in rows]
    with pytest.raises(InputError, match="promises already"):
        fw.load_guard(folder, missed=0.1)


def test_a_guard_without_the_keys_of_limits_answers_as_before(saved, batch, tmp_path):
    def older(record):
        for part, key in (("promise", "missed"), ("promise", "false_alarms"), ("fit", "limits")):
            del record[part][key]
        del record["kept_limits"]

    folder = rewritten(saved, tmp_path / "guard", {"guard.json": json_with(older)})
    old, new = fw.load_guard(folder, device="cpu"), fw.load_guard(saved, device="cpu")
    assert old.record == new.record
    assert_same(old(batch.images), new(batch.images))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--missed", "read: 1%"), "unknown class or finding 'read'; did you mean 'red'"),
        (("--missed", "red: 1%"), "at least 299 answered ones and no error"),
        (("--missed", "red"), "must be a name and a share such as 'melanoma: 1%'"),
        (("--false-alarms", "red: 1%"), "false_alarms is about findings"),
        ((), "say which risk the guard keeps, such as --risk 5%"),
    ],
)
def test_limits_that_cannot_be_are_refused_before_anything_is_written(
    asked, words, trained, tmp_path
):
    done = fairweather("guard", f"{trained}:basic:0", tmp_path / "guard", *asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "guard").exists()


def test_dark_images_are_warned_of(saved, pictures, tmp_path):
    for at, path in enumerate(sorted((pictures / "test").rglob("*.png"))):
        dark = np.asarray(Image.open(path)) // 8
        Image.fromarray(dark).save(tmp_path / f"{at}.png")
    done = fairweather(
        "predict", saved, f"images:{tmp_path}", "--out", tmp_path / "x.csv", "--device", "cpu"
    )
    assert done.returncode == 4, done.stderr
    rows = rows_of(tmp_path / "x.csv")
    assert len(rows) == 24
    # Whoever gets the table alone is warned too.
    warning = "the images differ from the validation images: review every answer"
    assert {row["warning"] for row in rows} == {warning}
    first = done.stdout.partition("\n")[0]
    assert first.startswith("WARNING    these images differ from the validation images")
    assert "error limit need not hold for them: do not use these answers unless a person" in first
    # A saved guard does not know where its run is.
    asked = "fairweather estimate RUN folder:LABELLED --with-labels"
    assert done.stderr.endswith(f"next    label about 100 of these images, then: {asked}\n")
    assert "labels " not in done.stdout


def test_no_text_becomes_a_formula(tmp_path):
    guard = guard_of(GuardOutputs(np.zeros((2, 3), np.float32), None))
    answers = guard.answers(GuardOutputs(np.eye(2, 3, dtype=np.float32), None))
    answers = answers._replace(classes=("=1+1", "+a"), sets=(("=1+1",), ()))
    names = np.array(["@x.png", "-y.png"], dtype=object)
    images = Images(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2).long(), torch.arange(2), ("a",),
        names=names,
    )  # fmt: skip
    write_answers(tmp_path / "a.csv", images, [answers])
    rows = rows_of(tmp_path / "a.csv")
    assert [row["file"] for row in rows] == ["'@x.png", "'-y.png"]
    assert [row["class"] for row in rows] == ["'=1+1", "'+a"]
    assert [row["set"] for row in rows] == ['["=1+1"]', "[]"]
    write_answers(tmp_path / "a.parquet", images, [answers])
    assert pq.read_table(tmp_path / "a.parquet")["file"].to_pylist() == names.tolist()
    names[0] = "b\r=cmd.png"  # nor does a part of it, on a line of its own
    write_answers(tmp_path / "a.csv", images, [answers])
    assert pd.read_csv(tmp_path / "a.csv")["file"].tolist() == ["b\r=cmd.png", "'-y.png"]


def test_shares_are_read_in_both_forms():
    assert (
        read_share("5%", "--risk")
        == read_share(" 0.05 ", "--risk")
        == read_share("5 %", "--risk")
        == 0.05
    )
    for wrong in ("0", "1", "100%", "5", "-1%", "nan", "five", "5%%", "", "inf"):
        with pytest.raises(InputError, match="--risk must be a share"):
            read_share(wrong, "--risk")


def test_kept_rows_are_read_again():
    none = ShareInterval(value=None, low=None, high=None)
    row = PromiseCheck(
        images="clean", kind="clean", n=1, answered=0.0, risk=none, covered=none, set_size=None
    )
    assert PromiseCheck.model_validate_json(row.model_dump_json()) == row


def test_an_export_needs_its_packages(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"fairweather\[onnx\]"):
        export_onnx(
            [nn.Identity()], guard_of(GuardOutputs(np.zeros((1, 3), np.float32), None)).record
        )

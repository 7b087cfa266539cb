"""Every option changes something for every kind of model and data, or is refused in a sentence.

The options are those of the signatures: a new one without a case fails.
"""

import ast
import dataclasses
import hashlib
import inspect
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn

import fairweather as fw
from fairweather.cli.app import COMMANDS
from fairweather.requests.evaluation import run as evaluation
from fairweather.requests.evaluation_options import EvaluationOptions
from fairweather.types.measurement import Images
from fairweather.types.options import LoadOptions, Preparation, read_options
from fairweather.workers import executors
from fairweather.workers.options import Sharing
from tests.conftest import COLOURS, TINY_RESNET, write_pictures
from tests.helpers.commands import fairweather

CLASSES = sorted(COLOURS)
SCORES, IMAGES, STEPS, WORKER, RECORD = "logits", "images", "steps", "worker", "record"


class Means(nn.Module):
    """A linear function of the mean colour, for images of any size."""

    def __init__(self, outputs=3):
        super().__init__()
        self.linear = nn.Linear(3, outputs)
        self.linear.weight.data = torch.linspace(-3, 4, 3 * outputs).reshape(outputs, 3)

    def forward(self, images):
        # Not only the mean, so that resizing changes it.
        return self.linear(images.mean((2, 3)) + images.amax((2, 3)))


@dataclasses.dataclass
class Case:
    """A value of an option, what it must change, and options that it goes with."""

    value: object
    changes: str
    beside: dict = dataclasses.field(default_factory=dict)


def cases(folder):
    """One case for each option of an evaluation."""
    table = folder / "table.csv"
    ones = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    weights = folder / "other.safetensors"
    return {
        "architecture": Case("timm:test_efficientnet", SCORES),
        "weights": Case(str(weights), SCORES),
        "mean": Case((0.3, 0.2, 0.1), SCORES, ones),
        "std": Case((0.7, 0.6, 0.5), SCORES, ones),
        "input_size": Case(24, SCORES),
        "outputs": Case("probabilities", SCORES),
        "class_map": Case({"blue": 2, "green": 0, "red": 1}, SCORES),
        "label_column": Case("second", IMAGES),
        "key_column": Case("place", SCORES),
        "predicted_columns": Case(("second",), SCORES),
        "confidence_column": Case("sure", SCORES, {"predicted_columns": ("second",)}),
        "classes": Case(("red", "green", "blue"), SCORES),
        "findings": Case(("red",), IMAGES),
        "empty_labels": Case("absent", IMAGES),
        "size": Case(12, IMAGES),
        "root": Case(str(folder), IMAGES),
        "limit": Case(12, IMAGES),
        "validation_fraction": Case(0.3, IMAGES),
        "skip_unreadable": Case(True, WORKER),
        "metadata": Case(table, IMAGES, {"slices": ("site",)}),
        "group": Case("patient", IMAGES, {"metadata": table}),
        "unit": Case("patient", STEPS, {"metadata": table, "group": "patient"}),
        "aggregate": Case(
            ("max",), STEPS, {"metadata": table, "unit": "patient", "ordered_classes": True}
        ),
        "slices": Case(("site",), IMAGES, {"metadata": table}),
        "sites": Case(("site",), IMAGES, {"metadata": table}),
        "allow_shared_groups": Case(True, WORKER, {"metadata": table, "group": "patient"}),
        "allow_duplicates": Case(True, WORKER),
        "scale": Case("0..100", IMAGES),
        "positive": Case((">=1",), SCORES),
        "variants": Case(("temperature",), STEPS),
        "fit_on": Case(("gaussian_blur: [1]",), STEPS),
        "ood": Case((f"folder:{folder}/others",), STEPS),
        "natural": Case({"b": f"folder:{folder}/others"}, STEPS),
        "priors": Case({"p": {"blue": 0.5}}, STEPS),
        "operating_points": Case(("blue=0.5",), STEPS),
        "costs": Case(("missed blue: 20",), STEPS),
        "ordered_classes": Case(True, STEPS),
        "batch_size": Case(8, STEPS),
        "precision": Case("bf16", STEPS),
        "cudnn_benchmark": Case(True, STEPS),
        "compile": Case(True, STEPS),
        "bootstrap": Case(200, STEPS),
        "shift_seed": Case(1, STEPS),
        "threads": Case(2, STEPS),
        "executor": Case("ray://127.0.0.1:1", WORKER),
        "worker": Case(True, WORKER),
        "jobs": Case(2, WORKER),
        "shift_processes": Case(1, WORKER),
        "models_in_memory": Case(1, WORKER),
        "partition": Case("gpu", WORKER),
        "gpus": Case("1", WORKER),
        "time": Case("90", WORKER),
        "setup": Case(("true",), WORKER),
        "title": Case("Mine", RECORD),
        "device": Case("cuda", WORKER),
        "offline": Case(True, WORKER),
    }


# Other words for an option in a sentence that refuses it.
WORDS = {
    "architecture": ("weights",),
    "mean": ("normalis",),
    "device": ("cuda",),
    "jobs": ("cores",),
    "executor": ("Ray", "ray"),
    "outputs": ("probabilities",),
    "variants": ("temperature",),
    "fit_on": ("validation",),
    "scale": ("colour",),
    "label_column": ("unknown column",),
    "key_column": ("unknown column",),
    "predicted_columns": ("unknown column",),
    "confidence_column": ("unknown column",),
    "natural": ("classes of",),
    "slices": ("subgroups",),
    "sites": ("subgroups",),
    "operating_points": ("operating point",),
    "costs": ("class of a cost",),
}
SHIFT = "imagenet_c/gaussian_noise,severity=1"
# What is not of the result, and stands in no record.
OF_THE_CALL = {"offline", "device"} | {each.name for each in dataclasses.fields(Sharing)}


def pictures(folder):
    """Images in several forms, a table about them, and other weights."""
    write_pictures(folder / "splits", train=8, test=8)
    write_pictures(folder / "others", test=3)
    (folder / "one").symlink_to(folder / "splits" / "test")
    data = fw.load_data(f"folder:{folder}/splits", progress=False).test
    pixels = data.images.permute(0, 2, 3, 1).numpy()
    np.savez(folder / "images.npz", test_images=pixels, test_labels=data.labels.numpy())
    names = [str(name) for name in data.names]
    listed = {"file": names, "label": [CLASSES[label] for label in data.labels], "split": "test"}
    pd.DataFrame(listed).to_csv(folder / "splits" / "list.csv", index=False)
    torch.manual_seed(5)
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    torch.save(state, folder / "other.pt")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("every"))


def in_python(folder):
    (folder / "mine.py").write_text(
        textwrap.dedent("import torch\nfrom torch import nn\n\n\n" + inspect.getsource(Means))
        + "\n\ndef make():\n    return Means()\n"
    )
    return f"python:{folder / 'mine.py'}:make"


def checkpoint(folder):
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "mine.pt")
    return str(folder / "mine.pt")


def onnx_file(folder):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, tensor = onnx.helper, onnx.numpy_helper.from_array
    kind = onnx.TensorProto.FLOAT
    weights = Means().linear.weight.detach().numpy().T.copy()
    graph = make.make_graph(
        [
            make.make_node("GlobalMaxPool", ["images"], ["means"]),
            make.make_node("Flatten", ["means"], ["flat"]),
            make.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "means",
        [make.make_tensor_value_info("images", kind, ["n", 3, "h", "w"])],
        [make.make_tensor_value_info("logits", kind, ["n", 3])],
        [tensor(weights, "weights")],
    )
    opset = [make.make_opsetid("", 17)]
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=8), folder / "mine.onnx")
    return f"onnx:{folder / 'mine.onnx'}"


def hugging_face(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_labels=3, layer_type="basic", embedding_size=4, hidden_sizes=[4], depths=[1]
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder / "hf")
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(folder / "hf")
    return f"hf:{folder / 'hf'}"


def answers(folder, many=24):
    logits = np.random.default_rng(0).normal(size=(many, 3))
    table = pd.DataFrame(logits, columns=CLASSES).assign(label=np.arange(many) // 8)
    table.to_csv(folder / "mine.csv", index=False)
    return f"predictions:{folder / 'mine.csv'}"


MODELS = {
    "a module": lambda folder: (Means(), {}),
    "modules by name": lambda folder: ({"a-seed0": Means(), "a-seed1": other_means()}, {}),
    "python:": lambda folder: (in_python(folder), {}),
    "a checkpoint": lambda folder: (checkpoint(folder), {"architecture": TINY_RESNET, "size": 16}),
    "timm:": lambda folder: (
        TINY_RESNET,
        {"weights": "none", "size": 16, "class_map": {"blue": 0, "green": 1, "red": 2}},
    ),
    "onnx:": lambda folder: (onnx_file(folder), {}),
    "hf:": lambda folder: (hugging_face(folder), {}),
    "predictions:": lambda folder: (answers(folder), {}),
}


def other_means():
    module = Means()
    nn.init.constant_(module.linear.bias, 0.5)
    return module


DATA = {
    "a data set": lambda folder: fw.load_data(
        f"folder:{folder}/splits", parts=("val", "test"), progress=False
    ),
    "folder:": lambda folder: f"folder:{folder}/one",
    "folder: with splits": lambda folder: f"folder:{folder}/splits",
    "csv:": lambda folder: f"csv:{folder}/splits/list.csv",
    "npz:": lambda folder: f"npz:{folder}/images.npz",
    "a name": lambda folder: "mnist5k",
}


def describe(data, file):
    """Write a table about the images of a data set."""
    dataset = fw.load_data(data, validation_fraction=0.0, progress=False)
    parts = [part for part in (dataset.train, dataset.test) if part]
    keys, labels = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("keys", "labels")
    )
    files = [name for part in parts if part.names is not None for name in part.names]
    columns = {
        "patient": keys // 2,
        "site": labels,
        **({"file": files} if files else {"key": keys}),
    }
    pd.DataFrame(columns).to_csv(file, index=False)


class StoppedError(Exception):
    """The evaluation is planned: what the worker was given."""


def effect(monkeypatch, out, model, data, **options):
    """What an evaluation would compute, as far as it shows before its first step."""

    class Recorder:
        def __init__(self, plan, **given):
            raise StoppedError(plan, given)

    handed = []

    def carry_out(work, sharing, tell, then=executors.carry_out):
        handed[:] = [work.record.model_dump(mode="json"), dataclasses.asdict(sharing)]
        then(work, sharing, tell)

    monkeypatch.setattr("fairweather.workers.work.Worker", Recorder)
    monkeypatch.setattr("fairweather.requests.execution.executors.carry_out", carry_out)
    shifts = {} if str(model).startswith("predictions:") else {"shifts": SHIFT}
    options = {"device": "cpu", "bootstrap": 100, **shifts, **options}
    with pytest.raises(StoppedError) as stopped:
        fw.evaluate(model, data, out=out, progress=False, **options)
    plan, given = stopped.value.args
    datasets = given.pop("datasets")
    own = datasets.get("data")
    models, read = given.pop("models", {}), given.pop("given", None)
    del given["progress"]
    record, sharing = handed
    record.pop("provenance")
    if read is None:
        inputs = own.test[:8].images.float() / 255
        logits = [network.cpu()(inputs).detach().numpy() for network in models.values()]
        logits = [found.round(5).tolist() for found in logits]
    else:
        found = read(next(step.leaves[0] for step in plan.steps if step.kind == "predict"))
        logits = [found.logits.tolist(), found.labels.tolist()]
    seen = [described(part) for each in datasets.values() for part in (each.val, each.test) if part]
    return {
        SCORES: logits,
        IMAGES: [seen, logits[1:] if read else None],
        STEPS: [(step.id, step.threads, repr(step.depends())) for step in plan.steps],
        WORKER: [given, sharing, [dataclasses.asdict(source) for source in plan.data.values()]],
        RECORD: record,
    }


def described(images: Images):
    pixels = hashlib.sha256(images.images.numpy().tobytes()).hexdigest()
    return [pixels, images.keys.tolist(), images.labels.tolist(), repr(images.groups)]


def judge(monkeypatch, tmp_path, place, model, data, base):
    """Try every option, and return those that neither change what they should nor are refused."""
    if isinstance(data, str):
        describe(data, place / "table.csv")
    found = cases(place)
    assert set(found) == {option.name for option in dataclasses.fields(EvaluationOptions)}
    faults, before = {}, {}

    def tried(number, **options):
        return effect(monkeypatch, tmp_path / f"{number}", model, data, **options)

    tried("plain", **base)  # which is not refused
    for number, (name, case) in enumerate(found.items()):
        beside = {**base, **case.beside}
        key = repr(beside)
        try:
            if key not in before:
                before[key] = tried(f"{number}-before", **beside)
            after = tried(f"{number}-after", **{**beside, name: case.value})
        except fw.InputError as error:
            words = (name, *case.beside, *WORDS.get(name, ()))
            if not any(word in str(error) for word in words):
                faults[name] = str(error)
            continue
        changed = {part for part in after if after[part] != before[key][part]}
        wanted = {case.changes} | (set() if name in OF_THE_CALL else {RECORD})
        if not wanted <= changed:
            faults[name] = sorted(wanted - changed)
    return faults


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.nightly) if k == "hf:" else k for k in MODELS]
)
def test_no_option_is_ignored_for_a_kind_of_model(kind, place, tmp_path, monkeypatch):
    model, base = MODELS[kind](tmp_path)
    data = f"folder:{place}/one"
    assert not judge(monkeypatch, tmp_path, place, model, data, base)


@pytest.mark.parametrize("kind", DATA)
def test_no_option_is_ignored_for_a_kind_of_data(kind, place, tmp_path, monkeypatch):
    model = Means(10 if kind == "a name" else 3)
    assert not judge(monkeypatch, tmp_path, place, model, DATA[kind](place), {})


# ---------------------------------------------------------------- the command line


def on_the_line(name, value):
    """An option of `fairweather evaluate` as it is written, and what it gives Python."""
    flag = next(o for o in dataclasses.fields(EvaluationOptions) if o.name == name)
    written = flag.metadata["flag"] or f"--{name.replace('_', '-')}"
    if value is True:
        return [written], True
    if isinstance(value, dict):
        value = [f"{key}={each}" for key, each in value.items()] if name == "natural" else "x.yaml"
    if name in ("mean", "std", "classes"):
        return [written, ",".join(map(str, value))], tuple(value)
    if isinstance(value, list | tuple):
        return [written, *value], tuple(value)
    given = {"class_map": Path, "priors": Path, "metadata": Path}.get(name, lambda each: each)(
        value
    )
    return [written, str(value)], (given,) if name == "title" else given


@pytest.mark.parametrize("name", [option.name for option in dataclasses.fields(EvaluationOptions)])
def test_every_option_of_the_command_line_reaches_the_evaluation(name, place, monkeypatch):
    """With the value that it has in Python; the tests above say what it does there."""
    requests = []

    def asked(request, *_, **__):
        requests.append(request)
        raise fw.InputError("enough")

    monkeypatch.setattr(evaluation, "run_request", asked)
    case = cases(place)[name]
    words, value = on_the_line(name, case.value)
    ended = fairweather("evaluate", "timm:test_resnet", f"folder:{place}/one", *words, "--quiet")
    assert ended.stderr == "fairweather: enough\n"
    assert getattr(requests[0].options, name) == value


def read_in(function):
    """The names that the source of a function reads."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return {each.id for each in ast.walk(tree) if isinstance(each, ast.Name)}


def functions():
    public = {
        name: getattr(fw, name) for name in fw.__all__ if inspect.isroutine(getattr(fw, name))
    }
    return {
        **public,
        **{f"command {n}": each for row in COMMANDS.values() for n, each in row.items()},
    }


@pytest.mark.parametrize("name", functions())
def test_every_argument_of_a_public_function_and_of_a_command_is_read(name):
    function = inspect.unwrap(functions()[name])
    own = function.__code__
    names = own.co_varnames[: own.co_argcount + own.co_kwonlyargcount]
    assert set(names) <= read_in(function)


# ---------------------------------------------------------------- other doors of Python


def outcome(function, given):
    """What a function gives, to compare; None if it refuses."""
    try:
        found = function(**given)
        if isinstance(found, nn.Module):
            images = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
            with torch.inference_mode():
                return found(images).tolist(), repr(found)
    except fw.InputError:
        return None
    if isinstance(found, fw.Predictions):
        return found.logits.tobytes(), found.keys.tobytes()
    return [
        found.notes,
        *(described(part) for part in (found.train, found.val, found.test) if part),
    ]


def unread(function, base, values, permissions=()):
    """The options of a function that change nothing; one without a value is an error."""
    parameters = list(inspect.signature(function).parameters)
    assert set(parameters) == {*base, *values, *permissions}
    before, faults = outcome(function, base), []
    assert before is not None
    for name, value in values.items():
        beside = value if isinstance(value, dict) else {name: value}
        if outcome(function, {**base, **beside}) == before:
            faults.append(name)
    return faults


MODEL_VALUES = {
    "architecture": TINY_RESNET,
    "classes": 5,
    "weights": "other.pt",
    "stem": "small",
    "input_size": 24,
    "mean": {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)},
    "std": {"mean": (0.0, 0.0, 0.0), "std": (0.5, 0.6, 0.7)},
    "norm": "group",
    "pooling": "max",
    "width": 2.0,
    "weights_sha256": "0" * 64,
    "outputs": "probabilities",
    "seed": 1,
}


@pytest.mark.parametrize("kind", ["python:", "a checkpoint", "timm:", "onnx:"])
def test_load_model_ignores_no_option(kind, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    source, base = MODELS[kind](tmp_path)
    base = {name: base[name] for name in ("architecture", "weights") if name in base}
    values = {name: each for name, each in MODEL_VALUES.items() if name not in base}
    # A seed is that of what is drawn: nothing, if a model brings its weights.
    drawn = () if kind == "timm:" else ("seed",)
    values = {name: each for name, each in values.items() if name not in drawn}
    assert not unread(fw.load_model, {"source": source, **base}, values, drawn)


# As the docstring says: splits that there are stay as they are.
OF_UNDIVIDED = {
    "folder: with splits": ["test_fraction"],
    "csv:": ["parts", "validation_fraction", "test_fraction"],
    "npz:": ["parts", "validation_fraction", "test_fraction"],
}


@pytest.mark.parametrize("kind", [kind for kind in DATA if kind != "a data set"])
def test_load_data_ignores_no_option(kind, place):
    source = DATA[kind](place)
    describe(source, place / "table.csv")
    groups = fw.GroupColumns(str(place / "table.csv"), slices=("site",))
    values = {
        "size": 12,
        "preparation": Preparation(12, 14),
        "limit": 3,
        "parts": ("train", "test"),
        "root": str(place),
        "seed": {"seed": 1, "limit": 12},
        "validation_fraction": 0.4,
        "test_fraction": 0.5,
        "label_noise": 0.5,
        "imbalance": 0.5,
        "groups": groups,
        "scale": "0..100",
        "positive": ">=1",
    }
    permissions = ("skip_unreadable", "verify", "allow_duplicates", "offline", "progress")
    unread_here = unread(fw.load_data, {"source": source}, values, permissions)
    assert unread_here == OF_UNDIVIDED.get(kind, [])


def test_predict_ignores_no_option(place):
    images = fw.load_data(f"folder:{place}/one", test_fraction=1.0, progress=False).test
    noise = fw.make_shift("imagenet_c/gaussian_noise", severity=3)
    base = {"model": Means(), "images": images, "device": "cpu"}
    values = {
        "shift": noise,
        "batch_size": 0,  # any other changes at most the last digits
        "precision": "bf16",
        "seed": {"seed": 1, "shift": noise},
        "temperature": 2.0,
    }
    told = ("cudnn_benchmark", "compile", "when_halved", "progress")
    assert not unread(fw.predict, base, values, told)


@pytest.mark.parametrize("name", ["aggregate", "slices", "operating_points", "variants", "fit_on"])
def test_one_text_stands_for_an_option_that_takes_several(name):
    options = read_options(EvaluationOptions, {name: "max"})
    assert getattr(options, name) == ("max",)
    assert options == read_options(EvaluationOptions, {name: ("max",)})


def test_a_path_stands_for_its_text():
    written = {"root": "data", "groups": fw.GroupColumns("patients.csv", group="patient")}
    paths = {"root": Path("data"), "groups": fw.GroupColumns(Path("patients.csv"), group="patient")}
    assert read_options(LoadOptions, paths) == read_options(LoadOptions, written)


def test_an_unknown_option_is_compared_with_every_argument():
    words = "unknown option 'shift'; did you mean 'shifts'"
    with pytest.raises(fw.InputError, match=words):
        fw.evaluate(Means(), "folder:data", shift="imagenet_c")


@pytest.mark.parametrize("name", ["variants", "fit_on"])
def test_one_name_with_its_parameters_stands_for_an_option_that_takes_several(name):
    written = {"imagenet_c/fog": {"severity": 3}}
    assert getattr(read_options(EvaluationOptions, {name: written}), name) == (written,)


@pytest.mark.parametrize("value", [[5], 5, ["tent", None], [["tent"]]])
@pytest.mark.parametrize("name", ["variants", "fit_on"])
def test_names_may_be_texts_or_mappings(name, value):
    words = f"^{name}: each must be a name, or a mapping of a name to its parameters, found "
    with pytest.raises(fw.InputError, match=words):
        read_options(EvaluationOptions, {name: value})

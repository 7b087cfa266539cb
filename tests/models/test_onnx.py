"""ONNX files: the logits are those of the model that was exported, and nothing happens twice."""

import copy
import gc
import hashlib
import json
import pickle
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.attacks.table import make_attack
from fairweather.devices import Arithmetic
from fairweather.errors import InputError
from fairweather.models.outputs import LOGITS, OutputKind
from fairweather.models.wrappers import Classifier
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import OpenedNetwork, Plan
from fairweather.steps.worker import Worker
from tests.helpers.opened_models import open_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 16
CUDA = "CUDAExecutionProvider"
CHOSEN = (
    {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    {"use_tf32": "1", "cudnn_conv_algo_search": "HEURISTIC"},
    {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"},
)


def open_onnx(path, **options):
    return open_model(f"onnx:{path}", **options)


def network(outputs=5):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, outputs),
    ).eval()


def export(model, path):
    """Write a file for any batch size; the exporter's own warnings are none of ours."""
    pytest.importorskip("onnxscript")
    images = torch.rand(2, 3, SIZE, SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (images,), path, dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
        )
    return path


def changed(exported, path, change):
    """Write a changed copy of an exported model."""
    model = onnx.load(exported)
    change(model.graph)
    onnx.save(model, path)
    return path


def dimensions(graph, **sizes):
    """Declare dimensions of the input: a number, or a name for any."""
    for place, size in sizes.items():
        dimension = graph.input[0].type.tensor_type.shape.dim["NCHW".index(place)]
        setattr(dimension, "dim_value" if isinstance(size, int) else "dim_param", size)


def logits(model, images):
    with torch.no_grad():
        return model(images)


def graph(path, nodes, constants=(), images=("float", ["n", 3, SIZE, SIZE]), outputs=3, **fields):
    """Write a graph that ends in the mean of each channel, a logit each: small enough to reckon."""
    kinds = {
        "float": onnx.TensorProto.FLOAT,
        "half": onnx.TensorProto.FLOAT16,
        "double": onnx.TensorProto.DOUBLE,
        "bytes": onnx.TensorProto.UINT8,
        "int": onnx.TensorProto.INT64,
    }
    kind, shape = images
    last = nodes[-1].output[0] if nodes else "images"
    names = {name for node in nodes for name in node.output}
    if "logits" not in names:
        pool = helper.make_node("GlobalAveragePool", [last], ["pooled"])
        nodes = [*nodes, pool, helper.make_node("Flatten", ["pooled"], ["logits"])]
    output = helper.make_tensor_value_info(
        "logits", kinds[fields.get("output", "float")], ["n", outputs]
    )
    made = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", kinds[kind], shape)],
        [output],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in dict(constants).items()
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, fields.get("metadata", {}))
    onnx.save(model, path)
    return path


def f32(values):
    return np.array(values, dtype=np.float32).reshape(1, 3, 1, 1)


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(), [output], **attributes)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The network with any batch size, exported once."""
    return export(network(), tmp_path_factory.mktemp("onnx") / "small net.onnx")


def test_an_exported_network_gives_its_logits(exported):
    opened = open_onnx(exported, mean=MEAN, std=STD)
    images = torch.rand(7, 3, SIZE, SIZE)
    expected = logits(Classifier(network(), MEAN, STD), images)
    assert torch.allclose(opened.model(images), expected, atol=1e-5)
    assert opened.preparation == (SIZE, None, "bilinear", "crop")
    assert opened.facts["preparation"]["from"] == "the graph; filter and crop are assumed"
    assert not opened.model.training
    assert opened.name == "small-net"
    assert opened.classes is None
    facts = json.loads(json.dumps(opened.facts))
    assert facts["parameters"] == sum(p.numel() for p in network().parameters())
    assert facts["outputs"] == 5
    assert facts["normalisation"] == {"mean": list(MEAN), "std": list(STD), "from": "given"}
    assert facts["output"] == onnx.load(exported).graph.output[0].name
    assert opened.outputs == LOGITS


def test_a_hugging_face_model_and_its_export_agree(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"image_size": SIZE, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    config = transformers.ViTConfig(
        num_hidden_layers=1, num_attention_heads=2, id2label={0: "a", 1: "b", 2: "c"}, **sizes
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    size = {"height": SIZE, "width": SIZE}
    transformers.ViTImageProcessor(size=size).save_pretrained(tmp_path / "vit")
    there = open_model(f"hf:{tmp_path / 'vit'}")
    bare = export(there.model.network, tmp_path / "bare.onnx")
    normalisation = {key: there.facts["normalisation"][key] for key in ("mean", "std")}
    images = torch.rand(5, 3, SIZE, SIZE)
    ours = open_onnx(bare, **normalisation).model(images)
    assert torch.allclose(ours, logits(there.model, images), atol=1e-4)


def test_a_batch_of_fixed_size_is_run_in_parts(exported, tmp_path):
    path = changed(exported, tmp_path / "four.onnx", lambda graph: dimensions(graph, N=4))
    opened = open_onnx(path)
    assert opened.facts["input"]["batch"] == 4
    for count in (1, 4, 6, 9):
        images = torch.rand(count, 3, SIZE, SIZE)
        assert torch.allclose(opened.model(images), logits(network(), images), atol=1e-5)


def test_a_graph_of_any_size_takes_images_as_they_are_or_resized_first(exported, tmp_path):
    path = changed(exported, tmp_path / "any.onnx", lambda graph: dimensions(graph, H="h", W="w"))
    opened = open_onnx(path)
    assert opened.preparation is None
    images = torch.rand(2, 3, 24, 24)
    assert torch.allclose(opened.model(images), logits(network(), images), atol=1e-5)
    resized = open_onnx(path, input_size=SIZE)
    assert resized.preparation == (SIZE, None, "bilinear", "crop")
    expected = logits(Classifier(network(), (0, 0, 0), (1, 1, 1), SIZE), images)
    assert torch.allclose(resized.model(images), expected, atol=1e-5)


def test_a_graph_of_one_size_resizes_inside_and_refuses_another(exported):
    images = torch.rand(2, 3, 40, 40)
    expected = logits(Classifier(network(), (0, 0, 0), (1, 1, 1), SIZE), images)
    assert torch.allclose(open_onnx(exported).model(images), expected, atol=1e-5)
    with pytest.raises(InputError, match=r"16 pixels.* 32"):
        open_onnx(exported, input_size=32)


def test_probabilities_become_logits_with_the_same_probabilities(exported, tmp_path):
    def append(graph):
        graph.node.append(node("Softmax", graph.output[0].name, "probabilities"))
        graph.output[0].name = "probabilities"

    path = changed(exported, tmp_path / "softmax.onnx", append)
    opened = open_onnx(path)
    assert opened.outputs == OutputKind("probabilities", "it ends in Softmax")
    images = torch.rand(3, 3, SIZE, SIZE)
    given = opened.model(images)
    assert torch.allclose(given.softmax(1), logits(network(), images).softmax(1), atol=1e-6)
    assert torch.allclose(given, logits(network(), images).log_softmax(1), atol=1e-5)
    as_they_are = open_onnx(path, outputs="logits")
    assert as_they_are.outputs == OutputKind("logits", "given")
    assert torch.allclose(as_they_are.model(images), given.exp(), atol=1e-6)


def test_a_softmax_written_out_is_recognised_and_a_probability_of_zero_stays_finite(tmp_path):
    nodes = [
        *POOLED,
        node("Mul", "flat by", "steep"),
        node("ReduceMax", "steep", "most", axes=[1]),
        node("Sub", "steep most", "below"),
        node("Exp", "below", "powers"),
        node("ReduceSum", "powers axis", "total"),
        node("Div", "powers total", "logits"),
    ]
    constants = {"by": np.float32(300), "axis": np.array([1])}
    opened = open_onnx(graph(tmp_path / "m.onnx", nodes, constants))
    assert opened.outputs == OutputKind("probabilities", "rows are >= 0 and sum to one")
    image = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
    smallest = float(np.log(np.finfo(np.float32).tiny))
    assert opened.model(image)[0].tolist() == pytest.approx([smallest, smallest, 0])


POOLED = [node("GlobalAveragePool", "images", "pooled"), node("Flatten", "pooled", "flat")]


def test_log_probabilities_are_logits_as_they_are(tmp_path):
    nodes = [*POOLED, node("LogSoftmax", "flat", "logits")]
    opened = open_onnx(graph(tmp_path / "m.onnx", nodes))
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = images.mean((2, 3)).log_softmax(1)
    assert torch.allclose(opened.model(images), expected, atol=1e-5)
    assert opened.outputs == OutputKind("logits", "it ends in LogSoftmax")


def test_a_softmax_is_found_behind_a_quantisation_though_its_sums_are_rounded(tmp_path):
    nodes = [
        *POOLED,
        node("Softmax", "flat", "soft"),
        node("QuantizeLinear", "soft step zero", "bytes"),
        node("DequantizeLinear", "bytes step zero", "logits"),
    ]
    constants = {"step": np.float32(0.04), "zero": np.uint8(0)}
    opened = open_onnx(graph(tmp_path / "m.onnx", nodes, constants))
    assert opened.outputs.kind == "probabilities"
    image = torch.rand(1, 3, SIZE, SIZE)
    rounded = (image.mean((2, 3)).softmax(1) / 0.04).round() * 0.04
    assert abs(float(rounded.sum()) - 1) > 0.01
    assert torch.allclose(opened.model(image).exp(), rounded, atol=1e-5)


def test_outputs_that_are_each_a_yes_or_no_are_refused_unless_one_says_how_to_take_them(tmp_path):
    nodes = [*POOLED, node("Sigmoid", "flat", "each"), node("Identity", "each", "logits")]
    path = graph(tmp_path / "m.onnx", nodes)
    with pytest.raises(InputError, match=r"Sigmoid.* outputs \(--outputs\)"):
        open_onnx(path)
    images = torch.rand(2, 3, SIZE, SIZE)
    each = images.mean((2, 3)).sigmoid()
    assert torch.allclose(open_onnx(path, outputs="logits").model(images), each, atol=1e-6)
    divided = open_onnx(path, outputs="probabilities").model(images).softmax(1)
    assert torch.allclose(divided, each / each.sum(1, keepdim=True), atol=1e-6)


def test_what_two_pictures_of_noise_cannot_tell_is_left_open(tmp_path):
    opened = open_onnx(graph(tmp_path / "m.onnx", []))  # means of channels, which lie in [0, 1]
    assert opened.outputs is None
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.allclose(opened.model(images), images.mean((2, 3)), atol=1e-6)


def test_a_normalisation_in_an_exported_graph_is_found(tmp_path):
    model = Classifier(network(), MEAN, STD)
    path = export(model, tmp_path / "m.onnx")
    found = open_onnx(path).facts["normalisation"]
    assert found["mean"] == pytest.approx(MEAN, abs=1e-6)
    assert found["std"] == pytest.approx(STD, abs=1e-6)
    assert found["from"] == "the graph itself"
    with pytest.raises(
        InputError, match=r"m.onnx .*\(mean 0.485 0.456 0.406.* leave mean and std out"
    ):
        open_onnx(path, mean=MEAN, std=STD)


BATCHNORM = {
    "gain": np.float32([1, 2, 4]),
    "shift": np.float32([0, 1, 0]),
    "center": np.float32([0.5, 0.25, 0]),
    "variance": np.float32([1, 1, 4]),
}
NORMALISED = {
    "minus, over": (
        [node("Sub", "images m", "a"), node("Div", "a s", "b")],
        {"m": f32(MEAN), "s": f32(STD)},
        (MEAN, STD, 1),
    ),
    "plus, times, two consumers of the shape": (
        [
            node("Shape", "images", "shape"),
            node("Mul", "s images", "a"),
            node("Identity", "a", "i"),
            node("Add", "m i", "b"),
        ],
        {"m": f32([-1, -1, -1]), "s": f32([2, 2, 2])},
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1),
    ),
    "by zero": (
        [node("Mul", "images s", "a"), node("Sub", "a m", "b")],
        {"m": f32([0, 0.5, 0]), "s": f32([2, 2, 2])},
        ((0, 0.25, 0), (0.5, 0.5, 0.5), 1),
    ),
    "negative": (
        [node("Sub", "one images", "b")],
        {"one": np.float32(1)},
        ((1, 1, 1), (-1, -1, -1), 1),
    ),
    "constants in nodes": (
        [
            helper.make_node("Constant", [], ["flat"], value_floats=[0.5, 0.25, 0.125]),
            node("Unsqueeze", "flat axes", "m"),
            node("Sub", "images m", "b"),
        ],
        {"axes": np.array([0, 2, 3])},
        ((0.5, 0.25, 0.125), (1, 1, 1), 1),
    ),
    "made for 0 to 255": (
        [node("Sub", "images m", "a"), node("Div", "a s", "b")],
        {"m": f32([123.675, 116.28, 103.53]), "s": f32([58.395, 57.12, 57.375])},
        (MEAN, STD, 255),
    ),
    "means of 0 to 255": (
        [node("Sub", "images m", "b")],
        {"m": f32([127.5, 127.5, 127.5])},
        ((0.5, 0.5, 0.5), (1 / 255,) * 3, 255),
    ),
    "batch norm": (
        [node("BatchNormalization", "images gain shift center variance", "b", epsilon=0.0)],
        BATCHNORM,
        ((0.5, -0.25, 0), (1, 0.5, 0.5), 1),
    ),
}


@pytest.mark.parametrize("case", NORMALISED)
def test_affine_steps_before_the_first_layer_are_a_normalisation(case, tmp_path):
    nodes, constants, (mean, std, scale) = NORMALISED[case]
    opened = open_onnx(graph(tmp_path / "m.onnx", nodes, constants))
    found = opened.facts["normalisation"]
    assert found["mean"] == pytest.approx(mean, abs=1e-5)
    assert found["std"] == pytest.approx(std, abs=1e-5)
    assert opened.facts["input"]["fed_in"] == [0, scale]
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = (images.mean((2, 3)) - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(opened.model(images), expected.float(), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"m\.onnx .* leave mean and std out"):
        open_onnx(tmp_path / "m.onnx", mean=MEAN, std=STD)


def test_a_division_by_255_is_no_normalisation_but_tells_the_range(tmp_path):
    path = graph(tmp_path / "m.onnx", [node("Div", "images by", "b")], {"by": np.float32(255)})
    images = torch.rand(2, 3, SIZE, SIZE)
    opened = open_onnx(path)
    assert opened.facts["normalisation"]["mean"] is None
    assert opened.facts["input"]["fed_in"] == [0, 255]
    assert torch.allclose(opened.model(images), images.mean((2, 3)), atol=1e-5)
    expected = (images.mean((2, 3)) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(open_onnx(path, mean=MEAN, std=STD).model(images), expected, atol=1e-4)


def test_without_any_normalisation_the_facts_say_what_the_model_is_fed(exported):
    normalisation = open_onnx(exported).facts["normalisation"]
    assert normalisation["mean"] is None
    assert normalisation["from"].endswith("images are in [0, 1]")


LAYOUTS = {
    "NHWC": ([node("Transpose", "images", "b", perm=[0, 3, 1, 2])], "float", True),
    "half": ([node("Cast", "images", "b", to=1)], "half", False),
    "double": ([node("Cast", "images", "b", to=1)], "double", False),
    "8 bits": (
        [node("Cast", "images", "a", to=1), node("Div", "a by", "b")],
        "bytes",
        False,
    ),
    "8 bits, NHWC": (
        [
            node("Transpose", "images", "t", perm=[0, 3, 1, 2]),
            node("Cast", "t", "a", to=1),
            node("Div", "a by", "b"),
        ],
        "bytes",
        True,
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_other_layouts_and_types_are_converted_to(case, tmp_path):
    nodes, kind, last = LAYOUTS[case]
    shape = ["n", SIZE, SIZE, 3] if last else ["n", 3, SIZE, SIZE]
    constants = {"by": np.float32(255)} if kind == "bytes" else {}
    opened = open_onnx(graph(tmp_path / "m.onnx", nodes, constants, (kind, shape)))
    pixels = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    images = (pixels.float() / 255).to(memory_format=torch.channels_last)
    assert torch.allclose(opened.model(images), images.mean((2, 3)), atol=1e-3)
    assert opened.facts["normalisation"]["mean"] is None
    assert opened.model(images).dtype == torch.float32
    if kind == "bytes":
        assert torch.allclose(opened.model(images), images.mean((2, 3)), atol=1e-6)
        with pytest.raises(InputError, match=r"8-bit .*leave mean and std out"):
            open_onnx(tmp_path / "m.onnx", mean=MEAN, std=STD)


def test_rows_and_columns_keep_their_places_when_channels_come_last(tmp_path):
    nodes = [node("Flatten", "images", "flat"), node("MatMul", "flat weight", "logits")]
    weight = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, 3)).astype(np.float32)
    shape = ["n", SIZE, SIZE, 3]
    path = graph(tmp_path / "m.onnx", nodes, {"weight": weight}, ("float", shape))
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = images.permute(0, 2, 3, 1).flatten(1) @ torch.from_numpy(weight)
    assert torch.allclose(open_onnx(path).model(images), expected, atol=1e-4)


def test_8_bit_images_are_rounded_to_and_clipped(tmp_path):
    nodes = [node("Cast", "images", "b", to=1)]
    opened = open_onnx(graph(tmp_path / "m.onnx", nodes, images=("bytes", ["n", 3, SIZE, SIZE])))
    image = torch.tensor([100.4, 100.6, 300]).reshape(1, 3, 1, 1).expand(1, 3, SIZE, SIZE) / 255
    assert opened.model(image)[0].tolist() == pytest.approx([100, 101, 255])


@pytest.mark.parametrize(
    ("metadata", "classes"),
    [
        ({"names": "{2: 'red', 0: 'blue', 1: 'green'}"}, ("blue", "green", "red")),
        ({"id2label": '{"10": "a"}', "classes": '["x", "y", "z"]'}, ("x", "y", "z")),
        ({"Labels": '{"1": "y", "0": "x", "2": "z"}'}, ("x", "y", "z")),
        ({"names": "__import__('os').getcwd()"}, None),
        ({"names": '["only", "two"]'}, None),
        ({"names": "{1e999: 'red', 1: 'green', 2: 'blue'}"}, None),
        ({"names": '{"0": "red", "00": "green", "2": "blue"}'}, None),
        ({"author": '["x", "y", "z"]'}, None),
    ],
)
def test_class_names_come_from_the_metadata(metadata, classes, tmp_path):
    opened = open_onnx(graph(tmp_path / "m.onnx", [], metadata=metadata))
    assert opened.classes == classes
    if "only" in str(metadata):
        assert opened.facts["class_names"] == "2 for 3 outputs"


def test_weights_beside_the_file_are_loaded_counted_and_in_the_digest(exported, tmp_path):
    path, weights = tmp_path / "m.onnx", tmp_path / "m.weights"
    onnx.save(
        onnx.load(exported),
        path,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=100,  # bytes: ONNX Runtime wants shapes inside
    )
    images = torch.rand(2, 3, SIZE, SIZE)
    opened = open_onnx(path)
    assert torch.allclose(opened.model(images), logits(network(), images), atol=1e-5)
    assert opened.facts["parameters"] == sum(p.numel() for p in network().parameters())
    assert open_onnx(path).digest == opened.digest
    content = bytearray(weights.read_bytes())
    content[1] ^= 1
    weights.write_bytes(content)
    assert open_onnx(path).digest != opened.digest
    weights.unlink()
    with pytest.raises(InputError, match=r"m\.onnx .*m\.weights"):
        open_onnx(path)


def test_the_digest_of_a_single_file_is_that_of_its_bytes(tmp_path):
    path = graph(tmp_path / "m.onnx", [])
    assert open_onnx(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_attack_by_gradients_says_that_there_are_none_and_square_works(exported):
    model = open_onnx(exported).model
    images, keys = torch.rand(4, 3, SIZE, SIZE), torch.arange(4)
    labels = model(images).argmax(1)
    for name in ("pgd", "fgsm"):
        with pytest.raises(InputError, match=r"ONNX .*square"):
            make_attack(name, epsilon=0.1)(model, images, labels, keys)
    found = make_attack("square", epsilon=0.3, queries=30)(model, images, labels, keys)
    assert found.shape == images.shape
    assert not torch.equal(found, images)


def test_a_gradient_that_nobody_will_ask_for_is_no_error(exported):
    model = open_onnx(exported).model
    images = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    assert logits(model, images).shape == (1, 5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(images), logits(model, images))


def test_it_can_be_copied_pickled_moved_and_switched(exported):
    model = open_onnx(exported, mean=MEAN, std=STD).model
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other = other.to("cpu", memory_format=torch.channels_last).train().eval()
        assert torch.equal(other(images), expected)
    assert not list(model.parameters())


def test_threads_are_those_of_torch(exported, monkeypatch):
    seen = []
    session = onnxruntime.InferenceSession

    def watched(path, options, providers):
        seen.append((options.intra_op_num_threads, providers))
        return session(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    model = open_onnx(exported).model
    model(torch.rand(1, 3, SIZE, SIZE))
    torch.set_num_threads(2)
    model(torch.rand(1, 3, SIZE, SIZE))
    assert seen == [(1, ["CPUExecutionProvider"]), (2, ["CPUExecutionProvider"])]


class Session:
    """What ONNX Runtime makes: it says where it runs."""

    def __init__(self, path, options, providers):
        self.providers = providers

    def get_providers(self):
        return [each if isinstance(each, str) else each[0] for each in self.providers]


def test_on_a_gpu_fast_arithmetic_is_used_only_if_asked_for(exported, monkeypatch):
    sessions = open_onnx(exported).model.network.sessions
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "AnyProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    made = []
    for arithmetic in (Arithmetic(), Arithmetic("tf32"), Arithmetic(cudnn_benchmark=True)) * 2:
        with arithmetic.on(torch.device("cpu")):
            made.append(sessions._session(torch.device("cuda:1")))
    assert made[:3] == made[3:]  # one session for each, however often it is asked for
    expected = [[(CUDA, {"device_id": "1", **each}), "CPUExecutionProvider"] for each in CHOSEN]
    assert [each.providers for each in made[:3]] == expected
    with Arithmetic().on(torch.device("cpu")):
        first = sessions._session(torch.device("cuda:0"))
    assert first is not made[0]  # another device has a session of its own
    assert first.providers[0][1]["device_id"] == "0"


def test_a_graph_that_is_put_aside_closes_its_sessions_on_the_device(
    exported, monkeypatch, tmp_path
):
    models = {name: open_onnx(exported).model for name in "ab"}
    worker = Worker(Plan(data={}, steps=()), device="cpu", models=models, networks=1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    sessions = models["a"].network.sessions
    there, here = (weakref.ref(sessions._session(torch.device(on))) for on in ("cuda:0", "cpu"))
    for name in "aab":
        assert there() is not None
        worker.network(OpenedNetwork(digest=name), RunFolder(tmp_path))
    gc.collect()
    assert there() is None
    assert sessions._session(torch.device("cpu")) is here()  # it is as good as before


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
@pytest.mark.parametrize("there", [["CPUExecutionProvider"], [CUDA, "CPUExecutionProvider"]])
def test_what_runs_on_the_cpu_instead_is_told(device, there, exported, monkeypatch):
    class Fallen(Session):
        def get_providers(self):
            return ["CPUExecutionProvider"]  # the libraries of CUDA could not be loaded

    sessions = open_onnx(exported).model.network.sessions
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.warns(UserWarning, match=f"runs on the CPU, not on {device}"):
        first = sessions._session(torch.device(device))
    assert sessions._session(torch.device(device)) is first  # it is told once


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_are_refused(precision, toy_images, tmp_path):
    file = export(network(outputs=3), tmp_path / "three.onnx")
    data = fw.Dataset("toy", None, None, toy_images, (0.5,) * 3, (0.3,) * 3)
    with pytest.raises(InputError, match=f"precision {precision} is for PyTorch models"):
        fw.evaluate(f"onnx:{file}", data, "brightness_factor: [0.5]", precision=precision)


def test_memory_that_runs_out_is_told_apart_from_images_that_do_not_fit(exported, monkeypatch):
    model = open_onnx(exported).model
    sessions = model.network.sessions

    class Full:
        def run(self, *args):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 7")

    with pytest.raises(InputError, match=r"onnx:.* float32 \[2, 3, 8, 8\] \("):
        model.network(torch.rand(2, 3, 8, 8))
    monkeypatch.setattr(sessions, "_session", lambda device: Full())
    with pytest.raises(MemoryError):
        model(torch.rand(2, 3, SIZE, SIZE))


@pytest.mark.parametrize(
    ("nodes", "images", "message"),
    [
        ([], ("float", ["n", 2, SIZE, SIZE]), r"must take images .*found images \['any', 2, 16"),
        ([], ("float", ["n", 3, SIZE]), "must take images"),
        ([], ("float", ["n", 3, SIZE, 32]), "must take square images"),
        ([], ("int", ["n", 3, SIZE, SIZE]), "must be one of float32, uint8, float16, float64"),
        ([node("Identity", "images", "logits")], ("float", ["n", 3, 8, 8]), r"gave \[2, 3, 8, 8\]"),
    ],
)
def test_graphs_that_are_no_classifiers_of_rgb_images(nodes, images, message, tmp_path):
    with pytest.raises(InputError, match=message):
        open_onnx(graph(tmp_path / "m.onnx", nodes, images=images))


def test_an_output_of_another_shape_is_refused(tmp_path):
    path = graph(tmp_path / "m.onnx", [])
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"\[batch, classes\].* logits with 3"):
        open_onnx(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert open_onnx(path).facts["outputs"] == 3
    hidden = helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, None)
    model.graph.output.insert(0, hidden)
    model.graph.output[1].CopyFrom(
        helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3])
    )
    onnx.save(model, path)
    assert open_onnx(path).facts["output"] == "logits"


def test_files_that_are_no_models(exported, tmp_path):
    broken = tmp_path / "broken.onnx"
    whole = exported.read_bytes()
    for content in (b"", b"PK\x03\x04 a zip file", whole[: len(whole) // 2], whole[:-3]):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.onnx"):
            open_onnx(broken)
    with pytest.raises(InputError, match=r"onnx:.*no such file"):
        open_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(InputError, match=r"onnx:.*no such file"):
        open_onnx(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": MEAN}, "go together"),
        ({"mean": MEAN, "std": (1, 1)}, "std needs three numbers, one per channel"),
        ({"mean": MEAN, "std": (1, 0, 1)}, "std must be > 0"),
        ({"input_size": 4}, "input_size must be at least 8"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message, tmp_path):
    path = graph(tmp_path / "m.onnx", [], images=("float", ["n", 3, "h", "w"]))
    with pytest.raises(InputError, match=message):
        open_onnx(path, **arguments)


def test_a_network_that_needs_a_size_which_its_graph_does_not_tell_asks_for_it(tmp_path):
    nodes = [node("Flatten", "images", "flat"), node("MatMul", "flat weight", "logits")]
    weight = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, 3)).astype(np.float32)
    shape = ["n", 3, "h", "w"]
    path = graph(tmp_path / "m.onnx", nodes, {"weight": weight}, ("float", shape))
    with pytest.raises(InputError, match="input_size"):
        open_onnx(path)
    assert open_onnx(path, input_size=SIZE).model(torch.rand(2, 3, 20, 20)).shape == (2, 3)


def test_nothing_is_printed(exported, tmp_path, capfd):
    capfd.readouterr()
    open_onnx(exported)
    path = graph(tmp_path / "m.onnx", [node("Unheard", "images", "b")])
    with pytest.raises(InputError, match="onnx:"):
        open_onnx(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_a_package_the_line_that_installs_it_is_named(package, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}: pip install 'fairweather\[onnx\]'"):
        open_onnx(exported)

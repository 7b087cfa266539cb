"""Model files that are damaged, or made to do harm: one sentence each, and nothing hangs."""

import json
import shutil

import pytest
import torch

from fairweather.errors import InputError
from fairweather.models.checkpoints import read_checkpoint
from tests.helpers.opened_models import open_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

NODE = onnx.helper.make_node
POOL = (NODE("GlobalAveragePool", ["x"], ["p"]), NODE("Flatten", ["p"], ["y"]))
SUBTRACT = (
    NODE("Sub", ["x", "c"], ["a"]),
    NODE("GlobalAveragePool", ["a"], ["p"]),
    NODE("Flatten", ["p"], ["y"]),
)


def refused(source, **options):
    with pytest.raises(InputError) as caught:
        open_model(source, **options)
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    return told


# ---------------------------------------------------------------- ONNX


def graph(*nodes, tensors=(), shape=("b", 3, 32, 32), **metadata):
    kind = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info("y", kind, ("b", 3))],
        tensors,
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.helper.set_model_props(model, metadata)
    return model


def tensor(raw=b"", dims=(3,), kind=1, location=None, floats=()):
    made = onnx.TensorProto(name="c", data_type=kind, dims=dims)
    if floats:
        made.float_data.extend(floats)
    elif location is None:
        made.raw_data = raw
    else:
        made.data_location = onnx.TensorProto.EXTERNAL
        made.external_data.add(key="location", value=location)
    return made


def constant(value):
    node = NODE("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(value)
    return node


@pytest.fixture
def file(tmp_path):
    def write(model):
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return f"onnx:{path}"

    return write


def test_a_side_of_any_length_may_be_written_as_minus_one(file):
    opened = open_model(file(graph(*POOL, shape=(-1, 3, 32, 32))))
    assert opened.model(torch.rand(4, 3, 32, 32)).shape == (4, 3)


@pytest.mark.parametrize(
    "model",
    [
        graph(NODE("Identity", ["y"], ["z"]), NODE("Identity", ["z"], ["y"])),
        graph(NODE("Identity", ["y"], ["y"])),
        graph(NODE("Identity", ["x"], ["a"]), NODE("Identity", ["a"], ["x"]), *POOL),
        graph(NODE("Constant", [], ["c"]), *SUBTRACT),
        graph(NODE("Identity", [], ["y"])),
        graph(NODE("Cast", [], ["c"]), *SUBTRACT),
        graph(NODE("Sub", ["x"], []), *POOL),
        graph(*SUBTRACT, tensors=[tensor(b"abc")]),
        graph(*SUBTRACT, tensors=[tensor(b"abcd", dims=(-3,))]),
        graph(*SUBTRACT, tensors=[tensor(b"abcd", dims=(2**40, 2**40))]),
        graph(*SUBTRACT, tensors=[tensor(b"abcd" * 3, kind=99)]),
        graph(*SUBTRACT, tensors=[tensor(floats=[1.0])]),
        graph(constant(tensor(b"abc")), *SUBTRACT),
        graph(*POOL, shape=("b", 3, -5, -5)),
        graph(*POOL, shape=("b", 3, 10**9, 10**9)),
        graph(*POOL, shape=(10**9, 3, 32, 32)),
        graph(*POOL).SerializeToString()[:-20],
        b"no graph",
        b"",
    ],
)
def test_a_damaged_graph_is_refused(file, model):
    assert "model.onnx" in refused(file(model))


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "", "a\0b", "sub/../../secret", "/dev/zero", "."]
)
@pytest.mark.parametrize("as_node", [False, True])
def test_weights_outside_the_folder_of_a_graph_are_not_read(file, location, as_node):
    outside = tensor(location=location)
    nodes = [constant(outside), *SUBTRACT] if as_node else SUBTRACT
    told = refused(file(graph(*nodes, tensors=[] if as_node else [outside])))
    assert "outside its folder" in told


def within(nodes, tensors=()):
    """A node that runs a graph of its own."""
    inner = onnx.helper.make_graph(
        nodes, "inner", [], [onnx.helper.make_tensor_value_info("c", 1, (3,))], tensors
    )
    return NODE("If", ["yes"], ["c"], then_branch=inner, else_branch=inner)


def sparse(outside):
    indices = onnx.helper.make_tensor("i", 7, (3,), [0, 1, 2])
    return NODE(
        "Constant", [], ["c"], sparse_value=onnx.helper.make_sparse_tensor(outside, indices, (3,))
    )


INNER = {
    "in a graph within the graph": lambda outside: within([], [outside]),
    "in a node of it": lambda outside: within([constant(outside)]),
    "deeper": lambda outside: within([within([constant(outside)])]),
    "sparse": sparse,
}


@pytest.mark.parametrize("kind", INNER)
def test_weights_outside_the_folder_are_found_wherever_they_stand(file, kind):
    outside = tensor(location="../secret")
    yes = onnx.helper.make_tensor("yes", 9, (), [True])
    made = graph(INNER[kind](outside), *SUBTRACT, tensors=[yes])
    assert "outside its folder" in refused(file(made))
    made.functions.add(name="f").node.add().CopyFrom(made.graph.node[0])
    del made.graph.node[0]
    assert "outside its folder" in refused(file(made))


@pytest.mark.parametrize("names", ['[null, "b", "c"]', '[["a"], "b", "c"]', "[true, false, true]"])
def test_class_names_of_a_graph_are_text(file, names):
    assert "which is not a text" in refused(file(graph(*POOL, names=names)))


@pytest.mark.parametrize("names", ["[" * 5000, '{"a":' * 5000, "(" * 5000, "[" + "9" * 5000 + "]"])
def test_metadata_that_are_no_names_are_left_alone(file, names):
    assert open_model(file(graph(*POOL, names=names))).classes is None


# ---------------------------------------------------------------- Hugging Face


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "saved"
    configuration = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3
    )
    transformers.ResNetForImageClassification(configuration).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.fixture
def changed(saved, tmp_path):
    def change(name, **keys):
        folder = tmp_path / "model"
        shutil.copytree(saved, folder)
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return f"hf:{folder}"

    return change


@pytest.mark.parametrize(
    "names",
    [
        {"0": None, "1": "b", "2": "c"},
        {"0": ["a"], "1": "b", "2": "c"},
        {"0": 1.5, "1": "b", "2": "c"},
        {"0": "a", "1": "b", "5": "c"},
        {"0": "a\x01", "1": "b", "2": "c"},
        ["a", "b", "c"],
        "abc",
        {"a": "x", "b": "y", "c": "z"},
    ],
)
def test_class_names_of_a_configuration_are_text_for_each_output(changed, names):
    assert "model" in refused(changed("config.json", id2label=names))


def test_whole_numbers_are_class_names(changed):
    source = changed("config.json", id2label={"0": 3, "1": 4, "2": 5})
    assert open_model(source).classes == ("3", "4", "5")


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": None},
        {"image_mean": "abc"},
        {"image_std": [0, 0, 0]},
        {"image_std": [[1], [1], [1]]},
        {"rescale_factor": "x"},
        {"size": None},
        {"size": {"height": -3, "width": -3}},
        {"size": {"height": 32.5, "width": 32.5}},
        {"resample": 99},
    ],
)
def test_settings_of_a_processor_that_cannot_be_used_are_refused(changed, settings):
    told = refused(changed("preprocessor_config.json", **settings))
    assert "preprocess" in told or "processor" in told


# ---------------------------------------------------------------- checkpoints

STATES = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.zeros(3, 3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(3, 3), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]),
}


@pytest.mark.filterwarnings("ignore")  # torch warns that some of these are new, and some old
@pytest.mark.parametrize("kind", STATES)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, kind):
    path = tmp_path / "weights.pt"
    torch.save({"model": {"layer.weight": STATES[kind](), "layer.bias": torch.zeros(3)}}, path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    told = str(caught.value)
    assert "layer.weight" in told
    assert kind in told

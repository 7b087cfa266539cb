"""What an ONNX graph says about itself: input, output, normalisation and class names."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.runs import stays_inside
from fairweather.types import LARGEST_SIDE
from fairweather.types import class_names as as_text

Array = npt.NDArray[np.float64]
# Of onnx, which is an extra: ModelProto, NodeProto and TensorProto.
Model = Any
Node = Any
Tensor = Any

# onnx.TensorProto.DataType: the types that images may have.
IMAGE_TYPES: Mapping[int, type[np.generic]] = {
    1: np.float32,
    2: np.uint8,
    10: np.float16,
    11: np.float64,
}
FLOATS = (1, 10, 11)
WHOLE = (6, 7)  # int32 and int64
EXTERNAL = 1  # onnx.TensorProto.DataLocation

# Steps that keep the meaning of a channel's values, and steps that only reshape a constant.
PASSING = {"Identity", "Cast", "Transpose", "Resize", "Upsample", "Dropout"}
REQUANTISING = {"QuantizeLinear", "DequantizeLinear"}
RESHAPING = {"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Expand"}
# Steps between the last layer and the output that keep the meaning of its values.
TRAILING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Dropout"} | REQUANTISING
MOST_IMAGES = 65_536  # in a batch
# Beyond what a mean or deviation of images in [0, 1] can be, those of images in [0, 255] begin.
LARGEST = 2.0
# Where exporters keep class names.
NAMES = ("names", "classes", "class_names", "labels", "id2label")


class ImageInput(NamedTuple):
    """The one input: `[batch, 3, size, size]`, or `[batch, size, size, 3]` with `channels_last`.

    Attributes:
        channels: 3, or 1 for gray images.
        batch, size: None where the graph takes any.
    """

    name: str
    dtype: type[np.generic]
    channels_last: bool
    batch: int | None
    size: int | None
    channels: int = 3


class Steps(NamedTuple):
    """What the graph does to images in [0, 1] before its first layer: `(x - mean) / std`.

    Attributes:
        scale: what images in [0, 1] have to be multiplied by first, 1 or 255.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int

    @property
    def normalise(self) -> bool:
        """Whether they change an image in [0, 1] at all."""
        return not (np.allclose(self.mean, 0, atol=1e-4) and np.allclose(self.std, 1, atol=1e-4))


def read_graph(path: Path) -> Model:
    """Read a model without weights in other files; raises `InputError` if it is not one."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"onnx:{path} cannot be read: {error.strerror or error}") from error
    # protobuf raises its own error, which every version keeps in another module.
    except Exception as error:
        raise InputError(f"onnx:{path} is damaged, or not an ONNX file") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"onnx:{path} is damaged, or not an ONNX file: it has no graph")
    return model


def external_files(model: Model, path: Path) -> list[Path]:
    """List the other files with weights, in order; raises `InputError` if one is missing."""
    names = set()
    for tensor in _tensors(model):
        if tensor.data_location == EXTERNAL:
            names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for name in names:
        if not stays_inside(name.removeprefix("./")):
            raise InputError(f"onnx:{path} has weights outside its folder, in {name!r:.100}")
    files = [path.parent / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"onnx:{path} has weights in {file.name}, which is not in the same folder"
            )
    return files


def _tensors(message: Any) -> Iterator[Tensor]:  # noqa: ANN401 - of protobuf
    """All tensors with values in a message, in graphs within graphs too."""
    from onnx import TensorProto

    # protobuf reads no more than a hundred messages within each other.
    held = [value for field, value in message.ListFields() if field.message_type is not None]
    for value in held:
        for each in [value] if hasattr(value, "ListFields") else value:
            yield from [each] if isinstance(each, TensorProto) else _tensors(each)


def image_input(model: Model, path: Path) -> ImageInput:
    """Find the input and check that it can take RGB or gray images."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        found = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"onnx:{path} must have one input, the images, found {found}")
    tensor = inputs[0].type.tensor_type
    # Some programs write -1 for a side of any length.
    sides = [each.dim_value for each in tensor.shape.dim]
    shape = [None if side in (0, -1) else side for side in sides]
    shown = f"{inputs[0].name} {['any' if side is None else side for side in shape]}"
    if tensor.elem_type not in IMAGE_TYPES:
        allowed = ", ".join(kind.__name__ for kind in IMAGE_TYPES.values())
        raise InputError(f"onnx:{path}: its input {shown} must be one of {allowed}")
    limits = (MOST_IMAGES, LARGEST_SIDE, LARGEST_SIDE, LARGEST_SIDE)
    if any(side and not 0 < side <= most for side, most in zip(shape, limits, strict=False)):
        raise InputError(f"onnx:{path}: no images have the dimensions of its input {shown}")
    ends = (shape[1], shape[3]) if len(shape) == 4 else ()
    if not {1, 3} & set(ends):
        raise InputError(
            f"onnx:{path} must take images [batch, 3, height, width] or [batch, height, width, 3], "
            f"or with 1 channel instead of 3, found {shown}"
        )
    channels = 3 if 3 in ends else 1
    channels_last = shape[1] != channels
    height, width = shape[1:3] if channels_last else shape[2:]
    if height != width:
        raise InputError(f"onnx:{path} must take square images, found {shown}")
    dtype = IMAGE_TYPES[tensor.elem_type]
    return ImageInput(inputs[0].name, dtype, channels_last, shape[0], height, channels)


def logits_output(model: Model, path: Path) -> str:
    """Name the output: the first one of floating-point numbers that may have two dimensions."""
    ranks: dict[str, int | None] = {}
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if tensor.elem_type in FLOATS:
            ranks[value.name] = len(tensor.shape.dim) if tensor.HasField("shape") else None
    for name, rank in sorted(ranks.items(), key=lambda item: item[1] is None):
        if rank in (2, None):
            return name
    found = ", ".join(f"{name} with {rank} dimensions" for name, rank in ranks.items())
    raise InputError(f"onnx:{path} has no output [batch, classes] of numbers, found {found}")


def ends_in(model: Model, output: str) -> str:
    """Give the operator that makes the output; steps that keep its meaning are skipped."""
    producers = {name: node for node in model.graph.node for name in node.output}
    # A node once: a damaged graph may have a circle.
    while (node := producers.pop(output, None)) is not None and node.op_type in TRAILING:
        output = node.input[0]
    return "" if node is None else str(node.op_type)


def first_steps(model: Model, path: Path, images: ImageInput) -> Steps:
    """Follow the images to the first layer, through all affine steps that treat pixels alike.

    A graph that divides by 255, or subtracts means such as 123.7, was made for images in [0, 255].
    So was a graph that takes 8-bit integers.
    """
    constants = _constants(model, path)
    consumers: dict[str, list[Node]] = {}
    for node in model.graph.node:
        for name in set(node.input) if node.op_type != "Shape" else ():
            consumers.setdefault(name, []).append(node)
    slope, offset, name = np.ones(3), np.zeros(3), images.name
    while len(found := consumers.pop(name, [])) == 1:  # likewise
        node = found[0]
        step = _affine(node, name, constants)
        if step is None or not step[0].all():
            break
        slope, offset, name = slope * step[0], offset * step[0] + step[1], node.output[0]
    mean, std = -offset / slope, 1 / slope
    large = np.abs(mean).max() > LARGEST or np.abs(std).min() > LARGEST
    scale = 255 if large or images.dtype is np.uint8 else 1
    return Steps(tuple((mean / scale).tolist()), tuple((std / scale).tolist()), scale)


def parameters(model: Model) -> int:
    """Count the numbers in weights, without whole numbers such as shapes."""
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type not in WHOLE]
    return sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in weights)


def class_names(model: Model) -> tuple[str, ...] | None:
    """Read class names from the metadata, a list or a mapping from number to name; None without."""
    metadata = {entry.key.lower(): entry.value for entry in model.metadata_props}
    for key in NAMES:
        if (names := _names(metadata.get(key, ""))) is not None:
            return as_text(names, f"{key} in the metadata of the ONNX file")
    return None


def _names(text: str) -> Sequence[object] | None:
    try:
        found = json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        try:
            found = ast.literal_eval(text)  # Ultralytics writes {0: 'tench', ...}
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if isinstance(found, Mapping):
        try:
            numbered = {int(number): name for number, name in found.items()}
        except (TypeError, ValueError):
            return None
        if set(numbered) != set(range(len(found))):
            return None
        found = [numbered[number] for number in range(len(numbered))]
    if not isinstance(found, list | tuple) or not found:
        return None
    return found


def _constants(model: Model, path: Path) -> Mapping[str, Array]:
    """Collect the constants of one or three values; others cannot normalise RGB images."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type == "Constant":
            (value,) = node.attribute
            if value.name == "value":
                tensors[node.output[0]] = value.t
            elif value.name in ("value_float", "value_floats"):
                found[node.output[0]] = np.array(value.floats or [value.f], dtype=float)
    for name, tensor in tensors.items():
        if np.prod(tensor.dims, dtype=int) in (1, 3):
            values = numpy_helper.to_array(tensor, str(path.parent))
            found[name] = values.astype(float).reshape(-1)
    for node in model.graph.node:  # in topological order, as ONNX demands
        if node.op_type in RESHAPING and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return {name: values for name, values in found.items() if len(values) in (1, 3)}


def _affine(node: Node, name: str, constants: Mapping[str, Array]) -> tuple[Array, Array] | None:
    """Give slope and offset of a step, each a number or one a channel; None for a layer."""
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type in PASSING | REQUANTISING and node.input[0] == name:
        return one, zero
    others = [constants.get(other) for other in node.input if other != name]
    known = [values for values in others if values is not None]
    if len(known) != len(others) or not known:
        return None
    first = node.input[0] == name
    if node.op_type == "BatchNormalization" and len(known) == 4:
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        slope = known[0] / np.sqrt(known[3] + epsilon)
        return slope, known[1] - slope * known[2]
    if node.op_type == "Add":
        return one, known[0]
    if node.op_type == "Sub":
        return (one, -known[0]) if first else (-one, known[0])
    if node.op_type == "Mul":
        return known[0], zero
    return (1 / known[0], zero) if node.op_type == "Div" and first and known[0].all() else None

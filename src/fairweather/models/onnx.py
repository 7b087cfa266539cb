"""ONNX files as classifiers: facts from the graph, and logits from ONNX Runtime."""

from __future__ import annotations

import ast
import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fairweather.devices import is_out_of_memory
from fairweather.errors import InputError, first_line, missing_extra
from fairweather.files.download import combined_digest, file_digest
from fairweather.models.building import check_normalisation
from fairweather.models.outputs import (
    LOGITS,
    OF_FINDINGS,
    OutputKind,
    SingleOutputError,
    convert_outputs,
    detect_kind,
    parse_outputs,
    sigmoid_error,
    softmax_error,
)
from fairweather.models.preprocessing import (
    NO_NORMALISATION,
    Normalisation,
    describe_normalisation,
    describe_preparation,
    format_numbers,
    to_triple,
)
from fairweather.models.sources import (
    MODULE_OPTIONS,
    OpenedModel,
    Setup,
    SourceKind,
    folder_name,
    refuse_foreign,
    suggest_file,
)
from fairweather.models.wrappers import Classifier, GrayInput, to_gray
from fairweather.runs.folder import is_relative_name
from fairweather.types.kinds import FINDINGS, TaskKind
from fairweather.types.measurement import MAX_SIDE, FloatArray, parse_class_names
from fairweather.types.options import ModelOptions, Preparation

# ---------------------------------------------------------------- what a graph says

Number = type[np.generic]
# Of onnx, which is an extra: ModelProto, NodeProto and TensorProto.
Model = Any
Node = Any
Tensor = Any

# onnx.TensorProto.DataType: the types that images may have.
IMAGE_TYPES: Mapping[int, Number] = {1: np.float32, 2: np.uint8, 10: np.float16, 11: np.float64}
FLOATS = (1, 10, 11)
# Errors of reading names from a text; an infinite class number overflows.
UNREADABLE_NAMES = (
    *(ValueError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, RecursionError),
)
INTEGERS = (6, 7)  # int32 and int64
EXTERNAL_LOCATION = 1  # onnx.TensorProto.DataLocation

# Steps that keep the meaning of a channel's values, and steps that only reshape a constant.
PASSING = {"Identity", "Cast", "Transpose", "Resize", "Upsample", "Dropout"}
REQUANTISING = {"QuantizeLinear", "DequantizeLinear"}
RESHAPING = {"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Expand"}
# Steps between the last layer and the output that keep the meaning of its values.
TRAILING = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Dropout"} | REQUANTISING
MOST_IMAGES = 65_536  # in a batch
# A larger mean or deviation belongs to images in [0, 255], not in [0, 1].
LARGEST_STATISTIC = 2.0
# Where exporters keep class names.
NAME_KEYS = ("names", "classes", "class_names", "labels", "id2label")


class ImageInput(NamedTuple):
    """The one input: `[batch, 3, size, size]`, or `[batch, size, size, 3]` with `channels_last`."""

    name: str
    dtype: Number
    channels_last: bool
    batch: int | None
    size: int | None
    """`batch`, `size`: None where the graph takes any."""

    channels: int = 3
    """3, or 1 for gray images."""


def read_graph(path: Path) -> Model:
    """Read a model, without weights in other files; raises `InputError` if it is not a model."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"onnx:{path} cannot be read: {error.strerror or error}") from error
    # protobuf raises its own error, whose module differs between versions.
    except Exception as error:
        raise InputError(f"onnx:{path} is damaged, or not an ONNX file") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"onnx:{path} is damaged, or not an ONNX file: it has no graph")
    return model


def find_external_files(model: Model, path: Path) -> list[Path]:
    """List the other files with weights, in order; raises `InputError` if one is missing."""
    names = set()
    for tensor in _list_tensors(model):
        if tensor.data_location == EXTERNAL_LOCATION:
            names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for name in names:
        if not is_relative_name(name.removeprefix("./")):
            raise InputError(f"onnx:{path} has weights outside its folder, in {name!r:.100}")
    files = [path.parent / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"onnx:{path} has weights in {file.name}, which is not in the same folder"
            )
    return files


def _list_tensors(message: Any) -> Iterator[Tensor]:  # noqa: ANN401 - of protobuf
    """All tensors with values in a message, in graphs within graphs too."""
    from onnx import TensorProto

    # protobuf reads at most a hundred nested messages.
    values = [value for field, value in message.ListFields() if field.message_type is not None]
    for value in values:
        for inner in [value] if hasattr(value, "ListFields") else value:
            yield from [inner] if isinstance(inner, TensorProto) else _list_tensors(inner)


def find_image_input(model: Model, path: Path) -> ImageInput:
    """Find the input and check that it can take RGB or gray images."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"onnx:{path} must have one input, the images, found {names}")
    tensor = inputs[0].type.tensor_type
    # Some programs write -1 for a side of any length.
    shape = [None if side.dim_value in (0, -1) else side.dim_value for side in tensor.shape.dim]
    shown = f"{inputs[0].name} {['any' if side is None else side for side in shape]}"
    if tensor.elem_type not in IMAGE_TYPES:
        allowed = ", ".join(kind.__name__ for kind in IMAGE_TYPES.values())
        raise InputError(f"onnx:{path}: its input {shown} must be one of {allowed}")
    limits = (MOST_IMAGES, MAX_SIDE, MAX_SIDE, MAX_SIDE)
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


def find_output(model: Model, path: Path) -> str:
    """Name the output: the first one of floating-point numbers that may have two dimensions."""
    ranks: dict[str, int | None] = {}
    for value in model.graph.output:
        tensor = value.type.tensor_type
        if tensor.elem_type in FLOATS:
            ranks[value.name] = len(tensor.shape.dim) if tensor.HasField("shape") else None
    for name, rank in sorted(ranks.items(), key=lambda item: item[1] is None):
        if rank in (2, None):
            return name
    shown = ", ".join(f"{name} with {rank} dimensions" for name, rank in ranks.items())
    raise InputError(f"onnx:{path} has no output [batch, classes] of numbers, found {shown}")


def find_last_operator(model: Model, output: str) -> str:
    """Give the operator that makes the output; steps that keep its meaning are skipped."""
    producers = {name: node for node in model.graph.node for name in node.output}
    # Each node once, because a damaged graph may have a cycle.
    while (node := producers.pop(output, None)) is not None and node.op_type in TRAILING:
        output = node.input[0]
    return "" if node is None else str(node.op_type)


def trace_normalisation(
    model: Model, path: Path, images: ImageInput
) -> tuple[Normalisation | None, int]:
    """Find the normalisation in the graph before its first layer, and the scale of its images.

    The images are followed through all affine steps that treat pixels alike: `(x - mean) / std`, or
    None if these change nothing. Images are multiplied by the scale, 1 or 255, first. A graph that
    divides by 255, or subtracts means such as 123.7, was made for images in [0, 255]. So was a
    graph that takes 8-bit integers.
    """
    constants = _read_constants(model, path)
    consumers: dict[str, list[Node]] = {}
    for node in model.graph.node:
        for name in set(node.input) if node.op_type != "Shape" else ():
            consumers.setdefault(name, []).append(node)
    slope, offset, name = np.ones(3), np.zeros(3), images.name
    # Each name once, because a damaged graph may have a cycle.
    while len(nodes := consumers.pop(name, [])) == 1:
        (node,) = nodes
        step = _read_affine(node, name, constants)
        if step is None or not step[0].all():
            break
        slope, offset, name = slope * step[0], offset * step[0] + step[1], node.output[0]
    mean, std = -offset / slope, 1 / slope
    large = np.abs(mean).max() > LARGEST_STATISTIC or np.abs(std).min() > LARGEST_STATISTIC
    scale = 255 if large or images.dtype is np.uint8 else 1
    mean, std = mean / scale, std / scale
    if np.allclose(mean, 0, atol=1e-4) and np.allclose(std, 1, atol=1e-4):
        return None, scale
    return Normalisation(to_triple(mean), to_triple(std)), scale


def count_parameters(model: Model) -> int:
    """Count the parameters: all numbers in weights but integers, which are shapes and indices."""
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type not in INTEGERS]
    return sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in weights)


def read_class_names(model: Model) -> tuple[str, ...] | None:
    """Read class names from the metadata, a list or a mapping from number to name; None without."""
    metadata = {entry.key.lower(): entry.value for entry in model.metadata_props}
    for key in NAME_KEYS:
        if (names := _parse_names(metadata.get(key, ""))) is not None:
            return parse_class_names(names, f"{key} in the metadata of the ONNX file")
    return None


def _parse_names(text: str) -> Sequence[object] | None:
    try:
        try:
            names = json.loads(text)
        except ValueError:
            names = ast.literal_eval(text)  # Ultralytics writes {0: 'tench', ...}
        if isinstance(names, Mapping):
            numbered = {int(number): name for number, name in names.items()}
            names = [numbered[number] for number in range(len(names))]
    except UNREADABLE_NAMES:
        return None
    return names if isinstance(names, list | tuple) and names else None


def _read_constants(model: Model, path: Path) -> Mapping[str, FloatArray]:
    """Collect the constants of one or three values; others cannot normalise RGB images."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    constants: dict[str, FloatArray] = {}
    for node in model.graph.node:
        if node.op_type == "Constant":
            (value,) = node.attribute
            if value.name == "value":
                tensors[node.output[0]] = value.t
            elif value.name in ("value_float", "value_floats"):
                constants[node.output[0]] = np.array(value.floats or [value.f], dtype=float)
    for name, tensor in tensors.items():
        if np.prod(tensor.dims, dtype=int) in (1, 3):
            values = numpy_helper.to_array(tensor, str(path.parent))
            constants[name] = values.astype(float).reshape(-1)
    for node in model.graph.node:  # in topological order, as ONNX demands
        if node.op_type in RESHAPING and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return {name: values for name, values in constants.items() if len(values) in (1, 3)}


def _read_affine(
    node: Node, name: str, constants: Mapping[str, FloatArray]
) -> tuple[FloatArray, FloatArray] | None:
    """Return slope and offset of a step, each a number or one per channel; None for a layer."""
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type in PASSING | REQUANTISING and node.input[0] == name:
        return one, zero
    others = [constants.get(operand) for operand in node.input if operand != name]
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


# ---------------------------------------------------------------- in ONNX Runtime

Session = Any  # onnxruntime.InferenceSession, of an extra

CUDA = "CUDAExecutionProvider"
FATAL_ONLY = 4  # ONNX Runtime's level for fatal errors; its exceptions report the rest


class OnnxSessions:
    """A file in ONNX Runtime; a copy shares its sessions, and a pickle opens the file again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[tuple[str, int, bool, bool], Session] = {}

    def open(self) -> None:
        """Raise `InputError` unless ONNX Runtime can open the file."""
        with self._explained("opened"):
            self._session(torch.device("cpu"))

    def run(self, output: str, inputs: dict[str, np.ndarray], device: torch.device) -> np.ndarray:
        """Compute one output of one batch."""
        images = next(iter(inputs.values()))
        with self._explained(f"run on {images.dtype} {list(images.shape)}"):
            return self._session(device).run([output], inputs)[0]

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        # ONNX Runtime's exceptions have only Exception in common.
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            # Of "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : the sentence", the sentence.
            reason = first_line(error).rpartition(" : ")[2]
            raise InputError(f"onnx:{self.path} cannot be {action} ({reason})") from error

    def leave_devices(self) -> None:
        """Close the sessions that hold memory of a device; they are opened again when needed."""
        self._open = {key: session for key, session in self._open.items() if key[0] == "cpu"}

    def _session(self, device: torch.device) -> Session:
        import onnxruntime

        cuda = device.type == "cuda"
        tf32 = cuda and torch.backends.cuda.matmul.allow_tf32
        by_speed = cuda and torch.backends.cudnn.benchmark
        key = (str(device), torch.get_num_threads(), tf32, by_speed)
        if key not in self._open:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = FATAL_ONLY
            options.intra_op_num_threads = torch.get_num_threads()
            providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
            if cuda and CUDA in onnxruntime.get_available_providers():
                # By default, ONNX Runtime uses TF32 and chooses algorithms by speed.
                search = "EXHAUSTIVE" if by_speed else "HEURISTIC"
                chosen = {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": search}
                providers.insert(0, (CUDA, {"device_id": str(device.index or 0), **chosen}))
            session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
            # It silently uses the CPU if the libraries of CUDA cannot be loaded.
            if device.type != "cpu" and CUDA not in session.get_providers():
                warnings.warn(
                    f"onnx:{self.path} runs on the CPU, not on {device}: on a GPU it needs CUDA "
                    "and the package onnxruntime-gpu",
                    stacklevel=2,
                )
            self._open[key] = session
        return self._open[key]

    def __deepcopy__(self, memo: object) -> OnnxSessions:
        return self

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_open": {}}


class OnnxNetwork(nn.Module):
    """The graph as a module without parameters: float `[B, 3, H, W]` to float32 `[B, outputs]`.

    Args:
        sessions: the file.
        images: its input; images are converted to its layout and type, and a batch of another
            size is run in parts.
        output: the name of its output.
        scale: what images in [0, 1] are multiplied by.
    """

    def __init__(self, sessions: OnnxSessions, images: ImageInput, output: str, scale: int) -> None:
        super().__init__()
        self.sessions, self.images = sessions, images
        self.output, self.scale = output, scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the outputs; raises `InputError` if gradients are needed."""
        if images.requires_grad and torch.is_grad_enabled():
            raise InputError("an ONNX model gives no gradients; the attack square needs none")
        return torch.from_numpy(self._run(images)).to(images.device)

    def _run(self, images: torch.Tensor) -> np.ndarray:
        values = images.detach().float() * self.scale
        if self.images.channels == 1:
            values = to_gray(values)
        if self.images.dtype is np.uint8:
            values = values.round().clamp(0, 255)
        if self.images.channels_last:
            values = values.permute(0, 2, 3, 1)
        array = np.ascontiguousarray(values.cpu().numpy(), dtype=self.images.dtype)
        size = self.images.batch or len(array)
        if short := -len(array) % size:  # the last part is filled up with copies of its last image
            array = np.concatenate([array, np.repeat(array[-1:], short, axis=0)])
        parts = [array[start : start + size] for start in range(0, len(array), size)]
        place = images.device
        outputs = [self.sessions.run(self.output, {self.images.name: p}, place) for p in parts]
        if outputs[0].ndim != 2:
            shape = list(outputs[0].shape)
            raise InputError(f"onnx:{self.sessions.path} must give [batch, classes], gave {shape}")
        return np.concatenate(outputs)[: len(images)].astype(np.float32)


# ---------------------------------------------------------------- as a classifier

USUAL_SIZE = 224  # pixels: a graph that takes any size is tried on these


def open_onnx(place: str, options: ModelOptions, settings: Setup) -> OpenedModel:
    """Open an ONNX file as a classifier, with everything that its graph says about it.

    If the outputs are probabilities, their logarithm is taken (`log_probabilities`). They are
    probabilities if the graph ends in a Softmax, or if every row is >= 0 and sums to one. Of
    findings, they are probabilities if the graph ends in a Sigmoid. The model runs on a GPU if its
    images are there and ONNX Runtime can, and with as many threads as torch.

    Args:
        place: the file; weights may be in other files in the same folder.
        options: a mean and std, if normalisation is not part of the graph; a size, if the graph
            takes any size; the kind of the outputs, which overrides the graph.
        settings: what the model predicts.

    Raises:
        InputError: it is not an ONNX file, takes neither RGB nor gray images, does not give logits
            or probabilities of classes, needs another size, or is already normalised.
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx", "ONNX files")
    path = Path(place).expanduser()
    model = read_graph(path)
    files = [path, *find_external_files(model, path)]
    images, output = find_image_input(model, path), find_output(model, path)
    sessions = OnnxSessions(path.absolute())
    sessions.open()  # raises for a damaged graph, before its nodes are read
    predicts = settings.predicts
    outputs = parse_outputs(options.outputs, predicts)
    inner, scale = trace_normalisation(model, path, images)
    normalisation = check_normalisation(options.mean, options.std)
    if normalisation and inner:
        raise InputError(
            f"onnx:{path} contains its own normalisation (mean {format_numbers(inner.mean)}, std "
            f"{format_numbers(inner.std)}): leave mean and std out"
        )
    if normalisation and images.dtype is np.uint8:
        raise InputError(f"onnx:{path} takes 8-bit images as they are: leave mean and std out")
    size = images.size or options.input_size
    if options.input_size not in (None, size):
        raise InputError(f"onnx:{path} takes images of {size} pixels, not of {options.input_size}")
    graph = OnnxNetwork(sessions, images, output, scale)
    logits = _run_on_noise(graph, normalisation or NO_NORMALISATION, size)
    width = logits.shape[1]
    if width < 2 and predicts != FINDINGS:
        raise SingleOutputError(f"onnx:{path}")
    outputs = outputs or _read_output_kind(find_last_operator(model, output), path, predicts)
    outputs = outputs or _detect_output_kind(logits, predicts)
    network = graph if outputs is None else convert_outputs(graph, outputs.kind)
    preparation = None if size is None else Preparation(size)
    origin = f"{'the graph' if images.size else 'input_size'}; filter and crop are assumed"
    names = read_class_names(model)
    described = images._asdict()
    if images.channels == 3:
        del described["channels"]  # as records were before gray networks
    facts: dict[str, object] = {
        "source": f"onnx:{path}",
        "architecture": model.graph.name or "ONNX graph",
        "parameters": count_parameters(model),
        "outputs": width,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "input": {**described, "dtype": images.dtype.__name__, "fed_in": [0, scale]},
        "output": output,
        "class_names": None if names is None else f"{len(names)} for {width} outputs",
        "normalisation": _describe_own_or_given(inner, normalisation, scale),
        "preparation": preparation and describe_preparation(preparation, origin),
    }
    if images.channels == 1:
        facts["gray"] = GrayInput.note
    classes = names if names is not None and len(names) == width else None
    classifier = Classifier(network, *(normalisation or NO_NORMALISATION), size).eval()
    digest = file_digest(path, "sha256") if len(files) == 1 else combined_digest(files)
    name = folder_name(path.stem)
    return OpenedModel(classifier, name, digest, classes, preparation, facts, outputs)


def _read_output_kind(last: str, path: Path, predicts: TaskKind) -> OutputKind | None:
    """The kind of the outputs, if the last operator of the graph shows it."""
    if predicts == FINDINGS:
        if last in ("Softmax", "LogSoftmax"):
            raise softmax_error(f"onnx:{path} ends in {last}")
        return OutputKind(OF_FINDINGS, "it ends in Sigmoid") if last == "Sigmoid" else None
    if last == "Sigmoid":
        raise sigmoid_error(f"onnx:{path} ends in Sigmoid")
    if last in ("Softmax", "LogSoftmax"):
        return OutputKind("probabilities" if last == "Softmax" else "logits", f"it ends in {last}")
    return None


def _detect_output_kind(outputs: torch.Tensor, predicts: TaskKind) -> OutputKind | None:
    """The kind that the outputs look like; None if two pictures of noise are too few to tell."""
    kind = detect_kind(outputs)
    if kind == "probabilities" and predicts != FINDINGS:
        return OutputKind(kind, "rows are >= 0 and sum to one")
    return LOGITS if kind == "logits" else None


def _run_on_noise(
    network: OnnxNetwork, normalisation: Normalisation, size: int | None
) -> torch.Tensor:
    """Run the network on two pictures of noise and give the outputs."""
    side = size or USUAL_SIZE
    pictures = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        outputs = Classifier(network, *normalisation)(pictures)
    except InputError as error:
        if size is None:
            raise InputError(f"{error}; if it needs another size, give input_size") from error
        raise
    return outputs


def _describe_own_or_given(
    inner: Normalisation | None, given: Normalisation | None, scale: int
) -> dict[str, object]:
    if inner:
        return describe_normalisation(inner, "the graph itself")
    if given not in (None, NO_NORMALISATION):
        return describe_normalisation(given, "given")
    origin = (
        "no normalisation: the graph contains none, and mean and std were not given; images are in "
        f"[0, {scale}]"
    )
    return describe_normalisation(None, origin)


def _check_onnx(place: str, _: str | None) -> None:
    path = Path(place)
    if path.suffix.lower() != ".pb" or path.name == "saved_model.pb":  # TensorFlow's own name
        refuse_foreign(path)  # some programs write ONNX files as .pb
    if not path.expanduser().is_file():
        raise InputError(f"onnx:{place}: there is no such file{suggest_file(path)}")


ONNX = SourceKind(
    "onnx:FILE",
    "an ONNX file",
    open_onnx,
    options=MODULE_OPTIONS,
    check=_check_onnx,
    guess=lambda text: f"onnx:{text}" if Path(text).suffix == ".onnx" else None,
)

"""Networks traced to a graph of torch's own operations, and exported to ONNX."""

from __future__ import annotations

import importlib.util
import json
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from fairweather.deploy.graph import (
    ARITHMETIC,
    IMAGES,
    OPERATIONS,
    Graph,
    GraphNetwork,
    Operation,
    ResultName,
    WeightName,
    check_pure,
)
from fairweather.deploy.guard import AnyRecord
from fairweather.deploy.promise import FindingsFit
from fairweather.errors import InputError, missing_extra
from fairweather.models.onnx import OnnxNetwork
from fairweather.models.wrappers import Ensemble
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind

PYTHON_OPERATORS = {getattr(operator, name): name for name in ARITHMETIC}
# The exporter inserts these checks of types and shapes. A graph leaves them out.
ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")
# How far the logits of a graph may be from those of its network: torch may choose other kernels.
TOLERANCE = 1e-3
METADATA_VERSION = "1"
Attributes = list[tuple[nn.Module, dict[str, Any]]]  # each module of a network, and its attributes


class TracedNetwork(NamedTuple):
    """A network as data: its graph and the tensors that the graph names."""

    graph: Graph
    weights: dict[str, torch.Tensor]


def join_networks(networks: Sequence[nn.Module], predicts: TaskKind = CLASSES) -> nn.Module:
    """Make one network, in evaluation mode, of one or several."""
    return (networks[0] if len(networks) == 1 else Ensemble(networks, predicts)).cpu().eval()


@contextmanager
def _restoring_attributes(network: nn.Module) -> Iterator[Attributes]:
    """Restore the attributes of a network after tracing, which leaves tensors without values."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    try:
        yield before
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def trace(
    networks: Sequence[nn.Module], size: tuple[int, int], predicts: TaskKind = CLASSES
) -> TracedNetwork:
    """Trace a network, or several as an ensemble, to a graph for any number of images of a size.

    Raises:
        InputError: the code cannot be traced, or does something that is not an operation of a
            graph.
    """
    network = join_networks(networks, predicts)
    if any(isinstance(module, OnnxNetwork) for module in network.modules()):
        raise _not_traceable("it is an ONNX file")
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with (
            torch.no_grad(),
            warnings.catch_warnings(),
            _restoring_attributes(network) as attributes,
        ):
            warnings.simplefilter("ignore")  # the exporter warns about itself
            expected = network(images.clone())  # a network may change its input
            _remove_call_tensors(attributes)
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(
                network, (images,), dynamic_shapes=({0: batch},), strict=False
            )
            # Replace in-place operations: those of a graph must not change their inputs.
            program = program.run_decompositions({})
    except Exception as error:  # each network fails in its own way
        raise _not_traceable(error) from error
    tensors, names = _collect_tensors(program)
    operations, features = [], None
    for node in program.graph.nodes:
        if node.op == "call_function" and not _is_check(node.target):
            operation = _to_operation(node, names)
            operations.append(operation)
            if any(isinstance(argument, WeightName) for argument in operation.arguments):
                features = _find_features(operation, node)  # the last operation with weights counts
    (output,) = program.graph_signature.user_outputs
    used_names = set[str]().union(*(operation.names(WeightName) for operation in operations))
    weights = {name: tensors[name].detach().clone() for name in sorted(used_names)}
    graph = Graph(tuple(operations), output, features if len(networks) == 1 else None)
    traced = TracedNetwork(graph, weights)
    logits, _ = GraphNetwork(*traced)(images)
    if not torch.allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise _not_traceable("its graph gives other numbers")
    return traced


def _remove_call_tensors(before_call: Attributes) -> None:
    """Remove tensors that modules kept from a call, which the exporter would take for constants."""
    for module, before in before_call:
        attributes = vars(module)
        for name, value in list(attributes.items()):
            if isinstance(value, torch.Tensor) and before.get(name) is not value:
                del attributes[name]


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


def _not_traceable(error: object) -> InputError:
    return InputError(
        f"the network cannot be stored as a list of operations: {_first_line(error)}; without a "
        "saved guard, use fairweather predict RUN DATA or fairweather.load_guard(RUN)"
    )


def _collect_tensors(
    program: Any,  # noqa: ANN401 - ExportedProgram
) -> tuple[dict[str, torch.Tensor], dict[str, ResultName | WeightName]]:
    """The weights by the names of their placeholders, and how a graph names each placeholder."""
    signature = program.graph_signature
    stored = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    everything = {**program.state_dict, **program.constants}
    tensors = {name: everything[source] for name, source in stored.items()}
    names: dict[str, ResultName | WeightName] = {name: WeightName(name) for name in tensors}
    names |= {name: ResultName(IMAGES) for name in signature.user_inputs}
    return tensors, names


def _is_check(target: object) -> bool:
    return str(target).startswith(tuple(f"aten.{name}" for name in ASSERTIONS))


def _to_operation(node: Any, names: Mapping[str, ResultName | WeightName]) -> Operation:  # noqa: ANN401 - torch.fx.Node
    if node.target in PYTHON_OPERATORS:
        kind = PYTHON_OPERATORS[node.target]
    else:
        kind = str(node.target).removeprefix("aten.")
        if kind not in OPERATIONS:
            raise _not_traceable(f"it does {node.target}, which a guard does not know")

    def convert(argument: Any) -> Any:  # noqa: ANN401 - an argument of any operation
        if isinstance(argument, torch.fx.Node):
            return names.get(argument.name, ResultName(argument.name))
        if isinstance(argument, list | tuple):
            return [convert(element) for element in argument]
        return argument

    options = {name: convert(value) for name, value in node.kwargs.items()}
    operation = Operation(node.name, kind, tuple(map(convert, node.args)), options)
    check_pure(operation, "the network")
    return operation


def _find_features(operation: Operation, node: Any) -> str | None:  # noqa: ANN401 - torch.fx.Node
    """The name of an operation's input, if the operation is linear with one row per image."""
    source = operation.arguments[0]
    if operation.kind != "linear.default" or not isinstance(source, ResultName):
        return None
    is_row_per_image = source.name != IMAGES and node.args[0].meta["val"].ndim == 2
    return source.name if is_row_per_image else None


class ServedNetwork(nn.Module):
    """Turns 8-bit images into the outputs of a guard, as one graph for ONNX."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give logits divided by the temperature, probabilities, and the largest of these."""
        logits = self.network(images.float() / 255) / self.temperature
        probabilities = torch.softmax(logits, dim=1)
        return logits, probabilities, probabilities.amax(dim=1)


class ServedFindings(nn.Module):
    """Turns 8-bit images into the outputs of a guard of findings, as one graph for ONNX."""

    temperatures: torch.Tensor

    def __init__(self, network: nn.Module, temperatures: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperatures", torch.tensor(temperatures))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give logits divided by temperatures, probabilities, and the confidence in decisions."""
        logits = self.network(images.float() / 255) / self.temperatures
        return logits, torch.sigmoid(logits), torch.sigmoid(logits.abs())


def export_onnx(networks: Sequence[nn.Module], record: AnyRecord) -> bytes:
    """Export networks with their preprocessing and temperature as one ONNX graph.

    It takes `images`, uint8 `[batch, 3, H, W]`, and gives `logits` and `probabilities` `[batch,
    classes]`, and `confidence` `[batch]`. Its metadata are the classes, the promise, and from `Fit`
    the threshold, the ceilings of classes with a limit, the quantile of prediction sets and the
    temperature. Of findings, `confidence` is `[batch, findings]`, and the metadata have
    temperatures and the smallest confidences of absent (`thresholds`) and of present that are
    answered; `null` means that a person reviews all.

    Raises:
        InputError: packages are missing, or the network cannot be exported.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx", "ONNX files")
    import onnx

    model: nn.Module
    fit, promise = record.fit, record.promise
    if isinstance(fit, FindingsFit):
        temperatures = [finding.temperature for finding in fit.findings]
        model = ServedFindings(join_networks(networks, FINDINGS), temperatures).eval()
        absent = [finding.threshold for finding in fit.findings]
        present = [
            finding.threshold if finding.present is None else finding.present
            for finding in fit.findings
        ]
        own = {
            "thresholds": json.dumps(absent),
            "thresholds_present": json.dumps(present),
            "temperatures": json.dumps(temperatures),
        }
    else:
        model = ServedNetwork(join_networks(networks), fit.temperature).eval()
        own = {name: repr(getattr(fit, name)) for name in ("threshold", "quantile", "temperature")}
        own["ceilings"] = json.dumps(fit.ceilings(record.classes))
    images = torch.randint(
        0, 256, (2, 3, *record.size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    outputs = ["logits", "probabilities", "confidence"]
    try:
        with warnings.catch_warnings(), _restoring_attributes(model):
            warnings.simplefilter("ignore")  # the exporter warns about itself
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=["images"],
                output_names=outputs,
                verbose=False,
            )
    except Exception as error:  # each network fails in its own way
        message = f"the network cannot be exported to ONNX: {_first_line(error)}"
        raise InputError(message) from error
    assert program is not None, "torch returns the program if no file is named"
    proto = program.model_proto
    facts = {
        "fairweather": METADATA_VERSION,
        "names": json.dumps(record.classes),
        **own,
        "promise": json.dumps(promise.model_dump()),
    }
    onnx.helper.set_model_props(proto, facts)
    return bytes(proto.SerializeToString())

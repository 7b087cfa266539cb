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
from fairweather.deploy.promise import GuardRecord
from fairweather.errors import InputError, missing_extra
from fairweather.models.wrappers import Ensemble

PYTHON_OPERATORS = {getattr(operator, name): name for name in ARITHMETIC}
# These check what is known of the tensors anyway.
ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")
# A graph does the same operations in the same order, but other kernels may be chosen.
TOLERANCE = 1e-3
METADATA_VERSION = "1"
Attributes = list[tuple[nn.Module, dict[str, Any]]]  # of each module of a network


class TracedNetwork(NamedTuple):
    """A network as data: its graph and the tensors that the graph names."""

    graph: Graph
    weights: dict[str, torch.Tensor]


def join_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """Make one network, in evaluation mode, of one or several."""
    return (networks[0] if len(networks) == 1 else Ensemble(networks)).cpu().eval()


@contextmanager
def _restoring_attributes(network: nn.Module) -> Iterator[Attributes]:
    """Restore the attributes of a network afterwards: tracing leaves tensors without values in
    some."""
    before = [(module, dict(vars(module))) for module in network.modules()]
    try:
        yield before
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def trace(networks: Sequence[nn.Module], size: tuple[int, int]) -> TracedNetwork:
    """Trace networks to one graph for any number of images of a size; several are an ensemble.

    Raises:
        InputError: their code cannot be traced, or does something that is not an operation of a
            graph.
    """
    network = join_networks(networks)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), warnings.catch_warnings(), _restoring_attributes(network) as before:
            warnings.simplefilter("ignore")  # of the exporter about itself
            expected = network(images.clone())  # it may change them
            _forget_calls(before)
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(
                network, (images,), dynamic_shapes=({0: batch},), strict=False
            )
            # In-place operations may change what others see, so each becomes one that changes
            # nothing.
            program = program.run_decompositions({})
    except Exception as error:  # each network fails in its own way
        raise _not_traceable(error) from error
    tensors, names = _collect_tensors(program)
    operations, last = [], None
    for node in program.graph.nodes:
        if node.op == "call_function" and not _is_check(node.target):
            operation = _to_operation(node, names)
            operations.append(operation)
            if any(isinstance(argument, WeightName) for argument in operation.arguments):
                last = (operation, node)
    (output,) = program.graph_signature.user_outputs
    features = _find_features(*last) if last is not None and len(networks) == 1 else None
    used = set[str]().union(*(operation.names(WeightName) for operation in operations))
    weights = {name: tensors[name].detach().clone() for name in sorted(used)}
    traced = TracedNetwork(Graph(tuple(operations), output, features), weights)
    logits, _ = GraphNetwork(*traced)(images)
    if not torch.allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise _not_traceable("its graph gives other numbers")
    return traced


def _forget_calls(before: Attributes) -> None:
    """Remove tensors that modules kept from a call, which the exporter would take for constants."""
    for module, attributes in before:
        now = vars(module)
        for name in [name for name, value in now.items() if isinstance(value, torch.Tensor)]:
            if attributes.get(name) is not now[name]:
                del now[name]


def _not_traceable(error: object) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(f"the network cannot be stored as a list of operations: {reason}")


def _collect_tensors(
    program: Any,  # noqa: ANN401 - ExportedProgram
) -> tuple[dict[str, torch.Tensor], dict[str, ResultName | WeightName]]:
    """The weights by the names of their placeholders, and what each placeholder is."""
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

    def given(argument: Any) -> Any:  # noqa: ANN401 - an argument of any operation
        if isinstance(argument, torch.fx.Node):
            return names.get(argument.name, ResultName(argument.name))
        if isinstance(argument, list | tuple):
            return [given(element) for element in argument]
        return argument

    options = {name: given(value) for name, value in node.kwargs.items()}
    operation = Operation(node.name, kind, tuple(map(given, node.args)), options)
    check_pure(operation, "the network")
    return operation


def _find_features(last: Operation, node: Any) -> str | None:  # noqa: ANN401 - torch.fx.Node
    """The input of the last operation with weights, if that is linear with one row per image."""
    first = last.arguments[0]
    if last.kind != "linear.default" or not isinstance(first, ResultName) or first.name == IMAGES:
        return None
    return first.name if node.args[0].meta["val"].ndim == 2 else None


class ServedNetwork(nn.Module):
    """8-bit images to the outputs of a guard, as one graph for ONNX."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give logits divided by the temperature, probabilities, and the largest of these."""
        logits = self.network(images.float() / 255) / self.temperature
        probabilities = torch.softmax(logits, dim=1)
        return logits, probabilities, probabilities.amax(dim=1)


def export_onnx(networks: Sequence[nn.Module], record: GuardRecord) -> bytes:
    """Export networks with their preprocessing and temperature as one ONNX graph.

    It takes `images`, uint8 `[batch, 3, H, W]`, and gives `logits` and `probabilities` `[batch,
    classes]`, and `confidence` `[batch]`. Its metadata have the classes, the threshold, the
    quantile of sets, as `Fit` has them, and the promise.

    Raises:
        InputError: packages are missing, or the network cannot be exported.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx", "ONNX files")
    import onnx

    model = ServedNetwork(join_networks(networks), record.fit.temperature).eval()
    images = torch.randint(
        0, 256, (2, 3, *record.size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    outputs = ["logits", "probabilities", "confidence"]
    try:
        with warnings.catch_warnings(), _restoring_attributes(model):
            warnings.simplefilter("ignore")  # of the exporter about itself
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
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the network cannot be exported to ONNX: {reason}") from error
    assert program is not None, "it is given back where no file is named"
    proto = program.model_proto
    fit, promise = record.fit, record.promise
    facts = {
        "fairweather": METADATA_VERSION,
        "names": json.dumps(record.classes),
        "threshold": repr(fit.threshold),
        "quantile": repr(fit.quantile),
        "temperature": repr(fit.temperature),
        "promise": json.dumps(promise.model_dump()),
    }
    onnx.helper.set_model_props(proto, facts)
    return bytes(proto.SerializeToString())

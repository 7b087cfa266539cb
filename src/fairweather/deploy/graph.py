"""A network as a list of torch's own operations: plain data, so that no code must be trusted.

`torch.export` traces a network to operations of torch (`aten`). Stored as JSON, they need neither
the network's library nor its code. A file from elsewhere can only use operations in `OPERATIONS`.
All of these compute tensors from tensors; none reads or writes a file, draws random numbers or
changes a tensor. So the same images always have the same answer.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from fairweather.errors import InputError

VERSION = 1
IMAGES = "images"  # the name of the input
_OPERATION_NAMES = """
_log_softmax.default _native_batch_norm_legit_no_training.default _softmax.default _to_copy.default
_unsafe_view.default _upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.vec abs.default
adaptive_avg_pool2d.default adaptive_max_pool2d.default add.Scalar add.Tensor addmm.default
alias.default amax.default amin.default arange.default arange.start arange.start_step
avg_pool2d.default baddbmm.default batch_norm.default bmm.default cat.default celu.default
chunk.default clamp.default clamp_max.default clamp_min.default clone.default
constant_pad_nd.default contiguous.default conv1d.default conv2d.default conv2d.padding
convolution.default copy.default cos.default detach.default div.Scalar div.Tensor dropout.default
einsum.default elu.default eq.Scalar eq.Tensor erf.default exp.default expand.default
expand_as.default fill.Scalar fill.Tensor flatten.using_ints flip.default floor_divide.default
full.default full_like.default ge.Scalar gelu.default group_norm.default gt.Scalar
hardsigmoid.default hardswish.default hardtanh.default index.Tensor index_select.default
instance_norm.default layer_norm.default le.Scalar leaky_relu.default lift_fresh_copy.default
linalg_vector_norm.default linear.default log.default log_sigmoid.default log_softmax.int
logsumexp.default lt.Scalar masked_fill.Scalar masked_fill.Tensor matmul.default max.dim
max_pool2d.default maximum.default mean.default mean.dim min.dim minimum.default mish.default
mm.default movedim.int mul.Scalar mul.Tensor native_group_norm.default native_layer_norm.default
ne.Scalar neg.default new_full.default new_ones.default new_zeros.default ones.default
ones_like.default pad.default permute.default pixel_shuffle.default pixel_unshuffle.default
pow.Scalar pow.Tensor_Scalar prelu.default reciprocal.default reflection_pad2d.default relu.default
relu6.default repeat.default repeat_interleave.self_int replication_pad2d.default reshape.default
rms_norm.default roll.default rsqrt.default rsub.Scalar scaled_dot_product_attention.default
select.int select_scatter.default selu.default sigmoid.default silu.default sin.default slice.Tensor
slice_scatter.default softmax.int softplus.default split.Tensor split_with_sizes.default
sqrt.default squeeze.default squeeze.dim squeeze.dims stack.default std.correction sub.Scalar
sub.Tensor sum.default sum.dim_IntList sym_size.int t.default tanh.default to.dtype transpose.int
unbind.int unflatten.int unsqueeze.default upsample_bicubic2d.vec upsample_bilinear2d.vec
upsample_nearest2d.vec var.correction var_mean.correction view.default where.self zero.default
zeros.default zeros_like.default
"""
# By the name and the overload that torch gives them.
OPERATIONS = frozenset(_OPERATION_NAMES.split())
# Arguments that decide whether an operation draws or changes tensors, with the value that it needs.
PURE: Mapping[str, object] = {"train": False, "training": False, "dropout_p": 0.0}
LARGEST_SIZE = 2**62  # no size of a tensor is larger; Python's own numbers have no limit


def _check_whole(value: object) -> int:
    if type(value) is not int or abs(value) > LARGEST_SIZE:  # nor a truth value
        raise ValueError("it calculates with a value that is not a size")
    return value


def _on_sizes(calculate: Callable[[int, int], int]) -> Callable[[object, object], int]:
    """Make a function take and return only whole numbers up to `LARGEST_SIZE`.

    >>> _on_sizes(operator.mul)(3, 4)
    12
    """
    return lambda first, second: _check_whole(calculate(_check_whole(first), _check_whole(second)))


def _get_item(values: object, place: object) -> Any:  # noqa: ANN401 - a value of a graph
    if not isinstance(values, list | tuple | torch.Tensor):
        raise TypeError("it takes an item of a value without items")
    return values[_check_whole(place)]


# Of whole numbers, such as the size of a batch, and of several results of one operation.
ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "add": _on_sizes(operator.add),
    "floordiv": _on_sizes(operator.floordiv),
    "getitem": _get_item,
    "mul": _on_sizes(operator.mul),
    "sub": _on_sizes(operator.sub),
}
# Special arguments, besides numbers, texts, lists and other values, by the key that marks them.
ARGUMENT_TYPES: Mapping[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
INFINITIES = {"inf": math.inf, "-inf": -math.inf}


class ResultName(NamedTuple):
    """An argument that is the result of an earlier operation, or the images."""

    name: str


class WeightName(NamedTuple):
    """An argument that is a stored tensor."""

    name: str


@dataclass(frozen=True)
class Operation:
    """One operation of a graph."""

    name: str
    """Of its result."""

    kind: str
    """In `OPERATIONS` or `ARITHMETIC`."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    """`arguments`, `options`: positional and by name, with `ResultName` and `WeightName` for
    tensors."""

    def names(self, kind: type[ResultName | WeightName]) -> set[str]:
        """The names of the results or stored tensors that it uses."""
        return _argument_names([*self.arguments, *self.options.values()], kind)


@dataclass(frozen=True)
class Graph:
    """A network: operations in order, and the names of its outputs."""

    operations: tuple[Operation, ...]
    """Each uses images, weights and results of earlier ones."""

    logits: str
    """The name of the result that is float `[B, classes]`."""

    features: str | None
    """The name of the input of the last layer, float `[B, D]`; None if that layer is not linear."""

    def as_json(self) -> dict[str, object]:
        """The graph for a JSON file."""
        return {
            "version": VERSION,
            "operations": [
                [
                    operation.name,
                    operation.kind,
                    _encode_argument(operation.arguments),
                    _encode_argument(operation.options),
                ]
                for operation in self.operations
            ],
            "logits": self.logits,
            "features": self.features,
        }

    @staticmethod
    def from_json(read: object, weights: Mapping[str, torch.Tensor], place: str) -> Graph:
        """Read what `as_json` wrote; raises `InputError` for anything else.

        Args:
            read: from a file that may come from anybody.
            weights: the stored tensors, by name.
            place: the file, for messages.
        """
        known = {IMAGES}
        operations = []
        try:
            if not isinstance(read, dict) or read["version"] != VERSION:
                raise InputError(f"{place} holds no graph of version {VERSION}")
            for name, kind, arguments, options in read["operations"]:
                if kind not in OPERATIONS and kind not in ARITHMETIC:
                    reason = "which no network needs"
                    if kind.replace("_.", ".") in OPERATIONS:  # `relu_`, stored as it was once
                        reason = "so this guard was made by an earlier version: make it again"
                    raise InputError(f"{place} asks for {kind!r:.60}, {reason}")
                positional = tuple(
                    _decode_argument(argument, known, weights) for argument in arguments
                )
                named = {
                    str(key): _decode_argument(argument, known, weights)
                    for key, argument in options.items()
                }
                operations.append(Operation(str(name), kind, positional, named))
                check_pure(operations[-1], place)
                known.add(str(name))
            logits, features = read["logits"], read["features"]
            if not {logits, features or logits} <= known - {IMAGES}:
                raise InputError(f"{place} does not say what the network gives")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{place} does not describe a network") from None
        return Graph(tuple(operations), logits, features)


class GraphNetwork:
    """A graph with its weights on a device.

    >>> double = Operation("logits", "add.Tensor", (ResultName("images"), WeightName("more")), {})
    >>> network = GraphNetwork(Graph((double,), "logits", None), {"more": torch.ones(2)})
    >>> network(torch.zeros(1, 2))
    (tensor([[1., 1.]]), None)
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, torch.Tensor], device: torch.device | None = None
    ) -> None:
        self.device = device or torch.device("cpu")
        self._weights = {name: tensor.to(self.device) for name, tensor in weights.items()}
        self._graph = graph
        self._functions = [
            _CHECKED.get(operation.kind) or _find_aten(operation.kind)
            for operation in graph.operations
        ]
        self._last = _last_uses(graph)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Give logits and features of float images `[B, 3, H, W]` in [0, 1]."""
        values: dict[str, Any] = {IMAGES: images.to(self.device)}

        def fill(argument: Any) -> Any:  # noqa: ANN401 - an argument of any operation
            if isinstance(argument, ResultName):
                return values[argument.name]
            if isinstance(argument, WeightName):
                return self._weights[argument.name]
            return list(map(fill, argument)) if isinstance(argument, list) else argument

        graph = self._graph
        steps = zip(graph.operations, self._functions, self._last, strict=True)
        for operation, function, finished in steps:
            options = {name: fill(value) for name, value in operation.options.items()}
            if "device" in options:
                options["device"] = self.device
            values[operation.name] = function(*map(fill, operation.arguments), **options)
            for name in finished:
                del values[name]
        return values[graph.logits], None if graph.features is None else values[graph.features]


def check_pure(operation: Operation, place: str) -> None:
    """Raise `InputError` if an operation draws random numbers, changes a tensor, or has no type.

    Args:
        operation: with a kind that is allowed.
        place: where it stands, for the message.
    """
    if operation.kind in ARITHMETIC:
        return
    names = [argument.name for argument in _find_aten(operation.kind)._schema.arguments]
    arguments = {**dict(zip(names, operation.arguments, strict=False)), **operation.options}
    for name, type_ in ARGUMENT_TYPES.items():
        # torch takes whole numbers too, and looks up types beyond the end of its list.
        if not isinstance(arguments.get(name), type_ | None):
            raise InputError(
                f"{place} asks for {operation.kind} with an invalid {name}, {arguments[name]!r:.60}"
            )
    impure = any(repr(arguments.get(name, calm)) != repr(calm) for name, calm in PURE.items())
    # Instance norm with statistics of the images adds them to running ones, if it has these.
    learns = arguments.get("use_input_stats", False) is not False
    running = arguments.get("running_mean"), arguments.get("running_var")
    if impure or (learns and running != (None, None)):
        raise InputError(
            f"{place} asks for {operation.kind} as in training, which draws random numbers or "
            "changes tensors"
        )


def _batch_norm(*arguments: Any) -> tuple[torch.Tensor]:  # noqa: ANN401 - tensors and numbers
    """Do the operation of this name, which itself reads beyond weights that are too short."""
    *tensors, momentum, epsilon = arguments
    return (torch.ops.aten.batch_norm.default(*tensors, False, momentum, epsilon, False),)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *arguments: Any,  # noqa: ANN401 - a mask and numbers
    **named: Any,  # noqa: ANN401
) -> torch.Tensor:
    """Do the operation of this name, which itself reads beyond a key shorter than the value."""
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"attention with {key.shape[-2]} keys and {value.shape[-2]} values")
    attend = torch.ops.aten.scaled_dot_product_attention.default
    return attend(query, key, value, *arguments, **named)


# What is done in Python: with numbers, and where torch's own operation reads beyond its inputs.
_CHECKED: Mapping[str, Callable[..., Any]] = {
    **ARITHMETIC,
    "_native_batch_norm_legit_no_training.default": _batch_norm,
    "scaled_dot_product_attention.default": _attention,
}


def _find_aten(kind: str) -> Any:  # noqa: ANN401 - torch._ops.OpOverload
    name, _, overload = kind.partition(".")
    function = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if function is None:
        raise InputError(f"torch {torch.__version__} has no operation {kind}")
    return function


def _last_uses(graph: Graph) -> list[list[str]]:
    """The results that are last used by each operation, whose memory can be freed after it."""
    needed = {graph.logits, graph.features}
    last: list[list[str]] = [[] for _ in graph.operations]
    for place in range(len(graph.operations) - 1, -1, -1):
        operation = graph.operations[place]
        used = {*operation.names(ResultName), operation.name} - needed
        last[place] = sorted(name for name in used if isinstance(name, str))
        needed |= used
    return last


def _argument_names(arguments: Sequence[Any], kind: type[ResultName | WeightName]) -> set[str]:
    names: set[str] = set()
    for argument in arguments:
        if isinstance(argument, kind):
            names.add(argument.name)
        elif isinstance(argument, list):
            names |= _argument_names(argument, kind)
    return names


def _encode_argument(argument: Any) -> Any:  # noqa: ANN401 - JSON
    match argument:
        case ResultName(name):
            return {"of": name}
        case WeightName(name):
            return {"weight": name}
        case torch.device():
            return {"device": None}  # that on which the network runs
        case float() if math.isinf(argument):
            return {"endless": str(argument)}
        case Mapping():
            return {name: _encode_argument(element) for name, element in argument.items()}
        case list() | tuple():
            return [_encode_argument(element) for element in argument]
    for kind, type_ in ARGUMENT_TYPES.items():
        if isinstance(argument, type_):
            return {kind: str(argument).removeprefix("torch.")}
    return argument


def _decode_argument(argument: Any, known: set[str], weights: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(argument, list):
        return [_decode_argument(element, known, weights) for element in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, value),) = argument.items()
    if kind == "of" and value in known:
        return ResultName(value)
    if kind == "weight" and value in weights:
        return WeightName(value)
    if kind == "device":
        return None
    if kind == "endless":
        return INFINITIES[value]
    decoded = getattr(torch, str(value), None)
    if kind in ARGUMENT_TYPES and isinstance(decoded, ARGUMENT_TYPES[kind]):
        return decoded
    raise ValueError(f"{kind} {value}")

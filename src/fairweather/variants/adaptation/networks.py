"""A copy of a network that adapts, and the parts of a network that methods change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.types.measurement import Passes

BATCH_NORM = nn.modules.batchnorm._BatchNorm
NORM_TITLES: Mapping[type[nn.Module], str] = {
    BATCH_NORM: "batch norm",
    nn.modules.instancenorm._InstanceNorm: "instance norm",
    nn.GroupNorm: "group norm",
    nn.LayerNorm: "layer norm",
    nn.RMSNorm: "RMS norm",
}
NORMS: tuple[type[nn.Module], ...] = tuple(NORM_TITLES)
OPTIMISERS: Mapping[str, Callable[[Sequence[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}
STATISTICS = ("mean", "var")  # of batch norm
Tensors = dict[str, torch.Tensor]


def _ask_for_gradient(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
    """Let the maps of a group norm have a gradient, where only its own numbers need one.

    On a CPU, torch 2.13 else reads memory that is not there, if the maps are channels last.
    """
    (maps,) = inputs
    if maps.requires_grad or not torch.is_grad_enabled():
        return None
    return (maps.detach().requires_grad_(),)


class AdaptedNetwork(nn.Module):
    """A copy of a network that sees one batch after the other, with all that changes meanwhile.

    Args:
        network: the copy; the method may change it.
        predict: the method: gives the logits of a batch, and changes what it likes.
        parameters: what gradient steps change; no other parameter gets a gradient.
        optimiser: of `OPTIMISERS`.
        learning_rate: of its steps.
        seed: of random numbers.
    """

    def __init__(
        self,
        network: nn.Module,
        predict: Callable[[AdaptedNetwork, torch.Tensor], torch.Tensor],
        parameters: Sequence[nn.Parameter] = (),
        optimiser: str = "sgd",
        learning_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        for parameter in network.parameters():
            if not parameter.is_leaf:  # TorchScript's have the history of being copied
                parameter.detach_()
            parameter.requires_grad_(False)
        self.further = nn.ModuleDict()
        """Other networks of the method, such as a teacher."""
        self.memory: Tensors = {}
        """What the method remembers, by name."""
        self.batches = 0
        self.passes = Passes(0, 0)
        self.seed = seed
        self.random = torch.Generator()
        """Random numbers for each batch, the same on each device."""
        self.adapted_parameters = list(parameters)
        for parameter in parameters:
            parameter.requires_grad_()
        for module in network.modules() if parameters else ():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(_ask_for_gradient)
        self._predict = predict
        self._optimiser = (
            OPTIMISERS[optimiser](self.adapted_parameters, learning_rate) if parameters else None
        )
        self._optimiser_state: Tensors = {}
        self._last: LastLayer | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Predict a batch and adapt to it."""
        self.memory = {name: value.to(images.device) for name, value in self.memory.items()}
        self.random.manual_seed((self.seed << 32) + self.batches)
        with torch.enable_grad():
            logits = self._predict(self, images)
        self.batches += 1
        self._count(batches=1)
        return logits.detach()

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self.passes, name) + count for name, count in more.items()}
        self.passes = self.passes._replace(**counts)

    def pass_forward(self, images: torch.Tensor, network: nn.Module | None = None) -> torch.Tensor:
        """The logits of the network, or of another one, float32.

        Images and logits are copies, since methods use them again: a model may change its input,
        and reuse the memory of its output.
        """
        self._count(forward=len(images))
        torch.clear_autocast_cache()  # it keeps rounded weights, and a step may have changed them
        logits: torch.Tensor = (network or self.network)(images.clone())
        return logits.to(torch.float32, copy=True)

    def pass_backward(self, loss: torch.Tensor, images: int) -> None:
        """Compute gradients of a loss of some images, in place of earlier ones."""
        if not loss.requires_grad:
            raise InputError("the model gives no gradients, so that no steps can adapt it")
        self._count(backward=images)
        for parameter in self.adapted_parameters:
            parameter.grad = None
        loss.backward()

    def step(self, images: int) -> None:
        """Change the parameters along the gradients of a loss of so many images.

        Without any, no step is counted: momentum alone moves the parameters.
        """
        assert self._optimiser is not None
        for name, value in self._optimiser_state.items():
            number, _, slot = name.partition("/")
            parameter = self.adapted_parameters[int(number)]
            self._optimiser.state[parameter][slot] = value.to(
                parameter.device if value.ndim else "cpu"
            )
        self._optimiser_state = {}
        self._optimiser.step()
        self._count(steps=int(images > 0))

    def reset(self, parameters: Sequence[torch.Tensor]) -> None:
        """Give the adapted parameters these values again."""
        with torch.no_grad():
            for parameter, value in zip(self.adapted_parameters, parameters, strict=True):
                parameter.copy_(value)
        self._count(resets=1)

    def descend(self, loss: torch.Tensor, images: int) -> None:
        """Take one step along the gradients of a loss."""
        self.pass_backward(loss, images)
        self.step(images)

    def find_last_layer(self, images: torch.Tensor, kind: str) -> LastLayer:
        """The linear layer that the logits depend on; raises `InputError` if there is none.

        Args:
            images: some images, to try the network on.
            kind: the method, for the message.
        """
        if self._last is None:
            self._last = find_last_layer(self.network, images, kind)
        return self._last

    # ---- what one cell hands to the next

    def carry(self) -> Tensors:
        """All that has changed or may change, on the CPU, for `resume` of another copy."""
        tensors = {f"network/{name}": tensor for name, tensor in self.state_dict().items()}
        tensors |= {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        tensors["batches"] = torch.tensor(self.batches)
        if self._optimiser is not None:
            slots = {
                f"{number}/{slot}": value
                for number, parameter in enumerate(self.adapted_parameters)
                for slot, value in self._optimiser.state[parameter].items()
                if isinstance(value, torch.Tensor)
            }
            tensors |= {
                f"optimiser/{name}": value
                for name, value in (slots | self._optimiser_state).items()
            }
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def resume(self, tensors: Tensors) -> None:
        """Go on where another copy of the same network has ended."""
        own = self.state_dict(keep_vars=True)
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "network":
                own[rest].data.copy_(tensor)
            elif kind == "memory":
                self.memory[rest] = tensor
            elif kind == "optimiser":
                self._optimiser_state[rest] = tensor
            else:
                self.batches = int(tensor)


class LastLayer:
    """The linear layer at the end of a network, and its input in the last pass."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.features = torch.empty(0)
        """`[B, D]`."""

    @contextmanager
    def watch(
        self, replace: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> Iterator[Self]:
        """Keep its input of each pass, and replace its output by a function of that.

        The new output has the type of the weights, also where autocast rounds the old one.
        """

        def look(
            layer: nn.Linear, arguments: tuple[torch.Tensor, ...], _: torch.Tensor
        ) -> torch.Tensor | None:
            self.features = arguments[0].detach().clone()
            return None if replace is None else replace(self.features).to(layer.weight.dtype)

        hook = self.layer.register_forward_hook(look)
        try:
            yield self
        finally:
            hook.remove()


def find_last_layer(network: nn.Module, images: torch.Tensor, kind: str) -> LastLayer:
    """The linear layer that all logits of a network come from.

    Args:
        network: images to logits.
        images: float `[B, 3, H, W]`, of which the first is tried.
        kind: the method, for the message.

    Raises `InputError` if the last layer is not linear, or does not decide alone, as in ensembles.
    """
    called: list[tuple[nn.Module, torch.Tensor | None]] = []

    def note(module: nn.Module, arguments: tuple[object, ...], _: object) -> None:
        first = arguments[0] if arguments else None
        called.append((module, first if isinstance(first, torch.Tensor) else None))

    trial = torch.cat([images[:1], 1 - images[:1]])
    hooks = [layer.register_forward_hook(note) for layer in list_layers(network)]
    try:
        with torch.no_grad():
            network(trial.clone())
    finally:
        for hook in hooks:
            hook.remove()
    layer, inputs = called[-1] if called else (None, None)
    if isinstance(layer, nn.Linear) and inputs is not None and inputs.ndim == 2:
        last = LastLayer(layer)
        with torch.no_grad(), last.watch(lambda _: torch.zeros(2, layer.out_features).to(inputs)):
            first, second = network(trial.clone())
        if torch.equal(first, second):
            return last
    raise InputError(
        f"{kind} needs logits that all come from one linear layer, and those of the network do not"
    )


def list_layers(network: nn.Module) -> list[nn.Module]:
    """The modules with parameters and without modules in them.

    A network with both, such as a transformer, is not a layer.
    """
    return [
        module
        for module in network.modules()
        if not any(True for _ in module.children()) and any(True for _ in module.parameters())
    ]


def is_torchscript(network: nn.Module) -> bool:
    """Tell whether a network is TorchScript, which hides the types of its layers."""
    scripted = [isinstance(module, torch.jit.ScriptModule) for module in network.modules()]
    layers = list_layers(network)
    return any(scripted) and all(isinstance(layer, torch.jit.ScriptModule) for layer in layers)


def without_autocast(tensor: torch.Tensor) -> torch.autocast:
    """Compute in the types of the tensors: bf16 rounds away what tells similar features apart."""
    return torch.autocast(tensor.device.type, enabled=False)


def softmax_entropy(logits: torch.Tensor) -> torch.Tensor:
    """The entropy of each row's softmax in nats, `[B]`.

    >>> round(softmax_entropy(torch.zeros(1, 2)).exp().item(), 4)
    2.0
    """
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def find_norms(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The normalisation layers with a scale or a shift, by name."""
    for name, module in network.named_modules():
        if isinstance(module, NORMS) and any(True for _ in module.parameters(recurse=False)):
            yield name, module


def has_batch_norm(network: nn.Module) -> bool:
    """Tell whether a network has batch norm, whose statistics need a batch."""
    return any(isinstance(module, BATCH_NORM) for module in network.modules())


def copy_network(network: nn.Module) -> nn.Module:
    """Copy a network, also one that keeps tensors that it has computed, as weight norm does.

    >>> layer = nn.Linear(2, 2)
    >>> layer.twice = 2 * layer.weight
    >>> torch.equal(copy_network(layer).twice, layer.twice)
    True
    """
    kept = [value for module in network.modules() for value in vars(module).values()]
    tensors = [value for value in kept if isinstance(value, torch.Tensor)]
    # PyTorch copies no tensor with a history, so these are in the copy already.
    copies: dict[int, Any] = {
        id(value): value.detach().clone() for value in tensors if not value.is_leaf
    }
    return copy.deepcopy(network, copies)


def copy_with_batch_statistics(network: nn.Module) -> nn.Module:
    """Copy a network, so that its batch norm uses the statistics of each batch."""
    adapted = copy_network(network)
    for module in adapted.modules():
        if isinstance(module, BATCH_NORM):
            # Without running statistics, torch and timm use the batch's, in evaluation mode too.
            module.track_running_stats = False
            module.running_mean = None
            module.running_var = None
    return adapted


def affine_parameters(
    network: nn.Module, kind: str, wanted: Callable[[str], bool] = lambda _: True
) -> list[nn.Parameter]:
    """The scales and shifts of normalisation layers.

    Args:
        network: a network.
        kind: the method, for the message.
        wanted: says by the name of a layer whether it is adapted.

    Raises `InputError` if there are none.
    """
    parameters = [
        parameter
        for name, module in find_norms(network)
        if wanted(name)
        for parameter in module.parameters(recurse=False)
    ]
    if not parameters:
        raise InputError(
            f"{kind} adapts the scales and shifts of batch, group or layer norm, and PyTorch finds "
            "none in the network"
        )
    return parameters


def count_norms(network: nn.Module, parameters: Sequence[nn.Parameter]) -> str:
    """Say which layers of normalisation some scales and shifts are of.

    >>> network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.LayerNorm(4))
    >>> count_norms(network, [network[1].weight, network[1].bias])
    'batch norm (1 of 1 layers), layer norm (0 of 1 layers)'
    """
    own = {id(parameter) for parameter in parameters}
    counts = []
    for norm, title in NORM_TITLES.items():
        layers = [module for _, module in find_norms(network) if isinstance(module, norm)]
        adapted = sum(any(id(p) in own for p in layer.parameters()) for layer in layers)
        counts += [f"{title} ({adapted} of {len(layers)} layers)"] if layers else []
    return ", ".join(counts)


def count_numbers(network: nn.Module, parameters: Iterable[nn.Parameter]) -> str:
    """Say how many of the numbers of a network some of its parameters have.

    >>> network = nn.Linear(3, 2)
    >>> count_numbers(network, [network.bias])
    '2 of 8 numbers'
    """
    own, every = (sum(p.numel() for p in ps) for ps in (parameters, network.parameters()))
    return f"{own:,} of {every:,} numbers"


def copy_with_mixed_statistics(network: nn.Module, source: float, momentum: float) -> nn.Module:
    """Copy a network, so that its batch norm mixes stored statistics with those of each batch.

    Args:
        network: a network with batch norm.
        source: how many images the stored statistics count as, beside those of the batch.
        momentum: the share of a batch in the moving mean that takes the place of its statistics.
    """
    adapted = copy_network(network)
    for module in adapted.modules():
        if isinstance(module, BATCH_NORM) and module.running_mean is not None:
            for name in STATISTICS:
                for kept in ("stored", "moving"):
                    tensor = getattr(module, f"running_{name}").clone()
                    module.register_buffer(f"{kept}_{name}", tensor)
            module.register_forward_pre_hook(partial(_mix_statistics, source, momentum))
    return adapted


def _mix_statistics(
    source: float, momentum: float, norm: nn.Module, arguments: tuple[torch.Tensor, ...]
) -> None:
    """Set the statistics that a layer of batch norm uses, before each of its passes."""
    inputs = arguments[0].detach().float()
    others = [axis for axis in range(inputs.ndim) if axis != 1]
    batch = {"mean": inputs.mean(others), "var": inputs.var(others, unbiased=False)}
    share = source / (source + len(inputs))
    for name, new in batch.items():
        stored, before = getattr(norm, f"stored_{name}"), getattr(norm, f"moving_{name}")
        moving = (1 - momentum) * before + momentum * new
        setattr(norm, f"moving_{name}", moving)
        setattr(norm, f"running_{name}", share * stored + (1 - share) * moving)

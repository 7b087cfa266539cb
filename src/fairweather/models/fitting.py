"""Give the tensors of a file the names of an architecture, without prefixes of wrappers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import torch

from fairweather.errors import InputError
from fairweather.models.checkpoints import AVERAGED, Checkpoint, State

# Attributes in which wrappers keep the network itself; only torch.compile has its own. Encoders
# are those of pre-training: SimSiam, MoCo, MoCo v3.
ENCODERS = {"encoder", "encoder_q", "base_encoder"}
WRAPPERS = {"module", "model", "backbone", "network", "net", *ENCODERS, *AVERAGED}
COMPILED = "_orig_mod."
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel


class Fitted(NamedTuple):
    """A state dict with an architecture's names, the removed prefix, and the tensors left out.

    `left_out` are moving averages beside the weights, `pretraining` the tensors that only
    pre-training needs.
    """

    state: State
    prefix: str
    left_out: tuple[str, ...]
    pretraining: tuple[str, ...] = ()


class Prefix(NamedTuple):
    """The prefix that most of an architecture's names have, and how many have it."""

    prefix: str
    names: int


def common_prefix(keys: Collection[str], names: Collection[str]) -> Prefix:
    """Find the prefix of wrappers whose removal gives most keys a name of the architecture.

    >>> common_prefix(["module.encoder.w", "module.encoder.b", "module.queue"], {"w", "b"})
    Prefix(prefix='module.encoder.', names=2)
    """
    prefixes = sorted({prefix for key in keys for prefix in _wrappings(key)}, key=_plain_and_short)
    counted = [Prefix(prefix, _count(keys, prefix, names)) for prefix in prefixes]
    return max(counted, key=lambda found: found.names)


def parts(keys: Collection[str]) -> list[str]:
    """Name the parts that keys belong to, up to the first attribute that is not a wrapper's.

    >>> parts(["module.projector.0.weight", "module.projector.1.weight", "module.queue"])
    ['module.projector', 'module.queue']
    """
    return list(dict.fromkeys(_part(key) for key in keys))


def attribute(key: str) -> str:
    """Give the first attribute of a name that is not a wrapper's.

    >>> attribute("module.projector.0.weight")
    'projector'
    """
    return _part(key).rpartition(".")[2]


def fit_names(state: Mapping[str, torch.Tensor], names: Collection[str]) -> Fitted:
    """Remove the prefixes that wrappers put before the names of an architecture's tensors.

    Wrappers add paths of attributes, such as `module.`, `model.backbone.` or `1.`. The one is
    removed that turns most names into those of the architecture, and only where it does.

    >>> state = {"module._orig_mod.encoder.w": torch.ones(1), "module._orig_mod.b": torch.ones(1)}
    >>> fitted = fit_names(state, ["encoder.w", "b"])
    >>> list(fitted.state), fitted.prefix
    (['encoder.w', 'b'], 'module.')
    """
    bare = {key.replace(COMPILED, ""): tensor for key, tensor in state.items()}
    names = set(names)
    prefix = common_prefix(bare, names).prefix
    fitted: State = {}
    left_out = []
    for key, tensor in bare.items():
        short = key.removeprefix(prefix)
        name = short if short in names else key
        if name not in names and (_averaged(key, prefix) or key.endswith(COUNTER)):
            left_out.append(key)
        elif name in fitted:
            raise InputError(f"weights: two tensors could be {name}, one of them called {key}")
        else:
            fitted[name] = tensor
    return Fitted(fitted, prefix, tuple(left_out))


def _part(key: str) -> str:
    path = key.split(".")
    place = next((place for place, part in enumerate(path) if part not in WRAPPERS), len(path))
    return ".".join(path[: place + 1])


def _wrappings(key: str) -> Iterator[str]:
    """All prefixes that may be those of wrappers: none, `module.`, `module.model.`, `1.`, ..."""
    prefix = ""
    yield prefix
    for part in key.split(".")[:-1]:
        if part not in WRAPPERS and not part.isdigit():
            return
        prefix += f"{part}."
        yield prefix


def _plain_and_short(prefix: str) -> tuple[bool, int, str]:
    return _averaged(prefix, ""), len(prefix), prefix


def _averaged(key: str, prefix: str) -> bool:
    parts = key.split(".")[:-1]
    return not (prefix and key.startswith(prefix)) and any(part in AVERAGED for part in parts)


def _count(keys: Collection[str], prefix: str, names: Collection[str]) -> int:
    return sum(key.startswith(prefix) and key.removeprefix(prefix) in names for key in keys)


def describe_checkpoint(checkpoint: Checkpoint, fitted: Fitted) -> dict[str, object]:
    """Describe how a file was understood, for JSON."""
    averages = [key for key in checkpoint.beside if key.rpartition(".")[2] in AVERAGED]
    facts: dict[str, object] = {"nesting": checkpoint.nesting, "prefix": fitted.prefix}
    if averages or fitted.left_out:
        facts["averaged"] = "the file also has a moving average of the weights, which is not used"
    elif not {*checkpoint.nesting.split("."), *fitted.prefix.split(".")}.isdisjoint(AVERAGED):
        facts["averaged"] = "the weights are a moving average: the file has no others"
    if fitted.pretraining:
        facts["left_out"] = parts(fitted.pretraining)
    others = [key for key in checkpoint.beside if key not in averages]
    if others:
        facts["not_taken"] = others
    return facts

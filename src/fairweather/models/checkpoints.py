"""State dicts as other programs write them: nested, prefixed, with averages beside them."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import safetensors
import safetensors.torch
import torch

from fairweather.errors import InputError
from fairweather.models.normalisation import DEVIATIONS, MEANS, RUNNING
from fairweather.models.preprocessing import Statistics, three

State = dict[str, torch.Tensor]

# Keys under which programs keep a state dict: torchvision's and timm's training scripts, Lightning,
# fairseq, DeepSpeed, BasicSR, and tutorials.
PLAIN = (
    *("state_dict", "model_state_dict", "model_state", "model", "network_state_dict", "network"),
    *("net_state_dict", "net", "module", "params", "weights"),
)
# Moving averages of the weights, likewise.
AVERAGED = (
    *("state_dict_ema", "ema_state_dict", "model_ema_state_dict", "model_ema", "ema_model"),
    *("ema", "module_ema", "net_ema", "params_ema"),
)
# Attributes in which wrappers keep the network itself; torch.compile's is nobody else's.
WRAPPERS = {"module", "model", "backbone", "network", "net", *AVERAGED}
COMPILED = "_orig_mod."
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
DEEPEST = 4


class Checkpoint(NamedTuple):
    """A file's tensors, the normalisation that lies among them, and where they were."""

    state: State
    statistics: Statistics | None
    nesting: str  # `model.state_dict`, or empty
    beside: tuple[str, ...]  # other state dicts of the file, not taken


class Fitted(NamedTuple):
    """A state dict with an architecture's names; what was taken off them, and what was left out."""

    state: State
    prefix: str
    left_out: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a safetensors file or a weights-only PyTorch checkpoint.

    A state dict may be nested under the keys that training programs use; of a plain one and its
    moving average, the plain one is taken. `argparse.Namespace`, in which they keep their options,
    is the only class besides torch's own that is made.

    Raises `InputError` for a file that is damaged, that holds no state dict, or that would have to
    run code to be read.
    """
    held: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    nesting: list[str] = []
    beside: list[str] = []
    while not _is_state(held):
        inside = [key for key in (*PLAIN, *AVERAGED) if _is_mapping(held, key)]
        if not inside or len(nesting) == DEEPEST:
            raise InputError(f"weights: {path} holds no state dict of tensors{_keys(held)}")
        beside += [".".join([*nesting, key]) for key in inside[1:]]
        nesting.append(inside[0])
        held = held[inside[0]]
    state, statistics = split_statistics({key: tensor.detach() for key, tensor in held.items()})
    return Checkpoint(state, statistics, ".".join(nesting), tuple(beside))


def split_statistics(state: State) -> tuple[State, Statistics | None]:
    """Take a mean and a std of three channels out of a state dict: a wrapper's normalisation.

    >>> state = {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(3), "network.w": torch.ones(1)}
    >>> rest, statistics = split_statistics(state)
    >>> list(rest), statistics.std
    (['network.w'], (1.0, 1.0, 1.0))
    """
    means, deviations = (dict(_channels(state, pattern)) for pattern in (MEANS, DEVIATIONS))
    pairs = {
        parent: Statistics(three(state[means[parent]].flatten()), three(state[key].flatten()))
        for parent, key in deviations.items()
        if parent in means
    }
    if len(set(pairs.values())) != 1:
        return state, None
    taken = {keys[parent] for parent in pairs for keys in (means, deviations)}
    rest = {key: tensor for key, tensor in state.items() if key not in taken}
    return rest, next(iter(pairs.values()))


def fit_names(state: Mapping[str, torch.Tensor], names: Collection[str]) -> Fitted:
    """Take off what wrappers put before the names of an architecture's tensors.

    Of all leading paths of wrappers' attributes (`module.`, `model.backbone.`, `1.`, ...) the one
    is taken off that makes most names those of the architecture, and only where it does.

    >>> state = {"module._orig_mod.encoder.w": torch.ones(1), "module._orig_mod.b": torch.ones(1)}
    >>> fitted = fit_names(state, ["encoder.w", "b"])
    >>> list(fitted.state), fitted.prefix
    (['encoder.w', 'b'], 'module.')
    """
    bare = {key.replace(COMPILED, ""): tensor for key, tensor in state.items()}
    names = set(names)
    prefixes = sorted({prefix for key in bare for prefix in _wrappings(key)}, key=_plain_and_short)
    prefix = max(prefixes, key=lambda prefix: _count(bare, prefix, names))
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


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"weights: {path} is damaged or no safetensors file ({error})") from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # TorchScript is told about below
            return torch.load(path, map_location="cpu", weights_only=True)
    # On files of another kind, torch.load raises whatever its unpickler stumbles over.
    except Exception as error:
        text = str(error)
        if not _needs_more(path, text):
            kind = type(error).__name__
            told = f"weights: {path} is damaged or no PyTorch checkpoint ({kind})"
            raise InputError(told) from error
        held = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", text)
        because = f", since it holds {held.group(1) or held.group(2)}" if held else ""
        raise InputError(
            f"weights: {path} cannot be read as weights alone{because}; save it with "
            "torch.save(model.state_dict(), FILE) or as safetensors"
        ) from error


def _needs_more(path: Path, text: str) -> bool:
    """Tell a pickle that would have to run from a file that is none, by torch.load's words."""
    if "Unsupported operand" in text:
        return _begins(path, b"\x80")  # of every pickle since protocol 2
    told = r"(?i)unsupported|can only|only persistent|torchscript|legacy \.tar|must be imported"
    return bool(re.search(told, text))


def _begins(path: Path, content: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(content)) == content


def _is_state(held: object) -> bool:
    if not isinstance(held, Mapping):
        return False
    named = (isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in held.items())
    return bool(held) and all(named)


def _is_mapping(held: object, key: str) -> bool:
    return isinstance(held, Mapping) and isinstance(held.get(key), Mapping) and bool(held[key])


def _keys(held: object) -> str:
    if not isinstance(held, Mapping):
        return f", but a {type(held).__name__}"
    keys = ", ".join(str(key) for key in list(held)[:10])
    return f": its keys are {keys}" if keys else ": it is empty"


def _channels(state: State, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for key, tensor in state.items():
        parent, _, last = key.rpartition(".")
        if tensor.numel() == 3 and pattern.search(last) and not RUNNING.search(last):
            yield parent, key


def _wrappings(key: str) -> Iterator[str]:
    """All leading paths that may be wrappers: none, `module.`, `module.model.`, `1.`, ..."""
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


def _count(state: State, prefix: str, names: Collection[str]) -> int:
    return sum(key.startswith(prefix) and key.removeprefix(prefix) in names for key in state)


def describe_checkpoint(checkpoint: Checkpoint, fitted: Fitted) -> dict[str, object]:
    """Give, fit for JSON, how a file was understood."""
    averages = [key for key in checkpoint.beside if key.rpartition(".")[2] in AVERAGED]
    facts: dict[str, object] = {"nesting": checkpoint.nesting, "prefix": fitted.prefix}
    if averages or fitted.left_out:
        facts["averaged"] = "a moving average of the weights lies beside them and is not used"
    elif any(part in AVERAGED for part in _path(checkpoint, fitted)):
        facts["averaged"] = "the weights are a moving average: nothing else was there"
    others = [key for key in checkpoint.beside if key not in averages]
    if others:
        facts["not_taken"] = others
    return facts


def _path(checkpoint: Checkpoint, fitted: Fitted) -> list[str]:
    return cast("list[str]", [*checkpoint.nesting.split("."), *fitted.prefix.split(".")])

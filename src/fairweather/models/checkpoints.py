"""Read state dicts that other programs wrote: nested, with prefixes, or with averages."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from fairweather.errors import InputError
from fairweather.models.normalisation import DEVIATIONS, MEANS, RUNNING
from fairweather.models.preprocessing import Statistics, three
from fairweather.types import special_kind

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
DEEPEST = 4
# What files may hold besides tensors: the options of training programs, and a function that the
# optimisers of Barlow Twins and VICReg keep in their state, for which the same class stands in.
SAFE = (argparse.Namespace, (argparse.Namespace, "__main__.exclude_bias_and_norm"))


class Checkpoint(NamedTuple):
    """The tensors of a file, the normalisation found among them, and where they were."""

    state: State
    statistics: Statistics | None
    nesting: str  # `model.state_dict`, or empty
    beside: tuple[str, ...]  # other state dicts of the file, which are not used


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a safetensors file or a weights-only PyTorch checkpoint.

    Loading never executes code. A state dict may be nested under the keys that training programs
    use. If there is also a moving average of it, the plain one is used. `argparse.Namespace`, in
    which these programs keep their options, is the only class that is made besides torch's own.

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
    for key, tensor in held.items():
        if kind := special_kind(tensor):
            raise InputError(f"weights: {key} in {path} is a {kind} tensor, not plain numbers")
    state, statistics = split_statistics({key: tensor.detach() for key, tensor in held.items()})
    return Checkpoint(state, statistics, ".".join(nesting), tuple(beside))


def split_statistics(state: State) -> tuple[State, Statistics | None]:
    """Separate a mean and a std of three channels from a state dict: a wrapper's normalisation.

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


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"weights: {path} is damaged or no safetensors file ({error})") from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(SAFE)):
            warnings.simplefilter("ignore")  # TorchScript is told about below
            return torch.load(path, map_location="cpu", weights_only=True)
    # On files of another kind, torch.load raises whatever its unpickler stumbles over.
    except Exception as error:
        text = str(error)
        if not _needs_more(path, text):
            kind = type(error).__name__
            told = f"weights: {path} is damaged or not a PyTorch checkpoint ({kind})"
            raise InputError(told) from error
        held = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", text)
        because = f", since it holds {held.group(1) or held.group(2)}" if held else ""
        raise InputError(
            f"weights: {path} cannot be read as weights alone{because}; save it with "
            "torch.save(model.state_dict(), FILE) or as safetensors"
        ) from error


def _needs_more(path: Path, text: str) -> bool:
    """Say from torch.load's message whether a file is a pickle that would execute code."""
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

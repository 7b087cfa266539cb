"""State dicts: reading them from other programs' files, renaming, and interpolating them."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.models.preprocessing import DEVIATIONS, MEANS, RUNNING, Normalisation, to_triple
from fairweather.types.measurement import special_kind

# ---------------------------------------------------------------- read from files

State = dict[str, torch.Tensor]

# Keys under which programs keep a state dict: torchvision's and timm's training scripts, Lightning,
# fairseq, DeepSpeed, BasicSR, and tutorials.
STATE_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network_state_dict", "network"),
    *("net_state_dict", "net", "module", "params", "weights"),
)
# Keys under which programs keep a moving average of the weights.
AVERAGE_KEYS = (
    *("state_dict_ema", "ema_state_dict", "model_ema_state_dict", "model_ema", "ema_model"),
    *("ema", "module_ema", "net_ema", "params_ema"),
)
MOST_NESTING = 4
# What files may contain besides tensors: the options of training programs, and a function in the
# optimiser state of Barlow Twins and VICReg, which the same class replaces.
SAFE_CLASSES = (argparse.Namespace, (argparse.Namespace, "__main__.exclude_bias_and_norm"))


class Checkpoint(NamedTuple):
    """The tensors of a file, the normalisation found among them, and where they were."""

    state: State
    statistics: Normalisation | None
    nesting: str  # `model.state_dict`, or empty
    beside: tuple[str, ...]  # other state dicts of the file, which are not used


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a safetensors file or a weights-only PyTorch checkpoint.

    Loading never executes code. A state dict may be nested under the keys that training programs
    use. If there is also a moving average of it, the plain one is used. Besides torch's own
    classes, only `argparse.Namespace` is created, in which these programs keep their options.

    Raises `InputError` for a file that is damaged, that holds no state dict, or that would have to
    run code to be read.
    """
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    nesting: list[str] = []
    beside: list[str] = []
    while not _is_state(content):
        keys = (*STATE_KEYS, *AVERAGE_KEYS) if isinstance(content, Mapping) else ()
        inside = [key for key in keys if isinstance(content.get(key), Mapping) and content[key]]
        if not inside or len(nesting) == MOST_NESTING:
            raise InputError(f"weights: {path} holds no state dict of tensors{_list_keys(content)}")
        beside += [".".join([*nesting, key]) for key in inside[1:]]
        nesting.append(inside[0])
        content = content[inside[0]]
    for key, tensor in content.items():
        if kind := special_kind(tensor):
            raise InputError(f"weights: {key} in {path} is a {kind} tensor, not plain numbers")
    state, statistics = split_statistics({key: tensor.detach() for key, tensor in content.items()})
    return Checkpoint(state, statistics, ".".join(nesting), tuple(beside))


def split_statistics(state: State) -> tuple[State, Normalisation | None]:
    """Separate a mean and a std of three channels from a state dict: a wrapper's normalisation.

    >>> state = {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(3), "network.w": torch.ones(1)}
    >>> rest, statistics = split_statistics(state)
    >>> list(rest), statistics.std
    (['network.w'], (1.0, 1.0, 1.0))
    """
    means, deviations = (dict(_find_channels(state, pattern)) for pattern in (MEANS, DEVIATIONS))
    pairs = [(means[parent], key) for parent, key in deviations.items() if parent in means]
    values = {Normalisation(*(to_triple(state[key].flatten()) for key in pair)) for pair in pairs}
    if len(values) != 1:
        return state, None
    rest = {key: tensor for key, tensor in state.items() if not any(key in pair for pair in pairs)}
    return rest, values.pop()


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"weights: {path} is damaged or no safetensors file ({error})") from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(SAFE_CLASSES)):
            warnings.simplefilter("ignore")  # TorchScript is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    # On files of another kind, torch.load raises any kind of error.
    except Exception as error:
        text = str(error)
        if not _is_unsafe_pickle(path, text):
            raise InputError(
                f"weights: {path} is damaged or not a PyTorch checkpoint ({type(error).__name__})"
            ) from error
        code = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", text)
        because = f", since it holds {code.group(1) or code.group(2)}" if code else ""
        raise InputError(
            f"weights: {path} cannot be read as weights alone{because}, and is refused because "
            "loading it would execute code; write a function that returns the network, and name "
            "python:FILE.py:FUNCTION, or save it with torch.save(model.state_dict(), FILE) or as "
            "safetensors"
        ) from error


def _is_unsafe_pickle(path: Path, text: str) -> bool:
    """Say whether a file is a pickle that would execute code, from torch.load's message."""
    if "Unsupported operand" in text:
        with path.open("rb") as file:
            return file.read(1) == b"\x80"  # of every pickle since protocol 2
    refusals = r"(?i)unsupported|can only|only persistent|torchscript|legacy \.tar|must be imported"
    return bool(re.search(refusals, text))


def _is_state(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    named = (isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    return bool(value) and all(named)


def _list_keys(content: object) -> str:
    if not isinstance(content, Mapping):
        return f", but a {type(content).__name__}"
    keys = ", ".join(str(key) for key in list(content)[:10])
    return f": its keys are {keys}" if keys else ": it is empty"


def _find_channels(state: State, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for key, tensor in state.items():
        parent, _, last = key.rpartition(".")
        if tensor.numel() == 3 and pattern.search(last) and not RUNNING.search(last):
            yield parent, key


# ---------------------------------------------------------------- names of an architecture

# Attributes in which wrappers keep the network itself; only torch.compile has its own. Encoders
# are those of pre-training: SimSiam, MoCo, MoCo v3.
ENCODERS = {"encoder", "encoder_q", "base_encoder"}
WRAPPERS = {"module", "model", "backbone", "network", "net", *ENCODERS, *AVERAGE_KEYS}
COMPILED_PREFIX = "_orig_mod."
AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel


class NetworkState(NamedTuple):
    """A state dict with an architecture's names, the removed prefix, and the tensors left out.

    `left_out` are moving averages beside the weights, `pretraining` the tensors that only
    pre-training needs.
    """

    state: State
    prefix: str
    left_out: tuple[str, ...]
    pretraining: tuple[str, ...] = ()


def find_common_prefix(keys: Collection[str], names: Collection[str]) -> tuple[str, int]:
    """Find the wrappers' prefix whose removal turns most keys into names of the architecture.

    Returns the prefix, and how many keys get a name.

    >>> find_common_prefix(["module.encoder.w", "module.encoder.b", "module.queue"], {"w", "b"})
    ('module.encoder.', 2)
    """
    prefixes = {prefix for key in keys for prefix in _list_prefixes(key)}
    counts = {
        prefix: sum(key.startswith(prefix) and key.removeprefix(prefix) in names for key in keys)
        for prefix in sorted(prefixes, key=lambda text: (_is_average(text, ""), len(text), text))
    }
    prefix = max(counts, key=counts.__getitem__)
    return prefix, counts[prefix]


def list_parts(keys: Collection[str]) -> list[str]:
    """Name the parts that keys belong to, up to the first attribute that is not a wrapper's.

    >>> list_parts(["module.projector.0.weight", "module.projector.1.weight", "module.queue"])
    ['module.projector', 'module.queue']
    """
    return list(dict.fromkeys(map(_first_part, keys)))


def match_names(state: Mapping[str, torch.Tensor], names: Collection[str]) -> NetworkState:
    """Remove the prefixes that wrappers put before the names of an architecture's tensors.

    Wrappers add paths of attributes, such as `module.`, `model.backbone.` or `1.`. The prefix that
    turns most names into those of the architecture is removed, only from these names.

    >>> state = {"module._orig_mod.encoder.w": torch.ones(1), "module._orig_mod.b": torch.ones(1)}
    >>> matched = match_names(state, ["encoder.w", "b"])
    >>> list(matched.state), matched.prefix
    (['encoder.w', 'b'], 'module.')
    """
    bare = {key.replace(COMPILED_PREFIX, ""): tensor for key, tensor in state.items()}
    names = set(names)
    prefix, _ = find_common_prefix(bare, names)
    renamed: State = {}
    left_out = []
    for key, tensor in bare.items():
        short = key.removeprefix(prefix)
        name = short if short in names else key
        if name not in names and (_is_average(key, prefix) or key.endswith(AVERAGE_COUNTER)):
            left_out.append(key)
        elif name in renamed:
            raise InputError(f"weights: two tensors could be {name}, one of them called {key}")
        else:
            renamed[name] = tensor
    return NetworkState(renamed, prefix, tuple(left_out))


def _first_part(key: str) -> str:
    path = key.split(".")
    place = next((place for place, part in enumerate(path) if part not in WRAPPERS), len(path))
    return ".".join(path[: place + 1])


def _list_prefixes(key: str) -> Iterator[str]:
    """All possible prefixes of wrappers: none, `module.`, `module.model.`, `1.`, ..."""
    prefix = ""
    yield prefix
    for part in key.split(".")[:-1]:
        if part not in WRAPPERS and not part.isdigit():
            return
        prefix += f"{part}."
        yield prefix


def _is_average(key: str, prefix: str) -> bool:
    parts = key.split(".")[:-1]
    return not (prefix and key.startswith(prefix)) and any(part in AVERAGE_KEYS for part in parts)


def describe_checkpoint(checkpoint: Checkpoint, matched: NetworkState) -> dict[str, object]:
    """Describe how a file was understood, for JSON."""
    averages = [key for key in checkpoint.beside if key.rpartition(".")[2] in AVERAGE_KEYS]
    facts: dict[str, object] = {"nesting": checkpoint.nesting, "prefix": matched.prefix}
    if averages or matched.left_out:
        facts["averaged"] = "the file also has a moving average of the weights, which is not used"
    elif not {*checkpoint.nesting.split("."), *matched.prefix.split(".")}.isdisjoint(AVERAGE_KEYS):
        facts["averaged"] = "the weights are a moving average: the file has no others"
    if matched.pretraining:
        facts["left_out"] = list_parts(matched.pretraining)
    others = [key for key in checkpoint.beside if key not in averages]
    if others:
        facts["not_taken"] = others
    return facts


# ---------------------------------------------------------------- self-supervised pre-training


class PublishedWeights(NamedTuple):
    """Weights that the authors of a method published: their address and their backbone."""

    address: str
    backbone: str


# Backbones without a head, pre-trained on ImageNet without its labels. None of them is shipped or
# used by default. The licence of the authors' code need not be that of their weights. That of
# Barlow Twins has changed over time (it was CC BY-NC 4.0). Check it before you use them.
PUBLISHED_WEIGHTS: Mapping[str, PublishedWeights] = {
    # github.com/facebookresearch/barlowtwins (Zbontar et al. 2021)
    "barlow_twins": PublishedWeights(
        "https://dl.fbaipublicfiles.com/barlowtwins/"
        "ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
        "torchvision:resnet50",
    ),
    # github.com/facebookresearch/vicreg (Bardes et al. 2022)
    "vicreg": PublishedWeights(
        "https://dl.fbaipublicfiles.com/vicreg/resnet50.pth", "torchvision:resnet50"
    ),
}

# The attributes for parts that only pre-training needs, in Barlow Twins, VICReg, SimSiam,
# SimCLR, SwAV, MoCo, solo-learn, lightly.
SSL_HEADS = {
    *("projector", "projection_head", "projection_mlp", "projection", "prototypes"),
    *("predictor", "prediction_head", "prediction_mlp", "online_classifier"),
    *("encoder_k", "queue", "queue_ptr"),
}
MOMENTUM = re.compile(r"^(momentum|target|teacher)_|_(momentum|target)$")
# Names that other parts have too: the norm of Barlow Twins' embedding, and the classifier that
# solo-learn also trains. They belong to pre-training only if one of its heads exists.
SSL_PARTS = {"bn", "classifier"}
NUMBERED_CHILD = re.compile(rf"^((?:(?:{'|'.join(sorted(WRAPPERS))})\.)*)(\d+)\.(.+)$")


def match_state(state: State, network: nn.Module, head: str | None) -> NetworkState:
    """Give a file's tensors the names of a network, without those that only pre-training needs.

    Projectors, predictors, momentum copies and queues are left out and named in the result. If they
    are outside the network, its head is a projector too and is left out. If they are parts of the
    network itself, its head is kept. Children by number, as in
    `Sequential(*list(network.children())[:-1])`, get their names.

    Args:
        state: the tensors of a file.
        network: the network whose names the tensors get.
        head: the name of its head, if it has one.

    >>> network = nn.Sequential()
    >>> network.add_module("conv", nn.Conv2d(3, 8, 3))
    >>> state = {f"module.backbone.{key}": value for key, value in network.state_dict().items()}
    >>> state["module.projector.0.weight"] = torch.ones(4, 8)
    >>> matched = match_state(state, network, None)
    >>> list(matched.state), matched.pretraining
    (['conv.weight', 'conv.bias'], ('module.projector.0.weight',))
    """
    names = set(network.state_dict())
    bare = {key.replace(COMPILED_PREFIX, ""): tensor for key, tensor in state.items()}
    numbered = name_children(bare, [name for name, _ in network.named_children()])
    more = find_common_prefix(numbered, names)[1] > find_common_prefix(bare, names)[1]
    if more and len(numbered) == len(bare):
        bare = numbered
    matched = match_names(bare, names)
    strangers = {
        key: _first_part(key).rpartition(".")[2] for key in matched.state if key not in names
    }
    pretraining = {
        key for key, part in strangers.items() if part in SSL_HEADS or MOMENTUM.search(part)
    }
    if not pretraining:
        return matched
    pretraining |= {key for key, part in strangers.items() if part in SSL_PARTS}
    beside = not all(key.startswith(matched.prefix) for key in pretraining)
    if head and beside:
        places = (f"{head}.", f"{matched.prefix}{head}.")
        pretraining |= {key for key in matched.state if key.startswith(places)}
    rest = {key: tensor for key, tensor in matched.state.items() if key not in pretraining}
    return matched._replace(
        state=rest, pretraining=tuple(key for key in matched.state if key in pretraining)
    )


def name_children(state: State, children: Collection[str]) -> State:
    """Replace the numbers of child modules by their names.

    >>> list(name_children({"backbone.1.weight": torch.ones(1)}, ["conv1", "bn1"]))
    ['backbone.bn1.weight']
    """
    places = {str(place): name for place, name in enumerate(children)}
    renamed = {}
    for key, tensor in state.items():
        match = NUMBERED_CHILD.match(key)
        if match and match[2] in places:
            renamed[f"{match[1]}{places[match[2]]}.{match[3]}"] = tensor
        else:
            renamed[key] = tensor
    return renamed


# ---------------------------------------------------------------- interpolation


def interpolate(
    start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Mix two state dicts of one network: `(1 - share) * start + share * end`.

    A mixture of a pre-trained network and its fine-tuned version is often more robust than both.
    The running statistics of batch norm are mixed like weights. Whole numbers, such as its
    counters, are those of `end` unless the share is 0.

    Args:
        start, end: with the same names and shapes; the result has the types and devices of `end`.
        share: of `end`, in [0, 1]; 0 gives `start` and 1 gives `end`, bit for bit.

    Raises:
        InputError: a share outside [0, 1], or names or shapes that differ.

    Source: Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models, equation 1.

    >>> start, end = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 4.0])}
    >>> interpolate(start, end, 0.25)
    {'w': tensor([0.2500, 2.5000])}
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share of an interpolation must be in [0, 1], found {share}")
    _check_same_network(start, end)
    return {name: _interpolate_tensor(start[name], tensor, share) for name, tensor in end.items()}


def _interpolate_tensor(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    start, end = start.detach().to(end.device, end.dtype), end.detach()
    # The ends are copied, not computed: 0 times infinity is not a number.
    if share == 0:
        return start.clone()
    if share == 1 or not end.is_floating_point():
        return end.clone()
    return torch.lerp(start, end, share)  # equal ends give the same bits


def _check_same_network(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor]) -> None:
    if lone := sorted(start.keys() ^ end.keys()):
        raise InputError(
            f"weights can only be mixed with weights of the same network, but {len(lone)} tensors "
            f"are only on one side, such as {lone[0]}"
        )
    for name, tensor in end.items():
        if start[name].shape != tensor.shape:
            shapes = f"{list(start[name].shape)} and {list(tensor.shape)}"
            raise InputError(
                f"weights can only be mixed if their shapes are equal, but {name} has {shapes}"
            )

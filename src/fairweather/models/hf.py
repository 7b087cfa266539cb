"""Image classifiers of Hugging Face transformers, from a hub or a folder, without their code."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fairweather.download import files_digest
from fairweather.errors import InputError, first_line, first_names, missing_extra
from fairweather.models.classifier import Classifier
from fairweather.models.hf_processor import read_processor
from fairweather.models.hf_vetting import TIMM, vetted
from fairweather.models.source import Opened, Source, folder_name
from fairweather.record import DESCRIPTION
from fairweather.types import Preparation, class_names

Find = Callable[[str], Path | None]
# Of transformers, which is an extra: PreTrainedModel and its configuration.
Network = Any
Config = Any

# In the order in which transformers looks for them.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


class Logits(nn.Module):
    """A classifier of transformers that returns only its logits, `[B, outputs]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of normalised images."""
        return self.network(pixel_values=images).logits


def open_hf(repo: str, *, offline: bool = False) -> Opened:
    """Open an image classifier of transformers with the settings of its image processor.

    Loading never executes code: files of code in the repository are ignored, and weights are read
    from safetensors or, if there are none, from a weights-only PyTorch file. Nothing is read that
    lies elsewhere. Everything is computed in float32.

    Args:
        repo: a folder that `save_pretrained` wrote, or `OWNER/NAME` on the hub.
        offline: take a model of the hub only from the local cache.

    Raises:
        InputError: there is no such model; a weight is missing (such as the head), not used or of
            another shape; it is not a classifier; or its preprocessing is not supported.

    >>> open_hf("./nowhere")
    Traceback (most recent call last):
    fairweather.errors.InputError: hf:./nowhere: there is no such folder, and no such name on a hub
    """
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers", "hf", "Hugging Face models") from None
    folder = Path(repo).expanduser()
    find: Find = _in_folder(folder) if folder.is_dir() else _on_hub(repo, offline)
    config_file = find("config.json")
    if config_file is None:
        raise InputError(f"hf:{repo} is not a model: there is no config.json")
    weights = _weights(repo, find)
    settings = next((path for name in PROCESSORS if (path := find(name))), None)
    with (
        _quietly(transformers.utils.logging),
        torch.random.fork_rng(devices=[]),
        vetted(transformers, repo, config_file, settings, weights) as place,
    ):
        network = _load_network(transformers, repo, place, weights)
        classes = _classes(repo, network.config)
        if settings is None and network.config.model_type != TIMM:
            raise InputError(
                f"hf:{repo} does not describe its preprocessing: add its preprocessor_config.json, "
                "or load it with python:FILE.py:FUNCTION"
            )
        with _explained(f"the image processor of hf:{repo} cannot be loaded"):
            processor = transformers.AutoImageProcessor.from_pretrained(  # nosec B615 # local
                str(place), local_files_only=True, trust_remote_code=False
            )
        with _explained(f"the image processor of hf:{repo} cannot be used"):
            statistics, preparation, origin, _ = read_processor(processor)
    model = Classifier(Logits(network), *statistics, _size(network, preparation))
    files = [config_file, *([settings] if settings else []), *weights]
    facts = {
        "source": f"hf:{repo}",
        "architecture": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "outputs": network.config.num_labels,
        "revision": None if folder.is_dir() else config_file.parent.name,
        "weights": [path.name for path in weights],
        "processor": type(processor).__name__,
        "normalisation": {**statistics._asdict(), "from": origin},
        "preparation": preparation and {**preparation._asdict(), "from": origin},
    }
    name = folder_name(folder.resolve().name if folder.is_dir() else repo.rpartition("/")[2])
    return Opened(model.eval(), name, files_digest(files), classes, preparation, facts)


def _in_folder(folder: Path) -> Find:
    own = folder.resolve()
    blobs = own.parent.parent / "blobs"  # where the cache of a hub has what is linked in snapshots

    def find(name: str) -> Path | None:
        path = folder / name
        file = path.resolve()
        if path.is_file() and not file.is_relative_to(own) and file.parent != blobs:
            raise InputError(f"hf:{folder}: {name} is a link that leads out of the folder")
        return path if path.is_file() else None

    return find


def _on_hub(repo: str, offline: bool) -> Find:
    """Find files of one revision: the one that is current when the first file is asked for."""
    import huggingface_hub
    from huggingface_hub import errors

    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", repo):
        raise InputError(f"hf:{repo}: there is no such folder, and no such name on a hub")
    revision: list[str] = []

    def find(name: str) -> Path | None:
        commit = revision[0] if revision else None
        try:
            path = huggingface_hub.hf_hub_download(
                repo, name, revision=commit, local_files_only=offline
            )
        except errors.EntryNotFoundError as error:
            absent = not isinstance(error, errors.LocalEntryNotFoundError)
            if absent or (offline and commit):
                return None
            raise _unreachable(repo, offline, error) from error
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            raise _unreachable(repo, offline, error) from error
        revision[:] = [Path(path).parent.name]
        return Path(path)

    return find


def _unreachable(repo: str, offline: bool, error: Exception) -> InputError:
    from huggingface_hub import errors

    if offline:
        return InputError(
            f"offline, and hf:{repo} is not in the local cache: allow downloads once, or give a "
            "folder that save_pretrained wrote"
        )
    reason = first_line(error)
    if isinstance(error, errors.LocalEntryNotFoundError):
        reason = "the hub cannot be reached"
    if isinstance(error, errors.RepositoryNotFoundError):
        reason = "the hub has no such model, or none that you may read"
    return InputError(
        f"hf:{repo} could not be fetched ({reason}): check the name and the connection, or give a "
        "folder that save_pretrained wrote"
    )


def _weights(repo: str, find: Find) -> list[Path]:
    for name in WEIGHTS:
        if (single := find(name)) is not None:
            return [single]
        if (index := find(f"{name}.index.json")) is not None:
            shards = [find(shard) for shard in _shards(repo, index, Path(name).suffix)]
            if None in shards:
                raise InputError(f"hf:{repo}: {index.name} names files that are not there")
            return [index, *[shard for shard in shards if shard]]
    raise InputError(
        f"hf:{repo} has no weights that can be loaded without executing code: expected one of "
        f"{', '.join(WEIGHTS)}; save_pretrained writes the first"
    )


def _shards(repo: str, index: Path, suffix: str) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        others = [name for name in names if Path(name).name != name or Path(name).suffix != suffix]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"hf:{repo}: {index.name} is damaged ({first_line(error)})") from error
    if others:
        raise InputError(
            f"hf:{repo}: {index.name} names {others[0]!r}, which is not the name of a {suffix} "
            "file in the same folder"
        )
    return names


def _load_network(transformers: ModuleType, repo: str, place: Path, weights: list[Path]) -> Network:
    with _explained(f"hf:{repo} cannot be loaded without executing code"):
        network, found = transformers.AutoModelForImageClassification.from_pretrained(  # nosec B615 # local
            str(place),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=".safetensors" in weights[0].name,
            weights_only=True,
            ignore_mismatched_sizes=True,  # they are listed, and refused below
            output_loading_info=True,
        )
    misfits = {
        "missing": [k for k in found["missing_keys"] if not k.endswith("num_batches_tracked")],
        "unexpected": found["unexpected_keys"],
        "of another shape": [key for key, *_ in found["mismatched_keys"]],
    }
    if any(misfits.values()):
        listed = "; ".join(
            f"{what} {first_names(sorted(keys))}" for what, keys in misfits.items() if keys
        )
        raise InputError(f"the weights of hf:{repo} do not fit {type(network).__name__}: {listed}")
    return network.float()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say in a sentence what failed: settings and damaged files raise any error in the library."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} ({first_line(error)})") from error


def _classes(repo: str, config: Config) -> tuple[str, ...] | None:
    kind = config.problem_type
    if kind not in (None, "single_label_classification") or config.num_labels < 2:
        found = f"{kind or 'a model'} with {config.num_labels} outputs"
        raise InputError(f"hf:{repo} is not a classifier of two or more classes: it is {found}")
    if set(config.id2label) != set(range(config.num_labels)):
        raise InputError(f"hf:{repo}: id2label must name the outputs 0 to {config.num_labels - 1}")
    written = [config.id2label[number] for number in range(config.num_labels)]
    names = class_names(written, f"hf:{repo}")
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    return names


def _size(network: Network, preparation: Preparation | None) -> int | None:
    """Give the fixed size of the network, if it has one."""
    configured = getattr(network.config, "image_size", None)
    timm = getattr(network.config, "pretrained_cfg", None) or {}
    if configured is None and not timm.get("fixed_input_size"):
        return None
    if preparation is not None:
        return preparation.size
    return configured if isinstance(configured, int) else None


@contextmanager
def _quietly(logging: ModuleType) -> Iterator[None]:
    """Stop transformers from printing and warning; its settings are restored afterwards."""
    hub = logging.hf_hub_utils  # whose bars transformers switches with its own
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
            (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()


def _guess(text: str) -> str | None:
    config, of_run = (Path(text).expanduser() / name for name in ("config.json", DESCRIPTION))
    return f"hf:{text}" if config.is_file() and not of_run.is_file() else None


HF = Source(
    "hf:REPO",
    "a classifier of Hugging Face transformers, from the hub or a folder",
    open_hf,
    settings=("offline",),
    guess=_guess,
)

"""Image classifiers of Hugging Face transformers, from a hub or a folder, without their code."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from fairweather.data.pixels import Square, decode_image
from fairweather.errors import InputError, first_line, missing_extra
from fairweather.files.download import combined_digest
from fairweather.files.folders import read_facts
from fairweather.models.backbones import find_library
from fairweather.models.building import describe_misfits
from fairweather.models.outputs import SingleOutputError
from fairweather.models.preprocessing import (
    Normalisation,
    Preprocessing,
    describe_normalisation,
    describe_preparation,
    read_timm,
)
from fairweather.models.sources import OpenedModel, Setup, SourceKind, folder_name
from fairweather.models.wrappers import Classifier
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import parse_class_names
from fairweather.types.options import ModelOptions, Preparation
from fairweather.types.record import DESCRIPTION

# ---------------------------------------------------------------- settings that are read

TIMM_WRAPPER = "timm_wrapper"  # the type of models that timm builds, whose own files do not name it
_SETTINGS: Mapping[str, list[str]] = read_facts("fairweather.models", "hf_settings")
# The settings of timm's classifiers and their preprocessing. Weights come from nowhere else.
TIMM_KEYS, PREPROCESSING_KEYS = _SETTINGS["timm"], _SETTINGS["preprocessing"]
# Allowed arguments of `timm.create_model`: sizes, kinds and rates of layers. Others, such as
# `checkpoint_path`, open files.
MODEL_ARGUMENTS = frozenset(_SETTINGS["model_arguments"])
# Settings of transformers that read other files, other repositories, or code of other packages.
REFERENCES = _SETTINGS["references"]
# These change no number: which code computes it, and the repository's earlier place.
IGNORED_KEYS = _SETTINGS["ignored"]
CLASS_NAMES = ("id2label", "label2id")


@contextmanager
def vet_repository(
    transformers: ModuleType,
    repo: str,
    config: Path,
    settings: Path | None,
    weights: Sequence[Path],
) -> Iterator[Path]:
    """Yield a temporary folder with only vetted settings and the weights.

    Args:
        transformers: the package.
        repo: name of the repository, for messages.
        config: its configuration.
        settings: of its image processor, if these have their own file.
        weights: files of weights, and their index.

    Raises:
        InputError: the settings are damaged, or refer to something outside.
    """
    with tempfile.TemporaryDirectory(prefix="fairweather-") as name:
        place = Path(name)
        contents = {config.name: _check_config(transformers, repo, _read_settings(repo, config))}
        if settings is not None:
            contents[settings.name] = _read_settings(repo, settings)
        for file_name, content in contents.items():
            (place / file_name).write_text(json.dumps(content), encoding="utf-8")
        for file in weights:
            try:
                (place / file.name).symlink_to(file.resolve())
            except OSError:  # Windows requires a privilege
                shutil.copyfile(file, place / file.name)
        yield place


def _read_settings(repo: str, path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is not a mapping")
        return _check_mapping(repo, path.name, settings)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"hf:{repo} cannot be loaded: {path.name} is damaged ({error})") from None


def _check_mapping(repo: str, file: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Drop ignored settings; raises `InputError` for settings that refer to something outside."""
    used = {key: value for key, value in settings.items() if key not in IGNORED_KEYS}
    return {key: _check_value(repo, file, key, value) for key, value in used.items()}


def _check_value(repo: str, file: str, key: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    if key in REFERENCES and value:
        raise InputError(
            f"hf:{repo}: {key} of its {file} leads out of the repository, or to code: load the "
            "model with python:FILE.py:FUNCTION"
        )
    if isinstance(value, dict) and key not in CLASS_NAMES:
        return _check_mapping(repo, file, value)
    if isinstance(value, list):
        return [_check_value(repo, file, "", item) for item in value]
    return value


def _check_config(transformers: ModuleType, repo: str, settings: dict[str, Any]) -> dict[str, Any]:
    timm_config = settings.get("pretrained_cfg")
    if isinstance(timm_config, dict):
        settings = {"model_type": TIMM_WRAPPER, **settings}
    kind, auto = settings.get("model_type"), transformers.models.auto.modeling_auto
    if kind not in list(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES):
        raise InputError(
            f"hf:{repo} is not an image classifier that transformers knows (type {kind!r:.60})"
        )
    if kind != TIMM_WRAPPER:
        return settings
    find_library(f"timm:{settings.get('architecture')}")  # refuses addresses
    arguments = settings.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise InputError(f"hf:{repo}: model_args of its config.json is not a mapping")
    if unknown := sorted(set(arguments) - MODEL_ARGUMENTS):
        raise InputError(
            f"hf:{repo}: model_args of its config.json has {', '.join(unknown)}, and only sizes, "
            "kinds and rates of layers are given to timm: load the model with "
            "python:FILE.py:FUNCTION"
        )
    known = {key: settings[key] for key in TIMM_KEYS if key in settings}
    prepared = timm_config if isinstance(timm_config, dict) else {}
    prepared = {key: prepared[key] for key in PREPROCESSING_KEYS if key in prepared}
    return {**known, "model_args": arguments, "pretrained_cfg": prepared}


# ---------------------------------------------------------------- image processors

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Processor = Any  # transformers.BaseImageProcessor, of an extra
Channels = tuple[float, float, float]

# The supported steps; do_convert_rgb and do_reduce_labels change no RGB image.
KNOWN_STEPS = frozenset(_SETTINGS["steps"])
RESAMPLE_FILTERS = {int(Image.Resampling[name.upper()]): name for name in get_args(Filter)}
# From this size on, ConvNextImageProcessor resizes to a square and does not crop.
CONVNEXT_SQUASHES_FROM = 384
# LevitImageProcessor resizes the shorter side to this many times its size.
LEVIT_MARGIN = 256 / 224
PROCESSOR_ORIGIN = "its image processor"


def read_processor(processor: Processor) -> Preprocessing:
    """Read an image processor of transformers, and check the result against the processor itself.

    Raises `InputError` with the name of any step other than resizing, center cropping, dividing by
    255 and normalising.
    """
    kind = type(processor).__name__
    if kind.startswith("TimmWrapper"):
        processing = _read_timm(processor.data_config)
    else:
        settings = processor.to_dict()
        normalisation = _read_normalisation(kind, settings)
        preparation = _read_preparation(kind, settings)
        processing = Preprocessing(normalisation, preparation, PROCESSOR_ORIGIN)
    prepared = processing.preparation
    if prepared is not None and (prepared.resize or prepared.size) < prepared.size:
        raise _unsupported_error(kind, f"resized to {prepared.resize}, padded to {prepared.size}")
    _check_processor(processor, processing)
    return processing


def _read_timm(config: Mapping[str, Any]) -> Preprocessing:
    from timm.models import PretrainedCfg  # takes a second to import

    keys = ("input_size", "crop_mode", "crop_pct", "interpolation", "mean", "std")
    configuration = PretrainedCfg(**{key: config[key] for key in keys if key in config})
    published = read_timm(configuration, "the repository")
    if published.preparation is None or published.remark:
        raise _unsupported_error("timm's transform", published.remark)
    _read_filter("timm", published.preparation.interpolation)
    return published._replace(origin=PROCESSOR_ORIGIN)


def _read_preparation(kind: str, settings: Mapping[str, Any]) -> Preparation | None:
    extra = [key for key in settings if key.startswith("do_") and settings[key]]
    if unknown := sorted(set(extra) - KNOWN_STEPS):
        raise _unsupported_error(kind, ", ".join(unknown))
    crop = _read_square(kind, "crop_size", settings) if settings.get("do_center_crop") else None
    if not settings.get("do_resize"):
        if crop is not None:
            raise _unsupported_error(kind, "do_center_crop without do_resize")
        return None
    interpolation = _read_filter(kind, settings.get("resample"))
    edge = dict(settings["size"]).get("shortest_edge")
    if edge is None:
        side = _read_square(kind, "size", settings)
        return Preparation(crop or side, side, interpolation, "squash")
    if kind.startswith("ConvNext"):
        if edge >= CONVNEXT_SQUASHES_FROM:
            return Preparation(crop or edge, edge, interpolation, "squash")
        return Preparation(crop or edge, int(edge / settings["crop_pct"]), interpolation)
    if crop is None:
        raise _unsupported_error(kind, "size.shortest_edge without do_center_crop: oblong images")
    if kind.startswith("PoolFormer"):
        edge = int(edge / settings["crop_pct"])
    if kind.startswith("Levit"):
        edge = int(LEVIT_MARGIN * edge)
    return Preparation(crop, edge, interpolation)


def _read_normalisation(kind: str, settings: Mapping[str, Any]) -> Normalisation:
    factor = settings.get("rescale_factor")
    if not settings.get("do_rescale") or factor is None or abs(factor * 255 - 1) > 1e-6:
        rescaling = f"do_rescale {settings.get('do_rescale')} with rescale_factor {factor}"
        raise _unsupported_error(kind, f"{rescaling}, not 1/255")
    if settings.get("rescale_offset"):
        raise _unsupported_error(kind, "rescale_offset")
    normalised = bool(settings.get("do_normalize"))
    mean = _read_channels(settings["image_mean"] if normalised else 0.0)
    std = _read_channels(settings["image_std"] if normalised else 1.0)
    if settings.get("include_top"):  # EfficientNetImageProcessor divides by std a second time
        std = _read_channels(np.multiply(std, _read_channels(settings["image_std"])))
    return Normalisation(mean, std)


def _read_filter(kind: str, resample: object) -> Filter:
    if resample in RESAMPLE_FILTERS.values():
        return cast("Filter", resample)
    if not isinstance(resample, int) or int(resample) not in RESAMPLE_FILTERS:
        raise _unsupported_error(kind, f"the filter {resample!r} of its resizing")
    return RESAMPLE_FILTERS[int(resample)]


def _read_square(kind: str, key: str, settings: Mapping[str, Any]) -> int:
    value = settings[key]
    sides = value if isinstance(value, Mapping) else dict.fromkeys(("height", "width"), value)
    known = {name: side for name, side in sides.items() if side is not None}
    if set(known.values()) != {known.get("height"), known.get("width")} or len(known) != 2:
        raise _unsupported_error(kind, f"{key} {known}")
    if known["height"] != known["width"]:
        raise _unsupported_error(
            kind, f"{key} {known['height']}x{known['width']}, which is not a square"
        )
    return int(known["height"])


def _read_channels(values: npt.ArrayLike) -> Channels:
    red, green, blue = np.broadcast_to(np.asarray(values, dtype=float), 3).tolist()
    return red, green, blue


def _unsupported_error(kind: str, detail: str) -> InputError:
    return InputError(
        f"the preprocessing of {kind} is not supported ({detail}): change "
        "preprocessor_config.json, or load the model with python:FILE.py:FUNCTION"
    )


def _check_processor(processor: Processor, processing: Preprocessing) -> None:
    """Compare with the processor on a picture so smooth that filters hardly matter."""
    prepared, square, side = processing.preparation, None, 64
    if prepared is not None:
        side = prepared.size
        square = Square(side, prepared.resize or side, "bicubic", prepared.fit)
    blobs = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    short = square.resize if square else side
    picture = Image.fromarray(blobs).resize((short * 4 // 3, short), Image.Resampling.BICUBIC)
    values = processor(picture, return_tensors="pt").get("pixel_values")
    pixels = torch.from_numpy(decode_image(picture, square))[None] / 255
    mean, std = (torch.tensor(row).reshape(1, 3, 1, 1) for row in processing.statistics)
    if values is None or values.shape != pixels.shape:
        misfit = "no pixel_values" if values is None else f"images {list(values.shape)}"
        raise _unsupported_error(type(processor).__name__, misfit)
    difference = float((values * std + mean - pixels).abs().mean())
    # Where a margin is odd, libraries crop one pixel apart; of `side` pixels, a blob has a fourth.
    if not difference <= 0.01 + 2 / side:
        misfit = f"its own pixels differ by {difference:.2f} of [0, 1] from what its settings say"
        raise _unsupported_error(type(processor).__name__, misfit)


# ---------------------------------------------------------------- models

FileFinder = Callable[[str], Path | None]
# Of transformers, which is an extra: PreTrainedModel and its configuration.
Network = Any
Config = Any

# In the order in which transformers looks for them.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class LogitsOnly(nn.Module):
    """A classifier of transformers that returns only its logits, `[B, outputs]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of normalised images."""
        return self.network(pixel_values=images).logits


def open_hf(place: str, options: ModelOptions, settings: Setup) -> OpenedModel:
    """Open an image classifier of transformers with the settings of its image processor.

    Loading never executes code. Code in the repository is ignored, and weights come from
    safetensors or, without these, from a weights-only PyTorch file. Nothing outside is read.
    Everything is computed in float32.

    Args:
        place: a folder that `save_pretrained` wrote, or `OWNER/NAME` on the hub.
        settings: offline, a model of the hub is taken only from the local cache; its `problem_type`
            must be what the model predicts.

    Raises:
        InputError: there is no such model; a weight is missing (such as the head), unused or of
            another shape; it is not a classifier; or its preprocessing is unsupported.
    """
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers", "hf", "Hugging Face models") from None
    repo, folder = place, Path(place).expanduser()
    is_folder = folder.is_dir()
    find = _find_in_folder(folder) if is_folder else _find_on_hub(repo, settings.offline)
    config_file = find("config.json")
    if config_file is None:
        raise InputError(f"hf:{repo} is not a model: there is no config.json")
    weights = _find_weights(repo, find)
    processor_file = next((path for name in PROCESSOR_FILES if (path := find(name))), None)
    with (
        _silence(transformers.utils.logging),
        torch.random.fork_rng(devices=[]),
        vet_repository(transformers, repo, config_file, processor_file, weights) as vetted,
    ):
        network = _load_network(transformers, repo, vetted, weights)
        classes = _read_classes(repo, network.config, settings.predicts)
        if processor_file is None and network.config.model_type != TIMM_WRAPPER:
            raise InputError(
                f"hf:{repo} does not describe its preprocessing: add its preprocessor_config.json, "
                "or load it with python:FILE.py:FUNCTION"
            )
        with _explain_errors(f"the image processor of hf:{repo} cannot be loaded"):
            processor = transformers.AutoImageProcessor.from_pretrained(  # nosec B615 # local
                str(vetted), local_files_only=True, trust_remote_code=False
            )
        with _explain_errors(f"the image processor of hf:{repo} cannot be used"):
            statistics, preparation, origin, _ = read_processor(processor)
    model = Classifier(LogitsOnly(network), *statistics, _fixed_size(network, preparation))
    files = [config_file, *([processor_file] if processor_file else []), *weights]
    facts = {
        "source": f"hf:{repo}",
        "architecture": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "outputs": network.config.num_labels,
        "revision": None if is_folder else config_file.parent.name,
        "weights": [path.name for path in weights],
        "processor": type(processor).__name__,
        "normalisation": describe_normalisation(statistics, origin),
        "preparation": preparation and describe_preparation(preparation, origin),
    }
    name = folder_name(folder.resolve().name if is_folder else repo.rpartition("/")[2])
    return OpenedModel(model.eval(), name, combined_digest(files), classes, preparation, facts)


def _find_in_folder(folder: Path) -> FileFinder:
    home = folder.resolve()
    blobs = home.parent.parent / "blobs"  # the hub's cache links snapshots to files here

    def find(name: str) -> Path | None:
        path = folder / name
        file = path.resolve()
        if path.is_file() and not file.is_relative_to(home) and file.parent != blobs:
            raise InputError(f"hf:{folder}: {name} is a link that leads out of the folder")
        return path if path.is_file() else None

    return find


def _find_on_hub(repo: str, offline: bool) -> FileFinder:
    """Find files of one revision, which is current when the first file is requested."""
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
            raise _hub_error(repo, offline, error) from error
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            raise _hub_error(repo, offline, error) from error
        revision[:] = [Path(path).parent.name]
        return Path(path)

    return find


def _hub_error(repo: str, offline: bool, error: Exception) -> InputError:
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


def _find_weights(repo: str, find: FileFinder) -> list[Path]:
    for name in WEIGHTS_FILES:
        if (single := find(name)) is not None:
            return [single]
        if (index := find(f"{name}.index.json")) is not None:
            shards = [find(shard) for shard in _read_shards(repo, index, Path(name).suffix)]
            if None in shards:
                raise InputError(f"hf:{repo}: {index.name} names files that are not there")
            return [index, *[shard for shard in shards if shard]]
    raise InputError(
        f"hf:{repo} has no weights that can be loaded without executing code: expected one of "
        f"{', '.join(WEIGHTS_FILES)}; save_pretrained writes the first"
    )


def _read_shards(repo: str, index: Path, suffix: str) -> list[str]:
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
    with _explain_errors(f"hf:{repo} cannot be loaded without executing code"):
        network, info = transformers.AutoModelForImageClassification.from_pretrained(  # nosec B615 # local
            str(place),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=".safetensors" in weights[0].name,
            weights_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, in one sentence
            output_loading_info=True,
        )
    # Some versions give the name alone, others with both shapes.
    other = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    misfits = {
        "missing": [k for k in info["missing_keys"] if not k.endswith("num_batches_tracked")],
        "unexpected": info["unexpected_keys"],
        "of another shape": other,
    }
    if any(misfits.values()):
        listed = describe_misfits({kind: sorted(keys) for kind, keys in misfits.items()})
        raise InputError(f"the weights of hf:{repo} do not fit {type(network).__name__}: {listed}")
    return network.float()


@contextmanager
def _explain_errors(problem: str) -> Iterator[None]:
    """Turn errors into one sentence: settings and damaged files raise any error in the library."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{problem} ({first_line(error)})") from error


def _read_classes(repo: str, config: Config, predicts: TaskKind) -> tuple[str, ...] | None:
    kind, wanted, least, words = (
        *(config.problem_type, "single_label_classification", 2),
        "a classifier of two or more classes",
    )
    if predicts == CLASSES and config.num_labels == 1 and kind != "regression":
        raise SingleOutputError(f"hf:{repo}")
    if predicts == FINDINGS:
        wanted, least, words = "multi_label_classification", 1, "a model of several findings"
    if kind not in (None, wanted) or config.num_labels < least:
        actual = f"{kind or 'a model'} with {config.num_labels} outputs"
        raise InputError(f"hf:{repo} is not {words}: it is {actual}")
    if set(config.id2label) != set(range(config.num_labels)):
        raise InputError(f"hf:{repo}: id2label must name the outputs 0 to {config.num_labels - 1}")
    written = [config.id2label[number] for number in range(config.num_labels)]
    names = parse_class_names(written, f"hf:{repo}")
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    return names


def _fixed_size(network: Network, preparation: Preparation | None) -> int | None:
    """Give the fixed size of the network, if it has one."""
    configured = getattr(network.config, "image_size", None)
    timm = getattr(network.config, "pretrained_cfg", None) or {}
    if configured is None and not timm.get("fixed_input_size"):
        return None
    if preparation is not None:
        return preparation.size
    return configured if isinstance(configured, int) else None


@contextmanager
def _silence(logging: ModuleType) -> Iterator[None]:
    """Stop transformers from printing and warning; its settings are restored afterwards."""
    hub = logging.hf_hub_utils  # transformers switches its bars too
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


def _guess_hf(text: str) -> str | None:
    config, of_run = (Path(text).expanduser() / name for name in ("config.json", DESCRIPTION))
    return f"hf:{text}" if config.is_file() and not of_run.is_file() else None


HF = SourceKind(
    "hf:REPO",
    "a classifier of Hugging Face transformers, from the hub or a folder",
    open_hf,
    guess=_guess_hf,
)

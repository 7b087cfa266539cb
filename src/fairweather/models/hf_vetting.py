"""What of a Hugging Face repository transformers and timm see: no code, no path and no address."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from fairweather.errors import InputError

TIMM = "timm_wrapper"  # the type of models that timm builds, whose own files do not name it
# What timm's classifiers and their preprocessing are made of. Weights are read from no other place.
TIMM_KEYS = (
    "architecture",
    "do_pooling",
    "id2label",
    "initializer_range",
    "label2id",
    "label_names",
    "model_type",
    "num_classes",
    "num_labels",
    "problem_type",
)
PREPROCESSING_KEYS = (
    "crop_mode",
    "crop_pct",
    "fixed_input_size",
    "input_size",
    "interpolation",
    "mean",
    "std",
)
# Of `timm.create_model`: sizes, kinds and rates of layers. Others open files, as `checkpoint_path`.
_ARGUMENTS = """
act_layer attn_drop_rate avg_down base_width cardinality channels class_token conv_mlp depth depths
dims drop_path_rate drop_rate dynamic_img_pad dynamic_img_size embed_dim fc_norm final_norm
global_pool img_size in_chans init_values kernel_sizes layers ls_init_value mlp_ratio no_embed_class
norm_eps norm_layer num_heads output_stride patch_drop_rate patch_size pos_drop_rate pos_embed
pre_norm proj_drop_rate qk_norm qkv_bias reg_tokens stem_type stem_width strict_img_size window_size
"""
MODEL_ARGUMENTS = frozenset(_ARGUMENTS.split())
# Settings of transformers that read other files, other repositories, or code of other packages.
ELSEWHERE = (
    "backbone",
    "class_info_file",
    "quantization_config",
    "repo_path",
    "transformers_weights",
    "use_pretrained_backbone",
    "use_timm_backbone",
)
# These change no number: which code computes it, and where the repository once was.
IGNORED = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
)
CLASS_NAMES = ("id2label", "label2id")


@contextmanager
def vetted(
    transformers: ModuleType,
    repo: str,
    config: Path,
    settings: Path | None,
    weights: Sequence[Path],
) -> Iterator[Path]:
    """Give a folder with nothing but vetted settings and the weights, while it is needed.

    Args:
        transformers: the package.
        repo: name of the repository, for messages.
        config: its configuration.
        settings: of its image processor, if they are in a file of their own.
        weights: files of weights, and their index.

    Raises:
        InputError: the settings are damaged, or name what is elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="fairweather-") as name:
        place = Path(name)
        known = _checked_config(transformers, repo, _read(repo, config))
        (place / config.name).write_text(json.dumps(known), encoding="utf-8")
        if settings is not None:
            (place / settings.name).write_text(json.dumps(_read(repo, settings)), encoding="utf-8")
        for file in weights:
            try:
                (place / file.name).symlink_to(file.resolve())
            except OSError:  # Windows asks for a privilege
                shutil.copyfile(file, place / file.name)
        yield place


def _read(repo: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a mapping")
        return {key: _checked(repo, path.name, key, each) for key, each in _kept(found)}
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"hf:{repo} cannot be loaded: {path.name} is damaged ({error})") from None


def _kept(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, each) for key, each in found.items() if key not in IGNORED]


def _checked(repo: str, file: str, key: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Give a value without what is ignored; raises `InputError` if it leads elsewhere."""
    if key in ELSEWHERE and value:
        raise InputError(
            f"hf:{repo}: {key} of its {file} leads out of the repository, or to code: load the "
            "model with python:FILE.py:FUNCTION"
        )
    if isinstance(value, dict) and key not in CLASS_NAMES:
        return {inner: _checked(repo, file, inner, each) for inner, each in _kept(value)}
    return [_checked(repo, file, "", each) for each in value] if isinstance(value, list) else value


def _checked_config(transformers: ModuleType, repo: str, found: dict[str, Any]) -> dict[str, Any]:
    given = found.get("pretrained_cfg")
    if isinstance(given, dict):
        found = {"model_type": TIMM, **found}
    kind = found.get("model_type")
    classifiers = (
        transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    )
    if kind not in list(classifiers):
        raise InputError(
            f"hf:{repo} is not an image classifier that transformers knows (type {kind!r:.60})"
        )
    if kind != TIMM:
        return found
    from fairweather.models.backbones import find_library

    find_library(f"timm:{found.get('architecture')}")  # no address, as `hf-hub:OWNER/NAME` is
    arguments = found.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise InputError(f"hf:{repo}: model_args of its config.json is not a mapping")
    if unknown := sorted(set(arguments) - MODEL_ARGUMENTS):
        raise InputError(
            f"hf:{repo}: model_args of its config.json has {', '.join(unknown)}, and only sizes, "
            "kinds and rates of layers are given to timm: load the model with "
            "python:FILE.py:FUNCTION"
        )
    known = {key: found[key] for key in TIMM_KEYS if key in found}
    prepared = given if isinstance(given, dict) else {}
    prepared = {key: prepared[key] for key in PREPROCESSING_KEYS if key in prepared}
    return {**known, "model_args": arguments, "pretrained_cfg": prepared}

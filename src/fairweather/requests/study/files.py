"""From a study file, or the name of a packaged study, and overrides to a checked study."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any

import pydantic

from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import parse_yaml, read_yaml
from fairweather.requests.study.schema import (
    PRETRAINING,
    DataEntry,
    ModelEntry,
    NetworkEntry,
    PretrainingEntry,
    Study,
)
from fairweather.training.recipe import (
    RECIPE_KEYS,
    Adversarial,
    AugMix,
    GaussianNoise,
    RandAugment,
    RandomErasing,
    Rotation,
)
from fairweather.training.selfsupervised.pretraining_recipe import (
    NAMED_VIEWS,
    PRETRAINING_KEYS,
    Views,
)

# Pydantic's names for an unknown key, of a model and of a dataclass.
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
# A pre-training takes only the keys of its network from `defaults`, and of those not these.
_UNSHARED_KEYS = ("title", "weights", "weights_sha256", "mean", "std")
_SHARED_KEYS = tuple(key for key in NetworkEntry.model_fields if key not in _UNSHARED_KEYS)
_NESTED_TYPES = {
    "rotation": Rotation,
    "augmix": AugMix,
    "rand_augment": RandAugment,
    "random_erasing": RandomErasing,
    "gaussian_noise": GaussianNoise,
    "adversarial": Adversarial,
    "views": Views,
    "data": DataEntry,
}


def load_study(study: str | Path, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Study:
    """Read a study by path, or a packaged one by name, apply overrides, and check it.

    Args:
        study: such as `quickstart` or `my/study.yaml`.
        overrides: such as `recipe.epochs=2` (a key of every model), `models.basic.weights=none`
            or `data.size=32`.
        only: names of models to keep.
    """
    raw = _read_study(study)
    for override in overrides:
        raw = _apply_override(raw, override)
    raw = _merge_defaults(raw)
    if only and isinstance(raw.get("models"), Mapping):
        for name in only:
            if name not in raw["models"]:
                raise unknown_name("model", name, raw["models"])
        raw["models"] = {name: raw["models"][name] for name in raw["models"] if name in only}
        raw = _drop_unused_pretrainings(raw)
    return check_study(raw)


def _drop_unused_pretrainings(raw: dict[str, Any]) -> dict[str, Any]:
    """Leave out the pre-trainings that no model starts from."""
    starts = raw.get("pretraining")
    if not isinstance(starts, Mapping):
        return raw
    entries = [entry for entry in raw["models"].values() if isinstance(entry, Mapping)]
    weights = [str(entry.get("weights")) for entry in entries]
    used = {each.removeprefix(PRETRAINING) for each in weights if each.startswith(PRETRAINING)}
    return raw | {"pretraining": {name: starts[name] for name in starts if name in used}}


def packaged_studies() -> dict[str, str]:
    """Give the texts of the studies in this package, by name."""
    folder = resources.files("fairweather") / "studies"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".yaml")
    }


def study_facts(text: str) -> dict[str, str]:
    """Read `time` and `hardware` from the header of a packaged study.

    >>> study_facts("# Digits.\\n#\\n# time       a minute\\n# hardware   2 cores\\nname: digits")
    {'time': 'a minute', 'hardware': '2 cores'}
    """
    return dict(re.findall(r"^# (time|hardware) +(.+)$", text, re.MULTILINE))


def check_study(raw: object) -> Study:
    """Check the content of a study file; raises `InputError` with the first mistake."""
    if not isinstance(raw, Mapping):
        raise InputError(f"a study must be a mapping of keys, found {type(raw).__name__}")
    try:
        # As JSON: strict mode then refuses text for a number, and still takes a mapping for a
        # recipe.
        return Study.model_validate_json(json.dumps(raw))
    except (TypeError, RecursionError):
        raise InputError("a study may contain only text, numbers, lists and mappings") from None
    except pydantic.ValidationError as error:
        raise _explain_error(error) from None


def _read_study(study: str | Path) -> dict[str, Any]:
    packaged = packaged_studies()
    path = Path(study)
    if path.is_file():
        raw = read_yaml(path)
    elif str(study) in packaged:
        raw = parse_yaml(packaged[str(study)], str(study))
    elif path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"there is no study file {study}")
    else:
        raise unknown_name("study", study, packaged)
    if not isinstance(raw, dict):
        raise InputError(f"{study} must be a mapping of keys, found {type(raw).__name__}")
    return raw


def _merge_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy({key: value for key, value in raw.items() if key != "defaults"})
    if isinstance(merged.get("data"), str):
        merged["data"] = {"source": merged["data"]}
    defaults = raw.get("defaults") or {}
    if not isinstance(defaults, Mapping):
        raise InputError(f"defaults must be a mapping of keys, found {defaults!r}")
    network = {key: value for key, value in defaults.items() if key in _SHARED_KEYS}
    for key, below in (("pretraining", network), ("models", defaults)):
        entries = merged.get(key)
        if isinstance(entries, Mapping):
            merged[key] = {
                str(name): _complete_entry(below, name, each) for name, each in entries.items()
            }
    return merged


def _complete_entry(below: Mapping[str, Any], name: object, entry: object) -> object:
    """Merge an entry with the defaults, which it overrides; its default title is its name."""
    if entry is not None and not isinstance(entry, Mapping):
        return entry
    merged = _merge_entries(below, {"title": str(name), **(entry or {})})
    if isinstance(merged.get("data"), str):
        merged["data"] = {"source": merged["data"]}
    recipe = merged.get("recipe")
    if isinstance(recipe, Mapping) and isinstance(views := recipe.get("views"), str):
        if views not in NAMED_VIEWS:
            raise unknown_name("views", views, NAMED_VIEWS)
        merged["recipe"] = {**recipe, "views": asdict(NAMED_VIEWS[views])}
    return merged


def _merge_entries(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings: `above` wins. `recipe` is merged key by key, other keys are replaced."""
    merged = {**deepcopy(dict(below)), **deepcopy(dict(above))}
    lower, upper = below.get("recipe"), above.get("recipe")
    if isinstance(lower, Mapping) and isinstance(upper, Mapping):
        merged["recipe"] = {**deepcopy(dict(lower)), **deepcopy(dict(upper))}
    return merged


def _apply_override(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set takes KEY=VALUE, such as recipe.epochs=2, found {override!r}")
    changed = deepcopy(dict(raw))
    if keys[0] in ModelEntry.model_fields and keys[0] not in Study.model_fields:
        sections = ["models", *(["pretraining"] if keys[0] in _SHARED_KEYS else [])]
        places = [
            [section, name, *keys]
            for section in sections
            if isinstance(changed.get(section), Mapping)
            for name in changed[section]
        ]
    elif keys[0] in Study.model_fields:
        places = [keys]
    else:
        raise unknown_name("key", keys[0], [*Study.model_fields, *ModelEntry.model_fields])
    if keys[0] == "data" and isinstance(changed.get("data"), str):
        changed["data"] = {"source": changed["data"]}
    for section, what in (("models", "model"), ("pretraining", "pre-training")):
        entries = changed.get(section)
        known = {str(name) for name in entries} if isinstance(entries, Mapping) else set()
        if keys[0] == section and len(keys) > 1 and keys[1] not in known:
            raise unknown_name(what, keys[1], known)
    for place in places:
        node = changed
        for key in place[:-1]:
            held = node.get(key)
            if key == "data" and isinstance(held, str):
                held = {"source": held}
            node[key] = dict(held) if isinstance(held, Mapping) else {}
            node = node[key]
        node[place[-1]] = parse_yaml(text, override)
    return changed


def _explain_error(error: pydantic.ValidationError) -> InputError:
    """Tell one of the errors: first an unknown key, which may be why another key is missing."""
    errors = error.errors()
    unknown = [each for each in errors if each["type"] in _UNKNOWN_KEY]
    first = (unknown or errors)[0]
    location = [str(part) for part in first["loc"]]
    place = ".".join(location)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return InputError(f"{place}: {inner}" if place else str(inner))
    if unknown:
        above = ".".join(location[:-1])
        sentence = str(unknown_name("key", location[-1], _allowed_keys(location)))
        return InputError(f"{above}: {sentence}" if above else sentence)
    if first["type"] == "json_invalid":  # nothing else is wrong with what Python has written
        return InputError("a study may contain only text in UTF-8")
    message = first["msg"][:1].lower() + first["msg"][1:]
    found = "" if first["type"] == "missing" else f", found {first['input']!r}"
    return InputError(f"{place}: {message}{found}")


def _allowed_keys(location: list[str]) -> list[str]:
    """The keys that are allowed where an unknown one was found."""
    parent = location[-2] if len(location) > 1 else ""
    before = location[0] == "pretraining"
    known = {
        "recipe": list(PRETRAINING_KEYS if before else RECIPE_KEYS),
        **{name: [field.name for field in fields(kind)] for name, kind in _NESTED_TYPES.items()},
        "": [*Study.model_fields, "defaults"],
    }
    entry = PretrainingEntry if before else ModelEntry
    return known.get(parent, list(entry.model_fields))

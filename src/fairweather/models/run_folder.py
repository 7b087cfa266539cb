"""A model that a run of this package trained, with what its folder says of it."""

from __future__ import annotations

import json
from pathlib import Path

from fairweather.download import file_digest
from fairweather.models.building import load_checkpoint
from fairweather.models.opened import Opened, folder_name
from fairweather.models.preprocessing import UNKNOWN
from fairweather.types import Preparation


def open_run(folder: Path) -> Opened:
    """Open the model in `FOLDER/models/NAME/seed-S` of a run.

    Its images are prepared at the size of those that the run was trained on, as stated in
    FOLDER/provenance.json, where that is there and says a square.

    Raises `InputError` when the folder is not that of a finished model.
    """
    folder = folder.expanduser()
    model = load_checkpoint(folder)
    written = json.loads((folder / "model.json").read_text())
    preparation, origin = _preparation(folder.resolve())
    facts = {
        "source": f"run:{folder}",
        "architecture": written["spec"]["backbone"],
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "normalisation": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "from": "the run",
        },
        "preparation": {**(preparation._asdict() if preparation else {}), "from": origin},
        "spec": written["spec"],
    }
    classes = written.get("classes")
    if isinstance(classes, list):
        facts["outputs"] = len(classes)
    names = tuple(str(name) for name in classes) if isinstance(classes, list) else None
    digest = file_digest(folder / "model.safetensors", "sha256")
    return Opened(model, _name(folder.resolve()), digest, names, preparation, facts)


def _name(folder: Path) -> str:
    seed = folder.name.startswith("seed-")
    return folder_name(f"{folder.parent.name}-{folder.name}" if seed else folder.name)


def _preparation(folder: Path) -> tuple[Preparation | None, str]:
    path = folder.parents[2] / "provenance.json" if len(folder.parents) > 2 else None
    if path is None or not path.is_file():
        return None, f"{UNKNOWN}: there is no provenance.json"
    try:
        notes = json.loads(path.read_text())["data"]["notes"]
        if "preparation" in notes:
            return Preparation(**notes["preparation"]), "the run's images"
        height, width = notes["size"]
    except (ValueError, KeyError, TypeError):
        return None, f"{UNKNOWN}: provenance.json states no size"
    if height != width:
        return None, f"the run's images, {height} x {width}"
    return Preparation(int(height)), "the run's images"

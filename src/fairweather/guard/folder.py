"""A guard as a folder of JSON and safetensors, which are data and nothing that is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydantic
import safetensors
import safetensors.torch
import torch

from fairweather.devices import resolve_device
from fairweather.errors import InputError, check_text
from fairweather.guard.answering import Guard, Seen
from fairweather.guard.facts import GuardRecord
from fairweather.guard.graph import Graph, GraphNetwork

RECORD, GRAPH = "guard.json", "graph.json"
WEIGHTS, REFERENCE = "weights.safetensors", "reference.safetensors"
CHECKSUMS = "checksums.json"
FILES = (RECORD, GRAPH, WEIGHTS, REFERENCE)
# What the operations of a foreign graph may raise.
FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
MOST_BYTES = 2**26  # of a JSON file; that of a network with 10,000 operations has 2 MB


def is_guard(path: Path) -> bool:
    """Say whether a folder is that of a guard."""
    return (path / RECORD).is_file() and not (path / RECORD).is_symlink()


def files_of(
    record: GuardRecord, graph: Graph, weights: Mapping[str, torch.Tensor], reference: Seen
) -> dict[str, bytes]:
    """The files of a guard by name, the one with the checksums of the others last."""
    known = {"logits": torch.from_numpy(reference.logits)}
    if reference.features is not None:
        known["features"] = torch.from_numpy(reference.features)
    files = {
        RECORD: json.dumps(record.model_dump(mode="json"), indent=1).encode() + b"\n",
        GRAPH: json.dumps(graph.as_json(), separators=(",", ":"), allow_nan=False).encode() + b"\n",
        WEIGHTS: safetensors.torch.save(
            {name: each.contiguous() for name, each in weights.items()}
        ),
        REFERENCE: safetensors.torch.save(known),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**files, CHECKSUMS: json.dumps(sums, indent=1).encode() + b"\n"}


def open_guard(folder: str | Path, *, device: str = "auto") -> Guard:
    """Open a guard that was saved; nothing in its folder is executed, and no link is followed.

    Raises:
        InputError: there is no guard, or a file is missing, damaged, changed or wrong.
    """
    path = Path(check_text(str(folder), "the guard")).expanduser()
    if not path.is_dir():
        raise InputError(f"there is no folder {path} with a guard")
    sums = _json(path / CHECKSUMS, _content(path, CHECKSUMS))
    content = dict[str, bytes]()
    for name in FILES:
        content[name] = _content(path, name)
        if sums.get(name) != hashlib.sha256(content[name]).hexdigest():
            raise InputError(
                f"{path / name} is damaged or was changed: its checksum is not that in {CHECKSUMS}"
            )
    record = _record(path / RECORD, content[RECORD])
    weights, reference = (_tensors(path / name, content[name]) for name in (WEIGHTS, REFERENCE))
    graph = Graph.from_json(_json(path / GRAPH, content[GRAPH]), weights, str(path / GRAPH))
    network = GraphNetwork(graph, weights, resolve_device(device))
    known = _seen(reference.get("logits"), reference.get("features"), record, path / REFERENCE)

    def see(images: torch.Tensor) -> Seen:
        try:
            logits, features = network(images.to(network.device).float() / 255)
        except FAILURES as error:
            reason = str(error).strip().partition("\n")[0] or "its numbers are too large"
            raise InputError(f"the network of {path} cannot look at images: {reason}") from None
        return _seen(logits, features, record, path / GRAPH)

    see(torch.zeros(1, 3, *record.size, dtype=torch.uint8))  # a wrong graph is found here
    return Guard(record, see, known)


def _content(folder: Path, name: str) -> bytes:
    """Read a file once: what is checked is what is used, and no later change of it matters."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{folder} holds no guard: {name} is {_instead(path)}")
    if name.endswith(".json") and path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES // 2**20} MB")
    return path.read_bytes()


def _instead(path: Path) -> str:
    return "a link" if path.is_symlink() else "no file" if path.exists() else "missing"


def _json(path: Path, content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a mapping, found {type(found).__name__}")
    return found


def _record(path: Path, content: bytes) -> GuardRecord:
    try:
        found = GuardRecord.model_validate(_json(path, content))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} is wrong at {where}: {first['msg']}") from None
    return found


def _tensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError):
        raise InputError(f"{path} is not a file of tensors") from None


def _seen(
    logits: torch.Tensor | None, features: torch.Tensor | None, record: GuardRecord, path: Path
) -> Seen:
    """Give logits and features as arrays; raises `InputError` if they are not what they must be."""
    for what, found in (("logits", logits), ("features", features)):
        if found is None and what == "features":
            continue
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or not found.is_floating_point():
            raise InputError(f"{path} gives {what} that are not float [B, N]")
    assert logits is not None, "this was an error above"
    if logits.shape[1] != len(record.classes):
        raise InputError(f"{path} gives {logits.shape[1]} logits for {len(record.classes)} classes")
    arrays = (
        None if each is None else np.asarray(each.float().cpu().numpy())
        for each in (logits, features)
    )
    return Seen(*arrays)  # type: ignore[arg-type]

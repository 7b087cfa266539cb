"""What trainings and pre-trainings leave in a run folder: weights, and states to go on from."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from fairweather.runs import fingerprint
from fairweather.study.context import Context

State = dict[str, Any]


def write_state(context: Context, folder: str, inputs: Mapping[str, Any], state: State) -> None:
    """Store what the next epoch needs, with the fingerprint of what it was made of."""
    buffer = io.BytesIO()
    torch.save({"inputs": fingerprint(inputs), "state": state}, buffer)
    context.run.write(f"{folder}/resume/state.pt", buffer.getvalue())


def read_state(context: Context, folder: str, inputs: Mapping[str, Any]) -> State | None:
    """Read the state that an interrupted training left, if it was this training."""
    path = context.run.file(f"{folder}/resume/state.pt")
    if not path.is_file():
        return None
    try:
        stored = torch.load(path, map_location=context.device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        return None
    return stored["state"] if stored["inputs"] == fingerprint(inputs) else None


def drop_state(context: Context, folder: str) -> None:
    """Remove what only an unfinished training needs."""
    shutil.rmtree(context.run.file(f"{folder}/resume"), ignore_errors=True)


def as_safetensors(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Write weights as safetensors, which stores plain memory; training leaves channels last."""
    return safetensors.torch.save({name: each.contiguous() for name, each in weights.items()})


def pretraining_folder(context: Context, name: str, seed: int) -> str:
    """Where a pre-training of the study lies in the run, for models of a seed."""
    own = context.study.pretraining[name].seed
    return f"pretraining/{name}/seed-{seed if own is None else own}"

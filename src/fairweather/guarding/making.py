"""Make a guard of a model of a finished run, and save it as a folder or for ONNX."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from fairweather.errors import InputError, check_writable
from fairweather.guard import Guard, GuardRecord, Promise, Seen, files_of
from fairweather.guarding.fitting import fit_promise, measure
from fairweather.guarding.tracing import to_onnx, trace
from fairweather.inference import outputs_of
from fairweather.metrics.two_sample import MOST_IMAGES
from fairweather.record import ModelRecord
from fairweather.reopened import Reopened, open_validation
from fairweather.runs import versions, write_atomically
from fairweather.tasks.classification import mean_log_probability
from fairweather.types import Images, Predictions

UNKNOWN = "unknown"


def make_guard(
    of: Reopened,
    promise: Promise,
    *,
    device: str = "auto",
    root: str | Path | None = None,
    offline: bool = False,
) -> Guard:
    """Make a guard of a model: fit the promise, measure what the run keeps of it.

    Args:
        of: the model.
        promise: what is promised.
        device: where the networks run.
        root: the folder with the files of the run's data set, if it is not where it was.
        offline: never use the network.

    Raises:
        InputError: the validation images do not support the promise.
    """
    fitted = fit_promise(of, promise)
    size = of.record.data.side
    if size is None:
        raise InputError(f"{of.run.path} does not say how large its images are")
    model = of.record.models[of.name]
    record = GuardRecord(
        model=of.name,
        title=of.title,
        run=of.record.name,
        seed=of.seed,
        architecture=_architecture(model),
        classes=of.classes,
        size=size,
        preparation=of.preparation,
        scale=of.scale,
        promise=promise,
        fit=fitted.fit,
        kept=tuple(measure(of, fitted, promise.weigh)),
        versions=versions(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )

    def see(images: torch.Tensor) -> Seen:
        nothing = torch.zeros(len(images), dtype=torch.int64)
        whole = Images(images, nothing, torch.arange(len(images)), of.classes)
        found = [outputs_of(network, whole, device=device) for network in of.networks]
        if len(found) == 1:
            return Seen(*found[0])
        return Seen(mean_log_probability(each.logits for each in found), None)

    try:
        images = open_validation(of, root=root, offline=offline)
    except (InputError, OSError):
        images = None  # then features are not compared; `Likeness` says so
    return Guard(record, see, _reference(fitted.chosen_on, images, see, of))


def _architecture(model: ModelRecord) -> str:
    named = model.settings.get("backbone") or model.facts.get("architecture")
    return named if isinstance(named, str) else UNKNOWN


def _reference(
    predictions: Predictions,
    images: Images | None,
    see: Callable[[torch.Tensor], Seen],
    of: Reopened,
) -> Seen:
    """What the network says of the validation images on which the threshold was chosen.

    Logits are those that the run stored; without them, and for features, the network looks at the
    images again, at most `MOST_IMAGES` of them.
    """
    again = None
    if images is not None:
        generator = np.random.default_rng(0)
        drawn = np.sort(generator.permutation(len(predictions))[:MOST_IMAGES])
        place = {key: at for at, key in enumerate(images.keys.tolist())}
        wanted = [place[key] for key in predictions.keys[drawn].tolist() if key in place]
        if wanted:
            again = see(images.images[np.array(wanted)])
    if predictions.logits is not None:
        return Seen(predictions.logits, None if again is None else again.features)
    if again is None:
        raise InputError(
            f"{of.run.path} stores no logits, and its validation images are not where they were: "
            "name the folder with the files of its data set with --data-root"
        )
    return again


def save_guard(guard: Guard, of: Reopened, folder: Path, *, replace: bool = False) -> None:
    """Save a guard as a folder of JSON and safetensors, which `open_guard` opens.

    Raises:
        InputError: the folder holds something already, or the network cannot be traced.
    """
    check_new_folder(folder, replace=replace)
    traced = trace(of.networks, guard.record.size)
    files = files_of(guard.record, traced.graph, traced.weights, guard.reference)
    for name, content in files.items():  # checksums last: without them nothing is opened
        write_atomically(folder / name, content)


def check_new_folder(folder: Path, *, replace: bool = False) -> None:
    """Raise `InputError` unless a guard can be saved in a folder."""
    check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not replace:
        raise InputError(f"{folder} is not empty: name another folder, or replace it (--replace)")


def save_onnx(guard: Guard, of: Reopened, path: Path) -> None:
    """Save the model of a guard, with preprocessing and temperature, as one ONNX graph.

    Raises:
        InputError: packages are missing, or the network cannot be exported.
    """
    write_atomically(path, to_onnx(of.networks, guard.record))

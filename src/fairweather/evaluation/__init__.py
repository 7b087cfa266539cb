"""Any model on any images, without training anything."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from torch import nn

from fairweather.evaluation.priors import check_priors
from fairweather.evaluation.priors import read_priors as read_priors
from fairweather.evaluation.request import Request as Request
from fairweather.evaluation.steps import execute as execute
from fairweather.evaluation.steps import prepare as prepare
from fairweather.models.labels import read_label_file
from fairweather.progress import Notify
from fairweather.runs import RunFolder
from fairweather.shift_lists import ShiftLike, clean_and
from fairweather.types import Dataset


def evaluate(
    model: str | nn.Module,
    dataset: str | Dataset,
    shifts: ShiftLike | Iterable[ShiftLike] = "quick",
    *,
    out: str | Path | None = None,
    architecture: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    outputs: str = "auto",
    labels: Mapping[str, object] | str | Path | None = None,
    size: int | None = None,
    root: str | Path | None = None,
    limit: int | None = None,
    validation_fraction: float = 0.0,
    skip_unreadable: bool = False,
    variants: Sequence[str] = (),
    ood: Sequence[str] = (),
    priors: Mapping[str, Mapping[str, float]] | None = None,
    batch_size: int = 256,
    bootstrap: int = 1000,
    shift_seed: int = 0,
    title: str | None = None,
    device: str = "auto",
    offline: bool = False,
    progress: Notify | None = None,
    tell: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Measure how accurate and how honest a model stays under shifts and attacks.

    Args:
        model: a module from images in [0, 1], float `[B, 3, H, W]`, to logits or probabilities, or
            anything that `load_model` takes by name.
        dataset: a `Dataset`, or a source that `load_data` takes by name. Of a source that is one
            set, all images are tested; of one with parts, the test part.
        shifts: suites, shifts and attacks, as objects, texts or entries of a study; see
            `fairweather.shift_lists.expand`.
        out: the run folder. What stands there is not computed again, so that a second call goes on
            where the first was interrupted. Without it nothing is kept.
        architecture, weights, mean, std, input_size: see `fairweather.models.open_model`.
        outputs: of a module, `onnx:` or `python:`, what they are: `logits`, or `probabilities`,
            whose logarithm is taken. `auto` looks at those of the first test images.
        labels: which of the model's classes each class of the data is, or a file that says it;
            without, they are matched by name.
        size: resize and crop images to this instead of to the model's own configuration, and feed
            them like that to a network that takes any size (`input_size` says otherwise).
        root, skip_unreadable: see `load_data`.
        limit: test a stratified subset of at most this many images.
        validation_fraction: share to set apart for fitting where the data have no validation part.
        variants: `temperature`, `batchnorm`: rows of their own beside the model.
        ood: other data sets, which the model's confidence should tell from this one.
        priors: by a name of your own, probabilities of some classes; the others share the rest.
        batch_size: images in a forward pass; halved when memory runs out.
        bootstrap: resamples behind every interval.
        shift_seed: of stochastic shifts and attacks.
        title: what tables and figures call the model.
        device, offline: see `run`.
        progress: called with every `Event`.
        tell: called with each line that a person should read: preprocessing, labels, clean
            accuracy, and a warning if that is no better than chance.

    Returns:
        The table of scores.csv: one row per model, seed, shift, level and metric, with value, low,
        high and n.

    Raises:
        InputError: something that was asked for cannot be; the message is one sentence.

    >>> import torch, fairweather as fw
    >>> digits = fw.load_data("mnist5k", size=8)
    >>> model = fw.load_model("timm:test_vit", classes=10, weights="none", input_size=160)
    >>> small = fw.Dataset("digits", None, None, digits.test[:40], digits.mean, digits.std)
    >>> table = fw.evaluate(model, small, "brightness_factor: [0.5]", bootstrap=100, device="cpu")
    >>> table[table["metric"] == "accuracy"]["shift"].tolist()[:2]
    ['clean', 'brightness_factor']
    """
    given = read_label_file(Path(labels)) if isinstance(labels, str | Path) else labels
    request = Request(
        model=model,
        dataset=dataset,
        shifts=clean_and(shifts),
        architecture=architecture,
        weights=weights,
        mean=mean,
        std=std,
        input_size=input_size,
        outputs=outputs,
        labels=given,
        size=size,
        root=root,
        limit=limit,
        validation_fraction=validation_fraction,
        skip_unreadable=skip_unreadable,
        variants=tuple(variants),
        ood=tuple(ood),
        priors=check_priors(priors, "priors") if priors else {},
        batch_size=batch_size,
        bootstrap=bootstrap,
        shift_seed=shift_seed,
        title=title,
        device=device,
        offline=offline,
    )
    with tempfile.TemporaryDirectory(prefix="fairweather-") as passing, _mode_kept(model):
        place = Path(out) if out is not None else Path(passing) / "run"
        prepared = prepare(request, progress)
        for event in execute(prepared, place, tell or _say_nothing):
            if progress is not None:
                progress(event)
        return RunFolder(place).scores


@contextmanager
def _mode_kept(model: str | nn.Module) -> Iterator[None]:
    """Leave a module of the caller's in the mode that it was in."""
    was_training = isinstance(model, nn.Module) and model.training
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            model.train(was_training)


def _say_nothing(_: str) -> None:
    """For callers who read the table only."""

"""A classifier from anywhere, its normalisation inside, and everything that is known of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairweather.errors import InputError
from fairweather.models.backbones import LIBRARIES
from fairweather.models.named import open_named
from fairweather.models.opened import Opened
from fairweather.models.python_file import open_python
from fairweather.models.run_folder import open_run
from fairweather.types import SMALLEST_SIDE

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
FORMS: Mapping[str, str] = {
    "torchvision": "torchvision:NAME",
    "timm": "timm:NAME",
    "hf": "hf:REPO",
    "onnx": "onnx:FILE",
    "run": "run:FOLDER/models/NAME/seed-S",
    "python": "python:FILE.py:FUNCTION",
    "file": f"FILE ({', '.join(SUFFIXES)}) with an architecture",
}
# What may be given beside each, besides `offline` and `seed`.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("weights", "classes", "mean", "std", "input_size"),
    "timm": ("weights", "classes", "mean", "std", "input_size"),
    "hf": (),
    "onnx": ("mean", "std", "input_size", "outputs"),
    "run": (),
    "python": ("mean", "std", "input_size", "outputs"),
    "file": ("architecture", "classes", "mean", "std", "input_size"),
}


def open_model(
    source: str,
    *,
    architecture: str | None = None,
    weights: str | Path | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    outputs: str = "auto",
    offline: bool = False,
    seed: int = 0,
) -> Opened:
    """Open a classifier from anywhere, with the preprocessing of its own configuration.

    Files are read as weights alone and run nothing; `python:` runs the file that it names, and
    `facts["runs_code"]` says so. A head that is not in the weights is an error, not a random head.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `hf:REPO_OR_FOLDER`, `onnx:FILE`,
            `run:FOLDER/models/NAME/seed-S`, `python:FILE.py:FUNCTION`, or a checkpoint's file
            (.safetensors, .pt, .pth, .bin, .ckpt) with an architecture.
        architecture: of a checkpoint's file: `torchvision:NAME` or `timm:NAME`.
        weights: of a network by name: `imagenet` by default, `none`, `lite0`, a local file, or an
            https address.
        classes: number of outputs; by default that of the weights' head.
        mean, std: normalisation, where the model has none of its own or another one.
        input_size: the square, in pixels, that the model is fed.
        outputs: of `onnx:` and `python:`, `logits` or `probabilities`, whose logarithm is taken;
            `auto` believes an ONNX graph, and a function's model to give logits.
        offline: what is not there is not downloaded.
        seed: of random weights, where there are such.

    Raises:
        InputError: one sentence that says what was asked, what was found and what is allowed.

    >>> import torch
    >>> opened = open_model("timm:test_resnet", weights="none")
    >>> opened.model(torch.rand(1, 3, 160, 160)).shape, opened.preparation.size
    (torch.Size([1, 1000]), 160)
    """
    given: dict[str, Any] = {
        "architecture": architecture,
        "weights": None if weights is None else str(weights),
        "classes": classes,
        "mean": mean,
        "std": std,
        "input_size": input_size,
        "outputs": outputs,
    }
    kind, rest = _kind(source)
    for name, value, least in (("classes", classes, 1), ("input_size", input_size, SMALLEST_SIDE)):
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, found {value}")
    _check_options(
        kind, source, {name for name, value in given.items() if value not in (None, "auto")}
    )
    given = {name: given[name] for name in OPTIONS[kind]}
    if kind == "hf":
        from fairweather.models.hf import open_hf  # imported where it is needed: an extra

        return open_hf(rest, offline=offline)
    if kind == "onnx":
        from fairweather.models.onnx import open_onnx  # likewise

        return open_onnx(Path(rest), **given)
    if kind == "run":
        return open_run(Path(rest))
    if kind == "python":
        return open_python(rest, **given, seed=seed)
    if kind == "file":
        if architecture is None:
            raise InputError(
                f"{source} holds weights alone: say of what, with the architecture timm:NAME or "
                "torchvision:NAME"
            )
        del given["architecture"]
        opened = open_named(architecture, weights=source, **given, offline=offline, seed=seed)
        return replace(opened, facts={**opened.facts, "source": source})
    return open_named(source, **given, offline=offline, seed=seed)


def _kind(source: str) -> tuple[str, str]:
    kind, colon, rest = source.partition(":")
    if colon and kind in FORMS and kind != "file":
        return kind, rest
    if source.endswith(SUFFIXES) or Path(source).expanduser().is_file():
        if near := _near_file(Path(source)):
            raise _unknown(source, near)
        return "file", source
    raise _unknown(source, _near(source))


def _check_options(kind: str, source: str, given: set[str]) -> None:
    allowed = OPTIONS[kind]
    if wrong := sorted(given - set(allowed)):
        may = f"only {', '.join(allowed)} may be given" if allowed else "it says everything itself"
        raise InputError(f"{' and '.join(wrong)} cannot be given for {source}: {may}")


def _unknown(source: str, near: str | None) -> InputError:
    hint = f"; did you mean {near!r}?" if near else ";"
    return InputError(f"unknown model source {source!r}{hint} known: {', '.join(FORMS.values())}")


def _near_file(path: Path) -> str | None:
    if path.suffix == ".onnx":
        return f"onnx:{path}"
    return f"python:{path}:FUNCTION" if path.suffix == ".py" else None


def _near(source: str) -> str | None:
    """Guess what was meant: a kind misspelt, a name or a folder without its kind."""
    kind, colon, rest = source.partition(":")
    if colon:
        close = difflib.get_close_matches(kind.lower(), [k for k in FORMS if k != "file"], n=1)
        return f"{close[0]}:{rest}" if close else None
    folder = Path(source).expanduser()
    for file, library in (("model.json", "run"), ("config.json", "hf")):
        if (folder / file).is_file():
            return f"{library}:{source}"
    known = (name for name, library in LIBRARIES.items() if library.knows(source))
    found = next(known, None)
    return f"{found}:{source}" if found else _near_file(folder)

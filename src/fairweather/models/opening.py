"""Open a classifier from any source, with its preprocessing and class names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fairweather.errors import InputError, check_text, is_there
from fairweather.models.backbones import LIBRARIES, find_library
from fairweather.models.building import given_statistics
from fairweather.models.named import open_named
from fairweather.models.opened import Opened
from fairweather.models.python_file import open_python
from fairweather.models.run_folder import open_run
from fairweather.models.specification import check_counts
from fairweather.options import ModelOptions, takes

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
# Formats of other programs: what they are, and how an ONNX file is made of them.
_TF2ONNX = "pip install tf2onnx; python -m tf2onnx.convert"
CONVERTERS: Mapping[str, tuple[str, str]] = {
    ".tflite": ("a TensorFlow Lite model", f"{_TF2ONNX} --tflite {{path}} --output {{onnx}}"),
    ".h5": ("a Keras model", f"{_TF2ONNX} --keras {{path}} --output {{onnx}}"),
    ".keras": ("a Keras model", f"{_TF2ONNX} --keras {{path}} --output {{onnx}}"),
    ".pb": ("a TensorFlow model", f"{_TF2ONNX} --saved-model {{folder}} --output {{onnx}}"),
    ".mlmodel": ("a Core ML model", "torch.onnx.export of the network that it was made from"),
    ".mlpackage": ("a Core ML model", "torch.onnx.export of the network that it was made from"),
    ".engine": ("a TensorRT engine", "or take the ONNX file that it was built from"),
    ".trt": ("a TensorRT engine", "or take the ONNX file that it was built from"),
}
# The options that each source takes, besides `offline` and `seed`.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "torchvision": ("weights", "classes", "mean", "std", "input_size"),
    "timm": ("weights", "classes", "mean", "std", "input_size"),
    "hf": (),
    "onnx": ("mean", "std", "input_size", "outputs"),
    "run": (),
    "python": ("mean", "std", "input_size", "outputs"),
    "module": ("mean", "std", "input_size", "outputs"),  # of this process
    "file": ("architecture", "classes", "mean", "std", "input_size"),
}


@takes(ModelOptions)
def open_model(
    source: str,
    *,
    classes: int | None = None,
    offline: bool = False,
    seed: int = 0,
    **options: Any,  # noqa: ANN401 - those of `ModelOptions`
) -> Opened:
    """Open a classifier from any source, with the preprocessing of its own configuration.

    Loading never executes code, with one exception: `python:` runs the file that it names, and
    `facts["runs_code"]` says so. A head that is not in the weights is an error, not a random head.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `hf:REPO_OR_FOLDER`, `onnx:FILE`,
            `run:FOLDER/models/NAME/seed-S`, `python:FILE.py:FUNCTION`, or a checkpoint's file
            (.safetensors, .pt, .pth, .bin, .ckpt) with an architecture.
        architecture: only for a checkpoint's file: `torchvision:NAME` or `timm:NAME`.
        weights: only for a network by name: `imagenet` (default), `none`, `lite0`, a local file, or
            an https address.
        classes: number of outputs; by default that of the weights' head.
        mean, std: normalisation, where the model has none of its own or another one.
        input_size: side, in pixels, of the square images that the model gets.
        outputs: only for `onnx:` and `python:`: `logits`, or `probabilities`, of which the
            logarithm is taken. With `auto`, an ONNX graph says which, and a function's model gives
            logits.
        offline: download nothing.
        seed: random seed of weights `none`.

    Raises:
        InputError: one sentence that says what was asked, what was found and what is allowed.

    >>> import torch
    >>> opened = open_model("timm:test_resnet", weights="none")
    >>> opened.model(torch.rand(1, 3, 160, 160)).shape, opened.preparation.size
    (torch.Size([1, 1000]), 160)
    """
    given = ModelOptions(**options)
    return open_with(source, given, classes=classes, offline=offline, seed=seed)


def open_with(
    source: str,
    options: ModelOptions,
    *,
    classes: int | None = None,
    offline: bool = False,
    seed: int = 0,
) -> Opened:
    """Open a classifier as `open_model` does."""
    kind, rest = _kind(source)
    every = {**given_options(options), "classes": classes}
    check_model(source, **every)
    given: dict[str, Any] = {name: every[name] for name in OPTIONS[kind]}
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
        architecture = given.pop("architecture")
        opened = open_named(architecture, weights=source, **given, offline=offline, seed=seed)
        return replace(opened, facts={**opened.facts, "source": source})
    return open_named(source, **given, offline=offline, seed=seed)


def given_options(options: ModelOptions) -> dict[str, Any]:
    """The options of a model by name; other fields of a subclass are left out."""
    found = {each.name: getattr(options, each.name) for each in fields(ModelOptions)}
    return {**found, "weights": None if found["weights"] is None else str(found["weights"])}


def check_model(source: str, **options: Any) -> None:  # noqa: ANN401 - those of `open_model`
    """Raise `InputError` for what is wrong with a model and can be known without opening it.

    It looks at the form of the source, at the options, and at whether there is such a network or
    file. Nothing is downloaded and no weights are read.

    >>> check_model("timm:resnet5")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown timm model 'resnet5'; did you mean 'resnet50'? ...
    """
    kind, rest = _kind(check_text(source, "the model"))
    check_model_options(kind, source, **options)
    if kind in LIBRARIES:
        LIBRARIES[kind].check(rest)
    elif kind == "onnx" and not is_there(Path(rest).expanduser()):
        raise InputError(f"onnx:{rest}: there is no such file{_closest_file(Path(rest))}")
    elif kind == "run" and not Path(rest).expanduser().is_dir():
        raise InputError(f"run:{rest}: there is no such folder{_closest_file(Path(rest))}")
    elif kind == "file":
        if options.get("architecture") is None:
            raise InputError(
                f"{source} holds only weights: name the network that they belong to with the "
                "architecture timm:NAME or torchvision:NAME"
            )
        find_library(options["architecture"])
        if not is_there(Path(rest).expanduser()):
            raise InputError(f"weights: there is no file {rest}{_closest_file(Path(rest))}")


def _closest_file(path: Path) -> str:
    folder = path.expanduser().parent
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""


def _kind(source: str) -> tuple[str, str]:
    kind, colon, rest = source.partition(":")
    is_kind = bool(colon) and kind in FORMS and kind != "file"
    path = Path(rest if kind == "onnx" else source)
    foreign = path.suffix.lower() in CONVERTERS
    if kind == "onnx" and path.suffix.lower() == ".pb":  # some programs write ONNX files so
        foreign = path.name == "saved_model.pb"  # TensorFlow's own name
    if foreign and (not is_kind or kind == "onnx"):
        raise _other_format(path)
    if is_kind:
        return kind, rest
    if source.endswith(SUFFIXES) or path.expanduser().is_file():
        if near := _near_file(path):
            raise _unknown(source, near)
        return "file", source
    raise _unknown(source, _near(source))


def check_model_options(kind: str, source: str, **options: Any) -> None:  # noqa: ANN401 - as above
    """Raise `InputError` for options that models of a kind do not take, and for wrong ones."""
    check_counts(options.get("classes"), options.get("input_size"))
    given = {name for name, value in options.items() if value not in (None, "auto")}
    allowed = OPTIONS[kind]
    if wrong := sorted(given - set(allowed)):
        may = f"it takes only {', '.join(allowed)}" if allowed else "it takes no options"
        raise InputError(f"{' and '.join(wrong)} cannot be given for {source}: {may}")
    given_statistics(options.get("mean"), options.get("std"))


def _other_format(path: Path) -> InputError:
    what, how = CONVERTERS[path.suffix.lower()]
    onnx = path.with_suffix(".onnx")
    told = how.format(path=path, folder=path.parent, onnx=onnx)
    return InputError(
        f"{path} is {what}, which cannot be opened: convert it to ONNX ({told}), then give "
        f"onnx:{onnx}"
    )


def _unknown(source: str, near: str | None) -> InputError:
    hint = f"; did you mean {near!r}?" if near else ";"
    return InputError(f"unknown model source {source!r}{hint} known: {', '.join(FORMS.values())}")


def _near_file(path: Path) -> str | None:
    if path.suffix == ".onnx":
        return f"onnx:{path}"
    return f"python:{path}:FUNCTION" if path.suffix == ".py" else None


def _near(source: str) -> str | None:
    """Guess what was meant: a misspelt kind, or a name or folder without its kind."""
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

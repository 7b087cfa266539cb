"""Modules of the user's own: in memory, or returned by a function of a Python file."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from fairweather.devices import PrecisionAdapter, adapt_precision
from fairweather.errors import InputError, StoppedError, one_line, unknown_name
from fairweather.models.building import check_normalisation, state_digest
from fairweather.models.outputs import convert_outputs, parse_outputs
from fairweather.models.preprocessing import (
    NO_NORMALISATION,
    UNKNOWN_ORIGIN,
    describe_normalisation,
    describe_preparation,
    find_normalisation,
)
from fairweather.models.sources import MODULE_OPTIONS, OpenedModel, Setup, SourceKind, folder_name
from fairweather.models.wrappers import Classifier, GrayInput, OneColumn, is_gray_network
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.options import ModelOptions, Preparation


def open_module(
    module: nn.Module,
    name: str,
    options: ModelOptions,
    *,
    source: str,
    subject: str,
    code: str,
    side: int | None = None,
    classes: tuple[str, ...] | None = None,
    predicts: TaskKind = CLASSES,
) -> OpenedModel:
    """Open a module from images in [0, 1] to logits or probabilities.

    Args:
        module: it is brought to the CPU and into evaluation mode.
        name, source, classes: as in `OpenedModel`.
        predicts: as in `Setup`.
        options: those of `MODULE_OPTIONS` that were given.
        subject: what messages call it.
        code: what the digest is of besides the tensors.
        side: of the images that it gets, if that is known.

    Raises:
        InputError: a mean and std are given to a module that normalises its images itself, or its
            mode or tensors cannot be had.
    """
    given = check_normalisation(options.mean, options.std)
    outputs = parse_outputs(options.outputs, predicts)
    size, inner = options.input_size, find_normalisation(module)
    if given and inner:
        raise InputError(
            f"{subject} already contains its own normalisation: {inner}; leave mean and std out, "
            "or remove it from the model"
        )
    framed = None
    if given or size is not None:
        framed = Classifier(module, *(given or NO_NORMALISATION), size)
    try:
        state = state_digest((framed or module).eval().state_dict())
    except Exception as error:  # exported, quantized and lazy modules raise different errors
        raise InputError(
            f"{subject} has no evaluation mode or no plain tensors ({type(error).__name__}: "
            f"{one_line(str(error).partition(chr(10))[0])}): give the module that was exported or "
            "quantized, or an ONNX file; call a lazy module once before"
        ) from error
    origin = "given" if given else "no normalisation: the model gets images in [0, 1]"
    if inner:
        origin = f"the model's own normalisation: {inner}"
    facts: dict[str, object] = {
        "source": source,
        "architecture": type(module).__name__,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "normalisation": describe_normalisation(given, origin),
    }
    network = adapt_precision(module.cpu())
    if isinstance(network, PrecisionAdapter):
        facts["numbers"] = f"the model computes in {network.dtype}: images are converted to it"
    if is_gray_network(network, size or side):
        facts["gray"], network = GrayInput.note, GrayInput(network)
    if predicts == FINDINGS:
        network = OneColumn(network)
    if outputs is not None:
        network = convert_outputs(network, outputs.kind)
    if framed:
        framed.network = network
    preparation = None if size is None else Preparation(size)
    origin = "the size given" if preparation else UNKNOWN_ORIGIN
    facts["preparation"] = describe_preparation(preparation, origin)
    digest = hashlib.sha256(f"{code} {state}".encode()).hexdigest()
    model = (framed or network).eval()
    return OpenedModel(model, name, digest, classes, preparation, facts, outputs)


# ---------------------------------------------------------------- from a Python file


def run_file(path: Path, function: str, seed: int) -> tuple[nn.Module, tuple[str, ...] | None, str]:
    """Run a Python file, call a function of it, and give the module that it returns.

    While the file runs, Python imports from its folder first, as if the file had been started as a
    script. Random weights come from `seed`; the caller's random state does not change. `function`
    may also name a class of modules, or a module.

    Returns the module, its class names (the attribute `classes` or `class_names` of the module or
    file), and the SHA-256 of the file.

    Raises `InputError` if the file raises an error, has no such function, or returns something
    other than a module. The message names file and line, and the original error is its cause.
    """
    if not path.is_file():
        raise InputError(f"python: there is no file {path}")
    code = path.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    with _import_path(path.resolve().parent), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        namespace = _execute(path, code, digest)
        value = vars(namespace).get(function)
        if value is None:
            raise unknown_name(f"function of {path}", function, _list_names(namespace))
        if not isinstance(value, nn.Module):
            if not callable(value):
                kind = type(value).__name__
                raise InputError(f"python: {function} in {path} is of type {kind}, not a function")
            with _explain_user_errors(path):
                value = value()
    if not isinstance(value, nn.Module):
        kind = type(value).__name__
        raise InputError(f"python: {function}() in {path} returned a {kind}, not a torch.nn.Module")
    return value, read_class_names(value) or read_class_names(namespace), digest


def open_python(place: str, options: ModelOptions, settings: Setup) -> OpenedModel:
    """Open `FILE.py:FUNCTION`; see `open_with_options` and `run_file`."""
    file, colon, function = place.rpartition(":")
    if not colon or not file or not function:
        raise InputError(f"python: needs a file and a function, FILE.py:FUNCTION, found {place!r}")
    path = Path(file).expanduser()
    module, classes, digest = run_file(path, function, settings.seed)
    subject = f"the model that {function}() in {path} returns"
    opened = open_module(
        module,
        folder_name(f"{path.stem}-{function}"),
        options,
        source=f"python:{place}",
        subject=subject,
        code=f"{digest} {function} {options.input_size}",
        classes=classes,
        predicts=settings.predicts,
    )
    note = f"{subject} is the user's own code: the file was run to make it"
    return replace(opened, facts={**opened.facts, "runs_code": note})


def _execute(path: Path, code: bytes, digest: str) -> ModuleType:
    # No import statement can use this name, by which dataclasses and pickles find their module.
    module = ModuleType(f"_fairweather_model_{digest[:16]}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    # Not by an import, which would write a file beside it and might use an older copy.
    # The user has asked for it: `python:FILE.py:FUNCTION` runs this file.
    with _explain_user_errors(path):
        exec(compile(code, module.__file__, "exec"), vars(module))  # nosec B102
    return module


@contextlib.contextmanager
def _explain_user_errors(path: Path) -> Iterator[None]:
    """Turn an error into one sentence with the line of the file of the user."""
    try:
        yield
    except StoppedError:
        raise
    except (Exception, SystemExit) as error:
        line = _error_line(str(path.resolve()), error)
        position = f"{path}, line {line}" if line else str(path)
        lines = (text.strip() for text in str(error).splitlines())
        reason = next((text for text in lines if text), "no message")
        raise InputError(f"python: {position} raised {type(error).__name__}: {reason}") from error


def _error_line(file: str, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)


def _list_names(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None)
        is_own = isinstance(value, nn.Module) or home == module.__name__
        if is_own and not name.startswith("_"):
            yield name


def read_class_names(holder: object) -> tuple[str, ...] | None:
    """Read the names of a module's outputs from its attribute `classes` or `class_names`.

    What is no list of texts, nor a dict of them by the number of the output, names no outputs.
    """
    for attribute in ("classes", "class_names"):
        names = getattr(holder, attribute, None)
        names = names.tolist() if isinstance(names, np.ndarray) else names
        if isinstance(names, dict) and list(names) == list(range(len(names))):
            names = list(names.values())
        if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
            return tuple(names)
    return None


@contextlib.contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


PYTHON = SourceKind(
    "python:FILE.py:FUNCTION",
    "a model that a function of your own file returns",
    open_python,
    options=MODULE_OPTIONS,
    guess=lambda text: f"python:{text}:FUNCTION" if Path(text).suffix == ".py" else None,
)

"""A model that a function in the user's Python file returns: the one source that runs code."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn

from fairweather.errors import InputError, StoppedError, unknown_name
from fairweather.models.module import open_module
from fairweather.models.source import OF_ANY, Opened, Source, folder_name


class FromFile(NamedTuple):
    """What the function of a file returned: the module, its class names, the file's SHA-256."""

    module: nn.Module
    classes: tuple[str, ...] | None
    digest: str


def module_from_file(path: Path, function: str, seed: int) -> FromFile:
    """Run a Python file, call a function of it, and give the module that it returns.

    While the file runs, Python imports from its folder first, as if the file had been started as a
    script. Random weights come from `seed`; the caller's random state does not change. Class names
    are the attribute `classes` or `class_names` of the module or of the file. `function` may also
    name a class of modules, or a module.

    Raises `InputError` if the file raises an error (with file and line, and the original error as
    its cause), has no such function, or returns something else than a module.
    """
    if not path.is_file():
        raise InputError(f"python: there is no file {path}")
    code = path.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    with _imports_from(path.resolve().parent), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        namespace = _run(path, code, digest)
        made = vars(namespace).get(function)
        if made is None:
            raise unknown_name(f"function of {path}", function, _own_names(namespace))
        if not isinstance(made, nn.Module):
            if not callable(made):
                kind = type(made).__name__
                raise InputError(f"python: {function} in {path} is of type {kind}, not a function")
            with _telling(path):
                made = made()
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise InputError(f"python: {function}() in {path} returned a {kind}, not a torch.nn.Module")
    return FromFile(made, _class_names(made) or _class_names(namespace), digest)


def open_python(
    rest: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    outputs: str = "auto",
    seed: int = 0,
) -> Opened:
    """Open `FILE.py:FUNCTION`; see `open_model` and `module_from_file`."""
    file, colon, function = rest.rpartition(":")
    if not colon or not file or not function:
        raise InputError(f"python: needs a file and a function, FILE.py:FUNCTION, found {rest!r}")
    path = Path(file).expanduser()
    made = module_from_file(path, function, seed)
    what = f"the model that {function}() in {path} returns"
    opened = open_module(
        made.module,
        folder_name(f"{path.stem}-{function}"),
        source=f"python:{rest}",
        what=what,
        code=f"{made.digest} {function} {input_size}",
        classes=made.classes,
        mean=mean,
        std=std,
        input_size=input_size,
        outputs=outputs,
    )
    told = f"{what} is the user's own code: the file was run to make it"
    return replace(opened, facts={**opened.facts, "runs_code": told})


def _run(path: Path, code: bytes, digest: str) -> ModuleType:
    # No import statement can mean this name; dataclasses and pickles look their module up by it.
    module = ModuleType(f"_fairweather_model_{digest[:16]}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    # Not through an import: nothing is written beside the file, and no older copy is taken.
    # The user has asked for it: `python:FILE.py:FUNCTION` runs this file.
    with _telling(path):
        exec(compile(code, module.__file__, "exec"), vars(module))  # nosec B102
    return module


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn an error into one sentence with the line of the file of the user."""
    try:
        yield
    except StoppedError:
        raise
    except (Exception, SystemExit) as error:
        line = _line(str(path.resolve()), error)
        where = f"{path}, line {line}" if line else str(path)
        lines = (text.strip() for text in str(error).splitlines())
        reason = next((text for text in lines if text), "no message")
        raise InputError(f"python: {where} raised {type(error).__name__}: {reason}") from error


def _line(file: str, error: BaseException) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)


def _own_names(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        own = isinstance(value, nn.Module) or getattr(value, "__module__", None) == module.__name__
        if own and not name.startswith("_"):
            yield name


def _class_names(holder: object) -> tuple[str, ...] | None:
    for attribute in ("classes", "class_names"):
        names = getattr(holder, attribute, None)
        if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
            return tuple(names)
    return None


@contextlib.contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


PYTHON = Source(
    "python:FILE.py:FUNCTION",
    "a model that a function of your own file returns",
    open_python,
    options=OF_ANY,
    settings=("seed",),
    guess=lambda text: f"python:{text}:FUNCTION" if Path(text).suffix == ".py" else None,
)

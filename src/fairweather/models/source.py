"""What a row of the table of model sources says: how a source is written, checked and opened."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairweather.models.opened import Opened

# What can be said of a model that anyone has made.
OF_ANY = ("mean", "std", "input_size", "outputs")


def _nothing(_: str, architecture: str | None) -> None:
    """Check nothing: only opening shows whether there is such a model."""


def _never(_: str) -> None:
    """Guess nothing."""


@dataclass(frozen=True)
class Source:
    """Where models come from: one row of `SOURCES`.

    Attributes:
        form: how it is written: `KIND:PLACE`, or words for a source without a kind.
        title: what it is, for a list.
        open: opens what stands behind the kind, with those of `options` and `settings` that were
            given.
        options: the options of `open_model` that it takes.
        settings: `offline` and `seed`, as far as it needs them.
        check: raises `InputError` for what can be known without opening, from what stands behind
            the kind and the architecture.
        guess: what a text without a kind may have meant, such as `hf:FOLDER` for a folder with its
            files; None if it is nothing of this source.
        takes: of a source without a kind, whether a text is one.
    """

    form: str
    title: str
    open: Callable[..., Opened]
    options: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    check: Callable[[str, str | None], None] = _nothing
    guess: Callable[[str], str | None] = _never
    takes: Callable[[str], bool] | None = None


def closest_file(path: Path) -> str:
    """Name a file beside a missing one that is called nearly so, as the end of a message."""
    folder = path.expanduser().parent
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""

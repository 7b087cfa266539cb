"""The error of a process that did steps for another one, on its way there."""

from __future__ import annotations

import os
import traceback
from typing import Literal

from fairweather import errors
from fairweather.errors import InputError
from fairweather.record import Frozen


class JobFailedError(RuntimeError):
    """A process that did steps failed; the text says which steps, and why."""


class Failed(Frozen):
    """The error that ended the work of a process.

    Attributes:
        type: the name of its type, if it is one of `fairweather.errors`; else empty.
        text: the error in words.
        traceback: where it came from.
        system: number and file of an error of the system, such as a full disk.
    """

    kind: Literal["failed"] = "failed"
    type: str
    text: str
    traceback: str
    system: tuple[int, str | None] | None = None

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """Pack an error that is being handled."""
        system = None
        if isinstance(error, OSError) and error.errno is not None:
            name = error.filename
            system = (error.errno, None if name is None else os.fsdecode(name))
        return cls(
            type=type(error).__name__,
            text=str(error),
            traceback=traceback.format_exc(),
            system=system,
        )

    def error(self, doing: str) -> Exception:
        """The error again: an `InputError` as it was, any other as `JobFailedError`."""
        known = getattr(errors, self.type, None)
        if isinstance(known, type) and issubclass(known, InputError):
            return known(self.text)
        if self.system is not None:
            number, name = self.system
            return OSError(number, os.strerror(number), name)
        return JobFailedError(f"{doing} failed:\n{self.traceback}")

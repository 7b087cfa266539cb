"""Names and values as trackers take them: dotted keys, plain text, and no other characters."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

# MLflow's rule for names (mlflow.utils.validation) without colons, which servers on Windows refuse,
# and without spaces, so that what follows one is always a word of ours.
_OTHERS = re.compile(r"[^\w.\-/]")
# MLflow takes 250 characters, and `fairweather.` before a name and its digits behind need room.
_LONGEST = 250 - len("fairweather.") - len("-46d7eb")


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys and the text of each value, as YAML would write it.

    >>> list(flatten({"recipe": {"epochs": 2, "mixup": None}, "seeds": [0, 1], "title": "Basic"}))
    [('recipe.epochs', '2'), ('recipe.mixup', 'null'), ('seeds', '[0, 1]'), ('title', 'Basic')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # A file name that is no UTF-8 cannot be sent as it is.
        yield prefix, text.encode(errors="replace").decode()


def allowed_names(names: Iterable[str]) -> dict[str, str]:
    """Say how each name is written where only letters, digits and `_ - . /` may stand.

    Where two would be written alike, the one that had to change gets six digits of its own.

    >>> allowed_names(["accuracy/clean", "accuracy/priors/a,b", "accuracy//clean"])
    {'accuracy/clean': 'accuracy/clean', 'accuracy/priors/a,b': 'accuracy/priors/a_b',
     'accuracy//clean': 'accuracy/clean-46d7eb'}
    """
    written = {name: _allowed(name) for name in names}
    uses = Counter(written.values())
    return {
        name: new if new == name or uses[new] == 1 else f"{new}-{_digits(name)}"
        for name, new in written.items()
    }


def _allowed(name: str) -> str:
    # A name is also a path below the run, and must be the shortest of its kind.
    return posixpath.normpath("/" + _OTHERS.sub("_", name)[:_LONGEST]).lstrip("/") or "_"


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:6]

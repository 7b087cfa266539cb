"""Count how often rules were judged on one test set, in a ledger beside the runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from fairweather.errors import InputError, describe_os_error
from fairweather.judge.rules import Rule
from fairweather.runs.claims import lock_folder
from fairweather.runs.folder import RunFolder, resolve_inside, write_atomically
from fairweather.types.record import CLEAN, TEST, parse_predictions_path

LEDGER, LOCK = "looks.jsonl", ".looks.lock"
PATIENCE = 10.0  # seconds that a check waits for another one to write its line
MISSES = 2.5  # % in which the judged end of an interval misses, by design


def count_look(run: RunFolder, rules: Sequence[Rule]) -> list[str]:
    """Count one judging of rules on a run's test set; say from the second look on how many.

    A look is one judging of some rules on the predictions of one run. The same rules on the same
    predictions again are no new look. Test sets are told apart by their keys and labels. It never
    raises an error: where the ledger cannot be read or written, it says so.
    """
    try:
        test_set = _describe_test_set(run)
        if test_set is None:
            return []
        judged = json.dumps([sorted(_list_predictions(run)), sorted(map(str, rules))])
        look = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": run.path.resolve().name,
            "test_set": test_set.digest,
            "judged": _digest(judged),
        }
        looks, damaged = _add_look(run, look)
    except OSError as error:
        return [f"looks are not counted: {describe_os_error(error)}"]
    except InputError as error:
        return [f"looks are not counted: {error}"]
    said = describe_looks(looks.index(look["judged"]) + 1, len(looks), test_set.images)
    if damaged:
        lines = "1 damaged line" if damaged == 1 else f"{damaged:,} damaged lines"
        said.append(f"not counted: {lines} of {LEDGER}")
    return said


def describe_looks(number: int, looks: int, images: int) -> list[str]:
    """Say which look this is, and the level after Bonferroni's correction; nothing of one look.

    >>> describe_looks(7, 7, 1000)[0]
    'look 7 at these 1,000 test images'
    >>> describe_looks(3, 7, 1000)
    ['look 3 of 7 at these 1,000 test images', 'to keep 2.5 % over 7 looks, judge each at 0.36 %']
    """
    if looks < 2:
        return []
    which, level = f"{number}" if number == looks else f"{number} of {looks}", MISSES / looks
    return [
        f"look {which} at these {images:,} test images",
        f"to keep {MISSES:g} % over {looks:,} looks, judge each at "
        f"{level:.{2 if level >= 0.1 else 4}f} %",
    ]


def _add_look(run: RunFolder, look: dict[str, str]) -> tuple[list[str], int]:
    """Add a look unless it is known; return all looks at its test set, and the damaged lines."""
    folder = run.path.resolve().parent
    ledger = resolve_inside(folder, LEDGER)
    with lock_folder(folder, PATIENCE, needed=False, name=LOCK):
        text = ledger.read_text(encoding="utf-8", errors="replace") if ledger.is_file() else ""
        written = [own for own in text.splitlines() if own.strip()]
        read = [own for own in map(_read_line, written) if own is not None]
        looks = [own["judged"] for own in read if own["test_set"] == look["test_set"]]
        looks = list(dict.fromkeys(looks))
        if look["judged"] not in looks:
            looks.append(look["judged"])
            write_atomically(ledger, "\n".join([*written, json.dumps(look), ""]))
    return looks, len(written) - len(read)


def _read_line(text: str) -> dict[str, str] | None:
    try:
        line = json.loads(text)
        return {name: str(line[name]) for name in ("test_set", "judged")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class _TestSet(NamedTuple):
    """The test images of a run: a digest of their keys and labels, and their number."""

    digest: str
    images: int


def _describe_test_set(run: RunFolder) -> _TestSet | None:
    for name in run.record.models:
        file = run.predictions(name, run.record.seeds[0], CLEAN)
        if run.file(file).is_file():
            images = run.read_images(file)
            order = np.argsort(images.keys, kind="stable")
            columns = [column[order].tolist() for column in (images.keys, images.labels)]
            return _TestSet(_digest(json.dumps(columns)), len(order))
    return None


def _list_predictions(run: RunFolder) -> list[str]:
    """The checksums of the predictions of a run's test images."""
    return [
        checksum
        for step in run.steps()
        for name, checksum in step.files.items()
        if (place := parse_predictions_path(name)) and place.part == TEST
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Count how often models were judged on one test set, in a ledger beside the runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Context, Decimal
from typing import NamedTuple

import numpy as np

from fairweather.errors import InputError, describe_os_error
from fairweather.judge.verdicts import Verdict
from fairweather.runs.claims import lock_folder
from fairweather.runs.folder import RunFolder, resolve_inside, write_atomically
from fairweather.types.record import CLEAN, TEST, parse_predictions_path

LEDGER, LOCK = "looks.jsonl", ".looks.lock"
PATIENCE = 10.0  # seconds that a check waits for another one to write its line
MISSES = Decimal("2.5")  # % in which the judged end of an interval misses, by design


def count_looks(run: RunFolder, verdicts: Sequence[Verdict]) -> list[str]:
    """Count each model that was judged on a run's test set; say from two looks on how many.

    A look is one judging of some rules on the predictions of one model: the best of ten models may
    pass by chance, in one run or in ten. The same rules on the same predictions again are no new
    look. Test sets are told apart by their keys and labels. It never raises an error: where the
    ledger cannot be read or written, it says so.
    """
    try:
        test_set = _describe_test_set(run)
        if test_set is None:
            return []
        look = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": run.path.resolve().name,
            "test_set": test_set.digest,
        }
        judged = _list_judged(run, verdicts)
        looks, damaged = _add_looks(run, [{**look, "judged": digest} for digest in judged])
    except OSError as error:
        return [f"looks are not counted: {describe_os_error(error)}"]
    except InputError as error:
        return [f"looks are not counted: {error}"]
    said = describe_looks(looks, test_set.images)
    if damaged:
        lines = "1 damaged line" if damaged == 1 else f"{damaged:,} damaged lines"
        said.append(f"not counted: {lines} of {LEDGER}")
    return said


def describe_looks(looks: int, images: int) -> list[str]:
    """Say how many looks there were, and the level after Bonferroni's correction; nothing of one.

    >>> for line in describe_looks(7, 1000):
    ...     print(line)
    7 looks at these 1,000 test images; one model judged by one set of rules is a look
    to keep 2.5 % over 7 looks, judge each at 0.357 %
    """
    if looks < 2:
        return []
    level = Context(prec=3, rounding=ROUND_DOWN).divide(MISSES, Decimal(looks))
    return [
        f"{looks:,} looks at these {images:,} test images; one model judged by one set of rules "
        "is a look",
        f"to keep {MISSES} % over {looks:,} looks, judge each at {level:f} %",
    ]


def _add_looks(run: RunFolder, new: Sequence[dict[str, str]]) -> tuple[int, int]:
    """Add looks at one test set unless they are known; count all looks at it, and damaged lines."""
    folder = run.path.resolve().parent
    ledger = resolve_inside(folder, LEDGER)
    with lock_folder(folder, PATIENCE, needed=False, name=LOCK):
        text = ledger.read_text(encoding="utf-8", errors="replace") if ledger.is_file() else ""
        written = [own for own in text.splitlines() if own.strip()]
        read = [own for own in map(_read_line, written) if own is not None]
        known = {own["judged"] for own in read if own["test_set"] == new[0]["test_set"]}
        added = [json.dumps(look) for look in new if look["judged"] not in known]
        if added:
            write_atomically(ledger, "\n".join([*written, *added, ""]))
    return len(known) + len(added), len(written) - len(read)


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


def _list_judged(run: RunFolder, verdicts: Sequence[Verdict]) -> list[str]:
    """A digest for each judged model, of its predictions of the test images and of its rules."""
    rules: dict[str, set[str]] = {}
    for own in verdicts:
        rules.setdefault(own.model, set()).add(str(replace(own.rule, model=None)))
    predictions: dict[str, list[str]] = {model: [] for model in rules}
    for step in run.steps():
        for name, checksum in step.files.items():
            place = parse_predictions_path(name)
            if place and place.part == TEST and place.model in rules:
                predictions[place.model].append(checksum)
    judged = [[sorted(predictions[model]), sorted(own)] for model, own in rules.items()]
    return list(dict.fromkeys(_digest(json.dumps(one)) for one in judged))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

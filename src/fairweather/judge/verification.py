"""Compute again what a run says, from its stored predictions, and compare."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pydantic

from fairweather.errors import InputError, join_names
from fairweather.files.tables import read_csv_rows, read_parquet_table
from fairweather.judge.model_card import compose_again, find_page, list_cards
from fairweather.progress import Event, Notify, shows_progress, silent, to_notify
from fairweather.runs.folder import RunFolder, open_finished_run, read_json
from fairweather.runs.provenance import drawing_versions
from fairweather.steps.dispatch import STEP_FUNCTIONS
from fairweather.steps.plan import (
    VERSIONS,
    AnyPredictionWay,
    AppliedVariant,
    EnsembleAverage,
    FitStep,
    PredictStep,
    ReportStep,
    ScoreStep,
    Step,
)
from fairweather.types.options import describe_invalid
from fairweather.types.record import (
    CLEAN,
    JOINED,
    RECORD,
    SCORES,
    SLICES,
    VAL,
    StepRecord,
    groups_file,
    is_part_of,
    predictions_file,
    step_file,
    variant_name,
)
from fairweather.variants.variant import complete_variants, find_variant, read_variant

Outcome = Literal["same", "equal", "differs", "changed", "missing", "not computed"]
# The numbers of another processor or library may differ in the last digits.
TOLERANCE = 1e-6
NUMBER = re.compile(r"(-?\d+\.?\d*(?:e-?\d+)?)")
DRAWN = "a picture of its SVG file, drawn with other pixels now"
DRAWINGS = (".png", ".svg")
# Figures in the page: the same as those of SVG files.
_DRAWN_IN_PAGE = re.compile(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]*")


class VerifiedFile(NamedTuple):
    """A file of a run, and what became of it when it was verified."""

    file: str
    """Its name in the run folder."""

    outcome: Outcome
    """`same` bytes; `equal` to six digits; `differs` from what is computed now; `changed` since a
    step wrote it; `missing`; or `not computed` here."""

    reason: str = ""
    """Where it differs, or why it was not computed."""


@dataclass(frozen=True)
class Verification:
    """Whether a run says what its stored predictions say."""

    path: Path
    """The run folder."""

    files: tuple[VerifiedFile, ...]
    """Every file that a step wrote, in the order of the steps' names, and then model cards."""

    @property
    def is_confirmed(self) -> bool:
        """Whether all scores were computed again, and no file differs or was changed."""
        wrong = WRONG & {file.outcome for file in self.files}
        scored = {file.outcome for file in self.files if file.file in SCORED}
        return not wrong and bool(scored) and scored <= {"same", "equal"}

    def __str__(self) -> str:
        counts = Counter((file.outcome, file.reason) for file in self.files)
        lines = []
        for outcome, words in WORDS.items():
            for (own, reason), count in counts.items():
                if own != outcome:
                    continue
                names = [f.file for f in self.files if (f.outcome, f.reason) == (own, reason)]
                shown = "" if outcome in ("same", "equal") else f": {join_names(names)}"
                why = f" ({reason})" if reason else ""
                lines.append(f"{count:>6,} {words}{shown}{why}")
        verdict = "confirmed" if self.is_confirmed else "not confirmed"
        return "\n".join([f"{verdict:<14} {self.path}", *lines])

    def to_json(self) -> str:
        """Write the verdict and the outcome of every file as JSON."""
        files = [file._asdict() for file in self.files]
        facts = {"run": str(self.path), "confirmed": self.is_confirmed, "files": files}
        return json.dumps(facts, indent=1) + "\n"


SCORED = (SCORES, SLICES)
WRONG: frozenset[Outcome] = frozenset({"differs", "changed"})
LATE = {"score": 1, "report": 2}  # steps that are computed after those that they are made from
WORDS: Mapping[Outcome, str] = {
    "changed": "changed since the run wrote it",
    "differs": "not what the stored predictions give",
    "missing": "missing",
    "same": "computed again: the same bytes",
    "equal": "computed again: the same numbers, to six digits",
    "not computed": "not computed again",
}


@shows_progress
def verify(run: str | os.PathLike[str], *, progress: Notify | bool | None = True) -> Verification:
    """Compute fits, scores, tables, sentences and figures again, and compare them with a run's own.

    They are computed in a temporary folder from stored predictions. Scores that differ are replaced
    there, so that tables and page are compared with what the predictions give. The files of the run
    are only read. What needs networks or images is not computed: it is compared
    with its checksum.

    Stored model cards are made again too, with what a person filled in.

    Raises:
        InputError: there is no run, or its record is damaged.
    """
    original = open_finished_run(Path(run))
    records = original.steps()
    outcomes = dict[str, VerifiedFile]()
    for record in records:
        for name, checksum in record.files.items():
            outcomes[name] = _compare_checksum(original, name, checksum)
    if not any(record.kind == "score" for record in records):
        raise InputError(f"{original.path} has no scores to verify; finish the run first")
    with tempfile.TemporaryDirectory(prefix="fairweather-") as folder:
        copy = _copy_run(original, Path(folder) / "run")
        tell, drawn = to_notify(progress), _describe_drawing(original)
        own = [record for record in records if is_part_of(original.record, record)]
        own.sort(key=lambda record: LATE.get(record.kind, 0))
        for number, record in enumerate(own, start=1):
            tell(Event("verify", number, len(own)))
            why = _compute(copy, record)
            for name in record.files:
                if outcomes[name].outcome == "same":
                    outcomes[name] = (
                        VerifiedFile(name, "not computed", why)
                        if why
                        else _compare(original.file(name), copy.file(name), name, drawn)
                    )
            if record.kind != "score" or why or not _have_other_scores(record, outcomes):
                for name in record.files:
                    _link(original, copy, name)
            else:  # what follows is computed from the right ones
                files = {name: copy.checksum(name) for name in record.files}
                copy.finish(record.model_copy(update={"files": files}))
        verified = [*outcomes.values()]
        for name in list_cards(original):
            for file in (name, find_page(name)):
                _link(original, copy, file)
            verified += _verify_card(copy, name)
    return Verification(original.path, tuple(_explain_others(verified)))


def _have_other_scores(record: StepRecord, outcomes: Mapping[str, VerifiedFile]) -> bool:
    return any(outcomes[name].outcome in WRONG for name in record.files)


def _explain_others(files: Sequence[VerifiedFile]) -> Iterator[VerifiedFile]:
    """Where scores differ, say of tables and pages that differ only that they have other scores."""
    wrong = [file.file for file in files if file.file in SCORED and file.outcome in WRONG]
    for file in files:
        is_made_of_them = wrong and file.outcome == "differs" and file.file not in SCORED
        yield file._replace(reason="made from other scores") if is_made_of_them else file


def _compare_checksum(run: RunFolder, name: str, checksum: str) -> VerifiedFile:
    if not run.file(name).is_file():
        return VerifiedFile(name, "missing")
    return VerifiedFile(name, "same" if run.checksum(name) == checksum else "changed")


def _copy_run(original: RunFolder, path: Path) -> RunFolder:
    """Make a folder with all that a run wrote, besides its report, to compute in."""
    copy = RunFolder(path)
    for name in (RECORD, JOINED):
        if original.file(name).is_file():
            copy.write(name, original.file(name).read_bytes())
    for record in original.steps():
        _link(original, copy, step_file(record.id))
        for name in record.files if record.kind != "report" else ():
            _link(original, copy, name)
    return copy


def _link(original: RunFolder, copy: RunFolder, name: str) -> None:
    """Put a file of a run into its copy. Files are replaced by renaming, never written into."""
    source, place = original.file(name), copy.file(name)
    place.unlink(missing_ok=True)
    if not source.is_file():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:  # on another disk
        shutil.copyfile(source, place)


# ---------------------------------------------------------------- computing again


def _compute(copy: RunFolder, record: StepRecord) -> str:
    """Do a step again in the copy, if that needs stored files alone; otherwise, say why not."""
    version, ours = record.depends.get("version"), VERSIONS.get(record.kind)
    if version != ours:
        return f"version {version} of this step wrote them, and this is {ours or 'without it'}"
    try:
        step = _restore_step(copy, record)
        if isinstance(step, str):
            return step
        for name in record.files:
            copy.file(name).unlink(missing_ok=True)
        # These steps read stored files alone, so the worker is never asked.
        STEP_FUNCTIONS[step.kind](step, None, copy, silent)  # type: ignore[arg-type]
    except FileNotFoundError:
        return "a file that they are computed from is missing"
    except InputError as error:
        return str(error).replace(f"{copy.path}/", "")
    return ""


def _restore_step(copy: RunFolder, record: StepRecord) -> Step | str:
    """Make a step again from its record; otherwise, say what it needs that a run does not have."""
    match record.kind, record.depends.get("way"):
        case "score", _:
            return _restore_score(copy, record)
        case "report", _:
            return ReportStep.model_construct()
        case "fit", _ if "network" not in record.depends:
            return _restore_fit(copy, record)
        case "predict", "applied" | "averaged":
            return _restore_prediction(copy, record)
        case "predict", "given":
            return "another program made them"
        case "group" | "read", _:
            return "that needs the table that they were read from"
    return "that needs networks or images"


def _restore_score(copy: RunFolder, record: StepRecord) -> ScoreStep:
    facts = {
        name: record.depends[name] for name in ScoreStep.model_fields if name in record.depends
    }
    try:
        step = ScoreStep.model_validate(
            {
                **facts,
                "id": record.id,
                "task": "score",
                "leaves": (*record.files,),
                "validation": False,
            }
        )
    except pydantic.ValidationError as error:
        raise InputError(describe_invalid(error.errors()[0])) from None
    settings = copy.record.settings
    variants = complete_variants(settings.variants, fit_on=bool(settings.fit_on))
    sets = {}
    for row in step.rows:
        variant = find_variant(row.model, variants)
        if variant is not None and variant.makes_sets:
            base = row.model.removesuffix(f"+{variant.name}")
            sets[row.file(CLEAN, VAL)] = str(variant.file(base, row.seed))
    known = copy.file(step.rows[0].file(CLEAN, VAL)).is_file()
    return step.model_copy(update={"validation": known, "sets": sets})


def _restore_fit(copy: RunFolder, record: StepRecord) -> FitStep:
    facts = record.depends
    variant = read_variant(facts["variant"])
    _, model, seed, _ = record.id.split("/")
    source = model.removesuffix(f"+{variant.name}")
    if variant.adapting is not None:
        source = variant_name(source, variant.adapting.name)
    shifts = facts.get("shifts", [CLEAN])
    assert isinstance(shifts, list)
    files = [
        predictions_file(source, seed.removeprefix("seed-"), str(text), VAL) for text in shifts
    ]
    groups = groups_file(VAL)
    return FitStep.model_construct(
        variant=variant.text,
        validation=files[0],
        more=tuple(files[1:]),
        stored=True,
        groups=groups if variant.makes_sets and copy.file(groups).is_file() else None,
        leaves=tuple(record.files),
    )


def _restore_prediction(copy: RunFolder, record: StepRecord) -> PredictStep:
    facts, (file,) = record.depends, record.files
    _, model, seed, *rest = file.split("/")
    if facts["way"] == "averaged":
        members = (f"predictions/{model}/seed-{s}/{'/'.join(rest)}" for s in copy.record.seeds)
        how: AnyPredictionWay = EnsembleAverage(members=tuple(members))
    else:
        variant = read_variant(facts["variant"])
        source = model.removesuffix(f"+{variant.name}")
        fitted = variant.file(source, seed.removeprefix("seed-"))
        if variant.adapting is not None:
            source = variant_name(source, variant.adapting.name)
        of = f"predictions/{source}/{seed}/{'/'.join(rest)}"
        how = AppliedVariant(of=of, variant=variant.text, fitted=fitted)
    return PredictStep.model_construct(
        how=how,
        leaves=(file,),
        shift=str(facts["shift"]) if "shift" in facts else "",
        ood_scores="ood_scores" in facts,
        labelled=facts.get("labelled", True),
    )


def _verify_card(run: RunFolder, name: str) -> Iterator[VerifiedFile]:
    """Make a stored card again, with what a person filled in, and compare."""
    try:
        files = dict(compose_again(run, name))
    except InputError as error:
        yield VerifiedFile(name, "not computed", str(error).replace(f"{run.path}/", ""))
        return
    for file, text in files.items():
        path = run.file(file)
        if not path.is_file():
            yield VerifiedFile(file, "missing")
        elif path.read_bytes() == text.encode():
            yield VerifiedFile(file, "same")
        else:
            difference = _find_in_text(path.read_text(encoding="utf-8", errors="replace"), text)
            yield VerifiedFile(file, "differs" if difference else "equal", difference)


# ---------------------------------------------------------------- comparing


def _describe_drawing(run: RunFolder) -> str:
    """Say which other versions drew the figures of a run; "" if none did, or none is recorded."""
    theirs = run.record.provenance.drawing
    other = [
        f"{package} ({theirs[package]}, here {ours})"
        for package, ours in drawing_versions().items()
        if theirs.get(package, ours) != ours
    ]
    return f"drawn by another version of {', '.join(other)}" if other else ""


def _compare(stored: Path, computed: Path, name: str, drawn: str) -> VerifiedFile:
    """Compare a file of a run with what was computed now; numbers to six digits.

    `drawn` says which other versions drew its figures; theirs may look different.
    """
    if not computed.is_file():
        return VerifiedFile(name, "differs", "it would not be written now")
    if stored.read_bytes() == computed.read_bytes():
        return VerifiedFile(name, "same")
    reader, is_text = READERS.get(computed.suffix), computed.suffix in TEXTS
    if not (reader or is_text) or (drawn and computed.suffix in DRAWINGS):
        return VerifiedFile(name, "not computed", drawn or DRAWN)
    if reader:
        difference = _find_difference(reader(stored), reader(computed))
    else:
        texts = [
            path.read_text(encoding="utf-8", errors="backslashreplace")
            for path in (stored, computed)
        ]
        if drawn and computed.suffix == ".html":
            texts = [_DRAWN_IN_PAGE.sub("", text) for text in texts]
        difference = _find_in_text(*texts)
    return VerifiedFile(name, "differs" if difference else "equal", difference)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    (_, header), *rows = read_csv_rows(path) or [(1, [])]
    return {f"row {line}": dict(zip(header, row, strict=False)) for line, row in rows}


READERS: Mapping[str, Callable[[Path], object]] = {
    ".csv": _read_rows,
    ".json": read_json,
    ".parquet": lambda path: read_parquet_table(path).to_pydict(),
}
TEXTS = (".html", ".md", ".svg", ".tex")
BEFORE, AFTER = 30, 40  # how many letters before and after a difference are shown


def _find_in_text(stored: str, computed: str) -> str:
    """Say where two texts differ first, beyond the last digits of a number; "" if nowhere.

    >>> _find_in_text("<p>Right in 95 %</p>", "<p>Right in 97 %</p>")
    "line 1: '<p>Right in 95 %</p>', now '<p>Right in 97 %</p>'"
    """
    pieces = [NUMBER.split(text) for text in (stored, computed)]
    for at, (own, now) in enumerate(zip_longest(*pieces, fillvalue="")):
        if own != now and not _is_close(own, now):
            pairs = enumerate(zip(own, now, strict=False))
            end = min(len(own), len(now))
            same = 0 if at % 2 else next((n for n, (a, b) in pairs if a != b), end)
            starts = [len("".join(split[:at])) + same for split in pieces]
            shown = [
                " ".join(text[max(start - BEFORE, 0) : start + AFTER].split())
                for text, start in zip((stored, computed), starts, strict=True)
            ]
            return f"line {stored.count(chr(10), 0, starts[0]) + 1}: {shown[0]!r}, now {shown[1]!r}"
    return ""


def _find_difference(stored: object, computed: object, place: str = "") -> str:
    """Say where two values differ first, beyond the last digits of a number; "" if nowhere."""
    if isinstance(stored, Mapping) and isinstance(computed, Mapping):
        if stored.keys() == computed.keys():
            return _first_difference((f"{place} {k}", stored[k], computed[k]) for k in stored)
    elif isinstance(stored, list) and isinstance(computed, list):
        if len(stored) == len(computed):
            pairs = enumerate(zip(stored, computed, strict=True))
            return _first_difference((f"{place} {n}", *pair) for n, pair in pairs)
    elif stored == computed or _is_close(stored, computed):
        return ""
    return f"{place.strip()}: {stored!s:.40}, now {computed!s:.40}"


def _first_difference(values: Iterable[tuple[str, object, object]]) -> str:
    return next(filter(None, (_find_difference(s, c, place) for place, s, c in values)), "")


def _is_close(stored: object, computed: object) -> bool:
    try:
        numbers = float(str(stored)), float(str(computed))
    except ValueError:
        return False
    return bool(np.isclose(*numbers, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))

"""A small copy of a run, to commit or to send: enough to join its seeds with those of others."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from fairweather.as_seeds.fitting import Part, check_fit, open_part
from fairweather.as_seeds.folder import begin, check_place, fill
from fairweather.as_seeds.planning import describe, plan_scores
from fairweather.as_seeds.taken import Taken
from fairweather.display import shows_progress, teller
from fairweather.errors import InputError, unknown_name
from fairweather.finished_run import Run
from fairweather.progress import Notify
from fairweather.record import DESCRIPTION, GROUPS, RunRecord, base_model
from fairweather.runs import lock_run, small_predictions
from fairweather.variants import read_variants, variant_of


@shows_progress
def pack_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    models: Sequence[str] | None = None,
    shifts: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    progress: Notify | bool | None = True,
) -> Run:
    """Make a small copy of a run, from which its seeds can be joined with those of others.

    It contains the records, the training histories, scores.csv, and the predictions in single
    precision without logits: about 10 bytes per image and cell. It contains no weights, no pictures
    and no ensembles, and it has no numbers that need logits, such as classwise errors. `join_seeds`
    and `fairweather compare` take it like any run; it cannot be continued. Absolute paths in the
    commands and in the description of the data are cut to their last part. Those in recipes stay,
    such as that of a file of weights: they are part of what a result depends on.

    Args:
        run: the run folder of a study.
        out: the folder of the copy; it is new, or was packed from this run before.
        models: which models to keep; by default all.
        shifts: which shifts and attacks to keep, by the names in scores.csv; by default all.
        variants: which of the run's variants to keep, by what stands behind `MODEL+`; by default
            all, `()` for none.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: a name is unknown, the run is no study or is unfinished, a file is damaged, or
            `out` contains something else.

    >>> import fairweather as fw
    >>> fw.pack_run("runs/missing", "packed")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fairweather.errors.InputError: runs/missing ...
    """
    whole, place, tell = open_part(Path(run)), Path(out), teller(progress)
    record = _chosen(whole.record, models, shifts, variants)
    part = whole.of(record)
    check_place(place, [Path(run)], [part])
    record = _without_folders(describe([part]))
    rest = plan_scores(record, [part], check_fit([part]))
    small = {step: _small(each) for step, each in rest.taken.items()}
    with lock_run(place) as folder:
        named = Part(_cut(part.name), part.run, _without_folders(part.record))
        begin(folder, record, [named], small)
        fill(folder, small, rest.plan, "pack", tell)
    return Run(place)


def _chosen(
    record: RunRecord,
    models: Sequence[str] | None,
    shifts: Sequence[str] | None,
    variants: Sequence[str] | None,
) -> RunRecord:
    """The record of what is kept, in the order of the run."""
    kept = _names("model", models, list(record.models))
    names = _names("shift", shifts, [sweep.name for sweep in record.sweeps])
    known = {each.name: each for each in read_variants(record.settings.variants)}
    uses = _names("variant", variants, list(known))
    if not kept:
        raise InputError("a copy without models has nothing to join: name a model, or none for all")
    return record.model_copy(
        update={
            "models": {name: each for name, each in record.models.items() if name in kept},
            "sweeps": tuple(sweep for sweep in record.sweeps if sweep.name in names),
            "variants": {
                name: title
                for name, title in record.variants.items()
                if base_model(name) in kept
                and ((of := variant_of(name, known.values())) is None or of.name in uses)
            },
            "seen_shifts": {
                name: each for name, each in record.seen_shifts.items() if base_model(name) in kept
            },
            "settings": record.settings.model_copy(
                update={"variants": tuple(known[name].text for name in uses)}
            ),
        }
    )


def _names(kind: str, asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The known names that were asked for, in their own order."""
    for name in asked or ():
        if name not in known:
            raise unknown_name(kind, name, known)
    return [name for name in known if asked is None or name in asked]


def _without_folders(record: RunRecord) -> RunRecord:
    """The record without the folders of this machine, which often contain a person's name."""
    data, provenance = record.data, record.provenance
    try:
        command = shlex.join(map(_cut, shlex.split(provenance.command)))
    except ValueError:  # not written by a shell: a quotation mark is missing
        command = " ".join(map(_cut, provenance.command.split()))
    return record.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "name": _cut(data.name),
                    "arguments": {key: _cut_all(each) for key, each in data.arguments.items()},
                    "notes": {key: _cut_all(each) for key, each in data.notes.items()},
                }
            ),
            "natural": {name: _cut(source) for name, source in record.natural.items()},
            "provenance": provenance.model_copy(update={"command": command}),
        }
    )


def _cut_all(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return _cut(value)
        case list():
            return [_cut_all(each) for each in value]
        case dict():
            return {key: _cut_all(each) for key, each in value.items()}
    return value


def _cut(word: str) -> str:
    """The word, with only the last part of each absolute path in it.

    >>> _cut("/home/ann/my data/"), _cut("--out=/home/ann/a"), _cut("folder:/home/ann/pets@64")
    ('.../my data', '--out=.../a', 'folder:.../pets@64')
    >>> _cut("runs/a"), _cut("https://example.org/a/b"), _cut("1/255")
    ('runs/a', 'https://example.org/a/b', '1/255')
    """
    if word.startswith("/"):
        return f".../{PurePosixPath(word).name}"
    return re.sub(r"(?<=[=:\s\[,])/(?!/)[^\s,\]]*", lambda found: _cut(found.group()), word)


def _small(taken: Taken) -> Taken:
    """The same step, with small files of predictions, no folders in descriptions, and checksums."""
    content = {name: _smaller(name, taken.read(name)) for name in taken.files}
    files = {name: hashlib.sha256(each).hexdigest() for name, each in content.items()}
    step = taken.step.model_copy(update={"files": {**taken.step.files, **files}})
    return Taken(step, taken.files, content.__getitem__)


def _smaller(name: str, content: bytes) -> bytes:
    if name.endswith(".parquet") and not name.startswith(f"{GROUPS}/"):
        return small_predictions(content)
    if PurePosixPath(name).name == DESCRIPTION:
        return json.dumps(_cut_all(json.loads(content)), indent=2).encode()
    return content

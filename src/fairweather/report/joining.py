"""Several runs as one: the models of each beside each other, where they saw the same images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fairweather.errors import InputError
from fairweather.report.contents import Contents, Sweep
from fairweather.report.reading import read_contents
from fairweather.report.words import MEAN, SUMMARIES
from fairweather.runs import RunFolder

UNEQUAL = "the runs have other levels than each other, and each mean is over a run's own"


def read_runs(runs: Sequence[RunFolder]) -> Contents:
    """Read one run, or several as one in which each model is called `RUN:MODEL`.

    Shifts are matched by name and their levels put together; a model has no score where its own run
    did not test it. Where models differ in how many seeds they have, a model with one is shown with
    that one, and the others with the mean over theirs.

    Raises:
        InputError: a folder without scores or named twice, or runs of different test images.
    """
    if len(runs) == 1:
        return read_contents(runs[0])
    labels = short_names([run.path for run in runs])
    parts = {label: read_contents(run) for label, run in zip(labels, runs, strict=True)}
    _check_same_images(parts)
    return Contents(
        study=_study(parts),
        provenance={label: part.provenance for label, part in parts.items()},
        titles=_titles(parts),
        sweeps=_sweeps(part.sweeps for part in parts.values()),
        scores=_scores(parts),
        runs={label: part.runs[""] for label, part in parts.items()},
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by as little of the end of their paths as tells them apart, without colons.

    >>> short_names([Path("/a/one"), Path("/a/two"), Path("/b/two")])
    ['one', 'a-two', 'b-two']
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = Counter(resolved).most_common(1)[0][0]
        raise InputError(f"{twice} is named twice; a report shows each run once")
    ends = ["-".join(path.parts[-1:]) for path in resolved]
    for depth in range(2, 1 + max(len(path.parts) for path in resolved)):
        unclear = {end for end, uses in Counter(ends).items() if uses > 1}
        ends = [
            "-".join(path.parts[-depth:]) if end in unclear else end
            for path, end in zip(resolved, ends, strict=True)
        ]
    return [end.replace(os.sep, "").replace(":", "-").replace("+", "-") for end in ends]


def _check_same_images(parts: Mapping[str, Contents]) -> None:
    seen = {label: _test_images(part) for label, part in parts.items()}
    (first, images), *others = seen.items()
    for label, theirs in others:
        if theirs[1:] != images[1:]:
            raise InputError(
                f"one report is for runs on the same test images, but {first} has "
                f"{_in_words(images)} and {label} {_in_words(theirs)}; report them one by one"
            )


def _test_images(part: Contents) -> tuple[str, Any, int]:
    data = part.provenance["data"]
    clean = part.scores[part.scores["shift"] == "clean"]
    return str(data["name"]), data.get("digests", {}).get("test"), int(clean["n"].max())


def _in_words(images: tuple[str, Any, int]) -> str:
    name, digest, n = images
    return f"{n:,} of {name} (digest {str(digest)[:8]})"


def _study(parts: Mapping[str, Contents]) -> dict[str, Any]:
    """What the page asks of a study, with the names of the models and pre-trainings as joined."""

    def joined(key: str) -> dict[str, Any]:
        return {
            f"{label}:{name}": entry
            for label, part in parts.items()
            for name, entry in (part.study.get(key) or {}).items()
        }

    names = " and ".join(parts)
    return {
        "name": names,
        "title": " and ".join(
            str(part.study.get("title") or part.study["name"]) for part in parts.values()
        ),
        "description": f"The models of {len(parts)} runs on the same test images: {names}.",
        "models": joined("models"),
        "pretraining": joined("pretraining"),
        "bootstrap": min(part.study["bootstrap"] for part in parts.values()),
    }


def _titles(parts: Mapping[str, Contents]) -> dict[str, str]:
    titles = {
        f"{label}:{name}": title
        for label, part in parts.items()
        for name, title in part.titles.items()
    }
    uses = Counter(titles.values())
    return {
        name: title if uses[title] == 1 else f"{title} ({name.partition(':')[0]})"
        for name, title in titles.items()
    }


def _sweeps(groups: Iterable[tuple[Sweep, ...]]) -> tuple[Sweep, ...]:
    """Put the levels of each shift together; of what is told otherwise, the first is kept."""
    found: dict[str, Sweep] = {}
    for sweep in (each for group in groups for each in group):
        before = found.get(sweep.name, sweep)
        cells = {**sweep.cells, **before.cells}
        ordered = {level: cells[level] for level in sorted(cells, key=float)}
        differ = UNEQUAL if sweep.cells.keys() != before.cells.keys() else ""
        notes = dict.fromkeys(note for note in (before.note, differ) if note)
        found[sweep.name] = replace(before, cells=ordered, note="; ".join(notes))
    return tuple(found.values())


def _scores(parts: Mapping[str, Contents]) -> pd.DataFrame:
    every = [
        part.scores.assign(model=label + ":" + part.scores["model"])
        for label, part in parts.items()
    ]
    seeds = {seed for part in parts.values() for seed in part.seeds}
    if len(seeds) > 1:
        every += [_as_mean(rows) for rows in every if not set(rows["seed"]) & set(SUMMARIES)]
    return pd.concat(every, ignore_index=True)


def _as_mean(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a run with one seed, as those of a mean over it."""
    return rows.assign(seed=MEAN)

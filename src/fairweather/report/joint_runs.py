"""Several runs as one: the models of each beside each other, where they saw the same images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fairweather.errors import InputError
from fairweather.report.contents import (
    Contents,
    Sweep,
    distinguish_titles,
    join_models,
    join_name,
    read_contents,
)
from fairweather.report.samples import Samples, read_samples
from fairweather.runs.folder import RunFolder
from fairweather.types.record import CLEAN, MEAN, OOD, PRIORS, SUMMARY_SEEDS, TEST

UNEQUAL_NOTE = "not every run has every shift and level; each mean is over those of its own run"
# Rows that a run of several seeds has for each seed alone.
BY_SEED = (PRIORS, OOD)


def read_runs(runs: Sequence[RunFolder]) -> Contents:
    """Read one run, or several as one in which each model is called `RUN:MODEL`.

    Shifts are matched by name and their levels put together, unless a level means something else in
    a later run (another kernel size): there the shift stands for itself, with the run's name. A
    model has no score where its own run did not test it. Where models differ in how many seeds they
    have, a model with one is shown with that one, and the others with the mean over theirs.

    Raises:
        InputError: a folder without scores or named twice, or runs of different test images.
    """
    if len(runs) == 1:
        return replace(read_contents(runs[0]), samples=read_samples(runs[0]))
    labels = shorten_names([run.path for run in runs])
    parts = {label: read_contents(run) for label, run in zip(labels, runs, strict=True)}
    _check_same_images(parts)
    parts = _rename_clashing_shifts(parts)
    titles = join_models({label: part.titles for label, part in parts.items()})
    cells = [{cell for sweep in p.sweeps for cell in sweep.cells.values()} for p in parts.values()]
    return Contents(
        records={label: part.records[""] for label, part in parts.items()},
        titles=distinguish_titles(titles, {name: name.partition(":")[0] for name in titles}),
        sweeps=_join_sweeps(part.sweeps for part in parts.values()),
        scores=join_scores({label: part.scores for label, part in parts.items()}),
        runs={label: part.runs[""] for label, part in parts.items()},
        caution="" if all(own == cells[0] for own in cells) else UNEQUAL_NOTE,
        samples=_join_samples(
            {label: read_samples(part.runs[""]) for label, part in parts.items()}
        ),
    )


def _join_samples(samples: Mapping[str, Samples | None]) -> Samples | None:
    """Put the pictures of several runs together, by what stands before the colon of their models.

    Strip and mixture are those of the first run that has any. Which images are wrong first for all
    models of several runs is unknown.
    """
    known = {label: own for label, own in samples.items() if own is not None}
    if not known:
        return None
    first = next((own for own in known.values() if own.strip), next(iter(known.values())))
    return first._replace(
        pictures={at: image for own in known.values() for at, image in own.pictures.items()},
        attacked={
            (join_name(label, model), cell, key): image
            for label, own in known.items()
            for (model, cell, key), image in own.attacked.items()
        },
        lost=None,
        mistakes=join_models({label: own.mistakes for label, own in known.items()}),
    )


def shorten_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by the shortest ends of their paths that are all different, without colons.

    >>> shorten_names([Path("/a/one"), Path("/a/two"), Path("/b/two")])
    ['one', 'a-two', 'b-two']
    """
    resolved = [path.resolve() for path in paths]
    parts = [[_drop_separators(part) for part in path.parts] for path in resolved]
    if len(set(resolved)) < len(resolved):
        twice = Counter(resolved).most_common(1)[0][0]
        raise InputError(f"{twice} is named twice; a report shows each run once")
    ends = [names[-1] for names in parts]
    for depth in range(2, 1 + max(map(len, parts))):
        unclear = {end for end, uses in Counter(ends).items() if uses > 1}
        ends = [
            "-".join(names[-depth:]) if end in unclear else end
            for names, end in zip(parts, ends, strict=True)
        ]
    # Two may still read alike, as a:b and a-b do.
    return [
        f"{end}-{1 + ends[:at].count(end)}" if ends.count(end) > 1 else end
        for at, end in enumerate(ends)
    ]


def _drop_separators(part: str) -> str:
    """Leave out what separates a run from its model, and a model from a variant."""
    return part.replace(os.sep, "").replace(":", "-").replace("+", "-")


def _check_same_images(parts: Mapping[str, Contents]) -> None:
    for needed, read, say, advice in SAME:
        if len({read(part) for part in parts.values()}) > 1:
            said = ", ".join(f"{label} {say(part)}" for label, part in parts.items())
            raise InputError(
                f"a report of several runs needs the same {needed}, but {said}; {advice}report "
                "them one by one"
            )


def _count_images(part: Contents) -> int:
    return int(part.scores["n"][part.scores["shift"] == CLEAN].max())


def _name_rows(part: Contents) -> str:
    return part.aggregation.plural if part.aggregation else "images"


# What several runs must have in common, how it is read and told, and what else helps.
SAME: Sequence[tuple[str, Callable[[Contents], Hashable], Callable[[Contents], str], str]] = (
    (
        "test images",
        lambda part: (part.data.digests.get(TEST), _count_images(part)),
        lambda part: (
            f"has {_count_images(part):,} of {part.data.name} (digest "
            f"{str(part.data.digests.get(TEST))[:8]})"
        ),
        "",
    ),
    (
        "unit",
        _name_rows,
        lambda part: f"judges {_name_rows(part)}",
        "measure all with the same --unit, or ",
    ),
    (
        "shift_seed, since random shifts differ by it",
        lambda part: part.shift_seed,
        lambda part: f"has {part.shift_seed}",
        "",
    ),
    (
        "groups of images",
        lambda part: part.grouping and part.grouping.numbers.tobytes(),
        lambda part: f"has {f'{part.grouping.count:,}' if part.grouping else 'none'}",
        "measure all with the same --metadata and --group, or ",
    ),
)


def _rename_clashing_shifts(parts: Mapping[str, Contents]) -> dict[str, Contents]:
    """Rename the shifts of later runs that are made otherwise than those of a former run."""
    seen: dict[str, set[str]] = {}
    renamed = {}
    for label, part in parts.items():
        others = {
            sweep.name: f"{sweep.name}@{label}"
            for sweep in part.sweeps
            if seen.get(sweep.name, made := _shift_parameters(sweep)) != made
        }
        sweeps = tuple(
            replace(sweep, name=others[sweep.name], title=f"{sweep.title} ({label})")
            if sweep.name in others
            else sweep
            for sweep in part.sweeps
        )
        scores = part.scores.assign(shift=part.scores["shift"].replace(others))
        renamed[label] = replace(part, sweeps=sweeps, scores=scores)
        seen = {sweep.name: _shift_parameters(sweep) for sweep in sweeps} | seen
    return renamed


def _shift_parameters(sweep: Sweep) -> set[str]:
    """How a shift is made beside its levels: what its ids say after name and level."""
    return {part for cell in sweep.cells.values() for part in cell.split(",")[2:]}


def _join_sweeps(groups: Iterable[tuple[Sweep, ...]]) -> tuple[Sweep, ...]:
    """Put the levels of each shift together; of what is told otherwise, the first is kept."""
    joined: dict[str, Sweep] = {}
    for sweep in (sweep for group in groups for sweep in group):
        before = joined.get(sweep.name, sweep)
        cells = {**sweep.cells, **before.cells}
        constants = {**sweep.constants, **before.constants}
        joined[sweep.name] = replace(
            before,
            cells={level: cells[level] for level in sorted(cells, key=float)},
            constants={level: constants[level] for level in sorted(constants, key=float)},
        )
    return tuple(joined.values())


def join_scores(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the scores of runs, by label; models are called `LABEL:MODEL`."""
    every = [
        table.assign(model=join_name(label, "") + table["model"]) for label, table in tables.items()
    ]
    if len({seed for rows in every for seed in rows["seed"]} - {*SUMMARY_SEEDS}) > 1:
        # The rows of a run with one seed are also those of a mean over it.
        every += [
            rows[~rows["shift"].str.startswith(BY_SEED)].assign(seed=MEAN)
            for rows in every
            if not set(rows["seed"]) & set(SUMMARY_SEEDS)
        ]
    return pd.concat(every, ignore_index=True)

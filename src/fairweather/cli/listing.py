"""The names of everything that the command line takes by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from fairweather.errors import unknown_name

SECTIONS = ("studies", "shifts", "attacks", "suites", "metrics", "data", "pretraining")


def list_names(
    what: Annotated[
        str,
        typer.Argument(
            help="studies, shifts, attacks, suites, metrics, data or pretraining; all by default."
        ),
    ] = "all",
) -> None:
    """List all studies, shifts, attacks, suites, metrics, data sources and pre-training methods."""
    if what not in ("all", *SECTIONS):
        raise unknown_name("list", what, ["all", *SECTIONS])
    for title, entries in zip(SECTIONS, _sections(), strict=True):
        if what in ("all", title):
            typer.echo(f"{title}:")
            for name, description in entries:
                typer.echo(f"  {name:<42}{description}")


def _sections() -> list[list[tuple[str, str]]]:
    """Names with descriptions, in the order of `SECTIONS`."""
    from fairweather.attacks import ATTACKS
    from fairweather.data import SOURCES
    from fairweather.metrics.rows import every_row
    from fairweather.shifts import SHIFTS, SUITES
    from fairweather.training.selfsupervised import METHODS

    return [
        list(_study_entries()),
        [(name, f"{kind.title}: {kind.level_title}") for name, kind in SHIFTS.items()],
        [(name, f"{kind.title}: {kind.level_title}") for name, kind in ATTACKS.items()],
        [(name, _few(sweeps)) for name, sweeps in SUITES.items()],
        [(row.name, row.label) for row in every_row()],
        [(name, (load.__doc__ or "").partition("\n")[0]) for name, load in SOURCES.items()],
        [(name, method.title) for name, method in METHODS.items()],
    ]


def _few(sweeps: Iterable[str], most: int = 4) -> str:
    names = [name.rpartition("/")[2] for name in sweeps]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _study_entries() -> Iterator[tuple[str, str]]:
    from fairweather.study import packaged_studies, study_facts
    from fairweather.yamlfile import parse_yaml

    for name, text in packaged_studies().items():
        yield name, parse_yaml(text).get("title", "")
        for fact, words in study_facts(text).items():
            yield "", f"{fact}: {words}"

"""The names of everything that the command line takes by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated

import typer

from fairweather.errors import unknown_name

Entries = Iterable[tuple[str, str]]


def list_names(
    what: Annotated[
        str,
        typer.Argument(
            help="studies, shifts, attacks, suites, metrics, models, data or pretraining; all by "
            "default."
        ),
    ] = "all",
) -> None:
    """List all that is taken by name: studies, shifts, metrics, sources of models and data."""
    if what not in ("all", *SECTIONS):
        raise unknown_name("list", what, ["all", *SECTIONS])
    for title, entries in SECTIONS.items():
        if what in ("all", title):
            typer.echo(f"{title}:")
            for name, description in entries():
                typer.echo(f"  {name:<41} {description}")


def _shifts() -> Entries:
    from fairweather.shifts import SHIFTS

    return [(name, f"{kind.title}: {kind.level_title}") for name, kind in SHIFTS.items()]


def _attacks() -> Entries:
    from fairweather.attacks import ATTACKS

    return [(name, f"{kind.title}: {kind.level_title}") for name, kind in ATTACKS.items()]


def _suites() -> Entries:
    from fairweather.shifts import SUITES

    return [(name, _few(sweeps)) for name, sweeps in SUITES.items()]


def _metrics() -> Entries:
    from fairweather.metrics.rows import every_row

    return [(row.name, row.label) for row in every_row()]


def _models() -> Entries:
    from fairweather.models import SOURCES

    return [(source.form, source.title) for source in SOURCES.values()]


def _data() -> Entries:
    from fairweather.data import SOURCES

    return [(name, (load.__doc__ or "").partition("\n")[0]) for name, load in SOURCES.items()]


def _pretraining() -> Entries:
    from fairweather.training.selfsupervised import METHODS

    return [(name, method.title) for name, method in METHODS.items()]


def _few(sweeps: Iterable[str], most: int = 4) -> str:
    names = [name.rpartition("/")[2] for name in sweeps]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _studies() -> Iterator[tuple[str, str]]:
    from fairweather.study import packaged_studies, study_facts
    from fairweather.yamlfile import parse_yaml

    for name, text in packaged_studies().items():
        yield name, parse_yaml(text).get("title", "")
        for fact, words in study_facts(text).items():
            yield "", f"{fact}: {words}"


SECTIONS: Mapping[str, Callable[[], Entries]] = {
    "studies": _studies,
    "shifts": _shifts,
    "attacks": _attacks,
    "suites": _suites,
    "metrics": _metrics,
    "models": _models,
    "data": _data,
    "pretraining": _pretraining,
}

"""What there is by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer


def list_names(
    what: Annotated[
        str, typer.Argument(help="studies, shifts, attacks, suites, metrics, data or pretraining.")
    ] = "all",
) -> None:
    """List what there is by name: studies, shifts, metrics, data sources, pre-training methods."""
    from fairweather.errors import unknown_name

    sections = _sections()
    if what != "all" and what not in sections:
        raise unknown_name("list", what, ["all", *sections])
    for title, entries in sections.items():
        if what in ("all", title):
            typer.echo(f"{title}:")
            for name, description in entries:
                typer.echo(f"  {name:<42}{description}")


def _sections() -> dict[str, list[tuple[str, str]]]:
    from fairweather.attacks import ATTACKS
    from fairweather.data import SOURCES
    from fairweather.metrics import METRICS
    from fairweather.shifts import SHIFTS, SUITES
    from fairweather.steps.derived import DERIVED
    from fairweather.training.selfsupervised import METHODS

    return {
        "studies": list(_study_entries()),
        "shifts": [(name, f"{kind.title}: {kind.level_title}") for name, kind in SHIFTS.items()],
        "attacks": [(name, f"{kind.title}: {kind.level_title}") for name, kind in ATTACKS.items()],
        "suites": [(name, _few(sweeps)) for name, sweeps in SUITES.items()],
        "metrics": [
            *((metric.name, metric.label) for metric in METRICS),
            *((metric.name, metric.label) for metric in DERIVED),
        ],
        "data": [(name, (load.__doc__ or "").partition("\n")[0]) for name, load in SOURCES.items()],
        "pretraining": [(name, method.title) for name, method in METHODS.items()],
    }


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

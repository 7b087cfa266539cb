"""What the page says about how its numbers were made: settings, formulas, and citation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from fairweather.metrics.metric import MetricRow
from fairweather.metrics.rows import find_row
from fairweather.record import TEST, RunRecord, base_model
from fairweather.report.contents import Contents
from fairweather.report.table_formats import escape_latex
from fairweather.report.tables import ABSENT
from fairweather.report.training_files import read_recipes, read_starts
from fairweather.runs import fingerprint
from fairweather.types import in_255ths

# ---- formulas


def formulas(contents: Contents) -> list[MetricRow]:
    """Give each metric that the run has numbers of, in the order of scores.csv."""
    rows = map(find_row, contents.scores["metric"].unique())
    return list({row.name: row for row in rows if row}.values())


# ---- settings


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys and plain text.

    >>> list(flatten({"git": {"dirty": False}, "seeds": [0, 1]}))
    [('git.dirty', 'no'), ('seeds', '0; 1')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _plain(value)


def _plain(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return in_255ths(value) or f"{value:g}"
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return str(value)


def settings(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Name each setting that has an effect for some model, with its value for every model."""
    recipes, starts = read_recipes(contents), read_starts(contents)
    models = []
    for name in contents.titles:
        base = base_model(name)
        entry: dict[str, object] = dict(contents.models[base].settings)
        recipe = _effective(recipes.get(base, {}))
        tuning = {key: entry.pop(key, None) for key in ("sweep", "sweep_metric")}
        start = {"started_from": starts.get(base, {})} if starts else {}
        described = entry | start | {"recipe": recipe} | (tuning if tuning["sweep"] else {})
        models.append(dict(flatten(described)))
    keys = dict.fromkeys(key for model in models for key in model)
    # Where some models have parts of a setting, these parts show that the others have none of it.
    parents = {key.rpartition(".")[0] for key in keys}
    for key in (key for key in keys if key not in parents):
        yield key, [model.get(key, ABSENT) for model in models]


def _effective(recipe: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Leave out settings that have no effect beside the others, and write rotation as one."""
    schedule = recipe.get("schedule")
    idle = {
        "momentum": recipe.get("optimizer") != "sgd",
        "schedule_gamma": schedule not in ("exponential", "step"),
        "schedule_step": schedule != "step",
    }
    kept = {key: value for key, value in recipe.items() if not idle.get(key)}
    match kept.get("rotation"):
        case {"degrees": degrees, "probability": probability}:
            kept["rotation"] = f"{degrees:g}°, p = {probability:g}"
    return kept


# ---- citation


def citation(contents: Contents) -> str:
    """Write a BibTeX entry of the software, and one of each run that the page shows."""
    first, *_ = contents.records.values()
    software = {
        "author": "The fairweather authors",
        "title": "fairweather: will this image classifier still work, and still know when it "
        "doesn't, once the weather changes?",
        "version": first.provenance.versions.get("fairweather", "unknown"),
    }
    runs = [
        _run(label, f"Run {label}" if label else contents.title, record)
        for label, record in contents.records.items()
    ]
    return "\n\n".join([_entry("software", "fairweather", software), *runs])


def _run(label: str, title: str, record: RunRecord) -> str:
    digest = record.data.digests.get(TEST, "unknown")[:16]
    note = [
        f"Made with: {record.provenance.command}",
        f"record {fingerprint(record.lasting())}",
        f"test images of {record.data.name} with SHA-256 {digest}...",
    ]
    match record.provenance.git.get("fairweather"):
        case {"revision": revision, "dirty": dirty}:
            changes = ", with uncommitted changes" if dirty else ""
            note.append(f"git revision {revision}{changes}")
    time = record.provenance.time
    fields = {"title": title, "year": time[:4], "date": time[:10], "note": ". ".join(note)}
    key = "-".join(part for part in ("run", label, record.name) if part)
    return _entry("misc", re.sub(r"[^A-Za-z0-9-]+", "-", key), fields)


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    # A second pair of braces, so that a group of authors is one author and capitals stay.
    lines = [f"  {name} = {{{{{_safe(value)}}}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _safe(text: str) -> str:
    """Write text as BibTeX takes it: no braces, and what means something to LaTeX escaped."""
    return escape_latex(text.replace("{", "(").replace("}", ")"))

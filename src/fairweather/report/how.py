"""What the page says about how its numbers were made: settings, formulas, and citation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fairweather.metrics.metric import MetricRow
from fairweather.metrics.rows import find_row
from fairweather.record import TEST, RunRecord
from fairweather.report.contents import Contents
from fairweather.report.section import Part, Shown, Tables
from fairweather.report.table_formats import escape_latex
from fairweather.runs import fingerprint
from fairweather.types import in_255ths

# ---- formulas


def formulas(contents: Contents) -> list[MetricRow]:
    """Give each metric that the run has numbers of, in the order of scores.csv."""
    rows = map(find_row, contents.scores["metric"].unique())
    return list({row.name: row for row in rows if row}.values())


# ---- facts


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


def _by_run(
    contents: Contents, facts: Callable[[RunRecord], Mapping[str, object]]
) -> Mapping[str, object]:
    """What is said of each run, by its label; of a single run without one."""
    told = {label: facts(record) for label, record in contents.records.items()}
    return told.get("", told)


def _provenance(record: RunRecord) -> Mapping[str, object]:
    facts = record.model_dump(mode="json", include={"provenance", "data"})
    return {**facts["provenance"], "data": facts["data"]}


def _description(record: RunRecord) -> Mapping[str, object]:
    """Everything else in the record; the shifts have a list of their own."""
    return record.model_dump(mode="json", exclude={"version", "provenance", "data", "sweeps"})


def _shifts(contents: Contents, _: Tables) -> Shown | None:
    return Shown("Shifts", template="shifts.html.j2") if contents.sweeps else None


def _metrics(contents: Contents, _: Tables) -> Shown:
    facts = {"formulas": formulas(contents)}
    return Shown("Metrics", template="metrics.html.j2", facts=facts)


def _citation(contents: Contents, _: Tables) -> Shown:
    facts = {"citation": citation(contents)}
    return Shown("How to cite", template="citation.html.j2", facts=facts)


def _records(contents: Contents, _: Tables) -> Shown:
    facts = {
        "provenance": list(flatten(_by_run(contents, _provenance))),
        "described": list(flatten(_by_run(contents, _description))),
    }
    return Shown("Provenance", template="provenance.html.j2", facts=facts)


SHIFTS, METRICS, CITATION, RECORDS = (
    Part(shown, accepts=None) for shown in (_shifts, _metrics, _citation, _records)
)

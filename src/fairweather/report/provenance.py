"""What the page says about how its numbers were made: settings, formulas, and citation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fairweather.metrics.metric import MetricRow
from fairweather.metrics.rows import find_row
from fairweather.report.contents import Contents
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import escape_latex
from fairweather.runs.folder import fingerprint
from fairweather.types.measurement import format_255ths
from fairweather.types.record import TEST, RunRecord

# ---- formulas


def find_formulas(contents: Contents) -> list[MetricRow]:
    """Give each metric that the run has numbers of, in the order of scores.csv."""
    rows = map(find_row, contents.scores["metric"].unique())
    return list({row.name: row for row in rows if row}.values())


# ---- facts


def flatten_facts(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write nested mappings as dotted keys and plain text.

    >>> list(flatten_facts({"git": {"dirty": False}, "seeds": [0, 1]}))
    [('git.dirty', 'no'), ('seeds', '0; 1')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten_facts(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _format_fact(value)


def _format_fact(value: object) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_255ths(value) or f"{value:g}"
    if isinstance(value, list):
        return "; ".join(map(_format_fact, value))
    return str(value)


# ---- citation


def write_citation(contents: Contents) -> str:
    """Write a BibTeX entry of the software, and one of each run that the page shows."""
    first, *_ = contents.records.values()
    software = {
        "author": "The fairweather authors",
        "title": "fairweather: will this image classifier still work, and still know when it "
        "doesn't, once the weather changes?",
        "version": first.provenance.versions.get("fairweather", "unknown"),
    }
    runs = [
        _cite_run(label, f"Run {label}" if label else contents.title, record)
        for label, record in contents.records.items()
    ]
    return "\n\n".join([_write_bibtex("software", "fairweather", software), *runs])


def _cite_run(label: str, title: str, record: RunRecord) -> str:
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
    return _write_bibtex("misc", re.sub(r"[^A-Za-z0-9-]+", "-", key), fields)


def _write_bibtex(kind: str, key: str, fields: Mapping[str, str]) -> str:
    # A second pair of braces, so that a group of authors is one author and capitals stay.
    lines = [
        f"  {name} = {{{{{_escape_bibtex(value)}}}}}," for name, value in fields.items() if value
    ]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _escape_bibtex(text: str) -> str:
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


def _show_shifts(contents: Contents, _: Tables) -> PartView | None:
    return PartView("Shifts", template="shifts.html.j2") if contents.sweeps else None


def _show_metrics(contents: Contents, _: Tables) -> PartView:
    facts = {"formulas": find_formulas(contents)}
    return PartView("Metrics", template="metrics.html.j2", facts=facts)


def _show_citation(contents: Contents, _: Tables) -> PartView:
    facts = {"citation": write_citation(contents)}
    return PartView("How to cite", template="citation.html.j2", facts=facts)


def _show_records(contents: Contents, _: Tables) -> PartView:
    facts = {
        "provenance": list(flatten_facts(_by_run(contents, _provenance))),
        "described": list(flatten_facts(_by_run(contents, _description))),
    }
    return PartView("Provenance", template="provenance.html.j2", facts=facts)


SHIFTS, METRICS, CITATION, RECORDS = (
    ReportPart(shown, accepts=None)
    for shown in (_show_shifts, _show_metrics, _show_citation, _show_records)
)

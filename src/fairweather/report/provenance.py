"""What the page says about how its numbers were made: settings, formulas, and citation."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fairweather.metrics.metric import MetricRow
from fairweather.metrics.rows import find_row
from fairweather.report.contents import Contents
from fairweather.report.facts import flatten_facts
from fairweather.report.section import ReportPart, show_facts
from fairweather.report.tables import escape_latex
from fairweather.runs.folder import fingerprint
from fairweather.types.record import TEST, RunRecord

# ---- formulas


def find_formulas(contents: Contents) -> list[MetricRow]:
    """Give each metric that the run has numbers of, in the order of scores.csv."""
    rows = map(find_row, contents.scores["metric"].unique())
    return list({row.name: row for row in rows if row}.values())


# ---- citation


def write_citation(contents: Contents) -> str:
    """Write a BibTeX entry of the software, and one of each run that the page shows."""
    first, *_ = contents.records.values()
    software = {
        "author": "The fairweather authors",
        "title": "fairweather: accuracy and calibration of image classifiers under shift",
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


def _find_records(contents: Contents) -> Mapping[str, object]:
    """What the record of each run says, by its label, and of a single run without one."""
    about: dict[str, object] = {}
    rest: dict[str, object] = {}
    for label, record in contents.records.items():
        facts = record.model_dump(mode="json", include={"provenance", "data"})
        about[label] = {**facts["provenance"], "data": facts["data"]}
        # The shifts have a list of their own.
        about_run = {"version", "provenance", "data", "sweeps"}
        rest[label] = record.model_dump(mode="json", exclude=about_run)
    return {
        "provenance": list(flatten_facts(about.get("", about))),
        "described": list(flatten_facts(rest.get("", rest))),
    }


SHIFTS, METRICS, CITATION, RECORDS, GLOSSARY = (
    ReportPart(show_facts(heading, f"{template}.html.j2", find), accepts=None)
    for heading, template, find in (
        ("Shifts", "shifts", lambda contents: {} if contents.sweeps else None),
        ("Metrics", "metrics", lambda contents: {"formulas": find_formulas(contents)}),
        ("How to cite", "citation", lambda contents: {"citation": write_citation(contents)}),
        ("Provenance", "provenance", _find_records),
        ("", "glossary", lambda _: {}),
    )
)

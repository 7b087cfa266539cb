"""How to cite: the software with its version, and the run with what identifies it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fairweather.report.contents import Contents
from fairweather.report.formats import escape_latex


def citation(contents: Contents) -> str:
    """Write a BibTeX entry of the software, and one of each run that the page shows."""
    runs = contents.each_provenance()
    version = next(iter(runs.values())).get("versions", {}).get("fairweather", "unknown")
    entries = [
        _entry(
            "software",
            "fairweather",
            {
                "author": "The fairweather authors",
                "title": "fairweather: will this image classifier still work, and still know when "
                "it doesn't, once the weather changes?",
                "version": version,
            },
        )
    ]
    entries += map(_run, runs, _titles(contents), runs.values())
    return "\n\n".join(entries)


def _run(label: str, title: str, facts: Mapping[str, Any]) -> str:
    data = facts["data"]
    git = (facts.get("git") or {}).get("fairweather") or {}
    changes = ", with uncommitted changes" if git.get("dirty") else ""
    digest = str(data.get("digests", {}).get("test", "unknown"))[:16]
    note = [
        f"Made with: {facts.get('command', 'unknown')}",
        f"study {facts.get('study', 'unknown')}",
        f"test images of {data['name']} with SHA-256 {digest}...",
    ]
    note += [f"git revision {git['revision']}{changes}"] if git.get("revision") else []
    fields = {"title": title, "year": str(facts.get("time", ""))[:4]}
    fields["date"] = str(facts.get("time", ""))[:10]
    fields["note"] = ". ".join(note)
    key = "-".join(part for part in ("run", label, str(facts.get("study", ""))) if part)
    return _entry("misc", re.sub(r"[^A-Za-z0-9-]+", "-", key), fields)


def _titles(contents: Contents) -> list[str]:
    """The title of each run."""
    if len(contents.runs) > 1:
        return [f"Run {label}" for label in contents.runs]
    return [str(contents.study.get("title") or contents.study["name"])]


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    # A second pair of braces, so that a group of authors is one author and capitals stay.
    lines = [f"  {name} = {{{{{_safe(value)}}}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _safe(text: str) -> str:
    """Write text as BibTeX takes it: no braces, and what means something to LaTeX escaped."""
    return escape_latex(text.replace("{", "(").replace("}", ")"))

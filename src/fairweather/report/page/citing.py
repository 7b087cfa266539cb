"""How to cite: the software with its version, and the run with what identifies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairweather.report.contents import Contents


def citation(contents: Contents) -> str:
    """Write a BibTeX entry of the software, and one of each run that the page shows."""
    runs = contents.each_provenance()
    version = next(iter(runs.values())).get("versions", {}).get("fairweather", "unknown")
    entries = [
        _entry(
            "software",
            "fairweather",
            {
                "author": "{The fairweather authors}",
                "title": "fairweather: will this image classifier still work, and still know when "
                "it doesn't, once the weather changes?",
                "version": version,
            },
        )
    ]
    return "\n\n".join([*entries, *(_run(label, facts) for label, facts in runs.items())])


def _run(label: str, facts: Mapping[str, Any]) -> str:
    data = facts["data"]
    revision = ((facts.get("git") or {}).get("fairweather") or {}).get("revision")
    digest = str(data.get("digests", {}).get("test", "unknown"))[:16]
    note = [
        f"Made with: {facts.get('command', 'unknown')}",
        f"study {facts.get('study', 'unknown')}",
        f"test images of {data['name']} with SHA-256 {digest}...",
    ]
    note += [f"git revision {revision}"] if revision else []
    fields = {"title": f"Run {label}".strip(), "year": str(facts.get("time", ""))[:4]}
    fields["date"] = str(facts.get("time", ""))[:10]
    fields["note"] = ". ".join(note)
    return _entry("misc", f"run-{facts.get('study', 'unknown')}", fields)


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    lines = [f"  {name} = {{{_safe(value)}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _safe(text: str) -> str:
    """Keep braces balanced, since BibTeX reads them."""
    balanced = text.count("{") == text.count("}") and not text.startswith("}")
    return text if balanced else text.replace("{", "(").replace("}", ")")

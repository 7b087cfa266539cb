"""What ran, on what and with what: study.yaml and provenance.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fairweather.attacks import ATTACKS, AttackKind
from fairweather.errors import InputError
from fairweather.measuring.setting import Setting
from fairweather.measuring.variant_plans import variant_phrase
from fairweather.runs import fingerprint, provenance
from fairweather.shifts import SHIFTS, ShiftKind
from fairweather.types import Attack, Shift, in_255ths
from fairweather.variants import variant_name
from fairweather.yamlfile import dump_yaml, read_yaml


def describe_run(
    setting: Setting,
    document: Mapping[str, Any],
    titles: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write study.yaml and provenance.json.

    What is taken up again on the same machine with the same versions keeps the time and the command
    that began it.

    Args:
        setting: the data, the shifts and the folder.
        document: the content of study.yaml; its `name` tells this run from others.
        titles: of the models, by name.
        more: facts for provenance.json.
        beside: titles of what is measured beside the models, by name: `MODEL+...`.

    Raises:
        InputError: the folder holds a run of another name.
    """
    run, dataset = setting.run, setting.dataset
    stored = run.path / "study.yaml"
    if stored.exists() and (name := read_yaml(stored)["name"]) != document["name"]:
        raise InputError(
            f"{run.path} holds the run of {name!r}, not of {document['name']!r}; "
            "name another folder with --out"
        )
    text = dump_yaml(document)
    if stored.exists() and stored.read_text() != text:
        run.discard("scores", "report")
    run.write("study.yaml", text)
    variants = _variant_titles(setting, titles, beside or {})
    facts = provenance(setting.device) | {
        "study": fingerprint(document),
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "digests": dict(setting.digests),
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "notes": dict(dataset.notes),
        },
        "shifts": describe_shifts(setting.shifts, min(dataset.test.images.shape[2:])),
        **({"variants": variants} if variants else {}),
        **(more or {}),
    }
    path = run.path / "provenance.json"
    if path.exists() and _lasting(json.loads(path.read_text())) == _lasting(facts):
        return
    run.write("provenance.json", json.dumps(facts, indent=1) + "\n")


def _variant_titles(
    setting: Setting, titles: Mapping[str, str], beside: Mapping[str, str]
) -> dict[str, str]:
    """Titles of all that is measured beside the models, each before its variants."""
    found = {}
    for name, title in {**titles, **beside}.items():
        if name in beside:
            found[name] = title
        for variant in setting.variants:
            phrase = variant_phrase(setting, variant)
            found[variant_name(name, variant)] = f"{title} + {phrase}"
    return found


def kind_of(name: str) -> ShiftKind | AttackKind:
    """The row of a shift's or an attack's table."""
    return ATTACKS[name] if name in ATTACKS else SHIFTS[name]


def describe_shifts(
    shifts: Sequence[Shift | Attack], image_size: int | None = None
) -> list[dict[str, Any]]:
    """Say what a report needs to know of each sweep: titles, the neutral level, ids and levels.

    With the image size, which chooses the constants of some shifts, these stand with each cell.
    """
    sweeps: dict[str, list[Shift | Attack]] = {}
    for shift in shifts:
        if shift.level is not None:
            sweeps.setdefault(shift.name, []).append(shift)
    described = []
    for name, members in sweeps.items():
        kind = kind_of(name)
        notes = [
            f"{in_255ths(m.level_name) or m.level_name}: {text}"
            for m in members
            if (text := kind.note(m.parameters))
        ]
        described.append(
            {
                "name": name,
                "title": kind.title,
                "level_title": kind.level_title,
                "neutral": kind.neutral,
                "note": "; ".join(notes),
                "cells": [_describe_cell(member, image_size) for member in members],
            }
        )
    return described


def _describe_cell(shift: Shift | Attack, image_size: int | None) -> dict[str, Any]:
    described = {"id": shift.id, "level": shift.level}
    if isinstance(shift, Shift) and image_size and "image_size" in SHIFTS[shift.name].known:
        stated = {"image_size": image_size, **shift.parameters}
        described["constants"] = (
            f"for images of {stated['image_size']} pixels: {SHIFTS[shift.name].note(stated)}"
        )
    return described


def _lasting(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("time", "command", "git")}

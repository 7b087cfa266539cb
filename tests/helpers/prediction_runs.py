"""Runs of made-up predictions, in a second each: of classes, grades, findings and patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.special

import fairweather as fw

TEST, VAL = 160, 200
SITES = ("north", "south")


def draw_classes(
    names: tuple[str, ...], strength: float, seed: int, count: int, start: str
) -> pd.DataFrame:
    """Probabilities of classes, right as often as they are strong, with label, patient and site."""
    labels = np.random.default_rng([count, 1]).integers(len(names), size=count)
    noise = np.random.default_rng([count, 2, seed]).normal(size=(count, len(names)))
    logits = noise + strength * np.eye(len(names))[labels]
    table = pd.DataFrame(scipy.special.softmax(logits, axis=1), columns=list(names))
    table.insert(0, "label", [names[label] for label in labels])
    return _name_images(table, start)


def draw_findings(
    names: tuple[str, ...], strength: float, seed: int, count: int, start: str
) -> pd.DataFrame:
    """Probabilities of findings of patients with two images each; without the labels."""
    rng = np.random.default_rng([count, 2, seed])
    logits = rng.normal(size=(count, len(names))) + strength * (label_findings(names, count) - 0.5)
    return _name_images(pd.DataFrame(scipy.special.expit(logits), columns=list(names)), start)


def label_findings(names: tuple[str, ...], count: int) -> np.ndarray:
    """Which findings each image has: those of its patient."""
    patients = np.random.default_rng([count, 1]).random((count // 2, len(names))) < 0.4
    return np.repeat(patients, 2, axis=0)


def _name_images(table: pd.DataFrame, start: str) -> pd.DataFrame:
    table.insert(0, "file", [f"{start}{number:04}.png" for number in range(len(table))])
    return table


def write_people(folder: Path) -> Path:
    """Write the patient and the site of each image: two images of each patient."""
    rows = [
        (f"{start}{number:04}.png", f"{start}{number // 2}", SITES[number // 2 % 2])
        for start, count in (("test", TEST), ("val", VAL))
        for number in range(count)
    ]
    table = pd.DataFrame(rows, columns=["file", "patient", "site"])
    table.to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


def evaluate_classes(
    folder: Path,
    names: tuple[str, ...] = ("a", "b", "c"),
    seeds: int = 1,
    *,
    people: bool = False,
    **options: Any,
) -> fw.Run:
    """A run of classes, clean and at two levels of fog, with validation images."""
    tables = {}
    for seed in range(seeds):
        name = f"net-seed{seed}" if seeds > 1 else "net"
        tables[name] = draw_classes(names, 3.0, seed, TEST, "test")
        tables[f"{name}-validation"] = draw_classes(names, 3.0, seed, VAL, "val")
        for level, strength in ((1, 1.5), (2, 0.3)):
            tables[f"{name}-fog,{level}"] = draw_classes(names, strength, seed, TEST, "test")
    if people:
        options |= {"metadata": write_people(folder), "group": "patient", "slices": ("site",)}
    return _evaluate(tables, folder, **options)


def evaluate_findings(
    folder: Path, names: tuple[str, ...] = ("Effusion", "Mass"), **options: Any
) -> fw.Run:
    """A run of findings, likewise; its labels are in a table of their own."""
    tables = {
        "net": draw_findings(names, 3.0, 0, TEST, "test"),
        "net-validation": draw_findings(names, 3.0, 0, VAL, "val"),
        "net-fog,1": draw_findings(names, 1.5, 0, TEST, "test"),
        "net-fog,2": draw_findings(names, 0.3, 0, TEST, "test"),
    }
    truth = [
        _name_images(pd.DataFrame(label_findings(names, n).astype(int), columns=list(names)), start)
        for start, n in (("test", TEST), ("val", VAL))
    ]
    pd.concat(truth).to_csv(folder / "truth.csv", index=False)
    if "unit" in options or "group" in options or "slices" in options:
        options["metadata"] = write_people(folder)
    return _evaluate(tables, folder, labels=folder / "truth.csv", **options)


def _evaluate(tables: dict[str, pd.DataFrame], folder: Path, **options: Any) -> fw.Run:
    asked = {"key_column": "file", "bootstrap": 100, "progress": False, "out": folder / "run"}
    return fw.evaluate(predictions=tables, **(asked | options))

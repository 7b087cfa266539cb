"""The report of a run: tables, figures and one HTML page, built from the run folder alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fairweather.errors import InputError
from fairweather.report import (
    adaptation,
    aggregation,
    calibration,
    calls,
    costs,
    findings,
    front,
    gallery,
    hurt,
    levels,
    operating_points,
    other_images,
    overview,
    prediction_sets,
    provenance,
    published_files,
    ranking,
    readers,
    reliability,
    review,
    slices,
    summary,
    training,
)
from fairweather.report.charts import Figure
from fairweather.report.contents import Contents
from fairweather.report.joint_runs import read_runs
from fairweather.report.page.rendering import render_page
from fairweather.report.section import ReportPart, Section
from fairweather.report.tables import TextTable, name_table_files, write_csv
from fairweather.report.vega import begin_work, draw_png, explain_missing_addresses
from fairweather.runs.claims import lock_run
from fairweather.runs.folder import RunFolder, open_finished_run, read_json, resolve_inside
from fairweather.types.record import (
    ABSENT_METRICS,
    FIGURES,
    GROUPS,
    PAGE,
    READERS,
    RECORD,
    SAMPLES,
    SCORES,
    SLICES,
    SUMMARY,
    TABLES,
    WARNINGS,
    base_model,
)
from fairweather.types.unit_words import name_all_units

# ---------------------------------------------------------------- sections, in their order

SECTIONS = (
    Section(
        "verdict",
        "Verdict",
        (front.VERDICT, findings.VERDICT),
        front=True,
        brief=overview.summarize_overview,
    ),
    Section("sees", "What it sees", (gallery.PICTURES, findings.PICTURES), front=True),
    Section(
        "breaks", "Where it breaks", (front.BREAKS, findings.MAP, front.OTHER_IMAGES), front=True
    ),
    Section("knows", "Does it know?", (front.KNOWLEDGE, findings.CURVES), front=True),
    Section(
        "review",
        "What to do",
        (review.REVIEW, findings.WORKLIST, costs.COSTS_OF_DECISIONS),
        front=True,
    ),
    Section("hurt", "Worst classes and groups", (hurt.HURT, calls.SLICES_OF_ONE), front=True),
    Section("compare", "Compare models", (ranking.COMPARISON,), front=True),
    Section(
        "tables",
        "Tables",
        (
            overview.OVERVIEW,
            ranking.RANKING,
            ranking.VARIANT_RANKING,
            summary.SUMMARY,
            summary.UNITS,
            summary.GRADES,
            summary.CLASSES,
            operating_points.TARGETS,
            slices.SUBGROUPS,
            operating_points.RATES_OF_SLICES,
            findings.SLICED,
            other_images.NATURAL_SHIFT,
            other_images.NATURAL_SETS,
            other_images.OTHER_DATA,
            summary.WORST_LEVELS,
            summary.STABILITY,
            published_files.ORIGINS,
            summary.CLASS_PRIORS,
            summary.DEFERRAL,
            summary.CLEAN_METRICS,
        ),
    ),
    Section(
        "levels",
        "Every level of every shift",
        (levels.LEVEL_CHARTS, levels.SMALLEST_LEVELS, levels.LEVEL_NUMBERS),
        accepts=levels.has_levels,
    ),
    Section(
        "closer",
        "Reliability, confusions and mistakes",
        (
            reliability.RELIABILITY,
            calibration.CALIBRATION,
            calibration.OF_FINDINGS,
            gallery.CONFUSED,
            gallery.MISTAKES,
        ),
    ),
    adaptation.SECTION,
    readers.SECTION,
    Section("sets", "Prediction sets", (prediction_sets.PREDICTION_SETS,)),
    Section("training", "Training, and settings that differ", (training.TRAINING,)),
    Section(
        "how",
        "How these numbers were made",
        (
            aggregation.AGGREGATION,
            provenance.SHIFTS,
            provenance.METRICS,
            provenance.CITATION,
            provenance.RECORDS,
        ),
    ),
    Section("glossary", "Glossary", (provenance.GLOSSARY,)),
)


def make_tables(
    contents: Contents, sections: Sequence[Section] = SECTIONS
) -> dict[ReportPart, list[TextTable]]:
    """Make the tables of each part of some sections, in their order."""
    return {
        part: [
            replace(table, below=name_all_units(table.below, contents.aggregation))
            for table in part.tables(contents)
            if table is not None
        ]
        for section in sections
        for part in section.parts
    }


# ---------------------------------------------------------------- whether a run is intact

RUN_FILES = (SCORES, SLICES, WARNINGS, ABSENT_METRICS, READERS)
MODEL_SUFFIXES = (".parquet", ".csv", ".json")


def check_intact(run: RunFolder) -> list[str]:
    """Name the files of a run that its report would need and that are missing.

    These are the scores, the predictions, the samples, and the files about trainings and
    pre-trainings. Files of models that are no longer part of the run are not checked.

    Raises `InputError` where a file is not what the run wrote.
    """
    missing = run.check_files(_is_run_file)
    if not run.file(SCORES).is_file():
        return missing
    scored = set(run.scores["model"])
    models = scored | {base_model(name) for name in scored}
    folders = {"predictions": models, "models": models, "pretraining": set(run.record.pretraining)}

    def is_of_a_model(name: str) -> bool:
        top, inner, *_ = (*PurePosixPath(name).parts, "")
        return inner in folders.get(top, ()) and name.endswith(MODEL_SUFFIXES)

    return missing + run.check_files(is_of_a_model)


def _is_run_file(name: str) -> bool:
    return name in RUN_FILES or name.startswith((f"{SAMPLES}/", f"{GROUPS}/"))


# ---------------------------------------------------------------- building

JOINT_LISTING = "runs.json"  # of a report of several runs: which, and the files that it has

__all__ = ["build_joint_report", "build_report", "rebuild_report"]


def build_report(run: RunFolder) -> list[str]:
    """Write summary.csv, tables/, figures/ and report.html; return the names of what was written.

    Raises `InputError` when the run has no scores yet. A part that the run has no files
    for is left out: no training curves without histories, no pictures without samples.
    """
    return _write_report([run], run)


def rebuild_report(path: Path) -> None:
    """Build the report of a finished run again, while no other process writes to its folder.

    A page of old scores would stand beside new ones otherwise. Raises `InputError` as
    `build_report` does, and where another process works in the folder.
    """
    _ = open_finished_run(path).scores  # raises before a lock is written
    with lock_run(path) as run:
        build_report(run)


def build_joint_report(runs: Sequence[RunFolder], out: Path) -> list[str]:
    """Write the same of several runs on the same test images, beside each other, into a folder.

    An earlier report of several runs in that folder is replaced.

    Raises `InputError` for a run without scores, a run named twice, runs of different test images,
    and for a folder that holds something else.
    """
    earlier = _list_earlier(out)
    folder = RunFolder(out)
    names = _write_report(runs, folder)
    for stale in set(earlier) - set(names):
        resolve_inside(out, stale, JOINT_LISTING).unlink(missing_ok=True)
    folder.write(
        JOINT_LISTING, json.dumps({"runs": [str(r.path) for r in runs], "files": names}, indent=1)
    )
    return names


def _list_earlier(out: Path) -> list[str]:
    """Name the files of an earlier report of several runs; none where the folder is new."""
    if (out / RECORD).exists():
        raise InputError(f"{out} holds a run; name another folder for the report of several")
    if out.is_file():
        raise InputError(f"{out} is a file; the report of several runs is a folder")
    listing = resolve_inside(out, JOINT_LISTING)
    if not listing.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out} is not empty and holds no report; name another folder")
        return []
    named = read_json(listing).get("files", [])
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InputError(f"{listing} does not list the files of a report")
    ours = [name for name in named if name in (SUMMARY, PAGE) or _is_report_file(name)]
    for name in ours:
        resolve_inside(out, name, JOINT_LISTING)  # raises before anything is written
    return ours


def _is_report_file(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0] in (TABLES, FIGURES)


def _write_report(runs: Sequence[RunFolder], out: RunFolder) -> list[str]:
    contents = read_runs(runs)
    sections = [own for section in SECTIONS if (own := section.of(contents))]
    tables = make_tables(contents, sections)
    figures = _draw_figures(contents, sections)
    files: dict[str, bytes | str] = {SUMMARY: write_csv(summary.find_summary_rows(contents))}
    for table in (table for of_part in tables.values() for table in of_part):
        files |= name_table_files(table.name, table.texts())
    letters = sum(len(figure.svg) for figure in figures)
    drawn = [begin_work(letters, draw_png, figure.svg) for figure in figures]
    page = render_page(contents, sections, tables, figures)
    # The name of a skipped file may be no UTF-8.
    files[PAGE] = page.encode(errors="backslashreplace")
    for figure, png in zip(figures, drawn, strict=True):
        files[f"{FIGURES}/{figure.name}.svg"] = figure.svg
        files[f"{FIGURES}/{figure.name}.png"] = png()
    for name in files:
        out.file(name)  # raises before anything is written
    for name, content in files.items():
        out.write(name, content)
    return list(files)


def _draw_figures(contents: Contents, sections: Sequence[Section]) -> list[Figure]:
    if explain_missing_addresses():
        return []
    made = (part.figures(contents) for section in sections for part in section.parts)
    return [
        Figure(figure.name, *name_all_units((figure.alt, figure.svg), contents.aggregation))
        for figures in made
        for figure in figures
        if figure is not None
    ]

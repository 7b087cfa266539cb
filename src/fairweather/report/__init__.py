"""The report of a run: tables, figures and one HTML page, built from the run folder alone.

A finished run needs no model, no data set and no GPU to be reported again, and the same run gives
the same bytes: nothing here looks at the clock or draws a random number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fairweather.errors import InputError
from fairweather.record import FIGURES, PAGE, RECORD, SUMMARY, TABLES
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure
from fairweather.report.joining import read_runs
from fairweather.report.library import begin_library
from fairweather.report.page.rendering import render_page
from fairweather.report.section import Section
from fairweather.report.sections import SECTIONS, tables_of
from fairweather.report.summary import summary_rows
from fairweather.report.table_formats import files_of, rows_as_csv
from fairweather.runs import RunFolder, inside, lock_run, open_finished_run, read_json
from fairweather.vega import begin, lacks_addresses, png_of

JOINT = "runs.json"  # of a report of several runs: which, and the files that it has

__all__ = ["build_joint_report", "build_report", "rebuild_report"]


def build_report(run: RunFolder) -> list[str]:
    """Write summary.csv, tables/, figures/ and report.html; return the names of what was written.

    Raises `InputError` when the run has no scores yet. A part that the run has no files
    for is left out: no training curves without histories, no pictures without samples.
    """
    return _build([run], run)


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
    earlier = _earlier(out)
    folder = RunFolder(out)
    names = _build(runs, folder)
    for stale in set(earlier) - set(names):
        inside(out, stale, JOINT).unlink(missing_ok=True)
    folder.write(JOINT, json.dumps({"runs": [str(r.path) for r in runs], "files": names}, indent=1))
    return names


def _earlier(out: Path) -> list[str]:
    """Name the files of an earlier report of several runs; none where the folder is new."""
    if (out / RECORD).exists() or RunFolder(out).is_first_version:
        raise InputError(f"{out} holds a run; name another folder for the report of several")
    if out.is_file():
        raise InputError(f"{out} is a file; the report of several runs is a folder")
    listing = inside(out, JOINT)
    if not listing.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out} is not empty and holds no report; name another folder")
        return []
    named = read_json(listing).get("files", [])
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InputError(f"{listing} does not list the files of a report")
    ours = [name for name in named if name in (SUMMARY, PAGE) or _is_ours(name)]
    for name in ours:
        inside(out, name, JOINT)  # raises before anything is written
    return ours


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0] in (TABLES, FIGURES)


def _build(runs: Sequence[RunFolder], out: RunFolder) -> list[str]:
    contents = read_runs(runs)
    sections = [own for section in SECTIONS if (own := section.of(contents))]
    tables = tables_of(contents, sections)
    figures = _build_figures(contents, sections)
    files: dict[str, bytes | str] = {SUMMARY: rows_as_csv(summary_rows(contents))}
    for table in (table for of in tables.values() for table in of):
        files |= files_of(table.name, table.texts())
    letters = sum(len(figure.svg) for figure in figures)
    library = begin_library(letters)
    drawn = [begin(letters, png_of, figure.svg) for figure in figures]
    page = render_page(contents, sections, tables, figures, library)
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


def _build_figures(contents: Contents, sections: Sequence[Section]) -> list[Figure]:
    if lacks_addresses():
        return []
    made = (part.figures(contents) for section in sections for part in section.parts)
    return [figure for figures in made for figure in figures if figure is not None]

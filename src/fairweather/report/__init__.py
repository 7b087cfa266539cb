"""The report of a run: tables, figures and one HTML page, built from the run folder alone.

A finished run needs no model, no data set and no GPU to be reported again, and the same run gives
the same bytes: nothing here looks at the clock or draws a random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairweather.errors import InputError
from fairweather.rasters import begin_pngs
from fairweather.report.beside import beside_tables
from fairweather.report.contents import Contents
from fairweather.report.curves import level_figure, training_figure
from fairweather.report.figures import Figure
from fairweather.report.formats import rows_as_csv
from fairweather.report.joining import read_runs
from fairweather.report.labels import labels_figure
from fairweather.report.natural_shift import natural_shift_tables
from fairweather.report.page.gallery import join_samples
from fairweather.report.page.rendering import render_page
from fairweather.report.pictures import mixup_figure, shifts_figure
from fairweather.report.pretraining import correlation_figure, pretraining_figure
from fairweather.report.ranking import ranking
from fairweather.report.reliability import reliability_figure
from fairweather.report.samples import Samples, read_samples
from fairweather.report.tables import build_tables, summary_rows
from fairweather.runs import MANIFEST, RunFolder

__all__ = ["build_joint_report", "build_report"]


def build_report(run: RunFolder) -> list[str]:
    """Write summary.csv, tables/, figures/ and report.html; return the names of what was written.

    Raises `InputError` when the run has no scores yet. A part that the run holds nothing for is
    left out: no training curves without histories, no pictures without samples.
    """
    return _build([run], run)


def build_joint_report(runs: Sequence[RunFolder], out: Path) -> list[str]:
    """Write the same of several runs on the same test images, beside each other, into a folder.

    Raises `InputError` for a run without scores, a run named twice, runs of different test images,
    and for a folder that holds a run.
    """
    if (out / MANIFEST).exists():
        raise InputError(f"{out} holds a run; name another folder for the report of several")
    return _build(runs, RunFolder(out))


def _build(runs: Sequence[RunFolder], out: RunFolder) -> list[str]:
    contents = read_runs(runs)
    tables = [
        *build_tables(contents),
        *natural_shift_tables(contents),
        *beside_tables(contents),
    ]
    samples = join_samples({label: read_samples(run) for label, run in contents.runs.items()})
    figures = _build_figures(contents, samples)
    files: dict[str, bytes | str] = {"summary.csv": rows_as_csv(summary_rows(contents))}
    for table in tables:
        files |= {f"tables/{table.name}.{suffix}": text for suffix, text in table.texts().items()}
    ranks = ranking(contents)
    if ranks is not None:
        files |= {f"tables/ranking.{suffix}": text for suffix, text in ranks.texts().items()}
    drawn = begin_pngs([figure.svg for figure in figures])
    files["report.html"] = render_page(contents, tables, ranks, figures, samples)
    for figure, png in zip(figures, drawn(), strict=True):
        files[f"figures/{figure.name}.svg"] = figure.svg
        files[f"figures/{figure.name}.png"] = png
    for name, content in files.items():
        out.write(name, content)
    return list(files)


def _build_figures(contents: Contents, samples: Samples | None) -> list[Figure]:
    figures = [
        level_figure(contents, "accuracy"),
        level_figure(contents, "rms_calibration_error"),
        reliability_figure(contents),
        labels_figure(contents),
        pretraining_figure(contents),
        correlation_figure(contents),
        training_figure(contents),
        shifts_figure(contents, samples) if samples else None,
        mixup_figure(samples) if samples else None,
    ]
    return [figure for figure in figures if figure is not None]

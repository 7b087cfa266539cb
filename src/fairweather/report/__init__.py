"""The report of a run: tables, figures and one HTML page, built from the run folder alone.

A finished run needs no model, no data set and no GPU to be reported again, and the same run gives
the same bytes: nothing here looks at the clock or draws a random number.
"""

from __future__ import annotations

from fairweather.report.beside import beside_tables
from fairweather.report.contents import Contents
from fairweather.report.curves import level_figure, training_figure
from fairweather.report.figures import Figure
from fairweather.report.labels import labels_figure
from fairweather.report.natural_shift import natural_shift_tables
from fairweather.report.page import render_page
from fairweather.report.pictures import mixup_figure, shifts_figure
from fairweather.report.pretraining import correlation_figure, pretraining_figure
from fairweather.report.reading import read_contents
from fairweather.report.reliability import reliability_figure
from fairweather.report.samples import read_samples
from fairweather.report.tables import build_tables, rows_as_csv, summary_rows
from fairweather.runs import RunFolder

__all__ = ["build_report"]


def build_report(run: RunFolder) -> list[str]:
    """Write summary.csv, tables/, figures/ and report.html; return the names of what was written.

    Raises `InputError` when the run has no scores yet. A part that the run holds nothing for is
    left out: no training curves without histories, no pictures without samples.
    """
    contents = read_contents(run)
    tables = [
        *build_tables(contents),
        *natural_shift_tables(contents),
        *beside_tables(contents),
    ]
    figures = _build_figures(run, contents)
    files: dict[str, bytes | str] = {"summary.csv": rows_as_csv(summary_rows(contents))}
    for table in tables:
        files |= {f"tables/{table.name}.{suffix}": text for suffix, text in table.texts().items()}
    for figure in figures:
        files[f"figures/{figure.name}.svg"] = figure.svg
        files[f"figures/{figure.name}.png"] = figure.png
    files["report.html"] = render_page(contents, tables, figures)
    for name, content in files.items():
        run.write(name, content)
    return list(files)


def _build_figures(run: RunFolder, contents: Contents) -> list[Figure]:
    samples = read_samples(run)
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

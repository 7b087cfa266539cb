"""Tables, figures and page as a step of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairweather.measuring.setting import Setting
from fairweather.progress import Event
from fairweather.report import build_report
from fairweather.report.intact import OF_ALL

# Raised when reporting makes something else of the same run.
VERSION = 4
# What every run has; a study adds what its trainings left.
SOURCES = ("study.yaml", "provenance.json", *OF_ALL)


def report_step(setting: Setting, more: Sequence[str] = ()) -> Iterator[Event]:
    """Build the report, unless it was built of the same files before."""
    run = setting.run
    inputs = {
        "version": VERSION,
        "files": [(name, run.checksum(name)) for name in (*SOURCES, *more)],
    }
    if not run.is_done("report", inputs):
        yield Event("report", 0, 1)
        run.finish("report", inputs, build_report(run))
    yield Event("report", 1, 1)

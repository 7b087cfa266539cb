"""A finished run, for Python and notebooks."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from fairweather.errors import InputError
from fairweather.report.building import SECTIONS, check_intact, rebuild_report
from fairweather.report.contents import read_contents
from fairweather.report.section import Brief
from fairweather.report.tables import align_table
from fairweather.runs.folder import RunFolder, open_finished_run
from fairweather.types.record import PAGE, SCORES, RunRecord


class Run:
    """A finished run: its folder, its scores and its report.

    Args:
        path: the run folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def folder(self) -> RunFolder:
        """The run folder, to read more than the scores."""
        return open_finished_run(self.path)

    @property
    def record(self) -> RunRecord:
        """The record of the run: models, data, shifts, settings and machine."""
        return self.folder.record

    @property
    def scores(self) -> pd.DataFrame:
        """The table of scores.csv, one row per model, seed, shift, level and metric.

        The other columns are `value`, `low` and `high` (the 95 % interval), and `n`. Where images
        have several findings, these are the rows of whole images and of means over findings.
        """
        return self.folder.scores

    @property
    def unit_scores(self) -> pd.DataFrame:
        """The whole table of scores.csv: its column `unit` says which finding a row is about.

        A run of one class an image has no such column, and this is `scores`.
        """
        return self.folder.unit_scores

    def report(self) -> Path:
        """Build tables, figures and page again; returns the path of the page.

        What is missing is left out. Raises `InputError` where a file is not what the run wrote,
        and where another process works in the folder.
        """
        check_intact(self.folder)
        rebuild_report(self.path)
        return self.path / PAGE

    def __fspath__(self) -> str:
        """The run folder: a run can be used as a path."""
        return str(self.path)

    def __repr__(self) -> str:
        name = f"Run({str(self.path)!r})"
        try:
            record = self.record
            overview = [self.overview()] if (self.path / SCORES).is_file() else []
        except InputError:  # a damaged folder has a name too
            return name
        models = ", ".join(record.models)
        return "\n".join([f"{name}: {record.title or record.name}; models: {models}", *overview])

    def overview(self) -> str:
        """What is found about other images, and each model's accuracy on clean and on shifted ones.

        First up to five sentences on other data sets, other images of the same classes, and test
        images of another source than the validation images. The worst comes first. Then a table for
        a terminal: accuracy, and confidence minus accuracy, in percent and percentage points, with
        95 % intervals. A number under a shift is the mean over its levels; that under `all` is the
        mean over the shifts, without attacks. Of several seeds it is their mean. Where that would
        be more than 40 lines, the single shifts are left out.
        """
        parts = []
        for brief in self._briefs():
            table = align_table(brief.layout, brief.body)
            parts.append("\n".join([*brief.sentences, "", table]) if brief.sentences else table)
        return "\n\n".join(parts)

    def _briefs(self) -> list[Brief]:
        contents = read_contents(self.folder)
        own = (section.of(contents) for section in SECTIONS)
        return [section.brief(contents) for section in own if section and section.brief]

    def _repr_html_(self) -> str:
        """The title, the folder and the overview, for notebooks; all names are escaped."""
        record = self.record
        title = html.escape(record.title or record.name)
        line = f"<p><strong>{title}</strong> in <code>{html.escape(str(self.path))}</code></p>"
        if not (self.path / SCORES).is_file():
            return line
        parts = [line]
        for sentences, layout, body in self._briefs():
            parts += [f"<p>{html.escape(sentence)}</p>" for sentence in sentences]
            table = pd.DataFrame(body, columns=list(layout.header))
            parts.append(str(table.to_html(index=False)))
        return "".join(parts)

"""A finished run, for Python and notebooks."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd

from fairweather.record import CLEAN, MEAN, PAGE, SCORES, SPREAD, RunRecord, is_shifted
from fairweather.report import build_report
from fairweather.runs import RunFolder, open_finished_run


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

        The other columns are `value`, `low` and `high` (the 95 % interval), and `n`.
        """
        return self.folder.scores

    def report(self) -> Path:
        """Build tables, figures and page again; returns the path of the page."""
        build_report(self.folder)
        return self.path / PAGE

    def __fspath__(self) -> str:
        """The run folder: a run can be used as a path."""
        return str(self.path)

    def __repr__(self) -> str:
        record = self.record
        models = ", ".join(record.models)
        lines = [f"Run({str(self.path)!r}): {record.title or record.name}; models: {models}"]
        if (self.path / SCORES).is_file():
            lines.append(_overview(self.scores).to_string())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The title, the folder and the overview, for notebooks; all names are escaped."""
        record = self.record
        title = html.escape(record.title or record.name)
        line = f"<p><strong>{title}</strong> in <code>{html.escape(str(self.path))}</code></p>"
        if not (self.path / SCORES).is_file():
            return line
        return line + str(_overview(self.scores).to_html(float_format="{:.3f}".format))


def _overview(scores: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each model on clean images and, as a mean over levels, under each shift."""
    rows = scores[(scores["metric"] == "accuracy") & (scores["seed"] != SPREAD)]
    if (rows["seed"] == MEAN).any():
        rows = rows[rows["seed"] == MEAN]
    clean = rows["shift"] == CLEAN
    shifted = rows["shift"].map(is_shifted) & (rows["level"] == MEAN)
    shown = rows[clean | shifted]
    table = shown.pivot_table("value", "model", "shift", sort=False)
    return table.rename_axis(index="accuracy", columns=None).round(3)

"""A finished run, for Python and notebooks."""

from __future__ import annotations

import html
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.errors import InputError
from fairweather.record import ALL, CLEAN, MEAN, NATURAL, PAGE, SCORES, RunRecord, is_shifted
from fairweather.report import rebuild_report
from fairweather.report.intact import check_intact
from fairweather.report.other_images import other_images
from fairweather.report.table_formats import Layout, aligned
from fairweather.runs import RunFolder, open_finished_run

_COLUMNS = ("model", "images", "accuracy (%)", "confidence − accuracy")
_MOST_LINES = 40  # of an overview
_MOST_SENTENCES = 5  # above it; the page has all


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

        First up to five sentences on other data sets, on other images of the same classes, and on
        test images that have another source than the validation images; the worst comes first. Then
        a table for a terminal: accuracy, and confidence minus accuracy, in percent and percentage
        points, with 95 % intervals. A number under a shift is the mean over its levels; that under
        `all` is the mean over the shifts, without attacks. Of several seeds it is their mean. Where
        that would be more than 40 lines, the single shifts are left out.
        """
        scores = self.scores
        table = aligned(Layout(_COLUMNS, words=2), _overview(scores))
        found = self._found(scores)
        return "\n".join([*found, "", table]) if found else table

    def _found(self, scores: pd.DataFrame) -> list[str]:
        """What is found about other images; the sentences that are left out are counted."""
        record = self.record
        titles = {name: model.title for name, model in record.models.items()}
        of_another_source = bool(record.data.notes.get("natural_shift"))
        found = other_images(scores, titles, natural_shift=of_another_source)
        told, rest = found[:_MOST_SENTENCES], len(found) - _MOST_SENTENCES
        return [*told, *([f"{PAGE} has {rest} more such sentences."] if rest > 0 else [])]

    def _repr_html_(self) -> str:
        """The title, the folder and the overview, for notebooks; all names are escaped."""
        record = self.record
        title = html.escape(record.title or record.name)
        line = f"<p><strong>{title}</strong> in <code>{html.escape(str(self.path))}</code></p>"
        if not (self.path / SCORES).is_file():
            return line
        scores = self.scores
        found = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self._found(scores))
        table = pd.DataFrame(_overview(scores), columns=list(_COLUMNS))
        return line + found + str(table.to_html(index=False))


def _overview(scores: pd.DataFrame) -> list[list[str]]:
    """One line per model and state of the images, as text."""
    rows = scores[scores["metric"].isin(["accuracy", "confidence_gap"])]
    first = MEAN if (rows["seed"] == MEAN).any() else next(iter(rows["seed"]), None)
    rows = rows[rows["seed"] == first]
    names = zip(rows["model"], rows["shift"], rows["level"], rows["metric"], strict=True)
    ends = rows[["value", "low", "high"]].to_numpy(dtype=float)
    numbers = {
        (str(model), str(shift), str(metric)): each
        for (model, shift, level, metric), each in zip(names, ends, strict=True)
        if shift == CLEAN or shift.startswith(NATURAL) or (is_shifted(shift) and level == MEAN)
    }
    models = dict.fromkeys(model for model, *_ in numbers)
    shifts = dict.fromkeys(shift for _, shift, _ in numbers)
    known = {(model, shift) for model, shift, _ in numbers}
    states = [(model, shift) for model in models for shift in shifts if (model, shift) in known]
    if len(states) > _MOST_LINES:
        states = [(model, shift) for model, shift in states if shift in (CLEAN, ALL)]
    lines, before = [], ""
    for model, shift in states:
        accuracy = _percent(numbers.get((model, shift, "accuracy")), "z.1f")
        gap = _percent(numbers.get((model, shift, "confidence_gap")), "+z.1f")
        lines.append(["" if model == before else model, shift, accuracy, gap])
        before = model
    return lines


def _percent(ends: npt.NDArray[np.float64] | None, form: str) -> str:
    if ends is None or math.isnan(ends[0]):
        return "–"
    value, low, high = (f"{100 * number:{form}}".replace("-", "−") for number in ends)
    return f"{value} (too few errors)" if math.isnan(ends[1]) else f"{value} [{low}, {high}]"

"""A run beside a published report, or beside another run: differences, intervals, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fairweather.comparison import writing
from fairweather.comparison.matching import as_frame, match_numbers, match_study
from fairweather.comparison.notes import notes
from fairweather.comparison.published import REFERENCES, read_published
from fairweather.comparison.two_runs import RunComparison, read_run_comparison
from fairweather.report.reading import read_contents
from fairweather.runs import RunFolder, open_finished_run

__all__ = [
    "REFERENCES",
    "Comparison",
    "RunComparison",
    "compare_runs",
    "compare_with_published",
    "read_comparison",
    "read_run_comparison",
]


@dataclass(frozen=True)
class Comparison:
    """A run beside a reference.

    Attributes:
        name: of its files, without the suffix.
        table: one row a published number; see `compare_with_published`.
        body: the table as text, in the order of `writing.PUBLISHED`.
        caption: what the numbers are.
        notes: how many agree, how far that goes, and what is missing; a sentence or two each.
    """

    name: str
    table: pd.DataFrame
    body: Sequence[Sequence[str]]
    caption: str
    notes: Sequence[str]

    def __str__(self) -> str:
        return "\n\n".join(
            [writing.aligned(writing.PUBLISHED, self.body), self.caption, *self.notes]
        )

    def files(self) -> dict[str, str]:
        """Write the table in Markdown, CSV and LaTeX, by the names of the files in a run folder."""
        below = [self.caption, *self.notes]
        return writing.table_files(self.name, writing.PUBLISHED, self.body, below, self.table)


def compare_with_published(run: RunFolder | str | Path, reference: str = "paper") -> pd.DataFrame:
    """Put a run's numbers beside those of a published report.

    Models are matched by the key in the study, shifted images by the shift with all of its
    parameters, and the run's data set by name and number of classes. With several seeds, the mean
    over seeds is compared.

    Args:
        run: a finished run, or its folder.
        reference: `paper`, the report "Evaluating the Robustness of Deep Learning Models".

    Returns:
        One row a published number, clean images and means over levels first: model, shift, level
        and metric as in scores.csv; measured with low, high and n, missing where the run did not
        measure it; published, its binomial standard_error where it is a share of a known number of
        images, and its source; difference, measured − published; and inside, whether the published
        number lies in [low, high]. Accuracies are fractions.

    Raises:
        InputError: an unknown reference, no finished run, scores that are not those that the run
            wrote, or a run with nothing to compare.
    """
    return read_comparison(run, reference).table


def compare_runs(a: str | Path, b: str | Path) -> pd.DataFrame:
    """Say which differences between two runs on the same images are real.

    The columns and what they mean are those of `read_run_comparison`, whose table this is.

    Args:
        a, b: a run folder, or one model of it as FOLDER:MODEL.

    Raises:
        InputError: no run, models that cannot be paired, or predictions of other images or not
            those that a run wrote.
    """
    return read_run_comparison(a, b).table


def read_comparison(run: RunFolder | str | Path, reference: str = "paper") -> Comparison:
    """Compare a run as `compare_with_published` does, with the tables' text and notes."""
    studies = read_published(reference)
    folder = run if isinstance(run, RunFolder) else open_finished_run(Path(run))
    folder.holds("scores.csv")  # raises where they are others than the run wrote
    contents = read_contents(folder)
    study = match_study(contents, studies)
    pairs = match_numbers(contents, study)
    return Comparison(
        name=f"compare_{reference}",
        table=as_frame(pairs),
        body=writing.table_body(pairs, contents, study),
        caption=writing.caption(pairs, study),
        notes=notes(pairs, contents, study),
    )

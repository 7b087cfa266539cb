"""A comparison as text and as files, whatever a run is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from fairweather.report.table_formats import TextTable, files_of


@dataclass(frozen=True)
class Comparison:
    """The comparison of a run with another run, or with published numbers.

    Attributes:
        main: a row for each number that is compared; below it, what the numbers are.
        notes: what they do and do not show, at most a few sentences each.
        scope: whether it is about recipes or only about trained networks; "" where a note says so.
        robustness: effective robustness of A's models relative to B's; None if B has too few.
        classes: the sensitivity of each class; None where logits are not stored.
    """

    main: TextTable
    notes: Sequence[str]
    scope: str = ""
    robustness: TextTable | None = None
    classes: TextTable | None = None

    @property
    def name(self) -> str:
        """Of its files, without the suffix."""
        return self.main.name

    @property
    def table(self) -> pd.DataFrame:
        """The numbers of the main table."""
        return self.main.frame

    @property
    def caption(self) -> str:
        """What the numbers of the main table are."""
        return self.main.below[0]

    @property
    def _others(self) -> list[TextTable]:
        return [table for table in (self.robustness, self.classes) if table is not None]

    def __str__(self) -> str:
        every = [self.scope, str(self.main), *self.main.below]
        for table in self._others:
            every += [str(table), *table.below]
        return "\n\n".join(part for part in (*every, *self.notes) if part)

    def files(self) -> dict[str, str]:
        """Write the tables in Markdown, CSV and LaTeX, by the files' names in a run folder."""
        below = [part for part in (self.scope, *self.main.below, *self.notes) if part]
        files: dict[str, str] = {}
        for table in (replace(self.main, below=below), *self._others):
            files |= files_of(table.name, table.texts())
        return files

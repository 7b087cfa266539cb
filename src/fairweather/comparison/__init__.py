"""Compare a run with a published report or with another run: differences, intervals, verdicts."""

from __future__ import annotations

from fairweather.comparison.published import REFERENCES
from fairweather.comparison.told import Comparison
from fairweather.comparison.with_published import (
    compare_with_published,
    read_comparison,
)
from fairweather.comparison.with_run import compare_runs, read_run_comparison

__all__ = [
    "REFERENCES",
    "Comparison",
    "compare_runs",
    "compare_with_published",
    "read_comparison",
    "read_run_comparison",
]

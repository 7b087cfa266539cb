"""Thresholds of deferral and ATC that are fitted under shifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fairweather.variants.variant import FIT_ON, FITTED_UNDER_SHIFTS, PostHoc


@dataclass(frozen=True)
class Thresholds(PostHoc):
    """The model as it is, with the thresholds of deferral and ATC from what `fit_on` lists.

    Scores fit these, so that there is no file of them, and predictions stay what they are.
    """

    kind: ClassVar[str] = f"thresholds{FIT_ON}"
    differs: ClassVar[str] = "only the threshold of its confidence differs"

    @property
    def title(self) -> str:
        return f"thresholds {FITTED_UNDER_SHIFTS}"

    @property
    def uses_fit_on(self) -> bool:
        return True

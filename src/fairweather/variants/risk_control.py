"""Sets of findings that miss at most a promised share of those that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fairweather.errors import InputError
from fairweather.metrics.columns import IntArray, LabelArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.risk_control import (
    control_missed,
    count_units,
    covered_shares,
    fewest_for_missed,
)
from fairweather.tasks import CLASSIFICATION_TASK, FindingsPredictions, Logits, Task, sigmoid
from fairweather.types.kinds import FINDINGS, TaskKind
from fairweather.types.measurement import AnyPredictions, format_number
from fairweather.types.options import parse_share
from fairweather.types.record import sets_file
from fairweather.variants.fitted import FittedParameters
from fairweather.variants.variant import PostHoc


class FittedRiskControl(FittedParameters):
    """The fit of sets of findings."""

    missed: float
    confidence: float | None
    """`missed`, `confidence`: of the variant; see `RiskControl`."""

    threshold: Annotated[float, Field(ge=0, le=1)]
    """The smallest probability of a finding in a set."""

    units: int
    """The number of validation images, or of their groups, that have a finding."""

    @property
    def note(self) -> str:
        return f"findings from {self.threshold:.3g} on, by {self.units:,} with a finding"

    def columns(
        self, logits: Logits, labels: IntArray, task: Task = CLASSIFICATION_TASK
    ) -> Mapping[str, Any]:
        probability = sigmoid(logits)
        return {
            **super().columns(logits, labels, task),
            "set_size": (probability >= self.threshold).sum(axis=1),
            "covered": covered_shares(probability, labels, self.threshold),
        }


@dataclass(frozen=True)
class RiskControl(PostHoc):
    """A set of findings for each image; sets miss at most a share of the findings that are there.

    >>> RiskControl(missed="5%", confidence=0.95).name
    'risk_control-0.05-0.95'
    """

    kind: ClassVar[str] = "risk_control"
    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {
        FINDINGS: FittedRiskControl
    }
    makes_sets: ClassVar[bool] = True
    difference: ClassVar[str] = "it has sets of findings"
    missed: float = 0.1
    """The largest share of findings that a set misses, of those that are there."""

    confidence: float | None = None
    """The share of draws of validation images in which the promise holds; None for a promise about
    their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("missed", "confidence"):
            value = getattr(self, name)
            if value is None and name == "confidence":
                continue
            share = parse_share(value)
            if share is None:
                raise InputError(
                    f"{name} of risk_control must be a share between 0 and 1, such as 10%, found "
                    f"{value!r}"
                )
            object.__setattr__(self, name, share)

    @property
    def own_name(self) -> str:
        shares = [self.missed, *([] if self.confidence is None else [self.confidence])]
        return "-".join([self.kind, *map(format_number, shares)])

    @property
    def title(self) -> str:
        title = f"sets that miss at most {100 * self.missed:.6g} % of findings"
        if self.confidence is None:
            return f"{title} on average"
        return f"{title} with {100 * self.confidence:.6g} % confidence"

    def file(self, model: str, seed: int | str) -> str:
        return sets_file(model, self.name, seed)

    def check_images(
        self,
        keys: IntArray,
        labels: LabelArray,
        classes: Sequence[str],
        grouping: Grouping | None = None,
    ) -> None:
        units = count_units(labels, grouping)
        least = fewest_for_missed(self.missed, self.confidence)
        if units < least:
            counted = "validation images" if grouping is None else "groups of validation images"
            raise InputError(
                f"{self.title}: that needs at least {least:,} {counted} with a finding, found "
                f"{units:,}; use more validation images, or allow more to be missed"
            )

    def fit(self, predictions: AnyPredictions, grouping: Grouping | None) -> FittedRiskControl:
        assert isinstance(predictions, FindingsPredictions)
        threshold = control_missed(
            predictions.probability,
            predictions.labels,
            missed=self.missed,
            confidence=self.confidence,
            grouping=grouping,
        )
        return FittedRiskControl(
            missed=self.missed,
            confidence=self.confidence,
            threshold=threshold,
            units=count_units(predictions.labels, grouping),
        )

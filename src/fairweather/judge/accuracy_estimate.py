"""An accuracy estimate as an object, as text for people, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from fairweather.metrics.accuracy_estimation import RangeCheck
from fairweather.report.tables import format_p_value
from fairweather.types.measurement import Score

ALARM_LEVEL = 0.05  # below this p-value, images are said to differ from the validation images


class MethodEstimate(NamedTuple):
    """The estimate of one method, and its past errors."""

    name: str
    title: str
    """`name`, `title`: of the method."""

    value: float
    """Its estimate of the accuracy; a difference of confidences may leave [0, 1]."""

    mean_error: float
    """Mean absolute error under the shifts of the run, each counted once; NaN if the run has none.
    """

    least_error: float
    largest_error: float
    """`least_error`, `largest_error`: the ends of its signed errors (estimate minus accuracy)."""


class NearestCell(NamedTuple):
    """The known images that new ones look most like."""

    shift: str
    level: str
    """`shift`, `level`: as in scores.csv."""

    title: str
    """For people."""

    accuracy: float
    """Of the model on the known images."""


@dataclass(frozen=True, kw_only=True)
class AccuracyEstimate:
    """How accurate a model may be on images without labels."""

    model: str
    seed: int | str
    """`model`, `seed`: as in scores.csv."""

    data: str
    """What the images were loaded from."""

    images: int
    """How many there are."""

    value: float | None = None
    """The estimated accuracy, between `low` and `high`; None if there is no useful estimate."""

    low: float | None = None
    high: float | None = None
    """`low`, `high`: the range; None if there is no estimate. It extrapolates from past errors and
    covers the truth with no known probability. If the images differ from the validation images
    (`unlike_p`), the range is one-sided and `high` is None."""

    reason: str = ""
    """Why there is no estimate; else empty."""

    method: str = ""
    """The name of the method that the estimate comes from; empty if there is no estimate."""

    shifts: int = 0
    cells: int = 0
    """`shifts`, `cells`: how many shifts, and levels of these, the range comes from."""

    held: RangeCheck | None = None
    """How often such ranges contained the accuracy under shifts that were not used to make them;
    None without a range."""

    natural: int
    """How many sets of the run are other images (`natural/NAME`), and not its test images changed
    by a shift."""

    sites: int = 0
    """How many sites of the test images were each left out, so that the range allows for an unseen
    one; 0 for a run without five."""

    unlike_p: float
    """P-value of the test whether the model sees the images as it sees validation images; NaN if
    the test was not made."""

    outputs_p: float
    features_p: float
    """`outputs_p`, `features_p`: p-values of the two parts of that test, uncorrected; NaN for a
    part that was not made."""

    like: NearestCell | None = None
    """The known images that these look most like; None if the validation images are nearest."""

    methods: tuple[MethodEstimate, ...]
    """The estimate of each method."""

    truth: Score | None = None
    """The true accuracy, if it was asked for."""

    notes: tuple[str, ...] = ()
    """Sentences that a reader should know."""

    @property
    def unlike(self) -> bool:
        """Whether the test says that the images differ from the validation images."""
        return self.unlike_p < ALARM_LEVEL  # NaN is not

    def to_json(self) -> str:
        """Write it as JSON; unknown values are null."""
        return json.dumps(_to_json_value(self), indent=1, allow_nan=False) + "\n"

    def __str__(self) -> str:
        """The text that the command line prints; the methods are left out if none is useful."""
        lines = [*self._headline(), self._difference()]
        if self.like:
            accuracy = _format_percent(self.like.accuracy)
            lines.append(
                f"They look most like {self.like.title}, where its accuracy was {accuracy}."
            )
        if self.truth:
            value, low, high, _ = self.truth
            interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
            lines.append(f"Accuracy by their labels: {100 * value:.1f} % ({interval}).")
        table = [] if self.value is None else ["", *self._method_table()]
        return "\n".join([*lines, *self.notes, *table])

    def _headline(self) -> list[str]:
        """The estimate and where it comes from, or why there is no estimate."""
        subject = f"{self.model}, seed {self.seed}, {self.images:,} images of {self.data}"
        if self.value is None or self.low is None:
            return [f"No useful estimate: {self.reason}.", f"({subject})"]
        title = next(method.title for method in self.methods if method.name == self.method)
        sources = f"{self.shifts} tested shifts ({self.cells} levels)"
        if self.high is None:
            range_ = f"or as low as {_format_percent(self.low)}"
            basis = f"The lower end is the worst that {sources} of that size suggest"
        else:
            range_ = f"between {100 * self.low:.0f} and {_format_percent(self.high)}"
            basis = f"The range is how wrong such estimates were under {sources}"
        return [
            f"Estimated accuracy: {_format_percent(self.value)}, {range_} (an extrapolation).",
            f"({subject}; by {title})",
            f"{basis}. A new shift may be worse.",
            *self._evidence(),
        ]

    def _evidence(self) -> list[str]:
        """How good such ranges were on the known shifts, and what these cannot show."""
        corruptions = "The tested shifts are corruptions of the run's own test images"
        weakness = f"{corruptions}: weak evidence about another hospital, camera or year."
        lines = [] if self.natural else [weakness]
        if self.sites:
            lines = [
                f"The range allows for an unseen site: each of the {self.sites} sites of the test "
                "images was left out in turn."
            ]
        check = self.held
        if check is None or not check.told:
            return lines
        were = "was" if check.refused == 1 else "were"
        coverage = (
            f"Made without the shift in question, such ranges contained the accuracy at "
            f"{check.held} of {check.told} levels"
            + (f", and {check.refused} {were} refused" if check.refused else "")
        )
        caveat = (
            "All these levels change the same test images, which says nothing about other images"
        )
        if self.natural:
            caveat = "Levels that change the same test images are an easier question"
        return [*lines, f"{coverage}. {caveat}."]

    def _difference(self) -> str:
        """Whether the images differ from validation images, by the test of both parts."""
        if math.isnan(self.unlike_p):
            return "They were not compared with validation images: too few, or none are stored."
        p_values = {"answers": self.outputs_p, "features": self.features_p}
        parts = [f"{part} {format_p_value(p)}" for part, p in p_values.items() if not math.isnan(p)]
        all_p = f"{format_p_value(self.unlike_p)}: {', '.join(parts)}"
        if self.unlike:
            return f"These images differ from the validation images (p {all_p})."
        return f"The test finds no difference from the validation images (p {all_p})."

    def _method_table(self) -> list[str]:
        width = max(len(method.title) for method in self.methods)
        lines = [f"{'method':<{width}}  estimate    mean error  errors, from .. to (points)"]
        for method in self.methods:
            errors = f"{'-':>12}  -"
            if not math.isnan(method.mean_error):
                ends = f"{100 * method.least_error:+.1f} .. {100 * method.largest_error:+.1f}"
                errors = f"{100 * method.mean_error:>12.1f}  {ends}"
            lines.append(f"{method.title:<{width}}  {100 * method.value:>6.1f} %  {errors}")
        return lines


def _format_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _to_json_value(value: Any) -> Any:  # noqa: ANN401 - a value of any type
    """The value as dicts, lists and numbers; numbers that are not finite are None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _to_json_value(getattr(value, field.name)) for field in fields}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _to_json_value(field) for name, field in value._asdict().items()}
    if isinstance(value, tuple):
        return [_to_json_value(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

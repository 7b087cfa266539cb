"""Prediction sets: a temperature and thresholds, each fitted on its own half of the validation.

The sets are made of tempered probabilities. A temperature fitted on the calibration images would
break the promise. So it is fitted on one half of the clean validation images, and the thresholds on
the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from fairweather.errors import InputError, unknown_name
from fairweather.metrics import softmax
from fairweather.metrics.columns import BoolArray, FloatArray, IntArray, LabelArray, blocks
from fairweather.metrics.conformal import (
    METHODS,
    ORDINAL,
    CalibrationDraw,
    Method,
    class_scores,
    conformal_quantile,
    fewest_images,
    label_scores,
    set_columns,
)
from fairweather.metrics.grouping import Grouping, Weigh, check_weigh
from fairweather.metrics.two_sample import one_of_each
from fairweather.tasks import CLASSIFICATION_TASK, Logits, Task
from fairweather.types.kinds import CLASSES, TaskKind
from fairweather.types.measurement import AnyPredictions, format_number, is_finite
from fairweather.types.record import sets_file
from fairweather.variants.fitted import FittedParameters
from fairweather.variants.scaling import fit_temperature
from fairweather.variants.variant import PostHoc

# Probabilities in memory at once, which limits the memory for many classes.
PROBABILITIES_AT_ONCE = 4_000_000


class Halves(NamedTuple):
    """The places of the images that each of the two is fitted on, int64 `[a]` and `[b]`."""

    temperature: IntArray
    thresholds: IntArray


class FittedSets(FittedParameters):
    """The fit of prediction sets."""

    method: Method
    coverage: float
    classwise: bool
    """`method`, `coverage`, `classwise`: of the variant; see `Conformal`."""

    temperature: Annotated[FiniteFloat, Field(gt=0)]
    """Logits are divided by it."""

    temperature_images: int
    """The number of images that it was fitted on."""

    thresholds: tuple[FiniteFloat, ...]
    """The largest score of a class in a set: one, or one for each class."""

    images: tuple[int, ...]
    """The number of calibration images behind each threshold, or the effective number of their
    groups if the variant weighs images."""

    covered: tuple[int, ...]
    """How many of them have their label in their set."""

    filled: float
    """Share of the calibration images whose set would be empty, and is the most probable class
    instead."""

    @property
    def draws(self) -> tuple[CalibrationDraw, ...]:
        """The calibration images behind each threshold, on which the coverage depends."""
        return tuple(
            CalibrationDraw(images, covered, label if self.classwise else None)
            for label, (images, covered) in enumerate(zip(self.images, self.covered, strict=True))
        )

    @property
    def note(self) -> str:
        return f"sets from {sum(self.images):,} images"

    def change(self, logits: NDArray[np.floating]) -> Logits:
        return np.asarray(logits / np.float32(self.temperature), dtype=np.float32)

    def columns(
        self, logits: Logits, labels: IntArray, task: Task = CLASSIFICATION_TASK
    ) -> Mapping[str, Any]:
        parts = [
            set_columns(softmax(logits[at]), labels[at], self.thresholds, self.method)
            for at in blocks(len(logits), logits.shape[1], PROBABILITIES_AT_ONCE)
        ]
        return {
            **super().columns(logits, labels, task),
            "set_size": np.concatenate([part.set_size for part in parts]),
            "covered": np.concatenate([part.covered for part in parts]),
        }


@dataclass(frozen=True)
class Conformal(PostHoc):
    """A set of classes for each image that contains the label as often as promised.

    >>> Conformal(coverage=0.95, classwise=True).name
    'conformal-lac-0.95-classwise'
    """

    kind: ClassVar[str] = "conformal"
    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {CLASSES: FittedSets}
    makes_sets: ClassVar[bool] = True
    difference: ClassVar[str] = "its confidence differs, and it has prediction sets"
    method: Method = "lac"
    """The score of a class: `lac`, `aps`, `raps`, or `ordinal` for classes in an order; see
    `fairweather.metrics.conformal`."""

    coverage: float = 0.9
    """The promised share of images whose label is in the set."""

    classwise: bool = False
    """Keep the promise for the images of each class, with a threshold for each."""

    weigh: Weigh = "groups"
    """What counts alike where images belong together: `groups`, such as patients, of which one
    image each is used; or `images`, so that the coverage is a share of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weigh(self.weigh)
        if self.method not in METHODS:
            raise unknown_name("method of prediction sets", str(self.method), METHODS)
        if not is_finite(self.coverage) or not 0 < self.coverage < 1:
            raise InputError(
                "the coverage of prediction sets must be a share between 0 and 1, such as 0.9, "
                f"found {self.coverage!r}"
            )
        if not isinstance(self.classwise, bool):
            raise InputError(
                f"classwise of prediction sets must be true or false, found {self.classwise!r}"
            )

    @property
    def own_name(self) -> str:
        classwise = "-classwise" if self.classwise else ""
        weighed = "-images" if self.weigh == "images" else ""
        return f"{self.kind}-{self.method}-{format_number(self.coverage)}{classwise}{weighed}"

    @property
    def title(self) -> str:
        classwise = " in each class" if self.classwise else ""
        weighed = " of images" if self.weigh == "images" else ""
        method = self.method.title() if self.needs_order else self.method.upper()
        return f"{method} sets for {100 * self.coverage:.6g} %{weighed}{classwise}"

    @property
    def needs_order(self) -> bool:
        return self.method == ORDINAL

    def file(self, model: str, seed: int | str) -> str:
        return sets_file(model, self.name, seed)

    def check_images(
        self,
        keys: IntArray,
        labels: LabelArray,
        classes: Sequence[str],
        grouping: Grouping | None = None,
    ) -> None:
        self.split(keys, labels, classes, grouping)

    def split(
        self,
        keys: IntArray,
        labels: LabelArray,
        classes: Sequence[str],
        grouping: Grouping | None = None,
    ) -> Halves:
        """Split validation images into halves, which must be large enough for the promise.

        If images belong together and the variant weighs groups, the thresholds use one image of
        each group (and class, with thresholds for each class). A quantile is exact for independent
        images, and the promise is about an image of a new patient. If it weighs images, all are
        used, and count as their effective number of groups.

        Args:
            keys, labels: int64 `[n]`, of the clean validation images.
            classes: the names of the classes.
            grouping: which images belong together.

        Raises:
            InputError: a threshold would have fewer images than `fewest_images`, and so every set
                every class; or no image is left for the temperature; or the variant weighs images,
                and which belong together is not known.

        >>> Conformal().split(np.arange(8), np.zeros(8, int), ("cat",))
        Traceback (most recent call last):
        fairweather.errors.InputError: a coverage of 0.9 needs at least 9 calibration images, and
        half of the 8 validation images is 4: use more validation images or a lower coverage
        """
        if grouping is None and self.weigh == "images":
            raise InputError(
                "prediction sets: weigh: images is for images that belong together, and which do "
                "is not known here: leave it out, or name a table and its column (see "
                "docs/patients.md)"
            )
        parts, whole = split_halves(keys, grouping), f"{len(keys):,} validation images"
        if grouping is not None:
            if grouping.count < 2:
                raise InputError(
                    "prediction sets need validation images for a temperature and others for "
                    "thresholds, and all validation images belong together"
                )
            whole = f"{grouping.count:,} groups of validation images"
            if self.weigh == "groups":
                unit = (
                    grouping.numbers * len(classes) + labels if self.classwise else grouping.numbers
                )
                chosen = one_of_each(Grouping.from_names(unit[parts.thresholds]))
                parts = parts._replace(thresholds=parts.thresholds[chosen])
                whole += ", with one image of each,"
        needed, left = fewest_images(self.coverage), self._worth(parts.thresholds, grouping)
        promised = f"a coverage of {self.coverage:g}"
        if left < needed or not len(parts.temperature):
            raise InputError(
                f"{promised} needs at least {needed:,} calibration images, and half of the {whole} "
                f"is {left:,}: use more validation images or a lower coverage"
            )
        counts = [
            self._worth(parts.thresholds[behind], grouping)
            for behind in self._behind_thresholds(labels[parts.thresholds], len(classes))
        ]
        least = int(np.argmin(counts))
        if counts[least] < needed:
            raise InputError(
                f"{promised} in each class needs at least {needed:,} calibration images of each, "
                f"and half of the {whole} has {counts[least]:,} of {classes[least]!r}: use more "
                "validation images, a lower coverage, or classwise: false"
            )
        return parts

    def fit(self, predictions: AnyPredictions, grouping: Grouping | None = None) -> FittedSets:
        """Fit temperature and thresholds, each on its own half of the clean validation images.

        Arguments as in the base. Raises `InputError` as `split` does.
        """
        labels, classes, logits = predictions.labels, predictions.classes, predictions.logits
        assert logits is not None
        parts = self.split(predictions.keys, labels, classes, grouping)
        temperature = fit_temperature(logits[parts.temperature], labels[parts.temperature]).value
        truth, rows = labels[parts.thresholds], logits[parts.thresholds]
        rows /= np.float32(temperature)
        some = list(blocks(len(rows), len(classes), PROBABILITIES_AT_ONCE))
        parts_of_scores = [label_scores(softmax(rows[at]), truth[at], self.method) for at in some]
        scores = np.concatenate(parts_of_scores)
        behind = self._behind_thresholds(truth, len(classes))
        counts = [self._worth(parts.thresholds[images], grouping) for images in behind]
        counted = list(zip(behind, counts, strict=True))
        quantiles = [
            conformal_quantile(scores[images], self.coverage, count) for images, count in counted
        ]
        thresholds = np.array(quantiles)
        judged = [_judge_sets(rows[at], truth[at], thresholds, self.method) for at in some]
        covered, empty = np.concatenate(judged).T
        return FittedSets(
            method=self.method,
            coverage=self.coverage,
            classwise=self.classwise,
            temperature=temperature,
            temperature_images=len(parts.temperature),
            thresholds=tuple(quantiles),
            images=tuple(counts),
            covered=tuple(
                round(count * float(covered[images].mean())) for images, count in counted
            ),
            filled=float(empty.mean()),
        )

    def _behind_thresholds(self, labels: LabelArray, classes: int) -> list[BoolArray]:
        """The images behind each threshold, bool `[n]` each."""
        if self.classwise:
            return [labels == label for label in range(classes)]
        return [np.ones(len(labels), dtype=bool)]

    def _worth(self, places: IntArray, grouping: Grouping | None) -> int:
        """How many independent images some validation images are worth."""
        if grouping is None or self.weigh == "groups" or not len(places):
            return len(places)
        return int(grouping.select(places).effective)


def split_halves(keys: IntArray, grouping: Grouping | None = None) -> Halves:
    """Split images into halves by their keys, the same on every machine and in any order.

    Args:
        keys: int64 `[n]`, the key of each image.
        grouping: which images belong together, such as those of a patient; they are then in one
            half, and the first half has half of the groups. The halves ignore their sizes: with
            more large ones in one half, its images would not represent all patients.

    >>> parts = split_halves(np.arange(5))
    >>> len(parts.temperature), len(parts.thresholds)
    (2, 3)
    """
    order = _mixed_order(keys)
    if grouping is None:
        most = len(keys) // 2
        return Halves(np.sort(order[:most]), np.sort(order[most:]))
    first = np.full(grouping.count, np.iinfo(np.int64).max)
    np.minimum.at(first, grouping.numbers, keys)
    is_first = np.isin(grouping.numbers, _mixed_order(first)[: grouping.count // 2])
    return Halves(np.flatnonzero(is_first), np.flatnonzero(~is_first))


def _judge_sets(
    rows: NDArray[np.float32], labels: LabelArray, thresholds: FloatArray, method: str
) -> BoolArray:
    """Which labels are covered, and which sets would be empty, bool `[n, 2]`."""
    probabilities = softmax(rows)
    empty = ~(class_scores(probabilities, method) <= thresholds).any(axis=1)
    covered = set_columns(probabilities, labels, thresholds, method).covered
    return np.stack([covered, empty], axis=1)


def _mixed_order(keys: IntArray) -> IntArray:
    return np.lexsort((keys, _mix_bits(keys)))


def _mix_bits(numbers: IntArray) -> NDArray[np.uint64]:
    """Mix the bits of each number, so that the order is unrelated to the images.

    Source: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators, figure 17.
    """
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))

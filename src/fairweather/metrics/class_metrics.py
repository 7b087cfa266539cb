"""The metrics of one class against all others, such as `sensitivity/malignant`.

They are no rows of `METRICS`, because a run has as many of each as there are classes. A class is
called where it is the most probable one, or, with an operating point such as
`sensitivity/malignant@0.3`, where its probability is at least that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from fairweather.errors import InputError
from fairweather.metrics.areas import disjoint_pairs
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray, ratio
from fairweather.metrics.metric import (
    FEWEST_OF_AREAS,
    Accepts,
    Interval,
    Metric,
    MetricRow,
    by_name,
)
from fairweather.metrics.one_vs_rest import (
    F1,
    NPV,
    PPV,
    SENSITIVITY,
    SPECIFICITY,
    CallShare,
    ClassCounts,
)
from fairweather.metrics.sample import Prepared, Sample, calls_of
from fairweather.types import Predictions, shortest

OF_LOGITS = Accepts(logits=True)
AT = "@"  # between the class and its operating point


@dataclass(frozen=True)
class OfClasses(MetricRow):
    """A metric that every class has: one row of `CLASS_METRICS`.

    Attributes:
        of: the share of images that it is, which depends on the probability from which on the class
            is called; or, from a `Sample` and a label to `[B]`, what does not depend on it.
        counted: of what is no such share, how many images make it more or less precise: those of
            the class by default.
        fewest: with fewer such images there is no interval.
        column, bias: of an area, what each image adds to it, and how much too high it is; see
            `Metric`.
    """

    of: CallShare | Callable[[Sample, int], FloatArray]
    _: KW_ONLY
    counted: Callable[[ClassCounts], FloatArray] = SENSITIVITY.whole
    higher_is_better: bool | None = True
    interval: Interval = "conditional"
    accepts: Accepts = OF_LOGITS
    fewest: int = 1
    column: Callable[[Prepared, int], FloatArray] | None = None
    bias: Callable[[Prepared, int], FloatArray] | None = None

    def whole(self, counts: ClassCounts) -> FloatArray:
        """Count the images that its value is a share of."""
        return self.of.whole(counts) if isinstance(self.of, CallShare) else self.counted(counts)

    @property
    def has_points(self) -> bool:
        """Tell whether it is of the calls of the class, and so also of operating points."""
        return isinstance(self.of, CallShare)


CLASS_METRICS: dict[str, OfClasses] = by_name(
    OfClasses(
        "sensitivity",
        "Sensitivity",
        "share of the images of the class that are called so (recall)",
        SENSITIVITY,
    ),
    OfClasses(
        "specificity",
        "Specificity",
        "share of the images of other classes that are not called so",
        SPECIFICITY,
    ),
    OfClasses(
        "ppv",
        "PPV",
        "share of the images called so that are of the class (positive predictive value, "
        "precision); it depends on how frequent the class is among the images",
        PPV,
    ),
    OfClasses(
        "npv",
        "NPV",
        "share of the images not called so that are of other classes (negative predictive value); "
        "it depends on how frequent the class is among the images",
        NPV,
    ),
    OfClasses(
        "f1",
        "F1",
        "2 × right calls / (images of the class + images called so), the harmonic mean of "
        "sensitivity and PPV",
        F1,
        interval="overlap",
    ),
    OfClasses(
        "auc",
        "AUC",
        "probability that an image of the class has a higher probability of it than one of another "
        "class; ties count half",
        lambda s, label: _of_present(s.areas, s.prepared, label, np.nan),
        counted=lambda c: np.minimum(c.images, c.total - c.images),
        interval="area",
        fewest=FEWEST_OF_AREAS,
        column=lambda prepared, label: _of_present(prepared.auc_columns, prepared, label, 0.0),
    ),
    OfClasses(
        "pr_auc",
        "PR-AUC",
        "average precision: the mean over the images of the class of the precision among all "
        "images with at least their probability",
        lambda s, label: _of_present(s.precisions, s.prepared, label, np.nan),
        counted=lambda c: np.minimum(c.images, c.total - c.images),
        interval="area",
        fewest=FEWEST_OF_AREAS,
        column=lambda prepared, label: _of_present(
            prepared.precision_columns, prepared, label, 0.0
        ),
        bias=lambda prepared, label: _of_present(prepared.precision_biases, prepared, label, 0.0),
    ),
    OfClasses(
        "conformal_coverage",
        "Coverage of prediction sets",
        "share of the images of the class whose prediction set contains it; only of conformal "
        "variants",
        lambda s, label: _share_of_label("covered", s, label),
        accepts=Accepts(logits=True, sets=True),
    ),
)


@dataclass(frozen=True, kw_only=True)
class ClassMetric(Metric):
    """A metric of one class.

    Attributes:
        kind: which metric.
        class_label: the class, as its place in the list of classes.
        threshold: the probability from which on the class is called; None if it is called where it
            is the most probable class.
    """

    kind: OfClasses
    class_label: int
    threshold: float | None

    def images(self, predictions: Predictions) -> int:
        """Count the images of the class."""
        return int((predictions.labels == self.class_label).sum())

    def errors(self, predictions: Predictions, clusters: Clusters | None = None) -> float:
        """Count the images that the value is a share of.

        If those of the class are in fewer clusters than the others, they count for less.
        """
        truth = predictions.labels == self.class_label
        calls = calls_of(predictions, self.class_label, self.threshold)
        every = np.ones_like(truth)
        counts = ClassCounts(
            *(np.array([each.sum()]) for each in (truth & calls, truth, calls, every))
        )
        evenness = 1.0 if clusters is None else clusters.evenness(truth)
        return float(self.kind.whole(counts)[0]) * evenness

    def pairs(self, predictions: Predictions, clusters: Clusters | None = None) -> float:
        """Count the `disjoint_pairs` of the class and the others."""
        of = None if clusters is None else clusters.of
        return disjoint_pairs(predictions.labels == self.class_label, of)


def of_classes(name: str) -> OfClasses | None:
    """Find what kind of metric of a class has this name in scores.csv; None if none has.

    >>> of_classes("ppv/malignant@0.3").label, of_classes("ppv"), of_classes("accuracy")
    ('PPV', None, None)
    """
    kind, _, named = name.partition("/")
    return CLASS_METRICS.get(kind) if named else None


def class_metric(name: str, classes: Sequence[str]) -> ClassMetric | None:
    """Find a metric of one of these classes by its name in scores.csv; None if there is none.

    >>> found = class_metric("ppv/malignant@0.3", ["benign", "malignant"])
    >>> found.label, found.class_label, found.threshold
    ('PPV of malignant at 0.3', 1, 0.3)
    >>> class_metric("ppv/mole", ["benign", "malignant"]) is None
    True
    """
    kind = of_classes(name)
    if kind is None:
        return None
    named = name.partition("/")[2]
    threshold = None
    label = f"{kind.label} of {named}"
    if named not in classes:  # the name of a class may contain the sign too
        named, _, at = named.rpartition(AT)
        threshold = read_threshold(at)
        label = f"{kind.label} of {named} at {at}"
        if named not in classes or threshold is None or not kind.has_points:
            return None
    place = list(classes).index(named)
    of_kind = kind.of
    if isinstance(of_kind, CallShare):
        of_kind = partial(_counted, of_kind, threshold)
    column, bias = kind.column, kind.bias
    return ClassMetric(
        name,
        label,
        kind.formula,
        lambda s: of_kind(s, place),
        higher_is_better=kind.higher_is_better,
        bounds=kind.bounds,
        interval=kind.interval,
        accepts=kind.accepts,
        fewest=kind.fewest,
        column=column and (lambda prepared: column(prepared, place)),
        bias=bias and (lambda prepared: float(bias(prepared, place)[0])),
        kind=kind,
        class_label=place,
        threshold=threshold,
    )


def class_metric_names(
    classes: Sequence[str], points: Mapping[str, float] = MappingProxyType({})
) -> list[str]:
    """The names in scores.csv of every metric of every class, and of each operating point.

    Args:
        classes: the names of the classes.
        points: the probability from which on a class is called, by class.

    >>> class_metric_names(["a"], {"a": 0.25})[-2:]
    ['npv/a@0.25', 'f1/a@0.25']
    """
    names = [f"{kind}/{name}" for name in classes for kind in CLASS_METRICS]
    names += [
        f"{kind}/{name}{AT}{shortest(threshold)}"
        for name, threshold in points.items()
        for kind, of in CLASS_METRICS.items()
        if of.has_points
    ]
    return names


def read_points(texts: Sequence[str]) -> dict[str, float]:
    """Read operating points of the form `CLASS=PROBABILITY`, at most one of each class.

    >>> read_points(["malignant=0.3", "a=b=0.5"])
    {'malignant': 0.3, 'a=b': 0.5}
    """
    points: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        threshold = read_threshold(number)
        if not name or threshold is None:
            raise InputError(
                f"an operating point must have the form CLASS=PROBABILITY, such as malignant=0.3, "
                f"found {text!r}"
            )
        if name in points:
            raise InputError(f"the class {name!r} has two operating points; give it one")
        points[name] = threshold
    return points


def read_threshold(text: str) -> float | None:
    """Read a probability between 0 and 1; None for any other text.

    >>> read_threshold("0.3"), read_threshold("0"), read_threshold("high")
    (0.3, None, None)
    """
    try:
        threshold = float(text)
    except ValueError:
        return None
    return threshold if 0 < threshold < 1 else None


def _counted(of: CallShare, threshold: float | None, s: Sample, label: int) -> FloatArray:
    counts = s.counts.only(label) if threshold is None else s.counts_at(label, threshold)
    return np.asarray(of.value(counts)[0])


def _of_present(columns: FloatArray, prepared: Prepared, label: int, absent: float) -> FloatArray:
    """One class of `[rows, k]` of the labels present; filled if the label is absent."""
    at = np.flatnonzero(prepared.present == label)
    return np.asarray(columns[:, at[0]]) if len(at) else np.full(len(columns), absent)


def _share_of_label(column: str, s: Sample, label: int) -> FloatArray:
    """Mean of a column of `Prepared.means` over the images of a class; NaN if it has none."""
    sums = (s.by_label(name).T for name in (column, "images"))
    return ratio(*(_of_present(each, s.prepared, label, np.nan) for each in sums))

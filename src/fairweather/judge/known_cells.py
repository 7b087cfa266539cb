"""Methods that estimate accuracy without labels, and their errors in the cells of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.metrics import atc_threshold, confidence_gap, softmax
from fairweather.metrics.accuracy_estimation import (
    NO_SHIFT,
    PastErrors,
    SiteErrors,
    agreement_shares,
)
from fairweather.metrics.columns import ROUNDING, BoolArray, FloatArray, IntArray
from fairweather.metrics.two_sample import Cloud, EnergyDistance, energy_distance
from fairweather.metrics.unseen import FEWEST_SITES
from fairweather.progress import Event, Notify
from fairweather.runs.scores import read_grouping
from fairweather.shifts.table import operation_name
from fairweather.steps.run_model import RunModel
from fairweather.types.measurement import Predictions, format_number
from fairweather.types.options import MISSING
from fairweather.types.record import CLEAN, NATURAL, NO_LEVEL, TEST, VAL
from fairweather.variants.scaling import fit_temperature

# The accuracy of fewer images is mostly chance: of 20, each is 5 points.
FEWEST_IMAGES = 20
METHOD_TITLES: Mapping[str, str] = {
    "average_confidence": "average confidence",
    "average_confidence+temperature": "average confidence, tempered",
    "atc": "ATC",
    "atc+temperature": "ATC, tempered",
    "difference_of_confidences": "difference of confidences",
    "seed_agreement": "agreement of the seeds",
}


@dataclass(frozen=True)
class UnlabelledPredictions:
    """A model's predictions for images without labels."""

    predicted: IntArray
    """Int `[n]`."""

    confidence: FloatArray
    """Float `[n]`."""

    logits: npt.NDArray[np.float32] | None
    """float32 `[n, classes]`; None where they are not stored."""

    others: IntArray | None = None
    """Int `[k, n]`, the predictions of the model's other seeds; None without other seeds."""

    def __len__(self) -> int:
        return len(self.predicted)

    @staticmethod
    def from_predictions(
        predictions: Predictions, others: IntArray | None = None
    ) -> UnlabelledPredictions:
        """Take the columns of stored predictions."""
        columns = predictions.predicted, predictions.known_confidence, predictions.logits
        return UnlabelledPredictions(*columns, others)

    @property
    def rows(self) -> FloatArray:
        """The rows for comparing sets of images: probabilities, else the confidence, `[n, k]`."""
        return self.confidence[:, None] if self.logits is None else softmax(self.logits)

    def tempered_confidence(self, temperature: float) -> FloatArray:
        """The confidence `[n]` after temperature scaling; logits must be stored."""
        assert self.logits is not None
        return softmax(self.logits / temperature).max(axis=1)

    def agreement_of_seeds(self) -> FloatArray:
        """The share of the other seeds that say the same, `[n]`; others must have been asked."""
        assert self.others is not None
        return agreement_shares(self.predicted, self.others)


# Of images: a number for each, float64 `[n]`, whose mean estimates the accuracy.
Method: TypeAlias = "Callable[[UnlabelledPredictions], FloatArray]"


def fit_methods(validation: Predictions | None, *, seeds: bool) -> dict[str, Method]:
    """Fit the methods that a run supports on the validation predictions of the model.

    Args:
        validation: the predictions; None if the run has none.
        seeds: whether other seeds of the model are asked too.

    Returns:
        The methods by name, in the order of `METHOD_TITLES`.
    """
    methods: dict[str, Method] = {"average_confidence": lambda images: images.confidence}
    if validation is not None:
        confidence, correct = validation.known_confidence, validation.correct
        threshold = atc_threshold(confidence, correct)
        gap = float(confidence_gap(confidence, correct))
        methods["atc"] = lambda images: (images.confidence >= threshold).astype(np.float64)
        methods["difference_of_confidences"] = lambda images: images.confidence - gap
        if validation.logits is not None:
            temperature = fit_temperature(validation.logits, validation.labels).value
            tempered = UnlabelledPredictions.from_predictions(validation).tempered_confidence(
                temperature
            )
            tempered_threshold = atc_threshold(tempered, correct)
            methods["average_confidence+temperature"] = lambda images: images.tempered_confidence(
                temperature
            )
            methods["atc+temperature"] = lambda images: (
                images.tempered_confidence(temperature) >= tempered_threshold
            ).astype(np.float64)
    if seeds:
        methods["seed_agreement"] = lambda images: images.agreement_of_seeds()
    return {name: methods[name] for name in METHOD_TITLES if name in methods}


def apply_methods(methods: Mapping[str, Method], images: UnlabelledPredictions) -> FloatArray:
    """A number for each image and method, whose mean is the estimate: `[n, methods]`."""
    return np.stack([method(images) for method in methods.values()], axis=1)


# Rows of logits this close are of one image: other machines round differently.
SAME_IMAGE = 1e-3
# Confidences above this are too similar to identify images.
CERTAIN = 1 - 1e-6
# A row identifies a stored image only if the next row is this many times as far.
APART = 10
# So does the row of another image, with at most this chance: 1/APART where rows vary smoothly. On
# a grid, a value has one stored image with at most Poisson's chance of 1/e. Together it is 0.40,
# and slightly more with few stored images.
CHANCE_MATCH = 0.42
# Other images are said to be the run's own at most this often.
FALSE_RECOGNITION = 1e-6


@dataclass(frozen=True)
class KnownCell:
    """Images with labels: a shift at a level."""

    shift: str
    level: str
    """`shift`, `level`: as in scores.csv."""

    title: str
    """For people."""

    accuracy: float
    images: int
    """`accuracy`, `images`: of the model."""

    estimates: FloatArray
    """float64 `[methods]`, what each method says."""

    spreads: FloatArray
    """float64 `[methods]`; see `PastErrors`."""

    cloud: Cloud
    """What the model says of them."""

    digest: bytes
    """Of the confidences; it shows that two names mean the same change."""

    @property
    def kind(self) -> str:
        """The operation of its shift, the same in all families; other images are a kind of their
        own."""
        if self.shift.startswith(NATURAL):
            return self.shift
        return operation_name(self.shift)


def read_known_cells(
    model: RunModel,
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    *,
    new_images: UnlabelledPredictions,
    tell: Notify,
) -> tuple[list[KnownCell], list[str], list[str]]:
    """Read the cells that a model was measured on, and name the shifts that are left out.

    Attacks are left out, because they are made to deceive. Levels that change nothing, such as a
    factor of 1, are left out too: two sweeps with such levels would share a cell and count as one
    shift. The clean cell and other images of the same classes are left out if the new images are
    among them.

    Args:
        model: the model.
        methods: fitted.
        seeds: the other seeds that are asked.
        new_images: the model's predictions for the new images.
        tell: told of progress.

    Returns:
        The cells; the shifts with the new images; the shifts whose levels all change nothing.
    """
    known: list[KnownCell] = []
    own: list[str] = []
    unchanged: list[str] = []
    clean = b""
    cells = list(_iter_cells(model))
    for done, (shift, level, title, cell, part) in enumerate(cells):
        tell(Event("read what the run knows", done, len(cells)))
        predictions = _read_predictions(model, model.seed, cell, part)
        if predictions is None:
            continue
        digest = predictions.known_confidence.tobytes()
        if shift == CLEAN:
            clean = digest
        elif digest == clean:
            unchanged.append(shift)
            continue
        if (shift == CLEAN or shift.startswith(NATURAL)) and is_among(new_images, predictions):
            own.append(shift)
            continue
        of_seeds = [_read_predictions(model, seed, cell, part) for seed in seeds]
        others = [read.predicted for read in of_seeds if read is not None]
        if len(others) < len(seeds):
            continue
        images = UnlabelledPredictions.from_predictions(
            predictions, np.stack(others) if others else None
        )
        estimates = apply_methods(methods, images)
        known.append(
            KnownCell(
                shift,
                level,
                title,
                float(predictions.correct.mean()),
                len(predictions),
                estimates.mean(axis=0),
                (estimates - predictions.correct[:, None]).std(axis=0),
                Cloud.from_rows(images.rows),
                digest,
            )
        )
    tell(Event("read what the run knows", len(cells), len(cells)))
    changing = {cell.shift for cell in known}
    return known, own, [name for name in dict.fromkeys(unchanged) if name not in changing]


def read_site_errors(
    model: RunModel, validation: Predictions, seeds: Sequence[int]
) -> SiteErrors | None:
    """The errors of each method at each site of the clean test images, each left out in turn.

    The methods are fitted on validation images of the other sites. Sites with fewer than 20 images
    do not count. None for a run without five sites, if the sites of validation images are unknown,
    or if another seed was not measured.

    Args:
        model: the model.
        validation: its predictions of validation images.
        seeds: the other seeds that are asked.
    """
    test, val = model.run.groups(TEST), model.run.groups(VAL)
    read = [_read_predictions(model, seed, CLEAN, TEST) for seed in (model.seed, *seeds)]
    of_seeds = [predictions for predictions in read if predictions is not None]
    if test is None or val is None or len(of_seeds) < len(read):
        return None
    grouping, clean = read_grouping(model.run), of_seeds[0]
    for column in model.record.settings.sites:
        at, rows = test.slices[column], []
        fitted_at = val.slices.get(column, np.full(len(validation), MISSING))
        for site in sorted({*at} - {MISSING}):
            places = np.flatnonzero(at == site)
            apart = validation.take(np.flatnonzero(~np.isin(fitted_at, [site, MISSING])))
            if len(places) < FEWEST_IMAGES or not len(apart):
                continue
            others = np.stack([p.predicted[places] for p in of_seeds[1:]]) if seeds else None
            here = clean.take(places)
            images = UnlabelledPredictions.from_predictions(here, others)
            estimates = apply_methods(fit_methods(apart, seeds=bool(seeds)), images)
            errors = estimates - here.correct[:, None]
            if grouping is not None:
                errors = grouping.select(places).influences(errors)
            if (units := len(errors)) < 2:
                continue
            variances = errors.var(axis=0, ddof=1) / units
            # Where no image has an error, one of as many more may have one.
            hidden = np.where(variances > ROUNDING, variances, 1 / units**2)
            rows.append((errors.mean(axis=0), hidden))
        if len(rows) >= FEWEST_SITES:
            return SiteErrors(*map(np.stack, zip(*rows, strict=True)))
    return None


def compute_past_errors(
    known: Sequence[KnownCell], around: Cloud | None, tell: Notify, sites: SiteErrors | None = None
) -> PastErrors:
    """The errors of each method in each cell, and how far the cell is from validation images.

    Shifts of one operation, such as brightness in two families, count as one. So do shifts that
    share a cell.

    Args:
        known: cells.
        around: what the model says of validation images; None if the run has none.
        tell: told of progress.
        sites: the errors at sites, if the run has enough.
    """
    number: dict[str, int] = {CLEAN: NO_SHIFT}
    by_digest: dict[bytes, int] = {}
    for cell in known:
        mine = number.setdefault(cell.kind, len(number))
        same = by_digest.setdefault(cell.digest, mine)
        number = {kind: same if old == mine else old for kind, old in number.items()}
        by_digest = {digest: same if old == mine else old for digest, old in by_digest.items()}
    count = len(known)
    between = np.zeros((2, count, count))  # distances and their standard errors
    for row in range(count):
        tell(Event("compare what the run knows", row, count))
        for column in range(row):
            apart = energy_distance(known[row].cloud, known[column].cloud)
            between[:, row, column] = between[:, column, row] = apart
    tell(Event("compare what the run knows", count, count))
    unknown = EnergyDistance(np.nan, np.nan)
    distance, error = np.transpose(
        [unknown if around is None else energy_distance(cell.cloud, around) for cell in known]
    )
    return PastErrors(
        np.array([number[cell.kind] for cell in known]),
        np.stack([cell.estimates - cell.accuracy for cell in known]),
        np.stack([cell.spreads for cell in known]),
        distance,
        error,
        between[0],
        between[1],
        sites,
    )


def is_among(own: UnlabelledPredictions, predictions: Predictions) -> bool:
    """Say whether more than half of the images are among those with these predictions.

    Images are identified by their logits or, if these are not stored, by class and confidence. With
    few classes, other images have nearly the same logits by chance. So images are recognised only
    where as many match by chance with a probability below 1e-6, which takes at least 16 images.
    """
    import scipy.stats

    stored = UnlabelledPredictions.from_predictions(predictions)
    new, old = own.logits, stored.logits
    if new is None or old is None:
        new, old = _identifying_columns(own), _identifying_columns(stored)
    if not len(new) or not len(old):
        return False
    identified, nearest = identify_rows(new, old)
    if identified.mean() <= 0.5 + 0.5 * CHANCE_MATCH:  # half, and by chance as many of the others
        return False
    # Images near the same row match it together, so one of them counts.
    alone = np.where(nearest < len(old), nearest, -np.arange(1, len(new) + 1))
    _, independent = np.unique(alone, return_index=True)
    matches, count = np.count_nonzero(identified[independent]), len(independent)
    return bool(scipy.stats.binom.sf(matches - 1, count, CHANCE_MATCH) < FALSE_RECOGNITION)


def identify_rows(
    new: npt.NDArray[np.floating[Any]], old: npt.NDArray[np.floating[Any]]
) -> tuple[BoolArray, IntArray]:
    """Say which rows `[n, k]` are very near one old row `[m, k]`, and far from all others.

    Returns:
        bool `[n]`, and int64 `[n]`: the nearest old row, or m where none is near.
    """
    import scipy.spatial

    # What is farther decides nothing, and a tree is slow to find it.
    farthest = APART * SAME_IMAGE
    distances, places = scipy.spatial.KDTree(old).query(new, k=2, distance_upper_bound=farthest)
    first, second = distances.T
    return (first <= SAME_IMAGE) & (APART * first < second), places[:, 0]


def _identifying_columns(predictions: UnlabelledPredictions) -> npt.NDArray[np.float32]:
    """Identify images without logits, by class and log-odds of the confidence.

    Images with nearly certain predictions are left out, because their confidences are too similar.
    """
    unsure = (predictions.confidence > 0) & (predictions.confidence < CERTAIN)
    odds = scipy.special.logit(predictions.confidence[unsure])
    return np.stack([odds, predictions.predicted[unsure]], axis=1).astype(np.float32)


def _iter_cells(model: RunModel) -> Iterator[tuple[str, str, str, str, str]]:
    """Shift, level, title, id and part of each cell."""
    yield CLEAN, NO_LEVEL, "the clean test images", CLEAN, TEST
    for sweep in model.record.sweeps:
        if sweep.kind == "shift":
            for cell in sweep.cells:
                level = format_number(cell.level)
                title = f"{sweep.title}, {sweep.level_words} {level}"
                yield sweep.name, level, title, cell.id, TEST
    for name in model.record.natural:
        if name in model.record.choices:  # new images have no class mask
            continue
        yield f"{NATURAL}{name}", NO_LEVEL, f"the other images {name}", CLEAN, f"{NATURAL}{name}"


def _read_predictions(model: RunModel, seed: int | str, cell: str, part: str) -> Predictions | None:
    file = model.run.predictions(model.name, seed, cell, part)
    return model.run.read_predictions(file) if model.run.holds(file) else None

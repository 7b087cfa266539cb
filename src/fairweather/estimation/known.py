"""The images with labels that a run knows: its test images, clean and under each shift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.estimation.methods import Methods, Seen
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.estimating import UNCHANGED, PastErrors
from fairweather.metrics.nearness import Cloud, Distance, energy_distance
from fairweather.progress import Event, Notify
from fairweather.record import CLEAN, NATURAL, NO_LEVEL, TEST
from fairweather.reopened import Reopened
from fairweather.shifts.families import operation
from fairweather.types import Predictions, shortest

# Two rows of logits this near are of one image: what another machine rounds otherwise.
SAME = 1e-3
# Confidences above this do not tell images apart.
CERTAIN = 1 - 1e-6


@dataclass(frozen=True)
class Known:
    """Images with labels: a shift at a level.

    Attributes:
        shift, level: as in scores.csv.
        title: for people.
        accuracy, images: of the model.
        estimates: float64 `[methods]`, what each method says.
        spreads: float64 `[methods]`; see `PastErrors`.
        cloud: what the model says of them.
        digest: of the confidences, by which two names of the same change are known.
    """

    shift: str
    level: str
    title: str
    accuracy: float
    images: int
    estimates: FloatArray
    spreads: FloatArray
    cloud: Cloud
    digest: bytes

    @property
    def kind(self) -> str:
        """What its shift does; the same for all families of shifts. Other images are of no kind."""
        if self.shift.startswith(NATURAL):
            return self.shift
        return operation(self.shift)


def read_known(
    of: Reopened, methods: Methods, seeds: Sequence[int], *, own: Seen, tell: Notify
) -> tuple[list[Known], list[str]]:
    """Read all cells of a model, and name those that have the new images themselves.

    Attacks are left out: they are made to deceive. So are levels that change nothing, such as a
    factor of 1: two sweeps with such levels would else share a cell, and count as one shift. So
    are the clean cell and other images of the same classes, if the new ones are among them.

    Args:
        of: the model.
        methods: fitted.
        seeds: the other seeds that are asked.
        own: what the model says of the images that are asked about.
        tell: told of progress.
    """
    found: list[Known] = []
    left_out: list[str] = []
    clean = b""
    cells = list(_cells(of))
    for done, (shift, level, title, cell, part) in enumerate(cells):
        tell(Event("read what the run knows", done, len(cells)))
        predictions = _read(of, of.seed, cell, part)
        if predictions is None:
            continue
        digest = predictions.confidence.tobytes()
        if shift == CLEAN:
            clean = digest
        elif digest == clean:
            continue
        if (shift == CLEAN or shift.startswith(NATURAL)) and is_among(own, predictions):
            left_out.append(shift)
            continue
        each = [_read(of, seed, cell, part) for seed in seeds]
        others = [one.predicted for one in each if one is not None]
        if len(others) < len(seeds):
            continue
        seen = Seen.of(predictions, np.stack(others) if others else None)
        columns = methods.columns(seen)
        off = columns - predictions.correct[:, None]
        known = Known(
            shift,
            level,
            title,
            float(predictions.correct.mean()),
            len(predictions),
            columns.mean(axis=0),
            off.std(axis=0),
            Cloud.of(seen.rows),
            digest,
        )
        found.append(known)
    tell(Event("read what the run knows", len(cells), len(cells)))
    return found, left_out


def past_errors(known: Sequence[Known], around: Cloud | None, tell: Notify) -> PastErrors:
    """The errors of each method in each cell, and how far the cell is from validation images.

    Shifts of one operation, such as the brightness of two families, count as one; so do those that
    share a cell, under whatever names.

    Args:
        known: cells.
        around: what the model says of validation images; None if the run has none.
        tell: told of progress.
    """
    number: dict[str, int] = {CLEAN: UNCHANGED}
    by_digest: dict[bytes, int] = {}
    for each in known:
        mine = number.setdefault(each.kind, len(number))
        same = by_digest.setdefault(each.digest, mine)
        number = {name: same if old == mine else old for name, old in number.items()}
        by_digest = {name: same if old == mine else old for name, old in by_digest.items()}
    count = len(known)
    between, error = np.zeros((count, count)), np.zeros((count, count))
    for row in range(count):
        tell(Event("compare what the run knows", row, count))
        for column in range(row):
            apart = energy_distance(known[row].cloud, known[column].cloud)
            between[row, column] = between[column, row] = apart.value
            error[row, column] = error[column, row] = apart.error
    tell(Event("compare what the run knows", count, count))
    unknown = Distance(np.nan, np.nan)
    distance = [
        unknown if around is None else energy_distance(each.cloud, around) for each in known
    ]
    return PastErrors(
        np.array([number[each.kind] for each in known]),
        np.stack([each.estimates - each.accuracy for each in known]),
        np.stack([each.spreads for each in known]),
        np.array([each.value for each in distance]),
        np.array([each.error for each in distance]),
        between,
        error,
    )


def is_among(own: Seen, predictions: Predictions) -> bool:
    """Say whether more than half of the images are among those with these predictions.

    Their logits tell them apart, or where these are not stored, their classes and confidences.
    """
    import scipy.spatial

    stored = Seen.of(predictions)
    new, old = own.logits, stored.logits
    if new is None or old is None:
        new, old = _marks(own), _marks(stored)
    if not len(new) or not len(old):
        return False
    nearest, _ = scipy.spatial.KDTree(old).query(new, distance_upper_bound=SAME)
    return bool(np.isfinite(nearest).mean() > 0.5)


def _marks(seen: Seen) -> npt.NDArray[np.float32]:
    """What tells images apart without logits: the class and the log-odds of the confidence.

    Images of which the model is all but certain have no mark: their confidences are alike.
    """
    unsure = (seen.confidence > 0) & (seen.confidence < CERTAIN)
    odds = scipy.special.logit(seen.confidence[unsure])
    return np.stack([odds, seen.predicted[unsure]], axis=1).astype(np.float32)


def _cells(of: Reopened) -> Iterator[tuple[str, str, str, str, str]]:
    """Shift, level, title, id and part of each cell."""
    yield CLEAN, NO_LEVEL, "the clean test images", CLEAN, TEST
    for sweep in of.record.sweeps:
        if sweep.kind == "shift":
            for cell in sweep.cells:
                level = shortest(cell.level)
                title = f"{sweep.title}, {sweep.level_title} {level}"
                yield sweep.name, level, title, cell.id, TEST
    for name in of.record.natural:
        yield f"{NATURAL}{name}", NO_LEVEL, f"the other images {name}", CLEAN, f"{NATURAL}{name}"


def _read(of: Reopened, seed: int | str, cell: str, part: str) -> Predictions | None:
    file = of.run.predictions(of.name, seed, cell, part)
    return of.run.read_predictions(file) if of.run.holds(file) else None

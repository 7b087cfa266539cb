"""What outputs are: probabilities, their logarithms, or logits; and what logits they stand for."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.models.outputs import GIVEN, SMALLEST, TOLERANCE, asked_for

# The sum of many rounded probabilities may be further from one than `TOLERANCE`, but not than this.
MOST_TOLERANCE = 0.1
MOST_DECIMALS = 6
LEAST = -1e-6  # a negative number that rounding errors explain counts as 0
MOST = 0.9  # of rows that are probabilities show that the others were meant to be
LOOKED_AT = 10_000  # rows that show to how many decimals probabilities are rounded

# What settles whether outputs are probabilities.
WAYS = (
    "--outputs probabilities divides each row by its sum, and --outputs logits uses the numbers as "
    "they are"
)

OutputKind = Literal["probabilities", "logarithms of probabilities", "logits"]


class Kind(NamedTuple):
    """What outputs are taken for.

    Attributes:
        kind: logarithms of probabilities are logits too.
        origin: how that is known.
        whole: what a row sums to: 1, or 100 for percentages; probabilities are divided by it.
    """

    kind: OutputKind
    origin: str
    whole: float = 1.0

    def __str__(self) -> str:
        """One line for people."""
        done = "; each row is divided by its sum" if self.kind == "probabilities" else ""
        return f"{self.kind} ({self.origin}){done}"


def kind_of_rows(outputs: npt.NDArray[np.float64], asked: str, place: str) -> Kind:
    """Say what outputs are.

    `probabilities` are >= 0 and sum to one, or to 100, in every row; rounding may make them miss it
    by half a unit of the last decimal for each class, and at most by 0.1. A number from -1e-6 on
    counts as 0. `logarithms of
    probabilities` are <= 0, and their exponentials sum to one. All others are `logits`, unless they
    look like something else.

    Args:
        outputs: float64 `[N, C]`, at least two columns.
        asked: `auto`, `logits` or `probabilities`.
        place: what messages call them.

    Raises:
        InputError: they are in [0, 1] or have one sum, in all rows or in nine of ten, but are no
            probabilities; or they cannot be what is asked for.

    >>> rows = np.array([[0.33, 0.33, 0.33], [0.8, 0.1, 0.1]])
    >>> kind_of_rows(rows, "auto", "the table").origin
    '>= 0, and each row sums to 1 within 0.01; rounded to 2 decimals'
    >>> kind_of_rows(np.log(rows), "auto", "the table").kind, kind_of_rows(-rows, "logits", "").kind
    ('logarithms of probabilities', 'logits')
    """
    given = asked_for(asked)
    if given is not None and given.kind == "logits":
        _check_finite(outputs, place)
        return Kind("logits", GIVEN)
    if given is not None:
        _check_probabilities(outputs, place)
        return Kind("probabilities", GIVEN)
    found = _of_sums(outputs, place)
    if found is not None:
        return found
    if (outputs <= TOLERANCE).all():
        sums = np.exp(outputs).sum(1)
        if (np.abs(sums - 1) <= TOLERANCE * (1 + 1e-9)).all():
            return Kind(
                "logarithms of probabilities",
                f"<= 0, and the exponentials of each row sum to 1 within {TOLERANCE:g}",
            )
    _check_finite(outputs, place)
    return Kind("logits", "the rows are neither probabilities nor their logarithms")


def logits_of_rows(outputs: npt.NDArray[np.float64], kind: Kind) -> npt.NDArray[np.float32]:
    """Return the logits, float32 `[N, C]`, whose softmax is the probabilities of the rows.

    A probability below the smallest normal float32 is raised to it, as for models.
    """
    if kind.kind == "logits":
        return outputs.astype(np.float32)
    if kind.kind == "probabilities":
        shares = np.maximum(outputs, 0)
        shares = shares / shares.sum(1, keepdims=True)
        return np.log(np.maximum(shares, SMALLEST)).astype(np.float32)
    return np.maximum(outputs, np.log(SMALLEST)).astype(np.float32)


def decimals_of(values: npt.NDArray[np.float64]) -> int | None:
    """The decimals that all values are rounded to; None for more than six.

    >>> decimals_of(np.array([[0.25, 0.5]])), decimals_of(np.array([[1 / 3]]))
    (2, None)
    """
    for decimals in range(MOST_DECIMALS + 1):
        scaled = values * 10.0**decimals
        if np.abs(scaled - np.round(scaled)).max() < 1e-6:
            return decimals
    return None


def _of_sums(outputs: npt.NDArray[np.float64], place: str) -> Kind | None:
    """Say whether rows are probabilities; None if neither their signs nor their sums look so."""
    positive = (outputs >= LEAST).all(1) & np.isfinite(outputs).all(1)
    own = outputs if positive.all() else outputs[positive]
    if positive.mean() < MOST or not (own > 0).any():
        return None
    with np.errstate(invalid="ignore"):  # of infinite numbers with both signs
        sums = outputs.sum(1)
    for whole in (1.0, 100.0):
        decimals = decimals_of(own[:LOOKED_AT] / whole)
        rounding = 0.0 if not decimals else outputs.shape[1] / 2 * 10.0**-decimals
        tolerance = min(max(TOLERANCE, rounding), MOST_TOLERANCE) * (1 + 1e-9)
        fits = positive & (np.abs(sums / whole - 1) <= tolerance)
        if fits.all():
            off = np.abs(sums - whole).max()
            within = "" if off < 1e-6 * whole else f" within {_upwards(off)}"
            rounded = f"; rounded to {decimals} decimals" if decimals and within else ""
            percent = "percentages, " if whole > 1 else ""
            least = outputs.min()
            zero = "" if least >= 0 else f" ({least:.2g} counts as 0)"
            told = f"{percent}>= 0{zero}, and each row sums to {whole:g}{within}{rounded}"
            return Kind("probabilities", told, whole)
        _check_odd(outputs, fits, whole, place)
    span = f"{sums.min():.4g} to {sums.max():.4g}"
    if positive.all() and outputs.max() <= 1:
        raise InputError(
            f"{place} has numbers in [0, 1] whose rows sum to {span}, so they are no probabilities "
            f"of classes that exclude each other, or not all classes are there: {WAYS}"
        )
    middle = float(np.median(sums[positive]))
    rounding = 0.0
    if (own == np.round(own)).all():  # as bytes are
        rounding = min(outputs.shape[1] / 2, MOST_TOLERANCE * middle)
    fits = positive & (np.abs(sums - middle) <= max(1e-6 * middle, rounding))
    if len(sums) > 1 and fits.all():
        off = np.abs(sums - middle).max()
        told = "as votes do" if off <= 1e-6 * middle else f"within {_upwards(off)}, as bytes do"
        raise InputError(
            f"{place} has rows that are >= 0 and all sum to {middle:.4g}, {told}: {WAYS}"
        )
    _check_odd(outputs, fits, middle, place)
    return None


def _check_odd(
    outputs: npt.NDArray[np.float64], fits: npt.NDArray[np.bool_], whole: float, place: str
) -> None:
    """Raise `InputError` if most rows are probabilities, and name the first that is not."""
    if fits.mean() < MOST or fits.all():
        return
    at = int((~fits).argmax())
    odd, least = outputs[at].sum(), outputs[at].min()
    what = f"sums to {odd:.4g}" if least >= LEAST else f"has {least:.4g}"
    raise InputError(
        f"{int(fits.sum()):,} of {len(fits):,} rows of {place} are >= 0 and sum to {whole:.4g}, "
        f"and row {at + 1} {what}: {WAYS}"
    )


def _check_probabilities(outputs: npt.NDArray[np.float64], place: str) -> None:
    _check_finite(outputs, place)
    if (outputs < LEAST).any():
        row = int((outputs < LEAST).any(1).argmax())
        raise InputError(
            f"{place} has {outputs[row].min():.4g} in row {row + 1}, and probabilities are >= 0; "
            "set outputs (--outputs) to logits, also for logarithms of probabilities"
        )
    if (empty := outputs.max(1) <= 0).any():
        raise InputError(f"{place} has only zeros in row {int(empty.argmax()) + 1}")


def _check_finite(outputs: npt.NDArray[np.float64], place: str) -> None:
    finite = np.isfinite(outputs).all(1)
    if not finite.all():
        row = int((~finite).argmax())
        raise InputError(f"{place} has a number that is not finite in row {row + 1}")


def _upwards(value: float) -> str:
    """A number with two digits that is not smaller.

    >>> _upwards(0.0101), _upwards(0.02)
    ('0.011', '0.02')
    """
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return f"{np.ceil(value / unit - 1e-6) * unit:.2g}"

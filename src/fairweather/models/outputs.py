"""Detect whether outputs are logits or probabilities, and convert them to logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special
import torch
from torch import nn

from fairweather.errors import InputError, unknown_name
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import BoolArray, FloatArray

# The choices of the option `--outputs`; with `auto`, the numbers decide.
OUTPUT_CHOICES = ("auto", "logits", "probabilities")
GIVEN = "given"  # the origin of an `OutputKind` that the user has named
# Half-precision probabilities of a thousand classes add up to one within this.
SUM_TOLERANCE = 0.01
# A probability of zero becomes this, the smallest normal float32 (1.2e-38, logarithm -87.3).
SMALLEST = torch.finfo(torch.float32).tiny
# A probability of one becomes this, the largest float32 below it (logit 16.6).
LARGEST = 1 - torch.finfo(torch.float32).eps / 2
OF_FINDINGS: Literal["probabilities of findings"] = "probabilities of findings"
PREDICTED: Literal["predicted classes"] = "predicted classes"  # without other probabilities


class OutputKind(NamedTuple):
    """The kind that outputs are treated as, and why; logarithms of probabilities are logits too."""

    kind: Literal[
        "logits",
        "probabilities",
        "logarithms of probabilities",
        "probabilities of findings",
        "predicted classes",
    ]
    """What they are treated as."""

    origin: str
    """Who or what says so."""

    def __str__(self) -> str:
        """One line for people: the kind of the outputs, and how they are used."""
        division = "; each row is divided by its sum" if self.kind == "probabilities" else ""
        return f"{self.kind} ({self.origin}){division}"

    @property
    def amount(self) -> str:
        """What is known of each image, for messages."""
        if self.kind != PREDICTED:
            return "the probability of every class"
        sure = self == WITH_CONFIDENCE
        return f"the predicted class {'and its confidence' if sure else 'alone'}"


_LEFT_OUT = (
    "left out, without the probability of every class: negative log-likelihood, Brier score, AUC, "
    "top-5 accuracy, class-wise calibration"
)
WITH_CONFIDENCE = OutputKind(PREDICTED, f"and their confidence; {_LEFT_OUT}")
WITHOUT_CONFIDENCE = OutputKind(PREDICTED, f"{_LEFT_OUT}; and calibration and deferral")
LOGITS = OutputKind("logits", "the network's own")


class ConvertedOutputs(nn.Module):
    """A model whose outputs are turned into logits by one of `CONVERSIONS`.

    >>> model = ConvertedOutputs(nn.Sequential(nn.Flatten(), nn.Softmax(1)), log_probabilities)
    >>> model(torch.rand(2, 3, 8, 8)).exp().sum(1).allclose(torch.ones(2))
    True
    """

    def __init__(self, model: nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.convert = model, convert

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch."""
        return self.convert(self.model(images))


def log_probabilities(probabilities: torch.Tensor) -> torch.Tensor:
    """Turn probabilities into logits: float `[B, classes]` to float32 `[B, classes]`.

    The softmax of the logarithms gives the probabilities again, and so divides a row that does not
    sum to one by its sum. A probability below the smallest normal float32 is raised to that number,
    so that its logarithm is -87.3, and passes no gradient back.

    Raises:
        InputError: a number is negative.

    >>> log_probabilities(torch.tensor([[0.2, 0.8], [0.0, 1.0]])).softmax(1)
    tensor([[2.0000e-01, 8.0000e-01],
            [1.1755e-38, 1.0000e+00]])
    """
    values = probabilities.float()
    if (values < 0).any():
        raise InputError(
            "outputs that are treated as probabilities must be >= 0, found "
            f"{float(values.min()):.4g}; set outputs (--outputs) to logits"
        )
    return values.clamp_min(SMALLEST).log()


def finding_logits(probabilities: torch.Tensor) -> torch.Tensor:
    """Turn probabilities of findings into logits: float `[B, L]` to float32 `[B, L]`.

    The sigmoid of the logits gives the probabilities again. A probability of 0 or 1 has no logit,
    so that the logits are kept from -87.3 to 16.6: those of the smallest normal float32, and of the
    largest below 1. What is beyond these passes no gradient back.

    Raises:
        InputError: a number is not in [0, 1].

    >>> finding_logits(torch.tensor([[0.0, 0.5, 0.9, 1.0]]))
    tensor([[-87.3365,   0.0000,   2.1972,  16.6355]])
    """
    values = probabilities.float()
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(
            "outputs that are treated as probabilities of findings must be in [0, 1], found "
            f"{float(values.min()):.4g} to {float(values.max()):.4g}; set outputs (--outputs) to "
            "logits"
        )
    values = values.clamp(SMALLEST, LARGEST)
    return (values / (1 - values)).log()


# What turns outputs that are not logits into logits, by their kind.
CONVERSIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "probabilities": log_probabilities,
    OF_FINDINGS: finding_logits,
}


def convert_outputs(model: nn.Module, kind: str) -> nn.Module:
    """Make a model with outputs of this kind give logits.

    >>> type(convert_outputs(nn.Flatten(), "logits")).__name__
    'Flatten'
    """
    return ConvertedOutputs(model, CONVERSIONS[kind]) if kind in CONVERSIONS else model


def parse_outputs(outputs: str, predicts: TaskKind = CLASSES) -> OutputKind | None:
    """Read what the option `--outputs` says of the outputs; None for `auto`.

    Args:
        outputs: the option.
        predicts: what the model predicts; of findings, probabilities are one each.

    Raises:
        InputError: another word.

    >>> parse_outputs("probabilities").kind
    'probabilities'
    """
    if outputs not in OUTPUT_CHOICES:
        raise unknown_name("outputs", outputs, OUTPUT_CHOICES)
    if outputs == "auto":
        return None
    if outputs == "logits":
        return OutputKind("logits", GIVEN)
    return OutputKind(OF_FINDINGS if predicts == FINDINGS else "probabilities", GIVEN)


def detect_kind(outputs: torch.Tensor) -> Literal["logits", "probabilities", "sigmoids"]:
    """Detect the kind of a model's outputs `[B, classes]`, for two or more classes.

    `probabilities` are >= 0 and sum to one in every row. `sigmoids` are in [0, 1] and do not sum to
    one: each is a yes or no of its own. Everything else is `logits`, including logarithms of
    probabilities. Outputs that are all zero are logits too, since a network with a new head may
    give them.

    >>> rows = torch.tensor([[1.0, 3.0, 0.0], [0.5, 0.2, 0.1]])
    >>> detect_kind(rows), detect_kind(rows.softmax(1)), detect_kind(rows.sigmoid())
    ('logits', 'probabilities', 'sigmoids')
    >>> detect_kind(rows.log_softmax(1))
    'logits'
    """
    values = outputs.float()
    if not ((values >= 0) & (values <= 1 + SUM_TOLERANCE)).all():
        return "logits"
    if ((values.sum(1) - 1).abs() < SUM_TOLERANCE).all():
        return "probabilities"
    return "sigmoids" if (values <= 1).all() and values.any() else "logits"


def detect_finding_kind(outputs: torch.Tensor, subject: str) -> OutputKind:
    """Detect whether outputs `[B, L]` of findings are logits or probabilities.

    Args:
        outputs: of some images; outputs that are all in [0, 1] are probabilities.
        subject: what messages call the model.

    Raises:
        InputError: each row sums to one, as probabilities of classes do.

    >>> print(detect_finding_kind(torch.tensor([[0.9, 0.8]]), "the model"))
    probabilities of findings (all are in [0, 1] for 1 image)
    >>> detect_finding_kind(torch.tensor([[0.9, -0.8]]), "the model").kind
    'logits'
    """
    kind, count = detect_kind(outputs), len(outputs)
    images = f"{count} image{'s' if count > 1 else ''}"
    if kind == "logits":
        seen = "not all are in [0, 1]" if outputs.any() else "all are 0"
        return OutputKind(kind, f"{seen} for {images}")
    if kind == "probabilities" and outputs.shape[1] > 1:
        raise softmax_error(f"{subject} gives numbers in [0, 1] that sum to one for {images}")
    return OutputKind(OF_FINDINGS, f"all are in [0, 1] for {images}")


def softmax_error(subject: str) -> InputError:
    """Build the error for a model of classes, where images have several findings, with advice."""
    return InputError(
        f"{subject}, as probabilities of classes do, and these images have several findings: "
        "change the model to give a logit of each finding, or set outputs (--outputs) to "
        "probabilities if each is of its own finding"
    )


def sigmoid_error(subject: str) -> InputError:
    """Build the error for a model whose outputs are each a yes or no, with advice."""
    return InputError(
        f"{subject}: each output is a yes or no of its own, and a softmax over them would give a "
        "wrong confidence; change the model to give logits, or set outputs (--outputs): "
        "probabilities divides each row by its sum, logits uses the numbers as they are"
    )


class SingleOutputError(InputError):
    """A model gives one number for each image, where there are classes.

    Args:
        subject: what messages call the model.
        classes: of the data, if they are known.
    """

    def __init__(self, subject: str, classes: Sequence[str] = ()) -> None:
        self.subject = subject
        super().__init__(f"{subject} gives one number for each image{name_positive(classes)}")


def name_positive(classes: Sequence[str]) -> str:
    """Say how to name the class that a single score is of, to end a sentence.

    >>> name_positive(["benign", "malignant"])
    ": name the class that a high one means with positive (--positive), 'benign' or 'malignant'"
    """
    if len(classes) == 2:
        return (
            ": name the class that a high one means with positive (--positive), "
            f"{classes[0]!r} or {classes[1]!r}"
        )
    example = f", such as {classes[-1]!r}" if classes else ""
    return (
        ", and there must be one for each class: if it says whether an image is of some classes, "
        f"name these with positive (--positive){example}"
    )


# ---------------------------------------------------------------- predictions of other programs

# The sum of many rounded probabilities may miss one by more than `SUM_TOLERANCE`, but at most by
# this.
MOST_SUM_TOLERANCE = 0.1
MOST_DECIMALS = 6  # numbers with more do not count as rounded
LEAST_ROUNDED_ZERO = -1e-6  # negative numbers from here on are rounding errors, and count as 0
# If this share of the rows are probabilities, the other rows are mistakes.
MOST_ROWS = 0.9
# The advice where findings have numbers that are neither.
FINDING_REMEDY = (
    "correct it, or divide percentages by 100. Only for scores of another kind, set outputs "
    "(--outputs, or the column outputs of a mapping file) to logits: then their order counts, and "
    "numbers about probabilities mean nothing"
)
ROWS_LOOKED_AT = 10_000  # the first rows show to how many decimals probabilities are rounded

# The advice that settles whether outputs are probabilities.
REMEDY = (
    "--outputs probabilities divides each row by its sum, and --outputs logits uses the numbers as "
    "they are"
)


def detect_prediction_kind(outputs: FloatArray, asked: str, place: str) -> OutputKind:
    """Detect the kind of another program's outputs.

    `probabilities` are >= 0 and sum to one, or to 100, in every row. Rounding may change a sum by
    half a unit of the last decimal per class, and at most by 0.1. A number from -1e-6 on counts as
    0. `logarithms of probabilities` are <= 0, and their exponentials sum to one. All other outputs
    are `logits`, unless they are so close to probabilities that it may be a mistake.

    Args:
        outputs: float64 `[N, C]`, at least two columns.
        asked: the option: `auto`, `logits` or `probabilities`.
        place: what messages call the outputs, such as the name of a file.

    Raises:
        InputError: at least nine of ten rows are in [0, 1] or have the same sum, without being
            probabilities; or the outputs cannot be of the given kind.

    >>> rows = np.array([[0.33, 0.33, 0.33], [0.8, 0.1, 0.1]])
    >>> detect_prediction_kind(rows, "auto", "the table").origin
    '>= 0, and each row sums to 1 within 0.01; rounded to 2 decimals'
    >>> detect_prediction_kind(np.log(rows), "auto", "the table").kind
    'logarithms of probabilities'
    >>> detect_prediction_kind(-rows, "logits", "the table").kind
    'logits'
    """
    given = parse_outputs(asked)
    if given is not None:
        _check_finite(outputs, place)
        if given.kind == "probabilities":
            _check_probabilities(outputs, place)
        return given
    if (kind := _detect_probabilities(outputs, place)) is not None:
        return kind
    if (outputs <= SUM_TOLERANCE).all():
        sums = np.exp(outputs).sum(1)
        if (np.abs(sums - 1) <= SUM_TOLERANCE * (1 + 1e-9)).all():
            origin = f"<= 0, and the exponentials of each row sum to 1 within {SUM_TOLERANCE:g}"
            return OutputKind("logarithms of probabilities", origin)
    _check_finite(outputs, place)
    return OutputKind("logits", "the rows are neither probabilities nor their logarithms")


def detect_finding_predictions(
    outputs: FloatArray, asked: str, place: str, findings: Sequence[str]
) -> OutputKind:
    """Detect whether another program's outputs are probabilities or logits of findings.

    They are `probabilities of findings` if all are in [0, 1]; a number from -1e-6 on counts as 0.
    All other outputs are `logits`, unless nine of ten numbers of a finding are in [0, 1], or all
    are >= 0 as percentages are: then some are perhaps mistakes.

    Args:
        outputs: float64 `[N, L]`.
        asked: the option: `auto`, `logits` or `probabilities`.
        place: what messages call the outputs, such as the name of a file.
        findings: the names of the columns.

    Raises:
        InputError: some outputs may be mistakes, each row sums to one as probabilities of classes
            do, or the outputs cannot be of the given kind.

    >>> rows = np.array([[0.3, 0.9], [0.2, 0.7]])
    >>> str(detect_finding_predictions(rows, "auto", "the table", ("Mass", "Edema")))
    'probabilities of findings (all are in [0, 1])'
    >>> logits = scipy.special.logit(rows)
    >>> detect_finding_predictions(logits, "auto", "the table", ("Mass", "Edema")).kind
    'logits'
    """
    given = parse_outputs(asked, FINDINGS)
    _check_finite(outputs, place)
    is_share = (outputs >= LEAST_ROUNDED_ZERO) & (outputs <= 1)
    if given is not None and given.kind == "logits":
        return given
    if not is_share.all():
        row, column = np.argwhere(~is_share)[0]
        misfit = (
            f"{place} has {outputs[row, column]:.4g} in row {row + 1} of the column "
            f"{findings[column]!r}, and a probability is in [0, 1]"
        )
        if given is not None:
            raise InputError(f"{misfit}: {FINDING_REMEDY}")
        if (is_share.mean(axis=0) >= MOST_ROWS).any():
            raise InputError(f"{misfit} as most numbers here are: {FINDING_REMEDY}")
        if (outputs >= LEAST_ROUNDED_ZERO).all():
            raise InputError(f"{misfit}; no number here is negative: {FINDING_REMEDY}")
        return OutputKind("logits", "not all are in [0, 1]")
    sums_to_one = (np.abs(outputs.sum(axis=1) - 1) < SUM_TOLERANCE).all()
    if given is None and outputs.shape[1] > 1 and sums_to_one:
        raise InputError(
            f"{place} has rows in [0, 1] that sum to one, as probabilities of classes do, and "
            "these images have several findings: --outputs probabilities takes each for its own "
            "finding"
        )
    return given or OutputKind(OF_FINDINGS, "all are in [0, 1]")


def to_logits(outputs: FloatArray, kind: OutputKind) -> npt.NDArray[np.float32]:
    """Return the logits, float32 `[N, C]`, whose softmax is the probabilities of the rows.

    Of findings, the sigmoid of each is its probability. A probability below the smallest normal
    float32 is raised to it, as for models, and one of 1 becomes the largest float64 below 1.
    """
    if kind.kind == OF_FINDINGS:
        shares = np.clip(outputs, SMALLEST, 1 - np.finfo(np.float64).epsneg)
        return scipy.special.logit(shares).astype(np.float32)
    if kind.kind == "logits":
        return outputs.astype(np.float32)
    if kind.kind == "probabilities":
        shares = np.maximum(outputs, 0)
        shares = shares / shares.sum(1, keepdims=True)
        return np.log(np.maximum(shares, SMALLEST)).astype(np.float32)
    return np.maximum(outputs, np.log(SMALLEST)).astype(np.float32)


def count_decimals(values: FloatArray) -> int | None:
    """The number of decimals that all values are rounded to; None for more than six.

    >>> count_decimals(np.array([[0.25, 0.5]])), count_decimals(np.array([[1 / 3]]))
    (2, None)
    """
    for decimals in range(MOST_DECIMALS + 1):
        scaled = values * 10.0**decimals
        if np.abs(scaled - np.round(scaled)).max() < 1e-6:
            return decimals
    return None


def _detect_probabilities(outputs: FloatArray, place: str) -> OutputKind | None:
    """Recognise probabilities; None if neither the signs nor the sums of rows fit."""
    positive = (outputs >= LEAST_ROUNDED_ZERO).all(1) & np.isfinite(outputs).all(1)
    non_negative = outputs if positive.all() else outputs[positive]
    if positive.mean() < MOST_ROWS or not (non_negative > 0).any():
        return None
    with np.errstate(invalid="ignore"):  # inf - inf
        sums = outputs.sum(1)
    for total in (1.0, 100.0):
        decimals = count_decimals(non_negative[:ROWS_LOOKED_AT] / total)
        rounding = 0.0 if not decimals else outputs.shape[1] / 2 * 10.0**-decimals
        tolerance = min(max(SUM_TOLERANCE, rounding), MOST_SUM_TOLERANCE) * (1 + 1e-9)
        fits = positive & (np.abs(sums / total - 1) <= tolerance)
        if fits.all():
            deviation = np.abs(sums - total).max()
            within = "" if deviation < 1e-6 * total else f" within {_round_up(deviation)}"
            rounded = f"; rounded to {decimals} decimals" if decimals and within else ""
            percent = "percentages, " if total > 1 else ""
            least = outputs.min()
            rounded_zero = "" if least >= 0 else f" ({least:.2g} counts as 0)"
            origin = f"{percent}>= 0{rounded_zero}, and each row sums to {total:g}{within}{rounded}"
            return OutputKind("probabilities", origin)
        _check_exceptions(outputs, fits, total, place)
    span = f"{sums.min():.4g} to {sums.max():.4g}"
    if positive.all() and outputs.max() <= 1:
        raise InputError(
            f"{place} has numbers in [0, 1] whose rows sum to {span}, so they are not "
            f"probabilities of exclusive classes, or not all classes are there: {REMEDY}"
        )
    median_sum = float(np.median(sums[positive]))
    decimals = count_decimals(non_negative[:ROWS_LOOKED_AT])  # 0 of bytes
    decimals = decimals if decimals is None else count_decimals(non_negative)
    rounding = 0.0 if decimals is None else outputs.shape[1] / 2 * 10.0**-decimals
    rounding = min(rounding, MOST_SUM_TOLERANCE * median_sum)
    fits = positive & (np.abs(sums - median_sum) <= max(1e-6 * median_sum, rounding))
    if len(sums) > 1 and fits.all():
        deviation = np.abs(sums - median_sum).max()
        hint = (
            "as votes do"
            if deviation <= 1e-6 * median_sum
            else f"within {_round_up(deviation)}, as rounded sums do"
        )
        raise InputError(
            f"{place} has rows that are >= 0 and all sum to {median_sum:.4g}, {hint}: {REMEDY}"
        )
    _check_exceptions(outputs, fits, median_sum, place)
    return None


def _check_exceptions(outputs: FloatArray, fits: BoolArray, total: float, place: str) -> None:
    """Raise `InputError` if most but not all rows fit, and name the first that does not."""
    if fits.mean() < MOST_ROWS or fits.all():
        return
    row = int((~fits).argmax())
    own_sum, least = outputs[row].sum(), outputs[row].min()
    misfit = f"sums to {own_sum:.4g}" if least >= LEAST_ROUNDED_ZERO else f"has {least:.4g}"
    raise InputError(
        f"{int(fits.sum()):,} of {len(fits):,} rows of {place} are >= 0 and sum to {total:.4g}, "
        f"and row {row + 1} {misfit}: {REMEDY}"
    )


def _check_probabilities(outputs: FloatArray, place: str) -> None:
    if (outputs < LEAST_ROUNDED_ZERO).any():
        row = int((outputs < LEAST_ROUNDED_ZERO).any(1).argmax())
        raise InputError(
            f"{place} has {outputs[row].min():.4g} in row {row + 1}, and probabilities are >= 0; "
            "set outputs (--outputs) to logits, also for logarithms of probabilities"
        )
    if (empty := outputs.max(1) <= 0).any():
        raise InputError(f"{place} has only zeros in row {int(empty.argmax()) + 1}")


def _check_finite(outputs: FloatArray, place: str) -> None:
    finite = np.isfinite(outputs).all(1)
    if not finite.all():
        row = int((~finite).argmax())
        raise InputError(f"{place} has a number that is not finite in row {row + 1}")


def _round_up(value: float) -> str:
    """Round up to two significant digits.

    >>> _round_up(0.0101), _round_up(0.02)
    ('0.011', '0.02')
    """
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return f"{np.ceil(value / unit - 1e-6) * unit:.2g}"

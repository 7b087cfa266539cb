"""Match the rows of predictions with test images: their classes, their keys and their labels."""

from __future__ import annotations

import os.path
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.data.findings import note_one_hot
from fairweather.errors import InputError, check_name, quote_names
from fairweather.models.class_names import OutputNames, normalise_name
from fairweather.models.labels import LabelMap, match_labels
from fairweather.models.outputs import (
    GIVEN,
    OF_FINDINGS,
    SMALLEST,
    WITH_CONFIDENCE,
    WITHOUT_CONFIDENCE,
    OutputKind,
    detect_finding_predictions,
    detect_prediction_kind,
    name_positive,
    to_logits,
)
from fairweather.models.predictions.column_names import SEPARATORS
from fairweather.models.predictions.tables import Column, PredictionRows, RowOptions
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import UNKNOWN, FloatArray, Groups, IntArray
from fairweather.types.positive import PositiveClasses, list_positive
from fairweather.types.record import VALIDATION

ROUNDED = 0.98  # times 1/K: a confidence of two digits may be that far below
_MARK = f"[{re.escape(SEPARATORS)}]"
_SEPARATED = re.compile(_MARK)
_FIRST_WORD, _LAST_WORD = re.compile(f"^.+?{_MARK}"), re.compile(f"{_MARK}[^{_MARK[1:-1]}]+$")


class KnownImages(NamedTuple):
    """The images of one split that predictions must be of."""

    labels: IntArray
    """int64 `[n]`, or `[n, L]` of findings."""

    keys: IntArray
    """int64 `[n]`, each once."""

    names: Sequence[str] | None
    """The name of each: its file, or its key as text; None if images have no names."""

    place: str
    """What messages call them."""

    are_files: bool = False
    """Whether the names are paths of files."""

    in_order: bool = True
    """Whether rows without keys may be taken in the order of the images."""

    groups: Groups | None = None
    """What belongs together, and the slices; None if nothing is known of them."""


class MatchedPredictions(NamedTuple):
    """Predictions in the order of the images and of the classes."""

    logits: npt.NDArray[np.float32]
    """float32 `[n, C]`; `[n, 0]` if the probabilities of other classes are unknown."""

    kind: OutputKind
    """What the outputs were taken for."""

    classes: str
    """How the columns were matched with the classes."""

    rows: str
    """How the rows were matched with the images."""

    notes: tuple[str, ...]
    """What else was assumed."""

    predicted: IntArray | None = None
    """int64 `[n]`, the predicted classes; None where the logits say them."""

    confidence: FloatArray | None = None
    """float64 `[n]`, the confidence in these; None if it is unknown, or the logits say it."""


def match_predictions(
    rows: PredictionRows,
    classes: tuple[str, ...],
    images: KnownImages,
    options: RowOptions,
    labels: Mapping[str, object] | None = None,
    positive: PositiveClasses | None = None,
) -> MatchedPredictions:
    """Bring predictions into the order of known images and classes.

    Args:
        rows: predictions as they were read.
        classes: names in label order.
        images: the images that the predictions must be of.
        options: what is known of the rows.
        labels: the label mapping, if one is given.
        positive: the classes that `classes` are findings of, if they are.

    Raises:
        InputError: classes, rows or labels do not fit; the message says what would settle it.

    >>> outputs = np.array([[0.1, 0.9], [0.8, 0.2]])
    >>> rows = PredictionRows("the table", outputs, ("dog", "cat"), None, None)
    >>> images = KnownImages(np.array([0, 1]), np.array([0, 1]), None, "the data")
    >>> matched = match_predictions(rows, ("cat", "dog"), images, RowOptions())
    >>> matched.logits.argmax(1).tolist(), matched.rows
    ([0, 1], 'in the order of the data: there is no column of keys')
    """
    several = images.labels.ndim > 1
    if rows.predicted is not None:
        if several:
            raise InputError(
                f"{rows.place} has one predicted class of each image, and these images have "
                "findings: give the probability of each finding, in a column of its own"
            )
        return _match_predicted(rows, classes, images, options, labels)
    if rows.outputs.shape[1] == 1 and not several:
        if rows.labels is None:
            raise column_error(rows.place, classes)
        raise InputError(
            f"{column_error(rows.place, classes)}; or name the column with predicted classes: "
            "--predicted-column label"
        )
    of_classes = not several or (
        positive is not None and has_class_columns(rows, positive, options)
    )
    columns = classes if positive is None or not of_classes else positive.classes
    if positive is not None and rows.outputs.shape[1] == 1:
        mapped = _match_score(rows, positive)
    else:
        predicts = CLASSES if of_classes else FINDINGS
        mapped = _match_classes(rows, columns, options, labels, predicts)
    select = _select_outputs if of_classes else _select_findings
    outputs, kind, unused = select(rows, mapped, options)
    if of_classes and kind.kind == "logits" and kind.origin != GIVEN:
        _check_no_classes(outputs, rows)
    order, note = _match_rows(rows, images)
    notes = [*rows.notes, *unused]
    if kind == OutputKind("logits", GIVEN) and outputs.min() >= 0 and outputs.max() > 1:
        notes.append(
            f"all outputs are from {outputs.min():.4g} to {outputs.max():.4g} and used as logits: "
            "their order counts, and calibration of such scores means nothing"
        )
    if rows.labels is not None:
        _check_labels(rows, order, classes, images)
    logits, matched = to_logits(outputs, kind)[order], mapped.note
    if positive is not None and of_classes:
        logits = positive_logits(logits, positive.places)
        matched = f"{matched}; a finding has the probability of its positive classes"
        truth, counted = np.empty(0), ""
    else:
        truth, counted = _truth_probabilities(outputs[order], kind, images.labels)
    if zeros := int((truth == 0).sum()):
        notes.append(
            f"{zeros:,} of {len(truth):,} labels have the probability 0, which counts as "
            f"{counted} of the negative log-likelihood): write more decimals if it was rounded"
        )
    return MatchedPredictions(logits, kind, matched, note, tuple(notes))


def _check_no_classes(outputs: FloatArray, rows: PredictionRows) -> None:
    """Raise `InputError` if outputs are all numbers of classes, so that columns may be models."""
    whole = (outputs == np.round(outputs)).all() and outputs.min() >= 0
    if whole and 1 < outputs.max() < outputs.shape[1]:
        first, second = ("0", "1") if rows.names is None else rows.names[:2]
        raise InputError(
            f"{rows.place} has whole numbers from 0 to {int(outputs.max())} in every column, which "
            f"may be predicted classes: name each such column (--predicted-column {first} "
            f"--predicted-column {second}), or say --outputs logits"
        )


def _match_predicted(
    rows: PredictionRows,
    classes: tuple[str, ...],
    images: KnownImages,
    options: RowOptions,
    labels: Mapping[str, object] | None,
) -> MatchedPredictions:
    """Do the same with predicted classes, and with their confidence if it is known."""
    predicted, matched = place_predicted(rows, classes, options, labels)
    order, note = _match_rows(rows, images)
    if rows.labels is not None:
        _check_labels(rows, order, classes, images)
    is_sure = rows.outputs.shape[1] == 1
    kind = WITH_CONFIDENCE if is_sure else WITHOUT_CONFIDENCE
    notes, least = rows.notes, 1 / len(classes)
    if is_sure and (low := int((rows.outputs < ROUNDED * least).sum())):
        notes = (
            *notes,
            f"{low:,} of {len(rows.outputs):,} confidences are below {least:.3g}, which the most "
            f"probable of {len(classes):,} classes cannot have",
        )
    return MatchedPredictions(
        np.empty((len(order), 0), np.float32),
        kind,
        matched,
        note,
        notes,
        predicted[order],
        rows.outputs[order, 0] if is_sure else None,
    )


def place_predicted(
    rows: PredictionRows,
    classes: tuple[str, ...],
    options: RowOptions,
    labels: Mapping[str, object] | None = None,
) -> tuple[IntArray, str]:
    """Find each predicted class among the classes, int64 `[N]`, and say how.

    Raises `InputError` for a predicted class that is none of them.

    >>> rows = PredictionRows("", np.empty((2, 0)), None, None, None, predicted=np.array([1, 0]))
    >>> place_predicted(rows, ("cat", "dog"), RowOptions())
    (array([1, 0]), "predicted classes are numbers, 0 is 'cat'")
    """
    assert rows.predicted is not None, "classes are predicted"
    texts = list(map(str, rows.predicted.tolist()))
    own = options.classes or rows.names  # of the model, in its order
    is_number = rows.predicted.dtype.kind == "i"
    if own is not None and is_number and labels is None and not {*texts} <= {*own}:
        texts = [own[int(text)] if 0 <= int(text) < len(own) else text for text in texts]
        is_number = False
    distinct = list(dict.fromkeys(texts))
    if labels is not None:
        listed = {
            str(name): place
            for place, known in enumerate(classes)
            for value in [labels.get(known, ())]
            for name in (value if isinstance(value, list) else [value])
        }
        places = [listed.get(name) for name in distinct]
        how = "predicted classes are matched as given"
    elif is_number and not all(name.isdecimal() for name in classes):
        places = [int(name) if 0 <= int(name) < len(classes) else None for name in distinct]
        how = f"predicted classes are numbers, 0 is {classes[0]!r}"
    else:
        matches = OutputNames(classes).find_all(distinct)
        places = [None if match is None else match.output for match in matches]
        by = dict.fromkeys(match.matched_by for match in matches if match is not None)
        how = f"predicted classes are matched by {' and '.join(by)}"
    place_of = dict(zip(distinct, places, strict=True))
    if unknown := [name for name in distinct if place_of[name] is None]:
        count = sum(place_of[text] is None for text in texts)
        raise InputError(
            f"{count:,} of {len(texts):,} rows of {rows.place} predict what is not a class of "
            f"the data, {quote_names(unknown)}; the classes are {quote_names(classes)}: name those "
            "of the model in their order with --classes, or map them with --class-map"
        )
    return np.array([place_of[text] for text in texts], dtype=np.int64), how


def list_known_classes(tables: Sequence[PredictionRows], options: RowOptions) -> tuple[str, ...]:
    """The names of the classes if no data set gives them: those of labels and predictions.

    Raises `InputError` if labels are names and predicted classes numbers, or the other way round.

    >>> rows = PredictionRows(
    ...     "", np.empty((2, 0)), None, np.array(["b", "a"]), None, predicted=np.array(["b", "c"])
    ... )
    >>> list_known_classes([rows], RowOptions())
    ('a', 'b', 'c')
    """
    named = next((rows.names for rows in tables if rows.names is not None), None)
    if names := options.classes or named:
        return tuple(names)
    columns = [
        column for rows in tables for column in (rows.labels, rows.predicted) if column is not None
    ]
    are_numbers = {column.dtype.kind == "i" for column in columns}
    if len(are_numbers) > 1:
        raise InputError(
            f"{tables[0].place}: labels and predicted classes are names and numbers: name the "
            "classes in their order with --classes"
        )
    if are_numbers == {True}:
        least, most = (
            int(end(column.min() if end is min else column.max() for column in columns))
            for end in (min, max)
        )
        if least < 0:
            raise InputError(f"{tables[0].place} has the class {least}: numbers begin at 0")
        return tuple(map(str, range(min(least, 1), most + 1)))
    every = sorted({str(value) for column in columns for value in column.tolist()})
    return tuple(check_name(name, f"{tables[0].place}: the class") for name in every)


def note_unlabelled(
    matched: MatchedPredictions, images: Iterable[KnownImages], classes: Sequence[str]
) -> list[str]:
    """Note predicted classes that no image has as its label: a typing error becomes a class.

    >>> one, cta = np.array([0, 2]), np.array([0, 1])
    >>> matched = MatchedPredictions(np.empty((2, 0)), WITHOUT_CONFIDENCE, "", "", (), cta)
    >>> note_unlabelled(matched, [KnownImages(one, one, None, "")], ("cat", "cta", "dog"))
    ["no label is 'cta', which 1 of 2 rows predict: means over classes, such as macro F1, count it"]
    """
    if matched.predicted is None:
        return []
    labelled = np.concatenate([known.labels for known in images])
    is_unlabelled = ~np.isin(matched.predicted, labelled)
    if not is_unlabelled.any():
        return []
    names = quote_names([classes[at] for at in np.unique(matched.predicted[is_unlabelled])])
    return [
        f"no label is {names}, which {is_unlabelled.sum():,} of {len(is_unlabelled):,} rows "
        "predict: means over classes, such as macro F1, count it"
    ]


def positive_logits(
    logits: npt.NDArray[np.float32], places: Sequence[Sequence[int]]
) -> npt.NDArray[np.float32]:
    """The logits of findings, from the logits of classes.

    Args:
        logits: float32 `[n, C]`, whose softmax is the probability of each class.
        places: the positive classes of each finding.

    Returns:
        float32 `[n, L]`, whose sigmoid is the probability of one of the positive classes.

    >>> logits = np.log(np.float32([[0.2, 0.3, 0.5]]))
    >>> positive_logits(logits, [(1, 2)]).round(3), np.log(0.8 / 0.2).round(3)
    (array([[1.386]], dtype=float32), np.float64(1.386))
    """
    wide, columns = logits.astype(np.float64), []
    for positive in places:
        others = [place for place in range(logits.shape[1]) if place not in positive]
        present, absent = (
            scipy.special.logsumexp(wide[:, list(some)], axis=1) for some in (positive, others)
        )
        columns.append(present - absent)
    return np.stack(columns, axis=1).astype(np.float32)


def column_error(place: str, classes: Sequence[str]) -> InputError:
    """Build the error for a single column of outputs, which may be of either class."""
    return InputError(f"{place} has one column of outputs{name_positive(classes)}")


def has_class_columns(rows: PredictionRows, positive: PositiveClasses, options: RowOptions) -> bool:
    """Say whether the outputs are of classes, of which findings are made, or of the findings.

    >>> positive = PositiveClasses(("benign", "malignant"), {"malignant": ("malignant",)})
    >>> rows = PredictionRows("", np.ones((1, 2)), ("p_malignant", "p_benign"), None, None)
    >>> has_class_columns(rows, positive, RowOptions())
    True
    """
    count, names = rows.outputs.shape[1], options.classes or rows.names
    if count == 1:
        return False
    if names is None:
        return count != len(positive.findings) or count == len(positive.classes)
    others = {name.lower() for name in positive.classes} - {*map(str.lower, positive.findings)}
    written = {name.lower() for some in (names, strip_affixes(names)) for name in some}
    return bool(others & written) or not {*map(str.lower, positive.findings)} <= written


def _match_score(rows: PredictionRows, positive: PositiveClasses) -> LabelMap:
    """Take the only column for the score of the finding, unless its name is that of another class.

    Raises `InputError` if it is, or if there are several findings.
    """
    if len(positive.findings) > 1:
        raise InputError(
            f"{rows.place} has one column of outputs, and positive names "
            f"{len(positive.findings)} findings, {quote_names(positive.findings)}: name one"
        )
    (finding,) = positive.findings
    name = "" if rows.names is None else rows.names[0]
    words = {normalise_name(part) for part in _SEPARATED.split(name)} | {normalise_name(name)}
    positives = {normalise_name(member) for member in positive.members[finding]}
    others = [
        other
        for other in positive.classes
        if normalise_name(other) in words and not words & positives
    ]
    if others and not name.isdecimal():
        raise InputError(
            f"{rows.place} has one column of outputs, {name!r}, which is of {others[0]!r}, and "
            f"positive is {finding!r}: name the class that a high output means with positive "
            "(--positive), or rename the column"
        )
    column = "the only column" if not name else f"the column {name!r}"
    return LabelMap(((0,),), f"{column} is the score of {finding!r}", 1)


def mark_labels(rows: PredictionRows, positive: PositiveClasses) -> PredictionRows:
    """Make labels of findings from labels of classes beside predictions.

    Raises `InputError` for a label that is no class.

    >>> positive = PositiveClasses(("benign", "malignant"), {"malignant": ("malignant",)})
    >>> rows = PredictionRows("", np.ones((2, 1)), None, np.array([1, 0]), None)
    >>> mark_labels(rows, positive).labels.tolist()
    [[1], [0]]
    """
    if rows.labels is None:
        return rows
    if rows.labels.ndim > 1:
        raise InputError(
            f"positive is a class, and {rows.place} has labels of findings already: leave it out"
        )
    labels, _ = number_labels(rows, positive.classes)
    return replace(rows, labels=positive.mark(labels), findings=positive.findings)


def name_label_classes(rows: PredictionRows, options: RowOptions) -> tuple[str, ...]:
    """The names of the classes of labels, if no data set gives them, where some are positive.

    They are those of the columns if all labels are among these. Labels 0 and 1 are the absence and
    the presence of the finding that `options.positive` names.

    >>> rows = PredictionRows("", np.ones((2, 1)), None, np.array([1, 0]), None)
    >>> name_label_classes(rows, RowOptions(positive="malignant"))
    ('no malignant', 'malignant')
    >>> name_label_classes(replace(rows, labels=np.array(["b", "a"])), RowOptions(positive="b"))
    ('a', 'b')
    """
    if rows.labels is None:
        number_labels(rows, ())  # raises
    assert rows.labels is not None
    present = list(map(str, np.unique(rows.labels).tolist()))
    if len(options.classes) > 1:
        return options.classes
    if rows.outputs.shape[1] > 1:
        columns = name_classes(rows, options)
        if rows.labels.dtype.kind == "i" or {*present} <= {*columns}:
            return columns
    if rows.labels.dtype.kind != "i":
        return tuple(present)
    asked = list_positive(options.positive)
    if {*present} <= {"0", "1"} and len(asked) == 1 and asked[0] not in ("0", "1"):
        return f"no {asked[0]}", asked[0]
    return tuple(map(str, range(int(rows.labels.max()) + 1)))


def _truth_probabilities(
    outputs: FloatArray, kind: OutputKind, labels: IntArray
) -> tuple[FloatArray, str]:
    """The probability of each known label, and what 0 counts as; none of logits."""
    if kind.kind == OF_FINDINGS:
        of_label = np.where(labels == 1, outputs, 1 - outputs)
        return of_label[
            labels != UNKNOWN
        ], "1.2e-38 or, of an absent finding, 1.1e-16 (87 or 37 nats"
    if kind.kind == "probabilities":
        return outputs[np.arange(len(labels)), labels], "1.2e-38 (87 nats"
    return np.empty(0), ""


def name_classes(rows: PredictionRows, options: RowOptions) -> tuple[str, ...]:
    """The names of the classes if no data set gives them: those of the columns.

    >>> rows = PredictionRows("", np.ones((1, 2)), ("prob_a", "prob_b"), None, None)
    >>> name_classes(rows, RowOptions())
    ('a', 'b')
    """
    count = rows.outputs.shape[1]
    if rows.findings is not None:
        return tuple(check_name(name, f"{rows.place}: the finding") for name in rows.findings)
    if options.classes:
        _check_count(options.classes, rows)
        return options.classes
    if rows.names is None:
        return tuple(map(str, range(count)))
    names = _name_as_labels(rows.names, [] if rows.labels is None else rows.labels.tolist())
    return tuple(check_name(name, f"{rows.place}: the class") for name in names)


def name_columns(rows: PredictionRows, options: RowOptions) -> tuple[str, ...]:
    """The classes of the columns: the given ones, which may only say another order of them.

    >>> rows = PredictionRows("", np.ones((1, 2)), ("prob_b", "prob_a"), None, None)
    >>> name_columns(rows, RowOptions(classes=("a", "b")))
    ('b', 'a')
    >>> name_columns(rows, RowOptions(classes=("cat", "dog")))
    ('cat', 'dog')
    """
    for written in list_short_names(rows.names or ()):
        if {*written} == {*options.classes}:
            return tuple(written)
    return options.classes


def _name_as_labels(names: Sequence[str], labels: Sequence[object]) -> tuple[str, ...]:
    """The names of columns as the labels write them, else without affixes.

    >>> _name_as_labels(["prob_grade_0", "prob_grade_1"], ["grade_1"])
    ('grade_0', 'grade_1')
    >>> _name_as_labels(["p0", "p1", "p2"], ["grade_0", "grade_2"])
    ('grade_0', 'grade_1', 'grade_2')
    """
    texts = sorted(set(map(str, labels)))
    for written in list_short_names(names) if texts else ():
        if {*texts} <= {*written}:
            return written
    short = strip_affixes(names)
    if (
        len(texts) > 1
        and not all(map(str.isdecimal, texts))
        and {*strip_affixes(texts)} <= {*short}
    ):
        before, after = _affix_lengths(texts)  # the labels have affixes of their own
        first = texts[0]
        return tuple(f"{first[:before]}{name}{first[len(first) - after :]}" for name in short)
    return short


def number_labels(rows: PredictionRows, classes: tuple[str, ...]) -> tuple[IntArray, str]:
    """The labels of the rows as places in `classes`, int64 `[N]`, and how they were read.

    Labels are names of classes, or whole numbers from 0 in the order of the classes.

    Raises:
        InputError: there are none, or one is neither.

    >>> rows = PredictionRows("", np.ones((2, 2)), None, np.array(["b", "a"]), None)
    >>> number_labels(rows, ("a", "b"))
    (array([1, 0]), 'by name')
    """
    if rows.labels is None:
        raise InputError(
            f"{rows.place} has no labels: name their column with --label-column, or name the data "
            "set that has them"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    texts = list(map(str, rows.labels.tolist()))
    wrong = next((text for text in texts if text not in numbers), None)
    if wrong is None:
        return np.array([numbers[text] for text in texts], dtype=np.int64), "by name"
    if rows.labels.dtype.kind == "i" and not all(name.isdecimal() for name in classes):
        labels = rows.labels.astype(np.int64)
        least, most = int(labels.min()), int(labels.max())
        if least >= 0 and most < len(classes):
            return labels, f"by number, 0 is {classes[0]!r}"
        raise InputError(
            f"{rows.place} has labels from {least} to {most}, and as numbers they must be 0 to "
            f"{len(classes) - 1}, in the order of the classes {quote_names(classes)}; write the "
            "names of the classes instead, or give --classes"
        )
    raise InputError(
        f"{rows.place} has the label {wrong!r}, and the classes are {quote_names(classes)}: name "
        "the class of each column with --classes, or another column with --label-column"
    )


def strip_affixes(names: Sequence[str]) -> tuple[str, ...]:
    """Cut a common beginning or end of all names, such as `prob_`, up to a separator or a number.

    >>> strip_affixes(["prob_cat", "prob_dog"]), strip_affixes(["p0", "p1"])
    (('cat', 'dog'), ('0', '1'))
    >>> strip_affixes(["cat", "cow"])
    ('cat', 'cow')
    """
    before, after = _affix_lengths(names)
    cut = [name[before : len(name) - after] for name in names]
    return tuple(cut) if all(cut) and len(set(cut)) == len(cut) else tuple(names)


def _affix_lengths(names: Sequence[str]) -> tuple[int, int]:
    """The lengths of the beginning and the end that `strip_affixes` cuts."""
    before = os.path.commonprefix(names)  # noqa: RUF071 - of characters
    if not all(name[len(before) :].isdecimal() for name in names):
        before = before[: 1 + max(map(before.rfind, SEPARATORS))]
    ends = [name[len(before) :][::-1] for name in names]
    after = os.path.commonprefix(ends)  # noqa: RUF071
    return len(before), 1 + max(map(after.rfind, SEPARATORS))


def list_short_names(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The names as they are, then with more and more of a common beginning cut, then as
    `strip_affixes` cuts them, then without a beginning or an end that only some have.

    >>> list_short_names(["prob_grade_0", "prob_grade_1"])
    [('prob_grade_0', 'prob_grade_1'), ('grade_0', 'grade_1'), ('0', '1')]
    """
    before = os.path.commonprefix(names)  # noqa: RUF071 - of characters
    cuts = [0, *(at for at, mark in enumerate(before, start=1) if mark in SEPARATORS)]
    cut = [tuple(name[at:] for name in names) for at in cuts]
    short = [*cut, strip_affixes(names), *_cut_commonest(names)]
    return list(dict.fromkeys(some for some in short if all(some)))


def _cut_commonest(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The names without the commonest first, or last, word, where several have it.

    A name without that word must be of something else: `b_Mass` beside `a_Mass` may be of another
    model.

    >>> list(_cut_commonest(["Mass_prob", "Edema_prob", "Age"]))
    [('Mass', 'Edema', 'Age')]
    """
    for pattern, remove in ((_FIRST_WORD, str.removeprefix), (_LAST_WORD, str.removesuffix)):
        words = Counter(match[0] for name in names if (match := pattern.search(name)))
        for word, uses in words.most_common(1):
            cut = tuple(remove(name, word) for name in names)
            whole, short = (
                [f"_{_SEPARATED.sub('_', name)}_" for name in some]
                for some in ({*cut} & {*names}, {*cut} - {*names})
            )
            of_the_same = any(part in name for part in short for name in whole)
            if uses > 1 and len({*cut}) == len(cut) and not of_the_same:
                yield cut


def _match_classes(
    rows: PredictionRows,
    classes: tuple[str, ...],
    options: RowOptions,
    labels: Mapping[str, object] | None,
    predicts: TaskKind,
) -> LabelMap:
    count = rows.outputs.shape[1]
    if options.classes:
        _check_count(options.classes, rows)
        # Where they are the classes of the labels too, they say the order of these.
        both = tuple(classes) == options.classes
        names = name_columns(rows, options) if both else options.classes
        return match_labels(names, count, classes, labels, predicts)
    if rows.names is None:
        return match_labels(None, count, classes, labels, predicts)
    reason: InputError | None = None
    for names in list_short_names(rows.names):
        try:
            return match_labels(names, count, classes, labels, predicts)
        except InputError as error:
            if reason is None or names == strip_affixes(rows.names):
                reason = error  # of the names without common affixes, if there are some
    raise InputError(f"{rows.place}: {reason}, or name the class of each column with --classes")


def _check_count(classes: Sequence[str], rows: PredictionRows) -> None:
    if len(classes) != rows.outputs.shape[1]:
        columns = "" if rows.names is None else f" ({quote_names(rows.names)})"
        raise InputError(
            f"--classes names {len(classes)} classes, and {rows.place} has "
            f"{rows.outputs.shape[1]} columns of outputs{columns}"
        )


def _select_outputs(
    rows: PredictionRows, mapped: LabelMap, options: RowOptions
) -> tuple[FloatArray, OutputKind, list[str]]:
    """The outputs of the data's classes, their kind, and a note on the other columns."""
    used = [column for columns in mapped.columns for column in columns]
    rest = [at for at in range(mapped.outputs) if at not in set(used)]
    if not rest:
        kind = detect_prediction_kind(rows.outputs, options.outputs, rows.place)
        return _join_columns(rows.outputs, mapped, kind), kind, []
    names = rows.names or tuple(map(str, range(mapped.outputs)))
    others = quote_names([names[at] for at in rest])
    try:
        kind = detect_prediction_kind(rows.outputs[:, used], options.outputs, rows.place)
        note = f"not used: {others}"
    except InputError:
        kind = detect_prediction_kind(rows.outputs, options.outputs, rows.place)
        if kind.kind == "logits":  # with a column of something else, rows do not sum to one
            raise
        note = f"the data have no images of {others}: the probabilities are those without them"
        largest = np.isin(rows.outputs.argmax(1), rest)
        if count := int(largest.sum()):
            note += (
                f", and of the {len(largest):,} rows {count:,} have their largest one there, so "
                "that another class counts as the answer"
            )
    joined = _join_columns(rows.outputs, mapped, kind)
    least = {"probabilities": 0.0, "logarithms of probabilities": np.log(SMALLEST)}
    empty = joined.max(1) <= least.get(kind.kind, -np.inf)
    if empty.any():
        raise InputError(
            f"{rows.place} has no probability in row {int(empty.argmax()) + 1} for any class of "
            f"the data: all of it is in the columns that are not used, {others}"
        )
    return joined, kind, [note]


def _select_findings(
    rows: PredictionRows, mapped: LabelMap, options: RowOptions
) -> tuple[FloatArray, OutputKind, list[str]]:
    """The outputs of the findings, their kind, and notes on them and on the other columns."""
    used = [place for (place,) in mapped.columns]
    names = rows.names or tuple(map(str, range(mapped.outputs)))
    rest = [name for at, name in enumerate(names) if at not in used]
    notes = [f"not used: {quote_names(rest)}"] if rest else []
    outputs = rows.outputs[:, used]
    columns = [names[at] for at in used]
    one_hot = "" if rows.labels is None else note_one_hot(rows.labels)
    try:
        kind = detect_finding_predictions(outputs, options.outputs, rows.place, columns)
    except InputError as error:
        raise InputError(f"{error}{one_hot}") from None
    if one_hot:
        notes.append(f"labels{one_hot}")
    if np.isin(outputs, (0, 1)).all():
        notes.append("all outputs are 0 or 1: they are decisions, and their confidence is unknown")
    return outputs, kind, notes


def _join_columns(outputs: FloatArray, mapped: LabelMap, kind: OutputKind) -> FloatArray:
    """The outputs of each class; the probabilities of several columns of a class are added."""
    add = np.add if kind.kind == "probabilities" else np.logaddexp
    return np.stack([add.reduce(outputs[:, list(at)], axis=1) for at in mapped.columns], axis=1)


def _match_rows(rows: PredictionRows, images: KnownImages) -> tuple[IntArray, str]:
    """Find the row of each image, int64 `[n]`, and say how."""
    count, n = len(rows.outputs), len(images.labels)
    if rows.keys is None:
        if not images.in_order:
            raise InputError(
                f"{rows.place} has no column of keys, and {images.place} has one: give both files "
                "the same column, or none, so that the rows are in one order"
            )
        if count != n:
            raise InputError(
                f"{rows.place} has {count:,} rows, and {images.place} has {n:,} images: name the "
                "column with the keys or file names of the images with --key-column, or give "
                "predictions for exactly these images"
            )
        return np.arange(n), f"in the order of {images.place}: there is no column of keys"
    keys = list(map(str, rows.keys.tolist()))
    check_unique(keys, rows.place)
    scheme = _choose_scheme(keys, rows.place, images, are_places=rows.places)
    known = set(map(scheme.of_key, keys))
    missing = [name for name in scheme.images if scheme.of_image(name) not in known]
    wanted = set(map(scheme.of_image, scheme.images))
    extra = [key for key in keys if scheme.of_key(key) not in wanted]
    if missing or extra:
        misfits = {"images have no row": missing, "rows have a key of no image": extra}
        listed = "; ".join(
            f"{len(names):,} {kind}: {quote_names(names)}"
            for kind, names in misfits.items()
            if names
        )
        of_validation = len(extra) == count and "val" in rows.place.lower()
        hint = f"; call a file of validation images MODEL-{VALIDATION}" if of_validation else ""
        raise InputError(
            f"the keys of {rows.place} are not those of {images.place}: {listed}; give one row for "
            f"each image, or name the column of the keys with --key-column{hint}"
        )
    return scheme.order(keys), f"matched by {scheme.title}"


def check_unique(keys: Iterable[str], place: str) -> None:
    """Raise `InputError` for keys that stand more than once in a table."""
    if twice := [key for key, uses in Counter(keys).items() if uses > 1]:
        raise InputError(f"{place} has {len(twice):,} keys more than once: {quote_names(twice)}")


class _NamingScheme(NamedTuple):
    """A way to name images: `of_image` of the right image is `of_key` of the key."""

    title: str
    images: Sequence[str]
    of_image: Callable[[str], str]
    of_key: Callable[[str], str]

    def order(self, keys: Sequence[str]) -> IntArray:
        """The row of each image, int64 `[n]`; every image must have one."""
        row = {self.of_key(key): number for number, key in enumerate(keys)}
        return np.array([row[self.of_image(name)] for name in self.images], dtype=np.int64)

    def find(self, keys: Sequence[str]) -> list[int | None]:
        """The number of the image of each key; None for a key of no image."""
        number = {self.of_image(name): at for at, name in enumerate(self.images)}
        return [number.get(self.of_key(key)) for key in keys]


def find_images(
    keys: Sequence[str], place: str, images: KnownImages, *, are_places: bool
) -> IntArray:
    """Find the image of each key, int64 `[keys]`; an image may have several keys, or none.

    Args:
        keys: names of images as predictions have them.
        place: what messages call their table.
        images: the known images.
        are_places: whether numbers are places in the split, and never names.

    Raises `InputError` for keys of no image, and where keys match in two ways that disagree.

    >>> images = KnownImages(np.zeros(2, int), np.arange(2), ["a.png", "b.png"], "", are_files=True)
    >>> find_images(["b", "a", "b"], "the table", images, are_places=False)
    array([1, 0, 1])
    """
    distinct = list(dict.fromkeys(keys))
    scheme = _choose_scheme(distinct, place, images, are_places=are_places, some=True)
    number = dict(zip(distinct, scheme.find(distinct), strict=True))
    if unknown := [key for key in distinct if number[key] is None]:
        raise InputError(
            f"{len(unknown):,} of {len(distinct):,} keys of {place} are not of {images.place}: "
            f"{quote_names(unknown)}; there, keys are such as {scheme.images[0]!r}: leave out rows "
            "of other images, or name the column of the keys with --key-column"
        )
    return np.array([number[key] for key in keys], dtype=np.int64)


def _choose_scheme(
    keys: Sequence[str], place: str, images: KnownImages, *, are_places: bool, some: bool = False
) -> _NamingScheme:
    """The scheme under which most keys match images; the strictest of equal ones.

    With `some`, keys may be of some of the images. Otherwise all must have one.

    Raises:
        InputError: all keys match images in two ways that disagree.
    """
    by_place = _NamingScheme("key", list(map(str, images.keys.tolist())), str, str)
    schemes = [by_place]
    if images.names is not None:
        names = [name.replace("\\", "/") for name in images.names]
        schemes.insert(0, _NamingScheme("name", names, str, str))
        if images.are_files:
            schemes += _list_file_schemes(names)
            if all(PurePosixPath(name).stem.isdecimal() for name in names):
                title = "the number in the name"
                schemes.append(_NamingScheme(title, names, _number_in_name, _as_number))
    best, most = schemes[0], -1
    complete = list[_NamingScheme]()
    for scheme in schemes:
        known, written = set(map(scheme.of_image, scheme.images)), set(map(scheme.of_key, keys))
        if len(known) < len(scheme.images) or len(written) < len(keys):
            continue  # two images or rows would share a name
        if len(known & written) > most:
            best, most = scheme, len(known & written)
        if known == written or (some and written <= known):
            complete.append(scheme)
    if are_places and by_place in complete:
        return by_place
    for scheme in complete:
        if best.find(keys) != scheme.find(keys):
            raise InputError(
                f"the keys of {place} fit {images.place} by {best.title} and by "
                f"{scheme.title}, in different orders: write names of files with their suffix, or "
                "call the column 'key' if they are places in the split, from 0"
            )
    return best


def _list_file_schemes(names: Sequence[str]) -> Iterator[_NamingScheme]:
    """Schemes by the last parts of the path, the longest first; then the same without the
    suffix."""
    for parts in range(max(len(PurePosixPath(name).parts) for name in names), 0, -1):
        title = "file name" if parts == 1 else f"the last {parts} parts of the path"
        end, stem = partial(_end_of_path, parts, True), partial(_end_of_path, parts, False)
        yield _NamingScheme(title, names, end, end)
        yield _NamingScheme(f"{title} without its suffix", names, stem, end)


def _end_of_path(parts: int, suffix: bool, name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return "/".join((*path.parts[-parts:-1], path.name if suffix else path.stem))


def _number_in_name(name: str) -> str:
    return _as_number(_end_of_path(1, False, name))


def _as_number(key: str) -> str:
    """A number without leading zeros, as Excel has it.

    >>> _as_number("0070"), _as_number("000"), _as_number("0a")
    ('70', '0', '0a')
    """
    return (key.lstrip("0") or "0") if key.isdecimal() else key


def _check_labels(
    rows: PredictionRows, order: IntArray, classes: tuple[str, ...], images: KnownImages
) -> None:
    if images.labels.ndim > 1:
        _check_findings(rows, order, classes, images)
        return
    labels, _ = number_labels(rows, classes)
    differ = labels[order] != images.labels
    if differ.any():
        row = int(differ.argmax())
        ours, theirs = classes[labels[order][row]], classes[images.labels[row]]
        raise InputError(
            f"{int(differ.sum()):,} of {len(differ):,} labels in {rows.place} are not those of "
            f"{images.place}: the first is {ours!r} for an image of {theirs!r}; the rows are in "
            "another order, or the images are others, or the labels are predicted classes "
            "(--predicted-column)"
        )


def _check_findings(
    rows: PredictionRows, order: IntArray, classes: tuple[str, ...], images: KnownImages
) -> None:
    """Raise `InputError` if labels of findings, beside predictions, are not those of the images."""
    assert rows.labels is not None
    if rows.labels.ndim == 1:
        raise InputError(
            f"{rows.place} has one label of each image, and {images.place} have several findings"
        )
    for column, name in enumerate(rows.findings or classes):
        if name not in classes or column >= rows.labels.shape[1]:
            continue
        ours, theirs = rows.labels[order, column], images.labels[:, classes.index(name)]
        if (differ := ours != theirs).any():
            row = int(differ.argmax())
            raise InputError(
                f"{int(differ.sum()):,} of {len(differ):,} labels of {name!r} in {rows.place} are "
                f"not those of {images.place}: the first is {ours[row]} where {theirs[row]} is "
                "right; the rows are in another order, or the images are others"
            )


def number_keys(keys: Column | None, count: int) -> tuple[IntArray, list[str] | None]:
    """Make keys for rows without a data set, int64 `[N]`, and their names if they are text.

    Rows without keys are numbered. Texts are numbered in their order, so that the same texts always
    have the same keys.

    >>> number_keys(np.array(["b", "a"]), 2), number_keys(None, 2)
    ((array([1, 0]), ['b', 'a']), (array([0, 1]), None))
    """
    if keys is None:
        return np.arange(count, dtype=np.int64), None
    if keys.dtype.kind == "i":
        return keys.astype(np.int64), None
    ranks: npt.NDArray[Any] = np.unique(keys, return_inverse=True)[1]
    return ranks.reshape(-1).astype(np.int64), [str(key) for key in keys.tolist()]

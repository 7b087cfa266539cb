"""What a person reads of a model's findings on clean images, as soon as these are predicted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import scipy.special

from fairweather.errors import join_names
from fairweather.metrics import to_score
from fairweather.metrics.classification import placements
from fairweather.metrics.columns import Z95
from fairweather.metrics.grouping import Grouping
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import Estimates, ScoreKey, estimate_units
from fairweather.tasks import FindingsPredictions
from fairweather.types.kinds import OF_FINDING
from fairweather.types.measurement import UNKNOWN, FloatArray, IntArray, Score
from fairweather.types.positive import PositiveClasses, read_positive
from fairweather.types.record import CLEAN, NO_LEVEL, list_whole_units

AREA = "auc"  # the metric that is said
CHANCE_AUC = 0.5  # the AUC of a model that knows nothing
# A sigmoid that is taken of a probability is from 0.5 to 0.73: what is taken for its logit, and is
# the probability, is in [0, 1].
TWICE = (-1e-4, 1 + 1e-4)


def describe_rows(folder: RunFolder, grouping: Grouping | None) -> str:
    """Say, after the number of rows, what they are, unless they are independent images."""
    if folder.aggregation is not None:
        return f" {folder.aggregation.plural}"
    return "" if grouping is None else f" in {grouping.count:,} groups; images count equally"


def clean_finding_lines(
    folder: RunFolder, file: str, advice: str, model: str = "", grouping: Grouping | None = None
) -> list[str]:
    """Say the AUC on clean images, the mean over findings, and warn of probable mistakes.

    The interval is the one of scores.csv: from the same resamples of the images.

    Args:
        folder, file, advice, model, grouping: as in `clean_accuracy_lines`.
    """
    predictions = folder.read_cell(file)
    assert isinstance(predictions, FindingsPredictions)
    key = (model, "", CLEAN, NO_LEVEL)
    tables = estimate_units(
        folder.task, [(key, predictions)], folder.record.settings.bootstrap, grouping, [AREA]
    )
    scores = _read_scores(tables, key)
    several = len(predictions.classes) > 1
    (unit,) = list_whole_units(scores) or ("",)
    mean = scores.get(unit)
    areas = {
        name.removeprefix(OF_FINDING): score
        for name, score in scores.items()
        if name.startswith(OF_FINDING)
    }
    prefix = f"{model}: " if model else ""
    positive = read_positive(folder.record.data.notes)
    other = "" if mean is None else _find_exchanged(mean, positive)
    mistakes = _find_mistakes(predictions, {} if other else areas)
    warnings = [f"warning        {prefix}{text}" for text in mistakes]
    if mean is None:
        text = "no finding is known to be there in one image and absent in another"
        return [f"clean          {prefix}no AUC: {text}", *warnings]
    lowest = min(areas, key=lambda name: areas[name].value)
    ends = "no interval" if mean.too_few else f"{mean.low:.3f}, {mean.high:.3f}"
    kind, subject = ("AUC", lowest)
    if several:
        count = f"{len(areas)} finding{'s' if len(areas) > 1 else ''}"
        kind, subject = "mean AUC", count
    line = (
        f"clean          {prefix}{kind} {mean.value:.3f} [{ends}] of {subject}, n = {mean.n:,}"
        f"{describe_rows(folder, grouping)}"
    )
    if len(areas) > 1:
        line += f"; the lowest is {areas[lowest].value:.3f}, of {lowest}"
    if other:
        advice = (
            f"a high score probably means {other!r} (see --positive), or outputs or labels are "
            "exchanged (see --class-map)"
        )
    rows = folder.aggregation.plural if folder.aggregation else "images"
    return [line, *_explain_chance(mean, advice, rows), *warnings]


def _read_scores(
    tables: Mapping[str, Mapping[ScoreKey, Estimates]], key: ScoreKey
) -> dict[str, Score]:
    """The area of each unit that has one."""
    estimates = {name: table[key].get(AREA) for name, table in tables.items()}
    scores = {name: to_score(one, (0.0, 1.0)) for name, one in estimates.items() if one is not None}
    return {name: score for name, score in scores.items() if not np.isnan(score.value)}


def _explain_chance(mean: Score, advice: str, rows: str) -> Iterator[str]:
    low = mean.value if mean.too_few else mean.low
    if low > CHANCE_AUC:
        return
    if mean.value > CHANCE_AUC:
        yield f"note           {mean.n:,} {rows} cannot confirm that it is above chance (0.5)"
    else:
        yield f"warning        that is not above chance (0.5): {advice}"


def _find_exchanged(area: Score, positive: PositiveClasses | None) -> str:
    """The class that scores of a finding probably are of: of two, the other; "" if of neither."""
    if positive is None or len(positive.classes) != 2 or len(positive.findings) > 1:
        return ""
    ((own,),) = positive.members.values()
    (other,) = set(positive.classes) - {own}
    high = area.value if area.too_few else area.high
    return other if high < CHANCE_AUC else ""


def _find_mistakes(predictions: FindingsPredictions, areas: Mapping[str, Score]) -> Iterator[str]:
    logits = predictions.logits
    same = (logits == logits[:1]).all(axis=0)
    if len(logits) > 1 and same.any():
        names = [predictions.classes[place] for place in np.flatnonzero(same)]
        yield f"the probability of {join_names(names)} is the same for every image"
    elif ((logits >= TWICE[0]) & (logits <= TWICE[1])).all():
        yield (
            "all probabilities are between 0.50 and 0.73, as if a sigmoid was taken twice; see "
            "--outputs"
        )
    columns = zip(predictions.classes, logits.T, predictions.labels.T, strict=True)
    if given := [name for name, outputs, labels in columns if _are_labels(outputs, labels)]:
        advice = ": if no model made them, name the other findings with --findings"
        yield (
            f"the outputs of {join_names(given)} equal the labels in every row"
            f"{advice if len(predictions.classes) > 1 else ''}"
        )
    exchanged = _list_exchanged(predictions, areas)
    if exchanged:
        pairs = join_names([f"{name} and {other}" for name, other in exchanged])
        yield (
            f"the columns of {pairs} are probably exchanged: each separates the labels of the "
            "other better"
        )
    middle = float(np.mean([score.value for score in areas.values()])) if areas else CHANCE_AUC
    unlike = [
        name
        for name, score in areas.items()
        if score.low <= CHANCE_AUC <= score.high < middle
        and name not in itertools.chain(*exchanged)
    ]
    if unlike:
        yield (
            f"the AUC of {join_names(unlike)} may be 0.5, and is below the mean: its outputs or "
            "labels may be of another finding, or in another order"
        )
    below = [name for name, score in areas.items() if score.high < CHANCE_AUC]
    if below:
        yield (
            f"the AUC of {join_names(below)} is below 0.5: outputs or labels are probably "
            "exchanged; see --class-map"
        )


def _are_labels(outputs: FloatArray, labels: IntArray) -> bool:
    """Tell whether outputs are one number where a finding is, and a lower one where it is not.

    Of fewer than 5 images on either side that may be chance.

    >>> _are_labels(np.repeat([-9.0, 9.0, 1.0], 5), np.repeat([0, 1, -1], 5))
    True
    >>> _are_labels(np.array([-9.0, 9.0]), np.array([0, 1]))
    False
    """
    present, absent = outputs[labels == 1], outputs[labels == 0]
    if min(len(present), len(absent)) < 5:
        return False
    return bool(np.ptp(present) == np.ptp(absent) == 0 and present[0] > absent[0])


def _list_exchanged(
    predictions: FindingsPredictions, areas: Mapping[str, Score]
) -> list[tuple[str, str]]:
    """The pairs of findings whose outputs each separate the labels of the other better.

    Both AUCs must be higher by more than an own interval is wide, which is 2.8 standard errors of
    the difference of two columns that know nothing. Only findings that may be no better than chance
    are looked at, and more of them need larger differences, by Bonferroni's correction.
    """
    unsure = {name: score for name, score in areas.items() if score.low <= CHANCE_AUC}
    if len(unsure) < 2:
        return []
    places = [predictions.classes.index(name) for name in unsure]
    outputs = predictions.logits[:, places].astype(np.float64)
    labels = predictions.labels[:, places].T
    measured = np.array([[_find_area(column, one) for column in outputs.T] for one in labels])
    factor = scipy.special.ndtri(1 - 0.025 / math.comb(len(unsure), 2)) / Z95
    needed = factor * np.array([score.high - score.low for score in unsure.values()])
    better = measured - measured.diagonal()[:, None] > needed[:, None]
    names = list(unsure)
    return [(names[a], names[b]) for a, b in np.argwhere(np.triu(better & better.T)).tolist()]


def _find_area(outputs: FloatArray, labels: IntArray) -> float:
    known = labels != UNKNOWN
    present = labels[known] == 1
    return float(placements(outputs[known], present)[present].mean())

"""What a person reads of a model's findings on clean images, as soon as these are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from fairweather.errors import join_names
from fairweather.metrics import detection_auroc, to_score
from fairweather.metrics.grouping import Grouping
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import Estimates, ScoreKey, estimate_units
from fairweather.tasks import FindingsPredictions
from fairweather.types.kinds import OF_FINDING
from fairweather.types.measurement import FloatArray, IntArray, Score
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
    columns = _list_columns(predictions)
    if given := [name for name, outputs, labels in columns if _are_labels(outputs, labels)]:
        yield (
            f"the outputs of {join_names(given)} equal the labels in every row: if no model made "
            "them, name the other findings with --findings"
        )
    unsure = [name for name, score in areas.items() if score.low <= CHANCE_AUC <= score.high]
    if unsure and len(predictions.classes) > 1:
        yield (
            f"the AUC of {join_names(unsure)} may be 0.5, as of outputs that are exchanged or in "
            "another order"
        )
    for name, score in areas.items():
        if score.low <= CHANCE_AUC and (better := _find_better(predictions, name, score)):
            yield better
    below = [name for name, score in areas.items() if score.high < CHANCE_AUC]
    if below:
        yield (
            f"the AUC of {join_names(below)} is below 0.5: outputs or labels are probably "
            "exchanged; see --class-map"
        )


def _list_columns(predictions: FindingsPredictions) -> Iterator[tuple[str, FloatArray, IntArray]]:
    """The name of each finding, its outputs and its labels."""
    return zip(predictions.classes, predictions.logits.T, predictions.labels.T, strict=True)


def _are_labels(outputs: FloatArray, labels: IntArray) -> bool:
    """Tell whether outputs are one number where a finding is, and a lower one where it is not.

    >>> _are_labels(np.array([-9.0, 9.0, 1.0]), np.array([0, 1, -1]))
    True
    >>> _are_labels(np.array([-9.0, 9.0, 8.0]), np.array([0, 1, 1]))
    False
    """
    present, absent = outputs[labels == 1], outputs[labels == 0]
    if not len(present) or not len(absent):
        return False
    return bool(np.ptp(present) == np.ptp(absent) == 0 and present[0] > absent[0])


def _find_better(predictions: FindingsPredictions, name: str, score: Score) -> str:
    """Name the finding whose outputs separate the labels of another better, if they surely do.

    Of many columns that know nothing, one is better by chance. So the AUC must be higher by more
    than its interval is wide, which is 2.8 standard errors of the difference of two such columns.
    """
    labels = predictions.labels[:, predictions.classes.index(name)]
    areas = {
        other: detection_auroc(outputs[labels == 1], outputs[labels == 0])
        for other, outputs, _ in _list_columns(predictions)
    }
    best = max(areas, key=lambda other: areas[other])
    if areas[best] - score.value <= score.high - score.low:
        return ""
    return (
        f"the outputs of {best} separate the labels of {name} better, with an AUC of "
        f"{areas[best]:.3f}: their columns are perhaps exchanged"
    )

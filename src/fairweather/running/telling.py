"""What a person reads while a run begins: groups of images, and the accuracy on clean ones."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.metrics.clusters import Clusters, clusters_of
from fairweather.progress import Event, Notify
from fairweather.record import CLEAN, predictions_file
from fairweather.running.inputs import Inputs
from fairweather.runs import RunFolder
from fairweather.steps.plan import DATA
from fairweather.types import CLASSIFICATION, Groups, Score

NAMED_VALUES = 6  # of a column of slices, in a line
COIN = 0.5  # the AUC of a model that knows nothing


def clean_steps(inputs: Inputs) -> dict[str, str]:
    """The step that predicts clean images with each model, and the model's label.

    Empty if the accuracy on clean images is not told.
    """
    return {
        predictions_file(each.name, each.seed, CLEAN).removesuffix(".parquet"): each.label
        for each in (inputs.models if inputs.advice else ())
    }


def telling_clean(inputs: Inputs, folder: RunFolder, tell: Notify) -> Notify:
    """Tell how accurate each model is on clean images too, as soon as they are predicted."""
    waiting, dataset = clean_steps(inputs), inputs.datasets.get(DATA)
    several = len(waiting) > 1
    clusters = None if dataset is None else clusters_of(dataset.test.groups)

    def telling(event: Event) -> None:
        tell(event)
        label = waiting.pop(event.step, None)
        if label is not None:
            file, of = f"{event.step}.parquet", label if several else ""
            for line in clean_lines(folder, file, inputs.advice, of, clusters):
                tell(Event("evaluate", 0, None, line=line))

    return telling


def in_words(groups: Groups | None) -> str:
    """Say how many clusters and subgroups there are.

    >>> import numpy as np
    >>> in_words(Groups("patient", np.array(["a", "b", "a"], dtype=object)))
    '2 by patient, 1 to 2 images each'
    >>> in_words(Groups(None, None, {"site": np.array(["north", "south", "north"], dtype=object)}))
    '2 by site (north 2, south 1)'
    """
    if groups is None:
        return ""
    told = []
    if (clusters := clusters_of(groups)) is not None:
        few, most = clusters.sizes.min(), clusters.sizes.max()
        images = f"{few:,}" if few == most else f"{few:,} to {most:,}"
        told.append(f"{clusters.count:,} by {groups.cluster}, {images} images each")
    for name, values in groups.slices.items():
        sizes = Counter(values.tolist())
        counted = [f"{value} {count:,}" for value, count in sorted(sizes.items())]
        each = f" ({', '.join(counted)})" if len(counted) <= NAMED_VALUES else ""
        told.append(f"{len(sizes):,} by {name}{each}")
        if groups.clusters is not None:
            of = {(cluster, value) for cluster, value in zip(groups.clusters, values, strict=True)}
            several = sum(count > 1 for count in Counter(cluster for cluster, _ in of).values())
            if several:
                told.append(f"{several:,} {groups.cluster} in several values of {name}")
    return "; ".join(told)


def clean_lines(
    folder: RunFolder, file: str, advice: str, of: str = "", clusters: Clusters | None = None
) -> list[str]:
    """Say how accurate the model is on clean images, and warn if it is not better than chance.

    The interval is the one of scores.csv: from the same resamples of the images.

    Args:
        folder: the run.
        file: the predictions of clean images.
        advice: what is probably wrong, and how to settle it.
        of: which model they are of, if there are several.
        clusters: which images belong together, if that is known.
    """
    if folder.task.name != CLASSIFICATION:
        return []
    predictions = folder.read_predictions(file)
    resamples = folder.record.settings.bootstrap
    shared = Resamples.draw(predictions.strata, resamples, clusters=clusters)
    found = evaluate_resamples(predictions, shared, names=["accuracy"])["accuracy"]
    accuracy, low, high, n = to_score(found, (0.0, 1.0))
    edges = {0.0: "; every image is wrong", 1.0: "; no image is wrong"}
    which = f"{of}: " if of else ""
    ends = "no interval" if np.isnan(low) else f"{low:.1%}, {high:.1%}"
    lines = [
        f"clean          {which}accuracy {accuracy:.1%} [{ends}], n = {n:,}"
        f"{f' in {clusters.count:,} clusters; images count alike' if clusters else ''}"
        f"{edges.get(accuracy, '')}"
    ]
    counts = np.bincount(predictions.labels)
    share, largest = counts.max() / n, predictions.classes[counts.argmax()]
    if low <= share or (np.isnan(low) and accuracy <= share):
        chance = f"({share:.1%}, what a model that always says {largest} gets)"
        if accuracy > share:
            lines.append(
                f"note           {n:,} images cannot confirm that it is above chance {chance}"
            )
        else:
            areas = evaluate_resamples(predictions, shared, names=["macro_auc"])
            auc = to_score(areas["macro_auc"], (0.0, 1.0)) if areas else None
            reason = why_at_chance(auc, len(predictions.classes), advice)
            lines.append(f"warning        that is not above chance {chance}{reason}")
    return lines


def why_at_chance(auc: Score | None, classes: int, advice: str) -> str:
    """Say what is probably wrong with an accuracy that is not above chance.

    A model whose AUC is above 0.5 tells the classes apart: then neither the order of its rows nor
    its preprocessing is to blame, but where one class ends and another begins.

    Args:
        auc: the mean over classes of the area under the ROC curve; None where it is not known.
        classes: how many there are.
        advice: what is probably wrong otherwise.

    >>> why_at_chance(Score(0.5, 0.4, 0.6, 90), 2, "the order of the rows is probably wrong")
    ': the order of the rows is probably wrong'
    >>> why_at_chance(Score(0.97, 0.95, 0.98, 90), 2, "")
    ', but its AUC is 0.97: it tells the classes apart, and calls one too often; see
    operating_points, and the calibration of its probabilities'
    >>> why_at_chance(Score(0.03, 0.02, 0.05, 90), 2, "")
    ', and its AUC is 0.03, far below 0.5: the two classes are probably exchanged; see --labels and
    --classes'
    """
    if auc is None or math.isnan(auc.value):
        return f": {advice}"
    low, high = (auc.value, auc.value) if auc.too_few else (auc.low, auc.high)
    if low > COIN and classes == 2:
        return (
            f", but its AUC is {auc.value:.2f}: it tells the classes apart, and calls one too "
            "often; see operating_points, and the calibration of its probabilities"
        )
    if low > COIN:
        return (
            f", but its mean AUC is {auc.value:.2f}: it tells classes apart, and calls some too "
            "often or by the name of another; see the confusion matrix on the page, and --labels"
        )
    if high < COIN and classes == 2:
        return (
            f", and its AUC is {auc.value:.2f}, far below {COIN}: the two classes are probably "
            "exchanged; see --labels and --classes"
        )
    return f": {advice}"

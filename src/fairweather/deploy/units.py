"""The images of new patients, or other units, that a guard answers one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fairweather.deploy.promise import JudgedUnit
from fairweather.errors import InputError
from fairweather.metrics.grouping import Grouping
from fairweather.steps.run_model import NewImages
from fairweather.tasks import CLASSIFICATION_TASK, MULTILABEL_TASK
from fairweather.types.measurement import TextArray


def name_patients(new: NewImages, judged: JudgedUnit) -> TextArray:
    """The patient of each image; raises `InputError` if nothing says it."""
    groups = new.images.groups
    if groups is None or groups.names is None:
        raise InputError(
            f"this guard answers {judged.aggregation.plural}: name a table with the file and the "
            f"{judged.unit} of each image as metadata (--metadata)"
        )
    return groups.names


def list_patients(new: NewImages, judged: JudgedUnit) -> NewImages:
    """One row for each patient, in the order of their first images: its name and its label.

    The picture is the first image. Labels count only if the images of no patient differ, or the
    highest or the present one does.
    """
    names = name_patients(new, judged)
    grouping = Grouping.from_names(names)
    first = np.unique(grouping.numbers, return_index=True)[1]
    rows, is_labelled = new.images[torch.from_numpy(first)], new.labelled
    labels = rows.labels
    if is_labelled:
        task = MULTILABEL_TASK if labels.ndim > 1 else CLASSIFICATION_TASK
        aggregated = task.aggregation_rules.labels(
            new.images.labels.numpy(), grouping, judged.unit, judged.ordered
        )
        labels = torch.from_numpy(aggregated.labels)
    named = replace(rows, labels=labels, names=names[first].astype(np.object_))
    return new._replace(images=named)

"""What a model says of three findings, some of them unknown, and images of patients with them."""

from dataclasses import replace

import numpy as np

from fairweather.tasks import FindingsPredictions
from fairweather.types.measurement import UNKNOWN, Dataset, Groups
from tests.helpers.finding_models import NAMES, SIDE, draw_findings

SHARES = (0.4, 0.2, 0.1)


def draw_predictions(count=200, seed=0, unknown=0.2):
    """Predictions whose logits say too much, of findings that are independent of each other."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < SHARES).astype(np.int64)
    logits = rng.normal(3 * labels - 1.5, 2).astype(np.float32)
    labels[rng.random((count, 3)) < unknown] = UNKNOWN
    return FindingsPredictions(np.arange(count), labels, logits, NAMES)


def draw_dataset(val=300, test=200, patients=None):
    """A data set of images that are independent, or of so many patients."""

    def draw(count, seed):
        images = draw_findings(count, seed)
        if patients is None:
            return images
        names = np.array([str(number % patients) for number in range(count)])
        return replace(images, groups=Groups("patient", names))

    parts = draw(val, 1), draw(test, 2)
    return Dataset(
        "toys", None, *parts, (0.4,) * 3, (0.2,) * 3, {"size": [SIDE, SIDE]}, "multilabel"
    )

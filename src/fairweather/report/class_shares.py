"""Whether each class is as frequent as its mean probability says, which confidence cannot show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairweather.metrics.columns import softmax
from fairweather.metrics.recipes import cross
from fairweather.metrics.table import FEWEST
from fairweather.report.contents import Contents
from fairweather.report.performance import LEVEL

LEAST = 0.01  # a smaller difference is no finding, however many images confirm it


class ClassShare(NamedTuple):
    """A class whose mean probability differs from its share of the images.

    Attributes:
        name: of the class.
        probability: its mean over all images and seeds.
        share: of the images that are of it.
    """

    name: str
    probability: float
    share: float


def class_off(contents: Contents, model: str, cell: str, searched: int) -> ClassShare | None:
    """Find the class whose mean probability is farthest from its share of the images of a cell.

    The largest probability may be right on average while those of a class are not: of two classes,
    one half too probable is surer where it is wrong and less sure where it is right.

    Args:
        contents: of the run.
        model: its name.
        cell: the id of the shift.
        searched: among how many sets of images this one was chosen.

    Returns:
        None where no class differs by more than `LEAST` and with p below `LEVEL`, by the t-test of
        `cross`, after Bonferroni's correction over classes and sets of images; classes of few
        images are left out. None too where probabilities of all classes are not stored.
    """
    seeds = contents.seeds_of(model)
    read = [contents.read_predictions(model, seed, cell) for seed in seeds] if contents.runs else []
    logits = [each.logits for each in read if each is not None and each.logits is not None]
    if not logits or len(logits) < len(read) or read[0] is None:
        return None
    labels, names = read[0].labels, read[0].classes
    probabilities = np.stack([softmax(each) for each in logits], axis=2)
    counts = np.bincount(labels, minlength=len(names))
    tests = searched * (len(names) if len(names) > 2 else 1)
    off = []
    for at in np.flatnonzero(np.minimum(counts, len(labels) - counts) >= FEWEST):
        of = probabilities[:, at] - (labels == at)[:, None]
        found = cross(of, contents.clusters)
        if abs(found.value) > LEAST and found.p * tests < LEVEL:
            share = counts[at] / len(labels)
            # Of two classes, both are as far off, and the rarer one is told.
            off.append((round(abs(found.value), 9), -share, share + found.value, at))
    if not off:
        return None
    _, share, probability, at = max(off)
    return ClassShare(names[at], probability, -share)

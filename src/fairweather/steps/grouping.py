"""The step that writes which images belong together, and their subgroups, into the run folder."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.clusters import Clusters, clusters_of
from fairweather.progress import Notify
from fairweather.runs import RunFolder, StoredGroups
from fairweather.steps.plan import Done, GroupStep
from fairweather.steps.worker import Worker
from fairweather.types import Groups


def do_group(step: GroupStep, worker: Worker, folder: RunFolder, progress: Notify) -> Done:
    """Write the number of each image's cluster, and the values of its slices.

    What a cluster is called, such as the key of a patient, is not written.
    """
    told = []
    for name, reference in zip(step.leaves, step.images, strict=True):
        images = worker.images(reference)
        if images.groups is None:
            raise InputError(f"nothing is known of groups of the {reference.part} images")
        stored = stored_groups(images.groups, images.keys.numpy())
        folder.write_groups(name, stored)
        if stored.clusters is not None:
            count = Clusters(stored.clusters).count
            told.append(f"{len(images):,} {reference.part} images of {count:,} {stored.cluster}s")
    return Done(", ".join(told))


def stored_groups(groups: Groups, keys: npt.NDArray[np.int64]) -> StoredGroups:
    """Number the clusters in the order of the images."""
    clusters = clusters_of(groups)
    numbers = None if clusters is None else clusters.of
    return StoredGroups(keys, groups.cluster, numbers, dict(groups.slices))


def groups_digest(groups: Groups) -> str:
    """A digest of which images belong together, whatever that is called, and of all slices."""
    digest = hashlib.sha256(repr((groups.cluster, list(groups.slices))).encode())
    if (clusters := clusters_of(groups)) is not None:
        digest.update(clusters.of.astype("<i8").tobytes())
    for values in groups.slices.values():
        digest.update("\0".join(values).encode())
    return digest.hexdigest()

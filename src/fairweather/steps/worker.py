"""A worker opens data sets and networks by their names in a plan, once, and keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn

from fairweather.attacks.shift_lists import expand_only_shifts
from fairweather.data.groups import describe_shared_groups
from fairweather.data.loading import check_no_copies, load
from fairweather.data.natural_sets import find_natural_facts
from fairweather.data.pixel_scans import digest
from fairweather.devices import memory_for_networks, resolve_device
from fairweather.errors import InputError, quote_names
from fairweather.inference.shifters import Shifters
from fairweather.models.building import load_checkpoint
from fairweather.models.checkpoints import interpolate
from fairweather.models.labels import LabelMap, places_by_name, relabel, rename_choices
from fairweather.models.onnx import OnnxNetwork
from fairweather.models.opening import open_with_options
from fairweather.models.outputs import convert_outputs
from fairweather.models.preprocessing import prepare_at
from fairweather.models.sources import OpenedModel
from fairweather.models.wrappers import Ensemble
from fairweather.progress import Event, Notify, silent
from fairweather.runs.folder import RunFolder, StoredGroups, fingerprint
from fairweather.steps.plan import (
    DATA,
    NATURAL_DATA,
    AnyNetwork,
    EnsembleNetwork,
    ForwardPass,
    ImagesReference,
    InterpolatedNetwork,
    OpenedNetwork,
    Plan,
    PlannedDataset,
    PlannedModel,
    PredictStep,
    TrainedNetwork,
    network_files,
)
from fairweather.steps.sweeps import digest_published, pair_published, parse_shift
from fairweather.tasks import find_task
from fairweather.training.ranks import ALONE, Ranks
from fairweather.types.measurement import (
    CLASSIFICATION,
    UNKNOWN,
    AnyPredictions,
    Attack,
    Dataset,
    Images,
    Predictions,
    Shift,
)
from fairweather.types.positive import PositiveClasses, read_positive
from fairweather.types.record import NATURAL, PROBED, TEST, TRAIN, VAL
from fairweather.variants.adaptation.networks import Tensors
from fairweather.variants.variant import read_variant

FileVersion = tuple[str, int, int, int]  # of a file: path, inode, nanoseconds, bytes


class _LoadedNetwork(NamedTuple):
    """A network in memory, its bytes, and the version of the files that it was loaded from."""

    files: tuple[FileVersion, ...]
    size: int
    model: nn.Module


class Worker:
    """Gives steps their data sets and networks, each opened when a step first asks for it.

    Args:
        plan: the plan that names the data sets and the model.
        device: `auto`, `cpu`, `cuda`, ...
        offline: never use the network.
        progress: called with events while data are loaded.
        datasets: open data sets, by their names in the plan; they are not checked.
        models: open models from elsewhere, by their digests; each returns logits of the data's
            classes.
        workers: the most processes that make shifted batches ahead.
        networks: the most networks to keep in memory; None for as many as fit.
        jobs: number of workers on this machine, which share its memory.
        jobs_on_device: how many of them share the memory of the device.
        ranks: the processes that train together with this one.
        given: reads predictions that were made elsewhere, by the file that they are stored in.
        groups: what belongs together, by split, of such predictions without images.

    Attributes:
        room: bytes that networks may take.
        jobs_on_device: as given.
        learned: what methods that adapt learned of each network from clean images, by all that it
            depends on.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        device: str = "auto",
        offline: bool = False,
        progress: Notify | None = None,
        datasets: Mapping[str, Dataset] | None = None,
        models: Mapping[str, nn.Module] | None = None,
        workers: int = 0,
        networks: int | None = None,
        jobs: int = 1,
        jobs_on_device: int = 1,
        ranks: Ranks = ALONE,
        given: Callable[[str], AnyPredictions] | None = None,
        groups: Mapping[str, StoredGroups] | None = None,
    ) -> None:
        self.ranks = ranks
        self._given = given
        self.groups = dict(groups or {})
        self.sources = dict(plan.data)
        self._published = dict(plan.published)
        self.model_sources = {source.digest: source for source in plan.models}
        self.device = resolve_device(device)
        self.offline, self.progress = offline, progress
        self._datasets = dict(datasets or {})
        self._opened = dict(models or {})
        self.most_networks = networks
        self.jobs_on_device = jobs_on_device
        self._shifters = Shifters(workers, self.device, jobs=jobs) if workers else None
        self.room = memory_for_networks(self.device) // jobs_on_device
        forward = (step.how for step in plan.steps if isinstance(step, PredictStep))
        variants = {how.variant for how in forward if isinstance(how, ForwardPass)} - {None}
        adapting = (read_variant(str(variant)).adapting for variant in variants)
        # One network adapts at a time.
        self._copies = max((method.copies for method in adapting if method), default=0)
        self._networks: dict[AnyNetwork, _LoadedNetwork] = {}  # the latest last
        self.learned: WeakKeyDictionary[nn.Module, dict[Hashable, Tensors]] = WeakKeyDictionary()
        self._largest_batch: int | None = None

    def dataset(self, name: str = DATA) -> Dataset:
        """Return a data set of the plan; raises `InputError` if its digests differ from the
        plan's."""
        if name not in self._datasets:
            source = self.sources[name]
            self._datasets[name] = open_data(source, offline=self.offline, progress=self.progress)
            _check_digests(source, self._datasets[name])
        return self._datasets[name]

    def take_data(self, name: str, dataset: Dataset) -> None:
        """Take a data set of the plan that was opened elsewhere; raises as `dataset` does."""
        _check_digests(self.sources[name], dataset)
        self._datasets[name] = dataset

    def images(self, reference: ImagesReference) -> Images:
        """A split of a data set; images of another data set get the classes of the run.

        Raises `InputError` if the data set does not have this split, or its labels are not classes
        of the run.
        """
        dataset = self.dataset(reference.data)
        part: Images | None = getattr(dataset, reference.part)
        if part is None:
            raise InputError(f"{dataset.name} has no {reference.part} images")
        if reference.data.startswith(NATURAL_DATA):
            own = self.dataset()
            return match_labels_by_name(part, own.classes, dataset.name, read_positive(own.notes))
        source = self.sources.get(reference.data)
        if source is None or source.labelled:
            return part
        return drop_labels(part, self.dataset().classes)

    def shift(
        self, text: str, images: Images, published: Mapping[str, str | None]
    ) -> Shift | Attack:
        """Return a shift or an attack by its id, with the published files that it is read from.

        Args:
            text: the id.
            images: the clean images that the files are paired with.
            published: the digest that its files must have, by the id; empty without files.

        Raises:
            InputError: the files have changed since the plan was made, or are not here.
        """
        if text not in published:
            return parse_shift(text)
        (bound,) = pair_published(expand_only_shifts(self._published[text]), images)
        if digest_published([bound]) != {text: published[text]}:
            raise InputError(
                f"the files of {self._published[text]} have changed since the plan was made"
            )
        return bound

    def shifters_of(self, progress: Notify) -> Shifters | None:
        """The processes that shift batches ahead, if there are any, for a step with this
        progress."""
        if self._shifters is not None:
            self._shifters.tell = progress
        return self._shifters

    def network(self, network: AnyNetwork, folder: RunFolder) -> nn.Module:
        """Return a network with logits of the data's classes; as many as fit are kept.

        A model that the user opened is moved to the CPU instead of being deleted.
        """
        files = _file_versions(network, folder)
        loaded = self._networks.pop(network, None)
        if loaded is None or loaded.files != files:
            size = self._size_of(network, folder)
            while self._networks and not self._fit(
                [*(n.size for n in self._networks.values()), size]
            ):
                first = next(iter(self._networks))
                put_aside = self._networks.pop(first)
                if isinstance(first, OpenedNetwork):
                    for graph in _onnx_graphs(put_aside.model.cpu()):
                        graph.sessions.leave_devices()
            loaded = _LoadedNetwork(files, size, self._load(network, folder))
        self._networks[network] = loaded
        return loaded.model

    def given(self, file: str, digest: str) -> AnyPredictions:
        """Predictions that were made elsewhere, by the file that they are to be stored in.

        Raises `InputError` if they have changed since the plan was made.
        """
        assert self._given is not None, "only the process that was given predictions stores them"
        predictions = self._given(file)
        if predictions_digest(predictions) != digest:
            raise InputError(f"the predictions for {file} have changed since the plan was made")
        return predictions

    def count_fitting(self, networks: Sequence[AnyNetwork], folder: RunFolder) -> int:
        """Count how many of the first networks fit into memory together; at least 1."""
        sizes: list[int] = []
        for network in networks:
            sizes.append(self._size_of(network, folder))
            if not self._fit(sizes):
                return max(len(sizes) - 1, 1)
        return len(networks)

    def _fit(self, sizes: Sequence[int]) -> bool:
        if self.most_networks is not None and len(sizes) > self.most_networks:
            return False
        return sum(sizes) + self._copies * max(sizes) <= self.room

    def _size_of(self, network: AnyNetwork, folder: RunFolder) -> int:
        """The bytes of its weights: of its files, or of an open model from elsewhere."""
        if isinstance(network, OpenedNetwork):
            return count_bytes(self._load(network, folder))
        return sum(size for *_, size in _file_versions(network, folder))

    def _load(self, network: AnyNetwork, folder: RunFolder) -> nn.Module:
        match network:
            case OpenedNetwork(digest=digest):
                if digest not in self._opened:
                    source = self.model_sources[digest]
                    self._opened[digest] = open_planned_model(source, offline=self.offline)
                return self._opened[digest]
            case TrainedNetwork():
                return load_checkpoint(folder.file(network.folder))
            case InterpolatedNetwork():
                model = load_checkpoint(folder.file(network.folder))
                start = safetensors.torch.load_file(folder.file(f"{network.folder}/{PROBED}"))
                model.load_state_dict(interpolate(start, model.state_dict(), network.share))
                return model
            case EnsembleNetwork(members=members):
                networks = [self._load(member, folder) for member in members]
                return Ensemble(networks, folder.task.kinds[0]).eval()

    def close(self) -> None:
        """End the processes that it has started."""
        if self._shifters is not None:
            self._shifters.end()

    def batch_size(self, asked: int) -> int:
        """The requested batch size, or the largest one that fits into memory."""
        return min(asked, self._largest_batch or asked)

    def halved(self, asked: int) -> int | None:
        """The reduced batch size; None if the requested one fits."""
        used = self.batch_size(asked)
        return used if used < asked else None

    def halve(self, size: int) -> None:
        """Remember that memory ran out, and that batches of `size` fit."""
        self._largest_batch = size


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch use this number of threads, and restore the number afterwards.

    >>> with using_threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    if threads != before:  # setting the same number would still start a new thread pool
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


def open_data(
    source: PlannedDataset, *, offline: bool = False, progress: Notify | None = None
) -> Dataset:
    """Load a data set of a plan."""
    return load(source.source, source, offline=offline, progress=progress)


def get_splits(dataset: Dataset) -> dict[str, Images]:
    """The splits that a data set has, by name."""
    parts = {TRAIN: dataset.train, VAL: dataset.val, TEST: dataset.test}
    return {name: part for name, part in parts.items() if part is not None}


def predictions_digest(predictions: AnyPredictions) -> str:
    """The digest of the content of predictions: keys, labels, probabilities and classes.

    Without logits, as beyond 100 classes, it covers the losses and confidences that are known.
    """
    digest = hashlib.sha256(json.dumps(predictions.classes).encode())
    columns: list[npt.NDArray[Any]] = [predictions.keys, predictions.labels]
    if predictions.logits is None:
        assert isinstance(predictions, Predictions), "other tasks keep their logits"
        known = (predictions.predicted, predictions.confidence, predictions.nll)
        columns += [column for column in known if column is not None]
    else:
        columns.append(predictions.logits)
    for column in columns:
        little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<")))
        digest.update(f"{little.dtype.str} {little.shape}".encode() + little.tobytes())
    return digest.hexdigest()


def drop_labels(images: Images, classes: tuple[str, ...]) -> Images:
    """Images of another data set for a model with these classes; all labels become 0."""
    return Images(images.images, torch.zeros_like(images.labels), images.keys, classes)


def match_labels_by_name(
    images: Images, classes: tuple[str, ...], name: str, positive: PositiveClasses | None = None
) -> Images:
    """Relabel images by the run's classes; they may have only some of these.

    Classes are matched by name. Their order means nothing: other images may have as many classes
    with other meanings. A finding that they do not have is unknown.

    Args:
        images: with labels of their own.
        classes: the classes or findings of the run.
        name: what messages call the images.
        positive: the classes that the run's findings are made of, if they are; then so are those of
            images with classes.

    Raises `InputError` if the run lacks a class of the images.
    """
    labels = relabel_by_name(images, classes, positive)
    if labels is None:
        known = classes if positive is None or images.labels.ndim > 1 else positive.classes
        raise InputError(
            f"the classes of {name} ({quote_names(images.classes)}) are not each one of the run's "
            f"by name ({quote_names(known)}): call them as the run does, such as by renaming "
            "their folders"
        )
    choices = None if images.choices is None else rename_choices(images.choices, classes)
    return replace(images, labels=labels, classes=classes, choices=choices)


def relabel_by_name(
    images: Images, classes: tuple[str, ...], positive: PositiveClasses | None = None
) -> torch.Tensor | None:
    """The labels that images have among the run's classes; None if a class is none of these.

    Args: as of `match_labels_by_name`.
    """
    made = positive if images.labels.ndim == 1 else None
    among = classes if made is None else made.classes
    places = places_by_name(images.classes, among)
    if places is None:
        return None
    labels = renumber_labels(images.labels, places, among)
    return labels if made is None else torch.from_numpy(made.mark(labels.numpy()))


def renumber_labels(
    labels: torch.Tensor, places: Sequence[int], classes: tuple[str, ...]
) -> torch.Tensor:
    """Give labels the places of other classes, or labels of findings the columns of others.

    Args:
        labels: int64 `[N]`, or `[N, L]` of findings.
        places: of each of their classes or findings among the others.
        classes: the others; a finding among them without a column is unknown.

    >>> renumber_labels(torch.tensor([0, 1]), [2, 0], ("cat", "dog", "fox"))
    tensor([2, 0])
    >>> renumber_labels(torch.tensor([[0, 1]]), [2, 0], ("Effusion", "Mass", "Nodule"))
    tensor([[ 1, -1,  0]])
    """
    if labels.ndim == 1:
        return torch.tensor(places)[labels]
    columns = labels.new_full((len(labels), len(classes)), UNKNOWN)
    columns[:, list(places)] = labels
    return columns


def check_natural(
    datasets: Mapping[str, Dataset], *, allow_duplicates: bool, progress: Notify | None = None
) -> None:
    """Raise `InputError` unless other images of the same classes fit the run's own.

    They must have its classes and its size, and none may have the same pixels as an image of the
    run's own splits. Groups that they share with these are reported to `progress`.

    Args:
        datasets: the data sets of a run, by their names in its plan.
        allow_duplicates: images with the same pixels are only reported to `progress`.
    """
    dataset = datasets[DATA]
    check_one_label(dataset)
    positive = read_positive(dataset.notes)
    others = {
        f"{NATURAL}{name.removeprefix(NATURAL_DATA)}": other
        for name, other in datasets.items()
        if name.startswith(NATURAL_DATA)
    }
    for other in others.values():
        if other.task not in (dataset.task, *([CLASSIFICATION] if positive else [])):
            raise InputError(
                f"{other.name} and {dataset.name} have other kinds of labels ({other.task} and "
                f"{dataset.task}): natural images are labelled as the run's own"
            )
        if positive is not None and other.test.choices is not None:
            raise InputError(
                f"{other.name} has a class mask or other labels, and these data have findings that "
                "are made of classes: name its folder as folder:PATH instead"
            )
        match_labels_by_name(other.test[:1], dataset.classes, other.name, positive)
        sides = [" x ".join(map(str, shown.test.images.shape[2:])) for shown in (other, dataset)]
        if sides[0] != sides[1]:
            raise InputError(
                f"the images of {other.name} have {sides[0]} pixels and those of {dataset.name} "
                f"{sides[1]}: give both one size"
            )
    _tell_shared_groups(dataset, others, progress or silent)
    check_no_copies(
        get_splits(dataset),
        {name: other.test for name, other in others.items() if not _relabels(other)},
        allowed=allow_duplicates,
        progress=progress,
    )


def check_one_label(dataset: Dataset) -> None:
    """Raise `InputError` for a natural shift with other labels than one class of each image."""
    if dataset.test.choices is not None and dataset.test.choices.truth is not None:
        raise InputError(
            f"{dataset.name} has other labels than one class an image: evaluate a model on its own "
            f"data, with --natural {dataset.name} (natural in Python and in a study)"
        )


def _relabels(dataset: Dataset) -> bool:
    """Whether a published natural shift has the images of the data, with other labels."""
    facts = find_natural_facts(str(dataset.notes.get("source", "")))
    return facts is not None and facts.same_images


def _tell_shared_groups(own: Dataset, others: Mapping[str, Dataset], tell: Notify) -> None:
    """Warn of patients, for example, that other images share with the run's own."""
    known = {name: images.groups for name, images in get_splits(own).items()}
    for name, other in others.items():
        theirs = other.test.groups
        if theirs is None or theirs.names is None:
            continue
        for part, ours in known.items():
            if ours is None or ours.names is None:
                continue
            pair = {part: ours.names, name: theirs.names}
            for line in describe_shared_groups(pair, str(theirs.group)):
                tell(Event("compare groups", 0, None, line=f"warning        {line}"))


def open_planned_model(source: PlannedModel, *, offline: bool = False) -> nn.Module:
    """Open the model of a plan with the settings of the plan; it returns logits of its classes.

    Raises `InputError` if the model has changed since the plan was made.
    """
    predicts = find_task(source.task_name).kinds[0]
    opened = open_with_options(source.source, source, offline=offline, predicts=predicts)
    if source.size is not None:
        opened = prepare_at(opened, source.size, keep=source.input_size is not None)
    labels = LabelMap(source.columns, "", source.answers, source.positive)
    if model_digest(opened, source.taken_for, labels) != source.digest:
        raise InputError(f"{source.source} has changed since the plan was made")
    return relabel(as_logits(opened, source.taken_for), labels)


def model_digest(opened: OpenedModel, taken_for: str, labels: LabelMap) -> str:
    """The digest of the weights and settings of a model from elsewhere."""
    made = {"positive": labels.positive} if labels.positive else {}
    return fingerprint(
        {
            "weights": opened.digest,
            "normalisation": opened.facts.get("normalisation"),
            "fed_at": getattr(opened.model, "input_size", None),
            "outputs": taken_for,
            "columns": labels.columns,
            **made,
        }
    )


def as_logits(opened: OpenedModel, taken_for: str) -> nn.Module:
    """A model that returns logits: outputs of another kind are converted, unless opening did."""
    return (
        convert_outputs(opened.model, taken_for).eval() if opened.outputs is None else opened.model
    )


def count_bytes(model: nn.Module) -> int:
    """The bytes of a model's weights; an ONNX graph has them in its file.

    >>> count_bytes(nn.Linear(3, 2))
    32
    """
    tensors = [*model.parameters(), *model.buffers()]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return stored + sum(graph.sessions.path.stat().st_size for graph in _onnx_graphs(model))


def _onnx_graphs(model: nn.Module) -> Iterator[OnnxNetwork]:
    return (module for module in model.modules() if isinstance(module, OnnxNetwork))


def _check_digests(source: PlannedDataset, dataset: Dataset) -> None:
    splits = get_splits(dataset)
    for part, expected in source.digests.items():
        if part not in splits or digest(splits[part]) != expected:
            raise InputError(
                f"the {part} images of {source.source} have changed since the plan was made: "
                "their digests differ"
            )


def _file_versions(network: AnyNetwork, folder: RunFolder) -> tuple[FileVersion, ...]:
    # Steps write files by renaming, so that a new file has another inode or time. Checksums
    # would read large weights again for every cell.
    files = [(path, path.stat()) for path in map(folder.file, network_files(network))]
    return tuple((str(path), s.st_ino, s.st_mtime_ns, s.st_size) for path, s in files)

"""A guard answers images or defers them, and opens from a folder of JSON and safetensors.

It imports nothing of training, runs or reports, and neither torchvision, timm nor pandas: a service
loads it. `making` makes guards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import PIL.Image
import pydantic
import safetensors
import safetensors.torch
import torch

from fairweather.data.pixels import Scale, Square, decode_image
from fairweather.deploy.graph import Graph, GraphNetwork
from fairweather.deploy.promise import (
    VERSION,
    FindingsGuardRecord,
    GuardRecord,
    format_percent,
)
from fairweather.devices import resolve_device
from fairweather.errors import InputError, check_text
from fairweather.metrics.answer_rules import is_answered_within
from fairweather.metrics.columns import BoolArray, FloatArray, softmax
from fairweather.metrics.conformal import prediction_sets
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.two_sample import (
    FEWEST_IMAGES,
    differ_p,
    features_differ_p,
    outputs_differ_p,
)
from fairweather.tasks import CLASSIFICATION_TASK, MULTILABEL_TASK, Task
from fairweather.types.measurement import check_images
from fairweather.types.record import FORMER_NAMES, with_new_names

# The share of batches like the validation images that cause a false warning.
FALSE_ALARMS = 0.05
Batch: TypeAlias = "torch.Tensor | npt.NDArray[np.uint8] | Sequence[PIL.Image.Image]"


class GuardOutputs(NamedTuple):
    """A network's outputs for a batch of images."""

    logits: npt.NDArray[np.float32]
    """float32 `[B, classes]`."""

    features: npt.NDArray[np.float32] | None
    """float32 `[B, D]`, the input of its last layer; None if that layer is not linear."""


class Answers(NamedTuple):
    """The answers of a guard to a batch of images."""

    classes: tuple[str, ...]
    """The name of the most probable class of each image."""

    confidence: FloatArray
    """float64 `[B]`, its probability after temperature scaling."""

    answered: BoolArray
    """Bool `[B]`; where it is false, a person should decide."""

    sets: tuple[tuple[str, ...], ...]
    """For each image the names of the classes that it may be, at least one, the most probable
    first."""

    probabilities: FloatArray
    """float64 `[B, classes]`, in the order of `Guard.record.classes`."""

    def columns(self) -> dict[str, list[Any]]:
        """What a table of answers says of each image."""
        return {
            "class": list(self.classes),
            "confidence": self.confidence.tolist(),
            "answer": ["answer" if sure else "defer" for sure in self.answered.tolist()],
            "set": list(map(list, self.sets)),
        }


class FindingsAnswers(NamedTuple):
    """The answers of a guard to a batch of images with several findings."""

    findings: tuple[str, ...]
    """Their names."""

    present: BoolArray
    """Bool `[B, L]`, whether the probability of each finding is at least 0.5."""

    answered: BoolArray
    """Bool `[B, L]`; where it is false, a person should decide."""

    probabilities: FloatArray
    """float64 `[B, L]`, after temperature scaling of each finding."""

    def columns(self) -> dict[str, list[Any]]:
        """What a table of answers says of each image: decisions, and then probabilities."""
        decisions = np.where(self.answered, np.where(self.present, "present", "absent"), "review")
        chances = [f"probability of {name}" for name in self.findings]
        return {
            **dict(zip(self.findings, decisions.T.tolist(), strict=True)),
            **dict(zip(chances, self.probabilities.T.tolist(), strict=True)),
        }


class Likeness(NamedTuple):
    """Whether images look like the validation images to the model."""

    images: int
    """How many were compared."""

    p: float
    """Probability of a difference at least this large if they were drawn like the validation
    images; NaN if they are too few to compare."""

    features: bool
    """Whether the features were compared too, and not only the probabilities."""

    @property
    def unlike(self) -> bool:
        """Whether to warn; at most 5 % of batches like the validation images warn falsely."""
        return self.p < FALSE_ALARMS  # NaN is not

    def __str__(self) -> str:
        compared = "probabilities and features" if self.features else "probabilities"
        if np.isnan(self.p):
            few = "1 image is" if self.images == 1 else f"{self.images} images are"
            return (
                f"{few} too few to compare with the validation images: that takes {FEWEST_IMAGES}"
            )
        shown = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        if self.unlike:
            return (
                f"these images differ from the validation images ({compared}, {shown}). The error "
                "limit need not hold for them: do not use these answers unless a person reviews "
                "them"
            )
        few = ". Fewer than 100 images show only large differences" if self.images < 100 else ""
        return f"no significant difference from the validation images ({compared}, {shown}){few}"


AnyRecord: TypeAlias = GuardRecord | FindingsGuardRecord
R = TypeVar("R", GuardRecord, FindingsGuardRecord)


@dataclass(frozen=True)
class AnyGuard(Generic[R]):
    """A model that answers where a risk is kept, and leaves the rest to a person.

    Call it with a batch: an array or tensor of 8-bit images `[B, 3, H, W]` of the size
    `record.size`, or a list of Pillow images. Pillow images are prepared like the model's own
    images.
    """

    record: R
    """The promise, its basis, and what was kept of it under each shift."""

    see: Callable[[torch.Tensor], GuardOutputs]
    """8-bit images `[B, 3, H, W]` to what the network says of them."""

    reference: GuardOutputs
    """Its outputs for validation images; features only for some of them."""

    task: ClassVar[Task]
    """What it answers."""

    def check(self, batch: Batch, patients: Sequence[Hashable] | None = None) -> Likeness:
        """Say whether a batch of images looks like the validation images; more images show more.

        The images must be independent: give one image of each video or patient. A guard of patients
        takes all images of each, and compares patients.

        Args:
            batch: the images.
            patients: the patient of each image, if the guard answers patients.

        Raises:
            InputError: they are not images of the right size, or their patients are not given.
        """
        return self.likeness(self.join(self.see(self.prepared(batch)), patients))

    def join(self, outputs: GuardOutputs, patients: Sequence[Hashable] | None) -> GuardOutputs:
        """Make one row for each patient, in the order in which they first occur.

        Args:
            outputs: of the network, for images.
            patients: the patient of each image; None for a guard that answers images.

        Returns:
            The same for a guard that answers images; else without features.

        Raises:
            InputError: patients are given or missing against the guard, or not one for each image.
        """
        judged = self.record.judged
        if judged is None:
            if patients is not None:
                raise InputError("this guard answers images one by one: leave patients out")
            return outputs
        if patients is None or len(patients) != len(outputs.logits):
            count = "none" if patients is None else f"{len(patients):,}"
            raise InputError(
                f"this guard answers {judged.aggregation.plural}: give the {judged.unit} of each "
                f"of {len(outputs.logits):,} images as patients, found {count}"
            )
        grouping = Grouping.from_names([str(patient) for patient in patients])
        combine = self.task.aggregation_rules.logits
        logits = combine(outputs.logits, grouping, judged.aggregate, judged.ordered)
        return GuardOutputs(logits.astype(np.float32), None)

    def prepared(self, batch: Batch) -> torch.Tensor:
        """Convert a batch to uint8 `[B, 3, H, W]` at the size of the guard."""
        if isinstance(batch, np.ndarray):
            batch = torch.from_numpy(np.ascontiguousarray(batch))
        if isinstance(batch, PIL.Image.Image):
            raise InputError("a batch is a list of PIL images: put the one image into a list")
        if not isinstance(batch, torch.Tensor):
            batch = self._decoded(list(batch) if isinstance(batch, Iterable) else [])
        check_images(batch)
        if len(batch) == 0:
            raise InputError("a batch has at least one image, found none")
        if tuple(batch.shape[2:]) != self.record.size:
            height, width = self.record.size
            raise InputError(
                f"this guard takes images [B, 3, {height}, {width}], found {list(batch.shape)}"
            )
        return batch

    def likeness(self, outputs: GuardOutputs) -> Likeness:
        """Compare the network's outputs with its outputs for validation images."""
        known = self.reference
        p_values = [outputs_differ_p(self._probabilities(known), self._probabilities(outputs))]
        both = known.features is not None and outputs.features is not None
        if both:
            p_values.append(features_differ_p(known.features, outputs.features))  # type: ignore[arg-type]
        return Likeness(len(outputs.logits), differ_p(*p_values), both)

    def _probabilities(self, outputs: GuardOutputs) -> FloatArray:
        if not np.isfinite(outputs.logits).all():
            raise InputError("the model gives numbers for these images that are not finite")
        return self._calibrated(outputs.logits)

    def _calibrated(self, logits: npt.NDArray[np.float32]) -> FloatArray:
        """The probabilities of finite logits."""
        raise NotImplementedError

    def _decoded(self, images: list[PIL.Image.Image]) -> torch.Tensor:
        record = self.record
        if not images or not all(isinstance(image, PIL.Image.Image) for image in images):
            raise InputError("a batch is an array or tensor [B, 3, H, W], or a list of PIL images")
        square = None
        if record.preparation is not None:
            size, resize, interpolation, fit = record.preparation
            square = Square(size, resize or size, interpolation, fit)
        scale = None if record.scale is None else Scale.parse(record.scale)
        height, width = record.size
        if square is None and any(image.size != (width, height) for image in images):
            raise InputError(
                f"the run does not say how images become {height} x {width}: prepare them first"
            )
        pixels = [decode_image(image, square, scale) for image in images]
        return torch.from_numpy(np.stack(pixels))

    def __repr__(self) -> str:
        promise = self.record.promise
        limits = {"risk": promise.risk} | {
            f"{kind} {name}": limit
            for kind, limits in promise.limits.items()
            for name, limit in limits.items()
        }
        texts = [f"{name} <= {format_percent(to)}" for name, to in limits.items() if to is not None]
        return f"{type(self).__name__}({self.record.title!r}, {', '.join(texts)})"


class Guard(AnyGuard[GuardRecord]):
    """A classifier that answers where a risk is kept, and defers the other images to a person.

    Call it with a batch: an array or tensor of 8-bit images `[B, 3, H, W]` of the size
    `record.size`, or a list of Pillow images. Pillow images are prepared like the model's own
    images.
    """

    task = CLASSIFICATION_TASK

    def __call__(self, batch: Batch, patients: Sequence[Hashable] | None = None) -> Answers:
        """Answer a batch of images, or defer them.

        Args:
            batch: the images.
            patients: the patient of each image, if the guard answers patients. The answers are in
                the order in which patients first occur, and each needs all images of a patient.

        Raises:
            InputError: they are not images of the right size, or their patients are not given.
        """
        return self.answers(self.join(self.see(self.prepared(batch)), patients))

    def answers(self, outputs: GuardOutputs) -> Answers:
        """Answer or defer images, given the network's outputs."""
        fit, names = self.record.fit, self.record.classes
        probabilities = self._probabilities(outputs)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        confidence, predicted = probabilities.max(axis=1), order[:, 0]
        in_set = np.take_along_axis(prediction_sets(probabilities, fit.quantile), order, axis=1)
        # The classes of all sets in one list, and where each set ends.
        members = [names[place] for place in order[in_set].tolist()]
        ends = np.cumsum(in_set.sum(axis=1)).tolist()
        return Answers(
            tuple(names[place] for place in predicted.tolist()),
            confidence,
            is_answered_within(
                confidence, predicted, probabilities, fit.threshold, fit.ceilings(names)
            ),
            tuple(tuple(members[begin:end]) for begin, end in pairwise([0, *ends])),
            probabilities,
        )

    def _calibrated(self, logits: npt.NDArray[np.float32]) -> FloatArray:
        return softmax(logits / np.float32(self.record.fit.temperature))


class FindingsGuard(AnyGuard[FindingsGuardRecord]):
    """A model of several findings that answers where a risk is kept for each.

    Findings whose confidence is too small are left to a person. Call it as a `Guard`.
    """

    task = MULTILABEL_TASK

    def __call__(self, batch: Batch, patients: Sequence[Hashable] | None = None) -> FindingsAnswers:
        """Answer the findings of a batch of images, or leave them to a person.

        Args:
            batch: the images.
            patients: as for a `Guard`.

        Raises:
            InputError: they are not images of the right size, or their patients are not given.
        """
        return self.answers(self.join(self.see(self.prepared(batch)), patients))

    def answers(self, outputs: GuardOutputs) -> FindingsAnswers:
        """Answer findings or leave them to a person, given the network's outputs."""
        least = np.array([fitted.least for fitted in self.record.fit.findings])
        probabilities = self._probabilities(outputs)
        chances, present = self._chances(outputs.logits), outputs.logits >= 0
        # Confidence in the decision, and its threshold.
        sure, threshold = (
            np.where(present, pair[..., 1], pair[..., 0]) for pair in (chances, least)
        )
        return FindingsAnswers(self.record.classes, present, sure >= threshold, probabilities)

    def _calibrated(self, logits: npt.NDArray[np.float32]) -> FloatArray:
        return self._chances(logits)[:, :, 1]

    def _chances(self, logits: npt.NDArray[np.float32]) -> FloatArray:
        """The chances of absence and presence, `[B, L, 2]`.

        They are rounded as those that thresholds were chosen from, of classifiers of two classes.
        """
        temperatures = [fitted.temperature for fitted in self.record.fit.findings]
        tempered = logits / np.array(temperatures, dtype=np.float32)
        pairs = np.stack([np.zeros_like(tempered), tempered], axis=2)
        return softmax(pairs.reshape(-1, 2)).reshape(pairs.shape)


RECORD, GRAPH = "guard.json", "graph.json"
WEIGHTS, REFERENCE = "weights.safetensors", "reference.safetensors"
CHECKSUMS = "checksums.json"
FILES = (RECORD, GRAPH, WEIGHTS, REFERENCE)
MOST_BYTES = 2**26  # of a JSON file; that of a network with 10,000 operations has 2 MB


def is_guard(path: Path) -> bool:
    """Say whether a folder holds a guard."""
    return (path / RECORD).is_file() and not (path / RECORD).is_symlink()


def encode_guard(
    record: AnyRecord, graph: Graph, weights: Mapping[str, torch.Tensor], reference: GuardOutputs
) -> dict[str, bytes]:
    """Encode the files of a guard by name; their checksums come last."""
    known = {"logits": torch.from_numpy(reference.logits)}
    if reference.features is not None:
        known["features"] = torch.from_numpy(reference.features)
    files = {
        RECORD: json.dumps(record.model_dump(mode="json"), indent=1).encode() + b"\n",
        GRAPH: json.dumps(graph.as_json(), separators=(",", ":"), allow_nan=False).encode() + b"\n",
        WEIGHTS: safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in weights.items()}
        ),
        REFERENCE: safetensors.torch.save(known),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**files, CHECKSUMS: json.dumps(sums, indent=1).encode() + b"\n"}


def open_guard(folder: str | Path, *, device: str = "auto") -> Guard | FindingsGuard:
    """Open a saved guard; nothing in its folder is executed, and no link is followed.

    Raises:
        InputError: there is no guard, or a file is missing, damaged, changed or wrong.
    """
    path = Path(check_text(str(folder), "the guard")).expanduser()
    if not path.is_dir():
        raise InputError(f"there is no folder {path} with a guard")
    sums = _parse_json(path / CHECKSUMS, _read_content(path, CHECKSUMS))
    content = dict[str, bytes]()
    for name in FILES:
        content[name] = _read_content(path, name)
        if sums.get(name) != hashlib.sha256(content[name]).hexdigest():
            raise InputError(
                f"{path / name} is damaged or was changed: its checksum is not that in {CHECKSUMS}"
            )
    record = _parse_record(path / RECORD, content[RECORD])
    weights, reference = (
        _parse_tensors(path / name, content[name]) for name in (WEIGHTS, REFERENCE)
    )
    graph = Graph.from_json(_parse_json(path / GRAPH, content[GRAPH]), weights, str(path / GRAPH))
    network = GraphNetwork(graph, weights, resolve_device(device))
    known = _check_outputs(
        reference.get("logits"), reference.get("features"), record, path / REFERENCE
    )

    def see(images: torch.Tensor) -> GuardOutputs:
        try:
            logits, features = network(images.to(network.device).float() / 255)
        except Exception as error:  # the graph may come from anybody and contain anything
            reason = str(error).strip().partition("\n")[0] or "its numbers are too large"
            raise InputError(f"the network of {path} cannot look at images: {reason}") from None
        return _check_outputs(logits, features, record, path / GRAPH)

    see(torch.zeros(1, 3, *record.size, dtype=torch.uint8))  # a wrong graph is found here
    return guard_of(record, see, known)


def guard_of(
    record: AnyRecord, see: Callable[[torch.Tensor], GuardOutputs], reference: GuardOutputs
) -> Guard | FindingsGuard:
    """Make the guard of the record's task; see `AnyGuard`."""
    if isinstance(record, FindingsGuardRecord):
        return FindingsGuard(record, see, reference)
    return Guard(record, see, reference)


def _read_content(folder: Path, name: str) -> bytes:
    """Read a file once, so that the bytes that are checked are the bytes that are used."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        instead = "a link" if path.is_symlink() else "no file" if path.exists() else "missing"
        raise InputError(f"{folder} holds no guard: {name} is {instead}")
    if name.endswith(".json") and path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES // 2**20} MB")
    return path.read_bytes()


def _parse_json(path: Path, content: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{path} must hold a mapping, found {type(parsed).__name__}")
    return parsed


def _parse_record(path: Path, content: bytes) -> AnyRecord:
    facts = _parse_json(path, content)
    kind: type[AnyRecord] = FindingsGuardRecord if "task" in facts else GuardRecord
    try:
        record = kind.model_validate(_with_new_names(facts))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{path} is wrong at {field}: {first['msg']}") from None
    return record


def _with_new_names(facts: dict[str, object]) -> dict[str, object]:
    """The facts of a guard by the names of this version; wrong ones are left to be refused."""
    fit, promise = facts.get("fit"), facts.get("promise")
    if facts.get("version") != 1 or not isinstance(fit, dict) or not isinstance(promise, dict):
        return facts
    weigh = promise.get("weigh")
    renamed = {**promise, "weigh": FORMER_NAMES.get(str(weigh), weigh)}
    return {**facts, "version": VERSION, "fit": with_new_names(fit), "promise": renamed}


def _parse_tensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError):
        raise InputError(f"{path} is not a file of tensors") from None


def _check_outputs(
    logits: torch.Tensor | None, features: torch.Tensor | None, record: AnyRecord, path: Path
) -> GuardOutputs:
    """Convert logits and features to arrays; raises `InputError` for a wrong type or shape."""
    for name, output in (("logits", logits), ("features", features)):
        if output is None and name == "features":
            continue
        if (
            not isinstance(output, torch.Tensor)
            or output.ndim != 2
            or not output.is_floating_point()
        ):
            raise InputError(f"{path} gives {name} that are not float [B, N]")
    assert logits is not None, "this was an error above"
    if logits.shape[1] != len(record.classes):
        raise InputError(f"{path} gives {logits.shape[1]} logits for {len(record.classes)} classes")
    arrays = (
        None if output is None else np.asarray(output.float().cpu().numpy())
        for output in (logits, features)
    )
    return GuardOutputs(*arrays)  # type: ignore[arg-type]

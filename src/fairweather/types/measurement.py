"""The types that every part shares: images, data sets, shifts, cells, predictions, scores."""

from __future__ import annotations

import html
import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
)

import numpy as np
import numpy.typing as npt

from fairweather.errors import (
    InputError,
    check_file_names,
    check_name,
    check_text,
    check_type,
    show_value,
)
from fairweather.types.kinds import TaskKind as TaskKind
from fairweather.types.options import CROSS as CROSS
from fairweather.types.options import GroupColumns as GroupColumns
from fairweather.types.options import Preparation as Preparation
from fairweather.types.options import slice_name as slice_name
from fairweather.types.options import split_slice as split_slice

if TYPE_CHECKING:  # reports, comparisons and rules start in half the time without torch
    import torch
    from torch import nn

MAX_SIDE = 4096  # pixels; no classifier takes more
MIN_SIDE = 8  # pixels; published shifts are not meaningful on smaller images
CLASSIFICATION = "classification"  # the task of data that name none
MULTILABEL = "multilabel"  # the task of several findings of an image
FEW_IMAGES = 30  # a value of a column with fewer has wide intervals
FEW_VALUES, MANY_VALUES = 4, 20  # of a column that nobody merges, and of one of numbers
UNKNOWN = -1  # the label of a finding that nobody looked for, or that is uncertain
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
Parameter = float | int | str
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Costs = tuple[tuple[float, ...], ...]  # a row for each class, or for each finding
TextArray = npt.NDArray[np.object_]
TruthArray = npt.NDArray[np.bool_] | npt.NDArray[np.float32]
ShiftFunction: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]"
Tell: TypeAlias = "Callable[[float], None] | None"
AttackFunction: TypeAlias = (
    "Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, str, Tell], AttackResult]"
)
Index: TypeAlias = "slice | torch.Tensor | npt.NDArray[np.integer]"


Change = TypeVar("Change", "Shift", "Attack")


def parse_class_names(names: Sequence[object], owner: str) -> tuple[str, ...]:
    """Return class names from a file; whole numbers become text.

    Args:
        names: the names in label order.
        owner: says whose names they are, for the message.

    Raises:
        InputError: a name is no text.

    >>> parse_class_names(["cat", 7], "the file")
    ('cat', '7')
    >>> parse_class_names(["cat", None], "the file")
    Traceback (most recent call last):
    fairweather.errors.InputError: the file has the class name None, which is not a text
    """
    for name in names:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise InputError(f"{owner} has the class name {name!r:.60}, which is not a text")
    return tuple(str(name) for name in names)


def check_classes(names: Sequence[str], owner: str) -> None:
    """Raise `InputError` for a name that cannot be shown, and for two classes of one name.

    >>> check_classes(("cat", "cat"), "the data set")
    Traceback (most recent call last):
    fairweather.errors.InputError: the data set has two classes with the name 'cat': rename one of
    them
    """
    for name in names:
        check_name(name, f"{owner} has a class with a name that cannot be used:")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{owner} has two classes with the name {twice[0]!r}: rename one of them")


def special_kind(tensor: torch.Tensor) -> str | None:
    """Say in what way a tensor is not plain real numbers in memory; None if it is.

    >>> import torch
    >>> special_kind(torch.eye(2)), special_kind(torch.eye(2).to_sparse())
    (None, 'sparse')
    """
    import torch

    if tensor.is_nested:
        return "nested"
    if tensor.is_meta:
        return "meta"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_complex():
        return "complex"
    return None if tensor.layout == torch.strided else "sparse"


def is_finite(value: object) -> bool:
    """Say whether a value is a number that a 64-bit float can hold.

    >>> is_finite(10**300), is_finite(10**400), is_finite(float("nan")), is_finite(True)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Comparing a whole number with a float cannot fail; converting it can.
    return abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class Groups:
    """Which images belong together, and to which subgroups they belong; `[N]` texts each."""

    group: str | None = None
    """What images that belong together share, such as `patient`; None if not known."""

    names: TextArray | None = None
    """Its value for each image."""

    slices: Mapping[str, TextArray] = field(default_factory=dict)
    """Subgroups by the name of the column, such as `site`, with the value of each image."""

    def __getitem__(self, index: npt.NDArray[np.integer] | slice) -> Groups:
        names = None if self.names is None else self.names[index]
        return Groups(self.group, names, {k: v[index] for k, v in self.slices.items()})

    def remarks(self) -> list[str]:
        """What makes slices too small to say much, one sentence for each column of them."""
        sentences = itertools.starmap(explain_small_slices, self.slices.items())
        return list(filter(None, sentences))


def explain_small_slices(column: str, values: TextArray) -> str:
    """Say how many values of a column have few images, and what helps; "" where most have enough.

    >>> values = np.array(list("ABCDE") * 9, dtype=object)
    >>> print(explain_small_slices("site", values))
    site has 5 values, all of them with fewer than 30 images: merge rare values in the table
    >>> ages = np.array([str(20 + age) for age in range(60)], dtype=object)
    >>> explain_small_slices("age", ages).partition(": ")[2]
    "cut the numbers, as in the slice 'age:40,59'"
    """
    names, counts = np.unique(values.astype(str), return_counts=True)
    numbers = [float(name) for name in names if NUMBER.fullmatch(name)]
    is_numeric = len(numbers) > 2 and len(numbers) >= len(names) - 1  # one may be `missing`
    small = int((counts < FEW_IMAGES).sum())
    is_small = len(names) > FEW_VALUES and 2 * small > len(names)
    if not is_small and not (is_numeric and len(names) > MANY_VALUES):
        return ""
    count = "all" if small == len(names) else f"{small:,}"
    few = f", {count} of them with fewer than {FEW_IMAGES} images" if small else ""
    remedy = "merge rare values in the table"
    if CROSS in column:
        remedy = "cross fewer columns, or cut numbers such as ages"
    elif is_numeric:
        points = ",".join(f"{cut:.2g}" for cut in np.quantile(numbers, (1 / 3, 2 / 3)))
        remedy = f"cut the numbers, as in the slice '{column}:{points}'"
    return f"{column} has {len(names):,} values{few}: {remedy}"


@dataclass(frozen=True)
class Choices:
    """The classes that a model chooses among on a natural shift, and what is right of each image.

    >>> Choices(("cat", "dog"), np.array([[True, True], [False, True]]))[1:].truth.tolist()
    [[False, True]]
    """

    names: tuple[str, ...]
    """The class mask: outputs of other classes do not count."""

    truth: TruthArray | None = None
    """`[N, K]`, a column for each of these classes: bool if several are right; or float32, the
    share of people who chose each. None if only the label is right."""

    def __getitem__(self, index: npt.NDArray[np.integer] | slice) -> Choices:
        return Choices(self.names, None if self.truth is None else self.truth[index])

    @property
    def judged(self) -> Literal["label", "several", "shares"]:
        """What an answer is compared with: a key of `types.record.JUDGED`."""
        if self.truth is None:
            return "label"
        return "several" if self.truth.dtype == np.bool_ else "shares"

    def rename(self, names: Sequence[str | None]) -> Choices:
        """The same by the names that a run has for these classes; None leaves a class out."""
        kept = [place for place, name in enumerate(names) if name is not None]
        truth = None if self.truth is None else self.truth[:, kept]
        return Choices(tuple(str(names[place]) for place in kept), truth)


@dataclass(frozen=True)
class ReaderCalls:
    """What people, such as radiologists, call each image.

    >>> ReaderCalls(np.arange(2), ("ann",), np.array([[[1]], [[UNKNOWN]]])).counts
    {'ann': 1}
    """

    keys: IntArray
    """int64 `[N]`, the keys of the images in the order of the predictions."""

    readers: tuple[str, ...]
    """The names of the readers."""

    calls: IntArray
    """int64 `[N, R, L]`: of each finding 1 or 0; of classes, L is 1 and the call is the label.
    `UNKNOWN` where a reader did not call."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of images that each reader has called."""
        called = (self.calls != UNKNOWN).any(axis=2).sum(axis=0)
        return dict(zip(self.readers, called.tolist(), strict=True))

    def join_images(self, numbers: IntArray, unit: str, *, mixed: bool) -> ReaderCalls:
        """Make one row for each group of images, such as those of a patient.

        Images that a reader has not called do not count. A finding that is called in one image of a
        patient is called of the patient. Of classes in an order, the highest counts.

        Args:
            numbers: int `[N]`, the number of each image's group, from 0 on.
            unit: what a group is, for messages.
            mixed: whether a reader may call different classes in one group.

        Raises `InputError` if a reader does so although `mixed` is false.

        >>> calls = ReaderCalls(np.arange(3), ("ann",), np.array([[[1]], [[0]], [[UNKNOWN]]]))
        >>> calls.join_images(np.array([0, 0, 1]), "patient", mixed=True).calls.tolist()
        [[[1]], [[-1]]]
        """
        shape = (int(numbers.max()) + 1, *self.calls.shape[1:])
        highest = np.full(shape, UNKNOWN, dtype=np.int64)
        np.maximum.at(highest, numbers, self.calls)
        differ = (self.calls != UNKNOWN) & (self.calls != highest[numbers])
        if differ.any() and not mixed:
            reader = self.readers[int(differ.any(axis=(0, 2)).argmax())]
            raise InputError(
                f"the reader {reader!r} calls different classes in images of one {unit}: give one "
                f"call for each {unit}"
            )
        return ReaderCalls(np.arange(len(highest)), self.readers, highest)


@dataclass(frozen=True)
class Images:
    """Labelled 8-bit images; slicing keeps each image's key.

    >>> import torch
    >>> images = Images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]),
    ...                 torch.arange(4), ("cat", "dog"))
    >>> images[2:].keys
    tensor([2, 3])
    """

    images: torch.Tensor
    """uint8 `[N, 3, H, W]`."""

    labels: torch.Tensor
    """int64 `[N]`, each in `[0, len(classes))`; or `[N, L]`, a label of each of L names."""

    keys: torch.Tensor
    """int64 `[N]`, the position of each image in its source split. An image keeps its key in every
    subset."""

    classes: tuple[str, ...]
    """Class names in label order, or the names of what is labelled."""

    names: TextArray | None = None
    """`[N]` texts: the path of each image's file below the folder of its source, with `/` between
    folders. None if images have no files of their own."""

    groups: Groups | None = None
    """Which images belong together, and their subgroups; None if nothing is known."""

    choices: Choices | None = None
    """Of a natural shift: the class mask, and what is right beyond the labels. None elsewhere."""

    def __post_init__(self) -> None:
        import torch

        check_images(self.images)
        n = len(self.images)
        check_type(self.classes, tuple | list, "classes must be a tuple of names")
        check_type(self.names, np.ndarray | None, "names must be an array, np.array(NAMES, object)")
        if self.names is not None and self.names.shape != (n,):
            raise InputError(f"names must have the shape [{n}], found {list(self.names.shape)}")
        shapes = {"labels": ((n,), (n, len(self.classes))), "keys": ((n,),)}
        made = {"labels": "torch.from_numpy(LABELS)", "keys": f"torch.arange({n})"}
        for name, column in (("labels", self.labels), ("keys", self.keys)):
            check_type(column, torch.Tensor, f"{name} must be a tensor, such as {made[name]}")
            if column.dtype != torch.int64 or tuple(column.shape) not in shapes[name]:
                actual = f"{column.dtype} {list(column.shape)}"
                way_out = "; labels.argmax(1) if they are one-hot" if column.ndim == 2 else ""
                raise InputError(f"{name} must be int64 [{n}], found {actual}{way_out}")
        if self.labels.ndim > 1 or not n:  # labels of another task, which that task checks
            return
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            span = f"{int(self.labels.min())} to {int(self.labels.max())}"
            raise InputError(f"labels go from {span}, but there are {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Index) -> Images:
        return self.at(index, self.images[index])

    def at(self, index: Index, pixels: torch.Tensor) -> Images:
        """The images of an index with other pixels, uint8 `[B, 3, H, W]`, such as shifted ones."""
        places = index if isinstance(index, slice) else np.asarray(index)
        return Images(
            pixels,
            self.labels[index],
            self.keys[index],
            self.classes,
            None if self.names is None else self.names[places],
            None if self.groups is None else self.groups[places],
            None if self.choices is None else self.choices[places],
        )


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set and the statistics of its training images."""

    name: str
    """The specification that the data set was loaded from."""

    train: Images | None
    val: Images | None
    test: Images
    """`train`, `val`, `test`: `Images`; train and val may be None."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """`mean`, `std`: mean and standard deviation per channel of the training images in [0, 1], or
    of the test images if there is no training split."""

    notes: Mapping[str, object] = field(default_factory=dict)
    """Facts for the record of the run, such as the number of skipped files."""

    task: str = CLASSIFICATION
    """What is to be told of each image; a name of `fairweather.tasks.TASKS`."""

    def __post_init__(self) -> None:
        check_text(self.name, "the name of the data set")
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            if name == "test" or part is not None:
                check_type(part, Images, f"{name} must be Images(PIXELS, LABELS, KEYS, CLASSES)")
            if part is not None and part.names is not None:
                check_file_names([str(name) for name in part.names], "the data set")
        check_classes(self.classes, "the data set")
        if self.task == CLASSIFICATION and self.test.labels.ndim > 1:
            given = f"labels {list(self.test.labels.shape)}"
            raise InputError(f"{given} need task='multilabel', or argmax(1) if they are one-hot")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if np.shape(values) != (3,):
                raise InputError(
                    f"{name} must be three numbers, R, G, B; found {show_value(values)}"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, the same in every split."""
        return self.test.classes


class StoredImage(NamedTuple):
    """The place of a published image."""

    path: str
    row: int | None = None
    """Its row in the array of that file; None for a file of its own."""


class ShiftedFiles(Protocol):
    """Published files of shifted images, which are read instead of changing images."""

    @property
    def source(self) -> str:
        """The text that finds them again, with their folder."""
        ...

    @property
    def digest(self) -> str | None:
        """Of their names and sizes, for some images; None until these are known."""
        ...

    def pair_with(self, images: Images) -> ShiftedFiles:
        """Pair the files with clean images, which determines the digest."""
        ...

    def locate(self, images: Images) -> list[StoredImage]:
        """Find the file of each image; raises `InputError` if there is none."""
        ...

    def read(self, images: Images) -> torch.Tensor:
        """Read the shifted images, uint8 `[N, 3, H, W]` as the images."""
        ...


class NamedChange:
    """What a shift and an attack have in common: how they and their levels are called."""

    name: str
    level: float | None
    parameters: Mapping[str, Parameter]

    @property
    def id(self) -> str:
        """`name[,parameter=value...]`: no other shift or attack has the same id."""
        return format_id(self.name, self.parameters)

    @property
    def level_name(self) -> str:
        """The level as in scores.csv: the shortest text of the number, or `none`."""
        return "none" if self.level is None else format_number(self.level)

    def _repr_html_(self) -> str:
        rows = [[name, format_number(value)] for name, value in self.parameters.items()]
        return html_table([type(self).__name__.lower(), self.name], rows)


@dataclass(frozen=True)
class Shift(NamedChange):
    """A named change of the test images at one level: 8-bit images in, 8-bit images out.

    >>> Shift("gaussian_blur", 0.7, {"sigma": 0.7, "kernel_size": 5}, lambda x, k, s: x).id
    'gaussian_blur,sigma=0.7,kernel_size=5'
    """

    name: str
    """The name in the table of shifts."""

    level: float | None
    """The one parameter that a sweep varies; None for `clean`."""

    parameters: Mapping[str, Parameter] = field(hash=False)
    """The parameters that were given, in the order of the function's signature."""

    apply: ShiftFunction = field(repr=False, compare=False)
    """`(images uint8 [B, 3, H, W], keys int64 [B], seed) -> uint8 [B, 3, H, W]`."""

    files: ShiftedFiles | None = field(default=None, repr=False, compare=False)
    """The published files that are read instead; None for a change that is computed."""

    def change(self, images: Images, seed: int = 0) -> torch.Tensor:
        """Shift images, or read their published files: uint8 `[N, 3, H, W]`."""
        if self.files is not None:
            return self.files.read(images)
        return self(images.images, images.keys, seed)

    def __call__(self, images: torch.Tensor, keys: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Shift a batch: uint8 `[B, 3, H, W]` and int64 keys `[B]` to uint8 `[B, 3, H, W]`."""
        import torch

        check_images(images)
        if self.level is not None and min(images.shape[2:]) < MIN_SIDE:
            height, width = images.shape[2:]
            raise InputError(
                f"{self.name} needs images of at least {MIN_SIDE} pixels per side, "
                f"found {height}x{width}"
            )
        if not isinstance(keys, torch.Tensor):
            raise InputError(f"a shift needs the images' keys as a tensor, found {keys!r}")
        if keys.dtype != torch.int64 or keys.shape != images.shape[:1]:
            actual = f"{keys.dtype} {list(keys.shape)}"
            raise InputError(
                f"a shift needs one int64 key for each of {len(images)} images, found {actual}"
            )
        shifted = self.apply(images, keys, seed)
        if shifted.dtype != torch.uint8 or shifted.shape != images.shape:
            actual = f"{shifted.dtype} {list(shifted.shape)}"
            raise TypeError(f"{self.id} must return uint8 {list(images.shape)}, returned {actual}")
        return shifted


class AttackResult(NamedTuple):
    """The result of an attack on a batch: the attacked images, and which of them were broken."""

    images: torch.Tensor
    """float32 `[B, 3, H, W]` in [0, 1], not rounded."""

    broken: Mapping[str, torch.Tensor]
    """For each part of the attack, by name, bool `[B]`: the images that it broke. `clean` are the
    images that the model gets wrong without an attack. An image is true in at most one of them."""

    @property
    def robust(self) -> torch.Tensor:
        """bool `[B]`: does the model still classify the image correctly after every part."""
        import torch

        return ~torch.stack(list(self.broken.values())).any(0)


@dataclass(frozen=True)
class Attack(NamedChange):
    """A named change of the test images that is computed from the model and the labels.

    >>> unchanged = lambda *batch: AttackResult(batch[1], {})
    >>> Attack("pgd", 0.1, {"epsilon": 0.1, "steps": 5}, unchanged).id
    'pgd,epsilon=0.1,steps=5'
    """

    name: str
    """The name in the table of attacks."""

    level: float
    """Epsilon, the largest norm of a perturbation of pixels in [0, 1]."""

    parameters: Mapping[str, Parameter] = field(hash=False)
    """The parameters that were given, in the order of the function's signature."""

    apply: AttackFunction = field(repr=False, compare=False)
    """`(model, images, labels, keys, stream, tell) -> AttackResult`; it may call `tell` with the
    share of its runs that are done."""

    def outcome(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        keys: torch.Tensor,
        seed: int = 0,
        tell: Callable[[float], None] | None = None,
    ) -> AttackResult:
        """Attack a batch, and tell which part of the attack broke which image.

        Args:
            model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`, on the images'
                device.
            images: float32 `[B, 3, H, W]` in [0, 1].
            labels, keys: int64 `[B]`.
            seed: random starts, targets and proposals depend only on it, the id and the key.
            tell: called with the share of the attack that is done, if the attack tells it.
        """
        return self.apply(model, images, labels, keys, f"{seed}/{self.id}", tell)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        keys: torch.Tensor,
        seed: int = 0,
        tell: Callable[[float], None] | None = None,
    ) -> torch.Tensor:
        """Attack a batch: float32 `[B, 3, H, W]` in [0, 1], not rounded, on the images' device."""
        return self.outcome(model, images, labels, keys, seed, tell).images


def make_levels(
    name: str,
    level: str,
    levels: Sequence[float] | Mapping[str, object],
    make: Callable[..., Change],
) -> list[Change]:
    """Make a shift or an attack at several levels.

    Args:
        name: of the shift or attack.
        level: the parameter that is its level.
        levels: a list of levels, or a mapping of parameters.
        make: makes one from its name and keyword parameters.
    """
    parameters = dict(levels) if isinstance(levels, Mapping) else {level: levels}
    swept = parameters.pop(level, None)
    values = [swept] if isinstance(swept, int | float) else swept
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(f"{name}: {level} must be a number or a list of numbers, found {swept!r}")
    changes = [make(name, **{level: value, **parameters}) for value in values]
    if len({change.level for change in changes}) < len(changes):
        raise InputError(f"{name}: {level} has the same level twice: {list(values)}")
    return changes


@dataclass(frozen=True)
class Cell:
    """One set of test images for one model and seed: clean, or under one shift or attack.

    The ensemble of a model's seeds has the seed `ensemble`.

    >>> clean = Shift("clean", None, {}, lambda x, k, s: x)
    >>> Cell("basic", 0, clean).id
    'basic/seed-0/clean'
    """

    model: str
    seed: int | str
    shift: Shift | Attack

    @property
    def id(self) -> str:
        """`MODEL/seed-SEED/SHIFT`, for messages."""
        return f"{self.model}/seed-{self.seed}/{self.shift.id}"


class Passes(NamedTuple):
    """How many images went through a network that adapts, on its way through all streams.

    Those of validation images, which a method such as EATA learns from before, are left out.
    """

    forward: int
    """Images of all passes forward; an image counts once in each."""

    backward: int
    """Images of all passes backward, which compute gradients."""

    batches: int = 0
    """Batches that it predicted."""

    steps: int = 0
    """Gradient steps that it took, each for at least one image."""

    resets: int = 0
    """Batches after which it came back to the model as it was."""


STREAM_COLUMNS = {"stream": np.int64, "place": np.int64}  # only of models that adapt


class AnyPredictions:
    """The per-image columns of one cell, of whatever task.

    A task has a frozen dataclass of its own, whose arrays are stored.
    """

    keys: IntArray
    """int64 `[N]`."""

    labels: IntArray
    """int64 `[N]` or `[N, L]`."""

    logits: npt.NDArray[np.float32] | None
    """float32 `[N, C]`, or None where they are not kept."""

    classes: tuple[str, ...]
    """The names of what the logits are of."""

    covered: npt.NDArray[Any] | None = None
    """`[N]`, what of the labels is in a set; None without sets."""

    costs: Costs | None = None
    """What errors cost; None if that is unknown."""

    stream: IntArray | None = None
    place: IntArray | None = None
    passes: Passes | None = None
    """`stream`, `place`, `passes`: of a model that adapts, as in `Predictions`; else None. The
    rows of one stream follow those of another, and each has every image once, so keys repeat."""

    kind: ClassVar[TaskKind]
    """What these are predictions of."""

    stored: ClassVar[Mapping[str, type[np.generic]]]
    """The type of each column that is stored, by name; all but the logits."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def strata(self) -> IntArray:
        """int64 `[N]`: sums over the images of each stratum are quick, as its metrics need them."""
        return np.zeros(len(self), dtype=np.int64)

    @property
    def correct(self) -> BoolArray:
        """bool `[N]`: is the decision right."""
        raise NotImplementedError

    @property
    def known_confidence(self) -> npt.NDArray[np.float64]:
        """float64 `[N]`, the confidence, for what is only asked where it is known."""
        confidence: npt.NDArray[np.float64] | None = getattr(self, "confidence", None)
        assert confidence is not None, "the confidence is unknown; ask `Metric.applies`"
        return confidence

    def take(self, places: npt.NDArray[np.integer]) -> Self:
        """The columns of some images, by their places."""
        return join_columns([self], lambda columns: columns[0][places])

    @property
    def streams(self) -> tuple[Self, ...]:
        """Each stream of a model that adapts, in the order of the images; else these alone."""
        if self.stream is None:
            return (self,)
        return tuple(self.take(np.flatnonzero(self.stream == s)) for s in np.unique(self.stream))

    def take_images(self, places: npt.NDArray[np.integer]) -> Self:
        """The columns of some images, by their places, in each stream."""
        return join_streams([stream.take(places) for stream in self.streams])

    def with_columns(self, **columns: object) -> Self:
        """The same with other columns."""
        return replace(self, **columns)  # type: ignore[type-var] # every task has a dataclass


P = TypeVar("P", bound=AnyPredictions)


def join_columns(parts: Sequence[P], join: Callable[[list[npt.NDArray[Any]]], Any]) -> P:
    """Make predictions whose columns are those of several, joined column by column.

    Everything else, such as the names of classes, comes from the first.
    """
    changed: dict[str, Any] = {}
    for name, first in vars(parts[0]).items():
        columns = [vars(part)[name] for part in parts]
        if isinstance(first, np.ndarray):
            changed[name] = join(columns)
        elif isinstance(first, Mapping):
            changed[name] = {key: join([column[key] for column in columns]) for key in first}
    return parts[0].with_columns(**changed)


def join_streams(streams: Sequence[P]) -> P:
    """Join the streams of a model that adapts, or give the only predictions as they are.

    What was made of a stream, such as the rows of patients, need not know its number.
    """
    if len(streams) == 1:
        return streams[0]
    numbered = [
        stream.with_columns(stream=np.full(len(stream), number, dtype=np.int64))
        for number, stream in enumerate(streams)
    ]
    return join_columns(numbered, np.concatenate)


@dataclass(frozen=True)
class Predictions(AnyPredictions):
    """Per-image columns of one cell. Every metric is computed from these, without a model."""

    kind: ClassVar[TaskKind] = TaskKind()
    stored: ClassVar[Mapping[str, type[np.generic]]] = {
        "keys": np.int64,
        "labels": np.int64,
        "predicted": np.int64,
        "confidence": np.float64,
        "top5_correct": np.bool_,
        "nll": np.float64,
        "brier": np.float64,
        # Only for variants that make prediction sets.
        "set_size": np.int64,
        "covered": np.bool_,
        **STREAM_COLUMNS,
    }

    keys: IntArray
    labels: IntArray
    predicted: IntArray
    """`keys`, `labels`, `predicted`: int64 `[N]`."""

    confidence: npt.NDArray[np.float64] | None
    """float64 `[N]`, the largest softmax probability; None if only the predicted class is known."""

    top5_correct: BoolArray | None
    """Bool `[N]`: are fewer than five logits greater than the label's."""

    nll: npt.NDArray[np.float64] | None
    """float64 `[N]`, minus the log of the label's probability, in nats."""

    brier: npt.NDArray[np.float64] | None
    """float64 `[N]`, squared distance of the probabilities to the one-hot label, in [0, 2].

    `top5_correct`, `nll`, `brier`: None if the probabilities of other classes are unknown."""

    logits: npt.NDArray[np.float32] | None
    """float32 `[N, classes]`, or None for more than 100 classes."""

    classes: tuple[str, ...]
    """Class names in label order."""

    ordered: bool = False
    """Whether the classes are in an order, such as grades of a disease."""

    set_size: IntArray | None = None
    """int64 `[N]`, the number of classes in each prediction set; None without sets."""

    covered: BoolArray | None = None
    """Bool `[N]`: is the label in the prediction set; None without sets."""

    stream: IntArray | None = None
    """int64 `[N]`, the number of the stream that the image was seen in; None for a model that does
    not adapt."""

    place: IntArray | None = None
    """int64 `[N]`, the image's place in its stream, from 0 on; None likewise."""

    passes: Passes | None = None
    """What adapting to the images has cost; None likewise."""

    ood_scores: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """float32 `[N]` for each score of `OOD_SCORES` that was computed, by name."""

    costs: Costs | None = None
    """What each decision costs for each true class, and maybe a review; None if it is unknown."""

    @property
    def strata(self) -> IntArray:
        """int64 `[N]`, the labels: in their order, the images of a class are adjacent."""
        return self.labels

    @property
    def correct(self) -> BoolArray:
        """bool `[N]`: is the predicted class the label."""
        return self.predicted == self.labels


def has_review(costs: Costs | None) -> bool:
    """Tell whether costs have a last column with the price of a review.

    >>> has_review(((0, 1), (20, 0))), has_review(((0, 1, 3), (20, 0, 3)))
    (False, True)
    """
    return costs is not None and len(costs[0]) > len(costs)


class Score(NamedTuple):
    """A value with its 95 % interval and the number of images that it was computed from.

    `low` and `high` are NaN if the value is NaN, or if the images have too few errors for an
    interval.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def too_few(self) -> bool:
        """Tell whether there are too few errors for an interval that covers the true value.

        >>> Score(0.99, math.nan, math.nan, 200).too_few
        True
        """
        return math.isnan(self.low) and not math.isnan(self.value)


class Scores(dict[str, Score]):
    """Scores by the name of the metric, which show themselves as a table in a notebook.

    >>> scores = Scores(accuracy=Score(0.9, 0.85, 0.94, 200))
    >>> scores["accuracy"].value
    0.9
    >>> "<td>0.9</td><td>0.85</td><td>0.94</td><td>200</td>" in scores._repr_html_()
    True
    """

    def _repr_html_(self) -> str:
        rows = []
        for name, score in self.items():
            value, *ends = (f"{number:.4g}" for number in score[:3])
            if score.too_few:
                ends = ["too few", "errors"]
            rows.append([name, value, *ends, str(score.n)])
        return html_table(["metric", "value", "low", "high", "n"], rows)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table for a notebook, whatever the texts contain.

    >>> html_table(["a"], [["<b>"]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def format_id(name: str, parameters: Mapping[str, Parameter]) -> str:
    """Write `name[,parameter=value...]`.

    >>> format_id("gaussian_blur", {"sigma": 0.7, "kernel_size": 5})
    'gaussian_blur,sigma=0.7,kernel_size=5'
    """
    return ",".join([name, *(f"{key}={format_number(value)}" for key, value in parameters.items())])


def format_number(value: Parameter) -> str:
    """Write a number as the shortest text that reads back as the same number.

    >>> format_number(2.0), format_number(0.1), format_number(1 / 3), format_number("fog")
    ('2', '0.1', '0.3333333333333333', 'fog')
    """
    return str(value).removesuffix(".0")


def format_255ths(value: float | str) -> str:
    """Write a budget as `N/255`, as papers do; "" if it is no such fraction or a short decimal.

    >>> format_255ths(8 / 255), format_255ths("0.00784313725490196"), format_255ths(
    ...     0.1
    ... ), format_255ths(0.2)
    ('8/255', '2/255', '', '')
    """
    steps = round(float(value) * 255, 9)
    is_long = len(format_number(float(value))) > len("0.0000")
    return f"{steps:.0f}/255" if is_long and steps >= 1 and steps.is_integer() else ""


def check_images(images: torch.Tensor) -> None:
    """Raise `InputError` unless these are 8-bit images `[N, 3, H, W]`."""
    import torch

    check_type(images, torch.Tensor, "images must be a torch.Tensor, uint8 [N, 3, H, W]")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        actual = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"images must be uint8 [N, 3, H, W], found {actual}")

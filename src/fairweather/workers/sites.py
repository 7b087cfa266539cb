"""Steps on machines that do not see the run folder, however these are reached.

A site is the remote side: a process with a scratch folder. It gets the files that steps read, does
the steps, and returns the files that they wrote. Only the driver writes the run folder.
"""

from __future__ import annotations

import importlib.metadata
import platform
import queue
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch

from fairweather.devices import choose_workers, count_cores
from fairweather.errors import InputError
from fairweather.progress import Event
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import package_versions
from fairweather.steps.plan import (
    FitStep,
    ForwardPass,
    Plan,
    PredictStep,
    PretrainStep,
    Step,
    TrainStep,
)
from fairweather.steps.training import STATE
from fairweather.steps.worker import Worker, get_splits
from fairweather.types.measurement import Dataset, Images, TextArray
from fairweather.types.record import RECORD, step_file
from fairweather.workers.logs import Failure
from fairweather.workers.schedule import StepsOutcome, list_written, perform_locally

STATE_INTERVAL = 180.0  # seconds between two states of a training that travel to the driver
MAX_LOG = 2**20  # characters of what a step printed, the last ones
# Besides `package_versions`: packages whose versions change the bytes of files.
FURTHER_PACKAGES = ("scipy", "pandas", "pyarrow", "safetensors")


def collect_versions() -> dict[str, str]:
    """The versions, in this process, of everything that results depend on."""
    further = {name: importlib.metadata.version(name) for name in FURTHER_PACKAGES}
    facts = {"Python": platform.python_version(), "opencv": cv2.__version__}
    return {**facts, **package_versions(), **further}


def check_versions(theirs: Mapping[str, str], host: str) -> None:
    """Raise `InputError` if a site has another version of something that results depend on."""
    for name, ours in collect_versions().items():
        if (other := theirs.get(name, "none")) != ours:
            raise InputError(
                f"{host} has another version of {name} than this machine: {other}, here {ours}; "
                "results depend on it, so install the same one"
            )


# ---------------------------------------------------------------- what travels


class SiteSettings(NamedTuple):
    """The settings that a site starts with."""

    plan: Plan
    """The data sets and the models; steps come later."""

    threads: int
    """Of each step."""

    device: str
    offline: bool
    workers: int | None
    """As in `devices.choose_workers`."""

    networks: int | None
    """`device`, `offline`, `networks`: as in `Worker`."""

    jobs: int
    """Number of sites on a machine."""

    state_sent: float
    """Seconds between two states of a training that are sent."""


class SiteProduct(NamedTuple):
    """The results and files of steps that were done together."""

    outcome: StepsOutcome
    """The results."""

    files: dict[str, bytes]
    """What they wrote, by name."""


class MissingData(NamedTuple):
    """The steps could not begin, because a data set is not available here."""

    data: str
    """Its name in the plan."""

    reason: str
    """A sentence."""


class StateUpdate(NamedTuple):
    """The state of an unfinished training, and the name of its file."""

    name: str
    content: bytes


PackedPart: TypeAlias = tuple[
    npt.NDArray[np.uint8], torch.Tensor, torch.Tensor, tuple[str, ...], TextArray | None
]


class PackedData(NamedTuple):
    """A data set whose pixels all processes of a machine can share: NumPy arrays."""

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: Mapping[str, object]
    task: str
    """`name`, `mean`, `std`, `notes`, `task`: as in `Dataset`."""

    parts: Mapping[str, PackedPart]
    """Pixels, labels, keys, classes and names of files of each split."""

    @classmethod
    def pack(cls, dataset: Dataset) -> PackedData:
        """Pack a data set."""
        parts = {
            name: (
                images.images.numpy(),
                images.labels,
                images.keys,
                images.classes,
                images.names,
            )
            for name, images in get_splits(dataset).items()
        }
        notes = dict(dataset.notes)
        return cls(dataset.name, dataset.mean, dataset.std, notes, dataset.task, parts)

    @property
    def bytes(self) -> int:
        """The size of all pixels."""
        return sum(pixels.nbytes for pixels, *_ in self.parts.values())

    def dataset(self) -> Dataset:
        """The data set again; its pixels are not copied, and nobody writes to them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they cannot be written to
            splits = {
                name: Images(torch.from_numpy(part[0]), *part[1:])
                for name, part in self.parts.items()
            }
        train, val, test = splits.get("train"), splits.get("val"), splits["test"]
        return Dataset(self.name, train, val, test, self.mean, self.std, self.notes, self.task)


SiteAnswer = SiteProduct | MissingData | Failure
NewsItem = Event | StateUpdate


# ---------------------------------------------------------------- the far side


class News:
    """News about steps in progress, from the thread that does them to the one that asks."""

    def __init__(self) -> None:
        self._items = queue.SimpleQueue[NewsItem]()
        self.add = self._items.put

    def take(self, timeout: float = 0.0, pause: float = 0.0) -> list[NewsItem]:
        """Return all news; if there is none, wait for some, and then briefly for more."""
        items = []
        with suppress(queue.Empty):
            items.append(self._items.get(timeout=timeout))
            time.sleep(pause)
            while True:
                items.append(self._items.get_nowait())
        return items


class ScratchFolder(RunFolder):
    """A run folder that contains only what steps read.

    Args:
        path: the folder.
        when_state: called with the state of a training if at least `seconds` have passed since the
            last one, or since the training began.
        seconds: see `when_state`.
    """

    def __init__(
        self, path: Path, when_state: Callable[[StateUpdate], None], seconds: float
    ) -> None:
        super().__init__(path)
        self._when_state, self._seconds = when_state, seconds
        self._versions: dict[str, str] = {}
        self.sent = time.monotonic()

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file, and pass on the state of a training."""
        super().write(name, content)
        if not name.endswith(f"/{STATE}") or time.monotonic() - self.sent < self._seconds:
            return
        assert isinstance(content, bytes)
        self._when_state(StateUpdate(name, content))
        self.sent = time.monotonic()

    def hold(self, versions: Mapping[str, str], fetch: Callable[[str], bytes]) -> None:
        """Keep files of these versions and no others; missing ones are fetched."""
        kept = {name for name, version in self._versions.items() if versions.get(name) == version}
        for path in self.path.rglob("*"):
            if path.is_file() and path.relative_to(self.path).as_posix() not in kept:
                path.unlink()
        self._versions, self.sent = dict(versions), time.monotonic()
        self.__dict__.pop("record", None)
        for name in versions:
            if not self.file(name).is_file():
                super().write(name, fetch(name))


class Site:
    """Does steps in a scratch folder.

    Args:
        settings: the settings that it starts with.
        folder: a folder of its own.
    """

    def __init__(self, settings: SiteSettings, folder: Path) -> None:
        self.settings, self.news = settings, News()
        self.scratch = ScratchFolder(folder, self.news.add, settings.state_sent)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.setNumThreads(settings.threads)  # sites share the cores
        workers, device = settings.workers or 0, torch.device(settings.device)
        if device.type != "cpu":
            workers = choose_workers(device, settings.workers, min(settings.jobs, count_cores()))
        self.worker = Worker(
            settings.plan,
            device=settings.device,
            offline=settings.offline,
            progress=self._tell_loading,
            networks=settings.networks,
            jobs=settings.jobs,
            jobs_on_device=1 if settings.device == "cuda" else settings.jobs,
            workers=workers,
        )

    def do(
        self, steps: Sequence[Step], versions: Mapping[str, str], fetch: Callable[[str], bytes]
    ) -> SiteAnswer:
        """Do steps together.

        Args:
            steps: what to do.
            versions: of all files that they read, by name.
            fetch: gives the content of such a file.
        """
        try:
            self.scratch.hold(versions, fetch)
            for name in dict.fromkeys(name for step in steps for name in step.data):
                try:
                    self.worker.dataset(name)
                except (ValueError, OSError) as error:
                    return MissingData(name, str(error))
            outcome = perform_locally(steps, self.worker, self.scratch, self.news.add)
            files = {
                name: self.scratch.file(name).read_bytes()
                for step, done in zip(steps, outcome.done, strict=True)
                for name in list_written(step, done, self.scratch)
            }
            return SiteProduct(outcome, files)
        except Exception as error:  # raised again in the driver
            return Failure.from_error(error)

    def _tell_loading(self, event: Event) -> None:
        if not event.line:  # the driver has already said what is said once
            self.news.add(event)


# ---------------------------------------------------------------- the near side


def is_short(step: Step) -> bool:
    """Whether the driver does a step itself: it is short, and reads or writes many files."""
    match step:
        case PredictStep(how=how):
            return not isinstance(how, ForwardPass)
        case FitStep(stored=stored):
            return stored
        case TrainStep(tries=tries):
            return bool(tries)  # it copies one of the tries
    return step.disposable


def list_input_files(steps: Sequence[Step], run: RunFolder) -> dict[str, str]:
    """The files that a site needs to do steps, each with its version."""
    names = [RECORD]
    for step in steps:
        names += [*map(step_file, step.needs), *step.reads]
        if (state := training_state_file(step)) is not None:
            names.append(state)
    versions = {}
    for name in dict.fromkeys(names):
        path = run.file(name)
        if (
            path.is_file()
        ):  # the state of a training, for example, exists only after an interruption
            facts = path.stat()
            versions[name] = f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"
    return versions


def training_state_file(step: Step) -> str | None:
    """The file with the state of an unfinished training; None for another step."""
    return f"{step.folder}/{STATE}" if isinstance(step, TrainStep | PretrainStep) else None

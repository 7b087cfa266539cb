"""Steps that are done on machines that do not see the run folder, however these are reached.

A site is the far side: a process with a scratch folder, which gets the files that steps read, does
the steps there, and gives back the files that they wrote. The driver is the near side: only it
writes the run folder. Whatever connects the two carries orders, files, answers and news.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2

from fairweather.devices import cores, workers_for
from fairweather.errors import InputError
from fairweather.executors.failed import Failed
from fairweather.executors.local import perform_here
from fairweather.executors.logs import appending, log_of
from fairweather.executors.schedule import left_by
from fairweather.progress import Event
from fairweather.record import RECORD, Machine, step_file
from fairweather.runs import RunFolder, this_machine
from fairweather.steps import (
    Done,
    Plan,
    Predicted,
    PredictStep,
    Step,
    Worker,
    perform_shard,
    store_shards,
)
from fairweather.steps.plan import FitStep, Forward, PretrainStep, TrainStep
from fairweather.steps.training import STATE
from fairweather.steps.worker import using_threads
from fairweather.streams import WHOLE, Shard
from fairweather.types import Dataset

STATE_SENT = 180.0  # seconds between two states of a training that travel to the driver
SHARD_WORK = 4000  # images times passes; less is not worth a shard of its own
LOG_KEPT = 2**20  # characters of what a step printed, the last ones
# Other versions of these give other numbers, or other bytes in a file.
VERSIONED = (
    "fairweather",
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "pillow",
    "safetensors",
)


def versions() -> dict[str, str]:
    """The versions, in this process, of what results depend on."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    return {"Python": platform.python_version(), "opencv": cv2.__version__, **found}


# ---------------------------------------------------------------- what travels


class SiteSettings(NamedTuple):
    """What a site is started with.

    Attributes:
        plan: the data sets and the model; its steps come with the orders.
        threads: of each step.
        device, offline, networks: as in `Worker`.
        workers: as in `devices.workers_for`.
        jobs: number of sites on a machine.
        state_sent: seconds between two states of a training that are sent.
    """

    plan: Plan
    threads: int
    device: str
    offline: bool
    workers: int | None
    networks: int | None
    jobs: int
    state_sent: float


class Order(NamedTuple):
    """Steps to be done together; a shard of their batches if they are predictions."""

    steps: tuple[Step, ...]
    shard: Shard = WHOLE

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        more = f" and {len(self.steps) - 1} more" if len(self.steps) > 1 else ""
        part = f" (part {self.shard.number + 1} of {self.shard.of})" if self.shard.of > 1 else ""
        return f"{self.steps[0].label}{more}{part}"


class Product(NamedTuple):
    """What came of an order.

    Attributes:
        done: the result of each step; none of a shard.
        files: what the steps wrote, by name; nothing of a shard.
        predicted: of a shard, the predictions of each step.
        machine: where it was done.
        seconds: how long it took.
        printed: what was printed meanwhile.
    """

    done: tuple[Done, ...]
    files: dict[str, bytes]
    predicted: tuple[Predicted, ...]
    machine: Machine
    seconds: float
    printed: str = ""


class Lacking(NamedTuple):
    """The order could not be begun, since a data set is not to be had here.

    Attributes:
        data: its name in the plan.
        why: a sentence.
    """

    data: str
    why: str


class Broken(NamedTuple):
    """The order failed; `printed` is what was printed meanwhile."""

    error: Failed
    printed: str


class SentState(NamedTuple):
    """The state of an unfinished training, and the name of its file."""

    name: str
    content: bytes


Answer = Product | Lacking | Broken
NewsItem = Event | SentState


# ---------------------------------------------------------------- the far side


class News:
    """What happens while an order is done, from the thread that does it to the one that asks."""

    def __init__(self) -> None:
        self._items: deque[NewsItem] = deque()
        self._changed = threading.Condition()

    def add(self, item: NewsItem) -> None:
        """Add the latest."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def take(self, timeout: float = 0.0, gathered: float = 0.0) -> list[NewsItem]:
        """Give all that is new; if there is nothing, wait for it, and then for more."""
        with self._changed:
            self._changed.wait_for(lambda: self._items, timeout)
        time.sleep(gathered)
        with self._changed:
            found = list(self._items)
            self._items.clear()
            return found


class Scratch(RunFolder):
    """A run folder that contains only what the steps of an order read.

    Args:
        path: the folder.
        when_state: called with the state of a training if it is written at least so many seconds
            after the last one, or after the training began.
        seconds: how many.
    """

    def __init__(self, path: Path, when_state: Callable[[SentState], None], seconds: float) -> None:
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
        self._when_state(SentState(name, content))
        self.sent = time.monotonic()

    def lacks(self, versions: Mapping[str, str]) -> list[str]:
        """Remove all files but those of these versions, and name those that are not there."""
        there = {
            name
            for name, each in self._versions.items()
            if versions.get(name) == each and self.file(name).is_file()
        }
        self.__dict__.pop("record", None)
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(self.path).as_posix() not in there:
                path.unlink()
        self._versions = {name: self._versions[name] for name in there}
        return [name for name in versions if name not in there]

    def receive(self, name: str, version: str, content: bytes) -> None:
        """Write a file that was sent."""
        super().write(name, content)
        self._versions[name] = version


class Site:
    """Does orders in a scratch folder, one at a time.

    Args:
        settings: what it is started with.
        folder: an empty folder of its own.
        log: a file that receives what this process prints; None if nobody reads it.
    """

    def __init__(self, settings: SiteSettings, folder: Path, log: Path | None = None) -> None:
        self.settings, self.log, self.news = settings, log, News()
        self.scratch = Scratch(folder, self.news.add, settings.state_sent)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.setNumThreads(settings.threads)  # sites share the cores
        self.worker = Worker(
            settings.plan,
            device=settings.device,
            offline=settings.offline,
            progress=self._tell_loading,
            networks=settings.networks,
            jobs=1 if settings.device == "cuda" else settings.jobs,
            workers=self._workers(),
        )
        with using_threads(settings.threads):
            self.machine = this_machine(self.worker.device)

    def do(
        self, order: Order, versions: Mapping[str, str], fetch: Callable[[str], bytes]
    ) -> Answer:
        """Do an order.

        Args:
            order: what to do.
            versions: of all files that its steps read, by name.
            fetch: gives the content of such a file.
        """
        if self.log is not None:
            with self.log.open("r+b") as log:
                log.truncate(0)
        try:
            for name in self.scratch.lacks(versions):
                self.scratch.receive(name, versions[name], fetch(name))
            lacking = self._lacking(order)
            return lacking or self._do(order)
        except Exception as error:  # raised again where the order came from
            return Broken(Failed.of(error), self.printed())

    def give(self, name: str, dataset: Dataset) -> None:
        """Take a data set that was sent, since it is not to be had here."""
        self.worker.take_data(name, dataset)

    def printed(self) -> str:
        """What was printed since the order began."""
        if self.log is None:
            return ""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_KEPT:]

    def _do(self, order: Order) -> Product:
        self.scratch.sent, start = time.monotonic(), time.perf_counter()
        if order.shard.of > 1:
            steps = [step for step in order.steps if isinstance(step, PredictStep)]
            found = perform_shard(steps, self.worker, self.scratch, self.news.add, order.shard)
            seconds = time.perf_counter() - start
            return Product((), {}, tuple(found), self.machine, seconds, self.printed())
        outcome = perform_here(order.steps, self.worker, self.scratch, self.news.add)
        files = {
            name: self.scratch.file(name).read_bytes()
            for step, done in zip(order.steps, outcome.done, strict=True)
            for name in left_by(step, done, self.scratch)
        }
        seconds = outcome.seconds
        return Product(tuple(outcome.done), files, (), outcome.machine, seconds, self.printed())

    def _lacking(self, order: Order) -> Lacking | None:
        """The first data set that the steps need and that cannot be opened here."""
        for name in dict.fromkeys(name for step in order.steps for name in step.data):
            try:
                self.worker.dataset(name)
            except (ValueError, OSError) as error:
                return Lacking(name, str(error))
        return None

    def _workers(self) -> int:
        device = self.settings.device
        if self.settings.workers is not None or device == "cpu":
            return self.settings.workers or 0
        import torch

        return workers_for(torch.device(device), None, min(self.settings.jobs, cores()))

    def _tell_loading(self, event: Event) -> None:
        if not event.line:  # what is to be said once was said by the driver
            self.news.add(event)


# ---------------------------------------------------------------- the near side


def is_light(step: Step) -> bool:
    """Whether the driver does a step itself: it is short, and reads or writes many files."""
    match step:
        case PredictStep(how=how):
            return not isinstance(how, Forward)
        case FitStep(stored=stored):
            return stored
        case TrainStep(tries=tries):
            return bool(tries)  # it copies one of them
    return step.disposable


def files_for(order: Order, run: RunFolder) -> dict[str, str]:
    """The files that a site needs to do an order, each with its version."""
    names = [RECORD]
    for step in order.steps:
        names += [*map(step_file, step.needs), *step.reads]
        if (state := state_of(step)) is not None:
            names.append(state)
    found = {}
    for name in dict.fromkeys(names):
        path = run.file(name)
        if path.is_file():  # a training has a state only if it was interrupted, for example
            facts = path.stat()
            found[name] = f"{facts.st_ino}-{facts.st_mtime_ns}-{facts.st_size}"
    return found


def state_of(step: Step) -> str | None:
    """The file with the state of an unfinished training; None for another step."""
    return f"{step.folder}/{STATE}" if isinstance(step, TrainStep | PretrainStep) else None


def shards_of(order: Order, most: int, images: int) -> list[Order]:
    """Divide an order of predictions among at most so many sites, if this is worth it.

    Args:
        order: undivided.
        most: number of sites.
        images: number of images that its steps predict.
    """
    first = order.steps[0]
    whole = (isinstance(step, PredictStep) and step.is_whole for step in order.steps)
    if not isinstance(first, PredictStep) or order.shard.of > 1 or any(whole):
        return [order]
    batches = -(-images // first.batch_size)
    work = sum(step.work for step in order.steps)
    of = min(most, batches, work // SHARD_WORK)
    if of < 2:
        return [order]
    return [order._replace(shard=Shard(number, of)) for number in range(of)]


@dataclass
class Joining:
    """Gathers the products of the shards of predictions, until all are there."""

    parts: dict[tuple[str, ...], dict[int, Product]] = field(default_factory=dict)

    def add(self, order: Order, product: Product) -> list[Product] | None:
        """Add a product; gives all of them, in order, once all shards are there."""
        key = tuple(step.id for step in order.steps)
        found = self.parts.setdefault(key, {})
        found[order.shard.number] = product
        if len(found) < order.shard.of:
            return None
        del self.parts[key]
        return [found[number] for number in range(order.shard.of)]


def store(order: Order, products: Sequence[Product], run: RunFolder) -> list[Done]:
    """Write what came of an order, or of all its shards, into the run folder."""
    if order.shard.of == 1:
        (product,) = products
        for name, content in product.files.items():
            run.write(name, content)
        return list(product.done)
    predictions = [step for step in order.steps if isinstance(step, PredictStep)]
    return [
        store_shards(step, [product.predicted[number] for product in products], run)
        for number, step in enumerate(predictions)
    ]


class StepLog:
    """The log of an order in the run folder: where it was tried, and what was printed."""

    def __init__(self, order: Order, run: RunFolder) -> None:
        self.run, self.name = run, log_of(order.steps[0].id)
        self.path = run.file(self.name)
        self.title = order.title
        self.steps = [step.id for step in order.steps]

    def begin(self, where: str) -> None:
        """Say where the order is done now."""
        more = "".join(f"\n  {step}" for step in self.steps[1:])
        self.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.title} on {where}{more}")

    def add(self, text: str) -> None:
        """Append lines."""
        if not text.strip():
            return
        with appending(self.run, self.name) as log:
            log.write(text.rstrip() + "\n")


def check_versions(theirs: Mapping[str, str], host: str) -> None:
    """Raise `InputError` if a site has another version of something that results depend on."""
    for name, ours in versions().items():
        if (found := theirs.get(name, "none")) != ours:
            raise InputError(
                f"{host} has another version of {name} than this machine: {found}, here {ours}; "
                "results depend on it, so install the same one"
            )

"""A run to do, as requests hand it to an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fairweather.files.tables import rows_to_csv
from fairweather.progress import Notify, silent
from fairweather.runs.folder import RunFolder, StoredGroups
from fairweather.steps.ledger import begin_run
from fairweather.steps.measurement import OOD_DATA
from fairweather.steps.plan import DATA, NATURAL_DATA, Plan
from fairweather.steps.worker import Worker
from fairweather.types.measurement import AnyPredictions, Dataset, Images
from fairweather.types.record import NATURAL, TEST, VAL, FrozenRecord, RunRecord, image_list
from fairweather.workers.options import Sharing


def write_image_lists(folder: RunFolder, datasets: Mapping[str, Dataset]) -> None:
    """Write `images/PART.csv` for all predicted images that have their own files.

    No step reads these lists, so they change no fingerprint. A correct list is not written again.

    Args:
        folder: the run folder.
        datasets: the data sets of the run, by their names in its plan.
    """
    for name, dataset in datasets.items():
        parts: dict[str, Images | None] = {}
        if name == DATA:
            parts = {VAL: dataset.val, TEST: dataset.test}
        elif name.startswith(OOD_DATA):
            parts = {name.removeprefix(OOD_DATA): dataset.test}
        elif name.startswith(NATURAL_DATA):
            parts = {f"{NATURAL}{name.removeprefix(NATURAL_DATA)}": dataset.test}
        for part, images in parts.items():
            if images is None or images.names is None:
                continue
            rows = zip(images.keys.tolist(), images.names, strict=True)
            content = rows_to_csv([("keys", "file"), *rows]).encode()
            path = folder.file(image_list(part))
            if not path.is_file() or path.read_bytes() != content:
                folder.write(image_list(part), content)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The settings of a `Worker` that can be sent to any process."""

    device: str
    offline: bool
    workers: int
    networks: int | None
    jobs: int = 1
    jobs_on_device: int = 1


class Assignment(FrozenRecord):
    """The message to another process that sees the run folder."""

    plan: Plan
    record: RunRecord
    """`plan`, `record`: the steps, and the record that the run must have."""

    folder: str
    """The run folder."""

    settings: WorkerSettings
    """Those of its worker."""

    @property
    def threads(self) -> int:
        """Threads of every step."""
        return self.plan.steps[0].threads

    def worker(self, tell: Notify = silent) -> Worker:
        """Make the worker of that process; `tell` is called while data are loaded."""
        return Worker(self.plan, progress=tell, **vars(self.settings))


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run to do."""

    path: Path
    """The run folder."""

    plan: Plan
    record: RunRecord
    """`plan`, `record`: the steps, and the record of the run."""

    device: torch.device
    """Of the steps; see `fairweather.workers.executors.choose_device`."""

    offline: bool
    """Never use the network."""

    datasets: Mapping[str, Dataset]
    replace: bool = False
    """Replace finished work that was made with other settings."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Further files that describe the run, by name."""

    check: Callable[[RunFolder], None] = lambda _: None
    """Raises `InputError` for the folder of another run, unless its work is replaced."""

    models: Mapping[str, nn.Module] = field(default_factory=dict)
    given: Callable[[str], AnyPredictions] | None = None
    groups: Mapping[str, StoredGroups] = field(default_factory=dict)
    """`datasets`, `models`, `given`, `groups`: what this process has opened, as in `Worker`. Other
    processes open the same by the names in the plan."""

    def prepare(self, folder: RunFolder, others: bool) -> None:
        """Begin the run in its folder; `others` says whether other processes already work in it."""
        record = self.record
        if others and folder.has_record:  # keep where and when the run began
            record = record.model_copy(update={"provenance": folder.record.provenance})
            if record == folder.record:
                return
        if not self.replace:
            self.check(folder)
        begin_run(self.plan, folder, record, replace=self.replace)
        for name, text in self.files.items():
            folder.write(name, text)
        write_image_lists(folder, self.datasets)

    def settings(
        self, sharing: Sharing, *, workers: int, jobs: int = 1, on_device: int = 1
    ) -> WorkerSettings:
        """The settings of a worker.

        Args:
            sharing: says how many models are kept in memory.
            workers: processes that shift images ahead of it.
            jobs: how many such workers share the memory of this machine.
            on_device: how many of them share the memory of one device.
        """
        return WorkerSettings(
            device=str(self.device),
            offline=self.offline,
            workers=workers,
            networks=sharing.models_in_memory,
            jobs=jobs,
            jobs_on_device=on_device,
        )

    def worker(self, settings: WorkerSettings, tell: Notify) -> Worker:
        """Make the worker of this process; `tell` is called while data are loaded."""
        return Worker(
            self.plan,
            progress=tell,
            datasets=self.datasets,
            models=self.models,
            given=self.given,
            groups=self.groups,
            **vars(settings),
        )

    def assign(self, settings: WorkerSettings) -> Assignment:
        """Make the message to another process."""
        return Assignment(
            plan=self.plan,
            record=self.record,
            folder=str(self.path.absolute()),
            settings=settings,
        )

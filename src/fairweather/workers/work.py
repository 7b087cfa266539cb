"""A run that is to be done, as a front end hands it to an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fairweather.files.tables import rows_to_csv
from fairweather.progress import Notify, silent
from fairweather.runs.folder import RunFolder
from fairweather.steps.ledger import begin_run
from fairweather.steps.measurement import OOD_DATA
from fairweather.steps.plan import DATA, NATURAL_DATA, Plan
from fairweather.steps.worker import Worker
from fairweather.types.measurement import AnyPredictions, Dataset, Images
from fairweather.types.record import NATURAL, TEST, VAL, FrozenRecord, RunRecord, image_list
from fairweather.workers.options import Sharing


def write_image_lists(folder: RunFolder, datasets: Mapping[str, Dataset]) -> None:
    """Write `images/PART.csv` for everything that is predicted and has files of its own.

    No step reads these lists, so they change no fingerprint. A list that is right stays as it is.

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
    """The settings of a `Worker` that any process can be told."""

    device: str
    offline: bool
    workers: int
    networks: int | None
    jobs: int = 1


class Assignment(FrozenRecord):
    """What another process that sees the run folder is told.

    Attributes:
        plan, record: what is done, and the record that the run must have.
        folder: the run folder.
        settings: those of its worker.
    """

    plan: Plan
    record: RunRecord
    folder: str
    settings: WorkerSettings

    @property
    def threads(self) -> int:
        """Threads of every step."""
        return self.plan.steps[0].threads

    def worker(self, tell: Notify = silent) -> Worker:
        """The worker of that process; `tell` hears what happens while data are loaded."""
        return Worker(self.plan, progress=tell, **vars(self.settings))


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run that is to be done.

    Attributes:
        path: the run folder.
        plan, record: what is done, and what describes it.
        device: of the steps; see `fairweather.workers.executors.choose_device`.
        offline: never use the network.
        replace: replace finished work that was made with other settings.
        files: further files that describe the run, by name.
        check: raises `InputError` for a folder of another run, unless its work is replaced.
        datasets, models, given: what this process has opened, as in `Worker`. Other processes open
            the same by the names in the plan.
    """

    path: Path
    plan: Plan
    record: RunRecord
    device: torch.device
    offline: bool
    datasets: Mapping[str, Dataset]
    replace: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[RunFolder], None] = lambda _: None
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    given: Callable[[str], AnyPredictions] | None = None

    def prepare(self, folder: RunFolder, others: bool) -> None:
        """Begin the run in its folder; `others` says whether processes work in it already."""
        record = self.record
        if others and folder.has_record:  # where and when the run was begun stays as it is
            record = record.model_copy(update={"provenance": folder.record.provenance})
            if record == folder.record:
                return
        if not self.replace:
            self.check(folder)
        begin_run(self.plan, folder, record, replace=self.replace)
        for name, text in self.files.items():
            folder.write(name, text)
        write_image_lists(folder, self.datasets)

    def settings(self, sharing: Sharing, *, workers: int, jobs: int = 1) -> WorkerSettings:
        """The settings of a worker.

        Args:
            sharing: says how many models are kept in memory.
            workers: processes that shift images ahead of it.
            jobs: how many such workers share the memory of this machine.
        """
        return WorkerSettings(
            device=str(self.device),
            offline=self.offline,
            workers=workers,
            networks=sharing.models_in_memory,
            jobs=jobs,
        )

    def worker(self, settings: WorkerSettings, tell: Notify) -> Worker:
        """The worker of this process; `tell` hears what happens while data are loaded."""
        return Worker(
            self.plan,
            progress=tell,
            datasets=self.datasets,
            models=self.models,
            given=self.given,
            **vars(settings),
        )

    def assign(self, settings: WorkerSettings) -> Assignment:
        """What another process is told."""
        return Assignment(
            plan=self.plan,
            record=self.record,
            folder=str(self.path.absolute()),
            settings=settings,
        )

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

# ---------------------------------------------------------------- the lists in a run folder that na


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
            if images is not None and images.names is not None:
                _write(folder, image_list(part), images)


def _write(folder: RunFolder, name: str, images: Images) -> None:
    assert images.names is not None
    rows = zip(images.keys.tolist(), images.names, strict=True)
    content = rows_to_csv([("keys", "file"), *rows]).encode()
    path = folder.file(name)
    if not path.is_file() or path.read_bytes() != content:
        folder.write(name, content)


# ---------------------------------------------------------------- a run that is to be done, as a fr


class Assignment(FrozenRecord):
    """What another process that sees the run folder is told: the run, and the settings of a worker.

    Attributes:
        plan, record: what is done, and the record that the run must have.
        folder: the run folder.
        device, offline, workers, networks, jobs: as in `Worker`.
    """

    plan: Plan
    record: RunRecord
    folder: str
    device: str
    offline: bool
    workers: int
    networks: int | None
    jobs: int

    def worker(self, tell: Notify = silent) -> Worker:
        """What does steps in that process; `tell` is called with what happens while data load."""
        return Worker(
            self.plan,
            device=self.device,
            offline=self.offline,
            progress=tell,
            workers=self.workers,
            networks=self.networks,
            jobs=self.jobs,
        )


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
        kept, known = self.record, others and folder.has_record
        if known:  # where and when the run was begun stays as it is
            kept = kept.model_copy(update={"provenance": folder.record.provenance})
            if kept == folder.record:
                return
        if not self.replace:
            self.check(folder)
        begin_run(self.plan, folder, kept, replace=self.replace)
        for name, text in self.files.items():
            folder.write(name, text)
        write_image_lists(folder, self.datasets)

    def worker(self, sharing: Sharing, tell: Notify, *, workers: int, jobs: int = 1) -> Worker:
        """What does steps in this process.

        Args:
            sharing: has the number of networks.
            tell: called with what happens while data are loaded.
            workers: processes that shift images ahead of it.
            jobs: how many such workers share the memory of this machine.
        """
        return Worker(
            self.plan,
            device=str(self.device),
            offline=self.offline,
            progress=tell,
            datasets=self.datasets,
            models=self.models,
            workers=workers,
            networks=sharing.networks,
            jobs=jobs,
            given=self.given,
        )

    def assigned(
        self, sharing: Sharing, *, workers: int, jobs: int = 1, device: str = ""
    ) -> Assignment:
        """What another process is told; its device may be another one of the same kind."""
        return Assignment(
            plan=self.plan,
            record=self.record,
            folder=str(self.path.absolute()),
            device=device or str(self.device),
            offline=self.offline,
            workers=workers,
            networks=sharing.networks,
            jobs=jobs,
        )

"""A run that is to be done, as a front end hands it to an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fairweather.executor_options import Sharing
from fairweather.progress import Notify, silent
from fairweather.record import Frozen, RunRecord
from fairweather.runs import RunFolder
from fairweather.steps import Plan, Worker
from fairweather.steps.image_lists import write_image_lists
from fairweather.steps.progressing import begin
from fairweather.types import AnyPredictions, Dataset


class Assigned(Frozen):
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
        device: of the steps; see `fairweather.executors.device_of`.
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
        begin(self.plan, folder, kept, replace=self.replace)
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
    ) -> Assigned:
        """What another process is told; its device may be another one of the same kind."""
        return Assigned(
            plan=self.plan,
            record=self.record,
            folder=str(self.path.absolute()),
            device=device or str(self.device),
            offline=self.offline,
            workers=workers,
            networks=sharing.networks,
            jobs=jobs,
        )

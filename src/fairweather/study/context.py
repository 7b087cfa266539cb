"""What the steps of a run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fairweather.runs import RunFolder
from fairweather.study.schema import Study
from fairweather.types import Dataset


class Event(NamedTuple):
    """Progress: how much of a task is done, and a word on how it goes."""

    task: str
    done: int
    total: int
    note: str = ""


def notify_loading(
    notify: Callable[[Event], None], task: str, done: int, total: int | None
) -> None:
    """Turn what the loading of data reports into an event; downloads are told in megabytes."""
    if task.startswith("download"):
        task, done, total = f"{task}, MB", done // 10**6, total and total // 10**6
    notify(Event(task, done, max(total or 0, done)))


@dataclass(frozen=True)
class Context:
    """A study, the folder it runs in, its data with their digests, and where it runs."""

    study: Study
    run: RunFolder
    dataset: Dataset
    digests: Mapping[str, str]
    device: torch.device
    offline: bool

    @property
    def machine(self) -> dict[str, object]:
        """What of the machine can change a result: part of every fingerprint."""
        return {"device": self.device.type, "threads": torch.get_num_threads()}

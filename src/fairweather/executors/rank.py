"""A process that trains together with the one that started it; see `executors.together`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import torch

from fairweather.children import first_line
from fairweather.errors import InputError
from fairweather.executors.together import RankSettings, assist
from fairweather.group import Local, joined
from fairweather.runs import RunFolder
from fairweather.steps import Worker


def main() -> None:
    """Read settings from standard input, and help until the first process ends."""
    settings = RankSettings.model_validate_json(first_line())
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    print("ready", flush=True)
    os.dup2(2, 1)  # nobody reads more of its standard output
    cv2.setNumThreads(settings.plan.steps[0].threads)  # the processes share the cores
    numbered = f"{settings.device}:{settings.rank}" if settings.device == "cuda" else "cpu"
    environment = Local(settings.rank, settings.size, settings.port)
    with (
        suppress(InputError),
        _unless_cut_off(),
        joined(environment, settings.size, 1, torch.device(numbered)) as group,
    ):
        worker = Worker(settings.plan, device=numbered, offline=settings.offline, group=group)
        assist(settings.plan, RunFolder(Path(settings.folder)), worker)


@contextmanager
def _unless_cut_off() -> Iterator[None]:
    """End quietly where the first process has ended: it tells why."""
    try:
        yield
    except RuntimeError as error:
        if "onnection" not in str(error):  # torch has no type of its own for this
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Several GPUs that are pretended, of which each process uses one and no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fairweather.workers import jobs
from fairweather.workers.work import Assignment
from tests.helpers.forking import Program
from tests.helpers.pretended_device import pretended

GIB = 2**30


@contextmanager
def pretended_gpus(count: int, place: int = 0) -> Iterator[None]:
    """Pretend that this machine has so many GPUs, of which this process uses one."""
    found = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "get_device_name": lambda place=0: "Pretended GPU",
        "mem_get_info": lambda place=None: (GIB, GIB),
        "empty_cache": lambda: None,
    }
    with (
        pretended("cuda", place) as device,
        pytest.MonkeyPatch.context() as patch,  # ends first, as it replaces what the other did
        _NoOther(device),
    ):
        for name, function in found.items():
            patch.setattr(torch.cuda, name, function)
        yield


class _NoOther(TorchFunctionMode):
    """Refuses tensors for another GPU, such as the first one in the process of the second."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for each in tree_leaves((args, kwargs or {})):
            if isinstance(each, torch.device) and each.type == "cuda" and each.index is not None:
                assert each == self.device, f"{each} belongs to another process"
        return func(*args, **(kwargs or {}))


def start_job(places: Path) -> Callable[[str], Any]:
    """What starts jobs on a machine with two such GPUs; each writes its device into a folder."""

    def start(module: str) -> Any:
        assert module == "fairweather.workers.jobs"
        code = f"from {__name__} import run_job; run_job({str(places)!r})"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return Program([sys.executable, "-c", code], **pipes, encoding="utf-8", process_group=0)

    return start


def run_job(places: str) -> None:
    """In a job: do what is asked for, on the GPU that is named."""
    make_worker = Assignment.worker

    with ExitStack() as stack:

        def worker(self: Assignment, *given: Any) -> Any:
            name = self.settings.device
            (Path(places) / name).touch()
            stack.enter_context(pretended_gpus(2, int(name.removeprefix("cuda:"))))
            return make_worker(self, *given)

        stack.enter_context(pytest.MonkeyPatch.context()).setattr(Assignment, "worker", worker)
        jobs.main()

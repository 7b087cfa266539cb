"""Studies whose networks are trained by several processes together: which, where, and how."""

from __future__ import annotations

import torch

from fairweather.devices import check_cores, resolve_device
from fairweather.errors import InputError, unknown_name
from fairweather.group import launched
from fairweather.study.schema import Study


def helps_another(study: Study, devices: int, nodes: int) -> bool:
    """Say whether this process only helps the first of several to train; it has nothing to show."""
    if max(study.processes, devices * nodes) == 1:
        return False
    environment = launched()
    return environment is not None and environment.global_rank() > 0


def for_processes(study: Study, devices: int, nodes: int, strategy: str) -> tuple[Study, int]:
    """The study with so many processes, and how many are on each machine."""
    if strategy != "ddp":
        raise unknown_name("strategy", strategy, ["ddp"])
    if devices < 1 or nodes < 1:
        raise InputError(f"devices and nodes must be at least 1, found {devices} and {nodes}")
    asked = devices * nodes
    if asked == 1:
        return study, study.processes
    if study.processes not in (1, asked):
        raise InputError(
            f"the study says processes: {study.processes}, but {devices} devices on {nodes} nodes "
            f"are {asked}"
        )
    shared = study.model_copy(update={"processes": asked})
    shared.check_together()
    return shared, devices


def own_device(
    device: torch.device, devices: int, threads: int, sync_batchnorm: bool
) -> torch.device:
    """The device of this one of several processes that train together."""
    if device.type == "cuda":
        environment = launched()
        resolve_device(f"cuda:{devices - 1}")  # this machine must have all of them
        return torch.device("cuda", environment.local_rank() if environment else 0)
    if device.type != "cpu":
        raise InputError(f"several processes train on cuda or cpu devices, found {device.type}")
    if sync_batchnorm:
        raise InputError("sync_batchnorm needs cuda devices; this device is cpu")
    check_cores(devices, threads, "processes")
    return device

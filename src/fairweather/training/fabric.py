"""Fabric, and how the processes that train together find each other."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from fairweather.devices import repeatable_kernels
from fairweather.errors import InputError


@contextmanager
def _version_only(package: str) -> Iterator[None]:
    """Inside, a package that is not loaded has a version and nothing else."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version is None or package in sys.modules:
        yield
        return
    sys.modules[package] = ModuleType(package)
    vars(sys.modules[package])["__version__"] = version
    try:
        yield
    finally:
        del sys.modules[package]


with _version_only("torchmetrics"):
    from lightning_fabric import Fabric as Fabric
    from lightning_fabric.plugins.environments.cluster_environment import (
        ClusterEnvironment as ClusterEnvironment,
    )
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.lightning import (
        find_free_network_port as find_free_network_port,
    )
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

# Its hints are about precision, which is set here and not by the caller.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


def start_fabric(
    device: torch.device,
    precision: str,
    devices: int,
    nodes: int,
    environment: ClusterEnvironment | None,
) -> Fabric:
    """Set up Fabric in this process, and connect it with the others.

    Args:
        device: its type; for a single process, also its number.
        precision: `fp32` or `bf16` (mixed).
        devices: processes on each machine, each with a device of its own.
        nodes: machines.
        environment: how several processes find each other.
    """
    kind: Any = _PRECISION[precision]
    if devices * nodes == 1:
        single = [device.index or 0] if device.type == "cuda" else 1
        with repeatable_kernels():  # Fabric reads the precision, which may raise outside
            return Fabric(accelerator=device.type, devices=single, precision=kind)
    assert environment is not None
    with repeatable_kernels():
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(),
            plugins=[environment],
            precision=kind,
        )
        fabric.launch()
    return fabric


class LocalEnvironment(LightningEnvironment):
    """Processes on this machine that one of them has started.

    Args:
        rank: the number of this process.
        size: the number of processes.
        port: where the first one listens.
    """

    main_address = "127.0.0.1"
    creates_processes_externally = True  # Fabric must not start any

    def __init__(self, rank: int, size: int, port: int) -> None:
        super().__init__()
        self._main_port = port
        self.set_world_size(size)
        self.set_global_rank(rank)

    def local_rank(self) -> int:
        """The number of this process on its machine."""
        return self.global_rank()

    def node_rank(self) -> int:
        """The number of this machine."""
        return 0


def find_launcher() -> ClusterEnvironment | None:
    """How this process finds the others, if torchrun or srun has started them."""
    if TorchElasticEnvironment.detect() and int(os.environ["WORLD_SIZE"]) > 1:
        return TorchElasticEnvironment()
    # A batch script itself is not a step of srun, and runs only once.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and SLURMEnvironment.detect():
        try:
            return SLURMEnvironment()
        except RuntimeError as error:  # srun's options do not fit; the error names the right one
            raise InputError(f"srun: {error}") from None
    return None


def check_launch(environment: ClusterEnvironment | None, devices: int, nodes: int) -> None:
    """Raise `InputError` unless the right number of processes was started."""
    asked = f"--devices {devices} --nodes {nodes}"
    if environment is None:
        if nodes > 1:
            raise InputError(
                f"{nodes} nodes: start the command on each of them, such as by torchrun --nnodes "
                f"{nodes} --nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint HOST:PORT "
                f"-m fairweather run ... {asked}, or by srun"
            )
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))  # set by torchrun
    if environment.world_size() != devices * nodes or here != devices:
        raise InputError(
            f"{environment.world_size()} processes were started, {here} of them on this machine, "
            f"but {asked} needs {devices * nodes}, {devices} on each"
        )

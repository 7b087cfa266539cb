"""Fabric's names, without the packages that it loads and does not use.

To compare its version, Fabric imports torchmetrics where it is installed, which brings Matplotlib,
parts of SciPy and Transformers: a third of the time in which each process of a run starts.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def _with_its_version_alone(package: str) -> Iterator[None]:
    """For as long as this lasts, a package has a version and nothing else, unless it is loaded."""
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


with _with_its_version_alone("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning_fabric.plugins.environments.lightning import (
        LightningEnvironment,
        find_free_network_port,
    )
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

__all__ = [
    "ClusterEnvironment",
    "DDPStrategy",
    "Fabric",
    "LightningEnvironment",
    "SLURMEnvironment",
    "TorchElasticEnvironment",
    "find_free_network_port",
]

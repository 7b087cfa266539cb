"""The ranks: processes that train one network together, each with the same share of every batch.

Every rank draws the random numbers of the whole batch and takes its own part. So a training is the
same for any number of ranks, up to the order of floating-point sums, if the network treats each
image by itself. Batch norm does not: it uses the statistics of a rank's part, unless
`sync_batchnorm` is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from fairweather.errors import InputError, describe_os_error

if TYPE_CHECKING:
    from fairweather.training.fabric import ClusterEnvironment, Fabric


Value = TypeVar("Value")
# The first process may measure, write and report for hours while the others wait.
WAIT_TIMEOUT = timedelta(days=365)
# The connections of ranks that an error has ended; see `join_ranks`.
_KEPT_CONNECTIONS: list[dist.ProcessGroup | None] = []


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as seen by one of them."""

    rank: int = 0
    """Its own number; the process with 0 is the first, which writes."""

    devices: int = 1
    """Processes on each machine, each with a device of its own."""

    nodes: int = 1
    """Machines."""

    environment: ClusterEnvironment | None = None
    """How the processes find each other; None for a single process."""

    talk: dist.ProcessGroup | None = None
    """The connection over which they send Python objects; None for a single process."""

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.devices * self.nodes

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all have trained."""
        return self.rank == 0

    def fabric(self, device: torch.device, precision: str) -> Fabric:
        """Set up Fabric in `fp32` or `bf16` (mixed) precision, on one device for each process."""
        from fairweather.training.fabric import start_fabric  # takes a second to import

        return start_fabric(device, precision, self.devices, self.nodes, self.environment)

    def part(self, count: int) -> slice:
        """This process's part of a batch of this size; the parts are nearly equal.

        >>> [Ranks(rank, devices=2).part(5) for rank in (0, 1)]
        [slice(0, 3, None), slice(3, 5, None)]
        """
        least, more = divmod(count, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def check_batches(self, batches: list[torch.Tensor]) -> None:
        """Raise `InputError` unless each process gets two images of every batch.

        Batch norm cannot train on a single image.
        """
        smallest = min(len(batch) for batch in batches)
        if self.size > 1 and smallest < 2 * self.size:
            raise InputError(
                f"{self.size} processes need batches of at least {2 * self.size} images, found "
                f"{smallest}; train in fewer processes or with a larger batch_size"
            )

    def weighted(self, loss: torch.Tensor, part: int, whole: int) -> torch.Tensor:
        """Weight the mean loss of this process's part of a batch.

        DDP averages the gradients of all processes. With these weights, that is the gradient of the
        mean over the whole batch, even if the parts differ in size.
        """
        return loss if self.size == 1 else loss * (self.size * part / whole)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in their order; all must call this."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.talk)
        return values

    def from_first(self, value: Value) -> Value:
        """The value of the first process; all must call this."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.talk)
        return values[0]

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Raise in all processes an `InputError` or `OSError` that one of them raises inside.

        Otherwise the others would wait for it. All must call this, and nothing inside may wait for
        others.
        """
        if self.size == 1:
            yield
            return
        problem: tuple[type[InputError], str] | None = None
        try:
            yield
        except InputError as error:
            problem = type(error), str(error)
        except OSError as error:
            problem = InputError, describe_os_error(error)
        for rank, met in enumerate(self.gather(problem)):
            if met is not None:
                kind, text = met
                raise kind(f"process {rank} of {self.size}: {text}")

    def copy_statistics(self, model: nn.Module) -> None:
        """Copy the first process's running statistics of batch norm to all processes."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


ALONE = Ranks()


def synchronise_batchnorm(model: nn.Module) -> None:
    """Let each batch norm of a network use the statistics of the whole batch, of all processes.

    The layers are replaced in place. timm's function keeps the activation of its own layers, which
    torch's function would lose. torch supports this only on GPUs.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    convert_sync_batchnorm(model)
    model.train(model.training)  # before timm 1.0.15, new layers are in training mode


@contextmanager
def join_ranks(
    environment: ClusterEnvironment, devices: int, nodes: int, device: torch.device
) -> Iterator[Ranks]:
    """Connect the processes that train together; all must call this.

    After an error, DDP's reducer may live longest, in the frames of the traceback. It would then
    free the connections while holding Python's lock, and wait forever for threads that need this
    lock. So Python keeps the connections until the next ones are made, or the process ends. By then
    these threads are done, and Python frees the connections without its lock (torch 2.8 and later).

    Args:
        environment: how they find each other.
        devices: processes on each machine.
        nodes: machines.
        device: the type of the devices.
    """
    ranks = Ranks(environment.global_rank(), devices, nodes, environment)
    _KEPT_CONNECTIONS.clear()
    talk = None
    try:
        ranks.fabric(device, "fp32")
        talk = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
        yield replace(ranks, talk=talk)
    except BaseException:
        _KEPT_CONNECTIONS.extend((dist.group.WORLD, talk))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()

"""Choose the device and the precision; only this module asks torch which hardware exists."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import loky
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import InputError, first_line, unknown_name
from fairweather.small_maps import multiply_small_maps

PRECISIONS = ("auto", "fp32", "bf16")  # of training
PREDICTION_PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("cpu", "cuda", "mps", "xpu")  # that `--device` knows; docs/scaling.md has what differs


def resolve_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1`, `mps` or `xpu` into a device that this machine has.

    `auto` is the first CUDA device if there is one, else the CPU. Raises `InputError` for a device
    that this machine does not have.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_name("device", name, ["auto", *DEVICES]) from None
    count = {kind: torch.get_device_module(kind).device_count() for kind in DEVICES}
    if (device.index or 0) >= count.get(device.type, 0):
        available = ", ".join(kind for kind in DEVICES if count[kind])
        raise InputError(f"device {name!r} was asked for, but this machine has only: {available}")
    return device


def count_cores() -> int:
    """The number of processor cores that this process may use, such as those of its container.

    >>> count_cores() >= 1
    True
    """
    return int(loky.cpu_count())


def list_devices(device: torch.device) -> list[torch.device]:
    """The devices that a name stands for: `cuda` for all GPUs of this machine of the first's model.

    Another model may give other last digits, so it is left out.

    >>> list_devices(torch.device("cpu")), list_devices(torch.device("cuda", 1))
    ([device(type='cpu')], [device(type='cuda', index=1)])
    """
    if device.type != "cuda" or device.index is not None:
        return [device]
    places = range(torch.cuda.device_count())
    models = [torch.cuda.get_device_name(place) for place in places]
    return [torch.device("cuda", place) for place in places if models[place] == models[0]]


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given; a CPU does it at once.

    >>> wait_for(torch.device("cpu"))
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def choose_workers(device: torch.device, requested: int | None, jobs: int = 1) -> int:
    """Choose how many processes may shift images for each job: as many as requested, or by device.

    On a CPU it is 0, since these processes would take cores from the network. With a GPU, each job
    has its share of the cores, less one for the job itself. As many start as are needed
    (`inference.pace`).

    >>> choose_workers(torch.device("cpu"), None), choose_workers(torch.device("cpu"), 2)
    (0, 2)
    """
    if requested is not None:
        return requested
    return 0 if device.type == "cpu" else max(count_cores() // jobs - 1, 0)


def check_cores(count: int, threads: int, named: str = "jobs") -> None:
    """Raise `InputError` if this machine has too few cores for these jobs and threads.

    >>> check_cores(1, 1)
    """
    most = max(count_cores() // threads, 1)
    if count > most:
        hint = "; with threads 1 there can be more, but other threads are other results"
        raise InputError(
            f"{count} {named} of {threads} threads need {count * threads} cores, and this machine "
            f"has {count_cores()}: at most {most} {named}{hint if threads > 1 else ''}"
        )


def memory_for_networks(device: torch.device) -> int:
    """Bytes that networks may take: a quarter of a machine's memory, or half of what a GPU has
    free.

    The rest is for images, activations and everything else. An MPS device has the machine's memory.

    >>> memory_for_networks(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    if device.type == "xpu":  # not every driver tells what is free
        module: Any = torch.get_device_module(device)
        return int(module.get_device_properties(device).total_memory) // 2
    limits = [limit for limit, _ in _memory_of_groups()]
    return min([_machine_memory(), *limits]) // 4


def available_memory() -> int:
    """Bytes of this machine's memory, or of its container's, that new processes may take.

    Half of the memory where the system does not say what is available, as on macOS.

    >>> available_memory() >= 0
    True
    """
    available = _machine_memory() // 2
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if "MemAvailable:" in line)
    return max(min([available, *(limit - used for limit, used in _memory_of_groups())]), 0)


def _machine_memory() -> int:
    if not hasattr(os, "sysconf"):  # Windows
        return 2**33
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# Of both versions of Linux's control groups, the files with the limit and the use, and the names of
# what is used for copies of files. The system can drop them, also those that were read lately, such
# as the pages of mapped images.
_GROUP_FILES = {
    "": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def _memory_of_groups() -> Iterator[tuple[int, int]]:
    """Limit and use in bytes, of a container or a cluster's job that this process is in."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kind, name = line.split(":", 2)
            if kind not in _GROUP_FILES:
                continue
            limit, use, droppable = _GROUP_FILES[kind]
            group = Path("/sys/fs/cgroup", kind, name.lstrip("/"))
            for place in (group, *group.parents):  # a container sees its own group at the top
                # A group without a limit has the word "max", or no such file.
                with suppress(OSError, ValueError):
                    rows = (place / "memory.stat").read_text(encoding="utf-8").split()
                    dropped = sum(int(rows[rows.index(part) + 1]) for part in droppable)
                    numbers = ((place / file).read_text(encoding="utf-8") for file in (limit, use))
                    most, used = map(int, numbers)
                    yield most, used - dropped


def has_room_for(device: torch.device, size: int) -> bool:
    """Say whether this many bytes can stay on a GPU: at most a quarter of its free memory.

    On a CPU, nothing needs to move. MPS and XPU devices are not asked: the first has the machine's
    memory, and not every driver of the second tells what is free.

    >>> has_room_for(torch.device("cpu"), 1)
    False
    """
    if device.type != "cuda":
        return False
    free_memory()  # otherwise what torch keeps for later would count as used
    return size <= torch.cuda.mem_get_info(device)[0] // 4


class Arithmetic(NamedTuple):
    """How predictions are computed; other arithmetic gives slightly other numbers."""

    precision: str = "fp32"
    """`fp32`; `tf32`, in which a GPU rounds the factors of products to 10 bits; or autocast to 16
    bits: `bf16`, which rounds to 8 bits, or `fp16`, to 11 bits and at most 65,504."""

    cudnn_benchmark: bool = False
    """Let cuDNN try several kernels and take the fastest, which may differ from run to run."""

    compile: bool = False
    """Compile networks by `torch.compile`; see `compiled`."""

    def check(self, device: torch.device) -> None:
        """Raise `InputError` for an unknown precision, or for what the device cannot do."""
        if self.precision not in PREDICTION_PRECISIONS:
            raise unknown_name("precision", self.precision, PREDICTION_PRECISIONS)
        if self.precision == "tf32" and device.type != "cuda":
            raise InputError(f"precision tf32 is for CUDA devices; this device is {device.type}")
        if self.compile and device.type == "cpu":
            _try_compiler()

    def check_range(self, outputs: npt.NDArray[np.float32]) -> None:
        """Raise `InputError` if numbers of a network were too large for fp16."""
        if self.precision == "fp16" and not np.isfinite(outputs).all():
            raise InputError(
                "the model's outputs are infinite or NaN in fp16, whose largest number is 65,504: "
                "use bf16 or fp32"
            )

    def compiled(self, network: nn.Module) -> nn.Module:
        """The network to call: compiled, if this asks for it.

        Each size of a batch would have code of its own, so short ones are filled up.
        """
        if not self.compile:
            return network
        called = cast(nn.Module, torch.compile(network, dynamic=False))
        shares_statistics = any(
            isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None
            for part in network.modules()
        )
        return called if shares_statistics else _FilledBatches(called)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Compute in this precision inside the `with` block; on a CPU, multiply small maps.

        Raises `InputError` if a network cannot be compiled.
        """
        tf32 = self.precision == "tf32"
        autocast: AbstractContextManager[None] = nullcontext()
        if self.precision in AUTOCAST:
            autocast = torch.autocast(device.type, AUTOCAST[self.precision])
        compiling = explained_compiler() if self.compile else nullcontext()
        with (
            repeatable_kernels(tf32=tf32, benchmark=self.cudnn_benchmark, products=tf32),
            autocast,
            compiling,
            multiply_small_maps(device),
        ):
            yield


FP32 = Arithmetic()


class _FilledBatches(nn.Module):
    """Calls a network with batches of one size, which is compiled once: short ones are filled up.

    A single image is not: when memory runs out, it is the last attempt.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.size = network, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count, size = len(images), self.size
        self.size = 0  # until it is known to fit into memory
        if not 1 < count < size:
            outputs = self.network(images)
            self.size = max(count, size)
            return outputs
        # Unlike a joined tensor, a padded one has the strides of the full ones before it.
        outputs = self.network(F.pad(images, (*[0] * 7, size - count)))
        self.size = size
        return outputs[:count]


@contextmanager
def explained_compiler() -> Iterator[None]:
    """Compile every network inside the block, or raise `InputError` with the compiler's reason."""
    import torch._dynamo  # takes a second

    # torch would silently stop compiling after 8 networks of one class.
    with torch._dynamo.config.patch(recompile_limit=2**20, accumulated_recompile_limit=2**20):
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error) or not type(error).__module__.startswith(_COMPILERS):
                raise
            cause = error.__cause__
            reason = first_line(cause if isinstance(cause, Exception) else error)
            raise InputError(
                f"torch.compile fails ({reason}): leave out compile, or install what it needs, "
                "such as a C++ compiler"
            ) from error


_COMPILERS = ("torch._dynamo", "torch._inductor")


@cache
def _try_compiler() -> None:
    """Compile something small for the CPU, which needs a C++ compiler."""
    with explained_compiler():
        torch.compile(torch.square)(torch.ones(2))


@contextmanager
def repeatable_kernels(
    *, tf32: bool = False, benchmark: bool = False, products: bool = False
) -> Iterator[None]:
    """Compute in float32 inside the `with` block, with the same kernels on every run.

    On a GPU, this holds for convolutions: some gradients, such as those of attention, may differ
    from run to run. The user's settings for the process have no effect inside the block, and are
    restored after it.

    Args:
        tf32: let a GPU round the factors of convolutions to 10 bits.
        benchmark: let cuDNN choose among its repeatable kernels by their speed.
        products: let a GPU round the factors of matrix products to 10 bits too.

    >>> with repeatable_kernels():
    ...     torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    (True, 'highest')
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with _saved_precision():
        torch.set_float32_matmul_precision("high" if products else "highest")
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, benchmark, tf32
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def _saved_precision() -> Iterator[None]:
    """Clear how torch may round the factors of float32 products, and restore it after the block."""
    products = convolutions = None
    with suppress(RuntimeError):  # torch raises it if its newer settings disagree
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    saved: list[tuple[Callable[[str], None], str]] = []
    for owner, set_precision in _precision_settings():
        saved.append((set_precision, owner.fp32_precision))
        set_precision("none")
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        for set_precision, value in saved:
            set_precision(value)


def _precision_settings() -> list[tuple[Any, Callable[[str], None]]]:
    """The parts of torch 2.9 and later that have a precision, and a function that sets it.

    A part comes after the more general one whose precision it can override.
    """
    if not hasattr(torch.backends, "fp32_precision"):
        return []
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    parts = [backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    return [
        (backends, partial(setattr, backends, "fp32_precision")),
        # Setting the attribute would change the precision of all backends.
        (mkldnn, lambda value: mkldnn.set_flags(_fp32_precision=value)),
        *((part, partial(setattr, part, "fp32_precision")) for part in (cudnn, *parts)),
    ]


# How libraries report that memory ran out. Most raise a plain RuntimeError, or one of their own, so
# only the text shows it. tests/test_devices.py has whole messages, and where they come from.
_OUT_OF_MEMORY_WORDS = (
    # torch's allocators of CUDA, HIP, XPU, MPS and the CPU; the system; ONNX Runtime and oneMKL
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory"),
    *("failed to allocate memory", "insufficient memory"),  # the last is OpenCV's
    *("bad_alloc", "bad allocation"),  # C++, and C++ of Windows
    *("_alloc_failed", "_allocation_failed"),  # cuBLAS, cuFFT, hipBLAS; cuDNN
    *("miopenstatusallocfailed", "memory not available to allocate", "rocblas_status_memory_error"),
    *("out_of_device_memory", "out_of_host_memory", "out_of_resources", "outofmemory"),  # XPU, HIP
    "invalid buffer size",  # MPS: a tensor larger than Metal allows
    # On a full GPU, no handle can be made, and cuDNN leaves out what needs more workspace.
    *("cublas_status_not_initialized when calling `cublascreate", "cudnn_status_not_initialized"),
    "hipblas_status_not_initialized when calling `hipblascreate",
    "hipblas_status_not_initialized when calling `hipblasltcreate",
    "unable to find an engine to execute this computation",
    # What the allocator asserts when it asks for the cause, in containers and on Jetson
    *("nvml_success ==", "!handles_.at(i) internal assert failed"),
    *("than int_max", "can not allocate memory block"),  # MPS; XPU: smaller batches help
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means out of memory, on a device or on the machine itself.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    if isinstance(error, InputError):  # it says already what to do
        return False
    text = str(error).lower()
    is_memory_error = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_memory_error or any(words in text for words in _OUT_OF_MEMORY_WORDS)


def free_memory() -> None:
    """Return the device memory that torch keeps for later use."""
    gc.collect()  # what only refers to itself, such as a network with hooks
    if torch.accelerator.is_available():
        torch.get_device_module().empty_cache()


@contextmanager
def seeded_device(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the CPU and a device, and restore both random states afterwards.

    >>> before = torch.random.get_rng_state()
    >>> with seeded_device(0, torch.device("cpu")):
    ...     first = torch.rand(1)
    >>> bool((torch.random.get_rng_state() == before).all())
    True
    """
    module: Any = torch.get_device_module(device)
    numbered = [device] if device.type in ("cuda", "xpu") else []
    with torch.random.fork_rng(numbered, device_type=device.type):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed all devices
        if numbered:
            with module.device(device):
                module.manual_seed(seed)
        if device.type != "mps":
            yield
            return
        before = torch.mps.get_rng_state()
        torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            torch.mps.set_rng_state(before)


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that lack it: MPS, and some of Intel's.

    >>> widest_float(torch.device("cpu"))
    torch.float64
    """
    lacks = device.type == "mps"
    if device.type == "xpu":
        lacks = not torch.xpu.get_device_properties(device).has_fp64
    return torch.float32 if lacks else torch.float64


@contextmanager
def in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation mode, and afterwards each of its parts back to its own mode.

    >>> layer = nn.Dropout()
    >>> with in_evaluation_mode(layer):
    ...     layer.training
    False
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        # Not module.train(): some parts may stay in evaluation mode, such as frozen batch norm.
        for part, training in modes:
            part.training = training


def training_precision(name: str, device: torch.device) -> str:
    """Choose `fp32` or `bf16` for training; `auto` is bf16 on CUDA devices that support it.

    On CPUs `auto` is fp32: with AVX512-BF16, steps of a ResNet-18 are 1.45 times as fast in bf16,
    and those of an EfficientNet-Lite0 took more than twice as long (benchmarks/notes/speed.md).

    >>> training_precision("auto", torch.device("cpu"))
    'fp32'
    """
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if device.type == "xpu":
        raise InputError("networks train on cpu, cuda or mps devices: Lightning Fabric has no xpu")
    if name != "auto":
        return name
    ampere = (8, 0)
    has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= ampere
    return "bf16" if has_bf16 else "fp32"


class PrecisionAdapter(nn.Module):
    """Lets a network of another type, such as float16, take and return float32.

    >>> PrecisionAdapter(nn.Linear(2, 3).bfloat16(), torch.bfloat16)(torch.ones(1, 2)).dtype
    torch.float32
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the outputs of a batch."""
        outputs = self.network(images.to(self.dtype))
        return outputs.float() if isinstance(outputs, torch.Tensor) else outputs


def adapt_precision(network: nn.Module) -> nn.Module:
    """Wrap a network whose parameters are not float32, so that it takes float32 images.

    >>> type(adapt_precision(nn.Linear(2, 3).half())).__name__
    'PrecisionAdapter'
    """
    if any(isinstance(part, PrecisionAdapter) for part in network.modules()):
        return network
    dtypes = (part.dtype for part in network.parameters() if part.is_floating_point())
    dtype = next(dtypes, torch.float32)
    return network if dtype == torch.float32 else PrecisionAdapter(network, dtype)


def lock_copy(memory: torch.Tensor) -> torch.Tensor:
    """Copy memory to page-locked memory, unless it is that already, or none is left.

    Some systems, such as WSL and containers, allow little of it.
    """
    try:
        return memory.pin_memory()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return memory


@contextmanager
def explain_memory(what: str, advice: str) -> Iterator[None]:
    """Raise `InputError` with what happened, and with advice, if memory runs out in the block."""
    try:
        yield
    except Exception as error:  # libraries have only this in common
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{what} ({first_line(error)}): {advice}") from None


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, with channels last in memory.

    Raises:
        InputError: it does not fit into memory.
    """
    # Weights of three-dimensional convolutions cannot be so.
    tensors = (*network.parameters(), *network.buffers())
    is_last = all(tensor.ndim != 5 for tensor in tensors)
    layout = torch.channels_last if is_last else torch.preserve_format
    with explain_memory(f"a network does not fit into the memory of {device}", "use a smaller one"):
        network.to(device, memory_format=layout)  # type: ignore[call-overload]


def lock_pages(memory: torch.Tensor, device: torch.device) -> bool:
    """Lock memory of the CPU in place, so that a CUDA device copies from it without waiting.

    Returns:
        Whether it is locked. Where it is not, as on other devices, `pin_memory` makes a copy that
        is.
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # otherwise the first GPU would be used too
        portable = 1  # cudaHostRegisterPortable: for all devices of this process
        error = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, portable)
        if int(error) == 0:
            return True
        with suppress(RuntimeError):  # CUDA remembers the error, and raises it at the next kernel
            torch.ones(1, device=device).add_(1)
            torch.cuda.synchronize()
    return False


def unlock_pages(memory: torch.Tensor, device: torch.device) -> None:
    """Undo what `lock_pages` did for a device."""
    with torch.cuda.device(device):
        torch.cuda.synchronize()  # it may still be reading
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


@cache
def copying_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of copies to a device, the same for all cells.

    Torch keeps the memory that a stream has used for this stream alone, so that a new one for each
    cell would keep ever more.
    """
    return torch.cuda.Stream(device)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device, without waiting for what a CUDA device still has to do.

    Torch waits for all of it when it copies from memory that is not page-locked. It keeps what
    `pin_memory` has locked until the copy is done (`copy_kernel_cuda` of ATen). Where no memory can
    be locked, it may wait.

    >>> send(torch.ones(2), torch.device("cpu"))
    tensor([1., 1.])
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = lock_copy(tensor)
    return tensor.to(device, non_blocking=device.type == "cuda")


class Lane:
    """The way of batches to a device, and of outputs back to the CPU.

    A CUDA device computes one batch while the next is copied to it and the outputs of the one
    before are read. All other devices have finished when a call returns.

    >>> lane = Lane(torch.device("cpu"))
    >>> lane.fetch(lane.bring(torch.ones(2)))()
    tensor([1., 1.])
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copies = copying_stream(device) if device.type == "cuda" else None
        self.ahead = 0 if self.copies is None else 1
        """How many batches to give to the device before outputs are waited for."""

    def bring(self, pixels: torch.Tensor) -> torch.Tensor:
        """Copy pixels to the device. Page-locked ones must stay as they are until the outputs are
        here."""
        if self.copies is None:
            return pixels.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.copies):
            there = pixels.to(self.device, non_blocking=True)
        computing.wait_stream(self.copies)
        there.record_stream(computing)  # its memory is used again only after that
        return there

    def fetch(self, outputs: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to copy outputs to the CPU. Returns a function that waits for the copy."""
        if self.copies is None:
            there = outputs.to("cpu", copy=True)
            return lambda: there
        try:  # its memory is page-locked, since torch would otherwise have to wait
            copy = outputs.to("cpu", copy=True, non_blocking=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            waited = outputs.to("cpu", copy=True)
            return lambda: waited
        ready = torch.cuda.Event(blocking=True)  # others would keep a core busy while they wait
        ready.record(torch.cuda.current_stream(self.device))

        def wait() -> torch.Tensor:
            ready.synchronize()
            return copy

        return wait

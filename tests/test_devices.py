"""What differs between devices: precision, memory that runs out, random numbers, repeatability."""

import gc
import itertools
import os
import re
import sys
from dataclasses import replace
from io import StringIO

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from fairweather.attacks.problem import _running_sum
from fairweather.attacks.table import make_attack
from fairweather.data.batches import shift_images
from fairweather.devices import (
    Arithmetic,
    available_memory,
    count_cores,
    is_out_of_memory,
    memory_for_networks,
    repeatable_kernels,
)
from fairweather.errors import InputError
from fairweather.inference.prediction import Predictor, learn_from_source, predict, predict_streams
from fairweather.models.building import ModelSpec, build, load_checkpoint, render_model_json
from fairweather.models.wrappers import Classifier, SquareResize
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import (
    ForwardPass,
    ImagesReference,
    OpenedNetwork,
    Plan,
    PredictStep,
    TrainedNetwork,
)
from fairweather.steps.worker import Worker, count_bytes
from fairweather.training.loop_parts import seeded
from fairweather.training.ranks import ALONE
from fairweather.training.selfsupervised.pretraining import NeighbourProbe, knn_quality
from fairweather.types.measurement import Shift
from fairweather.variants.variant import VARIANTS, Adapting, read_variant, variant_class
from tests.conftest import TINY_RESNET
from tests.helpers.forking import Program
from tests.helpers.memory_habits import Plain
from tests.helpers.pretended_device import PROPERTIES, pretended
from tests.helpers.started import started

CPU = torch.device("cpu")
ADAPTING = [kind for kind in VARIANTS if issubclass(variant_class(kind), Adapting)]
NEWER = hasattr(torch.backends, "fp32_precision")  # torch 2.9 and later
needs_newer = pytest.mark.skipif(not NEWER, reason="this torch has no fp32_precision")

# ---------------------------------------------------------------- the precision of products


def precisions():
    """All settings that say how factors of float32 products are rounded."""

    def told(ask):
        try:
            return ask()
        except RuntimeError:
            return "refused"  # the older settings where the newer ones say otherwise

    backends = torch.backends
    older = [
        told(torch.get_float32_matmul_precision),
        told(lambda: backends.cuda.matmul.allow_tf32),
        told(lambda: backends.cudnn.allow_tf32),
    ]
    if not NEWER:
        return older
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    places = [backends, cudnn, backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn]
    places += [mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    return older + [place.fp32_precision for place in places]


FULL = ["highest", False, False]


def is_full(found):
    """Whether nothing may be rounded."""
    return found[:3] == FULL and set(found[3:]) <= {"none", "ieee"}


def everything(value):
    torch.backends.fp32_precision = value


def one_dnn(value):
    torch.backends.mkldnn.set_flags(_fp32_precision=value)


def products(value):
    torch.backends.cuda.matmul.fp32_precision = value


def convolutions(value):
    torch.backends.cudnn.conv.fp32_precision = value


SETTINGS = [
    pytest.param(torch.set_float32_matmul_precision, "medium", id="older, medium"),
    pytest.param(torch.set_float32_matmul_precision, "high", id="older, high"),
    pytest.param(everything, "tf32", id="everything", marks=needs_newer),
    pytest.param(everything, "bf16", id="everything, bf16", marks=needs_newer),
    pytest.param(one_dnn, "bf16", id="oneDNN, bf16", marks=needs_newer),
    pytest.param(products, "tf32", id="products", marks=needs_newer),
    pytest.param(convolutions, "ieee", id="convolutions", marks=needs_newer),
]


@pytest.fixture
def settings():
    """What torch starts with, and has again after whatever a test leaves."""
    with repeatable_kernels(tf32=True):
        yield


class Curious(Plain):
    """It notes the precision in which it is asked."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(precisions())
        return super().forward(images)


@pytest.mark.parametrize(("change", "value"), SETTINGS)
@pytest.mark.parametrize("attack", [None, "pgd", "square"])
def test_a_precision_set_for_the_process_reaches_no_prediction(
    change, value, attack, settings, toy_images
):
    change(value)
    before = precisions()
    assert not is_full(before)
    model = Curious()
    size = {"steps": 1} if attack == "pgd" else {"queries": 1}
    predict(
        model,
        toy_images[:6],
        None if attack is None else make_attack(attack, epsilon=0.1, **size),
        device="cpu",
    )
    assert all(map(is_full, model.seen))
    assert precisions() == before


@pytest.mark.parametrize(("change", "value"), SETTINGS)
def test_it_neither_reaches_nor_stops_a_training(change, value, settings):
    change(value)
    before = precisions()
    with seeded(0, CPU):
        found = precisions()
        assert found[:3] == ["highest", False, True]  # a GPU may round factors of convolutions
    ALONE.fabric(CPU, "fp32")
    assert precisions() == before


@needs_newer
def test_a_setting_for_everything_still_holds_for_what_followed_it(settings):
    everything("tf32")
    with Arithmetic().on(CPU):
        pass
    everything("ieee")
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


# ---------------------------------------------------------------- memory that runs out


# How libraries say it: the end of messages as their sources build them, or as users report them.
MESSAGES = {
    # torch: c10/cuda, c10/xpu and ATen/mps allocators, c10/core/impl/alloc_cpu.cpp, Conv_v8.cpp
    "CUDA": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB",
    "CUDA driver": "CUDA driver error: out of memory",
    "CUDA kernel": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "HIP": "HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16 GiB",
    "HIP kernel": "HIP error: out of memory",
    "HIP by name": "hipErrorOutOfMemory",
    "XPU": "XPU out of memory. Tried to allocate 4.66 GiB. GPU 0 has a total capacity of 5.65 GiB",
    "MPS": "MPS backend out of memory (MPS allocated: 17.98 GB, other allocations: 96.00 KB, max "
    "allowed: 18.13 GB). Tried to allocate 160.00 MB on private pool.",
    "MPS buffer": "Invalid buffer size: 12.00 GiB",
    "MPS tensor": "MPSGaph does not support tensor dims larger than INT_MAX",
    "CUDA in a container": 'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/'
    'CUDACachingAllocator.cpp":1016, please report a bug to PyTorch.',
    "CUDA of Jetson": 'NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "'
    '/opt/pytorch/c10/cuda/CUDACachingAllocator.cpp":963, please report a bug to PyTorch.',
    "CUDA segments": '!handles_.at(i) INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/'
    'CUDACachingAllocator.cpp":471, please report a bug to PyTorch.',
    "XPU block": "Current platform can NOT allocate memory block with size larger than 4GB!",
    "hipBLASLt": "HIPBLAS_STATUS_NOT_INITIALIZED when calling `hipblasLtCreate(handle)`",
    "CPU": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 40000000000 bytes.",
    "CPU of Windows": "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough "
    "memory: you tried to allocate 40000000000 bytes.",
    "mapped file": "unable to mmap 4096 bytes from file </a.pt>: Cannot allocate memory (12)",
    "C++": "std::bad_alloc",
    "C++ of Windows": "bad allocation",
    "workspace": "Not enough memory for workspace!",
    "convolution": "GET was unable to find an engine to execute this computation",
    # cuBLAS, cuDNN 8 and 9, cuFFT; hipBLAS, rocBLAS, MIOpen; Intel's unified runtime; oneMKL
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuBLAS handle": "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN 8": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN 9": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN 9 host": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "cuDNN handle": "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuFFT": "cuFFT error: CUFFT_ALLOC_FAILED",
    "hipBLAS": "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "hipBLAS handle": "HIPBLAS_STATUS_NOT_INITIALIZED when calling `hipblasCreate(handle)`",
    "rocBLAS": "rocblas_status_memory_error",
    "MIOpen": "miopenStatusAllocFailed",
    "MIOpen buffer": "MIOpen Error: Memory not available to allocate buffer: 655360",
    "XPU runtime": "level_zero backend failed: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "XPU host": "level_zero backend failed with error: 38 (UR_RESULT_ERROR_OUT_OF_HOST_MEMORY)",
    "XPU resources": "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    "oneMKL": "mkl_malloc: failed to allocate memory",
    # ONNX Runtime: core/framework/bfc_arena.cc, cuda_call.cc
    "ONNX Runtime": "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code in a "
    "node. BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of 4",
    "ONNX Runtime on CUDA": "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0",
}
OF_OPENCV = cv2.error(
    "OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 48 bytes in "
    "function 'OutOfMemoryError'"
)
OF_NUMPY = np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(float))
ERRORS = {name: RuntimeError(text) for name, text in MESSAGES.items()}
ERRORS |= {"torch": torch.OutOfMemoryError(), "OpenCV": OF_OPENCV, "NumPy": OF_NUMPY}


class Forgetful(Plain):
    """It has memory for some images only, and says so in the words of a library."""

    def __init__(self, error, room=20):
        super().__init__()
        self.error, self.room = error, room

    def forward(self, images):
        if len(images) > self.room:
            raise self.error
        return super().forward(images)


@pytest.mark.parametrize("name", ERRORS)
def test_memory_that_runs_out_is_known_by_every_library_s_words(name, toy_images):
    assert is_out_of_memory(ERRORS[name])
    sizes = []
    found = predict(Forgetful(ERRORS[name]), toy_images, device="cpu", when_halved=sizes.append)
    assert (sizes, len(found)) == ([48, 24, 12], 96)


@pytest.mark.parametrize("name", ERRORS)
def test_a_shift_that_runs_out_of_memory_is_applied_to_fewer_images(name, toy_images):
    def change(pixels, keys, seed):
        if len(pixels) > 20:
            raise ERRORS[name]
        return 255 - pixels

    found = shift_images(toy_images, Shift("darker", 1, {}, change), 0)
    assert torch.equal(found, 255 - toy_images.images)


def test_one_image_that_does_not_fit_is_a_sentence_with_the_library_s_words(toy_images):
    model = Forgetful(ERRORS["convolution"], room=0)
    with pytest.raises(
        InputError, match=r"single image.*\(GET was unable to find.*\): use a smaller"
    ):
        predict(model, toy_images, device="cpu")


def test_other_errors_of_these_libraries_are_no_lack_of_memory(toy_images):
    for text in (
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
        "non-contiguous input.",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`",
        "CUDA error: an illegal memory access was encountered",
        "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
        "Expected all tensors to be on the same device",
    ):
        assert not is_out_of_memory(RuntimeError(text))
        with pytest.raises(RuntimeError, match=re.escape(text)):
            predict(Forgetful(RuntimeError(text)), toy_images, device="cpu")


class Movable(Plain):
    """It notes that it left the device."""

    left = False

    def cpu(self):
        self.left = True
        return super().cpu()


@pytest.mark.parametrize("limit", ["memory", "networks"])
def test_models_that_were_opened_elsewhere_count_and_leave_the_device(limit, tmp_path):
    models = {name: Movable() for name in "abcd"}
    most = 2 if limit == "networks" else None
    worker = Worker(Plan(data={}, steps=()), device="cpu", models=models, networks=most)
    if limit == "memory":
        worker.room = 3 * count_bytes(models["a"]) - 1  # one byte more, and three would fit
    networks, folder = [OpenedNetwork(digest=name) for name in "abcd"], RunFolder(tmp_path)
    assert worker.count_fitting(networks, folder) == 2
    for name, expected in (("a", ""), ("b", ""), ("a", ""), ("c", "b"), ("d", "ab")):
        assert worker.network(OpenedNetwork(digest=name), folder) is models[name]
        assert "".join(each for each in "abcd" if models[each].left) == expected


class AllocatedBytes(profile):
    """What torch's allocator of the CPU says that it gave inside the block, in bytes.

    Attributes:
        live: what it has not got back at the end.
        most: the most at once.
    """

    def __init__(self):
        super().__init__(profile_memory=True)

    def __exit__(self, *error):
        gc.collect()
        super().__exit__(*error)
        told = [event for event in self.kineto_results.events() if event.name() == "[memory]"]
        told.sort(key=lambda event: event.start_ns())
        sums = [0, *itertools.accumulate(event.nbytes() for event in told)]
        self.live, self.most = sums[-1], max(sums)


class Deep(nn.Module):
    """Its weights, in equal layers, need far more memory than activations of a few images."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        layers = [layer for _ in range(16) for layer in (nn.Linear(192, 192), nn.ReLU())]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(192, 3)

    def forward(self, images):
        return self.head(self.body(self.first(images)))


@pytest.mark.parametrize("kind", ADAPTING)
def test_methods_of_adaptation_need_the_memory_that_they_say(kind, toy_images):
    orders = "" if kind == "views" else ", orders: 3"
    adapting = read_variant(f"{kind}: {{batch_size: 4{orders}}}").adapting
    model, images = Deep().eval(), toy_images[:12]
    learned = {}
    with AllocatedBytes() as memory:
        if adapting.source_images:
            learned = learn_from_source(model, adapting, images, batch_size=4, device=CPU)
        predict_streams(
            Predictor(model, adapting=adapting, learned=learned),
            adapting, images=images, batch_size=4, device=CPU,
        )  # fmt: skip
    # A step needs a few layers more, of 16; so do activations, with 4 images of 192 numbers.
    assert adapting.copies - 0.1 < memory.most / count_bytes(model) < adapting.copies + 0.5


def trained_networks(folder, spec, count, variant=None):
    """A worker that predicts with the first of so many networks in a folder."""
    networks, weights = [], build(spec, 0).state_dict()
    for seed in range(count):
        networks.append(TrainedNetwork(folder=f"models/a/seed-{seed}"))
        place = folder.file(networks[-1].folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.json").write_text(render_model_json(spec, {}))
        save_file(weights, place / "model.safetensors")
    how = ForwardPass(network=networks[0], variant=variant)
    step = PredictStep(
        id="p", task="p", leaves=("p",), model="a", seed=0, images=ImagesReference(), shift="clean",
        shift_seed=0, batch_size=4, how=how,
    )  # fmt: skip
    return Worker(Plan(data={}, steps=(step,)), device="cpu"), networks, how


@pytest.mark.parametrize("variant", [None, "tent", "cotta"])
def test_networks_that_fit_do_so_in_fact_and_one_more_would_not(variant, tmp_path):
    """Under a limit, with what torch's allocator says while they are loaded and one adapts."""
    folder = RunFolder(tmp_path)
    worker, networks, how = trained_networks(folder, ModelSpec(TINY_RESNET, 3), 5, variant)
    with AllocatedBytes() as memory:
        kept = [load_checkpoint(folder.file(network.folder)) for network in networks]
    one, more = memory.live / len(kept), 0 if variant is None else how.adapting.copies
    worker.room = (3.5 + more) * one
    assert worker.count_fitting(networks, folder) == 3
    del kept
    with AllocatedBytes() as memory:
        for network in networks:
            worker.network(network, folder)
    assert memory.live + more * one <= worker.room < memory.live + (1 + more) * one


LIMITED = """
import resource, sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fairweather.devices import is_out_of_memory
from fairweather.inference.prediction import Predictor, predict, predict_streams
from fairweather.models.building import ModelSpec, load_checkpoint
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import Images
from tests.test_devices import trained_networks

folder, spec = RunFolder(Path(sys.argv[1])), ModelSpec("timm:resnet18", 3, width=0.25)
pixels = torch.arange(3 * 32 * 32 * 6, dtype=torch.uint8).reshape(6, 3, 32, 32)
images = Images(pixels, torch.arange(6) % 3, torch.arange(6), ("a", "b", "c"))


class Copies(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(192, 3)

    def forward(self, pixels):
        return self.head(torch.stack([pixels.flatten(1)] * 64).mean(0))


def use(model, adapting):
    if adapting is None:
        return predict(model, images, batch_size=3, device="cpu")
    return predict_streams(
        Predictor(model, adapting=adapting), adapting, images=images, batch_size=3, device="cpu"
    )


def used():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))


def count(variant):
    worker, networks, how = made[variant]
    worker.room = limit // 2  # as of a GPU
    fits = worker.count_fitting(networks, folder)
    for network in [*networks[:fits], networks[0]]:
        use(worker.network(network, folder), how.adapting)
    assert len(worker._networks) == fits  # none was put aside
    worker._networks.clear()
    return fits


def count_given():
    # How many networks the allocator gives memory for, until it refuses.
    kept = []
    try:
        while len(kept) < 50:
            kept.append(load_checkpoint(folder.file("models/a/seed-0")))
    except Exception as error:
        assert is_out_of_memory(error)
    return len(kept)


made = {kind: trained_networks(folder, spec, 12, kind) for kind in (None, "tent", "cotta")}
worker, networks, how = made["cotta"]
size = worker._size_of(networks[0], folder)
copies = Copies().eval()
many = Images(torch.randint(256, (4096, 3, 8, 8), dtype=torch.uint8), torch.zeros(4096, dtype=int),
              torch.arange(4096), ("a", "b", "c"))
whole = predict(copies, many, batch_size=64, device="cpu").logits
use(load_checkpoint(folder.file(networks[0].folder)), how.adapting)  # what libraries load is kept
limit = 17 * size
hard = resource.getrlimit(resource.RLIMIT_DATA)[1]  # a user may not raise it
resource.setrlimit(resource.RLIMIT_DATA, (used() + limit, hard))
print(count(None), count("tent"), count("cotta"), 8 <= count_given() < 50)
sizes = []
halved = predict(copies, many, batch_size=4096, device="cpu", when_halved=sizes.append).logits
print(0 < len(sizes) < 6, np.abs(halved - whole).max() < 1e-5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit data")
def test_a_limit_that_torch_s_allocator_keeps_holds_what_fits_and_halves_a_batch(tmp_path):
    """What is counted to fit into half of a made-up limit of the system is loaded and adapted.

    Of 17 networks, half are 8.5. So 8 fit, 7 beside one copy, and 2 beside six. The other half is
    for activations, and for a file while it is read. It is the allocator of the CPU: one of a GPU
    was never asked.
    """
    command = [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path)]
    with started(command, Program) as process:
        assert process.stdout.read() == "8 7 2 True\nTrue True\n"
    assert process.returncode == 0


# ---------------------------------------------------------------- random numbers


def test_mps_is_seeded_for_a_training_and_has_its_own_state_afterwards(monkeypatch):
    state = {"now": "before"}
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state["now"])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda value: state.update(now=value))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: state.update(now=seed))
    with seeded(5, torch.device("mps")):
        assert state["now"] == 5
        state["now"] = "drawn from"
    assert state["now"] == "before"


# ---------------------------------------------------------------- sums in any order


class Repeatable(TorchDispatchMode):
    """It refuses to sum up floats as torch's CUDA kernels do, in another order each time."""

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.names or not args[0].is_floating_point(), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["pgd", "fab_t", "apgd_ce"])
def test_attacks_sum_up_in_the_same_order_on_every_device(name, norm, toy_images):
    model = Classifier(Plain(), (0.5,) * 3, (0.3,) * 3, input_size=8)
    larger = toy_images.images[:8].repeat_interleave(2, 2).repeat_interleave(2, 3)
    images = replace(toy_images[:8], images=larger)
    attack = make_attack(name, epsilon=0.2, norm=norm, steps=2)
    with Repeatable("cumsum", "_upsample_bilinear2d_aa_backward"):
        predict(model, images, attack, device="cpu")


def test_neighbours_vote_in_any_order(toy_images):
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    with Repeatable("scatter_add_"):
        assert 0 < knn_quality(encoder, NeighbourProbe(toy_images[:48], toy_images[48:]), CPU) <= 1


def test_a_running_sum_has_the_same_last_bit_in_any_order():
    shares = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0)) ** 9
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(1))
    found = _running_sum(shares)
    assert torch.equal(_running_sum(shares[:, order])[:, -1], found[:, -1])
    # Each number is rounded by at most 2**-38, and the sum to the 24 bits of a float32.
    exact = shares.double().cumsum(1)
    assert bool(((found - exact).abs() <= 5000 * 2**-38 + exact * 2**-24).all())


@pytest.mark.parametrize("size", [(20, 12), (8, 8), (5, 9)])
def test_the_gradient_of_a_resize_is_torch_s(size):
    images = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    wanted = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    found = SquareResize.apply(images, 8)
    expected = F.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    assert torch.equal(found, expected)
    (one,), (other,) = (torch.autograd.grad(each, images, wanted) for each in (found, expected))
    # Sums of at most 64 products below 1, each rounded to 53 bits a few times.
    assert torch.allclose(one, other, rtol=0, atol=64 * 2**-50)


UNBOUND = """
import os, sys
before, sys.argv = os.sched_getaffinity(0), ["fairweather", "--version"]
from fairweather.__main__ import main
try:
    main()
except SystemExit:
    import torch
    print(torch.ones(10**6).sum().item(), os.sched_getaffinity(0) == before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bind processes")
@pytest.mark.skipif(count_cores() < 2, reason="there is no second core to lose")
def test_the_command_line_may_use_all_cores_whatever_openmp_is_told():
    """GNU's OpenMP would else keep it on the first core."""
    command, told = [sys.executable, "-c", UNBOUND], {**os.environ, "OMP_PROC_BIND": "true"}
    with started(command, env=told) as process:
        assert process.stdout.read().splitlines()[1:] == ["1000000.0 True"]
    assert process.returncode == 0


GROUPS = {
    "version 2": {
        "/proc/self/cgroup": "0::/job/step\n",
        "/sys/fs/cgroup/job/step/memory.max": "max\n",
        "/sys/fs/cgroup/job/step/memory.current": "700",
        "/sys/fs/cgroup/job/step/memory.stat": "inactive_file 1\nactive_file 0\n",
        "/sys/fs/cgroup/job/memory.max": "1000\n",
        "/sys/fs/cgroup/job/memory.current": "700\n",
        "/sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 150\nactive_file 50\n",
    },
    "version 1, seen from inside": {
        "/proc/self/cgroup": "5:cpu:/box\n4:memory:/box\n0::/\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": "700\n",
        "/sys/fs/cgroup/memory/memory.stat": (
            "inactive_file 9\nactive_file 8\ntotal_inactive_file 150\ntotal_active_file 50\n"
        ),
    },
    "no groups": {},
}


class Frames(nn.Module):
    """Takes an image as a film of one frame."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(3, 3, (1, 8, 8))

    def forward(self, images):
        return self.layer(images[:, :, None]).flatten(1)


def test_weights_of_five_dimensions_are_predicted_with(toy_images):
    model = Frames().eval()
    found = predict(model, toy_images, device="cpu").logits
    with torch.no_grad():
        np.testing.assert_allclose(found, model(toy_images.images / 255), atol=1e-5)


def test_a_network_that_does_not_fit_is_one_sentence(toy_images, monkeypatch):
    def fill(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    network = Frames()
    monkeypatch.setattr(network, "to", fill)
    with pytest.raises(InputError, match=r"^a network does not fit into the memory of cpu \(CUDA"):
        predict(network, toy_images, device="cpu")


def test_networks_may_take_half_of_what_a_gpu_has_free():
    with pretended("cuda") as device:
        assert memory_for_networks(device) == 2**31
    with pretended("xpu") as device:
        assert memory_for_networks(device) == PROPERTIES.total_memory // 2


@pytest.mark.parametrize("kind", GROUPS)
def test_a_container_may_have_less_memory_than_its_machine(kind, monkeypatch):
    files = GROUPS[kind] | {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"}

    def read(path, **_):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr("pathlib.Path.read_text", read)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limited = kind != "no groups"
    assert available_memory() == (1000 - (700 - 200) if limited else 4000 * 1024)
    assert memory_for_networks(torch.device("cpu")) == (1000 if limited else whole) // 4
    del files["/proc/meminfo"]
    assert available_memory() == (500 if limited else whole // 2)


def test_a_container_may_have_fewer_cores_than_its_machine(monkeypatch):
    limit, exists, opens = "/sys/fs/cgroup/cpu.max", os.path.exists, open

    def read(name, *how, **given):
        return StringIO("100000 100000\n") if name == limit else opens(name, *how, **given)

    monkeypatch.setattr("os.path.exists", lambda name: name == limit or exists(name))
    monkeypatch.setattr("builtins.open", read)
    assert count_cores() == 1

"""Several real processes train one network together, as one process would."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.attacks.table import make_training_attack
from fairweather.devices import count_cores
from fairweather.errors import InputError, TrainingDivergedError
from fairweather.models.building import ModelSpec, build
from fairweather.processes import start_module
from fairweather.runs.folder import RunFolder
from fairweather.shifts.table import make_shift
from fairweather.training.fabric import LocalEnvironment, find_free_network_port, find_launcher
from fairweather.training.losses import ONE_CLASS, SEVERAL_FINDINGS
from fairweather.training.ranks import ALONE, Ranks, join_ranks, synchronise_batchnorm
from fairweather.training.recipe import (
    Adversarial,
    AsymmetricLoss,
    AugMix,
    GaussianNoise,
    Recipe,
    Rotation,
)
from fairweather.training.selfsupervised.pretraining import NeighbourProbe, pretrain
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.training.supervised import fit
from fairweather.types.measurement import UNKNOWN, Images
from fairweather.workers import rank_processes
from fairweather.workers.schedule import execute
from tests.helpers.forking import modules_forked, side_by_side
from tests.helpers.same_bytes import same

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
CORES = count_cores()
# 23 images are cut into batches of 8, 8 and 7: the last is shared unequally.
PLAIN = Recipe(epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.05)
RECIPES = {
    "plain": PLAIN,
    "mixup": replace(PLAIN, mixup=0.3, horizontal_flip=0.5, rotation=Rotation(20, 0.5)),
    "cutmix": replace(PLAIN, cutmix=1.0, label_smoothing=0.1, trivial_augment=True),
    "augmix": replace(PLAIN, augmix=AugMix(), gaussian_noise=GaussianNoise(0.1, 0.5)),
    "averaged": replace(PLAIN, ema_decay=0.9, clip_gradient_norm=0.1, probe_epochs=1),
    "adversarial": replace(PLAIN, adversarial=Adversarial(epsilon=4 / 255, steps=2)),
}
METHODS = ("barlow_twins", "vicreg", "rotation", "supervised")
# Of several findings, a part of a batch may have more known labels than another.
OF_FINDINGS = {
    "findings": replace(PLAIN, asymmetric_loss=AsymmetricLoss(), positive_weights="balanced"),
    "mixed findings": RECIPES["mixup"],
    "findings, augmix": RECIPES["augmix"],
}
UNCLEAR = "supervised findings"


def images(count, seed, loss=ONE_CLASS):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), labels] += 100
    if loss is SEVERAL_FINDINGS:
        labels = nn.functional.one_hot(labels, 3)
        labels[torch.rand(count, 3, generator=generator) < 0.4] = UNKNOWN
    return Images(pixels, labels, torch.arange(count), ("red", "green", "blue"))


def network():
    """Without batch norm: each image is treated by itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 3)
        pooled = (nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(first, *pooled, head), head


def trained(recipe, members, loss=ONE_CLASS):
    model, head = network()
    with_attack = recipe.adversarial is not None
    attack = make_training_attack("pgd", epsilon=4 / 255, steps=2) if with_attack else None
    shifts = [make_shift("gamma", exponent=2.0)] if recipe is PLAIN else []
    epochs = fit(
        model,
        images(23, 1, loss),
        images(20, 2, loss),
        recipe,
        head=head,
        train_shifts=shifts,
        attack=attack,
        ranks=members,
        loss=loss,
    )
    *_, last = epochs
    measured = ("train_loss", f"train_{loss.metric}", "val_loss", f"val_{loss.metric}")
    return [[row[key] for key in measured] for row in last.history], last.state["best"]


def pretrained(method, members, loss=ONE_CLASS):
    model, _ = network()
    widths = {} if method in ("rotation", "supervised") else {"projector": (6,)}
    rates = {"optimizer": "sgd", "learning_rate": 0.1, "bias_learning_rate": 0.1}
    recipe = Pretraining(method, epochs=2, batch_size=8, weight_decay=0, **widths, **rates)
    probe = NeighbourProbe(images(23, 1, loss), images(20, 2, loss), loss)
    train = images(24, 1, loss)
    epochs = pretrain(model[:-1], train, recipe, features=8, probe=probe, ranks=members, loss=loss)
    *_, last = epochs
    measured = ("train_loss", "embedding_std", f"knn_{loss.metric}")
    return [[row[key] for key in measured] for row in last.history], last.state["encoder"]


def everything(members):
    found = {name: trained(recipe, members) for name, recipe in RECIPES.items()}
    for name, recipe in OF_FINDINGS.items():
        found[name] = trained(recipe, members, SEVERAL_FINDINGS)
    found[UNCLEAR] = pretrained("supervised", members, SEVERAL_FINDINGS)
    return found | {method: pretrained(method, members) for method in METHODS}


def look_for_images(members):
    with members.agreeing():
        if members.rank == 1:
            raise InputError("no images here")


def look_in_another_group(rank, port, groups):
    with join_ranks(LocalEnvironment(rank, 2, port), 2, 1, CPU) as members:
        groups.extend(map(weakref.ref, (torch.distributed.group.WORLD, members.talk)))
        look_for_images(members)


class Explodes(nn.Module):
    """Its logits are not finite for one image, which one process has."""

    def __init__(self):
        super().__init__()
        self.network, _ = network()

    def forward(self, pixels):
        is_marked = (pixels[:, :, 0, 0] > 0.99).all(1, keepdim=True)
        return torch.where(is_marked, torch.inf, self.network(pixels))


def explode(members):
    marked = images(23, 1)
    marked.images[0, :, 0, 0] = 255
    attack = make_training_attack("pgd", epsilon=1 / 255, steps=1)
    recipe = replace(PLAIN, adversarial=Adversarial(epsilon=1 / 255, steps=1))
    list(fit(Explodes(), marked, marked, recipe, attack=attack, ranks=members))


def work(rank, ports, folder):
    torch.set_num_threads(1)
    with join_ranks(LocalEnvironment(rank, 2, ports[0]), 2, 1, CPU) as members:
        found = everything(members)
        with pytest.raises(InputError, match=r"process 1 of 2: no images here"):
            look_for_images(members)
        with pytest.raises(TrainingDivergedError, match=r"process \d of 2: the logits are not"):
            explode(members)
        norm = nn.BatchNorm1d(1)
        norm(torch.full((2, 1), float(1 + rank)))
        members.copy_statistics(norm)
        found["statistics"] = norm.running_mean
        ended = weakref.ref(torch.distributed.group.WORLD)
    gc.collect()  # nobody keeps it but cycles of objects
    found["kept"] = [ended() is not None]
    groups = []
    with pytest.raises(InputError):
        look_in_another_group(rank, ports[1], groups)
    found["kept"].append(all(ended() is not None for ended in groups))
    with join_ranks(LocalEnvironment(rank, 2, ports[2]), 2, 1, CPU):
        gc.collect()
        found["kept"].append(any(ended() is not None for ended in groups))
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    side_by_side(work, [find_free_network_port() for _ in range(3)], folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return everything(ALONE)


@pytest.mark.parametrize("name", [*RECIPES, *METHODS, *OF_FINDINGS, UNCLEAR])
def test_two_processes_train_what_one_trains(together, alone, name):
    """Up to the order of sums: here each has at most a thousand terms of about one, in float32.

    So a sum is wrong by less than 1000 x 6e-8, and six small steps add their errors. A part that is
    weighted wrongly changes the loss by a percent.
    """
    history, weights = alone[name]
    for found in together:
        assert torch.allclose(torch.tensor(found[name][0]), torch.tensor(history), rtol=1e-3)
        for key, expected in weights.items():
            assert torch.allclose(found[name][1][key], expected, rtol=1e-3, atol=4e-4), key
    assert together[0][name][0] == together[1][name][0]  # so both choose the same epoch


def test_the_first_process_has_the_statistics_of_batch_norm(together):
    assert [float(found["statistics"]) for found in together] == pytest.approx([0.1, 0.1])


def test_a_group_is_kept_if_an_error_has_ended_it_until_the_next(together):
    """It would be freed in the middle of sending, and some processes would hang: see `joined`."""
    assert [found["kept"] for found in together] == [[False, True, False]] * 2


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("places", [(1, 1), (2, 1), (3, 1), (2, 2)])
def test_the_parts_of_a_batch_are_the_batch(places, count):
    size = places[0] * places[1]
    parts = [Ranks(rank, *places).part(count) for rank in range(size)]
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    lengths = [len(range(count)[part]) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_must_have_two_images_for_each_process():
    Ranks(devices=4).check_batches([torch.arange(8)])
    ALONE.check_batches([torch.arange(1)])
    with pytest.raises(InputError, match="4 processes need batches of at least 8 images, found 7"):
        Ranks(devices=4).check_batches([torch.arange(8), torch.arange(7)])


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_efficientnet"])
def test_synchronised_batch_norm_keeps_what_a_network_gives(backbone):
    """torch's own conversion would lose the activations of timm's layers."""
    model = build(ModelSpec(backbone, 3), seed=0).eval()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixels)
        synchronise_batchnorm(model)
        assert torch.equal(model(pixels), before)
    assert any(isinstance(each, nn.SyncBatchNorm) for each in model.modules())
    assert not any(isinstance(each, nn.BatchNorm2d) for each in model.modules())


# ---------------------------------------------------------------- whole runs

STUDY = """
name: colours
data: {{source: "folder:{folder}", size: 16}}
seeds: 1
threads: 1
shifts: [{{gaussian_blur: {{sigma: [1], kernel_size: 5}}}}]
bootstrap: 100
pretraining:
  views:
    title: Barlow Twins
    backbone: timm:test_resnet
    recipe: {{method: barlow_twins, epochs: 2, batch_size: 16, projector: [8, 8]}}
models:
  basic:
    title: Basic
    backbone: timm:test_resnet
    weights: pretraining:views
    recipe: {{epochs: 2, batch_size: 16, learning_rate: 1e-2}}
"""
# The first process of a group is killed in the second epoch of a training.
KILLED = """
import os, signal, sys
import fairweather as fw
import fairweather.devices
fairweather.devices.count_cores = lambda: 8
def tell(event):
    if event.task == "train Basic" and event.done == 1:
        os.kill(os.getpid(), signal.SIGKILL)
fw.run(sys.argv[1], out=sys.argv[2], device="cpu", devices=2, progress=tell)
"""


@pytest.fixture(scope="module", autouse=True)
def _cores():
    """The tests do not need a machine with several cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairweather.devices.count_cores", lambda: 8)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, colour_folder):
    path = tmp_path_factory.mktemp("study") / "colours.yaml"
    path.write_text(STUDY.format(folder=colour_folder))
    return path


@pytest.fixture(scope="module")
def run_together(study):
    return fw.run(study, out=study.parent / "together", device="cpu", devices=2)


def helpers():
    """The processes that train with another one on this machine, by their parents."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return {int(pid): int(parent) for pid, parent, args in rows if "executors.rank" in args}


def test_two_processes_do_a_run_and_end(run_together):
    trained = RunFolder(run_together.path).step("models/basic/seed-0")
    assert trained.depends["processes"] == 2
    assert os.getpid() not in helpers().values()
    assert not torch.distributed.is_initialized()


def test_jobs_on_the_same_devices_predict_what_the_first_process_would(
    study, run_together, tmp_path, monkeypatch
):
    began = []

    def alone(assigned, run, worker, tell):
        began.append(len(assigned))
        execute(assigned[0].plan, run, worker, tell)

    monkeypatch.setattr(rank_processes, "execute_by_jobs", alone)
    fw.run(study, out=tmp_path / "run", device="cpu", devices=2)
    assert began == [2]
    same(run_together.path, tmp_path / "run")


@pytest.mark.parametrize(
    "starting", [modules_forked, pytest.param(nullcontext, marks=pytest.mark.nightly)]
)
def test_a_run_whose_second_process_is_killed_continues(
    study, run_together, tmp_path, monkeypatch, starting
):
    begun = []

    def begin(module):
        begun.append(start_module(module))
        return begun[-1]

    def tell(event):
        if event.task == "train Basic" and event.done == 1:
            (second,) = begun
            second.kill()

    monkeypatch.setattr("fairweather.workers.rank_processes.start_module", begin)
    with starting():
        with pytest.raises(InputError, match=r"process 1 of 2.*signal 9; the same command"):
            fw.run(study, out=tmp_path / "run", device="cpu", devices=2, progress=tell)
        assert not torch.distributed.is_initialized()
        begun.clear()
        fw.run(study, out=tmp_path / "run", device="cpu", devices=2)
    same(run_together.path, tmp_path / "run")


def test_a_process_that_ends_before_it_joins_is_told(study, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fairweather.workers.rank_processes.start_module",
        lambda module: start_module("fairweather.no_such_module"),
    )
    with pytest.raises(InputError, match=r"process 1 of 2, .* ended with status 1"):
        fw.run(study, out=tmp_path / "run", device="cpu", devices=2)


@pytest.mark.nightly
def test_no_process_outlives_the_first_and_the_run_continues(study, run_together, tmp_path):
    command = [sys.executable, "-c", KILLED, str(study), str(tmp_path / "run")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    ended = time.monotonic() + 60
    while 1 in helpers().values():
        assert time.monotonic() < ended
        time.sleep(0.1)
    fw.run(study, out=tmp_path / "run", device="cpu", devices=2)
    same(run_together.path, tmp_path / "run")


@pytest.mark.nightly
@pytest.mark.skipif(CORES < 2, reason="a command asks for the cores that there are")
def test_torchrun_starts_the_same_run(study, run_together, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "fairweather", "run", str(study), f"--out={tmp_path / 'run'}", "--device=cpu"]
    done = subprocess.run(
        [*launch, *command, "--devices=2"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1  # only the first process shows the result
    same(run_together.path, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": 2, "jobs": 2}, "2 processes train each network together; that goes without"),
        ({"devices": 2, "worker": True}, "2 processes train each network together; that goes"),
        ({"devices": 0}, "devices must be at least 1, found 0"),
        ({"nodes": 0}, "nodes must be at least 1, found 0"),
        ({"jobs": "two"}, "jobs: input should be a valid integer, .* found 'two'"),
        ({"devices": 2, "nodes": 2}, r"2 nodes: start the command on each .* torchrun"),
        ({"devices": 2, "strategy": "ddp"}, "strategy is gone: .* by Distributed"),
        ({"devices": 4096}, r"4096 processes of 1 threads need 4096 cores"),
        ({"devices": 2, "overrides": ["processes=3"]}, "the study says processes: 3, but 2"),
        ({"overrides": ["sync_batchnorm=true"]}, "sync_batchnorm is for several processes"),
        ({"devices": 2, "overrides": ["processes=2", "sync_batchnorm=true"]}, "needs cuda devices"),
        (
            {"devices": 2, "overrides": ["models.basic.recipe.rotation_prediction=0.5"]},
            "rotation_prediction trains in one process, found processes 2",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_refused(study, tmp_path, options, sentence):
    with pytest.raises(InputError, match=sentence):
        fw.run(study, out=tmp_path / "run", device="cpu", **options)
    assert not (tmp_path / "run").exists()


def test_processes_that_were_started_must_be_asked_for(study, tmp_path, monkeypatch):
    told = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**told, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    sentence = r"4 processes were started, 2 of them on this machine, but --devices 1 --nodes 1"
    with pytest.raises(InputError, match=sentence):
        fw.run(study, out=tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="--devices 4 --nodes 1 needs 4, 4 on each"):
        fw.run(study, out=tmp_path / "run", device="cpu", devices=4)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert find_launcher() is None


def test_a_step_of_srun_is_known_and_a_batch_script_is_not(monkeypatch):
    for name in ("NTASKS", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "2")
    assert find_launcher() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(InputError, match="--ntasks-per-node=2"):
        find_launcher()
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert find_launcher().global_rank() == 2

"""Two real processes that share a batch: the loss and the gradients are those of one process."""

import os
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed
from lightly.loss import BarlowTwinsLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairweather.training.selfsupervised.methods import METHODS, barlow_twins_loss
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from tests.helpers.forking import Program, side_by_side
from tests.helpers.started import started

N, WIDTH = 16, 6


def our_loss(method):
    recipe = Pretraining(method, projector=(WIDTH,))
    return METHODS[method].build(WIDTH, recipe, 0).loss


def lightly_barlow(first, second):
    return BarlowTwinsLoss(0.0051, gather_distributed=True)(first, second)


LOSSES = {
    "barlow_twins": our_loss("barlow_twins"),
    "simclr": our_loss("simclr"),
    "vicreg": our_loss("vicreg"),
    "simsiam": our_loss("simsiam"),
    "lightly's barlow_twins": lightly_barlow,
}
SHARES = {"equal": (0, 8, 16), "unequal": (0, 5, 16)}


def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, WIDTH)).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, N, 4, generator=generator, dtype=torch.float64)


def loss_and_gradients(model, loss, views):
    # In one call: two calls of a DistributedDataParallel before a backward are not supported.
    first, second = model(torch.cat(list(views))).tensor_split(2)
    value = loss(first, second)
    value.backward()
    return value.item(), [each.grad.clone() for each in model.parameters()]


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    found = {}
    for share, cuts in SHARES.items():
        views = batch()[:, cuts[rank] : cuts[rank + 1]]
        for name, loss in LOSSES.items():
            if share == "equal" or name == "barlow_twins":
                model = DistributedDataParallel(encoder())
                found[name, share] = loss_and_gradients(model, loss, views)
    torch.save(found, folder / f"{rank}.pt")
    while not (folder / f"{1 - rank}.pt").exists():
        time.sleep(0.01)
    # Destroying a process group can hang: exit without it.
    os._exit(0)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The results of two processes, by loss and by share of the batch."""
    folder = tmp_path_factory.mktemp("processes")
    side_by_side(work, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def alone(name):
    return loss_and_gradients(encoder(), LOSSES[name], batch())


def same(found, expected):
    pairs = zip(found, expected, strict=True)
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)


@pytest.mark.parametrize("share", SHARES)
def test_barlow_twins_on_two_processes_is_that_on_one(together, share):
    loss, gradients = alone("barlow_twins")
    for found in together:
        assert found["barlow_twins", share][0] == pytest.approx(loss, rel=1e-12)
        assert same(found["barlow_twins", share][1], gradients)


@pytest.mark.parametrize("name", ["simclr", "vicreg", "simsiam"])
def test_lightlys_other_losses_on_two_processes_are_those_on_one(together, name):
    """Each process has the loss of its own share; their mean, and the gradients, are right."""
    loss, gradients = alone(name)
    values = [found[name, "equal"][0] for found in together]
    assert sum(values) / 2 == pytest.approx(loss, rel=1e-12)
    assert all(same(found[name, "equal"][1], gradients) for found in together)


def test_lightlys_barlow_twins_is_another_loss_on_two_processes(together):
    """It normalises each process's share on its own, which is why it is not used."""
    loss, gradients = alone("lightly's barlow_twins")
    assert loss == pytest.approx(alone("barlow_twins")[0], rel=1e-9)
    found = together[0]["lightly's barlow_twins", "equal"]
    assert abs(found[0] - loss) > 0.01 * loss
    assert not same(found[1], gradients)


def test_half_a_batch_alone_is_not_the_batch():
    """The results of the tests above if nothing were summed over processes."""
    first, second = batch()[:, :8]
    half = barlow_twins_loss(encoder()(first), encoder()(second), 0.0051)
    assert abs(half.item() - alone("barlow_twins")[0]) > 0.01 * half.item()


def test_lightly_is_imported_late_without_network_or_warning():
    """Nothing is downloaded, there is no warning, and the package itself does not load it.

    The rest of the package was imported before; `test_cli.py` sees what that loads.
    """
    script = """
import socket, sys
def refuse(*a, **k): raise AssertionError("the network was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.training.selfsupervised.methods import METHODS
assert not [name for name in sys.modules if name.split(".")[0] == "lightly"]
for method in ("barlow_twins", "rotation", "supervised"):
    METHODS[method].build(4, Pretraining(method), 3)
assert "lightly" not in sys.modules
METHODS["simclr"].build(4, Pretraining("simclr"), 3)
assert "lightly" in sys.modules
assert "pytorch_lightning" not in sys.modules
sys.modules["lightly"] = sys.modules["lightly.loss"] = None
try:
    METHODS["vicreg"].build(4, Pretraining("vicreg", projector=(8,)), 3)
except ValueError as error:
    print(error)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([sys.executable, "-W", "error", "-c", script], Program, **pipes) as process:
        printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed.strip().endswith("the package lightly: pip install 'fairweather[ssl]'")

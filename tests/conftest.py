"""Small real files and small real models for the tests."""

import functools
import gc
import itertools
import math
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.testing
from hypothesis import settings
from PIL import Image

from fairweather.cli.app import main
from fairweather.devices import count_cores
from fairweather.runs import provenance
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import Images
from tests.helpers.forking import modules_forked


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Half as many processes again as there are cores.

    Tests wait for others in an eighth of their time: for browsers, servers, signals, and processes
    that end.
    """
    return count_cores() + count_cores() // 2


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for garbage only after the tests are collected: it took a quarter of that time.

    What is there before the first test stays to the end, and is not searched again. The tests
    themselves have the collector that users have.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


# These take half a minute each, and a module is tested by one process: if one of them came last,
# the other processes would wait for it.
LONG = ("browser", "evaluate", "guard", "jobs", "report", "studies", "study", "workers")


def pytest_collection_modifyitems(items):
    """Begin with the modules that take long."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


# A shell's background jobs ignore interruptions, and what they start does too. Tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples that chance does not choose, so that a change is judged by what it changes, not by luck
# (another Hypothesis, or other numbers in the code, may bring others). `make nightly` looks for new
# ones.
settings.register_profile("new_examples", deadline=None)
settings.register_profile("same_examples", deadline=None, derandomize=True)
settings.load_profile("same_examples")

# timm's own networks for tests: real ResNet and EfficientNet blocks, few channels.
TINY_RESNET, TINY_EFFICIENTNET = "timm:test_resnet", "timm:test_efficientnet"
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


@pytest.fixture(scope="session", autouse=True)
def _without_waiting_for_the_disk():
    """Nothing here has to outlast a power failure, and some disks take 10 ms for each file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_look_at_this_repository():
    """Each run asks git which files of the working folder differ, and in a new clone git reads all.

    Nothing here changes this repository; others are looked at each time.
    """
    ask, root = provenance._git_revision, Path(__file__).parents[1]
    once = functools.cache(ask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            provenance,
            "_git_revision",
            lambda folder: (once if folder.is_relative_to(root) else ask)(folder),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_command_line():
    """Typer reads the signatures of all commands for each command, which takes 25 ms."""
    once = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", once)
        patch.setattr("typer.testing._get_command", once, raising=False)  # its own name for it
        yield


@pytest.fixture(scope="module")
def undrawn():
    """Reports have tables, but no figures and no page: for tests that are about all else.

    Drawing takes most of the time of a run that has a few images. `draw` draws one after all.
    """
    import fairweather.report.building as reporting

    kept = {name: getattr(reporting, name) for name in ("_draw_figures", "render_page")}

    def no_figures(*_):
        return []

    def patched(patch, figures, page):
        patch.setattr(reporting, "_draw_figures", figures)
        patch.setattr(reporting, "render_page", page)

    def draw(run, figures=True):
        with pytest.MonkeyPatch.context() as patch:
            patched(patch, kept["_draw_figures"] if figures else no_figures, kept["render_page"])
            reporting.build_report(RunFolder(run.path))

    with pytest.MonkeyPatch.context() as patch:
        patched(patch, no_figures, lambda *_: "<!doctype html>")
        yield draw


@pytest.fixture
def draw(undrawn):
    """Draw the figures and the page of a run for real, or the page alone."""
    return undrawn


@contextmanager
def figures_left_out():
    """Reports have pages and tables, but no figures in files, which take as long to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairweather.report.building._draw_figures", lambda *_: [])
        yield


@pytest.fixture
def no_figures():
    """Reports without figures, for tests that look at their pages or tables."""
    with figures_left_out():
        yield


@contextmanager
def pngs_left_out():
    """Reports whose PNGs are empty: they take as long as their SVGs, which are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairweather.report.building.draw_png", lambda _: b"")
        patch.setattr("fairweather.report.vega.MANY_LETTERS", math.inf)  # no processes for nothing
        yield


@pytest.fixture
def no_pngs():
    """Reports without PNGs, for tests that look at their pages, tables or SVGs."""
    with pngs_left_out():
        yield


@pytest.fixture
def no_page(monkeypatch):
    """Reports whose page is a number that counts up, for tests that look at all else."""
    numbers = itertools.count()
    monkeypatch.setattr(
        "fairweather.report.building.render_page", lambda *_: f"page {next(numbers)}"
    )


@pytest.fixture(scope="module")
def forking():
    """The processes that the package starts have imported it before they begin."""
    with modules_forked():
        yield


@pytest.fixture
def starting(forking):
    """The first of them starts for real after all."""
    with modules_forked(real=1):
        yield


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests run side by side on few cores, on tensors too small to be shared."""
    torch.set_num_threads(1)


def keep_lines(lines):
    """A callback for progress that keeps what a person should read."""

    def progress(event):
        if event.line:
            lines.append(event.line)

    return progress


def picture(colour, rng, size=16):
    """A noisy, shaded square of one colour: easy to learn, and sensitive to brightness."""
    shade = rng.uniform(0.4, 1.0)
    noise = rng.normal(0, 25, (size, size, 3))
    return Image.fromarray(np.clip(np.array(colour) * shade + noise, 0, 255).astype(np.uint8))


def write_pictures(root, **counts):
    """Write PNG files in three classes, so many for each class of each split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture(colour, rng).save(root / split / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory):
    """A folder of PNG files in three classes, with train and test parts."""
    return write_pictures(tmp_path_factory.mktemp("colours"), train=30, test=20)


@pytest.fixture
def toy_images():
    """96 tiny images of three classes, as tensors."""
    rng = np.random.default_rng(1)
    labels = torch.arange(96) % 3
    arrays = [np.array(picture(list(COLOURS.values())[label], rng, 8)) for label in labels.tolist()]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Images(images, labels, torch.arange(96), tuple(COLOURS))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fairweather", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run

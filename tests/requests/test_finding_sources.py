"""Images with several findings from a table of files: other processes, trained models, natural
shifts."""

import contextlib
import signal
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.attacks.table import make_attack, select_labels
from fairweather.errors import InputError
from fairweather.models.wrappers import Ensemble
from fairweather.requests.study.schema import check_study
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import UNKNOWN
from fairweather.types.record import ENSEMBLE, predictions_file
from tests.conftest import TINY_RESNET, keep_lines
from tests.helpers.finding_models import NAMES, draw_findings, write_python
from tests.helpers.same_bytes import same
from tests.helpers.started import started

pytestmark = pytest.mark.usefixtures("undrawn")

OPTIONS = {"bootstrap": 100, "device": "cpu", "threads": 1}
SHIFTS = ["imagenet_c/gaussian_noise: [2]", "gaussian_blur: [0.8]", "fgsm: [0.02]"]


def write_table(folder, count, seed, names=NAMES, **splits):
    """Write pictures, and a table of their findings with an empty cell where one is unknown."""
    images = draw_findings(count, seed, names)
    folder.mkdir()
    files = [f"{number:03}.png" for number in range(count)]
    for file, pixels in zip(files, images.images.numpy(), strict=True):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / file)
    cells = np.where(images.labels == UNKNOWN, "", images.labels.numpy().astype(str))
    table = pd.DataFrame({"file": files, **dict(zip(names, cells.T, strict=True)), **splits})
    table.to_csv(folder / "labels.csv", index=False)
    return f"csv:{folder / 'labels.csv'},findings={'|'.join(names)}"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("data") / "a", 120, 4)


@pytest.fixture
def model(tmp_path):
    return write_python(tmp_path / "model", "logits.sigmoid()")


def evaluate(model, data, out, shifts=SHIFTS, **options):
    return fw.evaluate(model, data, shifts, out=out, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return evaluate(write_python(folder / "model", "logits.sigmoid()"), table, folder / "run")


def test_a_table_of_files_is_measured(whole, table):
    images = fw.load_data(table, test_fraction=1).test
    stored = whole.folder.read_cell(predictions_file("stripes-make", 0, "clean"))
    np.testing.assert_array_equal(stored.labels, images.labels.numpy())
    assert stored.classes == NAMES


def test_several_processes_change_no_byte(whole, model, table, tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 2)
    same(whole, evaluate(model, table, tmp_path / "run", jobs=2))


def test_a_killed_command_goes_on_to_the_same_bytes(whole, model, table, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fairweather", "evaluate", model, table, "--out", str(out)]
    command += ["--bootstrap", "100", "--device", "cpu", "--threads", "1"]
    command += [word for shift in SHIFTS for word in ("--shift", shift)]
    with started(command) as process:
        until = time.monotonic() + 300
        while not list(out.glob("predictions/**/*.parquet")) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
    same(whole, evaluate(model, table, out))


# ---------------------------------------------------------------- trained models


@pytest.fixture(scope="module")
def study(table, tmp_path_factory):
    """Two seeds of a network that is trained on findings, and their ensemble."""
    model = {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1, "batch_size": 32}}
    asked = {
        "name": "findings",
        "data": {"source": table, "size": 12},
        "seeds": [0, 1],
        "ensemble": True,
        "models": {"basic": model},
        "shifts": [{"gaussian_blur": [0.8]}, {"fgsm": {"epsilon": 0.02, "finding": "Mass"}}],
        "bootstrap": 100,
    }
    return fw.run(check_study(asked), out=tmp_path_factory.mktemp("study") / "run", device="cpu")


def test_an_ensemble_averages_probabilities_and_is_attacked_as_one(study, table):
    members = [fw.load_model(f"run:{study.path}/models/basic/seed-{seed}") for seed in (0, 1)]
    together = Ensemble(members, FINDINGS).eval()
    folder = study.folder
    clean, attacked = (
        folder.read_cell(predictions_file("basic", ENSEMBLE, text))
        for text in ("clean", "fgsm,epsilon=0.02,finding=Mass")
    )
    arguments = folder.record.data.arguments
    images = fw.load_data(table, size=12).test
    assert arguments["size"] == 12
    np.testing.assert_array_equal(images.keys.numpy(), clean.keys)
    pixels = images.images / 255
    with torch.no_grad():
        np.testing.assert_allclose(clean.logits, together(pixels).numpy(), rtol=1e-4, atol=1e-4)
    attack = make_attack("fgsm", epsilon=0.02, finding="Mass")
    moved = attack(together, pixels, select_labels(attack, images), images.keys)
    with torch.no_grad():
        np.testing.assert_allclose(attacked.logits, together(moved).numpy(), rtol=1e-3, atol=1e-3)
    unknown = images.labels[:, 1].numpy() == UNKNOWN
    np.testing.assert_allclose(
        attacked.logits[unknown], clean.logits[unknown], rtol=1e-4, atol=1e-4
    )


def test_a_model_of_a_run_is_measured_on_its_own_test_images(study, table, tmp_path):
    said = []
    run = evaluate(
        f"run:{study.path}/models/basic/seed-0",
        table,
        tmp_path / "run",
        [],
        progress=keep_lines(said),
    )
    (name,) = run.folder.record.models
    ours = run.folder.read_cell(predictions_file(name, 0, "clean"))
    theirs = study.folder.read_cell(predictions_file("basic", 0, "clean"))
    np.testing.assert_array_equal(ours.keys, theirs.keys)
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    assert any(line.startswith("outputs        logits (the network's own)") for line in said)


def test_a_model_that_was_trained_on_findings_is_refused_for_classes(
    study, colour_folder, tmp_path
):
    with pytest.raises(
        InputError, match="trained to predict several findings, and these data have"
    ):
        evaluate(
            f"run:{study.path}/models/basic/seed-0",
            f"folder:{colour_folder}",
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- other images of the same findings


def test_other_images_with_some_of_the_findings_are_a_natural_shift(model, table, tmp_path):
    other = write_table(tmp_path / "b", 90, 8, NAMES[:2])
    said = []
    run = evaluate(
        model,
        table,
        tmp_path / "run",
        [],
        natural={"b": other},
        progress=keep_lines(said),
    )
    assert any("natural        b: " in line and "2 of these findings" in line for line in said)
    scores = pd.read_csv(run.path / "scores.csv")
    natural = scores[(scores["shift"] == "natural/b") & (scores["metric"] == "auc")]
    units = set(natural["unit"])
    assert {"finding=Effusion", "finding=Mass"} <= units
    assert "finding=Nodule" not in units


def test_natural_images_of_classes_are_refused(model, table, colour_folder, tmp_path):
    with pytest.raises(
        InputError, match=r"other kinds of labels \(classification and multilabel\)"
    ):
        evaluate(model, table, tmp_path / "run", natural={"b": f"folder:{colour_folder}"})
    assert not (tmp_path / "run").exists()

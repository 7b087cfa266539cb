"""Rows of scores.csv that need several cells: flips along levels, errors over a family."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.metrics import Estimate
from fairweather.metrics.robustness import ALEXNET, ALEXNET_CLEAN, FILES_MINUS_MEMORY
from fairweather.models.class_names import read_imagenet
from fairweather.steps.score_rows import (
    _corruption_errors,
    file_difference_rows,
    is_imagenet_at_224,
)
from fairweather.types.record import predictions_file


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(3 * 16 * 16, 3)

    def forward(self, images):
        return self.linear(images.flatten(1))


@pytest.fixture(scope="module")
def run(undrawn, colour_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("derived") / "run"
    shifts = ["brightness_factor: [0.4, 1.6, 0.7]", "imagenet_c/fog", "fgsm,epsilon=0.02"]
    data = replace(fw.load_data(f"folder:{colour_folder}"), val=None)
    return fw.evaluate(Linear(), data, shifts, out=out, bootstrap=100, device="cpu")


def predicted(run, shift):
    return run.folder.read_column(predictions_file("Linear", 0, shift), "predicted")


def row(run, shift, metric, level="mean"):
    scores = run.scores
    wanted = (scores["shift"] == shift) & (scores["metric"] == metric) & (scores["level"] == level)
    assert wanted.sum() == 1, (shift, metric)
    return scores[wanted].iloc[0]


def test_flips_are_counted_from_level_to_level_with_clean_in_its_place(run):
    order = ["brightness_factor,factor=0.4", "brightness_factor,factor=0.7", "clean"]
    order.append("brightness_factor,factor=1.6")
    classes = [predicted(run, cell) for cell in order]
    pairs = itertools.pairwise(classes)
    brightness = np.mean([(one != other).mean() for one, other in pairs])
    found = row(run, "brightness_factor", "flip_rate")
    assert found["value"] == pytest.approx(brightness, abs=1e-7)
    assert found["low"] <= brightness <= found["high"]
    assert found["n"] == 60
    fog = ["clean", *(f"imagenet_c/fog,severity={level}" for level in range(1, 6))]
    classes = [predicted(run, cell) for cell in fog]
    rates = [(one != other).mean() for one, other in itertools.pairwise(classes)]
    assert row(run, "imagenet_c/fog", "flip_rate")["value"] == pytest.approx(
        np.mean(rates), abs=1e-7
    )
    # Attacks have their own rate, and do not count in the mean over shifts.
    assert row(run, "fgsm", "flip_rate")["value"] >= 0
    both = (brightness + np.mean(rates)) / 2
    assert row(run, "all", "flip_rate")["value"] == pytest.approx(both, abs=1e-7)


def test_the_error_over_a_family_is_not_normalised_and_counts_in_no_mean(run):
    accuracy = run.scores[run.scores["metric"] == "accuracy"]
    fog = accuracy[(accuracy["shift"] == "imagenet_c/fog") & (accuracy["level"] == "mean")]
    found = row(run, "imagenet_c", "mean_corruption_error")
    assert found["value"] == pytest.approx(1 - fog["value"].item(), abs=1e-6)
    assert "mce_alexnet/in-memory" not in set(run.scores["metric"])
    assert not (
        (run.scores["shift"] == "all") & (run.scores["metric"] == "mean_corruption_error")
    ).any()


def table(names, severities=5, family="imagenet_c"):
    return {
        ("m", "0", f"{family}/{name}", str(level)): {
            "accuracy": Estimate(1 - ALEXNET[name] / 2, np.full(3, 1 - ALEXNET[name] / 2), 10)
        }
        for name in names
        for level in range(1, severities + 1)
    }


@pytest.mark.parametrize(
    ("classes", "side", "names", "severities", "there"),
    [
        (read_imagenet().wnids, 224, list(ALEXNET), 5, True),
        (read_imagenet().wnids, 256, list(ALEXNET), 5, False),
        (read_imagenet().wnids[:200], 224, list(ALEXNET), 5, False),
        (read_imagenet().wnids, 224, list(ALEXNET)[1:], 5, False),
        (read_imagenet().wnids, 224, list(ALEXNET), 4, False),
    ],
    ids=["ImageNet-C", "other size", "some classes", "14 corruptions", "4 severities"],
)
def test_the_mce_is_there_for_the_whole_benchmark_alone(classes, side, names, severities, there):
    in_units = is_imagenet_at_224(classes, (side, side))
    found = _corruption_errors(table(names, severities), in_units)
    values = {name: estimate.value for _, name, estimate in found}
    assert ("mce_alexnet/in-memory" in values) == there
    if there:
        assert values["mce_alexnet/in-memory"] == pytest.approx(0.5)


def test_published_files_have_the_mce_and_the_relative_mce():
    """A model with half of AlexNet's errors, on clean images too, has half of both."""
    clean = Estimate(1 - ALEXNET_CLEAN / 2, np.full(3, 1 - ALEXNET_CLEAN / 2), 10)
    cells = table(ALEXNET, family="imagenet-c-files")
    cells["m", "0", "clean", "none"] = {"accuracy": clean}
    found = {name: estimate for _, name, estimate in _corruption_errors(cells, True)}
    for name in ("mce_alexnet/files", "relative_mce_alexnet/files"):
        assert found[name].value == pytest.approx(0.5)
        assert found[name].replicates == pytest.approx(0.5)
    assert "mce_alexnet/in-memory" not in found
    for family in ("tiny-imagenet-c-files", "imagenet-c-bar-files", "cifar-10-c-files"):
        others = {name for _, name, _ in _corruption_errors(table(ALEXNET, family=family), True)}
        assert others == {"mean_corruption_error"}


def test_the_corruptions_for_validation_are_in_no_mean_of_the_benchmark():
    cells = table(ALEXNET, family="cifar-10-c-files")
    (wanted,) = _corruption_errors(cells, False)
    for level in range(1, 6):
        wrong = {"accuracy": Estimate(0.0, np.zeros(3), 10)}
        cells["m", "0", "cifar-10-c-files/spatter", str(level)] = wrong
    ((_, _, found),) = _corruption_errors(cells, False)
    assert found.value == pytest.approx(wanted[2].value)
    few = {key: value for key, value in cells.items() if "/fog" not in key[2]}
    ((_, _, found),) = _corruption_errors(few, False)
    errors = [1 - few[key]["accuracy"].value for key in few]
    assert found.value == pytest.approx(np.mean(errors))


def test_files_and_memory_are_paired_by_image():
    """Against the difference on each resample, whose spread is not that of two runs."""
    rng = np.random.default_rng(0)
    right = rng.random((2, 400)) < 0.7
    right[1, 50:] = right[0, 50:]
    weights = rng.multinomial(400, np.full(400, 1 / 400), size=2000)
    cells = {
        ("m", "0", shift, "3"): {
            "accuracy": Estimate(column.mean(), weights @ column / 400, 400, "share")
        }
        for shift, column in zip(("imagenet-c-files/fog", "imagenet_c/fog"), right, strict=True)
    }
    cells["m", "0", "imagenet-c-files/snow", "3"] = cells["m", "0", "imagenet_c/fog", "3"]
    [found] = file_difference_rows(cells).to_dict("records")
    assert (found["shift"], found["metric"]) == ("imagenet-c-files/fog", FILES_MINUS_MEMORY)
    column = right[0].astype(float) - right[1]
    assert found["value"] == pytest.approx(column.mean())
    # 1.96 standard errors of the paired difference, to the error of 2,000 resamples.
    reach = 1.96 * column.std() / 20
    assert found["high"] - found["low"] == pytest.approx(2 * reach, rel=0.15)


def test_what_could_not_be_computed_is_named_with_the_reason(run):
    absent = json.loads((run.path / "absent_metrics.json").read_text())
    assert "validation images" in absent["atc_accuracy"]
    assert "accuracy" not in absent

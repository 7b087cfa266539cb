"""A variant of the tests' own, entropy minimisation, and what is fitted on an adapted network.

`EntropyMinimisation` is one object; nothing of the package knows it but by the table of variants.
"""

import copy
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import read_json
from fairweather.shifts.table import make_shift
from fairweather.steps import predictions as predicting
from fairweather.types.measurement import Images
from fairweather.types.record import base_model, fitted_file, predictions_file
from fairweather.variants.adaptation.networks import (
    OPTIMISERS,
    AdaptedNetwork,
    affine_parameters,
    copy_with_batch_statistics,
)
from fairweather.variants.adaptation.tent import Tent
from fairweather.variants.scaling import Temperature, fit_temperature
from fairweather.variants.variant import (
    VARIANTS,
    Adapting,
    check_choice,
    complete_variants,
    read_variant,
)
from tests.conftest import TINY_RESNET
from tests.helpers.forking import Program
from tests.helpers.own_variant import OwnVariant
from tests.helpers.same_bytes import same

pytestmark = pytest.mark.usefixtures("undrawn")

OWN = OwnVariant("minimise", "tests.variants.test_adapting:EntropyMinimisation")


@dataclass(frozen=True)
class EntropyMinimisation(Adapting):
    """Scales and biases of batch norm make the predictions of each batch more certain.

    Source: Wang et al. 2021, Tent: Fully Test-Time Adaptation by Entropy Minimization.

    Attributes:
        optimiser: `adam` or `sgd`.
        learning_rate: its step.
    """

    kind: ClassVar[str] = "minimise"
    batch_size: int | None = field(default=None, kw_only=True)
    orders: int = field(default=1, kw_only=True)
    optimiser: str = "adam"
    learning_rate: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        check_choice(self.kind, "optimiser", self.optimiser, OPTIMISERS)

    @property
    def name(self):
        return self.kind if self.optimiser == "adam" else f"{self.kind}-{self.optimiser}"

    @property
    def title(self):
        return f"entropy minimisation by {self.optimiser}"

    def adapt(self, network, seed=0):
        adapted = copy_with_batch_statistics(network)
        own = affine_parameters(adapted, self.kind)
        return AdaptedNetwork(adapted, self.predict, own, self.optimiser, self.learning_rate)

    def predict(self, adapted, images):
        logits = adapted.pass_forward(images)
        logs = logits.log_softmax(1)
        adapted.descend(-(logs.exp() * logs).sum(1).mean(), len(images))
        return logits


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    OWN.register(monkeypatch)


STUDY = {
    "name": "adapting",
    "shifts": [{"brightness_factor": [0.6, 1.4]}, {"fgsm": [0.02]}],
    "variants": [
        {"minimise": {"optimiser": "sgd", "learning_rate": 0.5}},
        {"temperature": {"of": "minimise"}},
        "batchnorm",
        {"tent": {"cells": "continual", "orders": 2, "batch_size": 20}},
    ],
    "seeds": [0],
    "threads": 1,
    "bootstrap": 100,
    "batch_size": 25,
    "models": {
        "basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}},
    },
}
CONTINUAL = "basic+tent-batch_size20-orders2-continual"
AFTERWARDS = "clean_after/all"
NAMES = [
    "basic",
    "basic+minimise-sgd",
    "basic+minimise",
    "basic+minimise+temperature",
    "basic+batchnorm",
    CONTINUAL,
]


def study_of(folder, **changes):
    return check_study(STUDY | {"data": {"source": f"folder:{folder}", "size": 8}} | changes)


@pytest.fixture(scope="module")
def run(colour_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        OWN.register(patch)
        out = tmp_path_factory.mktemp("adapting") / "run"
        return fw.run(study_of(colour_folder), out=out, device="cpu")


def read(run, model, shift="clean", part="test"):
    return run.folder.read_predictions(predictions_file(model, 0, shift, part))


def test_it_is_a_row_beside_its_model_on_images_that_are_not_attacked(run, draw):
    assert list(run.scores["model"].unique()) == NAMES
    cells = {name: set(run.scores[run.scores["model"] == name]["shift"]) for name in NAMES}
    adapted = {name for name in NAMES if "fgsm" not in cells[name]}
    assert adapted == set(NAMES[1:])
    assert all("brightness_factor" in cells[name] for name in NAMES)
    assert {name for name in NAMES if AFTERWARDS in cells[name]} == {CONTINUAL}
    assert run.record.settings.variants[0] == (
        'minimise: {"optimiser": "sgd", "learning_rate": 0.5}'
    )
    draw(run)
    page = (run.path / "report.html").read_text()
    assert "Basic + entropy minimisation by sgd (batches of 20)" in page
    assert "Basic + entropy minimisation by adam (batches of 20) + temperature scaling" in page


@pytest.mark.parametrize("shift", ["clean", "brightness_factor,factor=0.6"])
def test_each_cell_begins_anew_and_each_batch_follows_the_one_before(run, shift, colour_folder):
    """The slow reference: gradients of each batch in turn, and plain steps along them."""
    network = fw.load_model(f"run:{run.path}/models/basic/seed-0")
    images = fw.load_data(f"folder:{colour_folder}", size=8).test
    pixels = images.images
    if shift != "clean":
        pixels = make_shift("brightness_factor", factor=0.6)(pixels, images.keys)
    network = copy.deepcopy(network).eval()
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 0.0  # statistics of the batch
    own = [parameter for norm in norms for parameter in (norm.weight, norm.bias)]
    order = np.random.default_rng(0).permutation(60)
    expected = np.empty((60, 3), dtype=np.float32)
    speeds = [torch.zeros_like(parameter) for parameter in own]
    for batch in np.array_split(order, 3):
        logits = network(pixels[batch].float() / 255)
        expected[batch] = logits.detach()
        chances = logits.softmax(1)
        entropy = -(chances * chances.log()).sum() / len(batch)
        slopes = torch.autograd.grad(entropy, own)
        for parameter, speed, slope in zip(own, speeds, slopes, strict=True):
            speed.mul_(0.9).add_(slope)
            parameter.data -= 0.5 * speed
    found = read(run, "basic+minimise-sgd", shift).logits
    first, *later = np.array_split(order, 3)
    unchanged = read(run, "basic+batchnorm", shift).logits
    np.testing.assert_allclose(unchanged[first], found[first], atol=1e-4)  # no step was taken yet
    for batch in later:
        moved = np.abs(unchanged[batch] - expected[batch]).max()
        assert np.abs(found[batch] - expected[batch]).max() < moved / 20


def test_two_jobs_write_the_same_bytes(run, colour_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 2)
    OWN.tell_jobs(monkeypatch)
    again = fw.run(study_of(colour_folder), out=tmp_path / "run", device="cpu", jobs=2)
    same(run.path, again.path)


def killed(folder, out, cells):
    """Run the study in a process that is killed after so many cells of the variant."""
    VARIANTS.update([OWN])
    predict, done = predicting.predict_shared, []

    def dying(readers, *arguments, **options):
        if len(done) == cells:
            os.kill(os.getpid(), signal.SIGKILL)
        done.extend(each for each in readers if isinstance(each.adapting, EntropyMinimisation))
        return predict(readers, *arguments, **options)

    predicting.predict_shared = dying
    fw.run(study_of(folder), out=out, device="cpu", progress=False)


@pytest.mark.usefixtures("forking")
def test_killed_between_cells_it_goes_on_and_writes_the_same_bytes(run, colour_folder, tmp_path):
    out = tmp_path / "run"
    call = f"killed({str(colour_folder)!r}, {str(out)!r}, 4)"
    code = f"from tests.variants.test_adapting import killed; {call}"
    assert Program([sys.executable, "-c", code]).wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("minimise*/**/*.parquet")}
    kept |= {
        path: path.stat().st_mtime_ns for path in out.glob("predictions/*minimise*/**/*.parquet")
    }
    assert kept
    again = fw.run(study_of(colour_folder), out=out, device="cpu")
    same(run.path, again.path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def killed_in_a_stream(folder, out, batches):
    """Run the study in a process that is killed after so many batches of TENT."""
    VARIANTS.update([OWN])
    predict, count = Tent.predict, []

    def dying(self, adapted, images):
        if len(count) == batches:
            os.kill(os.getpid(), signal.SIGKILL)
        count.append(images)
        return predict(self, adapted, images)

    Tent.predict = dying
    fw.run(study_of(folder), out=out, device="cpu", progress=False)


@pytest.mark.usefixtures("forking")
def test_killed_in_a_stream_it_begins_the_cell_again(run, colour_folder, tmp_path):
    """Validation images are 2 batches of TENT; clean images and each shift are 3 in a stream."""
    out = tmp_path / "run"
    call = f"killed_in_a_stream({str(colour_folder)!r}, {str(out)!r}, {2 + 6 + 6 + 4})"
    code = f"from tests.variants.test_adapting import killed_in_a_stream; {call}"
    assert Program([sys.executable, "-c", code]).wait() == -signal.SIGKILL
    states = sorted(path.name for path in out.glob(f"adapted/{CONTINUAL}/seed-0/*"))
    assert states == ["brightness_factor,factor=0.6.safetensors"]
    again = fw.run(study_of(colour_folder), out=out, device="cpu")
    same(run.path, again.path)


def test_a_continual_network_goes_from_shift_to_shift_and_then_sees_clean_images(
    run, colour_folder
):
    """Its cells are what a network answers that sees all of them in one stream; before, a new one
    sees the clean images.
    """
    network = fw.load_model(f"run:{run.path}/models/basic/seed-0")
    images = fw.load_data(f"folder:{colour_folder}", size=8).test
    clean, *shifts = [
        make_shift("clean"),
        *(make_shift("brightness_factor", factor=factor) for factor in (0.6, 1.4)),
    ]
    chain = {**{shift.id: shift for shift in shifts}, AFTERWARDS: clean}
    variant = read_variant(STUDY["variants"][-1])
    for number, places in enumerate(variant.draw_streams(images.labels.numpy())):
        for cells in ({"clean": clean}, chain):
            adapted = variant.adapt(network, number).eval()
            for name, shift in cells.items():
                pixels, logits = shift(images.images, images.keys), np.empty((60, 3), np.float32)
                for part in np.array_split(places, 3):
                    logits[part] = adapted(pixels[part].float() / 255)
                rows = run.folder.read_streams(predictions_file(CONTINUAL, 0, name))
                own = rows.logits[rows.stream == number]
                np.testing.assert_allclose(own, logits, rtol=1e-2, atol=1e-2)


def test_clean_images_afterwards_are_compared_with_the_plain_network(run):
    rows = run.scores.set_index(["model", "shift", "metric"]).sort_index()
    after = rows.loc[(CONTINUAL, AFTERWARDS)]
    plain = rows.loc[("basic", "clean", "accuracy"), "value"].item()
    change = after.loc["accuracy_change/adapted"]
    assert change["value"].item() == pytest.approx(after.loc["accuracy", "value"].item() - plain)
    assert change["low"].item() <= change["value"].item() <= change["high"].item()
    assert set(after["level"]) == {"none"}
    for metric in ("accuracy", "negative_log_likelihood"):
        mean = rows.loc[(CONTINUAL, "all", metric)].set_index("level").loc["mean", "value"]
        levels = rows.loc[(CONTINUAL, "brightness_factor", metric)].set_index("level")["value"]
        assert mean == pytest.approx((levels["0.6"] + levels["1.4"]) / 2)


# ---------------------------------------------------------------- an evaluation, and composition


class Brightness(nn.Module):
    """Batch norm, then logits of how close the brightness is to that of each class."""

    def __init__(self, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.25)
        self.norm.running_var.fill_(0.01)
        self.register_buffer("centres", torch.linspace(-2, 2, classes))

    def forward(self, images):
        return -((self.norm(images).mean((1, 2, 3))[:, None] - self.centres) ** 2) * 20


def bright(n, classes, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, classes, n))
    noise = torch.from_numpy(rng.integers(0, 60, (n, 3, 8, 8)))
    pixels = (noise + labels[:, None, None, None] * 100 // classes).to(torch.uint8)
    return Images(pixels, labels, torch.arange(n), tuple(map(str, range(classes))))


def evaluated(classes, out, shifts=("brightness_factor: [0.9]", "fgsm,epsilon=0.02"), **options):
    n = max(80, 2 * classes)
    data = fw.Dataset(
        "bright", None, bright(n, classes, 0), bright(n, classes, 1), (0.5,) * 3, (0.2,) * 3
    )
    options = {"bootstrap": 100, "device": "cpu", "batch_size": 32} | options
    return fw.evaluate(Brightness(classes), data, [*shifts], out=out, **options)


SETS = "conformal: {coverage: 0.5, of: batchnorm}"


def test_an_evaluation_has_it_and_what_is_fitted_on_it(tmp_path):
    run = evaluated(4, tmp_path / "run", variants=["minimise", "temperature: {of: minimise}", SETS])
    (name,) = run.record.models
    added = ["minimise", "minimise+temperature", "batchnorm", "batchnorm+conformal-lac-0.5"]
    assert list(run.scores["model"].unique()) == [name, *(f"{name}+{each}" for each in added)]
    val = read(run, f"{name}+minimise", part="val")
    fitted = fit_temperature(val.logits, val.labels)
    stored = read_json(run.path / fitted_file(name, 0, "minimise+temperature"))
    assert stored == fitted.model_dump()
    plain = read(run, name, part="val")
    assert fitted.value != fit_temperature(plain.logits, plain.labels).value
    for shift in ("clean", "brightness_factor,factor=0.9"):
        scaled = read(run, f"{name}+minimise+temperature", shift)
        expected = fitted.apply(read(run, f"{name}+minimise", shift))
        np.testing.assert_array_equal(scaled.logits, expected.logits)
        np.testing.assert_array_equal(scaled.nll, expected.nll)
    assert read(run, f"{name}+batchnorm+conformal-lac-0.5").set_size is not None
    assert "conformal_coverage" in set(run.scores["metric"])
    # The record says the whole protocol of each method, once, also at its defaults.
    minimise, batchnorm = run.record.settings.adapting
    assert '"order": "shuffled", ' in minimise
    assert '"orders": 1, ' in batchnorm
    assert [read_variant(text).text for text in (minimise, batchnorm)] == ["minimise", "batchnorm"]


def test_a_gradual_network_sees_clean_images_after_each_shift(tmp_path):
    """One that learns nothing answers as before, with the same intervals."""
    tent = "tent: {cells: gradual, orders: 1, learning_rate: 1.0e-30}"
    fitted = {"temperature": {"of": tent}}
    shifts = ["brightness_factor: [0.9, 0.7]", "gamma: [1.5]"]
    run = evaluated(4, tmp_path / "run", variants=[tent, fitted], shifts=shifts)
    rows = run.scores[run.scores["metric"] == "accuracy"]
    after = {"clean_after/brightness_factor", "clean_after/gamma"}
    for model, own in rows.groupby("model"):
        assert {s for s in own["shift"] if s.startswith("clean_after/")} == (
            after if "tent" in model else set()
        ), model
    numbers = run.scores.set_index(["shift", "model", "metric"])[["value", "low", "high", "n"]]
    numbers = numbers[numbers.index.get_level_values("model").str.contains("tent")].sort_index()
    for shift in after:
        pd.testing.assert_frame_equal(numbers.loc[shift], numbers.loc["clean"])
    assert not list(run.path.glob("adapted/*/*/clean*"))
    # Compared, it is beside the clean predictions of a network that goes on from no shift.
    (plain,) = run.folder.record.models
    adapted = next(name for name in run.folder.record.variants if name.endswith("+temperature"))
    comparison = read_run_comparison(f"{run.path}:{plain}", f"{run.path}:{adapted}")
    compared = comparison.table[comparison.table["metric"] == "accuracy"].set_index("shift")
    values = ["a", "b", "difference", "low", "high", "only_a_right", "only_b_right"]
    for shift in after:
        pd.testing.assert_series_equal(
            compared.loc[shift, values], compared.loc["clean", values], check_names=False
        )
    assert "Clean, after: Brightness" in str(comparison)
    assert sum(note.startswith("Clean, after: clean images as") for note in comparison.notes) == 1


def test_clean_images_after_the_same_shifts_are_compared(tmp_path):
    """Also against a margin: what adapting did to clean images."""
    continual = "tent: {cells: continual, orders: 2, learning_rate: 0.5}"
    variants = [continual, {"temperature": {"of": continual}}]
    shifts, after = ["gamma: [1.5]", "brightness_factor: [0.7]"], "clean_after/all"
    a, b = (
        evaluated(4, tmp_path / name, variants=variants, shifts=order)
        for name, order in (("a", shifts), ("b", shifts[::-1]))
    )
    (plain,), (tent, scaled) = a.record.models, a.record.variants

    def find(one, other, margins=()):
        comparison = read_run_comparison(one, other, metrics="brier_score", margins=margins)
        return comparison, comparison.table.set_index(["shift", "level", "metric"])

    def measured(model, shift):
        rows = a.scores[a.scores["model"] == model].set_index(["shift", "level", "metric"])
        return rows.loc[(shift, "none", "brier_score"), "value"]

    comparison, table = find(
        f"{a.path}:{plain}", f"{a.path}:{tent}", ["accuracy[clean_after/all]=2"]
    )
    row = table.loc[(after, "none", "brier_score")]
    values = measured(plain, "clean"), measured(tent, after)
    assert row[["a", "b"]].tolist() == pytest.approx(values)
    assert values[0] != values[1]
    assert comparison.margins.frame["shift"].tolist() == [after]
    _, table = find(f"{a.path}:{tent}", f"{a.path}:{scaled}")
    row = table.loc[(after, "none", "brier_score")]
    assert row[["a", "b"]].tolist() == pytest.approx([values[1], measured(scaled, after)])
    # In the other run, the shifts came in another order.
    comparison, table = find(f"{a.path}:{tent}", f"{b.path}:{tent}")
    assert after not in table.index.get_level_values("shift")
    said = f"{tent}: {after} is not compared, since the two went through other shifts."
    assert said in comparison.notes
    comparison, table = find(f"{a.path}:{plain}", f"{b.path}:{plain}")
    assert after not in table.index.get_level_values("shift")
    with pytest.raises(InputError, match="only of a variant that goes from shift to shift"):
        find(f"{a.path}:{plain}", f"{b.path}:{plain}", ["accuracy[clean_after/all]=2"])


def test_beyond_100_classes_the_adapted_network_predicts_again(tmp_path):
    few, many = (
        evaluated(
            classes, tmp_path / str(classes), variants=["temperature: {of: batchnorm}"], fit_on=on
        )
        for classes, on in ((4, ()), (101, ["clean", "gamma,exponent=1.5"]))
    )
    (name,) = many.record.models
    added = ["batchnorm", "batchnorm+temperature", "batchnorm+temperature-fit_on"]
    expected = [name, *(f"{name}+{each}" for each in added), f"{name}+thresholds-fit_on"]
    assert list(many.scores["model"].unique()) == expected
    for run in (few, many):
        (name,) = run.record.models
        value = read_json(run.path / fitted_file(name, 0, "batchnorm+temperature"))["value"]
        adapted, scaled = (read(run, f"{name}+batchnorm{more}") for more in ("", "+temperature"))
        np.testing.assert_array_equal(adapted.predicted, scaled.predicted)
        assert value != 1
        assert (np.sign(adapted.confidence - scaled.confidence) == np.sign(value - 1)).all()
    assert read(many, f"{name}+batchnorm").logits is None
    shifted = many.folder.read_predictions(
        predictions_file(f"{name}+batchnorm", 0, "gamma,exponent=1.5", "val")
    )
    assert len(shifted) == 202


def test_a_fit_beyond_100_classes_sees_the_streams_that_are_stored(tmp_path, monkeypatch):
    """Its source images and its order are those of the variant, also with a second seed."""
    seen, fit = [], Temperature.fit

    def watched(variant, predictions, grouping):
        seen.append(predictions)
        return fit(variant, predictions, grouping)

    monkeypatch.setattr(Temperature, "fit", watched)
    eata = {"eata": {"orders": 1, "margin": 5, "redundancy": 2, "learning_rate": 0.05}}
    data = fw.Dataset(
        "bright", None, bright(202, 101, 0), bright(202, 101, 1), (0.5,) * 3, (0.2,) * 3
    )
    first, second = Brightness(101), Brightness(101)
    second.norm.running_mean.fill_(0.2)  # as trained, which the streams do not use
    run = fw.evaluate(
        {"net-seed0": first, "net-seed1": second},
        data,
        ["clean"],
        out=tmp_path / "run",
        variants=[eata, {"temperature": {"of": eata}}],
        bootstrap=100,
        device="cpu",
    )
    adapted, _ = run.record.variants
    assert len(seen) == 2
    stored = [
        run.folder.read_predictions(predictions_file(adapted, seed, "clean", "val"))
        for seed in (0, 1)
    ]
    for fitted, predictions in zip(seen, stored, strict=True):
        np.testing.assert_array_equal(fitted.confidence, predictions.confidence)
    assert not np.array_equal(stored[0].confidence, stored[1].confidence)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("temperature: {of: isotonic}", "`of` in temperature must be a variant that adapts the"),
        ("temperature: {of: minimisee}", "did you mean 'minimise'"),
        ("batchnorm: {of: minimise}", "'of'"),
        ("minimise: {optimiser: adm}", "'adm'; did you mean 'adam'"),
    ],
)
def test_what_cannot_be_composed_is_one_sentence(form, words):
    with pytest.raises(InputError, match=words):
        read_variant(form)


def test_a_composed_variant_is_written_so_that_it_is_read_again():
    for form in (
        "temperature: {of: batchnorm, fit_on: true}",
        "conformal: {method: aps, of: {minimise: {optimiser: sgd}}}",
        "thresholds-fit_on: {of: minimise}",
    ):
        found = read_variant(form)
        assert read_variant(found.text) == found
        assert base_model(f"basic+{found.name}") == "basic"
    with pytest.raises(InputError, match="there is no fit_on"):
        complete_variants(["temperature: {of: batchnorm, fit_on: true}"], fit_on=False)


def test_predictions_from_elsewhere_are_of_no_network_that_could_adapt():
    for variant in ("temperature: {of: batchnorm}", "lame", "views"):  # some change no weights
        with pytest.raises(InputError, match="cannot be measured of predictions: it needs the net"):
            fw.evaluate(predictions={"m": None}, variants=[variant])


def test_what_is_fitted_on_an_adapted_network_begins_anew_under_each_shift(tmp_path, monkeypatch):
    begins, adapt = [], EntropyMinimisation.adapt

    def watched(variant, network, seed=0):
        begins.append(network.norm.weight.sum().item())
        return adapt(variant, network, seed)

    monkeypatch.setattr(EntropyMinimisation, "adapt", watched)
    on = ["clean", "gamma,exponent=1.5"]
    evaluated(101, tmp_path / "run", variants=["temperature: {of: minimise}"], fit_on=on)
    assert len(begins) > 4
    assert set(begins) == {3.0}


def test_one_name_for_two_variants_is_refused():
    asked = ["minimise: {learning_rate: 0.1}", "temperature: {of: minimise}"]
    with pytest.raises(InputError, match="minimise is asked for with different parameters"):
        complete_variants(asked, fit_on=False)

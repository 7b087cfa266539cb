"""Calibrations as variants of every model, and what `fit_on` fits on shifted validation images."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import fairweather as fw
from fairweather import metrics
from fairweather.data.batches import batch_slices
from fairweather.errors import InputError
from fairweather.inference.prediction import Predictor, join_predictions, predict_batches
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics import softmax
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder, read_json
from fairweather.shifts.table import make_shift
from fairweather.steps.plan import (
    VERSIONS,
    FitStep,
    ImagesReference,
    OpenedNetwork,
    ScoredModel,
    ScoreStep,
)
from fairweather.steps.predictions import read_fitted
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import Images
from fairweather.types.record import fitted_file, predictions_file
from fairweather.variants.scaling import fit_temperature
from fairweather.variants.variant import (
    VARIANTS,
    complete_variants,
    read_variant,
    read_variants,
    variant_class,
)
from tests.conftest import TINY_RESNET
from tests.helpers.same_bytes import same

pytestmark = pytest.mark.usefixtures("undrawn")

LOGISTIC = {"top_versus_all": {"method": "logistic"}}
WRITTEN = ["temperature", "vector_scaling", "isotonic", "top_versus_all", LOGISTIC]
NAMES = ["temperature", "vector_scaling", "isotonic", "top_versus_all", "top_versus_all-logistic"]
FITS = {name: read_variant(form) for name, form in zip(NAMES[1:], WRITTEN[1:], strict=True)}


def fitted_like(name, predictions):
    """What the calibration of this name is of these predictions."""
    return FITS[name].fit_logits(predictions.logits, predictions.labels)


def stored_of(name, content):
    return FITS[name].fitted_types[TaskKind()].model_validate(content)


RECIPE = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}
STUDY = {
    "name": "fitted",
    "data": {"source": "mnist5k"},
    "shifts": [{"brightness_factor": [0.6]}, {"fgsm": [0.02]}],
    "fit_on": ["clean", {"gamma": [0.5, 4]}],
    "variants": WRITTEN,
    "seeds": [0],
    "bootstrap": 100,
    "models": {"basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": RECIPE}},
}
ON = ["clean", "gamma,exponent=0.5", "gamma,exponent=4"]
CELLS = [
    ("clean", "test"),
    ("clean", "val"),
    ("brightness_factor,factor=0.6", "test"),
    ("fgsm,epsilon=0.02", "test"),
]


@pytest.fixture(scope="module")
def study(colour_folder):
    """Three classes have fewer rows to be scored than ten."""
    data = {"source": f"folder:{colour_folder}", "size": 8, "validation_fraction": 0.3}
    return check_study(STUDY | {"data": data})


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    return fw.run(study, out=tmp_path_factory.mktemp("fitted") / "run", device="cpu")


def read(run, model, shift="clean", part="test"):
    return run.folder.read_predictions(predictions_file(model, 0, shift, part))


def test_each_calibration_is_a_row_beside_its_model_and_beside_itself_under_shifts(run):
    twins = [each for name in NAMES for each in (name, f"{name}-fit_on")]
    expected = ["basic", *(f"basic+{each}" for each in [*twins, "thresholds-fit_on"])]
    assert list(run.scores["model"].unique()) == expected
    assert list(run.record.variants) == expected[1:]
    titles = run.record.variants
    assert titles["basic+isotonic"] == "Basic + isotonic regression"
    assert titles["basic+top_versus_all-logistic"] == "Basic + top-versus-all (logistic)"
    assert titles["basic+temperature-fit_on"] == "Basic + temperature scaling fitted under shifts"
    assert run.record.settings.fit_on == tuple(ON)
    shifts = set(run.scores["shift"])
    assert "gamma" not in shifts  # it is fitted on, not tested


@pytest.mark.parametrize("name", FITS)
def test_a_calibration_is_fitted_on_clean_validation_images_alone(run, name):
    stored = read_json(run.path / fitted_file("basic", 0, name))
    val = read(run, "basic", part="val")
    fitted = fitted_like(name, val)
    assert stored_of(name, stored) == fitted
    for shift, part in CELLS:
        plain, variant = read(run, "basic", shift, part), read(run, f"basic+{name}", shift, part)
        again = fitted.apply(plain)
        for column in ("keys", "labels", "predicted", "confidence", "nll", "brier", "logits"):
            np.testing.assert_array_equal(getattr(variant, column), getattr(again, column))


@pytest.mark.parametrize("name", ["temperature", *FITS])
def test_what_fit_on_lists_is_one_set_of_images(run, name):
    val = join_predictions([read(run, "basic", shift, "val") for shift in ON])
    stored = read_json(run.path / fitted_file("basic", 0, f"{name}-fit_on"))
    if name == "temperature":
        assert stored == fit_temperature(val.logits, val.labels).model_dump()
    else:
        assert stored_of(name, stored) == fitted_like(name, val)
    assert stored["images"] == 3 * len(read(run, "basic", part="val"))


def test_top_versus_all_keeps_every_answer(run):
    for name in ("top_versus_all", "top_versus_all-logistic-fit_on"):
        for shift, part in CELLS:
            plain, variant = (read(run, m, shift, part) for m in ("basic", f"basic+{name}"))
            np.testing.assert_array_equal(plain.predicted, variant.predicted)


def test_thresholds_are_fitted_on_what_fit_on_lists_and_predictions_stay(run):
    model = "basic+thresholds-fit_on"
    val = join_predictions([read(run, "basic", shift, "val") for shift in ON])
    fitted = metrics.fit_on(val)
    assert fitted != metrics.fit_on(read(run, "basic", part="val"))
    for shift in ("clean", "brightness_factor,factor=0.6"):
        plain = read(run, "basic", shift)
        own, others = (
            (run.path / predictions_file(each, 0, shift)).read_bytes() for each in ("basic", model)
        )
        assert own == others
        rows = run.scores[(run.scores["model"] == model) & (run.scores["seed"] == "0")]
        rows = rows[rows["shift"] == shift.partition(",")[0]]
        value = rows[~rows["level"].isin(["mean", "worst"])].set_index("metric")["value"]
        at = (plain.confidence, plain.correct)
        assert value["risk_above_validation_threshold/0.05"] == pytest.approx(
            metrics.risk_above(*at, fitted.threshold), nan_ok=True
        )
        assert value["coverage_above_validation_threshold/0.05"] == pytest.approx(
            metrics.coverage_above(plain.confidence, fitted.threshold)
        )
        assert value["atc_accuracy"] == pytest.approx(
            metrics.atc_accuracy(plain.confidence, fitted.atc_threshold)
        )


def test_rules_judge_calibrations_and_thresholds(run):
    models = ["basic+isotonic", "basic+thresholds-fit_on"]
    rules = read_rules([f"{each}: accuracy[clean] >= 0" for each in models])
    assert [each.model for each in judge(run.folder, rules)] == models


def test_the_same_study_gives_the_same_bytes_and_a_finished_one_is_left_alone(
    study, run, tmp_path, monkeypatch
):
    again = fw.run(study, out=tmp_path / "again", device="cpu")
    same(run.path, again.path)
    fitted = [path.relative_to(run.path) for path in (run.path / "variants").rglob("*.json")]
    assert len(fitted) == 2 * len(NAMES)
    for name in fitted:
        assert (run.path / name).read_bytes() == (again.path / name).read_bytes(), name
    for name in ("read_variant", "read_fitted", "predict_shared"):
        monkeypatch.setattr(f"fairweather.steps.predictions.{name}", None)
    fw.run(study, out=again.path, device="cpu")
    same(run.path, again.path)


def test_damaged_fitted_files_are_made_again(study, run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    expected = {}
    for name in ("isotonic", "vector_scaling", "temperature-fit_on"):
        file = path / fitted_file("basic", 0, name)
        expected[file] = file.read_bytes()
        file.write_bytes(expected[file][: len(expected[file]) // 2])
        folder, stored = RunFolder(path), file.relative_to(path).as_posix()
        with pytest.raises(InputError, match=file.name):
            folder.holds(stored)
        with pytest.raises(InputError, match=file.name):
            read_fitted(folder, name.removesuffix("-fit_on"), stored)
    fw.run(study, out=path, device="cpu")
    assert {file: file.read_bytes() for file in expected} == expected


# ---------------------------------------------------------------- without a run


def test_what_is_fitted_has_its_variant_in_its_fingerprint_and_what_predicts_it_again():
    images = ImagesReference(part="val", digest="d")

    def depends(**changes):
        given = {"id": "a", "task": "a", "leaves": ("a.json",), "validation": "v", "stored": True}
        given |= {
            "variant": "temperature",
            "network": OpenedNetwork(digest="n"),
            "val": images,
            "batch_size": 8,
        }
        return FitStep(**given | changes).depends()

    assert depends() == {"version": VERSIONS["fit"], "variant": "temperature"}
    network = {"kind": "opened", "digest": "n"}
    facts = {"data": "d", "network": network, "batch_size": 8, "precision": "fp32"}
    machine = {"device": "cpu", "threads": 1}
    again = depends(stored=False)
    assert again == {"version": VERSIONS["fit"], "variant": "temperature", **facts, **machine}
    assert depends(variant="isotonic") == {"version": VERSIONS["fit"], "variant": "isotonic"}
    shifted = depends(stored=False, shifts=("clean", "gamma,exponent=2"), shift_seed=3)
    assert shifted["shifts"] == ["clean", "gamma,exponent=2"]
    assert shifted["seed"] == 3
    assert shifted.keys() - again.keys() == {"shifts", "seed", "libraries"}


def test_scores_of_models_without_fit_on_depend_on_what_they_did():
    score = {"id": "s", "task": "s", "leaves": ("scores.csv",), "titles": {}, "bootstrap": 100}
    score |= {"validation": True, "natural_shift": False}
    rows = [ScoredModel(model="a", seed=0, shifts=("clean",))]
    assert ScoreStep(rows=rows, **score).depends()["rows"] == [
        {"model": "a", "seed": 0, "shifts": ["clean"]}
    ]
    rows = [ScoredModel(model="a", seed=0, shifts=("clean",), fitted_on=("clean", "hue,turn=0.5"))]
    found = ScoreStep(rows=rows, **score).depends()["rows"]
    assert found[0]["fitted_on"] == ["clean", "hue,turn=0.5"]


@pytest.mark.parametrize("kind", [variant_class(name) for name in VARIANTS])
def test_variants_are_written_so_that_they_are_read_again(kind):
    every = {kind(), *complete_variants([kind()], fit_on=True)}
    if kind.kind == "top_versus_all":
        every |= set(complete_variants([kind(method="logistic")], fit_on=True))
    assert set(read_variants([each.text for each in every])) == every
    assert len({each.name for each in every}) == len(every)


@pytest.mark.parametrize(
    ("fit_on", "words"),
    [
        (["clean", {"brightness_factor": [0.9]}], "brightness_factor is also tested: leave out"),
        (
            [{"imagenet_c/brightness": [1]}],
            "imagenet_c/brightness is also tested as brightness_factor: leave out",
        ),
        ([{"suite": "imagenet_c"}], "imagenet_c/brightness is also tested as brightness_factor"),
        (["clean"], "it lists only clean images"),
        ([{"pgd": [0.1]}], "pgd is an attack"),
        (["gama,exponent=2"], "did you mean 'gamma'"),
        ([{"gamma": [0.5], "hue": [1]}], "fit_on: each entry must be one NAME: LEVELS"),
    ],
)
def test_bad_fit_on_is_one_sentence_for_a_study_and_an_evaluation(fit_on, words):
    with pytest.raises(InputError, match=words):
        check_study(STUDY | {"fit_on": fit_on})
    with pytest.raises(InputError, match=words):
        fw.evaluate("timm:test_vit", "mnist5k", "brightness_factor: [0.5]", fit_on=fit_on)


def test_an_evaluation_fits_on_validation_images_under_shifts_too(tmp_path):
    options = {"bootstrap": 100, "device": "cpu", "size": 16, "variants": ["isotonic"]}
    options |= {"limit": 60, "validation_fraction": 0.02, "fit_on": ["clean", "gamma,exponent=4"]}
    model = fw.load_model(TINY_RESNET, weights="none", classes=10)
    shifts = ["brightness_factor: [0.5]", "fgsm,epsilon=0.02"]
    run = fw.evaluate(model, "mnist5k", shifts, out=tmp_path / "run", **options)
    (name,) = run.record.models
    added = ["isotonic", "isotonic-fit_on", "thresholds-fit_on"]
    assert list(run.scores["model"].unique()) == [name, *(f"{name}+{each}" for each in added)]
    val = [
        run.folder.read_predictions(predictions_file(name, 0, shift, "val"))
        for shift in ("clean", "gamma,exponent=4")
    ]
    stored = read_json(run.path / fitted_file(name, 0, "isotonic-fit_on"))
    assert stored_of("isotonic", stored) == fitted_like("isotonic", join_predictions(val))


def test_predictions_from_elsewhere_have_calibrations_and_no_fit_on(tmp_path):
    rng = np.random.default_rng(0)
    tables = {}
    for name in ("m", "m-validation"):
        chances = softmax(rng.normal(size=(40, 3)))
        frame = pd.DataFrame(chances, columns=["a", "b", "c"])
        tables[name] = frame.assign(label=rng.choice(["a", "b", "c"], 40))
    options = {"out": tmp_path / "run", "bootstrap": 100}
    run = fw.evaluate(predictions=tables, variants=["vector_scaling", LOGISTIC], **options)
    expected = {"m", "m+vector_scaling", "m+top_versus_all-logistic"}
    assert set(run.scores["model"]) == expected
    with pytest.raises(InputError, match="fit_on cannot be given for predictions"):
        fw.evaluate(predictions=tables, fit_on=["clean", "gamma,exponent=2"])


def many_classes(n, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 101, n))
    noise = torch.from_numpy(rng.integers(0, 60, (n, 3, 8, 8)))
    # Mostly as bright as the label says, so that a network can be right.
    pixels = (noise + labels[:, None, None, None]).to(torch.uint8)
    return Images(pixels, labels, torch.arange(n), tuple(map(str, range(101))))


class Brightness(torch.nn.Module):
    """The classes whose brightness is closest to the image's have the largest logits."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centres", (torch.arange(101) + 29.5) / 255)

    def forward(self, images):
        return -((images.mean((1, 2, 3))[:, None] - self.centres) ** 2) * 1e4


def logits_of(images, shift=None):
    """The logits of `Brightness`, for any number of classes."""
    reader, batches = Predictor(Brightness(), keeps_logits=True), batch_slices(len(images), 256)
    [found] = predict_batches([reader], images, shift, batches=batches, device="cpu")
    return found.logits


def test_beyond_100_classes_a_calibration_changes_what_the_network_predicts_again(tmp_path):
    val, test = many_classes(303, 0), many_classes(202, 1)
    data = fw.Dataset("bright", None, val, test, (0.5,) * 3, (0.2,) * 3)
    options = {"bootstrap": 100, "device": "cpu", "variants": WRITTEN[1:3], "batch_size": 64}
    on = ["clean", "gamma,exponent=1.5"]
    shifts = ["brightness_factor: [0.9]", "fgsm,epsilon=0.02"]
    run = fw.evaluate(Brightness(), data, shifts, fit_on=on, out=tmp_path / "run", **options)
    (name,) = run.record.models
    assert read(run, name).logits is None
    clean = logits_of(val)
    shifted = logits_of(val, make_shift("gamma", exponent=1.5))
    labels = val.labels.numpy()
    both = (np.concatenate([clean, shifted]), np.concatenate([labels, labels]))
    for variant, fit in list(FITS.items())[:2]:
        for added, images in (("", (clean, labels)), ("-fit_on", both)):
            stored = read_json(run.path / fitted_file(name, 0, f"{variant}{added}"))
            fitted = fit.fitted_types[TaskKind()].model_validate(stored)
            expected = fit.fit_logits(*images)
            assert fitted.images == expected.images
            assert fitted.nll_after == pytest.approx(expected.nll_after, rel=1e-6)
            found = read(run, f"{name}+{variant}{added}")
            logits = fitted.change(logits_of(test))
            columns = metrics.per_image(logits, test.labels.numpy())
            np.testing.assert_array_equal(found.predicted, columns.predicted)
            np.testing.assert_allclose(found.nll, columns.nll, rtol=1e-6)


def test_tables_and_sentences_say_what_differs(run, draw):
    draw(run, figures=False)
    table = pd.read_csv(run.path / "tables" / "variants.csv").set_index("model")
    assert list(table.index)[:3] == ["basic", "basic+temperature", "basic+temperature-fit_on"]
    scores = run.scores[run.scores["shift"] == "clean"]
    values = scores.set_index(["model", "seed", "metric"])["value"]
    for what in ("risk", "coverage"):
        metric = f"{what}_above_validation_threshold/0.05"
        for model in ("basic", "basic+thresholds-fit_on"):
            shown = float(table.loc[model, f"clean {metric}"])
            assert shown == pytest.approx(values[model, "0", metric])
    text = (run.path / "report.html").read_text()
    assert "Basic + top-versus-all (logistic) fitted under shifts" in text

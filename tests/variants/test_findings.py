"""What is fitted for several findings of an image."""

import numpy as np
import pandas as pd
import pytest
import scipy.special
import sklearn.isotonic
import sklearn.linear_model
import torch

import fairweather as fw
from fairweather.errors import InputError
from fairweather.metrics.risk_control import control_missed
from fairweather.runs.folder import read_json
from fairweather.runs.scores import read_grouping
from fairweather.tasks import FindingsPredictions
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import UNKNOWN, Dataset, Images
from fairweather.variants.findings import FEWEST_OF_EACH
from fairweather.variants.variant import VARIANTS, complete_variants, read_variant
from tests.helpers.finding_models import NAMES, Stripes
from tests.helpers.findings import draw_dataset, draw_predictions

CALIBRATIONS = ("temperature", "vector_scaling", "isotonic")


def fit(kind, predictions):
    return read_variant(kind).fit(predictions, None)


def calibrate(kind, fitted_on, predictions):
    return fit(kind, fitted_on).change(predictions.logits)


def judge_temperature(logit, labels, new):
    regression = sklearn.linear_model.LogisticRegression(
        C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000
    )
    return regression.fit(logit[:, None], labels).predict_proba(new[:, None])[:, 1]


def judge_platt(logit, labels, new):
    regression = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    return regression.fit(logit[:, None], labels).predict_proba(new[:, None])[:, 1]


def judge_isotonic(logit, labels, new):
    p, at = (scipy.special.expit(each.astype(float)) for each in (logit, new))
    steps = sklearn.isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    # One more image, half of which has the finding.
    return (len(p) * steps.fit(p, labels).predict(at) + 0.5) / (len(p) + 1)


@pytest.mark.parametrize(
    ("kind", "judge"),
    [
        ("temperature", judge_temperature),
        ("vector_scaling", judge_platt),
        ("isotonic", judge_isotonic),
    ],
)
def test_each_finding_is_calibrated_as_scikit_learn_does_where_it_is_known(kind, judge):
    predictions, new = draw_predictions(800, seed=1), draw_predictions(300, seed=2)
    calibrated = scipy.special.expit(calibrate(kind, predictions, new).astype(float))
    for column in range(len(NAMES)):
        known = predictions.labels[:, column] != UNKNOWN
        logit, labels = predictions.logits[known, column], predictions.labels[known, column]
        expected = judge(logit, labels, new.logits[:, column])
        # The minimum of a likelihood is flat: both searches stop near it.
        np.testing.assert_allclose(calibrated[:, column], expected, atol=2e-4)


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_unknown_labels_other_findings_and_the_order_of_images_do_not_matter(kind):
    predictions = draw_predictions(300)
    expected = calibrate(kind, predictions, predictions)
    other = np.where(predictions.labels == UNKNOWN, np.float32(7), predictions.logits)
    changed = fit(kind, predictions.with_columns(logits=other)).change(predictions.logits)
    np.testing.assert_array_equal(changed, expected)
    order = np.random.default_rng(0).permutation(300)
    mixed = fit(kind, predictions.take(order)).change(predictions.logits)
    np.testing.assert_allclose(mixed, expected, atol=1e-3)  # sums in another order
    alone = FindingsPredictions(
        predictions.keys, predictions.labels[:, 1:2], predictions.logits[:, 1:2], NAMES[1:2]
    )
    np.testing.assert_array_equal(calibrate(kind, alone, alone), expected[:, 1:2])


def test_isotonic_regression_never_changes_the_order_of_images():
    predictions = draw_predictions(500)
    changed = calibrate("isotonic", predictions, predictions)
    for before, after in zip(predictions.logits.T, changed.T, strict=True):
        assert (np.diff(after[np.argsort(before)]) >= 0).all()


@pytest.mark.parametrize("kind", CALIBRATIONS)
@pytest.mark.parametrize("rare", [0, 1])
def test_a_finding_with_too_few_of_either_keeps_its_probabilities_and_that_is_said(kind, rare):
    predictions = draw_predictions(300)
    labels = predictions.labels.copy()
    labels[:, 1] = 1 - rare
    labels[: FEWEST_OF_EACH - 1, 1] = rare
    fitted = fit(kind, predictions.with_columns(labels=labels))
    assert fitted.findings["Mass"] is None
    assert "'Mass' stay: fewer than 10 validation images" in fitted.note
    changed = fitted.change(predictions.logits)
    np.testing.assert_array_equal(changed[:, 1], predictions.logits[:, 1])
    assert (changed[:, 0] != predictions.logits[:, 0]).any()
    labels[FEWEST_OF_EACH - 1, 1] = rare
    enough = fit(kind, predictions.with_columns(labels=labels))
    assert enough.findings["Mass"] is not None
    assert enough.note == "fitted for each of 3 findings"


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_what_is_stored_of_findings_is_what_was_fitted(kind):
    predictions = draw_predictions(300)
    fitted, stored = fit(kind, predictions), read_variant(kind).fitted_types[FINDINGS]
    again = stored.model_validate_json(fitted.model_dump_json())
    assert again == fitted
    np.testing.assert_array_equal(
        again.change(predictions.logits), fitted.change(predictions.logits)
    )
    with pytest.raises(InputError, match="fitted for 3 findings, but the model has 2 outputs"):
        again.change(predictions.logits[:, :2])


def test_a_calibration_lowers_the_likelihood_of_each_finding():
    predictions = draw_predictions(500)
    for kind in CALIBRATIONS:
        for fitted in fit(kind, predictions).findings.values():
            assert fitted.nll_after <= fitted.nll_before


# ---------------------------------------------------------------- as rows of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    asked = {"outputs": "logits", "bootstrap": 100, "device": "cpu", "progress": False}
    return fw.evaluate(
        {"net": Stripes()},
        draw_dataset(),
        ["brightness_factor: [0.7, 1.3]"],
        variants=[*CALIBRATIONS],
        out=tmp_path_factory.mktemp("findings") / "run",
        **asked,
    )


def test_each_calibration_is_a_row_beside_its_model(run):
    titles = run.folder.record.variants
    assert titles["net+temperature"].endswith("temperature scaling, one for each finding")
    assert titles["net+isotonic"].endswith("isotonic regression, one for each finding")
    validation = run.folder.read_cell(run.folder.predictions("net", 0, "clean", "val"))
    for kind in CALIBRATIONS:
        file = read_variant(kind).file("net", 0)
        assert read_json(run.folder.file(file)) == fit(kind, validation).model_dump(mode="json")
        for shift in ("clean", "brightness_factor,factor=0.7"):
            before, after = (
                run.folder.read_cell(run.folder.predictions(name, 0, shift))
                for name in ("net", f"net+{kind}")
            )
            np.testing.assert_array_equal(after.logits, fit(kind, validation).change(before.logits))


@pytest.mark.parametrize("kind", ["top_versus_all", "conformal"])
def test_what_is_about_classes_is_refused_with_what_there_is(kind, tmp_path):
    with pytest.raises(InputError, match=f"{kind} does not accept the findings of toys") as e:
        fw.evaluate(
            {"net": Stripes()},
            draw_dataset(),
            variants=[kind],
            outputs="logits",
            out=tmp_path / "run",
            progress=False,
        )
    assert "use one of temperature, batchnorm" in str(e.value)
    assert not (tmp_path / "run").exists()


def test_every_variant_accepts_some_task():
    for kind in VARIANTS:
        assert complete_variants([kind], fit_on=True)[0].accepts


# ---------------------------------------------------------------- risk control


@pytest.mark.parametrize("form", ["risk_control: {missed: 20%}", {"risk_control": {"missed": 0.2}}])
def test_a_share_is_written_in_both_forms(form):
    assert read_variant(form).name == "risk_control-0.2"
    assert read_variant(read_variant(form).text) == read_variant(form)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("{missed: 0}", "missed of risk_control must be a share between 0 and 1"),
        ("{missed: many}", "such as 10%, found 'many'"),
        ("{confidence: 2}", "confidence of risk_control must be a share"),
        ("{sure: 0.9}", "sure"),
    ],
)
def test_bad_risk_control_is_one_sentence(parameters, words):
    with pytest.raises(InputError, match=words):
        read_variant(f"risk_control: {parameters}")


def test_too_few_images_with_a_finding_are_refused_before_anything_is_predicted(tmp_path):
    with pytest.raises(InputError, match="needs at least 199 validation images with a finding"):
        fw.evaluate(
            {"net": Stripes()},
            draw_dataset(val=100),
            variants=["risk_control: {missed: 0.5%}"],
            outputs="logits",
            out=tmp_path / "run",
            progress=False,
        )


@pytest.fixture(scope="module", params=[None, 60])
def controlled(request, tmp_path_factory):
    """A run with sets of findings, whose images are independent or of 60 patients."""
    return fw.evaluate(
        {"net": Stripes()},
        draw_dataset(patients=request.param),
        ["brightness_factor: [0.7]"],
        variants=["risk_control: {missed: 0.2}"],
        outputs="logits",
        bootstrap=100,
        out=tmp_path_factory.mktemp("controlled") / "run",
        device="cpu",
        progress=False,
    )


def test_a_run_says_what_sets_of_findings_miss_and_how_large_they_are(controlled):
    folder, name = controlled.folder, "net+risk_control-0.2"
    fitted = read_json(folder.file(read_variant("risk_control: {missed: 0.2}").file("net", 0)))
    grouping = read_grouping(folder, "val")
    validation = folder.read_cell(folder.predictions("net", 0, "clean", "val"))
    assert fitted["threshold"] == control_missed(
        validation.probability, validation.labels, missed=0.2, grouping=grouping
    )
    scores = pd.read_csv(controlled.path / "scores.csv").query("model == @name and unit == 'image'")
    for shift, level in (("clean", "none"), ("brightness_factor", "0.7")):
        part = shift if level == "none" else f"{shift},factor={level}"
        cell = folder.read_cell(folder.predictions(name, 0, part))
        missed, sizes = [], []
        judged = (cell.labels != UNKNOWN).any(axis=1)
        for p, labels in zip(cell.probability[judged], cell.labels[judged], strict=True):
            in_set = p >= fitted["threshold"]
            sizes.append(in_set.sum())
            if (labels == 1).any():
                missed.append(1 - in_set[labels == 1].mean())
        rows = scores.query("shift == @shift and level == @level").set_index("metric")
        assert rows.value["missed_findings"] == pytest.approx(np.mean(missed), rel=1e-6)
        assert rows.n["missed_findings"] == len(missed)
        assert rows.value["finding_set_size"] == pytest.approx(np.mean(sizes), rel=1e-6)
    assert not scores[scores.metric == "missed_findings"].empty


def test_sets_of_findings_are_refused_for_classes(tmp_path):
    pixels = torch.zeros(40, 3, 9, 9, dtype=torch.uint8)
    images = Images(pixels, torch.arange(40) % 3, torch.arange(40), NAMES)
    data = Dataset("classes", None, images, images, (0.4,) * 3, (0.2,) * 3)
    said = "risk_control does not accept the classes of classes: use one of .*conformal"
    with pytest.raises(InputError, match=said):
        fw.evaluate({"net": Stripes()}, data, variants=["risk_control"], out=tmp_path / "run")

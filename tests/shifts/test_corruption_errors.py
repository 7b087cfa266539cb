"""Mean corruption errors against published numbers, the others against their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import Estimate
from fairweather.metrics.robustness import (
    ALEXNET,
    ALEXNET_CLEAN,
    effective_robustness,
    flip_rate,
    mce_alexnet,
    mean_corruption_error,
    relative_mce_alexnet,
    relative_mean_corruption_error,
)
from fairweather.shifts.table import suite
from fairweather.steps.score_rows import _corruption_errors

# torchvision's first ResNet-50 on the published ImageNet-C: top-1 accuracy, the mean over
# severities, and corruption error, both in percent. From Results/clean_results.txt of
# bethgelab/game-of-noise at f220bd4 (Rusak, Schott et al. 2020); its last line says mCE: 76.70, the
# number that hendrycks/robustness states for the ResNet-50 baseline (76.7, clean error 23.85).
RESNET50 = {
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75),
    "fog": (45.83, 66.11),
    "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77),
    "glass_blur": (26.79, 88.61),
    "impulse_noise": (23.81, 82.58),
    "jpeg_compression": (53.41, 76.82),
    "motion_blur": (38.67, 78.03),
    "pixelate": (44.79, 76.92),
    "shot_noise": (27.03, 81.58),
    "snow": (32.53, 77.83),
    "zoom_blur": (36.24, 79.86),
}
# The same model's relative corruption errors, in percent, their mean 105: table 7 of Mitrovic et
# al. 2021, Representation Learning via Invariant Causal Mechanisms, row "Supervised".
RELATIVE = {
    "gaussian_noise": 104,
    "shot_noise": 107,
    "impulse_noise": 107,
    "defocus_blur": 97,
    "glass_blur": 126,
    "motion_blur": 107,
    "zoom_blur": 110,
    "snow": 101,
    "frost": 97,
    "fog": 79,
    "brightness": 62,
    "contrast": 89,
    "elastic_transform": 146,
    "pixelate": 111,
    "jpeg_compression": 132,
}
CLEAN = 0.2387  # 1 − top-1 accuracy of torchvision's weights
# RobustBench's Standard_R50, accuracy at severities 1 to 5 on 5,000 images of ImageNet-C, and the
# mean in the same row: model_info/imagenet/corruptions/unaggregated_results_2d.csv at
# 24ce20d.
ROBUSTBENCH_MEAN = 0.392304
ROBUSTBENCH = {
    "shot_noise": (0.5744, 0.4294, 0.2528, 0.0792, 0.029),
    "impulse_noise": (0.4844, 0.358, 0.2546, 0.083, 0.0182),
    "defocus_blur": (0.5956, 0.5152, 0.382, 0.2748, 0.183),
    "contrast": (0.6494, 0.5852, 0.469, 0.2122, 0.0546),
    "brightness": (0.7392, 0.7244, 0.6956, 0.6498, 0.5866),
    "jpeg_compression": (0.6664, 0.6244, 0.5982, 0.4728, 0.3144),
    "pixelate": (0.6402, 0.6426, 0.4598, 0.2898, 0.2068),
    "glass_blur": (0.54, 0.4012, 0.1688, 0.131, 0.1024),
    "motion_blur": (0.6382, 0.537, 0.3758, 0.2154, 0.1482),
    "zoom_blur": (0.529, 0.4324, 0.358, 0.2878, 0.2206),
    "gaussian_noise": (0.5978, 0.4686, 0.2748, 0.1128, 0.0218),
    "fog": (0.6138, 0.5612, 0.4704, 0.4088, 0.241),
    "frost": (0.615, 0.4346, 0.309, 0.2896, 0.2294),
    "snow": (0.5498, 0.3154, 0.3518, 0.2382, 0.1654),
    "elastic_transform": (0.6704, 0.4556, 0.5526, 0.4196, 0.1746),
}
# AlexNet's error at severities 1 to 5, from hendrycks/robustness, issue 10.
ALEXNET_BY_SEVERITY = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}


def errors_of(accuracies):
    """A model with the same error at each of five severities."""
    return {name: [1 - accuracy / 100] * 5 for name, (accuracy, _) in accuracies.items()}


def test_the_mce_of_resnet50_is_the_published_one():
    assert f"{100 * mce_alexnet(errors_of(RESNET50)):.1f}" == "76.7"
    for name, (accuracy, published) in RESNET50.items():
        single = mean_corruption_error({name: [1 - accuracy / 100]}, {name: [ALEXNET[name]]})
        # Accuracies are known to 0.01 and are divided by errors that are smaller than 1.
        assert 100 * single == pytest.approx(published, abs=0.02)


def test_alexnet_is_one_hundred_by_construction():
    alexnet = {name: list(errors) for name, errors in ALEXNET_BY_SEVERITY.items()}
    assert 100 * mce_alexnet(alexnet) == pytest.approx(100, abs=1e-6)
    assert 100 * relative_mce_alexnet(alexnet, ALEXNET_CLEAN) == pytest.approx(100, abs=1e-6)


def test_the_relative_mce_in_units_of_alexnet_is_the_general_one():
    alexnet = {name: [error] * 5 for name, error in ALEXNET.items()}
    general = relative_mean_corruption_error(errors_of(RESNET50), CLEAN, alexnet, ALEXNET_CLEAN)
    found = relative_mce_alexnet(errors_of(RESNET50), CLEAN)
    assert found == pytest.approx(general)
    assert f"{100 * found:.0f}" == "105"


def test_scores_of_published_files_have_the_published_mce():
    """The rows of scores.csv, from the accuracy of each cell."""
    accuracies = {name: accuracy / 100 for name, (accuracy, _) in RESNET50.items()}
    cells = {
        ("m", "0", f"imagenet-c-files/{name}", str(level)): accuracy
        for name, accuracy in accuracies.items()
        for level in range(1, 6)
    }
    cells["m", "0", "clean", "none"] = 1 - CLEAN
    table = {
        key: {"accuracy": Estimate(share, np.full(3, share), 50_000)}
        for key, share in cells.items()
    }
    found = {name: estimate.value for _, name, estimate in _corruption_errors(table, True)}
    assert f"{100 * found['mce_alexnet/files']:.1f}" == "76.7"
    assert f"{100 * found['relative_mce_alexnet/files']:.0f}" == "105"


def test_the_relative_mce_of_resnet50_is_the_published_one():
    alexnet = {name: [error] * 5 for name, error in ALEXNET.items()}
    value = relative_mean_corruption_error(errors_of(RESNET50), CLEAN, alexnet, ALEXNET_CLEAN)
    assert f"{100 * value:.0f}" == "105"
    for name, published in RELATIVE.items():
        rise = {name: errors_of(RESNET50)[name]}, CLEAN, {name: alexnet[name]}, ALEXNET_CLEAN
        assert 100 * relative_mean_corruption_error(*rise) == pytest.approx(published, abs=0.75)


def test_the_plain_mean_of_another_measurement_is_the_published_one():
    wrong = {name: 1 - np.array(right) for name, right in ROBUSTBENCH.items()}
    assert mean_corruption_error(wrong) == pytest.approx(1 - ROBUSTBENCH_MEAN, abs=1e-6)
    # For the same kind of model, the mCE from severities is close to the one above (both names).
    assert mce_alexnet(wrong) == pytest.approx(0.767, abs=0.005)
    assert mce_alexnet({f"imagenet_c/{name}": e for name, e in wrong.items()}) == mce_alexnet(wrong)


def test_the_table_is_of_the_published_severities_and_of_the_suite():
    for name, severities in ALEXNET_BY_SEVERITY.items():
        assert ALEXNET[name] == pytest.approx(np.mean(severities), abs=1e-9)
    assert mce_alexnet(ALEXNET_BY_SEVERITY) == pytest.approx(1)
    assert {f"imagenet_c/{name}" for name in ALEXNET} == {s.name for s in suite("imagenet_c")}


def test_severities_are_summed_before_dividing_and_corruptions_averaged_after():
    ours = {"fog": [0.1, 0.5], "snow": [0.3, 0.3]}
    theirs = {"snow": [0.4, 0.8], "fog": [0.2, 0.4]}
    by_hand = ((0.1 + 0.5) / (0.2 + 0.4) + (0.3 + 0.3) / (0.4 + 0.8)) / 2
    assert mean_corruption_error(ours, theirs) == pytest.approx(by_hand)
    assert by_hand != pytest.approx(np.mean([0.1 / 0.2, 0.5 / 0.4, 0.3 / 0.4, 0.3 / 0.8]))
    relative = ((0.6 - 0.2) / (0.6 - 0.1) + (0.6 - 0.2) / (1.2 - 0.1)) / 2
    value = relative_mean_corruption_error(ours, 0.1, theirs, 0.05)
    assert value == pytest.approx(relative)


def test_a_corruption_with_more_severities_counts_no_more_in_the_plain_mean():
    assert mean_corruption_error({"fog": [0.2], "snow": [0.4, 0.6, 0.8]}) == pytest.approx(0.4)


def test_resamples_are_columns():
    rng = np.random.default_rng(0)
    ours = {name: rng.uniform(0.1, 0.9, (5, 3)) for name in ALEXNET}
    theirs = {name: rng.uniform(0.1, 0.9, 5) for name in ALEXNET}
    clean = np.array([0.01, 0.02, 0.03])
    columns = [{name: errors[:, b] for name, errors in ours.items()} for b in range(3)]
    for whole, single in (
        (mean_corruption_error(ours), [mean_corruption_error(each) for each in columns]),
        (mean_corruption_error(ours, theirs), [mean_corruption_error(e, theirs) for e in columns]),
        (mce_alexnet(ours), [mce_alexnet(each) for each in columns]),
        (
            relative_mean_corruption_error(ours, clean, theirs, 0.05),
            [
                relative_mean_corruption_error(each, clean[b], theirs, 0.05)
                for b, each in enumerate(columns)
            ],
        ),
    ):
        assert np.shape(whole) == (3,)
        np.testing.assert_allclose(whole, single, rtol=1e-12)


def test_the_reference_is_one_of_itself():
    errors = errors_of(RESNET50)
    assert mean_corruption_error(errors, errors) == 1
    assert relative_mean_corruption_error(errors, CLEAN, errors, CLEAN) == 1


EXACT = {name: [0.5] * 5 for name in ALEXNET}


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({k: v for k, v in EXACT.items() if k != "fog"}, "missing: fog; not in the mCE: none"),
        ({**EXACT, "spatter": [0.5] * 5}, "missing: none; not in the mCE: spatter"),
        ({**EXACT, "imagenet_c/fog": [0.5] * 5}, "twice, with and without imagenet_c/"),
        ({**EXACT, "snow": [0.5] * 4}, "5 severities .*snow has 4"),
        ({**EXACT, "snow": [0.5, 0.5, 0.5, 0.5, 50.0]}, r"\[0, 1\], found 50 for snow"),
        ({**EXACT, "snow": [0.5, 0.5, 0.5, 0.5, math.nan]}, "found nan for snow"),
        ({**EXACT, "snow": 0.5}, r"errors of snow must be \[severities\]"),
        ({}, "15 corruptions .*missing: gaussian_noise"),
    ],
)
def test_the_mce_wants_exactly_its_cells(errors, words):
    with pytest.raises(InputError, match=words):
        mce_alexnet(errors)


@pytest.mark.parametrize(
    ("errors", "reference", "words"),
    [
        ({}, None, "at least one corruption"),
        ({"fog": [0.1]}, {"snow": [0.1]}, "only the model has fog, only the reference snow"),
        ({"fog": [0.1]}, {"fog": [0.1, 0.2]}, "fog has 1 .* 2 in the reference"),
        ({"fog": [0.1]}, {"fog": [0.0]}, "fog .*reference"),
    ],
)
def test_what_cannot_be_averaged_is_refused(errors, reference, words):
    with pytest.raises(InputError, match=words):
        mean_corruption_error(errors, reference)


def test_a_reference_that_is_not_hurt_is_refused():
    with pytest.raises(InputError, match=r"fog .*reference"):
        relative_mean_corruption_error({"fog": [0.4]}, 0.1, {"fog": [0.2]}, 0.3)
    with pytest.raises(InputError, match="found 23 for clean"):
        relative_mean_corruption_error({"fog": [0.4]}, 23, {"fog": [0.2]}, 0.1)


def slow_flip_rate(predicted, weights):
    """Counted pair of levels by pair of levels, image by image."""
    shares = []
    for before, after in itertools.pairwise(predicted):
        flips = sum(w for x, y, w in zip(before, after, weights, strict=True) if x != y)
        shares.append(flips / sum(weights))
    return sum(shares) / len(shares)


@given(st.data())
def test_flips_are_those_counted_one_by_one(data):
    levels, n = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 6))
    row = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    predicted = data.draw(st.lists(row, min_size=levels, max_size=levels))
    weights = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    value = flip_rate(predicted, weights)
    assert value == pytest.approx(slow_flip_rate(predicted, weights))
    # Neither the names of the classes nor the direction of the sweep matter.
    renamed = [[7 - 3 * label for label in each] for each in predicted]
    assert flip_rate(renamed, weights) == value
    assert flip_rate(predicted[::-1], weights) == pytest.approx(value)
    repeated = np.repeat(np.array(predicted), weights, axis=1)
    assert flip_rate(repeated) == pytest.approx(value)


def test_flip_rates_at_the_edges():
    assert flip_rate([[1, 2, 3], [1, 2, 3], [1, 2, 3]]) == 0
    assert flip_rate([[0, 0], [1, 1], [0, 0]]) == 1
    assert flip_rate([[0, 0, 0], [0, 0, 1]], [[1, 1, 1], [0, 0, 2]]).tolist() == [1 / 3, 1]
    for bad in ([[1, 2]], [1, 2], [[]]):
        with pytest.raises(InputError, match=r"predicted .*two levels"):
            flip_rate(bad)
    with pytest.raises(InputError, match="predicted is empty"):
        flip_rate(np.zeros((2, 0), int))


def logit(share):
    return math.log(share / (1 - share))


def slow_effective(clean, shifted, xs, ys):
    slope, intercept = np.polyfit([logit(x) for x in xs], [logit(y) for y in ys], 1)
    return shifted - 1 / (1 + math.exp(-(intercept + slope * logit(clean))))


def test_effective_robustness_is_what_a_fit_of_the_logits_says():
    xs, ys = [0.6, 0.7, 0.75, 0.9], [0.3, 0.35, 0.5, 0.65]
    for clean, shifted in ((0.8, 0.6), (0.65, 0.2), (0.95, 0.9)):
        expected = slow_effective(clean, shifted, xs, ys)
        assert effective_robustness(clean, shifted, xs, ys) == pytest.approx(expected)


def test_a_model_on_the_line_has_none_and_one_above_it_has_the_distance():
    slope, intercept = 0.8, -1.0
    xs = np.array([0.5, 0.6, 0.8])
    ys = 1 / (1 + np.exp(-(intercept + slope * np.log(xs / (1 - xs)))))
    on = 1 / (1 + math.exp(-(intercept + slope * logit(0.7))))
    assert effective_robustness(0.7, on, xs, ys) == pytest.approx(0, abs=1e-12)
    assert effective_robustness(0.7, on + 0.1, xs, ys) == pytest.approx(0.1)


def test_resamples_are_fitted_one_by_one():
    rng = np.random.default_rng(1)
    clean, shifted = rng.uniform(0.5, 0.9, (2, 4))
    xs, ys = rng.uniform(0.3, 0.9, (2, 5, 4))
    xs[:, 2] = 0.71  # no line through these, although rounding makes their mean differ from them
    values = effective_robustness(clean, shifted, xs, ys)
    for b in (0, 1, 3):
        expected = slow_effective(clean[b], shifted[b], xs[:, b], ys[:, b])
        assert values[b] == pytest.approx(expected)
    assert np.isnan(values[2])


def test_a_model_that_counts_twice_is_a_model_that_is_there_twice():
    xs, ys = np.array([0.6, 0.7, 0.75, 0.9]), np.array([0.3, 0.35, 0.5, 0.65])
    counts = np.array([[2, 0, 1, 1], [0, 3, 1, 0], [1, 1, 1, 1], [0, 4, 0, 0]])
    values = effective_robustness(0.8, 0.6, xs, ys, weights=counts.T)
    for value, count in zip(values[:3], counts, strict=False):
        expected = slow_effective(0.8, 0.6, np.repeat(xs, count), np.repeat(ys, count))
        assert value == pytest.approx(expected)
        assert effective_robustness(0.8, 0.6, xs, ys, weights=count) == pytest.approx(expected)
    assert np.isnan(values[3])  # no line goes through one model
    ours = np.array([0.7, 0.8, 0.9, 0.6])
    by_resample = effective_robustness(ours, ours, xs, ys, weights=counts.T)
    assert by_resample[1] == pytest.approx(
        effective_robustness(0.8, 0.8, xs, ys, weights=counts[1])
    )
    for wrong in ([1, 1], [1, -1, 1, 1], np.ones((3, 2))):
        with pytest.raises(InputError, match="weights"):
            effective_robustness(0.8, 0.6, xs, ys, weights=wrong)


def test_an_accuracy_of_one_is_half_an_image_inside():
    xs, ys = [0.6, 1.0], [0.0, 0.5]
    inside = [0.6, 0.995], [0.005, 0.5]
    value = effective_robustness(0.8, 0.5, xs, ys, images=100)
    assert value == pytest.approx(slow_effective(0.8, 0.5, *inside))
    value = effective_robustness(1.0, 0.5, [0.6, 0.9], [0.4, 0.5], images=100)
    assert value == pytest.approx(slow_effective(0.995, 0.5, [0.6, 0.9], [0.4, 0.5]))
    with pytest.raises(InputError, match=r"0 or 1 .*`images`"):
        effective_robustness(0.9, 0.5, xs, ys)
    with pytest.raises(InputError, match=r"0 or 1 .*`images`"):
        effective_robustness(1.0, 0.5, [0.6, 0.7], [0.5, 0.6])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.8, 0.6, [0.7], [0.5]), "at least two reference models"),
        ((0.8, 0.6, [], []), "at least two reference models"),
        ((0.8, 0.6, [0.7, 0.8], [0.5]), r"found \[2\] and \[1\]"),
        ((0.8, 0.6, [0.7, 0.7, 0.7], [0.5, 0.6, 0.4]), "found 3 with the same"),
        ((80, 0.6, [0.7, 0.8], [0.5, 0.6]), "found 80 in clean"),
        ((0.8, -1, [0.7, 0.8], [0.5, 0.6]), "found -1 in shifted"),
        ((0.8, 0.6, [0.7, math.nan], [0.5, 0.6]), "found nan in reference_clean"),
        ((0.8, 0.6, 0.7, 0.5), r"reference_clean must be \[models\]"),
    ],
)
def test_what_has_no_line_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        effective_robustness(*arguments)

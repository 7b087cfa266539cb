"""Noise and blur of ImageNet-C against the benchmark's outputs and slow definitions."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fairweather.shifts import corruption
from fairweather.shifts.imagenet_c import blur, noise
from fairweather.shifts.imagenet_c.blur import convolve, disk, draw_offsets, motion_filter
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS, published_constants
from tests import golden
from tests.golden import measure
from tests.golden.images import IMAGES, scene
from tests.helpers import reference_corruptions
from tests.helpers.chance import FALSE_ALARM, deviations

NOISES = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"]
SETS = {"cifar10_c": 32, "tiny_imagenet_c": 64, "imagenet_c": 224}


class Published:
    """Numbers of numpy's legacy generator, in the order in which the benchmark asks for them."""

    def __init__(self, seed):
        self.legacy = np.random.RandomState(seed)
        self.uniform = self.legacy.uniform

    def offsets(self, reach, shape):
        """For glass_blur, which goes from the lower right to the upper left: right, then down."""
        passes, _, *size = shape
        drawn = self.legacy.randint(-reach, reach, size=(passes, *size, 2))[:, ::-1, ::-1]
        return np.stack([drawn[..., 1], drawn[..., 0]], axis=1).astype(np.int8)


@pytest.fixture(autouse=True)
def published_offsets(monkeypatch):
    def draw(generator, reach, shape):
        published = isinstance(generator, Published)
        return (
            generator.offsets(reach, shape) if published else draw_offsets(generator, reach, shape)
        )

    monkeypatch.setattr(blur, "draw_offsets", draw)


def ours(name, image, severity, size, generator=None):
    """Corrupt one image, `[H, W, 3]`, with the constants of a size."""
    row = CORRUPTIONS[name]
    images = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    drawn = (iter([generator]),) if row.is_random else ()
    corrupted = row.function(images, *drawn, **published_constants(name, severity, size))
    return corrupted[0].transpose(1, 2, 0)


def assert_agrees(one, other):
    """Within 2/255 at most (1/255 a removal of the fraction) and well within 0.5 on average."""
    difference = np.abs(one.astype(int) - other)
    assert difference.max() <= 2
    assert difference.mean() <= 0.2


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(
    "name", ["defocus_blur", "zoom_blur", "gaussian_blur", "glass_blur", "motion_blur"]
)
def test_blurs_equal_the_benchmarks_outputs_at_224_pixels(name, image, severity):
    if CORRUPTIONS[name].is_random and image != "scene":
        pytest.skip("the benchmark's random outputs are of one image")
    windows, blocks = golden.exact(name, severity, image)
    output = ours(name, IMAGES[image](224, 224), severity, 224, Published(severity))
    assert_agrees(measure.windows(output), windows)
    assert np.abs(measure.block_means(output) - blocks).mean() <= 0.15


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize(
    "name", ["defocus_blur", "zoom_blur", "gaussian_blur", "glass_blur", "motion_blur"]
)
def test_blurs_equal_the_benchmarks_outputs_at_32_pixels(name, severity):
    if (name, severity) == ("zoom_blur", 5):
        pytest.skip("made with rounded zoom factors: see the next test")
    expected = golden.archive("cifar10_c_exact")[name][severity - 1]
    assert_agrees(ours(name, scene(32, 32), severity, 32, Published(severity)), expected)


def test_zoom_factors_are_numpys_with_their_last_digit():
    """The last of `arange(1, 1.26, 0.01)` is above 1.25, so that 26 pixels become 33 and not 32."""
    image = scene(32, 32)
    factors = np.arange(1, 1.26, 0.01)
    assert factors[-1] > 1.25
    expected = reference_corruptions.zoom_blur(image, factors)
    assert_agrees(ours("zoom_blur", image, 5, 32), expected)


@pytest.mark.parametrize("set_name", SETS)
@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (40, 23)])
@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur", "gaussian_blur"])
def test_fixed_blurs_equal_their_definition_at_any_size(name, shape, set_name):
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    for severity in (1, 3, 5):
        parameters = golden.parameters(set_name, name, severity)
        if name == "zoom_blur":
            row = published_constants(name, severity, SETS[set_name])
            parameters = {"zoom_factors": np.arange(1, row["stop"], row["step"])}
        expected = reference_corruptions.corrupt(name, image, parameters)
        assert_agrees(ours(name, image, severity, SETS[set_name]), expected)


@pytest.mark.parametrize("angle", [-135, -90, -60, -45, -30.5, 0, 10, 45, 90, 180])
@pytest.mark.parametrize("shape", [(8, 30), (25, 25, 3)])
def test_motion_equals_its_definition_at_any_angle(angle, shape):
    image = np.random.default_rng(1).uniform(0, 255, size=shape).astype(np.float32)
    for radius, sigma in [(1, 0.5), (6, 1), (15, 12), (20, 15)]:
        expected = reference_corruptions.streak(image.astype(float), radius, sigma, angle)
        assert np.abs(motion_filter(image, radius, sigma, angle) - expected).max() < 2e-3


@pytest.mark.parametrize("places", [np.uint16, np.int32])
@pytest.mark.parametrize(("reach", "passes"), [(1, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (40, 23)])
def test_glass_equals_the_walk_pixel_by_pixel(shape, reach, passes, places, monkeypatch):
    monkeypatch.setattr(blur, "place_type", lambda count: np.dtype(places))
    image = np.random.default_rng(2).integers(256, size=(*shape, 3), dtype=np.uint8)
    rows, columns = (max(0, side - 2 * reach) for side in shape)
    offsets = np.random.RandomState(5).randint(-reach, reach, size=(passes, rows, columns, 2))
    expected = reference_corruptions.glass_blur(image, offsets, 0.7, reach, passes)
    images = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    parameters = {"sigma": 0.7, "reach": reach, "passes": passes}
    made = CORRUPTIONS["glass_blur"].function(images, iter([Published(5)]), **parameters)
    assert_agrees(made[0].transpose(1, 2, 0), expected)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (7, 9)])
@pytest.mark.parametrize("reach", range(1, 16))
def test_offsets_are_those_that_numpy_draws_pass_by_pass(reach, size):
    drawn = draw_offsets(np.random.Generator(np.random.SFC64(3)), reach, (3, 2, *size))
    generator = np.random.Generator(np.random.SFC64(3))
    for offsets in drawn:
        expected = generator.integers(-reach, reach, size=(2, *size), dtype=np.int8)
        assert np.array_equal(offsets, expected)


@pytest.mark.parametrize("radius", [6, 10])
@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (40, 23)])
def test_waves_equal_the_sum_over_the_taps(shape, radius):
    """Within one grey level, which the cut to 8 bits can add to a rounding error."""
    images = np.random.default_rng(4).integers(256, size=(2, 3, *shape), dtype=np.uint8)
    kernel = disk(radius, 0.5).astype(float)
    reach = len(kernel) // 2
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=(2, 3))
    expected = np.minimum(np.einsum("bcyxij,ij->bcyx", views, kernel), 255)
    made = convolve(images, kernel.astype(np.float32))
    # A thousandth of a level is added on purpose, and float32 errs by less than that.
    assert (made >= np.floor(expected)).all()
    assert (made <= expected + 2e-3).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_pairs_are_found_alike_by_opencv_and_by_numpy(kind, monkeypatch):
    table = np.random.default_rng(0).integers(65536, size=65536).astype(kind)
    first, second = np.indices((256, 256), np.uint8)
    expected = table.reshape(256, 256)
    assert np.array_equal(corruption.take_pairs(table, first, second), expected)
    monkeypatch.setattr(corruption, "_HAS_LARGE_TABLES", False)
    assert np.array_equal(corruption.take_pairs(table, first, second), expected)


def test_places_are_looked_up_alike_by_opencv_and_by_numpy(monkeypatch):
    rng = np.random.default_rng(0)
    for kind, count in itertools.product((np.uint16, np.int32, np.uint8), (1, 50_000, 65_536)):
        table = rng.integers(256, size=count).astype(kind)
        places = rng.integers(count, size=(3, 99)).astype(np.uint16)
        found = corruption.take(table, places)
        assert found.dtype == table.dtype
        assert np.array_equal(found, table[places])
        with monkeypatch.context() as older:
            older.setattr(corruption, "_HAS_LARGE_TABLES", False)
            assert np.array_equal(corruption.take(table, places), found)


@pytest.mark.parametrize("reach", [1, 4, 15])
def test_origins_are_the_same_in_the_largest_image_of_16_bits(reach, monkeypatch):
    offsets = np.random.default_rng(reach).integers(
        -reach, reach, size=(2, *[256 - 2 * reach] * 2), dtype=np.int8
    )
    found = blur._pixel_origins(256, 256, reach, offsets)
    monkeypatch.setattr(blur, "place_type", lambda count: np.dtype(np.int32))
    assert np.array_equal(found, blur._pixel_origins(256, 256, reach, offsets))
    assert corruption.place_type(65_537) == np.int32


def test_quantising_with_clipping_drops_fractions_as_without():
    """Numbers near whole ones, but farther from the step at a thousandth below than they err."""
    values = np.arange(256)[:, None] + np.linspace(0, 0.99, 100)
    values = np.concatenate([values, np.arange(1, 257)[:, None] - 9e-4 * np.ones(3)], axis=1)
    values = values.astype(np.float32)
    expected = corruption.quantise(np.minimum(values, 255).copy())
    assert np.array_equal(corruption.quantise_clipped(values), expected)
    assert (corruption.quantise_clipped(np.array([[255.5, 256, 300]], np.float32)) == 255).all()


@pytest.mark.parametrize("severity", range(1, 6))
def test_the_disk_loses_nothing_with_its_rim(severity):
    radius, alias_blur = published_constants("defocus_blur", severity, 224).values()
    kernel = disk(radius, alias_blur)
    expected = reference_corruptions.disk_kernel(radius, alias_blur)
    rim = (len(expected) - len(kernel)) // 2
    assert (
        np.abs(kernel - expected[rim : len(expected) - rim, rim : len(expected) - rim]).max() < 1e-6
    )
    assert kernel.sum() == pytest.approx(expected.sum(), abs=1e-4)


@pytest.mark.parametrize("name", ["defocus_blur", "zoom_blur", "gaussian_blur", "motion_blur"])
@pytest.mark.parametrize("size", [32, 224])
def test_even_areas_stay_as_they_are(name, size):
    for grey in (0, 1, 77, 128, 201, 254, 255):
        image = np.full((40, 40, 3), grey, np.uint8)
        for severity in range(1, 4 if (name, size) == ("defocus_blur", 224) else 6):
            assert (ours(name, image, severity, size, np.random.default_rng(0)) == grey).all()


def truncated(values):
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def exact_chances(name, value, parameter):
    """Probabilities of the 256 outputs of one value, from scipy's distributions."""
    edges = np.arange(1, 256)
    if name == "gaussian_noise":
        below = stats.norm.cdf(edges, value, 255 * parameter)
    elif name == "speckle_noise":
        below = stats.norm.cdf(edges, value, value * parameter)
    elif name == "shot_noise":
        counts = np.arange(4 * int(parameter) + 60)
        chances = stats.poisson.pmf(counts, value / 255 * parameter)
        return np.bincount(truncated(counts / parameter), weights=chances, minlength=256)
    else:
        chances = np.zeros(256)
        chances[value] = 1 - parameter
        chances[[0, 255]] += parameter / 2
        return chances
    return np.diff(below, prepend=0, append=1)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("size", [32, 224])
def test_each_value_becomes_each_other_as_often_as_it_should(name, size):
    generator = np.random.default_rng(11)
    for severity in (1, 5):
        ((parameter),) = published_constants(name, severity, size).values()
        for value in (1, 30, 128, 250, 255):
            image = np.full((200, 500, 3), value, np.uint8)
            counts = np.bincount(
                ours(name, image, severity, size, generator).ravel(), minlength=256
            )
            expected = exact_chances(name, value, parameter) * image.size
            often = expected >= 20
            # Probabilities are exact to 16 bits (see the next test).
            rest = expected[~often].sum() + (~often).sum() * image.size / 65536
            assert counts[~often].sum() <= stats.poisson.isf(FALSE_ALARM, rest)
            merged = [np.append(c[often], c[~often].sum() + 1e-9) for c in (counts, expected)]
            excess = (merged[0] - merged[1]) ** 2 / np.maximum(merged[1], 20)
            assert excess.sum() < stats.chi2.ppf(1 - 1e-5, often.sum()) + 1


@pytest.mark.parametrize("name", NOISES)
def test_chances_are_right_to_sixteen_bits(name):
    """The alias table has the probabilities that it was made from."""
    below = {
        "gaussian": noise._gaussian_below,
        "shot": noise._poisson_below,
        "impulse": noise._impulse_below,
    }
    function = below.get(name.removesuffix("_noise"), noise._speckle_below)
    ((parameter),) = published_constants(name, 4, 64).values()
    entries = noise._alias_table(function, parameter).reshape(256, 256).astype(int)
    threshold, alias = entries >> 8, entries & 255
    chances = threshold.astype(float)
    rows = np.arange(256)
    for cell in range(256):
        np.add.at(chances, (rows, alias[:, cell]), 256 - threshold[:, cell])
    for value in range(1, 256):
        exact = exact_chances(name, value, parameter)
        assert np.abs(chances[value] / 65536 - exact).max() <= 1 / 65536
    assert (chances[0, 0] == 65536) == (name in ("shot_noise", "speckle_noise"))


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", [*NOISES, "glass_blur", "motion_blur"])
def test_moments_and_spectrum_are_those_of_the_benchmark(name, severity):
    draws, image = 10, scene(224, 224)
    expected = golden.draws(name, severity)
    outputs = [
        ours(name, image, severity, 224, np.random.default_rng([severity, draw]))
        for draw in range(draws)
    ]
    measured = {
        "moments": [measure.region_moments(output) for output in outputs],
        "spectrum": [measure.spectrum(output, image) for output in outputs],
    }
    for what, values in measured.items():
        error = expected[f"{what}_error"] * np.sqrt(1 + 200 / draws)
        # Besides the sampling error, what the removed fraction leaves open: in even areas, where
        # the benchmark's sums end just below a whole number, blurs lose some of a grey level.
        slack = (0.02 if name in NOISES else 0.1) + 2e-3 * np.abs(expected[what])
        assert (np.abs(np.mean(values, axis=0) - expected[what]) <= 5 * error + slack).all(), what


@pytest.mark.parametrize("name", NOISES)
def test_channels_and_neighbours_are_drawn_for_themselves(name):
    image = np.full((64, 64, 3), 128, np.uint8)
    noisy = ours(name, image, 5, 224, np.random.default_rng(3)).astype(float) - 128
    pairs = [(noisy[..., 0], noisy[..., 1]), (noisy[:, 1:], noisy[:, :-1]), (noisy[1:], noisy[:-1])]
    for one, other in pairs:
        found = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(found) < deviations(comparisons=3) / math.sqrt(one.size)

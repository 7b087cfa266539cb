"""Weather and digital corruptions against the benchmark's outputs, and against slow versions.

The random ones are given what the benchmark drew, in its order, and must then make what it made.
"""

import importlib.util

import cv2
import numpy as np
import pytest
from PIL import Image

from fairweather.errors import InputError
from fairweather.shifts.imagenet_c import digital, weather
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS, published_constants
from fairweather.shifts.table import make_shift
from tests import golden
from tests.golden.images import IMAGES
from tests.golden.measure import windows
from tests.helpers import reference_corruptions

FIXED = ("brightness", "contrast", "saturate", "pixelate", "jpeg_compression")
RANDOM = ("snow", "frost", "fog", "elastic_transform", "spatter")
# Largest and mean difference in 1/255 where there is one; those without a row must be equal.
# brightness, saturate: a third channel comes back from hue a bit higher or lower. frost at odd
# sizes: the slow version scales the photograph itself. elastic_transform: OpenCV before version 5
# interpolates from places rounded to 1/32 pixel. The others: float32 before the cut to 8 bits.
ALLOWED = {
    "brightness": (1, 0.05),
    "saturate": (1, 0.3),
    "frost": (1, 0.1),
    "snow": (1, 0.01),
    "fog": (1, 0.01),
    "elastic_transform": (1, 0.03) if int(cv2.__version__.split(".")[0]) >= 5 else (5, 0.3),
    "spatter": (1, 0.01),
}


class Replayed:
    """The benchmark's generator, numpy's legacy one, behind the methods of today's."""

    def __init__(self, seed, shape):
        self.state = np.random.RandomState(seed)
        self.shape = shape

    @property
    def bit_generator(self):
        return self

    def random_raw(self, count):
        """Numbers from 0 to 1, each as the upper 24 of 32 bits."""
        numbers = (self.state.random_sample(2 * count) * 2**24).astype(np.uint32)
        return (numbers << np.uint32(8)).view(np.uint64)

    def uniform(self, low, high, size=None):
        return self.state.uniform(low, high, size)

    def integers(self, high):
        return self.state.randint(high)

    def standard_normal(self, size, dtype):
        """The benchmark draws noise for the whole image; the part in the middle is asked for."""
        whole = self.state.standard_normal(self.shape)
        top, left = ((side - part) // 2 for side, part in zip(self.shape, size, strict=True))
        return whole[top : top + size[0], left : left + size[1]].astype(dtype)


def corrupt(name, image, parameters, seed=0):
    """Corrupt one image, `[H, W, 3]`, with replayed random numbers."""
    batch = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    row = CORRUPTIONS[name]
    drawn = [iter([Replayed(seed, image.shape[:2])])] if row.is_random else []
    return row.function(batch, *drawn, **parameters)[0].transpose(1, 2, 0)


def assert_agrees(name, found, expected):
    difference = np.abs(found.astype(int) - expected)
    most, mean = ALLOWED.get(name, (0, 0))
    assert difference.max() <= most
    assert difference.mean() <= mean


def skip_without_photographs(name):
    if name == "frost" and importlib.util.find_spec("imagecorruptions") is None:
        pytest.skip("frost needs the photographs of imagecorruptions, which is not installed")


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", [*FIXED, *RANDOM])
def test_is_the_benchmarks_at_224(name, severity):
    skip_without_photographs(name)
    parameters = published_constants(name, severity, 224)
    for image in IMAGES if name in FIXED else ["scene"]:
        found = corrupt(name, IMAGES[image](224, 224), parameters, severity)
        assert_agrees(name, windows(found), golden.exact(name, severity, image)[0])


@pytest.mark.parametrize("name", [*FIXED, *RANDOM])
def test_is_the_benchmarks_at_32(name):
    skip_without_photographs(name)
    image = IMAGES["scene"](32, 32)
    for severity, expected in enumerate(golden.archive("cifar10_c_exact")[name], start=1):
        found = corrupt(name, image, published_constants(name, severity, 32), severity)
        assert_agrees(name, found, expected)


@pytest.mark.parametrize("shape", [(8, 8), (9, 14), (28, 28), (37, 21), (64, 64)])
@pytest.mark.parametrize("name", [*FIXED, *RANDOM])
def test_is_the_slow_version_at_other_sizes(name, shape):
    skip_without_photographs(name)
    side = max(shape)
    set_name = "cifar10_c" if side < 48 else "tiny_imagenet_c"
    image = IMAGES["texture"](*shape)
    photos = golden.frost_photos(0.2 if side < 48 else 0.3) if name == "frost" else None
    for severity in (1, 3, 5):
        published = golden.parameters(set_name, name, severity)
        if name == "elastic_transform":
            scale = min(shape) / golden.published(set_name)["size"]
            published = {key: value * scale for key, value in published.items()}
        expected = reference_corruptions.corrupt(
            name, image, published, np.random.RandomState(severity), photos
        )
        found = corrupt(name, image, published_constants(name, severity, side), severity)
        assert_agrees(name, found, expected)


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("name", [*FIXED, *RANDOM])
def test_flat_images_stay_in_range(name, value):
    """No value may overflow: adding makes no image darker, and black stays without noise."""
    skip_without_photographs(name)
    image = np.full((16, 16, 3), value, np.uint8)
    found = corrupt(name, image, published_constants(name, 5, 16))
    if name in ("contrast", "pixelate", "elastic_transform") or (name == "fog" and value == 0):
        assert (found == value).all()
    if name == "brightness":
        assert (found >= value).all()
    if name == "snow" and value == 255:
        assert (found == 255).all()


NEUTRAL = {
    "brightness": {"amount": 0},
    "contrast": {"factor": 1},
    "saturate": {"factor": 1, "offset": 0},
    "pixelate": {"factor": 1},
    "frost": {"image_weight": 1, "frost_weight": 0, "frost_zoom": 0.2},
    "elastic_transform": {"alpha": 0, "sigma": 0.1, "shift": 0},
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_parameters_change_nothing(name):
    """Equal except for what the benchmark's conversion to 8 bits does to 1/255 and back."""
    skip_without_photographs(name)
    image = IMAGES["scene"](24, 40)
    difference = np.abs(corrupt(name, image, NEUTRAL[name]).astype(int) - image)
    assert difference.max() <= (1 if name in ("brightness", "contrast", "saturate") else 0)
    assert difference.mean() < 0.1


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (28, 28), (33, 47), (224, 200), (600, 5)])
def test_pixelate_is_pillow_to_the_last_bit_where_centres_lie_on_edges_too(shape):
    # Fractions that end blocks on the centre of a pixel (6 of 11, 20 of 21), and one block of 600.
    sizes = sorted({*range(1, 23), *shape})
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    for factor in sorted({small / large for large in sizes for small in sizes if small <= large}):
        low, narrow = (max(1, int(factor * side)) for side in shape)
        for image, found in zip(images, pixelated(images, factor), strict=True):
            # One side after the other: new versions of Pillow begin with a height that is large.
            thin = Image.fromarray(image).resize((narrow, shape[0]), Image.Resampling.BOX)
            blocks = thin.resize((narrow, low), Image.Resampling.BOX)
            expected = np.asarray(blocks.resize(shape[::-1], Image.Resampling.BOX))
            np.testing.assert_array_equal(found, expected, err_msg=f"{factor}")


def pixelated(images, factor):
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return digital.pixelate(planes, factor=factor).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 47), (224, 200)])
@pytest.mark.parametrize("quality", [1, 7, 25, 50, 90, 100])
def test_jpeg_is_pillow_to_the_last_bit_at_every_size(shape, quality):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    found = digital.jpeg_compression(planes, quality=quality).transpose(0, 2, 3, 1)
    expected = [reference_corruptions.jpeg_compression(image, quality) for image in images]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mud", [0, 1])
def test_without_liquid_the_image_stays(mud):
    image = IMAGES["scene"](16, 16)
    dry = {"mean": 0.1, "scale": 0.1, "sigma": 1, "threshold": 0.9, "strength": 0.6, "mud": mud}
    assert np.array_equal(corrupt("spatter", image, dry), image)


def test_frost_scales_a_photograph_that_is_too_small():
    skip_without_photographs("frost")
    image = np.zeros((600, 40, 3), np.uint8)
    only_frost = {"image_weight": 0, "frost_weight": 1, "frost_zoom": 0.2}
    for seed in range(6):
        assert corrupt("frost", image, only_frost, seed).std() > 5


def test_frost_draws_five_photographs():
    skip_without_photographs("frost")
    image = np.zeros((32, 32, 3), np.uint8)
    only_frost = {"image_weight": 0, "frost_weight": 1, "frost_zoom": 1}
    generators = [np.random.default_rng(seed) for seed in range(64)]
    batch = np.repeat(np.ascontiguousarray(image.transpose(2, 0, 1))[None], 64, axis=0)
    found = weather.frost(batch, iter(generators), **only_frost)
    photographs = [photo.transpose(2, 0, 1) for photo in golden.frost_photos()]
    expected = []
    for seed in range(64):
        rng = np.random.default_rng(seed)
        photo = photographs[rng.integers(5)]
        row, column = (rng.integers(side - 32) for side in photo.shape[1:])
        expected.append(photo[:, row : row + 32, column : column + 32])
    assert np.array_equal(found, np.stack(expected))


def test_frost_without_the_photographs_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for cached in (weather._read_photograph, weather._scale_photograph):
        cached.cache_clear()
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(InputError, match="pip install --no-deps imagecorruptions"):
        corrupt("frost", image, published_constants("frost", 1, 16))


def test_plasma_spans_zero_to_one_whatever_is_beside_it():
    generators = [np.random.default_rng(seed) for seed in range(3)]
    maps = weather.draw_plasma(iter(generators), 3, 16, decay=2)
    alone = weather.draw_plasma(iter([np.random.default_rng(1)]), 1, 16, decay=2)
    assert np.array_equal(maps[1], alone[0])
    assert maps.min(axis=(1, 2)).tolist() == [0, 0, 0]
    assert maps.max(axis=(1, 2)).tolist() == [1, 1, 1]


BAD = [
    ("brightness", "amount", 1.5),
    ("brightness", "amount", -2),
    ("contrast", "factor", -0.1),
    ("saturate", "factor", -1),
    ("saturate", "offset", 1.1),
    ("pixelate", "factor", 0),
    ("pixelate", "factor", 1.2),
    ("jpeg_compression", "quality", 0),
    ("jpeg_compression", "quality", 101),
    ("jpeg_compression", "quality", 50.5),
    ("fog", "amount", 0),
    ("fog", "decay", -1),
    ("frost", "image_weight", -1),
    ("frost", "frost_weight", -0.5),
    ("frost", "frost_zoom", 0),
    ("snow", "scale", 0),
    ("snow", "zoom", 0.5),
    ("snow", "radius", 0),
    ("snow", "sigma", -1),
    ("snow", "image_weight", 1.5),
    ("spatter", "scale", 0),
    ("spatter", "sigma", -1),
    ("spatter", "strength", 0),
    ("spatter", "mud", 2),
    ("elastic_transform", "alpha", -1),
    ("elastic_transform", "sigma", -0.1),
    ("elastic_transform", "shift", -0.1),
]


@pytest.mark.parametrize(("name", "parameter", "value"), BAD)
def test_bad_values_get_one_sentence(name, parameter, value):
    with pytest.raises(InputError, match=f"^{name}: {parameter} must be .*, found {value}$"):
        make_shift(f"imagenet_c/{name}", severity=2, **{parameter: value})

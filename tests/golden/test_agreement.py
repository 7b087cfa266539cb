"""The slow versions give what the published packages gave, so they may stand in at other sizes."""

import importlib.util

import numpy as np
import pytest

from tests import golden
from tests.golden.images import scene
from tests.golden.measure import block_means, windows
from tests.helpers import reference_corruptions as slow

ROUNDING = 1  # of 255: another order of float operations can cross the cut to 8 bits
FRACTION = 0.1  # of 255, on average over the pixels
COLOURS = {"brightness", "saturate"}  # a Python call per pixel: slow at 224 px


def made(set_name, corruption, severity):
    published = golden.published(set_name)
    if corruption == "frost" and importlib.util.find_spec("imagecorruptions") is None:
        pytest.skip("frost's photographs come with imagecorruptions, which is not installed")
    photos = golden.frost_photos(published["frost_scale"]) if corruption == "frost" else None
    image = scene(published["size"], published["size"])
    values = golden.parameters(set_name, corruption, severity)
    return slow.corrupt(corruption, image, values, np.random.RandomState(severity), photos)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("corruption", slow.CORRUPTIONS)
def test_32_px(corruption, severity):
    expected = golden.archive("cifar10_c_exact")[corruption][severity - 1].astype(int)
    gap = np.abs(made("cifar10_c", corruption, severity) - expected)
    assert gap.max() <= ROUNDING
    assert gap.mean() <= FRACTION


@pytest.mark.parametrize("corruption", sorted(set(slow.CORRUPTIONS) - COLOURS))
def test_224_px(corruption):
    output = made("imagenet_c", corruption, 3)
    window, blocks = golden.exact(corruption, 3)
    gap = np.abs(windows(output).astype(int) - window)
    assert gap.max() <= ROUNDING
    assert gap.mean() <= FRACTION
    assert np.abs(block_means(output) - blocks).max() <= ROUNDING


def test_constants_name_the_arguments_of_the_slow_versions():
    for set_name in ("cifar10_c", "tiny_imagenet_c", "imagenet_c"):
        corruptions = golden.published(set_name)["corruptions"]
        assert set(corruptions) == set(slow.CORRUPTIONS)
        for table in corruptions.values():
            assert [len(row) for row in table["severities"]] == [len(table["parameters"])] * 5

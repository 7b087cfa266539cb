"""Random views: every operation against torchvision, image by image, and the shares of each."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torchvision.transforms import InterpolationMode

from fairweather.training.selfsupervised.pretraining_recipe import SMALL_VIEWS, Views
from fairweather.training.selfsupervised.views import (
    JITTERS,
    apply_view,
    blur,
    blur_radius,
    crop,
    draw_boxes,
    draw_view,
    grey,
    make_two_views,
    make_view,
    solarize,
)
from tests.helpers.chance import FALSE_ALARM, counts_p, distribution_p, mean_p, share_p

NOTHING = Views(
    crop_scale=(1.0, 1.0),
    horizontal_flip=0.0,
    jitter_probability=0.0,
    grayscale=0.0,
    blur=(0.0, 0.0),
    solarize=(0.0, 0.0),
)


def pictures(n, height, width, seed=0):
    """Coloured noise, smoothed so that neighbours are similar, with pure and grey pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 5, generator=generator)
    size = (height, width)
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    images = (1.6 * (images + 0.2 * torch.rand(n, 3, *size, generator=generator)) - 0.4).clamp(0, 1)
    images[0, :, :2] = 0.5
    images[1, 1:] = 0
    return images


def to_bytes(images):
    return (images * 255).round().byte()


@pytest.mark.parametrize("size", [(28, 28), (40, 23)])
def test_crops_are_those_of_torchvision(size):
    images, rng = pictures(40, *size), np.random.default_rng(0)
    boxes = draw_boxes(40, size, Views(crop_scale=(0.08, 1.0), horizontal_flip=0.5), rng)
    found = crop(images, boxes)
    for number, image in enumerate(images):
        top, left, height, width = (int(side[number]) for side in boxes[:4])
        expected = reference.resized_crop(
            image, top, left, height, width, size, InterpolationMode.BICUBIC, antialias=True
        ).clamp(0, 1)
        expected = expected.flip(2) if boxes.flip[number] else expected
        assert torch.allclose(found[number], expected, atol=2e-5)


def test_boxes_lie_in_the_image_and_cover_what_was_asked():
    boxes = draw_boxes(
        20_000,
        (60, 60),
        Views(crop_scale=(0.2, 0.6), horizontal_flip=0.3),
        np.random.default_rng(0),
    )
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.top + boxes.height <= 60).all()
    assert (boxes.left + boxes.width <= 60).all()
    area = boxes.height * boxes.width / 3600
    # Sides of 23 to 54 pixels are rounded by up to a half each.
    rounding = (0.5 * (40 + 54) + 0.25) / 3600
    assert (area.min(), area.max()) == pytest.approx((0.2, 0.6), abs=rounding)
    assert mean_p(area, 0.4) > FALSE_ALARM
    ratio = np.log(boxes.width / boxes.height)
    assert np.abs(ratio).max() <= np.log(4 / 3) + 2 * np.log(23 / 22.5)
    assert mean_p(ratio, 0) > FALSE_ALARM
    assert share_p(boxes.flip, 0.3) > FALSE_ALARM
    # Every corner that a box can have is as likely as any other: with a fraction drawn beside
    # them, whole places are uniform numbers.
    fraction = np.random.default_rng(1).random((2, 20_000))
    for places, side, more in zip(boxes[:2], boxes[2:4], fraction, strict=True):
        assert distribution_p((places + more) / (61 - side), "uniform") > FALSE_ALARM


def test_an_image_that_no_box_fits_gets_the_largest_in_its_middle():
    boxes = draw_boxes(
        5, (20, 100), Views(crop_scale=(1.0, 1.0), horizontal_flip=0.0), np.random.default_rng(0)
    )
    assert set(boxes.height) == {20}
    assert set(boxes.width) == {round(20 * 4 / 3)}
    assert set(boxes.left) == {(100 - 27) // 2}
    assert set(boxes.top) == {0}


REFERENCES = {
    "brightness": reference.adjust_brightness,
    "contrast": reference.adjust_contrast,
    "saturation": reference.adjust_saturation,
    "hue": reference.adjust_hue,
}


@pytest.mark.parametrize("name", JITTERS)
def test_each_jitter_is_that_of_torchvision(name):
    images = pictures(24, 17, 14)
    amounts = torch.linspace(-0.5, 0.5, 24) if name == "hue" else torch.linspace(0, 2, 24)
    found = JITTERS[name](images, amounts)
    expected = [
        REFERENCES[name](image, float(amount))
        for image, amount in zip(images, amounts, strict=True)
    ]
    assert torch.allclose(found, torch.stack(expected), atol=2e-6)
    assert float((found - images).abs().max()) > 0.1


def test_grey_and_solarized_are_those_of_torchvision():
    images = pictures(6, 9, 12)
    expected = reference.rgb_to_grayscale(images, num_output_channels=3)
    assert torch.allclose(grey(images).expand_as(images), expected, atol=1e-6)
    assert torch.allclose(solarize(images), reference.solarize(images, 0.5))
    assert float(solarize(images).max()) <= 0.5


@pytest.mark.parametrize("size", [(28, 28), (64, 33)])
def test_the_blur_is_that_of_torchvision(size):
    images, sigma = pictures(8, *size), torch.linspace(0.1, 2.0, 8)
    kernel = [2 * blur_radius(side) + 1 for side in reversed(size)]
    expected = [
        reference.gaussian_blur(image, kernel, [float(each)] * 2)
        for image, each in zip(images, sigma, strict=True)
    ]
    assert torch.allclose(blur(images, sigma), torch.stack(expected), atol=2e-6)


def test_a_view_is_its_operations_one_after_the_other():
    images = to_bytes(pictures(64, 16, 16))
    view = draw_view(64, (16, 16), Views(), 1, np.random.default_rng(3))
    expected = crop(images.float() / 255, view.boxes)
    for number, names in enumerate(view.order):
        image = expected[number]
        if view.jittered[number]:
            for place in names:
                name = list(JITTERS)[place]
                image = REFERENCES[name](image, float(view.amounts[place, number]))
        if view.greyed[number]:
            image = reference.rgb_to_grayscale(image, num_output_channels=3)
        if view.blurred[number]:
            image = reference.gaussian_blur(image, [3, 3], [float(view.sigma[number])] * 2)
        if view.solarized[number]:
            image = reference.solarize(image, 0.5)
        expected[number] = image
    found = apply_view(images, view)
    # A pixel that is 0.5 to the last bit may be solarized by one and not by the other.
    same = (found - expected).abs() < 1e-5
    assert float(same.float().mean()) > 0.9999
    for share in (view.jittered, view.greyed, view.blurred, view.solarized):
        assert 0 < share.sum() < 64


def test_parameters_are_drawn_for_each_image_in_their_ranges():
    n, views = 20_000, Views()
    for kind in (0, 1):
        view = draw_view(n, (28, 28), views, kind, np.random.default_rng(kind))
        assert share_p(view.jittered, 0.8) > FALSE_ALARM
        assert share_p(view.greyed, 0.2) > FALSE_ALARM
        assert share_p(view.blurred, (1.0, 0.1)[kind]) > FALSE_ALARM
        assert share_p(view.solarized, (0.0, 0.2)[kind]) > FALSE_ALARM
        assert share_p(view.boxes.flip, 0.5) > FALSE_ALARM
        spans = [(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1), (0.1, 2.0)]
        for values, (low, high) in zip([*view.amounts, view.sigma], spans, strict=True):
            assert distribution_p(values, "uniform", low, high - low) > FALSE_ALARM
        orders, counts = np.unique(view.order, axis=0, return_counts=True)
        assert len(orders) == 24
        assert counts_p(counts) > FALSE_ALARM


def test_a_factor_is_never_below_zero():
    view = draw_view(1000, (8, 8), Views(brightness=3.0), 0, np.random.default_rng(0))
    assert view.amounts[0].min() >= 0
    assert distribution_p(view.amounts[0], "uniform", 0, 4) > FALSE_ALARM


def test_without_anything_a_view_is_the_image():
    images = to_bytes(pictures(8, 14, 14))
    view = make_view(images, NOTHING, 0, np.random.default_rng(0))
    assert torch.allclose(view, images.float() / 255, atol=1e-6)
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_the_same_generator_makes_the_same_views_and_the_images_stay():
    images = to_bytes(pictures(16, 12, 12))
    before = images.clone()
    twice = [make_two_views(images, Views(), np.random.default_rng(5)) for _ in range(2)]
    other = make_two_views(images, Views(), np.random.default_rng(6))
    assert torch.equal(twice[0][0], twice[1][0])
    assert torch.equal(twice[0][1], twice[1][1])
    assert not torch.equal(twice[0][0], other[0])
    assert torch.equal(images, before)


def test_views_differ_from_image_to_image_and_from_each_other_and_stay_in_range():
    images = to_bytes(pictures(2, 20, 20))[:1].expand(64, 3, 20, 20)
    first, second = make_two_views(images, Views(), np.random.default_rng(0))
    assert len(torch.cat([first, second]).flatten(1).unique(dim=0)) == 128
    for view in (first, second):
        assert view.dtype == torch.float32
        assert float(view.min()) >= 0
        assert float(view.max()) <= 1


def test_small_views_have_no_blur():
    view = draw_view(1000, (32, 32), SMALL_VIEWS, 0, np.random.default_rng(0))
    assert not view.blurred.any()
    assert (view.boxes.height * view.boxes.width).min() >= 0.18 * 32 * 32

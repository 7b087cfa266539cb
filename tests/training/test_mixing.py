"""CutMix, random erasing and Gaussian noise."""

import math

import numpy as np
import pytest
import torch

from fairweather.errors import InputError
from fairweather.training.augmentation import (
    PixelBoxes,
    add_gaussian_noise,
    box_areas,
    cut_mix,
    draw_erased_boxes,
    draw_pasted_boxes,
    mask_boxes,
    random_erase,
)
from fairweather.training.recipe import GaussianNoise, RandomErasing
from tests.helpers.chance import FALSE_ALARM, counts_p, distribution_p, mean_p, share_p


def slow_cut_mix(images, labels, classes, alpha, rng):
    """Paste one image and pixel at a time, with the same random numbers and the published box."""
    n, _, height, width = images.shape
    kept = rng.beta(alpha, alpha, n)
    rows, columns = rng.integers(height, size=n), rng.integers(width, size=n)
    partner = rng.permutation(n)
    mixed, targets = images.clone(), torch.zeros(n, classes)
    for i in range(n):
        cut = math.sqrt(1 - kept[i])
        high, wide = int(height * cut) // 2, int(width * cut) // 2
        pasted = 0
        for y in range(rows[i] - high, rows[i] + high):
            for x in range(columns[i] - wide, columns[i] + wide):
                if 0 <= y < height and 0 <= x < width:
                    mixed[i, :, y, x] = images[partner[i], :, y, x]
                    pasted += 1
        targets[i, labels[i]] += 1 - pasted / (height * width)
        targets[i, labels[partner[i]]] += pasted / (height * width)
    return mixed, targets


@pytest.mark.parametrize("size", [(16, 16), (9, 20), (1, 1)])
def test_cut_mix_pastes_pixel_by_pixel(size):
    images = torch.rand(40, 3, *size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 7
    found = cut_mix(images, labels, 7, 1.0, np.random.default_rng(4))
    expected = slow_cut_mix(images, labels, 7, 1.0, np.random.default_rng(4))
    assert torch.equal(found.views[0], expected[0])
    assert torch.allclose(found.targets, expected[1], atol=1e-6)
    assert torch.allclose(found.targets.sum(1), torch.ones(40))


def test_labels_are_the_share_of_pixels_of_each_image():
    n, side = 300, 24
    labels = torch.arange(n)
    images = labels.float().reshape(n, 1, 1, 1).expand(n, 3, side, side)
    (mixed,), targets = cut_mix(images, labels, n, 0.7, np.random.default_rng(0))
    shares = torch.stack([torch.bincount(row.flatten().long(), minlength=n) for row in mixed[:, 0]])
    assert torch.allclose(targets, shares / side**2, atol=1e-6)


def test_boxes_have_the_area_that_was_drawn_before_they_are_cut_off():
    kept = np.random.default_rng(0).beta(1.0, 1.0, 30_000)
    boxes = draw_pasted_boxes(kept, (1000, 400), np.random.default_rng(1))
    share = box_areas(boxes) / 400_000
    whole = (boxes.top > 0) & (boxes.left > 0) & (boxes.bottom < 1000) & (boxes.right < 400)
    # Each side is cut down to an even number of pixels, and so loses less than two of them.
    assert np.allclose(share[whole], 1 - kept[whole], atol=2 / 1000 + 2 / 400)
    assert (share <= 1 - kept + 1e-9).all()
    centre = (boxes.top + boxes.bottom)[whole & (kept > 0.99)] / 2
    assert mean_p(centre, 500) > FALSE_ALARM
    assert draw_pasted_boxes(np.ones(3), (8, 8), np.random.default_rng(0)).top.shape == (3,)
    assert box_areas(draw_pasted_boxes(np.ones(3), (8, 8), np.random.default_rng(0))).sum() == 0


def test_a_box_has_the_pixels_between_its_ends():
    boxes = PixelBoxes(*np.array([[0, 2, 5], [4, 2, 6], [1, 0, 6], [3, 7, 7]]))
    slow = torch.zeros(3, 1, 6, 7, dtype=torch.bool)
    for i, (top, bottom, left, right) in enumerate(zip(*boxes, strict=True)):
        slow[i, 0, top:bottom, left:right] = True
    assert torch.equal(mask_boxes(boxes, 6, 7, torch.device("cpu")), slow)
    assert box_areas(boxes).tolist() == slow.sum((1, 2, 3)).tolist()


def erased_boxes(images, **settings):
    """Erase images of -1: the pixels that are not negative are the erased ones."""
    found = random_erase(images, np.random.default_rng(7), RandomErasing(**settings))
    return found, (found >= 0).all(1)


def test_erased_pixels_are_uniform_noise_in_one_box():
    n, height, width = 2000, 40, 30
    images = -torch.ones(n, 3, height, width)
    found, erased = erased_boxes(images, probability=0.5)
    assert torch.equal((found >= 0).any(1), erased)
    assert (images == -1).all()
    changed = erased.flatten(1).any(1)
    assert share_p(changed, 0.5) > FALSE_ALARM
    high, wide = (erased.any(axis).sum(1)[changed] for axis in (2, 1))
    assert torch.equal(erased.flatten(1).sum(1)[changed], high * wide)
    values = found[found >= 0]
    assert values.max() <= 1
    assert distribution_p(values, "uniform") > FALSE_ALARM


def test_boxes_to_erase_have_the_area_and_aspect_that_were_drawn():
    """Algorithm 1, one try at a time, with the same random numbers."""
    n, height, width = 300, 40, 30
    _, erased = erased_boxes(-torch.ones(n, 3, height, width), probability=1)
    high, wide = (erased.any(axis).sum(1).tolist() for axis in (2, 1))
    rng = np.random.default_rng(7)
    shares, ratios = rng.uniform(0.02, 0.33, (10, n)), rng.uniform(0.3, 3.3, (10, n))
    repeated = 0
    for number in range(n):
        for share, ratio in zip(shares[:, number], ratios[:, number], strict=True):
            pixels = share * height * width
            sides = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if sides[0] <= height and sides[1] <= width:
                break
            repeated += 1
        assert (high[number], wide[number]) == sides
    assert repeated > 0


def test_boxes_to_erase_lie_anywhere():
    boxes = draw_erased_boxes(
        20_000,
        (10, 12),
        RandomErasing(area=(0.1, 0.1), aspect=(1.0, 1.0)),
        np.random.default_rng(0),
    )
    assert set(boxes.bottom - boxes.top) == {3}
    assert set(boxes.right - boxes.left) == {3}
    assert counts_p(np.bincount(boxes.top, minlength=8)) > FALSE_ALARM
    assert counts_p(np.bincount(boxes.left, minlength=10)) > FALSE_ALARM


def test_a_box_that_never_fits_erases_nothing():
    images = torch.rand(20, 3, 8, 8)
    found = random_erase(
        images,
        np.random.default_rng(0),
        RandomErasing(probability=1, area=(0.9, 1.0), aspect=(50.0, 60.0)),
    )
    assert torch.equal(found, images)


def test_noise_has_a_deviation_of_its_own_for_each_image():
    n = 10_000
    images = torch.full((n, 3, 16, 16), 0.5)
    noisy = add_gaussian_noise(
        images, np.random.default_rng(0), GaussianNoise(std=0.1, probability=0.7)
    )
    deviation = (noisy - images).flatten(1).std(1)
    changed = deviation > 0
    assert share_p(changed, 0.7) > FALSE_ALARM
    assert torch.equal(noisy[~changed], images[~changed])
    assert distribution_p(deviation[changed], "uniform", 0, 0.1) > FALSE_ALARM
    assert mean_p((noisy - images).flatten(1).mean(1), 0) > FALSE_ALARM
    assert (images == 0.5).all()


def test_noise_is_clipped_to_the_pixels():
    images = torch.rand(50, 3, 8, 8).round()
    noisy = add_gaussian_noise(
        images, np.random.default_rng(0), GaussianNoise(std=1.0, probability=1.0)
    )
    assert noisy.min() == 0
    assert noisy.max() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_random_repeats_with_its_seed_and_touches_no_other_state(dtype):
    images = torch.rand(20, 3, 12, 12, dtype=dtype)
    labels = torch.arange(20)
    changes = {
        "cut_mix": lambda rng: cut_mix(images, labels, 20, 1.0, rng).views[0],
        "erase": lambda rng: random_erase(images, rng, RandomErasing(probability=1.0)),
        "noise": lambda rng: add_gaussian_noise(
            images, rng, GaussianNoise(std=0.2, probability=1.0)
        ),
    }
    state = torch.get_rng_state()
    for change in changes.values():
        one, same, other = (change(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert one.dtype == dtype
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_stays_channels_last():
    images = torch.rand(6, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    for changed in (
        cut_mix(images, torch.arange(6), 6, 1.0, rng).views[0],
        random_erase(images, rng, RandomErasing(probability=1.0)),
        add_gaussian_noise(images, rng, GaussianNoise(std=0.2, probability=1.0)),
    ):
        assert changed.is_contiguous(memory_format=torch.channels_last)


def test_cut_mix_stays_on_the_device_of_its_images():
    # Tensors on `meta` have no values, but like those on a GPU they do not mix with the CPU's.
    rng = np.random.default_rng(0)
    images, labels = torch.zeros(6, 3, 8, 8, device="meta"), torch.zeros(6, device="meta").long()
    mixed = cut_mix(images, labels, 6, 1.0, rng)
    assert mixed.views[0].device == mixed.targets.device == images.device


def test_probability_zero_changes_nothing():
    images, rng = torch.rand(20, 3, 8, 8), np.random.default_rng(0)
    assert torch.equal(random_erase(images, rng, RandomErasing(probability=0)), images)
    assert torch.equal(
        add_gaussian_noise(images, rng, GaussianNoise(std=0.2, probability=0)), images
    )


def test_empty_batches_stay_empty():
    empty, rng = torch.zeros(0, 3, 8, 8), np.random.default_rng(0)
    assert len(random_erase(empty, rng, RandomErasing(probability=1))) == 0
    assert len(add_gaussian_noise(empty, rng, GaussianNoise(std=0.2, probability=1))) == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: RandomErasing(probability=1.5), r"probability .*\[0, 1\].* 1.5$"),
        (lambda: GaussianNoise(std=0.1, probability=-1), r"probability .*\[0, 1\].*-1"),
        (lambda: GaussianNoise(std=0, probability=1), "std .*> 0.* 0$"),
        (
            lambda: RandomErasing(probability=1, area=(0.5, 0.1)),
            r"area .*low, high.*above 0 .*1.*\[0.5, 0.1\]",
        ),
        (
            lambda: RandomErasing(probability=1, aspect=(0.0, 1.0)),
            r"aspect .*low, high.*above 0, .*\[0.0, 1.0\]",
        ),
    ],
)
def test_bad_settings_are_refused(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()

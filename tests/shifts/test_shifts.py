"""Shifts: equal to their references, image by image, in any batch."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fairweather.errors import InputError
from fairweather.shifts.basic import effective_sigma
from fairweather.shifts.table import CLEAN, SHIFTS, SUITES, make_shift, suite, sweep

BILINEAR = reference.InterpolationMode.BILINEAR
SIZES = [(28, 28), (9, 40), (33, 17)]
EXAMPLES = [
    make_shift("brightness_factor", factor=1.3),
    make_shift("gaussian_blur", sigma=0.9),
    make_shift("rotation", degrees=20),
    make_shift("translate", fraction=0.2),
    make_shift("downscale", factor=2),
    make_shift("hue", turn=0.2),
    make_shift("gamma", exponent=2),
    make_shift("jpeg", quality=30),
    CLEAN,
]


def photos(n, height, width, seed=0):
    """Noise, black, white and stripes: images on which rounding and clipping matter."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, height, width), generator=generator, dtype=torch.uint8)
    images[0], images[1], images[2, :, ::2] = 0, 255, 255
    return images


def on_pil(images, function):
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    arrays = [np.array(function(image)) for image in pil]
    return torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0, 0.3, 0.6, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 2.55, 7])
def test_brightness_equals_torchvision_on_pil(size, factor):
    images = photos(20, *size)
    shifted = make_shift("brightness_factor", factor=factor)(images, torch.arange(20))
    assert torch.equal(
        shifted, on_pil(images, lambda pil: reference.adjust_brightness(pil, factor))
    )


@settings(max_examples=60, deadline=None)
@given(factor=st.floats(0, 8, allow_nan=False))
def test_brightness_equals_torchvision_at_any_factor(factor):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    shifted = make_shift("brightness_factor", factor=factor)(images, torch.arange(1))
    assert torch.equal(
        shifted, on_pil(images, lambda pil: reference.adjust_brightness(pil, factor))
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("sigma", "kernel"),
    [(0.3, 5), (0.5, 5), (0.7, 5), (0.9, 5), (0.3, 3), (1, 1), (2, 17), (1.5, 13)],
)
def test_blur_equals_torchvision_on_pil(size, sigma, kernel):
    images = photos(40, *size)
    shifted = make_shift("gaussian_blur", sigma=sigma, kernel_size=kernel)(images, torch.arange(40))
    expected = on_pil(images, lambda pil: reference.gaussian_blur(pil, [kernel] * 2, [sigma] * 2))
    assert torch.equal(shifted, expected)


def test_the_default_kernel_cuts_nothing_off():
    images, keys = photos(8, 28, 28), torch.arange(8)
    default, wide, narrow = (
        make_shift("gaussian_blur", sigma=0.7, **kernel)(images, keys).int()
        for kernel in ({}, {"kernel_size": 25}, {"kernel_size": 3})
    )
    assert (default - wide).abs().max() <= 1
    assert (narrow - wide).abs().max() > 3


@pytest.mark.parametrize(("sigma", "effective"), [(1.5, 1.20), (2, 1.29), (3, 1.36)])
def test_a_small_kernel_blurs_less_than_it_says(sigma, effective):
    assert effective_sigma(sigma, 5) == pytest.approx(effective, abs=0.005)
    assert effective_sigma(sigma, 2 * int(4 * sigma) + 1) == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("shift", EXAMPLES, ids=lambda shift: shift.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_image_is_shifted_the_same_way_in_any_batch(shift, data):
    images, keys = photos(24, 16, 13, seed=1), torch.arange(100, 124)
    order = data.draw(st.permutations(range(24)))
    size = data.draw(st.integers(1, 24))
    together = shift(images, keys, seed=3)
    parts = [shift(images[part], keys[part], seed=3) for part in torch.tensor(order).split(size)]
    assert torch.equal(torch.cat(parts), together[order])


@pytest.mark.parametrize("shift", EXAMPLES, ids=lambda shift: shift.name)
def test_a_shift_leaves_its_input_and_the_random_state_alone(shift):
    images = photos(4, 12, 12)
    before, state = images.clone(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    shift(images, torch.arange(4), seed=1)
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("shift", "function"),
    [
        (
            make_shift("rotation", degrees=angle),
            lambda pil, angle=angle: reference.rotate(pil, angle, BILINEAR),
        )
        for angle in (-90, -12.5, 0, 33, 180)
    ]
    + [
        (make_shift("hue", turn=turn), lambda pil, turn=turn: reference.adjust_hue(pil, turn))
        for turn in (-0.5, -0.1, 0, 0.03, 0.5)
    ]
    + [
        (make_shift("gamma", exponent=g), lambda pil, g=g: reference.adjust_gamma(pil, g))
        for g in (0.3, 1, 2.2, 5)
    ],
    ids=lambda value: getattr(value, "id", ""),
)
def test_free_sweeps_equal_torchvision_on_pil(shift, function, size):
    images = photos(6, *size)
    assert torch.equal(shift(images, torch.arange(6)), on_pil(images, function))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fraction", [-0.9, -0.13, 0, 0.2, 0.5])
def test_translation_equals_torchvision(fraction, size):
    images = photos(6, *size)
    pixels = [round(fraction * size[1]), 0]
    expected = reference.affine(images, angle=0, translate=pixels, scale=1, shear=[0.0, 0.0])
    assert torch.equal(
        make_shift("translate", fraction=fraction)(images, torch.arange(6)), expected
    )


def test_downscaling_takes_detail_and_leaves_the_mean():
    images = photos(6, 32, 48)
    spread = [make_shift("downscale", factor=f)(images, torch.arange(6)).float() for f in (1, 2, 4)]
    assert torch.equal(spread[0], images.float())
    assert spread[0][3:].std() > 1.5 * spread[1][3:].std() > 1.5 * spread[2][3:].std()
    assert (spread[2].mean((2, 3)) - images.float().mean((2, 3))).abs().max() < 6


LEVELS = {
    "rotation": (-20, 30),
    "translate": (-0.4, 0.2),
    "downscale": (1.5, 2),
    "hue": (-0.3, 0.2),
    "jpeg": (10, 50),
}
# Where the neutral level is not allowed: one that changes nothing either.
NEAREST = {"gaussian_blur": 1e-3}


def test_each_plain_shift_has_an_example():
    assert {name for name in SHIFTS if "/" not in name} == {shift.name for shift in EXAMPLES[:-1]}


@pytest.mark.parametrize("name", [name for name in SHIFTS if "/" not in name])
def test_entries_can_be_swept_and_have_a_neutral_level(name):
    kind = SHIFTS[name]
    images = photos(5, 10, 10)
    levels = LEVELS.get(name, (0.5, 1.5))
    low, high = sweep(name, levels)
    assert low.level == levels[0]
    assert high.id.startswith(f"{name},{kind.level}={levels[1]}")
    assert not torch.equal(low(images, torch.arange(5)), high(images, torch.arange(5)))
    # JPEG's best quality and HSV keep black and white, not all colours.
    near = make_shift(name, **{kind.level: NEAREST.get(name, kind.neutral)})
    kept = slice(2 if name in ("jpeg", "hue") else None)
    assert torch.equal(near(images, torch.arange(5))[kept], images[kept])


@pytest.mark.parametrize("name", [name for name in SUITES if name.startswith("paper_")])
def test_suites_of_the_report_have_its_eight_cells(name):
    shifts = suite(name)
    assert len({shift.id for shift in shifts}) == len(shifts) == 8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_shift("gausian_blur", sigma=1), "did you mean 'gaussian_blur'"),
        (lambda: make_shift("gaussian_blur", sigm=1), "did you mean 'sigma'"),
        (lambda: make_shift("gaussian_blur"), "gaussian_blur .*sigma=NUMBER"),
        (lambda: make_shift("gaussian_blur", sigma=0), "sigma .*> 0, found 0"),
        (lambda: make_shift("gaussian_blur", sigma="0.3"), "sigma .*found '0.3'"),
        (
            lambda: make_shift("gaussian_blur", sigma=1, kernel_size=4),
            "kernel_size .*odd .*found 4",
        ),
        (lambda: make_shift("brightness_factor", factor=-1), "factor .*>= 0, found -1"),
        (
            lambda: make_shift("brightness_factor", factor=float("nan")),
            "factor .*finite .*found nan",
        ),
        (lambda: make_shift("translate", fraction=1), "between -1 and 1, found 1"),
        (lambda: make_shift("downscale", factor=0.5), ">= 1, found 0.5"),
        (lambda: make_shift("hue", turn=0.6), "in .-0.5, 0.5., found 0.6"),
        (lambda: make_shift("gamma", exponent=0), "> 0, found 0"),
        (lambda: make_shift("jpeg", quality=0), "whole number from 1 to 100, found 0"),
        (lambda: sweep("brightness_factor", []), "a list of numbers, found \\[\\]"),
        (lambda: sweep("brightness_factor", [1.5, 1.5]), r"factor .*\[1.5, 1.5\]"),
        (lambda: sweep("brightness_factor", "0.8"), "factor .*found '0.8'"),
        (lambda: suite("paper_pathmnst"), "did you mean 'paper_pathmnist'"),
        (
            lambda: make_shift("gaussian_blur", sigma=2)(photos(4, 8, 8), torch.arange(4)),
            "more than 8 pixels .*found 8x8",
        ),
        (lambda: CLEAN(photos(4, 8, 8).float(), torch.arange(4)), "uint8 .*float32"),
        (
            lambda: CLEAN(photos(4, 8, 8), torch.arange(3)),
            r"key .*4 images, found torch.int64 \[3\]",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)

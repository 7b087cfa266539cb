"""Batched operations against Pillow, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from fairweather.shifts.table import SHIFTS
from fairweather.training.operations import (
    OPERATIONS,
    SMOOTH_OPERATIONS,
    TESTED_AS,
    apply_chosen,
    interpolate_bilinear,
    look_up_nearest,
)

NEAREST, LINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR


def to_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def affine(coefficients):
    def apply(picture, magnitude, resample):
        return picture.transform(
            picture.size, Image.Transform.AFFINE, coefficients(magnitude), resample
        )

    return apply


def enhanced(kind):
    return lambda picture, factor, _: kind(picture).enhance(factor)


# The reference of each operation, and magnitudes to try, up to and beyond its range.
REFERENCES = {
    "autocontrast": (lambda picture, _m, _r: ImageOps.autocontrast(picture), [0.0]),
    "equalize": (lambda picture, _m, _r: ImageOps.equalize(picture), [0.0]),
    "posterize": (lambda picture, bits, _: ImageOps.posterize(picture, int(bits)), range(1, 9)),
    "solarize": (
        lambda picture, threshold, _: ImageOps.solarize(picture, threshold),
        [0, 1, 100.4, 128, 254.9, 255, 256],
    ),
    "rotate": (
        lambda picture, degrees, resample: picture.rotate(degrees, resample),
        [0, 90, 180, 270, -90, 360, 3, -17, 29.7, 133.3, -450],
    ),
    "shear_x": (affine(lambda m: (1, m, 0, 0, 1, 0)), [0, 0.1, -0.29, 0.99, -1]),
    "shear_y": (affine(lambda m: (1, 0, 0, m, 1, 0)), [0, 0.1, -0.29, 0.99, -1]),
    "translate_x": (affine(lambda m: (1, 0, -m, 0, 1, 0)), [0, 1, -3, 2.25, 40, -40]),
    "translate_y": (affine(lambda m: (1, 0, 0, 0, 1, -m)), [0, 1, -3, 2.25, 40, -40]),
    "colour": (enhanced(ImageEnhance.Color), [0, 0.1, 0.5, 1, 1.37, 1.99, 3]),
    "contrast": (enhanced(ImageEnhance.Contrast), [0, 0.1, 0.5, 1, 1.37, 1.99, 3]),
    "brightness": (enhanced(ImageEnhance.Brightness), [0, 0.1, 0.5, 1, 1.37, 1.99, 3]),
    "sharpness": (enhanced(ImageEnhance.Sharpness), [0, 0.1, 0.5, 1, 1.37, 1.99, 3]),
}
MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TABLES = {"nearest": (OPERATIONS, NEAREST), "linear": (SMOOTH_OPERATIONS, LINEAR)}


def pictures(n, height, width):
    """Noise, noise in narrow spans of values, smooth ramps, two values, and single colours."""
    rng = np.random.default_rng(0)
    low, span = rng.integers(0, 200, (2, n, 3, 1, 1)) * np.array([1, 0.9]).reshape(2, 1, 1, 1, 1)
    images = np.clip(low + rng.random((n, 3, height, width)) * (1 + span), 0, 255)
    images[0::5] = rng.integers(0, 256, images[0::5].shape)
    images[1::5] = low[1::5] + 50 * (np.arange(width) / width + np.arange(height)[:, None] / height)
    images[2::5] = np.where(rng.random(images[2::5].shape) < 0.3, low[2::5], low[2::5] + 7)
    images[3::10] = low[3::10]
    return torch.from_numpy(images.astype(np.uint8))


def expected(name, images, magnitudes, resample):
    reference = REFERENCES[name][0]
    return torch.stack(
        [
            from_pil(reference(to_pil(image), magnitude, resample))
            for image, magnitude in zip(images, magnitudes, strict=True)
        ]
    )


def in_turn(magnitudes, n):
    return [list(magnitudes)[i % len(magnitudes)] for i in range(n)]


def test_every_operation_has_a_reference():
    assert set(REFERENCES) == set(OPERATIONS) == set(SMOOTH_OPERATIONS)


@pytest.mark.parametrize("size", [(32, 32), (17, 24), (64, 63), (8, 8), (2, 3), (1, 1)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_pillow_to_the_last_bit(name, size):
    images = pictures(60, *size)
    magnitudes = in_turn(REFERENCES[name][1], 60)
    found = OPERATIONS[name](images, torch.tensor(magnitudes, dtype=torch.float64))
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected(name, images, magnitudes, NEAREST))


@pytest.mark.parametrize("size", [(32, 32), (17, 24), (96, 95), (2, 3), (1, 1)])
@pytest.mark.parametrize("name", MOVING)
def test_linear_interpolation_equals_pillow_but_for_rounding(name, size):
    rng = np.random.default_rng(1)
    images = pictures(120, *size)
    drawn = rng.uniform(-1, 1, 40) * (45 if name == "rotate" else 1)
    magnitudes = in_turn([*REFERENCES[name][1], *drawn], 120)
    found = SMOOTH_OPERATIONS[name](images, torch.tensor(magnitudes, dtype=torch.float64))
    difference = found.int() - expected(name, images, magnitudes, LINEAR).int()
    assert difference.abs().max() <= 1
    assert (difference != 0).sum() <= 1 + 1e-4 * difference.numel()


@pytest.mark.parametrize("lookup", [look_up_nearest, interpolate_bilinear])
def test_any_affine_matrix_equals_pillow(lookup):
    rng = np.random.default_rng(2)
    matrices = rng.uniform(-1.5, 1.5, (150, 6)) * np.array([1, 1, 20, 1, 1, 20])
    images = pictures(150, 21, 30)
    resample = NEAREST if lookup is look_up_nearest else LINEAR
    reference = [
        from_pil(to_pil(image).transform((30, 21), Image.Transform.AFFINE, tuple(row), resample))
        for image, row in zip(images, matrices, strict=True)
    ]
    difference = lookup(images, torch.from_numpy(matrices)).int() - torch.stack(reference).int()
    most = 0 if lookup is look_up_nearest else 1e-4
    assert difference.abs().max() <= 1
    assert (difference != 0).double().mean() <= most


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(set(OPERATIONS) - set(MOVING))),
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.0, 2.0, width=32),
    st.integers(0, 2**32 - 1),
)
def test_tones_of_any_image_equal_pillow(name, height, width, strength, seed):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256)
    values = rng.integers(low, rng.integers(low, 256) + 1, (1, 3, height, width), dtype=np.uint8)
    magnitude = {"posterize": 1 + round(strength * 3.5), "solarize": strength * 128}.get(
        name, strength
    )
    images = torch.from_numpy(values)
    found = OPERATIONS[name](images, torch.tensor([magnitude], dtype=torch.float64))
    assert torch.equal(found, expected(name, images, [magnitude], NEAREST))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_image_does_not_depend_on_its_batch(name, table):
    operation = TABLES[table][0][name]
    images = pictures(7, 12, 10)
    magnitudes = torch.tensor(in_turn(REFERENCES[name][1], 7), dtype=torch.float64)
    before = images.clone()
    together = operation(images, magnitudes)
    alone = [operation(images[i : i + 1], magnitudes[i : i + 1]) for i in range(7)]
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, operation(strided, magnitudes))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_stays_on_the_device_of_its_images(name):
    # Tensors on `meta` have no values, but like those on a GPU they do not mix with the CPU's.
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    for table in (OPERATIONS, SMOOTH_OPERATIONS):
        changed = table[name](images, torch.ones(4))
        assert changed.device == images.device
        assert changed.shape == images.shape


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_empty_batch_stays_empty(name):
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    for table in (OPERATIONS, SMOOTH_OPERATIONS):
        assert table[name](empty, torch.zeros(0, dtype=torch.float64)).shape == empty.shape


@pytest.mark.parametrize(
    ("name", "neutral"),
    [
        *[(name, 0) for name in MOVING],
        *[(name, 1) for name in ("colour", "contrast", "brightness", "sharpness")],
        ("posterize", 8),
        ("solarize", 256),
    ],
)
def test_the_neutral_magnitude_changes_nothing(name, neutral):
    images = pictures(10, 9, 14)
    for table in (OPERATIONS, SMOOTH_OPERATIONS):
        assert torch.equal(table[name](images, torch.full((10,), neutral)), images)


def test_each_image_gets_the_operation_chosen_for_it():
    names = ("nothing", *OPERATIONS)
    n = 5 * len(names)
    rng = np.random.default_rng(3)
    images, chosen = pictures(n, 11, 13), rng.permutation(np.arange(n) % len(names))
    magnitudes = np.array([0.0, *(list(REFERENCES[name][1])[-2:][0] for name in OPERATIONS)])[
        chosen
    ]
    before = images.clone()
    found = apply_chosen(images, names, chosen, magnitudes, OPERATIONS)
    assert torch.equal(images, before)
    for i, place in enumerate(chosen):
        wanted = images[i : i + 1]
        if place:
            wanted = expected(names[place], wanted, [magnitudes[i]], NEAREST)
        assert torch.equal(found[i : i + 1], wanted)


def test_what_tests_the_same_is_a_shift():
    shifts = {name.rpartition("/")[2] for name in SHIFTS}
    assert shifts & set(OPERATIONS) <= set(TESTED_AS) <= set(OPERATIONS)
    assert {shift for tests in TESTED_AS.values() for shift in tests} <= shifts
    related = {shift for shift in shifts if shift.startswith(("bright", "contrast", "satur"))}
    assert related <= {shift for tests in TESTED_AS.values() for shift in tests}

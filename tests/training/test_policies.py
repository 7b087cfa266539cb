"""TrivialAugment and RandAugment against torchvision's own operations on PIL images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

from fairweather.errors import InputError
from fairweather.training import recipe
from fairweather.training.policies import (
    MAGNITUDE_BINS,
    OPERATION_NAMES,
    draw_operations,
    rand_augment,
    rand_augment_space,
    trivial_augment,
    wide_space,
)
from tests.helpers.chance import FALSE_ALARM, counts_p

THEIRS = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "colour": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


def noise(n, height=20, width=28):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def their_operation(image, name, magnitude):
    """Apply torchvision's operation; it adds 1, which our factors already contain."""
    offset = 1 if name in ("brightness", "colour", "contrast", "sharpness") else 0
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    changed = _apply_op(picture, THEIRS[name], magnitude - offset, InterpolationMode.NEAREST, None)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def same_spans(ours, theirs):
    assert {THEIRS[name] for name in ours} == set(theirs)
    for name, span in ours.items():
        values, signed = theirs[THEIRS[name]]
        expected = values.double().expand(MAGNITUDE_BINS).numpy()
        if name.startswith("translate"):
            expected = np.trunc(expected)  # torchvision does this when it applies them
        assert np.array_equal(span.values, expected), name
        assert span.signed == signed
        assert span.neutral == (name in ("brightness", "colour", "contrast", "sharpness"))


def test_spaces_hold_the_numbers_of_torchvision():
    assert set(OPERATION_NAMES) == set(THEIRS)
    same_spans(wide_space(), TrivialAugmentWide()._augmentation_space(MAGNITUDE_BINS))
    for size in ((32, 32), (224, 224), (17, 40)):
        same_spans(
            rand_augment_space(*size), RandAugment()._augmentation_space(MAGNITUDE_BINS, size)
        )


def test_trivial_augment_is_torchvision_image_by_image():
    n = 700
    images = noise(n)
    found = trivial_augment(images, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    chosen, magnitudes = draw_operations(rng.integers(MAGNITUDE_BINS, size=n), wide_space(), rng)
    assert set(chosen) == set(range(len(OPERATION_NAMES)))
    for image, result, place, magnitude in zip(images, found, chosen, magnitudes, strict=True):
        assert torch.equal(result, their_operation(image, OPERATION_NAMES[place], magnitude)), (
            OPERATION_NAMES[place]
        )


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_rand_augment_is_torchvision_image_by_image(magnitude):
    n = 200
    images = noise(n)
    found = rand_augment(images, np.random.default_rng(6), recipe.RandAugment(3, magnitude))
    rng = np.random.default_rng(6)
    space = rand_augment_space(20, 28)
    draws = [draw_operations(np.full(n, magnitude), space, rng) for _ in range(3)]
    for i, image in enumerate(images):
        for chosen, magnitudes in draws:
            image = their_operation(image, OPERATION_NAMES[chosen[i]], magnitudes[i])
        assert torch.equal(found[i], image)


def test_operations_strengths_and_signs_are_uniform():
    n = 56_000
    rng = np.random.default_rng(0)
    chosen, magnitudes = draw_operations(rng.integers(MAGNITUDE_BINS, size=n), wide_space(), rng)
    counts = np.bincount(chosen, minlength=len(OPERATION_NAMES))
    assert counts_p(counts) > FALSE_ALARM
    # 31 strengths from 0 to 135 degrees, and a sign: every angle but 0 is half as likely as 0.
    turned, counts = np.unique(
        magnitudes[chosen == OPERATION_NAMES.index("rotate")].round(3), return_counts=True
    )
    assert turned == pytest.approx(np.linspace(-135, 135, 2 * MAGNITUDE_BINS - 1))
    assert counts_p(counts, np.where(turned == 0, 1, 0.5) / MAGNITUDE_BINS) > FALSE_ALARM
    factors = magnitudes[chosen == OPERATION_NAMES.index("contrast")]
    assert factors.min() == pytest.approx(0.01)
    assert factors.max() == pytest.approx(1.99)


def usual_rand_augment(images, rng):
    return rand_augment(images, rng, recipe.RandAugment())


def test_policies_are_repeatable_and_leave_their_images_alone():
    images = noise(40)
    before = images.clone()
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for policy in (trivial_augment, usual_rand_augment):
        one, same, other = (policy(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert one.dtype == torch.uint8
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


def test_an_image_without_content_and_an_empty_batch():
    assert trivial_augment(noise(0), np.random.default_rng(0)).shape == (0, 3, 20, 28)
    assert rand_augment(noise(0), np.random.default_rng(0), recipe.RandAugment()).shape == (
        0,
        3,
        20,
        28,
    )
    one_pixel = noise(50, 1, 1)
    assert trivial_augment(one_pixel, np.random.default_rng(0)).shape == one_pixel.shape


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"operations": 0}, r"operations .*\[1, 10\].* 0$"),
        ({"magnitude": 31}, r"magnitude .*\[0, 30\].* 31$"),
        ({"magnitude": -1}, r"magnitude .*\[0, 30\].* -1$"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        recipe.RandAugment(**settings)


def test_float_images_are_refused():
    for policy in (trivial_augment, usual_rand_augment):
        with pytest.raises(InputError, match="uint8"):
            policy(torch.rand(2, 3, 8, 8), np.random.default_rng(0))

"""AugMix against the published procedure with PIL, one image at a time, and its divergence."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from fairweather.errors import InputError
from fairweather.training.policies import (
    ALL_OPERATIONS,
    PUBLISHED_OPERATIONS,
    augmix,
    draw_chains,
    jensen_shannon,
    mix_chains,
)
from fairweather.training.recipe import AugMix
from tests.helpers.chance import FALSE_ALARM, deviations, distribution_p

HEIGHT, WIDTH = 24, 33
SIZE = (HEIGHT, WIDTH)


def noise(n):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


def moved(picture, coefficients):
    return picture.transform(
        picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )


def published_operation(picture, name, level, sign):
    """Apply the operation of google-research/augmix at a level that it could have drawn."""
    whole = {"rotate": 30, "translate_x": WIDTH / 3, "translate_y": HEIGHT / 3}.get(name, 0)
    steps = int(level * whole / 10) * sign
    shear, factor = level * 0.3 / 10 * sign, level * 1.8 / 10 + 0.1
    return {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(picture, 4 - int(level * 4 / 10)),
        "rotate": lambda: picture.rotate(steps, Image.Resampling.BILINEAR),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(level * 256 / 10)),
        "shear_x": lambda: moved(picture, (1, shear, 0, 0, 1, 0)),
        "shear_y": lambda: moved(picture, (1, 0, 0, shear, 1, 0)),
        "translate_x": lambda: moved(picture, (1, 0, -steps, 0, 1, 0)),
        "translate_y": lambda: moved(picture, (1, 0, 0, 0, 1, -steps)),
        "colour": lambda: ImageEnhance.Color(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
    }[name]()


def slow_augmix(images, rng, severity, width, depth, names):
    """Follow algorithm 1 of the paper, one image at a time, with the same random numbers."""
    n = len(images)
    depths = rng.integers(1, 4, (n, width)) if depth is None else np.full((n, width), depth)
    shape = (depths.max(), n, width)
    chosen = rng.integers(len(names), size=shape)
    level = rng.uniform(0.1, severity, shape)
    sign = 2 * rng.integers(2, size=shape) - 1
    weights, share = rng.dirichlet(np.ones(width), n), rng.beta(1, 1, (n, 1))[:, 0]
    mixtures = []
    for i, image in enumerate(images):
        original = Image.fromarray(image.permute(1, 2, 0).numpy())
        total = np.zeros((HEIGHT, WIDTH, 3))
        for chain in range(width):
            picture = original
            for step in range(depths[i, chain]):
                at = step, i, chain
                picture = published_operation(picture, names[chosen[at]], level[at], sign[at])
            total += weights[i, chain] * np.array(picture) / 255
        mixtures.append((1 - share[i]) * np.array(original) / 255 + share[i] * total)
    return torch.from_numpy(np.stack(mixtures)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("settings", "severity", "width", "depth", "names"),
    [
        ({}, 3.0, 3, None, PUBLISHED_OPERATIONS),
        ({"severity": 10.0, "all_operations": True}, 10.0, 3, None, ALL_OPERATIONS),
        ({"severity": 1.0, "width": 1, "depth": 4}, 1.0, 1, 4, PUBLISHED_OPERATIONS),
    ],
)
def test_augmix_is_the_published_procedure(settings, severity, width, depth, names):
    images = noise(60)
    found = augmix(images, np.random.default_rng(3), AugMix(**settings))
    slow = slow_augmix(images, np.random.default_rng(3), severity, width, depth, names)
    assert found.dtype == torch.float32
    difference = (found - slow).abs()
    # An interpolated value may be off by one of 255, and a later operation then stretches it.
    assert (difference > 1e-6).double().mean() < 1e-3
    assert difference.double().mean() < 1e-5


def test_a_mixture_stays_within_the_pixels_and_repeats():
    images = noise(50)
    before, state = images.clone(), torch.get_rng_state()
    one, same, other = (augmix(images, np.random.default_rng(seed), AugMix()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    white = torch.full((30, 3, 8, 8), 255, dtype=torch.uint8)
    assert augmix(white, np.random.default_rng(0), AugMix()).max() <= 1


def test_chains_are_drawn_as_published():
    n, width = 20_000, 3
    rng = np.random.default_rng(0)
    depths = rng.integers(1, 4, (n, width))
    chains = draw_chains(depths, SIZE, rng, severity=3.0, alpha=1.0)
    assert np.allclose(chains.weights.sum(1), 1)
    # The image's own weight is uniform, and the chains share the rest equally.
    own = chains.weights[:, -1]
    assert distribution_p(own, "uniform") > FALSE_ALARM
    # Dirichlet(1, 1, 1): each share is Beta(1, 2).
    for weights in chains.weights[:, :width].T:
        assert distribution_p(weights / (1 - own), "beta", 1, 2) > FALSE_ALARM / width
    assert np.array_equal((chains.chosen >= 0).sum(0), depths)
    assert set(np.unique(chains.chosen)) == {-1, *range(len(PUBLISHED_OPERATIONS))}
    turned = chains.magnitudes[chains.chosen == PUBLISHED_OPERATIONS.index("rotate")]
    assert set(turned) == set(range(-8, 9))
    kept = chains.magnitudes[chains.chosen == PUBLISHED_OPERATIONS.index("posterize")]
    assert set(kept) == {3, 4}


def test_a_peaked_distribution_mixes_in_equal_parts():
    chains = draw_chains(
        np.full((100, 4), 2), SIZE, np.random.default_rng(0), severity=3.0, alpha=1e6
    )
    # No weight varies more than the image's own, which is Beta(1e6, 1e6).
    error = deviations(comparisons=500) * 0.5 / math.sqrt(2e6)
    assert np.allclose(chains.weights, [1 / 8] * 4 + [1 / 2], rtol=0, atol=error)


def test_chains_without_weight_leave_the_image():
    images = noise(5)
    chains = draw_chains(
        np.full((5, 2), 3), SIZE, np.random.default_rng(0), severity=3.0, alpha=1.0
    )
    only_itself = chains._replace(weights=np.tile([0.0, 0.0, 1.0], (5, 1)))
    assert torch.allclose(mix_chains(images, only_itself), images / 255, atol=1e-7)


def test_a_mixture_stays_on_the_device_of_its_images():
    # Tensors on `meta` have no values, but like those on a GPU they do not mix with the CPU's.
    images = torch.zeros(9, 3, 8, 8, dtype=torch.uint8, device="meta")
    assert (
        augmix(images, np.random.default_rng(0), AugMix(all_operations=True)).device
        == images.device
    )


def test_small_and_empty_batches():
    assert augmix(noise(0), np.random.default_rng(0), AugMix()).shape == (0, 3, HEIGHT, WIDTH)
    assert augmix(noise(1), np.random.default_rng(0), AugMix(depth=1)).shape == (
        1,
        3,
        HEIGHT,
        WIDTH,
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"severity": 0.0}, r"severity .*0\.1, 10.* 0\.0$"),
        ({"severity": 10.5}, r"severity .*0\.1, 10.* 10\.5$"),
        ({"width": 0}, r"width .*\[1, 10\].* 0$"),
        ({"depth": -1}, r"depth .*\[0, 10\].* -1$"),
        ({"alpha": 0.0}, r"alpha .*> 0.* 0\.0$"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        AugMix(**settings)


def test_float_images_are_refused():
    with pytest.raises(InputError, match="uint8"):
        augmix(torch.rand(2, 3, 8, 8), np.random.default_rng(0), AugMix())


def logits(seed, n=6, classes=5, scale=3.0):
    drawn = np.random.default_rng(seed).normal(0, scale, (3, n, classes))
    return torch.from_numpy(drawn).unbind(0)


def slow_divergence(*views):
    """The definition, one image and one class at a time."""
    total = 0.0
    for rows in zip(*[view.tolist() for view in views], strict=True):
        exponentials = [[math.exp(x - max(row)) for x in row] for row in rows]
        p = [[e / sum(row) for e in row] for row in exponentials]
        mixture = [min(max(sum(column) / 3, 1e-7), 1) for column in zip(*p, strict=True)]
        for row in p:
            total += sum(a * math.log(a / b) for a, b in zip(row, mixture, strict=True) if a > 0)
    return total / 3 / len(views[0])


@given(st.integers(0, 10_000), st.floats(0.0, 60.0))
def test_divergence_is_its_definition(seed, scale):
    views = logits(seed, scale=scale)
    found = float(jensen_shannon(*views))
    assert found == pytest.approx(slow_divergence(*views), abs=1e-12)
    assert -1e-6 <= found <= math.log(3)
    for order in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        assert float(jensen_shannon(*[views[i] for i in order])) == pytest.approx(found, abs=1e-12)


def test_equal_views_do_not_diverge():
    for seed in range(20):
        view = logits(seed)[0].float()
        assert abs(float(jensen_shannon(view, view, view))) < 1e-7
        assert float(jensen_shannon(view, view + 5, view - 7)) < 1e-6


def test_views_that_exclude_each_other_diverge_by_log_3():
    views = [1000 * row.repeat(4, 1) for row in torch.eye(3)]
    assert float(jensen_shannon(*views)) == pytest.approx(math.log(3), rel=1e-6)


def test_the_published_loss_is_the_same():
    views = logits(1)
    p = [view.softmax(1) for view in views]
    mixture = (sum(p) / 3).clamp(1e-7, 1).log()
    terms = [torch.nn.functional.kl_div(mixture, one, reduction="batchmean") for one in p]
    assert float(jensen_shannon(*views)) == pytest.approx(float(sum(terms)) / 3, rel=1e-9)


def test_gradients_flow_into_all_three_views_and_stay_finite():
    views = [view.requires_grad_() for view in logits(2)]
    assert torch.autograd.gradcheck(jensen_shannon, views)
    jensen_shannon(*views).backward()
    assert all(view.grad.abs().sum() > 0 for view in views)
    extreme = [(1000 * row.repeat(2, 1)).requires_grad_() for row in torch.eye(3)]
    jensen_shannon(*extreme).backward()
    assert all(view.grad.isfinite().all() for view in extreme)

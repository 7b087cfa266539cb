"""MedMNIST-C: as published at 224 px, and at other sizes like a resized 224 px image."""

import importlib.util
import json
import random

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from fairweather.errors import InputError
from fairweather.shifts.medmnist_c import layers
from fairweather.shifts.medmnist_c.corruptions import (
    CORRUPTIONS,
    FAMILIES,
    GREY_DATASETS,
    PARAMETERS,
    published_constants,
)
from fairweather.shifts.medmnist_c.operations import canvas_size, scaling_matrix
from fairweather.shifts.table import SHIFTS, SUITES, make_shift, suite, sweep
from tests import golden
from tests.golden.images import scene, texture
from tests.golden.measure import block_means, windows
from tests.shifts.test_imagenet_c import natural

PUBLISHED = json.loads((golden.HERE / "medmnistc_parameters.json").read_text())["sets"]
GOLDENS = sorted({key.split(".")[0] for key in golden.archive("medmnistc_exact")})
# A data set whose family has the corruption: the one of the golden, where there is one.
OF = {
    name: next(data for data, family in FAMILIES.items() if name in family) for name in CORRUPTIONS
} | {"gaussian_blur": "tissuemnist", "gamma_corr_up": "chestmnist"}
WITH_LENGTHS = (
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "stain_deposit",
    "bubble",
    "black_corner",
    "characters",
)
# Largest and mean difference in 1/255 where there is one: float32 before the cut to 8 bits, and
# colours that come back from hue.
ALLOWED = {
    "defocus_blur": (1, 0.12),
    "motion_blur": (1, 0.01),
    "zoom_blur": (1, 0.01),
    "gaussian_blur": (1, 0.01),
    "saturate": (1, 0.05),
}
# Where the published constants may be no farther from the clean image than one severity less:
# motion_blur's 3 has 2's sigma and only a longer tail, and other angles; the 7 blocks of pixelate's
# 5 fit 28 pixels, and the 8 of its 4 do not.
MAY_FALL = {(28, "motion_blur"): {3}, (224, "motion_blur"): {3}, (28, "pixelate"): {5}}


@pytest.fixture(autouse=True)
def _skip_without_drawings(request):
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name == "stain_deposit" and importlib.util.find_spec("medmnistc") is None:
        pytest.skip("stain_deposit needs the drawings of medmnistc, which is not installed")


class Replayed:
    """The generators of Python and numpy that medmnistc draws from, behind today's methods."""

    def __init__(self, seed):
        self.whole, self.real = random.Random(seed), np.random.RandomState(seed)

    def integers(self, low, high):
        return self.whole.randint(low, high - 1)

    def uniform(self, low, high):
        return self.real.uniform(low, high)


def corrupt(name, severity, images, keys=None, seed=0, **parameters):
    keys = torch.arange(len(images)) if keys is None else keys
    parameters = {"dataset": OF[name], **parameters}
    return make_shift(f"medmnist_c/{name}", severity=severity, **parameters)(images, keys, seed)


def on_pixels(name, severity, image, generator):
    """Corrupt `[H, W, 3]` with the function itself and a separate generator."""
    batch = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
    drawn = (iter([generator]),) if CORRUPTIONS[name].is_random else ()
    parameters = published_constants(name, OF[name], severity)
    return CORRUPTIONS[name].function(batch, *drawn, **parameters)[0].transpose(1, 2, 0)


def published_rows(name, dataset):
    """Five rows of medmnistc's registry in this project's parameters."""
    rows = PUBLISHED[dataset]["corruptions"][name]["severities"][:5]
    if name == "stain_deposit":  # `inks[str(max(3, severity))]`, severity from 0
        return [[marks, 32 if k == 4 else 24] for k, marks in enumerate(rows)]
    return [row if isinstance(row, list) else [row] for row in rows]


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_constants_are_the_published_ones(dataset):
    assert (dataset in GREY_DATASETS) is not PUBLISHED[dataset]["rgb"]
    assert set(FAMILIES[dataset]) == set(PUBLISHED[dataset]["corruptions"])
    for name in FAMILIES[dataset]:
        rows = [published_constants(name, dataset, severity) for severity in range(1, 6)]
        assert all(tuple(row) == PARAMETERS[name] for row in rows)
        found = [list(row.values()) for row in rows]
        if name == "zoom_blur":
            found = [np.arange(1, stop, step).tolist() for stop, step in found]
        for one, other in zip(found, published_rows(name, dataset), strict=True):
            assert one == pytest.approx(other, abs=1e-9)


def test_the_tables_are_complete():
    assert set(FAMILIES) == set(PUBLISHED)
    assert set(CORRUPTIONS) == set(PARAMETERS) == {n for f in FAMILIES.values() for n in f}


def test_suites_are_the_families():
    names = [name.split("/")[1] for name in SUITES["medmnist_c"]]
    expected = (
        "pixelate, jpeg_compression, defocus_blur, motion_blur, brightness_up, brightness_down, "
        "contrast_up, contrast_down, saturate, stain_deposit, bubble"
    )
    assert ", ".join(names) == expected
    shifts = suite("medmnist_c")
    assert len({shift.id for shift in shifts}) == len(shifts) == 55
    assert suite("medmnist_c/pathmnist") == shifts
    for dataset, family in FAMILIES.items():
        assert len(suite(f"medmnist_c/{dataset}")) == 5 * len(family)
    last = suite("medmnist_c/bloodmnist", image_size=28)[-1]
    assert last.id == "medmnist_c/bubble,severity=5,dataset=bloodmnist"
    assert last.level == 5


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", GOLDENS)
def test_outputs_are_the_published_ones(name, severity):
    kept = golden.archive("medmnistc_exact")
    found = on_pixels(name, severity, scene(224, 224), Replayed(severity))
    most, mean = ALLOWED.get(name, (0, 0))
    gap = np.abs(windows(found).astype(int) - kept[f"{name}.windows"][severity - 1])
    assert gap.max() <= most
    assert gap.mean() <= mean
    assert np.abs(block_means(found) - kept[f"{name}.blocks"][severity - 1]).max() <= most


@pytest.mark.parametrize("severity", [1, 4, 5])
@pytest.mark.parametrize("name", WITH_LENGTHS)
def test_small_images_change_as_their_originals_would(name, severity):
    small = texture(28, 28)
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    found = on_pixels(name, severity, small, np.random.default_rng(severity))
    changed = on_pixels(name, severity, large, np.random.default_rng(severity))
    expected = changed.reshape(28, 8, 28, 8, 3).mean(axis=(1, 3))
    # Where the border is reflected, a pixel of 28 is reflected without the one at the edge.
    inner = slice(2, -2) if name in ("gaussian_blur", "defocus_blur") else slice(None)
    gap = np.abs(found - expected)[inner, inner]
    assert gap.max() <= 1.01  # both are cut to 8 bits
    assert np.abs(found - small.astype(float)).max() > 5


@pytest.mark.parametrize("name", WITH_LENGTHS)
def test_larger_images_change_in_proportion(name):
    smooth = cv2.GaussianBlur(texture(224, 224), (0, 0), 4)
    large = cv2.resize(smooth, (448, 448), interpolation=cv2.INTER_LINEAR)
    found = on_pixels(name, 5, large, np.random.default_rng(2))
    expected = on_pixels(name, 5, smooth, np.random.default_rng(2))
    halved = found.reshape(224, 2, 224, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - expected).mean() < 1


@pytest.mark.parametrize("scale", [1 / 28, 0.125, 0.5, 0.7, 1, 1.3, 2, 4.6])
def test_spread_taps_keep_sum_and_place(scale):
    ways = scaling_matrix(9, scale)
    assert ways.sum(axis=0) == pytest.approx(np.ones(9), abs=1e-6)
    middle = len(ways) // 2
    if scale <= 1:
        centres = (np.arange(len(ways)) - middle) @ ways
        assert centres == pytest.approx(np.arange(-4, 5) * scale, abs=1e-6)
    assert np.array_equal(ways, ways[::-1, ::-1])


def test_spread_taps_are_interpolated_between():
    assert scaling_matrix(3, 2)[:, 1].tolist() == [0, 0, 0.25, 0.5, 0.25, 0, 0]
    assert scaling_matrix(3, 2)[:, 2].tolist() == [0, 0, 0, 0, 0.25, 0.5, 0.25]


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("name", FAMILIES["pathmnist"])
def test_distance_to_the_clean_image_grows_with_severity(name, side):
    images = natural({28: 96, 224: 12}[side], side, side)
    distances = [
        (corrupt(name, severity, images).int() - images.int()).abs().float().mean().item()
        for severity in range(1, 6)
    ]
    falls = {s + 1 for s in range(1, 5) if distances[s] <= distances[s - 1]}
    assert falls <= MAY_FALL.get((side, name), set())
    assert min(distances) > 0.5  # grey levels


@pytest.mark.parametrize("dataset", FAMILIES)
def test_nothing_is_the_identity_in_any_family(dataset):
    images = natural(6, 28, 28)[:, :1].expand(-1, 3, -1, -1)
    if dataset not in GREY_DATASETS:
        images = natural(6, 28, 28)
    for shift in suite(f"medmnist_c/{dataset}"):
        if "stain" in shift.name and importlib.util.find_spec("medmnistc") is None:
            continue
        changed = (shift(images, torch.arange(6)) != images).flatten(1).any(1)
        assert changed.all(), shift.id


@pytest.mark.parametrize("name", CORRUPTIONS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_an_image_is_corrupted_the_same_way_in_any_batch(name, data):
    shape = data.draw(st.sampled_from([(13, 11), (28, 28), (50, 64)]))
    severity = data.draw(st.integers(1, 5))
    images, keys = natural(5, *shape, seed=1), torch.tensor([5, -1, 2**62, 0, 9])
    order = data.draw(st.permutations(range(5)))
    size = data.draw(st.integers(1, 5))
    together = corrupt(name, severity, images, keys, seed=3)
    parts = [
        corrupt(name, severity, images[part], keys[part], seed=3)
        for part in torch.tensor(order).split(size)
    ]
    assert torch.equal(torch.cat(parts), together[order])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_images_do_not_depend_on_the_batch_either(name):
    images, keys = natural(3, 224, 230, seed=2), torch.arange(3)
    together = corrupt(name, 3, images, keys)
    alone = [corrupt(name, 3, images[i : i + 1], keys[i : i + 1]) for i in (2, 0)]
    assert torch.equal(torch.cat(alone), together[[2, 0]])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_random_corruptions_depend_on_seed_and_key(name):
    images = natural(1, 28, 28).expand(2, -1, -1, -1)
    first, second = corrupt(name, 5, images, seed=0), corrupt(name, 5, images, seed=1)
    assert torch.equal(first, second) != CORRUPTIONS[name].is_random
    assert torch.equal(first[0], first[1]) != CORRUPTIONS[name].is_random


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_input_and_global_random_states_stay_as_they_are(name):
    images = natural(2, 16, 20).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    before = images.clone(), torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    shifted = corrupt(name, 4, images)
    assert torch.equal(shifted, corrupt(name, 4, images.contiguous()))
    assert torch.equal(images, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("shape", [(8, 8), (8, 21), (61, 8), (130, 150)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_from_eight_pixels_up(name, shape):
    images = natural(2, *shape, seed=4)
    images[0], images[1, :, : shape[0] // 2] = 0, 255
    for severity in (1, 5):
        shifted = corrupt(name, severity, images)
        assert shifted.shape == images.shape
        assert shifted.dtype == torch.uint8
    assert corrupt(name, 1, images[:0]).shape == (0, 3, *shape)
    assert min(canvas_size(*shape)) == 224


def test_the_whole_of_a_long_image_is_reached():
    """medmnistc uses the height as the width in bubble, which is right only for squares."""
    images = torch.zeros(40, 3, 28, 84, dtype=torch.uint8)
    wet = corrupt("bubble", 5, images).amax((0, 1))
    assert (wet > 0).float().mean() > 0.95
    assert wet[:, 70:].max() > 0


def test_bubbles_hide_each_other_and_never_add_up():
    images = torch.zeros(30, 3, 224, 224, dtype=torch.uint8)
    assert corrupt("bubble", 5, images).unique().tolist() == [0, 100, 130]


def test_grey_sets_give_the_luminance_of_the_corrupted_colours():
    images = natural(4, 30, 33)
    coloured = make_shift("medmnist_c/gaussian_noise", severity=5, dataset="dermamnist")
    grey = make_shift("medmnist_c/gaussian_noise", severity=5, dataset="chestmnist")
    keys = torch.arange(4)
    expected = [
        np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        for image in coloured(images, keys)
    ]
    found = grey(images, keys).numpy()
    assert all(np.array_equal(found[:, channel], np.stack(expected)) for channel in range(3))


@pytest.mark.parametrize("factor", [0, 0.15, 0.5, 0.9, 1, 1.1, 1.6, 3])
def test_contrast_is_pillows(factor):
    images = natural(5, 19, 26)
    images[0], images[1], images[2, :, :, :13] = 0, 255, 255
    found = corrupt("contrast_up", 1, images, factor=factor)
    for image, out in zip(images, found, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.array(ImageEnhance.Contrast(picture).enhance(factor))
        assert np.array_equal(out.permute(1, 2, 0).numpy(), expected)


def test_the_data_set_chooses_the_constants_and_is_recorded():
    images = natural(4, 28, 28)
    default, path, blood = (
        make_shift("medmnist_c/bubble", severity=1, **chosen)
        for chosen in ({}, {"dataset": "pathmnist"}, {"dataset": "bloodmnist"})
    )
    assert default.id == "medmnist_c/bubble,severity=1"
    assert blood.id == "medmnist_c/bubble,severity=1,dataset=bloodmnist"
    keys = torch.arange(4)
    assert torch.equal(default(images, keys), path(images, keys))
    assert not torch.equal(default(images, keys), blood(images, keys))
    override = make_shift("medmnist_c/bubble", severity=1, max_radius=5, max_bubbles=10)
    assert torch.equal(override(images, keys), blood(images, keys))
    note = SHIFTS["medmnist_c/bubble"].note
    assert note(blood.parameters) == "bloodmnist: max_radius 5, max_bubbles 10"
    assert note(override.parameters) == "pathmnist: max_radius 5, max_bubbles 10"
    swept = sweep("medmnist_c/bubble", {"severity": [1, 5], "dataset": "bloodmnist"})
    assert swept[0] == blood


def test_stains_need_their_drawings(monkeypatch, tmp_path):
    images = natural(1, 28, 28)
    layers._read_drawings.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="medmnistc: pip install --no-deps medmnistc"):
        corrupt("stain_deposit", 1, images)
    empty = importlib.util.spec_from_file_location("medmnistc", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: empty)
    with pytest.raises(InputError, match="install medmnistc again"):
        corrupt("stain_deposit", 1, images)


def of(name, **parameters):
    return lambda: make_shift(f"medmnist_c/{name}", severity=1, dataset=OF[name], **parameters)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_shift("medmnist_c/buble", severity=1), "did you mean 'medmnist_c/bubble'"),
        (lambda: make_shift("medmnist_c/bubble"), "needs its level"),
        (lambda: make_shift("medmnist_c/bubble", severity=0), "1, 2, 3, 4 or 5, found 0"),
        (lambda: make_shift("medmnist_c/bubble", severity=6), "1, 2, 3, 4 or 5, found 6"),
        (lambda: make_shift("medmnist_c/bubble", severity="1"), "finite number, found '1'"),
        (lambda: make_shift("medmnist_c/bubble", severity=1, dataset=3), "must be text, found 3"),
        (
            lambda: make_shift("medmnist_c/bubble", severity=1, dataset="blodmnist"),
            "data set of MedMNIST-C 'blodmnist'; did you mean 'bloodmnist'",
        ),
        (
            lambda: make_shift("medmnist_c/bubble", severity=1, dataset="octmnist"),
            "bubble: octmnist .* has pixelate, jpeg_compression, speckle",
        ),
        (lambda: make_shift("medmnist_c/characters", severity=1), "characters: pathmnist"),
        (of("bubble", max_radius=float("nan")), "max_radius .*nan"),
        (of("bubble", max_radius=2), "whole number >= 3, found 2"),
        (of("bubble", max_radius=113), "at most 112, found 113"),
        (of("bubble", max_bubbles=7.5), "whole number >= 7, found 7.5"),
        (of("gaussian_blur", kernel_size=4), "odd whole number >= 3, found 4"),
        (of("gaussian_blur", kernel_size=1), "odd whole number >= 3, found 1"),
        (of("defocus_blur", radius=0), "> 0, found 0"),
        (of("motion_blur", sigma=-1), "> 0, found -1"),
        (of("contrast_up", factor=-1), ">= 0, found -1"),
        (of("brightness_up", factor=-1), ">= 0, found -1"),
        (of("gamma_corr_up", exponent=0), "> 0, found 0"),
        (of("saturate", offset=2), "from -1 to 1, found 2"),
        (of("stain_deposit", marks=0), "whole number >= 1, found 0"),
        (of("stain_deposit", size=25), "12, 16, 24, 32 or 42, found 25"),
        (of("black_corner", radius=0), "> 0, found 0"),
        (of("characters", letters=27), "at most 26, found 27"),
        (of("characters", font_scale=0.1), ">= 0.14, found 0.1"),
        (lambda: corrupt("bubble", 1, natural(1, 7, 30)), "8 pixels .*found 7x30"),
        (lambda: corrupt("bubble", 1, natural(1, 9, 9).float()), "images must be uint8"),
        (lambda: suite("medmnist_c/bloodmnst"), "did you mean 'medmnist_c/bloodmnist'"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_white_stays_white_where_the_taps_of_a_disk_sum_to_more_than_one():
    shift = make_shift("medmnist_c/defocus_blur", severity=5, dataset="dermamnist")
    white = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)
    assert torch.equal(shift(white, torch.arange(1), 0), white)

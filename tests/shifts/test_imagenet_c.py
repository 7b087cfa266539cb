"""Every corruption of ImageNet-C: depends on its image only, at any size, worse with severity."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS, PARAMETERS, published_constants
from fairweather.shifts.table import SHIFTS, SUITES, make_shift, suite, sweep
from tests import golden

SETS = {"cifar10": 32, "tiny_imagenet": 64, "imagenet": 224}
PUBLISHED = {"cifar10": "cifar10_c", "tiny_imagenet": "tiny_imagenet_c", "imagenet": "imagenet_c"}

# Where the published constants themselves are no farther from the clean image than one severity
# less. Saturation falls at 1 and 2 and grows from 3; spatter turns from water to mud at 4; frost
# darkens the image and adds light; elastic_transform trades a shift of the whole for waves;
# glass_blur trades sigma, reach and passes; the motion of CIFAR-10-C's 4 has 3's sigma and only a
# longer tail; ImageNet-C's snow of 3 falls in larger and fewer flakes and its fog of 4 is rougher.
FALLS = {
    ("cifar10", "glass_blur"): {2, 3, 5},
    ("cifar10", "motion_blur"): {4},
    ("cifar10", "frost"): {4},
    ("cifar10", "elastic_transform"): {2, 3, 4, 5},
    ("cifar10", "spatter"): {4},
    ("cifar10", "saturate"): {3},
    ("tiny_imagenet", "glass_blur"): {2, 4},
    ("tiny_imagenet", "frost"): {4},
    ("tiny_imagenet", "elastic_transform"): {2, 3, 4, 5},
    ("tiny_imagenet", "spatter"): {4},
    ("imagenet", "glass_blur"): {2, 4},
    ("imagenet", "snow"): {3},
    ("imagenet", "frost"): {3, 4},
    ("imagenet", "fog"): {4},
    ("imagenet", "elastic_transform"): {3},
}


def natural(n, height, width, seed=0):
    """Images with the spectrum of photographs, 1 / f, and channels that mostly agree."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def field():
        white = rng.standard_normal((n, height, width))
        pink = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(height, width))
        return pink / pink.std((1, 2), keepdims=True)

    grey = field()
    channels = [110 + 45 * grey + 22 * field() for _ in range(3)]
    return torch.from_numpy(np.clip(np.stack(channels, 1), 0, 255).astype(np.uint8))


def corrupt(name, severity, images, keys=None, seed=0, **parameters):
    keys = torch.arange(len(images)) if keys is None else keys
    return make_shift(f"imagenet_c/{name}", severity=severity, **parameters)(images, keys, seed)


def published_rows(name, set_name):
    """Rows of constants.json in this project's parameters."""
    published = golden.published(PUBLISHED[set_name])
    rows = [list(row) for row in published["corruptions"][name]["severities"]]
    if name == "frost":
        return [[*row, published["frost_scale"]] for row in rows]
    if name == "elastic_transform":
        return [[value / published["size"] for value in row] for row in rows]
    return rows


@pytest.mark.parametrize("set_name", SETS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_constants_are_the_published_ones(name, set_name):
    rows = [published_constants(name, severity, SETS[set_name]) for severity in range(1, 6)]
    if name == "zoom_blur":
        found = [np.arange(1, row["stop"], row["step"]).tolist() for row in rows]
        expected = [row[0] for row in published_rows(name, set_name)]
    else:
        found = [list(row.values()) for row in rows]
        expected = published_rows(name, set_name)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def test_the_table_has_all_nineteen_in_the_benchmarks_order():
    assert list(CORRUPTIONS) == [
        *(name.split("/")[1] for name in SUITES["imagenet_c"]),
        *(name.split("/")[1] for name in SUITES["imagenet_c_extra"]),
    ]
    assert set(CORRUPTIONS) == set(PARAMETERS)
    ids = [shift.id for shift in suite("imagenet_c") + suite("imagenet_c_extra", image_size=32)]
    assert len(set(ids)) == 95
    assert ids[0] == "imagenet_c/gaussian_noise,severity=1"
    assert ids[-1] == "imagenet_c/saturate,severity=5,image_size=32"


@pytest.mark.parametrize("name", CORRUPTIONS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_an_image_is_corrupted_the_same_way_in_any_batch(name, data):
    shape = data.draw(st.sampled_from([(13, 11), (32, 32), (50, 64)]))
    severity = data.draw(st.integers(1, 5))
    images, keys = natural(7, *shape, seed=1), torch.tensor([5, -1, 2**62, 0, 9, 8, 77])
    order = data.draw(st.permutations(range(7)))
    size = data.draw(st.integers(1, 7))
    together = corrupt(name, severity, images, keys, seed=3)
    parts = [
        corrupt(name, severity, images[part], keys[part], seed=3)
        for part in torch.tensor(order).split(size)
    ]
    assert torch.equal(torch.cat(parts), together[order])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_images_do_not_depend_on_the_batch_either(name):
    images, keys = natural(3, 224, 200, seed=2), torch.arange(3)
    together = corrupt(name, 3, images, keys)
    alone = [corrupt(name, 3, images[i : i + 1], keys[i : i + 1]) for i in (2, 0)]
    assert torch.equal(torch.cat(alone), together[[2, 0]])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_random_corruptions_depend_on_seed_and_key(name):
    images = natural(1, 32, 32).expand(2, -1, -1, -1)
    first, second = corrupt(name, 5, images, seed=0), corrupt(name, 5, images, seed=1)
    assert torch.equal(first, second) != CORRUPTIONS[name].is_random
    assert torch.equal(first[0], first[1]) != CORRUPTIONS[name].is_random


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_input_and_global_random_states_stay_as_they_are(name):
    images = natural(2, 16, 20)
    before = images.clone(), torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    corrupt(name, 4, images)
    assert torch.equal(images, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("set_name", SETS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_distance_to_the_clean_image_grows_with_severity(name, set_name):
    side = SETS[set_name]
    images = natural({32: 64, 64: 24, 224: 6}[side], side, side)
    distances = [
        (corrupt(name, severity, images).int() - images.int()).abs().float().mean().item()
        for severity in range(1, 6)
    ]
    falls = {s + 1 for s in range(1, 5) if distances[s] <= distances[s - 1]}
    assert falls == FALLS.get((set_name, name), set())
    assert min(distances) > 0.5  # grey levels: every corruption changes the image


@pytest.mark.parametrize("shape", [(8, 8), (8, 21), (28, 28), (61, 8), (130, 150)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_from_eight_pixels_up(name, shape):
    images = natural(2, *shape, seed=4)
    images[0], images[1, :, : shape[0] // 2] = 0, 255
    for severity in (1, 5):
        shifted = corrupt(name, severity, images)
        assert shifted.shape == images.shape
        assert shifted.dtype == torch.uint8
    assert corrupt(name, 1, images[:0]).shape == (0, 3, *shape)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_non_contiguous_images_are_corrupted_alike(name):
    images = natural(2, 20, 24)
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(corrupt(name, 3, strided), corrupt(name, 3, images))


@pytest.mark.parametrize(("side", "set_side"), [(47, 32), (48, 64), (127, 64), (128, 224)])
def test_the_size_of_the_batch_chooses_the_constants(side, set_side):
    images = natural(2, side, side + 90)
    shifted = corrupt("gaussian_noise", 5, images)
    assert torch.equal(shifted, corrupt("gaussian_noise", 5, images, image_size=set_side))
    assert not torch.equal(shifted, corrupt("gaussian_noise", 5, images, image_size=256 - set_side))


def test_constants_can_be_overridden_and_are_recorded():
    images = natural(4, 32, 32)
    shift = make_shift("imagenet_c/fog", severity=2, decay=2.5, image_size=32)
    assert shift.id == "imagenet_c/fog,severity=2,image_size=32,decay=2.5"
    assert shift.level == 2
    same = make_shift("imagenet_c/fog", severity=2, decay=3)
    assert torch.equal(same(images, torch.arange(4)), corrupt("fog", 2, images))
    assert not torch.equal(shift(images, torch.arange(4)), corrupt("fog", 2, images))
    kind = SHIFTS["imagenet_c/fog"]
    assert kind.note(shift.parameters) == "amount 0.5, decay 2.5"
    assert kind.note(same.parameters) == ""


def test_severities_can_be_swept():
    shifts = sweep("imagenet_c/frost", {"severity": [1, 3, 5], "image_size": 64})
    assert [shift.level for shift in shifts] == [1, 3, 5]
    assert len(suite("quick")) == 15
    assert SHIFTS["imagenet_c/frost"].neutral == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_shift("imagenet_c/fgo", severity=1), "did you mean 'imagenet_c/fog'"),
        (lambda: make_shift("imagenet_c/fog"), "imagenet_c/fog .*severity=NUMBER"),
        (lambda: make_shift("imagenet_c/fog", severity=0), "1, 2, 3, 4 or 5, found 0"),
        (lambda: make_shift("imagenet_c/fog", severity=6), "1, 2, 3, 4 or 5, found 6"),
        (lambda: make_shift("imagenet_c/fog", severity=2.5), "found 2.5"),
        (lambda: make_shift("imagenet_c/fog", severity=float("nan")), "severity .*finite .*nan"),
        (lambda: make_shift("imagenet_c/fog", severity=True), "severity .*found True"),
        (lambda: make_shift("imagenet_c/fog", severity=1, amuont=1), "did you mean 'amount'"),
        (
            lambda: make_shift("imagenet_c/fog", severity=1, decay=float("inf")),
            "decay .*finite .*inf",
        ),
        (
            lambda: make_shift("imagenet_c/fog", severity=1, image_size=7),
            "image_size .*>= 8, found 7",
        ),
        (lambda: make_shift("imagenet_c/gaussian_blur", severity=1, sigma=0), "> 0, found 0"),
        (lambda: make_shift("imagenet_c/gaussian_noise", severity=1, scale=-1), "> 0, found -1"),
        (lambda: make_shift("imagenet_c/shot_noise", severity=1, photons=0), "> 0, found 0"),
        (lambda: make_shift("imagenet_c/impulse_noise", severity=1, amount=2), "found 2"),
        (lambda: make_shift("imagenet_c/defocus_blur", severity=1, radius=0), "> 0, found 0"),
        (lambda: make_shift("imagenet_c/motion_blur", severity=1, sigma=0), "> 0, found 0"),
        (lambda: make_shift("imagenet_c/zoom_blur", severity=1, stop=1), "> 1, found 1"),
        (lambda: make_shift("imagenet_c/zoom_blur", severity=1, step=0), "> 0, found 0"),
        (
            lambda: make_shift("imagenet_c/glass_blur", severity=1, reach=1.5),
            "reach .*whole number .*found 1.5",
        ),
        (
            lambda: make_shift("imagenet_c/glass_blur", severity=1, passes=0),
            "passes .*whole number .*found 0",
        ),
        (lambda: corrupt("fog", 1, natural(1, 7, 30)), "8 pixels .*found 7x30"),
        (lambda: corrupt("fog", 1, natural(1, 9, 9).float()), "images must be uint8"),
        (lambda: corrupt("fog", 1, natural(1, 9, 9)[:, :1]), "images must be uint8"),
        (lambda: suite("imagnet_c"), "did you mean 'imagenet_c'"),
        (lambda: suite("imagenet_c", image_size=3), "image_size .*>= 8, found 3"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", SHIFTS)
def test_a_gpu_sees_the_same_shifted_images(name):
    images, keys = natural(8, 32, 32), torch.arange(8)
    kind = SHIFTS[name]
    shift = make_shift(name, **{kind.level: 3 if "/" in name else kind.neutral * 0.8 + 0.4})
    here, there = shift(images, keys), shift(images.cuda(), keys.cuda())
    assert there.is_cuda
    near = (here.int() - there.cpu().int()).abs() <= 1
    assert near.double().mean() >= 0.999

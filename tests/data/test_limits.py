"""Sets that are evaluated whole or in part, and images prepared as a model's own configuration."""

import hashlib
import json
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from fairweather.data import cache
from fairweather.data import cache as decode
from fairweather.data.loading import load_data
from fairweather.data.pixel_scans import digest
from fairweather.data.pixels import decoder_facts
from fairweather.data.sources import Listing, Source
from fairweather.data.splits import Subset, limit_subset
from fairweather.errors import InputError
from fairweather.types.options import Preparation


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """An empty cache; the folder with the decoded images, which is made when it is needed."""
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def noise(seed, width=8, height=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def class_folders(root, counts, side=8, first=0):
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for place in range(count):
            noise(first + 100 * label + place, side, side).save(root / name / f"{place:02}.png")
    return root


def pixels(image):
    return torch.from_numpy(np.array(image).transpose(2, 0, 1))


def prepared(tmp_path, image, **options):
    path = tmp_path / "pictures/test/one/0.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return load_data(f"folder:{tmp_path / 'pictures'}", **options)


# Preparation


@pytest.mark.parametrize("filter_", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("width", "height", "resize"),
    [(40, 31, 18), (31, 40, 19), (16, 16, 18), (50, 50, 16), (11, 9, 21), (18, 18, 18)],
)
def test_preparing_equals_torchvision(width, height, resize, filter_, tmp_path):
    image = noise(width, width, height)
    mode = InterpolationMode(filter_)
    steps = [transforms.Resize(resize, mode), transforms.CenterCrop(16)]
    dataset = prepared(tmp_path, image, preparation=Preparation(16, resize, filter_))
    assert torch.equal(dataset.test.images[0], pixels(transforms.Compose(steps)(image)))
    assert dataset.notes["size"] == [16, 16]
    assert dataset.notes["preparation"] == {
        "size": 16,
        "resize": resize,
        "interpolation": filter_,
        "fit": "crop",
    }


@pytest.mark.parametrize(("width", "height", "resize"), [(40, 31, 16), (9, 30, 19), (16, 16, 17)])
def test_squashing_equals_torchvision(width, height, resize, tmp_path):
    image = noise(width, width, height)
    steps = [
        transforms.Resize((resize, resize), InterpolationMode.BICUBIC),
        transforms.CenterCrop(16),
    ]
    preparation = Preparation(16, resize, "bicubic", "squash")
    (loaded,) = prepared(tmp_path, image, preparation=preparation).test.images
    assert torch.equal(loaded, pixels(transforms.Compose(steps)(image)))


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("filter_", ["nearest", "bicubic"])
def test_an_image_of_the_right_size_keeps_every_bit(fit, filter_, tmp_path):
    preparation = Preparation(17, interpolation=filter_, fit=fit)
    (loaded,) = prepared(tmp_path, noise(0, 17, 17), preparation=preparation).test.images
    assert torch.equal(loaded, pixels(noise(0, 17, 17)))


def test_a_size_is_a_preparation_and_is_kept_under_the_key_of_the_size(tmp_path, images):
    sized = prepared(tmp_path, noise(0, 20, 13), size=9)
    facts = {
        "version": 3,
        "part": "test",
        "content": hashlib.sha256(
            hashlib.sha256((tmp_path / "pictures/test/one/0.png").read_bytes()).digest()
        ).hexdigest(),
        "keys": hashlib.sha256(np.zeros(1, "<i8").tobytes()).hexdigest(),
        "size": 9,
        **decoder_facts(),
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert [path.stem for path in images.glob("*.pixels")] == [name]
    same = prepared(tmp_path, noise(0, 20, 13), preparation=Preparation(9))
    assert digest(same.test) == digest(sized.test)
    assert len(list(images.glob("*.pixels"))) == 1
    assert "preparation" not in sized.notes


def test_whatever_changes_pixels_makes_another_entry(tmp_path, images):
    asked = [
        Preparation(9),
        Preparation(9, 10),
        Preparation(9, 11),
        Preparation(9, interpolation="nearest"),
        Preparation(9, interpolation="bicubic"),
        Preparation(9, interpolation="lanczos"),
        Preparation(9, fit="squash"),
        Preparation(9, 10, fit="squash"),
    ]
    found = {digest(prepared(tmp_path, noise(0, 20, 13), preparation=one).test) for one in asked}
    assert len(found) == len(list(images.glob("*.pixels"))) == len(asked)


def test_several_processes_prepare_as_one_does(tmp_path, monkeypatch):
    root = class_folders(tmp_path / "pictures", {"a": 20, "b": 20}, side=21)
    options = {"preparation": Preparation(9, 12, "bicubic", "squash"), "test_fraction": 1}
    alone = load_data(f"folder:{root}", **options)
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(decode, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(decode, "cpu_count", lambda: 2)
    assert digest(load_data(f"folder:{root}", **options).test) == digest(alone.test)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"size": 8, "preparation": Preparation(8)},
            "size 8 and Preparation",
        ),
        ({"preparation": Preparation(7)}, "size .*8.* 7"),
        ({"preparation": Preparation(8, 7)}, "resize .*8.* 7"),
        (
            {"preparation": Preparation(8, interpolation="bicubc")},
            "'bicubc'.*'bicubic'.* lanczos, nearest",
        ),
        (
            {"preparation": Preparation(8, fit="pad")},
            "'pad'.* crop, squash",
        ),
    ],
)
def test_preparations_that_are_refused(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        prepared(tmp_path, noise(0), **options)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_images_that_would_become_too_large_are_refused(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    preparation = Preparation(8, 120, fit=fit)
    with pytest.raises(InputError, match=r"0\.png: .* 120"):
        prepared(tmp_path, noise(0, 9, 9), preparation=preparation)


def test_a_published_corrupted_set_keeps_its_images(tmp_path):
    root = tmp_path / "CIFAR-10-C"
    root.mkdir()
    stored = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    np.save(root / "fog.npy", stored)
    np.save(root / "labels.npy", np.tile(np.arange(10), 5))
    dataset = load_data(f"cifar-10-c:{root}/fog/2", preparation=Preparation(16, 20))
    expected = torch.from_numpy(stored[10:20].transpose(0, 3, 1, 2).copy())
    assert torch.equal(dataset.test.images, expected)
    assert "preparation" not in dataset.notes
    with pytest.raises(InputError, match=r"size .*8"):
        load_data(f"cifar-10-c:{root}/fog/2", preparation=Preparation(1))


# Whole sets


def test_a_set_can_be_all_test_even_where_a_class_has_one_image(tmp_path):
    root = class_folders(tmp_path / "pictures", {"cat": 5, "rare": 1})
    dataset = load_data(f"folder:{root}", test_fraction=1)
    assert dataset.train is None
    assert dataset.val is None
    assert dataset.test.keys.tolist() == list(range(6))
    assert dataset.notes["images"] == {"test": 6}
    np.testing.assert_allclose(dataset.mean, dataset.test.images.double().mean((0, 2, 3)) / 255)
    with pytest.raises(InputError, match="'rare'"):
        load_data(f"folder:{root}", test_fraction=0.8)


def test_some_images_can_be_set_aside_for_fitting_alone(tmp_path):
    root = class_folders(tmp_path / "pictures", {"cat": 10, "dog": 5})
    dataset = load_data(f"folder:{root}", test_fraction=0.8, validation_fraction=1)
    assert dataset.train is None
    assert dataset.val.labels.tolist() == [0, 0, 1]
    assert sorted(dataset.val.keys.tolist() + dataset.test.keys.tolist()) == list(range(15))
    usual = load_data(f"folder:{root}", test_fraction=0.8, validation_fraction=0)
    assert digest(usual.test) == digest(dataset.test)
    assert digest(usual.train) == digest(dataset.val)


def test_training_images_become_validation_images_with_their_keys(tmp_path):
    class_folders(tmp_path / "pictures/train", {"cat": 3, "rare": 1})
    class_folders(tmp_path / "pictures/test", {"cat": 2, "rare": 1}, first=20)
    spec = f"folder:{tmp_path / 'pictures'}"
    dataset = load_data(spec, validation_fraction=1)
    assert dataset.train is None
    assert dataset.val.keys.tolist() == [0, 1, 2, 3]
    class_folders(tmp_path / "pictures/val", {"cat": 2, "rare": 2}, first=40)
    own = load_data(spec, validation_fraction=1)
    assert own.notes["images"] == {"val": 4, "test": 3}
    assert digest(own.val) != digest(dataset.val)
    assert load_data(spec).notes["images"] == {"train": 4, "val": 4, "test": 3}


def test_a_folder_without_test_images_says_what_to_name(tmp_path):
    class_folders(tmp_path / "pictures/Train", {"cat": 3, "dog": 3})
    words = (
        "for train but none for test.* add test images, .*folder:pictures/Train to have it split$"
    )
    with pytest.raises(InputError, match=words):
        load_data("folder:pictures/", root=tmp_path)
    class_folders(tmp_path / "pictures/Validation", {"cat": 3, "dog": 3})
    words = "for train and val but none for test.* folder:pictures/Validation to evaluate"
    with pytest.raises(InputError, match=words):
        load_data("folder:pictures", root=tmp_path)
    alone = load_data("folder:pictures/Validation", root=tmp_path, test_fraction=1)
    assert alone.notes["images"] == {"test": 6}


# Limits


def part_of(labels, keys=None):
    labels = np.asarray(labels)
    listing = Listing(labels, lambda keys: [], ())
    return Subset(listing, np.arange(len(labels)) if keys is None else np.asarray(keys))


def source_of(classes):
    return Source(tuple(classes), {})


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_a_limited_part_is_stratified(counts, share, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    limit = len(counts) + int(share * (len(labels) - len(counts)))
    keys = limit_subset(part_of(labels), source_of(map(str, counts)), limit, seed).keys
    taken = np.bincount(labels[keys], minlength=len(counts))
    assert len(np.unique(keys)) == len(keys) == limit
    assert (np.diff(keys) > 0).all()
    assert taken.min() >= 1
    # Webster: none left out was due before one that was taken, the first of a class apart.
    pairs = list(zip(counts, taken.tolist(), strict=True))
    last = [Fraction(n, 2 * have - 1) for n, have in pairs if have > 1]
    following = [Fraction(n, 2 * have + 1) for n, have in pairs if have < n]
    assert min(last, default=1000) >= max(following, default=0)
    proportion = np.asarray(counts) * limit / len(labels)
    if proportion.min() >= 1:
        assert np.abs(taken - proportion).max() < 1.5


def test_equal_classes_get_equal_numbers_and_no_class_is_always_the_first():
    labels = np.tile(np.arange(10), 50)
    extra = set()
    for seed in range(8):
        keys = limit_subset(part_of(labels), source_of("abcdefghij"), 103, seed).keys
        taken = np.bincount(labels[keys])
        assert sorted(taken) == [10] * 7 + [11] * 3
        extra |= set(np.flatnonzero(taken == 11).tolist())
    assert len(extra) > 6


def test_a_smaller_limit_is_inside_a_larger_one_and_the_seed_decides():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    part = part_of(np.concatenate([labels, labels]), keys=range(100, 200))
    chosen = [set(limit_subset(part, source_of("abc"), limit, 0).keys) for limit in range(3, 101)]
    for smaller, larger in pairwise(chosen):
        assert smaller < larger
    assert min(chosen[-1]) >= 100  # keys of the listing, not places in the part
    assert set(limit_subset(part, source_of("abc"), 20, 1).keys) != chosen[17]


def test_images_of_a_limit_are_those_of_the_whole_set(tmp_path, monkeypatch):
    root = class_folders(tmp_path / "pictures", {"cat": 20, "dog": 10, "rare": 1})
    whole = load_data(f"folder:{root}", test_fraction=1)
    decoded = []
    original = decode.decode_image
    monkeypatch.setattr(decode, "decode_image", lambda *a: decoded.append(a[0]) or original(*a))
    few = load_data(f"folder:{root}", test_fraction=1, limit=9)
    assert len(decoded) == 9
    assert np.bincount(few.test.labels).tolist() == [5, 3, 1]
    assert torch.equal(few.test.images, whole.test.images[few.test.keys])
    assert torch.equal(few.test.labels, whole.test.labels[few.test.keys])
    assert few.notes["images"] == {"test": 9}
    assert (few.notes["limit"], few.notes["limit_of"]) == (9, 31)
    smaller = load_data(f"folder:{root}", test_fraction=1, limit=9, size=9, skip_unreadable=True)
    assert torch.equal(smaller.test.keys, few.test.keys)
    for limit in (31, 1000):
        assert digest(load_data(f"folder:{root}", test_fraction=1, limit=limit).test) == digest(
            whole.test
        )
    assert "limit" not in load_data(f"folder:{root}", test_fraction=1, limit=31).notes


def test_a_limit_moves_no_training_image_and_reads_no_file_that_it_leaves_out(
    tmp_path, monkeypatch
):
    class_folders(tmp_path / "pictures/train", {"cat": 6, "dog": 6})
    class_folders(tmp_path / "pictures/test", {"cat": 30, "dog": 10}, first=1000)
    read = []
    original = cache._digest_file
    monkeypatch.setattr(cache, "_digest_file", lambda path: read.append(path) or original(path))
    spec = f"folder:{tmp_path / 'pictures'}"
    few = load_data(spec, limit=4)
    assert len(read) == 12 + 4
    whole = load_data(spec)
    assert few.notes["images"] == {"train": 10, "val": 2, "test": 4}
    assert digest(few.train) == digest(whole.train)
    assert digest(few.val) == digest(whole.val)
    assert few.test.labels.tolist() == [0, 0, 0, 1]
    # A file that is read decides; one that is not does not.
    left_out = sorted(set(range(40)) - set(few.test.keys.tolist()))[0]
    paths = sorted((tmp_path / "pictures/test").glob("*/*.png"))
    noise(999).save(paths[left_out])
    assert digest(load_data(spec, limit=4).test) == digest(few.test)
    noise(999).save(paths[few.test.keys[0]])
    assert digest(load_data(spec, limit=4).test) != digest(few.test)


def test_a_limit_below_the_number_of_classes_is_refused(tmp_path):
    root = class_folders(tmp_path / "pictures", {"cat": 5, "dog": 5, "cow": 5})
    for limit, least in ((2, 3), (0, 1), (-1, 1)):
        with pytest.raises(InputError, match=f"limit .*{least}.* {limit}$"):
            load_data(f"folder:{root}", test_fraction=1, limit=limit)
    three = load_data(f"folder:{root}", test_fraction=1, limit=3)
    assert three.test.labels.tolist() == [0, 1, 2]


# Larger than memory


@pytest.mark.skipif(sys.platform != "linux", reason="other systems list maps elsewhere")
def test_batches_are_views_of_the_map(tmp_path):
    root = class_folders(tmp_path / "pictures", {"a": 6, "b": 6})
    test = load_data(f"folder:{root}", test_fraction=1).test
    batch = test[3:7]
    assert batch.images.untyped_storage().data_ptr() == test.images.untyped_storage().data_ptr()
    assert batch.images.data_ptr() == test.images.data_ptr() + 3 * test.images[0].nbytes
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    spans = [line.split() for line in lines if line.endswith(".pixels")]
    bounds = [[int(end, 16) for end in span[0].split("-")] for span in spans]
    assert any(low <= batch.images.data_ptr() < high for low, high in bounds)


# Parts


def test_only_the_parts_that_are_asked_for_are_decoded(tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        class_folders(tmp_path / "set" / split, {"a": count, "b": count})
    for path in sorted((tmp_path / "set/train").rglob("*.png"))[::3]:
        path.write_bytes(b"not an image")  # nobody looks
    data = load_data(f"folder:{tmp_path / 'set'}", parts=("test",), validation_fraction=0)
    assert data.train is None
    assert data.val is None
    assert len(data.test) == 6
    with pytest.raises(InputError, match="not an image"):
        load_data(f"folder:{tmp_path / 'set'}", validation_fraction=0)


def test_the_parts_do_not_move_an_image(tmp_path):
    root = class_folders(tmp_path / "set", {"a": 20, "b": 20})
    whole = load_data(f"folder:{root}", validation_fraction=0.5)
    some = load_data(f"folder:{root}", validation_fraction=0.5, parts=("val", "test"))
    assert some.train is None
    for part in ("val", "test"):
        assert torch.equal(getattr(some, part).keys, getattr(whole, part).keys)


@pytest.mark.parametrize(
    ("parts", "words"),
    [(("val",), "parts .*test.* val"), (("test", "vla"), "'vla'.*'val'")],
)
def test_parts_that_cannot_be_are_one_sentence(tmp_path, parts, words):
    with pytest.raises(InputError, match=words):
        load_data(f"folder:{tmp_path}", parts=parts)

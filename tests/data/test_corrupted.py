"""Published CIFAR-10-C and ImageNet-C, in small files of the real layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from fairweather import InputError, load_data
from fairweather.data.corrupted import CORRUPTIONS
from fairweather.data.loading import list_source
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS as OURS

N = 20
WNIDS = ("n01440764", "n01443537", "n02084071")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def cifar(tmp_path):
    """Five severities of 20 images: the pixels of an image tell its corruption and its row."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("fog", "snow"):
        np.save(folder / f"{name}.npy", rng.integers(256, size=(5 * N, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(N, dtype=np.uint8) % 10, 5))
    return folder


@pytest.fixture
def imagenet(tmp_path):
    folder = tmp_path / "ImageNet-C"
    rng = np.random.default_rng(0)
    for severity in (1, 3):
        for wnid in WNIDS:
            place = folder / "fog" / str(severity) / wnid
            place.mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(256, size=(224, 224, 3), dtype=np.uint8)
                path = place / f"ILSVRC2012_val_{number:08d}.JPEG"
                Image.fromarray(pixels).save(path, "JPEG", quality=85)
    return folder


def rewrite(path, change):
    np.save(path, change(np.load(path)))


def test_every_severity_has_its_own_rows_and_the_same_labels_and_keys(cifar):
    stored = np.load(cifar / "fog.npy")
    for severity in range(1, 6):
        dataset = load_data(f"cifar-10-c:{cifar}/fog/{severity}")
        assert dataset.train is None
        assert dataset.val is None
        assert dataset.name == f"cifar-10-c/fog/{severity}"
        assert (dataset.notes["corruption"], dataset.notes["severity"]) == ("fog", severity)
        rows = stored[(severity - 1) * N : severity * N]
        assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1), rows)
        assert dataset.test.keys.tolist() == list(range(N))
        assert dataset.test.labels.tolist() == [key % 10 for key in range(N)]
        assert dataset.classes[3] == "cat"


def test_corruptions_are_told_apart_and_a_root_is_where_the_path_begins(cifar):
    fog = load_data("cifar-10-c:CIFAR-10-C/fog/2", root=cifar.parent)
    snow = load_data("cifar-10-c:snow/2", root=cifar)
    assert np.array_equal(
        snow.test.images.permute(0, 2, 3, 1), np.load(cifar / "snow.npy")[N : 2 * N]
    )
    assert not torch.equal(fog.test.images, snow.test.images)


def test_the_nineteen_names_are_those_of_the_shifts():
    assert len(CORRUPTIONS) == 19
    assert set(CORRUPTIONS) == set(OURS)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("fogg/3", "'fogg'.*'fog'"),
        ("fog/0", r"1 to 5.*found '0'"),
        ("fog/6", r"1 to 5.*found '6'"),
        ("fog", "cifar-10-c:FOLDER/fog/3.* 'fog'"),
        ("fog.npy/3", r"'fog\.npy'.*'fog'"),
        ("frost/3", r"frost\.npy"),
        ("nowhere/fog/3", "nowhere"),
    ],
)
def test_wrong_paths(cifar, path, words):
    with pytest.raises(InputError, match=words):
        list_source(f"cifar-10-c:{cifar}/{path}")


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("fog", lambda images: images[:-1], r"99 images.*labels\.npy has 5 times 20"),
        ("fog", lambda images: images[:50], r"50 images.*labels\.npy has 5 times 20"),
        ("fog", lambda images: images.astype(np.float32), "is float32"),
        ("fog", lambda images: images[:, :28, :28], r"\[100, 28, 28, 3\].*uint8"),
        ("fog", lambda images: images.transpose(0, 3, 1, 2), r"\[100, 3, 32, 32\]"),
        ("labels", lambda labels: labels[:-1], r"uint8 \[99\]"),
        ("labels", lambda labels: labels[:0], "labels.npy"),
        ("labels", lambda labels: labels[:, None], r"uint8 \[100, 1\]"),
        ("labels", lambda labels: labels / 1, "is float64"),
        ("labels", np.sort, "20 labels 5 times.*severity 2"),
        ("labels", lambda labels: labels + 1, "1 to 10.*0 to 9"),
        ("labels", lambda labels: labels.astype(object), r"cannot be read as a \.npy file"),
    ],
)
def test_files_that_are_not_laid_out_like_this(cifar, file, change, words):
    rewrite(cifar / f"{file}.npy", change)
    with pytest.raises(InputError, match=words):
        list_source(f"cifar-10-c:{cifar}/fog/1")


def test_damaged_files_are_one_sentence(cifar):
    path = cifar / "fog.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"fog\.npy' cannot be read as a \.npy file"):
        list_source(f"cifar-10-c:{cifar}/fog/1")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be read as a \.npy file"):
        list_source(f"cifar-10-c:{cifar}/fog/1")


def test_imagenet_c_is_decoded_as_it_is(imagenet):
    dataset = load_data(f"imagenet-c:{imagenet}/fog/3")
    assert dataset.train is None
    assert dataset.classes == WNIDS
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.name == "imagenet-c/fog/3"
    first = imagenet / "fog/3" / WNIDS[0] / "ILSVRC2012_val_00000000.JPEG"
    assert np.array_equal(dataset.test.images[0].permute(1, 2, 0), np.asarray(Image.open(first)))


def test_published_images_are_never_resized(imagenet, cifar):
    for source, side in ((f"imagenet-c:{imagenet}/fog/1", 224), (f"cifar-10-c:{cifar}/fog/1", 32)):
        with pytest.raises(InputError, match=f"{side} x {side}.*leave size out"):
            load_data(source, size=64)
        assert load_data(source, size=side).test.images.shape[2:] == (side, side)


def test_images_that_somebody_resized_are_refused(imagenet):
    for path in (imagenet / "fog/1").glob("*/*.JPEG"):
        Image.open(path).resize((64, 64)).save(path, "JPEG")
    with pytest.raises(InputError, match=r"224 x 224.* 64 x 64"):
        load_data(f"imagenet-c:{imagenet}/fog/1", size=224)


def test_wrong_folders(imagenet):
    with pytest.raises(InputError, match="imagenet-c 'fogg'"):
        list_source(f"imagenet-c:{imagenet}/fogg/3")
    with pytest.raises(InputError, match="fog/2"):
        list_source(f"imagenet-c:{imagenet}/fog/2")
    (imagenet / "fog/3" / WNIDS[1]).rename(imagenet / "fog/3/goldfish")
    with pytest.raises(InputError, match=r"n01440764.* goldfish"):
        list_source(f"imagenet-c:{imagenet}/fog/3")
    nested = imagenet / "snow/1/test"
    nested.parent.mkdir(parents=True)
    (imagenet / "fog/1").rename(nested)
    with pytest.raises(InputError, match=r"n01440764.* test"):
        list_source(f"imagenet-c:{imagenet}/snow/1")

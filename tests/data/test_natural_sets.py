"""Natural shifts by name: small folders with the real layout, file names and types."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fairweather as fw
from fairweather.data import natural_sets
from fairweather.data.domains import plain_name
from fairweather.data.loading import DATA_SOURCES
from fairweather.data.natural_sets import (
    LAYOUTS,
    NATURAL_SETS,
    find_natural_set,
    read_wnids,
)
from fairweather.data.pixel_scans import digest
from fairweather.errors import InputError
from tests.data.test_named_sets import publish_cifar, write_cifar

WNIDS = read_wnids()


def write_images(folder, count, *, side=12, suffix=".jpg", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.new("RGB", (side, side), (7 * number % 256, 40, 90)).save(
            folder / f"{number}{suffix}"
        )


def load(text, **options):
    return fw.load_data(text, test_fraction=1.0, **options).test


def test_every_row_is_complete():
    assert {facts.layout for facts in NATURAL_SETS.values()} <= set(LAYOUTS)
    assert {f"{name}:PATH" for name in NATURAL_SETS} <= set(DATA_SOURCES)
    spellings = [name for usual, facts in NATURAL_SETS.items() for name in (usual, *facts.also)]
    plain = list(map(plain_name, spellings))
    assert len(set(plain)) == len(plain)
    for name, facts in NATURAL_SETS.items():
        assert find_natural_set(name) == name
        assert facts.where.startswith("https://")
        assert facts.licence
        assert bool(facts.sha256) == bool(facts.checksum_from)
        assert all(len(checksum) == 64 for checksum in facts.sha256.values())
        if not isinstance(facts.classes, int):
            assert facts.classes_from
            assert sorted(set(facts.classes)) == list(facts.classes)
    assert find_natural_set("hospital_b") == ""


def test_the_class_masks_are_those_of_timm():
    folder = resources.files("timm") / "data" / "_info"
    for letter in "ar":
        facts = NATURAL_SETS[f"imagenet-{letter}"]
        names = (folder / f"imagenet_{letter}_synsets.txt").read_text().split()
        assert list(facts.choices) == names
        assert facts.class_count == 200


def test_another_file_than_the_published_one_is_told(tmp_path):
    path = tmp_path / "cifar10.1_v6_data.npy"
    path.write_bytes(b"new")
    facts = NATURAL_SETS["cifar-10.1-v6"]
    (told,) = natural_sets._compare_checksums(facts, path, tmp_path / "missing.npy")
    assert told == "cifar10.1_v6_data.npy is not the published file: its SHA-256 is another one"
    own = {path.name: hashlib.sha256(b"new").hexdigest()}
    published = facts.model_copy(update={"sha256": own})
    assert natural_sets._compare_checksums(published, path) == ()


def test_folders_of_wordnet_numbers(tmp_path):
    choices = NATURAL_SETS["imagenet-r"].choices
    for wnid in choices[:3]:
        write_images(tmp_path / wnid, 2)
    images = load(f"imagenet-r:{tmp_path}", size=8)
    assert images.classes == choices[:3]
    assert images.choices.names == choices
    assert images.choices.truth is None
    assert digest(images) != digest(load(f"folder:{tmp_path}", size=8))
    outside = next(wnid for wnid in WNIDS if wnid not in choices)
    write_images(tmp_path / outside, 1)
    complaint = rf"not ImageNet-R, whose 200 classes .*: {outside} is not among them"
    with pytest.raises(InputError, match=complaint):
        load(f"imagenet-r:{tmp_path}", size=8)
    assert load(f"imagenet-sketch:{tmp_path}", size=8).choices is None


def test_numbered_folders_are_sorted_as_numbers(tmp_path):
    for number in (0, 2, 10, 999):
        write_images(tmp_path / str(number), 1, start=number % 36)
    images = load(f"ImageNet-V2:{tmp_path}", size=8)
    assert images.classes == tuple(WNIDS[number] for number in (0, 2, 10, 999))
    of_file = {
        name: images.classes[label] for name, label in zip(images.names, images.labels, strict=True)
    }
    assert of_file == {
        "0/0.jpg": WNIDS[0],
        "2/2.jpg": WNIDS[2],
        "10/10.jpg": WNIDS[10],
        "999/27.jpg": WNIDS[999],
    }
    assert images.choices is None
    write_images(tmp_path / "tench", 1)
    with pytest.raises(InputError, match=r"folders 0 to 999: found tench"):
        load(f"imagenetv2-topimages:{tmp_path}", size=8)


@pytest.mark.parametrize("own_file", [True, False])
def test_reassessed_labels_belong_to_file_names(tmp_path, own_file):
    """The first images of the published list: none, [970, 795], [230, 231], [809], [516, 850]."""
    right = [[], [970, 795], [230, 231], [809], [516, 850]]
    if own_file:
        (tmp_path / "real.json").write_text(json.dumps(right))
    for number in range(1, 6):
        folder = tmp_path / (WNIDS[795] if number == 2 else WNIDS[65])
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), (40 * number, 0, 0)).save(
            folder / f"ILSVRC2012_val_{number:08d}.JPEG"
        )
    images = load(f"imagenet-real:{tmp_path}", size=8)
    rows = {
        name[-13:-5]: (images.classes[label], np.flatnonzero(row).tolist())
        for name, label, row in zip(images.names, images.labels, images.choices.truth, strict=True)
    }
    # Its own class counts for an image if that is right, else the first of the list.
    assert rows == {
        "00000002": (WNIDS[795], [795, 970]),
        "00000003": (WNIDS[230], [230, 231]),
        "00000004": (WNIDS[809], [809]),
        "00000005": (WNIDS[516], [516, 850]),
    }
    assert images.choices.names == WNIDS
    assert images.choices.truth.dtype == np.bool_
    (tmp_path / "ILSVRC2012_val_x.JPEG").write_bytes(b"")
    with pytest.raises(InputError, match=r"ILSVRC2012_val_00000001\.JPEG.*ILSVRC2012_val_x\.JPEG"):
        load(f"imagenet-real:{tmp_path}", size=8)


def test_a_list_of_labels_that_is_no_list(tmp_path):
    Image.new("RGB", (12, 12)).save(tmp_path / "ILSVRC2012_val_00000002.JPEG")
    for text in ("[[1], [1000]]", "{}", "[[1"):
        (tmp_path / "real.json").write_text(text)
        with pytest.raises(InputError, match=r"real\.json' is not the published file"):
            load(f"imagenet-real:{tmp_path}", size=8)
    (tmp_path / "real.json").write_text("[[1]]")
    with pytest.raises(InputError, match=r"00000002\.JPEG has no labels: real\.json has 1 images"):
        load(f"imagenet-real:{tmp_path}", size=8)
    (tmp_path / "real.json").write_text("[[1], []]")
    with pytest.raises(InputError, match=r"no image of .* has a right class"):
        load(f"imagenet-real:{tmp_path}", size=8)


def write_objectnet(root, folders=("alarm_clock", "bicycle", "zipper")):
    """ObjectNet's layout: images with a red frame, and its own two mapping files."""
    for place, name in enumerate(folders):
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for number in range(2):
            image = Image.new("RGB", (20, 16), (255, 0, 0))
            image.paste((0, 60 * place, 100 + number), (2, 2, 18, 14))
            image.save(folder / f"{number}.png")
    mappings = root / "mappings"
    mappings.mkdir()
    (mappings / "folder_to_objectnet_label.json").write_text(
        json.dumps({"alarm_clock": "Alarm clock", "bicycle": "Bicycle", "zipper": "Zipper"})
    )
    (mappings / "objectnet_to_imagenet_1k.json").write_text(
        json.dumps(
            {
                "Alarm clock": "analog clock; digital clock",
                "Bicycle": "mountain bike, all-terrain bike, off-roader; "
                "bicycle-built-for-two, tandem bicycle, tandem",
                "Umbrella": "umbrella",
            }
        )
    )
    return root


def test_objectnet_has_several_right_classes_and_no_frame(tmp_path):
    images = load(f"objectnet:{write_objectnet(tmp_path)}", size=8)
    # `zipper` is no class of ImageNet here, and no umbrella was photographed.
    assert len(images) == 4
    number = {wnid: place for place, wnid in enumerate(WNIDS)}
    assert [number[name] for name in images.choices.names] == [409, 444, 530, 671, 879]
    assert images.choices.truth.sum(axis=1).tolist() == [2, 2, 2, 2]
    right = [
        {number[images.choices.names[place]] for place in np.flatnonzero(row)}
        for row in images.choices.truth
    ]
    assert right == [{409, 530}] * 2 + [{444, 671}] * 2
    assert [number[images.classes[label]] for label in images.labels] == [409, 409, 671, 671]
    assert int(images.images[:, 0].max()) == 0  # nothing of the frame is left
    whole = fw.load_data(f"folder:{tmp_path / 'images'}", size=8, test_fraction=1.0).test
    assert int(whole.images[:, 0].max()) > 0
    (tmp_path / "mappings" / "objectnet_to_imagenet_1k.json").unlink()
    with pytest.raises(InputError, match=r"there is no file or folder .*objectnet_to_imagenet_1k"):
        load(f"objectnet:{tmp_path}", size=8)


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_cifar_10_1_is_two_arrays(tmp_path, version):
    rng, count = np.random.default_rng(0), 30
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int32) % 10
    (tmp_path / "datasets").mkdir()
    np.save(tmp_path / "datasets" / f"cifar10.1_{version}_data.npy", pixels)
    np.save(tmp_path / "datasets" / f"cifar10.1_{version}_labels.npy", labels)
    images = load(f"cifar-10.1-{version}:{tmp_path}")
    assert np.array_equal(images.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.labels.tolist() == labels.tolist()
    assert images.classes == natural_sets.CIFAR_CLASSES
    np.save(tmp_path / "datasets" / f"cifar10.1_{version}_labels.npy", labels[:-1])
    with pytest.raises(InputError, match="a whole number from 0 to 9 for each of 30 images"):
        load(f"cifar-10.1-{version}:{tmp_path}")
    (tmp_path / "datasets" / f"cifar10.1_{version}_data.npy").unlink()
    with pytest.raises(InputError, match=r"is not CIFAR-10\.1 .*modestyachts/CIFAR-10\.1 has it"):
        load(f"cifar-10.1-{version}:{tmp_path}")


def test_cifar_10_2_is_one_archive(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "cifar102_test.npz",
        images=pixels,
        labels=np.arange(20) % 10,
        label_names=np.array(natural_sets.CIFAR_CLASSES),
        ti_indices=np.arange(20),
        keywords=np.array(["tabby"] * 20),
    )
    images = load(f"cifar-10.2:{tmp_path}")
    assert np.array_equal(images.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.labels.tolist() == [*range(10), *range(10)]


@pytest.fixture
def people(tmp_path, monkeypatch):
    """CIFAR-10 as published, with a row of 51 people for each test image."""
    folder = write_cifar(tmp_path / "cifar-10-batches-py")
    publish_cifar(monkeypatch, folder)
    labels = fw.load_data("cifar10", root=tmp_path).test.labels.numpy()
    counts = np.zeros((len(labels), 10), dtype=np.int64)
    counts[np.arange(len(labels)), labels] = 41
    counts[np.arange(len(labels)), (labels + 1) % 10] = 10
    return tmp_path, labels, counts


@pytest.mark.parametrize("form", ["probs", "counts"])
def test_soft_labels_are_shares_of_people(people, form):
    root, labels, counts = people
    counts[[0, 1]] = counts[[1, 0]]  # people see what the other image is
    counts[2] = 0
    counts[2, [labels[2], (labels[2] + 3) % 10]] = 25  # a tie
    stored = counts if form == "counts" else counts / counts.sum(axis=1, keepdims=True)
    np.save(root / f"cifar10h-{form}.npy", stored)
    images = load(f"cifar-10h:{root}")
    assert images.choices.truth.dtype == np.float32
    assert np.allclose(images.choices.truth, counts / counts.sum(axis=1, keepdims=True))
    assert images.labels.tolist() == [labels[1], labels[0], *labels[2:]]
    np.save(root / f"cifar10h-{form}.npy", stored[:-1])
    with pytest.raises(InputError, match=r"has the shape \[\d+, 10\]; the test images"):
        load(f"cifar-10h:{root}")


def test_the_guide_names_every_set_where_it_is_read_as_a_file():
    guide = Path(__file__).parents[2] / "docs" / "natural-shifts.md"
    names = guide.read_text().partition("```{natural-sets}")[2].partition("```")[0]
    assert names.replace(",", " ").split() == list(NATURAL_SETS)

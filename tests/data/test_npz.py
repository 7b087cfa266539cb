"""Every layout of a .npz file that is read, every one that is refused, and memory while reading."""

import io
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.data import npz as module
from fairweather.data.loading import load_data
from fairweather.data.npz import list_archive, list_npz
from fairweather.data.sources import SourceRequest
from fairweather.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(*shape, splits=("train", "val", "test"), count=12, classes=3):
    """MedMNIST's layout: uint8 images, and labels [N, 1] in which every class occurs."""
    content = {}
    for seed, split in enumerate(splits):
        content[f"{split}_images"] = noise(count + seed, *(shape or (9, 8, 3)), seed=seed)
        labels = np.arange(count + seed) % classes
        content[f"{split}_labels"] = labels.astype(np.uint8)[:, None]
    return content


@pytest.fixture
def save(tmp_path):
    def save_as(content, write=np.savez):
        write(tmp_path / "set.npz", **content)
        return tmp_path / "set.npz"

    return save_as


def contents(listing, keys=None):
    wanted = np.arange(len(listing.labels)) if keys is None else np.array(keys, dtype=np.int64)
    return [item.content for item in listing.read(wanted)]


def refuse(path, *parts):
    with pytest.raises(InputError) as raised:
        list_archive(path)
    message = str(raised.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_the_layout_of_medmnist_keeps_every_pixel_label_and_place(save, write):
    content = arrays()
    source = list_npz(SourceRequest(save(content, write)))
    assert source.classes == ("0", "1", "2")
    assert list(source.splits) == ["train", "val", "test"]
    assert source.name is None
    for split, listing in source.splits.items():
        assert listing.labels.dtype == np.int64
        assert listing.labels.tolist() == content[f"{split}_labels"][:, 0].tolist()
        assert listing.files == (save(content, write),)
        np.testing.assert_array_equal(contents(listing), content[f"{split}_images"])


def test_it_loads_as_a_data_set(save):
    content = arrays(9, 9, 3)
    dataset = load_data(f"npz:{save(content)}")
    expected = torch.from_numpy(content["test_images"]).permute(0, 3, 1, 2)
    assert torch.equal(dataset.test.images, expected)
    assert dataset.test.keys.tolist() == list(range(14))
    assert (len(dataset.train), len(dataset.val)) == (12, 13)


def test_one_set_is_split(save):
    content = {"images": noise(30, 8, 8), "labels": np.arange(30) % 2}
    assert list(list_npz(SourceRequest(save(content))).splits) == ["all"]
    dataset = load_data(f"npz:{save(content)}")
    for part in (dataset.train, dataset.val, dataset.test):
        expected = torch.from_numpy(content["images"][part.keys.numpy()])[:, None]
        assert torch.equal(part.images, expected.expand(-1, 3, -1, -1))


def test_splits_go_by_the_names_that_folders_have(save):
    content = arrays(splits=("training", "valid", "testing"))
    assert list(list_archive(save(content)).splits) == ["train", "val", "test"]
    only = list_archive(save(arrays(splits=("test",))))
    assert list(only.splits) == ["test"]


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((9, 8), None),
        ((9, 8, 1), (0, 1)),
        ((9, 8, 3), (0, 1, 2)),
        ((1, 9, 8), (1, 2)),
        ((3, 9, 8), (1, 2, 0)),
        ((3, 8), None),
    ],
)
def test_gray_and_colour_with_the_channels_at_either_end(save, shape, axes):
    images = noise(4, *shape)
    listing = list_archive(save({"test_images": images, "test_labels": np.zeros(4, int)}))
    for found, image in zip(contents(listing.splits["test"]), images, strict=True):
        if axes:
            image = image.squeeze() if 1 in shape else image.transpose(axes)
        np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("shape", [(3, 9, 3), (1, 9, 1), (3, 9, 1), (9, 8, 4), (9, 8, 8)])
def test_channels_that_could_be_elsewhere_are_refused(save, shape):
    message = refuse(save(arrays(*shape)), "train_images", str(list(shape))[1:], "[N, H, W, 3]")
    assert ("both" in message) == (shape[0] in (1, 3))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_keys_across_any_blocks(tmp_path_factory, write, data):
    rows, count = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 17))
    keys = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    images = noise(count, 4, 5)
    write(path, images=images, labels=np.zeros(count, int))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", rows * 20 + 7)
        items = list(list_archive(path).splits["all"].read(np.array(keys, dtype=np.int64)))
    assert [item.content.tolist() for item in items] == images[keys].tolist()
    assert [item.name for item in items] == [f"image {key} of images in '{path}'" for key in keys]


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_reading_holds_a_block_and_not_all_images(tmp_path, monkeypatch, write):
    megabyte = 1 << 20
    monkeypatch.setattr(module, "BLOCK", megabyte)
    path = tmp_path / "set.npz"
    write(path, images=np.zeros((640, 160, 160, 3), np.uint8), labels=np.zeros(640, int))
    tracemalloc.start()
    try:
        listing = list_archive(path).splits["all"]
        count = sum(1 for _ in listing.read(np.arange(640)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 640
    assert peak < 6 * megabyte  # of 47


def test_no_key_reads_nothing(save):
    assert contents(list_archive(save(arrays())).splits["train"], []) == []


@pytest.mark.parametrize("key", ["classes", "class_names"])
def test_class_names_come_from_the_file(save, key):
    source = list_archive(save({**arrays(), key: np.array(["cat", "dog", "eel"])}))
    assert source.classes == ("cat", "dog", "eel")


def test_a_name_may_have_no_image_which_is_said_when_the_set_is_loaded(save):
    path = save({**arrays(), "classes": np.array(["cat", "dog", "eel", "fox"])})
    assert len(list_archive(path).classes) == 4
    with pytest.raises(InputError, match="'fox'"):
        load_data(f"npz:{path}")


def test_labels_that_begin_at_one_are_called_so(save):
    path = save({"images": noise(40, 8, 8), "labels": np.arange(40) % 4 + 1})
    with pytest.raises(InputError, match=r"labels go from 1 to 4; numbers of classes begin at 0$"):
        load_data(f"npz:{path}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (np.array([1, 2, 3]), "np.array(names, dtype=str)"),
        (np.array(["cat", "dog", "eel"], dtype=object), "object [3]"),
        (np.array([["cat", "dog", "eel"]]), "[1, 3]"),
        (np.array([], dtype=str), "[0]"),
        (np.array(["cat", "dog", "cat"]), "cat, dog, cat"),
        (np.array(["cat", "dog"]), "label 2 of train_labels"),
    ],
)
def test_wrong_class_names_are_refused(save, names, said):
    refuse(save({**arrays(), "classes": names}), said)


@pytest.mark.parametrize("labels", [np.arange(6) % 2, (np.arange(6) % 2).astype(float)])
@pytest.mark.parametrize("kind", [bool, np.uint64, np.int8, np.float32])
def test_labels_may_be_of_any_type_that_holds_whole_numbers(save, labels, kind):
    path = save({"images": noise(6, 8, 8), "labels": labels.astype(kind)})
    assert list_archive(path).splits["all"].labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, -1, 0], "label 2 of labels"),
        ([0, 1, 0.5, 0], "0.5; labels are whole numbers"),
        ([0, 1, float("nan"), 0], "is nan"),
        ([0, 1, float("inf"), 0], "is inf"),
        (np.array([0, 2**64 - 1, 0, 0], dtype=np.uint64), "is 18446744073709551615"),
        ([0, 1, 0], "3 labels for 4 images"),
        ([[0, 1], [0, 2], [0, 0], [1, 1]], "label 2 in row 1, column 1; of several findings"),
        (np.float32([[0, 1], [0, np.inf], [0, 0], [1, 1]]), "label inf in row 1, column 1"),
        (np.zeros((4, 0)), "labels for 4 images"),
        (np.zeros((4, 1, 1)), "[4, 1, 1]"),
        (np.int64(3), "the shape []"),
        (["a", "b", "a", "b"], "labels are whole numbers"),
        (np.array([0, 1, 0, None]), "object; labels are whole numbers"),
        ([0, 1, 0, 4], "up to 4, but there are 4 images"),
        ([0, 1, 0, 10**12], f"up to {10**12}"),
    ],
)
def test_wrong_labels_are_refused(save, labels, said):
    refuse(save({"images": noise(4, 8, 8), "labels": np.asarray(labels)}), said)


def test_labels_beyond_the_classes_of_another_split_are_counted_together(save):
    content = arrays(classes=2)
    content["test_labels"][0] = 2
    assert list_archive(save(content)).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 8, 8), np.float32), "float32 [4, 8, 8]; allowed are uint8 [N, H, W]"),
        (np.zeros((4, 8, 8), np.uint16), "uint16"),
        (np.zeros((4, 8, 8), np.int8), "int8"),
        (np.array([[["a"]]] * 4, dtype=object), "object"),
        (np.zeros((4, 8), np.uint8), "uint8 [4, 8]"),
        (np.zeros((4, 8, 8, 8, 3), np.uint8), "[4, 8, 8, 8, 3]"),
        (np.zeros((0, 8, 8), np.uint8), "[0, 8, 8]"),
        (np.zeros((4, 0, 8), np.uint8), "[4, 0, 8]"),
        (np.zeros((8, 8, 4), np.uint8).T, "np.ascontiguousarray"),
    ],
)
def test_wrong_images_are_refused(save, images, said):
    refuse(save({"images": images, "labels": np.zeros(len(images), int)}), said)


def test_missing_arrays_are_named_with_what_is_there_and_what_is_needed(save):
    refuse(save({"x_train": noise(2)}), "found x_train", "train_images and train_labels")
    content = arrays()
    del content["val_labels"]
    refuse(save(content), "no val_labels", "test_images, test_labels, train_images")
    content = arrays()
    del content["val_images"]
    refuse(save(content), "no val_images")
    refuse(save({}), "no arrays")


@pytest.mark.parametrize(
    ("one", "other"), [(("train",), ("training",)), (("",), ("test",)), (("",), ("train", "val"))]
)
def test_one_set_under_two_names_is_refused(save, one, other):
    content = {key.lstrip("_"): array for key, array in arrays(splits=(*one, *other)).items()}
    refuse(save(content), f"has both {one[0]}{'_' if one[0] else ''}images and {other[0]}_images")


def test_arrays_that_are_not_needed_are_not_even_read(save):
    extra = {"names": np.array([{}], dtype=object), "grid": np.zeros((3, 4)).T}
    assert len(list_archive(save({**arrays(), **extra})).classes) == 3


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_file_that_was_cut_off_or_is_something_else_is_refused(save, tmp_path, write):
    path = save(arrays(), write)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse(path, "it ends too early")
    path.write_bytes(b"not a zip archive")
    refuse(path, "it is not a zip archive")
    path.write_bytes(b"")
    refuse(path, "it is not a zip archive")


def test_a_damaged_place_of_the_contents_is_refused(save):
    path = save(arrays())
    whole = path.read_bytes()
    end = whole.rindex(b"PK\x05\x06")  # its bytes 12 to 16 are the size of the table of contents
    path.write_bytes(whole[: end + 15] + b"\xff" + whole[end + 16 :])
    refuse(path, "cannot be read as a .npz file")


def test_a_missing_file_and_a_folder_are_refused(tmp_path, save):
    save(arrays())
    with pytest.raises(InputError, match=r"'set\.npz'"):
        list_npz(SourceRequest(tmp_path / "sett.npz"))
    with pytest.raises(InputError, match="is a folder"):
        list_npz(SourceRequest(tmp_path))


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, noise(4, 8, 8))
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        shortened = stream.getvalue().replace(b"(4, 8, 8)", b"(9, 8, 8)")
        archive.writestr("images.npy", shortened)
        archive.writestr("labels.npy", b"\x93NUMPY\x09\x00")
    message = refuse(path, "384 bytes", "704")
    assert re.search(r"cannot be read as a \.npz file", message)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_byte_is_an_input_error_or_changes_nothing(tmp_path_factory, write, place, flip):
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    content = arrays(splits=("test",), count=6)
    write(path, **content)
    damaged = bytearray(path.read_bytes())
    damaged[int(place * len(damaged))] ^= flip
    path.write_bytes(damaged)
    try:
        listing = list_archive(path).splits["test"]
        found = contents(listing)
    except InputError:
        return
    np.testing.assert_array_equal(found, content["test_images"])
    assert listing.labels.tolist() == content["test_labels"][:, 0].tolist()

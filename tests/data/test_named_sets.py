"""Fashion-MNIST, CIFAR-10 and Oxford Pets: tiny files in each real format, whole and damaged."""

import errno
import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
import tracemalloc
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_sets

from fairweather.data import named_sets as cifar10
from fairweather.data import named_sets as fashion_mnist
from fairweather.data import named_sets as known
from fairweather.data import named_sets as oxford_pets
from fairweather.data.loading import list_source, load_data
from fairweather.data.named_sets import (
    list_cifar10,
    list_fashion_mnist,
    list_oxford_pets,
    read_cifar_batch,
)
from fairweather.data.sources import SourceRequest
from fairweather.errors import InputError

LISTS = {
    "cifar10": list_cifar10,
    "fashion-mnist": list_fashion_mnist,
    "oxford-iiit-pet": list_oxford_pets,
}


@pytest.fixture(autouse=True)
def nothing_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no package")


def unverified(path):
    return SourceRequest(path, verify=False)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def read_all(listing):
    return list(listing.read(np.arange(len(listing.labels))))


def stacked(listing):
    return np.stack([item.content for item in read_all(listing)])


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# Fashion-MNIST


def idx(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def clothes(count, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(count) % 10).astype(np.uint8)
    return noise(seed, count, 28, 28), labels


def write_fashion(folder, *, compress, counts=(20, 10)):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (prefix, count) in enumerate(zip(("train", "t10k"), counts, strict=True)):
        images, labels = clothes(count, seed)
        files = {"images-idx3": images, "labels-idx1": labels}
        for name, array in files.items():
            path = folder / f"{prefix}-{name}-ubyte"
            if compress:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return folder


def publish_fashion(monkeypatch, folder):
    """Make the tiny gz files in a folder the published ones."""
    for path in folder.iterdir():
        monkeypatch.setitem(
            fashion_mnist.FASHION_CONTENT_MD5, path.stem, md5(path, gzip.decompress)
        )
        monkeypatch.setitem(fashion_mnist.FASHION_COMPRESSED_MD5, path.stem, md5(path))


def md5(path, decode=bytes):
    return hashlib.md5(decode(path.read_bytes())).hexdigest()


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("place", [".", "FashionMNIST/raw", "raw", "fashion-mnist"])
def test_fashion_mnist_lies_in_either_layout_and_either_form(tmp_path, place, compress):
    write_fashion(tmp_path / place, compress=compress)
    source = list_fashion_mnist(unverified(tmp_path))
    for seed, (split, count) in enumerate({"train": 20, "test": 10}.items()):
        images, labels = clothes(count, seed)
        np.testing.assert_array_equal(stacked(source.splits[split]), images)
        np.testing.assert_array_equal(source.splits[split].labels, labels)
        assert source.splits[split].labels.dtype == np.int64
    assert source.name == "fashion-mnist"
    assert source.notes["origin"] == str(tmp_path)


def test_fashion_mnist_equals_torchvision(tmp_path):
    write_fashion(tmp_path / "FashionMNIST" / "raw", compress=False)
    source = list_fashion_mnist(unverified(tmp_path))
    for split, listing in source.splits.items():
        theirs = torchvision_sets.FashionMNIST(tmp_path, train=split == "train")
        np.testing.assert_array_equal(stacked(listing), theirs.data.numpy())
        np.testing.assert_array_equal(listing.labels, theirs.targets.numpy())
        assert list(source.classes) == theirs.classes
    keys = np.array([3, 17])
    images = source.splits["train"].read(keys)
    assert [item.name for item in images] == [f"fashion-mnist train image {key}" for key in keys]


def test_fashion_mnist_loads_whole(tmp_path):
    write_fashion(tmp_path, compress=True)
    dataset = load_data("fashion-mnist", root=tmp_path, verify=False)
    images, labels = clothes(10, 1)
    assert (dataset.name, len(dataset.train), len(dataset.val)) == ("fashion-mnist", 10, 10)
    assert torch.equal(dataset.test.images[:, 1], torch.from_numpy(images))
    assert dataset.test.labels.tolist() == labels.tolist()
    assert dataset.test.keys.tolist() == list(range(10))
    assert dataset.notes["verified"] is False


def test_what_fashion_mnist_holds_is_verified_however_it_is_compressed(tmp_path, monkeypatch):
    publish_fashion(monkeypatch, write_fashion(tmp_path / "published", compress=True))
    again = tmp_path / "again"
    again.mkdir()
    for path in (tmp_path / "published").iterdir():
        content = gzip.decompress(path.read_bytes())
        (again / path.name).write_bytes(gzip.compress(content, 1, mtime=1))
        assert md5(again / path.name) != md5(path)
    raw = write_fashion(tmp_path / "raw files", compress=False)
    for root in (again, raw):
        source = list_fashion_mnist(SourceRequest(root))
        assert source.notes["verified"] is True
        assert source.notes["md5"] == fashion_mnist.FASHION_CONTENT_MD5


def test_the_debian_package_comes_before_the_cache(tmp_path, monkeypatch):
    publish_fashion(monkeypatch, write_fashion(tmp_path / "debian", compress=True))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    source = list_fashion_mnist(SourceRequest(offline=True))
    assert source.notes["origin"] == "the Debian package dataset-fashion-mnist"
    assert source.splits["test"].files == (tmp_path / "debian" / "t10k-images-idx3-ubyte.gz",)


GZ = "train-images-idx3-ubyte.gz"
LABELS_GZ = "t10k-labels-idx1-ubyte.gz"


def change_gz(change):
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (GZ, lambda content: content[:-1000], f"{GZ}' is damaged"),
        (GZ, lambda content: content[:100] + b"~" + content[101:], "is damaged"),
        (GZ, lambda content: b"<html>" + content, "is damaged"),
        (GZ, change_gz(lambda idx: idx[:-1]), "15695 bytes, but its header says 15696"),
        (GZ, change_gz(lambda idx: idx + b"0"), "15697 bytes, but its header says"),
        (GZ, change_gz(lambda idx: idx[:15]), "at least 16 bytes"),
        (GZ, change_gz(lambda _: idx(noise(0, 20))), "0x00000801 instead of 0x0000080"),
        (GZ, change_gz(lambda _: idx(noise(0, 20, 32, 32))), "32 x 32 pixels"),
        (GZ, change_gz(lambda _: idx(noise(0, 19, 28, 28))), "19 images and 'train-labels-idx"),
        (LABELS_GZ, change_gz(lambda idx: idx[:-1] + b"\x0a"), "label 10; known are 0 to"),
        (LABELS_GZ, change_gz(lambda _: b""), "at least 8 bytes"),
    ],
)
def test_damaged_idx_files_are_one_sentence(tmp_path, file, change, message):
    path = write_fashion(tmp_path, compress=True) / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as error:
        list_fashion_mnist(unverified(tmp_path))
    assert message in one_sentence(error)
    assert file in str(error.value)


def test_an_empty_fashion_mnist_is_refused(tmp_path):
    write_fashion(tmp_path, compress=True, counts=(20, 0))
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz' .*no images"):
        list_fashion_mnist(unverified(tmp_path))


def test_fashion_mnist_is_downloaded_once(tmp_path, monkeypatch):
    server = write_fashion(tmp_path / "server", compress=True)
    publish_fashion(monkeypatch, server)
    calls = serve(monkeypatch, server)
    source = list_fashion_mnist(SourceRequest())
    assert calls == [
        (f"{fashion_mnist.FASHION_URL}{stem}.gz", checksum, False)
        for stem, checksum in fashion_mnist.FASHION_COMPRESSED_MD5.items()
    ]
    assert source.notes["origin"] == fashion_mnist.FASHION_URL
    list_fashion_mnist(SourceRequest(offline=True))
    assert len(calls) == 4


def serve(monkeypatch, server):
    """Let downloads come from a folder; returns the list of calls to be."""
    calls = []

    def fetch(url, path, *, md5=None, sha256=None, offline=False, progress=None):
        calls.append((url, md5, offline))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(server / path.name, path)
        return path

    monkeypatch.setattr(known, "fetch", fetch)
    return calls


# CIFAR-10


def photographs(count, seed):
    labels = [int(label) for label in np.random.default_rng(seed).permutation(count) % 10]
    return noise(seed, count, 3072), labels


def text2(content):
    return b"T" + struct.pack("<I", len(content)) + content


def python2_pickle(data, labels):
    """The bytes that Python 2 and numpy 1 write, as in the official files: protocol 2, str."""
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
    kind += b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    array += b"".join(b"J" + struct.pack("<i", side) for side in data.shape) + b"\x86" + kind
    array += b"\x89" + text2(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    entries = {b"batch_label": text2(b"a batch"), b"labels": numbers, b"data": array}
    return b"\x80\x02}(" + b"".join(text2(key) + value for key, value in entries.items()) + b"u."


def python3_pickle(data, labels, protocol=2):
    entries = {"batch_label": "a batch", "labels": labels, "data": data, "filenames": ["a.png"]}
    return pickle.dumps(entries, protocol)


FILES = [*cifar10.CIFAR_BATCHES["train"], "test_batch"]


def write_cifar(folder, write=python2_pickle):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, file in enumerate(FILES):
        (folder / file).write_bytes(write(*photographs(10, seed)))
    return folder


def publish_cifar(monkeypatch, folder):
    for batches in cifar10.CIFAR_BATCHES.values():
        for file in batches:
            monkeypatch.setitem(batches, file, md5(folder / file))


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
@pytest.mark.parametrize("place", [".", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_lies_in_either_layout(tmp_path, place, write):
    write_cifar(tmp_path / place, write)
    source = list_cifar10(unverified(tmp_path))
    for split, seeds in {"train": range(5), "test": [5]}.items():
        batches = [photographs(10, seed) for seed in seeds]
        planes = np.concatenate([data for data, _ in batches])
        images = np.stack([planes[:, 1024 * c : 1024 * (c + 1)] for c in range(3)], axis=-1)
        np.testing.assert_array_equal(stacked(source.splits[split]), images.reshape(-1, 32, 32, 3))
        assert source.splits[split].labels.tolist() == list(
            chain.from_iterable(labels for _, labels in batches)
        )
    assert (source.name, source.notes["origin"]) == ("cifar10", str(tmp_path))


def test_cifar10_equals_torchvision(tmp_path, monkeypatch):
    folder = write_cifar(tmp_path / "cifar-10-batches-py")
    names = ["airplane", "automobile", "bird", "cat", "deer"]
    names += ["dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    theirs = torchvision_sets.CIFAR10
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(theirs, name, [(file, None) for file, _ in getattr(theirs, name)])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": None})
    source = list_cifar10(unverified(tmp_path))
    for split, listing in source.splits.items():
        other = theirs(tmp_path, train=split == "train")
        assert list(source.classes) == other.classes
        np.testing.assert_array_equal(stacked(listing), other.data)
        assert listing.labels.tolist() == other.targets


def test_cifar10_reads_only_what_is_asked_for(tmp_path):
    folder = write_cifar(tmp_path)
    listing = list_cifar10(unverified(tmp_path)).splits["train"]
    whole = stacked(listing)
    for file in ("data_batch_1", "data_batch_3", "data_batch_5"):
        (folder / file).unlink()
    keys = np.array([10, 19, 30, 39])
    items = list(listing.read(keys))
    assert [item.name for item in items] == [f"cifar10 train image {key}" for key in keys]
    np.testing.assert_array_equal(np.stack([item.content for item in items]), whole[keys])


def test_cifar10_is_listed_without_its_pixels_in_memory(tmp_path):
    for seed, file in enumerate(FILES):
        (tmp_path / file).write_bytes(python3_pickle(*photographs(300, seed)))
    tracemalloc.start()
    source = list_cifar10(unverified(tmp_path))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source.splits["train"].labels) == 1500
    assert held < 300 * 3072  # less than one of six batches


def test_cifar10_loads_whole_and_verified(tmp_path, monkeypatch):
    publish_cifar(monkeypatch, write_cifar(tmp_path))
    dataset = load_data("cifar10", root=tmp_path)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (40, 10, 10)
    data, labels = photographs(10, 5)
    assert torch.equal(dataset.test.images, torch.from_numpy(data.reshape(-1, 3, 32, 32)))
    assert dataset.test.labels.tolist() == labels
    assert dataset.notes["verified"] is True
    assert list(dataset.notes["md5"]) == FILES
    assert dataset.test.images.shape[1:] == (3, 32, 32)


def test_a_column_major_array_keeps_its_pixels(tmp_path):
    data, labels = photographs(10, 0)
    images, _ = read_cifar_batch(python3_pickle(np.asfortranarray(data), labels), tmp_path)
    np.testing.assert_array_equal(images[:, :, :, 2].reshape(10, -1), data[:, 2048:])


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["data", "labels", "filenames"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_not_run(tmp_path, place, protocol):
    mark = tmp_path / "harmed"
    data, labels = photographs(10, 0)
    entries = {"data": data, "labels": labels, place: [Harm(mark)]}
    content = pickle.dumps(entries, protocol)
    with pytest.raises(InputError) as error:
        read_cifar_batch(content, tmp_path / "data_batch_1")
    assert "asks for " in one_sentence(error)
    assert ".open, " in str(error.value)
    assert "never executes code" in str(error.value)
    assert not mark.exists()
    pickle.loads(content)["data" if place == "data" else place][0].close()  # the harm is real
    assert mark.exists()


def test_a_malicious_pickle_is_refused_by_the_source_verified_or_not(tmp_path):
    folder, mark = write_cifar(tmp_path / "set"), tmp_path / "harmed"
    (folder / "data_batch_1").write_bytes(pickle.dumps(Harm(mark)))
    with pytest.raises(InputError, match="verify: false"):
        list_cifar10(SourceRequest(folder))
    with pytest.raises(InputError, match="never executes code"):
        list_cifar10(unverified(folder))
    assert not mark.exists()


def array_pickle(state, kind=b"U\x02u1K\x00K\x01\x87R"):
    array = b"cnumpy.core.multiarray\n_reconstruct\n)Rcnumpy\ndtype\n" + kind + b"0" + state
    return b"\x80\x02}(X\x04\x00\x00\x00data" + array + b"X\x06\x00\x00\x00labels](K\x00eu."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"no pickle", "is damaged"),
        (python2_pickle(*photographs(10, 0))[:-500], "is damaged"),
        (pickle.dumps([1, 2]), "it has no data and labels"),
        (pickle.dumps({"data": 1}), "it has no data and labels"),
        (python3_pickle(noise(0, 10, 3071), [0] * 10), "N x 3072 bytes"),
        (python3_pickle(noise(0, 10, 3, 1024), [0] * 10), "N x 3072 bytes"),
        (python3_pickle(np.zeros((10, 3072), "<i2"), [0] * 10), "N x 3072 bytes"),
        (python3_pickle([[0] * 3072], [0]), "N x 3072 bytes"),
        (python3_pickle(noise(0, 10, 3072), [0] * 9), "has 10 images and 9 labels"),
        (python3_pickle(noise(0, 2, 3072), [0, 10]), "has the label 10; known are 0 to 9"),
        (python3_pickle(noise(0, 2, 3072), [0, -1]), "label -1; known are 0 to 9"),
        (python3_pickle(noise(0, 2, 3072), [0, True]), "are not a list of integers"),
        (python3_pickle(noise(0, 2, 3072), (0, 1)), "are not a list of integers"),
        (array_pickle(b""), "N x 3072 bytes"),
        (array_pickle(b"Nb"), "N x 3072 bytes"),
        (array_pickle(b"(NNNNNtb"), "N x 3072 bytes"),
        (array_pickle(b"(NNcnumpy\ndtype\n)\x81NNtb"), "N x 3072 bytes"),
    ],
)
def test_damaged_batches_are_one_sentence(tmp_path, content, message):
    path = tmp_path / "data_batch_1"
    with pytest.raises(InputError) as error:
        read_cifar_batch(content, path)
    assert message in one_sentence(error)
    assert str(path) in str(error.value)


def test_text_that_is_no_bytes_is_not_taken_for_pixels(tmp_path):
    content = python2_pickle(*photographs(1, 0))
    raw = text2(photographs(1, 0)[0].tobytes())
    text = ("€" * 3072).encode()
    assert raw in content
    content = content.replace(raw, b"X" + struct.pack("<I", len(text)) + text)
    with pytest.raises(InputError, match="N x 3072 bytes"):
        read_cifar_batch(content, tmp_path)


def test_cifar10_is_downloaded_and_unpacked_once(tmp_path, monkeypatch):
    server = tmp_path / "server"
    folder = write_cifar(server / "cifar-10-batches-py")
    publish_cifar(monkeypatch, folder)
    pack(server / "cifar-10-python.tar.gz", folder)
    calls = serve(monkeypatch, server)
    for _ in range(2):
        source = list_cifar10(SourceRequest())
        assert stacked(source.splits["train"]).shape == (50, 32, 32, 3)
        assert calls == [(cifar10.CIFAR_URL, cifar10.CIFAR_MD5, False)]
    assert source.notes["origin"] == cifar10.CIFAR_URL


def pack(archive, folder):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return archive


# Oxford Pets

BREEDS = ("Abyssinian", "american_bulldog", "Maine_Coon")
SPECIES = (1, 2, 1)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_pets(folder, count=5, breeds=BREEDS):
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, start in (("trainval", 1), ("test", 101)):
        lines = []
        for label, breed in enumerate(breeds):
            for number in range(start, start + count):
                name = f"{breed}_{number}"
                lines.append(f"{name} {label + 1} {SPECIES[label]} 1")
                image = Image.fromarray(noise(1000 * label + number, 10, 12 + label, 3))
                (folder / "images" / f"{name}.jpg").write_bytes(encoded(image, "JPEG"))
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("place", [".", "oxford-iiit-pet"])
def test_oxford_pets_equal_torchvision_in_either_layout(tmp_path, place):
    write_pets(tmp_path / "root" / "oxford-iiit-pet")
    root = (tmp_path / "root" / "oxford-iiit-pet") if place == "." else tmp_path / "root"
    source = list_oxford_pets(SourceRequest(root))
    assert source.classes == ("Abyssinian", "American Bulldog", "Maine Coon")
    for split, file in {"train": "trainval", "test": "test"}.items():
        theirs = torchvision_sets.OxfordIIITPet(tmp_path / "root", file)
        listing = source.splits[split]
        assert list(source.classes) == theirs.classes
        assert listing.labels.tolist() == theirs._labels
        assert [item.content for item in read_all(listing)] == theirs._images
        assert list(listing.files) == theirs._images
    assert source.notes["verified"] is False
    assert "archives" in source.notes["verification"]
    lists = tmp_path / "root" / "oxford-iiit-pet" / "annotations"
    assert source.notes["md5"] == {
        f"{file}.txt": md5(lists / f"{file}.txt") for file in ("trainval", "test")
    }


def test_pets_in_odd_formats_load_and_unlisted_files_do_not(tmp_path):
    images = write_pets(tmp_path) / "images"
    picture = Image.fromarray(noise(7, 16, 16, 3))
    odd = {
        "Abyssinian_101": encoded(picture.convert("RGBA"), "PNG"),
        "Abyssinian_102": encoded(picture.convert("P"), "GIF"),
        "Abyssinian_103": encoded(picture.convert("CMYK"), "JPEG"),
        "Abyssinian_104": encoded(picture.convert("L"), "JPEG"),
        "Abyssinian_105": encoded(picture, "BMP"),
        "american_bulldog_101": encoded(picture.convert("LA"), "PNG"),
    }
    for name, content in odd.items():
        (images / f"{name}.jpg").write_bytes(content)
    (images / "Abyssinian_101.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (images / "Abyssinian_999.jpg").write_bytes(b"not listed, not an image")
    (tmp_path / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")
    dataset = load_data("oxford-iiit-pet", root=tmp_path, size=16)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (12, 3, 15)
    assert dataset.notes["skipped_files"] == 0
    exact = torch.from_numpy(noise(7, 16, 16, 3).transpose(2, 0, 1).copy())
    assert torch.equal(dataset.test.images[0], exact)  # RGBA in a PNG
    assert torch.equal(dataset.test.images[4], exact)  # BMP
    assert torch.equal(dataset.test.images[3][0], dataset.test.images[3][2])  # gray
    assert dataset.test.keys.tolist() == list(range(15))


def test_damaged_pets_are_named(tmp_path):
    path = write_pets(tmp_path) / "images" / "Maine_Coon_3.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"Maine_Coon_3\.jpg"):
        load_data("oxford-iiit-pet", root=tmp_path, size=16)
    path.unlink()
    with pytest.raises(InputError) as error:
        list_oxford_pets(SourceRequest(tmp_path))
    assert "1 of the 15 images" in one_sentence(error)
    assert str(error.value).endswith("folder images: Maine_Coon_3.jpg")


LINE = "Abyssinian_1 1 1 1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Abyssinian_1 1 1", "line 1 of"),
        ("Abyssinian_1 1 1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("Abyssinian_1 one 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("Abyssinian_1 -1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("Abyssinian 1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("../images/Abyssinian_1 1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("/etc/Abyssinian_1 1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("..\\Abyssinian_1 1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        (".._1 1 1 1", "such as 'Abyssinian_100 1 1 1'"),
        ("Abyssinian_1 0 1 1", "class id 0; known are 1 to 37"),
        ("Abyssinian_1 38 1 1", "class id 38; known are 1 to 37"),
        ("Abyssinian_1 1 3 1", "species 3"),
        ("Abyssinian_1 2 1 1", "class id 2 to Abyssinian and to American Bulldog"),
        ("Abyssinian_1 5 1 1", "class id 4"),
        ("Abyssinian_1 4 1 1", "Abyssinian with several class ids"),
        ("Abyssinian_2 1 1 1", "'Abyssinian_2' twice"),
        ("Abyssinian_101 1 1 1", "'Abyssinian_101' is in trainval.txt and in test.txt"),
        ("Birman_1 4 1 1", "1 of the 15 images"),
        ("Abyssinian_1 1 1 1\xff", "is not a text file"),
    ],
)
def test_wrong_lines_are_one_sentence(tmp_path, line, message):
    path = write_pets(tmp_path) / "annotations" / "trainval.txt"
    assert path.read_text().startswith(LINE)
    path.write_bytes(path.read_bytes().replace(LINE.encode(), line.encode("latin1"), 1))
    with pytest.raises(InputError) as error:
        list_oxford_pets(SourceRequest(tmp_path))
    assert message in one_sentence(error)


def test_lists_must_agree_and_name_images(tmp_path):
    path = write_pets(tmp_path) / "annotations" / "test.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "Maine" not in line))
    with pytest.raises(InputError, match=r"trainval and test .*only in train"):
        list_oxford_pets(SourceRequest(tmp_path))
    path.write_text("\n\n")
    with pytest.raises(InputError, match=r"test\.txt' .*no images"):
        list_oxford_pets(SourceRequest(tmp_path))


def serve_pets(tmp_path, monkeypatch):
    server = tmp_path / "server"
    write_pets(server)
    for part in ("annotations", "images"):
        pack(server / f"{part}.tar.gz", server / part)
    return server, serve(monkeypatch, server)


def test_oxford_pets_are_downloaded_and_unpacked_once(tmp_path, monkeypatch):
    _, calls = serve_pets(tmp_path, monkeypatch)
    source = list_oxford_pets(SourceRequest())
    assert source.notes["origin"] == oxford_pets.PETS_URL
    assert all(path.is_file() for path in source.splits["train"].files)
    assert calls == [
        (f"{oxford_pets.PETS_URL}{part}.tar.gz", checksum, False)
        for part, checksum in oxford_pets.PETS_ARCHIVES.items()
    ]
    list_oxford_pets(SourceRequest(offline=True, verify=False))
    assert len(calls) == 2


def test_unpacking_is_taken_up_after_an_interruption(tmp_path, monkeypatch):
    server, _ = serve_pets(tmp_path, monkeypatch)
    folder = known.download_folder("oxford-iiit-pet")
    good = (server / "images.tar.gz").read_bytes()
    (server / "images.tar.gz").write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError) as error:
        list_oxford_pets(SourceRequest(verify=False))
    assert "images.tar.gz' is damaged (" in one_sentence(error)
    assert not (folder / "images").exists()
    assert not (folder / ".images.part").exists()
    (folder / ".images.part" / "images").mkdir(parents=True)  # by a process that was killed
    (folder / ".images.part" / "images" / "left over.jpg").touch()
    (server / "images.tar.gz").write_bytes(good)
    list_oxford_pets(SourceRequest())
    assert len(list((folder / "images").iterdir())) == 30


def test_an_archive_is_not_unpacked_through_a_link(tmp_path):
    images = write_pets(tmp_path / "set") / "images"
    archive = pack(tmp_path / "images.tar.gz", images)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".images.part").symlink_to(tmp_path / "elsewhere")
    known.unpack(archive, "images")
    assert len(list((tmp_path / "images").iterdir())) == 30
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / ".images.part").is_symlink()  # it was taken away before, not used


def test_a_folder_that_another_process_unpacked_meanwhile_is_taken(tmp_path):
    images = write_pets(tmp_path / "set") / "images"
    archive = pack(tmp_path / "images.tar.gz", images)
    for _ in range(2):
        known.unpack(archive, "images")
        assert len(list((tmp_path / "images").iterdir())) == 30


def test_a_process_that_dies_while_unpacking_leaves_no_half_folder(tmp_path, monkeypatch):
    serve_pets(tmp_path, monkeypatch)
    folder = known.download_folder("oxford-iiit-pet")

    def interrupted(tar, path, *, filter):
        (path / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list_oxford_pets(SourceRequest())
    assert not (folder / "annotations").exists()
    list_oxford_pets(SourceRequest())


@pytest.mark.parametrize("name", ["../escaped.txt", "images/../../escaped.txt"])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, name):
    archive = tmp_path / "inside" / "images.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError) as error:
        known.unpack(archive, "images")
    assert "is unsafe" in one_sentence(error)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_an_archive_with_a_link_to_the_outside_is_refused(tmp_path):
    link = tarfile.TarInfo("images/cat_1.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../secret"
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
        tar.addfile(link)
    with pytest.raises(InputError, match="is unsafe"):
        known.unpack(tmp_path / "images.tar.gz", "images")
    assert not (tmp_path / "images").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    archive = pack(tmp_path / "images.tar.gz", write_pets(tmp_path / "set") / "images")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    for patched in ("FileLock", "Path.mkdir", "tarfile.TarFile.extractall"):
        with monkeypatch.context() as patch:
            patch.setattr(f"fairweather.data.named_sets.{patched}", denied)
            with pytest.raises(InputError, match="--data-root") as error:
                known.unpack(archive, "images")
        assert repr(str(tmp_path)) in one_sentence(error)
        assert not (tmp_path / "images").exists()
    known.unpack(archive, "images")


@pytest.mark.parametrize("name", LISTS)
def test_whether_the_files_were_verified_is_told(tmp_path, name):
    write_set(name, tmp_path)
    told = []
    list_source(name, tmp_path, verify=False, progress=told.append)
    (line,) = [event.line for event in told if event.line]
    assert line.startswith("not verified ")
    assert name in line


def test_an_archive_of_something_else_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    archive = pack(tmp_path / "images.tar.gz", tmp_path / "photos")
    with pytest.raises(InputError, match=r"images.tar.gz' has no folder 'images'"):
        known.unpack(archive, "images")
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"images.tar.gz' is damaged"):
        known.unpack(archive, "images")


# All of them


def write_set(name, folder):
    if name == "cifar10":
        return write_cifar(folder)
    if name == "fashion-mnist":
        return write_fashion(folder, compress=True)
    return write_pets(folder)


NEEDED = {
    "cifar10": "test_batch",
    "fashion-mnist": "t10k-labels-idx1-ubyte.gz",
    "oxford-iiit-pet": "annotations/test.txt",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_root_without_the_files_says_what_is_there(tmp_path, name):
    with pytest.raises(InputError) as error:
        LISTS[name](SourceRequest(tmp_path))
    assert f"does not have {name}: " in one_sentence(error)
    assert str(error.value).endswith("; it is empty")
    for file in "abcdefg":
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=r"a, b, c, d, e and 2 more$"):
        LISTS[name](SourceRequest(tmp_path))
    with pytest.raises(InputError, match="a' is a file; root "):
        LISTS[name](SourceRequest(tmp_path / "a"))
    with pytest.raises(InputError, match="nowhere"):
        LISTS[name](SourceRequest(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", LISTS)
def test_a_missing_file_is_named(tmp_path, name):
    folder = write_set(name, tmp_path / "set")
    (folder / NEEDED[name]).unlink()
    with pytest.raises(InputError) as error:
        LISTS[name](unverified(folder))
    file = NEEDED[name].rpartition("/")[2]
    assert f"{name} needs {file}, " in one_sentence(error)


def test_a_missing_folder_of_pets_is_named(tmp_path):
    shutil.rmtree(write_pets(tmp_path) / "images")
    with pytest.raises(InputError, match=r"the folder images, .* annotations$"):
        list_oxford_pets(SourceRequest(tmp_path))


@pytest.mark.parametrize("name", LISTS)
def test_offline_without_data_is_one_sentence(tmp_path, name):
    with pytest.raises(InputError) as error:
        LISTS[name](SourceRequest(offline=True))
    assert "http" in one_sentence(error)
    assert not (tmp_path / "cache" / "data" / name).exists()


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_other_bytes_than_published_are_named_with_both_digests(tmp_path, name):
    write_set(name, tmp_path)
    with pytest.raises(InputError) as error:
        LISTS[name](SourceRequest(tmp_path))
    text = one_sentence(error)
    file = "data_batch_1" if name == "cifar10" else "train-images-idx3-ubyte"
    published = (
        cifar10.CIFAR_BATCHES["train"] if name == "cifar10" else fashion_mnist.FASHION_CONTENT_MD5
    )
    found = LISTS[name](unverified(tmp_path)).notes["md5"]
    assert file in text
    assert f"{found[file]} instead of {published[file]}" in text
    assert "verify: false" in text


@pytest.mark.parametrize("name", LISTS)
def test_without_verification_a_download_has_no_checksum(tmp_path, monkeypatch, name):
    asked = []

    def fetch(url, path, *, md5=None, sha256=None, offline=False, progress=None):
        asked.append(md5)
        raise InputError("enough")

    monkeypatch.setattr(known, "fetch", fetch)
    for verify in (True, False):
        with pytest.raises(InputError, match="enough"):
            LISTS[name](SourceRequest(verify=verify))
    assert len(asked[0]) == 32
    assert asked[1] is None


@pytest.mark.parametrize("name", LISTS)
def test_there_is_one_resolution(tmp_path, name):
    with pytest.raises(InputError, match=f"'{name}@64'"):
        load_data(f"{name}@64", root=tmp_path)


def test_addresses_and_checksums_are_those_of_torchvision():
    clothes = torchvision_sets.FashionMNIST
    ours = [
        (f"{stem}.gz", checksum) for stem, checksum in fashion_mnist.FASHION_COMPRESSED_MD5.items()
    ]
    assert clothes.resources == ours
    assert fashion_mnist.FASHION_URL in clothes.mirrors
    assert list(fashion_mnist.FASHION_CLASSES) == clothes.classes
    photos = torchvision_sets.CIFAR10
    assert (photos.url, photos.tgz_md5) == (cifar10.CIFAR_URL, cifar10.CIFAR_MD5)
    assert photos.base_folder == cifar10.CIFAR_FOLDER
    for split, batches in (("train", photos.train_list), ("test", photos.test_list)):
        assert dict(map(tuple, batches)) == cifar10.CIFAR_BATCHES[split]
    pets = {
        f"{oxford_pets.PETS_URL}{part}.tar.gz": checksum
        for part, checksum in oxford_pets.PETS_ARCHIVES.items()
    }
    assert dict(torchvision_sets.OxfordIIITPet._RESOURCES) == pets


def test_files_of_a_set_may_be_links(tmp_path):
    (tmp_path / "set").mkdir()
    for path in write_cifar(tmp_path / "elsewhere").iterdir():
        (tmp_path / "set" / path.name).symlink_to(path)
    assert len(read_all(list_cifar10(unverified(tmp_path / "set")).splits["test"])) == 10

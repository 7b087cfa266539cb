"""Passes over all pixels of a split: their statistics, their digest, and images in two splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fairweather.types.measurement import BoolArray, ByteArray, Images, IntArray
from fairweather.types.options import Channels

CHUNK_BYTES = 2**25  # of pixels at a time: they may be a memory map that is larger than memory
EXACT_COUNT = 2**24  # values of one image that are counted at a time
DIGESTED_IMAGES = 1024  # images that are hashed at a time


def channel_statistics(images: Images) -> tuple[Channels, Channels]:
    """Compute the mean and population standard deviation of R, G and B, in [0, 1].

    They are exact: integers are counted per channel, and divided once at the end.

    >>> pixels = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    >>> pixels[1, 0] = 255
    >>> column = torch.tensor([0, 1])
    >>> channel_statistics(Images(pixels, column, column, ("a", "b")))
    ((0.5, 0.0, 0.0), (0.5, 0.0, 0.0))
    """
    histogram = np.zeros((3, 256), dtype=np.int64)
    for chunk in _chunks(images.images):
        for channel in range(3):
            values = chunk[:, channel].flatten(1).numpy()
            # OpenCV counts ten times as fast as torch and numpy, in float32: exact up to 2**24.
            for part in np.split(values, range(EXACT_COUNT, values.shape[1], EXACT_COUNT), axis=1):
                counts = cv2.calcHist([part], [0], None, [256], [0, 256])
                histogram[channel] += counts.ravel().astype(np.int64)
    red, green, blue = (_moments(counts) for counts in histogram.tolist())
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _chunks(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return images.split(max(CHUNK_BYTES // max(images[:1].nbytes, 1), 1))


def _moments(counts: list[int]) -> tuple[float, float]:
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    # n² var = n Σv² − (Σv)², in Python's unbounded integers: no digits are lost.
    return first / n / 255, (n * second - first * first) ** 0.5 / n / 255


def digest(images: Images) -> str:
    """Return the SHA-256 of shape, classes, pixels, labels and keys, as 64 hexadecimal digits.

    Of a natural shift, it covers the class mask and what is right too.

    >>> zeros = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> column = torch.tensor([0])
    >>> digest(Images(zeros, column, column, ("cat",)))[:8]
    'fb172a84'
    """
    header = {"shape": list(images.images.shape), "classes": images.classes}
    hasher = hashlib.sha256(json.dumps(header).encode())
    # Chunks: the pixels may be a memory map or a view, and are not copied as a whole.
    for chunk in images.images.split(DIGESTED_IMAGES):
        hasher.update(chunk.contiguous().numpy())
    for column in (images.labels, images.keys):
        hasher.update(column.numpy().astype("<i8").tobytes())
    if images.choices is not None:
        hasher.update(json.dumps(images.choices.names).encode())
        if images.choices.truth is not None:
            hasher.update(np.ascontiguousarray(images.choices.truth).tobytes())
    return hasher.hexdigest()


# ---------------------------------------------------------------- images in two splits

GRID = 9  # cells on a side of an image whose brightness is compared
SAMPLES = 36  # rows and columns of a large image that are looked at, at least
# Of 128 bits. Hoyt 2017, "Duplicate image detection with perceptual hashing in Python", uses this
# hash with this threshold for photographs.
MAX_DIFFERENT_BITS = 2
BANDS = MAX_DIFFERENT_BITS + 1
# Nearly flat images (black, or a blank slide) look alike without being copies. So images with fewer
# set bits are left out, and so are parts of the hash that this many images share.
MIN_BITS_SET = 16
MAX_ALIKE = 1000
# The hash of simple images, such as digits, is not sharp enough: their gray values must agree too.
MIN_CORRELATION = 0.98

MAX_PAIRS_NAMED = 3  # pairs in a message

Hashes = ByteArray
Places = IntArray


class CopyPairs(NamedTuple):
    """Images of one split with an image of another split that is the same or looks the same."""

    first: str
    second: str
    """`first`, `second`: the names of the splits."""

    places: Places
    """int64 `[K, 2]`, places in the two splits; each image of `second` at most once."""

    def line(self, splits: Mapping[str, Images], relation: str) -> str:
        """Say how many images there are, and name the first pairs; `what` links the two splits."""
        ours, theirs = splits[self.first], splits[self.second]
        named = [
            f"{image_name(theirs, b)} and {image_name(ours, a)}"
            for a, b in self.places[:MAX_PAIRS_NAMED].tolist()
        ]
        more = len(self.places) - len(named)
        rest = f", and {more:,} more" if more else ""
        return (
            f"{len(self.places):,} of {len(theirs):,} {self.second} images {relation} a "
            f"{self.first} image: {', '.join(named)}{rest}"
        )


def image_name(images: Images, place: int) -> str:
    """The name of an image's file, or its key where it has no file of its own."""
    if images.names is not None:
        return str(images.names[place])
    return f"key {int(images.keys[place])}"


class Copies(NamedTuple):
    """What `find_copies` found; only pairs of splits that share images are listed."""

    same: list[CopyPairs]
    """Images with the same pixels."""

    similar: list[CopyPairs]
    """Other images with nearly the same difference hash and gray values."""

    contrary: dict[str, Places]
    """For each split, int64 `[K, 2]`, places of images with the same pixels and different labels;
    each image at most once as the second."""


def find_copies(splits: Mapping[str, Images]) -> Copies:
    """Compare all images of all splits, in one pass over their pixels.

    Images with the same pixels have the same difference hash, so only images whose hash occurs
    twice are compared exactly. Memory holds 16 bytes for each image.

    Args:
        splits: images of the same size, the splits that are trained on first.

    >>> pixels = torch.arange(3 * 3 * 81).remainder(251).to(torch.uint8).reshape(3, 3, 9, 9)
    >>> column = torch.arange(3)
    >>> train = Images(pixels, column * 0, column, ("a",))
    >>> find_copies({"train": train, "test": train[1:2]}).same[0].places
    array([[1, 0]])
    """
    hashes = {name: difference_hashes(images.images) for name, images in splits.items()}
    exact = _digest_repeated(splits, hashes)
    same, similar = [], []
    for first, second in combinations(splits, 2):
        equal = _first_places(exact[first], exact[second])
        if len(equal):
            same.append(CopyPairs(first, second, equal))
        near = _nearest_hashes(hashes[first], hashes[second])
        near = near[~np.isin(near[:, 1], equal[:, 1])]
        near = near[_correlated(splits[first], splits[second], near)]
        if len(near):
            similar.append(CopyPairs(first, second, near))
    contrary = {name: _conflicting_labels(exact[name], images) for name, images in splits.items()}
    return Copies(same, similar, {name: places for name, places in contrary.items() if len(places)})


def difference_hashes(images: torch.Tensor) -> Hashes:
    """Hash how brightness changes across each image: uint8 `[N, 16]`, 128 bits.

    The difference hash (Krawetz 2013, "Kind of Like That"), along rows and along columns. An image
    is averaged to 9 x 9 gray cells, and a bit says whether a cell is darker than the next one.
    Resizing, compression and changes of brightness and contrast leave most bits as they are.

    Args:
        images: uint8 `[N, 3, H, W]`.

    >>> ramp = torch.arange(9).repeat(1, 3, 9, 1).to(torch.uint8)
    >>> difference_hashes(torch.cat([ramp, ramp + 9, 200 - ramp]))[:, [0, 8]].tolist()
    [[255, 0], [255, 0], [0, 0]]
    """
    step = max(min(images.shape[-2:]) // SAMPLES, 1)
    hashes = []
    for chunk in _chunks(images):
        # Whole numbers, so that the same pixels give the same bits wherever they stand.
        gray = chunk.numpy()[:, :, ::step, ::step].sum(axis=1, dtype=np.int16, keepdims=True)
        cells = F.adaptive_avg_pool2d(torch.from_numpy(gray).float(), GRID)[:, 0]
        along = cells[:, :-1, :-1] < cells[:, :-1, 1:]
        down = cells[:, :-1, :-1] < cells[:, 1:, :-1]
        hashes.append(np.packbits(torch.stack([along, down], 1).flatten(1).numpy(), axis=1))
    return np.concatenate(hashes) if hashes else np.zeros((0, 16), dtype=np.uint8)


def _digest_repeated(
    splits: Mapping[str, Images], hashes: Mapping[str, Hashes]
) -> dict[str, npt.NDArray[np.void]]:
    """A digest of the pixels of each image whose hash occurs twice; zeros for the others."""
    every = np.concatenate([_as_rows(values) for values in hashes.values()])
    _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    repeated = counts[inverse] > 1
    digests_of, start = {}, 0
    for name, images in splits.items():
        digests = np.zeros((len(images), 16), dtype=np.uint8)
        for place in np.flatnonzero(repeated[start : start + len(images)]):
            pixels = images.images[int(place)].contiguous().numpy()
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
            digests[place] = np.frombuffer(digest, dtype=np.uint8)
        digests_of[name] = _as_rows(digests)
        start += len(images)
    return digests_of


def _as_rows(values: Hashes) -> npt.NDArray[np.void]:
    """Each row as one value, which can be sorted and compared."""
    return np.ascontiguousarray(values).view("V16").reshape(-1)


def _first_places(first: npt.NDArray[np.void], second: npt.NDArray[np.void]) -> Places:
    """For each digest of `second` that stands in `first`, its first place there and its own."""
    known, places = np.unique(first, return_index=True)
    at = np.searchsorted(known, second).clip(max=len(known) - 1)
    matches = (known[at] == second) & (second != np.zeros(1, dtype="V16"))
    return np.stack([places[at[matches]], np.flatnonzero(matches)], axis=1)


def _conflicting_labels(exact: npt.NDArray[np.void], images: Images) -> Places:
    """Places of images with the same pixels, the first and each with another label than it."""
    pairs = _first_places(exact, exact)
    labels = np.atleast_2d(images.labels.numpy().T).T  # [N, 1], or several of each image
    return pairs[(labels[pairs[:, 0]] != labels[pairs[:, 1]]).any(axis=1)]


def _nearest_hashes(first: Hashes, second: Hashes) -> Places:
    """For each hash of `second`, the nearest one in `first`, if one is near."""
    candidates = [np.zeros((0, 3), dtype=np.int64)]
    ours, theirs = (np.flatnonzero(_set_bits(hashes) >= MIN_BITS_SET) for hashes in (first, second))
    # Hashes that differ in two bits have one of three bands in common.
    for band in np.array_split(np.arange(16), BANDS):
        for a_rows, b_rows in _equal_rows(first[ours][:, band], second[theirs][:, band]):
            a, b = ours[a_rows], theirs[b_rows]
            different = _set_bits(first[a] ^ second[b])
            near = different <= MAX_DIFFERENT_BITS
            candidates.append(np.stack([a[near], b[near], different[near]], axis=1))
    pairs = np.concatenate(candidates)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 2], pairs[:, 1]))]
    return pairs[np.unique(pairs[:, 1], return_index=True)[1], :2]


def _correlated(first: Images, second: Images, pairs: Places) -> BoolArray:
    """bool `[K]`: do the gray values of each pair correlate, whatever brightness and contrast."""
    similar = np.zeros(len(pairs), dtype=np.bool_)
    for row, (a, b) in enumerate(pairs.tolist()):
        both = torch.stack([first.images[a], second.images[b]]).sum(1, dtype=torch.int32)
        similar[row] = float(torch.corrcoef(both.flatten(1).double())[0, 1]) >= MIN_CORRELATION
    return similar


def _equal_rows(first: Hashes, second: Hashes) -> Iterator[tuple[Places, Places]]:
    """Places of equal rows, some pairs at a time."""
    padded = [np.pad(rows, ((0, 0), (0, 8 - rows.shape[1]))) for rows in (first, second)]
    a, b = (np.ascontiguousarray(rows).view(np.uint64).reshape(-1) for rows in padded)
    order = np.argsort(a, kind="stable")
    low, high = (np.searchsorted(a[order], b, side=side) for side in ("left", "right"))
    counts = np.where(high - low > MAX_ALIKE, 0, high - low)
    rest = np.flatnonzero(counts)
    for offset in range(int(counts.max(initial=0))):
        rest = rest[counts[rest] > offset]
        yield order[low[rest] + offset], rest


def _set_bits(values: Hashes) -> IntArray:
    return np.unpackbits(values, axis=1).sum(axis=1, dtype=np.int64)

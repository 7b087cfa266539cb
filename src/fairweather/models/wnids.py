"""ImageNet's classes by WordNet number: from the names that people use to the numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

WNID = re.compile(r"n\d{8}")
CLASSES = 1000
# Names by place stand for ImageNet's order if this share of them fits: lists differ in a few words.
FITTING = 0.9


class ImageNet(NamedTuple):
    """The 1,000 classes of ILSVRC 2012.

    Attributes:
        wnids: WordNet numbers, sorted, which is the order of published models' outputs.
        synonyms: of each, WordNet's names, normalised, the usual one first.
        whole: from all of a class's names, normalised (`tench, tinca tinca`), to wnids.
        usual: from the first of them, and from torchvision's short names, to wnids.
        other: from any of them to wnids.
    """

    wnids: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    whole: dict[str, frozenset[str]]
    usual: dict[str, frozenset[str]]
    other: dict[str, frozenset[str]]


def normalised(name: str) -> str:
    """Normalise a name: case, underscores, hyphens and surrounding spaces do not matter.

    >>> normalised(" Golden_Retriever "), normalised("T-shirt/top")
    ('golden retriever', 't shirt/top')
    """
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def split_synonyms(name: str) -> tuple[str, ...]:
    """Split a name such as `tench, Tinca tinca` into normalised parts."""
    return tuple(filter(None, map(normalised, name.split(","))))


@cache
def imagenet() -> ImageNet:
    """Read the class names that timm and torchvision contain; nothing is downloaded.

    >>> imagenet().wnids[0], imagenet().synonyms[0]
    ('n01440764', ('tench', 'tinca tinca'))
    """
    from timm.data.imagenet_info import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo()
    wnids = tuple(info.label_names())
    descriptions = info.label_descriptions()
    synonyms = tuple(map(split_synonyms, descriptions))
    short = map(normalised, ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    usual = [{names[0], torchvision} for names, torchvision in zip(synonyms, short, strict=True)]
    return ImageNet(
        wnids,
        synonyms,
        _inverted(wnids, [{normalised(text)} if "," in text else set() for text in descriptions]),
        _inverted(wnids, usual),
        _inverted(wnids, [set(names) for names in synonyms]),
    )


def wnids_of(name: str) -> frozenset[str]:
    """Give the WordNet numbers that a class name may mean.

    A number means itself, and all names of a class together mean the class. Any other name means
    the classes that are usually called so, or else those that it is a synonym of.

    >>> sorted(wnids_of("crane")), sorted(wnids_of("Tinca_tinca")), wnids_of("airliner, or so")
    (['n02012849', 'n03126707'], ['n01440764'], frozenset())
    """
    if WNID.fullmatch(name.strip()):
        return frozenset({name.strip()})
    known, name = imagenet(), normalised(name)
    return known.whole.get(name) or known.usual.get(name) or known.other.get(name) or frozenset()


def class_wnids(names: Sequence[str]) -> list[frozenset[str]]:
    """Give the WordNet numbers of each class of a model or a data set.

    If the names are those of ImageNet in its order, perhaps with a background class before or
    after them, the position decides which of the two classes called crane is meant.
    """
    found = [wnids_of(name) for name in names]
    if len(names) not in (CLASSES, CLASSES + 1):
        return found
    wnids = imagenet().wnids
    for start in range(len(names) - CLASSES + 1):
        places = range(start, start + CLASSES)
        fitting = sum(wnid in found[place] for place, wnid in zip(places, wnids, strict=True))
        if fitting < FITTING * CLASSES:
            continue
        for place, wnid in zip(places, wnids, strict=True):
            if wnid in found[place] or not found[place]:
                found[place] = frozenset({wnid})
    return found


def _inverted(wnids: Sequence[str], names: Sequence[set[str]]) -> dict[str, frozenset[str]]:
    inverted: dict[str, set[str]] = {}
    for wnid, own in zip(wnids, names, strict=True):
        for name in own:
            inverted.setdefault(name, set()).add(wnid)
    return {name: frozenset(meant) for name, meant in inverted.items()}

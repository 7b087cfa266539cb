"""Names of classes, synonyms, ImageNet's WordNet numbers, and finding the outputs for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from typing import NamedTuple

from fairweather.data.natural_sets import IMAGENET_CLASSES, read_wnids
from fairweather.errors import InputError

WNID = re.compile(r"n\d{8}")
# Names are taken for ImageNet's in order if this share of them fits, since lists differ in a few
# words.
LEAST_MATCHING = 0.9


class ImageNet(NamedTuple):
    """The 1,000 classes of ILSVRC 2012."""

    wnids: tuple[str, ...]
    """WordNet numbers, sorted, which is the order of published models' outputs."""

    synonyms: dict[str, tuple[str, ...]]
    """Of each, WordNet's names, normalised, the usual one first."""

    meanings: tuple[dict[str, frozenset[str]], ...]
    """From names, normalised, to wnids: first from all of a class's names (`tench, tinca tinca`);
    then from the first of them, and from torchvision's short names; then from any of them."""


def normalise_name(name: str) -> str:
    """Normalise a name: case, underscores, hyphens and surrounding spaces do not matter.

    >>> normalise_name(" Golden_Retriever "), normalise_name("T-shirt/top")
    ('golden retriever', 't shirt/top')
    """
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def split_synonyms(name: str) -> tuple[str, ...]:
    """Split a name such as `tench, Tinca tinca` into normalised parts."""
    return tuple(filter(None, map(normalise_name, name.split(","))))


@cache
def read_imagenet() -> ImageNet:
    """Read the class names that timm and torchvision contain; nothing is downloaded.

    >>> read_imagenet().wnids[0], read_imagenet().synonyms["n01440764"]
    ('n01440764', ('tench', 'tinca tinca'))
    """
    from timm.data.imagenet_info import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo()
    wnids = read_wnids()
    descriptions = info.label_descriptions()
    synonyms = tuple(map(split_synonyms, descriptions))
    short = map(normalise_name, ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    usual = [{names[0], torchvision} for names, torchvision in zip(synonyms, short, strict=True)]
    whole = [{normalise_name(text)} if "," in text else set() for text in descriptions]

    def by_name(names: Iterable[Iterable[str]]) -> dict[str, frozenset[str]]:
        places = _index_places(names)
        return {
            name: frozenset(wnids[place] for place in members) for name, members in places.items()
        }

    meanings = tuple(map(by_name, (whole, usual, synonyms)))
    return ImageNet(wnids, dict(zip(wnids, synonyms, strict=True)), meanings)


def find_wnids(name: str) -> frozenset[str]:
    """Give the WordNet numbers that a class name may mean.

    A number means itself, and all names of a class together mean the class. Any other name means
    the classes that are usually called so, or else those that it is a synonym of.

    >>> sorted(find_wnids("crane")), sorted(find_wnids("Tinca_tinca"))
    (['n02012849', 'n03126707'], ['n01440764'])
    >>> find_wnids("airliner, or so")
    frozenset()
    """
    if WNID.fullmatch(name.strip()):
        return frozenset({name.strip()})
    name = normalise_name(name)
    meanings = (by_name[name] for by_name in read_imagenet().meanings if name in by_name)
    return next(meanings, frozenset())


def find_class_wnids(names: Sequence[str]) -> list[frozenset[str]]:
    """Give the WordNet numbers of each class of a model or a data set.

    If the names are those of ImageNet in its order, perhaps with a background class before or
    after them, the position decides which of the two classes called crane is meant.
    """
    meanings = [find_wnids(name) for name in names]
    if len(names) not in (IMAGENET_CLASSES, IMAGENET_CLASSES + 1):
        return meanings
    wnids = read_imagenet().wnids
    for start in range(len(names) - IMAGENET_CLASSES + 1):
        places = range(start, start + IMAGENET_CLASSES)
        fitting = sum(wnid in meanings[place] for place, wnid in zip(places, wnids, strict=True))
        if fitting < LEAST_MATCHING * IMAGENET_CLASSES:
            continue
        for place, wnid in zip(places, wnids, strict=True):
            if wnid in meanings[place] or not meanings[place]:
                meanings[place] = frozenset({wnid})
    return meanings


def _index_places(names: Iterable[Iterable[str]]) -> dict[str, list[int]]:
    """The places of each name in lists of names."""
    places: dict[str, list[int]] = {}
    for place, synonyms in enumerate(names):
        for name in dict.fromkeys(synonyms):
            places.setdefault(name, []).append(place)
    return places


# ---------------------------------------------------------------- outputs by name


class OutputMatch(NamedTuple):
    """The output for a name."""

    output: int
    matched_by: str
    """How it was found: `name`, `synonym`, `wnid` or `ImageNet's names`."""


class OutputNames:
    """The class names of a model, for look-ups."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._exact = _index_places([name] for name in names)
        self._normalised = _index_places([normalise_name(name)] for name in names)
        self._synonyms = _index_places(map(split_synonyms, names))

    @cached_property
    def wnids(self) -> list[frozenset[str]]:
        """The WordNet numbers of each class; ImageNet's names take seconds to read."""
        return find_class_wnids(self.names)

    @cached_property
    def _by_wnid(self) -> dict[str, list[int]]:
        return _index_places(self.wnids)

    def find_all(self, names: Sequence[str]) -> list[OutputMatch | None]:
        """Find the output of each class of a data set."""
        exact = [self._exact.get(name, []) for name in names]
        if all(len(places) == 1 for places in exact):
            return [OutputMatch(places[0], "name") for places in exact]
        return [self.find(*pair) for pair in zip(names, find_class_wnids(names), strict=True)]

    def find(self, name: str, wnids: frozenset[str]) -> OutputMatch | None:
        """Find the output of a class; None if there is none.

        Args:
            name: matched exactly, then without regard to case, underscores and hyphens, then with
                the parts of names such as `tench, Tinca tinca`.
            wnids: WordNet numbers that the name may mean (`find_class_wnids`).

        Raises:
            InputError: it may be one of several outputs.
        """
        stages = (
            (self._exact.get(name, []), "name"),
            (self._normalised.get(normalise_name(name), []), "name"),
            (self._synonyms.get(normalise_name(name), []), "synonym"),
        )
        for places, matched_by in stages:
            if len(places) == 1:
                return OutputMatch(places[0], matched_by)
        places = sorted({place for wnid in wnids for place in self._by_wnid.get(wnid, [])})
        meant = wnids.union(*(self.wnids[place] for place in places))
        if len(places) == 1 and len(meant) == 1:
            is_wnid = WNID.fullmatch(name.strip())
            return OutputMatch(places[0], "wnid" if is_wnid else "ImageNet's names")
        if candidates := places or stages[1][0] or stages[2][0]:
            raise self._ambiguous(name, candidates, meant)
        return None

    def known(self) -> list[str]:
        """List the names that outputs have, for the closest name in an error."""
        synonyms = read_imagenet().synonyms
        return [*self.names, *(synonyms[name][0] for name in self.names if name in synonyms)]

    def _ambiguous(self, name: str, places: Sequence[int], wnids: frozenset[str]) -> InputError:
        if len(wnids) > 1:
            synonyms = read_imagenet().synonyms
            meanings = [f"{wnid} ({synonyms.get(wnid, ('?',))[0]})" for wnid in sorted(wnids)]
        else:
            meanings = [f"output {place} ({self.names[place]!r})" for place in places]
        return InputError(
            f"the class {name!r} may be {' or '.join(meanings)}: give classes the names of wnids, "
            "or say which output each one is with --class-map FILE"
        )

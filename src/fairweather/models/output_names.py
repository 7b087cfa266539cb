"""Find the output of a model for a class name: by the name, its synonyms, or its wnid."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from fairweather.errors import InputError
from fairweather.models.wnids import WNID, class_wnids, imagenet, normalised, split_synonyms


class Found(NamedTuple):
    """The output for a name, and how it was found: by `name`, `synonym`, `wnid`, ..."""

    output: int
    by: str


class OutputNames:
    """The class names of a model, for look-ups."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.wnids = class_wnids(names)
        self._exact = _places((name, [place]) for place, name in enumerate(names))
        self._normalised = _places((normalised(name), [place]) for place, name in enumerate(names))
        self._synonyms = _places(
            (synonym, [place])
            for place, name in enumerate(names)
            for synonym in dict.fromkeys(split_synonyms(name))
        )
        self._by_wnid = _places(
            (wnid, [place]) for place, wnids in enumerate(self.wnids) for wnid in wnids
        )

    def find(self, name: str, wnids: frozenset[str]) -> Found | None:
        """Find the output of a class; None if there is none.

        Args:
            name: matched exactly, then without regard to case, underscores and hyphens, then with
                the parts of names such as `tench, Tinca tinca`.
            wnids: WordNet numbers that the name may mean (`class_wnids`).

        Raises:
            InputError: it may be one of several outputs.
        """
        stages = (
            (self._exact.get(name, []), "name"),
            (self._normalised.get(normalised(name), []), "name"),
            (self._synonyms.get(normalised(name), []), "synonym"),
        )
        for places, by in stages:
            if len(places) == 1:
                return Found(places[0], by)
        places = sorted({place for wnid in wnids for place in self._by_wnid.get(wnid, [])})
        meant = wnids.union(*(self.wnids[place] for place in places))
        if len(places) == 1 and len(meant) == 1:
            return Found(places[0], "wnid" if WNID.fullmatch(name.strip()) else "ImageNet's names")
        if places or stages[0][0] or stages[1][0] or stages[2][0]:
            raise self._ambiguous(name, places or stages[1][0] or stages[2][0], meant)
        return None

    def known(self) -> list[str]:
        """List the names that outputs have, for the closest name in an error."""
        synonyms = dict(zip(imagenet().wnids, imagenet().synonyms, strict=True))
        numbers = [name for name in self.names if WNID.fullmatch(name)]
        usual = [synonyms[number][0] for number in numbers if number in synonyms]
        return [*self.names, *usual]

    def _ambiguous(self, name: str, places: Sequence[int], wnids: frozenset[str]) -> InputError:
        if len(wnids) > 1:
            synonyms = dict(zip(imagenet().wnids, imagenet().synonyms, strict=True))
            meanings = [f"{wnid} ({synonyms.get(wnid, ('?',))[0]})" for wnid in sorted(wnids)]
        else:
            meanings = [f"output {place} ({self.names[place]!r})" for place in places]
        return InputError(
            f"the class {name!r} may be {' or '.join(meanings)}: give classes the names of wnids, "
            "or say which output each one is with --labels FILE"
        )


def _places(pairs: Iterable[tuple[Hashable, list[int]]]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for key, place in pairs:
        found.setdefault(key, []).extend(place)
    return found
